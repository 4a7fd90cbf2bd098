#include "base/ending.h"

#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "tests/test.h"

/* Runs body in a child, sends it the signals one after another, each when the child has said so on
 * its pipe, and gives its status. */
static int ended_by(void (*body)(int ready), const int *signals, uint64_t apart_ms) {
    int pipes[2], status = 0;
    char byte;
    CHECK(pipe(pipes) == 0);
    pid_t child = fork();
    if (child == 0) {
        body(pipes[1]);
        _exit(99);
    }
    CHECK(child > 0 && read(pipes[0], &byte, 1) == 1);
    for (size_t i = 0; signals[i]; i++) {
        if (i > 0) clock_sleep_ms(apart_ms);
        CHECK(kill(child, signals[i]) == 0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    close(pipes[0]), close(pipes[1]);
    return status;
}

static void say_ready(int ready) { CHECK(write(ready, "!", 1) == 1); }

static void stuck(int ready) {
    sigset_t all;
    sigfillset(&all); /* as a launcher may leave it */
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    ending_begin(ENDING_BY_SIGNAL);
    say_ready(ready);
    for (;;) pause();
}

static void stuck_code_7(int ready) {
    ending_begin(7);
    say_ready(ready);
    for (;;) pause();
}

static void in_order(int ready) {
    ending_begin(ENDING_BY_SIGNAL);
    ending_in_order(NULL);
    say_ready(ready);
    CHECK(ending_wait(20000));
    clock_sleep_ms(300); /* what is under way is finished */
    _exit(40 + (ending_asked() == SIGHUP));
}

static void never(int ready) {
    ending_begin(0);
    ending_in_order(NULL);
    say_ready(ready);
    for (;;) pause();
}

static void hup_ignored(int ready) {
    signal(SIGHUP, SIG_IGN);
    ending_begin(7);
    say_ready(ready);
    for (;;) pause();
}

static void limited(int ready) {
    ending_begin(0);
    ending_limit(1, 5, "a thread that waits for ever");
    say_ready(ready);
    for (;;) pause();
}

TEST(a_signal_ends_at_once_what_has_nothing_to_save_even_if_it_came_blocked) {
    const int term[] = {SIGTERM, 0}, interrupt[] = {SIGINT, 0}, hup[] = {SIGHUP, 0};
    CHECK_EQUAL(WEXITSTATUS(ended_by(stuck, term, 0)), 128 + SIGTERM);
    CHECK_EQUAL(WEXITSTATUS(ended_by(stuck, interrupt, 0)), 128 + SIGINT);
    CHECK_EQUAL(WEXITSTATUS(ended_by(stuck_code_7, hup, 0)), 7);
}

TEST(the_first_signal_is_noted_and_the_same_again_at_once_changes_nothing) {
    const int once[] = {SIGTERM, 0}, twice[] = {SIGTERM, SIGTERM, SIGHUP, 0}, hup[] = {SIGHUP, 0};
    CHECK_EQUAL(WEXITSTATUS(ended_by(in_order, once, 0)), 40);
    CHECK_EQUAL(WEXITSTATUS(ended_by(in_order, twice, 20)), 40);
    CHECK_EQUAL(WEXITSTATUS(ended_by(in_order, hup, 0)), 41);
}

TEST(a_later_second_signal_ends_what_does_not_end) {
    const int twice[] = {SIGTERM, SIGINT, 0};
    CHECK_EQUAL(WEXITSTATUS(ended_by(never, twice, 1500)), 128 + SIGINT);
}

TEST(a_hangup_that_nohup_ignores_stays_ignored) {
    const int both[] = {SIGHUP, SIGTERM, 0};
    CHECK_EQUAL(WEXITSTATUS(ended_by(hup_ignored, both, 100)), 7);
    /* by SIGTERM: SIGHUP's end would have had the same code, so ask it apart */
    pid_t child = fork();
    if (child == 0) {
        signal(SIGHUP, SIG_IGN);
        ending_begin(7);
        raise(SIGHUP);
        _exit(8);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_EQUAL(WEXITSTATUS(status), 8);
}

TEST(an_end_that_hangs_is_cut_off_with_its_name) {
    const int none[] = {0};
    CHECK_EQUAL(WEXITSTATUS(ended_by(limited, none, 0)), 5);
}

TEST(what_is_not_a_regular_file_is_neither_opened_nor_written_over) {
    struct error error = {0};
    struct buffer content = {0};
    int descriptor = -1;
    char *fifo = file_join(test_directory(), "fifo");
    CHECK(mkfifo(fifo, 0600) == 0);
    CHECK_STATUS(file_open(fifo, &descriptor, NULL, &error), INVALID);
    CHECK_CONTAINS(error.message, "a pipe (FIFO)");
    CHECK_CONTAINS(error.message, fifo);
    CHECK_STATUS(file_read(fifo, 100, &content, &error), INVALID);
    CHECK_STATUS(file_write(fifo, bytes_of("x", 1), 0600, &error), INVALID);
    struct stat info;
    CHECK(stat(fifo, &info) == 0 && S_ISFIFO(info.st_mode));
    CHECK_STATUS(file_open("/dev/null", &descriptor, NULL, &error), INVALID);
    CHECK_CONTAINS(error.message, "a device");
    CHECK_STATUS(file_open(test_directory(), &descriptor, NULL, &error), INVALID);
    CHECK_CONTAINS(error.message, "a directory");
    CHECK_STATUS(file_open("/nonexistent/a", &descriptor, NULL, &error), NOT_FOUND);
    CHECK_EQUAL(descriptor, -1);
    free(fifo);
}
