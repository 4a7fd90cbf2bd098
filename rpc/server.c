/* Threads of a server: the engine's queue threads run callbacks; the acceptor's takes connections
 * and sends some away. Stop order: the acceptor first, then the listener, the calls, the queues,
 * and last the core server. */
#include "rpc/server.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"
#include "rpc/acceptor.h"
#include "rpc/call_internal.h"
#include "rpc/environment.h"
#include "rpc/listener.h"

enum { CANCEL_WAIT_MS = 200 };

struct rpc_server {
    /* with defaults filled in; pointers into the caller's memory are replaced */
    struct rpc_server_options options;
    char **addresses;
    struct rpc_server_method *methods;
    struct engine *engine;
    struct material material;
    struct acceptor *acceptor;
    struct listener *listener;
    uint16_t port;

    _Atomic uint64_t calls_open, calls_total, calls_refused;
};

/* ---- calls ----------------------------------------------------------------------------------- */

static const struct rpc_handler no_handler;

static void call_has_closed(void *context, struct rpc_call *call) {
    struct rpc_server *server = context;
    server->calls_open--;
    if (call->stranger) acceptor_stranger_call_over(server->acceptor, &call->peer_key);
}

static const struct rpc_server_method *find_method(const struct rpc_server *server,
                                                   const char *path) {
    for (size_t i = 0; i < server->options.method_count; i++) {
        if (strcmp(server->methods[i].method.path, path) == 0) return &server->methods[i];
    }
    return NULL;
}

/* Whose connection it came on. */
static enum place_role place_call(struct rpc_server *server, struct rpc_call *call) {
    const struct rpc_server_options *options = &server->options;
    if (!peer_key_of(call->peer.address, &call->peer_key)) return PLACE_STRANGER;
    enum place_role role = acceptor_role(server->acceptor, &call->peer_key);
    if (role == PLACE_STRANGER && call->peer.authenticated && options->who) {
        uint64_t member = 0;
        role = options->who(options->who_context, &call->peer, &member);
        if (role != PLACE_STRANGER) acceptor_claim(server->acceptor, &call->peer_key, role, member);
    }
    call->stranger =
        role == PLACE_STRANGER && acceptor_stranger_call(server->acceptor, &call->peer_key);
    return role;
}

static void accept_call(void *context, struct engine_queue *queue, grpc_call *core,
                        const char *path) {
    struct rpc_server *server = context;
    const struct rpc_server_method *method = find_method(server, path);
    uint64_t open = ++server->calls_open;
    server->calls_total++;
    bool refused = !method;
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
    bool full = place_call(server, call) != PLACE_ADMIN && open > server->options.max_calls;
    if (full) call->handler = &no_handler;
    call_start_server(call);
    if (refused || full) {
        server->calls_refused++;
        rpc_call_finish(call, full ? RPC_RESOURCE_EXHAUSTED : RPC_UNIMPLEMENTED,
                        full ? "the server has as many calls as it allows: try again later"
                             : "no such method");
    }
    rpc_call_release(call);
}

static void give_connection(void *context, int descriptor) {
    struct rpc_server *server = context;
    listener_give(server->listener, descriptor);
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
    acceptor_close(server->acceptor);
    material_deinit(&server->material);
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
    return server;
}

enum status rpc_server_create(const struct rpc_server_options *given, struct rpc_server **out,
                              struct error *error) {
    struct rpc_server_options options = *given;
    TRY(fill_in(&options, error));
    TRY(rpc_environment_open(error));
    enum status status = rpc_threads_there(options.threads + 1, error); /* and the acceptor's */
    if (status == OK) status = material_check(&options.certificate, "server's", error);
    if (status != OK) {
        rpc_environment_close();
        return status;
    }
    struct rpc_server *server = allocate(&options);
    status = engine_create(options.threads, "rpc-server", &server->engine, error);
    if (status != OK) goto no_engine;
    status = acceptor_open(&server->options, &server->acceptor, &server->port, error);
    if (status != OK) goto no_listener;
    status = listener_open(server->engine, &server->options, &server->material, accept_call, server,
                           &server->listener, error);
    if (status != OK) goto no_listener;
    status = acceptor_start(server->acceptor, give_connection, server, error);
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
    };
    acceptor_count(server->acceptor, &out->connections_open, &out->connections_dropped);
}

static bool all_over(struct rpc_server *server) {
    return listener_is_over(server->listener) && engine_live(server->engine) == 0;
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
    acceptor_stop(server->acceptor);
    listener_shut(server->listener);
    bool over = wait_over(server, grace_ms);
    for (uint64_t waited_ms = 0; !over; waited_ms += CANCEL_WAIT_MS) {
        /* Again and again: a call may have been on its way to us while we cancelled the others. */
        engine_cancel_all(server->engine, RPC_UNAVAILABLE, "the server is closing");
        listener_cancel_calls(server->listener);
        over = wait_over(server, CANCEL_WAIT_MS);
        if (!over && waited_ms >= 10000)
            log_warn("server_does_not_close", "calls=%llu",
                     (unsigned long long)engine_live(server->engine));
    }
    engine_stop(server->engine);
    listener_close(server->listener);
    engine_destroy(server->engine);
    free_server(server);
}
