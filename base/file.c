/* Whole files (base/file.h). A write goes to NAME.tmp.NUMBER in the same directory, is synced,
 * renamed over NAME, and the directory is synced. ENOSPC, EDQUOT and EFBIG are told apart from
 * other errors, because a person can make room. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"

static bool is_full(int number) { return number == ENOSPC || number == EDQUOT || number == EFBIG; }

const char *file_reason(int number, char out[static FILE_REASON_SIZE]) {
    struct rlimit limit;
    if (number == EFBIG && getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        snprintf(out, FILE_REASON_SIZE, "%s: the limit of a file's size, ulimit -f, is %llu bytes",
                 strerror(number), (unsigned long long)limit.rlim_cur);
    else if (number == EMFILE)
        snprintf(out, FILE_REASON_SIZE,
                 "too many files are open: raise the limit (ulimit -n, LimitNOFILE of systemd)");
    else
        snprintf(out, FILE_REASON_SIZE, "%s", strerror(number));
    return out;
}

static enum status from_errno(struct error *error, const char *doing, const char *path) {
    char reason[FILE_REASON_SIZE];
    enum status status = errno == ENOENT ? NOT_FOUND : is_full(errno) ? FULL : FAILED;
    return error_set(error, status, "%s %s: %s", doing, path, file_reason(errno, reason));
}

char *file_join(const char *directory, const char *name) {
    return xformat("%s/%s", directory, name);
}

char *file_cache(const char *name) {
    static const struct {
        const char *variable, *below;
    } places[] = {{"ATOLL_CACHE", ""}, {"XDG_CACHE_HOME", "/atoll"}, {"HOME", "/.cache/atoll"}};
    for (size_t i = 0; i < COUNT_OF(places); i++) {
        const char *place = getenv(places[i].variable);
        if (!place || place[0] != '/') continue;
        char *directory = xformat("%s%s", place, places[i].below);
        (void)!file_make_directory(directory, 0700, NULL); /* who writes there will say so */
        char *path = file_join(directory, name);
        free(directory);
        return path;
    }
    return NULL;
}

bool file_exists(const char *path) {
    struct stat info;
    return stat(path, &info) == 0;
}

static enum status kind_of(const char *path, const struct stat *info, struct error *error) {
    if (S_ISREG(info->st_mode)) return OK;
    const char *what = S_ISDIR(info->st_mode)    ? "a directory"
                       : S_ISFIFO(info->st_mode) ? "a pipe (FIFO)"
                       : S_ISSOCK(info->st_mode) ? "a socket"
                                                 : "a device";
    return error_set(error, INVALID, "%s is not a regular file, it is %s", path, what);
}

enum status file_check_kind(const char *path, struct error *error) {
    struct stat info;
    return stat(path, &info) == 0 ? kind_of(path, &info, error) : OK;
}

/* The kind is looked at before opening, because opening a device may have effects, and again after
 * it, because a name may be of something else by then; O_NONBLOCK, which means nothing to a regular
 * file, is for that moment. */
enum status file_open(const char *path, int *out, uint64_t *size, struct error *error) {
    struct stat info;
    if (stat(path, &info) != 0) return from_errno(error, "open", path);
    TRY(kind_of(path, &info, error));
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (descriptor < 0) return from_errno(error, "open", path);
    enum status status = fstat(descriptor, &info) == 0 ? kind_of(path, &info, error)
                                                       : from_errno(error, "stat", path);
    if (status != OK) {
        close(descriptor);
        return status;
    }
    *out = descriptor;
    if (size) *size = (uint64_t)info.st_size;
    return OK;
}

enum status file_read(const char *path, size_t limit, struct buffer *out, struct error *error) {
    int descriptor = -1;
    uint64_t size = 0;
    TRY(file_open(path, &descriptor, &size, error));
    enum status status = OK;
    if (size > limit) {
        status = error_set(error, INVALID, "%s has %llu bytes, more than the limit of %zu", path,
                           (unsigned long long)size, limit);
        goto out;
    }
    size_t start = out->size;
    buffer_reserve(out, start + (size_t)size + 1);
    for (;;) {
        if (out->size - start > limit) {
            status =
                error_set(error, INVALID, "%s grew past the limit of %zu bytes while it was read",
                          path, limit);
            break;
        }
        buffer_reserve(out, out->size + 1);
        ssize_t got = read(descriptor, out->data + out->size, out->capacity - out->size);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) status = from_errno(error, "read", path);
        if (got <= 0) break;
        out->size += (size_t)got;
    }
    buffer_reserve(out, out->size + 1);
    out->data[out->size] = 0;
    if (status != OK) out->size = start;
out:
    close(descriptor);
    return status;
}

enum status file_write_all(int descriptor, const void *data, size_t size, struct error *error) {
    const char *at = data;
    while (size > 0) {
        ssize_t wrote = write(descriptor, at, size);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote < 0) {
            char reason[FILE_REASON_SIZE];
            return error_set(error, is_full(errno) ? FULL : FAILED, "write: %s",
                             file_reason(errno, reason));
        }
        at += wrote;
        size -= (size_t)wrote;
    }
    return OK;
}

enum status file_sync_directory(const char *path, struct error *error) {
    int descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) return from_errno(error, "open directory", path);
    enum status status = fsync(descriptor) == 0 ? OK : from_errno(error, "fsync directory", path);
    close(descriptor);
    return status;
}

static enum status sync_parent(const char *path, struct error *error) {
    char *parent = xstrdup(path);
    char *slash = strrchr(parent, '/');
    if (slash && slash != parent) *slash = 0;
    enum status status = file_sync_directory(slash ? (slash == parent ? "/" : parent) : ".", error);
    free(parent);
    return status;
}

enum { LINKS_MAX = 40 };

/* What the link at `path` says, as seen from where we are. */
static char *follow(const char *path) {
    char text[PATH_MAX];
    ssize_t size = readlink(path, text, sizeof text - 1);
    if (size <= 0) return NULL;
    text[size] = 0;
    const char *slash = strrchr(path, '/');
    return *text == '/' || !slash ? xstrdup(text)
                                  : xformat("%.*s/%s", (int)(slash - path), path, text);
}

enum status file_target(const char *path, char **out, struct error *error) {
    TRY(file_check_kind(path, error));
    struct stat info;
    char *at = xstrdup(path);
    for (int links = 0; lstat(at, &info) == 0 && S_ISLNK(info.st_mode); links++) {
        char *next = links < LINKS_MAX ? follow(at) : NULL;
        free(at);
        if (!next) return error_set(error, INVALID, "%s: its links lead nowhere", path);
        at = next;
    }
    *out = at;
    return OK;
}

static enum status write_regular(const char *path, struct bytes content, mode_t mode,
                                 struct error *error) {
    char *temporary = xformat("%s.tmp.%ld", path, (long)getpid());
    unlink(temporary);
    int descriptor = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    enum status status = OK;
    if (descriptor < 0) {
        status = from_errno(error, "create", temporary);
        goto out;
    }
    status = file_write_all(descriptor, content.data, content.size, error);
    if (status == OK && fdatasync(descriptor) != 0)
        status = from_errno(error, "fdatasync", temporary);
    if (close(descriptor) != 0 && status == OK) status = from_errno(error, "close", temporary);
    if (status == OK && rename(temporary, path) != 0)
        status = from_errno(error, "rename onto", path);
    if (status != OK) {
        unlink(temporary);
        error_wrap(error, status, "write %s", path);
        goto out;
    }
    status = sync_parent(path, error);
out:
    free(temporary);
    return status;
}

enum status file_write(const char *path, struct bytes content, mode_t mode, struct error *error) {
    char *target;
    enum status status = file_target(path, &target, error);
    if (status != OK) return error_wrap(error, status, "write");
    status = write_regular(target, content, mode, error);
    free(target);
    return status;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *where) {
    (void)info, (void)kind, (void)where;
    return remove(path);
}

enum status file_remove_tree(const char *path, struct error *error) {
    struct stat info;
    if (lstat(path, &info) != 0) return errno == ENOENT ? OK : from_errno(error, "look for", path);
    return nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) == 0
               ? OK
               : from_errno(error, "remove all of", path);
}

enum status file_check_output(const char *path, struct error *error) {
    char *parent = xstrdup(path), *slash = strrchr(parent, '/');
    const char *directory = !slash ? "." : slash == parent ? "/" : parent;
    struct stat info;
    if (slash && slash != parent) *slash = 0;
    enum status status = OK;
    if (stat(directory, &info) != 0)
        status = error_set(error, errno == ENOENT ? NOT_FOUND : FAILED,
                           "%s cannot be written: its directory %s: %s", path, directory,
                           strerror(errno));
    else if (!S_ISDIR(info.st_mode))
        status = error_set(error, INVALID, "%s cannot be written: %s is not a directory", path,
                           directory);
    else if (faccessat(AT_FDCWD, directory, W_OK | X_OK, AT_EACCESS) != 0)
        status = error_set(error, FAILED, "%s cannot be written: its directory %s: %s", path,
                           directory, strerror(errno));
    else if (stat(path, &info) == 0 && S_ISDIR(info.st_mode))
        status = error_set(error, INVALID, "%s cannot be written: it is a directory", path);
    free(parent);
    return status;
}

enum status file_make_directory(const char *path, mode_t mode, struct error *error) {
    char *partial = xstrdup(path);
    enum status status = OK;
    for (char *at = partial + 1;; at++) {
        if (*at != '/' && *at != 0) continue;
        bool last = *at == 0;
        *at = 0;
        if (mkdir(partial, mode) != 0 && errno != EEXIST) {
            status = from_errno(error, "make directory", partial);
            break;
        }
        if (last) break;
        *at = '/';
    }
    struct stat info;
    if (status == OK && (stat(path, &info) != 0 || !S_ISDIR(info.st_mode))) {
        status = error_set(error, INVALID, "%s is in the way of a directory of that name", path);
    }
    free(partial);
    return status;
}

enum status file_check_private_directory(const char *path, struct error *error) {
    struct stat info;
    if (stat(path, &info) != 0) return from_errno(error, "look at directory", path);
    bool others = info.st_mode & S_IWOTH, sticky = info.st_mode & S_ISVTX;
    if (!others || sticky) return OK; /* sticky, as /tmp: nobody replaces what is another's */
    return error_set(error, INVALID,
                     "everybody may write in %s (mode %04o): chmod o-w it, and see that nothing in "
                     "it was replaced",
                     path, (unsigned)info.st_mode & 07777);
}
