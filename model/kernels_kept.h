/* The table that a training began with, kept beside its state: another one has other bits, and the
 * fastest may be another after an update, on another machine, or because a measurement came out
 * differently. So a training goes on with what it began with, unless it is told otherwise or this
 * processor cannot; then it says so.
 */
#ifndef MODEL_KERNELS_KEPT_H
#define MODEL_KERNELS_KEPT_H

#include <stdbool.h>

#include "base/bytes.h"

enum { KERNELS_NAME_SIZE = 24 };

/* What to ask the trainer for: `asked` (NULL: nobody did) or, if the environment does not say,
 * `kept` ("" if nothing is kept). NULL: the default. Logs a warning where the answer is not `kept`,
 * at `where`. The result lives as long as both. */
const char *kernels_to_use(const char *asked, const char *kept, const char *where);

/* After a state: its mark and the name, padded. */
void kernels_append(struct buffer *state, const char *name);
/* Takes it off again. CORRUPT. `name` may be NULL. */
MUST_USE enum status kernels_split(struct bytes *state, char *name, struct error *error);
/* The name at the end of a file that was made of kernels_append and base/checksum.h's checksum; ""
 * if there is no such file. It is read before the rest, which needs a trainer. */
void kernels_peek(const char *path, char name[static KERNELS_NAME_SIZE]);

#endif
