#include "base/thread.h"

#include <pthread.h>
#include <signal.h>

#include "base/clock.h"
#include "tests/test.h"

struct seen {
    char name[16];
    bool all_blocked;
};
static void look(void *context) {
    struct seen *seen = context;
    sigset_t mask;
    pthread_getname_np(pthread_self(), seen->name, sizeof seen->name);
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    seen->all_blocked = sigismember(&mask, SIGTERM) == 1 && sigismember(&mask, SIGINT) == 1 &&
                        sigismember(&mask, SIGUSR1) == 1;
}

TEST(a_thread_has_its_name_and_takes_no_signals) {
    struct error error = {0};
    struct thread *thread = NULL;
    struct seen seen = {0};
    sigset_t mask;
    CHECK_OK(thread_start("a-name-longer-than-15", look, &seen, &thread, &error));
    CHECK_EQUAL(thread_join(thread, UINT64_MAX), OK);
    CHECK_TEXT(seen.name, "a-name-longer-t");
    CHECK(seen.all_blocked);
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    CHECK_EQUAL(sigismember(&mask, SIGTERM), 0); /* the starter's own mask is as before */
}

static void linger(void *context) { clock_sleep_ms(*(uint64_t *)context); }

TEST(a_join_past_its_deadline_times_out_and_may_be_repeated) {
    struct error error = {0};
    struct thread *thread = NULL;
    uint64_t duration_ms = 150;
    CHECK_OK(thread_start("lingers", linger, &duration_ms, &thread, &error));
    CHECK_EQUAL(thread_join(thread, 10), TIMEOUT);
    CHECK_EQUAL(thread_join(thread, 0), TIMEOUT);
    CHECK_EQUAL(thread_join(thread, 30000), OK);
    CHECK_EQUAL(thread_join(NULL, 0), OK);
}

TEST(there_is_a_processor) { CHECK(thread_processor_count() >= 1); }
