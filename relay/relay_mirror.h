/* A session's memory on a relay's host: ranks map it as they would the node's own
 * (libatoll/wire.h). The relay writes into it what the node says, and reads what ranks report. */
#ifndef RELAY_RELAY_MIRROR_H
#define RELAY_RELAY_MIRROR_H

#include "attach/border.h"
#include "attach/share.h"
#include "relay/relay_frame.h"

struct relay_mirror {
    unsigned uses; /* by ranks, and by the relay while it is the newest */
    int descriptor;
    struct wire_shared *shared;
    size_t size;
    uint64_t session, front; /* bytes of the front that have come */
    uint32_t world;
    struct border_places at;
    struct coverage_tensor *tensors; /* known once the front is whole */
    uint32_t tensor_count;
    struct coverage_piece *held; /* by the ranks here, each place once; NULL: not asked yet */
    size_t held_count;
    struct share_walk walk; /* of the offer that comes in */
    uint64_t offer, floats_left;
    struct frame_order order; /* the last one */
};

/* The first part of a front begins another mirror; it has one use. The parts come in order. */
MUST_USE enum status relay_mirror_begin(const struct frame_memory *part, struct relay_mirror **out,
                                        struct error *error);
MUST_USE enum status relay_mirror_add(struct relay_mirror *mirror, const struct frame_memory *part,
                                      const uint8_t *bytes, struct error *error);
void relay_mirror_release(struct relay_mirror *mirror); /* NULL is a no-op */

struct wire_rank *relay_mirror_line(const struct relay_mirror *mirror, uint32_t rank);
const float *relay_mirror_out(const struct relay_mirror *mirror);

/* `held` is set by then. */
MUST_USE enum status relay_mirror_offer(struct relay_mirror *mirror,
                                        const struct frame_offer *offer, struct error *error);
MUST_USE enum status relay_mirror_data(struct relay_mirror *mirror, const uint8_t *bytes,
                                       size_t size, struct error *error);
MUST_USE enum status relay_mirror_order(struct relay_mirror *mirror,
                                        const struct frame_order *order, struct error *error);
void relay_mirror_tell(struct relay_mirror *mirror, const struct frame_tell *tell);

#endif
