/* The keys of a config.json beside the shape (model/config_keys.h): which change nothing, which
 * must have a certain value, and which make it another kind of model. */
#include "model/config_keys.h"

#include <string.h>

static bool is_off(const struct json_value *value) {
    return value->type == JSON_NULL || (value->type == JSON_BOOL && !value->boolean) ||
           ((value->type == JSON_ARRAY || value->type == JSON_OBJECT) && value->count == 0) ||
           (value->type == JSON_STRING && value->size == 0);
}

static double number_of(const struct json_value *value) {
    if (value->type != JSON_NUMBER) return -1;
    return value->is_u64 ? (double)value->integer : value->number;
}

static bool is_one_of(const char *const *list, const char *text) {
    for (; *list; list++)
        if (strcmp(*list, text) == 0) return true;
    return false;
}

/* ---- what changes a forward pass ------------------------------------------------------------- */

/* Absent, null, false or empty only. */
static const char *const features[] = {"attention_bias",
                                       "mlp_bias",
                                       "qkv_bias",
                                       "use_bias",
                                       "use_qkv_bias",
                                       "o_bias",
                                       "lm_head_bias",
                                       "rope_interleaved",
                                       "quantization_config",
                                       "compression_config",
                                       "use_sliding_window",
                                       "alibi",
                                       "use_alibi",
                                       "parallel_attn",
                                       "use_parallel_residual",
                                       "parallel_residual",
                                       "qk_norm",
                                       "use_qk_norm",
                                       "qk_layernorm",
                                       "use_qk_layernorm",
                                       "use_mrope",
                                       "mrope_section",
                                       "vision_config",
                                       "text_config",
                                       "pruned_heads",
                                       "is_encoder_decoder",
                                       "add_cross_attention",
                                       "no_rope_layers",
                                       "attention_chunk_size",
                                       "clip_qkv",
                                       "q_lora_rank",
                                       "kv_lora_rank",
                                       "adapter_config",
                                       "lora_config",
                                       "moe",
                                       "norm_type",
                                       "sandwich_norm",
                                       "post_norm",
                                       "use_post_norm",
                                       "use_mup",
                                       "rope_local_base_freq",
                                       "layer_norm_eps",
                                       "layer_norm_epsilon",
                                       "attention_sink",
                                       "bidirectional",
                                       "use_bidirectional_attention",
                                       "query_pre_attn_scalar",
                                       "scale_depth",
                                       "dim_model_base",
                                       NULL};

/* These multiply something: 1 leaves it as it is. */
static const char *const factors[] = {"partial_rotary_factor",
                                      "rotary_pct",
                                      "rope_pct",
                                      "rope_ratio",
                                      "rope_scaling_factor",
                                      "embedding_multiplier",
                                      "residual_multiplier",
                                      "logits_scaling",
                                      "logit_scale",
                                      "scale_emb",
                                      "embedding_scale",
                                      "num_experts",
                                      "num_local_experts",
                                      "mup_scale_factor",
                                      "lm_head_multiplier",
                                      NULL};

/* These count or cap: 0 is none. */
static const char *const amounts[] = {"n_routed_experts",
                                      "num_experts_per_tok",
                                      "n_shared_experts",
                                      "attn_logit_softcapping",
                                      "final_logit_softcapping",
                                      "logit_softcapping",
                                      NULL};

static const char *const activations[] = {"hidden_activation", "activation_function", "activation",
                                          NULL};

/* In the name of a key that is in no list. */
static const char *const telling[] = {"softcap",    "expert", "rope",    "rotary", "alibi",
                                      "quantiz",    "_bias",  "qk_norm", "moe_",   "sliding",
                                      "multiplier", "lora",   "mamba",   "ssm_",   NULL};

static bool is_full_attention(const struct json_value *list) {
    if (list->type != JSON_ARRAY) return false;
    for (size_t i = 0; i < list->count; i++)
        if (list->items[i].type != JSON_STRING ||
            strcmp(list->items[i].text, "full_attention") != 0)
            return false;
    return true;
}

static bool is_silu(const struct json_value *value) {
    return value->type == JSON_STRING &&
           (strcmp(value->text, "silu") == 0 || strcmp(value->text, "swish") == 0);
}

static bool has_telling_part(const char *name) {
    for (size_t i = 0; telling[i]; i++)
        if (strstr(name, telling[i])) return true;
    return false;
}

/* ---- what does not --------------------------------------------------------------------------- */

/* Of LlamaConfig and PretrainedConfig, and of common tools. */
static const char *const harmless[] = {"architectures",
                                       "bos_token_id",
                                       "eos_token_id",
                                       "pad_token_id",
                                       "unk_token_id",
                                       "sep_token_id",
                                       "decoder_start_token_id",
                                       "dtype",
                                       "torch_dtype",
                                       "use_cache",
                                       "initializer_range",
                                       "name_or_path",
                                       "transformers_version",
                                       "pretraining_tp",
                                       "is_llama_config",
                                       "unsloth_version",
                                       "unsloth_fixed",
                                       "unsloth_training",
                                       "transformers.js_config",
                                       "auto_map",
                                       "tokenizer_class",
                                       "prefix",
                                       "task_specific_params",
                                       "problem_type",
                                       "finetuning_task",
                                       "id2label",
                                       "label2id",
                                       "num_labels",
                                       "is_decoder",
                                       "tie_encoder_decoder",
                                       "chunk_size_feed_forward",
                                       "cross_attention_hidden_size",
                                       "return_dict",
                                       "output_attentions",
                                       "output_hidden_states",
                                       "torchscript",
                                       "use_bfloat16",
                                       "tf_legacy_loss",
                                       "return_dict_in_generate",
                                       "output_scores",
                                       "max_length",
                                       "min_length",
                                       "do_sample",
                                       "early_stopping",
                                       "num_beams",
                                       "num_beam_groups",
                                       "diversity_penalty",
                                       "temperature",
                                       "top_k",
                                       "top_p",
                                       "typical_p",
                                       "repetition_penalty",
                                       "length_penalty",
                                       "no_repeat_ngram_size",
                                       "encoder_no_repeat_ngram_size",
                                       "bad_words_ids",
                                       "num_return_sequences",
                                       "forced_bos_token_id",
                                       "forced_eos_token_id",
                                       "remove_invalid_values",
                                       "exponential_decay_length_penalty",
                                       "suppress_tokens",
                                       "begin_suppress_tokens",
                                       "max_sequence_length",
                                       "original_max_position_embeddings",
                                       "attn_implementation",
                                       "gradient_checkpointing",
                                       "max_window_layers",
                                       "keys_to_ignore_at_inference",
                                       "use_flash_attention",
                                       "flash_attention",
                                       "flash_attn",
                                       "model_max_length",
                                       "router_aux_loss_coef",
                                       NULL};

enum config_key config_key_of(const struct json_value *member, uint64_t context,
                              const char **wanted) {
    const char *name = member->key;
    double number = number_of(member);
    *wanted = "absent, null or false: it changes what the model computes";
    if (strcmp(name, "quantization_config") == 0 && member->type != JSON_NULL)
        return CONFIG_KEY_CHANGES;
    if (is_off(member) || is_one_of(harmless, name)) return CONFIG_KEY_HARMLESS;
    if (is_one_of(features, name)) return CONFIG_KEY_CHANGES;
    if (is_one_of(activations, name)) {
        *wanted = "\"silu\"";
        return is_silu(member) ? CONFIG_KEY_HARMLESS : CONFIG_KEY_CHANGES;
    }
    if (is_one_of(factors, name)) {
        *wanted = "absent or 1: it changes what the model computes";
        return number == 1 ? CONFIG_KEY_HARMLESS : CONFIG_KEY_CHANGES;
    }
    if (is_one_of(amounts, name)) return number == 0 ? CONFIG_KEY_HARMLESS : CONFIG_KEY_CHANGES;
    if (strcmp(name, "sliding_window") == 0) {
        *wanted =
            "absent, null or at least max_position_embeddings: there are no attention windows";
        return context && number >= (double)context ? CONFIG_KEY_HARMLESS : CONFIG_KEY_CHANGES;
    }
    if (strcmp(name, "layer_types") == 0) {
        *wanted = "\"full_attention\" for every layer";
        return is_full_attention(member) ? CONFIG_KEY_HARMLESS : CONFIG_KEY_CHANGES;
    }
    if (name[0] == '_') return CONFIG_KEY_HARMLESS;
    if (has_telling_part(name) && number != 0) return CONFIG_KEY_CHANGES;
    return CONFIG_KEY_UNKNOWN;
}
