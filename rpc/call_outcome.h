/* Inside rpc/ only: who is at the other end, and how it ended, in words. */
#ifndef RPC_CALL_OUTCOME_H
#define RPC_CALL_OUTCOME_H

#include "rpc/call_internal.h"

/* Fills call->peer from the TLS session. */
void call_find_peer(struct rpc_call *call);
/* Calls on_closed with what is known when all tags are back. */
void call_deliver_outcome(struct rpc_call *call);
/* What a client is told when the network failed: the address, the library's own words, and what to
 * check. `proxy` is what stands between, in words, or NULL. */
void call_explain(const char *address, const char *proxy, const char *details, char *out,
                  size_t size);

#endif
