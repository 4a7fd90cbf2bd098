/* The list of channel arguments for gRPC core that servers and channels share (rpc/arguments.h):
 * limits, keepalive, no compression. */
#include "rpc/arguments.h"

#include <limits.h>

#include "base/status.h"

static grpc_arg *add(struct rpc_arguments *arguments, const char *key, grpc_arg_type type) {
    ASSERT(arguments->count < ARGUMENTS_MAX);
    grpc_arg *argument = &arguments->list[arguments->count++];
    argument->type = type;
    argument->key = (char *)(uintptr_t)key; /* the library copies it; it only lacks the const */
    return argument;
}

void arguments_integer(struct rpc_arguments *arguments, const char *key, uint64_t value) {
    add(arguments, key, GRPC_ARG_INTEGER)->value.integer = value > INT_MAX ? INT_MAX : (int)value;
}

void arguments_text(struct rpc_arguments *arguments, const char *key, const char *value) {
    add(arguments, key, GRPC_ARG_STRING)->value.string = (char *)(uintptr_t)value;
}

void arguments_pointer(struct rpc_arguments *arguments, const char *key, void *value,
                       const grpc_arg_pointer_vtable *vtable) {
    grpc_arg *argument = add(arguments, key, GRPC_ARG_POINTER);
    argument->value.pointer.p = value;
    argument->value.pointer.vtable = vtable;
}

void arguments_common(struct rpc_arguments *arguments, uint32_t max_message_size,
                      uint32_t keepalive_time_ms, uint32_t keepalive_timeout_ms) {
    arguments_integer(arguments, GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, max_message_size);
    arguments_integer(arguments, GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, max_message_size);
    /* Bit 0 alone is "identity". A compressed message would be inflated before its size is checked:
     * 1 MB can become 1 GB. */
    arguments_integer(arguments, GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1);
    arguments_integer(arguments, GRPC_ARG_KEEPALIVE_TIME_MS, keepalive_time_ms);
    arguments_integer(arguments, GRPC_ARG_KEEPALIVE_TIMEOUT_MS, keepalive_timeout_ms);
    arguments_integer(arguments, GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    /* 0: as many as keepalive needs */
    arguments_integer(arguments, GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    arguments_integer(arguments, GRPC_ARG_ENABLE_CHANNELZ, 0);
}
