/* Each rule has one source: the manifest's file where there is one, else the federation's. */
#include "sim/train_settle.h"

#include <string.h>

#include "base/file.h"
#include "codec/codec.h"
#include "fed/ledger.h"
#include "model/presets.h"

static enum status shape_from_preset(const char *preset, struct manifest *out,
                                     struct error *error) {
    struct model_config config;
    TRY(preset_find(preset, &config, error));
    strcpy(out->name, "train");
    out->model.vocabulary = config.vocabulary;
    out->model.hidden = config.hidden;
    out->model.layers = config.layers;
    out->model.heads = config.heads;
    out->model.kv_heads = config.kv_heads;
    out->model.ffn = config.ffn;
    out->model.context = config.context;
    out->model.rope_theta = (double)config.rope_theta;
    /* the shortest decimal */
    out->model.norm_epsilon = config.norm_eps == 1e-5f ? 1e-5 : (double)config.norm_eps;
    out->model.tied = config.tied;
    out->tokenizer = config.vocabulary > 256 ? TOKENIZER_EXTERNAL : TOKENIZER_BYTE;
    out->inner.learning_rate = 2e-3;
    return OK;
}

static enum status manifest_read(const struct sim_settings *settings, struct manifest *out,
                                 struct error *error) {
    struct buffer text = {0};
    manifest_defaults(out);
    if (!settings->train.manifest) return shape_from_preset(settings->train.preset, out, error);
    enum status status = file_read(settings->train.manifest, MANIFEST_LIMIT, &text, error);
    if (status == OK) status = manifest_parse(buffer_bytes(&text), out, error);
    buffer_deinit(&text);
    return status;
}

/* Both files may say a rule, if they say the same. */
static enum status agree(const struct sim_settings *settings, const struct topology *topology,
                         const struct manifest *manifest, struct error *error) {
    struct manifest other = *manifest;
    rules_begin(&topology->run, &other);
    const struct {
        const char *key, *of_manifest;
        bool differs;
    } rules[] = {
        {"run.mode", "outer.mode", other.outer.mode != manifest->outer.mode},
        {"run.codec", "codec.kind", other.codec.kind != manifest->codec.kind},
        {"run.inner_steps", "inner.inner_steps",
         other.inner.inner_steps != manifest->inner.inner_steps},
        {"run.dylu", "inner.dylu", other.inner.dylu != manifest->inner.dylu},
        {"run.fragments", "fragments", other.fragments != manifest->fragments},
        {"run.quorum", "merge.quorum", other.merge.quorum != manifest->merge.quorum},
        {"run.grace", "merge.grace", other.merge.grace_ms != manifest->merge.grace_ms},
        {"run.staleness_cap", "merge.staleness_cap",
         other.merge.staleness_cap != manifest->merge.staleness_cap},
        {"run.warmup_steps", "merge.warmup_steps",
         other.merge.warmup_steps != manifest->merge.warmup_steps},
        {"run.warmup_grace", "merge.warmup_grace",
         other.merge.warmup_grace_ms != manifest->merge.warmup_grace_ms},
        {"run.away_after", "merge.away_after",
         other.merge.away_after_ms != manifest->merge.away_after_ms},
    };
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        if (!rules[i].differs || !topology_says(topology, rules[i].key)) continue;
        return error_set(error, INVALID,
                         "%s of %s differs from %s of %s: with --manifest the manifest's holds; "
                         "take the key out of the federation's file, or write the same value",
                         rules[i].key, settings->train.file, rules[i].of_manifest,
                         settings->train.manifest);
    }
    return OK;
}

/* --mode and --codec. A manifest's outer optimizer is of one mode: the other's would be our own. */
static enum status take_codec(const struct sim_settings *settings, struct manifest *out,
                              struct error *error) {
    enum outer_mode before = out->outer.mode;
    if (settings->train.codec) out->codec.kind = (uint16_t)settings->train.codec;
    if (settings->train.mode)
        out->outer.mode = settings->train.mode == 1 ? OUTER_DENSE : OUTER_SPARSE;
    else if (settings->train.codec)
        out->outer.mode = codec_is_sparse((enum codec)out->codec.kind) ? OUTER_SPARSE : OUTER_DENSE;
    out->codec.decay = out->outer.mode == OUTER_DENSE ? 0 : 0.95;
    if (!settings->train.manifest || out->outer.mode == before) return OK;
    return error_set(error, INVALID,
                     "--%s makes the run %s, and outer: of %s is for the other mode: change mode, "
                     "codec and outer: there",
                     settings->train.mode ? "mode" : "codec",
                     out->outer.mode == OUTER_DENSE ? "dense" : "sparse", settings->train.manifest);
}

/* Every round waits for all sites, and every site for the merge of its round. */
static enum status take_sync(struct topology *topology, struct manifest *out, struct error *error) {
    if (topology->site_count > STEP_CONTRIBUTIONS_LIMIT)
        return error_set(error, INVALID, "--sync needs at most %d sites; the file has %u",
                         STEP_CONTRIBUTIONS_LIMIT, topology->site_count);
    out->merge.quorum = topology->site_count;
    out->merge.grace_ms = UINT64_MAX;
    out->merge.warmup_steps = 0;
    topology->run.overlap = false;
    return OK;
}

static enum status sites_settle(const struct sim_settings *settings, struct topology *topology,
                                struct error *error) {
    if (!settings->train.sites) return OK;
    if (topology->group_count != 1)
        return error_set(error, INVALID,
                         "--sites needs a file with one group of sites; this one has %u",
                         topology->group_count);
    if (settings->train.sites > TOPOLOGY_SITES_LIMIT)
        return error_set(error, INVALID, "more than %d sites", TOPOLOGY_SITES_LIMIT);
    topology->groups[0].count = (double)settings->train.sites;
    topology->site_count = (uint32_t)settings->train.sites;
    return OK;
}

enum status train_settle(const struct sim_settings *settings, struct topology *topology,
                         struct manifest *out, struct error *error) {
    TRY(sites_settle(settings, topology, error));
    TRY(manifest_read(settings, out, error));
    if (settings->train.manifest)
        TRY(agree(settings, topology, out, error));
    else
        rules_begin(&topology->run, out);
    TRY(take_codec(settings, out, error));
    if (settings->train.learning_rate > 0) out->inner.learning_rate = settings->train.learning_rate;
    if (settings->train.seed) out->initial.seed = settings->train.seed;
    if (settings->train.inner_steps) out->inner.inner_steps = (uint32_t)settings->train.inner_steps;
    if (!settings->train.manifest) {
        enum outer_mode mode = out->outer.mode;
        out->outer.momentum = mode == OUTER_DENSE ? 0.9 : 0;
        out->outer.learning_rate = RATE_AUTO;
        out->outer.period = MANIFEST_AUTO;
    }
    if (settings->train.outer_learning_rate > 0)
        out->outer.learning_rate = settings->train.outer_learning_rate;
    if (settings->train.period) out->outer.period = (uint32_t)settings->train.period;
    if (settings->train.sync) TRY(take_sync(topology, out, error));
    return manifest_check(out, error);
}

/* What encoders were made for stays. */
static bool is_fixed(const char *key) { return strcmp(key, "codec.kind") == 0; }

enum status train_changes(const struct sim_settings *settings, const struct manifest *manifest,
                          struct rules_change **out, struct error *error) {
    const struct setting_list *list = &settings->train.rules;
    return rules_changes(list->items, list->count, manifest, "train", is_fixed, out, error);
}
