/* How far a fragment's round is: what has been trained and is in no message yet, so that the next
 * header can count it.
 *
 * The trainer's thread keeps one beside each fragment's tensors and changes it exactly when they
 * change; so a checkpoint holds counts and tensors of one moment, and after a restart
 * (node/restore.h) the core goes on with the counts of what came back. The core keeps its own
 * from what it is told, and judges by that.
 */
#ifndef NODE_ROUND_PROGRESS_H
#define NODE_ROUND_PROGRESS_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

struct round_progress {
    uint64_t steps, tokens;                     /* in no message: the next one counts them */
    uint64_t steps_in_flight, tokens_in_flight; /* counted by the message under way */
    uint64_t round_steps; /* since the last snapshot; if `begun` is false, since the site began */
    bool begun;           /* a snapshot was taken: rounds are no longer staggered */
    /* the base version at which the oldest of `steps` began, and of `steps_in_flight` */
    uint64_t began, began_in_flight;
    double loss_sum; /* over steps since the last snapshot, of those with a finite loss */
    uint64_t loss_count;
};

static inline void round_progress_step(struct round_progress *progress, uint64_t tokens,
                                       double loss, uint64_t base_version) {
    if (progress->steps == 0) progress->began = base_version;
    progress->steps++;
    progress->tokens += tokens;
    progress->round_steps++;
    if (!isfinite(loss)) return;
    progress->loss_sum += loss;
    progress->loss_count++;
}

/* Steps that were trained before, of which only the sums are known. */
static inline void round_progress_unsent(struct round_progress *progress, uint64_t steps,
                                         uint64_t tokens, uint64_t base_version) {
    if (progress->steps == 0) progress->began = base_version;
    progress->steps += steps;
    progress->tokens += tokens;
    progress->round_steps += steps;
}

/* A header says tokens / fragments; what that leaves over is left to the next one. */
static inline void round_progress_snapshot(struct round_progress *progress, uint32_t fragments) {
    uint64_t left = progress->tokens % fragments;
    *progress = (struct round_progress){.begun = true,
                                        .tokens = left,
                                        .began_in_flight = progress->began,
                                        .steps_in_flight = progress->steps,
                                        .tokens_in_flight = progress->tokens - left};
}

/* What was trained since the last snapshot is gone. */
static inline void round_progress_lost(struct round_progress *progress) {
    progress->steps = progress->tokens = progress->round_steps = 0;
    progress->loss_sum = 0;
    progress->loss_count = 0;
}

/* `back`: the message was refused, and what it counted is to be counted again. */
static inline void round_progress_over(struct round_progress *progress, bool back) {
    if (back) {
        if (progress->steps_in_flight > 0) progress->began = progress->began_in_flight;
        progress->steps += progress->steps_in_flight;
        progress->tokens += progress->tokens_in_flight;
    }
    progress->steps_in_flight = progress->tokens_in_flight = 0;
}

#endif
