#include "proto/messages.h"
#include "tests/proto_samples.h"

static struct arena arena;

#define DECODE_SAMPLE(type_, name_)                                                                \
    struct error error = {0};                                                                      \
    struct type_ message;                                                                          \
    struct sample sample = sample_named(name_);                                                    \
    arena_create(&arena, ARENA_SIZE);                                                              \
    CHECK_OK(type_##_decode(sample_frame(&sample), &arena, &message, &error));

/* --- against another implementation ----------------------------------------------------------- */

TEST(every_message_of_another_implementation_is_written_again_byte_for_byte) {
    struct sample samples[SAMPLES_LIMIT];
    struct error error = {0};
    size_t count = samples_read(samples);
    arena_create(&arena, ARENA_SIZE);
    for (size_t i = 0; i < count; i++) {
        struct buffer again = {0};
        arena_reset(&arena);
        enum status status =
            samples[i].kind->pass(sample_frame(&samples[i]), &arena, &again, &error);
        if (status != OK) test_failed(__FILE__, __LINE__, "%s: %s", samples[i].name, error.message);
        struct frame frame;
        CHECK_OK(frame_split(buffer_bytes(&again), &frame, &error));
        if (!bytes_equal(frame.header, samples[i].header))
            test_failed(__FILE__, __LINE__, "%s differs", samples[i].name);
        buffer_deinit(&again);
    }
    arena_deinit(&arena);
}

struct seen {
    const ProtobufCMessageDescriptor *descriptor;
    bool fields[64];
};

static void mark_fields(struct seen *seen, size_t *count,
                        const ProtobufCMessageDescriptor *descriptor, struct bytes raw) {
    struct seen *mine = seen;
    while (mine < seen + *count && mine->descriptor != descriptor) mine++;
    if (mine == seen + *count) {
        CHECK(*count < 32);
        mine->descriptor = descriptor;
        (*count)++;
    }
    struct reader reader = reader_of(raw);
    while (reader_left(&reader)) {
        uint64_t numbers[2] = {0}; /* tag; value or size */
        for (unsigned n = 0; n < ((numbers[0] & 7) == 1 || (numbers[0] & 7) == 5 ? 1u : 2u); n++) {
            uint8_t byte;
            unsigned shift = 0;
            do {
                byte = reader_u8(&reader);
                numbers[n] |= (uint64_t)(byte & 0x7F) << shift;
                shift += 7;
            } while (byte & 0x80);
        }
        if ((numbers[0] & 7) == 1) reader_take(&reader, 8);
        if ((numbers[0] & 7) == 5) reader_take(&reader, 4);
        const ProtobufCFieldDescriptor *field =
            protobuf_c_message_descriptor_get_field(descriptor, (unsigned)(numbers[0] >> 3));
        CHECK(field);
        mine->fields[field - descriptor->fields] = true;
        if ((numbers[0] & 7) != 2) continue;
        struct bytes value = reader_take(&reader, numbers[1]);
        if (field->type == PROTOBUF_C_TYPE_MESSAGE)
            mark_fields(seen, count, field->descriptor, value);
    }
    CHECK(!reader.failed);
}

/* Together with the test above: no field is forgotten in encoding or decoding. */
TEST(every_field_of_the_schema_is_in_some_sample) {
    static struct seen seen[32];
    size_t seen_count = 0;
    struct sample samples[SAMPLES_LIMIT];
    size_t count = samples_read(samples);
    for (size_t i = 0; i < count; i++)
        mark_fields(seen, &seen_count, samples[i].kind->descriptor, samples[i].header);
    CHECK_EQUAL(seen_count, COUNT_OF(kinds) + 11); /* and the types within them */
    for (size_t i = 0; i < seen_count; i++)
        for (unsigned f = 0; f < seen[i].descriptor->n_fields; f++)
            if (!seen[i].fields[f])
                test_failed(__FILE__, __LINE__, "%s.%s", seen[i].descriptor->short_name,
                            seen[i].descriptor->fields[f].name);
}

TEST(a_join_request_arrives_whole) {
    DECODE_SAMPLE(join_request, "join_request");
    CHECK_EQUAL(message.protocol_min, 1);
    CHECK_EQUAL(message.protocol_max, 3);
    CHECK_TEXT(message.site_name, "eu-1");
    CHECK(is_pattern(message.invitation_secret, 1, 32));
    CHECK(is_pattern(message.csr_der, 2, 300));
    CHECK_TEXT(message.software, "atoll-node 0.1.0");
    CHECK(message.look);
    arena_deinit(&arena);
}

TEST(a_join_reply_arrives_whole) {
    DECODE_SAMPLE(join_reply, "join_reply");
    CHECK_EQUAL(message.code, JOIN_OK);
    CHECK_TEXT(message.message, "welcome");
    CHECK_EQUAL(message.protocol, 1);
    CHECK(is_pattern(bytes_of(message.run_id, 16), 3, 16));
    CHECK_EQUAL(message.site, 7);
    CHECK(is_pattern(message.certificate_pem, 4, 700));
    CHECK(is_pattern(message.ca_pem, 5, 600));
    CHECK(is_pattern(bytes_of(message.coordinator_key, 32), 6, 32));
    CHECK(is_pattern(message.manifest, 7, 2000));
    CHECK_EQUAL(message.server_time_ms, 1767225600123);
    CHECK_EQUAL(message.role, 1);
    arena_deinit(&arena);
}

TEST(a_join_that_is_refused_needs_no_certificate) {
    DECODE_SAMPLE(join_reply, "join_reply_no");
    CHECK_EQUAL(message.code, JOIN_USED);
    CHECK_CONTAINS(message.message, "another key");
    CHECK_EQUAL(message.certificate_pem.size, 0);
    CHECK_EQUAL(message.server_time_ms, 1767225600124);
    arena_deinit(&arena);
}

TEST(an_open_arrives_whole) {
    DECODE_SAMPLE(submit_frame, "submit_open");
    CHECK(message.open.supply);
    CHECK_EQUAL(message.kind, SUBMIT_OPEN);
    CHECK_EQUAL(message.open.protocol, 1);
    CHECK(is_pattern(bytes_of(message.open.header, sizeof message.open.header), 8, 272));
    CHECK(is_pattern(bytes_of(message.open.signature, sizeof message.open.signature), 9, 64));
    CHECK(message.open.waits);
    CHECK_EQUAL(message.open.instance, (1ULL << 63) + 38);
    arena_deinit(&arena);
}

TEST(a_chunk_arrives_with_its_payload_uncopied) {
    DECODE_SAMPLE(submit_frame, "submit_chunk");
    CHECK_EQUAL(message.kind, SUBMIT_CHUNK);
    CHECK_EQUAL(message.chunk.offset, 5000000000);
    CHECK(message.payload.data == sample.payload.data && message.payload.size == 1000);
    arena_deinit(&arena);
}

TEST(a_credit_arrives_whole) {
    DECODE_SAMPLE(submit_reply, "submit_credit");
    CHECK_EQUAL(message.kind, SUBMIT_CREDIT);
    CHECK_EQUAL(message.credit.resume_offset, 5000000001);
    CHECK_EQUAL(message.credit.chunk_limit, 65536);
    arena_deinit(&arena);
}

TEST(a_receipt_arrives_whole) {
    DECODE_SAMPLE(submit_reply, "submit_receipt");
    CHECK_EQUAL(message.kind, SUBMIT_RECEIPT);
    CHECK(is_pattern(message.receipt, 10, 400));
    arena_deinit(&arena);
}

TEST(a_refusal_arrives_whole) {
    DECODE_SAMPLE(submit_reply, "submit_refusal");
    CHECK_EQUAL(message.kind, SUBMIT_REFUSAL);
    CHECK_EQUAL(message.refusal.code, 5);
    CHECK_TEXT(message.refusal.message, "twice – already here");
    CHECK_EQUAL(message.refusal.retry_after_ms, 1500);
    CHECK_EQUAL(message.refusal.current_version, 42);
    CHECK(is_pattern(message.refusal.receipt, 11, 300));
    arena_deinit(&arena);
}

TEST(a_follow_request_arrives_whole) {
    DECODE_SAMPLE(follow_request, "follow_request");
    CHECK_EQUAL(message.protocol, 1);
    CHECK_EQUAL(message.from_index, 1000);
    CHECK_EQUAL(message.payloads_from_index, 900);
    CHECK(message.omit_own);
    CHECK_EQUAL(message.chunk_limit, 262144);
    CHECK_EQUAL(message.made_plus_1, 44);
    CHECK(message.restored);
    arena_deinit(&arena);
}

TEST(a_follow_frame_arrives_whole_and_its_places_are_walked_in_order) {
    DECODE_SAMPLE(follow_frame, "follow_frame");
    CHECK(message.dropped_count == 2 && message.dropped[0] == 1002 && message.dropped[1] == 1001);
    CHECK(message.has_first_index);
    CHECK_EQUAL(message.first_index, 1000);
    CHECK_EQUAL(message.entry_count, 3);
    CHECK_EQUAL(message.own_count, 2);
    CHECK(is_pattern(message.head, 15, 150));
    CHECK_EQUAL(message.payload_total, 0);
    struct follow_cursor cursor = {0};
    struct follow_item item;
    CHECK(follow_next(&message, &cursor, &item) && !item.own && is_pattern(item.entry, 12, 70) &&
          item.place == 0);
    CHECK(follow_next(&message, &cursor, &item) && item.own && item.place == 1);
    CHECK_EQUAL(item.own->sequence, 12);
    CHECK_EQUAL(item.own->time_ms, 1767225600125);
    CHECK_EQUAL(item.own->epoch, 2);
    CHECK(follow_next(&message, &cursor, &item) && !item.own && is_pattern(item.entry, 13, 349) &&
          item.place == 2);
    CHECK(follow_next(&message, &cursor, &item) && !item.own && is_pattern(item.entry, 14, 71) &&
          item.place == 3);
    CHECK(follow_next(&message, &cursor, &item) && item.own && item.own->sequence == 13 &&
          item.place == 4);
    CHECK(!follow_next(&message, &cursor, &item));
    CHECK(!follow_next(&message, &cursor, &item));
    arena_deinit(&arena);
}

TEST(a_piece_of_payload_arrives_with_its_place) {
    DECODE_SAMPLE(follow_frame, "follow_piece");
    CHECK(!message.has_first_index);
    CHECK_EQUAL(message.entry_count + message.own_count, 0);
    CHECK_EQUAL(message.payload_index, 1003);
    CHECK_EQUAL(message.payload_offset, 1048576);
    CHECK_EQUAL(message.payload_total, 1048676);
    CHECK_EQUAL(message.payload.size, 100);
    arena_deinit(&arena);
}

TEST(a_snapshot_request_arrives_whole) {
    DECODE_SAMPLE(snapshot_request, "snapshot_request");
    CHECK_EQUAL(message.protocol, 1);
    CHECK_EQUAL(message.version, 77);
    CHECK_EQUAL(message.offset, 123456789012);
    arena_deinit(&arena);
}

TEST(a_snapshot_frame_arrives_whole) {
    DECODE_SAMPLE(snapshot_frame, "snapshot_frame");
    CHECK(is_pattern(message.descriptor, 16, 333));
    CHECK_EQUAL(message.offset, 4194304);
    CHECK_EQUAL(message.total, 50000000);
    CHECK_EQUAL(message.payload.size, 1000);
    arena_deinit(&arena);
}

TEST(a_heartbeat_arrives_whole) {
    DECODE_SAMPLE(heartbeat_request, "heartbeat_request");
    CHECK_EQUAL(message.protocol, 1);
    CHECK_EQUAL(message.epoch, 2);
    CHECK_EQUAL(message.version, 33);
    CHECK_EQUAL(message.ledger_size, 444);
    CHECK_EQUAL(message.phase, 5);
    CHECK_EQUAL(message.inner_steps_done, 6666);
    CHECK_EQUAL(message.tokens, 7777777);
    CHECK_NEAR(message.tokens_per_second, 8888.5, 0);
    CHECK_NEAR(message.steps_per_second, 0.25, 0);
    CHECK_NEAR(message.loss, 2.5, 0);
    CHECK_EQUAL(message.staleness, 11);
    CHECK_EQUAL(message.bytes_up, 121212);
    CHECK_EQUAL(message.bytes_down, 131313);
    CHECK_EQUAL(message.compute_ms, 141414);
    for (unsigned cause = 0; cause < LOST_CAUSE_COUNT; cause++)
        CHECK_EQUAL(message.lost_ms[cause], 150 + cause);
    CHECK_EQUAL(message.rounds, 161);
    CHECK_EQUAL(message.refused, 17);
    CHECK_TEXT(message.device, "2x H100");
    CHECK_TEXT(message.software, "atoll-node 0.1.0");
    CHECK(is_pattern(bytes_of(message.last_root, 32), 20, 32));
    CHECK_EQUAL(message.time_ms, 1767225600131);
    CHECK(message.leaving);
    CHECK(message.heldout.any);
    CHECK_EQUAL(message.heldout.version, 55);
    CHECK_EQUAL(message.heldout.best_version, 54);
    CHECK_NEAR(message.heldout.loss, 2.25, 0);
    CHECK_NEAR(message.heldout.best_loss, 2.125, 0);
    arena_deinit(&arena);
}

TEST(a_heartbeat_reply_arrives_whole) {
    DECODE_SAMPLE(heartbeat_reply, "heartbeat_reply");
    CHECK_EQUAL(message.code, 6);
    CHECK_TEXT(message.message, "paused by the admin");
    CHECK_EQUAL(message.inner_steps, 50);
    CHECK_EQUAL(message.epoch, 2);
    CHECK_EQUAL(message.version, 34);
    CHECK_EQUAL(message.phase, 1);
    CHECK_EQUAL(message.server_time_ms, 1767225600127);
    CHECK_EQUAL(message.sites_present, 37);
    CHECK_EQUAL(message.turn, 42);
    CHECK_EQUAL(message.copies, 43);
    CHECK(message.has_left);
    CHECK(message.wanted_count == 2 && message.wanted[0] == 300 && message.wanted[1] == 5);
    arena_deinit(&arena);
}

TEST(an_admin_request_arrives_whole) {
    DECODE_SAMPLE(admin_request, "admin_request");
    CHECK_EQUAL(message.protocol, 1);
    CHECK_EQUAL(message.verb, ADMIN_REVOKE);
    CHECK_TEXT(message.site_name, "eu-1");
    CHECK_TEXT(message.reason, "key lost");
    CHECK_EQUAL(message.value, 99);
    CHECK_EQUAL(message.expires_ms, 1767225600128);
    CHECK_EQUAL(message.first_site, 3);
    CHECK_TEXT(message.key, "merge.quorum");
    CHECK_TEXT(message.rule_value, "7");
    CHECK_EQUAL(message.role, 1);
    arena_deinit(&arena);
}

TEST(an_admin_reply_arrives_whole) {
    DECODE_SAMPLE(admin_reply, "admin_reply");
    CHECK_EQUAL(message.code, ADMIN_CONFLICT);
    CHECK_TEXT(message.message, "already paused");
    CHECK(message.has_run);
    const struct run_status *run = &message.run;
    CHECK(is_pattern(bytes_of(run->run_id, 16), 21, 16));
    CHECK_TEXT(run->name, "demo");
    CHECK_EQUAL(run->phase, 1);
    CHECK_TEXT(run->reason, "lunch");
    CHECK_EQUAL(run->version, 35);
    CHECK_EQUAL(run->ledger_size, 445);
    CHECK_EQUAL(run->tokens, 8888888);
    CHECK_EQUAL(run->token_budget, 1000000000000);
    CHECK_EQUAL(run->epoch, 2);
    CHECK_EQUAL(run->inner_steps, 50);
    CHECK_EQUAL(run->parameters, 1330000);
    CHECK(is_pattern(bytes_of(run->root, 32), 22, 32));
    CHECK_EQUAL(run->root_version, 30);
    CHECK_EQUAL(run->accepted, 140);
    CHECK_EQUAL(run->refused[1], 9);
    CHECK_EQUAL(run->refused[7], 11);
    CHECK_EQUAL(run->refused[0], 0);
    CHECK_EQUAL(run->pending, 2);
    CHECK_EQUAL(run->sites_active, 4);
    CHECK_EQUAL(run->sites_connected, 3);
    CHECK_EQUAL(run->weights, 50);
    CHECK_EQUAL(run->sites_present, 52);
    CHECK(run->has_heldout && run->heldout_rises);
    CHECK_EQUAL(run->heldout_version, 53);
    CHECK_NEAR(run->heldout, 2.125, 0);
    CHECK_EQUAL(run->best_version, 54);
    CHECK_NEAR(run->best_heldout, 1.875, 0);
    CHECK_EQUAL(message.run.sites_twice, 46);
    CHECK(message.run.clock_ahead_ms == -47);
    CHECK_EQUAL(run->uptime_ms, 3600000);
    CHECK_TEXT(run->waits, "the disk is full");
    CHECK_EQUAL(run->bytes_in, 15151515);
    CHECK_EQUAL(run->bytes_out, 16161616);
    CHECK_EQUAL(message.next_site, 5);
    CHECK(is_pattern(message.invitation_secret, 23, 24));
    CHECK(is_pattern(message.head, 24, 160));
    CHECK_EQUAL(message.value, 36);
    CHECK(is_pattern(message.rules, 25, 40));
    CHECK_TEXT(message.address, "coordinator.example:7400");
    CHECK_EQUAL(message.invitation_count, 2);
    CHECK_TEXT(message.invitations[0].name, "eu-2");
    CHECK_EQUAL(message.invitations[0].made_ms, 1767225600132);
    CHECK_EQUAL(message.invitations[0].expires_ms, 1767225600133);
    CHECK_EQUAL(message.invitations[0].end, 3);
    CHECK_EQUAL(message.invitations[0].role, 1);
    CHECK_TEXT(message.invitations[1].name, "us-é");
    CHECK_EQUAL(message.invitations[1].made_ms, 48);
    CHECK_EQUAL(message.invitations[1].end, 0);
    arena_deinit(&arena);
}

TEST(the_sites_of_an_admin_reply_arrive_whole) {
    DECODE_SAMPLE(admin_reply, "admin_reply");
    CHECK_EQUAL(message.site_count, 2);
    const struct site_status *site = &message.sites[0];
    CHECK_EQUAL(site->site, 1);
    CHECK_TEXT(site->name, "eu-1");
    CHECK(site->revoked && site->connected);
    CHECK_EQUAL(site->presence, 2);
    CHECK_EQUAL(site->version, 34);
    CHECK_EQUAL(site->staleness, 1);
    CHECK_NEAR(site->loss, 2.25, 0);
    CHECK_EQUAL(site->tokens, 808);
    CHECK_NEAR(site->tokens_per_second, 9.5, 0);
    CHECK_EQUAL(site->contributions, 10);
    CHECK_EQUAL(site->refused, 11);
    CHECK_EQUAL(site->bytes_up, 12);
    CHECK_EQUAL(site->bytes_down, 13);
    CHECK_EQUAL(site->compute_ms, 14);
    CHECK_EQUAL(site->lost_ms[LOST_REBASE], 15);
    CHECK_EQUAL(site->lost_ms[LOST_DATA], 0);
    CHECK_EQUAL(site->last_seen_ms_ago, 16);
    CHECK_TEXT(site->device, "cpu");
    CHECK_TEXT(site->software, "atoll-node 0.1.0");
    CHECK_EQUAL(site->inner_steps, 19);
    CHECK_NEAR(site->norm, 46.5, 0);
    CHECK_NEAR(site->clip, 0.25, 0);
    CHECK_NEAR(site->scale, 0.125, 0);
    CHECK_NEAR(site->weight, 1.75, 0);
    CHECK_EQUAL(site->age, 54);
    CHECK_EQUAL(site->role, 1);
    CHECK(site->heldout.any);
    CHECK_EQUAL(site->heldout.version, 57);
    CHECK_EQUAL(site->heldout.best_version, 56);
    CHECK_NEAR(site->heldout.loss, 3.25, 0);
    CHECK_NEAR(site->heldout.best_loss, 3.125, 0);
    CHECK_EQUAL(site->tokens_uncounted, 49);
    CHECK_TEXT(message.sites[1].name, "us-é");
    CHECK(message.sites[1].last_seen_ms_ago == UINT64_MAX && !message.sites[1].connected &&
          !message.sites[1].revoked);
    CHECK_TEXT(message.sites[1].device, "");
    arena_deinit(&arena);
}

/* --- what sending sees to --------------------------------------------------------------------- */

/* Encodes, splits, decodes: for messages that are made here. */
#define THERE(type_, from_, to_)                                                                   \
    do {                                                                                           \
        struct buffer head_ = {0};                                                                 \
        struct frame frame_;                                                                       \
        CHECK_OK(type_##_encode((from_), &head_, &error));                                         \
        CHECK_OK(frame_split(buffer_bytes(&head_), &frame_, &error));                              \
        CHECK_OK(type_##_decode(frame_, &arena, (to_), &error));                                   \
        buffer_deinit(&head_);                                                                     \
    } while (0)

TEST(free_texts_are_cut_at_a_character_and_cleaned_when_they_leave) {
    struct error error = {0};
    arena_create(&arena, ARENA_SIZE);
    char text[600];
    memset(text, 'x', sizeof text);
    /* é across the limit */
    text[WIRE_MESSAGE_LIMIT - 1] = (char)0xC3, text[WIRE_MESSAGE_LIMIT] = (char)0xA9;
    text[599] = 0;
    struct heartbeat_reply reply = {.message = text}, got;
    THERE(heartbeat_reply, &reply, &got);
    CHECK_EQUAL(strlen(got.message), WIRE_MESSAGE_LIMIT - 1);
    reply.message = "a\nb\x1b[2J\xff\xC2\x9B é";
    THERE(heartbeat_reply, &reply, &got);
    CHECK_TEXT(got.message, "a?b?[2J??? é");
    reply.message = NULL;
    THERE(heartbeat_reply, &reply, &got);
    CHECK_TEXT(got.message, "");
    arena_deinit(&arena);
}

TEST(a_name_is_never_cut_but_refused_and_nothing_is_written) {
    struct error error = {0};
    struct buffer out = {0};
    buffer_u8(&out, 1);
    struct admin_request request = {
        .protocol = 1, .verb = ADMIN_INVITE, .site_name = "a name that is longer than 32 bytes"};
    CHECK_STATUS(admin_request_encode(&request, &out, &error), INVALID);
    CHECK_CONTAINS(error.message, "site_name");
    request.site_name = "eu\n1";
    CHECK_STATUS(admin_request_encode(&request, &out, &error), INVALID);
    CHECK_EQUAL(out.size, 1);
    buffer_deinit(&out);
}

TEST(what_a_receiver_would_refuse_is_not_sent) {
    struct error error = {0};
    struct buffer out = {0};
    uint8_t big[FRAME_HEADER_LIMIT] = {0};
    struct join_reply join = {.protocol = 1,
                              .site = 1,
                              .certificate_pem = {big, 10},
                              .ca_pem = {big, 10},
                              .manifest = {big, 65537}};
    CHECK_STATUS(join_reply_encode(&join, &out, &error), INVALID);
    CHECK_CONTAINS(error.message, "manifest");
    struct submit_reply refusal = {.kind = SUBMIT_REFUSAL};
    CHECK_STATUS(submit_reply_encode(&refusal, &out, &error), INVALID);
    struct submit_reply credit = {.kind = SUBMIT_CREDIT,
                                  .credit = {.chunk_limit = FRAME_PAYLOAD_LIMIT + 1}};
    CHECK_STATUS(submit_reply_encode(&credit, &out, &error), INVALID);
    struct submit_frame frame = {0};
    CHECK_STATUS(submit_frame_encode(&frame, &out, &error), INVALID);
    struct submit_reply reply = {0};
    CHECK_STATUS(submit_reply_encode(&reply, &out, &error), INVALID);
    struct heartbeat_request heartbeat = {.protocol = 1, .tokens_per_second = NAN};
    CHECK_STATUS(heartbeat_request_encode(&heartbeat, &out, &error), INVALID);
    struct admin_request admin = {.protocol = 1, .verb = ADMIN_VERB_COUNT};
    CHECK_STATUS(admin_request_encode(&admin, &out, &error), INVALID);
    struct follow_request follow = {.protocol = 0};
    CHECK_STATUS(follow_request_encode(&follow, &out, &error), INVALID);
    /* each within its limit, together not */
    struct bytes entries[] = {{big, 60000}, {big, 60000}, {big, 20000}};
    struct follow_frame entry_frame = {.entry_count = 3, .entries = entries};
    CHECK_STATUS(follow_frame_encode(&entry_frame, &out, &error), INVALID);
    CHECK_EQUAL(out.size, 0);
    buffer_deinit(&out);
}

/* Nothing is written, and the field is named. */
#define NOT_SENT(type_, message_, field_)                                                          \
    do {                                                                                           \
        struct error why_ = {0};                                                                   \
        struct buffer out_ = {0};                                                                  \
        CHECK_STATUS(type_##_encode(&(message_), &out_, &why_), INVALID);                          \
        CHECK_CONTAINS(why_.message, field_);                                                      \
        CHECK_EQUAL(out_.size, 0);                                                                 \
        buffer_deinit(&out_);                                                                      \
    } while (0)
/* The message with one field changed. */
#define NOT_SENT_WITH(type_, message_, change_, field_)                                            \
    do {                                                                                           \
        struct type_ bent = (message_);                                                            \
        change_;                                                                                   \
        NOT_SENT(type_, bent, field_);                                                             \
    } while (0)

static const char long_text[400] = {[0 ... 398] = 'x'};

TEST(an_admin_request_beyond_a_limit_is_not_sent) {
    struct error error = {0};
    struct buffer out = {0};
    struct admin_request request = {
        .protocol = 1, .verb = ADMIN_RULES, .key = "", .rule_value = ""};
    CHECK_OK(admin_request_encode(&request, &out, &error));
    NOT_SENT_WITH(admin_request, request, bent.key = long_text, "key");
    NOT_SENT_WITH(admin_request, request, bent.rule_value = long_text, "rule_value");
    NOT_SENT_WITH(admin_request, request, bent.role = 2, "role");
    buffer_deinit(&out);
}

TEST(an_admin_reply_beyond_a_limit_is_not_sent) {
    struct error error = {0};
    struct buffer out = {0};
    static uint8_t big[WIRE_MANIFEST_LIMIT + 1];
    struct site_status sites[2] = {{.site = 1, .name = "one"}, {.site = 2, .name = "two"}};
    struct invitation_status invitation = {.name = "three"};
    struct admin_reply reply = {.has_run = true,
                                .run = {.name = "run"},
                                .site_count = 2,
                                .sites = sites,
                                .invitation_count = 1,
                                .invitations = &invitation};
    CHECK_OK(admin_reply_encode(&reply, &out, &error));
    NOT_SENT_WITH(admin_reply, reply, bent.run.heldout = NAN, "held-out");
    NOT_SENT_WITH(admin_reply, reply, bent.run.best_heldout = INFINITY, "held-out");
    NOT_SENT_WITH(admin_reply, reply, bent.run.name = long_text, "run.name");
    NOT_SENT_WITH(admin_reply, reply, bent.site_count = WIRE_SITES_LIMIT + 1, "sites");
    NOT_SENT_WITH(admin_reply, reply, bent.invitation_count = WIRE_SITES_LIMIT + 1, "invitations");
    NOT_SENT_WITH(admin_reply, reply, bent.invitation_secret = bytes_of(big, 1), "secret");
    NOT_SENT_WITH(admin_reply, reply, bent.address = long_text, "address");
    NOT_SENT_WITH(admin_reply, reply, bent.rules = bytes_of(big, sizeof big), "rules");
    NOT_SENT_WITH(admin_reply, reply, bent.head = bytes_of(big, WIRE_HEAD_LIMIT + 1), "head");
    invitation.name = long_text;
    NOT_SENT(admin_reply, reply, "invitations.name");
    invitation.name = "";
    NOT_SENT(admin_reply, reply, "invitations.name");
    invitation.name = "three";
    sites[1].site = 1;
    NOT_SENT(admin_reply, reply, "sites.site");
    sites[1].site = 2;
    const struct site_status bent[] = {
        {.site = 2, .name = long_text},
        {.site = 2, .name = ""},
        {.site = 2, .name = "two", .norm = -1},
        {.site = 2, .name = "two", .norm = INFINITY},
        {.site = 2, .name = "two", .clip = -0.5},
        {.site = 2, .name = "two", .clip = 1.5},
        {.site = 2, .name = "two", .scale = -1},
        {.site = 2, .name = "two", .scale = INFINITY},
        {.site = 2, .name = "two", .weight = -1},
        {.site = 2, .name = "two", .weight = INFINITY},
        {.site = 2, .name = "two", .tokens_per_second = NAN},
        {.site = 2, .name = "two", .heldout = {.any = true, .loss = NAN}},
    };
    for (size_t i = 0; i < COUNT_OF(bent); i++) {
        sites[1] = bent[i];
        NOT_SENT(admin_reply, reply, "sites");
    }
    buffer_deinit(&out);
}

TEST(a_join_beyond_a_limit_is_not_sent_either_way) {
    struct error error = {0};
    struct buffer out = {0};
    static uint8_t big[WIRE_LAYOUT_LIMIT + 1];
    struct join_request request = {.protocol_min = 1,
                                   .protocol_max = 1,
                                   .site_name = "one",
                                   .invitation_secret = {big, WIRE_SECRET_MIN},
                                   .csr_der = {big, 1},
                                   .software = ""};
    CHECK_OK(join_request_encode(&request, &out, &error));
    NOT_SENT_WITH(join_request, request, bent.protocol_min = 0, "protocol_min");
    NOT_SENT_WITH(join_request, request, bent.protocol_min = 2, "protocol_max");
    NOT_SENT_WITH(join_request, request, bent.site_name = "", "site_name");
    NOT_SENT_WITH(join_request, request, bent.invitation_secret.size = 15, "invitation_secret");
    NOT_SENT_WITH(join_request, request, bent.csr_der.size = 0, "csr_der");
    struct join_reply reply = {.protocol = 1,
                               .message = "",
                               .site = 1,
                               .certificate_pem = {big, 10},
                               .ca_pem = {big, 10},
                               .manifest = {big, 10}};
    CHECK_OK(join_reply_encode(&reply, &out, &error));
    NOT_SENT_WITH(join_reply, reply, bent.protocol = 0, "protocol");
    NOT_SENT_WITH(join_reply, reply, bent.role = 2, "role");
    NOT_SENT_WITH(join_reply, reply, bent.site = 0, "beside a certificate");
    NOT_SENT_WITH(join_reply, reply, bent.certificate_pem.size = 0, "certificate_pem");
    NOT_SENT_WITH(join_reply, reply, bent.layout = bytes_of(big, sizeof big), "layout");
    NOT_SENT_WITH(join_reply, reply, bent.ca_pem.size = 0, "ca_pem");
    NOT_SENT_WITH(join_reply, reply, bent.manifest.size = 0, "manifest");
    buffer_deinit(&out);
}

TEST(what_is_followed_beyond_a_limit_is_not_sent_either_way) {
    struct error error = {0};
    struct buffer out = {0};
    static uint8_t big[WIRE_HEAD_LIMIT + 1];
    struct follow_request request = {.protocol = 1};
    CHECK_OK(follow_request_encode(&request, &out, &error));
    NOT_SENT_WITH(follow_request, request, bent.from_index = UINT64_MAX, "from_index");
    NOT_SENT_WITH(follow_request, request, bent.chunk_limit = 1, "chunk_limit");
    struct bytes entry = bytes_of("entry", 5);
    struct follow_own own = {.place = 1, .sequence = 1};
    struct follow_frame frame = {.entry_count = 1, .entries = &entry, .own_count = 1, .own = &own};
    CHECK_OK(follow_frame_encode(&frame, &out, &error));
    NOT_SENT_WITH(follow_frame, frame, bent.entry_count = WIRE_ENTRIES_LIMIT + 1, "entries");
    NOT_SENT_WITH(follow_frame, frame, bent.own_count = WIRE_ENTRIES_LIMIT, "own");
    NOT_SENT_WITH(follow_frame, frame, bent.first_index = 1, "first_index");
    NOT_SENT_WITH(follow_frame, frame, bent.dropped_count = WIRE_ENTRIES_LIMIT + 1, "dropped");
    NOT_SENT_WITH(follow_frame, frame, bent.head = bytes_of(big, sizeof big), "head");
    own.sequence = 0;
    NOT_SENT(follow_frame, frame, "own.sequence");
    own.sequence = 1;
    entry.size = 0;
    NOT_SENT(follow_frame, frame, "entries");
    buffer_deinit(&out);
}

TEST(own_stubs_stand_only_where_there_is_a_place) {
    struct error error = {0};
    struct buffer out = {0};
    const struct bytes entry = bytes_of("entry", 5);
    struct follow_own own[2] = {{.place = 0, .sequence = 1}, {.place = 2, .sequence = 2}};
    struct follow_frame frame = {.entry_count = 1, .entries = &entry, .own_count = 2, .own = own};
    CHECK_OK(follow_frame_encode(&frame, &out, &error));
    own[1].place = 3;
    CHECK_STATUS(follow_frame_encode(&frame, &out, &error), INVALID);
    own[1].place = 0;
    CHECK_STATUS(follow_frame_encode(&frame, &out, &error), INVALID);
    own[1].place = 1;
    own[1].sequence = 0;
    CHECK_STATUS(follow_frame_encode(&frame, &out, &error), INVALID);
    buffer_deinit(&out);
}

TEST(a_step_alone_costs_six_bytes_of_framing_and_an_own_stub_under_twenty_four) {
    struct error error = {0};
    struct buffer out = {0};
    uint8_t raw[70] = {6};
    const struct bytes entry = bytes_of(raw, sizeof raw);
    struct follow_frame frame = {.entry_count = 1, .entries = &entry};
    CHECK_OK(follow_frame_encode(&frame, &out, &error));
    CHECK_EQUAL(out.size, 70 + 6);
    out.size = 0;
    const struct follow_own own = {
        .sequence = 1000, .time_ms = 1767225600125, .epoch = 1, .header = 0xfedcba98};
    frame = (struct follow_frame){.own_count = 1, .own = &own};
    CHECK_OK(follow_frame_encode(&frame, &out, &error));
    CHECK(out.size < 24);
    buffer_deinit(&out);
}

TEST(a_loss_that_is_not_finite_arrives_as_nan_and_one_that_is_stays) {
    struct error error = {0};
    arena_create(&arena, ARENA_SIZE);
    struct heartbeat_request request = {.protocol = 1, .loss = INFINITY}, got;
    THERE(heartbeat_request, &request, &got);
    CHECK(isnan(got.loss));
    request.loss = -1.5f;
    THERE(heartbeat_request, &request, &got);
    CHECK_NEAR(got.loss, -1.5, 0);
    arena_deinit(&arena);
}

TEST(zero_roots_travel_as_absent) {
    struct error error = {0};
    arena_create(&arena, ARENA_SIZE);
    struct buffer out = {0};
    struct heartbeat_request request = {.protocol = 1}, got;
    CHECK_OK(heartbeat_request_encode(&request, &out, &error));
    CHECK_EQUAL(out.size, 4 + 2); /* protocol alone */
    memset(&got, 0xAA, sizeof got);
    THERE(heartbeat_request, &request, &got);
    for (size_t i = 0; i < sizeof got.last_root; i++) CHECK_EQUAL(got.last_root[i], 0);
    buffer_deinit(&out);
    arena_deinit(&arena);
}

/* --- numbers and names of the protocol -------------------------------------------------------- */

TEST(the_newest_protocol_that_both_speak_is_chosen) {
    CHECK_EQUAL(protocol_negotiate(WIRE_PROTOCOL_OLDEST, WIRE_PROTOCOL_NEWEST),
                WIRE_PROTOCOL_NEWEST);
    CHECK_EQUAL(protocol_negotiate(1, 65535), WIRE_PROTOCOL_NEWEST);
    CHECK_EQUAL(protocol_negotiate(0, UINT32_MAX), WIRE_PROTOCOL_NEWEST);
    CHECK_EQUAL(protocol_negotiate(WIRE_PROTOCOL_NEWEST + 1, WIRE_PROTOCOL_NEWEST + 5), 0);
    CHECK_EQUAL(protocol_negotiate(0, WIRE_PROTOCOL_OLDEST - 1), 0);
    CHECK_EQUAL(protocol_negotiate(2, 1), 0);
}

TEST(every_code_has_a_name_and_unknown_ones_too) {
    for (uint32_t i = 0; i < JOIN_CODE_COUNT; i++) CHECK(strcmp(join_code_name(i), "unknown") != 0);
    for (uint32_t i = 0; i < ADMIN_CODE_COUNT; i++)
        CHECK(strcmp(admin_code_name(i), "unknown") != 0);
    for (uint32_t i = 1; i < ADMIN_VERB_COUNT; i++)
        CHECK(strcmp(admin_verb_name(i), "unknown") != 0);
    for (uint32_t i = 0; i < LOST_OTHER; i++) CHECK(strcmp(lost_cause_name(i), "other") != 0);
    CHECK_TEXT(join_code_name(JOIN_CODE_COUNT), "unknown");
    CHECK_TEXT(admin_code_name(UINT32_MAX), "unknown");
    CHECK_TEXT(admin_verb_name(0), "unknown");
    CHECK_TEXT(admin_verb_name(ADMIN_VERB_COUNT), "unknown");
    CHECK_TEXT(lost_cause_name(99), "other");
}

/* --- the largest there is --------------------------------------------------------------------- */

TEST(the_largest_follow_frames_fit_their_budget) {
    struct error error = {0};
    static uint8_t raw[WIRE_ENTRY_LIMIT];
    static struct bytes entries[WIRE_ENTRIES_LIMIT];
    static struct follow_own own[WIRE_ENTRIES_LIMIT];
    arena_create(&arena, ARENA_SIZE);
    struct follow_frame frame = {.has_first_index = true,
                                 .first_index = INT64_MAX,
                                 .entry_count = WIRE_ENTRIES_LIMIT},
                        got;
    /* 511 with tag and length, of 512 */
    for (size_t i = 0; i < WIRE_ENTRIES_LIMIT; i++) entries[i] = bytes_of(raw, 508);
    frame.entries = entries;
    THERE(follow_frame, &frame, &got);
    CHECK_EQUAL(got.first_index, INT64_MAX);
    CHECK_EQUAL(got.entry_count, WIRE_ENTRIES_LIMIT);
    arena_reset(&arena);
    for (uint32_t i = 0; i < WIRE_ENTRIES_LIMIT; i++)
        own[i] = (struct follow_own){i, UINT64_MAX, UINT64_MAX, UINT32_MAX, UINT32_MAX};
    frame.entry_count = 0;
    frame.own_count = WIRE_ENTRIES_LIMIT;
    frame.own = own;
    THERE(follow_frame, &frame, &got);
    CHECK_EQUAL(got.own_count, WIRE_ENTRIES_LIMIT);
    CHECK_EQUAL(got.own[255].place, 255);
    CHECK_EQUAL(got.own[255].header, UINT32_MAX);
    arena_deinit(&arena);
}

TEST(the_largest_admin_reply_fits_its_budget) {
    struct error error = {0};
    static struct site_status sites[WIRE_SITES_LIMIT];
    char name[33], text[65], message[513];
    memset(name, 'n', 32), name[32] = 0;
    memset(text, 't', 64), text[64] = 0;
    memset(message, 'm', 512), message[512] = 0;
    for (uint32_t i = 0; i < WIRE_SITES_LIMIT; i++) {
        memset(&sites[i], 0xFF, sizeof sites[i]);
        sites[i].site = UINT32_MAX - WIRE_SITES_LIMIT + i;
        sites[i].name = name, sites[i].device = text, sites[i].software = text;
        sites[i].revoked = sites[i].connected = true;
        sites[i].tokens_per_second = 1e15;
        sites[i].norm = 1e300;
        sites[i].clip = 0x1p-1022;
        sites[i].weight = 1.0 / 3;
        sites[i].scale = 0x1p-149f;
        sites[i].heldout =
            (struct heldout_status){true, UINT64_MAX, UINT64_MAX, 1e6 / 3, 1e6 / 3.1};
    }
    uint8_t raw[WIRE_HEAD_LIMIT] = {1};
    struct admin_reply reply = {.code = UINT32_MAX, .message = message, .has_run = true}, got;
    memset(&reply.run, 0xFF, sizeof reply.run);
    reply.run.heldout = reply.run.best_heldout = 1.0 / 3;
    reply.run.has_heldout = reply.run.heldout_rises = true;
    reply.run.name = name, reply.run.reason = reply.run.waits = message;
    reply.site_count = WIRE_SITES_LIMIT;
    reply.sites = sites;
    static struct invitation_status invitations[WIRE_SITES_LIMIT];
    for (uint32_t i = 0; i < WIRE_SITES_LIMIT; i++)
        invitations[i] =
            (struct invitation_status){name, UINT64_MAX, UINT64_MAX, UINT32_MAX, UINT32_MAX};
    reply.invitation_count = WIRE_SITES_LIMIT;
    reply.invitations = invitations;
    reply.invitation_secret = bytes_of(raw, WIRE_SECRET_LIMIT);
    reply.head = bytes_of(raw, WIRE_HEAD_LIMIT);
    arena_create(&arena, ARENA_SIZE);
    THERE(admin_reply, &reply, &got);
    CHECK_EQUAL(got.site_count, WIRE_SITES_LIMIT);
    CHECK_EQUAL(got.invitation_count, WIRE_SITES_LIMIT);
    CHECK_EQUAL(strlen(got.run.reason), WIRE_REASON_LIMIT);
    for (size_t i = 0; i < WIRE_CODES; i++) CHECK(got.run.refused[i] == UINT64_MAX);
    for (size_t i = 0; i < LOST_CAUSE_COUNT; i++) CHECK(got.sites[127].lost_ms[i] == UINT64_MAX);
    arena_deinit(&arena);
}

TEST(the_largest_join_fits_its_budget_both_ways) {
    struct error error = {0};
    static uint8_t raw[WIRE_MANIFEST_LIMIT];
    char text[513];
    memset(text, 'x', 512), text[512] = 0;
    arena_create(&arena, ARENA_SIZE);
    struct join_reply reply = {.protocol = 1,
                               .site = UINT32_MAX,
                               .message = text,
                               .server_time_ms = UINT64_MAX},
                      got;
    reply.certificate_pem = reply.ca_pem = bytes_of(raw, WIRE_PEM_LIMIT);
    reply.manifest = bytes_of(raw, WIRE_MANIFEST_LIMIT);
    THERE(join_reply, &reply, &got);
    CHECK_EQUAL(got.manifest.size, WIRE_MANIFEST_LIMIT);
    struct join_request request = {.protocol_min = 1, .protocol_max = 65535, .software = text},
                        got_request;
    request.site_name = "12345678901234567890123456789012";
    request.invitation_secret = bytes_of(raw, WIRE_SECRET_LIMIT);
    request.csr_der = bytes_of(raw, WIRE_CSR_LIMIT);
    THERE(join_request, &request, &got_request);
    CHECK_EQUAL(strlen(got_request.software), WIRE_SOFTWARE_LIMIT);
    arena_deinit(&arena);
}

TEST(the_largest_of_the_others_fit_their_budgets) {
    struct error error = {0};
    static uint8_t raw[WIRE_RECEIPT_LIMIT];
    char text[513];
    memset(text, 'x', 512), text[512] = 0;
    arena_create(&arena, ARENA_SIZE);
    struct submit_reply refusal = {.kind = SUBMIT_REFUSAL}, got_refusal;
    refusal.refusal.code = UINT32_MAX;
    refusal.refusal.message = text;
    refusal.refusal.retry_after_ms = refusal.refusal.current_version = UINT64_MAX;
    refusal.refusal.receipt = bytes_of(raw, WIRE_RECEIPT_LIMIT);
    THERE(submit_reply, &refusal, &got_refusal);
    struct heartbeat_request heartbeat, got_heartbeat;
    memset(&heartbeat, 0xFF, sizeof heartbeat);
    heartbeat.protocol = 65535;
    heartbeat.tokens_per_second = heartbeat.steps_per_second = 1e15;
    heartbeat.device = heartbeat.software = text;
    heartbeat.heldout = (struct heldout_status){true, UINT64_MAX, UINT64_MAX, 1e6 / 3, 1e6 / 3.1};
    heartbeat.leaving = true; /* 0xFF is no bool */
    THERE(heartbeat_request, &heartbeat, &got_heartbeat);
    CHECK(got_heartbeat.lost_ms[LOST_OTHER] == UINT64_MAX);
    struct admin_request admin = {.protocol = 65535,
                                  .verb = ADMIN_SNAPSHOT,
                                  .reason = text,
                                  .value = UINT64_MAX},
                         got_admin;
    admin.site_name = "12345678901234567890123456789012";
    admin.expires_ms = UINT64_MAX;
    THERE(admin_request, &admin, &got_admin);
    struct snapshot_frame snapshot = {.descriptor = {raw, WIRE_DESCRIPTOR_LIMIT}}, got_snapshot;
    snapshot.offset = snapshot.total = WIRE_PAYLOAD_TOTAL_LIMIT;
    THERE(snapshot_frame, &snapshot, &got_snapshot);
    arena_deinit(&arena);
}
