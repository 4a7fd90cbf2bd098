/* The inside of the trainer's thread, shared by training.c (its life, requests, time, and the
 * built-in trainer's steps) and training_attached.c (the steps of one that attaches). Nobody else
 * includes it. */
#ifndef NODE_TRAINING_INTERNAL_H
#define NODE_TRAINING_INTERNAL_H

#include <pthread.h>

#include "node/training.h"

enum { REQUESTS_LIMIT = 4 * FRAGMENTS_LIMIT, BAD_STEPS_LIMIT = 10, RATE_WINDOW_MS = 10000 };

enum training_request_kind {
    REQUEST_SNAPSHOT,
    REQUEST_REBASE,
    REQUEST_LOAD /* of an attached one */
};
struct training_request {
    enum training_request_kind kind;
    uint32_t fragment;
    uint64_t sequence;
    enum training_move why;
};

struct training {
    struct training_options options;
    struct thread *thread;
    pthread_mutex_t lock; /* of everything down to the blank line */
    pthread_cond_t changed;
    struct training_request requests[REQUESTS_LIMIT]; /* a ring */
    size_t request_head, request_count;
    bool train, stopping, capture_last, over;
    bool capture_out;    /* one was handed out and is not freed */
    bool capture_wanted; /* another one, as soon as there is none */
    uint64_t capture_at_ms;
    enum node_wait wait;
    uint64_t until_steps;
    float peak; /* of the schedule at the start: what an attached trainer's own rate is for */
    uint64_t run_tokens, run_own_tokens, run_own_tokens_first;
    struct run_flow run_flow; /* of the others */
    bool run_told;
    struct training_figures figures;

    /* the thread's own */
    uint64_t booked_ns; /* time is accounted for up to here */
    uint32_t bad_steps;
    uint64_t rate_from_ms, rate_tokens;
};

/* The time since the last call goes to compute, or to a cause. With the lock. */
void training_book(struct training *training, bool compute, enum lost_cause cause);
void training_book_unlocked(struct training *training, enum lost_cause cause);
/* What is not spent in a step is lost to. With the lock. */
enum lost_cause training_lost_to(const struct training *training);
/* Tokens the whole run has seen, for the learning rate. With the lock. */
uint64_t training_run_tokens(struct training *training);
/* A step has been done, in so long. With the lock. */
void training_note_rates(struct training *training, double step_s, uint64_t tokens);
void training_note_standstill(struct training *training); /* with the lock */
/* The next request, where there is one. With the lock. */
bool training_take_request(struct training *training, struct training_request *request);
/* With the lock: a capture may be made now, and is wanted or due. Marks it as handed out. */
bool training_take_capture(struct training *training, bool train);
/* Bases, snapshots, marks and the trainer's state, given to the handler. */
void training_do_capture(struct training *training);
/* The last one, once the one there is has been freed. */
void training_capture_at_end(struct training *training);
/* Of a site that a trainer attaches to. */
void training_attached_body(void *context);

#endif
