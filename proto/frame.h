/* One gRPC message of ours: [u32 header length, little-endian | protobuf header | raw payload].
 *
 * Protobuf carries small headers only: a bytes field of a megabyte would be copied twice and
 * counted against the parser's budget. The payload is whatever lies after the header, so its length
 * travels nowhere and cannot disagree with anything. Every message of every method is a frame,
 * unary ones too (their payload is empty).
 *
 * To send: X_encode of proto/messages.h appends the head (length and header) to a buffer; the
 * payload is handed to rpc/ as a second piece, uncopied. To receive: frame_split, then X_decode.
 * Any thread; nothing is kept.
 */
#ifndef PROTO_FRAME_H
#define PROTO_FRAME_H

#include "base/bytes.h"

enum {
    FRAME_HEADER_LIMIT = 128 * 1024,   /* bytes of protobuf in any frame */
    FRAME_PAYLOAD_LIMIT = 1024 * 1024, /* raw bytes in any frame */
    FRAME_PREFIX_SIZE = 4,
    /* What the transport must let through, and no more: its limit on the size of a received
     * message. */
    FRAME_LIMIT = FRAME_PREFIX_SIZE + FRAME_HEADER_LIMIT + FRAME_PAYLOAD_LIMIT
};

struct frame { /* both borrowed from the message that was split */
    struct bytes header;
    struct bytes payload;
};

/* Appends prefix and header. INVALID if the header is longer than FRAME_HEADER_LIMIT. */
MUST_USE enum status frame_encode_head(struct bytes header, struct buffer *out,
                                       struct error *error);
/* INVALID for a message shorter than its prefix says, or past a limit. */
MUST_USE enum status frame_split(struct bytes message, struct frame *out, struct error *error);
/* Bytes up to the payload, from the first FRAME_PREFIX_SIZE bytes of a message, for those who
 * receive it in pieces: prefix and header. INVALID past the limit. */
MUST_USE enum status frame_head_size(const uint8_t prefix[static FRAME_PREFIX_SIZE], size_t *out,
                                     struct error *error);

#endif
