/* The model's thread: it alone moves theta, from its start to its stop. It computes steps, replays
 * what the model lacks, and writes snapshots, in the order they were posted. It is told which step
 * and which payloads; its answer is an APPLIED event.
 *
 * It stops when its queue is empty, so that what was posted is done.
 */
#ifndef COORDINATOR_MODEL_THREAD_H
#define COORDINATOR_MODEL_THREAD_H

#include "coordinator/coordinator_state.h"
#include "coordinator/directory.h"
#include "coordinator/disk_watch.h"

struct model_thread;

struct model_thread_options {
    struct directory *data; /* borrowed, all of them */
    struct model_state *model;
    const struct key_pair *key; /* signs snapshots */
    const struct manifest *manifest;
    uint8_t run_id[RUN_ID_SIZE];
    unsigned snapshots_kept;
    struct disk_watch *disk;
    /* Waits until the ledger on disk has `size` entries; false: not now. A snapshot never speaks of
     * entries that are not on disk. */
    bool (*await_ledger)(void *context, uint64_t size);
    /* APPLIED. On this thread; copies what it keeps. */
    void (*tell)(void *context, const struct coordinator_event *event);
    void *context;
};

enum model_message_kind { MODEL_APPLY = 1, MODEL_CATCH_UP, MODEL_SNAPSHOT };

struct model_part { /* a contribution that the step merges */
    uint64_t index;
    struct contribution contribution;
    float scale;
};

struct model_message {
    enum model_message_kind kind;
    union {
        struct {
            uint32_t fragment, count;
            uint64_t version;
            struct model_part *parts; /* [count], taken */
        } apply;
        struct {
            uint64_t version; /* of the model as it is then */
            uint64_t ledger_size, payloads_from;
            uint32_t epoch;
        } snapshot;
    };
};

MUST_USE enum status model_thread_start(const struct model_thread_options *options,
                                        struct model_thread **out, struct error *error);
/* From any thread; waits where the queue is full. */
void model_thread_post(struct model_thread *thread, const struct model_message *message);
/* Does what was posted, ends and frees it. NULL is a no-op. */
void model_thread_stop(struct model_thread *thread);

#endif
