/* One core server (rpc/listener.h): its TLS material, the way in for connections, and the requests
 * that are always outstanding on each queue. */
#include "rpc/listener.h"

#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <stdlib.h>

#include "base/memory.h"
#include "rpc/arguments.h"

enum { REQUESTS_PER_QUEUE = 16 };

/* How the library takes a connection that somebody else accepted: a C++ object, made by it under
 * the name of an address that begins with "external:" and put where an argument of that name
 * points. What gRPC's own C++ layer calls on it is its one method, behind the two destructors in
 * its table. This is the layout that every C++ compiler for Linux gives
 *     class TcpServerFdHandler {
 *         virtual ~TcpServerFdHandler();
 *         virtual void Handle(int listener_fd, int fd, grpc_byte_buffer* pending_read) = 0;
 *     };
 * and it is the same in all releases of gRPC core from 1.20 to 1.60. */
#define WAY_IN "external:atoll"
struct way_in;
struct way_in_table {
    void (*destroy[2])(struct way_in *way_in);
    void (*handle)(struct way_in *way_in, int listening, int descriptor, grpc_byte_buffer *read);
};
struct way_in {
    const struct way_in_table *table;
};

struct fetcher { /* what the library has been given last */
    struct material *material;
    uint64_t generation;
};

struct listener_request { /* a standing request for the next call */
    struct listener *listener;
    struct engine_queue *queue;
    struct tag tag;
    grpc_call *core;
    grpc_call_details details;
    grpc_metadata_array metadata;
};

struct listener {
    struct engine *engine;
    grpc_server *core;
    listener_accept *accept;
    void *context;
    struct fetcher fetcher;
    struct way_in *way_in;
    struct listener_request *requests;
    size_t request_count;
    struct tag shut_tag;
    bool shut, core_over;    /* under engine->lock */
    size_t requests_pending; /* under engine->lock */
};

/* The library asks at each handshake, one at a time. */
static grpc_ssl_certificate_config_reload_status
fetch(void *context, grpc_ssl_server_certificate_config **config) {
    struct fetcher *fetcher = context;
    struct material *material = fetcher->material;
    pthread_mutex_lock(&material->lock);
    bool news = fetcher->generation != material->generation;
    if (news) {
        grpc_ssl_pem_key_cert_pair pair = {material->private_key, material->chain};
        *config = grpc_ssl_server_certificate_config_create(material->client_ca, &pair, 1);
        fetcher->generation = material->generation;
    }
    pthread_mutex_unlock(&material->lock);
    return news ? GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW
                : GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
}

static void request_next(struct listener_request *request) {
    grpc_call_details_init(&request->details);
    grpc_metadata_array_init(&request->metadata);
    request->core = NULL;
    queue_posts(request->queue);
    grpc_call_error result = grpc_server_request_call(
        request->listener->core, &request->core, &request->details, &request->metadata,
        request->queue->core, request->queue->core, &request->tag);
    ASSERT(result == GRPC_CALL_OK);
}

static void request_clear(struct listener_request *request) {
    grpc_call_details_destroy(&request->details);
    grpc_metadata_array_destroy(&request->metadata);
}

static void on_request_back(void *owner, bool ok) {
    struct listener_request *request = owner;
    struct listener *listener = request->listener;
    grpc_call *core = request->core;
    char *path = ok ? grpc_slice_to_c_string(request->details.method) : NULL;
    request_clear(request);
    pthread_mutex_lock(&listener->engine->lock);
    bool again = ok && !listener->shut;
    if (!again && --listener->requests_pending == 0)
        pthread_cond_broadcast(&listener->engine->changed);
    pthread_mutex_unlock(&listener->engine->lock);
    /* If it is shut in between, the library hands this request back at once as failed. */
    if (again) request_next(request);
    if (ok) listener->accept(listener->context, request->queue, core, path);
    gpr_free(path);
}

static void on_shut_back(void *owner, bool ok) {
    (void)ok;
    struct listener *listener = owner;
    pthread_mutex_lock(&listener->engine->lock);
    listener->core_over = true;
    pthread_cond_broadcast(&listener->engine->changed);
    pthread_mutex_unlock(&listener->engine->lock);
}

static void *way_in_copy(void *way_in) { return way_in; }
static void way_in_destroy(void *way_in) { (void)way_in; }
static int way_in_compare(void *a, void *b) { return (a > b) - (a < b); }
static const grpc_arg_pointer_vtable way_in_vtable = {way_in_copy, way_in_destroy, way_in_compare};

static grpc_server *create_core(const struct rpc_server_options *options, struct way_in **way_in) {
    struct rpc_arguments arguments = {0};
    arguments_common(&arguments, options->max_message_size, options->keepalive_time_ms,
                     options->keepalive_timeout_ms);
    arguments_pointer(&arguments, WAY_IN, way_in, &way_in_vtable);
    arguments_integer(&arguments, GRPC_ARG_MAX_CONCURRENT_STREAMS, options->max_calls_connection);
    arguments_integer(&arguments, GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS,
                      options->handshake_timeout_ms);
    /* Clients' keepalive is not an attack: without this they earn a GOAWAY "too_many_pings". */
    arguments_integer(&arguments, GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5000);
    arguments_integer(&arguments, GRPC_ARG_MAX_METADATA_SIZE, 16 * 1024);
    if (options->max_connection_age_ms > 0)
        arguments_integer(&arguments, GRPC_ARG_MAX_CONNECTION_AGE_MS,
                          options->max_connection_age_ms);
    grpc_resource_quota *quota = grpc_resource_quota_create("atoll");
    grpc_resource_quota_resize(quota, options->memory_quota);
    arguments_pointer(&arguments, GRPC_ARG_RESOURCE_QUOTA, quota, grpc_resource_quota_arg_vtable());
    grpc_channel_args core_arguments = arguments_core(&arguments);
    grpc_server *core = grpc_server_create(&core_arguments, NULL);
    grpc_resource_quota_unref(quota);
    return core;
}

static enum status open_way_in(struct listener *listener, const struct rpc_server_options *options,
                               struct material *material, struct error *error) {
    listener->fetcher.material = material;
    grpc_server_credentials *credentials = grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(
            options->certificate.client_ca ? GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY
                                           : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE,
            fetch, &listener->fetcher));
    (void)grpc_server_add_http2_port(listener->core, WAY_IN, credentials);
    grpc_server_credentials_release(credentials);
    if (listener->way_in) return OK;
    return error_set(error, UNAVAILABLE,
                     "gRPC core %s takes no connections from outside: install a release from 1.20 "
                     "to 1.60 (Debian 12 has 1.51)",
                     grpc_version_string());
}

enum status listener_open(struct engine *engine, const struct rpc_server_options *options,
                          struct material *material, listener_accept *accept, void *context,
                          struct listener **out, struct error *error) {
    struct listener *listener = xcalloc(1, sizeof *listener);
    listener->engine = engine;
    listener->accept = accept;
    listener->context = context;
    listener->shut_tag = (struct tag){on_shut_back, listener};
    listener->core = create_core(options, &listener->way_in);
    for (uint32_t i = 0; i < engine->count; i++)
        grpc_server_register_completion_queue(listener->core, engine->queues[i].core, NULL);
    enum status status = open_way_in(listener, options, material, error);
    grpc_server_start(listener->core); /* in any case: the orderly way out is the same */
    if (status != OK) {
        listener_shut(listener);
        pthread_mutex_lock(&engine->lock);
        while (!listener->core_over) pthread_cond_wait(&engine->changed, &engine->lock);
        pthread_mutex_unlock(&engine->lock);
        listener_close(listener);
        return status;
    }
    listener->request_count = (size_t)engine->count * REQUESTS_PER_QUEUE;
    listener->requests_pending = listener->request_count;
    listener->requests = xcalloc(listener->request_count, sizeof *listener->requests);
    *out = listener; /* before the first call can come */
    for (size_t i = 0; i < listener->request_count; i++) {
        struct listener_request *request = &listener->requests[i];
        request->listener = listener;
        request->queue = &engine->queues[i % engine->count];
        request->tag = (struct tag){on_request_back, request};
        request_next(request);
    }
    return OK;
}

void listener_give(struct listener *listener, int descriptor) {
    listener->way_in->table->handle(listener->way_in, -1, descriptor, NULL);
}

void listener_shut(struct listener *listener) {
    pthread_mutex_lock(&listener->engine->lock);
    bool first = !listener->shut;
    listener->shut = true;
    pthread_mutex_unlock(&listener->engine->lock);
    if (!first) return;
    queue_posts(&listener->engine->queues[0]);
    grpc_server_shutdown_and_notify(listener->core, listener->engine->queues[0].core,
                                    &listener->shut_tag);
}

bool listener_is_over(struct listener *listener) {
    pthread_mutex_lock(&listener->engine->lock);
    bool over = listener->core_over && listener->requests_pending == 0;
    pthread_mutex_unlock(&listener->engine->lock);
    return over;
}

void listener_cancel_calls(struct listener *listener) {
    grpc_server_cancel_all_calls(listener->core);
}

void listener_close(struct listener *listener) {
    grpc_server_destroy(listener->core);
    free(listener->requests);
    free(listener);
}
