/* A contribution's signed header (fed/contribution.h): one walk over its fields writes and reads
 * it, so both agree. Decoding takes a peer's bytes and refuses every second way of writing them. */
#include "fed/contribution.h"

#include <math.h>
#include <string.h>

/* The fields stand in one place, in the order of the struct; reading and writing are the same walk
 * over them, so that they cannot drift apart. `walk` holds exactly one of the two directions. */
struct contribution_walk {
    uint8_t *write; /* NULL when reading */
    const uint8_t *read;
    size_t at;
};

static void walk_integer(struct contribution_walk *walk, uint64_t *value, size_t size) {
    if (walk->write) {
        for (size_t i = 0; i < size; i++) walk->write[walk->at + i] = (uint8_t)(*value >> (8 * i));
    } else {
        *value = 0;
        for (size_t i = 0; i < size; i++) *value |= (uint64_t)walk->read[walk->at + i] << (8 * i);
    }
    walk->at += size;
}

static void walk_u16(struct contribution_walk *walk, uint16_t *value) {
    uint64_t wide = *value;
    walk_integer(walk, &wide, 2);
    *value = (uint16_t)wide;
}

static void walk_u32(struct contribution_walk *walk, uint32_t *value) {
    uint64_t wide = *value;
    walk_integer(walk, &wide, 4);
    *value = (uint32_t)wide;
}

static void walk_u64(struct contribution_walk *walk, uint64_t *value) {
    walk_integer(walk, value, 8);
}

static void walk_f32(struct contribution_walk *walk, float *value) {
    uint32_t bits;
    memcpy(&bits, value, sizeof bits);
    walk_u32(walk, &bits);
    memcpy(value, &bits, sizeof bits);
}

static void walk_f64(struct contribution_walk *walk, double *value) {
    uint64_t bits;
    memcpy(&bits, value, sizeof bits);
    walk_u64(walk, &bits);
    memcpy(value, &bits, sizeof bits);
}

static void walk_raw(struct contribution_walk *walk, uint8_t *value, size_t size) {
    if (walk->write)
        memcpy(walk->write + walk->at, value, size);
    else
        memcpy(value, walk->read + walk->at, size);
    walk->at += size;
}

static void walk_fields(struct contribution_walk *walk, struct contribution *c) {
    walk_u16(walk, &c->protocol);
    walk_u16(walk, &c->codec);
    walk_u32(walk, &c->epoch);
    walk_raw(walk, c->run_id, RUN_ID_SIZE);
    walk_u32(walk, &c->site);
    walk_u32(walk, &c->fragment);
    walk_raw(walk, c->key_id, KEY_ID_SIZE);
    walk_u64(walk, &c->sequence);
    walk_u64(walk, &c->base_version);
    walk_raw(walk, c->base_root, DIGEST_SIZE);
    walk_u32(walk, &c->inner_steps);
    walk_u32(walk, &c->reserved);
    walk_u64(walk, &c->tokens);
    walk_f32(walk, &c->loss);
    walk_f32(walk, &c->compute_share);
    walk_f64(walk, &c->norm);
    walk_raw(walk, c->layout_digest, DIGEST_SIZE);
    walk_u64(walk, &c->payload_size);
    walk_raw(walk, c->payload_digest, DIGEST_SIZE);
    walk_raw(walk, c->previous, DIGEST_SIZE);
    walk_u64(walk, &c->signed_at_ms);
    walk_raw(walk, c->manifest_digest, DIGEST_SIZE);
    walk_u64(walk, &c->began_version);
    ASSERT(walk->at == CONTRIBUTION_HEADER_SIZE);
}

void contribution_encode(const struct contribution *contribution,
                         uint8_t out[static CONTRIBUTION_HEADER_SIZE]) {
    struct contribution copy = *contribution; /* the walk's one signature serves both directions */
    struct contribution_walk walk = {.write = out};
    walk_fields(&walk, &copy);
}

/* One number has one encoding here: finite, and no negative zero beside zero. */
static bool is_plain(double value) { return isfinite(value) && !signbit(value); }

enum status contribution_decode(struct bytes header, struct contribution *out,
                                struct error *error) {
    if (header.size != CONTRIBUTION_HEADER_SIZE)
        return error_set(error, INVALID, "contribution header: %zu bytes, not %d", header.size,
                         CONTRIBUTION_HEADER_SIZE);
    struct contribution read = {0};
    struct contribution_walk walk = {.read = header.data};
    walk_fields(&walk, &read);
    if (read.reserved != 0)
        return error_set(error, INVALID, "contribution header: a reserved field is not zero");
    if (!is_plain(read.norm))
        return error_set(error, INVALID,
                         "contribution header: the norm is not a finite number from 0");
    if (!is_plain((double)read.loss))
        return error_set(error, INVALID,
                         "contribution header: the loss is not a finite number from 0");
    if (!is_plain((double)read.compute_share))
        return error_set(error, INVALID,
                         "contribution header: the compute share is not a finite number from 0");
    *out = read;
    return OK;
}

void contribution_sign(const struct key_pair *key,
                       const uint8_t header[static CONTRIBUTION_HEADER_SIZE],
                       uint8_t signature[static SIGNATURE_SIZE]) {
    MUST(sign_message(key, CONTRIBUTION_TAG, bytes_of(header, CONTRIBUTION_HEADER_SIZE), signature,
                      NULL));
}

bool contribution_verify(const uint8_t public_key[static PUBLIC_KEY_SIZE],
                         const uint8_t header[static CONTRIBUTION_HEADER_SIZE],
                         const uint8_t signature[static SIGNATURE_SIZE]) {
    return sign_verify(public_key, CONTRIBUTION_TAG, bytes_of(header, CONTRIBUTION_HEADER_SIZE),
                       bytes_of(signature, SIGNATURE_SIZE), NULL) == OK;
}

void contribution_digest(const uint8_t header[static CONTRIBUTION_HEADER_SIZE],
                         uint8_t out[static DIGEST_SIZE]) {
    digest_sha256(header, CONTRIBUTION_HEADER_SIZE, out);
}
