/* DIR/status.json as it is read by another process: its writer may have ended since, and then its
 * last words are old. */
#ifndef NODE_STATUS_H
#define NODE_STATUS_H

#include "base/bytes.h"
#include "base/status.h"

/* Appends the status of a site at that time. It is what the file says, except where the file speaks
 * of a process at work and has not been written for STATUS_SILENT_MS: then `state` is "gone" if
 * no process has the directory any more, else "silent"; `message` says so, `linked` is false and
 * the rates are 0. `is_at_work` is status_is_at_work, except in tests. */
enum { STATUS_SILENT_MS = 5000 };
MUST_USE enum status status_as_of(struct bytes file, const char *directory, uint64_t now_ms,
                                  bool (*is_at_work)(const char *directory, uint64_t pid),
                                  struct buffer *out, struct error *error);

/* Whether a daemon has the site's directory: by the lock on its journal; only where that may not be
 * read, by the process's number, which may be another's since. */
bool status_is_at_work(const char *directory, uint64_t pid);

/* The states of status.json in which a process is at work. */
bool status_is_working(const char *state);

#endif
