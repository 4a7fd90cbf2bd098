/* Inside rpc/ only: messages between our pieces and buffers and the library's slices. */
#ifndef RPC_MESSAGE_H
#define RPC_MESSAGE_H

#include <grpc/grpc.h>

#include "rpc/call.h"

/* INVALID if there are too many pieces or they are larger than limit together. */
MUST_USE enum status message_check(const struct rpc_piece *pieces, size_t count, size_t limit,
                                   struct error *error);
/* Takes the pieces; the caller destroys the result with grpc_byte_buffer_destroy. */
grpc_byte_buffer *message_create(const struct rpc_piece *pieces, size_t count);
/* Replaces what is in *out. Borrows `message`. INVALID if the library cannot read it. */
MUST_USE enum status message_copy(grpc_byte_buffer *message, struct buffer *out);

#endif
