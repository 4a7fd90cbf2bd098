/* atoll-sim train: a federation file, a model and texts; curves on the way, figures at the end. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/output.h"
#include "experiment/train.h"
#include "fed/outer_rate.h"
#include "model/presets.h"
#include "sim/verbs.h"

static const char *const modes[] = {"file", "dense", "sparse", NULL};
static const char *const codecs[] = {"file", "fp32",     "bf16",      "int8",
                                     "fp4",  "topk2-64", "topk2-128", NULL};

#define FIELD(field_) SETTING_FIELD(struct sim_settings, train.field_)
static const struct setting table[] = {
    {"file", SETTING_PATH, FIELD(file), .flags = OPTION_POSITIONAL | OPTION_REQUIRED,
     .help = "The federation: sites, links, failures."},
    {"data", SETTING_LIST, FIELD(data), .value_name = "FILE",
     .help = "Text, or shards of tokens; site i trains on the i-th, in turn. May be repeated."},
    {"data-format", SETTING_CHOICE, FIELD(data_format), .fallback = "auto",
     .choices = data_format_names,
     .help = "Format of all data files; auto: told from their content, and refused where they do "
             "not fit the model."},
    {"manifest", SETTING_PATH, FIELD(manifest), .value_name = "FILE",
     .help = "Model, inner optimizer and admission; values under run: in the file override it. "
             "Without it, --preset and defaults."},
    {"preset", SETTING_TEXT, FIELD(preset), .fallback = "300k",
     .help = "Shape of the model: 300k, 1m, 4m, ..."},
    {"learning-rate", SETTING_NUMBER, FIELD(learning_rate), .fallback = "0",
     .help = "Learning rate of AdamW; 0: the manifest's, or 2e-3."},
    {"outer-learning-rate", SETTING_NUMBER, FIELD(outer_learning_rate), .fallback = "0",
     .help = "Learning rate of outer steps; 0: the manifest's, or by mode, H, and the number of "
             "present sites and of parts in a step (fed/outer_rate.h)."},
    {"mode", SETTING_CHOICE, FIELD(mode), .fallback = "file", .choices = modes,
     .help = "Outer optimizer."},
    {"codec", SETTING_CHOICE, FIELD(codec), .fallback = "file", .choices = codecs,
     .help = "Chooses the mode too, unless that is given."},
    {"inner-steps", SETTING_COUNT, FIELD(inner_steps), .max = "1000000",
     .help = "H; 0: the file's."},
    {"follow-interval", SETTING_COUNT, FIELD(follow_interval), .fallback = "1", .max = "1000000",
     .help = "Inner steps after which a site moves onto the newest version that it knows; 0: it "
             "moves with its own merges only, for comparison."},
    {"sites", SETTING_COUNT, FIELD(sites),
     .help = "Number of sites, where the file has only one group; 0: the file's."},
    {"sequences", SETTING_COUNT, FIELD(sequences), .fallback = "8", .min = "1", .max = "4096",
     .help = "Sequences in a batch."},
    {"threads", SETTING_COUNT, FIELD(threads), .max = "64",
     .help = "0: one per processor. Does not change results."},
    {"seed", SETTING_COUNT, FIELD(seed),
     .help = "Seed of parameters, data order, speeds, links and failures; 0: the manifest's."},
    {"duration", SETTING_DURATION, FIELD(duration_ms),
     .help = "Virtual time to simulate; 0: the file's."},
    {"evaluate", SETTING_DURATION, FIELD(evaluate_ms), .fallback = "0",
     .help = "Virtual time between evaluations; 0: a twentieth of the duration."},
    {"windows", SETTING_COUNT, FIELD(windows), .fallback = "96",
     .help = "Held-out windows per file; 0: all."},
    {"heldout", SETTING_SHARE, FIELD(heldout), .fallback = "0.02", .min = "0.0001", .max = "0.5",
     .help = "Share of each file's end that is held out."},
    {"hostile", SETTING_CHOICE, FIELD(hostile), .fallback = "none", .choices = train_hostile_names,
     .help = "What the last sites send: large (100 times their delta), or just under the clip: "
             "flip (its sign turned), random, negate (the last honest one's negative)."},
    {"hostile-sites", SETTING_COUNT, FIELD(hostile_sites), .fallback = "1", .min = "1",
     .max = "4096", .help = "Number of hostile sites."},
    {"hostile-from", SETTING_DURATION, FIELD(hostile_from_ms), .fallback = "0",
     .help = "Virtual time at which they begin."},
    {"csv", SETTING_PATH, FIELD(csv), .value_name = "FILE",
     .help = "time_s,site,version,tokens,loss,heldout: every round, every evaluation."},
    {"svg", SETTING_PATH, FIELD(svg), .value_name = "FILE",
     .help = "Loss over tokens, training and held-out."},
    {0}};

static enum status manifest_read(const struct sim_settings *settings, struct manifest *out,
                                 struct error *error) {
    struct buffer text = {0};
    struct model_config config;
    enum status status;
    manifest_defaults(out);
    if (settings->train.manifest) {
        status = file_read(settings->train.manifest, MANIFEST_LIMIT, &text, error);
        if (status == OK) status = manifest_parse(buffer_bytes(&text), out, error);
        buffer_deinit(&text);
        return status;
    }
    TRY(preset_find(settings->train.preset, &config, error));
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

/* The file's `run:` and the command line over the manifest. */
static enum status manifest_settle(const struct sim_settings *settings,
                                   const struct topology *topology, struct manifest *out,
                                   struct error *error) {
    const struct topology_run *run = &topology->run;
    enum codec codec = settings->train.codec ? (enum codec)settings->train.codec : run->codec;
    bool dense = settings->train.mode ? settings->train.mode == 1 : !codec_is_sparse(codec);
    bool defaults = !settings->train.manifest || dense != (out->outer.mode == OUTER_DENSE);
    out->outer.mode = dense ? OUTER_DENSE : OUTER_SPARSE;
    out->codec.kind = (uint16_t)codec;
    out->codec.decay = dense ? 0 : 0.95;
    if (defaults) {
        out->outer.momentum = dense ? 0.9 : 0;
        out->outer.period = outer_period_default(out->outer.mode, topology->site_count);
    }
    if (settings->train.learning_rate > 0) out->inner.learning_rate = settings->train.learning_rate;
    if (settings->train.seed) out->initial.seed = settings->train.seed;
    out->inner.inner_steps = (uint32_t)(settings->train.inner_steps ? settings->train.inner_steps
                                                                    : (uint64_t)run->inner_steps);
    if (defaults)
        out->outer.learning_rate = outer_rate_default(out->outer.mode, out->inner.inner_steps);
    if (settings->train.outer_learning_rate > 0)
        out->outer.learning_rate = settings->train.outer_learning_rate;
    out->inner.dylu = run->dylu != 0;
    out->fragments = (uint32_t)run->fragments;
    out->merge.quorum = (uint32_t)run->quorum;
    out->merge.grace_ms = isinf(run->grace) ? UINT64_MAX : (uint64_t)(1000 * run->grace);
    out->merge.staleness_cap = (uint32_t)run->staleness_cap;
    out->merge.warmup_steps = (uint32_t)run->warmup_steps;
    out->merge.warmup_grace_ms =
        isinf(run->warmup_grace) ? UINT64_MAX : (uint64_t)(1000 * run->warmup_grace);
    return manifest_check(out, error);
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

static enum status plot_write(const struct sim_settings *settings, const struct history *history,
                              struct error *error) {
    struct buffer svg = {0};
    history_plot(history, settings->train.file, &svg);
    enum status status = file_write(settings->train.svg, buffer_bytes(&svg), 0644, error);
    buffer_deinit(&svg);
    return status;
}

static void print_result(const struct train_result *r) {
    char root[HEX32_SIZE];
    printf("held-out %.4f  loss %.4f  %llu tokens in %llu steps, busy %.2f %%\n"
           "%llu versions of %llu contributions, staleness %.2f, %llu refused, %llu steps lost to "
           "crashes, %.3f MB up\n"
           "at most %llu distinct versions held; median scale of honest contributions %.3f; "
           "state root %s\n",
           r->heldout, r->loss, (unsigned long long)r->tokens, (unsigned long long)r->steps,
           100 * r->busy, (unsigned long long)r->versions, (unsigned long long)r->contributions,
           r->staleness, (unsigned long long)r->refused, (unsigned long long)r->lost_steps,
           (double)r->bytes_up / 1e6, (unsigned long long)r->distinct_versions_most, r->scale,
           hex_encode(r->root, DIGEST_SIZE, root));
}

static enum status train(const struct sim_settings *settings, struct error *error) {
    struct topology *topology = NULL;
    struct manifest manifest;
    struct history *history = NULL;
    struct train_result result;
    uint64_t memory;
    FILE *csv = NULL;
    enum status status = topology_load(settings->train.file, &topology, error);
    if (status == OK) status = sites_settle(settings, topology, error);
    if (status == OK) status = manifest_read(settings, &manifest, error);
    if (status == OK) status = manifest_settle(settings, topology, &manifest, error);
    if (status == OK) status = history_open(NULL, &history, error);
    if (status == OK && settings->train.csv)
        status = output_check_file(settings->train.csv, 0, error);
    if (status == OK && settings->train.svg)
        status = output_check_file(settings->train.svg, 0, error);
    if (status != OK) goto out;
    double duration = settings->train.duration_ms ? (double)settings->train.duration_ms / 1000
                                                  : topology->duration;
    struct train_options options = {
        .topology = topology,
        .manifest = &manifest,
        .data = settings->train.data.items,
        .data_count = settings->train.data.count,
        .data_format = settings->train.data_format,
        .heldout = settings->train.heldout,
        .windows = settings->train.windows,
        .sequences = (uint32_t)settings->train.sequences,
        .threads = (uint32_t)settings->train.threads,
        .seed = settings->train.seed ? settings->train.seed : manifest.initial.seed,
        .auto_rate = !settings->train.manifest && !(settings->train.outer_learning_rate > 0),
        .follow_interval = (uint32_t)settings->train.follow_interval,
        .duration = duration,
        .hostile = (enum train_hostile)settings->train.hostile,
        .hostile_sites = (uint32_t)settings->train.hostile_sites,
        .hostile_from = (double)settings->train.hostile_from_ms / 1000,
        .evaluate_every = settings->train.evaluate_ms ? (double)settings->train.evaluate_ms / 1000
                                                      : duration / 20,
        .progress = stdout,
        .history = history};
    status = train_memory(&options, &memory, error);
    if (status == OK && settings->train.csv && !(csv = fopen(settings->train.csv, "w")))
        status = error_set(error, FAILED, "open %s: %s", settings->train.csv, strerror(errno));
    if (status != OK) goto out;
    options.csv = csv;
    printf("%u sites; memory at most %.1f MB: K*(12 P%s + 4 P) + (K+2)*4 P + model + "
           "threads*trainer\n",
           topology->site_count, (double)memory / 1e6,
           manifest.outer.mode == OUTER_SPARSE ? " + 4 P" : "");
    fflush(stdout);
    status = train_run(&options, &result, error);
    if (status == OK) print_result(&result);
    if (status == OK && settings->train.svg) status = plot_write(settings, history, error);
out:;
    bool cut = csv && ferror(csv) != 0;
    if (csv && (fclose(csv) != 0 || cut) && status == OK)
        status = error_set(error, FAILED, "%s could not be written whole", settings->train.csv);
    history_close(history);
    topology_destroy(topology);
    return status;
}

static int run(struct options *options, void *values) {
    struct error error = {0};
    const struct sim_settings *settings = values;
    if (options_refuse_idle(options, "preset", settings->train.manifest != NULL,
                            "beside --manifest, which says the model's shape", &error) == OK &&
        train(settings, &error) == OK)
        return 0;
    fprintf(stderr, "atoll-sim train: %s\n", error.message);
    return 1;
}

const struct command verb_train = {
    .name = "train",
    .summary = "virtual sites train a real small model in virtual time",
    .description = "Real trainer, codec and outer optimizer; time, links and failures are "
                   "simulated. One seed gives one result, for any "
                   "number of threads.",
    .examples =
        "atoll-sim train federation.yaml --data a.txt --data b.txt --csv curve.csv --svg "
        "curve.svg\n"
        "atoll-sim train federation.yaml --data a.txt --codec int8 --inner-steps 30 --seed 3",
    .options = table,
    .run = run};
