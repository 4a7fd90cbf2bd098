/* The inside of the journal, shared by journal.c (records) and journal_prune.c (which payloads are still wanted). */
#ifndef NODE_JOURNAL_CORE_H
#define NODE_JOURNAL_CORE_H

#include <stdatomic.h>
#include <string.h>

#include "node/journal.h"
#include "storage/store.h"

enum table { ENTRIES, ROUNDS, SENT, STATE };

#define JOURNAL_PRUNED_KEY "pruned" /* in STATE */

struct journal {
    struct store *store;
    struct blob_store *payloads, *state;
    uint32_t fragments;
    atomic_uint_fast64_t size;
    struct journal_round rounds[FRAGMENTS_LIMIT];
    bool has_round[FRAGMENTS_LIMIT];
    struct journal_checkpoint checkpoint;
    bool has_checkpoint;
    uint64_t pruned; /* entries below it: payloads of the steps among them are gone */
};

static inline struct bytes journal_text_key(const char *text) { return bytes_of(text, strlen(text)); }

/* Deletes the payloads that steps up to `version` have merged: no replay starts before the checkpoint any more. Repeatable. */
MUST_USE enum status journal_prune(struct journal *journal, uint64_t version, struct error *error);
/* At the start: deletes what pruning left behind because of a crash, or because its round had not ended. */
MUST_USE enum status journal_sweep_payloads(struct journal *journal, struct error *error);

#endif
