/* Joining, and the orders of the admin. */
#include "tests/coordinator_fixture.h"

#define ALONE "merge: {quorum: 1, grace: 10s, warmup_steps: 0, staleness_cap: 2}\n"

/* ---- joining --------------------------------------------------------------------------------- */

static void invite(struct brain *b, const char *name, uint64_t expires_ms,
                   uint8_t secret[static DIGEST_SIZE]) {
    struct coordinator_event event = brain_order(b, ORDER_INVITE, name);
    event.admin.expires_ms = expires_ms;
    memcpy(secret, event.admin.secret_digest, DIGEST_SIZE);
    brain_step(b, &event);
    CHECK(!brain_find(b, DO_ADMIN_REPLY)); /* not before it is durable */
    brain_durable(b);
    CHECK_EQUAL(brain_find(b, DO_ADMIN_REPLY)->outcome, ORDER_DONE);
}

static enum refusal join(struct brain *b, const char *name, const uint8_t *secret,
                         const struct key_pair *key) {
    struct coordinator_event event = brain_join_event(b, name, secret, key);
    brain_step(b, &event);
    if (b->commit_count > 0) {
        CHECK(!brain_find(b, DO_JOINED)); /* nobody is a member before the ledger says so */
        brain_durable(b);
    }
    const struct coordinator_action *joined = brain_find(b, DO_JOINED);
    CHECK(joined && joined->call == event.call);
    CHECK(joined->code == ACCEPTED || *joined->message);
    CHECK(!b->stopped);
    return joined->code;
}

TEST(an_invited_site_joins_once_and_hears_the_same_answer_again) {
    struct brain *b = brain_open(ALONE, 1);
    uint8_t secret[DIGEST_SIZE];
    invite(b, "lagoon", 0, secret);
    CHECK_EQUAL(join(b, "lagoon", secret, b->f->keys[2]), ACCEPTED);
    CHECK_EQUAL(brain_find(b, DO_JOINED)->site, 2);
    uint64_t size = run_state_size(brain_run(b));
    CHECK_EQUAL(join(b, "lagoon", secret, b->f->keys[2]), ACCEPTED);
    CHECK_EQUAL(brain_find(b, DO_JOINED)->site, 2);
    CHECK_EQUAL(run_state_size(brain_run(b)), size);
    CHECK(join(b, "lagoon", secret, b->f->keys[3]) != ACCEPTED);
    brain_contribute(b, 2, 0);
    brain_close(b);
}

/* A site's heartbeat, whose clock is that far from this coordinator's. */
static void tells_time(struct brain *b, uint32_t site, int64_t apart_ms) {
    struct coordinator_event event = {.kind = COORDINATOR_HEARTBEAT, .call = ++b->last_call};
    event.heartbeat.site = site;
    event.heartbeat.instance = 40 + site;
    event.heartbeat.time_ms = (uint64_t)((int64_t)b->now.wall_ms + apart_ms);
    brain_step(b, &event);
}

static bool is_off(const struct brain *b, int64_t *ahead_ms) {
    struct clock_off off = {0};
    bool is = coordinator_state_clock_off(b->state, b->now, &off);
    *ahead_ms = off.ahead_ms;
    return is;
}

TEST(the_coordinators_clock_is_off_when_most_sites_say_so_in_one_direction) {
    enum { MINUTE = 60 * 1000 };
    struct brain *b = brain_open(ALONE, 4);
    int64_t ahead;
    tells_time(b, 1, -10 * MINUTE);
    CHECK(!is_off(b, &ahead)); /* one site's word */
    tells_time(b, 2, -5 * MINUTE);
    CHECK(is_off(b, &ahead));
    CHECK_EQUAL(ahead, 5 * MINUTE);
    tells_time(b, 3, 0);
    CHECK(is_off(b, &ahead));
    tells_time(b, 4, MINUTE / 2);
    CHECK(!is_off(b, &ahead)); /* half of them are not most */
    tells_time(b, 4, 20 * MINUTE);
    CHECK(!is_off(b, &ahead)); /* nor are two that say this and one that says the opposite */
    tells_time(b, 1, 6 * MINUTE);
    tells_time(b, 2, 7 * MINUTE);
    CHECK(is_off(b, &ahead));
    CHECK_EQUAL(ahead, -6 * MINUTE);
    b->now.wall_ms += 7 * MINUTE; /* somebody sets it, and no site need say so again */
    CHECK(!is_off(b, &ahead));
    b->now.wall_ms -= 7 * MINUTE;
    CHECK(is_off(b, &ahead));
    /* of no calendar */
    for (uint32_t site = 1; site <= 4; site++)
        tells_time(b, site, INT64_MAX - (int64_t)b->now.wall_ms);
    CHECK(!is_off(b, &ahead));
    for (uint32_t site = 1; site <= 4; site++) tells_time(b, site, -20 * MINUTE);
    CHECK(is_off(b, &ahead));
    b->now.monotonic_ms += 100 * MINUTE; /* they have gone: so has their word */
    b->now.wall_ms += 100 * MINUTE;
    CHECK(!is_off(b, &ahead));
    brain_close(b);
}

TEST(an_invitation_that_only_our_clock_has_expired_is_refused_with_words_that_say_so) {
    enum { HOUR = 3600 * 1000 };
    struct brain *b = brain_open(ALONE, 2);
    uint8_t secret[DIGEST_SIZE];
    invite(b, "lagoon", b->now.wall_ms + HOUR, secret);
    b->now.wall_ms += 10 * HOUR;
    tells_time(b, 1, -10 * HOUR);
    tells_time(b, 2, -10 * HOUR);
    CHECK_EQUAL(join(b, "lagoon", secret, b->f->keys[3]), REFUSED_EXPIRED);
    CHECK_CONTAINS(brain_find(b, DO_JOINED)->message,
                   "the coordinator's clock is 36000 s ahead, and only by that");
    b->now.wall_ms += 2 * HOUR; /* by every clock */
    b->now.monotonic_ms += 2 * HOUR;
    tells_time(b, 1, -10 * HOUR);
    tells_time(b, 2, -10 * HOUR);
    CHECK_EQUAL(join(b, "lagoon", secret, b->f->keys[3]), REFUSED_EXPIRED);
    CHECK_CONTAINS(brain_find(b, DO_JOINED)->message, "ask the admin for a new one");
    b->now.wall_ms -= 12 * HOUR;
    CHECK_EQUAL(join(b, "lagoon", secret, b->f->keys[3]), ACCEPTED); /* it was not used up */
    brain_close(b);
}

TEST(a_join_that_is_not_durable_yet_is_not_confirmed_to_a_second_call) {
    struct brain *b = brain_open(ALONE, 0);
    uint8_t secret[DIGEST_SIZE];
    invite(b, "lagoon", 0, secret);
    struct coordinator_event first = brain_join_event(b, "lagoon", secret, b->f->keys[1]);
    struct coordinator_event second = brain_join_event(b, "lagoon", secret, b->f->keys[1]);
    brain_step(b, &first);
    CHECK(!brain_find(b, DO_JOINED));
    brain_step(b, &second);
    CHECK(!brain_find(b, DO_JOINED) || brain_find(b, DO_JOINED)->code == REFUSED_BUSY);
    brain_durable(b);
    CHECK_EQUAL(brain_find(b, DO_JOINED)->code, ACCEPTED);
    CHECK_EQUAL(run_state_site_count(b->durable), 1);
    brain_close(b);
}

TEST(who_was_not_invited_does_not_join_and_stops_nothing) {
    struct brain *b = brain_open(ALONE, 1);
    uint8_t secret[DIGEST_SIZE], wrong[DIGEST_SIZE] = {1}, second[DIGEST_SIZE], late[DIGEST_SIZE];
    invite(b, "lagoon", b->now.wall_ms + 1000, secret);
    uint64_t size = run_state_size(brain_run(b));
    CHECK(join(b, "lagoon", wrong, b->f->keys[2]) != ACCEPTED);
    CHECK(join(b, "reef", secret, b->f->keys[2]) != ACCEPTED);
    CHECK(join(b, "lagoon", secret, b->f->keys[1]) !=
          ACCEPTED); /* a key that is site 1's already */
    brain_wait(b, 1001);
    CHECK_EQUAL(join(b, "lagoon", secret, b->f->keys[2]), REFUSED_EXPIRED);
    CHECK_EQUAL(run_state_size(brain_run(b)), size);
    invite(b, "lagoon", 0, second);
    invite(b, "lagoon", 0, late); /* takes the second's place */
    CHECK_EQUAL(join(b, "lagoon", second, b->f->keys[2]), REFUSED_REVOKED);
    CHECK_CONTAINS(brain_find(b, DO_JOINED)->message, "a newer invitation");
    CHECK_EQUAL(join(b, "lagoon", late, b->f->keys[2]), ACCEPTED);
    CHECK_EQUAL(join(b, "lagoon", second, b->f->keys[3]), REFUSED_REVOKED);
    brain_close(b);
}

TEST(a_withdrawn_invitation_is_refused_in_every_phase_and_told_apart) {
    struct brain *b = brain_open(ALONE, 1);
    uint8_t secret[DIGEST_SIZE], other[DIGEST_SIZE];
    uint64_t call = brain_admin(b, ORDER_UNINVITE, "lagoon");
    CHECK_EQUAL(brain_find(b, DO_ADMIN_REPLY)->outcome, ORDER_NO_SUCH_SITE);
    CHECK_EQUAL(brain_find(b, DO_ADMIN_REPLY)->call, call);
    invite(b, "lagoon", 0, secret);
    invite(b, "reef", 0, other);
    brain_admin(b, ORDER_UNINVITE, "lagoon");
    brain_settle(b);
    CHECK_EQUAL(join(b, "lagoon", secret, b->f->keys[2]), REFUSED_REVOKED);
    CHECK_CONTAINS(brain_find(b, DO_JOINED)->message, "withdrew");
    CHECK_EQUAL(run_state_site_count(brain_run(b)), 1);
    brain_admin(b, ORDER_STOP, "");
    brain_settle(b);
    brain_admin(b, ORDER_UNINVITE, "reef"); /* an end is an end, of a run that is over too */
    brain_settle(b);
    CHECK_EQUAL(join(b, "reef", other, b->f->keys[2]), REFUSED_REVOKED);
    CHECK(!b->stopped);
    brain_close(b);
}

TEST(a_revoked_site_comes_back_with_a_new_key_and_not_with_the_old_one) {
    struct brain *b = brain_open(ALONE, 1);
    uint8_t secret[DIGEST_SIZE];
    brain_admin(b, ORDER_REVOKE, "site-1");
    brain_settle(b);
    invite(b, "site-1", 0, secret);
    CHECK(join(b, "site-1", secret, b->f->keys[1]) != ACCEPTED);
    CHECK(!b->stopped);
    CHECK_EQUAL(join(b, "site-1", secret, b->f->keys[2]), ACCEPTED);
    CHECK_EQUAL(brain_find(b, DO_JOINED)->site, 2);
    brain_close(b);
}

TEST(nobody_joins_a_run_that_has_ended) {
    struct brain *b = brain_open(ALONE, 1);
    uint8_t secret[DIGEST_SIZE];
    invite(b, "lagoon", 0, secret);
    brain_admin(b, ORDER_PAUSE, "");
    brain_settle(b);
    uint8_t other[DIGEST_SIZE];
    invite(b, "reef", 0, other); /* while paused it may */
    CHECK_EQUAL(join(b, "reef", other, b->f->keys[2]), ACCEPTED);
    brain_admin(b, ORDER_STOP, "");
    brain_settle(b);
    CHECK_EQUAL(join(b, "lagoon", secret, b->f->keys[3]), REFUSED_STOPPED);
    CHECK_EQUAL(join(b, "reef", other, b->f->keys[2]), ACCEPTED); /* a member may ask again */
    brain_close(b);
}

/* ---- the admin ------------------------------------------------------------------------------- */

static void order_refused(struct brain *b, enum admin_order order, const char *name,
                          enum order_outcome outcome) {
    uint64_t size = run_state_size(brain_run(b));
    uint64_t call = brain_admin(b, order, name);
    const struct coordinator_action *reply = brain_find(b, DO_ADMIN_REPLY);
    CHECK(reply && reply->call == call && reply->outcome == outcome && *reply->message);
    CHECK_EQUAL(run_state_size(brain_run(b)), size);
    CHECK(!b->stopped);
}

static void order_done(struct brain *b, enum admin_order order, const char *name) {
    uint64_t call = brain_admin(b, order, name);
    CHECK(!brain_find(b, DO_ADMIN_REPLY));
    while (b->commit_count > 0) brain_durable(b);
    const struct coordinator_action *reply = brain_find(b, DO_ADMIN_REPLY);
    CHECK(reply && reply->call == call && reply->outcome == ORDER_DONE);
}

TEST(orders_that_do_not_fit_the_phase_are_refused_and_stop_nothing) {
    struct brain *b = brain_open(ALONE, 2);
    order_refused(b, ORDER_RESUME, "", ORDER_CONFLICT);
    order_done(b, ORDER_PAUSE, "");
    order_refused(b, ORDER_PAUSE, "", ORDER_CONFLICT);
    order_done(b, ORDER_RESUME, "");
    order_refused(b, ORDER_INVITE, "site-1", ORDER_CONFLICT);
    order_refused(b, ORDER_INVITE, "Not A Name", ORDER_BAD_VALUE);
    order_refused(b, ORDER_INVITE, "", ORDER_BAD_VALUE);
    order_refused(b, ORDER_REVOKE, "nobody", ORDER_NO_SUCH_SITE);
    order_refused(b, ORDER_REVOKE, "", ORDER_NO_SUCH_SITE);
    order_refused(b, (enum admin_order)99, "", ORDER_BAD_VALUE);
    order_done(b, ORDER_REVOKE, "site-2");
    order_refused(b, ORDER_REVOKE, "site-2", ORDER_CONFLICT);
    order_done(b, ORDER_INVITE, "site-2");
    order_done(b, ORDER_STOP, "");
    order_refused(b, ORDER_STOP, "", ORDER_CONFLICT);
    order_refused(b, ORDER_PAUSE, "", ORDER_CONFLICT);
    order_refused(b, ORDER_RESUME, "", ORDER_CONFLICT);
    order_refused(b, ORDER_INVITE, "late", ORDER_CONFLICT);
    order_done(b, ORDER_REVOKE, "site-1"); /* this is always possible */
    brain_close(b);
}

TEST(inner_steps_out_of_their_bounds_are_refused_and_stop_nothing) {
    static const uint32_t wrong[] = {0, 1000001, UINT32_MAX};
    struct brain *b = brain_open(ALONE, 1);
    struct coordinator_event event;
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        event = brain_order(b, ORDER_INNER_STEPS, "");
        event.admin.inner_steps = wrong[i];
        brain_step(b, &event);
        CHECK(brain_find(b, DO_ADMIN_REPLY) &&
              brain_find(b, DO_ADMIN_REPLY)->outcome == ORDER_BAD_VALUE);
        CHECK(!b->stopped);
    }
    order_done(b, ORDER_STOP, "");
    event = brain_order(b, ORDER_INNER_STEPS, "");
    event.admin.inner_steps = 5;
    brain_step(b, &event);
    CHECK(!b->stopped);
    CHECK(brain_find(b, DO_ADMIN_REPLY)->outcome == ORDER_BAD_VALUE);
    brain_close(b);
}

TEST(a_secret_that_was_used_before_is_refused_and_stops_nothing) {
    struct brain *b = brain_open(ALONE, 1);
    struct coordinator_event event = brain_order(b, ORDER_INVITE, "one");
    brain_step(b, &event);
    brain_settle(b);
    snprintf(event.admin.name, SITE_NAME_SIZE, "two");
    brain_step(b, &event);
    CHECK(!b->stopped);
    CHECK(brain_find(b, DO_ADMIN_REPLY)->outcome == ORDER_BAD_VALUE);
    brain_close(b);
}

TEST(revocations_behind_a_step_are_bounded_and_one_too_many_is_told_to_come_again) {
    struct brain *b = brain_open(ALONE, 2);
    brain_contribute(b, 1, 0);
    CHECK(b->applying);
    int deferred = 0;
    while (brain_admin(b, ORDER_REVOKE, "site-2"),
           !brain_find(b, DO_ADMIN_REPLY) && deferred < 1000)
        deferred++;
    CHECK_EQUAL(deferred, 64);
    CHECK_EQUAL(brain_find(b, DO_ADMIN_REPLY)->outcome, ORDER_BUSY);
    brain_applied(b);
    brain_settle(b);
    CHECK(run_state_site(b->durable, 2)->revoked);
    CHECK(!b->stopped);
    brain_close(b);
}

TEST(more_orders_than_the_disk_takes_are_told_to_come_again_and_stop_nothing) {
    struct brain *b = brain_open(ALONE, 1);
    for (int i = 0; i < COMMITS_LIMIT; i++) {
        brain_admin(b, ORDER_INVITE, "more");
        CHECK(brain_find(b, DO_COMMIT));
    }
    brain_admin(b, ORDER_INVITE, "more");
    CHECK(!brain_find(b, DO_COMMIT) && brain_find(b, DO_ADMIN_REPLY)->outcome == ORDER_BUSY);
    const struct run_invitation *invitation =
        run_state_invitation_at(brain_run(b), run_state_invitation_count(brain_run(b)) - 1);
    struct key_pair *key = fixture_key(200);
    struct coordinator_event event =
        brain_join_event(b, invitation->name, invitation->secret_digest, key);
    brain_step(b, &event);
    CHECK(brain_find(b, DO_JOINED) && brain_find(b, DO_JOINED)->code == REFUSED_BUSY);
    brain_admin(b, ORDER_PAUSE, ""); /* what saves a run comes through ... */
    CHECK(brain_find(b, DO_COMMIT));
    for (int i = 1; i < COMMITS_RESERVED; i++)
        brain_admin(b, i % 2 ? ORDER_RESUME : ORDER_PAUSE, "");
    brain_admin(b, ORDER_PAUSE, ""); /* ... up to a bound */
    CHECK(brain_find(b, DO_ADMIN_REPLY)->outcome == ORDER_BUSY);
    CHECK(!b->stopped);
    brain_durable(b);
    brain_settle(b);
    brain_step(b, &event);
    CHECK(brain_find(b, DO_COMMIT)); /* the invitation was not spent */
    key_pair_destroy(key);
    brain_close(b);
}

TEST(one_commit_that_is_durable_answers_for_all_before_it) {
    struct brain *b = brain_open(ALONE, 1);
    for (int i = 0; i < 3; i++) brain_admin(b, ORDER_INVITE, "more");
    struct coordinator_event event = {.kind = COORDINATOR_COMMITTED};
    event.committed.commit = b->commits[1].number;
    brain_step(b, &event);
    CHECK_EQUAL(brain_count(b, DO_ADMIN_REPLY), 2);
    CHECK_EQUAL(brain_count(b, DO_PUBLISH), 1);
    CHECK_EQUAL(brain_find(b, DO_PUBLISH)->size, b->commits[1].first_index + 1);
    event.committed.commit = b->commits[2].number;
    brain_step(b, &event);
    CHECK_EQUAL(brain_count(b, DO_ADMIN_REPLY), 1);
    brain_close(b);
}

TEST(revoking_cuts_the_site_and_drops_what_waits_from_it) {
    struct brain *b =
        brain_open("fragments: 2\nmerge: {quorum: 3, grace: 10s, warmup_steps: 0}\n", 3);
    brain_contribute(b, 1, 0);
    brain_contribute(b, 2, 0);
    brain_settle(b);
    struct ledger_entry header = brain_header(b, 1, 1);
    uint64_t call = brain_submit(b, 1, &header);
    brain_admin(b, ORDER_REVOKE, "site-1");
    EXPECT_REFUSAL(b, call, REFUSED_REVOKED);
    CHECK_EQUAL(brain_find(b, DO_CUT)->site, 1);
    CHECK_EQUAL(coordinator_state_uploads(b->state), 0);
    brain_uploaded(b, call, ACCEPTED);
    CHECK_EQUAL(b->commit_count, 1);
    brain_settle(b);
    EXPECT_REFUSAL(b, brain_submit(b, 1, &header), REFUSED_REVOKED);
    brain_wait(b, 10000);
    CHECK_EQUAL(brain_find(b, DO_APPLY)->step.step.count, 1); /* site 2's alone */
    brain_settle(b);
    brain_close(b);
}

TEST(revoking_a_site_while_its_contribution_is_merged_lets_the_step_end_first) {
    struct brain *b = brain_open(ALONE, 2);
    brain_contribute(b, 1, 0);
    CHECK(b->applying);
    uint64_t call = brain_admin(b, ORDER_REVOKE, "site-1");
    brain_admin(b, ORDER_REVOKE, "site-1"); /* an impatient admin */
    while (b->commit_count > 0) brain_durable(b);
    struct ledger_entry header = brain_header(b, 1, 0);
    brain_submit(b, 1, &header);
    CHECK(!brain_find(b, DO_ADMIT)); /* nothing of it is taken from the moment of the order */
    brain_applied(b);
    CHECK(!b->stopped);
    bool answered = false;
    while (b->commit_count > 0) {
        brain_durable(b);
        const struct coordinator_action *reply = brain_find(b, DO_ADMIN_REPLY);
        answered |= reply && reply->call == call && reply->outcome == ORDER_DONE;
    }
    CHECK(answered);
    CHECK_EQUAL(run_state_version(b->durable), 1);
    CHECK(run_state_site(b->durable, 1)->revoked);
    EXPECT_REFUSAL(b, brain_submit(b, 1, &header), REFUSED_REVOKED);
    CHECK(!b->stopped);
    brain_contribute(b, 2, 0);
    brain_close(b);
}

TEST(orders_while_a_step_is_computed_do_not_break_it) {
    struct brain *b = brain_open(ALONE, 3);
    brain_contribute(b, 1, 0);
    CHECK(b->applying);
    brain_admin(b, ORDER_REVOKE, "site-3"); /* no part of the step */
    brain_admin(b, ORDER_PAUSE, "");
    brain_admin(b, ORDER_RESUME, "");
    struct coordinator_event event = brain_order(b, ORDER_INNER_STEPS, "");
    event.admin.inner_steps = 7;
    brain_step(b, &event);
    brain_contribute(b, 2, 0);
    brain_admin(b, ORDER_STOP, "");
    brain_settle(b);
    CHECK(!b->stopped);
    CHECK_EQUAL(run_state_version(b->durable), 2);
    brain_close(b);
}

TEST(heads_cover_what_is_durable_and_nothing_else) {
    struct brain *b = brain_open(ALONE, 1);
    brain_contribute(b, 1, 0);
    uint8_t raw[HEAD_SIZE], root[DIGEST_SIZE];
    struct ledger_head head;
    struct error error = {0};
    coordinator_state_head(b->state, raw);
    CHECK_OK(ledger_head_verify(bytes_of(raw, sizeof raw), key_pair_public(b->f->coordinator),
                                &head, &error));
    CHECK_EQUAL(head.size, run_state_size(b->durable));
    merkle_root(run_state_tree(b->durable), head.size, root);
    CHECK_MEMORY(head.root, root, DIGEST_SIZE);
    brain_close(b);
}
