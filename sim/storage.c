/* The simulated storage (sim/storage.h): its life, and what befalls snapshots at rest. */
#include "sim/storage.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "fed/model_state.h"
#include "sim/storage_internal.h"

void storage_init(struct storage *storage, const struct storage_setup *setup) {
    *storage = (struct storage){.store = xcalloc(1, sizeof *storage->store),
                                .blobs = xcalloc(1, sizeof *storage->blobs)};
    storage->store->setup = storage->blobs->setup = *setup;
    disk_init(&storage->blobs->contents, setup->world, setup->process);
}

void storage_deinit(struct storage *storage) {
    struct store *store = storage->store;
    struct blob_store *blobs = storage->blobs;
    store_crash(store);
    for (size_t i = 0; i < store->name_count; i++) buffer_deinit(&store->names[i].header);
    for (size_t i = 0; i < blobs->partial_count; i++) {
        buffer_deinit(&blobs->partials[i]->bytes);
        free(blobs->partials[i]);
    }
    disk_deinit(&blobs->contents);
    free(store->names);
    free(blobs->partials);
    free(store);
    free(blobs);
    *storage = (struct storage){0};
}

void storage_crash(struct storage *storage) {
    store_crash(storage->store);
    blob_crash(storage->blobs);
}

bool storage_is_receiving(const struct storage *storage) {
    for (size_t i = 0; i < storage->blobs->partial_count; i++) {
        const struct partial_upload *partial = storage->blobs->partials[i];
        if (partial->open && partial->bytes.size > partial->synced) return true;
    }
    return false;
}

/* ---- snapshots ------------------------------------------------------------------------------- */

/* The digest of the newest that is whole, and how many damaged ones are newer; false: none is. */
static bool newest_whole(const struct storage *storage, uint8_t digest[static DIGEST_SIZE],
                         uint64_t *damaged) {
    const struct store *store = storage->store;
    *damaged = 0;
    for (size_t i = store->name_count; i-- > 0;) {
        struct snapshot_header header;
        MUST(snapshot_header_verify(buffer_bytes(&store->names[i].header), store->setup.key,
                                    &header, NULL));
        if (disk_blob_is_whole(&storage->blobs->contents, header.content_digest)) {
            memcpy(digest, header.content_digest, DIGEST_SIZE);
            return true;
        }
        ++*damaged;
    }
    return false;
}

bool storage_has_snapshots(const struct storage *storage) {
    uint8_t digest[DIGEST_SIZE];
    uint64_t damaged;
    return newest_whole(storage, digest, &damaged);
}

bool storage_flip_snapshot(struct storage *storage) {
    uint8_t digest[DIGEST_SIZE];
    uint64_t damaged;
    return newest_whole(storage, digest, &damaged) && disk_flip(&storage->blobs->contents, digest);
}

uint64_t storage_damaged_snapshots(const struct storage *storage) {
    uint8_t digest[DIGEST_SIZE];
    uint64_t damaged;
    (void)newest_whole(storage, digest, &damaged);
    return damaged;
}

void storage_mend(struct storage *storage) { disk_repair(&storage->blobs->contents); }
