/* Named threads with a join that has a deadline (base/thread.h). The thread reports its end under
 * a mutex; a join that times out leaves the thread running and says so. */
#include "base/thread.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/limits.h"
#include "base/memory.h"

struct thread {
    pthread_t handle;
    char name[16];
    void (*body)(void *context);
    void *context;
    pthread_mutex_t lock; /* guards `ended`; a plain join with a deadline is a GNU extension that
                             sanitizers do not follow */
    pthread_cond_t has_ended;
    bool ended;
};

static void *thread_main(void *argument) {
    struct thread *thread = argument;
    pthread_setname_np(pthread_self(), thread->name);
    thread->body(thread->context);
    pthread_mutex_lock(&thread->lock);
    thread->ended = true;
    pthread_cond_signal(&thread->has_ended);
    pthread_mutex_unlock(&thread->lock);
    return NULL;
}

static struct thread *thread_create(const char *name, void (*body)(void *context), void *context) {
    struct thread *thread = xcalloc(1, sizeof *thread);
    strncpy(thread->name, name, sizeof thread->name - 1);
    thread->body = body;
    thread->context = context;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&thread->lock, NULL);
    pthread_cond_init(&thread->has_ended, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return thread;
}

static void thread_destroy(struct thread *thread) {
    pthread_cond_destroy(&thread->has_ended);
    pthread_mutex_destroy(&thread->lock);
    free(thread);
}

enum status thread_start(const char *name, void (*body)(void *context), void *context,
                         struct thread **out, struct error *error) {
    struct thread *thread = thread_create(name, body, context);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&thread->handle, NULL, thread_main, thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        thread_destroy(thread);
        return error_set(error, UNAVAILABLE, "start thread %s: %s", name, strerror(failed));
    }
    *out = thread;
    return OK;
}

static struct timespec deadline_in(uint64_t timeout_ms) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    uint64_t ns = (uint64_t)at.tv_nsec + (timeout_ms % 1000) * 1000000u;
    at.tv_sec += (time_t)(timeout_ms / 1000 + ns / 1000000000u);
    at.tv_nsec = (long)(ns % 1000000000u);
    return at;
}

enum status thread_join(struct thread *thread, uint64_t timeout_ms) {
    if (!thread) return OK;
    if (timeout_ms != UINT64_MAX) {
        struct timespec deadline = deadline_in(timeout_ms);
        int waited = 0;
        pthread_mutex_lock(&thread->lock);
        while (!thread->ended && waited != ETIMEDOUT)
            waited = pthread_cond_timedwait(&thread->has_ended, &thread->lock, &deadline);
        bool ended = thread->ended;
        pthread_mutex_unlock(&thread->lock);
        if (!ended) return TIMEOUT;
    }
    pthread_join(thread->handle, NULL);
    thread_destroy(thread);
    return OK;
}

unsigned thread_processor_count(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    int count = CPU_COUNT(&set);
    uint32_t granted = limits_processors("");
    return count > 0 ? MIN((unsigned)count, granted) : 1;
}
