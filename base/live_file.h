/* Small files that tell what a process does now, written anew every second and read by others:
 * status.json, a file of metrics. They matter most when the disk is full, so each keeps some room
 * of its own. */
#ifndef BASE_LIVE_FILE_H
#define BASE_LIVE_FILE_H

#include "base/bytes.h"

/* How much the content may grow once the disk is full. */
enum { LIVE_FILE_ROOM = 16 * 1024 };

/* Whole or not at all for readers, but not synced: one write per second is not worth a sync. On a
 * full disk it is written over what is there, where a reader may see half of it; what is left of a
 * longer content becomes empty lines. FULL if there is no room even so; INVALID if the path is of
 * something that is not a regular file; FAILED for the rest. */
MUST_USE enum status live_file_write(const char *path, struct bytes content, struct error *error);

#endif
