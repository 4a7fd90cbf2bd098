/* A process's disk: a ledger, and blobs by digest. What is here survives a crash; what is not is gone.
 *
 * Each change is one durable write, complete or not there at all (the stores are tested for that elsewhere); a crash may come
 * behind any of them. A doomed process's writes do not happen. `disk_source` is what fed/replay.h reads.
 */
#ifndef SIM_DISK_H
#define SIM_DISK_H

#include "base/bytes.h"
#include "crypto/digest.h"
#include "fed/replay.h"
#include "sim/world.h"

struct disk_blob {
    uint8_t digest[DIGEST_SIZE];
    struct buffer bytes;
};

struct disk {
    struct world *world;
    uint32_t process;
    struct buffer *entries; /* [entry_count] */
    uint64_t entry_count, entry_capacity;
    struct disk_blob *blobs; /* [blob_count], in no order */
    size_t blob_count, blob_capacity;
};

void disk_init(struct disk *disk, struct world *world, uint32_t process);
void disk_deinit(struct disk *disk);
/* One write for all of `raw`: entries, each u32 length || bytes. False: it did not happen. */
bool disk_append(struct disk *disk, struct bytes raw);
bool disk_blob_write(struct disk *disk, struct bytes content, const uint8_t digest[static DIGEST_SIZE]);
/* NULL: not there. Lent until the next change. */
const struct buffer *disk_blob_find(const struct disk *disk, const uint8_t digest[static DIGEST_SIZE]);
void disk_blob_delete(struct disk *disk, const uint8_t digest[static DIGEST_SIZE]);
struct ledger_source disk_source(struct disk *disk);

#endif
