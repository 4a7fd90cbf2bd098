/* The site's trainer and worker. The trainer does inner steps and, between two of them, what it was asked for, in order; the worker
 * does one job after the other, each taking a while before it takes effect. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "sim/site_internal.h"

enum { TOKENS_A_STEP = 64 };

/* ---- the trainer -------------------------------------------------------------------------------------------------------------- */

static void trainer_go(struct site *site);

/* A pull of an eighth of the coordinates towards this site's own optimum, with some noise. */
static void inner_step(struct site *site) {
    uint64_t count = site->setup.scenario->parameters, some = count < 64 ? count : count / 8;
    for (uint64_t i = 0; i < some; i++) {
        uint64_t at = (site->trainer_steps * 31 + i * 7) % count;
        uint64_t mixed = random_hash(site->setup.process, at);
        float target = (float)(int32_t)(mixed & 0xffff) * 0x1p-15f - 1.0f;
        float noise = (float)(int32_t)(random_hash(site->trainer_steps, at) & 0xff) * 0x1p-14f;
        site->local[at] += 0.05f * (target - site->local[at]) + noise;
    }
}

static void capture_now(struct site *site) {
    struct capture *capture = xcalloc(1, sizeof *capture);
    size_t size = (size_t)site->setup.scenario->parameters * sizeof(float);
    bool in_flight = false;
    for (uint32_t f = 0; f < site->replica.fragments; f++) {
        capture->fragment[f] = site->marks[f];
        capture->fragment[f].base_version = site->replica.base_version[f];
        in_flight |= site->marks[f].in_flight != 0;
    }
    capture->trainer_steps = site->trainer_steps;
    buffer_append(&capture->local, site->local, size);
    buffer_append(&capture->base, site->replica.base, size);
    if (in_flight) buffer_append(&capture->snapshot, site->replica.snapshot, size);
    site->capture_out = true;
    site->capture_wanted = false;
    site_job(site, (struct job){.kind = JOB_CAPTURED, .capture = capture});
}

static void snapshot_now(struct site *site, const struct request *request) {
    replica_snapshot(&site->replica, request->fragment, site->local);
    struct fragment_marks *marks = &site->marks[request->fragment];
    marks->in_flight = request->sequence;
    round_progress_snapshot(&marks->progress, site->replica.fragments);
    marks->trained.snapshot = marks->trained.local;
    marks->trained.round = 0;
    struct node_event event = {.kind = NODE_SNAPSHOTTED, .fragment = request->fragment, .sequence = request->sequence};
    event.snapshotted.steps = site->steps;
    event.snapshotted.tokens = site->tokens;
    site_tell(site, FROM_TRAINER, &event);
}

static void rebase_now(struct site *site, const struct request *request) {
    struct replica *replica = &site->replica;
    enum rebase what = request->why == MOVE_MERGED    ? REBASE_SENT
                       : request->why == MOVE_REFUSED ? replica_refused(replica)
                                                      : REBASE_KEEP;
    replica_rebase(replica, request->fragment, site->local, what);
    struct fragment_marks *marks = &site->marks[request->fragment];
    if (what == REBASE_SENT) marks->trained.local -= marks->trained.snapshot;
    if (request->why == MOVE_MERGED || request->why == MOVE_REFUSED) {
        marks->in_flight = 0;
        marks->over = request->sequence;
        round_progress_over(&marks->progress, request->why == MOVE_REFUSED);
    }
    site_job(site, (struct job){
                       .kind = JOB_REBASED, .fragment = request->fragment, .sequence = request->sequence, .why = request->why});
}

static void on_inner_step(void *context, struct event *event) {
    struct site *site = context;
    (void)event;
    inner_step(site);
    site->stepping = false;
    site->steps++;
    site->trainer_steps++;
    site->tokens += TOKENS_A_STEP;
    for (uint32_t f = 0; f < site->replica.fragments; f++) {
        round_progress_step(&site->marks[f].progress, TOKENS_A_STEP, 2.0);
        site->marks[f].trained.local++;
        site->marks[f].trained.round++;
    }
    struct node_event progress = {.kind = NODE_PROGRESS};
    progress.progress.steps = site->steps;
    progress.progress.tokens = site->tokens;
    progress.progress.loss = 2.0;
    site_tell(site, FROM_TRAINER, &progress);
    trainer_go(site);
}

static void trainer_go(struct site *site) {
    if (site->stepping || process_is_doomed(site->world, site->setup.process)) return;
    while (site->request_count > 0) {
        struct request request = site->requests[0];
        memmove(site->requests, site->requests + 1, --site->request_count * sizeof request);
        switch (request.kind) {
        case REQUEST_SNAPSHOT: snapshot_now(site, &request); break;
        case REQUEST_REBASE: rebase_now(site, &request); break;
        case REQUEST_CAPTURE: site->capture_wanted = true; break;
        }
    }
    bool train = site->train && site->steps < site->until_steps, due = train && site->world->now >= site->capture_at;
    if ((due || site->capture_wanted) && !site->capture_out) capture_now(site);
    if (!train) return;
    site->stepping = true;
    uint64_t step = site->setup.scenario->site[site->setup.process].step_us;
    world_post(site->world, step * 9 / 10 + world_below(site->world, step / 5), site->setup.process, on_inner_step, site, NULL);
}

void site_train(struct site *site, bool train, uint64_t until_steps) {
    site->train = train;
    site->until_steps = until_steps;
    trainer_go(site);
}

void site_request(struct site *site, struct request request) {
    ASSERT(site->request_count < COUNT_OF(site->requests));
    site->requests[site->request_count++] = request;
    trainer_go(site);
}

/* ---- the worker: a round ------------------------------------------------------------------------------------------------------ */

static void fault(struct site *site, const char *doing, enum status status, const struct error *error) {
    char message[160];
    snprintf(message, sizeof message, "%s: %.110s", doing, error->message);
    site_tell(site, FROM_WORKER, &(struct node_event){.kind = NODE_FAULT, .status = status, .message = message});
}

static void put_fragment(const struct site *site, const float *vector, uint32_t fragment, struct buffer *out) {
    uint64_t start, count;
    out->size = 0;
    if (!vector) return;
    fragment_range(site->setup.scenario->parameters, site->replica.fragments, fragment, &start, &count);
    buffer_append(out, vector + start, (size_t)count * sizeof(float));
}

/* The record of a message under way: durable when OK. */
static enum status spool(struct site *site, const struct contribution *c, struct bytes payload, struct error *error) {
    struct round *round = &site->rounds[c->fragment];
    uint8_t header[CONTRIBUTION_HEADER_SIZE];
    contribution_encode(c, header);
    enum status status = disk_blob_write(&site->disk, payload, c->payload_digest);
    if (status == OK) status = process_write(site->world, site->setup.process);
    if (status != OK) return error_set(error, status, "the disk: %s", status_name(status));
    round->exists = round->in_flight = true;
    round->refused = false;
    round->sequence = c->sequence;
    round->base_version = c->base_version;
    round->trainer_steps = site->trainer_steps;
    memcpy(round->header, header, sizeof header);
    contribution_sign(site->setup.key, header, round->signature);
    memcpy(round->payload_digest, c->payload_digest, DIGEST_SIZE);
    put_fragment(site, site->replica.feedback, c->fragment, &round->feedback);
    put_fragment(site, site->replica.snapshot, c->fragment, &round->snapshot);
    round->accepted = (struct ledger_head){0};
    round->steps_in_snapshot = site->marks[c->fragment].trained.snapshot;
    round->steps_sent = site->marks[c->fragment].trained.sent;
    round->steps_in_feedback = 0;
    check_spooled(site->setup.check, site->setup.process, c->fragment, payload);
    return OK;
}

static void do_encode(struct site *site, struct job *job) {
    struct replica *replica = &site->replica;
    struct contribution *c = &job->contribution;
    struct node_event event = {.kind = NODE_ENCODED, .fragment = job->fragment, .sequence = job->sequence};
    struct error error = {0};
    struct buffer payload = {0};
    check_before_encode(site->setup.check, site->setup.process, replica, job->fragment, c);
    struct trained *trained = &site->marks[job->fragment].trained;
    trained->sent = trained->snapshot + trained->feedback;
    check_counts(site->setup.check, site->setup.process, c, trained->sent, TOKENS_A_STEP);
    event.status = replica_encode(replica, job->fragment, &payload, &c->norm, &error);
    event.message = error.message;
    if (event.status == OK) {
        trained->feedback = 0;
        check_after_encode(site->setup.check, site->setup.process, replica, job->fragment, buffer_bytes(&payload));
        c->payload_size = payload.size;
        digest_sha256(payload.data, payload.size, c->payload_digest);
        c->compute_share = 0.9f;
        c->signed_at_ms = process_wall_ms(site->world, site->setup.process);
        enum status status = spool(site, c, buffer_bytes(&payload), &error);
        memcpy(event.encoded.header, site->rounds[job->fragment].header, CONTRIBUTION_HEADER_SIZE);
        memcpy(event.encoded.signature, site->rounds[job->fragment].signature, SIGNATURE_SIZE);
        if (status != OK) fault(site, "spool a contribution", status, &error);
        if (status != OK) event.kind = NODE_TIMER;
    }
    site_tell(site, FROM_WORKER, &event);
    buffer_deinit(&payload);
}

static void do_restore(struct site *site, const struct job *job) {
    struct error error = {0};
    const struct round *round = &site->rounds[job->fragment];
    struct bytes payload = {0};
    enum status status = OK;
    if (!round->in_flight || round->sequence != job->sequence)
        status = error_set(&error, FAILED, "no record of sequence %llu", (unsigned long long)job->sequence);
    bool lost = status == OK && site_payload(site, round->payload_digest, &payload, &error) != OK;
    if (lost) { /* for good: the site goes on without it */
        replica_stage(&site->replica, job->fragment);
        check_message_lost(site->setup.check, site->setup.process, job->fragment);
    }
    if (status == OK && !lost) status = replica_restore(&site->replica, job->fragment, payload, &error);
    if (status == OK && site->replica.feedback) site->marks[job->fragment].trained.feedback = round->steps_sent;
    if (status != OK)
        fault(site, "take back a refused contribution", status, &error);
    else
        site_request(site, (struct request){REQUEST_REBASE, job->fragment, job->sequence, MOVE_REFUSED});
}

static void end_round(struct site *site, const struct job *job, uint64_t version) {
    struct round *round = &site->rounds[job->fragment];
    bool refused = job->why == MOVE_REFUSED;
    struct error error = {0};
    if (!round->in_flight) return; /* ended before a crash */
    enum status status = process_write(site->world, site->setup.process);
    if (status != OK) {
        (void)error_set(&error, status, "the disk: %s", status_name(status));
        fault(site, "record the end of a round", status, &error);
        return;
    }
    round->in_flight = false;
    round->refused = refused;
    round->base_version = version;
    round->snapshot.size = 0;
    if (refused) put_fragment(site, site->replica.feedback, job->fragment, &round->feedback);
    if (refused && site->replica.feedback) round->steps_in_feedback = round->steps_sent;
    check_round_over(site->setup.check, site->setup.process, job->fragment, refused);
    if (refused && !site->replica.feedback) site_request(site, (struct request){.kind = REQUEST_CAPTURE});
}

static void do_rebased(struct site *site, const struct job *job) {
    uint64_t version = site->replica.next_version[job->fragment];
    if (job->why == MOVE_LOADED) {
        if (--site->loading == 0) site_request(site, (struct request){.kind = REQUEST_CAPTURE});
        return;
    }
    if (job->why != MOVE_ADVANCED) end_round(site, job, version);
    struct node_event event = {.kind = NODE_REBASED, .fragment = job->fragment, .sequence = job->sequence};
    event.rebased.base_version = version;
    site_tell(site, FROM_WORKER, &event);
}

/* ---- the worker: the replica -------------------------------------------------------------------------------------------------- */

static void do_apply(struct site *site, const struct job *job) {
    struct error error = {0};
    struct ledger_source source = disk_source(&site->disk);
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    struct node_event event = {.kind = NODE_APPLIED};
    uint64_t lost = UINT64_MAX;
    event.status = ledger_entry_decode(buffer_bytes(&job->bytes), entry, &error);
    if (event.status == OK)
        event.status =
            replay_step(&source, node_state_run(site->state), entry, &site->replica.global, event.applied.root, &lost, &error);
    event.applied.lost = lost == UINT64_MAX ? 0 : lost;
    event.applied.version = site->replica.global.version;
    event.message = error.message;
    if (event.status == OK) { /* at every version, also where the manifest wants no root */
        uint8_t root[DIGEST_SIZE];
        if (entry->step.has_root)
            memcpy(root, event.applied.root, DIGEST_SIZE);
        else
            state_root(site->replica.global.theta, site->replica.parameters, root);
        check_root(site->setup.check, site->name, event.applied.version, root);
    }
    free(entry);
    site_tell(site, FROM_WORKER, &event);
}

static bool is_in_flight(const struct site *site, const uint8_t *digest) {
    for (uint32_t f = 0; f < site->replica.fragments; f++) {
        if (site->rounds[f].in_flight && memcmp(site->rounds[f].payload_digest, digest, DIGEST_SIZE) == 0) return true;
    }
    return false;
}

/* Deletes the payloads that no replay from the checkpoint can need. */
static void prune(struct site *site) {
    uint64_t size = site->disk.entry_count;
    bool *wanted = xcalloc((size_t)size + 1, sizeof *wanted);
    uint8_t(*digests)[DIGEST_SIZE] = xcalloc((size_t)size + 1, sizeof *digests);
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    for (uint64_t i = 0; i < size; i++) {
        struct contribution c;
        if (ledger_entry_decode(buffer_bytes(&site->disk.entries[i]), entry, NULL) != OK) continue;
        if (entry->kind == LEDGER_CONTRIBUTION &&
            contribution_decode(bytes_of(entry->contribution.header, CONTRIBUTION_HEADER_SIZE), &c, NULL) == OK) {
            wanted[i] = true;
            memcpy(digests[i], c.payload_digest, DIGEST_SIZE);
        }
        if (entry->kind != LEDGER_STEP || entry->step.version > site->checkpoint.version) continue;
        for (uint16_t part = 0; part < entry->step.count; part++) wanted[entry->step.parts[part].index] = false;
    }
    for (uint64_t i = 0; i < size; i++) {
        if (wanted[i]) continue;
        bool shared = is_in_flight(site, digests[i]);
        for (uint64_t j = 0; j < size && !shared; j++) shared = wanted[j] && memcmp(digests[i], digests[j], DIGEST_SIZE) == 0;
        if (!shared) disk_blob_delete(&site->disk, digests[i]);
    }
    free(entry);
    free(wanted);
    free(digests);
}

static void do_captured(struct site *site, struct job *job) {
    struct checkpoint *checkpoint = &site->checkpoint;
    struct replica *replica = &site->replica;
    struct error error = {0};
    enum status status = process_write(site->world, site->setup.process);
    if (status != OK) {
        (void)error_set(&error, status, "the disk: %s", status_name(status));
        fault(site, "write a checkpoint", status, &error);
        return;
    }
    checkpoint->exists = true;
    checkpoint->version = replica->global.version;
    checkpoint->payloads_from = site->loaded_from;
    state_root(replica->global.theta, replica->parameters, checkpoint->root);
    checkpoint->global.size = 0;
    snapshot_write(&replica->global, &checkpoint->global);
    capture_deinit(&checkpoint->trainer);
    checkpoint->trainer = *job->capture;
    *job->capture = (struct capture){0};
    prune(site);
    if (!site->loaded || site->loading > 0) return;
    site->loaded = false;
    site_tell(site, FROM_WORKER, &(struct node_event){.kind = NODE_SNAPSHOT_LOADED, .status = OK});
}

/* The replica jumps to a snapshot of the run; fragments without a message under way move onto it with all their progress. */
static void do_load(struct site *site, const struct job *job) {
    struct replica *replica = &site->replica;
    struct error error = {0};
    enum status status = snapshot_read(&replica->global, &job->header, buffer_bytes(&site->download), &error);
    site->download.size = 0;
    if (status != OK) {
        fault(site, "load the run's snapshot", status, &error);
        return;
    }
    site->world->tally.snapshots_loaded++;
    site->loaded_from = job->header.payloads_from;
    for (uint32_t f = 0; f < replica->fragments; f++) {
        if (site->rounds[f].in_flight) continue;
        replica_stage(replica, f);
        site->loading++;
        site_request(site, (struct request){REQUEST_REBASE, f, 0, MOVE_LOADED});
    }
    site->loaded = true;
    if (site->loading == 0) site_request(site, (struct request){.kind = REQUEST_CAPTURE});
}

static void do_accepted(struct site *site, const struct job *job) {
    struct round *round = &site->rounds[job->fragment];
    struct error error = {0};
    if (!round->in_flight || round->sequence != job->sequence || round->accepted.size >= job->head.size) return;
    enum status status = process_write(site->world, site->setup.process);
    if (status == OK) {
        round->accepted = job->head;
        return;
    }
    (void)error_set(&error, status, "the disk: %s", status_name(status));
    fault(site, "record a receipt", status, &error);
}

/* ---- the queue ---------------------------------------------------------------------------------------------------------------- */

void capture_deinit(struct capture *capture) {
    buffer_deinit(&capture->local);
    buffer_deinit(&capture->base);
    buffer_deinit(&capture->snapshot);
    *capture = (struct capture){0};
}

static void job_deinit(struct job *job) {
    buffer_deinit(&job->bytes);
    if (job->capture) capture_deinit(job->capture);
    free(job->capture);
}

static void do_job(struct site *site, struct job *job) {
    switch (job->kind) {
    case JOB_ENCODE: do_encode(site, job); break;
    case JOB_APPLY: do_apply(site, job); break;
    case JOB_REBASE:
        replica_stage(&site->replica, job->fragment);
        site_request(site, (struct request){REQUEST_REBASE, job->fragment, job->sequence, MOVE_MERGED});
        break;
    case JOB_ADVANCE:
        replica_stage(&site->replica, job->fragment);
        site_request(site, (struct request){REQUEST_REBASE, job->fragment, 0, MOVE_ADVANCED});
        break;
    case JOB_ACCEPTED: do_accepted(site, job); break;
    case JOB_RESTORE: do_restore(site, job); break;
    case JOB_REBASED: do_rebased(site, job); break;
    case JOB_CAPTURED: do_captured(site, job); break;
    case JOB_LOAD: do_load(site, job); break;
    }
}

static void work(struct site *site);

static void on_job(void *context, struct event *event) {
    struct site *site = context;
    struct job job = site->jobs[0];
    (void)event;
    memmove(site->jobs, site->jobs + 1, --site->job_count * sizeof job);
    bool captured = job.kind == JOB_CAPTURED;
    do_job(site, &job);
    job_deinit(&job);
    site->working = false;
    work(site);
    if (!captured) return;
    site->capture_out = false;
    site->capture_at = site->world->now + site->setup.scenario->checkpoint_us;
    trainer_go(site);
}

static void work(struct site *site) {
    if (site->working || site->job_count == 0 || process_is_doomed(site->world, site->setup.process)) return;
    site->working = true;
    world_post(site->world, world_heavy_tail(site->world, site->setup.scenario->worker_us), site->setup.process, on_job, site,
               NULL);
}

void site_job(struct site *site, struct job job) {
    site->jobs = xrealloc(site->jobs, (site->job_count + 1) * sizeof job);
    site->jobs[site->job_count++] = job;
    work(site);
}

void site_worker_clear(struct site *site) {
    for (size_t i = 0; i < site->job_count; i++) job_deinit(&site->jobs[i]);
    free(site->jobs);
    site->jobs = NULL;
    site->job_count = 0;
    site->working = site->loaded = site->train = site->stepping = site->capture_out = site->capture_wanted = false;
    site->loading = 0;
    site->loaded_from = 0;
    site->steps = site->tokens = 0;
    site->request_count = 0;
    memset(site->marks, 0, sizeof site->marks);
}
