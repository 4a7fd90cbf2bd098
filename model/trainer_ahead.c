/* The thread that reads ahead: the tokens of a trainer's next step, from the data into pinned
 * memory, sorted, and from there to the device, beside the step that runs. It does one piece of
 * work at a time and sleeps between them; a request waits for the piece before, so data, device and
 * tokens are never used by two threads at once but where the device itself allows it.
 */
#include <pthread.h>
#include <stdlib.h>

#include "base/memory.h"
#include "base/thread.h"
#include "model/trainer_internal.h"

struct ahead {
    struct trainer *trainer; /* its device, its options and t->ahead_tokens */
    struct thread *thread;
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t changed;
    bool busy, ending;
    const struct data *data;
    struct data_position from, to;
    enum status status; /* of what was read last; NOT_FOUND: nothing was, or it is forgotten */
    struct error error;
};

static enum status read_one(struct ahead *a, const struct data *data,
                            struct data_position *position, struct error *error) {
    struct trainer *t = a->trainer;
    TRY(trainer_gather(t, data, position, t->ahead_tokens, error));
    return device_trainer_stage(t->device, t->ahead_tokens, error);
}

static void body(void *context) {
    struct ahead *a = context;
    pthread_mutex_lock(&a->lock);
    for (;;) {
        while (!a->busy && !a->ending) pthread_cond_wait(&a->changed, &a->lock);
        if (!a->busy) break;
        const struct data *data = a->data;
        struct data_position position = a->from;
        struct error error = {0};
        pthread_mutex_unlock(&a->lock);
        enum status status = read_one(a, data, &position, &error);
        pthread_mutex_lock(&a->lock);
        a->status = status;
        a->error = error;
        a->to = position;
        a->busy = false;
        pthread_cond_broadcast(&a->changed);
    }
    pthread_mutex_unlock(&a->lock);
}

static void wait_idle(struct ahead *a) {
    while (a->busy) pthread_cond_wait(&a->changed, &a->lock);
}

enum status ahead_create(struct trainer *t, struct ahead **out, struct error *error) {
    struct ahead *a = xcalloc(1, sizeof *a);
    a->trainer = t;
    a->status = NOT_FOUND;
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->changed, NULL);
    enum status status = thread_start("read-ahead", body, a, &a->thread, error);
    if (status == OK)
        *out = a;
    else
        ahead_destroy(a);
    return status;
}

void ahead_destroy(struct ahead *a) {
    if (!a) return;
    pthread_mutex_lock(&a->lock);
    a->ending = true;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
    (void)!thread_join(a->thread, UINT64_MAX);
    pthread_cond_destroy(&a->changed);
    pthread_mutex_destroy(&a->lock);
    free(a);
}

void ahead_begin(struct ahead *a, const struct data *data, struct data_position from) {
    pthread_mutex_lock(&a->lock);
    wait_idle(a);
    a->data = data;
    a->from = from;
    a->busy = true;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

enum status ahead_take(struct ahead *a, const struct data *data, struct data_position from,
                       struct data_position *to, struct error *error) {
    pthread_mutex_lock(&a->lock);
    wait_idle(a);
    enum status status = a->status;
    bool wanted = a->data == data && a->from.epoch == from.epoch && a->from.index == from.index;
    if (!wanted)
        status = NOT_FOUND;
    else if (status == OK)
        *to = a->to;
    else if (status != NOT_FOUND && error)
        *error = a->error;
    a->status = NOT_FOUND; /* taken, or of no use */
    a->data = NULL;
    pthread_mutex_unlock(&a->lock);
    return status;
}

void ahead_forget(struct ahead *a) {
    if (!a) return;
    pthread_mutex_lock(&a->lock);
    wait_idle(a);
    a->status = NOT_FOUND;
    a->data = NULL;
    pthread_mutex_unlock(&a->lock);
}
