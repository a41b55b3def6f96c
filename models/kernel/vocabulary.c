#include "vocabulary.h"

#include <math.h>
#include <string.h>

/* The code points of a text, in memory of PyMem_Free; NULL with an exception set. */
static Py_UCS4 *code_points(PyObject *text, Py_ssize_t *length) {
    if (!PyUnicode_Check(text)) {
        PyErr_SetString(PyExc_TypeError, "an n-gram must be text");
        return NULL;
    }
    *length = PyUnicode_GET_LENGTH(text);
    return PyUnicode_AsUCS4Copy(text);
}

/* One word, or two joined by a space; an n-gram of more words occurs in no text, and is passed over. */
static int put_word(Vocabulary *vocabulary, const Py_UCS4 *letters, Py_ssize_t length, int32_t column) {
    int32_t parts[2];
    Py_ssize_t start = 0;
    int n_parts = 0;
    for (Py_ssize_t at = 0; at <= length; at++)
        if (at == length || letters[at] == ' ') {
            if (n_parts == 2) return 0;
            parts[n_parts] = word_table_put(&vocabulary->words, letters + start, (size_t)(at - start));
            if (parts[n_parts] < 0) return -1;
            n_parts++;
            start = at + 1;
        }
    if (n_parts == 2)
        pair_table_put(&vocabulary->pairs, parts[0], parts[1], column);
    else
        vocabulary->word_column[parts[0]] = column;
    return 0;
}

static int put_all(Vocabulary *vocabulary, PyObject *grams, Py_ssize_t first) {
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(grams); i++) {
        Py_ssize_t length;
        Py_UCS4 *letters = code_points(PySequence_Fast_GET_ITEM(grams, i), &length);
        if (!letters) return -1;
        int32_t column = (int32_t)(first + i);
        int failed = 0;
        if (column < vocabulary->n_words)
            failed = put_word(vocabulary, letters, length, column);
        else if (length <= MAX_GRAM)
            gram_table_put(&vocabulary->grams, letters, (int)length, column);
        PyMem_Free(letters);
        if (failed) {
            PyErr_NoMemory();
            return -1;
        }
    }
    return 0;
}

static int reserve(Vocabulary *vocabulary, Py_ssize_t n_chars) {
    size_t n_words = (size_t)vocabulary->n_words, most = 2 * n_words;
    vocabulary->word_column = PyMem_RawMalloc((most + 1) * sizeof *vocabulary->word_column);
    vocabulary->idf = PyMem_RawMalloc(((size_t)vocabulary->size + 1) * sizeof *vocabulary->idf);
    if (!vocabulary->word_column || !vocabulary->idf ||
        gram_table_init(&vocabulary->grams, (size_t)n_chars, (int32_t)n_words) ||
        word_table_init(&vocabulary->words, most) || pair_table_init(&vocabulary->pairs, n_words)) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i <= most; i++) vocabulary->word_column[i] = MISSING;
    for (int count = 1; count < KNOWN_COUNTS; count++) vocabulary->tf[count] = 1.0 + log(count);
    return 0;
}

static int copy_idf(Vocabulary *vocabulary, PyObject *idf) {
    Py_buffer view;
    if (PyObject_GetBuffer(idf, &view, PyBUF_CONTIG_RO | PyBUF_FORMAT)) return -1;
    int fits = view.ndim == 1 && !strcmp(view.format, "f") && view.shape[0] == vocabulary->size;
    if (fits)
        memcpy(vocabulary->idf, view.buf, (size_t)view.len);
    else
        PyErr_Format(PyExc_ValueError, "idf must be %zd numbers of float32, one for each n-gram", vocabulary->size);
    PyBuffer_Release(&view);
    return fits ? 0 : -1;
}

int vocabulary_fill(Vocabulary *vocabulary, PyObject *words, PyObject *chars, PyObject *idf) {
    PyObject *word_list = PySequence_Fast(words, "words must be a sequence");
    PyObject *char_list = word_list ? PySequence_Fast(chars, "chars must be a sequence") : NULL;
    int failed = !char_list;
    if (!failed) {
        Py_ssize_t n_chars = PySequence_Fast_GET_SIZE(char_list);
        vocabulary->n_words = PySequence_Fast_GET_SIZE(word_list);
        vocabulary->size = vocabulary->n_words + n_chars;
        if (vocabulary->size > INT32_MAX / 4) {
            PyErr_SetString(PyExc_OverflowError, "too many n-grams");
            failed = 1;
        } else
            failed = reserve(vocabulary, n_chars) || copy_idf(vocabulary, idf) || put_all(vocabulary, word_list, 0) ||
                     put_all(vocabulary, char_list, vocabulary->n_words);
    }
    Py_XDECREF(word_list);
    Py_XDECREF(char_list);
    return failed ? -1 : 0;
}

void vocabulary_clear(Vocabulary *vocabulary) {
    gram_table_clear(&vocabulary->grams);
    word_table_clear(&vocabulary->words);
    pair_table_clear(&vocabulary->pairs);
    PyMem_RawFree(vocabulary->word_column);
    PyMem_RawFree(vocabulary->idf);
}
