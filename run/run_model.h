/* From the run's manifest to what trains: the one place where the words of fed/ become those of
 * model/.
 *
 * fed/ may not include model/ and the other way round, so neither can do it. The shape of the
 * model, the parameter layout and its digest, and the initial parameters are group-wide: every site
 * and the coordinator must come to the same bits from the same manifest. Batch, accumulation and
 * threads are the site's own and are not touched here. Pure except run_model_initialise, which may
 * read the checkpoint that the manifest names by the root of its values.
 */
#ifndef RUN_RUN_MODEL_H
#define RUN_RUN_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "crypto/digest.h"
#include "model/data.h"
#include "model/trainer.h"

struct layout_digester;
struct manifest;

struct run_model_local { /* the site's own part of what the trainer is told; zero: its default, on
                            the CPU */
    uint32_t sequences, accumulation, threads;
    enum device_choice device;
    const char *cuda_library; /* as in struct trainer_options */
    const char *kernels;      /* as there */
    bool forward_only;        /* as there, and so is */
    bool (*cancelled)(void);
};

struct model_config run_model_config(const struct manifest *manifest);
/* The layout of the run, by its text (empty where the manifest has no `layout`: the built-in
 * trainer's, by the manifest's model); ends with layout_deinit. INVALID: another text than the
 * manifest names, or a model that cannot be. */
MUST_USE enum status run_model_layout(const struct manifest *manifest, struct bytes text,
                                      struct layout *out, struct error *error);
bool run_model_has_layout(const struct manifest *manifest); /* a text is needed */
bool run_model_has_root(const struct manifest *manifest);   /* version 0 is a checkpoint's */
/* INVALID where the built-in trainer has no say: `what` would need it. */
MUST_USE enum status run_model_check_built_in(const struct layout *layout, const char *what,
                                              struct error *error);
/* SHA-256 of layout_write: the layout digest of the genesis entry and of every contribution. */
void run_model_layout_digest(const struct layout *layout, uint8_t out[static DIGEST_SIZE]);
/* Of the learning rate, by tokens of the run. */
struct schedule run_model_schedule(const struct manifest *manifest);
/* Model, sequence length, inner optimizer and schedule from the manifest. Statuses of
 * trainer_create. */
MUST_USE enum status run_model_trainer(const struct manifest *manifest,
                                       const struct run_model_local *local, struct trainer **out,
                                       struct error *error);
struct run_model_files { /* the site's data */
    const char *const *paths;
    size_t count;
    enum data_format format;
    double heldout;
    uint64_t seed;    /* of the order */
    const char *seen; /* as in struct data_options */
    bool read_shards; /* compare shards with the digests of their index, which reads all that `seen`
                         does not know */
    /* for reading the held-out part: what is left may be too short to train on */
    bool heldout_only;
};
/* Opens the site's data and draws a first sequence from it, so that data which cannot train the
 * run's model, or is of another kind than the run's tokenizer, is refused before anything starts.
 * Statuses of data_open; INVALID too where no file holds one sequence. */
MUST_USE enum status run_model_data(const struct manifest *manifest,
                                    const struct run_model_files *files, struct data **out,
                                    struct error *error);
/* SHA-256, for model/. */
extern const struct layout_digester run_model_digester;
/* The parameters of version 0, [layout->count]: from the manifest's seed, or from `checkpoint`, a
 * safetensors file or a directory with one or several, whose values have the state root that the
 * manifest has, and whose frozen tensors have the digests that the layout has. INVALID if the
 * manifest needs a checkpoint and there is none, or another one. */
MUST_USE enum status run_model_initialise(const struct manifest *manifest,
                                          const struct layout *layout, const char *checkpoint,
                                          float *parameters, struct error *error);

#endif
