#include "base/log.h"

#include <fcntl.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "base/thread.h"
#include "tests/test.h"

/* stderr goes to a file for the rest of the test's process. */
static char *log_path;
static void capture(void) {
    log_path = file_join(test_directory(), "log");
    int descriptor = open(log_path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    CHECK(descriptor >= 0 && dup2(descriptor, STDERR_FILENO) >= 0);
    close(descriptor);
}
static char *captured(void) {
    struct buffer text = {0};
    struct error error = {0};
    CHECK_OK(file_read(log_path, 1 << 22, &text, &error));
    free(log_path);
    return (char *)text.data;
}
static size_t lines_of(const char *text) {
    size_t count = 0;
    for (; *text; text++) count += *text == '\n';
    return count;
}

TEST(a_line_has_level_time_event_context_and_pairs) {
    capture();
    log_set_level(LOG_INFO);
    log_set_context("run=demo site=eu-1");
    log_info("update_applied", "staleness=%d", 2);
    log_set_context(NULL);
    log_warn("alone", "%s", "");
    char *text = captured();
    CHECK(strncmp(text, "info 20", 7) == 0);
    CHECK_CONTAINS(text, "Z update_applied run=demo site=eu-1 staleness=2\n");
    CHECK_CONTAINS(text, "Z alone\n");
    CHECK(text[15] == 'T' && text[28] == 'Z');
    free(text);
}

TEST(levels_below_the_chosen_one_are_silent) {
    capture();
    log_set_level(LOG_WARN);
    log_debug("one", "%s", "");
    log_info("two", "%s", "");
    log_error("three", "%s", "");
    log_set_level(LOG_NONE);
    log_error("four", "%s", "");
    char *text = captured();
    CHECK_EQUAL(lines_of(text), 1);
    CHECK_CONTAINS(text, "error ");
    free(text);
}

TEST(a_level_is_parsed_or_the_known_ones_are_named) {
    enum log_level level = LOG_NONE;
    struct error error = {0};
    CHECK_OK(log_level_parse("debug", &level, &error));
    CHECK_EQUAL(level, LOG_DEBUG);
    CHECK_STATUS(log_level_parse("loud", &level, &error), INVALID);
    CHECK_CONTAINS(error.message, "debug, info, warn, error, none");
    CHECK_EQUAL(level, LOG_DEBUG);
}

TEST(a_call_site_that_repeats_is_limited_and_others_are_not) {
    capture();
    log_set_level(LOG_INFO);
    for (int i = 0; i < 1000; i++) log_info("storm", "i=%d", i);
    log_info("calm", "%s", "");
    char *text = captured();
    CHECK_EQUAL(lines_of(text), 21);
    CHECK_CONTAINS(text, " calm\n");
    free(text);
}

TEST(at_level_debug_no_line_is_dropped) {
    capture();
    log_set_level(LOG_DEBUG);
    for (int i = 0; i < 100; i++) log_info("storm", "i=%d", i);
    log_set_level(LOG_INFO);
    char *text = captured();
    CHECK_EQUAL(lines_of(text), 100);
    free(text);
}

TEST(what_a_peer_sent_cannot_forge_a_line) {
    char out[64];
    CHECK_TEXT(log_quote("plain", out, sizeof out), "plain");
    CHECK_TEXT(log_quote("", out, sizeof out), "\"\"");
    CHECK_TEXT(log_quote("a b", out, sizeof out), "\"a b\"");
    CHECK_TEXT(log_quote("a\nerror 2026 x=\"1\"", out, sizeof out), "\"a.error 2026 x=\\\"1\\\"\"");
    for (size_t size = 3; size < 12; size++) {
        memset(out, '#', sizeof out);
        log_quote("\"\"\"\"\"\"\"\"\"\"", out, size);
        CHECK(memchr(out, 0, size) != NULL && out[size] == '#');
    }
    capture();
    log_set_level(LOG_INFO);
    log_info("event", "%s", "two\nlines\r");
    char *text = captured();
    CHECK_EQUAL(lines_of(text), 1);
    free(text);
}

TEST(a_line_too_long_is_cut_and_still_ends) {
    capture();
    log_set_level(LOG_INFO);
    char long_text[8192];
    memset(long_text, 'x', sizeof long_text);
    long_text[sizeof long_text - 1] = 0;
    log_info("long", "%s", long_text);
    char *text = captured();
    CHECK_EQUAL(lines_of(text), 1);
    CHECK(strlen(text) <= 2048 && text[strlen(text) - 1] == '\n');
    free(text);
}

static void chatter(void *context) {
    (void)context;
    for (int i = 0; i < 10; i++)
        log_info("chatter", "i=%d text=%s", i, "abcdefghijklmnopqrstuvwxyz");
}
TEST(lines_of_several_threads_do_not_mix) {
    capture();
    log_set_level(LOG_INFO);
    struct thread *threads[4];
    struct error error = {0};
    for (int i = 0; i < 4; i++)
        CHECK_OK(thread_start("chatter", chatter, NULL, &threads[i], &error));
    for (int i = 0; i < 4; i++) CHECK_EQUAL(thread_join(threads[i], UINT64_MAX), OK);
    char *text = captured();
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        CHECK(strncmp(line, "info ", 5) == 0);
        CHECK_TEXT(line + strlen(line) - 26, "abcdefghijklmnopqrstuvwxyz");
    }
    free(text);
}
