/* node/claims.h: names from entries, holds, and the end of payloads that nobody claims any more. */
#include "node/claims.h"

#include <pthread.h>
#include <stdlib.h>

#include <string.h>

#include "base/memory.h"

struct payload_name { /* a contribution's entry that a replay from the checkpoint may still merge */
    uint64_t index;
    uint32_t site;
    uint8_t digest[DIGEST_SIZE];
};

struct payload_hold { /* a claim of something that is not in the ledger's copy */
    uint8_t digest[DIGEST_SIZE];
    uint32_t count;
};

struct claims {
    struct claims_owner owner;
    uint64_t pruned;      /* entries below it have taken their effect on `names`; the keeper's */
    pthread_mutex_t lock; /* of the rest: the downlink claims, the keeper deletes */
    struct payload_name *names; /* [name_count], by index */
    size_t name_count, name_capacity;
    struct payload_hold *holds; /* [hold_count], in no order */
    size_t hold_count, hold_capacity;
};

struct claims *claims_create(const struct claims_owner *owner) {
    struct claims *claims = xcalloc(1, sizeof *claims);
    claims->owner = *owner;
    pthread_mutex_init(&claims->lock, NULL);
    return claims;
}

void claims_destroy(struct claims *claims) {
    if (!claims) return;
    pthread_mutex_destroy(&claims->lock);
    free(claims->names);
    free(claims->holds);
    free(claims);
}

/* ---- holds ----------------------------------------------------------------------------------- */

static struct payload_hold *hold_of(struct claims *claims, const uint8_t *digest) {
    for (size_t i = 0; i < claims->hold_count; i++) {
        if (memcmp(claims->holds[i].digest, digest, DIGEST_SIZE) == 0) return &claims->holds[i];
    }
    return NULL;
}

void claims_hold(struct claims *claims, const uint8_t digest[static DIGEST_SIZE]) {
    pthread_mutex_lock(&claims->lock);
    struct payload_hold *hold = hold_of(claims, digest);
    if (!hold) {
        if (claims->hold_count == claims->hold_capacity) {
            claims->hold_capacity = claims->hold_capacity ? claims->hold_capacity * 2 : 16;
            claims->holds = xrealloc(claims->holds, claims->hold_capacity * sizeof *hold);
        }
        hold = &claims->holds[claims->hold_count++];
        memcpy(hold->digest, digest, DIGEST_SIZE);
        hold->count = 0;
    }
    hold->count++;
    pthread_mutex_unlock(&claims->lock);
}

void claims_unhold(struct claims *claims, const uint8_t digest[static DIGEST_SIZE]) {
    pthread_mutex_lock(&claims->lock);
    struct payload_hold *hold = hold_of(claims, digest);
    ASSERT(hold);
    if (--hold->count == 0) *hold = claims->holds[--claims->hold_count];
    pthread_mutex_unlock(&claims->lock);
}

/* ---- names from entries ---------------------------------------------------------------------- */

static void add_name(struct claims *claims, uint64_t index,
                     const struct contribution *contribution) {
    if (claims->name_count == claims->name_capacity) {
        claims->name_capacity = claims->name_capacity ? claims->name_capacity * 2 : 256;
        claims->names = xrealloc(claims->names, claims->name_capacity * sizeof claims->names[0]);
    }
    struct payload_name *name = &claims->names[claims->name_count++];
    name->index = index;
    name->site = contribution->site;
    memcpy(name->digest, contribution->payload_digest, DIGEST_SIZE);
}

/* With the lock. */
static enum status note_entry(struct claims *claims, uint64_t index,
                              const struct ledger_entry *entry, struct error *error) {
    struct contribution contribution;
    if (entry->kind != LEDGER_CONTRIBUTION) return OK;
    TRY(contribution_decode(bytes_of(entry->contribution.header, CONTRIBUTION_HEADER_SIZE),
                            &contribution, error));
    add_name(claims, index, &contribution);
    return OK;
}

enum status claims_add(struct claims *claims, uint64_t first, const struct bytes *entries,
                       size_t count, struct error *error) {
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    enum status status = OK;
    pthread_mutex_lock(&claims->lock);
    for (size_t i = 0; i < count && status == OK; i++) {
        /* else it is the core's to say what is wrong with it */
        if (ledger_entry_decode(entries[i], entry, NULL) == OK)
            status = note_entry(claims, first + i, entry, error);
    }
    pthread_mutex_unlock(&claims->lock);
    free(entry);
    return status;
}

struct ended { /* digests whose names ended; some may be named by others */
    uint8_t (*items)[DIGEST_SIZE];
    size_t count, capacity;
};

/* The name's place; NULL: it has ended, or never was. */
static struct payload_name *name_at(const struct claims *claims, uint64_t index) {
    size_t low = 0, high = claims->name_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (claims->names[middle].index < index)
            low = middle + 1;
        else
            high = middle;
    }
    return low < claims->name_count && claims->names[low].index == index ? &claims->names[low]
                                                                         : NULL;
}

static void end_name(struct claims *claims, struct payload_name *name, struct ended *ended) {
    if (ended->count == ended->capacity) {
        ended->capacity = ended->capacity ? ended->capacity * 2 : 64;
        ended->items = xrealloc(ended->items, ended->capacity * sizeof ended->items[0]);
    }
    memcpy(ended->items[ended->count++], name->digest, DIGEST_SIZE);
    memmove(name, name + 1, (size_t)(&claims->names[--claims->name_count] - name) * sizeof *name);
}

/* What an entry that the checkpoint has passed ends: by index and site, never by digest. With the
 * lock. */
static void end_names(struct claims *claims, uint64_t index, const struct ledger_entry *entry,
                      struct ended *ended) {
    if (entry->kind == LEDGER_STEP) {
        for (uint16_t i = 0; i < entry->step.count; i++) {
            struct payload_name *name = name_at(claims, entry->step.parts[i].index);
            if (name) end_name(claims, name, ended);
        }
    } else if (entry->kind == LEDGER_DROPPED) {
        struct payload_name *name = name_at(claims, entry->dropped.index);
        if (name) end_name(claims, name, ended);
    } else if (entry->kind == LEDGER_SITE_REVOKED) { /* what waited of it is never merged */
        for (size_t i = claims->name_count; i-- > 0;) {
            struct payload_name *name = &claims->names[i];
            if (name->site == entry->revoked.site && name->index < index)
                end_name(claims, name, ended);
        }
    }
}

/* ---- deleting -------------------------------------------------------------------------------- */

static int by_digest(const void *a, const void *b) { return memcmp(a, b, DIGEST_SIZE); }

/* With the lock. */
static struct claims_list list_of(const struct claims *claims) {
    struct claims_list list = {.count = 0};
    list.digests = xcalloc(claims->name_count + claims->hold_count + 1, sizeof list.digests[0]);
    for (size_t i = 0; i < claims->name_count; i++)
        memcpy(list.digests[list.count++], claims->names[i].digest, DIGEST_SIZE);
    for (size_t i = 0; i < claims->hold_count; i++)
        memcpy(list.digests[list.count++], claims->holds[i].digest, DIGEST_SIZE);
    qsort(list.digests, list.count, sizeof list.digests[0], by_digest);
    return list;
}

struct claims_list claims_list(struct claims *claims) {
    struct claims_list list = {0};
    pthread_mutex_lock(&claims->lock);
    list = list_of(claims);
    pthread_mutex_unlock(&claims->lock);
    return list;
}

bool claims_list_has(const struct claims *claims, const struct claims_list *list,
                     const uint8_t digest[static DIGEST_SIZE]) {
    return claims->owner.is_in_flight(claims->owner.context, digest) ||
           bsearch(digest, list->digests, list->count, sizeof list->digests[0], by_digest);
}

static enum status delete_ended(struct claims *claims, const struct ended *ended,
                                struct error *error) {
    enum status status = OK;
    pthread_mutex_lock(&claims->lock);
    struct claims_list list = list_of(claims);
    for (size_t i = 0; i < ended->count && status == OK; i++) {
        if (claims_list_has(claims, &list, ended->items[i])) continue;
        status = claims->owner.remove(claims->owner.context, ended->items[i], error);
    }
    pthread_mutex_unlock(&claims->lock);
    free(list.digests);
    return status;
}

enum status claims_drop(struct claims *claims, const uint8_t digest[static DIGEST_SIZE],
                        struct error *error) {
    struct ended one = {.items = xmalloc(DIGEST_SIZE), .count = 1};
    memcpy(one.items[0], digest, DIGEST_SIZE);
    enum status status = delete_ended(claims, &one, error);
    free(one.items);
    return status;
}

/* ---- at a checkpoint, and at the start ------------------------------------------------------- */

static bool is_beyond(const struct ledger_entry *entry, uint64_t version) {
    return entry->kind == LEDGER_STEP && entry->step.version > version;
}

enum status claims_prune(struct claims *claims, const struct ledger_source *source, uint64_t size,
                         uint64_t version, struct error *error) {
    struct buffer raw = {0};
    struct ended ended = {0};
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    uint64_t index = claims->pruned;
    enum status status = OK;
    for (; index < size; index++) {
        raw.size = 0;
        status = source->entry(source->context, index, &raw, error);
        if (status == OK) status = ledger_entry_decode(buffer_bytes(&raw), entry, error);
        if (status != OK || is_beyond(entry, version)) break;
        pthread_mutex_lock(&claims->lock);
        end_names(claims, index, entry, &ended);
        pthread_mutex_unlock(&claims->lock);
    }
    claims->pruned = index;
    /* A deletion that fails leaves a file without a name, which the next start collects. */
    if (status == OK) status = delete_ended(claims, &ended, error);
    free(entry);
    free(ended.items);
    buffer_deinit(&raw);
    return status;
}

static enum status learn_entry(struct claims *claims, uint64_t index, struct bytes raw,
                               uint64_t version, struct error *error) {
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    struct ended ended = {0}; /* the start looks at all files, so these need no look of their own */
    pthread_mutex_lock(&claims->lock);
    enum status status = ledger_entry_decode(raw, entry, error);
    if (status == OK) status = note_entry(claims, index, entry, error);
    if (status == OK && claims->pruned == index && !is_beyond(entry, version)) {
        end_names(claims, index, entry, &ended);
        claims->pruned = index + 1;
    }
    pthread_mutex_unlock(&claims->lock);
    free(ended.items);
    free(entry);
    return status;
}

enum status claims_learn(struct claims *claims, const struct ledger_source *source, uint64_t size,
                         uint64_t version, struct error *error) {
    struct buffer raw = {0};
    enum status status = OK;
    for (uint64_t index = 0; index < size && status == OK; index++) {
        raw.size = 0;
        status = source->entry(source->context, index, &raw, error);
        if (status == OK) status = learn_entry(claims, index, buffer_bytes(&raw), version, error);
    }
    buffer_deinit(&raw);
    return status;
}
