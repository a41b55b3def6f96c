#include "products.h"

/* Far enough ahead for a row of weights to arrive from memory before it is needed. */
#define AHEAD 32
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
