/* Parameters as a .safetensors file (https://github.com/huggingface/safetensors): 8 bytes header size, JSON header, raw data.
 *
 * Written: every tensor of the layout as F32 under its Hugging Face name, in layout order, so that the data part is the flat
 * vector itself; canonical, so that equal parameters give equal files. Read: strictly. The header is bounded (its size against
 * the file, names, depth), offsets must tile the data part exactly, every tensor of the layout must be there once with its
 * shape, and none beside them except a tied head ("lm_head.weight"), which is checked to equal the embedding. F32, BF16 and
 * F16 are taken. A file from a stranger costs at most its own size.
 */
#ifndef MODEL_SAFETENSORS_H
#define MODEL_SAFETENSORS_H

#include "base/bytes.h"
#include "model/layout.h"

enum { SAFETENSORS_HEADER_MAX = 16 << 20 };

/* Appends the file's bytes to *out. `version` goes into the metadata; negative: none. */
void safetensors_encode(const struct layout *layout, const float *parameters, int64_t version, struct buffer *out);
/* Fills parameters [layout->count]. CORRUPT: not a safetensors file, or truncated; INVALID: another model, naming the tensor.
 * parameters is undefined after a failure. */
MUST_USE enum status safetensors_decode(const struct layout *layout, struct bytes file, float *parameters, struct error *error);

MUST_USE enum status safetensors_write(const char *path, const struct layout *layout, const float *parameters, int64_t version,
                                       struct error *error);
MUST_USE enum status safetensors_read(const char *path, const struct layout *layout, float *parameters, struct error *error);

#endif
