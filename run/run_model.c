/* From the manifest to the model's layout, trainer and initial parameters (run/run_model.h): the
 * one file that knows the words of both fed/ and model/. */
#include "run/run_model.h"

#include <stdlib.h>

#include "base/file.h"
#include "base/memory.h"
#include "fed/manifest.h"
#include "model/beside.h"
#include "model/safetensors.h"
#include "model/trainer.h"
#include "run/run_shards.h"

enum { CHECKPOINT_OVERHEAD = 1 << 24 /* bytes of a safetensors file beyond its data */ };

struct model_config run_model_config(const struct manifest *manifest) {
    return (struct model_config){.vocabulary = manifest->model.vocabulary,
                                 .hidden = manifest->model.hidden,
                                 .layers = manifest->model.layers,
                                 .heads = manifest->model.heads,
                                 .kv_heads = manifest->model.kv_heads,
                                 .ffn = manifest->model.ffn,
                                 .context = manifest->model.context,
                                 .rope_theta = (float)manifest->model.rope_theta,
                                 .norm_eps = (float)manifest->model.norm_epsilon,
                                 .tied = manifest->model.tied};
}

enum status run_model_layout(const struct manifest *manifest, struct layout *out,
                             struct error *error) {
    struct model_config config = run_model_config(manifest);
    enum status status = layout_init(&config, out, error);
    return status == OK ? OK : error_wrap(error, status, "the manifest's model");
}

void run_model_layout_digest(const struct layout *layout, uint8_t out[static DIGEST_SIZE]) {
    struct buffer description = {0};
    layout_describe(layout, &description);
    digest_sha256(description.data, description.size, out);
    buffer_deinit(&description);
}

struct schedule run_model_schedule(const struct manifest *manifest) {
    uint64_t decay =
        manifest->inner.decay_tokens ? manifest->inner.decay_tokens : manifest->token_budget;
    struct schedule schedule = {.peak = (float)manifest->inner.learning_rate,
                                .floor =
                                    (float)(manifest->inner.floor * manifest->inner.learning_rate),
                                .warmup_tokens = manifest->inner.warmup_tokens,
                                .total_tokens = decay,
                                .shape = SCHEDULE_CONSTANT};
    if (manifest->inner.schedule == INNER_LINEAR) schedule.shape = SCHEDULE_LINEAR;
    if (manifest->inner.schedule == INNER_COSINE) schedule.shape = SCHEDULE_COSINE;
    return schedule;
}

static enum status check_step_tokens(const struct manifest *manifest,
                                     const struct trainer_options *options, struct error *error) {
    uint64_t tokens = (uint64_t)options->sequences * options->accumulation * options->length,
             most = manifest->admission.max_step_tokens;
    if (tokens <= most) return OK;
    return error_set(
        error, INVALID,
        "%llu tokens in an inner step are more than the run takes: %u sequences of %u "
        "tokens, %u times, and the manifest's admission.max_step_tokens is %llu; write "
        "less for batch.sequences or batch.accumulation",
        (unsigned long long)tokens, options->sequences, options->length, options->accumulation,
        (unsigned long long)most);
}

enum status run_model_trainer(const struct manifest *manifest, const struct run_model_local *local,
                              struct trainer **out, struct error *error) {
    struct trainer_options options = {.model = run_model_config(manifest),
                                      .sequences = local->sequences ? local->sequences : 8,
                                      .length = manifest->model.context,
                                      .accumulation = local->accumulation ? local->accumulation : 1,
                                      .threads = local->threads,
                                      .device = local->device,
                                      .cuda_library = local->cuda_library,
                                      .kernels = local->kernels,
                                      .forward_only = local->forward_only,
                                      .cancelled = local->cancelled,
                                      .adamw = {.beta1 = (float)manifest->inner.beta1,
                                                .beta2 = (float)manifest->inner.beta2,
                                                .epsilon = (float)manifest->inner.epsilon,
                                                .decay = (float)manifest->inner.weight_decay,
                                                .clip = (float)manifest->inner.clip_norm},
                                      .schedule = run_model_schedule(manifest)};
    TRY(check_step_tokens(manifest, &options, error));
    return trainer_create(&options, out, error);
}

enum status run_model_data(const struct manifest *manifest, const struct run_model_files *files,
                           struct data **out, struct error *error) {
    struct data_options options = {
        .vocabulary = manifest->model.vocabulary,
        .heldout = files->heldout,
        .seed = files->seed,
        .format = files->format,
        .seen = files->seen,
        .tokens = manifest->tokenizer == TOKENIZER_BYTE ? DATA_TOKENS_BYTE : DATA_TOKENS_EXTERNAL};
    struct data_position start = {0};
    struct data *data = NULL;
    const struct run_shards shards = {.paths = files->paths,
                                      .count = files->count,
                                      .insisted = files->format != DATA_AUTO,
                                      .read_them = files->read_shards,
                                      .seen = files->seen};
    options.vouched = run_shards_vouched(manifest, &shards);
    TRY(data_open(files->paths, files->count, &options, &data, error));
    enum status status = run_shards_check(manifest, &shards, error);
    if (status != OK) {
        data_close(data);
        return status;
    }
    uint32_t *tokens = xcalloc((size_t)manifest->model.context + 1, sizeof *tokens);
    status =
        files->heldout_only ? OK : data_next(data, &start, manifest->model.context, tokens, error);
    free(tokens);
    if (status != OK) {
        data_close(data);
        return error_wrap(error, status, "%s%s", files->paths[0],
                          files->count > 1 ? " and the others" : "");
    }
    *out = data;
    return OK;
}

enum status run_model_initialise(const struct manifest *manifest, const struct layout *layout,
                                 const char *checkpoint, float *parameters, struct error *error) {
    static const uint8_t none[DIGEST_SIZE];
    if (digest_equal(manifest->initial.checkpoint_digest, none)) {
        if (checkpoint)
            return error_set(
                error, INVALID,
                "the run starts from its seed: the checkpoint %s has no effect, leave it out",
                checkpoint);
        layout_initialise(layout, manifest->initial.seed, parameters);
        return OK;
    }
    char wanted[HEX32_SIZE];
    hex_encode(manifest->initial.checkpoint_digest, DIGEST_SIZE, wanted);
    if (!checkpoint)
        return error_set(
            error, INVALID,
            "the run starts from the checkpoint with SHA-256 %s, and its file is needed", wanted);
    struct buffer file = {0};
    uint8_t digest[DIGEST_SIZE];
    char *path = beside_tensors(checkpoint);
    enum status status =
        file_read(path, layout->count * sizeof(float) + CHECKPOINT_OVERHEAD, &file, error);
    if (status != OK) goto out;
    digest_sha256(file.data, file.size, digest);
    if (!digest_equal(digest, manifest->initial.checkpoint_digest)) {
        status = error_set(error, INVALID,
                           "%s is not the run's initial checkpoint: its SHA-256 is not %s", path,
                           wanted);
        goto out;
    }
    status = safetensors_decode(layout, buffer_bytes(&file), parameters, error);
out:
    free(path);
    buffer_deinit(&file);
    return status;
}
