/* What no honest coordinator says, and that a site must notice (sim/byzantine_coordinator.c). */
#ifndef SIM_BYZANTINE_COORDINATOR_H
#define SIM_BYZANTINE_COORDINATOR_H

#include "crypto/sign.h"
#include "node/node_state.h"
#include "sim/disk.h"

enum byzantine_coordinator {
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
extern const char *const byzantine_coordinator_names[FALSEHOOD_COUNT];

struct byzantine_coordinator_input { /* borrowed */
    const struct disk *disk;         /* the site's copy of the ledger */
    uint32_t site;
    const struct key_pair *key, *stranger; /* the coordinator's, somebody's */
};

/* False, with the story: the site believes it. */
bool byzantine_coordinator_tell(const struct byzantine_coordinator_input *input,
                                enum byzantine_coordinator kind, struct error *error);

#endif
