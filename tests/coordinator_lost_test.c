/* The brain and payloads that the disk has lost: who is asked, what is brought, what is given up,
 * and a model that is behind. */
#include "tests/coordinator_fixture.h"

#define PAIR "merge: {quorum: 1, grace: 0ms, warmup_steps: 0}\n"

/* The step under way cannot read the payload of its first part. */
static struct lost_payload lose(struct brain *b) {
    CHECK(b->applying);
    b->applying = false;
    uint64_t index = b->step.step.parts[0].index;
    struct lost_payload lost = {.index = index};
    lost.contribution = run_state_pending(brain_run(b), b->step.step.fragment, 0)->contribution;
    struct coordinator_event event = {.kind = COORDINATOR_APPLIED};
    event.applied.status = CORRUPT;
    event.applied.version = b->step.step.version;
    event.applied.lost = &lost;
    event.applied.lost_count = 1;
    brain_step(b, &event);
    CHECK(!b->stopped);
    return lost;
}

static uint32_t asked(struct brain *b, uint32_t site, uint64_t index) {
    brain_heartbeat(b, site);
    const struct coordinator_action *reply = brain_find(b, DO_HEARTBEAT_REPLY);
    for (uint32_t i = 0; i < reply->wanted_count; i++) CHECK_EQUAL(reply->wanted[i], index);
    return reply->wanted_count;
}

static uint64_t bring(struct brain *b, uint32_t site, const struct ledger_entry *header) {
    struct coordinator_event event = {.kind = COORDINATOR_SUBMIT_OPEN, .call = ++b->last_call};
    event.submit.site = site;
    event.submit.instance = b->instance;
    event.submit.supply = true;
    memcpy(event.submit.header, header->contribution.header, CONTRIBUTION_HEADER_SIZE);
    memcpy(event.submit.signature, header->contribution.signature, SIGNATURE_SIZE);
    brain_step(b, &event);
    return event.call;
}

static struct ledger_entry entry_at(const struct brain *b, uint64_t index) {
    struct ledger_entry entry;
    struct error error = {0};
    CHECK(index < b->f->entry_count);
    CHECK_OK(ledger_entry_decode(buffer_bytes(&b->f->entries[index]), &entry, &error));
    return entry;
}

static struct brain *open_pair(void) {
    struct brain *b = brain_open_unstarted(PAIR, 2);
    b->options.lost_ms = 60000;
    brain_start(b, b->f->run);
    return b;
}

/* Site 1 contributes, and its step finds the payload lost. The header goes to *header. */
static struct lost_payload contribute_and_lose(struct brain *b, struct ledger_entry *header) {
    *header = brain_header(b, 1, 0);
    uint64_t call = brain_submit(b, 1, header);
    brain_uploaded(b, call, ACCEPTED);
    brain_checked(b, call, ACCEPTED);
    brain_durable(b);
    return lose(b);
}

TEST(a_lost_payload_is_asked_of_its_contributor_and_the_step_is_made_once_it_is_here) {
    struct brain *b = open_pair();
    struct ledger_entry header;
    struct lost_payload lost = contribute_and_lose(b, &header);
    uint64_t index;
    CHECK_EQUAL(coordinator_state_lost(b->state, &index), 1);
    CHECK_EQUAL(index, lost.index);
    brain_wait(b, 10);
    CHECK(!brain_find(b, DO_APPLY) && !b->applying); /* not again before it is here */
    CHECK_EQUAL(asked(b, 2, lost.index), 0);         /* the contributor has it for sure */
    CHECK_EQUAL(asked(b, 1, lost.index), 1);
    uint64_t call = bring(b, 1, &header);
    CHECK(brain_find(b, DO_ADMIT) && brain_find(b, DO_ADMIT)->supply);
    CHECK_EQUAL(asked(b, 1, lost.index), 0); /* it is being brought */
    brain_uploaded(b, call, ACCEPTED);
    const struct coordinator_action *thanks = brain_find(b, DO_REFUSE);
    CHECK(thanks && thanks->supply && thanks->code == REFUSED_DUPLICATE && thanks->call == call);
    CHECK(brain_find(b, DO_APPLY));
    CHECK_EQUAL(coordinator_state_refused(b->state, REFUSED_DUPLICATE), 0);
    brain_applied(b);
    brain_settle(b);
    CHECK_EQUAL(run_state_version(b->durable), 1);
    bring(b, 1, &header); /* again, for nothing */
    CHECK(brain_find(b, DO_REFUSE) && !brain_find(b, DO_ADMIT));
    brain_close(b);
}

TEST(everybody_is_asked_after_a_while_and_one_brings_it_at_a_time) {
    struct brain *b = open_pair();
    struct ledger_entry header;
    struct lost_payload lost = contribute_and_lose(b, &header);
    brain_wait(b, 6000);
    CHECK_EQUAL(asked(b, 2, lost.index), 1);
    uint64_t call = bring(b, 2, &header);
    CHECK(brain_find(b, DO_ADMIT));
    uint64_t second = bring(b, 1, &header);
    EXPECT_REFUSAL(b, second, REFUSED_BUSY);
    brain_plain(b, COORDINATOR_CALL_GONE, call); /* it broke: another may */
    call = bring(b, 1, &header);
    CHECK(brain_find(b, DO_ADMIT));
    brain_uploaded(b, call, REFUSED_DIGEST); /* what came was another: it is asked for again */
    CHECK_EQUAL(asked(b, 1, lost.index), 1);
    call = bring(b, 3, &header);
    EXPECT_REFUSAL(b, call, REFUSED_UNKNOWN_SITE);
    brain_close(b);
}

TEST(what_is_brought_is_judged_by_who_brings_it_and_by_its_header) {
    struct brain *b = open_pair();
    struct ledger_entry header, bent;
    struct lost_payload lost = contribute_and_lose(b, &header);
    bent = header;
    memset(bent.contribution.header, 0xFF, sizeof bent.contribution.header);
    EXPECT_REFUSAL(b, bring(b, 1, &bent), REFUSED_MALFORMED);
    b->instance = 7;
    brain_following(b, 1, true);
    b->instance = 8; /* another process of the site, while the first one follows */
    EXPECT_REFUSAL(b, bring(b, 1, &header), REFUSED_HELD);
    CHECK_EQUAL(coordinator_state_lost(b->state, &(uint64_t){0}), 1);
    b->instance = 7;
    uint64_t first = bring(b, 1, &header), second = bring(b, 1, &header);
    CHECK(brain_find(b, DO_DROP) && brain_find(b, DO_DROP)->call == first);
    brain_plain(b, COORDINATOR_CALL_GONE, first); /* says nothing of the second */
    brain_wait(b, 120000);                        /* nor is it given up while it comes */
    CHECK(!brain_find(b, DO_COMMIT));
    brain_uploaded(b, second, ACCEPTED);
    CHECK(brain_find(b, DO_APPLY));
    CHECK(!run_state_dropped(brain_run(b), lost.index));
    brain_applied(b);
    brain_settle(b);
    brain_admin(b, ORDER_REVOKE, "site-2");
    brain_settle(b);
    EXPECT_REFUSAL(b, bring(b, 2, &header), REFUSED_REVOKED);
    brain_close(b);
}

TEST(what_nobody_brings_is_dropped_and_its_site_goes_on) {
    struct brain *b = open_pair();
    struct ledger_entry header;
    struct lost_payload lost = contribute_and_lose(b, &header);
    CHECK_EQUAL(b->timer_ms, b->now.monotonic_ms + 60000);
    brain_wait(b, 60000);
    CHECK(brain_find(b, DO_COMMIT));
    brain_settle(b);
    CHECK(run_state_dropped(b->durable, lost.index));
    CHECK_EQUAL(run_state_pending_count(b->durable, 0), 0);
    CHECK_EQUAL(coordinator_state_lost(b->state, &(uint64_t){0}), 0);
    brain_contribute(b, 1, 0); /* its place is free again */
    brain_settle(b);
    CHECK_EQUAL(run_state_version(b->durable), 1);
    brain_close(b);
}

TEST(a_revoked_sites_lost_payload_is_forgotten) {
    struct brain *b = open_pair();
    struct ledger_entry header;
    contribute_and_lose(b, &header);
    brain_admin(b, ORDER_REVOKE, "site-1");
    brain_settle(b);
    CHECK_EQUAL(coordinator_state_lost(b->state, &(uint64_t){0}), 0);
    brain_contribute(b, 2, 0);
    brain_settle(b);
    CHECK_EQUAL(run_state_version(b->durable), 1);
    CHECK(!b->stopped);
    brain_close(b);
}

/* A restart whose ledger has two merged contributions; the model is behind. */
static struct brain *open_behind(uint64_t merged[2]) {
    struct brain *b = brain_open_unstarted(PAIR, 2);
    merged[0] = fixture_contribute(b->f, 1, 0, 0, 1);
    merged[1] = fixture_contribute(b->f, 2, 0, 0, 1);
    fixture_step(b->f, 0, 2);
    for (uint64_t i = run_state_size(b->durable); i < b->f->entry_count; i++)
        CHECK(run_state_apply(b->durable, buffer_bytes(&b->f->entries[i]), false, NULL) == OK);
    b->options.model_behind = true;
    brain_start(b, b->f->run);
    CHECK_EQUAL(brain_count(b, DO_CATCH_UP), 1);
    return b;
}

TEST(all_that_a_restart_lacks_is_brought_before_it_tries_again) {
    uint64_t merged[2];
    struct brain *b = open_behind(merged);
    struct ledger_entry headers[2];
    struct lost_payload lost[2];
    struct error error = {0};
    for (int i = 0; i < 2; i++) {
        headers[i] = entry_at(b, merged[i]);
        lost[i] = (struct lost_payload){.index = merged[i]};
        CHECK_OK(
            contribution_decode(bytes_of(headers[i].contribution.header, CONTRIBUTION_HEADER_SIZE),
                                &lost[i].contribution, &error));
    }
    struct coordinator_event event = {.kind = COORDINATOR_APPLIED};
    event.applied.status = CORRUPT;
    event.applied.lost = lost;
    event.applied.lost_count = 2;
    brain_step(b, &event);
    brain_plain(b, COORDINATOR_TIMER, 0);
    struct coordinator_event again = {.kind = COORDINATOR_LOST};
    again.applied.lost = lost;
    again.applied.lost_count = 2;
    brain_step(b, &again); /* reported once more: they are known */
    CHECK_EQUAL(coordinator_state_lost(b->state, &(uint64_t){0}), 2);
    CHECK_EQUAL(asked(b, 1, merged[0]), 1);
    CHECK_EQUAL(asked(b, 2, merged[1]), 1);
    brain_uploaded(b, bring(b, 1, &headers[0]), ACCEPTED);
    CHECK(!brain_find(b, DO_CATCH_UP)); /* the other one is missing still */
    brain_uploaded(b, bring(b, 2, &headers[1]), ACCEPTED);
    CHECK_EQUAL(brain_count(b, DO_CATCH_UP), 1);
    brain_close(b);
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
        struct brain *b = open_behind(merged);
        struct coordinator_event event = {.kind = COORDINATOR_APPLIED};
        event.applied.status = ends[i].status;
        event.applied.version = ends[i].version;
        event.applied.message = ends[i].message;
        brain_step(b, &event);
        const struct coordinator_action *stop = brain_find(b, DO_STOP);
        CHECK(stop != NULL);
        CHECK_EQUAL(stop->halt, ends[i].halt);
        CHECK_CONTAINS(stop->message, "the model cannot be restored: ");
        CHECK_CONTAINS(stop->message, ends[i].says);
        brain_close(b);
    }
}

TEST(a_model_that_is_behind_catches_up_before_any_step) {
    struct brain *b = brain_open_unstarted(PAIR, 2);
    uint64_t merged = fixture_contribute(b->f, 1, 0, 0, 1);
    fixture_step(b->f, 0, 1);
    for (uint64_t i = run_state_size(b->durable); i < b->f->entry_count; i++)
        CHECK(run_state_apply(b->durable, buffer_bytes(&b->f->entries[i]), false, NULL) == OK);
    b->options.model_behind = true;
    brain_start(b, b->f->run);
    CHECK(brain_find(b, DO_CATCH_UP) && !coordinator_state_has_model(b->state));
    struct ledger_entry header = entry_at(b, merged);
    struct lost_payload lost = {.index = merged};
    CHECK(contribution_decode(bytes_of(header.contribution.header, CONTRIBUTION_HEADER_SIZE),
                              &lost.contribution, NULL) == OK);
    struct coordinator_event event = {.kind = COORDINATOR_APPLIED};
    event.applied.status = CORRUPT;
    event.applied.lost = &lost;
    event.applied.lost_count = 1;
    brain_step(b, &event);
    brain_contribute(b, 2, 0); /* contributions are taken meanwhile */
    brain_durable(b);
    CHECK(!brain_find(b, DO_APPLY) && !b->applying);
    brain_wait(b, 3600000);            /* what was merged is never given up */
    CHECK(brain_find(b, DO_CATCH_UP)); /* the disk is asked again, and has it as little as before */
    brain_step(b, &event);
    CHECK_EQUAL(asked(b, 1, merged), 1);
    uint64_t call = bring(b, 1, &header);
    brain_uploaded(b, call, ACCEPTED);
    CHECK(brain_find(b, DO_CATCH_UP));
    event = (struct coordinator_event){.kind = COORDINATOR_APPLIED};
    event.applied.version = run_state_version(brain_run(b));
    brain_step(b, &event);
    CHECK(coordinator_state_has_model(b->state) && brain_find(b, DO_APPLY));
    brain_applied(b);
    brain_settle(b);
    CHECK(!b->stopped);
    CHECK_EQUAL(run_state_version(b->durable), 2);
    brain_close(b);
}

/* No site has kept it. Somebody puts it back from a copy of the disk and restarts nothing. */
TEST(what_a_person_puts_back_on_the_disk_is_found_without_a_restart) {
    struct brain *b = brain_open_unstarted(PAIR, 2);
    uint64_t merged = fixture_contribute(b->f, 1, 0, 0, 1);
    fixture_step(b->f, 0, 1);
    for (uint64_t i = run_state_size(b->durable); i < b->f->entry_count; i++)
        CHECK(run_state_apply(b->durable, buffer_bytes(&b->f->entries[i]), false, NULL) == OK);
    b->options.model_behind = true;
    brain_start(b, b->f->run);
    struct ledger_entry header = entry_at(b, merged);
    struct lost_payload lost = {.index = merged};
    CHECK(contribution_decode(bytes_of(header.contribution.header, CONTRIBUTION_HEADER_SIZE),
                              &lost.contribution, NULL) == OK);
    struct coordinator_event failed = {.kind = COORDINATOR_APPLIED};
    failed.applied.status = CORRUPT;
    failed.applied.lost = &lost;
    failed.applied.lost_count = 1;
    brain_step(b, &failed);
    for (int tries = 0; tries < 3; tries++) { /* by the timer that the brain asks for */
        CHECK(!brain_find(b, DO_CATCH_UP) && b->timer_ms > b->now.monotonic_ms &&
              b->timer_ms != UINT64_MAX);
        brain_wait(b, b->timer_ms - b->now.monotonic_ms);
        CHECK_EQUAL(brain_count(b, DO_CATCH_UP), 1);
        brain_wait(b, 1000); /* one at a time */
        CHECK(!brain_find(b, DO_CATCH_UP));
        if (tries < 2) brain_step(b, &failed);
    }
    struct coordinator_event done = {.kind = COORDINATOR_APPLIED};
    done.applied.version = run_state_version(brain_run(b));
    brain_step(b, &done);
    CHECK(coordinator_state_has_model(b->state));
    CHECK_EQUAL(asked(b, 1, merged), 0);
    brain_contribute(b, 2, 0);
    brain_settle(b);
    CHECK_EQUAL(run_state_version(b->durable), 2);
    brain_close(b);
}
