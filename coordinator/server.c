/* Starts, supervises and stops the coordinator's threads (coordinator/server.h). What each thread
 * does is in the server_*.c files. */
#include "coordinator/server.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/ending.h"
#include "base/log.h"
#include "base/memory.h"
#include "codec/codec.h"
#include "coordinator/server_internal.h"
#include "rpc/environment.h"

enum { CLOSE_LIMIT_S = 60, SAVE_LIMIT_S = 600, STOP_GRACE_MS = 1500 };

static void on_store_fatal(void *context, const struct error *error) {
    server_break(context, "the store failed: %.200s", error->message);
}

static void on_broken(void *context, const char *message) { server_break(context, "%s", message); }

/* The certificate's key, not its word, says who we are: it must be the one that entry 0 names. */
static enum status check_identity(const struct server *server, const struct run_state *run, struct error *error) {
    if (memcmp(key_pair_public(server->keys.coordinator), run_state_coordinator_key(run), PUBLIC_KEY_SIZE) == 0) return OK;
    return error_set(error, INVALID, "keys/coordinator.key is not the key that this run's ledger names");
}

static enum status restore(struct server *server, struct error *error) {
    struct run_state *run = NULL;
    char quoted[256];
    struct replay_report report = {0};
    uint64_t start = clock_monotonic_ms();
    TRY(directory_restore(&server->data, server->options.checkpoint, &run, &server->model, &report, error));
    if (report.lost_payload)
        log_error("payload_lost",
                  "entry=%llu reason=%s do=\"nothing: the sites are asked for it, and the model is restored once it is here\"",
                  (unsigned long long)report.failed_entry, log_quote(error ? error->message : "", quoted, sizeof quoted));
    enum status status = check_identity(server, run, error);
    if (status != OK) {
        run_state_destroy(run);
        return status;
    }
    server->manifest = *run_state_manifest(run);
    memcpy(server->manifest_digest, run_state_manifest_digest(run), DIGEST_SIZE);
    memcpy(server->run_id, run_state_run_id(run), RUN_ID_SIZE);
    server->parameters = run_state_parameters(run);
    for (uint32_t site = 1; site <= run_state_site_count(run); site++) {
        if (run_state_site(run, site)->revoked) server->revoked[site / 8] |= (uint8_t)(1u << site % 8);
    }
    uint64_t largest = fragment_largest(server->parameters, server->manifest.fragments);
    struct coordinator_options options = {.key = server->keys.coordinator,
                                          .uploads_limit = server->options.uploads_limit,
                                          .payload_limit = codec_bound((enum codec)server->manifest.codec.kind, largest),
                                          .presence_ms = server->options.presence_ms,
                                          .retry_ms = server->options.retry_ms,
                                          .lost_ms = server->options.lost_ms,
                                          .model_behind = report.lost_payload,
                                          .new_epoch = server->options.new_epoch};
    server->state = coordinator_state_create(&options, run); /* takes run */
    ledger_open(server, run_state_size(run));
    char id[2 * RUN_ID_SIZE + 1];
    log_info("run_restored", "run=%s name=%s version=%llu entries=%llu steps_replayed=%llu parameters=%llu took_ms=%llu",
             hex_encode(server->run_id, RUN_ID_SIZE, id), server->manifest.name, (unsigned long long)run_state_version(run),
             (unsigned long long)run_state_size(run), (unsigned long long)report.steps, (unsigned long long)server->parameters,
             (unsigned long long)(clock_monotonic_ms() - start));
    struct error why = {0}; /* what is left behind may stay where it cannot be told for sure */
    if (directory_sweep(&server->data, key_pair_public(server->keys.coordinator), &why) != OK)
        log_warn("left_behind", "reason=%s", log_quote(why.message, quoted, sizeof quoted));
    return OK;
}

static enum status start_threads(struct server *server, struct error *error) {
    struct model_thread_options model = {.data = &server->data,
                                         .model = &server->model,
                                         .key = server->keys.coordinator,
                                         .manifest = &server->manifest,
                                         .snapshots_kept = server->options.snapshots_kept,
                                         .disk = server->disk,
                                         .await_ledger = ledger_await,
                                         .tell = brain_tell_event,
                                         .context = server};
    memcpy(model.run_id, server->run_id, RUN_ID_SIZE);
    TRY(model_thread_start(&model, &server->model_thread, error));
    struct intake_options intake = {.blobs = server->data.blobs,
                                    .manifest = &server->manifest,
                                    .parameters = server->parameters,
                                    .chunk_limit = server->options.chunk_limit,
                                    .disk = server->disk,
                                    .tell = brain_tell_event,
                                    .broken = on_broken,
                                    .context = server};
    TRY(intake_start(&intake, &server->intake, error));
    const struct run_state *run = coordinator_state_run(server->state);
    struct publisher_options publisher = {.data = &server->data,
                                          .key = key_pair_public(server->keys.coordinator),
                                          .chunk_limit = server->options.chunk_limit,
                                          .published = run_state_size(run),
                                          .tell = brain_tell_event,
                                          .context = server};
    TRY(publisher_start(&publisher, &server->publisher, error));
    publisher_drop(server->publisher, run);
    return thread_start("brain", brain_run, server, &server->brain_thread, error);
}

static enum status listen_here(struct server *server, struct error *error) {
    struct rpc_server_method methods[METHOD_COUNT];
    server_methods(server, methods);
    struct rpc_server_options options = {.addresses = server->options.addresses,
                                         .address_count = server->options.address_count,
                                         .certificate = {.chain = (const char *)server->keys.coordinator_pem.data,
                                                         .private_key = (const char *)server->keys.coordinator_key_pem.data,
                                                         .client_ca = (const char *)server->keys.authority_pem.data},
                                         .methods = methods,
                                         .method_count = METHOD_COUNT,
                                         .threads = server->options.rpc_threads,
                                         .max_connections = server->options.max_connections,
                                         .max_message_size = FRAME_LIMIT};
    return rpc_server_create(&options, &server->rpc, error);
}

enum status server_start(const struct server_options *options, struct server **out, struct error *error) {
    struct server *server = xcalloc(1, sizeof *server);
    server->options = *options;
    server->started_ms = clock_monotonic_ms();
    server->timer_ms = UINT64_MAX;
    pthread_mutex_init(&server->calls_lock, NULL);
    sem_init(&server->ended, 0, 0);
    server->revoked = xcalloc(SITES_LIMIT / 8 + 1, 1);
    server->reports = xcalloc(SITES_LIMIT + 1, sizeof server->reports[0]);
    server->brain_queue = queue_create(JOBS_LIMIT);
    server->disk = disk_create();
    enum status status = directory_open(options->directory, false, on_store_fatal, server, &server->data, error);
    if (status == OK) status = directory_keys_open(options->directory, &server->keys, error);
    if (status == OK) status = restore(server, error);
    if (status == OK) status = start_threads(server, error);
    if (status == OK) status = listen_here(server, error);
    if (status != OK) {
        server_destroy(server);
        return status;
    }
    *out = server;
    return OK;
}

uint16_t server_port(const struct server *server) { return rpc_server_port(server->rpc); }

enum status server_wait(struct server *server, struct error *error) {
    while (sem_wait(&server->ended) != 0 && errno == EINTR) {}
    if (!atomic_load(&server->broken)) return OK;
    return error_set(error, server->halted ? CORRUPT : FAILED, "%s", server->reason);
}

void server_stop(struct server *server) {
    if (!atomic_exchange(&server->stopping, true)) sem_post(&server->ended);
}

/* The brain may tell intake, model and publisher something, and they it: so it takes no more from them first, and what they
 * still say is dropped. What is not durable by now was not acknowledged. */
void server_destroy(struct server *server) {
    if (!server) return;
    atomic_store(&server->stopping, true);
    ending_limit(CLOSE_LIMIT_S, EXIT_FAILURE, "closing the network");
    rpc_server_close(server->rpc, STOP_GRACE_MS);
    ending_limit(SAVE_LIMIT_S, EXIT_FAILURE, "finishing what was under way, and writing it");
    if (server->brain_thread) brain_push(server, brain_item_create(BRAIN_END, NULL));
    if (thread_join(server->brain_thread, UINT64_MAX) != OK) log_error("thread_stuck", "%s", "");
    queue_close(server->brain_queue);
    intake_stop(server->intake);
    publisher_stop(server->publisher);
    model_thread_stop(server->model_thread);
    directory_close(&server->data); /* commits what it has; its callbacks find the brain's queue closed */
    void *item;
    while (queue_pop(server->brain_queue, 0, &item) == OK) {
        call_release(((struct brain_item *)item)->call);
        free(((struct brain_item *)item)->lost);
        free(item);
    }
    queue_destroy(server->brain_queue);
    ending_limit(0, 0, NULL);
    directory_keys_close(&server->keys);
    coordinator_state_destroy(server->state);
    model_state_deinit(&server->model);
    ledger_close(server);
    disk_destroy(server->disk);
    free(server->reports);
    free(server->revoked);
    free(server->calls);
    sem_destroy(&server->ended);
    pthread_mutex_destroy(&server->calls_lock);
    free(server);
}
