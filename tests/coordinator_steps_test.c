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
