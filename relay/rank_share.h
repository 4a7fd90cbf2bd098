/* What a rank at a relay holds, as it said itself: both ends of the relay read it out of the
 * messages that they pass on, and so know which values travel. */
#ifndef RELAY_RANK_SHARE_H
#define RELAY_RANK_SHARE_H

#include "attach/share.h"

struct rank_share {
    struct coverage_piece *pieces; /* as declared */
    size_t count, capacity;
    struct coverage_piece *owned; /* those that it copies out; known once it may go */
    size_t owned_count;
};

void rank_share_deinit(struct rank_share *share);
/* A DECLARE. INVALID: it is none, or not of these tensors. */
MUST_USE enum status rank_share_declare(struct rank_share *share,
                                        const struct coverage_tensor *tensors, uint32_t count,
                                        uint32_t rank, const uint8_t *bytes, size_t size,
                                        struct error *error);
/* A GO. */
MUST_USE enum status rank_share_go(struct rank_share *share, const uint8_t *bytes, size_t size,
                                   struct error *error);

#endif
