#include "objects.h"

#include <string.h>

int matrix_from(PyObject *object, Py_ssize_t size, Py_buffer *view, Matrix *matrix) {
    if (PyObject_GetBuffer(object, view, PyBUF_STRIDED_RO | PyBUF_FORMAT)) return -1;
    if (view->ndim == 2 && !strcmp(view->format, "f") && view->shape[0] >= size) {
        *matrix = (Matrix){view->buf, view->strides[0], view->strides[1], view->shape[1]};
        return 0;
    }
    PyErr_Format(PyExc_ValueError, "a float32 matrix of at least %zd rows is needed", size);
    PyBuffer_Release(view);
    return -1;
}

PyObject *lowered(PyObject *text) {
    if (PyUnicode_Check(text)) return PyObject_CallMethod(text, "lower", NULL);
    PyErr_Format(PyExc_TypeError, "a text is needed, not %.80s", Py_TYPE(text)->tp_name);
    return NULL;
}

PyObject *all_lowered(PyObject *texts) {
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

PyObject *stretches_of(PyObject *given, const double *shares, Py_ssize_t n_chunks, double part) {
    double heaviest = 0.0, weight = 0.0;
    for (Py_ssize_t i = 0; i < n_chunks; i++)
        if (shares[i] > heaviest) heaviest = shares[i];
    PyObject *found = PyList_New(0);
    Letters text = letters_of(given);
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
    if (failed) Py_CLEAR(found);
    return found;
}
