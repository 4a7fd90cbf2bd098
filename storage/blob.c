/* Content-addressed files (storage/blob.h): written to a temporary name, synced, renamed to their
 * digest, folder synced. Reading compares size and digest, and CORRUPT names the file. Uploads in
 * pieces are in blob_upload.c. */
#include "storage/blob.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "storage/blob_files.h"

/* --- the store --- */

static enum status open_folder(struct blob_store *store, const char *name, int *out,
                               struct error *error) {
    char *path = file_join(store->directory, name);
    enum status status = file_make_directory(path, 0700, error);
    if (status == OK && (*out = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0) {
        status = error_set(error, FAILED, "open %s: %s", path, strerror(errno));
    }
    free(path);
    return status;
}

/* All 256 at once, so that writing a blob never has to sync a new folder's parent. */
static enum status make_folders(struct blob_store *store, struct error *error) {
    for (unsigned i = 0; i < 256; i++) {
        char name[3];
        snprintf(name, sizeof name, "%02x", i);
        if (mkdirat(store->blobs, name, 0700) != 0 && errno != EEXIST) {
            return blob_failed(store, error, errno, "make folder", name);
        }
    }
    if (fsync(store->blobs) != 0) return blob_failed(store, error, errno, "fsync folder", "blobs");
    return file_sync_directory(store->directory, error);
}

enum status blob_store_open(const char *directory, const struct storage_digest *digest,
                            struct blob_store **out, struct error *error) {
    struct blob_store *store = xcalloc(1, sizeof *store);
    store->directory = xstrdup(directory);
    store->digest = digest;
    store->blobs = store->uploads = -1;
    enum status status = open_folder(store, "blobs", &store->blobs, error);
    if (status == OK) status = open_folder(store, "uploads", &store->uploads, error);
    if (status == OK) status = make_folders(store, error);
    if (status == OK)
        *out = store;
    else
        blob_store_close(store);
    return status;
}

enum status blob_store_open_reading(const char *directory, const struct storage_digest *digest,
                                    struct blob_store **out, struct error *error) {
    char *path = file_join(directory, "blobs");
    int blobs = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    enum status status = blobs >= 0 || errno == ENOENT
                             ? OK
                             : error_set(error, FAILED, "open %s: %s", path, strerror(errno));
    free(path);
    TRY(status);
    struct blob_store *store = xcalloc(1, sizeof *store);
    store->directory = xstrdup(directory);
    store->digest = digest;
    store->blobs = blobs;
    store->uploads = -1;
    *out = store;
    return OK;
}

void blob_store_close(struct blob_store *store) {
    if (!store) return;
    if (store->blobs >= 0) close(store->blobs);
    if (store->uploads >= 0) close(store->uploads);
    free(store->directory);
    free(store);
}

/* --- whole blobs --- */

enum status blob_write(struct blob_store *store, struct bytes content,
                       uint8_t digest[static BLOB_DIGEST_SIZE], struct error *error) {
    uint8_t made[BLOB_DIGEST_SIZE];
    char temporary[BLOB_TEMPORARY_SIZE];
    int file = -1;
    store->digest->pieces(&content, 1, made);
    TRY(blob_temporary(store, content, &file, temporary, error));
    enum status status =
        fdatasync(file) == 0 ? OK : blob_failed(store, error, errno, "sync", temporary);
    close(file);
    if (status == OK) status = blob_place(store, temporary, made, error);
    if (status != OK) {
        unlinkat(store->uploads, temporary, 0);
        return status;
    }
    TRY(blob_sync_folder(store, made[0], error));
    memcpy(digest, made, sizeof made);
    return OK;
}

static enum status open_blob(struct blob_store *store,
                             const uint8_t digest[static BLOB_DIGEST_SIZE], int *descriptor,
                             uint64_t *size, struct error *error) {
    char name[BLOB_NAME_SIZE];
    int file = openat(store->blobs, blob_name(digest, name),
                      O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (file < 0) return blob_failed(store, error, errno, "open", name);
    struct stat info;
    enum status status = OK;
    if (fstat(file, &info) != 0)
        status = blob_failed(store, error, errno, "stat", name);
    else if (!S_ISREG(info.st_mode))
        status = blob_corrupt(store, error, digest, "is not a regular file");
    if (status != OK) {
        close(file);
        return status;
    }
    *descriptor = file;
    *size = (uint64_t)info.st_size;
    return OK;
}

static enum status read_all(const struct blob_store *store, int file, uint8_t *out, size_t size,
                            uint64_t offset, size_t *read_size, struct error *error) {
    size_t at = 0;
    while (at < size) {
        ssize_t got = pread(file, out + at, size - at, (off_t)(offset + at));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return blob_failed(store, error, errno, "read", "a blob");
        if (got == 0) break;
        at += (size_t)got;
    }
    *read_size = at;
    return OK;
}

enum status blob_read_unchecked(struct blob_store *store,
                                const uint8_t digest[static BLOB_DIGEST_SIZE], size_t limit,
                                struct buffer *out, struct error *error) {
    int file = -1;
    uint64_t size = 0;
    TRY(open_blob(store, digest, &file, &size, error));
    enum status status = OK;
    if (size > limit) {
        status = error_set(error, INVALID,
                           "blobs in %s: a blob of %llu bytes, more than the limit of %zu",
                           store->directory, (unsigned long long)size, limit);
        goto out;
    }
    out->size = 0;
    buffer_reserve(out, (size_t)size);
    status = read_all(store, file, out->data, (size_t)size, 0, &out->size, error);
    if (status != OK) out->size = 0;
out:
    close(file);
    return status;
}

enum status blob_read(struct blob_store *store, const uint8_t digest[static BLOB_DIGEST_SIZE],
                      size_t limit, struct buffer *out, struct error *error) {
    uint8_t made[BLOB_DIGEST_SIZE];
    TRY(blob_read_unchecked(store, digest, limit, out, error));
    struct bytes content = buffer_bytes(out);
    store->digest->pieces(&content, 1, made);
    if (memcmp(made, digest, sizeof made) == 0) return OK;
    out->size = 0;
    return blob_corrupt(store, error, digest, "disagrees with its digest");
}

enum status blob_size(struct blob_store *store, const uint8_t digest[static BLOB_DIGEST_SIZE],
                      uint64_t *out, struct error *error) {
    char name[BLOB_NAME_SIZE];
    struct stat info;
    if (fstatat(store->blobs, blob_name(digest, name), &info, AT_SYMLINK_NOFOLLOW) != 0) {
        return blob_failed(store, error, errno, "stat", name);
    }
    if (!S_ISREG(info.st_mode)) return blob_corrupt(store, error, digest, "is not a regular file");
    if (out) *out = (uint64_t)info.st_size;
    return OK;
}

bool blob_exists(struct blob_store *store, const uint8_t digest[static BLOB_DIGEST_SIZE]) {
    return blob_size(store, digest, NULL, NULL) == OK;
}

enum status blob_delete(struct blob_store *store, const uint8_t digest[static BLOB_DIGEST_SIZE],
                        struct error *error) {
    char name[BLOB_NAME_SIZE];
    if (unlinkat(store->blobs, blob_name(digest, name), 0) == 0) return OK;
    return blob_failed(store, error, errno, "delete", name);
}

enum status blob_check(struct blob_store *store, const uint8_t digest[static BLOB_DIGEST_SIZE],
                       struct error *error) {
    struct blob_reader *reader = NULL;
    TRY(blob_reader_open(store, digest, &reader, error));
    blob_reader_close(reader);
    return OK;
}

/* --- reading a piece at a time --- */

struct blob_reader {
    const struct blob_store *store;
    int file;
    uint64_t size;
    uint8_t digest[BLOB_DIGEST_SIZE];
};

enum status blob_reader_open_unchecked(struct blob_store *store,
                                       const uint8_t digest[static BLOB_DIGEST_SIZE],
                                       struct blob_reader **out, struct error *error) {
    int file = -1;
    uint64_t size = 0;
    TRY(open_blob(store, digest, &file, &size, error));
    struct blob_reader *reader = xcalloc(1, sizeof *reader);
    reader->store = store;
    reader->file = file;
    reader->size = size;
    memcpy(reader->digest, digest, sizeof reader->digest);
    *out = reader;
    return OK;
}

enum status blob_reader_open(struct blob_store *store,
                             const uint8_t digest[static BLOB_DIGEST_SIZE],
                             struct blob_reader **out, struct error *error) {
    struct blob_reader *reader = NULL;
    TRY(blob_reader_open_unchecked(store, digest, &reader, error));
    uint8_t made[BLOB_DIGEST_SIZE];
    enum status status = blob_digest_file(store, reader->file, made, &reader->size, error);
    if (status == OK && memcmp(made, digest, sizeof made) != 0) {
        status = blob_corrupt(store, error, digest, "disagrees with its digest");
    }
    if (status == OK)
        *out = reader;
    else
        blob_reader_close(reader);
    return status;
}

uint64_t blob_reader_size(const struct blob_reader *reader) { return reader->size; }

enum status blob_reader_read(struct blob_reader *reader, uint64_t offset, void *out, size_t size,
                             struct error *error) {
    if (offset > reader->size || size > reader->size - offset) {
        return error_set(error, INVALID, "%zu bytes from %llu of a blob that has %llu", size,
                         (unsigned long long)offset, (unsigned long long)reader->size);
    }
    size_t got = 0;
    TRY(read_all(reader->store, reader->file, out, size, offset, &got, error));
    return got == size ? OK : blob_corrupt(reader->store, error, reader->digest, "has been cut");
}

void blob_reader_close(struct blob_reader *reader) {
    if (!reader) return;
    close(reader->file);
    free(reader);
}

/* --- walking --- */

/* The digest that a path says, or false for anything that is not a blob's name in canonical
 * spelling. */
static bool digest_of_name(unsigned folder, const char *name,
                           uint8_t out[static BLOB_DIGEST_SIZE]) {
    char canonical[BLOB_NAME_SIZE];
    out[0] = (uint8_t)folder;
    return hex_decode(name, out + 1, BLOB_DIGEST_SIZE - 1, NULL) == OK &&
           strcmp(blob_name(out, canonical) + 3, name) == 0;
}

struct found {
    uint8_t digest[BLOB_DIGEST_SIZE];
    uint64_t size;
};

static int by_digest(const void *a, const void *b) { return memcmp(a, b, BLOB_DIGEST_SIZE); }

static enum status list_folder(struct blob_store *store, unsigned folder, struct found **out,
                               size_t *count, struct error *error) {
    char name[3];
    snprintf(name, sizeof name, "%02x", folder);
    int descriptor = openat(store->blobs, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *directory = descriptor < 0 ? NULL : fdopendir(descriptor);
    if (!directory) {
        enum status status = blob_failed(store, error, errno, "list folder", name);
        if (descriptor >= 0) close(descriptor);
        return status;
    }
    struct found *list = NULL;
    size_t found = 0, capacity = 0;
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        struct stat info;
        struct found one = {0};
        if (!digest_of_name(folder, entry->d_name, one.digest)) continue;
        if (fstatat(descriptor, entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0 ||
            !S_ISREG(info.st_mode))
            continue;
        one.size = (uint64_t)info.st_size;
        if (found == capacity)
            list = xrealloc(list, (capacity = capacity ? 2 * capacity : 16) * sizeof *list);
        list[found++] = one;
    }
    closedir(directory);
    if (found > 0) qsort(list, found, sizeof *list, by_digest);
    *out = list;
    *count = found;
    return OK;
}

enum status blob_each(struct blob_store *store, blob_visit *visit, void *context,
                      struct error *error) {
    for (unsigned folder = 0; folder < 256; folder++) {
        struct found *list = NULL;
        size_t count = 0;
        TRY(list_folder(store, folder, &list, &count, error));
        enum status status = OK;
        for (size_t i = 0; status == OK && i < count; i++)
            status = visit(context, list[i].digest, list[i].size, error);
        free(list);
        if (status != OK) return status;
    }
    return OK;
}

static enum status add_up(void *context, const uint8_t *digest, uint64_t size,
                          struct error *error) {
    (void)digest, (void)error;
    uint64_t *total = context;
    total[0]++;
    total[1] += size;
    return OK;
}

enum status blob_total(struct blob_store *store, uint64_t *count, uint64_t *size,
                       struct error *error) {
    uint64_t total[2] = {0};
    TRY(blob_each(store, add_up, total, error));
    if (count) *count = total[0];
    if (size) *size = total[1];
    return OK;
}

/* --- batches --- */

enum { BATCH_BLOBS_MAX = 4096, SYNC_WHOLE_FROM = 4 };

struct pending {
    uint8_t digest[BLOB_DIGEST_SIZE];
    char temporary[BLOB_TEMPORARY_SIZE];
};

struct blob_batch {
    struct blob_store *store;
    struct pending *pending; /* [capacity] */
    size_t count, capacity;
};

struct blob_batch *blob_batch_create(struct blob_store *store) {
    struct blob_batch *batch = xcalloc(1, sizeof *batch);
    batch->store = store;
    return batch;
}

static void drop_pending(struct blob_batch *batch) {
    for (size_t i = 0; i < batch->count; i++)
        unlinkat(batch->store->uploads, batch->pending[i].temporary, 0);
    batch->count = 0;
}

void blob_batch_destroy(struct blob_batch *batch) {
    if (!batch) return;
    drop_pending(batch);
    free(batch->pending);
    free(batch);
}

enum status blob_batch_add(struct blob_batch *batch, struct bytes content,
                           uint8_t digest[static BLOB_DIGEST_SIZE], struct error *error) {
    if (batch->count == BATCH_BLOBS_MAX)
        return error_set(error, INVALID, "more than %d blobs in a batch", BATCH_BLOBS_MAX);
    struct pending one;
    int file = -1;
    batch->store->digest->pieces(&content, 1, one.digest);
    TRY(blob_temporary(batch->store, content, &file, one.temporary, error));
    close(file); /* what was written stays dirty until synced below: by name again, or with its
                    whole file system */
    if (batch->count == batch->capacity) {
        batch->capacity = batch->capacity ? 2 * batch->capacity : 16;
        batch->pending = xrealloc(batch->pending, batch->capacity * sizeof *batch->pending);
    }
    batch->pending[batch->count++] = one;
    memcpy(digest, one.digest, sizeof one.digest);
    return OK;
}

/* One syncfs lets the kernel write everything in its own order, which is several times as fast as
 * waiting for each file. It also writes other people's dirty pages: not worth it for a few. Write
 * errors since the descriptor was opened are reported by it (Linux 5.8). */
static enum status sync_contents(struct blob_batch *batch, struct error *error) {
    struct blob_store *store = batch->store;
    if (batch->count >= SYNC_WHOLE_FROM) {
        return syncfs(store->uploads) == 0
                   ? OK
                   : blob_failed(store, error, errno, "sync the file system of", "uploads");
    }
    for (size_t i = 0; i < batch->count; i++) {
        int file =
            openat(store->uploads, batch->pending[i].temporary, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
        int code = file < 0 ? errno : fdatasync(file) == 0 ? 0 : errno;
        if (file >= 0) close(file);
        if (code)
            return blob_failed(store, error, code == ENOENT ? EIO : code, "sync",
                               batch->pending[i].temporary);
    }
    return OK;
}

enum status blob_batch_sync(struct blob_batch *batch, struct error *error) {
    bool touched[256] = {false};
    size_t placed = 0;
    enum status status = sync_contents(batch, error);
    for (; status == OK && placed < batch->count; placed++) {
        status = blob_place(batch->store, batch->pending[placed].temporary,
                            batch->pending[placed].digest, error);
        touched[batch->pending[placed].digest[0]] = true;
    }
    for (unsigned folder = 0; status == OK && folder < 256; folder++) {
        if (touched[folder]) status = blob_sync_folder(batch->store, (uint8_t)folder, error);
    }
    drop_pending(batch); /* those in place are no longer under their temporary names */
    return status;
}
