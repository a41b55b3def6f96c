/* Exact lookup of n-grams: open addressing with linear probing, at most half full, never changed once filled. */
#ifndef STANCERY_TABLE_H
#define STANCERY_TABLE_H

#include <Python.h>
#include <stdint.h>
#include <stdlib.h>

#ifdef __GNUC__
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define PREFETCH(address) ((void)(address))
#endif

/* Memory for what is read here and there, to be freed by `free`: in large pages where there are any, so that the
 * processor knows where all of them are. */
void *large_new(size_t bytes);

#define MISSING (-1)
#define MAX_GRAM 5

/* At most five code points of 21 bits each, and how many there are: two different n-grams never share a key. */
typedef struct {
    uint64_t low, high;
} Gram;

/* Slots are small and lie close together; the n-grams themselves are looked at only where a slot's tag fits. */
typedef struct {
    uint32_t tag;
    int32_t column;
} GramSlot;

typedef struct {
    GramSlot *slots;
    size_t mask;
    Gram *grams; /* by column, from the first on */
    int32_t first;
} GramTable;

typedef struct {
    Gram gram;
    uint64_t hash;
} GramKey;

/* Words by their code points, which lie end to end in `letters`. */
typedef struct {
    uint32_t hash, start, length;
    int32_t word;
} WordSlot;

typedef struct {
    WordSlot *slots;
    size_t mask, n_letters, letters_size;
    Py_UCS4 *letters;
    int32_t n_words;
} WordTable;

/* Two neighbouring words. */
typedef struct {
    uint64_t pair;
    int32_t column;
} PairSlot;

typedef struct {
    PairSlot *slots;
    size_t mask;
} PairTable;

/* The key of an n-gram; has the slot that it leads to brought from memory. */
GramKey gram_key(const GramTable *table, const Py_UCS4 *letters, int length);
uint32_t hash_letters(const Py_UCS4 *letters, size_t length);

/* These return 0, or -1 where memory is short. `capacity` is how many entries there will be at most; columns of n-grams
 * are from `first` on, below `first + capacity`. */
int gram_table_init(GramTable *table, size_t capacity, int32_t first);
int word_table_init(WordTable *table, size_t capacity);
int pair_table_init(PairTable *table, size_t capacity);
void gram_table_clear(GramTable *table);
void word_table_clear(WordTable *table);
void pair_table_clear(PairTable *table);

void gram_table_put(GramTable *table, const Py_UCS4 *letters, int length, int32_t column);
/* Have what shows whether an n-gram is there brought from memory, once its slot is here. */
void gram_table_prefetch(const GramTable *table, GramKey key);
int32_t gram_table_get(const GramTable *table, GramKey key);

/* The number of a word, given to it now if it has none yet; -1 where memory is short. */
int32_t word_table_put(WordTable *table, const Py_UCS4 *letters, size_t length);
int32_t word_table_get(const WordTable *table, const Py_UCS4 *letters, size_t length);

void pair_table_put(PairTable *table, int32_t first, int32_t second, int32_t column);
void pair_table_prefetch(const PairTable *table, int32_t first, int32_t second);
int32_t pair_table_get(const PairTable *table, int32_t first, int32_t second);

#endif
