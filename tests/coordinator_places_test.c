/* One process of a site at a time: who has its place, who is refused and who is cut. */
#include "tests/coordinator_fixture.h"

#define PLAIN "merge: {quorum: 2, grace: 10s, warmup_steps: 0, staleness_cap: 2}\n"
#define ALONE "merge: {quorum: 1, grace: 10s, warmup_steps: 0, staleness_cap: 2}\n"

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
    CHECK_EQUAL(brain_find(b, DO_HEARTBEAT_REPLY)->code, REFUSED_REVOKED);
    CHECK(!coordinator_state_connected(b->state, 1, b->now));
    brain_close(b);
}
