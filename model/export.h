/* A directory that transformers' from_pretrained opens: model.safetensors (or, past a size, several
 * files and model.safetensors.index.json), config.json, generation_config.json and a tokenizer.
 *
 * Of a layout that is not built in, config.json and all other small files are those of the
 * checkpoint that the model began from, byte for byte; an adapter's tensors are in
 * adapter_model.safetensors, which PEFT opens.
 *
 * What came beside the checkpoint that the model began from comes out again (model/beside.h): token
 * ids, generation settings, tokenizer, templates. Without one, and where the vocabulary is bytes
 * (>= 256), tokenizer.json and tokenizer_config.json are of the byte tokenizer, whose token b is
 * the byte b; a tokenizer of another kind that stands in the directory already is left alone.
 * config.json is written last: a directory without it is an export that was cut off.
 *
 * The first thing written is EXPORT_MARK. An export goes over what carries it and over nothing
 * else: a directory without it that holds a model or a tokenizer is somebody's own. One export at a
 * time: the directory is locked while it lasts.
 */
#ifndef MODEL_EXPORT_H
#define MODEL_EXPORT_H

#include "base/output.h"
#include "model/safetensors.h"

#define EXPORT_MARK ".atoll-export"

struct export_options {
    int64_t version;     /* into the metadata; negative: none */
    bool byte_tokenizer; /* write the byte tokenizer's files if `beside` has no tokenizer */
    /* the checkpoint that the model began from, a directory or file; NULL: none */
    const char *beside;
    const char *frozen; /* a checkpoint that has the layout's frozen tensors */
    /* of all stored tensors; NULL: each its own, by the layout, or F32 where a value does not fit
     * that */
    const enum tensor_dtype *dtype;
    uint64_t shard_size; /* bytes of tensors a file may hold (one tensor at least); 0:
                            EXPORT_SHARD_SIZE */
    bool claimed;        /* the caller holds export_claim's lock */
};
/* Before long work: whether export_model_as will be able to write there, which it is then kept free
 * for; output_release makes it free again. INVALID: it holds a model that is not an export of ours;
 * for the rest output_claim_directory's statuses. */
MUST_USE enum status export_claim(const char *directory, const struct layout *layout,
                                  const struct export_options *options, struct output **out,
                                  struct error *error);
/* The same question where nothing need be kept free. */
MUST_USE enum status export_check(const char *directory, struct error *error);
#define EXPORT_SHARD_SIZE (UINT64_C(5) << 30) /* as transformers does */

/* Makes the directory if need be. INVALID: a value that does not fit the dtype. Statuses of
 * base/file.h. */
MUST_USE enum status export_model_as(const char *directory, const struct layout *layout,
                                     const float *parameters, const struct export_options *options,
                                     struct error *error);
/* The same for a model that began from nothing, in fp32. */
MUST_USE enum status export_model(const char *directory, const struct layout *layout,
                                  const float *parameters, int64_t version, bool byte_tokenizer,
                                  struct error *error);

#endif
