/* The outer rate by the federation: the table of fed/outer_rate.h, and its edges. */
#include "fed/outer_rate.h"

#include "tests/test.h"

static double sparse(uint32_t present, uint32_t parts) {
    return outer_rate_factor(OUTER_SPARSE, present, parts);
}

TEST(a_step_of_one_part_moves_the_model_by_four_over_the_sites_that_are_present) {
    for (uint32_t k = 0; k <= 4; k++) CHECK_NEAR(sparse(k, 1), 1, 0);
    CHECK_NEAR(sparse(5, 1), 0.8, 0);
    CHECK_NEAR(sparse(8, 1), 0.5, 0);
    CHECK_NEAR(sparse(16, 1), 0.25, 0);
    CHECK_NEAR(sparse(4096, 1), 0x1p-10, 0);
}

TEST(the_more_of_the_sites_a_step_has_the_more_of_it_counts_and_all_of_them_count_whole) {
    CHECK_NEAR(sparse(8, 2), 0.5 + 0.5 / 7, 1e-15);
    CHECK_NEAR(sparse(16, 4), 0.4, 1e-15);
    CHECK_NEAR(sparse(32, 4), 0.125 + 0.875 * 3 / 31, 1e-15);
    for (uint32_t k = 1; k <= 256; k++) CHECK_NEAR(sparse(k, k), 1, 0);
}

TEST(parts_of_sites_that_are_away_by_now_count_as_present) {
    CHECK_NEAR(sparse(1, 3), 1, 0);
    CHECK_NEAR(sparse(0, 256), 1, 0);
    CHECK_NEAR(sparse(UINT32_MAX, UINT32_MAX), 1, 0);
    CHECK(sparse(UINT32_MAX, 1) > 0);
}

TEST(more_sites_never_make_a_step_larger_and_more_parts_never_make_it_smaller) {
    for (uint32_t k = 1; k < 300; k++) {
        for (uint32_t n = 1; n < 40; n++) {
            CHECK(sparse(k + 1, n) <= sparse(k, n));
            CHECK(sparse(k, n + 1) >= sparse(k, n));
        }
    }
}

TEST(dense_mode_divides_by_its_period_and_has_a_rate_by_the_length_of_a_round) {
    CHECK_NEAR(outer_rate_factor(OUTER_DENSE, 16, 1), 1, 0);
    CHECK_NEAR(outer_rate_default(OUTER_DENSE, 30), 0.4, 0);
    CHECK_NEAR(outer_rate_default(OUTER_DENSE, 20), 0.4, 0);
    CHECK_NEAR(outer_rate_default(OUTER_DENSE, 15), 0.3, 0);
    CHECK_NEAR(outer_rate_default(OUTER_DENSE, 8), 0.16, 0);
    CHECK_NEAR(outer_rate_default(OUTER_DENSE, 1), 0.1, 0);
    CHECK_NEAR(outer_rate_default(OUTER_SPARSE, 8), 1, 0);
    CHECK_EQUAL(outer_period_default(OUTER_DENSE, 0), 1);
    CHECK_EQUAL(outer_period_default(OUTER_DENSE, 16), 16);
    CHECK_EQUAL(outer_period_default(OUTER_DENSE, 4096), 256);
    CHECK_EQUAL(outer_period_default(OUTER_SPARSE, 16), 1);
}
