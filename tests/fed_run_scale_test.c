#include "tests/fed_fixture.h"

static struct ledger_entry next_of(struct fixture *f, uint32_t site, uint32_t fragment,
                                   uint64_t base, struct contribution *c) {
    float *delta = fixture_delta(f, fragment, 0.01f);
    *c = fixture_contribution(f, site, fragment, base, fixture_payload_of(f, fragment, delta));
    free(delta);
    return fixture_signed(f, c, f->keys[site]);
}

/* --- steps --- */
static struct ledger_entry planned_step(struct fixture *f, uint32_t fragment, uint16_t count) {
    struct ledger_entry entry;
    run_state_plan_step(f->run, fragment, count, &entry);
    entry.step.has_root = entry.step.version % f->manifest.root_interval == 0;
    return entry;
}

/* The greatest fp32 that is not above it. */
static float below(double value) {
    float nearest = (float)value;
    return (double)nearest > value ? nextafterf(nearest, 0) : nearest;
}

TEST(a_step_that_the_ledger_does_not_justify_is_refused) {
    struct fixture *f = fixture_open("fragments: 2\n", 9000);
    fixture_sites(f, 3);
    for (uint32_t site = 1; site <= 3; site++) fixture_contribute(f, site, 0, 0, 0.1f);
    uint64_t other = fixture_contribute(f, 1, 1, 0, 0.1f);
    struct ledger_entry entry = planned_step(f, 0, 3);
    entry.step.version = 2;
    fixture_refused(f, &entry, "version 2 after 0");
    entry = planned_step(f, 0, 3);
    entry.step.has_root = false;
    fixture_refused(f, &entry, "lacks a state root");
    entry = planned_step(f, 0, 3);
    entry.step.fragment = 2;
    fixture_refused(f, &entry, "fragment 2 of 2");
    entry = planned_step(f, 0, 3);
    entry.step.fragment = 1;
    fixture_refused(f, &entry, "not a waiting contribution of fragment 1");
    entry = planned_step(f, 0, 3);
    entry.step.parts[2].index = other;
    fixture_refused(f, &entry, "not a waiting contribution of fragment 0");
    entry = planned_step(f, 0, 3);
    entry.step.parts[0].index = 0;
    fixture_refused(f, &entry, "not a waiting contribution");
    entry = planned_step(f, 0, 3);
    entry.step.parts[1].scale = nextafterf(1, 0);
    fixture_refused(f, &entry, "the rules give 1");
    entry = planned_step(f, 0, 3);
    entry.step.parts[1].scale = 0;
    fixture_refused(f, &entry, "the rules give 1");
    entry = planned_step(f, 0, 3);
    entry.step.rate = 0.5f;
    fixture_refused(f, &entry, "the rules give 1 and 3");
    entry = planned_step(f, 0, 3);
    entry.step.period = 2;
    fixture_refused(f, &entry, "the rules give 1 and 3");
    entry = planned_step(f, 0, 3);
    fixture_step(f, 0, 3);
    entry.step.version = 2;
    entry.step.parts[1].scale = 1;
    fixture_refused(f, &entry, "not a waiting contribution");
    fixture_close(f);
}

static void away(struct fixture *f, enum ledger_kind kind, uint32_t site) {
    struct ledger_entry entry = fixture_entry(f, kind);
    entry.presence.site = site;
    fixture_append(f, &entry);
}

TEST(a_round_is_of_all_the_sites_that_are_present) {
    struct fixture *f = fixture_open("merge.warmup_steps: 0\n", 5000);
    fixture_sites(f, 8);
    fixture_contribute(f, 1, 0, 0, 0.01f);
    fixture_contribute(f, 2, 0, 0, 0.01f);
    CHECK_EQUAL(planned_step(f, 0, 1).step.period, 8);
    CHECK_NEAR(planned_step(f, 0, 1).step.parts[0].scale, 1, 0);
    for (uint32_t site = 3; site <= 6; site++) away(f, LEDGER_SITE_AWAY, site);
    struct ledger_entry entry = planned_step(f, 0, 1);
    CHECK_EQUAL(entry.step.period, 4);
    away(f, LEDGER_SITE_BACK, 3); /* what was planned before does not hold after */
    fixture_refused(f, &entry, "the rules give 1 and 5");
    fixture_close(f);
    f = fixture_open("outer: {learning_rate: 0.5, period: 3}\n", 5000); /* named: for all steps */
    fixture_sites(f, 8);
    fixture_contribute(f, 1, 0, 0, 0.01f);
    CHECK_EQUAL(planned_step(f, 0, 1).step.period, 3);
    CHECK_NEAR(planned_step(f, 0, 1).step.rate, 0.5, 0);
    fixture_close(f);
}

TEST(the_cap_is_twice_the_most_sites_that_were_present_since_the_base) {
    struct fixture *f = fixture_open("merge.warmup_steps: 0\n", 5000);
    fixture_sites(f, 20);
    CHECK_EQUAL(run_state_staleness_cap(f->run, 0, 0), 40);
    for (uint32_t site = 3; site <= 20; site++) away(f, LEDGER_SITE_LEFT, site);
    CHECK_EQUAL(run_state_staleness_cap(f->run, 0, 0), 40); /* they were there at the base */
    for (uint64_t version = 0; version < 2; version++) {
        fixture_contribute(f, 1, 0, version, 0.01f);
        fixture_step(f, 0, 1);
    }
    CHECK_EQUAL(run_state_staleness_cap(f->run, 0, 0), 40);
    CHECK_EQUAL(run_state_staleness_cap(f->run, 0, 1), 16); /* never fewer */
    CHECK_EQUAL(run_state_staleness_cap(f->run, 0, 2), 16);
    away(f, LEDGER_SITE_BACK, 3);
    for (uint32_t site = 4; site <= 12; site++) away(f, LEDGER_SITE_BACK, site);
    CHECK_EQUAL(run_state_staleness_cap(f->run, 0, 1), 24);
    fixture_close(f);
    f = fixture_open("merge.staleness_cap: 3\n", 5000);
    fixture_sites(f, 20);
    CHECK_EQUAL(run_state_staleness_cap(f->run, 0, 0), 3);
    fixture_close(f);
}

static void changes_its_period(const char *yaml) {
    struct fixture *f = fixture_open(yaml, 5000);
    fixture_sites(f, 3);
    for (uint32_t site = 1; site <= 2; site++) {
        fixture_contribute(f, site, 0, 0, 0.01f);
        fixture_step(f, 0, 1);
    }
    CHECK_EQUAL(f->model.sums[0].count, 2);
    CHECK_EQUAL(f->model.sums[0].period, 3);
    away(f, LEDGER_SITE_AWAY, 3);
    fixture_contribute(f, 1, 0, 2, 0.01f);
    CHECK_EQUAL(planned_step(f, 0, 1).step.period, 2);
    fixture_step(f, 0, 1); /* the third: D is cleared, as it was begun */
    CHECK_EQUAL(f->model.sums[0].count, 0);
    for (uint64_t version = 3; version < 5; version++) {
        fixture_contribute(f, 1, 0, version, 0.01f);
        fixture_step(f, 0, 1);
        CHECK_EQUAL(f->model.sums[0].period, 2);
        CHECK_EQUAL(f->model.sums[0].count, version == 3 ? 1 : 0);
    }
    fixture_close(f);
}

TEST(the_period_is_the_number_of_present_sites_once_the_sum_is_cleared) {
    changes_its_period("outer: {mode: dense}\n");
    changes_its_period("outer: {mode: sparse}\n");
}

TEST(a_step_may_take_some_and_leave_others) {
    struct fixture *f = fixture_open("", 5000);
    fixture_sites(f, 4);
    uint64_t at[5];
    for (uint32_t site = 1; site <= 4; site++) at[site] = fixture_contribute(f, site, 0, 0, 0.1f);
    struct ledger_entry entry = planned_step(f, 0, 4);
    entry.step.count = 2;
    entry.step.parts[0] = entry.step.parts[1];
    entry.step.parts[1] = entry.step.parts[3];
    fixture_append(f, &entry);
    CHECK_EQUAL(run_state_pending_count(f->run, 0), 2);
    CHECK_EQUAL(run_state_pending(f->run, 0, 0)->index, at[1]);
    CHECK_EQUAL(run_state_pending(f->run, 0, 1)->index, at[3]);
    fixture_contribute(f, 2, 0, 1, 0.1f);
    fixture_close(f);
}

TEST(roots_stand_where_the_interval_says_and_are_remembered_as_far_as_the_cap_reaches) {
    struct fixture *f = fixture_open("root_interval: 3\nmerge.staleness_cap: 4\n", 5000);
    fixture_sites(f, 1);
    uint8_t roots[21][DIGEST_SIZE], root[DIGEST_SIZE];
    uint64_t version = 99;
    for (uint64_t v = 1; v <= 20; v++) {
        fixture_contribute(f, 1, 0, v - 1, 0.1f);
        fixture_step(f, 0, 1);
        state_root(f->model.theta, f->parameters, roots[v]);
    }
    run_state_root(f->run, &version, root);
    CHECK_EQUAL(version, 18);
    CHECK_MEMORY(root, roots[18], DIGEST_SIZE);
    for (uint64_t v = 0; v <= 25; v++) {
        bool there = v <= 20 && v % 3 == 0 && v >= 15;
        CHECK_EQUAL(run_state_root_at(f->run, v, root), there);
        if (there) CHECK_MEMORY(root, roots[v], DIGEST_SIZE);
    }
    fixture_close(f);
}

/* --- staleness --- */
TEST(staleness_counts_the_steps_of_the_fragment_alone) {
    struct fixture *f = fixture_open("fragments: 2\nmerge.staleness_cap: 3\n", 9000);
    fixture_sites(f, 1);
    CHECK_EQUAL(run_state_staleness(f->run, 0, 0), 0);
    const uint32_t order[] = {0, 1, 1, 0, 0, 1, 0, 0, 0, 1, 0};
    uint64_t made[2][16] = {{0}}, steps[2] = {0};
    for (size_t i = 0; i < COUNT_OF(order); i++) {
        uint32_t fragment = order[i];
        fixture_contribute(f, 1, fragment, run_state_fragment_version(f->run, fragment), 0.1f);
        fixture_step(f, fragment, 1);
        made[fragment][steps[fragment]++] = i + 1;
        for (uint32_t g = 0; g < 2; g++)
            for (uint64_t base = 0; base <= i + 1; base++) {
                uint64_t wanted = 0;
                for (uint64_t s = 0; s < steps[g]; s++) wanted += made[g][s] > base;
                uint64_t got = run_state_staleness(f->run, g, base);
                if (wanted <= 3)
                    CHECK_EQUAL(got, wanted);
                else
                    CHECK(got > 3); /* beyond the cap it need not be counted */
            }
    }
    CHECK(run_state_staleness(f->run, 0, 0) == UINT64_MAX);
    CHECK_EQUAL(run_state_fragment_version(f->run, 0), 11);
    CHECK_EQUAL(run_state_fragment_version(f->run, 1), 10);
    fixture_close(f);
}

TEST(a_contribution_at_the_cap_is_taken_and_one_beyond_is_not) {
    struct fixture *f = fixture_open("merge.staleness_cap: 2\n", 5000);
    struct contribution c;
    fixture_sites(f, 2);
    for (uint64_t v = 0; v < 3; v++) {
        fixture_contribute(f, 1, 0, v, 0.1f);
        fixture_step(f, 0, 1);
    }
    struct ledger_entry entry = next_of(f, 2, 0, 0, &c);
    fixture_refused(f, &entry, "rebase");
    entry = next_of(f, 2, 0, 1, &c);
    fixture_append(f, &entry);
    fixture_close(f);
}

/* Rounded to the nearest, half of these would be above their limit; in the denormal range by any
 * part of it. */
TEST(a_scaled_norm_is_never_above_its_limit_not_even_where_scales_are_denormal) {
    const float medians[] = {1e-3f, 1e-20f, 1e-38f, 1e-41f, 3e-44f};
    for (size_t m = 0; m < COUNT_OF(medians); m++) {
        struct fixture *f =
            fixture_open("codec.kind: fp32\nouter: {mode: dense, period: 1}\nadmission: "
                         "{clip_minimum: 1, clip_factor: 1}\n",
                         64);
        fixture_sites(f, 1);
        float *delta = xcalloc(64, sizeof *delta);
        uint64_t clipped = 0;
        delta[0] = medians[m];
        for (uint64_t v = 0; v < 5; v++) {
            fixture_contribute_delta(f, 1, 0, v, delta);
            fixture_step(f, 0, 1);
        }
        for (uint64_t v = 5; v < 9; v++) {
            delta[0] = 1 + (float)v / 7;
            double limit = run_state_median_norm(f->run, 0);
            /* the only site's voice, which a step follows by a factor of 2 */
            CHECK_NEAR(limit, (double)medians[m] * (double)(1 << (v - 5)), 0);
            fixture_contribute_delta(f, 1, 0, v, delta);
            struct ledger_entry entry = planned_step(f, 0, 1);
            double scaled = (double)entry.step.parts[0].scale * (double)delta[0];
            CHECK(scaled <= limit * (1 + 0x1p-50));
            /* and as near to it as fp32 has it */
            CHECK(scaled >= limit * (1 - 0x1p-22) - 0x1p-148);
            clipped += entry.step.parts[0].scale < 1;
            fixture_step(f, 0, 1);
        }
        CHECK_EQUAL(clipped, 4);
        free(delta);
        fixture_close(f);
    }
}

TEST(polynomial_weights_are_the_exact_roots_and_quotients) {
    const char *const exponents[] = {"0.5", "1"};
    for (size_t e = 0; e < 2; e++) {
        char *yaml = xformat("merge: {staleness_weight: polynomial, staleness_exponent: "
                             "%s}\nadmission.clip_factor: 0\n",
                             exponents[e]);
        struct fixture *f = fixture_open(yaml, 5000);
        fixture_sites(f, 4);
        for (uint64_t v = 0; v < 3; v++) {
            fixture_contribute(f, 1, 0, v, 0.1f);
            fixture_step(f, 0, 1);
        }
        fixture_contribute(f, 2, 0, 0, 0.1f); /* staleness 3 */
        fixture_contribute(f, 3, 0, 2, 0.1f); /* 1 */
        fixture_contribute(f, 4, 0, 3, 0.1f); /* 0 */
        struct ledger_entry entry = planned_step(f, 0, 3);
        CHECK_NEAR(entry.step.parts[0].scale, e ? 0.25f : 0.5f, 0);
        CHECK_NEAR(entry.step.parts[1].scale, e ? 0.5f : below(1 / sqrt(2)), 0);
        CHECK_NEAR(entry.step.parts[2].scale, 1, 0);
        fixture_step(f, 0, 1);
        entry = planned_step(f, 0, 2); /* those that were left are one staler now */
        CHECK_NEAR(entry.step.parts[0].scale, e ? below(1.0 / 3) : below(1 / sqrt(3)), 0);
        CHECK_NEAR(entry.step.parts[1].scale, e ? 0.5f : below(1 / sqrt(2)), 0);
        fixture_append(f, &entry);
        free(yaml);
        fixture_close(f);
    }
}

/* --- clipping --- */
static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

TEST(a_contribution_is_scaled_to_the_median_of_the_sites_as_it_was_after_the_last_step) {
    struct fixture *f = fixture_open("admission: {clip_minimum: 4, clip_factor: 1.5}\n", 5000);
    enum { SITES = 4 };
    double norms[SITES], median = 0;
    size_t clipped = 0;
    fixture_sites(f, SITES);
    for (uint64_t v = 0; v < 12; v++) {
        double limit = run_state_norm_limit(f->run, 0);
        CHECK(median > 0 ? limit == 1.5 * median : limit == 0.001 * 30 * sqrt(5000));
        for (uint32_t site = 1; site <= SITES; site++) {
            fixture_contribute(f, site, 0, v,
                               (float)(0.01 + random_unit(&f->random) * (v % 3 == 2 ? 3 : 0.2)));
            const struct run_pending *p = run_state_pending(f->run, 0, site - 1);
            double norm = norms[site - 1] = p->contribution.norm;
            CHECK(p->clip == (norm > limit ? limit / norm : 1));
            CHECK(run_state_site(f->run, site)->last_norm == norm);
            CHECK(run_state_site(f->run, site)->last_clip == p->clip);
            clipped += p->clip < 1;
            CHECK(run_state_median_norm(f->run, 0) == median); /* it moves with steps alone */
        }
        fixture_step(f, 0, SITES);
        qsort(norms, SITES, sizeof *norms, by_value);
        double wanted = norms[1];
        if (v == 0)
            median = fmin(wanted, limit);
        else
            median = fmin(fmax(wanted, median / 2), 2 * median);
        CHECK(run_state_median_norm(f->run, 0) == median);
    }
    CHECK(clipped >= 3);
    fixture_close(f);
}

/* What one of four says, however large or small and however often, leaves the median between the
 * norms of the others. */
TEST(one_site_of_four_cannot_move_the_median_beyond_what_the_others_send) {
    const float lies[] = {1e12f, 1e-30f, 0};
    for (size_t l = 0; l < COUNT_OF(lies); l++) {
        struct fixture *f = fixture_open("admission: {clip_minimum: 1, clip_factor: 1}\n"
                                         "codec.kind: fp32\nouter: {mode: dense, period: 4}\n",
                                         64);
        float *delta = xcalloc(64, sizeof *delta);
        fixture_sites(f, 4);
        for (uint64_t v = 0; v < 60; v++) {
            delta[0] = lies[l];
            fixture_contribute_delta(f, 1, 0, v, delta); /* first, and twice as often */
            for (uint32_t site = 2; site <= 4 && v % 2 == 0; site++) {
                delta[0] = 0.1f * (float)site;
                fixture_contribute_delta(f, site, 0, v, delta);
                CHECK(run_state_site(f->run, site)->last_clip > 0.3);
            }
            fixture_step(f, 0, (uint16_t)run_state_pending_count(f->run, 0));
            double median = run_state_median_norm(f->run, 0);
            CHECK(v == 0 || (median > 0.19 && median < 0.41));
            CHECK(run_state_site(f->run, 1)->last_scale * lies[l] < 0.41f || v == 0);
        }
        free(delta);
        fixture_close(f);
    }
}

TEST(a_revoked_site_has_no_voice_and_an_old_one_falls_silent) {
    struct fixture *f = fixture_open("admission: {clip_minimum: 1, clip_factor: 1}\n", 5000);
    fixture_sites(f, 4);
    for (uint32_t site = 1; site <= 4; site++)
        fixture_contribute(f, site, 0, 0, 0.01f * (float)site);
    fixture_step(f, 0, 4);
    double before = run_state_median_norm(f->run, 0);
    double fourth = run_state_site(f->run, 4)->last_norm;
    fixture_revoke(f, 1);
    fixture_revoke(f, 2);
    fixture_contribute(f, 3, 0, 1, 0.03f);
    fixture_step(f, 0, 1);
    double after = run_state_median_norm(f->run, 0);
    CHECK(after > before && after <= 2 * before && after < fourth); /* of the third's voice */
    fixture_close(f);
}

TEST(what_comes_while_a_step_is_planned_does_not_change_its_scales) {
    struct fixture *f =
        fixture_open("admission: {clip_minimum: 1, clip_factor: 1, norm_bound: 1}\n", 5000);
    fixture_sites(f, 6);
    fixture_contribute(f, 1, 0, 0, 0.1f);
    fixture_contribute(f, 2, 0, 0, 9.0f); /* clipped */
    struct ledger_entry entry = planned_step(f, 0, 2);
    CHECK(entry.step.parts[1].scale < 0.5f);
    for (uint32_t site = 3; site <= 6; site++) fixture_contribute(f, site, 0, 0, 5.0f);
    fixture_append(f, &entry);
    fixture_close(f);
}

/* --- tokens --- */
static void contribute_tokens(struct fixture *f, uint32_t site, uint64_t version, uint64_t tokens,
                              uint64_t at_ms) {
    struct contribution c;
    struct ledger_entry entry = next_of(f, site, 0, version, &c);
    c.tokens = tokens;
    c.inner_steps = UINT32_MAX; /* never a reason to refuse */
    contribution_encode(&c, entry.contribution.header);
    contribution_sign(f->keys[site], entry.contribution.header, entry.contribution.signature);
    entry.time_ms = at_ms;
    fixture_append(f, &entry);
}

TEST(a_site_that_tells_any_number_of_tokens_counts_for_eight_of_the_others) {
    struct fixture *f = fixture_open("", 5000);
    uint64_t now = FIXTURE_NOW + 100000;
    fixture_sites(f, 4);
    for (uint64_t v = 0; v < 12; v++, now += 10000) {
        contribute_tokens(f, 1, v, TOKENS_LIMIT, now); /* the very first, too */
        for (uint32_t site = 2; site <= 4; site++)
            if (site != 2 || v < 4 || v == 11) /* it is away, trains on, and comes back */
                contribute_tokens(f, site, v, site == 2 && v == 11 ? 8000 : 1000, now + site);
        CHECK(run_state_tokens(f->run) <= (v + 1) * (3 + TOKEN_RATE_LIMIT) * 1001);
        fixture_step(f, 0, (uint16_t)run_state_pending_count(f->run, 0));
    }
    for (uint32_t site = 2; site <= 4; site++) {
        CHECK_EQUAL(run_state_site(f->run, site)->counted, 12000);
        CHECK_EQUAL(run_state_site(f->run, site)->uncounted, 0);
    }
    CHECK(run_state_site(f->run, 1)->uncounted > TOKENS_LIMIT);
    CHECK(run_state_site(f->run, 1)->counted >= 7 * 9000);
    fixture_close(f);
}

/* Two sites, the first with a part each 10 s, the second each 100 s; the parts have the tokens that
 * are given. What the first one tells, in all. */
static uint64_t two_sites_train(struct fixture *f, uint32_t rounds, uint64_t often,
                                uint64_t seldom) {
    uint64_t now = FIXTURE_NOW + 100000, told = 0, version = 0;
    fixture_sites(f, 2);
    for (uint32_t round = 1; round <= rounds; round++) {
        for (uint32_t part = 1; part <= 10; part++, now += 10000) {
            contribute_tokens(f, 1, version, often, now);
            told += often;
            if (part == 10) contribute_tokens(f, 2, version, seldom, now + 7);
            fixture_step(f, 0, (uint16_t)run_state_pending_count(f->run, 0));
            version++;
        }
    }
    return told;
}

TEST(of_two_honest_sites_whose_speeds_are_thirty_to_one_all_tokens_count) {
    struct fixture *f = fixture_open("", 5000);
    uint64_t told = two_sites_train(f, 20, 3000, 1000) + 20 * 1000;
    CHECK(run_state_tokens(f->run) <= told);
    CHECK(100 * run_state_tokens(f->run) >= 95 * told);
    CHECK_EQUAL(run_state_site(f->run, 1)->uncounted, 0);
    fixture_close(f);
}

TEST(of_two_sites_a_liar_counts_for_a_bounded_multiple_of_the_other_and_cannot_undo_it) {
    const uint64_t lies[] = {TOKENS_LIMIT, UINT64_C(1) << 40, 1000000, 100000};
    for (size_t i = 0; i < COUNT_OF(lies); i++) {
        struct fixture *f = fixture_open("", 5000);
        (void)two_sites_train(f, 20, lies[i], 1000);
        const struct run_site *liar = run_state_site(f->run, 1),
                              *honest = run_state_site(f->run, 2);
        CHECK_EQUAL(honest->counted + honest->uncounted, 20 * 1000);
        CHECK(100 * honest->counted >= 95 * 20 * 1000);
        CHECK(liar->counted <= TOKEN_RATE_LIMIT_OF_TWO * UINT64_C(21) * 1000);
        CHECK(liar->uncounted > 0);
        fixture_close(f);
    }
}

TEST(the_silence_of_the_others_lets_nobody_count_more) {
    struct fixture *f = fixture_open("admission.voice_age: 1h\n", 5000);
    uint64_t now = FIXTURE_NOW + 100000, version = 0;
    fixture_sites(f, 4);
    for (; version < 4; version++, now += 10000) {
        for (uint32_t site = 1; site <= 4; site++)
            contribute_tokens(f, site, version, 1000, now + site);
        fixture_step(f, 0, 4);
    }
    uint64_t before = run_state_tokens(f->run);
    now += 4 * UINT64_C(3600000);
    for (uint32_t i = 0; i < 4; i++, version++, now += 10000) {
        contribute_tokens(f, 1, version, TOKENS_LIMIT, now);
        fixture_step(f, 0, 1);
    }
    /* a thousand in ten seconds, and eight times that */
    CHECK(run_state_tokens(f->run) - before <= TOKEN_RATE_LIMIT * UINT64_C(1000) * (4 * 360 + 8));
    fixture_close(f);
}

TEST(who_has_left_measures_the_last_one_for_a_voice_age_and_nobody_then) {
    struct fixture *f = fixture_open("", 5000);
    uint64_t told = two_sites_train(f, 4, 1000000, 1000);
    CHECK(run_state_site(f->run, 1)->uncounted > 0);
    away(f, LEDGER_SITE_LEFT, 2);
    contribute_tokens(f, 1, 40, 1000, FIXTURE_NOW + 600000);
    CHECK(run_state_site(f->run, 1)->uncounted > 0);
    fixture_step(f, 0, 1);
    contribute_tokens(f, 1, 41, 1000, FIXTURE_NOW + 600000 + UINT64_C(2) * 86400000);
    CHECK_EQUAL(run_state_site(f->run, 1)->uncounted, 0);
    CHECK_EQUAL(run_state_tokens(f->run), told + 2000 + run_state_site(f->run, 2)->counted);
    fixture_close(f);
}

TEST(one_voice_alone_counts_once_no_other_came_for_a_voice_age) {
    struct fixture *f = fixture_open("admission.voice_age: 1h\n", 5000);
    uint64_t now = FIXTURE_NOW + 100000;
    fixture_sites(f, 2);
    for (uint64_t v = 0; v < 4; v++, now += 60000) {
        contribute_tokens(f, 1, v, 1000, now);
        CHECK_EQUAL(run_state_tokens(f->run), 0);
        fixture_step(f, 0, 1);
    }
    for (uint64_t v = 4; v < 6; v++, now += 3600000) {
        contribute_tokens(f, 1, v, 1000, now + 3600000);
        fixture_step(f, 0, 1);
    }
    CHECK_EQUAL(run_state_tokens(f->run), 6000);
    fixture_close(f);
}

TEST(one_voice_alone_ends_the_warm_up_and_not_at_once) {
    struct fixture *f = fixture_open("inner.warmup_tokens: 16000\ninner.schedule: linear\n"
                                     "inner.decay_tokens: 1000000\ntoken_budget: 1000000\n",
                                     5000);
    uint64_t now = FIXTURE_NOW + 100000, v = 0;
    fixture_sites(f, 2);
    for (; v < 8; v++, now += 60000) { /* what it tells counts, as far as it is a sixteenth */
        contribute_tokens(f, 1, v, v < 4 ? 800 : TOKENS_LIMIT, now);
        CHECK_EQUAL(run_state_tokens(f->run), v < 4 ? (v + 1) * 800 : 3200 + (v - 3) * 1000);
        fixture_step(f, 0, 1);
    }
    for (; v < 24; v++, now += 60000) {
        contribute_tokens(f, 1, v, TOKENS_LIMIT, now);
        fixture_step(f, 0, 1);
    }
    CHECK_EQUAL(run_state_tokens(f->run), 16000);
    CHECK_EQUAL(run_state_phase(f->run), RUN_ACTIVE);
    fixture_close(f);
}

TEST(a_pause_is_no_time_in_which_a_site_trained) {
    struct fixture *f = fixture_open("", 5000);
    uint64_t now = FIXTURE_NOW + 100000;
    fixture_sites(f, 3);
    for (uint64_t v = 0; v < 8; v++, now += 10000) {
        if (v == 5) {
            struct ledger_entry pause = fixture_entry(f, LEDGER_PAUSED),
                                resume = fixture_entry(f, LEDGER_RESUMED);
            pause.time_ms = now;
            now += 86000000;
            resume.time_ms = now;
            fixture_append(f, &pause);
            fixture_append(f, &resume);
        }
        contribute_tokens(f, 1, v, v == 5 ? 1000000000 : 1000, now);
        for (uint32_t site = 2; site <= 3; site++) contribute_tokens(f, site, v, 1000, now + site);
        fixture_step(f, 0, 3);
    }
    CHECK(run_state_tokens(f->run) <= 8 * (2 + TOKEN_RATE_LIMIT) * 1001);
    fixture_close(f);
}

/* --- fragments --- */
TEST(fragments_cover_all_parameters_once_and_begin_at_chunks) {
    const uint64_t sizes[] = {
        1, 4095, 4096, 4097, 8192, 100000, 123457, 1000003, UINT64_C(7000000001)};
    for (size_t s = 0; s < COUNT_OF(sizes); s++)
        for (uint32_t n = 1; n <= FRAGMENTS_LIMIT; n++) {
            uint64_t at = 0, least = UINT64_MAX, most = 0;
            for (uint32_t i = 0; i < n; i++) {
                uint64_t start, count;
                fragment_range(sizes[s], n, i, &start, &count);
                CHECK_EQUAL(start, at);
                CHECK_EQUAL(start % 4096, 0);
                at += count;
                least = MIN(least, count);
                most = MAX(most, count);
            }
            CHECK_EQUAL(at, sizes[s]);
            if (sizes[s] >= n * UINT64_C(4096)) CHECK(least > 0 && most - least < 2 * 4096);
        }
}

static struct ledger_entry rule(struct fixture *f, const char *key, const char *value) {
    struct ledger_entry entry = fixture_entry(f, LEDGER_RULE);
    snprintf(entry.rule.key, sizeof entry.rule.key, "%s", key);
    snprintf(entry.rule.value, sizeof entry.rule.value, "%s", value);
    snprintf(entry.rule.reason, sizeof entry.rule.reason, "because");
    return entry;
}

static void set(struct fixture *f, const char *key, const char *value) {
    struct ledger_entry entry = rule(f, key, value);
    fixture_append(f, &entry);
}

TEST(another_rule_holds_for_the_next_step_and_is_checked_as_the_manifest_is) {
    struct fixture *f = fixture_open("merge.warmup_steps: 0\n", 5000);
    fixture_sites(f, 2);
    fixture_contribute(f, 1, 0, 0, 0.01f);
    CHECK_NEAR(planned_step(f, 0, 1).step.rate, 1, 0);
    set(f, "outer.learning_rate", "0.5");
    set(f, "merge.quorum", "7");
    set(f, "inner.inner_steps", "12");
    CHECK_NEAR(planned_step(f, 0, 1).step.rate, 0.5, 0);
    CHECK_EQUAL(run_state_manifest(f->run)->merge.quorum, 7);
    CHECK_EQUAL(run_state_inner_steps(f->run), 12);
    set(f, "inner.learning_rate", "0.0005");
    set(f, "token_budget", "100000");
    set(f, "inner.schedule", "cosine");
    CHECK_EQUAL(run_state_manifest(f->run)->inner.schedule, INNER_COSINE);
    struct ledger_entry entry = rule(f, "inner.decay_tokens", "0");
    fixture_append(f, &entry);
    entry = rule(f, "token_budget", "0");
    fixture_refused(f, &entry, "needs an end");
    entry = rule(f, "model.hidden", "64");
    fixture_refused(f, &entry, "holds for the whole run");
    entry = rule(f, "merge.quorom", "2");
    fixture_refused(f, &entry, "did you mean merge.quorum");
    entry = rule(f, "merge.quorum", "0");
    fixture_refused(f, &entry, "write a whole number, 1 to 256");
    entry = rule(f, "merge.quorum", "07");
    fixture_refused(f, &entry, "invalid value");
    entry = rule(f, "merge.grace", "1000ms");
    fixture_refused(f, &entry, "not in its one form");
    entry = rule(f, "outer.period", "0");
    fixture_refused(f, &entry, "outer.period");
    fixture_step(f, 0, 1);
    fixture_close(f);
}

/* theta after a step of the last two payloads, in the codecs named, within one round. */
static float *merged(struct fixture *f, const enum codec codecs[static 2], float rate,
                     const float scales[static 2]) {
    size_t count = (size_t)f->parameters;
    float *sum = xcalloc(count, sizeof *sum), *theta = xcalloc(count, sizeof *theta);
    uint16_t *senders = xcalloc(count, sizeof *senders);
    memcpy(theta, f->model.theta, count * sizeof *theta);
    memcpy(sum, f->model.accumulated, count * sizeof *sum);
    memcpy(senders, f->model.senders, count * sizeof *senders);
    const struct codec_round round = {theta, sum, senders};
    for (size_t i = 0; i < 2; i++)
        codec_merge_checked(codecs[i], buffer_bytes(&f->payloads[f->payload_count - 2 + i].bytes),
                            count, scales[i], rate, &round);
    free(sum);
    free(senders);
    return theta;
}

TEST(a_message_is_in_the_codec_of_its_base_version_and_one_step_merges_both) {
    struct fixture *f = fixture_open("merge.warmup_steps: 0\n", 5000);
    struct error why = {0};
    fixture_sites(f, 3);
    set(f, "codec.kind", "topk2-128");
    struct ledger_entry entry = rule(f, "codec.kind", "int8");
    fixture_refused(f, &entry, "codec.kind");
    CHECK_EQUAL(run_state_codec(f->run, 0), CODEC_TOPK2_64); /* what is under way is as it was */
    CHECK_EQUAL(run_state_codec(f->run, 1), CODEC_TOPK2_128);
    fixture_contribute(f, 1, 0, 0, 0.01f);
    fixture_step(f, 0, 1);
    float *delta = fixture_delta(f, 0, 0.01f);
    struct bytes payload = fixture_payload_of(f, 0, delta);
    struct contribution c = fixture_contribution(f, 2, 0, 1, payload), read;
    entry = fixture_signed(f, &c, f->keys[2]);
    fixture_refused(f, &entry, "for base version 1");
    fixture_contribute_delta(f, 2, 0, 0, delta);
    fixture_use_codec(f, CODEC_TOPK2_128);
    payload = fixture_payload_of(f, 0, delta);
    c = fixture_contribution(f, 3, 0, 0, payload);
    entry = fixture_signed(f, &c, f->keys[3]);
    fixture_refused(f, &entry, "for base version 0");
    c = fixture_contribution(f, 3, 0, 1, payload);
    CHECK(payload.size > codec_bound(CODEC_TOPK2_64, 5000)); /* it is the new one's bound */
    entry = fixture_signed(f, &c, f->keys[3]);
    struct admission_limits limits = {FIXTURE_NOW, UINT64_MAX};
    CHECK_EQUAL(admission_header(
                    f->run, 3, bytes_of(entry.contribution.header, CONTRIBUTION_HEADER_SIZE),
                    bytes_of(entry.contribution.signature, SIGNATURE_SIZE), &limits, &read, &why),
                ACCEPTED);
    fixture_append(f, &entry);
    struct ledger_entry planned = planned_step(f, 0, 2);
    const enum codec codecs[] = {CODEC_TOPK2_64, CODEC_TOPK2_128};
    const float scales[] = {planned.step.parts[0].scale, planned.step.parts[1].scale};
    float *wanted = merged(f, codecs, planned.step.rate, scales);
    fixture_step(f, 0, 2);
    for (size_t i = 0; i < 5000; i++) CHECK_NEAR(f->model.theta[i], wanted[i], 1e-7);
    free(wanted);
    free(delta);
    fixture_close(f);
}

TEST(a_message_is_judged_by_the_cap_of_its_base_version) {
    struct fixture *f = fixture_open("merge: {warmup_steps: 0, staleness_cap: 3}\n", 5000);
    fixture_sites(f, 2);
    for (uint64_t version = 0; version < 2; version++) {
        fixture_contribute(f, 1, 0, version, 0.01f);
        fixture_step(f, 0, 1);
    }
    set(f, "merge.staleness_cap", "9");
    CHECK_EQUAL(run_state_staleness_cap(f->run, 0, 2), 3);
    for (uint64_t version = 2; version < 12; version++) {
        fixture_contribute(f, 1, 0, version, 0.01f);
        fixture_step(f, 0, 1);
    }
    CHECK_EQUAL(run_state_staleness_cap(f->run, 0, 2), 3);
    CHECK_EQUAL(run_state_staleness_cap(f->run, 0, 3), 9);
    CHECK_EQUAL(run_state_staleness(f->run, 0, 3), 9); /* remembered as far back as that */
    uint8_t root[DIGEST_SIZE];
    CHECK(run_state_root_at(f->run, 3, root));
    CHECK(run_state_staleness(f->run, 0, 1) > 3);
    set(f, "merge.staleness_cap", "1");
    CHECK_EQUAL(run_state_staleness_cap(f->run, 0, 12), 9);
    fixture_contribute(f, 1, 0, 4, 0.01f); /* by the cap of its base it is welcome */
    fixture_close(f);
}
