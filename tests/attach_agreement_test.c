/* When orders are carried out, fixed and withdrawn. */
#include "attach/agreement.h"
#include "tests/test.h"

enum { RANKS = 3 };

static void all_at(struct agreement_rank *ranks, uint64_t steps) {
    for (int i = 0; i < RANKS; i++) ranks[i].steps = steps;
}

TEST(an_order_is_fixed_once_all_have_acknowledged_it_and_not_before) {
    struct agreement agreement = {0};
    struct agreement_rank ranks[RANKS] = {0};
    all_at(ranks, 10);
    agreement_give(&agreement, ranks, RANKS);
    CHECK_EQUAL(agreement.at, 12);
    for (int i = 0; i < RANKS; i++) {
        CHECK_EQUAL(agreement_decide(&agreement, ranks, RANKS), AGREEMENT_WAITS);
        ranks[i].seen = agreement.id;
    }
    CHECK_EQUAL(agreement_decide(&agreement, ranks, RANKS), AGREEMENT_FIXED);
    all_at(ranks, 12); /* those that wait at its step change nothing */
    CHECK_EQUAL(agreement_decide(&agreement, ranks, RANKS), AGREEMENT_FIXED);
}

TEST(an_order_is_withdrawn_when_one_rank_comes_to_its_step_without) {
    struct agreement agreement = {0};
    struct agreement_rank ranks[RANKS] = {0};
    agreement_give(&agreement, ranks, RANKS);
    ranks[0].seen = ranks[1].seen = agreement.id;
    all_at(ranks, 1);
    ranks[0].steps = 2; /* this one waits there */
    CHECK_EQUAL(agreement_decide(&agreement, ranks, RANKS), AGREEMENT_WAITS);
    ranks[2].steps = 2;
    CHECK_EQUAL(agreement_decide(&agreement, ranks, RANKS), AGREEMENT_MISSED);
    uint64_t before = agreement.id;
    agreement_give(&agreement, ranks, RANKS);
    CHECK_EQUAL(agreement.id, before + 1);
    CHECK_EQUAL(agreement.at, 6); /* twice the lead */
}

TEST(the_lead_grows_with_the_way_to_the_farthest_rank_and_falls_with_the_length_of_a_step) {
    struct agreement agreement = {0};
    struct agreement_rank ranks[RANKS] = {0};
    CHECK_EQUAL(agreement_lead(0, 1000), 3);
    CHECK_EQUAL(agreement_lead(100, 1000), 3);
    CHECK_EQUAL(agreement_lead(100, 10), 30);
    CHECK(agreement_lead(1e9, 1e-9) <= 1 << 20);
    agreement.least = agreement_lead(100, 10);
    agreement_give(&agreement, ranks, RANKS);
    CHECK_EQUAL(agreement.at, 30);
}
