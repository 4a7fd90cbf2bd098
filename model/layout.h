/* Where each tensor lies in the one flat fp32 parameter vector.
 *
 * All that the federation exchanges is that vector, so its order is part of the protocol: two sites
 * whose layouts differ must never merge. A layout is an ordered list of named tensors. No padding:
 * a tensor begins where the last one ended. Nothing else in the federation knows an architecture.
 *
 * The built-in trainer's layout is one case, which layout_init makes from the model's sizes. Its
 * order is the order of use: embedding; a layer's input norm, q, k, v, o, post-attention norm,
 * gate, up, down; the last norm; the head unless tied, which makes q|k|v and gate|up single
 * matrices. Names and shapes ([out, in], row-major) are Hugging Face Llama's. Any other is read
 * from its text (model/layout_text.h), whose SHA-256 is the layout digest of signed headers.
 *
 * layout_describe gives canonical bytes of a built-in layout with its sizes, for the trainer's own
 * state: what differs in function also differs in bytes.
 */
#ifndef MODEL_LAYOUT_H
#define MODEL_LAYOUT_H

#include "base/bytes.h"
#include "model/config.h"

enum {
    LAYOUT_NAME_SIZE = 192,
    LAYOUT_TYPE_SIZE = 12,
    LAYOUT_DIMENSIONS = 8,
    LAYOUT_TENSORS_MAX = 65536
};

enum tensor_dtype { DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_COUNT };
/* Bytes of a stored value. */
static inline uint64_t tensor_dtype_size(enum tensor_dtype dtype) {
    return dtype == DTYPE_F32 ? 4 : 2;
}

struct layout_tensor {
    char name[LAYOUT_NAME_SIZE]; /* "model.layers.0.self_attn.q_proj.weight" */
    uint64_t offset, count;      /* in floats */
    uint32_t dimensions;         /* 0: one value */
    uint64_t shape[LAYOUT_DIMENSIONS];
    enum tensor_dtype dtype; /* what an export stores it in */
    bool decays;             /* the built-in trainer's weight decay applies: matrices, not norms */
    float initial_scale;     /* standard deviation of initial values; 0: all ones (norms); below 0:
                                all zero (biases) */
};

/* What a checkpoint has beside the trained tensors, and an export has too: another name of one of
 * them, or a tensor that nobody trains, of any type, which is named by the digest of its bytes. */
enum { LAYOUT_FROZEN = UINT32_MAX };
struct layout_other {
    char name[LAYOUT_NAME_SIZE];
    uint32_t tied; /* the tensor that it is; LAYOUT_FROZEN: none, and */
    char type[LAYOUT_TYPE_SIZE];
    uint32_t dimensions;
    uint64_t shape[LAYOUT_DIMENSIONS];
    uint64_t size; /* bytes */
    uint8_t digest[32];
};

struct layout {
    bool built_in;                 /* the built-in trainer's: */
    struct model_config config;    /* its sizes */
    struct layout_tensor *tensors; /* [tensor_count], owned, in order of offset */
    uint32_t tensor_count;
    uint64_t count;              /* floats in all */
    struct layout_other *others; /* [other_count], owned, by name */
    uint32_t other_count;
};

/* Checks the shape (INVALID), then fills *out, which the caller ends with layout_deinit. */
MUST_USE enum status layout_init(const struct model_config *config, struct layout *out,
                                 struct error *error);
void layout_deinit(struct layout *layout); /* a zeroed one is a no-op */
/* NULL if there is none of that name. Lent until layout_deinit. */
const struct layout_tensor *layout_find(const struct layout *layout, const char *name);
const struct layout_other *layout_find_other(const struct layout *layout, const char *name);
enum { LAYOUT_SHAPE_SIZE = 192 };
/* "[3, 4]", for messages. Returns out. */
char *layout_shape_text(uint32_t dimensions, const uint64_t *shape,
                        char out[static LAYOUT_SHAPE_SIZE]);

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
 * integer arithmetic; norms are 1. In a layout that is not built in, tensors of one dimension are 0
 * where their names end in "bias", else 1. `parameters` holds layout->count floats. */
float layout_initial_scale(uint64_t divisor); /* 0.02 / sqrt(divisor) */
void layout_initialise(const struct layout *layout, uint64_t seed, float *parameters);

#endif
