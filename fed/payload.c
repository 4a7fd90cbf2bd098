/* Payloads, digested and walked once (fed/payload.h). */
#include "fed/payload.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "fed/run_state.h"

struct verified_payload {
    struct payload_terms terms;
    struct buffer bytes;
    double norm;
    uint64_t *marks; /* of its stretches */
};

struct payload_terms payload_terms_of(const struct manifest *manifest, uint64_t parameters,
                                      const struct contribution *contribution) {
    uint64_t start, count;
    fragment_range(parameters, manifest->fragments, contribution->fragment, &start, &count);
    struct payload_terms terms = {.size = contribution->payload_size,
                                  .codec = (enum codec)contribution->codec,
                                  .count = count};
    memcpy(terms.digest, contribution->payload_digest, DIGEST_SIZE);
    return terms;
}

static enum status walk(const struct payload_terms *terms, struct buffer *bytes,
                        struct verified_payload **out, struct error *error) {
    double squared;
    size_t count = (size_t)terms->count;
    uint64_t *marks = xcalloc(MAX(codec_stretches(count), 1u), sizeof *marks);
    enum status status =
        codec_walk(terms->codec, buffer_bytes(bytes), count, &squared, marks, error);
    if (status != OK) {
        free(marks);
        return status;
    }
    struct verified_payload *payload = xcalloc(1, sizeof *payload);
    *payload = (struct verified_payload){
        .terms = *terms, .bytes = *bytes, .norm = sqrt(squared), .marks = marks};
    *bytes = (struct buffer){0};
    *out = payload;
    return OK;
}

enum status payload_verify(const struct payload_terms *terms, struct buffer *bytes,
                           struct verified_payload **out, struct error *error) {
    uint8_t digest[DIGEST_SIZE];
    digest_sha256(bytes->data, bytes->size, digest);
    if (!digest_equal(digest, terms->digest))
        return error_set(error, CORRUPT, "the payload is not the one that was signed");
    if (bytes->size != terms->size)
        return error_set(error, INVALID, "the payload has %zu bytes, its header names %llu",
                         bytes->size, (unsigned long long)terms->size);
    return walk(terms, bytes, out, error);
}

enum status payload_seal(enum codec codec, uint64_t count, struct buffer *bytes,
                         struct verified_payload **out, struct error *error) {
    struct payload_terms terms = {.size = bytes->size, .codec = codec, .count = count};
    digest_sha256(bytes->data, bytes->size, terms.digest);
    return walk(&terms, bytes, out, error);
}

void payload_destroy(struct verified_payload *payload) {
    if (!payload) return;
    buffer_deinit(&payload->bytes);
    free(payload->marks);
    free(payload);
}

const struct payload_terms *payload_terms(const struct verified_payload *payload) {
    return &payload->terms;
}

struct bytes payload_bytes(const struct verified_payload *payload) {
    return buffer_bytes(&payload->bytes);
}

struct codec_stretch payload_stretch(const struct verified_payload *payload, size_t stretch) {
    return codec_stretch_at((size_t)payload->terms.count, payload->marks, stretch);
}

double payload_norm(const struct verified_payload *payload) { return payload->norm; }
