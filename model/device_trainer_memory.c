/* Where a training step's tensors lie in one piece of device memory, and how much that is. */
#include "model/device_trainer_internal.h"

enum {
    ALIGNMENT = 256,
    LOGITS_MOST =
        1 << 28, /* elements of a chunk of logits: 512 MiB, enough rows to fill a device */
    CHUNK_MULTIPLE = 128,
};

struct memory_plan { /* base 0: measure only */
    uint64_t base, used;
};

static struct device_memory take(struct memory_plan *plan, uint64_t count, uint64_t size) {
    struct device_memory out = {plan->base ? plan->base + plan->used : 0};
    plan->used += (count * size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return out;
}
static struct device_memory take_floats(struct memory_plan *plan, uint64_t count) {
    return take(plan, count, sizeof(float));
}
static struct device_memory take_halves(struct memory_plan *plan, uint64_t count) {
    return take(plan, count, sizeof(uint16_t));
}

static struct kept plan_kept(struct memory_plan *plan, const struct model_config *c,
                             uint64_t rows) {
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
    for (uint32_t i = 0; i < layout->tensor_count; i++)
        count += (layout->tensors[i].count + CUDA_PIECE - 1) / CUDA_PIECE;
    return (uint32_t)count;
}

void device_trainer_sizes(struct device_trainer *d) {
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

uint64_t device_trainer_lay_out(struct device_trainer *d, uint64_t base) {
    struct memory_plan own = {.base = base}, *plan = &own;
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
    return own.used;
}

uint64_t device_trainer_memory(const struct device_trainer_options *options) {
    struct device_trainer d = {.options = *options, .c = options->layout->config};
    device_trainer_sizes(&d);
    return device_trainer_lay_out(&d, 0);
}
