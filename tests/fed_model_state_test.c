#include "tests/fed_fixture.h"

/* --- references, written straight from the papers' formulas, one rounding an operation --- */
#define DENSE                                                                                      \
    "outer: {mode: dense, period: %u, learning_rate: 0.7, momentum: 0.9}\ncodec.kind: "            \
    "%s\nadmission.clip_factor: 0\n"

struct reference {
    float *theta, *momentum, *sum;
    uint64_t t;
};

static float rounded(float x) {
    volatile float stored = x;
    return stored;
}

/* arXiv 2401.09135, algorithm 3 with c = 0. */
static void reference_dense(struct reference *r, const float *g, uint64_t count, uint32_t period,
                            float rate, float beta) {
    for (uint64_t i = 0; i < count; i++) {
        float share = rounded(g[i] / (float)period);
        r->sum[i] = rounded(r->sum[i] + g[i]);
        if ((r->t + 1) % period == 0) {
            r->momentum[i] =
                rounded(rounded(beta * r->momentum[i]) + rounded(r->sum[i] / (float)period));
            float move = rounded(rounded(beta * r->momentum[i]) + share);
            r->theta[i] = rounded(r->theta[i] - rounded(rate * move));
            r->sum[i] = 0;
        } else {
            r->theta[i] = rounded(r->theta[i] - rounded(rate * share));
        }
    }
    r->t++;
}

static struct reference reference_of(const struct fixture *f) {
    struct reference r = {xcalloc(f->parameters, 4), xcalloc(f->parameters, 4),
                          xcalloc(f->parameters, 4), 0};
    memcpy(r.theta, f->model.theta, f->parameters * 4);
    return r;
}

static void reference_free(struct reference *r) {
    free(r->theta);
    free(r->momentum);
    free(r->sum);
}

static char *dense_yaml(uint32_t period, const char *codec) {
    return xformat(DENSE, period, codec);
}

static struct fixture *dense_run(uint32_t period, const char *codec, uint64_t parameters) {
    char *yaml = dense_yaml(period, codec);
    struct fixture *f = fixture_open(yaml, parameters);
    free(yaml);
    return f;
}

TEST(delayed_nesterov_is_the_papers_algorithm_bit_for_bit) {
    for (uint32_t period = 1; period <= 4; period++) {
        struct fixture *f = dense_run(period, "fp32", 777);
        struct reference r = reference_of(f);
        fixture_sites(f, 3);
        for (int round = 0; round < 9; round++) {
            float *deltas[3];
            uint16_t arrivals = (uint16_t)(1 + round % 3);
            for (uint32_t s = 0; s < arrivals; s++) {
                deltas[s] = fixture_delta(f, 0, 0.1f);
                fixture_contribute_delta(f, s + 1, 0, run_state_version(f->run), deltas[s]);
            }
            fixture_step(f, 0, arrivals);
            for (uint32_t s = 0; s < arrivals; s++) {
                reference_dense(&r, deltas[s], f->parameters, period, 0.7f, 0.9f);
                free(deltas[s]);
            }
            CHECK_MEMORY(f->model.theta, r.theta, f->parameters * 4);
            CHECK_MEMORY(f->model.momentum, r.momentum, f->parameters * 4);
            CHECK_MEMORY(f->model.accumulated, r.sum, f->parameters * 4);
            CHECK_EQUAL(f->model.sums[0].count, r.t % period);
        }
        reference_free(&r);
        fixture_close(f);
    }
}

TEST(with_a_quorum_of_all_it_is_synchronous_diloco) {
    enum { K = 4, COUNT = 500 };
    struct fixture *f = dense_run(K, "fp32", COUNT);
    double theta[COUNT], momentum[COUNT] = {0};
    for (size_t i = 0; i < COUNT; i++) theta[i] = (double)f->model.theta[i];
    fixture_sites(f, K);
    for (int round = 0; round < 12; round++) {
        double mean[COUNT] = {0};
        for (uint32_t s = 1; s <= K; s++) {
            float *delta = fixture_delta(f, 0, 0.1f);
            for (size_t i = 0; i < COUNT; i++) mean[i] += (double)delta[i] / K;
            fixture_contribute_delta(f, s, 0, run_state_version(f->run), delta);
            free(delta);
        }
        fixture_step(f, 0, K);
        for (size_t i = 0; i < COUNT;
             i++) { /* Nesterov on the averaged pseudo-gradient (arXiv 2311.08105, algorithm 1) */
            momentum[i] = 0.9 * momentum[i] + mean[i];
            theta[i] -= 0.7 * (0.9 * momentum[i] + mean[i]);
        }
    }
    for (size_t i = 0; i < COUNT; i++) CHECK_NEAR(f->model.theta[i], theta[i], 2e-6);
    fixture_close(f);
}

/* Three contributions, a step each or one step of all. */
static void moves_alike(struct fixture *one, struct fixture *all) {
    fixture_sites(one, 3);
    fixture_sites(all, 3);
    for (uint32_t s = 1; s <= 3; s++) {
        fixture_contribute(one, s, 0, 0, 0.1f);
        fixture_contribute(all, s, 0, 0, 0.1f);
    }
    for (int i = 0; i < 3; i++) fixture_step(one, 0, 1);
    fixture_step(all, 0, 3);
    CHECK_MEMORY(one->model.theta, all->model.theta, 4500 * 4);
    fixture_close(one);
    fixture_close(all);
}

TEST(one_contribution_a_step_or_all_in_one_move_a_dense_model_alike) {
    moves_alike(dense_run(3, "int8", 4500), dense_run(3, "int8", 4500));
}

/* --- sparse --- */
struct sent {
    float *value;
    bool *is_sent;
};

static void note_sent(void *context, const uint64_t *index, const float *value, size_t count) {
    struct sent *sent = context;
    for (size_t i = 0; i < count; i++) {
        sent->value[index[i]] = value[i];
        sent->is_sent[index[i]] = true;
    }
}

/* Rounds of four contributions, in steps of one to four. */
TEST(a_sparse_round_moves_each_coordinate_by_its_mean_over_those_that_sent_it) {
    enum { COUNT = 10000, SITES = 4, PERIOD = 4 };
    struct fixture *f = fixture_open("outer: {learning_rate: 0.8, period: 4}\nmerge: "
                                     "{staleness_weight: polynomial}\nadmission.clip_minimum: 1\n"
                                     "admission.clip_factor: 1\n",
                                     COUNT);
    struct error error = {0};
    fixture_sites(f, SITES);
    struct sent sent = {xcalloc(COUNT, sizeof(float)), xcalloc(COUNT, sizeof(bool))};
    size_t several = 0, none = 0;
    float wanted[COUNT], sum[COUNT] = {0}, begin[COUNT];
    unsigned senders[COUNT] = {0}, in_round = 0;
    memcpy(wanted, f->model.theta, sizeof wanted);
    memcpy(begin, wanted, sizeof begin);
    for (uint32_t step = 0; step < 12; step++) {
        uint16_t parts = (uint16_t)(1 + step * 3 % SITES);
        for (uint32_t s = 1; s <= parts; s++)
            fixture_contribute(f, s, 0,
                               s == 2 && step > 0 ? run_state_version(f->run) - 1
                                                  : run_state_version(f->run),
                               0.1f * (float)s);
        struct ledger_entry planned;
        run_state_plan_step(f->run, 0, parts, &planned);
        for (uint32_t s = 0; s < parts; s++) {
            memset(sent.is_sent, 0, COUNT);
            struct bytes payload = buffer_bytes(&f->payloads[f->payload_count - parts + s].bytes);
            CHECK_OK(codec_visit(f->manifest.codec.kind, payload, COUNT, note_sent, &sent, &error));
            for (size_t i = 0; i < COUNT; i++) {
                if (!sent.is_sent[i]) continue;
                float before = senders[i] ? rounded(sum[i] / (float)senders[i]) : 0;
                sum[i] = rounded(sum[i] + rounded(planned.step.parts[s].scale * sent.value[i]));
                float after = rounded(sum[i] / (float)++senders[i]);
                wanted[i] = rounded(wanted[i] - rounded(0.8f * rounded(after - before)));
            }
            if (++in_round < PERIOD) continue;
            for (size_t i = 0; i < COUNT; i++) { /* as if all four had come at once */
                several += senders[i] > 1;
                none += senders[i] == 0;
                if (senders[i] == 0) continue;
                CHECK_NEAR(wanted[i], begin[i] - 0.8f * sum[i] / (float)senders[i], 1e-6);
            }
            memset(sum, 0, sizeof sum);
            memset(senders, 0, sizeof senders);
            memcpy(begin, wanted, sizeof begin);
            in_round = 0;
        }
        fixture_step(f, 0, parts);
        CHECK_MEMORY(f->model.theta, wanted, sizeof wanted);
        CHECK_MEMORY(f->model.accumulated, sum, sizeof sum);
        CHECK_EQUAL(f->model.sums[0].count, in_round);
    }
    CHECK(several > 5 && none > 1000);
    free(sent.value);
    free(sent.is_sent);
    fixture_close(f);
}

TEST(one_contribution_a_step_or_all_in_one_move_a_sparse_model_alike) {
    const char *yaml = "outer: {period: 3}\nadmission.clip_minimum: 1\n";
    moves_alike(fixture_open(yaml, 4500), fixture_open(yaml, 4500));
}

TEST(a_step_moves_its_own_fragment_only) {
    struct fixture *f = fixture_open("fragments: 3\n", 3 * 4096 + 100);
    fixture_sites(f, 1);
    float *before = xcalloc(f->parameters, 4);
    memcpy(before, f->model.theta, f->parameters * 4);
    for (uint32_t g = 0; g < 3; g++) {
        uint64_t start, count;
        fragment_range(f->parameters, 3, g, &start, &count);
        fixture_contribute(f, 1, g, 0, 0.1f);
        fixture_step(f, g, 1);
        CHECK_MEMORY(f->model.theta, before, start * 4);
        for (uint64_t i = 0, moved = 0; i < f->parameters; i++) {
            bool inside = i >= start && i < start + count;
            moved += f->model.theta[i] != before[i];
            if (!inside) CHECK(f->model.theta[i] == before[i]);
            if (i + 1 == f->parameters) CHECK(moved > 10);
        }
        memcpy(before, f->model.theta, f->parameters * 4);
    }
    free(before);
    fixture_close(f);
}

/* --- refusals leave everything as it was --- */
struct copy {
    struct buffer content;
    uint64_t version;
};

static struct copy copy_of(const struct model_state *model) {
    struct copy copy = {.version = model->version};
    snapshot_write(model, &copy.content);
    return copy;
}

static void check_unchanged(const struct model_state *model, struct copy *copy) {
    struct buffer now = {0};
    snapshot_write(model, &now);
    CHECK(bytes_equal(buffer_bytes(&now), buffer_bytes(&copy->content)));
    CHECK_EQUAL(model->version, copy->version);
    buffer_deinit(&now);
    buffer_deinit(&copy->content);
}

/* The caller destroys its payload. */
static struct step_input input_of(struct fixture *f, const float *delta, float scale) {
    fixture_payload_of(f, 0, delta);
    return (struct step_input){fixture_verified(f, 0), scale};
}

static void input_end(struct step_input input) {
    payload_destroy((struct verified_payload *)(uintptr_t)input.payload);
}

static void check_step_refused(struct fixture *f, uint32_t fragment, uint64_t version,
                               uint32_t count, const struct step_input *inputs, enum status wanted,
                               const char *part) {
    struct copy copy = copy_of(&f->model);
    struct error error = {0};
    uint8_t root[DIGEST_SIZE];
    CHECK_STATUS(model_state_step(&f->model, fragment, version, fixture_rules(f), count, inputs,
                                  root, &error),
                 wanted);
    CHECK_EQUAL(error.status, wanted);
    CHECK_CONTAINS(error.message, part);
    check_unchanged(&f->model, &copy);
}

static void refusals_of(const char *yaml) {
    struct fixture *f = fixture_open(yaml, 5000);
    float *delta = fixture_delta(f, 0, 0.1f);
    const struct step_input good = input_of(f, delta, 1), other = input_of(f, delta, 0.5f);
    struct step_input pair[2] = {good, other};
    check_step_refused(f, 0, 0, 1, pair, INVALID, "version 0");
    check_step_refused(f, 0, 2, 1, pair, INVALID, "version 2");
    check_step_refused(f, 1, 1, 1, pair, INVALID, "fragment 1");
    check_step_refused(f, 0, 1, 0, pair, INVALID, "0 contributions");
    check_step_refused(f, 0, 1, STEP_CONTRIBUTIONS_LIMIT + 1, pair, INVALID, "contributions");
    const float scales[] = {NAN, INFINITY, -1, -INFINITY};
    for (size_t i = 0; i < COUNT_OF(scales); i++) {
        pair[1] = other;
        pair[1].scale = scales[i];
        check_step_refused(f, 0, 1, 2, pair, CORRUPT, "part 1: its scale");
    }
    struct verified_payload *foreign = NULL;
    struct error error = {0};
    struct buffer bytes = {0};
    struct codec_encoder *encoder = NULL;
    CHECK_OK(codec_encoder_create(f->manifest.codec.kind, 4999, &encoder, &error));
    CHECK_OK(codec_encode(encoder, delta, NULL, NULL, &bytes, &error));
    CHECK_OK(payload_seal(f->manifest.codec.kind, 4999, &bytes, &foreign, &error));
    codec_encoder_destroy(encoder);
    pair[1] = (struct step_input){foreign, 1};
    check_step_refused(f, 0, 1, 2, pair, INVALID, "part 1: a payload of 4999 parameters");
    payload_destroy(foreign);
    CHECK_OK(model_state_step(&f->model, 0, 1, fixture_rules(f), 1, &good, NULL, &error));
    input_end(good);
    input_end(other);
    free(delta);
    fixture_close(f);
}

TEST(payloads_that_are_foreign_or_badly_scaled_change_nothing) {
    refusals_of("");
    refusals_of("outer: {mode: dense, period: 2}\n");
    refusals_of("outer: {mode: dense, period: 2}\ncodec.kind: fp32\n");
}

TEST(values_that_would_grow_beyond_the_finite_change_nothing) {
    const char *const yamls[] = {"outer: {mode: dense, period: 2}\ncodec.kind: fp32\n",
                                 "outer: {mode: dense, period: 2}\n", ""};
    for (size_t y = 0; y < COUNT_OF(yamls); y++) {
        struct fixture *f = fixture_open(yamls[y], 5000);
        float *delta = xcalloc(5000, sizeof *delta);
        delta[17] = 3e38f;
        struct step_input huge = input_of(f, delta, 1), both[2] = {huge, huge};
        delta[17] = 1;
        both[0] = input_of(f, delta, 1);
        struct step_input small = both[0];
        check_step_refused(f, 0, 1, 2, both, CORRUPT, "part 1: values could grow");
        f->model.theta[4000] = INFINITY; /* a model that is broken already is not stepped further */
        check_step_refused(f, 0, 1, 1, both, CORRUPT, "part 0: values could grow");
        f->model.theta[4000] = NAN;
        check_step_refused(f, 0, 1, 1, both, CORRUPT, "part 0: values could grow");
        f->model.theta[4000] = 0;
        if (f->model.accumulated) { /* nor one whose sums are broken, though they do not reach theta
                                       in this step */
            f->model.accumulated[4999] = NAN;
            check_step_refused(f, 0, 1, 1, both, CORRUPT, "part 0: values could grow");
        }
        input_end(huge);
        input_end(small);
        free(delta);
        fixture_close(f);
    }
}

TEST(sums_that_overflow_only_together_are_refused_too) {
    struct fixture *f = fixture_open("outer: {mode: dense, period: 8}\ncodec.kind: fp32\n", 16);
    float delta[16];
    for (size_t i = 0; i < 16; i++) delta[i] = 0x1p116f; /* norm 2^118 */
    struct step_input input = input_of(f, delta, 1);
    struct error error = {0};
    CHECK_OK(model_state_step(&f->model, 0, 1, fixture_rules(f), 1, &input, NULL, &error));
    check_step_refused(f, 0, 2, 1, &(struct step_input){input.payload, 2}, CORRUPT, "grow");
    CHECK(elementwise_is_finite(f->model.accumulated, 16));
    input_end(input);
    fixture_close(f);
}

TEST(memory_is_what_the_formula_says_and_too_much_of_it_fails_with_a_status) {
    struct manifest m;
    struct error error = {0};
    manifest_defaults(&m);
    CHECK_EQUAL(model_state_memory(&m, 1000), 10000 + 33);
    m.fragments = 2;
    CHECK_EQUAL(model_state_memory(&m, 600000), 6000000 + 3 * 33);
    m.fragments = 1;
    m.outer.mode = OUTER_DENSE;
    CHECK_EQUAL(model_state_memory(&m, 1000), 12000 + 33);
    struct model_state model;
    CHECK_STATUS(model_state_init(&model, &m, 0, &error), INVALID);
    CHECK_STATUS(model_state_init(&model, &m, UINT64_MAX, &error), INVALID);
}

/* --- golden values: what every machine, compiler and level must make of the same ledger --- */
static void golden_scenario(const char *yaml, const char *wanted_root, const char *wanted_tree) {
    struct fixture *f = fixture_open(yaml, 3 * 4096 + 1234);
    fixture_sites(f, 5);
    uint64_t base[6] = {0};
    for (uint64_t round = 0; round < 12; round++) {
        uint32_t fragment = (uint32_t)(round % f->manifest.fragments);
        uint16_t arrivals = (uint16_t)(1 + round % 4);
        for (uint32_t s = 0; s < arrivals; s++) {
            uint32_t site = (uint32_t)(1 + (round + s) % 5);
            fixture_contribute(f, site, fragment, base[site], round % 5 == 3 ? 2.0f : 0.05f);
        }
        fixture_step(f, fragment, arrivals);
        base[1 + round % 5] = run_state_version(f->run);
    }
    uint8_t root[DIGEST_SIZE];
    char hex[HEX32_SIZE];
    state_root(f->model.theta, f->parameters, root);
    CHECK_TEXT(hex_encode(root, DIGEST_SIZE, hex), wanted_root);
    merkle_root(run_state_tree(f->run), run_state_size(f->run), root);
    if (wanted_tree) CHECK_TEXT(hex_encode(root, DIGEST_SIZE, hex), wanted_tree);
    fixture_close(f);
}

#define GOLDEN_CLIP                                                                                \
    "admission: {clip_minimum: 3}\nmerge: {staleness_weight: polynomial, "                         \
    "staleness_exponent: 0.5}\n"

TEST(the_golden_sparse_run_has_its_committed_root) {
    golden_scenario("fragments: 2\nouter.learning_rate: 0.7\n" GOLDEN_CLIP,
                    "3ba1cac3ce308746440e5d8fb14829202a3cfb368178ec4557022f3c9de45c13",
                    NULL /* sparse messages may be packed otherwise and mean the same */);
}
TEST(the_golden_dense_int8_run_has_its_committed_root) {
    golden_scenario("outer: {mode: dense, period: 3, learning_rate: 0.7}\n" GOLDEN_CLIP,
                    "cfb11df1549e0a07365c2b6cb452266d6a132b30bdc9635f89789b56ea1f7492",
                    "7b728fce34f75eaf4c0ac44dfb888a531143449cf6d81bede59135dc301300c5");
}
TEST(the_golden_dense_fp4_run_has_its_committed_root) {
    golden_scenario("outer: {mode: dense, period: 3, learning_rate: 0.7}\ncodec.kind: "
                    "fp4\nfragments: 3\n" GOLDEN_CLIP,
                    "2c6726f8545352def731ad61b860d83ee2bc2e01f4a7560a0579d7015b14ac40",
                    "d8ceac704f26b4cf430f9ff2ec2250c4644c7f9dee09f0363bfaf70c5261ce9b");
}
