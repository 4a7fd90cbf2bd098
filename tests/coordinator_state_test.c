#include "tests/coordinator_fixture.h"

#define PLAIN "merge: {quorum: 2, grace: 10s, warmup_steps: 0, staleness_cap: 2}\n"
#define ALONE "merge: {quorum: 1, grace: 10s, warmup_steps: 0, staleness_cap: 2}\n"

/* ---- one contribution ------------------------------------------------------------------------ */

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
    /* not durable: nobody hears of it */
    CHECK(!brain_find(b, DO_RECEIPT) && !brain_find(b, DO_PUBLISH));
    CHECK_EQUAL(coordinator_state_committed(b->state), index);
    brain_durable(b);
    const struct coordinator_action *receipt = brain_find(b, DO_RECEIPT);
    CHECK(receipt && receipt->call == call);
    CHECK_EQUAL(brain_find(b, DO_PUBLISH)->size, index + 1);
    struct receipt read;
    brain_check_receipt(b, &receipt->bytes, &header, &read);
    CHECK_EQUAL(read.index, index);
    CHECK_EQUAL(read.sequence, 1);
    CHECK_EQUAL(coordinator_state_uploads(b->state), 0);
    brain_close(b);
}

TEST(receipts_of_commits_that_come_together_are_each_for_their_own) {
    struct brain *b =
        brain_open("fragments: 2\nmerge: {quorum: 4, grace: forever, warmup_steps: 0}\n", 4);
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
        brain_check_receipt(b, &receipt->bytes, &headers[i], &read);
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
        brain_check_receipt(b, &brain_find(b, DO_REFUSE)->bytes, &header, &read);
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

/* ---- superseded calls ------------------------------------------------------------------------ */

TEST(a_newer_call_takes_the_place_of_a_transfer_that_broke) {
    struct brain *b = brain_open(PLAIN, 2);
    struct ledger_entry header = brain_header(b, 1, 0);
    uint64_t old = brain_submit(b, 1, &header);
    uint64_t fresh = brain_submit(b, 1, &header);
    CHECK_EQUAL(brain_find(b, DO_DROP)->call, old);
    CHECK_EQUAL(brain_find(b, DO_ADMIT)->call, fresh);
    /* the upload is let go before it is opened again */
    CHECK(brain_find(b, DO_DROP) < brain_find(b, DO_ADMIT));
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
    /* while receiving: forgotten, the bytes are kept by the shell */
    brain_plain(b, COORDINATOR_CALL_GONE, call);
    CHECK_EQUAL(coordinator_state_uploads(b->state), 0);
    brain_uploaded(b, call, ACCEPTED);
    brain_checked(b, call, ACCEPTED);
    CHECK_EQUAL(b->commit_count, 0);

    call = brain_submit(b, 1, &header);
    brain_uploaded(b, call, ACCEPTED);
    /* while checked: it goes into the ledger all the same */
    brain_plain(b, COORDINATOR_CALL_GONE, call);
    brain_checked(b, call, ACCEPTED);
    CHECK_EQUAL(b->commit_count, 1);
    brain_durable(b);
    CHECK(!brain_find(b, DO_RECEIPT));
    /* and the receipt is there to be asked for */
    EXPECT_REFUSAL(b, brain_submit(b, 1, &header), REFUSED_DUPLICATE);
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

/* ---- refusals -------------------------------------------------------------------------------- */

struct change {
    enum refusal code;
    void (*make)(struct contribution *c, struct brain *b);
};
static void change_protocol(struct contribution *c, struct brain *b) { (void)b, c->protocol = 9; }
static void change_codec(struct contribution *c, struct brain *b) {
    (void)b, c->codec = CODEC_FP32;
}
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
static void change_tokens(struct contribution *c, struct brain *b) {
    (void)b, c->tokens = TOKENS_LIMIT + 1;
}
static void change_loss(struct contribution *c, struct brain *b) { (void)b, c->loss = NAN; }
static void change_share(struct contribution *c, struct brain *b) {
    (void)b, c->compute_share = 1.5f;
}
static void change_share_nan(struct contribution *c, struct brain *b) {
    (void)b, c->compute_share = NAN;
}
static void change_norm(struct contribution *c, struct brain *b) { (void)b, c->norm = INFINITY; }
static void change_norm_sign(struct contribution *c, struct brain *b) { (void)b, c->norm = -1; }
static void change_layout(struct contribution *c, struct brain *b) {
    (void)b, c->layout_digest[31] ^= 1;
}
static void change_size(struct contribution *c, struct brain *b) {
    c->payload_size = b->options.payload_limit + 1;
}
static void change_size_zero(struct contribution *c, struct brain *b) {
    (void)b, c->payload_size = 0;
}
static void change_size_huge(struct contribution *c, struct brain *b) {
    (void)b, c->payload_size = UINT64_MAX;
}
static void change_previous(struct contribution *c, struct brain *b) {
    (void)b, c->previous[0] ^= 1;
}
static void change_time(struct contribution *c, struct brain *b) {
    c->signed_at_ms = b->now.wall_ms - 86400001;
}
static void change_time_ahead(struct contribution *c, struct brain *b) {
    c->signed_at_ms = b->now.wall_ms + 86400001;
}
static void change_manifest(struct contribution *c, struct brain *b) {
    (void)b, c->manifest_digest[0] ^= 1;
}

static const struct change changes[] = {
    {REFUSED_RUN, change_protocol},        {REFUSED_MALFORMED, change_codec},
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
    /* site 1's header under site 2's certificate */
    EXPECT_REFUSAL(b, brain_submit(b, 2, &header), REFUSED_SIGNATURE);
    for (size_t at = 0; at < SIGNATURE_SIZE; at += 7) {
        struct ledger_entry broken = header;
        broken.contribution.signature[at] ^= 0x10;
        EXPECT_REFUSAL(b, brain_submit(b, 1, &broken), REFUSED_SIGNATURE);
    }
    for (size_t at = 0; at < CONTRIBUTION_HEADER_SIZE;
         at++) { /* no bit of the header is outside the signature */
        struct ledger_entry broken = header;
        broken.contribution.header[at] ^= 1;
        EXPECT_REFUSAL(b, brain_submit(b, 1, &broken), REFUSED_SIGNATURE);
    }
    /* a forger does not make a site look alive */
    CHECK(!coordinator_state_connected(b->state, 1, b->now));
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
    struct brain *b =
        brain_open("fragments: 16\nmerge: {quorum: 2, grace: forever, warmup_steps: 0}\n", 2);
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

TEST(four_hoarding_sites_make_room_for_a_fifth_and_get_none_back) {
    struct brain *b =
        brain_open("fragments: 16\nmerge: {quorum: 5, grace: forever, warmup_steps: 0}\n", 5);
    uint64_t first = 0;
    for (uint32_t i = 0; i < 8; i++) {
        struct ledger_entry header = brain_header(b, 1 + i / 2, i % 2);
        uint64_t call = brain_submit(b, 1 + i / 2, &header);
        CHECK(brain_find(b, DO_ADMIT));
        if (i == 0) first = call;
    }
    struct ledger_entry honest = brain_header(b, 5, 0);
    uint64_t call = brain_submit(b, 5, &honest);
    CHECK(brain_find(b, DO_ADMIT));
    EXPECT_REFUSAL(b, first, REFUSED_BUSY);
    CHECK_EQUAL(coordinator_state_uploads(b->state), 8);
    for (uint32_t site = 1; site <= 4; site++) { /* again, with the same or another one */
        struct ledger_entry header = brain_header(b, site, 2);
        EXPECT_REFUSAL(b, brain_submit(b, site, &header), REFUSED_BUSY);
    }
    brain_uploaded(b, first, ACCEPTED); /* its transfer was over just then */
    CHECK(!brain_find(b, DO_CHECK));
    brain_uploaded(b, call, ACCEPTED);
    CHECK(brain_find(b, DO_CHECK));
    brain_checked(b, call, ACCEPTED);
    brain_settle(b);
    CHECK_EQUAL(run_state_pending_count(brain_run(b), 0), 1);
    brain_close(b);
}

/* ---- all of it at once ----------------------------------------------------------------------- */

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
        if (action->kind == DO_STOP)
            test_failed(__FILE__, __LINE__, "it stopped: %s", action->message);
        if (action->kind == DO_PUBLISH) CHECK(action->size <= run_state_size(b->durable));
        w->refused += action->kind == DO_REFUSE;
        if (action->kind != DO_RECEIPT) continue;
        w->receipts++;
        CHECK(action->call < WALK_CALLS);
        const struct ledger_entry *header = &w->of_call[action->call];
        struct receipt read;
        struct contribution c;
        uint64_t index;
        brain_check_receipt(b, &action->bytes, header, &read);
        CHECK(contribution_decode(bytes_of(header->contribution.header, CONTRIBUTION_HEADER_SIZE),
                                  &c, NULL) == OK);
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
    uint32_t site = 1 + (uint32_t)random_below(&w->random, 6),
             fragment = (uint32_t)random_below(&w->random, 2);
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
    case 14: brain_heartbeat(b, site); break;
    default: {
        char name[SITE_NAME_SIZE];
        snprintf(name, sizeof name, "site-%u", site);
        enum admin_order order = (enum admin_order)(1 + random_below(&w->random, 7));
        if (order == ORDER_STOP || (order == ORDER_REVOKE && random_below(&w->random, 40)))
            order = ORDER_RESUME;
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
        w->b = brain_open("fragments: 2\nmerge: {quorum: 3, grace: 5s, warmup_steps: 2, "
                          "warmup_grace: 20s, staleness_cap: 3}\n"
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
        receipts += w->receipts, refused += w->refused,
            versions += run_state_version(w->b->durable);
        brain_close(w->b);
        free(w->of_call);
        free(w);
    }
    CHECK(receipts > 100 && refused > 100 && versions > 50); /* the walk goes somewhere */
}
