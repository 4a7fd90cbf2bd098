/* The life of a call between its start and its end (rpc/call.h): queues of messages,
 * back-pressure, progress timeouts, and the batches given to gRPC core. Callbacks run on the
 * thread of the call's queue; the functions of rpc/call.h may be called from any thread and take
 * the call's lock. */
#include "rpc/call.h"

#include <grpc/slice.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "rpc/call_internal.h"
#include "rpc/message.h"

static void pump(struct rpc_call *call);

/* ---- progress -------------------------------------------------------------------------------- */

/* Under lock, whenever what the call waits for may have changed; `moved` after a message or an
 * accepted write. */
static void set_clock(struct rpc_call *call, bool moved) {
    bool end_awaited = !call->server && call->read_over; /* the peer owes the status */
    bool waiting = call->reading || call->sending || end_awaited;
    if (!waiting || call->timeout_ms == 0 || call->ended || call->cancelled) {
        call->deadline_ms = 0;
    } else if (moved || call->deadline_ms == 0) {
        call->deadline_ms = clock_monotonic_ms() + call->timeout_ms;
    }
}

void rpc_call_set_progress_timeout(struct rpc_call *call, uint32_t timeout_ms) {
    pthread_mutex_lock(&call->lock);
    call->timeout_ms = timeout_ms;
    set_clock(call, true);
    pthread_mutex_unlock(&call->lock);
}

void call_expire(struct rpc_call *call) {
    char reason[CALL_REASON_SIZE];
    pthread_mutex_lock(&call->lock);
    uint32_t timeout_ms = call->timeout_ms;
    pthread_mutex_unlock(&call->lock);
    if (call->proxy)
        snprintf(reason, sizeof reason,
                 "no progress for %u ms: neither %s nor, through it, %s answers", timeout_ms,
                 call->proxy, call->address);
    else
        snprintf(reason, sizeof reason, "no progress for %u ms", timeout_ms);
    rpc_call_cancel(call, RPC_DEADLINE_EXCEEDED, reason);
}

/* ---- starting batches ------------------------------------------------------------------------ */

static void start(struct rpc_call *call, const grpc_op *ops, size_t count, struct tag *tag) {
    queue_posts(call->queue);
    grpc_call_error result = grpc_call_start_batch(call->core, ops, count, tag, NULL);
    /* Nothing a peer does makes this fail: only a batch that breaks the library's rules. */
    ASSERT(result == GRPC_CALL_OK);
}

void call_start_server(struct rpc_call *call) {
    grpc_op op;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_CLOSE_ON_SERVER;
    op.data.recv_close_on_server.cancelled = &call->peer_cancelled;
    call->outstanding = 1; /* nobody else knows the call yet */
    start(call, &op, 1, &call->end_tag);
    if (call->handler->on_open) call->handler->on_open(call, call->user);
    if (!call->method.client_streaming) rpc_call_read(call);
}

void call_start_client(struct rpc_call *call) {
    pthread_mutex_lock(&call->lock);
    call->outstanding += 2; /* the end's and the headers', counted before either can come back */
    call->inside++;
    call->headers_wanted = true;
    pthread_mutex_unlock(&call->lock);
    pump(call);
    grpc_op op;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_INITIAL_METADATA;
    op.data.recv_initial_metadata.recv_initial_metadata = &call->initial_metadata;
    start(call, &op, 1, &call->headers_tag);
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_STATUS_ON_CLIENT;
    op.data.recv_status_on_client.trailing_metadata = &call->trailing_metadata;
    op.data.recv_status_on_client.status = &call->status_code;
    op.data.recv_status_on_client.status_details = &call->status_details;
    start(call, &op, 1, &call->end_tag);
    if (!call->method.server_streaming) rpc_call_read(call);
    call_leave(call);
}

/* Under lock: fills ops with what can be sent now; returns how many, and the message among them. */
static size_t compose(struct rpc_call *call, grpc_op ops[static 3], struct outgoing **message) {
    size_t count = 0;
    *message = call->first;
    bool finish = call->finish_wanted && !call->finish_sent &&
                  (!*message ? call->queued == 0 : call->queued == 1);
    bool headers = !call->headers_sent && (*message || finish || call->headers_wanted);
    memset(ops, 0, 3 * sizeof *ops);
    if (headers) {
        ops[count].op = GRPC_OP_SEND_INITIAL_METADATA;
        if (call->wait_for_connection)
            ops[count].flags = GRPC_INITIAL_METADATA_WAIT_FOR_READY |
                               GRPC_INITIAL_METADATA_WAIT_FOR_READY_EXPLICITLY_SET;
        count++;
        call->headers_sent = true;
    }
    if (*message) {
        ops[count].op = GRPC_OP_SEND_MESSAGE;
        ops[count++].data.send_message.send_message = (*message)->message;
        call->first = (*message)->next;
        if (!call->first) call->last = &call->first;
        call->queued--;
    }
    if (finish) {
        ops[count].op =
            call->server ? GRPC_OP_SEND_STATUS_FROM_SERVER : GRPC_OP_SEND_CLOSE_FROM_CLIENT;
        if (call->server)
            ops[count].data.send_status_from_server.status = (grpc_status_code)call->finish_code;
        count++;
        call->finish_sent = true;
    }
    return count;
}

/* Sends the next message, or the end, if nothing is being sent. Any thread. */
static void pump(struct rpc_call *call) {
    grpc_op ops[3];
    struct outgoing *message = NULL;
    pthread_mutex_lock(&call->lock);
    bool may = !call->sending && !call->write_failed && !call->cancelled && !call->ended;
    size_t count = may ? compose(call, ops, &message) : 0;
    if (count == 0) {
        pthread_mutex_unlock(&call->lock);
        return;
    }
    call->sending = true;
    call->sending_message = message != NULL;
    call->outstanding++;
    call->inside++;
    set_clock(call, false);
    pthread_mutex_unlock(&call->lock);

    grpc_slice details = grpc_empty_slice();
    grpc_op *last = &ops[count - 1];
    if (last->op == GRPC_OP_SEND_STATUS_FROM_SERVER) {
        /* fixed once finish_wanted is set */
        details = grpc_slice_from_copied_string(call->finish_message);
        last->data.send_status_from_server.status_details = &details;
    }
    start(call, ops, count, &call->send_tag);
    grpc_slice_unref(details);
    if (message) {
        grpc_byte_buffer_destroy(message->message);
        free(message);
    }
    call_leave(call);
}

/* ---- tags that come back, on the queue's thread ---------------------------------------------- */

void call_send_back(void *owner, bool ok) {
    struct rpc_call *call = owner;
    pthread_mutex_lock(&call->lock);
    call->sending = false;
    call->outstanding--;
    bool wrote = ok && call->sending_message;
    struct outgoing *lost = NULL;
    if (!ok) {
        call->write_failed = true;
        lost = call_detach_messages(call);
    }
    set_clock(call, ok);
    pthread_mutex_unlock(&call->lock);
    call_drop_messages(lost);
    pump(call);
    pthread_mutex_lock(&call->lock);
    bool tell = wrote && !call->finish_wanted && !call->cancelled && !call->ended;
    pthread_mutex_unlock(&call->lock);
    if (tell && call->handler->on_writable) call->handler->on_writable(call, call->user);
    call_close_if_over(call);
}

void call_read_back(void *owner, bool ok) {
    (void)ok; /* a missing message says it */
    struct rpc_call *call = owner;
    grpc_byte_buffer *incoming = call->incoming;
    call->incoming = NULL;
    enum status copied = incoming ? message_copy(incoming, &call->message) : OK;
    grpc_byte_buffer_destroy(incoming);
    bool got = incoming && copied == OK;

    pthread_mutex_lock(&call->lock);
    call->reading = false;
    call->outstanding--;
    if (!incoming || (!call->server && !call->method.server_streaming)) call->read_over = true;
    set_clock(call, incoming != NULL);
    bool tell = !call->cancelled;
    pthread_mutex_unlock(&call->lock);

    if (copied != OK) {
        rpc_call_cancel(call, RPC_INTERNAL, "a message that cannot be read");
    } else if (got && tell) {
        call->got_message = true;
        if (call->handler->on_message) call->handler->on_message(call, call->user, &call->message);
    } else if (!incoming && tell && call->server &&
               !grpc_call_failed_before_recv_message(call->core)) {
        if (!call->method.client_streaming && !call->got_message)
            rpc_call_finish(call, RPC_INVALID_ARGUMENT, "the request is missing");
        else if (call->handler->on_half_close)
            call->handler->on_half_close(call, call->user);
    }
    call_close_if_over(call);
}

void call_headers_back(void *owner, bool ok) {
    (void)ok;
    struct rpc_call *call = owner;
    pthread_mutex_lock(&call->lock);
    call->outstanding--;
    pthread_mutex_unlock(&call->lock);
    call_close_if_over(call);
}

void call_end_back(void *owner, bool ok) {
    (void)ok; /* always true for these two */
    struct rpc_call *call = owner;
    pthread_mutex_lock(&call->lock);
    call->outstanding--;
    call->ended = true;
    set_clock(call, false);
    struct outgoing *lost = call_detach_messages(call);
    pthread_mutex_unlock(&call->lock);
    call_drop_messages(lost);
    call_close_if_over(call);
}

/* ---- what users do, on any thread ------------------------------------------------------------ */

static enum status queue_message(struct rpc_call *call, const struct rpc_piece *pieces,
                                 size_t count, bool always) {
    TRY(message_check(pieces, count, call->max_message_size, NULL));
    bool streams = call->server ? call->method.server_streaming : call->method.client_streaming;
    enum status status = OK;
    pthread_mutex_lock(&call->lock);
    if (!streams && call->wrote) {
        status = INVALID;
    } else if (call->finish_wanted || call->write_failed || call->cancelled || call->ended) {
        status = CANCELLED;
    } else if (!always && call->queued + (call->sending_message && call->sending ? 1 : 0) >=
                              call->write_queue) {
        status = FULL;
    } else {
        call->queued++; /* its place; it is built without the lock */
        call->wrote = true;
    }
    pthread_mutex_unlock(&call->lock);
    if (status != OK) return status;

    struct outgoing *one = xcalloc(1, sizeof *one);
    one->message = message_create(pieces, count);
    pthread_mutex_lock(&call->lock);
    bool lost = call->write_failed || call->cancelled || call->ended || call->finish_sent;
    if (lost) {
        call->queued--;
    } else {
        *call->last = one;
        call->last = &one->next;
        if (!streams && !call->server) call->finish_wanted = true;
    }
    pthread_mutex_unlock(&call->lock);
    if (lost) call_drop_messages(one);
    return OK;
}

enum status rpc_call_write(struct rpc_call *call, const struct rpc_piece *pieces, size_t count) {
    TRY(queue_message(call, pieces, count, false));
    pump(call);
    return OK;
}

enum status rpc_call_reply(struct rpc_call *call, const struct rpc_piece *pieces, size_t count) {
    TRY(queue_message(call, pieces, count, true));
    rpc_call_finish(call, RPC_OK, NULL); /* pumps: message and status leave together */
    return OK;
}

void rpc_call_finish(struct rpc_call *call, enum rpc_code code, const char *message) {
    ASSERT(call->server);
    char *copy = xstrdup(message ? message : "");
    if (strlen(copy) >= CALL_REASON_SIZE) copy[CALL_REASON_SIZE - 1] = 0;
    pthread_mutex_lock(&call->lock);
    bool first = !call->finish_wanted;
    if (first) {
        call->finish_wanted = true;
        call->finish_code = code;
        call->finish_message = copy;
    }
    pthread_mutex_unlock(&call->lock);
    if (first)
        pump(call);
    else
        free(copy);
}

void rpc_call_half_close(struct rpc_call *call) {
    ASSERT(!call->server);
    pthread_mutex_lock(&call->lock);
    call->finish_wanted = true;
    pthread_mutex_unlock(&call->lock);
    pump(call);
}

void rpc_call_read(struct rpc_call *call) {
    pthread_mutex_lock(&call->lock);
    bool may = !call->reading && !call->read_over && !call->cancelled && !call->ended;
    if (may) {
        call->reading = true;
        call->outstanding++;
        call->inside++;
        set_clock(call, false);
    }
    pthread_mutex_unlock(&call->lock);
    if (!may) return;
    grpc_op op;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_MESSAGE;
    op.data.recv_message.recv_message = &call->incoming;
    start(call, &op, 1, &call->read_tag);
    call_leave(call);
}

void rpc_call_cancel(struct rpc_call *call, enum rpc_code code, const char *reason) {
    struct outgoing *lost = NULL;
    pthread_mutex_lock(&call->lock);
    bool may = !call->cancelled && !call->ended;
    if (may) {
        call->cancelled = true;
        call->cancel_code = code == RPC_OK ? RPC_CANCELLED : code;
        snprintf(call->cancel_reason, sizeof call->cancel_reason, "%s",
                 reason ? reason : "cancelled");
        call->deadline_ms = 0;
        lost = call_detach_messages(call);
        call->inside++;
    }
    pthread_mutex_unlock(&call->lock);
    if (!may) return;
    call_drop_messages(lost);
    grpc_call_cancel_with_status(call->core, (grpc_status_code)call->cancel_code,
                                 call->cancel_reason, NULL);
    call_leave(call);
}

void rpc_call_set_user(struct rpc_call *call, void *user) { call->user = user; }
const char *rpc_call_path(const struct rpc_call *call) { return call->path; }
const struct rpc_peer *rpc_call_peer(const struct rpc_call *call) {
    return call->server ? &call->peer : NULL;
}
