#include "tests/kernels_reference.h"

TEST(portable_kernels_run_everywhere) {
    CHECK(kernels_at(0) != NULL);
    CHECK_TEXT(kernels_at(0)->name, "portable");
    CHECK(kernels_at(1000) == NULL);
}

TEST(the_environment_chooses_a_table_by_name) {
    const struct kernels *k, *got;
    struct error error = {0};
    FOR_ALL_TABLES(k) {
        setenv("ATOLL_KERNELS", k->name, 1);
        CHECK_OK(kernels_default(&got, &error));
        CHECK(got == k);
        CHECK_OK(kernels_find(NULL, &got, &error));
        CHECK(got == k);
    }
}

TEST(an_unknown_table_is_refused_and_told_what_there_is) {
    const struct kernels *got;
    struct error error = {0};
    setenv("ATOLL_KERNELS", "avx9000", 1);
    CHECK_STATUS(kernels_default(&got, &error), INVALID);
    CHECK_CONTAINS(error.message, "ATOLL_KERNELS");
    CHECK_CONTAINS(error.message, "avx9000");
    CHECK_CONTAINS(error.message, "portable");
    CHECK_STATUS(kernels_find("", &got, &error), INVALID);
}

/* Which it is, the measurement decides: tests/kernels_choice_test.c. */
TEST(without_a_wish_one_of_the_tables_is_taken_and_always_the_same) {
    const struct kernels *k, *got, *again;
    struct error error = {0};
    bool here = false;
    unsetenv("ATOLL_KERNELS");
    CHECK_OK(kernels_default(&got, &error));
    FOR_ALL_TABLES(k) here |= k == got;
    CHECK(here);
    CHECK(!kernels_at(1) || got != kernels_at(0));
    setenv("ATOLL_KERNELS", "", 1);
    CHECK_OK(kernels_default(&again, &error));
    CHECK(again == got);
}

TEST(a_table_that_this_processor_cannot_run_is_refused_by_name) {
    const struct kernels *k, *got;
    struct error error = {0};
    bool here = false;
    FOR_ALL_TABLES(k) here |= strcmp(k->name, "amx") == 0;
    setenv("ATOLL_KERNELS", "amx", 1);
    if (here) {
        CHECK_OK(kernels_default(&got, &error));
        return;
    }
    CHECK_STATUS(kernels_default(&got, &error), INVALID);
#ifdef __x86_64__
    CHECK_CONTAINS(error.message, "this processor cannot run kernels \"amx\"");
#else
    CHECK_CONTAINS(error.message, "there are no kernels named \"amx\"");
#endif
    CHECK_CONTAINS(error.message, "portable");
}
