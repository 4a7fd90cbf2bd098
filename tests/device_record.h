/* A small federation done on a device, and its record: what a CPU needs to do it again and to
 * compare.
 *
 * Sites make their locals, encode with feedback and apply steps where a GPU is; only messages come
 * back, and the last parameters. tests/fed_device_test.c replays such a record with the rules of
 * the ledger, on a machine that need have no GPU.
 *
 *     "atoll device record 1\n", then little-endian 64-bit numbers: codec, count, fragments,
 *     period, steps, seed; the size of the device's
 *     name and the name; per step: fragment, parts, and per part its scale's bits, its size and the
 *     message; last the parameters
 */
#ifndef TESTS_DEVICE_RECORD_H
#define TESTS_DEVICE_RECORD_H

#include "base/memory.h"
#include "base/random.h"
#include "codec/device.h"
#include "tests/cuda_fixture.h"
#include "tests/test.h"

#define RECORD_TAG "atoll device record 1\n"
enum { RECORD_SITES = 3, RECORD_FRAGMENTS_MAX = 4, RECORD_PERIOD = 2 };
#define RECORD_RATE 0.7
#define RECORD_MOMENTUM 0.9

struct record_shape {
    enum codec codec;
    uint64_t count, fragments, steps, seed;
};

/* As fragment_range of fed/run_state.h, which is not there where only this is built; the replay
 * compares. */
static inline void record_range(const struct record_shape *shape, uint64_t fragment,
                                uint64_t *start, uint64_t *count) {
    uint64_t chunks = shape->count / CODEC_CHUNK;
    uint64_t end = fragment + 1 == shape->fragments
                       ? shape->count
                       : chunks * (fragment + 1) / shape->fragments * CODEC_CHUNK;
    *start = chunks * fragment / shape->fragments * CODEC_CHUNK;
    *count = end - *start;
}

static inline void record_initial(const struct record_shape *shape, float *theta) {
    struct random random;
    random_init(&random, shape->seed);
    for (uint64_t i = 0; i < shape->count; i++) theta[i] = (float)(random_unit(&random) * 2 - 1);
}

/* Rows of their own scale, and rows that no step touches. */
static inline void record_progress(const struct record_shape *shape, uint64_t step, uint64_t site,
                                   float *out) {
    struct random random;
    random_init(&random, random_hash(shape->seed + step, site + 1));
    for (uint64_t i = 0; i < shape->count; i++) {
        float size = (float)(1 << (i / 1000 * 5 % 12)) * 1e-5f;
        out[i] =
            i / 500 % 7 == 3 ? 0 : size * (float)(random_unit(&random) + random_unit(&random) - 1);
    }
}

struct recording {
    const struct cuda_operations *cuda;
    struct record_shape shape;
    struct device_memory theta, momentum, sum, senders, local, noise;
    struct device_memory e[RECORD_SITES][RECORD_FRAGMENTS_MAX];
    struct device_encoder *encoders[RECORD_FRAGMENTS_MAX];
    uint64_t contributions[RECORD_FRAGMENTS_MAX];
    float *host;
};

static inline void recording_open(struct recording *r) {
    struct error error = {0};
    size_t size = r->shape.count * sizeof(float);
    bool sparse = codec_is_sparse(r->shape.codec);
    struct device_memory *const all[] = {&r->theta, &r->momentum, &r->sum, &r->local, &r->noise};
    for (size_t i = 0; i < COUNT_OF(all); i++) must(r->cuda->allocate(size, all[i]));
    must(r->cuda->allocate(r->shape.count * sizeof(uint16_t), &r->senders));
    r->host = xmalloc(size);
    record_initial(&r->shape, r->host);
    must(r->cuda->upload(r->theta, 0, r->host, size));
    for (uint64_t f = 0; f < r->shape.fragments; f++) {
        uint64_t start, count;
        record_range(&r->shape, f, &start, &count);
        CHECK_OK(
            device_encoder_create(r->cuda, r->shape.codec, count, sparse, &r->encoders[f], &error));
        for (size_t s = 0; sparse && s < RECORD_SITES; s++)
            must(r->cuda->allocate(count * sizeof(float), &r->e[s][f]));
    }
}

static inline void recording_close(struct recording *r) {
    struct device_memory *const all[] = {&r->theta,   &r->momentum, &r->sum,
                                         &r->senders, &r->local,    &r->noise};
    for (size_t i = 0; i < COUNT_OF(all); i++) r->cuda->release(*all[i]);
    for (size_t f = 0; f < RECORD_FRAGMENTS_MAX; f++) {
        device_encoder_destroy(r->encoders[f]);
        for (size_t s = 0; s < RECORD_SITES; s++) r->cuda->release(r->e[s][f]);
    }
    free(r->host);
}

/* A site's message for the fragment: local = theta − progress. */
static inline struct buffer record_message(struct recording *r, uint64_t step, uint64_t site,
                                           uint64_t fragment, uint64_t start) {
    struct error error = {0};
    struct buffer message = {0};
    size_t offset = start * sizeof(float);
    record_progress(&r->shape, step, site, r->host);
    must(r->cuda->upload(r->noise, 0, r->host, r->shape.count * sizeof(float)));
    must(r->cuda->subtract(r->local, r->theta, r->noise, r->shape.count));
    CHECK_OK(device_encode(r->encoders[fragment], device_memory_at(r->theta, offset),
                           device_memory_at(r->local, offset),
                           codec_is_sparse(r->shape.codec) ? &r->e[site][fragment] : NULL, &message,
                           &error));
    return message;
}

static inline void record_apply(struct recording *r, uint64_t fragment, uint64_t start,
                                uint64_t count, struct cuda_part *parts, uint32_t part_count) {
    size_t offset = start * sizeof(float);
    struct cuda_round round = {.theta = device_memory_at(r->theta, offset),
                               .sum = device_memory_at(r->sum, offset),
                               .senders = device_memory_at(r->senders, start * sizeof(uint16_t))};
    for (uint32_t i = 0; i < part_count && codec_is_sparse(r->shape.codec);) {
        /* together as far as the round goes */
        uint32_t left = RECORD_PERIOD - (uint32_t)(r->contributions[fragment] % RECORD_PERIOD),
                 now = MIN(part_count - i, left);
        must(r->cuda->codec_step_sparse((uint32_t)r->shape.codec, count, &parts[i], now,
                                        (float)RECORD_RATE, &round));
        i += now;
        r->contributions[fragment] += now;
        if (now < left) continue;
        must(r->cuda->clear(round.sum, 0, count * sizeof(float)));
        must(r->cuda->clear(round.senders, 0, count * sizeof(uint16_t)));
    }
    for (uint32_t i = 0; i < part_count && !codec_is_sparse(r->shape.codec); i++) {
        struct cuda_nesterov step = {.theta = device_memory_at(r->theta, offset),
                                     .momentum = device_memory_at(r->momentum, offset),
                                     .sum = device_memory_at(r->sum, offset),
                                     .rate = (float)RECORD_RATE,
                                     .beta = (float)RECORD_MOMENTUM,
                                     .period = RECORD_PERIOD,
                                     .ends = ++r->contributions[fragment] % RECORD_PERIOD == 0};
        must(r->cuda->codec_step_dense((uint32_t)r->shape.codec, count, &parts[i], &step));
    }
}

static inline void record_step(struct recording *r, uint64_t step, struct buffer *out) {
    struct error error = {0};
    uint64_t fragment = step % r->shape.fragments, start, count;
    uint32_t part_count = 1 + (uint32_t)step % RECORD_SITES;
    struct cuda_part parts[RECORD_SITES];
    record_range(&r->shape, fragment, &start, &count);
    buffer_u64(out, fragment);
    buffer_u64(out, part_count);
    for (uint32_t i = 0; i < part_count; i++) {
        float scale = i == 1 ? 0.625f : 1.0f;
        uint32_t scale_bits;
        memcpy(&scale_bits, &scale, sizeof scale_bits);
        struct buffer message = record_message(r, step, i, fragment, start);
        CHECK_OK(device_part_open(r->cuda, r->shape.codec, buffer_bytes(&message), count, scale,
                                  &parts[i], &error));
        buffer_u64(out, scale_bits);
        buffer_u64(out, message.size);
        buffer_append(out, message.data, message.size);
        buffer_deinit(&message);
    }
    record_apply(r, fragment, start, count, parts, part_count);
    for (uint32_t i = 0; i < part_count; i++) device_part_close(r->cuda, &parts[i]);
}

/* Appends the record of a federation done on the backend's device. */
static inline void record_federation(const struct cuda_backend *backend,
                                     const struct record_shape *shape, struct buffer *out) {
    struct recording r = {.cuda = backend->operations, .shape = *shape};
    recording_open(&r);
    buffer_append(out, RECORD_TAG, strlen(RECORD_TAG));
    const uint64_t head[] = {(uint64_t)shape->codec, shape->count, shape->fragments,
                             RECORD_PERIOD,          shape->steps, shape->seed,
                             strlen(backend->found)};
    for (size_t i = 0; i < COUNT_OF(head); i++) buffer_u64(out, head[i]);
    buffer_append(out, backend->found, strlen(backend->found));
    for (uint64_t step = 0; step < shape->steps; step++) record_step(&r, step, out);
    must(r.cuda->download(r.host, r.theta, 0, shape->count * sizeof(float)));
    buffer_append(out, r.host, shape->count * sizeof(float));
    recording_close(&r);
}

#endif
