/* `Labeller`: labels of texts by a model's weights. */
#include "json.h"
#include "objects.h"

#include <math.h>
#include <string.h>

typedef struct {
    PyObject_HEAD
    PyObject *ngrams, *evidence; /* `evidence` makes what is shown of a start, an end, a text and a weight */
    Weights weights;
    double part;
    Py_buffer *views; /* of the weights: topics, their bias, and where there are stances their bias and the sides */
    Py_ssize_t n_views;
    Sums *idle; /* that nobody has; only touched under the GIL */
} LabellerObject;

static Sums *take_sums(LabellerObject *self) {
    Sums *sums = self->idle;
    if (sums)
        self->idle = sums->next;
    else if (!(sums = sums_new(&self->weights)))
        PyErr_NoMemory();
    return sums;
}

static void give_sums_back(LabellerObject *self, Sums *sums) {
    sums->next = self->idle;
    self->idle = sums;
}

static int sum_all(Sums *sums, const Weights *weights, PyObject *texts, double *logits) {
    int failed = 0;
    for (Py_ssize_t i = 0; !failed && i < PyList_GET_SIZE(texts); i++, logits += weights->topics.width)
        failed = sum_text(sums, weights, letters_of(PyList_GET_ITEM(texts, i)), logits);
    return failed;
}

static PyObject *labeller_logits(LabellerObject *self, PyObject *texts) {
    PyObject *lower = all_lowered(texts), *found = NULL;
    Sums *sums = lower ? take_sums(self) : NULL;
    if (sums) {
        const Py_ssize_t n = PyList_GET_SIZE(lower);
        found = PyByteArray_FromStringAndSize(NULL, n * self->weights.topics.width * (Py_ssize_t)sizeof(double));
        if (found) {
            double *logits = (double *)PyByteArray_AS_STRING(found);
            int failed;
            /* Nobody else knows these texts and logits. */
            Py_BEGIN_ALLOW_THREADS
            failed = sum_all(sums, &self->weights, lower, logits);
            Py_END_ALLOW_THREADS
            if (failed) {
                PyErr_NoMemory();
                Py_CLEAR(found);
            }
        }
        give_sums_back(self, sums);
    }
    Py_XDECREF(lower);
    return found;
}

/* What decided a topic or a stance; encoded, it lies at `json` up to `json_end`. */
typedef struct {
    Heaviest heaviest;
    size_t json, json_end;
} Decisive;

/* A topic of a text, the probabilities of it and of the stances toward it, and what decided them. */
typedef struct {
    Py_ssize_t text, topic;
    double score, stances[N_STANCES];
    int stance;
    Decisive of_topic, of_stance;
} Found;

typedef struct {
    Found *found;
    Py_ssize_t n, room;
    int encoded;
    Json json;
} Findings;

static Found *next_found(Findings *findings) {
    if (findings->n == findings->room) {
        const Py_ssize_t room = 2 * findings->room + 4;
        Found *found = PyMem_RawRealloc(findings->found, (size_t)room * sizeof *found);
        if (!found) return NULL;
        findings->found = found;
        findings->room = room;
    }
    return &findings->found[findings->n++];
}

/* As `sigmoid_of` and `softmax_of` in models/plain.py. */
static double sigmoid(double logit) { return 0.5 * (1.0 + tanh(0.5 * logit)); }

static void softmax(double *logits, double highest) {
    double total = 0.0;
    for (int t = 0; t < N_STANCES; t++) total += logits[t] = exp(logits[t] - highest);
    for (int t = 0; t < N_STANCES; t++) logits[t] /= total;
}

/* Find out where the chunks of a text stand, whose lower-case letters are at hand; -1 where memory is short. */
static int reserve_shares(Shares *chunks, Letters text, Letters lower, const Sums *sums) {
    const size_t room = (size_t)sums->n_chunks + 1;
    chunks->shares = PyMem_RawMalloc(room * (sizeof(double) + 2 * sizeof(Py_ssize_t)));
    if (!chunks->shares) return -1;
    chunks->n_chunks = sums->n_chunks;
    chunks->starts = (Py_ssize_t *)(chunks->shares + room);
    chunks->ends = chunks->starts + room;
    if (text.length == lower.length)
        for (Py_ssize_t i = 0; i < sums->n_chunks; i++) {
            const Piece *piece = &sums->reader->pieces[i];
            chunks->starts[i] = piece->at, chunks->ends[i] = piece->at + piece->length;
        }
    else /* Some letters have more than one in lower case; none is lost. */
        for (Py_ssize_t i = 0, start = 0, end; next_chunk(text, &start, &end); i++, start = end)
            chunks->starts[i] = start, chunks->ends[i] = end;
    return 0;
}

static int find_decisive(const LabellerObject *self, Letters text, const Shares *chunks, Findings *findings,
                         Decisive *decisive) {
    decisive->heaviest = heaviest_stretches(text, chunks, self->part);
    if (!findings->encoded) return 0;
    decisive->json = findings->json.n;
    const int failed = json_evidence(&findings->json, text, &decisive->heaviest);
    decisive->json_end = findings->json.n;
    return failed;
}

/* Add the labels of a text to the findings; -1 where memory is short. Needs no GIL. */
static int find_labels(const LabellerObject *self, Sums *sums, Py_ssize_t place, Letters text, Letters lower,
                       const double *floors, Findings *findings) {
    double logits[MOST_TOPICS];
    if (sum_text(sums, &self->weights, lower, logits)) return -1;
    Shares chunks = {0};
    int failed = 0;
    for (Py_ssize_t topic = 0; !failed && topic < self->weights.topics.width; topic++) {
        if (!(logits[topic] >= floors[topic])) continue;
        Found *found = NULL;
        failed = (!chunks.shares && reserve_shares(&chunks, text, lower, sums)) || !(found = next_found(findings));
        if (failed) break;
        *found = (Found){.text = place, .topic = topic, .score = sigmoid(logits[topic])};
        share_topic(sums, &self->weights, topic, chunks.shares);
        failed = find_decisive(self, text, &chunks, findings, &found->of_topic);
        if (failed || !self->weights.sides) continue;
        found->stance = share_stance(sums, &self->weights, topic, found->stances, chunks.shares);
        softmax(found->stances, found->stances[found->stance]);
        failed = find_decisive(self, text, &chunks, findings, &found->of_stance);
    }
    PyMem_RawFree(chunks.shares);
    return failed ? -1 : 0;
}

static PyObject *shown_of(const LabellerObject *self, PyObject *text, const Stretch *found) {
    PyObject *given[4] = {PyLong_FromSsize_t(found->start), PyLong_FromSsize_t(found->end),
                          PyUnicode_Substring(text, found->start, found->end), PyFloat_FromDouble(found->weight)};
    const int is_whole = given[0] && given[1] && given[2] && given[3];
    PyObject *shown = is_whole ? PyObject_Vectorcall(self->evidence, given, 4, NULL) : NULL;
    for (int i = 0; i < 4; i++) Py_XDECREF(given[i]);
    return shown;
}

static PyObject *listed(const LabellerObject *self, PyObject *text, const Heaviest *heaviest) {
    PyObject *list = PyList_New(heaviest->n);
    for (int i = 0; list && i < heaviest->n; i++) {
        PyObject *shown = shown_of(self, text, &heaviest->shown[i]);
        if (shown)
            PyList_SET_ITEM(list, i, shown);
        else
            Py_CLEAR(list);
    }
    return list;
}

static PyObject *evidence_of(const LabellerObject *self, const Findings *findings, PyObject *text,
                             const Decisive *decisive) {
    if (!findings->encoded) return listed(self, text, &decisive->heaviest);
    return PyBytes_FromStringAndSize(findings->json.bytes + decisive->json,
                                     (Py_ssize_t)(decisive->json_end - decisive->json));
}

static PyObject *label_of(const LabellerObject *self, const Findings *findings, PyObject *text, const Found *found) {
    PyObject *of_topic = evidence_of(self, findings, text, &found->of_topic);
    if (!of_topic) return NULL;
    if (!self->weights.sides) return Py_BuildValue("(ndNO)", found->topic, found->score, of_topic, Py_None);
    PyObject *of_stance = evidence_of(self, findings, text, &found->of_stance);
    if (!of_stance) return Py_DECREF(of_topic), NULL;
    const double *stances = found->stances;
    return Py_BuildValue("(ndN(i(ddd)N))", found->topic, found->score, of_topic, found->stance, stances[0], stances[1],
                         stances[2], of_stance);
}

/* A new list of the labels of each text. */
static PyObject *labels_of(const LabellerObject *self, const Findings *findings, PyObject *texts) {
    const Py_ssize_t n = PyTuple_GET_SIZE(texts);
    PyObject *all = PyList_New(n);
    for (Py_ssize_t i = 0, next = 0; all && i < n; i++) {
        PyObject *labels = PyList_New(0);
        for (; labels && next < findings->n && findings->found[next].text == i; next++) {
            PyObject *label = label_of(self, findings, PyTuple_GET_ITEM(texts, i), &findings->found[next]);
            if (!label || PyList_Append(labels, label)) Py_CLEAR(labels);
            Py_XDECREF(label);
        }
        if (labels)
            PyList_SET_ITEM(all, i, labels);
        else
            Py_CLEAR(all);
    }
    return all;
}

/* Numbers of float64 that lie side by side, in this shape; to be released. */
static int numbers_from(PyObject *object, int n_dimensions, Py_ssize_t first, Py_ssize_t second, Py_buffer *view) {
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)) return -1;
    if (!strcmp(view->format, "d") && view->ndim == n_dimensions && view->shape[0] == first &&
        (n_dimensions == 1 || view->shape[1] == second))
        return 0;
    PyErr_Format(PyExc_ValueError, "float64 numbers, %zd times %zd, are needed", first, second);
    PyBuffer_Release(view);
    return -1;
}

/* The labels of the texts, a tuple that nobody changes. */
static PyObject *label_all(LabellerObject *self, PyObject *texts, const double *floors, int encoded) {
    const Py_ssize_t n = PyTuple_GET_SIZE(texts);
    PyObject *lower = all_lowered(texts), *labels = NULL;
    Sums *sums = lower ? take_sums(self) : NULL;
    if (sums) {
        Findings findings = {.encoded = encoded};
        int failed = 0;
        /* One text is done before another thread could take over. */
        PyThreadState *state = n > 1 ? PyEval_SaveThread() : NULL;
        for (Py_ssize_t i = 0; !failed && i < n; i++)
            failed = find_labels(self, sums, i, letters_of(PyTuple_GET_ITEM(texts, i)),
                                 letters_of(PyList_GET_ITEM(lower, i)), floors, &findings);
        if (state) PyEval_RestoreThread(state);
        labels = failed ? PyErr_NoMemory() : labels_of(self, &findings, texts);
        PyMem_RawFree(findings.found);
        json_clear(&findings.json);
        give_sums_back(self, sums);
    }
    Py_XDECREF(lower);
    return labels;
}

static PyObject *labeller_label(LabellerObject *self, PyObject *args) {
    PyObject *given, *given_floors;
    Py_buffer floors;
    int encoded = 0;
    if (!PyArg_ParseTuple(args, "OO|p:label", &given, &given_floors, &encoded)) return NULL;
    if (numbers_from(given_floors, 1, self->weights.topics.width, 1, &floors)) return NULL;
    PyObject *texts = PySequence_Tuple(given);
    PyObject *labels = texts ? label_all(self, texts, floors.buf, encoded) : NULL;
    Py_XDECREF(texts);
    PyBuffer_Release(&floors);
    return labels;
}

static PyMethodDef labeller_methods[] = {
    {"logits", (PyCFunction)labeller_logits, METH_O, "logits(texts) -> float64 of shape (n_texts, n_topics)"},
    {"label", (PyCFunction)labeller_label, METH_VARARGS,
     "label(texts, floors, encoded=False) -> for each text a list of (topic, score, evidence, (stance, scores, evidence)"
     " or None); evidence as JSON where it shall be encoded"},
    {NULL, NULL, 0, NULL},
};

/* Keep a matrix of that width, any where it is 0, whose columns lie side by side. */
static int keep_matrix(LabellerObject *self, PyObject *given, Py_ssize_t width, Matrix *matrix) {
    Py_buffer *view = &self->views[self->n_views];
    if (matrix_from(given, self->weights.vocabulary->size, view, matrix)) return -1;
    self->n_views++;
    if (matrix->step == sizeof(float) && matrix->width <= MOST_TOPICS && (!width || matrix->width == width)) return 0;
    PyErr_Format(PyExc_ValueError, "a matrix of up to %d columns, side by side, or of %d for a topic's sides, is needed",
                 MOST_TOPICS, N_SIDES);
    return -1;
}

static const double *keep_numbers(LabellerObject *self, PyObject *given, int n_dimensions) {
    Py_buffer *view = &self->views[self->n_views];
    if (numbers_from(given, n_dimensions, self->weights.topics.width, N_STANCES, view)) return NULL;
    self->n_views++;
    return view->buf;
}

static int keep_sides(LabellerObject *self, PyObject *sides, PyObject *bias) {
    const Py_ssize_t n_topics = self->weights.topics.width;
    if (PySequence_Size(sides) != n_topics) {
        if (!PyErr_Occurred()) PyErr_Format(PyExc_ValueError, "the sides of %zd topics are needed", n_topics);
        return -1;
    }
    if (!(self->weights.stance_bias = keep_numbers(self, bias, 2))) return -1;
    self->weights.sides = PyMem_Calloc((size_t)n_topics, sizeof *self->weights.sides);
    if (!self->weights.sides) return PyErr_NoMemory(), -1;
    for (Py_ssize_t topic = 0; topic < n_topics; topic++) {
        PyObject *given = PySequence_GetItem(sides, topic);
        const int failed = !given || keep_matrix(self, given, N_SIDES, &self->weights.sides[topic]);
        Py_XDECREF(given);
        if (failed) return -1;
    }
    return 0;
}

static int keep_weights(LabellerObject *self, PyObject *topics, PyObject *topic_bias, PyObject *sides,
                        PyObject *stance_bias) {
    self->views = PyMem_Calloc(MOST_TOPICS + 3, sizeof *self->views);
    if (!self->views) return PyErr_NoMemory(), -1;
    if (keep_matrix(self, topics, 0, &self->weights.topics)) return -1;
    if (!(self->weights.topic_bias = keep_numbers(self, topic_bias, 1))) return -1;
    return stance_bias == Py_None ? 0 : keep_sides(self, sides, stance_bias);
}

static void labeller_dealloc(LabellerObject *self) {
    for (Sums *sums = self->idle, *next; sums; sums = next) {
        next = sums->next;
        sums_free(sums);
    }
    for (Py_ssize_t i = 0; i < self->n_views; i++) PyBuffer_Release(&self->views[i]);
    PyMem_Free(self->views);
    PyMem_Free(self->weights.sides);
    Py_XDECREF(self->ngrams);
    Py_XDECREF(self->evidence);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *labeller_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"ngrams", "topics", "topic_bias", "sides", "stance_bias", "part", "evidence", NULL};
    PyObject *ngrams, *topics, *topic_bias, *sides, *stance_bias, *evidence;
    double part;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!OOOOdO:Labeller", names, &NgramsType, &ngrams, &topics,
                                     &topic_bias, &sides, &stance_bias, &part, &evidence))
        return NULL;
    LabellerObject *self = (LabellerObject *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->ngrams = Py_NewRef(ngrams);
    self->evidence = Py_NewRef(evidence);
    self->part = part;
    self->weights.vocabulary = &((NgramsObject *)ngrams)->vocabulary;
    if (keep_weights(self, topics, topic_bias, sides, stance_bias)) Py_CLEAR(self);
    return (PyObject *)self;
}

PyTypeObject LabellerType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "models._kernel.Labeller",
    .tp_doc = "Labeller(ngrams, topics, topic_bias, sides, stance_bias, part, evidence): labels texts by a model's weights.",
    .tp_basicsize = sizeof(LabellerObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = labeller_new,
    .tp_dealloc = (destructor)labeller_dealloc,
    .tp_methods = labeller_methods,
};
