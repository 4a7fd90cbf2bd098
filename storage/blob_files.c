/* Paths, temporary names, syncs and errors that blob.c and blob_upload.c share
 * (storage/blob_files.h). */
#include "storage/blob_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"

enum { CHUNK = 1 << 18 };

const char *blob_name(const uint8_t digest[static BLOB_DIGEST_SIZE],
                      char out[static BLOB_NAME_SIZE]) {
    char hex[HEX32_SIZE];
    hex_encode(digest, BLOB_DIGEST_SIZE, hex);
    snprintf(out, BLOB_NAME_SIZE, "%.2s/%s", hex, hex + 2);
    return out;
}

enum status blob_failed(const struct blob_store *store, struct error *error, int code,
                        const char *doing, const char *name) {
    /* opened for reading where there is no folder */
    if (code == EBADF && store->blobs < 0) code = ENOENT;
    if (code == ENOENT)
        return error_set(error, NOT_FOUND, "blobs in %s: %s %s: there is none", store->directory,
                         doing, name);
    if (code != ENOSPC && code != EDQUOT && code != EFBIG) {
        return error_set(error, FAILED, "blobs in %s: %s %s: %s", store->directory, doing, name,
                         strerror(code));
    }
    struct statvfs disk = {0};
    char reason[FILE_REASON_SIZE];
    fstatvfs(store->blobs, &disk);
    return error_set(error, FULL, "blobs in %s: %s %s: %s (%llu MiB and %llu files left)",
                     store->directory, doing, name, file_reason(code, reason),
                     (unsigned long long)disk.f_bavail * disk.f_frsize >> 20,
                     (unsigned long long)disk.f_favail);
}

enum status blob_corrupt(const struct blob_store *store, struct error *error,
                         const uint8_t digest[static BLOB_DIGEST_SIZE], const char *what) {
    char hex[HEX32_SIZE];
    return error_set(error, CORRUPT, "blobs in %s: blob %s %s", store->directory,
                     hex_encode(digest, BLOB_DIGEST_SIZE, hex), what);
}

enum status blob_write_all(const struct blob_store *store, int descriptor, struct bytes content,
                           const char *name, struct error *error) {
    for (size_t at = 0; at < content.size;) {
        ssize_t wrote = write(descriptor, content.data + at, content.size - at);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote < 0) return blob_failed(store, error, errno, "write", name);
        at += (size_t)wrote;
    }
    return OK;
}

enum status blob_temporary(const struct blob_store *store, struct bytes content, int *descriptor,
                           char name[static BLOB_TEMPORARY_SIZE], struct error *error) {
    uint64_t unique; /* pids repeat between containers that share a volume */
    random_system(&unique, sizeof unique);
    snprintf(name, BLOB_TEMPORARY_SIZE, ".tmp-%ld-%016llx", (long)getpid(),
             (unsigned long long)unique);
    int file =
        openat(store->uploads, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file < 0) return blob_failed(store, error, errno == ENOENT ? EIO : errno, "create", name);
    enum status status = blob_write_all(store, file, content, name, error);
    if (status != OK) {
        close(file);
        unlinkat(store->uploads, name, 0);
        return status;
    }
    *descriptor = file;
    return OK;
}

enum status blob_place(const struct blob_store *store, const char *from,
                       const uint8_t digest[static BLOB_DIGEST_SIZE], struct error *error) {
    char name[BLOB_NAME_SIZE];
    blob_name(digest, name);
    if (fchmodat(store->uploads, from, 0400, 0) != 0 ||
        renameat(store->uploads, from, store->blobs, name) != 0) {
        return blob_failed(store, error, errno == ENOENT ? EIO : errno, "move into place", name);
    }
    return OK;
}

enum status blob_sync_folder(const struct blob_store *store, uint8_t first_byte,
                             struct error *error) {
    char name[3];
    snprintf(name, sizeof name, "%02x", first_byte);
    int folder = openat(store->blobs, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int code = folder < 0 ? errno : fsync(folder) == 0 ? 0 : errno;
    if (folder >= 0) close(folder);
    return code ? blob_failed(store, error, code == ENOENT ? EIO : code, "fsync folder", name) : OK;
}

struct digest *blob_digest_state(const struct blob_store *store) {
    return xmalloc(store->digest->state_size);
}

enum status blob_digest_file(const struct blob_store *store, int descriptor,
                             uint8_t out[static BLOB_DIGEST_SIZE], uint64_t *size,
                             struct error *error) {
    struct digest *state = blob_digest_state(store);
    uint8_t *chunk = xmalloc(CHUNK);
    enum status status = OK;
    uint64_t at = 0;
    store->digest->init(state);
    for (;;) {
        ssize_t got = pread(descriptor, chunk, CHUNK, (off_t)at);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) status = blob_failed(store, error, errno, "read", "a blob");
        if (got <= 0) break;
        store->digest->update(state, chunk, (size_t)got);
        at += (uint64_t)got;
    }
    store->digest->final(state, out);
    *size = at;
    free(chunk);
    free(state);
    return status;
}
