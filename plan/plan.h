/* `atoll-sim plan`: how busy sites will be, what crosses the WAN, what it costs and what binds,
 * before money is spent.
 *
 * A discrete-event model of a federation described by topology/topology.h. What is modelled and
 * what is real:
 *   - rules: rounds, one message at a time a site, spool, backoff with full jitter, BUSY, quorum,
 *   grace window, warm-up, staleness cap,
 *     group commit, one outer step at a time, stubs for own contributions: the decisions of
 *     node_state and coordinator_state, on
 *     sizes instead of bytes. Running those cores themselves costs a signature check for each
 *     entry at each site, which a
 *     thousand sites for a day (10^8 of them) do not allow. tests/plan_cores_test.c runs both on
 *         small cases and demands the same counts;
 *     docs/planning.md lists what is simplified;
 *   - links: max-min fair shares of the coordinator's link in both directions, each flow bounded by
 *   its own link and by what
 *     TCP makes of round trip, window and losses (topology_rate_up); one-way delays, jitter,
 *         outages, resets;
 *   - downlinks of up to PLAN_EXACT_SITES sites change rate at every event; of more, every
 *   `quantum` (10^8 updates a run), and
 *     what arrives in between is told at its end: that error is below a second for 1,000 sites and
 *     a day, 9 s for 10,000.
 *
 * Where `overlap` is on, a slow link never stops training (invariant I9): it makes rounds longer
 * than H, so contributions older and fewer. Both are reported: time lost, by cause; and where a
 * round's time went. Every second of every site is in exactly one cause; their sum is the wall
 * time.
 *
 * Deterministic: the same topology and seed give the same bytes. Doubles, no libm beyond log and
 * sqrt. One thread.
 */
#ifndef PLAN_PLAN_H
#define PLAN_PLAN_H

#include "topology/rules.h"

enum { PLAN_EXACT_SITES = 64, PLAN_BUCKETS = 240, PLAN_STALENESS_MAX = 4097 };

enum plan_cause {                   /* of a second of a site */
                  PLAN_USEFUL,      /* it trains, and that is kept */
                  PLAN_COPY,        /* training stands still for a snapshot or rebase */
                  PLAN_REWORK,      /* it trained, and a crash took it */
                  PLAN_REPAIR,      /* it is broken */
                  PLAN_RESTART,     /* repaired, loading */
                  PLAN_START,       /* joining: it has not seen the ledger yet */
                  PLAN_WAIT_ENCODE, /* from here on only with overlap off */
                  PLAN_WAIT_UPLOAD, /* sending, or waiting for a place, a link or a retry */
                  PLAN_WAIT_OUTAGE, /* the coordinator is down */
                  PLAN_WAIT_QUORUM, /* in the ledger: quorum, grace window, other steps, the step
                                       itself */
                  PLAN_WAIT_DOWN,   /* merged: until the step has come and is replayed */
                  PLAN_ABSENT, /* before it joins and after it left: not counted in any share */
                  PLAN_CAUSES
};
extern const char *const plan_cause_names[PLAN_CAUSES];

/* of a round */
enum plan_phase {
    PLAN_ENCODING,
    PLAN_UPLOADING,
    PLAN_CHECKING,
    PLAN_MERGING,
    PLAN_RETURNING,
    PLAN_PHASES
};
extern const char *const plan_phase_names[PLAN_PHASES];

struct plan_site {
    struct topology_place place;
    double time[PLAN_CAUSES];  /* seconds; their sum is the duration */
    double useful_steps;       /* inner steps that were kept */
    double tokens;             /* of those */
    double tokens_per_second;  /* over the time it was there */
    double busy;               /* useful / time it was there */
    double phase[PLAN_PHASES]; /* seconds, of all its merged rounds */
    uint64_t rounds, merged, refused_stale, busy_answers, crashes, resets;
    uint64_t refused_most; /* staleness of the most stale of those refused */
    bool starved;      /* refused for staleness at least three times, and more often than merged */
    double steps_sent; /* inner steps in merged contributions */
    double sent, sent_lost; /* bytes up; of them: lost and sent again */
    double received, received_lost;
    double behind; /* seconds that it lagged the ledger by more than a round trip */
    double cost;
};

struct plan_result {
    double duration;
    uint32_t site_count;
    struct plan_site *sites; /* [site_count], owned */
    double round_bytes;      /* payload of a contribution of one fragment */
    uint64_t contributions, versions, refused_stale, busy_answers, entries;
    uint64_t staleness[PLAN_STALENESS_MAX]; /* merged contributions by staleness */
    double busy, goodput_tokens, merged_tokens;
    double seconds_to_target; /* NAN: no target; INFINITY: nothing is merged */
    double up_bytes, down_bytes, up_lost, down_lost; /* of all sites: as sent */
    double up_received, down_received;               /* as they arrived; sent = received + lost */
    double cost_sites, cost_egress, cost_hours;
    double peak_in,
        peak_out; /* bytes per second at the coordinator, over 10 s or 1/8640 of the duration */
    double intake_busy, model_busy,
        cpu_cores; /* shares of the two threads; cores in use on average, transport included */
    double ram, disk;
    double effective_inner_steps, wanted_inner_steps; /* mean, of merged contributions */
    double uplink_bits;     /* a parameter and contribution, everything counted */
    double step_apply;      /* seconds an outer step of one contribution takes */
    uint32_t starved_sites; /* sites whose work the staleness cap keeps out (docs/planning.md) */
    uint64_t cap_wanted; /* smallest staleness cap that would have taken theirs; 0: none starved */
    uint32_t cap_most;   /* greatest cap that a message was judged by; 0: none came */
    char binding[256];   /* what limits, in words */
    /* shares; bytes per second */
    double series_busy[PLAN_BUCKETS], series_in[PLAN_BUCKETS], series_out[PLAN_BUCKETS];
    double quantum; /* seconds; 0: exact */
    uint64_t events;
    uint64_t site_limit; /* sites that the protocol admits (fed/manifest.h): a plan beyond it is
                            hypothetical */
};

/* Whether a rule's change changes nothing here: a plan has no losses, rates or weights, one codec,
 * and no end of the tokens. */
bool plan_ignores(const char *key);
/* The manifest that a plan begins with. */
void plan_rules(const struct topology *topology, struct manifest *out);
/* `changes`: of rules on the way, as rules_changes gives them from plan_rules; NULL: none. */
void plan_run(const struct topology *topology, const struct rules_change *changes,
              size_t change_count, uint64_t seed, struct plan_result *out);
void plan_result_deinit(struct plan_result *result); /* a zeroed one is a no-op */
/* The value below which `share` of merged contributions lie. */
uint64_t plan_staleness(const struct plan_result *result, double share);
/* Time of the cause at all sites, as a share of the time that they were there. */
double plan_share(const struct plan_result *result, enum plan_cause cause);

/* --- advice: other settings, each of them simulated --- */
struct plan_candidate {
    double inner_steps, fragments;
    enum codec codec;
    double busy, stretch; /* stretch: effective over wanted inner steps */
    double up_bytes, down_bytes, staleness_p99;
    uint32_t starved_sites;
    bool reaches; /* busy >= 99 % (of what failures leave), stretch <= 1.1, no site starved */
};
enum { PLAN_CANDIDATES = 24 };
struct plan_advice {
    double possible; /* the share that no setting can exceed: failures, restarts, rework, joining */
    struct plan_candidate candidates[PLAN_CANDIDATES];
    size_t count;
    int best;  /* index; -1: none reaches it */
    bool fine; /* as it is, it reaches it */
};
void plan_advise(const struct topology *topology, uint64_t seed, const struct plan_result *result,
                 struct plan_advice *out);

/* --- output; advice may be NULL --- */
void plan_text(const struct topology *topology, const struct plan_result *result,
               const struct plan_advice *advice, struct buffer *out);
void plan_json(const struct topology *topology, const struct plan_result *result,
               const struct plan_advice *advice, struct buffer *out);
void plan_svg(const struct topology *topology, const struct plan_result *result,
              struct buffer *out);

#endif
