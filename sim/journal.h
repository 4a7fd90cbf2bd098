/* The journal's port (node/journal.h) on a simulated disk: linked instead of node/journal.c.
 *
 * Entries and payloads are a struct disk; records, and what they name, are here. Writes come in the
 * order of the real one, each durable or not there at all: what records name, the payload, the
 * record. Any of them may fail, or be the last before a crash.
 */
#ifndef SIM_JOURNAL_H
#define SIM_JOURNAL_H

#include "node/journal_set.h"
#include "sim/disk.h"

enum damage { DAMAGE_NONE, DAMAGE_ROUND, DAMAGE_CHECKPOINT };

struct journal_records { /* on disk */
    struct journal_set set;
    struct disk state;   /* blobs that records name */
    enum damage damaged; /* a record that cannot be read */
};

void journal_records_init(struct journal_records *records, struct world *world, uint32_t process);
void journal_records_deinit(struct journal_records *records);
/* *to becomes what `from` is; it was initialised. */
void journal_records_copy(struct journal_records *to, const struct journal_records *from);

/* Of a process that starts; both are borrowed until journal_close. CORRUPT: a record is damaged.
 * Payloads that nobody claims and blobs that no record names are deleted. */
MUST_USE enum status journal_open_simulated(struct disk *disk, struct journal_records *records,
                                            struct journal **out, struct error *error);

#endif
