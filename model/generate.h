/* Sampling from a model, one sequence, with a cache of keys and values: cost grows with what is
 * written, not with its square.
 *
 * Reproducible on one machine: the same seed, parameters and options give the same tokens.
 * temperature 0 takes the most likely token (the lowest index on a tie). top_k and top_p cut the
 * tail before drawing, in this order.
 */
#ifndef MODEL_GENERATE_H
#define MODEL_GENERATE_H

#include "model/layout.h"

struct generate_options {
    float temperature; /* 0: greedy */
    uint32_t top_k;    /* 0: no limit */
    float top_p;       /* 1: no limit; in (0, 1] */
    uint64_t seed;
    /* told each token as it is drawn; false: that was the last. NULL: nobody */
    bool (*each)(void *context, uint32_t token);
    void *context;
};

#define GENERATE_DEFAULTS                                                                          \
    { .temperature = 0.8f, .top_k = 0, .top_p = 1.0f, .seed = 1 }

/* Continues `prompt` (at least one token) by `count` tokens or until `each` ends it, written to
 * `out`. prompt_count + count may not exceed the context. INVALID names what is wrong; FULL if
 * there is no memory; CORRUPT if the logits are not finite. */
MUST_USE enum status generate(const struct layout *layout, const float *parameters,
                              const struct generate_options *options, const uint32_t *prompt,
                              uint32_t prompt_count, uint32_t *out, uint32_t count,
                              struct error *error);

/* The same a token at a time: a model that has read some tokens, `limit` (<= context) at most.
 * Borrows layout and parameters; the matrices are copied when it is made, so parameters must not
 * change meanwhile. `kernels` as in trainer_options. */
struct generator;

MUST_USE enum status generator_create(const struct layout *layout, const float *parameters,
                                      uint32_t limit, const char *kernels, struct generator **out,
                                      struct error *error);
void generator_destroy(struct generator *generator); /* NULL is a no-op */
/* Reads one token. *logits, [vocabulary], tell the next; lent until the next call. INVALID: a token
 * beyond the vocabulary, or one more than the limit. */
MUST_USE enum status generator_read(struct generator *generator, uint32_t token,
                                    const float **logits, struct error *error);

#endif
