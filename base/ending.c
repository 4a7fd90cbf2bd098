/* Signal handlers and the limit on an orderly end (base/ending.h). What runs in a handler is
 * async-signal-safe: write(2), atomics, _exit. A stack trace that ends in end_at_once is a second
 * signal; one in on_limit is an end that took too long. */
#include "base/ending.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/status.h"

enum { AGAIN_MS = 1000 };

static const struct {
    int number;
    const char *name;
} endings[] = {{SIGTERM, "TERM"}, {SIGINT, "INT"}, {SIGHUP, "HUP"}};
enum { ENDINGS = sizeof endings / sizeof endings[0] };

static atomic_int exit_code = ENDING_BY_SIGNAL, asked, limit_code;
static atomic_bool in_order;
static _Atomic int64_t asked_ms;
static void (*_Atomic ask_function)(void);
static const char *_Atomic limit_doing;
static int noted[2] = {-1, -1}; /* a pipe: a signal's handler writes, nobody reads */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static int64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* No stdio, no log: a handler may have interrupted them. */
static void say(const char *text) {
    ssize_t wrote = write(STDERR_FILENO, text, strlen(text));
    (void)wrote;
}

const char *ending_signal_name(int number) {
    for (size_t i = 0; i < ENDINGS; i++)
        if (endings[i].number == number) return endings[i].name;
    return "none";
}

__attribute__((noreturn)) static void end_at_once(int number, const char *why) {
    int code = atomic_load(&exit_code);
    say("ended by SIG");
    say(ending_signal_name(number));
    say(why);
    _exit(code == ENDING_BY_SIGNAL ? 128 + number : code);
}

static void on_signal(int number) {
    int saved = errno, none = 0;
    if (!atomic_load(&in_order)) end_at_once(number, "\n");
    if (atomic_compare_exchange_strong(&asked, &none, number)) {
        atomic_store(&asked_ms, now_ms());
        void (*function)(void) = atomic_load(&ask_function);
        if (function) function();
        ssize_t wrote = write(noted[1], "", 1);
        (void)wrote;
    } else if (number != SIGHUP && now_ms() - atomic_load(&asked_ms) >= AGAIN_MS) {
        /* not in order: what was under way is not saved */
        atomic_store(&exit_code, ENDING_BY_SIGNAL);
        end_at_once(number, ", the second signal: what was not saved yet is lost\n");
    }
    errno = saved;
}

static void on_limit(int number) {
    (void)number;
    const char *doing = atomic_load(&limit_doing);
    say("error: this did not end in time and is cut off: ");
    say(doing ? doing : "the end");
    say("\n");
    _exit(atomic_load(&limit_code));
}

static void prepare(void) {
    int made[2];
    if (pipe(made) != 0) return;
    for (int i = 0; i < 2; i++) fcntl(made[i], F_SETFD, FD_CLOEXEC);
    noted[1] = made[1];
    noted[0] = made[0];
}

static void handle(int number, void (*handler)(int)) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = (int)SA_RESTART};
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < ENDINGS; i++) sigaddset(&action.sa_mask, endings[i].number);
    sigaction(number, &action, NULL);
}

static bool is_ignored(int number) {
    struct sigaction before;
    return sigaction(number, NULL, &before) == 0 && before.sa_handler == SIG_IGN;
}

void ending_begin(int code) {
    pthread_once(&once, prepare);
    atomic_store(&exit_code, code);
    (void)signal(SIGXFSZ, SIG_IGN);
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < ENDINGS; i++) {
        if (endings[i].number == SIGHUP && is_ignored(SIGHUP)) continue;
        handle(endings[i].number, on_signal);
        sigaddset(&set, endings[i].number);
    }
    handle(SIGALRM, on_limit);
    sigaddset(&set, SIGALRM);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

void ending_in_order(void (*on_ask)(void)) {
    pthread_once(&once, prepare);
    atomic_store(&ask_function, on_ask);
    atomic_store(&in_order, true);
}

int ending_asked(void) { return atomic_load(&asked); }
bool ending_is_asked(void) { return ending_asked() != 0; }

/* By a pipe, whose wait is as long as it says: one until a time of the wall clock lasts for days
 * when somebody sets that back. */
bool ending_wait(uint64_t timeout_ms) {
    enum { WITHOUT_PIPE_MS = 50, MOST_MS = 1000 * 1000 };
    pthread_once(&once, prepare);
    int64_t until_ms =
                now_ms() + (int64_t)(timeout_ms < INT64_MAX / 2 ? timeout_ms : INT64_MAX / 2),
            left_ms;
    while (!ending_is_asked() && (left_ms = until_ms - now_ms()) > 0) {
        int64_t most_ms = noted[0] < 0 ? WITHOUT_PIPE_MS : MOST_MS;
        struct pollfd wake = {.fd = noted[0], .events = POLLIN};
        (void)poll(&wake, 1, (int)(left_ms < most_ms ? left_ms : most_ms));
    }
    return ending_is_asked();
}

void ending_limit(unsigned seconds, int code, const char *doing) {
    alarm(0);
    atomic_store(&limit_code, code);
    atomic_store(&limit_doing, doing);
    if (seconds == 0) return;
    handle(SIGALRM, on_limit);
    alarm(seconds);
}
