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
        CHECK_OK(generate(&layout, golden.parameters,
                          &(struct generate_options){.temperature = 1, .top_p = 1, .seed = seed},
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
    CHECK_STATUS(generate(&layout, golden.parameters, &options, golden.tokens, 0, out, 1, &error),
                 INVALID);
    CHECK_STATUS(generate(&layout, golden.parameters, &options, golden.tokens, 5, out, 28, &error),
                 INVALID);
    CHECK_CONTAINS(error.message, "context is 32");
    CHECK_STATUS(generate(&layout, golden.parameters, &options, &bad, 1, out, 1, &error), INVALID);
    options.temperature = NAN;
    CHECK_STATUS(generate(&layout, golden.parameters, &options, golden.tokens, 5, out, 1, &error),
                 INVALID);
    options = (struct generate_options){.temperature = 1, .top_p = 0};
    CHECK_STATUS(generate(&layout, golden.parameters, &options, golden.tokens, 5, out, 1, &error),
                 INVALID);
    golden.parameters[golden.tokens[0] * 16] = NAN;
    options = (struct generate_options)GENERATE_DEFAULTS;
    CHECK_STATUS(generate(&layout, golden.parameters, &options, golden.tokens, 5, out, 1, &error),
                 CORRUPT);
    teardown();
}

/* The chance of each token by the definition, for a temperature. */
TEST(a_temperature_flattens_the_golden_softmax) {
    setup();
    enum { ROUNDS = 2000 };
    struct error error = {0};
    const float *logits = golden.logits + 4 * golden.config.vocabulary;
    int counts[64] = {0};
    for (uint64_t seed = 0; seed < ROUNDS; seed++) {
        uint32_t out;
        const struct generate_options options = {.temperature = 3, .top_p = 1, .seed = seed};
        CHECK_OK(generate(&layout, golden.parameters, &options, golden.tokens, 5, &out, 1, &error));
        counts[out]++;
    }
    double sum = 0, spread = 0, wanted = 0;
    for (uint32_t j = 0; j < golden.config.vocabulary; j++) sum += exp((double)logits[j] / 3);
    for (uint32_t j = 0; j < golden.config.vocabulary; j++) {
        double p = exp((double)logits[j] / 3) / sum;
        CHECK_NEAR(counts[j] / (double)ROUNDS, p, 4 * sqrt(p * (1 - p) / ROUNDS) + 1e-3);
        spread += counts[j] * (double)logits[j] / ROUNDS, wanted += p * (double)logits[j];
    }
    CHECK_NEAR(spread, wanted, 0.1);
    teardown();
}

TEST(of_tokens_that_are_equally_likely_no_more_are_kept_than_top_p_and_top_k_allow) {
    setup();
    struct error error = {0};
    uint32_t out, half = golden.config.vocabulary / 2, seen = 0;
    float *zeroes = xcalloc(layout.count, sizeof *zeroes); /* every logit is 0 */
    for (uint64_t seed = 0; seed < 400; seed++) {
        struct generate_options options = {.temperature = 1, .top_p = 0.5f, .seed = seed};
        CHECK_OK(generate(&layout, zeroes, &options, golden.tokens, 1, &out, 1, &error));
        CHECK(out < (golden.config.vocabulary + 1) / 2);
        seen = MAX(seen, out);
        options = (struct generate_options){.temperature = 1, .top_p = 1, .top_k = 3, .seed = seed};
        CHECK_OK(generate(&layout, zeroes, &options, golden.tokens, 1, &out, 1, &error));
        CHECK(out < 3);
        options =
            (struct generate_options){.temperature = 1, .top_p = 0.5f, .top_k = 4, .seed = seed};
        CHECK_OK(generate(&layout, zeroes, &options, golden.tokens, 1, &out, 1, &error));
        CHECK(out < 2); /* two of four are half of the chance: a third is not needed */
    }
    CHECK(seen + 1 >= half); /* and none of them is left out */
    free(zeroes);
    teardown();
}

TEST(a_generator_reads_up_to_its_limit_and_has_none_beyond_the_context) {
    setup();
    struct error error = {0};
    struct generator *generator = NULL;
    const float *logits;
    CHECK_STATUS(generator_create(&layout, golden.parameters, 0, NULL, &generator, &error),
                 INVALID);
    CHECK_STATUS(generator_create(&layout, golden.parameters, golden.config.context + 1, NULL,
                                  &generator, &error),
                 INVALID);
    CHECK_CONTAINS(error.message, "33 tokens; the model's context is 32");
    CHECK_OK(generator_create(&layout, golden.parameters, 3, NULL, &generator, &error));
    CHECK_STATUS(generator_read(generator, golden.config.vocabulary, &logits, &error), INVALID);
    for (int i = 0; i < 3; i++)
        CHECK_OK(generator_read(generator, golden.tokens[i], &logits, &error));
    CHECK_STATUS(generator_read(generator, golden.tokens[3], &logits, &error), INVALID);
    CHECK_CONTAINS(error.message, "limit of 3");
    generator_destroy(generator);
    teardown();
}
