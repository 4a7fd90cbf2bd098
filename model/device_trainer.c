/* Makes and frees a training session on a CUDA device, and moves parameters and moments
 * (model/device_trainer.h). The step itself is in device_trainer_step.c, sizes in
 * device_trainer_memory.c. */
#include "model/device_trainer_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RECORDED_LAYERS = 4096 }; /* layers of all micro-batches of a recorded step */

/* --- making one ------------------------------------------------------------------------------- */

static enum status check_shape(const struct device_trainer_options *o, struct error *error) {
    const struct model_config *c = &o->layout->config;
    uint32_t head_size = model_head_size(c);
    if (head_size < 32 || head_size > 128 || head_size % 16 != 0)
        return error_set(error, INVALID,
                         "head size is %u; on CUDA it must be a multiple of 16 in 32..128",
                         head_size);
    if (c->hidden > CUDA_WIDTH_MAX)
        return error_set(error, INVALID, "hidden size is %u; on CUDA %d is the most", c->hidden,
                         CUDA_WIDTH_MAX);
    if (c->ffn % 8 != 0)
        return error_set(error, INVALID, "ffn size is %u; on CUDA it must be a multiple of 8",
                         c->ffn);
    if ((uint64_t)o->sequences * o->length > 1u << 24)
        return error_set(error, INVALID, "a batch is %u x %u tokens; on CUDA 16777216 is the most",
                         o->sequences, o->length);
    return OK;
}

static enum status status_of(const struct device_trainer *d, const char *answer, const char *what,
                             struct error *error) {
    enum status status = cuda_backend_status(d->cuda, answer, what, error);
    if (status == OK || status == FULL || status == INVALID) return status;
    if (error) error->status = UNAVAILABLE; /* whatever it was, the session is of no more use */
    return UNAVAILABLE;
}

static enum status allocate_all(struct device_trainer *d, struct error *error) {
    uint64_t need = device_trainer_lay_out(d, 0);
    size_t available = 0, total = 0;
    TRY(status_of(d, d->cuda->memory(&available, &total), "device memory", error));
    if (need > available)
        return error_set(error, FULL,
                         "training this model needs %.2f GiB of device memory for a batch of %u x "
                         "%u; %.2f GiB of %.2f are free",
                         (double)need / (1 << 30), d->options.sequences, d->options.length,
                         (double)available / (1 << 30), (double)total / (1 << 30));
    TRY(status_of(d, d->cuda->allocate(need, &d->memory), "device memory for training", error));
    TRY(status_of(d, d->cuda->synchronize(), "device memory for training", error));
    device_trainer_lay_out(d, d->memory.address);
    for (int i = 0; i < 2; i++) {
        void *pinned = NULL;
        TRY(status_of(d, d->cuda->allocate_host(d->size.all, &pinned), "pinned memory", error));
        d->pinned[i] = pinned;
    }
    void *update = NULL;
    TRY(status_of(d, d->cuda->allocate_host(sizeof *d->pinned_update, &update), "pinned memory",
                  error));
    d->pinned_update = update;
    return OK;
}

static const char *fill_rope(struct device_trainer *d) {
    uint32_t size = model_head_size(&d->c), half = size / 2;
    uint64_t count = (uint64_t)d->options.length * half;
    float *cosines = xmalloc(2 * count * sizeof *cosines), *sines = cosines + count;
    for (uint64_t at = 0; at < count; at++) {
        double frequency = pow((double)d->c.rope_theta, -2.0 * (double)(at % half) / size),
               position = (double)(at / half);
        cosines[at] = (float)cos(position * frequency);
        sines[at] = (float)sin(position * frequency);
    }
    const char *why = d->training->upload(d->session, d->cos, cosines, count * sizeof(float));
    if (!why) why = d->training->upload(d->session, d->sin, sines, count * sizeof(float));
    free(cosines);
    return why;
}

static const char *fill_pieces(struct device_trainer *d) {
    const struct layout *layout = d->options.layout;
    struct cuda_piece *pieces = xcalloc(d->piece_count, sizeof *pieces), *next = pieces;
    for (uint32_t i = 0; i < layout->tensor_count; i++) {
        const struct layout_tensor *tensor = &layout->tensors[i];
        for (uint64_t at = 0; at < tensor->count; at += CUDA_PIECE)
            *next++ = (struct cuda_piece){tensor->offset + at,
                                          (uint32_t)MIN(tensor->count - at, (uint64_t)CUDA_PIECE),
                                          tensor->decays};
    }
    const char *why =
        d->training->upload(d->session, d->pieces, pieces, d->piece_count * sizeof *pieces);
    free(pieces);
    return why;
}

/* Over zeroes: finds the algorithms of every product of a step, and leaves zero parameters as they
 * were. */
static const char *prepare(struct device_trainer *d) {
    d->preparing = true;
    TRY_DEVICE(device_run_micro(d, 0));
    if (d->options.accumulation > 1) TRY_DEVICE(device_run_micro(d, 1));
    d->preparing = false;
    TRY_DEVICE(d->training->wait(d->session));
    if ((uint64_t)d->options.accumulation * d->c.layers > RECORDED_LAYERS) return NULL;
    TRY_DEVICE(d->training->capture_begin(d->session));
    const char *why = device_run_step(d), *end = d->training->capture_end(d->session);
    d->recorded = !why && !end;
    return why ? why : end;
}

enum status device_trainer_create(const struct device_trainer_options *options,
                                  struct device_trainer **out, struct error *error) {
    TRY(check_shape(options, error));
    struct device_trainer *d = xcalloc(1, sizeof *d);
    d->options = *options;
    d->c = options->layout->config;
    d->cuda = options->backend->operations;
    d->layers = xcalloc(d->c.layers, sizeof *d->layers);
    device_trainer_sizes(d);
    enum status status = cuda_training_find(options->backend, &d->training, error);
    if (status == OK)
        status = status_of(d, d->training->open(options->cache, &d->session), "CUDA", error);
    const struct cuda_attention attention = device_attention_of(d, &(struct kept){0});
    if (status == OK)
        status = status_of(d, d->training->attention_prepare(d->session, &attention), "attention",
                           error);
    if (status == OK) status = allocate_all(d, error);
    if (status == OK) status = status_of(d, fill_rope(d), "rotary positions", error);
    if (status == OK) status = status_of(d, fill_pieces(d), "parameters", error);
    if (status == OK) status = status_of(d, prepare(d), "preparing the step", error);
    if (status != OK) {
        device_trainer_destroy(d);
        return status;
    }
    *out = d;
    return OK;
}

const char *device_trainer_line(const struct device_trainer *d) {
    return d->training->attention_line(d->session);
}

void device_trainer_destroy(struct device_trainer *d) {
    if (!d) return;
    if (d->session && d->memory.address) {
        /* copies from pinned memory may be under way */
        const char *ignored = d->training->wait(d->session);
        (void)ignored;
    }
    if (d->session) d->training->close(d->session);
    if (d->memory.address) d->cuda->release(d->memory);
    for (int i = 0; i < 2; i++) d->cuda->release_host(d->pinned[i]);
    d->cuda->release_host(d->pinned_update);
    free(d->layers);
    free(d);
}

/* --- state ------------------------------------------------------------------------------------ */

static size_t moments_size(const struct device_trainer *d) {
    return (size_t)d->options.layout->count *
           (d->options.bf16_moments ? sizeof(uint16_t) : sizeof(float));
}

enum status device_trainer_upload(struct device_trainer *d, const float *parameters, const void *m,
                                  const void *v, struct error *error) {
    const struct cuda_training *t = d->training;
    size_t count = (size_t)d->options.layout->count;
    const char *why = NULL;
    if (parameters) why = t->upload(d->session, d->parameters, parameters, count * sizeof(float));
    if (parameters && !why) why = t->to_bf16(d->session, count, d->parameters, d->copy);
    if (m && !why) why = t->upload(d->session, d->m, m, moments_size(d));
    if (v && !why) why = t->upload(d->session, d->v, v, moments_size(d));
    return status_of(d, why, "copying the model to the device", error);
}

enum status device_trainer_download(struct device_trainer *d, float *parameters, void *m, void *v,
                                    struct error *error) {
    const struct cuda_training *t = d->training;
    const char *why = NULL;
    if (parameters)
        why = t->download(d->session, parameters, d->parameters,
                          (size_t)d->options.layout->count * sizeof(float));
    if (m && !why) why = t->download(d->session, m, d->m, moments_size(d));
    if (v && !why) why = t->download(d->session, v, d->v, moments_size(d));
    return status_of(d, why, "copying the model from the device", error);
}

/* What comes lies where a step has its gradient, which nobody reads between two steps. */
static const char *rebase(struct device_trainer *d, uint64_t start, uint64_t count,
                          const float *fresh, const float *origin) {
    const struct cuda_training *t = d->training;
    uint64_t half = MAX(d->options.layout->count / 2, UINT64_C(1));
    struct device_memory first = d->gradient, second = device_at(first, half * sizeof(float));
    for (uint64_t at = 0; at < count; at += half) {
        uint64_t here = MIN(count - at, half);
        TRY_DEVICE(t->upload(d->session, first, fresh + at, (size_t)here * sizeof(float)));
        TRY_DEVICE(t->upload(d->session, second, origin + at, (size_t)here * sizeof(float)));
        TRY_DEVICE(t->rebase(d->session, here, device_at(d->parameters, (start + at) * 4),
                             device_at(d->copy, (start + at) * 2), first, second));
    }
    return NULL;
}

enum status device_trainer_rebase(struct device_trainer *d, uint64_t start, uint64_t count,
                                  const float *fresh, const float *origin, struct error *error) {
    ASSERT(start <= d->options.layout->count && count <= d->options.layout->count - start);
    return status_of(d, rebase(d, start, count, fresh, origin), "moving the model's base", error);
}

enum status device_trainer_gradient(struct device_trainer *d, float *out, struct error *error) {
    const char *why = d->training->download(d->session, out, d->gradient,
                                            (size_t)d->options.layout->count * sizeof(float));
    return status_of(d, why, "copying the gradient from the device", error);
}

/* --- steps ------------------------------------------------------------------------------------ */

/* Rows in the order of their input tokens, rows of one token in their own: a counting sort. */
static void sort_rows(const struct device_trainer *d, const uint32_t *tokens, uint32_t *order,
                      uint32_t *first) {
    uint32_t vocabulary = d->c.vocabulary, length = d->options.length;
    memset(first, 0, d->size.first);
    for (uint32_t row = 0; row < d->rows; row++)
        first[tokens[(size_t)(row / length) * (length + 1) + row % length] + 1]++;
    for (uint32_t token = 0; token < vocabulary; token++) first[token + 1] += first[token];
    for (uint32_t row = 0; row < d->rows; row++)
        order[first[tokens[(size_t)(row / length) * (length + 1) + row % length]]++] = row;
    /* each has moved to its end, the beginning of the next */
    memmove(first + 1, first, vocabulary * sizeof *first);
    first[0] = 0;
}

/* The two pinned buffers take turns: the copy from the other one ended before the step that used it
 * did. */
enum status device_trainer_stage(struct device_trainer *d, const uint32_t *tokens,
                                 struct error *error) {
    uint8_t *pinned = d->pinned[d->turn++ % 2];
    for (uint32_t micro = 0; micro < d->options.accumulation; micro++) {
        uint8_t *at = pinned + d->size.micro * micro;
        const uint32_t *from =
            tokens + (size_t)micro * d->options.sequences * (d->options.length + 1);
        memcpy(at, from, d->size.tokens);
        sort_rows(d, from, (uint32_t *)(void *)(at + d->size.tokens),
                  (uint32_t *)(void *)(at + d->size.tokens + d->size.order));
    }
    return status_of(d, d->training->stage(d->session, d->incoming, pinned, d->size.all),
                     "copying tokens to the device", error);
}

static const char *begin(struct device_trainer *d) {
    TRY_DEVICE(d->training->receive(d->session, d->input, d->incoming, d->size.all));
    TRY_DEVICE(
        d->training->send(d->session, d->update, d->pinned_update, sizeof *d->pinned_update));
    return d->recorded ? d->training->replay(d->session) : device_run_step(d);
}

enum status device_trainer_begin(struct device_trainer *d, const struct cuda_update *update,
                                 struct error *error) {
    *d->pinned_update = *update;
    return status_of(d, begin(d), "training step", error);
}

enum status device_trainer_end(struct device_trainer *d, struct cuda_outcome *outcome,
                               struct error *error) {
    return status_of(d, d->training->download(d->session, outcome, d->outcome, sizeof *outcome),
                     "training step", error);
}

/* A batch that is not full is filled up with token 0, whose losses are not added. */
static const char *batch_loss(struct device_trainer *d, const uint32_t *tokens, uint32_t sequences,
                              double *sum) {
    struct cuda_outcome outcome;
    uint8_t *pinned = d->pinned[0];
    size_t size = (size_t)sequences * (d->options.length + 1) * sizeof *tokens;
    TRY_DEVICE(d->training->wait(d->session));
    memset(pinned, 0, d->size.tokens);
    memcpy(pinned, tokens, size);
    TRY_DEVICE(d->training->upload(d->session, d->input, pinned, d->size.tokens));
    TRY_DEVICE(device_forward(d, d->input));
    TRY_DEVICE(device_head(d, d->input, 0.0f, false));
    TRY_DEVICE(d->training->loss_sum(d->session, d->losses, sequences * d->options.length, false,
                                     d->outcome));
    TRY_DEVICE(d->training->download(d->session, &outcome, d->outcome, sizeof outcome));
    *sum += outcome.loss;
    return NULL;
}

enum status device_trainer_loss(struct device_trainer *d, const uint32_t *tokens, uint64_t count,
                                double *sum, struct error *error) {
    double all = 0;
    for (uint64_t from = 0; from < count; from += d->options.sequences) {
        uint32_t here = (uint32_t)MIN(count - from, (uint64_t)d->options.sequences);
        TRY(status_of(d, batch_loss(d, tokens + from * (d->options.length + 1), here, &all),
                      "evaluation", error));
    }
    *sum = all;
    return OK;
}
