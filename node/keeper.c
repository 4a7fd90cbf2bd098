/* What moves the replica and the journal, one job after the other: see node/keeper.h. */
#include "node/keeper.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

struct keeper {
    struct keeper_options options;
    struct { /* what the trainer told with the snapshot, until it is encoded */
        uint64_t sequence, trainer_steps;
        struct buffer optimizer;
    } snapshots[FRAGMENTS_LIMIT];
    uint32_t loading; /* fragments still to be rebased onto a loaded snapshot */
    bool loaded;      /* NODE_SNAPSHOT_LOADED is owed, once a checkpoint has it: what came before
                         cannot be replayed here */
};

static void tell(struct keeper *keeper, const struct node_event *event) {
    keeper->options.port.tell(keeper->options.port.context, event);
}

static void rebase(struct keeper *keeper, uint32_t fragment, uint64_t sequence,
                   enum training_move why) {
    keeper->options.port.rebase(keeper->options.port.context, fragment, sequence, why);
}

static void capture(struct keeper *keeper) {
    keeper->options.port.capture(keeper->options.port.context);
}

static enum keeper_outcome fault(struct keeper *keeper, const char *doing,
                                 const struct keeper_job *job) {
    char message[ERROR_MESSAGE_SIZE + 32];
    snprintf(message, sizeof message, "%s: %s", doing, job->error.message);
    tell(keeper,
         &(struct node_event){.kind = NODE_FAULT, .status = job->status, .message = message});
    return KEEPER_DONE;
}

static struct bytes fragment_floats(const struct replica *replica, const float *vector,
                                    uint32_t fragment) {
    uint64_t start, count;
    fragment_range(replica->parameters, replica->fragments, fragment, &start, &count);
    return vector ? bytes_of(vector + start, count * sizeof(float)) : (struct bytes){0};
}

/* ---- a round's message ----------------------------------------------------------------------- */

/* The header's last fields, then the signature. */
static void seal(struct keeper *keeper, struct keeper_job *job) {
    struct contribution *contribution = &job->contribution;
    struct journal_round *round = &job->round;
    contribution->payload_size = job->payload.size;
    digest_sha256(job->payload.data, job->payload.size, contribution->payload_digest);
    round->fragment = contribution->fragment;
    round->sequence = contribution->sequence;
    round->base_version = contribution->base_version;
    round->payload_size = job->payload.size;
    memcpy(round->payload_digest, contribution->payload_digest, DIGEST_SIZE);
    contribution_encode(contribution, round->header);
    contribution_sign(keeper->options.key, round->header, round->signature);
}

/* What is sent is on disk when this returns OK. */
static enum status write_round(struct keeper *keeper, struct keeper_job *job) {
    const struct replica *replica = keeper->options.replica;
    uint32_t fragment = job->contribution.fragment;
    struct journal_round_contents contents = {
        .payload = buffer_bytes(&job->payload),
        .feedback = fragment_floats(replica, replica->feedback, fragment),
        .snapshot = fragment_floats(replica, replica->snapshot, fragment)};
    if (keeper->snapshots[fragment].sequence == job->contribution.sequence) {
        job->round.trainer_steps = keeper->snapshots[fragment].trainer_steps;
        contents.optimizer = buffer_bytes(&keeper->snapshots[fragment].optimizer);
    }
    return journal_round_begin(keeper->options.journal, &job->round, &contents, &job->error);
}

static void make_message(struct keeper *keeper, struct keeper_job *job) {
    job->made = true;
    job->status =
        replica_encode(keeper->options.replica, job->fragment, (enum codec)job->contribution.codec,
                       &job->payload, &job->contribution.norm, &job->error);
    if (job->status == OK) seal(keeper, job);
}

static enum keeper_outcome do_encode(struct keeper *keeper, struct keeper_job *job) {
    struct node_event event = {
        .kind = NODE_ENCODED, .fragment = job->fragment, .sequence = job->sequence};
    if (!job->made) make_message(keeper, job);
    event.status = job->status;
    memcpy(event.encoded.header, job->round.header, sizeof job->round.header);
    memcpy(event.encoded.signature, job->round.signature, sizeof job->round.signature);
    if (job->status == OK) {
        enum status status = write_round(keeper, job);
        if (status == FULL) return KEEPER_FULL;
        job->status = status;
        job->written = status == OK;
    }
    buffer_deinit(&keeper->snapshots[job->fragment].optimizer);
    /* A message without a record is never sent: a restart makes its mass anew. */
    if (event.status == OK && !job->written) return fault(keeper, "spool a contribution", job);
    event.message = job->error.message;
    tell(keeper, &event);
    return KEEPER_DONE;
}

static enum keeper_outcome do_restore(struct keeper *keeper, struct keeper_job *job) {
    struct replica *replica = keeper->options.replica;
    struct buffer payload = {0};
    const struct journal_round *round = journal_round(keeper->options.journal, job->fragment);
    struct contribution sent = {0};
    enum status status = OK;
    if (!round || !round->in_flight || round->sequence != job->sequence)
        status = error_set(&job->error, FAILED, "no record of sequence %llu",
                           (unsigned long long)job->sequence);
    if (status == OK)
        status =
            contribution_decode(bytes_of(round->header, sizeof round->header), &sent, &job->error);
    if (status == OK)
        status = journal_payload_read(keeper->options.journal, round->payload_digest,
                                      round->payload_size, &payload, &job->error);
    /* For good: a restart would find it as it is. The site goes on without it. */
    job->lost = status == CORRUPT || status == NOT_FOUND || status == INVALID;
    if (job->lost) {
        replica_stage(replica, job->fragment);
        status = OK;
    } else if (status == OK) {
        status = replica_restore(replica, job->fragment, (enum codec)sent.codec,
                                 buffer_bytes(&payload), &job->error);
    }
    buffer_deinit(&payload);
    job->status = status;
    if (status != OK) return fault(keeper, "take back a refused contribution", job);
    rebase(keeper, job->fragment, job->sequence, MOVE_REFUSED);
    return KEEPER_DONE;
}

static enum status end_round(struct keeper *keeper, struct keeper_job *job, uint64_t version) {
    struct replica *replica = keeper->options.replica;
    bool refused = job->why == MOVE_REFUSED;
    struct bytes feedback = {0};
    if (refused) feedback = fragment_floats(replica, replica->feedback, job->fragment);
    TRY(journal_round_end(keeper->options.journal, job->fragment, version, refused, feedback,
                          &job->error));
    job->written = true;
    /* Dense: theta_local alone has it now. */
    if (refused && !replica->feedback) capture(keeper);
    return OK;
}

static enum keeper_outcome do_rebased(struct keeper *keeper, struct keeper_job *job) {
    uint64_t version = keeper->options.replica->next_version[job->fragment];
    if (job->why == MOVE_LOADED && --keeper->loading == 0) capture(keeper);
    if (job->why == MOVE_MERGED || job->why == MOVE_REFUSED)
        job->status = end_round(keeper, job, version);
    if (job->status == FULL) return KEEPER_FULL;
    if (job->status != OK) return fault(keeper, "record the end of a round", job);
    struct node_event event = {
        .kind = NODE_REBASED, .fragment = job->fragment, .sequence = job->sequence};
    event.rebased.base_version = version;
    tell(keeper, &event);
    return KEEPER_DONE;
}

static enum keeper_outcome do_accepted(struct keeper *keeper, struct keeper_job *job) {
    job->status = journal_round_accept(keeper->options.journal, job->fragment, job->sequence,
                                       &job->head, &job->error);
    if (job->status == FULL) return KEEPER_FULL;
    if (job->status != OK) return fault(keeper, "record a receipt", job);
    job->written = true;
    return KEEPER_DONE;
}

/* ---- the replica ----------------------------------------------------------------------------- */

static enum keeper_outcome do_apply(struct keeper *keeper, struct keeper_job *job) {
    struct replica *replica = keeper->options.replica;
    struct ledger_source source = journal_source(keeper->options.journal);
    struct ledger_entry *step = xmalloc(sizeof *step);
    struct node_event event = {.kind = NODE_APPLIED};
    uint64_t lost = UINT64_MAX;
    event.status = ledger_entry_decode(buffer_bytes(&job->bytes), step, &job->error);
    if (event.status == OK)
        event.status = replay_step(&source, job->run, step, &replica->global, event.applied.root,
                                   &lost, &job->error);
    event.applied.version = replica->global.version;
    event.applied.lost = lost == UINT64_MAX ? 0 : lost;
    event.message = job->error.message;
    job->status = event.status;
    if (event.status == OK)
        keeper->options.port.step_applied(keeper->options.port.context, step, event.applied.root);
    free(step);
    tell(keeper, &event);
    return KEEPER_DONE;
}

static enum status write_checkpoint(struct keeper *keeper, struct keeper_job *job) {
    struct replica *replica = keeper->options.replica;
    const struct training_capture *taken = job->capture;
    struct journal_checkpoint checkpoint = {.version = replica->global.version,
                                            .trainer_steps = taken->trainer_steps,
                                            .payloads_from = keeper->options.payloads_from,
                                            .fragments = replica->fragments};
    for (uint32_t i = 0; i < replica->fragments; i++) {
        checkpoint.fragment[i].base_version = taken->fragment[i].base_version;
        checkpoint.fragment[i].in_flight = taken->fragment[i].mark.in_flight;
        checkpoint.fragment[i].over = taken->fragment[i].mark.over;
        checkpoint.fragment[i].baseless = taken->fragment[i].mark.baseless;
        checkpoint.fragment[i].progress = taken->fragment[i].mark.progress;
    }
    model_state_root(&replica->global, checkpoint.root);
    struct buffer global = {0};
    snapshot_write(&replica->global, &global);
    struct journal_checkpoint_contents contents = {.global = buffer_bytes(&global),
                                                   .trainer = buffer_bytes(&taken->trainer),
                                                   .base = buffer_bytes(&taken->base),
                                                   .snapshot = buffer_bytes(&taken->snapshot)};
    enum status status =
        journal_checkpoint_write(keeper->options.journal, &checkpoint, &contents, &job->error);
    buffer_deinit(&global);
    return status;
}

static enum keeper_outcome do_captured(struct keeper *keeper, struct keeper_job *job) {
    if (keeper->options.lacks_model && (!keeper->loaded || keeper->loading > 0))
        return KEEPER_LEFT_OUT;
    keeper->options.lacks_model = false;
    job->status = write_checkpoint(keeper, job);
    /* Without it, what came before a loaded snapshot is missing here. Otherwise rounds may still
     * have room, and another checkpoint will do. */
    if (job->status == FULL) return keeper->loaded ? KEEPER_FULL : KEEPER_LEFT_OUT;
    if (job->status != OK) return fault(keeper, "write a checkpoint", job);
    job->written = true;
    if (!keeper->loaded || keeper->loading > 0) return KEEPER_DONE;
    keeper->loaded = false;
    tell(keeper, &(struct node_event){.kind = NODE_SNAPSHOT_LOADED, .status = OK});
    return KEEPER_DONE;
}

/* The replica jumps to a snapshot of the run. Fragments without a message under way move onto it
 * with all their progress. */
static enum keeper_outcome do_load(struct keeper *keeper, struct keeper_job *job) {
    struct replica *replica = keeper->options.replica;
    struct journal *journal = keeper->options.journal;
    const struct snapshot_header *snapshot = &job->snapshot;
    struct buffer content = {0};
    job->status = journal_payload_read(journal, snapshot->content_digest, snapshot->content_size,
                                       &content, &job->error);
    if (job->status == OK)
        job->status =
            snapshot_read(&replica->global, snapshot, buffer_bytes(&content), &job->error);
    buffer_deinit(&content);
    journal_payload_unhold(journal, snapshot->content_digest);
    (void)!journal_payload_drop(journal, snapshot->content_digest, NULL);
    /* Only a restart, which begins from the journal, can mend the replica now. */
    if (job->status != OK) return fault(keeper, "load the run's snapshot", job);
    keeper->options.payloads_from = snapshot->payloads_from;
    for (uint32_t i = 0; i < replica->fragments; i++) {
        const struct journal_round *round = journal_round(journal, i);
        if (round && round->in_flight) continue;
        replica_stage(replica, i);
        keeper->loading++;
        rebase(keeper, i, 0, MOVE_LOADED);
    }
    keeper->loaded = true;
    if (keeper->loading == 0) capture(keeper);
    return KEEPER_DONE;
}

/* ---- jobs ------------------------------------------------------------------------------------ */

static enum keeper_outcome stage(struct keeper *keeper, const struct keeper_job *job,
                                 uint64_t sequence, enum training_move why) {
    replica_stage(keeper->options.replica, job->fragment);
    rebase(keeper, job->fragment, sequence, why);
    return KEEPER_DONE;
}

static enum keeper_outcome take_snapshotted(struct keeper *keeper, struct keeper_job *job) {
    keeper->snapshots[job->fragment].sequence = job->sequence;
    keeper->snapshots[job->fragment].trainer_steps = job->trainer_steps;
    buffer_deinit(&keeper->snapshots[job->fragment].optimizer);
    keeper->snapshots[job->fragment].optimizer = job->bytes;
    job->bytes = (struct buffer){0};
    return KEEPER_DONE;
}

enum keeper_outcome keeper_do(struct keeper *keeper, struct keeper_job *job) {
    job->error = (struct error){0};
    switch (job->kind) {
    case KEEPER_ENCODE: return do_encode(keeper, job);
    case KEEPER_APPLY: return do_apply(keeper, job);
    case KEEPER_REBASE: return stage(keeper, job, job->sequence, MOVE_MERGED);
    case KEEPER_ADVANCE: return stage(keeper, job, 0, MOVE_ADVANCED);
    case KEEPER_RESTORE: return do_restore(keeper, job);
    case KEEPER_ACCEPTED: return do_accepted(keeper, job);
    case KEEPER_SNAPSHOTTED: return take_snapshotted(keeper, job);
    case KEEPER_REBASED: return do_rebased(keeper, job);
    case KEEPER_CAPTURED: return do_captured(keeper, job);
    case KEEPER_LOAD: return do_load(keeper, job);
    }
    return KEEPER_DONE;
}

void keeper_job_deinit(struct keeper_job *job) {
    buffer_deinit(&job->bytes);
    buffer_deinit(&job->payload);
    training_capture_destroy(job->capture);
    *job = (struct keeper_job){0};
}

struct keeper *keeper_create(const struct keeper_options *options) {
    struct keeper *keeper = xcalloc(1, sizeof *keeper);
    keeper->options = *options;
    return keeper;
}

void keeper_destroy(struct keeper *keeper) {
    if (!keeper) return;
    for (uint32_t i = 0; i < FRAGMENTS_LIMIT; i++) buffer_deinit(&keeper->snapshots[i].optimizer);
    free(keeper);
}
