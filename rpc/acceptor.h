/* Inside rpc/ only: the listening sockets, and all connections that were accepted there.
 *
 * gRPC core can listen by itself, but then nobody decides who may connect, it keeps no list, and
 * once accept has failed for lack of descriptors it never accepts again. So the sockets are ours,
 * and the library is given each connection as it comes, for TLS and HTTP/2. Who may stay is
 * rpc/places.h's to say; who has to go is shut down, which the library sees as the peer's doing.
 * Where descriptors are short, who waits to be accepted waits on in the kernel's queue while
 * somebody is sent away.
 *
 * A connection is known by its socket's cookie, which the kernel gives once: a descriptor's number
 * passes to somebody else as soon as the library closes it. What is read by a number is believed
 * once the cookie was looked at afterwards, since a number that was closed never gets the same
 * socket again. To shut one down, the acceptor takes hold of whatever has the number now in a
 * descriptor of its own, which it opened at its start (when descriptors are short there is no
 * other), looks at the cookie of that, and shuts down that.
 */
#ifndef RPC_ACCEPTOR_H
#define RPC_ACCEPTOR_H

#include "rpc/places.h"
#include "rpc/server.h"

struct acceptor;

/* An address and port, IPv4 in its IPv6 form. */
struct peer_key {
    uint8_t bytes[18];
};
/* From the library's words for it, "ipv4:192.0.2.1:4711"; false for what is none. */
bool peer_key_of(const char *text, struct peer_key *out);

/* Whom the library's words for an address are of, port aside: of IPv6 the network, for each host
 * has as many addresses as it likes. 0: of nobody. */
uint64_t peer_source_of(const char *text);

/* Takes a connected socket. On the acceptor's thread. */
typedef void acceptor_give(void *context, int descriptor);

/* Binds all addresses; the first one's port is *port. UNAVAILABLE if one cannot be bound. */
MUST_USE enum status acceptor_open(const struct rpc_server_options *options, struct acceptor **out,
                                   uint16_t *port, struct error *error);
/* Accepts from now on. */
MUST_USE enum status acceptor_start(struct acceptor *acceptor, acceptor_give *give, void *context,
                                    struct error *error);
/* No more is accepted, and who waited to be is turned away. Idempotent. */
void acceptor_stop(struct acceptor *acceptor);
void acceptor_close(struct acceptor *acceptor); /* stopped; NULL is a no-op */

/* --- from any thread --- */
void acceptor_claim(struct acceptor *acceptor, const struct peer_key *peer, enum place_role role,
                    uint64_t member);
/* A call has come, and who makes it is still a stranger (else false). One with too many of them
 * loses its connection. True is answered by acceptor_stranger_call_over. */
bool acceptor_stranger_call(struct acceptor *acceptor, const struct peer_key *peer);
void acceptor_stranger_call_over(struct acceptor *acceptor, const struct peer_key *peer);
/* of the connection; STRANGER if it has gone */
enum place_role acceptor_role(struct acceptor *acceptor, const struct peer_key *peer);
void acceptor_count(struct acceptor *acceptor, uint64_t *open, uint64_t *dropped);

#endif
