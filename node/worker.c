/* The keeper's thread: its queue, its clock, what is logged of its work, and the wait for a full
 * disk. */
#include "node/worker.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/queue.h"
#include "base/thread.h"
#include "node/keeper.h"

enum { QUEUE_LIMIT = 16 * FRAGMENTS_LIMIT, FULL_RETRY_MS = 1000, CHECKPOINT_RETRY_MS = 10000 };

struct worker {
    struct worker_options options;
    struct keeper *keeper;
    struct queue *queue;
    struct thread *thread;
    uint64_t job_from_ms; /* of the job under way */
    bool given_up; /* the disk was full until the site was to stop: what is left is as after a crash
                    */
};

static void push(struct worker *worker, const struct keeper_job *job) {
    struct keeper_job *copy = xmalloc(sizeof *copy);
    *copy = *job;
    if (queue_push_wait(worker->queue, copy) != OK) { /* stopping: nothing may be asked any more */
        keeper_job_deinit(copy);
        free(copy);
    }
}

/* ---- what the keeper asks and tells ---------------------------------------------------------- */

static void on_rebase(void *context, uint32_t fragment, uint64_t sequence, enum training_move why) {
    struct worker *worker = context;
    training_rebase(worker->options.training, fragment, sequence, why);
}

static void on_capture(void *context) {
    struct worker *worker = context;
    training_capture(worker->options.training);
}

static void on_tell(void *context, const struct node_event *event) {
    struct worker *worker = context;
    if (event->kind == NODE_APPLIED && event->applied.lost)
        log_error("payload_lost",
                  "entry=%llu message=\"%s\" do=\"nothing: the coordinator is asked for it\"",
                  (unsigned long long)event->applied.lost, event->message);
    worker->options.tell(worker->options.context, event);
}

static void on_step_applied(void *context, const struct ledger_entry *step,
                            const uint8_t root[DIGEST_SIZE]) {
    struct worker *worker = context;
    worker->options.step_applied(worker->options.context, step, root,
                                 clock_monotonic_ms() - worker->job_from_ms);
}

/* ---- what is logged -------------------------------------------------------------------------- */

static void log_encoded(const struct worker *worker, const struct keeper_job *job) {
    const struct contribution *contribution = &job->contribution;
    if (job->status == OK)
        log_info("round_ended",
                 "fragment=%u sequence=%llu base=%llu steps=%u tokens=%llu loss=%.4f norm=%.6g "
                 "bytes=%zu encode_ms=%llu",
                 job->fragment, (unsigned long long)job->sequence,
                 (unsigned long long)contribution->base_version, contribution->inner_steps,
                 (unsigned long long)contribution->tokens, (double)contribution->loss,
                 contribution->norm, job->payload.size,
                 (unsigned long long)(clock_monotonic_ms() - worker->job_from_ms));
    else if (job->payload.size ==
             0) /* else it was made and could not be written, which is a fault */
        log_warn("encode_failed", "fragment=%u message=\"%s\"", job->fragment, job->error.message);
}

static void log_done(const struct worker *worker, const struct keeper_job *job) {
    if (job->kind == KEEPER_ENCODE) log_encoded(worker, job);
    if (job->lost)
        log_error(
            "contribution_lost",
            "fragment=%u sequence=%llu message=\"%s\" do=\"nothing: the site goes on without it\"",
            job->fragment, (unsigned long long)job->sequence, job->error.message);
    if (job->kind == KEEPER_LOAD && job->status == OK)
        log_info("snapshot_loaded", "version=%llu bytes=%llu",
                 (unsigned long long)job->snapshot.version,
                 (unsigned long long)job->snapshot.content_size);
    if (job->kind == KEEPER_LOAD && job->status == OK)
        worker->options.snapshot_loaded(worker->options.context);
    if (job->kind == KEEPER_CAPTURED && job->status == OK)
        log_info("checkpoint_written", "version=%llu trainer_steps=%llu",
                 (unsigned long long)worker->options.replica->global.version,
                 (unsigned long long)job->capture->trainer_steps);
}

/* ---- a job ----------------------------------------------------------------------------------- */

/* The disk is full, and the same is to be tried again. False: the site stops. */
static bool wait_for_room(struct worker *worker, const struct error *error) {
    trouble_begins(worker->options.troubles, TROUBLE_DISK_ROUNDS, error->message);
    worker->given_up = !trouble_wait(worker->options.troubles, FULL_RETRY_MS);
    journal_resume(worker->options.journal);
    return !worker->given_up;
}

static void leave_out(struct worker *worker, struct keeper_job *job) {
    trouble_begins(worker->options.troubles, TROUBLE_DISK_CHECKPOINT, job->error.message);
    journal_resume(worker->options.journal);
    job->capture->retry_ms = CHECKPOINT_RETRY_MS;
}

static void do_job(struct worker *worker, struct keeper_job *job) {
    const struct replica *replica = worker->options.replica;
    enum status device_before = replica->device_error.status;
    bool waited = false;
    worker->job_from_ms = clock_monotonic_ms();
    if (job->kind == KEEPER_ENCODE) {
        job->contribution.compute_share = worker->options.compute_share(worker->options.context);
        job->contribution.signed_at_ms = worker->options.wall_ms(worker->options.context);
    }
    enum keeper_outcome outcome;
    while ((outcome = keeper_do(worker->keeper, job)) == KEEPER_FULL) {
        waited = true;
        if (!wait_for_room(worker, &job->error)) return;
    }
    if (replica->device_error.status != device_before)
        log_error("device_lost",
                  "fragment=%u message=\"%s\" instead=\"the CPU, with the same results\"",
                  job->fragment, replica->device_error.message);
    if (outcome == KEEPER_LEFT_OUT)
        leave_out(worker, job);
    else
        log_done(worker, job);
    if (job->written && job->kind == KEEPER_CAPTURED)
        trouble_ends(worker->options.troubles, TROUBLE_DISK_CHECKPOINT);
    if (job->written && (job->kind != KEEPER_CAPTURED || waited))
        trouble_ends(worker->options.troubles, TROUBLE_DISK_ROUNDS);
}

static void body(void *context) {
    struct worker *worker = context;
    void *job;
    while (queue_pop(worker->queue, UINT64_MAX, &job) == OK) {
        if (!worker->given_up) do_job(worker, job);
        keeper_job_deinit(job);
        free(job);
    }
}

/* ---- life ------------------------------------------------------------------------------------ */

enum status worker_start(const struct worker_options *options, struct worker **out,
                         struct error *error) {
    struct worker *worker = xcalloc(1, sizeof *worker);
    worker->options = *options;
    struct keeper_options keeper = {.key = options->site->key,
                                    .replica = options->replica,
                                    .journal = options->journal,
                                    .payloads_from = options->payloads_from,
                                    .lacks_model = options->lacks_model,
                                    .port = {.context = worker,
                                             .rebase = on_rebase,
                                             .capture = on_capture,
                                             .tell = on_tell,
                                             .step_applied = on_step_applied}};
    worker->keeper = keeper_create(&keeper);
    worker->queue = queue_create(QUEUE_LIMIT);
    enum status status = thread_start("worker", body, worker, &worker->thread, error);
    if (status == OK)
        *out = worker;
    else
        worker_destroy(worker);
    return status;
}

void worker_set_training(struct worker *worker, struct training *training) {
    worker->options.training = training;
}

void worker_encode(struct worker *worker, const struct contribution *contribution) {
    push(worker, &(struct keeper_job){.kind = KEEPER_ENCODE,
                                      .fragment = contribution->fragment,
                                      .sequence = contribution->sequence,
                                      .contribution = *contribution});
}

void worker_apply(struct worker *worker, const struct run_state *run, struct bytes entry) {
    struct keeper_job job = {.kind = KEEPER_APPLY, .run = run};
    buffer_append(&job.bytes, entry.data, entry.size);
    push(worker, &job);
}

void worker_rebase(struct worker *worker, uint32_t fragment, uint64_t sequence) {
    push(worker,
         &(struct keeper_job){.kind = KEEPER_REBASE, .fragment = fragment, .sequence = sequence});
}

void worker_restore(struct worker *worker, uint32_t fragment, uint64_t sequence) {
    push(worker,
         &(struct keeper_job){.kind = KEEPER_RESTORE, .fragment = fragment, .sequence = sequence});
}

void worker_snapshotted(struct worker *worker, uint32_t fragment, uint64_t sequence,
                        uint64_t trainer_steps, struct buffer *optimizer) {
    struct keeper_job job = {.kind = KEEPER_SNAPSHOTTED,
                             .fragment = fragment,
                             .sequence = sequence,
                             .trainer_steps = trainer_steps};
    job.bytes = *optimizer;
    *optimizer = (struct buffer){0};
    push(worker, &job);
}

void worker_advance(struct worker *worker, uint32_t fragment) {
    push(worker, &(struct keeper_job){.kind = KEEPER_ADVANCE, .fragment = fragment});
}

void worker_accepted(struct worker *worker, uint32_t fragment, uint64_t sequence,
                     const struct ledger_head *head) {
    push(worker,
         &(struct keeper_job){
             .kind = KEEPER_ACCEPTED, .fragment = fragment, .sequence = sequence, .head = *head});
}

void worker_rebased(struct worker *worker, uint32_t fragment, uint64_t sequence,
                    enum training_move why) {
    push(worker,
         &(struct keeper_job){
             .kind = KEEPER_REBASED, .fragment = fragment, .sequence = sequence, .why = why});
}

void worker_captured(struct worker *worker, struct training_capture *capture) {
    push(worker, &(struct keeper_job){.kind = KEEPER_CAPTURED, .capture = capture});
}

void worker_load(struct worker *worker, const struct snapshot_header *header) {
    push(worker, &(struct keeper_job){.kind = KEEPER_LOAD, .snapshot = *header});
}

void worker_stop(struct worker *worker) {
    queue_close(worker->queue);
    (void)!thread_join(worker->thread, UINT64_MAX);
    worker->thread = NULL;
}

void worker_destroy(struct worker *worker) {
    if (!worker) return;
    if (worker->thread) worker_stop(worker);
    queue_destroy(worker->queue);
    keeper_destroy(worker->keeper);
    free(worker);
}
