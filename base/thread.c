#include "base/thread.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"

struct thread {
    pthread_t handle;
    char name[16];
    void (*body)(void *context);
    void *context;
};

static void *thread_main(void *argument) {
    struct thread *thread = argument;
    pthread_setname_np(pthread_self(), thread->name);
    thread->body(thread->context);
    return NULL;
}

enum status thread_start(const char *name, void (*body)(void *context), void *context, struct thread **out,
                         struct error *error) {
    struct thread *thread = xcalloc(1, sizeof *thread);
    strncpy(thread->name, name, sizeof thread->name - 1);
    thread->body = body;
    thread->context = context;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&thread->handle, NULL, thread_main, thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        free(thread);
        return error_set(error, UNAVAILABLE, "start thread %s: %s", name, strerror(failed));
    }
    *out = thread;
    return OK;
}

enum status thread_join(struct thread *thread, uint64_t timeout_ms) {
    if (!thread) return OK;
    if (timeout_ms == UINT64_MAX) {
        pthread_join(thread->handle, NULL);
    } else {
        struct timespec at;
        clock_gettime(CLOCK_MONOTONIC, &at);
        uint64_t ns = (uint64_t)at.tv_nsec + (timeout_ms % 1000) * 1000000u;
        at.tv_sec += (time_t)(timeout_ms / 1000 + ns / 1000000000u);
        at.tv_nsec = (long)(ns % 1000000000u);
        if (pthread_clockjoin_np(thread->handle, NULL, CLOCK_MONOTONIC, &at) == ETIMEDOUT) return TIMEOUT;
    }
    free(thread);
    return OK;
}

unsigned thread_processor_count(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    int count = CPU_COUNT(&set);
    return count > 0 ? (unsigned)count : 1;
}
