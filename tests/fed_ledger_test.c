#include "base/memory.h"
#include "fed/ledger.h"
#include "tests/test.h"

static const enum ledger_kind kinds[] = {
    LEDGER_GENESIS,        LEDGER_SITE_INVITED, LEDGER_SITE_ADDED, LEDGER_SITE_REVOKED,
    LEDGER_CONTRIBUTION,   LEDGER_STEP,         LEDGER_PAUSED,     LEDGER_RESUMED,
    LEDGER_STOPPED,        LEDGER_EPOCH,        LEDGER_RULE,       LEDGER_DROPPED,
    LEDGER_SITE_UNINVITED, LEDGER_SITE_AWAY,    LEDGER_SITE_BACK,  LEDGER_SITE_LEFT};

static struct ledger_entry sample(enum ledger_kind kind) {
    struct ledger_entry entry;
    memset(&entry, 0, sizeof entry);
    entry.kind = kind;
    entry.epoch = 3;
    entry.time_ms = 1700000000001;
    switch (kind) {
    case LEDGER_GENESIS:
        memset(entry.genesis.run_id, 1, RUN_ID_SIZE);
        memset(entry.genesis.coordinator_key, 2, PUBLIC_KEY_SIZE);
        memset(entry.genesis.layout_digest, 3, DIGEST_SIZE);
        memset(entry.genesis.initial_root, 4, DIGEST_SIZE);
        entry.genesis.parameters = 123456789;
        entry.genesis.manifest = bytes_of("name: x\n", 8);
        break;
    case LEDGER_SITE_INVITED:
        strcpy(entry.invited.name, "eu-north-1");
        memset(entry.invited.secret_digest, 5, DIGEST_SIZE);
        entry.invited.expires_ms = 77;
        break;
    case LEDGER_SITE_ADDED:
        entry.added.site = 9;
        strcpy(entry.added.name, "abcdefghijklmnopqrstuvwxyz-01234"); /* as long as there is */
        memset(entry.added.public_key, 6, PUBLIC_KEY_SIZE);
        memset(entry.added.secret_digest, 5, DIGEST_SIZE);
        break;
    case LEDGER_SITE_REVOKED:
        entry.revoked.site = 9;
        strcpy(entry.revoked.reason, "key lost");
        break;
    case LEDGER_CONTRIBUTION:
        memset(entry.contribution.header, 7, CONTRIBUTION_HEADER_SIZE);
        memset(entry.contribution.signature, 8, SIGNATURE_SIZE);
        break;
    case LEDGER_STEP:
        entry.step.fragment = 2;
        entry.step.version = 41;
        entry.step.has_root = true;
        memset(entry.step.root, 9, DIGEST_SIZE);
        entry.step.rate = 0.7f;
        entry.step.period = 5;
        entry.step.count = 3;
        for (uint16_t i = 0; i < 3; i++)
            entry.step.parts[i] = (struct step_part){100 + i, 1.0f / (float)(i + 1)};
        break;
    case LEDGER_PAUSED:
    case LEDGER_RESUMED:
        strcpy(entry.note.reason, "weiter");
        entry.note.token_budget = 123456789012;
        break;
    case LEDGER_STOPPED: strcpy(entry.note.reason, "Schluss f\xC3\xBCr heute"); break;
    case LEDGER_EPOCH: break;
    case LEDGER_SITE_UNINVITED: strcpy(entry.uninvited.name, "lagoon"); break;
    case LEDGER_RULE:
        strcpy(entry.rule.key, "merge.quorum");
        strcpy(entry.rule.value, "3");
        strcpy(entry.rule.reason, "two more sites");
        break;
    case LEDGER_SITE_AWAY:
    case LEDGER_SITE_BACK:
    case LEDGER_SITE_LEFT: entry.presence.site = 9; break;
    case LEDGER_DROPPED:
        entry.dropped.index = 77;
        strcpy(entry.dropped.reason, "its payload is lost");
        break;
    }
    return entry;
}

TEST(every_kind_is_read_back_and_written_again_as_the_same_bytes) {
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        struct ledger_entry entry = sample(kinds[i]), read;
        struct buffer raw = {0}, again = {0};
        struct error error = {0};
        ledger_entry_encode(&entry, &raw);
        CHECK_OK(ledger_entry_decode(buffer_bytes(&raw), &read, &error));
        CHECK_EQUAL(read.kind, kinds[i]);
        CHECK_EQUAL(read.epoch, 3);
        CHECK_EQUAL(read.time_ms, 1700000000001);
        ledger_entry_encode(&read, &again);
        CHECK_EQUAL(again.size, raw.size);
        CHECK_MEMORY(again.data, raw.data, raw.size);
        buffer_deinit(&raw);
        buffer_deinit(&again);
    }
}

TEST(the_fields_of_a_step_and_a_site_come_back) {
    struct ledger_entry entry = sample(LEDGER_STEP), read;
    struct buffer raw = {0};
    struct error error = {0};
    ledger_entry_encode(&entry, &raw);
    CHECK_OK(ledger_entry_decode(buffer_bytes(&raw), &read, &error));
    CHECK_EQUAL(read.step.fragment, 2);
    CHECK_EQUAL(read.step.version, 41);
    CHECK_EQUAL(read.step.count, 3);
    CHECK_NEAR(read.step.rate, 0.7f, 0);
    CHECK_EQUAL(read.step.period, 5);
    CHECK_EQUAL(read.step.parts[2].index, 102);
    CHECK_NEAR(read.step.parts[1].scale, 0.5, 0);
    raw.size = 0;
    entry = sample(LEDGER_SITE_ADDED);
    ledger_entry_encode(&entry, &raw);
    CHECK_OK(ledger_entry_decode(buffer_bytes(&raw), &read, &error));
    CHECK_TEXT(read.added.name, "abcdefghijklmnopqrstuvwxyz-01234");
    CHECK_EQUAL(read.added.site, 9);
    buffer_deinit(&raw);
}

TEST(an_entry_cut_short_anywhere_or_too_long_is_refused) {
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        struct ledger_entry entry = sample(kinds[i]), read;
        struct buffer raw = {0};
        struct error error = {0};
        ledger_entry_encode(&entry, &raw);
        for (size_t size = 0; size < raw.size; size++) {
            /* of its own, so that a sanitizer sees a read past the end */
            uint8_t *copy = malloc(size ? size : 1);
            memcpy(copy, raw.data, size);
            CHECK_STATUS(ledger_entry_decode(bytes_of(copy, size), &read, &error), INVALID);
            free(copy);
        }
        buffer_u8(&raw, 0);
        CHECK_STATUS(ledger_entry_decode(buffer_bytes(&raw), &read, &error), INVALID);
        buffer_deinit(&raw);
    }
}

TEST(a_flipped_bit_is_refused_or_gives_an_entry_of_just_those_bytes) {
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        struct ledger_entry entry = sample(kinds[i]), read;
        struct buffer raw = {0}, again = {0};
        ledger_entry_encode(&entry, &raw);
        for (size_t bit = 0; bit < raw.size * 8; bit++) {
            raw.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
            if (ledger_entry_decode(buffer_bytes(&raw), &read, NULL) == OK) {
                again.size = 0;
                ledger_entry_encode(&read, &again);
                CHECK_EQUAL(again.size, raw.size);
                CHECK_MEMORY(again.data, raw.data, raw.size);
            }
            raw.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        buffer_deinit(&raw);
        buffer_deinit(&again);
    }
}

static void check_refused(struct buffer *raw) {
    struct ledger_entry read;
    struct error error = {0};
    CHECK_STATUS(ledger_entry_decode(buffer_bytes(raw), &read, &error), INVALID);
    raw->size = 0;
}

TEST(kinds_that_do_not_exist_are_refused) {
    for (unsigned kind = 0; kind < 256; kind++) {
        if (kind >= LEDGER_GENESIS && kind <= LEDGER_SITE_LEFT) continue;
        struct buffer raw = {0};
        buffer_u8(&raw, (uint8_t)kind);
        buffer_u32(&raw, 1);
        buffer_u64(&raw, 2);
        check_refused(&raw);
        buffer_deinit(&raw);
    }
}

TEST(steps_with_unordered_parts_bad_scales_or_counts_are_refused) {
    struct buffer raw = {0};
    struct ledger_entry entry = sample(LEDGER_STEP);
    entry.step.parts[1].index = entry.step.parts[0].index;
    ledger_entry_encode(&entry, &raw);
    check_refused(&raw);
    const float bad[] = {NAN, INFINITY, -1.0f, -0.0f};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        entry = sample(LEDGER_STEP);
        entry.step.parts[2].scale = bad[i];
        ledger_entry_encode(&entry, &raw);
        check_refused(&raw);
    }
    const size_t flag_at = 1 + 4 + 8 + 4 + 8, count_at = flag_at + 1 + DIGEST_SIZE + 4 + 4;
    const uint16_t counts[] = {0, STEP_CONTRIBUTIONS_LIMIT + 1, UINT16_MAX};
    for (size_t i = 0; i < COUNT_OF(counts); i++) {
        entry = sample(LEDGER_STEP);
        ledger_entry_encode(&entry, &raw);
        raw.data[count_at] = (uint8_t)counts[i];
        raw.data[count_at + 1] = (uint8_t)(counts[i] >> 8);
        check_refused(&raw);
    }
    entry = sample(LEDGER_STEP);
    ledger_entry_encode(&entry, &raw);
    raw.data[flag_at] = 2;
    check_refused(&raw);
    entry = sample(LEDGER_STEP);
    entry.step.has_root = false;
    ledger_entry_encode(&entry, &raw);
    raw.data[flag_at] = 2; /* neither with a root nor without */
    check_refused(&raw);
    buffer_deinit(&raw);
}

TEST(texts_with_a_tail_without_an_end_or_with_control_characters_are_refused) {
    struct buffer raw = {0};
    struct ledger_entry entry = sample(LEDGER_PAUSED);
    const size_t text_at = 13;
    ledger_entry_encode(&entry, &raw);
    raw.data[text_at + REASON_SIZE - 1] = 'x'; /* after the zero */
    check_refused(&raw);
    ledger_entry_encode(&entry, &raw);
    memset(raw.data + text_at, 'x', REASON_SIZE);
    check_refused(&raw);
    ledger_entry_encode(&entry, &raw);
    raw.data[text_at + 2] = '\n'; /* would forge a line of a log */
    check_refused(&raw);
    ledger_entry_encode(&entry, &raw);
    raw.data[text_at + 2] = 0x1B;
    check_refused(&raw);
    ledger_entry_encode(&entry, &raw);
    memcpy(raw.data + text_at + 2, "\xE2\x80\xAE", 3); /* turns what follows */
    check_refused(&raw);
    buffer_deinit(&raw);
}

TEST(a_manifest_longer_than_its_limit_is_refused_before_it_is_taken) {
    struct buffer raw = {0};
    struct ledger_entry entry = sample(LEDGER_GENESIS);
    entry.genesis.manifest = bytes_of("", 0);
    ledger_entry_encode(&entry, &raw);
    raw.size -= 4;
    buffer_u32(&raw, MANIFEST_LIMIT + 1);
    check_refused(&raw);
    ledger_entry_encode(&entry, &raw);
    raw.size -= 4;
    buffer_u32(&raw, UINT32_MAX);
    check_refused(&raw);
    buffer_deinit(&raw);
}

TEST(names_of_kinds_are_told_even_for_those_that_do_not_exist) {
    CHECK_TEXT(ledger_kind_name(LEDGER_STEP), "step");
    CHECK_TEXT(ledger_kind_name((enum ledger_kind)99), "unknown");
}
