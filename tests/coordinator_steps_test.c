/* When outer steps start and what they wait for, the end of a run, restarts, snapshots. */
#include "tests/coordinator_fixture.h"

#define PLAIN "merge: {quorum: 2, grace: 10s, warmup_steps: 0, staleness_cap: 2}\n"
#define ALONE "merge: {quorum: 1, grace: 10s, warmup_steps: 0, staleness_cap: 2}\n"

/* ---- when a step starts ---------------------------------------------------------------------- */

TEST(a_step_starts_with_the_quorum) {
    struct brain *b = brain_open(PLAIN, 3);
    brain_contribute(b, 1, 0);
    CHECK(!brain_find(b, DO_APPLY));
    CHECK_EQUAL(b->timer_ms, b->now.monotonic_ms + 10000);
    brain_contribute(b, 2, 0);
    const struct coordinator_action *apply = brain_find(b, DO_APPLY);
    CHECK(apply && apply->step.step.count == 2 && apply->step.step.version == 1);
    brain_settle(b);
    CHECK_EQUAL(run_state_version(brain_run(b)), 1);
    CHECK_EQUAL(run_state_version(b->durable), 1);
    brain_close(b);
}

TEST(a_step_starts_when_the_grace_window_is_over_and_not_before) {
    struct brain *b = brain_open(PLAIN, 3);
    brain_contribute(b, 1, 0);
    brain_wait(b, 9999);
    CHECK(!brain_find(b, DO_APPLY));
    brain_wait(b, 1);
    CHECK(brain_find(b, DO_APPLY));
    brain_settle(b);
    CHECK_EQUAL(run_state_version(brain_run(b)), 1);
    b->timer_ms = UINT64_MAX;
    brain_wait(b, 100000);
    CHECK_EQUAL(b->out.count, 0); /* nothing waits: no step, no timer */
    brain_contribute(b, 2, 0);    /* a window of its own */
    CHECK_EQUAL(b->timer_ms, b->now.monotonic_ms + 10000);
    brain_close(b);
}

TEST(a_window_ends_with_what_it_was_opened_for) {
    struct brain *b = brain_open(PLAIN, 3);
    brain_contribute(b, 1, 0);
    brain_settle(b);
    brain_admin(b, ORDER_REVOKE, "site-1"); /* what waited is dropped */
    brain_settle(b);
    brain_wait(b, 60000);
    brain_contribute(b, 2, 0);
    CHECK(!brain_find(b, DO_APPLY)); /* it waits its own ten seconds */
    CHECK_EQUAL(b->timer_ms, b->now.monotonic_ms + 10000);
    brain_close(b);
}

TEST(an_infinite_window_waits_for_the_quorum_and_never_longer_than_there_are_sites) {
    struct brain *b = brain_open("merge: {quorum: 3, grace: forever, warmup_steps: 0}\n", 3);
    brain_contribute(b, 1, 0);
    brain_contribute(b, 2, 0);
    brain_wait(b, UINT64_C(1) << 40);
    CHECK(!brain_find(b, DO_APPLY) && !brain_find(b, DO_TIMER));
    brain_admin(b, ORDER_REVOKE, "site-3"); /* two are all there are now */
    CHECK(brain_find(b, DO_APPLY));
    brain_settle(b);
    CHECK_EQUAL(run_state_version(brain_run(b)), 1);
    brain_close(b);
}

TEST(one_step_at_a_time_and_what_comes_meanwhile_goes_into_the_next) {
    struct brain *b = brain_open(ALONE, 3);
    brain_contribute(b, 1, 0);
    CHECK(b->applying);
    brain_contribute(b, 2, 0);
    brain_contribute(b, 3, 0);
    CHECK(!brain_find(b, DO_APPLY));
    brain_applied(b);
    const struct coordinator_action *apply = brain_find(b, DO_APPLY);
    CHECK(apply && apply->step.step.version == 2 && apply->step.step.count == 2);
    brain_settle(b);
    CHECK_EQUAL(run_state_version(b->durable), 2);
    brain_close(b);
}

TEST(the_fragment_that_waited_longest_goes_first) {
    struct brain *b =
        brain_open("fragments: 3\nmerge: {quorum: 2, grace: 10s, warmup_steps: 0}\n", 3);
    brain_contribute(b, 1, 2);
    brain_wait(b, 10);
    brain_contribute(b, 1, 0);
    brain_wait(b, 20000);
    CHECK_EQUAL(brain_find(b, DO_APPLY)->step.step.fragment, 2);
    brain_applied(b);
    CHECK_EQUAL(brain_find(b, DO_APPLY)->step.step.fragment, 0);
    brain_settle(b);
    brain_close(b);
}

TEST(roots_are_recorded_every_nth_version) {
    struct brain *b = brain_open(ALONE "root_interval: 3\n", 1);
    for (uint64_t version = 1; version <= 7; version++) {
        brain_contribute(b, 1, 0);
        brain_settle(b);
        uint64_t of;
        uint8_t root[DIGEST_SIZE];
        run_state_root(brain_run(b), &of, root);
        CHECK_EQUAL(of, version / 3 * 3);
    }
    brain_close(b);
}

/* ---- warm-up: everybody who is there --------------------------------------------------------- */

#define WARM "merge: {quorum: 1, grace: 1s, warmup_steps: 2, warmup_grace: 1m}\n"

TEST(the_first_steps_wait_for_every_connected_site) {
    struct brain *b = brain_open(WARM, 3);
    for (uint32_t site = 1; site <= 3; site++) brain_following(b, site, true);
    for (int round = 0; round < 2; round++) {
        brain_contribute(b, 1, 0);
        brain_contribute(b, 2, 0);
        brain_wait(b, 30000); /* more than the grace window of later */
        CHECK(!brain_find(b, DO_APPLY));
        brain_contribute(b, 3, 0);
        CHECK_EQUAL(brain_find(b, DO_APPLY)->step.step.count, 3);
        brain_settle(b);
    }
    brain_contribute(b, 1, 0); /* warm: a quorum of one is enough */
    CHECK(brain_find(b, DO_APPLY));
    brain_close(b);
}

TEST(a_site_that_died_does_not_hold_up_the_first_step_for_longer_than_the_warmup_window) {
    struct brain *b = brain_open(WARM, 2);
    brain_following(b, 1, true);
    brain_following(b, 2,
                    true); /* connected as far as anybody can tell, but it says nothing more */
    brain_contribute(b, 1, 0);
    CHECK_EQUAL(b->timer_ms, b->now.monotonic_ms + 60000);
    brain_wait(b, 59999);
    CHECK(!brain_find(b, DO_APPLY));
    brain_wait(b, 1);
    CHECK_EQUAL(brain_find(b, DO_APPLY)->step.step.count, 1);
    brain_close(b);
}

TEST(a_site_that_hung_up_is_not_waited_for) {
    struct brain *b = brain_open(WARM, 2);
    brain_following(b, 1, true);
    brain_following(b, 2, true);
    brain_contribute(b, 1, 0);
    brain_following(b, 2, false);
    CHECK(!brain_find(b, DO_APPLY)); /* it was heard a moment ago: perhaps it comes back */
    brain_wait(b, 30001);
    CHECK(brain_find(b, DO_APPLY));
    brain_close(b);
}

TEST(an_enrolled_site_that_was_never_there_is_not_waited_for) {
    struct brain *b = brain_open(WARM, 3);
    brain_following(b, 1, true);
    brain_contribute(b, 1, 0);
    CHECK(brain_find(b, DO_APPLY));
    brain_close(b);
}

TEST(presence_comes_from_streams_and_from_being_heard) {
    struct brain *b = brain_open(PLAIN, 2);
    CHECK(!coordinator_state_connected(b->state, 1, b->now));
    brain_heartbeat(b, 1);
    CHECK(coordinator_state_connected(b->state, 1, b->now));
    brain_wait(b, 30000);
    CHECK(coordinator_state_connected(b->state, 1, b->now));
    brain_wait(b, 1);
    CHECK(!coordinator_state_connected(b->state, 1, b->now));
    brain_following(b, 1, true);
    brain_following(b, 1, true);
    brain_following(b, 1, false);
    brain_wait(b, 1000000);
    CHECK(coordinator_state_connected(b->state, 1, b->now)); /* one of two streams is left */
    brain_following(b, 1, false);
    brain_following(b, 1, false); /* once too often */
    brain_wait(b, 30001);
    CHECK(!coordinator_state_connected(b->state, 1, b->now));
    brain_following(b, 77, true); /* a certificate of a site that the ledger does not know */
    brain_heartbeat(b, 77);
    CHECK(!coordinator_state_connected(b->state, 77, b->now));
    CHECK(!coordinator_state_connected(b->state, 0, b->now));
    brain_close(b);
}

/* ---- one process of a site at a time --------------------------------------------------------- */

static enum refusal beat(struct brain *b, uint64_t instance) {
    b->instance = instance;
    brain_heartbeat(b, 1);
    const struct coordinator_action *reply = brain_find(b, DO_HEARTBEAT_REPLY);
    if (reply->code == ACCEPTED) b->turn = reply->turn;
    return reply->code;
}

static void follow(struct brain *b, uint64_t instance, bool open) {
    b->instance = instance;
    brain_following(b, 1, open);
}

TEST(a_site_that_runs_twice_is_told_from_one_that_was_started_again_and_who_came_second_is_cut) {
    struct brain *b = brain_open(PLAIN, 1);
    uint64_t ago;
    CHECK_EQUAL(beat(b, 7), ACCEPTED);
    follow(b, 7, true);
    brain_wait(b, 1000);
    uint32_t turn = b->turn;
    CHECK_EQUAL(
        beat(b, 8),
        REFUSED_HELD); /* perhaps the first is dead, and its connection does not know it yet */
    struct ledger_entry header = brain_header(b, 1, 0);
    b->instance = 8;
    EXPECT_REFUSAL(b, brain_submit(b, 1, &header), REFUSED_HELD);
    follow(b, 8, true);
    CHECK(brain_find(b, DO_END) && brain_find(b, DO_END)->code == REFUSED_HELD);
    b->turn = turn;
    CHECK_EQUAL(beat(b, 7), ACCEPTED); /* said before it was asked: that proves nothing */
    CHECK(!brain_find(b, DO_COPY));
    CHECK_EQUAL(beat(b, 8), REFUSED_HELD);
    CHECK_EQUAL(beat(b, 7), ACCEPTED); /* it answers, so both are alive */
    CHECK(brain_find(b, DO_COPY));
    CHECK_CONTAINS(brain_find(b, DO_COPY)->message, "runs twice");
    CHECK_EQUAL(brain_find(b, DO_HEARTBEAT_REPLY)->copies, 1);
    CHECK_EQUAL(coordinator_state_copies(b->state, 1, b->now, &ago), 1);
    CHECK_EQUAL(beat(b, 8), REFUSED_COPY);
    b->instance = 8;
    EXPECT_REFUSAL(b, brain_submit(b, 1, &header), REFUSED_COPY);
    CHECK_EQUAL(beat(b, 7), ACCEPTED);
    CHECK(!brain_find(b, DO_COPY)); /* told once */
    b->instance = 7;
    brain_contribute_header(b, 1, &header);
    brain_close(b);
}

TEST(a_site_that_was_started_again_takes_its_place_as_soon_as_the_last_process_is_gone) {
    struct brain *b = brain_open(PLAIN, 1);
    beat(b, 7);
    follow(b, 7, true);
    follow(b, 7, false); /* it was killed: its connections end */
    CHECK_EQUAL(beat(b, 8), ACCEPTED);
    follow(b, 8, true);
    follow(b, 9, false); /* of nobody who counts */
    brain_wait(b, 60000);
    CHECK(coordinator_state_connected(b->state, 1, b->now));
    brain_close(b);
}

TEST(a_process_whose_host_was_lost_holds_the_place_no_longer_than_its_connection_lasts) {
    struct brain *b = brain_open(PLAIN, 1);
    beat(b, 7);
    follow(b, 7, true);
    CHECK_EQUAL(beat(b, 8), REFUSED_HELD);
    brain_wait(b, 20000);
    CHECK_EQUAL(beat(b, 8), REFUSED_HELD);
    follow(b, 7, false);                   /* a keepalive went without an answer */
    CHECK_EQUAL(beat(b, 8), REFUSED_HELD); /* or its link broke for a moment, and it comes back */
    brain_wait(b, 6000);
    CHECK_EQUAL(beat(b, 8), ACCEPTED);
    CHECK_EQUAL(
        beat(b, 7),
        ACCEPTED); /* nobody follows: it takes the place, and now 8 is the one that comes second */
    follow(b, 7, true);
    CHECK_EQUAL(beat(b, 8), REFUSED_HELD);
    brain_close(b);
}

TEST(a_broken_link_does_not_give_the_place_to_who_was_refused_it) {
    struct brain *b = brain_open(PLAIN, 1);
    beat(b, 7);
    follow(b, 7, true);
    CHECK_EQUAL(beat(b, 8), REFUSED_HELD);
    follow(b, 7, false);
    brain_wait(b, 1000);
    CHECK_EQUAL(beat(b, 8), REFUSED_HELD);
    CHECK_EQUAL(beat(b, 7), ACCEPTED);
    follow(b, 7, true);
    CHECK_EQUAL(beat(b, 7), ACCEPTED);
    CHECK_EQUAL(beat(b, 8), REFUSED_COPY);
    brain_close(b);
}

/* Sequences from two holders, one after the other: nobody is there beside it. */
TEST(a_process_that_lacks_what_the_ledger_has_of_its_site_is_cut_and_everybody_is_told) {
    struct brain *b = brain_open(ALONE, 2);
    uint64_t ago;
    follow(b, 7, true);
    for (int i = 0; i < 3; i++) {
        brain_contribute(b, 1, 0);
        brain_settle(b);
    }
    b->made_plus_1 = 2; /* its link breaks, and it says what it knew when it began to connect */
    follow(b, 7, true);
    CHECK(!brain_find(b, DO_COPY) && !brain_find(b, DO_END));
    follow(b, 7, false);
    follow(b, 7, false);
    b->made_plus_1 =
        4; /* a crash, and it is started again: a message is in its journal before it is sent */
    follow(b, 8, true);
    CHECK(!brain_find(b, DO_COPY) && !brain_find(b, DO_END));
    follow(b, 8, false);
    b->made_plus_1 = 2; /* a copy that was made after the first of them */
    follow(b, 9, true);
    CHECK(brain_find(b, DO_COPY) && brain_find(b, DO_END));
    CHECK_CONTAINS(brain_find(b, DO_COPY)->message,
                   "site-1 came back without its contributions 2 to 3");
    CHECK_EQUAL(brain_find(b, DO_END)->code, REFUSED_COPY);
    CHECK_CONTAINS(brain_find(b, DO_END)->message, "contributions 2 to 3");
    CHECK_CONTAINS(brain_find(b, DO_END)->message, "--restored");
    CHECK_EQUAL(coordinator_state_copies(b->state, 1, b->now, &ago), 1);
    CHECK(!coordinator_state_connected(b->state, 1, b->now));
    follow(b, 9, true); /* again: told once, and not let in */
    CHECK(!brain_find(b, DO_COPY) && brain_find(b, DO_END));
    b->made_plus_1 = 4; /* the one that has them comes at once to its place */
    follow(b, 10, true);
    CHECK(!brain_find(b, DO_END));
    CHECK(coordinator_state_connected(b->state, 1, b->now));
    brain_heartbeat(b, 1);
    CHECK_EQUAL(brain_find(b, DO_HEARTBEAT_REPLY)->copies, 1); /* and learns of the other */
    CHECK_EQUAL(coordinator_state_copies(b->state, 2, b->now, &ago), 0);
    brain_close(b);
}

TEST(of_a_site_that_was_restored_from_a_backup_a_person_says_so) {
    struct brain *b = brain_open(ALONE, 1);
    follow(b, 7, true);
    for (int i = 0; i < 3; i++) {
        brain_contribute(b, 1, 0);
        brain_settle(b);
    }
    follow(b, 7, false);
    b->made_plus_1 = 2;
    follow(b, 8, true);
    CHECK(brain_find(b, DO_END));
    b->restored = true;
    follow(b, 9, true);
    CHECK(!brain_find(b, DO_END) && !brain_find(b, DO_COPY));
    brain_contribute(b, 1, 0); /* it goes on from what the ledger has */
    brain_settle(b);
    b->restored = false;
    b->made_plus_1 = 5;
    follow(b, 9, false);
    follow(b, 10, true); /* from then on as any other */
    CHECK(!brain_find(b, DO_END));
    follow(b, 10, false);
    b->made_plus_1 = 4; /* and what it replaced is the one that is behind */
    follow(b, 11, true);
    CHECK(brain_find(b, DO_END) && brain_find(b, DO_COPY));
    brain_close(b);
}

TEST(another_contribution_of_a_number_that_the_ledger_has_is_of_a_copy) {
    struct brain *b = brain_open(ALONE, 1);
    b->made_plus_1 = 1;
    follow(b, 7, true);
    struct ledger_entry header = brain_header(b, 1, 0);
    struct contribution other =
        fixture_contribution(b->f, 1, 0, run_state_version(b->f->run), b->payload);
    other.signed_at_ms = b->now.wall_ms;
    other.inner_steps++;
    struct ledger_entry twin = fixture_signed(b->f, &other, b->f->keys[1]);
    brain_contribute_header(b, 1, &header);
    brain_settle(b);
    follow(b, 7, false);
    b->made_plus_1 =
        2; /* both made one of that number; the one that comes later has its own in its journal */
    b->instance = 8;
    /* what it says when it follows is on its way */
    EXPECT_REFUSAL(b, brain_submit(b, 1, &twin), REFUSED_HELD);
    follow(b, 8, true);
    CHECK(!brain_find(b, DO_END));
    b->instance = 8;
    /* that one is the ledger's */
    EXPECT_REFUSAL(b, brain_submit(b, 1, &header), REFUSED_DUPLICATE);
    EXPECT_REFUSAL(b, brain_submit(b, 1, &twin), REFUSED_COPY);
    CHECK(brain_find(b, DO_COPY));
    CHECK_CONTAINS(brain_find(b, DO_REFUSE)->message,
                   "contributions 1 to 1 of this site were made elsewhere");
    uint64_t ago;
    CHECK_EQUAL(coordinator_state_copies(b->state, 1, b->now, &ago), 1);
    brain_close(b);
}

TEST(a_heartbeat_of_a_site_that_was_revoked_as_it_was_under_way_decides_nothing) {
    struct brain *b = brain_open(ALONE, 2);
    b->instance = 7;
    brain_contribute(b, 1, 0);
    brain_settle(b);
    brain_wait(b, 10000);
    brain_settle(b);
    b->instance = 10;
    brain_following(b, 1, true);
    b->instance = 11; /* another process: refused, and its place is in question */
    brain_heartbeat(b, 1);
    b->instance = 10;
    brain_following(b, 1, false);
    b->made_plus_1 = 1; /* and the first one comes back without what it made */
    brain_following(b, 1, true);
    brain_admin(b, ORDER_REVOKE, "site-1");
    struct coordinator_event event = {.kind = COORDINATOR_HEARTBEAT, .call = ++b->last_call};
    event.heartbeat.site = 1;
    event.heartbeat.instance = 12;
    event.heartbeat.turn = 1;
    brain_step(b, &event);
    CHECK(!b->stopped);
    CHECK(!coordinator_state_connected(b->state, 1, b->now));
    brain_close(b);
}

/* ---- speeds ---------------------------------------------------------------------------------- */

/* A site's next contribution of so many inner steps, merged at once. */
static void give(struct brain *b, uint32_t site, uint32_t fragment, uint32_t steps) {
    struct contribution c =
        fixture_contribution(b->f, site, fragment, run_state_version(b->f->run), b->payload);
    c.signed_at_ms = b->now.wall_ms;
    c.inner_steps = steps;
    struct ledger_entry header = fixture_signed(b->f, &c, b->f->keys[site]);
    brain_contribute_header(b, site, &header);
    brain_settle(b);
}

enum { FAST = 1, HALF = 2, TENTH = 3, TWIN = 4, ALL = 14 };

/* Time passes in which sites 1 to 3 train at 10, 5 and 1 step a second (a bit of `mask` each), and
 * each gives what it has done after every `inner` steps. All are heard. Site 4 does what the first
 * one does: a single voice does not set the pace. */
static void train(struct brain *b, unsigned mask, uint32_t inner, unsigned seconds) {
    static const uint32_t rates[] = {0, 10, 5, 1, 10};
    for (unsigned second = 1; second <= seconds; second++) {
        brain_wait(b, 1000);
        for (uint32_t site = 1; site <= TWIN; site++) {
            if (!(mask >> (site == TWIN ? FAST : site) & 1)) continue;
            brain_heartbeat(b, site);
            if (second * rates[site] % inner == 0) give(b, site, 0, inner);
        }
    }
}
#define DYLU                                                                                       \
    "merge: {quorum: 1, grace: 0s, warmup_steps: 0}\ninner: {inner_steps: 40, dylu: "              \
    "true}\nadmission: {expiry: 0}\n"

TEST(slower_sites_get_fewer_inner_steps_by_what_was_accepted_of_them) {
    struct brain *b = brain_open(DYLU, 4);
    CHECK_EQUAL(brain_heartbeat(b, FAST), 40); /* nothing is known */
    train(b, ALL, 10, 60);
    CHECK_EQUAL(brain_heartbeat(b, FAST), 40);
    CHECK_EQUAL(brain_heartbeat(b, HALF), 20);
    CHECK_EQUAL(brain_heartbeat(b, TENTH), 5); /* an eighth, not a tenth */
    struct coordinator_event event = brain_order(b, ORDER_INNER_STEPS, "");
    event.admin.inner_steps = 100;
    brain_step(b, &event);
    brain_settle(b);
    CHECK_EQUAL(brain_heartbeat(b, HALF), 50);
    CHECK_EQUAL(brain_heartbeat(b, TENTH), 12);
    brain_admin(b, ORDER_REVOKE, "site-1");
    brain_settle(b);
    CHECK_EQUAL(brain_heartbeat(b, HALF), 100);
    CHECK_EQUAL(brain_heartbeat(b, TENTH), 20);
    brain_close(b);
}

TEST(a_fast_site_that_left_holds_nobody_back_and_counts_again_when_it_returns) {
    struct brain *b = brain_open(DYLU, 4);
    brain_following(b, FAST, true);
    train(b, ALL, 10, 60);
    CHECK_EQUAL(brain_heartbeat(b, HALF), 20);
    brain_following(b, FAST, false);
    train(b, ALL & ~(1u << FAST), 10, 31); /* presence is 30 s */
    CHECK_EQUAL(brain_heartbeat(b, HALF), 40);
    CHECK_EQUAL(brain_heartbeat(b, TENTH), 8);
    train(b, ALL, 10, 1);
    CHECK_EQUAL(brain_heartbeat(b, HALF), 20);
    brain_close(b);
}

TEST(a_site_that_was_away_is_not_taken_for_slow) {
    struct brain *b = brain_open(DYLU, 4);
    train(b, ALL, 10, 60);
    train(b, ALL & ~(1u << FAST), 10, 600);
    train(b, ALL, 10, 2); /* its first contribution afterwards has two seconds' steps: nobody knows
                             what it did before */
    CHECK_EQUAL(brain_heartbeat(b, FAST), 40);
    CHECK_EQUAL(brain_heartbeat(b, HALF), 20);
    brain_close(b);
}

TEST(a_pause_counts_as_no_time) {
    struct brain *b = brain_open(DYLU, 4);
    train(b, ALL, 10, 20);
    brain_wait(b, 300);
    brain_admin(b, ORDER_PAUSE, "");
    brain_settle(b);
    for (int i = 0; i < 100; i++) {
        brain_wait(b, 10000);
        for (uint32_t site = 1; site <= TWIN; site++) brain_heartbeat(b, site);
    }
    brain_admin(b, ORDER_RESUME, "");
    brain_settle(b);
    CHECK_TEXT(run_state_reason(brain_run(b)), ""); /* the pause is over, and so is its reason */
    brain_wait(b, 700);
    give(b, FAST, 0, 10);
    CHECK_EQUAL(brain_heartbeat(b, FAST), 40);
    CHECK_EQUAL(brain_heartbeat(b, HALF), 20);
    CHECK_EQUAL(brain_heartbeat(b, TENTH), 5);
    brain_close(b);
}

TEST(a_site_that_is_there_and_offers_nothing_is_the_fastest_no_more) {
    struct brain *b = brain_open(DYLU, 4);
    train(b, ALL, 10, 60);
    uint32_t before = brain_heartbeat(b, HALF);
    for (unsigned second = 1; second <= 120; second++) { /* it is heard, and its trainer hangs */
        brain_heartbeat(b, FAST);
        brain_heartbeat(b, TWIN);
        train(b, ALL & ~(1u << FAST), 10, 2);
    }
    CHECK_EQUAL(before, 20);
    CHECK_EQUAL(brain_heartbeat(b, HALF), 40);
    brain_close(b);
}

TEST(a_slow_newcomer_need_not_end_a_whole_round_first) {
    struct brain *b = brain_open(DYLU, 4);
    train(b, ALL & ~(1u << TENTH), 10, 20);
    CHECK_EQUAL(brain_heartbeat(b, TENTH), 40);
    for (int i = 0; i < 16; i++) {
        train(b, ALL & ~(1u << TENTH), 10, 2);
        brain_heartbeat(b, TENTH);
    }
    CHECK_EQUAL(brain_heartbeat(b, TENTH),
                5); /* 40 steps in 32 s at the most: an eighth of the fastest */
    brain_close(b);
}

TEST(what_a_site_has_under_way_is_not_held_against_it) {
    struct brain *b = brain_open(
        "merge: {quorum: 3, grace: 1h, warmup_steps: 0}\ninner: {inner_steps: 40, dylu: true}\n",
        3);
    for (int round = 0; round < 4; round++) {
        brain_wait(b, 1000);
        for (uint32_t site = 1; site <= 2; site++) {
            struct ledger_entry header = brain_header(b, site, 0);
            brain_contribute_header(b, site, &header);
        }
        for (int i = 0; i < 60;
             i++) { /* the third takes its time, and the others are heard meanwhile */
            brain_wait(b, 1000);
            for (uint32_t site = 1; site <= 3; site++) brain_heartbeat(b, site);
        }
        give(b, 3, 0, 30);
    }
    CHECK_EQUAL(brain_heartbeat(b, 1), 40);
    CHECK_EQUAL(brain_heartbeat(b, 3), 40);
    brain_close(b);
}

TEST(time_in_which_a_site_waits_for_its_merge_is_not_counted_where_it_does_not_train_then) {
    struct brain *b = brain_open(
        "merge: {quorum: 2, grace: 1h, warmup_steps: 0}\ninner: {inner_steps: 40, dylu: true}\n",
        2);
    b->waits = true;
    for (int round = 0; round < 6;
         round++) { /* 40 steps take site 1 four seconds and site 2 eight; both begin together */
        brain_wait(b, 4000);
        struct contribution c =
            fixture_contribution(b->f, 1, 0, run_state_version(b->f->run), b->payload);
        c.signed_at_ms = b->now.wall_ms;
        c.inner_steps = 40;
        struct ledger_entry header = fixture_signed(b->f, &c, b->f->keys[1]);
        brain_contribute_header(b, 1, &header);
        brain_wait(b, 4000);
        brain_heartbeat(b, 1);
        give(b, 2, 0, 40);
    }
    CHECK_EQUAL(brain_heartbeat(b, 1), 40);
    CHECK_EQUAL(brain_heartbeat(b, 2), 20);
    brain_close(b);
}

/* Site 1 waits for site 2's part of fragment 0, and meanwhile gives what it has of fragment 1,
 * which took no time of its own. */
TEST(time_in_which_a_site_waits_for_one_fragment_is_not_that_of_another_which_it_gives_meanwhile) {
    struct brain *b = brain_open("fragments: 2\nmerge: {quorum: 2, grace: 1h, warmup_steps: "
                                 "0}\ninner: {inner_steps: 40, dylu: true}\n",
                                 2);
    b->waits = true;
    for (int round = 0; round < 8;
         round++) { /* both do 40 steps in four seconds, and site 2 comes much later */
        brain_wait(b, 4000);
        for (uint32_t fragment = 0; fragment < 2; fragment++) {
            struct contribution c =
                fixture_contribution(b->f, 1, fragment, run_state_version(b->f->run), b->payload);
            c.signed_at_ms = b->now.wall_ms;
            c.inner_steps = 40;
            struct ledger_entry header = fixture_signed(b->f, &c, b->f->keys[1]);
            brain_contribute_header(b, 1, &header);
            brain_settle(b);
            brain_wait(b, 9000);
            brain_heartbeat(b, 1);
            brain_heartbeat(b, 2);
        }
        give(b, 2, 0, 40 * 11 / 2); /* it has trained all the time */
        give(b, 2, 1, 40 * 11 / 2);
    }
    CHECK_EQUAL(brain_heartbeat(b, 1), 40);
    CHECK_EQUAL(brain_heartbeat(b, 2), 40);
    brain_close(b);
}

/* There is one place, and site 3 sits on it for twenty seconds while site 1, as fast as site 2,
 * asks and is told to come later. */
TEST(time_in_which_there_is_no_room_for_a_contribution_is_that_of_the_next_one) {
    struct brain *b = brain_open_unstarted(
        "merge: {quorum: 1, grace: 0s, warmup_steps: 0}\ninner: {inner_steps: 40, dylu: true}\n",
        3);
    b->options.uploads_limit = 1;
    brain_start(b, b->f->run);
    for (int round = 0; round < 6; round++) {
        brain_wait(b, 4000);
        struct ledger_entry hog = brain_header(b, 3, 0);
        uint64_t held = brain_submit(b, 3, &hog);
        struct contribution c =
            fixture_contribution(b->f, 1, 0, run_state_version(b->f->run), b->payload);
        c.signed_at_ms = b->now.wall_ms;
        c.inner_steps = 40;
        struct ledger_entry header = fixture_signed(b->f, &c, b->f->keys[1]);
        EXPECT_REFUSAL(b, brain_submit(b, 1, &header), REFUSED_BUSY);
        for (int second = 0; second < 20; second++) {
            brain_wait(b, 1000);
            brain_heartbeat(b, 1);
            brain_heartbeat(b, 2);
        }
        brain_plain(b, COORDINATOR_CALL_GONE, held);
        brain_contribute_header(b, 1, &header);
        brain_settle(b);
        give(b, 1, 0, 200);
        give(b, 2, 0, 240);
    }
    CHECK_EQUAL(brain_heartbeat(b, 1), 40);
    CHECK_EQUAL(brain_heartbeat(b, 2), 40);
    brain_close(b);
}

/* Site 1 is told that there is no room and has a minute to come again, while site 2 goes on at the
 * same speed. */
TEST(a_site_that_was_told_to_come_later_is_not_taken_for_slow_until_it_should_have_come) {
    struct brain *b = brain_open_unstarted(
        "merge: {quorum: 1, grace: 0s, warmup_steps: 0}\ninner: {inner_steps: 40, dylu: true}\n",
        3);
    b->options.uploads_limit = 1;
    brain_start(b, b->f->run);
    for (int round = 0; round < 6; round++) {
        brain_wait(b, 4000);
        give(b, 1, 0, 40);
        give(b, 2, 0, 40);
    }
    struct ledger_entry hog = brain_header(b, 3, 0), header = brain_header(b, 1, 0);
    uint64_t held = brain_submit(b, 3, &hog);
    EXPECT_REFUSAL(b, brain_submit(b, 1, &header), REFUSED_BUSY);
    brain_plain(b, COORDINATOR_CALL_GONE, held);
    uint32_t told[2];
    for (int half = 0; half < 2; half++) {
        for (int round = 0; round < 13; round++) { /* 52 seconds */
            brain_wait(b, 4000);
            give(b, 2, 0, 40);
            told[half] = brain_heartbeat(b, 1);
        }
    }
    CHECK_EQUAL(told[0], 40);
    CHECK(told[1] < 20);
    brain_close(b);
}

TEST(fragments_that_come_unevenly_add_up_to_the_sites_speed) {
    struct brain *b = brain_open("fragments: 2\nmerge: {quorum: 1, grace: 0s, warmup_steps: "
                                 "0}\ninner: {inner_steps: 40, dylu: true}\n",
                                 2);
    for (int round = 0; round < 12;
         round++) { /* site 1 does 40 steps in 4 s, site 2 in 8; fragment 1 comes soon after 0 */
        give(b, 1, 0, 40);
        if (round % 2 == 0) give(b, 2, 0, 40);
        brain_wait(b, 800);
        give(b, 1, 1, 40);
        brain_wait(b, 800);
        if (round % 2 == 0) give(b, 2, 1, 40);
        brain_wait(b, 2400);
    }
    uint32_t half = brain_heartbeat(b, 2);
    CHECK(half >= 15 && half <= 25);
    brain_close(b);
}

#define FOUR                                                                                       \
    "fragments: 4\nmerge: {quorum: 1, grace: 0s, warmup_steps: 0}\ninner: {inner_steps: 40, "      \
    "dylu: true}\nadmission: {expiry: "                                                            \
    "0}\n"

/* Rounds in which site 1 does 40 steps in 4 s and site 2 in 8, each fragment of both in its turn.
 */
static void four(struct brain *b, int rounds) {
    for (int tenth = 0; tenth < rounds * 40; tenth++) {
        if (tenth % 10 == 0) give(b, 1, (uint32_t)tenth / 10 % 4, 40);
        if (tenth % 20 == 0) give(b, 2, (uint32_t)tenth / 20 % 4, 40);
        if (tenth % 10 == 0) brain_heartbeat(b, 1), brain_heartbeat(b, 2);
        brain_wait(b, 100);
    }
}

TEST(a_site_that_comes_back_and_gives_each_fragment_what_it_did_meanwhile_is_not_taken_for_fast) {
    struct brain *b = brain_open(FOUR, 2);
    four(b, 12);
    CHECK_EQUAL(brain_heartbeat(b, 1), 40);
    CHECK_EQUAL(brain_heartbeat(b, 2), 20);
    for (int i = 0; i < 600; i++) { /* site 2 is cut off for ten minutes, and trains on */
        brain_wait(b, 1000);
        brain_heartbeat(b, 1);
        give(b, 1, (uint32_t)i % 4, 40);
    }
    for (uint32_t fragment = 0; fragment < 4; fragment++) {
        give(b, 2, fragment, 3000);
        brain_wait(b, 50);
    }
    CHECK_EQUAL(brain_heartbeat(b, 1), 40); /* nobody is held back by it */
    CHECK_EQUAL(brain_heartbeat(b, 2), 20);
    brain_wait(b, 2000);
    four(b, 8);
    CHECK_EQUAL(brain_heartbeat(b, 1), 40);
    uint32_t half = brain_heartbeat(b, 2);
    CHECK(half >= 18 && half <= 22);
    brain_close(b);
}

TEST(fragments_of_a_site_that_was_started_again_count_from_its_start_on) {
    struct brain *b = brain_open(FOUR, 2);
    four(b, 12);
    brain_following(b, 2, true);
    brain_following(b, 2, false);
    b->instance = 5; /* what it trained before is in what each fragment gives first */
    brain_heartbeat(b, 2);
    for (uint32_t fragment = 0; fragment < 4; fragment++) {
        give(b, 2, fragment, 500);
        brain_wait(b, 10);
    }
    b->instance = 0;
    CHECK_EQUAL(brain_heartbeat(b, 1), 40);
    brain_close(b);
}

TEST(fragments_that_wait_for_a_slow_upload_count_the_time_that_their_steps_took) {
    struct brain *b = brain_open(FOUR, 2);
    for (int round = 0; round < 24;
         round++) { /* site 2 does 5 steps per second and gives all four in a row, every 8 s */
        for (int second = 0; second < 8; second++) {
            brain_wait(b, 1000);
            brain_heartbeat(b, 2);
            for (uint32_t fragment = 0; fragment < 4; fragment++) {
                if (second % 4 == (int)fragment) give(b, 1, fragment, 40);
                if (second == 7) give(b, 2, fragment, 40);
            }
        }
    }
    CHECK_EQUAL(brain_heartbeat(b, 1), 40);
    CHECK_EQUAL(brain_heartbeat(b, 2), 20);
    brain_close(b);
}

/* Sends what was trained; its merge waits for the other's. */
static void offer(struct brain *b, uint32_t site, uint32_t fragment, uint32_t steps) {
    struct contribution c =
        fixture_contribution(b->f, site, fragment, run_state_version(b->f->run), b->payload);
    c.signed_at_ms = b->now.wall_ms;
    c.inner_steps = steps;
    struct ledger_entry header = fixture_signed(b->f, &c, b->f->keys[site]);
    brain_contribute_header(b, site, &header);
}

TEST(waits_for_merges_are_left_out_of_each_fragments_time) {
    struct brain *b = brain_open("fragments: 2\nmerge: {quorum: 2, grace: 1h, warmup_steps: 0}\n"
                                 "inner: {inner_steps: 40, dylu: true}\n",
                                 2);
    b->waits = true;
    for (int half = 0; half < 24; half++) { /* 20 steps take site 1 two seconds and site 2 four;
                                               then it is the next one's turn */
        brain_wait(b, 2000);
        offer(b, 1, (uint32_t)half % 2, 40);
        brain_wait(b, 2000);
        brain_heartbeat(b, 1);
        offer(b, 2, (uint32_t)half % 2, 40);
        brain_settle(b);
    }
    CHECK_EQUAL(brain_heartbeat(b, 1), 40);
    CHECK_EQUAL(brain_heartbeat(b, 2), 20);
    brain_close(b);
}

TEST(a_step_more_that_a_waiting_site_trains_for_others_does_not_make_it_fast) {
    struct brain *b = brain_open("fragments: 2\nmerge: {quorum: 2, grace: 1h, warmup_steps: 0}\n"
                                 "inner: {inner_steps: 40, dylu: true}\n",
                                 2);
    b->waits = true;
    for (int half = 0; half < 24; half++) { /* both as fast; they are due on different fragments,
                                               and each gives a step of the other's */
        brain_wait(b, 4000);
        offer(b, 1, 0, 40);
        brain_wait(b, 100);
        offer(b, 2, 1, 40);
        brain_wait(b, 2000);
        offer(b, 1, 1, 40);
        brain_settle(b);
        offer(b, 2, 0, 40);
        brain_settle(b);
    }
    CHECK(brain_heartbeat(b, 1) >= 36);
    CHECK(brain_heartbeat(b, 2) >= 36);
    brain_close(b);
}

TEST(without_dylu_everybody_does_the_same) {
    struct brain *b = brain_open(
        "merge: {quorum: 1, grace: 0s, warmup_steps: 0}\ninner: {inner_steps: 30, dylu: false}\n",
        2);
    give(b, 1, 0, 30);
    brain_wait(b, 1000);
    give(b, 1, 0, 30);
    brain_wait(b, 10000);
    CHECK_EQUAL(brain_heartbeat(b, 2), 30);
    brain_close(b);
}

/* ---- the end --------------------------------------------------------------------------------- */

TEST(stopping_merges_what_waits_and_takes_nothing_more) {
    struct brain *b = brain_open("merge: {quorum: 3, grace: forever, warmup_steps: 0}\n", 3);
    struct ledger_entry late = brain_header(b, 3, 0);
    brain_contribute(b, 1, 0);
    brain_contribute(b, 2, 0);
    CHECK(!b->applying);
    brain_admin(b, ORDER_STOP, "");
    CHECK_EQUAL(brain_find(b, DO_APPLY)->step.step.count, 2);
    brain_settle(b);
    CHECK_EQUAL(run_state_version(b->durable), 1);
    CHECK_EQUAL(run_state_phase(b->durable), RUN_STOPPED);
    EXPECT_REFUSAL(b, brain_submit(b, 3, &late), REFUSED_STOPPED);
    CHECK(!b->stopped); /* the process goes on: sites fetch the end from it */
    brain_close(b);
}

static void resume_with(struct brain *b, uint64_t token_budget) {
    struct coordinator_event event = {.kind = COORDINATOR_ADMIN, .call = 77};
    event.admin.order = ORDER_RESUME;
    event.admin.token_budget = token_budget;
    brain_step(b, &event);
}

TEST(the_token_budget_pauses_the_run_until_the_admin_gives_more_or_ends_it) {
    struct brain *b = brain_open(ALONE "token_budget: 2500\n", 1);
    for (int i = 0; i < 2; i++) { /* a thousand tokens each */
        brain_contribute(b, 1, 0);
        brain_settle(b);
        CHECK_EQUAL(run_state_phase(brain_run(b)), RUN_ACTIVE);
    }
    brain_contribute(b, 1, 0);
    CHECK_EQUAL(run_state_phase(brain_run(b)), RUN_PAUSED);
    CHECK_CONTAINS(run_state_reason(brain_run(b)), "budget of 2500 is spent");
    brain_settle(b);
    CHECK_EQUAL(run_state_version(b->durable), 3);
    struct ledger_entry late = brain_header(b, 1, 0);
    EXPECT_REFUSAL(b, brain_submit(b, 1, &late), REFUSED_PAUSED);
    const uint64_t too_small[] = {0, 2500, 3000};
    for (size_t i = 0; i < COUNT_OF(too_small); i++) {
        resume_with(b, too_small[i]);
        CHECK_EQUAL(run_state_phase(brain_run(b)), RUN_PAUSED);
        CHECK_CONTAINS(brain_find(b, DO_ADMIN_REPLY)->message, "larger one");
    }
    resume_with(b, 4500);
    brain_settle(b);
    CHECK_EQUAL(run_state_phase(b->durable), RUN_ACTIVE);
    CHECK_EQUAL(run_state_token_budget(b->durable), 4500);
    for (int i = 0; i < 2; i++) {
        brain_contribute(b, 1, 0);
        brain_settle(b);
    }
    CHECK_EQUAL(run_state_phase(b->durable), RUN_PAUSED);
    brain_admin(b, ORDER_STOP, "");
    brain_settle(b);
    CHECK_EQUAL(run_state_phase(b->durable), RUN_STOPPED);
    brain_close(b);
}

/* Of the contribution that spends the last tokens and the entry that pauses the run, only the first
 * reached the disk. */
TEST(a_run_whose_tokens_are_spent_pauses_at_the_next_start_where_a_crash_came_between) {
    struct brain *b = brain_open_unstarted(ALONE "token_budget: 500\n", 1);
    fixture_contribute(b->f, 1, 0, 0, 1);
    CHECK(run_state_apply(b->durable, buffer_bytes(&b->f->entries[b->f->entry_count - 1]), false,
                          NULL) == OK);
    CHECK(run_state_tokens(b->f->run) >= 500);
    CHECK_EQUAL(run_state_phase(b->f->run), RUN_ACTIVE);
    brain_start(b, b->f->run);
    CHECK_EQUAL(run_state_phase(brain_run(b)), RUN_PAUSED);
    CHECK_CONTAINS(run_state_reason(brain_run(b)), "budget");
    brain_settle(b);
    CHECK_EQUAL(run_state_phase(b->durable), RUN_PAUSED);
    CHECK_EQUAL(run_state_version(b->durable), 1); /* what waits is merged */
    brain_close(b);
}

TEST(a_step_that_would_make_the_model_nonfinite_is_not_entered_and_its_part_is_dropped) {
    struct brain *b = brain_open("merge: {quorum: 2, warmup_steps: 0, grace: 1h}\n", 2);
    brain_contribute(b, 1, 0);
    brain_contribute(b, 2, 0);
    const struct coordinator_action *apply = brain_find(b, DO_APPLY);
    CHECK(apply != NULL);
    struct coordinator_event event = {.kind = COORDINATOR_APPLIED};
    event.applied.status = CORRUPT;
    event.applied.version = 1;
    event.applied.nonfinite = apply->step.step.parts[1].index;
    brain_step(b, &event);
    CHECK(!b->stopped);
    CHECK_EQUAL(run_state_version(brain_run(b)), 0);
    CHECK(run_state_dropped(brain_run(b), event.applied.nonfinite));
    CHECK_EQUAL(run_state_pending_count(brain_run(b), 0), 1); /* the other one waits on */
    brain_close(b);
}

/* Its steps are what it tells: of three sites none sets the others' pace. */
TEST(a_site_that_tells_of_many_steps_does_not_slow_the_others_down) {
    struct dylu_rates rates = {0};
    CHECK_NEAR(dylu_fastest(&rates), 0, 0);
    dylu_note(&rates, 1);
    CHECK_NEAR(dylu_fastest(&rates), 1, 0);
    dylu_note(&rates, 2);
    CHECK_NEAR(dylu_fastest(&rates), 2, 0); /* neither of two outvotes the other */
    dylu_note(&rates, 1e9);
    CHECK_NEAR(dylu_fastest(&rates), 2, 0);
    dylu_note(&rates, 0.5);
    dylu_note(&rates, 1e9);
    CHECK_NEAR(dylu_fastest(&rates), 1e9, 0); /* two say so */
}

TEST(a_commit_that_fails_stops_the_process_and_nobody_gets_a_receipt) {
    struct brain *b = brain_open(ALONE, 1);
    brain_contribute(b, 1, 0);
    struct coordinator_event event = {.kind = COORDINATOR_COMMITTED};
    event.committed.commit = b->commits[0].number;
    event.committed.status = FAILED;
    brain_step(b, &event);
    CHECK(b->stopped && !brain_find(b, DO_RECEIPT) && !brain_find(b, DO_PUBLISH));
    CHECK(*brain_find(b, DO_STOP)->message);
    event.committed.status = OK; /* whatever comes now: nothing is done */
    brain_step(b, &event);
    CHECK_EQUAL(b->out.count, 0);
    struct coordinator_event order = brain_order(b, ORDER_PAUSE, "");
    brain_step(b, &order);
    CHECK_EQUAL(b->out.count, 0);
    brain_close(b);
}

TEST(a_step_that_cannot_be_computed_stops_the_process) {
    struct brain *b = brain_open(ALONE, 1);
    brain_contribute(b, 1, 0);
    struct coordinator_event event = {.kind = COORDINATOR_APPLIED};
    event.applied.status = CORRUPT;
    event.applied.message = "a payload is gone";
    event.applied.version = 1;
    brain_step(b, &event);
    CHECK(b->stopped);
    CHECK_CONTAINS(brain_find(b, DO_STOP)->message, "a payload is gone");
    CHECK_EQUAL(run_state_version(brain_run(b)), 0);
    brain_close(b);
}

TEST(a_restart_takes_up_what_was_acknowledged_and_not_merged) {
    struct brain *b = brain_open_unstarted(PLAIN, 3);
    fixture_contribute(b->f, 1, 0, 0, 1);
    CHECK(run_state_apply(b->durable, buffer_bytes(&b->f->entries[b->f->entry_count - 1]), false,
                          NULL) == OK);
    brain_start(b, b->f->run);
    CHECK(!brain_find(b, DO_APPLY)); /* below the quorum: its window starts anew */
    CHECK_EQUAL(b->timer_ms, b->now.monotonic_ms + 10000);
    brain_wait(b, 10000);
    CHECK(brain_find(b, DO_APPLY));
    brain_settle(b);
    CHECK_EQUAL(run_state_version(b->durable), 1);
    brain_close(b);
}

TEST(a_restart_at_the_quorum_steps_at_once) {
    struct brain *b = brain_open_unstarted(PLAIN, 3);
    for (uint32_t site = 1; site <= 2; site++) {
        fixture_contribute(b->f, site, 0, 0, 1);
        CHECK(run_state_apply(b->durable, buffer_bytes(&b->f->entries[b->f->entry_count - 1]),
                              false, NULL) == OK);
    }
    brain_start(b, b->f->run);
    CHECK_EQUAL(brain_find(b, DO_APPLY)->step.step.count, 2);
    brain_close(b);
}

TEST(a_coordinator_that_takes_over_begins_an_epoch_and_takes_nothing_made_for_the_last_one) {
    struct brain *b = brain_open_unstarted(ALONE, 2);
    struct ledger_entry before = brain_header(b, 1, 0);
    uint32_t epoch = run_state_epoch(b->f->run);
    b->options.new_epoch = true;
    brain_start(b, b->f->run);
    CHECK_EQUAL(
        b->commit_count,
        1); /* the EPOCH entry goes first, and like any other it is durable before it is told */
    CHECK(!brain_find(b, DO_PUBLISH));
    brain_settle(b);
    CHECK_EQUAL(run_state_epoch(b->durable), epoch + 1);
    uint64_t call = brain_submit(b, 1, &before);
    EXPECT_REFUSAL(b, call, REFUSED_EPOCH);
    struct ledger_entry header = brain_header(b, 1, 0);
    brain_contribute(b, 1, 0);
    brain_durable(b);
    struct receipt read;
    brain_check_receipt(b, &brain_find(b, DO_RECEIPT)->bytes, &header, &read);
    CHECK_EQUAL(read.epoch, epoch + 1);
    brain_settle(b);
    CHECK_EQUAL(run_state_version(b->durable), 1);
    brain_close(b);
}

TEST(a_coordinator_that_takes_over_merges_what_the_last_one_acknowledged) {
    struct brain *b = brain_open_unstarted(ALONE, 2);
    fixture_contribute(b->f, 1, 0, 0, 1);
    CHECK(run_state_apply(b->durable, buffer_bytes(&b->f->entries[b->f->entry_count - 1]), false,
                          NULL) == OK);
    uint32_t epoch = run_state_epoch(b->f->run);
    b->options.new_epoch = true;
    brain_start(b, b->f->run);
    brain_settle(b);
    CHECK_EQUAL(run_state_version(b->durable), 1);
    CHECK_EQUAL(run_state_epoch(b->durable), epoch + 1);
    brain_close(b);
}

/* ---- snapshots ------------------------------------------------------------------------------- */

TEST(snapshots_come_every_nth_version_and_name_the_oldest_payload_they_need) {
    struct brain *b = brain_open(ALONE "snapshot_interval: 2\n", 2);
    for (uint64_t version = 1; version <= 6; version++) {
        brain_contribute(b, 1, 0);
        bool waits = version == 4;
        uint64_t index = run_state_size(brain_run(b));
        if (waits)
            brain_contribute(b, 2, 0); /* while the step is computed: pending in the snapshot */
        brain_applied(b);
        const struct coordinator_action *snapshot = brain_find(b, DO_SNAPSHOT);
        CHECK((snapshot != NULL) == (version % 2 == 0));
        if (snapshot) {
            CHECK_EQUAL(snapshot->version, version);
            CHECK_EQUAL(snapshot->size, run_state_size(brain_run(b)));
            CHECK_EQUAL(snapshot->first_index, waits ? index : snapshot->size);
            CHECK(brain_find(b, DO_COMMIT) < snapshot); /* its step is handed to the disk first */
        }
        brain_settle(b);
        version = run_state_version(brain_run(b));
    }
    brain_close(b);
}

TEST(the_admin_gets_a_snapshot_once_no_step_is_under_way) {
    struct brain *b = brain_open(ALONE "snapshot_interval: 1000\n", 2);
    brain_admin(b, ORDER_SNAPSHOT, "");
    CHECK_EQUAL(brain_find(b, DO_SNAPSHOT)->version, 0);
    CHECK_EQUAL(brain_find(b, DO_ADMIN_REPLY)->outcome, ORDER_DONE);
    brain_contribute(b, 1, 0);
    brain_admin(b, ORDER_SNAPSHOT, "");
    CHECK(!brain_find(b, DO_SNAPSHOT) && brain_find(b, DO_ADMIN_REPLY));
    CHECK_EQUAL(brain_find(b, DO_ADMIN_REPLY)->version, 1); /* of the step that is under way */
    brain_applied(b);
    CHECK_EQUAL(brain_find(b, DO_SNAPSHOT)->version, 1);
    brain_settle(b);
    brain_contribute(b, 1, 0);
    brain_applied(b);
    CHECK(!brain_find(b, DO_SNAPSHOT)); /* asked for once, made once */
    brain_close(b);
}

/* ---- how often ------------------------------------------------------------------------------- */

/* Tries every 10 ms for so long, while the sites before `others` are there; how often it was let
 * in. */
static uint32_t flood(struct brain *b, uint32_t site, uint32_t others, uint32_t ms) {
    uint32_t made = 0;
    for (uint32_t at = 0; at < ms; at += 10) {
        for (uint32_t other = 1; other < others && at % 1000 == 0; other++)
            brain_heartbeat(b, other);
        brain_wait(b, 10);
        struct contribution c =
            fixture_contribution(b->f, site, 0, run_state_version(b->f->run), b->payload);
        c.signed_at_ms = b->now.wall_ms;
        c.inner_steps = 1000; /* whatever it says */
        struct ledger_entry header = fixture_signed(b->f, &c, b->f->keys[site]);
        uint64_t call = brain_submit(b, site, &header);
        if (!brain_find(b, DO_ADMIT)) {
            EXPECT_REFUSAL(b, call, REFUSED_BUSY);
            CHECK(brain_find(b, DO_REFUSE)->retry_after_ms > 0);
            continue;
        }
        brain_uploaded(b, call, ACCEPTED);
        brain_checked(b, call, ACCEPTED);
        brain_settle(b);
        made++;
    }
    return made;
}

#define FLOODED "merge: {quorum: 1, grace: 0s, warmup_steps: 0, staleness_cap: 16}\n"

TEST(a_site_that_floods_makes_eight_contributions_in_a_round_of_the_others) {
    struct brain *b = brain_open(FLOODED, 4);
    for (int round = 0; round < 3; round++) {
        for (uint32_t site = 1; site <= 3; site++) give(b, site, 0, 40);
        brain_wait(b, 4000);
    }
    uint32_t made = flood(b, 4, 4, 4000);
    CHECK(made >= 7 && made <= 9);
    made += flood(b, 4, 4, 4000);
    CHECK(made >= 15 && made <= 17);
    brain_close(b);
}

TEST(a_flood_from_the_start_does_not_make_the_first_contribution_of_others_stale) {
    struct brain *b = brain_open(FLOODED, 3);
    for (uint32_t site = 1; site <= 3; site++) brain_heartbeat(b, site);
    struct ledger_entry first[2] = {brain_header(b, 1, 0), brain_header(b, 2, 0)};
    CHECK(flood(b, 3, 3, 10000) <= 11);
    for (uint32_t site = 1; site <= 2; site++) {
        brain_submit(b, site, &first[site - 1]);
        CHECK(brain_find(b, DO_ADMIT));
    }
    brain_close(b);
}

TEST(who_was_refused_as_stale_still_says_how_long_a_round_is) {
    struct brain *b = brain_open(FLOODED, 3);
    for (uint32_t site = 1; site <= 3; site++) brain_heartbeat(b, site);
    struct ledger_entry first[2] = {brain_header(b, 1, 0), brain_header(b, 2, 0)};
    CHECK(flood(b, 3, 3, 40000) > 16);
    for (uint32_t site = 1; site <= 2; site++)
        EXPECT_REFUSAL(b, brain_submit(b, site, &first[site - 1]), REFUSED_REBASE);
    CHECK(flood(b, 3, 3, 40000) <= 9);
    brain_close(b);
}

TEST(nobody_waits_for_those_who_only_follow_or_have_left) {
    struct brain *b = brain_open(FLOODED, 2);
    give(b, 2, 0, 40);
    brain_wait(b, 3600 * 1000); /* it is not present any more */
    CHECK_EQUAL(flood(b, 1, 1, 1000), 100);
    brain_close(b);
}

TEST(sites_of_one_speed_and_one_seven_times_as_fast_never_wait) {
    struct brain *b = brain_open(FLOODED, 4);
    for (int tick = 0; tick < 40; tick++) {
        give(b, 4, 0, 40); /* fails unless it is admitted */
        for (uint32_t site = 1; site <= 3 && tick % 7 == 0; site++) give(b, site, 0, 40);
        brain_wait(b, 1000);
    }
    brain_close(b);
}
