/* Which payloads a replay from the checkpoint may still ask for, and the end of the others. */
#include <stdlib.h>

#include "base/memory.h"
#include "node/journal_core.h"

static bool is_in_flight(const struct journal *journal, const uint8_t *payload_digest) {
    for (uint32_t i = 0; i < FRAGMENTS_LIMIT; i++) {
        if (journal->has_round[i] && journal->rounds[i].in_flight &&
            memcmp(journal->rounds[i].payload_digest, payload_digest, DIGEST_SIZE) == 0)
            return true;
    }
    return false;
}

/* ---- at a checkpoint ---------------------------------------------------------------------------------------------------- */

static enum status delete_part(struct journal *journal, uint64_t index, struct buffer *scratch, struct error *error) {
    struct ledger_entry entry;
    struct contribution contribution;
    scratch->size = 0;
    struct ledger_source source = journal_source(journal);
    TRY(source.entry(source.context, index, scratch, error));
    TRY(ledger_entry_decode(buffer_bytes(scratch), &entry, error));
    if (entry.kind != LEDGER_CONTRIBUTION)
        return error_set(error, CORRUPT, "journal: entry %llu is no contribution", (unsigned long long)index);
    TRY(contribution_decode(bytes_of(entry.contribution.header, CONTRIBUTION_HEADER_SIZE), &contribution, error));
    if (is_in_flight(journal, contribution.payload_digest)) return OK;
    enum status status = blob_delete(journal->payloads, contribution.payload_digest, error);
    return status == NOT_FOUND ? OK : status;
}

enum status journal_prune(struct journal *journal, uint64_t version, struct error *error) {
    struct ledger_source source = journal_source(journal);
    struct buffer raw = {0}, scratch = {0};
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    uint64_t index = journal->pruned, size = journal_size(journal);
    enum status status = OK;
    for (; index < size && status == OK; index++) {
        raw.size = 0;
        status = source.entry(source.context, index, &raw, error);
        if (status == OK) status = ledger_entry_decode(buffer_bytes(&raw), entry, error);
        if (status != OK || entry->kind != LEDGER_STEP) continue;
        if (entry->step.version > version) break;
        for (uint16_t i = 0; i < entry->step.count && status == OK; i++)
            status = delete_part(journal, entry->step.parts[i].index, &scratch, error);
    }
    if (status == OK && index > journal->pruned) {
        uint8_t value[STORE_KEY_U64_SIZE];
        store_key_u64(index, value);
        struct store_batch *batch = store_batch_create(journal->store);
        store_batch_put(batch, STATE, journal_text_key(JOURNAL_PRUNED_KEY), bytes_of(value, sizeof value));
        status = store_commit_wait(journal->store, batch, error);
        if (status == OK) journal->pruned = index;
    }
    free(entry);
    buffer_deinit(&raw);
    buffer_deinit(&scratch);
    return status;
}

/* ---- at the start ------------------------------------------------------------------------------------------------------- */

/* Payloads are wanted while their contribution is in no step that the checkpoint has; others are left over from a crash
 * between a checkpoint and its pruning, or from a round that was refused. */
struct wanted {
    uint64_t index;
    uint8_t digest[DIGEST_SIZE];
    bool merged;
};
struct wanted_list {
    struct journal *journal;
    struct wanted *items; /* by index */
    size_t count, capacity;
};

static struct wanted *wanted_at(struct wanted_list *list, uint64_t index) {
    size_t low = 0, high = list->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (list->items[middle].index < index)
            low = middle + 1;
        else
            high = middle;
    }
    return low < list->count && list->items[low].index == index ? &list->items[low] : NULL;
}

static enum status note_wanted(struct wanted_list *list, uint64_t index, struct bytes raw, struct ledger_entry *entry,
                               struct error *error) {
    TRY(ledger_entry_decode(raw, entry, error));
    const struct journal *journal = list->journal;
    if (entry->kind == LEDGER_STEP && journal->has_checkpoint && entry->step.version <= journal->checkpoint.version) {
        for (uint16_t i = 0; i < entry->step.count; i++) {
            struct wanted *merged = wanted_at(list, entry->step.parts[i].index);
            if (merged) merged->merged = true;
        }
    }
    if (entry->kind != LEDGER_CONTRIBUTION) return OK;
    struct contribution contribution;
    TRY(contribution_decode(bytes_of(entry->contribution.header, CONTRIBUTION_HEADER_SIZE), &contribution, error));
    if (list->count == list->capacity) {
        list->capacity = list->capacity ? list->capacity * 2 : 256;
        list->items = xrealloc(list->items, list->capacity * sizeof list->items[0]);
    }
    struct wanted *wanted = &list->items[list->count++];
    wanted->index = index;
    wanted->merged = false;
    memcpy(wanted->digest, contribution.payload_digest, DIGEST_SIZE);
    return OK;
}

static int by_digest(const void *a, const void *b) {
    return memcmp(((const struct wanted *)a)->digest, ((const struct wanted *)b)->digest, DIGEST_SIZE);
}

static enum status sweep_payload(void *context, const uint8_t *digest, uint64_t size, struct error *error) {
    struct wanted_list *list = context;
    (void)size;
    struct wanted key;
    memcpy(key.digest, digest, DIGEST_SIZE);
    bool keep = list->count > 0 && bsearch(&key, list->items, list->count, sizeof key, by_digest);
    if (keep || is_in_flight(list->journal, digest)) return OK;
    enum status status = blob_delete(list->journal->payloads, digest, error);
    return status == NOT_FOUND ? OK : status;
}

enum status journal_sweep_payloads(struct journal *journal, struct error *error) {
    struct wanted_list list = {.journal = journal};
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    struct store_scan *scan = store_scan_open(journal->store, ENTRIES, (struct bytes){0}, (struct bytes){0}, STORE_ASCENDING);
    struct bytes key, value;
    enum status status;
    uint64_t index = 0;
    while ((status = store_scan_next(scan, &key, &value, error)) == OK) {
        status = note_wanted(&list, index++, value, entry, error);
        if (status != OK) break;
    }
    store_scan_close(scan);
    free(entry);
    if (status == NOT_FOUND) status = OK;
    size_t kept = 0;
    for (size_t i = 0; i < list.count; i++) {
        if (!list.items[i].merged) list.items[kept++] = list.items[i];
    }
    list.count = kept;
    if (kept > 0) qsort(list.items, kept, sizeof list.items[0], by_digest);
    if (status == OK) status = blob_each(journal->payloads, sweep_payload, &list, error);
    free(list.items);
    return status;
}
