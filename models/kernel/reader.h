/* The feature function, compiled: the grammar of models/features.py, with the same values to the last bit. */
#ifndef STANCERY_READER_H
#define STANCERY_READER_H

#include "table.h"

#define KNOWN_COUNTS 64

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

/* What is kept of a chunk, the letters between two white spaces, so that it is taken apart once. What every use reads
 * comes first. */
#define CACHED_LETTERS 16
#define CACHED_WORDS (CACHED_LETTERS / 2)
#define CACHED_GRAMS 62
#define CACHED_CHUNKS 32768
typedef struct {
    uint32_t hash;
    uint8_t length, n_words, n_grams;
    int32_t words[CACHED_WORDS];
    Py_UCS4 letters[CACHED_LETTERS];
    int32_t grams[CACHED_GRAMS];
} Chunk;

/* Of a column: 1 + its entry in the row at hand, 0 for none and between texts; its idf is beside it because both are
 * asked for. */
typedef struct {
    int32_t place;
    float idf;
} Slot;

/* A chunk of the text at hand: where its letters lie in the reader's copy, a space before them and one after. */
typedef struct {
    int32_t start, length;
    uint32_t hash;
} Piece;

/* What reading needs beside the vocabulary. One thread at a time has it. */
typedef struct Reader {
    Slot *slots;
    Chunk *cache;
    Py_UCS4 *letters;
    Piece *pieces;
    Py_ssize_t size; /* of the longest text that there is room for */
    struct Reader *next;
} Reader;

/* The row of a text: each column once, in the order in which they first occur; each block of values has norm 1. */
typedef struct {
    Py_ssize_t n, size;
    int32_t *column;
    uint32_t *count;
    double *value;
    /* Where they occur: entries of the row, chunk by chunk; a word bigram occurs half in the chunk of each word. */
    Py_ssize_t n_chunks, n_halves;
    Py_ssize_t *chunk_end;
    int32_t *occurrence, *half, *half_chunk;
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

/* Read a lower-case text into `row`, whose memory is used again; -1 where memory is short. Needs no GIL. */
int read_text(const Vocabulary *vocabulary, Reader *reader, Letters text, Row *row);
void row_clear(Row *row);

#endif
