/* The inside of the simulated coordinator: coordinator.c (life, events, actions),
 * coordinator_calls.c (Submit, Follow and the other calls), coordinator_model.c (commits, steps,
 * snapshots). */
#ifndef SIM_COORDINATOR_INTERNAL_H
#define SIM_COORDINATOR_INTERNAL_H

#include "coordinator/directory.h"
#include "coordinator/ledger_queue.h"
#include "coordinator/model_work.h"
#include "coordinator/transfers.h"
#include "sim/coordinator.h"
#include "sim/storage.h"

struct simulated_call {
    uint64_t number;
    uint32_t stream, site;
    enum message_kind kind; /* that opened it */
    bool admitted;          /* a Submit that has a place */
    uint8_t header[CONTRIBUTION_HEADER_SIZE], signature[SIGNATURE_SIZE];
    /* Follow */
    uint64_t next, payloads_from, head_size;
    bool omit_own;
    uint64_t instance;
};

enum model_job_kind { JOB_STEP, JOB_CATCH_UP, JOB_SNAPSHOT };

struct model_job {
    enum model_job_kind kind;
    struct model_step step; /* its parts are owned */
    struct model_snapshot snapshot;
};

enum { SNAPSHOTS_KEPT = 2, RECEIPTS_KEPT = 64 };

struct sent_receipt { /* what a network that delivers late may still hold */
    uint32_t epoch;
    uint8_t header[CONTRIBUTION_HEADER_SIZE]; /* of what it is for: a site from an old backup uses a
                                                 number again */
    struct buffer bytes;
};

struct coordinator {
    struct coordinator_setup setup;
    struct world *world;
    struct check *check;

    /* on disk */
    struct disk disk; /* ledger and payloads */
    struct storage storage;
    struct directory data;                       /* borrows the storage */
    bool takeover;                               /* the next start is another coordinator's */
    uint32_t new_epoch;                          /* ... and its epoch; 0: not known yet */
    bool ends_at_receipt;                        /* ... which begins after the next receipt */
    struct sent_receipt receipts[RECEIPTS_KEPT]; /* a ring; not this process's */
    uint64_t receipt_count;

    /* in memory */
    struct coordinator_state *state; /* NULL: down */
    struct coordinator_actions actions;
    struct ledger_queue *ledger;
    struct transfers *transfers;
    struct model_state model;
    struct model_work work;
    struct simulated_call *calls; /* [call_count], in order of opening */
    size_t call_count, call_capacity;
    uint64_t next_call;
    struct model_job *jobs; /* [job_count] */
    size_t job_count;
    bool job_running, retries; /* retries: a full disk is tried again at a time that is set */
    uint64_t published, timer_round;
};

struct instant coordinator_now(const struct coordinator *coordinator);
void coordinator_step(struct coordinator *coordinator, const struct coordinator_event *event);
/* An event of kind UPLOADED or CHECKED for the call, after a while. */
void coordinator_tell_code(struct coordinator *coordinator, enum coordinator_event_kind kind,
                           uint64_t call, enum refusal code, uint64_t delay);
/* It cannot go on and stops itself, as server_break does. */
void coordinator_break(struct coordinator *coordinator, const char *message);
struct simulated_call *coordinator_call(struct coordinator *coordinator, uint64_t number);
void coordinator_call_end(struct coordinator *coordinator, struct simulated_call *call);

/* coordinator_calls.c */
void coordinator_admit(struct coordinator *coordinator, const struct coordinator_action *action);
void coordinator_check(struct coordinator *coordinator, const struct coordinator_action *action);
void coordinator_answer(struct coordinator *coordinator, uint64_t call, struct message *message);
void coordinator_publish(struct coordinator *coordinator, uint64_t size);

/* coordinator_model.c */
void coordinator_commit(struct coordinator *coordinator, const struct coordinator_action *action);
/* After a step: what has gathered goes to the disk. */
void coordinator_flush(struct coordinator *coordinator);
void coordinator_apply(struct coordinator *coordinator, const struct coordinator_action *action);
void coordinator_snapshot(struct coordinator *coordinator, const struct coordinator_action *action);
void coordinator_model_clear(struct coordinator *coordinator);
/* Model and run state from the disk; *is_behind: a payload is lost, and the model stands before
 * the step that needs it. */
struct run_state *coordinator_restore(struct coordinator *coordinator, bool *is_behind);
void coordinator_catch_up(struct coordinator *coordinator);
/* Ledger queue, transfers and the model's work, once the run is restored. */
void coordinator_begin_work(struct coordinator *coordinator, const struct run_state *run);
/* The core hears of a payload that cannot be read. */
/* A payload that the ledger names and that is gone must be asked for soon. */
void coordinator_look_after(struct coordinator *coordinator,
                            const uint8_t digest[static DIGEST_SIZE]);
void coordinator_tell_lost(struct coordinator *coordinator, uint64_t index,
                           const struct contribution *contribution);

#endif
