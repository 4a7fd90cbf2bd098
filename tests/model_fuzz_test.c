/* 10,000 damaged files: no crash, no read beyond the end (sanitizer builds), and an error with a name and a story for each that is
 * refused. Damage is a cut, a few bytes set, a piece copied elsewhere, or a token of the file's own grammar put in. */
#include <fcntl.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "model/checkpoint.h"
#include "model/config_file.h"
#include "model/data.h"
#include "model/export.h"
#include "tests/test.h"

enum { CASES = 2500 };

static const struct model_config shape = {.vocabulary = 10,
                                          .hidden = 4,
                                          .layers = 1,
                                          .heads = 2,
                                          .kv_heads = 1,
                                          .ffn = 6,
                                          .context = 8,
                                          .rope_theta = 10000,
                                          .norm_eps = 1e-5f,
                                          .tied = true};

/* A damaged copy in an allocation of its own size. */
static struct bytes damaged(struct bytes good, size_t front, struct random *random) {
    static const char *const words[] = {"{",          "}",       "[",    "]",  "\"",    ":",
                                        ",",          "null",    "true", "-1", "1e999", "18446744073709551615",
                                        "4294967296", "\\u0000", "\xff", "..", "0"};
    size_t size = good.size;
    if (random_below(random, 3) == 0) size = (size_t)random_below(random, size + 1);
    uint8_t *copy = xmalloc(size);
    memcpy(copy, good.data, size);
    size_t reach = random_below(random, 2) ? MIN(size, front) : size;
    for (uint64_t hits = random_below(random, 4); hits > 0 && reach > 0; hits--) {
        size_t at = (size_t)random_below(random, reach);
        const char *word = words[random_below(random, COUNT_OF(words))];
        switch (random_below(random, 3)) {
        case 0: copy[at] = (uint8_t)random_u64(random); break;
        case 1: memcpy(copy + at, word, MIN(strlen(word), size - at)); break;
        default: {
            size_t from = (size_t)random_below(random, reach), count = (size_t)random_below(random, 40);
            memmove(copy + at, copy + from, MIN(count, size - MAX(at, from)));
        }
        }
    }
    return bytes_of(copy, size);
}

/* What every refusal must be. Returns whether it was one. */
static bool judge(enum status status, const struct error *error) {
    if (status == OK) return false;
    CHECK(status == INVALID || status == CORRUPT || status == NOT_FOUND);
    CHECK_EQUAL(error->status, status);
    CHECK(strlen(error->message) >= 8);
    return true;
}

static void write_over(const char *path, struct bytes content) { /* without file_write's syncs, which would take minutes */
    int descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    CHECK(descriptor >= 0 && file_write_all(descriptor, content.data, content.size, NULL) == OK);
    close(descriptor);
}

static struct layout make_layout(float **values) {
    struct layout layout;
    CHECK(layout_init(&shape, &layout, NULL) == OK);
    *values = xmalloc(layout.count * sizeof **values);
    layout_initialise(&layout, 1, *values);
    return layout;
}

TEST_WITHIN(damaged_safetensors_are_refused_by_name, 120000) {
    float *values;
    struct layout layout = make_layout(&values);
    struct buffer file = {0};
    struct random random;
    random_init(&random, 1);
    safetensors_encode(&layout, values, 1, &file);
    int refusals = 0;
    for (int i = 0; i < CASES; i++) {
        struct error error = {0};
        struct bytes bad = damaged(buffer_bytes(&file), file.size - layout.count * 4, &random);
        refusals += judge(safetensors_decode(&layout, bad, values, &error), &error);
        free((void *)(uintptr_t)bad.data);
    }
    CHECK(refusals > CASES / 2);
    buffer_deinit(&file);
    free(values);
    layout_deinit(&layout);
}

TEST_WITHIN(damaged_configs_are_refused_by_name, 120000) {
    struct buffer file = {0};
    struct random random;
    random_init(&random, 2);
    config_file_encode(&shape, "float32", &file);
    int refusals = 0;
    for (int i = 0; i < CASES; i++) {
        struct error error = {0};
        struct model_config config;
        struct bytes bad = damaged(buffer_bytes(&file), file.size, &random);
        refusals += judge(config_file_decode(bad, &config, &error), &error);
        free((void *)(uintptr_t)bad.data);
    }
    CHECK(refusals > CASES / 2);
    buffer_deinit(&file);
}

TEST_WITHIN(damaged_indices_and_shards_are_refused_by_name, 240000) {
    struct error error = {0};
    float *values;
    struct layout layout = make_layout(&values);
    struct random random;
    random_init(&random, 3);
    const struct export_options options = {.version = -1, .shard_size = 400};
    CHECK_OK(export_model_as(test_directory(), &layout, values, &options, &error));
    const char *names[] = {"model.safetensors.index.json", "model-00001-of-00002.safetensors"};
    int refusals = 0;
    for (size_t n = 0; n < COUNT_OF(names); n++) {
        struct buffer file = {0};
        char *path = file_join(test_directory(), names[n]);
        CHECK_OK(file_read(path, 1 << 20, &file, &error));
        for (int i = 0; i < CASES / 2; i++) {
            struct bytes bad = damaged(buffer_bytes(&file), 400, &random);
            error = (struct error){0};
            write_over(path, bad);
            refusals += judge(checkpoint_read(test_directory(), &layout, values, &error), &error);
            free((void *)(uintptr_t)bad.data);
        }
        write_over(path, buffer_bytes(&file));
        CHECK_OK(checkpoint_read(test_directory(), &layout, values, &error));
        buffer_deinit(&file);
        free(path);
    }
    CHECK(refusals > CASES / 2);
    free(values);
    layout_deinit(&layout);
}

TEST_WITHIN(damaged_shards_of_tokens_are_refused_by_name, 240000) {
    struct random random;
    random_init(&random, 4);
    struct buffer file = {0};
    buffer_u32(&file, 20240520);
    buffer_u32(&file, 1);
    buffer_u32(&file, 500);
    while (file.size < 1024) buffer_u8(&file, 0);
    for (uint16_t i = 0; i < 500; i++) buffer_u16(&file, i % 10);
    char *path = file_join(test_directory(), "fuzz.bin");
    int refusals = 0;
    for (int i = 0; i < CASES; i++) {
        struct error error = {0};
        struct data *data = NULL;
        struct bytes bad = damaged(buffer_bytes(&file), 12, &random);
        write_over(path, bad);
        const struct data_options options = {.vocabulary = 10, .seed = 1};
        enum status status = data_open((const char *const[]){path}, 1, &options, &data, &error);
        if (!judge(status, &error)) {
            struct data_position position = {0};
            uint32_t tokens[17];
            judge(data_next(data, &position, 16, tokens, &error), &error);
        } else
            refusals++;
        data_close(data);
        free((void *)(uintptr_t)bad.data);
    }
    CHECK(refusals > CASES / 3);
    free(path);
    buffer_deinit(&file);
}
