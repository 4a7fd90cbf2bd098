/* A simulated disk (sim/disk.h): what was synced survives a crash, the rest may be lost, torn or
 * damaged. */
#include "sim/disk.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

void disk_init(struct disk *disk, struct world *world, uint32_t process) {
    *disk = (struct disk){.world = world, .process = process, .damaged_entry = UINT64_MAX};
}

void disk_deinit(struct disk *disk) {
    for (uint64_t i = 0; i < disk->entry_count; i++) buffer_deinit(&disk->entries[i]);
    for (size_t i = 0; i < disk->blob_count; i++) buffer_deinit(&disk->blobs[i].bytes);
    free(disk->entries);
    for (size_t i = 0; i < disk->spoiled_count; i++) buffer_deinit(&disk->spoiled[i].bytes);
    free(disk->blobs);
    free(disk->spoiled);
    disk_init(disk, disk->world, disk->process);
}

static void push_entry(struct disk *disk, struct bytes entry) {
    if (disk->entry_count == disk->entry_capacity) {
        disk->entry_capacity = disk->entry_capacity ? disk->entry_capacity * 2 : 64;
        disk->entries =
            xrealloc(disk->entries, (size_t)disk->entry_capacity * sizeof disk->entries[0]);
    }
    struct buffer copy = {0};
    buffer_append(&copy, entry.data, entry.size);
    disk->entries[disk->entry_count++] = copy;
}

enum status disk_append(struct disk *disk, struct bytes raw) {
    enum status status = process_write(disk->world, disk->process);
    if (status == CANCELLED || status == FULL) return status;
    /* else it is there, but nobody may count on it */
    if (status == FAILED && world_luck(disk->world, 0.5)) return status;
    struct reader reader = reader_of(raw);
    while (reader_left(&reader) > 0) {
        uint32_t size = reader_u32(&reader);
        push_entry(disk, reader_take(&reader, size));
    }
    return status;
}

static struct disk_blob *find(const struct disk *disk, const uint8_t digest[static DIGEST_SIZE]) {
    for (size_t i = 0; i < disk->blob_count; i++) {
        if (memcmp(disk->blobs[i].digest, digest, DIGEST_SIZE) == 0) return &disk->blobs[i];
    }
    return NULL;
}

static void push_blob(struct disk *disk, struct bytes content,
                      const uint8_t digest[static DIGEST_SIZE]) {
    if (disk->blob_count == disk->blob_capacity) {
        disk->blob_capacity = disk->blob_capacity ? disk->blob_capacity * 2 : 64;
        disk->blobs = xrealloc(disk->blobs, disk->blob_capacity * sizeof disk->blobs[0]);
    }
    struct disk_blob *blob = &disk->blobs[disk->blob_count++];
    *blob = (struct disk_blob){0};
    memcpy(blob->digest, digest, DIGEST_SIZE);
    buffer_append(&blob->bytes, content.data, content.size);
}

static void put_blob(struct disk *disk, struct bytes content,
                     const uint8_t digest[static DIGEST_SIZE]) {
    struct disk_blob *there = find(disk, digest);
    if (!there) {
        push_blob(disk, content, digest);
    } else if (there->flipped) { /* a whole one replaces it */
        there->bytes.data[there->flipped_at] ^= there->flipped;
        there->flipped = 0;
    }
}

enum status disk_blobs_write(struct disk *disk, const struct bytes *contents,
                             uint8_t (*digests)[DIGEST_SIZE], size_t count) {
    enum status status = disk_write(disk);
    for (size_t i = 0; i < count && status == OK; i++) put_blob(disk, contents[i], digests[i]);
    return status;
}

enum status disk_blob_write(struct disk *disk, struct bytes content,
                            const uint8_t digest[static DIGEST_SIZE]) {
    enum status status = disk_write(disk);
    if (status == OK) put_blob(disk, content, digest);
    return status;
}

enum status disk_write(struct disk *disk) { return process_write(disk->world, disk->process); }

void disk_copy(struct disk *to, const struct disk *from) {
    disk_deinit(to);
    for (uint64_t i = 0; i < from->entry_count; i++)
        push_entry(to, buffer_bytes(&from->entries[i]));
    for (size_t i = 0; i < from->blob_count; i++) { /* damage and all */
        push_blob(to, buffer_bytes(&from->blobs[i].bytes), from->blobs[i].digest);
        to->blobs[i].flipped = from->blobs[i].flipped;
        to->blobs[i].flipped_at = from->blobs[i].flipped_at;
    }
}

bool disk_blob_is_whole(const struct disk *disk, const uint8_t digest[static DIGEST_SIZE]) {
    const struct disk_blob *blob = find(disk, digest);
    return blob && !blob->flipped;
}

const struct buffer *disk_blob_find(const struct disk *disk,
                                    const uint8_t digest[static DIGEST_SIZE]) {
    const struct disk_blob *blob = find(disk, digest);
    return blob ? &blob->bytes : NULL;
}

void disk_blob_delete(struct disk *disk, const uint8_t digest[static DIGEST_SIZE]) {
    struct disk_blob *blob = find(disk, digest);
    if (!blob || process_is_doomed(disk->world, disk->process)) return;
    if (blob->flipped) {
        size_t size = (disk->spoiled_count + 1) * sizeof disk->spoiled[0];
        disk->spoiled = xrealloc(disk->spoiled, size);
        disk->spoiled[disk->spoiled_count++] = *blob;
    } else {
        buffer_deinit(&blob->bytes);
    }
    *blob = disk->blobs[--disk->blob_count];
}

static enum status source_entry(void *context, uint64_t index, struct buffer *out,
                                struct error *error) {
    const struct disk *disk = context;
    if (index >= disk->entry_count)
        return error_set(error, NOT_FOUND, "no entry %llu", (unsigned long long)index);
    if (index == disk->damaged_entry)
        return error_set(error, CORRUPT, "the record of entry %llu is damaged",
                         (unsigned long long)index);
    buffer_append(out, disk->entries[index].data, disk->entries[index].size);
    return OK;
}

static enum status source_payload(void *context, const uint8_t digest[DIGEST_SIZE], uint64_t size,
                                  struct buffer *out, struct error *error) {
    const struct disk *disk = context;
    const struct disk_blob *blob = find(disk, digest);
    char hex[HEX32_SIZE];
    (void)size;
    if (!blob)
        return error_set(error, NOT_FOUND, "payload %.16s is not there",
                         hex_encode(digest, DIGEST_SIZE, hex));
    buffer_append(out, blob->bytes.data, blob->bytes.size);
    return OK;
}

enum status disk_blob_read(const struct disk *disk, const uint8_t digest[static DIGEST_SIZE],
                           struct buffer *out, struct error *error) {
    const struct disk_blob *blob = find(disk, digest);
    char hex[HEX32_SIZE];
    if (!blob || !blob->flipped)
        return source_payload((void *)(uintptr_t)disk, digest, 0, out, error);
    return error_set(error, CORRUPT, "blob %.16s is damaged", hex_encode(digest, DIGEST_SIZE, hex));
}

struct ledger_source disk_source(struct disk *disk) {
    return (struct ledger_source){source_entry, source_payload, disk};
}

static enum status truth_entry(void *context, uint64_t index, struct buffer *out,
                               struct error *error) {
    const struct disk *disk = context;
    if (index >= disk->entry_count)
        return error_set(error, NOT_FOUND, "no entry %llu", (unsigned long long)index);
    buffer_append(out, disk->entries[index].data, disk->entries[index].size);
    return OK;
}

static const struct disk_blob *find_spoiled(const struct disk *disk,
                                            const uint8_t digest[static DIGEST_SIZE]) {
    for (size_t i = 0; i < disk->spoiled_count; i++)
        if (digest_equal(disk->spoiled[i].digest, digest)) return &disk->spoiled[i];
    return NULL;
}

static enum status truth_payload(void *context, const uint8_t digest[DIGEST_SIZE], uint64_t size,
                                 struct buffer *out, struct error *error) {
    const struct disk_blob *blob = find(context, digest);
    size_t before = out->size;
    if (!blob) blob = find_spoiled(context, digest);
    if (!blob) return source_payload(context, digest, size, out, error);
    buffer_append(out, blob->bytes.data, blob->bytes.size);
    out->data[before + blob->flipped_at] ^= blob->flipped;
    return OK;
}

struct ledger_source disk_truth(struct disk *disk) {
    return (struct ledger_source){truth_entry, truth_payload, disk};
}

bool disk_flip(struct disk *disk, const uint8_t digest[static DIGEST_SIZE]) {
    struct disk_blob *blob = find(disk, digest);
    if (!blob || blob->flipped || blob->bytes.size == 0) return false;
    blob->flipped_at = (size_t)world_luck_below(disk->world, blob->bytes.size);
    blob->flipped = (uint8_t)(1u << world_luck_below(disk->world, 8));
    blob->bytes.data[blob->flipped_at] ^= blob->flipped;
    return true;
}

bool disk_has_damaged_record(const struct disk *disk) { return disk->damaged_entry != UINT64_MAX; }

void disk_repair(struct disk *disk) {
    disk->damaged_entry = UINT64_MAX;
    for (size_t i = 0; i < disk->blob_count; i++) {
        struct disk_blob *blob = &disk->blobs[i];
        if (blob->flipped) blob->bytes.data[blob->flipped_at] ^= blob->flipped;
        blob->flipped = 0;
    }
    for (size_t i = 0; i < disk->spoiled_count; i++) {
        struct disk_blob *blob = &disk->spoiled[i];
        blob->bytes.data[blob->flipped_at] ^= blob->flipped;
        put_blob(disk, buffer_bytes(&blob->bytes), blob->digest);
        buffer_deinit(&blob->bytes);
    }
    disk->spoiled_count = 0;
}
