/* Files that are written anew every second (base/live_file.h): beside and renamed, or in place on a
 * full disk. */
#include "base/live_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"

/* Blocks beyond the end, which a later write in place may take. A file system that cannot do this
 * goes without. */
static enum status keep_room(int file, size_t size, struct error *error) {
    if (fallocate(file, FALLOC_FL_KEEP_SIZE, 0, (off_t)(size + LIVE_FILE_ROOM)) == 0) return OK;
    if (errno != ENOSPC && errno != EDQUOT) return OK;
    return error_set(error, FULL, "no room is left to grow: %s", strerror(errno));
}

/* Never cut, as that would give the room away. */
static enum status fill_up(int file, size_t size, struct error *error) {
    struct stat info;
    if (fstat(file, &info) != 0) return error_set(error, FAILED, "fstat: %s", strerror(errno));
    if ((size_t)info.st_size <= size) return OK;
    size_t left = (size_t)info.st_size - size;
    char *lines = xmalloc(left);
    memset(lines, '\n', left);
    enum status status = file_write_all(file, lines, left, error);
    free(lines);
    return status;
}

/* Over what is there. A first file has nothing there: then `error`, what the other way said,
 * stays. */
static enum status write_in_place(const char *path, struct bytes content, struct error *error) {
    int file = open(path, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
    if (file < 0) return FULL;
    enum status status = file_write_all(file, content.data, content.size, error);
    if (status == OK) status = fill_up(file, content.size, error);
    close(file);
    return status;
}

enum status live_file_write(const char *path, struct bytes content, struct error *error) {
    enum status status = file_check_kind(path, error);
    if (status != OK) return status;
    char *temporary = xformat("%s.new", path);
    unlink(temporary); /* never opened: whatever is there is not ours */
    int file = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (file < 0) {
        status = error_set(error, errno == ENOSPC || errno == EDQUOT ? FULL : FAILED, "open %s: %s",
                           temporary, strerror(errno));
    } else {
        status = file_write_all(file, content.data, content.size, error);
        if (status == OK) status = keep_room(file, content.size, error);
        close(file);
        if (status == OK && rename(temporary, path) != 0)
            status = error_set(error, FAILED, "rename to %s: %s", path, strerror(errno));
        if (status != OK) unlink(temporary);
    }
    if (status == FULL) status = write_in_place(path, content, error);
    free(temporary);
    return status;
}
