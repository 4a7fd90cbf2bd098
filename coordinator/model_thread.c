/* The model's thread: steps, replay and snapshots, one after the other. */
#include "coordinator/model_thread.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/queue.h"
#include "base/thread.h"
#include "base/thread_pool.h"

enum { MESSAGES_LIMIT = 65536 };

struct model_thread {
    struct model_thread_options options;
    struct queue *queue;
    struct thread *thread;
    struct thread_pool *pool; /* shares steps and roots with it */
};

static void write_snapshot(struct model_thread *thread, const struct model_snapshot *snapshot) {
    const struct model_thread_options *options = &thread->options;
    unsigned long long version = snapshot->version;
    struct error error = {0};
    uint64_t start = clock_monotonic_ms();
    if (!options->await_ledger(options->context, snapshot->ledger_size)) {
        log_warn("snapshot_skipped",
                 "version=%llu reason=\"the ledger waits for room on the disk, or the coordinator "
                 "ends\"",
                 version);
        return;
    }
    enum status status = model_work_snapshot(&options->work, snapshot, &error);
    if (status == FULL) disk_watch_waits(options->disk, DISK_SNAPSHOTS, error.message);
    if (status == OK) disk_watch_has_room(options->disk, DISK_SNAPSHOTS);
    if (status != OK) {
        log_error("snapshot_failed", "version=%llu reason=\"%s\"", version, error.message);
        return;
    }
    log_info("snapshot_written", "version=%llu took_ms=%llu", version,
             (unsigned long long)(clock_monotonic_ms() - start));
}

/* ---- the thread ------------------------------------------------------------------------------ */

static void message_destroy(struct model_message *message) {
    if (message->kind == MODEL_APPLY) free(message->apply.parts);
    free(message);
}

static void run(void *context) {
    struct model_thread *thread = context;
    const struct model_state *model = thread->options.work.model;
    uint64_t given = UINT64_MAX;
    void *popped;
    for (;;) {
        if (model->version != given)
            thread->options.moved(thread->options.context, model->version, model->theta);
        given = model->version;
        if (queue_pop(thread->queue, UINT64_MAX, &popped) != OK) break;
        struct model_message *message = popped;
        switch (message->kind) {
        case MODEL_APPLY: model_work_apply(&thread->options.work, &message->apply); break;
        case MODEL_CATCH_UP: model_work_catch_up(&thread->options.work); break;
        case MODEL_SNAPSHOT: write_snapshot(thread, &message->snapshot); break;
        }
        message_destroy(message);
    }
}

enum status model_thread_start(const struct model_thread_options *options,
                               struct model_thread **out, struct error *error) {
    struct model_thread *thread = xcalloc(1, sizeof *thread);
    thread->options = *options;
    thread->queue = queue_create(MESSAGES_LIMIT);
    enum status status = thread_pool_create("model", 0, &thread->pool, error);
    if (status == OK) {
        thread->options.work.model->pool = thread->pool;
        status = thread_start("model", run, thread, &thread->thread, error);
    }
    if (status == OK)
        *out = thread;
    else
        model_thread_stop(thread);
    return status;
}

void model_thread_post(struct model_thread *thread, const struct model_message *message) {
    struct model_message *copy = xmalloc(sizeof *copy);
    *copy = *message;
    if (queue_push_wait(thread->queue, copy) != OK) message_destroy(copy);
}

void model_thread_stop(struct model_thread *thread) {
    if (!thread) return;
    queue_close(thread->queue);
    if (thread_join(thread->thread, UINT64_MAX) != OK) log_error("thread_stuck", "thread=model");
    thread->options.work.model->pool = NULL;
    thread_pool_destroy(thread->pool);
    queue_destroy(thread->queue);
    free(thread);
}
