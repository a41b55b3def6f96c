/* The feature function, compiled: the grammar of models/features.py, with the same values to the last bit. */
#ifndef STANCERY_READER_H
#define STANCERY_READER_H

#include "table.h"

#include <math.h>

#define KNOWN_COUNTS 64

/* Entries of a row that each letter of a text can bring at most: four n-grams of characters, and for every two letters
 * a word and a bigram. */
#define ENTRIES_PER_LETTER 5

/* A vocabulary; columns from `n_words` on are character n-grams. */
typedef struct {
    Py_ssize_t n_words, size;
    GramTable grams;
    WordTable words;
    PairTable pairs;
    int32_t *word_column;
    float *idf;
    double tf[KNOWN_COUNTS]; /* 1 + ln(count) */
} Vocabulary;

/* What is kept of a chunk, the letters between two white spaces, so that it is taken apart once: its words, its n-grams
 * and its letters, one after the other, so that most chunks lie in few lines of the processor's cache. */
#define CACHED_LETTERS 20
#define CACHED_WORDS (CACHED_LETTERS / 2)
#define CACHED_GRAMS (4 * CACHED_LETTERS - 2)
#define CACHED_CHUNKS 32768
#define NEIGHBOURS 16
typedef struct {
    uint64_t kept; /* what somebody else keeps of it, where the reader's `beside` lies */
    uint8_t length, n_words, n_grams;
    int32_t parts[CACHED_WORDS + CACHED_GRAMS + CACHED_LETTERS];
} Chunk;

static inline const int32_t *words_of(const Chunk *chunk) { return chunk->parts; }
static inline const int32_t *grams_of(const Chunk *chunk) { return chunk->parts + chunk->n_words; }
static inline const int32_t *chunk_letters(const Chunk *chunk) { return grams_of(chunk) + chunk->n_grams; }

/* A chunk of the text at hand: where it stands there, and where its letters lie in the reader's copy, a space before
 * them and one after. */
typedef struct {
    int32_t at, start, length;
    uint32_t hash, slot; /* of the cache, where it is short enough */
} Piece;

/* Two neighbouring words, by number, and the chunks that they stand in. */
typedef struct {
    int32_t first, second, first_chunk, second_chunk;
} Couple;

/* What reading needs beside the vocabulary. One thread at a time has it; made and freed under the GIL. */
typedef struct Reader {
    /* Of each column what the text at hand brought, above `base`; what earlier texts left lies at it or below, so that
     * nothing needs to be cleared. */
    uint32_t *places;
    Py_ssize_t n_places;
    uint32_t base;
    /* The cache: a chunk may be kept in any of a few places, side by side; the one used longest ago makes room. */
    Chunk *cache;
    uint32_t *hashes; /* of the cached chunks */
    uint8_t *order;   /* of neighbouring places, the latest used first */
    /* What shall be on its way from memory with a cached chunk, if anything. */
    const char *beside;
    Py_ssize_t beside_step;
    Py_UCS4 *letters;
    Piece *pieces;
    Couple *couples; /* of the text at hand; the last one is open, its second word is yet to come */
    Py_ssize_t n_couples;
    Py_ssize_t size; /* of the longest text that there is room for */
    struct Reader *next;
} Reader;

/* The row of a text: each column once, in the order in which they first occur; each block of values has norm 1. */
typedef struct {
    Py_ssize_t n, size;
    int32_t *column;
    uint32_t *count;
    double *value;
    /* Where they occur: entries of the row, chunk by chunk; word bigrams come last, each half in the chunk of either
     * word. */
    Py_ssize_t n_chunks, n_halves;
    Py_ssize_t *chunk_end;
    int32_t *occurrence, *half, *half_chunk; /* of a bigram the entry, and two chunks */
} Row;

typedef struct {
    int kind;
    const void *data;
    Py_ssize_t length;
} Letters;

Letters letters_of(PyObject *text);

/* Find the next chunk at or after `*start`; false where there is none. */
int next_chunk(Letters text, Py_ssize_t *start, Py_ssize_t *end);

Reader *reader_new(const Vocabulary *vocabulary);
void reader_free(Reader *reader);

/* Have room for a text of that length, and for as many places; -1 where memory is short. */
int reader_reserve(Reader *reader, Py_ssize_t length);

/* Copy the letters of a text chunk by chunk, one space between two; returns how many chunks there are. What is known of
 * each is on its way from memory then. */
Py_ssize_t reader_split(Reader *reader, Letters text);

/* What is known of a piece that is short enough for the cache; it stays there until the next is asked for. */
Chunk *reader_chunk(const Vocabulary *vocabulary, Reader *reader, Piece piece);

/* The column of a word, or MISSING; couples it with the one before it. */
int32_t reader_word(const Vocabulary *vocabulary, Reader *reader, int32_t word, Py_ssize_t chunk);

/* The next run of at least two word letters, the regular expression \b\w\w+\b. */
int next_word(const Py_UCS4 *letters, Py_ssize_t length, Py_ssize_t *start, Py_ssize_t *end);

/* Columns of the n-grams of a chunk padded by a space on each side, in the order of `char_ngrams`; returns how many. */
Py_ssize_t find_grams(const GramTable *table, const Py_UCS4 *padded, Py_ssize_t length, int32_t *columns);

static inline double weight_of_count(const Vocabulary *vocabulary, uint32_t count) {
    return count < KNOWN_COUNTS ? vocabulary->tf[count] : 1.0 + log(count);
}

/* Read a lower-case text into `row`, whose memory is used again; -1 where memory is short. Needs no GIL. */
int read_text(const Vocabulary *vocabulary, Reader *reader, Letters text, Row *row);
void row_clear(Row *row);

#endif
