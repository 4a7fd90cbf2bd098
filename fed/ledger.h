/* The entries of the ledger, and their one encoding.
 *
 * The ledger is the model: entry 0 holds the manifest, the rest are contributions, outer steps and
 * the admin's decisions, in the order they took effect. An entry's index is its place; its bytes
 * are hashed as a leaf of the RFC 6962 tree (fed/merkle.h). Encoding: kind u8, epoch u32, time u64,
 * then the kind's fields, little-endian, fixed order, exact length.
 */
#ifndef FED_LEDGER_H
#define FED_LEDGER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "fed/contribution.h"
#include "fed/manifest.h"

enum ledger_kind {
    LEDGER_GENESIS = 1,
    LEDGER_SITE_INVITED = 2,
    LEDGER_SITE_ADDED = 3,
    LEDGER_SITE_REVOKED = 4,
    LEDGER_CONTRIBUTION = 5,
    LEDGER_STEP = 6,
    LEDGER_PAUSED = 7,
    LEDGER_RESUMED = 8,
    LEDGER_STOPPED = 9,
    LEDGER_EPOCH =
        10, /* a coordinator took over; entries of an older epoch are not accepted after it */
    LEDGER_RULE = 11,    /* the admin changed a key of the manifest, from here on */
    LEDGER_DROPPED = 12, /* a contribution that waits is given up: its payload was lost and cannot
                            be obtained again */
    LEDGER_SITE_UNINVITED = 13, /* the admin withdrew the open invitation of a name */
    LEDGER_SITE_AWAY = 14,      /* nothing was heard of a site for away_after: it counts no more */
    LEDGER_SITE_BACK = 15,      /* it is heard again, and counts */
    LEDGER_SITE_LEFT = 16       /* it said that it goes, with nothing of its own under way */
};

enum {
    STEP_CONTRIBUTIONS_LIMIT = 256,
    REASON_SIZE = 128,
    LEDGER_ENTRY_LIMIT = MANIFEST_LIMIT + 1024
};

/* What a site may do, by its invitation. An observer follows and evaluates: it never counts in K,
 * and its contributions are refused. */
enum site_role { SITE_TRAINS = 0, SITE_OBSERVES = 1, SITE_ROLES };

#define TOKEN_BUDGET_LIMIT (UINT64_C(1) << 60) /* leaves room to add */

struct step_part {
    uint64_t index; /* the ledger index of the contribution */
    float scale; /* clip and staleness weight together; fed/run_state.h says how it comes about */
};

struct ledger_entry {
    enum ledger_kind kind;
    uint32_t epoch;
    uint64_t time_ms; /* the coordinator's wall clock, which may be set: differences of it say how
                         old a voice is and how long a site took (run_tokens.c), nothing else */
    union {
        struct {
            uint8_t run_id[RUN_ID_SIZE];
            uint8_t coordinator_key[PUBLIC_KEY_SIZE];
            uint8_t layout_digest[DIGEST_SIZE];
            uint64_t parameters; /* count */
            uint8_t initial_root[DIGEST_SIZE];
            struct bytes manifest; /* canonical form; borrowed */
        } genesis;
        struct {
            char name[SITE_NAME_SIZE];
            uint8_t secret_digest[DIGEST_SIZE]; /* SHA-256 of the one-time secret */
            uint64_t expires_ms;
            enum site_role role;
        } invited;
        struct {
            char name[SITE_NAME_SIZE];
        } uninvited;
        struct {
            uint32_t site; /* numbers are given in order, from 1, and never again */
            char name[SITE_NAME_SIZE];
            uint8_t public_key[PUBLIC_KEY_SIZE];
            uint8_t secret_digest[DIGEST_SIZE]; /* the invitation it used up */
        } added;
        struct {
            uint32_t site;
            char reason[REASON_SIZE];
        } revoked;
        struct {
            uint32_t site;
        } presence; /* AWAY, BACK, LEFT */
        struct {
            char key[RULE_KEY_SIZE], value[RULE_VALUE_SIZE]; /* as the manifest writes them */
            char reason[REASON_SIZE];
        } rule;
        struct {
            uint8_t header[CONTRIBUTION_HEADER_SIZE];
            uint8_t signature[SIGNATURE_SIZE];
        } contribution;
        struct {
            uint32_t fragment;
            uint64_t version; /* after the step */
            bool has_root;
            uint8_t root[DIGEST_SIZE]; /* state root after the step; zero without */
            float rate;                /* the outer learning rate, and ... */
            uint32_t period;           /* ... of delayed Nesterov (fed/outer_rate.h) */
            uint16_t count;
            struct step_part parts[STEP_CONTRIBUTIONS_LIMIT]; /* [count], indices increasing */
        } step;
        struct {
            uint64_t index; /* of the contribution */
            char reason[REASON_SIZE];
        } dropped;
        struct {
            char reason[REASON_SIZE];
            uint64_t token_budget; /* RESUMED: the run's from now on; 0: as it was */
        } note;                    /* PAUSED, RESUMED, STOPPED */
    };
};

/* Appends the entry's bytes. */
void ledger_entry_encode(const struct ledger_entry *entry, struct buffer *out);
/* INVALID for anything that ledger_entry_encode would not have written. Borrowed fields point into
 * `raw`. */
MUST_USE enum status ledger_entry_decode(struct bytes raw, struct ledger_entry *out,
                                         struct error *error);
/* "contribution", "step", ...; never NULL. */
const char *ledger_kind_name(enum ledger_kind kind);

#endif
