/* A layout as text: what a run's sites compare, what travels to them, and what --layout reads.
 *
 *     atoll tensors 1
 *     trained BF16 [32000, 64] model.embed_tokens.weight
 *     trained F32 [] scale
 *     tied [model.embed_tokens.weight] lm_head.weight
 *     frozen I64 [1, 512] DIGEST position_ids
 *
 * A line per tensor; trained ones come first and in the order of the flat vector, each with the
 * type that an export stores it in. `tied` is one more name of a trained tensor. What is `frozen`
 * nobody trains (a tensor of no values, too): it is not in the vector, is named by the digest of
 * its bytes, and comes out of exports as it went in. The name is the rest of the line: no control
 * characters, no blank at either end, no "] " in it.
 *
 * layout_write has one text for a layout; its SHA-256 is the layout digest. layout_parse takes what
 * people write as well: comments after '#' at the start of a line, and blank lines. The text may
 * come from a peer.
 */
#ifndef MODEL_LAYOUT_TEXT_H
#define MODEL_LAYOUT_TEXT_H

#include "model/layout.h"

enum { LAYOUT_TEXT_MAX = 1 << 20 }; /* bytes: about 16,000 tensors */

/* Appends the text. */
void layout_write(const struct layout *layout, struct buffer *out);
/* INVALID names the line and what is wrong with it. *out ends with layout_deinit; it is not built
 * in. A frozen tensor's digest may be "-": not known yet, all zero. */
MUST_USE enum status layout_parse(struct bytes text, struct layout *out, struct error *error);

/* To make one by hand: tensors are added in their order, then it is finished. The names that are
 * `tied` must be of tensors that were added. */
MUST_USE enum status layout_add_trained(struct layout *layout, const char *name,
                                        enum tensor_dtype dtype, uint32_t dimensions,
                                        const uint64_t *shape, struct error *error);
MUST_USE enum status layout_add_tied(struct layout *layout, const char *name, const char *of,
                                     struct error *error);
MUST_USE enum status layout_add_frozen(struct layout *layout, const char *name, const char *type,
                                       uint32_t dimensions, const uint64_t *shape,
                                       const uint8_t digest[static 32], struct error *error);
/* Sorts the others. INVALID: a name comes twice, or there is no tensor. */
MUST_USE enum status layout_finish(struct layout *layout, struct error *error);
/* A layout that is the built-in trainer's of those sizes, except for types, becomes built in. */
void layout_recognise(struct layout *layout, const struct model_config *config);

/* Bytes of a value of a safetensors type ("F32", "I64", ...); 0: there is no such type. */
uint64_t layout_type_size(const char *type);
const char *tensor_dtype_name(enum tensor_dtype dtype);
/* DTYPE_COUNT: none that can be trained. */
enum tensor_dtype tensor_dtype_of(const char *type);

#endif
