#include "json.h"

#include <stdio.h>
#include <string.h>

/* Of a letter: an escape, which no UTF-8 is longer than. Of a stretch beside its letters: names and numbers, the
 * greatest of which has 309 digits. */
#define MOST_OF_LETTER 6
#define MOST_OF_STRETCH 480

static int make_room(Json *json, size_t more) {
    if (json->room - json->n >= more) return 0;
    const size_t room = 2 * json->room + more;
    char *bytes = PyMem_RawRealloc(json->bytes, room);
    if (!bytes) return -1;
    json->bytes = bytes;
    json->room = room;
    return 0;
}

static char *write_all(char *to, const char *part, size_t n) { return (char *)memcpy(to, part, n) + n; }
#define WRITE(to, literal) write_all(to, literal, sizeof(literal) - 1)

static char *write_count(char *to, uint64_t count) {
    char digits[20];
    int n = 0;
    do digits[n++] = (char)('0' + count % 10);
    while (count /= 10);
    while (n) *to++ = digits[--n];
    return to;
}

/* A weight of a stretch, which is rounded and not below 0. */
static char *write_weight(char *to, double weight) {
    /* So great that it is whole, if there is such a weight. */
    if (weight >= 9e12) return to + sprintf(to, "%.0f.0", weight);
    const uint64_t parts = (uint64_t)llrint(weight * WEIGHT_PARTS);
    to = write_count(to, parts / WEIGHT_PARTS);
    *to++ = '.';
    uint64_t rest = parts % WEIGHT_PARTS, place = WEIGHT_PARTS / 10;
    do *to++ = (char)('0' + rest / place), rest %= place, place /= 10;
    while (rest);
    return to;
}

static char *write_escape(char *to, Py_UCS4 letter) {
    static const char hex[] = "0123456789abcdef";
    to = WRITE(to, "\\u");
    for (int shift = 12; shift >= 0; shift -= 4) *to++ = hex[letter >> shift & 15];
    return to;
}

static char *write_letter(char *to, Py_UCS4 letter) {
    if (letter == '"' || letter == '\\') *to++ = '\\';
    /* Half a surrogate pair has no UTF-8. */
    if (letter < 0x20 || (letter >= 0xD800 && letter < 0xE000)) return write_escape(to, letter);
    if (letter < 0x80) {
        *to++ = (char)letter;
        return to;
    }
    if (letter < 0x800)
        *to++ = (char)(0xC0 | letter >> 6);
    else {
        if (letter < 0x10000)
            *to++ = (char)(0xE0 | letter >> 12);
        else {
            *to++ = (char)(0xF0 | letter >> 18);
            *to++ = (char)(0x80 | (letter >> 12 & 63));
        }
        *to++ = (char)(0x80 | (letter >> 6 & 63));
    }
    *to++ = (char)(0x80 | (letter & 63));
    return to;
}

static int append_stretch(Json *json, Letters text, const Stretch *stretch) {
    const Py_ssize_t n_letters = stretch->end - stretch->start;
    if (make_room(json, MOST_OF_STRETCH + MOST_OF_LETTER * (size_t)n_letters)) return -1;
    char *to = json->bytes + json->n;
    to = write_count(WRITE(to, "{\"start\":"), (uint64_t)stretch->start);
    to = write_count(WRITE(to, ",\"end\":"), (uint64_t)stretch->end);
    to = WRITE(to, ",\"text\":\"");
    for (Py_ssize_t i = stretch->start; i < stretch->end; i++)
        to = write_letter(to, PyUnicode_READ(text.kind, text.data, i));
    to = write_weight(WRITE(to, "\",\"weight\":"), stretch->weight);
    to = WRITE(to, "},");
    json->n = (size_t)(to - json->bytes);
    return 0;
}

int json_evidence(Json *json, Letters text, const Heaviest *heaviest) {
    if (make_room(json, 2)) return -1;
    json->bytes[json->n++] = '[';
    for (int i = 0; i < heaviest->n; i++)
        if (append_stretch(json, text, &heaviest->shown[i])) return -1;
    /* In the place of the last comma. */
    if (heaviest->n) json->n--;
    json->bytes[json->n++] = ']';
    return 0;
}

void json_clear(Json *json) {
    PyMem_RawFree(json->bytes);
    *json = (Json){0};
}
