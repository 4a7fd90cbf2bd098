#include "tests/coordinator_fixture.h"

#define PLAIN "merge: {quorum: 2, grace: 10s, warmup_steps: 0, staleness_cap: 2}\n"
#define ALONE "merge: {quorum: 1, grace: 10s, warmup_steps: 0, staleness_cap: 2}\n"

/* ---- one contribution ------------------------------------------------------------------------ */

TEST(a_contribution_goes_from_its_header_to_a_receipt_that_proves_it) {
    struct shell *s = shell_open(PLAIN, 2);
    struct ledger_entry header = shell_header(s, 1, 0);
    uint64_t call = shell_submit(s, 1, &header);
    const struct coordinator_action *admit = shell_find(s, DO_ADMIT);
    CHECK(admit && admit->call == call);
    CHECK_EQUAL(admit->contribution.payload_size, s->payload.size);
    CHECK_EQUAL(coordinator_state_uploads(s->state), 1);
    shell_uploaded(s, call, ACCEPTED);
    const struct coordinator_action *check = shell_find(s, DO_CHECK);
    CHECK(check && check->call == call);
    uint64_t index = run_state_size(shell_run(s));
    shell_checked(s, call, ACCEPTED);
    CHECK(shell_find(s, DO_COMMIT));
    /* not durable: nobody hears of it */
    CHECK(!shell_find(s, DO_RECEIPT) && !shell_find(s, DO_PUBLISH));
    CHECK_EQUAL(coordinator_state_committed(s->state), index);
    shell_durable(s);
    const struct coordinator_action *receipt = shell_find(s, DO_RECEIPT);
    CHECK(receipt && receipt->call == call);
    CHECK_EQUAL(shell_find(s, DO_PUBLISH)->size, index + 1);
    struct receipt read;
    shell_check_receipt(s, &receipt->bytes, &header, &read);
    CHECK_EQUAL(read.index, index);
    CHECK_EQUAL(read.sequence, 1);
    CHECK_EQUAL(coordinator_state_uploads(s->state), 0);
    shell_close(s);
}

TEST(receipts_of_commits_that_come_together_are_each_for_their_own) {
    struct shell *s =
        shell_open("fragments: 2\nmerge: {quorum: 4, grace: forever, warmup_steps: 0}\n", 4);
    struct ledger_entry headers[4];
    uint64_t calls[4];
    for (uint32_t i = 0; i < 4; i++) { /* two fragments by site 1, one each by 2 and 3 */
        uint32_t site = i < 2 ? 1 : i, fragment = i == 1;
        headers[i] = shell_header(s, site, fragment);
        calls[i] = shell_contribute(s, site, fragment);
    }
    CHECK_EQUAL(s->commit_count, 4);
    for (uint32_t i = 0; i < 4; i++) {
        shell_durable(s);
        const struct coordinator_action *receipt = shell_find(s, DO_RECEIPT);
        CHECK(receipt && receipt->call == calls[i]);
        struct receipt read;
        shell_check_receipt(s, &receipt->bytes, &headers[i], &read);
        CHECK_EQUAL(read.size, coordinator_state_committed(s->state));
    }
    shell_close(s);
}

TEST(a_repeated_contribution_gets_its_old_receipt_signed_again) {
    struct shell *s = shell_open(PLAIN, 2);
    struct ledger_entry header = shell_header(s, 1, 0);
    shell_contribute(s, 1, 0);
    shell_settle(s);
    uint64_t size = run_state_size(shell_run(s));
    for (int again = 0; again < 3; again++) {
        uint64_t call = shell_submit(s, 1, &header);
        EXPECT_REFUSAL(s, call, REFUSED_DUPLICATE);
        struct receipt read;
        shell_check_receipt(s, &shell_find(s, DO_REFUSE)->bytes, &header, &read);
        CHECK_EQUAL(read.sequence, 1);
    }
    CHECK_EQUAL(run_state_size(shell_run(s)), size);
    CHECK_EQUAL(coordinator_state_refused(s->state, REFUSED_DUPLICATE), 3);
    /* also when the run has been paused, and after it has ended */
    shell_admin(s, ORDER_PAUSE, "");
    shell_settle(s);
    EXPECT_REFUSAL(s, shell_submit(s, 1, &header), REFUSED_DUPLICATE);
    CHECK(shell_find(s, DO_REFUSE)->bytes.size > 0);
    shell_admin(s, ORDER_STOP, "");
    shell_settle(s);
    EXPECT_REFUSAL(s, shell_submit(s, 1, &header), REFUSED_DUPLICATE);
    CHECK(shell_find(s, DO_REFUSE)->bytes.size > 0);
    shell_close(s);
}

/* ---- superseded calls ------------------------------------------------------------------------ */

TEST(a_newer_call_takes_the_place_of_a_transfer_that_broke) {
    struct shell *s = shell_open(PLAIN, 2);
    struct ledger_entry header = shell_header(s, 1, 0);
    uint64_t old = shell_submit(s, 1, &header);
    uint64_t fresh = shell_submit(s, 1, &header);
    CHECK_EQUAL(shell_find(s, DO_DROP)->call, old);
    CHECK_EQUAL(shell_find(s, DO_ADMIT)->call, fresh);
    /* the upload is let go before it is opened again */
    CHECK(shell_find(s, DO_DROP) < shell_find(s, DO_ADMIT));
    CHECK_EQUAL(coordinator_state_uploads(s->state), 1);
    shell_uploaded(s, old, ACCEPTED); /* said before it was dropped: nobody's any more */
    CHECK_EQUAL(s->out.count, 0);
    shell_plain(s, COORDINATOR_CALL_GONE, old);
    CHECK_EQUAL(coordinator_state_uploads(s->state), 1);
    shell_uploaded(s, fresh, ACCEPTED);
    shell_checked(s, fresh, ACCEPTED);
    shell_durable(s);
    CHECK_EQUAL(shell_find(s, DO_RECEIPT)->call, fresh);
    shell_close(s);
}

TEST(a_newer_call_gets_the_receipt_while_the_check_runs) {
    struct shell *s = shell_open(PLAIN, 2);
    struct ledger_entry header = shell_header(s, 1, 0);
    uint64_t old = shell_submit(s, 1, &header);
    shell_uploaded(s, old, ACCEPTED);
    uint64_t fresh = shell_submit(s, 1, &header);
    CHECK_EQUAL(shell_find(s, DO_DROP)->call, old);
    CHECK(!shell_find(s, DO_ADMIT));
    shell_checked(s, old, ACCEPTED); /* the worker knows the call it was asked with */
    shell_durable(s);
    CHECK_EQUAL(shell_find(s, DO_RECEIPT)->call, fresh);
    CHECK_EQUAL(run_state_site(shell_run(s), 1)->contributions, 1);
    shell_close(s);
}

TEST(a_newer_call_gets_the_receipt_while_the_commit_is_under_way) {
    struct shell *s = shell_open(PLAIN, 2);
    struct ledger_entry header = shell_header(s, 1, 0);
    uint64_t old = shell_contribute(s, 1, 0);
    uint64_t fresh = shell_submit(s, 1, &header);
    CHECK_EQUAL(shell_find(s, DO_DROP)->call, old);
    CHECK(!shell_find(s, DO_REFUSE));
    shell_durable(s);
    CHECK_EQUAL(shell_count(s, DO_RECEIPT), 1);
    CHECK_EQUAL(shell_find(s, DO_RECEIPT)->call, fresh);
    shell_close(s);
}

TEST(another_contribution_of_the_site_waits_while_one_is_being_checked) {
    struct shell *s = shell_open(PLAIN, 2);
    struct ledger_entry first = shell_header(s, 1, 0);
    struct contribution other = fixture_contribution(s->f, 1, 0, 0, s->payload);
    other.sequence = 2;
    struct ledger_entry second = fixture_signed(s->f, &other, s->f->keys[1]);
    uint64_t call = shell_submit(s, 1, &first);
    shell_uploaded(s, call, ACCEPTED);
    EXPECT_REFUSAL(s, shell_submit(s, 1, &second), REFUSED_BUSY);
    shell_checked(s, call, ACCEPTED);
    shell_settle(s);
    CHECK_EQUAL(run_state_site(shell_run(s), 1)->last_sequence, 1);
    shell_close(s);
}

TEST(a_peer_that_goes_away_in_any_phase_leaves_nothing_behind) {
    struct shell *s = shell_open(PLAIN, 2);
    struct ledger_entry header = shell_header(s, 1, 0);
    shell_plain(s, COORDINATOR_CALL_GONE, 4711); /* a call nobody knows */
    uint64_t call = shell_submit(s, 1, &header);
    /* while receiving: forgotten, the bytes are kept by the shell */
    shell_plain(s, COORDINATOR_CALL_GONE, call);
    CHECK_EQUAL(coordinator_state_uploads(s->state), 0);
    shell_uploaded(s, call, ACCEPTED);
    shell_checked(s, call, ACCEPTED);
    CHECK_EQUAL(s->commit_count, 0);

    call = shell_submit(s, 1, &header);
    shell_uploaded(s, call, ACCEPTED);
    /* while checked: it goes into the ledger all the same */
    shell_plain(s, COORDINATOR_CALL_GONE, call);
    shell_checked(s, call, ACCEPTED);
    CHECK_EQUAL(s->commit_count, 1);
    shell_durable(s);
    CHECK(!shell_find(s, DO_RECEIPT));
    /* and the receipt is there to be asked for */
    EXPECT_REFUSAL(s, shell_submit(s, 1, &header), REFUSED_DUPLICATE);
    CHECK(shell_find(s, DO_REFUSE)->bytes.size > 0);

    call = shell_contribute(s, 2, 0);
    shell_plain(s, COORDINATOR_CALL_GONE, call); /* while it is committed */
    shell_durable(s);
    CHECK(!shell_find(s, DO_RECEIPT));
    shell_settle(s);
    CHECK_EQUAL(run_state_version(shell_run(s)), 1);
    shell_close(s);
}

TEST(events_that_come_twice_or_out_of_order_change_nothing) {
    struct shell *s = shell_open(PLAIN, 2);
    struct ledger_entry header = shell_header(s, 1, 0);
    uint64_t call = shell_submit(s, 1, &header);
    shell_checked(s, call, ACCEPTED); /* before it was uploaded */
    CHECK_EQUAL(s->out.count, 0);
    shell_uploaded(s, call, ACCEPTED);
    shell_uploaded(s, call, ACCEPTED);
    CHECK_EQUAL(s->out.count, 0);
    shell_uploaded(s, call, REFUSED_DIGEST);
    CHECK_EQUAL(s->out.count, 0);
    shell_checked(s, call, ACCEPTED);
    shell_checked(s, call, ACCEPTED);
    CHECK_EQUAL(s->commit_count, 1);
    struct coordinator_event event = {.kind = COORDINATOR_COMMITTED};
    event.committed.commit = 999;
    shell_step(s, &event);
    CHECK_EQUAL(s->out.count, 0);
    struct coordinator_event applied = {.kind = COORDINATOR_APPLIED};
    shell_step(s, &applied);
    CHECK_EQUAL(s->out.count, 0);
    shell_durable(s);
    CHECK_EQUAL(shell_count(s, DO_RECEIPT), 1);
    shell_close(s);
}

/* ---- refusals -------------------------------------------------------------------------------- */

struct change {
    enum refusal code;
    void (*make)(struct contribution *c, struct shell *s);
};
static void change_protocol(struct contribution *c, struct shell *s) { (void)s, c->protocol = 9; }
static void change_codec(struct contribution *c, struct shell *s) {
    (void)s, c->codec = CODEC_FP32;
}
static void change_epoch(struct contribution *c, struct shell *s) { (void)s, c->epoch = 2; }
static void change_run(struct contribution *c, struct shell *s) { (void)s, c->run_id[3] ^= 1; }
static void change_site(struct contribution *c, struct shell *s) { (void)s, c->site = 2; }
static void change_fragment(struct contribution *c, struct shell *s) { (void)s, c->fragment = 1; }
static void change_key_id(struct contribution *c, struct shell *s) { (void)s, c->key_id[0] ^= 1; }
static void change_sequence(struct contribution *c, struct shell *s) { (void)s, c->sequence = 0; }
static void change_base(struct contribution *c, struct shell *s) { (void)s, c->base_version = 1; }
static void change_root(struct contribution *c, struct shell *s) { (void)s, c->base_root[5] ^= 1; }
static void change_steps(struct contribution *c, struct shell *s) { (void)s, c->inner_steps = 0; }
static void change_reserved(struct contribution *c, struct shell *s) { (void)s, c->reserved = 1; }
static void change_began(struct contribution *c, struct shell *s) {
    (void)s, c->began_version = c->base_version + 1;
}
static void change_tokens(struct contribution *c, struct shell *s) {
    (void)s, c->tokens = TOKENS_LIMIT + 1;
}
static void change_loss(struct contribution *c, struct shell *s) { (void)s, c->loss = NAN; }
static void change_share(struct contribution *c, struct shell *s) {
    (void)s, c->compute_share = 1.5f;
}
static void change_share_nan(struct contribution *c, struct shell *s) {
    (void)s, c->compute_share = NAN;
}
static void change_norm(struct contribution *c, struct shell *s) { (void)s, c->norm = INFINITY; }
static void change_norm_sign(struct contribution *c, struct shell *s) { (void)s, c->norm = -1; }
static void change_layout(struct contribution *c, struct shell *s) {
    (void)s, c->layout_digest[31] ^= 1;
}
static void change_size(struct contribution *c, struct shell *s) {
    c->payload_size = s->options.payload_limit + 1;
}
static void change_size_zero(struct contribution *c, struct shell *s) {
    (void)s, c->payload_size = 0;
}
static void change_size_huge(struct contribution *c, struct shell *s) {
    (void)s, c->payload_size = UINT64_MAX;
}
static void change_previous(struct contribution *c, struct shell *s) {
    (void)s, c->previous[0] ^= 1;
}
static void change_time(struct contribution *c, struct shell *s) {
    c->signed_at_ms = s->now.wall_ms - 86400001;
}
static void change_time_ahead(struct contribution *c, struct shell *s) {
    c->signed_at_ms = s->now.wall_ms + 86400001;
}
static void change_manifest(struct contribution *c, struct shell *s) {
    (void)s, c->manifest_digest[0] ^= 1;
}

static const struct change changes[] = {
    {REFUSED_RUN, change_protocol},        {REFUSED_MALFORMED, change_codec},
    {REFUSED_EPOCH, change_epoch},         {REFUSED_RUN, change_run},
    {REFUSED_UNKNOWN_SITE, change_site},   {REFUSED_MALFORMED, change_fragment},
    {REFUSED_SIGNATURE, change_key_id},    {REFUSED_MALFORMED, change_sequence},
    {REFUSED_BASE, change_base},           {REFUSED_BASE, change_root},
    {REFUSED_MALFORMED, change_steps},     {REFUSED_MALFORMED, change_reserved},
    {REFUSED_MALFORMED, change_began},     {REFUSED_MALFORMED, change_tokens},
    {REFUSED_NONFINITE, change_loss},      {REFUSED_MALFORMED, change_share},
    {REFUSED_NONFINITE, change_share_nan}, {REFUSED_NONFINITE, change_norm},
    {REFUSED_MALFORMED, change_norm_sign}, {REFUSED_LAYOUT, change_layout},
    {REFUSED_SIZE, change_size},           {REFUSED_SIZE, change_size_zero},
    {REFUSED_SIZE, change_size_huge},      {REFUSED_SEQUENCE, change_previous},
    {REFUSED_EXPIRED, change_time},        {REFUSED_EXPIRED, change_time_ahead},
    {REFUSED_RUN, change_manifest}};

TEST(every_wrong_field_of_a_header_is_refused_with_its_code_before_a_byte_comes) {
    struct shell *s = shell_open(PLAIN, 2);
    char *before = fixture_describe(shell_run(s), &s->f->manifest);
    for (size_t i = 0; i < COUNT_OF(changes); i++) {
        struct contribution c = fixture_contribution(s->f, 1, 0, 0, s->payload);
        c.signed_at_ms = s->now.wall_ms;
        changes[i].make(&c, s);
        struct ledger_entry header = fixture_signed(s->f, &c, s->f->keys[1]);
        uint64_t counted = coordinator_state_refused(s->state, changes[i].code);
        uint64_t call = shell_submit(s, 1, &header);
        EXPECT_REFUSAL(s, call, changes[i].code);
        CHECK_EQUAL(s->out.count, 1);
        CHECK_EQUAL(coordinator_state_refused(s->state, changes[i].code), counted + 1);
    }
    CHECK_EQUAL(coordinator_state_uploads(s->state), 0);
    char *after = fixture_describe(shell_run(s), &s->f->manifest);
    CHECK_TEXT(after, before);
    free(before), free(after);
    shell_contribute(s, 1, 0);
    shell_close(s);
}

TEST(headers_of_strangers_and_with_wrong_signatures_are_refused) {
    struct shell *s = shell_open(PLAIN, 2);
    struct ledger_entry header = shell_header(s, 1, 0);
    EXPECT_REFUSAL(s, shell_submit(s, 0, &header), REFUSED_UNKNOWN_SITE);
    EXPECT_REFUSAL(s, shell_submit(s, 3, &header), REFUSED_UNKNOWN_SITE);
    EXPECT_REFUSAL(s, shell_submit(s, UINT32_MAX, &header), REFUSED_UNKNOWN_SITE);
    /* site 1's header under site 2's certificate */
    EXPECT_REFUSAL(s, shell_submit(s, 2, &header), REFUSED_SIGNATURE);
    for (size_t at = 0; at < SIGNATURE_SIZE; at += 7) {
        struct ledger_entry broken = header;
        broken.contribution.signature[at] ^= 0x10;
        EXPECT_REFUSAL(s, shell_submit(s, 1, &broken), REFUSED_SIGNATURE);
    }
    for (size_t at = 0; at < CONTRIBUTION_HEADER_SIZE;
         at++) { /* no bit of the header is outside the signature */
        struct ledger_entry broken = header;
        broken.contribution.header[at] ^= 1;
        EXPECT_REFUSAL(s, shell_submit(s, 1, &broken), REFUSED_SIGNATURE);
    }
    /* a forger does not make a site look alive */
    CHECK(!coordinator_state_connected(s->state, 1, s->now));
    shell_close(s);
}

TEST(what_the_workers_refuse_is_told_and_costs_the_site_nothing_but_that) {
    static const enum refusal codes[] = {REFUSED_SIZE,      REFUSED_DIGEST,    REFUSED_BUSY,
                                         REFUSED_MALFORMED, REFUSED_NONFINITE, REFUSED_NORM};
    struct shell *s = shell_open(PLAIN, 2);
    for (size_t i = 0; i < COUNT_OF(codes); i++) {
        struct ledger_entry header = shell_header(s, 1, 0);
        uint64_t call = shell_submit(s, 1, &header);
        struct coordinator_event event = {.kind = COORDINATOR_UPLOADED, .call = call};
        event.uploaded.code = codes[i];
        event.uploaded.message = "a story";
        shell_step(s, &event);
        EXPECT_REFUSAL(s, call, codes[i]);
        CHECK_TEXT(shell_find(s, DO_REFUSE)->message, "a story");
        call = shell_submit(s, 1, &header);
        shell_uploaded(s, call, ACCEPTED);
        shell_checked(s, call, codes[i]);
        EXPECT_REFUSAL(s, call, codes[i]);
        CHECK_EQUAL(coordinator_state_uploads(s->state), 0);
    }
    shell_contribute(s, 1, 0);
    shell_close(s);
}

TEST(what_moved_while_the_payload_came_is_asked_again) {
    struct shell *s = shell_open(ALONE, 3);
    struct ledger_entry slow = shell_header(s, 1, 0);
    uint64_t call = shell_submit(s, 1, &slow);
    for (int i = 0; i < 3; i++) { /* the cap is 2 */
        shell_contribute(s, 2, 0);
        shell_settle(s);
    }
    CHECK_EQUAL(run_state_version(shell_run(s)), 3);
    shell_uploaded(s, call, ACCEPTED);
    shell_checked(s, call, ACCEPTED);
    EXPECT_REFUSAL(s, call, REFUSED_REBASE);
    CHECK_EQUAL(shell_find(s, DO_REFUSE)->current_version, 3);

    struct ledger_entry paused = shell_header(s, 3, 0);
    call = shell_submit(s, 3, &paused);
    shell_admin(s, ORDER_PAUSE, "");
    shell_uploaded(s, call, ACCEPTED);
    shell_checked(s, call, ACCEPTED);
    EXPECT_REFUSAL(s, call, REFUSED_PAUSED);
    EXPECT_REFUSAL(s, shell_submit(s, 3, &paused), REFUSED_PAUSED);
    shell_admin(s, ORDER_RESUME, "");
    call = shell_submit(s, 3, &paused); /* the same bytes, later */
    CHECK(shell_find(s, DO_ADMIT));
    s->now.wall_ms += 86400001; /* and now it has expired */
    shell_uploaded(s, call, ACCEPTED);
    shell_checked(s, call, ACCEPTED);
    EXPECT_REFUSAL(s, call, REFUSED_EXPIRED);
    shell_settle(s);
    shell_close(s);
}

TEST(uploads_are_bounded_and_more_are_told_to_come_back) {
    struct shell *s = shell_open(PLAIN, 20);
    for (uint32_t site = 1; site <= 20; site++) {
        struct ledger_entry header = shell_header(s, site, 0);
        uint64_t call = shell_submit(s, site, &header);
        if (site <= 8)
            CHECK(shell_find(s, DO_ADMIT));
        else
            EXPECT_REFUSAL(s, call, REFUSED_BUSY);
    }
    CHECK_EQUAL(coordinator_state_uploads(s->state), 8);
    shell_plain(s, COORDINATOR_CALL_GONE, 3);
    struct ledger_entry header = shell_header(s, 20, 0);
    shell_submit(s, 20, &header);
    CHECK(shell_find(s, DO_ADMIT));
    shell_close(s);
}

TEST(a_disk_that_stands_still_does_not_make_the_commits_grow_without_bound) {
    struct shell *s = shell_open("merge: {quorum: 24, grace: forever, warmup_steps: 0}\n", 24);
    uint32_t admitted = 0;
    for (uint32_t site = 1; site <= 24; site++) {
        struct ledger_entry header = shell_header(s, site, 0);
        uint64_t call = shell_submit(s, site, &header);
        if (!shell_find(s, DO_ADMIT)) {
            EXPECT_REFUSAL(s, call, REFUSED_BUSY);
            continue;
        }
        admitted++;
        shell_uploaded(s, call, ACCEPTED);
        shell_checked(s, call, ACCEPTED);
    }
    CHECK_EQUAL(admitted, 8);
    CHECK_EQUAL(s->commit_count, 8);
    shell_settle(s);
    shell_contribute(s, 24, 0);
    shell_close(s);
}

TEST(one_site_cannot_take_all_the_places_there_are) {
    struct shell *s =
        shell_open("fragments: 16\nmerge: {quorum: 2, grace: forever, warmup_steps: 0}\n", 2);
    uint32_t admitted = 0;
    for (uint32_t fragment = 0; fragment < 16; fragment++) {
        struct ledger_entry header = shell_header(s, 1, fragment);
        shell_submit(s, 1, &header);
        admitted += shell_find(s, DO_ADMIT) != NULL;
    }
    CHECK(admitted >= 1 && admitted < 8);
    struct ledger_entry header = shell_header(s, 2, 0);
    shell_submit(s, 2, &header);
    CHECK(shell_find(s, DO_ADMIT));
    shell_close(s);
}

TEST(four_hoarding_sites_make_room_for_a_fifth_and_get_none_back) {
    struct shell *s =
        shell_open("fragments: 16\nmerge: {quorum: 5, grace: forever, warmup_steps: 0}\n", 5);
    uint64_t first = 0;
    for (uint32_t i = 0; i < 8; i++) {
        struct ledger_entry header = shell_header(s, 1 + i / 2, i % 2);
        uint64_t call = shell_submit(s, 1 + i / 2, &header);
        CHECK(shell_find(s, DO_ADMIT));
        if (i == 0) first = call;
    }
    struct ledger_entry honest = shell_header(s, 5, 0);
    uint64_t call = shell_submit(s, 5, &honest);
    CHECK(shell_find(s, DO_ADMIT));
    EXPECT_REFUSAL(s, first, REFUSED_BUSY);
    CHECK_EQUAL(coordinator_state_uploads(s->state), 8);
    for (uint32_t site = 1; site <= 4; site++) { /* again, with the same or another one */
        struct ledger_entry header = shell_header(s, site, 2);
        EXPECT_REFUSAL(s, shell_submit(s, site, &header), REFUSED_BUSY);
    }
    shell_uploaded(s, first, ACCEPTED); /* its transfer was over just then */
    CHECK(!shell_find(s, DO_CHECK));
    shell_uploaded(s, call, ACCEPTED);
    CHECK(shell_find(s, DO_CHECK));
    shell_checked(s, call, ACCEPTED);
    shell_settle(s);
    CHECK_EQUAL(run_state_pending_count(shell_run(s), 0), 1);
    shell_close(s);
}

/* ---- all of it at once ----------------------------------------------------------------------- */

enum { WALK_STEPS = 1500, WALK_CALLS = WALK_STEPS + 2 };

struct walk {
    struct shell *s;
    struct random random;
    struct ledger_entry headers[FIXTURE_SITES + 1][2]; /* the last sent by a site and fragment */
    bool sent[FIXTURE_SITES + 1][2];
    uint64_t admitted[FIXTURE_SITES + 1][2]; /* the call that was last given credit */
    struct ledger_entry *of_call;            /* [WALK_CALLS] what each call sent */
    uint64_t receipts, refused;
};

/* Only what is durable may be told, and told truly. */
static void walk_check(struct walk *w) {
    struct shell *s = w->s;
    for (size_t i = 0; i < s->out.count; i++) {
        const struct coordinator_action *action = &s->out.items[i];
        if (action->kind == DO_STOP)
            test_failed(__FILE__, __LINE__, "it stopped: %s", action->message);
        if (action->kind == DO_PUBLISH) CHECK(action->size <= run_state_size(s->durable));
        w->refused += action->kind == DO_REFUSE;
        if (action->kind != DO_RECEIPT) continue;
        w->receipts++;
        CHECK(action->call < WALK_CALLS);
        const struct ledger_entry *header = &w->of_call[action->call];
        struct receipt read;
        struct contribution c;
        uint64_t index;
        shell_check_receipt(s, &action->bytes, header, &read);
        CHECK(contribution_decode(bytes_of(header->contribution.header, CONTRIBUTION_HEADER_SIZE),
                                  &c, NULL) == OK);
        CHECK(read.index < run_state_size(s->durable));
        CHECK(run_state_find(s->durable, c.site, c.sequence, &index) && index == read.index);
    }
    CHECK(coordinator_state_uploads(s->state) <= s->options.uploads_limit);
    CHECK_EQUAL(coordinator_state_committed(s->state), run_state_size(s->durable));
}

static void walk_submit(struct walk *w, uint32_t site, uint32_t fragment) {
    w->of_call[w->s->last_call + 1] = w->headers[site][fragment];
    uint64_t call = shell_submit(w->s, site, &w->headers[site][fragment]);
    if (shell_find(w->s, DO_ADMIT)) w->admitted[site][fragment] = call;
}

static void walk_once(struct walk *w) {
    struct shell *s = w->s;
    uint32_t site = 1 + (uint32_t)random_below(&w->random, 6),
             fragment = (uint32_t)random_below(&w->random, 2);
    uint64_t call = w->admitted[site][fragment];
    struct coordinator_event event;
    switch (random_below(&w->random, 16)) {
    case 0:
    case 1:
    case 2:
        if (run_state_site_count(shell_run(s)) < site) break;
        w->headers[site][fragment] = shell_header(s, site, fragment);
        w->sent[site][fragment] = true;
        walk_submit(w, site, fragment);
        break;
    case 3:
        if (w->sent[site][fragment]) walk_submit(w, site, fragment);
        break;
    case 4:
    case 5: shell_uploaded(s, call, random_below(&w->random, 8) ? ACCEPTED : REFUSED_DIGEST); break;
    case 6:
    case 7: shell_checked(s, call, random_below(&w->random, 8) ? ACCEPTED : REFUSED_NORM); break;
    case 8: shell_plain(s, COORDINATOR_CALL_GONE, call); break;
    case 9:
    case 10:
        if (s->commit_count > 0) shell_durable(s);
        break;
    case 11:
        if (s->applying) shell_applied(s);
        break;
    case 12: shell_wait(s, random_below(&w->random, 8000)); break;
    case 13: shell_following(s, site, random_below(&w->random, 2)); break;
    case 14: shell_heartbeat(s, site); break;
    default: {
        char name[SITE_NAME_SIZE];
        snprintf(name, sizeof name, "site-%u", site);
        enum admin_order order = (enum admin_order)(1 + random_below(&w->random, ORDER_RULE));
        if (order == ORDER_STOP || (order == ORDER_REVOKE && random_below(&w->random, 40)))
            order = ORDER_RESUME;
        event = shell_order(s, order, name);
        snprintf(event.admin.key, RULE_KEY_SIZE, "inner.inner_steps");
        snprintf(event.admin.value, RULE_VALUE_SIZE, "%u",
                 (unsigned)random_below(&w->random, 3) * 700000);
        shell_step(s, &event);
        break;
    }
    }
    walk_check(w);
}

TEST(any_order_of_events_keeps_the_ledger_legal_and_the_receipts_true) {
    uint64_t receipts = 0, refused = 0, versions = 0;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct walk *w = xcalloc(1, sizeof *w);
        w->s = shell_open("fragments: 2\nmerge: {quorum: 3, grace: 5s, warmup_steps: 2, "
                          "warmup_grace: 20s, staleness_cap: 3}\n"
                          "snapshot_interval: 3\n",
                          6);
        random_init(&w->random, seed);
        w->of_call = xcalloc(WALK_CALLS, sizeof *w->of_call);
        for (int i = 0; i < WALK_STEPS; i++) walk_once(w);
        shell_settle(w->s);
        char *ahead = fixture_describe(shell_run(w->s), &w->s->f->manifest);
        char *durable = fixture_describe(w->s->durable, &w->s->f->manifest);
        CHECK_TEXT(durable, ahead);
        free(ahead), free(durable);
        receipts += w->receipts, refused += w->refused,
            versions += run_state_version(w->s->durable);
        shell_close(w->s);
        free(w->of_call);
        free(w);
    }
    CHECK(receipts > 100 && refused > 100 && versions > 50); /* the walk goes somewhere */
}
