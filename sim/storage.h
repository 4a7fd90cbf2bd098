/* The coordinator's disk behind storage/store.h and storage/blob.h: the simulator links this in
 * place of both, so that coordinator/directory_contents.c, directory_restore.c, directory_sweep.c,
 * ledger_queue.c, transfers.c and model_work.c run as they ship.
 *
 * Ledger and payloads lie in a struct disk (sim/disk.h), where the checker finds them; snapshots,
 * by name and content, and uploads lie here. All that waits for a commit is written together after
 * a while, as one durable write, and a crash may come after any of them. A commit that is waited
 * for is written at once, after those that wait. As in the store: nothing is taken after FULL until
 * store_resume, nor ever after a sync that failed. What an upload has not synced may be gone after
 * a crash, or garbage.
 */
#ifndef SIM_STORAGE_H
#define SIM_STORAGE_H

#include "sim/disk.h"
#include "storage/blob.h"
#include "storage/store.h"

struct storage_setup {
    struct world *world; /* borrowed, all of them */
    uint32_t process;
    struct disk *disk;
    const uint8_t *key; /* [PUBLIC_KEY_SIZE], what snapshots are signed with */
    uint64_t commit_us; /* mean */
    /* Entries were appended. */
    void (*grown)(void *context);
    /* As on_fatal in storage/store.h. */
    void (*fatal)(void *context, const char *message);
    void *context;
};

struct storage { /* owned */
    struct store *store;
    struct blob_store *blobs;
};

void storage_init(struct storage *storage, const struct storage_setup *setup);
void storage_deinit(struct storage *storage);
/* What waits for a commit comes back CANCELLED. All uploads are closed by then. */
void storage_crash(struct storage *storage);
/* An upload is open, and not all of it is synced. */
bool storage_is_receiving(const struct storage *storage);

/* --- snapshots damaged at rest --- */
/* Some are whole. */
bool storage_has_snapshots(const struct storage *storage);
/* Flips a bit of the newest that is whole. */
bool storage_flip_snapshot(struct storage *storage);
/* Damaged ones that are newer than any that is whole. */
uint64_t storage_damaged_snapshots(const struct storage *storage);
void storage_mend(struct storage *storage);

#endif
