/* Joining, and the orders of the admin. */
#include "tests/coordinator_fixture.h"

#define ALONE "merge: {quorum: 1, grace: 10s, warmup_steps: 0, staleness_cap: 2}\n"

/* ---- joining --------------------------------------------------------------------------------- */

static void invite(struct shell *s, const char *name, uint64_t expires_ms,
                   uint8_t secret[static DIGEST_SIZE]) {
    struct coordinator_event event = shell_order(s, ORDER_INVITE, name);
    event.admin.expires_ms = expires_ms;
    memcpy(secret, event.admin.secret_digest, DIGEST_SIZE);
    shell_step(s, &event);
    CHECK(!shell_find(s, DO_ADMIN_REPLY)); /* not before it is durable */
    shell_durable(s);
    CHECK_EQUAL(shell_find(s, DO_ADMIN_REPLY)->outcome, ORDER_DONE);
}

static enum refusal join(struct shell *s, const char *name, const uint8_t *secret,
                         const struct key_pair *key) {
    struct coordinator_event event = shell_join_event(s, name, secret, key);
    shell_step(s, &event);
    if (s->commit_count > 0) {
        CHECK(!shell_find(s, DO_JOINED)); /* nobody is a member before the ledger says so */
        shell_durable(s);
    }
    const struct coordinator_action *joined = shell_find(s, DO_JOINED);
    CHECK(joined && joined->call == event.call);
    CHECK(joined->code == ACCEPTED || *joined->message);
    CHECK(!s->stopped);
    return joined->code;
}

TEST(an_invited_site_joins_once_and_hears_the_same_answer_again) {
    struct shell *s = shell_open(ALONE, 1);
    uint8_t secret[DIGEST_SIZE];
    invite(s, "lagoon", 0, secret);
    CHECK_EQUAL(join(s, "lagoon", secret, s->f->keys[2]), ACCEPTED);
    CHECK_EQUAL(shell_find(s, DO_JOINED)->site, 2);
    uint64_t size = run_state_size(shell_run(s));
    CHECK_EQUAL(join(s, "lagoon", secret, s->f->keys[2]), ACCEPTED);
    CHECK_EQUAL(shell_find(s, DO_JOINED)->site, 2);
    CHECK_EQUAL(run_state_size(shell_run(s)), size);
    CHECK(join(s, "lagoon", secret, s->f->keys[3]) != ACCEPTED);
    shell_contribute(s, 2, 0);
    shell_close(s);
}

TEST(who_joins_while_a_step_is_computed_is_enrolled_after_it) {
    struct shell *s = shell_open(ALONE, 1);
    uint8_t secret[DIGEST_SIZE];
    invite(s, "lagoon", 0, secret);
    shell_settle(s);
    shell_contribute(s, 1, 0);
    CHECK(s->applying);
    struct coordinator_event event = shell_join_event(s, "lagoon", secret, s->f->keys[2]);
    shell_step(s, &event);
    CHECK(!shell_find(s, DO_JOINED));
    CHECK_EQUAL(run_state_present_sites(shell_run(s)), 1);
    shell_applied(s);
    CHECK_EQUAL(run_state_present_sites(shell_run(s)), 2);
    while (s->commit_count > 1) shell_durable(s);
    shell_durable(s);
    CHECK_EQUAL(shell_find(s, DO_JOINED)->call, event.call);
    CHECK_EQUAL(shell_find(s, DO_JOINED)->code, ACCEPTED);
    shell_close(s);
}

TEST(a_rule_is_set_from_the_next_step_on_and_a_wrong_one_changes_nothing) {
    struct shell *s = shell_open("merge: {quorum: 2, grace: forever, warmup_steps: 0}\n", 3);
    shell_contribute(s, 1, 0);
    struct coordinator_event event = shell_order(s, ORDER_RULE, "");
    snprintf(event.admin.key, RULE_KEY_SIZE, "merge.quorum");
    snprintf(event.admin.value, RULE_VALUE_SIZE, "300");
    shell_step(s, &event);
    const struct coordinator_action *reply = shell_find(s, DO_ADMIN_REPLY);
    CHECK(reply && reply->outcome == ORDER_BAD_VALUE);
    CHECK_CONTAINS(reply->message, "merge.quorum: invalid value \"300\"");
    CHECK(!shell_find(s, DO_APPLY));
    snprintf(event.admin.value, RULE_VALUE_SIZE, "1");
    event.call = ++s->last_call;
    shell_step(s, &event);
    CHECK(shell_find(s, DO_APPLY)); /* one is enough now */
    snprintf(event.admin.key, RULE_KEY_SIZE, "outer.learning_rate");
    snprintf(event.admin.value, RULE_VALUE_SIZE, "5e-1");
    event.call = ++s->last_call;
    shell_step(s, &event); /* not while a step is computed */
    CHECK(run_state_manifest(shell_run(s))->outer.learning_rate == RATE_AUTO);
    shell_settle(s);
    CHECK_NEAR(run_state_manifest(s->durable)->outer.learning_rate, 0.5, 0);
    shell_close(s);
}

/* A site's heartbeat, whose clock is that far from this coordinator's. */
static void tells_time(struct shell *s, uint32_t site, int64_t apart_ms) {
    struct coordinator_event event = {.kind = COORDINATOR_HEARTBEAT, .call = ++s->last_call};
    event.heartbeat.site = site;
    event.heartbeat.instance = 40 + site;
    event.heartbeat.time_ms = (uint64_t)((int64_t)s->now.wall_ms + apart_ms);
    shell_step(s, &event);
}

static bool is_off(const struct shell *s, int64_t *ahead_ms) {
    struct clock_off off = {0};
    bool is = coordinator_state_clock_off(s->state, s->now, &off);
    *ahead_ms = off.ahead_ms;
    return is;
}

TEST(the_coordinators_clock_is_off_when_most_sites_say_so_in_one_direction) {
    enum { MINUTE = 60 * 1000 };
    struct shell *s = shell_open(ALONE, 4);
    int64_t ahead;
    tells_time(s, 1, -10 * MINUTE);
    CHECK(!is_off(s, &ahead)); /* one site's word */
    tells_time(s, 2, -5 * MINUTE);
    CHECK(is_off(s, &ahead));
    CHECK_EQUAL(ahead, 5 * MINUTE);
    tells_time(s, 3, 0);
    CHECK(is_off(s, &ahead));
    tells_time(s, 4, MINUTE / 2);
    CHECK(!is_off(s, &ahead)); /* half of them are not most */
    tells_time(s, 4, 20 * MINUTE);
    CHECK(!is_off(s, &ahead)); /* nor are two that say this and one that says the opposite */
    tells_time(s, 1, 6 * MINUTE);
    tells_time(s, 2, 7 * MINUTE);
    CHECK(is_off(s, &ahead));
    CHECK_EQUAL(ahead, -6 * MINUTE);
    s->now.wall_ms += 7 * MINUTE; /* somebody sets it, and no site need say so again */
    CHECK(!is_off(s, &ahead));
    s->now.wall_ms -= 7 * MINUTE;
    CHECK(is_off(s, &ahead));
    /* of no calendar */
    for (uint32_t site = 1; site <= 4; site++)
        tells_time(s, site, INT64_MAX - (int64_t)s->now.wall_ms);
    CHECK(!is_off(s, &ahead));
    for (uint32_t site = 1; site <= 4; site++) tells_time(s, site, -20 * MINUTE);
    CHECK(is_off(s, &ahead));
    s->now.monotonic_ms += 100 * MINUTE; /* they have gone: so has their word */
    s->now.wall_ms += 100 * MINUTE;
    CHECK(!is_off(s, &ahead));
    shell_close(s);
}

TEST(an_invitation_that_only_our_clock_has_expired_is_refused_with_words_that_say_so) {
    enum { HOUR = 3600 * 1000 };
    struct shell *s = shell_open(ALONE, 2);
    uint8_t secret[DIGEST_SIZE];
    invite(s, "lagoon", s->now.wall_ms + HOUR, secret);
    s->now.wall_ms += 10 * HOUR;
    tells_time(s, 1, -10 * HOUR);
    tells_time(s, 2, -10 * HOUR);
    CHECK_EQUAL(join(s, "lagoon", secret, s->f->keys[3]), REFUSED_EXPIRED);
    CHECK_CONTAINS(shell_find(s, DO_JOINED)->message,
                   "the coordinator's clock is 36000 s ahead, and only by that");
    s->now.wall_ms += 2 * HOUR; /* by every clock */
    s->now.monotonic_ms += 2 * HOUR;
    tells_time(s, 1, -10 * HOUR);
    tells_time(s, 2, -10 * HOUR);
    CHECK_EQUAL(join(s, "lagoon", secret, s->f->keys[3]), REFUSED_EXPIRED);
    CHECK_CONTAINS(shell_find(s, DO_JOINED)->message, "ask the admin for a new one");
    s->now.wall_ms -= 12 * HOUR;
    CHECK_EQUAL(join(s, "lagoon", secret, s->f->keys[3]), ACCEPTED); /* it was not used up */
    shell_close(s);
}

TEST(a_join_that_is_not_durable_yet_is_not_confirmed_to_a_second_call) {
    struct shell *s = shell_open(ALONE, 0);
    uint8_t secret[DIGEST_SIZE];
    invite(s, "lagoon", 0, secret);
    struct coordinator_event first = shell_join_event(s, "lagoon", secret, s->f->keys[1]);
    struct coordinator_event second = shell_join_event(s, "lagoon", secret, s->f->keys[1]);
    shell_step(s, &first);
    CHECK(!shell_find(s, DO_JOINED));
    shell_step(s, &second);
    CHECK(!shell_find(s, DO_JOINED) || shell_find(s, DO_JOINED)->code == REFUSED_BUSY);
    shell_durable(s);
    CHECK_EQUAL(shell_find(s, DO_JOINED)->code, ACCEPTED);
    CHECK_EQUAL(run_state_site_count(s->durable), 1);
    shell_close(s);
}

TEST(who_was_not_invited_does_not_join_and_stops_nothing) {
    struct shell *s = shell_open(ALONE, 1);
    uint8_t secret[DIGEST_SIZE], wrong[DIGEST_SIZE] = {1}, second[DIGEST_SIZE], late[DIGEST_SIZE];
    invite(s, "lagoon", s->now.wall_ms + 1000, secret);
    uint64_t size = run_state_size(shell_run(s));
    CHECK(join(s, "lagoon", wrong, s->f->keys[2]) != ACCEPTED);
    CHECK(join(s, "reef", secret, s->f->keys[2]) != ACCEPTED);
    CHECK(join(s, "lagoon", secret, s->f->keys[1]) !=
          ACCEPTED); /* a key that is site 1's already */
    shell_wait(s, 1001);
    CHECK_EQUAL(join(s, "lagoon", secret, s->f->keys[2]), REFUSED_EXPIRED);
    CHECK_EQUAL(run_state_size(shell_run(s)), size);
    invite(s, "lagoon", 0, second);
    invite(s, "lagoon", 0, late); /* takes the second's place */
    CHECK_EQUAL(join(s, "lagoon", second, s->f->keys[2]), REFUSED_REVOKED);
    CHECK_CONTAINS(shell_find(s, DO_JOINED)->message, "a newer invitation");
    CHECK_EQUAL(join(s, "lagoon", late, s->f->keys[2]), ACCEPTED);
    CHECK_EQUAL(join(s, "lagoon", second, s->f->keys[3]), REFUSED_REVOKED);
    shell_close(s);
}

TEST(a_withdrawn_invitation_is_refused_in_every_phase_and_told_apart) {
    struct shell *s = shell_open(ALONE, 1);
    uint8_t secret[DIGEST_SIZE], other[DIGEST_SIZE];
    uint64_t call = shell_admin(s, ORDER_UNINVITE, "lagoon");
    CHECK_EQUAL(shell_find(s, DO_ADMIN_REPLY)->outcome, ORDER_NO_SUCH_SITE);
    CHECK_EQUAL(shell_find(s, DO_ADMIN_REPLY)->call, call);
    invite(s, "lagoon", 0, secret);
    invite(s, "reef", 0, other);
    shell_admin(s, ORDER_UNINVITE, "lagoon");
    shell_settle(s);
    CHECK_EQUAL(join(s, "lagoon", secret, s->f->keys[2]), REFUSED_REVOKED);
    CHECK_CONTAINS(shell_find(s, DO_JOINED)->message, "withdrew");
    CHECK_EQUAL(run_state_site_count(shell_run(s)), 1);
    shell_admin(s, ORDER_STOP, "");
    shell_settle(s);
    shell_admin(s, ORDER_UNINVITE, "reef"); /* an end is an end, of a run that is over too */
    shell_settle(s);
    CHECK_EQUAL(join(s, "reef", other, s->f->keys[2]), REFUSED_REVOKED);
    CHECK(!s->stopped);
    shell_close(s);
}

TEST(a_revoked_site_comes_back_with_a_new_key_and_not_with_the_old_one) {
    struct shell *s = shell_open(ALONE, 1);
    uint8_t secret[DIGEST_SIZE];
    shell_admin(s, ORDER_REVOKE, "site-1");
    shell_settle(s);
    invite(s, "site-1", 0, secret);
    CHECK(join(s, "site-1", secret, s->f->keys[1]) != ACCEPTED);
    CHECK(!s->stopped);
    CHECK_EQUAL(join(s, "site-1", secret, s->f->keys[2]), ACCEPTED);
    CHECK_EQUAL(shell_find(s, DO_JOINED)->site, 2);
    shell_close(s);
}

TEST(nobody_joins_a_run_that_has_ended) {
    struct shell *s = shell_open(ALONE, 1);
    uint8_t secret[DIGEST_SIZE];
    invite(s, "lagoon", 0, secret);
    shell_admin(s, ORDER_PAUSE, "");
    shell_settle(s);
    uint8_t other[DIGEST_SIZE];
    invite(s, "reef", 0, other); /* while paused it may */
    CHECK_EQUAL(join(s, "reef", other, s->f->keys[2]), ACCEPTED);
    shell_admin(s, ORDER_STOP, "");
    shell_settle(s);
    CHECK_EQUAL(join(s, "lagoon", secret, s->f->keys[3]), REFUSED_STOPPED);
    CHECK_EQUAL(join(s, "reef", other, s->f->keys[2]), ACCEPTED); /* a member may ask again */
    shell_close(s);
}

/* ---- the admin ------------------------------------------------------------------------------- */

static void order_refused(struct shell *s, enum admin_order order, const char *name,
                          enum order_outcome outcome) {
    uint64_t size = run_state_size(shell_run(s));
    uint64_t call = shell_admin(s, order, name);
    const struct coordinator_action *reply = shell_find(s, DO_ADMIN_REPLY);
    CHECK(reply && reply->call == call && reply->outcome == outcome && *reply->message);
    CHECK_EQUAL(run_state_size(shell_run(s)), size);
    CHECK(!s->stopped);
}

static void order_done(struct shell *s, enum admin_order order, const char *name) {
    uint64_t call = shell_admin(s, order, name);
    CHECK(!shell_find(s, DO_ADMIN_REPLY));
    while (s->commit_count > 0) shell_durable(s);
    const struct coordinator_action *reply = shell_find(s, DO_ADMIN_REPLY);
    CHECK(reply && reply->call == call && reply->outcome == ORDER_DONE);
}

TEST(orders_that_do_not_fit_the_phase_are_refused_and_stop_nothing) {
    struct shell *s = shell_open(ALONE, 2);
    order_refused(s, ORDER_RESUME, "", ORDER_CONFLICT);
    order_done(s, ORDER_PAUSE, "");
    order_refused(s, ORDER_PAUSE, "", ORDER_CONFLICT);
    order_done(s, ORDER_RESUME, "");
    order_refused(s, ORDER_INVITE, "site-1", ORDER_CONFLICT);
    order_refused(s, ORDER_INVITE, "Not A Name", ORDER_BAD_VALUE);
    order_refused(s, ORDER_INVITE, "", ORDER_BAD_VALUE);
    order_refused(s, ORDER_REVOKE, "nobody", ORDER_NO_SUCH_SITE);
    order_refused(s, ORDER_REVOKE, "", ORDER_NO_SUCH_SITE);
    order_refused(s, (enum admin_order)99, "", ORDER_BAD_VALUE);
    order_done(s, ORDER_REVOKE, "site-2");
    order_refused(s, ORDER_REVOKE, "site-2", ORDER_CONFLICT);
    order_done(s, ORDER_INVITE, "site-2");
    order_done(s, ORDER_STOP, "");
    order_refused(s, ORDER_STOP, "", ORDER_CONFLICT);
    order_refused(s, ORDER_PAUSE, "", ORDER_CONFLICT);
    order_refused(s, ORDER_RESUME, "", ORDER_CONFLICT);
    order_refused(s, ORDER_INVITE, "late", ORDER_CONFLICT);
    order_done(s, ORDER_REVOKE, "site-1"); /* this is always possible */
    shell_close(s);
}

TEST(inner_steps_out_of_their_bounds_are_refused_and_stop_nothing) {
    static const char *const wrong[] = {"0", "1000001", "4294967296", "-1", "", "many"};
    struct shell *s = shell_open(ALONE, 1);
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        shell_set(s, "inner.inner_steps", wrong[i]);
        CHECK(shell_find(s, DO_ADMIN_REPLY) &&
              shell_find(s, DO_ADMIN_REPLY)->outcome == ORDER_BAD_VALUE);
        CHECK(!s->stopped);
    }
    order_done(s, ORDER_STOP, "");
    shell_set(s, "inner.inner_steps", "5");
    CHECK(!s->stopped);
    CHECK(shell_find(s, DO_ADMIN_REPLY)->outcome == ORDER_BAD_VALUE);
    shell_close(s);
}

TEST(a_secret_that_was_used_before_is_refused_and_stops_nothing) {
    struct shell *s = shell_open(ALONE, 1);
    struct coordinator_event event = shell_order(s, ORDER_INVITE, "one");
    shell_step(s, &event);
    shell_settle(s);
    snprintf(event.admin.name, SITE_NAME_SIZE, "two");
    shell_step(s, &event);
    CHECK(!s->stopped);
    CHECK(shell_find(s, DO_ADMIN_REPLY)->outcome == ORDER_BAD_VALUE);
    shell_close(s);
}

TEST(revocations_behind_a_step_are_bounded_and_one_too_many_is_told_to_come_again) {
    struct shell *s = shell_open(ALONE, 2);
    shell_contribute(s, 1, 0);
    CHECK(s->applying);
    int deferred = 0;
    while (shell_admin(s, ORDER_REVOKE, "site-2"),
           !shell_find(s, DO_ADMIN_REPLY) && deferred < 1000)
        deferred++;
    CHECK_EQUAL(deferred, 64);
    CHECK_EQUAL(shell_find(s, DO_ADMIN_REPLY)->outcome, ORDER_BUSY);
    shell_applied(s);
    shell_settle(s);
    CHECK(run_state_site(s->durable, 2)->revoked);
    CHECK(!s->stopped);
    shell_close(s);
}

TEST(more_orders_than_the_disk_takes_are_told_to_come_again_and_stop_nothing) {
    struct shell *s = shell_open(ALONE, 1);
    for (int i = 0; i < COMMITS_LIMIT; i++) {
        shell_admin(s, ORDER_INVITE, "more");
        CHECK(shell_find(s, DO_COMMIT));
    }
    shell_admin(s, ORDER_INVITE, "more");
    CHECK(!shell_find(s, DO_COMMIT) && shell_find(s, DO_ADMIN_REPLY)->outcome == ORDER_BUSY);
    const struct run_invitation *invitation =
        run_state_invitation_at(shell_run(s), run_state_invitation_count(shell_run(s)) - 1);
    struct key_pair *key = fixture_key(200);
    struct coordinator_event event =
        shell_join_event(s, invitation->name, invitation->secret_digest, key);
    shell_step(s, &event);
    CHECK(shell_find(s, DO_JOINED) && shell_find(s, DO_JOINED)->code == REFUSED_BUSY);
    shell_admin(s, ORDER_PAUSE, ""); /* what saves a run comes through ... */
    CHECK(shell_find(s, DO_COMMIT));
    for (int i = 1; i < COMMITS_RESERVED; i++)
        shell_admin(s, i % 2 ? ORDER_RESUME : ORDER_PAUSE, "");
    shell_admin(s, ORDER_PAUSE, ""); /* ... up to a bound */
    CHECK(shell_find(s, DO_ADMIN_REPLY)->outcome == ORDER_BUSY);
    CHECK(!s->stopped);
    shell_durable(s);
    shell_settle(s);
    shell_step(s, &event);
    CHECK(shell_find(s, DO_COMMIT)); /* the invitation was not spent */
    key_pair_destroy(key);
    shell_close(s);
}

TEST(one_commit_that_is_durable_answers_for_all_before_it) {
    struct shell *s = shell_open(ALONE, 1);
    for (int i = 0; i < 3; i++) shell_admin(s, ORDER_INVITE, "more");
    struct coordinator_event event = {.kind = COORDINATOR_COMMITTED};
    event.committed.commit = s->commits[1].number;
    shell_step(s, &event);
    CHECK_EQUAL(shell_count(s, DO_ADMIN_REPLY), 2);
    CHECK_EQUAL(shell_count(s, DO_PUBLISH), 1);
    CHECK_EQUAL(shell_find(s, DO_PUBLISH)->size, s->commits[1].first_index + 1);
    event.committed.commit = s->commits[2].number;
    shell_step(s, &event);
    CHECK_EQUAL(shell_count(s, DO_ADMIN_REPLY), 1);
    shell_close(s);
}

TEST(revoking_cuts_the_site_and_drops_what_waits_from_it) {
    struct shell *s =
        shell_open("fragments: 2\nmerge: {quorum: 3, grace: 10s, warmup_steps: 0}\n", 3);
    shell_contribute(s, 1, 0);
    shell_contribute(s, 2, 0);
    shell_settle(s);
    struct ledger_entry header = shell_header(s, 1, 1);
    uint64_t call = shell_submit(s, 1, &header);
    shell_admin(s, ORDER_REVOKE, "site-1");
    EXPECT_REFUSAL(s, call, REFUSED_REVOKED);
    CHECK_EQUAL(shell_find(s, DO_CUT)->site, 1);
    CHECK_EQUAL(coordinator_state_uploads(s->state), 0);
    shell_uploaded(s, call, ACCEPTED);
    CHECK_EQUAL(s->commit_count, 1);
    shell_settle(s);
    EXPECT_REFUSAL(s, shell_submit(s, 1, &header), REFUSED_REVOKED);
    shell_wait(s, 10000);
    CHECK_EQUAL(shell_find(s, DO_APPLY)->step.step.count, 1); /* site 2's alone */
    shell_settle(s);
    shell_close(s);
}

TEST(revoking_a_site_while_its_contribution_is_merged_lets_the_step_end_first) {
    struct shell *s = shell_open(ALONE, 2);
    shell_contribute(s, 1, 0);
    CHECK(s->applying);
    uint64_t call = shell_admin(s, ORDER_REVOKE, "site-1");
    shell_admin(s, ORDER_REVOKE, "site-1"); /* an impatient admin */
    while (s->commit_count > 0) shell_durable(s);
    struct ledger_entry header = shell_header(s, 1, 0);
    shell_submit(s, 1, &header);
    CHECK(!shell_find(s, DO_ADMIT)); /* nothing of it is taken from the moment of the order */
    shell_applied(s);
    CHECK(!s->stopped);
    bool answered = false;
    while (s->commit_count > 0) {
        shell_durable(s);
        const struct coordinator_action *reply = shell_find(s, DO_ADMIN_REPLY);
        answered |= reply && reply->call == call && reply->outcome == ORDER_DONE;
    }
    CHECK(answered);
    CHECK_EQUAL(run_state_version(s->durable), 1);
    CHECK(run_state_site(s->durable, 1)->revoked);
    EXPECT_REFUSAL(s, shell_submit(s, 1, &header), REFUSED_REVOKED);
    CHECK(!s->stopped);
    shell_contribute(s, 2, 0);
    shell_close(s);
}

TEST(orders_while_a_step_is_computed_do_not_break_it) {
    struct shell *s = shell_open(ALONE, 3);
    shell_contribute(s, 1, 0);
    CHECK(s->applying);
    shell_admin(s, ORDER_REVOKE, "site-3"); /* no part of the step */
    shell_admin(s, ORDER_PAUSE, "");
    shell_admin(s, ORDER_RESUME, "");
    shell_set(s, "inner.inner_steps", "7");
    shell_contribute(s, 2, 0);
    shell_admin(s, ORDER_STOP, "");
    shell_settle(s);
    CHECK(!s->stopped);
    CHECK_EQUAL(run_state_version(s->durable), 2);
    shell_close(s);
}

TEST(heads_cover_what_is_durable_and_nothing_else) {
    struct shell *s = shell_open(ALONE, 1);
    shell_contribute(s, 1, 0);
    uint8_t raw[HEAD_SIZE], root[DIGEST_SIZE];
    struct ledger_head head;
    struct error error = {0};
    coordinator_state_head(s->state, raw);
    CHECK_OK(ledger_head_verify(bytes_of(raw, sizeof raw), key_pair_public(s->f->coordinator),
                                &head, &error));
    CHECK_EQUAL(head.size, run_state_size(s->durable));
    merkle_root(run_state_tree(s->durable), head.size, root);
    CHECK_MEMORY(head.root, root, DIGEST_SIZE);
    shell_close(s);
}
