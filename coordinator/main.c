/* atoll-coordinator: serves one run from its data directory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/address.h"
#include "base/ending.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/options.h"
#include "base/secrecy.h"
#include "base/streams.h"
#include "base/version.h"
#include "config/config.h"
#include "coordinator/server.h"
#include "rpc/environment.h"
#include "storage/store_guard.h"

/* As atoll-node's: 3 is the one that no supervisor answers with a restart. */
enum { EXIT_BROKEN = 1, EXIT_HALTED = 3, STOP_LIMIT_S = 30 };

static int code_of(enum status status) {
    return status == CORRUPT || status == INVALID || status == REFUSED ? EXIT_HALTED : EXIT_BROKEN;
}

struct coordinator_settings {
    const char *directory, *port_file, *advertise;
    struct setting_list listen;
    const char *from;
    struct setting_list heldout;
    double heldout_share, heldout_margin;
    uint64_t heldout_every, heldout_windows;
    uint64_t uploads, presence_ms, retry_ms, lost_ms, chunk, head_interval, snapshots, threads,
        connections;
    bool new_epoch;
};

static const struct setting table[] = {
    {.name = "dir",
     .kind = SETTING_PATH,
     SETTING_FIELD(struct coordinator_settings, directory),
     .value_name = "DIR",
     .flags = OPTION_REQUIRED,
     .help = "the run's data directory, made by `atollctl run create`"},
    {.name = "listen",
     .kind = SETTING_LIST,
     SETTING_FIELD(struct coordinator_settings, listen),
     .value_name = "HOST:PORT",
     .check = address_check_listen,
     .help = "where to listen; 0.0.0.0 is every IPv4 address and [::] every address of this "
             "machine, port 0 picks one; "
             "0.0.0.0:7400 if not given"},
    {.name = "advertise",
     .kind = SETTING_TEXT,
     SETTING_FIELD(struct coordinator_settings, advertise),
     .value_name = "HOST:PORT",
     .check = address_check_connect,
     .help = "where sites reach this coordinator from outside; `atollctl site invite` prints it in "
             "its line"},
    {.name = "port-file",
     .kind = SETTING_PATH,
     SETTING_FIELD(struct coordinator_settings, port_file),
     .value_name = "FILE",
     .help = "write the port that was bound into this file once the coordinator is ready"},
    {.name = "uploads",
     .kind = SETTING_COUNT,
     SETTING_FIELD(struct coordinator_settings, uploads),
     .fallback = "64",
     .min = "1",
     .max = "4096",
     .help = "contributions received at once; more are told to come back"},
    {.name = "presence",
     .kind = SETTING_DURATION,
     SETTING_FIELD(struct coordinator_settings, presence_ms),
     .fallback = "30s",
     .min = "1s",
     .max = "1h",
     .help = "a site counts as connected this long after it was last heard"},
    {.name = "retry",
     .kind = SETTING_DURATION,
     SETTING_FIELD(struct coordinator_settings, retry_ms),
     .fallback = "500ms",
     .min = "10ms",
     .max = "10m",
     .help = "how long a site that is refused for the moment is asked to wait"},
    {.name = "drop-after",
     .kind = SETTING_DURATION,
     SETTING_FIELD(struct coordinator_settings, lost_ms),
     .fallback = "10m",
     .min = "1s",
     .max = "30d",
     .help = "a waiting contribution whose payload the disk has lost is asked for this long, then "
             "dropped; its site keeps its mass"},
    {.name = "from",
     .kind = SETTING_PATH,
     SETTING_FIELD(struct coordinator_settings, from),
     .value_name = "PATH",
     .help = "what the run began from; only asked for where no snapshot of the run can be read"},
    {.name = "chunk",
     .kind = SETTING_SIZE,
     SETTING_FIELD(struct coordinator_settings, chunk),
     .fallback = "256KiB",
     .min = "1KiB",
     .max = "1MiB",
     .help =
         "payload bytes in a message; smaller ones move the progress deadline along on slow links"},
    {.name = "head-interval",
     .kind = SETTING_COUNT,
     SETTING_FIELD(struct coordinator_settings, head_interval),
     .fallback = "64",
     .min = "1",
     .max = "65536",
     .help = "ledger entries between the signed heads that followers get"},
    {.name = "snapshots",
     .kind = SETTING_COUNT,
     SETTING_FIELD(struct coordinator_settings, snapshots),
     .fallback = "3",
     .min = "1",
     .max = "1000",
     .help = "snapshots kept; older ones are deleted"},
    {.name = "heldout",
     .kind = SETTING_LIST,
     SETTING_FIELD(struct coordinator_settings, heldout),
     .value_name = "FILE",
     .help = "a text, or shards of tokens, that no site trains on; versions are evaluated on it, "
             "and the loss on each goes to evaluations.jsonl in the data directory. May be "
             "repeated, 16 times at most"},
    {.name = "heldout-share",
     .kind = SETTING_SHARE,
     SETTING_FIELD(struct coordinator_settings, heldout_share),
     .fallback = "100%",
     .min = "0.0001",
     .max = "1",
     .help = "of the end of each file that is read: for a file that sites have too, what they hold "
             "out"},
    {.name = "heldout-every",
     .kind = SETTING_COUNT,
     SETTING_FIELD(struct coordinator_settings, heldout_every),
     .fallback = "1",
     .min = "1",
     .max = "1000000",
     .help = "versions between two evaluations; where they come faster than they are evaluated, "
             "some are left out"},
    {.name = "heldout-windows",
     .kind = SETTING_COUNT,
     SETTING_FIELD(struct coordinator_settings, heldout_windows),
     .fallback = "64",
     .help = "sequences of each file that are evaluated, evenly spread; 0: all"},
    {.name = "heldout-margin",
     .kind = SETTING_NUMBER,
     SETTING_FIELD(struct coordinator_settings, heldout_margin),
     .fallback = "0.1",
     .min = "0",
     .max = "100",
     .help = "nats above the best that the loss may rise before it is said (heldout_rises)"},
    {.name = "threads",
     .kind = SETTING_COUNT,
     SETTING_FIELD(struct coordinator_settings, threads),
     .fallback = "2",
     .min = "1",
     .max = "64",
     .help = "network threads"},
    {.name = "connections",
     .kind = SETTING_COUNT,
     SETTING_FIELD(struct coordinator_settings, connections),
     .fallback = "0",
     .max = "100000",
     .help = "connections at most; 0: half the descriptor limit"},
    {.name = "new-epoch",
     .kind = SETTING_BOOL,
     SETTING_FIELD(struct coordinator_settings, new_epoch),
     .flags = OPTION_FLAG_ONLY,
     .help = "take over: this directory is a copy, and the coordinator it was copied from may "
             "still run; give it once"},
    {0}};

static const struct command program = {
    .name = "atoll-coordinator",
    .summary = "serves one training run: takes contributions, makes outer steps, keeps the ledger",
    .description = "Restores the run from its data directory (newest snapshot, then replay), then "
                   "listens. It can be killed at any "
                   "time: what it acknowledged is durable. Exit codes: 0 stopped by a signal, 1 a "
                   "failure that a restart may heal, "
                   "2 wrong usage, 3 halted: a person must look, a restart would meet the same.",
    .examples = "atollctl run create /var/lib/atoll/run --manifest run.yaml\n"
                "atoll-coordinator --dir /var/lib/atoll/run --listen 0.0.0.0:7400",
    .options = table,
    .version = atoll_version};

static struct server *running; /* for the signal's handler alone */

static void on_signal(void) { server_stop(running); }

static enum status tell_port(const struct coordinator_settings *settings, uint16_t port,
                             struct error *error) {
    if (!settings->port_file) return OK;
    char *text = xformat("%u\n", port);
    enum status status = file_write(settings->port_file, bytes_of(text, strlen(text)), 0644, error);
    free(text);
    return status;
}

static int run(const struct coordinator_settings *settings) {
    static const char *const everywhere[] = {"0.0.0.0:7400"};
    struct error error = {0};
    uint64_t descriptors = 0;
    struct server_options options = {
        .directory = settings->directory,
        .addresses = settings->listen.count ? settings->listen.items : everywhere,
        .address_count = settings->listen.count ? settings->listen.count : 1,
        .advertise = settings->advertise ? settings->advertise : "",
        .uploads_limit = (uint32_t)settings->uploads,
        .presence_ms = settings->presence_ms,
        .retry_ms = settings->retry_ms,
        .lost_ms = settings->lost_ms,
        .from = settings->from,
        .chunk_limit = (uint32_t)settings->chunk,
        .head_interval = (uint32_t)settings->head_interval,
        .snapshots_kept = (uint32_t)settings->snapshots,
        .heldout = settings->heldout.items,
        .heldout_count = settings->heldout.count,
        .heldout_share = settings->heldout_share,
        .heldout_margin = settings->heldout_margin,
        .heldout_every = settings->heldout_every,
        .heldout_windows = settings->heldout_windows,
        .rpc_threads = (uint32_t)settings->threads,
        .max_connections = (uint32_t)settings->connections,
        .new_epoch = settings->new_epoch};
    if (limits_raise_descriptors(&descriptors, &error) != OK)
        log_warn("descriptor_limit", "reason=\"%s\"", error.message);
    if (rpc_environment_open(&error) != OK) {
        log_error("start_failed", "reason=\"%s\"", error.message);
        return EXIT_FAILURE;
    }
    int code = EXIT_SUCCESS;
    enum status status = server_start(&options, &running, &error);
    if (status != OK) {
        log_error("start_failed", "reason=\"%s\"", error.message);
        ending_limit(STOP_LIMIT_S, code_of(status), "closing the network");
        rpc_environment_close();
        return code_of(status);
    }
    ending_in_order(on_signal);
    log_info("listening", "port=%u descriptors=%llu", server_port(running),
             (unsigned long long)descriptors);
    status = tell_port(settings, server_port(running), &error);
    if (status == OK) status = server_wait(running, &error);
    if (status != OK) {
        log_error("stopping", "reason=\"%s\"", error.message);
        code = code_of(status);
    }
    server_destroy(running);
    ending_limit(STOP_LIMIT_S, EXIT_BROKEN, "closing the network");
    rpc_environment_close();
    ending_limit(0, 0, NULL);
    log_info("stopped", "code=%d", code);
    return code;
}

int main(int argc, char **argv) {
    secrecy_begin();
    streams_open();
    ending_begin(EXIT_SUCCESS); /* until it serves, nothing is unsaved */
    store_guard(program.name, EXIT_HALTED, "put a copy of the run's directory in its place");
    struct coordinator_settings settings = {0};
    struct options *options = options_create(&program, &settings);
    struct options_setup setup = {
        .argc = argc, .argv = argv, .environment = environ, .load_file = config_load};
    int code = options_start(options, &setup);
    if (code == OPTIONS_GO_ON) code = run(&settings);
    options_destroy(options);
    return streams_close(program.name, code);
}
