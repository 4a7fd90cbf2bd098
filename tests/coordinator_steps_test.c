/* When outer steps start and what they wait for, the end of a run, restarts, snapshots. */
#include "tests/coordinator_fixture.h"

#define PLAIN                                                                                      \
    "merge: {quorum: 2, grace: 10s, warmup_steps: 0, staleness_cap: 2, away_after: forever}\n"
#define ALONE "merge: {quorum: 1, grace: 10s, warmup_steps: 0, staleness_cap: 2}\n"

/* ---- when a step starts ---------------------------------------------------------------------- */

TEST(a_step_starts_with_the_quorum) {
    struct shell *s = shell_open(PLAIN, 3);
    shell_contribute(s, 1, 0);
    CHECK(!shell_find(s, DO_APPLY));
    CHECK_EQUAL(s->timer_ms, s->now.monotonic_ms + 10000);
    shell_contribute(s, 2, 0);
    const struct coordinator_action *apply = shell_find(s, DO_APPLY);
    CHECK(apply && apply->step.step.count == 2 && apply->step.step.version == 1);
    shell_settle(s);
    CHECK_EQUAL(run_state_version(shell_run(s)), 1);
    CHECK_EQUAL(run_state_version(s->durable), 1);
    shell_close(s);
}

TEST(a_step_starts_when_the_grace_window_is_over_and_not_before) {
    struct shell *s = shell_open(PLAIN, 3);
    shell_contribute(s, 1, 0);
    shell_wait(s, 9999);
    CHECK(!shell_find(s, DO_APPLY));
    shell_wait(s, 1);
    CHECK(shell_find(s, DO_APPLY));
    shell_settle(s);
    CHECK_EQUAL(run_state_version(shell_run(s)), 1);
    s->timer_ms = UINT64_MAX;
    shell_wait(s, 100000);
    CHECK_EQUAL(s->out.count, 0); /* nothing waits: no step, no timer */
    shell_contribute(s, 2, 0);    /* a window of its own */
    CHECK_EQUAL(s->timer_ms, s->now.monotonic_ms + 10000);
    shell_close(s);
}

TEST(a_window_ends_with_what_it_was_opened_for) {
    struct shell *s = shell_open(PLAIN, 3);
    shell_contribute(s, 1, 0);
    shell_settle(s);
    shell_admin(s, ORDER_REVOKE, "site-1"); /* what waited is dropped */
    shell_settle(s);
    shell_wait(s, 60000);
    shell_contribute(s, 2, 0);
    CHECK(!shell_find(s, DO_APPLY)); /* it waits its own ten seconds */
    CHECK_EQUAL(s->timer_ms, s->now.monotonic_ms + 10000);
    shell_close(s);
}

TEST(an_infinite_window_waits_for_the_quorum_and_never_longer_than_there_are_sites) {
    struct shell *s =
        shell_open("merge: {quorum: 3, grace: forever, warmup_steps: 0, away_after: forever}\n", 3);
    shell_contribute(s, 1, 0);
    shell_contribute(s, 2, 0);
    shell_wait(s, UINT64_C(1) << 40);
    CHECK(!shell_find(s, DO_APPLY) && !shell_find(s, DO_TIMER));
    shell_admin(s, ORDER_REVOKE, "site-3"); /* two are all there are now */
    CHECK(shell_find(s, DO_APPLY));
    shell_settle(s);
    CHECK_EQUAL(run_state_version(shell_run(s)), 1);
    shell_close(s);
}

TEST(one_step_at_a_time_and_what_comes_meanwhile_goes_into_the_next) {
    struct shell *s = shell_open(ALONE, 3);
    shell_contribute(s, 1, 0);
    CHECK(s->applying);
    shell_contribute(s, 2, 0);
    shell_contribute(s, 3, 0);
    CHECK(!shell_find(s, DO_APPLY));
    shell_applied(s);
    const struct coordinator_action *apply = shell_find(s, DO_APPLY);
    CHECK(apply && apply->step.step.version == 2 && apply->step.step.count == 2);
    shell_settle(s);
    CHECK_EQUAL(run_state_version(s->durable), 2);
    shell_close(s);
}

TEST(the_fragment_that_waited_longest_goes_first) {
    struct shell *s =
        shell_open("fragments: 3\nmerge: {quorum: 2, grace: 10s, warmup_steps: 0}\n", 3);
    shell_contribute(s, 1, 2);
    shell_wait(s, 10);
    shell_contribute(s, 1, 0);
    shell_wait(s, 20000);
    CHECK_EQUAL(shell_find(s, DO_APPLY)->step.step.fragment, 2);
    shell_applied(s);
    CHECK_EQUAL(shell_find(s, DO_APPLY)->step.step.fragment, 0);
    shell_settle(s);
    shell_close(s);
}

TEST(roots_are_recorded_every_nth_version) {
    struct shell *s = shell_open(ALONE "root_interval: 3\n", 1);
    for (uint64_t version = 1; version <= 7; version++) {
        shell_contribute(s, 1, 0);
        shell_settle(s);
        uint64_t of;
        uint8_t root[DIGEST_SIZE];
        run_state_root(shell_run(s), &of, root);
        CHECK_EQUAL(of, version / 3 * 3);
    }
    shell_close(s);
}

/* ---- warm-up: everybody who is there --------------------------------------------------------- */

#define WARM "merge: {quorum: 1, grace: 1s, warmup_steps: 2, warmup_grace: 1m, away_after: 30s}\n"
#define COUNTED "merge: {quorum: 3, grace: forever, warmup_steps: 0, away_after: 1m}\n"

TEST(the_first_steps_wait_for_every_site_that_is_present) {
    struct shell *s = shell_open(WARM, 3);
    for (uint32_t site = 1; site <= 3; site++) shell_following(s, site, true);
    for (int round = 0; round < 2; round++) {
        shell_contribute(s, 1, 0);
        shell_contribute(s, 2, 0);
        shell_wait(s, 30000); /* more than the grace window of later */
        CHECK(!shell_find(s, DO_APPLY));
        shell_contribute(s, 3, 0);
        CHECK_EQUAL(shell_find(s, DO_APPLY)->step.step.count, 3);
        shell_settle(s);
    }
    shell_contribute(s, 1, 0); /* warm: a quorum of one is enough */
    CHECK(shell_find(s, DO_APPLY));
    shell_close(s);
}

TEST(a_site_that_died_does_not_hold_up_the_first_step_for_longer_than_the_warmup_window) {
    struct shell *s = shell_open("merge: {quorum: 1, grace: 1s, warmup_steps: 2, warmup_grace: "
                                 "1m, away_after: forever}\n",
                                 2);
    shell_following(s, 1, true);
    shell_following(s, 2,
                    true); /* connected as far as anybody can tell, but it says nothing more */
    shell_contribute(s, 1, 0);
    CHECK_EQUAL(s->timer_ms, s->now.monotonic_ms + 60000);
    shell_wait(s, 59999);
    CHECK(!shell_find(s, DO_APPLY));
    shell_wait(s, 1);
    CHECK_EQUAL(shell_find(s, DO_APPLY)->step.step.count, 1);
    shell_close(s);
}

TEST(a_site_that_hung_up_is_not_waited_for) {
    struct shell *s = shell_open(WARM, 2);
    shell_following(s, 1, true);
    shell_following(s, 2, true);
    shell_contribute(s, 1, 0);
    shell_following(s, 2, false);
    CHECK(!shell_find(s, DO_APPLY)); /* it was heard a moment ago: perhaps it comes back */
    shell_wait(s, 29999);
    CHECK(!shell_find(s, DO_APPLY));
    shell_wait(s, 1);
    CHECK(shell_find(s, DO_APPLY));
    shell_close(s);
}

TEST(an_enrolled_site_that_was_never_there_is_waited_for_until_it_counts_as_away) {
    struct shell *s = shell_open(WARM, 3);
    shell_following(s, 1, true);
    shell_contribute(s, 1, 0);
    CHECK(!shell_find(s, DO_APPLY));
    shell_wait(s, 30000);
    CHECK(shell_find(s, DO_APPLY));
    shell_settle(s);
    CHECK_EQUAL(run_state_present_sites(s->durable), 1);
    CHECK_EQUAL(run_state_active_sites(s->durable), 3);
    shell_close(s);
}

/* ---- who counts ------------------------------------------------------------------------------ */

static void leaving(struct shell *s, uint32_t site) {
    struct coordinator_event event = {.kind = COORDINATOR_HEARTBEAT, .call = ++s->last_call};
    event.heartbeat.site = site;
    event.heartbeat.instance = s->instance;
    event.heartbeat.leaving = true;
    shell_step(s, &event);
}

static enum site_presence presence_of(const struct shell *s, uint32_t site) {
    return run_state_site(s->durable, site)->presence;
}

TEST(a_site_that_is_silent_counts_no_more_and_a_quorum_of_all_goes_on_without_it) {
    struct shell *s = shell_open(COUNTED, 3);
    for (uint32_t site = 1; site <= 3; site++) shell_heartbeat(s, site);
    shell_wait(s, 40000);
    shell_heartbeat(s, 1);
    shell_contribute(s, 2, 0);
    shell_contribute(s, 1, 0);
    CHECK(!shell_find(s, DO_APPLY));
    CHECK_EQUAL(s->timer_ms, s->now.monotonic_ms + 20000);
    shell_wait(s, 19999);
    shell_settle(s);
    CHECK_EQUAL(run_state_version(s->durable), 0);
    shell_wait(s, 1);
    CHECK(shell_find(s, DO_APPLY));
    shell_settle(s);
    CHECK_EQUAL(presence_of(s, 3), SITE_AWAY);
    CHECK_EQUAL(run_state_present_sites(s->durable), 2);
    CHECK_EQUAL(run_state_version(s->durable), 1);
    shell_heartbeat(s, 3); /* it is back, and waited for again */
    shell_settle(s);
    CHECK_EQUAL(presence_of(s, 3), SITE_PRESENT);
    shell_contribute(s, 1, 0);
    shell_contribute(s, 2, 0);
    CHECK(!shell_find(s, DO_APPLY));
    shell_close(s);
}

TEST(a_site_that_says_that_it_goes_has_left_once_that_is_durable_and_only_another_process_returns) {
    struct shell *s = shell_open(COUNTED, 3);
    s->instance = 7;
    for (uint32_t site = 1; site <= 3; site++) shell_heartbeat(s, site);
    shell_contribute(s, 1, 0);
    shell_contribute(s, 2, 0);
    leaving(s, 3);
    CHECK(!shell_find(s, DO_HEARTBEAT_REPLY)->has_left); /* not durable yet */
    CHECK(shell_find(s, DO_APPLY));
    shell_settle(s);
    CHECK_EQUAL(presence_of(s, 3), SITE_LEFT);
    leaving(s, 3);
    CHECK(shell_find(s, DO_HEARTBEAT_REPLY)->has_left);
    shell_following(s, 3, true); /* of the same process: it was on its way */
    shell_following(s, 3, false);
    shell_settle(s);
    CHECK_EQUAL(presence_of(s, 3), SITE_LEFT);
    shell_wait(s, 6000);
    s->instance = 8;
    shell_heartbeat(s, 3);
    shell_settle(s);
    CHECK_EQUAL(presence_of(s, 3), SITE_PRESENT);
    shell_close(s);
}

TEST(who_is_present_is_not_changed_while_a_step_is_computed) {
    struct shell *s = shell_open(COUNTED, 3);
    for (uint32_t site = 1; site <= 3; site++) shell_contribute(s, site, 0);
    CHECK(s->applying);
    leaving(s, 3);
    shell_wait(s, 60000);
    CHECK_EQUAL(run_state_present_sites(shell_run(s)), 3);
    shell_settle(s);
    CHECK_EQUAL(presence_of(s, 3), SITE_LEFT);
    CHECK_EQUAL(presence_of(s, 1), SITE_AWAY);
    shell_close(s);
}

TEST(a_coordinator_that_stood_still_does_not_take_its_sites_for_away) {
    struct shell *s = shell_open(COUNTED, 2);
    for (uint32_t site = 1; site <= 2; site++) shell_heartbeat(s, site);
    shell_wait(s, 30000);
    shell_wait(s, 600000); /* the timer of half a minute comes ten minutes late */
    shell_settle(s);
    CHECK_EQUAL(run_state_present_sites(s->durable), 2);
    shell_wait(s, 60000);
    shell_settle(s);
    CHECK_EQUAL(run_state_present_sites(s->durable), 0);
    shell_close(s);
}

TEST(a_new_coordinator_listens_as_long_before_it_takes_a_site_for_away) {
    struct shell *s = shell_open_unstarted(COUNTED, 2);
    s->now.monotonic_ms = 1000000000;
    shell_start(s, s->f->run);
    shell_wait(s, 59999);
    shell_settle(s);
    CHECK_EQUAL(run_state_present_sites(s->durable), 2);
    shell_wait(s, 1);
    shell_settle(s);
    CHECK_EQUAL(run_state_present_sites(s->durable), 0);
    shell_close(s);
}

TEST(an_observer_is_connected_and_never_waited_for_nor_entered) {
    struct shell *s = shell_open_unstarted(COUNTED, 2);
    shell_start_with_observer(s, 3);
    for (uint32_t site = 1; site <= 3; site++) shell_heartbeat(s, site);
    CHECK(coordinator_state_connected(s->state, 3, s->now));
    shell_contribute(s, 1, 0);
    CHECK(!shell_find(s, DO_APPLY));
    shell_contribute(s, 2, 0);
    CHECK(shell_find(s, DO_APPLY)); /* a quorum of 3, of which two count */
    shell_settle(s);
    shell_wait(s, 30000);
    for (uint32_t site = 1; site <= 2; site++) shell_heartbeat(s, site);
    uint64_t size = run_state_size(s->durable);
    shell_wait(s, 40000); /* 70 s of silence, and away_after is 1m */
    shell_settle(s);
    CHECK(!coordinator_state_connected(s->state, 3, s->now));
    shell_heartbeat(s, 3);
    leaving(s, 3);
    CHECK(shell_find(s, DO_HEARTBEAT_REPLY)->has_left); /* at once: no entry is waited for */
    shell_settle(s);
    CHECK_EQUAL(run_state_size(s->durable), size);
    CHECK_EQUAL(run_state_present_sites(s->durable), 2);
    shell_close(s);
}

TEST(presence_comes_from_streams_and_from_being_heard) {
    struct shell *s = shell_open(PLAIN, 2);
    CHECK(!coordinator_state_connected(s->state, 1, s->now));
    shell_heartbeat(s, 1);
    CHECK(coordinator_state_connected(s->state, 1, s->now));
    shell_wait(s, 29999);
    CHECK(coordinator_state_connected(s->state, 1, s->now));
    shell_wait(s, 1);
    CHECK(!coordinator_state_connected(s->state, 1, s->now));
    shell_following(s, 1, true);
    shell_following(s, 1, true);
    shell_following(s, 1, false);
    shell_wait(s, 1000000);
    CHECK(coordinator_state_connected(s->state, 1, s->now)); /* one of two streams is left */
    shell_following(s, 1, false);
    shell_following(s, 1, false); /* once too often */
    shell_wait(s, 30001);
    CHECK(!coordinator_state_connected(s->state, 1, s->now));
    shell_following(s, 77, true); /* a certificate of a site that the ledger does not know */
    shell_heartbeat(s, 77);
    CHECK(!coordinator_state_connected(s->state, 77, s->now));
    CHECK(!coordinator_state_connected(s->state, 0, s->now));
    shell_close(s);
}

/* ---- the end --------------------------------------------------------------------------------- */

TEST(stopping_merges_what_waits_and_takes_nothing_more) {
    struct shell *s = shell_open("merge: {quorum: 3, grace: forever, warmup_steps: 0}\n", 3);
    struct ledger_entry late = shell_header(s, 3, 0);
    shell_contribute(s, 1, 0);
    shell_contribute(s, 2, 0);
    CHECK(!s->applying);
    shell_admin(s, ORDER_STOP, "");
    CHECK_EQUAL(shell_find(s, DO_APPLY)->step.step.count, 2);
    shell_settle(s);
    CHECK_EQUAL(run_state_version(s->durable), 1);
    CHECK_EQUAL(run_state_phase(s->durable), RUN_STOPPED);
    EXPECT_REFUSAL(s, shell_submit(s, 3, &late), REFUSED_STOPPED);
    CHECK(!s->stopped); /* the process goes on: sites fetch the end from it */
    shell_close(s);
}

static void resume_with(struct shell *s, uint64_t token_budget) {
    struct coordinator_event event = {.kind = COORDINATOR_ADMIN, .call = 77};
    event.admin.order = ORDER_RESUME;
    event.admin.token_budget = token_budget;
    shell_step(s, &event);
}

TEST(the_token_budget_pauses_the_run_until_the_admin_gives_more_or_ends_it) {
    struct shell *s = shell_open(ALONE "token_budget: 2500\n", 1);
    for (int i = 0; i < 2; i++) { /* a thousand tokens each */
        shell_contribute(s, 1, 0);
        shell_settle(s);
        CHECK_EQUAL(run_state_phase(shell_run(s)), RUN_ACTIVE);
    }
    shell_contribute(s, 1, 0);
    CHECK_EQUAL(run_state_phase(shell_run(s)), RUN_PAUSED);
    CHECK_CONTAINS(run_state_reason(shell_run(s)), "budget of 2500 is spent");
    shell_settle(s);
    CHECK_EQUAL(run_state_version(s->durable), 3);
    struct ledger_entry late = shell_header(s, 1, 0);
    EXPECT_REFUSAL(s, shell_submit(s, 1, &late), REFUSED_PAUSED);
    const uint64_t too_small[] = {0, 2500, 3000};
    for (size_t i = 0; i < COUNT_OF(too_small); i++) {
        resume_with(s, too_small[i]);
        CHECK_EQUAL(run_state_phase(shell_run(s)), RUN_PAUSED);
        CHECK_CONTAINS(shell_find(s, DO_ADMIN_REPLY)->message, "larger one");
    }
    resume_with(s, 4500);
    shell_settle(s);
    CHECK_EQUAL(run_state_phase(s->durable), RUN_ACTIVE);
    CHECK_EQUAL(run_state_token_budget(s->durable), 4500);
    for (int i = 0; i < 2; i++) {
        shell_contribute(s, 1, 0);
        shell_settle(s);
    }
    CHECK_EQUAL(run_state_phase(s->durable), RUN_PAUSED);
    shell_admin(s, ORDER_STOP, "");
    shell_settle(s);
    CHECK_EQUAL(run_state_phase(s->durable), RUN_STOPPED);
    shell_close(s);
}

/* Of the contribution that spends the last tokens and the entry that pauses the run, only the first
 * reached the disk. */
TEST(a_run_whose_tokens_are_spent_pauses_at_the_next_start_where_a_crash_came_between) {
    struct shell *s = shell_open_unstarted(ALONE "token_budget: 500\n", 1);
    fixture_contribute(s->f, 1, 0, 0, 1);
    CHECK(run_state_apply(s->durable, buffer_bytes(&s->f->entries[s->f->entry_count - 1]), false,
                          NULL) == OK);
    CHECK(run_state_tokens(s->f->run) >= 500);
    CHECK_EQUAL(run_state_phase(s->f->run), RUN_ACTIVE);
    shell_start(s, s->f->run);
    CHECK_EQUAL(run_state_phase(shell_run(s)), RUN_PAUSED);
    CHECK_CONTAINS(run_state_reason(shell_run(s)), "budget");
    shell_settle(s);
    CHECK_EQUAL(run_state_phase(s->durable), RUN_PAUSED);
    CHECK_EQUAL(run_state_version(s->durable), 1); /* what waits is merged */
    shell_close(s);
}

TEST(a_step_that_would_make_the_model_nonfinite_is_not_entered_and_its_part_is_dropped) {
    struct shell *s = shell_open("merge: {quorum: 2, warmup_steps: 0, grace: 1h}\n", 2);
    shell_contribute(s, 1, 0);
    shell_contribute(s, 2, 0);
    const struct coordinator_action *apply = shell_find(s, DO_APPLY);
    CHECK(apply != NULL);
    struct coordinator_event event = {.kind = COORDINATOR_APPLIED};
    event.applied.status = CORRUPT;
    event.applied.version = 1;
    event.applied.nonfinite = apply->step.step.parts[1].index;
    shell_step(s, &event);
    CHECK(!s->stopped);
    CHECK_EQUAL(run_state_version(shell_run(s)), 0);
    CHECK(run_state_dropped(shell_run(s), event.applied.nonfinite));
    CHECK_EQUAL(run_state_pending_count(shell_run(s), 0), 1); /* the other one waits on */
    shell_close(s);
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
    struct shell *s = shell_open(ALONE, 1);
    shell_contribute(s, 1, 0);
    struct coordinator_event event = {.kind = COORDINATOR_COMMITTED};
    event.committed.commit = s->commits[0].number;
    event.committed.status = FAILED;
    shell_step(s, &event);
    CHECK(s->stopped && !shell_find(s, DO_RECEIPT) && !shell_find(s, DO_PUBLISH));
    CHECK(*shell_find(s, DO_STOP)->message);
    event.committed.status = OK; /* whatever comes now: nothing is done */
    shell_step(s, &event);
    CHECK_EQUAL(s->out.count, 0);
    struct coordinator_event order = shell_order(s, ORDER_PAUSE, "");
    shell_step(s, &order);
    CHECK_EQUAL(s->out.count, 0);
    shell_close(s);
}

TEST(a_step_that_cannot_be_computed_stops_the_process) {
    struct shell *s = shell_open(ALONE, 1);
    shell_contribute(s, 1, 0);
    struct coordinator_event event = {.kind = COORDINATOR_APPLIED};
    event.applied.status = CORRUPT;
    event.applied.message = "a payload is gone";
    event.applied.version = 1;
    shell_step(s, &event);
    CHECK(s->stopped);
    CHECK_CONTAINS(shell_find(s, DO_STOP)->message, "a payload is gone");
    CHECK_EQUAL(run_state_version(shell_run(s)), 0);
    shell_close(s);
}

TEST(a_restart_takes_up_what_was_acknowledged_and_not_merged) {
    struct shell *s = shell_open_unstarted(PLAIN, 3);
    fixture_contribute(s->f, 1, 0, 0, 1);
    CHECK(run_state_apply(s->durable, buffer_bytes(&s->f->entries[s->f->entry_count - 1]), false,
                          NULL) == OK);
    shell_start(s, s->f->run);
    CHECK(!shell_find(s, DO_APPLY)); /* below the quorum: its window starts anew */
    CHECK_EQUAL(s->timer_ms, s->now.monotonic_ms + 10000);
    shell_wait(s, 10000);
    CHECK(shell_find(s, DO_APPLY));
    shell_settle(s);
    CHECK_EQUAL(run_state_version(s->durable), 1);
    shell_close(s);
}

TEST(a_restart_at_the_quorum_steps_at_once) {
    struct shell *s = shell_open_unstarted(PLAIN, 3);
    for (uint32_t site = 1; site <= 2; site++) {
        fixture_contribute(s->f, site, 0, 0, 1);
        CHECK(run_state_apply(s->durable, buffer_bytes(&s->f->entries[s->f->entry_count - 1]),
                              false, NULL) == OK);
    }
    shell_start(s, s->f->run);
    CHECK_EQUAL(shell_find(s, DO_APPLY)->step.step.count, 2);
    shell_close(s);
}

TEST(a_coordinator_that_takes_over_begins_an_epoch_and_takes_nothing_made_for_the_last_one) {
    struct shell *s = shell_open_unstarted(ALONE, 2);
    struct ledger_entry before = shell_header(s, 1, 0);
    uint32_t epoch = run_state_epoch(s->f->run);
    s->options.new_epoch = true;
    shell_start(s, s->f->run);
    CHECK_EQUAL(
        s->commit_count,
        1); /* the EPOCH entry goes first, and like any other it is durable before it is told */
    CHECK(!shell_find(s, DO_PUBLISH));
    shell_settle(s);
    CHECK_EQUAL(run_state_epoch(s->durable), epoch + 1);
    uint64_t call = shell_submit(s, 1, &before);
    EXPECT_REFUSAL(s, call, REFUSED_EPOCH);
    struct ledger_entry header = shell_header(s, 1, 0);
    shell_contribute(s, 1, 0);
    shell_durable(s);
    struct receipt read;
    shell_check_receipt(s, &shell_find(s, DO_RECEIPT)->bytes, &header, &read);
    CHECK_EQUAL(read.epoch, epoch + 1);
    shell_settle(s);
    CHECK_EQUAL(run_state_version(s->durable), 1);
    shell_close(s);
}

TEST(a_coordinator_that_takes_over_merges_what_the_last_one_acknowledged) {
    struct shell *s = shell_open_unstarted(ALONE, 2);
    fixture_contribute(s->f, 1, 0, 0, 1);
    CHECK(run_state_apply(s->durable, buffer_bytes(&s->f->entries[s->f->entry_count - 1]), false,
                          NULL) == OK);
    uint32_t epoch = run_state_epoch(s->f->run);
    s->options.new_epoch = true;
    shell_start(s, s->f->run);
    shell_settle(s);
    CHECK_EQUAL(run_state_version(s->durable), 1);
    CHECK_EQUAL(run_state_epoch(s->durable), epoch + 1);
    shell_close(s);
}

/* ---- snapshots ------------------------------------------------------------------------------- */

TEST(snapshots_come_every_nth_version_and_name_the_oldest_payload_they_need) {
    struct shell *s = shell_open(ALONE "snapshot_interval: 2\n", 2);
    for (uint64_t version = 1; version <= 6; version++) {
        shell_contribute(s, 1, 0);
        bool waits = version == 4;
        uint64_t index = run_state_size(shell_run(s));
        if (waits)
            shell_contribute(s, 2, 0); /* while the step is computed: pending in the snapshot */
        shell_applied(s);
        const struct coordinator_action *snapshot = shell_find(s, DO_SNAPSHOT);
        CHECK((snapshot != NULL) == (version % 2 == 0));
        if (snapshot) {
            CHECK_EQUAL(snapshot->version, version);
            CHECK_EQUAL(snapshot->size, run_state_size(shell_run(s)));
            CHECK_EQUAL(snapshot->first_index, waits ? index : snapshot->size);
            CHECK(shell_find(s, DO_COMMIT) < snapshot); /* its step is handed to the disk first */
        }
        shell_settle(s);
        version = run_state_version(shell_run(s));
    }
    shell_close(s);
}

TEST(the_admin_gets_a_snapshot_once_no_step_is_under_way) {
    struct shell *s = shell_open(ALONE "snapshot_interval: 1000\n", 2);
    shell_admin(s, ORDER_SNAPSHOT, "");
    CHECK_EQUAL(shell_find(s, DO_SNAPSHOT)->version, 0);
    CHECK_EQUAL(shell_find(s, DO_ADMIN_REPLY)->outcome, ORDER_DONE);
    shell_contribute(s, 1, 0);
    shell_admin(s, ORDER_SNAPSHOT, "");
    CHECK(!shell_find(s, DO_SNAPSHOT) && shell_find(s, DO_ADMIN_REPLY));
    CHECK_EQUAL(shell_find(s, DO_ADMIN_REPLY)->version, 1); /* of the step that is under way */
    shell_applied(s);
    CHECK_EQUAL(shell_find(s, DO_SNAPSHOT)->version, 1);
    shell_settle(s);
    shell_contribute(s, 1, 0);
    shell_applied(s);
    CHECK(!shell_find(s, DO_SNAPSHOT)); /* asked for once, made once */
    shell_close(s);
}

TEST(where_no_snapshot_can_be_read_one_is_written_and_not_again_at_each_asking) {
    struct shell *s = shell_open(ALONE "snapshot_interval: 1000\n", 2);
    shell_plain(s, COORDINATOR_NO_SNAPSHOT, 0);
    const struct coordinator_action *snapshot = shell_find(s, DO_SNAPSHOT);
    CHECK(snapshot && snapshot->if_none);
    CHECK_EQUAL(snapshot->version, 0);
    CHECK_EQUAL(snapshot->size, run_state_size(shell_run(s)));
    shell_plain(s, COORDINATOR_NO_SNAPSHOT, 0);
    CHECK(!shell_find(s, DO_SNAPSHOT)); /* it is being written */
    shell_wait(s, 9999);
    shell_plain(s, COORDINATOR_NO_SNAPSHOT, 0);
    CHECK(!shell_find(s, DO_SNAPSHOT));
    shell_wait(s, 1);
    shell_contribute(s, 1, 0);
    shell_plain(s, COORDINATOR_NO_SNAPSHOT, 0);
    CHECK(!shell_find(s, DO_SNAPSHOT)); /* never of a model that is being changed */
    shell_settle(s);
    shell_plain(s, COORDINATOR_NO_SNAPSHOT, 0); /* the disk had no room, say */
    CHECK_EQUAL(shell_find(s, DO_SNAPSHOT)->version, 1);
    shell_admin(s, ORDER_SNAPSHOT, "");
    CHECK(!shell_find(s, DO_SNAPSHOT)->if_none); /* a person gets one in any case */
    shell_close(s);
}
