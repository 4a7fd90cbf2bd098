/* The simulated journal: the records of node/journal.c without its files. */
#include "sim/journal.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "node/claims.h"

struct journal { /* in memory */
    struct disk *disk;
    struct journal_records *records;
    struct claims *claims;
};

/* ---- on disk --------------------------------------------------------------------------------- */

void journal_records_init(struct journal_records *records, struct world *world, uint32_t process) {
    *records = (struct journal_records){0};
    disk_init(&records->state, world, process);
}

void journal_records_deinit(struct journal_records *records) {
    struct world *world = records->state.world;
    uint32_t process = records->state.process;
    disk_deinit(&records->state);
    journal_records_init(records, world, process);
}

void journal_records_copy(struct journal_records *to, const struct journal_records *from) {
    struct disk state = to->state;
    *to = *from;
    to->state = state;
    disk_copy(&to->state, &from->state);
}

static enum status failed(struct error *error, enum status status) {
    return status == OK ? OK : error_set(error, status, "the disk: %s", status_name(status));
}

/* Deletes what no record names. */
static void collect(struct journal_records *records) {
    for (size_t i = records->state.blob_count; i-- > 0;) {
        uint8_t digest[DIGEST_SIZE];
        memcpy(digest, records->state.blobs[i].digest, DIGEST_SIZE);
        if (!journal_set_names(&records->set, digest)) disk_blob_delete(&records->state, digest);
    }
}

/* ---- claims to payloads ---------------------------------------------------------------------- */

static bool is_in_flight(void *context, const uint8_t *digest) {
    const struct journal *journal = context;
    return journal_set_is_in_flight(&journal->records->set, digest);
}

static enum status remove_payload(void *context, const uint8_t *digest, struct error *error) {
    struct journal *journal = context;
    (void)error;
    disk_blob_delete(journal->disk, digest);
    return OK;
}

static enum status learn_claims(struct journal *journal, struct error *error) {
    const struct journal_checkpoint *checkpoint = journal_checkpoint(journal);
    struct ledger_source source = disk_source(journal->disk);
    return claims_learn(journal->claims, &source, journal->disk->entry_count,
                        checkpoint ? checkpoint->version : 0, error);
}

static void sweep_payloads(struct journal *journal) {
    struct claims_list claimed = claims_list(journal->claims);
    for (size_t i = journal->disk->blob_count; i-- > 0;) {
        uint8_t digest[DIGEST_SIZE];
        memcpy(digest, journal->disk->blobs[i].digest, DIGEST_SIZE);
        if (!claims_list_has(journal->claims, &claimed, digest))
            disk_blob_delete(journal->disk, digest);
    }
    free(claimed.digests);
}

enum status journal_open_simulated(struct disk *disk, struct journal_records *records,
                                   struct journal **out, struct error *error) {
    if (records->damaged != DAMAGE_NONE)
        return error_set(error, CORRUPT, "a record of the journal is damaged");
    struct journal *journal = xcalloc(1, sizeof *journal);
    journal->disk = disk;
    journal->records = records;
    journal->claims = claims_create(&(struct claims_owner){
        .context = journal, .is_in_flight = is_in_flight, .remove = remove_payload});
    enum status status = learn_claims(journal, error);
    if (status != OK) {
        journal_close(journal);
        return status;
    }
    collect(records);
    sweep_payloads(journal);
    *out = journal;
    return OK;
}

void journal_close(struct journal *journal) {
    if (!journal) return;
    claims_destroy(journal->claims);
    free(journal);
}

void journal_resume(struct journal *journal) { (void)journal; }

/* ---- the ledger's copy ----------------------------------------------------------------------- */

uint64_t journal_size(const struct journal *journal) { return journal->disk->entry_count; }

enum status journal_append(struct journal *journal, const struct bytes *entries, size_t count,
                           struct error *error) {
    struct buffer raw = {0};
    uint64_t first = journal_size(journal);
    for (size_t i = 0; i < count; i++) {
        buffer_u32(&raw, (uint32_t)entries[i].size);
        buffer_append(&raw, entries[i].data, entries[i].size);
    }
    enum status status = failed(error, disk_append(journal->disk, buffer_bytes(&raw)));
    buffer_deinit(&raw);
    return status == OK ? claims_add(journal->claims, first, entries, count, error) : status;
}

struct ledger_source journal_source(struct journal *journal) {
    return disk_source(journal->disk);
}

enum status journal_sent(struct journal *journal, uint64_t sequence,
                         uint8_t header[static CONTRIBUTION_HEADER_SIZE],
                         uint8_t signature[static SIGNATURE_SIZE], struct error *error) {
    for (uint32_t i = 0; i < FRAGMENTS_LIMIT; i++) {
        const struct journal_round *round = journal_round(journal, i);
        if (!round || !round->in_flight || round->sequence != sequence) continue;
        memcpy(header, round->header, CONTRIBUTION_HEADER_SIZE);
        memcpy(signature, round->signature, SIGNATURE_SIZE);
        return OK;
    }
    return error_set(error, NOT_FOUND, "sequence %llu is not under way",
                     (unsigned long long)sequence);
}

enum status journal_payload_read(struct journal *journal, const uint8_t digest[static DIGEST_SIZE],
                                 size_t limit, struct buffer *out, struct error *error) {
    (void)limit;
    out->size = 0;
    return disk_blob_read(journal->disk, digest, out, error);
}

void journal_payload_hold(struct journal *journal, const uint8_t digest[static DIGEST_SIZE]) {
    claims_hold(journal->claims, digest);
}

void journal_payload_unhold(struct journal *journal, const uint8_t digest[static DIGEST_SIZE]) {
    claims_unhold(journal->claims, digest);
}

enum status journal_payload_drop(struct journal *journal, const uint8_t digest[static DIGEST_SIZE],
                                 struct error *error) {
    return claims_drop(journal->claims, digest, error);
}

/* ---- rounds ---------------------------------------------------------------------------------- */

const struct journal_round *journal_round(const struct journal *journal, uint32_t fragment) {
    return journal_set_round(&journal->records->set, fragment);
}

struct write { /* blobs that one sync makes durable */
    struct bytes contents[4];
    uint8_t digests[4][DIGEST_SIZE];
    size_t count;
};

static void add(struct write *write, struct bytes content, struct journal_blob *out) {
    *out = (struct journal_blob){.size = content.size};
    if (content.size == 0) return;
    digest_sha256(content.data, content.size, out->digest);
    write->contents[write->count] = content;
    memcpy(write->digests[write->count++], out->digest, DIGEST_SIZE);
}

static enum status sync_blobs(struct journal *journal, struct write *write, struct error *error) {
    if (write->count == 0) return OK;
    return failed(error, disk_blobs_write(&journal->records->state, write->contents, write->digests,
                                          write->count));
}

static enum status replace_round(struct journal *journal, const struct journal_round *round,
                                 struct error *error) {
    TRY(failed(error, disk_write(journal->disk)));
    journal_set_put_round(&journal->records->set, round);
    collect(journal->records);
    return OK;
}

enum status journal_round_begin(struct journal *journal, const struct journal_round *round,
                                const struct journal_round_contents *contents,
                                struct error *error) {
    struct journal_round taken = journal_set_begin(round);
    struct write write = {.count = 0};
    add(&write, contents->feedback, &taken.feedback);
    add(&write, contents->snapshot, &taken.snapshot);
    add(&write, contents->optimizer, &taken.optimizer);
    TRY(sync_blobs(journal, &write, error));
    TRY(failed(error, disk_blob_write(journal->disk, contents->payload, taken.payload_digest)));
    return replace_round(journal, &taken, error);
}

enum status journal_round_accept(struct journal *journal, uint32_t fragment, uint64_t sequence,
                                 const struct ledger_head *head, struct error *error) {
    struct journal_round round;
    if (!journal_set_accept(&journal->records->set, fragment, sequence, head, &round)) return OK;
    return replace_round(journal, &round, error);
}

enum status journal_round_end(struct journal *journal, uint32_t fragment, uint64_t base_version,
                              bool refused, struct bytes feedback, struct error *error) {
    struct journal_round round;
    struct write write = {.count = 0};
    if (!journal_set_end(&journal->records->set, fragment, base_version, refused, &round))
        return OK;
    if (feedback.size > 0) add(&write, feedback, &round.feedback);
    TRY(sync_blobs(journal, &write, error));
    TRY(replace_round(journal, &round, error));
    return journal_payload_drop(journal, round.payload_digest, error);
}

/* ---- checkpoints ----------------------------------------------------------------------------- */

const struct journal_checkpoint *journal_checkpoint(const struct journal *journal) {
    return journal_set_checkpoint(&journal->records->set);
}

enum status journal_checkpoint_write(struct journal *journal,
                                     const struct journal_checkpoint *checkpoint,
                                     const struct journal_checkpoint_contents *contents,
                                     struct error *error) {
    struct journal_checkpoint taken = *checkpoint;
    struct write write = {.count = 0};
    add(&write, contents->global, &taken.global);
    add(&write, contents->trainer, &taken.trainer);
    add(&write, contents->base, &taken.base);
    add(&write, contents->snapshot, &taken.snapshot);
    enum status status = sync_blobs(journal, &write, error);
    if (status == OK) status = failed(error, disk_write(journal->disk));
    if (status == OK) journal_set_put_checkpoint(&journal->records->set, &taken);
    collect(journal->records); /* the old one, or this one where there was no room */
    if (status != OK) return status;
    struct ledger_source source = journal_source(journal);
    return claims_prune(journal->claims, &source, journal_size(journal), taken.version, error);
}

enum status journal_blob_read(struct journal *journal, const struct journal_blob *blob,
                              struct buffer *out, struct error *error) {
    if (blob->size == 0) return error_set(error, INVALID, "the record names no such blob");
    out->size = 0;
    return disk_blob_read(&journal->records->state, blob->digest, out, error);
}
