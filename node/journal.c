/* The journal in a directory: records in LMDB, everything large in files named by what they hold.
 */
#include "node/journal.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "node/claims.h"
#include "node/journal_files.h"
#include "node/journal_record.h"
#include "node/journal_set.h"
#include "storage/store.h"

enum table { ENTRIES, ROUNDS, SENT, STATE };

struct journal {
    struct store *store;
    struct blob_store *payloads, *state;
    uint32_t fragments;
    atomic_uint_fast64_t size;
    struct journal_set records; /* as they are in the store */
    struct claims *claims;
};

static struct bytes text_key(const char *text) { return bytes_of(text, strlen(text)); }

static const char *const tables[] = {
    [ENTRIES] = "entries", [ROUNDS] = "rounds", [SENT] = "sent", [STATE] = "state"};
enum {
    UPLOADS_KEPT_MS =
        24 * 3600 * 1000 /* a snapshot of the run that was half fetched goes on where it stood */
};
static const char checkpoint_key[] = "checkpoint";

static const struct storage_digest sha256 = {sizeof(struct digest), digest_pieces, digest_init,
                                             digest_update, digest_final};

/* ---- which blobs of DIR/state are still named by a record ------------------------------------ */

/* Two records may name equal contents, so a blob goes only when none does. What a crash leaves
 * behind goes at the next start. */
static void release(struct journal *journal, const struct journal_blob *blob) {
    if (blob->size == 0 || journal_set_names(&journal->records, blob->digest)) return;
    struct error error = {0};
    enum status status = blob_delete(journal->state, blob->digest, &error);
    if (status != OK && status != NOT_FOUND)
        log_warn("journal_delete_failed", "message=\"%s\"", error.message);
}

static enum status sweep_state(void *context, const uint8_t *digest, uint64_t size,
                               struct error *error) {
    struct journal *journal = context;
    (void)size;
    if (journal_set_names(&journal->records, digest)) return OK;
    enum status status = blob_delete(journal->state, digest, error);
    return status == NOT_FOUND ? OK : status;
}

/* ---- claims to payloads ---------------------------------------------------------------------- */

static bool is_in_flight(void *context, const uint8_t *payload_digest) {
    const struct journal *journal = context;
    return journal_set_is_in_flight(&journal->records, payload_digest);
}

static enum status remove_payload(void *context, const uint8_t *digest, struct error *error) {
    struct journal *journal = context;
    enum status status = blob_delete(journal->payloads, digest, error);
    return status == NOT_FOUND ? OK : status;
}

struct sweep {
    struct journal *journal;
    struct claims_list claimed;
    uint64_t count, size;
};

static enum status sweep_payload(void *context, const uint8_t *digest, uint64_t size,
                                 struct error *error) {
    struct sweep *sweep = context;
    if (claims_list_has(sweep->journal->claims, &sweep->claimed, digest)) return OK;
    sweep->count++;
    sweep->size += size;
    return remove_payload(sweep->journal, digest, error);
}

/* Deletes every payload without a claim, whatever left it there. */
static enum status sweep_payloads(struct journal *journal, struct error *error) {
    struct sweep sweep = {.journal = journal, .claimed = claims_list(journal->claims)};
    enum status status = blob_each(journal->payloads, sweep_payload, &sweep, error);
    free(sweep.claimed.digests);
    if (sweep.count > 0)
        log_info("payloads_collected", "count=%llu bytes=%llu", (unsigned long long)sweep.count,
                 (unsigned long long)sweep.size);
    return status;
}

static enum status learn_claims(struct journal *journal, struct error *error) {
    const struct journal_checkpoint *checkpoint = journal_checkpoint(journal);
    struct ledger_source source = journal_source(journal);
    return claims_learn(journal->claims, &source, journal_size(journal),
                        checkpoint ? checkpoint->version : 0, error);
}

/* ---- opening --------------------------------------------------------------------------------- */

static enum status read_records(struct journal *journal, struct error *error) {
    struct buffer key = {0}, value = {0};
    uint64_t last = 0;
    enum status status = store_last(journal->store, ENTRIES, &key, NULL, error);
    if (status == OK) status = store_key_u64_read(buffer_bytes(&key), &last, error);
    if (status == OK) atomic_store(&journal->size, last + 1);
    if (status == NOT_FOUND) status = OK;

    struct store_scan *scan = store_scan_open(journal->store, ROUNDS, (struct bytes){0},
                                              (struct bytes){0}, STORE_ASCENDING);
    struct bytes scan_key, scan_value;
    while (status == OK && (status = store_scan_next(scan, &scan_key, &scan_value, error)) == OK) {
        struct journal_round round;
        status = journal_round_decode(scan_value, &round, error);
        if (status != OK) break;
        journal_set_put_round(&journal->records, &round);
    }
    store_scan_close(scan);
    if (status == NOT_FOUND) status = OK;

    if (status == OK)
        status = store_get(journal->store, STATE, text_key(checkpoint_key), &value, error);
    if (status == OK) {
        struct journal_checkpoint checkpoint;
        status = journal_checkpoint_decode(buffer_bytes(&value), &checkpoint, error);
        if (status == OK) journal_set_put_checkpoint(&journal->records, &checkpoint);
    }
    if (status == NOT_FOUND) status = OK;
    const struct journal_checkpoint *kept = journal_checkpoint(journal);
    if (status == OK && kept && kept->fragments != journal->fragments)
        status =
            error_set(error, INVALID, "the journal is of a run with %u fragments, this one has %u",
                      kept->fragments, journal->fragments);
    buffer_deinit(&key);
    buffer_deinit(&value);
    return status;
}

static void on_fatal(void *context, const struct error *error) {
    (void)context;
    log_error("journal_failed", "message=\"%s\"", error->message);
}

/* What crashes left behind, up to gigabytes: writes that were cut off, payloads that came half
 * (Follow sends them anew), blobs that no record names. Only a snapshot of the run that was being
 * fetched is worth keeping. Nobody else writes here. */
static enum status collect_orphans(struct journal *journal, struct error *error) {
    TRY(blob_upload_clean_named(journal->payloads, ".tmp-", NULL, error));
    TRY(blob_upload_clean_named(journal->payloads, "payload-", NULL, error));
    TRY(blob_upload_clean(journal->payloads, UPLOADS_KEPT_MS, NULL, error));
    TRY(blob_upload_clean(journal->state, 0, NULL, error));
    return blob_each(journal->state, sweep_state, journal, error);
}

static enum status open_with(const char *directory, uint32_t fragments, bool reading,
                             struct journal **out, struct error *error) {
    struct journal *journal = xcalloc(1, sizeof *journal);
    journal->fragments = fragments;
    journal->claims = claims_create(&(struct claims_owner){
        .context = journal, .is_in_flight = is_in_flight, .remove = remove_payload});
    char *store = file_join(directory, "journal"), *payloads = file_join(directory, "payloads"),
         *state = file_join(directory, "state");
    struct store_options options = {.directory = store,
                                    .tables = tables,
                                    .table_count = COUNT_OF(tables),
                                    .digest = &sha256,
                                    .read_only = reading,
                                    .on_fatal = on_fatal};
    enum status (*open_blobs)(const char *, const struct storage_digest *, struct blob_store **,
                              struct error *) = reading ? blob_store_open_reading : blob_store_open;
    enum status status = store_open(&options, &journal->store, error);
    if (status == OK) status = open_blobs(payloads, &sha256, &journal->payloads, error);
    if (status == OK) status = open_blobs(state, &sha256, &journal->state, error);
    if (status == OK) status = read_records(journal, error);
    if (status == OK && !reading) status = collect_orphans(journal, error);
    if (status == OK && !reading) status = learn_claims(journal, error);
    if (status == OK && !reading) status = sweep_payloads(journal, error);
    free(store);
    free(payloads);
    free(state);
    if (status == OK)
        *out = journal;
    else
        journal_close(journal);
    return status;
}

enum status journal_open(const char *directory, uint32_t fragments, struct journal **out,
                         struct error *error) {
    return open_with(directory, fragments, false, out, error);
}

enum status journal_open_reading(const char *directory, uint32_t fragments, struct journal **out,
                                 struct error *error) {
    return open_with(directory, fragments, true, out, error);
}

void journal_close(struct journal *journal) {
    if (!journal) return;
    store_close(journal->store);
    blob_store_close(journal->payloads);
    blob_store_close(journal->state);
    claims_destroy(journal->claims);
    free(journal);
}

void journal_resume(struct journal *journal) { store_resume(journal->store); }

/* ---- the ledger's copy ----------------------------------------------------------------------- */

uint64_t journal_size(const struct journal *journal) { return atomic_load(&journal->size); }

enum status journal_append(struct journal *journal, const struct bytes *entries, size_t count,
                           struct error *error) {
    uint64_t size = journal_size(journal);
    struct store_batch *batch = store_batch_create(journal->store);
    for (size_t i = 0; i < count; i++) {
        uint8_t key[STORE_KEY_U64_SIZE];
        store_key_u64(size + i, key);
        store_batch_put(batch, ENTRIES, bytes_of(key, sizeof key), entries[i]);
    }
    TRY(store_commit_wait(journal->store, batch, error));
    /* before any step among them can be pruned */
    TRY(claims_add(journal->claims, size, entries, count, error));
    atomic_store(&journal->size, size + count);
    return OK;
}

static enum status source_entry(void *context, uint64_t index, struct buffer *out,
                                struct error *error) {
    struct journal *journal = context;
    uint8_t key[STORE_KEY_U64_SIZE];
    store_key_u64(index, key);
    struct buffer value = {0};
    enum status status =
        store_get(journal->store, ENTRIES, bytes_of(key, sizeof key), &value, error);
    if (status == OK) buffer_append(out, value.data, value.size);
    buffer_deinit(&value);
    return status;
}

static enum status source_payload(void *context, const uint8_t digest[DIGEST_SIZE], uint64_t size,
                                  struct buffer *out, struct error *error) {
    struct journal *journal = context;
    return blob_read_unchecked(journal->payloads, digest, size, out, error);
}

struct ledger_source journal_source(struct journal *journal) {
    return (struct ledger_source){
        .entry = source_entry, .payload = source_payload, .context = journal};
}

enum status journal_sent(struct journal *journal, uint64_t sequence,
                         uint8_t header[static CONTRIBUTION_HEADER_SIZE],
                         uint8_t signature[static SIGNATURE_SIZE], struct error *error) {
    uint8_t key[STORE_KEY_U64_SIZE];
    store_key_u64(sequence, key);
    struct buffer value = {0};
    enum status status = store_get(journal->store, SENT, bytes_of(key, sizeof key), &value, error);
    if (status == OK && value.size != CONTRIBUTION_HEADER_SIZE + SIGNATURE_SIZE)
        status = error_set(error, CORRUPT, "journal: sent %llu has %zu bytes",
                           (unsigned long long)sequence, value.size);
    if (status == OK) {
        memcpy(header, value.data, CONTRIBUTION_HEADER_SIZE);
        memcpy(signature, value.data + CONTRIBUTION_HEADER_SIZE, SIGNATURE_SIZE);
    }
    buffer_deinit(&value);
    return status;
}

struct blob_store *journal_payloads(struct journal *journal) {
    return journal->payloads;
}

enum status journal_payload_read(struct journal *journal, const uint8_t digest[static DIGEST_SIZE],
                                 size_t limit, struct buffer *out, struct error *error) {
    return blob_read(journal->payloads, digest, limit, out, error);
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
    return journal_set_round(&journal->records, fragment);
}

static enum status add_blob(struct blob_batch *batch, struct bytes content,
                            struct journal_blob *out, struct error *error) {
    *out = (struct journal_blob){.size = content.size};
    return content.size == 0 ? OK : blob_batch_add(batch, content, out->digest, error);
}

static enum status put_round(struct journal *journal, const struct journal_round *round,
                             bool with_sent, struct error *error) {
    struct store_batch *batch = store_batch_create(journal->store);
    struct buffer record = {0}, sent = {0};
    uint8_t key[STORE_KEY_U64_SIZE];
    journal_round_encode(round, &record);
    store_key_u64(round->fragment, key);
    store_batch_put(batch, ROUNDS, bytes_of(key, sizeof key), buffer_bytes(&record));
    store_key_u64(round->sequence, key);
    if (with_sent) {
        buffer_append(&sent, round->header, CONTRIBUTION_HEADER_SIZE);
        buffer_append(&sent, round->signature, SIGNATURE_SIZE);
        store_batch_put(batch, SENT, bytes_of(key, sizeof key), buffer_bytes(&sent));
    } else {
        store_batch_delete(batch, SENT, bytes_of(key, sizeof key));
    }
    enum status status = store_commit_wait(journal->store, batch, error);
    buffer_deinit(&record);
    buffer_deinit(&sent);
    return status;
}

/* Makes `round` the fragment's record, in memory as on disk, and lets go of what only the old one
 * named. */
static enum status replace_round(struct journal *journal, const struct journal_round *round,
                                 bool with_sent, struct error *error) {
    const struct journal_round *current = journal_round(journal, round->fragment);
    struct journal_round old = current ? *current : (struct journal_round){0};
    TRY(put_round(journal, round, with_sent, error));
    journal_set_put_round(&journal->records, round);
    release(journal, &old.feedback);
    release(journal, &old.snapshot);
    release(journal, &old.optimizer);
    return OK;
}

enum status journal_round_begin(struct journal *journal, const struct journal_round *round,
                                const struct journal_round_contents *contents,
                                struct error *error) {
    struct journal_round taken = journal_set_begin(round);
    struct blob_batch *batch = blob_batch_create(journal->state);
    uint8_t digest[DIGEST_SIZE];
    enum status status = add_blob(batch, contents->feedback, &taken.feedback, error);
    if (status == OK) status = add_blob(batch, contents->snapshot, &taken.snapshot, error);
    if (status == OK) status = add_blob(batch, contents->optimizer, &taken.optimizer, error);
    if (status == OK) status = blob_batch_sync(batch, error);
    blob_batch_destroy(batch);
    if (status == OK) status = blob_write(journal->payloads, contents->payload, digest, error);
    if (status == OK) status = replace_round(journal, &taken, true, error);
    return status;
}

enum status journal_round_accept(struct journal *journal, uint32_t fragment, uint64_t sequence,
                                 const struct ledger_head *head, struct error *error) {
    struct journal_round round;
    if (!journal_set_accept(&journal->records, fragment, sequence, head, &round)) return OK;
    return replace_round(journal, &round, true, error);
}

enum status journal_round_end(struct journal *journal, uint32_t fragment, uint64_t base_version,
                              bool refused, struct bytes feedback, struct error *error) {
    struct journal_round round;
    if (!journal_set_end(&journal->records, fragment, base_version, refused, &round)) return OK;
    if (feedback.size > 0) {
        round.feedback.size = feedback.size;
        TRY(blob_write(journal->state, feedback, round.feedback.digest, error));
    }
    TRY(replace_round(journal, &round, false, error));
    return journal_payload_drop(journal, round.payload_digest, error);
}

/* ---- checkpoints ----------------------------------------------------------------------------- */

const struct journal_checkpoint *journal_checkpoint(const struct journal *journal) {
    return journal_set_checkpoint(&journal->records);
}

static enum status put_checkpoint(struct journal *journal,
                                  const struct journal_checkpoint *checkpoint,
                                  struct error *error) {
    struct buffer record = {0};
    journal_checkpoint_encode(checkpoint, &record);
    struct store_batch *batch = store_batch_create(journal->store);
    store_batch_put(batch, STATE, text_key(checkpoint_key), buffer_bytes(&record));
    buffer_deinit(&record);
    return store_commit_wait(journal->store, batch, error);
}

enum status journal_checkpoint_write(struct journal *journal,
                                     const struct journal_checkpoint *checkpoint,
                                     const struct journal_checkpoint_contents *contents,
                                     struct error *error) {
    const struct journal_checkpoint *current = journal_checkpoint(journal);
    struct journal_checkpoint taken = *checkpoint,
                              old = current ? *current : (struct journal_checkpoint){0};
    struct blob_batch *batch = blob_batch_create(journal->state);
    enum status status = add_blob(batch, contents->global, &taken.global, error);
    if (status == OK) status = add_blob(batch, contents->trainer, &taken.trainer, error);
    if (status == OK) status = add_blob(batch, contents->base, &taken.base, error);
    if (status == OK) status = add_blob(batch, contents->snapshot, &taken.snapshot, error);
    if (status == OK) status = blob_batch_sync(batch, error);
    blob_batch_destroy(batch);
    if (status == OK) status = put_checkpoint(journal, &taken, error);
    if (status == FULL) { /* no half of a checkpoint takes what room there is */
        release(journal, &taken.global);
        release(journal, &taken.trainer);
        release(journal, &taken.base);
        release(journal, &taken.snapshot);
    }
    TRY(status);
    journal_set_put_checkpoint(&journal->records, &taken);
    release(journal, &old.global);
    release(journal, &old.trainer);
    release(journal, &old.base);
    release(journal, &old.snapshot);
    struct ledger_source source = journal_source(journal);
    return claims_prune(journal->claims, &source, journal_size(journal), taken.version, error);
}

enum status journal_blob_read(struct journal *journal, const struct journal_blob *blob,
                              struct buffer *out, struct error *error) {
    if (blob->size == 0) return error_set(error, INVALID, "the record names no such blob");
    return blob_read(journal->state, blob->digest, blob->size, out, error);
}
