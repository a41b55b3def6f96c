/* Python's way to the compiled feature function: `Ngrams` reads and scores texts, `Row` is one text that was read, and
 * `Labeller` labels texts. models/plain.py has the same in NumPy, and says what their methods take and give. */
#define PY_SSIZE_T_CLEAN
#include "objects.h"

#include <string.h>
#include <structmember.h>

typedef struct {
    PyObject_HEAD
    PyObject *text;
    Py_ssize_t size;
    Row row;
} RowObject;

static PyTypeObject RowType;

static PyObject *row_dot(RowObject *self, PyObject *given) {
    Py_buffer view;
    Matrix matrix;
    if (matrix_from(given, self->size, &view, &matrix)) return NULL;
    PyObject *found = PyByteArray_FromStringAndSize(NULL, matrix.width * (Py_ssize_t)sizeof(double));
    if (found) {
        double *sums = (double *)PyByteArray_AS_STRING(found);
        memset(sums, 0, (size_t)matrix.width * sizeof *sums);
        add_products(self->row.column, self->row.value, self->row.n, &matrix, sums);
    }
    PyBuffer_Release(&view);
    return found;
}

/* The numbers of a direction; NULL with an exception set. */
static double *factors_from(PyObject *direction, Py_ssize_t width) {
    if (!PyTuple_Check(direction) || PyTuple_GET_SIZE(direction) != width) {
        PyErr_Format(PyExc_ValueError, "a direction of %zd numbers is needed", width);
        return NULL;
    }
    double *factors = PyMem_Malloc((size_t)(width + 1) * sizeof *factors);
    if (!factors) PyErr_NoMemory();
    for (Py_ssize_t t = 0; factors && t < width; t++) {
        factors[t] = PyFloat_AsDouble(PyTuple_GET_ITEM(direction, t));
        if (factors[t] == -1.0 && PyErr_Occurred()) {
            PyMem_Free(factors);
            factors = NULL;
        }
    }
    return factors;
}

/* What each chunk adds to the logit of matrix @ direction, shape (n_chunks,); NULL with an exception set. */
static double *shares_of(RowObject *self, PyObject *given, PyObject *direction) {
    const Row *row = &self->row;
    Py_buffer view;
    Matrix matrix;
    if (matrix_from(given, self->size, &view, &matrix)) return NULL;
    double *factors = factors_from(direction, matrix.width), *shares = NULL;
    if (factors && !(shares = PyMem_Malloc((size_t)(row->n_chunks + row->n + 1) * sizeof *shares))) PyErr_NoMemory();
    if (shares) find_shares(row, &matrix, factors, shares + row->n_chunks, shares);
    PyMem_Free(factors);
    PyBuffer_Release(&view);
    return shares;
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
    {"dot", (PyCFunction)row_dot, METH_O, "dot(matrix) -> float64 of shape (width,)"},
    {"shares", (PyCFunction)row_shares, METH_VARARGS, "shares(matrix, direction) -> float64 of shape (n_chunks,)"},
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

/* The products of lower-case texts and a matrix, one after the other in `sums`; -1 where memory is short. */
static int dot_all(const Vocabulary *vocabulary, Reader *reader, PyObject *texts, const Matrix *matrix, double *sums) {
    Row row = {0};
    int failed = 0;
    memset(sums, 0, (size_t)(PyList_GET_SIZE(texts) * matrix->width) * sizeof *sums);
    for (Py_ssize_t i = 0; !failed && i < PyList_GET_SIZE(texts); i++, sums += matrix->width)
        if (!(failed = read_text(vocabulary, reader, letters_of(PyList_GET_ITEM(texts, i)), &row)))
            add_products(row.column, row.value, row.n, matrix, sums);
    row_clear(&row);
    return failed;
}

static PyObject *ngrams_dot(NgramsObject *self, PyObject *args) {
    PyObject *texts, *given, *found = NULL;
    if (!PyArg_ParseTuple(args, "OO:dot", &texts, &given)) return NULL;
    Py_buffer view;
    Matrix matrix;
    if (matrix_from(given, self->vocabulary.size, &view, &matrix)) return NULL;
    PyObject *lower = all_lowered(texts);
    Reader *reader = lower ? take_reader(self) : NULL;
    if (reader) {
        found = PyByteArray_FromStringAndSize(NULL, PyList_GET_SIZE(lower) * matrix.width * (Py_ssize_t)sizeof(double));
        if (found) {
            double *sums = (double *)PyByteArray_AS_STRING(found);
            int failed;
            /* Nobody else knows these texts and sums. */
            Py_BEGIN_ALLOW_THREADS
            failed = dot_all(&self->vocabulary, reader, lower, &matrix, sums);
            Py_END_ALLOW_THREADS
            if (failed) {
                PyErr_NoMemory();
                Py_CLEAR(found);
            }
        }
        give_back(self, reader);
    }
    Py_XDECREF(lower);
    PyBuffer_Release(&view);
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

PyTypeObject NgramsType = {
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
    if (module &&
        (PyModule_AddType(module, &NgramsType) || PyModule_AddType(module, &RowType) ||
         PyModule_AddType(module, &LabellerType) || PyModule_AddIntConstant(module, "MOST_TOPICS", MOST_TOPICS)))
        Py_CLEAR(module);
    return module;
}
