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
#include "model/layout_text.h"

enum { SAFETENSORS_HEADER_MAX = 16 << 20 };

/* Appends the file's bytes to *out. `version` goes into the metadata; negative: none. */
void safetensors_encode(const struct layout *layout, const float *parameters, int64_t version,
                        struct buffer *out);
/* Fills parameters [layout->count]. CORRUPT: not a safetensors file, or truncated; INVALID: another
 * model, naming the tensor. parameters is undefined after a failure. */
MUST_USE enum status safetensors_decode(const struct layout *layout, struct bytes file,
                                        float *parameters, struct error *error);

MUST_USE enum status safetensors_write(const char *path, const struct layout *layout,
                                       const float *parameters, int64_t version,
                                       struct error *error);
MUST_USE enum status safetensors_read(const char *path, const struct layout *layout,
                                      float *parameters, struct error *error);

/* What of a layout stands in a file: trained tensors by their number, and behind them all others
 * (LAYOUT_FROZEN ones' bytes come from `frozen`, a checkpoint that has them). */
struct safetensors_part {
    const uint32_t *items; /* [count], each below tensor_count + other_count */
    uint32_t count;
    const enum tensor_dtype *dtype; /* of all trained ones; NULL: each its own */
    const char *frozen;
    int64_t version;
};
/* Type and bytes of one item, as it is stored. */
const char *safetensors_item_type(const struct layout *layout, uint32_t item,
                                  const enum tensor_dtype *dtype);
uint64_t safetensors_item_size(const struct layout *layout, uint32_t item,
                               const enum tensor_dtype *dtype);
/* Whether a type can hold all of these values, rounded; F32 holds all. */
bool safetensors_fit(const float *values, uint64_t count, enum tensor_dtype dtype);
/* Rounded to nearest even; 32-bit tensors come first in the file, so that all are aligned. INVALID:
 * a value that its type cannot hold; the path is untouched then. */
MUST_USE enum status safetensors_write_part(const char *path, const struct layout *layout,
                                            const float *parameters,
                                            const struct safetensors_part *part,
                                            struct error *error);

struct safetensors_entry { /* a tensor as a file's header tells of it */
    char name[LAYOUT_NAME_SIZE], type[LAYOUT_TYPE_SIZE];
    uint32_t dimensions;
    uint64_t shape[LAYOUT_DIMENSIONS];
    uint64_t at, size; /* bytes, in the file */
};
/* All tensors of a file, of whatever type, in the order of its data; *out is the caller's to free.
 * As strict as reading a model. */
MUST_USE enum status safetensors_list(const char *path, struct safetensors_entry **out,
                                      uint32_t *count, struct error *error);
/* A tensor's bytes, a piece at a time, to `take`. */
MUST_USE enum status safetensors_bytes(const char *path, const struct safetensors_entry *entry,
                                       void (*take)(void *context, const void *data, size_t size),
                                       void *context, struct error *error);
/* Reads the tensors that a file holds, whichever they are, and sets held[tensor] to mark (above 0)
 * for each: [tensor_count], then [other_count], and one more for the head of a tied built-in model.
 * A tensor's other names are not looked at: safetensors_check_ties does, once all files are read.
 * INVALID: one is held already. */
MUST_USE enum status safetensors_read_part(const char *path, const struct layout *layout,
                                           float *parameters, uint32_t mark, uint32_t *held,
                                           struct error *error);
/* A tensor's other names in a file against what was read under its own. */
MUST_USE enum status safetensors_check_ties(const char *path, const struct layout *layout,
                                            const float *parameters, struct error *error);

/* A tensor that older programs stored though it follows from config.json (the rotary frequencies):
 * it is passed over, whatever it holds, as transformers does. */
bool safetensors_is_derived(const char *name);

#endif
