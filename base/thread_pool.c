/* A pool of threads that share numbered jobs (base/thread_pool.h): one mutex, two conditions, a
 * counter. Results must not depend on which thread does which job. */
#include "base/thread_pool.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/memory.h"
#include "base/thread.h"

struct pool_member {
    struct thread_pool *pool;
    struct thread *thread;
    uint32_t worker;
};

struct thread_pool {
    pthread_mutex_t lock; /* guards all below but members */
    pthread_cond_t work, done;
    thread_pool_job *job;
    void *context;
    uint64_t next, count;
    uint64_t running; /* jobs handed out and not finished */
    bool stopping;
    uint32_t member_count;
    struct pool_member *members; /* [member_count], without the caller */
};

/* Takes jobs until none is left. Called and left with the lock held. */
static void pool_work(struct thread_pool *pool, uint32_t worker) {
    while (pool->next < pool->count) {
        uint64_t number = pool->next++;
        pool->running++;
        thread_pool_job *job = pool->job;
        void *context = pool->context;
        pthread_mutex_unlock(&pool->lock);
        job(context, number, worker);
        pthread_mutex_lock(&pool->lock);
        if (--pool->running == 0 && pool->next == pool->count) pthread_cond_signal(&pool->done);
    }
}

static void pool_member_main(void *context) {
    struct pool_member *member = context;
    struct thread_pool *pool = member->pool;
    pthread_mutex_lock(&pool->lock);
    while (!pool->stopping) {
        pool_work(pool, member->worker);
        if (!pool->stopping) pthread_cond_wait(&pool->work, &pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
}

enum status thread_pool_create(const char *name, uint32_t workers, struct thread_pool **out,
                               struct error *error) {
    if (workers == 0) workers = thread_processor_count();
    struct thread_pool *pool = xcalloc(1, sizeof *pool);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->done, NULL);
    pool->members = xcalloc(workers, sizeof *pool->members);
    for (uint32_t i = 1; i < workers; i++) {
        struct pool_member *member = &pool->members[pool->member_count];
        *member = (struct pool_member){.pool = pool, .worker = i};
        enum status status = thread_start(name, pool_member_main, member, &member->thread, error);
        if (status != OK) {
            thread_pool_destroy(pool);
            return status;
        }
        pool->member_count++;
    }
    *out = pool;
    return OK;
}

void thread_pool_destroy(struct thread_pool *pool) {
    if (!pool) return;
    pthread_mutex_lock(&pool->lock);
    pool->stopping = true;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (uint32_t i = 0; i < pool->member_count; i++)
        MUST(thread_join(pool->members[i].thread, UINT64_MAX));
    pthread_cond_destroy(&pool->work);
    pthread_cond_destroy(&pool->done);
    pthread_mutex_destroy(&pool->lock);
    free(pool->members);
    free(pool);
}

uint32_t thread_pool_workers(const struct thread_pool *pool) {
    return pool ? pool->member_count + 1 : 1;
}

void thread_pool_run(struct thread_pool *pool, uint64_t count, thread_pool_job *job,
                     void *context) {
    if (!pool) {
        for (uint64_t number = 0; number < count; number++) job(context, number, 0);
        return;
    }
    pthread_mutex_lock(&pool->lock);
    pool->job = job;
    pool->context = context;
    pool->count = count;
    pool->next = 0;
    if (count > 1) pthread_cond_broadcast(&pool->work);
    pool_work(pool, 0);
    while (pool->running) pthread_cond_wait(&pool->done, &pool->lock);
    pool->count = pool->next = 0;
    pthread_mutex_unlock(&pool->lock);
}
