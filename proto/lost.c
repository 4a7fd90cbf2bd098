/* Lost time by cause, as pairs in heartbeats and in the site list: names of the causes, to and
 * from protobuf. */
#include "proto/wire.h"

#include <string.h>

static const char *const names[LOST_CAUSE_COUNT] = {
    [LOST_DATA] = "data",     [LOST_ENCODE] = "encode",
    [LOST_REBASE] = "rebase", [LOST_WAIT_QUORUM] = "wait_quorum",
    [LOST_PAUSED] = "paused", [LOST_RESTART] = "restart",
    [LOST_OTHER] = "other",
};

const char *lost_cause_name(uint32_t cause) {
    return names[cause < LOST_CAUSE_COUNT ? cause : LOST_OTHER];
}

size_t lost_pairs_fill(struct lost_pairs *pairs, const uint64_t lost_ms[static LOST_CAUSE_COUNT]) {
    size_t count = 0;
    for (uint32_t cause = 0; cause < LOST_CAUSE_COUNT; cause++) {
        if (lost_ms[cause] == 0) continue;
        atoll__v1__lost_time__init(&pairs->pairs[count]);
        pairs->pairs[count].cause = cause;
        pairs->pairs[count].ms = lost_ms[cause];
        pairs->items[count] = &pairs->pairs[count];
        count++;
    }
    return count;
}

enum status lost_pairs_read(size_t count, Atoll__V1__LostTime *const *items,
                            uint64_t out[static LOST_CAUSE_COUNT], struct error *error) {
    TRY(wire_check_range(count, 0, LOST_PAIRS_LIMIT, "lost", error));
    memset(out, 0, LOST_CAUSE_COUNT * sizeof *out);
    for (size_t i = 0; i < count; i++) {
        uint64_t *sum = &out[items[i]->cause < LOST_CAUSE_COUNT ? items[i]->cause : LOST_OTHER];
        *sum = items[i]->ms > UINT64_MAX - *sum ? UINT64_MAX : *sum + items[i]->ms;
    }
    return OK;
}
