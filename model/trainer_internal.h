/* What trainer.c and trainer_state.c share, and nobody else. */
#ifndef MODEL_TRAINER_INTERNAL_H
#define MODEL_TRAINER_INTERNAL_H

#include "model/crew.h"
#include "model/device_trainer.h"
#include "model/moments.h"
#include "model/trainer.h"
#include "model/transformer.h"

struct trainer {
    struct trainer_options options;
    struct layout layout;
    const struct kernels *kernels;
    struct crew *crew;
    void *memory; /* all arrays below lie in it */

    uint64_t total;                  /* sequences a step */
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
    bool behind, ahead, lost, staged;
    struct data_position staged_from, staged_to;
    struct trainer_counters mirrored;
    uint64_t mirrored_steps;
};

/* A step's sequences from *position to t->tokens. */
MUST_USE enum status trainer_gather(struct trainer *t, const struct data *data, struct data_position *position,
                                    struct error *error);

/* Makes the device's part if the options wish for it and there is one; t->device says whether. */
MUST_USE enum status trainer_device_start(struct trainer *t, struct error *error);
void trainer_device_stop(struct trainer *t);
void trainer_device_pull(struct trainer *t);    /* the mirror becomes the device's state; nothing on the CPU */
void trainer_device_changed(struct trainer *t); /* the mirror was, or may be, written */
MUST_USE enum status trainer_device_step(struct trainer *t, const struct data *data, const struct adamw_step *step, double *loss,
                                         double *norm, struct error *error);
MUST_USE enum status trainer_device_evaluate(struct trainer *t, const uint32_t *tokens, uint64_t count, double *sum,
                                             struct error *error);

#endif
