/* A model directory in Hugging Face's form: config.json, and the parameters in model.safetensors or
 * in several files that model.safetensors.index.json names ("weight_map": tensor -> file). This is
 * what transformers' save_pretrained writes and what model/export.h writes.
 *
 * Read strictly: config.json by model/config_file.h; of an index, every tensor of the model must be
 * mapped, to a file beside it (no directories in the name), and lie in that file and in no other.
 * Files are read one after the other, a piece at a time.
 */
#ifndef MODEL_CHECKPOINT_H
#define MODEL_CHECKPOINT_H

#include "model/safetensors.h"

enum {
    CHECKPOINT_INDEX_MAX = 16 << 20,
    CHECKPOINT_FILES_MAX = 4096,
    CHECKPOINT_TENSORS_MAX = 1 << 18
};
#define CHECKPOINT_INDEX "model.safetensors.index.json"
#define CHECKPOINT_ADAPTER "adapter_model.safetensors" /* as PEFT calls a LoRA's tensors */

/* NOT_FOUND: there is no config.json; INVALID: it is of another kind of model, naming the field. */
MUST_USE enum status checkpoint_config(const char *directory, struct model_config *out,
                                       struct error *error);
/* Fills parameters [layout->count]. INVALID names the tensor or file; NOT_FOUND: a file is not
 * there; CORRUPT: one is damaged. `path` may also be one .safetensors file. parameters is undefined
 * after a failure. */
MUST_USE enum status checkpoint_read(const char *path, const struct layout *layout,
                                     float *parameters, struct error *error);
/* Both: *layout is the caller's to deinit, *parameters to free. FULL if there is no memory. */
MUST_USE enum status checkpoint_load(const char *directory, struct layout *layout,
                                     float **parameters, struct error *error);

/* Whether the directory is an adapter's. */
bool checkpoint_is_adapter(const char *path);
struct checkpoint_tensor {
    struct safetensors_entry entry;
    uint32_t file;
};
struct checkpoint_listing {
    char **files; /* [file_count], owned */
    uint32_t file_count;
    struct checkpoint_tensor *tensors; /* [count], owned */
    uint32_t count;
};
/* All tensors of a checkpoint of whatever architecture. Statuses of checkpoint_read. */
MUST_USE enum status checkpoint_list(const char *path, struct checkpoint_listing *out,
                                     struct error *error);
void checkpoint_listing_deinit(struct checkpoint_listing *listing);

#endif
