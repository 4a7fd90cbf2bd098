/* What no honest coordinator says, and that a site must notice (sim/falsehood.c). */
#ifndef SIM_FALSEHOOD_H
#define SIM_FALSEHOOD_H

#include "crypto/sign.h"
#include "node/node_state.h"
#include "sim/disk.h"

enum falsehood {
    FALSE_HEAD = 0,
    FALSE_HEAD_KEY,
    FALSE_HEAD_RUN,
    FALSE_HEAD_SHORT,
    FALSE_ENTRY,
    FALSE_KIND,
    FALSE_STEP,
    FALSE_VERSION,
    FALSE_GENESIS,
    FALSE_SITE,
    FALSE_REVOKED,
    FALSE_EPOCH,
    FALSE_STEPS,
    FALSE_SIGNATURE,
    FALSE_RESUMED,
    FALSE_INVITED,
    FALSEHOOD_COUNT
};
extern const char *const falsehood_names[FALSEHOOD_COUNT];

struct falsehood_input {     /* borrowed */
    const struct disk *disk; /* the site's copy of the ledger */
    uint32_t site;
    const struct key_pair *key, *stranger; /* the coordinator's, somebody's */
};

/* False, with the story: the site believes it. */
bool falsehood_tell(const struct falsehood_input *input, enum falsehood kind, struct error *error);

#endif
