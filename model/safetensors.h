/* Parameters as a .safetensors file (https://github.com/huggingface/safetensors): 8 bytes header
 * size, JSON header, raw data.
 *
 * Written: every tensor of the layout as F32 under its Hugging Face name, in layout order, so that
 * the data part is the flat vector itself; canonical, so that equal parameters give equal files.
 * Read: strictly. The header is bounded (its size against the file, names, depth), offsets must
 * tile the data part exactly, every tensor of the layout must be there once with its shape, and
 * none beside them except a tied head ("lm_head.weight"), which is checked to equal the embedding.
 * F32, BF16 and F16 are taken, and can be written by parts: a model too large for one file is
 * several, each with some of the tensors (model/checkpoint.h). Files are read and written a piece
 * at a time, so that memory holds the parameters once. A file from a stranger costs at most its
 * header.
 */
#ifndef MODEL_SAFETENSORS_H
#define MODEL_SAFETENSORS_H

#include <stdbool.h>

#include "base/bytes.h"
#include "model/layout.h"

enum { SAFETENSORS_HEADER_MAX = 16 << 20 };

/* Appends the file's bytes to *out. `version` goes into the metadata; negative: none. */
void safetensors_encode(const struct layout *layout, const float *parameters, int64_t version,
                        struct buffer *out);
/* Fills parameters [layout->count]. CORRUPT: not a safetensors file, or truncated; INVALID: another
 * model, naming the tensor. parameters is undefined after a failure. */
MUST_USE enum status safetensors_decode(const struct layout *layout, struct bytes file,
                                        float *parameters, struct error *error);

enum tensor_dtype { DTYPE_F32, DTYPE_BF16, DTYPE_F16 };
static inline uint64_t tensor_dtype_size(enum tensor_dtype dtype) {
    return dtype == DTYPE_F32 ? 4 : 2;
}

MUST_USE enum status safetensors_write(const char *path, const struct layout *layout,
                                       const float *parameters, int64_t version,
                                       struct error *error);
MUST_USE enum status safetensors_read(const char *path, const struct layout *layout,
                                      float *parameters, struct error *error);

/* Some of the model's tensors in one file, those of [first, first + count) in the layout's order,
 * rounded to nearest even. INVALID: a value that `dtype` cannot hold; the path is untouched then.
 */
MUST_USE enum status safetensors_write_part(const char *path, const struct layout *layout,
                                            const float *parameters, uint32_t first, uint32_t count,
                                            enum tensor_dtype dtype, int64_t version,
                                            struct error *error);
/* Reads the tensors that a file holds, whichever they are, and sets held[tensor] to mark (above 0)
 * for each: [tensor_count], and one more for the head of a tied model, for which the embedding must
 * have been read before. INVALID: one is held already. */
MUST_USE enum status safetensors_read_part(const char *path, const struct layout *layout,
                                           float *parameters, uint32_t mark, uint32_t *held,
                                           struct error *error);

/* A tensor that older programs stored though it follows from config.json (the rotary frequencies):
 * it is passed over, whatever it holds, as transformers does. */
bool safetensors_is_derived(const char *name);

#endif
