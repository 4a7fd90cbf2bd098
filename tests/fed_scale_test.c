/* Clipping, staleness and rounding without a ledger; tests/fed_run_scale_test.c has them with one.
 */
#include "fed/scale.h"

#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "base/random.h"
#include "tests/test.h"

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

TEST(the_lower_median_is_that_of_the_sorted_values) {
    struct random random;
    random_init(&random, 7);
    for (uint32_t round = 0; round < 3000; round++) {
        double values[33], sorted[33];
        uint32_t count = 1 + (uint32_t)random_below(&random, 33);
        for (uint32_t i = 0; i < count; i++)
            values[i] = sorted[i] = floor(random_unit(&random) * 12); /* many are equal */
        qsort(sorted, count, sizeof sorted[0], ascending);
        CHECK_NEAR(lower_median(values, count), sorted[(count - 1) / 2], 0);
    }
}

static const struct clip_rules rules = {.factor = 2, .bound = 10, .minimum = 4, .age_ms = 100};

static void note_all(struct clip *clip, double norm, uint64_t time_ms) {
    for (uint32_t site = 1; site <= 4; site++) clip_note(clip, site, norm, time_ms);
}

TEST(the_bound_holds_until_there_are_enough_contributions_and_voices) {
    struct clip clip = {0};
    CHECK_NEAR(clip_limit(&clip, &rules), 10, 0);
    for (int i = 0; i < 9; i++) clip_note(&clip, 1, 1e9, 0); /* one voice, however often */
    clip_step(&clip, &rules, 0, 4);
    CHECK_NEAR(clip_limit(&clip, &rules), 10, 0);
    clip_note(&clip, 2, 3, 0);
    clip_step(&clip, &rules, 0, 4);
    CHECK_NEAR(clip_limit(&clip, &rules), 10, 0);
    clip_note(&clip, 3, 3, 0);
    clip_step(&clip, &rules, 0, 4);
    CHECK_NEAR(clip_limit(&clip, &rules), 6, 0);
    struct clip_rules off = rules;
    off.factor = 0;
    CHECK(isinf(clip_limit(&clip, &off)));
    CHECK_NEAR(clip_of(6, 6), 1, 0);
    CHECK_NEAR(clip_of(6, 24), 0.25, 0);
    CHECK_NEAR(clip_of((double)INFINITY, 1e300), 1, 0);
    clip_deinit(&clip);
}

TEST(a_step_moves_the_median_by_a_factor_of_two_and_never_to_zero) {
    struct clip clip = {0};
    note_all(&clip, 1, 0);
    clip_step(&clip, &rules, 0, 4);
    note_all(&clip, 1e9, 0);
    for (int i = 1; i <= 5; i++) {
        clip_step(&clip, &rules, 0, 4);
        CHECK_NEAR(clip.median, (double)(1 << i), 0);
    }
    note_all(&clip, 0, 0); /* a norm of zero is not a voice */
    clip_step(&clip, &rules, 0, 4);
    CHECK_NEAR(clip.median, 64, 0);
    note_all(&clip, 1e-308, 0);
    for (int i = 0; i < 2000; i++) clip_step(&clip, &rules, 0, 4);
    CHECK(clip.median > 0);
    clip_deinit(&clip);
}

TEST(a_voice_counts_for_its_age_and_none_of_a_site_that_was_silenced) {
    struct clip clip = {0};
    for (uint32_t site = 1; site <= 5; site++) clip_note(&clip, site, 1 << site, 1000 * site);
    clip_step(&clip, &rules, 2000, 5); /* of 2 to 5: later ones count, the clock may be set */
    CHECK_NEAR(clip.median, 8, 0);
    clip_silence(&clip, 5);
    clip_silence(&clip, 99);
    clip_step(&clip, &rules, 2100, 5);
    CHECK_NEAR(clip.median, 8, 0);
    clip_step(&clip, &rules, 2101, 5); /* two are too few */
    CHECK_NEAR(clip.median, 8, 0);
    clip_step(&clip, &rules, 3100, 2); /* but not of two sites */
    CHECK_NEAR(clip.median, 8, 0);
    clip_deinit(&clip);
}

TEST(norms_are_compared_as_if_all_had_as_many_steps_and_no_more_than_that_is_believed) {
    CHECK_NEAR(clip_norm(2, 15, 60), 4, 0);
    CHECK_NEAR(clip_norm(2, 60, 60), 2, 0);
    CHECK_NEAR(clip_norm(2, 600, 60), 2, 0);
    CHECK_NEAR(clip_norm(2, 0, 4), 4, 0);
    CHECK_NEAR(clip_norm(0, 1, 4), 0, 0);
}

/* 1e-300 * 1e-300 is not a double: without a guard the contribution would be scaled by zero. */
TEST(a_clip_that_underflows_stays_above_zero) { CHECK(clip_of(1e-300, 1e300) > 0); }

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
