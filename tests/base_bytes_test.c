#include "base/bytes.h"
#include "tests/test.h"

TEST(what_was_written_is_read_back) {
    struct buffer buffer = {0};
    buffer_u8(&buffer, 7);
    buffer_u16(&buffer, 0xBEEF);
    buffer_u32(&buffer, 0xDEADBEEF);
    buffer_u64(&buffer, 0x0123456789ABCDEF);
    buffer_f32(&buffer, 1.5f);
    buffer_f64(&buffer, -2.25);
    CHECK_EQUAL(buffer.data[1], 0xEF); /* little-endian */
    struct reader reader = reader_of(buffer_bytes(&buffer));
    CHECK_EQUAL(reader_u8(&reader), 7);
    CHECK_EQUAL(reader_u16(&reader), 0xBEEF);
    CHECK_EQUAL(reader_u32(&reader), 0xDEADBEEF);
    CHECK_EQUAL(reader_u64(&reader), 0x0123456789ABCDEF);
    CHECK_NEAR(reader_f32(&reader), 1.5, 0);
    CHECK_NEAR(reader_f64(&reader), -2.25, 0);
    struct error error = {0};
    CHECK_OK(reader_finish(&reader, "record", &error));
    buffer_deinit(&buffer);
}

TEST(a_short_read_fails_gives_zeroes_and_stays_failed) {
    const uint8_t raw[3] = {1, 2, 3};
    struct reader reader = reader_of(bytes_of(raw, sizeof raw));
    CHECK_EQUAL(reader_u32(&reader), 0);
    CHECK_EQUAL(reader_u8(&reader), 0);
    CHECK_EQUAL(reader_left(&reader), 0);
    struct error error = {0};
    CHECK_STATUS(reader_finish(&reader, "record", &error), INVALID);
    CHECK_CONTAINS(error.message, "truncated");
}

TEST(trailing_bytes_are_an_error) {
    const uint8_t raw[3] = {1, 2, 3};
    struct reader reader = reader_of(bytes_of(raw, sizeof raw));
    reader_u16(&reader);
    struct error error = {0};
    CHECK_STATUS(reader_finish(&reader, "record", &error), INVALID);
    CHECK_CONTAINS(error.message, "1 bytes too many");
}

TEST(hexadecimal_goes_both_ways_and_refuses_the_rest) {
    uint8_t raw[2];
    char text[5];
    struct error error = {0};
    CHECK_OK(hex_decode("00fF", raw, 2, &error));
    CHECK_TEXT(hex_encode(raw, 2, text), "00ff");
    CHECK_STATUS(hex_decode("00f", raw, 2, &error), INVALID);
    CHECK_STATUS(hex_decode("00fg", raw, 2, &error), INVALID);
}

TEST_EXPECTED_TO(CRASH, a_crash_is_caught) { abort(); }
TEST_EXPECTED_TO(HANG, a_hang_is_caught) {
    for (;;) __asm__ volatile("");
}
TEST_EXPECTED_TO(FAIL, a_failed_check_is_caught) { CHECK_EQUAL(1 + 1, 3); }
TEST_EXPECTED_TO(LEAK, a_leak_is_caught_where_a_sanitizer_looks) {
    void *volatile lost = malloc(100);
    lost = NULL;
    (void)lost;
}
