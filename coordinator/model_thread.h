/* The model's thread: it alone moves theta, from its start to its stop. It computes steps, replays
 * what the model lacks, and writes snapshots, in the order they were posted. It is told which step
 * and which payloads; its answer is an APPLIED event.
 *
 * It stops when its queue is empty, so that what was posted is done.
 */
#ifndef COORDINATOR_MODEL_THREAD_H
#define COORDINATOR_MODEL_THREAD_H

#include "coordinator/disk_watch.h"
#include "coordinator/model_work.h"

struct model_thread;

struct model_thread_options {
    struct model_work work;  /* its `tell` is called on this thread */
    struct disk_watch *disk; /* borrowed */
    /* Waits until the ledger on disk has `size` entries; false: not now. A snapshot never speaks of
     * entries that are not on disk. */
    bool (*await_ledger)(void *context, uint64_t size);
    /* The model is at that version, at the start and after each move. theta is lent for the call,
     * which must not wait. */
    void (*moved)(void *context, uint64_t version, const float *theta);
    void *context;
};

enum model_message_kind { MODEL_APPLY = 1, MODEL_CATCH_UP, MODEL_SNAPSHOT };

struct model_message {
    enum model_message_kind kind;
    union {
        struct model_step apply; /* its parts are taken */
        struct model_snapshot snapshot;
    };
};

MUST_USE enum status model_thread_start(const struct model_thread_options *options,
                                        struct model_thread **out, struct error *error);
/* From any thread; waits where the queue is full. */
void model_thread_post(struct model_thread *thread, const struct model_message *message);
/* Does what was posted, ends and frees it. NULL is a no-op. */
void model_thread_stop(struct model_thread *thread);

#endif
