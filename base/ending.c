#include "base/ending.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
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
static sem_t noted;
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
        sem_post(&noted);
    } else if (number != SIGHUP && now_ms() - atomic_load(&asked_ms) >= AGAIN_MS) {
        atomic_store(&exit_code, ENDING_BY_SIGNAL); /* not in order: what was under way is not saved */
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

static void prepare(void) { sem_init(&noted, 0, 0); }

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

bool ending_wait(uint64_t timeout_ms) {
    pthread_once(&once, prepare);
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    uint64_t ns = (uint64_t)until.tv_nsec + timeout_ms % 1000 * 1000000u;
    until.tv_sec += (time_t)(timeout_ms / 1000 + ns / 1000000000u);
    until.tv_nsec = (long)(ns % 1000000000u);
    while (!ending_is_asked()) {
        int64_t left_ms = ((int64_t)until.tv_sec * 1000 + until.tv_nsec / 1000000) - now_ms();
        if (left_ms <= 0) break;
        struct timespec wall; /* sem_clockwait is not in every libc */
        clock_gettime(CLOCK_REALTIME, &wall);
        int64_t wall_ns = wall.tv_nsec + left_ms % 1000 * 1000000;
        wall.tv_sec += (time_t)(left_ms / 1000 + wall_ns / 1000000000);
        wall.tv_nsec = (long)(wall_ns % 1000000000);
        (void)sem_timedwait(&noted, &wall);
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
