/* config.json as Hugging Face's LlamaConfig writes it, read strictly.
 *
 * A field decides one of three things. It is part of the shape and lands in struct model_config; or
 * it says how the model computes (hidden_act, attention_bias, rope_scaling, ...), and then it must
 * say what we compute, or it is refused by name: a model computed otherwise than its maker meant is
 * worse than none; or it has no say in a forward pass and is passed over. model/config_keys.h has
 * the lists. What is absent takes LlamaConfig's default. Both spellings of rotary settings are read
 * (rope_theta, and rope_parameters of transformers 5) and written, and must agree where both are
 * there.
 */
#ifndef MODEL_CONFIG_FILE_H
#define MODEL_CONFIG_FILE_H

#include "base/bytes.h"
#include "model/config.h"

/* INVALID names the field, what it is and what it must be. The bytes may come from a stranger. */
MUST_USE enum status config_file_decode(struct bytes text, struct model_config *out,
                                        struct error *error);
/* The tokens that end a text, "eos_token_id": a number, a list of them, null or absent. At most
 * CONFIG_END_TOKENS. */
enum { CONFIG_FILE_MAX = 1 << 20, CONFIG_END_TOKENS = 16 }; /* bytes of the file at most, and */
MUST_USE enum status config_file_end_tokens(struct bytes text,
                                            uint32_t out[static CONFIG_END_TOKENS], size_t *count,
                                            struct error *error);
/* Appends the file; `dtype` is what the tensors beside it are stored in: "float32", "bfloat16",
 * "float16". */
void config_file_encode(const struct model_config *config, const char *dtype, struct buffer *out);
/* The same, and what the file `other` (a checkpoint's, which config_file_decode took; may be empty)
 * says besides: token ids and whatever else has no say in training comes out as it went in.
 * INVALID: `other` is not JSON. */
MUST_USE enum status config_file_encode_onto(const struct model_config *config, const char *dtype,
                                             struct bytes other, struct buffer *out,
                                             struct error *error);
/* INVALID names the first field, in config.json's words, in which `got` differs from `wanted`. */
MUST_USE enum status model_config_compare(const struct model_config *wanted,
                                          const struct model_config *got, struct error *error);

#endif
