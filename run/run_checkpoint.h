/* Whether a run's initial checkpoint is what its manifest says: the two files that must agree, and
 * that people write apart.
 *
 * The tensors' shapes are checked when they are read. What no tensor shows, such as the base of the
 * rotary positions, RMSNorm's epsilon or how many heads share a tensor, makes another function of
 * the same numbers: a model that starts damaged. So config.json beside the checkpoint
 * (model/beside.h) is compared with the manifest, all of it, and so is the tokenizer.
 */
#ifndef RUN_RUN_CHECKPOINT_H
#define RUN_RUN_CHECKPOINT_H

#include "base/status.h"

struct manifest;

/* `checkpoint` is the safetensors file, or a directory with model.safetensors. INVALID names each
 * setting that differs, with both values. A checkpoint without config.json passes, with a warning
 * in the log: there is nothing to compare. */
MUST_USE enum status run_checkpoint_check(const struct manifest *manifest, const char *checkpoint,
                                          struct error *error);
/* The part that holds for any architecture: the tokenizer is the one that the manifest pins. */
MUST_USE enum status run_checkpoint_check_tokenizer(const struct manifest *manifest,
                                                    const char *checkpoint, struct error *error);

#endif
