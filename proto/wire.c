/* What the messages' files share (proto/wire.h): a scan of the raw bytes by the schema, unpacking
 * into an arena, packing, and checks of single fields. A peer's bytes pass through wire_decode
 * before anything else sees them. */
#include "proto/wire.h"

#include <math.h>
#include <string.h>

#include "base/utf8.h"

/* --- texts ------------------------------------------------------------------------------------ */

static bool text_may_travel(const uint8_t *data, size_t size) {
    for (size_t at = 0; at < size;) {
        size_t length = utf8_shown_length(data + at, size - at);
        if (length == 0) return false;
        at += length;
    }
    return true;
}

char *wire_text_clean(const char *text, size_t limit, char *out) {
    const uint8_t *from = (const uint8_t *)(text ? text : "");
    size_t size = strlen((const char *)from), used = 0;
    for (size_t at = 0; at < size;) {
        size_t length = utf8_shown_length(from + at, size - at);
        size_t wanted = length ? length : 1;
        if (used + wanted > limit) break;
        if (length) {
            memcpy(out + used, from + at, length);
        } else {
            out[used] = '?';
        }
        used += wanted;
        at += wanted;
    }
    out[used] = 0;
    return out;
}

/* --- the scan --------------------------------------------------------------------------------- */

static uint64_t reader_varint(struct reader *reader) {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
        uint8_t byte = reader_u8(reader);
        if (shift < 64) value |= (uint64_t)(byte & 0x7F) << shift;
        if (!(byte & 0x80)) return value;
    }
    reader->failed = true;
    return 0;
}

/* Depth is that of the schema, which is finite: no message type contains itself (a test holds the
 * schema to that). */
static enum status scan(const ProtobufCMessageDescriptor *descriptor, struct bytes raw,
                        struct error *error) {
    struct reader reader = reader_of(raw);
    while (reader_left(&reader)) {
        uint64_t tag = reader_varint(&reader);
        if (tag >> 32 || tag >> 3 == 0)
            return error_set(error, INVALID, "%s: tag out of range", descriptor->short_name);
        const ProtobufCFieldDescriptor *field =
            protobuf_c_message_descriptor_get_field(descriptor, (unsigned)(tag >> 3));
        switch (tag & 7) {
        case PROTOBUF_C_WIRE_TYPE_VARINT: reader_varint(&reader); break;
        case PROTOBUF_C_WIRE_TYPE_64BIT: reader_take(&reader, 8); break;
        case PROTOBUF_C_WIRE_TYPE_32BIT: reader_take(&reader, 4); break;
        case PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED: {
            uint64_t size = reader_varint(&reader);
            struct bytes value = reader_take(&reader, size > SIZE_MAX ? SIZE_MAX : (size_t)size);
            if (reader.failed || !field) break;
            if (field->type == PROTOBUF_C_TYPE_MESSAGE) TRY(scan(field->descriptor, value, error));
            if (field->type == PROTOBUF_C_TYPE_STRING && !text_may_travel(value.data, value.size))
                return error_set(error, INVALID, "%s.%s: not UTF-8, or with control characters",
                                 descriptor->short_name, field->name);
            break;
        }
        default:
            return error_set(error, INVALID, "%s: wire type %u", descriptor->short_name,
                             (unsigned)(tag & 7));
        }
        if (reader.failed)
            return error_set(error, INVALID, "%s: truncated", descriptor->short_name);
    }
    return OK;
}

/* --- decoding and encoding -------------------------------------------------------------------- */

static void *take(void *arena, size_t size) { return arena_take(arena, size); }
static void give_nothing_back(void *arena, void *piece) { (void)arena, (void)piece; }

static enum status unpack(const struct wire_type *type, struct frame frame, struct arena *arena,
                          void *out, struct error *error) {
    const char *name = type->descriptor->short_name;
    if (frame.header.size > type->header_limit)
        return error_set(error, INVALID, "%s: %zu bytes, the limit is %zu", name, frame.header.size,
                         type->header_limit);
    if (frame.payload.size > (type->has_payload ? FRAME_PAYLOAD_LIMIT : 0))
        return error_set(error, INVALID, "%s: %zu bytes of payload, the limit is %d", name,
                         frame.payload.size, type->has_payload ? FRAME_PAYLOAD_LIMIT : 0);
    TRY(scan(type->descriptor, frame.header, error));
    ProtobufCAllocator allocator = {
        .alloc = take, .free = give_nothing_back, .allocator_data = arena};
    /* An empty header is an empty message; protobuf-c needs an address all the same. */
    const uint8_t *data = frame.header.size ? frame.header.data : (const uint8_t *)"";
    ProtobufCMessage *message =
        protobuf_c_message_unpack(type->descriptor, &allocator, frame.header.size, data);
    if (!message)
        return error_set(error, INVALID, "%s: %s", name,
                         arena->refused ? "takes too much memory" : "not well-formed");
    enum status status = type->convert(message, frame.payload, arena, out, error);
    return status == OK ? OK : error_wrap(error, status, "%s", name);
}

enum status wire_decode(const struct wire_type *type, struct frame frame, struct arena *arena,
                        void *out, struct error *error) {
    size_t mark = arena->used, limit = arena->limit;
    if (type->budget < limit - mark) arena->limit = mark + type->budget;
    arena->refused = false;
    enum status status = unpack(type, frame, arena, out, error);
    if (status != OK) arena->used = mark;
    arena->limit = limit;
    return status;
}

enum status wire_encode(const struct wire_type *type, const ProtobufCMessage *message,
                        struct buffer *out, struct error *error) {
    size_t size = protobuf_c_message_get_packed_size(message);
    if (size > type->header_limit)
        return error_set(error, INVALID, "%s: %zu bytes, the limit is %zu",
                         type->descriptor->short_name, size, type->header_limit);
    buffer_reserve(out, out->size + FRAME_PREFIX_SIZE + size);
    buffer_u32(out, (uint32_t)size);
    out->size += protobuf_c_message_pack(message, out->data + out->size);
    return OK;
}

/* --- fields ----------------------------------------------------------------------------------- */

enum status wire_check_range(uint64_t value, uint64_t min, uint64_t max, const char *field,
                             struct error *error) {
    if (value < min || value > max)
        return error_set(error, INVALID, "%s: %llu is not in %llu to %llu", field,
                         (unsigned long long)value, (unsigned long long)min,
                         (unsigned long long)max);
    return OK;
}

enum status wire_check_size(struct bytes value, size_t min, size_t max, const char *field,
                            struct error *error) {
    if (value.size < min || value.size > max)
        return error_set(error, INVALID, "%s: %zu bytes, not %zu to %zu", field, value.size, min,
                         max);
    return OK;
}

enum status wire_check_text(const char *text, size_t min, size_t max, const char *field,
                            struct error *error) {
    struct bytes value = bytes_of(text, text ? strlen(text) : 0);
    TRY(wire_check_size(value, min, max, field, error));
    if (!text_may_travel(value.data, value.size))
        return error_set(error, INVALID, "%s: not UTF-8, or with control characters", field);
    return OK;
}

enum status wire_check_rate(double value, const char *field, struct error *error) {
    if (!(value >= 0 && value <= 1e15))
        return error_set(error, INVALID, "%s: %g is not in 0 to 1e15", field, value);
    return OK;
}

enum status wire_check_heldout(const struct heldout_status *heldout, const char *field,
                               struct error *error) {
    double most = heldout->any ? HELDOUT_LOSS_LIMIT : 0;
    if (!(heldout->best_loss >= 0 && heldout->best_loss <= heldout->loss && heldout->loss <= most))
        return error_set(error, INVALID, "%s: losses of %g and, the best, %g", field, heldout->loss,
                         heldout->best_loss);
    return wire_check_range(heldout->best_version, 0, heldout->version, field, error);
}

enum status wire_check_protocol(uint32_t protocol, struct error *error) {
    return wire_check_range(protocol, 1, 65535, "protocol", error);
}

enum status wire_fixed(ProtobufCBinaryData value, uint8_t *out, size_t size, bool required,
                       const char *field, struct error *error) {
    if (value.len == 0 && !required) {
        memset(out, 0, size);
        return OK;
    }
    if (value.len != size)
        return error_set(error, INVALID, "%s: %zu bytes instead of %zu", field, value.len, size);
    memcpy(out, value.data, size);
    return OK;
}

ProtobufCBinaryData wire_binary_fixed(const uint8_t *value, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (value[i]) return wire_binary(bytes_of(value, size));
    return (ProtobufCBinaryData){0};
}

float wire_loss(float loss) { return isfinite(loss) ? loss : NAN; }
