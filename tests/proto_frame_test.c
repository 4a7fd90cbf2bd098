#include "base/memory.h"
#include "proto/arena.h"
#include "proto/frame.h"
#include "proto/service.h"
#include "tests/test.h"

/* --- frames --- */

TEST(a_head_and_the_payload_behind_it_are_split_again) {
    struct buffer buffer = {0};
    struct error error = {0};
    CHECK_OK(frame_encode_head(bytes_of("header", 6), &buffer, &error));
    CHECK_EQUAL(buffer.size, 10);
    CHECK_MEMORY(buffer.data, "\6\0\0\0header", 10);
    buffer_append(&buffer, "payload", 7);
    struct frame frame;
    CHECK_OK(frame_split(buffer_bytes(&buffer), &frame, &error));
    CHECK(bytes_equal(frame.header, bytes_of("header", 6)));
    CHECK(bytes_equal(frame.payload, bytes_of("payload", 7)));
    size_t head;
    CHECK_OK(frame_head_size(buffer.data, &head, &error));
    CHECK_EQUAL(head, 10);
    buffer_deinit(&buffer);
}

TEST(a_frame_of_nothing_is_four_zero_bytes) {
    struct buffer buffer = {0};
    struct error error = {0};
    CHECK_OK(frame_encode_head(bytes_of(NULL, 0), &buffer, &error));
    CHECK_EQUAL(buffer.size, 4);
    struct frame frame;
    CHECK_OK(frame_split(buffer_bytes(&buffer), &frame, &error));
    CHECK_EQUAL(frame.header.size, 0);
    CHECK_EQUAL(frame.payload.size, 0);
    buffer_deinit(&buffer);
}

TEST(a_frame_cut_within_its_head_is_refused_at_every_length) {
    const uint8_t whole[10] = {6, 0, 0, 0, 'h', 'e', 'a', 'd', 'e', 'r'};
    struct error error = {0};
    struct frame frame;
    for (size_t size = 0; size < sizeof whole; size++) {
        uint8_t *part =
            xmalloc(size); /* of its exact size, so that a sanitizer sees one byte too far */
        memcpy(part, whole, size);
        CHECK_STATUS(frame_split(bytes_of(part, size), &frame, &error), INVALID);
        if (size >= FRAME_PREFIX_SIZE) CHECK_CONTAINS(error.message, "truncated");
        free(part);
    }
    CHECK_OK(frame_split(bytes_of(whole, sizeof whole), &frame, &error));
}

TEST(a_header_may_be_as_long_as_the_limit_and_no_longer) {
    size_t size = FRAME_PREFIX_SIZE + FRAME_HEADER_LIMIT + 1;
    uint8_t *message = xcalloc(1, size);
    struct error error = {0};
    struct frame frame;
    struct buffer buffer = {0};
    CHECK_OK(frame_encode_head(bytes_of(message, FRAME_HEADER_LIMIT), &buffer, &error));
    CHECK_OK(frame_split(buffer_bytes(&buffer), &frame, &error));
    CHECK_EQUAL(frame.header.size, FRAME_HEADER_LIMIT);
    buffer.size = 0;
    CHECK_STATUS(frame_encode_head(bytes_of(message, FRAME_HEADER_LIMIT + 1), &buffer, &error),
                 INVALID);
    CHECK_EQUAL(buffer.size, 0);
    message[0] = 1, message[2] = 2; /* 0x20001 */
    CHECK_STATUS(frame_split(bytes_of(message, size), &frame, &error), INVALID);
    CHECK_CONTAINS(error.message, "the limit is");
    free(message);
    buffer_deinit(&buffer);
}

TEST(a_payload_may_be_as_long_as_the_limit_and_no_longer) {
    size_t size = FRAME_PREFIX_SIZE + FRAME_PAYLOAD_LIMIT + 1;
    uint8_t *message = xcalloc(1, size);
    struct error error = {0};
    struct frame frame;
    CHECK_OK(frame_split(bytes_of(message, size - 1), &frame, &error));
    CHECK_EQUAL(frame.payload.size, FRAME_PAYLOAD_LIMIT);
    CHECK_STATUS(frame_split(bytes_of(message, size), &frame, &error), INVALID);
    free(message);
}

TEST(a_length_of_four_gigabytes_is_refused_and_does_not_wrap) {
    const uint8_t message[8] = {0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3, 4};
    struct error error = {0};
    struct frame frame;
    size_t head;
    CHECK_STATUS(frame_split(bytes_of(message, sizeof message), &frame, &error), INVALID);
    CHECK_STATUS(frame_head_size(message, &head, &error), INVALID);
}

/* --- arena --- */

TEST(pieces_of_an_arena_are_aligned_and_apart_and_end_at_its_size) {
    _Alignas(16) uint8_t block[100];
    struct arena arena;
    arena_init(&arena, block + 3, 97); /* the block itself is not aligned */
    uint8_t *first = arena_take(&arena, 1), *second = arena_take(&arena, 16);
    CHECK(first && second);
    CHECK_EQUAL((uintptr_t)first % 16, 0);
    CHECK_EQUAL(second - first, 16);
    CHECK(!arena_take(&arena, 53));
    CHECK(arena.refused);
    CHECK(arena_take(&arena, 52)); /* 100 - 48 */
    CHECK(!arena_take(&arena, 1));
    arena_reset(&arena);
    CHECK(!arena.refused);
    CHECK(arena_take(&arena, 1) == first);
    CHECK(!arena_take(&arena, SIZE_MAX));
    CHECK(!arena_take(&arena, SIZE_MAX - 15));
}

TEST(an_arena_of_nothing_gives_nothing) {
    struct arena arena = {0};
    CHECK(!arena_take(&arena, 1));
    CHECK(!arena_take(&arena, 0));
    arena_deinit(&arena);
}

TEST(an_arena_frees_only_a_block_of_its_own) {
    uint8_t block[64];
    struct arena arena;
    arena_init(&arena, block, sizeof block);
    arena_deinit(&arena);
    arena_create(&arena, 4096);
    CHECK(arena_take(&arena, 4000));
    arena_deinit(&arena);
    arena_deinit(&arena);
}

/* --- service --- */

TEST(every_method_has_the_path_of_the_schema_and_is_found_by_it) {
    static const char *const names[METHOD_COUNT] = {
        [METHOD_JOIN] = "/atoll.v1.Atoll/Join",
        [METHOD_SUBMIT] = "/atoll.v1.Atoll/Submit",
        [METHOD_FOLLOW] = "/atoll.v1.Atoll/Follow",
        [METHOD_SNAPSHOT] = "/atoll.v1.Atoll/Snapshot",
        [METHOD_HEARTBEAT] = "/atoll.v1.Atoll/Heartbeat",
        [METHOD_ADMIN] = "/atoll.v1.Atoll/Admin",
    };
    for (unsigned i = 0; i < METHOD_COUNT; i++) {
        CHECK_TEXT(service_path((enum service_method)i), names[i]);
        CHECK_EQUAL(service_method_of(names[i]), i);
    }
    CHECK_EQUAL(service_method_of("/atoll.v1.Atoll/submit"), METHOD_COUNT);
    CHECK_EQUAL(service_method_of("/atoll.v1.Atoll/"), METHOD_COUNT);
    CHECK_EQUAL(service_method_of(""), METHOD_COUNT);
}

/* protobuf-c's descriptors do not say who streams, so the table is held against the schema's text.
 */
TEST(who_streams_is_as_the_schema_says) {
    char *path = xformat("%s/proto/atoll.proto", test_root());
    FILE *file = fopen(path, "r");
    CHECK(file);
    char line[256];
    unsigned method = 0;
    while (fgets(line, sizeof line, file)) {
        char *call = strstr(line, "rpc "), *returns = strstr(line, "returns");
        if (!call || !returns) continue;
        CHECK(method < METHOD_COUNT);
        char *first = strstr(call, "(stream ");
        CHECK_EQUAL(service_client_streams((enum service_method)method), first && first < returns);
        CHECK_EQUAL(service_server_streams((enum service_method)method),
                    strstr(returns, "(stream ") != NULL);
        method++;
    }
    CHECK_EQUAL(method, METHOD_COUNT);
    fclose(file);
    free(path);
}
