/* `Labeller`: labels of texts by a model's weights. */
#include "objects.h"

#include <string.h>

typedef struct {
    PyObject_HEAD
    PyObject *ngrams;
    Weights weights;
    double part;
    Py_buffer *views; /* of the weights: topics, their bias, and where there are stances their bias and each topic's */
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

/* As in models/plain.py. */
#define SHOWN 5
#define SHOWN_PART 0.25

typedef struct {
    Py_ssize_t start, end;
    double weight;
} Stretch;

/* The heaviest stretches of those found so far, heaviest first, of equals the first of the text. */
typedef struct {
    Stretch shown[SHOWN];
    int n;
} Heaviest;

/* Add a stretch, from its first letter or digit to its last; nothing where it has none. */
static void add_stretch(Heaviest *heaviest, Letters text, Stretch found) {
    while (found.start < found.end && !Py_UNICODE_ISALNUM(PyUnicode_READ(text.kind, text.data, found.start)))
        found.start++;
    if (found.start == found.end) return;
    while (!Py_UNICODE_ISALNUM(PyUnicode_READ(text.kind, text.data, found.end - 1))) found.end--;
    int at = heaviest->n;
    if (at < SHOWN)
        heaviest->n++;
    else if (heaviest->shown[--at].weight >= found.weight)
        return;
    for (; at > 0 && heaviest->shown[at - 1].weight < found.weight; at--) heaviest->shown[at] = heaviest->shown[at - 1];
    heaviest->shown[at] = found;
}

static PyObject *listed(const Heaviest *heaviest) {
    int n = 0;
    while (n < heaviest->n && heaviest->shown[n].weight >= SHOWN_PART * heaviest->shown[0].weight) n++;
    PyObject *list = PyList_New(n);
    for (int i = 0; list && i < n; i++) {
        const Stretch *found = &heaviest->shown[i];
        PyObject *stretch = Py_BuildValue("(nnd)", found->start, found->end, found->weight);
        if (stretch)
            PyList_SET_ITEM(list, i, stretch);
        else
            Py_CLEAR(list);
    }
    return list;
}

/* A text under way: where its chunks stand, and room for what they add to a logit. */
typedef struct {
    PyObject *text;
    Py_ssize_t n_chunks, *starts, *ends;
    double *shares;
} Told;

/* The heaviest of the stretches that models/plain.py finds by the shares: a new list of (start, end, weight). */
static PyObject *stretches_of(const Told *told, double part) {
    double heaviest = 0.0, weight = 0.0;
    for (Py_ssize_t i = 0; i < told->n_chunks; i++)
        if (told->shares[i] > heaviest) heaviest = told->shares[i];
    Heaviest found = {.n = 0};
    const Letters text = letters_of(told->text);
    for (Py_ssize_t i = 0, first = -1; heaviest > 0.0 && i < told->n_chunks; i++) {
        if (told->shares[i] < part * heaviest) continue;
        if (first < 0) first = i, weight = 0.0;
        weight += told->shares[i];
        if (i + 1 < told->n_chunks && told->shares[i + 1] >= part * heaviest) continue;
        add_stretch(&found, text, (Stretch){told->starts[first], told->ends[i], weight});
        first = -1;
    }
    return listed(&found);
}

static PyObject *stance_of(LabellerObject *self, Sums *sums, const Told *told, Py_ssize_t topic) {
    if (!self->weights.stances) return Py_NewRef(Py_None);
    double logits[N_STANCES];
    const int best = share_stance(sums, &self->weights, topic, logits, told->shares);
    PyObject *stretches = stretches_of(told, self->part);
    return stretches ? Py_BuildValue("(i(ddd)N)", best, logits[0], logits[1], logits[2], stretches) : NULL;
}

static PyObject *label_of(LabellerObject *self, Sums *sums, const Told *told, Py_ssize_t topic, double logit) {
    share_topic(sums, &self->weights, topic, told->shares);
    PyObject *stretches = stretches_of(told, self->part);
    PyObject *stance = stretches ? stance_of(self, sums, told, topic) : NULL;
    if (stance) return Py_BuildValue("(ndNN)", topic, logit, stretches, stance);
    Py_XDECREF(stretches);
    return NULL;
}

/* The labels of a text that is at hand. */
static PyObject *labels_of(LabellerObject *self, Sums *sums, PyObject *text, const double *logits,
                           const double *floors) {
    const size_t room = (size_t)sums->n_chunks + 1;
    Told told = {text, sums->n_chunks, NULL, NULL, PyMem_Malloc(room * (sizeof(double) + 2 * sizeof(Py_ssize_t)))};
    PyObject *found = told.shares ? PyList_New(0) : PyErr_NoMemory();
    for (Py_ssize_t topic = 0; found && topic < self->weights.topics.width; topic++) {
        if (!(logits[topic] >= floors[topic])) continue;
        if (!told.starts) {
            told.starts = (Py_ssize_t *)(told.shares + room);
            told.ends = told.starts + room;
            for (Py_ssize_t i = 0, start = 0, end; next_chunk(letters_of(text), &start, &end); i++, start = end)
                told.starts[i] = start, told.ends[i] = end;
        }
        PyObject *label = label_of(self, sums, &told, topic, logits[topic]);
        if (!label || PyList_Append(found, label)) Py_CLEAR(found);
        Py_XDECREF(label);
    }
    PyMem_Free(told.shares);
    return found;
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

static PyObject *labeller_label(LabellerObject *self, PyObject *args) {
    PyObject *text, *given, *found = NULL;
    Py_buffer floors;
    if (!PyArg_ParseTuple(args, "OO:label", &text, &given)) return NULL;
    if (numbers_from(given, 1, self->weights.topics.width, 1, &floors)) return NULL;
    PyObject *lower = lowered(text);
    Sums *sums = lower ? take_sums(self) : NULL;
    if (sums) {
        double logits[MOST_TOPICS];
        found = sum_text(sums, &self->weights, letters_of(lower), logits)
                    ? PyErr_NoMemory()
                    : labels_of(self, sums, text, logits, floors.buf);
        give_sums_back(self, sums);
    }
    Py_XDECREF(lower);
    PyBuffer_Release(&floors);
    return found;
}

static PyMethodDef labeller_methods[] = {
    {"logits", (PyCFunction)labeller_logits, METH_O, "logits(texts) -> float64 of shape (n_texts, n_topics)"},
    {"label", (PyCFunction)labeller_label, METH_VARARGS,
     "label(text, floors) -> list of (topic, logit, stretches, (stance, logits, stretches) or None)"},
    {NULL, NULL, 0, NULL},
};

/* Keep a matrix of that width, any where it is 0, whose columns lie side by side. */
static int keep_matrix(LabellerObject *self, PyObject *given, Py_ssize_t width, Matrix *matrix) {
    Py_buffer *view = &self->views[self->n_views];
    if (matrix_from(given, self->weights.vocabulary->size, view, matrix)) return -1;
    self->n_views++;
    if (matrix->step == sizeof(float) && matrix->width <= MOST_TOPICS && (!width || matrix->width == width)) return 0;
    PyErr_Format(PyExc_ValueError, "a matrix of up to %d columns, side by side, or of %d for stances, is needed",
                 MOST_TOPICS, N_STANCES);
    return -1;
}

static const double *keep_numbers(LabellerObject *self, PyObject *given, int n_dimensions) {
    Py_buffer *view = &self->views[self->n_views];
    if (numbers_from(given, n_dimensions, self->weights.topics.width, N_STANCES, view)) return NULL;
    self->n_views++;
    return view->buf;
}

static int keep_stances(LabellerObject *self, PyObject *stances, PyObject *bias) {
    const Py_ssize_t n_topics = self->weights.topics.width;
    if (PySequence_Size(stances) != n_topics) {
        if (!PyErr_Occurred()) PyErr_Format(PyExc_ValueError, "stances toward %zd topics are needed", n_topics);
        return -1;
    }
    if (!(self->weights.stance_bias = keep_numbers(self, bias, 2))) return -1;
    self->weights.stances = PyMem_Calloc((size_t)n_topics, sizeof *self->weights.stances);
    if (!self->weights.stances) return PyErr_NoMemory(), -1;
    for (Py_ssize_t topic = 0; topic < n_topics; topic++) {
        PyObject *given = PySequence_GetItem(stances, topic);
        const int failed = !given || keep_matrix(self, given, N_STANCES, &self->weights.stances[topic]);
        Py_XDECREF(given);
        if (failed) return -1;
    }
    return 0;
}

static int keep_weights(LabellerObject *self, PyObject *topics, PyObject *topic_bias, PyObject *stances,
                        PyObject *stance_bias) {
    self->views = PyMem_Calloc(MOST_TOPICS + 3, sizeof *self->views);
    if (!self->views) return PyErr_NoMemory(), -1;
    if (keep_matrix(self, topics, 0, &self->weights.topics)) return -1;
    if (!(self->weights.topic_bias = keep_numbers(self, topic_bias, 1))) return -1;
    return stance_bias == Py_None ? 0 : keep_stances(self, stances, stance_bias);
}

static void labeller_dealloc(LabellerObject *self) {
    for (Sums *sums = self->idle, *next; sums; sums = next) {
        next = sums->next;
        sums_free(sums);
    }
    for (Py_ssize_t i = 0; i < self->n_views; i++) PyBuffer_Release(&self->views[i]);
    PyMem_Free(self->views);
    PyMem_Free(self->weights.stances);
    Py_XDECREF(self->ngrams);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *labeller_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"ngrams", "topics", "topic_bias", "stances", "stance_bias", "part", NULL};
    PyObject *ngrams, *topics, *topic_bias, *stances, *stance_bias;
    double part;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!OOOOd:Labeller", names, &NgramsType, &ngrams, &topics,
                                     &topic_bias, &stances, &stance_bias, &part))
        return NULL;
    LabellerObject *self = (LabellerObject *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->ngrams = Py_NewRef(ngrams);
    self->part = part;
    self->weights.vocabulary = &((NgramsObject *)ngrams)->vocabulary;
    if (keep_weights(self, topics, topic_bias, stances, stance_bias)) Py_CLEAR(self);
    return (PyObject *)self;
}

PyTypeObject LabellerType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "models._kernel.Labeller",
    .tp_doc = "Labeller(ngrams, topics, topic_bias, stances, stance_bias, part): labels texts by a model's weights.",
    .tp_basicsize = sizeof(LabellerObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = labeller_new,
    .tp_dealloc = (destructor)labeller_dealloc,
    .tp_methods = labeller_methods,
};
