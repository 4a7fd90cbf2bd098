/* Creation, references and freeing of calls (rpc/call_internal.h). A crash in here is nearly
 * always a reference that was released twice or never taken. */
#include <grpc/slice.h>
#include <stdlib.h>

#include "base/memory.h"
#include "rpc/call_internal.h"
#include "rpc/call_outcome.h"

struct rpc_call *call_create(const struct call_setup *setup) {
    struct rpc_call *call = xcalloc(1, sizeof *call);
    call->queue = setup->queue;
    call->handler = setup->handler;
    call->path = xstrdup(setup->method.path);
    call->method = setup->method;
    call->method.path = call->path;
    call->address = setup->address ? xstrdup(setup->address) : NULL;
    call->proxy = setup->proxy ? xstrdup(setup->proxy) : NULL;
    call->server = setup->server;
    call->wait_for_connection = setup->wait_for_connection;
    call->max_message_size = setup->max_message_size;
    call->write_queue = setup->write_queue;
    call->timeout_ms = setup->timeout_ms;
    call->after_closed = setup->after_closed;
    call->after_closed_context = setup->after_closed_context;
    call->user = setup->user;
    call->references = 1;
    call->core = setup->core;
    call->inside = 1;
    call->last = &call->first;
    pthread_mutex_init(&call->lock, NULL);
    grpc_metadata_array_init(&call->initial_metadata);
    grpc_metadata_array_init(&call->trailing_metadata);
    call->status_details = grpc_empty_slice();
    call->send_tag = (struct tag){call_send_back, call};
    call->read_tag = (struct tag){call_read_back, call};
    call->end_tag = (struct tag){call_end_back, call};
    call->headers_tag = (struct tag){call_headers_back, call};
    if (call->server) call_find_peer(call);
    engine_call_added(call->queue, call);
    return call;
}

struct rpc_call *rpc_call_retain(struct rpc_call *call) {
    atomic_fetch_add(&call->references, 1);
    return call;
}

void rpc_call_release(struct rpc_call *call) {
    if (!call || atomic_fetch_sub(&call->references, 1) != 1) return;
    pthread_mutex_destroy(&call->lock);
    for (size_t i = 0; i < COUNT_OF(call->peer_texts); i++) free(call->peer_texts[i]);
    free(call->path);
    free(call->address);
    free(call->proxy);
    free(call->finish_message);
    free(call);
}

void call_drop_messages(struct outgoing *list) {
    while (list) {
        struct outgoing *next = list->next;
        grpc_byte_buffer_destroy(list->message);
        free(list);
        list = next;
    }
}

/* Under lock. */
struct outgoing *call_detach_messages(struct rpc_call *call) {
    struct outgoing *list = call->first;
    for (struct outgoing *one = list; one; one = one->next) call->queued--;
    call->first = NULL;
    call->last = &call->first;
    return list;
}

/* A thread leaves the library; the last one takes the core with it. */
void call_leave(struct rpc_call *call) {
    grpc_call *core = NULL;
    pthread_mutex_lock(&call->lock);
    if (--call->inside == 0) {
        core = call->core;
        call->core = NULL;
    }
    pthread_mutex_unlock(&call->lock);
    if (!core) return;
    grpc_call_unref(core);
    engine_call_gone(call->queue, call);
    rpc_call_release(call);
}

/* On the queue's thread, after each tag: delivers the end once nothing is under way any more. */
void call_close_if_over(struct rpc_call *call) {
    pthread_mutex_lock(&call->lock);
    bool over = call->ended && call->outstanding == 0 && !call->closed;
    struct outgoing *left = NULL;
    if (over) {
        call->closed = true;
        call->deadline_ms = 0;
        left = call_detach_messages(call);
    }
    pthread_mutex_unlock(&call->lock);
    if (!over) return;
    call_drop_messages(left);
    call_deliver_outcome(call);
    if (call->after_closed) call->after_closed(call->after_closed_context, call);
    grpc_metadata_array_destroy(&call->initial_metadata);
    grpc_metadata_array_destroy(&call->trailing_metadata);
    grpc_slice_unref(call->status_details);
    buffer_deinit(&call->message);
    call_leave(call);
}
