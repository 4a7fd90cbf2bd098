/* The trainer's side of a round, without its thread: what happens to the tensors between two inner
 * steps, and how far each fragment is. Pure; node/training.c and the simulator's trainer run it.
 */
#ifndef NODE_TRAINING_MARKS_H
#define NODE_TRAINING_MARKS_H

#include "node/replica.h"
#include "node/round_progress.h"

enum training_move {                  /* why a fragment goes to another base */
                     MOVE_MERGED = 1, /* its message was merged */
                     MOVE_REFUSED,    /* it was refused: replica_refused says what is kept */
                     /* it follows newer versions: all progress is kept, and a message in flight
                      * goes along */
                     MOVE_ADVANCED,
                     /* the same without one, and the new base is a snapshot of the run */
                     MOVE_LOADED
};

/* What stands for the trainer in checkpoints of a site that a trainer attaches to. */
#define TRAINING_ATTACHED "atoll attached trainer 1\n"

struct training_mark {  /* of a fragment */
    uint64_t in_flight; /* sequence of the message whose snapshot is in the replica; 0: none */
    uint64_t over;      /* the last sequence that was over; 0: none */
    /* A start did not bring back the base of the message in flight: what stands there in its place
     * follows nothing, not after another start, either. */
    bool baseless;
    bool kept;   /* the last one was refused, and what it had is in theta_local still */
    uint64_t at; /* the trainer's steps at the last snapshot that came to a record */
    struct round_progress progress;
};

/* The trainer as it was between two steps, for a checkpoint. Freed with training_capture_destroy.
 * Of a trainer there is never more than one: captures come by the clock and go at the pace of a
 * disk, and each is several times as large as the model. While there is one, what is asked for and
 * what falls due is made up for by one taken after it is freed. */
struct training_capture {
    void (*freed)(void *context, uint64_t retry_ms); /* told when it is freed; NULL: nobody */
    void *context;
    uint64_t retry_ms; /* it was of no use: the next one so soon, where that is sooner; 0: it was */
    uint64_t trainer_steps; /* trainer_counters().steps */
    struct buffer trainer;  /* trainer_save */
    struct buffer base;     /* [parameters] floats */
    struct buffer snapshot; /* the same; empty where nothing is in flight */
    struct {
        uint64_t base_version;
        struct training_mark mark;
    } fragment[FRAGMENTS_LIMIT];
};

/* theta_s of the fragment is `local` as it is now; the message under way is `sequence`. */
void training_mark_snapshot(struct training_mark *mark, struct replica *replica, uint32_t fragment,
                            uint64_t sequence, const float *local);
/* The same where theta_s is in the replica already. */
void training_mark_sent(struct training_mark *mark, uint32_t fragments, uint64_t sequence);
/* What a move takes `local` from, [parameters]: it goes to next + (local - from). */
const float *training_move_from(const struct replica *replica, enum training_move why);
/* The replica's `next` is staged: the fragment of `local` moves there. NULL: it is elsewhere, and
 * has been corrected. */
void training_mark_rebase(struct training_mark *mark, struct replica *replica, uint32_t fragment,
                          uint64_t sequence, enum training_move why, float *local);
/* Bases, snapshots and marks, [replica->fragments] of them; the trainer's state is the caller's. */
struct training_capture *training_capture_create(const struct training_mark *marks,
                                                 const struct replica *replica);
void training_capture_destroy(struct training_capture *capture); /* NULL is a no-op */

#endif
