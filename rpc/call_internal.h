/* Inside rpc/ only: the state of a call.
 *
 * One mutex guards the state; it is held for a few instructions, never across a callback and never
 * while the library runs, because the library may use the thread that starts a batch to push out
 * other calls' bytes. Each kind of batch has one flag ("sending", "reading") set under the lock by
 * the thread that starts it and cleared by the queue's thread when its tag comes back, so two
 * threads never start the same kind at once.
 *
 * Life: `outstanding` counts tags that have not come back; when it is 0 and the end is known
 * (`ended`: no thread starts anything any more), the queue's thread delivers on_closed. `inside`
 * counts the threads that may be in the library with `core`, plus one until on_closed has returned;
 * the thread that takes it to 0 frees the core, and only then is the call off the engine's list.
 * `references` keeps the struct itself.
 */
#ifndef RPC_CALL_INTERNAL_H
#define RPC_CALL_INTERNAL_H

#include <grpc/grpc.h>
#include <pthread.h>
#include <stdatomic.h>

#include "rpc/acceptor.h"
#include "rpc/call.h"
#include "rpc/engine.h"

enum { CALL_REASON_SIZE = 1024 };

struct outgoing { /* a message that waits to be sent */
    struct outgoing *next;
    grpc_byte_buffer *message;
};

struct rpc_call {
    /* fixed from the start */
    struct engine_queue *queue;
    const struct rpc_handler *handler;
    struct rpc_method method;
    char *path;
    char *address; /* client: the channel's, for messages */
    char *proxy;   /* client: the one that the channel goes through, in words; NULL: none */
    char *peer_texts[4];
    struct rpc_peer peer;
    bool server, wait_for_connection;
    size_t max_message_size;
    uint32_t write_queue;
    void (*after_closed)(void *context, struct rpc_call *call); /* server: counts */
    void *after_closed_context;
    struct peer_key peer_key; /* server, while it is a stranger's: of its connection */
    bool stranger;

    atomic_uint references;
    _Atomic(void *) user;
    _Atomic uint64_t deadline_ms; /* 0: not waiting; the engine's scan reads it */

    struct rpc_call *next, **previous; /* under queue->lock */

    /* under lock */
    pthread_mutex_t lock;
    grpc_call *core;
    unsigned inside, outstanding;
    uint32_t timeout_ms;
    struct outgoing *first, **last; /* to be sent */
    uint32_t queued;                /* in that list, or being built for it */
    bool headers_wanted, headers_sent;
    bool sending, sending_message, wrote; /* wrote: at least one message was taken */
    bool finish_wanted, finish_sent, write_failed;
    bool reading, read_over;
    bool cancelled, ended, closed;
    enum rpc_code finish_code;
    char *finish_message;
    enum rpc_code cancel_code; /* this and the reason are fixed once `cancelled` is set */
    char cancel_reason[128];

    /* the queue's thread only */
    struct buffer message; /* the last one, reused */
    grpc_byte_buffer *incoming;
    bool got_message;
    int peer_cancelled;
    grpc_metadata_array initial_metadata, trailing_metadata;
    grpc_status_code status_code;
    grpc_slice status_details;
    struct tag send_tag, read_tag, end_tag, headers_tag;
};

struct call_setup {
    struct engine_queue *queue;
    grpc_call *core; /* taken */
    const struct rpc_handler *handler;
    void *user;
    struct rpc_method method; /* path is copied */
    const char *address, *proxy;
    uint32_t timeout_ms, write_queue;
    size_t max_message_size;
    bool server, wait_for_connection;
    void (*after_closed)(void *context, struct rpc_call *call);
    void *after_closed_context;
};

/* The reference that is returned belongs to the call's own life and goes with its end. Nothing is
 * started yet. */
struct rpc_call *call_create(const struct call_setup *setup);
/* Server: waits for the end and lets the handler see it. On the queue's thread. */
void call_start_server(struct rpc_call *call);
/* Client: sends headers and whatever was queued before. Any thread; callbacks may come before it
 * returns. */
void call_start_client(struct rpc_call *call);
/* A thread leaves the library (`inside`); the last one takes the core with it. */
void call_leave(struct rpc_call *call);
/* On the queue's thread, after each tag: delivers the end once nothing is under way any more. */
void call_close_if_over(struct rpc_call *call);
/* Under lock: takes all that waits to be sent. */
struct outgoing *call_detach_messages(struct rpc_call *call);
void call_drop_messages(struct outgoing *list);
/* The tags that come back. */
void call_send_back(void *owner, bool ok);
void call_read_back(void *owner, bool ok);
void call_headers_back(void *owner, bool ok);
void call_end_back(void *owner, bool ok);
/* The progress timeout has run out. */
void call_expire(struct rpc_call *call);

#endif
