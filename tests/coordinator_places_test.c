/* One process of a site at a time: who has its place, who is refused and who is cut. */
#include "tests/coordinator_fixture.h"

#define PLAIN "merge: {quorum: 2, grace: 10s, warmup_steps: 0, staleness_cap: 2}\n"
#define ALONE "merge: {quorum: 1, grace: 10s, warmup_steps: 0, staleness_cap: 2}\n"

static enum refusal beat(struct shell *s, uint64_t instance) {
    s->instance = instance;
    shell_heartbeat(s, 1);
    const struct coordinator_action *reply = shell_find(s, DO_HEARTBEAT_REPLY);
    if (reply->code == ACCEPTED) s->turn = reply->turn;
    return reply->code;
}

static void follow(struct shell *s, uint64_t instance, bool open) {
    s->instance = instance;
    shell_following(s, 1, open);
}

TEST(a_site_that_runs_twice_is_told_from_one_that_was_started_again_and_who_came_second_is_cut) {
    struct shell *s = shell_open(PLAIN, 1);
    uint64_t ago;
    CHECK_EQUAL(beat(s, 7), ACCEPTED);
    follow(s, 7, true);
    shell_wait(s, 1000);
    uint32_t turn = s->turn;
    CHECK_EQUAL(
        beat(s, 8),
        REFUSED_HELD); /* perhaps the first is dead, and its connection does not know it yet */
    struct ledger_entry header = shell_header(s, 1, 0);
    s->instance = 8;
    EXPECT_REFUSAL(s, shell_submit(s, 1, &header), REFUSED_HELD);
    follow(s, 8, true);
    CHECK(shell_find(s, DO_END) && shell_find(s, DO_END)->code == REFUSED_HELD);
    s->turn = turn;
    CHECK_EQUAL(beat(s, 7), ACCEPTED); /* said before it was asked: that proves nothing */
    CHECK(!shell_find(s, DO_COPY));
    CHECK_EQUAL(beat(s, 8), REFUSED_HELD);
    CHECK_EQUAL(beat(s, 7), ACCEPTED); /* it answers, so both are alive */
    CHECK(shell_find(s, DO_COPY));
    CHECK_CONTAINS(shell_find(s, DO_COPY)->message, "runs twice");
    CHECK_EQUAL(shell_find(s, DO_HEARTBEAT_REPLY)->copies, 1);
    CHECK_EQUAL(coordinator_state_copies(s->state, 1, s->now, &ago), 1);
    CHECK_EQUAL(beat(s, 8), REFUSED_COPY);
    s->instance = 8;
    EXPECT_REFUSAL(s, shell_submit(s, 1, &header), REFUSED_COPY);
    CHECK_EQUAL(beat(s, 7), ACCEPTED);
    CHECK(!shell_find(s, DO_COPY)); /* told once */
    s->instance = 7;
    shell_contribute_header(s, 1, &header);
    shell_close(s);
}

TEST(a_site_that_was_started_again_takes_its_place_as_soon_as_the_last_process_is_gone) {
    struct shell *s = shell_open(PLAIN, 1);
    beat(s, 7);
    follow(s, 7, true);
    follow(s, 7, false); /* it was killed: its connections end */
    CHECK_EQUAL(beat(s, 8), ACCEPTED);
    follow(s, 8, true);
    follow(s, 9, false); /* of nobody who counts */
    shell_wait(s, 60000);
    CHECK(coordinator_state_connected(s->state, 1, s->now));
    shell_close(s);
}

TEST(a_process_whose_host_was_lost_holds_the_place_no_longer_than_its_connection_lasts) {
    struct shell *s = shell_open(PLAIN, 1);
    beat(s, 7);
    follow(s, 7, true);
    CHECK_EQUAL(beat(s, 8), REFUSED_HELD);
    shell_wait(s, 20000);
    CHECK_EQUAL(beat(s, 8), REFUSED_HELD);
    follow(s, 7, false);                   /* a keepalive went without an answer */
    CHECK_EQUAL(beat(s, 8), REFUSED_HELD); /* or its link broke for a moment, and it comes back */
    shell_wait(s, 6000);
    CHECK_EQUAL(beat(s, 8), ACCEPTED);
    CHECK_EQUAL(
        beat(s, 7),
        ACCEPTED); /* nobody follows: it takes the place, and now 8 is the one that comes second */
    follow(s, 7, true);
    CHECK_EQUAL(beat(s, 8), REFUSED_HELD);
    shell_close(s);
}

TEST(a_broken_link_does_not_give_the_place_to_who_was_refused_it) {
    struct shell *s = shell_open(PLAIN, 1);
    beat(s, 7);
    follow(s, 7, true);
    CHECK_EQUAL(beat(s, 8), REFUSED_HELD);
    follow(s, 7, false);
    shell_wait(s, 1000);
    CHECK_EQUAL(beat(s, 8), REFUSED_HELD);
    CHECK_EQUAL(beat(s, 7), ACCEPTED);
    follow(s, 7, true);
    CHECK_EQUAL(beat(s, 7), ACCEPTED);
    CHECK_EQUAL(beat(s, 8), REFUSED_COPY);
    shell_close(s);
}

/* Sequences from two holders, one after the other: nobody is there beside it. */
TEST(a_process_that_lacks_what_the_ledger_has_of_its_site_is_cut_and_everybody_is_told) {
    struct shell *s = shell_open(ALONE, 2);
    uint64_t ago;
    follow(s, 7, true);
    for (int i = 0; i < 3; i++) {
        shell_contribute(s, 1, 0);
        shell_settle(s);
    }
    s->made_plus_1 = 2; /* its link breaks, and it says what it knew when it began to connect */
    follow(s, 7, true);
    CHECK(!shell_find(s, DO_COPY) && !shell_find(s, DO_END));
    follow(s, 7, false);
    follow(s, 7, false);
    s->made_plus_1 =
        4; /* a crash, and it is started again: a message is in its journal before it is sent */
    follow(s, 8, true);
    CHECK(!shell_find(s, DO_COPY) && !shell_find(s, DO_END));
    follow(s, 8, false);
    s->made_plus_1 = 2; /* a copy that was made after the first of them */
    follow(s, 9, true);
    CHECK(shell_find(s, DO_COPY) && shell_find(s, DO_END));
    CHECK_CONTAINS(shell_find(s, DO_COPY)->message,
                   "site-1 came back without its contributions 2 to 3");
    CHECK_EQUAL(shell_find(s, DO_END)->code, REFUSED_COPY);
    CHECK_CONTAINS(shell_find(s, DO_END)->message, "contributions 2 to 3");
    CHECK_CONTAINS(shell_find(s, DO_END)->message, "--restored");
    CHECK_EQUAL(coordinator_state_copies(s->state, 1, s->now, &ago), 1);
    CHECK(!coordinator_state_connected(s->state, 1, s->now));
    follow(s, 9, true); /* again: told once, and not let in */
    CHECK(!shell_find(s, DO_COPY) && shell_find(s, DO_END));
    s->made_plus_1 = 4; /* the one that has them comes at once to its place */
    follow(s, 10, true);
    CHECK(!shell_find(s, DO_END));
    CHECK(coordinator_state_connected(s->state, 1, s->now));
    shell_heartbeat(s, 1);
    CHECK_EQUAL(shell_find(s, DO_HEARTBEAT_REPLY)->copies, 1); /* and learns of the other */
    CHECK_EQUAL(coordinator_state_copies(s->state, 2, s->now, &ago), 0);
    shell_close(s);
}

TEST(of_a_site_that_was_restored_from_a_backup_a_person_says_so) {
    struct shell *s = shell_open(ALONE, 1);
    follow(s, 7, true);
    for (int i = 0; i < 3; i++) {
        shell_contribute(s, 1, 0);
        shell_settle(s);
    }
    follow(s, 7, false);
    s->made_plus_1 = 2;
    follow(s, 8, true);
    CHECK(shell_find(s, DO_END));
    s->restored = true;
    follow(s, 9, true);
    CHECK(!shell_find(s, DO_END) && !shell_find(s, DO_COPY));
    shell_contribute(s, 1, 0); /* it goes on from what the ledger has */
    shell_settle(s);
    s->restored = false;
    s->made_plus_1 = 5;
    follow(s, 9, false);
    follow(s, 10, true); /* from then on as any other */
    CHECK(!shell_find(s, DO_END));
    follow(s, 10, false);
    s->made_plus_1 = 4; /* and what it replaced is the one that is behind */
    follow(s, 11, true);
    CHECK(shell_find(s, DO_END) && shell_find(s, DO_COPY));
    shell_close(s);
}

TEST(another_contribution_of_a_number_that_the_ledger_has_is_of_a_copy) {
    struct shell *s = shell_open(ALONE, 1);
    s->made_plus_1 = 1;
    follow(s, 7, true);
    struct ledger_entry header = shell_header(s, 1, 0);
    struct contribution other =
        fixture_contribution(s->f, 1, 0, run_state_version(s->f->run), s->payload);
    other.signed_at_ms = s->now.wall_ms;
    other.inner_steps++;
    struct ledger_entry twin = fixture_signed(s->f, &other, s->f->keys[1]);
    shell_contribute_header(s, 1, &header);
    shell_settle(s);
    follow(s, 7, false);
    s->made_plus_1 =
        2; /* both made one of that number; the one that comes later has its own in its journal */
    s->instance = 8;
    /* what it says when it follows is on its way */
    EXPECT_REFUSAL(s, shell_submit(s, 1, &twin), REFUSED_HELD);
    follow(s, 8, true);
    CHECK(!shell_find(s, DO_END));
    s->instance = 8;
    /* that one is the ledger's */
    EXPECT_REFUSAL(s, shell_submit(s, 1, &header), REFUSED_DUPLICATE);
    EXPECT_REFUSAL(s, shell_submit(s, 1, &twin), REFUSED_COPY);
    CHECK(shell_find(s, DO_COPY));
    CHECK_CONTAINS(shell_find(s, DO_REFUSE)->message,
                   "contributions 1 to 1 of this site were made elsewhere");
    uint64_t ago;
    CHECK_EQUAL(coordinator_state_copies(s->state, 1, s->now, &ago), 1);
    shell_close(s);
}

TEST(a_heartbeat_of_a_site_that_was_revoked_as_it_was_under_way_decides_nothing) {
    struct shell *s = shell_open(ALONE, 2);
    s->instance = 7;
    shell_contribute(s, 1, 0);
    shell_settle(s);
    shell_wait(s, 10000);
    shell_settle(s);
    s->instance = 10;
    shell_following(s, 1, true);
    s->instance = 11; /* another process: refused, and its place is in question */
    shell_heartbeat(s, 1);
    s->instance = 10;
    shell_following(s, 1, false);
    s->made_plus_1 = 1; /* and the first one comes back without what it made */
    shell_following(s, 1, true);
    shell_admin(s, ORDER_REVOKE, "site-1");
    struct coordinator_event event = {.kind = COORDINATOR_HEARTBEAT, .call = ++s->last_call};
    event.heartbeat.site = 1;
    event.heartbeat.instance = 12;
    event.heartbeat.turn = 1;
    shell_step(s, &event);
    CHECK(!s->stopped);
    CHECK_EQUAL(shell_find(s, DO_HEARTBEAT_REPLY)->code, REFUSED_REVOKED);
    CHECK(!coordinator_state_connected(s->state, 1, s->now));
    shell_close(s);
}

TEST(who_was_revoked_or_never_enrolled_has_no_place_whatever_it_asks_for) {
    struct shell *s = shell_open(PLAIN, 2);
    s->instance = 7;
    struct ledger_entry header = shell_header(s, 1, 0);
    shell_admin(s, ORDER_REVOKE, "site-1");
    shell_settle(s);
    for (uint32_t site = 1; site <= 3; site += 2) {
        enum refusal wanted = site == 1 ? REFUSED_REVOKED : REFUSED_UNKNOWN_SITE;
        shell_following(s, site, true); /* its streams were cut before this one was known */
        CHECK(shell_find(s, DO_END) && shell_find(s, DO_END)->code == wanted);
        CHECK(*shell_find(s, DO_END)->message);
        shell_heartbeat(s, site);
        CHECK_EQUAL(shell_find(s, DO_HEARTBEAT_REPLY)->code, wanted);
        EXPECT_REFUSAL(s, shell_submit(s, site, &header), wanted);
        struct coordinator_event event = {.kind = COORDINATOR_SUBMIT_OPEN, .call = ++s->last_call};
        event.submit.site = site;
        event.submit.supply = true;
        event.submit.instance = s->instance;
        memcpy(event.submit.header, header.contribution.header, CONTRIBUTION_HEADER_SIZE);
        shell_step(s, &event);
        EXPECT_REFUSAL(s, event.call, wanted);
        CHECK(!coordinator_state_connected(s->state, site, s->now));
        CHECK(!coordinator_state_has_place(s->state, site, 7));
    }
    shell_close(s);
}

TEST(a_stream_that_was_refused_ends_no_other_one) {
    struct shell *s = shell_open(PLAIN, 1);
    follow(s, 7, true);
    s->instance = 8; /* it comes back over another connection, and is refused for now */
    shell_follow_call(s, 1, true, 801);
    CHECK(shell_find(s, DO_END) && shell_find(s, DO_END)->code == REFUSED_HELD);
    follow(s, 7, false);
    shell_wait(s, 6000);
    CHECK_EQUAL(beat(s, 8), ACCEPTED);
    shell_follow_call(s, 1, true, 802);
    CHECK(!shell_find(s, DO_END));
    shell_follow_call(s, 1, false, 801); /* only now its end is known */
    shell_follow_call(s, 1, false, 801);
    shell_wait(s, 6000);
    CHECK_EQUAL(beat(s, 9), REFUSED_HELD); /* 8 is there */
    CHECK(coordinator_state_has_place(s->state, 1, 8));
    shell_follow_call(s, 1, false, 802);
    shell_wait(s, 6000);
    CHECK_EQUAL(beat(s, 9), ACCEPTED);
    shell_close(s);
}

/* ---- an entry now and then ------------------------------------------------------------------- */

TEST(a_site_that_comes_and_goes_all_the_time_does_not_fill_the_ledger) {
    struct shell *s = shell_open(PLAIN, 1);
    uint64_t before = run_state_size(shell_run(s));
    for (uint64_t i = 0; i < 1000; i++) { /* a new process each time, and it says that it goes */
        struct coordinator_event event = {.kind = COORDINATOR_HEARTBEAT, .call = ++s->last_call};
        event.heartbeat.site = 1;
        event.heartbeat.instance = 100 + i / 2;
        event.heartbeat.leaving = i % 2 == 1;
        shell_step(s, &event);
        shell_settle(s);
    }
    CHECK_EQUAL(run_state_size(shell_run(s)), before + 4);
    shell_wait(s, 10000); /* what it said last counts in the end */
    shell_settle(s);
    CHECK_EQUAL(run_state_site(shell_run(s), 1)->presence, SITE_LEFT);
    CHECK(run_state_size(shell_run(s)) <= before + 5);
    shell_close(s);
}
