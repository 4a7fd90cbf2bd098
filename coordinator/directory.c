/* Opens and reads a run's directory (coordinator/directory.h): keys, store, blobs, and the model
 * by snapshot and replay. Making one is in directory_create.c. */
#include "coordinator/directory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "crypto/certificate.h"
#include "crypto/digest.h"
#include "crypto/key_file.h"
#include "run/run_model.h"

static const char *const table_names[TABLE_COUNT] = {"ledger", "snapshots"};
static const struct storage_digest sha256 = {sizeof(struct digest), digest_pieces, digest_init,
                                             digest_update, digest_final};

static enum status open_pieces(const char *directory, bool read_only,
                               void (*on_fatal)(void *context, const struct error *error),
                               void *context, struct directory *out, struct error *error) {
    struct directory data = {0};
    char *store_directory = file_join(directory, "store");
    struct store_options options = {.directory = store_directory,
                                    .tables = table_names,
                                    .table_count = TABLE_COUNT,
                                    .digest = &sha256,
                                    .read_only = read_only,
                                    .on_fatal = on_fatal,
                                    .fatal_context = context};
    enum status status = OK;
    if (!file_exists(store_directory)) {
        status =
            error_set(error, NOT_FOUND, "%s has no run: make one with `atollctl run create %s`",
                      directory, directory);
    }
    if (status == OK) status = store_open(&options, &data.store, error);
    if (status == OK) {
        status = read_only ? blob_store_open_reading(directory, &sha256, &data.blobs, error)
                           : blob_store_open(directory, &sha256, &data.blobs, error);
    }
    free(store_directory);
    if (status != OK) {
        store_close(data.store);
        return status;
    }
    data.directory = xstrdup(directory);
    *out = data;
    return OK;
}

/* LMDB would make a store where there is none, and the run would look like one without a ledger. */
static enum status check_has_ledger(const char *directory, struct error *error) {
    char *store = file_join(directory, "store"), *path = file_join(store, "data.mdb");
    struct stat file;
    enum status status = OK;
    if (file_exists(store) && (stat(path, &file) != 0 ? errno == ENOENT : file.st_size == 0))
        status = error_set(
            error, CORRUPT,
            "%s is %s: the run's ledger is gone; put a copy of the run's directory in its place",
            path, file_exists(path) ? "empty" : "not there");
    free(path);
    free(store);
    return status;
}

enum status directory_open(const char *directory, bool read_only,
                           void (*on_fatal)(void *context, const struct error *error),
                           void *context, struct directory *out, struct error *error) {
    char *mark = file_join(directory, DIRECTORY_UNFINISHED);
    bool unfinished = file_exists(mark);
    free(mark);
    if (unfinished)
        return error_set(error, NOT_FOUND,
                         "%s has no complete run: creating it was interrupted, or is still going "
                         "on; `atollctl run create %s` begins it anew",
                         directory, directory);
    TRY(check_has_ledger(directory, error));
    return open_pieces(directory, read_only, on_fatal, context, out, error);
}

enum status directory_open_unfinished(const char *directory, struct directory *out,
                                      struct error *error) {
    return open_pieces(directory, false, NULL, NULL, out, error);
}

void directory_close(struct directory *data) {
    store_close(data->store);
    blob_store_close(data->blobs);
    free(data->directory);
    *data = (struct directory){0};
}

/* ---- keys ------------------------------------------------------------------------------------ */

static enum status read_text(const char *directory, const char *name, struct buffer *out,
                             struct error *error) {
    char *path = xformat("%s/keys/%s", directory, name);
    enum status status = file_read(path, 64 * 1024, out, error);
    free(path);
    return status;
}

static enum status load_key(const char *directory, const char *name, struct key_pair **out,
                            struct error *error) {
    char *path = xformat("%s/keys/%s", directory, name);
    enum status status = key_file_load(path, out, error);
    free(path);
    return status;
}

/* For TLS; zero-terminated after the size. */
static enum status read_key(const char *directory, const char *name, struct buffer *out,
                            struct error *error) {
    char *path = xformat("%s/keys/%s", directory, name);
    enum status status = key_file_read(path, out, error);
    free(path);
    if (status != OK) return status;
    buffer_u8(out, 0);
    out->size--;
    return OK;
}

/* With another key every site that joins would get a certificate that nobody takes, and its
 * invitation would be used up. */
static enum status check_authority(const char *directory, const struct directory_keys *keys,
                                   struct error *error) {
    struct certificate_info info;
    enum status status = certificate_parse(buffer_bytes(&keys->authority_pem), &info, error);
    if (status != OK) return error_wrap(error, status, "%s/keys/ca.pem", directory);
    if (memcmp(info.public_key, key_pair_public(keys->authority), PUBLIC_KEY_SIZE) == 0) return OK;
    return error_set(error, CORRUPT,
                     "%s/keys: ca.key is not the key of ca.pem; put a copy of both in their place",
                     directory);
}

enum status directory_keys_open(const char *directory, struct directory_keys *out,
                                struct error *error) {
    struct directory_keys keys = {0};
    enum status status = load_key(directory, "ca.key", &keys.authority, error);
    if (status == OK) status = load_key(directory, "coordinator.key", &keys.coordinator, error);
    if (status == OK) status = read_text(directory, "ca.pem", &keys.authority_pem, error);
    if (status == OK) status = read_text(directory, "server.pem", &keys.server_pem, error);
    if (status == OK) status = read_key(directory, "server.key", &keys.server_key_pem, error);
    if (status == OK) status = check_authority(directory, &keys, error);
    if (status != OK) {
        directory_keys_close(&keys);
        return status;
    }
    *out = keys;
    return OK;
}

void directory_keys_close(struct directory_keys *keys) {
    key_pair_destroy(keys->authority);
    key_pair_destroy(keys->coordinator);
    buffer_deinit(&keys->authority_pem);
    buffer_deinit(&keys->server_pem);
    free_clearing(keys->server_key_pem.data, keys->server_key_pem.capacity);
    *keys = (struct directory_keys){0};
}

/* ---- the ledger as replay needs it ----------------------------------------------------------- */

static enum status source_entry(void *context, uint64_t index, struct buffer *out,
                                struct error *error) {
    struct directory *data = context;
    uint8_t key[STORE_KEY_U64_SIZE];
    struct buffer value = {0};
    store_key_u64(index, key);
    enum status status =
        store_get(data->store, TABLE_LEDGER, bytes_of(key, sizeof key), &value, error);
    if (status == OK) buffer_append(out, value.data, value.size);
    buffer_deinit(&value);
    return status;
}

static enum status source_payload(void *context, const uint8_t digest[DIGEST_SIZE], uint64_t size,
                                  struct buffer *out, struct error *error) {
    struct directory *data = context;
    struct buffer value = {0};
    enum status status = blob_read(data->blobs, digest, size, &value, error);
    if (status == OK) buffer_append(out, value.data, value.size);
    buffer_deinit(&value);
    return status;
}

struct ledger_source directory_source(struct directory *data) {
    return (struct ledger_source){
        .entry = source_entry, .payload = source_payload, .context = data};
}

enum status directory_contribution(struct directory *data, uint64_t index, struct contribution *out,
                                   struct error *error) {
    struct ledger_entry entry;
    struct buffer raw = {0};
    enum status status = source_entry(data, index, &raw, error);
    if (status == OK) status = ledger_entry_decode(buffer_bytes(&raw), &entry, error);
    if (status == OK && entry.kind != LEDGER_CONTRIBUTION)
        status = error_set(error, CORRUPT, "entry %llu is not a contribution",
                           (unsigned long long)index);
    if (status == OK)
        status = contribution_decode(bytes_of(entry.contribution.header, CONTRIBUTION_HEADER_SIZE),
                                     out, error);
    buffer_deinit(&raw);
    return status;
}

enum status directory_check_end(struct directory *data, uint64_t size, struct error *error) {
    uint64_t count;
    uint8_t key[STORE_KEY_U64_SIZE];
    TRY(store_count(data->store, TABLE_LEDGER, &count, error));
    store_key_u64(size, key);
    if (count <= size) return OK;
    enum status status = store_has(data->store, TABLE_LEDGER, bytes_of(key, sizeof key), error);
    if (status != NOT_FOUND)
        return status; /* it was written a moment ago, by a coordinator that runs */
    return error_set(error, CORRUPT, "entry %llu is missing, though the store counts %llu of them",
                     (unsigned long long)size, (unsigned long long)count);
}

/* ---- snapshots ------------------------------------------------------------------------------- */

enum status directory_snapshot_header(struct directory *data, uint64_t version,
                                      const uint8_t key[static PUBLIC_KEY_SIZE],
                                      uint8_t raw[static SNAPSHOT_HEADER_SIZE],
                                      struct snapshot_header *out, struct error *error) {
    uint8_t end[STORE_KEY_U64_SIZE];
    store_key_u64(version == UINT64_MAX ? version : version + 1, end);
    struct store_scan *scan = store_scan_open(data->store, TABLE_SNAPSHOTS, bytes_of(NULL, 0),
                                              bytes_of(end, sizeof end), STORE_DESCENDING);
    struct bytes found_key, value;
    enum status status = store_scan_next(scan, &found_key, &value, error);
    if (status == OK) status = snapshot_header_verify(value, key, out, error);
    if (status == OK) memcpy(raw, value.data, SNAPSHOT_HEADER_SIZE);
    store_scan_close(scan);
    return status;
}

enum status directory_snapshot_delete(struct directory *data, const struct snapshot_header *header,
                                      struct error *error) {
    uint8_t name[STORE_KEY_U64_SIZE];
    store_key_u64(header->version, name);
    struct store_batch *batch = store_batch_create(data->store);
    store_batch_delete(batch, TABLE_SNAPSHOTS, bytes_of(name, sizeof name));
    TRY(store_commit_wait(data->store, batch, error));
    enum status status = blob_delete(data->blobs, header->content_digest, error);
    return status == NOT_FOUND ? OK : status;
}

/* Deletes what is older than the newest `keep`: first the name, then the content, so that no name
 * is without content. */
static enum status prune_snapshots(struct directory *data,
                                   const uint8_t key[static PUBLIC_KEY_SIZE], unsigned keep,
                                   struct error *error) {
    struct store_scan *scan = store_scan_open(data->store, TABLE_SNAPSHOTS, bytes_of(NULL, 0),
                                              bytes_of(NULL, 0), STORE_DESCENDING);
    struct bytes found_key, value;
    enum status status;
    for (unsigned seen = 0; (status = store_scan_next(scan, &found_key, &value, error)) == OK;
         seen++) {
        struct snapshot_header header;
        if (seen < keep || snapshot_header_verify(value, key, &header, NULL) != OK) continue;
        struct store_batch *batch = store_batch_create(data->store);
        store_batch_delete(batch, TABLE_SNAPSHOTS, found_key);
        if ((status = store_commit_wait(data->store, batch, error)) != OK) break;
        status = blob_delete(data->blobs, header.content_digest, error);
        if (status != OK && status != NOT_FOUND) break;
    }
    store_scan_close(scan);
    return status == NOT_FOUND ? OK : status;
}

enum status directory_snapshot_write(struct directory *data, const struct model_state *model,
                                     const struct snapshot_header *partial,
                                     const struct key_pair *key, unsigned keep,
                                     struct error *error) {
    struct snapshot_header header = *partial;
    struct buffer content = {0};
    uint8_t raw[SNAPSHOT_HEADER_SIZE], name[STORE_KEY_U64_SIZE];
    header.version = model->version;
    state_root(model->theta, model->parameters, header.root);
    snapshot_write(model, &content);
    header.content_size = content.size;
    enum status status =
        blob_write(data->blobs, buffer_bytes(&content), header.content_digest, error);
    buffer_deinit(&content);
    TRY(status);
    snapshot_header_sign(&header, key, raw);
    store_key_u64(header.version, name);
    struct store_batch *batch = store_batch_create(data->store);
    store_batch_put(batch, TABLE_SNAPSHOTS, bytes_of(name, sizeof name), bytes_of(raw, sizeof raw));
    TRY(store_commit_wait(data->store, batch, error));
    return prune_snapshots(data, key_pair_public(key), keep, error);
}

/* ---- restoring ------------------------------------------------------------------------------- */

static enum status read_snapshot(struct directory *data, const struct snapshot_header *header,
                                 struct model_state *model, struct error *error) {
    struct buffer content = {0};
    enum status status =
        blob_read(data->blobs, header->content_digest, header->content_size, &content, error);
    if (status == OK) status = snapshot_read(model, header, buffer_bytes(&content), error);
    buffer_deinit(&content);
    return status;
}

/* A snapshot may not speak of entries that are not there: the ledger is what counts. */
static enum status check_within(struct directory *data, const struct snapshot_header *header,
                                struct error *error) {
    uint64_t count = 0;
    TRY(store_count(data->store, TABLE_LEDGER, &count, error));
    if (header->ledger_size <= count) return OK;
    return error_set(error, CORRUPT, "it speaks of %llu ledger entries, there are %llu",
                     (unsigned long long)header->ledger_size, (unsigned long long)count);
}

/* The newest snapshot that reads back whole; a damaged one is passed over for the one before it,
 * with a warning. NOT_FOUND: there is none; the ledger does without. */
static enum status newest_good_snapshot(struct directory *data,
                                        const uint8_t key[static PUBLIC_KEY_SIZE],
                                        struct model_state *model, struct error *error) {
    uint64_t limit = UINT64_MAX;
    for (;;) {
        struct snapshot_header header;
        uint8_t raw[SNAPSHOT_HEADER_SIZE];
        struct error why = {0};
        enum status status = directory_snapshot_header(data, limit, key, raw, &header, &why);
        if (status == CORRUPT || status == INVALID) {
            log_warn("snapshot_damaged", "reason=\"%s\"", why.message);
            return error_set(error, NOT_FOUND, "%s", why.message);
        }
        if (status != OK)
            return error_set(error, status, "%s",
                             status == NOT_FOUND ? "there is no snapshot" : why.message);
        status = check_within(data, &header, &why);
        if (status == OK) status = read_snapshot(data, &header, model, &why);
        if (status == OK) return OK;
        log_warn("snapshot_damaged", "version=%llu reason=\"%s\"",
                 (unsigned long long)header.version, why.message);
        if (status == CORRUPT ||
            status == NOT_FOUND) { /* useless; a reader cannot delete it, and need not */
            struct error unread = {0};
            (void)!directory_snapshot_delete(data, &header, &unread);
        }
        if (header.version == 0) return error_set(error, NOT_FOUND, "%s", why.message);
        limit = header.version - 1;
    }
}

static enum status read_genesis(struct directory *data, struct buffer *raw,
                                struct ledger_entry *genesis, struct manifest *manifest,
                                struct error *error) {
    struct ledger_source source = directory_source(data);
    TRY(source.entry(source.context, 0, raw, error));
    TRY(ledger_entry_decode(buffer_bytes(raw), genesis, error));
    if (genesis->kind != LEDGER_GENESIS)
        return error_set(error, CORRUPT, "entry 0 of the ledger is not a genesis entry");
    return manifest_parse(genesis->genesis.manifest, manifest, error);
}

/* Version 0, by what entry 0 says; replay compares its root. */
static enum status begin_anew(const struct manifest *manifest, const char *checkpoint,
                              struct model_state *model, struct error *error) {
    static const uint8_t none[DIGEST_SIZE];
    struct layout layout = {0};
    bool named = !digest_equal(manifest->initial.checkpoint_digest, none);
    if (named && !checkpoint)
        return error_set(error, INVALID,
                         "no snapshot of this run can be read, and the run began from a "
                         "checkpoint: give its file with "
                         "--checkpoint, and everything is replayed from there");
    TRY(run_model_layout(manifest, &layout, error));
    struct manifest shape = *manifest;
    uint64_t parameters = layout.count;
    model_state_deinit(model); /* a snapshot that could not be read may have left something in it */
    enum status status = model_state_init(model, &shape, parameters, error);
    if (status == OK)
        status =
            run_model_initialise(manifest, &layout, named ? checkpoint : NULL, model->theta, error);
    layout_deinit(&layout);
    log_warn("replaying_from_version_0",
             "reason=\"no snapshot can be read: the ledger does without, it takes longer\"%s", "");
    return status;
}

/* model NULL: the control half alone. */
static enum status replay(struct directory *data, struct model_state *model, struct run_state **out,
                          struct replay_report *report, struct error *error) {
    struct ledger_source source = directory_source(data);
    struct replay_options options = {
        .trusted = true, .until = UINT64_MAX, .tensors_from = model ? model->version : 0};
    struct run_state *run = run_state_create();
    enum status status = replay_run(&source, &options, run, model, report, error);
    if (status == OK) status = directory_check_end(data, run_state_size(run), error);
    if (status == OK)
        *out = run;
    else
        run_state_destroy(run);
    return status;
}

enum status directory_catch_up(struct directory *data, struct model_state *model,
                               struct replay_report *report, struct error *error) {
    struct run_state *run = NULL;
    enum status status = replay(data, model, &run, report, error);
    run_state_destroy(run);
    return status;
}

enum status directory_restore(struct directory *data, const char *checkpoint,
                              struct run_state **run, struct model_state *model,
                              struct replay_report *report, struct error *error) {
    struct buffer raw = {0};
    struct ledger_entry genesis;
    struct manifest manifest;
    *model = (struct model_state){0};
    *report = (struct replay_report){0};
    enum status status = read_genesis(data, &raw, &genesis, &manifest, error);
    if (status == NOT_FOUND) {
        status = CORRUPT;
        if (error) error->status = status;
        error_wrap(error, status,
                   "the run's ledger is gone; put a copy of the run's directory in its place");
    }
    if (status != OK) goto out;
    status = model_state_init(model, &manifest, genesis.genesis.parameters, error);
    if (status != OK) goto out;
    status = newest_good_snapshot(data, genesis.genesis.coordinator_key, model, error);
    if (status == NOT_FOUND) status = begin_anew(&manifest, checkpoint, model, error);
    if (status != OK) goto out;
    status = replay(data, model, run, report, error);
    if (status != OK && report->lost_payload) status = replay(data, NULL, run, NULL, error);
out:
    buffer_deinit(&raw);
    if (status != OK) model_state_deinit(model);
    return status;
}
