/* A site's option table (node/settings.h), with every default; reading and writing node.yaml. */
#include "node/settings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/address.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "base/version.h"
#include "config/config.h"
#include "node/verbs.h"
#include "rpc/proxy.h"

enum { SETTINGS_FILE_LIMIT = 1 << 20, TOKEN_FILE_LIMIT = 16384 };

static const struct setting common[] = {
    {"dir", SETTING_PATH, SETTING_FIELD(struct settings, directory), .fallback = "atoll-site",
     .value_name = "DIR", .help = "the site's directory: key, certificate, ledger, checkpoints",
     .flags = 0},
    {"address", SETTING_TEXT, SETTING_FIELD(struct settings, address), .value_name = "HOST:PORT",
     .check = address_check_connect, .help = "the coordinator's address"},
    {"proxy", SETTING_TEXT, SETTING_FIELD(struct settings, proxy), .value_name = "URL",
     .check = rpc_proxy_check, .flags = SETTING_SECRET,
     .help = "forward proxy to the coordinator (HTTP CONNECT): http://[USER:PASSWORD@]HOST:PORT; "
             "none: without; unset: as "
             "grpc_proxy, https_proxy, http_proxy and no_proxy in the environment say"},
    {"data", SETTING_LIST, SETTING_FIELD(struct settings, data), .value_name = "FILE",
     .help = "training data: plain text (byte tokenizer), or shards of 16- or 32-bit tokens. May "
             "be repeated"},
    {"data-format", SETTING_CHOICE, SETTING_FIELD(struct settings, data_format), .fallback = "auto",
     .choices = data_format_names,
     .help = "what the data files are. auto: told from their content, and refused where they do "
             "not fit the run; to insist: bytes "
             "(each a token), llmc (tokens after llm.c's header), u16 or u32 (tokens without a "
             "header)"},
    {"heldout", SETTING_SHARE, SETTING_FIELD(struct settings, heldout), .fallback = "0.02",
     .min = "0", .max = "1",
     .help = "fraction of each file's end that is never trained on: an observer evaluates it, so "
             "100% there"},
    {"threads", SETTING_COUNT, SETTING_FIELD(struct settings, threads), .fallback = "0",
     .max = "4096", .help = "threads that train; 0: one per processor. Does not change results"},
    {"batch.sequences", SETTING_COUNT, SETTING_FIELD(struct settings, sequences), .fallback = "8",
     .min = "1", .max = "65536",
     .help = "sequences in a batch, each as long as the model's context"},
    {"batch.accumulation", SETTING_COUNT, SETTING_FIELD(struct settings, accumulation),
     .fallback = "1", .min = "1", .max = "65536", .help = "batches in an inner step"},
    {"overlap", SETTING_BOOL, SETTING_FIELD(struct settings, overlap), .fallback = "true",
     .help = "train on while a contribution is under way; off: wait for its merge (the synchronous "
             "reference)"},
    {"follow-interval", SETTING_COUNT, SETTING_FIELD(struct settings, follow_interval),
     .fallback = "1", .min = "1", .max = "4096",
     .help = "inner steps between two moves onto the other sites' newer versions, at least; each "
             "costs a pass over the model"},
    {"device", SETTING_CHOICE, SETTING_FIELD(struct settings, device), .fallback = "auto",
     .choices = device_choice_names,
     .help = "cuda: train (in bfloat16) and make contributions on a CUDA device "
             "(CUDA_VISIBLE_DEVICES is honoured), and do not "
             "start without one; auto: where there is one; cpu: never"},
    {"cuda-library", SETTING_PATH, SETTING_FIELD(struct settings, cuda_library),
     .value_name = "FILE", .flags = OPTION_HIDDEN,
     .help = "the CUDA backend; unset: atoll-kernels-cuda.so beside the program"},
    {"throttle", SETTING_NUMBER, SETTING_FIELD(struct settings, throttle), .fallback = "1",
     .min = "1", .max = "1000", .help = "play a slower device: steps take this many times as long"},
    {"pace", SETTING_DURATION, SETTING_FIELD(struct settings, pace_ms), .fallback = "0",
     .max = "1h",
     .help = "play a slower device: a step takes at least this long, however busy this machine is"},
    {"checkpoint-interval", SETTING_DURATION, SETTING_FIELD(struct settings, checkpoint_ms),
     .fallback = "5m", .min = "1s", .max = "7d",
     .help = "between checkpoints: what a crash may cost of inner progress"},
    {"upload.bandwidth", SETTING_RATE, SETTING_FIELD(struct settings, bandwidth), .fallback = "0",
     .help = "most that contributions may use, such as 20Mbit/s or 2MiB/s; 0: no cap"},
    {"connections", SETTING_COUNT, SETTING_FIELD(struct settings, connections), .fallback = "1",
     .min = "1", .max = "16", .help = "TCP connections to the coordinator, for long fat links"},
    {"heartbeat-interval", SETTING_DURATION, SETTING_FIELD(struct settings, heartbeat_ms),
     .fallback = "20s", .min = "100ms", .max = "1h", .help = "between reports to the coordinator"},
    {"retry.first", SETTING_DURATION, SETTING_FIELD(struct settings, backoff_ms), .fallback = "1s",
     .min = "10ms", .max = "10m",
     .help = "bound of the first random wait after a failure; doubles"},
    {"retry.limit", SETTING_DURATION, SETTING_FIELD(struct settings, backoff_limit_ms),
     .fallback = "60s", .min = "10ms", .max = "1h",
     .help = "largest bound of a random wait after a failure"},
    {"progress-timeout", SETTING_DURATION, SETTING_FIELD(struct settings, timeout_ms),
     .fallback = "60s", .min = "1s", .max = "1h",
     .help = "a transfer without progress for this long is ended, and resumed later"},
    {"export", SETTING_PATH, SETTING_FIELD(struct settings, export_directory), .value_name = "DIR",
     .help = "where the model goes when the run ends; unset: export/ in the site's directory"},
    {"from", SETTING_PATH, SETTING_FIELD(struct settings, from), .value_name = "PATH",
     .help = "a copy of the checkpoint that the run starts from, a safetensors file or a "
             "directory, which is checked by its state root; without it the model comes from the "
             "coordinator. What lies beside it (config.json, tokenizer) comes out of exports"},
    {"base", SETTING_PATH, SETTING_FIELD(struct settings, base), .value_name = "DIR",
     .help = "where the run trains an adapter: the frozen model that the jobs here load, which is "
             "checked at each start against the digest in the manifest"},
    {"attach", SETTING_BOOL, SETTING_FIELD(struct settings, attach), .fallback = "false",
     .help = "train with a job that attaches to this site (libatoll, python/atoll), not with the "
             "built-in trainer: see docs/trainers.md"},
    {"attach-socket", SETTING_PATH, SETTING_FIELD(struct settings, attach_socket),
     .value_name = "PATH",
     .help = "the Unix socket that trainers attach at; unset: attach.sock in the site's directory"},
    {"attach-timeout", SETTING_DURATION, SETTING_FIELD(struct settings, attach_timeout_ms),
     .fallback = "10s", .min = "1s", .max = "1h",
     .help = "how long the ranks of a job that attaches wait for the others"},
    {"trainer-listen", SETTING_TEXT, SETTING_FIELD(struct settings, trainer_listen),
     .value_name = "HOST:PORT", .check = address_check_listen,
     .help = "beside --attach: ranks on other hosts of this site come in here, by `atoll-node "
             "relay` on each; relay.token in the site's directory is what a relay needs. Unset: "
             "all ranks are on this host"},
    {"relay-wait", SETTING_DURATION, SETTING_FIELD(struct settings, relay_wait_ms),
     .fallback = "60s", .min = "1s", .max = "1h",
     .help = "with ranks on several hosts: how long a step may wait for the site's own network, "
             "after which the job has to be started again"},
    {"metrics-file", SETTING_PATH, SETTING_FIELD(struct settings, metrics_file),
     .value_name = "FILE",
     .help = "rewritten every second with Prometheus text, for a textfile collector"},
    {0}};

static const struct setting join_options[] = {
    {"coordinator", SETTING_TEXT, SETTING_FIELD(struct settings, join_address),
     .value_name = "HOST:PORT", .check = address_check_connect,
     .help = "the coordinator's address, from the invitation",
     .flags = OPTION_POSITIONAL | OPTION_REQUIRED},
    {"token", SETTING_TEXT, SETTING_FIELD(struct settings, token),
     .help = "the invitation's token, as `atollctl site invite` prints it",
     .flags = SETTING_SECRET | OPTION_NOT_FLAG},
    {"token-file", SETTING_TEXT, SETTING_FIELD(struct settings, token_file), .value_name = "FILE",
     .help =
         "read the invitation's token from this file, or from stdin (-), instead of ATOLL_TOKEN",
     .flags = OPTION_FLAG_ONLY},
    {"run", SETTING_BOOL, SETTING_FIELD(struct settings, run_after), .fallback = "true",
     .help = "start training once joined", .flags = OPTION_FLAG_ONLY},
    {0}};

static const struct setting eval_options[] = {
    {"windows", SETTING_COUNT, SETTING_FIELD(struct settings, windows), .fallback = "0",
     .help = "held-out windows at most, evenly spread; 0: all", .flags = OPTION_FLAG_ONLY},
    {0}};

static const struct setting generate_options[] = {
    {"prompt", SETTING_TEXT, SETTING_FIELD(struct settings, prompt), .fallback = "The ",
     .help = "text to continue, as bytes", .flags = OPTION_FLAG_ONLY},
    {"count", SETTING_COUNT, SETTING_FIELD(struct settings, count), .fallback = "200", .min = "1",
     .max = "1000000", .help = "tokens to write", .flags = OPTION_FLAG_ONLY},
    {"temperature", SETTING_NUMBER, SETTING_FIELD(struct settings, temperature), .fallback = "0.8",
     .min = "0", .max = "10", .help = "0: the most likely token", .flags = OPTION_FLAG_ONLY},
    {"top-k", SETTING_COUNT, SETTING_FIELD(struct settings, top_k), .fallback = "0", .max = "65536",
     .help = "0: no limit", .flags = OPTION_FLAG_ONLY},
    {"top-p", SETTING_NUMBER, SETTING_FIELD(struct settings, top_p), .fallback = "1",
     .min = "0.001", .max = "1", .help = "1: no limit", .flags = OPTION_FLAG_ONLY},
    {"seed", SETTING_COUNT, SETTING_FIELD(struct settings, seed), .fallback = "1",
     .help = "of the sampling", .flags = OPTION_FLAG_ONLY},
    {0}};

static const struct command join_command = {
    .name = "join",
    .summary = "takes an invitation, then trains",
    .description = "Makes a key in DIR, gets a certificate for it, stores what the run demands. "
                   "Repeating it is harmless.",
    .examples =
        "ATOLL_TOKEN=AQhl... atoll-node join coordinator.example:7400 --dir site --data text.txt\n"
        "atoll-node join coordinator.example:7400 --token-file token --dir site --data text.txt",
    .options = join_options,
    .run = verb_join};
static const struct setting run_options[] = {
    {"restored", SETTING_BOOL, SETTING_FIELD(struct settings, restored), .fallback = "false",
     .help = "this directory was restored from an older backup and no copy of it runs: go on "
             "although the ledger has "
             "contributions under this site's name that were not made here. Needed once",
     .flags = OPTION_FLAG_ONLY},
    {0}};
static const struct command run_command = {
    .name = "run",
    .options = run_options,
    .summary = "trains, for as long as the run lasts",
    .description =
        "Exit codes: 0 stopped or the run has ended, 1 a failure that a restart may heal, "
        "2 wrong usage, 3 halted: a person must look.",
    .run = verb_run};
static const struct command leave_command = {
    .name = "leave",
    .summary = "lets the site go in good order: nobody waits for it any more",
    .description =
        "Sends what is under way, has the ledger say that the site has left, and ends the daemon "
        "of DIR; "
        "where none runs, it starts one for that. `atoll-node run` brings the site back. Stop the "
        "site's supervisor too if it restarts what has ended.",
    .run = verb_leave};
static const struct setting relay_options[] = {
    {"to", SETTING_TEXT, SETTING_FIELD(struct settings, relay_to), .value_name = "HOST:PORT",
     .check = address_check_connect, .help = "the node's --trainer-listen",
     .flags = OPTION_FLAG_ONLY | OPTION_REQUIRED},
    {"token-file", SETTING_TEXT, SETTING_FIELD(struct settings, token_file), .value_name = "FILE",
     .help = "a copy of relay.token of the site's directory; - is stdin",
     .flags = OPTION_FLAG_ONLY | OPTION_REQUIRED},
    {0}};
static const struct command relay_command = {
    .name = "relay",
    .summary = "lets ranks of a training job on this host attach to a node on another one",
    .description =
        "Serves attach.sock and attach.token in DIR, a directory of this host that is not a "
        "site's, as the node does in the site's own: the job here has ATOLL_DIR=DIR. It connects "
        "again by itself, and ends with code 0 when the run is over.",
    .examples = "atoll-node relay --to node.example:7410 --token-file relay.token --dir "
                "/run/atoll-relay",
    .options = relay_options,
    .run = verb_relay};
static const struct setting status_options[] = {
    {"ready", SETTING_BOOL, SETTING_FIELD(struct settings, ready), .fallback = "false",
     .help =
         "exit with code 1 and the reason unless the site runs, is connected and needs no person",
     .flags = OPTION_FLAG_ONLY},
    {0}};
static const struct command status_command = {.name = "status",
                                              .summary = "prints DIR/status.json",
                                              .options = status_options,
                                              .run = verb_status};
static const struct command evaluate_command = {
    .name = "eval",
    .summary = "loss of the run's newest model on held-out data",
    .options = eval_options,
    .run = verb_eval};
static const struct command generate_command = {.name = "generate",
                                                .summary =
                                                    "generates text with the run's newest model",
                                                .options = generate_options,
                                                .run = verb_generate};
static const struct command export_command = {.name = "export",
                                              .summary =
                                                  "writes the run's newest model as safetensors",
                                              .run = verb_export};
static const struct command validate_command = {
    .name = "validate",
    .summary = "checks settings, directory and data, changes nothing",
    .run = verb_validate};

const struct command node_command = {
    .name = "atoll-node",
    .summary = "trains at a site, and exchanges what it learned",
    .options = common,
    .children =
        (const struct command *const[]){&join_command, &run_command, &leave_command, &relay_command,
                                        &status_command, &evaluate_command, &generate_command,
                                        &export_command, &validate_command, NULL},
    .version = atoll_version};

/* ---- reading --------------------------------------------------------------------------------- */

static const char *argument_of(int argc, char **argv, const char *flag) {
    size_t length = strlen(flag);
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], flag, length) != 0) continue;
        if (argv[i][length] == '=') return argv[i] + length + 1;
        if (argv[i][length] == 0 && i + 1 < argc) return argv[i + 1];
    }
    return NULL;
}

static const char *variable_of(char **environment, const char *name) {
    size_t length = strlen(name);
    for (char **at = environment; at && *at; at++) {
        if (strncmp(*at, name, length) == 0 && (*at)[length] == '=') return *at + length + 1;
    }
    return NULL;
}

/* The file is found by the directory, so the directory must be known before the file is read. */
int settings_read(struct options *options, int argc, char **argv, char **environment) {
    const char *directory = argument_of(argc, argv, "--dir");
    if (!directory) directory = variable_of(environment, "ATOLL_DIR");
    char *path = file_join(directory && *directory ? directory : "atoll-site", "node.yaml");
    char **arguments = xcalloc((size_t)argc + 3, sizeof *arguments);
    memcpy(arguments, argv, (size_t)argc * sizeof *arguments);
    char flag[] = "--config";
    bool named = argument_of(argc, argv, "--config") || variable_of(environment, "ATOLL_CONFIG");
    if (!named && file_exists(path)) {
        arguments[argc++] = flag;
        arguments[argc++] = path;
    }
    int code = options_start(options, &(struct options_setup){.argc = argc,
                                                              .argv = arguments,
                                                              .environment = environment,
                                                              .load_file = config_load});
    free(arguments);
    free(path);
    return code;
}

static void wipe_variable(char **environment, const char *name) {
    size_t size = strlen(name);
    for (char **entry = environment; entry && *entry; entry++)
        if (strncmp(*entry, name, size) == 0 && (*entry)[size] == '=')
            clear(*entry + size + 1, strlen(*entry + size + 1));
}

/* A token has a line of its own: what stands around it are blanks. */
enum status settings_read_token_file(const char *path, char **out, struct error *error) {
    bool is_stdin = strcmp(path, "-") == 0;
    struct buffer text = {0};
    enum status status = OK;
    if (is_stdin) { /* a pipe as a rule */
        uint8_t piece[TOKEN_FILE_LIMIT];
        buffer_append(&text, piece, fread(piece, 1, sizeof piece, stdin));
        buffer_u8(&text, 0);
        clear(piece, sizeof piece);
    } else {
        status = file_read(path, TOKEN_FILE_LIMIT, &text, error);
    }
    if (status == OK) {
        char *token = (char *)text.data;
        token += strspn(token, " \t\r\n");
        size_t size = strcspn(token, " \t\r\n");
        if (size == 0 || token[size + strspn(token + size, " \t\r\n")] != 0)
            status = error_set(error, INVALID, "there is %s where one token should be",
                               size == 0 ? "nothing" : "more than one word");
        if (status == OK) {
            *out = xmalloc(size + 1);
            memcpy(*out, token, size);
            (*out)[size] = 0;
        }
    }
    if (status != OK) error_wrap(error, status, "the token's file %s", is_stdin ? "(stdin)" : path);
    free_clearing(text.data, text.capacity);
    return status;
}

enum status settings_take_token(struct settings *settings, char **environment, char **out,
                                struct error *error) {
    if (settings->token && settings->token_file)
        return error_set(error, INVALID,
                         "ATOLL_TOKEN and --token-file both give a token, and only one would be "
                         "used: leave one out");
    if (settings->token_file) return settings_read_token_file(settings->token_file, out, error);
    if (!settings->token)
        return error_set(error, INVALID,
                         "no invitation: put its token into the environment as ATOLL_TOKEN, or "
                         "name a file with --token-file (- is stdin)");
    *out = xstrdup(settings->token);
    clear((char *)settings->token, strlen(settings->token));
    settings->token = NULL;
    wipe_variable(environment, "ATOLL_TOKEN");
    return OK;
}

static bool is_listed(const char *const *list, const char *name) {
    for (; *list; list++)
        if (strcmp(*list, name) == 0) return true;
    return false;
}

enum status settings_check_used(const struct options *options, const char *const *used,
                                struct error *error) {
    char why[64];
    snprintf(why, sizeof why, "on `atoll-node %s`", options_command(options)->name);
    for (const struct setting *option = common; option->name; option++)
        TRY(options_refuse_idle(options, option->name, !is_listed(used, option->name), why, error));
    return OK;
}

enum status settings_check_attach(const struct settings *settings, bool observes,
                                  struct error *error) {
    if (!settings->attach && settings->trainer_listen)
        return error_set(error, INVALID,
                         "--trainer-listen has no effect without --attach: give both, or neither");
    if (!settings->attach) return OK;
    if (observes)
        return error_set(error, INVALID,
                         "this site is an observer, and trains nothing: leave --attach out");
    if (!settings->overlap)
        return error_set(error, INVALID,
                         "overlap is off, and a trainer that attaches does not wait for merges: "
                         "leave one of them out");
    if (settings->data.count > 0)
        return error_set(error, INVALID,
                         "--data has no effect beside --attach, because the job that attaches "
                         "reads its own: leave one of them out");
    return OK;
}

struct run_model_files settings_files(const struct settings *settings) {
    return (struct run_model_files){.paths = settings->data.items,
                                    .count = settings->data.count,
                                    .format = settings->data_format,
                                    .heldout = settings->heldout};
}

/* ---- writing --------------------------------------------------------------------------------- */

/* A supervisor that restarts us may stand in another directory. Owned by the caller. */
static char *absolute_path(const char *path) {
    char *resolved = realpath(path, NULL), *here = NULL;
    if (!resolved && path[0] != '/' && (here = getcwd(NULL, 0))) resolved = file_join(here, path);
    free(here);
    return resolved ? resolved : xstrdup(path);
}

static void write_path(const char *path, struct buffer *out) {
    char *absolute = absolute_path(path);
    setting_quote(absolute, out);
    free(absolute);
}

static void write_value(const struct setting *option, const void *field, struct buffer *out) {
    if (option->kind == SETTING_PATH && *(const char *const *)field) {
        write_path(*(const char *const *)field, out);
    } else if (option->kind == SETTING_LIST) {
        const struct setting_list *list = field;
        for (size_t i = 0; i < list->count; i++) {
            buffer_append_text(out, "\n  - ");
            write_path(list->items[i], out);
        }
    } else {
        setting_format(option, field, out);
    }
}

/* What the file is to say: all that is not a default, wherever it came from; *told are those that
 * this command line gave. */
static void write_settings(const struct options *options, const struct settings *settings,
                           struct buffer *out, struct buffer *told) {
    buffer_append_text(
        out,
        "# Settings of this site. `atoll-node run --example-config` explains them all.\naddress: ");
    setting_quote(settings->join_address, out);
    buffer_append_text(out, "\n");
    if (!settings->address || strcmp(settings->address, settings->join_address) != 0)
        buffer_append_text(told, " address");
    for (const struct setting *option = common; option->name; option++) {
        if (strcmp(option->name, "dir") == 0 || strcmp(option->name, "address") == 0) continue;
        enum option_source source = options_source(options, option->name, NULL);
        if (source == OPTION_FROM_DEFAULT) continue;
        char key[OPTION_NAME_SIZE];
        option_key(option->name, key);
        if (source != OPTION_FROM_FILE) buffer_append_text(told, " %s", key);
        buffer_append_text(out, "%s: ", key);
        write_value(option, (const char *)settings + option->offset, out);
        buffer_append_text(out, "\n");
    }
    buffer_u8(told, 0);
}

/* A file that is there says what an earlier join, or a person, wrote: what is said now goes over
 * it, and the old file is kept. */
static enum status replace(const char *path, const struct buffer *text, mode_t mode,
                           const char *told, struct error *error) {
    struct buffer old = {0};
    char *kept = xformat("%s.old", path);
    enum status status = file_read(path, SETTINGS_FILE_LIMIT, &old, error);
    if (status == OK && !bytes_equal(buffer_bytes(&old), buffer_bytes(text))) {
        status = file_write(kept, buffer_bytes(&old), 0600, error);
        if (status == OK) status = file_write(path, buffer_bytes(text), mode, error);
        if (status == OK)
            log_info("settings_replaced", "file=\"%s\" keys=\"%s\" before=\"%s\"", path, told + 1,
                     kept);
    }
    buffer_deinit(&old);
    free(kept);
    return status;
}

/* The first line of the text that is not UTF-8, with '?' for what is wrong. */
static enum status check_text(struct bytes text, struct error *error) {
    for (size_t from = 0, end; from < text.size; from = end + 1) {
        for (end = from; end < text.size && text.data[end] != '\n';) end++;
        if (utf8_is_valid(text.data + from, end - from)) continue;
        struct buffer shown = {0};
        for (size_t at = from, length; at < end; at += MAX(length, (size_t)1)) {
            length = utf8_length(text.data + at, end - at);
            if (length)
                buffer_append(&shown, text.data + at, length);
            else
                buffer_u8(&shown, '?');
        }
        enum status status = error_set(error, INVALID,
                                       "a name that is not UTF-8 cannot stand in node.yaml: %.*s; "
                                       "rename it, or give a link to it",
                                       (int)MIN(shown.size, (size_t)200), (const char *)shown.data);
        buffer_deinit(&shown);
        return status;
    }
    return OK;
}

enum status settings_check_saved(const struct options *options, const struct settings *settings,
                                 struct error *error) {
    struct buffer text = {0}, told = {0};
    write_settings(options, settings, &text, &told);
    enum status status = check_text(buffer_bytes(&text), error);
    free_clearing(text.data, text.capacity);
    buffer_deinit(&told);
    return status;
}

enum status settings_save(const struct options *options, const struct settings *settings,
                          struct error *error) {
    char *path = file_join(settings->directory, "node.yaml");
    struct buffer text = {0}, told = {0};
    mode_t mode = settings->proxy ? 0600 : 0644; /* a password may stand in it */
    write_settings(options, settings, &text, &told);
    enum status status = check_text(buffer_bytes(&text), error);
    if (status != OK)
        ;
    else if (!file_exists(path))
        status = file_write(path, buffer_bytes(&text), mode, error);
    else if (told.size > 1)
        status = replace(path, &text, mode, (const char *)told.data, error);
    free_clearing(text.data, text.capacity);
    buffer_deinit(&told);
    free(path);
    return status;
}
