/* The calling side: connections to one server, and calls on them.
 *
 * A channel connects when first used and reconnects when used again, after at most a second: how
 * often to try is for the callers, who back off. A call made while there is no connection fails
 * UNAVAILABLE at once, saying what to check, unless it was told to wait; calls are never repeated
 * by this layer. With `connections` > 1 calls are spread over that many TCP connections, for long
 * fat links.
 *
 * Threads: a channel has threads of its own, on which its callbacks run (see call.h). Open, call
 * and close from any thread; close and the blocking call not from a callback.
 */
#ifndef RPC_CHANNEL_H
#define RPC_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/status.h"
#include "rpc/call.h"

struct rpc_channel;

struct rpc_channel_options { /* borrowed during rpc_channel_open; zero for a limit is its default */
    const char *address; /* "coordinator.example:7400", "192.0.2.1:7400", "[2001:db8::1]:7400" */
    const char *root_ca; /* PEM: who must have issued the server's certificate */
    const char *chain;   /* PEM: own certificate, leaf first, or NULL: anonymous */
    const char *private_key;   /* PEM, secret; with chain or not at all */
    const char *server_name;   /* the DNS name that the server's certificate must carry, such as
                                  "atoll-coordinator"; NULL: address's */
    uint32_t threads;          /* default 1 */
    uint32_t connections;      /* default 1, at most 16 */
    uint32_t max_message_size; /* bytes, received or sent; default 5 MiB */
    uint32_t write_queue; /* messages of one call that may wait or be on their way; default 4 */
    uint32_t keepalive_time_ms;    /* default 60 s; with or without calls */
    uint32_t keepalive_timeout_ms; /* default 20 s */
    /* rpc/proxy.h's setting: "none", a URL (secret), NULL: as the environment says */
    const char *proxy;
};

struct rpc_call_options {
    uint32_t progress_timeout_ms; /* 0: none; see call.h. The time to connect counts */
    bool wait_for_connection; /* rather than fail at once where there is none; the progress timeout
                                 still holds */
    uint32_t connection;      /* 0: the next in turn; 1..connections: this one */
};

/* Connects to nothing yet. INVALID: an option or a PEM text is wrong. (A damaged root certificate
 * without a certificate of one's own is found only by the first call.) */
MUST_USE enum status rpc_channel_open(const struct rpc_channel_options *options,
                                      struct rpc_channel **out, struct error *error);

/* Starts a call and gives the caller a reference to it (rpc_call_release). Callbacks may come
 * before this returns. options may be NULL. CANCELLED: the channel is being closed, and no callback
 * will come. `handler` outlives the call. */
MUST_USE enum status rpc_channel_call(struct rpc_channel *channel, const struct rpc_method *method,
                                      const struct rpc_call_options *options,
                                      const struct rpc_handler *handler, void *user,
                                      struct rpc_call **out, struct error *error);

/* One request, one reply. on_reply is called exactly once on OK, never otherwise; the reply (empty
 * unless outcome->status is OK) is lent and may be taken. Pieces as in rpc_call_write. */
typedef void rpc_reply_function(void *user, const struct rpc_outcome *outcome,
                                struct buffer *reply);
MUST_USE enum status rpc_channel_unary(struct rpc_channel *channel, const char *path,
                                       const struct rpc_call_options *options,
                                       const struct rpc_piece *pieces, size_t count,
                                       rpc_reply_function *on_reply, void *user,
                                       struct error *error);
/* The same, waiting for the reply, for programs that have nothing else to do. Appends the reply to
 * *reply on OK. Otherwise the status, with the peer's message in *error; *code (may be NULL) has
 * the peer's code. */
MUST_USE enum status rpc_channel_unary_wait(struct rpc_channel *channel, const char *path,
                                            const struct rpc_call_options *options,
                                            struct bytes request, struct buffer *reply,
                                            enum rpc_code *code, struct error *error);

/* Cancels what is open, waits until every on_closed has returned, stops the threads. NULL is a
 * no-op. */
void rpc_channel_close(struct rpc_channel *channel);

#endif
