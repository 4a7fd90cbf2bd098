/* The runner itself: what cannot run is said and counted by itself, as neither passed nor failed.
 * The other canaries stand beside what they are about. */
#include "tests/test.h"

#include <unistd.h>

TEST(a_skipped_test_would_not_get_here) {
    if (getenv("ATOLL_TEST_SKIPS")) TEST_SKIP("it was asked to, %d of %d", 1, 2);
}

TEST(a_skipped_test_counts_as_neither_and_its_reason_is_said) {
    if (getenv("ATOLL_TEST_SKIPS")) return;
    char command[4200], said[2048] = {0}, program[4096] = {0};
    CHECK(readlink("/proc/self/exe", program, sizeof program - 1) > 0);
    snprintf(command, sizeof command, "ATOLL_TEST_SKIPS=1 '%s'", program);
    FILE *pipe = popen(command, "r");
    CHECK(pipe != NULL);
    CHECK(fread(said, 1, sizeof said - 1, pipe) > 0);
    CHECK_EQUAL(pclose(pipe), 0);
    CHECK_CONTAINS(said, "SKIPPED a_skipped_test_would_not_get_here - it was asked to, 1 of 2\n");
    CHECK_CONTAINS(said, "\n1 passed, 0 failed, 1 skipped\n");
}
