/* The loader, which must be right where there is no CUDA; failures of a device; and parity with the
 * CPU, bit for bit. */
#include "kernels/cuda_backend.h"

#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "kernels/elementwise.h"
#include "tests/cuda_fixture.h"
#include "tests/test.h"

static const size_t sizes[] = {0, 1, 31, 32, 33, 1023, 1025, 4095, 4096, 4097, 50003};

TEST(a_missing_library_is_unavailable_in_one_line) {
    struct error error = {0};
    struct cuda_backend backend = {0};
    CHECK_STATUS(cuda_backend_open("/nonexistent/atoll-kernels-cuda.so", &backend, &error),
                 UNAVAILABLE);
    CHECK_CONTAINS(error.message,
                   "no CUDA, using the CPU: there is no /nonexistent/atoll-kernels-cuda.so");
    CHECK(!strchr(error.message, '\n') && !backend.library);
    /* beside this test there is none */
    CHECK_STATUS(cuda_backend_open(NULL, &backend, &error), UNAVAILABLE);
    char *beside = beside_the_test("atoll-kernels-cuda.so");
    CHECK_CONTAINS(error.message, beside);
    free(beside);
    cuda_backend_close(&backend);
    cuda_backend_close(NULL);
}

TEST(a_file_that_is_no_library_or_another_library_is_invalid) {
    struct error error = {0};
    struct cuda_backend backend = {0};
    char *path = file_join(test_directory(), "atoll-kernels-cuda.so");
    CHECK_OK(file_write(path, bytes_of("not a library", 13), 0600, &error));
    CHECK_STATUS(cuda_backend_open(path, &backend, &error), INVALID);
    CHECK_CONTAINS(error.message, "no CUDA, using the CPU");
    free(path);
    const char *libc = "/lib/x86_64-linux-gnu/libm.so.6";
    if (file_exists(libc)) {
        CHECK_STATUS(cuda_backend_open(libc, &backend, &error), INVALID);
        CHECK_CONTAINS(error.message, "has no atoll_cuda_operations");
    }
}

static enum cuda_failure pretended;
static enum cuda_failure pretend(void) { return pretended; }

TEST(an_answer_becomes_a_status_with_its_context) {
    const struct cuda_operations operations = {.failure = pretend};
    static const struct {
        enum cuda_failure kind;
        enum status status;
    } cases[] = {{CUDA_FAILURE_OTHER, FAILED},
                 {CUDA_FAILURE_MEMORY, FULL},
                 {CUDA_FAILURE_LOST, UNAVAILABLE},
                 {CUDA_FAILURE_INPUT, INVALID},
                 {(enum cuda_failure)77, FAILED}};
    struct error error = {0};
    CHECK_OK(cuda_backend_status(&operations, NULL, "upload", &error));
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        pretended = cases[i].kind;
        CHECK_STATUS(cuda_backend_status(&operations, "cudaMemcpyAsync: why", "upload", &error),
                     cases[i].status);
        CHECK_TEXT(error.message, "upload: cudaMemcpyAsync: why");
    }
}

TEST(a_wish_is_granted_or_refused_with_the_reason) {
    struct error error = {0};
    struct cuda_backend backend;
    char line[ERROR_MESSAGE_SIZE];
    CHECK_OK(cuda_backend_find(DEVICE_CPU, "/nonexistent", &backend, line, &error));
    CHECK(!backend.operations);
    CHECK_TEXT(line, "the CPU, as asked");
    CHECK_OK(cuda_backend_find(DEVICE_AUTO, "/nonexistent", &backend, line, &error));
    CHECK(!backend.operations);
    CHECK_TEXT(line, "no CUDA, using the CPU: there is no /nonexistent");
    CHECK_STATUS(cuda_backend_find(DEVICE_CUDA, "/nonexistent", &backend, line, &error),
                 UNAVAILABLE);
    CHECK_TEXT(error.message, "device is set to cuda, and there is no CUDA: there is no "
                              "/nonexistent; set it to auto or cpu to go on "
                              "without");
}

/* --- a device --- */

TEST(what_does_not_fit_is_refused_with_the_figures) {
    struct error error = {0};
    struct cuda_backend backend;
    setenv("EMULATED_MEMORY", "134217728", 1);
    open_emulation(&backend);
    const struct cuda_operations *cuda = backend.operations;
    struct device_memory first, second = {0};
    size_t available, total;
    must(cuda->allocate((size_t)32 << 20, &first));
    CHECK_STATUS(
        cuda_backend_status(cuda, cuda->allocate((size_t)112 << 20, &second), "the model", &error),
        FULL);
    CHECK_TEXT(
        error.message,
        "the model: out of device memory: asked for 0.109 GiB, 0.094 GiB of 0.125 GiB are free");
    CHECK(second.address == 0);
    must(cuda->memory(&available, &total)); /* and nothing is broken by it */
    CHECK_EQUAL(available, (size_t)96 << 20);
    cuda->release(first);
    must(cuda->allocate((size_t)112 << 20, &second));
    cuda->release(second);
    cuda_backend_close(&backend);
}

TEST(a_lost_device_is_unavailable_for_good) {
    struct error error = {0};
    struct cuda_backend backend;
    setenv("EMULATED_LOSS", "3", 1);
    open_emulation(&backend);
    const struct cuda_operations *cuda = backend.operations;
    struct device_memory a;
    float value = 1;
    must(cuda->allocate(sizeof value, &a));
    must(cuda->upload(a, 0, &value, sizeof value));
    must(cuda->add(a, a, a, 1));
    must(cuda->add(a, a, a, 1));
    CHECK_STATUS(cuda_backend_status(cuda, cuda->add(a, a, a, 1), "add", &error), UNAVAILABLE);
    CHECK_CONTAINS(error.message, "add: for_each_element");
    CHECK_CONTAINS(error.message, "the device is lost: an illegal memory access");
    CHECK_STATUS(
        cuda_backend_status(cuda, cuda->download(&value, a, 0, sizeof value), "download", &error),
        UNAVAILABLE);
    CHECK_TEXT(
        error.message,
        "download: cudaMemcpyAsync: the device is lost: an illegal memory access was encountered");
    CHECK_STATUS(cuda_backend_status(cuda, cuda->synchronize(), "wait", &error), UNAVAILABLE);
    cuda->release(a);
    cuda_backend_close(&backend);
}

TEST(no_visible_device_is_said_with_the_variables_value) {
    struct error error = {0};
    struct cuda_backend backend;
    char *path = beside_the_test("atoll-kernels-emulated.so");
    setenv("EMULATED_DEVICES", "0", 1);
    setenv("CUDA_VISIBLE_DEVICES", "-1", 1);
    if (file_exists(path)) {
        CHECK_STATUS(cuda_backend_open(path, &backend, &error), UNAVAILABLE);
        CHECK_CONTAINS(error.message, "no CUDA device (CUDA_VISIBLE_DEVICES is \"-1\")");
    }
    free(path);
}

TEST(streams_and_pinned_memory_carry_copies) {
    struct cuda_backend backend;
    find_backend(&backend);
    const struct cuda_operations *cuda = backend.operations;
    struct device_stream stream;
    struct device_memory a, b;
    void *pinned;
    must(cuda->stream_create(&stream));
    cuda->stream_use(stream);
    must(cuda->allocate_host(4 * sizeof(float), &pinned));
    must(cuda->allocate(4 * sizeof(float), &a));
    must(cuda->allocate(4 * sizeof(float), &b));
    float *values = pinned;
    for (int i = 0; i < 4; i++) {
        CHECK(values[i] == 0);
        values[i] = (float)i;
    }
    must(cuda->upload_later(a, 0, values, 4 * sizeof *values));
    must(cuda->copy(b, 4, a, 8, 8));
    must(cuda->clear(a, 12, 4));
    must(cuda->add(a, a, b, 4));
    must(cuda->download_later(values, a, 0, 4 * sizeof *values));
    must(cuda->synchronize());
    CHECK(values[0] == 0 && values[1] == 3 && values[2] == 5 && values[3] == 0);
    cuda->release(a);
    cuda->release(b);
    cuda->release_host(pinned);
    cuda->stream_destroy(stream);
    cuda_backend_close(&backend);
}

/* --- parity --- */

static float *randoms(size_t count, uint64_t seed) {
    struct random random;
    random_init(&random, seed);
    float *x = xmalloc((count + 1) * sizeof *x);
    for (size_t i = 0; i < count; i++)
        x[i] = (float)(random_unit(&random) * 4 - 2) * (random_below(&random, 9) ? 1.0f : 1e-39f);
    return x;
}

struct pair { /* the same array on both sides */
    float *host;
    struct device_memory device;
};

static struct pair pair_create(const struct cuda_operations *cuda, size_t count, uint64_t seed) {
    struct pair pair = {.host = randoms(count, seed)};
    must(cuda->allocate(count * sizeof(float), &pair.device));
    must(cuda->upload(pair.device, 0, pair.host, count * sizeof(float)));
    return pair;
}

static void pair_check(const struct cuda_operations *cuda, const struct pair *pair, size_t count,
                       const char *what) {
    float *got = xmalloc((count + 1) * sizeof *got);
    must(cuda->download(got, pair->device, 0, count * sizeof *got));
    for (size_t i = 0; i < count; i++) {
        if (memcmp(&got[i], &pair->host[i], sizeof *got) != 0) {
            test_failed(__FILE__, __LINE__, "%s of %zu: element %zu is %a, wanted %a", what, count,
                        i, (double)got[i], (double)pair->host[i]);
        }
    }
    free(got);
}

static void pair_destroy(const struct cuda_operations *cuda, struct pair *pair) {
    cuda->release(pair->device);
    free(pair->host);
}

static void compare_all(const struct cuda_operations *cuda, size_t count) {
    struct pair p[4];
    for (uint64_t i = 0; i < 4; i++) p[i] = pair_create(cuda, count, i);
    float *a = p[0].host, *b = p[1].host, *c = p[2].host, *d = p[3].host;
#define COMPARE(name, index) pair_check(cuda, &p[index], count, name)
    elementwise_add(a, b, c, count);
    must(cuda->add(p[0].device, p[1].device, p[2].device, count));
    COMPARE("add", 0);
    elementwise_subtract(a, a, d, count);
    must(cuda->subtract(p[0].device, p[0].device, p[3].device, count));
    COMPARE("subtract", 0);
    elementwise_scale(b, b, 0.3f, count);
    must(cuda->scale(p[1].device, p[1].device, 0.3f, count));
    COMPARE("scale", 1);
    elementwise_add_scaled(a, b, 0.7f, count);
    must(cuda->add_scaled(p[0].device, p[1].device, 0.7f, count));
    COMPARE("add_scaled", 0);
    elementwise_feedback(c, a, 0.95f, count);
    must(cuda->feedback(p[2].device, p[0].device, 0.95f, count));
    COMPARE("feedback", 2);
    elementwise_rebase(d, a, b, count);
    must(cuda->rebase(p[3].device, p[0].device, p[1].device, count));
    COMPARE("rebase", 3);
    elementwise_nesterov_between(a, b, c, 0.7f, 3, count);
    must(cuda->nesterov_between(p[0].device, p[1].device, p[2].device, 0.7f, 3, count));
    COMPARE("nesterov_between", 0);
    COMPARE("nesterov_between's sum", 1);
    elementwise_nesterov_end(a, d, b, c, 0.7f, 0.9f, 3, count);
    must(cuda->nesterov_end(p[0].device, p[3].device, p[1].device, p[2].device, 0.7f, 0.9f, 3,
                            count));
    COMPARE("nesterov_end", 0);
    COMPARE("nesterov_end's momentum", 3);
    COMPARE("nesterov_end's sum", 1);
    elementwise_sgd(a, c, 0.7f, count);
    must(cuda->sgd(p[0].device, p[2].device, 0.7f, count));
    COMPARE("sgd", 0);
#undef COMPARE
    double norm = -1;
    int finite = -1;
    must(cuda->norm_squared(p[0].device, count, &norm));
    CHECK(norm == elementwise_norm_squared(a, count));
    must(cuda->is_finite(p[0].device, count, &finite));
    CHECK_EQUAL(finite, 1);
    if (count > 0) {
        const float bad = NAN;
        must(cuda->upload(p[0].device, (count - 1) * sizeof bad, &bad, sizeof bad));
        must(cuda->is_finite(p[0].device, count, &finite));
        CHECK_EQUAL(finite, 0);
    }
    must(cuda->synchronize());
    for (size_t i = 0; i < 4; i++) pair_destroy(cuda, &p[i]);
}

TEST(every_operation_has_the_cpus_bits) {
    struct cuda_backend backend;
    find_backend(&backend);
    for (size_t s = 0; s < COUNT_OF(sizes); s++) compare_all(backend.operations, sizes[s]);
    cuda_backend_close(&backend);
}
