/* What sites tell of tokens, and what of it counts. */
#include "tests/fed_fixture.h"

static void contribute_tokens(struct fixture *f, uint32_t site, uint64_t version, uint64_t tokens,
                              uint64_t at_ms) {
    struct contribution c;
    struct ledger_entry entry = fixture_next(f, site, 0, version, &c);
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
    fixture_presence(f, LEDGER_SITE_LEFT, 2);
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
