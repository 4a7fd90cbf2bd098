/* The journal in a directory: its opening, and its payloads as the files that they are.
 *
 *     DIR/journal/    LMDB: entries (index -> ledger entry), rounds (fragment -> record), sent
 *                     (sequence -> header and signature), state (the checkpoint's record)
 *     DIR/payloads/   blobs: contributions' payloads, and a snapshot of the run on its way
 *     DIR/state/      blobs that records name
 *
 * For those that start it, and for the links, which move payloads a piece at a time.
 */
#ifndef NODE_JOURNAL_FILES_H
#define NODE_JOURNAL_FILES_H

#include "node/journal.h"
#include "storage/blob.h"

/* Makes what is missing. UNAVAILABLE: another process has it. Left-over blobs that no record names
 * are deleted. */
MUST_USE enum status journal_open(const char *directory, uint32_t fragments, struct journal **out,
                                  struct error *error);
/* For looking at it beside a running node: nothing is changed or locked. */
MUST_USE enum status journal_open_reading(const char *directory, uint32_t fragments,
                                          struct journal **out, struct error *error);
struct blob_store *journal_payloads(struct journal *journal);

#endif
