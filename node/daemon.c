/* Starts, runs and stops a site's threads (node/daemon.h), and writes status.json. The thread of
 * the state machine is in daemon_loop.c, what it trains in daemon_model.c; this is the main thread,
 * and what it builds at start. */
#include "node/daemon.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/ending.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/random.h"
#include "crypto/certificate.h"
#include "model/export.h"
#include "model/trainer.h"
#include "node/daemon_internal.h"
#include "node/journal_files.h"
#include "node/leave.h"
#include "node/restore_model.h"
#include "node/verbs.h"
#include "rpc/environment.h"
#include "run/run_model.h"

enum {
    JOURNAL_AGAIN_MS = 1000,
    STATUS_INTERVAL_MS = 1000,
    SIGNAL_POLL_MS = 200,
    CLOSE_LIMIT_S = 60,
    SAVE_LIMIT_S = 600,
    OWN_THREADS = 8
};

/* ---- what the threads tell ------------------------------------------------------------------- */

static void on_progress(void *context, uint64_t steps, uint64_t tokens, double loss) {
    struct node_event event = {.kind = NODE_PROGRESS};
    event.progress.steps = steps;
    event.progress.tokens = tokens;
    event.progress.loss = loss;
    daemon_loop_post(context, &event);
}

static void on_snapshotted(void *context, uint32_t fragment, uint64_t sequence, uint64_t steps,
                           uint64_t tokens, uint64_t began, uint64_t trainer_steps,
                           struct buffer *optimizer) {
    struct daemon *daemon = context;
    worker_snapshotted(daemon->worker, fragment, sequence, trainer_steps, optimizer);
    struct node_event event = {
        .kind = NODE_SNAPSHOTTED, .fragment = fragment, .sequence = sequence};
    event.snapshotted.steps = steps;
    event.snapshotted.tokens = tokens;
    event.snapshotted.began = began;
    daemon_loop_post(daemon, &event);
}

static void on_rebased(void *context, uint32_t fragment, uint64_t sequence,
                       enum training_move why) {
    struct daemon *daemon = context;
    worker_rebased(daemon->worker, fragment, sequence, why);
}

static void on_captured(void *context, struct training_capture *capture) {
    struct daemon *daemon = context;
    worker_captured(daemon->worker, capture);
}

static void on_snapshot_lost(void *context, uint32_t fragment, uint64_t sequence) {
    struct node_event event = {
        .kind = NODE_SNAPSHOTTED, .fragment = fragment, .sequence = sequence, .status = CANCELLED};
    daemon_loop_post(context, &event);
}

static void on_trainer_lost(void *context) {
    daemon_loop_post(context, &(struct node_event){.kind = NODE_TRAINER_LOST});
}

/* A lost device needs no person: another process may find it again, or do without. So the daemon
 * ends as for a signal, with its state saved, and says with its exit code that it is to be started
 * anew. */
static void on_failed(void *context, enum status status, const char *message) {
    char text[256];
    if (status == UNAVAILABLE) {
        snprintf(text, sizeof text, "the device that trains was lost: %.180s", message);
        if (daemon_end(context, DAEMON_BROKEN, text))
            log_error("training_device_lost", "message=\"%s\"", text);
        return;
    }
    snprintf(text, sizeof text, "training stopped: %.200s", message);
    daemon_loop_post(context,
                     &(struct node_event){.kind = NODE_FAULT, .status = status, .message = text});
}

static void on_step_applied(void *context, const struct ledger_entry *entry,
                            const uint8_t root[DIGEST_SIZE], uint64_t spent_ms) {
    struct daemon *daemon = context;
    char hex[HEX32_SIZE];
    report_add_root(daemon->report, entry->step.version, root);
    /* on the worker's thread, which has the replica */
    evaluator_give(daemon->evaluator, entry->step.version, daemon->replica.global.theta);
    log_info("step_applied", "version=%llu fragment=%u parts=%u root_ok=%s root=%.16s ms=%llu",
             (unsigned long long)entry->step.version, entry->step.fragment, entry->step.count,
             entry->step.has_root ? "true" : "unknown", hex_encode(root, DIGEST_SIZE, hex),
             (unsigned long long)spent_ms);
}

static float compute_share(void *context) {
    struct daemon *daemon = context;
    return report_compute_share(daemon->report, daemon->training);
}

/* What we sign with. Where our clock is off that is the coordinator's, or it would refuse what we
 * send as expired; carried on by the monotonic clock, so that it stays right when somebody sets
 * ours. */
static uint64_t wall_ms(void *context) {
    struct daemon *daemon = context;
    int64_t ours = (int64_t)clock_wall_ms(), told = atomic_load(&daemon->coordinator_ms);
    int64_t theirs = told + (int64_t)clock_monotonic_ms();
    bool apart = told != 0 && (theirs - ours > CLOCK_APART_MS || ours - theirs > CLOCK_APART_MS);
    return (uint64_t)(apart ? theirs : ours);
}

/* Certificates are judged by this machine's clock: where it is far off none holds, and the peer
 * would be blamed. */
static void check_certificates(struct daemon *daemon) {
    struct error error = {0};
    uint64_t now_s = clock_wall_ms() / 1000;
    const struct buffer *certificates[] = {&daemon->site->ca_pem, &daemon->site->certificate_pem};
    for (size_t i = 0; i < COUNT_OF(certificates); i++) {
        if (certificate_check_clock(buffer_bytes(certificates[i]), now_s, &error) != UNAVAILABLE)
            continue;
        trouble_begins(daemon->troubles, TROUBLE_CERTIFICATE, error.message);
        return;
    }
}

static void tell_link(void *context, const struct node_event *event) {
    struct daemon *daemon = context;
    if (event->kind == NODE_LINK_UP) trouble_ends(daemon->troubles, TROUBLE_CERTIFICATE);
    if (event->kind == NODE_LINK_DOWN) check_certificates(daemon);
    daemon_loop_post(daemon, event);
}

static uint64_t backlog(void *context) {
    struct daemon *daemon = context;
    return atomic_load(&daemon->backlog);
}

static void heartbeat(void *context, struct buffer *request) {
    struct daemon *daemon = context;
    report_heartbeat(daemon->report, daemon->training, daemon->evaluator, request);
}

static void load(void *context, const struct snapshot_header *header) {
    struct daemon *daemon = context;
    worker_load(daemon->worker, header);
}

/* ---- start ----------------------------------------------------------------------------------- */

static uint64_t trainer_steps(const struct daemon *daemon) {
    if (daemon->trainer) return trainer_counters(daemon->trainer).steps;
    const struct journal_checkpoint *checkpoint = journal_checkpoint(daemon->journal);
    return checkpoint ? checkpoint->trainer_steps : 0;
}

/* The manifest is a file that people can edit, the ledger is not. */
static enum status check_stored_genesis(struct daemon *daemon, struct error *error) {
    if (journal_size(daemon->journal) == 0) return OK;
    struct ledger_source source = journal_source(daemon->journal);
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    struct buffer raw = {0};
    enum status status = source.entry(source.context, 0, &raw, error);
    if (status == OK) status = ledger_entry_decode(buffer_bytes(&raw), entry, error);
    if (status == OK) status = daemon_compare_genesis(daemon, entry, error);
    free(entry);
    buffer_deinit(&raw);
    return status == OK ? OK : error_wrap(error, status, "%s", daemon->site->directory);
}

/* A disk that is full already is waited out as one that becomes it. Nothing is unsaved yet, so a
 * signal ends this. */
static enum status open_journal_with_room(struct daemon *daemon, struct error *error) {
    for (;;) {
        enum status status = journal_open(daemon->site->directory, daemon->site->manifest.fragments,
                                          &daemon->journal, error);
        if (status == OK) trouble_ends(daemon->troubles, TROUBLE_DISK_LEDGER);
        if (status != FULL) return status;
        trouble_begins(daemon->troubles, TROUBLE_DISK_LEDGER, error->message);
        if (!trouble_wait(daemon->troubles, JOURNAL_AGAIN_MS)) return status;
    }
}

static void note_restored(struct daemon *daemon) {
    char *path = site_path(daemon->site, "restored");
    struct error error = {0};
    daemon->is_restored =
        daemon->settings->restored || journal_size(daemon->journal) == 0 || access(path, F_OK) == 0;
    if (daemon->is_restored && file_write(path, bytes_of("", 0), 0600, &error) != OK)
        log_warn("restored_not_kept", "message=\"%s\"", error.message);
    free(path);
}

void daemon_restored_is_over(struct daemon *daemon) {
    if (!daemon->is_restored) return;
    char *path = site_path(daemon->site, "restored");
    (void)!unlink(path);
    free(path);
    daemon->is_restored = false;
}

static enum status open_journal(struct daemon *daemon, struct error *error) {
    const struct manifest *manifest = &daemon->site->manifest;
    TRY(open_journal_with_room(daemon, error));
    TRY(check_stored_genesis(daemon, error));
    struct restore_model model = {.manifest = manifest,
                                  .layout = &daemon->layout,
                                  .initial = daemon->settings->from,
                                  .trainer = daemon->trainer,
                                  .scratch = daemon->scratch};
    daemon->lacks_model = run_model_has_root(manifest) && !daemon->settings->from &&
                          journal_size(daemon->journal) == 0 &&
                          !journal_checkpoint(daemon->journal);
    model.lacks_model = daemon->lacks_model;
    struct restore_input input = {.journal = daemon->journal,
                                  .replica = &daemon->replica,
                                  .port = restore_model_port(&model)};
    note_restored(daemon);
    TRY(restore_site(&input, &daemon->restored, error));
    if (daemon->border) daemon_border_restored(daemon);
    daemon->from_initial = !daemon->restored.from_checkpoint &&
                           journal_size(daemon->journal) == 0 && !daemon->lacks_model;
    if (daemon->lacks_model)
        log_info("model_is_fetched", "message=\"there is no --from: from the coordinator\"");
    if (daemon->from_initial)
        state_root(daemon->replica.global.theta, daemon->layout.count, daemon->initial_root);
    log_info(
        "restored",
        "version=%llu entries=%llu replayed=%llu checkpoint=%s in_flight=%zu trainer_steps=%llu",
        (unsigned long long)daemon->replica.global.version,
        (unsigned long long)journal_size(daemon->journal),
        (unsigned long long)daemon->restored.replayed,
        daemon->restored.from_checkpoint ? "true" : "false", daemon->restored.spooled_count,
        (unsigned long long)trainer_steps(daemon));
    return OK;
}

/* Of a version that came by no step in this process: from disk, or as the run's snapshot. No step
 * may follow it, where the run is over. */
static void tell_root(void *context) {
    const struct daemon *daemon = context;
    const struct model_state *global = &daemon->replica.global;
    uint8_t root[DIGEST_SIZE];
    if (global->version == 0) return;
    state_root(global->theta, global->parameters, root);
    report_add_root(daemon->report, global->version, root);
}

/* Damage is not mended by a restart: what can be fetched again may go, and it is a person who says
 * so. */
static enum status tell_damage(const struct daemon *daemon, enum status status,
                               struct error *error) {
    if (status != CORRUPT && status != NOT_FOUND) return status;
    (void)!error_wrap(error, CORRUPT,
                      "%s is damaged; journal, payloads and state in it may be deleted, they are "
                      "fetched again (keep node.key)",
                      daemon->site->directory);
    return CORRUPT;
}

static enum status open_channel(struct daemon *daemon, struct error *error) {
    const struct site *site = daemon->site;
    if (!daemon->settings->address)
        return error_set(error, INVALID,
                         "no coordinator's address: give --address, or `address:` in node.yaml");
    struct rpc_channel_options options = {.address = daemon->settings->address,
                                          .proxy = daemon->settings->proxy,
                                          .root_ca = (const char *)site->ca_pem.data,
                                          .chain = (const char *)site->certificate_pem.data,
                                          .private_key = (const char *)site->key_pem.data,
                                          .server_name = COORDINATOR_NAME,
                                          .connections = (uint32_t)daemon->settings->connections};
    return rpc_channel_open(&options, &daemon->channel, error);
}

static enum status start_training(struct daemon *daemon, struct error *error) {
    const struct manifest *manifest = &daemon->site->manifest;
    struct training_options options = {.trainer = daemon->trainer,
                                       .border = daemon->border,
                                       .stand = daemon->stand,
                                       .schedule = run_model_schedule(manifest),
                                       .inner_steps = manifest->inner.inner_steps,
                                       .lacks_model = daemon->lacks_model,
                                       .max_step_tokens = manifest->admission.max_step_tokens,
                                       .trainer_steps = trainer_steps(daemon),
                                       .data = daemon->data,
                                       .replica = &daemon->replica,
                                       .throttle = daemon->settings->throttle,
                                       .pace_ns = daemon->settings->pace_ms * 1000000,
                                       .keep_optimizer =
                                           daemon->trainer && daemon->replica.fragments == 1,
                                       .checkpoint_ms = daemon->settings->checkpoint_ms,
                                       .handler = {.context = daemon,
                                                   .progress = on_progress,
                                                   .snapshotted = on_snapshotted,
                                                   .rebased = on_rebased,
                                                   .captured = on_captured,
                                                   .snapshot_lost = on_snapshot_lost,
                                                   .trainer_lost = on_trainer_lost,
                                                   .failed = on_failed}};
    for (uint32_t i = 0; i < daemon->replica.fragments; i++) {
        options.fragment[i] = daemon->restored.fragment[i];
        options.tokens_unsent +=
            daemon->restored.fragment[i].progress.tokens / daemon->replica.fragments;
    }
    TRY(training_start(&options, &daemon->training, error));
    worker_set_training(daemon->worker, daemon->training);
    return OK;
}

/* The held-out part of each file is a text of its own. */
static enum status start_evaluator(struct daemon *daemon, struct error *error) {
    enum { WINDOWS = 64 };
    const struct evaluator_options how = {.directory = daemon->site->directory,
                                          .files = daemon->settings->data.items,
                                          .count = daemon->settings->data.count,
                                          .share = daemon->settings->heldout,
                                          .every = 1,
                                          .windows = WINDOWS,
                                          .margin = INFINITY, /* the coordinator says it */
                                          .manifest = &daemon->site->manifest,
                                          .version = daemon->replica.global.version};
    if (!daemon->site->observes) return OK;
    TRY(evaluator_start(&how, &daemon->evaluator, error));
    evaluator_give(daemon->evaluator, daemon->replica.global.version, daemon->replica.global.theta);
    return OK;
}

static enum status start_links(struct daemon *daemon, struct error *error) {
    uint64_t largest = 0;
    for (uint32_t i = 0; i < daemon->replica.fragments; i++) {
        uint64_t start, count;
        fragment_range(daemon->layout.count, daemon->replica.fragments, i, &start, &count);
        largest = MAX(largest, count);
    }
    struct uplink_options up = {.journal = daemon->journal,
                                .traffic = &daemon->traffic,
                                .bandwidth = daemon->settings->bandwidth,
                                .timeout_ms = (uint32_t)daemon->settings->timeout_ms,
                                .waits = !daemon->settings->overlap,
                                .instance = daemon->instance,
                                .restored = daemon->is_restored,
                                .payload_limit =
                                    codec_bound_of_mode(daemon->replica.codec, (size_t)largest),
                                .tell = daemon_loop_post,
                                .context = daemon};
    check_certificates(daemon);
    TRY(uplink_start(&up, &daemon->uplink, error));
    struct downlink_options down = {.site = daemon->site,
                                    .journal = daemon->journal,
                                    .traffic = &daemon->traffic,
                                    .channel = daemon->channel,
                                    .instance = daemon->instance,
                                    .restored = daemon->is_restored,
                                    .timeout_ms = (uint32_t)daemon->settings->timeout_ms,
                                    .payload_limit =
                                        codec_bound_of_mode(daemon->replica.codec, (size_t)largest),
                                    .nominal_payload = daemon_nominal_payload(daemon),
                                    .lacks_model = daemon->lacks_model,
                                    .snapshot_size = snapshot_size(&daemon->replica.global),
                                    .backlog_limit = BACKLOG_LIMIT,
                                    .backlog = backlog,
                                    .heartbeat = heartbeat,
                                    .check_genesis = daemon_check_genesis,
                                    .load = load,
                                    .tell = tell_link,
                                    .troubles = daemon->troubles,
                                    .context = daemon};
    memcpy(down.initial_root, daemon->site->manifest.initial.root, DIGEST_SIZE);
    return downlink_start(&down, &daemon->downlink, error);
}

static enum status start(struct daemon *daemon, struct error *error) {
    TRY(daemon_open_model(daemon, error));
    TRY(tell_damage(daemon, open_journal(daemon, error), error));
    TRY(rpc_threads_there(OWN_THREADS, error)); /* all that come from here on */
    TRY(open_channel(daemon, error));
    random_system(&daemon->instance, sizeof daemon->instance);
    struct report_options report = {.site = daemon->site,
                                    .instance = daemon->instance,
                                    .traffic = &daemon->traffic,
                                    .troubles = daemon->troubles,
                                    .device = daemon->device,
                                    .metrics_file = daemon->settings->metrics_file,
                                    .trainer_steps = trainer_steps(daemon)};
    daemon->report = report_create(&report);
    report_write(daemon->report, NULL, "starting", NULL);
    tell_root(daemon);
    TRY(tell_damage(daemon, daemon_loop_restore(daemon, error), error));
    struct worker_options worker = {.site = daemon->site,
                                    .replica = &daemon->replica,
                                    .journal = daemon->journal,
                                    .payloads_from = daemon->restored.payloads_from,
                                    .lacks_model = daemon->lacks_model,
                                    .tell = daemon_loop_post,
                                    .step_applied = on_step_applied,
                                    .snapshot_loaded = tell_root,
                                    .compute_share = compute_share,
                                    .wall_ms = wall_ms,
                                    .troubles = daemon->troubles,
                                    .context = daemon};
    TRY(start_evaluator(daemon, error));
    TRY(worker_start(&worker, &daemon->worker, error));
    TRY(start_training(daemon, error));
    TRY(start_links(daemon, error));
    return thread_start("loop", daemon_loop_run, daemon, &daemon->loop, error);
}

/* ---- stop ------------------------------------------------------------------------------------ */

static void drop_event(struct daemon_message *message) {
    buffer_deinit(&message->bytes);
    free(message);
}

static void stop(struct daemon *daemon, bool capture) {
    /* Stopped, not destroyed: the core goes on until the end, and what it still asks of them is
     * dropped. */
    ending_limit(CLOSE_LIMIT_S, EXIT_FAILED, "closing the streams");
    troubles_give_up(daemon->troubles); /* nobody waits for a full disk any longer */
    if (daemon->downlink) downlink_stop(daemon->downlink);
    if (daemon->uplink) uplink_stop(daemon->uplink);
    ending_limit(SAVE_LIMIT_S, EXIT_FAILED, "the step under way and the checkpoint");
    if (daemon->training) training_stop(daemon->training, capture);
    if (daemon->worker) worker_stop(daemon->worker);
    if (daemon->events) queue_close(daemon->events);
    (void)!thread_join(daemon->loop, UINT64_MAX);
    ending_limit(CLOSE_LIMIT_S, EXIT_FAILED, "closing the network");
    rpc_channel_close(daemon->channel); /* the core made calls on it until now; what comes back
                                           finds the queue closed */
    daemon->channel = NULL;
    void *left;
    while (daemon->events && queue_pop(daemon->events, 0, &left) == OK) drop_event(left);
    queue_destroy(daemon->events);
    daemon->events = NULL;
    ending_limit(0, 0, NULL); /* what follows may be an export */
}

static void close_all(struct daemon *daemon) {
    downlink_destroy(daemon->downlink);
    uplink_destroy(daemon->uplink);
    worker_destroy(daemon->worker);
    evaluator_stop(daemon->evaluator);
    training_destroy(daemon->training);
    node_state_destroy(daemon->state);
    report_destroy(daemon->report);
    troubles_destroy(daemon->troubles);
    journal_close(daemon->journal);
    gateway_stop(daemon->gateway);
    border_close(daemon->border);
    free(daemon->tensors);
    free(daemon->scratch);
    replica_deinit(&daemon->replica);
    thread_pool_destroy(daemon->pool);
    stand_destroy(daemon->stand);
    cuda_backend_close(&daemon->cuda);
    trainer_destroy(daemon->trainer);
    data_close(daemon->data);
    layout_deinit(&daemon->layout);
    pthread_mutex_destroy(&daemon->lock);
    ending_limit(CLOSE_LIMIT_S, EXIT_FAILED, "closing the network");
    rpc_environment_close();
    ending_limit(0, 0, NULL);
}

static enum status export_result(struct daemon *daemon, struct error *error) {
    const struct settings *settings = daemon->settings;
    char *path = settings->export_directory ? xstrdup(settings->export_directory)
                                            : site_path(daemon->site, "export");
    const struct model_state *global = &daemon->replica.global;
    const struct export_options how = {.version = (int64_t)global->version,
                                       .byte_tokenizer =
                                           daemon->site->manifest.tokenizer == TOKENIZER_BYTE,
                                       .beside = settings->from,
                                       .frozen = settings->from};
    enum status status = export_model_as(path, &daemon->layout, global->theta, &how, error);
    if (status == OK)
        log_info("exported", "version=%llu path=\"%s\"", (unsigned long long)global->version, path);
    free(path);
    return status;
}

/* ---- the main thread ------------------------------------------------------------------------- */

static bool has_ended(struct daemon *daemon) {
    pthread_mutex_lock(&daemon->lock);
    bool ended = daemon->ended;
    pthread_mutex_unlock(&daemon->lock);
    return ended;
}

static void begin_to_leave(struct daemon *daemon) {
    log_info("leaving", "message=\"what is under way is sent first\"");
    daemon_loop_post(daemon, &(struct node_event){.kind = NODE_LEAVE});
}

/* Until the core has ended it, or a signal comes. */
static void watch(struct daemon *daemon) {
    uint64_t next_status = 0;
    bool leaves = daemon->settings->leaves;
    if (leaves) begin_to_leave(daemon);
    while (!has_ended(daemon)) {
        if (!leaves && leave_is_asked(daemon->site->directory)) {
            leaves = true;
            begin_to_leave(daemon);
        }
        if (ending_wait(SIGNAL_POLL_MS)) {
            log_info("stopping", "signal=%s", ending_signal_name(ending_asked()));
            return;
        }
        uint64_t now = clock_monotonic_ms();
        if (now < next_status) continue;
        next_status = now + STATUS_INTERVAL_MS;
        report_write(daemon->report, daemon->training, NULL, NULL);
    }
}

static enum status finish(struct daemon *daemon, enum daemon_end *how, struct error *error) {
    static const char *const states[] = {[DAEMON_STOPPED] = "stopped",
                                         [DAEMON_FINISHED] = "finished",
                                         [DAEMON_HALTED] = "halted",
                                         [DAEMON_BROKEN] = "broken"};
    bool ended = has_ended(daemon);
    enum daemon_end first = ended ? daemon->end : DAEMON_STOPPED;
    if (first == DAEMON_FINISHED) training_over(daemon->training);
    stop(daemon, first != DAEMON_HALTED);
    *how = daemon->ended ? daemon->end : DAEMON_STOPPED; /* the last checkpoint may have failed */
    enum status status = OK;
    if (*how == DAEMON_FINISHED) status = export_result(daemon, error);
    bool lacks_export = status != OK;
    if (status == OK && daemon->ended && error) *error = daemon->why;
    if (*how == DAEMON_BROKEN) status = UNAVAILABLE;
    const char *message = daemon->ended ? daemon->why.message : NULL;
    if (lacks_export)
        message = error ? error->message : "the run is over, and its model could not be exported";
    report_write(daemon->report, daemon->training, states[lacks_export ? DAEMON_BROKEN : *how],
                 message);
    return status;
}

enum status daemon_run(const struct settings *settings, const struct site *site,
                       enum daemon_end *how, struct error *error) {
    struct daemon *daemon = xcalloc(1, sizeof *daemon);
    leave_forget(site->directory); /* before status.json says that there is somebody to ask */
    daemon->settings = settings;
    daemon->site = site;
    pthread_mutex_init(&daemon->lock, NULL);
    daemon->events = queue_create(EVENTS_LIMIT);
    daemon->troubles = troubles_create();
    ending_begin(EXIT_DONE); /* until it trains, nothing is unsaved: a signal ends a check of data
                                or a replay at once */
    enum status status = rpc_environment_open(error);
    if (status != OK) {
        queue_destroy(daemon->events);
        pthread_mutex_destroy(&daemon->lock);
        free(daemon);
        return status;
    }
    /* The core's first actions need all threads, and the threads' first events its queue: so it
     * starts last. */
    status = start(daemon, error);
    ending_in_order(NULL);
    if (status == OK) {
        log_info("started", "site=%u name=%s parameters=%llu device=\"%s\"", site->number,
                 site->name, (unsigned long long)daemon->layout.count, daemon->device);
        watch(daemon);
        status = finish(daemon, how, error);
    } else {
        if (daemon->report)
            report_write(daemon->report, NULL, "halted", error ? error->message : NULL);
        stop(daemon, false);
    }
    close_all(daemon);
    free(daemon);
    return status;
}
