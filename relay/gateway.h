/* The node's end of relays: where the ranks of other hosts come in.
 *
 * A relay (relay/relay.h) serves ranks of its host as the border serves those of this one, and
 * speaks TLS to the gateway. For each of its ranks the gateway is a rank at the border: it connects
 * to the border's socket, maps the session's memory, and keeps that rank's line and its part of
 * `out` as the relay reports them; orders, decisions and what is to be added go the other way. So
 * the border knows nothing of networks, and what comes from one reaches it only as what a rank
 * could say.
 *
 * A thread of its own does all that, and waits in poll alone. Strangers: who has not shown in
 * HANDSHAKE_MS that it has the token is dropped, and there are only so many of them at a time, in
 * all and from one address.
 */
#ifndef RELAY_GATEWAY_H
#define RELAY_GATEWAY_H

#include "attach/coverage.h"
#include "crypto/tls_stream.h"

struct gateway;

struct gateway_options {
    const char *address; /* to listen at; base/address.h */
    uint8_t secret[TLS_SECRET_SIZE];
    const char *socket, *token_file;       /* the border's; copied */
    const struct coverage_tensor *tensors; /* as the border's; borrowed */
    uint32_t tensor_count;
    uint32_t fragments;
    void *context;
    /* As the border's. On the gateway's thread. */
    void (*range)(void *context, uint32_t fragment, uint64_t *start, uint64_t *count);
};

/* *port is where it listens. UNAVAILABLE: it cannot listen there. */
MUST_USE enum status gateway_start(const struct gateway_options *options, struct gateway **out,
                                   uint16_t *port, struct error *error);
/* Before the border is closed. Relays are told whether the run is over. NULL is a no-op. */
void gateway_stop(struct gateway *gateway);

#endif
