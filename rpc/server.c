/* Threads of a server: the engine's queue threads run callbacks; one watch thread looks twice a
 * second at the connections and at the listener. Stop order: the watch first (so that no listener
 * is opened behind our back), then the listeners, the calls, the queues, and last the core servers.
 */
#include "rpc/server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"
#include "rpc/call_internal.h"
#include "rpc/connections.h"
#include "rpc/environment.h"
#include "rpc/environment_internal.h"
#include "rpc/listener.h"

enum { WATCH_MS = 500, LISTENERS_MAX = 8, CANCEL_WAIT_MS = 200 };

struct rpc_server {
    struct rpc_server_options
        options; /* with defaults filled in; pointers into the caller's memory are replaced */
    char **addresses;
    struct rpc_server_method *methods;
    struct engine *engine;
    struct material material;
    uint16_t port; /* fixed once the first listener is open */

    struct thread *watch;
    pthread_mutex_t lock;
    pthread_cond_t stop_changed;
    bool stopping;                             /* under lock */
    struct listener *listeners[LISTENERS_MAX]; /* the watch's own while it runs, then close's; [0]
                                                  is the one that accepts */
    size_t listener_count;
    bool listening;
    uint64_t accept_failures_seen;

    _Atomic uint64_t calls_open, calls_total, calls_refused, connections_open, connections_dropped,
        listeners_lost;
};

/* ---- calls ----------------------------------------------------------------------------------- */

static const struct rpc_handler no_handler;

static void call_has_closed(void *context) {
    struct rpc_server *server = context;
    server->calls_open--;
}

static const struct rpc_server_method *find_method(const struct rpc_server *server,
                                                   const char *path) {
    for (size_t i = 0; i < server->options.method_count; i++) {
        if (strcmp(server->methods[i].method.path, path) == 0) return &server->methods[i];
    }
    return NULL;
}

static void accept_call(void *context, struct engine_queue *queue, grpc_call *core,
                        const char *path) {
    struct rpc_server *server = context;
    const struct rpc_server_method *method = find_method(server, path);
    uint64_t open = ++server->calls_open;
    server->calls_total++;
    bool full = open > server->options.max_calls;
    bool refused = full || !method;
    struct call_setup setup = {
        .queue = queue,
        .core = core,
        .handler = refused ? &no_handler : method->handler,
        .user = refused ? NULL : method->user,
        .method = refused ? (struct rpc_method){path, true, true} : method->method,
        .timeout_ms = refused ? server->options.keepalive_timeout_ms : method->progress_timeout_ms,
        .write_queue = refused || method->write_queue == 0 ? 4 : method->write_queue,
        .max_message_size = server->options.max_message_size,
        .server = true,
        .after_closed = call_has_closed,
        .after_closed_context = server,
    };
    struct rpc_call *call = rpc_call_retain(call_create(&setup));
    call_start_server(call);
    if (refused) {
        server->calls_refused++;
        rpc_call_finish(call, full ? RPC_RESOURCE_EXHAUSTED : RPC_UNIMPLEMENTED,
                        full ? "the server has as many calls as it allows: try again later"
                             : "no such method");
    }
    rpc_call_release(call);
}

/* ---- watch ----------------------------------------------------------------------------------- */

static void watch_listener(struct rpc_server *server) {
    uint64_t failures = environment_accept_failures();
    if (failures != server->accept_failures_seen) {
        server->accept_failures_seen = failures;
        if (server->listening && server->listener_count < LISTENERS_MAX) {
            server->listeners_lost++;
            server->listening = false;
            log_warn("listener_lost", "port=%u descriptors=%llu", server->port,
                     (unsigned long long)rpc_descriptors_open());
            listener_shut(server->listeners[server->listener_count - 1]);
        }
    }
    for (size_t i = 0; i < server->listener_count; i++) { /* old ones whose last call has gone */
        bool current = server->listening && i == server->listener_count - 1;
        if (current || !listener_is_over(server->listeners[i])) continue;
        listener_close(server->listeners[i]);
        memmove(&server->listeners[i], &server->listeners[i + 1],
                (server->listener_count - i - 1) * sizeof *server->listeners);
        server->listener_count--;
        i--;
    }
    if (!server->listening) {
        struct error error = {0};
        struct listener *listener;
        uint16_t port = server->port;
        if (listener_open(server->engine, &server->options, &server->material, &port, accept_call,
                          server, &listener, &error) == OK) {
            server->listeners[server->listener_count++] = listener;
            server->listening = true;
            log_info("listener_restored", "port=%u", server->port);
        } else {
            log_warn("listener_not_restored", "port=%u reason=\"%s\"", server->port, error.message);
        }
    }
}

static void watch_connections(struct rpc_server *server) {
    struct connections seen = connections_of(server->port);
    server->connections_open = seen.count;
    if (seen.count > server->options.max_connections) {
        size_t excess = seen.count - server->options.max_connections;
        connections_drop(&seen, excess);
        server->connections_dropped += excess;
        log_warn("connections_dropped", "count=%zu limit=%u", excess,
                 server->options.max_connections);
    }
    connections_deinit(&seen);
}

static void watch_body(void *context) {
    struct rpc_server *server = context;
    pthread_mutex_lock(&server->lock);
    while (!server->stopping) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += WATCH_MS * 1000000L;
        if (until.tv_nsec >= 1000000000L) {
            until.tv_nsec -= 1000000000L;
            until.tv_sec++;
        }
        if (pthread_cond_timedwait(&server->stop_changed, &server->lock, &until) != ETIMEDOUT)
            continue;
        pthread_mutex_unlock(&server->lock);
        watch_connections(server);
        watch_listener(server);
        pthread_mutex_lock(&server->lock);
    }
    pthread_mutex_unlock(&server->lock);
}

/* ---- start and stop -------------------------------------------------------------------------- */

static void set_default(uint32_t *value, uint32_t otherwise) {
    if (*value == 0) *value = otherwise;
}

static enum status fill_in(struct rpc_server_options *options, struct error *error) {
    if (options->address_count == 0)
        return error_set(error, INVALID, "a server needs an address to listen on");
    set_default(&options->threads, MIN(thread_processor_count(), 8u));
    set_default(&options->max_message_size, 5u << 20);
    set_default(&options->max_calls, 4096);
    set_default(&options->max_calls_connection, 128);
    set_default(&options->handshake_timeout_ms, 10000);
    set_default(&options->keepalive_time_ms, 60000);
    set_default(&options->keepalive_timeout_ms, 20000);
    if (options->memory_quota == 0) options->memory_quota = 512u << 20;
    uint64_t descriptors;
    TRY(limits_raise_descriptors(&descriptors, error));
    uint32_t allowed = (uint32_t)MIN(descriptors / 2, 8192u);
    if (options->max_connections == 0 || options->max_connections > descriptors / 2)
        options->max_connections = allowed;
    if (options->threads > 64)
        return error_set(error, INVALID, "%u threads, limit 64", options->threads);
    for (size_t i = 0; i < options->method_count; i++) {
        const struct rpc_server_method *method = &options->methods[i];
        if (method->method.path[0] != '/' || !method->handler)
            return error_set(error, INVALID,
                             "method %s needs a path like /package.Service/Method and a handler",
                             method->method.path);
    }
    return OK;
}

static void free_server(struct rpc_server *server) {
    material_deinit(&server->material);
    pthread_cond_destroy(&server->stop_changed);
    pthread_mutex_destroy(&server->lock);
    for (size_t i = 0; i < server->options.address_count; i++) free(server->addresses[i]);
    free(server->addresses);
    free(server->methods);
    free(server);
    rpc_environment_close();
}

static struct rpc_server *allocate(const struct rpc_server_options *options) {
    struct rpc_server *server = xcalloc(1, sizeof *server);
    server->options = *options;
    server->addresses = xcalloc(options->address_count, sizeof *server->addresses);
    for (size_t i = 0; i < options->address_count; i++)
        server->addresses[i] = xstrdup(options->addresses[i]);
    server->options.addresses = (const char *const *)server->addresses;
    server->methods = xcalloc(options->method_count, sizeof *server->methods);
    if (options->method_count > 0)
        memcpy(server->methods, options->methods, options->method_count * sizeof *server->methods);
    server->options.methods = server->methods;
    material_init(&server->material, &options->certificate);
    /* Only whether there is a client CA is asked later: never the texts, which were the caller's.
     */
    server->options.certificate =
        (struct rpc_server_certificate){.client_ca = options->certificate.client_ca ? "" : NULL};
    server->accept_failures_seen = environment_accept_failures();
    pthread_mutex_init(&server->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&server->stop_changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return server;
}

enum status rpc_server_create(const struct rpc_server_options *given, struct rpc_server **out,
                              struct error *error) {
    struct rpc_server_options options = *given;
    TRY(fill_in(&options, error));
    TRY(rpc_environment_open(error));
    enum status status = rpc_threads_there(options.threads + 1, error); /* and the watch */
    if (status == OK) status = material_check(&options.certificate, "server's", error);
    if (status != OK) {
        rpc_environment_close();
        return status;
    }
    struct rpc_server *server = allocate(&options);
    struct listener *listener = NULL;
    status = engine_create(options.threads, "rpc-server", &server->engine, error);
    if (status != OK) goto no_engine;
    status = listener_open(server->engine, &server->options, &server->material, &server->port,
                           accept_call, server, &listener, error);
    if (status != OK) goto no_listener;
    server->listeners[server->listener_count++] = listener;
    server->listening = true;
    status = thread_start("rpc-watch", watch_body, server, &server->watch, error);
    if (status != OK) {
        rpc_server_close(server, 0);
        return status;
    }
    *out = server;
    return OK;

no_listener:
    engine_stop(server->engine);
    engine_destroy(server->engine);
no_engine:
    free_server(server);
    return status;
}

uint16_t rpc_server_port(const struct rpc_server *server) { return server->port; }

enum status rpc_server_set_certificate(struct rpc_server *server,
                                       const struct rpc_server_certificate *certificate,
                                       struct error *error) {
    if (!certificate->client_ca != !server->options.certificate.client_ca)
        return error_set(
            error, INVALID,
            "whether client certificates are asked for is fixed when the server is created");
    TRY(material_check(certificate, "server's", error));
    material_set(&server->material, certificate);
    return OK;
}

void rpc_server_count(struct rpc_server *server, struct rpc_server_counts *out) {
    *out = (struct rpc_server_counts){
        .calls_open = server->calls_open,
        .calls_total = server->calls_total,
        .calls_refused = server->calls_refused,
        .connections_open = server->connections_open,
        .connections_dropped = server->connections_dropped,
        .listeners_lost = server->listeners_lost,
    };
}

static bool all_over(struct rpc_server *server) {
    for (size_t i = 0; i < server->listener_count; i++) {
        if (!listener_is_over(server->listeners[i])) return false;
    }
    return engine_live(server->engine) == 0;
}

static bool wait_over(struct rpc_server *server, uint64_t timeout_ms) {
    uint64_t until_ms = clock_monotonic_ms() + timeout_ms;
    while (!all_over(server)) {
        if (clock_monotonic_ms() >= until_ms) return false;
        clock_sleep_ms(1);
    }
    return true;
}

void rpc_server_close(struct rpc_server *server, uint32_t grace_ms) {
    if (!server) return;
    pthread_mutex_lock(&server->lock);
    server->stopping = true;
    pthread_cond_signal(&server->stop_changed);
    pthread_mutex_unlock(&server->lock);
    enum status joined = thread_join(server->watch, UINT64_MAX);
    MUST(joined);

    for (size_t i = 0; i < server->listener_count; i++) listener_shut(server->listeners[i]);
    bool over = wait_over(server, grace_ms);
    for (uint64_t waited_ms = 0; !over; waited_ms += CANCEL_WAIT_MS) {
        /* Again and again: a call may have been on its way to us while we cancelled the others. */
        engine_cancel_all(server->engine, RPC_UNAVAILABLE, "the server is closing");
        for (size_t i = 0; i < server->listener_count; i++)
            listener_cancel_calls(server->listeners[i]);
        over = wait_over(server, CANCEL_WAIT_MS);
        if (!over && waited_ms >= 10000)
            log_warn("server_does_not_close", "calls=%llu",
                     (unsigned long long)engine_live(server->engine));
    }
    engine_stop(server->engine);
    for (size_t i = 0; i < server->listener_count; i++) listener_close(server->listeners[i]);
    engine_destroy(server->engine);
    free_server(server);
}
