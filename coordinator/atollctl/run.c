/* atollctl run ...: a run's life. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/streams.h"
#include "coordinator/atollctl/atollctl.h"
#include "coordinator/directory.h"
#include "fed/receipt.h"
#include "run/run_model.h"

/* ---- create and example ---------------------------------------------------------------------- */

static enum status read_manifest(const char *path, struct manifest *out, struct buffer *text,
                                 struct error *error) {
    enum status status = file_read(path, MANIFEST_LIMIT, text, error);
    if (status == OK) status = manifest_parse(buffer_bytes(text), out, error);
    if (status != OK) error_wrap(error, status, "manifest %s", path);
    return status;
}

static void print_warnings(const struct buffer *warnings) {
    const char *line = (const char *)warnings->data, *end = line + warnings->size;
    while (line < end) {
        const char *next = memchr(line, '\n', (size_t)(end - line));
        fprintf(stderr, "atollctl: warning: %.*s\n", (int)(next - line), line);
        line = next + 1;
    }
}

static void print_created(const struct ctl_settings *settings, const struct manifest *manifest,
                          const struct directory_needs *needs) {
    char count[HUMAN_SIZE], model[HUMAN_SIZE], memory[HUMAN_SIZE], disk[HUMAN_SIZE],
        snapshot[HUMAN_SIZE];
    if (settings->format == FORMAT_TEXT) {
        printf("run \"%s\" %s in %s: %s parameters, the coordinator will take %s for the model (%s "
               "are free here)\n",
               manifest->name, settings->dry_run ? "would be made" : "made", settings->directory,
               human_count((double)needs->parameters, count),
               human_bytes(needs->model_memory, model), human_bytes(needs->memory_free, memory));
        printf("disk: %s a snapshot, of which 3 are kept unless atoll-coordinator is told "
               "otherwise, and every payload; %s are "
               "free\n",
               human_bytes(needs->snapshot_size, snapshot), human_bytes(needs->disk_free, disk));
        if (!settings->dry_run)
            printf("next: atoll-coordinator --dir %s --listen 0.0.0.0:7400\n", settings->directory);
        return;
    }
    struct buffer out = {0};
    struct json_writer writer = json_writer_of(&out, true);
    json_begin_object(&writer);
    json_key(&writer, "run");
    json_text(&writer, manifest->name);
    json_key(&writer, "directory");
    json_text(&writer, settings->directory);
    json_key(&writer, "parameters");
    json_u64(&writer, needs->parameters);
    json_key(&writer, "memory_bytes");
    json_u64(&writer, needs->model_memory);
    json_key(&writer, "memory_free_bytes");
    json_u64(&writer, needs->memory_free);
    json_key(&writer, "snapshot_bytes");
    json_u64(&writer, needs->snapshot_size);
    json_key(&writer, "disk_free_bytes");
    json_u64(&writer, needs->disk_free);
    json_key(&writer, "created");
    json_bool(&writer, !settings->dry_run);
    json_end_object(&writer);
    print_buffer(&out);
    buffer_deinit(&out);
}

static int run_create(struct options *options, void *values) {
    const struct ctl_settings *settings = values;
    struct manifest manifest;
    struct directory_needs needs;
    struct error error = {0};
    (void)options;
    struct buffer text = {0};
    enum status status = read_manifest(settings->manifest, &manifest, &text, &error);
    const struct run_source source = {settings->source, settings->layout, settings->base,
                                      buffer_bytes(&text)};
    if (status == OK)
        status =
            settings->dry_run
                ? directory_create_check(settings->directory, &manifest, &source, &needs, &error)
                : directory_create(settings->directory, &manifest, &source, &needs, &error);
    else
        manifest_defaults(&manifest);
    buffer_deinit(&text);
    struct buffer warnings = {0};
    manifest_warnings(&manifest, &warnings);
    if (warnings.size > 0) print_warnings(&warnings);
    buffer_deinit(&warnings);
    if (status != OK) return report_failure(&error);
    print_created(settings, &manifest, &needs);
    return EXIT_DONE;
}

static int run_example(struct options *options, void *values) {
    struct buffer out = {0};
    (void)options, (void)values;
    manifest_explain(&out);
    print_buffer(&out);
    buffer_deinit(&out);
    return EXIT_DONE;
}

/* ---- status ---------------------------------------------------------------------------------- */

static const char *phase_name(uint32_t phase) {
    static const char *const names[] = {"active", "paused", "stopped"};
    return phase < COUNT_OF(names) ? names[phase] : "unknown";
}

static const char *weights_name(uint32_t weights) {
    static const char *const names[] = {"equal", "tokens", "shares"};
    return weights < COUNT_OF(names) ? names[weights] : "unknown";
}

static void heldout_json(const struct run_status *run, struct json_writer *writer) {
    json_key(writer, "heldout");
    if (run->has_heldout) {
        json_begin_object(writer);
        json_put_u64(writer, "version", run->heldout_version);
        json_put_f64(writer, "loss", run->heldout);
        json_put_u64(writer, "best_version", run->best_version);
        json_put_f64(writer, "best_loss", run->best_heldout);
        json_put_bool(writer, "rises", run->heldout_rises);
        json_end_object(writer);
    } else {
        json_null(writer);
    }
}

static void status_json(const struct run_status *run, struct json_writer *writer) {
    char hex[HEX32_SIZE];
    json_key(writer, "run_id");
    json_text(writer, hex_encode(run->run_id, WIRE_RUN_ID_SIZE, hex));
    json_key(writer, "name");
    json_text(writer, run->name);
    json_key(writer, "phase");
    json_text(writer, phase_name(run->phase));
    json_key(writer, "reason");
    json_text(writer, run->reason);
    json_key(writer, "ready");
    json_bool(writer, !*run->waits);
    json_key(writer, "waits");
    json_text(writer, run->waits);
    json_key(writer, "clock_ahead_ms");
    json_i64(writer, run->clock_ahead_ms);
    json_key(writer, "version");
    json_u64(writer, run->version);
    json_key(writer, "ledger_size");
    json_u64(writer, run->ledger_size);
    json_key(writer, "state_root");
    json_text(writer, hex_encode(run->root, WIRE_DIGEST_SIZE, hex));
    json_key(writer, "state_root_version");
    json_u64(writer, run->root_version);
    json_key(writer, "parameters");
    json_u64(writer, run->parameters);
    json_key(writer, "tokens");
    json_u64(writer, run->tokens);
    json_key(writer, "token_budget");
    json_u64(writer, run->token_budget);
    json_key(writer, "inner_steps");
    json_u64(writer, run->inner_steps);
    json_key(writer, "weights");
    json_text(writer, weights_name(run->weights));
    heldout_json(run, writer);
    json_key(writer, "accepted");
    json_u64(writer, run->accepted);
    json_key(writer, "pending");
    json_u64(writer, run->pending);
    json_key(writer, "sites_active");
    json_u64(writer, run->sites_active);
    json_key(writer, "sites_connected");
    json_u64(writer, run->sites_connected);
    json_key(writer, "sites_present");
    json_u64(writer, run->sites_present);
    json_key(writer, "sites_twice");
    json_u64(writer, run->sites_twice);
    json_key(writer, "uptime_ms");
    json_u64(writer, run->uptime_ms);
    json_key(writer, "bytes_in");
    json_u64(writer, run->bytes_in);
    json_key(writer, "bytes_out");
    json_u64(writer, run->bytes_out);
    json_key(writer, "refused");
    json_begin_object(writer);
    for (unsigned code = 1; code < REFUSAL_COUNT; code++) {
        if (run->refused[code] == 0) continue;
        json_key(writer, refusal_name(code));
        json_u64(writer, run->refused[code]);
    }
    json_end_object(writer);
}

static void status_text(const struct run_status *run) {
    char hex[HEX32_SIZE], up[HUMAN_SIZE], tokens[HUMAN_SIZE], in[HUMAN_SIZE], out[HUMAN_SIZE];
    printf("run        %s (%s)%s%s\n", run->name, phase_name(run->phase), *run->reason ? ": " : "",
           run->reason);
    if (*run->waits) printf("WAITS      %s\n", run->waits);
    printf("version    %llu, ledger of %llu entries, H %u\n", (unsigned long long)run->version,
           (unsigned long long)run->ledger_size, run->inner_steps);
    printf("root       %.16s... at version %llu\n", hex_encode(run->root, WIRE_DIGEST_SIZE, hex),
           (unsigned long long)run->root_version);
    printf("sites      %u connected of %u; %u count as present\n", run->sites_connected,
           run->sites_active, run->sites_present);
    if (run->has_heldout)
        printf("held-out   %.4f at version %llu%s, best %.4f at version %llu\n", run->heldout,
               (unsigned long long)run->heldout_version, run->heldout_rises ? " (RISES)" : "",
               run->best_heldout, (unsigned long long)run->best_version);
    if (run->weights != 0)
        printf("weights    by %s: see `site list`\n", weights_name(run->weights));
    if (run->sites_twice)
        printf("copies     %u site%s ran twice (or came back from an older backup), and one "
               "process was cut: see `site list`\n",
               run->sites_twice, run->sites_twice > 1 ? "s" : "");
    printf("accepted   %llu, %u pending; refused:", (unsigned long long)run->accepted,
           run->pending);
    bool any = false;
    for (unsigned code = 1; code < REFUSAL_COUNT; code++) {
        if (run->refused[code])
            printf(" %s %llu", refusal_name(code), (unsigned long long)run->refused[code]);
        any |= run->refused[code] != 0;
    }
    printf("%s\n", any ? "" : " none");
    printf("tokens     %s\n", human_count((double)run->tokens, tokens));
    printf("traffic    %s in, %s out in %s\n", human_bytes(run->bytes_in, in),
           human_bytes(run->bytes_out, out), human_duration(run->uptime_ms, up));
}

static enum status show_status(const struct ctl_settings *settings, struct error *error) {
    struct admin_request request = {.verb = ADMIN_STATUS};
    struct admin_reply reply;
    struct arena arena = {0};
    enum status status = client_ask(settings, &request, &arena, &reply, error);
    if (status == OK && settings->format == FORMAT_TEXT) {
        status_text(&reply.run);
    } else if (status == OK) {
        struct buffer out = {0};
        struct json_writer writer = json_writer_of(&out, true);
        json_begin_object(&writer);
        status_json(&reply.run, &writer);
        json_end_object(&writer);
        print_buffer(&out);
        buffer_deinit(&out);
    }
    if (status == OK && settings->ready && *reply.run.waits)
        status = error_set(error, UNAVAILABLE, "not ready: %s", reply.run.waits);
    arena_deinit(&arena);
    return status;
}

static int run_status_command(struct options *options, void *values) {
    const struct ctl_settings *settings = values;
    struct error error = {0};
    (void)options;
    for (;;) {
        if (show_status(settings, &error) != OK) return report_failure(&error);
        if (settings->watch_ms == 0) return EXIT_DONE;
        /* the reader has gone away, or the disk is full */
        if (streams_broken()) return EXIT_FAILED;
        clock_sleep_ms(settings->watch_ms);
        if (isatty(STDOUT_FILENO)) printf("\033[H\033[J");
    }
}

/* ---- orders ---------------------------------------------------------------------------------- */

static int order(const struct ctl_settings *settings, enum admin_verb verb, const char *done) {
    struct admin_request request = {.verb = verb,
                                    .reason = settings->reason ? settings->reason : "",
                                    .value = verb == ADMIN_RESUME ? settings->token_budget : 0};
    const char *reason = settings->reason ? settings->reason : "";
    return client_order(settings, &request, done, verb == ADMIN_SNAPSHOT ? NULL : reason);
}

static int run_pause(struct options *options, void *values) {
    return (void)options, order(values, ADMIN_PAUSE, "paused");
}
static int run_resume(struct options *options, void *values) {
    return (void)options, order(values, ADMIN_RESUME, "resumed");
}
static int run_stop(struct options *options, void *values) {
    return (void)options, order(values, ADMIN_STOP, "stopped");
}
static int run_snapshot(struct options *options, void *values) {
    return (void)options, order(values, ADMIN_SNAPSHOT, "snapshot ordered");
}
static int run_set(struct options *options, void *values) {
    const struct ctl_settings *settings = values;
    struct admin_request request = {.verb = ADMIN_SET_RULE,
                                    .site_name = "",
                                    .reason = settings->reason ? settings->reason : "",
                                    .key = settings->key,
                                    .rule_value = settings->value};
    (void)options;
    return client_order(settings, &request, "rule set", settings->key);
}
static int run_rules(struct options *options, void *values) {
    const struct ctl_settings *settings = values;
    struct admin_request request = {.verb = ADMIN_RULES};
    struct admin_reply reply = {0};
    struct arena arena = {0};
    struct error error = {0};
    (void)options;
    enum status status = client_ask(settings, &request, &arena, &reply, &error);
    if (status == OK && settings->format == FORMAT_TEXT) {
        printf("%.*s", (int)reply.rules.size, (const char *)reply.rules.data);
    } else if (status == OK) {
        struct buffer out = {0};
        struct json_writer writer = json_writer_of(&out, true);
        json_begin_object(&writer);
        json_key(&writer, "rules");
        json_text_sized(&writer, (const char *)reply.rules.data, reply.rules.size);
        json_end_object(&writer);
        print_buffer(&out);
        buffer_deinit(&out);
    }
    arena_deinit(&arena);
    return status == OK ? EXIT_DONE : report_failure(&error);
}

/* ---- the tree -------------------------------------------------------------------------------- */

static const struct setting create_options[] = {
    {.name = "directory",
     .kind = SETTING_PATH,
     SETTING_FIELD(struct ctl_settings, directory),
     .value_name = "DIR",
     .flags = OPTION_REQUIRED | OPTION_POSITIONAL,
     .help = "where the run is to live; must not hold one yet"},
    {.name = "manifest",
     .kind = SETTING_PATH,
     SETTING_FIELD(struct ctl_settings, manifest),
     .value_name = "FILE",
     .flags = OPTION_REQUIRED | OPTION_FLAG_ONLY,
     .help = "the run's manifest; see `atollctl run example`"},
    {.name = "from",
     .kind = SETTING_PATH,
     SETTING_FIELD(struct ctl_settings, source),
     .value_name = "PATH",
     .flags = OPTION_FLAG_ONLY,
     .help = "the checkpoint to start from: a directory with config.json and model.safetensors or "
             "an index of several, an adapter's (LoRA), or one safetensors file. Its tensors are "
             "the run's; sizes that the manifest gives must be config.json's, and small files "
             "there come out of exports"},
    {.name = "layout",
     .kind = SETTING_PATH,
     SETTING_FIELD(struct ctl_settings, layout),
     .value_name = "FILE",
     .flags = OPTION_FLAG_ONLY,
     .help = "the list of the run's tensors, instead of all that --from has: order, types, what is "
             "trained and what is frozen; see docs/trainers.md"},
    {.name = "base",
     .kind = SETTING_PATH,
     SETTING_FIELD(struct ctl_settings, base),
     .value_name = "DIR",
     .flags = OPTION_FLAG_ONLY,
     .help = "with an adapter: the frozen model that it is for, which the manifest then names by "
             "digest"},
    {.name = "dry-run",
     .kind = SETTING_BOOL,
     SETTING_FIELD(struct ctl_settings, dry_run),
     .flags = OPTION_FLAG_ONLY,
     .help = "check everything and say what would be made"},
    {0}};
static const struct setting reason_options[] = {{.name = "reason",
                                                 .kind = SETTING_TEXT,
                                                 SETTING_FIELD(struct ctl_settings, reason),
                                                 .max = "127",
                                                 .flags = OPTION_FLAG_ONLY,
                                                 .help = "for the ledger and the sites' operators"},
                                                {0}};
static const struct setting resume_options[] = {
    {.name = "reason",
     .kind = SETTING_TEXT,
     SETTING_FIELD(struct ctl_settings, reason),
     .max = "127",
     .flags = OPTION_FLAG_ONLY,
     .help = "for the ledger and the sites' operators"},
    {.name = "token-budget",
     .kind = SETTING_COUNT,
     SETTING_FIELD(struct ctl_settings, token_budget),
     .max = "1152921504606846976",
     .flags = OPTION_FLAG_ONLY,
     .help = "a larger one, of all tokens of the run; 0: as it was"},
    {0}};
static const struct setting status_options[] = {
    {.name = "watch",
     .kind = SETTING_DURATION,
     SETTING_FIELD(struct ctl_settings, watch_ms),
     .flags = OPTION_FLAG_ONLY,
     .help = "show it again and again, this far apart"},
    {.name = "ready",
     .kind = SETTING_BOOL,
     SETTING_FIELD(struct ctl_settings, ready),
     .flags = OPTION_FLAG_ONLY,
     .help = "for health checks: exit 1, saying why, unless the coordinator answers and "
             "waits for nothing that somebody must mend (disk, lost payloads, clock)"},
    {0}};
static const struct setting set_options[] = {{.name = "key",
                                              .kind = SETTING_TEXT,
                                              SETTING_FIELD(struct ctl_settings, key),
                                              .min = "1",
                                              .max = "47",
                                              .flags = OPTION_REQUIRED | OPTION_POSITIONAL,
                                              .help = "of the manifest, merge.quorum for one"},
                                             {.name = "value",
                                              .kind = SETTING_TEXT,
                                              SETTING_FIELD(struct ctl_settings, value),
                                              .min = "1",
                                              .max = "79",
                                              .flags = OPTION_REQUIRED | OPTION_POSITIONAL,
                                              .help = "as the manifest writes it"},
                                             {.name = "reason",
                                              .kind = SETTING_TEXT,
                                              SETTING_FIELD(struct ctl_settings, reason),
                                              .flags = OPTION_REQUIRED,
                                              .help = "for the ledger, and who reads it later"},
                                             {0}};

static const struct command create_command = {
    .name = "create",
    .summary = "make a run: keys, certificates, ledger, version 0",
    .options = create_options,
    .run = run_create,
    .examples = "atollctl run create /srv/atoll/demo --manifest run.yaml\n"
                "atollctl run create /srv/atoll/demo --manifest run.yaml --from ./gpt2"};
static const struct command example_command = {
    .name = "example",
    .summary = "print a commented manifest with every key and its default",
    .run = run_example};
static const struct command status_command = {.name = "status",
                                              .summary = "where the run stands",
                                              .options = status_options,
                                              .run = run_status_command};
static const struct command pause_command = {
    .name = "pause",
    .summary = "take no contributions until resumed; sites stop training",
    .options = reason_options,
    .run = run_pause};
static const struct command resume_command = {.name = "resume",
                                              .summary = "go on after a pause",
                                              .options = resume_options,
                                              .run = run_resume};
static const struct command stop_command = {
    .name = "stop",
    .summary = "end the run for good: sites merge what is pending and exit",
    .options = reason_options,
    .run = run_stop};
static const struct command set_command = {
    .name = "set",
    .summary = "change a key of the manifest from here on",
    .options = set_options,
    .run = run_set,
    .examples = "atollctl run set merge.quorum 3 --reason 'two more sites'"};
static const struct command rules_command = {
    .name = "rules",
    .summary = "print the keys that can be changed, and what holds now",
    .run = run_rules};
static const struct command snapshot_command = {
    .name = "snapshot", .summary = "write a snapshot now", .run = run_snapshot};
static const struct command *const verbs[] = {
    &create_command, &example_command, &status_command, &pause_command,    &resume_command,
    &stop_command,   &set_command,     &rules_command,  &snapshot_command, NULL};
const struct command run_command = {
    .name = "run", .summary = "make, watch, pause and end a run", .children = verbs};
