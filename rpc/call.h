/* One call, seen alike from the server and from the client: messages in, messages out, an end.
 *
 * A call belongs to one queue, and one thread serves that queue: all callbacks of one call run on
 * that thread, one after another, never two at once. Calls of different queues run side by side. A
 * callback must not block: while it does, every call and every handshake of its queue stands still.
 * Hash, store and compute elsewhere, and answer later.
 *
 * Every function here may be called from any thread, inside callbacks too, at any time while the
 * caller has a reference. On a call that has ended meanwhile each is a harmless no-op
 * (rpc_call_write says CANCELLED). A callback may use its `call` without a reference of its own;
 * code that keeps the pointer beyond the callback takes one with rpc_call_retain. References
 * outlive servers, channels and the environment.
 *
 * Reading is by demand: a message is taken off the wire only after rpc_call_read, one message a
 * request; a reader that stops asking stops its peer by flow control. (The one request of a call
 * that is not client_streaming, and the one reply to a call that is not server_streaming, are asked
 * for by this layer.) Writing is by room: one message is being sent, a few wait, more are FULL
 * until on_writable. Memory of a call is therefore bounded by (write queue + 2) messages.
 *
 * Deadlines are about progress. The clock of a call runs while it waits for its peer, that is while
 * a read is asked for or a write is under way, and starts anew with each message that arrived and
 * each write that was accepted by the peer's flow control. When it runs out the call ends with
 * RPC_DEADLINE_EXCEEDED, up to a quarter of a second late. A call may so last for months. A message
 * is the unit of progress: choose messages and timeouts so that a slow link moves one in time.
 */
#ifndef RPC_CALL_H
#define RPC_CALL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "rpc/code.h"

struct rpc_call;

struct rpc_method {
    const char *path; /* "/atoll.v1.Atoll/Submit"; static, or outliving the server or channel that
                         uses it */
    bool client_streaming, server_streaming;
};

/* Any of them may be NULL. `user` is rpc_call_set_user's, at first the one given with the method
 * (server) or call (client). */
struct rpc_handler {
    /* Server only, first: a call has come. Look at rpc_call_peer; refuse with rpc_call_finish, or
     * rpc_call_read. */
    void (*on_open)(struct rpc_call *call, void *user);
    /* A message. Lent: the handler may keep it by taking the buffer (copy the struct, zero
     * *message); what is left is reused. */
    void (*on_message)(struct rpc_call *call, void *user, struct buffer *message);
    /* A write went out and there is room for another. Follows every write while nothing is
     * finished. */
    void (*on_writable)(struct rpc_call *call, void *user);
    /* Server only: the client has said all; the answer to a read. (At the client the end of
     * messages is on_closed.) */
    void (*on_half_close)(struct rpc_call *call, void *user);
    /* Last, exactly once for each call that was opened, after all else has come back. */
    void (*on_closed)(struct rpc_call *call, void *user, const struct rpc_outcome *outcome);
};

/* A part of a message. With release == NULL the bytes are copied before the function returns.
 * Otherwise they are sent from where they lie and release(context) is called exactly once when they
 * are no longer needed: on any thread, at once or much later, perhaps before the write returns; it
 * must not block or call into rpc/. */
struct rpc_piece {
    struct bytes bytes;
    void (*release)(void *context);
    void *context;
};
static inline struct rpc_piece rpc_piece_of(struct bytes bytes) {
    return (struct rpc_piece){bytes, NULL, NULL};
}
enum { RPC_PIECES_MAX = 8 };

/* Queues one message made of up to RPC_PIECES_MAX pieces (0 of them: an empty message). Takes the
 * pieces on OK only. FULL: wait for on_writable, which is sure to follow, or on_closed. CANCELLED:
 * the call is over or finished. INVALID: too many pieces, larger than the message limit, or a
 * second message on a side that does not stream. */
MUST_USE enum status rpc_call_write(struct rpc_call *call, const struct rpc_piece *pieces,
                                    size_t count);
/* Server: the message, if there is room for it or not, and RPC_OK after it. Statuses as
 * rpc_call_write, but never FULL. */
MUST_USE enum status rpc_call_reply(struct rpc_call *call, const struct rpc_piece *pieces,
                                    size_t count);
/* Server: ends the call with a code once everything written before has gone. The first one counts.
 * `message` is copied (NULL: ""), cut at 1 KiB, and goes to the peer: no secrets. */
void rpc_call_finish(struct rpc_call *call, enum rpc_code code, const char *message);
/* Client: nothing more will be written; the server sees on_half_close after everything written
 * before. */
void rpc_call_half_close(struct rpc_call *call);
/* Asks for the next message. Idempotent while one is asked for. Answered by on_message,
 * on_half_close or on_closed. */
void rpc_call_read(struct rpc_call *call);
/* Ends the call now and drops what was not sent yet. This side's outcome has the code and reason;
 * the peer sees a call that was cancelled, not necessarily why: a server that needs to say why uses
 * rpc_call_finish. */
void rpc_call_cancel(struct rpc_call *call, enum rpc_code code, const char *reason);

/* Changes what the callbacks get. On the call's own thread (in a callback) it holds from the next
 * callback on. */
void rpc_call_set_user(struct rpc_call *call, void *user);
/* Changes the progress timeout and starts its clock anew; 0 is none. */
void rpc_call_set_progress_timeout(struct rpc_call *call, uint32_t timeout_ms);
const char *rpc_call_path(const struct rpc_call *call);

/* Who is at the other end, as TLS found it. Lent until the last reference to the call goes. */
struct rpc_peer {
    bool authenticated; /* it showed a certificate that the client CA issued. Server side; at the
                           client always true */
    const char *uri;    /* the certificate's first URI subject alternative name, or "" */
    const char *common_name;     /* of the certificate's subject, or "" */
    const char *certificate_pem; /* the leaf certificate, or "" */
    const char *address;         /* "ipv4:192.0.2.1:4711"; not authenticated: for logs only */
};
/* Server: never NULL. Client: NULL. */
const struct rpc_peer *rpc_call_peer(const struct rpc_call *call);

struct rpc_call *rpc_call_retain(struct rpc_call *call); /* returns call */
void rpc_call_release(struct rpc_call *call);            /* NULL is a no-op */

#endif
