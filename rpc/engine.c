/* Completion queues and their threads (rpc/engine.h). Everything that gRPC core reports arrives in
 * queue_body, which runs the tag's function; timeouts are looked for in the same loop. */
#include "rpc/engine.h"

#include <grpc/support/time.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"
#include "rpc/call_internal.h"

enum { SCAN_MAX_MS = 250, SCAN_MIN_MS = 5, COMPLAIN_MS = 10000 };

/* Takes out one call whose time is up, with a reference; else NULL and *next_ms is when to look
 * again. */
static struct rpc_call *take_expired(struct engine_queue *queue, uint64_t now_ms,
                                     uint64_t *next_ms) {
    struct rpc_call *expired = NULL;
    pthread_mutex_lock(&queue->lock);
    for (struct rpc_call *call = queue->calls; call; call = call->next) {
        uint64_t deadline_ms = call->deadline_ms;
        if (deadline_ms == 0) continue;
        if (deadline_ms <= now_ms) {
            /* Not if it was set anew a moment ago. */
            if (!atomic_compare_exchange_strong(&call->deadline_ms, &deadline_ms, 0)) continue;
            expired = rpc_call_retain(call);
            break;
        }
        *next_ms = MIN(*next_ms, deadline_ms);
    }
    pthread_mutex_unlock(&queue->lock);
    return expired;
}

static void scan(struct engine_queue *queue, uint64_t now_ms) {
    uint64_t next_ms = now_ms + SCAN_MAX_MS;
    for (struct rpc_call *call; (call = take_expired(queue, now_ms, &next_ms));) {
        call_expire(call);
        rpc_call_release(call);
    }
    queue->next_scan_ms = MAX(next_ms, now_ms + SCAN_MIN_MS);
}

static void queue_body(void *context) {
    struct engine_queue *queue = context;
    for (;;) {
        uint64_t now_ms = clock_monotonic_ms();
        if (now_ms >= queue->next_scan_ms) scan(queue, now_ms);
        gpr_timespec wait =
            gpr_time_from_millis((int64_t)(queue->next_scan_ms - now_ms), GPR_TIMESPAN);
        gpr_timespec until = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), wait);
        grpc_event event = grpc_completion_queue_next(queue->core, until, NULL);
        if (event.type == GRPC_QUEUE_SHUTDOWN) return;
        if (event.type == GRPC_QUEUE_TIMEOUT) continue;
        (void)atomic_load(&queue->posted); /* pairs with queue_posts */
        struct tag *tag = event.tag;
        tag->run(tag->owner, event.success != 0);
    }
}

enum status engine_create(uint32_t threads, const char *name, struct engine **out,
                          struct error *error) {
    struct engine *engine = xcalloc(1, sizeof *engine);
    engine->queues = xcalloc(threads, sizeof *engine->queues);
    pthread_mutex_init(&engine->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&engine->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    for (uint32_t i = 0; i < threads; i++) {
        struct engine_queue *queue = &engine->queues[i];
        queue->engine = engine;
        queue->core = grpc_completion_queue_create_for_next(NULL);
        pthread_mutex_init(&queue->lock, NULL);
        engine->count++;
        enum status status = thread_start(name, queue_body, queue, &queue->thread, error);
        if (status != OK) {
            engine_stop(engine);
            engine_destroy(engine);
            return status;
        }
    }
    *out = engine;
    return OK;
}

void engine_stop(struct engine *engine) {
    for (uint32_t i = 0; i < engine->count; i++)
        grpc_completion_queue_shutdown(engine->queues[i].core);
    for (uint32_t i = 0; i < engine->count; i++) {
        struct engine_queue *queue = &engine->queues[i];
        if (queue->thread) {
            enum status joined = thread_join(queue->thread, UINT64_MAX);
            MUST(joined);
        } else {
            grpc_event event; /* a queue must be drained before it is destroyed, with or without a
                                 thread */
            do
                event = grpc_completion_queue_next(queue->core, gpr_inf_future(GPR_CLOCK_REALTIME),
                                                   NULL);
            while (event.type != GRPC_QUEUE_SHUTDOWN);
        }
    }
}

void engine_destroy(struct engine *engine) {
    for (uint32_t i = 0; i < engine->count; i++) {
        ASSERT(!engine->queues[i].calls);
        grpc_completion_queue_destroy(engine->queues[i].core);
        pthread_mutex_destroy(&engine->queues[i].lock);
    }
    pthread_cond_destroy(&engine->changed);
    pthread_mutex_destroy(&engine->lock);
    free(engine->queues);
    free(engine);
}

void engine_call_added(struct engine_queue *queue, struct rpc_call *call) {
    pthread_mutex_lock(&queue->engine->lock);
    queue->engine->live++;
    pthread_mutex_unlock(&queue->engine->lock);
    pthread_mutex_lock(&queue->lock);
    call->next = queue->calls;
    call->previous = &queue->calls;
    if (call->next) call->next->previous = &call->next;
    queue->calls = call;
    pthread_mutex_unlock(&queue->lock);
}

void engine_call_gone(struct engine_queue *queue, struct rpc_call *call) {
    pthread_mutex_lock(&queue->lock);
    *call->previous = call->next;
    if (call->next) call->next->previous = call->previous;
    pthread_mutex_unlock(&queue->lock);
    struct engine *engine = queue->engine;
    pthread_mutex_lock(&engine->lock);
    engine->live--;
    pthread_cond_broadcast(&engine->changed);
    pthread_mutex_unlock(&engine->lock);
}

static size_t collect(struct engine_queue *queue, struct rpc_call ***out) {
    pthread_mutex_lock(&queue->lock);
    size_t count = 0;
    for (struct rpc_call *call = queue->calls; call; call = call->next) count++;
    struct rpc_call **calls = xcalloc(count, sizeof *calls);
    count = 0;
    for (struct rpc_call *call = queue->calls; call; call = call->next)
        calls[count++] = rpc_call_retain(call);
    pthread_mutex_unlock(&queue->lock);
    *out = calls;
    return count;
}

void engine_cancel_all(struct engine *engine, enum rpc_code code, const char *reason) {
    for (uint32_t i = 0; i < engine->count; i++) {
        struct rpc_call **calls;
        size_t count = collect(&engine->queues[i], &calls);
        for (size_t j = 0; j < count; j++) {
            rpc_call_cancel(calls[j], code, reason);
            rpc_call_release(calls[j]);
        }
        free(calls);
    }
}

enum status engine_wait_idle(struct engine *engine, uint64_t timeout_ms) {
    uint64_t start_ms = clock_monotonic_ms();
    enum status status = OK;
    pthread_mutex_lock(&engine->lock);
    while (engine->live > 0) {
        uint64_t waited_ms = clock_monotonic_ms() - start_ms;
        if (timeout_ms != UINT64_MAX && waited_ms >= timeout_ms) {
            status = TIMEOUT;
            break;
        }
        uint64_t nap_ms = timeout_ms == UINT64_MAX ? COMPLAIN_MS : timeout_ms - waited_ms;
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        uint64_t ns = (uint64_t)until.tv_nsec + nap_ms % 1000 * 1000000u;
        until.tv_sec += (time_t)(nap_ms / 1000 + ns / 1000000000u);
        until.tv_nsec = (long)(ns % 1000000000u);
        pthread_cond_timedwait(&engine->changed, &engine->lock, &until);
        if (clock_monotonic_ms() - start_ms >= COMPLAIN_MS && engine->live > 0)
            log_warn("rpc_calls_do_not_end", "calls=%llu", (unsigned long long)engine->live);
    }
    pthread_mutex_unlock(&engine->lock);
    return status;
}

uint64_t engine_live(struct engine *engine) {
    pthread_mutex_lock(&engine->lock);
    uint64_t live = engine->live;
    pthread_mutex_unlock(&engine->lock);
    return live;
}
