/* The extension in one piece: its parts call one another for every n-gram, and only so does a compiler see through the
 * calls. */
#include "table.c"
#include "reader.c"
#include "products.c"
#include "labels.c"
#include "vocabulary.c"
#include "objects.c"
#include "stretches.c"
#include "json.c"
#include "labeller.c"
#include "module.c"
