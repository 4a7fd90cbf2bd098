/* The inside of the simulated coordinator: coordinator.c (life, events, actions),
 * coordinator_calls.c (Submit, Follow and the other calls), coordinator_model.c (commits, steps,
 * snapshots). */
#ifndef SIM_COORDINATOR_INTERNAL_H
#define SIM_COORDINATOR_INTERNAL_H

#include "sim/coordinator.h"

struct partial_upload { /* of a payload; on disk */
    uint32_t site, fragment;
    uint64_t sequence;
    uint8_t digest[DIGEST_SIZE];
    struct buffer bytes;
    size_t synced;
    uint64_t call; /* that appends to it now; 0: none */
};

struct simulated_call {
    uint64_t number;
    uint32_t stream, site;
    enum message_kind kind; /* that opened it */
    bool receiving, resumed, supply;
    struct contribution contribution;
    uint8_t header[CONTRIBUTION_HEADER_SIZE], signature[SIGNATURE_SIZE];
    /* Follow */
    uint64_t next, payloads_from, head_size;
    bool omit_own;
    uint64_t instance;
};

struct queued_commit {
    uint64_t number; /* 0: a snapshot */
    struct buffer bytes;
    struct snapshot_header header;
    struct buffer content;
};

struct model_job {
    bool snapshot, catch_up;
    struct ledger_entry step;
    struct run_pending *parts; /* [step.step.count], owned: copied while they are pending */
    struct snapshot_header header;
};

struct kept_snapshot { /* on disk */
    struct snapshot_header header;
    uint8_t raw[SNAPSHOT_HEADER_SIZE];
    struct buffer content;
    size_t flipped_at; /* the byte whose `flipped` bits are wrong */
    uint8_t flipped;   /* 0: none are */
};

enum { SNAPSHOTS_KEPT = 2, PARTIALS_LIMIT = 256, RECEIPTS_KEPT = 64, SECTOR = 512 };

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
    struct disk disk;
    struct partial_upload *partials; /* [partial_count] */
    size_t partial_count;
    struct kept_snapshot snapshots[SNAPSHOTS_KEPT + 1]; /* oldest first */
    size_t snapshot_count;
    bool takeover;                               /* the next start is another coordinator's */
    bool ends_at_receipt;                        /* ... which begins after the next receipt */
    struct sent_receipt receipts[RECEIPTS_KEPT]; /* a ring; not this process's */
    uint64_t receipt_count;

    /* in memory */
    struct coordinator_state *state; /* NULL: down */
    struct coordinator_actions actions;
    struct model_state model;
    float *scratch;
    struct simulated_call *calls; /* [call_count], in order of opening */
    size_t call_count, call_capacity;
    uint64_t next_call;
    struct queued_commit *commits; /* [commit_count]: not durable yet */
    size_t commit_count;
    bool syncing;
    size_t syncing_count;   /* of the first commits */
    struct model_job *jobs; /* [job_count] */
    size_t job_count;
    bool job_running;
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
void coordinator_apply(struct coordinator *coordinator, const struct coordinator_action *action);
void coordinator_snapshot(struct coordinator *coordinator, const struct coordinator_action *action);
void coordinator_keep_snapshot(struct coordinator *coordinator,
                               const struct snapshot_header *header, struct buffer *content);
void coordinator_model_clear(struct coordinator *coordinator);
/* Model and run state from the disk; *behind: a payload is lost, and the model stands before the
 * step that needs it. */
struct run_state *coordinator_restore(struct coordinator *coordinator, bool *behind);
void coordinator_catch_up(struct coordinator *coordinator);
/* The brain hears of a payload that cannot be read. */
void coordinator_tell_lost(struct coordinator *coordinator, uint64_t index,
                           const struct contribution *contribution);

#endif
