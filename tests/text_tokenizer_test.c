#include "text/tokenizer.h"

#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "model/export.h"
#include "tests/test.h"
#include "text/nfc.h"
#include "text/pattern.h"

static struct buffer golden_file(const char *name) {
    struct error error = {0};
    struct buffer file = {0};
    char *path = xformat("%s/tests/golden/tokenizer_%s", test_root(), name);
    CHECK_OK(file_read(path, 1 << 20, &file, &error));
    free(path);
    return file;
}

static struct tokenizer *golden_tokenizer(const char *name) {
    struct error error = {0};
    char *file = xformat("%s.json", name);
    struct buffer text = golden_file(file);
    struct tokenizer *t;
    CHECK_OK(tokenizer_parse(buffer_bytes(&text), &t, &error));
    buffer_deinit(&text);
    free(file);
    return t;
}

static void check_vector(const struct tokenizer *t, const char *name, char *hex, char *numbers) {
    struct error error = {0};
    struct buffer text = {0}, tokens = {0}, wanted = {0}, back = {0};
    for (; *hex && *hex != '-'; hex += 2) {
        uint8_t byte;
        char pair[3] = {hex[0], hex[1], 0};
        CHECK_OK(hex_decode(pair, &byte, 1, &error));
        buffer_u8(&text, byte);
    }
    for (char *at = strtok(numbers, ",-"); at; at = strtok(NULL, ",-"))
        buffer_u32(&wanted, (uint32_t)strtoul(at, NULL, 10));
    CHECK_OK(tokenizer_encode(t, buffer_bytes(&text), true, &tokens, &error));
    if (!bytes_equal(buffer_bytes(&tokens), buffer_bytes(&wanted)))
        test_failed(__FILE__, __LINE__, "%s: \"%.*s\" has other tokens", name, (int)text.size,
                    (const char *)text.data);
    tokens.size = 0;
    CHECK_OK(tokenizer_encode(t, buffer_bytes(&text), false, &tokens, &error));
    struct reader reader = reader_of(buffer_bytes(&tokens));
    while (reader_left(&reader)) tokenizer_decode(t, reader_u32(&reader), &back);
    struct buffer normal = {0};
    bool changes = strcmp(name, "qwen") == 0 && nfc_changes(buffer_bytes(&text), &normal);
    if (strcmp(name, "strip") != 0) /* there blanks go with the tokens beside them */
        CHECK(bytes_equal(buffer_bytes(&back), buffer_bytes(changes ? &normal : &text)));
    buffer_deinit(&text), buffer_deinit(&tokens), buffer_deinit(&wanted), buffer_deinit(&back),
        buffer_deinit(&normal);
}

TEST(texts_have_the_tokens_that_the_tokenizers_package_gives_them) {
    struct buffer vectors = golden_file("vectors.txt");
    struct tokenizer *t = NULL;
    char last[32] = "", *rest = (char *)vectors.data, *line;
    int count = 0;
    while ((line = strsep(&rest, "\n")) && *line) {
        char *hex = strchr(line, ' '), *numbers = strrchr(line, ' ');
        *hex++ = 0, *numbers++ = 0;
        if (strcmp(last, line) != 0) {
            tokenizer_close(t);
            t = golden_tokenizer(line);
            snprintf(last, sizeof last, "%s", line);
        }
        check_vector(t, last, hex, numbers);
        count++;
    }
    CHECK(count > 120);
    tokenizer_close(t);
    buffer_deinit(&vectors);
}

static void refused(const char *from, const char *to, const char *words) {
    struct error error = {0};
    struct buffer file = golden_file("gpt2.json"), changed = {0};
    const char *text = (const char *)file.data, *at = strstr(text, from);
    CHECK(at != NULL);
    buffer_append(&changed, text, (size_t)(at - text));
    buffer_append_text(&changed, "%s", to);
    buffer_append_text(&changed, "%s", at + strlen(from));
    struct tokenizer *t = NULL;
    CHECK_STATUS(tokenizer_parse(buffer_bytes(&changed), &t, &error), INVALID);
    CHECK_CONTAINS(error.message, words);
    CHECK(t == NULL);
    buffer_deinit(&file), buffer_deinit(&changed);
}

TEST(a_tokenizer_of_another_kind_is_refused_by_its_name) {
    refused("\"type\":\"BPE\"", "\"type\":\"Unigram\"",
            "kind Unigram; byte-level BPE is what is supported; give tokens");
    refused("\"byte_fallback\":false", "\"byte_fallback\":true", "byte fallback");
    refused("\"normalizer\":null", "\"normalizer\":{\"type\":\"NFKC\"}", "normalizer is NFKC");
    refused("\"normalizer\":null",
            "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":"
            "\"Lowercase\"}]}",
            "Lowercase");
    refused("\"pre_tokenizer\":{\"type\":\"ByteLevel\"",
            "\"pre_tokenizer\":{\"type\":\"Metaspace\"", "Metaspace");
    refused("\"add_prefix_space\":false", "\"add_prefix_space\":true", "blank before");
    refused("\"decoder\":{\"type\":\"ByteLevel\"", "\"decoder\":{\"type\":\"WordPiece\"",
            "decoder is WordPiece");
    refused("\"post_processor\":null", "\"post_processor\":{\"type\":\"BertProcessing\"}",
            "BertProcessing");
    refused("\"single_word\":false", "\"single_word\":true", "<|begin|>");
    refused("\"merges\":[", "\"merges\":[[\"qq\",\"zz\"],", "merge 0, \"qq\" and \"zz\"");
    refused("\"model\"", "\"modal\"", "model");
}

/* The tokens of a text by gpt2.json in which `from` is `to`. */
static struct buffer tokens_of(const char *from, const char *to, const char *text) {
    struct error error = {0};
    struct buffer file = golden_file("gpt2.json"), changed = {0}, tokens = {0};
    const char *content = (const char *)file.data, *at = strstr(content, from);
    CHECK(at != NULL);
    buffer_append(&changed, content, (size_t)(at - content));
    buffer_append_text(&changed, "%s", to);
    buffer_append_text(&changed, "%s", at + strlen(from));
    struct tokenizer *t;
    CHECK_OK(tokenizer_parse(buffer_bytes(&changed), &t, &error));
    CHECK_OK(tokenizer_encode(t, bytes_of(text, strlen(text)), false, &tokens, &error));
    tokenizer_close(t);
    buffer_deinit(&file), buffer_deinit(&changed);
    return tokens;
}

TEST(what_a_file_keeps_of_its_last_use_and_empty_sequences_change_no_token) {
    static const char text[] = "the theory of other things, hello world, Hello World";
    static const char *const cases[][2] = {
        {"\"truncation\":null", "\"truncation\":{\"direction\":\"Right\",\"max_length\":3,"
                                "\"strategy\":\"LongestFirst\",\"stride\":0}"},
        {"\"padding\":null", "\"padding\":{\"strategy\":{\"Fixed\":90},\"direction\":\"Right\","
                             "\"pad_id\":0,\"pad_token\":\"!\"}"},
        {"\"dropout\":null", "\"dropout\":0.5"},
        {"\"normalizer\":null", "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[]}"},
        {"\"normalizer\":null",
         "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"}]}"},
    };
    struct buffer wanted = tokens_of("\"padding\":null", "\"padding\":null", text);
    CHECK(wanted.size > 3 * 4);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct buffer got = tokens_of(cases[i][0], cases[i][1], text);
        CHECK(bytes_equal(buffer_bytes(&got), buffer_bytes(&wanted)));
        buffer_deinit(&got);
    }
    buffer_deinit(&wanted);
}

static struct buffer bytes_of_hex(char *hex) {
    struct error error = {0};
    struct buffer text = {0};
    for (; *hex; hex += 2) {
        uint8_t byte;
        char pair[3] = {hex[0], hex[1], 0};
        CHECK_OK(hex_decode(pair, &byte, 1, &error));
        buffer_u8(&text, byte);
    }
    return text;
}

/* Vectors by Python's unicodedata (scripts/unicode-table --nfc-vectors). */
TEST(nfc_is_that_of_an_independent_implementation) {
    struct error error = {0};
    struct buffer file = {0};
    char *path = xformat("%s/tests/golden/nfc.txt", test_root()), *line, *rest;
    CHECK_OK(file_read(path, 1 << 20, &file, &error));
    rest = (char *)file.data;
    int count = 0, changed = 0;
    while ((line = strsep(&rest, "\n")) && *line) {
        char *second = strchr(line, ' ');
        *second++ = 0;
        struct buffer text = bytes_of_hex(line), wanted = bytes_of_hex(second), got = {0};
        bool changes = nfc_changes(buffer_bytes(&text), &got);
        CHECK_EQUAL(changes, !bytes_equal(buffer_bytes(&text), buffer_bytes(&wanted)));
        if (changes && !bytes_equal(buffer_bytes(&got), buffer_bytes(&wanted)))
            test_failed(__FILE__, __LINE__, "vector %d, %s, has another NFC", count, line);
        struct buffer again = {0};
        CHECK(!nfc_changes(buffer_bytes(&wanted), &again) && again.size == 0);
        count++, changed += changes;
        buffer_deinit(&text), buffer_deinit(&wanted), buffer_deinit(&got), buffer_deinit(&again);
    }
    CHECK(count > 1000 && changed > 500);
    free(path);
    buffer_deinit(&file);
}

TEST(text_of_one_base_and_very_many_marks_is_normalized_in_time) {
    struct buffer text = {0}, out = {0};
    buffer_append_text(&text, "a");
    for (int i = 0; i < 200000; i++)
        buffer_append_text(&text,
                           i % 2 ? "\xcc\x81" : "\xcc\xa3"); /* classes 230 and 220 in turns */
    CHECK(nfc_changes(buffer_bytes(&text), &out));
    CHECK_EQUAL(out.size,
                text.size); /* the first pair is one of as many bytes, the others change places */
    buffer_deinit(&text), buffer_deinit(&out);
}

/* What somebody wrote must not end a text, or speak as somebody else. */
TEST(the_text_of_a_control_token_in_a_document_is_text) {
    struct error error = {0};
    struct buffer prompt = {0}, document = {0}, back = {0};
    struct tokenizer *t = golden_tokenizer("gpt2");
    const struct bytes text = bytes_of("a<|begin|>b", 11);
    CHECK_OK(tokenizer_encode(t, text, false, &prompt, &error));
    CHECK_OK(tokenizer_encode_document(t, text, &document, &error));
    CHECK_EQUAL(prompt.size, 3 * 4);
    CHECK(document.size > prompt.size);
    for (size_t i = 0; i < document.size; i += 4) {
        uint32_t token;
        memcpy(&token, document.data + i, sizeof token);
        CHECK(memcmp(&token, prompt.data + 4, sizeof token) != 0);
        tokenizer_decode(t, token, &back);
    }
    CHECK(bytes_equal(buffer_bytes(&back), text));
    buffer_deinit(&prompt), buffer_deinit(&document), buffer_deinit(&back);
    tokenizer_close(t);
}

TEST(text_that_cannot_be_encoded_is_refused_with_its_place) {
    struct error error = {0};
    struct buffer tokens = {0};
    struct tokenizer *t = golden_tokenizer("qwen");
    CHECK_STATUS(tokenizer_encode(t, bytes_of("ab\xff", 3), true, &tokens, &error), INVALID);
    CHECK_CONTAINS(error.message, "not UTF-8 at byte 2");
    CHECK_OK(tokenizer_encode(t, bytes_of("\xc3\xa9", 2), true, &tokens, &error));
    buffer_deinit(&tokens);
    tokenizer_close(t);
}

TEST(the_exported_byte_tokenizer_gives_bytes) {
    struct error error = {0};
    const struct model_config shape = {.vocabulary = 256,
                                       .hidden = 4,
                                       .layers = 1,
                                       .heads = 2,
                                       .kv_heads = 1,
                                       .ffn = 6,
                                       .context = 8,
                                       .rope_theta = 10000,
                                       .norm_eps = 1e-5f,
                                       .tied = true};
    struct layout layout;
    struct buffer tokens = {0};
    CHECK_OK(layout_init(&shape, &layout, &error));
    float *values = xcalloc(layout.count, sizeof *values);
    CHECK_OK(export_model(test_directory(), &layout, values, 1, true, &error));
    struct tokenizer *t;
    CHECK_OK(tokenizer_open(test_directory(), &t, &error));
    CHECK_OK(tokenizer_encode(t, bytes_of("a\xc3\xbc\n", 4), true, &tokens, &error));
    const uint32_t wanted[] = {'a', 0xc3, 0xbc, '\n'};
    CHECK_EQUAL(tokens.size, sizeof wanted);
    CHECK_MEMORY(tokens.data, wanted, sizeof wanted);
    tokenizer_close(t);
    buffer_deinit(&tokens);
    layout_deinit(&layout);
    free(values);
}

TEST(what_streams_out_never_splits_a_character) {
    const char *text = "a\xc3\xbc\xf0\x9f\x91\x8d z\xff\xe2\x82!\xed\xa0\x80\xf0\x9f";
    struct utf8_stream stream = {0};
    struct buffer out = {0};
    for (const char *c = text; *c; c++) {
        size_t before = out.size;
        utf8_stream_push(&stream, bytes_of(c, 1), &out);
        for (size_t at = before; at < out.size;) {
            size_t length = 1;
            while (at + length < out.size && (out.data[at + length] & 0xc0) == 0x80) length++;
            CHECK((out.data[at] & 0xc0) != 0x80);
            at += length;
        }
    }
    utf8_stream_end(&stream, &out);
    buffer_u8(&out, 0);
    CHECK_TEXT((const char *)out.data,
               "a\xc3\xbc\xf0\x9f\x91\x8d "
               "z\xef\xbf\xbd\xef\xbf\xbd!\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
    buffer_deinit(&out);
}

TEST(a_pattern_that_is_not_understood_or_too_slow_is_an_error) {
    struct error error = {0};
    struct pattern *pattern;
    static const char *const bad[] = {"",       "(",     ")",    "a**",        "[a",
                                      "(?<=x)", "a.b",   "\\w+", "\\p{Greek}", "(ab)+",
                                      "x{3,1}", "[z-a]", "a+?",  "^a",         "\\1"};
    for (size_t i = 0; i < COUNT_OF(bad); i++)
        CHECK_STATUS(pattern_compile(bad[i], &pattern, &error), INVALID);
    CHECK_OK(pattern_compile("a*a*a*a*a*a*a*a*a*a*b", &pattern, &error));
    char text[200];
    memset(text, 'a', sizeof text);
    size_t begin, end;
    CHECK_STATUS(pattern_find(pattern, bytes_of(text, sizeof text), 0, &begin, &end, &error),
                 INVALID);
    CHECK_CONTAINS(error.message, "too long");
    pattern_free(pattern);
}

TEST_WITHIN(ten_thousand_damaged_tokenizers_are_refused_by_name_or_work, 120000) {
    static const char *const words[] = {"{",       "}",    "[",    "]",  "\"",    ":",
                                        ",",       "null", "true", "-1", "1e999", "4294967296",
                                        "\\u0000", "\xff", "(",    "*",  "\\\\p{"};
    struct buffer file = golden_file("llama3.json");
    const char *text = (const char *)file.data;
    size_t head = (size_t)(strstr(text, "\"vocab\"") - text);
    struct random random;
    random_init(&random, 7);
    int refusals = 0;
    for (int i = 0; i < 10000; i++) {
        struct error error = {0};
        size_t size =
            random_below(&random, 4) ? file.size : (size_t)random_below(&random, file.size);
        uint8_t *copy = xmalloc(size);
        memcpy(copy, file.data, size);
        for (uint64_t hits = 1 + random_below(&random, 3); hits > 0 && size > 0; hits--) {
            size_t at =
                (size_t)random_below(&random, random_below(&random, 2) ? MIN(head, size) : size);
            const char *word = words[random_below(&random, COUNT_OF(words))];
            if (random_below(&random, 2))
                copy[at] = (uint8_t)random_u64(&random);
            else
                memcpy(copy + at, word, MIN(strlen(word), size - at));
        }
        struct tokenizer *t = NULL;
        enum status status = tokenizer_parse(bytes_of(copy, size), &t, &error);
        if (status == OK) {
            struct buffer tokens = {0};
            status = tokenizer_encode(t, bytes_of("Hello w\xc3\xb6rld 123\n\n  <|begin|>'s", 31),
                                      true, &tokens, &error);
            tokenizer_decode(t, 300, &tokens);
            buffer_deinit(&tokens);
            tokenizer_close(t);
        }
        if (status != OK) {
            CHECK(status == INVALID && error.status == INVALID && strlen(error.message) >= 8);
            refusals++;
        }
        free(copy);
    }
    CHECK(refusals > 5000);
    buffer_deinit(&file);
}
