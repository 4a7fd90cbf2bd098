/* How a call ended: the code that travels between peers, and what it means for the one who reads
 * it.
 *
 * The codes and their numbers are gRPC's (grpc.io/docs/guides/status-codes); a server picks one in
 * rpc_call_finish, a client finds it in its outcome. Code that decides what to do next looks at
 * `status`, which one function (rpc_status_of) derives from the code and from which side ended the
 * call: a CANCELLED that nobody here asked for means that the connection went away under the call,
 * so it is UNAVAILABLE, worth another try.
 */
#ifndef RPC_CODE_H
#define RPC_CODE_H

#include <stdbool.h>

#include "base/status.h"

enum rpc_code {
    RPC_OK = 0,
    RPC_CANCELLED = 1,
    RPC_UNKNOWN = 2,
    RPC_INVALID_ARGUMENT = 3,
    RPC_DEADLINE_EXCEEDED = 4,
    RPC_NOT_FOUND = 5,
    RPC_ALREADY_EXISTS = 6,
    RPC_PERMISSION_DENIED = 7,
    RPC_RESOURCE_EXHAUSTED = 8,
    RPC_FAILED_PRECONDITION = 9,
    RPC_ABORTED = 10,
    RPC_OUT_OF_RANGE = 11,
    RPC_UNIMPLEMENTED = 12,
    RPC_INTERNAL = 13,
    RPC_UNAVAILABLE = 14,
    RPC_DATA_LOSS = 15,
    RPC_UNAUTHENTICATED = 16
};

/* Lent to on_closed and on_reply; dies with that callback. */
struct rpc_outcome {
    enum status status; /* what to do about it; OK only if the call ran to its end and was answered
                           with RPC_OK */
    enum rpc_code code; /* what the peer said, or what was found out here */
    /* never NULL; names the peer's address where the network is to blame. A peer may have written
     * it: log it with log_quote */
    const char *message;
    bool local; /* this side ended it: rpc_call_cancel, the progress timeout, or closing the server
                   or channel */
};

/* "UNAVAILABLE"; "code 77" is not known: "UNKNOWN". Static storage. */
const char *rpc_code_name(enum rpc_code code);
/* OK->OK, INVALID_ARGUMENT/OUT_OF_RANGE/UNIMPLEMENTED->INVALID, NOT_FOUND->NOT_FOUND,
 * DEADLINE_EXCEEDED->TIMEOUT, RESOURCE_EXHAUSTED->FULL, DATA_LOSS->CORRUPT,
 * UNAVAILABLE->UNAVAILABLE, CANCELLED->CANCELLED if local, else UNAVAILABLE,
 * ALREADY_EXISTS/PERMISSION_DENIED/FAILED_PRECONDITION/ABORTED/UNAUTHENTICATED->REFUSED,
 * INTERNAL/UNKNOWN->FAILED. `message` (may be NULL) tells apart what gRPC folds into one code: a
 * message over the size limit is INVALID, not FULL; a stream reset by the transport is UNAVAILABLE,
 * not FAILED. */
enum status rpc_status_of(enum rpc_code code, const char *message, bool local);
/* Whether `message` of an outcome that is UNAVAILABLE says that the server's certificate is not the
 * expected one: another try will not heal it, as long as the root certificate stays what it is. */
bool rpc_is_distrust(const char *message);
/* Whether it says that a forward proxy refuses to connect, and will refuse again (407, 403 and
 * their kin, not 502 to 504). */
bool rpc_is_proxy_refusal(const char *message);
/* The library's words before the code that a proxy answered. */
#define RPC_PROXY_REFUSED "HTTP proxy returned response code "
/* The other way, for servers that refuse: rpc_call_finish(call, rpc_code_of(error.status),
 * error.message). */
enum rpc_code rpc_code_of(enum status status);

#endif
