/* The shape of a Llama-style decoder: RMSNorm, rotary positions, SwiGLU, grouped-query attention,
 * no biases.
 *
 * It is group-wide: every site of a run has the same one, and it comes from the run's manifest. The
 * names in the comments are those of Hugging Face's LlamaConfig, which the exported config.json
 * uses. model_config_check is the only judge of what is a legal shape; nothing else in this folder
 * checks again, and nothing may be built from an unchecked one. Its bounds keep every product of
 * sizes below 2^63, so that no later multiplication can overflow.
 */
#ifndef MODEL_CONFIG_H
#define MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

enum {
    MODEL_VOCABULARY_MAX = 1 << 20, /* tokens are 32-bit in memory; in a .bin file 16 or 32 */
    MODEL_HIDDEN_MAX = 65536,
    MODEL_LAYERS_MAX = 1024,
    MODEL_CONTEXT_MAX = 1 << 20,
    MODEL_HEAD_SIZE_MAX = 1024,
};

struct model_config {
    uint32_t vocabulary; /* vocab_size */
    uint32_t hidden;     /* hidden_size */
    uint32_t layers;     /* num_hidden_layers */
    uint32_t heads;      /* num_attention_heads; divides hidden into an even head size */
    uint32_t kv_heads;   /* num_key_value_heads; divides heads */
    uint32_t ffn;        /* intermediate_size */
    uint32_t context;    /* max_position_embeddings: the longest sequence */
    float rope_theta;    /* 10000 */
    float norm_eps;      /* rms_norm_eps, 1e-5 */
    bool tied;           /* tie_word_embeddings: the head is the embedding */
};

/* INVALID names the field, its value and its bounds. */
MUST_USE enum status model_config_check(const struct model_config *config, struct error *error);
static inline uint32_t model_head_size(const struct model_config *config) {
    return config->hidden / config->heads;
}
/* Width of the joint query, key and value projection: (heads + 2 * kv_heads) * head size. */
static inline uint32_t model_qkv_width(const struct model_config *config) {
    return (config->heads + 2 * config->kv_heads) * model_head_size(config);
}

#endif
