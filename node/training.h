/* The trainer's thread: inner steps, one after another, and between two of them what the core and
 * the worker ask for.
 *
 * It owns the trainer and so theta_local; of the replica it writes `snapshot` (training_snapshot)
 * and reads and writes `base` (training_rebase) in the phases in which node/replica.h gives them to
 * it. Requests are done in the order they came, between two steps, also while training is off. What
 * has been done is told through the handler, on this thread, in the same order: so a receiver that
 * queues what it is told sees captures, snapshots and rebases exactly as they happened.
 *
 * It never waits for the network: a step waits for the one before it, for a request's memory copy,
 * for the handler (which puts into a local queue), and for nothing else while training is on. With
 * overlap off the core gives it a count of steps to stop at, so that a round is exactly H steps
 * and nothing is trained after the snapshot: the synchronous reference.
 *
 * A site that trains elsewhere has a trainer that attaches (node/training_attached.c): the same
 * orders go to it, and are carried out a few steps later.
 *
 * Every nanosecond is booked: to compute (a step, with the throttle's sleep, which plays a slower
 * device), or to a cause. Stops within one step.
 */
#ifndef NODE_TRAINING_H
#define NODE_TRAINING_H

#include "model/data.h"
#include "model/schedule.h"
#include "node/node_state.h"
#include "node/training_marks.h"
#include "proto/messages.h"

struct border;
struct stand;
struct trainer;
struct training;

struct training_handler { /* called on the trainer's thread */
    void *context;
    void (*progress)(void *context, uint64_t steps, uint64_t tokens, double loss);
    /* began: the base version at which the oldest of its steps began. optimizer:
     * trainer_save_optimizer at the snapshot where the options ask for it, else empty;
     * may be taken. */
    void (*snapshotted)(void *context, uint32_t fragment, uint64_t sequence, uint64_t steps,
                        uint64_t tokens, uint64_t began, uint64_t trainer_steps,
                        struct buffer *optimizer);
    void (*rebased)(void *context, uint32_t fragment, uint64_t sequence, enum training_move why);
    void (*captured)(void *context, struct training_capture *capture); /* takes it */
    /* Of a trainer that attached and is gone: the snapshot that was asked for is given up, and what
     * was trained since the last one is lost. */
    void (*snapshot_lost)(void *context, uint32_t fragment, uint64_t sequence);
    void (*trainer_lost)(void *context);
    /* Training is off. UNAVAILABLE: the device that trains was lost, and captures hold the state of
     * when it was last looked at. */
    void (*failed)(void *context, enum status status, const char *message);
};

struct training_options {
    struct trainer *trainer; /* borrowed until training_destroy; theta_local is in it. NULL: a
                                trainer attaches to `border`, and theta_local is there */
    struct border *border;   /* borrowed likewise, and where its jobs stand */
    struct stand *stand;
    struct schedule schedule; /* and what it is told: of the learning rate, and H */
    uint32_t inner_steps;
    bool lacks_model;         /* nobody attaches before a snapshot of the run is loaded */
    uint64_t max_step_tokens; /* that the run takes of it */
    uint64_t trainer_steps;   /* of before the start; the built-in trainer knows its own */
    const struct data *data;  /* borrowed */
    struct replica *replica;  /* borrowed */
    double throttle;          /* a step takes this many times as long; >= 1 */
    uint64_t pace_ns;         /* and at least so long */
    bool keep_optimizer;      /* with each snapshot */
    /* a capture so long after the last one was freed; 0: only when asked for */
    uint64_t checkpoint_ms;
    struct training_mark fragment[FRAGMENTS_LIMIT]; /* as restored */
    uint64_t tokens_unsent; /* of before the start, in no contribution yet: for the learning rate's
                               schedule */
    struct training_handler handler;
};

/* Waiting (NODE_WAIT_START) until training_train says otherwise. */
MUST_USE enum status training_start(const struct training_options *options, struct training **out,
                                    struct error *error);
/* Off: wait, booked under `wait`. On: until so many steps have been done since the start
 * (UINT64_MAX: no limit), then wait. */
void training_train(struct training *training, bool train, enum node_wait wait,
                    uint64_t until_steps);
/* On its own thread, or while nobody trains. */
const struct training_mark *training_mark_of(const struct training *training, uint32_t fragment);
void training_snapshot(struct training *training, uint32_t fragment, uint64_t sequence);
/* The replica's `next` is staged for the fragment. sequence 0: no message was under way. */
void training_rebase(struct training *training, uint32_t fragment, uint64_t sequence,
                     enum training_move why);
/* One more capture, taken after what was asked for before this call. */
void training_capture(struct training *training);
/* What the run has seen, for the learning rate: tokens in the ledger, of these ours, and what the
 * others train meanwhile. */
void training_tell_run(struct training *training, uint64_t tokens, uint64_t own_tokens,
                       struct run_flow others);
/* The learning rate's schedule from the next step on: a rule of the run may have changed it. */
void training_set_schedule(struct training *training, const struct schedule *schedule);

/* H as it is now: a trainer that attached is told. */
void training_set_inner_steps(struct training *training, uint32_t inner_steps);
/* The run is over: a trainer that attached is told so. */
void training_over(struct training *training);

struct training_figures { /* since the thread started */
    uint64_t steps, tokens;
    uint64_t trainer_steps, trainer_tokens; /* since the trainer was new */
    uint64_t compute_ns, lost_ns[LOST_CAUSE_COUNT];
    double loss;              /* lately; NaN: none yet */
    double steps_per_second;  /* of the device: 1 / the time of a step, lately */
    double tokens_per_second; /* of the wall clock, lately */
    float learning_rate;
    bool training;
};
void training_figures(struct training *training, struct training_figures *out); /* any thread */

/* After the current step: one last capture (if `capture`), once the one there is has been freed;
 * then the thread ends. Pending requests are dropped. */
void training_stop(struct training *training, bool capture);
void training_destroy(struct training *training); /* stopped; NULL is a no-op */

#endif
