/* The codec on a CUDA device: milliseconds of an encoding and of decoding with the outer step, for
 * a model's worth of parameters that never leave the device. Medians; the message's way to the host
 * is in the encoding's time, its way back in the step's is not.
 *
 *     bench/gpu_codec [ELEMENTS]          (default 124,439,808); one line of JSON. 1 where there is
 *                                         no device
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/random.h"
#include "codec/device.h"

enum { ROUNDS = 21, WARM = 3 };

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values) {
    qsort(values, ROUNDS, sizeof *values, ascending);
    return values[ROUNDS / 2];
}

static double since_ms(uint64_t from) { return (double)(clock_monotonic_ns() - from) * 1e-6; }

struct bench {
    const struct cuda_operations *cuda;
    size_t count;
    struct device_memory base, local, e, momentum, sum;
};

static enum status fill(struct bench *b, struct device_memory *out, uint64_t seed, float size,
                        struct error *error) {
    struct random random;
    random_init(&random, seed);
    float *x = xmalloc(b->count * sizeof *x);
    for (size_t i = 0; i < b->count; i++)
        x[i] = size *
               (float)(random_unit(&random) + random_unit(&random) + random_unit(&random) - 1.5);
    enum status status = cuda_backend_status(b->cuda, b->cuda->allocate(b->count * sizeof *x, out),
                                             "allocate", error);
    if (status == OK)
        status = cuda_backend_status(b->cuda, b->cuda->upload(*out, 0, x, b->count * sizeof *x),
                                     "upload", error);
    free(x);
    return status;
}

static enum status measure(struct bench *b, enum codec codec, double *encode_ms, double *step_ms,
                           size_t *size, struct error *error) {
    const struct cuda_operations *cuda = b->cuda;
    bool sparse = codec_is_sparse(codec);
    struct device_encoder *encoder = NULL;
    struct buffer message = {0};
    struct cuda_part part = {0};
    double encode[ROUNDS], step[ROUNDS];
    enum status status = device_encoder_create(cuda, codec, b->count, sparse, &encoder, error);
    for (int round = -WARM; status == OK && round < ROUNDS; round++) {
        message.size = 0;
        uint64_t from = clock_monotonic_ns();
        status = device_encode(encoder, b->base, b->local, sparse ? &b->e : NULL, &message, error);
        if (round >= 0) encode[round] = since_ms(from);
    }
    *size = message.size;
    if (status == OK)
        status = device_part_open(cuda, codec, buffer_bytes(&message), b->count, 1, &part, error);
    for (int round = -WARM; status == OK && round < ROUNDS; round++) {
        struct cuda_nesterov nesterov = {.theta = b->base,
                                         .momentum = b->momentum,
                                         .sum = b->sum,
                                         .rate = 1e-6f,
                                         .beta = 0.9f,
                                         .period = 2,
                                         .ends = 1};
        /* momentum has room for what is counted in two bytes */
        const struct cuda_round merged = {b->base, b->sum, b->momentum};
        uint64_t from = clock_monotonic_ns();
        const char *answer =
            sparse ? cuda->codec_step_sparse((uint32_t)codec, b->count, &part, 1, 1e-6f, &merged)
                   : cuda->codec_step_dense((uint32_t)codec, b->count, &part, &nesterov);
        if (!answer) answer = cuda->synchronize();
        status = cuda_backend_status(cuda, answer, "step", error);
        if (round >= 0) step[round] = since_ms(from);
    }
    if (status == OK) {
        *encode_ms = median(encode);
        *step_ms = median(step);
    }
    device_part_close(cuda, &part);
    device_encoder_destroy(encoder);
    buffer_deinit(&message);
    return status;
}

static enum status run(struct bench *b, const char *device, struct error *error) {
    static const enum codec codecs[] = {CODEC_TOPK2_64, CODEC_TOPK2_128, CODEC_INT8, CODEC_BF16};
    struct device_memory *const vectors[] = {&b->base, &b->local, &b->e, &b->momentum, &b->sum};
    for (size_t i = 0; i < COUNT_OF(vectors); i++)
        TRY(fill(b, vectors[i], i + 1, i == 1 ? 1e-2f : 1e-3f, error));
    printf("{\"device\": \"%s\", \"parameters\": %zu", device, b->count);
    for (size_t c = 0; c < COUNT_OF(codecs); c++) {
        double encode, step;
        size_t size;
        TRY(measure(b, codecs[c], &encode, &step, &size, error));
        printf(", \"%s\": {\"encode_ms\": %.3f, \"step_ms\": %.3f, \"bytes\": %zu}",
               codec_name(codecs[c]), encode, step, size);
    }
    printf("}\n");
    return OK;
}

int main(int argc, char **argv) {
    struct error error = {0};
    struct cuda_backend backend = {0};
    char program[4096], path[4200];
    snprintf(program, sizeof program, "%s", argv[0]);
    char *slash = strrchr(program, '/');
    if (slash) *slash = 0;
    snprintf(path, sizeof path, "%s/../bin/atoll-kernels-cuda.so", slash ? program : ".");
    const char *named = getenv("ATOLL_TEST_CUDA_LIBRARY");
    struct bench bench = {.count = argc > 1 ? strtoull(argv[1], NULL, 10) : 124439808};
    if (bench.count == 0 || argc > 2) {
        fprintf(stderr, "usage: gpu_codec [ELEMENTS]\n");
        return 2;
    }
    enum status status = cuda_backend_open(named ? named : path, &backend, &error);
    bench.cuda = backend.operations;
    if (status == OK) status = run(&bench, backend.found, &error);
    if (status != OK) fprintf(stderr, "gpu_codec: %s\n", error.message);
    return status == OK ? 0 : 1; /* the device's memory goes with the process */
}
