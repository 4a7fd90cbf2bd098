#include "base/memory.h"

#include "tests/test.h"

TEST(small_memory_is_there_even_for_nothing) {
    char *a = xmalloc(0), *b = xcalloc(0, 8), *c = xcalloc(16, 4);
    CHECK(a && b && a != b);
    for (int i = 0; i < 64; i++) CHECK_EQUAL(c[i], 0);
    free(a);
    free(b);
    free(xrealloc(c, 0));
    char *text = xformat("%s-%d", "eu", 7), *copy = xstrdup(text);
    CHECK_TEXT(copy, "eu-7");
    free(text);
    free(copy);
}

TEST(large_memory_is_zeroed_and_aligned_and_may_be_refused) {
    struct error error = {0};
    static const size_t counts[] = {0, 1, 15, 16, 17, 1000003};
    for (size_t i = 0; i < COUNT_OF(counts); i++) {
        void *out = NULL;
        CHECK_OK(memory_try(counts[i], 4, &out, &error));
        CHECK_EQUAL((uintptr_t)out % 64, 0);
        for (size_t j = 0; j < counts[i]; j++) CHECK_EQUAL(((uint32_t *)out)[j], 0);
        free(out);
    }
    void *out = &error;
    CHECK_STATUS(memory_try(SIZE_MAX / 2, 4, &out, &error), INVALID);
    CHECK_STATUS(memory_try(SIZE_MAX - 10, 1, &out, &error), INVALID);
    CHECK_CONTAINS(error.message, "overflows");
    CHECK(out == &error);
}

TEST(a_secret_is_overwritten) {
    char secret[16] = "hunter2";
    clear(secret, sizeof secret);
    for (size_t i = 0; i < sizeof secret; i++) CHECK_EQUAL(secret[i], 0);
    free_clearing(NULL, 10);
    free_clearing(xstrdup("hunter2"), 8);
}

TEST_EXPECTED_TO(CRASH, a_product_that_overflows_aborts) {
    volatile size_t huge = SIZE_MAX / 2;
    free(xcalloc(huge, 4));
}
