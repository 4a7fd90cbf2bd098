#include "tests/test.h"

#include <dirent.h>
#include <ftw.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"

enum { EXIT_TEST_FAILED = 97, EXIT_TEST_SKIPPED = 96 };

static struct test *first_test;
static struct test **last_link = &first_test;
static char directory[256];
static const char *running; /* the test of this process */

void test_register(struct test *test) {
    *last_link = test;
    last_link = &test->next;
}

void test_failed(const char *file, int line, const char *format, ...) {
    fflush(stdout); /* or this would come in the middle of one of its lines */
    fprintf(stderr, "  %s:%d: ", file, line);
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    fflush(stderr);
    _exit(EXIT_TEST_FAILED);
}

void test_skipped(const char *format, ...) {
    printf("SKIPPED %s - ", running);
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
    fflush(stdout);
    _exit(EXIT_TEST_SKIPPED);
}

const char *test_directory(void) {
    if (!*directory) {
        const char *base = getenv("TMPDIR");
        snprintf(directory, sizeof directory, "%s/atoll-test-%ld", base ? base : "/tmp",
                 (long)getpid());
        char command[600]; /* process numbers come round again: what a killed test left must not be
                              found */
        snprintf(command, sizeof command, "rm -rf '%s' && mkdir -p '%s'", directory, directory);
        if (system(command) != 0) test_failed(__FILE__, __LINE__, "cannot make %s", directory);
    }
    return directory;
}

const char *test_root(void) {
    const char *root = getenv("ATOLL_ROOT");
    return root ? root : TEST_ROOT;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *walk) {
    (void)info, (void)kind, (void)walk;
    return remove(path);
}

static void remove_directory_of(pid_t pid) {
    char path[256];
    const char *base = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/atoll-test-%ld", base ? base : "/tmp", (long)pid);
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void run_here(const struct test *test) {
    running = test->name;
    test->body();
    fflush(stdout);
    exit(0); /* exit, not _exit: LeakSanitizer looks at exit */
}

struct outcome {
    int status;
    bool timed_out;
    uint64_t took_ms;
};

static struct outcome run_in_child(const struct test *test, const char *program,
                                   unsigned slowdown) {
    uint64_t start = clock_monotonic_ms(),
             deadline = start + (uint64_t)test->deadline_ms * slowdown;
    struct outcome outcome = {0};
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        setpgid(0, 0);
        execl(program, program, "--only", test->name, (char *)NULL);
        _exit(126);
    }
    useconds_t nap = 200;
    while (waitpid(child, &outcome.status, WNOHANG) == 0) {
        if (clock_monotonic_ms() > deadline) {
            outcome.timed_out = true;
            kill(-child, SIGKILL);
            kill(child, SIGKILL);
            waitpid(child, &outcome.status, 0);
            break;
        }
        usleep(nap);
        if (nap < 10000) nap *= 2;
    }
    kill(-child, SIGKILL); /* whatever it left behind */
    remove_directory_of(child);
    outcome.took_ms = clock_monotonic_ms() - start;
    return outcome;
}

static bool leaks_are_seen(void) {
#if defined(__SANITIZE_ADDRESS__)
    return true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
    return true;
#else
    return false;
#endif
#else
    return false;
#endif
}

static bool was_skipped(const struct outcome *outcome) {
    return !outcome->timed_out && WIFEXITED(outcome->status) &&
           WEXITSTATUS(outcome->status) == EXIT_TEST_SKIPPED;
}

static bool as_expected(const struct test *test, const struct outcome *outcome) {
    bool exited = WIFEXITED(outcome->status) && !outcome->timed_out;
    int code = exited ? WEXITSTATUS(outcome->status) : -1;
    switch (test->expectation) {
    case TEST_PASS: return code == 0;
    case TEST_FAIL: return code == EXIT_TEST_FAILED;
    case TEST_HANG: return outcome->timed_out;
    case TEST_CRASH:
        return !outcome->timed_out &&
               (WIFSIGNALED(outcome->status) || (code != 0 && code != EXIT_TEST_FAILED));
    case TEST_LEAK: return leaks_are_seen() ? code != 0 : code == 0;
    }
    return false;
}

static void describe(const struct test *test, const struct outcome *outcome, bool passed) {
    if (passed) {
        printf("ok   %-6llums %s%s\n", (unsigned long long)outcome->took_ms, test->name,
               test->expectation == TEST_PASS ? "" : " (canary, caught)");
        return;
    }
    char why[80];
    if (outcome->timed_out)
        snprintf(why, sizeof why, "no end within its deadline");
    else if (WIFSIGNALED(outcome->status))
        snprintf(why, sizeof why, "killed by signal %d", WTERMSIG(outcome->status));
    else
        snprintf(why, sizeof why, "exit code %d", WEXITSTATUS(outcome->status));
    printf("FAIL %-6llums %s: %s\n", (unsigned long long)outcome->took_ms, test->name, why);
}

int main(int count, char **arguments) {
    if (count == 3 && strcmp(arguments[1], "--only") == 0) {
        for (struct test *test = first_test; test; test = test->next) {
            if (strcmp(test->name, arguments[2]) == 0) run_here(test);
        }
        fprintf(stderr, "no test is named %s\n", arguments[2]);
        return 2;
    }
    if (count == 2 && strcmp(arguments[1], "--list") == 0) {
        for (struct test *test = first_test; test; test = test->next) puts(test->name);
        return 0;
    }
    if (count != 1) {
        fprintf(stderr, "usage: %s [--list | --only NAME]\n", arguments[0]);
        return 2;
    }
    const char *slowdown_text = getenv("ATOLL_TEST_SLOWDOWN");
    unsigned slowdown = slowdown_text ? (unsigned)atoi(slowdown_text) : 1;
    unsigned passed = 0, failed = 0, skipped = 0;
    for (struct test *test = first_test; test; test = test->next) {
        fflush(stdout);
        struct outcome outcome = run_in_child(test, "/proc/self/exe", slowdown ? slowdown : 1);
        if (was_skipped(&outcome)) {
            skipped++; /* it said so itself */
            continue;
        }
        bool good = as_expected(test, &outcome);
        describe(test, &outcome, good);
        if (good)
            passed++;
        else
            failed++;
    }
    printf("%u passed, %u failed", passed, failed);
    if (skipped) printf(", %u skipped", skipped);
    putchar('\n');
    return failed ? 1 : 0;
}
