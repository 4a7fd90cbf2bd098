/* Uploads: a file under uploads/ that grows at its end, and becomes a blob when its bytes have the
 * promised digest.
 *
 * The digest runs along while the upload was begun and is continued by the same handle. One that
 * was taken up again after a restart is read once more at its end; that costs one pass and needs no
 * state on disk that could disagree with the file. After a loss of power the file may hold fewer
 * bytes than were acknowledged, or (on some file systems) zeroes: the size says the first, the
 * digest at the end the second. flock keeps two handles from writing to one upload.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "storage/blob_files.h"

/* bytes after which the kernel is asked to begin writing: the sync at the end is then short */
enum { WRITEBACK_STEP = 8 << 20 };

struct blob_upload {
    struct blob_store *store;
    char *name;
    int file;
    uint64_t size, limit, written_back;
    struct digest *running; /* NULL once the file holds bytes that it has not seen */
    bool finished;
};

static bool name_is_clean(const char *name) {
    size_t size = strnlen(name, BLOB_UPLOAD_NAME_MAX + 1);
    if (size < 1 || size > BLOB_UPLOAD_NAME_MAX || *name == '.') return false;
    return strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-") ==
           size;
}

/* The file that we have locked may have been deleted, or moved into place, between open and flock.
 */
static bool still_named(const struct blob_store *store, int file, const char *name) {
    struct stat ours, named;
    return fstat(file, &ours) == 0 &&
           fstatat(store->uploads, name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
           ours.st_ino == named.st_ino && ours.st_dev == named.st_dev;
}

static enum status open_locked(struct blob_store *store, const char *name, int *out, uint64_t *size,
                               struct error *error) {
    for (int attempt = 0; attempt < 10; attempt++) {
        int file = openat(store->uploads, name,
                          O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
        if (file < 0)
            return blob_failed(store, error, errno == ENOENT ? EIO : errno, "open the upload",
                               name);
        struct stat info;
        enum status status = OK;
        if (flock(file, LOCK_EX | LOCK_NB) != 0) {
            status = error_set(error, UNAVAILABLE, "blobs in %s: the upload %s is open already",
                               store->directory, name);
        } else if (fstat(file, &info) != 0 || !S_ISREG(info.st_mode)) {
            status = error_set(error, FAILED, "blobs in %s: the upload %s is not a regular file",
                               store->directory, name);
        } else if (still_named(store, file, name)) {
            *out = file;
            *size = (uint64_t)info.st_size;
            return OK;
        }
        close(file);
        if (status != OK) return status;
    }
    return error_set(error, UNAVAILABLE,
                     "blobs in %s: the upload %s keeps appearing and disappearing",
                     store->directory, name);
}

static void begin_digest(struct blob_upload *upload) {
    if (!upload->running) upload->running = blob_digest_state(upload->store);
    upload->store->digest->init(upload->running);
}

enum status blob_upload_open(struct blob_store *store, const char *name, uint64_t limit,
                             struct blob_upload **out, struct error *error) {
    if (!name_is_clean(name))
        return error_set(error, INVALID, "an upload's name must be 1 to %d of [A-Za-z0-9_.-]",
                         BLOB_UPLOAD_NAME_MAX);
    int file = -1;
    uint64_t size = 0;
    TRY(open_locked(store, name, &file, &size, error));
    if (size > limit) {
        close(file);
        return error_set(
            error, INVALID, "blobs in %s: the upload %s has %llu bytes already, more than %llu",
            store->directory, name, (unsigned long long)size, (unsigned long long)limit);
    }
    struct blob_upload *upload = xcalloc(1, sizeof *upload);
    upload->store = store;
    upload->name = xstrdup(name);
    upload->file = file;
    upload->size = size;
    upload->limit = limit;
    if (size == 0) begin_digest(upload);
    *out = upload;
    return OK;
}

uint64_t blob_upload_size(const struct blob_upload *upload) { return upload->size; }

enum status blob_upload_append(struct blob_upload *upload, uint64_t offset, struct bytes content,
                               struct error *error) {
    if (upload->finished)
        return error_set(error, INVALID, "the upload %s is finished", upload->name);
    if (offset != upload->size) {
        return error_set(error, INVALID, "the upload %s goes on at byte %llu, not %llu",
                         upload->name, (unsigned long long)upload->size,
                         (unsigned long long)offset);
    }
    if (content.size > upload->limit - upload->size) {
        return error_set(error, INVALID, "the upload %s would pass its limit of %llu bytes",
                         upload->name, (unsigned long long)upload->limit);
    }
    enum status status = blob_write_all(upload->store, upload->file, content, upload->name, error);
    if (status !=
        OK) { /* part of it may be there: say how much, and let the digest be made at the end */
        struct stat info;
        uint64_t before = upload->size;
        if (fstat(upload->file, &info) == 0) upload->size = (uint64_t)info.st_size;
        if (upload->size != before) {
            free(upload->running);
            upload->running = NULL;
        }
        return status;
    }
    if (upload->running) upload->store->digest->update(upload->running, content.data, content.size);
    upload->size += content.size;
    if (upload->size - upload->written_back >= WRITEBACK_STEP) {
        sync_file_range(
            upload->file, (off_t)upload->written_back, (off_t)(upload->size - upload->written_back),
            SYNC_FILE_RANGE_WRITE); /* a hint: errors come back from the sync at the end */
        upload->written_back = upload->size;
    }
    return OK;
}

static enum status empty_upload(struct blob_upload *upload, struct error *error) {
    if (ftruncate(upload->file, 0) != 0)
        return blob_failed(upload->store, error, errno, "empty the upload", upload->name);
    upload->size = upload->written_back = 0;
    begin_digest(upload);
    return OK;
}

enum status blob_upload_finish(struct blob_upload *upload,
                               const uint8_t digest[static BLOB_DIGEST_SIZE], struct error *error) {
    if (upload->finished)
        return error_set(error, INVALID, "the upload %s is finished already", upload->name);
    struct blob_store *store = upload->store;
    uint8_t made[BLOB_DIGEST_SIZE];
    if (upload->running) {
        store->digest->final(upload->running, made);
        free(upload->running);
        upload->running = NULL;
    } else {
        uint64_t size = 0;
        TRY(blob_digest_file(store, upload->file, made, &size, error));
    }
    if (memcmp(made, digest, sizeof made) != 0) {
        TRY(empty_upload(upload, error));
        return blob_corrupt(store, error, digest, "is not what was uploaded");
    }
    if (fdatasync(upload->file) != 0)
        return blob_failed(store, error, errno, "sync the upload", upload->name);
    TRY(blob_place(store, upload->name, digest, error));
    upload->finished = true;
    return blob_sync_folder(store, digest[0], error);
}

static void end_upload(struct blob_upload *upload) {
    close(upload->file);
    free(upload->running);
    free(upload->name);
    free(upload);
}

void blob_upload_close(struct blob_upload *upload) {
    if (!upload) return;
    /* nothing to go on from */
    if (!upload->finished && upload->size == 0) unlinkat(upload->store->uploads, upload->name, 0);
    end_upload(upload);
}

void blob_upload_discard(struct blob_upload *upload) {
    if (!upload) return;
    if (!upload->finished) unlinkat(upload->store->uploads, upload->name, 0);
    end_upload(upload);
}

/* Deletes one file of uploads/ if nobody has it locked and it is old enough. */
static bool remove_if_stale(const struct blob_store *store, const char *name, uint64_t now_ms,
                            uint64_t age_ms) {
    int file = openat(store->uploads, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (file < 0) return false;
    struct stat info;
    bool removed = false;
    if (flock(file, LOCK_EX | LOCK_NB) == 0 && fstat(file, &info) == 0 && S_ISREG(info.st_mode)) {
        uint64_t written_ms =
            (uint64_t)info.st_mtim.tv_sec * 1000 + (uint64_t)info.st_mtim.tv_nsec / 1000000;
        bool old = age_ms == 0 || (now_ms >= written_ms && now_ms - written_ms >= age_ms);
        removed = old && still_named(store, file, name) && unlinkat(store->uploads, name, 0) == 0;
    }
    close(file);
    return removed;
}

static enum status clean(struct blob_store *store, const char *prefix, uint64_t age_ms,
                         uint64_t *removed, struct error *error) {
    int descriptor = openat(store->uploads, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *directory = descriptor < 0 ? NULL : fdopendir(descriptor);
    if (!directory) {
        enum status status = blob_failed(store, error, errno, "list folder", "uploads");
        if (descriptor >= 0) close(descriptor);
        return status;
    }
    uint64_t now_ms = clock_wall_ms(), count = 0;
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        bool temporary = strncmp(entry->d_name, ".tmp-", 5) == 0;
        if (!temporary && !name_is_clean(entry->d_name)) continue;
        if (prefix && strncmp(entry->d_name, prefix, strlen(prefix)) != 0) continue;
        if (remove_if_stale(store, entry->d_name, now_ms, age_ms)) count++;
    }
    closedir(directory);
    if (removed) *removed = count;
    return OK;
}

enum status blob_upload_clean(struct blob_store *store, uint64_t age_ms, uint64_t *removed,
                              struct error *error) {
    return clean(store, NULL, age_ms, removed, error);
}

enum status blob_upload_clean_named(struct blob_store *store, const char *prefix, uint64_t *removed,
                                    struct error *error) {
    return clean(store, prefix, 0, removed, error);
}
