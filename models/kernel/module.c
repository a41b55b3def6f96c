/* Python's way to the compiled feature function: `Ngrams` reads and scores texts, `Row` is one text that was read.
 * models/ngrams.py has the same two in NumPy, and says what their methods take and give. */
#define PY_SSIZE_T_CLEAN
#include "vocabulary.h"

#include <string.h>
#include <structmember.h>

typedef struct {
    PyObject_HEAD
    Vocabulary vocabulary;
    Reader *idle; /* readers that nobody has; only touched under the GIL */
} NgramsObject;

typedef struct {
    PyObject_HEAD
    PyObject *text;
    Py_ssize_t size;
    Row row;
} RowObject;

static PyTypeObject NgramsType, RowType;

/* A matrix of float32, (columns of the vocabulary or more, width), in any order in memory. */
typedef struct {
    Py_buffer view;
    Py_ssize_t width;
} Weights;

static int weights_from(PyObject *object, Py_ssize_t size, Weights *weights) {
    if (PyObject_GetBuffer(object, &weights->view, PyBUF_STRIDED_RO | PyBUF_FORMAT)) return -1;
    const Py_buffer *view = &weights->view;
    if (view->ndim == 2 && !strcmp(view->format, "f") && view->shape[0] >= size) {
        weights->width = view->shape[1];
        return 0;
    }
    PyErr_Format(PyExc_ValueError, "weights must be a float32 matrix of at least %zd rows", size);
    PyBuffer_Release(&weights->view);
    return -1;
}

static void weights_release(Weights *weights, Py_ssize_t count) {
    for (Py_ssize_t i = 0; i < count; i++) PyBuffer_Release(&weights[i].view);
}

static float weight_at(const Py_buffer *view, Py_ssize_t row, Py_ssize_t column) {
    return *(const float *)((const char *)view->buf + row * view->strides[0] + column * view->strides[1]);
}

/* Far enough ahead for a row of weights to arrive from memory before it is needed. */
#define AHEAD 12

static inline void prefetch(const Row *row, Py_ssize_t at, const Py_buffer *view) {
    if (at + AHEAD < row->n) {
        const char *weights = (const char *)view->buf + row->column[at + AHEAD] * view->strides[0];
        PREFETCH(weights);
        PREFETCH(weights + view->strides[1] * (view->shape[1] - 1));
    }
}

#define TILE 16

/* Products with `width` neighbouring columns from `first` on; where the width is a constant the sums stay in registers.
 */
static inline void add_tile(const Row *row, const Py_buffer *view, Py_ssize_t first, int width, double *sums) {
    double held[TILE] = {0.0};
    const char *start = (const char *)view->buf + first * view->strides[1];
    for (Py_ssize_t i = 0; i < row->n; i++) {
        prefetch(row, i, view);
        const float *line = (const float *)(start + row->column[i] * view->strides[0]);
        const double value = row->value[i];
        for (int t = 0; t < width; t++) held[t] += value * line[t];
    }
    for (int t = 0; t < width; t++) sums[t] += held[t];
}

/* Add the products of a row and a matrix to `sums`, of the matrix's width. */
static void add_products(const Row *row, const Weights *weights, double *sums) {
    const Py_buffer *view = &weights->view;
    const Py_ssize_t width = weights->width;
    if (view->strides[1] != sizeof(float)) {
        for (Py_ssize_t i = 0; i < row->n; i++)
            for (Py_ssize_t t = 0; t < width; t++) sums[t] += row->value[i] * weight_at(view, row->column[i], t);
        return;
    }
    Py_ssize_t first = 0;
    for (; first + TILE <= width; first += TILE) add_tile(row, view, first, TILE, sums + first);
#define REST(n) \
    case n: \
        add_tile(row, view, first, n, sums + first); \
        break;
    switch (width - first) {
        REST(1) REST(2) REST(3) REST(4) REST(5) REST(6) REST(7) REST(8) REST(9) REST(10) REST(11) REST(12) REST(13)
        REST(14) REST(15)
    }
#undef REST
}

#define MOST_MATRICES 2

/* The matrices of a tuple, all of one width; how many there are, or -1. */
static Py_ssize_t matrices_from(PyObject *given, Py_ssize_t size, Weights *weights) {
    if (!PyTuple_Check(given) || PyTuple_GET_SIZE(given) < 1 || PyTuple_GET_SIZE(given) > MOST_MATRICES) {
        PyErr_Format(PyExc_TypeError, "a tuple of one to %d matrices is needed", MOST_MATRICES);
        return -1;
    }
    Py_ssize_t count = PyTuple_GET_SIZE(given);
    for (Py_ssize_t i = 0; i < count; i++) {
        int failed = weights_from(PyTuple_GET_ITEM(given, i), size, &weights[i]);
        if (!failed && weights[i].width != weights[0].width) {
            PyErr_SetString(PyExc_ValueError, "the matrices must be of one width");
            weights_release(&weights[i], 1);
            failed = 1;
        }
        if (failed) {
            weights_release(weights, i);
            return -1;
        }
    }
    return count;
}

static PyObject *row_dot(RowObject *self, PyObject *given) {
    Weights weights[MOST_MATRICES];
    Py_ssize_t count = matrices_from(given, self->size, weights);
    if (count < 0) return NULL;
    Py_ssize_t bytes = weights[0].width * (Py_ssize_t)sizeof(double);
    PyObject *found = PyByteArray_FromStringAndSize(NULL, bytes);
    if (found) {
        double *sums = (double *)PyByteArray_AS_STRING(found);
        memset(sums, 0, (size_t)bytes);
        for (Py_ssize_t i = 0; i < count; i++) add_products(&self->row, &weights[i], sums);
    }
    weights_release(weights, count);
    return found;
}

/* What each chunk adds to the logit of weights @ direction, shape (n_chunks,); NULL with an exception set. */
static double *shares_of(RowObject *self, PyObject *given, PyObject *direction) {
    const Row *row = &self->row;
    Weights weights[MOST_MATRICES];
    Py_ssize_t count = matrices_from(given, self->size, weights);
    if (count < 0) return NULL;
    Py_ssize_t width = weights[0].width;
    double *factors = PyMem_Malloc((size_t)(width + 1) * sizeof *factors);
    double *each = PyMem_Malloc((size_t)(row->n + 1) * sizeof *each);
    double *shares = PyMem_Calloc((size_t)row->n_chunks + 1, sizeof *shares);
    if (!factors || !each || !shares) {
        PyErr_NoMemory();
        goto failed;
    }
    if (!PyTuple_Check(direction) || PyTuple_GET_SIZE(direction) != width) {
        PyErr_Format(PyExc_ValueError, "a direction of %zd numbers is needed", width);
        goto failed;
    }
    for (Py_ssize_t t = 0; t < width; t++) {
        factors[t] = PyFloat_AsDouble(PyTuple_GET_ITEM(direction, t));
        if (factors[t] == -1.0 && PyErr_Occurred()) goto failed;
    }
    for (Py_ssize_t i = 0; i < row->n; i++) {
        double sum = 0.0;
        for (Py_ssize_t m = 0; m < count; m++) {
            prefetch(row, i, &weights[m].view);
            for (Py_ssize_t t = 0; t < width; t++)
                sum += factors[t] * weight_at(&weights[m].view, row->column[i], t);
        }
        each[i] = row->value[i] * sum / row->count[i];
    }
    Py_ssize_t at = 0;
    for (Py_ssize_t chunk = 0; chunk < row->n_chunks; chunk++)
        for (; at < row->chunk_end[chunk]; at++) shares[chunk] += each[row->occurrence[at]];
    for (Py_ssize_t i = 0; i < row->n_halves; i++) shares[row->half_chunk[i]] += 0.5 * each[row->half[i]];
    weights_release(weights, count);
    PyMem_Free(factors);
    PyMem_Free(each);
    return shares;
failed:
    weights_release(weights, count);
    PyMem_Free(factors);
    PyMem_Free(each);
    PyMem_Free(shares);
    return NULL;
}

static PyObject *row_shares(RowObject *self, PyObject *args) {
    PyObject *given, *direction;
    if (!PyArg_ParseTuple(args, "OO:shares", &given, &direction)) return NULL;
    double *shares = shares_of(self, given, direction);
    if (!shares) return NULL;
    PyObject *found =
        PyByteArray_FromStringAndSize((char *)shares, self->row.n_chunks * (Py_ssize_t)sizeof *shares);
    PyMem_Free(shares);
    return found;
}

/* From its first letter or digit to its last; nothing where it has none. */
static int append_stretch(PyObject *found, Letters text, Py_ssize_t start, Py_ssize_t end, double weight) {
    while (start < end && !Py_UNICODE_ISALNUM(PyUnicode_READ(text.kind, text.data, start))) start++;
    if (start == end) return 0;
    while (!Py_UNICODE_ISALNUM(PyUnicode_READ(text.kind, text.data, end - 1))) end--;
    PyObject *stretch = Py_BuildValue("(nnd)", start, end, weight);
    int failed = !stretch || PyList_Append(found, stretch);
    Py_XDECREF(stretch);
    return failed;
}

static PyObject *row_stretches(RowObject *self, PyObject *args) {
    PyObject *given, *direction;
    double part;
    if (!PyArg_ParseTuple(args, "OOd:stretches", &given, &direction, &part)) return NULL;
    double *shares = shares_of(self, given, direction);
    if (!shares) return NULL;
    double heaviest = 0.0, weight = 0.0;
    for (Py_ssize_t i = 0; i < self->row.n_chunks; i++)
        if (shares[i] > heaviest) heaviest = shares[i];
    PyObject *found = PyList_New(0);
    Letters text = letters_of(self->text);
    Py_ssize_t first = -1, last = -1, start = 0, end;
    int failed = !found;
    for (Py_ssize_t chunk = 0; !failed && heaviest > 0.0 && next_chunk(text, &start, &end); chunk++, start = end)
        if (shares[chunk] >= part * heaviest) {
            if (first < 0) first = start, weight = 0.0;
            weight += shares[chunk];
            last = end;
        } else if (first >= 0) {
            failed = append_stretch(found, text, first, last, weight);
            first = -1;
        }
    if (!failed && first >= 0) failed = append_stretch(found, text, first, last, weight);
    PyMem_Free(shares);
    if (failed) Py_CLEAR(found);
    return found;
}

static PyObject *row_spans(RowObject *self, PyObject *Py_UNUSED(ignored)) {
    PyObject *found = PyList_New(0);
    Letters text = letters_of(self->text);
    for (Py_ssize_t start = 0, end; found && next_chunk(text, &start, &end); start = end) {
        PyObject *span = Py_BuildValue("(nn)", start, end);
        if (!span || PyList_Append(found, span)) Py_CLEAR(found);
        Py_XDECREF(span);
    }
    return found;
}

static PyObject *row_columns(RowObject *self, PyObject *Py_UNUSED(ignored)) {
    return PyByteArray_FromStringAndSize((char *)self->row.column, self->row.n * (Py_ssize_t)sizeof(int32_t));
}

static PyObject *row_values(RowObject *self, PyObject *Py_UNUSED(ignored)) {
    return PyByteArray_FromStringAndSize((char *)self->row.value, self->row.n * (Py_ssize_t)sizeof(double));
}

static void row_dealloc(RowObject *self) {
    row_clear(&self->row);
    Py_XDECREF(self->text);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef row_methods[] = {
    {"dot", (PyCFunction)row_dot, METH_O, "dot(matrices) -> float64 of shape (width,)"},
    {"shares", (PyCFunction)row_shares, METH_VARARGS, "shares(matrices, direction) -> float64 of shape (n_chunks,)"},
    {"stretches", (PyCFunction)row_stretches, METH_VARARGS,
     "stretches(matrices, direction, part) -> list of (start, end, weight)"},
    {"spans", (PyCFunction)row_spans, METH_NOARGS, "spans() -> list of (start, end)"},
    {"columns", (PyCFunction)row_columns, METH_NOARGS, "columns() -> int32 of shape (n,)"},
    {"values", (PyCFunction)row_values, METH_NOARGS, "values() -> float64 of shape (n,)"},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef row_members[] = {
    {"text", T_OBJECT_EX, offsetof(RowObject, text), READONLY, "the text that was read"},
    {NULL, 0, 0, 0, NULL},
};

static PyTypeObject RowType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "models._kernel.Row",
    .tp_doc = "One text that was read.",
    .tp_basicsize = sizeof(RowObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)row_dealloc,
    .tp_methods = row_methods,
    .tp_members = row_members,
};

static Reader *take_reader(NgramsObject *self) {
    Reader *reader = self->idle;
    if (reader)
        self->idle = reader->next;
    else if (!(reader = reader_new(&self->vocabulary)))
        PyErr_NoMemory();
    return reader;
}

static void give_back(NgramsObject *self, Reader *reader) {
    reader->next = self->idle;
    self->idle = reader;
}

/* A new reference to the lower-case text. */
static PyObject *lowered(PyObject *text) {
    if (PyUnicode_Check(text)) return PyObject_CallMethod(text, "lower", NULL);
    PyErr_Format(PyExc_TypeError, "a text is needed, not %.80s", Py_TYPE(text)->tp_name);
    return NULL;
}

static PyObject *ngrams_read(NgramsObject *self, PyObject *text) {
    PyObject *lower = lowered(text);
    RowObject *found = lower ? PyObject_New(RowObject, &RowType) : NULL;
    if (!found) {
        Py_XDECREF(lower);
        return NULL;
    }
    found->row = (Row){0};
    found->size = self->vocabulary.size;
    found->text = Py_NewRef(text);
    Reader *reader = take_reader(self);
    int failed = !reader;
    if (reader) {
        failed = read_text(&self->vocabulary, reader, letters_of(lower), &found->row);
        give_back(self, reader);
        if (failed) PyErr_NoMemory();
    }
    Py_DECREF(lower);
    if (failed) Py_CLEAR(found);
    return (PyObject *)found;
}

/* A new list of the texts in lower case. */
static PyObject *all_lowered(PyObject *texts) {
    PyObject *given = PySequence_Fast(texts, "a sequence of texts is needed");
    if (!given) return NULL;
    Py_ssize_t n = PySequence_Fast_GET_SIZE(given);
    PyObject *found = PyList_New(n);
    for (Py_ssize_t i = 0; found && i < n; i++) {
        PyObject *lower = lowered(PySequence_Fast_GET_ITEM(given, i));
        if (lower)
            PyList_SET_ITEM(found, i, lower);
        else
            Py_CLEAR(found);
    }
    Py_DECREF(given);
    return found;
}

static PyObject *ngrams_dot(NgramsObject *self, PyObject *args) {
    PyObject *texts, *matrix, *found = NULL;
    if (!PyArg_ParseTuple(args, "OO:dot", &texts, &matrix)) return NULL;
    Weights weights;
    if (weights_from(matrix, self->vocabulary.size, &weights)) return NULL;
    PyObject *lower = all_lowered(texts);
    Reader *reader = lower ? take_reader(self) : NULL;
    if (reader) {
        Py_ssize_t n = PyList_GET_SIZE(lower), bytes = n * weights.width * (Py_ssize_t)sizeof(double);
        found = PyByteArray_FromStringAndSize(NULL, bytes);
        if (found) {
            double *sums = (double *)PyByteArray_AS_STRING(found);
            Row row = {0};
            int failed = 0;
            /* Nobody else knows these texts and sums. */
            Py_BEGIN_ALLOW_THREADS
            memset(sums, 0, (size_t)bytes);
            for (Py_ssize_t i = 0; !failed && i < n; i++) {
                failed = read_text(&self->vocabulary, reader, letters_of(PyList_GET_ITEM(lower, i)), &row);
                if (!failed) add_products(&row, &weights, sums + i * weights.width);
            }
            row_clear(&row);
            Py_END_ALLOW_THREADS
            if (failed) {
                PyErr_NoMemory();
                Py_CLEAR(found);
            }
        }
        give_back(self, reader);
    }
    Py_XDECREF(lower);
    weights_release(&weights, 1);
    return found;
}

static PyMethodDef ngrams_methods[] = {
    {"read", (PyCFunction)ngrams_read, METH_O, "read(text) -> Row"},
    {"dot", (PyCFunction)ngrams_dot, METH_VARARGS, "dot(texts, matrix) -> float64 of shape (n_texts, width)"},
    {NULL, NULL, 0, NULL},
};

static void ngrams_dealloc(NgramsObject *self) {
    for (Reader *reader = self->idle, *next; reader; reader = next) {
        next = reader->next;
        reader_free(reader);
    }
    vocabulary_clear(&self->vocabulary);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *ngrams_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"words", "chars", "idf", NULL};
    PyObject *words, *chars, *idf;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO:Ngrams", names, &words, &chars, &idf)) return NULL;
    NgramsObject *self = (NgramsObject *)type->tp_alloc(type, 0);
    if (self && vocabulary_fill(&self->vocabulary, words, chars, idf)) Py_CLEAR(self);
    return (PyObject *)self;
}

static PyTypeObject NgramsType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "models._kernel.Ngrams",
    .tp_doc = "Ngrams(words, chars, idf): the feature function of a vocabulary.",
    .tp_basicsize = sizeof(NgramsObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = ngrams_new,
    .tp_dealloc = (destructor)ngrams_dealloc,
    .tp_methods = ngrams_methods,
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_kernel",
    .m_doc = "The feature function and the products of its rows, compiled.",
    .m_size = -1,
};

PyMODINIT_FUNC PyInit__kernel(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module && (PyModule_AddType(module, &NgramsType) || PyModule_AddType(module, &RowType))) Py_CLEAR(module);
    return module;
}
