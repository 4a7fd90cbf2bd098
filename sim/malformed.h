/* What strangers offer to parsers: texts, proofs, receipts, entries, snapshots, messages and
 * events, each made from what the run has at that moment and then bent.
 *
 * The rule is one for all readers: what is refused leaves no trace and says why; what is taken is
 * written again as the same bytes; and what was bent where a signature, a digest or a rule stands
 * before it is refused. Nothing of the run is changed. All randomness is from the world's luck.
 */
#ifndef SIM_MALFORMED_H
#define SIM_MALFORMED_H

#include "sim/disk.h"
#include "sim/scenario.h"

enum malformed {
    MALFORMED_MANIFEST = 0, /* sim/malformed_text.c */
    MALFORMED_SETTING,
    MALFORMED_IDENTITY,
    MALFORMED_INVITATION,
    MALFORMED_PROOF, /* sim/malformed_ledger.c */
    MALFORMED_RECEIPT,
    MALFORMED_ENTRY,
    MALFORMED_RULE,
    MALFORMED_GENESIS,
    MALFORMED_REPLAY, /* sim/malformed_model.c */
    MALFORMED_STEP,
    MALFORMED_SNAPSHOT,
    MALFORMED_MESSAGE,
    MALFORMED_DELTA,
    MALFORMED_SUBMISSION,
    MALFORMED_SITE_EVENT, /* sim/malformed_event.c */
    MALFORMED_COORDINATOR_EVENT,
    MALFORMED_COUNT
};
const char *malformed_name(enum malformed kind);

struct malformed_input { /* borrowed */
    struct world *world;
    const struct scenario *scenario;
    struct disk *ledger; /* the coordinator's: durable entries and payloads */
    const struct key_pair *key, *stranger;
    const float *initial;
};

/* False, with the story: something was taken that must not be. */
bool malformed_offer(const struct malformed_input *input, enum malformed kind, struct error *error);

#endif
