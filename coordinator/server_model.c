/* The model thread: it alone moves theta. The brain names the step and its payloads; the answer is the new state root. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "coordinator/server_core.h"

struct part { /* what the thread must know of a contribution, copied while the brain's run state still has it pending */
    uint64_t payload_size;
    uint8_t payload_digest[DIGEST_SIZE];
    float scale;
};

void model_run(void *context) {
    struct server *server = context;
    jobs_run(server, server->model_queue);
}

static enum status read_inputs(struct server *server, const struct part *parts, uint32_t count, struct step_input *inputs,
                               struct buffer *payloads, struct error *error) {
    for (uint32_t i = 0; i < count; i++) {
        TRY(blob_read(server->data.blobs, parts[i].payload_digest, parts[i].payload_size, &payloads[i], error));
        inputs[i] = (struct step_input){.payload = buffer_bytes(&payloads[i]),
                                        .payload_size = parts[i].payload_size,
                                        .payload_digest = parts[i].payload_digest,
                                        .scale = parts[i].scale};
    }
    return OK;
}

static void run_apply(struct server *server, struct job *job) {
    uint32_t count = job->step.step.count;
    const struct part *parts = (const struct part *)(const void *)job->bytes.data;
    struct step_input *inputs = xcalloc(count, sizeof *inputs);
    struct buffer *payloads = xcalloc(count, sizeof *payloads);
    struct error error = {0};
    struct brain_item *item = brain_item_create(BRAIN_EVENT, NULL);
    item->event.kind = COORDINATOR_APPLIED;
    item->event.applied.version = job->step.step.version;
    enum status status = read_inputs(server, parts, count, inputs, payloads, &error);
    if (status == OK) {
        bool wants_root = job->step.step.version % server->manifest.root_interval == 0;
        status = model_state_step(&server->model, job->step.step.fragment, job->step.step.version, count, inputs,
                                  wants_root ? item->event.applied.root : NULL, &error);
    }
    item->event.applied.status = status;
    snprintf(item->message, sizeof item->message, "%s", error.message);
    item->event.applied.message = item->message;
    brain_push(server, item);
    for (uint32_t i = 0; i < count; i++) buffer_deinit(&payloads[i]);
    free(payloads);
    free(inputs);
}

static const struct run_pending *pending_of(const struct run_state *run, uint32_t fragment, uint64_t index) {
    uint32_t count = run_state_pending_count(run, fragment);
    for (uint32_t at = 0; at < count; at++) {
        const struct run_pending *pending = run_state_pending(run, fragment, at);
        if (pending->index == index) return pending;
    }
    return NULL;
}

void model_apply(struct server *server, const struct ledger_entry *step, const struct run_state *run) {
    struct job *job = job_create(run_apply, NULL);
    job->step = *step;
    for (uint16_t i = 0; i < step->step.count; i++) {
        const struct run_pending *pending = pending_of(run, step->step.fragment, step->step.parts[i].index);
        ASSERT(pending);
        struct part part;
        memset(&part, 0, sizeof part);
        part.payload_size = pending->contribution.payload_size;
        memcpy(part.payload_digest, pending->contribution.payload_digest, DIGEST_SIZE);
        part.scale = step->step.parts[i].scale;
        buffer_append(&job->bytes, &part, sizeof part);
    }
    job_push(server, server->model_queue, job);
}

/* ---- snapshots ---------------------------------------------------------------------------------------------------------- */

static void run_snapshot(struct server *server, struct job *job) {
    struct snapshot_header header = {.epoch = (uint32_t)job->number, .ledger_size = job->offset};
    struct reader reader = reader_of(buffer_bytes(&job->bytes));
    uint64_t version = reader_u64(&reader);
    header.payloads_from = reader_u64(&reader);
    memcpy(header.run_id, server->run_id, RUN_ID_SIZE);
    struct error error = {0};
    uint64_t start = clock_monotonic_ms();
    ASSERT(version == server->model.version);
    if (!ledger_await(server, header.ledger_size)) { /* it may never speak of entries that are not on disk */
        log_warn("snapshot_skipped", "version=%llu reason=\"the ledger waits for room on the disk, or the coordinator ends\"",
                 (unsigned long long)version);
        return;
    }
    enum status status = directory_snapshot_write(&server->data, &server->model, &header, server->keys.coordinator,
                                                  server->options.snapshots_kept, &error);
    if (status == FULL) disk_waits(server, DISK_SNAPSHOTS, error.message);
    if (status == OK) disk_has_room(server, DISK_SNAPSHOTS);
    if (status != OK) {
        log_error("snapshot_failed", "version=%llu reason=\"%s\"", (unsigned long long)version, error.message);
        return;
    }
    log_info("snapshot_written", "version=%llu took_ms=%llu", (unsigned long long)version,
             (unsigned long long)(clock_monotonic_ms() - start));
}

void model_snapshot(struct server *server, uint64_t version, uint64_t ledger_size, uint64_t payloads_from, uint32_t epoch) {
    struct job *job = job_create(run_snapshot, NULL);
    job->number = epoch;
    job->offset = ledger_size;
    buffer_u64(&job->bytes, version);
    buffer_u64(&job->bytes, payloads_from);
    job_push(server, server->model_queue, job);
}
