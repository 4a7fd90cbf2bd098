/* The keeper's thread (node/keeper.h): everything that moves the replica or the journal, in the
 * order it was asked for.
 *
 * One queue, first in, first out. The state machine's thread asks (encode, apply, rebase, restore,
 * advance); the trainer's thread tells (snapshotted, rebased, captured). What was done is told to
 * the state machine as an event, through `tell`, on this thread. A full disk is waited out, as
 * node/trouble.h tells it: records of rounds are tried again until there is room, and what comes
 * after them waits; a checkpoint is left out, and another one made soon. Stops when the queue is
 * empty, so that a last checkpoint is written.
 */
#ifndef NODE_WORKER_H
#define NODE_WORKER_H

#include "node/journal.h"
#include "node/site.h"
#include "node/training.h"
#include "node/trouble.h"

struct worker;

struct worker_options {
    const struct site *site; /* borrowed, all of them */
    struct replica *replica;
    struct journal *journal;
    struct training *training; /* set with worker_set_training */
    uint64_t payloads_from;    /* as restored */
    bool lacks_model;          /* likewise */
    /* Any event it makes; takes nothing: copies what it keeps. */
    void (*tell)(void *context, const struct node_event *event);
    void (*step_applied)(void *context, const struct ledger_entry *step,
                         const uint8_t root[DIGEST_SIZE], uint64_t spent_ms);
    void (*snapshot_loaded)(void *context); /* the replica has it */
    float (*compute_share)(void *context);
    uint64_t (*wall_ms)(void *context); /* what a message is signed with */
    struct troubles *troubles;
    void *context;
};

MUST_USE enum status worker_start(const struct worker_options *options, struct worker **out,
                                  struct error *error);
/* before anything else is asked */
void worker_set_training(struct worker *worker, struct training *training);

/* --- from the core's thread --- */
void worker_encode(struct worker *worker, const struct contribution *contribution);
/* `run` must not change until NODE_APPLIED: the core holds entries that follow a step back. */
void worker_apply(struct worker *worker, const struct run_state *run, struct bytes entry);
void worker_rebase(struct worker *worker, uint32_t fragment, uint64_t sequence);
void worker_restore(struct worker *worker, uint32_t fragment, uint64_t sequence);
void worker_advance(struct worker *worker, uint32_t fragment);
void worker_accepted(struct worker *worker, uint32_t fragment, uint64_t sequence,
                     const struct ledger_head *head);

/* --- from the trainer's thread --- */
/* Before SNAPSHOTTED is told to the core, so that the encoding finds it. Takes *optimizer. */
void worker_snapshotted(struct worker *worker, uint32_t fragment, uint64_t sequence,
                        uint64_t trainer_steps, struct buffer *optimizer);
void worker_rebased(struct worker *worker, uint32_t fragment, uint64_t sequence,
                    enum training_move why);
void worker_captured(struct worker *worker, struct training_capture *capture); /* takes it */

/* --- from the thread that fetched a snapshot of the run; NODE_SNAPSHOT_LOADED follows. The content
 * is a blob of journal_payloads --- */
void worker_load(struct worker *worker, const struct snapshot_header *header);

/* Does what is in the queue and ends. */
void worker_stop(struct worker *worker);
void worker_destroy(struct worker *worker); /* stopped; NULL is a no-op */

#endif
