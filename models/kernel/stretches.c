#include "stretches.h"

/* Add a stretch, from its first letter or digit to its last, its weight rounded; nothing where it has none. */
static void add_stretch(Heaviest *heaviest, Letters text, Stretch found) {
    while (found.start < found.end && !Py_UNICODE_ISALNUM(PyUnicode_READ(text.kind, text.data, found.start)))
        found.start++;
    if (found.start == found.end) return;
    while (!Py_UNICODE_ISALNUM(PyUnicode_READ(text.kind, text.data, found.end - 1))) found.end--;
    found.weight = nearbyint(found.weight * WEIGHT_PARTS) / WEIGHT_PARTS;
    int at = heaviest->n;
    if (at < SHOWN)
        heaviest->n++;
    else if (heaviest->shown[--at].weight >= found.weight)
        return;
    for (; at > 0 && heaviest->shown[at - 1].weight < found.weight; at--) heaviest->shown[at] = heaviest->shown[at - 1];
    heaviest->shown[at] = found;
}

Heaviest heaviest_stretches(Letters text, const Shares *chunks, double part) {
    const double *shares = chunks->shares;
    double most = 0.0, weight = 0.0;
    for (Py_ssize_t i = 0; i < chunks->n_chunks; i++)
        if (shares[i] > most) most = shares[i];
    Heaviest found = {.n = 0};
    for (Py_ssize_t i = 0, first = -1; most > 0.0 && i < chunks->n_chunks; i++) {
        if (shares[i] < part * most) continue;
        if (first < 0) first = i, weight = 0.0;
        weight += shares[i];
        if (i + 1 < chunks->n_chunks && shares[i + 1] >= part * most) continue;
        add_stretch(&found, text, (Stretch){chunks->starts[first], chunks->ends[i], weight});
        first = -1;
    }
    while (found.n && found.shown[found.n - 1].weight < SHOWN_PART * found.shown[0].weight) found.n--;
    return found;
}
