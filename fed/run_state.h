/* What the ledger says about a run, without its tensors: the control half of the state machine.
 *
 * Coordinator, sites, auditor and simulator feed the same entries in the same order to a run_state
 * and so agree on who is enrolled, which sequences were used, which contributions wait to be
 * merged, how stale each is and by how much each is scaled. run_state_apply refuses an entry that
 * breaks a rule, so a coordinator cannot write a step that its own ledger does not justify, and a
 * site notices one that tries.
 *
 * Scale of a part in a step, all in fp32/fp64 with explicit rounding, so that everybody computes
 * the same bits:
 *   clip    = limit / norm where norm > limit, else 1, of norms as if of H inner steps (clip_norm);
 *           limit = factor * median, or the manifest's bound while there is no median. The median
 *           of a fragment is over its sites, the last norm of each as it came, and moves once a
 *           step of the fragment (fed/scale.h): so the clip is known and fixed once the
 *           contribution is in the ledger, and contributions that arrive while a step is being
 *           computed do not change that step.
 *   weight  = 1, or by tokens or shares as the manifest says, within the cap of influence: at most
 *           WEIGHT_MOST (fed/weight.h); fixed when the clip is
 *   scale   = clip * (weight * s * f), rounded to fp32 towards zero, so that no norm comes out
 *           above weight times its limit; s = 1, or 1 / sqrt(1 + staleness) or 1 / (1 + staleness)
 *           as the manifest says; f follows the parts of the step and the sites that are present
 *           (fed/outer_rate.h), or is 1 where the manifest names a rate
 * Staleness of a contribution = number of steps to its fragment with a version in (base_version,
 * now].
 *
 * Tokens are what sites tell, so how many count is bounded by what the median site does
 * (run_tokens.c). Once the budget is spent no contribution is taken until the admin resumes the run
 * with a larger one.
 *
 * A site has at most one contribution a fragment waiting. A pause or the end of the run refuses new
 * contributions; what waits may still be merged. A contribution that waits and whose payload is
 * lost for good is dropped by an entry of its own: it stays in the ledger, and its site takes its
 * mass back. Revoking a site drops what waits from it: it stays in the ledger and is never merged.
 * run_apply.c has the table of what is allowed when.
 *
 * No I/O, no clock, no randomness; one owner.
 */
#ifndef FED_RUN_STATE_H
#define FED_RUN_STATE_H

#include "codec/codec.h"
#include "fed/ledger.h"
#include "fed/merkle.h"
#include "fed/receipt.h"

enum { TOKEN_RATE_LIMIT = 8, TOKEN_RATE_LIMIT_OF_TWO = 64 };

/* Whether a site counts: K is the number of those that are present, and what depends on the number
 * of sites depends on K alone. */
enum site_presence { SITE_PRESENT = 0, SITE_AWAY, SITE_LEFT };

struct run_site {
    uint32_t site;
    char name[SITE_NAME_SIZE];
    uint8_t public_key[PUBLIC_KEY_SIZE];
    enum site_role role; /* its invitation's */
    bool revoked;
    uint64_t revoked_at;         /* ledger index */
    enum site_presence presence; /* a site is present from its enrolment on */
    uint64_t presence_at;        /* ledger index of the entry that says so */
    uint64_t last_sequence;      /* 0: none yet */
    uint64_t last_index;         /* ledger index of the last contribution */
    uint64_t last_time_ms;       /* of that entry, and its epoch: what a repeated receipt needs */
    uint32_t last_epoch;
    uint8_t last_digest[DIGEST_SIZE]; /* of its header; zero: none yet */
    uint64_t contributions, tokens;   /* accepted; tokens as the site tells them, and of them ... */
    uint64_t counted, uncounted;      /* ... so many are in the run's count, or wait to be */
    double last_norm, last_clip, last_weight; /* of the last contribution */
    uint64_t last_age; /* of it: versions from its oldest inner step to its entry */
    float last_scale;  /* of the last that was merged */
};

/* At most one invitation of a name is open: what follows it in the ledger ends it. */
enum invitation_end {
    INVITATION_OPEN = 0,
    INVITATION_USED,      /* a site was enrolled with it */
    INVITATION_REPLACED,  /* by a newer one of that name */
    INVITATION_WITHDRAWN, /* by the admin */
    INVITATION_VOID,      /* a site of that name was enrolled or revoked meanwhile */
    INVITATION_ENDS       /* count */
};

struct run_invitation {
    char name[SITE_NAME_SIZE];
    uint8_t secret_digest[DIGEST_SIZE];
    uint64_t made_ms, expires_ms; /* the entry's time; 0: never expires */
    enum invitation_end end;
    enum site_role role;
};

struct run_pending { /* in the ledger, not yet in a step */
    uint64_t index;
    uint8_t header_digest[DIGEST_SIZE];
    struct contribution contribution;
    double clip, weight; /* clip in (0, 1]; both fixed when the entry was applied */
};

enum run_phase { RUN_ACTIVE = 0, RUN_PAUSED = 1, RUN_STOPPED = 2 };

struct run_state;

enum { RULE_CHANGES_KEPT = 64 };
struct rule_change {         /* what a RULE entry said */
    uint64_t index, version; /* of the entry; of the model then: it holds for the next one */
    uint64_t time_ms;        /* the coordinator's clock */
    char key[RULE_KEY_SIZE], value[RULE_VALUE_SIZE];
    char reason[REASON_SIZE];
};

/* Starts empty: the first entry applied must be GENESIS. */
struct run_state *run_state_create(void);
void run_state_destroy(struct run_state *state);

/* Checks the entry against every rule and applies it; `raw` is its encoding (hashed into the tree).
 * On anything but OK the state is as before: INVALID names the rule and the entry's index.
 * Contributions' signatures are verified here unless `trusted` (an own ledger that is read back,
 * where the digests of the store vouch). */
MUST_USE enum status run_state_apply(struct run_state *state, struct bytes raw, bool trusted,
                                     struct error *error);

/* --- reading; what is lent is valid until the next apply --- */
uint64_t run_state_size(const struct run_state *state); /* entries applied */
const struct merkle *run_state_tree(const struct run_state *state);
bool run_state_has_genesis(const struct run_state *state);
/* The rules that hold now: the genesis entry's manifest with what RULE entries changed since. And
 * as it stands there. */
const struct manifest *run_state_manifest(const struct run_state *state);
const struct manifest *run_state_genesis(const struct run_state *state);
/* Of the RULE entries, the last RULE_CHANGES_KEPT: how many there are; the newest is 0 back. NULL
 * beyond. */
uint32_t run_state_rule_changes(const struct run_state *state);
const struct rule_change *run_state_rule_change(const struct run_state *state, uint32_t back);
const uint8_t *run_state_manifest_digest(const struct run_state *state); /* [DIGEST_SIZE] */
const uint8_t *run_state_layout_digest(const struct run_state *state);   /* [DIGEST_SIZE] */
const uint8_t *run_state_run_id(const struct run_state *state);          /* [RUN_ID_SIZE] */
const uint8_t *run_state_coordinator_key(const struct run_state *state); /* [PUBLIC_KEY_SIZE] */
const uint8_t *run_state_initial_root(const struct run_state *state);    /* [DIGEST_SIZE] */
uint64_t run_state_parameters(const struct run_state *state);
uint64_t run_state_version(const struct run_state *state);
/* State root of the newest version whose step entry has one (version 0: the genesis root). */
void run_state_root(const struct run_state *state, uint64_t *version,
                    uint8_t out[static DIGEST_SIZE]);
/* Root recorded for that version; false if it has none or lies further back than the staleness cap
 * reaches. */
bool run_state_root_at(const struct run_state *state, uint64_t version,
                       uint8_t out[static DIGEST_SIZE]);
uint32_t run_state_epoch(const struct run_state *state);
enum run_phase run_state_phase(const struct run_state *state);
/* of the pause or stop that holds now; "" */
const char *run_state_reason(const struct run_state *state);
uint32_t run_state_inner_steps(const struct run_state *state); /* H now */
/* Of all contributions in the ledger, as far as they count: a site's tokens beyond TOKEN_RATE_LIMIT
 * times what the median site trains in the time (of two, TOKEN_RATE_LIMIT_OF_TWO times the slower
 * one) are put off until they are within it. */
uint64_t run_state_tokens(const struct run_state *state);
/* What the other sites that are present train meanwhile, for a schedule between contributions: when
 * the site's last contribution was entered they had trained about `unsent` tokens that were not in
 * the ledger (less, by what has been entered since: then it is negative), and since then they train
 * `ratio` tokens per token of the site's. Each is taken at the rate that the ledger shows. Who has
 * no rate yet, or all while the site has none, are as fast as the site. */
struct run_flow {
    double unsent, ratio;
};
struct run_flow run_state_flow(const struct run_state *state, uint32_t site);
/* The manifest's, or that of the last RESUMED entry with one; 0: none. */
uint64_t run_state_token_budget(const struct run_state *state);
bool run_state_is_spent(const struct run_state *state);
/* ever added */
uint32_t run_state_site_count(const struct run_state *state);
/* NULL: no such number */
const struct run_site *run_state_site(const struct run_state *state, uint32_t site);
/* the newest of that name */
const struct run_site *run_state_site_named(const struct run_state *state, const char *name);
/* enrolled, not revoked, and no observers */
uint32_t run_state_active_sites(const struct run_state *state);
/* K: of them, those that are present by the ledger. */
uint32_t run_state_present_sites(const struct run_state *state);
/* Whether the site counts in K. An observer never does. */
bool run_state_is_present(const struct run_state *state, uint32_t site);
/* The invitation with that secret digest, open or not; NULL if there is none. */
const struct run_invitation *run_state_invitation(const struct run_state *state,
                                                  const uint8_t digest[static DIGEST_SIZE]);
/* The open one of that name; NULL: none is. */
const struct run_invitation *run_state_open_invitation(const struct run_state *state,
                                                       const char *name);
uint32_t run_state_invitation_count(const struct run_state *state);
const struct run_invitation *run_state_invitation_at(const struct run_state *state, uint32_t at);
uint32_t run_state_pending_count(const struct run_state *state, uint32_t fragment);
/* ledger order */
const struct run_pending *run_state_pending(const struct run_state *state, uint32_t fragment,
                                            uint32_t at);
/* Whether a contribution of the site waits for a step, of any fragment. */
bool run_state_site_pending(const struct run_state *state, uint32_t site);
/* Steps to the fragment since base; UINT64_MAX where base lies before what is remembered (beyond
 * any cap). */
uint64_t run_state_staleness(const struct run_state *state, uint32_t fragment,
                             uint64_t base_version);
/* How many steps a contribution with that base may have missed. */
uint32_t run_state_staleness_cap(const struct run_state *state, uint32_t fragment,
                                 uint64_t base_version);
/* The codec of messages with that base. */
enum codec run_state_codec(const struct run_state *state, uint64_t base_version);
/* Version of the fragment's last step; 0 if none. */
uint64_t run_state_fragment_version(const struct run_state *state, uint32_t fragment);
/* Median norm of the fragment's sites; 0 while it is not known. */
double run_state_median_norm(const struct run_state *state, uint32_t fragment);
/* What the next contribution's norm is scaled down to; INFINITY: nothing is clipped. */
double run_state_norm_limit(const struct run_state *state, uint32_t fragment);
/* (site, sequence) -> ledger index of that contribution; false if none. */
bool run_state_find(const struct run_state *state, uint32_t site, uint64_t sequence,
                    uint64_t *index);

/* True of a contribution that waited and was given up (LEDGER_DROPPED), or whose site was revoked:
 * it is never merged, and nobody needs its payload. */
size_t run_state_dropped_count(const struct run_state *state);
uint64_t run_state_dropped_at(const struct run_state *state, size_t at);
bool run_state_dropped(const struct run_state *state, uint64_t index);

/* --- writing the next entries, for the coordinator --- */
/* Fills a STEP entry (without root) that merges the fragment's first `count` pending contributions
 * with the scales that the rules give. count <= run_state_pending_count. */
void run_state_plan_step(const struct run_state *state, uint32_t fragment, uint16_t count,
                         struct ledger_entry *out);

/* --- admission, cheap to expensive; none of these changes the state --- */
struct admission_limits {
    uint64_t now_ms;      /* wall clock, for expiry */
    uint64_t max_payload; /* bytes; the codec's bound for the fragment */
};
/* Everything that can be decided from the header before a byte of payload comes: identity,
 * signature, run, layout, epoch, sequence, phase, base version and its root, staleness, sizes.
 * `site` is the one whose certificate the call came with. ACCEPTED fills *out, and so does
 * DUPLICATE, for the old receipt. `why` (may be NULL) gets a sentence for log and peer. */
enum refusal admission_header(const struct run_state *state, uint32_t site, struct bytes header,
                              struct bytes signature, const struct admission_limits *limits,
                              struct contribution *out, struct error *why);
/* The rest, from the payload, which is the caller's worker's job: digest, size, structure, finite,
 * norm. Takes what is in *bytes. REFUSED_DIGEST alone says that they are not the bytes that were
 * signed: all else is what the site signed. Thread-safe: touches only its arguments. */
enum refusal admission_payload(const struct contribution *contribution,
                               const struct manifest *manifest, uint64_t parameters,
                               struct buffer *bytes, struct error *why);

/* DyLU: H_w = floor(H * share), at least H / 8 (a round with fewer steps costs more than it brings)
 * and 1, at most H. A share is rate / fastest, and 1 from DYLU_SAME on: a site that is nearly as
 * fast as the fastest is not told H - 1. Rates may be in any unit, the same for all; the share is 1
 * where no rate is known (fastest is 0 or infinite). */
#define DYLU_SAME 0.95
#define DYLU_MOVED 0.05
/* With `before` (0: none), what the site was told by last: that stays, unless what is measured now
 * is more than DYLU_MOVED of the larger one away from it. So noise in the measurements, and two
 * sites that take turns at being the fastest, change nobody's H. */
double dylu_share(double before, double rate, double fastest);
uint32_t dylu_steps(uint32_t inner_steps, double share);
/* Both, for those whose speeds are not measured. */
uint32_t dylu_inner_steps(uint32_t inner_steps, double rate, double fastest);

/* Whom the others are measured by. A rate is steps that a site tells over a time that is seen, so
 * no single voice sets it: of three sites or more it is the second fastest, for what one can do
 * another can. Of two, and of one, it is the fastest: neither can outvote the other. */
struct dylu_rates { /* all zero: none noted */
    double first, second;
    uint32_t count;
};
void dylu_note(struct dylu_rates *rates, double rate);
/* 0: none is known. */
double dylu_fastest(const struct dylu_rates *rates);

/* Fragment f of a vector of `parameters` floats in `fragments` pieces: [*start, *start + *count).
 * Pieces are equal except rounding to 4096 (the codec's chunk); the last takes the rest. */
void fragment_range(uint64_t parameters, uint32_t fragments, uint32_t fragment, uint64_t *start,
                    uint64_t *count);
/* Parameters of the largest. */
uint64_t fragment_largest(uint64_t parameters, uint32_t fragments);

#endif
