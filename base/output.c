/* Claims on results (base/output.h): tests that a directory or file can be written, locks it with
 * a lock file beside it, and removes what an earlier process of ours left. Nothing without our
 * mark is ever removed. */
#include "base/output.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "base/memory.h"

struct output {
    int lock;   /* -1: this file system has none */
    char *path; /* of the lock file, if it is ours to remove; else NULL */
    char **made;
    size_t made_count; /* directories, outermost first */
};

static const char MARK[] = "atoll: this file is a lock\n";

static char *parent_of(const char *path) {
    const char *slash = strrchr(path, '/');
    if (!slash) return xstrdup(".");
    char *parent = xstrdup(path);
    parent[slash == path ? 1 : slash - path] = 0;
    return parent;
}

static enum status cannot(struct error *error, const char *path, const char *doing) {
    char text[FILE_REASON_SIZE];
    enum status status = errno == ENOENT                      ? NOT_FOUND
                         : errno == ENOSPC || errno == EDQUOT ? FULL
                                                              : FAILED;
    return error_set(error, status, "%s cannot be written: %s: %s", path, doing,
                     file_reason(errno, text));
}

/* ---- whether it fits ------------------------------------------------------------------------- */

static enum status check_size(const char *path, const char *directory, uint64_t size, bool one_file,
                              struct error *error) {
    const double mib = 1 << 20;
    struct rlimit limit;
    struct statvfs disk;
    if (one_file && getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        size > limit.rlim_cur)
        return error_set(error, FULL,
                         "%s takes %.1f MiB; the limit of a file's size, ulimit -f, is %.1f MiB",
                         path, (double)size / mib, (double)limit.rlim_cur / mib);
    if (statvfs(directory, &disk) != 0) return OK;
    uint64_t left = (uint64_t)disk.f_bavail * disk.f_frsize;
    if (size <= left) return OK;
    return error_set(error, FULL, "%s takes %.1f MiB; its disk has %.1f MiB left", path,
                     (double)size / mib, (double)left / mib);
}

/* ---- a file ---------------------------------------------------------------------------------- */

/* Whether a file could be put in the place of the one that is there. */
static enum status check_there(const char *path, const char *directory, struct error *error) {
    struct stat info, folder;
    struct statx more;
    if (lstat(path, &info) != 0) return OK;
    if (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &more) == 0 &&
        (more.stx_attributes_mask & more.stx_attributes & STATX_ATTR_MOUNT_ROOT))
        return error_set(error, INVALID,
                         "%s cannot be replaced: it is a mount point; mount its directory instead",
                         path);
    uid_t user = geteuid();
    if (user != 0 && stat(directory, &folder) == 0 && (folder.st_mode & S_ISVTX) &&
        info.st_uid != user && folder.st_uid != user)
        return error_set(
            error, FAILED,
            "%s cannot be replaced: it is another user's, in a directory where only they may",
            path);
    return OK;
}

static enum status check_regular(const char *path, uint64_t size, struct error *error) {
    char *directory = parent_of(path);
    char *probe = xformat("%s.probe.%ld", path, (long)getpid());
    enum status status = check_there(path, directory, error);
    if (status != OK) goto out;
    int descriptor = open(probe, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (descriptor < 0) {
        status = cannot(error, path, "create a file beside it");
        goto out;
    }
    close(descriptor);
    unlink(probe);
    status = check_size(path, directory, size, true, error);
out:
    free(probe);
    free(directory);
    return status;
}

static enum status check_file(const char *path, uint64_t size, char **real, struct error *error) {
    TRY(file_target(path, real, error));
    enum status status = check_regular(*real, size, error);
    if (status != OK) free(*real);
    return status;
}

enum status output_check_file(const char *path, uint64_t size, struct error *error) {
    char *real;
    TRY(check_file(path, size, &real, error));
    free(real);
    return OK;
}

/* ---- locks ----------------------------------------------------------------------------------- */

static enum status lock(int descriptor, const char *path, struct error *error) {
    while (flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EINTR) continue;
        if (errno != EWOULDBLOCK) return OK; /* not on this file system */
        return error_set(
            error, UNAVAILABLE,
            "%s is being written by another process: wait for it, or name another output", path);
    }
    return OK;
}

/* The lock file that has the name now, held. One that its holder removed meanwhile is not a lock,
 * so the name is looked at again. */
static enum status lock_beside(const char *path, struct output *output, struct error *error) {
    output->path = xformat("%s.lock", path);
    for (;;) {
        bool made = true;
        output->lock = open(output->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
        if (output->lock < 0 && errno == EEXIST) {
            made = false;
            output->lock = open(output->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
            if (output->lock < 0 && errno == ENOENT) continue;
        }
        if (output->lock < 0) {
            enum status status = cannot(error, path, "make the lock beside it");
            free(output->path);
            output->path = NULL;
            return status;
        }
        enum status status = lock(output->lock, path, error);
        if (status != OK) {
            free(output->path); /* another's */
            output->path = NULL;
            return status;
        }
        struct stat held, named;
        if (fstat(output->lock, &held) == 0 && stat(output->path, &named) == 0 &&
            held.st_ino == named.st_ino) {
            char text[sizeof MARK] = "";
            if (made && file_write_all(output->lock, MARK, sizeof MARK - 1, NULL) != OK) return OK;
            if (!made && (pread(output->lock, text, sizeof text, 0) != (ssize_t)(sizeof MARK - 1) ||
                          strcmp(text, MARK) != 0)) {
                free(output->path); /* a user's own file of that name: it stays */
                output->path = NULL;
            }
            return OK;
        }
        close(output->lock);
    }
}

/* BASE.tmp.NUMBER, file_write's names: the lock is held, so the process that made them is gone. */
static void remove_left(const char *path) {
    char *directory = parent_of(path);
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    char *prefix = xformat("%s.tmp.", base);
    DIR *listing = opendir(directory);
    for (struct dirent *entry; listing && (entry = readdir(listing));) {
        const char *number = entry->d_name + strlen(prefix);
        if (strncmp(entry->d_name, prefix, strlen(prefix)) != 0 || !isdigit((unsigned char)*number))
            continue;
        if (number[strspn(number, "0123456789")] != 0) continue;
        unlinkat(dirfd(listing), entry->d_name, 0);
    }
    if (listing) closedir(listing);
    free(prefix);
    free(directory);
}

enum status output_claim_file(const char *path, uint64_t size, struct output **out,
                              struct error *error) {
    char *real;
    TRY(check_file(path, size, &real, error));
    struct output *output = xcalloc(1, sizeof *output);
    output->lock = -1;
    enum status status = lock_beside(real, output, error);
    if (status == OK && output->lock >= 0) remove_left(real);
    free(real);
    if (status == OK)
        *out = output;
    else
        output_release(output);
    return status;
}

/* ---- a directory ----------------------------------------------------------------------------- */

static enum status make_missing(const char *path, struct output *output, struct error *error) {
    char *partial = xstrdup(path);
    enum status status = OK;
    for (char *at = partial + 1; status == OK; at++) {
        if (*at != '/' && *at != 0) continue;
        bool last = *at == 0;
        *at = 0;
        if (mkdir(partial, 0755) == 0) {
            output->made = xrealloc(output->made, (output->made_count + 1) * sizeof *output->made);
            output->made[output->made_count++] = xstrdup(partial);
        } else if (errno != EEXIST) {
            status = cannot(error, path, "make the directory");
        }
        if (last) break;
        *at = '/';
    }
    free(partial);
    return status;
}

static enum status check_directory(const char *path, uint64_t size, struct error *error) {
    char *probe = xformat("%s/.probe.%ld", path, (long)getpid());
    enum status status = OK;
    int descriptor = open(probe, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (descriptor < 0)
        status = cannot(error, path, "create a file in it");
    else
        close(descriptor), unlink(probe);
    free(probe);
    return status == OK ? check_size(path, path, size, false, error) : status;
}

enum status output_claim_directory(const char *path, uint64_t size, struct output **out,
                                   struct error *error) {
    if (!*path) return error_set(error, INVALID, "the name of a directory is empty");
    struct output *output = xcalloc(1, sizeof *output);
    output->lock = -1;
    enum status status = make_missing(path, output, error);
    struct stat info;
    if (status == OK && (stat(path, &info) != 0 || !S_ISDIR(info.st_mode)))
        status = error_set(error, INVALID, "%s is in the way of a directory of that name", path);
    if (status == OK) status = check_directory(path, size, error);
    if (status == OK) {
        output->lock = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (output->lock >= 0) status = lock(output->lock, path, error);
    }
    if (status == OK)
        *out = output;
    else
        output_release(output);
    return status;
}

void output_release(struct output *output) {
    if (!output) return;
    if (output->path) unlink(output->path);
    if (output->lock >= 0) close(output->lock);
    while (output->made_count > 0) {
        /* fails where something was put in it: as it should */
        rmdir(output->made[--output->made_count]);
        free(output->made[output->made_count]);
    }
    free(output->made);
    free(output->path);
    free(output);
}
