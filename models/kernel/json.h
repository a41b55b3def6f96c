/* Evidence as JSON, written without the GIL: most of an answer is evidence, and to make objects of it only to write them
 * out would take a third of the time. */
#ifndef STANCERY_JSON_H
#define STANCERY_JSON_H

#include "stretches.h"

typedef struct {
    char *bytes;
    size_t n, room;
} Json;

/* Append the list of stretches, as `models.results.Evidence` is encoded; -1 where memory is short. */
int json_evidence(Json *json, Letters text, const Heaviest *heaviest);
void json_clear(Json *json);

#endif
