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
                         "{clip_minimum: 1, clip_window: 9, clip_factor: 1}\n",
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
            double limit = run_state_median_norm(f->run);
            CHECK_NEAR(limit, (double)medians[m], 0);
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

TEST(the_median_is_the_upper_one_of_the_last_window_and_clips_those_that_come_after) {
    struct fixture *f =
        fixture_open("admission: {clip_window: 7, clip_minimum: 4, clip_factor: 1.5}\n", 5000);
    fixture_sites(f, 1);
    double norms[64];
    size_t count = 0, clipped = 0;
    for (uint64_t v = 0; v < 40; v++) {
        double wanted = 0;
        if (count >= 4) {
            double sorted[7];
            size_t held = MIN(count, 7);
            memcpy(sorted, norms + count - held, held * sizeof *sorted);
            qsort(sorted, held, sizeof *sorted, by_value);
            wanted = sorted[held / 2];
        }
        CHECK(run_state_median_norm(f->run) == wanted);
        fixture_contribute(f, 1, 0, v,
                           (float)(0.01 + random_unit(&f->random) * (v % 9 == 5 ? 3 : 0.2)));
        const struct run_pending *p = run_state_pending(f->run, 0, 0);
        double norm = norms[count++] = p->contribution.norm;
        double clip = wanted > 0 && norm > 1.5 * wanted ? 1.5 * wanted / norm : 1;
        CHECK(p->clip == clip);
        clipped += clip < 1;
        struct ledger_entry entry = planned_step(f, 0, 1);
        CHECK(entry.step.parts[0].scale == below(clip));
        fixture_step(f, 0, 1);
    }
    CHECK(clipped >= 3);
    fixture_close(f);
}

TEST(what_comes_while_a_step_is_planned_does_not_change_its_scales) {
    struct fixture *f =
        fixture_open("admission: {clip_window: 4, clip_minimum: 1, clip_factor: 1}\n", 5000);
    fixture_sites(f, 6);
    fixture_contribute(f, 1, 0, 0, 0.1f);
    fixture_contribute(f, 2, 0, 0, 1.0f); /* clipped */
    struct ledger_entry entry = planned_step(f, 0, 2);
    CHECK(entry.step.parts[1].scale < 0.5f);
    for (uint32_t site = 3; site <= 6; site++) fixture_contribute(f, site, 0, 0, 5.0f);
    fixture_append(f, &entry);
    fixture_close(f);
}

TEST(a_median_of_zero_clips_nobody) {
    struct fixture *f =
        fixture_open("admission: {clip_window: 4, clip_minimum: 1, clip_factor: 2}\n", 5000);
    fixture_sites(f, 4);
    float *zero = xcalloc(5000, sizeof *zero);
    for (uint32_t site = 1; site <= 3; site++) fixture_contribute_delta(f, site, 0, 0, zero);
    fixture_contribute(f, 4, 0, 0, 0.5f);
    CHECK(run_state_pending(f->run, 0, 3)->clip == 1);
    free(zero);
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
