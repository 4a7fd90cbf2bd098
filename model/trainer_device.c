/* A trainer whose steps run on a device (model/device_trainer.h). The host keeps a mirror of the
 * parameters and moments, and brings the two sides together only where somebody looks:
 *     behind  the device has made steps that the mirror lacks: trainer_parameters_to_change,
 *             _save, _load and _reset_optimizer pull
 *     ahead   the mirror may have been changed since: the next step or evaluation pushes
 * A move to another base (trainer_rebase) is made on both sides and leaves each as it was to the
 * other: a mirror that is behind stands on the new base, too, so that what is left after a loss is
 * progress from the base that the node has.
 * The counters in `mirrored` are those of the mirror. If the device is lost, the trainer falls back
 * to them: what is then saved is the whole state of an earlier moment, which a restart continues
 * from bit for bit, and every later step is UNAVAILABLE.
 *
 * A download goes beside the mirror and the two change places once it is whole: a device that is
 * lost in the middle of one tears nothing. While a step runs, and after it, a thread reads the next
 * one's tokens and sends them beside it (trainer_ahead.c); the device is never waited for but at a
 * step's end. Where sampling stands is counted when a step takes what was read, so what is saved
 * does not depend on how far ahead the thread is.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "model/trainer_internal.h"

static enum status make(struct trainer *t, struct error *error) {
    const struct trainer_options *o = &t->options;
    char *cache = file_cache("matmul");
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
    const struct trainer_options *o = &t->options;
    struct error why = {0};
    TRY(cuda_backend_find(o->device, o->cuda_library, &t->backend, t->device_line, error));
    if (!t->backend.operations) return OK;
    enum status status = o->forward_only
                             ? error_set(&why, INVALID, "it only trains, and this only evaluates")
                             : make(t, &why);
    t->ahead = true;
    if (status == OK) {
        size_t used = strlen(t->device_line);
        snprintf(t->device_line + used, sizeof t->device_line - used, "; %s",
                 device_trainer_line(t->device));
        return OK;
    }
    trainer_device_stop(t);
    /* Too little memory is for a person to judge: the CPU would take a hundred times as long,
     * unasked. */
    if (o->device == DEVICE_CUDA || status == FULL)
        return error_set(error, status, "%s", why.message);
    snprintf(t->device_line, sizeof t->device_line, "no CUDA, using the CPU: %.400s", why.message);
    return OK;
}

enum status trainer_device_read_ahead(struct trainer *t, struct error *error) {
    return t->device ? ahead_create(t, &t->reading, error) : OK;
}

void trainer_device_stop(struct trainer *t) {
    ahead_destroy(t->reading);
    t->reading = NULL;
    device_trainer_destroy(t->device);
    cuda_backend_close(&t->backend);
    t->device = NULL;
    t->backend = (struct cuda_backend){0};
}

const char *trainer_device_line(const struct trainer *t) { return t->device_line; }
bool trainer_is_lost(const struct trainer *t) { return t->lost; }
void trainer_release_data(struct trainer *t) { ahead_forget(t->reading); }

uint64_t trainer_device_memory(const struct trainer_options *o) {
    struct layout layout;
    if (o->device == DEVICE_CPU || o->forward_only || layout_init(&o->model, &layout, NULL) != OK)
        return 0;
    const struct device_trainer_options options = {.layout = &layout,
                                                   .sequences = o->sequences,
                                                   .length = o->length,
                                                   .accumulation = o->accumulation,
                                                   .recompute = o->recompute,
                                                   .bf16_moments = o->bf16_moments};
    uint64_t size = device_trainer_memory(&options);
    layout_deinit(&layout);
    return size;
}

static void *moments_at(struct moments *moments) {
    return moments->narrow ? (void *)moments->narrow : (void *)moments->wide;
}

/* The device is of no more use: back to the mirror, which is whole. Returns the status in hand. */
static enum status fall_back(struct trainer *t, enum status status) {
    t->lost = true;
    t->behind = false;
    t->counters = t->mirrored;
    t->optimizer_steps = t->mirrored_steps;
    return status;
}

void trainer_device_pull(struct trainer *t) {
    if (!t->device || !t->behind) return;
    struct error ignored; /* the next step says it */
    enum status status = device_trainer_download(
        t->device, t->other_parameters, moments_at(&t->other_m), moments_at(&t->other_v), &ignored);
    if (status != OK) {
        fall_back(t, status);
        return;
    }
    float *parameters = t->parameters;
    struct moments m = t->m, v = t->v;
    t->parameters = t->other_parameters, t->m = t->other_m, t->v = t->other_v;
    t->other_parameters = parameters, t->other_m = m, t->other_v = v;
    t->behind = false;
    t->mirrored = t->counters;
    t->mirrored_steps = t->optimizer_steps;
}

void trainer_device_rebase(struct trainer *t, uint64_t start, uint64_t count, const float *fresh,
                           const float *origin) {
    struct error ignored; /* the next step says it */
    if (!t->device || t->ahead || t->lost) return;
    enum status status = device_trainer_rebase(t->device, start, count, fresh, origin, &ignored);
    if (status != OK) fall_back(t, status);
}

void trainer_device_changed(struct trainer *t) {
    t->ahead = true;
    t->mirrored = t->counters;
    t->mirrored_steps = t->optimizer_steps;
}

static enum status push(struct trainer *t, struct error *error) {
    if (t->lost)
        return error_set(error, UNAVAILABLE,
                         "the CUDA device was lost; the trainer holds the state of step %llu",
                         (unsigned long long)t->counters.steps);
    if (!t->ahead) return OK;
    enum status status = device_trainer_upload(t->device, t->parameters, moments_at(&t->m),
                                               moments_at(&t->v), error);
    if (status != OK) return fall_back(t, status);
    t->ahead = false;
    return OK;
}

/* What was read ahead, if it is what this step needs: else (other data, a state that was loaded, a
 * failure) it is read now. */
static enum status stage(struct trainer *t, const struct data *data, struct data_position *to,
                         struct error *error) {
    if (ahead_take(t->reading, data, t->counters.position, to, NULL) == OK) return OK;
    ahead_begin(t->reading, data, t->counters.position);
    return ahead_take(t->reading, data, t->counters.position, to, error);
}

enum status trainer_device_step(struct trainer *t, const struct data *data,
                                const struct adamw_step *step, double *loss, double *norm,
                                struct error *error) {
    struct cuda_outcome outcome;
    TRY(push(t, error));
    struct data_position position;
    enum status status = stage(t, data, &position, error);
    if (status == UNAVAILABLE) return fall_back(t, status);
    if (status != OK) return status;
    t->counters.position = position;
    const struct cuda_update update = {step->learning_rate, step->correction1, step->correction2,
                                       moments_salt(2 * t->optimizer_steps),
                                       moments_salt(2 * t->optimizer_steps + 1)};
    status = device_trainer_begin(t->device, &update, error);
    if (status == OK) ahead_begin(t->reading, data, position);
    if (status == OK) status = device_trainer_end(t->device, &outcome, error);
    if (status != OK) return fall_back(t, status);
    *loss = outcome.loss / (double)(t->total * t->options.length);
    *norm = outcome.norm;
    if (outcome.finite) t->behind = true;
    return OK;
}

enum status trainer_device_evaluate(struct trainer *t, const uint32_t *tokens, uint64_t count,
                                    double *sum, struct error *error) {
    TRY(push(t, error));
    ahead_forget(t->reading);
    enum status status = device_trainer_loss(t->device, tokens, count, sum, error);
    return status == OK ? OK : fall_back(t, status);
}
