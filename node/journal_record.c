/* Rounds and checkpoints as bytes (node/journal_record.h). What is read comes from a disk: lengths
 * and digests are checked. */
#include "node/journal_record.h"

enum { ROUND_FORMAT = 1, CHECKPOINT_FORMAT = 1 };

static void blob_write_to(const struct journal_blob *blob, struct buffer *out) {
    buffer_u64(out, blob->size);
    buffer_append(out, blob->digest, DIGEST_SIZE);
}

static struct journal_blob blob_read_from(struct reader *reader) {
    struct journal_blob blob;
    blob.size = reader_u64(reader);
    reader_copy(reader, blob.digest, DIGEST_SIZE);
    return blob;
}

static void progress_write_to(const struct round_progress *progress, struct buffer *out) {
    buffer_u64(out, progress->steps);
    buffer_u64(out, progress->tokens);
    buffer_u64(out, progress->steps_in_flight);
    buffer_u64(out, progress->tokens_in_flight);
    buffer_u64(out, progress->round_steps);
    buffer_u8(out, progress->begun);
    buffer_f64(out, progress->loss_sum);
    buffer_u64(out, progress->loss_count);
    buffer_u64(out, progress->began);
    buffer_u64(out, progress->began_in_flight);
}

static struct round_progress progress_read_from(struct reader *reader) {
    struct round_progress progress;
    progress.steps = reader_u64(reader);
    progress.tokens = reader_u64(reader);
    progress.steps_in_flight = reader_u64(reader);
    progress.tokens_in_flight = reader_u64(reader);
    progress.round_steps = reader_u64(reader);
    progress.begun = reader_u8(reader) != 0;
    progress.loss_sum = reader_f64(reader);
    progress.loss_count = reader_u64(reader);
    progress.began = reader_u64(reader);
    progress.began_in_flight = reader_u64(reader);
    return progress;
}

void journal_round_encode(const struct journal_round *round, struct buffer *out) {
    buffer_u8(out, ROUND_FORMAT);
    buffer_u8(out, round->in_flight);
    buffer_u8(out, round->refused);
    buffer_u32(out, round->fragment);
    buffer_u64(out, round->sequence);
    buffer_u64(out, round->base_version);
    buffer_u64(out, round->trainer_steps);
    buffer_append(out, round->header, CONTRIBUTION_HEADER_SIZE);
    buffer_append(out, round->signature, SIGNATURE_SIZE);
    buffer_u64(out, round->payload_size);
    buffer_append(out, round->payload_digest, DIGEST_SIZE);
    blob_write_to(&round->feedback, out);
    blob_write_to(&round->snapshot, out);
    blob_write_to(&round->optimizer, out);
    buffer_u32(out, round->accepted.epoch);
    buffer_u64(out, round->accepted.size);
    buffer_append(out, round->accepted.root, DIGEST_SIZE);
}

enum status journal_round_decode(struct bytes raw, struct journal_round *out, struct error *error) {
    struct reader reader = reader_of(raw);
    struct journal_round round = {0};
    uint8_t format = reader_u8(&reader), in_flight = reader_u8(&reader),
            refused = reader_u8(&reader);
    round.in_flight = in_flight == 1;
    round.refused = refused == 1;
    round.fragment = reader_u32(&reader);
    round.sequence = reader_u64(&reader);
    round.base_version = reader_u64(&reader);
    round.trainer_steps = reader_u64(&reader);
    reader_copy(&reader, round.header, CONTRIBUTION_HEADER_SIZE);
    reader_copy(&reader, round.signature, SIGNATURE_SIZE);
    round.payload_size = reader_u64(&reader);
    reader_copy(&reader, round.payload_digest, DIGEST_SIZE);
    round.feedback = blob_read_from(&reader);
    round.snapshot = blob_read_from(&reader);
    round.optimizer = blob_read_from(&reader);
    round.accepted.epoch = reader_u32(&reader);
    round.accepted.size = reader_u64(&reader);
    reader_copy(&reader, round.accepted.root, DIGEST_SIZE);
    if (reader_finish(&reader, "the record of a round", error) != OK)
        return error_wrap(error, CORRUPT, "journal");
    if (format != ROUND_FORMAT || in_flight > 1 || refused > 1 || round.fragment >= FRAGMENTS_LIMIT)
        return error_set(error, CORRUPT, "journal: the record of a round has a wrong format (%u)",
                         format);
    *out = round;
    return OK;
}

void journal_checkpoint_encode(const struct journal_checkpoint *checkpoint, struct buffer *out) {
    buffer_u8(out, CHECKPOINT_FORMAT);
    buffer_u64(out, checkpoint->version);
    buffer_append(out, checkpoint->root, DIGEST_SIZE);
    buffer_u64(out, checkpoint->trainer_steps);
    buffer_u64(out, checkpoint->payloads_from);
    buffer_u32(out, checkpoint->fragments);
    for (uint32_t i = 0; i < checkpoint->fragments; i++) {
        buffer_u64(out, checkpoint->fragment[i].base_version);
        buffer_u64(out, checkpoint->fragment[i].in_flight);
        buffer_u64(out, checkpoint->fragment[i].over);
        buffer_u8(out, checkpoint->fragment[i].baseless);
        progress_write_to(&checkpoint->fragment[i].progress, out);
    }
    blob_write_to(&checkpoint->global, out);
    blob_write_to(&checkpoint->trainer, out);
    blob_write_to(&checkpoint->base, out);
    blob_write_to(&checkpoint->snapshot, out);
}

enum status journal_checkpoint_decode(struct bytes raw, struct journal_checkpoint *out,
                                      struct error *error) {
    struct reader reader = reader_of(raw);
    struct journal_checkpoint checkpoint = {0};
    bool are_flags = true;
    uint8_t format = reader_u8(&reader);
    checkpoint.version = reader_u64(&reader);
    reader_copy(&reader, checkpoint.root, DIGEST_SIZE);
    checkpoint.trainer_steps = reader_u64(&reader);
    checkpoint.payloads_from = reader_u64(&reader);
    checkpoint.fragments = reader_u32(&reader);
    if (format != CHECKPOINT_FORMAT || checkpoint.fragments > FRAGMENTS_LIMIT)
        return error_set(error, CORRUPT, "journal: the checkpoint's record has a wrong format (%u)",
                         format);
    for (uint32_t i = 0; i < checkpoint.fragments; i++) {
        checkpoint.fragment[i].base_version = reader_u64(&reader);
        checkpoint.fragment[i].in_flight = reader_u64(&reader);
        checkpoint.fragment[i].over = reader_u64(&reader);
        uint8_t baseless = reader_u8(&reader);
        are_flags &= baseless <= 1;
        checkpoint.fragment[i].baseless = baseless == 1;
        checkpoint.fragment[i].progress = progress_read_from(&reader);
    }
    checkpoint.global = blob_read_from(&reader);
    checkpoint.trainer = blob_read_from(&reader);
    checkpoint.base = blob_read_from(&reader);
    checkpoint.snapshot = blob_read_from(&reader);
    if (reader_finish(&reader, "the checkpoint's record", error) != OK)
        return error_wrap(error, CORRUPT, "journal");
    if (!are_flags) return error_set(error, CORRUPT, "journal: a flag of the checkpoint's record");
    *out = checkpoint;
    return OK;
}
