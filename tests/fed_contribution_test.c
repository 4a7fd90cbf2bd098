#include "fed/contribution.h"
#include "tests/test.h"

static struct contribution sample(void) {
    struct contribution c = {.protocol = 1,
                             .codec = 5,
                             .epoch = 0x01020304,
                             .site = 7,
                             .fragment = 3,
                             .sequence = UINT64_C(0x1122334455667788),
                             .base_version = 99,
                             .inner_steps = 30,
                             .tokens = 123456,
                             .loss = 1.25f,
                             .compute_share = 0.5f,
                             .norm = 3.75,
                             .payload_size = 4242,
                             .signed_at_ms = 1700000000000};
    memset(c.run_id, 0x11, sizeof c.run_id);
    memset(c.key_id, 0x22, sizeof c.key_id);
    memset(c.base_root, 0x33, sizeof c.base_root);
    memset(c.layout_digest, 0x44, sizeof c.layout_digest);
    memset(c.payload_digest, 0x55, sizeof c.payload_digest);
    memset(c.previous, 0x66, sizeof c.previous);
    memset(c.manifest_digest, 0x77, sizeof c.manifest_digest);
    return c;
}

TEST(a_header_is_read_back_field_by_field) {
    struct contribution c = sample(), read;
    uint8_t raw[CONTRIBUTION_HEADER_SIZE], again[CONTRIBUTION_HEADER_SIZE];
    struct error error = {0};
    contribution_encode(&c, raw);
    CHECK_OK(contribution_decode(bytes_of(raw, sizeof raw), &read, &error));
    CHECK_EQUAL(read.protocol, c.protocol);
    CHECK_EQUAL(read.codec, c.codec);
    CHECK_EQUAL(read.epoch, c.epoch);
    CHECK_EQUAL(read.site, c.site);
    CHECK_EQUAL(read.fragment, c.fragment);
    CHECK_EQUAL(read.sequence, c.sequence);
    CHECK_EQUAL(read.base_version, c.base_version);
    CHECK_EQUAL(read.inner_steps, c.inner_steps);
    CHECK_EQUAL(read.tokens, c.tokens);
    CHECK_NEAR(read.loss, c.loss, 0);
    CHECK_NEAR(read.compute_share, c.compute_share, 0);
    CHECK_NEAR(read.norm, c.norm, 0);
    CHECK_EQUAL(read.payload_size, c.payload_size);
    CHECK_EQUAL(read.signed_at_ms, c.signed_at_ms);
    CHECK_MEMORY(read.run_id, c.run_id, RUN_ID_SIZE);
    CHECK_MEMORY(read.key_id, c.key_id, KEY_ID_SIZE);
    CHECK_MEMORY(read.base_root, c.base_root, DIGEST_SIZE);
    CHECK_MEMORY(read.layout_digest, c.layout_digest, DIGEST_SIZE);
    CHECK_MEMORY(read.payload_digest, c.payload_digest, DIGEST_SIZE);
    CHECK_MEMORY(read.previous, c.previous, DIGEST_SIZE);
    CHECK_MEMORY(read.manifest_digest, c.manifest_digest, DIGEST_SIZE);
    contribution_encode(&read, again);
    CHECK_MEMORY(again, raw, sizeof raw);
}

TEST(fields_lie_where_the_format_says_little_endian) {
    struct contribution c = sample();
    uint8_t raw[CONTRIBUTION_HEADER_SIZE];
    contribution_encode(&c, raw);
    CHECK_EQUAL(raw[4], 0x04);   /* epoch */
    CHECK_EQUAL(raw[8], 0x11);   /* run id */
    CHECK_EQUAL(raw[24], 7);     /* site */
    CHECK_EQUAL(raw[32], 0x22);  /* key id */
    CHECK_EQUAL(raw[40], 0x88);  /* sequence */
    CHECK_EQUAL(raw[56], 0x33);  /* base root */
    CHECK_EQUAL(raw[120], 0x44); /* layout */
    CHECK_EQUAL(raw[160], 0x55); /* payload digest */
    CHECK_EQUAL(raw[192], 0x66); /* previous */
    CHECK_EQUAL(raw[232], 0x77); /* manifest */
}

TEST(no_other_length_is_a_header) {
    struct contribution c = sample(), read;
    uint8_t raw[CONTRIBUTION_HEADER_SIZE + 1] = {0};
    struct error error = {0};
    contribution_encode(&c, raw);
    for (size_t size = 0; size <= sizeof raw; size++)
        if (size != CONTRIBUTION_HEADER_SIZE)
            CHECK_STATUS(contribution_decode(bytes_of(raw, size), &read, &error), INVALID);
}

TEST(a_flipped_bit_is_refused_or_gives_another_header_of_the_same_bytes) {
    struct contribution c = sample();
    uint8_t raw[CONTRIBUTION_HEADER_SIZE], again[CONTRIBUTION_HEADER_SIZE];
    contribution_encode(&c, raw);
    for (size_t bit = 0; bit < sizeof raw * 8; bit++) {
        raw[bit / 8] ^= (uint8_t)(1 << bit % 8);
        struct contribution read;
        if (contribution_decode(bytes_of(raw, sizeof raw), &read, NULL) == OK) {
            contribution_encode(&read, again);
            CHECK_MEMORY(again, raw, sizeof raw);
        }
        raw[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

static void check_refused(const struct contribution *c) {
    uint8_t raw[CONTRIBUTION_HEADER_SIZE];
    struct contribution read;
    struct error error = {0};
    contribution_encode(c, raw);
    CHECK_STATUS(contribution_decode(bytes_of(raw, sizeof raw), &read, &error), INVALID);
}

TEST(reserved_fields_and_numbers_that_are_none_are_refused) {
    struct contribution c = sample();
    c.reserved = 1;
    check_refused(&c);
    const double bad[] = {(double)NAN, (double)INFINITY, -(double)INFINITY, -1, -0.0};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        c = sample();
        c.norm = bad[i];
        check_refused(&c);
        c = sample();
        c.loss = (float)bad[i];
        check_refused(&c);
        c = sample();
        c.compute_share = (float)bad[i];
        check_refused(&c);
    }
}

TEST(a_signature_holds_for_these_bytes_this_key_and_this_kind_of_object) {
    uint8_t seed[KEY_SEED_SIZE] = {1}, seed2[KEY_SEED_SIZE] = {2};
    struct key_pair *key = NULL, *other = NULL;
    struct error error = {0};
    CHECK_OK(key_pair_from_seed(seed, &key, &error));
    CHECK_OK(key_pair_from_seed(seed2, &other, &error));
    struct contribution c = sample();
    uint8_t raw[CONTRIBUTION_HEADER_SIZE], signature[SIGNATURE_SIZE];
    contribution_encode(&c, raw);
    contribution_sign(key, raw, signature);
    CHECK(contribution_verify(key_pair_public(key), raw, signature));
    CHECK(!contribution_verify(key_pair_public(other), raw, signature));
    for (size_t i = 0; i < sizeof raw; i++) {
        raw[i] ^= 1;
        CHECK(!contribution_verify(key_pair_public(key), raw, signature));
        raw[i] ^= 1;
    }
    CHECK_OK(sign_message(key, "atoll receipt 1", bytes_of(raw, sizeof raw), signature, &error));
    CHECK(!contribution_verify(key_pair_public(key), raw, signature));
    key_pair_destroy(key);
    key_pair_destroy(other);
}
