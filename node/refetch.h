/* One payload again, by the digest in its entry, for a copy that the disk has lost: a Follow from
 * that entry on, of which nothing but the payload is taken. */
#ifndef NODE_REFETCH_H
#define NODE_REFETCH_H

#include "node/journal.h"
#include "node/stream.h"

/* On a fresh Follow stream. OK: the payload is durable in journal_payloads. CORRUPT: what came is
 * another; the coordinator will see to its own copy. */
MUST_USE enum status refetch_payload(struct journal *journal, struct stream *stream,
                                     uint64_t instance, uint64_t index, uint64_t size,
                                     const uint8_t digest[static DIGEST_SIZE], struct error *error);

#endif
