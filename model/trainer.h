/* What a node uses to train: a model, its inner optimizer and their threads, on the CPU.
 *
 *     struct trainer_options options = TRAINER_DEFAULTS; options.model = ...;
 *     trainer_create(&options, &trainer, &error);             memory is taken here, once:
 *                                                             trainer_memory says how much
 *     layout_initialise(trainer_layout(trainer), seed, trainer_parameters_to_change(trainer));
 *     while (...) trainer_step(trainer, data, run_tokens, &result, &error);
 *
 * Between two steps the caller may read and write trainer_parameters_to_change (that is how a node
 * snapshots and rebases): it is the fp32 master copy, a flat vector of trainer_layout()->count
 * floats; nothing derived from it outlives a step. AdamW's state is kept across rebases.
 *
 * A step takes batch * accumulation sequences from the data, splits them into `shards` groups that
 * do not depend on the number of threads, runs forward and backward on shards in parallel and sums
 * their gradients in the order of shards: the same bits for any number of threads, on one machine
 * and instruction set. Threads sleep between steps; they are the trainer's own.
 *
 * A trainer is used by one thread at a time, any thread. Trainers share nothing: a process may have
 * many. A step is not interrupted; to cancel, stop calling. A trainer that is cut off by a crash
 * continues from trainer_load bit for bit.
 */
#ifndef MODEL_TRAINER_H
#define MODEL_TRAINER_H

#include "base/bytes.h"
#include "kernels/device_choice.h"
#include "model/adamw.h"
#include "model/config.h"
#include "model/data.h"
#include "model/layout.h"
#include "model/schedule.h"

struct trainer;

struct trainer_options {
    struct model_config model;
    uint32_t sequences;    /* in a batch (per accumulation) */
    uint32_t length;       /* of a sequence, <= model.context */
    uint32_t accumulation; /* batches a step, 1.. */
    uint32_t shards;  /* 0: one for 1024 tokens of a step, see trainer_shards. More threads than
                         shards do not help */
    uint32_t threads; /* 0: one per processor. Does not change results */
    /* a table of kernels/kernels.h; NULL: the best here, or what ATOLL_KERNELS says */
    const char *kernels;
    /* On CUDA forward and backward are in bfloat16 and the results are another machine's; shards
     * and threads mean nothing there. trainer_device_line says where steps run, and why. */
    enum device_choice device;
    /* the backend; NULL: beside the program. See kernels/cuda_backend.h */
    const char *cuda_library;
    struct adamw_options adamw;
    struct schedule schedule;
    bool recompute; /* keep only each layer's input for the backward pass: less memory, a third more
                       work, the same bits */
    bool forward_only; /* for trainer_evaluate alone: no gradients, no moments; trainer_step, _save
                          and _load are not to be called */
    bool (*cancelled)(
        void); /* asked between the batches of an evaluation, which may be long; NULL: never */
    bool bf16_moments; /* keep AdamW's m and v in bfloat16, rounded by chance (see model/moments.h):
                          4 bytes per parameter less */
};

#define TRAINER_DEFAULTS                                                                           \
    {                                                                                              \
        .sequences = 8, .length = 128, .accumulation = 1, .adamw = ADAMW_DEFAULTS, .schedule = {   \
            .shape = SCHEDULE_CONSTANT,                                                            \
            .peak = 1e-3f                                                                          \
        }                                                                                          \
    }

struct trainer_result {
    double loss;          /* mean nats per token over the step's sequences, before the update */
    double gradient_norm; /* global, before clipping */
    float learning_rate;
    uint64_t tokens; /* trained on in this step: sequences * length * accumulation */
};

struct trainer_counters { /* since the trainer was new, kept by save and load */
    uint64_t steps, tokens;
    struct data_position position;
};

/* INVALID names the option. */
MUST_USE enum status trainer_check(const struct trainer_options *options, struct error *error);
/* Bytes that trainer_create will take; the options must have passed trainer_check. With
 * DEVICE_AUTO, as if there were no device. */
uint64_t trainer_memory(const struct trainer_options *options);
/* And of the device's memory, its libraries' own aside: with DEVICE_AUTO, if there is one. 0 where
 * nothing needs one. */
uint64_t trainer_device_memory(const struct trainer_options *options);
/* The shards there will be; 0 in the options stands for one for every 1024 tokens of a step (adding
 * up a shard's gradient then costs a few hundredths of computing it), but at least 4, at most 64
 * and the sequences there are, and half as many (not below 4) until their gradients take at most 1
 * GiB. It depends on batch and model alone, never on the machine: so do the results. */
uint32_t trainer_shards(const struct trainer_options *options);
/* Parameters start as zeroes, AdamW's state too. INVALID; FULL if there is no memory, on the host
 * or on the device; UNAVAILABLE if there are no threads, or with DEVICE_CUDA no device. */
MUST_USE enum status trainer_create(const struct trainer_options *options, struct trainer **out,
                                    struct error *error);
void trainer_destroy(struct trainer *trainer); /* joins its threads; NULL is a no-op */

const struct layout *trainer_layout(const struct trainer *trainer); /* lent until trainer_destroy */
/* [layout->count], lent until trainer_destroy; on a device until the next step: what it holds now
 * is copied here, and all of it goes back before the next step, for it may have been written. Call
 * again after a step, the place may be another. */
float *trainer_parameters_to_change(struct trainer *trainer);
/* Parameters start to start + count go to fresh + (they - origin), as elementwise_rebase has it;
 * [count] each. On a device where they lie, and what was last on the host goes along: so what is
 * left after a loss stands on the same base. Between two steps. */
void trainer_rebase(struct trainer *trainer, uint64_t start, uint64_t count, const float *fresh,
                    const float *origin);
struct trainer_counters trainer_counters(const struct trainer *trainer);
/* "avx512" and so on, "cuda" on a device, for logs */
const char *trainer_kernels(const struct trainer *trainer);
/* One line for the log: what was found, or why the CPU does the work. */
const char *trainer_device_line(const struct trainer *trainer);
/* The device was lost: what the trainer holds, counters too, is of when it was last looked at, and
 * no step will succeed. */
bool trainer_is_lost(const struct trainer *trainer);

/* One inner step at the learning rate of `run_tokens` (tokens the whole run has seen). Data errors
 * pass through, with nothing changed. CORRUPT if the loss or gradient is not finite: parameters,
 * optimizer state and step count are untouched, but the data position has moved on, so that the
 * same bad batch is not met again. UNAVAILABLE if the device is lost: the trainer then holds the
 * whole state (counters too) of when it was last looked at, which may be saved; no later step
 * succeeds. `result` may be NULL. On a device the next step's sequences are read ahead by a thread:
 * `data` stay in use until trainer_release_data or trainer_destroy. */
MUST_USE enum status trainer_step(struct trainer *trainer, const struct data *data,
                                  uint64_t run_tokens, struct trainer_result *result,
                                  struct error *error);

/* Another schedule from the next step on. INVALID names the field. */
MUST_USE enum status trainer_set_schedule(struct trainer *trainer, const struct schedule *schedule,
                                          struct error *error);

/* Waits until nothing reads the data of the last step any more, so that they may be closed. */
void trainer_release_data(struct trainer *trainer);

/* Mean nats per token of the current parameters over at most max_windows held-out windows (0: all),
 * evenly spread. NOT_FOUND if the data hold none; CANCELLED if options.cancelled said so. */
MUST_USE enum status trainer_evaluate(struct trainer *trainer, const struct data *data,
                                      uint64_t max_windows, double *nats, struct error *error);
/* The same over given sequences: [count][length + 1] tokens. INVALID if a token is beyond the
 * vocabulary. */
MUST_USE enum status trainer_evaluate_tokens(struct trainer *trainer, const uint32_t *tokens,
                                             uint64_t count, double *nats, struct error *error);

/* The whole state (layout, parameters, m, v, counters): canonical bytes, equal states give equal
 * bytes, so the caller may digest and compare them. Carries no checksum: the caller stores a digest
 * beside it, or base/checksum.h's. Appends to *out. */
void trainer_save(struct trainer *trainer, struct buffer *out);
/* The optimizer's part alone (layout, m, v, counters), for a node that stores its parameters
 * elsewhere. */
void trainer_save_optimizer(struct trainer *trainer, struct buffer *out);
/* Takes back what either of the two wrote (the second leaves the parameters as they are). INVALID:
 * another layout, naming the tensor; CORRUPT: bad structure or length, a value that no step leaves
 * (not finite, a negative second moment); both leave the trainer unchanged. Batch, threads and
 * schedule are not part of the state and may have changed. */
MUST_USE enum status trainer_load(struct trainer *trainer, struct bytes state, struct error *error);
/* Forgets AdamW's m and v and its step count (bias correction starts anew); tokens and data
 * position stay. */
void trainer_reset_optimizer(struct trainer *trainer);

#endif
