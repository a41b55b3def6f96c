#include "reader.h"

#include <string.h>

#define AT_ONCE 24

Letters letters_of(PyObject *text) {
    return (Letters){PyUnicode_KIND(text), PyUnicode_DATA(text), PyUnicode_GET_LENGTH(text)};
}

int next_chunk(Letters text, Py_ssize_t *start, Py_ssize_t *end) {
    Py_ssize_t at = *start;
    while (at < text.length && Py_UNICODE_ISSPACE(PyUnicode_READ(text.kind, text.data, at))) at++;
    *start = at;
    while (at < text.length && !Py_UNICODE_ISSPACE(PyUnicode_READ(text.kind, text.data, at))) at++;
    *end = at;
    return *start < at;
}

Reader *reader_new(const Vocabulary *vocabulary) {
    Reader *reader = PyMem_RawCalloc(1, sizeof *reader);
    if (!reader) return NULL;
    reader->places = PyMem_RawCalloc((size_t)vocabulary->size + 1, sizeof *reader->places);
    reader->cache = large_new(CACHED_CHUNKS * sizeof *reader->cache);
    reader->hashes = PyMem_RawCalloc(CACHED_CHUNKS, sizeof *reader->hashes);
    reader->order = PyMem_RawMalloc(CACHED_CHUNKS * sizeof *reader->order);
    if (!reader->places || !reader->cache || !reader->hashes || !reader->order) {
        reader_free(reader);
        return NULL;
    }
    reader->n_places = vocabulary->size;
    memset(reader->cache, 0, CACHED_CHUNKS * sizeof *reader->cache);
    for (int i = 0; i < CACHED_CHUNKS; i++) reader->order[i] = i % NEIGHBOURS;
    return reader;
}

void reader_free(Reader *reader) {
    PyMem_RawFree(reader->places);
    free(reader->cache);
    PyMem_RawFree(reader->hashes);
    PyMem_RawFree(reader->order);
    PyMem_RawFree(reader->letters);
    PyMem_RawFree(reader->pieces);
    PyMem_RawFree(reader->couples);
    PyMem_RawFree(reader);
}

int reader_reserve(Reader *reader, Py_ssize_t length) {
    if (length > INT32_MAX / (2 * ENTRIES_PER_LETTER)) return -1;
    if (reader->base > UINT32_MAX / 2) {
        reader->base = 0;
        memset(reader->places, 0, (size_t)reader->n_places * sizeof *reader->places);
    }
    if (reader->letters && length <= reader->size) return 0;
    PyMem_RawFree(reader->letters);
    PyMem_RawFree(reader->pieces);
    PyMem_RawFree(reader->couples);
    reader->letters = PyMem_RawMalloc(((size_t)length + 2) * sizeof *reader->letters);
    reader->pieces = PyMem_RawMalloc(((size_t)length / 2 + 1) * sizeof *reader->pieces);
    reader->couples = PyMem_RawMalloc(((size_t)length / 2 + 1) * sizeof *reader->couples);
    const int is_whole = reader->letters && reader->pieces && reader->couples;
    reader->size = is_whole ? length : -1;
    return is_whole ? 0 : -1;
}

void row_clear(Row *row) {
    PyMem_RawFree(row->value);
    *row = (Row){0};
}

/* One block of memory for all arrays of a row, enough for any text of that length. */
static int row_reserve(Row *row, Py_ssize_t length) {
    if (row->value && length <= row->size) return 0;
    row_clear(row);
    size_t entries = (size_t)length * ENTRIES_PER_LETTER + 1, chunks = (size_t)length / 2 + 1;
    size_t bytes = entries * (sizeof(double) + 2 * sizeof(int32_t) + sizeof(uint32_t)) +
                   chunks * sizeof(Py_ssize_t) + 2 * (size_t)length * sizeof(int32_t);
    char *block = PyMem_RawMalloc(bytes + sizeof(double));
    if (!block) return -1;
    row->size = length;
    row->value = (double *)block;
    row->chunk_end = (Py_ssize_t *)(row->value + entries);
    row->column = (int32_t *)(row->chunk_end + chunks);
    row->occurrence = row->column + entries;
    row->half = row->occurrence + entries;
    row->half_chunk = row->half + length;
    row->count = (uint32_t *)(row->half_chunk + length);
    return 0;
}

static int is_word_letter(Py_UCS4 letter) { return letter == '_' || Py_UNICODE_ISALNUM(letter); }

int next_word(const Py_UCS4 *letters, Py_ssize_t length, Py_ssize_t *start, Py_ssize_t *end) {
    for (Py_ssize_t at = *start; at < length;) {
        while (at < length && !is_word_letter(letters[at])) at++;
        *start = at;
        while (at < length && is_word_letter(letters[at])) at++;
        *end = at;
        if (at - *start > 1) return 1;
    }
    return 0;
}

/* Add one occurrence of each column. Without a branch: whether a column is new cannot be foretold. The entry after the
 * last is kept at count 0. */
static inline void add_columns(const Reader *reader, Row *row, const int32_t *columns, Py_ssize_t count,
                               int32_t *entries) {
    uint32_t *places = reader->places;
    const uint32_t base = reader->base;
    int32_t *column = row->column, n = (int32_t)row->n;
    uint32_t *counts = row->count;
    for (Py_ssize_t i = 0; i < count; i++) {
        const uint32_t place = places[columns[i]];
        const int is_new = place <= base, entry = is_new ? n : (int32_t)(place - base - 1);
        n += is_new;
        column[entry] = columns[i];
        counts[entry]++;
        counts[n] = 0;
        places[columns[i]] = base + 1 + (uint32_t)entry;
        entries[i] = entry;
    }
    row->n = n;
}

int32_t reader_word(const Vocabulary *vocabulary, Reader *reader, int32_t word, Py_ssize_t chunk) {
    Couple *couple = &reader->couples[reader->n_couples];
    couple->second = word;
    couple->second_chunk = (int32_t)chunk;
    if (couple->first != MISSING && word != MISSING) {
        pair_table_prefetch(&vocabulary->pairs, couple->first, word);
        couple = &reader->couples[++reader->n_couples];
    }
    couple->first = word;
    couple->first_chunk = (int32_t)chunk;
    return word == MISSING ? MISSING : vocabulary->word_column[word];
}

static void add_words(const Vocabulary *vocabulary, Reader *reader, Row *row, const int32_t *words, Py_ssize_t count,
                      Py_ssize_t *n_occurrences) {
    for (Py_ssize_t i = 0; i < count; i++) {
        const int32_t column = reader_word(vocabulary, reader, words[i], row->n_chunks);
        if (column != MISSING) add_columns(reader, row, &column, 1, row->occurrence + (*n_occurrences)++);
    }
}

static void add_couples(const Vocabulary *vocabulary, const Reader *reader, Row *row) {
    for (Py_ssize_t i = 0; i < reader->n_couples; i++) {
        const Couple couple = reader->couples[i];
        const int32_t column = pair_table_get(&vocabulary->pairs, couple.first, couple.second);
        if (column == MISSING) continue;
        add_columns(reader, row, &column, 1, row->half + row->n_halves);
        row->half_chunk[2 * row->n_halves] = couple.first_chunk;
        row->half_chunk[2 * row->n_halves + 1] = couple.second_chunk;
        row->n_halves++;
    }
}

Py_ssize_t find_grams(const GramTable *table, const Py_UCS4 *padded, Py_ssize_t length, int32_t *columns) {
    Py_ssize_t n_found = 0;
    for (int n = 2; n <= MAX_GRAM && n <= length; n++)
        for (Py_ssize_t first = 0, end = length - n + 1; first < end; first += AT_ONCE) {
            /* First all hashes, so that what they lead to comes from memory at once. */
            Py_ssize_t count = end - first < AT_ONCE ? end - first : AT_ONCE;
            GramKey keys[AT_ONCE];
            for (Py_ssize_t i = 0; i < count; i++) keys[i] = gram_key(table, padded + first + i, n);
            for (Py_ssize_t i = 0; i < count; i++) gram_table_prefetch(table, keys[i]);
            for (Py_ssize_t i = 0; i < count; i++) {
                int32_t column = gram_table_get(table, keys[i]);
                columns[n_found] = column;
                n_found += column != MISSING;
            }
        }
    return n_found;
}

static void take_apart(const Vocabulary *vocabulary, const Py_UCS4 *letters, Piece piece, Chunk *chunk) {
    chunk->kept = 0;
    chunk->length = (uint8_t)piece.length;
    chunk->n_words = 0;
    for (Py_ssize_t start = 0, end; next_word(letters, piece.length, &start, &end); start = end)
        chunk->parts[chunk->n_words++] = word_table_get(&vocabulary->words, letters + start, (size_t)(end - start));
    int32_t *grams = chunk->parts + chunk->n_words;
    chunk->n_grams = (uint8_t)find_grams(&vocabulary->grams, letters - 1, piece.length + 2, grams);
    memcpy(grams + chunk->n_grams, letters, (size_t)piece.length * sizeof *letters);
}

Chunk *reader_chunk(const Vocabulary *vocabulary, Reader *reader, Piece piece) {
    Chunk *chunk = &reader->cache[piece.slot];
    const Py_UCS4 *letters = reader->letters + piece.start;
    if (reader->hashes[piece.slot] != piece.hash || chunk->length != piece.length ||
        memcmp(chunk_letters(chunk), letters, (size_t)piece.length * sizeof *letters)) {
        take_apart(vocabulary, letters, piece, chunk);
        reader->hashes[piece.slot] = piece.hash;
    }
    return chunk;
}

/* Where in the cache a chunk is, or where it may come to be. */
static uint32_t choose_slot(Reader *reader, uint32_t hash) {
    const uint32_t first = hash % (CACHED_CHUNKS / NEIGHBOURS) * NEIGHBOURS;
    const uint32_t *hashes = reader->hashes + first;
    uint8_t *order = reader->order + first;
    int at = 0;
    while (at < NEIGHBOURS - 1 && hashes[order[at]] != hash) at++;
    const uint8_t which = order[at];
    for (; at; at--) order[at] = order[at - 1];
    order[0] = which;
    return first + which;
}

Py_ssize_t reader_split(Reader *reader, Letters text) {
    Py_UCS4 *letters = reader->letters;
    Py_ssize_t n_pieces = 0;
    int32_t at = 0;
    reader->n_couples = 0;
    reader->couples[0].first = MISSING;
    letters[at++] = ' ';
    for (Py_ssize_t start = 0, end; next_chunk(text, &start, &end); start = end) {
        Piece *piece = &reader->pieces[n_pieces++];
        *piece = (Piece){(int32_t)start, at, (int32_t)(end - start), 0, 0};
        for (; start < end; start++) letters[at++] = PyUnicode_READ(text.kind, text.data, start);
        letters[at++] = ' ';
        if (piece->length <= CACHED_LETTERS) {
            piece->hash = hash_letters(letters + piece->start, (size_t)piece->length);
            piece->slot = choose_slot(reader, piece->hash);
            const char *chunk = (const char *)&reader->cache[piece->slot];
            PREFETCH(chunk);
            PREFETCH(chunk + 64);
            PREFETCH(chunk + 128);
            if (reader->beside) {
                const char *kept = reader->beside + piece->slot * reader->beside_step;
                PREFETCH(kept);
                PREFETCH(kept + reader->beside_step - 1);
            }
        }
    }
    return n_pieces;
}

/* Sublinear tf times idf, each block divided by its norm. The sums run in the order of the entries, as they do in
 * models/plain.py. */
static void weigh(const Vocabulary *vocabulary, Row *row) {
    double words = 0.0, chars = 0.0;
    for (Py_ssize_t i = 0; i < row->n; i++) {
        uint32_t count = row->count[i];
        double value = weight_of_count(vocabulary, count) * vocabulary->idf[row->column[i]];
        double square = value * value;
        int is_word = row->column[i] < vocabulary->n_words;
        row->value[i] = value;
        words += is_word ? square : 0.0;
        chars += is_word ? 0.0 : square;
    }
    const double by_word = 1.0 / sqrt(words), by_char = 1.0 / sqrt(chars);
    for (Py_ssize_t i = 0; i < row->n; i++)
        row->value[i] *= row->column[i] < vocabulary->n_words ? by_word : by_char;
}

/* Add what occurs in a piece; -1 where memory is short. */
static int add_piece(const Vocabulary *vocabulary, Reader *reader, Row *row, Piece piece, Py_ssize_t *n_occurrences) {
    if (piece.length <= CACHED_LETTERS) {
        const Chunk *chunk = reader_chunk(vocabulary, reader, piece);
        add_words(vocabulary, reader, row, words_of(chunk), chunk->n_words, n_occurrences);
        add_columns(reader, row, grams_of(chunk), chunk->n_grams, row->occurrence + *n_occurrences);
        *n_occurrences += chunk->n_grams;
        return 0;
    }
    const Py_UCS4 *letters = reader->letters + piece.start;
    int32_t *columns = PyMem_RawMalloc(((size_t)piece.length * 4 + 1) * sizeof *columns);
    if (!columns) return -1;
    for (Py_ssize_t start = 0, end; next_word(letters, piece.length, &start, &end); start = end) {
        const int32_t word = word_table_get(&vocabulary->words, letters + start, (size_t)(end - start));
        add_words(vocabulary, reader, row, &word, 1, n_occurrences);
    }
    const Py_ssize_t count = find_grams(&vocabulary->grams, letters - 1, piece.length + 2, columns);
    add_columns(reader, row, columns, count, row->occurrence + *n_occurrences);
    *n_occurrences += count;
    PyMem_RawFree(columns);
    return 0;
}

int read_text(const Vocabulary *vocabulary, Reader *reader, Letters text, Row *row) {
    if (reader_reserve(reader, text.length) || row_reserve(row, text.length)) return -1;
    row->count[0] = 0;
    row->n = row->n_chunks = row->n_halves = 0;
    Py_ssize_t n_occurrences = 0, n_pieces = reader_split(reader, text);
    int failed = 0;
    for (Py_ssize_t i = 0; !failed && i < n_pieces; i++) {
        failed = add_piece(vocabulary, reader, row, reader->pieces[i], &n_occurrences);
        row->chunk_end[row->n_chunks++] = n_occurrences;
    }
    if (!failed) {
        add_couples(vocabulary, reader, row);
        weigh(vocabulary, row);
    }
    reader->base += (uint32_t)row->n;
    return failed;
}
