#include "model/data_format.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/memory.h"
#include "base/random.h"
#include "tests/test.h"

static enum status read_buffer(void *context, uint64_t at, void *out, size_t size,
                               struct error *error) {
    const struct buffer *file = context;
    if (at > file->size || size > file->size - at)
        return error_set(error, CORRUPT, "beyond the end");
    memcpy(out, file->data + at, size);
    return OK;
}

static enum status detect(struct buffer *file, enum data_format format, enum data_tokens tokens,
                          uint32_t vocabulary, struct data_shape *shape, struct error *error) {
    *error = (struct error){0};
    *shape = (struct data_shape){0};
    const struct data_source source = {
        .read = read_buffer, .context = file, .name = "the-file", .size = file->size};
    const struct data_demand demand = {format, tokens, vocabulary, false};
    return data_format_detect(&source, &demand, shape, error);
}

static void taken(struct buffer *file, enum data_tokens tokens, uint32_t vocabulary,
                  unsigned token_size, uint64_t count) {
    struct error error;
    struct data_shape shape;
    CHECK_OK(detect(file, DATA_AUTO, tokens, vocabulary, &shape, &error));
    CHECK_EQUAL(shape.token_size, token_size);
    CHECK_EQUAL(shape.tokens, count);
}

static void refused(struct buffer *file, enum data_tokens tokens, uint32_t vocabulary,
                    const char *words) {
    struct error error;
    struct data_shape shape;
    CHECK_STATUS(detect(file, DATA_AUTO, tokens, vocabulary, &shape, &error), INVALID);
    CHECK_CONTAINS(error.message, words);
    CHECK_CONTAINS(error.message, "the-file");
}

static void put(struct buffer *file, uint64_t value, unsigned size) {
    for (unsigned i = 0; i < size; i++) buffer_u8(file, (uint8_t)(value >> 8 * i));
}

/* Tokens as natural language has them: the n-th most frequent comes about 1/n as often as the
 * first, and numbers follow frequency as merges of a byte-pair encoding do, roughly. */
static uint32_t zipf(struct random *random, uint32_t vocabulary) {
    double u = random_unit(random);
    double drawn = exp(u * log((double)vocabulary + 1)) - 1 + (double)random_below(random, 40);
    return (uint32_t)MIN(drawn, (double)vocabulary - 1);
}

static struct buffer shard(uint32_t vocabulary, uint64_t count, unsigned size, bool header) {
    struct buffer file = {0};
    struct random random;
    random_init(&random, vocabulary + count);
    if (header) {
        put(&file, size == 2 ? 20240520 : 20240801, 4);
        put(&file, size == 2 ? 1 : 7, 4);
        put(&file, count, 4);
        while (file.size < 1024) buffer_u8(&file, 0);
    }
    for (uint64_t i = 0; i < count; i++) put(&file, zipf(&random, vocabulary), size);
    return file;
}

static struct buffer repeated(const char *text, size_t size) {
    struct buffer file = {0};
    while (file.size < size) buffer_append(&file, text, strlen(text));
    return file;
}

static const struct {
    const char *name, *text;
} languages[] = {
    {"English",
     "It is a truth universally acknowledged, that a single man in possession of a good fortune\n"},
    {"Chinese", "\xe4\xba\xba\xe4\xb9\x8b\xe5\x88\x9d\xef\xbc\x8c\xe6\x80\xa7\xe6\x9c\xac\xe5\x96"
                "\x84\xe3\x80\x82"},
    {"Hindi", "\xe0\xa4\xa8\xe0\xa4\xae\xe0\xa4\xb8\xe0\xa5\x8d\xe0\xa4\xa4\xe0\xa5\x87 "},
    {"Arabic", "\xd9\x85\xd8\xb1\xd8\xad\xd8\xa8\xd8\xa7\r\n"},
    {"emoji", "\xf0\x9f\x90\xa0\xf0\x9f\x8f\x9d "},
    {"digits", "0110100110010110"},
    {"DNA", "ACGTTGCATGTCGCATGATGCATGAGAGCT"},
    {"a terminal's log", "\x1b[31merror\x1b[0m b\x08"
                         "bold\f\n"},
};

TEST(text_of_any_script_is_text_for_bytes_and_never_a_shard_for_a_tokenizer) {
    for (size_t i = 0; i < COUNT_OF(languages); i++)
        for (size_t size = 32; size <= 3000000; size = size * 11 + 1) {
            struct buffer file = repeated(languages[i].text, size);
            taken(&file, DATA_TOKENS_BYTE, 256, 1, file.size);
            taken(&file, DATA_TOKENS_BYTE, 50304, 1, file.size);
            taken(&file, DATA_TOKENS_ANY, 256, 1, file.size);
            refused(&file, DATA_TOKENS_EXTERNAL, 50304, "is text");
            refused(&file, DATA_TOKENS_EXTERNAL, 65536, "is text");
            refused(&file, DATA_TOKENS_EXTERNAL, 256, "is text");
            taken(&file, DATA_TOKENS_ANY, 32000, 1, file.size);
            refused(&file, DATA_TOKENS_EXTERNAL, 32000, "--tokenizer");
            buffer_deinit(&file);
        }
}

TEST(text_that_is_not_utf_8_is_refused_but_for_a_few_bytes) {
    struct buffer latin = repeated("Gr\xfc\xdf"
                                   "e aus K\xf6ln\n",
                                   5000);
    refused(&latin, DATA_TOKENS_BYTE, 256, "not UTF-8");
    refused(&latin, DATA_TOKENS_EXTERNAL, 50304, "is text");
    struct buffer mostly = repeated("plain words of a long text, and a name: ", 5000);
    buffer_append(&mostly, "K\xf6ln", 4);
    taken(&mostly, DATA_TOKENS_BYTE, 256, 1, mostly.size);
    struct buffer note = repeated("A short note by K\xf6nig and others, of a hundred characters "
                                  "and some more, in ASCII otherwise, as said.",
                                  1);
    taken(&note, DATA_TOKENS_BYTE, 256, 1, note.size);
    buffer_deinit(&note);
    struct buffer little = repeated("words\n", 6);
    refused(&little, DATA_TOKENS_EXTERNAL, 50304, "is text");
    buffer_deinit(&little);
    buffer_deinit(&latin);
    buffer_deinit(&mostly);
}

TEST(shards_of_any_vocabulary_and_size_are_taken_with_and_without_header) {
    static const uint32_t vocabularies[] = {2, 5, 65, 256, 512, 4096, 32000, 50257, 65536};
    for (size_t v = 0; v < COUNT_OF(vocabularies); v++)
        for (uint64_t count = 50; count <= 2000000; count = count * 9 + 1) {
            uint32_t vocabulary = vocabularies[v];
            for (unsigned kind = 0; kind < 3; kind++) { /* without header, 16 bits, 32 bits */
                struct buffer file = shard(vocabulary, count, kind == 2 ? 4 : 2, kind > 0);
                taken(&file, DATA_TOKENS_EXTERNAL, vocabulary, kind == 2 ? 4 : 2, count);
                taken(&file, DATA_TOKENS_ANY, vocabulary, kind == 2 ? 4 : 2, count);
                /* as people round it up */
                uint32_t padded = vocabulary + (vocabulary < 64 ? 62 : 47);
                if (padded <= 65536)
                    taken(&file, DATA_TOKENS_EXTERNAL, padded, kind == 2 ? 4 : 2, count);
                buffer_deinit(&file);
            }
        }
    struct buffer wide = shard(128256, 5000, 4, true);
    taken(&wide, DATA_TOKENS_EXTERNAL, 128256, 4, 5000);
    buffer_deinit(&wide);
    struct random random; /* what a smoke test writes */
    random_init(&random, 9);
    struct buffer noise = {0};
    for (unsigned i = 0; i < 100000; i++) put(&noise, random_below(&random, 65536), 2);
    taken(&noise, DATA_TOKENS_EXTERNAL, 65536, 2, 100000);
    buffer_deinit(&noise);
}

TEST(two_words_of_a_large_vocabulary_are_a_language_too) {
    struct buffer file = {0};
    struct random random;
    random_init(&random, 4);
    /* " 0" and " 1" of GPT-2 */
    for (unsigned i = 0; i < 200000; i++) put(&file, random_below(&random, 2) ? 657 : 352, 2);
    taken(&file, DATA_TOKENS_EXTERNAL, 50257, 2, 200000);
    buffer_deinit(&file);
}

TEST(tokens_of_another_width_or_byte_order_are_told_by_their_zeros) {
    struct error error;
    struct data_shape shape;
    for (uint64_t count = 64; count <= 1000000; count *= 25) {
        struct buffer words = shard(50257, count, 4, false), longs = shard(50257, count, 8, false),
                      swapped = {0}, turned = {0};
        refused(&words, DATA_TOKENS_EXTERNAL, 50304, "32-bit tokens");
        refused(&words, DATA_TOKENS_EXTERNAL, 65536, "--data-format u32");
        refused(&words, DATA_TOKENS_EXTERNAL, 128256, "32-bit tokens");
        refused(&words, DATA_TOKENS_ANY, 50304, "32-bit tokens");
        refused(&words, DATA_TOKENS_BYTE, 256, "control characters");
        CHECK_OK(detect(&words, DATA_U32, DATA_TOKENS_EXTERNAL, 50304, &shape, &error));
        CHECK_EQUAL(shape.tokens, count);
        CHECK_EQUAL(shape.token_size, 4);
        refused(&longs, DATA_TOKENS_EXTERNAL, 50304, "64-bit tokens");
        for (size_t i = 0; i < words.size; i += 4) {
            for (size_t b = 4; b-- > 0;) buffer_u8(&swapped, words.data[i + b]);
            for (size_t b = 2; b-- > 0;) buffer_u8(&turned, words.data[i + b]);
        }
        refused(&swapped, DATA_TOKENS_EXTERNAL, 50304, "big-endian");
        refused(&turned, DATA_TOKENS_EXTERNAL, 50304, "big-endian");
        buffer_deinit(&words);
        buffer_deinit(&longs);
        buffer_deinit(&swapped);
        buffer_deinit(&turned);
    }
}

TEST(shards_of_another_tokenizer_are_told_by_what_they_never_use) {
    struct buffer narrow = shard(4096, 60000, 2, true), letters = shard(65, 60000, 2, false),
                  bytes = {0}, gpt2 = shard(50257, 5000, 2, true);
    refused(&narrow, DATA_TOKENS_EXTERNAL, 50304, "another tokenizer");
    refused(&letters, DATA_TOKENS_EXTERNAL, 50304, "another tokenizer");
    refused(&letters, DATA_TOKENS_BYTE, 256, "another");
    refused(&gpt2, DATA_TOKENS_EXTERNAL, 128256, "16-bit tokens");
    refused(&gpt2, DATA_TOKENS_BYTE, 256, "not a byte");
    refused(&gpt2, DATA_TOKENS_BYTE, 50304,
            "not a byte"); /* a vocabulary that was rounded up does not make them bytes */
    struct buffer text = repeated(languages[0].text, 2000);
    for (size_t i = 0; i < text.size; i++) put(&bytes, text.data[i], 2);
    refused(&bytes, DATA_TOKENS_EXTERNAL, 50304, "bytes of text");
    taken(&bytes, DATA_TOKENS_BYTE, 256, 2, text.size);
    struct buffer single = {0};
    struct random random;
    random_init(&random, 2);
    /* one byte per token */
    for (unsigned i = 0; i < 40000; i++) buffer_u8(&single, (uint8_t)zipf(&random, 65));
    refused(&single, DATA_TOKENS_EXTERNAL, 50304, "single bytes");
    struct buffer zeros = {0};
    for (unsigned i = 0; i < 4096; i++) buffer_u8(&zeros, 0);
    refused(&zeros, DATA_TOKENS_EXTERNAL, 50304, "never filled");
    refused(&zeros, DATA_TOKENS_BYTE, 256, "never filled");
    buffer_deinit(&narrow);
    buffer_deinit(&letters);
    buffer_deinit(&bytes);
    buffer_deinit(&gpt2);
    buffer_deinit(&text);
    buffer_deinit(&single);
    buffer_deinit(&zeros);
}

/* Code points of the basic plane as UTF-16 without a mark. */
static struct buffer utf16(const char *text, bool big, size_t size) {
    struct buffer file = {0};
    for (size_t at = 0; file.size < size; at = text[at] ? at : 0) {
        const uint8_t *c = (const uint8_t *)text + at;
        unsigned length = c[0] < 0x80   ? 1
                          : c[0] < 0xe0 ? 2
                                        : 3,
                 unit = c[0] & (length == 1 ? 0x7fu : 0x3fu >> (length - 1));
        for (unsigned i = 1; i < length; i++) unit = unit << 6 | (c[i] & 0x3f);
        put(&file, big ? (unit & 0xff) << 8 | unit >> 8 : unit, 2);
        at += length;
    }
    return file;
}

TEST(utf16_without_a_mark_is_no_shard_of_tokens) {
    static const char *const texts[] = {
        ("Gr\xc3\xb6\xc3\x9f"
         "e und Stra\xc3\x9f"
         "e, f\xc3\xbcr alle.\n"),
        ("\xd0\xb2\xd1\x81\xd0\xb5 "
         "\xd1\x81\xd1\x87\xd0\xb0\xd1\x81\xd1\x82\xd0\xbb\xd0\xb8\xd0\xb2\xd1\x8b\xd0\xb5, "
         "\xe2\x80\x94\r\n"),
        "\xe4\xba\xba\xe4\xb9\x8b\xe5\x88\x9d\xef\xbc\x8c\xe6\x80\xa7\xe6\x9c\xac\xe5\x96\x84\xe3"
        "\x80\x82",
        "\xe0\xa4\xae\xe0\xa5\x87\xe0\xa4\xb0\xe0\xa4\xbe \xe0\xa4\xa8\xe0\xa4\xbe\xe0\xa4\xae "};
    for (size_t i = 0; i < COUNT_OF(texts); i++)
        for (unsigned big = 0; big < 2; big++) {
            struct buffer file = utf16(texts[i], big, 3000);
            if (file.size % 2) file.size--;
            refused(&file, DATA_TOKENS_EXTERNAL, 65536, big ? "UTF-16BE" : "UTF-16LE");
            refused(&file, DATA_TOKENS_EXTERNAL, 50304, big ? "UTF-16BE" : "UTF-16LE");
            if (i > 0 || big) refused(&file, DATA_TOKENS_BYTE, 256, big ? "UTF-16BE" : "UTF-16LE");
            buffer_deinit(&file);
        }
}

/* What a text is of, and in which script, is not the tokenizer's: tokens of the alphabet alone are
 * honest. */
TEST(texts_that_use_little_of_their_vocabulary_are_taken) {
    struct random random;
    random_init(&random, 5);
    struct buffer digits = {0}, script = {0}, few = {0}, mixed = {0};
    for (unsigned i = 0; i < 30000; i++) {
        put(&digits, 16 + random_below(&random, 10), 2); /* GPT-2's */
        /* bytes of characters that have no tokens */
        put(&script, i % 3 ? 100 + random_below(&random, 64) : 165, 2);
        put(&few, random_below(&random, 2) ? 3 : 31000, 2);
        put(&mixed,
            i % 100 ? 100 + random_below(&random, 156) : 256 + 7 * random_below(&random, 60),
            2); /* with some words of another script */
    }
    for (unsigned i = 0; i < 4; i++) {
        struct buffer *file = (struct buffer *[]){&digits, &script, &few, &mixed}[i];
        taken(file, DATA_TOKENS_EXTERNAL, 32000, 2, 30000);
        taken(file, DATA_TOKENS_EXTERNAL, 50304, 2, 30000);
        buffer_deinit(file);
    }
}

/* Small numbers are not bytes of text yet. */
TEST(byte_shards_hold_utf8_and_may_begin_within_a_character) {
    struct random random;
    random_init(&random, 6);
    struct buffer script = {0}, tail = {0}, text = repeated(languages[1].text, 900);
    /* of GPT-2 */
    for (unsigned i = 0; i < 3000; i++)
        put(&script, i % 3 ? 100 + random_below(&random, 156) : 157, 2);
    for (size_t i = 1; i < 301; i++) put(&tail, text.data[i], 2);
    refused(&script, DATA_TOKENS_BYTE, 256, "not UTF-8");
    taken(&script, DATA_TOKENS_EXTERNAL, 50304, 2, 3000);
    taken(&tail, DATA_TOKENS_BYTE, 256, 2, 300);
    buffer_deinit(&script);
    buffer_deinit(&tail);
    buffer_deinit(&text);
}

TEST(numbers_of_another_width_or_order_are_told_whatever_the_vocabulary) {
    struct buffer large = shard(128256, 4000, 4, false), dense = shard(32000, 200000, 2, true),
                  swapped = {0}, plain = shard(50000, 8000, 2, false),
                  words = repeated("\xef\xbb\xbf{\"text\": \"some text\"}\n", 900);
    for (size_t i = 0; i < plain.size; i++) buffer_u8(&swapped, plain.data[i ^ 1]);
    refused(&large, DATA_TOKENS_EXTERNAL, 65536, "32-bit tokens of a tokenizer with more than");
    refused(&large, DATA_TOKENS_EXTERNAL, 50304, "32-bit tokens of a tokenizer with more than");
    refused(&large, DATA_TOKENS_EXTERNAL, 128256, "--data-format u32 reads it");
    refused(&dense, DATA_TOKENS_EXTERNAL, 50304,
            "another tokenizer"); /* as Llama 2's in a run of GPT-2's */
    taken(&dense, DATA_TOKENS_EXTERNAL, 32064, 2, 200000);
    refused(&swapped, DATA_TOKENS_EXTERNAL, 65536,
            "big-endian"); /* no token can be beyond this vocabulary */
    taken(&plain, DATA_TOKENS_EXTERNAL, 65536, 2, 8000);
    struct error error;
    struct data_shape shape;
    CHECK_OK(detect(&words, DATA_AUTO, DATA_TOKENS_BYTE, 256, &shape, &error));
    CHECK(shape.advice != NULL);
    CHECK_CONTAINS(shape.advice, "JSON lines");
    buffer_deinit(&large);
    buffer_deinit(&dense);
    buffer_deinit(&swapped);
    buffer_deinit(&plain);
    buffer_deinit(&words);
}

TEST(other_formats_are_named_for_both_kinds_of_run_and_insisting_on_bytes_takes_them) {
    static const struct {
        const char *name, *head;
        size_t size;
    } formats[] = {{"gzip", "\x1f\x8b\x08\0\0\0\0\0\0\3", 10},
                   {"zstd", "\x28\xb5\x2f\xfd\x04", 5},
                   {"xz",
                    "\xfd"
                    "7zXZ\0\0",
                    7},
                   {"bzip2", "BZh91AY&SY", 10},
                   {"lz4", "\x04\x22\x4d\x18\x64", 5},
                   {"zip", "PK\3\4\x14\0", 6},
                   {"Parquet", "PAR1\x15\4\x15", 7},
                   {"Arrow", "ARROW1\0\0", 8},
                   {"Arrow", "\xff\xff\xff\xff\x78\0\0\0\x10\0\0\0\0\0\x0a\0", 16},
                   {"safetensors", "\x40\0\0\0\0\0\0\0{\"a\":{}", 15},
                   {"NumPy", "\x93NUMPY\1\0", 8},
                   {"pickle", "\x80\4\x95\x10\0\0\0\0\0\0\0\x8c", 12},
                   {"SQLite", "SQLite format 3\0\x10\0", 18},
                   {"ELF",
                    "\x7f"
                    "ELF\2\1\1",
                    7},
                   {"UTF-16", "\xff\xfeh\0i\0", 6},
                   {"Git LFS", "version https://git-lfs.github.com/spec/v1\n", 43}};
    struct error error;
    struct data_shape shape;
    for (size_t i = 0; i < COUNT_OF(formats); i++) {
        struct buffer file = {0};
        struct random random;
        random_init(&random, i);
        buffer_append(&file, formats[i].head, formats[i].size);
        while (file.size < 3000) buffer_u8(&file, (uint8_t)random_below(&random, 256));
        refused(&file, DATA_TOKENS_EXTERNAL, 65536, formats[i].name);
        refused(&file, DATA_TOKENS_BYTE, 256, formats[i].name);
        refused(&file, DATA_TOKENS_ANY, 256, formats[i].name);
        CHECK_OK(detect(&file, DATA_BYTES, DATA_TOKENS_BYTE, 256, &shape, &error));
        CHECK_EQUAL(shape.tokens, file.size);
        buffer_deinit(&file);
    }
    struct buffer tar = {0};
    while (tar.size < 257) buffer_u8(&tar, 'a');
    buffer_append_text(&tar, "ustar  ");
    while (tar.size < 1024) buffer_u8(&tar, 0);
    refused(&tar, DATA_TOKENS_EXTERNAL, 65536, "tar");
    buffer_deinit(&tar);
}

TEST(headers_count_by_their_own_arithmetic_and_relatives_of_llm_c_are_read) {
    struct error error;
    struct data_shape shape;
    for (unsigned size = 2; size <= 4; size += 2) {
        struct buffer file = shard(50257, 700, size, true);
        struct buffer dated = {0};
        put(&dated, size == 2 ? 20250401 : 20251013, 4);
        buffer_append(&dated, file.data + 4, file.size - 4);
        taken(&dated, DATA_TOKENS_EXTERNAL, 50304, size, 700);
        CHECK_STATUS(detect(&file, size == 2 ? DATA_U16 : DATA_U32, DATA_TOKENS_EXTERNAL, 50304,
                            &shape, &error),
                     INVALID);
        CHECK_CONTAINS(error.message, "llmc reads it");
        CHECK_OK(detect(&file, DATA_LLMC, DATA_TOKENS_EXTERNAL, 50304, &shape, &error));
        file.size -= 2;
        refused(&file, DATA_TOKENS_EXTERNAL, 50304, "promises 700 tokens");
        file.size = 500;
        refused(&file, DATA_TOKENS_EXTERNAL, 50304, "promises 700 tokens");
        buffer_deinit(&file);
        buffer_deinit(&dated);
    }
    struct buffer raw = shard(300, 700, 2, false);
    CHECK_STATUS(detect(&raw, DATA_LLMC, DATA_TOKENS_EXTERNAL, 300, &shape, &error), INVALID);
    CHECK_CONTAINS(error.message, "no header");
    raw.size--;
    CHECK_STATUS(detect(&raw, DATA_U16, DATA_TOKENS_EXTERNAL, 300, &shape, &error), INVALID);
    refused(&raw, DATA_TOKENS_EXTERNAL, 300, "odd number");
    buffer_deinit(&raw);
}

TEST(json_lines_are_trained_on_as_they_are_with_a_word_about_it) {
    struct error error;
    struct data_shape shape;
    struct buffer lines = repeated("{\"text\": \"one\"}\n", 400),
                  text = repeated(languages[0].text, 400);
    CHECK_OK(detect(&lines, DATA_AUTO, DATA_TOKENS_BYTE, 256, &shape, &error));
    CHECK_CONTAINS(shape.advice, "JSON lines");
    CHECK_OK(detect(&text, DATA_AUTO, DATA_TOKENS_BYTE, 256, &shape, &error));
    CHECK(shape.advice == NULL);
    buffer_deinit(&lines);
    buffer_deinit(&text);
}
