/* The core and payloads that the disk has lost: who is asked, what is brought, what is given up,
 * and a model that is behind. */
#include "tests/coordinator_fixture.h"

#define PAIR "merge: {quorum: 1, grace: 0ms, warmup_steps: 0, away_after: forever}\n"

/* The step under way cannot read the payload of its first part. */
static struct lost_payload lose(struct shell *s) {
    CHECK(s->applying);
    s->applying = false;
    uint64_t index = s->step.step.parts[0].index;
    struct lost_payload lost = {.index = index};
    lost.contribution = run_state_pending(shell_run(s), s->step.step.fragment, 0)->contribution;
    struct coordinator_event event = {.kind = COORDINATOR_APPLIED};
    event.applied.status = CORRUPT;
    event.applied.version = s->step.step.version;
    event.applied.lost = &lost;
    event.applied.lost_count = 1;
    shell_step(s, &event);
    CHECK(!s->stopped);
    return lost;
}

static uint32_t asked(struct shell *s, uint32_t site, uint64_t index) {
    shell_heartbeat(s, site);
    const struct coordinator_action *reply = shell_find(s, DO_HEARTBEAT_REPLY);
    for (uint32_t i = 0; i < reply->wanted_count; i++) CHECK_EQUAL(reply->wanted[i], index);
    return reply->wanted_count;
}

static uint64_t bring(struct shell *s, uint32_t site, const struct ledger_entry *header) {
    struct coordinator_event event = {.kind = COORDINATOR_SUBMIT_OPEN, .call = ++s->last_call};
    event.submit.site = site;
    event.submit.instance = s->instance;
    event.submit.supply = true;
    memcpy(event.submit.header, header->contribution.header, CONTRIBUTION_HEADER_SIZE);
    memcpy(event.submit.signature, header->contribution.signature, SIGNATURE_SIZE);
    shell_step(s, &event);
    return event.call;
}

static struct ledger_entry entry_at(const struct shell *s, uint64_t index) {
    struct ledger_entry entry;
    struct error error = {0};
    CHECK(index < s->f->entry_count);
    CHECK_OK(ledger_entry_decode(buffer_bytes(&s->f->entries[index]), &entry, &error));
    return entry;
}

static struct shell *open_pair(void) {
    struct shell *s = shell_open_unstarted(PAIR, 2);
    s->options.lost_ms = 60000;
    shell_start(s, s->f->run);
    return s;
}

/* Site 1 contributes, and its step finds the payload lost. The header goes to *header. */
static struct lost_payload contribute_and_lose(struct shell *s, struct ledger_entry *header) {
    *header = shell_header(s, 1, 0);
    uint64_t call = shell_submit(s, 1, header);
    shell_uploaded(s, call, ACCEPTED);
    shell_checked(s, call, ACCEPTED);
    shell_durable(s);
    return lose(s);
}

TEST(a_lost_payload_is_asked_of_its_contributor_and_the_step_is_made_once_it_is_here) {
    struct shell *s = open_pair();
    struct ledger_entry header;
    struct lost_payload lost = contribute_and_lose(s, &header);
    uint64_t index;
    CHECK_EQUAL(coordinator_state_lost(s->state, &index), 1);
    CHECK_EQUAL(index, lost.index);
    shell_wait(s, 10);
    CHECK(!shell_find(s, DO_APPLY) && !s->applying); /* not again before it is here */
    CHECK_EQUAL(asked(s, 2, lost.index), 0);         /* the contributor has it for sure */
    CHECK_EQUAL(asked(s, 1, lost.index), 1);
    uint64_t call = bring(s, 1, &header);
    CHECK(shell_find(s, DO_ADMIT) && shell_find(s, DO_ADMIT)->supply);
    CHECK_EQUAL(asked(s, 1, lost.index), 0); /* it is being brought */
    shell_uploaded(s, call, ACCEPTED);
    const struct coordinator_action *thanks = shell_find(s, DO_REFUSE);
    CHECK(thanks && thanks->supply && thanks->code == REFUSED_DUPLICATE && thanks->call == call);
    CHECK(shell_find(s, DO_APPLY));
    CHECK_EQUAL(coordinator_state_refused(s->state, REFUSED_DUPLICATE), 0);
    shell_applied(s);
    shell_settle(s);
    CHECK_EQUAL(run_state_version(s->durable), 1);
    bring(s, 1, &header); /* again, for nothing */
    CHECK(shell_find(s, DO_REFUSE) && !shell_find(s, DO_ADMIT));
    shell_close(s);
}

TEST(everybody_is_asked_after_a_while_and_one_brings_it_at_a_time) {
    struct shell *s = open_pair();
    struct ledger_entry header;
    struct lost_payload lost = contribute_and_lose(s, &header);
    shell_wait(s, 6000);
    CHECK_EQUAL(asked(s, 2, lost.index), 1);
    uint64_t call = bring(s, 2, &header);
    CHECK(shell_find(s, DO_ADMIT));
    uint64_t second = bring(s, 1, &header);
    EXPECT_REFUSAL(s, second, REFUSED_BUSY);
    shell_plain(s, COORDINATOR_CALL_GONE, call); /* it broke: another may */
    call = bring(s, 1, &header);
    CHECK(shell_find(s, DO_ADMIT));
    shell_uploaded(s, call, REFUSED_DIGEST); /* what came was another: it is asked for again */
    CHECK_EQUAL(asked(s, 1, lost.index), 1);
    call = bring(s, 3, &header);
    EXPECT_REFUSAL(s, call, REFUSED_UNKNOWN_SITE);
    shell_close(s);
}

TEST(what_is_brought_is_judged_by_who_brings_it_and_by_its_header) {
    struct shell *s = open_pair();
    struct ledger_entry header, bent;
    struct lost_payload lost = contribute_and_lose(s, &header);
    bent = header;
    memset(bent.contribution.header, 0xFF, sizeof bent.contribution.header);
    EXPECT_REFUSAL(s, bring(s, 1, &bent), REFUSED_MALFORMED);
    s->instance = 7;
    shell_following(s, 1, true);
    s->instance = 8; /* another process of the site, while the first one follows */
    EXPECT_REFUSAL(s, bring(s, 1, &header), REFUSED_HELD);
    CHECK_EQUAL(coordinator_state_lost(s->state, &(uint64_t){0}), 1);
    s->instance = 7;
    uint64_t first = bring(s, 1, &header), second = bring(s, 1, &header);
    CHECK(shell_find(s, DO_DROP) && shell_find(s, DO_DROP)->call == first);
    shell_plain(s, COORDINATOR_CALL_GONE, first); /* says nothing of the second */
    shell_wait(s, 120000);                        /* nor is it given up while it comes */
    CHECK(!shell_find(s, DO_COMMIT));
    shell_uploaded(s, second, ACCEPTED);
    CHECK(shell_find(s, DO_KEEP)); /* else the transfer that brought it may delete it later */
    CHECK(shell_find(s, DO_APPLY));
    CHECK(!run_state_dropped(shell_run(s), lost.index));
    shell_applied(s);
    shell_settle(s);
    shell_admin(s, ORDER_REVOKE, "site-2");
    shell_settle(s);
    EXPECT_REFUSAL(s, bring(s, 2, &header), REFUSED_REVOKED);
    shell_close(s);
}

TEST(what_nobody_brings_is_dropped_and_its_site_goes_on) {
    struct shell *s = open_pair();
    struct ledger_entry header;
    struct lost_payload lost = contribute_and_lose(s, &header);
    CHECK_EQUAL(s->timer_ms, s->now.monotonic_ms + 60000);
    shell_wait(s, 60000);
    CHECK(shell_find(s, DO_COMMIT));
    shell_settle(s);
    CHECK(run_state_dropped(s->durable, lost.index));
    CHECK_EQUAL(run_state_pending_count(s->durable, 0), 0);
    CHECK_EQUAL(coordinator_state_lost(s->state, &(uint64_t){0}), 0);
    shell_contribute(s, 1, 0); /* its place is free again */
    shell_settle(s);
    CHECK_EQUAL(run_state_version(s->durable), 1);
    shell_close(s);
}

TEST(a_revoked_sites_lost_payload_is_forgotten) {
    struct shell *s = open_pair();
    struct ledger_entry header;
    contribute_and_lose(s, &header);
    shell_admin(s, ORDER_REVOKE, "site-1");
    shell_settle(s);
    CHECK_EQUAL(coordinator_state_lost(s->state, &(uint64_t){0}), 0);
    shell_contribute(s, 2, 0);
    shell_settle(s);
    CHECK_EQUAL(run_state_version(s->durable), 1);
    CHECK(!s->stopped);
    shell_close(s);
}

/* A restart whose ledger has two merged contributions; the model is behind. */
static struct shell *open_behind(uint64_t merged[2]) {
    struct shell *s = shell_open_unstarted(PAIR, 2);
    merged[0] = fixture_contribute(s->f, 1, 0, 0, 1);
    merged[1] = fixture_contribute(s->f, 2, 0, 0, 1);
    fixture_step(s->f, 0, 2);
    for (uint64_t i = run_state_size(s->durable); i < s->f->entry_count; i++)
        CHECK(run_state_apply(s->durable, buffer_bytes(&s->f->entries[i]), false, NULL) == OK);
    s->options.model_behind = true;
    shell_start(s, s->f->run);
    CHECK_EQUAL(shell_count(s, DO_CATCH_UP), 1);
    return s;
}

TEST(all_that_a_restart_lacks_is_brought_before_it_tries_again) {
    uint64_t merged[2];
    struct shell *s = open_behind(merged);
    struct ledger_entry headers[2];
    struct lost_payload lost[2];
    struct error error = {0};
    for (int i = 0; i < 2; i++) {
        headers[i] = entry_at(s, merged[i]);
        lost[i] = (struct lost_payload){.index = merged[i]};
        CHECK_OK(
            contribution_decode(bytes_of(headers[i].contribution.header, CONTRIBUTION_HEADER_SIZE),
                                &lost[i].contribution, &error));
    }
    struct coordinator_event event = {.kind = COORDINATOR_APPLIED};
    event.applied.status = CORRUPT;
    event.applied.lost = lost;
    event.applied.lost_count = 2;
    shell_step(s, &event);
    shell_plain(s, COORDINATOR_TIMER, 0);
    struct coordinator_event again = {.kind = COORDINATOR_LOST};
    again.applied.lost = lost;
    again.applied.lost_count = 2;
    shell_step(s, &again); /* reported once more: they are known */
    CHECK_EQUAL(coordinator_state_lost(s->state, &(uint64_t){0}), 2);
    CHECK_EQUAL(asked(s, 1, merged[0]), 1);
    CHECK_EQUAL(asked(s, 2, merged[1]), 1);
    shell_uploaded(s, bring(s, 1, &headers[0]), ACCEPTED);
    CHECK(!shell_find(s, DO_CATCH_UP)); /* the other one is missing still */
    shell_uploaded(s, bring(s, 2, &headers[1]), ACCEPTED);
    CHECK_EQUAL(shell_count(s, DO_CATCH_UP), 1);
    shell_close(s);
}

TEST(a_model_that_cannot_be_restored_ends_the_program_and_says_whether_a_restart_may_help) {
    const struct {
        enum status status;
        uint64_t version;
        const char *message, *says;
        bool halt;
    } ends[] = {{CORRUPT, 1, "the snapshot is damaged", "the snapshot is damaged", true},
                {INVALID, 1, NULL, "invalid", true},
                {FAILED, 1, "the disk is away", "the disk is away", false},
                {OK, 0, NULL, "ok", false}}; /* not the ledger's version */
    for (size_t i = 0; i < COUNT_OF(ends); i++) {
        uint64_t merged[2];
        struct shell *s = open_behind(merged);
        struct coordinator_event event = {.kind = COORDINATOR_APPLIED};
        event.applied.status = ends[i].status;
        event.applied.version = ends[i].version;
        event.applied.message = ends[i].message;
        shell_step(s, &event);
        const struct coordinator_action *stop = shell_find(s, DO_STOP);
        CHECK(stop != NULL);
        CHECK_EQUAL(stop->halt, ends[i].halt);
        CHECK_CONTAINS(stop->message, "the model cannot be restored: ");
        CHECK_CONTAINS(stop->message, ends[i].says);
        shell_close(s);
    }
}

TEST(a_model_that_is_behind_catches_up_before_any_step) {
    struct shell *s = shell_open_unstarted(PAIR, 2);
    uint64_t merged = fixture_contribute(s->f, 1, 0, 0, 1);
    fixture_step(s->f, 0, 1);
    for (uint64_t i = run_state_size(s->durable); i < s->f->entry_count; i++)
        CHECK(run_state_apply(s->durable, buffer_bytes(&s->f->entries[i]), false, NULL) == OK);
    s->options.model_behind = true;
    shell_start(s, s->f->run);
    CHECK(shell_find(s, DO_CATCH_UP) && !coordinator_state_has_model(s->state));
    struct ledger_entry header = entry_at(s, merged);
    struct lost_payload lost = {.index = merged};
    CHECK(contribution_decode(bytes_of(header.contribution.header, CONTRIBUTION_HEADER_SIZE),
                              &lost.contribution, NULL) == OK);
    struct coordinator_event event = {.kind = COORDINATOR_APPLIED};
    event.applied.status = CORRUPT;
    event.applied.lost = &lost;
    event.applied.lost_count = 1;
    shell_step(s, &event);
    shell_contribute(s, 2, 0); /* contributions are taken meanwhile */
    shell_durable(s);
    CHECK(!shell_find(s, DO_APPLY) && !s->applying);
    shell_wait(s, 3600000);            /* what was merged is never given up */
    CHECK(shell_find(s, DO_CATCH_UP)); /* the disk is asked again, and has it as little as before */
    shell_step(s, &event);
    CHECK_EQUAL(asked(s, 1, merged), 1);
    uint64_t call = bring(s, 1, &header);
    shell_uploaded(s, call, ACCEPTED);
    CHECK(shell_find(s, DO_CATCH_UP));
    event = (struct coordinator_event){.kind = COORDINATOR_APPLIED};
    event.applied.version = run_state_version(shell_run(s));
    shell_step(s, &event);
    CHECK(coordinator_state_has_model(s->state) && shell_find(s, DO_APPLY));
    shell_applied(s);
    shell_settle(s);
    CHECK(!s->stopped);
    CHECK_EQUAL(run_state_version(s->durable), 2);
    shell_close(s);
}

/* No site has kept it. Somebody puts it back from a copy of the disk and restarts nothing. */
TEST(what_a_person_puts_back_on_the_disk_is_found_without_a_restart) {
    struct shell *s = shell_open_unstarted(PAIR, 2);
    uint64_t merged = fixture_contribute(s->f, 1, 0, 0, 1);
    fixture_step(s->f, 0, 1);
    for (uint64_t i = run_state_size(s->durable); i < s->f->entry_count; i++)
        CHECK(run_state_apply(s->durable, buffer_bytes(&s->f->entries[i]), false, NULL) == OK);
    s->options.model_behind = true;
    shell_start(s, s->f->run);
    struct ledger_entry header = entry_at(s, merged);
    struct lost_payload lost = {.index = merged};
    CHECK(contribution_decode(bytes_of(header.contribution.header, CONTRIBUTION_HEADER_SIZE),
                              &lost.contribution, NULL) == OK);
    struct coordinator_event failed = {.kind = COORDINATOR_APPLIED};
    failed.applied.status = CORRUPT;
    failed.applied.lost = &lost;
    failed.applied.lost_count = 1;
    shell_step(s, &failed);
    for (int tries = 0; tries < 3; tries++) { /* by the timer that the core asks for */
        CHECK(!shell_find(s, DO_CATCH_UP) && s->timer_ms > s->now.monotonic_ms &&
              s->timer_ms != UINT64_MAX);
        shell_wait(s, s->timer_ms - s->now.monotonic_ms);
        CHECK_EQUAL(shell_count(s, DO_CATCH_UP), 1);
        shell_wait(s, 1000); /* one at a time */
        CHECK(!shell_find(s, DO_CATCH_UP));
        if (tries < 2) shell_step(s, &failed);
    }
    struct coordinator_event done = {.kind = COORDINATOR_APPLIED};
    done.applied.version = run_state_version(shell_run(s));
    shell_step(s, &done);
    CHECK(coordinator_state_has_model(s->state));
    CHECK_EQUAL(asked(s, 1, merged), 0);
    shell_contribute(s, 2, 0);
    shell_settle(s);
    CHECK_EQUAL(run_state_version(s->durable), 2);
    shell_close(s);
}
