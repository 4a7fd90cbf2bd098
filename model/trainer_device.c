/* A trainer whose steps run on a device (model/device_trainer.h). The host keeps a mirror of the parameters and moments, and brings the
 * two sides together only where somebody looks:
 *     behind   the device has made steps that the mirror lacks: trainer_parameters, _save, _load and _reset_optimizer pull
 *     ahead    the mirror may have been changed since: the next step or evaluation pushes
 * The counters in `mirrored` are those of the mirror. If the device is lost, the trainer falls back to them: what is then saved is the
 * whole state of an earlier moment, which a restart continues from bit for bit, and every later step is UNAVAILABLE.
 *
 * While a step runs, this thread reads the next one's tokens and sends them beside it; the device is never waited for but at a
 * step's end.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "model/trainer_internal.h"

static char *default_cache(void) {
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (cache && *cache) return xformat("%s/atoll-matmul", cache);
    return home && *home ? xformat("%s/.cache/atoll-matmul", home) : NULL;
}

static enum status make(struct trainer *t, struct error *error) {
    const struct trainer_options *o = &t->options;
    char *cache = default_cache();
    const struct device_trainer_options options = {.layout = &t->layout,
                                                   .backend = &t->backend,
                                                   .sequences = o->sequences,
                                                   .length = o->length,
                                                   .accumulation = o->accumulation,
                                                   .adamw = o->adamw,
                                                   .recompute = o->recompute,
                                                   .bf16_moments = o->bf16_moments,
                                                   .cache = cache};
    enum status status = device_trainer_create(&options, &t->device, error);
    free(cache);
    return status;
}

enum status trainer_device_start(struct trainer *t, struct error *error) {
    static const enum cuda_wish wishes[] = {
        [TRAINER_CPU] = CUDA_WISH_CPU, [TRAINER_CUDA] = CUDA_WISH_CUDA, [TRAINER_AUTO] = CUDA_WISH_AUTO};
    const struct trainer_options *o = &t->options;
    struct error why = {0};
    TRY(cuda_backend_find(wishes[o->device], o->cuda_library, &t->backend, t->device_line, error));
    if (!t->backend.operations) return OK;
    enum status status = o->forward_only ? error_set(&why, INVALID, "it only trains, and this only evaluates") : make(t, &why);
    t->ahead = true;
    if (status == OK) return OK;
    trainer_device_stop(t);
    /* Too little memory is for a person to judge: the CPU would take a hundred times as long, unasked. */
    if (o->device == TRAINER_CUDA || status == FULL) return error_set(error, status, "%s", why.message);
    snprintf(t->device_line, sizeof t->device_line, "no CUDA, using the CPU: %.400s", why.message);
    return OK;
}

void trainer_device_stop(struct trainer *t) {
    device_trainer_destroy(t->device);
    cuda_backend_close(&t->backend);
    t->device = NULL;
    t->backend = (struct cuda_backend){0};
}

const char *trainer_device_line(const struct trainer *t) { return t->device_line; }

static void *moments_at(struct moments *moments) { return moments->narrow ? (void *)moments->narrow : (void *)moments->wide; }

/* The device is of no more use: back to the mirror, which is whole. Returns the status in hand. */
static enum status fall_back(struct trainer *t, enum status status) {
    t->lost = true;
    t->behind = t->staged = false;
    t->counters = t->mirrored;
    t->optimizer_steps = t->mirrored_steps;
    return status;
}

void trainer_device_pull(struct trainer *t) {
    if (!t->device || !t->behind) return;
    struct error ignored; /* the next step says it */
    enum status status = device_trainer_download(t->device, t->parameters, moments_at(&t->m), moments_at(&t->v), &ignored);
    if (status != OK) {
        fall_back(t, status);
        return;
    }
    t->behind = false;
    t->mirrored = t->counters;
    t->mirrored_steps = t->optimizer_steps;
}

void trainer_device_changed(struct trainer *t) {
    t->ahead = true;
    t->mirrored = t->counters;
    t->mirrored_steps = t->optimizer_steps;
}

static enum status push(struct trainer *t, struct error *error) {
    if (t->lost)
        return error_set(error, UNAVAILABLE, "the CUDA device was lost; the trainer holds the state of step %llu",
                         (unsigned long long)t->counters.steps);
    if (!t->ahead) return OK;
    enum status status = device_trainer_upload(t->device, t->parameters, moments_at(&t->m), moments_at(&t->v), error);
    if (status != OK) return fall_back(t, status);
    t->ahead = false;
    return OK;
}

static enum status stage(struct trainer *t, const struct data *data, struct error *error) {
    struct data_position position = t->counters.position;
    t->staged = false;
    TRY(trainer_gather(t, data, &position, error));
    TRY(device_trainer_stage(t->device, t->tokens, error));
    t->staged = true;
    t->staged_from = t->counters.position;
    t->staged_to = position;
    return OK;
}

/* Whether what was staged is what this step wants: other data may have been opened, or a state loaded. */
static bool is_staged(const struct trainer *t, const struct data *data) {
    struct data_position position = t->counters.position;
    if (!t->staged || position.epoch != t->staged_from.epoch || position.index != t->staged_from.index) return false;
    uint32_t *first = xmalloc((t->options.length + 1) * sizeof *first);
    bool same = data_next(data, &position, t->options.length, first, NULL) == OK &&
                memcmp(first, t->tokens, (t->options.length + 1) * sizeof *first) == 0;
    free(first);
    return same;
}

enum status trainer_device_step(struct trainer *t, const struct data *data, const struct adamw_step *step, double *loss,
                                double *norm, struct error *error) {
    struct cuda_outcome outcome;
    TRY(push(t, error));
    if (!is_staged(t, data)) TRY(stage(t, data, error));
    t->counters.position = t->staged_to;
    const struct cuda_update update = {step->learning_rate, step->correction1, step->correction2,
                                       moments_salt(2 * t->optimizer_steps), moments_salt(2 * t->optimizer_steps + 1)};
    enum status status = device_trainer_begin(t->device, &update, error);
    struct error later; /* said by the next step, which needs it */
    if (status == OK) (void)!stage(t, data, &later);
    if (status == OK) status = device_trainer_end(t->device, &outcome, error);
    if (status != OK) return fall_back(t, status);
    *loss = outcome.loss / (double)(t->total * t->options.length);
    *norm = outcome.norm;
    if (outcome.finite) t->behind = true;
    return OK;
}

enum status trainer_device_evaluate(struct trainer *t, const uint32_t *tokens, uint64_t count, double *sum, struct error *error) {
    TRY(push(t, error));
    t->staged = false;
    enum status status = device_trainer_loss(t->device, tokens, count, sum, error);
    return status == OK ? OK : fall_back(t, status);
}
