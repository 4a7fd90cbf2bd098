/* Clipping, staleness and rounding without a ledger; tests/fed_run_scale_test.c has them with one.
 */
#include "fed/scale.h"

#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "base/random.h"
#include "tests/test.h"

static struct manifest manifest_of(double factor, uint32_t size, uint32_t minimum) {
    struct manifest manifest;
    manifest_defaults(&manifest);
    manifest.admission.clip_factor = factor;
    manifest.admission.clip_window = size;
    manifest.admission.clip_minimum = minimum;
    return manifest;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

TEST(the_median_is_the_upper_one_of_the_last_norms_whatever_their_order) {
    enum { COUNT = 500, SIZE = 12 };
    struct manifest manifest = manifest_of(2, SIZE, 1);
    struct clip_window window;
    struct random random;
    double norms[COUNT];
    random_init(&random, 7);
    clip_window_init(&window, &manifest);
    for (size_t i = 0; i < COUNT; i++) {
        norms[i] = floor(random_unit(&random) * 20); /* many are equal */
        clip_window_push(&window, norms[i]);
        size_t held = MIN(i + 1, (size_t)SIZE);
        double sorted[SIZE];
        for (size_t j = 0; j < held; j++) sorted[j] = norms[i - j];
        qsort(sorted, held, sizeof sorted[0], ascending);
        CHECK_NEAR(clip_window_median(&window), sorted[held / 2], 0);
    }
    clip_window_deinit(&window);
}

TEST(nothing_is_clipped_before_the_minimum_nor_with_a_factor_of_zero_nor_by_a_median_of_zero) {
    struct manifest manifest = manifest_of(2, 8, 3);
    struct clip_window window;
    clip_window_init(&window, &manifest);
    clip_window_push(&window, 1);
    clip_window_push(&window, 1);
    CHECK_NEAR(clip_window_clip(&window, 1e9), 1, 0);
    clip_window_push(&window, 1);
    CHECK_NEAR(clip_window_clip(&window, 2), 1, 0);
    CHECK_NEAR(clip_window_clip(&window, 8), 0.25, 0);
    window.factor = 0;
    CHECK_NEAR(clip_window_clip(&window, 8), 1, 0);
    window.factor = 2;
    for (int i = 0; i < 8; i++) clip_window_push(&window, 0);
    CHECK_NEAR(clip_window_clip(&window, 8), 1, 0);
    clip_window_deinit(&window);
}

/* 1e-300 * 1e-300 is not a double: without a guard the contribution would be scaled by zero. */
TEST(a_clip_that_underflows_stays_above_zero) {
    struct manifest manifest = manifest_of(1, 1, 1);
    struct clip_window window;
    clip_window_init(&window, &manifest);
    clip_window_push(&window, 1e-300);
    CHECK(clip_window_clip(&window, 1e300) > 0);
    clip_window_deinit(&window);
}

TEST(weights_fall_with_staleness_as_the_manifest_says) {
    struct manifest manifest;
    manifest_defaults(&manifest);
    manifest.merge.staleness_weight = STALENESS_NONE;
    CHECK_NEAR(staleness_weight_of(&manifest, 99), 1, 0);
    manifest.merge.staleness_weight = STALENESS_POLYNOMIAL;
    manifest.merge.staleness_exponent = 0.5;
    CHECK_NEAR(staleness_weight_of(&manifest, 0), 1, 0);
    CHECK_NEAR(staleness_weight_of(&manifest, 3), 0.5, 0);
    manifest.merge.staleness_exponent = 1;
    CHECK_NEAR(staleness_weight_of(&manifest, 3), 0.25, 0);
}

TEST(a_scale_is_never_above_what_it_stands_for) {
    struct random random;
    random_init(&random, 3);
    for (int i = 0; i < 10000; i++) {
        double clip = random_unit(&random) + 0x1p-60, weight = random_unit(&random) + 0x1p-60;
        float scale = scale_of(clip, weight);
        CHECK((double)scale <= clip * weight);
        CHECK((double)nextafterf(scale, 2) > clip * weight);
    }
}
