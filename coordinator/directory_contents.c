/* What a run's directory holds (coordinator/directory.h): the ledger as replay needs it, and the
 * snapshots. Knows storage/store.h and storage/blob.h and no file, so that the simulator links it
 * over a disk of its own (sim/storage.c). */
#include <string.h>

#include "coordinator/directory.h"

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
    return blob_read_unchecked(data->blobs, digest, size, out, error);
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

static enum status names(struct bytes raw, const uint8_t digest[static DIGEST_SIZE], bool *out,
                         struct error *error) {
    struct ledger_entry entry;
    struct contribution contribution;
    *out = false;
    if (raw.size == 0 || raw.data[0] != LEDGER_CONTRIBUTION) return OK;
    TRY(ledger_entry_decode(raw, &entry, error));
    TRY(contribution_decode(bytes_of(entry.contribution.header, CONTRIBUTION_HEADER_SIZE),
                            &contribution, error));
    *out = digest_equal(contribution.payload_digest, digest);
    return OK;
}

enum status directory_naming(struct directory *data, const uint8_t digest[static DIGEST_SIZE],
                             uint64_t out[static DIRECTORY_NAMING_LIMIT], size_t *count,
                             struct error *error) {
    struct buffer raw = {0};
    uint64_t index = 0;
    *count = 0;
    enum status status = store_count(data->store, TABLE_LEDGER, &index, error);
    /* one by one, as what is wrong with one record ends a scan, and others are to be found */
    while (status == OK && index-- > 0 && *count < DIRECTORY_NAMING_LIMIT) {
        bool is_named = false;
        raw.size = 0;
        status = source_entry(data, index, &raw, error);
        if (status == OK) status = names(buffer_bytes(&raw), digest, &is_named, error);
        if (status == CORRUPT || status == INVALID) status = OK; /* told where it is needed */
        if (is_named) out[(*count)++] = index;
    }
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

enum status directory_snapshot_write(struct directory *data, struct model_state *model,
                                     const struct snapshot_header *partial,
                                     const struct key_pair *key, unsigned keep,
                                     struct error *error) {
    struct snapshot_header header = *partial;
    struct buffer content = {0};
    uint8_t raw[SNAPSHOT_HEADER_SIZE], name[STORE_KEY_U64_SIZE];
    header.version = model->version;
    model_state_root(model, header.root);
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
