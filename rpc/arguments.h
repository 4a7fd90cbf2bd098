/* Inside rpc/ only: the settings that every server and channel has, as the library needs them. */
#ifndef RPC_ARGUMENTS_H
#define RPC_ARGUMENTS_H

#include <grpc/grpc.h>

enum { ARGUMENTS_MAX = 32 };

struct rpc_arguments {
    grpc_arg list[ARGUMENTS_MAX];
    size_t count;
};

/* clipped to INT_MAX */
void arguments_integer(struct rpc_arguments *arguments, const char *key, uint64_t value);
/* borrows value */
void arguments_text(struct rpc_arguments *arguments, const char *key, const char *value);
void arguments_pointer(struct rpc_arguments *arguments, const char *key, void *value,
                       const grpc_arg_pointer_vtable *vtable);
/* What both sides need: message size, no compression, keepalive. */
void arguments_common(struct rpc_arguments *arguments, uint32_t max_message_size,
                      uint32_t keepalive_time_ms, uint32_t keepalive_timeout_ms);
static inline grpc_channel_args arguments_core(struct rpc_arguments *arguments) {
    return (grpc_channel_args){arguments->count, arguments->list};
}

#endif
