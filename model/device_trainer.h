/* The training step on a CUDA device: what trainer.c does with its pool, done by
 * kernels/cuda_training.h.
 *
 * All state of training lies on the device: fp32 parameters, their bf16 copy, AdamW's moments, the
 * gradient. Host and device are made equal by upload and download, and by nothing else; between
 * steps nothing but tokens and a step's result cross the bus.
 *
 * Everything is taken in one piece when the trainer is made, from a computed sum: too little memory
 * is FULL with both figures, before anything has run. Then one pass over zeroes finds the fastest
 * matrix algorithms (kept in `cache` between processes), and the whole step is recorded as a graph,
 * which each step replays. Steps of very many micro-batches are queued call by call instead.
 *
 *     device_trainer_stage(d, tokens);        copies a step's tokens beside the running step; any
 *                                             time after begin
 *     device_trainer_begin(d, &update);       queues a step over what was staged, and returns
 *     device_trainer_end(d, &outcome);        waits for it
 *
 * An accumulation of micro-batches of `sequences` has the CPU's semantics: one mean over all
 * tokens. Formulas are transformer.c's. Deterministic: the same device, libraries and cache give
 * the same bits. A failure of the device is UNAVAILABLE and final: nothing but destroy helps, and
 * what lay on the device is gone.
 */
#ifndef MODEL_DEVICE_TRAINER_H
#define MODEL_DEVICE_TRAINER_H

#include <stdbool.h>

#include "kernels/cuda_training.h"
#include "model/adamw.h"
#include "model/layout.h"

struct device_trainer;

struct device_trainer_options {
    const struct layout *layout;        /* borrowed until destroy */
    const struct cuda_backend *backend; /* borrowed until destroy */
    uint32_t sequences, length, accumulation;
    struct adamw_options adamw;
    bool recompute, bf16_moments;
    const char *cache; /* a file for matrix algorithms; NULL: none */
};

/* Bytes of device memory that create will take, the library's own aside. */
uint64_t device_trainer_memory(const struct device_trainer_options *options);
/* INVALID names what in the model's shape the kernels cannot do; FULL has the figures; FAILED and
 * UNAVAILABLE pass through. */
MUST_USE enum status device_trainer_create(const struct device_trainer_options *options,
                                           struct device_trainer **out, struct error *error);
void device_trainer_destroy(struct device_trainer *d); /* NULL is a no-op */
/* Which kernels were chosen and why, one line for the log; the trainer's. */
const char *device_trainer_line(const struct device_trainer *d);

/* All of the state, or the part that is not NULL. m and v are floats, or with bf16_moments 16-bit.
 */
MUST_USE enum status device_trainer_upload(struct device_trainer *d, const float *parameters,
                                           const void *m, const void *v, struct error *error);
MUST_USE enum status device_trainer_download(struct device_trainer *d, float *parameters, void *m,
                                             void *v, struct error *error);

/* Parameters start to start + count go to fresh + (they - origin), where they lie: 8 bytes a
 * parameter cross the bus. Host memory, [count] each. Not between begin and end. */
MUST_USE enum status device_trainer_rebase(struct device_trainer *d, uint64_t start, uint64_t count,
                                           const float *fresh, const float *origin,
                                           struct error *error);

/* tokens: [accumulation * sequences][length + 1], all below the vocabulary; may be reused at
 * return. At most one step ahead. */
MUST_USE enum status device_trainer_stage(struct device_trainer *d, const uint32_t *tokens,
                                          struct error *error);
MUST_USE enum status device_trainer_begin(struct device_trainer *d,
                                          const struct cuda_update *update, struct error *error);
/* outcome->finite 0: parameters and moments are as before. */
MUST_USE enum status device_trainer_end(struct device_trainer *d, struct cuda_outcome *outcome,
                                        struct error *error);
/* Sum of -log p over `count` sequences, any number, with the parameters that are there. Not between
 * begin and end, and what was staged is lost. */
MUST_USE enum status device_trainer_loss(struct device_trainer *d, const uint32_t *tokens,
                                         uint64_t count, double *sum, struct error *error);
/* The gradient of the last step, for tests: [layout->count]. */
MUST_USE enum status device_trainer_gradient(struct device_trainer *d, float *out,
                                             struct error *error);

#endif
