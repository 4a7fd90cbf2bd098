/* A blocking view of a call (node/stream.h): callbacks from rpc/ fill a small queue under a mutex,
 * one thread of the site reads and writes with deadlines. */
#include "node/stream.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"

struct stream {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct rpc_call *call;
    struct traffic *traffic;
    bool reading; /* a message is asked for */
    bool has_message;
    struct buffer message;
    bool writable; /* something changed since the last FULL */
    bool closed;
    struct error outcome; /* once closed; status OK: ended well */
};

void traffic_up(struct traffic *traffic, size_t message_size) {
    if (traffic) atomic_fetch_add(&traffic->up, message_size + MESSAGE_OVERHEAD);
}

void traffic_down(struct traffic *traffic, size_t message_size) {
    if (traffic) atomic_fetch_add(&traffic->down, message_size + MESSAGE_OVERHEAD);
}

static void on_message(struct rpc_call *call, void *user, struct buffer *message) {
    (void)call;
    struct stream *stream = user;
    traffic_down(stream->traffic, message->size);
    pthread_mutex_lock(&stream->lock);
    stream->message = *message;
    *message = (struct buffer){0};
    stream->has_message = true;
    stream->reading = false;
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
}

static void on_writable(struct rpc_call *call, void *user) {
    (void)call;
    struct stream *stream = user;
    pthread_mutex_lock(&stream->lock);
    stream->writable = true;
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
}

static void on_closed(struct rpc_call *call, void *user, const struct rpc_outcome *outcome) {
    (void)call;
    struct stream *stream = user;
    pthread_mutex_lock(&stream->lock);
    stream->closed = true;
    if (outcome->status == OK)
        stream->outcome.status = OK;
    else
        error_set(&stream->outcome, outcome->status, "%s", outcome->message);
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
}

enum status stream_open(struct rpc_channel *channel, enum service_method method,
                        uint32_t timeout_ms, struct traffic *traffic, struct stream **out,
                        struct error *error) {
    static const struct rpc_handler handler = {
        .on_message = on_message, .on_writable = on_writable, .on_closed = on_closed};
    /* rpc/ keeps the method by reference: it must outlive the channel. */
    static struct rpc_method methods[METHOD_COUNT];
    static pthread_mutex_t methods_lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&methods_lock);
    if (!methods[method].path)
        methods[method] = (struct rpc_method){service_path(method), service_client_streams(method),
                                              service_server_streams(method)};
    pthread_mutex_unlock(&methods_lock);

    struct stream *stream = xcalloc(1, sizeof *stream);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&stream->lock, NULL);
    pthread_cond_init(&stream->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    stream->traffic = traffic;
    struct rpc_call_options options = {.progress_timeout_ms = timeout_ms,
                                       .wait_for_connection = timeout_ms > 0};
    struct rpc_call *call = NULL;
    enum status status =
        rpc_channel_call(channel, &methods[method], &options, &handler, stream, &call, error);
    if (status != OK) {
        stream->closed = true;
        stream_close(stream);
        return status;
    }
    stream->call = call;
    *out = stream;
    return OK;
}

/* With the lock: what ended the call, as a status for the owner. */
static enum status ended(struct stream *stream, struct error *error) {
    if (stream->outcome.status == OK)
        return error_set(error, NOT_FOUND, "the peer has ended the call");
    if (error) *error = stream->outcome;
    return stream->outcome.status;
}

enum status stream_write(struct stream *stream, struct bytes head, struct bytes payload,
                         struct error *error) {
    struct rpc_piece pieces[2] = {rpc_piece_of(head), rpc_piece_of(payload)};
    for (;;) {
        pthread_mutex_lock(&stream->lock);
        stream->writable = false;
        bool closed = stream->closed;
        enum status status = closed ? ended(stream, error) : OK;
        pthread_mutex_unlock(&stream->lock);
        if (closed) return status;
        status = rpc_call_write(stream->call, pieces, payload.size ? 2 : 1);
        if (status == OK) {
            traffic_up(stream->traffic, head.size + payload.size);
            return OK;
        }
        if (status == INVALID)
            return error_set(error, INVALID, "a message of %zu bytes cannot be sent",
                             head.size + payload.size);
        /* FULL: on_writable will follow. CANCELLED: on_closed will, with the reason. */
        pthread_mutex_lock(&stream->lock);
        while (!stream->closed && !(status == FULL && stream->writable))
            pthread_cond_wait(&stream->changed, &stream->lock);
        pthread_mutex_unlock(&stream->lock);
    }
}

void stream_half_close(struct stream *stream) { rpc_call_half_close(stream->call); }

static struct timespec deadline_of(uint64_t wait_ms) {
    uint64_t at_ns = clock_monotonic_ns() + wait_ms * 1000000u;
    return (struct timespec){(time_t)(at_ns / 1000000000u), (long)(at_ns % 1000000000u)};
}

enum status stream_read(struct stream *stream, uint64_t wait_ms, struct buffer *out,
                        struct error *error) {
    enum status status = OK;
    bool forever = wait_ms > UINT32_MAX;
    struct timespec deadline = deadline_of(forever ? 0 : wait_ms);
    pthread_mutex_lock(&stream->lock);
    bool ask = !stream->has_message && !stream->reading && !stream->closed;
    if (ask) stream->reading = true;
    pthread_mutex_unlock(&stream->lock);
    if (ask) rpc_call_read(stream->call);

    pthread_mutex_lock(&stream->lock);
    while (!stream->has_message && !stream->closed && status == OK) {
        int code = forever ? pthread_cond_wait(&stream->changed, &stream->lock)
                           : pthread_cond_timedwait(&stream->changed, &stream->lock, &deadline);
        if (code == ETIMEDOUT) status = TIMEOUT;
    }
    if (stream->has_message) {
        status = OK;
        buffer_deinit(out);
        *out = stream->message;
        stream->message = (struct buffer){0};
        stream->has_message = false;
    } else if (stream->closed) {
        status = ended(stream, error);
    } else {
        error_set(error, TIMEOUT, "no message within %llu ms", (unsigned long long)wait_ms);
    }
    pthread_mutex_unlock(&stream->lock);
    return status;
}

void stream_cancel(struct stream *stream) {
    rpc_call_cancel(stream->call, RPC_CANCELLED, "this side stops");
}

void stream_close(struct stream *stream) {
    if (!stream) return;
    if (stream->call) {
        rpc_call_cancel(stream->call, RPC_CANCELLED, "this side stops");
        pthread_mutex_lock(&stream->lock);
        while (!stream->closed) pthread_cond_wait(&stream->changed, &stream->lock);
        pthread_mutex_unlock(&stream->lock);
        rpc_call_release(stream->call);
    }
    buffer_deinit(&stream->message);
    pthread_cond_destroy(&stream->changed);
    pthread_mutex_destroy(&stream->lock);
    free(stream);
}
