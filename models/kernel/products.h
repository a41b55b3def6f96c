/* Products of rows and matrices. */
#ifndef STANCERY_PRODUCTS_H
#define STANCERY_PRODUCTS_H

#include "reader.h"

/* A matrix of float32, (columns of the vocabulary or more, width); steps in bytes. */
typedef struct {
    const char *first;
    Py_ssize_t row_step, step, width;
} Matrix;

static inline const float *weights_of(const Matrix *matrix, int32_t column) {
    return (const float *)(matrix->first + column * matrix->row_step);
}

/* Add the products of `n` columns, which have these values, and a matrix to `sums`, of the matrix's width. */
void add_products(const int32_t *columns, const double *values, Py_ssize_t n, const Matrix *matrix, double *sums);

/* What each chunk of a row adds to its product with matrix @ factors: `shares` of length n_chunks; `each` is room for
 * n numbers. */
void find_shares(const Row *row, const Matrix *matrix, const double *factors, double *each, double *shares);

#endif
