#include "node/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/queue.h"
#include "base/thread.h"

enum { QUEUE_LIMIT = 16 * FRAGMENTS_LIMIT, FULL_RETRY_MS = 1000, CHECKPOINT_RETRY_MS = 10000 };

enum job_kind {
    JOB_ENCODE,
    JOB_APPLY,
    JOB_REBASE,
    JOB_RESTORE,
    JOB_ADVANCE,
    JOB_ACCEPTED,
    JOB_SNAPSHOTTED,
    JOB_REBASED,
    JOB_CAPTURED,
    JOB_LOAD
};

struct job {
    enum job_kind kind;
    uint32_t fragment;
    uint64_t sequence;
    enum training_move why;
    uint64_t trainer_steps;
    struct contribution contribution;
    const struct run_state *run;
    struct buffer bytes; /* APPLY: the entry; SNAPSHOTTED: the optimizer */
    struct training_capture *capture;
    struct snapshot_header snapshot;
    struct ledger_head head; /* ACCEPTED */
};

struct worker {
    struct worker_options options;
    struct queue *queue;
    struct thread *thread;
    struct { /* what the trainer told with the snapshot, until it is encoded */
        uint64_t sequence, trainer_steps;
        struct buffer optimizer;
    } snapshots[FRAGMENTS_LIMIT];
    uint32_t loading; /* fragments still to be rebased onto a loaded snapshot */
    bool given_up;    /* the disk was full until the site was to stop: what is left is as after a crash */
    bool loaded;      /* NODE_SNAPSHOT_LOADED is owed, once a checkpoint has it: what came before cannot be replayed here */
};

static void push(struct worker *worker, const struct job *job) {
    struct job *copy = xmalloc(sizeof *copy);
    *copy = *job;
    if (queue_push_wait(worker->queue, copy) != OK) { /* stopping: nothing may be asked any more */
        buffer_deinit(&copy->bytes);
        training_capture_destroy(copy->capture);
        free(copy);
    }
}

static void tell(struct worker *worker, const struct node_event *event) { worker->options.tell(worker->options.context, event); }

static void fault(struct worker *worker, const char *doing, enum status status, const struct error *error) {
    if (worker->given_up) return;
    char message[ERROR_MESSAGE_SIZE + 32];
    snprintf(message, sizeof message, "%s: %s", doing, error->message);
    tell(worker, &(struct node_event){.kind = NODE_FAULT, .status = status, .message = message});
}

/* After each try to write what must be on disk before anything else: true where the disk is full, and the same is to be tried again. */
static bool try_again(struct worker *worker, enum status status, struct error *error) {
    if (status == OK) trouble_ends(worker->options.troubles, TROUBLE_DISK_ROUNDS);
    if (status != FULL) return false;
    trouble_begins(worker->options.troubles, TROUBLE_DISK_ROUNDS, error->message);
    worker->given_up = !trouble_wait(worker->options.troubles, FULL_RETRY_MS);
    journal_resume(worker->options.journal);
    *error = (struct error){0};
    return !worker->given_up;
}

static struct bytes floats(const float *from, uint64_t count) { return bytes_of(from, count * sizeof(float)); }

static struct bytes fragment_floats(const struct replica *replica, const float *vector, uint32_t fragment) {
    uint64_t start, count;
    fragment_range(replica->parameters, replica->fragments, fragment, &start, &count);
    return vector ? floats(vector + start, count) : (struct bytes){0};
}

/* ---- a round's message ---------------------------------------------------------------------------------------------------- */

/* The header's last fields, then signature and record: what is sent is on disk when this returns OK. */
static enum status seal(struct worker *worker, struct job *job, struct bytes payload, double norm, struct journal_round *round,
                        struct error *error) {
    const struct replica *replica = worker->options.replica;
    struct contribution *contribution = &job->contribution;
    contribution->payload_size = payload.size;
    digest_sha256(payload.data, payload.size, contribution->payload_digest);
    contribution->norm = norm;
    contribution->compute_share = worker->options.compute_share(worker->options.context);
    contribution->signed_at_ms = worker->options.wall_ms(worker->options.context);
    round->fragment = contribution->fragment;
    round->sequence = contribution->sequence;
    round->base_version = contribution->base_version;
    round->payload_size = payload.size;
    memcpy(round->payload_digest, contribution->payload_digest, DIGEST_SIZE);
    contribution_encode(contribution, round->header);
    contribution_sign(worker->options.site->key, round->header, round->signature);
    struct journal_round_contents contents = {.payload = payload,
                                              .feedback = fragment_floats(replica, replica->feedback, contribution->fragment),
                                              .snapshot = fragment_floats(replica, replica->snapshot, contribution->fragment)};
    if (worker->snapshots[contribution->fragment].sequence == contribution->sequence) {
        round->trainer_steps = worker->snapshots[contribution->fragment].trainer_steps;
        contents.optimizer = buffer_bytes(&worker->snapshots[contribution->fragment].optimizer);
    }
    enum status status;
    do status = journal_round_begin(worker->options.journal, round, &contents, error);
    while (try_again(worker, status, error));
    return status;
}

static void do_encode(struct worker *worker, struct job *job) {
    struct replica *replica = worker->options.replica;
    struct node_event event = {.kind = NODE_ENCODED, .fragment = job->fragment, .sequence = job->sequence};
    struct error error = {0};
    struct buffer payload = {0};
    struct journal_round round = {0};
    double norm = 0;
    uint64_t from = clock_monotonic_ms();
    enum status device_before = replica->device_error.status;
    event.status = replica_encode(replica, job->fragment, &payload, &norm, &error);
    if (replica->device_error.status != device_before)
        log_error("device_lost", "fragment=%u message=\"%s\" instead=\"the CPU, with the same results\"", job->fragment,
                  replica->device_error.message);
    if (event.status == OK) {
        event.status = seal(worker, job, buffer_bytes(&payload), norm, &round, &error);
        if (event.status != OK) { /* the message will never be sent: its mass goes back to where the delta can carry it again */
            fault(worker, "spool a contribution", event.status, &error);
            goto out;
        }
    }
    event.message = error.message;
    memcpy(event.encoded.header, round.header, sizeof round.header);
    memcpy(event.encoded.signature, round.signature, sizeof round.signature);
    if (event.status == OK) {
        log_info("round_ended",
                 "fragment=%u sequence=%llu base=%llu steps=%u tokens=%llu loss=%.4f norm=%.6g bytes=%zu encode_ms=%llu",
                 job->fragment, (unsigned long long)job->sequence, (unsigned long long)job->contribution.base_version,
                 job->contribution.inner_steps, (unsigned long long)job->contribution.tokens, (double)job->contribution.loss,
                 norm, payload.size, (unsigned long long)(clock_monotonic_ms() - from));
    } else {
        log_warn("encode_failed", "fragment=%u message=\"%s\"", job->fragment, error.message);
    }
    tell(worker, &event);
out:
    buffer_deinit(&worker->snapshots[job->fragment].optimizer);
    buffer_deinit(&payload);
}

static void do_restore(struct worker *worker, struct job *job) {
    struct error error = {0};
    struct buffer payload = {0};
    const struct journal_round *round = journal_round(worker->options.journal, job->fragment);
    enum status status = OK;
    if (!round || !round->in_flight || round->sequence != job->sequence)
        status = error_set(&error, FAILED, "no record of sequence %llu", (unsigned long long)job->sequence);
    if (status == OK)
        status = journal_payload_read(worker->options.journal, round->payload_digest, round->payload_size, &payload, &error);
    if (status == CORRUPT || status == NOT_FOUND || status == INVALID) { /* for good: a restart would find it as it is */
        log_error("contribution_lost", "fragment=%u sequence=%llu message=\"%s\" do=\"nothing: the site goes on without it\"",
                  job->fragment, (unsigned long long)job->sequence, error.message);
        replica_stage(worker->options.replica, job->fragment);
        status = OK;
    } else if (status == OK) {
        status = replica_restore(worker->options.replica, job->fragment, buffer_bytes(&payload), &error);
    }
    buffer_deinit(&payload);
    if (status == OK)
        training_rebase(worker->options.training, job->fragment, job->sequence, MOVE_REFUSED);
    else
        fault(worker, "take back a refused contribution", status, &error);
}

static void end_round(struct worker *worker, const struct job *job, uint64_t version, struct error *error) {
    struct replica *replica = worker->options.replica;
    bool refused = job->why == MOVE_REFUSED;
    struct bytes feedback = {0};
    if (refused) feedback = fragment_floats(replica, replica->feedback, job->fragment);
    enum status status;
    do status = journal_round_end(worker->options.journal, job->fragment, version, refused, feedback, error);
    while (try_again(worker, status, error));
    error->status = status;
    if (refused && !replica->feedback) training_capture(worker->options.training); /* dense: theta_local alone has it now */
}

static void do_rebased(struct worker *worker, struct job *job) {
    struct error error = {0};
    uint64_t version = worker->options.replica->next_version[job->fragment];
    if (job->why == MOVE_LOADED) {
        if (--worker->loading == 0) training_capture(worker->options.training);
        return;
    }
    if (job->why != MOVE_ADVANCED) end_round(worker, job, version, &error);
    if (error.status != OK) {
        fault(worker, "record the end of a round", error.status, &error);
        return;
    }
    struct node_event event = {.kind = NODE_REBASED, .fragment = job->fragment, .sequence = job->sequence};
    event.rebased.base_version = version;
    tell(worker, &event);
}

/* ---- the replica ---------------------------------------------------------------------------------------------------------- */

static void do_apply(struct worker *worker, struct job *job) {
    struct replica *replica = worker->options.replica;
    struct error error = {0};
    struct ledger_source source = journal_source(worker->options.journal);
    struct ledger_entry *step = xmalloc(sizeof *step);
    struct node_event event = {.kind = NODE_APPLIED};
    uint64_t lost = UINT64_MAX;
    uint64_t from = clock_monotonic_ms();
    event.status = ledger_entry_decode(buffer_bytes(&job->bytes), step, &error);
    if (event.status == OK)
        event.status = replay_step(&source, job->run, step, &replica->global, event.applied.root, &lost, &error);
    event.applied.version = replica->global.version;
    event.applied.lost = lost == UINT64_MAX ? 0 : lost;
    event.message = error.message;
    if (event.applied.lost)
        log_error("payload_lost", "entry=%llu message=\"%s\" do=\"nothing: the coordinator is asked for it\"",
                  (unsigned long long)lost, error.message);
    if (event.status == OK)
        worker->options.step_applied(worker->options.context, step, event.applied.root, clock_monotonic_ms() - from);
    free(step);
    tell(worker, &event);
}

static void do_captured(struct worker *worker, struct job *job) {
    struct replica *replica = worker->options.replica;
    const struct training_capture *capture = job->capture;
    struct error error = {0};
    struct journal_checkpoint checkpoint = {.version = replica->global.version,
                                            .trainer_steps = capture->trainer_steps,
                                            .payloads_from = worker->options.payloads_from,
                                            .fragments = replica->fragments};
    for (uint32_t i = 0; i < replica->fragments; i++) {
        checkpoint.fragment[i].base_version = capture->fragment[i].base_version;
        checkpoint.fragment[i].in_flight = capture->fragment[i].in_flight;
        checkpoint.fragment[i].over = capture->fragment[i].over;
        checkpoint.fragment[i].progress = capture->fragment[i].progress;
    }
    state_root(replica->global.theta, replica->parameters, checkpoint.root);
    struct buffer global = {0};
    snapshot_write(&replica->global, &global);
    struct journal_checkpoint_contents contents = {.global = buffer_bytes(&global),
                                                   .trainer = buffer_bytes(&capture->trainer),
                                                   .base = buffer_bytes(&capture->base),
                                                   .snapshot = buffer_bytes(&capture->snapshot)};
    enum status status;
    do status = journal_checkpoint_write(worker->options.journal, &checkpoint, &contents, &error);
    while (worker->loaded && try_again(worker, status, &error)); /* without it, what came before the snapshot is missing here */
    buffer_deinit(&global);
    if (status == OK) trouble_ends(worker->options.troubles, TROUBLE_DISK_CHECKPOINT);
    if (status == FULL && !worker->given_up) { /* rounds may still have room */
        trouble_begins(worker->options.troubles, TROUBLE_DISK_CHECKPOINT, error.message);
        journal_resume(worker->options.journal);
        job->capture->retry_ms = CHECKPOINT_RETRY_MS;
        return;
    }
    if (status != OK) {
        fault(worker, "write a checkpoint", status, &error);
        return;
    }
    log_info("checkpoint_written", "version=%llu trainer_steps=%llu", (unsigned long long)checkpoint.version,
             (unsigned long long)checkpoint.trainer_steps);
    if (!worker->loaded || worker->loading > 0) return;
    worker->loaded = false;
    tell(worker, &(struct node_event){.kind = NODE_SNAPSHOT_LOADED, .status = OK});
}

/* The replica jumps to a snapshot of the run. Fragments without a message under way move onto it with all their progress. */
static void do_load(struct worker *worker, struct job *job) {
    struct replica *replica = worker->options.replica;
    struct error error = {0};
    struct buffer content = {0};
    enum status status =
        journal_payload_read(worker->options.journal, job->snapshot.content_digest, job->snapshot.content_size, &content, &error);
    if (status == OK) status = snapshot_read(&replica->global, &job->snapshot, buffer_bytes(&content), &error);
    buffer_deinit(&content);
    journal_payload_unhold(worker->options.journal, job->snapshot.content_digest);
    (void)!journal_payload_drop(worker->options.journal, job->snapshot.content_digest, NULL);
    if (status != OK) {
        /* The replica is unusable now: only a restart, which begins from the journal, can mend it. */
        fault(worker, "load the run's snapshot", status, &error);
        return;
    }
    worker->options.payloads_from = job->snapshot.payloads_from;
    log_info("snapshot_loaded", "version=%llu bytes=%llu", (unsigned long long)job->snapshot.version,
             (unsigned long long)job->snapshot.content_size);
    for (uint32_t i = 0; i < replica->fragments; i++) {
        const struct journal_round *round = journal_round(worker->options.journal, i);
        if (round && round->in_flight) continue;
        replica_stage(replica, i);
        worker->loading++;
        training_rebase(worker->options.training, i, 0, MOVE_LOADED);
    }
    worker->loaded = true;
    if (worker->loading == 0) training_capture(worker->options.training);
}

static void do_accepted(struct worker *worker, const struct job *job) {
    struct error error = {0};
    enum status status;
    do status = journal_round_accept(worker->options.journal, job->fragment, job->sequence, &job->head, &error);
    while (try_again(worker, status, &error));
    if (status != OK) fault(worker, "record a receipt", status, &error);
}

/* ---- the thread ------------------------------------------------------------------------------------------------------------ */

static void do_job(struct worker *worker, struct job *job) {
    if (worker->given_up) {
        buffer_deinit(&job->bytes);
        training_capture_destroy(job->capture);
        free(job);
        return;
    }
    switch (job->kind) {
    case JOB_ENCODE: do_encode(worker, job); break;
    case JOB_APPLY: do_apply(worker, job); break;
    case JOB_REBASE:
        replica_stage(worker->options.replica, job->fragment);
        training_rebase(worker->options.training, job->fragment, job->sequence, MOVE_MERGED);
        break;
    case JOB_ADVANCE:
        replica_stage(worker->options.replica, job->fragment);
        training_rebase(worker->options.training, job->fragment, 0, MOVE_ADVANCED);
        break;
    case JOB_ACCEPTED: do_accepted(worker, job); break;
    case JOB_RESTORE: do_restore(worker, job); break;
    case JOB_SNAPSHOTTED:
        worker->snapshots[job->fragment].sequence = job->sequence;
        worker->snapshots[job->fragment].trainer_steps = job->trainer_steps;
        buffer_deinit(&worker->snapshots[job->fragment].optimizer);
        worker->snapshots[job->fragment].optimizer = job->bytes;
        job->bytes = (struct buffer){0};
        break;
    case JOB_REBASED: do_rebased(worker, job); break;
    case JOB_CAPTURED: do_captured(worker, job); break;
    case JOB_LOAD: do_load(worker, job); break;
    }
    buffer_deinit(&job->bytes);
    training_capture_destroy(job->capture);
    free(job);
}

static void body(void *context) {
    struct worker *worker = context;
    void *job;
    while (queue_pop(worker->queue, UINT64_MAX, &job) == OK) do_job(worker, job);
}

enum status worker_start(const struct worker_options *options, struct worker **out, struct error *error) {
    struct worker *worker = xcalloc(1, sizeof *worker);
    worker->options = *options;
    worker->queue = queue_create(QUEUE_LIMIT);
    enum status status = thread_start("worker", body, worker, &worker->thread, error);
    if (status == OK)
        *out = worker;
    else
        worker_destroy(worker);
    return status;
}

void worker_set_training(struct worker *worker, struct training *training) { worker->options.training = training; }

void worker_encode(struct worker *worker, const struct contribution *contribution) {
    push(worker, &(struct job){.kind = JOB_ENCODE,
                               .fragment = contribution->fragment,
                               .sequence = contribution->sequence,
                               .contribution = *contribution});
}

void worker_apply(struct worker *worker, const struct run_state *run, struct bytes entry) {
    struct job job = {.kind = JOB_APPLY, .run = run};
    buffer_append(&job.bytes, entry.data, entry.size);
    push(worker, &job);
}

void worker_rebase(struct worker *worker, uint32_t fragment, uint64_t sequence) {
    push(worker, &(struct job){.kind = JOB_REBASE, .fragment = fragment, .sequence = sequence});
}

void worker_restore(struct worker *worker, uint32_t fragment, uint64_t sequence) {
    push(worker, &(struct job){.kind = JOB_RESTORE, .fragment = fragment, .sequence = sequence});
}

void worker_snapshotted(struct worker *worker, uint32_t fragment, uint64_t sequence, uint64_t trainer_steps,
                        struct buffer *optimizer) {
    struct job job = {.kind = JOB_SNAPSHOTTED, .fragment = fragment, .sequence = sequence, .trainer_steps = trainer_steps};
    job.bytes = *optimizer;
    *optimizer = (struct buffer){0};
    push(worker, &job);
}

void worker_advance(struct worker *worker, uint32_t fragment) {
    push(worker, &(struct job){.kind = JOB_ADVANCE, .fragment = fragment});
}

void worker_accepted(struct worker *worker, uint32_t fragment, uint64_t sequence, const struct ledger_head *head) {
    push(worker, &(struct job){.kind = JOB_ACCEPTED, .fragment = fragment, .sequence = sequence, .head = *head});
}

void worker_rebased(struct worker *worker, uint32_t fragment, uint64_t sequence, enum training_move why) {
    push(worker, &(struct job){.kind = JOB_REBASED, .fragment = fragment, .sequence = sequence, .why = why});
}

void worker_captured(struct worker *worker, struct training_capture *capture) {
    push(worker, &(struct job){.kind = JOB_CAPTURED, .capture = capture});
}

void worker_load(struct worker *worker, const struct snapshot_header *header) {
    push(worker, &(struct job){.kind = JOB_LOAD, .snapshot = *header});
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
    for (uint32_t i = 0; i < FRAGMENTS_LIMIT; i++) buffer_deinit(&worker->snapshots[i].optimizer);
    free(worker);
}
