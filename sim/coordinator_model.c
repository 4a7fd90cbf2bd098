/* What the coordinator makes durable, and the model: commits in groups, steps and snapshots one
 * after the other. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "sim/coordinator_internal.h"

/* ---- commits --------------------------------------------------------------------------------- */

static void begin_sync(struct coordinator *coordinator);

static void on_told(void *context, struct event *event) {
    struct coordinator_event committed = {.kind = COORDINATOR_COMMITTED};
    committed.committed.commit = event->number;
    committed.committed.status = event->payload ? FAILED : OK;
    coordinator_step(context, &committed);
}

static void tell_committed(struct coordinator *coordinator, uint64_t number, uint64_t delay,
                           bool durable) {
    void *failed = durable ? NULL : xcalloc(1, 1);
    world_post(coordinator->world, delay, COORDINATOR, on_told, coordinator, failed)->number =
        number;
}

void coordinator_keep_snapshot(struct coordinator *coordinator,
                               const struct snapshot_header *header, struct buffer *content) {
    struct kept_snapshot *kept = &coordinator->snapshots[coordinator->snapshot_count++];
    kept->header = *header;
    kept->flipped = 0;
    kept->content = *content;
    *content = (struct buffer){0};
    kept->header.content_size = kept->content.size;
    digest_sha256(kept->content.data, kept->content.size, kept->header.content_digest);
    snapshot_header_sign(&kept->header, coordinator->setup.key, kept->raw);
    if (coordinator->snapshot_count <= SNAPSHOTS_KEPT) return;
    buffer_deinit(&coordinator->snapshots[0].content);
    memmove(&coordinator->snapshots[0], &coordinator->snapshots[1], SNAPSHOTS_KEPT * sizeof *kept);
    coordinator->snapshot_count--;
}

static struct kept_snapshot *newest_whole(struct coordinator *coordinator) {
    struct kept_snapshot *newest = NULL;
    for (size_t i = 0; i < coordinator->snapshot_count; i++) {
        if (!coordinator->snapshots[i].flipped) newest = &coordinator->snapshots[i];
    }
    return newest;
}

bool coordinator_has_snapshots(const struct coordinator *coordinator) {
    for (size_t i = 0; i < coordinator->snapshot_count; i++) {
        if (!coordinator->snapshots[i].flipped) return true;
    }
    return false;
}

/* Also the last that is whole: the ledger does without. */
bool coordinator_flip_snapshot(struct coordinator *coordinator) {
    struct kept_snapshot *kept = newest_whole(coordinator);
    if (!kept) return false;
    kept->flipped_at = (size_t)world_luck_below(coordinator->world, kept->content.size);
    kept->flipped = (uint8_t)(1u << world_luck_below(coordinator->world, 8));
    kept->content.data[kept->flipped_at] ^= kept->flipped;
    return true;
}

void coordinator_mend(struct coordinator *coordinator) {
    coordinator->ends_at_receipt = false;
    for (size_t i = 0; i < coordinator->snapshot_count; i++) {
        struct kept_snapshot *kept = &coordinator->snapshots[i];
        if (kept->flipped) kept->content.data[kept->flipped_at] ^= kept->flipped;
        kept->flipped = 0;
    }
}

static void on_synced(void *context, struct event *event) {
    struct coordinator *coordinator = context;
    struct buffer all = {0};
    (void)event;
    for (size_t i = 0; i < coordinator->syncing_count; i++) {
        if (coordinator->commits[i].number)
            buffer_append(&all, coordinator->commits[i].bytes.data,
                          coordinator->commits[i].bytes.size);
    }
    enum status written = disk_append(&coordinator->disk, buffer_bytes(&all));
    buffer_deinit(&all);
    if (written == CANCELLED) return;
    coordinator->world->tally.commits++;
    check_ledger_grew(coordinator->check);
    for (size_t i = 0; i < coordinator->syncing_count; i++) {
        struct queued_commit *commit = &coordinator->commits[i];
        if (!commit->number && written == OK &&
            process_write(coordinator->world, COORDINATOR) == OK)
            /* else there are the older ones */
            coordinator_keep_snapshot(coordinator, &commit->header, &commit->content);
        uint64_t delay = (i + 1) * MS + world_below(coordinator->world, MS);
        if (commit->number) tell_committed(coordinator, commit->number, delay, written == OK);
        buffer_deinit(&commit->bytes);
        buffer_deinit(&commit->content);
    }
    coordinator->commit_count -= coordinator->syncing_count;
    memmove(coordinator->commits, coordinator->commits + coordinator->syncing_count,
            coordinator->commit_count * sizeof coordinator->commits[0]);
    coordinator->syncing = false;
    if (coordinator->commit_count > 0) begin_sync(coordinator);
}

static void begin_sync(struct coordinator *coordinator) {
    coordinator->syncing = true;
    coordinator->syncing_count = coordinator->commit_count;
    world_post(coordinator->world,
               world_heavy_tail(coordinator->world, coordinator->setup.scenario->commit_us),
               COORDINATOR, on_synced, coordinator, NULL);
}

static struct queued_commit *queue_commit(struct coordinator *coordinator) {
    coordinator->commits = xrealloc(coordinator->commits, (coordinator->commit_count + 1) *
                                                              sizeof coordinator->commits[0]);
    struct queued_commit *commit = &coordinator->commits[coordinator->commit_count++];
    *commit = (struct queued_commit){0};
    return commit;
}

void coordinator_commit(struct coordinator *coordinator, const struct coordinator_action *action) {
    struct queued_commit *commit = queue_commit(coordinator);
    commit->number = action->commit;
    buffer_append(&commit->bytes, action->bytes.data, action->bytes.size);
    if (!coordinator->syncing) begin_sync(coordinator);
}

/* ---- the model ------------------------------------------------------------------------------- */

static void run_jobs(struct coordinator *coordinator);

static void job_deinit(struct model_job *job) { free(job->parts); }

/* Payloads that are not there or not whole go to `lost`. */
static size_t step_inputs(struct coordinator *coordinator, const struct model_job *job,
                          struct step_input *inputs, struct lost_payload *lost) {
    size_t count = 0;
    for (uint16_t i = 0; i < job->step.step.count; i++) {
        const struct contribution *c = &job->parts[i].contribution;
        const struct buffer *payload = disk_blob_find(&coordinator->disk, c->payload_digest);
        if (!disk_blob_is_whole(&coordinator->disk, c->payload_digest)) {
            lost[count++] = (struct lost_payload){job->parts[i].index, *c};
            continue;
        }
        inputs[i] = (struct step_input){.payload = buffer_bytes(payload),
                                        .payload_size = c->payload_size,
                                        .payload_digest = c->payload_digest,
                                        .scale = job->step.step.parts[i].scale};
    }
    return count;
}

static void run_step(struct coordinator *coordinator, const struct model_job *job) {
    struct coordinator_event applied = {.kind = COORDINATOR_APPLIED};
    struct error error = {0};
    struct step_input *inputs = xcalloc(job->step.step.count, sizeof *inputs);
    struct lost_payload *lost = xcalloc(job->step.step.count, sizeof *lost);
    applied.applied.version = job->step.step.version;
    applied.applied.lost = lost;
    applied.applied.lost_count = step_inputs(coordinator, job, inputs, lost);
    applied.applied.status = applied.applied.lost_count > 0 ? CORRUPT : OK;
    if (applied.applied.status == OK)
        applied.applied.status =
            model_state_step(&coordinator->model, job->step.step.fragment, job->step.step.version,
                             job->step.step.count, inputs, applied.applied.root, &error);
    applied.applied.message = error.message;
    free(inputs);
    coordinator_step(coordinator, &applied);
    free(lost);
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

static bool contribution_at(struct coordinator *coordinator, uint64_t index,
                            struct contribution *out) {
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    bool found =
        index < coordinator->disk.entry_count &&
        ledger_entry_decode(buffer_bytes(&coordinator->disk.entries[index]), entry, NULL) == OK &&
        entry->kind == LEDGER_CONTRIBUTION &&
        contribution_decode(bytes_of(entry->contribution.header, CONTRIBUTION_HEADER_SIZE), out,
                            NULL) == OK;
    free(entry);
    return found;
}

static enum status catch_up(struct coordinator *coordinator, struct run_state *run,
                            struct replay_report *report, struct error *error) {
    struct ledger_source source = disk_source(&coordinator->disk);
    struct replay_options options = {
        .trusted = true, .until = UINT64_MAX, .tensors_from = coordinator->model.version};
    return replay_run(&source, &options, run, &coordinator->model, report, error);
}

static void run_catch_up(struct coordinator *coordinator) {
    struct coordinator_event applied = {.kind = COORDINATOR_APPLIED};
    struct replay_report report = {0};
    struct error error = {0};
    struct lost_payload lost = {0};
    struct run_state *run = run_state_create();
    applied.applied.status = catch_up(coordinator, run, &report, &error);
    run_state_destroy(run);
    if (report.lost_payload &&
        contribution_at(coordinator, report.failed_entry, &lost.contribution)) {
        lost.index = report.failed_entry;
        applied.applied.lost = &lost;
        applied.applied.lost_count = 1;
    } else if (coordinator->disk.damaged_entry != UINT64_MAX) {
        coordinator_break(coordinator, "an entry of the ledger is damaged");
        return;
    }
    applied.applied.version = coordinator->model.version;
    applied.applied.message = error.message;
    coordinator_step(coordinator, &applied);
}

static void run_snapshot(struct coordinator *coordinator, struct model_job *job) {
    struct queued_commit *commit = queue_commit(coordinator);
    commit->header = job->header;
    if (coordinator->model.version != job->header.version)
        world_fail(coordinator->world, "shell",
                   "a snapshot of version %llu was asked for while the model is at %llu",
                   (unsigned long long)job->header.version,
                   (unsigned long long)coordinator->model.version);
    memcpy(commit->header.run_id, run_state_run_id(coordinator_state_run(coordinator->state)),
           RUN_ID_SIZE);
    state_root(coordinator->model.theta, coordinator->model.parameters, commit->header.root);
    snapshot_write(&coordinator->model, &commit->content);
    if (!coordinator->syncing) begin_sync(coordinator);
}

static void on_job(void *context, struct event *event) {
    struct coordinator *coordinator = context;
    struct model_job job = coordinator->jobs[0];
    (void)event;
    memmove(coordinator->jobs, coordinator->jobs + 1, --coordinator->job_count * sizeof job);
    coordinator->job_running = false;
    if (job.snapshot)
        run_snapshot(coordinator, &job);
    else if (job.catch_up)
        run_catch_up(coordinator);
    else
        run_step(coordinator, &job);
    job_deinit(&job);
    run_jobs(coordinator);
}

static void run_jobs(struct coordinator *coordinator) {
    if (coordinator->job_running || coordinator->job_count == 0 ||
        process_is_doomed(coordinator->world, COORDINATOR))
        return;
    coordinator->job_running = true;
    world_post(coordinator->world,
               world_heavy_tail(coordinator->world, coordinator->setup.scenario->apply_us),
               COORDINATOR, on_job, coordinator, NULL);
}

static struct model_job *queue_job(struct coordinator *coordinator) {
    coordinator->jobs =
        xrealloc(coordinator->jobs, (coordinator->job_count + 1) * sizeof coordinator->jobs[0]);
    struct model_job *job = &coordinator->jobs[coordinator->job_count++];
    *job = (struct model_job){0};
    return job;
}

void coordinator_apply(struct coordinator *coordinator, const struct coordinator_action *action) {
    const struct run_state *run = coordinator_state_run(coordinator->state);
    uint32_t fragment = action->step.step.fragment,
             pending = run_state_pending_count(run, fragment);
    struct model_job *job = queue_job(coordinator);
    job->step = action->step;
    job->parts = xcalloc(action->step.step.count, sizeof *job->parts);
    for (uint16_t i = 0; i < action->step.step.count; i++) {
        for (uint32_t at = 0; at < pending; at++) {
            const struct run_pending *found = run_state_pending(run, fragment, at);
            if (found->index == action->step.step.parts[i].index) job->parts[i] = *found;
        }
    }
    run_jobs(coordinator);
}

void coordinator_catch_up(struct coordinator *coordinator) {
    queue_job(coordinator)->catch_up = true;
    run_jobs(coordinator);
}

void coordinator_snapshot(struct coordinator *coordinator,
                          const struct coordinator_action *action) {
    struct model_job *job = queue_job(coordinator);
    job->snapshot = true;
    job->header = (struct snapshot_header){
        .epoch = run_state_epoch(coordinator_state_run(coordinator->state)),
        .version = action->version,
        .ledger_size = action->size,
        .payloads_from = action->first_index};
    run_jobs(coordinator);
}

void coordinator_model_clear(struct coordinator *coordinator) {
    for (size_t i = 0; i < coordinator->commit_count; i++) {
        buffer_deinit(&coordinator->commits[i].bytes);
        buffer_deinit(&coordinator->commits[i].content);
    }
    for (size_t i = 0; i < coordinator->job_count; i++) job_deinit(&coordinator->jobs[i]);
    free(coordinator->commits);
    free(coordinator->jobs);
    coordinator->commits = NULL;
    coordinator->jobs = NULL;
    coordinator->commit_count = coordinator->job_count = 0;
    coordinator->syncing = coordinator->job_running = false;
    model_state_deinit(&coordinator->model);
}

/* The newest snapshot that reads back whole; a damaged one is passed over, as newest_good_snapshot
 * does. */
static enum status read_snapshot(struct coordinator *coordinator, struct error *error) {
    enum status status = NOT_FOUND;
    for (size_t i = coordinator->snapshot_count; i-- > 0 && status != OK;) {
        const struct kept_snapshot *kept = &coordinator->snapshots[i];
        status =
            snapshot_read(&coordinator->model, &kept->header, buffer_bytes(&kept->content), error);
        if ((status == OK) == (kept->flipped != 0))
            world_fail(coordinator->world, "I3",
                       "a flipped bit in a snapshot is not seen, or a whole one is refused");
        if (kept->flipped) coordinator->world->tally.snapshots_passed_over++;
    }
    return status;
}

/* Where no snapshot reads back, version 0 and the ledger give the same model. */
static enum status begin_anew(struct coordinator *coordinator, struct error *error) {
    const struct scenario *scenario = coordinator->setup.scenario;
    model_state_deinit(&coordinator->model);
    TRY(model_state_init(&coordinator->model, &scenario->manifest, scenario->parameters, error));
    memcpy(coordinator->model.theta, coordinator->setup.initial,
           (size_t)scenario->parameters * sizeof(float));
    return OK;
}

static enum status restore_once(struct coordinator *coordinator, struct run_state **run,
                                bool *behind, struct error *error) {
    const struct scenario *scenario = coordinator->setup.scenario;
    struct replay_report report = {0};
    TRY(model_state_init(&coordinator->model, &scenario->manifest, scenario->parameters, error));
    if (read_snapshot(coordinator, error) != OK) TRY(begin_anew(coordinator, error));
    enum status status = catch_up(coordinator, *run, &report, error);
    *behind = status != OK && report.lost_payload;
    if (*behind) { /* the sites are asked for it, and the model follows */
        struct ledger_source source = disk_source(&coordinator->disk);
        struct replay_options options = {.trusted = true, .until = UINT64_MAX};
        run_state_destroy(*run);
        *run = run_state_create();
        return replay_run(&source, &options, *run, NULL, NULL, error);
    }
    TRY(status);
    uint8_t root[DIGEST_SIZE];
    state_root(coordinator->model.theta, coordinator->model.parameters, root);
    check_root(coordinator->check, "the restarted coordinator", coordinator->model.version, root);
    return OK;
}

struct run_state *coordinator_restore(struct coordinator *coordinator, bool *behind) {
    struct error error = {0};
    for (;;) {
        struct run_state *run = run_state_create();
        if (restore_once(coordinator, &run, behind, &error) == OK) return run;
        run_state_destroy(run);
        model_state_deinit(&coordinator->model);
        if (!disk_has_damaged_record(&coordinator->disk)) break;
        world_trace(coordinator->world, "coordinator  does not start, its disk is repaired: %.80s",
                    error.message);
        coordinator->world->tally.stops++;
        disk_repair(&coordinator->disk);
    }
    world_fail(coordinator->world, "I3", "the coordinator cannot restart: %s", error.message);
    return NULL;
}
