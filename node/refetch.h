/* One payload again, by the digest in its entry, for a copy that the disk has lost: a Follow from
 * that entry on, of which nothing but the payload is taken. */
#ifndef NODE_REFETCH_H
#define NODE_REFETCH_H

#include "node/journal.h"
#include "node/stream.h"

struct refetch {
    uint64_t instance; /* of this process */
    bool restored;     /* as the site's own Follow tells it: whichever comes first counts */
    uint64_t index, size;
    const uint8_t *digest; /* [DIGEST_SIZE] */
};

/* On a fresh Follow stream. OK: the payload is durable in journal_payloads. CORRUPT: what came is
 * another; the coordinator will see to its own copy. */
MUST_USE enum status refetch_payload(struct journal *journal, struct stream *stream,
                                     const struct refetch *wanted, struct error *error);

#endif
