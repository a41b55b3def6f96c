/* What Python's objects share: the way from its values to C's and back. */
#ifndef STANCERY_OBJECTS_H
#define STANCERY_OBJECTS_H

#include "labels.h"
#include "vocabulary.h"

typedef struct {
    PyObject_HEAD
    Vocabulary vocabulary;
    Reader *idle; /* readers that nobody has; only touched under the GIL */
} NgramsObject;

extern PyTypeObject NgramsType, LabellerType;

/* A matrix of float32, (columns of the vocabulary or more, width), in any order in memory; to be released. */
int matrix_from(PyObject *object, Py_ssize_t size, Py_buffer *view, Matrix *matrix);

/* A new reference to the lower-case text. */
PyObject *lowered(PyObject *text);

/* A new list of the texts in lower case. */
PyObject *all_lowered(PyObject *texts);

#endif
