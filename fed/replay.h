/* Replay: from a ledger and its payloads to the model, the way an auditor, a restarted coordinator
 * and a site all do it.
 *
 * The caller lends a source of bytes (a store, a copied directory, a simulated disk). replay_run
 * feeds entries to a run_state and steps to a model_state and checks every digest, signature, rule
 * and state root on the way. The first disagreement stops it, named by entry.
 */
#ifndef FED_REPLAY_H
#define FED_REPLAY_H

#include "fed/model_state.h"
#include "fed/run_state.h"

struct ledger_source {
    /* Appends entry `index`. NOT_FOUND past the end; CORRUPT. */
    enum status (*entry)(void *context, uint64_t index, struct buffer *out, struct error *error);
    /* Puts what lies under that digest into *out, which is empty; whether it is what the digest
     * says, who asks will see (replay_payload). NOT_FOUND; what else is wrong with it. */
    enum status (*payload)(void *context, const uint8_t digest[DIGEST_SIZE], uint64_t size,
                           struct buffer *out, struct error *error);
    void *context;
};

/* Reads a payload and verifies it, once each. *lost on failure: it is not there or is damaged, and
 * another copy helps; else it is what was signed and breaks the codec's rules (CORRUPT). The caller
 * destroys *out. */
MUST_USE enum status replay_payload(const struct ledger_source *source,
                                    const struct payload_terms *terms,
                                    struct verified_payload **out, bool *lost, struct error *error);

struct replay_options {
    /* an own store read back at start: no signatures, and of the state roots only the newest, in
     * which a difference anywhere shows. Several times as fast */
    bool trusted;
    uint64_t until;        /* stop before this entry; UINT64_MAX: to the end */
    uint64_t tensors_from; /* steps with a version at or below this were in the model already (a
                              snapshot): not applied */
    bool every_payload; /* read and check payloads of contributions that no step has merged yet too
                           (audit) */
    /* Called after each entry (may be NULL): for progress, and to keep what a caller needs. */
    void (*progress)(void *context, uint64_t index, const struct ledger_entry *entry);
    void *context;
};

struct replay_report {
    uint64_t entries, contributions, steps, roots_checked, version;
    uint64_t failed_entry; /* the entry that the error is about; UINT64_MAX: none */
    bool lost_payload; /* it is a contribution whose payload is not there or damaged: any site that
                          has it can supply it */
};

/* Continues from run_state_size(run). `model` may be NULL: the control half alone. If model is
 * given and at version 0 with tensors_from 0, its theta must be the initial parameters; their root
 * is checked against the genesis entry. */
MUST_USE enum status replay_run(const struct ledger_source *source,
                                const struct replay_options *options, struct run_state *run,
                                struct model_state *model, struct replay_report *report,
                                struct error *error);

/* Gathers what model_state_step needs for one STEP entry and applies it; used by replay_run and by
 * live followers. find(index) must be answerable from `run` BEFORE the step entry is applied to it
 * (its parts are still pending). The step is checked against the run's rules and its payloads
 * against their headers' digests and norms before a tensor is touched. *root is the new state root
 * where the manifest needs one for this version, else zero. An entry that is being planned may lack
 * its root; one that has another is CORRUPT, and the model is then unusable. *lost (may be NULL) is
 * the index of the contribution whose payload is not there or damaged, where that is the error;
 * else UINT64_MAX. The model is then as before. */
MUST_USE enum status replay_step(const struct ledger_source *source, const struct run_state *run,
                                 const struct ledger_entry *step, struct model_state *model,
                                 uint8_t root[static DIGEST_SIZE], uint64_t *lost,
                                 struct error *error);

#endif
