/* What is done to the model (coordinator/model_work.h): steps, the steps that it lacks, and
 * snapshots. */
#include "coordinator/model_work.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"

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

static void tell(const struct model_work *work, const struct coordinator_event *event) {
    work->tell(work->context, event);
}

/* ---- steps ----------------------------------------------------------------------------------- */

static const struct run_pending *pending_of(const struct run_state *run, uint32_t fragment,
                                            uint64_t index) {
    uint32_t count = run_state_pending_count(run, fragment);
    for (uint32_t at = 0; at < count; at++) {
        const struct run_pending *pending = run_state_pending(run, fragment, at);
        if (pending->index == index) return pending;
    }
    return NULL;
}

/* Reads all of them, so that every one that is lost is known at once. Whatever is wrong with a file
 * of ours, another has it. */
static enum status read_payloads(const struct model_work *work, const struct model_step *step,
                                 struct verified_payload **payloads, struct lost_payload *lost,
                                 size_t *lost_count, struct error *error) {
    struct ledger_source source = directory_source(work->data);
    enum status result = OK;
    for (uint32_t i = 0; i < step->count; i++) {
        const struct model_part *part = &step->parts[i];
        struct payload_terms terms =
            payload_terms_of(work->manifest, work->model->parameters, &part->contribution);
        bool is_lost = false;
        if (replay_payload(&source, &terms, &payloads[i], &is_lost, error) == OK) continue;
        result = CORRUPT;
        if (is_lost) log_lost(part->index, &part->contribution, error, &lost[(*lost_count)++]);
    }
    return result;
}

struct model_step model_step_of(const struct run_state *run, const struct ledger_entry *entry) {
    struct model_step step = {.fragment = entry->step.fragment,
                              .version = entry->step.version,
                              .count = entry->step.count,
                              .rules = {entry->step.rate, entry->step.period},
                              .parts = xcalloc(entry->step.count, sizeof *step.parts)};
    for (uint32_t i = 0; i < step.count; i++) {
        const struct run_pending *pending =
            pending_of(run, step.fragment, entry->step.parts[i].index);
        ASSERT(pending);
        step.parts[i] = (struct model_part){.index = pending->index,
                                            .contribution = pending->contribution,
                                            .scale = entry->step.parts[i].scale};
    }
    return step;
}

void model_work_apply(const struct model_work *work, const struct model_step *step) {
    uint32_t count = step->count;
    struct step_input *inputs = xcalloc(count, sizeof *inputs);
    struct verified_payload **payloads = xcalloc(count, sizeof *payloads);
    struct lost_payload *lost = xcalloc(count, sizeof *lost);
    struct error error = {0};
    struct coordinator_event event = {.kind = COORDINATOR_APPLIED};
    event.applied.version = step->version;
    event.applied.lost = lost;
    event.applied.status =
        read_payloads(work, step, payloads, lost, &event.applied.lost_count, &error);
    if (event.applied.status == OK) {
        for (uint32_t i = 0; i < count; i++)
            inputs[i] = (struct step_input){payloads[i], step->parts[i].scale};
        bool needs_root = step->version % work->manifest->root_interval == 0;
        event.applied.status =
            model_state_step(work->model, step->fragment, step->version, &step->rules, count,
                             inputs, needs_root ? event.applied.root : NULL, &error);
        uint32_t part = work->model->nonfinite_part;
        if (event.applied.status != OK && part > 0)
            event.applied.nonfinite = step->parts[part - 1].index;
    }
    event.applied.message = error.message;
    tell(work, &event);
    for (uint32_t i = 0; i < count; i++) payload_destroy(payloads[i]);
    free(lost);
    free(payloads);
    free(inputs);
}

/* ---- a model that is older than the ledger --------------------------------------------------- */

void model_work_catch_up(const struct model_work *work) {
    struct error error = {0}, why = {0};
    struct replay_report report = {0};
    struct lost_payload lost = {0};
    struct contribution contribution;
    struct coordinator_event event = {.kind = COORDINATOR_APPLIED};
    event.applied.status = directory_catch_up(work->data, work->model, &report, &error);
    event.applied.version = work->model->version;
    if (report.lost_payload &&
        directory_contribution(work->data, report.failed_entry, &contribution, &why) == OK) {
        log_lost(report.failed_entry, &contribution, &error, &lost);
        event.applied.lost = &lost;
        event.applied.lost_count = 1;
    }
    if (event.applied.status == OK)
        log_info("model_restored", "version=%llu", (unsigned long long)event.applied.version);
    event.applied.message = error.message;
    tell(work, &event);
}

/* ---- snapshots ------------------------------------------------------------------------------- */

enum status model_work_snapshot(const struct model_work *work,
                                const struct model_snapshot *snapshot, struct error *error) {
    struct snapshot_header header = {.epoch = snapshot->epoch,
                                     .ledger_size = snapshot->ledger_size,
                                     .payloads_from = snapshot->payloads_from};
    struct snapshot_header there;
    uint8_t raw[SNAPSHOT_HEADER_SIZE];
    if (snapshot->if_none &&
        directory_snapshot_header(work->data, UINT64_MAX, key_pair_public(work->key), raw, &there,
                                  NULL) == OK)
        return OK;
    memcpy(header.run_id, work->run_id, RUN_ID_SIZE);
    ASSERT(snapshot->version == work->model->version);
    return directory_snapshot_write(work->data, work->model, &header, work->key,
                                    work->snapshots_kept, error);
}
