/* Frames of a fake coordinator through the real thread, wire and journal. */
#include "node/downlink.h"

#include "tests/node_fake_coordinator.h"

struct node { /* what stands around the downlink in these tests */
    struct site site;
    struct fake *fake;
    struct journal *journal;
    struct downlink *downlink;
    struct told told;
    struct traffic traffic;
    atomic_uint_fast64_t backlog;
    atomic_size_t loads;
    struct snapshot_header loaded;
    bool refuse_genesis;
};

static void tell(void *context, const struct node_event *event) {
    told_event(&((struct node *)context)->told, event);
}
static uint64_t backlog(void *context) { return atomic_load(&((struct node *)context)->backlog); }

static void heartbeat(void *context, struct buffer *out) {
    (void)context;
    struct heartbeat_request request = {.protocol = 1, .device = "", .software = ""};
    struct error error = {0};
    CHECK_OK(heartbeat_request_encode(&request, out, &error));
}

static enum status check_genesis(void *context, const struct ledger_entry *entry,
                                 struct error *error) {
    (void)entry;
    return ((struct node *)context)->refuse_genesis ? error_set(error, INVALID, "of another run")
                                                    : OK;
}

static void load(void *context, const struct snapshot_header *header) {
    struct node *node = context;
    node->loaded = *header;
    atomic_fetch_add(&node->loads, 1);
}

static struct node *begin(void) {
    struct node *node = xcalloc(1, sizeof *node);
    struct error error = {0};
    pthread_mutex_init(&node->told.lock, NULL);
    node->fake = fake_start();
    memcpy(node->site.coordinator_key, key_pair_public(node->fake->server_key), PUBLIC_KEY_SIZE);
    CHECK_OK(journal_open(test_directory(), 1, &node->journal, &error));
    struct downlink_options options = {.site = &node->site,
                                       .journal = node->journal,
                                       .traffic = &node->traffic,
                                       .channel = node->fake->channel,
                                       .timeout_ms = 10000,
                                       .payload_limit = 100000,
                                       .nominal_payload = 1000,
                                       .snapshot_size = 5000,
                                       .backlog_limit = 10,
                                       .backlog = backlog,
                                       .heartbeat = heartbeat,
                                       .check_genesis = check_genesis,
                                       .load = load,
                                       .tell = tell,
                                       .context = node};
    CHECK_OK(downlink_start(&options, &node->downlink, &error));
    return node;
}

static void end(struct node *node) {
    downlink_destroy(node->downlink);
    fake_stop(node->fake);
    journal_close(node->journal);
    told_deinit(&node->told);
    free(node);
}

/* ---- what the ledger of these tests is made of ----------------------------------------------- */

static void entry_paused(struct buffer *out, const char *reason) {
    struct ledger_entry entry = {.kind = LEDGER_PAUSED, .epoch = 1, .time_ms = 5};
    snprintf(entry.note.reason, sizeof entry.note.reason, "%s", reason);
    ledger_entry_encode(&entry, out);
}

static void payload_of(struct buffer *out, size_t size) {
    for (size_t i = 0; i < size; i++) buffer_u8(out, (uint8_t)(i * 13 + size));
}

static void contribution_of(struct ledger_entry *out, uint64_t sequence, size_t payload_size) {
    struct buffer payload = {0};
    payload_of(&payload, payload_size);
    struct contribution contribution = {
        .protocol = 1, .site = 2, .sequence = sequence, .payload_size = payload_size};
    digest_sha256(payload.data, payload.size, contribution.payload_digest);
    *out = (struct ledger_entry){.kind = LEDGER_CONTRIBUTION, .epoch = 3, .time_ms = 77};
    contribution_encode(&contribution, out->contribution.header);
    buffer_deinit(&payload);
}

static void entry_contribution(struct buffer *out, uint64_t sequence, size_t payload_size) {
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    contribution_of(entry, sequence, payload_size);
    ledger_entry_encode(entry, out);
    free(entry);
}

/* Adds a frame to the script of call `call`, after it `payload`. */
static void script(struct node *node, size_t call, const struct follow_frame *frame) {
    struct fake *fake = node->fake;
    struct buffer *raw = &fake->frames[call][fake->frame_count[call]++];
    struct error error = {0};
    CHECK_OK(follow_frame_encode(frame, raw, &error));
    buffer_append(raw, frame->payload.data, frame->payload.size);
}

static void script_entry(struct node *node, size_t call, uint64_t index, struct buffer *raw) {
    struct bytes entry = buffer_bytes(raw);
    script(node, call,
           &(struct follow_frame){
               .has_first_index = true, .first_index = index, .entry_count = 1, .entries = &entry});
    buffer_deinit(raw);
}

static void script_paused(struct node *node, size_t call, uint64_t index, const char *reason) {
    struct buffer raw = {0};
    entry_paused(&raw, reason);
    script_entry(node, call, index, &raw);
}

static void script_piece(struct node *node, size_t call, uint64_t index, struct bytes payload,
                         uint64_t offset, size_t size) {
    script(node, call,
           &(struct follow_frame){.payload_total = payload.size,
                                  .payload_index = index,
                                  .payload_offset = offset,
                                  .payload = bytes_of(payload.data + offset, size)});
}

static void check_entry(struct node *node, size_t at, const char *reason) {
    CHECK_EQUAL(told_wait(&node->told, at)->kind, NODE_ENTRY);
    struct buffer raw = {0};
    entry_paused(&raw, reason);
    CHECK_EQUAL(node->told.bytes[at].size, raw.size);
    CHECK_MEMORY(node->told.bytes[at].data, raw.data, raw.size);
    buffer_deinit(&raw);
}

/* ---- following ------------------------------------------------------------------------------- */

TEST(entries_are_durable_before_they_are_told_and_come_in_order) {
    struct node *node = begin();
    script_paused(node, 0, 0, "one");
    script_paused(node, 0, 1, "two");
    downlink_connect(node->downlink, false, 0, 0, 0);
    CHECK_EQUAL(told_wait(&node->told, 0)->kind, NODE_LINK_UP);
    check_entry(node, 1, "one");
    CHECK(journal_size(node->journal) >= 1);
    check_entry(node, 2, "two");
    CHECK_EQUAL(journal_size(node->journal), 2);
    CHECK_EQUAL(atomic_load(&node->fake->heartbeats), 1);
    CHECK_EQUAL(fake_follow(node->fake, 0)->from_index, 0);
    CHECK(fake_follow(node->fake, 0)->omit_own);
    end(node);
}

TEST(a_contribution_waits_for_its_payload_and_entries_behind_it_wait_too) {
    struct node *node = begin();
    struct buffer raw = {0}, payload = {0};
    payload_of(&payload, 5000);
    entry_contribution(&raw, 1, 5000);
    script_entry(node, 0, 0, &raw);
    script_paused(node, 0, 1, "behind");
    script_piece(node, 0, 0, buffer_bytes(&payload), 0, 2000);
    script_piece(node, 0, 0, buffer_bytes(&payload), 2000, 3000);
    downlink_connect(node->downlink, false, 0, 0, 0);
    CHECK_EQUAL(told_wait(&node->told, 1)->kind, NODE_ENTRY);
    uint8_t digest[DIGEST_SIZE];
    digest_sha256(payload.data, payload.size, digest);
    CHECK(blob_exists(journal_payloads(node->journal), digest));
    check_entry(node, 2, "behind");
    buffer_deinit(&payload);
    end(node);
}

TEST(a_payload_may_come_before_its_entry) {
    struct node *node = begin();
    struct buffer raw = {0}, payload = {0};
    payload_of(&payload, 900);
    entry_contribution(&raw, 1, 900);
    script_piece(node, 0, 0, buffer_bytes(&payload), 0, 900);
    script_entry(node, 0, 0, &raw);
    downlink_connect(node->downlink, false, 0, 0, 0);
    CHECK_EQUAL(told_wait(&node->told, 1)->kind, NODE_ENTRY);
    CHECK_EQUAL(journal_size(node->journal), 1);
    buffer_deinit(&payload);
    end(node);
}

TEST(payloads_that_a_snapshot_covers_are_not_waited_for) {
    struct node *node = begin();
    struct buffer raw = {0};
    entry_contribution(&raw, 1, 900);
    script_entry(node, 0, 0, &raw);
    downlink_connect(node->downlink, false, 0, 1, 0);
    CHECK_EQUAL(told_wait(&node->told, 1)->kind, NODE_ENTRY);
    CHECK_EQUAL(fake_follow(node->fake, 0)->payloads_from_index, 1);
    end(node);
}

static void spool(struct node *node, uint64_t sequence, size_t payload_size) {
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    struct buffer payload = {0};
    struct error error = {0};
    contribution_of(entry, sequence, payload_size);
    payload_of(&payload, payload_size);
    struct journal_round round = {.sequence = sequence, .payload_size = payload_size};
    digest_sha256(payload.data, payload.size, round.payload_digest);
    memcpy(round.header, entry->contribution.header, sizeof round.header);
    struct journal_round_contents contents = {.payload = buffer_bytes(&payload)};
    CHECK_OK(journal_round_begin(node->journal, &round, &contents, &error));
    buffer_deinit(&payload);
    free(entry);
}

static void script_stub(struct node *node, size_t call, uint64_t index, uint64_t sequence) {
    struct follow_own own = {.place = 0, .sequence = sequence, .time_ms = 77, .epoch = 3};
    script(node, call,
           &(struct follow_frame){
               .has_first_index = true, .first_index = index, .own_count = 1, .own = &own});
}

TEST(a_stub_of_our_own_becomes_the_entry_it_stands_for) {
    struct node *node = begin();
    spool(node, 4, 700);
    script_stub(node, 0, 0, 4);
    downlink_connect(node->downlink, false, 0, 0, 0);
    CHECK_EQUAL(told_wait(&node->told, 1)->kind, NODE_ENTRY);
    struct buffer raw = {0};
    entry_contribution(&raw, 4, 700);
    CHECK_EQUAL(node->told.bytes[1].size, raw.size);
    CHECK_MEMORY(node->told.bytes[1].data, raw.data, raw.size);
    buffer_deinit(&raw);
    end(node);
}

TEST(a_stub_that_we_cannot_expand_is_asked_for_in_full) {
    struct node *node = begin();
    struct buffer raw = {0}, payload = {0};
    payload_of(&payload, 700);
    script_stub(node, 0, 0, 4);
    entry_contribution(&raw, 4, 700);
    script_entry(node, 1, 0, &raw);
    script_piece(node, 1, 0, buffer_bytes(&payload), 0, 700);
    downlink_connect(node->downlink, false, 0, 0, 0);
    CHECK_EQUAL(told_wait(&node->told, 0)->kind, NODE_LINK_UP);
    /* and no link that went down between */
    CHECK_EQUAL(told_wait(&node->told, 1)->kind, NODE_ENTRY);
    CHECK(fake_follow(node->fake, 0)->omit_own);
    CHECK(!fake_follow(node->fake, 1)->omit_own);
    buffer_deinit(&payload);
    end(node);
}

/* As a site has it that was restored from an old backup: its number 4 is not the ledger's. */
TEST(a_stub_of_another_header_than_ours_is_asked_for_in_full) {
    struct node *node = begin();
    struct buffer raw = {0}, payload = {0}, wanted = {0};
    payload_of(&payload, 900);
    spool(node, 4, 700);
    struct follow_own own = {
        .place = 0, .sequence = 4, .time_ms = 77, .epoch = 3, .header = 0xdeadbeef};
    script(node, 0, &(struct follow_frame){.has_first_index = true, .own_count = 1, .own = &own});
    entry_contribution(&raw, 4, 900);
    buffer_append(&wanted, raw.data, raw.size);
    script_entry(node, 1, 0, &raw);
    script_piece(node, 1, 0, buffer_bytes(&payload), 0, 900);
    downlink_connect(node->downlink, false, 0, 0, 0);
    CHECK_EQUAL(told_wait(&node->told, 1)->kind, NODE_ENTRY);
    CHECK_EQUAL(node->told.bytes[1].size, wanted.size);
    CHECK_MEMORY(node->told.bytes[1].data, wanted.data, wanted.size); /* the ledger's */
    CHECK(!fake_follow(node->fake, 1)->omit_own);
    buffer_deinit(&payload);
    buffer_deinit(&wanted);
    buffer_deinit(&raw);
    end(node);
}

static void check_link_breaks(struct node *node, uint64_t entries) {
    downlink_connect(node->downlink, false, 0, 0, 0);
    CHECK_EQUAL(told_wait(&node->told, 0)->kind, NODE_LINK_UP);
    CHECK_EQUAL(told_wait(&node->told, 1)->kind, NODE_LINK_DOWN);
    CHECK_EQUAL(journal_size(node->journal), entries);
    end(node);
}

TEST(a_payload_with_other_bytes_breaks_the_link_and_is_not_kept) {
    struct node *node = begin();
    struct buffer raw = {0}, payload = {0};
    payload_of(&payload, 700);
    payload.data[99] ^= 1;
    entry_contribution(&raw, 4, 700);
    script_entry(node, 0, 0, &raw);
    script_piece(node, 0, 0, buffer_bytes(&payload), 0, 700);
    buffer_deinit(&payload);
    check_link_breaks(node, 0);
}

TEST(a_payload_of_another_size_breaks_the_link) {
    struct node *node = begin();
    struct buffer raw = {0}, payload = {0};
    payload_of(&payload, 701);
    entry_contribution(&raw, 4, 700);
    script_entry(node, 0, 0, &raw);
    script_piece(node, 0, 0, buffer_bytes(&payload), 0, 701);
    buffer_deinit(&payload);
    check_link_breaks(node, 0);
}

TEST(a_payload_beyond_the_codecs_bound_breaks_the_link_before_it_is_stored) {
    struct node *node = begin();
    struct buffer payload = {0};
    payload_of(&payload, 200000);
    script_piece(node, 0, 0, buffer_bytes(&payload), 0, 1000);
    buffer_deinit(&payload);
    check_link_breaks(node, 0);
}

TEST(a_piece_out_of_order_breaks_the_link) {
    struct node *node = begin();
    struct buffer raw = {0}, payload = {0};
    payload_of(&payload, 700);
    entry_contribution(&raw, 4, 700);
    script_entry(node, 0, 0, &raw);
    script_piece(node, 0, 0, buffer_bytes(&payload), 100, 600);
    buffer_deinit(&payload);
    check_link_breaks(node, 0);
}

TEST(a_gap_between_entries_breaks_the_link) {
    struct node *node = begin();
    script_paused(node, 0, 1, "the first is missing");
    check_link_breaks(node, 0);
}

TEST(a_ledger_of_another_run_is_not_stored) {
    struct node *node = begin();
    node->refuse_genesis = true;
    script_paused(node, 0, 0, "genesis");
    check_link_breaks(node, 0);
}

TEST(after_a_break_it_goes_on_behind_what_is_durable) {
    struct node *node = begin();
    struct buffer raw = {0}, payload = {0};
    payload_of(&payload, 700);
    script_paused(node, 0, 0, "one");
    entry_contribution(&raw, 1, 700);
    script_entry(node, 0, 1, &raw);
    /* half a payload, then the link breaks */
    script_piece(node, 0, 1, buffer_bytes(&payload), 0, 300);
    node->fake->ends[0] = true;
    entry_contribution(&raw, 1, 700);
    script_entry(node, 1, 1, &raw);
    script_piece(node, 1, 1, buffer_bytes(&payload), 0, 700);
    downlink_connect(node->downlink, false, 0, 0, 0);
    CHECK_EQUAL(told_wait(&node->told, 2)->kind, NODE_LINK_DOWN);
    CHECK_EQUAL(journal_size(node->journal), 1);
    downlink_connect(node->downlink, false, 1, 0, 0);
    CHECK_EQUAL(told_wait(&node->told, 3)->kind, NODE_LINK_UP);
    CHECK_EQUAL(told_wait(&node->told, 4)->kind, NODE_ENTRY);
    CHECK_EQUAL(fake_follow(node->fake, 1)->from_index, 1);
    CHECK_EQUAL(journal_size(node->journal), 2);
    buffer_deinit(&payload);
    end(node);
}

TEST(heads_are_passed_on_behind_the_entries_they_came_with) {
    struct node *node = begin();
    struct buffer raw = {0};
    entry_paused(&raw, "one");
    struct bytes entry = buffer_bytes(&raw);
    script(node, 0,
           &(struct follow_frame){.has_first_index = true,
                                  .entry_count = 1,
                                  .entries = &entry,
                                  .head = bytes_of("a signed head", 13)});
    buffer_deinit(&raw);
    downlink_connect(node->downlink, false, 0, 0, 0);
    check_entry(node, 1, "one");
    CHECK_EQUAL(told_wait(&node->told, 2)->kind, NODE_HEAD);
    CHECK_MEMORY(node->told.bytes[2].data, "a signed head", 13);
    end(node);
}

TEST(a_core_that_is_behind_stops_the_reading) {
    struct node *node = begin();
    atomic_store(&node->backlog, 10);
    for (unsigned i = 0; i < SCRIPT_MAX; i++) script_paused(node, 0, i, "x");
    downlink_connect(node->downlink, false, 0, 0, 0);
    CHECK_EQUAL(told_wait(&node->told, 0)->kind, NODE_LINK_UP);
    clock_sleep_ms(300);
    CHECK_EQUAL(journal_size(node->journal), 0);
    atomic_store(&node->backlog, 0);
    WAIT_FOR(journal_size(node->journal) == SCRIPT_MAX);
    end(node);
}

/* ---- the run's snapshot ---------------------------------------------------------------------- */

enum { CONTENT = 5000 };

static struct snapshot_header header_of(const struct node *node, const struct buffer *content) {
    struct snapshot_header header = {.version = 30, .content_size = content->size};
    (void)node;
    digest_sha256(content->data, content->size, header.content_digest);
    return header;
}

static void script_snapshot(struct node *node, size_t call, const struct buffer *content,
                            size_t from, size_t to, bool descriptor) {
    struct fake *fake = node->fake;
    struct buffer *raw = &fake->frames[call][fake->frame_count[call]++];
    struct error error = {0};
    uint8_t signed_header[SNAPSHOT_HEADER_SIZE];
    struct snapshot_header header = header_of(node, content);
    snapshot_header_sign(&header, fake->server_key, signed_header);
    struct snapshot_frame frame = {.offset = from,
                                   .total = content->size,
                                   .payload = bytes_of(content->data + from, to - from)};
    if (descriptor) frame.descriptor = bytes_of(signed_header, sizeof signed_header);
    CHECK_OK(snapshot_frame_encode(&frame, raw, &error));
    buffer_append(raw, frame.payload.data, frame.payload.size);
}

TEST(where_replay_is_cheaper_no_offer_is_asked_for) {
    struct node *node = begin();
    node->fake->version = 5; /* 5 steps of 1000 bytes against 5000 */
    downlink_connect(node->downlink, true, 0, 0, 0);
    const struct node_event *event = told_wait(&node->told, 0);
    CHECK_EQUAL(event->kind, NODE_OFFER);
    CHECK(!event->offer.exists);
    CHECK_EQUAL(atomic_load(&node->fake->calls), 0);
    end(node);
}

TEST(an_offered_snapshot_is_fetched_over_a_break_and_handed_on) {
    struct node *node = begin();
    struct buffer content = {0};
    node->fake->version = 30;
    payload_of(&content, CONTENT);
    script_snapshot(node, 0, &content, 0, 0, true); /* the offer */
    script_snapshot(node, 1, &content, 0, 3000, true);
    node->fake->ends[1] = true;
    script_snapshot(node, 2, &content, 3000, CONTENT, true);
    downlink_connect(node->downlink, true, 0, 0, 0);
    const struct node_event *event = told_wait(&node->told, 0);
    CHECK_EQUAL(event->kind, NODE_OFFER);
    CHECK(event->offer.exists);
    CHECK_EQUAL(event->offer.header.version, 30);
    downlink_fetch(node->downlink);
    event = told_wait(&node->told, 1);
    CHECK_EQUAL(event->kind, NODE_SNAPSHOT_LOADED);
    CHECK(event->status != OK);
    CHECK_EQUAL(atomic_load(&node->loads), 0);
    downlink_fetch(node->downlink);
    WAIT_FOR(atomic_load(&node->loads) == 1);
    CHECK_EQUAL(fake_snapshot(node->fake, 1)->version, 30);
    CHECK_EQUAL(fake_snapshot(node->fake, 1)->offset, 0);
    CHECK_EQUAL(fake_snapshot(node->fake, 2)->offset, 3000);
    CHECK_EQUAL(node->loaded.version, 30);
    CHECK(blob_exists(journal_payloads(node->journal), node->loaded.content_digest));
    buffer_deinit(&content);
    end(node);
}

TEST(a_snapshot_signed_by_somebody_else_is_no_offer) {
    struct node *node = begin();
    struct buffer content = {0};
    node->fake->version = 30;
    payload_of(&content, CONTENT);
    script_snapshot(node, 0, &content, 0, 0, true);
    node->site.coordinator_key[0] ^= 1;
    downlink_connect(node->downlink, true, 0, 0, 0);
    CHECK_EQUAL(told_wait(&node->told, 0)->kind, NODE_LINK_DOWN);
    buffer_deinit(&content);
    end(node);
}

TEST(stopping_ends_a_follow_that_has_nothing_to_say) {
    struct node *node = begin();
    downlink_connect(node->downlink, false, 0, 0, 0);
    CHECK_EQUAL(told_wait(&node->told, 0)->kind, NODE_LINK_UP);
    downlink_stop(node->downlink); /* if it waits for the stream, the test's deadline ends it */
    CHECK_EQUAL(atomic_load(&node->told.count), 1); /* a link that we cut is not down */
    end(node);
}
