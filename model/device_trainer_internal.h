/* The inside of the trainer on a device: device_trainer.c (its life, state in and out, steps),
 * device_trainer_memory.c (where everything lies), device_trainer_step.c (the calls of a step,
 * queued). */
#ifndef MODEL_DEVICE_TRAINER_INTERNAL_H
#define MODEL_DEVICE_TRAINER_INTERNAL_H

#include "base/memory.h"
#include "model/device_trainer.h"

struct kept { /* of a layer, from forward for backward; with recompute all but x is one set for all
               */
    struct device_memory x, rstd1, normed1, qkv, attention, lse, middle, rstd2, normed2, gate_up, h;
};

struct inputs { /* a step's, as they are staged: of each micro-batch tokens, then its rows in the
                   order of their tokens */
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

/* While a text stays NULL; the functions below return the first that is not. */
#define TRY_DEVICE(call)                                                                           \
    do {                                                                                           \
        const char *answer_ = (call);                                                              \
        if (answer_) return answer_;                                                               \
    } while (0)

static inline struct device_memory device_at(struct device_memory memory, uint64_t offset) {
    return (struct device_memory){memory.address + offset};
}

/* --- device_trainer_memory.c --- */
void device_trainer_sizes(struct device_trainer *d);
/* Where everything lies in memory that begins at `base`; 0: only measured. Returns its bytes. */
uint64_t device_trainer_lay_out(struct device_trainer *d, uint64_t base);

/* --- device_trainer_step.c: all return NULL, or what went wrong --- */
struct cuda_attention device_attention_of(const struct device_trainer *d, const struct kept *kept);
const char *device_forward(struct device_trainer *d, struct device_memory tokens);
/* Head and loss over normed, by chunks of rows; with scale, leaves d_normed. */
const char *device_head(struct device_trainer *d, struct device_memory tokens, float scale,
                        bool accumulate);
/* Forward and backward of the step's micro-batch: the first one's gradient replaces what was there.
 */
const char *device_run_micro(struct device_trainer *d, uint32_t micro);
const char *device_run_step(struct device_trainer *d);

#endif
