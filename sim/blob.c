/* storage/blob.h over the coordinator's simulated disk: payloads are the disk's blobs, contents of
 * snapshots and uploads are kept beside it. */
#include "storage/blob.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "sim/storage_internal.h"

enum { SECTOR = 512 };

static struct disk *disk_of(struct blob_store *store, const uint8_t *digest) {
    return disk_blob_find(&store->contents, digest) ? &store->contents : store->setup.disk;
}

static bool is_doomed(const struct blob_store *store) {
    return process_is_doomed(store->setup.world, store->setup.process);
}

/* ---- whole blobs ----------------------------------------------------------------------------- */

enum status blob_write(struct blob_store *store, struct bytes content,
                       uint8_t digest[static BLOB_DIGEST_SIZE], struct error *error) {
    digest_sha256(content.data, content.size, digest);
    enum status status = disk_blob_write(&store->contents, content, digest);
    return status == OK ? OK : error_set(error, status, "a blob cannot be written");
}

enum status blob_check(struct blob_store *store, const uint8_t digest[static BLOB_DIGEST_SIZE],
                       struct error *error) {
    const struct disk *disk = disk_of(store, digest);
    char hex[HEX32_SIZE];
    if (disk_blob_is_whole(disk, digest)) return OK;
    bool there = disk_blob_find(disk, digest) != NULL;
    return error_set(error, there ? CORRUPT : NOT_FOUND, "blob %.16s is %s",
                     hex_encode(digest, DIGEST_SIZE, hex), there ? "damaged" : "not there");
}

enum status blob_read_unchecked(struct blob_store *store,
                                const uint8_t digest[static BLOB_DIGEST_SIZE], size_t limit,
                                struct buffer *out, struct error *error) {
    const struct buffer *found = disk_blob_find(disk_of(store, digest), digest);
    out->size = 0;
    if (!found) return error_set(error, NOT_FOUND, "the blob is not there");
    if (found->size > limit)
        return error_set(error, INVALID, "the blob is larger than %zu bytes", limit);
    buffer_append(out, found->data, found->size);
    return OK;
}

enum status blob_read(struct blob_store *store, const uint8_t digest[static BLOB_DIGEST_SIZE],
                      size_t limit, struct buffer *out, struct error *error) {
    TRY(blob_read_unchecked(store, digest, limit, out, error));
    enum status status = blob_check(store, digest, error);
    if (status != OK) out->size = 0;
    return status;
}

bool blob_exists(struct blob_store *store, const uint8_t digest[static BLOB_DIGEST_SIZE]) {
    return disk_blob_find(disk_of(store, digest), digest) != NULL;
}

enum status blob_delete(struct blob_store *store, const uint8_t digest[static BLOB_DIGEST_SIZE],
                        struct error *error) {
    if (!blob_exists(store, digest)) return error_set(error, NOT_FOUND, "there is no such blob");
    if (is_doomed(store)) return error_set(error, CANCELLED, "the process ends");
    disk_blob_delete(disk_of(store, digest), digest);
    return OK;
}

static enum status visit_all(struct disk *disk, blob_visit *visit, void *context,
                             struct error *error) {
    enum status status = OK;
    for (size_t i = disk->blob_count;
         i-- > 0 && status == OK;) { /* the last takes a hole's place */
        uint8_t digest[DIGEST_SIZE];
        memcpy(digest, disk->blobs[i].digest, DIGEST_SIZE);
        status = visit(context, digest, disk->blobs[i].bytes.size, error);
    }
    return status;
}

enum status blob_each(struct blob_store *store, blob_visit *visit, void *context,
                      struct error *error) {
    TRY(visit_all(store->setup.disk, visit, context, error));
    return visit_all(&store->contents, visit, context, error);
}

/* ---- uploads --------------------------------------------------------------------------------- */

struct blob_upload {
    struct blob_store *store;
    struct partial_upload *partial; /* NULL: finished */
    uint64_t limit;
};

static struct partial_upload *partial_of(struct blob_store *store, const char *name) {
    for (size_t i = 0; i < store->partial_count; i++) {
        if (strcmp(store->partials[i]->name, name) == 0) return store->partials[i];
    }
    struct partial_upload *partial = xcalloc(1, sizeof *partial);
    snprintf(partial->name, sizeof partial->name, "%s", name);
    store->partials =
        xrealloc(store->partials, (store->partial_count + 1) * sizeof store->partials[0]);
    store->partials[store->partial_count++] = partial;
    return partial;
}

static void partial_remove(struct blob_store *store, struct partial_upload *partial) {
    for (size_t i = 0; i < store->partial_count; i++) {
        if (store->partials[i] != partial) continue;
        store->partials[i] = store->partials[--store->partial_count];
        break;
    }
    buffer_deinit(&partial->bytes);
    free(partial);
}

enum status blob_upload_open(struct blob_store *store, const char *name, uint64_t limit,
                             struct blob_upload **out, struct error *error) {
    if (is_doomed(store)) return error_set(error, CANCELLED, "the process ends");
    struct partial_upload *partial = partial_of(store, name);
    if (partial->open) return error_set(error, UNAVAILABLE, "another call has the upload open");
    if (partial->bytes.size > limit)
        return error_set(error, INVALID, "more than %llu bytes are there",
                         (unsigned long long)limit);
    partial->open = true;
    *out = xcalloc(1, sizeof **out);
    **out = (struct blob_upload){.store = store, .partial = partial, .limit = limit};
    return OK;
}

uint64_t blob_upload_size(const struct blob_upload *upload) { return upload->partial->bytes.size; }

enum status blob_upload_append(struct blob_upload *upload, uint64_t offset, struct bytes content,
                               struct error *error) {
    struct partial_upload *partial = upload->partial;
    struct world *world = upload->store->setup.world;
    if (offset != partial->bytes.size || content.size > upload->limit - partial->bytes.size)
        return error_set(error, INVALID, "a chunk that does not follow, or goes too far");
    if (is_doomed(upload->store)) return error_set(error, CANCELLED, "the process ends");
    buffer_append(&partial->bytes, content.data, content.size);
    if (world_chance(world, 0.05)) partial->synced = partial->bytes.size;
    partial->written_at = world->now;
    return OK;
}

enum status blob_upload_finish(struct blob_upload *upload,
                               const uint8_t digest[static BLOB_DIGEST_SIZE], struct error *error) {
    struct partial_upload *partial = upload->partial;
    struct blob_store *store = upload->store;
    uint8_t got[DIGEST_SIZE];
    digest_sha256(partial->bytes.data, partial->bytes.size, got);
    if (!digest_equal(got, digest)) {
        partial->bytes.size = partial->synced = 0;
        return error_set(error, CORRUPT, "other bytes came than the name says");
    }
    enum status status = disk_blob_write(store->setup.disk, buffer_bytes(&partial->bytes), digest);
    if (status != OK) return error_set(error, status, "the payload cannot be made durable");
    partial_remove(store, partial);
    upload->partial = NULL;
    return OK;
}

void blob_upload_close(struct blob_upload *upload) {
    if (!upload) return;
    if (upload->partial) upload->partial->open = false;
    free(upload);
}

void blob_upload_discard(struct blob_upload *upload) {
    if (!is_doomed(upload->store)) {
        partial_remove(upload->store, upload->partial);
        upload->partial = NULL;
    }
    blob_upload_close(upload);
}

enum status blob_upload_clean(struct blob_store *store, uint64_t age_ms, uint64_t *removed,
                              struct error *error) {
    (void)error;
    if (removed) *removed = 0;
    for (size_t i = store->partial_count; i-- > 0;) {
        struct partial_upload *partial = store->partials[i];
        if (partial->open || store->setup.world->now - partial->written_at < age_ms * MS) continue;
        partial_remove(store, partial);
        if (removed) ++*removed;
    }
    return OK;
}

enum status blob_upload_clean_named(struct blob_store *store, const char *prefix, uint64_t *removed,
                                    struct error *error) {
    (void)store, (void)prefix, (void)error; /* here a write is whole or not there at all */
    if (removed) *removed = 0;
    return OK;
}

/* What was not synced: gone, or the file's end is garbage. */
static void lose(struct blob_store *store, struct partial_upload *partial) {
    struct world *world = store->setup.world;
    size_t unsynced = partial->bytes.size - partial->synced;
    if (unsynced == 0) return;
    size_t lost = 1 + (size_t)world_luck_below(world, unsynced),
           torn = MIN(unsynced, (size_t)SECTOR);
    bool tear = world_luck(world, 0.5);
    if (tear && world_fault(world, FAULT_TORN_SECTOR, store->setup.process)) {
        for (size_t i = 0; i < torn; i++) partial->bytes.data[partial->bytes.size - 1 - i] ^= 0x5a;
    } else if (!tear && world_fault(world, FAULT_LOST_WRITES, store->setup.process)) {
        partial->bytes.size -= lost;
    }
    partial->synced = partial->bytes.size;
}

void blob_crash(struct blob_store *store) {
    for (size_t i = 0; i < store->partial_count; i++) lose(store, store->partials[i]);
}
