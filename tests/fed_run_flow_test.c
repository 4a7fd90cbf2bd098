/* What the others train between two contributions of a site: each at its own rate, only who is
 * present, and no more than two rounds ahead. */
#include "tests/fed_fixture.h"

/* The site's contribution of so many tokens, so many seconds after the run began. */
static void contribute(struct fixture *f, uint32_t site, uint64_t tokens, uint64_t second) {
    float *delta = fixture_delta(f, 0, 0.01f);
    f->tokens = tokens;
    struct contribution c = fixture_contribution(f, site, 0, run_state_version(f->run),
                                                 fixture_payload_of(f, 0, delta));
    free(delta);
    struct ledger_entry entry = fixture_signed(f, &c, f->keys[site]);
    entry.time_ms = FIXTURE_NOW + 1000 * second;
    fixture_append(f, &entry);
    fixture_step(f, 0, 1);
}

/* Site 1: 100 tokens a second, 2: 300, 3: 50; 4 never contributes. */
static struct fixture *open_run(void) {
    struct fixture *f = fixture_open("merge.staleness_cap: 4096\n", 5000);
    fixture_sites(f, 3);
    for (uint64_t second = 10; second <= 100; second += 10) {
        contribute(f, 3, 500, second - 5);
        contribute(f, 2, 3000, second);
        contribute(f, 1, 1000, second);
    }
    return f;
}

TEST(each_of_the_others_counts_at_its_own_rate) {
    struct fixture *f = open_run();
    struct run_flow flow = run_state_flow(f->run, 1);
    CHECK_NEAR(flow.ratio, 3.5, 1e-9);
    CHECK_NEAR(flow.unsent, 5 * 50, 1e-9); /* of site 3, which sent 5 s before */
    flow = run_state_flow(f->run, 2);
    CHECK_NEAR(flow.ratio, 0.5, 1e-9);
    fixture_close(f);
}

TEST(who_is_away_or_revoked_is_not_counted_and_who_has_no_rate_is_as_fast_as_the_site) {
    struct fixture *f = open_run();
    fixture_sites(f, 1);
    CHECK_NEAR(run_state_flow(f->run, 1).ratio, 4.5, 1e-9); /* 4 has given nothing yet */
    CHECK_NEAR(run_state_flow(f->run, 4).ratio, 3, 0);      /* nothing is known of the site */
    struct ledger_entry entry = fixture_entry(f, LEDGER_SITE_AWAY);
    entry.presence.site = 2;
    entry.time_ms = FIXTURE_NOW + 101000;
    fixture_append(f, &entry);
    CHECK_NEAR(run_state_flow(f->run, 1).ratio, 1.5, 1e-9);
    fixture_revoke(f, 3);
    CHECK_NEAR(run_state_flow(f->run, 1).ratio, 1, 1e-9);
    fixture_close(f);
}

/* It counts for eight times the median of the others at most. */
TEST(a_site_that_tells_what_cannot_be_moves_nobodys_schedule) {
    struct fixture *f = fixture_open("merge.staleness_cap: 4096\n", 5000);
    fixture_sites(f, 5);
    for (uint64_t second = 10; second <= 100; second += 10) {
        contribute(f, 5, 100000000, second - 6);
        for (uint32_t site = 2; site <= 4; site++) contribute(f, site, 1000, second - 5 + site / 2);
        contribute(f, 1, 1000, second);
    }
    struct run_flow flow = run_state_flow(f->run, 1);
    CHECK(flow.ratio >= 3 && flow.ratio <= 3 + 8 + 1e-9);
    CHECK(flow.unsent <= 6 * 8 * 100 + 3 * 500);
    fixture_close(f);
}

/* What the others have sent since is in the ledger and is not reckoned twice: the estimate falls by
 * what was entered, where it grew by it before. */
TEST(what_the_others_send_meanwhile_moves_from_the_estimate_to_the_ledger) {
    struct fixture *f = open_run();
    uint64_t before = run_state_tokens(f->run);
    struct run_flow flow = run_state_flow(f->run, 1);
    double estimate = (double)before + flow.unsent + (1 + flow.ratio) * 400; /* 4 s later */
    contribute(f, 2, 1200, 104);
    flow = run_state_flow(f->run, 1);
    double after = (double)run_state_tokens(f->run) + flow.unsent + (1 + flow.ratio) * 400;
    CHECK(run_state_tokens(f->run) == before + 1200);
    CHECK_NEAR(after, estimate, 0.02 * estimate);
    CHECK(flow.unsent < 0);
    fixture_close(f);
}

TEST(who_is_late_counts_for_two_rounds_and_no_more) {
    struct fixture *f = open_run();
    contribute(f, 1, 90000, 1000); /* 2 and 3 are silent for 15 minutes */
    struct run_flow flow = run_state_flow(f->run, 1);
    CHECK_NEAR(flow.unsent, 2 * 3000 + 2 * 500, 1e-9);
    fixture_close(f);
}

/* ---- DyLU ------------------------------------------------------------------------------------ */

TEST(a_site_that_is_slower_by_a_hair_does_all_inner_steps) {
    for (uint32_t h = 1; h <= 200; h++) {
        CHECK_EQUAL(dylu_inner_steps(h, 0.99, 1), h);
        CHECK_EQUAL(dylu_inner_steps(h, 0.95, 1), h);
    }
    CHECK_EQUAL(dylu_inner_steps(30, 0.5, 1), 15);
    CHECK_EQUAL(dylu_inner_steps(30, 0.9, 1), 27);
    CHECK_EQUAL(dylu_inner_steps(30, 0.001, 1), 3);
    CHECK_EQUAL(dylu_inner_steps(30, 5, 1), 30);
    CHECK_EQUAL(dylu_inner_steps(30, 1, 0), 30);
}

TEST(a_share_stays_until_the_speed_has_moved_by_a_real_amount) {
    double share = dylu_share(0, 0.7, 1);
    CHECK_NEAR(share, 0.7, 0);
    static const double noise[] = {0.72, 0.68, 0.71, 0.67, 0.733};
    for (size_t i = 0; i < COUNT_OF(noise); i++) {
        share = dylu_share(share, noise[i], 1);
        CHECK_NEAR(share, 0.7, 0);
    }
    share = dylu_share(share, 0.74, 1);
    CHECK_NEAR(share, 0.74, 0);
    /* around the point from which it is all: once above, it does not flutter */
    share = dylu_share(share, 0.951, 1);
    CHECK_NEAR(share, 1, 0);
    CHECK_NEAR(dylu_share(share, 0.9501, 1), 1, 0);
    share = dylu_share(share, 0.94, 1);
    CHECK_NEAR(share, 0.94, 0);
    CHECK_NEAR(dylu_share(share, 0.96, 1), 0.94, 0);
    CHECK_NEAR(dylu_share(share, 1, 1), 1, 0);
}
