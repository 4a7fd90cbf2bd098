/* What a crash leaves behind: payloads that came whole and were never entered, contents of
 * snapshots that were never named or whose name is gone, and writes in progress. At the start
 * nobody else has a claim: what neither the ledger nor a snapshot names goes. A site whose payload
 * went sends it again. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "coordinator/directory.h"

struct names { /* digests, sorted once they are all here */
    struct directory *data;
    uint8_t (*items)[DIGEST_SIZE];
    size_t count, capacity;
    uint64_t removed, bytes;
};

static void add(struct names *names, const uint8_t digest[static DIGEST_SIZE]) {
    if (names->count == names->capacity) {
        names->capacity = names->capacity ? names->capacity * 2 : 1024;
        names->items = xrealloc(names->items, names->capacity * sizeof names->items[0]);
    }
    memcpy(names->items[names->count++], digest, DIGEST_SIZE);
}

static enum status add_payloads(struct names *names, struct error *error) {
    struct store_scan *scan = store_scan_open(names->data->store, TABLE_LEDGER, bytes_of(NULL, 0),
                                              bytes_of(NULL, 0), STORE_ASCENDING);
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    struct bytes key, value;
    enum status status;
    while ((status = store_scan_next(scan, &key, &value, error)) == OK) {
        struct contribution contribution;
        if (value.size == 0 || value.data[0] != LEDGER_CONTRIBUTION) continue;
        status = ledger_entry_decode(value, entry, error);
        if (status == OK)
            status =
                contribution_decode(bytes_of(entry->contribution.header, CONTRIBUTION_HEADER_SIZE),
                                    &contribution, error);
        if (status != OK) break;
        add(names, contribution.payload_digest);
    }
    store_scan_close(scan);
    free(entry);
    return status == NOT_FOUND ? OK : status;
}

static enum status add_snapshots(struct names *names, const uint8_t key[static PUBLIC_KEY_SIZE],
                                 struct error *error) {
    struct store_scan *scan = store_scan_open(
        names->data->store, TABLE_SNAPSHOTS, bytes_of(NULL, 0), bytes_of(NULL, 0), STORE_ASCENDING);
    struct bytes name, value;
    enum status status;
    while ((status = store_scan_next(scan, &name, &value, error)) == OK) {
        struct snapshot_header header;
        if (snapshot_header_verify(value, key, &header, NULL) == OK)
            add(names, header.content_digest);
    }
    store_scan_close(scan);
    return status == NOT_FOUND ? OK : status;
}

static int by_digest(const void *a, const void *b) { return memcmp(a, b, DIGEST_SIZE); }

static enum status sweep(void *context, const uint8_t *digest, uint64_t size, struct error *error) {
    struct names *names = context;
    if (bsearch(digest, names->items, names->count, sizeof names->items[0], by_digest)) return OK;
    enum status status = blob_delete(names->data->blobs, digest, error);
    if (status == OK) {
        names->removed++;
        names->bytes += size;
    }
    return status == NOT_FOUND ? OK : status;
}

enum status directory_sweep(struct directory *data, const uint8_t key[static PUBLIC_KEY_SIZE],
                            struct error *error) {
    struct names names = {.data = data};
    uint64_t writes = 0;
    enum status status = blob_upload_clean_named(data->blobs, ".tmp-", &writes, error);
    if (status == OK) status = add_payloads(&names, error);
    if (status == OK) status = add_snapshots(&names, key, error);
    if (names.count > 0) qsort(names.items, names.count, sizeof names.items[0], by_digest);
    /* nothing goes unless all names are known */
    if (status == OK) status = blob_each(data->blobs, sweep, &names, error);
    if (status == OK && (names.removed > 0 || writes > 0))
        log_info("left_behind_removed", "blobs=%llu bytes=%llu writes=%llu",
                 (unsigned long long)names.removed, (unsigned long long)names.bytes,
                 (unsigned long long)writes);
    free(names.items);
    return status;
}
