/* A step and its root have the same bits for any number of threads, and what is kept from step to
 * step (leaves of the root, bounds on lengths) changes nothing of what comes out. */
#include <math.h>

#include "base/memory.h"
#include "base/random.h"
#include "base/thread_pool.h"
#include "fed/manifest.h"
#include "fed/model_state.h"
#include "tests/test.h"

enum { PARAMETERS = 1500007, FRAGMENTS = 2, STEPS = 5, PARTS = 3 };

/* Of several scales, as tensors are, so that a stretch begins with a shift that is not 0. */
static float *drawn(size_t count, uint64_t seed) {
    float *x = xcalloc(count, sizeof *x);
    struct random random;
    random_init(&random, seed);
    for (size_t i = 0; i < count; i++) {
        double value = random_unit(&random) - 0.5;
        x[i] = (float)(value * value * value) * (float)(1 << i / 100003 % 7);
    }
    return x;
}

static struct verified_payload *payload_drawn(enum codec codec, size_t count, uint64_t seed) {
    struct codec_encoder *encoder = NULL;
    struct verified_payload *payload = NULL;
    struct buffer message = {0};
    struct error error = {0};
    float *x = drawn(count, seed);
    CHECK_OK(codec_encoder_create(codec, count, &encoder, &error));
    CHECK_OK(codec_encode(encoder, x, NULL, NULL, &message, &error));
    CHECK_OK(payload_seal(codec, count, &message, &payload, &error));
    codec_encoder_destroy(encoder);
    buffer_deinit(&message);
    free(x);
    return payload;
}

struct outcome {
    struct model_state model;
    uint8_t roots[STEPS][DIGEST_SIZE];
};

static void model_open(struct model_state *model, enum codec codec) {
    struct manifest manifest;
    struct error error = {0};
    manifest_defaults(&manifest);
    manifest.fragments = FRAGMENTS;
    manifest.outer.mode = codec_is_sparse(codec) ? OUTER_SPARSE : OUTER_DENSE;
    CHECK_OK(model_state_init(model, &manifest, PARAMETERS, &error));
    float *theta = drawn(PARAMETERS, 1);
    memcpy(model->theta, theta, PARAMETERS * sizeof *theta);
    free(theta);
}

static void take_steps(struct outcome *out, enum codec codec) {
    struct error error = {0};
    const struct step_rules rules = {.rate = 0.7f, .period = 4};
    for (uint64_t step = 0; step < STEPS; step++) {
        uint64_t start, count;
        uint32_t fragment = step % FRAGMENTS;
        struct step_input inputs[PARTS];
        struct verified_payload *payloads[PARTS];
        fragment_range(PARAMETERS, FRAGMENTS, fragment, &start, &count);
        for (uint32_t i = 0; i < PARTS; i++) {
            payloads[i] = payload_drawn(codec, (size_t)count, 10 * step + i);
            inputs[i] = (struct step_input){payloads[i], i == 1 ? 0.37f : 1.0f};
        }
        CHECK_OK(model_state_step(&out->model, fragment, step + 1, &rules, PARTS, inputs,
                                  out->roots[step], &error));
        for (uint32_t i = 0; i < PARTS; i++) payload_destroy(payloads[i]);
        uint8_t root[DIGEST_SIZE];
        state_root(out->model.theta, PARAMETERS, root);
        CHECK_MEMORY(out->roots[step], root, DIGEST_SIZE);
    }
}

static void compare(const struct outcome *a, const struct outcome *b) {
    CHECK_MEMORY(a->roots, b->roots, sizeof a->roots);
    CHECK_MEMORY(a->model.theta, b->model.theta, PARAMETERS * sizeof(float));
    CHECK_MEMORY(a->model.accumulated, b->model.accumulated, PARAMETERS * sizeof(float));
    if (a->model.momentum)
        CHECK_MEMORY(a->model.momentum, b->model.momentum, PARAMETERS * sizeof(float));
    else
        CHECK_MEMORY(a->model.senders, b->model.senders, PARAMETERS * sizeof(uint16_t));
}

static void check_threads(enum codec codec) {
    static const uint32_t workers[] = {1, 2, 3, 8};
    struct outcome alone;
    struct error error = {0};
    model_open(&alone.model, codec);
    take_steps(&alone, codec);
    for (size_t i = 0; i < COUNT_OF(workers); i++) {
        struct thread_pool *pool = NULL;
        struct outcome shared;
        CHECK_OK(thread_pool_create("step", workers[i], &pool, &error));
        CHECK_EQUAL(thread_pool_workers(pool), workers[i]);
        model_open(&shared.model, codec);
        shared.model.pool = pool;
        take_steps(&shared, codec);
        compare(&alone, &shared);
        model_state_deinit(&shared.model);
        thread_pool_destroy(pool);
    }
    model_state_deinit(&alone.model);
}

TEST(a_sparse_step_has_the_same_bits_for_any_number_of_threads) {
    check_threads(CODEC_TOPK2_64);
    check_threads(CODEC_TOPK2_128);
}

TEST(a_dense_step_has_the_same_bits_for_any_number_of_threads) {
    check_threads(CODEC_INT8);
    check_threads(CODEC_FP4);
}

TEST(a_bound_that_does_not_suffice_is_replaced_by_the_length) {
    struct outcome plain, bounded;
    model_open(&plain.model, CODEC_INT8);
    model_open(&bounded.model, CODEC_INT8);
    for (uint32_t fragment = 0; fragment < FRAGMENTS; fragment++)
        bounded.model.bounds[fragment] = (struct model_bounds){.known = true, .theta = 0x1p121};
    take_steps(&plain, CODEC_INT8);
    take_steps(&bounded, CODEC_INT8);
    compare(&plain, &bounded);
    CHECK(bounded.model.bounds[0].theta < 1e9);
    model_state_deinit(&plain.model);
    model_state_deinit(&bounded.model);
}

/* Each part is a little more than half of what the last bit of theta counts, so each is rounded up
 * to twice of it. */
TEST(a_bound_holds_after_many_parts_that_are_all_rounded_up) {
    enum { MANY = STEP_CONTRIBUTIONS_LIMIT, PERIOD = 2 * MANY };
    struct model_state model;
    struct manifest manifest;
    struct step_input inputs[MANY];
    struct buffer message = {0};
    struct verified_payload *payload = NULL;
    struct codec_encoder *encoder = NULL;
    struct error error = {0};
    const struct step_rules rules = {.rate = 1, .period = PERIOD};
    const float delta = -0x1.001p95f * PERIOD;
    manifest_defaults(&manifest);
    manifest.outer.mode = OUTER_DENSE;
    CHECK_OK(model_state_init(&model, &manifest, 1, &error));
    model.theta[0] = 0x1p119f;
    CHECK_OK(codec_encoder_create(CODEC_FP32, 1, &encoder, &error));
    CHECK_OK(codec_encode(encoder, &delta, NULL, NULL, &message, &error));
    CHECK_OK(payload_seal(CODEC_FP32, 1, &message, &payload, &error));
    for (size_t i = 0; i < MANY; i++) inputs[i] = (struct step_input){payload, 1};
    CHECK_OK(model_state_step(&model, 0, 1, &rules, MANY, inputs, NULL, &error));
    CHECK(model.theta[0] == 0x1p119f + MANY * 0x1p96f);
    CHECK(model.bounds[0].theta >= (double)model.theta[0]);
    CHECK(model.bounds[0].accumulated >= -(double)model.accumulated[0]);
    payload_destroy(payload);
    codec_encoder_destroy(encoder);
    model_state_deinit(&model);
}

TEST(who_writes_the_parameters_says_so_and_the_root_follows) {
    struct outcome out;
    uint8_t root[DIGEST_SIZE];
    model_open(&out.model, CODEC_TOPK2_64);
    take_steps(&out, CODEC_TOPK2_64);
    out.model.theta[700000] += 1.0f;
    model_state_changed(&out.model);
    model_state_root(&out.model, root);
    CHECK(memcmp(root, out.roots[STEPS - 1], DIGEST_SIZE) != 0);
    state_root(out.model.theta, PARAMETERS, out.roots[0]);
    CHECK_MEMORY(root, out.roots[0], DIGEST_SIZE);
    model_state_deinit(&out.model);
}

/* With error feedback, twice, so that what the first message left is in the second. */
static void encode_twice(enum codec codec, struct thread_pool *pool, struct buffer *messages,
                         float *e) {
    struct codec_encoder *encoder = NULL;
    struct error error = {0};
    float *base = drawn(PARAMETERS, 3), *local = drawn(PARAMETERS, 4);
    CHECK_OK(codec_encoder_create(codec, PARAMETERS, &encoder, &error));
    codec_encoder_share(encoder, pool);
    CHECK_OK(codec_encode(encoder, base, local, e, messages, &error));
    CHECK_OK(codec_encode(encoder, local, NULL, e, messages, &error));
    size_t size = messages->size;
    base[1200000] = base[700000] = NAN;
    CHECK_STATUS(codec_encode(encoder, base, NULL, e, messages, &error), INVALID);
    CHECK_CONTAINS(error.message, "element 700000 ");
    CHECK_EQUAL(messages->size, size);
    codec_encoder_destroy(encoder);
    free(base);
    free(local);
}

TEST(a_message_has_the_same_bytes_for_any_number_of_threads) {
    struct error error = {0};
    for (int codec = CODEC_FP32; codec_is_known(codec); codec++) {
        struct buffer alone = {0};
        float *e = xcalloc(PARAMETERS, sizeof *e);
        encode_twice((enum codec)codec, NULL, &alone, e);
        for (uint32_t workers = 2; workers <= 5; workers += 3) {
            struct thread_pool *pool = NULL;
            struct buffer shared = {0};
            float *left = xcalloc(PARAMETERS, sizeof *left);
            CHECK_OK(thread_pool_create("encode", workers, &pool, &error));
            encode_twice((enum codec)codec, pool, &shared, left);
            CHECK_EQUAL(shared.size, alone.size);
            CHECK_MEMORY(shared.data, alone.data, alone.size);
            CHECK_MEMORY(left, e, PARAMETERS * sizeof *e);
            buffer_deinit(&shared);
            free(left);
            thread_pool_destroy(pool);
        }
        buffer_deinit(&alone);
        free(e);
    }
}

TEST(a_message_by_stretches_is_the_whole_message) {
    struct error error = {0};
    for (int codec = CODEC_FP32; codec_is_known(codec); codec++) {
        struct verified_payload *payload = payload_drawn((enum codec)codec, PARAMETERS, 5);
        float *whole = xcalloc(PARAMETERS, sizeof *whole), *parts = xcalloc(PARAMETERS, 4);
        CHECK_OK(
            codec_decode((enum codec)codec, payload_bytes(payload), PARAMETERS, whole, &error));
        for (size_t i = codec_stretches(PARAMETERS); i-- > 0;) {
            struct codec_stretch stretch = payload_stretch(payload, i);
            codec_decode_stretch((enum codec)codec, payload_bytes(payload), PARAMETERS, stretch,
                                 parts + stretch.first);
        }
        CHECK_MEMORY(parts, whole, PARAMETERS * sizeof *whole);
        payload_destroy(payload);
        free(whole);
        free(parts);
    }
}
