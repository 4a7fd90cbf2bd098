/* For the kernels' tests: reproducible values, guarded arrays, and a comparison with a reference in
 * double that NaN fails. Bounds are in units of the operation's own rounding: a result may differ
 * by `ulps` * 2^-24 times the sum of the magnitudes that went into it, which the reference hands
 * over as `weight`. */
#ifndef TESTS_KERNELS_REFERENCE_H
#define TESTS_KERNELS_REFERENCE_H

#include "base/memory.h"
#include "base/random.h"
#include "kernels/kernels.h"
#include "tests/test.h"

#define FOR_ALL_TABLES(k) for (size_t table_ = 0; (k = kernels_at(table_)); table_++)

/* In (-scale, scale), from a seed. */
static inline float sample(uint64_t seed, uint64_t index, float scale) {
    return ((float)(random_hash(seed, index) >> 40) / 8388608.0f - 1.0f) * scale;
}

enum { GUARD = 64 };
/* A NaN: what reads beyond an array and lets it count is found too. */
static const uint32_t guard_bits = 0x7fc12345;
static inline bool is_guard(const float *value) {
    return memcmp(value, &guard_bits, sizeof guard_bits) == 0;
}

/* `count` floats with a guard after them that guarded_free checks; starts one float off alignment,
 * as tensors do. */
static inline float *guarded(size_t count) {
    float *memory = xmalloc((count + GUARD + 1) * sizeof *memory);
    for (size_t i = 0; i < count + GUARD + 1; i++)
        memcpy(&memory[i], &guard_bits, sizeof guard_bits);
    return memory + 1;
}
static inline float *guarded_samples(size_t count, uint64_t seed, float scale) {
    float *values = guarded(count);
    for (size_t i = 0; i < count; i++) values[i] = sample(seed, i, scale);
    return values;
}
static inline void guarded_free(float *values, size_t count) {
    CHECK(is_guard(values - 1));
    for (size_t i = 0; i < GUARD; i++) CHECK(is_guard(values + count + i));
    free(values - 1);
}

static inline void check_close(const char *table, const char *what, size_t index, double got,
                               double wanted, double weight, double ulps) {
    if (!(fabs(got - wanted) <= ulps * 0x1p-24 * weight + 1e-37))
        test_failed(__FILE__, __LINE__, "%s %s[%zu] is %.9g, wanted %.9g; off by %.3g, bound %.3g",
                    table, what, index, got, wanted, fabs(got - wanted), ulps * 0x1p-24 * weight);
}

/* bfloat16 inputs have 8 bits of fraction: their products are 2^15 times as far off as fp32's. */
static inline double product_ulps(const struct kernels *k, double ulps) {
    return strstr(k->name, "bf16") || strstr(k->name, "amx") ? ulps + 0x1p17 : ulps;
}

#endif
