/* Bits per parameter, speed and quantisation error of every codec, on made-up deltas of three
 * kinds:
 *     even       normal, one scale
 *     rows       normal, each row of 128 and each column of its own scale (log-normal): embeddings,
 *                attention
 *     tensors    heavy-tailed, and a scale of its own every 100,003 elements
 *
 *     bench/codec [ELEMENTS]          (default 1,310,720: a fragment of a small model)
 *
 * `kept` is the part of the delta's energy that is at the coordinates sent; `lost there` the part
 * of that which quantisation takes away until error feedback sends it. Times are the best of three,
 * one thread: encode without and with error feedback, decode to memory, and the walk that checks a
 * message and finds its norm.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/random.h"
#include "codec/codec.h"

enum { ROUNDS = 3, KINDS = 3 };
static const char *const kinds[KINDS] = {"even", "rows", "tensors"};

static double normal(struct random *random) {
    return sqrt(-2 * log(random_unit(random) + 1e-300)) *
           cos(6.283185307179586 * random_unit(random));
}

static void fill(float *x, size_t count, int kind) {
    struct random random;
    random_init(&random, (uint64_t)kind + 1);
    double row = 1, column[128];
    for (size_t i = 0; i < COUNT_OF(column); i++)
        column[i] = kind == 1 ? exp(0.7 * normal(&random)) : 1;
    for (size_t i = 0; i < count; i++) {
        if (kind == 1 && i % 128 == 0) row = exp(0.7 * normal(&random));
        if (kind == 2 && i % 100003 == 0) row = exp(2 * normal(&random));
        double value = normal(&random) * row * column[i % 128];
        x[i] = (float)(1e-3 * (kind == 2 ? value * exp(normal(&random)) : value));
    }
}

static double best(double a, uint64_t start_ns) {
    return fmin(a, (double)(clock_monotonic_ns() - start_ns));
}

static enum status measure(enum codec codec, int kind, const float *x, float *e, float *out,
                           size_t count, struct error *error) {
    struct codec_encoder *encoder = NULL;
    struct buffer message = {0};
    double encode = INFINITY, feedback = INFINITY, decode = INFINITY, walk = INFINITY, squared;
    enum status status = codec_encoder_create(codec, count, &encoder, error);
    for (int round = 0; status == OK && round < ROUNDS; round++) {
        memset(e, 0, count * sizeof *e);
        message.size = 0;
        uint64_t start = clock_monotonic_ns();
        status = codec_encode(encoder, x, out, e, &message, error);
        feedback = best(feedback, start);
        message.size = 0;
        start = clock_monotonic_ns();
        if (status == OK) status = codec_encode(encoder, x, NULL, NULL, &message, error);
        encode = best(encode, start);
        start = clock_monotonic_ns();
        if (status == OK) status = codec_decode(codec, buffer_bytes(&message), count, out, error);
        decode = best(decode, start);
        start = clock_monotonic_ns();
        if (status == OK)
            status = codec_walk(codec, buffer_bytes(&message), count, &squared, NULL, error);
        walk = best(walk, start);
    }
    if (status == OK) {
        double total = 0, kept = 0, lost = 0, n = (double)count;
        for (size_t i = 0; i < count; i++) {
            double value = (double)x[i], off = value - (double)out[i];
            total += value * value;
            if (out[i] != 0) kept += value * value, lost += off * off;
        }
        printf("%-9s %-8s %8.4f %8.4f %11.2e %9.2f %9.2f %9.2f %9.2f\n", codec_name(codec),
               kinds[kind], 8 * (double)message.size / n, kept / total, lost / kept, encode / n,
               feedback / n, decode / n, walk / n);
    }
    buffer_deinit(&message);
    codec_encoder_destroy(encoder);
    return status;
}

int main(int argc, char **argv) {
    size_t count = argc > 1 ? (size_t)strtoull(argv[1], NULL, 10) : 1310720;
    if (count == 0 || argc > 2) {
        fprintf(stderr, "usage: codec [ELEMENTS]\n");
        return 2;
    }
    struct error error = {0};
    enum status status = OK;
    float *x = xcalloc(count, sizeof *x), *e = xcalloc(count, sizeof *e),
          *out = xcalloc(count, sizeof *out);
    printf("%zu elements; times in ns an element\n%-9s %-8s %8s %8s %11s %9s %9s %9s %9s\n", count,
           "codec", "deltas", "bits", "kept", "lost there", "encode", "feedback", "decode",
           "check");
    for (int kind = 0; status == OK && kind < KINDS; kind++) {
        fill(x, count, kind);
        for (int codec = CODEC_FP32; status == OK && codec <= CODEC_TOPK2_128; codec++) {
            memset(out, 0, count * sizeof *out);
            status = measure((enum codec)codec, kind, x, e, out, count, &error);
        }
    }
    if (status != OK) fprintf(stderr, "bench codec: %s\n", error.message);
    free(x);
    free(e);
    free(out);
    return status != OK;
}
