/* The nearest known name to a misspelt one, for messages that tell a person what they probably
 * meant.
 *
 * Nearness is the optimal string alignment distance (insert, delete, replace, swap of two
 * neighbours, one each), with '-', '_' and '.' and upper and lower case taken as equal, since those
 * are what people mix up. A name is offered only if it is close enough to be a slip of the hand: at
 * most one edit in three characters.
 */
#ifndef BASE_SUGGEST_H
#define BASE_SUGGEST_H

#include <stddef.h>

#include "base/status.h"

/* Start with suggest_init, offer every known name, read `best`: NULL if none is near. Names are
 * borrowed. */
struct suggestion {
    const char *word;
    const char *best;
    size_t distance; /* of best; a later name must be strictly nearer */
};

void suggest_init(struct suggestion *suggestion, const char *word);
void suggest_offer(struct suggestion *suggestion, const char *name);
/* INVALID: "unknown key upload.rate_limt; did you mean upload.rate_limit?"; without a nearest name
 * `otherwise` says where all names are. The one wording for flags, commands, variables and keys. */
MUST_USE enum status suggest_refuse(const char *what, const char *name, const char *nearest,
                                    const char *otherwise, struct error *error);
/* The edits from a to b; words past 127 characters are cut there, which bounds the work. */
size_t suggest_distance(const char *a, const char *b);

#endif
