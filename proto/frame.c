/* [header length | protobuf header | payload], split and made (proto/frame.h). */
#include "proto/frame.h"

static enum status header_size_check(size_t size, struct error *error) {
    if (size > FRAME_HEADER_LIMIT)
        return error_set(error, INVALID, "frame: header of %zu bytes, the limit is %d", size,
                         FRAME_HEADER_LIMIT);
    return OK;
}

static size_t header_size(const uint8_t prefix[static FRAME_PREFIX_SIZE]) {
    struct reader reader = reader_of(bytes_of(prefix, FRAME_PREFIX_SIZE));
    return reader_u32(&reader);
}

enum status frame_encode_head(struct bytes header, struct buffer *out, struct error *error) {
    TRY(header_size_check(header.size, error));
    buffer_reserve(out, out->size + FRAME_PREFIX_SIZE + header.size);
    buffer_u32(out, (uint32_t)header.size);
    if (header.size) buffer_append(out, header.data, header.size);
    return OK;
}

enum status frame_head_size(const uint8_t prefix[static FRAME_PREFIX_SIZE], size_t *out,
                            struct error *error) {
    size_t size = header_size(prefix);
    TRY(header_size_check(size, error));
    *out = FRAME_PREFIX_SIZE + size;
    return OK;
}

enum status frame_split(struct bytes message, struct frame *out, struct error *error) {
    if (message.size < FRAME_PREFIX_SIZE)
        return error_set(error, INVALID, "frame: %zu bytes, less than the length in front of it",
                         message.size);
    size_t head;
    TRY(frame_head_size(message.data, &head, error));
    if (head > message.size)
        return error_set(error, INVALID, "frame: truncated, %zu of %zu header bytes",
                         message.size - FRAME_PREFIX_SIZE, head - FRAME_PREFIX_SIZE);
    if (message.size - head > FRAME_PAYLOAD_LIMIT)
        return error_set(error, INVALID, "frame: payload of %zu bytes, the limit is %d",
                         message.size - head, FRAME_PAYLOAD_LIMIT);
    out->header = bytes_of(message.data + FRAME_PREFIX_SIZE, head - FRAME_PREFIX_SIZE);
    out->payload = bytes_of(message.data + head, message.size - head);
    return OK;
}
