/* The small files beside a checkpoint's tensors: config.json, generation_config.json, the
 * tokenizer's, templates, licences.
 *
 * A checkpoint is more than its tensors. How it computes is in config.json, which must agree with
 * what it is trained as; which tokens end a text, how text becomes tokens and how a chat is written
 * must come out with the trained model as they went in, or the result is another model than its
 * users think. So these files are read where a checkpoint comes in, travel with it, and are written
 * by every export.
 *
 * A checkpoint is named by its directory or by one .safetensors file. Beside a file
 * NAME.safetensors they are either called as in a directory, or, where several checkpoints share a
 * directory, NAME_config.json, NAME_tokenizer.json and so on.
 */
#ifndef MODEL_BESIDE_H
#define MODEL_BESIDE_H

#include <stdbool.h>

#include "base/status.h"
#include "model/config.h"
#include "model/data_format.h"

enum { BESIDE_SIZE_MAX = 64 << 20, BESIDE_FILES_MAX = 256 };

/* Where `name` is, or would be, beside the checkpoint. Owned by the caller. */
char *beside_path(const char *checkpoint, const char *name);
/* NOT_FOUND: no config.json; INVALID names the field that asks for another kind of model. */
MUST_USE enum status beside_config(const char *checkpoint, struct model_config *out,
                                   struct error *error);
/* Whose numbers its tokens are: bytes where its tokenizer turns text into its bytes, not said where
 * it has none. NULL has none. */
enum data_tokens beside_tokens(const char *checkpoint);

/* Copies them into `directory` under their plain names, replacing what is there, except config.json
 * unless `config` is true. *tokenizer says whether a tokenizer was among them. A file without
 * config.json has none: what lies beside it is not known to be its own. */
MUST_USE enum status beside_copy(const char *checkpoint, const char *directory, bool config,
                                 bool *tokenizer, struct error *error);

#endif
