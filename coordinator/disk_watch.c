/* Who waits for room on the run's disk, since when, and when it was last said. */
#include "coordinator/disk_watch.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"

enum { SAY_AGAIN_MS = 60000 };

struct disk_watch {
    pthread_mutex_t lock;
    struct {
        bool waits;
        uint64_t since_ms, said_ms;
        char message[160];
    } users[DISK_USER_COUNT];
};

struct disk_watch *disk_watch_create(void) {
    struct disk_watch *disk = xcalloc(1, sizeof *disk);
    pthread_mutex_init(&disk->lock, NULL);
    return disk;
}

void disk_watch_destroy(struct disk_watch *disk) {
    if (!disk) return;
    pthread_mutex_destroy(&disk->lock);
    free(disk);
}

void disk_watch_waits(struct disk_watch *disk, enum disk_user user, const char *message) {
    uint64_t now = clock_monotonic_ms();
    pthread_mutex_lock(&disk->lock);
    bool first = !disk->users[user].waits,
         say = first || now - disk->users[user].said_ms >= SAY_AGAIN_MS;
    if (first) disk->users[user].since_ms = now;
    if (say) disk->users[user].said_ms = now;
    uint64_t since = now - disk->users[user].since_ms;
    disk->users[user].waits = true;
    snprintf(disk->users[user].message, sizeof disk->users[user].message, "%s", message);
    pthread_mutex_unlock(&disk->lock);
    char quoted[256];
    if (say)
        log_error("disk_full",
                  "waited_ms=%llu reason=%s do=\"make room on the run's disk: the coordinator goes "
                  "on by itself\"",
                  (unsigned long long)since, log_quote(message, quoted, sizeof quoted));
}

void disk_watch_has_room(struct disk_watch *disk, enum disk_user user) {
    pthread_mutex_lock(&disk->lock);
    bool waited = disk->users[user].waits;
    uint64_t since = clock_monotonic_ms() - disk->users[user].since_ms;
    disk->users[user].waits = false;
    pthread_mutex_unlock(&disk->lock);
    if (waited) log_info("disk_has_room", "waited_ms=%llu", (unsigned long long)since);
}

bool disk_watch_waiting(struct disk_watch *disk, char *out, size_t size) {
    bool found = false;
    pthread_mutex_lock(&disk->lock);
    for (int user = 0; user < DISK_USER_COUNT && !found; user++) {
        if (!disk->users[user].waits) continue;
        found = true;
        snprintf(out, size, "the disk is full: %s", disk->users[user].message);
    }
    pthread_mutex_unlock(&disk->lock);
    return found;
}
