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
    if (PyUnicode_Check(text)) {
        /* By Python's own method: what another kind of text takes for its lower case may be anything. */
        PyObject *own = PyUnicode_FromObject(text);
        PyObject *lower = own ? PyObject_CallMethod(own, "lower", NULL) : NULL;
        Py_XDECREF(own);
        return lower;
    }
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
