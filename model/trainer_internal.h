/* What trainer.c and trainer_state.c share, and nobody else. */
#ifndef MODEL_TRAINER_INTERNAL_H
#define MODEL_TRAINER_INTERNAL_H

#include "base/thread_pool.h"
#include "model/device_trainer.h"
#include "model/moments.h"
#include "model/trainer.h"
#include "model/transformer.h"

struct trainer {
    struct trainer_options options;
    struct layout layout;
    const struct kernels *kernels;
    struct thread_pool *pool;
    void *memory; /* all arrays below lie in it */

    uint64_t total;                  /* sequences per step */
    uint32_t shards, workers, micro; /* micro: sequences that go through the model at once */
    uint64_t blocks;
    struct transformer transformer;
    struct workspace *workspaces; /* [workers] */
    float *parameters;            /* [layout.count] */
    struct moments m, v;          /* [layout.count] */
    float **gradients;            /* [shards][layout.count]; the sum ends in the first */
    uint32_t *tokens;             /* [total][length + 1] */
    double *losses;               /* [max(total, blocks)]: by shard, micro-batch or block */
    struct adamw_step update;

    struct trainer_counters counters;
    uint64_t optimizer_steps; /* t of the bias corrections */

    /* trainer_device.c's; device is NULL where the CPU does the work */
    struct cuda_backend backend;
    struct device_trainer *device;
    char device_line[ERROR_MESSAGE_SIZE];
    bool behind, ahead, lost;
    float *other_parameters; /* where the next download goes: it changes places with the mirror once
                                it is whole */
    struct moments other_m, other_v;
    uint32_t *ahead_tokens; /* as tokens, of the thread that reads ahead */
    struct ahead *reading;
    struct trainer_counters mirrored;
    uint64_t mirrored_steps;
};

/* A step's sequences from *position to tokens, [t->total][length + 1]. Any thread. */
MUST_USE enum status trainer_gather(const struct trainer *t, const struct data *data,
                                    struct data_position *position, uint32_t *tokens,
                                    struct error *error);

/* --- trainer_ahead.c: the next step's tokens are read and sent to the device by a thread of their
 * own --- */
struct ahead;
MUST_USE enum status ahead_create(struct trainer *t, struct ahead **out, struct error *error);
void ahead_destroy(struct ahead *a); /* after what is being read; NULL is a no-op */
/* Waits for the piece before, if there is one, and returns: `data` is in use until ahead_take,
 * _forget or _destroy. */
void ahead_begin(struct ahead *a, const struct data *data, struct data_position from);
/* Waits. OK: what stands staged is what follows `from` in `data`, up to *to. NOT_FOUND: it is not,
 * or nothing was read; else why reading it failed. Either way it is not given again. */
MUST_USE enum status ahead_take(struct ahead *a, const struct data *data, struct data_position from,
                                struct data_position *to, struct error *error);
void ahead_forget(struct ahead *a); /* waits; NULL is a no-op */

/* Makes the device's part if the options wish for it and there is one; t->device says whether. */
MUST_USE enum status trainer_device_start(struct trainer *t, struct error *error);
void trainer_device_stop(struct trainer *t);
/* Once the trainer's memory is there: the thread that reads ahead. Nothing on the CPU. */
MUST_USE enum status trainer_device_read_ahead(struct trainer *t, struct error *error);
/* the mirror becomes the device's state; nothing on the CPU */
void trainer_device_pull(struct trainer *t);
/* The device's parameters move as the mirror's have. Nothing where the mirror is ahead, or on the
 * CPU; a failure is told by the next step. */
void trainer_device_rebase(struct trainer *t, uint64_t start, uint64_t count, const float *fresh,
                           const float *origin);
void trainer_device_changed(struct trainer *t); /* the mirror was, or may be, written */
MUST_USE enum status trainer_device_step(struct trainer *t, const struct data *data,
                                         const struct adamw_step *step, double *loss, double *norm,
                                         struct error *error);
MUST_USE enum status trainer_device_evaluate(struct trainer *t, const uint32_t *tokens,
                                             uint64_t count, double *sum, struct error *error);

#endif
