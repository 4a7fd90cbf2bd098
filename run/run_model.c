/* From the manifest to the model's layout, trainer and initial parameters (run/run_model.h): the
 * one file that knows the words of both fed/ and model/. */
#include "run/run_model.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "fed/manifest.h"
#include "fed/merkle.h"
#include "model/checkpoint_layout.h"
#include "model/layout_text.h"
#include "model/trainer.h"
#include "run/run_shards.h"

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

static const uint8_t none[DIGEST_SIZE];

bool run_model_has_layout(const struct manifest *manifest) {
    return !digest_equal(manifest->layout, none);
}

bool run_model_has_root(const struct manifest *manifest) {
    return !digest_equal(manifest->initial.root, none);
}

static enum status read_layout(const struct manifest *manifest, struct bytes text,
                               struct layout *out, struct error *error) {
    uint8_t digest[DIGEST_SIZE];
    digest_sha256(text.data, text.size, digest);
    if (!digest_equal(digest, manifest->layout))
        return error_set(error, INVALID, "the layout here is not the one that the manifest names");
    TRY(layout_parse(text, out, error));
    run_model_layout_digest(out, digest);
    if (!digest_equal(digest, manifest->layout)) { /* a text that says the same in other words */
        layout_deinit(out);
        return error_set(error, INVALID, "the layout's text is not in its one form");
    }
    struct model_config config = run_model_config(manifest);
    layout_recognise(out, &config);
    return OK;
}

enum status run_model_layout(const struct manifest *manifest, struct bytes text, struct layout *out,
                             struct error *error) {
    if (run_model_has_layout(manifest)) return read_layout(manifest, text, out, error);
    struct model_config config = run_model_config(manifest);
    enum status status = layout_init(&config, out, error);
    return status == OK ? OK : error_wrap(error, status, "the manifest's model");
}

enum status run_model_check_built_in(const struct layout *layout, const char *what,
                                     struct error *error) {
    if (layout->built_in) return OK;
    return error_set(error, INVALID,
                     "the built-in trainer cannot train this run's model, whose layout begins with "
                     "tensor \"%s\": %s",
                     layout->tensors[0].name, what);
}

void run_model_layout_digest(const struct layout *layout, uint8_t out[static DIGEST_SIZE]) {
    struct buffer text = {0};
    layout_write(layout, &text);
    digest_sha256(text.data, text.size, out);
    buffer_deinit(&text);
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

static void *begin(void) {
    struct digest *digest = xmalloc(sizeof *digest);
    digest_init(digest);
    return digest;
}

static void take(void *state, const void *data, size_t size) { digest_update(state, data, size); }

static void end(void *state, uint8_t out[static DIGEST_SIZE]) {
    digest_final(state, out);
    free(state);
}

const struct layout_digester run_model_digester = {begin, take, end};

/* Of a copy that a person brings. */
static enum status check_frozen(const struct layout *layout, const char *checkpoint,
                                struct error *error) {
    struct layout same = *layout;
    if (layout->other_count == 0) return OK;
    same.others = xcalloc(layout->other_count, sizeof *same.others);
    memcpy(same.others, layout->others, layout->other_count * sizeof *same.others);
    enum status status = checkpoint_freeze(checkpoint, &run_model_digester, &same, error);
    free(same.others);
    return status;
}

enum status run_model_initialise(const struct manifest *manifest, const struct layout *layout,
                                 const char *checkpoint, float *parameters, struct error *error) {
    if (!run_model_has_root(manifest)) {
        if (checkpoint)
            return error_set(
                error, INVALID,
                "the run starts from its seed: the checkpoint %s has no effect, leave it out",
                checkpoint);
        layout_initialise(layout, manifest->initial.seed, parameters);
        return OK;
    }
    char wanted[HEX32_SIZE], there[HEX32_SIZE];
    hex_encode(manifest->initial.root, DIGEST_SIZE, wanted);
    if (!checkpoint)
        return error_set(error, INVALID,
                         "the run starts from the checkpoint with state root %s, and it is needed",
                         wanted);
    uint8_t root[DIGEST_SIZE];
    TRY(checkpoint_read(checkpoint, layout, parameters, error));
    state_root(parameters, layout->count, root);
    if (digest_equal(root, manifest->initial.root)) return check_frozen(layout, checkpoint, error);
    return error_set(error, INVALID,
                     "%s is not the run's initial checkpoint: its values have the state root %s, "
                     "and the run's is %s",
                     checkpoint, hex_encode(root, DIGEST_SIZE, there), wanted);
}
