#include "base/status.h"

#include "tests/test.h"

static enum status failing(struct error *error) { return error_set(error, FULL, "disk %d", 7); }
static enum status calling(struct error *error) {
    TRY(failing(error));
    return OK;
}

TEST(an_error_carries_its_story_and_its_place) {
    struct error error = {0};
    CHECK_STATUS(calling(&error), FULL);
    CHECK_EQUAL(error.status, FULL);
    CHECK_TEXT(error.message, "disk 7");
    CHECK_CONTAINS(error.file, "base_status_test.c");
    CHECK(error.line > 0);
}

TEST(nobody_need_read_the_story) {
    CHECK_STATUS(calling(NULL), FULL);
    CHECK_STATUS(error_wrap(NULL, TIMEOUT, "open"), TIMEOUT);
}

TEST(context_goes_in_front_and_keeps_the_first_status) {
    struct error error = {0};
    CHECK_STATUS(failing(&error), FULL);
    CHECK_STATUS(error_wrap(&error, FAILED, "open %s", "/x"), FULL);
    CHECK_TEXT(error.message, "open /x: disk 7");
    struct error fresh = {0};
    CHECK_STATUS(error_wrap(&fresh, CORRUPT, "read"), CORRUPT);
}

TEST(a_story_that_is_too_long_is_cut_and_terminated) {
    struct error error = {0};
    char long_text[2 * ERROR_MESSAGE_SIZE];
    memset(long_text, 'x', sizeof long_text);
    long_text[sizeof long_text - 1] = 0;
    CHECK_STATUS(error_set(&error, INVALID, "%s", long_text), INVALID);
    CHECK_EQUAL(strlen(error.message), ERROR_MESSAGE_SIZE - 1);
    CHECK_STATUS(error_wrap(&error, INVALID, "%s", long_text), INVALID);
    CHECK_EQUAL(strlen(error.message), ERROR_MESSAGE_SIZE - 1);
}

TEST(every_status_has_a_name_of_its_own) {
    for (int i = OK; i <= FAILED; i++) {
        for (int j = OK; j < i; j++)
            CHECK(strcmp(status_name((enum status)i), status_name((enum status)j)) != 0);
        CHECK(strcmp(status_name((enum status)i), "unknown") != 0);
    }
    CHECK_TEXT(status_name((enum status)99), "unknown");
}

TEST_EXPECTED_TO(CRASH, an_assertion_stops_the_program_in_every_build) { ASSERT(1 + 1 == 3); }

static enum status counted(int *calls, enum status status) {
    ++*calls;
    return status;
}

TEST(what_must_succeed_is_done_once) {
    int calls = 0;
    MUST(counted(&calls, OK));
    CHECK_EQUAL(calls, 1);
}

TEST_EXPECTED_TO(CRASH, what_must_succeed_and_fails_stops_the_program_in_every_build) {
    int calls = 0;
    MUST(counted(&calls, CORRUPT));
}
