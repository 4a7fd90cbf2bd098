/* A step on the device: transformer.c, with each call queued. */
#include "model/device_trainer_internal.h"

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
    return (struct weights){d->options.layout->tensors[tensor].offset, d->c.vocabulary,
                            d->c.hidden};
}

static struct device_memory copy_at(const struct device_trainer *d, uint64_t offset) {
    return device_at(d->copy, offset * sizeof(uint16_t));
}
static struct device_memory gradient_at(const struct device_trainer *d, uint64_t offset) {
    return device_at(d->gradient, offset * sizeof(float));
}

static const char *multiply(struct device_trainer *d, struct cuda_matmul m) {
    m.workspace = d->workspace;
    if (d->preparing) TRY_DEVICE(d->training->matmul_prepare(d->session, &m));
    return d->training->matmul(d->session, &m);
}

static struct cuda_matmul product_of(enum cuda_linear kind, uint32_t rows,
                                     const struct weights *w) {
    return (struct cuda_matmul){
        .kind = kind, .rows = rows, .out = w->out, .in = w->in, .out_stride = w->out};
}

/* y = x W^T, plus add unless it is none */
static const char *linear(struct device_trainer *d, const struct weights *w, struct device_memory x,
                          struct device_memory add, struct device_memory y) {
    struct cuda_matmul m = product_of(CUDA_LINEAR_FORWARD, d->rows, w);
    m.left = x, m.right = copy_at(d, w->offset), m.add = add, m.result = y;
    m.accumulate = add.address != 0;
    return multiply(d, m);
}

static const char *linear_input(struct device_trainer *d, const struct weights *w,
                                struct device_memory dy, struct device_memory dx) {
    struct cuda_matmul m = product_of(CUDA_LINEAR_INPUT, d->rows, w);
    m.left = dy, m.right = copy_at(d, w->offset), m.result = dx;
    return multiply(d, m);
}

static const char *linear_weight(struct device_trainer *d, const struct weights *w,
                                 struct device_memory x, struct device_memory dy, bool accumulate) {
    struct cuda_matmul m = product_of(CUDA_LINEAR_WEIGHT, d->rows, w);
    m.left = dy, m.right = x, m.result = gradient_at(d, w->offset), m.accumulate = accumulate;
    return multiply(d, m);
}

static struct cuda_norm norm_of(const struct device_trainer *d, uint64_t offset,
                                struct device_memory x, struct device_memory rstd) {
    return (struct cuda_norm){.rows = d->rows,
                              .width = d->c.hidden,
                              .eps = d->c.norm_eps,
                              .x = x,
                              .w = device_at(d->parameters, offset * sizeof(float)),
                              .rstd = rstd,
                              .dw = gradient_at(d, offset),
                              .partials = d->norm_partials};
}

static const char *norm(struct device_trainer *d, uint64_t offset, struct device_memory x,
                        struct device_memory y, struct device_memory rstd) {
    struct cuda_norm n = norm_of(d, offset, x, rstd);
    n.y = y;
    return d->training->norm_forward(d->session, &n);
}

/* d_x becomes (or, with add, grows by) the gradient of x. */
static const char *norm_backward(struct device_trainer *d, uint64_t offset, struct device_memory x,
                                 struct device_memory rstd, bool add, bool accumulate) {
    struct cuda_norm n = norm_of(d, offset, x, rstd);
    n.dy = d->d_normed, n.dx = d->d_x, n.add = add, n.accumulate = accumulate;
    return d->training->norm_backward(d->session, &n);
}

struct cuda_attention device_attention_of(const struct device_trainer *d, const struct kept *kept) {
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
static const char *layer_forward(struct device_trainer *d, const struct layer_weights *w,
                                 const struct kept *kept, struct device_memory out) {
    const struct cuda_training *t = d->training;
    const struct device_memory none = {0};
    TRY_DEVICE(norm(d, w->norm1, kept->x, kept->normed1, kept->rstd1));
    TRY_DEVICE(linear(d, &w->qkv, kept->normed1, none, kept->qkv));
    struct cuda_attention attention = device_attention_of(d, kept);
    TRY_DEVICE(t->attention_forward(d->session, &attention));
    TRY_DEVICE(linear(d, &w->o, kept->attention, kept->x, kept->middle));
    TRY_DEVICE(norm(d, w->norm2, kept->middle, kept->normed2, kept->rstd2));
    TRY_DEVICE(linear(d, &w->gate_up, kept->normed2, none, kept->gate_up));
    TRY_DEVICE(t->swiglu_forward(d->session, d->rows, d->c.ffn, kept->gate_up, kept->h));
    return out.address ? linear(d, &w->down, kept->h, kept->middle, out) : NULL;
}

/* d_x is the gradient of the layer's output, and becomes that of its input. */
static const char *layer_backward(struct device_trainer *d, const struct layer_weights *w,
                                  const struct kept *kept, bool accumulate) {
    const struct cuda_training *t = d->training;
    TRY_DEVICE(linear_weight(d, &w->down, kept->h, d->d_x, accumulate));
    TRY_DEVICE(linear_input(d, &w->down, d->d_x, d->d_wide)); /* dh */
    TRY_DEVICE(t->swiglu_backward(d->session, d->rows, d->c.ffn, kept->gate_up, d->d_wide,
                                  (struct device_memory){0}, kept->gate_up));
    TRY_DEVICE(linear_weight(d, &w->gate_up, kept->normed2, kept->gate_up, accumulate));
    TRY_DEVICE(linear_input(d, &w->gate_up, kept->gate_up, d->d_normed));
    TRY_DEVICE(norm_backward(d, w->norm2, kept->middle, kept->rstd2, true, accumulate));
    TRY_DEVICE(linear_weight(d, &w->o, kept->attention, d->d_x, accumulate));
    TRY_DEVICE(linear_input(d, &w->o, d->d_x, d->d_normed)); /* the gradient of attention */
    struct cuda_attention attention = device_attention_of(d, kept);
    TRY_DEVICE(t->attention_backward(d->session, &attention));
    TRY_DEVICE(linear_weight(d, &w->qkv, kept->normed1, d->d_wide, accumulate));
    TRY_DEVICE(linear_input(d, &w->qkv, d->d_wide, d->d_normed));
    return norm_backward(d, w->norm1, kept->x, kept->rstd1, true, accumulate);
}

const char *device_head(struct device_trainer *d, struct device_memory tokens, float scale,
                        bool accumulate) {
    struct weights w = head_of(d);
    for (uint32_t from = 0; from < d->rows; from += d->chunk) {
        uint32_t rows = MIN(d->rows - from, d->chunk);
        struct device_memory x = device_at(d->normed, (uint64_t)from * w.in * sizeof(uint16_t));
        struct cuda_matmul m = product_of(CUDA_LINEAR_FORWARD, rows, &w);
        m.out_stride = d->logit_stride, m.left = x, m.right = copy_at(d, w.offset),
        m.result = d->logits;
        TRY_DEVICE(multiply(d, m));
        struct cuda_loss loss = {.from = from,
                                 .rows = rows,
                                 .length = d->options.length,
                                 .vocabulary = w.out,
                                 .stride = d->logit_stride};
        loss.scale = scale, loss.logits = d->logits, loss.tokens = tokens, loss.losses = d->losses;
        TRY_DEVICE(d->training->cross_entropy(d->session, &loss));
        if (scale == 0.0f) continue;
        m.kind = CUDA_LINEAR_WEIGHT, m.left = d->logits, m.right = x,
        m.result = gradient_at(d, w.offset);
        m.accumulate = accumulate || from > 0;
        TRY_DEVICE(multiply(d, m));
        m.kind = CUDA_LINEAR_INPUT, m.right = copy_at(d, w.offset), m.accumulate = false;
        m.result = device_at(d->d_normed, (uint64_t)from * w.in * sizeof(uint16_t));
        TRY_DEVICE(multiply(d, m));
    }
    return NULL;
}

const char *device_forward(struct device_trainer *d, struct device_memory tokens) {
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

const char *device_run_micro(struct device_trainer *d, uint32_t micro) {
    const struct cuda_training *t = d->training;
    const struct layout *layout = d->options.layout;
    struct device_memory tokens = device_at(d->input, d->size.micro * micro),
                         order = device_at(tokens, d->size.tokens);
    bool accumulate = micro > 0;
    float scale = (float)(1.0 / ((double)d->rows * d->options.accumulation));
    TRY_DEVICE(device_forward(d, tokens));
    TRY_DEVICE(device_head(d, tokens, scale, accumulate));
    TRY_DEVICE(t->loss_sum(d->session, d->losses, d->rows, accumulate, d->outcome));
    TRY_DEVICE(norm_backward(d, layout->tensors[1 + 9 * d->c.layers].offset, d->x, d->rstd, false,
                             accumulate));
    for (uint32_t i = d->c.layers; i-- > 0;) {
        struct layer_weights w = weights_of(d, i);
        if (d->options.recompute && i + 1 < d->c.layers)
            TRY_DEVICE(layer_forward(d, &w, &d->layers[i], (struct device_memory){0}));
        TRY_DEVICE(layer_backward(d, &w, &d->layers[i], accumulate));
    }
    struct device_memory d_table = gradient_at(d, layout->tensors[0].offset);
    if (!accumulate && !d->c.tied)
        TRY_DEVICE(t->zero(d->session, d_table, (size_t)layout->tensors[0].count * sizeof(float)));
    return t->embed_backward(d->session, d->c.vocabulary, d->c.hidden, order,
                             device_at(order, d->size.order), d->d_x, d_table);
}

const char *device_run_step(struct device_trainer *d) {
    const struct adamw_options *o = &d->options.adamw;
    for (uint32_t micro = 0; micro < d->options.accumulation; micro++)
        TRY_DEVICE(device_run_micro(d, micro));
    TRY_DEVICE(d->training->judge(d->session, d->options.layout->count, d->gradient,
                                  d->sum_partials, o->clip, d->outcome));
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
