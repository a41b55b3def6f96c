#include "reader.h"

#include <math.h>
#include <string.h>

#define AT_ONCE 24

/* Entries of a row that each letter of a text can bring at most: four n-grams of characters, and for every two letters
 * a word and a bigram. */
#define ENTRIES_PER_LETTER 5

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
    reader->slots = PyMem_RawCalloc((size_t)vocabulary->size + 1, sizeof *reader->slots);
    reader->cache = PyMem_RawCalloc(CACHED_CHUNKS, sizeof *reader->cache);
    if (!reader->slots || !reader->cache) {
        reader_free(reader);
        return NULL;
    }
    for (Py_ssize_t column = 0; column < vocabulary->size; column++) reader->slots[column].idf = vocabulary->idf[column];
    return reader;
}

void reader_free(Reader *reader) {
    PyMem_RawFree(reader->slots);
    PyMem_RawFree(reader->cache);
    PyMem_RawFree(reader->letters);
    PyMem_RawFree(reader->pieces);
    PyMem_RawFree(reader);
}

static int reader_reserve(Reader *reader, Py_ssize_t length) {
    if (reader->letters && length <= reader->size) return 0;
    PyMem_RawFree(reader->letters);
    PyMem_RawFree(reader->pieces);
    reader->letters = PyMem_RawMalloc(((size_t)length + 2) * sizeof *reader->letters);
    reader->pieces = PyMem_RawMalloc(((size_t)length / 2 + 1) * sizeof *reader->pieces);
    reader->size = length;
    return reader->letters && reader->pieces ? 0 : -1;
}

void row_clear(Row *row) {
    PyMem_RawFree(row->value);
    *row = (Row){0};
}

/* One block of memory for all arrays of a row, enough for any text of that length. */
static int row_reserve(Row *row, Py_ssize_t length) {
    if (row->value && length <= row->size) return 0;
    row_clear(row);
    if (length > INT32_MAX / (2 * ENTRIES_PER_LETTER)) return -1;
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

/* The next run of at least two word letters, the regular expression \b\w\w+\b. */
static int next_word(const Py_UCS4 *letters, Py_ssize_t length, Py_ssize_t *start, Py_ssize_t *end) {
    for (Py_ssize_t at = *start; at < length;) {
        while (at < length && !is_word_letter(letters[at])) at++;
        *start = at;
        while (at < length && is_word_letter(letters[at])) at++;
        *end = at;
        if (at - *start > 1) return 1;
    }
    return 0;
}

/* A reading under way. */
typedef struct {
    const Vocabulary *vocabulary;
    Reader *reader;
    Row *row;
    Py_ssize_t n_occurrences;
    int32_t word; /* the last one, and the chunk that it stands in */
    Py_ssize_t word_chunk;
} Reading;

/* Add one occurrence of each column. Without a branch: whether a column is new cannot be foretold. The entry after the
 * last is kept at count 0. */
static inline void add_columns(Reading *reading, const int32_t *columns, Py_ssize_t count, int32_t *entries) {
    Row *row = reading->row;
    Slot *slots = reading->reader->slots;
    int32_t *column = row->column, n = (int32_t)row->n;
    uint32_t *counts = row->count;
    for (Py_ssize_t i = 0; i < count; i++) {
        int32_t place = slots[columns[i]].place, entry = place ? place - 1 : n;
        n += !place;
        column[entry] = columns[i];
        counts[entry]++;
        counts[n] = 0;
        slots[columns[i]].place = entry + 1;
        entries[i] = entry;
    }
    row->n = n;
}

static void add_occurrences(Reading *reading, const int32_t *columns, Py_ssize_t count) {
    add_columns(reading, columns, count, reading->row->occurrence + reading->n_occurrences);
    reading->n_occurrences += count;
}

static void add_word(Reading *reading, int32_t word) {
    const Vocabulary *vocabulary = reading->vocabulary;
    Row *row = reading->row;
    if (word != MISSING && vocabulary->word_column[word] != MISSING)
        add_occurrences(reading, &vocabulary->word_column[word], 1);
    if (word != MISSING && reading->word != MISSING) {
        int32_t column = pair_table_get(&vocabulary->pairs, reading->word, word);
        if (column != MISSING) {
            int32_t entry;
            add_columns(reading, &column, 1, &entry);
            row->half[row->n_halves] = row->half[row->n_halves + 1] = entry;
            row->half_chunk[row->n_halves] = (int32_t)reading->word_chunk;
            row->half_chunk[row->n_halves + 1] = (int32_t)row->n_chunks;
            row->n_halves += 2;
        }
    }
    reading->word = word;
    reading->word_chunk = row->n_chunks;
}

/* Columns of the n-grams of a chunk padded by a space on each side, in the order of `char_ngrams`; returns how many. */
static Py_ssize_t find_grams(const GramTable *table, const Py_UCS4 *padded, Py_ssize_t length, int32_t *columns) {
    Py_ssize_t n_found = 0;
    for (int n = 2; n <= MAX_GRAM && n <= length; n++)
        for (Py_ssize_t first = 0, end = length - n + 1; first < end; first += AT_ONCE) {
            /* First all hashes, so that what they lead to comes from memory at once. */
            Py_ssize_t count = end - first < AT_ONCE ? end - first : AT_ONCE;
            GramKey keys[AT_ONCE];
            for (Py_ssize_t i = 0; i < count; i++) keys[i] = gram_key(table, padded + first + i, n);
            for (Py_ssize_t i = 0; i < count; i++) {
                int32_t column = gram_table_get(table, keys[i]);
                columns[n_found] = column;
                n_found += column != MISSING;
            }
        }
    return n_found;
}

static void take_apart(const Vocabulary *vocabulary, const Py_UCS4 *letters, Piece piece, Chunk *chunk) {
    chunk->hash = piece.hash;
    chunk->length = (uint8_t)piece.length;
    memcpy(chunk->letters, letters, (size_t)piece.length * sizeof *letters);
    chunk->n_words = 0;
    for (Py_ssize_t start = 0, end; next_word(letters, piece.length, &start, &end); start = end)
        chunk->words[chunk->n_words++] = word_table_get(&vocabulary->words, letters + start, (size_t)(end - start));
    chunk->n_grams = (uint8_t)find_grams(&vocabulary->grams, letters - 1, piece.length + 2, chunk->grams);
}

static void add_short(Reading *reading, const Py_UCS4 *letters, Piece piece) {
    Chunk *chunk = &reading->reader->cache[piece.hash % CACHED_CHUNKS];
    if (chunk->hash != piece.hash || chunk->length != piece.length ||
        memcmp(chunk->letters, letters, (size_t)piece.length * sizeof *letters))
        take_apart(reading->vocabulary, letters, piece, chunk);
    for (int i = 0; i < chunk->n_words; i++) add_word(reading, chunk->words[i]);
    add_occurrences(reading, chunk->grams, chunk->n_grams);
}

static int add_long(Reading *reading, const Py_UCS4 *letters, Piece piece) {
    const Vocabulary *vocabulary = reading->vocabulary;
    for (Py_ssize_t start = 0, end; next_word(letters, piece.length, &start, &end); start = end)
        add_word(reading, word_table_get(&vocabulary->words, letters + start, (size_t)(end - start)));
    int32_t *columns = PyMem_RawMalloc(((size_t)piece.length * 4 + 1) * sizeof *columns);
    if (!columns) return -1;
    add_occurrences(reading, columns, find_grams(&vocabulary->grams, letters - 1, piece.length + 2, columns));
    PyMem_RawFree(columns);
    return 0;
}

/* Copy the letters of a text chunk by chunk, one space between two; returns how many chunks there are. What is known of
 * each is on its way from memory then. */
static Py_ssize_t split(Reader *reader, Letters text) {
    Py_UCS4 *letters = reader->letters;
    Py_ssize_t n_pieces = 0;
    int32_t at = 0;
    letters[at++] = ' ';
    for (Py_ssize_t start = 0, end; next_chunk(text, &start, &end); start = end) {
        Piece *piece = &reader->pieces[n_pieces++];
        *piece = (Piece){at, (int32_t)(end - start), 0};
        for (; start < end; start++) letters[at++] = PyUnicode_READ(text.kind, text.data, start);
        letters[at++] = ' ';
        if (piece->length <= CACHED_LETTERS) {
            piece->hash = hash_letters(letters + piece->start, (size_t)piece->length);
            const char *chunk = (const char *)&reader->cache[piece->hash % CACHED_CHUNKS];
            PREFETCH(chunk);
            PREFETCH(chunk + 64);
            PREFETCH(chunk + 128);
            PREFETCH(chunk + 192);
        }
    }
    return n_pieces;
}

/* Sublinear tf times idf, each block divided by its norm. The sums run in the order of the entries, as they do in
 * models/features.py. */
static void weigh(const Vocabulary *vocabulary, const Slot *slots, Row *row) {
    double words = 0.0, chars = 0.0;
    for (Py_ssize_t i = 0; i < row->n; i++) {
        uint32_t count = row->count[i];
        double tf = count < KNOWN_COUNTS ? vocabulary->tf[count] : 1.0 + log(count);
        double value = tf * slots[row->column[i]].idf;
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

int read_text(const Vocabulary *vocabulary, Reader *reader, Letters text, Row *row) {
    if (row_reserve(row, text.length) || reader_reserve(reader, text.length)) return -1;
    row->count[0] = 0;
    row->n = row->n_chunks = row->n_halves = 0;
    Reading reading = {vocabulary, reader, row, 0, MISSING, 0};
    Py_ssize_t n_pieces = split(reader, text);
    int failed = 0;
    for (Py_ssize_t i = 0; !failed && i < n_pieces; i++) {
        const Piece piece = reader->pieces[i];
        const Py_UCS4 *letters = reader->letters + piece.start;
        if (piece.length <= CACHED_LETTERS)
            add_short(&reading, letters, piece);
        else
            failed = add_long(&reading, letters, piece);
        row->chunk_end[row->n_chunks++] = reading.n_occurrences;
    }
    if (!failed) weigh(vocabulary, reader->slots, row);
    for (Py_ssize_t i = 0; i < row->n; i++) reader->slots[row->column[i]].place = 0;
    return failed;
}
