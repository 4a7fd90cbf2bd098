/* What trainer.c and trainer_state.c share, and nobody else. */
#ifndef MODEL_TRAINER_INTERNAL_H
#define MODEL_TRAINER_INTERNAL_H

#include "model/crew.h"
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
};

#endif
