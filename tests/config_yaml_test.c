#include "config/yaml.h"

#include "base/memory.h"
#include "base/random.h"
#include "base/setting.h"
#include "tests/test.h"

static enum status read_text(const char *text, struct yaml **out, struct error *error) {
    return yaml_read(bytes_of(text, strlen(text)), "f.yaml", NULL, out, error);
}

static void refused(const char *text, const char *part) {
    struct error error = {0};
    struct yaml *yaml = NULL;
    if (read_text(text, &yaml, &error) != INVALID)
        test_failed(__FILE__, __LINE__, "accepted: %s", text);
    CHECK_CONTAINS(error.message, part);
    CHECK(yaml == NULL);
}

static const char sample[] = "# a comment\nname: eu-north # site\nupload:\n  rate_limit: 10MiB\n  "
                             "retry: {first: 1s, last: \"5m\"}\n"
                             "peers: [a, 'b:2']\nsites:\n  - name: x\n    tags: []\n  - name: "
                             "y\nnote: |\n  two\n  lines\nempty:\nmap: {}\n";

TEST(nested_settings_become_dotted_keys_with_lines) {
    static const struct {
        const char *key, *text;
        unsigned line;
        enum yaml_kind kind;
        bool quoted;
    } wanted[] = {{"name", "eu-north", 2, YAML_TEXT, false},
                  {"upload.rate_limit", "10MiB", 4, YAML_TEXT, false},
                  {"upload.retry.first", "1s", 5, YAML_TEXT, false},
                  {"upload.retry.last", "5m", 5, YAML_TEXT, true},
                  {"peers[0]", "a", 6, YAML_TEXT, false},
                  {"peers[1]", "b:2", 6, YAML_TEXT, true},
                  {"sites[0].name", "x", 8, YAML_TEXT, false},
                  {"sites[0].tags", "", 9, YAML_EMPTY_LIST, false},
                  {"sites[1].name", "y", 10, YAML_TEXT, false},
                  {"note", "two\nlines\n", 11, YAML_TEXT, true},
                  {"empty", "", 14, YAML_TEXT, false},
                  {"map", "", 15, YAML_EMPTY_MAP, false}};
    struct error error = {0};
    struct yaml *yaml = NULL;
    CHECK_OK(read_text(sample, &yaml, &error));
    CHECK_EQUAL(yaml_count(yaml), COUNT_OF(wanted));
    for (size_t i = 0; i < COUNT_OF(wanted); i++) {
        const struct yaml_entry *entry = yaml_entry_at(yaml, i);
        CHECK_TEXT(entry->key, wanted[i].key);
        CHECK_TEXT(entry->text, wanted[i].text);
        CHECK_EQUAL(entry->line, wanted[i].line);
        CHECK_EQUAL(entry->kind, wanted[i].kind);
        CHECK_EQUAL(entry->quoted, wanted[i].quoted);
        CHECK(yaml_find(yaml, wanted[i].key) == entry);
    }
    CHECK(yaml_find(yaml, "upload") == NULL);
    yaml_close(yaml);
}

TEST(a_byte_order_mark_is_no_text_and_utf16_is_named) {
    struct error error = {0};
    struct yaml *yaml = NULL;
    CHECK_OK(read_text("\xef\xbb\xbfname: x\n", &yaml, &error));
    CHECK_EQUAL(yaml_count(yaml), 1);
    CHECK_TEXT(yaml_entry_at(yaml, 0)->key, "name");
    yaml_close(yaml);
    CHECK_STATUS(read_text("\xff\xfen", &yaml, &error), INVALID);
    CHECK_CONTAINS(error.message, "UTF-16");
}

TEST(an_empty_document_has_no_entries) {
    static const char *const texts[] = {"",      "\n\n",       "# only a comment\n",
                                        "---\n", "---\n...\n", "{}"};
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        struct error error = {0};
        struct yaml *yaml = NULL;
        CHECK_OK(read_text(texts[i], &yaml, &error));
        CHECK_EQUAL(yaml_count(yaml), 0);
        CHECK(yaml_find(yaml, "a") == NULL);
        yaml_close(yaml);
    }
}

TEST(what_is_dangerous_or_ambiguous_is_refused_with_its_line) {
    refused("a: 1\nb: &x 2\n", "f.yaml:2: anchors");
    refused("a: &x [1]\n", "anchors");
    refused("a: &x {b: 1}\n", "anchors");
    refused("a: 1\nb: *x\n", "f.yaml:2: ");
    refused("a: !!int 1\n", "f.yaml:1: tags");
    refused("a: !x [1]\n", "tags");
    refused("%YAML 1.1\n---\na: 1\n", "directives");
    refused("a: 1\n\nb: 2\na: 3\n", "f.yaml:4: the key a is there twice (first in line 1)");
    refused("a.b: 1\na:\n  b: 2\n", "f.yaml:3: the key a.b is there twice (first in line 1)");
    refused("a: 1\na.b: 2\n", "the key a has a value and members");
    refused("a: []\na.b: 2\n", "the key a has a value and members");
    refused("a: 1\n\tb: 2\n", "f.yaml:2: a tab");
    refused("a: 1\n---\nb: 2\n", "f.yaml:2: a second document");
    refused("- a\n- b\n", "not a list");
    refused("just text\n", "'key: value'");
    refused("\"\"\n", "'key: value'");
    refused("? [a]\n: b\n", "plain name");
    refused("? {a: b}\n: b\n", "plain name");
    refused("a b: 1\n", "plain name");
    refused("'a[0]': 1\n", "plain name");
    refused("\"a\\0b\": 1\n", "zero character");
    refused("a: \"x\\0y\"\n", "zero character");
    refused("'': 1\n", "plain name");
    refused("a: [1, 2\nb: 3\n", "f.yaml:");
    refused("a: 'x\n", "f.yaml:");
    refused("a: b: c\n", "f.yaml:1: ");
    refused("a: \xff\n", "f.yaml:");
    refused("<<: {a: 1}\n", "plain name");
}

TEST(size_depth_entries_and_keys_have_limits) {
    struct error error = {0};
    struct yaml *yaml = NULL;
    struct buffer text = {0};
    buffer_append_text(&text, "a: ");
    for (int i = 0; i < 100000; i++) buffer_u8(&text, '[');
    CHECK_STATUS(yaml_read(buffer_bytes(&text), "f", NULL, &yaml, &error), INVALID);
    CHECK_CONTAINS(error.message, "nested too deeply");
    text.size = 0;
    for (int i = 0; i < 11; i++) buffer_append_text(&text, "k%d: v\n", i);
    CHECK_STATUS(
        yaml_read(buffer_bytes(&text), "f", &(struct yaml_limits){.entries = 10}, &yaml, &error),
        INVALID);
    CHECK_CONTAINS(error.message, "f:11: too many settings");
    CHECK_STATUS(yaml_read(buffer_bytes(&text), "f", &(struct yaml_limits){.size = text.size - 1},
                           &yaml, &error),
                 INVALID);
    CHECK_CONTAINS(error.message, "more than the limit");
    text.size = 0;
    for (int i = 0; i < 12; i++) buffer_append_text(&text, "{abcdefghijklmnopqrstuvwxyz: ");
    CHECK_STATUS(yaml_read(buffer_bytes(&text), "f", NULL, &yaml, &error), INVALID);
    CHECK_CONTAINS(error.message, "too long");
    buffer_deinit(&text);
}

TEST(truncations_and_mutations_never_do_worse_than_be_refused) {
    struct random random;
    random_init(&random, 7);
    unsigned accepted = 0;
    for (size_t round = 0; round < 5000 + sizeof sample; round++) {
        bool cut = round < sizeof sample;
        size_t size = cut ? round : sizeof sample - 1;
        uint8_t *copy = xmalloc(size);
        memcpy(copy, sample, size);
        for (uint64_t i = cut ? 0 : 1 + random_below(&random, 4); i > 0; i--) {
            static const char tokens[] = "{}[]&*!|>'\"%@`:-?,# \n\tab0";
            copy[random_below(&random, size)] =
                random_below(&random, 3) ? (uint8_t)tokens[random_below(&random, sizeof tokens - 1)]
                                         : (uint8_t)random_below(&random, 256);
        }
        struct yaml *yaml = NULL;
        struct error error = {0};
        if (yaml_read(bytes_of(copy, size), "f", NULL, &yaml, &error) == OK)
            accepted++;
        else
            CHECK(error.status == INVALID && strncmp(error.message, "f:", 2) == 0);
        yaml_close(yaml);
        free(copy);
    }
    CHECK(accepted > 200);
}

TEST(quoted_texts_read_back_exactly) {
    static const char *const texts[] = {"plain",
                                        "eu-north",
                                        "",
                                        " ",
                                        "yes",
                                        "No",
                                        "null",
                                        "~",
                                        "123",
                                        "1e5",
                                        "-x",
                                        ".5",
                                        "a: b",
                                        "a #b",
                                        "#",
                                        "\"q\"",
                                        "back\\slash",
                                        "new\nline\n",
                                        "tab\t",
                                        "\x01\x7f",
                                        "h\xc3\xa9",
                                        "[x]",
                                        "{",
                                        "*a",
                                        "&a",
                                        "!t",
                                        "%",
                                        "@",
                                        "`",
                                        "a,b",
                                        "trailing ",
                                        "/var/lib/x",
                                        "a:1",
                                        "---",
                                        "'",
                                        "\xf0\x9f\x98\x80",
                                        "\xc2\x85",
                                        "\xe2\x80\xa8",
                                        "\xef\xbb\xbf",
                                        "\xef\xbf\xbf"};
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        struct buffer line = {0};
        struct yaml *yaml = NULL;
        struct error error = {0};
        buffer_append_text(&line, "k: ");
        setting_quote(texts[i], &line);
        buffer_append_text(&line, "\nl: [x, ");
        setting_quote(texts[i], &line);
        buffer_append_text(&line, "]\n");
        CHECK_OK(yaml_read(buffer_bytes(&line), "f", NULL, &yaml, &error));
        CHECK_TEXT(yaml_find(yaml, "k")->text, texts[i]);
        CHECK_TEXT(yaml_find(yaml, "l[1]")->text, texts[i]);
        yaml_close(yaml);
        buffer_deinit(&line);
    }
}
