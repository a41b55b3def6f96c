#include "labels.h"

#include <string.h>

/* Of topics, sums are added up four at a time. */
#define AT_ONCE_TOPICS 4
#define MOST_SUMS (1 + MOST_TOPICS)

Sums *sums_new(const Weights *weights) {
    Sums *sums = PyMem_RawCalloc(1, sizeof *sums);
    if (!sums) return NULL;
    const size_t n_topics = (size_t)weights->topics.width;
    sums->step = (weights->topics.width + AT_ONCE_TOPICS) / AT_ONCE_TOPICS * AT_ONCE_TOPICS;
    const size_t bytes = (size_t)sums->step * sizeof(double);
    sums->reader = reader_new(weights->vocabulary);
    sums->of_topics = large_new(CACHED_CHUNKS * bytes);
    if (weights->sides) sums->of_sides = large_new(n_topics * CACHED_CHUNKS * N_SIDES * sizeof(double));
    if (!sums->reader || !sums->of_topics || (weights->sides && !sums->of_sides)) {
        sums_free(sums);
        return NULL;
    }
    sums->reader->beside = (const char *)sums->of_topics;
    sums->reader->beside_step = (Py_ssize_t)bytes;
    return sums;
}

void sums_free(Sums *sums) {
    if (sums->reader) reader_free(sums->reader);
    free(sums->of_topics);
    free(sums->of_sides);
    PyMem_RawFree(sums->block);
    PyMem_RawFree(sums);
}

/* Room for a text: at most four n-grams of characters a letter, half as many that occur twice, a word and a bigram for
 * every two letters, and a chunk for every two. One more of what is written before it is known to stay. */
static int sums_reserve(Sums *sums, Py_ssize_t length) {
    if (sums->block && length <= sums->size) return 0;
    PyMem_RawFree(sums->block);
    const size_t n = (size_t)length + 2;
    sums->size = length;
    sums->block = PyMem_RawMalloc(n * ((3 + 3 * N_SIDES) * sizeof(double) + 18 * sizeof(int32_t)));
    if (!sums->block) return -1;
    sums->word_value = sums->block;
    sums->lack = sums->word_value + n;
    sums->each = sums->lack + 2 * n;
    sums->parts = sums->each + 2 * N_SIDES * n;
    sums->word = (int32_t *)(sums->parts + N_SIDES * n);
    sums->word_chunk = sums->word + n;
    sums->gram = sums->word_chunk + 2 * n;
    sums->gram_chunk = sums->gram + 4 * n;
    sums->repeated = sums->gram_chunk + 4 * n;
    sums->again = sums->repeated + 2 * n;
    sums->again_end = sums->again + 4 * n;
    return 0;
}

/* Count an occurrence of each column. Without a branch: which occur again cannot be foretold. */
static inline void count(Sums *sums, const int32_t *columns, Py_ssize_t n) {
    uint32_t *places = sums->reader->places;
    const uint32_t base = sums->reader->base;
    int32_t *repeated = sums->repeated;
    Py_ssize_t n_repeated = sums->n_repeated;
    for (Py_ssize_t i = 0; i < n; i++) {
        const uint32_t before = places[columns[i]], place = (before > base ? before : base) + 1;
        places[columns[i]] = place;
        repeated[n_repeated] = columns[i];
        n_repeated += place == base + 2;
    }
    sums->n_repeated = n_repeated;
}

static inline uint32_t times(const Sums *sums, int32_t column) {
    return sums->reader->places[column] - sums->reader->base;
}

/* Where sums are kept by the topics' weights, for 0, or by a topic's sides, for 1 + topic. */
static inline double *kept_of(const Sums *sums, Piece piece, Py_ssize_t which) {
    return which ? sums->of_sides + ((which - 1) * CACHED_CHUNKS + piece.slot) * N_SIDES
                 : sums->of_topics + piece.slot * sums->step;
}

/* What is kept there of a chunk. */
static inline const double *sums_of(Sums *sums, const Weights *weights, Piece piece, Chunk *chunk,
                                    Py_ssize_t which) {
    double *found = kept_of(sums, piece, which);
    const uint64_t bit = (uint64_t)1 << which;
    if (!(chunk->kept & bit)) {
        double values[CACHED_GRAMS], norm = 0.0;
        for (int i = 0; i < chunk->n_grams; i++) {
            values[i] = weights->vocabulary->idf[grams_of(chunk)[i]];
            norm += values[i] * values[i];
        }
        memset(found, 0, (size_t)(which ? N_SIDES : sums->step) * sizeof *found);
        if (!which) found[0] = norm;
        add_products(grams_of(chunk), values, chunk->n_grams, which ? &weights->sides[which - 1] : &weights->topics,
                     which ? found : found + 1);
        chunk->kept |= bit;
    }
    return found;
}

static inline void list_word(Sums *sums, int32_t column, Py_ssize_t first_chunk, Py_ssize_t second_chunk) {
    if (column == MISSING) return;
    uint32_t *place = &sums->reader->places[column];
    *place = (*place > sums->reader->base ? *place : sums->reader->base) + 1;
    sums->word[sums->n_words] = column;
    sums->word_chunk[2 * sums->n_words] = (int32_t)first_chunk;
    sums->word_chunk[2 * sums->n_words + 1] = (int32_t)second_chunk;
    sums->n_words++;
}

/* List the words of a piece, count its n-grams and add their sums, the square norm first. */
static void sum_piece(Sums *sums, const Weights *weights, Py_ssize_t place, double *total) {
    Reader *reader = sums->reader;
    const Vocabulary *vocabulary = weights->vocabulary;
    const Piece piece = reader->pieces[place];
    if (piece.length <= CACHED_LETTERS) {
        Chunk *chunk = reader_chunk(vocabulary, reader, piece);
        const double *known = sums_of(sums, weights, piece, chunk, 0);
        for (int i = 0; i < chunk->n_words; i++)
            list_word(sums, reader_word(vocabulary, reader, words_of(chunk)[i], place), place, place);
        count(sums, grams_of(chunk), chunk->n_grams);
        for (Py_ssize_t t = 0; t < sums->step; t += AT_ONCE_TOPICS)
            for (int k = 0; k < AT_ONCE_TOPICS; k++) total[t + k] += known[t + k];
        return;
    }
    const Py_UCS4 *letters = reader->letters + piece.start;
    for (Py_ssize_t start = 0, end; next_word(letters, piece.length, &start, &end); start = end) {
        const int32_t word = word_table_get(&vocabulary->words, letters + start, (size_t)(end - start));
        list_word(sums, reader_word(vocabulary, reader, word, place), place, place);
    }
    int32_t *grams = sums->gram + sums->n_grams;
    const Py_ssize_t n = find_grams(&vocabulary->grams, letters - 1, piece.length + 2, grams);
    count(sums, grams, n);
    for (Py_ssize_t i = 0; i < n; i++) {
        const double idf = vocabulary->idf[grams[i]];
        total[0] += idf * idf;
        sums->gram_chunk[sums->n_grams++] = (int32_t)place;
    }
}

static double inverse_root(double square) { return square > 0.0 ? 1.0 / sqrt(square) : 0.0; }

static void list_bigrams(Sums *sums, const Vocabulary *vocabulary) {
    for (Py_ssize_t i = 0; i < sums->reader->n_couples; i++) {
        const Couple couple = sums->reader->couples[i];
        const int32_t column = pair_table_get(&vocabulary->pairs, couple.first, couple.second);
        list_word(sums, column, couple.first_chunk, couple.second_chunk);
    }
}

static void weigh_words(Sums *sums, const Vocabulary *vocabulary) {
    double norm = 0.0;
    for (Py_ssize_t i = 0; i < sums->n_words; i++) {
        const uint32_t n = times(sums, sums->word[i]);
        const double value = weight_of_count(vocabulary, n) * vocabulary->idf[sums->word[i]];
        norm += value * value / n;
        sums->word_value[i] = value / n;
    }
    const double by_word = inverse_root(norm);
    for (Py_ssize_t i = 0; i < sums->n_words; i++) sums->word_value[i] *= by_word;
}

/* Add what is not summed chunk by chunk; the square norm stands first. */
static void weigh_grams(Sums *sums, const Weights *weights, double *total) {
    for (Py_ssize_t i = 0; i < sums->n_grams; i++) sums->each[i] = weights->vocabulary->idf[sums->gram[i]];
    add_products(sums->gram, sums->each, sums->n_grams, &weights->topics, total + 1);
    for (Py_ssize_t k = 0; k < sums->n_repeated; k++) {
        const uint32_t n = times(sums, sums->repeated[k]);
        const double tf = weight_of_count(weights->vocabulary, n), idf = weights->vocabulary->idf[sums->repeated[k]];
        sums->lack[k] = (tf / n - 1.0) * idf;
        sums->each[k] = (tf - n) * idf;
        total[0] += (tf * tf - n) * idf * idf;
    }
    add_products(sums->repeated, sums->each, sums->n_repeated, &weights->topics, total + 1);
    sums->by_char = inverse_root(total[0]);
}

int sum_text(Sums *sums, const Weights *weights, Letters text, double *logits) {
    Reader *reader = sums->reader;
    const Py_ssize_t n_topics = weights->topics.width;
    double total[MOST_SUMS] = {0.0}, of_word[MOST_TOPICS] = {0.0};
    reader->base += sums->used;
    sums->used = 0;
    if (reader_reserve(reader, text.length) || sums_reserve(sums, text.length)) return -1;
    /* Counts, and then the places of what occurs more than once. */
    sums->used = (uint32_t)(2 * ENTRIES_PER_LETTER * text.length);
    sums->n_words = sums->n_grams = sums->n_repeated = 0;
    sums->knows_again = 0;
    sums->n_chunks = reader_split(reader, text);
    for (Py_ssize_t i = 0; i < sums->n_chunks; i++) sum_piece(sums, weights, i, total);
    list_bigrams(sums, weights->vocabulary);
    weigh_words(sums, weights->vocabulary);
    add_products(sums->word, sums->word_value, sums->n_words, &weights->topics, of_word);
    weigh_grams(sums, weights, total);
    for (Py_ssize_t t = 0; t < n_topics; t++)
        logits[t] = of_word[t] + sums->by_char * total[1 + t] + weights->topic_bias[t];
    return 0;
}

/* List the occurrences of the columns that occur more than once, whose places are above `mark`. */
static inline Py_ssize_t list_again(Sums *sums, uint32_t mark, const int32_t *columns, Py_ssize_t n,
                                    Py_ssize_t n_again) {
    for (Py_ssize_t i = 0; i < n; i++) {
        const uint32_t place = sums->reader->places[columns[i]];
        sums->again[n_again] = (int32_t)(place - mark - 1);
        n_again += place > mark;
    }
    return n_again;
}

static void find_again(Sums *sums, const Weights *weights) {
    Reader *reader = sums->reader;
    const uint32_t mark = reader->base + sums->used / 2;
    Py_ssize_t n_again = 0, first = 0;
    for (Py_ssize_t k = 0; k < sums->n_repeated; k++) reader->places[sums->repeated[k]] = mark + 1 + (uint32_t)k;
    for (Py_ssize_t i = 0; i < sums->n_chunks; i++) {
        const Piece piece = reader->pieces[i];
        if (piece.length <= CACHED_LETTERS) {
            const Chunk *chunk = reader_chunk(weights->vocabulary, reader, piece);
            n_again = list_again(sums, mark, grams_of(chunk), chunk->n_grams, n_again);
        } else {
            Py_ssize_t end = first;
            while (end < sums->n_grams && sums->gram_chunk[end] == i) end++;
            n_again = list_again(sums, mark, sums->gram + first, end - first, n_again);
            first = end;
        }
        sums->again_end[i] = (int32_t)n_again;
    }
    sums->knows_again = 1;
}

/* Add `value` times a row of weights. */
static inline void add_row(double *onto, double value, const float *weights, int width) {
    for (int t = 0; t < width; t++) onto[t] += value * weights[t];
}

/* What each chunk adds to the products with `width` columns of a matrix: `parts` of shape (n_chunks, width). What is
 * kept of a chunk by these weights has them from `offset` on. */
static inline void find_parts(Sums *sums, const Weights *weights, Py_ssize_t which, const Matrix *matrix,
                              Py_ssize_t offset, int width) {
    Reader *reader = sums->reader;
    double *parts = sums->parts, *each = sums->each;
    /* What is needed last lies farthest apart. */
    for (Py_ssize_t i = 0; i < sums->n_words; i++) PREFETCH(weights_of(matrix, sums->word[i]));
    if (which)
        for (Py_ssize_t i = 0; i < sums->n_chunks; i++) PREFETCH(kept_of(sums, reader->pieces[i], which));
    if (!sums->knows_again) find_again(sums, weights);
    for (Py_ssize_t k = 0; k < sums->n_repeated; k++) {
        prefetch(sums->repeated, k, sums->n_repeated, matrix);
        const float *row = weights_of(matrix, sums->repeated[k]);
        for (int t = 0; t < width; t++) each[k * width + t] = sums->lack[k] * row[t];
    }
    for (Py_ssize_t i = 0, at = 0, gram = 0; i < sums->n_chunks; i++) {
        double held[N_SIDES] = {0.0};
        const Piece piece = reader->pieces[i];
        if (piece.length <= CACHED_LETTERS) {
            Chunk *chunk = reader_chunk(weights->vocabulary, reader, piece);
            const double *known = sums_of(sums, weights, piece, chunk, which) + offset;
            for (int t = 0; t < width; t++) held[t] = known[t];
        }
        for (; gram < sums->n_grams && sums->gram_chunk[gram] == i; gram++)
            add_row(held, weights->vocabulary->idf[sums->gram[gram]], weights_of(matrix, sums->gram[gram]), width);
        for (; at < sums->again_end[i]; at++)
            for (int t = 0; t < width; t++) held[t] += each[sums->again[at] * width + t];
        for (int t = 0; t < width; t++) parts[i * width + t] = sums->by_char * held[t];
    }
    for (Py_ssize_t i = 0; i < sums->n_words; i++) {
        const float *row = weights_of(matrix, sums->word[i]);
        for (int k = 0; k < 2; k++)
            add_row(parts + sums->word_chunk[2 * i + k] * width, 0.5 * sums->word_value[i], row, width);
    }
}

void share_topic(Sums *sums, const Weights *weights, Py_ssize_t topic, double *shares) {
    int width = N_SIDES;
    if (weights->sides)
        find_parts(sums, weights, 1 + topic, &weights->sides[topic], 0, N_SIDES);
    else {
        Matrix own = weights->topics;
        own.first += topic * own.step;
        own.width = width = 1;
        find_parts(sums, weights, 0, &own, 1 + topic, 1);
    }
    for (Py_ssize_t i = 0; i < sums->n_chunks; i++) shares[i] = sums->parts[i * width];
}

int share_stance(Sums *sums, const Weights *weights, Py_ssize_t topic, double *logits, double *shares) {
    double mean = 0.0;
    for (int t = 0; t < N_STANCES; t++) logits[t] = weights->stance_bias[topic * N_STANCES + t];
    for (Py_ssize_t i = 0; i < sums->n_chunks; i++)
        for (int t = 0; t < N_STANCES; t++) logits[t] += sums->parts[i * N_SIDES + 1 + t];
    for (int t = 0; t < N_STANCES; t++) mean += logits[t] / N_STANCES;
    int best = 0;
    for (int t = 0; t < N_STANCES; t++) {
        logits[t] -= mean;
        if (logits[t] > logits[best]) best = t;
    }
    for (Py_ssize_t i = 0; i < sums->n_chunks; i++) {
        const double *part = sums->parts + i * N_SIDES + 1;
        shares[i] = part[best] - (part[0] + part[1] + part[2]) / N_STANCES;
    }
    return best;
}
