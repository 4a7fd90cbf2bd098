/* The listening side: one port, TLS 1.3, a table of methods.
 *
 * The server shows its certificate; it asks clients for one and verifies it against the client CA
 * if they show it, but lets them in without. So one port serves those who have no certificate yet
 * and everybody else; each handler looks at rpc_call_peer(call)->authenticated. A certificate of
 * another CA fails the handshake. Revocation is the handlers' matter: refuse by identity in
 * on_open, and cancel the calls that are open.
 *
 * What a peer can make it hold is bounded: connections, calls, streams a connection, message size,
 * handshake time, and the memory of all its buffers together (a quota; over it, connections are
 * slowed down and then dropped). Connections are shared by role (rpc/places.h): a peer that has not
 * made a call with a certificate that `who` knows is a stranger. A call to an unknown path is
 * answered UNIMPLEMENTED, one over the limit of calls RESOURCE_EXHAUSTED. Where descriptors are
 * short, connections wait to be accepted (`warn accept_waits`).
 *
 * Threads: create, close and set_certificate from any thread but the callbacks'. Callbacks: see
 * call.h.
 */
#ifndef RPC_SERVER_H
#define RPC_SERVER_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "rpc/call.h"
#include "rpc/places.h"

struct rpc_server;

struct rpc_server_method {
    struct rpc_method method;
    const struct rpc_handler *handler; /* outlives the server */
    void *user;                        /* the callbacks' first user pointer */
    uint32_t progress_timeout_ms;      /* 0: none */
    uint32_t write_queue;              /* messages that may wait or be on their way; 0: 4 */
};

/* PEM texts, zero-terminated, borrowed during the call. */
struct rpc_server_certificate {
    const char *chain;       /* leaf first */
    const char *private_key; /* secret */
    const char *client_ca; /* one or more certificates; NULL: no client certificate is asked for */
};

/* Of the connections; 0: no such limit. What strangers and admins cannot take is the members'. */
struct rpc_server_places {
    uint32_t strangers, admins;    /* and at most a quarter and an eighth of them */
    uint32_t member_connections;   /* of one member */
    uint32_t stranger_ms;          /* afterwards it has to have shown who it is */
    uint32_t stranger_calls;       /* open at once on a stranger's connection ... */
    uint32_t stranger_calls_total; /* ... and all together: one more, and it is dropped */
};

struct rpc_server_options { /* zero for a limit is its default */
    const char *const
        *addresses; /* "0.0.0.0:7400", "[::]:7400"; port 0 picks one (then give one address) */
    size_t address_count;
    struct rpc_server_certificate certificate;
    const struct rpc_server_method *methods; /* copied */
    size_t method_count;
    uint32_t threads;          /* queues, each with its thread; default: processors, at most 8 */
    uint32_t max_message_size; /* bytes, received or sent; default 5 MiB */
    uint32_t max_calls;        /* open at once in all; default 4096 */
    uint32_t max_calls_connection; /* open at once on one connection; default 128 */
    uint32_t max_connections;      /* default: half the descriptor limit, at most 8192 */
    struct rpc_server_places places;
    /* Who shows that certificate, asked at the first call of a connection until it is no
     * stranger; `member` is a member's number. On a queue's thread. NULL: all are strangers. */
    enum place_role (*who)(void *context, const struct rpc_peer *peer, uint64_t *member);
    void *who_context;
    uint64_t memory_quota;         /* bytes of network buffers in all; default 512 MiB */
    uint32_t handshake_timeout_ms; /* default 10 s */
    uint32_t keepalive_time_ms;    /* an idle connection is probed after this; default 60 s */
    /* and dropped when there is no answer for this long; default 20 s */
    uint32_t keepalive_timeout_ms;
    uint32_t max_connection_age_ms; /* 0: none. Afterwards the client is told to reconnect, which
                                       makes it handshake anew */
};

/* Listens. INVALID: an option, the certificate or the key is wrong. UNAVAILABLE: the address cannot
 * be bound. */
MUST_USE enum status rpc_server_create(const struct rpc_server_options *options,
                                       struct rpc_server **out, struct error *error);
/* The port of the first address. */
uint16_t rpc_server_port(const struct rpc_server *server);
/* Used from the next handshake on; connections there are go on with what they have. INVALID if the
 * library cannot use it (then the old one stays). Whether it is the right one (names, dates,
 * matching key) is crypto/'s to check first. */
MUST_USE enum status rpc_server_set_certificate(struct rpc_server *server,
                                                const struct rpc_server_certificate *certificate,
                                                struct error *error);

struct rpc_server_counts {
    uint64_t calls_open, calls_total, calls_refused; /* refused: unknown path or over max_calls */
    uint64_t connections_open;                       /* as of a moment ago */
    uint64_t connections_dropped;                    /* because there was no room, or time was up */
};
void rpc_server_count(struct rpc_server *server, struct rpc_server_counts *out);

/* No new calls; open calls may end by themselves for grace_ms, then they are cancelled. Returns
 * when every on_closed has returned and all threads are gone. NULL is a no-op. */
void rpc_server_close(struct rpc_server *server, uint32_t grace_ms);

#endif
