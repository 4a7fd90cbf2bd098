#include "base/random.h"
#include "crypto/base64.h"
#include "tests/test.h"

static void check_refused(const char *text, const char *because) {
    struct error error = {0};
    struct buffer out = {0};
    buffer_u8(&out, 'x');
    CHECK_STATUS(base64url_decode(text, strlen(text), 100, &out, &error), INVALID);
    CHECK_CONTAINS(error.message, because);
    CHECK_EQUAL(out.size, 1);
    buffer_deinit(&out);
}

TEST(the_vectors_of_rfc_4648_go_both_ways) {
    static const char *const pairs[][2] = {
        {"", ""},           {"f", "Zg"},          {"fo", "Zm8"},          {"foo", "Zm9v"},
        {"foob", "Zm9vYg"}, {"fooba", "Zm9vYmE"}, {"foobar", "Zm9vYmFy"}, {"\xfb\xff\xfe", "-__-"}};
    struct error error = {0};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        char text[BASE64URL_SIZE(6)];
        CHECK_TEXT(base64url_encode(pairs[i][0], strlen(pairs[i][0]), text), pairs[i][1]);
        struct buffer out = {0};
        CHECK_OK(base64url_decode(text, strlen(text), 6, &out, &error));
        CHECK(bytes_equal(buffer_bytes(&out), bytes_of(pairs[i][0], strlen(pairs[i][0]))));
        buffer_deinit(&out);
    }
}

TEST(whatever_was_encoded_comes_back_and_the_size_macro_is_exact) {
    struct error error = {0};
    for (size_t size = 0; size < 70; size++) {
        uint8_t raw[70];
        char text[BASE64URL_SIZE(70)];
        random_system(raw, size);
        base64url_encode(raw, size, text);
        CHECK_EQUAL(strlen(text) + 1, BASE64URL_SIZE(size));
        struct buffer out = {0};
        CHECK_OK(base64url_decode(text, strlen(text), size, &out, &error));
        CHECK(bytes_equal(buffer_bytes(&out), bytes_of(raw, size)));
        if (size > 0)
            CHECK_STATUS(base64url_decode(text, strlen(text), size - 1, &out, NULL), INVALID);
        buffer_deinit(&out);
    }
}

TEST(anything_but_the_one_canonical_text_is_refused) {
    check_refused("Z", "missing");
    check_refused("Zm9vY", "missing");
    check_refused("Zg==", "character 3");
    check_refused("Zm9v\n", "missing");
    check_refused("Zm 9vYmFy", "missing");
    check_refused("Zm+v", "character 3");
    check_refused("Zm/v", "character 3");
    check_refused("Zh", "unused bits that are not zero");
    check_refused("Zm9", "unused bits that are not zero");
    check_refused("\xc3\xa4gg", "character 1");
}
