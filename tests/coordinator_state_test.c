#include "tests/coordinator_fixture.h"

#define PLAIN "merge: {quorum: 2, grace: 10s, warmup_steps: 0, staleness_cap: 2}\n"
#define ALONE "merge: {quorum: 1, grace: 10s, warmup_steps: 0, staleness_cap: 2}\n"

static void check_receipt(const struct brain *b, const struct buffer *bytes, const struct ledger_entry *header,
                          struct receipt *out) {
    struct error error = {0};
    CHECK_OK(receipt_verify(buffer_bytes(bytes), key_pair_public(b->f->coordinator), header->contribution.header,
                            header->contribution.signature, out, &error));
}

/* ---- one contribution ----------------------------------------------------------------------------------------------------- */

TEST(a_contribution_goes_from_its_header_to_a_receipt_that_proves_it) {
    struct brain *b = brain_open(PLAIN, 2);
    struct ledger_entry header = brain_header(b, 1, 0);
    uint64_t call = brain_submit(b, 1, &header);
    const struct coordinator_action *admit = brain_find(b, DO_ADMIT);
    CHECK(admit && admit->call == call);
    CHECK_EQUAL(admit->contribution.payload_size, b->payload.size);
    CHECK_EQUAL(coordinator_state_uploads(b->state), 1);
    brain_uploaded(b, call, ACCEPTED);
    const struct coordinator_action *check = brain_find(b, DO_CHECK);
    CHECK(check && check->call == call);
    uint64_t index = run_state_size(brain_run(b));
    brain_checked(b, call, ACCEPTED);
    CHECK(brain_find(b, DO_COMMIT));
    CHECK(!brain_find(b, DO_RECEIPT) && !brain_find(b, DO_PUBLISH)); /* not durable: nobody hears of it */
    CHECK_EQUAL(coordinator_state_committed(b->state), index);
    brain_durable(b);
    const struct coordinator_action *receipt = brain_find(b, DO_RECEIPT);
    CHECK(receipt && receipt->call == call);
    CHECK_EQUAL(brain_find(b, DO_PUBLISH)->size, index + 1);
    struct receipt read;
    check_receipt(b, &receipt->bytes, &header, &read);
    CHECK_EQUAL(read.index, index);
    CHECK_EQUAL(read.sequence, 1);
    CHECK_EQUAL(coordinator_state_uploads(b->state), 0);
    brain_close(b);
}

TEST(receipts_of_commits_that_come_together_are_each_for_their_own) {
    struct brain *b = brain_open("fragments: 2\nmerge: {quorum: 4, grace: forever, warmup_steps: 0}\n", 4);
    struct ledger_entry headers[4];
    uint64_t calls[4];
    for (uint32_t i = 0; i < 4; i++) { /* two fragments by site 1, one each by 2 and 3 */
        uint32_t site = i < 2 ? 1 : i, fragment = i == 1;
        headers[i] = brain_header(b, site, fragment);
        calls[i] = brain_contribute(b, site, fragment);
    }
    CHECK_EQUAL(b->commit_count, 4);
    for (uint32_t i = 0; i < 4; i++) {
        brain_durable(b);
        const struct coordinator_action *receipt = brain_find(b, DO_RECEIPT);
        CHECK(receipt && receipt->call == calls[i]);
        struct receipt read;
        check_receipt(b, &receipt->bytes, &headers[i], &read);
        CHECK_EQUAL(read.size, coordinator_state_committed(b->state));
    }
    brain_close(b);
}

TEST(a_repeated_contribution_gets_its_old_receipt_signed_again) {
    struct brain *b = brain_open(PLAIN, 2);
    struct ledger_entry header = brain_header(b, 1, 0);
    brain_contribute(b, 1, 0);
    brain_settle(b);
    uint64_t size = run_state_size(brain_run(b));
    for (int again = 0; again < 3; again++) {
        uint64_t call = brain_submit(b, 1, &header);
        EXPECT_REFUSAL(b, call, REFUSED_DUPLICATE);
        struct receipt read;
        check_receipt(b, &brain_find(b, DO_REFUSE)->bytes, &header, &read);
        CHECK_EQUAL(read.sequence, 1);
    }
    CHECK_EQUAL(run_state_size(brain_run(b)), size);
    CHECK_EQUAL(coordinator_state_refused(b->state, REFUSED_DUPLICATE), 3);
    /* also when the run has been paused, and after it has ended */
    brain_admin(b, ORDER_PAUSE, "");
    brain_settle(b);
    EXPECT_REFUSAL(b, brain_submit(b, 1, &header), REFUSED_DUPLICATE);
    CHECK(brain_find(b, DO_REFUSE)->bytes.size > 0);
    brain_admin(b, ORDER_STOP, "");
    brain_settle(b);
    EXPECT_REFUSAL(b, brain_submit(b, 1, &header), REFUSED_DUPLICATE);
    CHECK(brain_find(b, DO_REFUSE)->bytes.size > 0);
    brain_close(b);
}

/* ---- superseded calls ------------------------------------------------------------------------------------------------------ */

TEST(a_newer_call_takes_the_place_of_a_transfer_that_broke) {
    struct brain *b = brain_open(PLAIN, 2);
    struct ledger_entry header = brain_header(b, 1, 0);
    uint64_t old = brain_submit(b, 1, &header);
    uint64_t fresh = brain_submit(b, 1, &header);
    CHECK_EQUAL(brain_find(b, DO_DROP)->call, old);
    CHECK_EQUAL(brain_find(b, DO_ADMIT)->call, fresh);
    CHECK(brain_find(b, DO_DROP) < brain_find(b, DO_ADMIT)); /* the upload is let go before it is opened again */
    CHECK_EQUAL(coordinator_state_uploads(b->state), 1);
    brain_uploaded(b, old, ACCEPTED); /* said before it was dropped: nobody's any more */
    CHECK_EQUAL(b->out.count, 0);
    brain_plain(b, COORDINATOR_CALL_GONE, old);
    CHECK_EQUAL(coordinator_state_uploads(b->state), 1);
    brain_uploaded(b, fresh, ACCEPTED);
    brain_checked(b, fresh, ACCEPTED);
    brain_durable(b);
    CHECK_EQUAL(brain_find(b, DO_RECEIPT)->call, fresh);
    brain_close(b);
}

TEST(a_newer_call_gets_the_receipt_while_the_check_runs) {
    struct brain *b = brain_open(PLAIN, 2);
    struct ledger_entry header = brain_header(b, 1, 0);
    uint64_t old = brain_submit(b, 1, &header);
    brain_uploaded(b, old, ACCEPTED);
    uint64_t fresh = brain_submit(b, 1, &header);
    CHECK_EQUAL(brain_find(b, DO_DROP)->call, old);
    CHECK(!brain_find(b, DO_ADMIT));
    brain_checked(b, old, ACCEPTED); /* the worker knows the call it was asked with */
    brain_durable(b);
    CHECK_EQUAL(brain_find(b, DO_RECEIPT)->call, fresh);
    CHECK_EQUAL(run_state_site(brain_run(b), 1)->contributions, 1);
    brain_close(b);
}

TEST(a_newer_call_gets_the_receipt_while_the_commit_is_under_way) {
    struct brain *b = brain_open(PLAIN, 2);
    struct ledger_entry header = brain_header(b, 1, 0);
    uint64_t old = brain_contribute(b, 1, 0);
    uint64_t fresh = brain_submit(b, 1, &header);
    CHECK_EQUAL(brain_find(b, DO_DROP)->call, old);
    CHECK(!brain_find(b, DO_REFUSE));
    brain_durable(b);
    CHECK_EQUAL(brain_count(b, DO_RECEIPT), 1);
    CHECK_EQUAL(brain_find(b, DO_RECEIPT)->call, fresh);
    brain_close(b);
}

TEST(another_contribution_of_the_site_waits_while_one_is_being_checked) {
    struct brain *b = brain_open(PLAIN, 2);
    struct ledger_entry first = brain_header(b, 1, 0);
    struct contribution other = fixture_contribution(b->f, 1, 0, 0, b->payload);
    other.sequence = 2;
    struct ledger_entry second = fixture_signed(b->f, &other, b->f->keys[1]);
    uint64_t call = brain_submit(b, 1, &first);
    brain_uploaded(b, call, ACCEPTED);
    EXPECT_REFUSAL(b, brain_submit(b, 1, &second), REFUSED_BUSY);
    brain_checked(b, call, ACCEPTED);
    brain_settle(b);
    CHECK_EQUAL(run_state_site(brain_run(b), 1)->last_sequence, 1);
    brain_close(b);
}

TEST(a_peer_that_goes_away_in_any_phase_leaves_nothing_behind) {
    struct brain *b = brain_open(PLAIN, 2);
    struct ledger_entry header = brain_header(b, 1, 0);
    brain_plain(b, COORDINATOR_CALL_GONE, 4711); /* a call nobody knows */
    uint64_t call = brain_submit(b, 1, &header);
    brain_plain(b, COORDINATOR_CALL_GONE, call); /* while receiving: forgotten, the bytes are kept by the shell */
    CHECK_EQUAL(coordinator_state_uploads(b->state), 0);
    brain_uploaded(b, call, ACCEPTED);
    brain_checked(b, call, ACCEPTED);
    CHECK_EQUAL(b->commit_count, 0);

    call = brain_submit(b, 1, &header);
    brain_uploaded(b, call, ACCEPTED);
    brain_plain(b, COORDINATOR_CALL_GONE, call); /* while checked: it goes into the ledger all the same */
    brain_checked(b, call, ACCEPTED);
    CHECK_EQUAL(b->commit_count, 1);
    brain_durable(b);
    CHECK(!brain_find(b, DO_RECEIPT));
    EXPECT_REFUSAL(b, brain_submit(b, 1, &header), REFUSED_DUPLICATE); /* and the receipt is there to be asked for */
    CHECK(brain_find(b, DO_REFUSE)->bytes.size > 0);

    call = brain_contribute(b, 2, 0);
    brain_plain(b, COORDINATOR_CALL_GONE, call); /* while it is committed */
    brain_durable(b);
    CHECK(!brain_find(b, DO_RECEIPT));
    brain_settle(b);
    CHECK_EQUAL(run_state_version(brain_run(b)), 1);
    brain_close(b);
}

TEST(events_that_come_twice_or_out_of_order_change_nothing) {
    struct brain *b = brain_open(PLAIN, 2);
    struct ledger_entry header = brain_header(b, 1, 0);
    uint64_t call = brain_submit(b, 1, &header);
    brain_checked(b, call, ACCEPTED); /* before it was uploaded */
    CHECK_EQUAL(b->out.count, 0);
    brain_uploaded(b, call, ACCEPTED);
    brain_uploaded(b, call, ACCEPTED);
    CHECK_EQUAL(b->out.count, 0);
    brain_uploaded(b, call, REFUSED_DIGEST);
    CHECK_EQUAL(b->out.count, 0);
    brain_checked(b, call, ACCEPTED);
    brain_checked(b, call, ACCEPTED);
    CHECK_EQUAL(b->commit_count, 1);
    struct coordinator_event event = {.kind = COORDINATOR_COMMITTED};
    event.committed.commit = 999;
    brain_step(b, &event);
    CHECK_EQUAL(b->out.count, 0);
    struct coordinator_event applied = {.kind = COORDINATOR_APPLIED};
    brain_step(b, &applied);
    CHECK_EQUAL(b->out.count, 0);
    brain_durable(b);
    CHECK_EQUAL(brain_count(b, DO_RECEIPT), 1);
    brain_close(b);
}

/* ---- refusals --------------------------------------------------------------------------------------------------------------- */

struct change {
    enum refusal code;
    void (*make)(struct contribution *c, struct brain *b);
};
static void change_protocol(struct contribution *c, struct brain *b) { (void)b, c->protocol = 9; }
static void change_codec(struct contribution *c, struct brain *b) { (void)b, c->codec = CODEC_FP32; }
static void change_epoch(struct contribution *c, struct brain *b) { (void)b, c->epoch = 2; }
static void change_run(struct contribution *c, struct brain *b) { (void)b, c->run_id[3] ^= 1; }
static void change_site(struct contribution *c, struct brain *b) { (void)b, c->site = 2; }
static void change_fragment(struct contribution *c, struct brain *b) { (void)b, c->fragment = 1; }
static void change_key_id(struct contribution *c, struct brain *b) { (void)b, c->key_id[0] ^= 1; }
static void change_sequence(struct contribution *c, struct brain *b) { (void)b, c->sequence = 0; }
static void change_base(struct contribution *c, struct brain *b) { (void)b, c->base_version = 1; }
static void change_root(struct contribution *c, struct brain *b) { (void)b, c->base_root[5] ^= 1; }
static void change_steps(struct contribution *c, struct brain *b) { (void)b, c->inner_steps = 0; }
static void change_reserved(struct contribution *c, struct brain *b) { (void)b, c->reserved = 1; }
static void change_reserved2(struct contribution *c, struct brain *b) { (void)b, c->reserved2 = 1; }
static void change_tokens(struct contribution *c, struct brain *b) { (void)b, c->tokens = TOKENS_LIMIT + 1; }
static void change_loss(struct contribution *c, struct brain *b) { (void)b, c->loss = NAN; }
static void change_share(struct contribution *c, struct brain *b) { (void)b, c->compute_share = 1.5f; }
static void change_share_nan(struct contribution *c, struct brain *b) { (void)b, c->compute_share = NAN; }
static void change_norm(struct contribution *c, struct brain *b) { (void)b, c->norm = INFINITY; }
static void change_norm_sign(struct contribution *c, struct brain *b) { (void)b, c->norm = -1; }
static void change_layout(struct contribution *c, struct brain *b) { (void)b, c->layout_digest[31] ^= 1; }
static void change_size(struct contribution *c, struct brain *b) { c->payload_size = b->options.payload_limit + 1; }
static void change_size_zero(struct contribution *c, struct brain *b) { (void)b, c->payload_size = 0; }
static void change_size_huge(struct contribution *c, struct brain *b) { (void)b, c->payload_size = UINT64_MAX; }
static void change_previous(struct contribution *c, struct brain *b) { (void)b, c->previous[0] ^= 1; }
static void change_time(struct contribution *c, struct brain *b) { c->signed_at_ms = b->now.wall_ms - 86400001; }
static void change_time_ahead(struct contribution *c, struct brain *b) { c->signed_at_ms = b->now.wall_ms + 86400001; }
static void change_manifest(struct contribution *c, struct brain *b) { (void)b, c->manifest_digest[0] ^= 1; }

static const struct change changes[] = {{REFUSED_RUN, change_protocol},        {REFUSED_MALFORMED, change_codec},
                                        {REFUSED_EPOCH, change_epoch},         {REFUSED_RUN, change_run},
                                        {REFUSED_UNKNOWN_SITE, change_site},   {REFUSED_MALFORMED, change_fragment},
                                        {REFUSED_SIGNATURE, change_key_id},    {REFUSED_MALFORMED, change_sequence},
                                        {REFUSED_BASE, change_base},           {REFUSED_BASE, change_root},
                                        {REFUSED_MALFORMED, change_steps},     {REFUSED_MALFORMED, change_reserved},
                                        {REFUSED_MALFORMED, change_reserved2}, {REFUSED_MALFORMED, change_tokens},
                                        {REFUSED_NONFINITE, change_loss},      {REFUSED_MALFORMED, change_share},
                                        {REFUSED_NONFINITE, change_share_nan}, {REFUSED_NONFINITE, change_norm},
                                        {REFUSED_MALFORMED, change_norm_sign}, {REFUSED_LAYOUT, change_layout},
                                        {REFUSED_SIZE, change_size},           {REFUSED_SIZE, change_size_zero},
                                        {REFUSED_SIZE, change_size_huge},      {REFUSED_SEQUENCE, change_previous},
                                        {REFUSED_EXPIRED, change_time},        {REFUSED_EXPIRED, change_time_ahead},
                                        {REFUSED_RUN, change_manifest}};

TEST(every_wrong_field_of_a_header_is_refused_with_its_code_before_a_byte_comes) {
    struct brain *b = brain_open(PLAIN, 2);
    char *before = fixture_describe(brain_run(b), &b->f->manifest);
    for (size_t i = 0; i < COUNT_OF(changes); i++) {
        struct contribution c = fixture_contribution(b->f, 1, 0, 0, b->payload);
        c.signed_at_ms = b->now.wall_ms;
        changes[i].make(&c, b);
        struct ledger_entry header = fixture_signed(b->f, &c, b->f->keys[1]);
        uint64_t counted = coordinator_state_refused(b->state, changes[i].code);
        uint64_t call = brain_submit(b, 1, &header);
        EXPECT_REFUSAL(b, call, changes[i].code);
        CHECK_EQUAL(b->out.count, 1);
        CHECK_EQUAL(coordinator_state_refused(b->state, changes[i].code), counted + 1);
    }
    CHECK_EQUAL(coordinator_state_uploads(b->state), 0);
    char *after = fixture_describe(brain_run(b), &b->f->manifest);
    CHECK_TEXT(after, before);
    free(before), free(after);
    brain_contribute(b, 1, 0);
    brain_close(b);
}

TEST(headers_of_strangers_and_with_wrong_signatures_are_refused) {
    struct brain *b = brain_open(PLAIN, 2);
    struct ledger_entry header = brain_header(b, 1, 0);
    EXPECT_REFUSAL(b, brain_submit(b, 0, &header), REFUSED_UNKNOWN_SITE);
    EXPECT_REFUSAL(b, brain_submit(b, 3, &header), REFUSED_UNKNOWN_SITE);
    EXPECT_REFUSAL(b, brain_submit(b, UINT32_MAX, &header), REFUSED_UNKNOWN_SITE);
    EXPECT_REFUSAL(b, brain_submit(b, 2, &header), REFUSED_SIGNATURE); /* site 1's header under site 2's certificate */
    for (size_t at = 0; at < SIGNATURE_SIZE; at += 7) {
        struct ledger_entry broken = header;
        broken.contribution.signature[at] ^= 0x10;
        EXPECT_REFUSAL(b, brain_submit(b, 1, &broken), REFUSED_SIGNATURE);
    }
    for (size_t at = 0; at < CONTRIBUTION_HEADER_SIZE; at++) { /* no bit of the header is outside the signature */
        struct ledger_entry broken = header;
        broken.contribution.header[at] ^= 1;
        EXPECT_REFUSAL(b, brain_submit(b, 1, &broken), REFUSED_SIGNATURE);
    }
    CHECK(!coordinator_state_connected(b->state, 1, b->now)); /* a forger does not make a site look alive */
    brain_close(b);
}

TEST(what_the_workers_refuse_is_told_and_costs_the_site_nothing_but_that) {
    static const enum refusal codes[] = {REFUSED_SIZE,      REFUSED_DIGEST,    REFUSED_BUSY,
                                         REFUSED_MALFORMED, REFUSED_NONFINITE, REFUSED_NORM};
    struct brain *b = brain_open(PLAIN, 2);
    for (size_t i = 0; i < COUNT_OF(codes); i++) {
        struct ledger_entry header = brain_header(b, 1, 0);
        uint64_t call = brain_submit(b, 1, &header);
        struct coordinator_event event = {.kind = COORDINATOR_UPLOADED, .call = call};
        event.uploaded.code = codes[i];
        event.uploaded.message = "a story";
        brain_step(b, &event);
        EXPECT_REFUSAL(b, call, codes[i]);
        CHECK_TEXT(brain_find(b, DO_REFUSE)->message, "a story");
        call = brain_submit(b, 1, &header);
        brain_uploaded(b, call, ACCEPTED);
        brain_checked(b, call, codes[i]);
        EXPECT_REFUSAL(b, call, codes[i]);
        CHECK_EQUAL(coordinator_state_uploads(b->state), 0);
    }
    brain_contribute(b, 1, 0);
    brain_close(b);
}

TEST(what_moved_while_the_payload_came_is_asked_again) {
    struct brain *b = brain_open(ALONE, 3);
    struct ledger_entry slow = brain_header(b, 1, 0);
    uint64_t call = brain_submit(b, 1, &slow);
    for (int i = 0; i < 3; i++) { /* the cap is 2 */
        brain_contribute(b, 2, 0);
        brain_settle(b);
    }
    CHECK_EQUAL(run_state_version(brain_run(b)), 3);
    brain_uploaded(b, call, ACCEPTED);
    brain_checked(b, call, ACCEPTED);
    EXPECT_REFUSAL(b, call, REFUSED_REBASE);
    CHECK_EQUAL(brain_find(b, DO_REFUSE)->current_version, 3);

    struct ledger_entry paused = brain_header(b, 3, 0);
    call = brain_submit(b, 3, &paused);
    brain_admin(b, ORDER_PAUSE, "");
    brain_uploaded(b, call, ACCEPTED);
    brain_checked(b, call, ACCEPTED);
    EXPECT_REFUSAL(b, call, REFUSED_PAUSED);
    EXPECT_REFUSAL(b, brain_submit(b, 3, &paused), REFUSED_PAUSED);
    brain_admin(b, ORDER_RESUME, "");
    call = brain_submit(b, 3, &paused); /* the same bytes, later */
    CHECK(brain_find(b, DO_ADMIT));
    b->now.wall_ms += 86400001; /* and now it has expired */
    brain_uploaded(b, call, ACCEPTED);
    brain_checked(b, call, ACCEPTED);
    EXPECT_REFUSAL(b, call, REFUSED_EXPIRED);
    brain_settle(b);
    brain_close(b);
}

TEST(uploads_are_bounded_and_more_are_told_to_come_back) {
    struct brain *b = brain_open(PLAIN, 20);
    for (uint32_t site = 1; site <= 20; site++) {
        struct ledger_entry header = brain_header(b, site, 0);
        uint64_t call = brain_submit(b, site, &header);
        if (site <= 8)
            CHECK(brain_find(b, DO_ADMIT));
        else
            EXPECT_REFUSAL(b, call, REFUSED_BUSY);
    }
    CHECK_EQUAL(coordinator_state_uploads(b->state), 8);
    brain_plain(b, COORDINATOR_CALL_GONE, 3);
    struct ledger_entry header = brain_header(b, 20, 0);
    brain_submit(b, 20, &header);
    CHECK(brain_find(b, DO_ADMIT));
    brain_close(b);
}

TEST(a_disk_that_stands_still_does_not_make_the_commits_grow_without_bound) {
    struct brain *b = brain_open("merge: {quorum: 24, grace: forever, warmup_steps: 0}\n", 24);
    uint32_t admitted = 0;
    for (uint32_t site = 1; site <= 24; site++) {
        struct ledger_entry header = brain_header(b, site, 0);
        uint64_t call = brain_submit(b, site, &header);
        if (!brain_find(b, DO_ADMIT)) {
            EXPECT_REFUSAL(b, call, REFUSED_BUSY);
            continue;
        }
        admitted++;
        brain_uploaded(b, call, ACCEPTED);
        brain_checked(b, call, ACCEPTED);
    }
    CHECK_EQUAL(admitted, 8);
    CHECK_EQUAL(b->commit_count, 8);
    brain_settle(b);
    brain_contribute(b, 24, 0);
    brain_close(b);
}

TEST(one_site_cannot_take_all_the_places_there_are) {
    struct brain *b = brain_open("fragments: 16\nmerge: {quorum: 2, grace: forever, warmup_steps: 0}\n", 2);
    uint32_t admitted = 0;
    for (uint32_t fragment = 0; fragment < 16; fragment++) {
        struct ledger_entry header = brain_header(b, 1, fragment);
        brain_submit(b, 1, &header);
        admitted += brain_find(b, DO_ADMIT) != NULL;
    }
    CHECK(admitted >= 1 && admitted < 8);
    struct ledger_entry header = brain_header(b, 2, 0);
    brain_submit(b, 2, &header);
    CHECK(brain_find(b, DO_ADMIT));
    brain_close(b);
}

/* ---- when a step starts ------------------------------------------------------------------------------------------------------ */

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
    struct brain *b = brain_open("fragments: 3\nmerge: {quorum: 2, grace: 10s, warmup_steps: 0}\n", 3);
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

/* ---- warm-up: everybody who is there -------------------------------------------------------------------------------------------- */

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
    brain_following(b, 2, true); /* connected as far as anybody can tell, but it says nothing more */
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
    brain_heartbeat(b, 1, 1);
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
    brain_heartbeat(b, 77, 1);
    CHECK(!coordinator_state_connected(b->state, 77, b->now));
    CHECK(!coordinator_state_connected(b->state, 0, b->now));
    brain_close(b);
}

/* ---- speeds ------------------------------------------------------------------------------------------------------------------- */

TEST(slower_sites_get_fewer_inner_steps) {
    struct brain *b = brain_open(PLAIN "inner: {inner_steps: 30, dylu: true}\n", 3);
    CHECK_EQUAL(brain_heartbeat(b, 1, 10), 30); /* the only one known */
    CHECK_EQUAL(brain_heartbeat(b, 2, 5), 15);
    CHECK_EQUAL(brain_heartbeat(b, 3, 0.001), 1); /* at least one */
    CHECK_EQUAL(brain_heartbeat(b, 2, 6.99), 20); /* rounded down */
    CHECK_EQUAL(brain_heartbeat(b, 2, 0), 30);    /* not known yet */
    CHECK_EQUAL(brain_heartbeat(b, 2, NAN), 30);
    CHECK_EQUAL(brain_heartbeat(b, 2, -4), 30);
    CHECK_EQUAL(brain_heartbeat(b, 2, 1e300), 30);
    CHECK_EQUAL(brain_heartbeat(b, 2, 2), 6);
    brain_admin(b, ORDER_REVOKE, "site-1"); /* the fastest is gone */
    brain_settle(b);
    CHECK_EQUAL(brain_heartbeat(b, 2, 2), 30);
    struct coordinator_event event = brain_order(b, ORDER_INNER_STEPS, "");
    event.admin.inner_steps = 100;
    brain_step(b, &event);
    brain_settle(b);
    CHECK_EQUAL(brain_heartbeat(b, 2, 2), 100);
    brain_close(b);
}

TEST(without_dylu_everybody_does_the_same) {
    struct brain *b = brain_open(PLAIN "inner: {inner_steps: 30, dylu: false}\n", 2);
    brain_heartbeat(b, 1, 10);
    CHECK_EQUAL(brain_heartbeat(b, 2, 1), 30);
    brain_close(b);
}

/* ---- the end ------------------------------------------------------------------------------------------------------------------- */

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

TEST(the_token_budget_ends_the_run_by_itself) {
    struct brain *b = brain_open(ALONE "token_budget: 2500\n", 2);
    for (int i = 0; i < 2; i++) { /* a thousand tokens each */
        brain_contribute(b, 1, 0);
        brain_settle(b);
        CHECK_EQUAL(run_state_phase(brain_run(b)), RUN_ACTIVE);
    }
    struct ledger_entry late = brain_header(b, 2, 0);
    brain_contribute(b, 1, 0);
    CHECK_EQUAL(run_state_phase(brain_run(b)), RUN_STOPPED);
    CHECK_CONTAINS(run_state_reason(brain_run(b)), "budget");
    brain_settle(b);
    CHECK_EQUAL(run_state_version(b->durable), 3);
    EXPECT_REFUSAL(b, brain_submit(b, 2, &late), REFUSED_STOPPED);
    brain_close(b);
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
    CHECK(run_state_apply(b->durable, buffer_bytes(&b->f->entries[b->f->entry_count - 1]), false, NULL) == OK);
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
        CHECK(run_state_apply(b->durable, buffer_bytes(&b->f->entries[b->f->entry_count - 1]), false, NULL) == OK);
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
    CHECK_EQUAL(b->commit_count, 1); /* the EPOCH entry goes first, and like any other it is durable before it is told */
    CHECK(!brain_find(b, DO_PUBLISH));
    brain_settle(b);
    CHECK_EQUAL(run_state_epoch(b->durable), epoch + 1);
    uint64_t call = brain_submit(b, 1, &before);
    EXPECT_REFUSAL(b, call, REFUSED_EPOCH);
    struct ledger_entry header = brain_header(b, 1, 0);
    brain_contribute(b, 1, 0);
    brain_durable(b);
    struct receipt read;
    check_receipt(b, &brain_find(b, DO_RECEIPT)->bytes, &header, &read);
    CHECK_EQUAL(read.epoch, epoch + 1);
    brain_settle(b);
    CHECK_EQUAL(run_state_version(b->durable), 1);
    brain_close(b);
}

TEST(a_coordinator_that_takes_over_merges_what_the_last_one_acknowledged) {
    struct brain *b = brain_open_unstarted(ALONE, 2);
    fixture_contribute(b->f, 1, 0, 0, 1);
    CHECK(run_state_apply(b->durable, buffer_bytes(&b->f->entries[b->f->entry_count - 1]), false, NULL) == OK);
    uint32_t epoch = run_state_epoch(b->f->run);
    b->options.new_epoch = true;
    brain_start(b, b->f->run);
    brain_settle(b);
    CHECK_EQUAL(run_state_version(b->durable), 1);
    CHECK_EQUAL(run_state_epoch(b->durable), epoch + 1);
    brain_close(b);
}

/* ---- snapshots ------------------------------------------------------------------------------------------------------------------ */

TEST(snapshots_come_every_nth_version_and_name_the_oldest_payload_they_need) {
    struct brain *b = brain_open(ALONE "snapshot_interval: 2\n", 2);
    for (uint64_t version = 1; version <= 6; version++) {
        brain_contribute(b, 1, 0);
        bool waits = version == 4;
        uint64_t index = run_state_size(brain_run(b));
        if (waits) brain_contribute(b, 2, 0); /* while the step is computed: pending in the snapshot */
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
    CHECK_EQUAL(brain_find(b, DO_ADMIN_REPLY)->code, ACCEPTED);
    brain_contribute(b, 1, 0);
    brain_admin(b, ORDER_SNAPSHOT, "");
    CHECK(!brain_find(b, DO_SNAPSHOT) && brain_find(b, DO_ADMIN_REPLY));
    brain_applied(b);
    CHECK_EQUAL(brain_find(b, DO_SNAPSHOT)->version, 1);
    brain_settle(b);
    brain_contribute(b, 1, 0);
    brain_applied(b);
    CHECK(!brain_find(b, DO_SNAPSHOT)); /* asked for once, made once */
    brain_close(b);
}

/* ---- joining -------------------------------------------------------------------------------------------------------------------- */

static void invite(struct brain *b, const char *name, uint64_t expires_ms, uint8_t secret[static DIGEST_SIZE]) {
    struct coordinator_event event = brain_order(b, ORDER_INVITE, name);
    event.admin.expires_ms = expires_ms;
    memcpy(secret, event.admin.secret_digest, DIGEST_SIZE);
    brain_step(b, &event);
    CHECK(!brain_find(b, DO_ADMIN_REPLY)); /* not before it is durable */
    brain_durable(b);
    CHECK_EQUAL(brain_find(b, DO_ADMIN_REPLY)->code, ACCEPTED);
}

static enum refusal join(struct brain *b, const char *name, const uint8_t *secret, const struct key_pair *key) {
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
    CHECK(join(b, "lagoon", secret, b->f->keys[1]) != ACCEPTED); /* a key that is site 1's already */
    brain_wait(b, 1001);
    CHECK_EQUAL(join(b, "lagoon", secret, b->f->keys[2]), REFUSED_EXPIRED);
    CHECK_EQUAL(run_state_size(brain_run(b)), size);
    invite(b, "lagoon", 0, second);
    invite(b, "lagoon", 0, late); /* two invitations for one name: the first to come has it */
    CHECK_EQUAL(join(b, "lagoon", second, b->f->keys[2]), ACCEPTED);
    CHECK(join(b, "lagoon", late, b->f->keys[3]) != ACCEPTED);
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

/* ---- the admin -------------------------------------------------------------------------------------------------------------------- */

static void order_refused(struct brain *b, enum admin_order order, const char *name) {
    uint64_t size = run_state_size(brain_run(b));
    uint64_t call = brain_admin(b, order, name);
    const struct coordinator_action *reply = brain_find(b, DO_ADMIN_REPLY);
    CHECK(reply && reply->call == call && reply->code != ACCEPTED && *reply->message);
    CHECK_EQUAL(run_state_size(brain_run(b)), size);
    CHECK(!b->stopped);
}

static void order_done(struct brain *b, enum admin_order order, const char *name) {
    uint64_t call = brain_admin(b, order, name);
    CHECK(!brain_find(b, DO_ADMIN_REPLY));
    while (b->commit_count > 0) brain_durable(b);
    const struct coordinator_action *reply = brain_find(b, DO_ADMIN_REPLY);
    CHECK(reply && reply->call == call && reply->code == ACCEPTED);
}

TEST(orders_that_do_not_fit_the_phase_are_refused_and_stop_nothing) {
    struct brain *b = brain_open(ALONE, 2);
    order_refused(b, ORDER_RESUME, "");
    order_done(b, ORDER_PAUSE, "");
    order_refused(b, ORDER_PAUSE, "");
    order_done(b, ORDER_RESUME, "");
    order_refused(b, ORDER_INVITE, "site-1");
    order_refused(b, ORDER_INVITE, "Not A Name");
    order_refused(b, ORDER_INVITE, "");
    order_refused(b, ORDER_REVOKE, "nobody");
    order_refused(b, ORDER_REVOKE, "");
    order_refused(b, (enum admin_order)99, "");
    order_done(b, ORDER_REVOKE, "site-2");
    order_refused(b, ORDER_REVOKE, "site-2");
    order_done(b, ORDER_INVITE, "site-2");
    order_done(b, ORDER_STOP, "");
    order_refused(b, ORDER_STOP, "");
    order_refused(b, ORDER_PAUSE, "");
    order_refused(b, ORDER_RESUME, "");
    order_refused(b, ORDER_INVITE, "late");
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
        CHECK(brain_find(b, DO_ADMIN_REPLY) && brain_find(b, DO_ADMIN_REPLY)->code != ACCEPTED);
        CHECK(!b->stopped);
    }
    order_done(b, ORDER_STOP, "");
    event = brain_order(b, ORDER_INNER_STEPS, "");
    event.admin.inner_steps = 5;
    brain_step(b, &event);
    CHECK(!b->stopped);
    CHECK(brain_find(b, DO_ADMIN_REPLY)->code != ACCEPTED);
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
    CHECK(brain_find(b, DO_ADMIN_REPLY)->code != ACCEPTED);
    brain_close(b);
}

TEST(revoking_cuts_the_site_and_drops_what_waits_from_it) {
    struct brain *b = brain_open("fragments: 2\nmerge: {quorum: 3, grace: 10s, warmup_steps: 0}\n", 3);
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
        answered |= reply && reply->call == call && reply->code == ACCEPTED;
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
    CHECK_OK(ledger_head_verify(bytes_of(raw, sizeof raw), key_pair_public(b->f->coordinator), &head, &error));
    CHECK_EQUAL(head.size, run_state_size(b->durable));
    merkle_root(run_state_tree(b->durable), head.size, root);
    CHECK_MEMORY(head.root, root, DIGEST_SIZE);
    brain_close(b);
}

/* ---- all of it at once ---------------------------------------------------------------------------------------------------------------- */

enum { WALK_STEPS = 1500, WALK_CALLS = WALK_STEPS + 2 };

struct walk {
    struct brain *b;
    struct random random;
    struct ledger_entry headers[FIXTURE_SITES + 1][2]; /* the last sent by a site and fragment */
    bool sent[FIXTURE_SITES + 1][2];
    uint64_t admitted[FIXTURE_SITES + 1][2]; /* the call that was last given credit */
    struct ledger_entry *of_call;            /* [WALK_CALLS] what each call sent */
    uint64_t receipts, refused;
};

/* Only what is durable may be told, and told truly. */
static void walk_check(struct walk *w) {
    struct brain *b = w->b;
    for (size_t i = 0; i < b->out.count; i++) {
        const struct coordinator_action *action = &b->out.items[i];
        if (action->kind == DO_STOP) test_failed(__FILE__, __LINE__, "it stopped: %s", action->message);
        if (action->kind == DO_PUBLISH) CHECK(action->size <= run_state_size(b->durable));
        w->refused += action->kind == DO_REFUSE;
        if (action->kind != DO_RECEIPT) continue;
        w->receipts++;
        CHECK(action->call < WALK_CALLS);
        const struct ledger_entry *header = &w->of_call[action->call];
        struct receipt read;
        struct contribution c;
        uint64_t index;
        check_receipt(b, &action->bytes, header, &read);
        CHECK(contribution_decode(bytes_of(header->contribution.header, CONTRIBUTION_HEADER_SIZE), &c, NULL) == OK);
        CHECK(read.index < run_state_size(b->durable));
        CHECK(run_state_find(b->durable, c.site, c.sequence, &index) && index == read.index);
    }
    CHECK(coordinator_state_uploads(b->state) <= b->options.uploads_limit);
    CHECK_EQUAL(coordinator_state_committed(b->state), run_state_size(b->durable));
}

static void walk_submit(struct walk *w, uint32_t site, uint32_t fragment) {
    w->of_call[w->b->last_call + 1] = w->headers[site][fragment];
    uint64_t call = brain_submit(w->b, site, &w->headers[site][fragment]);
    if (brain_find(w->b, DO_ADMIT)) w->admitted[site][fragment] = call;
}

static void walk_once(struct walk *w) {
    struct brain *b = w->b;
    uint32_t site = 1 + (uint32_t)random_below(&w->random, 6), fragment = (uint32_t)random_below(&w->random, 2);
    uint64_t call = w->admitted[site][fragment];
    struct coordinator_event event;
    switch (random_below(&w->random, 16)) {
    case 0:
    case 1:
    case 2:
        if (run_state_site_count(brain_run(b)) < site) break;
        w->headers[site][fragment] = brain_header(b, site, fragment);
        w->sent[site][fragment] = true;
        walk_submit(w, site, fragment);
        break;
    case 3:
        if (w->sent[site][fragment]) walk_submit(w, site, fragment);
        break;
    case 4:
    case 5: brain_uploaded(b, call, random_below(&w->random, 8) ? ACCEPTED : REFUSED_DIGEST); break;
    case 6:
    case 7: brain_checked(b, call, random_below(&w->random, 8) ? ACCEPTED : REFUSED_NORM); break;
    case 8: brain_plain(b, COORDINATOR_CALL_GONE, call); break;
    case 9:
    case 10:
        if (b->commit_count > 0) brain_durable(b);
        break;
    case 11:
        if (b->applying) brain_applied(b);
        break;
    case 12: brain_wait(b, random_below(&w->random, 8000)); break;
    case 13: brain_following(b, site, random_below(&w->random, 2)); break;
    case 14: brain_heartbeat(b, site, (double)random_below(&w->random, 9)); break;
    default: {
        char name[SITE_NAME_SIZE];
        snprintf(name, sizeof name, "site-%u", site);
        enum admin_order order = (enum admin_order)(1 + random_below(&w->random, 7));
        if (order == ORDER_STOP || (order == ORDER_REVOKE && random_below(&w->random, 40))) order = ORDER_RESUME;
        event = brain_order(b, order, name);
        event.admin.inner_steps = (uint32_t)random_below(&w->random, 3) * 700000;
        brain_step(b, &event);
        break;
    }
    }
    walk_check(w);
}

TEST(any_order_of_events_keeps_the_ledger_legal_and_the_receipts_true) {
    uint64_t receipts = 0, refused = 0, versions = 0;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct walk *w = xcalloc(1, sizeof *w);
        w->b = brain_open("fragments: 2\nmerge: {quorum: 3, grace: 5s, warmup_steps: 2, warmup_grace: 20s, staleness_cap: 3}\n"
                          "snapshot_interval: 3\n",
                          6);
        random_init(&w->random, seed);
        w->of_call = xcalloc(WALK_CALLS, sizeof *w->of_call);
        for (int i = 0; i < WALK_STEPS; i++) walk_once(w);
        brain_settle(w->b);
        char *ahead = fixture_describe(brain_run(w->b), &w->b->f->manifest);
        char *durable = fixture_describe(w->b->durable, &w->b->f->manifest);
        CHECK_TEXT(durable, ahead);
        free(ahead), free(durable);
        receipts += w->receipts, refused += w->refused, versions += run_state_version(w->b->durable);
        brain_close(w->b);
        free(w->of_call);
        free(w);
    }
    CHECK(receipts > 100 && refused > 100 && versions > 50); /* the walk goes somewhere */
}
