/* What the coordinator makes durable, and the model: the shipped ledger queue and the shipped work,
 * one job after the other, and the shipped start. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "sim/coordinator_internal.h"

static uint64_t now_ms(const struct coordinator *coordinator) {
    return coordinator_now(coordinator).monotonic_ms;
}

/* ---- commits --------------------------------------------------------------------------------- */

static void on_taken(void *context, struct event *event) {
    struct coordinator *coordinator = context;
    struct coordinator_event committed = {.kind = COORDINATOR_COMMITTED};
    committed.committed.status = (enum status)event->number;
    coordinator->world->tally.commits++;
    committed.committed.commit = ledger_queue_taken(coordinator->ledger, committed.committed.status,
                                                    "no room", now_ms(coordinator));
    if (committed.committed.commit > 0) coordinator_step(coordinator, &committed);
    coordinator_flush(coordinator);
}

static void on_written(void *context, enum status status, const char *message) {
    struct coordinator *coordinator = context;
    (void)message;
    if (status == CANCELLED) return;
    uint64_t delay = MS + world_below(coordinator->world, MS);
    world_post(coordinator->world, delay, COORDINATOR, on_taken, coordinator, NULL)->number =
        (uint64_t)status;
}

static void on_retry(void *context, struct event *event) {
    struct coordinator *coordinator = context;
    (void)event;
    coordinator->retries = false;
    if (ledger_queue_retry_at(coordinator->ledger) <= now_ms(coordinator))
        ledger_queue_retry(coordinator->ledger, now_ms(coordinator));
    coordinator_flush(coordinator);
}

void coordinator_flush(struct coordinator *coordinator) {
    struct world *world = coordinator->world;
    if (process_is_doomed(world, COORDINATOR)) return;
    ledger_queue_flush(coordinator->ledger, now_ms(coordinator));
    uint64_t at = ledger_queue_retry_at(coordinator->ledger);
    if (at == UINT64_MAX || coordinator->retries) return;
    coordinator->retries = true;
    world_post(world, process_delay_until(world, COORDINATOR, at) + MS, COORDINATOR, on_retry,
               coordinator, NULL);
}

/* The entry's payload is named from here on, as in coordinator/loop_act.c. */
static void keep_payload(struct coordinator *coordinator, struct bytes entries) {
    struct reader reader = reader_of(entries);
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    struct contribution c;
    if (ledger_entry_decode(reader_take(&reader, reader_u32(&reader)), entry, NULL) == OK &&
        entry->kind == LEDGER_CONTRIBUTION &&
        contribution_decode(bytes_of(entry->contribution.header, CONTRIBUTION_HEADER_SIZE), &c,
                            NULL) == OK)
        transfers_keep(coordinator->transfers, c.payload_digest);
    free(entry);
}

void coordinator_commit(struct coordinator *coordinator, const struct coordinator_action *action) {
    keep_payload(coordinator, buffer_bytes(&action->bytes));
    ledger_queue_add(coordinator->ledger, action->commit, action->first_index,
                     buffer_bytes(&action->bytes));
}

/* ---- the model ------------------------------------------------------------------------------- */

static void run_jobs(struct coordinator *coordinator);

static void on_job(void *context, struct event *event);

static void run_later(struct coordinator *coordinator, uint64_t mean) {
    coordinator->job_running = true;
    world_post(coordinator->world, world_heavy_tail(coordinator->world, mean), COORDINATOR, on_job,
               coordinator, NULL);
}

/* Not OK: there are the older ones. */
static void write_snapshot(struct coordinator *coordinator, const struct model_snapshot *snapshot) {
    struct error error = {0};
    if (coordinator->model.version != snapshot->version) {
        world_fail(coordinator->world, "shell",
                   "a snapshot of version %llu was asked for while the model is at %llu",
                   (unsigned long long)snapshot->version,
                   (unsigned long long)coordinator->model.version);
        return;
    }
    check_snapshot(coordinator->check, snapshot->version, snapshot->ledger_size,
                   snapshot->payloads_from);
    if (model_work_snapshot(&coordinator->work, snapshot, &error) != OK)
        world_trace(coordinator->world, "coordinator  a snapshot is not written: %.80s",
                    error.message);
}

static void on_job(void *context, struct event *event) {
    struct coordinator *coordinator = context;
    struct model_job job = coordinator->jobs[0];
    bool is_full = ledger_queue_retry_at(coordinator->ledger) != UINT64_MAX;
    (void)event;
    /* a snapshot waits for the ledger, unless that waits for room, as in model_thread.c */
    if (job.kind == JOB_SNAPSHOT && !is_full &&
        coordinator->disk.entry_count < job.snapshot.ledger_size) {
        run_later(coordinator, coordinator->setup.scenario->commit_us);
        return;
    }
    memmove(coordinator->jobs, coordinator->jobs + 1, --coordinator->job_count * sizeof job);
    coordinator->job_running = false;
    switch (job.kind) {
    case JOB_STEP: model_work_apply(&coordinator->work, &job.step); break;
    case JOB_CATCH_UP: model_work_catch_up(&coordinator->work); break;
    case JOB_SNAPSHOT:
        if (coordinator->disk.entry_count >= job.snapshot.ledger_size)
            write_snapshot(coordinator, &job.snapshot);
        break;
    }
    free(job.step.parts);
    run_jobs(coordinator);
}

static void run_jobs(struct coordinator *coordinator) {
    if (coordinator->job_running || coordinator->job_count == 0 ||
        process_is_doomed(coordinator->world, COORDINATOR))
        return;
    run_later(coordinator, coordinator->setup.scenario->apply_us);
}

static void queue_job(struct coordinator *coordinator, const struct model_job *job) {
    coordinator->jobs =
        xrealloc(coordinator->jobs, (coordinator->job_count + 1) * sizeof coordinator->jobs[0]);
    coordinator->jobs[coordinator->job_count++] = *job;
    run_jobs(coordinator);
}

void coordinator_apply(struct coordinator *coordinator, const struct coordinator_action *action) {
    const struct run_state *run = coordinator_state_run(coordinator->state);
    queue_job(coordinator,
              &(struct model_job){.kind = JOB_STEP, .step = model_step_of(run, &action->step)});
}

void coordinator_catch_up(struct coordinator *coordinator) {
    queue_job(coordinator, &(struct model_job){.kind = JOB_CATCH_UP});
}

void coordinator_snapshot(struct coordinator *coordinator,
                          const struct coordinator_action *action) {
    struct model_job job = {.kind = JOB_SNAPSHOT};
    job.snapshot =
        (struct model_snapshot){.version = action->version,
                                .ledger_size = action->size,
                                .payloads_from = action->first_index,
                                .epoch = run_state_epoch(coordinator_state_run(coordinator->state)),
                                .if_none = action->if_none};
    queue_job(coordinator, &job);
}

void coordinator_model_clear(struct coordinator *coordinator) {
    for (size_t i = 0; i < coordinator->job_count; i++) free(coordinator->jobs[i].step.parts);
    free(coordinator->jobs);
    coordinator->jobs = NULL;
    coordinator->job_count = 0;
    coordinator->job_running = coordinator->retries = false;
    model_state_deinit(&coordinator->model);
}

/* ---- payloads that were lost ----------------------------------------------------------------- */

struct told_lost {
    struct coordinator_event event;
    struct lost_payload payload;
};

static void on_lost(void *context, struct event *event) {
    struct told_lost *told = event->payload;
    told->event.applied.lost = &told->payload;
    coordinator_step(context, &told->event);
}

void coordinator_tell_lost(struct coordinator *coordinator, uint64_t index,
                           const struct contribution *contribution) {
    struct told_lost *told = xcalloc(1, sizeof *told);
    told->event.kind = COORDINATOR_LOST;
    told->event.applied.lost_count = 1;
    told->payload = (struct lost_payload){index, *contribution};
    world_post(coordinator->world, MS, COORDINATOR, on_lost, coordinator, told);
}

static bool is_named_and_gone(const struct coordinator *coordinator,
                              const uint8_t digest[static DIGEST_SIZE]) {
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    const struct disk *disk = &coordinator->disk;
    bool named = false;
    for (uint64_t i = 0; i < disk->entry_count && !named && !disk_blob_find(disk, digest); i++) {
        struct contribution c;
        named = i != disk->damaged_entry && /* what it names cannot be read until it is mended */
                disk->entries[i].data[0] == LEDGER_CONTRIBUTION &&
                ledger_entry_decode(buffer_bytes(&disk->entries[i]), entry, NULL) == OK &&
                contribution_decode(bytes_of(entry->contribution.header, CONTRIBUTION_HEADER_SIZE),
                                    &c, NULL) == OK &&
                digest_equal(c.payload_digest, digest) &&
                i < run_state_size(coordinator_state_run(coordinator->state)) &&
                !run_state_dropped(coordinator_state_run(coordinator->state), i);
    }
    free(entry);
    return named;
}

struct looked_after {
    uint8_t digest[DIGEST_SIZE];
};

static void on_look(void *context, struct event *event) {
    struct coordinator *coordinator = context;
    const struct looked_after *after = event->payload;
    if (!coordinator->state || process_is_doomed(coordinator->world, COORDINATOR)) return;
    if (is_named_and_gone(coordinator, after->digest) &&
        !coordinator_state_asks_for(coordinator->state, after->digest))
        world_fail(coordinator->world, "lost",
                   "a payload that the ledger names is gone, and nobody is asked for it");
}

void coordinator_look_after(struct coordinator *coordinator,
                            const uint8_t digest[static DIGEST_SIZE]) {
    if (!is_named_and_gone(coordinator, digest)) return;
    struct looked_after *after = xcalloc(1, sizeof *after);
    memcpy(after->digest, digest, DIGEST_SIZE);
    world_post(coordinator->world, SECOND, COORDINATOR, on_look, coordinator, after);
}

/* ---- a start --------------------------------------------------------------------------------- */

static enum status initialise(void *context, const struct manifest *manifest, uint64_t parameters,
                              float *theta, struct error *error) {
    const struct coordinator *coordinator = context;
    (void)manifest, (void)error;
    memcpy(theta, coordinator->setup.initial, (size_t)parameters * sizeof(float));
    return OK;
}

static void check_restored(struct coordinator *coordinator) {
    uint8_t root[DIGEST_SIZE];
    state_root(coordinator->model.theta, coordinator->model.parameters, root);
    check_root(coordinator->check, "the restarted coordinator", coordinator->model.version, root);
}

struct run_state *coordinator_restore(struct coordinator *coordinator, bool *is_behind) {
    struct world *world = coordinator->world;
    struct directory_initial initial = {initialise, coordinator};
    const uint8_t *key = key_pair_public(coordinator->setup.key);
    for (;;) {
        struct error error = {0};
        struct run_state *run = NULL;
        struct replay_report report;
        world->tally.snapshots_passed_over += storage_damaged_snapshots(&coordinator->storage);
        enum status status = directory_restore(&coordinator->data, &initial, &run,
                                               &coordinator->model, &report, &error);
        if (status == OK) {
            *is_behind = report.lost_payload;
            if (!*is_behind) check_restored(coordinator);
            status = directory_sweep(&coordinator->data, key, &error);
            if (status != OK && !process_is_doomed(world, COORDINATOR))
                world_fail(world, "shell", "what a crash left is not swept: %s", error.message);
            return run;
        }
        if (process_is_doomed(world, COORDINATOR)) return NULL;
        if (!disk_has_damaged_record(&coordinator->disk)) {
            world_fail(world, "I3", "the coordinator cannot restart: %s", error.message);
            return NULL;
        }
        world_trace(world, "coordinator  does not start, its disk is repaired: %.80s",
                    error.message);
        world->tally.stops++;
        disk_repair(&coordinator->disk);
    }
}

/* ---- the shell's parts ----------------------------------------------------------------------- */

static void on_applied(void *context, const struct coordinator_event *event) {
    coordinator_step(context, event);
}

static void on_checked(void *context, const struct coordinator_event *event) {
    struct coordinator *coordinator = context;
    const struct scenario *scenario = coordinator->setup.scenario;
    for (size_t i = 0; event->kind == COORDINATOR_LOST && i < event->applied.lost_count; i++) {
        const struct lost_payload *lost = &event->applied.lost[i];
        coordinator_tell_lost(coordinator, lost->index, &lost->contribution);
    }
    if (event->kind == COORDINATOR_LOST) return;
    uint64_t mean =
        event->kind == COORDINATOR_CHECKED ? scenario->check_us : scenario->commit_us / 2;
    coordinator_tell_code(coordinator, event->kind, event->call, event->uploaded.code,
                          world_heavy_tail(coordinator->world, mean));
}

static void on_broken(void *context, const char *message) { coordinator_break(context, message); }
static void on_waits(void *context, const char *message) { (void)context, (void)message; }
static void on_room(void *context) { (void)context; }

void coordinator_begin_work(struct coordinator *coordinator, const struct run_state *run) {
    const struct scenario *scenario = coordinator->setup.scenario;
    struct ledger_queue_options ledger = {.store = coordinator->data.store,
                                          .durable = run_state_size(run),
                                          .written = on_written,
                                          .broken = on_broken,
                                          .waits = on_waits,
                                          .has_room = on_room,
                                          .context = coordinator};
    struct transfers_options transfers = {.data = &coordinator->data,
                                          .manifest = &scenario->manifest,
                                          .parameters = scenario->parameters,
                                          .tell = on_checked,
                                          .broken = on_broken,
                                          .waits = on_waits,
                                          .has_room = on_room,
                                          .context = coordinator};
    coordinator->ledger = ledger_queue_create(&ledger);
    MUST(transfers_create(&transfers, now_ms(coordinator), &coordinator->transfers, NULL));
    coordinator->work = (struct model_work){.data = &coordinator->data,
                                            .model = &coordinator->model,
                                            .key = coordinator->setup.key,
                                            .manifest = &scenario->manifest,
                                            .snapshots_kept = SNAPSHOTS_KEPT,
                                            .tell = on_applied,
                                            .context = coordinator};
    memcpy(coordinator->work.run_id, run_state_run_id(run), RUN_ID_SIZE);
}
