/* The subcommands of atoll-node (node/verbs.h); each returns the process's exit code. */
#include "node/verbs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/memory.h"
#include "model/export.h"
#include "model/generate.h"
#include "model/trainer.h"
#include "node/daemon.h"
#include "node/join.h"
#include "node/journal_files.h"
#include "node/restore_model.h"
#include "node/status.h"
#include "run/run_model.h"
#include "run/run_start.h"

enum { STATUS_LIMIT = 256 * 1024 };

static int failed(const char *doing, enum status status, const struct error *error) {
    fprintf(stderr, "atoll-node: %s: %s\n", doing, error->message);
    return status == REFUSED || status == CORRUPT ? EXIT_HALTED : EXIT_FAILED;
}

/* A site that a supervisor keeps running: what is wrong with its directory or its data a restart
 * would only meet again. */
static int failed_to_run(const char *doing, enum status status, const struct error *error) {
    int code = failed(doing, status, error);
    return status == INVALID ? EXIT_HALTED : code;
}

static int misused(const char *doing, const struct error *error) {
    fprintf(stderr, "atoll-node: %s: %s\n", doing, error->message);
    return EXIT_USAGE;
}

/* ---- join, run ------------------------------------------------------------------------------- */

/* What is written while it runs, looked at before: the first line that says so would come an hour
 * later. */
static enum status check_outputs(const struct settings *settings, struct error *error) {
    enum status status =
        settings->metrics_file ? file_check_output(settings->metrics_file, error) : OK;
    if (status != OK) return error_wrap(error, status, "metrics-file");
    status = settings->export_directory ? export_check(settings->export_directory, error) : OK;
    return status == OK ? OK : error_wrap(error, status, "export");
}

static int run_site(struct settings *settings) {
    struct error error = {0};
    struct site site = {0};
    enum daemon_end end;
    uint64_t descriptors;
    enum status status = check_outputs(settings, &error);
    if (status == OK) status = site_load(settings->directory, &site, &error);
    if (status != OK) return failed_to_run("start", status, &error);
    char context[RUN_NAME_SIZE + SITE_NAME_SIZE + 16];
    snprintf(context, sizeof context, "run=%s site=%s", site.manifest.name, site.name);
    log_set_context(context);
    if (limits_raise_descriptors(&descriptors, &error) != OK)
        log_warn("descriptor_limit", "message=\"%s\"", error.message);
    status = daemon_run(settings, &site, &end, &error);
    site_deinit(&site);
    if (status != OK) return failed_to_run("run", status, &error);
    if (end != DAEMON_HALTED) return EXIT_DONE;
    fprintf(stderr, "atoll-node: halted: %s\n", error.message);
    return EXIT_HALTED;
}

int verb_run(struct options *options, void *values) {
    (void)options;
    return run_site(values);
}

/* What the built-in trainer cannot train is a job's that attaches. */
static enum status check_trainer(const struct settings *settings, const struct layout *layout,
                                 bool observes, struct error *error) {
    if (observes)
        return run_model_check_built_in(layout, "an observer, which evaluates with it, cannot join",
                                        error);
    if (settings->attach) return OK;
    return run_model_check_built_in(
        layout, "start the node with --attach, and a job of yours trains (docs/trainers.md)",
        error);
}

/* The local copy of what the run starts from. */
static enum status check_from(const struct settings *settings, const struct manifest *manifest,
                              const struct layout *layout, struct error *error) {
    void *theta = NULL;
    if (!settings->from) return OK;
    TRY(memory_try(layout->count, sizeof(float), &theta, error));
    enum status status = run_model_initialise(manifest, layout, settings->from, theta, error);
    free(theta);
    if (status == OK) return OK;
    if (status == CORRUPT && error) error->status = INVALID; /* a file of the user's */
    return error_wrap(error, status == CORRUPT ? INVALID : status, "--from");
}

static enum status check_data(const struct settings *settings, const struct manifest *manifest,
                              bool observes, struct error *error) {
    struct data *data = NULL;
    struct run_model_files files = settings_files(settings);
    if (settings->data.count == 0) return OK;
    char *seen = file_join(settings->directory, "data.seen");
    files.seen = seen;
    files.heldout_only = observes;
    enum status status = run_model_data(manifest, &files, &data, error);
    data_close(data);
    free(seen);
    return status;
}

static enum status check_first(void *context, const struct manifest *manifest, struct bytes text,
                               bool observes, struct error *error) {
    const struct settings *settings = context;
    struct layout layout = {0};
    TRY(settings_check_attach(settings, observes, error));
    TRY(run_model_layout(manifest, text, &layout, error));
    enum status status = check_trainer(settings, &layout, observes, error);
    if (status == OK) status = check_from(settings, manifest, &layout, error);
    if (status == OK && settings->base) status = run_base_check(manifest, settings->base, error);
    if (status == OK && layout.built_in) status = check_data(settings, manifest, observes, error);
    layout_deinit(&layout);
    return status;
}

/* A site that has joined before keeps its settings where those that it is told now would not do. */
static enum status check_again(struct settings *settings, struct error *error) {
    struct site site = {0};
    enum status status = site_load(settings->directory, &site, error);
    if (status == OK) {
        status =
            check_first(settings, &site.manifest, buffer_bytes(&site.layout), site.observes, error);
        if (status != OK)
            error_wrap(error, status, "%s has joined before, and its settings stay as they were",
                       settings->directory);
    }
    site_deinit(&site);
    return status;
}

int verb_join(struct options *options, void *values) {
    struct settings *settings = values;
    struct error error = {0};
    bool already = false;
    struct join_setup setup = {.address = settings->join_address,
                               .proxy = settings->proxy,
                               .directory = settings->directory,
                               .check = check_first,
                               .context = settings};
    bool other = settings->address && strcmp(settings->address, settings->join_address) != 0;
    char *token = NULL;
    if (settings_take_token(settings, environ, &token, &error) != OK)
        return misused("join", &error);
    setup.token = token;
    enum status status =
        options_refuse_idle(options, "address", other, "beside the address that is joined", &error);
    if (status == OK) status = check_outputs(settings, &error);
    if (status == OK) status = settings_check_saved(options, settings, &error);
    if (status == OK) status = join_run(&setup, &already, &error);
    free_clearing(token, strlen(token));
    if (status == OK && already) status = check_again(settings, &error);
    if (status == OK) status = settings_save(options, settings, &error);
    if (status != OK) return failed("join", status, &error);
    if (already)
        log_info("joined_before", "dir=\"%s\" message=\"the token was not used\"",
                 settings->directory);
    if (!settings->run_after) return EXIT_DONE;
    /* also where node.yaml had another: that has just been replaced */
    settings->address = settings->join_address;
    return run_site(settings);
}

/* UNAVAILABLE says why not: what it waits for, or what its status says of a site that is not at
 * work. */
static enum status check_ready(struct bytes told, struct error *error) {
    struct json *json = NULL;
    bool ready = false, linked = false;
    const char *message = "the coordinator is not reached";
    TRY(json_parse(told, NULL, &json, error));
    const struct json_value *root = json_root(json), *troubles = json_object_get(root, "troubles");
    (void)!json_get_bool(root, "ready", &ready, NULL);
    (void)!json_get_bool(root, "linked", &linked, NULL);
    (void)!json_get_text(root, "message", &message, NULL);
    if (linked && troubles && troubles->type == JSON_ARRAY && troubles->count > 0)
        (void)!json_get_text(&troubles->items[0], "message", &message, NULL);
    enum status status = ready && linked
                             ? OK
                             : error_set(error, UNAVAILABLE, "not ready: %s",
                                         message ? message : "the coordinator is not reached");
    json_close(json);
    return status;
}

int verb_status(struct options *options, void *values) {
    static const char *const used[] = {"dir", "ready", NULL};
    const struct settings *settings = values;
    struct error error = {0};
    if (settings_check_used(options, used, &error) != OK) return misused("status", &error);
    struct buffer text = {0}, told = {0};
    char *path = file_join(settings->directory, "status.json");
    enum status status = file_read(path, STATUS_LIMIT, &text, &error);
    if (status == OK) {
        status = status_as_of(buffer_bytes(&text), settings->directory, clock_wall_ms(),
                              status_is_at_work, &told, &error);
        if (status != OK) (void)error_wrap(&error, status, "%s", path);
    }
    free(path);
    if (status == OK) fwrite(told.data, 1, told.size, stdout);
    if (status == OK && settings->ready) status = check_ready(buffer_bytes(&told), &error);
    buffer_deinit(&told);
    buffer_deinit(&text);
    return status == OK ? EXIT_DONE : failed("status", status, &error);
}

/* ---- the run's newest model, from what is in the directory ----------------------------------- */

struct model {
    struct site site;
    struct layout layout;
    struct journal *journal;
    struct replica replica;
};

static void model_close(struct model *model) {
    replica_deinit(&model->replica);
    journal_close(model->journal);
    layout_deinit(&model->layout);
    site_deinit(&model->site);
}

/* Whether the checkpoint that was read is no longer the newest. */
static bool has_moved(const struct settings *settings, const struct model *model) {
    struct journal *now = NULL;
    if (journal_open_reading(settings->directory, model->site.manifest.fragments, &now, NULL) != OK)
        return true;
    const struct journal_checkpoint *before = journal_checkpoint(model->journal),
                                    *newest = journal_checkpoint(now);
    bool moved = (before != NULL) != (newest != NULL) ||
                 (before && memcmp(before->global.digest, newest->global.digest,
                                   sizeof before->global.digest) != 0) ||
                 (before && before->trainer_steps != newest->trainer_steps) ||
                 journal_size(model->journal) != journal_size(now);
    journal_close(now);
    return moved;
}

static enum status model_open_once(const struct settings *settings, struct model *out, bool *moved,
                                   struct error *error) {
    struct model model = {0};
    struct restored restored;
    enum status status = site_load_reading(settings->directory, &model.site, error);
    const struct manifest *manifest = &model.site.manifest;
    if (status == OK)
        status = run_model_layout(manifest, buffer_bytes(&model.site.layout), &model.layout, error);
    if (status == OK)
        status =
            journal_open_reading(settings->directory, manifest->fragments, &model.journal, error);
    if (status == OK) status = replica_init(&model.replica, manifest, model.layout.count, error);
    struct restore_model what = {
        .manifest = manifest, .layout = &model.layout, .initial = settings->from};
    struct restore_input input = {
        .journal = model.journal, .replica = &model.replica, .port = restore_model_port(&what)};
    *moved = false;
    if (status == OK) {
        status = restore_site(&input, &restored, error);
        *moved = status != OK && has_moved(settings, &model);
    }
    if (status == OK)
        *out = model;
    else
        model_close(&model);
    return status;
}

/* The node may be running: what a checkpoint names goes once the next one is there. A reader that
 * was overtaken looks again. */
static enum status model_open(const struct settings *settings, struct model *out,
                              struct error *error) {
    enum { TRIES = 20 };
    bool moved = true;
    enum status status = OK;
    for (int i = 0; moved && i < TRIES; i++) status = model_open_once(settings, out, &moved, error);
    return status == OK || !moved
               ? status
               : error_wrap(error, UNAVAILABLE,
                            "the node makes checkpoints faster than they are read");
}

static enum status evaluate(const struct settings *settings, struct model *model, double *nats,
                            struct error *error) {
    struct data *data = NULL;
    struct trainer *trainer = NULL;
    struct run_model_files files = settings_files(settings);
    char *seen = site_path(&model->site, "data.seen");
    files.heldout_only = true;
    files.seen = seen;
    struct run_model_local local = {.sequences = (uint32_t)settings->sequences,
                                    .threads = (uint32_t)settings->threads};
    enum status status = run_model_data(&model->site.manifest, &files, &data, error);
    if (status == OK) status = run_model_trainer(&model->site.manifest, &local, &trainer, error);
    if (status == OK) {
        memcpy(trainer_parameters_to_change(trainer), model->replica.global.theta,
               (size_t)model->layout.count * sizeof(float));
        status = trainer_evaluate(trainer, data, settings->windows, nats, error);
    }
    trainer_destroy(trainer);
    data_close(data);
    free(seen);
    return status;
}

int verb_eval(struct options *options, void *values) {
    static const char *const used[] = {
        "dir", "data", "data-format", "heldout", "threads", "batch.sequences", "from", NULL};
    const struct settings *settings = values;
    struct error error = {0};
    if (settings_check_used(options, used, &error) != OK) return misused("eval", &error);
    struct model model = {0};
    double nats = 0;
    enum status status = model_open(settings, &model, &error);
    if (status == OK)
        status =
            run_model_check_built_in(&model.layout, "export it, and evaluate the export", &error);
    if (status == OK) status = evaluate(settings, &model, &nats, &error);
    if (status == OK)
        printf("version %llu loss %.6f\n", (unsigned long long)model.replica.global.version, nats);
    model_close(&model);
    return status == OK ? EXIT_DONE : failed("eval", status, &error);
}

static enum status write_text(const struct settings *settings, const struct model *model,
                              struct error *error) {
    const struct manifest *manifest = &model->site.manifest;
    if (manifest->tokenizer != TOKENIZER_BYTE)
        return error_set(error, INVALID,
                         "this run's tokens are not bytes: export the model and use its tokenizer");
    size_t prompt_size = settings->prompt ? strlen(settings->prompt) : 0;
    if (prompt_size == 0) return error_set(error, INVALID, "the prompt is empty");
    if (prompt_size >= manifest->model.context)
        return error_set(error, INVALID, "the prompt has %zu tokens; the model's context is %u",
                         prompt_size, manifest->model.context);
    /* as much as the context holds */
    uint64_t count = MIN(settings->count, manifest->model.context - prompt_size);
    uint32_t *tokens = xcalloc(prompt_size + (size_t)count, sizeof *tokens);
    for (size_t i = 0; i < prompt_size; i++) tokens[i] = (uint8_t)settings->prompt[i];
    struct generate_options how = {.temperature = (float)settings->temperature,
                                   .top_k = (uint32_t)settings->top_k,
                                   .top_p = (float)settings->top_p,
                                   .seed = settings->seed};
    uint32_t *out = tokens + prompt_size;
    enum status status = generate(&model->layout, model->replica.global.theta, &how, tokens,
                                  (uint32_t)prompt_size, out, (uint32_t)count, error);
    if (status == OK) {
        fputs(settings->prompt, stdout);
        for (uint64_t i = 0; i < count; i++) putchar(out[i] < 256 ? (int)out[i] : '?');
        putchar('\n');
    }
    free(tokens);
    return status;
}

int verb_generate(struct options *options, void *values) {
    static const char *const used[] = {"dir", "from", NULL};
    const struct settings *settings = values;
    struct error error = {0};
    if (settings_check_used(options, used, &error) != OK) return misused("generate", &error);
    struct model model = {0};
    enum status status = model_open(settings, &model, &error);
    if (status == OK)
        status = run_model_check_built_in(&model.layout, "export it, and use transformers", &error);
    if (status == OK) status = write_text(settings, &model, &error);
    model_close(&model);
    return status == OK ? EXIT_DONE : failed("generate", status, &error);
}

int verb_export(struct options *options, void *values) {
    static const char *const used[] = {"dir", "export", "from", NULL};
    const struct settings *settings = values;
    struct error error = {0};
    if (settings_check_used(options, used, &error) != OK) return misused("export", &error);
    struct model model = {0};
    enum status status =
        settings->export_directory ? export_check(settings->export_directory, &error) : OK;
    if (status == OK) status = model_open(settings, &model, &error);
    if (status == OK) {
        char *path = settings->export_directory ? xstrdup(settings->export_directory)
                                                : site_path(&model.site, "export");
        const struct model_state *global = &model.replica.global;
        const struct export_options how = {.version = (int64_t)global->version,
                                           .byte_tokenizer =
                                               model.site.manifest.tokenizer == TOKENIZER_BYTE,
                                           .beside = settings->from,
                                           .frozen = settings->from};
        status = export_model_as(path, &model.layout, global->theta, &how, &error);
        if (status == OK) printf("%s version %llu\n", path, (unsigned long long)global->version);
        free(path);
    }
    model_close(&model);
    return status == OK ? EXIT_DONE : failed("export", status, &error);
}

/* What the site would train on: its files, or what a job that attaches has. */
static enum status validate_training(const struct settings *settings, const struct site *site,
                                     const struct layout *layout, struct error *error) {
    struct data *data = NULL;
    TRY(check_trainer(settings, layout, site->observes, error));
    TRY(check_from(settings, &site->manifest, layout, error));
    if (settings->base) TRY(run_base_check(&site->manifest, settings->base, error));
    if (settings->attach) {
        printf("%llu parameters in %u tensors, trained by a job that attaches\n",
               (unsigned long long)layout->count, layout->tensor_count);
        return OK;
    }
    struct run_model_files files = settings_files(settings);
    if (files.count == 0)
        return error_set(error, INVALID,
                         "no training data: give --data FILE, or `data:` in node.yaml");
    char *seen = site_path(site, "data.seen");
    files.seen = seen;
    files.read_shards = true;
    enum status status = run_model_data(&site->manifest, &files, &data, error);
    free(seen);
    if (status == OK)
        printf("%llu parameters, %llu tokens to train on, %llu held out\n",
               (unsigned long long)layout->count, (unsigned long long)data_training_tokens(data),
               (unsigned long long)data_heldout_tokens(data));
    data_close(data);
    return status;
}

int verb_validate(struct options *options, void *values) {
    (void)options;
    const struct settings *settings = values;
    struct error error = {0};
    struct site site = {0};
    struct layout layout = {0};
    enum status status = site_load(settings->directory, &site, &error);
    if (status == OK) status = check_outputs(settings, &error);
    if (status == OK)
        status = run_model_layout(&site.manifest, buffer_bytes(&site.layout), &layout, &error);
    if (status == OK && !settings->address)
        status = error_set(&error, INVALID, "no coordinator's address");
    if (status == OK) {
        printf("run %s, site %s (number %u), coordinator %s\n", site.manifest.name, site.name,
               site.number, settings->address);
        status = validate_training(settings, &site, &layout, &error);
    }
    layout_deinit(&layout);
    site_deinit(&site);
    return status == OK ? EXIT_DONE : failed("validate", status, &error);
}
