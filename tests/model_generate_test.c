#include "model/generate.h"

#include "base/memory.h"
#include "tests/model_golden.h"

static struct golden golden;
static struct layout layout;

static void setup(void) {
    struct error error = {0};
    golden = golden_read("tied_gqa");
    CHECK_OK(layout_init(&golden.config, &layout, &error));
}

static void teardown(void) {
    golden_free(&golden);
    layout_deinit(&layout);
}

static void sample(struct generate_options options, uint32_t out[static 20]) {
    struct error error = {0};
    CHECK_OK(generate(&layout, golden.parameters, &options, golden.tokens, 5, out, 20, &error));
    for (int i = 0; i < 20; i++) CHECK(out[i] < golden.config.vocabulary);
}

TEST(greedy_generation_takes_the_most_likely_golden_token) {
    setup();
    uint32_t out[20];
    sample((struct generate_options){.temperature = 0, .top_p = 1}, out);
    const float *logits = golden.logits + 4 * golden.config.vocabulary;
    for (uint32_t j = 0; j < golden.config.vocabulary; j++) CHECK(logits[j] <= logits[out[0]]);
    uint32_t again[20];
    sample((struct generate_options){.temperature = 5, .top_k = 1, .top_p = 1, .seed = 3}, again);
    CHECK_MEMORY(out, again, sizeof out);
    sample((struct generate_options){.temperature = 1, .top_p = 1e-9f, .seed = 3}, again);
    CHECK_MEMORY(out, again, sizeof out);
    teardown();
}

TEST(a_seed_gives_the_same_tokens_and_another_seed_others) {
    setup();
    uint32_t one[20], two[20];
    struct generate_options options = {.temperature = 1, .top_p = 1, .seed = 1};
    sample(options, one);
    sample(options, two);
    CHECK_MEMORY(one, two, sizeof one);
    options.seed = 2;
    sample(options, two);
    CHECK(memcmp(one, two, sizeof one) != 0);
    teardown();
}

TEST(sampled_frequencies_follow_the_golden_softmax) {
    setup();
    enum { ROUNDS = 2000 };
    struct error error = {0};
    int counts[64] = {0};
    for (uint64_t seed = 0; seed < ROUNDS; seed++) {
        uint32_t out;
        CHECK_OK(generate(&layout, golden.parameters, &(struct generate_options){.temperature = 1, .top_p = 1, .seed = seed},
                          golden.tokens, 5, &out, 1, &error));
        counts[out]++;
    }
    double sum = 0;
    const float *logits = golden.logits + 4 * golden.config.vocabulary;
    for (uint32_t j = 0; j < golden.config.vocabulary; j++) sum += exp((double)logits[j]);
    for (uint32_t j = 0; j < golden.config.vocabulary; j++) {
        double p = exp((double)logits[j]) / sum;
        CHECK_NEAR(counts[j] / (double)ROUNDS, p, 4 * sqrt(p * (1 - p) / ROUNDS) + 1e-3);
    }
    teardown();
}

TEST(impossible_requests_are_refused) {
    setup();
    struct error error = {0};
    uint32_t out[40], bad = 19;
    struct generate_options options = GENERATE_DEFAULTS;
    CHECK_STATUS(generate(&layout, golden.parameters, &options, golden.tokens, 0, out, 1, &error), INVALID);
    CHECK_STATUS(generate(&layout, golden.parameters, &options, golden.tokens, 5, out, 28, &error), INVALID);
    CHECK_CONTAINS(error.message, "context is 32");
    CHECK_STATUS(generate(&layout, golden.parameters, &options, &bad, 1, out, 1, &error), INVALID);
    options.temperature = NAN;
    CHECK_STATUS(generate(&layout, golden.parameters, &options, golden.tokens, 5, out, 1, &error), INVALID);
    options = (struct generate_options){.temperature = 1, .top_p = 0};
    CHECK_STATUS(generate(&layout, golden.parameters, &options, golden.tokens, 5, out, 1, &error), INVALID);
    golden.parameters[golden.tokens[0] * 16] = NAN;
    options = (struct generate_options)GENERATE_DEFAULTS;
    CHECK_STATUS(generate(&layout, golden.parameters, &options, golden.tokens, 5, out, 1, &error), CORRUPT);
    teardown();
}
