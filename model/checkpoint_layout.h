/* The layout of a checkpoint of whatever architecture, from its tensors.
 *
 * All F32, BF16 and F16 tensors are trained, in the order of their names, where numbers count as
 * numbers: so it does not depend on how the checkpoint is cut into files, and a layer's tensors
 * stand together. Other types are refused, except where --layout lists them as frozen.
 *
 * Tied weights may stand in a checkpoint under two names. Two matrices with a row per token
 * (vocab_size of config.json) and the same bytes are one tensor, unless config.json says
 * tie_word_embeddings: false.
 */
#ifndef MODEL_CHECKPOINT_LAYOUT_H
#define MODEL_CHECKPOINT_LAYOUT_H

#include "model/checkpoint.h"

/* SHA-256 of what is given bit by bit; this folder has none of its own. */
struct layout_digester {
    void *(*begin)(void);
    void (*take)(void *state, const void *data, size_t size);
    void (*end)(void *state, uint8_t out[static 32]); /* frees it */
};

/* INVALID names the tensor that cannot be trained. *out ends with layout_deinit. */
MUST_USE enum status checkpoint_layout(const char *path, struct layout *out, struct error *error);
/* Gives the frozen tensors their digests, from the checkpoint. INVALID: one is not there, or has
 * another digest than it has already. */
MUST_USE enum status checkpoint_freeze(const char *path, const struct layout_digester *digester,
                                       struct layout *layout, struct error *error);

#endif
