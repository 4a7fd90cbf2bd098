/* The inside of sim/hostile_input*.c. */
#ifndef SIM_HOSTILE_INPUT_INTERNAL_H
#define SIM_HOSTILE_INPUT_INTERNAL_H

#include "base/random.h"
#include "fed/replay.h"
#include "sim/hostile_input.h"

struct offer {
    const struct hostile_input *input;
    struct random random;
    struct run_state *run; /* a prefix of the ledger, as long as drawn */
    struct error *error;
    bool failed;
};

/* The first claim that does not hold is the story. */
void claim(struct offer *offer, bool holds, const char *what);
uint64_t offer_below(struct offer *offer, uint64_t limit);
/* Changes, cuts or lengthens; never to the same bytes. */
void offer_bend(struct offer *offer, struct buffer *bytes);
/* A run state over the first `size` entries. */
struct run_state *offer_run(struct offer *offer, uint64_t size);
/* A contribution among the run's entries, drawn; false: there is none. */
bool offer_contribution(struct offer *offer, struct ledger_entry *out, uint64_t *index);

void offer_manifest(struct offer *offer);
void offer_setting(struct offer *offer);
void offer_identity(struct offer *offer);
void offer_invitation(struct offer *offer);
void offer_proof(struct offer *offer);
void offer_receipt(struct offer *offer);
void offer_entry(struct offer *offer);
void offer_rule(struct offer *offer);
void offer_genesis(struct offer *offer);
void offer_replay(struct offer *offer);
void offer_step(struct offer *offer);
void offer_snapshot(struct offer *offer);
void offer_message(struct offer *offer);
void offer_delta(struct offer *offer);
void offer_submission(struct offer *offer);
void offer_site_event(struct offer *offer);
void offer_coordinator_event(struct offer *offer);

#endif
