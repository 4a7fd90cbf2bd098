/* Snapshot (proto/messages.h): which version from which byte, and frames of its descriptor and
 * content. Encode, decode, and the checks of every field. */
#include "proto/wire.h"

static enum status request_check(const struct snapshot_request *request, struct error *error) {
    TRY(wire_check_protocol(request->protocol, error));
    return wire_check_range(request->offset, 0, WIRE_PAYLOAD_TOTAL_LIMIT, "offset", error);
}

static enum status request_convert(const ProtobufCMessage *message, struct bytes payload,
                                   struct arena *arena, void *out, struct error *error) {
    (void)payload, (void)arena;
    const Atoll__V1__SnapshotRequest *from = (const Atoll__V1__SnapshotRequest *)message;
    struct snapshot_request request = {
        .protocol = from->protocol, .version = from->version, .offset = from->offset};
    TRY(request_check(&request, error));
    *(struct snapshot_request *)out = request;
    return OK;
}

static const struct wire_type request_type = {&atoll__v1__snapshot_request__descriptor, 1024,
                                              4 * 1024, false, request_convert};

enum status snapshot_request_encode(const struct snapshot_request *request, struct buffer *out,
                                    struct error *error) {
    TRY(request_check(request, error));
    Atoll__V1__SnapshotRequest message = ATOLL__V1__SNAPSHOT_REQUEST__INIT;
    message.protocol = request->protocol;
    message.version = request->version;
    message.offset = request->offset;
    return wire_encode(&request_type, &message.base, out, error);
}

enum status snapshot_request_decode(struct frame frame, struct arena *arena,
                                    struct snapshot_request *out, struct error *error) {
    return wire_decode(&request_type, frame, arena, out, error);
}

static enum status frame_check(const struct snapshot_frame *message, struct error *error) {
    TRY(wire_check_size(message->descriptor, 0, WIRE_DESCRIPTOR_LIMIT, "descriptor", error));
    TRY(wire_check_range(message->total, 1, WIRE_PAYLOAD_TOTAL_LIMIT, "total", error));
    return wire_check_range(message->offset, 0, message->total, "offset", error);
}

static enum status frame_convert(const ProtobufCMessage *raw, struct bytes payload,
                                 struct arena *arena, void *out, struct error *error) {
    (void)arena;
    const Atoll__V1__SnapshotFrame *from = (const Atoll__V1__SnapshotFrame *)raw;
    struct snapshot_frame message = {
        .descriptor = wire_bytes(from->descriptor),
        .offset = from->offset,
        .total = from->total,
        .payload = payload,
    };
    TRY(frame_check(&message, error));
    TRY(wire_check_range(payload.size, 0, message.total - message.offset, "payload past total",
                         error));
    *(struct snapshot_frame *)out = message;
    return OK;
}

static const struct wire_type frame_type = {&atoll__v1__snapshot_frame__descriptor, 8 * 1024,
                                            16 * 1024, true, frame_convert};

enum status snapshot_frame_encode(const struct snapshot_frame *message, struct buffer *out,
                                  struct error *error) {
    TRY(frame_check(message, error));
    Atoll__V1__SnapshotFrame frame = ATOLL__V1__SNAPSHOT_FRAME__INIT;
    frame.descriptor = wire_binary(message->descriptor);
    frame.offset = message->offset;
    frame.total = message->total;
    return wire_encode(&frame_type, &frame.base, out, error);
}

enum status snapshot_frame_decode(struct frame frame, struct arena *arena,
                                  struct snapshot_frame *out, struct error *error) {
    return wire_decode(&frame_type, frame, arena, out, error);
}
