#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "model/fit.h"
#include "model/moments.h"
#include "model/presets.h"
#include "tests/test.h"

static struct trainer_options small_options(void) {
    struct trainer_options options = TRAINER_DEFAULTS;
    options.model = (struct model_config){.vocabulary = 256,
                                          .hidden = 16,
                                          .layers = 4,
                                          .heads = 2,
                                          .kv_heads = 1,
                                          .ffn = 24,
                                          .context = 16,
                                          .rope_theta = 10000,
                                          .norm_eps = 1e-5f,
                                          .tied = true};
    options.sequences = 6;
    options.length = 16;
    options.schedule.peak = 5e-3f;
    return options;
}

static struct data *open_data(void) {
    struct error error = {0};
    struct buffer text = {0};
    for (uint64_t i = 0; i < 20000; i++)
        buffer_u8(&text, (uint8_t)('a' + (i * i / 7 + random_hash(3, i) % 3) % 20));
    char *path = file_join(test_directory(), "text");
    CHECK_OK(file_write(path, buffer_bytes(&text), 0600, &error));
    buffer_deinit(&text);
    struct data *data;
    const struct data_options options = {.vocabulary = 256, .seed = 1};
    CHECK_OK(data_open((const char *const[]){path}, 1, &options, &data, &error));
    free(path);
    return data;
}

/* The state after `steps` steps from the seed, or from `from`. */
static struct buffer trained(const struct trainer_options *options, const struct data *data,
                             int steps, const struct buffer *from, double *loss) {
    struct error error = {0};
    struct trainer *trainer;
    struct trainer_result result = {0};
    struct buffer state = {0};
    CHECK_OK(trainer_create(options, &trainer, &error));
    layout_initialise(trainer_layout(trainer), 1, trainer_parameters_to_change(trainer));
    if (from) CHECK_OK(trainer_load(trainer, buffer_bytes(from), &error));
    for (int i = 0; i < steps; i++) CHECK_OK(trainer_step(trainer, data, 0, &result, &error));
    if (loss) *loss = result.loss;
    trainer_save(trainer, &state);
    trainer_destroy(trainer);
    return state;
}

TEST(recompute_gives_the_same_bits_in_less_memory) {
    struct trainer_options kept = small_options(), again = small_options();
    again.recompute = true;
    CHECK(trainer_memory(&again) < trainer_memory(&kept));
    struct data *data = open_data();
    struct buffer a = trained(&kept, data, 5, NULL, NULL), b = trained(&again, data, 5, NULL, NULL);
    CHECK(bytes_equal(buffer_bytes(&a), buffer_bytes(&b)));
    buffer_deinit(&a);
    buffer_deinit(&b);
    data_close(data);
}

TEST(bf16_moments_train_as_well_and_the_same_on_any_threads_and_after_a_restart) {
    struct trainer_options wide = small_options(), narrow = small_options();
    narrow.bf16_moments = true;
    struct layout layout;
    CHECK(layout_init(&wide.model, &layout, NULL) == OK);
    CHECK(trainer_memory(&wide) - trainer_memory(&narrow) >= 4 * layout.count - 256);
    layout_deinit(&layout);
    struct data *data = open_data();
    double loss_wide, loss_narrow;
    struct buffer reference = trained(&wide, data, 150, NULL, &loss_wide),
                  one = trained(&narrow, data, 150, NULL, &loss_narrow);
    CHECK(loss_wide < 3.5);
    CHECK_NEAR(loss_narrow / loss_wide, 1.0, 0.02);
    CHECK(!bytes_equal(buffer_bytes(&reference), buffer_bytes(&one)));
    for (uint32_t threads = 1; threads <= 4; threads *= 2) {
        narrow.threads = threads;
        struct buffer half = trained(&narrow, data, 75, NULL, NULL),
                      whole = trained(&narrow, data, 75, &half, NULL);
        CHECK(bytes_equal(buffer_bytes(&one), buffer_bytes(&whole)));
        buffer_deinit(&half);
        buffer_deinit(&whole);
    }
    buffer_deinit(&reference);
    buffer_deinit(&one);
    data_close(data);
}

TEST(moments_rounded_by_chance_are_right_on_average) {
    enum { COUNT = 10000 };
    struct tensor_arena arena = {0};
    struct moments moments;
    moments_plan(&moments, COUNT, true, &arena);
    CHECK(arena.used >= 2 * COUNT && arena.used < 2 * COUNT + 128);
    arena = (struct tensor_arena){.base = xcalloc(1, arena.used)};
    void *memory = arena.base;
    moments_plan(&moments, COUNT, true, &arena);
    float *values = xmalloc(COUNT * sizeof *values), *back = xmalloc(COUNT * sizeof *back);
    for (int i = 0; i < COUNT; i++) values[i] = 1.001f; /* between 1 and 1.0078125 */
    double sum = 0;
    for (uint64_t salt = 0; salt < 10; salt++) {
        moments_write(&moments, 0, COUNT, values, salt);
        moments_read(&moments, 0, COUNT, back);
        for (int i = 0; i < COUNT; i++) {
            CHECK(back[i] == 1.0f || back[i] == 1.0078125f);
            sum += (double)back[i];
        }
    }
    CHECK_NEAR(sum / (10.0 * COUNT), 1.001, 2e-5);
    for (int i = 0; i < COUNT; i++) values[i] = i % 2 ? 0.0f : -0.5f;
    moments_write(&moments, 0, COUNT, values, 3);
    moments_read(&moments, 0, COUNT, back);
    CHECK_MEMORY(values, back, COUNT * sizeof *values);
    free(values);
    free(back);
    free(memory);
}

TEST(shards_by_default_follow_the_batch_and_never_the_machine) {
    struct trainer_options options = small_options();
    CHECK_EQUAL(trainer_shards(&options), 4);
    options.sequences = 2;
    CHECK_EQUAL(trainer_shards(&options), 2);
    options.sequences = 1024;
    for (uint32_t threads = 0; threads < 64; threads += 16) {
        options.threads = threads;
        CHECK_EQUAL(trainer_shards(&options), 16);
    }
    options.accumulation = 100;
    CHECK_EQUAL(trainer_shards(&options), 64);
    CHECK(preset_find("50m", &options.model, NULL) == OK);
    options.length = 1024;
    CHECK_EQUAL(trainer_shards(&options), 4); /* gradients of 0.2 GB each */
    options.shards = 7;
    CHECK_EQUAL(trainer_shards(&options), 7);
}

TEST(presets_are_legal_ascend_and_have_the_size_of_their_name) {
    struct error error = {0};
    uint64_t last = 0;
    const struct preset *preset;
    size_t count = 0;
    for (; (preset = preset_at(count)); count++) {
        struct layout layout;
        struct model_config found;
        CHECK_OK(layout_init(&preset->config, &layout, &error));
        CHECK_OK(preset_find(preset->name, &found, &error));
        CHECK_MEMORY(&found, &preset->config, sizeof found);
        double size = strtod(preset->name, NULL);
        char unit = preset->name[strlen(preset->name) - 1];
        size *= unit == 'k' ? 1e3 : unit == 'm' ? 1e6 : 1e9;
        CHECK(layout.count > last);
        CHECK_NEAR((double)layout.count / size, unit == 'm' && size == 1e6 ? 1.3 : 1.0, 0.11);
        last = layout.count;
        layout_deinit(&layout);
    }
    CHECK(count >= 8 && preset_at(0)->config.vocabulary == 256 && last > 7500000000u);
    struct model_config config;
    CHECK_STATUS(preset_find("9z", &config, &error), INVALID);
    CHECK_CONTAINS(error.message, "300k, 1m");
}

TEST(what_does_not_fit_is_refused_with_what_would) {
    struct error error = {0};
    struct trainer_options options = small_options();
    options.threads = 1;
    CHECK_OK(preset_find("12m", &options.model, NULL));
    options.length = 128;
    options.sequences = 8;
    uint64_t all = trainer_memory(&options);
    CHECK_OK(trainer_fit(&options, 1000, all + 1000, &error));
    CHECK_STATUS(trainer_fit(&options, 1000, all + 999, &error), FULL);
    CHECK_CONTAINS(error.message, "with recompute it takes");
    struct trainer_options smaller = options;
    smaller.recompute = true;
    CHECK_STATUS(trainer_fit(&options, 0, trainer_memory(&smaller) - 1, &error), FULL);
    CHECK_CONTAINS(error.message, "with recompute and bf16 moments it takes");
    smaller.bf16_moments = true;
    smaller.shards = 1;
    CHECK_STATUS(trainer_fit(&options, 0, trainer_memory(&smaller), &error), FULL);
    CHECK_CONTAINS(error.message, "with recompute and bf16 moments and 1 shard it takes");
    CHECK_STATUS(trainer_fit(&options, 0, trainer_memory(&smaller) - 1, &error), FULL);
    CHECK_CONTAINS(error.message, "the largest preset that fits is \"4m\"");
    CHECK_STATUS(trainer_fit(&options, 0, 1000, &error), FULL);
    CHECK_CONTAINS(error.message, "no preset fits");
    CHECK(memory_available() > 1 << 20);
    char text[SIZE_TEXT_SIZE];
    CHECK_TEXT(size_text(1536, text), "1.5 KiB");
    CHECK_TEXT(size_text(12, text), "12 bytes");
}
