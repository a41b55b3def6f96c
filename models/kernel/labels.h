/* The topics and stances of a text, and what decided them, from one pass over its chunks.
 *
 * A row's value is idf times 1 + ln(count). Were it idf times count, products and square norms of a text would be the
 * sums of those of its chunks, and a chunk's are the same in every text. So those are kept and added up, and what the
 * logarithm makes of the n-grams that occur more than once is put right after. */
#ifndef STANCERY_LABELS_H
#define STANCERY_LABELS_H

#include "products.h"

/* What is kept of a chunk are the sums of its products with the topics' weights, and with each topic's sides: which of
 * them there are is told by the bits of one number. */
#define MOST_TOPICS 63
#define N_STANCES 3
/* A topic's own weight and those of the stances toward it, side by side. */
#define N_SIDES (1 + N_STANCES)

typedef struct {
    const Vocabulary *vocabulary;
    Matrix topics;
    const double *topic_bias;
    Matrix *sides;             /* of each topic, N_SIDES wide; NULL where there are no stances */
    const double *stance_bias; /* (n_topics, N_STANCES) */
} Weights;

/* What one thread labels with, and the text at hand. */
typedef struct Sums {
    Reader *reader;
    /* By place in the reader's cache: of the topics, after the square norm of the idf, `step` numbers; and of each
     * topic's sides, one topic after the other. */
    double *of_topics, *of_sides;
    Py_ssize_t step;
    /* Words and bigrams one by one, and the two chunks that each stands in; the values are of one occurrence. */
    int32_t *word, *word_chunk;
    double *word_value;
    Py_ssize_t n_words;
    /* Character n-grams of chunks that are too long for the cache, one by one. */
    int32_t *gram, *gram_chunk;
    Py_ssize_t n_grams;
    /* Character n-grams that occur more than once, and what a kept sum lacks of each occurrence. */
    int32_t *repeated;
    double *lack;
    Py_ssize_t n_repeated;
    /* Where they do, chunk by chunk; found when it is first asked for. */
    int32_t *again, *again_end;
    int knows_again;
    double by_char; /* 1 / norm */
    Py_ssize_t n_chunks;
    double *each, *parts; /* room to work in */
    uint32_t used;        /* above the reader's base */
    void *block;
    Py_ssize_t size; /* of the longest text that there is room for */
    struct Sums *next;
} Sums;

Sums *sums_new(const Weights *weights);
void sums_free(Sums *sums);

/* The logit of each topic for a lower-case text, which is at hand from now on; -1 where memory is short. */
int sum_text(Sums *sums, const Weights *weights, Letters text, double *logits);

/* What each chunk of the text at hand adds to the logit of a topic; `shares` has room for all chunks. */
void share_topic(Sums *sums, const Weights *weights, Py_ssize_t topic, double *shares);

/* The stance logits toward the topic that was shared last, their mean 0, and what each chunk adds to the highest;
 * returns which that is. */
int share_stance(Sums *sums, const Weights *weights, Py_ssize_t topic, double *logits, double *shares);

#endif
