#include "products.h"

#include <string.h>

/* Far enough ahead for a row of weights to arrive from memory before it is needed. */
#define AHEAD 12
#define TILE 16

static inline void prefetch(const int32_t *columns, Py_ssize_t at, Py_ssize_t n, const Matrix *matrix) {
    if (at + AHEAD < n) {
        const char *weights = (const char *)weights_of(matrix, columns[at + AHEAD]);
        PREFETCH(weights);
        PREFETCH(weights + matrix->step * (matrix->width - 1));
    }
}

/* Products with `width` neighbouring columns from `first` on; where the width is a constant the sums stay in registers.
 */
static inline void add_tile(const int32_t *columns, const double *values, Py_ssize_t n, const Matrix *matrix,
                            Py_ssize_t first, int width, double *sums) {
    double held[TILE] = {0.0};
    for (Py_ssize_t i = 0; i < n; i++) {
        prefetch(columns, i, n, matrix);
        const float *weights = weights_of(matrix, columns[i]) + first;
        const double value = values[i];
        for (int t = 0; t < width; t++) held[t] += value * weights[t];
    }
    for (int t = 0; t < width; t++) sums[t] += held[t];
}

void add_products(const int32_t *columns, const double *values, Py_ssize_t n, const Matrix *matrix, double *sums) {
    const Py_ssize_t width = matrix->width;
    if (matrix->step != sizeof(float)) {
        for (Py_ssize_t i = 0; i < n; i++) {
            const char *weights = (const char *)weights_of(matrix, columns[i]);
            for (Py_ssize_t t = 0; t < width; t++) sums[t] += values[i] * *(const float *)(weights + t * matrix->step);
        }
        return;
    }
    Py_ssize_t first = 0;
    for (; first + TILE <= width; first += TILE) add_tile(columns, values, n, matrix, first, TILE, sums + first);
#define REST(rest) \
    case rest: \
        add_tile(columns, values, n, matrix, first, rest, sums + first); \
        break;
    switch (width - first) {
        REST(1) REST(2) REST(3) REST(4) REST(5) REST(6) REST(7) REST(8) REST(9) REST(10) REST(11) REST(12) REST(13)
        REST(14) REST(15)
    }
#undef REST
}

/* Each entry's product with matrix @ factors, for one of its occurrences. */
static inline void weigh_each(const Row *row, const Matrix *matrix, const double *factors, Py_ssize_t width,
                              double *each) {
    for (Py_ssize_t i = 0; i < row->n; i++) {
        prefetch(row->column, i, row->n, matrix);
        const char *weights = (const char *)weights_of(matrix, row->column[i]);
        double sum = 0.0;
        for (Py_ssize_t t = 0; t < width; t++) sum += factors[t] * *(const float *)(weights + t * matrix->step);
        each[i] = row->value[i] * sum / row->count[i];
    }
}

void find_shares(const Row *row, const Matrix *matrix, const double *factors, double *each, double *shares) {
    switch (matrix->width) {
        case 1: weigh_each(row, matrix, factors, 1, each); break;
        case 3: weigh_each(row, matrix, factors, 3, each); break;
        default: weigh_each(row, matrix, factors, matrix->width, each);
    }
    Py_ssize_t at = 0;
    for (Py_ssize_t chunk = 0; chunk < row->n_chunks; chunk++) {
        /* Two sums, so that neither addition waits for the one before. */
        double even = 0.0, odd = 0.0;
        const Py_ssize_t end = row->chunk_end[chunk];
        for (; at + 1 < end; at += 2) {
            even += each[row->occurrence[at]];
            odd += each[row->occurrence[at + 1]];
        }
        if (at < end) even += each[row->occurrence[at++]];
        shares[chunk] = even + odd;
    }
    for (Py_ssize_t i = 0; i < row->n_halves; i++) {
        const double half = 0.5 * each[row->half[i]];
        shares[row->half_chunk[2 * i]] += half;
        shares[row->half_chunk[2 * i + 1]] += half;
    }
}

/* Have room for the sums of a matrix and the columns of a text. */
static int sums_reserve(Reader *reader, const Matrix *matrix, Py_ssize_t length) {
    Sums *sums = &reader->sums;
    sums->step = matrix->width + 1;
    if (!sums->sums) sums->sums = PyMem_RawMalloc(CACHED_CHUNKS * (size_t)sums->step * sizeof *sums->sums);
    if (!sums->column || length > sums->size) {
        PyMem_RawFree(sums->column);
        PyMem_RawFree(sums->value);
        /* Four n-grams a letter where they are not summed, half as many again that occur twice, and words. */
        sums->column = PyMem_RawMalloc(((size_t)length * 8 + 2) * sizeof *sums->column);
        sums->value = PyMem_RawMalloc(((size_t)length * 8 + 2) * sizeof *sums->value);
        sums->size = length;
    }
    return sums->sums && sums->column && sums->value ? 0 : -1;
}

/* A sum under way, over columns of words or of characters: what occurs but is not summed chunk by chunk from the front
 * of the list, what occurs more than once from `repeated`. */
typedef struct {
    Reader *reader;
    const Matrix *matrix;
    int32_t *column, *repeated;
    double *value, norm;
    Py_ssize_t n, n_repeated;
} Sum;

/* Count an occurrence of each column. Without a branch: which occur again cannot be foretold. */
static inline void count(Sum *sum, const int32_t *columns, Py_ssize_t n) {
    Slot *slots = sum->reader->slots;
    const uint32_t base = sum->reader->base;
    int32_t *repeated = sum->repeated;
    Py_ssize_t n_repeated = sum->n_repeated;
    for (Py_ssize_t i = 0; i < n; i++) {
        Slot *slot = &slots[columns[i]];
        const uint32_t place = (slot->place > base ? slot->place : base) + 1;
        slot->place = place;
        repeated[n_repeated] = columns[i];
        n_repeated += place == base + 2;
    }
    sum->n_repeated = n_repeated;
}

/* Count the columns, and add them one by one. */
static void count_and_add(Sum *sum, const int32_t *columns, Py_ssize_t n) {
    count(sum, columns, n);
    for (Py_ssize_t i = 0; i < n; i++) {
        const double idf = sum->reader->slots[columns[i]].idf;
        sum->column[sum->n] = columns[i];
        sum->value[sum->n++] = idf;
        sum->norm += idf * idf;
    }
}

/* Put right what occurs more than once, and divide by the norm: `sums` holds what was summed chunk by chunk. */
static void finish(const Vocabulary *vocabulary, Sum *sum, double *sums) {
    const Slot *slots = sum->reader->slots;
    for (Py_ssize_t i = 0; i < sum->n_repeated; i++) {
        const Slot slot = slots[sum->repeated[i]];
        const uint32_t times = slot.place - sum->reader->base;
        const double tf = weight_of_count(vocabulary, times), idf = slot.idf;
        sum->column[sum->n] = sum->repeated[i];
        sum->value[sum->n++] = (tf - times) * idf;
        sum->norm += (tf * tf - times) * idf * idf;
    }
    add_products(sum->column, sum->value, sum->n, sum->matrix, sums);
    const double factor = sum->norm > 0.0 ? 1.0 / sqrt(sum->norm) : 0.0;
    for (Py_ssize_t t = 0; t < sum->matrix->width; t++) sums[t] *= factor;
}

static const double *chunk_sums(Reader *reader, const Chunk *chunk, uint32_t slot, const Matrix *matrix) {
    double *sums = reader->sums.sums + slot * reader->sums.step;
    if (!reader->summed[slot]) {
        double values[CACHED_GRAMS];
        memset(sums, 0, (size_t)reader->sums.step * sizeof *sums);
        for (int i = 0; i < chunk->n_grams; i++) {
            values[i] = reader->slots[chunk->grams[i]].idf;
            sums[0] += values[i] * values[i];
        }
        add_products(chunk->grams, values, chunk->n_grams, matrix, sums + 1);
        reader->summed[slot] = 1;
    }
    return sums;
}

static void sum_piece(const Vocabulary *vocabulary, Reader *reader, Py_ssize_t place, Sum *words, Sum *chars,
                      double *sums) {
    const Piece piece = reader->pieces[place];
    if (piece.length <= CACHED_LETTERS) {
        const Chunk *chunk = reader_chunk(vocabulary, reader, piece);
        const double *known = chunk_sums(reader, chunk, piece.slot, chars->matrix);
        for (int i = 0; i < chunk->n_words; i++) {
            const int32_t column = reader_word(vocabulary, reader, chunk->words[i], place);
            if (column != MISSING) count_and_add(words, &column, 1);
        }
        count(chars, chunk->grams, chunk->n_grams);
        chars->norm += known[0];
        for (Py_ssize_t t = 0; t < chars->matrix->width; t++) sums[t] += known[1 + t];
        return;
    }
    const Py_UCS4 *letters = reader->letters + piece.start;
    for (Py_ssize_t start = 0, end; next_word(letters, piece.length, &start, &end); start = end) {
        const int32_t word = word_table_get(&vocabulary->words, letters + start, (size_t)(end - start));
        const int32_t column = reader_word(vocabulary, reader, word, place);
        if (column != MISSING) count_and_add(words, &column, 1);
    }
    /* They lie where they will be listed. */
    int32_t *columns = chars->column + chars->n;
    count_and_add(chars, columns, find_grams(&vocabulary->grams, letters - 1, piece.length + 2, columns));
}

int sum_text(const Vocabulary *vocabulary, Reader *reader, Letters text, const Matrix *matrix, double *sums) {
    if (reader_reserve(reader, text.length) || sums_reserve(reader, matrix, text.length)) return -1;
    /* A word and a bigram take two letters or more; the same again for those that occur more than once. */
    const Py_ssize_t of_words = 2 * text.length;
    int32_t *column = reader->sums.column;
    double *value = reader->sums.value;
    Sum words = {reader, matrix, column, column + text.length, value, 0.0, 0, 0};
    Sum chars = {reader, matrix, column + of_words, column + of_words + 4 * text.length, value + of_words, 0.0, 0, 0};
    double of_word[SUMMED_WIDTH] = {0.0}, of_char[SUMMED_WIDTH] = {0.0};
    const Py_ssize_t n_pieces = reader_split(reader, text);
    for (Py_ssize_t i = 0; i < n_pieces; i++) sum_piece(vocabulary, reader, i, &words, &chars, of_char);
    for (Py_ssize_t i = 0; i < reader->n_couples; i++) {
        const Couple couple = reader->couples[i];
        const int32_t bigram = pair_table_get(&vocabulary->pairs, couple.first, couple.second);
        if (bigram != MISSING) count_and_add(&words, &bigram, 1);
    }
    finish(vocabulary, &words, of_word);
    finish(vocabulary, &chars, of_char);
    for (Py_ssize_t t = 0; t < matrix->width; t++) sums[t] = of_word[t] + of_char[t];
    reader->base += (uint32_t)(ENTRIES_PER_LETTER * text.length);
    return 0;
}
