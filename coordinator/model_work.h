/* What is done to the model: a step is computed from its payloads, the steps that the model lacks
 * are replayed, a snapshot is written. The answer to the first two is an APPLIED event.
 *
 * No thread and no clock: coordinator/model_thread.c does one after the other on its thread, the
 * simulator's coordinator as events. Nothing here waits: that the ledger is durable up to where a
 * snapshot speaks of it is the caller's to see to.
 */
#ifndef COORDINATOR_MODEL_WORK_H
#define COORDINATOR_MODEL_WORK_H

#include "coordinator/coordinator_state.h"
#include "coordinator/directory.h"

struct model_work { /* fixed while it is used; all borrowed */
    struct directory *data;
    struct model_state *model;
    const struct key_pair *key; /* signs snapshots */
    const struct manifest *manifest;
    uint8_t run_id[RUN_ID_SIZE];
    unsigned snapshots_kept;
    /* APPLIED. Copies what it keeps. */
    void (*tell)(void *context, const struct coordinator_event *event);
    void *context;
};

struct model_part { /* a contribution that the step merges */
    uint64_t index;
    struct contribution contribution;
    float scale;
};

struct model_step {
    uint32_t fragment, count;
    uint64_t version;
    struct step_rules rules;
    struct model_part *parts; /* [count], owned: free */
};

struct model_snapshot {
    uint64_t version; /* of the model as it is then */
    uint64_t ledger_size, payloads_from;
    uint32_t epoch;
    bool if_none; /* not where one can be read: its content is not looked at */
};

/* What a STEP entry needs of the contributions that it merges, copied while `run` still has them
 * pending. */
struct model_step model_step_of(const struct run_state *run, const struct ledger_entry *entry);

/* Payloads that cannot be read are named in the event, and the model is as before. */
void model_work_apply(const struct model_work *work, const struct model_step *step);
void model_work_catch_up(const struct model_work *work);
/* The ledger on disk has snapshot->ledger_size entries. Not OK: the older snapshots are there. */
MUST_USE enum status model_work_snapshot(const struct model_work *work,
                                         const struct model_snapshot *snapshot,
                                         struct error *error);

#endif
