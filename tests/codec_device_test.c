/* The codec on a device beside the CPU's: the same messages and the same feedback, byte by byte,
 * and the same parameters after a step. tests/cuda_fixture.h says which device. */
#include "codec/device.h"

#include <float.h>
#include <math.h>

#include "base/memory.h"
#include "base/random.h"
#include "kernels/elementwise.h"
#include "tests/codec_whole.h"
#include "tests/cuda_fixture.h"
#include "tests/device_record.h"
#include "tests/test.h"

static const enum codec codecs[] = {CODEC_FP32, CODEC_BF16,     CODEC_INT8,
                                    CODEC_FP4,  CODEC_TOPK2_64, CODEC_TOPK2_128};

/* --- tensors --- */

enum kind {
    NORMAL,
    SCALED_CHUNKS,
    HEAVY,
    FEW_VALUES,
    SPARSE,
    ALL_EQUAL,
    ZEROES,
    NEGATIVE_ZEROES,
    DENORMAL,
    HUGE_,
    TINY,
    ANY_BITS,
    KINDS
};

static float uniform(struct random *random) { return (float)(random_unit(random) * 2 - 1); }

static float any_finite(struct random *random) {
    uint32_t bits = (uint32_t)random_u64(random);
    if ((bits & 0x7F800000) == 0x7F800000) bits &= 0xBFFFFFFF;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static float draw(struct random *random, enum kind kind, size_t i) {
    float x = uniform(random) + uniform(random) + uniform(random);
    switch (kind) {
    case SCALED_CHUNKS: return x * (float)(1 << (i / CODEC_CHUNK * 7 % 24)) * 1e-4f;
    case HEAVY: return x / (0.01f + fabsf(uniform(random)) * fabsf(uniform(random)));
    case FEW_VALUES: return (float)random_below(random, 5) - 2;
    case SPARSE: return random_below(random, 300) == 0 ? x : 0;
    case ALL_EQUAL: return 0.25f;
    case ZEROES: return 0;
    case NEGATIVE_ZEROES: return random_below(random, 500) ? -0.0f : x;
    case DENORMAL: return x * 1e-39f;
    case HUGE_: return x * 4e37f;
    case TINY: return i % 2 ? x * 1e-30f : x;
    case ANY_BITS: return any_finite(random) * 0.25f;
    default: return x;
    }
}

static float *tensor(size_t count, enum kind kind, uint64_t seed) {
    struct random random;
    random_init(&random, seed);
    float *x = xmalloc((count + 1) * sizeof *x);
    for (size_t i = 0; i < count; i++) x[i] = draw(&random, kind, i);
    return x;
}

/* --- encoding --- */

/* Both ways, `rounds` messages one after the other with the feedback carried on. base, local and e
 * are not changed. */
static void compare_encoding(const struct cuda_operations *cuda, enum codec codec, size_t count,
                             const float *base, const float *local, const float *e_first,
                             int rounds, const char *what) {
    struct error error = {0};
    struct codec_encoder *here = NULL;
    struct device_encoder *there = NULL;
    size_t size = count * sizeof(float);
    float *e_here = xmalloc(size + 1), *e_there = xmalloc(size + 1);
    bool feedback = codec_is_sparse(codec) && e_first;
    if (feedback) {
        memcpy(e_here, e_first, size);
        memcpy(e_there, e_first, size);
    }
    CHECK_OK(codec_encoder_create(codec, count, &here, &error));
    CHECK_OK(device_encoder_create(cuda, codec, count, feedback, &there, &error));
    for (int round = 0; round < rounds; round++) {
        struct buffer wanted = {0}, got = {0};
        struct error wanted_error = {0}, got_error = {0};
        enum status status =
            codec_encode(here, base, local, feedback ? e_here : NULL, &wanted, &wanted_error);
        CHECK_STATUS(device_encode_from_host(there, base, local, feedback ? e_there : NULL, &got,
                                             &got_error),
                     status);
        CHECK_TEXT(got_error.message, wanted_error.message);
        if (got.size != wanted.size || (got.size && memcmp(got.data, wanted.data, got.size) != 0)) {
            size_t at = 0;
            while (at < MIN(got.size, wanted.size) && got.data[at] == wanted.data[at]) at++;
            test_failed(__FILE__, __LINE__,
                        "%s, %s of %zu, round %d: %zu bytes, wanted %zu; they part at %zu", what,
                        codec_name(codec), count, round, got.size, wanted.size, at);
        }
        if (feedback) CHECK_MEMORY(e_there, e_here, size);
        buffer_deinit(&wanted);
        buffer_deinit(&got);
    }
    codec_encoder_destroy(here);
    device_encoder_destroy(there);
    free(e_here);
    free(e_there);
}

TEST(a_hundred_random_tensors_have_the_cpus_bytes) {
    struct cuda_backend backend;
    find_backend(&backend);
    static const size_t sizes[] = {1, 31, 33, 127, 129, 1023, 4095, 4096, 4097, 8192, 12289, 20001};
    for (uint64_t seed = 1; seed <= 100; seed++) {
        size_t count = sizes[seed % COUNT_OF(sizes)];
        enum kind kind = (enum kind)(seed * 5 % KINDS);
        enum codec codec = seed % 3 ? codecs[4 + seed % 2] : codecs[seed / 3 % 4];
        float *base = tensor(count, kind, seed), *local = tensor(count, kind, seed + 1000),
              *e = tensor(count, kind, seed + 2000);
        char what[64];
        snprintf(what, sizeof what, "seed %llu, kind %d", (unsigned long long)seed, (int)kind);
        compare_encoding(backend.operations, codec, count, base, seed % 4 ? local : NULL,
                         seed % 5 ? e : NULL, 2, what);
        free(base);
        free(local);
        free(e);
    }
    cuda_backend_close(&backend);
}

TEST(every_kind_of_tensor_has_the_cpus_bytes_in_every_codec) {
    struct cuda_backend backend;
    find_backend(&backend);
    enum { COUNT = 3 * CODEC_CHUNK + 77 };
    for (int kind = 0; kind < KINDS; kind++) {
        float *base = tensor(COUNT, (enum kind)kind, (uint64_t)kind),
              *e = tensor(COUNT, (enum kind)kind, (uint64_t)kind + 50);
        char what[32];
        snprintf(what, sizeof what, "kind %d", kind);
        for (size_t c = 0; c < COUNT_OF(codecs); c++)
            compare_encoding(backend.operations, codecs[c], COUNT, base, NULL, e, 1, what);
        free(base);
        free(e);
    }
    cuda_backend_close(&backend);
}

/* Values at which something switches: of a tie, of a scale, of a rounding. */
TEST(special_values_have_the_cpus_bytes) {
    struct cuda_backend backend;
    find_backend(&backend);
    static const float values[] = {0.0f,          -0.0f,       FLT_MIN,  -FLT_MIN,  FLT_TRUE_MIN,
                                   -FLT_TRUE_MIN, FLT_MAX,     -FLT_MAX, 1.0f,      -1.0f,
                                   1.9921875f,    1.984375f,   0.5f,     1.5f,      0x1p-127f,
                                   0x1p-126f,     0x1.8p-127f, 0x1p127f, 0x1.8p-1f, 3.0f};
    enum { COUNT = CODEC_CHUNK + 300 };
    float x[COUNT];
    for (uint64_t seed = 0; seed < 12; seed++) {
        struct random random;
        random_init(&random, seed);
        size_t few[3] = {0};
        for (size_t i = 0; i < COUNT;
             i++) { /* of two or three values a block, so that each is the largest of some */
            for (size_t k = 0; k < COUNT_OF(few) && i % CODEC_BLOCK == 0; k++)
                few[k] = random_below(&random, COUNT_OF(values));
            x[i] = values[few[random_below(&random, seed % 2 ? 3 : 2)]];
        }
        for (size_t c = 0; c < COUNT_OF(codecs); c++)
            compare_encoding(backend.operations, codecs[c], COUNT, x, NULL, NULL, 1,
                             "special values");
    }
    cuda_backend_close(&backend);
}

TEST(a_value_that_is_not_finite_is_refused_by_its_place_and_changes_nothing) {
    struct cuda_backend backend;
    find_backend(&backend);
    const struct cuda_operations *cuda = backend.operations;
    enum { COUNT = 2 * CODEC_CHUNK + 5 };
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    static const size_t places[] = {0, 4097, COUNT - 1};
    for (size_t c = 0; c < COUNT_OF(codecs); c++) {
        for (size_t b = 0; b < COUNT_OF(bad); b++) {
            float *base = tensor(COUNT, NORMAL, 1), *e = tensor(COUNT, NORMAL, 2);
            base[places[b]] = bad[b];
            if (b == 0) base[COUNT - 2] = INFINITY; /* the first is named */
            compare_encoding(cuda, codecs[c], COUNT, base, NULL, e, 2, "not finite");
            free(base);
            free(e);
        }
    }
    float *base = tensor(COUNT, NORMAL, 1), *e = tensor(COUNT, NORMAL, 2);
    e[7] = FLT_MAX;
    base[7] = FLT_MAX; /* only their sum is too large */
    compare_encoding(cuda, CODEC_TOPK2_64, COUNT, base, NULL, e, 1, "overflow");
    free(base);
    free(e);
    cuda_backend_close(&backend);
}

TEST(an_empty_delta_is_a_header) {
    struct cuda_backend backend;
    find_backend(&backend);
    const float none = 0;
    for (size_t c = 0; c < COUNT_OF(codecs); c++)
        compare_encoding(backend.operations, codecs[c], 0, &none, NULL, NULL, 1, "nothing");
    cuda_backend_close(&backend);
}

/* A fragment of an allocation begins anywhere: then loads are one by one. */
TEST(fragments_that_begin_anywhere_have_the_cpus_bytes) {
    struct cuda_backend backend;
    find_backend(&backend);
    const struct cuda_operations *cuda = backend.operations;
    enum { COUNT = 2 * CODEC_CHUNK + 100 };
    struct error error = {0};
    float *base = tensor(COUNT + 8, NORMAL, 3), *local = tensor(COUNT + 8, NORMAL, 4);
    struct device_memory base_there, local_there;
    must(cuda->allocate((COUNT + 8) * sizeof(float), &base_there));
    must(cuda->allocate((COUNT + 8) * sizeof(float), &local_there));
    must(cuda->upload(base_there, 0, base, (COUNT + 8) * sizeof(float)));
    must(cuda->upload(local_there, 0, local, (COUNT + 8) * sizeof(float)));
    for (size_t c = 2; c < COUNT_OF(codecs); c++) {
        for (size_t start = 0; start < 8; start++) {
            struct codec_encoder *here = NULL;
            struct device_encoder *there = NULL;
            struct buffer wanted = {0}, got = {0};
            CHECK_OK(codec_encoder_create(codecs[c], COUNT, &here, &error));
            CHECK_OK(device_encoder_create(cuda, codecs[c], COUNT, false, &there, &error));
            CHECK_OK(codec_encode(here, base + start, local + start, NULL, &wanted, &error));
            CHECK_OK(device_encode(there, device_memory_at(base_there, start * sizeof(float)),
                                   device_memory_at(local_there, start * sizeof(float)), NULL, &got,
                                   &error));
            CHECK_EQUAL(got.size, wanted.size);
            CHECK_MEMORY(got.data, wanted.data, wanted.size);
            codec_encoder_destroy(here);
            device_encoder_destroy(there);
            buffer_deinit(&wanted);
            buffer_deinit(&got);
        }
    }
    cuda->release(base_there);
    cuda->release(local_there);
    free(base);
    free(local);
    cuda_backend_close(&backend);
}

/* More chunks than a block takes at a time where sums run over all of them, and empty chunks in
 * between. */
TEST(a_large_tensor_has_the_cpus_bytes) {
    struct cuda_backend backend;
    find_backend(&backend);
    enum { COUNT = 1100 * CODEC_CHUNK + 1234 };
    float *base = tensor(COUNT, SCALED_CHUNKS, 5);
    for (size_t c = 3; c < 1100; c += 1 + c % 9)
        memset(base + c * CODEC_CHUNK, 0, (c % 3) * CODEC_CHUNK * sizeof *base);
    memset(base, 0, 2 * CODEC_CHUNK * sizeof *base);
    compare_encoding(backend.operations, CODEC_TOPK2_64, COUNT, base, NULL, base, 1, "large");
    free(base);
    cuda_backend_close(&backend);
}

/* --- decoding --- */

static struct buffer message_of(enum codec codec, size_t count, enum kind kind, uint64_t seed) {
    struct error error = {0};
    struct codec_encoder *encoder = NULL;
    struct buffer out = {0};
    float *x = tensor(count, kind, seed);
    CHECK_OK(codec_encoder_create(codec, count, &encoder, &error));
    CHECK_OK(codec_encode(encoder, x, NULL, NULL, &out, &error));
    codec_encoder_destroy(encoder);
    free(x);
    return out;
}

static void check_floats(const struct cuda_operations *cuda, struct device_memory there,
                         const float *here, size_t count, const char *what) {
    float *got = xmalloc((count + 1) * sizeof *got);
    must(cuda->download(got, there, 0, count * sizeof *got));
    for (size_t i = 0; i < count; i++) {
        if (memcmp(&got[i], &here[i], sizeof *got) != 0)
            test_failed(__FILE__, __LINE__, "%s: element %zu of %zu is %a, wanted %a", what, i,
                        count, (double)got[i], (double)here[i]);
    }
    free(got);
}

static void compare_sparse_step(const struct cuda_operations *cuda, enum codec codec, size_t count,
                                uint32_t parts, uint64_t seed) {
    struct error error = {0};
    struct buffer messages[40];
    struct cuda_part there[40];
    CHECK(parts <= COUNT_OF(messages));
    float *theta = tensor(count, NORMAL, seed), *sum = xcalloc(count + 1, sizeof *sum);
    uint16_t *senders = xcalloc(count + 1, sizeof *senders);
    const struct codec_round here = {theta, sum, senders};
    struct cuda_round round;
    must(cuda->allocate(count * sizeof *theta, &round.theta));
    must(cuda->allocate(count * sizeof *sum, &round.sum));
    must(cuda->allocate(count * sizeof *senders, &round.senders));
    must(cuda->upload(round.theta, 0, theta, count * sizeof *theta));
    for (uint32_t i = 0; i < parts; i++) {
        float scale = i % 3 ? 1.0f : 0.37f;
        /* some alike */
        messages[i] =
            message_of(codec, count, i % 4 == 3 ? SPARSE : (enum kind)(seed % 4), seed + i % 7);
        CHECK_OK(device_part_open(cuda, codec, buffer_bytes(&messages[i]), count, scale, &there[i],
                                  &error));
        codec_merge_whole(codec, buffer_bytes(&messages[i]), count, scale, 0.7f, &here);
    }
    must(cuda->codec_step_sparse((uint32_t)codec, count, there, parts, 0.7f, &round));
    check_floats(cuda, round.theta, theta, count, "a sparse step");
    check_floats(cuda, round.sum, sum, count, "a round's sum");
    CHECK_OK(codec_restore(codec, buffer_bytes(&messages[0]), count, theta, &error));
    there[0].scale = 1;
    must(cuda->codec_add((uint32_t)codec, count, &there[0], round.theta));
    check_floats(cuda, round.theta, theta, count, "a message put back");
    for (uint32_t i = 0; i < parts; i++) {
        device_part_close(cuda, &there[i]);
        buffer_deinit(&messages[i]);
    }
    cuda->release(round.theta);
    cuda->release(round.sum);
    cuda->release(round.senders);
    free(theta);
    free(sum);
    free(senders);
}

TEST(sparse_steps_have_the_cpus_bits) {
    struct cuda_backend backend;
    find_backend(&backend);
    static const size_t sizes[] = {1, 33, 4095, 4096, 4097, 12300};
    for (uint64_t seed = 0; seed < 12; seed++) {
        compare_sparse_step(backend.operations, seed % 2 ? CODEC_TOPK2_64 : CODEC_TOPK2_128,
                            sizes[seed % COUNT_OF(sizes)], seed == 3 ? 40 : 1 + (uint32_t)seed % 5,
                            seed);
    }
    cuda_backend_close(&backend);
}

TEST(dense_steps_have_the_cpus_bits) {
    struct cuda_backend backend;
    find_backend(&backend);
    const struct cuda_operations *cuda = backend.operations;
    struct error error = {0};
    enum { COUNT = 10007, PERIOD = 3 };
    for (size_t c = 0; c < 4; c++) {
        float *theta = tensor(COUNT, NORMAL, 1), *momentum = tensor(COUNT, NORMAL, 2),
              *sum = tensor(COUNT, NORMAL, 3), *g = xmalloc(COUNT * sizeof *g);
        struct cuda_nesterov step = {.rate = 0.7f, .beta = 0.9f, .period = PERIOD};
        float *const here[] = {theta, momentum, sum};
        struct device_memory *const there[] = {&step.theta, &step.momentum, &step.sum};
        for (size_t i = 0; i < 3; i++) {
            must(cuda->allocate(COUNT * sizeof(float), there[i]));
            must(cuda->upload(*there[i], 0, here[i], COUNT * sizeof(float)));
        }
        for (uint32_t round = 0; round < 2 * PERIOD; round++) {
            struct buffer message = message_of(codecs[c], COUNT, (enum kind)(round % KINDS), round);
            struct cuda_part part;
            float scale = round % 2 ? 1.0f : 0.5f;
            CHECK_OK(device_part_open(cuda, codecs[c], buffer_bytes(&message), COUNT, scale, &part,
                                      &error));
            CHECK_OK(codec_decode(codecs[c], buffer_bytes(&message), COUNT, g, &error));
            elementwise_scale(g, g, scale, COUNT);
            step.ends = round % PERIOD == PERIOD - 1;
            if (step.ends)
                elementwise_nesterov_end(theta, momentum, sum, g, step.rate, step.beta, step.period,
                                         COUNT);
            else
                elementwise_nesterov_between(theta, sum, g, step.rate, step.period, COUNT);
            must(cuda->codec_step_dense((uint32_t)codecs[c], COUNT, &part, &step));
            for (size_t i = 0; i < 3; i++)
                check_floats(cuda, *there[i], here[i], COUNT, codec_name(codecs[c]));
            device_part_close(cuda, &part);
            buffer_deinit(&message);
        }
        for (size_t i = 0; i < 3; i++) {
            cuda->release(*there[i]);
            free(here[i]);
        }
        free(g);
    }
    cuda_backend_close(&backend);
}

/* For tests/fed_device_test.c, which replays it on a machine with the whole program. */
TEST(a_federation_on_the_device_is_recorded) {
    const char *path = getenv("ATOLL_TEST_RECORD_TO");
    struct cuda_backend backend;
    find_backend(&backend);
    const char *elements = getenv("ATOLL_TEST_RECORD_ELEMENTS");
    bool large = path && !elements;
    const struct record_shape shape = {path ? CODEC_TOPK2_64 : CODEC_TOPK2_128,
                                       elements ? strtoull(elements, NULL, 10)
                                       : large  ? 1000003
                                                : 20000,
                                       2, large ? 12 : 2, 6};
    struct error error = {0};
    struct buffer record = {0};
    record_federation(&backend, &shape, &record);
    CHECK(record.size > shape.count * sizeof(float));
    if (path) CHECK_OK(file_write(path, buffer_bytes(&record), 0644, &error));
    buffer_deinit(&record);
    cuda_backend_close(&backend);
}

/* --- refusals --- */

TEST(a_message_that_breaks_its_format_never_reaches_the_device) {
    struct cuda_backend backend;
    find_backend(&backend);
    const struct cuda_operations *cuda = backend.operations;
    struct error error = {0};
    struct cuda_part part;
    uint64_t places[2];
    for (size_t c = 0; c < COUNT_OF(codecs); c++) {
        struct buffer message = message_of(codecs[c], 5000, NORMAL, 9);
        CHECK_STATUS(device_part_open(cuda, codecs[c], bytes_of(message.data, message.size - 1),
                                      5000, 1, &part, &error),
                     INVALID);
        CHECK_STATUS(
            device_part_open(cuda, codecs[c], buffer_bytes(&message), 5001, 1, &part, &error),
            INVALID);
        if (!codec_is_sparse(codecs[c]))
            CHECK_STATUS(codec_places(codecs[c], buffer_bytes(&message), 5000, places, &error),
                         INVALID);
        buffer_deinit(&message);
    }
    const struct cuda_round none = {{0}, {0}, {0}};
    CHECK(cuda->codec_step_sparse(CODEC_INT8, 1, NULL, 0, 1, &none) != NULL);
    CHECK_EQUAL(cuda->failure(), CUDA_FAILURE_INPUT);
    CHECK(cuda->codec_step_sparse(CODEC_TOPK2_64, 1, NULL, CUDA_PARTS_MAX + 1, 1, &none) != NULL);
    CHECK(cuda->codec_step_dense(CODEC_TOPK2_64, 1, NULL, NULL) != NULL);
    CHECK(cuda->codec_encode(&(struct cuda_encoding){.codec = 99}, NULL) != NULL);
    struct device_encoder *encoder = NULL;
    CHECK_STATUS(device_encoder_create(cuda, CODEC_INT8, 10, true, &encoder, &error), INVALID);
    CHECK_STATUS(device_encoder_create(cuda, (enum codec)0, 10, false, &encoder, &error), INVALID);
    CHECK_STATUS(
        device_encoder_create(cuda, CODEC_INT8, CODEC_COUNT_MAX + 1, false, &encoder, &error),
        INVALID);
    cuda_backend_close(&backend);
}

/* At every launch of an encoding. */
TEST(a_device_that_is_lost_leaves_the_feedback_whole) {
    enum { COUNT = CODEC_CHUNK + 3 };
    float *base = tensor(COUNT, NORMAL, 1), *e = tensor(COUNT, NORMAL, 2),
          *e_before = tensor(COUNT, NORMAL, 2);
    struct error error = {0};
    struct cuda_backend backend;
    open_emulation(&backend);
    struct device_encoder *encoder = NULL;
    CHECK_OK(
        device_encoder_create(backend.operations, CODEC_TOPK2_64, COUNT, true, &encoder, &error));
    struct buffer out = {0};
    CHECK_OK(device_encode_from_host(encoder, base, NULL, e, &out, &error)); /* nine launches */
    memcpy(e, e_before, COUNT * sizeof *e);
    size_t size = out.size;
    setenv("EMULATED_LOSS", "14", 1); /* in the middle of the second */
    CHECK_STATUS(device_encode_from_host(encoder, base, NULL, e, &out, &error), UNAVAILABLE);
    CHECK_CONTAINS(error.message, "the device is lost");
    CHECK_EQUAL(out.size, size);
    CHECK_MEMORY(e, e_before, COUNT * sizeof *e);
    CHECK_STATUS(device_encode_from_host(encoder, base, NULL, e, &out, &error), UNAVAILABLE);
    device_encoder_destroy(encoder);
    buffer_deinit(&out);
    cuda_backend_close(&backend);
    free(base);
    free(e);
    free(e_before);
}

TEST(an_encoder_that_does_not_fit_is_refused_with_the_figures) {
    struct error error = {0};
    struct cuda_backend backend;
    setenv("EMULATED_MEMORY", "4194304", 1);
    open_emulation(&backend);
    struct device_encoder *encoder = NULL;
    CHECK_STATUS(
        device_encoder_create(backend.operations, CODEC_TOPK2_64, 1 << 20, true, &encoder, &error),
        FULL);
    CHECK_CONTAINS(error.message, "topk2-64 encoder for 1048576 elements: error feedback: out of "
                                  "device memory: asked for 0.004 GiB");
    CHECK(!encoder);
    size_t available, total; /* what was taken came back */
    must(backend.operations->memory(&available, &total));
    CHECK_EQUAL(available, total);
    CHECK(device_encoder_memory(backend.operations, CODEC_TOPK2_64, 1 << 20, true) > 4194304);
    cuda_backend_close(&backend);
}
