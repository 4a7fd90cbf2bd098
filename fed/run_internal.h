/* The inside of run_state, shared by its five files: run_state.c (reading), run_apply.c (entries),
 * run_scale.c (staleness, clipping, steps), run_tokens.c (how many tokens count), admission.c (the
 * rules of one contribution). Nobody
 * else includes this but replay.c, which must check a step before it touches a tensor and enter it
 * afterwards.
 *
 * Memory: 24 bytes per contribution for the index of sequences and 64 bytes per entry for the hash
 * tree grow with the ledger; everything else is bounded: sites by SITES_LIMIT, invitations by
 * INVITATIONS_LIMIT, pending contributions by one per site and fragment, remembered steps and roots
 * by the staleness cap, norms and weights by one per site and fragment.
 */
#ifndef FED_RUN_INTERNAL_H
#define FED_RUN_INTERNAL_H

#include "fed/run_state.h"
#include "fed/scale.h"
#include "fed/staleness.h"
#include "fed/weight.h"

enum {
    INVITATIONS_LIMIT = 4 * SITES_LIMIT
}; /* ever made: those that expired are told apart by clocks, which rule nothing here */

struct sequence_record { /* one contribution in the ledger */
    uint64_t sequence;
    uint64_t index;
    uint64_t digest_prefix; /* first bytes of its header's SHA-256: tells a repetition from another
                               content */
};

/* Tokens over the time in which the run was not paused, older parts fading. */
struct token_rate {
    uint64_t tokens, ms; /* ms 0: not known yet */
    uint64_t since_ms;   /* of the last part, or of the site's enrolment */
    uint64_t settled_ms; /* until then what the site told was measured by the others */
};

struct site_slot {
    struct run_site site;
    struct token_rate rate;
    uint64_t pending;                /* bit f: a contribution of fragment f waits */
    struct sequence_record *records; /* [count], owned; sequence and index both increase */
    uint64_t count, capacity;
};

struct pending_slot {
    struct run_pending pending;
    uint64_t staleness; /* when its entry was applied ... */
    uint64_t steps;     /* ... which is when the fragment had made so many steps */
};

struct fragment_slot {
    struct pending_slot *pending; /* [count], owned, in ledger order */
    uint32_t count, capacity;
    struct clip clip;
    struct weighing weights;
    uint64_t parameters;
    uint64_t steps;   /* ever made */
    uint64_t version; /* of the last */
    /* [remembered], owned: the last steps' versions, step s at s % remembered */
    uint64_t *versions;
    struct presence_history present; /* of as many steps */
};

struct root_slot {
    bool known;
    uint64_t version;
    uint8_t root[DIGEST_SIZE];
};

struct run_state {
    uint64_t size;
    struct merkle *tree;
    bool has_genesis;
    struct manifest manifest; /* as the rules have changed it */
    struct manifest genesis;  /* as it began: what sites that join are given, and compare */
    uint8_t manifest_digest[DIGEST_SIZE], layout_digest[DIGEST_SIZE], initial_root[DIGEST_SIZE];
    uint8_t run_id[RUN_ID_SIZE], coordinator_key[PUBLIC_KEY_SIZE];
    uint64_t parameters;
    uint64_t version;
    uint32_t epoch;
    enum run_phase phase;
    char reason[REASON_SIZE];
    uint32_t inner_steps;
    uint64_t tokens, token_budget;
    uint64_t began_ms, paused_since_ms, paused_ms; /* times of entries; all pauses together */
    struct site_slot *sites;                       /* [site_count], owned; site n at n - 1 */
    uint32_t site_count, site_capacity, active_sites, present_sites;
    struct run_invitation *invitations; /* [invitation_count], owned */
    uint32_t invitation_count, invitation_capacity;
    struct cap_changes caps; /* the manifest's first */
    struct codec_change {    /* a codec holds for messages with a base from that version on */
        uint64_t from;
        enum codec codec;
    } * codecs; /* [codec_count], owned */
    uint32_t codec_count;
    struct rule_change *changes; /* [changes_kept], owned: the last of change_count */
    uint64_t change_count;
    struct fragment_slot fragments[FRAGMENTS_LIMIT];
    uint32_t remembered;     /* steps per fragment: staleness cap + 1 */
    struct root_slot *roots; /* [root_capacity], owned: the root of version v at (v / root_interval)
                                % root_capacity */
    uint64_t root_capacity, root_reach; /* versions further back than root_reach are not answered */
    uint64_t root_version;              /* the newest with a root */
    /* [dropped_count], owned: indices of contributions that were given up; rare */
    uint64_t *dropped;
    size_t dropped_count;
};

/* As error_wrap, but the status is the one given, whatever the story's was: what a codec calls
 * INVALID in a payload is CORRUPT for a reader of a ledger. */
static inline enum status error_restate(struct error *error, enum status status,
                                        const char *context) {
    if (error) error->status = status;
    return error_wrap(error, status, "%s", context);
}

/* --- run_apply.c --- */
/* The rules of one entry, without its effect. For a contribution *decoded gets its header's fields.
 */
MUST_USE enum status run_check(const struct run_state *state, const struct ledger_entry *entry,
                               bool trusted, struct contribution *decoded, struct error *error);
/* The effect of an entry that run_check found in order. Cannot fail. */
void run_commit(struct run_state *state, const struct ledger_entry *entry,
                const struct contribution *decoded, struct bytes raw);

/* --- run_scale.c --- */
float run_scale_of(const struct run_state *state, uint32_t fragment,
                   const struct pending_slot *slot);
struct clip_rules run_clip_rules(const struct run_state *state, uint32_t fragment);
/* Every rule of a STEP entry but the epoch's and the phase's. */
MUST_USE enum status run_check_step(const struct run_state *state, const struct ledger_entry *entry,
                                    struct error *error);
/* Steps and roots are remembered as far back as that cap of the manifest's reaches, if they are not
 * already. */
void run_remember(struct run_state *state, uint32_t cap);
/* The codec is the manifest's for messages with a base from that version on. */
void run_note_codec(struct run_state *state, uint64_t from);
/* The number of sites that are present has changed. */
void run_note_present(struct run_state *state);
void run_commit_step(struct run_state *state, const struct ledger_entry *entry);
/* The place of the contribution with that ledger index among the fragment's pending; -1 if it is
 * not there. */
int64_t run_pending_at(const struct run_state *state, uint32_t fragment, uint64_t index);

/* --- run_tokens.c --- */
/* Milliseconds of the ledger's clock in which the run was not paused. */
uint64_t run_active_ms(const struct run_state *state, uint64_t time_ms);
/* The site's contribution of so many tokens is entered. */
void run_count_tokens(struct run_state *state, struct site_slot *site, uint64_t tokens,
                      uint64_t time_ms);
/* One of so many tokens is given up: what carries its mass next says them again. */
void run_uncount_tokens(struct run_state *state, struct site_slot *site, uint64_t tokens);

/* --- admission.c --- */
/* What the ledger itself demands of a contribution by `site`, which is enrolled and not revoked,
 * with a good signature: all of admission but what depends on a clock or on the coordinator's
 * limits. */
enum refusal contribution_rules(const struct run_state *state, const struct site_slot *site,
                                const struct contribution *contribution,
                                const uint8_t header_digest[static DIGEST_SIZE], struct error *why);

/* --- run_state.c --- */
/* NULL: no such number */
const struct site_slot *run_site_slot(const struct run_state *state, uint32_t site);
/* NULL: none */
const struct sequence_record *run_record(const struct site_slot *slot, uint64_t sequence);
uint64_t digest_prefix(const uint8_t digest[static DIGEST_SIZE]);

#endif
