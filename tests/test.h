/* The test runner: each test in its own process, with a deadline.
 *
 *     TEST(stale_update_is_refused_and_told_the_current_version) {
 *         CHECK(step(&state, &event) == OK);
 *         CHECK_EQUAL(action.version, 7);
 *     }
 *
 * A test file has no main and no list: TEST registers itself, and the file links with tests/test.c.
 * The program runs every test in a child process of its own (`PROGRAM` runs all, `PROGRAM --list`
 * names them, `PROGRAM --only NAME` runs one in this process, for a debugger), prints a line a test
 * and closes with `N passed, N failed`, and how many were skipped. A child that crashes, hangs past
 * its deadline or exits by itself has failed. TEST_EXPECTED_TO(CRASH | HANG | FAIL | LEAK, name) is
 * a canary: it passes only if the runner catches it. A test that cannot run where it is says
 * TEST_SKIP("reason"): it counts as skipped, neither passed nor failed, and the closing line says
 * how many did.
 */
#ifndef TESTS_TEST_H
#define TESTS_TEST_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"

enum test_expectation { TEST_PASS, TEST_CRASH, TEST_HANG, TEST_FAIL, TEST_LEAK };
enum { TEST_DEADLINE_MS = 60000 }; /* times ATOLL_TEST_SLOWDOWN, which the sanitizer builds set */

struct test {
    const char *name;
    void (*body)(void);
    enum test_expectation expectation;
    unsigned deadline_ms;
    struct test *next;
};

void test_register(struct test *test);
__attribute__((noreturn)) void test_failed(const char *file, int line, const char *format, ...)
    PRINTF_LIKE(3, 4);
__attribute__((noreturn)) void test_skipped(const char *format, ...) PRINTF_LIKE(1, 2);
#define TEST_SKIP(...) test_skipped(__VA_ARGS__)
/* A fresh directory below $TMPDIR, removed when the test's process ends; static storage, the same
 * at every call. */
const char *test_directory(void);
/* The repository root, for golden vectors and data: from ATOLL_ROOT or the compiled-in source path.
 */
const char *test_root(void);

#define TEST_WITH(name_, expectation_, deadline_)                                                  \
    static void name_(void);                                                                       \
    static struct test test_##name_ = {#name_, name_, expectation_, deadline_, NULL};              \
    __attribute__((constructor)) static void register_##name_(void) {                              \
        test_register(&test_##name_);                                                              \
    }                                                                                              \
    static void name_(void)
#define TEST(name) TEST_WITH(name, TEST_PASS, TEST_DEADLINE_MS)
#define TEST_WITHIN(name, deadline_ms) TEST_WITH(name, TEST_PASS, deadline_ms)
#define TEST_EXPECTED_TO(what, name) TEST_WITH(name, TEST_##what, 2000)

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) test_failed(__FILE__, __LINE__, "%s", #condition);                       \
    } while (0)
/* Integers of any type up to 64 bits. */
#define CHECK_EQUAL(got, wanted)                                                                   \
    do {                                                                                           \
        long long got_ = (long long)(got), wanted_ = (long long)(wanted);                          \
        if (got_ != wanted_)                                                                       \
            test_failed(__FILE__, __LINE__, "%s is %lld, wanted %lld", #got, got_, wanted_);       \
    } while (0)
#define CHECK_TEXT(got, wanted)                                                                    \
    do {                                                                                           \
        const char *got_ = (got), *wanted_ = (wanted);                                             \
        if (strcmp(got_, wanted_) != 0)                                                            \
            test_failed(__FILE__, __LINE__, "%s is \"%s\", wanted \"%s\"", #got, got_, wanted_);   \
    } while (0)
#define CHECK_CONTAINS(text, part)                                                                 \
    do {                                                                                           \
        const char *text_ = (text), *part_ = (part);                                               \
        if (!strstr(text_, part_))                                                                 \
            test_failed(__FILE__, __LINE__, "%s is \"%s\", which lacks \"%s\"", #text, text_,      \
                        part_);                                                                    \
    } while (0)
#define CHECK_MEMORY(got, wanted, size)                                                            \
    do {                                                                                           \
        if (memcmp((got), (wanted), (size)) != 0)                                                  \
            test_failed(__FILE__, __LINE__, "%s differs from %s", #got, #wanted);                  \
    } while (0)
/* |got - wanted| <= tolerance; NaN fails. */
#define CHECK_NEAR(got, wanted, tolerance)                                                         \
    do {                                                                                           \
        double got_ = (double)(got), wanted_ = (double)(wanted);                                   \
        if (!(fabs(got_ - wanted_) <= (double)(tolerance)))                                        \
            test_failed(__FILE__, __LINE__, "%s is %.9g, wanted %.9g within %g", #got, got_,       \
                        wanted_, (double)(tolerance));                                             \
    } while (0)
/* A call that takes a `struct error *` named `error`, declared by CHECK_OK's caller as `struct
 * error error = {0};` */
#define CHECK_OK(call)                                                                             \
    do {                                                                                           \
        enum status status_ = (call);                                                              \
        if (status_ != OK)                                                                         \
            test_failed(__FILE__, __LINE__, "%s gave %s: %s", #call, status_name(status_),         \
                        error.message);                                                            \
    } while (0)
#define CHECK_STATUS(call, wanted)                                                                 \
    do {                                                                                           \
        enum status status_ = (call);                                                              \
        if (status_ != (wanted))                                                                   \
            test_failed(__FILE__, __LINE__, "%s gave %s, wanted %s", #call, status_name(status_),  \
                        status_name(wanted));                                                      \
    } while (0)

#endif
