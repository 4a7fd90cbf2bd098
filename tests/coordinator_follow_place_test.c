/* What a follower is sent of an entry: whole, a stub, with or without the payload. */
#include "coordinator/follow_place.h"
#include "tests/test.h"

static bool none(void *context, uint64_t index) {
    (void)context;
    (void)index;
    return false;
}

static bool is_the_one(void *context, uint64_t index) { return index == *(uint64_t *)context; }

/* The entry of a contribution by `site`. */
static void entry_of(uint32_t site, struct buffer *out) {
    struct contribution contribution = {
        .protocol = 1, .site = site, .sequence = 17, .payload_size = 99, .payload_digest = {7}};
    struct ledger_entry entry = {.kind = LEDGER_CONTRIBUTION, .epoch = 3, .time_ms = 12345};
    contribution_encode(&contribution, entry.contribution.header);
    ledger_entry_encode(&entry, out);
}

static struct follow_place place(uint32_t site, uint64_t index, const struct follower *follower) {
    struct buffer raw = {0};
    struct follow_place out;
    struct error error = {0};
    entry_of(site, &raw);
    CHECK_OK(follow_place_of(buffer_bytes(&raw), index, follower, &out, &error));
    buffer_deinit(&raw);
    return out;
}

TEST(an_entry_of_another_site_goes_with_its_payload) {
    struct follower follower = {
        .site = 1, .omit_own = true, .payloads_from = 5, .is_dropped = none};
    struct follow_place got = place(2, 5, &follower);
    CHECK(!got.is_own && !got.is_dropped && got.has_payload);
    CHECK_EQUAL(got.contribution.payload_size, 99);
    CHECK_EQUAL(got.contribution.payload_digest[0], 7);
}

TEST(a_payload_that_the_snapshot_had_stays) {
    struct follower follower = {
        .site = 1, .omit_own = true, .payloads_from = 5, .is_dropped = none};
    struct follow_place got = place(2, 4, &follower);
    CHECK(!got.is_own && !got.is_dropped && !got.has_payload);
}

TEST(an_own_entry_is_a_stub_where_that_was_asked_for) {
    struct follower follower = {.site = 2, .omit_own = true, .is_dropped = none};
    struct follow_place got = place(2, 5, &follower);
    struct buffer raw = {0};
    struct ledger_entry entry;
    uint8_t digest[DIGEST_SIZE];
    entry_of(2, &raw);
    CHECK(ledger_entry_decode(buffer_bytes(&raw), &entry, NULL) == OK);
    contribution_digest(entry.contribution.header, digest);
    struct reader reader = reader_of(bytes_of(digest, sizeof digest));
    CHECK(got.is_own && !got.is_dropped && !got.has_payload);
    CHECK_EQUAL(got.stub.sequence, 17);
    CHECK_EQUAL(got.stub.time_ms, 12345);
    CHECK_EQUAL(got.stub.epoch, 3);
    CHECK_EQUAL(got.stub.header, reader_u32(&reader));
    buffer_deinit(&raw);
    follower.omit_own = false; /* its copy is lost */
    got = place(2, 5, &follower);
    CHECK(!got.is_own && got.has_payload);
}

TEST(what_no_step_will_merge_goes_without_its_payload_and_the_follower_is_told) {
    uint64_t dropped = 5;
    struct follower follower = {
        .site = 1, .omit_own = true, .is_dropped = is_the_one, .context = &dropped};
    struct follow_place got = place(2, 5, &follower);
    CHECK(!got.is_own && got.is_dropped && !got.has_payload);
    got = place(2, 6, &follower);
    CHECK(!got.is_dropped && got.has_payload);
}

TEST(an_entry_of_another_kind_has_no_payload) {
    struct follower follower = {.site = 1, .is_dropped = none};
    struct ledger_entry entry = {.kind = LEDGER_EPOCH, .epoch = 3};
    struct buffer raw = {0};
    struct follow_place got;
    struct error error = {0};
    ledger_entry_encode(&entry, &raw);
    CHECK_OK(follow_place_of(buffer_bytes(&raw), 5, &follower, &got, &error));
    CHECK(!got.is_own && !got.is_dropped && !got.has_payload);
    raw.size--;
    CHECK(follow_place_of(buffer_bytes(&raw), 5, &follower, &got, &error) != OK);
    buffer_deinit(&raw);
}
