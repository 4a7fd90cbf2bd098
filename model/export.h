/* A directory that transformers' from_pretrained opens: model.safetensors, config.json, generation_config.json and, where the
 * vocabulary is bytes (>= 256), tokenizer.json and tokenizer_config.json for the byte tokenizer, whose token b is the byte b.
 * config.json is written last: a directory without it is an export that was cut off.
 */
#ifndef MODEL_EXPORT_H
#define MODEL_EXPORT_H

#include "model/layout.h"

/* Makes the directory if need be. `version` goes into the metadata (negative: none). Statuses of base/file.h. */
MUST_USE enum status export_model(const char *directory, const struct layout *layout, const float *parameters, int64_t version,
                                  bool byte_tokenizer, struct error *error);

#endif
