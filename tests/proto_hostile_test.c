/* What a stranger may send: nothing of it crashes, takes more than its budget, or passes as
 * something it is not. */
#include "base/random.h"
#include "tests/proto_samples.h"

/* An arena whose block ends where the allocation does, so that the address sanitizer sees one byte
 * too far. */
static struct arena arena;

/* Decodes; OK or INVALID and nothing else, within the budget; what is OK can be encoded again. */
static enum status try_bytes(const struct kind *kind, struct bytes header, struct bytes payload,
                             struct error *error) {
    uint8_t *exact = xmalloc(header.size);
    if (header.size) memcpy(exact, header.data, header.size);
    struct buffer again = {0};
    if (!arena.memory) arena_create(&arena, 2 * ARENA_SIZE);
    arena_reset(&arena);
    struct frame frame = {bytes_of(exact, header.size), payload};
    enum status status = kind->pass(frame, &arena, &again, error);
    if (status != OK && status != INVALID)
        test_failed(__FILE__, __LINE__, "%s: %s", kind->type, status_name(status));
    if (status != OK && arena.used != 0)
        test_failed(__FILE__, __LINE__, "%s keeps %zu bytes", kind->type, arena.used);
    if (arena.used > kind->budget + 16)
        test_failed(__FILE__, __LINE__, "%s takes %zu bytes", kind->type, arena.used);
    if (status == OK) CHECK(again.size >= FRAME_PREFIX_SIZE);
    CHECK_EQUAL(arena.limit, arena.size);
    buffer_deinit(&again);
    free(exact);
    return status;
}

static void refused(const char *type, struct bytes header, struct bytes payload, const char *why) {
    struct error error = {0};
    enum status status = try_bytes(kind_named(type), header, payload, &error);
    if (status != INVALID) test_failed(__FILE__, __LINE__, "%s was taken, wanted: %s", type, why);
    CHECK_CONTAINS(error.message, why);
}

static const struct bytes nothing = {0};

/* --- damage ----------------------------------------------------------------------------------- */

TEST(a_message_cut_at_any_length_is_refused_or_a_shorter_message) {
    struct sample samples[SAMPLES_LIMIT];
    size_t count = samples_read(samples), refusals = 0;
    for (size_t i = 0; i < count; i++) {
        struct error error = {0};
        CHECK_OK(try_bytes(samples[i].kind, samples[i].header, samples[i].payload, &error));
        for (size_t size = 0; size < samples[i].header.size; size++)
            refusals += try_bytes(samples[i].kind, bytes_of(samples[i].header.data, size),
                                  samples[i].payload, &error) == INVALID;
    }
    CHECK(refusals > 5000);
}

static void mutate(struct random *random, struct buffer *bytes) {
    static const uint8_t likely[] = {0, 1, 2, 0x7F, 0x80, 0xFF, 0x0A, 0x12, 0x1A, 0x22, 0x0B, 0x0C};
    for (uint64_t times = 1 + random_below(random, 4); times && bytes->size; times--) {
        size_t at = (size_t)random_below(random, bytes->size),
               other = (size_t)random_below(random, bytes->size);
        size_t length =
            (size_t)random_below(random, MIN(bytes->size - MAX(at, other), (size_t)64)) + 1;
        switch (random_below(random, 6)) {
        case 0: bytes->data[at] ^= (uint8_t)(1u << random_below(random, 8)); break;
        case 1: bytes->data[at] = (uint8_t)random_u64(random); break;
        case 2: bytes->data[at] = likely[random_below(random, sizeof likely)]; break;
        case 3: bytes->size = at; break;
        case 4: memmove(bytes->data + at, bytes->data + other, length); break;
        default: /* a stretch again, at the end: repeated and merged fields */
            buffer_reserve(bytes, bytes->size + length);
            memcpy(bytes->data + bytes->size, bytes->data + at, length);
            bytes->size += length;
        }
    }
}

TEST(twenty_thousand_random_mutations_stay_within_budget) {
    struct sample samples[SAMPLES_LIMIT];
    size_t count = samples_read(samples), taken = 0, refusals = 0;
    struct random random;
    random_init(&random, 20260101);
    struct buffer bytes = {0};
    for (unsigned i = 0; i < 20000; i++) {
        const struct sample *sample = &samples[i % count];
        const struct kind *kind = random_below(&random, 16)
                                      ? sample->kind
                                      : &kinds[random_below(&random, COUNT_OF(kinds))];
        struct error error = {0};
        bytes.size = 0;
        buffer_append(&bytes, sample->header.data, sample->header.size);
        mutate(&random, &bytes);
        if (try_bytes(kind, buffer_bytes(&bytes), sample->payload, &error) == OK) {
            taken++;
        } else {
            refusals++;
        }
    }
    CHECK(taken > 1000 && refusals > 1000); /* both sides of every check were walked */
    buffer_deinit(&bytes);
}

/* Every allocation fails once, wherever it is made: protobuf-c's own error paths too. */
TEST(an_arena_of_any_size_is_enough_or_the_message_is_refused) {
    struct sample samples[SAMPLES_LIMIT];
    size_t count = samples_read(samples);
    for (size_t i = 0; i < count; i++) {
        bool fits = false;
        for (size_t size = 0; size <= 16 * 1024; size += 8) {
            struct error error = {0};
            struct arena small;
            uint8_t *block = xmalloc(size);
            arena_init(&small, block, size);
            enum status status =
                samples[i].kind->pass(sample_frame(&samples[i]), &small, NULL, &error);
            CHECK(status == OK || status == INVALID);
            CHECK(status == OK || !fits); /* more room never hurts */
            if (status == INVALID) CHECK_CONTAINS(error.message, "too much memory");
            fits |= status == OK;
            free(block);
        }
        CHECK(fits);
    }
}

TEST(an_arena_holds_several_messages_until_it_is_full) {
    struct sample sample = sample_named("heartbeat_request");
    struct arena shared;
    struct error error = {0};
    struct heartbeat_request first, other;
    arena_create(&shared, 16 * 1024);
    CHECK_OK(heartbeat_request_decode(sample_frame(&sample), &shared, &first, &error));
    unsigned more = 0;
    while (heartbeat_request_decode(sample_frame(&sample), &shared, &other, &error) == OK) more++;
    CHECK(more > 3 && more < 100);
    CHECK_TEXT(
        first.device,
        "2x H100"); /* not overwritten by those that came after, nor by the one that failed */
    arena_deinit(&shared);
}

/* --- bombs ------------------------------------------------------------------------------------ */

/* A field, empty, again and again, up to `size` bytes. */
static void bomb(struct buffer *out, unsigned field, size_t size) {
    out->size = 0;
    while (out->size + 8 <= size) raw_bytes(out, field, nothing);
}

TEST(four_megabytes_of_empty_sub_messages_do_not_even_make_a_frame) {
    struct buffer raw = {0};
    struct error error = {0};
    bomb(&raw, 4, 4 << 20);
    struct buffer head = {0};
    CHECK_STATUS(frame_encode_head(buffer_bytes(&raw), &head, &error), INVALID);
    refused("AdminReply", buffer_bytes(&raw), nothing, "the limit is");
    buffer_deinit(&raw);
    buffer_deinit(&head);
}

TEST(as_many_empty_sub_messages_as_a_frame_holds_are_refused_within_the_budget) {
    struct buffer raw = {0};
    bomb(&raw, 4, FRAME_HEADER_LIMIT);
    refused("AdminReply", buffer_bytes(&raw), nothing, "too much memory");
    bomb(&raw, 1, FRAME_HEADER_LIMIT);
    refused("FollowFrame", buffer_bytes(&raw), nothing, "too much memory");
    bomb(&raw, 3, FRAME_HEADER_LIMIT);
    refused("FollowFrame", buffer_bytes(&raw), nothing, "too much memory");
    bomb(&raw, 15, 2048);
    refused("HeartbeatRequest", buffer_bytes(&raw), nothing, "too much memory");
    bomb(&raw, 1, 1024); /* the same singular sub-message again and again: merged */
    refused("SubmitReply", buffer_bytes(&raw), nothing, "");
    buffer_deinit(&raw);
}

TEST(bombs_of_unknown_fields_are_refused_within_the_budget) {
    struct buffer raw = {0};
    bomb(&raw, 1000, FRAME_HEADER_LIMIT);
    refused("AdminReply", buffer_bytes(&raw), nothing, "too much memory");
    raw.size = 0;
    while (raw.size + 8 <= 2048) raw_number(&raw, 1000, 0);
    refused("HeartbeatRequest", buffer_bytes(&raw), nothing, "too much memory");
    buffer_deinit(&raw);
}

TEST(one_entry_too_many_is_refused_and_so_is_one_too_long) {
    struct buffer raw = {0};
    struct error error = {0};
    static uint8_t entry[WIRE_ENTRY_LIMIT + 1];
    for (unsigned i = 0; i < WIRE_ENTRIES_LIMIT; i++) raw_bytes(&raw, 1, bytes_of(entry, 10));
    CHECK_OK(try_bytes(kind_named("FollowFrame"), buffer_bytes(&raw), nothing, &error));
    raw_bytes(&raw, 1, bytes_of(entry, 10));
    refused("FollowFrame", buffer_bytes(&raw), nothing, "entries");
    raw.size = 0;
    raw_bytes(&raw, 1, bytes_of(entry, WIRE_ENTRY_LIMIT));
    CHECK_OK(try_bytes(kind_named("FollowFrame"), buffer_bytes(&raw), nothing, &error));
    raw.size = 0;
    raw_bytes(&raw, 1, bytes_of(entry, WIRE_ENTRY_LIMIT + 1));
    refused("FollowFrame", buffer_bytes(&raw), nothing, "entries");
    buffer_deinit(&raw);
}

TEST(groups_are_refused_however_deep) {
    struct buffer raw = {0};
    for (unsigned i = 0; i < 500; i++) raw_varint(&raw, 1000 << 3 | 3);
    for (unsigned i = 0; i < 500; i++) raw_varint(&raw, 1000 << 3 | 4);
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        struct error error = {0};
        CHECK_STATUS(try_bytes(&kinds[i], buffer_bytes(&raw), nothing, &error), INVALID);
    }
    refused("JoinReply", buffer_bytes(&raw), nothing, "wire type 3");
    buffer_deinit(&raw);
}

TEST(unknown_fields_nested_a_thousand_deep_are_skipped_not_descended_into) {
    struct buffer raw = {0}, outer = {0};
    struct error error = {0};
    struct sample sample = sample_named("join_reply");
    for (unsigned i = 0; i < 1000; i++) {
        outer.size = 0;
        raw_bytes(&outer, 1000, buffer_bytes(&raw));
        raw.size = 0;
        buffer_append(&raw, outer.data, outer.size);
    }
    buffer_append(&raw, sample.header.data, sample.header.size);
    CHECK_OK(try_bytes(sample.kind, buffer_bytes(&raw), nothing, &error));
    buffer_deinit(&raw);
    buffer_deinit(&outer);
}

static unsigned depth_of(const ProtobufCMessageDescriptor *descriptor, unsigned above) {
    CHECK(above < 8);
    unsigned deepest = 1;
    for (unsigned i = 0; i < descriptor->n_fields; i++) {
        if (descriptor->fields[i].type != PROTOBUF_C_TYPE_MESSAGE) continue;
        unsigned depth = 1 + depth_of(descriptor->fields[i].descriptor, above + 1);
        deepest = MAX(deepest, depth);
    }
    return deepest;
}

TEST(no_type_of_the_schema_contains_itself) {
    for (size_t i = 0; i < COUNT_OF(kinds); i++) CHECK(depth_of(kinds[i].descriptor, 0) <= 3);
}

/* --- newer peers ------------------------------------------------------------------------------ */

TEST(unknown_fields_of_every_wire_type_are_ignored) {
    struct sample samples[SAMPLES_LIMIT];
    size_t count = samples_read(samples);
    struct arena own;
    arena_create(&own, ARENA_SIZE);
    for (size_t i = 0; i < count; i++) {
        struct buffer raw = {0}, again = {0};
        struct error error = {0};
        raw_number(&raw, 2001, UINT64_MAX);
        buffer_append(&raw, samples[i].header.data, samples[i].header.size);
        raw_bytes(&raw, 2002, bytes_of("\xff\0not a text", 12));
        raw_varint(&raw, 2003 << 3 | 1);
        buffer_u64(&raw, 1);
        raw_varint(&raw, 2004 << 3 | 5);
        buffer_u32(&raw, 1);
        arena_reset(&own);
        struct frame frame = {buffer_bytes(&raw), samples[i].payload};
        CHECK_OK(samples[i].kind->pass(frame, &own, &again, &error));
        CHECK_EQUAL(again.size, FRAME_PREFIX_SIZE + samples[i].header.size);
        CHECK_MEMORY(again.data + FRAME_PREFIX_SIZE, samples[i].header.data,
                     samples[i].header.size);
        buffer_deinit(&raw);
        buffer_deinit(&again);
    }
    arena_deinit(&own);
}

TEST(causes_and_codes_that_a_newer_peer_knows_are_still_counted) {
    struct buffer raw = {0}, pair = {0}, run = {0};
    struct error error = {0};
    arena_create(&arena, ARENA_SIZE);
    raw_number(&raw, 1, 1);
    const uint64_t lost[][2] = {
        {LOST_DATA, 5}, {LOST_CAUSE_COUNT, 100}, {4000000000, UINT64_MAX - 50}, {LOST_DATA, 6}};
    for (size_t i = 0; i < COUNT_OF(lost); i++) {
        pair.size = 0;
        raw_number(&pair, 1, lost[i][0]);
        raw_number(&pair, 2, lost[i][1]);
        raw_bytes(&raw, 15, buffer_bytes(&pair));
    }
    struct heartbeat_request heartbeat;
    CHECK_OK(heartbeat_request_decode((struct frame){.header = buffer_bytes(&raw)}, &arena,
                                      &heartbeat, &error));
    CHECK_EQUAL(heartbeat.lost_ms[LOST_DATA], 11);
    CHECK(heartbeat.lost_ms[LOST_OTHER] == UINT64_MAX); /* the sum stays at its end */
    pair.size = raw.size = 0;
    raw_number(&pair, 1, WIRE_CODES);
    raw_number(&pair, 2, 9);
    raw_bytes(&run, 12, buffer_bytes(&pair));
    raw_bytes(&raw, 3, buffer_bytes(&run));
    struct admin_reply reply;
    CHECK_OK(
        admin_reply_decode((struct frame){.header = buffer_bytes(&raw)}, &arena, &reply, &error));
    CHECK_EQUAL(reply.run.refused[0], 9);
    buffer_deinit(&raw), buffer_deinit(&pair), buffer_deinit(&run);
    arena_deinit(&arena);
}

/* --- texts ------------------------------------------------------------------------------------ */

/* Every text of every type, in sub-messages too: a lone message with that field alone is refused
 * because of it. */
static void refuse_text(const struct kind *kind, const ProtobufCMessageDescriptor *descriptor,
                        struct bytes text, unsigned outer) {
    for (unsigned i = 0; i < descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &descriptor->fields[i];
        if (field->type == PROTOBUF_C_TYPE_MESSAGE)
            refuse_text(kind, field->descriptor, text, field->id);
        if (field->type != PROTOBUF_C_TYPE_STRING) continue;
        struct buffer raw = {0}, whole = {0};
        raw_bytes(&raw, field->id, text);
        if (outer) raw_bytes(&whole, outer, buffer_bytes(&raw));
        refused(kind->type, buffer_bytes(outer ? &whole : &raw), nothing,
                "not UTF-8, or with control characters");
        buffer_deinit(&raw), buffer_deinit(&whole);
    }
}

TEST(texts_that_are_not_utf8_or_hold_control_characters_are_refused_in_every_field) {
    static const struct {
        const char *data;
        size_t size;
    } texts[] = {
        {"\x80", 1},
        {"\xC3", 1},
        {"\xC0\xAF", 2},
        {"\xC1\xBF", 2},
        {"\xE0\x80\x80", 3},
        {"\xE0\x9F\xBF", 3},
        {"\xED\xA0\x80", 3},
        {"\xE2\x82", 2},
        {"\xF0\x8F\xBF\xBF", 4},
        {"\xF4\x90\x80\x80", 4},
        {"\xF5\x80\x80\x80", 4},
        {"\xFF", 1},
        {"a\xC3z", 3},
        {"a\0b", 3},
        {"\0", 1},
        {"a\nb", 3},
        {"\x1b[2J", 4},
        {"\x7f", 1},
        {"\xC2\x9B", 2},
        {"\xC2\x80", 2},
        {"\xE2\x80\xAE", 3},     /* what follows is read from right to left */
        {"a\xE2\x80\x8B", 4},    /* zero width */
        {"\xE2\x81\xA6", 3},     /* an isolate */
        {"\xEF\xBB\xBF", 3},     /* a byte order mark */
        {"\xD8\x9C", 2},         /* Arabic letter mark */
        {"\xF3\xA0\x81\x81", 4}, /* a tag */
    };
    for (size_t t = 0; t < COUNT_OF(texts); t++)
        for (size_t i = 0; i < COUNT_OF(kinds); i++)
            refuse_text(&kinds[i], kinds[i].descriptor, bytes_of(texts[t].data, texts[t].size), 0);
}

TEST(texts_at_the_edges_of_utf8_are_taken) {
    static const char *const texts[] = {"",
                                        " ",
                                        "~",
                                        "\xC2\xA0",
                                        "\xDF\xBF",
                                        "\xE0\xA0\x80",
                                        "\xED\x9F\xBF",
                                        "\xEE\x80\x80",
                                        "\xEF\xBF\xBF",
                                        "\xF0\x90\x80\x80",
                                        "\xF4\x8F\xBF\xBF",
                                        "日本語 – é"};
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        struct buffer raw = {0};
        struct error error = {0};
        raw_bytes(&raw, 2, bytes_of(texts[i], strlen(texts[i])));
        CHECK_OK(try_bytes(kind_named("HeartbeatReply"), buffer_bytes(&raw), nothing, &error));
        buffer_deinit(&raw);
    }
}

TEST(texts_longer_than_their_limit_are_refused) {
    char text[WIRE_MESSAGE_LIMIT + 1];
    memset(text, 'x', sizeof text);
    struct buffer raw = {0};
    struct error error = {0};
    raw_bytes(&raw, 2, bytes_of(text, WIRE_MESSAGE_LIMIT));
    CHECK_OK(try_bytes(kind_named("HeartbeatReply"), buffer_bytes(&raw), nothing, &error));
    raw.size = 0;
    raw_bytes(&raw, 2, bytes_of(text, WIRE_MESSAGE_LIMIT + 1));
    refused("HeartbeatReply", buffer_bytes(&raw), nothing, "message: 513 bytes");
    buffer_deinit(&raw);
}

/* --- what is well-formed and yet not meant ---------------------------------------------------- */

TEST(two_of_a_choice_are_refused_and_so_is_none) {
    struct sample open = sample_named("submit_open"), chunk = sample_named("submit_chunk");
    struct buffer raw = {0};
    buffer_append(&raw, open.header.data, open.header.size);
    buffer_append(&raw, chunk.header.data, chunk.header.size);
    refused("SubmitFrame", buffer_bytes(&raw), chunk.payload, "both of open and chunk");
    refused("SubmitFrame", nothing, nothing, "none of open and chunk");
    static const char *const names[] = {"submit_credit", "submit_receipt", "submit_refusal"};
    for (size_t a = 0; a < 3; a++)
        for (size_t b = 0; b < 3; b++) {
            if (a == b) continue;
            struct sample first = sample_named(names[a]), second = sample_named(names[b]);
            raw.size = 0;
            buffer_append(&raw, first.header.data, first.header.size);
            buffer_append(&raw, second.header.data, second.header.size);
            refused("SubmitReply", buffer_bytes(&raw), nothing, "exactly one");
        }
    refused("SubmitReply", nothing, nothing, "exactly one");
    buffer_deinit(&raw);
}

TEST(a_payload_is_refused_where_there_is_none_and_missed_where_there_must_be) {
    struct sample samples[SAMPLES_LIMIT];
    size_t count = samples_read(samples);
    static uint8_t payload[101];
    for (size_t i = 0; i < count; i++) {
        struct error error = {0};
        bool layout = strcmp(samples[i].name, "join_reply") == 0;
        bool may = samples[i].payload.size > 0 || layout,
             must = may && !layout && strcmp(samples[i].name, "snapshot_frame") != 0;
        if (!may)
            CHECK_STATUS(
                try_bytes(samples[i].kind, samples[i].header, bytes_of(payload, 1), &error),
                INVALID);
        if (must)
            CHECK_STATUS(try_bytes(samples[i].kind, samples[i].header, nothing, &error), INVALID);
    }
    struct sample piece = sample_named("follow_piece"); /* of which 100 bytes are left */
    refused("FollowFrame", piece.header, bytes_of(payload, 101), "payload past payload_total");
    struct sample chunk = sample_named("submit_chunk");
    refused("SubmitFrame", chunk.header, bytes_of(NULL, FRAME_PAYLOAD_LIMIT + 1), "the limit is");
}

TEST(offsets_past_the_end_are_refused_and_do_not_wrap) {
    struct buffer raw = {0};
    static uint8_t payload[10];
    const uint64_t cases[][3] = {
        /* snapshot's offset, total, 1: taken */
        {90, 100, 1},
        {91, 100, 0},
        {UINT64_MAX - 4, 100, 0},
        {0, UINT64_MAX, 0},
        {0, WIRE_PAYLOAD_TOTAL_LIMIT, 1},
        {0, 0, 0},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct error error = {0};
        raw.size = 0;
        raw_number(&raw, 1, cases[i][0]);
        raw_number(&raw, 2, cases[i][1]);
        CHECK_STATUS(try_bytes(kind_named("SnapshotFrame"), buffer_bytes(&raw),
                               bytes_of(payload, 10), &error),
                     cases[i][2] ? OK : INVALID);
        raw.size = 0; /* and a piece of payload alike */
        raw_number(&raw, 6, cases[i][0]);
        raw_number(&raw, 7, cases[i][1]);
        CHECK_STATUS(
            try_bytes(kind_named("FollowFrame"), buffer_bytes(&raw), bytes_of(payload, 10), &error),
            cases[i][2] ? OK : INVALID);
    }
    buffer_deinit(&raw);
}

TEST(fixed_arrays_have_their_size_and_no_other) {
    static uint8_t bytes[300];
    memset(bytes, 1, sizeof bytes);
    for (size_t size = 0; size < 80; size++) {
        struct buffer raw = {0};
        struct error error = {0};
        raw_number(&raw, 1, 1);
        raw_bytes(&raw, 20, bytes_of(bytes, size));
        CHECK_STATUS(try_bytes(kind_named("HeartbeatRequest"), buffer_bytes(&raw), nothing, &error),
                     size == 0 || size == 32 ? OK : INVALID);
        buffer_deinit(&raw);
    }
    for (size_t size = 270; size < 275; size++) {
        struct buffer open = {0}, raw = {0};
        struct error error = {0};
        raw_number(&open, 1, 1);
        raw_bytes(&open, 2, bytes_of(bytes, size));
        raw_bytes(&open, 3, bytes_of(bytes, 64));
        raw_bytes(&raw, 1, buffer_bytes(&open));
        CHECK_STATUS(try_bytes(kind_named("SubmitFrame"), buffer_bytes(&raw), nothing, &error),
                     size == 272 ? OK : INVALID);
        buffer_deinit(&open), buffer_deinit(&raw);
    }
}

TEST(a_join_without_one_of_its_parts_is_no_join) {
    static const char *const parts[] = {"protocol", "run_id",          "site",    "certificate_pem",
                                        "ca_pem",   "coordinator_key", "manifest"};
    const unsigned numbers[] = {3, 4, 5, 6, 7, 8, 9};
    struct sample sample = sample_named("join_reply");
    for (size_t part = 0; part < COUNT_OF(parts); part++) {
        struct buffer raw = {0};
        buffer_append(&raw, sample.header.data, sample.header.size);
        if (numbers[part] == 3 || numbers[part] == 5) {
            raw_number(&raw, numbers[part], 0); /* the last one counts */
        } else {
            raw_bytes(&raw, numbers[part], nothing);
        }
        refused("JoinReply", buffer_bytes(&raw), nothing, parts[part]);
        buffer_deinit(&raw);
    }
}

TEST(rates_that_are_no_numbers_are_refused) {
    const double rates[] = {NAN, INFINITY, -INFINITY, -1, 1.1e15};
    for (size_t i = 0; i < COUNT_OF(rates); i++)
        for (unsigned field = 8; field <= 9; field++) {
            struct buffer raw = {0};
            raw_number(&raw, 1, 1);
            raw_varint(&raw, field << 3 | 1);
            buffer_f64(&raw, rates[i]);
            refused("HeartbeatRequest", buffer_bytes(&raw), nothing, "_per_second");
            buffer_deinit(&raw);
        }
}

TEST(verbs_protocols_and_sites_out_of_range_are_refused) {
    struct buffer raw = {0}, site = {0};
    raw_number(&raw, 1, 1);
    refused("AdminRequest", buffer_bytes(&raw), nothing, "verb");
    raw_number(&raw, 2, ADMIN_VERB_COUNT);
    refused("AdminRequest", buffer_bytes(&raw), nothing, "verb");
    raw.size = 0;
    raw_number(&raw, 2, ADMIN_STATUS);
    refused("AdminRequest", buffer_bytes(&raw), nothing, "protocol");
    raw.size = 0;
    raw_number(&raw, 1, 65536);
    refused("FollowRequest", buffer_bytes(&raw), nothing, "protocol");
    raw.size = 0; /* site numbers must rise */
    raw_number(&site, 1, 7);
    raw_bytes(&site, 2, bytes_of("eu", 2));
    raw_bytes(&raw, 4, buffer_bytes(&site));
    raw_bytes(&raw, 4, buffer_bytes(&site));
    refused("AdminReply", buffer_bytes(&raw), nothing, "sites.site");
    buffer_deinit(&raw), buffer_deinit(&site);
}

TEST(tags_and_lengths_in_forms_that_parsers_disagree_on_are_refused) {
    static const struct {
        const char *data;
        size_t size;
    } headers[] = {
        {"\0\1", 2},                                              /* field 0 */
        {"\x88\x80\x80\x80\x80\x01\x01", 7},                      /* a tag past 32 bits */
        {"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12}, /* a number of eleven bytes */
        {"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11},     /* a length of 2^64 - 1 */
        {"\x12\xff\xff\xff\xff\x0f", 6},                          /* 2^32 - 1 */
        {"\x0f\1", 2},                                            /* wire type 7 */
        {"\x12", 1},                                              /* a tag alone */
        {"\x08\x80", 2},                                          /* a number that goes on */
    };
    for (size_t t = 0; t < COUNT_OF(headers); t++)
        for (size_t i = 0; i < COUNT_OF(kinds); i++) {
            struct error error = {0};
            CHECK_STATUS(
                try_bytes(&kinds[i], bytes_of(headers[t].data, headers[t].size), nothing, &error),
                INVALID);
        }
}

TEST(nothing_that_is_refused_touches_the_result) {
    struct error error = {0};
    struct arena own;
    struct admin_reply reply, before;
    arena_create(&own, ARENA_SIZE);
    memset(&reply, 0x5A, sizeof reply);
    memcpy(&before, &reply, sizeof reply);
    struct sample sample = sample_named("admin_reply");
    for (size_t size = 1; size < sample.header.size; size++) {
        arena_reset(&own);
        if (admin_reply_decode((struct frame){.header = {sample.header.data, size}}, &own, &reply,
                               &error) == OK)
            memcpy(&reply, &before, sizeof reply);
        CHECK_MEMORY(&reply, &before, sizeof reply);
    }
    arena_deinit(&own);
}

/* At a quarter of a second each, the test's deadline would end it. */
TEST(the_worst_frame_costs_little) {
    struct buffer raw = {0};
    bomb(&raw, 1000, FRAME_HEADER_LIMIT);
    for (unsigned i = 0; i < 300; i++)
        refused("AdminReply", buffer_bytes(&raw), nothing, "too much memory");
    buffer_deinit(&raw);
}
