/* The outer rate by the federation: the table of fed/outer_rate.h, and its edges. */
#include "fed/outer_rate.h"

#include "tests/test.h"

TEST(dense_mode_has_a_rate_by_the_length_of_a_round_and_a_round_is_of_all_who_are_present) {
    CHECK_NEAR(outer_rate_default(OUTER_DENSE, 30), 0.4, 0);
    CHECK_NEAR(outer_rate_default(OUTER_DENSE, 20), 0.4, 0);
    CHECK_NEAR(outer_rate_default(OUTER_DENSE, 15), 0.3, 0);
    CHECK_NEAR(outer_rate_default(OUTER_DENSE, 8), 0.16, 0);
    CHECK_NEAR(outer_rate_default(OUTER_DENSE, 1), 0.1, 0);
    CHECK_NEAR(outer_rate_default(OUTER_SPARSE, 8), 1, 0);
    CHECK_EQUAL(outer_period_default(0), 1);
    CHECK_EQUAL(outer_period_default(16), 16);
    CHECK_EQUAL(outer_period_default(4096), 256);
}
