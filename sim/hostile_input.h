/* What strangers offer to parsers: texts, proofs, receipts, entries, snapshots, messages and
 * events, each made from what the run has at that moment and then bent.
 *
 * The rule is one for all readers: what is refused leaves no trace and says why; what is taken is
 * written again as the same bytes; and what was bent where a signature, a digest or a rule stands
 * before it is refused. Nothing of the run is changed. All randomness is from the world's luck.
 */
#ifndef SIM_HOSTILE_INPUT_H
#define SIM_HOSTILE_INPUT_H

#include "sim/disk.h"
#include "sim/scenario.h"

enum hostile_input_kind {
    HOSTILE_MANIFEST = 0, /* sim/hostile_input_text.c */
    HOSTILE_SETTING,
    HOSTILE_IDENTITY,
    HOSTILE_INVITATION,
    HOSTILE_PROOF, /* sim/hostile_input_ledger.c */
    HOSTILE_RECEIPT,
    HOSTILE_ENTRY,
    HOSTILE_RULE,
    HOSTILE_GENESIS,
    HOSTILE_REPLAY, /* sim/hostile_input_model.c */
    HOSTILE_STEP,
    HOSTILE_SNAPSHOT,
    HOSTILE_MESSAGE,
    HOSTILE_DELTA,
    HOSTILE_SUBMISSION,
    HOSTILE_SITE_EVENT, /* sim/hostile_input_event.c */
    HOSTILE_COORDINATOR_EVENT,
    HOSTILE_COUNT
};
const char *hostile_input_name(enum hostile_input_kind kind);

struct hostile_input { /* borrowed */
    struct world *world;
    const struct scenario *scenario;
    struct disk *ledger; /* the coordinator's: durable entries and payloads */
    const struct key_pair *key, *stranger;
    const float *initial;
    bool whole; /* of the ledger as it is, not of a prefix that is drawn */
};

/* False, with the story: something was taken that must not be. */
bool hostile_input_offer(const struct hostile_input *input, enum hostile_input_kind kind,
                         struct error *error);

#endif
