/* A vocabulary from Python's lists. */
#ifndef STANCERY_VOCABULARY_H
#define STANCERY_VOCABULARY_H

#include "reader.h"

/* Fill a zeroed vocabulary; -1 with an exception set. What was filled is cleared by `vocabulary_clear` either way. */
int vocabulary_fill(Vocabulary *vocabulary, PyObject *words, PyObject *chars, PyObject *idf);
void vocabulary_clear(Vocabulary *vocabulary);

#endif
