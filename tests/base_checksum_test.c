#include "base/checksum.h"

#include <string.h>

#include "base/random.h"
#include "tests/test.h"

/* Bit by bit, as the definition has it. */
static uint64_t slow(struct bytes bytes) {
    uint64_t rest = UINT64_MAX;
    for (size_t at = 0; at < bytes.size; at++) {
        rest ^= bytes.data[at];
        for (int bit = 0; bit < 8; bit++) rest = rest >> 1 ^ (rest & 1 ? 0xc96c5795d7870f42u : 0);
    }
    return ~rest;
}

TEST(the_catalogue_of_checksums_gives_the_same_for_its_nine_digits) {
    CHECK(checksum_crc64(bytes_of("123456789", 9)) == 0x995dc9bbdf1939fau);
    CHECK(checksum_crc64(bytes_of(NULL, 0)) == 0);
}

TEST(any_length_and_alignment_is_as_the_definition_has_it) {
    struct random random;
    random_init(&random, 11);
    uint8_t text[80];
    for (size_t i = 0; i < sizeof text; i++) text[i] = (uint8_t)random_below(&random, 256);
    for (size_t from = 0; from < 9; from++)
        for (size_t size = 0; from + size <= sizeof text; size++)
            CHECK(checksum_crc64(bytes_of(text + from, size)) == slow(bytes_of(text + from, size)));
}

TEST(what_was_sealed_opens_and_any_flipped_bit_or_missing_byte_is_named) {
    struct error error = {0};
    struct buffer sealed = {0};
    struct bytes content;
    buffer_append_text(&sealed, "forty-two");
    checksum_seal(&sealed);
    CHECK_OK(checksum_open(buffer_bytes(&sealed), &content, &error));
    CHECK(bytes_equal(content, bytes_of("forty-two", 9)));
    for (size_t bit = 0; bit < sealed.size * 8; bit++) {
        sealed.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        CHECK_STATUS(checksum_open(buffer_bytes(&sealed), &content, &error), CORRUPT);
        CHECK(content.size == 0);
        sealed.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t size = 0; size < sealed.size; size++)
        CHECK_STATUS(checksum_open(bytes_of(sealed.data, size), &content, &error), CORRUPT);
    buffer_deinit(&sealed);
}
