/* The one grammar of values: every kind, from text to field and back. */
#include "base/setting.h"

#include <math.h>

#include "base/memory.h"
#include "tests/test.h"

struct values {
    uint64_t whole;
    uint32_t small;
    double real;
    uint16_t short_choice;
    char chars[6];
    uint8_t hex[4];
};
#define WHOLE(kind_)                                                                               \
    { "x", kind_, SETTING_FIELD(struct values, whole), .help = "" }
#define REAL(kind_)                                                                                \
    { "x", kind_, SETTING_FIELD(struct values, real), .help = "" }

static const struct setting whole_of[] = {[SETTING_COUNT] = WHOLE(SETTING_COUNT),
                                          [SETTING_SIZE] = WHOLE(SETTING_SIZE),
                                          [SETTING_DURATION] = WHOLE(SETTING_DURATION),
                                          [SETTING_RATE] = WHOLE(SETTING_RATE)};
static const struct setting real_of[] = {
    [SETTING_COUNT] = REAL(SETTING_COUNT), [SETTING_NUMBER] = REAL(SETTING_NUMBER),
    [SETTING_SHARE] = REAL(SETTING_SHARE), [SETTING_SIZE] = REAL(SETTING_SIZE),
    [SETTING_RATE] = REAL(SETTING_RATE),   [SETTING_DURATION] = REAL(SETTING_DURATION)};

TEST(whole_fields_take_what_they_can_hold_exactly) {
    static const struct {
        enum setting_kind kind;
        const char *text;
        uint64_t value;
    } cases[] = {{SETTING_COUNT, "0", 0},
                 {SETTING_COUNT, "500", 500},
                 {SETTING_COUNT, "64k", 64000},
                 {SETTING_COUNT, "1.5M", 1500000},
                 {SETTING_COUNT, "10B", 10000000000},
                 {SETTING_COUNT, "1e3", 1000},
                 {SETTING_COUNT, "1500e-2", 15},
                 {SETTING_COUNT, "0.1T", 100000000000},
                 {SETTING_COUNT, "18446744073709551615", UINT64_MAX},
                 {SETTING_SIZE, "0", 0},
                 {SETTING_SIZE, "4096B", 4096},
                 {SETTING_SIZE, "2.5MB", 2500000},
                 {SETTING_SIZE, "1.5KiB", 1536},
                 {SETTING_SIZE, "64 KiB", 65536},
                 {SETTING_SIZE, "16777215TiB", 16777215ull << 40},
                 {SETTING_DURATION, "250ms", 250},
                 {SETTING_DURATION, "1.5s", 1500},
                 {SETTING_DURATION, "3000us", 3},
                 {SETTING_DURATION, "1e12ps", 1000},
                 {SETTING_DURATION, "1e25ps", 10000000000000000},
                 {SETTING_DURATION, "7d", 604800000},
                 {SETTING_RATE, "20Mbit/s", 2500000},
                 {SETTING_RATE, "8bit/s", 1},
                 {SETTING_RATE, "1.5GB/s", 1500000000},
                 {SETTING_RATE, "512KiB/s", 524288}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        uint64_t value = 42;
        struct error error = {0};
        if (setting_parse(&whole_of[cases[i].kind], cases[i].text, &value, &error) != OK)
            test_failed(__FILE__, __LINE__, "%s: %s", cases[i].text, error.message);
        if (value != cases[i].value)
            test_failed(__FILE__, __LINE__, "%s is %llu", cases[i].text, (unsigned long long)value);
    }
}

TEST(what_a_whole_field_cannot_hold_is_refused_and_leaves_it_alone) {
    static const struct {
        enum setting_kind kind;
        const char *text;
    } cases[] = {{SETTING_COUNT, ""},
                 {SETTING_COUNT, "many"},
                 {SETTING_COUNT, "-1"},
                 {SETTING_COUNT, "+1"},
                 {SETTING_COUNT, "007"},
                 {SETTING_COUNT, "1.5"},
                 {SETTING_COUNT, "1e-1"},
                 {SETTING_COUNT, "1."},
                 {SETTING_COUNT, ".5k"},
                 {SETTING_COUNT, "0x10"},
                 {SETTING_COUNT, "1e"},
                 {SETTING_COUNT, "1_000"},
                 {SETTING_COUNT, "1 "},
                 {SETTING_COUNT, " 1"},
                 {SETTING_COUNT, "5K"},
                 {SETTING_COUNT, "5G"},
                 {SETTING_COUNT, "18446744073709551616"},
                 {SETTING_COUNT, "99999999999999999999"},
                 {SETTING_COUNT, "1e400"},
                 {SETTING_COUNT, "18446744073709552k"},
                 {SETTING_SIZE, "4096"},
                 {SETTING_SIZE, "10mb"},
                 {SETTING_SIZE, "1.0001KiB"},
                 {SETTING_SIZE, "99999999999TiB"},
                 {SETTING_DURATION, "30"},
                 {SETTING_DURATION, "0.5ms"},
                 {SETTING_DURATION, "5min"},
                 {SETTING_DURATION, "1h30m"},
                 {SETTING_DURATION, "1ns"},
                 {SETTING_DURATION, "1e40ps"},
                 {SETTING_DURATION, "forever"},
                 {SETTING_RATE, "20mbit"},
                 {SETTING_RATE, "1bit/s"},
                 {SETTING_RATE, "1MB"},
                 {SETTING_RATE, "unlimited"}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        uint64_t value = 42;
        struct error error = {0};
        if (setting_parse(&whole_of[cases[i].kind], cases[i].text, &value, &error) != INVALID)
            test_failed(__FILE__, __LINE__, "taken: %s", cases[i].text);
        CHECK_EQUAL(value, 42);
        CHECK_CONTAINS(error.message, "write a ");
    }
}

TEST(real_fields_are_in_seconds_bytes_and_shares) {
    static const struct {
        enum setting_kind kind;
        const char *text;
        double value;
    } cases[] = {{SETTING_COUNT, "1.5B", 1.5e9},
                 {SETTING_NUMBER, "0.7", 0.7},
                 {SETTING_NUMBER, "1e-4", 1e-4},
                 {SETTING_NUMBER, "10k", 1e4},
                 {SETTING_NUMBER, "0.30000000000000004", 0.30000000000000004},
                 {SETTING_SHARE, "2%", 0.02},
                 {SETTING_SHARE, "0.02", 0.02},
                 {SETTING_SHARE, "20 %", 0.2},
                 {SETTING_SIZE, "4MiB", 4194304},
                 {SETTING_RATE, "20Mbit/s", 2.5e6},
                 {SETTING_RATE, "1bit/s", 0.125},
                 {SETTING_DURATION, "0.7ns", 0.7e-9},
                 {SETTING_DURATION, "1500h", 5.4e6},
                 {SETTING_DURATION, "0", 0}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        double value = -1;
        struct error error = {0};
        CHECK_OK(setting_parse(&real_of[cases[i].kind], cases[i].text, &value, &error));
        CHECK_NEAR(value, cases[i].value, 1e-15 * cases[i].value);
    }
    static const char *const bad[] = {"nan", "inf", "-0",  "-0.5", "1e999", "0x1",
                                      "",    "1,5", "1 2", "+1",   "1e",    "infinity"};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        double value = -1;
        struct error error = {0};
        CHECK_STATUS(setting_parse(&real_of[SETTING_NUMBER], bad[i], &value, &error), INVALID);
        CHECK(value == -1);
    }
    double value = -1;
    struct error error = {0};
    CHECK_STATUS(setting_parse(&real_of[SETTING_COUNT], "1.5", &value, &error), INVALID);
    CHECK_STATUS(setting_parse(&real_of[SETTING_RATE], "1e308TB/s", &value, &error), INVALID);
}

TEST(a_number_of_32_bits_is_not_cut) {
    static const struct setting small = {"x", SETTING_COUNT, SETTING_FIELD(struct values, small),
                                         .help = ""};
    uint32_t value = 42;
    struct error error = {0};
    CHECK_OK(setting_parse(&small, "4294967295", &value, &error));
    CHECK_EQUAL(value, UINT32_MAX);
    CHECK_STATUS(setting_parse(&small, "4294967296", &value, &error), INVALID);
    CHECK_EQUAL(value, UINT32_MAX);
}

TEST(only_what_nothing_bounds_may_be_without_end) {
    static const struct setting time = {
        "x",   SETTING_DURATION,        SETTING_FIELD(struct values, whole), "0", "0",
        "30d", .flags = SETTING_ENDLESS};
    static const struct setting rate = {"x", SETTING_RATE, SETTING_FIELD(struct values, real),
                                        "0", "1B/s",       .flags = SETTING_ENDLESS};
    uint64_t ms = 0;
    double bytes = 0;
    struct buffer text = {0};
    struct error error = {0};
    CHECK_OK(setting_parse(&time, "never", &ms, &error));
    CHECK(ms == UINT64_MAX);
    setting_format(&time, &ms, &text);
    CHECK(bytes_equal(buffer_bytes(&text), bytes_of("forever", 7)));
    CHECK_OK(setting_check(&time, &ms, &error));
    CHECK_STATUS(setting_parse(&time, "31d", &ms, &error), INVALID);
    CHECK_CONTAINS(error.message, "write 0 to 30d or forever (units ms, s, m, h, d)");
    CHECK_OK(setting_parse(&rate, "unlimited", &bytes, &error));
    CHECK(isinf(bytes));
    CHECK_STATUS(setting_parse(&rate, "forever", &bytes, &error), INVALID);
    CHECK_CONTAINS(error.message, "at least 1B/s or unlimited");
    buffer_deinit(&text);
}

TEST(what_is_formatted_parses_to_the_same_value) {
    static const struct {
        uint64_t value;
        const char *size, *duration, *rate;
    } cases[] = {
        {0, "0B", "0ms", "0B/s"},
        {1, "1B", "1ms", "1B/s"},
        {1023, "1023B", "1023ms", "1023B/s"},
        {1024, "1KiB", "1024ms", "1KiB/s"},
        {1 << 20, "1MiB", "1048576ms", "1MiB/s"},
        {3000, "3kB", "3s", "3kB/s"},
        {90000, "90kB", "90s", "90kB/s"},
        {7200000, "7200kB", "2h", "7200kB/s"},
        {UINT64_MAX, "18446744073709551615B", "18446744073709551615ms", "18446744073709551615B/s"}};
    static const enum setting_kind kinds[] = {SETTING_SIZE, SETTING_DURATION, SETTING_RATE};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        const char *const wanted[] = {cases[i].size, cases[i].duration, cases[i].rate};
        for (size_t j = 0; j < COUNT_OF(kinds); j++) {
            struct buffer text = {0};
            struct error error = {0};
            uint64_t back = 42;
            setting_format(&whole_of[kinds[j]], &cases[i].value, &text);
            buffer_u8(&text, 0);
            CHECK_TEXT((const char *)text.data, wanted[j]);
            CHECK_OK(setting_parse(&whole_of[kinds[j]], (const char *)text.data, &back, &error));
            CHECK(back == cases[i].value);
            buffer_deinit(&text);
        }
    }
}

static void check_written(const struct setting *setting, const void *field, const char *wanted) {
    struct buffer text = {0};
    setting_format(setting, field, &text);
    buffer_u8(&text, 0);
    CHECK_TEXT((const char *)text.data, wanted);
    buffer_deinit(&text);
}

TEST(words_names_and_digests_have_one_text) {
    static const char *const choices[] = {"red", "green", NULL};
    static const struct setting choice = {"x", SETTING_CHOICE,
                                          SETTING_FIELD(struct values, short_choice),
                                          .choices = choices, .first = 3};
    static const struct setting chars = {"x", SETTING_CHARS, SETTING_FIELD(struct values, chars),
                                         .form = "five letters"};
    static const struct setting hex = {"x", SETTING_HEX, SETTING_FIELD(struct values, hex),
                                       .help = ""};
    struct values v;
    struct error error = {0};
    memset(&v, 0xff, sizeof v);
    CHECK_OK(setting_parse(&choice, "green", &v.short_choice, &error));
    CHECK_EQUAL(v.short_choice, 4);
    check_written(&choice, &v.short_choice, "green");
    v.short_choice = 5;
    CHECK_STATUS(setting_check(&choice, &v.short_choice, &error), INVALID);
    CHECK_CONTAINS(error.message, "write red or green");
    CHECK_OK(setting_parse(&chars, "ab", &v.chars, &error));
    CHECK_MEMORY(v.chars, "ab\0\0\0", 6);
    check_written(&chars, &v.chars, "ab");
    CHECK_STATUS(setting_parse(&chars, "abcdef", &v.chars, &error), INVALID);
    CHECK_CONTAINS(error.message, "write five letters");
    memset(v.chars, 'a', sizeof v.chars); /* no end */
    CHECK_STATUS(setting_check(&chars, v.chars, &error), INVALID);
    CHECK_OK(setting_parse(&hex, "DEADbeef", &v.hex, &error));
    check_written(&hex, &v.hex, "deadbeef");
    CHECK_OK(setting_parse(&hex, "none", &v.hex, &error));
    check_written(&hex, &v.hex, "none");
    CHECK_STATUS(setting_parse(&hex, "deadbee", &v.hex, &error), INVALID);
    CHECK_CONTAINS(error.message, "none or 8 hexadecimal digits");
}

TEST(a_secret_is_not_put_in_the_message) {
    static const struct setting secret = {"x",   SETTING_TEXT, 0,          sizeof(char *),
                                          false, NULL,         .max = "4", .flags = SETTING_SECRET};
    const char *text = NULL;
    struct error error = {0};
    CHECK_STATUS(setting_parse(&secret, "hunter2", &text, &error), INVALID);
    CHECK(!strstr(error.message, "hunter2") && text == NULL);
}

TEST(a_key_in_kebab_case_or_without_its_section_finds_the_one_that_was_meant) {
    static const struct setting table[] = {
        {.name = "inner.inner_steps"}, {.name = "model.hidden"}, {.name = "merge.grace"}, {0}};
    CHECK_TEXT(setting_nearest(table, "inner.inner-steps"), "inner.inner_steps");
    CHECK_TEXT(setting_nearest(table, "outer.inner_steps"), "inner.inner_steps");
    CHECK_TEXT(setting_nearest(table, "hidden"), "model.hidden");
    CHECK(setting_nearest(table, "zebra") == NULL);
    CHECK(setting_find(table, "merge.grace") == &table[2]);
    CHECK(setting_find(table, "merge.gracE") == NULL);
}

TEST(auto_stands_for_no_number_where_it_may) {
    struct setting whole =
                       {"x", SETTING_COUNT,        SETTING_FIELD(struct values, small), NULL, "1",
                        "9", .flags = SETTING_AUTO},
                   real = {"x", SETTING_NUMBER,       SETTING_FIELD(struct values, real), NULL, "1",
                           "9", .flags = SETTING_AUTO};
    struct error error = {0};
    struct buffer text = {0};
    uint32_t small = 0;
    double number = 0;
    CHECK_OK(setting_parse(&whole, "auto", &small, &error));
    CHECK_OK(setting_parse(&real, "auto", &number, &error));
    CHECK(small == UINT32_MAX && number == -1);
    CHECK_OK(setting_check(&whole, &small, &error));
    setting_format(&whole, &small, &text);
    setting_format(&real, &number, &text);
    CHECK(bytes_equal(buffer_bytes(&text), bytes_of("autoauto", 8)));
    CHECK_STATUS(setting_parse(&whole, "10", &small, &error), INVALID);
    CHECK_CONTAINS(error.message, "1 to 9 or auto");
    whole.flags = 0;
    CHECK_STATUS(setting_parse(&whole, "auto", &small, &error), INVALID);
    CHECK_STATUS(setting_check(&whole, &(uint32_t){UINT32_MAX}, &error), INVALID);
    buffer_deinit(&text);
}
