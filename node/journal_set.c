/* The records of a journal in memory. node/journal.c and the simulator's journal keep one each, and
 * write down what changes here. */
#include "node/journal_set.h"

#include <string.h>

const struct journal_round *journal_set_round(const struct journal_set *set, uint32_t fragment) {
    return fragment < FRAGMENTS_LIMIT && set->has_round[fragment] ? &set->rounds[fragment] : NULL;
}

const struct journal_checkpoint *journal_set_checkpoint(const struct journal_set *set) {
    return set->has_checkpoint ? &set->checkpoint : NULL;
}

void journal_set_put_round(struct journal_set *set, const struct journal_round *round) {
    set->rounds[round->fragment] = *round;
    set->has_round[round->fragment] = true;
}

void journal_set_put_checkpoint(struct journal_set *set,
                                const struct journal_checkpoint *checkpoint) {
    set->checkpoint = *checkpoint;
    set->has_checkpoint = true;
}

static bool is_blob(const struct journal_blob *blob, const uint8_t *digest) {
    return blob->size > 0 && memcmp(blob->digest, digest, DIGEST_SIZE) == 0;
}

bool journal_set_names(const struct journal_set *set, const uint8_t digest[static DIGEST_SIZE]) {
    for (uint32_t i = 0; i < FRAGMENTS_LIMIT; i++) {
        const struct journal_round *round = journal_set_round(set, i);
        if (round && (is_blob(&round->feedback, digest) || is_blob(&round->snapshot, digest) ||
                      is_blob(&round->optimizer, digest)))
            return true;
    }
    const struct journal_checkpoint *checkpoint = journal_set_checkpoint(set);
    return checkpoint &&
           (is_blob(&checkpoint->global, digest) || is_blob(&checkpoint->trainer, digest) ||
            is_blob(&checkpoint->base, digest) || is_blob(&checkpoint->snapshot, digest));
}

bool journal_set_is_in_flight(const struct journal_set *set,
                              const uint8_t payload_digest[static DIGEST_SIZE]) {
    for (uint32_t i = 0; i < FRAGMENTS_LIMIT; i++) {
        const struct journal_round *round = journal_set_round(set, i);
        if (round && round->in_flight &&
            memcmp(round->payload_digest, payload_digest, DIGEST_SIZE) == 0)
            return true;
    }
    return false;
}

struct journal_round journal_set_begin(const struct journal_round *round) {
    struct journal_round taken = *round;
    taken.in_flight = true;
    taken.refused = false;
    memset(&taken.accepted, 0, sizeof taken.accepted);
    return taken;
}

bool journal_set_accept(const struct journal_set *set, uint32_t fragment, uint64_t sequence,
                        const struct ledger_head *head, struct journal_round *out) {
    const struct journal_round *current = journal_set_round(set, fragment);
    if (!current || !current->in_flight || current->sequence != sequence ||
        current->accepted.size >= head->size)
        return false;
    *out = *current;
    out->accepted.epoch = head->epoch;
    out->accepted.size = head->size;
    memcpy(out->accepted.root, head->root, DIGEST_SIZE);
    return true;
}

bool journal_set_end(const struct journal_set *set, uint32_t fragment, uint64_t base_version,
                     bool refused, struct journal_round *out) {
    const struct journal_round *current = journal_set_round(set, fragment);
    if (!current || !current->in_flight) return false;
    *out = *current;
    out->in_flight = false;
    out->refused = refused;
    out->base_version = base_version;
    out->snapshot = (struct journal_blob){0};
    return true;
}
