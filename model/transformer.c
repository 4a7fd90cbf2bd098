/* Forward, loss and backward of the CPU's model (model/transformer.h), layer by layer over a table
 * of kernels. device_trainer_step.c does the same calls in the same order on a device. */
#include "model/transformer.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

/* --- plans ------------------------------------------------------------------------------------ */

static struct matrix matrix_plan(const struct transformer *t, uint64_t offset, uint32_t out,
                                 uint32_t in, struct tensor_arena *arena) {
    struct matrix matrix = {.offset = offset, .out = out, .in = in};
    matrix.forward = tensor_arena_take(arena, t->kernels->linear_forward_size(out, in), 1);
    if (t->trains)
        matrix.backward = tensor_arena_take(arena, t->kernels->linear_backward_size(out, in), 1);
    return matrix;
}

static void fill_rope(struct transformer *t) {
    uint32_t size = model_head_size(&t->layout->config), half = size / 2;
    for (uint32_t position = 0; position < t->length; position++)
        for (uint32_t i = 0; i < half; i++) {
            double frequency = pow((double)t->layout->config.rope_theta, -2.0 * i / size);
            t->cos[(size_t)position * half + i] = (float)cos(position * frequency);
            t->sin[(size_t)position * half + i] = (float)sin(position * frequency);
        }
}

void transformer_plan(struct transformer *t, const struct layout *layout,
                      const struct kernels *kernels, uint32_t length, bool trains, bool recompute,
                      struct tensor_arena *arena) {
    const struct model_config *c = &layout->config;
    *t = (struct transformer){.layout = layout,
                              .kernels = kernels,
                              .length = length,
                              .trains = trains,
                              .recompute = recompute};
    t->layers = tensor_arena_take(arena, c->layers, sizeof *t->layers);
    t->cos = tensor_arena_floats(arena, (uint64_t)length * model_head_size(c) / 2);
    t->sin = tensor_arena_floats(arena, (uint64_t)length * model_head_size(c) / 2);
    for (uint32_t i = 0; i < c->layers; i++) {
        const struct layout_tensor *first = &layout->tensors[1 + 9 * i];
        struct transformer_layer layer = {.norm1 = first[0].offset, .norm2 = first[5].offset};
        layer.qkv = matrix_plan(t, first[1].offset, model_qkv_width(c), c->hidden, arena);
        layer.o = matrix_plan(t, first[4].offset, c->hidden, c->hidden, arena);
        layer.gate_up = matrix_plan(t, first[6].offset, 2 * c->ffn, c->hidden, arena);
        layer.down = matrix_plan(t, first[8].offset, c->hidden, c->ffn, arena);
        if (t->layers) t->layers[i] = layer;
    }
    t->norm = layout->tensors[1 + 9 * c->layers].offset;
    t->head = matrix_plan(t, c->tied ? t->embedding : layout->tensors[2 + 9 * c->layers].offset,
                          c->vocabulary, c->hidden, arena);
    if (t->cos) fill_rope(t);
}

static uint64_t scratch_size(const struct transformer *t, uint64_t rows) {
    const struct kernels *k = t->kernels;
    const struct model_config *c = &t->layout->config;
    struct attention_shape shape = {t->length, c->heads, c->kv_heads, model_head_size(c)};
    uint64_t size = k->attention_scratch_size(&shape);
    const uint32_t shapes[][2] = {{model_qkv_width(c), c->hidden},
                                  {c->hidden, c->hidden},
                                  {2 * c->ffn, c->hidden},
                                  {c->hidden, c->ffn}};
    for (size_t i = 0; i < COUNT_OF(shapes); i++)
        size = MAX(size, k->linear_scratch_size(rows, shapes[i][0], shapes[i][1]));
    return MAX(size, k->linear_scratch_size(LOSS_ROWS, c->vocabulary, c->hidden));
}

static struct workspace_layer workspace_layer_plan(const struct transformer *t, uint64_t sequences,
                                                   struct tensor_arena *arena) {
    const struct model_config *c = &t->layout->config;
    uint64_t rows = sequences * t->length;
    struct workspace_layer layer = {.x = tensor_arena_floats(arena, rows * c->hidden)};
    layer.rstd1 = tensor_arena_floats(arena, rows);
    layer.rstd2 = tensor_arena_floats(arena, rows);
    layer.qkv = tensor_arena_floats(arena, rows * model_qkv_width(c));
    layer.attention = tensor_arena_floats(arena, rows * c->hidden);
    layer.lse = tensor_arena_floats(arena, rows * c->heads);
    layer.middle = tensor_arena_floats(arena, rows * c->hidden);
    layer.gate_up = tensor_arena_floats(arena, rows * 2 * c->ffn);
    return layer;
}

void workspace_plan(struct workspace *w, const struct transformer *t, uint32_t sequences,
                    struct tensor_arena *arena) {
    const struct model_config *c = &t->layout->config;
    uint64_t rows = (uint64_t)sequences * t->length;
    *w = (struct workspace){.sequences = sequences};
    w->layers = tensor_arena_take(arena, c->layers, sizeof *w->layers);
    struct workspace_layer layer = {0};
    for (uint32_t i = 0; i < c->layers; i++) {
        if (i == 0 || (t->trains && !t->recompute))
            layer = workspace_layer_plan(t, sequences, arena);
        else if (t->trains)
            /* the rest is shared, and made again when it is wanted */
            layer.x = tensor_arena_floats(arena, rows * c->hidden);
        if (w->layers) w->layers[i] = layer;
    }
    w->x = tensor_arena_floats(arena, rows * c->hidden);
    w->normed = tensor_arena_floats(arena, rows * c->hidden);
    w->rstd = tensor_arena_floats(arena, rows);
    w->h = tensor_arena_floats(arena, rows * c->ffn);
    if (t->trains) {
        w->d_x = tensor_arena_floats(arena, rows * c->hidden);
        w->d_normed = tensor_arena_floats(arena, rows * c->hidden);
        w->d_wide = tensor_arena_floats(arena, rows * MAX(model_qkv_width(c), c->ffn));
    }
    w->logits = tensor_arena_floats(arena, (uint64_t)LOSS_ROWS * c->vocabulary);
    w->targets = tensor_arena_take(arena, LOSS_ROWS, sizeof *w->targets);
    w->scratch = tensor_arena_take(arena, scratch_size(t, rows), 1);
}

/* --- packing ---------------------------------------------------------------------------------- */

uint32_t transformer_pack_jobs(const struct transformer *t) {
    return (4 * t->layout->config.layers + 1) * (t->trains ? 2 : 1);
}

void transformer_pack(struct transformer *t, const float *parameters, uint32_t job) {
    uint32_t number = t->trains ? job / 2 : job, layer = number / 4;
    struct matrix *matrices[] = {&t->head, NULL, NULL, NULL};
    if (layer < t->layout->config.layers) {
        struct transformer_layer *l = &t->layers[layer];
        matrices[0] = &l->qkv, matrices[1] = &l->o, matrices[2] = &l->gate_up,
        matrices[3] = &l->down;
    }
    const struct matrix *m = matrices[number % 4];
    if (t->trains && job % 2 == 1)
        t->kernels->linear_pack_backward(m->out, m->in, parameters + m->offset, m->backward);
    else
        t->kernels->linear_pack_forward(m->out, m->in, parameters + m->offset, m->forward);
}

/* --- one run ---------------------------------------------------------------------------------- */

struct run { /* the arguments of transformer_run, for its parts */
    const struct transformer *t;
    const struct kernels *k;
    const struct model_config *c;
    struct workspace *w;
    const float *parameters;
    const uint32_t *tokens;
    uint32_t sequences, length;
    size_t rows;
    float scale;
    float *gradient;
    bool fresh;
    struct attention_shape shape;
};

static void linear(const struct run *r, const struct matrix *m, const float *x, const float *add,
                   float *y) {
    r->k->linear_forward(r->rows, m->out, m->in, x, m->in, m->forward, add, y, m->out,
                         r->w->scratch);
}

static void weight_gradient(const struct run *r, const struct matrix *m, size_t rows,
                            const float *x, const float *dy, bool fresh) {
    float *dw = r->gradient + m->offset;
    r->k->linear_backward_weight(rows, m->out, m->in, dy, m->out, x, m->in, fresh ? NULL : dw, dw,
                                 r->w->scratch);
}

/* Gradients of y = x W^T: dx from dy, and W's own. */
static void linear_backward(const struct run *r, const struct matrix *m, const float *x,
                            const float *dy, float *dx) {
    weight_gradient(r, m, r->rows, x, dy, r->fresh);
    r->k->linear_backward_input(r->rows, m->out, m->in, dy, m->out, m->backward, dx, m->in,
                                r->w->scratch);
}

static void rotate(const struct run *r, float *qkv, float sign) {
    size_t width = attention_qkv_width(&r->shape);
    for (uint32_t s = 0; s < r->sequences; s++)
        r->k->rope(r->length, width, r->c->heads + r->c->kv_heads, r->shape.head_size, r->t->cos,
                   r->t->sin, sign, qkv + (size_t)s * r->length * width);
}

static void embed(const struct run *r, float *x) {
    for (uint32_t s = 0; s < r->sequences; s++)
        for (uint32_t i = 0; i < r->length; i++, x += r->c->hidden) {
            uint32_t token = r->tokens[(size_t)s * (r->length + 1) + i];
            memcpy(x, r->parameters + r->t->embedding + (uint64_t)token * r->c->hidden,
                   r->c->hidden * sizeof *x);
        }
}

static void embed_backward(const struct run *r, const float *d_x) {
    for (uint32_t s = 0; s < r->sequences; s++)
        for (uint32_t i = 0; i < r->length; i++, d_x += r->c->hidden) {
            uint32_t token = r->tokens[(size_t)s * (r->length + 1) + i];
            float *row = r->gradient + r->t->embedding + (uint64_t)token * r->c->hidden;
            for (uint32_t j = 0; j < r->c->hidden; j++) row[j] += d_x[j];
        }
}

/* out may be the layer's own input where nothing is kept; NULL: only what backward needs is wanted.
 */
static void layer_forward(const struct run *r, const struct transformer_layer *layer,
                          const struct workspace_layer *kept, float *out) {
    struct workspace *w = r->w;
    const struct model_config *c = r->c;
    r->k->norm_forward(r->rows, c->hidden, c->norm_eps, kept->x, r->parameters + layer->norm1,
                       w->normed, kept->rstd1);
    linear(r, &layer->qkv, w->normed, NULL, kept->qkv);
    rotate(r, kept->qkv, 1.0f);
    for (size_t s = 0; s < r->sequences; s++)
        r->k->attention_forward(&r->shape,
                                kept->qkv + s * r->length * attention_qkv_width(&r->shape),
                                kept->attention + s * r->length * c->hidden,
                                kept->lse + s * r->length * c->heads, w->scratch);
    linear(r, &layer->o, kept->attention, kept->x, kept->middle);
    r->k->norm_forward(r->rows, c->hidden, c->norm_eps, kept->middle, r->parameters + layer->norm2,
                       w->normed, kept->rstd2);
    linear(r, &layer->gate_up, w->normed, NULL, kept->gate_up);
    if (!out) return;
    r->k->swiglu_forward(r->rows, c->ffn, kept->gate_up, w->h);
    linear(r, &layer->down, w->h, kept->middle, out);
}

/* w->d_x is the gradient of the layer's output, and becomes that of its input. */
static void layer_backward(const struct run *r, const struct transformer_layer *layer,
                           const struct workspace_layer *kept) {
    struct workspace *w = r->w;
    const struct model_config *c = r->c;
    /* x_out = middle + h Wdown^T. d_wide holds dh until swiglu_backward has used it. */
    r->k->linear_backward_input(r->rows, c->hidden, c->ffn, w->d_x, c->hidden, layer->down.backward,
                                w->d_wide, c->ffn, w->scratch);
    r->k->swiglu_backward(r->rows, c->ffn, kept->gate_up, w->d_wide, w->h, kept->gate_up);
    weight_gradient(r, &layer->down, r->rows, w->h, w->d_x, r->fresh);
    r->k->norm_again(r->rows, c->hidden, kept->middle, r->parameters + layer->norm2, kept->rstd2,
                     w->normed);
    linear_backward(r, &layer->gate_up, w->normed, kept->gate_up, w->d_normed);
    r->k->norm_backward(r->rows, c->hidden, w->d_normed, kept->middle, r->parameters + layer->norm2,
                        kept->rstd2, w->d_x, r->gradient + layer->norm2);
    /* middle = x + attention Wo^T */
    linear_backward(r, &layer->o, kept->attention, w->d_x, w->d_normed);
    for (size_t s = 0; s < r->sequences; s++) {
        size_t at = s * r->length * attention_qkv_width(&r->shape), row = s * r->length * c->hidden;
        r->k->attention_backward(&r->shape, kept->qkv + at, kept->attention + row,
                                 kept->lse + s * r->length * c->heads, w->d_normed + row,
                                 w->d_wide + at, w->scratch);
    }
    rotate(r, w->d_wide, -1.0f);
    r->k->norm_again(r->rows, c->hidden, kept->x, r->parameters + layer->norm1, kept->rstd1,
                     w->normed);
    linear_backward(r, &layer->qkv, w->normed, w->d_wide, w->d_normed);
    r->k->norm_backward(r->rows, c->hidden, w->d_normed, kept->x, r->parameters + layer->norm1,
                        kept->rstd1, w->d_x, r->gradient + layer->norm1);
}

/* Head and loss over w->normed; with a gradient, leaves d_normed. */
static double head_run(const struct run *r) {
    struct workspace *w = r->w;
    const struct matrix *m = &r->t->head;
    double loss = 0;
    for (size_t from = 0; from < r->rows; from += LOSS_ROWS) {
        size_t rows = MIN(r->rows - from, (size_t)LOSS_ROWS);
        const float *x = w->normed + from * m->in;
        for (size_t i = 0; i < rows; i++) {
            size_t sequence = (from + i) / r->length, at = (from + i) % r->length;
            w->targets[i] = r->tokens[sequence * (r->length + 1) + at + 1];
        }
        r->k->linear_forward(rows, m->out, m->in, x, m->in, m->forward, NULL, w->logits, m->out,
                             w->scratch);
        loss +=
            r->k->cross_entropy(rows, m->out, w->logits, w->targets, r->gradient ? r->scale : 0.0f);
        if (!r->gradient) continue;
        weight_gradient(r, m, rows, x, w->logits, r->fresh && from == 0);
        r->k->linear_backward_input(rows, m->out, m->in, w->logits, m->out, m->backward,
                                    w->d_normed + from * m->in, m->in, w->scratch);
    }
    return loss;
}

/* Products of matrices write over a fresh gradient; all else adds to it. */
static void clear_added(const struct run *r) {
    const struct layout *layout = r->t->layout;
    for (uint32_t i = 0; i < layout->tensor_count; i++) {
        const struct layout_tensor *tensor = &layout->tensors[i];
        bool product = tensor->dimensions == 2 && (tensor->offset != r->t->embedding || r->c->tied);
        if (!product) memset(r->gradient + tensor->offset, 0, tensor->count * sizeof *r->gradient);
    }
}

double transformer_run(const struct transformer *t, struct workspace *w, const float *parameters,
                       const uint32_t *tokens, uint32_t sequences, uint32_t length, float scale,
                       float *gradient, bool fresh) {
    const struct model_config *c = &t->layout->config;
    ASSERT(sequences <= w->sequences && length <= t->length && (t->trains || !gradient));
    const struct run run = {.t = t,
                            .k = t->kernels,
                            .c = c,
                            .w = w,
                            .parameters = parameters,
                            .tokens = tokens,
                            .sequences = sequences,
                            .length = length,
                            .rows = (size_t)sequences * length,
                            .scale = scale,
                            .gradient = gradient,
                            .fresh = fresh,
                            .shape = {length, c->heads, c->kv_heads, model_head_size(c)}};
    embed(&run, w->layers[0].x);
    for (uint32_t i = 0; i < c->layers; i++) {
        float *out = i + 1 < c->layers ? w->layers[i + 1].x : w->x;
        layer_forward(&run, &t->layers[i], &w->layers[i], out);
    }
    run.k->norm_forward(run.rows, c->hidden, c->norm_eps, w->x, parameters + t->norm, w->normed,
                        w->rstd);
    if (gradient && fresh) clear_added(&run);
    double loss = head_run(&run);
    if (!gradient) return loss;
    memset(w->d_x, 0, run.rows * c->hidden * sizeof *w->d_x);
    run.k->norm_backward(run.rows, c->hidden, w->d_normed, w->x, parameters + t->norm, w->rstd,
                         w->d_x, gradient + t->norm);
    for (uint32_t i = c->layers; i-- > 0;) {
        if (t->recompute && i + 1 < c->layers)
            layer_forward(&run, &t->layers[i], &w->layers[i], NULL);
        layer_backward(&run, &t->layers[i], &w->layers[i]);
    }
    embed_backward(&run, w->d_x);
    return loss;
}
