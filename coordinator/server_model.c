/* The model thread: it alone moves theta. The brain names the step and its payloads; the answer is the new state root. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "coordinator/server_internal.h"

struct part { /* what the thread must know of a contribution, copied while the brain's run state still has it pending */
    uint64_t index;
    struct contribution contribution;
    float scale;
};

static void tell_lost(uint64_t index, const struct contribution *contribution, const struct error *error,
                      struct lost_payload *out) {
    char quoted[256];
    log_error("payload_lost", "entry=%llu site=%u sequence=%llu reason=%s do=\"nothing: the sites are asked for it\"",
              (unsigned long long)index, contribution->site, (unsigned long long)contribution->sequence,
              log_quote(error->message, quoted, sizeof quoted));
    *out = (struct lost_payload){.index = index, .contribution = *contribution};
}

void model_run(void *context) {
    struct server *server = context;
    jobs_run(server, server->model_queue);
}

/* OK with *lost_count > 0: those payloads cannot be read; the rest could. Whatever is wrong with a file of ours, another has it. */
static void read_inputs(struct server *server, const struct part *parts, uint32_t count, struct step_input *inputs,
                        struct buffer *payloads, struct lost_payload *lost, size_t *lost_count, struct error *error) {
    for (uint32_t i = 0; i < count; i++) {
        const struct contribution *contribution = &parts[i].contribution;
        enum status status =
            blob_read(server->data.blobs, contribution->payload_digest, contribution->payload_size, &payloads[i], error);
        if (status == OK && payloads[i].size != contribution->payload_size)
            status = error_set(error, CORRUPT, "the payload of entry %llu is cut", (unsigned long long)parts[i].index);
        if (status != OK) tell_lost(parts[i].index, contribution, error, &lost[(*lost_count)++]);
        inputs[i] = (struct step_input){.payload = buffer_bytes(&payloads[i]),
                                        .payload_size = contribution->payload_size,
                                        .payload_digest = contribution->payload_digest,
                                        .scale = parts[i].scale};
    }
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
    item->lost = xcalloc(count, sizeof *item->lost);
    read_inputs(server, parts, count, inputs, payloads, item->lost, &item->event.applied.lost_count, &error);
    item->event.applied.lost = item->lost;
    enum status status = item->event.applied.lost_count > 0 ? CORRUPT : OK;
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
        part.index = pending->index;
        part.contribution = pending->contribution;
        part.scale = step->step.parts[i].scale;
        buffer_append(&job->bytes, &part, sizeof part);
    }
    job_push(server, server->model_queue, job);
}

/* ---- a model that is behind ------------------------------------------------------------------------------------------------ */

static void run_catch_up(struct server *server, struct job *job) {
    struct error error = {0};
    struct replay_report report = {0};
    struct brain_item *item = brain_item_create(BRAIN_EVENT, NULL);
    (void)job;
    item->event.kind = COORDINATOR_APPLIED;
    item->event.applied.status = directory_catch_up(&server->data, &server->model, &report, &error);
    item->event.applied.version = server->model.version;
    if (report.lost_payload) {
        struct contribution contribution;
        struct error why = {0};
        item->lost = xcalloc(1, sizeof *item->lost);
        item->event.applied.lost = item->lost;
        if (directory_contribution(&server->data, report.failed_entry, &contribution, &why) == OK) {
            tell_lost(report.failed_entry, &contribution, &error, &item->lost[0]);
            item->event.applied.lost_count = 1;
        }
    }
    if (item->event.applied.status == OK) log_info("model_restored", "version=%llu", (unsigned long long)server->model.version);
    snprintf(item->message, sizeof item->message, "%s", error.message);
    item->event.applied.message = item->message;
    brain_push(server, item);
}

void model_catch_up(struct server *server) { job_push(server, server->model_queue, job_create(run_catch_up, NULL)); }

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
