/* The evaluator: held-out texts at the coordinator, and the loss of the model on each of them while
 * the run goes on.
 *
 * The model's thread lends it theta after a step; it is copied, and this thread alone evaluates the
 * copy. Who comes while it is at work waits, in one place: a newer version takes an older one's, so
 * the model's thread never waits for it, and the newest version is always evaluated in the end.
 * Each result goes to the log of run/evaluations.h.
 *
 * The best version can be exported (`atollctl model export --at best`): the ledger and its
 * payloads are all kept, so any version is read from the snapshot before it and replay.
 *
 * Where the loss is more than `margin` above the best, that is said once, until it is not so any
 * more: the rate is too high, data went bad, or somebody poisons the run.
 *
 * Memory beside the model's: theta once more, and a trainer without gradients.
 */
#ifndef RUN_EVALUATOR_H
#define RUN_EVALUATOR_H

#include "run/evaluations.h"

struct evaluator;
struct manifest;

struct evaluator_options {
    const char *directory;    /* the run's; borrowed, as all */
    const char *const *files; /* [count] each is a text, its name the file's without its ending */
    size_t count;             /* 1 to EVALUATION_TEXTS */
    double share;             /* of each file's end that is read */
    uint64_t every;           /* versions */
    uint64_t windows;         /* of each text; 0: all */
    double margin;            /* nats */
    const struct manifest *manifest;
    uint64_t version; /* that the run was restored at */
};

struct evaluator_report {
    bool any; /* an evaluation, of this process or an earlier one */
    uint64_t version, best_version;
    double loss, best_loss;
    bool rises; /* the loss is more than the margin above the best */
};

/* Opens the texts, and reads the log. INVALID for a text that does not fit the model. */
MUST_USE enum status evaluator_start(const struct evaluator_options *options,
                                     struct evaluator **out, struct error *error);
/* Theta of a version; it is copied if its turn has come. NULL evaluator: nothing is done. */
void evaluator_give(struct evaluator *evaluator, uint64_t version, const float *theta);
/* From any thread. NULL evaluator: there is none. */
void evaluator_report(struct evaluator *evaluator, struct evaluator_report *out);
/* An evaluation under way is given up. NULL is a no-op. */
void evaluator_stop(struct evaluator *evaluator);

#endif
