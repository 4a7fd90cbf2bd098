/* A process's disk: a ledger, and blobs by digest. What is here survives a crash; what is not is
 * gone.
 *
 * Each change is one durable write, complete or not there at all (the stores are tested for that
 * elsewhere); a crash may come after any of them, and any of them may fail. A doomed process's
 * writes do not happen. Bits may flip at rest: a blob's are then read as they are, because a reader
 * of a blob knows its digest; a record carries one of its own, so a damaged one cannot be read at
 * all. `disk_source` is what fed/replay.h reads; `disk_truth` reads the same without the damage,
 * for the checker.
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
    size_t flipped_at; /* the byte whose `flipped` bits are wrong */
    uint8_t flipped;   /* 0: none are */
};

struct disk {
    struct world *world;
    uint32_t process;
    struct buffer *entries; /* [entry_count] */
    uint64_t entry_count, entry_capacity;
    uint64_t damaged_entry;  /* that cannot be read; UINT64_MAX: none */
    struct disk_blob *blobs; /* [blob_count], in no order */
    size_t blob_count, blob_capacity;
    /* [spoiled_count]: deleted because they were damaged; the other copy has them still */
    struct disk_blob *spoiled;
    size_t spoiled_count;
};

void disk_init(struct disk *disk, struct world *world, uint32_t process);
void disk_deinit(struct disk *disk);
/* *to becomes what `from` is; it was initialised. */
void disk_copy(struct disk *to, const struct disk *from);

/* One write for all of `raw`: entries, each u32 length || bytes. On anything but OK nothing is
 * there, as process_write says; with FAILED, by luck, all of it. */
MUST_USE enum status disk_append(struct disk *disk, struct bytes raw);
MUST_USE enum status disk_blob_write(struct disk *disk, struct bytes content,
                                     const uint8_t digest[static DIGEST_SIZE]);
/* One write for all of them, to be found by their digests. */
MUST_USE enum status disk_blobs_write(struct disk *disk, const struct bytes *contents,
                                      uint8_t (*digests)[DIGEST_SIZE], size_t count);
/* One write of something that is kept elsewhere. */
MUST_USE enum status disk_write(struct disk *disk);
/* Is there and whole. */
bool disk_blob_is_whole(const struct disk *disk, const uint8_t digest[static DIGEST_SIZE]);
/* Appends it. NOT_FOUND; CORRUPT, as who compares the digest finds. */
MUST_USE enum status disk_blob_read(const struct disk *disk,
                                    const uint8_t digest[static DIGEST_SIZE], struct buffer *out,
                                    struct error *error);
/* NULL: not there. Lent until the next change. */
const struct buffer *disk_blob_find(const struct disk *disk,
                                    const uint8_t digest[static DIGEST_SIZE]);
void disk_blob_delete(struct disk *disk, const uint8_t digest[static DIGEST_SIZE]);
struct ledger_source disk_source(struct disk *disk);
struct ledger_source disk_truth(struct disk *disk);

/* --- damage at rest --- */
/* Flips a bit of the blob. False: it is not there, or is damaged already. */
bool disk_flip(struct disk *disk, const uint8_t digest[static DIGEST_SIZE]);
/* Of a record, which nobody else has; a blob can be obtained again. */
bool disk_has_damaged_record(const struct disk *disk);
void disk_repair(struct disk *disk); /* from another copy */

#endif
