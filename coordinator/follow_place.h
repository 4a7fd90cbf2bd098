/* What a follower is sent in the place of an entry. Pure.
 *
 * An entry goes as it is, with the payload that it names. A contribution of the follower's own goes
 * as a stub where the follower asked for that: it has entry and payload, and so only what the
 * ledger added. The payload does not go with an entry that no step will ever merge, nor with one
 * whose payload the follower's snapshot had.
 */
#ifndef COORDINATOR_FOLLOW_PLACE_H
#define COORDINATOR_FOLLOW_PLACE_H

#include "fed/ledger.h"

struct follower { /* and what it asked for */
    uint32_t site;
    bool omit_own;
    uint64_t payloads_from;
    /* No step will ever merge the contribution that is this entry. */
    bool (*is_dropped)(void *context, uint64_t index);
    void *context;
};

struct follow_place {
    bool is_own;      /* a stub goes instead of the entry */
    bool is_dropped;  /* the follower is told so */
    bool has_payload; /* it goes along */
    struct {
        uint64_t sequence, time_ms;
        uint32_t epoch, header; /* the first bytes of the header's digest */
    } stub;
    struct contribution contribution; /* has_payload: what it is of */
};

/* `raw` is entry `index` of our ledger; what does not decode is an error of ours. */
MUST_USE enum status follow_place_of(struct bytes raw, uint64_t index,
                                     const struct follower *follower, struct follow_place *out,
                                     struct error *error);

#endif
