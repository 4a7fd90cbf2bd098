/* What the messages' files share: checked unpacking into an arena, packing after a prefix, and
 * checks of single fields. Internal to proto/.
 *
 * Receiving goes scan -> unpack -> convert. The scan walks the raw bytes by the schema before
 * protobuf-c sees them, because what it needs is gone afterwards: protobuf-c hands texts out as
 * terminated strings, so one with a zero inside would just look shorter. Unpacking allocates from
 * the arena, under the type's budget. Converting copies into our structs and checks sizes and
 * ranges; the same checks run before packing, so that we refuse to send what a peer would refuse to
 * take.
 */
#ifndef PROTO_WIRE_H
#define PROTO_WIRE_H

#include <protobuf-c/protobuf-c.h>

#include "proto/atoll.pb-c.h"
#include "proto/messages.h"

struct wire_type {
    const ProtobufCMessageDescriptor *descriptor;
    size_t header_limit; /* bytes of protobuf, unknown fields included */
    size_t budget;       /* bytes of arena for one message: unpacked and converted */
    bool has_payload;    /* raw bytes may follow */
    /* Checks everything and writes *out, only on success. `message` is of `descriptor`'s type. */
    enum status (*convert)(const ProtobufCMessage *message, struct bytes payload,
                           struct arena *arena, void *out, struct error *error);
};

MUST_USE enum status wire_decode(const struct wire_type *type, struct frame frame,
                                 struct arena *arena, void *out, struct error *error);
MUST_USE enum status wire_encode(const struct wire_type *type, const ProtobufCMessage *message,
                                 struct buffer *out, struct error *error);

/* --- checks; `field` names it in the message --- */
MUST_USE enum status wire_check_range(uint64_t value, uint64_t min, uint64_t max, const char *field,
                                      struct error *error);
MUST_USE enum status wire_check_size(struct bytes value, size_t min, size_t max, const char *field,
                                     struct error *error);
/* Length in bytes, UTF-8, no control characters. NULL counts as "". */
MUST_USE enum status wire_check_text(const char *text, size_t min, size_t max, const char *field,
                                     struct error *error);
/* Finite and 0 to 1e15. */
MUST_USE enum status wire_check_rate(double value, const char *field, struct error *error);
MUST_USE enum status wire_check_heldout(const struct heldout_status *heldout, const char *field,
                                        struct error *error);
MUST_USE enum status wire_check_protocol(uint32_t protocol, struct error *error);
/* Copies exactly `size` bytes; zeroes where there are none and `required` is not set. */
MUST_USE enum status wire_fixed(ProtobufCBinaryData value, uint8_t *out, size_t size, bool required,
                                const char *field, struct error *error);

/* --- conversions --- */
static inline struct bytes wire_bytes(ProtobufCBinaryData value) {
    return bytes_of(value.data, value.len);
}
static inline ProtobufCBinaryData wire_binary(struct bytes value) {
    return (ProtobufCBinaryData){.len = value.size, .data = (uint8_t *)value.data};
}
/* Empty where all of it is zero: so it travels as absent. */
ProtobufCBinaryData wire_binary_fixed(const uint8_t *value, size_t size);
/* For packing: protobuf-c reads what it is given, though it does not say const. */
static inline char *wire_text(const char *text) { return (char *)(text ? text : ""); }
/* Cuts a free text to `limit` bytes at a character's end and puts '?' for what may not travel. out
 * holds limit + 1. Returns out. */
char *wire_text_clean(const char *text, size_t limit, char *out);
/* NaN for whatever is not finite. */
float wire_loss(float loss);

/* --- lost time: an array by cause here, pairs on the wire --- */
enum { LOST_PAIRS_LIMIT = 16 };
struct lost_pairs { /* for packing; not to be moved: `items` points inside */
    Atoll__V1__LostTime pairs[LOST_CAUSE_COUNT];
    Atoll__V1__LostTime *items[LOST_CAUSE_COUNT];
};
size_t lost_pairs_fill(struct lost_pairs *pairs, const uint64_t lost_ms[static LOST_CAUSE_COUNT]);
MUST_USE enum status lost_pairs_read(size_t count, Atoll__V1__LostTime *const *items,
                                     uint64_t out[static LOST_CAUSE_COUNT], struct error *error);

#endif
