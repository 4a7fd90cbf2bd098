#include "tests/fed_fixture.h"

/* --- steps --- */
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
    struct ledger_entry entry = fixture_planned_step(f, 0, 3);
    entry.step.version = 2;
    fixture_refused(f, &entry, "version 2 after 0");
    entry = fixture_planned_step(f, 0, 3);
    entry.step.has_root = false;
    fixture_refused(f, &entry, "lacks a state root");
    entry = fixture_planned_step(f, 0, 3);
    entry.step.fragment = 2;
    fixture_refused(f, &entry, "fragment 2 of 2");
    entry = fixture_planned_step(f, 0, 3);
    entry.step.fragment = 1;
    fixture_refused(f, &entry, "not a waiting contribution of fragment 1");
    entry = fixture_planned_step(f, 0, 3);
    entry.step.parts[2].index = other;
    fixture_refused(f, &entry, "not a waiting contribution of fragment 0");
    entry = fixture_planned_step(f, 0, 3);
    entry.step.parts[0].index = 0;
    fixture_refused(f, &entry, "not a waiting contribution");
    entry = fixture_planned_step(f, 0, 3);
    entry.step.parts[1].scale = nextafterf(1, 0);
    fixture_refused(f, &entry, "the rules give 1");
    entry = fixture_planned_step(f, 0, 3);
    entry.step.parts[1].scale = 0;
    fixture_refused(f, &entry, "the rules give 1");
    entry = fixture_planned_step(f, 0, 3);
    entry.step.rate = 0.5f;
    fixture_refused(f, &entry, "the rules give 1 and 3");
    entry = fixture_planned_step(f, 0, 3);
    entry.step.period = 2;
    fixture_refused(f, &entry, "the rules give 1 and 3");
    entry = fixture_planned_step(f, 0, 3);
    fixture_step(f, 0, 3);
    entry.step.version = 2;
    entry.step.parts[1].scale = 1;
    fixture_refused(f, &entry, "not a waiting contribution");
    fixture_close(f);
}

TEST(a_step_may_take_some_and_leave_others) {
    struct fixture *f = fixture_open("", 5000);
    fixture_sites(f, 4);
    uint64_t at[5];
    for (uint32_t site = 1; site <= 4; site++) at[site] = fixture_contribute(f, site, 0, 0, 0.1f);
    struct ledger_entry entry = fixture_planned_step(f, 0, 4);
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
    struct ledger_entry entry = fixture_next(f, 2, 0, 0, &c);
    fixture_refused(f, &entry, "rebase");
    entry = fixture_next(f, 2, 0, 1, &c);
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
            struct ledger_entry entry = fixture_planned_step(f, 0, 1);
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
        struct ledger_entry entry = fixture_planned_step(f, 0, 3);
        CHECK_NEAR(entry.step.parts[0].scale, e ? 0.25f : 0.5f, 0);
        CHECK_NEAR(entry.step.parts[1].scale, e ? 0.5f : below(1 / sqrt(2)), 0);
        CHECK_NEAR(entry.step.parts[2].scale, 1, 0);
        fixture_step(f, 0, 1);
        entry = fixture_planned_step(f, 0, 2); /* those that were left are one staler now */
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
    struct ledger_entry entry = fixture_planned_step(f, 0, 2);
    CHECK(entry.step.parts[1].scale < 0.5f);
    for (uint32_t site = 3; site <= 6; site++) fixture_contribute(f, site, 0, 0, 5.0f);
    fixture_append(f, &entry);
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

static void contribute_steps(struct fixture *f, uint32_t site, uint64_t base, float norm,
                             uint32_t steps) {
    float *delta = xcalloc(64, sizeof *delta);
    delta[0] = norm;
    struct bytes payload = fixture_payload_of(f, 0, delta);
    struct contribution c = fixture_contribution(f, site, 0, base, payload);
    c.inner_steps = steps;
    struct ledger_entry entry = fixture_signed(f, &c, f->keys[site]);
    fixture_append(f, &entry);
    free(delta);
}

/* Three of them make a quarter of the steps, and half of the way. */
TEST(a_site_that_makes_more_steps_than_the_others_is_not_clipped_for_it) {
    struct fixture *f =
        fixture_open("codec.kind: fp32\nouter: {mode: dense}\ninner.inner_steps: 16\n"
                     "admission: {clip_minimum: 1, clip_factor: 1, norm_bound: 100}\n"
                     "merge.warmup_steps: 0\n",
                     64);
    fixture_sites(f, 4);
    for (uint64_t version = 0; version < 8; version += 4) {
        for (uint32_t site = 1; site <= 4; site++) {
            contribute_steps(f, site, version + site - 1, site == 4 ? 2 : 1, site == 4 ? 16 : 4);
            struct ledger_entry entry = fixture_planned_step(f, 0, 1);
            if (version > 0) CHECK_NEAR(entry.step.parts[0].scale, 1, 0);
            fixture_step(f, 0, 1);
        }
    }
    CHECK_NEAR(run_state_median_norm(f->run, 0), 2, 0);
    contribute_steps(f, 1, 8, 4, 1600); /* what is told beyond H is not believed */
    CHECK_NEAR(fixture_planned_step(f, 0, 1).step.parts[0].scale, 0.5, 0);
    fixture_close(f);
}
