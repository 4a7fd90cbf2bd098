/* Which payloads somebody still has a claim to, and the end of the others.
 *
 * Payloads are named by what they hold, so one file may serve many: equal deltas of honest sites, a site that sends another's
 * bytes as its own, a message of ours that equals one in the ledger. A file is deleted only when the last claim to it ends.
 * Claims are
 *
 *     names    contributions in our copy of the ledger whose end no checkpoint has passed: neither merged by a step at or
 *              before the checkpoint's version, nor dropped by a revocation in front of the first step after it
 *     holds    entries that were received and are not in our copy yet, and a snapshot of the run on its way to the replica
 *     rounds   messages of ours in flight
 *
 * The downlink takes a hold before it looks whether the file is there, and lets go of it when the entry has its name; the
 * worker, which alone deletes, looks at all claims and deletes under the same lock. So a file that was seen to be there stays.
 */
#include <stdlib.h>

#include "base/log.h"
#include "base/memory.h"
#include "node/journal_internal.h"

static bool is_in_flight(const struct journal *journal, const uint8_t *payload_digest) {
    for (uint32_t i = 0; i < FRAGMENTS_LIMIT; i++) {
        if (journal->has_round[i] && journal->rounds[i].in_flight &&
            memcmp(journal->rounds[i].payload_digest, payload_digest, DIGEST_SIZE) == 0)
            return true;
    }
    return false;
}

static struct payload_hold *hold_of(struct journal *journal, const uint8_t *digest) {
    for (size_t i = 0; i < journal->hold_count; i++) {
        if (memcmp(journal->holds[i].digest, digest, DIGEST_SIZE) == 0) return &journal->holds[i];
    }
    return NULL;
}

void journal_payload_hold(struct journal *journal, const uint8_t digest[static DIGEST_SIZE]) {
    pthread_mutex_lock(&journal->names_lock);
    struct payload_hold *hold = hold_of(journal, digest);
    if (!hold) {
        if (journal->hold_count == journal->hold_capacity) {
            journal->hold_capacity = journal->hold_capacity ? journal->hold_capacity * 2 : 16;
            journal->holds = xrealloc(journal->holds, journal->hold_capacity * sizeof *hold);
        }
        hold = &journal->holds[journal->hold_count++];
        memcpy(hold->digest, digest, DIGEST_SIZE);
        hold->count = 0;
    }
    hold->count++;
    pthread_mutex_unlock(&journal->names_lock);
}

void journal_payload_unhold(struct journal *journal, const uint8_t digest[static DIGEST_SIZE]) {
    pthread_mutex_lock(&journal->names_lock);
    struct payload_hold *hold = hold_of(journal, digest);
    ASSERT(hold);
    if (--hold->count == 0) *hold = journal->holds[--journal->hold_count];
    pthread_mutex_unlock(&journal->names_lock);
}

/* ---- names from entries ------------------------------------------------------------------------------------------------- */

static void add_name(struct journal *journal, uint64_t index, const struct contribution *contribution) {
    if (journal->name_count == journal->name_capacity) {
        journal->name_capacity = journal->name_capacity ? journal->name_capacity * 2 : 256;
        journal->names = xrealloc(journal->names, journal->name_capacity * sizeof journal->names[0]);
    }
    struct payload_name *name = &journal->names[journal->name_count++];
    name->index = index;
    name->site = contribution->site;
    memcpy(name->digest, contribution->payload_digest, DIGEST_SIZE);
}

/* With the lock. */
static enum status note_entry(struct journal *journal, uint64_t index, const struct ledger_entry *entry, struct error *error) {
    struct contribution contribution;
    if (entry->kind != LEDGER_CONTRIBUTION) return OK;
    TRY(contribution_decode(bytes_of(entry->contribution.header, CONTRIBUTION_HEADER_SIZE), &contribution, error));
    add_name(journal, index, &contribution);
    return OK;
}

enum status journal_names_add(struct journal *journal, uint64_t first, const struct bytes *entries, size_t count,
                              struct error *error) {
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    enum status status = OK;
    pthread_mutex_lock(&journal->names_lock);
    for (size_t i = 0; i < count && status == OK; i++) {
        if (ledger_entry_decode(entries[i], entry, NULL) == OK) /* else it is the brain's to say what is wrong with it */
            status = note_entry(journal, first + i, entry, error);
    }
    pthread_mutex_unlock(&journal->names_lock);
    free(entry);
    return status;
}

struct ended { /* digests whose names ended; some may be named by others */
    uint8_t (*items)[DIGEST_SIZE];
    size_t count, capacity;
};

/* The name's place; NULL: it has ended, or never was. */
static struct payload_name *name_at(const struct journal *journal, uint64_t index) {
    size_t low = 0, high = journal->name_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (journal->names[middle].index < index)
            low = middle + 1;
        else
            high = middle;
    }
    return low < journal->name_count && journal->names[low].index == index ? &journal->names[low] : NULL;
}

static void end_name(struct journal *journal, struct payload_name *name, struct ended *ended) {
    if (ended->count == ended->capacity) {
        ended->capacity = ended->capacity ? ended->capacity * 2 : 64;
        ended->items = xrealloc(ended->items, ended->capacity * sizeof ended->items[0]);
    }
    memcpy(ended->items[ended->count++], name->digest, DIGEST_SIZE);
    memmove(name, name + 1, (size_t)(&journal->names[--journal->name_count] - name) * sizeof *name);
}

/* What an entry that the checkpoint has passed ends: by index and site, never by digest. With the lock. */
static void end_names(struct journal *journal, uint64_t index, const struct ledger_entry *entry, struct ended *ended) {
    if (entry->kind == LEDGER_STEP) {
        for (uint16_t i = 0; i < entry->step.count; i++) {
            struct payload_name *name = name_at(journal, entry->step.parts[i].index);
            if (name) end_name(journal, name, ended);
        }
    } else if (entry->kind == LEDGER_DROPPED) {
        struct payload_name *name = name_at(journal, entry->dropped.index);
        if (name) end_name(journal, name, ended);
    } else if (entry->kind == LEDGER_SITE_REVOKED) { /* what waited of it is never merged */
        for (size_t i = journal->name_count; i-- > 0;) {
            struct payload_name *name = &journal->names[i];
            if (name->site == entry->revoked.site && name->index < index) end_name(journal, name, ended);
        }
    }
}

/* ---- deleting ----------------------------------------------------------------------------------------------------------- */

struct claims { /* of names and holds, sorted, while the lock is held */
    uint8_t (*digests)[DIGEST_SIZE];
    size_t count;
};

static int by_digest(const void *a, const void *b) { return memcmp(a, b, DIGEST_SIZE); }

static struct claims claims_of(const struct journal *journal) {
    struct claims claims = {.digests = xcalloc(journal->name_count + journal->hold_count + 1, sizeof claims.digests[0])};
    for (size_t i = 0; i < journal->name_count; i++)
        memcpy(claims.digests[claims.count++], journal->names[i].digest, DIGEST_SIZE);
    for (size_t i = 0; i < journal->hold_count; i++)
        memcpy(claims.digests[claims.count++], journal->holds[i].digest, DIGEST_SIZE);
    qsort(claims.digests, claims.count, sizeof claims.digests[0], by_digest);
    return claims;
}

static enum status delete_unclaimed(struct journal *journal, const struct claims *claims, const uint8_t *digest,
                                    struct error *error) {
    if (is_in_flight(journal, digest) || bsearch(digest, claims->digests, claims->count, sizeof claims->digests[0], by_digest))
        return OK;
    enum status status = blob_delete(journal->payloads, digest, error);
    return status == NOT_FOUND ? OK : status;
}

static enum status delete_ended(struct journal *journal, const struct ended *ended, struct error *error) {
    enum status status = OK;
    pthread_mutex_lock(&journal->names_lock);
    struct claims claims = claims_of(journal);
    for (size_t i = 0; i < ended->count && status == OK; i++) status = delete_unclaimed(journal, &claims, ended->items[i], error);
    pthread_mutex_unlock(&journal->names_lock);
    free(claims.digests);
    return status;
}

enum status journal_payload_drop(struct journal *journal, const uint8_t digest[static DIGEST_SIZE], struct error *error) {
    struct ended one = {.items = xmalloc(DIGEST_SIZE), .count = 1};
    memcpy(one.items[0], digest, DIGEST_SIZE);
    enum status status = delete_ended(journal, &one, error);
    free(one.items);
    return status;
}

/* ---- at a checkpoint, and at the start ---------------------------------------------------------------------------------- */

static bool is_beyond(const struct ledger_entry *entry, uint64_t version) {
    return entry->kind == LEDGER_STEP && entry->step.version > version;
}

enum status journal_prune(struct journal *journal, uint64_t version, struct error *error) {
    struct ledger_source source = journal_source(journal);
    struct buffer raw = {0};
    struct ended ended = {0};
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    uint64_t index = journal->pruned, size = journal_size(journal);
    enum status status = OK;
    for (; index < size; index++) {
        raw.size = 0;
        status = source.entry(source.context, index, &raw, error);
        if (status == OK) status = ledger_entry_decode(buffer_bytes(&raw), entry, error);
        if (status != OK || is_beyond(entry, version)) break;
        pthread_mutex_lock(&journal->names_lock);
        end_names(journal, index, entry, &ended);
        pthread_mutex_unlock(&journal->names_lock);
    }
    journal->pruned = index;
    /* A deletion that fails leaves a file without a name, which the next start collects. */
    if (status == OK) status = delete_ended(journal, &ended, error);
    free(entry);
    free(ended.items);
    buffer_deinit(&raw);
    return status;
}

struct sweep {
    struct journal *journal;
    struct claims claims;
    uint64_t count, size;
};

static enum status sweep_payload(void *context, const uint8_t *digest, uint64_t size, struct error *error) {
    struct sweep *sweep = context;
    if (is_in_flight(sweep->journal, digest) ||
        bsearch(digest, sweep->claims.digests, sweep->claims.count, sizeof sweep->claims.digests[0], by_digest))
        return OK;
    sweep->count++;
    sweep->size += size;
    return delete_unclaimed(sweep->journal, &sweep->claims, digest, error);
}

static enum status sweep_payloads(struct journal *journal, struct error *error) {
    struct sweep sweep = {.journal = journal, .claims = claims_of(journal)};
    enum status status = blob_each(journal->payloads, sweep_payload, &sweep, error);
    free(sweep.claims.digests);
    if (sweep.count > 0)
        log_info("payloads_collected", "count=%llu bytes=%llu", (unsigned long long)sweep.count, (unsigned long long)sweep.size);
    return status;
}

enum status journal_names_read(struct journal *journal, bool sweep, struct error *error) {
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    struct store_scan *scan = store_scan_open(journal->store, ENTRIES, (struct bytes){0}, (struct bytes){0}, STORE_ASCENDING);
    struct bytes key, value;
    uint64_t version = journal->has_checkpoint ? journal->checkpoint.version : 0;
    struct ended ended = {0}; /* the sweep looks at all files, so these need no look of their own */
    bool beyond = false;
    enum status status;
    for (uint64_t index = 0; (status = store_scan_next(scan, &key, &value, error)) == OK; index++) {
        status = ledger_entry_decode(value, entry, error);
        if (status == OK) status = note_entry(journal, index, entry, error);
        if (status != OK) break;
        beyond = beyond || is_beyond(entry, version);
        if (beyond) continue;
        end_names(journal, index, entry, &ended);
        ended.count = 0;
        journal->pruned = index + 1;
    }
    store_scan_close(scan);
    free(ended.items);
    free(entry);
    if (status == NOT_FOUND) status = OK;
    return status == OK && sweep ? sweep_payloads(journal, error) : status;
}

void journal_names_deinit(struct journal *journal) {
    free(journal->names);
    free(journal->holds);
}
