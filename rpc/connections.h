/* Inside rpc/ only: the TCP connections that this process has accepted on a port.
 *
 * The library has no limit on connections and keeps no list, so this one is read from the kernel:
 * the open descriptors that are connected sockets with that local port. Dropping one is
 * shutdown(2), which the library sees as the peer's doing.
 */
#ifndef RPC_CONNECTIONS_H
#define RPC_CONNECTIONS_H

#include <stddef.h>
#include <stdint.h>

struct connections {
    int *descriptors; /* [count], not ours: they may be closed at any time */
    size_t count;
    uint16_t port;
};

struct connections connections_of(uint16_t port);
/* Shuts down `count` of them, highest descriptors first: mostly the newest. */
void connections_drop(const struct connections *connections, size_t count);
void connections_deinit(struct connections *connections);

#endif
