#include "table.h"

#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#define LARGE_PAGE (2 << 20)

void *large_new(size_t bytes) {
#ifdef MADV_HUGEPAGE
    void *found = NULL;
    if (bytes >= LARGE_PAGE) {
        if (posix_memalign(&found, LARGE_PAGE, bytes)) return NULL;
        /* Where the system has none it is ordinary memory. */
        madvise(found, bytes, MADV_HUGEPAGE);
        return found;
    }
#endif
    return malloc(bytes);
}

static size_t power_of_two(size_t least) {
    size_t size = 16;
    while (size < least) size *= 2;
    return size;
}

/* The finaliser of splitmix64: every bit of the key reaches the low bits, which choose the slot. */
static uint64_t mixed(uint64_t key) {
    key = (key ^ (key >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    key = (key ^ (key >> 27)) * UINT64_C(0x94d049bb133111eb);
    return key ^ (key >> 31);
}

static Gram gram_of(const Py_UCS4 *letters, int length) {
    Gram gram = {0, (uint64_t)length << 42};
    for (int i = 0; i < length; i++) {
        if (i < 3)
            gram.low |= (uint64_t)letters[i] << (21 * i);
        else
            gram.high |= (uint64_t)letters[i] << (21 * (i - 3));
    }
    return gram;
}

GramKey gram_key(const GramTable *table, const Py_UCS4 *letters, int length) {
    Gram gram = gram_of(letters, length);
    GramKey key = {gram, mixed(gram.low ^ (gram.high * UINT64_C(0x9e3779b97f4a7c15)))};
    PREFETCH(&table->slots[key.hash & table->mask]);
    return key;
}

uint32_t hash_letters(const Py_UCS4 *letters, size_t length) {
    uint64_t hash = length;
    for (size_t i = 0; i < length; i++) hash = (hash ^ letters[i]) * UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t)(mixed(hash) >> 16);
}

int gram_table_init(GramTable *table, size_t capacity, int32_t first) {
    size_t size = power_of_two(2 * capacity);
    *table = (GramTable){.mask = size - 1, .first = first};
    table->slots = large_new(size * sizeof *table->slots);
    table->grams = large_new((capacity + 1) * sizeof *table->grams);
    if (!table->slots || !table->grams) return -1;
    for (size_t i = 0; i < size; i++) table->slots[i].column = MISSING;
    return 0;
}

void gram_table_clear(GramTable *table) {
    free(table->slots);
    free(table->grams);
}

static const Gram *gram_at(const GramTable *table, int32_t column) { return &table->grams[column - table->first]; }

static GramSlot *gram_slot(const GramTable *table, GramKey key) {
    uint32_t tag = (uint32_t)(key.hash >> 32);
    for (size_t at = key.hash & table->mask;; at = (at + 1) & table->mask) {
        GramSlot *slot = &table->slots[at];
        if (slot->column == MISSING) return slot;
        if (slot->tag == tag) {
            const Gram *found = gram_at(table, slot->column);
            if (found->low == key.gram.low && found->high == key.gram.high) return slot;
        }
    }
}

void gram_table_put(GramTable *table, const Py_UCS4 *letters, int length, int32_t column) {
    GramKey key = gram_key(table, letters, length);
    *gram_slot(table, key) = (GramSlot){(uint32_t)(key.hash >> 32), column};
    table->grams[column - table->first] = key.gram;
}

void gram_table_prefetch(const GramTable *table, GramKey key) {
    const GramSlot *slot = &table->slots[key.hash & table->mask];
    if (slot->column != MISSING) PREFETCH(gram_at(table, slot->column));
}

int32_t gram_table_get(const GramTable *table, GramKey key) { return gram_slot(table, key)->column; }

int word_table_init(WordTable *table, size_t capacity) {
    size_t size = power_of_two(2 * capacity);
    *table = (WordTable){.mask = size - 1};
    table->slots = PyMem_RawMalloc(size * sizeof *table->slots);
    if (!table->slots) return -1;
    for (size_t i = 0; i < size; i++) table->slots[i].word = MISSING;
    return 0;
}

void word_table_clear(WordTable *table) {
    PyMem_RawFree(table->slots);
    PyMem_RawFree(table->letters);
}

static WordSlot *word_slot(const WordTable *table, uint32_t hash, const Py_UCS4 *letters, size_t length) {
    for (size_t at = hash & table->mask;; at = (at + 1) & table->mask) {
        WordSlot *slot = &table->slots[at];
        if (slot->word == MISSING) return slot;
        if (slot->hash == hash && slot->length == length &&
            !memcmp(table->letters + slot->start, letters, length * sizeof *letters))
            return slot;
    }
}

int32_t word_table_put(WordTable *table, const Py_UCS4 *letters, size_t length) {
    uint32_t hash = hash_letters(letters, length);
    WordSlot *slot = word_slot(table, hash, letters, length);
    if (slot->word != MISSING) return slot->word;
    if (table->n_letters + length > UINT32_MAX) return -1;
    if (table->n_letters + length > table->letters_size) {
        size_t size = 2 * (table->n_letters + length) + 1024;
        Py_UCS4 *grown = PyMem_RawRealloc(table->letters, size * sizeof *grown);
        if (!grown) return -1;
        table->letters = grown;
        table->letters_size = size;
    }
    memcpy(table->letters + table->n_letters, letters, length * sizeof *letters);
    *slot = (WordSlot){hash, (uint32_t)table->n_letters, (uint32_t)length, table->n_words++};
    table->n_letters += length;
    return slot->word;
}

int32_t word_table_get(const WordTable *table, const Py_UCS4 *letters, size_t length) {
    return word_slot(table, hash_letters(letters, length), letters, length)->word;
}

int pair_table_init(PairTable *table, size_t capacity) {
    size_t size = power_of_two(2 * capacity);
    table->mask = size - 1;
    table->slots = PyMem_RawMalloc(size * sizeof *table->slots);
    if (!table->slots) return -1;
    for (size_t i = 0; i < size; i++) table->slots[i].column = MISSING;
    return 0;
}

void pair_table_clear(PairTable *table) { PyMem_RawFree(table->slots); }

static PairSlot *pair_slot(const PairTable *table, uint64_t pair) {
    for (size_t at = mixed(pair) & table->mask;; at = (at + 1) & table->mask) {
        PairSlot *slot = &table->slots[at];
        if (slot->column == MISSING || slot->pair == pair) return slot;
    }
}

static uint64_t pair_of(int32_t first, int32_t second) { return (uint64_t)(uint32_t)first << 32 | (uint32_t)second; }

void pair_table_put(PairTable *table, int32_t first, int32_t second, int32_t column) {
    PairSlot *slot = pair_slot(table, pair_of(first, second));
    slot->pair = pair_of(first, second);
    slot->column = column;
}

void pair_table_prefetch(const PairTable *table, int32_t first, int32_t second) {
    PREFETCH(&table->slots[mixed(pair_of(first, second)) & table->mask]);
}

int32_t pair_table_get(const PairTable *table, int32_t first, int32_t second) {
    return pair_slot(table, pair_of(first, second))->column;
}
