/* The model's thread: steps, replay and snapshots, one after the other. */
#include "coordinator/model_thread.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/queue.h"
#include "base/thread.h"

enum { MESSAGES_LIMIT = 65536 };

struct model_thread {
    struct model_thread_options options;
    struct queue *queue;
    struct thread *thread;
};

static void log_lost(uint64_t index, const struct contribution *contribution,
                     const struct error *error, struct lost_payload *out) {
    char quoted[256];
    log_error(
        "payload_lost",
        "entry=%llu site=%u sequence=%llu reason=%s do=\"nothing: the sites are asked for it\"",
        (unsigned long long)index, contribution->site, (unsigned long long)contribution->sequence,
        log_quote(error->message, quoted, sizeof quoted));
    *out = (struct lost_payload){.index = index, .contribution = *contribution};
}

static void tell(struct model_thread *thread, const struct coordinator_event *event) {
    thread->options.tell(thread->options.context, event);
}

/* ---- steps ----------------------------------------------------------------------------------- */

/* Returns how many of the payloads cannot be read; the rest could. Whatever is wrong with a file of
 * ours, another has it. */
static size_t read_inputs(struct model_thread *thread, const struct model_part *parts,
                          uint32_t count, struct step_input *inputs, struct buffer *payloads,
                          struct lost_payload *lost, struct error *error) {
    size_t lost_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct contribution *contribution = &parts[i].contribution;
        enum status status = blob_read(thread->options.data->blobs, contribution->payload_digest,
                                       contribution->payload_size, &payloads[i], error);
        if (status == OK && payloads[i].size != contribution->payload_size)
            status = error_set(error, CORRUPT, "the payload of entry %llu is cut",
                               (unsigned long long)parts[i].index);
        if (status != OK) log_lost(parts[i].index, contribution, error, &lost[lost_count++]);
        inputs[i] = (struct step_input){.payload = buffer_bytes(&payloads[i]),
                                        .payload_size = contribution->payload_size,
                                        .payload_digest = contribution->payload_digest,
                                        .scale = parts[i].scale};
    }
    return lost_count;
}

static void apply(struct model_thread *thread, const struct model_message *message) {
    uint32_t count = message->apply.count;
    struct step_input *inputs = xcalloc(count, sizeof *inputs);
    struct buffer *payloads = xcalloc(count, sizeof *payloads);
    struct lost_payload *lost = xcalloc(count, sizeof *lost);
    struct error error = {0};
    struct coordinator_event event = {.kind = COORDINATOR_APPLIED};
    event.applied.version = message->apply.version;
    event.applied.lost = lost;
    event.applied.lost_count =
        read_inputs(thread, message->apply.parts, count, inputs, payloads, lost, &error);
    event.applied.status = event.applied.lost_count > 0 ? CORRUPT : OK;
    if (event.applied.status == OK) {
        bool needs_root = message->apply.version % thread->options.manifest->root_interval == 0;
        event.applied.status =
            model_state_step(thread->options.model, message->apply.fragment, message->apply.version,
                             count, inputs, needs_root ? event.applied.root : NULL, &error);
    }
    event.applied.message = error.message;
    tell(thread, &event);
    for (uint32_t i = 0; i < count; i++) buffer_deinit(&payloads[i]);
    free(lost);
    free(payloads);
    free(inputs);
}

/* ---- a model that is older than the ledger --------------------------------------------------- */

static void catch_up(struct model_thread *thread) {
    struct error error = {0}, why = {0};
    struct replay_report report = {0};
    struct lost_payload lost = {0};
    struct contribution contribution;
    struct coordinator_event event = {.kind = COORDINATOR_APPLIED};
    event.applied.status =
        directory_catch_up(thread->options.data, thread->options.model, &report, &error);
    event.applied.version = thread->options.model->version;
    if (report.lost_payload && directory_contribution(thread->options.data, report.failed_entry,
                                                      &contribution, &why) == OK) {
        log_lost(report.failed_entry, &contribution, &error, &lost);
        event.applied.lost = &lost;
        event.applied.lost_count = 1;
    }
    if (event.applied.status == OK)
        log_info("model_restored", "version=%llu", (unsigned long long)event.applied.version);
    event.applied.message = error.message;
    tell(thread, &event);
}

/* ---- snapshots ------------------------------------------------------------------------------- */

static void snapshot(struct model_thread *thread, const struct model_message *message) {
    const struct model_thread_options *options = &thread->options;
    unsigned long long version = message->snapshot.version;
    struct snapshot_header header = {.epoch = message->snapshot.epoch,
                                     .ledger_size = message->snapshot.ledger_size,
                                     .payloads_from = message->snapshot.payloads_from};
    memcpy(header.run_id, options->run_id, RUN_ID_SIZE);
    struct error error = {0};
    uint64_t start = clock_monotonic_ms();
    ASSERT(version == options->model->version);
    if (!options->await_ledger(options->context, header.ledger_size)) {
        log_warn("snapshot_skipped",
                 "version=%llu reason=\"the ledger waits for room on the disk, or the coordinator "
                 "ends\"",
                 version);
        return;
    }
    enum status status = directory_snapshot_write(options->data, options->model, &header,
                                                  options->key, options->snapshots_kept, &error);
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
    void *popped;
    while (queue_pop(thread->queue, UINT64_MAX, &popped) == OK) {
        struct model_message *message = popped;
        switch (message->kind) {
        case MODEL_APPLY: apply(thread, message); break;
        case MODEL_CATCH_UP: catch_up(thread); break;
        case MODEL_SNAPSHOT: snapshot(thread, message); break;
        }
        message_destroy(message);
    }
}

enum status model_thread_start(const struct model_thread_options *options,
                               struct model_thread **out, struct error *error) {
    struct model_thread *thread = xcalloc(1, sizeof *thread);
    thread->options = *options;
    thread->queue = queue_create(MESSAGES_LIMIT);
    enum status status = thread_start("model", run, thread, &thread->thread, error);
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
    queue_destroy(thread->queue);
    free(thread);
}
