#include "kernels/elementwise.h"

#include "base/memory.h"
#include "base/random.h"
#include "tests/test.h"

static const size_t sizes[] = {0, 1, 31, 32, 33, 1023, 1025, 4095, 4096, 4097, 1000003};

static float *randoms(size_t count, uint64_t seed) {
    struct random random;
    random_init(&random, seed);
    float *x = xmalloc((count + 1) * sizeof *x);
    for (size_t i = 0; i < count; i++)
        x[i] = (float)(random_unit(&random) * 4 - 2) * (random_below(&random, 50) ? 1.0f : 1e-39f);
    x[count] = 12345.0f; /* a guard */
    return x;
}

static uint64_t digest_add(uint64_t digest, const void *data, size_t size) { /* FNV-1a, 64 bit */
    for (size_t i = 0; i < size; i++)
        digest = (digest ^ ((const uint8_t *)data)[i]) * 0x100000001b3ull;
    return digest;
}

/* A volatile store rounds, whatever the compiler would like to fuse or keep wider. */
static float rounded(float value) {
    volatile float stored = value;
    return stored;
}

TEST(every_operation_rounds_once_in_the_documented_order) {
    for (size_t s = 0; s < COUNT_OF(sizes); s++) {
        size_t count = sizes[s];
        float *a = randoms(count, 1), *b = randoms(count, 2), *c = randoms(count, 3),
              *d = randoms(count, 4);
        float *p = randoms(count, 1), *q = randoms(count, 2), *r = randoms(count, 3);

        elementwise_subtract(p, a, b, count);
        elementwise_add(q, a, b, count);
        elementwise_scale(r, a, 0.3f, count);
        for (size_t i = 0; i < count; i++)
            CHECK(p[i] == rounded(a[i] - b[i]) && q[i] == rounded(a[i] + b[i]) &&
                  r[i] == rounded(0.3f * a[i]));

        elementwise_copy(p, a, count);
        elementwise_copy(q, a, count);
        elementwise_copy(r, a, count);
        elementwise_add_scaled(p, b, 0.7f, count);
        elementwise_feedback(q, b, 0.95f, count);
        elementwise_rebase(r, b, c, count);
        for (size_t i = 0; i < count; i++) {
            CHECK(p[i] == rounded(a[i] + rounded(0.7f * b[i])));
            CHECK(q[i] == rounded(rounded(0.95f * a[i]) + b[i]));
            CHECK(r[i] == rounded(b[i] + rounded(a[i] - c[i])));
        }

        /* theta a, momentum b, sum c, g d */
        elementwise_copy(p, a, count);
        elementwise_copy(r, c, count);
        elementwise_nesterov_between(p, r, d, 0.7f, 3.0f, count);
        for (size_t i = 0; i < count; i++) {
            CHECK(r[i] == rounded(c[i] + d[i]));
            CHECK(p[i] == rounded(a[i] - rounded(0.7f * rounded(d[i] / 3.0f))));
        }
        elementwise_copy(p, a, count);
        elementwise_copy(q, b, count);
        elementwise_copy(r, c, count);
        elementwise_nesterov_end(p, q, r, d, 0.7f, 0.9f, 3.0f, count);
        for (size_t i = 0; i < count; i++) {
            float m = rounded(rounded(0.9f * b[i]) + rounded(rounded(c[i] + d[i]) / 3.0f));
            CHECK(q[i] == m && r[i] == 0.0f);
            CHECK(p[i] == rounded(a[i] - rounded(0.7f * rounded(rounded(0.9f * m) +
                                                                rounded(d[i] / 3.0f)))));
        }

        elementwise_copy(p, a, count);
        elementwise_sgd(p, b, 0.7f, count);
        for (size_t i = 0; i < count; i++) CHECK(p[i] == rounded(a[i] - rounded(0.7f * b[i])));
        CHECK(p[count] == 12345.0f && q[count] == 12345.0f && r[count] == 12345.0f);
        free(a), free(b), free(c), free(d), free(p), free(q), free(r);
    }
}

/* Nobody's: not even a negative zero changes its sign. */
TEST(a_round_moves_what_was_sent_to_its_mean_so_far_and_nothing_else) {
    float theta[4] = {-0.0f, 1.5f, 5.0f, 1e-45f}, sum[4] = {0, 0, 3, 0};
    uint16_t senders[4] = {0, 0, 2, 0};
    const uint16_t index[] = {1, 2};
    const float value[] = {10, 0.7f};
    elementwise_scatter_mean(theta, sum, senders, index, value, 0.3f, 0.7f, 2);
    float new = rounded(0.3f * 10.0f), more = rounded(3.0f + rounded(0.3f * 0.7f));
    CHECK(signbit(theta[0]) && theta[0] == 0 && theta[3] == 1e-45f);
    CHECK(theta[1] == rounded(1.5f - rounded(0.7f * new)) && sum[1] == new);
    CHECK(theta[2] ==
          rounded(5.0f - rounded(0.7f * rounded(rounded(more / 3.0f) - rounded(3.0f / 2.0f)))));
    CHECK(sum[0] == 0 && sum[2] == more && sum[3] == 0);
    CHECK(senders[0] == 0 && senders[1] == 1 && senders[2] == 3 && senders[3] == 0);
}

TEST(one_bad_element_anywhere_is_not_finite) {
    const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    for (size_t s = 0; s < COUNT_OF(sizes) - 1; s++) {
        float *x = randoms(sizes[s], s);
        CHECK(elementwise_is_finite(x, sizes[s]));
        for (size_t i = 0; i < sizes[s]; i += 1 + sizes[s] / 40) {
            float kept = x[i];
            x[i] = bad[i % 4];
            CHECK(!elementwise_is_finite(x, sizes[s]));
            x[i] = kept;
        }
        if (sizes[s] > 0) x[sizes[s] - 1] = NAN;
        CHECK(elementwise_is_finite(x, sizes[s]) == (sizes[s] == 0));
        free(x);
    }
}

/* The header's words, element by element. */
static double norm_by_the_book(const float *x, size_t count) {
    double total = 0;
    for (size_t block = 0; block < count; block += 4096) {
        volatile double lane[16] = {0};
        for (size_t i = block; i < count && i < block + 4096; i++)
            lane[i % 16] = lane[i % 16] + (double)x[i] * (double)x[i];
        for (int j = 0; j < 8; j++) lane[j] = lane[j] + lane[j + 8];
        for (int j = 0; j < 4; j++) lane[j] = lane[j] + lane[j + 4];
        for (int j = 0; j < 2; j++) lane[j] = lane[j] + lane[j + 2];
        total = total + (lane[0] + lane[1]);
    }
    return total;
}

TEST(the_norm_is_summed_in_the_documented_tree) {
    for (size_t s = 0; s < COUNT_OF(sizes); s++) {
        float *x = randoms(sizes[s], s);
        CHECK(elementwise_norm_squared(x, sizes[s]) == norm_by_the_book(x, sizes[s]));
        free(x);
    }
    float huge[2] = {3.4028235e38f, 3.4028235e38f};
    CHECK(isfinite(elementwise_norm_squared(huge, 2)));
    CHECK(elementwise_norm_squared(huge, 0) == 0);
}

TEST(a_sparse_blocks_norm_has_the_dense_ones_bits) {
    float *x = randoms(ELEMENTWISE_BLOCK, 7), *dense = xcalloc(ELEMENTWISE_BLOCK, sizeof *dense);
    float value[ELEMENTWISE_BLOCK];
    uint16_t index[ELEMENTWISE_BLOCK];
    static const unsigned every[] = {1, 2, 3, 16, 31, 64, 4096};
    for (size_t e = 0; e < COUNT_OF(every); e++) {
        size_t sent = 0;
        memset(dense, 0, ELEMENTWISE_BLOCK * sizeof *dense);
        for (unsigned i = every[e] - 1; i < ELEMENTWISE_BLOCK; i += every[e]) {
            index[sent] = (uint16_t)i;
            value[sent++] = dense[i] = i % 5 == 0 ? -0.0f : x[i];
        }
        CHECK(sent > 0);
        CHECK(elementwise_norm_squared_at(index, value, sent) ==
              elementwise_norm_squared(dense, ELEMENTWISE_BLOCK));
    }
    CHECK(elementwise_norm_squared_at(index, value, 0) == 0);
    free(x), free(dense);
}

/* The constant was written by gcc at -O0 on x86-64; every other build must arrive at it. */
TEST(results_have_the_same_bits_everywhere) {
    enum { COUNT = 50021 };
    float *a = randoms(COUNT, 1), *b = randoms(COUNT, 2), *c = randoms(COUNT, 3),
          *d = randoms(COUNT, 4);
    uint64_t digest = 0xcbf29ce484222325ull;
    for (int round = 0; round < 5; round++) {
        elementwise_nesterov_between(a, c, d, 0.7f, 5.0f, COUNT);
        elementwise_nesterov_end(a, b, c, d, 0.7f, 0.9f, 5.0f, COUNT);
        elementwise_feedback(d, a, 0.95f, COUNT);
        elementwise_add_scaled(b, d, 0.123f, COUNT);
        elementwise_rebase(d, a, b, COUNT);
        elementwise_sgd(a, d, 0.7f, COUNT);
        double norm = elementwise_norm_squared(a, COUNT);
        digest = digest_add(digest, &norm, sizeof norm);
        digest = digest_add(digest, a, COUNT * sizeof *a);
        digest = digest_add(digest, b, COUNT * sizeof *b);
        digest = digest_add(digest, d, COUNT * sizeof *d);
    }
    if (digest != 0x5e0443ca85935816ull)
        test_failed(__FILE__, __LINE__, "digest 0x%016llx", (unsigned long long)digest);
    free(a), free(b), free(c), free(d);
}
