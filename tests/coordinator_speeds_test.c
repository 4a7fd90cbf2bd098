/* How fast each site trains, and how often it may contribute. */
#include "tests/coordinator_fixture.h"

/* ---- speeds ---------------------------------------------------------------------------------- */

/* A site's next contribution of so many inner steps, merged at once. */
static void give(struct shell *s, uint32_t site, uint32_t fragment, uint32_t steps) {
    struct contribution c =
        fixture_contribution(s->f, site, fragment, run_state_version(s->f->run), s->payload);
    c.signed_at_ms = s->now.wall_ms;
    c.inner_steps = steps;
    struct ledger_entry header = fixture_signed(s->f, &c, s->f->keys[site]);
    shell_contribute_header(s, site, &header);
    shell_settle(s);
}

enum { FAST = 1, HALF = 2, TENTH = 3, TWIN = 4, ALL = 14 };

/* Time passes in which sites 1 to 3 train at 10, 5 and 1 step a second (a bit of `mask` each), and
 * each gives what it has done after every `inner` steps. All are heard. Site 4 does what the first
 * one does: a single voice does not set the pace. */
static void train(struct shell *s, unsigned mask, uint32_t inner, unsigned seconds) {
    static const uint32_t rates[] = {0, 10, 5, 1, 10};
    for (unsigned second = 1; second <= seconds; second++) {
        shell_wait(s, 1000);
        for (uint32_t site = 1; site <= TWIN; site++) {
            if (!(mask >> (site == TWIN ? FAST : site) & 1)) continue;
            shell_heartbeat(s, site);
            if (second * rates[site] % inner == 0) give(s, site, 0, inner);
        }
    }
}
#define DYLU                                                                                       \
    "merge: {quorum: 1, grace: 0s, warmup_steps: 0}\ninner: {inner_steps: 40, dylu: "              \
    "true}\nadmission: {expiry: 0}\n"

TEST(slower_sites_get_fewer_inner_steps_by_what_was_accepted_of_them) {
    struct shell *s = shell_open(DYLU, 4);
    CHECK_EQUAL(shell_heartbeat(s, FAST), 40); /* nothing is known */
    train(s, ALL, 10, 60);
    CHECK_EQUAL(shell_heartbeat(s, FAST), 40);
    CHECK_EQUAL(shell_heartbeat(s, HALF), 20);
    CHECK_EQUAL(shell_heartbeat(s, TENTH), 5); /* an eighth, not a tenth */
    shell_set(s, "inner.inner_steps", "100");
    shell_settle(s);
    CHECK_EQUAL(shell_heartbeat(s, HALF), 50);
    CHECK_EQUAL(shell_heartbeat(s, TENTH), 12);
    shell_admin(s, ORDER_REVOKE, "site-1");
    shell_settle(s);
    CHECK_EQUAL(shell_heartbeat(s, HALF), 100);
    CHECK_EQUAL(shell_heartbeat(s, TENTH), 20);
    shell_close(s);
}

/* The same steps a second, and what is measured is 1 % off, now one way, now the other, as clocks
 * and links have it: everybody does all inner steps, at every heartbeat. And what a slower site is
 * told stays what it is. */
TEST(noise_in_what_is_measured_changes_nobodys_inner_steps) {
    struct shell *s = shell_open(DYLU, 3);
    uint32_t told = 0;
    for (unsigned round = 1; round <= 40; round++) {
        for (uint32_t site = 1; site <= 3; site++) {
            shell_wait(s, 1000 + (round * 7 + site * 3) % 5 * 20);
            shell_heartbeat(s, 1);
            give(s, site, 0, site == 3 ? 29 : 40);
        }
        if (round < 20) continue;
        for (uint32_t site = 1; site <= 2; site++) CHECK_EQUAL(shell_heartbeat(s, site), 40);
        if (told == 0) told = shell_heartbeat(s, 3);
        CHECK(told >= 28 && told <= 30);
        CHECK_EQUAL(shell_heartbeat(s, 3), told);
    }
    shell_close(s);
}

TEST(a_fast_site_that_left_holds_nobody_back_and_counts_again_when_it_returns) {
    struct shell *s = shell_open(DYLU, 4);
    shell_following(s, FAST, true);
    train(s, ALL, 10, 60);
    CHECK_EQUAL(shell_heartbeat(s, HALF), 20);
    shell_following(s, FAST, false);
    train(s, ALL & ~(1u << FAST), 10, 122); /* away_after is two minutes */
    CHECK_EQUAL(shell_heartbeat(s, HALF), 40);
    CHECK_EQUAL(shell_heartbeat(s, TENTH), 8);
    train(s, ALL, 10, 1);
    CHECK_EQUAL(shell_heartbeat(s, HALF), 20);
    shell_close(s);
}

TEST(a_site_that_was_away_is_not_taken_for_slow) {
    struct shell *s = shell_open(DYLU, 4);
    train(s, ALL, 10, 60);
    train(s, ALL & ~(1u << FAST), 10, 600);
    train(s, ALL, 10, 2); /* its first contribution afterwards has two seconds' steps: nobody knows
                             what it did before */
    CHECK_EQUAL(shell_heartbeat(s, FAST), 40);
    CHECK_EQUAL(shell_heartbeat(s, HALF), 20);
    shell_close(s);
}

TEST(a_pause_counts_as_no_time) {
    struct shell *s = shell_open(DYLU, 4);
    train(s, ALL, 10, 20);
    shell_wait(s, 300);
    shell_admin(s, ORDER_PAUSE, "");
    shell_settle(s);
    for (int i = 0; i < 100; i++) {
        shell_wait(s, 10000);
        for (uint32_t site = 1; site <= TWIN; site++) shell_heartbeat(s, site);
    }
    shell_admin(s, ORDER_RESUME, "");
    shell_settle(s);
    CHECK_TEXT(run_state_reason(shell_run(s)), ""); /* the pause is over, and so is its reason */
    shell_wait(s, 700);
    give(s, FAST, 0, 10);
    CHECK_EQUAL(shell_heartbeat(s, FAST), 40);
    CHECK_EQUAL(shell_heartbeat(s, HALF), 20);
    CHECK_EQUAL(shell_heartbeat(s, TENTH), 5);
    shell_close(s);
}

TEST(a_site_that_is_there_and_offers_nothing_is_the_fastest_no_more) {
    struct shell *s = shell_open(DYLU, 4);
    train(s, ALL, 10, 60);
    uint32_t before = shell_heartbeat(s, HALF);
    for (unsigned second = 1; second <= 120; second++) { /* it is heard, and its trainer hangs */
        shell_heartbeat(s, FAST);
        shell_heartbeat(s, TWIN);
        train(s, ALL & ~(1u << FAST), 10, 2);
    }
    CHECK_EQUAL(before, 20);
    CHECK_EQUAL(shell_heartbeat(s, HALF), 40);
    shell_close(s);
}

TEST(a_slow_newcomer_need_not_end_a_whole_round_first) {
    struct shell *s = shell_open(DYLU, 4);
    train(s, ALL & ~(1u << TENTH), 10, 20);
    CHECK_EQUAL(shell_heartbeat(s, TENTH), 40);
    for (int i = 0; i < 16; i++) {
        train(s, ALL & ~(1u << TENTH), 10, 2);
        shell_heartbeat(s, TENTH);
    }
    CHECK_EQUAL(shell_heartbeat(s, TENTH),
                5); /* 40 steps in 32 s at the most: an eighth of the fastest */
    shell_close(s);
}

TEST(what_a_site_has_under_way_is_not_held_against_it) {
    struct shell *s = shell_open(
        "merge: {quorum: 3, grace: 1h, warmup_steps: 0}\ninner: {inner_steps: 40, dylu: true}\n",
        3);
    for (int round = 0; round < 4; round++) {
        shell_wait(s, 1000);
        for (uint32_t site = 1; site <= 2; site++) {
            struct ledger_entry header = shell_header(s, site, 0);
            shell_contribute_header(s, site, &header);
        }
        for (int i = 0; i < 60;
             i++) { /* the third takes its time, and the others are heard meanwhile */
            shell_wait(s, 1000);
            for (uint32_t site = 1; site <= 3; site++) shell_heartbeat(s, site);
        }
        give(s, 3, 0, 30);
    }
    CHECK_EQUAL(shell_heartbeat(s, 1), 40);
    CHECK_EQUAL(shell_heartbeat(s, 3), 40);
    shell_close(s);
}

TEST(time_in_which_a_site_waits_for_its_merge_is_not_counted_where_it_does_not_train_then) {
    struct shell *s = shell_open(
        "merge: {quorum: 2, grace: 1h, warmup_steps: 0}\ninner: {inner_steps: 40, dylu: true}\n",
        2);
    s->waits = true;
    for (int round = 0; round < 6;
         round++) { /* 40 steps take site 1 four seconds and site 2 eight; both begin together */
        shell_wait(s, 4000);
        struct contribution c =
            fixture_contribution(s->f, 1, 0, run_state_version(s->f->run), s->payload);
        c.signed_at_ms = s->now.wall_ms;
        c.inner_steps = 40;
        struct ledger_entry header = fixture_signed(s->f, &c, s->f->keys[1]);
        shell_contribute_header(s, 1, &header);
        shell_wait(s, 4000);
        shell_heartbeat(s, 1);
        give(s, 2, 0, 40);
    }
    CHECK_EQUAL(shell_heartbeat(s, 1), 40);
    CHECK_EQUAL(shell_heartbeat(s, 2), 20);
    shell_close(s);
}

/* Site 1 waits for site 2's part of fragment 0, and meanwhile gives what it has of fragment 1,
 * which took no time of its own. */
TEST(time_in_which_a_site_waits_for_one_fragment_is_not_that_of_another_which_it_gives_meanwhile) {
    struct shell *s = shell_open("fragments: 2\nmerge: {quorum: 2, grace: 1h, warmup_steps: "
                                 "0}\ninner: {inner_steps: 40, dylu: true}\n",
                                 2);
    s->waits = true;
    for (int round = 0; round < 8;
         round++) { /* both do 40 steps in four seconds, and site 2 comes much later */
        shell_wait(s, 4000);
        for (uint32_t fragment = 0; fragment < 2; fragment++) {
            struct contribution c =
                fixture_contribution(s->f, 1, fragment, run_state_version(s->f->run), s->payload);
            c.signed_at_ms = s->now.wall_ms;
            c.inner_steps = 40;
            struct ledger_entry header = fixture_signed(s->f, &c, s->f->keys[1]);
            shell_contribute_header(s, 1, &header);
            shell_settle(s);
            shell_wait(s, 9000);
            shell_heartbeat(s, 1);
            shell_heartbeat(s, 2);
        }
        give(s, 2, 0, 40 * 11 / 2); /* it has trained all the time */
        give(s, 2, 1, 40 * 11 / 2);
    }
    CHECK_EQUAL(shell_heartbeat(s, 1), 40);
    CHECK_EQUAL(shell_heartbeat(s, 2), 40);
    shell_close(s);
}

/* There is one place, and site 3 sits on it for twenty seconds while site 1, as fast as site 2,
 * asks and is told to come later. */
TEST(time_in_which_there_is_no_room_for_a_contribution_is_that_of_the_next_one) {
    struct shell *s = shell_open_unstarted(
        "merge: {quorum: 1, grace: 0s, warmup_steps: 0}\ninner: {inner_steps: 40, dylu: true}\n",
        3);
    s->options.uploads_limit = 1;
    shell_start(s, s->f->run);
    for (int round = 0; round < 6; round++) {
        shell_wait(s, 4000);
        struct ledger_entry hog = shell_header(s, 3, 0);
        uint64_t held = shell_submit(s, 3, &hog);
        struct contribution c =
            fixture_contribution(s->f, 1, 0, run_state_version(s->f->run), s->payload);
        c.signed_at_ms = s->now.wall_ms;
        c.inner_steps = 40;
        struct ledger_entry header = fixture_signed(s->f, &c, s->f->keys[1]);
        EXPECT_REFUSAL(s, shell_submit(s, 1, &header), REFUSED_BUSY);
        for (int second = 0; second < 20; second++) {
            shell_wait(s, 1000);
            shell_heartbeat(s, 1);
            shell_heartbeat(s, 2);
        }
        shell_plain(s, COORDINATOR_CALL_GONE, held);
        shell_contribute_header(s, 1, &header);
        shell_settle(s);
        give(s, 1, 0, 200);
        give(s, 2, 0, 240);
    }
    CHECK_EQUAL(shell_heartbeat(s, 1), 40);
    CHECK_EQUAL(shell_heartbeat(s, 2), 40);
    shell_close(s);
}

/* Site 1 is told that there is no room and has a minute to come again, while site 2 goes on at the
 * same speed. */
TEST(a_site_that_was_told_to_come_later_is_not_taken_for_slow_until_it_should_have_come) {
    struct shell *s = shell_open_unstarted(
        "merge: {quorum: 1, grace: 0s, warmup_steps: 0}\ninner: {inner_steps: 40, dylu: true}\n",
        3);
    s->options.uploads_limit = 1;
    shell_start(s, s->f->run);
    for (int round = 0; round < 6; round++) {
        shell_wait(s, 4000);
        give(s, 1, 0, 40);
        give(s, 2, 0, 40);
    }
    struct ledger_entry hog = shell_header(s, 3, 0), header = shell_header(s, 1, 0);
    uint64_t held = shell_submit(s, 3, &hog);
    EXPECT_REFUSAL(s, shell_submit(s, 1, &header), REFUSED_BUSY);
    shell_plain(s, COORDINATOR_CALL_GONE, held);
    uint32_t told[2];
    for (int half = 0; half < 2; half++) {
        for (int round = 0; round < 13; round++) { /* 52 seconds */
            shell_wait(s, 4000);
            give(s, 2, 0, 40);
            told[half] = shell_heartbeat(s, 1);
        }
    }
    CHECK_EQUAL(told[0], 40);
    CHECK(told[1] < 20);
    shell_close(s);
}

TEST(fragments_that_come_unevenly_add_up_to_the_sites_speed) {
    struct shell *s = shell_open("fragments: 2\nmerge: {quorum: 1, grace: 0s, warmup_steps: "
                                 "0}\ninner: {inner_steps: 40, dylu: true}\n",
                                 2);
    for (int round = 0; round < 12;
         round++) { /* site 1 does 40 steps in 4 s, site 2 in 8; fragment 1 comes soon after 0 */
        give(s, 1, 0, 40);
        if (round % 2 == 0) give(s, 2, 0, 40);
        shell_wait(s, 800);
        give(s, 1, 1, 40);
        shell_wait(s, 800);
        if (round % 2 == 0) give(s, 2, 1, 40);
        shell_wait(s, 2400);
    }
    uint32_t half = shell_heartbeat(s, 2);
    CHECK(half >= 15 && half <= 25);
    shell_close(s);
}

#define FOUR                                                                                       \
    "fragments: 4\nmerge: {quorum: 1, grace: 0s, warmup_steps: 0}\ninner: {inner_steps: 40, "      \
    "dylu: true}\nadmission: {expiry: "                                                            \
    "0}\n"

/* Rounds in which site 1 does 40 steps in 4 s and site 2 in 8, each fragment of both in its turn.
 */
static void four(struct shell *s, int rounds) {
    for (int tenth = 0; tenth < rounds * 40; tenth++) {
        if (tenth % 10 == 0) give(s, 1, (uint32_t)tenth / 10 % 4, 40);
        if (tenth % 20 == 0) give(s, 2, (uint32_t)tenth / 20 % 4, 40);
        if (tenth % 10 == 0) shell_heartbeat(s, 1), shell_heartbeat(s, 2);
        shell_wait(s, 100);
    }
}

TEST(a_site_that_comes_back_and_gives_each_fragment_what_it_did_meanwhile_is_not_taken_for_fast) {
    struct shell *s = shell_open(FOUR, 2);
    four(s, 12);
    CHECK_EQUAL(shell_heartbeat(s, 1), 40);
    CHECK_EQUAL(shell_heartbeat(s, 2), 20);
    for (int i = 0; i < 600; i++) { /* site 2 is cut off for ten minutes, and trains on */
        shell_wait(s, 1000);
        shell_heartbeat(s, 1);
        give(s, 1, (uint32_t)i % 4, 40);
    }
    for (uint32_t fragment = 0; fragment < 4; fragment++) {
        give(s, 2, fragment, 3000);
        shell_wait(s, 50);
    }
    CHECK_EQUAL(shell_heartbeat(s, 1), 40); /* nobody is held back by it */
    CHECK_EQUAL(shell_heartbeat(s, 2), 20);
    shell_wait(s, 2000);
    four(s, 8);
    CHECK_EQUAL(shell_heartbeat(s, 1), 40);
    uint32_t half = shell_heartbeat(s, 2);
    CHECK(half >= 18 && half <= 22);
    shell_close(s);
}

TEST(fragments_of_a_site_that_was_started_again_count_from_its_start_on) {
    struct shell *s = shell_open(FOUR, 2);
    four(s, 12);
    shell_following(s, 2, true);
    shell_following(s, 2, false);
    s->instance = 5; /* what it trained before is in what each fragment gives first */
    shell_heartbeat(s, 2);
    for (uint32_t fragment = 0; fragment < 4; fragment++) {
        give(s, 2, fragment, 500);
        shell_wait(s, 10);
    }
    s->instance = 0;
    CHECK_EQUAL(shell_heartbeat(s, 1), 40);
    shell_close(s);
}

TEST(fragments_that_wait_for_a_slow_upload_count_the_time_that_their_steps_took) {
    struct shell *s = shell_open(FOUR, 2);
    for (int round = 0; round < 24;
         round++) { /* site 2 does 5 steps per second and gives all four in a row, every 8 s */
        for (int second = 0; second < 8; second++) {
            shell_wait(s, 1000);
            shell_heartbeat(s, 2);
            for (uint32_t fragment = 0; fragment < 4; fragment++) {
                if (second % 4 == (int)fragment) give(s, 1, fragment, 40);
                if (second == 7) give(s, 2, fragment, 40);
            }
        }
    }
    CHECK_EQUAL(shell_heartbeat(s, 1), 40);
    CHECK_EQUAL(shell_heartbeat(s, 2), 20);
    shell_close(s);
}

/* Sends what was trained; its merge waits for the other's. */
static void offer(struct shell *s, uint32_t site, uint32_t fragment, uint32_t steps) {
    struct contribution c =
        fixture_contribution(s->f, site, fragment, run_state_version(s->f->run), s->payload);
    c.signed_at_ms = s->now.wall_ms;
    c.inner_steps = steps;
    struct ledger_entry header = fixture_signed(s->f, &c, s->f->keys[site]);
    shell_contribute_header(s, site, &header);
}

TEST(waits_for_merges_are_left_out_of_each_fragments_time) {
    struct shell *s = shell_open("fragments: 2\nmerge: {quorum: 2, grace: 1h, warmup_steps: 0}\n"
                                 "inner: {inner_steps: 40, dylu: true}\n",
                                 2);
    s->waits = true;
    for (int half = 0; half < 24; half++) { /* 20 steps take site 1 two seconds and site 2 four;
                                               then it is the next one's turn */
        shell_wait(s, 2000);
        offer(s, 1, (uint32_t)half % 2, 40);
        shell_wait(s, 2000);
        shell_heartbeat(s, 1);
        offer(s, 2, (uint32_t)half % 2, 40);
        shell_settle(s);
    }
    CHECK_EQUAL(shell_heartbeat(s, 1), 40);
    CHECK_EQUAL(shell_heartbeat(s, 2), 20);
    shell_close(s);
}

TEST(a_step_more_that_a_waiting_site_trains_for_others_does_not_make_it_fast) {
    struct shell *s = shell_open("fragments: 2\nmerge: {quorum: 2, grace: 1h, warmup_steps: 0}\n"
                                 "inner: {inner_steps: 40, dylu: true}\n",
                                 2);
    s->waits = true;
    for (int half = 0; half < 24; half++) { /* both as fast; they are due on different fragments,
                                               and each gives a step of the other's */
        shell_wait(s, 4000);
        offer(s, 1, 0, 40);
        shell_wait(s, 100);
        offer(s, 2, 1, 40);
        shell_wait(s, 2000);
        offer(s, 1, 1, 40);
        shell_settle(s);
        offer(s, 2, 0, 40);
        shell_settle(s);
    }
    CHECK(shell_heartbeat(s, 1) >= 36);
    CHECK(shell_heartbeat(s, 2) >= 36);
    shell_close(s);
}

TEST(without_dylu_everybody_does_the_same) {
    struct shell *s = shell_open(
        "merge: {quorum: 1, grace: 0s, warmup_steps: 0}\ninner: {inner_steps: 30, dylu: false}\n",
        2);
    give(s, 1, 0, 30);
    shell_wait(s, 1000);
    give(s, 1, 0, 30);
    shell_wait(s, 10000);
    CHECK_EQUAL(shell_heartbeat(s, 2), 30);
    shell_close(s);
}

/* ---- how often ------------------------------------------------------------------------------- */

/* Tries every 10 ms for so long, each fragment in turn, while the sites before `others` are there;
 * how often it was let in. */
static uint32_t flood(struct shell *s, uint32_t site, uint32_t others, uint32_t ms) {
    uint32_t made = 0, fragments = run_state_manifest(s->f->run)->fragments;
    for (uint32_t at = 0; at < ms; at += 10) {
        for (uint32_t other = 1; other < others && at % 1000 == 0; other++)
            shell_heartbeat(s, other);
        shell_wait(s, 10);
        struct contribution c = fixture_contribution(s->f, site, at / 10 % fragments,
                                                     run_state_version(s->f->run), s->payload);
        c.signed_at_ms = s->now.wall_ms;
        c.inner_steps = 1000; /* whatever it says */
        struct ledger_entry header = fixture_signed(s->f, &c, s->f->keys[site]);
        uint64_t call = shell_submit(s, site, &header);
        if (!shell_find(s, DO_ADMIT)) {
            EXPECT_REFUSAL(s, call, REFUSED_BUSY);
            CHECK(shell_find(s, DO_REFUSE)->retry_after_ms > 0);
            continue;
        }
        shell_uploaded(s, call, ACCEPTED);
        shell_checked(s, call, ACCEPTED);
        shell_settle(s);
        made++;
    }
    return made;
}

#define FLOODED "merge: {quorum: 1, grace: 0s, warmup_steps: 0, staleness_cap: 16}\n"

TEST(a_site_that_floods_makes_eight_contributions_in_a_round_of_the_others) {
    struct shell *s = shell_open(FLOODED, 4);
    for (int round = 0; round < 3; round++) {
        for (uint32_t site = 1; site <= 3; site++) give(s, site, 0, 40);
        shell_wait(s, 4000);
    }
    uint32_t made = flood(s, 4, 4, 4000);
    CHECK(made >= 7 && made <= 9);
    made += flood(s, 4, 4, 4000);
    CHECK(made >= 15 && made <= 17);
    shell_close(s);
}

TEST(a_flood_from_the_start_does_not_make_the_first_contribution_of_others_stale) {
    struct shell *s = shell_open(FLOODED, 3);
    for (uint32_t site = 1; site <= 3; site++) shell_heartbeat(s, site);
    struct ledger_entry first[2] = {shell_header(s, 1, 0), shell_header(s, 2, 0)};
    CHECK(flood(s, 3, 3, 10000) <= 11);
    for (uint32_t site = 1; site <= 2; site++) {
        shell_submit(s, site, &first[site - 1]);
        CHECK(shell_find(s, DO_ADMIT));
    }
    shell_close(s);
}

TEST(who_was_refused_as_stale_still_says_how_long_a_round_is) {
    struct shell *s = shell_open(FLOODED, 3);
    for (uint32_t site = 1; site <= 3; site++) shell_heartbeat(s, site);
    struct ledger_entry first[2] = {shell_header(s, 1, 0), shell_header(s, 2, 0)};
    CHECK(flood(s, 3, 3, 40000) > 16);
    for (uint32_t site = 1; site <= 2; site++)
        EXPECT_REFUSAL(s, shell_submit(s, site, &first[site - 1]), REFUSED_REBASE);
    CHECK(flood(s, 3, 3, 40000) <= 9);
    shell_close(s);
}

TEST(an_observer_says_nothing_of_how_long_a_round_is) {
    struct shell *s = shell_open_unstarted(FLOODED, 1);
    shell_start_with_observer(s, 2);
    shell_heartbeat(s, 1);
    shell_heartbeat(s, 2);
    /* the only one that trains makes nobody stale, however fast it is */
    for (int round = 0; round < 5; round++) {
        give(s, 1, 0, 40);
        shell_wait(s, 100);
        shell_heartbeat(s, 2);
    }
    shell_close(s);
}

static void offer_stale(struct shell *s, uint32_t site, uint64_t number, bool is_first) {
    struct contribution c = fixture_contribution(s->f, site, 0, 0, s->payload);
    c.sequence += number;
    c.signed_at_ms = s->now.wall_ms;
    struct ledger_entry header = fixture_signed(s->f, &c, s->f->keys[site]);
    uint64_t call = shell_submit(s, site, &header);
    if (!is_first) EXPECT_REFUSAL(s, call, REFUSED_REBASE);
}

/* What they had made before they came was offered at once; then each offer is refused as stale. */
TEST(who_is_refused_as_stale_again_and_again_still_says_how_long_a_round_is) {
    struct shell *s = shell_open(FLOODED, 3);
    for (uint32_t site = 1; site <= 3; site++) shell_heartbeat(s, site);
    uint32_t made = 0;
    for (uint64_t round = 0; round < 3; round++) {
        for (uint32_t site = 1; site <= 2; site++) offer_stale(s, site, round, round == 0);
        made = flood(s, 3, 3, 8000);
        if (round == 0) CHECK(made > 16);
    }
    CHECK(made >= 7 && made <= 9);
    shell_close(s);
}

/* ... and each comes again from another base, at once. */
TEST(who_offers_again_at_once_what_was_refused_as_stale_says_how_long_a_round_is_too) {
    struct shell *s = shell_open(FLOODED, 3);
    for (uint32_t site = 1; site <= 3; site++) shell_heartbeat(s, site);
    uint32_t made = 0;
    for (uint64_t round = 0; round < 3; round++) {
        for (uint32_t site = 1; site <= 2; site++) offer_stale(s, site, 2 * round, round == 0);
        shell_wait(s, 20);
        for (uint32_t site = 1; site <= 2 && round > 0; site++)
            offer_stale(s, site, 2 * round + 1, false);
        made = flood(s, 3, 3, 8000);
    }
    CHECK(made >= 7 && made <= 9);
    shell_close(s);
}

static void offer_stale_of(struct shell *s, uint32_t site, uint32_t fragment, uint64_t number,
                           bool is_refused) {
    struct contribution c = fixture_contribution(s->f, site, fragment, 0, s->payload);
    c.sequence += number;
    c.signed_at_ms = s->now.wall_ms;
    struct ledger_entry header = fixture_signed(s->f, &c, s->f->keys[site]);
    uint64_t call = shell_submit(s, site, &header);
    if (is_refused)
        EXPECT_REFUSAL(s, call, REFUSED_REBASE);
    else
        CHECK(shell_find(s, DO_ADMIT));
}

/* Both fragments are refused together, and both come again at once. */
TEST(of_several_fragments_what_is_offered_again_at_once_is_no_round) {
    struct shell *s = shell_open("fragments: 2\n" FLOODED, 3);
    for (uint32_t site = 1; site <= 3; site++) shell_heartbeat(s, site);
    CHECK(flood(s, 3, 3, 40000) > 34);
    uint64_t number = 0;
    uint32_t made = 0;
    for (int round = 0; round < 3; round++) {
        for (int again = 0; again < 2; again++) {
            for (uint32_t fragment = 0; fragment < 2; fragment++, number++)
                for (uint32_t site = 1; site <= 2; site++)
                    offer_stale_of(s, site, fragment, number, true);
            shell_wait(s, 20);
        }
        made = flood(s, 3, 3, 8000);
    }
    CHECK(made >= 14 && made <= 18); /* of both fragments */
    shell_close(s);
}

/* A message that comes again over a new call is not a new one, whatever came in between. */
TEST(of_several_fragments_the_same_messages_over_new_calls_are_no_rounds) {
    struct shell *s = shell_open("fragments: 2\n" FLOODED, 3);
    for (uint32_t site = 1; site <= 3; site++) shell_heartbeat(s, site);
    CHECK(flood(s, 3, 3, 40000) > 34);
    uint64_t number = 0;
    uint32_t made = 0;
    for (int round = 0; round < 3; round++, number += 2) {
        for (int again = 0; again < 3; again++) {
            for (uint32_t fragment = 0; fragment < 2; fragment++)
                for (uint32_t site = 1; site <= 2; site++)
                    offer_stale_of(s, site, fragment, number + fragment, true);
            shell_wait(s, 20);
        }
        made = flood(s, 3, 3, 8000);
    }
    CHECK(made >= 14 && made <= 18); /* of both fragments */
    shell_close(s);
}

TEST(nobody_waits_for_those_who_only_follow_or_have_left) {
    struct shell *s = shell_open(FLOODED, 2);
    give(s, 2, 0, 40);
    shell_wait(s, 3600 * 1000); /* it is not present any more */
    CHECK_EQUAL(flood(s, 1, 1, 1000), 100);
    shell_close(s);
}

TEST(sites_of_one_speed_and_one_seven_times_as_fast_never_wait) {
    struct shell *s = shell_open(FLOODED, 4);
    for (int tick = 0; tick < 40; tick++) {
        give(s, 4, 0, 40); /* fails unless it is admitted */
        for (uint32_t site = 1; site <= 3 && tick % 7 == 0; site++) give(s, site, 0, 40);
        shell_wait(s, 1000);
    }
    shell_close(s);
}
