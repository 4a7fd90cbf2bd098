/* Whole files: read with a limit, written so that a crash leaves the old one or the new one, never
 * a half. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/bytes.h"

/* Opens a regular file for reading. Nothing else is ever opened, so that this cannot hang: a FIFO
 * waits for a writer, a device may do anything. NOT_FOUND; INVALID says what the path is instead;
 * FAILED. *size may be NULL. */
MUST_USE enum status file_open(const char *path, int *out, uint64_t *size, struct error *error);
/* INVALID if there is something at the path that is not a regular file, and says what: it is not to
 * be opened nor written over. */
MUST_USE enum status file_check_kind(const char *path, struct error *error);

/* Appends the file's content to *out. NOT_FOUND; INVALID if it is larger than limit; FAILED for the
 * rest, with the reason. A terminating zero byte lies after the content (not counted), so text may
 * be read as a string. */
MUST_USE enum status file_read(const char *path, size_t limit, struct buffer *out,
                               struct error *error);
/* Write to a temporary beside it, fdatasync, rename over path, fsync the directory. A symbolic link
 * stays, and what it points to is replaced. FULL if the disk is, or a limit is met; INVALID if the
 * path is of something that is not a regular file, which stays. */
MUST_USE enum status file_write(const char *path, struct bytes content, mode_t mode,
                                struct error *error);
/* All of `size` bytes, however many calls it takes. */
MUST_USE enum status file_write_all(int descriptor, const void *data, size_t size,
                                    struct error *error);
/* fsync on a directory: makes created, renamed and removed names in it durable. */
MUST_USE enum status file_sync_directory(const char *path, struct error *error);
/* Makes the directory and its missing parents. OK if it is there already; INVALID if a file is in
 * the way. */
MUST_USE enum status file_make_directory(const char *path, mode_t mode, struct error *error);
/* INVALID if everybody may write in it and it is not sticky: what is private there could be
 * replaced. */
MUST_USE enum status file_check_private_directory(const char *path, struct error *error);
bool file_exists(const char *path);
/* OK if a file of that name could be written now: its directory is there and ours to write, and no
 * directory has its name. NOT_FOUND, INVALID, FAILED say which; nothing is made. */
MUST_USE enum status file_check_output(const char *path, struct error *error);
/* Where something of that name is kept that may be lost: in ATOLL_CACHE, XDG_CACHE_HOME/atoll or
 * HOME/.cache/atoll, the first that is set to an absolute path; the directory is made if it can be.
 * NULL if none is set. Owned by the caller. */
char *file_cache(const char *name);
/* Deletes the directory (or file) and all that is below it; follows no link, crosses no mount
 * point. What is not there is OK. */
MUST_USE enum status file_remove_tree(const char *path, struct error *error);
/* Where a write to `path` ends: *out, owned by the caller, is the name behind all links, which need
 * not exist. INVALID: it is something other than a regular file, or its links lead nowhere. */
MUST_USE enum status file_target(const char *path, char **out, struct error *error);
/* What errno's value means, with the limit of a file's size where that was met. Returns `out`. */
enum { FILE_REASON_SIZE = 160 };
const char *file_reason(int number, char out[static FILE_REASON_SIZE]);
/* directory + "/" + name, owned by the caller. */
char *file_join(const char *directory, const char *name);

#endif
