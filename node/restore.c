/* The replica, then fragment by fragment what the records and the checkpoint say: the table in
 * node/restore.h. */
#include "node/restore.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "kernels/elementwise.h"

/* ---- the replica ----------------------------------------------------------------------------- */

static enum status load_global(const struct restore_input *input, struct error *error) {
    const struct journal_checkpoint *checkpoint = journal_checkpoint(input->journal);
    struct model_state *global = &input->replica->global;
    if (!checkpoint) return input->port.initialise(input->port.context, global->theta, error);
    struct buffer content = {0};
    struct snapshot_header header = {.version = checkpoint->version,
                                     .content_size = checkpoint->global.size};
    memcpy(header.root, checkpoint->root, DIGEST_SIZE);
    memcpy(header.content_digest, checkpoint->global.digest, DIGEST_SIZE);
    enum status status = journal_blob_read(input->journal, &checkpoint->global, &content, error);
    if (status == OK) status = snapshot_read(global, &header, buffer_bytes(&content), error);
    buffer_deinit(&content);
    return status == OK ? OK : error_wrap(error, status, "the checkpoint's replica");
}

/* The version that the stored entries reach. */
static enum status stored_version(const struct ledger_source *source, uint64_t *out,
                                  struct error *error) {
    struct replay_options options = {.trusted = true, .until = UINT64_MAX};
    struct replay_report report = {0};
    struct run_state *run = run_state_create();
    enum status status = replay_run(source, &options, run, NULL, &report, error);
    run_state_destroy(run);
    *out = report.version;
    return status;
}

/* ---- bases of messages in flight ------------------------------------------------------------- */

struct restore_range { /* of a vector */
    uint64_t start, count;
    size_t size;
};

static struct restore_range piece_of(const struct restore_input *input, uint32_t fragment) {
    struct restore_range piece;
    fragment_range(input->replica->parameters, input->replica->fragments, fragment, &piece.start,
                   &piece.count);
    piece.size = (size_t)piece.count * sizeof(float);
    return piece;
}

/* The parameters of each fragment at the version from which its message in flight starts, taken
 * when the replay goes by it. Empty: it does not, or nobody needs them. */
struct bases {
    const struct restore_input *input;
    struct buffer fragment[FRAGMENTS_LIMIT];
};

static void take_bases(struct bases *bases) {
    const struct model_state *global = &bases->input->replica->global;
    for (uint32_t i = 0; i < bases->input->replica->fragments; i++) {
        const struct journal_round *round = journal_round(bases->input->journal, i);
        if (!round || !round->in_flight || round->base_version != global->version) continue;
        struct restore_range piece = piece_of(bases->input, i);
        bases->fragment[i].size = 0;
        buffer_append(&bases->fragment[i], global->theta + piece.start, piece.size);
    }
}

static void on_replayed(void *context, uint64_t index, const struct ledger_entry *entry) {
    (void)index;
    if (entry->kind == LEDGER_STEP) take_bases(context);
}

static void bases_deinit(struct bases *bases) {
    for (uint32_t i = 0; i < FRAGMENTS_LIMIT; i++) buffer_deinit(&bases->fragment[i]);
}

/* ---- replay ---------------------------------------------------------------------------------- */

/* The steps beyond the checkpoint. After a snapshot of the run was loaded the stored ledger may
 * still be on its way to it: then there are none, and the entries that come are control only until
 * they have reached the replica. */
static enum status replay(const struct restore_input *input, struct bases *bases,
                          struct restored *out, struct error *error) {
    struct ledger_source source = journal_source(input->journal);
    struct replay_options options = {.trusted = true,
                                     .until = UINT64_MAX,
                                     .tensors_from = input->replica->global.version,
                                     .progress = on_replayed,
                                     .context = bases};
    uint64_t version = 0;
    take_bases(bases);
    out->entries = journal_size(input->journal);
    if (journal_size(input->journal) == 0) return OK;
    enum status status = stored_version(&source, &version, error);
    if (status == OK && version >= options.tensors_from) {
        struct run_state *run = run_state_create();
        struct replay_report report = {0};
        status = replay_run(&source, &options, run, &input->replica->global, &report, error);
        if (status != OK && report.lost_payload) { /* it is fetched again once there is a link;
                                                      until then the replica stands here */
            input->port.payload_lost(input->port.context, report.failed_entry, error);
            out->entries = run_state_size(run);
            status = OK;
        }
        run_state_destroy(run);
        out->replayed = input->replica->global.version - options.tensors_from;
    }
    return status == OK ? OK : error_wrap(error, status, "replay of the stored ledger");
}

/* ---- a fragment ------------------------------------------------------------------------------ */

struct restoring {
    const struct restore_input *input;
    const struct journal_checkpoint *checkpoint; /* NULL: none */
    struct buffer base, snapshot;                /* of the checkpoint */
    struct bases bases;                          /* that the replay went by */
    float *local;                                /* theta_local: at first the checkpoint's */
};

static const float *floats_of(const struct buffer *buffer, struct restore_range piece) {
    return (const float *)(const void *)buffer->data + piece.start;
}

/* A blob that holds one fragment's vector, into its place. */
static enum status read_vector(struct restoring *r, const struct journal_blob *blob,
                               struct restore_range piece, float *vector, const char *what,
                               struct error *error) {
    struct buffer content = {0};
    enum status status = journal_blob_read(r->input->journal, blob, &content, error);
    if (status == OK && content.size != piece.size)
        status = error_set(error, CORRUPT, "%zu bytes, not %zu", content.size, piece.size);
    if (status == OK) memcpy(vector + piece.start, content.data, piece.size);
    buffer_deinit(&content);
    return status == OK ? OK : error_wrap(error, status, "the round's %s", what);
}

/* base = theta_s + decode(message), where neither checkpoint nor replay has the base. */
static enum status rebuild_base(struct restoring *r, const struct journal_round *round,
                                struct restore_range piece, struct node_spooled *spooled,
                                struct error *error) {
    struct replica *replica = r->input->replica;
    spooled->baseless = replica->feedback != NULL;
    if (spooled->baseless) return OK;
    struct buffer payload = {0};
    float *base = replica->base + piece.start;
    const float *snapshot = replica->snapshot + piece.start;
    struct contribution sent;
    TRY(contribution_decode(bytes_of(round->header, sizeof round->header), &sent, error));
    enum status status = journal_payload_read(r->input->journal, round->payload_digest,
                                              (size_t)round->payload_size, &payload, error);
    if (status == OK)
        status = codec_decode((enum codec)sent.codec, buffer_bytes(&payload), (size_t)piece.count,
                              base, error);
    if (status == OK) elementwise_add(base, base, snapshot, (size_t)piece.count);
    if (status == CORRUPT ||
        status == NOT_FOUND) { /* for good: if the message is refused, its mass is lost */
        r->input->port.message_lost(r->input->port.context, round, error);
        memcpy(base, snapshot, piece.size);
        spooled->baseless = true;
        status = OK;
    }
    buffer_deinit(&payload);
    return status;
}

/* The base of the record's version, from where it is found. */
static enum status find_base(struct restoring *r, const struct journal_round *round,
                             struct restore_range piece, struct node_spooled *spooled,
                             struct error *error) {
    uint32_t fragment = round->fragment;
    float *base = r->input->replica->base + piece.start;
    const struct buffer *replayed = &r->bases.fragment[fragment];
    if (r->checkpoint && !r->checkpoint->fragment[fragment].baseless &&
        r->checkpoint->fragment[fragment].base_version == round->base_version) {
        memcpy(base, floats_of(&r->base, piece), piece.size);
        return OK;
    }
    if (replayed->size != piece.size) return rebuild_base(r, round, piece, spooled, error);
    memcpy(base, replayed->data, piece.size);
    return OK;
}

static enum status restore_in_flight(struct restoring *r, const struct journal_round *round,
                                     struct restore_range piece, struct node_spooled *spooled,
                                     struct error *error) {
    struct replica *replica = r->input->replica;
    uint32_t fragment = round->fragment;
    bool kept = r->checkpoint && r->checkpoint->fragment[fragment].in_flight == round->sequence &&
                r->snapshot.size > 0;
    spooled->base_version =
        kept ? r->checkpoint->fragment[fragment].base_version : round->base_version;
    replica->base_version[fragment] = spooled->base_version;
    if (kept) {
        spooled->baseless = r->checkpoint->fragment[fragment].baseless;
        memcpy(replica->base + piece.start, floats_of(&r->base, piece), piece.size);
        memcpy(replica->snapshot + piece.start, floats_of(&r->snapshot, piece), piece.size);
        return OK;
    }
    TRY(read_vector(r, &round->snapshot, piece, replica->snapshot, "theta_s", error));
    memcpy(r->local + piece.start, replica->snapshot + piece.start, piece.size);
    return find_base(r, round, piece, spooled, error);
}

/* The counts of what restore_in_flight and restore_idle bring back. */
static struct round_progress progress_of(const struct restoring *r, uint32_t fragment) {
    const struct journal_round *round = journal_round(r->input->journal, fragment);
    uint64_t last = round ? round->sequence : 0;
    bool in_flight = round && round->in_flight;
    struct contribution sent = {0};
    struct round_progress progress = {0};
    if (round)
        (void)!contribution_decode(bytes_of(round->header, CONTRIBUTION_HEADER_SIZE), &sent, NULL);
    uint64_t sent_tokens = sent.tokens * r->input->replica->fragments;
    if (r->checkpoint && !in_flight && r->checkpoint->fragment[fragment].over == last) {
        progress = r->checkpoint->fragment[fragment].progress;
        round_progress_over(
            &progress,
            true); /* in flight only where a delta could not be encoded: it is in theta_local */
    } else if (r->checkpoint && r->checkpoint->fragment[fragment].in_flight == last &&
               r->snapshot.size > 0) {
        progress = r->checkpoint->fragment[fragment].progress;
        if (!in_flight) round_progress_over(&progress, round->refused);
    } else if (in_flight) { /* theta_local is theta_s */
        progress = (struct round_progress){.begun = true,
                                           .steps_in_flight = sent.inner_steps,
                                           .tokens_in_flight = sent_tokens,
                                           .began_in_flight = sent.began_version};
    } else if (round && round->refused && r->input->replica->feedback) {
        progress = (struct round_progress){
            .steps = sent.inner_steps, .tokens = sent_tokens, .began = sent.began_version};
    }
    return progress;
}

/* What of the checkpoint's theta_local no message has carried: local - *from. NULL: nothing. */
static const float *uncarried_from(struct restoring *r, uint32_t fragment,
                                   struct restore_range piece) {
    const struct journal_round *round = journal_round(r->input->journal, fragment);
    uint64_t over = round ? round->sequence : 0;
    if (!r->checkpoint) return NULL;
    if (r->checkpoint->fragment[fragment].over == over) return floats_of(&r->base, piece);
    if (r->checkpoint->fragment[fragment].in_flight != over || r->snapshot.size == 0) return NULL;
    bool kept = round->refused && !r->input->replica->feedback;
    return floats_of(kept ? &r->base : &r->snapshot, piece);
}

static void restore_idle(struct restoring *r, uint32_t fragment, struct restore_range piece) {
    const float *global = r->input->replica->global.theta + piece.start;
    const float *from = uncarried_from(r, fragment, piece);
    float *local = r->local + piece.start;
    if (!from) {
        memcpy(local, global, piece.size);
    } else if (memcmp(from, global, piece.size) != 0) {
        elementwise_rebase(local, global, from, (size_t)piece.count);
    } /* else it is where it was, bit for bit */
}

static enum status restore_fragment(struct restoring *r, uint32_t fragment, struct restored *out,
                                    struct error *error) {
    struct restore_range piece = piece_of(r->input, fragment);
    struct replica *replica = r->input->replica;
    const struct journal_round *round = journal_round(r->input->journal, fragment);
    out->fragment[fragment].progress = progress_of(r, fragment);
    out->fragment[fragment].at = round ? round->trainer_steps : 0;
    out->fragment[fragment].kept = round && round->refused && !replica->feedback;
    if (round && round->feedback.size > 0 && replica->feedback)
        TRY(read_vector(r, &round->feedback, piece, replica->feedback, "error feedback", error));
    if (!round || !round->in_flight) {
        out->fragment[fragment].over = round ? round->sequence : 0;
        restore_idle(r, fragment, piece);
        return OK;
    }
    out->fragment[fragment].in_flight = round->sequence;
    struct node_spooled *spooled = &out->spooled[out->spooled_count++];
    spooled->fragment = fragment;
    spooled->sequence = round->sequence;
    memcpy(spooled->header, round->header, CONTRIBUTION_HEADER_SIZE);
    memcpy(spooled->signature, round->signature, SIGNATURE_SIZE);
    spooled->accepted =
        (struct ledger_head){.epoch = round->accepted.epoch, .size = round->accepted.size};
    memcpy(spooled->accepted.root, round->accepted.root, DIGEST_SIZE);
    TRY(restore_in_flight(r, round, piece, spooled, error));
    out->fragment[fragment].baseless = spooled->baseless;
    return OK;
}

/* ---- the trainer ----------------------------------------------------------------------------- */

static enum status load_trainer(struct restoring *r, struct error *error) {
    const struct restore_input *input = r->input;
    replica_begin(input->replica, r->local);
    if (!r->checkpoint) return OK;
    struct buffer state = {0};
    size_t size = (size_t)input->replica->parameters * sizeof(float);
    enum status status = journal_blob_read(input->journal, &r->checkpoint->trainer, &state, error);
    if (status == OK) status = input->port.load(input->port.context, buffer_bytes(&state), error);
    if (status == OK)
        status = journal_blob_read(input->journal, &r->checkpoint->base, &r->base, error);
    if (status == OK && r->checkpoint->snapshot.size > 0)
        status = journal_blob_read(input->journal, &r->checkpoint->snapshot, &r->snapshot, error);
    if (status == OK &&
        (r->base.size != size || (r->snapshot.size != 0 && r->snapshot.size != size)))
        status = error_set(error, CORRUPT, "its vectors have another size than the model");
    buffer_deinit(&state);
    return status == OK ? OK : error_wrap(error, status, "the checkpoint's trainer");
}

/* Optimizer and data position of the youngest round, where they are younger than the checkpoint's.
 */
static enum status load_optimizer(struct restoring *r, struct error *error) {
    const struct journal_round *youngest = NULL;
    for (uint32_t i = 0; i < r->input->replica->fragments; i++) {
        const struct journal_round *round = journal_round(r->input->journal, i);
        if (!round || round->optimizer.size == 0) continue;
        if (!youngest || round->trainer_steps > youngest->trainer_steps) youngest = round;
    }
    if (!youngest || (r->checkpoint && youngest->trainer_steps <= r->checkpoint->trainer_steps))
        return OK;
    struct buffer state = {0};
    enum status status = journal_blob_read(r->input->journal, &youngest->optimizer, &state, error);
    if (status == OK)
        status = r->input->port.load(r->input->port.context, buffer_bytes(&state), error);
    buffer_deinit(&state);
    return status == OK ? OK : error_wrap(error, status, "the last round's optimizer");
}

static uint64_t last_sequence(const struct restore_input *input) {
    const struct journal_checkpoint *checkpoint = journal_checkpoint(input->journal);
    uint64_t last = 0;
    for (uint32_t i = 0; i < input->replica->fragments; i++) {
        const struct journal_round *round = journal_round(input->journal, i);
        if (round) last = MAX(last, round->sequence);
        if (checkpoint) last = MAX(last, checkpoint->fragment[i].in_flight);
    }
    return last;
}

enum status restore_site(const struct restore_input *input, struct restored *out,
                         struct error *error) {
    struct error unseen = {0};
    if (!error) error = &unseen; /* the port is told why */
    *out = (struct restored){.from_checkpoint = journal_checkpoint(input->journal) != NULL};
    if (out->from_checkpoint)
        out->payloads_from = journal_checkpoint(input->journal)->payloads_from;
    out->last_sequence = last_sequence(input);
    TRY(load_global(input, error));
    struct restoring r = {.input = input,
                          .checkpoint = journal_checkpoint(input->journal),
                          .bases = {.input = input}};
    enum status status = replay(input, &r.bases, out, error);
    if (status != OK || !input->port.local) goto out;
    r.local = input->port.local(input->port.context);
    status = load_trainer(&r, error);
    for (uint32_t i = 0; status == OK && i < input->replica->fragments; i++)
        status = restore_fragment(&r, i, out, error);
    if (status == OK) status = load_optimizer(&r, error);
out:
    bases_deinit(&r.bases);
    buffer_deinit(&r.base);
    buffer_deinit(&r.snapshot);
    return status;
}
