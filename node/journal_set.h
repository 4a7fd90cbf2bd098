/* The records of a journal (node/journal.h): each fragment's last round, and the checkpoint. What
 * they name and how they change, for the journal in a directory and the simulated one. Pure. */
#ifndef NODE_JOURNAL_SET_H
#define NODE_JOURNAL_SET_H

#include "node/journal.h"

struct journal_set { /* all zero: none yet */
    struct journal_round rounds[FRAGMENTS_LIMIT];
    bool has_round[FRAGMENTS_LIMIT];
    struct journal_checkpoint checkpoint;
    bool has_checkpoint;
};

/* NULL: none yet; of any number. */
const struct journal_round *journal_set_round(const struct journal_set *set, uint32_t fragment);
const struct journal_checkpoint *journal_set_checkpoint(const struct journal_set *set);
void journal_set_put_round(struct journal_set *set, const struct journal_round *round);
void journal_set_put_checkpoint(struct journal_set *set,
                                const struct journal_checkpoint *checkpoint);

/* A record names that blob. */
bool journal_set_names(const struct journal_set *set, const uint8_t digest[static DIGEST_SIZE]);
/* A message in flight has that payload. */
bool journal_set_is_in_flight(const struct journal_set *set,
                              const uint8_t payload_digest[static DIGEST_SIZE]);

/* The record of a message that is taken: in flight, without a receipt. */
struct journal_round journal_set_begin(const struct journal_round *round);
/* The fragment's record once the receipt of `sequence` has come. False: nothing changes. */
bool journal_set_accept(const struct journal_set *set, uint32_t fragment, uint64_t sequence,
                        const struct ledger_head *head, struct journal_round *out);
/* The fragment's record once the round is over, its feedback as before. False: it ended before a
 * crash. */
bool journal_set_end(const struct journal_set *set, uint32_t fragment, uint64_t base_version,
                     bool refused, struct journal_round *out);

#endif
