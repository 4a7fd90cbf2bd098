/* Where each tensor lies in the one flat fp32 parameter vector.
 *
 * All that the federation exchanges is that vector, so its order is part of the protocol: two sites
 * whose layouts differ must never merge. The order is the order of use: embedding; a layer's input
 * norm, q, k, v, o, post-attention norm, gate, up, down; the last norm; the head unless tied. No
 * padding: a tensor begins where the last one ended, which makes q|k|v and gate|up single matrices.
 * Names and shapes ([out, in], row-major) are Hugging Face Llama's.
 *
 * layout_describe gives canonical bytes (equal layouts, equal bytes; what differs in function also
 * differs in bytes), whose SHA-256 is the layout digest of signed headers. This folder has no
 * digests: the caller feeds the bytes to its own.
 */
#ifndef MODEL_LAYOUT_H
#define MODEL_LAYOUT_H

#include "base/bytes.h"
#include "model/config.h"

enum { LAYOUT_NAME_SIZE = 64 };

struct layout_tensor {
    char name[LAYOUT_NAME_SIZE]; /* "model.layers.0.self_attn.q_proj.weight" */
    uint64_t offset, count;      /* in floats */
    uint32_t dimensions;         /* 1 or 2 */
    uint32_t shape[2];           /* shape[1] is 1 where there is one dimension */
    bool decays;                 /* weight decay applies: matrices yes, norms no */
    float initial_scale;         /* standard deviation of initial values; 0: all ones (norms) */
};

struct layout {
    struct model_config config;
    struct layout_tensor *tensors; /* [tensor_count], owned, in order of offset */
    uint32_t tensor_count;
    uint64_t count; /* floats in all */
};

/* Checks the shape (INVALID), then fills *out, which the caller ends with layout_deinit. */
MUST_USE enum status layout_init(const struct model_config *config, struct layout *out,
                                 struct error *error);
void layout_deinit(struct layout *layout); /* a zeroed one is a no-op */
/* NULL if there is none of that name. Lent until layout_deinit. */
const struct layout_tensor *layout_find(const struct layout *layout, const char *name);

/* Appends the canonical description. layout_read turns one back into a layout; INVALID where it is
 * not exactly what layout_describe writes. The bytes may come from a peer. */
void layout_describe(const struct layout *layout, struct buffer *out);
MUST_USE enum status layout_read(struct bytes description, struct layout *out, struct error *error);
/* INVALID names the first tensor (or the setting that has no tensor, such as rope_theta) in which b
 * differs from a. */
MUST_USE enum status layout_compare(const struct layout *a, const struct layout *b,
                                    struct error *error);

/* Initial parameters from a seed: the same bits on every machine, compiler and level, whatever the
 * order of filling. Value i is s * (sum of twelve 16-bit uniforms - 393210) / 65536, an Irwin-Hall
 * normal of deviation s, from three random_hash words at 3i, 3i+1, 3i+2: integers up to one fp32
 * multiplication. s is 0.02, for o_proj and down_proj divided by sqrt(2 * layers) (GPT-2's rule) in
 * integer arithmetic; norms are 1. `parameters` holds layout->count floats. */
void layout_initialise(const struct layout *layout, uint64_t seed, float *parameters);

#endif
