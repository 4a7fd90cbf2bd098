#include "config/config.h"

#include "base/file.h"
#include "base/memory.h"
#include "tests/test.h"

struct values {
    uint64_t steps, rate;
    const char *name;
    struct setting_list peers;
    bool force;
};
#define FIELD(name_) SETTING_FIELD(struct values, name_)
static const struct setting options_table[] = {
    {"inner-steps", SETTING_COUNT, FIELD(steps), .fallback = "500", .min = "1",
     .help = "inner steps a round"},
    {"upload.rate-limit", SETTING_SIZE, FIELD(rate), .fallback = "1MiB", .help = "bytes a second"},
    {"name", SETTING_TEXT, FIELD(name), .help = "of the site: what others see"},
    {"peers", SETTING_LIST, FIELD(peers), .help = "addresses"},
    {"force", SETTING_BOOL, FIELD(force), .help = "do it"},
    {0}};
static const struct command program = {.name = "p", .summary = "s", .options = options_table};

static enum status load(struct values *values, struct options **options, const char *text,
                        struct error *error) {
    *options = options_create(&program, values);
    return config_load_text(*options, bytes_of(text, strlen(text)), "p.yaml", error);
}

TEST(a_file_fills_the_table_nested_or_dotted) {
    static const char *const texts[] = {"inner_steps: 7\nupload:\n  rate_limit: 2MiB\nname: "
                                        "eu\npeers:\n  - a:1\n  - b:2\nforce: true\n",
                                        "upload.rate_limit: 2MiB\nname: \"eu\"\npeers: [\"a:1\", "
                                        "'b:2']\ninner_steps: 7\nforce: on\n"};
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        struct values values = {0};
        struct error error = {0};
        struct options *options = NULL;
        const char *where = NULL;
        CHECK_OK(load(&values, &options, texts[i], &error));
        CHECK_EQUAL(values.steps, 7);
        CHECK_EQUAL(values.rate, 2 << 20);
        CHECK_TEXT(values.name, "eu");
        CHECK_EQUAL(values.peers.count, 2);
        CHECK_TEXT(values.peers.items[1], "b:2");
        CHECK(values.force);
        CHECK_EQUAL(options_source(options, "upload.rate-limit", &where), OPTION_FROM_FILE);
        CHECK_TEXT(where, i ? "p.yaml:1" : "p.yaml:3");
        options_destroy(options);
    }
}

TEST(what_the_table_does_not_take_is_refused_with_line_and_remedy) {
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"name: x\ninner-step: 7\n", "p.yaml:2: unknown key inner-step; did you mean inner_steps?"},
        {"inner-steps: 7\n", "p.yaml:1: unknown key inner-steps; did you mean inner_steps?"},
        {"upload:\n  rate: 1\n", "p.yaml:2: unknown key upload.rate"},
        {"upload:\n", "p.yaml:1: unknown key upload"},
        {"inner_steps: 0\n",
         "p.yaml:1: inner_steps: invalid value \"0\": write a whole number, at least 1"},
        {"inner_steps: [1]\n", "p.yaml:1: inner_steps takes one value"},
        {"inner_steps:\n  x: 1\n", "p.yaml:2: unknown key inner_steps.x"},
        {"inner_steps: []\n", "takes one value"},
        {"peers: {}\n", "p.yaml:1: peers has nothing in it"},
        {"peers:\n  - name: x\n", "p.yaml:2: peers takes a list of plain texts"},
        {"inner_steps:\n", "p.yaml:1: inner_steps: invalid value \"\""},
        {"name: x\nname: y\n", "p.yaml:2: the key name is there twice"}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct values values = {0};
        struct error error = {0};
        struct options *options = NULL;
        CHECK_STATUS(load(&values, &options, cases[i].text, &error), INVALID);
        CHECK_CONTAINS(error.message, cases[i].part);
        options_destroy(options);
    }
}

TEST(an_absent_file_is_told_apart_from_a_wrong_one) {
    struct values values = {0};
    struct error error = {0};
    struct options *options = options_create(&program, &values);
    CHECK_STATUS(config_load(options, "/nowhere/p.yaml", &error), NOT_FOUND);
    CHECK_CONTAINS(error.message, "config file: open /nowhere/p.yaml");
    CHECK_STATUS(config_load(options, "/", &error), INVALID);
    options_destroy(options);
}

/* The three texts of a table agree: what is printed, and the example once uncommented, load to the
 * same values. */
TEST(printed_and_example_files_load_again) {
    struct values values = {0}, again = {0}, third = {0};
    struct error error = {0};
    struct options *options = NULL, *reread = NULL, *example_options = NULL;
    struct buffer printed = {0}, example = {0}, example_on = {0};
    CHECK_OK(load(&values, &options,
                  "name: 'on: #1'\npeers: [\"x y\", \"no\"]\nupload.rate_limit: 3KiB\n", &error));
    options_print(options, &printed);
    char *path = file_join(test_directory(), "p.yaml");
    CHECK_OK(file_write(path, buffer_bytes(&printed), 0600, &error));
    reread = options_create(&program, &again);
    CHECK_OK(config_load(reread, path, &error));
    CHECK_TEXT(again.name, "on: #1");
    CHECK_EQUAL(again.rate, 3072);
    CHECK_EQUAL(again.peers.count, 2);
    CHECK_TEXT(again.peers.items[1], "no");

    options_example(options, &example);
    for (size_t i = 0; i < example.size; i++) { /* "#name: " is a setting, "# text" a comment */
        bool setting = example.data[i] == '#' && (i == 0 || example.data[i - 1] == '\n') &&
                       example.data[i + 1] != ' ';
        if (!setting) buffer_u8(&example_on, example.data[i]);
    }
    example_options = options_create(&program, &third);
    CHECK_OK(config_load_text(example_options, buffer_bytes(&example), "as-is", &error));
    CHECK_OK(config_load_text(example_options, buffer_bytes(&example_on), "uncommented", &error));
    CHECK_EQUAL(third.steps, 500);
    CHECK_EQUAL(third.rate, 1 << 20);
    CHECK_EQUAL(third.peers.count, 0);
    free(path);
    buffer_deinit(&printed);
    buffer_deinit(&example);
    buffer_deinit(&example_on);
    options_destroy(options);
    options_destroy(reread);
    options_destroy(example_options);
}
