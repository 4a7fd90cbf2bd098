/* A pool of threads that share numbered jobs (model/crew.h): one mutex, two conditions, a counter.
 * Results must not depend on which thread does which job. */
#include "model/crew.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/memory.h"
#include "base/thread.h"

struct crew_member {
    struct crew *crew;
    struct thread *thread;
    uint32_t worker;
};

struct crew {
    pthread_mutex_t lock; /* guards all below but members */
    pthread_cond_t work, done;
    crew_job *job;
    void *context;
    uint64_t next, count;
    uint64_t running; /* jobs handed out and not finished */
    bool stopping;
    uint32_t member_count;
    struct crew_member *members; /* [member_count], without the caller */
};

/* Takes jobs until none is left. Called and left with the lock held. */
static void crew_work(struct crew *crew, uint32_t worker) {
    while (crew->next < crew->count) {
        uint64_t number = crew->next++;
        crew->running++;
        crew_job *job = crew->job;
        void *context = crew->context;
        pthread_mutex_unlock(&crew->lock);
        job(context, number, worker);
        pthread_mutex_lock(&crew->lock);
        if (--crew->running == 0 && crew->next == crew->count) pthread_cond_signal(&crew->done);
    }
}

static void crew_member_main(void *context) {
    struct crew_member *member = context;
    struct crew *crew = member->crew;
    pthread_mutex_lock(&crew->lock);
    while (!crew->stopping) {
        crew_work(crew, member->worker);
        if (!crew->stopping) pthread_cond_wait(&crew->work, &crew->lock);
    }
    pthread_mutex_unlock(&crew->lock);
}

enum status crew_create(uint32_t workers, struct crew **out, struct error *error) {
    struct crew *crew = xcalloc(1, sizeof *crew);
    pthread_mutex_init(&crew->lock, NULL);
    pthread_cond_init(&crew->work, NULL);
    pthread_cond_init(&crew->done, NULL);
    crew->members = xcalloc(workers, sizeof *crew->members);
    for (uint32_t i = 1; i < workers; i++) {
        struct crew_member *member = &crew->members[crew->member_count];
        *member = (struct crew_member){.crew = crew, .worker = i};
        enum status status =
            thread_start("train", crew_member_main, member, &member->thread, error);
        if (status != OK) {
            crew_destroy(crew);
            return status;
        }
        crew->member_count++;
    }
    *out = crew;
    return OK;
}

void crew_destroy(struct crew *crew) {
    if (!crew) return;
    pthread_mutex_lock(&crew->lock);
    crew->stopping = true;
    pthread_cond_broadcast(&crew->work);
    pthread_mutex_unlock(&crew->lock);
    for (uint32_t i = 0; i < crew->member_count; i++)
        MUST(thread_join(crew->members[i].thread, UINT64_MAX));
    pthread_cond_destroy(&crew->work);
    pthread_cond_destroy(&crew->done);
    pthread_mutex_destroy(&crew->lock);
    free(crew->members);
    free(crew);
}

void crew_run(struct crew *crew, uint64_t count, crew_job *job, void *context) {
    pthread_mutex_lock(&crew->lock);
    crew->job = job;
    crew->context = context;
    crew->count = count;
    crew->next = 0;
    if (count > 1) pthread_cond_broadcast(&crew->work);
    crew_work(crew, 0);
    while (crew->running) pthread_cond_wait(&crew->done, &crew->lock);
    crew->count = crew->next = 0;
    pthread_mutex_unlock(&crew->lock);
}
