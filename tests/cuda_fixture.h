/* Which CUDA backend a test compares with: what ATOLL_TEST_CUDA_LIBRARY names, which must open;
 * else bin/atoll-kernels-cuda.so beside the tests' folder where there is a device; else the same
 * source built for the CPU (tests/cuda_emulation). A test says which. */
#ifndef TESTS_CUDA_FIXTURE_H
#define TESTS_CUDA_FIXTURE_H

#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "kernels/cuda_backend.h"
#include "tests/test.h"

static inline char *beside_the_test(const char *name) {
    char program[PATH_MAX] = {0};
    CHECK(readlink("/proc/self/exe", program, sizeof program - 1) > 0);
    *strrchr(program, '/') = 0;
    return file_join(program, name);
}

/* Skips the test where there is none. */
static inline void open_emulation(struct cuda_backend *out) {
    struct error error = {0};
    char *path = beside_the_test("atoll-kernels-emulated.so");
    if (!file_exists(path)) TEST_SKIP("no C++ compiler made %s", path);
    CHECK_OK(cuda_backend_open(path, out, &error));
    free(path);
}

/* Skips the test where there is neither a device nor the emulation. */
static inline void find_backend(struct cuda_backend *out) {
    struct error error = {0};
    const char *named = getenv("ATOLL_TEST_CUDA_LIBRARY");
    char *beside = beside_the_test("../bin/atoll-kernels-cuda.so");
    bool found = cuda_backend_open(named ? named : beside, out, &error) == OK;
    free(beside);
    if (!found && named)
        test_failed(__FILE__, __LINE__, "%s",
                    error.message); /* a library that was named must be used */
    if (!found) CHECK_CONTAINS(error.message, "no CUDA, using the CPU: ");
    if (!found) open_emulation(out);
    printf("  compared with %s\n", out->found);
}

static inline void must(const char *answer) {
    if (answer) test_failed(__FILE__, __LINE__, "the device says %s", answer);
}

#endif
