/* What a step of a large model costs who applies it, on one thread and on all: the check of a
 * message, the encoding of one, and a step of 1 and of 8 parts with its root; beside them what the
 * memory and SHA-256 of this machine allow.
 *
 *     bench/scale [PARAMETERS [CODEC]]      (default 100,000,000 topk2-64; 10^9 take 10 GB)
 *
 * Messages are of made-up deltas with heavy tails. Times are the best of three.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/thread.h"
#include "base/thread_pool.h"
#include "fed/model_state.h"

enum { ROUNDS = 3, PARTS = 8, MESSAGES = 2 };

/* Cheap, and the same everywhere: the cube of a value between -1 and 1, hashed from its place. */
static float delta_at(uint64_t seed, uint64_t i) {
    uint64_t x = (i + 1) * UINT64_C(0x9E3779B97F4A7C15) ^ seed * UINT64_C(0xD1B54A32D192ED03);
    x ^= x >> 29;
    x *= UINT64_C(0xBF58476D1CE4E5B9);
    x ^= x >> 32;
    float unit = (float)(int32_t)(uint32_t)x * 0x1p-31f;
    return unit * unit * unit * 1e-3f;
}

struct filling {
    float *x;
    uint64_t count, seed;
};

static void fill_piece(void *context, uint64_t piece, uint32_t worker) {
    const struct filling *filling = context;
    (void)worker;
    uint64_t end = MIN(filling->count, (piece + 1) * STATE_PIECE);
    for (uint64_t i = piece * STATE_PIECE; i < end; i++) filling->x[i] = delta_at(filling->seed, i);
}

struct bench {
    enum codec codec;
    uint64_t count;
    struct thread_pool *all;
    struct verified_payload *payloads[MESSAGES];
};

static double seconds(uint64_t start_ns) {
    return 1e-9 * (double)(clock_monotonic_ns() - start_ns);
}

static void line(const char *what, double one, double all) {
    printf("%-34s %9.3f", what, one);
    if (all > 0) printf(" %9.3f %8.2f", all, one / all);
    printf("\n");
    fflush(stdout);
}

static enum status encode(struct bench *b, struct error *error) {
    struct codec_encoder *encoder = NULL;
    struct buffer message = {0};
    float *x = NULL, *e = NULL;
    void *memory = NULL;
    double encoded[2] = {INFINITY, INFINITY}, checked = INFINITY;
    enum status status = codec_encoder_create(b->codec, (size_t)b->count, &encoder, error);
    if (status == OK) status = memory_try((size_t)b->count, sizeof *x, &memory, error);
    x = memory;
    memory = NULL;
    if (status == OK && codec_is_sparse(b->codec))
        status = memory_try((size_t)b->count, sizeof *e, &memory, error);
    e = memory;
    for (uint64_t i = 0; status == OK && i < MESSAGES; i++) {
        struct filling filling = {x, b->count, i};
        thread_pool_run(b->all, state_pieces(b->count), fill_piece, &filling);
        uint64_t start;
        for (int at = 0; status == OK && at < 2; at++) {
            message.size = 0;
            codec_encoder_share(encoder, at ? b->all : NULL);
            start = clock_monotonic_ns();
            status = codec_encode(encoder, x, NULL, e, &message, error);
            encoded[at] = fmin(encoded[at], seconds(start));
        }
        start = clock_monotonic_ns();
        if (status == OK)
            status = payload_seal(b->codec, b->count, &message, &b->payloads[i], error);
        checked = fmin(checked, seconds(start));
        message.size = 0;
    }
    if (status == OK) {
        line("encode, with error feedback", encoded[0], encoded[1]);
        line("check of a message, digest included", checked, 0);
    }
    codec_encoder_destroy(encoder);
    buffer_deinit(&message);
    free(x);
    free(e);
    return status;
}

static enum status step(struct bench *b, struct model_state *model, uint32_t parts, bool rooted,
                        struct thread_pool *pool, double *best, struct error *error) {
    const struct step_rules rules = {.rate = 0.7f, .period = 4};
    uint8_t root[DIGEST_SIZE];
    model->pool = pool;
    *best = INFINITY;
    for (int round = 0; round < ROUNDS; round++) {
        struct step_input inputs[PARTS];
        for (uint32_t i = 0; i < parts; i++)
            inputs[i] = (struct step_input){b->payloads[i % MESSAGES], 0.5f};
        uint64_t start = clock_monotonic_ns();
        TRY(model_state_step(model, 0, model->version + 1, &rules, parts, inputs,
                             rooted ? root : NULL, error));
        *best = fmin(*best, seconds(start));
    }
    return OK;
}

static enum status steps(struct bench *b, struct error *error) {
    struct manifest manifest;
    struct model_state model;
    manifest_defaults(&manifest);
    manifest.outer.mode = codec_is_sparse(b->codec) ? OUTER_SPARSE : OUTER_DENSE;
    TRY(model_state_init(&model, &manifest, b->count, error));
    struct filling filling = {model.theta, b->count, 99};
    thread_pool_run(b->all, state_pieces(b->count), fill_piece, &filling);
    enum status status = OK;
    static const struct {
        const char *name;
        uint32_t parts;
        bool rooted;
    } arms[] = {{"step of 1 part", 1, false},
                {"step of 8 parts", 8, false},
                {"step of 1 part, with its root", 1, true},
                {"step of 8 parts, with its root", 8, true}};
    for (size_t i = 0; status == OK && i < COUNT_OF(arms); i++) {
        double one, all;
        status = step(b, &model, arms[i].parts, arms[i].rooted, NULL, &one, error);
        if (status == OK)
            status = step(b, &model, arms[i].parts, arms[i].rooted, b->all, &all, error);
        if (status == OK) line(arms[i].name, one, all);
    }
    /* a limit that nothing can beat: the same bytes only hashed, only read and written once */
    double hashed[2] = {INFINITY, INFINITY}, copied = INFINITY;
    for (int round = 0; status == OK && round < ROUNDS; round++) {
        for (int at = 0; at < 2; at++) {
            uint8_t root[DIGEST_SIZE];
            model.pool = at ? b->all : NULL;
            model_state_changed(&model);
            uint64_t start = clock_monotonic_ns();
            model_state_root(&model, root);
            hashed[at] = fmin(hashed[at], seconds(start));
        }
        uint64_t start = clock_monotonic_ns();
        memcpy(model.accumulated, model.theta, (size_t)b->count * sizeof(float));
        copied = fmin(copied, seconds(start));
    }
    if (status == OK) {
        line("SHA-256 of theta (the root)", hashed[0], hashed[1]);
        line("memcpy of theta", copied, 0);
    }
    model_state_deinit(&model);
    return status;
}

int main(int argc, char **argv) {
    struct bench b = {.codec = CODEC_TOPK2_64, .count = 100000000};
    struct error error = {0};
    if (argc > 1) b.count = strtoull(argv[1], NULL, 10);
    enum status status = argc > 2 ? codec_parse(argv[2], &b.codec, &error) : OK;
    if (b.count == 0 || argc > 3 || status != OK) {
        fprintf(stderr, "usage: scale [PARAMETERS [CODEC]]\n");
        return 2;
    }
    status = thread_pool_create("bench", 0, &b.all, &error);
    if (status == OK) {
        printf("%llu parameters, %s; seconds\n%-34s %9s %7u thr %8s\n", (unsigned long long)b.count,
               codec_name(b.codec), "", "1 thread", thread_pool_workers(b.all), "faster");
        status = encode(&b, &error);
    }
    if (status == OK) status = steps(&b, &error);
    if (status != OK) fprintf(stderr, "bench scale: %s\n", error.message);
    for (int i = 0; i < MESSAGES; i++) payload_destroy(b.payloads[i]);
    thread_pool_destroy(b.all);
    return status != OK;
}
