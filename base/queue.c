/* A bounded ring of pointers (base/queue.h): one mutex, two conditions (not empty, not full) on
 * the monotonic clock. */
#include "base/queue.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "base/memory.h"

struct queue {
    pthread_mutex_t lock;
    pthread_cond_t not_empty, not_full;
    size_t capacity, size, head;
    bool closed;
    void *items[];
};

struct queue *queue_create(size_t capacity) {
    ASSERT(capacity > 0);
    struct queue *queue = xcalloc(1, sizeof *queue + capacity * sizeof queue->items[0]);
    queue->capacity = capacity;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->not_empty, &monotonic);
    pthread_cond_init(&queue->not_full, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return queue;
}

void queue_destroy(struct queue *queue) {
    if (!queue) return;
    pthread_cond_destroy(&queue->not_empty);
    pthread_cond_destroy(&queue->not_full);
    pthread_mutex_destroy(&queue->lock);
    free(queue);
}

static void put(struct queue *queue, void *item) {
    queue->items[(queue->head + queue->size) % queue->capacity] = item;
    queue->size++;
    pthread_cond_signal(&queue->not_empty);
}

enum status queue_push(struct queue *queue, void *item) {
    enum status status = OK;
    pthread_mutex_lock(&queue->lock);
    if (queue->closed)
        status = CANCELLED;
    else if (queue->size == queue->capacity)
        status = FULL;
    else
        put(queue, item);
    pthread_mutex_unlock(&queue->lock);
    return status;
}

enum status queue_push_wait(struct queue *queue, void *item) {
    enum status status = OK;
    pthread_mutex_lock(&queue->lock);
    while (!queue->closed && queue->size == queue->capacity)
        pthread_cond_wait(&queue->not_full, &queue->lock);
    if (queue->closed)
        status = CANCELLED;
    else
        put(queue, item);
    pthread_mutex_unlock(&queue->lock);
    return status;
}

static struct timespec deadline_in(uint64_t timeout_ms) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += (time_t)(timeout_ms / 1000);
    at.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (at.tv_nsec >= 1000000000) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000;
    }
    return at;
}

enum status queue_pop(struct queue *queue, uint64_t timeout_ms, void **out) {
    bool forever = timeout_ms == UINT64_MAX;
    struct timespec deadline = forever ? (struct timespec){0} : deadline_in(timeout_ms);
    enum status status = OK;
    pthread_mutex_lock(&queue->lock);
    while (queue->size == 0 && !queue->closed) {
        int waited = forever ? pthread_cond_wait(&queue->not_empty, &queue->lock)
                             : pthread_cond_timedwait(&queue->not_empty, &queue->lock, &deadline);
        if (waited == ETIMEDOUT) break;
    }
    if (queue->size > 0) {
        *out = queue->items[queue->head];
        queue->head = (queue->head + 1) % queue->capacity;
        queue->size--;
        pthread_cond_signal(&queue->not_full);
    } else {
        status = queue->closed ? CANCELLED : TIMEOUT;
    }
    pthread_mutex_unlock(&queue->lock);
    return status;
}

size_t queue_size(struct queue *queue) {
    pthread_mutex_lock(&queue->lock);
    size_t size = queue->size;
    pthread_mutex_unlock(&queue->lock);
    return size;
}

void queue_close(struct queue *queue) {
    pthread_mutex_lock(&queue->lock);
    queue->closed = true;
    pthread_cond_broadcast(&queue->not_empty);
    pthread_cond_broadcast(&queue->not_full);
    pthread_mutex_unlock(&queue->lock);
}
