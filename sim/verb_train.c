/* atoll-sim train: a federation file, a model and texts; curves on the way, figures at the end. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/output.h"
#include "experiment/train.h"
#include "experiment/train_report.h"
#include "model/export.h"
#include "sim/train_settle.h"
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
     .help = "All rules of the run; a key under run: of the federation's file must agree with it. "
             "Without it: --preset, the federation's run: and defaults."},
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
    {"period", SETTING_COUNT, FIELD(period), .max = "256",
     .help = "Contributions in a round: over which sparse mode takes means, after which dense mode "
             "moves its momentum; 0: the manifest's, or one per site."},
    {"rule", SETTING_LIST, FIELD(rules), .value_name = "\"TIME KEY VALUE\"",
     .help =
         "A rule that changes on the way, as with `atollctl run set`: \"5m merge.quorum 3\". May "
         "be repeated."},
    {"sync", SETTING_BOOL, FIELD(sync),
     .help = "The synchronous reference: every step has a part of every site, however long that "
             "takes, and a site waits for it."},
    {"one-cluster", SETTING_BOOL, FIELD(one_cluster),
     .help = "The reference without a federation: one model, a batch of each site's text in turn."},
    {"error-feedback", SETTING_BOOL, FIELD(error_feedback), .fallback = "true",
     .help = "Sparse mode: keep what a message left out; false: for comparison."},
    {"drop", SETTING_SHARE, FIELD(drop), .fallback = "0", .max = "95%",
     .help = "Share of messages that are lost; the site is told, and keeps what it trained."},
    {"duplicate", SETTING_SHARE, FIELD(duplicate), .fallback = "0", .max = "95%",
     .help = "Share of messages that come twice."},
    {"average", SETTING_COUNT, FIELD(average), .max = "256",
     .help = "Evaluate and export the mean of so many last versions; 0: the newest. The newest one "
             "swings towards the site that merged last."},
    {"tokens", SETTING_COUNT, FIELD(tokens),
     .help = "End once all sites together have trained on so many; 0: the manifest's budget, or "
             "the duration alone."},
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
    {"by-site", SETTING_BOOL, FIELD(by_site), .fallback = "true",
     .help = "Print the loss on each text and what became of each site's messages."},
    {"csv", SETTING_PATH, FIELD(csv), .value_name = "FILE",
     .help = "time_s,site,version,tokens,loss,heldout: every round, every evaluation."},
    {"json", SETTING_PATH, FIELD(json), .value_name = "FILE",
     .help = "Rules, figures, every site and every evaluation with each text's loss."},
    {"export", SETTING_PATH, FIELD(export_to), .value_name = "DIRECTORY",
     .help = "The last version as a model."},
    {"svg", SETTING_PATH, FIELD(svg), .value_name = "FILE",
     .help = "Loss over tokens, training and held-out."},
    {0}};

static enum status plot_write(const struct sim_settings *settings, const struct history *history,
                              struct error *error) {
    struct buffer svg = {0};
    history_plot(history, settings->train.file, &svg);
    enum status status = file_write(settings->train.svg, buffer_bytes(&svg), 0644, error);
    buffer_deinit(&svg);
    return status;
}

static enum status json_write(const char *path, const struct train_options *options,
                              const struct train_result *result, const struct train_record *record,
                              struct error *error) {
    struct buffer json = {0};
    train_report(options, result, record, &json);
    enum status status = file_write(path, buffer_bytes(&json), 0644, error);
    buffer_deinit(&json);
    return status;
}

/* Who pays: the loss on each text, and what became of each site's messages. */
static void print_sites(const struct train_options *options, const struct train_record *record) {
    const double *last = record->files + (record->count - 1) * record->file_count;
    for (size_t i = 0; record->count && i < record->file_count; i++)
        printf("%.4f on %s\n", last[i], options->data[i]);
    for (uint32_t i = 0; i < record->site_count; i++) {
        const struct train_site_record *site = &record->sites[i];
        printf("%-16s H %-4u %10llu tokens  %llu sent: %llu refused, %llu dropped, %llu twice, "
               "%llu clipped; staleness at most %llu\n",
               site->name, site->inner_steps, (unsigned long long)site->tokens,
               (unsigned long long)(site->contributions + site->refused + site->dropped),
               (unsigned long long)site->refused, (unsigned long long)site->dropped,
               (unsigned long long)site->duplicates, (unsigned long long)site->clipped,
               (unsigned long long)site->staleness_most);
    }
}

static void print_result(const struct train_result *r) {
    char root[HEX32_SIZE];
    printf("held-out %.4f  late %.4f  loss %.4f  %llu tokens in %llu steps, busy %.2f %%\n"
           "%llu versions of %llu contributions, staleness %.2f, %llu refused, %llu steps lost to "
           "crashes, %.3f MB up\n"
           "at most %llu distinct versions held; median scale of honest contributions %.3f; "
           "state root %s\n",
           r->heldout, r->heldout_late, r->loss, (unsigned long long)r->tokens,
           (unsigned long long)r->steps, 100 * r->busy, (unsigned long long)r->versions,
           (unsigned long long)r->contributions, r->staleness, (unsigned long long)r->refused,
           (unsigned long long)r->lost_steps, (double)r->bytes_up / 1e6,
           (unsigned long long)r->distinct_versions_most, r->scale,
           hex_encode(r->root, DIGEST_SIZE, root));
}

static enum status outputs_check(const struct sim_settings *settings, struct error *error) {
    const char *const files[] = {settings->train.csv, settings->train.svg, settings->train.json};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        if (files[i]) TRY(output_check_file(files[i], 0, error));
    return settings->train.export_to ? export_check(settings->train.export_to, error) : OK;
}

/* All that the settings say. */
static struct train_options options_of(const struct sim_settings *settings,
                                       const struct topology *topology,
                                       const struct manifest *manifest) {
    double duration = settings->train.duration_ms ? (double)settings->train.duration_ms / 1000
                                                  : topology->duration;
    return (struct train_options){
        .topology = topology,
        .manifest = manifest,
        .data = settings->train.data.items,
        .data_count = settings->train.data.count,
        .data_format = settings->train.data_format,
        .heldout = settings->train.heldout,
        .windows = settings->train.windows,
        .sequences = (uint32_t)settings->train.sequences,
        .threads = (uint32_t)settings->train.threads,
        .seed = settings->train.seed ? settings->train.seed : manifest->initial.seed,
        .one_cluster = settings->train.one_cluster,
        .no_feedback = !settings->train.error_feedback,
        .drop = settings->train.drop,
        .duplicate = settings->train.duplicate,
        .token_limit = settings->train.tokens ? settings->train.tokens : manifest->token_budget,
        .average = (uint32_t)settings->train.average,
        .export_to = settings->train.export_to,
        .follow_interval = (uint32_t)settings->train.follow_interval,
        .duration = duration,
        .hostile = (enum train_hostile)settings->train.hostile,
        .hostile_sites = (uint32_t)settings->train.hostile_sites,
        .hostile_from = (double)settings->train.hostile_from_ms / 1000,
        .evaluate_every = settings->train.evaluate_ms ? (double)settings->train.evaluate_ms / 1000
                                                      : duration / 20,
        .progress = stdout};
}

static enum status train(const struct sim_settings *settings, struct error *error) {
    struct topology *topology = NULL;
    struct manifest manifest;
    struct history *history = NULL;
    struct train_result result;
    struct train_record record = {0};
    uint64_t memory;
    struct rules_change *changes = NULL;
    FILE *csv = NULL;
    enum status status = topology_load(settings->train.file, &topology, error);
    if (status == OK) status = train_settle(settings, topology, &manifest, error);
    if (status == OK) status = train_changes(settings, &manifest, &changes, error);
    if (status == OK) status = history_open(NULL, &history, error);
    if (status == OK) status = outputs_check(settings, error);
    if (status != OK) goto out;
    struct train_options options = options_of(settings, topology, &manifest);
    options.record = &record;
    options.history = history;
    options.changes = changes;
    options.change_count = settings->train.rules.count;
    status = train_memory(&options, &memory, error);
    if (status == OK && settings->train.csv && !(csv = fopen(settings->train.csv, "w")))
        status = error_set(error, FAILED, "open %s: %s", settings->train.csv, strerror(errno));
    if (status != OK) goto out;
    options.csv = csv;
    printf("%u sites; memory at most %.1f MB: K*(12 P%s + 4 P) + (K*F+2)*4 P + model + "
           "threads*trainer\n",
           topology->site_count, (double)memory / 1e6,
           manifest.outer.mode == OUTER_SPARSE ? " + 4 P" : "");
    fflush(stdout);
    status = train_run(&options, &result, error);
    if (status == OK && settings->train.by_site) print_sites(&options, &record);
    if (status == OK) print_result(&result);
    if (status == OK && settings->train.svg) status = plot_write(settings, history, error);
    if (status == OK && settings->train.json)
        status = json_write(settings->train.json, &options, &result, &record, error);
out:;
    bool cut = csv && ferror(csv) != 0;
    if (csv && (fclose(csv) != 0 || cut) && status == OK)
        status = error_set(error, FAILED, "%s could not be written whole", settings->train.csv);
    history_close(history);
    free(changes);
    train_record_deinit(&record);
    topology_destroy(topology);
    return status;
}

/* What the run would ignore. */
static enum status refuse_idle(const struct options *options, const struct sim_settings *settings,
                               struct error *error) {
    static const char *const of_federations[] = {"sync",
                                                 "outer-learning-rate",
                                                 "mode",
                                                 "codec",
                                                 "inner-steps",
                                                 "period",
                                                 "error-feedback",
                                                 "drop",
                                                 "duplicate",
                                                 "average",
                                                 "follow-interval",
                                                 "rule",
                                                 "hostile"};
    bool alone = settings->train.one_cluster;
    TRY(options_refuse_idle(options, "preset", settings->train.manifest != NULL,
                            "beside --manifest, which says the model's shape", error));
    for (size_t i = 0; i < sizeof of_federations / sizeof of_federations[0]; i++)
        TRY(options_refuse_idle(options, of_federations[i], alone,
                                "beside --one-cluster, which merges nothing", error));
    TRY(options_refuse_idle(options, "follow-interval", settings->train.sync,
                            "beside --sync: nobody trains between two versions", error));
    TRY(options_refuse_idle(options, "hostile-sites", settings->train.hostile == 0,
                            "without --hostile", error));
    return options_refuse_idle(options, "hostile-from", settings->train.hostile == 0,
                               "without --hostile", error);
}

static int run(struct options *options, void *values) {
    struct error error = {0};
    const struct sim_settings *settings = values;
    if (refuse_idle(options, settings, &error) == OK && train(settings, &error) == OK) return 0;
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
