/* atollctl model ...: the model as files. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "coordinator/atollctl/atollctl.h"
#include "coordinator/directory.h"
#include "model/export.h"
#include "run/evaluations.h"
#include "run/run_model.h"

static enum status version_check(const char *text, struct error *error) {
    if (strcmp(text, "newest") == 0 || strcmp(text, "best") == 0) return OK;
    if (*text && text[strspn(text, "0123456789")] == 0 && strlen(text) < 19) return OK;
    return error_set(error, INVALID, "\"%.40s\" is not a version: write newest, best or a number",
                     text);
}

/* UINT64_MAX: the newest. */
static enum status version_of(const struct ctl_settings *settings, uint64_t *out,
                              struct error *error) {
    struct evaluations evaluations;
    *out = UINT64_MAX;
    if (strcmp(settings->version, "newest") == 0) return OK;
    if (strcmp(settings->version, "best") != 0) {
        *out = strtoull(settings->version, NULL, 10);
        return OK;
    }
    TRY(evaluations_read(settings->directory, &evaluations, error));
    if (evaluations.count == 0)
        return error_set(error, NOT_FOUND,
                         "no version was evaluated: start the coordinator with --heldout FILE, or "
                         "name a version");
    *out = evaluations.best.version;
    return OK;
}

static enum status restore(const struct ctl_settings *settings, uint64_t version,
                           struct directory *data, struct run_state **run,
                           struct model_state *model, struct replay_report *report,
                           struct error *error) {
    const struct directory_start start = {settings->directory, settings->source};
    struct directory_initial initial = directory_initial(&start);
    if (version == UINT64_MAX) return directory_restore(data, &initial, run, model, report, error);
    return directory_restore_version(data, &initial, version, run, model, report, error);
}

static int model_export(struct options *options, void *values) {
    const struct ctl_settings *settings = values;
    struct directory data = {0};
    struct run_state *run = NULL;
    struct model_state model = {0};
    struct replay_report report = {0};
    struct layout layout = {0};
    struct error error = {0};
    (void)options;
    enum status status = export_check(settings->output, &error); /* before the replay */
    if (status == OK) status = directory_open(settings->directory, true, NULL, NULL, &data, &error);
    if (status != OK) return report_failure(&error);
    uint64_t wanted = UINT64_MAX;
    status = version_of(settings, &wanted, &error);
    if (status == OK) status = restore(settings, wanted, &data, &run, &model, &report, &error);
    if (status == OK && report.lost_payload)
        status = error_set(
            &error, CORRUPT,
            "the payload of ledger entry %llu is damaged: a running coordinator gets it again",
            (unsigned long long)report.failed_entry);
    if (status == OK)
        status =
            directory_layout(settings->directory, run_state_manifest(run), &layout, NULL, &error);
    if (status == OK) {
        char *beside = file_join(settings->directory, DIRECTORY_CHECKPOINT),
             *frozen = file_join(beside, DIRECTORY_FROZEN);
        const struct export_options how = {.version = (int64_t)model.version,
                                           .byte_tokenizer =
                                               run_state_manifest(run)->tokenizer == TOKENIZER_BYTE,
                                           .beside = file_exists(beside) ? beside : NULL,
                                           .frozen = file_exists(frozen) ? frozen : NULL,
                                           .shard_size = settings->shard_size};
        status = export_model_as(settings->output, &layout, model.theta, &how, &error);
        free(frozen);
        free(beside);
    }
    uint64_t version = model.version;
    layout_deinit(&layout);
    model_state_deinit(&model);
    run_state_destroy(run);
    directory_close(&data);
    if (status != OK) return report_failure(&error);
    char detail[64];
    snprintf(detail, sizeof detail, "version %llu", (unsigned long long)version);
    print_done(settings, "exported", detail);
    return EXIT_DONE;
}

static const struct setting export_options[] = {
    {.name = "dir",
     .kind = SETTING_PATH,
     SETTING_FIELD(struct ctl_settings, directory),
     .value_name = "DIR",
     .flags = OPTION_REQUIRED | OPTION_FLAG_ONLY,
     .help = "the run's data directory; the coordinator may be running on it"},
    {.name = "output",
     .kind = SETTING_PATH,
     SETTING_FIELD(struct ctl_settings, output),
     .value_name = "DIR",
     .flags = OPTION_REQUIRED | OPTION_FLAG_ONLY,
     .help = "where model.safetensors, config.json and the tokenizer go"},
    {.name = "at",
     .kind = SETTING_TEXT,
     SETTING_FIELD(struct ctl_settings, version),
     .fallback = "newest",
     .value_name = "VERSION",
     .check = version_check,
     .flags = OPTION_FLAG_ONLY,
     .help = "newest; best, by the held-out losses that the coordinator measured (--heldout); or a "
             "number. Older ones are replayed"},
    {.name = "shard-size",
     .kind = SETTING_SIZE,
     SETTING_FIELD(struct ctl_settings, shard_size),
     .fallback = "5GiB",
     .min = "1B",
     .flags = OPTION_FLAG_ONLY,
     .help = "a model larger than this is written as several files and an index"},
    {.name = "from",
     .kind = SETTING_PATH,
     SETTING_FIELD(struct ctl_settings, source),
     .value_name = "PATH",
     .flags = OPTION_FLAG_ONLY,
     .help = "what the run began from; only asked for where no snapshot can be read"},
    {0}};
static const struct command export_command = {
    .name = "export",
    .summary = "write a version as transformers reads it",
    .options = export_options,
    .run = model_export,
    .examples = "atollctl model export --dir /srv/atoll/demo --output ./model"};
static const struct command *const verbs[] = {&export_command, NULL};
const struct command model_command = {
    .name = "model", .summary = "the model as files", .children = verbs};
