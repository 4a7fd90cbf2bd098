/* The messages of tests/golden/proto_messages.txt, and what all message types have in common, for
 * the tests of proto/. */
#ifndef TESTS_PROTO_SAMPLES_H
#define TESTS_PROTO_SAMPLES_H

#include "base/bytes.h"
#include "base/file.h"
#include "base/memory.h"
#include "proto/atoll.pb-c.h"
#include "proto/messages.h"
#include "tests/test.h"

enum { SAMPLES_LIMIT = 32 };

struct sample {
    char name[32];
    struct bytes header;  /* protobuf bytes */
    struct bytes payload; /* what the message needs after it */
    const struct kind *kind;
};

/* Decodes; encodes again into *again, if that is not NULL. */
typedef enum status pass(struct frame frame, struct arena *arena, struct buffer *again,
                         struct error *error);

#define SAMPLE_PASS(type)                                                                          \
    static enum status type##_pass(struct frame frame, struct arena *arena, struct buffer *again,  \
                                   struct error *error) {                                          \
        struct type message;                                                                       \
        TRY(type##_decode(frame, arena, &message, error));                                         \
        return again ? type##_encode(&message, again, error) : OK;                                 \
    }
SAMPLE_PASS(join_request)
SAMPLE_PASS(join_reply)
SAMPLE_PASS(submit_frame)
SAMPLE_PASS(submit_reply)
SAMPLE_PASS(follow_request)
SAMPLE_PASS(follow_frame)
SAMPLE_PASS(snapshot_request)
SAMPLE_PASS(snapshot_frame)
SAMPLE_PASS(heartbeat_request)
SAMPLE_PASS(heartbeat_reply)
SAMPLE_PASS(admin_request)
SAMPLE_PASS(admin_reply)

static const struct kind {
    const char *type;
    const ProtobufCMessageDescriptor *descriptor;
    pass *pass;
    size_t budget; /* bytes of arena it may take at most; a second statement of what proto/ says in
                      its .c files */
} kinds[] = {
    {"JoinRequest", &atoll__v1__join_request__descriptor, join_request_pass, 16 * 1024},
    {"JoinReply", &atoll__v1__join_reply__descriptor, join_reply_pass, 128 * 1024},
    {"SubmitFrame", &atoll__v1__submit_frame__descriptor, submit_frame_pass, 4 * 1024},
    {"SubmitReply", &atoll__v1__submit_reply__descriptor, submit_reply_pass, 16 * 1024},
    {"FollowRequest", &atoll__v1__follow_request__descriptor, follow_request_pass, 4 * 1024},
    {"FollowFrame", &atoll__v1__follow_frame__descriptor, follow_frame_pass, ARENA_SIZE},
    {"SnapshotRequest", &atoll__v1__snapshot_request__descriptor, snapshot_request_pass, 4 * 1024},
    {"SnapshotFrame", &atoll__v1__snapshot_frame__descriptor, snapshot_frame_pass, 16 * 1024},
    {"HeartbeatRequest", &atoll__v1__heartbeat_request__descriptor, heartbeat_request_pass,
     8 * 1024},
    {"HeartbeatReply", &atoll__v1__heartbeat_reply__descriptor, heartbeat_reply_pass, 4 * 1024},
    {"AdminRequest", &atoll__v1__admin_request__descriptor, admin_request_pass, 4 * 1024},
    {"AdminReply", &atoll__v1__admin_reply__descriptor, admin_reply_pass, ARENA_SIZE},
};

static inline const struct kind *kind_named(const char *type) {
    for (size_t i = 0; i < COUNT_OF(kinds); i++)
        if (strcmp(kinds[i].type, type) == 0) return &kinds[i];
    test_failed(__FILE__, __LINE__, "no message type %s", type);
}

/* Reads the golden file; what the samples point to lives as long as the test's process. */
static inline size_t samples_read(struct sample samples[static SAMPLES_LIMIT]) {
    static uint8_t payload[1000];
    static struct buffer text;
    static uint8_t raw[16 * 1024];
    struct error error = {0};
    char *path = file_join(test_root(), "tests/golden/proto_messages.txt");
    text.size = 0;
    CHECK_OK(file_read(path, 1 << 20, &text, &error));
    free(path);
    size_t count = 0, used = 0;
    for (char *rest = (char *)text.data, *line; (line = strsep(&rest, "\n")) && *line;) {
        const char *name = strsep(&line, " "), *type = strsep(&line, " "), *hex = line;
        struct sample *sample = &samples[count++];
        size_t size = strcmp(hex, "-") == 0 ? 0 : strlen(hex) / 2;
        CHECK(count <= SAMPLES_LIMIT && used + size <= sizeof raw);
        *sample = (struct sample){.kind = kind_named(type), .header = bytes_of(raw + used, size)};
        snprintf(sample->name, sizeof sample->name, "%s", name);
        if (size) CHECK_OK(hex_decode(hex, raw + used, size, &error));
        used += size;
        if (strcmp(name, "submit_chunk") == 0 || strcmp(name, "snapshot_frame") == 0)
            sample->payload = bytes_of(payload, 1000);
        if (strcmp(name, "follow_piece") == 0) sample->payload = bytes_of(payload, 100);
    }
    CHECK(count >= COUNT_OF(kinds));
    return count;
}

static inline struct sample sample_named(const char *name) {
    static struct sample samples[SAMPLES_LIMIT];
    size_t count = samples_read(samples);
    for (size_t i = 0; i < count; i++)
        if (strcmp(samples[i].name, name) == 0) return samples[i];
    test_failed(__FILE__, __LINE__, "no sample %s", name);
}

static inline struct frame sample_frame(const struct sample *sample) {
    return (struct frame){sample->header, sample->payload};
}

/* As tests/proto_vectors.py fills its bytes. */
static inline bool is_pattern(struct bytes bytes, unsigned start, size_t size) {
    if (bytes.size != size) return false;
    for (size_t i = 0; i < size; i++)
        if (bytes.data[i] != (uint8_t)(start + i)) return false;
    return true;
}

/* --- raw protobuf, for what our own encoder would never write --- */
static inline void raw_varint(struct buffer *out, uint64_t value) {
    for (; value >= 0x80; value >>= 7) buffer_u8(out, (uint8_t)(value | 0x80));
    buffer_u8(out, (uint8_t)value);
}
static inline void raw_bytes(struct buffer *out, unsigned field, struct bytes value) {
    raw_varint(out, field << 3 | 2);
    raw_varint(out, value.size);
    if (value.size) buffer_append(out, value.data, value.size);
}
static inline void raw_number(struct buffer *out, unsigned field, uint64_t value) {
    raw_varint(out, field << 3);
    raw_varint(out, value);
}

#endif
