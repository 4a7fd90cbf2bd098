#include "tests/fed_fixture.h"

static const struct admission_limits limits = {.now_ms = FIXTURE_NOW + 1000,
                                               .max_payload = UINT64_MAX};

/* What admission says to the header of `c`, signed by the key of `signer`, that came with `site`'s
 * certificate. */
static enum refusal ask(struct fixture *f, uint32_t site, const struct contribution *c,
                        uint32_t signer) {
    uint8_t header[CONTRIBUTION_HEADER_SIZE], signature[SIGNATURE_SIZE];
    struct contribution out;
    struct error why = {0};
    contribution_encode(c, header);
    contribution_sign(f->keys[signer], header, signature);
    enum refusal refusal =
        admission_header(f->run, site, bytes_of(header, sizeof header),
                         bytes_of(signature, sizeof signature), &limits, &out, &why);
    if (refusal == ACCEPTED) {
        uint8_t again[CONTRIBUTION_HEADER_SIZE];
        contribution_encode(&out, again);
        CHECK_MEMORY(again, header, sizeof header);
    } else {
        CHECK(why.message[0] != 0);
    }
    return refusal;
}

static struct contribution next_of(struct fixture *f, uint32_t site, uint32_t fragment,
                                   uint64_t base) {
    float *delta = fixture_delta(f, fragment, 0.01f);
    struct contribution c =
        fixture_contribution(f, site, fragment, base, fixture_payload_of(f, fragment, delta));
    free(delta);
    return c;
}

#define CHECK_REFUSAL(got, wanted) CHECK_TEXT(refusal_name(got), refusal_name(wanted))

static struct fixture *small_run(void) {
    struct fixture *f = fixture_open("merge.staleness_cap: 2\nfragments: 2\n", 9000);
    fixture_sites(f, 3);
    return f;
}

TEST(a_good_header_is_accepted_and_handed_over) {
    struct fixture *f = small_run();
    struct contribution c = next_of(f, 1, 0, 0);
    uint64_t size = run_state_size(f->run);
    CHECK_REFUSAL(ask(f, 1, &c, 1), ACCEPTED);
    memset(c.base_root, 0, DIGEST_SIZE); /* a site that keeps no roots */
    CHECK_REFUSAL(ask(f, 1, &c, 1), ACCEPTED);
    CHECK_EQUAL(run_state_size(f->run), size);
    fixture_close(f);
}

TEST(a_stranger_or_the_wrong_certificate_is_an_unknown_site) {
    struct fixture *f = small_run();
    struct contribution c = next_of(f, 1, 0, 0);
    CHECK_REFUSAL(ask(f, 0, &c, 1), REFUSED_UNKNOWN_SITE);
    CHECK_REFUSAL(ask(f, 4, &c, 1), REFUSED_UNKNOWN_SITE);
    CHECK_REFUSAL(ask(f, 2, &c, 2), REFUSED_UNKNOWN_SITE); /* 2 signs in 1's name */
    fixture_close(f);
}

TEST(another_key_another_key_id_or_a_short_signature_is_refused) {
    struct fixture *f = small_run();
    struct contribution c = next_of(f, 1, 0, 0), out;
    CHECK_REFUSAL(ask(f, 1, &c, 2), REFUSED_SIGNATURE);
    CHECK_REFUSAL(ask(f, 2, &c, 1), REFUSED_SIGNATURE);
    uint8_t header[CONTRIBUTION_HEADER_SIZE], signature[SIGNATURE_SIZE];
    contribution_encode(&c, header);
    contribution_sign(f->keys[1], header, signature);
    CHECK_REFUSAL(admission_header(f->run, 1, bytes_of(header, sizeof header),
                                   bytes_of(signature, 63), &limits, &out, NULL),
                  REFUSED_SIGNATURE);
    CHECK_REFUSAL(admission_header(f->run, 1, bytes_of(header, sizeof header), bytes_of(NULL, 0),
                                   &limits, &out, NULL),
                  REFUSED_SIGNATURE);
    c.key_id[0] ^= 1;
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_SIGNATURE);
    fixture_close(f);
}

TEST(a_revoked_site_is_told_so_whatever_it_sends) {
    struct fixture *f = small_run();
    fixture_revoke(f, 1);
    struct contribution c = next_of(f, 1, 0, 0);
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_REVOKED);
    CHECK_REFUSAL(ask(f, 1, &c, 2), REFUSED_REVOKED);
    fixture_close(f);
}

/* Such values are finite, and yet no step could be computed with them: the run would stand still
 * for ever. */
TEST(a_norm_that_a_step_could_not_bear_is_refused_as_divergence) {
    struct fixture *f = small_run();
    struct contribution c = next_of(f, 1, 0, 0);
    c.norm = NORM_LIMIT;
    CHECK_REFUSAL(ask(f, 1, &c, 1), ACCEPTED); /* until its payload is read */
    c.norm = nextafter(NORM_LIMIT, INFINITY);
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_NONFINITE);
    c.norm = 2.67e39;
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_NONFINITE);
    fixture_close(f);
}

TEST(another_run_manifest_protocol_or_layout_is_refused) {
    struct fixture *f = small_run();
    struct contribution good = next_of(f, 1, 0, 0), c = good;
    c.run_id[5] ^= 1;
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_RUN);
    c = good;
    c.manifest_digest[31] ^= 1;
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_RUN);
    c = good;
    c.protocol = 0;
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_RUN);
    c.protocol = PROTOCOL_VERSION + 1;
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_RUN);
    c = good;
    c.layout_digest[0] ^= 1;
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_LAYOUT);
    struct run_state *empty = run_state_create();
    CHECK_REFUSAL(
        admission_header(empty, 1, bytes_of(NULL, 0), bytes_of(NULL, 0), &limits, &c, NULL),
        REFUSED_RUN);
    run_state_destroy(empty);
    fixture_close(f);
}

TEST(headers_without_form_are_malformed) {
    struct fixture *f = small_run();
    struct contribution good = next_of(f, 1, 0, 0), c = good, out;
    uint8_t header[CONTRIBUTION_HEADER_SIZE + 1] = {0}, signature[SIGNATURE_SIZE] = {0};
    for (size_t size = 0; size <= sizeof header; size += 17)
        CHECK_REFUSAL(admission_header(f->run, 1, bytes_of(header, size),
                                       bytes_of(signature, SIGNATURE_SIZE), &limits, &out, NULL),
                      size == CONTRIBUTION_HEADER_SIZE ? REFUSED_SIGNATURE : REFUSED_MALFORMED);
    c.reserved = 1;
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_MALFORMED);
    c.norm = (double)NAN; /* broken twice: the form comes first */
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_MALFORMED);
    c = good;
    c.norm = -1;
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_MALFORMED);
    c = good;
    c.codec = CODEC_INT8;
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_MALFORMED);
    c = good;
    c.fragment = 2;
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_MALFORMED);
    c.fragment = UINT32_MAX;
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_MALFORMED);
    c = good;
    c.sequence = 0;
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_MALFORMED);
    c = good;
    c.inner_steps = 0;
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_MALFORMED);
    c = good;
    c.tokens = TOKENS_LIMIT + 1;
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_MALFORMED);
    c = good;
    c.compute_share = 1.01f;
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_MALFORMED);
    fixture_close(f);
}

TEST(numbers_that_diverged_are_told_apart_from_broken_headers) {
    struct fixture *f = small_run();
    struct contribution good = next_of(f, 1, 0, 0), c = good;
    c.loss = NAN;
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_NONFINITE);
    c = good;
    c.norm = (double)INFINITY;
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_NONFINITE);
    fixture_close(f);
}

TEST(a_repetition_is_a_duplicate_whatever_happened_since) {
    struct fixture *f = small_run();
    struct contribution first = next_of(f, 1, 0, 0);
    struct ledger_entry entry = fixture_signed(f, &first, f->keys[1]);
    fixture_append(f, &entry);
    CHECK_REFUSAL(ask(f, 1, &first, 1), REFUSED_DUPLICATE);
    fixture_step(f, 0, 1);
    for (uint64_t v = 1; v <= 4; v++) {
        fixture_contribute(f, 1, 0, v, 0.1f);
        fixture_step(f, 0, 1);
    }
    fixture_note(f, LEDGER_PAUSED);
    CHECK_REFUSAL(ask(f, 1, &first, 1), REFUSED_DUPLICATE); /* stale, paused */
    fixture_note(f, LEDGER_EPOCH);
    CHECK_REFUSAL(ask(f, 1, &first, 1), REFUSED_DUPLICATE); /* of an older epoch */
    fixture_note(f, LEDGER_STOPPED);
    CHECK_REFUSAL(ask(f, 1, &first, 1), REFUSED_DUPLICATE);
    first.tokens++;
    CHECK_REFUSAL(ask(f, 1, &first, 1), REFUSED_SEQUENCE); /* same number, other content */
    fixture_close(f);
}

TEST(sequences_that_do_not_follow_are_refused) {
    struct fixture *f = small_run();
    fixture_contribute(f, 1, 0, 0, 0.1f);
    fixture_step(f, 0, 1);
    struct contribution good = next_of(f, 1, 0, 1), c = good;
    c.previous[0] ^= 1;
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_SEQUENCE);
    memset(c.previous, 0, DIGEST_SIZE);
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_SEQUENCE);
    c = good;
    c.sequence = 1;
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_SEQUENCE);
    c = good;
    const uint64_t last = run_state_site(f->run, 1)->last_sequence;
    c.sequence = last + SEQUENCE_LEAD_LIMIT;
    CHECK_REFUSAL(ask(f, 1, &c, 1), ACCEPTED);
    c.sequence++;
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_SEQUENCE);
    c.sequence = UINT64_MAX; /* would be its last */
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_SEQUENCE);
    fixture_close(f);
}

TEST(pauses_ends_budgets_and_epochs_are_told_apart) {
    struct fixture *f = fixture_open("token_budget: 1000\n", 5000);
    fixture_sites(f, 1);
    struct contribution c = next_of(f, 1, 0, 0);
    c.epoch++;
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_EPOCH);
    c.epoch = 0;
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_EPOCH);
    fixture_note(f, LEDGER_PAUSED);
    c = next_of(f, 1, 0, 0);
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_PAUSED);
    fixture_note(f, LEDGER_RESUMED);
    CHECK_REFUSAL(ask(f, 1, &c, 1), ACCEPTED);
    fixture_contribute(f, 1, 0, 0, 0.1f);
    c = next_of(f, 1, 0, 0);
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_PAUSED); /* the budget */
    fixture_note(f, LEDGER_STOPPED);
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_STOPPED);
    fixture_close(f);
}

TEST(a_base_that_is_not_there_or_differs_is_refused_and_a_stale_one_told_to_rebase) {
    struct fixture *f = small_run();
    for (uint64_t v = 0; v < 3; v++) {
        fixture_contribute(f, 1, 0, v, 0.1f);
        fixture_step(f, 0, 1);
    }
    struct contribution c = next_of(f, 2, 0, 3);
    CHECK_REFUSAL(ask(f, 2, &c, 2), ACCEPTED);
    c.base_version = 4;
    CHECK_REFUSAL(ask(f, 2, &c, 2), REFUSED_BASE);
    c.base_version = UINT64_MAX;
    CHECK_REFUSAL(ask(f, 2, &c, 2), REFUSED_BASE);
    c = next_of(f, 2, 0, 3);
    c.base_root[7] ^= 1;
    CHECK_REFUSAL(ask(f, 2, &c, 2), REFUSED_BASE);
    c = next_of(f, 2, 0, 1);
    CHECK_REFUSAL(ask(f, 2, &c, 2), ACCEPTED); /* staleness 2, the cap */
    c = next_of(f, 2, 0, 0);
    CHECK_REFUSAL(ask(f, 2, &c, 2), REFUSED_REBASE);
    c = next_of(f, 2, 1, 0);
    CHECK_REFUSAL(ask(f, 2, &c, 2), ACCEPTED); /* the other fragment has made no step */
    fixture_contribute(f, 1, 0, 3, 0.1f);
    fixture_step(f, 0, 1);
    c = next_of(f, 2, 0, 0);
    CHECK_REFUSAL(ask(f, 2, &c, 2), REFUSED_REBASE); /* no longer remembered */
    fixture_close(f);
}

TEST(a_second_contribution_of_a_fragment_waits_but_what_is_wrong_with_it_is_told_at_once) {
    struct fixture *f = small_run();
    fixture_contribute(f, 1, 0, 0, 0.1f);
    struct contribution c = next_of(f, 1, 0, 0);
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_BUSY);
    CHECK(refusal_is_temporary(REFUSED_BUSY));
    c.signed_at_ms = 1;
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_EXPIRED);
    c = next_of(f, 1, 1, 0);
    CHECK_REFUSAL(ask(f, 1, &c, 1), ACCEPTED);
    fixture_close(f);
}

TEST(payloads_beyond_a_bound_are_refused_before_they_come) {
    struct fixture *f = small_run();
    struct contribution c = next_of(f, 1, 0, 0), out;
    c.payload_size = codec_bound(f->manifest.codec.kind, 4096);
    CHECK_REFUSAL(ask(f, 1, &c, 1), ACCEPTED);
    c.payload_size++;
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_SIZE);
    c.payload_size = UINT64_MAX;
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_SIZE);
    c.payload_size = 0;
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_SIZE);
    c.payload_size = 101;
    uint8_t header[CONTRIBUTION_HEADER_SIZE], signature[SIGNATURE_SIZE];
    contribution_encode(&c, header);
    contribution_sign(f->keys[1], header, signature);
    const struct admission_limits tight = {.now_ms = FIXTURE_NOW, .max_payload = 100};
    CHECK_REFUSAL(admission_header(f->run, 1, bytes_of(header, sizeof header),
                                   bytes_of(signature, sizeof signature), &tight, &out, NULL),
                  REFUSED_SIZE);
    fixture_close(f);
}

TEST(messages_expire_both_ways_unless_the_manifest_says_never) {
    struct fixture *f = fixture_open("admission.expiry: 10s\n", 5000);
    fixture_sites(f, 1);
    struct contribution c = next_of(f, 1, 0, 0);
    c.signed_at_ms = limits.now_ms - 10000;
    CHECK_REFUSAL(ask(f, 1, &c, 1), ACCEPTED);
    c.signed_at_ms--;
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_EXPIRED);
    c.signed_at_ms = limits.now_ms + 10000;
    CHECK_REFUSAL(ask(f, 1, &c, 1), ACCEPTED);
    c.signed_at_ms++;
    CHECK_REFUSAL(ask(f, 1, &c, 1), REFUSED_EXPIRED);
    fixture_close(f);
    f = fixture_open("admission.expiry: 0\n", 5000);
    fixture_sites(f, 1);
    c = next_of(f, 1, 0, 0);
    c.signed_at_ms = 0;
    CHECK_REFUSAL(ask(f, 1, &c, 1), ACCEPTED);
    fixture_close(f);
}

/* --- payloads --- */
enum { COUNT = 5000 };

static enum refusal ask_payload(struct fixture *f, const struct contribution *c,
                                struct bytes payload) {
    struct error why = {0};
    struct buffer bytes = {0};
    buffer_append(&bytes, payload.data, payload.size);
    enum refusal refusal = admission_payload(c, &f->manifest, COUNT, &bytes, &why);
    CHECK(!bytes.data); /* taken */
    CHECK((refusal == ACCEPTED) == (why.message[0] == 0));
    return refusal;
}

static void payload_checks(const char *yaml) {
    struct fixture *f = fixture_open(yaml, COUNT);
    fixture_sites(f, 1);
    float *delta = fixture_delta(f, 0, 0.01f);
    struct bytes payload = fixture_payload_of(f, 0, delta);
    struct contribution good = fixture_contribution(f, 1, 0, 0, payload), c = good;
    CHECK_REFUSAL(ask_payload(f, &c, payload), ACCEPTED);
    CHECK_REFUSAL(ask_payload(f, &c, bytes_of(payload.data, payload.size - 1)), REFUSED_DIGEST);
    c.payload_size--;
    CHECK_REFUSAL(ask_payload(f, &c, payload), REFUSED_SIZE);
    c = good;
    c.norm = nextafter(c.norm, 0);
    CHECK_REFUSAL(ask_payload(f, &c, payload), REFUSED_NORM);
    uint8_t *copy = xmalloc(payload.size + 1);
    for (size_t i = 0; i < payload.size; i += 1 + payload.size / 300) {
        c = good;
        memcpy(copy, payload.data, payload.size);
        copy[i] ^= 0x40;
        CHECK_REFUSAL(ask_payload(f, &c, bytes_of(copy, payload.size)), REFUSED_DIGEST);
        /* Signed as it is: refused, or another message with another norm or, for a flipped sign,
         * the same one. */
        digest_sha256(copy, payload.size, c.payload_digest);
        enum refusal refusal = ask_payload(f, &c, bytes_of(copy, payload.size));
        CHECK(refusal == REFUSED_MALFORMED || refusal == REFUSED_NONFINITE ||
              refusal == REFUSED_NORM || refusal == ACCEPTED);
    }
    c = good; /* one byte more, honestly announced */
    memcpy(copy, payload.data, payload.size);
    copy[payload.size] = 0;
    c.payload_size++;
    digest_sha256(copy, payload.size + 1, c.payload_digest);
    CHECK_REFUSAL(ask_payload(f, &c, bytes_of(copy, payload.size + 1)), REFUSED_MALFORMED);
    free(copy);
    free(delta);
    fixture_close(f);
}

TEST(payloads_are_checked_for_size_digest_form_and_norm_in_every_codec) {
    payload_checks("");
    payload_checks("codec.kind: topk2-128\n");
    payload_checks("outer: {mode: dense, period: 2}\n");
    payload_checks("outer: {mode: dense, period: 2}\ncodec.kind: fp4\n");
    payload_checks("outer: {mode: dense, period: 2}\ncodec.kind: bf16\n");
    payload_checks("outer: {mode: dense, period: 2}\ncodec.kind: fp32\n");
}

static void poison_checks(const char *yaml, size_t width) {
    struct fixture *f = fixture_open(yaml, COUNT);
    fixture_sites(f, 1);
    float *delta = fixture_delta(f, 0, 0.01f);
    struct bytes payload = fixture_payload_of(f, 0, delta);
    /* inf, NaN, -inf, NaN */
    static const uint8_t poisons[][2] = {{0x80, 0x7F}, {0xC0, 0x7F}, {0x80, 0xFF}, {0x81, 0x7F}};
    const size_t places[] = {0, COUNT / 2, COUNT - 1};
    for (size_t i = 0; i < COUNT_OF(poisons); i++)
        for (size_t p = 0; p < COUNT_OF(places); p++) {
            struct contribution c = fixture_contribution(f, 1, 0, 0, payload);
            uint8_t *copy = xmalloc(payload.size);
            memcpy(copy, payload.data, payload.size);
            memcpy(copy + CODEC_HEADER_SIZE + (places[p] + 1) * width - 2, poisons[i], 2);
            digest_sha256(copy, payload.size, c.payload_digest);
            CHECK_REFUSAL(ask_payload(f, &c, bytes_of(copy, payload.size)), REFUSED_NONFINITE);
            free(copy);
        }
    free(delta);
    fixture_close(f);
}

TEST(one_value_that_is_not_finite_is_found_wherever_it_hides) {
    poison_checks("outer: {mode: dense, period: 2}\ncodec.kind: fp32\n", 4);
    poison_checks("outer: {mode: dense, period: 2}\ncodec.kind: bf16\n", 2);
}

TEST(every_refusal_has_a_name_and_an_advice_and_three_are_temporary) {
    for (unsigned i = 0; i < REFUSAL_COUNT; i++) {
        CHECK(strlen(refusal_name(i)) > 2 && strlen(refusal_advice(i)) > 10);
        CHECK_EQUAL(refusal_is_temporary(i),
                    i == REFUSED_PAUSED || i == REFUSED_BUSY || i == REFUSED_HELD);
        for (unsigned j = 0; j < i; j++) CHECK(strcmp(refusal_name(i), refusal_name(j)) != 0);
    }
    CHECK_TEXT(refusal_name(REFUSAL_COUNT), "unknown");
    CHECK_TEXT(refusal_name(UINT32_MAX), "unknown");
    CHECK(!refusal_is_temporary(UINT32_MAX));
}
