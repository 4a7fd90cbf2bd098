/* The keeper: owns the replica and the journal's rounds and checkpoints, and does one job after the
 * other in the order in which they were asked for.
 *
 * Order is what makes recovery simple: a round's record is durable before its message is told to
 * the state machine (and so before its upload); the record that a round is over is written before
 * any checkpoint that was taken after it; a step is applied before the base is staged from it.
 *
 * No thread and no clock: node/worker.c gives it both, the simulator gives it its own. It never
 * waits. Where there is no room on the disk for what must be there before anything else, keeper_do
 * says so, and the same job is done again later, before any other. What it does is told as events,
 * through the port. A failing disk is a NODE_FAULT, except for an encoding that fails: that is the
 * state machine's to judge.
 */
#ifndef NODE_KEEPER_H
#define NODE_KEEPER_H

#include "crypto/sign.h"
#include "node/journal.h"
#include "node/node_state.h"
#include "node/training_marks.h"

struct keeper;

struct keeper_port { /* called in keeper_do */
    void *context;
    /* To the trainer: the replica's `next` is staged for the fragment; KEEPER_REBASED follows.
     * sequence 0: no message was under way. */
    void (*rebase)(void *context, uint32_t fragment, uint64_t sequence, enum training_move why);
    /* To the trainer: a capture after what was asked for before; KEEPER_CAPTURED follows. */
    void (*capture)(void *context);
    /* To the state machine. It takes nothing: copies what it keeps. */
    void (*tell)(void *context, const struct node_event *event);
    void (*step_applied)(void *context, const struct ledger_entry *step,
                         const uint8_t root[DIGEST_SIZE]);
};

struct keeper_options {
    const struct key_pair *key; /* borrowed, and the next two: until keeper_destroy */
    struct replica *replica;
    struct journal *journal;
    uint64_t payloads_from; /* as restored */
    /* zeros stand in the place of version 0: no checkpoint has them, so that a restart lacks the
     * model, too, until a snapshot of the run is loaded */
    bool lacks_model;
    struct keeper_port port;
};

enum keeper_job_kind {
    /* of the state machine */
    KEEPER_ENCODE,   /* `contribution`: all of it but payload, norm */
    KEEPER_APPLY,    /* `bytes`: the entry; `run` does not change until NODE_APPLIED */
    KEEPER_REBASE,   /* merged */
    KEEPER_RESTORE,  /* refused */
    KEEPER_ADVANCE,  /* the base follows */
    KEEPER_ACCEPTED, /* `head` */
    /* of the trainer */
    KEEPER_SNAPSHOTTED, /* `bytes`: the optimizer, may be empty; before the ENCODE of that sequence
                         */
    KEEPER_REBASED,     /* `why` */
    KEEPER_CAPTURED,    /* `capture` */
    /* of who fetched a snapshot of the run: a payload of the journal, with a hold on it */
    KEEPER_LOAD /* `snapshot`; NODE_SNAPSHOT_LOADED follows once a checkpoint has it */
};

struct keeper_job {
    enum keeper_job_kind kind;
    uint32_t fragment;
    uint64_t sequence;
    enum training_move why;
    uint64_t trainer_steps;
    struct contribution contribution;
    const struct run_state *run; /* borrowed */
    struct buffer bytes;         /* owned, and the capture */
    struct training_capture *capture;
    struct snapshot_header snapshot;
    struct ledger_head head;

    /* what came of it, for the caller to log */
    enum status status;
    struct error error;         /* KEEPER_FULL, LEFT_OUT and whatever is not OK: why */
    bool written;               /* a record is on the disk */
    bool lost;                  /* RESTORE: the message cannot be read any more, its mass is gone */
    bool made;                  /* ENCODE: the message was made, and changed the replica */
    struct buffer payload;      /* ENCODE: the message */
    struct journal_round round; /* ENCODE: its record */
};
void keeper_job_deinit(struct keeper_job *job);

enum keeper_outcome {
    KEEPER_DONE,
    KEEPER_FULL, /* no room: once there may be (journal_resume), this job again before any other */
    /* no room for a checkpoint, or no model: done without it, another capture is to come soon */
    KEEPER_LEFT_OUT
};

struct keeper *keeper_create(const struct keeper_options *options);
void keeper_destroy(struct keeper *keeper); /* NULL is a no-op */
enum keeper_outcome keeper_do(struct keeper *keeper, struct keeper_job *job);

#endif
