/* atoll-node relay: the node's border on another host of the site.
 *
 * A training job may have ranks on several hosts, and its node is on one. On each of the others a
 * relay serves what the node serves on its own: a Unix socket, a token's file, and a memory that
 * ranks map (libatoll/wire.h). It speaks TLS to the node's gateway (relay/gateway.h), which needs
 * the node's relay.token, and keeps nothing: the model, the run and every decision are the node's.
 *
 * What a rank does at a step stays a few stores to memory. The relay looks there as the node would:
 * reports go to the node, orders and decisions come from it, and values travel both ways, those
 * alone that ranks here hold. An order is shown to ranks once all that is to be added or loaded has
 * come, and a rank's report that it has published is passed on after what it published.
 *
 * Where the connection ends, so do the sessions of all ranks here: they find that the node is away,
 * train on, and attach again once the relay has another one.
 */
#ifndef RELAY_RELAY_H
#define RELAY_RELAY_H

#include <stdbool.h>

#include "crypto/tls_stream.h"

struct relay_options {
    const char *to;         /* the node's --trainer-listen */
    const char *token_name; /* of its file, for messages */
    uint8_t secret[TLS_SECRET_SIZE];
    const char *socket, *token_file; /* of its own, for ranks */
};

/* Until it is asked to end (base/ending.h), or the run is over: *over. */
MUST_USE enum status relay_run(const struct relay_options *options, bool *over,
                               struct error *error);

#endif
