/* What a run begins from (run/run_start.h). */
#include "run/run_start.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "fed/manifest.h"
#include "fed/merkle.h"
#include "model/beside.h"
#include "model/checkpoint_layout.h"
#include "model/config_file.h"
#include "model/safetensors.h"
#include "run/run_checkpoint.h"
#include "run/run_model.h"

/* ---- digests --------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b) {
    const struct checkpoint_tensor *x = a, *y = b;
    return strcmp(x->entry.name, y->entry.name);
}

enum status run_base_digest(const char *path, uint8_t out[static DIGEST_SIZE],
                            struct error *error) {
    struct checkpoint_listing listing;
    struct buffer text = {0};
    TRY(checkpoint_list(path, &listing, error));
    if (listing.count) qsort(listing.tensors, listing.count, sizeof *listing.tensors, by_name);
    enum status status = OK;
    for (uint32_t i = 0; i < listing.count && status == OK; i++) {
        const struct safetensors_entry *entry = &listing.tensors[i].entry;
        char shape[LAYOUT_SHAPE_SIZE], hex[HEX32_SIZE];
        uint8_t digest[DIGEST_SIZE];
        void *state = run_model_digester.begin();
        status = safetensors_bytes(listing.files[listing.tensors[i].file], entry,
                                   run_model_digester.take, state, error);
        run_model_digester.end(state, digest);
        buffer_append_text(&text, "%s %s %s %s\n", entry->type,
                           layout_shape_text(entry->dimensions, entry->shape, shape),
                           hex_encode(digest, DIGEST_SIZE, hex), entry->name);
    }
    if (status == OK) digest_sha256(text.data, text.size, out);
    buffer_deinit(&text);
    checkpoint_listing_deinit(&listing);
    return status;
}

enum status run_base_check(const struct manifest *manifest, const char *path, struct error *error) {
    static const uint8_t none[DIGEST_SIZE];
    char there[HEX32_SIZE], wanted[HEX32_SIZE];
    uint8_t digest[DIGEST_SIZE];
    if (digest_equal(manifest->base, none))
        return error_set(error, INVALID, "--base: the run trains no adapter, and has no base");
    TRY(run_base_digest(path, digest, error));
    if (digest_equal(digest, manifest->base)) return OK;
    return error_set(error, INVALID,
                     "--base: %s is not the model that the run's adapter is for: its digest is %s, "
                     "and the run's is %s",
                     path, hex_encode(digest, DIGEST_SIZE, there),
                     hex_encode(manifest->base, DIGEST_SIZE, wanted));
}

/* ---- config.json and the manifest ------------------------------------------------------------ */

/* What a key of the manifest's model is called in the config.json of this and that architecture. */
static const struct {
    const char *key, *names[6];
} sizes[] = {
    {"model.vocabulary", {"vocab_size"}},
    {"model.hidden", {"hidden_size", "n_embd", "d_model", "dim"}},
    {"model.layers", {"num_hidden_layers", "n_layer", "num_layers", "n_layers"}},
    {"model.heads", {"num_attention_heads", "n_head", "num_heads", "n_heads"}},
    {"model.kv_heads", {"num_key_value_heads"}},
    {"model.ffn", {"intermediate_size", "n_inner", "d_ff", "ffn_dim"}},
    {"model.context", {"max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"}},
    {"model.rope_theta", {"rope_theta", "rotary_emb_base"}},
    {"model.norm_epsilon",
     {"rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon"}},
    {"model.tied", {"tie_word_embeddings"}},
};

/* A number or truth of config.json as the manifest writes it. False: it is something else. */
static bool text_of(const struct json_value *value, char out[static F64_TEXT_SIZE]) {
    if (value->type == JSON_BOOL)
        snprintf(out, F64_TEXT_SIZE, "%s", value->boolean ? "true" : "false");
    else if (value->type == JSON_NUMBER && value->is_u64)
        snprintf(out, F64_TEXT_SIZE, "%llu", (unsigned long long)value->integer);
    else if (value->type == JSON_NUMBER)
        f64_format(value->number, out);
    else
        return false;
    return true;
}

/* What the canonical manifest says of a key. The caller's. */
static char *value_of(const struct manifest *manifest, const char *key) {
    struct buffer text = {0};
    manifest_write(manifest, &text);
    buffer_u8(&text, 0);
    char *line = xformat("\n%s: ", key), *found = strstr((char *)text.data, line);
    ASSERT(found);
    found += strlen(line);
    char *value = xformat("%.*s", (int)strcspn(found, "\n"), found);
    free(line);
    buffer_deinit(&text);
    return value;
}

static const struct json_value *size_in(const struct json_value *config, size_t i,
                                        const char **name) {
    const struct json_value *value = NULL;
    for (size_t n = 0; n < COUNT_OF(sizes[i].names) && sizes[i].names[n] && !value; n++) {
        *name = sizes[i].names[n];
        value = json_object_get(config, *name);
    }
    return value;
}

/* Keys that the YAML does not give are taken over; those that it gives must be the same. */
static enum status take_sizes(const struct json_value *config, struct bytes yaml,
                              struct manifest *manifest, struct error *error) {
    struct buffer differences = {0};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        const char *name;
        const struct json_value *value = size_in(config, i, &name);
        char text[F64_TEXT_SIZE];
        struct manifest changed = *manifest;
        if (!value || !text_of(value, text)) continue;
        bool possible = manifest_set(&changed, sizes[i].key, text, NULL) == OK;
        if (yaml.size == 0 || !manifest_gives(yaml, sizes[i].key)) {
            if (possible) *manifest = changed;
            continue;
        }
        char *here = value_of(manifest, sizes[i].key), *there = value_of(&changed, sizes[i].key);
        if (!possible || strcmp(here, there) != 0)
            buffer_append_text(&differences, "%s%s is %s, the manifest's %s is %s",
                               differences.size ? "; " : "", name, text, sizes[i].key, here);
        free(here);
        free(there);
    }
    enum status status = OK;
    if (differences.size)
        status = error_set(error, INVALID, "%.*s", (int)differences.size,
                           (const char *)differences.data);
    buffer_deinit(&differences);
    return status;
}

static bool is_llama(const struct json_value *config) {
    const char *type;
    return json_get_text(config, "model_type", &type, NULL) == OK && strcmp(type, "llama") == 0;
}

/* *llama: the built-in trainer's kind, by what it says; unchanged without a config.json. */
static enum status read_config(const struct run_source *source, struct manifest *manifest,
                               bool *llama, struct error *error) {
    char *path = beside_path(source->from, "config.json");
    struct buffer text = {0};
    struct json *json = NULL;
    const struct json_limits limits = {.size = CONFIG_FILE_MAX, .depth = 32};
    enum status status = file_read(path, CONFIG_FILE_MAX, &text, error);
    if (status == OK) status = json_parse(buffer_bytes(&text), &limits, &json, error);
    if (status == OK && json_root(json)->type != JSON_OBJECT)
        status = error_set(error, INVALID, "it is not an object");
    if (status == OK) {
        *llama = is_llama(json_root(json));
        status = take_sizes(json_root(json), source->yaml, manifest, error);
    }
    if (status != OK && status != NOT_FOUND)
        error_wrap(error, status, "%s does not agree with the manifest", path);
    json_close(json);
    buffer_deinit(&text);
    free(path);
    return status == NOT_FOUND ? OK : status;
}

/* ---- the layout ------------------------------------------------------------------------------ */

/* The built-in trainer's order, with the types that the checkpoint has. */
static enum status built_in_layout(const char *from, const struct manifest *manifest,
                                   struct layout *out, struct error *error) {
    struct checkpoint_listing listing;
    struct model_config config = run_model_config(manifest);
    TRY(checkpoint_list(from, &listing, error));
    enum status status = layout_init(&config, out, error);
    for (uint32_t i = 0; i < listing.count && status == OK; i++) {
        const struct layout_tensor *tensor = layout_find(out, listing.tensors[i].entry.name);
        enum tensor_dtype dtype = tensor_dtype_of(listing.tensors[i].entry.type);
        if (tensor && dtype != DTYPE_COUNT) out->tensors[tensor - out->tensors].dtype = dtype;
    }
    checkpoint_listing_deinit(&listing);
    return status;
}

/* Without a config.json: whether the tensors are those of the manifest's model. */
static bool looks_built_in(const char *from, const struct manifest *manifest) {
    struct checkpoint_listing listing;
    struct layout layout = {0};
    struct model_config config = run_model_config(manifest);
    if (checkpoint_list(from, &listing, NULL) != OK) return false;
    bool found = layout_init(&config, &layout, NULL) == OK;
    for (uint32_t i = 0; found && i < listing.count; i++)
        found = strncmp(listing.tensors[i].entry.name, "model.", 6) == 0 ||
                strcmp(listing.tensors[i].entry.name, "lm_head.weight") == 0;
    layout_deinit(&layout);
    checkpoint_listing_deinit(&listing);
    return found;
}

/* What a Llama's config.json leaves out has defaults of transformers', not of the manifest. */
static void take_defaults(const struct run_source *source, struct manifest *manifest) {
    struct model_config there;
    if (source->yaml.size == 0 || beside_config(source->from, &there, NULL) != OK) return;
    if (!manifest_gives(source->yaml, "model.kv_heads")) manifest->model.kv_heads = there.kv_heads;
    if (!manifest_gives(source->yaml, "model.tied")) manifest->model.tied = there.tied;
    if (!manifest_gives(source->yaml, "model.rope_theta") &&
        (float)manifest->model.rope_theta != there.rope_theta)
        manifest->model.rope_theta = (double)there.rope_theta;
    if (!manifest_gives(source->yaml, "model.norm_epsilon") &&
        (float)manifest->model.norm_epsilon != there.norm_eps)
        manifest->model.norm_epsilon = (double)there.norm_eps;
}

/* Whether the built-in trainer computes what a Llama's config.json says, of these tensors. INVALID
 * says why not. */
static enum status check_computed(const char *from, struct error *error) {
    struct checkpoint_listing listing;
    struct layout own = {0};
    struct model_config config;
    enum status status = beside_config(from, &config, error);
    if (status == NOT_FOUND) return OK; /* known by its tensors alone */
    if (status == OK) status = layout_init(&config, &own, error);
    if (status != OK) return INVALID;
    status = checkpoint_list(from, &listing, error);
    for (uint32_t i = 0; status == OK && i < listing.count; i++) {
        const char *name = listing.tensors[i].entry.name;
        bool head = config.tied && strcmp(name, "lm_head.weight") == 0;
        if (!head && !layout_find(&own, name) && !safetensors_is_derived(name))
            status = error_set(error, INVALID, "tensor \"%s\" is not in this model", name);
    }
    if (status == OK) checkpoint_listing_deinit(&listing);
    layout_deinit(&own);
    return status;
}

/* A manifest that says what the model is asks for the built-in trainer, which must then compute
 * that. One that does not is of whatever the checkpoint is: jobs that attach train it. */
static bool is_foreign_llama(const struct run_source *source) {
    struct error why = {0};
    if (source->yaml.size == 0) return false;
    for (size_t i = 0; i < COUNT_OF(sizes); i++)
        if (manifest_gives(source->yaml, sizes[i].key)) return false;
    if (check_computed(source->from, &why) != INVALID) return false;
    log_warn("not_built_in",
             "message=\"the built-in trainer does not compute this model (%s): sites join with "
             "--attach, and jobs of theirs train it\"",
             why.message);
    return true;
}

static enum status layout_of_checkpoint(const struct run_source *source, struct manifest *manifest,
                                        struct layout *out, struct error *error) {
    bool llama = looks_built_in(source->from, manifest);
    TRY(read_config(source, manifest, &llama, error));
    if (!llama || checkpoint_is_adapter(source->from) || is_foreign_llama(source)) {
        TRY(checkpoint_layout(source->from, out, error));
        TRY(checkpoint_freeze(source->from, &run_model_digester, out, error));
        return run_checkpoint_check_tokenizer(manifest, source->from, error);
    }
    take_defaults(source, manifest);
    TRY(run_checkpoint_check(manifest, source->from, error));
    return built_in_layout(source->from, manifest, out, error);
}

/* The built-in trainer takes whatever has its tensors in its order for its model. */
static enum status check_list(const struct run_source *source, struct manifest *manifest,
                              struct layout *layout, struct error *error) {
    take_defaults(source, manifest);
    struct model_config config = run_model_config(manifest);
    layout_recognise(layout, &config);
    return layout->built_in ? run_checkpoint_check(manifest, source->from, error) : OK;
}

/* The type in a list is what an export stores. Another one than the checkpoint's may be meant, and
 * may be a slip, after which no export is the checkpoint any more. */
static enum status say_types(const struct run_source *source, const struct layout *layout,
                             struct error *error) {
    struct checkpoint_listing listing;
    const struct layout_tensor *first = NULL;
    const char *type = NULL;
    uint32_t others = 0;
    TRY(checkpoint_list(source->from, &listing, error));
    if (listing.count) qsort(listing.tensors, listing.count, sizeof *listing.tensors, by_name);
    for (uint32_t i = 0; i < layout->tensor_count; i++) {
        const struct layout_tensor *tensor = &layout->tensors[i];
        struct checkpoint_tensor wanted = {.file = 0};
        memcpy(wanted.entry.name, tensor->name, sizeof wanted.entry.name);
        const struct checkpoint_tensor *there =
            bsearch(&wanted, listing.tensors, listing.count, sizeof *listing.tensors, by_name);
        if (!there || tensor_dtype_of(there->entry.type) == tensor->dtype) continue;
        if (first) others++;
        if (first) continue;
        first = tensor;
        type = there->entry.type;
    }
    if (first)
        log_warn("other_type",
                 "tensor=\"%s\" layout=%s checkpoint=%s others=%u message=\"exports store what "
                 "%s says, also of version 0: write the checkpoint's types there if that is not "
                 "meant\"",
                 first->name, tensor_dtype_name(first->dtype), type, others, source->layout);
    checkpoint_listing_deinit(&listing);
    return OK;
}

static enum status layout_of_list(const struct run_source *source, struct manifest *manifest,
                                  struct layout *out, struct error *error) {
    struct buffer text = {0};
    bool llama;
    enum status status = file_read(source->layout, LAYOUT_TEXT_MAX, &text, error);
    if (status == OK) {
        status = layout_parse(buffer_bytes(&text), out, error);
        if (status != OK) error_wrap(error, status, "%s", source->layout);
    }
    buffer_deinit(&text);
    if (status == OK && source->from) status = read_config(source, manifest, &llama, error);
    if (status == OK && source->from) status = check_list(source, manifest, out, error);
    if (status == OK && source->from)
        status = checkpoint_freeze(source->from, &run_model_digester, out, error);
    if (status == OK && source->from) status = say_types(source, out, error);
    for (uint32_t i = 0; status == OK && !source->from && i < out->other_count; i++)
        if (out->others[i].tied == LAYOUT_FROZEN)
            status = error_set(error, INVALID,
                               "tensor \"%s\" is frozen, and no checkpoint has it: give that with "
                               "--from",
                               out->others[i].name);
    return status;
}

static bool has(const char *directory, const char *name) {
    char *path = file_join(directory, name);
    bool there = file_exists(path);
    free(path);
    return there;
}

/* Whose tensors are read must not be open to doubt, and without its settings no program would open
 * what is exported. */
static enum status check_kind(const char *path, struct error *error) {
    const char *slash = strrchr(path, '/');
    if (strcmp(slash ? slash + 1 : path, CHECKPOINT_ADAPTER) == 0)
        return error_set(error, INVALID,
                         "%s is the file of an adapter: name its directory, which has "
                         "adapter_config.json as well",
                         path);
    if (!checkpoint_is_adapter(path)) return OK;
    if (has(path, "model.safetensors") || has(path, CHECKPOINT_INDEX))
        return error_set(error, INVALID,
                         "%s holds a model and an adapter (%s): keep each in a directory of its "
                         "own",
                         path, CHECKPOINT_ADAPTER);
    if (has(path, "adapter_config.json")) return OK;
    return error_set(error, INVALID,
                     "%s lacks adapter_config.json, without which nobody can use the adapter: save "
                     "it with PEFT's save_pretrained",
                     path);
}

static enum status check_kinds(const struct run_source *source, struct error *error) {
    if (source->from) TRY(check_kind(source->from, error));
    if (!source->base) return OK;
    TRY(check_kind(source->base, error));
    if (!checkpoint_is_adapter(source->base)) return OK;
    return error_set(error, INVALID, "--base: %s is an adapter: name the model that it is for",
                     source->base);
}

static enum status take_base(const struct run_source *source, struct manifest *manifest,
                             struct error *error) {
    static const uint8_t none[DIGEST_SIZE];
    bool adapter = source->from && checkpoint_is_adapter(source->from);
    uint8_t digest[DIGEST_SIZE];
    if (adapter && !source->base)
        return error_set(error, INVALID,
                         "%s is an adapter: give the frozen model that it is for with --base",
                         source->from);
    if (!source->base && digest_equal(manifest->base, none)) return OK;
    if (!adapter)
        return error_set(error, INVALID, "only an adapter (a directory with %s) has a base",
                         CHECKPOINT_ADAPTER);
    TRY(run_base_digest(source->base, digest, error));
    if (!digest_equal(manifest->base, none) && !digest_equal(manifest->base, digest))
        return error_set(error, INVALID, "%s is not the base that the manifest names",
                         source->base);
    memcpy(manifest->base, digest, DIGEST_SIZE);
    return OK;
}

static enum status check_given(const struct run_source *source, const struct manifest *manifest,
                               struct error *error) {
    if (run_model_has_root(manifest) && !source->from)
        return error_set(error, INVALID,
                         "the manifest names a checkpoint by its root: give it with --from");
    if (run_model_has_layout(manifest) && !source->from && !source->layout)
        return error_set(error, INVALID,
                         "the manifest names a layout by its digest: give --from or --layout");
    return OK;
}

static enum status open_start(const struct run_source *source, struct manifest *manifest,
                              struct run_start *start, struct error *error) {
    uint8_t digest[DIGEST_SIZE];
    TRY(check_given(source, manifest, error));
    TRY(check_kinds(source, error));
    if (!source->from && !source->layout)
        return run_model_layout(manifest, bytes_of(NULL, 0), &start->layout, error);
    TRY(source->layout ? layout_of_list(source, manifest, &start->layout, error)
                       : layout_of_checkpoint(source, manifest, &start->layout, error));
    layout_write(&start->layout, &start->text);
    if (start->text.size > LAYOUT_TEXT_MAX)
        return error_set(
            error, INVALID,
            "%s has %u tensors, and the list of them %zu bytes: a site gets it in one "
            "message of at most %d bytes (about 16,000 tensors). Join tensors, such as "
            "the experts of a layer, into larger ones, or train an adapter",
            source->layout ? source->layout : source->from,
            start->layout.tensor_count + start->layout.other_count, start->text.size,
            LAYOUT_TEXT_MAX);
    digest_sha256(start->text.data, start->text.size, digest);
    if (run_model_has_layout(manifest) && !digest_equal(digest, manifest->layout))
        return error_set(error, INVALID, "%s has another layout than the manifest names",
                         source->layout ? source->layout : source->from);
    memcpy(manifest->layout, digest, DIGEST_SIZE);
    TRY(take_base(source, manifest, error));
    TRY(manifest_check_count(manifest, start->layout.count, error));
    struct model_config config = run_model_config(manifest);
    layout_recognise(&start->layout, &config);
    return manifest_check(manifest, error);
}

/* A damaged file of the user's is wrong input, not a damaged run. */
static enum status of_input(enum status status, struct error *error) {
    if (status != CORRUPT) return status;
    if (error) error->status = INVALID;
    return INVALID;
}

enum status run_start_open(const struct run_source *source, struct manifest *manifest,
                           struct run_start *out, struct error *error) {
    struct run_start start = {0};
    struct manifest completed = *manifest;
    enum status status = of_input(open_start(source, &completed, &start, error), error);
    if (status != OK) {
        run_start_deinit(&start);
        return status;
    }
    *manifest = completed;
    *out = start;
    return OK;
}

enum status run_start_values(const struct run_source *source, const struct run_start *start,
                             struct manifest *manifest, float *theta, struct error *error) {
    if (!source->from || run_model_has_root(manifest))
        return of_input(run_model_initialise(manifest, &start->layout, source->from, theta, error),
                        error);
    TRY(of_input(checkpoint_read(source->from, &start->layout, theta, error), error));
    state_root(theta, start->layout.count, manifest->initial.root);
    return OK;
}

void run_start_deinit(struct run_start *start) {
    layout_deinit(&start->layout);
    buffer_deinit(&start->text);
}
