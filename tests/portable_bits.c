/* What must have the same bits on every machine, as digests, a line each: the initial parameters,
 * messages of every codec and what is decoded from them, outer steps in both modes, the state root.
 * tests/arm64_test.sh compares two machines' lines.
 *
 * The digest is a plain SHA-256 in place of crypto/'s, so that no library of the other machine is
 * needed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "codec/codec.h"
#include "fed/manifest.h"
#include "fed/merkle.h"
#include "fed/model_state.h"
#include "model/layout.h"
#include "model/presets.h"

/* ---- SHA-256, FIPS 180-4 --------------------------------------------------------------------- */

static uint32_t rotated(uint32_t x, unsigned by) { return x >> by | x << (32 - by); }

/* The constants are the first 32 bits of the fractions of the primes' square and cube roots. */
static uint32_t root_bits(unsigned prime, bool cube) {
    unsigned __int128 wanted = (unsigned __int128)prime << (cube ? 96 : 64);
    uint64_t low = 0, high = UINT64_C(1) << 37;
    while (high - low > 1) {
        unsigned __int128 middle = (low + high) / 2,
                          power = cube ? middle * middle * middle : middle * middle;
        if (power <= wanted)
            low = (uint64_t)middle;
        else
            high = (uint64_t)middle;
    }
    return (uint32_t)low;
}

static uint32_t constants[64], initial[8];

static void make_constants(void) {
    unsigned count = 0;
    for (unsigned n = 2; count < 64; n++) {
        bool prime = true;
        for (unsigned i = 2; i * i <= n; i++) prime &= n % i != 0;
        if (!prime) continue;
        if (count < 8) initial[count] = root_bits(n, false);
        constants[count++] = root_bits(n, true);
    }
}

static void compress(uint32_t h[8], const uint8_t *block) {
    uint32_t w[64], v[8];
    for (unsigned i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
               (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (unsigned i = 16; i < 64; i++)
        w[i] = w[i - 16] + w[i - 7] +
               (rotated(w[i - 15], 7) ^ rotated(w[i - 15], 18) ^ w[i - 15] >> 3) +
               (rotated(w[i - 2], 17) ^ rotated(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(v, h, sizeof v);
    for (unsigned i = 0; i < 64; i++) {
        uint32_t a = v[7] + (rotated(v[4], 6) ^ rotated(v[4], 11) ^ rotated(v[4], 25)) +
                     ((v[4] & v[5]) ^ (~v[4] & v[6])) + constants[i] + w[i];
        uint32_t b = (rotated(v[0], 2) ^ rotated(v[0], 13) ^ rotated(v[0], 22)) +
                     ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += a;
        v[0] = a + b;
    }
    for (unsigned i = 0; i < 8; i++) h[i] += v[i];
}

void digest_pieces(const struct bytes *pieces, size_t count, uint8_t out[static DIGEST_SIZE]) {
    struct buffer all = {0};
    for (size_t i = 0; i < count; i++) buffer_append(&all, pieces[i].data, pieces[i].size);
    uint64_t bits = 8 * (uint64_t)all.size;
    buffer_u8(&all, 0x80);
    while (all.size % 64 != 56) buffer_u8(&all, 0);
    for (unsigned i = 8; i-- > 0;) buffer_u8(&all, (uint8_t)(bits >> 8 * i));
    uint32_t h[8];
    memcpy(h, initial, sizeof h);
    for (size_t at = 0; at < all.size; at += 64) compress(h, all.data + at);
    for (unsigned i = 0; i < 32; i++) out[i] = (uint8_t)(h[i / 4] >> (24 - i % 4 * 8));
    buffer_deinit(&all);
}

void digest_sha256(const void *data, size_t size, uint8_t out[static DIGEST_SIZE]) {
    const struct bytes piece = bytes_of(data, size);
    digest_pieces(&piece, 1, out);
}

void digest_leaf(const void *data, size_t size, uint8_t out[static DIGEST_SIZE]) {
    const struct bytes pieces[] = {bytes_of("\0", 1), bytes_of(data, size)};
    digest_pieces(pieces, 2, out);
}

void digest_children(const uint8_t left[static DIGEST_SIZE],
                     const uint8_t right[static DIGEST_SIZE], uint8_t out[static DIGEST_SIZE]) {
    const struct bytes pieces[] = {bytes_of("\1", 1), bytes_of(left, DIGEST_SIZE),
                                   bytes_of(right, DIGEST_SIZE)};
    digest_pieces(pieces, 3, out);
}

bool digest_equal(const uint8_t a[static DIGEST_SIZE], const uint8_t b[static DIGEST_SIZE]) {
    return memcmp(a, b, DIGEST_SIZE) == 0;
}

/* ---- the lines ------------------------------------------------------------------------------- */

static void tell_digest(const char *name, const uint8_t digest[static DIGEST_SIZE]) {
    printf("%s ", name);
    for (unsigned i = 0; i < DIGEST_SIZE; i++) printf("%02x", digest[i]);
    printf("\n");
}

static void tell(const char *name, const void *data, size_t size) {
    uint8_t digest[DIGEST_SIZE];
    digest_sha256(data, size, digest);
    tell_digest(name, digest);
}

static void need(enum status status, const struct error *error) {
    if (status == OK) return;
    fprintf(stderr, "%s\n", error->message);
    exit(1);
}

static float *numbers(size_t count, uint64_t seed) {
    float *values = xcalloc(count, sizeof *values);
    for (size_t i = 0; i < count; i++) {
        uint64_t r = random_hash(seed, i);
        values[i] = ((float)(int32_t)(uint32_t)r * 0x1p-31f) * (r >> 60 == 0   ? 1e-38f
                                                                : r >> 60 == 1 ? 100.0f
                                                                               : 0.01f);
    }
    return values;
}

static void tell_codec(enum codec codec, size_t count) {
    struct error error = {0};
    struct codec_encoder *encoder;
    struct buffer message = {0};
    char name[64];
    float *base = numbers(count, 1), *local = numbers(count, 2), *feedback = numbers(count, 3),
          *out = xcalloc(count, sizeof *out);
    need(codec_encoder_create(codec, count, &encoder, &error), &error);
    need(codec_encode(encoder, base, local, feedback, &message, &error), &error);
    snprintf(name, sizeof name, "%s-message", codec_name(codec));
    tell(name, message.data, message.size);
    snprintf(name, sizeof name, "%s-feedback", codec_name(codec));
    tell(name, feedback, count * sizeof *feedback);
    need(codec_decode(codec, buffer_bytes(&message), count, out, &error), &error);
    snprintf(name, sizeof name, "%s-decoded", codec_name(codec));
    tell(name, out, count * sizeof *out);
    codec_encoder_destroy(encoder);
    buffer_deinit(&message);
    free(base), free(local), free(feedback), free(out);
}

/* Three steps of two parts each, from the model's initial parameters. */
static void tell_steps(const char *name, enum outer_mode mode, enum codec codec,
                       const struct layout *layout) {
    struct error error = {0};
    struct model_state state;
    struct manifest manifest = {.fragments = 1};
    manifest.outer.mode = mode;
    manifest.outer.learning_rate = 0.7;
    manifest.outer.momentum = 0.9;
    manifest.outer.period = 2;
    manifest.codec.kind = (int)codec;
    size_t count = (size_t)layout->count;
    need(model_state_init(&state, &manifest, count, &error), &error);
    layout_initialise(layout, 7, state.theta);
    struct codec_encoder *encoder;
    need(codec_encoder_create(codec, count, &encoder, &error), &error);
    for (uint64_t version = 1; version <= 3; version++) {
        struct buffer messages[2] = {{0}};
        struct step_input inputs[2];
        struct verified_payload *payloads[2];
        uint8_t root[DIGEST_SIZE];
        char line[64];
        for (unsigned part = 0; part < 2; part++) {
            float *delta = numbers(count, 100 * version + part);
            need(codec_encode(encoder, delta, NULL, NULL, &messages[part], &error), &error);
            need(payload_seal(codec, count, &messages[part], &payloads[part], &error), &error);
            inputs[part] = (struct step_input){payloads[part], part ? 0.3f : 1.0f};
            free(delta);
        }
        need(model_state_step(&state, 0, version, &(struct step_rules){0.7f, 2}, 2, inputs, root,
                              &error),
             &error);
        snprintf(line, sizeof line, "%s-root-%u", name, (unsigned)version);
        tell_digest(line, root);
        for (unsigned part = 0; part < 2; part++) payload_destroy(payloads[part]);
    }
    tell(name, state.theta, count * sizeof(float));
    codec_encoder_destroy(encoder);
    model_state_deinit(&state);
}

int main(void) {
    struct error error = {0};
    struct model_config config;
    struct layout layout;
    make_constants();
    tell("sha256-abc", "abc", 3);
    for (int codec = CODEC_FP32; codec <= CODEC_TOPK2_128; codec++)
        tell_codec((enum codec)codec, 3 * CODEC_CHUNK + 77);
    need(preset_find("300k", &config, &error), &error);
    need(layout_init(&config, &layout, &error), &error);
    float *parameters = xcalloc((size_t)layout.count, sizeof *parameters);
    layout_initialise(&layout, 7, parameters);
    tell("initial-parameters", parameters, (size_t)layout.count * sizeof *parameters);
    tell_steps("dense", OUTER_DENSE, CODEC_INT8, &layout);
    tell_steps("sparse", OUTER_SPARSE, CODEC_TOPK2_64, &layout);
    free(parameters);
    layout_deinit(&layout);
    return 0;
}
