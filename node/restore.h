/* From the journal to a site that goes on where it was: node/journal.h says what comes back from
 * where, this does it.
 *
 * Into the replica: `global` from the checkpoint (or the run's initial parameters) plus replay of
 * the stored entries; feedback from the rounds' records; base and snapshot of fragments with a
 * message in flight. Into the trainer: theta_local, optimizer, data position. For a fragment f with
 * record r and checkpoint c (sequences tell how old the one is to the other):
 *
 *     r in flight, c taken after its snapshot     local, snapshot and base as in c
 *     r in flight, c older or none                local = snapshot = theta_s of the record; base =
 *                                                 the parameters of the record's base version
 *     r over (or none), nothing over since c      local = global + (local_c - base_c), and local_c
 *                                                 itself where base_c == global
 *     r over, and it was in flight in c           local = global + (local_c - snapshot_c); refused
 *                                                 in dense mode: - base_c
 *     r over, c older                             local = global
 *
 * What was counted goes with what was kept: a round whose progress is gone begins anew, with what a
 * refused message had counted where that went back into e.
 *
 * base = global for all that are not in flight, as node_state_start expects. That of a message in
 * flight may be behind: the site follows from there. Where c does not have it, the replay goes by
 * it. Only a base that moved on after c's bases were taken, to a version before c's own, is in
 * neither: in dense mode it is then theta_s + decode(message), the base except for rounding; in
 * sparse mode the message stands where it is until it is merged or refused, which needs no base;
 * checkpoints made meanwhile say so.
 *
 * Pure over the journal and a port: node/restore_model.h has the trainer, the simulator a toy.
 */
#ifndef NODE_RESTORE_H
#define NODE_RESTORE_H

#include "node/journal.h"
#include "node/node_state.h"
#include "node/training_marks.h"

struct restore_port { /* what the site trains, and who is told what is gone */
    void *context;
    /* The run's initial parameters. */
    enum status (*initialise)(void *context, float *theta, struct error *error);
    /* theta_local, [parameters]. NULL function: the replica's global part alone, for who only
     * reads. */
    float *(*local)(void *context);
    /* A checkpoint's trainer, or the optimizer and data position of a round. */
    enum status (*load)(void *context, struct bytes state, struct error *error);
    /* The payload of that entry: the replica stands before the step that needs it. */
    void (*payload_lost)(void *context, uint64_t entry, const struct error *why);
    /* The site goes on without it: if it is refused, its mass is gone. */
    void (*message_lost)(void *context, const struct journal_round *round, const struct error *why);
};

struct restore_input { /* all borrowed */
    struct journal *journal;
    struct replica *replica; /* initialised, otherwise untouched */
    struct restore_port port;
};

struct restored {
    bool from_checkpoint;
    uint64_t replayed; /* steps */
    /* stored entries that the replica has gone by: all, unless a step's payload is lost; the
     * rest is the core's to take as if it came now */
    uint64_t entries;
    struct node_spooled spooled[FRAGMENTS_LIMIT];
    size_t spooled_count;
    uint64_t payloads_from; /* for node_options */
    /* For node_options: the highest number that was ever given to a message, also to one that was
     * never recorded: a checkpoint that has its snapshot must not be taken for another's. */
    uint64_t last_sequence;
    struct training_mark fragment[FRAGMENTS_LIMIT]; /* for training_options */
};

/* CORRUPT, NOT_FOUND: a piece is damaged or missing; the message says which. The directory is then
 * beyond what a restart can mend: its ledger, payloads and state may be deleted and fetched again,
 * its key must be kept. INVALID: of another run. */
MUST_USE enum status restore_site(const struct restore_input *input, struct restored *out,
                                  struct error *error);

#endif
