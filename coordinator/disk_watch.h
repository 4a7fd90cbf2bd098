/* A full disk: who waits for room on it, and what is said about that. It is said at once, once a
 * minute while it lasts, and when it is over; until then `atollctl run status` names it. The
 * coordinator goes on by itself when there is room again.
 *
 * Any thread, all functions.
 */
#ifndef COORDINATOR_DISK_WATCH_H
#define COORDINATOR_DISK_WATCH_H

#include <stdbool.h>
#include <stddef.h>

enum disk_user { DISK_LEDGER, DISK_PAYLOADS, DISK_SNAPSHOTS, DISK_USER_COUNT };

struct disk_watch;

struct disk_watch *disk_watch_create(void);
void disk_watch_destroy(struct disk_watch *disk); /* NULL is a no-op */
void disk_watch_waits(struct disk_watch *disk, enum disk_user user, const char *message);
void disk_watch_has_room(struct disk_watch *disk, enum disk_user user);
/* True while anybody waits for room, with a sentence for people. */
bool disk_watch_waiting(struct disk_watch *disk, char *out, size_t size);

#endif
