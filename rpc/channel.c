/* The calling side (rpc/channel.h): a gRPC channel per connection, TLS with our certificate,
 * blocking unary calls on top of the callbacks. */
#include "rpc/channel.h"

#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/address.h"
#include "base/memory.h"
#include "rpc/arguments.h"
#include "rpc/call_internal.h"
#include "rpc/environment.h"
#include "rpc/listener.h"
#include "rpc/message.h"
#include "rpc/proxy.h"

enum { CONNECTIONS_MAX = 16 };

struct rpc_channel {
    struct engine *engine;
    grpc_channel *cores[CONNECTIONS_MAX];
    uint32_t count;
    char *address;
    struct rpc_proxy proxy;
    uint32_t max_message_size, write_queue;
    pthread_mutex_t lock;
    bool closing;  /* under lock */
    uint32_t turn; /* under lock */
};

/* ---- open and close -------------------------------------------------------------------------- */

static bool is_pem(const char *text) { return text && strstr(text, "-----BEGIN"); }

static enum status check(const struct rpc_channel_options *options, struct error *error) {
    if (!options->address || !*options->address)
        return error_set(error, INVALID, "the server's address is missing");
    TRY(address_check_connect(options->address, error));
    if (!is_pem(options->root_ca))
        return error_set(error, INVALID, "the root certificate is not PEM");
    if (!options->chain != !options->private_key)
        return error_set(error, INVALID, "a certificate and its private key go together");
    if (options->chain && !is_pem(options->chain))
        return error_set(error, INVALID, "the client's certificate chain is not PEM");
    if (options->private_key && !is_pem(options->private_key))
        return error_set(error, INVALID, "the client's private key is not PEM");
    if (options->connections > CONNECTIONS_MAX)
        return error_set(error, INVALID, "%u connections, limit %d", options->connections,
                         CONNECTIONS_MAX);
    if (options->threads > 64)
        return error_set(error, INVALID, "%u threads, limit 64", options->threads);
    return OK;
}

/* Names of the library's own, not in its headers: its proxy support reads the environment once for
 * all channels, its list of exceptions without names' borders, and hides what is wrong with either.
 */
#define CONNECT_SERVER "grpc.http_connect_server"
#define CONNECT_HEADERS "grpc.http_connect_headers"

static grpc_channel *create_core(const struct rpc_channel_options *options,
                                 const struct rpc_proxy *proxy) {
    grpc_ssl_pem_key_cert_pair pair = {options->private_key, options->chain};
    grpc_channel_credentials *credentials =
        grpc_ssl_credentials_create_ex(options->root_ca, options->chain ? &pair : NULL, NULL, NULL);
    if (!credentials) return NULL;
    struct rpc_arguments arguments = {0};
    arguments_common(&arguments, options->max_message_size ? options->max_message_size : 5u << 20,
                     options->keepalive_time_ms ? options->keepalive_time_ms : 60000,
                     options->keepalive_timeout_ms ? options->keepalive_timeout_ms : 20000);
    /* Channels with equal settings would otherwise share one connection. */
    arguments_integer(&arguments, GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    /* Repeating is the callers' decision: they know what is idempotent. It also keeps copies of
     * what was sent. */
    arguments_integer(&arguments, GRPC_ARG_ENABLE_RETRIES, 0);
    arguments_integer(&arguments, GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
    arguments_integer(&arguments, GRPC_ARG_ENABLE_HTTP_PROXY, 0); /* rpc/proxy.h decides */
    struct address server = {0}; /* the library copies what it is told */
    if (proxy->address &&
        address_parse(options->address, ADDRESS_TO_CONNECT, &server, NULL) == OK) {
        arguments_text(&arguments, CONNECT_SERVER, options->address);
        if (proxy->header) arguments_text(&arguments, CONNECT_HEADERS, proxy->header);
        /* Else the library takes the proxy for the server, and needs the certificate to name it. */
        arguments_text(&arguments, GRPC_ARG_DEFAULT_AUTHORITY,
                       options->server_name ? options->server_name : options->address);
        if (!options->server_name)
            arguments_text(&arguments, GRPC_SSL_TARGET_NAME_OVERRIDE_ARG, server.host);
    }
    arguments_integer(&arguments, GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
    arguments_integer(&arguments, GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
    arguments_integer(&arguments, GRPC_ARG_DNS_MIN_TIME_BETWEEN_RESOLUTIONS_MS, 1000);
    if (options->server_name)
        arguments_text(&arguments, GRPC_SSL_TARGET_NAME_OVERRIDE_ARG, options->server_name);
    grpc_channel_args core_arguments = arguments_core(&arguments);
    grpc_channel *core = grpc_channel_create(proxy->address ? proxy->address : options->address,
                                             credentials, &core_arguments);
    grpc_channel_credentials_release(credentials);
    return core;
}

static void free_channel(struct rpc_channel *channel) {
    for (uint32_t i = 0; i < channel->count; i++) grpc_channel_destroy(channel->cores[i]);
    if (channel->engine) {
        engine_stop(channel->engine);
        engine_destroy(channel->engine);
    }
    pthread_mutex_destroy(&channel->lock);
    free(channel->address);
    rpc_proxy_deinit(&channel->proxy);
    free(channel);
    rpc_environment_close();
}

enum status rpc_channel_open(const struct rpc_channel_options *options, struct rpc_channel **out,
                             struct error *error) {
    TRY(check(options, error));
    TRY(rpc_environment_open(error));
    if (options->chain) {
        /* Asked of the server's side, which says at once what a channel would only say at its first
         * call. */
        struct rpc_server_certificate own = {options->chain, options->private_key,
                                             options->root_ca};
        enum status usable = material_check(&own, "client's", error);
        if (usable != OK) {
            rpc_environment_close();
            return usable;
        }
    }
    uint32_t threads = options->threads ? options->threads : 1;
    enum status there = rpc_threads_there(threads, error);
    if (there != OK) {
        rpc_environment_close();
        return there;
    }
    struct rpc_channel *channel = xcalloc(1, sizeof *channel);
    pthread_mutex_init(&channel->lock, NULL);
    channel->address = xstrdup(options->address);
    channel->max_message_size = options->max_message_size ? options->max_message_size : 5u << 20;
    channel->write_queue = options->write_queue ? options->write_queue : 4;
    enum status status =
        rpc_proxy_choose(options->proxy, options->address, environ, &channel->proxy, error);
    if (status == OK) status = engine_create(threads, "rpc-channel", &channel->engine, error);
    for (uint32_t i = 0; status == OK && i < MAX(options->connections, 1u); i++) {
        grpc_channel *core = create_core(options, &channel->proxy);
        if (core)
            channel->cores[channel->count++] = core;
        else
            status = error_set(error, INVALID, "TLS cannot use the root certificate");
    }
    if (status != OK) {
        free_channel(channel);
        return status;
    }
    *out = channel;
    return OK;
}

void rpc_channel_close(struct rpc_channel *channel) {
    if (!channel) return;
    pthread_mutex_lock(&channel->lock);
    channel->closing = true;
    pthread_mutex_unlock(&channel->lock);
    engine_cancel_all(channel->engine, RPC_CANCELLED, "the channel is closing");
    enum status idle = engine_wait_idle(channel->engine, UINT64_MAX);
    MUST(idle);
    free_channel(channel);
}

/* ---- calls ----------------------------------------------------------------------------------- */

static const struct rpc_call_options no_options;

/* The returned call is not started; it has the caller's reference besides its own. */
static enum status begin(struct rpc_channel *channel, const struct rpc_method *method,
                         const struct rpc_call_options *options, const struct rpc_handler *handler,
                         void *user, struct rpc_call **out, struct error *error) {
    if (!options) options = &no_options;
    if (options->connection > channel->count)
        return error_set(error, INVALID, "connection %u of %u", options->connection,
                         channel->count);
    enum status status = OK;
    pthread_mutex_lock(&channel->lock);
    if (channel->closing) {
        status = error_set(error, CANCELLED, "the channel to %s is closing", channel->address);
    } else {
        uint32_t turn = channel->turn++;
        uint32_t connection =
            options->connection > 0 ? options->connection - 1 : turn % channel->count;
        struct engine_queue *queue = &channel->engine->queues[turn % channel->engine->count];
        grpc_slice path = grpc_slice_from_copied_string(method->path);
        grpc_call *core = grpc_channel_create_call(channel->cores[connection], NULL,
                                                   GRPC_PROPAGATE_DEFAULTS, queue->core, path, NULL,
                                                   gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
        grpc_slice_unref(path);
        struct call_setup setup = {
            .queue = queue,
            .core = core,
            .handler = handler,
            .user = user,
            .method = *method,
            .address = channel->address,
            .proxy = channel->proxy.described,
            .timeout_ms = options->progress_timeout_ms,
            .write_queue = channel->write_queue,
            .max_message_size = channel->max_message_size,
            .wait_for_connection = options->wait_for_connection,
        };
        *out = rpc_call_retain(call_create(&setup));
    }
    pthread_mutex_unlock(&channel->lock);
    return status;
}

enum status rpc_channel_call(struct rpc_channel *channel, const struct rpc_method *method,
                             const struct rpc_call_options *options,
                             const struct rpc_handler *handler, void *user, struct rpc_call **out,
                             struct error *error) {
    struct rpc_call *call;
    TRY(begin(channel, method, options, handler, user, &call, error));
    *out = call; /* before the first callback */
    call_start_client(call);
    return OK;
}

struct unary {
    rpc_reply_function *on_reply;
    void *user;
    struct buffer reply;
};

static void unary_message(struct rpc_call *call, void *user, struct buffer *message) {
    (void)call;
    struct unary *unary = user;
    unary->reply = *message;
    *message = (struct buffer){0};
}

static void unary_closed(struct rpc_call *call, void *user, const struct rpc_outcome *outcome) {
    (void)call;
    struct unary *unary = user;
    if (outcome->status != OK) unary->reply.size = 0;
    unary->on_reply(unary->user, outcome, &unary->reply);
    buffer_deinit(&unary->reply);
    free(unary);
}

static const struct rpc_handler unary_handler = {.on_message = unary_message,
                                                 .on_closed = unary_closed};

enum status rpc_channel_unary(struct rpc_channel *channel, const char *path,
                              const struct rpc_call_options *options,
                              const struct rpc_piece *pieces, size_t count,
                              rpc_reply_function *on_reply, void *user, struct error *error) {
    TRY(message_check(pieces, count, channel->max_message_size, error));
    struct unary *unary = xcalloc(1, sizeof *unary);
    unary->on_reply = on_reply;
    unary->user = user;
    struct rpc_method method = {.path = path};
    struct rpc_call *call;
    enum status status = begin(channel, &method, options, &unary_handler, unary, &call, error);
    if (status != OK) {
        free(unary);
        return status;
    }
    if (rpc_call_write(call, pieces, count) !=
        OK) { /* cancelled already, by rpc_channel_close: on_reply will say so */
        for (size_t i = 0; i < count; i++) {
            if (pieces[i].release) pieces[i].release(pieces[i].context);
        }
    }
    call_start_client(call);
    rpc_call_release(call);
    return OK;
}

struct channel_waiter {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done;
    enum rpc_code code;
    struct error *error;
    enum status status;
    struct buffer *reply;
};

static void wake(void *user, const struct rpc_outcome *outcome, struct buffer *reply) {
    struct channel_waiter *waiter = user;
    pthread_mutex_lock(&waiter->lock);
    waiter->status = outcome->status;
    waiter->code = outcome->code;
    if (outcome->status != OK)
        error_set(waiter->error, outcome->status, "%s", outcome->message);
    else
        buffer_append(waiter->reply, reply->data, reply->size);
    waiter->done = true;
    pthread_cond_signal(&waiter->changed);
    pthread_mutex_unlock(&waiter->lock);
}

enum status rpc_channel_unary_wait(struct rpc_channel *channel, const char *path,
                                   const struct rpc_call_options *options, struct bytes request,
                                   struct buffer *reply, enum rpc_code *code, struct error *error) {
    struct channel_waiter waiter = {.error = error, .reply = reply};
    pthread_mutex_init(&waiter.lock, NULL);
    pthread_cond_init(&waiter.changed, NULL);
    struct rpc_piece piece = rpc_piece_of(request);
    enum status status = rpc_channel_unary(channel, path, options, &piece, 1, wake, &waiter, error);
    if (status == OK) {
        pthread_mutex_lock(&waiter.lock);
        while (!waiter.done) pthread_cond_wait(&waiter.changed, &waiter.lock);
        pthread_mutex_unlock(&waiter.lock);
        status = waiter.status;
        if (code) *code = waiter.code;
    }
    pthread_cond_destroy(&waiter.changed);
    pthread_mutex_destroy(&waiter.lock);
    return status;
}
