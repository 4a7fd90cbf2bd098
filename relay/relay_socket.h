/* TCP sockets of relays and gateways: non-blocking, small messages sent at once. */
#ifndef RELAY_RELAY_SOCKET_H
#define RELAY_RELAY_SOCKET_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { RELAY_PEER_SIZE = 96 };

/* `address` as base/address.h has it. *port is where it listens. UNAVAILABLE: it cannot, now. */
MUST_USE enum status relay_socket_listen(const char *address, int *out, uint16_t *port,
                                         struct error *error);
/* Waits for the connection, at most so long. UNAVAILABLE says why there is none. */
MUST_USE enum status relay_socket_connect(const char *address, uint64_t timeout_ms, int *out,
                                          struct error *error);
/* -1: nobody waits. `peer`: the address without its port. */
int relay_socket_accept(int listener, char peer[static RELAY_PEER_SIZE]);

#endif
