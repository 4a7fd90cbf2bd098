#include "model/device_trainer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum {
    ALIGNMENT = 256,
    LOGITS_MOST = 1 << 28, /* elements of a chunk of logits: 512 MiB, enough rows to fill a device */
    CHUNK_MULTIPLE = 128,
    RECORDED_LAYERS = 4096, /* layers of all micro-batches of a recorded step */
};

struct kept { /* of a layer, from forward for backward; with recompute all but x is one set for all */
    struct device_memory x, rstd1, normed1, qkv, attention, lse, middle, rstd2, normed2, gate_up, h;
};

struct inputs { /* a step's, as they are staged: of each micro-batch tokens, then its rows in the order of their tokens */
    size_t tokens, order, first, micro, all; /* sizes in bytes; all = accumulation * micro */
};

struct device_trainer {
    struct device_trainer_options options;
    const struct cuda_operations *cuda;
    const struct cuda_training *training;
    struct cuda_session *session;
    struct model_config c;
    uint32_t rows, logit_stride, chunk, piece_count;
    bool preparing, recorded;
    struct inputs size;

    struct device_memory memory; /* all below lie in it */
    struct device_memory parameters, copy, m, v, gradient, pieces;
    struct kept *layers; /* [layers], host */
    struct device_memory x, normed, rstd, d_x, d_normed, d_wide, logits, losses, delta, cos, sin;
    struct device_memory norm_partials, sum_partials, workspace, update, outcome, input, incoming;

    uint8_t *pinned[2]; /* staged inputs in turn */
    uint32_t turn;
    struct cuda_update *pinned_update;
};

/* --- memory -------------------------------------------------------------------------------------------------------------- */

struct plan { /* base 0: measure only */
    uint64_t base, used;
};

static struct device_memory take(struct plan *plan, uint64_t count, uint64_t size) {
    struct device_memory out = {plan->base ? plan->base + plan->used : 0};
    plan->used += (count * size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return out;
}
static struct device_memory take_floats(struct plan *plan, uint64_t count) { return take(plan, count, sizeof(float)); }
static struct device_memory take_halves(struct plan *plan, uint64_t count) { return take(plan, count, sizeof(uint16_t)); }
static struct device_memory at_byte(struct device_memory memory, uint64_t offset) {
    return (struct device_memory){memory.address + offset};
}

static struct kept plan_kept(struct plan *plan, const struct model_config *c, uint64_t rows) {
    struct kept kept = {.x = take_halves(plan, rows * c->hidden)};
    kept.rstd1 = take_floats(plan, rows);
    kept.normed1 = take_halves(plan, rows * c->hidden);
    kept.qkv = take_halves(plan, rows * model_qkv_width(c));
    kept.attention = take_halves(plan, rows * c->hidden);
    kept.lse = take_floats(plan, rows * c->heads);
    kept.middle = take_halves(plan, rows * c->hidden);
    kept.rstd2 = take_floats(plan, rows);
    kept.normed2 = take_halves(plan, rows * c->hidden);
    kept.gate_up = take_halves(plan, rows * 2 * c->ffn);
    kept.h = take_halves(plan, rows * c->ffn);
    return kept;
}

static uint32_t count_pieces(const struct layout *layout) {
    uint64_t count = 0;
    for (uint32_t i = 0; i < layout->tensor_count; i++) count += (layout->tensors[i].count + CUDA_PIECE - 1) / CUDA_PIECE;
    return (uint32_t)count;
}

static void plan_sizes(struct device_trainer *d) {
    const struct device_trainer_options *o = &d->options;
    const struct model_config *c = &d->c;
    d->rows = o->sequences * o->length;
    d->logit_stride = (c->vocabulary + 7) / 8 * 8;
    uint32_t chunk = (uint32_t)(LOGITS_MOST / d->logit_stride) / CHUNK_MULTIPLE * CHUNK_MULTIPLE;
    d->chunk = MIN(d->rows, MAX(chunk, (uint32_t)CHUNK_MULTIPLE));
    d->piece_count = count_pieces(o->layout);
    d->size.tokens = (size_t)o->sequences * (o->length + 1) * sizeof(uint32_t);
    d->size.order = (size_t)d->rows * sizeof(uint32_t);
    d->size.first = ((size_t)c->vocabulary + 1) * sizeof(uint32_t);
    d->size.micro = (d->size.tokens + d->size.order + d->size.first + 15) / 16 * 16;
    d->size.all = d->size.micro * o->accumulation;
}

static void plan_memory(struct device_trainer *d, struct plan *plan) {
    const struct model_config *c = &d->c;
    uint64_t count = d->options.layout->count, rows = d->rows;
    size_t moment = d->options.bf16_moments ? sizeof(uint16_t) : sizeof(float);
    d->parameters = take_floats(plan, count);
    d->copy = take_halves(plan, count);
    d->m = take(plan, count, moment);
    d->v = take(plan, count, moment);
    d->gradient = take_floats(plan, count);
    d->pieces = take(plan, d->piece_count, sizeof(struct cuda_piece));
    struct kept kept = {0};
    for (uint32_t i = 0; i < c->layers; i++) {
        if (i == 0 || !d->options.recompute)
            kept = plan_kept(plan, c, rows);
        else
            kept.x = take_halves(plan, rows * c->hidden);
        if (d->layers) d->layers[i] = kept;
    }
    d->x = take_halves(plan, rows * c->hidden);
    d->normed = take_halves(plan, rows * c->hidden);
    d->rstd = take_floats(plan, rows);
    d->d_x = take_halves(plan, rows * c->hidden);
    d->d_normed = take_halves(plan, rows * c->hidden);
    d->d_wide = take_halves(plan, rows * MAX(model_qkv_width(c), c->ffn));
    d->logits = take_halves(plan, (uint64_t)d->chunk * d->logit_stride);
    d->losses = take_floats(plan, rows);
    d->delta = take_floats(plan, rows * c->heads);
    d->cos = take_floats(plan, (uint64_t)d->options.length * model_head_size(c) / 2);
    d->sin = take_floats(plan, (uint64_t)d->options.length * model_head_size(c) / 2);
    d->norm_partials = take_floats(plan, (uint64_t)CUDA_NORM_GROUPS * c->hidden);
    d->sum_partials = take(plan, CUDA_SUM_BLOCKS, sizeof(double));
    d->workspace = take(plan, CUDA_MATMUL_WORKSPACE, 1);
    d->update = take(plan, 1, sizeof(struct cuda_update));
    d->outcome = take(plan, 1, sizeof(struct cuda_outcome));
    d->input = take(plan, d->size.all, 1);
    d->incoming = take(plan, d->size.all, 1);
}

uint64_t device_trainer_memory(const struct device_trainer_options *options) {
    struct device_trainer d = {.options = *options, .c = options->layout->config};
    struct plan plan = {0};
    plan_sizes(&d);
    plan_memory(&d, &plan);
    return plan.used;
}

/* --- a micro-batch: transformer.c, with each call queued ------------------------------------------------------------------ */

/* While a text stays NULL; the functions below return the first that is not. */
#define TRY_DEVICE(call)                                                                                                         \
    do {                                                                                                                         \
        const char *answer_ = (call);                                                                                            \
        if (answer_) return answer_;                                                                                             \
    } while (0)

struct weights { /* a linear layer's, as in model/transformer.h */
    uint64_t offset;
    uint32_t out, in;
};

struct layer_weights {
    uint64_t norm1, norm2;
    struct weights qkv, o, gate_up, down;
};

static struct layer_weights weights_of(const struct device_trainer *d, uint32_t layer) {
    const struct model_config *c = &d->c;
    const struct layout_tensor *first = &d->options.layout->tensors[1 + 9 * layer];
    return (struct layer_weights){.norm1 = first[0].offset,
                                  .norm2 = first[5].offset,
                                  .qkv = {first[1].offset, model_qkv_width(c), c->hidden},
                                  .o = {first[4].offset, c->hidden, c->hidden},
                                  .gate_up = {first[6].offset, 2 * c->ffn, c->hidden},
                                  .down = {first[8].offset, c->hidden, c->ffn}};
}

static struct weights head_of(const struct device_trainer *d) {
    uint32_t tensor = d->c.tied ? 0 : 2 + 9 * d->c.layers;
    return (struct weights){d->options.layout->tensors[tensor].offset, d->c.vocabulary, d->c.hidden};
}

static struct device_memory copy_at(const struct device_trainer *d, uint64_t offset) {
    return at_byte(d->copy, offset * sizeof(uint16_t));
}
static struct device_memory gradient_at(const struct device_trainer *d, uint64_t offset) {
    return at_byte(d->gradient, offset * sizeof(float));
}

static const char *multiply(struct device_trainer *d, struct cuda_matmul m) {
    m.workspace = d->workspace;
    if (d->preparing) TRY_DEVICE(d->training->matmul_prepare(d->session, &m));
    return d->training->matmul(d->session, &m);
}

static struct cuda_matmul product_of(enum cuda_linear kind, uint32_t rows, const struct weights *w) {
    return (struct cuda_matmul){.kind = kind, .rows = rows, .out = w->out, .in = w->in, .out_stride = w->out};
}

/* y = x W^T, plus add unless it is none */
static const char *linear(struct device_trainer *d, const struct weights *w, struct device_memory x, struct device_memory add,
                          struct device_memory y) {
    struct cuda_matmul m = product_of(CUDA_LINEAR_FORWARD, d->rows, w);
    m.left = x, m.right = copy_at(d, w->offset), m.add = add, m.result = y;
    m.accumulate = add.address != 0;
    return multiply(d, m);
}

static const char *linear_input(struct device_trainer *d, const struct weights *w, struct device_memory dy,
                                struct device_memory dx) {
    struct cuda_matmul m = product_of(CUDA_LINEAR_INPUT, d->rows, w);
    m.left = dy, m.right = copy_at(d, w->offset), m.result = dx;
    return multiply(d, m);
}

static const char *linear_weight(struct device_trainer *d, const struct weights *w, struct device_memory x,
                                 struct device_memory dy, bool accumulate) {
    struct cuda_matmul m = product_of(CUDA_LINEAR_WEIGHT, d->rows, w);
    m.left = dy, m.right = x, m.result = gradient_at(d, w->offset), m.accumulate = accumulate;
    return multiply(d, m);
}

static struct cuda_norm norm_of(const struct device_trainer *d, uint64_t offset, struct device_memory x,
                                struct device_memory rstd) {
    return (struct cuda_norm){.rows = d->rows,
                              .width = d->c.hidden,
                              .eps = d->c.norm_eps,
                              .x = x,
                              .w = at_byte(d->parameters, offset * sizeof(float)),
                              .rstd = rstd,
                              .dw = gradient_at(d, offset),
                              .partials = d->norm_partials};
}

static const char *norm(struct device_trainer *d, uint64_t offset, struct device_memory x, struct device_memory y,
                        struct device_memory rstd) {
    struct cuda_norm n = norm_of(d, offset, x, rstd);
    n.y = y;
    return d->training->norm_forward(d->session, &n);
}

/* d_x becomes (or, with add, grows by) the gradient of x. */
static const char *norm_backward(struct device_trainer *d, uint64_t offset, struct device_memory x, struct device_memory rstd,
                                 bool add, bool accumulate) {
    struct cuda_norm n = norm_of(d, offset, x, rstd);
    n.dy = d->d_normed, n.dx = d->d_x, n.add = add, n.accumulate = accumulate;
    return d->training->norm_backward(d->session, &n);
}

static struct cuda_attention attention_of(const struct device_trainer *d, const struct kept *kept) {
    return (struct cuda_attention){.sequences = d->options.sequences,
                                   .length = d->options.length,
                                   .heads = d->c.heads,
                                   .kv_heads = d->c.kv_heads,
                                   .head_size = model_head_size(&d->c),
                                   .qkv = kept->qkv,
                                   .out = kept->attention,
                                   .lse = kept->lse,
                                   .cos = d->cos,
                                   .sin = d->sin,
                                   .d_out = d->d_normed,
                                   .d_qkv = d->d_wide,
                                   .delta = d->delta};
}

/* out none: only what backward needs is wanted. */
static const char *layer_forward(struct device_trainer *d, const struct layer_weights *w, const struct kept *kept,
                                 struct device_memory out) {
    const struct cuda_training *t = d->training;
    const struct device_memory none = {0};
    TRY_DEVICE(norm(d, w->norm1, kept->x, kept->normed1, kept->rstd1));
    TRY_DEVICE(linear(d, &w->qkv, kept->normed1, none, kept->qkv));
    struct cuda_attention attention = attention_of(d, kept);
    TRY_DEVICE(t->attention_forward(d->session, &attention));
    TRY_DEVICE(linear(d, &w->o, kept->attention, kept->x, kept->middle));
    TRY_DEVICE(norm(d, w->norm2, kept->middle, kept->normed2, kept->rstd2));
    TRY_DEVICE(linear(d, &w->gate_up, kept->normed2, none, kept->gate_up));
    TRY_DEVICE(t->swiglu_forward(d->session, d->rows, d->c.ffn, kept->gate_up, kept->h));
    return out.address ? linear(d, &w->down, kept->h, kept->middle, out) : NULL;
}

/* d_x is the gradient of the layer's output, and becomes that of its input. */
static const char *layer_backward(struct device_trainer *d, const struct layer_weights *w, const struct kept *kept,
                                  bool accumulate) {
    const struct cuda_training *t = d->training;
    TRY_DEVICE(linear_weight(d, &w->down, kept->h, d->d_x, accumulate));
    TRY_DEVICE(linear_input(d, &w->down, d->d_x, d->d_wide)); /* dh */
    TRY_DEVICE(
        t->swiglu_backward(d->session, d->rows, d->c.ffn, kept->gate_up, d->d_wide, (struct device_memory){0}, kept->gate_up));
    TRY_DEVICE(linear_weight(d, &w->gate_up, kept->normed2, kept->gate_up, accumulate));
    TRY_DEVICE(linear_input(d, &w->gate_up, kept->gate_up, d->d_normed));
    TRY_DEVICE(norm_backward(d, w->norm2, kept->middle, kept->rstd2, true, accumulate));
    TRY_DEVICE(linear_weight(d, &w->o, kept->attention, d->d_x, accumulate));
    TRY_DEVICE(linear_input(d, &w->o, d->d_x, d->d_normed)); /* the gradient of attention */
    struct cuda_attention attention = attention_of(d, kept);
    TRY_DEVICE(t->attention_backward(d->session, &attention));
    TRY_DEVICE(linear_weight(d, &w->qkv, kept->normed1, d->d_wide, accumulate));
    TRY_DEVICE(linear_input(d, &w->qkv, d->d_wide, d->d_normed));
    return norm_backward(d, w->norm1, kept->x, kept->rstd1, true, accumulate);
}

/* Head and loss over normed, by chunks of rows; with scale, leaves d_normed. */
static const char *head(struct device_trainer *d, struct device_memory tokens, float scale, bool accumulate) {
    struct weights w = head_of(d);
    for (uint32_t from = 0; from < d->rows; from += d->chunk) {
        uint32_t rows = MIN(d->rows - from, d->chunk);
        struct device_memory x = at_byte(d->normed, (uint64_t)from * w.in * sizeof(uint16_t));
        struct cuda_matmul m = product_of(CUDA_LINEAR_FORWARD, rows, &w);
        m.out_stride = d->logit_stride, m.left = x, m.right = copy_at(d, w.offset), m.result = d->logits;
        TRY_DEVICE(multiply(d, m));
        struct cuda_loss loss = {
            .from = from, .rows = rows, .length = d->options.length, .vocabulary = w.out, .stride = d->logit_stride};
        loss.scale = scale, loss.logits = d->logits, loss.tokens = tokens, loss.losses = d->losses;
        TRY_DEVICE(d->training->cross_entropy(d->session, &loss));
        if (scale == 0.0f) continue;
        m.kind = CUDA_LINEAR_WEIGHT, m.left = d->logits, m.right = x, m.result = gradient_at(d, w.offset);
        m.accumulate = accumulate || from > 0;
        TRY_DEVICE(multiply(d, m));
        m.kind = CUDA_LINEAR_INPUT, m.right = copy_at(d, w.offset), m.accumulate = false;
        m.result = at_byte(d->d_normed, (uint64_t)from * w.in * sizeof(uint16_t));
        TRY_DEVICE(multiply(d, m));
    }
    return NULL;
}

static const char *forward(struct device_trainer *d, struct device_memory tokens) {
    const struct layout *layout = d->options.layout;
    uint32_t layers = d->c.layers;
    TRY_DEVICE(d->training->embed(d->session, d->rows, d->options.length, d->c.hidden, tokens,
                                  copy_at(d, layout->tensors[0].offset), d->layers[0].x));
    for (uint32_t i = 0; i < layers; i++) {
        struct layer_weights w = weights_of(d, i);
        TRY_DEVICE(layer_forward(d, &w, &d->layers[i], i + 1 < layers ? d->layers[i + 1].x : d->x));
    }
    return norm(d, layout->tensors[1 + 9 * layers].offset, d->x, d->normed, d->rstd);
}

/* Forward and backward of the step's micro-batch: the first one's gradient replaces what was there. */
static const char *run_micro(struct device_trainer *d, uint32_t micro) {
    const struct cuda_training *t = d->training;
    const struct layout *layout = d->options.layout;
    struct device_memory tokens = at_byte(d->input, d->size.micro * micro), order = at_byte(tokens, d->size.tokens);
    bool accumulate = micro > 0;
    float scale = (float)(1.0 / ((double)d->rows * d->options.accumulation));
    TRY_DEVICE(forward(d, tokens));
    TRY_DEVICE(head(d, tokens, scale, accumulate));
    TRY_DEVICE(t->loss_sum(d->session, d->losses, d->rows, accumulate, d->outcome));
    TRY_DEVICE(norm_backward(d, layout->tensors[1 + 9 * d->c.layers].offset, d->x, d->rstd, false, accumulate));
    for (uint32_t i = d->c.layers; i-- > 0;) {
        struct layer_weights w = weights_of(d, i);
        if (d->options.recompute && i + 1 < d->c.layers)
            TRY_DEVICE(layer_forward(d, &w, &d->layers[i], (struct device_memory){0}));
        TRY_DEVICE(layer_backward(d, &w, &d->layers[i], accumulate));
    }
    struct device_memory d_table = gradient_at(d, layout->tensors[0].offset);
    if (!accumulate && !d->c.tied) TRY_DEVICE(t->zero(d->session, d_table, (size_t)layout->tensors[0].count * sizeof(float)));
    return t->embed_backward(d->session, d->c.vocabulary, d->c.hidden, order, at_byte(order, d->size.order), d->d_x, d_table);
}

static const char *run_step(struct device_trainer *d) {
    const struct adamw_options *o = &d->options.adamw;
    for (uint32_t micro = 0; micro < d->options.accumulation; micro++) TRY_DEVICE(run_micro(d, micro));
    TRY_DEVICE(d->training->judge(d->session, d->options.layout->count, d->gradient, d->sum_partials, o->clip, d->outcome));
    const struct cuda_adamw adamw = {.count = d->options.layout->count,
                                     .piece_count = d->piece_count,
                                     .narrow = d->options.bf16_moments,
                                     .beta1 = o->beta1,
                                     .beta2 = o->beta2,
                                     .epsilon = o->epsilon,
                                     .decay = o->decay,
                                     .pieces = d->pieces,
                                     .update = d->update,
                                     .outcome = d->outcome,
                                     .gradient = d->gradient,
                                     .parameters = d->parameters,
                                     .copy = d->copy,
                                     .m = d->m,
                                     .v = d->v};
    return d->training->adamw(d->session, &adamw);
}

/* --- making one ----------------------------------------------------------------------------------------------------------- */

static enum status check_shape(const struct device_trainer_options *o, struct error *error) {
    const struct model_config *c = &o->layout->config;
    uint32_t head_size = model_head_size(c);
    if (head_size < 32 || head_size > 128 || head_size % 16 != 0)
        return error_set(error, INVALID, "head size is %u; on CUDA it must be a multiple of 16 in 32..128", head_size);
    if (c->hidden > CUDA_WIDTH_MAX)
        return error_set(error, INVALID, "hidden size is %u; on CUDA %d is the most", c->hidden, CUDA_WIDTH_MAX);
    if (c->ffn % 8 != 0) return error_set(error, INVALID, "ffn size is %u; on CUDA it must be a multiple of 8", c->ffn);
    if ((uint64_t)o->sequences * o->length > 1u << 24)
        return error_set(error, INVALID, "a batch is %u x %u tokens; on CUDA 16777216 is the most", o->sequences, o->length);
    return OK;
}

static enum status status_of(const struct device_trainer *d, const char *answer, const char *what, struct error *error) {
    enum status status = cuda_backend_status(d->cuda, answer, what, error);
    if (status == OK || status == FULL || status == INVALID) return status;
    if (error) error->status = UNAVAILABLE; /* whatever it was, the session is of no more use */
    return UNAVAILABLE;
}

static enum status allocate_all(struct device_trainer *d, struct error *error) {
    struct plan plan = {0};
    plan_memory(d, &plan);
    size_t available = 0, total = 0;
    TRY(status_of(d, d->cuda->memory(&available, &total), "device memory", error));
    if (plan.used > available)
        return error_set(error, FULL,
                         "training this model needs %.2f GiB of device memory for a batch of %u x %u; %.2f GiB of %.2f are free",
                         (double)plan.used / (1 << 30), d->options.sequences, d->options.length, (double)available / (1 << 30),
                         (double)total / (1 << 30));
    TRY(status_of(d, d->cuda->allocate(plan.used, &d->memory), "device memory for training", error));
    TRY(status_of(d, d->cuda->synchronize(), "device memory for training", error));
    plan = (struct plan){.base = d->memory.address};
    plan_memory(d, &plan);
    for (int i = 0; i < 2; i++) {
        void *pinned = NULL;
        TRY(status_of(d, d->cuda->allocate_host(d->size.all, &pinned), "pinned memory", error));
        d->pinned[i] = pinned;
    }
    void *update = NULL;
    TRY(status_of(d, d->cuda->allocate_host(sizeof *d->pinned_update, &update), "pinned memory", error));
    d->pinned_update = update;
    return OK;
}

static const char *fill_rope(struct device_trainer *d) {
    uint32_t size = model_head_size(&d->c), half = size / 2;
    uint64_t count = (uint64_t)d->options.length * half;
    float *cosines = xmalloc(2 * count * sizeof *cosines), *sines = cosines + count;
    for (uint64_t at = 0; at < count; at++) {
        double frequency = pow((double)d->c.rope_theta, -2.0 * (double)(at % half) / size), position = (double)(at / half);
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
            *next++ =
                (struct cuda_piece){tensor->offset + at, (uint32_t)MIN(tensor->count - at, (uint64_t)CUDA_PIECE), tensor->decays};
    }
    const char *why = d->training->upload(d->session, d->pieces, pieces, d->piece_count * sizeof *pieces);
    free(pieces);
    return why;
}

/* Over zeroes: finds the algorithms of every product of a step, and leaves zero parameters as they were. */
static const char *prepare(struct device_trainer *d) {
    d->preparing = true;
    TRY_DEVICE(run_micro(d, 0));
    if (d->options.accumulation > 1) TRY_DEVICE(run_micro(d, 1));
    d->preparing = false;
    TRY_DEVICE(d->training->wait(d->session));
    if ((uint64_t)d->options.accumulation * d->c.layers > RECORDED_LAYERS) return NULL;
    TRY_DEVICE(d->training->capture_begin(d->session));
    const char *why = run_step(d), *end = d->training->capture_end(d->session);
    d->recorded = !why && !end;
    return why ? why : end;
}

enum status device_trainer_create(const struct device_trainer_options *options, struct device_trainer **out,
                                  struct error *error) {
    TRY(check_shape(options, error));
    struct device_trainer *d = xcalloc(1, sizeof *d);
    d->options = *options;
    d->c = options->layout->config;
    d->cuda = options->backend->operations;
    d->layers = xcalloc(d->c.layers, sizeof *d->layers);
    plan_sizes(d);
    enum status status = cuda_training_find(options->backend, &d->training, error);
    if (status == OK) status = status_of(d, d->training->open(options->cache, &d->session), "CUDA", error);
    const struct cuda_attention attention = attention_of(d, &(struct kept){0});
    if (status == OK) status = status_of(d, d->training->attention_prepare(d->session, &attention), "attention", error);
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

const char *device_trainer_line(const struct device_trainer *d) { return d->training->attention_line(d->session); }

void device_trainer_destroy(struct device_trainer *d) {
    if (!d) return;
    if (d->session && d->memory.address) {
        const char *ignored = d->training->wait(d->session); /* copies from pinned memory may be under way */
        (void)ignored;
    }
    if (d->session) d->training->close(d->session);
    if (d->memory.address) d->cuda->release(d->memory);
    for (int i = 0; i < 2; i++) d->cuda->release_host(d->pinned[i]);
    d->cuda->release_host(d->pinned_update);
    free(d->layers);
    free(d);
}

/* --- state ----------------------------------------------------------------------------------------------------------------- */

static size_t moments_size(const struct device_trainer *d) {
    return (size_t)d->options.layout->count * (d->options.bf16_moments ? sizeof(uint16_t) : sizeof(float));
}

enum status device_trainer_upload(struct device_trainer *d, const float *parameters, const void *m, const void *v,
                                  struct error *error) {
    const struct cuda_training *t = d->training;
    size_t count = (size_t)d->options.layout->count;
    const char *why = NULL;
    if (parameters) why = t->upload(d->session, d->parameters, parameters, count * sizeof(float));
    if (parameters && !why) why = t->to_bf16(d->session, count, d->parameters, d->copy);
    if (m && !why) why = t->upload(d->session, d->m, m, moments_size(d));
    if (v && !why) why = t->upload(d->session, d->v, v, moments_size(d));
    return status_of(d, why, "copying the model to the device", error);
}

enum status device_trainer_download(struct device_trainer *d, float *parameters, void *m, void *v, struct error *error) {
    const struct cuda_training *t = d->training;
    const char *why = NULL;
    if (parameters) why = t->download(d->session, parameters, d->parameters, (size_t)d->options.layout->count * sizeof(float));
    if (m && !why) why = t->download(d->session, m, d->m, moments_size(d));
    if (v && !why) why = t->download(d->session, v, d->v, moments_size(d));
    return status_of(d, why, "copying the model from the device", error);
}

enum status device_trainer_gradient(struct device_trainer *d, float *out, struct error *error) {
    const char *why = d->training->download(d->session, out, d->gradient, (size_t)d->options.layout->count * sizeof(float));
    return status_of(d, why, "copying the gradient from the device", error);
}

/* --- steps ----------------------------------------------------------------------------------------------------------------- */

/* Rows in the order of their input tokens, rows of one token in their own: a counting sort. */
static void sort_rows(const struct device_trainer *d, const uint32_t *tokens, uint32_t *order, uint32_t *first) {
    uint32_t vocabulary = d->c.vocabulary, length = d->options.length;
    memset(first, 0, d->size.first);
    for (uint32_t row = 0; row < d->rows; row++) first[tokens[(size_t)(row / length) * (length + 1) + row % length] + 1]++;
    for (uint32_t token = 0; token < vocabulary; token++) first[token + 1] += first[token];
    for (uint32_t row = 0; row < d->rows; row++)
        order[first[tokens[(size_t)(row / length) * (length + 1) + row % length]]++] = row;
    memmove(first + 1, first, vocabulary * sizeof *first); /* each has moved to its end, the beginning of the next */
    first[0] = 0;
}

/* The two pinned buffers take turns: the copy from the other one ended before the step that used it did. */
enum status device_trainer_stage(struct device_trainer *d, const uint32_t *tokens, struct error *error) {
    uint8_t *pinned = d->pinned[d->turn++ % 2];
    for (uint32_t micro = 0; micro < d->options.accumulation; micro++) {
        uint8_t *at = pinned + d->size.micro * micro;
        const uint32_t *from = tokens + (size_t)micro * d->options.sequences * (d->options.length + 1);
        memcpy(at, from, d->size.tokens);
        sort_rows(d, from, (uint32_t *)(void *)(at + d->size.tokens), (uint32_t *)(void *)(at + d->size.tokens + d->size.order));
    }
    return status_of(d, d->training->stage(d->session, d->incoming, pinned, d->size.all), "copying tokens to the device", error);
}

static const char *begin(struct device_trainer *d) {
    TRY_DEVICE(d->training->receive(d->session, d->input, d->incoming, d->size.all));
    TRY_DEVICE(d->training->send(d->session, d->update, d->pinned_update, sizeof *d->pinned_update));
    return d->recorded ? d->training->replay(d->session) : run_step(d);
}

enum status device_trainer_begin(struct device_trainer *d, const struct cuda_update *update, struct error *error) {
    *d->pinned_update = *update;
    return status_of(d, begin(d), "training step", error);
}

enum status device_trainer_end(struct device_trainer *d, struct cuda_outcome *outcome, struct error *error) {
    return status_of(d, d->training->download(d->session, outcome, d->outcome, sizeof *outcome), "training step", error);
}

/* A batch that is not full is filled up with token 0, whose losses are not added. */
static const char *batch_loss(struct device_trainer *d, const uint32_t *tokens, uint32_t sequences, double *sum) {
    struct cuda_outcome outcome;
    uint8_t *pinned = d->pinned[0];
    size_t size = (size_t)sequences * (d->options.length + 1) * sizeof *tokens;
    TRY_DEVICE(d->training->wait(d->session));
    memset(pinned, 0, d->size.tokens);
    memcpy(pinned, tokens, size);
    TRY_DEVICE(d->training->upload(d->session, d->input, pinned, d->size.tokens));
    TRY_DEVICE(forward(d, d->input));
    TRY_DEVICE(head(d, d->input, 0.0f, false));
    TRY_DEVICE(d->training->loss_sum(d->session, d->losses, sequences * d->options.length, false, d->outcome));
    TRY_DEVICE(d->training->download(d->session, &outcome, d->outcome, sizeof outcome));
    *sum += outcome.loss;
    return NULL;
}

enum status device_trainer_loss(struct device_trainer *d, const uint32_t *tokens, uint64_t count, double *sum,
                                struct error *error) {
    double all = 0;
    for (uint64_t from = 0; from < count; from += d->options.sequences) {
        uint32_t here = (uint32_t)MIN(count - from, (uint64_t)d->options.sequences);
        TRY(status_of(d, batch_loss(d, tokens + from * (d->options.length + 1), here, &all), "evaluation", error));
    }
    *sum = all;
    return OK;
}
