/* A status is of the process that wrote it: where that one has ended without a word, the reader is
 * told. */
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "node/status.h"
#include "storage/store.h"
#include "tests/storage_sha256.h"
#include "tests/test.h"

static const char *const text_of =
    "{\"format\": 1, \"stamp_ms\": 100000, \"state\": \"%s\", \"message\": null, \"pid\": 77, "
    "\"linked\": true, \"loss\": 2.5,\n"
    " \"tokens_per_second\": 900.5, \"steps_per_second\": 3, \"slots\": [\"training\"], "
    "\"lost_ms\": {\"data\": "
    "18446744073709551615}}";

static bool alive(const char *directory, uint64_t pid) {
    return pid == 77 && strcmp(directory, "site") == 0;
}
static bool dead(const char *directory, uint64_t pid) { return !alive(directory, pid); }

static char *read_at(const char *state, uint64_t now_ms,
                     bool (*is_alive)(const char *directory, uint64_t pid)) {
    char *file = xformat(text_of, state);
    struct buffer out = {0};
    struct error error = {0};
    CHECK_OK(status_as_of(bytes_of(file, strlen(file)), "site", now_ms, is_alive, &out, &error));
    if (now_ms < 105000) CHECK(out.size == strlen(file) && memcmp(out.data, file, out.size) == 0);
    free(file);
    buffer_u8(&out, 0);
    return (char *)out.data;
}

TEST(a_status_that_is_fresh_is_given_as_it_is) {
    free(read_at("training", 100900, alive));
    free(read_at("training", 104999, dead)); /* a process of another machine or container */
    free(read_at("training", 90000, dead));  /* the clock was set back */
}

TEST(a_killed_site_does_not_train_for_ever) {
    char *text = read_at("training", 112345, dead);
    CHECK_CONTAINS(text, "\"state\": \"gone\"");
    CHECK_CONTAINS(text, "process 77 is not running; its last status is 12 s old");
    CHECK_CONTAINS(text, "\"linked\": false");
    CHECK_CONTAINS(text, "\"tokens_per_second\": 0");
    CHECK_CONTAINS(text, "\"steps_per_second\": 0");
    CHECK_CONTAINS(text, "\"loss\": 2.5");
    CHECK_CONTAINS(text, "18446744073709551615");
    free(text);
    text = read_at("waiting", 112345, dead);
    CHECK_CONTAINS(text, "\"state\": \"gone\"");
    free(text);
}

TEST(a_site_that_stands_still_is_silent) {
    char *text = read_at("training", 107000, alive);
    CHECK_CONTAINS(text, "\"state\": \"silent\"");
    CHECK_CONTAINS(text, "process 77 has written no status for 7 s");
    free(text);
}

TEST(a_long_start_is_no_silence_and_an_end_stays_what_it_was) {
    static const char *const same[] = {"starting", "stopped", "halted", "finished", "broken"};
    for (size_t i = 0; i < COUNT_OF(same); i++) {
        char *text = read_at(same[i], 99999999, i == 0 ? alive : dead),
             *state = xformat("\"state\": \"%s\"", same[i]);
        CHECK_CONTAINS(text, state);
        free(state);
        free(text);
    }
    char *text = read_at("starting", 99999999, dead);
    CHECK_CONTAINS(text, "\"state\": \"gone\"");
    free(text);
}

TEST(what_is_no_status_is_refused) {
    struct buffer out = {0};
    struct error error = {0};
    static const char *const bad[] = {"", "[]", "{}", "{\"state\": 1, \"stamp_ms\": 1, \"pid\": 1}",
                                      "{\"state\": \"training\"}"};
    for (size_t i = 0; i < COUNT_OF(bad); i++)
        CHECK(status_as_of(bytes_of(bad[i], strlen(bad[i])), "site", 1, alive, &out, &error) != OK);
    CHECK_EQUAL(out.size, 0);
}

/* The number of a process that ended is given to another one, and in a container every first one
 * has the same: the lock on the journal says who is there. */
TEST(a_number_that_is_another_process_is_not_the_site) {
    const char *site = test_directory();
    char *journal = file_join(site, "journal");
    static const char *const tables[] = {"entries"};
    struct store_options options = {
        .directory = journal, .tables = tables, .table_count = 1, .digest = &storage_sha256};
    struct store *store;
    struct error error = {0};
    CHECK(!status_is_at_work(site, (uint64_t)getpid()));
    CHECK_OK(store_open(&options, &store, &error));
    CHECK(status_is_at_work(site, 1));
    store_close(store);
    CHECK(!status_is_at_work(site, (uint64_t)getpid()));
    free(journal);
}
