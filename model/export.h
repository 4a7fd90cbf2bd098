/* A directory that transformers' from_pretrained opens: model.safetensors (or, past a size, several files and
 * model.safetensors.index.json), config.json, generation_config.json and, where the vocabulary is bytes (>= 256), tokenizer.json and tokenizer_config.json for the byte tokenizer, whose token b is the byte b.
 * config.json is written last: a directory without it is an export that was cut off.
 */
#ifndef MODEL_EXPORT_H
#define MODEL_EXPORT_H

#include "model/safetensors.h"

/* Makes the directory if need be. `version` goes into the metadata (negative: none). Statuses of base/file.h. */
MUST_USE enum status export_model(const char *directory, const struct layout *layout, const float *parameters, int64_t version,
                                  bool byte_tokenizer, struct error *error);

struct export_options {
    int64_t version;          /* into the metadata; negative: none */
    bool byte_tokenizer;      /* write the byte tokenizer's files */
    const char *tokenizer_of; /* a directory whose tokenizer files are copied; NULL: none */
    enum tensor_dtype dtype;  /* of the stored tensors */
    uint64_t shard_size;      /* bytes of tensors a file may hold (one tensor at least); 0: EXPORT_SHARD_SIZE */
};
#define EXPORT_SHARD_SIZE (UINT64_C(5) << 30) /* as transformers does */

/* The same with choices. INVALID: a value that does not fit the dtype. */
MUST_USE enum status export_model_as(const char *directory, const struct layout *layout, const float *parameters,
                                     const struct export_options *options, struct error *error);

#endif
