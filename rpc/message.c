/* Between our pieces and gRPC's byte buffers (rpc/message.h). What is received is copied out of
 * the library's slices into one buffer. */
#include "rpc/message.h"

#include <grpc/byte_buffer_reader.h>
#include <grpc/slice.h>

enum status message_check(const struct rpc_piece *pieces, size_t count, size_t limit,
                          struct error *error) {
    if (count > RPC_PIECES_MAX)
        return error_set(error, INVALID, "a message of %zu pieces, limit %d", count,
                         RPC_PIECES_MAX);
    size_t left = limit;
    for (size_t i = 0; i < count; i++) {
        if (pieces[i].bytes.size > left)
            return error_set(error, INVALID, "a message larger than the limit of %zu bytes", limit);
        left -= pieces[i].bytes.size;
    }
    return OK;
}

grpc_byte_buffer *message_create(const struct rpc_piece *pieces, size_t count) {
    grpc_slice slices[RPC_PIECES_MAX];
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        struct bytes bytes = pieces[i].bytes;
        if (bytes.size == 0) {
            if (pieces[i].release) pieces[i].release(pieces[i].context);
        } else if (pieces[i].release) {
            /* The library never writes through it: it only lacks the const. */
            void *data = (void *)(uintptr_t)bytes.data;
            slices[used++] = grpc_slice_new_with_user_data(data, bytes.size, pieces[i].release,
                                                           pieces[i].context);
        } else {
            slices[used++] = grpc_slice_from_copied_buffer((const char *)bytes.data, bytes.size);
        }
    }
    grpc_byte_buffer *message = grpc_raw_byte_buffer_create(slices, used);
    for (size_t i = 0; i < used; i++) grpc_slice_unref(slices[i]);
    return message;
}

enum status message_copy(grpc_byte_buffer *message, struct buffer *out) {
    grpc_byte_buffer_reader reader;
    if (!grpc_byte_buffer_reader_init(&reader, message)) return INVALID;
    out->size = 0;
    /* the library has bounded it by max_message_size */
    buffer_reserve(out, grpc_byte_buffer_length(message));
    /* A megabyte comes as 128 slices. peek touches no reference counts, readall would join them in
     * memory first. */
    for (grpc_slice *slice; grpc_byte_buffer_reader_peek(&reader, &slice);)
        buffer_append(out, GRPC_SLICE_START_PTR(*slice), GRPC_SLICE_LENGTH(*slice));
    grpc_byte_buffer_reader_destroy(&reader);
    return OK;
}
