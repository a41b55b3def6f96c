/* Which stretches of a text decided, by what its chunks add to a logit. */
#ifndef STANCERY_STRETCHES_H
#define STANCERY_STRETCHES_H

#include "reader.h"

/* As in models/plain.py. */
#define SHOWN 5
#define SHOWN_PART 0.25
#define WEIGHT_PARTS 1000000

typedef struct {
    Py_ssize_t start, end;
    double weight;
} Stretch;

/* The heaviest stretches, heaviest first, of equals the first of the text; their weights rounded. */
typedef struct {
    Stretch shown[SHOWN];
    int n;
} Heaviest;

/* Where the chunks of a text stand, and what each adds. */
typedef struct {
    Py_ssize_t n_chunks, *starts, *ends;
    double *shares;
} Shares;

/* The heaviest of the stretches that models/plain.py finds by the shares. */
Heaviest heaviest_stretches(Letters text, const Shares *chunks, double part);

#endif
