/* A payload is what was signed, whole and decodable, or none is made. */
#include "fed/payload.h"

#include "tests/fed_fixture.h"
#include "tests/test.h"

enum { COUNT = 5000 };

struct signed_bytes { /* a message of the run's codec, and what its header says */
    struct fixture *f;
    struct bytes message;
    struct payload_terms terms;
};

static struct signed_bytes signed_bytes_open(const char *yaml) {
    struct fixture *f = fixture_open(yaml, COUNT);
    float *delta = fixture_delta(f, 0, 0.1f);
    struct bytes message = fixture_payload_of(f, 0, delta);
    struct contribution c = {.payload_size = message.size, .codec = (uint16_t)f->codec};
    digest_sha256(message.data, message.size, c.payload_digest);
    free(delta);
    return (struct signed_bytes){f, message, payload_terms_of(&f->manifest, COUNT, &c)};
}

/* On anything but OK the bytes are still the caller's, and no payload is made. */
static enum status verify(const struct payload_terms *terms, struct bytes message,
                          struct verified_payload **out, struct error *error) {
    struct buffer bytes = {0};
    buffer_append(&bytes, message.data, message.size);
    *out = NULL;
    enum status status = payload_verify(terms, &bytes, out, error);
    CHECK((status == OK) == (*out != NULL));
    CHECK_EQUAL(bytes.size, status == OK ? 0 : message.size);
    buffer_deinit(&bytes);
    return status;
}

static void verify_each_codec(const char *yaml) {
    struct signed_bytes s = signed_bytes_open(yaml);
    struct verified_payload *payload = NULL;
    struct error error = {0};
    double squared = 0;
    CHECK_OK(verify(&s.terms, s.message, &payload, &error));
    CHECK(bytes_equal(payload_bytes(payload), s.message));
    CHECK_OK(codec_walk(s.terms.codec, s.message, COUNT, &squared, NULL, &error));
    CHECK(payload_norm(payload) == sqrt(squared));
    CHECK_EQUAL(payload_terms(payload)->count, COUNT);
    payload_destroy(payload);

    struct payload_terms wrong = s.terms;
    wrong.size++; /* whole, and the header lies about it */
    CHECK_STATUS(verify(&wrong, s.message, &payload, &error), INVALID);
    wrong = s.terms;
    wrong.count--;
    CHECK_STATUS(verify(&wrong, s.message, &payload, &error), INVALID);
    uint8_t *copy = xmalloc(s.message.size);
    memcpy(copy, s.message.data, s.message.size);
    for (size_t i = 0; i < s.message.size; i += 1 + s.message.size / 1000) { /* damaged */
        copy[i] ^= 1;
        CHECK_STATUS(verify(&s.terms, bytes_of(copy, s.message.size), &payload, &error), CORRUPT);
        copy[i] ^= 1;
    }
    struct bytes cut = bytes_of(copy, s.message.size - 1);
    CHECK_STATUS(verify(&s.terms, cut, &payload, &error), CORRUPT);
    wrong = s.terms; /* signed as it is, cut short, digest and all */
    wrong.size--;
    digest_sha256(cut.data, cut.size, wrong.digest);
    CHECK_STATUS(verify(&wrong, cut, &payload, &error), INVALID);
    free(copy);
    fixture_close(s.f);
}

TEST(a_payload_is_the_bytes_that_were_signed_whole_and_decodable) {
    verify_each_codec("");
    verify_each_codec("outer: {mode: dense, period: 2}\n");
    verify_each_codec("outer: {mode: dense, period: 2}\ncodec.kind: fp32\n");
}

TEST(what_is_sealed_here_verifies_there) {
    struct signed_bytes s = signed_bytes_open("");
    struct verified_payload *sealed = NULL, *read = NULL;
    struct buffer bytes = {0};
    struct error error = {0};
    buffer_append(&bytes, s.message.data, s.message.size);
    CHECK_OK(payload_seal(s.terms.codec, COUNT, &bytes, &sealed, &error));
    CHECK_MEMORY(payload_terms(sealed)->digest, s.terms.digest, DIGEST_SIZE);
    CHECK_OK(verify(payload_terms(sealed), s.message, &read, &error));
    CHECK(payload_norm(read) == payload_norm(sealed));
    payload_destroy(read);
    payload_destroy(sealed);
    buffer_append(&bytes, s.message.data, s.message.size - 1);
    CHECK_STATUS(payload_seal(s.terms.codec, COUNT, &bytes, &sealed, &error), INVALID);
    buffer_deinit(&bytes);
    fixture_close(s.f);
}
