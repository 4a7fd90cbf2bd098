#include "base/json.h"

#include <float.h>

#include "base/memory.h"
#include "base/random.h"
#include "tests/test.h"

static enum status parse(const char *text, struct json **out, struct error *error) {
    return json_parse(bytes_of(text, strlen(text)), NULL, out, error);
}

static void check_refused(const char *text, const char *part) {
    struct error error = {0};
    struct json *json = NULL;
    if (parse(text, &json, &error) != INVALID)
        test_failed(__FILE__, __LINE__, "accepted: %s", text);
    CHECK_CONTAINS(error.message, part);
    CHECK(json == NULL);
}

static const char sample[] = "{ \"name\": \"eu-north\\n\\u00e9\\ud83d\\ude00\", \"count\": "
                             "18446744073709551615, \"rate\": -1.5e-3,\n"
                             " \"on\": true, \"off\": false, \"none\": null, \"list\": [1, [2, "
                             "{}], \"x\"], \"deep\": {\"a\": {\"b\": 7}} }";

TEST(every_kind_of_value_is_read) {
    struct error error = {0};
    struct json *json = NULL;
    CHECK_OK(parse(sample, &json, &error));
    const struct json_value *root = json_root(json), *list = NULL, *deep = NULL;
    const char *name = NULL;
    uint64_t count = 0;
    double rate = 0;
    bool on = false;
    CHECK_OK(json_get_text(root, "name", &name, &error));
    CHECK_TEXT(name, "eu-north\n\xc3\xa9\xf0\x9f\x98\x80");
    CHECK_OK(json_get_u64(root, "count", &count, &error));
    CHECK(count == UINT64_MAX);
    CHECK_OK(json_get_f64(root, "rate", &rate, &error));
    CHECK_NEAR(rate, -0.0015, 0);
    CHECK_OK(json_get_bool(root, "on", &on, &error));
    CHECK(on);
    CHECK_EQUAL(json_object_get(root, "none")->type, JSON_NULL);
    CHECK_OK(json_get_array(root, "list", &list, &error));
    CHECK_EQUAL(list->count, 3);
    CHECK_EQUAL(json_array_get(json_array_get(list, 1), 0)->integer, 2);
    CHECK(json_array_get(list, 3) == NULL);
    CHECK_OK(json_get_object(root, "deep", &deep, &error));
    CHECK_EQUAL(json_object_get(json_object_get(deep, "a"), "b")->integer, 7);
    CHECK_TEXT(root->items[1].key, "count");
    json_close(json);
}

TEST(an_absent_key_and_one_of_another_type_are_told_apart) {
    struct error error = {0};
    struct json *json = NULL;
    CHECK_OK(
        parse("{\"a\": -1, \"b\": \"x\", \"c\": 1.0, \"d\": 18446744073709551616}", &json, &error));
    const struct json_value *root = json_root(json);
    uint64_t number = 42;
    CHECK_STATUS(json_get_u64(root, "z", &number, &error), NOT_FOUND);
    CHECK_CONTAINS(error.message, "'z' is missing");
    CHECK_STATUS(json_get_u64(root, "a", &number, &error), INVALID);
    CHECK_STATUS(json_get_u64(root, "b", &number, &error), INVALID);
    CHECK_STATUS(json_get_u64(root, "c", &number, &error), INVALID);
    CHECK_STATUS(json_get_u64(root, "d", &number, &error), INVALID);
    CHECK_EQUAL(number, 42);
    CHECK_STATUS(json_get_u64(json_object_get(root, "a"), "x", &number, &error), INVALID);
    json_close(json);
}

TEST(what_is_no_json_is_refused_with_its_place) {
    check_refused("", "line 1, column 1");
    check_refused("  \n  x", "line 2, column 3");
    check_refused("{\"a\":1,}", "a key");
    check_refused("[1,]", "a value was expected");
    check_refused("[1 2]", "',' or ']'");
    check_refused("{\"a\" 1}", "':'");
    check_refused("{a:1}", "a key");
    check_refused("01", "leading zero");
    check_refused("-", "a value");
    check_refused("1.", "after the decimal point");
    check_refused("1e", "exponent");
    check_refused("+1", "a value");
    check_refused(".5", "a value");
    check_refused("1e999", "too large");
    check_refused("NaN", "a value");
    check_refused("nul", "a value");
    check_refused("true false", "more text");
    check_refused("'a'", "a value");
    check_refused("\"a", "ends inside");
    check_refused("\"\t\"", "control character");
    check_refused("\"\\x41\"", "escape");
    check_refused("\"\\u00\"", "hexadecimal");
    check_refused("\"\\u0000\"", "zero character");
    check_refused("\"\\ud800\"", "surrogate");
    check_refused("\"\\ud800\\u0041\"", "surrogate");
    check_refused("\"\\udc00\"", "surrogate");
    check_refused("\"\xff\"", "UTF-8");
    check_refused("\"\xc0\x80\"", "UTF-8");
    check_refused("\"\xed\xa0\x80\"", "UTF-8");
    check_refused("\"\xf5\x80\x80\x80\"", "UTF-8");
    check_refused("[1] // no", "more text");
}

TEST(a_byte_order_mark_is_no_text) {
    struct json *json = NULL;
    struct error error = {0};
    CHECK_OK(parse("\xef\xbb\xbf{\"a\": 1}", &json, &error));
    CHECK(json_object_get(json_root(json), "a") != NULL);
    json_close(json);
}

TEST(a_zero_byte_in_the_text_is_refused) {
    struct error error = {0};
    struct json *json = NULL;
    CHECK_STATUS(json_parse(bytes_of("[1]\0", 4), NULL, &json, &error), INVALID);
    CHECK_STATUS(json_parse(bytes_of("\"a\0b\"", 5), NULL, &json, &error), INVALID);
}

TEST(duplicate_keys_are_refused_in_small_and_in_large_objects) {
    check_refused("{\"a\":1,\"a\":2}", "'a' is there twice");
    check_refused("{\"a\":1,\"\\u0061\":2}", "'a' is there twice");
    struct buffer text = {0};
    buffer_append_text(&text, "{");
    for (int i = 0; i < 5000; i++) buffer_append_text(&text, "\"key%d\":%d,", i, i);
    size_t without = text.size;
    buffer_append_text(&text, "\"key777\":0}%c", 0);
    check_refused((const char *)text.data, "'key777' is there twice");
    text.size = without;
    buffer_append_text(&text, "\"last\":0}");
    struct error error = {0};
    struct json *json = NULL;
    CHECK_OK(json_parse(buffer_bytes(&text), NULL, &json, &error));
    for (int i = 0; i < 5000; i++) {
        char key[32];
        snprintf(key, sizeof key, "key%d", i);
        CHECK_EQUAL(json_object_get(json_root(json), key)->integer, i);
    }
    CHECK(json_object_get(json_root(json), "key5000") == NULL);
    json_close(json);
    buffer_deinit(&text);
}

TEST(depth_and_size_have_limits) {
    struct error error = {0};
    struct json *json = NULL;
    struct buffer text = {0};
    for (int i = 0; i < 32; i++) buffer_u8(&text, '[');
    for (int i = 0; i < 32; i++) buffer_u8(&text, ']');
    CHECK_OK(json_parse(buffer_bytes(&text), NULL, &json, &error));
    json_close(json);
    CHECK_STATUS(json_parse(buffer_bytes(&text), &(struct json_limits){.depth = 31}, &json, &error),
                 INVALID);
    CHECK_CONTAINS(error.message, "nested too deeply");
    CHECK_STATUS(json_parse(buffer_bytes(&text), &(struct json_limits){.size = 63}, &json, &error),
                 INVALID);
    text.size = 0;
    for (int i = 0; i < 1000000; i++) buffer_u8(&text, i % 2 ? '[' : '{');
    CHECK_STATUS(
        json_parse(buffer_bytes(&text), &(struct json_limits){.depth = 100000}, &json, &error),
        INVALID);
    text.size = 0;
    for (int i = 0; i < 1000000; i++) buffer_u8(&text, '[');
    CHECK_STATUS(
        json_parse(buffer_bytes(&text), &(struct json_limits){.depth = 100000}, &json, &error),
        INVALID);
    buffer_deinit(&text);
}

TEST(every_truncation_is_refused) {
    for (size_t size = 0; size < sizeof sample - 1; size++) {
        /* A copy of exactly that size, so that a sanitizer sees a read past the end. */
        uint8_t *copy = xmalloc(size);
        memcpy(copy, sample, size);
        struct error error = {0};
        struct json *json = NULL;
        CHECK_STATUS(json_parse(bytes_of(copy, size), NULL, &json, &error), INVALID);
        free(copy);
    }
}

static void rewrite(struct json_writer *writer, const struct json_value *value) {
    switch (value->type) {
    case JSON_NULL: json_null(writer); break;
    case JSON_BOOL: json_bool(writer, value->boolean); break;
    case JSON_NUMBER:
        if (value->is_u64)
            json_u64(writer, value->integer);
        else
            json_f64(writer, value->number);
        break;
    case JSON_STRING: json_text_sized(writer, value->text, value->size); break;
    case JSON_ARRAY:
        json_begin_array(writer);
        for (size_t i = 0; i < value->count; i++) rewrite(writer, &value->items[i]);
        json_end_array(writer);
        break;
    default:
        json_begin_object(writer);
        for (size_t i = 0; i < value->count; i++) {
            json_key(writer, value->items[i].key);
            rewrite(writer, &value->items[i]);
        }
        json_end_object(writer);
    }
}

/* Whatever is accepted is written back, and that reads and writes the same again. */
TEST(random_mutations_are_refused_or_survive_a_round_trip) {
    struct random random;
    random_init(&random, 20260101);
    unsigned accepted = 0;
    for (int round = 0; round < 10000; round++) {
        size_t size = sizeof sample - 1;
        uint8_t *copy = xmalloc(size);
        memcpy(copy, sample, size);
        for (uint64_t i = 1 + random_below(&random, 4); i > 0; i--) {
            static const char tokens[] = "{}[]\",:\\0123456789eE+-.utfn \n";
            uint64_t kind = random_below(&random, 2);
            copy[random_below(&random, size)] =
                kind ? (uint8_t)tokens[random_below(&random, sizeof tokens - 1)]
                     : (uint8_t)random_below(&random, 256);
        }
        struct error error = {0};
        struct json *json = NULL, *again = NULL;
        if (json_parse(bytes_of(copy, size), NULL, &json, &error) == OK) {
            struct buffer first = {0}, second = {0};
            struct json_writer writer = json_writer_of(&first, round % 2 == 0);
            rewrite(&writer, json_root(json));
            CHECK(json_is_complete(&writer));
            CHECK_OK(json_parse(buffer_bytes(&first), NULL, &again, &error));
            writer = json_writer_of(&second, round % 2 == 0);
            rewrite(&writer, json_root(again));
            CHECK(bytes_equal(buffer_bytes(&first), buffer_bytes(&second)));
            buffer_deinit(&first);
            buffer_deinit(&second);
            json_close(again);
            json_close(json);
            accepted++;
        } else {
            CHECK(error.status == INVALID);
        }
        free(copy);
    }
    CHECK(accepted > 500 && accepted < 9500);
}

static const char *text_of(struct buffer *buffer) {
    buffer_u8(buffer, 0);
    return (const char *)buffer->data;
}

TEST(the_writer_is_compact_or_pretty_and_escapes) {
    for (int pretty = 0; pretty < 2; pretty++) {
        struct buffer out = {0};
        struct json_writer writer = json_writer_of(&out, pretty);
        json_begin_object(&writer);
        json_key(&writer, "a\"b");
        json_text(&writer, "x\n\x01\xff\xc3\xa9");
        json_key(&writer, "list");
        json_begin_array(&writer);
        json_i64(&writer, -3);
        json_u64(&writer, UINT64_MAX);
        json_f64(&writer, NAN);
        json_f64(&writer, -INFINITY);
        json_end_array(&writer);
        json_key(&writer, "none");
        json_begin_object(&writer);
        json_end_object(&writer);
        CHECK(!json_is_complete(&writer));
        json_end_object(&writer);
        CHECK(json_is_complete(&writer));
        CHECK_TEXT(text_of(&out), pretty
                                      ? "{\n  \"a\\\"b\": \"x\\n\\u0001\xef\xbf\xbd\xc3\xa9\",\n  "
                                        "\"list\": [\n    -3,\n    18446744073709551615,\n"
                                        "    null,\n    null\n  ],\n  \"none\": {}\n}"
                                      : "{\"a\\\"b\":\"x\\n\\u0001\xef\xbf\xbd\xc3\xa9\",\"list\":["
                                        "-3,18446744073709551615,null,null],\"none\":{}}");
        buffer_deinit(&out);
    }
}

TEST(floats_are_the_shortest_that_read_back) {
    static const struct {
        double value;
        const char *text;
    } cases[] = {{0.1, "0.1"},
                 {1.0, "1"},
                 {1e300, "1e+300"},
                 {1.0 / 3, "0.3333333333333333"},
                 {0.1 + 0.2, "0.30000000000000004"},
                 {-0.0, "-0"},
                 {NAN, "nan"},
                 {-NAN, "nan"},
                 {INFINITY, "inf"}};
    char text[F64_TEXT_SIZE];
    for (size_t i = 0; i < COUNT_OF(cases); i++)
        CHECK_TEXT(f64_format(cases[i].value, text), cases[i].text);
    struct random random;
    random_init(&random, 3);
    for (int i = 0; i < 20000; i++) {
        uint64_t bits = random_u64(&random), back_bits = 0;
        double value, back;
        memcpy(&value, &bits, sizeof value);
        if (value - value != 0) continue;
        back = strtod(f64_format(value, text), NULL);
        memcpy(&back_bits, &back, sizeof back_bits);
        CHECK(bits == back_bits);
    }
    CHECK_NEAR(strtod(f64_format(DBL_TRUE_MIN, text), NULL), DBL_TRUE_MIN, 0);
}

TEST_EXPECTED_TO(CRASH, a_value_without_its_key_asserts) {
    struct buffer out = {0};
    struct json_writer writer = json_writer_of(&out, false);
    json_begin_object(&writer);
    json_u64(&writer, 1);
}
TEST_EXPECTED_TO(CRASH, a_second_root_asserts) {
    struct buffer out = {0};
    struct json_writer writer = json_writer_of(&out, false);
    json_u64(&writer, 1);
    json_u64(&writer, 1);
}
TEST_EXPECTED_TO(CRASH, an_end_of_another_kind_asserts) {
    struct buffer out = {0};
    struct json_writer writer = json_writer_of(&out, false);
    json_begin_object(&writer);
    json_end_array(&writer);
}
