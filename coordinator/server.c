/* The server: opens the directory, restores the run, starts everybody and stops them; and the one
 * place that knows whom what is said concerns. */
#include "coordinator/server.h"

#include <errno.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/ending.h"
#include "base/log.h"
#include "base/memory.h"
#include "codec/codec.h"
#include "coordinator/loop.h"
#include "run/evaluator.h"
#include "run/run_model.h"

enum { CLOSE_LIMIT_S = 60, SAVE_LIMIT_S = 600 };

struct server {
    struct server_options options;
    struct directory data;
    struct directory_keys keys;
    struct model_state model;        /* the model thread's, from its start to its stop */
    struct coordinator_state *state; /* the loop's, likewise */
    struct manifest manifest;
    struct layout layout;
    struct buffer layout_text;
    uint8_t run_id[RUN_ID_SIZE];
    uint64_t parameters;

    struct disk_watch *disk;
    struct loop *loop;
    struct calls *calls;
    struct intake *intake;
    struct publisher *publisher;
    struct evaluator *evaluator; /* NULL: there are no held-out texts */
    struct model_thread *model_thread;
    struct ledger_queue *ledger;

    sem_t ended;
    atomic_bool stopping, broken;
    char reason[256]; /* written once, before `broken`, as is: */
    bool halted;      /* a restart would only meet it again */
};

/* ---- what is told, and whom it concerns ------------------------------------------------------ */

static void end_broken(void *context, bool halt, const char *message) {
    struct server *server = context;
    if (atomic_exchange(&server->stopping, true)) return;
    snprintf(server->reason, sizeof server->reason, "%s", message);
    server->halted = halt;
    atomic_store(&server->broken, true);
    sem_post(&server->ended);
}

static void on_broken(void *context, const char *message) { end_broken(context, false, message); }

static void on_store_fatal(void *context, const struct error *error) {
    char message[256];
    snprintf(message, sizeof message, "the store failed: %.200s", error->message);
    on_broken(context, message);
}

static void on_event(void *context, const struct coordinator_event *event) {
    struct server *server = context;
    loop_post(server->loop, &(struct loop_message){.kind = LOOP_EVENT, .event = *event});
}

static void on_written(void *context, enum status status, const char *message) {
    struct server *server = context;
    struct loop_message posted = {.kind = LOOP_WRITTEN};
    posted.written.status = status;
    posted.written.message = message;
    loop_post(server->loop, &posted);
}

static void on_ledger_waits(void *context, const char *message) {
    disk_watch_waits(((const struct server *)context)->disk, DISK_LEDGER, message);
}

static void on_ledger_room(void *context) {
    disk_watch_has_room(((const struct server *)context)->disk, DISK_LEDGER);
}

static void on_moved(void *context, uint64_t version, const float *theta) {
    evaluator_give(((const struct server *)context)->evaluator, version, theta);
}

static bool await_ledger(void *context, uint64_t size) {
    struct server *server = context;
    return ledger_queue_await(server->ledger, size);
}

static void post_chunk(struct server *server, const struct call_event *event) {
    struct intake_message message = {.kind = INTAKE_CHUNK, .call = event->call};
    message.chunk.offset = event->chunk.offset;
    message.chunk.message = event->chunk.message;
    message.chunk.head_size = event->chunk.head_size;
    intake_post(server->intake, &message);
}

static void post_closed(struct server *server, struct call *call) {
    if (call->method == METHOD_SUBMIT) {
        /* The loop may let a newer call have the same upload as soon as it knows: the intake must
         * have let go of it by then. */
        intake_post(server->intake, &(struct intake_message){.kind = INTAKE_CLOSE, .call = call});
        on_event(server,
                 &(struct coordinator_event){.kind = COORDINATOR_CALL_GONE, .call = call->number});
    } else if (call->method == METHOD_FOLLOW || call->method == METHOD_SNAPSHOT) {
        publisher_post(server->publisher,
                       &(struct publisher_message){.kind = PUBLISHER_CLOSED, .call = call});
    }
}

static void post_question(struct server *server, const struct call_event *event) {
    struct loop_message message = {.kind = LOOP_QUESTION, .call = event->call};
    message.question.verb = event->question.verb;
    message.question.first_site = event->question.first_site;
    loop_post(server->loop, &message);
}

/* Payloads and streams go to their threads at once, all else to the loop. */
static void on_call(void *context, const struct call_event *event) {
    struct server *server = context;
    struct call *call = event->call;
    switch (event->kind) {
    case CALL_EVENT:
        loop_post(server->loop,
                  &(struct loop_message){.kind = LOOP_EVENT, .call = call, .event = event->event});
        break;
    case CALL_REPORT:
        loop_post(server->loop, &(struct loop_message){.kind = LOOP_REPORT,
                                                       .call = call,
                                                       .event = event->event,
                                                       .report = event->report});
        break;
    case CALL_QUESTION: post_question(server, event); break;
    case CALL_CHUNK: post_chunk(server, event); break;
    case CALL_HALF_CLOSED:
        intake_post(server->intake,
                    &(struct intake_message){.kind = INTAKE_HALF_CLOSE, .call = call});
        break;
    case CALL_FOLLOW:
        publisher_post(server->publisher, &(struct publisher_message){.kind = PUBLISHER_FOLLOW,
                                                                      .call = call,
                                                                      .follow = *event->follow});
        break;
    case CALL_SNAPSHOT:
        publisher_post(server->publisher,
                       &(struct publisher_message){
                           .kind = PUBLISHER_SNAPSHOT, .call = call, .snapshot = *event->snapshot});
        break;
    case CALL_WRITABLE:
        publisher_post(server->publisher,
                       &(struct publisher_message){.kind = PUBLISHER_WRITABLE, .call = call});
        break;
    case CALL_CLOSED: post_closed(server, call); break;
    }
}

/* ---- start ----------------------------------------------------------------------------------- */

/* The certificate's key, not its word, says who we are: it must be the one that entry 0 names. */
static enum status check_identity(const struct server *server, const struct run_state *run,
                                  struct error *error) {
    if (memcmp(key_pair_public(server->keys.coordinator), run_state_coordinator_key(run),
               PUBLIC_KEY_SIZE) == 0)
        return OK;
    return error_set(error, INVALID,
                     "keys/coordinator.key is not the key that this run's ledger names");
}

static enum status restore(struct server *server, struct error *error) {
    struct run_state *run = NULL;
    char quoted[256];
    struct replay_report report = {0};
    uint64_t start = clock_monotonic_ms();
    const struct directory_start from = {server->options.directory, server->options.from};
    struct directory_initial initial = directory_initial(&from);
    TRY(directory_restore(&server->data, &initial, &run, &server->model, &report, error));
    if (report.lost_payload)
        log_error("payload_lost",
                  "entry=%llu reason=%s do=\"nothing: the sites are asked for it, and the model is "
                  "restored once it is here\"",
                  (unsigned long long)report.failed_entry,
                  log_quote(error ? error->message : "", quoted, sizeof quoted));
    enum status status = check_identity(server, run, error);
    if (status != OK) {
        run_state_destroy(run);
        return status;
    }
    server->manifest = *run_state_genesis(run); /* its digest is what a site compares */
    memcpy(server->run_id, run_state_run_id(run), RUN_ID_SIZE);
    server->parameters = run_state_parameters(run);
    status = directory_layout(server->options.directory, &server->manifest, &server->layout,
                              &server->layout_text, error);
    if (status != OK) {
        run_state_destroy(run);
        return status;
    }
    uint64_t largest = fragment_largest(server->parameters, server->manifest.fragments);
    struct coordinator_options options = {
        .key = server->keys.coordinator,
        .uploads_limit = server->options.uploads_limit,
        .payload_limit = codec_bound_of_mode((enum codec)server->manifest.codec.kind, largest),
        .presence_ms = server->options.presence_ms,
        .retry_ms = server->options.retry_ms,
        .lost_ms = server->options.lost_ms,
        .model_behind = report.lost_payload,
        .new_epoch = server->options.new_epoch};
    server->state = coordinator_state_create(&options, run); /* takes run */
    char id[2 * RUN_ID_SIZE + 1];
    log_info(
        "run_restored",
        "run=%s name=%s version=%llu entries=%llu steps_replayed=%llu parameters=%llu took_ms=%llu",
        hex_encode(server->run_id, RUN_ID_SIZE, id), server->manifest.name,
        (unsigned long long)run_state_version(run), (unsigned long long)run_state_size(run),
        (unsigned long long)report.steps, (unsigned long long)server->parameters,
        (unsigned long long)(clock_monotonic_ms() - start));
    struct error why = {0}; /* what is left behind may stay where it cannot be told for sure */
    if (directory_sweep(&server->data, key_pair_public(server->keys.coordinator), &why) != OK)
        log_warn("left_behind", "reason=%s", log_quote(why.message, quoted, sizeof quoted));
    return OK;
}

static enum status start_evaluator(struct server *server, struct error *error) {
    const struct server_options *options = &server->options;
    const struct evaluator_options how = {
        .directory = options->directory,
        .files = options->heldout,
        .count = options->heldout_count,
        .share = options->heldout_share,
        .every = options->heldout_every,
        .windows = options->heldout_windows,
        .margin = options->heldout_margin,
        .manifest = &server->manifest,
        .version = run_state_version(coordinator_state_run(server->state))};
    if (how.count > 0)
        TRY(run_model_check_built_in(&server->layout,
                                     "leave --heldout out, and measure versions "
                                     "that are exported",
                                     error));
    return how.count > 0 ? evaluator_start(&how, &server->evaluator, error) : OK;
}

static enum status start_workers(struct server *server, const struct run_state *run,
                                 struct error *error) {
    struct ledger_queue_options ledger = {.store = server->data.store,
                                          .durable = run_state_size(run),
                                          .written = on_written,
                                          .broken = on_broken,
                                          .waits = on_ledger_waits,
                                          .has_room = on_ledger_room,
                                          .context = server};
    struct model_thread_options model = {.work = {.data = &server->data,
                                                  .model = &server->model,
                                                  .key = server->keys.coordinator,
                                                  .manifest = &server->manifest,
                                                  .snapshots_kept = server->options.snapshots_kept,
                                                  .tell = on_event,
                                                  .context = server},
                                         .disk = server->disk,
                                         .await_ledger = await_ledger,
                                         .moved = on_moved,
                                         .context = server};
    struct intake_options intake = {.data = &server->data,
                                    .manifest = &server->manifest,
                                    .parameters = server->parameters,
                                    .chunk_limit = server->options.chunk_limit,
                                    .disk = server->disk,
                                    .tell = on_event,
                                    .broken = on_broken,
                                    .context = server};
    struct publisher_options publisher = {.data = &server->data,
                                          .key = key_pair_public(server->keys.coordinator),
                                          .chunk_limit = server->options.chunk_limit,
                                          .published = run_state_size(run),
                                          .tell = on_event,
                                          .context = server};
    server->ledger = ledger_queue_create(&ledger);
    memcpy(model.work.run_id, server->run_id, RUN_ID_SIZE);
    TRY(model_thread_start(&model, &server->model_thread, error));
    TRY(intake_start(&intake, &server->intake, error));
    TRY(publisher_start(&publisher, &server->publisher, error));
    publisher_drop(server->publisher, run);
    return OK;
}

static void open_calls(struct server *server, const struct run_state *run) {
    struct calls_options options = {.tell = on_call, .context = server};
    memcpy(options.run_id, server->run_id, RUN_ID_SIZE);
    server->calls = calls_create(&options);
    for (uint32_t site = 1; site <= run_state_site_count(run); site++) {
        calls_enrol(server->calls, site, run_state_site(run, site)->public_key);
        if (run_state_site(run, site)->revoked) calls_cut(server->calls, site, "");
    }
}

static enum status start_loop(struct server *server, struct error *error) {
    struct loop_options options = {.state = server->state,
                                   .keys = &server->keys,
                                   .manifest = &server->manifest,
                                   .layout = buffer_bytes(&server->layout_text),
                                   .parameters = server->parameters,
                                   .advertise = server->options.advertise,
                                   .head_interval = server->options.head_interval,
                                   .disk = server->disk,
                                   .calls = server->calls,
                                   .intake = server->intake,
                                   .publisher = server->publisher,
                                   .model_thread = server->model_thread,
                                   .evaluator = server->evaluator,
                                   .heldout_margin = server->options.heldout_margin,
                                   .ledger = server->ledger,
                                   .stop = end_broken,
                                   .context = server};
    memcpy(options.run_id, server->run_id, RUN_ID_SIZE);
    return loop_start(server->loop, &options, error);
}

static enum status listen_here(struct server *server, struct error *error) {
    struct rpc_server_options options = {
        .addresses = server->options.addresses,
        .address_count = server->options.address_count,
        .certificate = {.chain = (const char *)server->keys.server_pem.data,
                        .private_key = (const char *)server->keys.server_key_pem.data,
                        .client_ca = (const char *)server->keys.authority_pem.data},
        .threads = server->options.rpc_threads,
        .max_connections = server->options.max_connections};
    return calls_listen(server->calls, &options, error);
}

static enum status start(struct server *server, struct error *error) {
    TRY(directory_open(server->options.directory, false, on_store_fatal, server, &server->data,
                       error));
    TRY(directory_keys_open(server->options.directory, &server->keys, error));
    TRY(restore(server, error));
    const struct run_state *run = coordinator_state_run(server->state);
    TRY(start_evaluator(server, error));
    TRY(start_workers(server, run, error));
    open_calls(server, run);
    TRY(start_loop(server, error));
    return listen_here(server, error);
}

enum status server_start(const struct server_options *options, struct server **out,
                         struct error *error) {
    struct server *server = xcalloc(1, sizeof *server);
    server->options = *options;
    sem_init(&server->ended, 0, 0);
    server->disk = disk_watch_create();
    server->loop = loop_create(); /* before those who post to it */
    enum status status = start(server, error);
    if (status == OK)
        *out = server;
    else
        server_destroy(server);
    return status;
}

uint16_t server_port(const struct server *server) { return calls_port(server->calls); }

/* ---- stop ------------------------------------------------------------------------------------ */

enum status server_wait(struct server *server, struct error *error) {
    while (sem_wait(&server->ended) != 0 && errno == EINTR) {}
    if (!atomic_load(&server->broken)) return OK;
    return error_set(error, server->halted ? CORRUPT : FAILED, "%s", server->reason);
}

void server_stop(struct server *server) {
    if (!atomic_exchange(&server->stopping, true)) sem_post(&server->ended);
}

/* The loop may command the others, and they tell it: so it ends first, and what they still say is
 * dropped. What is not durable by now was not acknowledged. */
void server_destroy(struct server *server) {
    if (!server) return;
    atomic_store(&server->stopping, true);
    ending_limit(CLOSE_LIMIT_S, EXIT_FAILURE, "closing the network");
    calls_stop(server->calls);
    ending_limit(SAVE_LIMIT_S, EXIT_FAILURE, "finishing what was under way, and writing it");
    loop_stop(server->loop);
    intake_stop(server->intake);
    publisher_stop(server->publisher);
    model_thread_stop(server->model_thread);
    evaluator_stop(server->evaluator);
    directory_close(&server->data); /* commits what it has; the loop takes nothing any more */
    loop_destroy(server->loop);
    ending_limit(0, 0, NULL);
    layout_deinit(&server->layout);
    buffer_deinit(&server->layout_text);
    directory_keys_close(&server->keys);
    coordinator_state_destroy(server->state);
    model_state_deinit(&server->model);
    ledger_queue_destroy(server->ledger);
    calls_destroy(server->calls);
    disk_watch_destroy(server->disk);
    sem_destroy(&server->ended);
    free(server);
}
