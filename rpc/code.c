/* gRPC's status codes, and what each means as one of our statuses (rpc/code.h). */
#include "rpc/code.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[] = {
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED"};

const char *rpc_code_name(enum rpc_code code) {
    size_t index = (size_t)code;
    return index < sizeof names / sizeof names[0] ? names[index] : "UNKNOWN";
}

static bool says(const char *message, const char *part) { return message && strstr(message, part); }

enum status rpc_status_of(enum rpc_code code, const char *message, bool local) {
    switch (code) {
    case RPC_OK: return OK;
    case RPC_CANCELLED: return local ? CANCELLED : UNAVAILABLE;
    case RPC_INVALID_ARGUMENT:
    case RPC_OUT_OF_RANGE:
    case RPC_UNIMPLEMENTED: return INVALID;
    case RPC_DEADLINE_EXCEEDED: return TIMEOUT;
    case RPC_NOT_FOUND: return NOT_FOUND;
    case RPC_RESOURCE_EXHAUSTED: return says(message, "larger than max") ? INVALID : FULL;
    case RPC_ALREADY_EXISTS:
    case RPC_PERMISSION_DENIED:
    case RPC_FAILED_PRECONDITION:
    case RPC_ABORTED:
    case RPC_UNAUTHENTICATED: return REFUSED;
    case RPC_UNAVAILABLE: return UNAVAILABLE;
    case RPC_DATA_LOSS: return CORRUPT;
    case RPC_INTERNAL:
    case RPC_UNKNOWN:
        return says(message, "RST_STREAM") || says(message, "Stream removed") ? UNAVAILABLE
                                                                              : FAILED;
    }
    return FAILED; /* a number that no version of the protocol has given a meaning */
}

bool rpc_is_distrust(const char *message) {
    return says(message, "certificate verify failed") ||
           says(message, "CERTIFICATE_VERIFY_FAILED") || says(message, "Peer name");
}

bool rpc_is_proxy_refusal(const char *message) {
    const char *found = message ? strstr(message, RPC_PROXY_REFUSED) : NULL;
    unsigned long code = found ? strtoul(found + strlen(RPC_PROXY_REFUSED), NULL, 10) : 0;
    return code >= 400 && code < 500 && code != 408 && code != 429;
}

enum rpc_code rpc_code_of(enum status status) {
    switch (status) {
    case OK: return RPC_OK;
    case NOT_FOUND: return RPC_NOT_FOUND;
    case INVALID: return RPC_INVALID_ARGUMENT;
    case REFUSED: return RPC_FAILED_PRECONDITION;
    case UNAVAILABLE: return RPC_UNAVAILABLE;
    case TIMEOUT: return RPC_DEADLINE_EXCEEDED;
    case FULL: return RPC_RESOURCE_EXHAUSTED;
    case CORRUPT: return RPC_DATA_LOSS;
    case CANCELLED: return RPC_CANCELLED;
    case FAILED: return RPC_INTERNAL;
    }
    return RPC_UNKNOWN;
}
