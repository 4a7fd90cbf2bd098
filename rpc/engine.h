/* Inside rpc/ only: completion queues, the thread of each, and the calls bound to them.
 *
 * A server and a channel each own an engine. Everything started on a queue carries a `struct tag`;
 * the queue's thread gets it back and runs it, one at a time. The same thread wakes at least four
 * times a second to end calls whose progress timeout has run out, so that the timers need no thread
 * and no lock of their own.
 *
 * Stop order: the owner makes sure that nothing new is started, cancels, waits with
 * engine_wait_idle until no call is left, then engine_destroy drains the queues and joins the
 * threads. Starting anything on a queue after that would abort inside the library; hence a call
 * counts as live until the last thread inside it has left (call_internal.h).
 */
#ifndef RPC_ENGINE_H
#define RPC_ENGINE_H

#include <grpc/grpc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "rpc/call.h"

struct tag {
    void (*run)(void *owner, bool ok);
    void *owner;
};

struct engine;

struct engine_queue {
    grpc_completion_queue *core;
    struct engine *engine;
    struct thread *thread;
    pthread_mutex_t lock;
    struct rpc_call *calls; /* under lock: the live calls, doubly linked */
    uint64_t next_scan_ms;  /* the thread's own */
    atomic_uint posted;     /* see queue_posts */
};

/* Before a tag is given to the library: what was written until now is seen by the queue's thread
 * when it gets the tag back. The library orders the two anyway; this says so in a way that the
 * compiler and the race detector can see. */
static inline void queue_posts(struct engine_queue *queue) { atomic_fetch_add(&queue->posted, 1); }

struct engine {
    struct engine_queue *queues;
    uint32_t count;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* live or something the owner waits for */
    uint64_t live;          /* under lock */
};

MUST_USE enum status engine_create(uint32_t threads, const char *name, struct engine **out,
                                   struct error *error);
/* No call may be live. The owner has destroyed or drained whatever posts to the queues. Joins;
 * queues are destroyed. */
void engine_stop(struct engine *engine);
void engine_destroy(struct engine *engine);
void engine_call_added(struct engine_queue *queue, struct rpc_call *call);
void engine_call_gone(struct engine_queue *queue, struct rpc_call *call);
void engine_cancel_all(struct engine *engine, enum rpc_code code, const char *reason);
/* TIMEOUT if calls are left; UINT64_MAX waits for ever, complaining. */
MUST_USE enum status engine_wait_idle(struct engine *engine, uint64_t timeout_ms);
uint64_t engine_live(struct engine *engine);

#endif
