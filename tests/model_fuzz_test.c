/* 10,000 damaged files: no crash, no read beyond the end (sanitizer builds), an error with a name
 * and a story for each that is refused, and nothing that is out of bounds in one that is taken.
 * Damage is a cut, a few bytes set, a piece copied elsewhere, or a token of the file's own grammar
 * put in. ATOLL_TEST_FUZZ_CASES=200000 makes as many in all (and ATOLL_TEST_SLOWDOWN=100 the time
 * for it); ATOLL_TEST_FUZZ_SEED makes others than the usual ones. */
#include <fcntl.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "model/checkpoint.h"
#include "model/config_file.h"
#include "model/data.h"
#include "model/export.h"
#include "model/safetensors.h"
#include "model/trainer.h"
#include "tests/safetensors_write_as.h"
#include "tests/test.h"

enum { KINDS = 5 };

static uint64_t setting(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 10) : otherwise;
}
static int cases(void) { return (int)(setting("ATOLL_TEST_FUZZ_CASES", 10000) / KINDS); }
static void start(struct random *random, uint64_t kind) {
    random_init(random, kind + setting("ATOLL_TEST_FUZZ_SEED", 0) * KINDS);
}

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
    static const char *const words[] = {
        "{",          "}",       "[",    "]",  "\"",    ":",
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
            size_t from = (size_t)random_below(random, reach),
                   count = (size_t)random_below(random, 40);
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

static void
write_over(const char *path,
           struct bytes content) { /* without file_write's syncs, which would take minutes */
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

static void all_finite(const struct layout *layout, const float *values) {
    for (uint64_t i = 0; i < layout->count; i++) CHECK(isfinite(values[i]));
}

TEST_WITHIN(damaged_safetensors_are_refused_by_name, 120000) {
    struct error error = {0};
    float *values;
    struct layout layout = make_layout(&values);
    struct random random;
    start(&random, 1);
    char *path = file_join(test_directory(), "fuzz.safetensors");
    static const enum tensor_dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    int refusals = 0, each = cases() / (int)COUNT_OF(dtypes);
    for (size_t n = 0; n < COUNT_OF(dtypes); n++) {
        struct buffer file = {0};
        CHECK_OK(write_as(path, &layout, values, dtypes[n], 1, &error));
        CHECK_OK(file_read(path, 1 << 20, &file, &error));
        for (int i = 0; i < each; i++) {
            error = (struct error){0};
            struct bytes bad =
                damaged(buffer_bytes(&file),
                        file.size - layout.count * tensor_dtype_size(dtypes[n]), &random);
            memset(values, 0, layout.count * sizeof *values);
            if (judge(safetensors_decode(&layout, bad, values, &error), &error))
                refusals++;
            else
                all_finite(&layout, values);
            free((void *)(uintptr_t)bad.data);
        }
        layout_initialise(&layout, 1, values);
        buffer_deinit(&file);
    }
    CHECK(refusals > cases() / 2);
    free(path);
    free(values);
    layout_deinit(&layout);
}

TEST_WITHIN(damaged_configs_are_refused_by_name, 120000) {
    struct buffer file = {0};
    struct random random;
    start(&random, 2);
    config_file_encode(&shape, "float32", &file);
    int refusals = 0;
    for (int i = 0; i < cases(); i++) {
        struct error error = {0};
        struct model_config config;
        struct layout layout;
        struct bytes bad = damaged(buffer_bytes(&file), file.size, &random);
        if (judge(config_file_decode(bad, &config, &error), &error))
            refusals++;
        else if (!judge(layout_init(&config, &layout, &error), &error))
            layout_deinit(&layout);
        free((void *)(uintptr_t)bad.data);
    }
    CHECK(refusals > cases() / 2);
    buffer_deinit(&file);
}

TEST_WITHIN(damaged_indices_and_shards_are_refused_by_name, 240000) {
    struct error error = {0};
    float *values;
    struct layout layout = make_layout(&values);
    struct random random;
    start(&random, 3);
    const struct export_options options = {.version = -1, .shard_size = 400};
    CHECK_OK(export_model_as(test_directory(), &layout, values, &options, &error));
    const char *names[] = {"model.safetensors.index.json", "model-00001-of-00002.safetensors"};
    int refusals = 0;
    for (size_t n = 0; n < COUNT_OF(names); n++) {
        struct buffer file = {0};
        char *path = file_join(test_directory(), names[n]);
        CHECK_OK(file_read(path, 1 << 20, &file, &error));
        for (int i = 0; i < cases() / 2; i++) {
            struct bytes bad = damaged(buffer_bytes(&file), 400, &random);
            error = (struct error){0};
            write_over(path, bad);
            if (judge(checkpoint_read(test_directory(), &layout, values, &error), &error))
                refusals++;
            else
                all_finite(&layout, values);
            free((void *)(uintptr_t)bad.data);
        }
        write_over(path, buffer_bytes(&file));
        CHECK_OK(checkpoint_read(test_directory(), &layout, values, &error));
        buffer_deinit(&file);
        free(path);
    }
    CHECK(refusals > cases() / 2);
    free(values);
    layout_deinit(&layout);
}

/* Of llm.c's first or second layout: 500 tokens below 10. */
static void put_tokens(struct buffer *file, bool wide) {
    file->size = 0;
    buffer_u32(file, wide ? 20240801 : 20240520);
    buffer_u32(file, wide ? 7 : 1);
    buffer_u32(file, 500);
    while (file->size < 1024) buffer_u8(file, 0);
    for (uint16_t i = 0; i < 500; i++) {
        buffer_u16(file, i % 10);
        if (wide) buffer_u16(file, 0);
    }
}

TEST_WITHIN(damaged_shards_of_tokens_are_refused_by_name, 240000) {
    struct random random;
    start(&random, 4);
    struct buffer file = {0};
    char *path = file_join(test_directory(), "fuzz.bin");
    int refusals = 0;
    for (int i = 0; i < cases(); i++) {
        struct error error = {0};
        struct data *data = NULL;
        put_tokens(&file, i % 2 == 1);
        struct bytes bad = damaged(buffer_bytes(&file), 12, &random);
        write_over(path, bad);
        const struct data_options options = {.vocabulary = 10, .heldout = 0.1, .seed = 1};
        if (!judge(data_open((const char *const[]){path}, 1, &options, &data, &error), &error)) {
            struct data_position position = {0};
            uint32_t tokens[17];
            for (int n = 0; n < 3; n++)
                if (!judge(data_next(data, &position, 16, tokens, &error), &error))
                    for (size_t t = 0; t < COUNT_OF(tokens); t++) CHECK(tokens[t] < 10);
            if (data_heldout_count(data, 16) > 0)
                CHECK_OK(data_heldout(data, 0, 16, tokens, &error));
        } else
            refusals++;
        data_close(data);
        free((void *)(uintptr_t)bad.data);
    }
    CHECK(refusals > cases() / 3);
    free(path);
    buffer_deinit(&file);
}

/* A state that is taken is taken as it is; one that is refused changes nothing. */
static bool try_state(struct trainer *trainer, struct bytes bad, bool whole) {
    struct error error = {0};
    struct buffer before = {0}, after = {0};
    trainer_save(trainer, &before);
    bool refused = judge(trainer_load(trainer, bad, &error), &error);
    if (refused || whole)
        trainer_save(trainer, &after);
    else
        trainer_save_optimizer(trainer, &after);
    if (!refused) all_finite(trainer_layout(trainer), trainer_parameters_to_change(trainer));
    CHECK(bytes_equal(buffer_bytes(&after), refused ? buffer_bytes(&before) : bad));
    buffer_deinit(&before);
    buffer_deinit(&after);
    return refused;
}

TEST_WITHIN(damaged_trainer_states_are_refused_and_change_nothing, 240000) {
    struct error error = {0};
    struct random random;
    start(&random, 5);
    struct trainer_options options = TRAINER_DEFAULTS;
    options.model = shape, options.length = 8, options.threads = 1, options.kernels = "portable";
    struct trainer *trainer;
    CHECK_OK(trainer_create(&options, &trainer, &error));
    layout_initialise(trainer_layout(trainer), 1, trainer_parameters_to_change(trainer));
    struct buffer good[2] = {0};
    trainer_save(trainer, &good[0]);
    trainer_save_optimizer(trainer, &good[1]);
    size_t front = good[1].size - 2 * trainer_layout(trainer)->count * sizeof(float);
    int refusals = 0;
    for (int i = 0; i < cases(); i++) {
        CHECK_OK(trainer_load(trainer, buffer_bytes(&good[0]), &error));
        struct bytes bad = damaged(buffer_bytes(&good[i % 2]), front, &random);
        bool whole = bad.size <= 16 || bad.data[16] & 1; /* after the magic: with parameters */
        refusals += try_state(trainer, bad, whole);
        free((void *)(uintptr_t)bad.data);
    }
    CHECK(refusals > cases() / 3);
    buffer_deinit(&good[0]), buffer_deinit(&good[1]);
    trainer_destroy(trainer);
}
