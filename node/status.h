/* DIR/status.json as it is read by another process: its writer may have ended since, and then its
 * last words are old. */
#ifndef NODE_STATUS_H
#define NODE_STATUS_H

#include "base/bytes.h"
#include "base/status.h"

/* Appends the status of a site at that time. It is what the file says, except where the file speaks
 * of a process at work and has not been written for STATUS_SILENT_MS: then `state` is "gone" if
 * there is no such process (any more, here), else "silent"; `message` says so, `linked` is false
 * and the rates are 0. `alive`: whether there is a process of that number. */
enum { STATUS_SILENT_MS = 5000 };
MUST_USE enum status status_as_of(struct bytes file, uint64_t now_ms, bool (*alive)(uint64_t pid),
                                  struct buffer *out, struct error *error);

#endif
