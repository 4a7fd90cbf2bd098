/* The keeper's queue (node/keeper.h): one job after the other, each taking a while before it takes
 * effect. Around each job the checker's books are kept: where the steps and the mass are. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "sim/site_internal.h"

enum { FULL_RETRY_MS = 300, CHECKPOINT_RETRY_MS = 700 };

/* ---- what the keeper asks and tells ---------------------------------------------------------- */

static void on_staged(void *context, struct event *event) {
    struct simulated_site *site = context;
    const struct request *request = event->payload;
    site->is_staged[request->fragment] = false;
    site_request(site, *request);
}

/* Staging takes a while, and only then is the trainer asked: a capture may come between. */
static void on_rebase(void *context, uint32_t fragment, uint64_t sequence, enum training_move why) {
    struct simulated_site *site = context;
    struct request request = {REQUEST_REBASE, fragment, sequence, why};
    uint64_t step = site->setup.scenario->site[site->setup.process].step_us;
    bool is_slow = world_chance(site->world, 0.25), is_due = world_chance(site->world, 0.25);
    uint64_t delay = world_below(site->world, is_due ? 8 * step : step);
    if (!is_slow) {
        site_request(site, request);
        return;
    }
    struct request *staged = xmalloc(sizeof *staged);
    *staged = request;
    site->is_staged[fragment] = true;
    if (is_due) site->capture_at = MIN(site->capture_at, site->world->now);
    world_post(site->world, delay, site->setup.process, on_staged, site, staged);
}

static void on_capture(void *context) {
    site_request(context, (struct request){.kind = REQUEST_CAPTURE});
}

/* What the state machine is told may be sent from now on. */
static void on_tell(void *context, const struct node_event *event) {
    struct simulated_site *site = context;
    if (event->kind == NODE_ENCODED && event->status == OK &&
        !process_is_doomed(site->world, site->setup.process))
        check_sent(site->setup.check, site->setup.process, event->sequence, event->encoded.header);
    site_tell(site, FROM_KEEPER, event);
}

/* At every version, also where the manifest needs no root. */
static void on_step_applied(void *context, const struct ledger_entry *step,
                            const uint8_t told[DIGEST_SIZE]) {
    struct simulated_site *site = context;
    uint8_t root[DIGEST_SIZE];
    if (step->step.has_root)
        memcpy(root, told, DIGEST_SIZE);
    else
        state_root(site->replica.global.theta, site->replica.parameters, root);
    check_root(site->setup.check, site->name, site->replica.global.version, root);
}

void site_keeper_start(struct simulated_site *site, uint64_t payloads_from) {
    struct keeper_options options = {.key = site->setup.key,
                                     .replica = &site->replica,
                                     .journal = site->journal,
                                     .payloads_from = payloads_from,
                                     .lacks_model = site->lacks_model,
                                     .port = {.context = site,
                                              .rebase = on_rebase,
                                              .capture = on_capture,
                                              .tell = on_tell,
                                              .step_applied = on_step_applied}};
    site->keeper = keeper_create(&options);
    site->loaded_from = site->payloads_had;
}

/* ---- the books, around a job ----------------------------------------------------------------- */

static void before_encode(struct simulated_site *site, struct keeper_job *job) {
    struct trained *trained = &site->trained[job->fragment];
    check_before_encode(site->setup.check, site->setup.process, &site->replica, job->fragment,
                        &job->contribution);
    trained->sent = trained->snapshot + trained->feedback;
    check_counts(site->setup.check, site->setup.process, &job->contribution, trained->sent,
                 TOKENS_A_STEP);
    job->contribution.compute_share = 0.9f;
    job->contribution.signed_at_ms = process_wall_ms(site->world, site->setup.process);
}

static void after_encode(struct simulated_site *site, const struct keeper_job *job,
                         bool made_before) {
    struct trained *trained = &site->trained[job->fragment];
    if (!made_before && job->payload.size > 0) {
        trained->feedback = 0;
        check_after_encode(site->setup.check, site->setup.process, &site->replica, job->fragment,
                           buffer_bytes(&job->payload));
    }
    if (!job->written) return;
    site->books[job->fragment] =
        (struct round_books){.steps_in_snapshot = trained->snapshot, .steps_sent = trained->sent};
    site_progress_spooled(site, job->fragment);
    check_spooled(site->setup.check, site->setup.process, job->fragment,
                  buffer_bytes(&job->payload));
}

static void after_restore(struct simulated_site *site, const struct keeper_job *job) {
    if (job->lost) check_message_lost(site->setup.check, site->setup.process, job->fragment);
    if (job->status == OK && site->replica.feedback)
        site->trained[job->fragment].feedback = site->books[job->fragment].steps_sent;
}

static bool is_in_flight(const struct simulated_site *site, uint32_t fragment) {
    const struct journal_round *round = journal_round(site->journal, fragment);
    return round && round->in_flight;
}

static void after_rebased(struct simulated_site *site, const struct keeper_job *job,
                          bool in_flight_before) {
    bool refused = job->why == MOVE_REFUSED;
    if (!in_flight_before || is_in_flight(site, job->fragment)) return;
    struct round_books *books = &site->books[job->fragment];
    if (refused && site->replica.feedback) books->steps_in_feedback = books->steps_sent;
    check_round_over(site->setup.check, site->setup.process, job->fragment, refused);
}

/* The payloads on the disk. */
struct payloads {
    uint8_t (*digests)[DIGEST_SIZE]; /* [count] */
    size_t count;
};

static struct payloads payloads_of(const struct disk *disk) {
    struct payloads payloads = {.count = disk->blob_count};
    payloads.digests = xcalloc(disk->blob_count + 1, sizeof payloads.digests[0]);
    for (size_t i = 0; i < disk->blob_count; i++)
        memcpy(payloads.digests[i], disk->blobs[i].digest, DIGEST_SIZE);
    return payloads;
}

/* What was deleted nobody may need: a message of ours under way, or a replay from the checkpoint.
 */
static void check_deleted(const struct simulated_site *site, const struct payloads *before) {
    const struct journal_checkpoint *checkpoint = journal_checkpoint(site->journal);
    uint64_t version = checkpoint ? checkpoint->version : 0;
    for (size_t i = 0; i < before->count; i++) {
        if (disk_blob_find(&site->disk, before->digests[i])) continue;
        for (uint32_t f = 0; f < site->replica.fragments; f++)
            if (is_in_flight(site, f) && memcmp(journal_round(site->journal, f)->payload_digest,
                                                before->digests[i], DIGEST_SIZE) == 0)
                world_fail(site->world, "payload",
                           "%s has deleted the payload of a message under way", site->name);
        check_payload_deleted(site->setup.check, site->name, &site->disk, version,
                              before->digests[i]);
    }
}

static enum keeper_outcome keep(struct simulated_site *site, struct keeper_job *job) {
    bool made = job->made, in_flight = is_in_flight(site, job->fragment);
    struct payloads before = payloads_of(&site->disk);
    if (job->kind == KEEPER_ENCODE && !made) before_encode(site, job);
    enum keeper_outcome outcome = keeper_do(site->keeper, job);
    if (job->kind == KEEPER_ENCODE) after_encode(site, job, made);
    if (job->kind == KEEPER_RESTORE) after_restore(site, job);
    if (job->kind == KEEPER_REBASED) after_rebased(site, job, in_flight);
    if (job->kind == KEEPER_CAPTURED && job->written) site->payloads_had = site->loaded_from;
    if (job->kind == KEEPER_LOAD && job->status == OK) {
        site->loaded_from = job->snapshot.payloads_from;
        site->lacks_model = false;
        site->world->tally.snapshots_loaded++;
    }
    if (site->disk.blob_count < before.count) check_deleted(site, &before);
    free(before.digests);
    if (job->kind == KEEPER_CAPTURED && site->stops && outcome != KEEPER_FULL) {
        world_trace(site->world, "%-12s is stopped", site->name);
        site->world->processes[site->setup.process].doomed = true;
    }
    return outcome;
}

/* ---- the queue ------------------------------------------------------------------------------- */

static void work(struct simulated_site *site);

static void on_job(void *context, struct event *event) {
    struct simulated_site *site = context;
    struct keeper_job *job = site->jobs[0];
    (void)event;
    enum keeper_outcome outcome = keep(site, job);
    site->full = outcome == KEEPER_FULL;
    if (outcome == KEEPER_FULL) { /* what comes after it waits */
        world_post(site->world, FULL_RETRY_MS * MS, site->setup.process, on_job, site, NULL);
        return;
    }
    if (outcome == KEEPER_LEFT_OUT) job->capture->retry_ms = CHECKPOINT_RETRY_MS;
    memmove(site->jobs, site->jobs + 1, --site->job_count * sizeof job);
    keeper_job_deinit(job);
    free(job);
    site->working = false;
    work(site);
}

static uint64_t duration_us(struct simulated_site *site, const struct keeper_job *job) {
    const struct scenario *s = site->setup.scenario;
    uint64_t round = s->manifest.inner.inner_steps * s->site[site->setup.process].step_us;
    uint64_t half = round / s->manifest.fragments / 2;
    return job->kind == KEEPER_ENCODE && s->encodes_slowly
               ? half + world_below(site->world, half)
               : world_heavy_tail(site->world, s->worker_us);
}

static void work(struct simulated_site *site) {
    if (site->working || site->job_count == 0 ||
        process_is_doomed(site->world, site->setup.process))
        return;
    site->working = true;
    world_post(site->world, duration_us(site, site->jobs[0]), site->setup.process, on_job, site,
               NULL);
}

void site_job(struct simulated_site *site, const struct keeper_job *job) {
    struct keeper_job *copy = xmalloc(sizeof *copy);
    *copy = *job;
    site->jobs = xrealloc(site->jobs, (site->job_count + 1) * sizeof copy);
    site->jobs[site->job_count++] = copy;
    work(site);
}

void site_keeper_clear(struct simulated_site *site) {
    for (size_t i = 0; i < site->job_count; i++) {
        if (site->jobs[i]->capture) site->jobs[i]->capture->freed = NULL;
        keeper_job_deinit(site->jobs[i]);
        free(site->jobs[i]);
    }
    free(site->jobs);
    site->jobs = NULL;
    site->job_count = 0;
    site->full = false;
    site->working = false;
    site->stops = false;
    keeper_destroy(site->keeper);
    site->keeper = NULL;
}
