#include "model/trainer.h"

#include "base/file.h"
#include "base/random.h"
#include "kernels/kernels.h"
#include "tests/model_golden.h"

static const struct model_config small = {.vocabulary = 256,
                                          .hidden = 32,
                                          .layers = 2,
                                          .heads = 4,
                                          .kv_heads = 2,
                                          .ffn = 72,
                                          .context = 64,
                                          .rope_theta = 10000,
                                          .norm_eps = 1e-5f,
                                          .tied = true};

static struct trainer_options small_options(void) {
    struct trainer_options options = TRAINER_DEFAULTS;
    options.model = small;
    options.sequences = 6;
    options.length = 40;
    options.threads = 1;
    options.schedule = (struct schedule){.shape = SCHEDULE_COSINE,
                                         .peak = 3e-3f,
                                         .floor = 3e-4f,
                                         .warmup_tokens = 1000,
                                         .total_tokens = 100000};
    return options;
}

static struct trainer *make(const struct trainer_options *options) {
    struct error error = {0};
    struct trainer *trainer;
    CHECK_OK(trainer_create(options, &trainer, &error));
    layout_initialise(trainer_layout(trainer), 7, trainer_parameters_to_change(trainer));
    return trainer;
}

static struct data *text_data(double heldout) {
    struct error error = {0};
    struct buffer text = {0};
    struct random random;
    random_init(&random, 3);
    while (text.size < 20000)
        buffer_append_text(&text, "the %s sat on the %s. ",
                           (const char *[]){"cat", "dog", "owl"}[random_below(&random, 3)],
                           (const char *[]){"mat", "hill", "moon"}[random_below(&random, 3)]);
    char *path = xformat("%s/train.txt", test_directory());
    CHECK_OK(file_write(path, buffer_bytes(&text), 0600, &error));
    const struct data_options options = {.vocabulary = 256, .heldout = heldout, .seed = 11};
    struct data *data;
    CHECK_OK(data_open((const char *const[]){path}, 1, &options, &data, &error));
    free(path);
    buffer_deinit(&text);
    return data;
}

static double run_steps(struct trainer *trainer, const struct data *data, int count) {
    struct error error = {0};
    struct trainer_result result = {0};
    for (int i = 0; i < count; i++)
        CHECK_OK(trainer_step(trainer, data, trainer_counters(trainer).tokens, &result, &error));
    return result.loss;
}

static struct buffer state_of(struct trainer *trainer) {
    struct buffer state = {0};
    trainer_save(trainer, &state);
    return state;
}

static void check_same_state(struct trainer *a, struct trainer *b) {
    struct buffer one = state_of(a), two = state_of(b);
    CHECK(bytes_equal(buffer_bytes(&one), buffer_bytes(&two)));
    buffer_deinit(&one);
    buffer_deinit(&two);
}

TEST(training_lowers_the_loss_on_every_table) {
    const struct kernels *k;
    struct error error = {0};
    struct data *data = text_data(0.1);
    for (size_t t = 0; (k = kernels_at(t)); t++) {
        struct trainer_options options = small_options();
        options.kernels = k->name;
        struct trainer *trainer = make(&options);
        CHECK_TEXT(trainer_kernels(trainer), k->name);
        double before, after;
        CHECK_OK(trainer_evaluate(trainer, data, 0, &before, &error));
        CHECK_NEAR(before, log(256), 0.2);
        run_steps(trainer, data, 120);
        CHECK_OK(trainer_evaluate(trainer, data, 0, &after, &error));
        CHECK(after < 1.0); /* from 5.5; the text itself has 0.2 */
        CHECK_EQUAL(trainer_counters(trainer).steps, 120);
        CHECK_EQUAL(trainer_counters(trainer).tokens, 120 * 6 * 40);
        trainer_destroy(trainer);
    }
    data_close(data);
}

/* The trainer reads its data from a file: one epoch of exactly the golden sequences, in whatever
 * order. */
TEST(one_step_matches_the_golden_adamw_step) {
    struct error error = {0};
    struct golden g = golden_read("long"); /* one sequence: the order of sampling cannot matter */
    char *path = xformat("%s/golden.bin", test_directory());
    struct buffer file = {0};
    for (uint32_t i = 0; i <= g.length; i++) buffer_u16(&file, (uint16_t)g.tokens[i]);
    CHECK_OK(file_write(path, buffer_bytes(&file), 0600, &error));
    buffer_deinit(&file);
    const struct data_options data_options = {.vocabulary = g.config.vocabulary, .seed = 1};
    struct data *data;
    CHECK_OK(data_open((const char *const[]){path}, 1, &data_options, &data, &error));
    struct trainer_options options = TRAINER_DEFAULTS;
    options.model = g.config;
    options.sequences = 1;
    options.length = g.length;
    options.adamw = (struct adamw_options){
        .beta1 = 0.9f, .beta2 = 0.95f, .epsilon = 1e-8f, .decay = 0.1f, .clip = 0.25f};
    options.schedule = (struct schedule){.shape = SCHEDULE_CONSTANT, .peak = 3e-3f};
    const char *tables[] = {"portable", "avx2", "avx512"};
    for (size_t t = 0; t < COUNT_OF(tables); t++) {
        const struct kernels *k;
        if (kernels_find(tables[t], &k, NULL) != OK) continue;
        options.kernels = tables[t];
        struct trainer *trainer = make(&options);
        memcpy(trainer_parameters_to_change(trainer), g.parameters, g.count * sizeof(float));
        struct trainer_result result;
        CHECK_OK(trainer_step(trainer, data, 0, &result, &error));
        CHECK_NEAR(result.loss, g.loss, 2e-6);
        CHECK_NEAR(result.gradient_norm, g.norm, 1e-5);
        /* A first Adam step is lr * g / (|g| + eps): a gradient near eps (1e-8, clipped) magnifies
         * its own rounding. */
        for (uint64_t i = 0; i < g.count; i++)
            CHECK_NEAR(trainer_parameters_to_change(trainer)[i], g.stepped[i],
                       fabsf(g.gradient[i]) > 1e-4f ? 1e-5 : 3e-3);
        trainer_destroy(trainer);
    }
    data_close(data);
    golden_free(&g);
    free(path);
}

TEST(any_number_of_threads_gives_the_same_bits) {
    const struct kernels *k;
    struct data *data = text_data(0);
    for (size_t t = 0; (k = kernels_at(t)); t++) {
        struct trainer_options options = small_options();
        options.kernels = k->name;
        options.accumulation = 2;
        struct trainer *one = make(&options);
        run_steps(one, data, 3);
        const uint32_t threads[] = {2, 4};
        for (size_t i = 0; i < COUNT_OF(threads); i++) {
            options.threads = threads[i];
            struct trainer *many = make(&options);
            run_steps(many, data, 3);
            check_same_state(one, many);
            trainer_destroy(many);
        }
        trainer_destroy(one);
    }
    data_close(data);
}

TEST(accumulation_is_the_same_as_a_larger_batch) {
    struct data *data = text_data(0);
    struct trainer_options options = small_options();
    struct trainer *wide = make(&options);
    options.sequences = 3;
    options.accumulation = 2;
    struct trainer *deep = make(&options);
    run_steps(wide, data, 2);
    run_steps(deep, data, 2);
    check_same_state(wide, deep);
    trainer_destroy(wide);
    trainer_destroy(deep);
    data_close(data);
}

TEST(a_resumed_run_equals_an_uninterrupted_one_bit_for_bit) {
    struct error error = {0};
    struct data *data = text_data(0);
    struct trainer_options options = small_options();
    struct trainer *whole = make(&options), *first = make(&options);
    run_steps(whole, data, 7);
    run_steps(first, data, 3);
    struct buffer state = state_of(first);
    trainer_destroy(first);
    struct trainer *second = make(&options);
    run_steps(second, data, 1); /* what it did before loading must not matter */
    CHECK_OK(trainer_load(second, buffer_bytes(&state), &error));
    run_steps(second, data, 4);
    check_same_state(whole, second);
    buffer_deinit(&state);
    trainer_destroy(whole);
    trainer_destroy(second);
    data_close(data);
}

TEST(optimizer_state_alone_leaves_the_parameters_to_the_caller) {
    struct error error = {0};
    struct data *data = text_data(0);
    struct trainer_options options = small_options();
    struct trainer *a = make(&options), *b = make(&options);
    run_steps(a, data, 3);
    struct buffer state = {0};
    trainer_save_optimizer(a, &state);
    float first = trainer_parameters_to_change(b)[0];
    CHECK_OK(trainer_load(b, buffer_bytes(&state), &error));
    CHECK(trainer_parameters_to_change(b)[0] == first);
    memcpy(trainer_parameters_to_change(b), trainer_parameters_to_change(a),
           trainer_layout(a)->count * sizeof(float));
    check_same_state(a, b);
    buffer_deinit(&state);
    trainer_destroy(a);
    trainer_destroy(b);
    data_close(data);
}

TEST(a_damaged_state_is_refused_and_changes_nothing) {
    struct error error = {0};
    struct data *data = text_data(0);
    struct trainer_options options = small_options();
    struct trainer *trainer = make(&options);
    run_steps(trainer, data, 1);
    struct buffer state = state_of(trainer), before = state_of(trainer);
    for (size_t size = 0; size < state.size; size += size < 300 ? 1 : 40009)
        CHECK_STATUS(trainer_load(trainer, bytes_of(state.data, size), &error), CORRUPT);
    CHECK_STATUS(trainer_load(trainer, bytes_of(state.data, state.size - 1), &error), CORRUPT);
    buffer_u8(&state, 0);
    CHECK_STATUS(trainer_load(trainer, buffer_bytes(&state), &error), CORRUPT);
    struct buffer after = state_of(trainer);
    CHECK(bytes_equal(buffer_bytes(&before), buffer_bytes(&after)));
    options.model.ffn = 80;
    struct trainer *other = make(&options);
    CHECK_STATUS(trainer_load(other, buffer_bytes(&before), &error), INVALID);
    CHECK_CONTAINS(error.message, "model.layers.0.mlp.gate_proj.weight");
    buffer_deinit(&state);
    buffer_deinit(&before);
    buffer_deinit(&after);
    trainer_destroy(trainer);
    trainer_destroy(other);
    data_close(data);
}

TEST(a_state_with_values_that_no_step_leaves_is_refused_by_place) {
    struct error error = {0};
    struct data *data = text_data(0);
    struct trainer_options options = small_options();
    struct trainer *trainer = make(&options);
    run_steps(trainer, data, 1);
    struct buffer state = state_of(trainer);
    size_t size = trainer_layout(trainer)->count * sizeof(float), front = state.size - 3 * size;
    const struct {
        size_t at;
        float value;
        const char *words;
    } bad[] = {{front, NAN, "parameter 0 is"},
               {front + size - 4, INFINITY, "is inf"},
               {front + size + 8, -INFINITY, "first moment 2 is"},
               {front + 2 * size, -1e-30f, "second moment 0 is"},
               {state.size - 4, NAN, "second moment"}};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        float good;
        memcpy(&good, state.data + bad[i].at, sizeof good);
        memcpy(state.data + bad[i].at, &bad[i].value, sizeof good);
        CHECK_STATUS(trainer_load(trainer, buffer_bytes(&state), &error), CORRUPT);
        CHECK_CONTAINS(error.message, bad[i].words);
        memcpy(state.data + bad[i].at, &good, sizeof good);
        struct buffer after = state_of(trainer);
        CHECK(bytes_equal(buffer_bytes(&after), buffer_bytes(&state)));
        buffer_deinit(&after);
    }
    for (uint8_t parts = 2; parts != 0;
         parts++) { /* after the magic: only "with parameters" and "without" are known */
        state.data[16] = parts;
        CHECK_STATUS(trainer_load(trainer, buffer_bytes(&state), &error), CORRUPT);
    }
    state.data[16] = 1;
    CHECK_OK(trainer_load(trainer, buffer_bytes(&state), &error));
    buffer_deinit(&state);
    trainer_destroy(trainer);
    data_close(data);
}

TEST(a_rebase_between_steps_is_what_the_next_step_starts_from) {
    struct data *data = text_data(0);
    struct trainer_options options = small_options();
    struct trainer *a = make(&options), *b = make(&options);
    uint64_t count = trainer_layout(a)->count;
    run_steps(a, data, 2);
    run_steps(b, data, 2);
    for (uint64_t i = 0; i < count; i++) trainer_parameters_to_change(a)[i] += 0.01f;
    for (uint64_t i = 0; i < count; i++) trainer_parameters_to_change(b)[i] += 0.01f;
    double moved = run_steps(a, data, 1);
    CHECK(run_steps(b, data, 1) == moved);
    check_same_state(a, b);
    trainer_destroy(a);
    trainer_destroy(b);
    data_close(data);
}

TEST(a_step_that_is_not_finite_is_refused_and_its_batch_skipped) {
    struct error error = {0};
    struct data *data = text_data(0);
    struct trainer_options options = small_options();
    struct trainer *trainer = make(&options);
    run_steps(trainer, data, 1);
    trainer_parameters_to_change(trainer)[5 * 32 + 1] = NAN;
    uint64_t size = trainer_layout(trainer)->count * sizeof(float);
    float *before = xmalloc(size);
    memcpy(before, trainer_parameters_to_change(trainer), size);
    CHECK_STATUS(trainer_step(trainer, data, 0, NULL, &error), CORRUPT);
    CHECK_MEMORY(before, trainer_parameters_to_change(trainer), size);
    CHECK_EQUAL(trainer_counters(trainer).steps, 1);
    CHECK_EQUAL(trainer_counters(trainer).position.index, 12);
    free(before);
    trainer_destroy(trainer);
    data_close(data);
}

TEST(two_trainers_in_one_process_do_not_disturb_each_other) {
    struct data *data = text_data(0);
    struct trainer_options options = small_options();
    options.threads = 2;
    struct trainer *alone = make(&options), *a = make(&options), *b = make(&options);
    run_steps(alone, data, 3);
    for (int i = 0; i < 3; i++) {
        run_steps(a, data, 1);
        run_steps(b, data, 1);
    }
    check_same_state(alone, a);
    check_same_state(alone, b);
    trainer_destroy(alone);
    trainer_destroy(a);
    trainer_destroy(b);
    data_close(data);
}

TEST(evaluation_changes_nothing_and_ignores_the_batch_size) {
    struct error error = {0};
    struct data *data = text_data(0.3);
    struct trainer_options options = small_options();
    struct trainer *trainer = make(&options);
    run_steps(trainer, data, 2);
    struct buffer before = state_of(trainer);
    double all, some, tokens_nats;
    CHECK_OK(trainer_evaluate(trainer, data, 0, &all, &error));
    CHECK_OK(trainer_evaluate(trainer, data, 10, &some, &error));
    CHECK_NEAR(all, some, 0.3);
    uint64_t count = data_heldout_count(data, 40);
    uint32_t *tokens = xmalloc(count * 41 * sizeof *tokens);
    for (uint64_t i = 0; i < count; i++)
        CHECK_OK(data_heldout(data, i, 40, tokens + i * 41, &error));
    CHECK_OK(trainer_evaluate_tokens(trainer, tokens, count, &tokens_nats, &error));
    CHECK_NEAR(tokens_nats, all, 1e-9);
    struct buffer after = state_of(trainer);
    CHECK(bytes_equal(buffer_bytes(&before), buffer_bytes(&after)));
    free(tokens);
    buffer_deinit(&before);
    buffer_deinit(&after);
    trainer_destroy(trainer);
    data_close(data);
    data = text_data(0);
    trainer = make(&options);
    CHECK_STATUS(trainer_evaluate(trainer, data, 0, &all, &error), NOT_FOUND);
    trainer_destroy(trainer);
    data_close(data);
}

TEST(options_out_of_range_are_refused_by_name) {
    struct error error = {0};
    struct trainer_options options = small_options();
    CHECK_OK(trainer_check(&options, &error));
    CHECK(trainer_memory(&options) > 4 * 30000 * sizeof(float));
#define REFUSED(change, word)                                                                      \
    do {                                                                                           \
        options = small_options();                                                                 \
        change;                                                                                    \
        CHECK_STATUS(trainer_check(&options, &error), INVALID);                                    \
        CHECK_CONTAINS(error.message, word);                                                       \
    } while (0)
    REFUSED(options.length = 65, "length");
    REFUSED(options.length = 0, "length");
    REFUSED(options.sequences = 0, "sequences");
    REFUSED(options.accumulation = 0, "accumulation");
    REFUSED(options.shards = 7, "shards");
    REFUSED(options.kernels = "none", "none");
    REFUSED(options.model.heads = 5, "heads");
    REFUSED(options.model.kv_heads = 3, "kv_heads");
    REFUSED(options.model.norm_eps = NAN, "norm_eps");
    REFUSED(options.model.vocabulary = MODEL_VOCABULARY_MAX + 1, "vocabulary");
    REFUSED(options.adamw.beta2 = 1.0f, "beta2");
    REFUSED(options.adamw.clip = NAN, "clip");
    REFUSED(options.schedule.peak = NAN, "peak");
    REFUSED(options.schedule.floor = 1.0f, "floor");
    REFUSED(options.schedule.warmup_tokens = 200000, "warmup");
}

/* Without warm-up the first step's m is (1 - beta1) times the gradient that AdamW saw. */
static double norm_of_first_moment(struct trainer *trainer) {
    struct buffer state = {0};
    trainer_save_optimizer(trainer, &state);
    size_t count = trainer_layout(trainer)->count;
    double squares = 0;
    for (size_t i = 0; i < count; i++) {
        float m;
        memcpy(&m, state.data + state.size - (2 * count - i) * sizeof m, sizeof m);
        squares += (double)m * (double)m;
    }
    buffer_deinit(&state);
    return sqrt(squares);
}

TEST(a_gradient_is_scaled_down_to_the_clip_and_no_further) {
    struct error error = {0};
    struct data *data = text_data(0);
    const float clips[] = {0.0f, 0.25f, 1.0f, 1e6f}; /* 0: never */
    for (size_t i = 0; i < COUNT_OF(clips); i++) {
        struct trainer_options options = small_options();
        options.adamw.clip = clips[i];
        struct trainer *trainer = make(&options);
        struct trainer_result result;
        CHECK_OK(trainer_step(trainer, data, 0, &result, &error));
        CHECK(result.gradient_norm > 1.1);
        double wanted =
            clips[i] > 0 ? fmin((double)clips[i], result.gradient_norm) : result.gradient_norm;
        CHECK_NEAR(norm_of_first_moment(trainer) / (1 - (double)options.adamw.beta1), wanted,
                   wanted * 1e-4);
        trainer_destroy(trainer);
    }
    data_close(data);
}

TEST(sequences_that_do_not_divide_by_the_shards_all_count) {
    struct error error = {0};
    struct data *data = text_data(0);
    struct trainer_result one, other;
    for (uint32_t shards = 1; shards <= 7; shards++) {
        struct trainer_options options = small_options();
        options.sequences = 7;
        options.shards = shards;
        struct trainer *trainer = make(&options);
        CHECK_OK(trainer_step(trainer, data, 0, shards == 1 ? &one : &other, &error));
        if (shards > 1) CHECK_NEAR(other.loss, one.loss, 1e-6 * one.loss);
        if (shards > 1)
            CHECK_NEAR(other.gradient_norm, one.gradient_norm, 1e-5 * one.gradient_norm);
        trainer_destroy(trainer);
    }
    data_close(data);
}

TEST(forgetting_the_optimizer_leaves_nothing_of_it_but_the_counters) {
    struct data *data = text_data(0);
    struct trainer_options options = small_options();
    for (int narrow = 0; narrow < 2; narrow++) {
        options.bf16_moments = narrow;
        struct trainer *trainer = make(&options);
        run_steps(trainer, data, 3);
        struct trainer_counters before = trainer_counters(trainer);
        trainer_reset_optimizer(trainer);
        struct trainer_counters after = trainer_counters(trainer);
        CHECK_EQUAL(after.steps, before.steps);
        CHECK_EQUAL(after.tokens, before.tokens);
        CHECK_EQUAL(after.position.index, before.position.index);
        struct buffer state = {0};
        trainer_save_optimizer(trainer, &state);
        /* at the end: the optimizer's own steps as u64, m and v */
        for (size_t at = state.size - 8 - 8 * trainer_layout(trainer)->count; at < state.size; at++)
            CHECK(state.data[at] == 0);
        buffer_deinit(&state);
        trainer_destroy(trainer);
    }
    data_close(data);
}

TEST(a_finite_loss_with_a_gradient_that_is_not_is_refused_too) {
    struct error error = {0};
    struct data *data = text_data(0);
    struct trainer_options options = small_options();
    options.model.tied = false;
    struct trainer *trainer = make(&options);
    const struct layout_tensor *head = layout_find(trainer_layout(trainer), "lm_head.weight");
    /* squares do not fit */
    for (uint64_t i = 0; i < head->count; i++)
        trainer_parameters_to_change(trainer)[head->offset + i] *= 1e25f;
    struct buffer before = state_of(trainer);
    CHECK_STATUS(trainer_step(trainer, data, 0, NULL, &error), CORRUPT);
    CHECK(!strstr(error.message, "(loss inf") && !strstr(error.message, "nan"));
    CHECK_CONTAINS(error.message, "gradient norm inf");
    struct buffer after = state_of(trainer);
    size_t size = trainer_layout(trainer)->count * sizeof(float);
    CHECK_MEMORY(after.data + after.size - 3 * size, before.data + before.size - 3 * size,
                 3 * size);
    buffer_deinit(&before);
    buffer_deinit(&after);
    trainer_destroy(trainer);
    data_close(data);
}

TEST(data_opened_for_a_larger_vocabulary_are_refused_at_the_first_token_beyond) {
    struct error error = {0};
    char *path = xformat("%s/larger.txt", test_directory());
    uint8_t bytes[300];
    memset(bytes, 100,
           sizeof bytes); /* as many as the model has tokens: the least that is beyond */
    CHECK_OK(file_write(path, bytes_of(bytes, sizeof bytes), 0600, &error));
    const struct data_options data_options = {.vocabulary = 256, .seed = 1};
    struct data *data;
    CHECK_OK(data_open((const char *const[]){path}, 1, &data_options, &data, &error));
    struct trainer_options options = small_options();
    options.model.vocabulary = 100;
    struct trainer *trainer = make(&options);
    CHECK_STATUS(trainer_step(trainer, data, 0, NULL, &error), INVALID);
    CHECK_CONTAINS(error.message, "token 100 is beyond the model's vocabulary of 100");
    trainer_destroy(trainer);
    data_close(data);
    free(path);
}
