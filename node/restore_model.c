/* Connects a restore with the run's model and the site's trainer (node/restore_model.h), and logs
 * what is gone. */
#include "node/restore_model.h"

#include <string.h>

#include "base/log.h"
#include "model/trainer.h"
#include "run/run_model.h"

static enum status initialise(void *context, float *theta, struct error *error) {
    const struct restore_model *model = context;
    if (model->lacks_model) {
        memset(theta, 0, (size_t)model->layout->count * sizeof *theta);
        return OK;
    }
    enum status status =
        run_model_initialise(model->manifest, model->layout, model->initial, theta, error);
    /* The user's file, not the site's directory: deleting that would help nobody. */
    if (!model->initial || (status != NOT_FOUND && status != CORRUPT)) return status;
    if (error) error->status = INVALID;
    return error_wrap(error, INVALID, "--from");
}

static float *local(void *context) {
    const struct restore_model *model = context;
    return model->trainer ? trainer_parameters_to_change(model->trainer) : model->scratch;
}

static enum status load(void *context, struct bytes state, struct error *error) {
    const struct restore_model *model = context;
    if (!model->trainer) return OK; /* its state is its own, or a built-in trainer's of before */
    if (bytes_equal(state, bytes_of(TRAINING_ATTACHED, sizeof TRAINING_ATTACHED - 1)))
        return error_set(error, INVALID,
                         "a trainer that attached has trained here, and the built-in one has no "
                         "state to go on from: run this site with --attach");
    return trainer_load(model->trainer, state, error);
}

static void payload_lost(void *context, uint64_t entry, const struct error *why) {
    (void)context;
    log_error("payload_lost",
              "entry=%llu message=\"%s\" do=\"nothing: the coordinator is asked for it\"",
              (unsigned long long)entry, why->message);
}

static void message_lost(void *context, const struct journal_round *round,
                         const struct error *why) {
    (void)context;
    log_error(
        "contribution_lost",
        "fragment=%u sequence=%llu message=\"%s\" do=\"nothing: the site goes on without it\"",
        round->fragment, (unsigned long long)round->sequence, why->message);
}

struct restore_port restore_model_port(const struct restore_model *model) {
    return (struct restore_port){.context = (void *)(uintptr_t)model,
                                 .initialise = initialise,
                                 .local = model->trainer || model->scratch ? local : NULL,
                                 .load = load,
                                 .payload_lost = payload_lost,
                                 .message_lost = message_lost};
}
