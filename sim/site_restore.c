/* From a site's disk to a site that goes on where it was: the table in node/restore.h, for the simulated records. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "codec/codec.h"
#include "sim/site_internal.h"

struct piece {
    uint64_t start, count;
    size_t size;
};

static struct piece piece_of(const struct site *site, uint32_t fragment) {
    struct piece piece;
    fragment_range(site->replica.parameters, site->replica.fragments, fragment, &piece.start, &piece.count);
    piece.size = (size_t)piece.count * sizeof(float);
    return piece;
}

static const float *floats_of(const struct buffer *buffer, struct piece piece) {
    return (const float *)(const void *)buffer->data + piece.start;
}

static enum status load_global(struct site *site, struct error *error) {
    const struct checkpoint *checkpoint = &site->checkpoint;
    struct model_state *global = &site->replica.global;
    if (!checkpoint->exists) {
        memcpy(global->theta, site->setup.initial, (size_t)site->replica.parameters * sizeof(float));
        return OK;
    }
    struct snapshot_header header = {.version = checkpoint->version, .content_size = checkpoint->global.size};
    memcpy(header.root, checkpoint->root, DIGEST_SIZE);
    digest_sha256(checkpoint->global.data, checkpoint->global.size, header.content_digest);
    return snapshot_read(global, &header, buffer_bytes(&checkpoint->global), error);
}

/* Steps beyond the checkpoint. The ledger's copy may also be behind it, where a snapshot of the run was loaded. */
static enum status replay(struct site *site, struct error *error) {
    struct ledger_source source = disk_source(&site->disk);
    struct model_state *global = &site->replica.global;
    struct replay_options options = {.trusted = true, .until = UINT64_MAX, .tensors_from = global->version};
    struct replay_report report = {0};
    uint64_t entries = run_state_size(node_state_run(site->state));
    if (entries == 0) return OK;
    options.until = entries;
    bool behind = run_state_version(node_state_run(site->state)) < global->version;
    struct run_state *run = run_state_create();
    enum status status = replay_run(&source, &options, run, behind ? NULL : global, &report, error);
    run_state_destroy(run);
    if (status != OK) return status;
    uint8_t root[DIGEST_SIZE];
    state_root(global->theta, global->parameters, root);
    check_root(site->setup.check, site->name, global->version, root);
    return OK;
}

uint64_t site_entries_to_go_by(struct site *site) {
    struct ledger_source source = disk_source(&site->disk);
    struct replay_report report = {0};
    struct model_state probe = {0};
    struct run_state *control = run_state_create(), *run = run_state_create();
    const struct scenario *scenario = site->setup.scenario;
    uint64_t entries = site->disk.entry_count, from = site->checkpoint.exists ? site->checkpoint.version : 0;
    struct replay_options options = {.trusted = true, .until = UINT64_MAX};
    if (replay_run(&source, &options, control, NULL, NULL, NULL) == OK && run_state_version(control) >= from &&
        model_state_init(&probe, &scenario->manifest, scenario->parameters, NULL) == OK) {
        struct snapshot_header header = {.version = from, .content_size = site->checkpoint.global.size};
        bool ready = true;
        memcpy(probe.theta, site->setup.initial, (size_t)scenario->parameters * sizeof(float));
        if (site->checkpoint.exists) {
            memcpy(header.root, site->checkpoint.root, DIGEST_SIZE);
            digest_sha256(site->checkpoint.global.data, site->checkpoint.global.size, header.content_digest);
            ready = snapshot_read(&probe, &header, buffer_bytes(&site->checkpoint.global), NULL) == OK;
        }
        options.tensors_from = from;
        if (ready && replay_run(&source, &options, run, &probe, &report, NULL) != OK && report.lost_payload)
            entries = run_state_size(run);
    }
    model_state_deinit(&probe);
    run_state_destroy(control);
    run_state_destroy(run);
    return entries;
}

static enum status restore_in_flight(struct site *site, const struct round *round, uint32_t fragment, struct piece piece,
                                     struct error *error) {
    struct replica *replica = &site->replica;
    const struct capture *capture = &site->checkpoint.trainer;
    replica->base_version[fragment] = round->base_version;
    if (site->checkpoint.exists && capture->fragment[fragment].in_flight == round->sequence && capture->snapshot.size > 0) {
        memcpy(replica->base + piece.start, floats_of(&capture->base, piece), piece.size);
        memcpy(replica->snapshot + piece.start, floats_of(&capture->snapshot, piece), piece.size);
        return OK;
    }
    memcpy(replica->snapshot + piece.start, round->snapshot.data, piece.size);
    memcpy(site->local + piece.start, round->snapshot.data, piece.size);
    if (replica->feedback) return OK;
    struct bytes payload;
    float *base = replica->base + piece.start;
    if (site_payload(site, round->payload_digest, &payload, error) != OK) { /* if the message is refused, its mass is lost */
        memcpy(base, replica->snapshot + piece.start, piece.size);
        return OK;
    }
    TRY(codec_decode(replica->codec, payload, (size_t)piece.count, base, error));
    for (uint64_t i = 0; i < piece.count; i++) base[i] = replica->snapshot[piece.start + i] + base[i];
    return OK;
}

/* The counts of what comes back, as node/restore.c has it. */
static struct round_progress progress_of(const struct site *site, uint32_t fragment) {
    const struct round *round = &site->rounds[fragment];
    const struct fragment_marks *kept = site->checkpoint.exists ? &site->checkpoint.trainer.fragment[fragment] : NULL;
    uint64_t last = round->exists ? round->sequence : 0;
    struct contribution sent = {0};
    struct round_progress progress = {0};
    if (round->exists) (void)!contribution_decode(bytes_of(round->header, CONTRIBUTION_HEADER_SIZE), &sent, NULL);
    uint64_t sent_tokens = sent.tokens * site->replica.fragments;
    if (kept && !round->in_flight && kept->over == last) {
        progress = kept->progress;
        round_progress_over(&progress, true);
    } else if (kept && kept->in_flight == last && site->checkpoint.trainer.snapshot.size > 0) {
        progress = kept->progress;
        if (!round->in_flight) round_progress_over(&progress, round->refused);
    } else if (round->in_flight) {
        progress = (struct round_progress){.begun = true, .steps_in_flight = sent.inner_steps, .tokens_in_flight = sent_tokens};
    } else if (round->exists && round->refused && site->replica.feedback) {
        progress = (struct round_progress){.steps = sent.inner_steps, .tokens = sent_tokens};
    }
    return progress;
}

/* Steps in the vectors that were just restored: as those were, not as anything was counted. */
static struct trained trained_of(const struct site *site, uint32_t fragment, const float *idle_from) {
    const struct round *round = &site->rounds[fragment];
    const struct capture *capture = &site->checkpoint.trainer;
    const struct trained *kept = &capture->fragment[fragment].trained;
    struct trained trained = {.sent = round->steps_sent, .feedback = round->steps_in_feedback};
    if (round->in_flight) {
        bool of_checkpoint =
            site->checkpoint.exists && capture->fragment[fragment].in_flight == round->sequence && capture->snapshot.size > 0;
        trained.snapshot = of_checkpoint ? kept->snapshot : round->steps_in_snapshot;
        trained.local = of_checkpoint ? kept->local : round->steps_in_snapshot;
        trained.round = of_checkpoint ? kept->round : 0;
    } else if (idle_from) {
        bool sent = capture->snapshot.size > 0 &&
                    idle_from == (const float *)(const void *)capture->snapshot.data + piece_of(site, fragment).start;
        trained.local = sent ? kept->local - kept->snapshot : kept->local;
        trained.round = kept->round;
    }
    return trained;
}

/* What of the checkpoint's theta_local no message has carried: local - *from. NULL: nothing. */
static const float *uncarried_from(const struct site *site, uint32_t fragment, struct piece piece) {
    const struct round *round = &site->rounds[fragment];
    const struct capture *capture = &site->checkpoint.trainer;
    uint64_t over = round->exists ? round->sequence : 0;
    if (!site->checkpoint.exists) return NULL;
    if (capture->fragment[fragment].over == over) return floats_of(&capture->base, piece);
    if (capture->fragment[fragment].in_flight != over || capture->snapshot.size == 0) return NULL;
    bool kept = round->refused && !site->replica.feedback;
    return floats_of(kept ? &capture->base : &capture->snapshot, piece);
}

static void restore_idle(struct site *site, uint32_t fragment, struct piece piece) {
    const float *global = site->replica.global.theta + piece.start, *from = uncarried_from(site, fragment, piece);
    float *local = site->local + piece.start;
    if (!from) {
        memcpy(local, global, piece.size);
    } else if (memcmp(from, global, piece.size) != 0) {
        for (uint64_t i = 0; i < piece.count; i++) local[i] = global[i] + (local[i] - from[i]);
    }
}

static enum status restore_fragment(struct site *site, uint32_t fragment, struct node_spooled *spooled, size_t *count,
                                    struct error *error) {
    struct piece piece = piece_of(site, fragment);
    const struct round *round = &site->rounds[fragment];
    const float *idle_from = round->in_flight ? NULL : uncarried_from(site, fragment, piece);
    site->marks[fragment].progress = progress_of(site, fragment);
    site->marks[fragment].trained = trained_of(site, fragment, idle_from);
    if (site->replica.feedback && round->feedback.size == piece.size)
        memcpy(site->replica.feedback + piece.start, round->feedback.data, piece.size);
    if (!round->in_flight) {
        site->marks[fragment].over = round->exists ? round->sequence : 0;
        restore_idle(site, fragment, piece);
        return OK;
    }
    site->marks[fragment].in_flight = round->sequence;
    struct node_spooled *out = &spooled[(*count)++];
    out->fragment = fragment;
    out->sequence = round->sequence;
    memcpy(out->header, round->header, CONTRIBUTION_HEADER_SIZE);
    memcpy(out->signature, round->signature, SIGNATURE_SIZE);
    out->accepted = round->accepted;
    return restore_in_flight(site, round, fragment, piece, error);
}

enum status site_restore(struct site *site, struct node_spooled *spooled, size_t *count, struct error *error) {
    *count = 0;
    if (site->damaged != DAMAGE_NONE) return error_set(error, CORRUPT, "a record of the journal is damaged");
    TRY(load_global(site, error));
    TRY(replay(site, error));
    replica_begin(&site->replica, site->local);
    if (site->checkpoint.exists) {
        memcpy(site->local, site->checkpoint.trainer.local.data, site->checkpoint.trainer.local.size);
        site->trainer_steps = site->checkpoint.trainer.trainer_steps;
    }
    for (uint32_t f = 0; f < site->replica.fragments; f++) TRY(restore_fragment(site, f, spooled, count, error));
    return OK;
}
