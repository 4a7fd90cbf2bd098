/* The inside of the journal, shared by journal.c (records) and journal_prune.c (which payloads are still wanted). */
#ifndef NODE_JOURNAL_INTERNAL_H
#define NODE_JOURNAL_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "node/journal.h"
#include "storage/store.h"

enum table { ENTRIES, ROUNDS, SENT, STATE };

struct payload_name { /* a contribution's entry that a replay from the checkpoint may still merge */
    uint64_t index;
    uint32_t site;
    uint8_t digest[DIGEST_SIZE];
};

struct payload_hold { /* a claim of something that is not in the ledger's copy */
    uint8_t digest[DIGEST_SIZE];
    uint32_t count;
};

struct journal {
    struct store *store;
    struct blob_store *payloads, *state;
    uint32_t fragments;
    atomic_uint_fast64_t size;
    struct journal_round rounds[FRAGMENTS_LIMIT];
    bool has_round[FRAGMENTS_LIMIT];
    struct journal_checkpoint checkpoint;
    bool has_checkpoint;

    pthread_mutex_t names_lock; /* of the rest: the downlink claims, the worker deletes */
    struct payload_name *names; /* [name_count], by index */
    size_t name_count, name_capacity;
    struct payload_hold *holds; /* [hold_count], in no order */
    size_t hold_count, hold_capacity;
    uint64_t pruned; /* entries below it have taken their effect on `names`; the worker's */
};

static inline struct bytes journal_text_key(const char *text) { return bytes_of(text, strlen(text)); }

/* Entries from `first` on are in our copy: what contributions among them name is kept from now on. */
MUST_USE enum status journal_names_add(struct journal *journal, uint64_t first, const struct bytes *entries, size_t count,
                                       struct error *error);
/* The checkpoint is at `version`: deletes the payloads that only entries name which no replay reads any more. Repeatable. */
MUST_USE enum status journal_prune(struct journal *journal, uint64_t version, struct error *error);
/* At the start: learns the names from our copy of the ledger, and deletes every payload without one, whatever left it there. */
MUST_USE enum status journal_names_read(struct journal *journal, bool sweep, struct error *error);
void journal_names_deinit(struct journal *journal);

#endif
