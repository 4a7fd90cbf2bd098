/* Which payloads somebody still has a claim to, and the end of the others. Pure, except for its
 * lock.
 *
 * Payloads are named by what they hold, so one file may serve many: equal deltas of honest sites, a
 * site that sends another's bytes as its own, a message of ours that equals one in the ledger. A
 * file is deleted only when the last claim to it ends. Claims are
 *
 *     names    contributions in our copy of the ledger whose end no checkpoint has passed: neither
 *              merged by a step at or before the checkpoint's version, nor dropped by a revocation
 *              in front of the first step after it
 *     holds    entries that were received and are not in our copy yet, and a snapshot of the run on
 *              its way to the replica
 *     rounds   messages of ours in flight: the journal is asked
 *
 * The downlink takes a hold before it looks whether the file is there, and lets go of it when the
 * entry has its name; the keeper, which alone deletes, looks at all claims and deletes under the
 * same lock. So a file that was seen to be there stays.
 */
#ifndef NODE_CLAIMS_H
#define NODE_CLAIMS_H

#include "fed/replay.h"

struct claims;

struct claims_owner { /* the journal */
    void *context;
    /* A message of ours in flight has that payload. */
    bool (*is_in_flight)(void *context, const uint8_t *digest);
    /* Deletes the payload; OK where there is none. */
    enum status (*remove)(void *context, const uint8_t *digest, struct error *error);
};

struct claims *claims_create(const struct claims_owner *owner);
void claims_destroy(struct claims *claims); /* NULL is a no-op */

/* --- at the start, one thread --- */
/* The `size` entries of our copy; the checkpoint is at `version`. */
MUST_USE enum status claims_learn(struct claims *claims, const struct ledger_source *source,
                                  uint64_t size, uint64_t version, struct error *error);
struct claims_list {
    uint8_t (*digests)[DIGEST_SIZE]; /* [count], sorted; freed by the caller */
    size_t count;
};
/* Of names and holds as they are now. */
struct claims_list claims_list(struct claims *claims);
/* Somebody has a claim to it: by the list, or a round. */
bool claims_list_has(const struct claims *claims, const struct claims_list *list,
                     const uint8_t digest[static DIGEST_SIZE]);

/* --- any thread --- */
void claims_hold(struct claims *claims, const uint8_t digest[static DIGEST_SIZE]); /* they count */
void claims_unhold(struct claims *claims, const uint8_t digest[static DIGEST_SIZE]);
/* Entries from `first` on are in our copy: what contributions among them name is kept from now on.
 */
MUST_USE enum status claims_add(struct claims *claims, uint64_t first, const struct bytes *entries,
                                size_t count, struct error *error);

/* --- the keeper --- */
/* The checkpoint is at `version`, our copy has `size` entries: deletes the payloads that only
 * entries name which no replay reads any more. Repeatable. */
MUST_USE enum status claims_prune(struct claims *claims, const struct ledger_source *source,
                                  uint64_t size, uint64_t version, struct error *error);
/* Deletes it unless somebody has a claim to it. */
MUST_USE enum status claims_drop(struct claims *claims, const uint8_t digest[static DIGEST_SIZE],
                                 struct error *error);

#endif
