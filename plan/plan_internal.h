/* The inside of the planner: plan.c (life, events, result), plan_site.c (rounds, uploads, links,
 * failures), plan_coordinator.c (intake, commits, steps), plan_flow.c (shared links). */
#ifndef PLAN_PLAN_INTERNAL_H
#define PLAN_PLAN_INTERNAL_H

#include "base/heap.h"
#include "base/random.h"
#include "fed/merge_policy.h"
#include "fed/run_state.h"
#include "fed/staleness.h"
#include "plan/plan.h"

enum plan_event_kind {
    EV_JOIN,
    EV_LEAVE,
    EV_CONNECT,
    EV_LINKED,
    EV_DUE,
    EV_SNAPSHOT,
    EV_REBASE,
    EV_ENCODED,
    EV_RETRY,
    EV_RECEIPT,
    EV_REFUSED,
    EV_BUSY,
    EV_MERGED,
    EV_TRAIN,
    EV_FAIL,
    EV_REPAIRED,
    EV_RESTARTED,
    EV_RESET,
    EV_OUTAGE,
    EV_OUTAGE_OVER, /* of a site */
    EV_OPEN,
    EV_DATA,
    EV_CHECKED,
    EV_SYNCED,
    EV_APPLIED,
    EV_WINDOW,
    EV_DOWN,
    EV_UP,
    EV_RULE, /* number: which of the changes */
    EV_INGRESS,
    EV_TICK /* of the coordinator */
};

struct plan_event {
    double at;
    uint64_t order;
    enum plan_event_kind kind;
    uint32_t site, fragment;
    uint64_t number; /* generation or sequence that it belongs to; another one: it is void */
    int64_t steps;
};

enum slot_state {
    IN_TRAINING,
    IN_SNAPSHOT,
    IN_ENCODING,
    IN_UPLOADING,
    IN_BACKOFF,
    IN_ACCEPTED,
    IN_MERGING,
    IN_RESTORING
};

struct plan_slot { /* a fragment at a site */
    enum slot_state state;
    bool again;        /* the message before was refused, and this one was made at once */
    int64_t mark;      /* inner steps at the last snapshot */
    uint64_t base;     /* version */
    uint64_t sequence; /* of the round; counts up with everything that voids its events */
    int64_t steps;     /* in flight */
    /* entered: at the coordinator; in_ledger: the site has seen it there */
    bool encoded, entered, in_ledger, published;
    uint32_t attempts;
    double got;      /* bytes that the coordinator has */
    double phase_at; /* begin of the present phase of the round */
    double phase[PLAN_PHASES];
};

struct plan_target { /* something in the stream down that a site waits for */
    double offset, work, weight,
        at; /* of the stream; cumulative replay work and that of this step; published at */
    uint32_t fragment;
    uint64_t version; /* 0: the site's own contribution; else the step that merged it */
    uint64_t sequence;
};
struct plan_span {
    double from, to;
};

struct site_now {
    const struct topology_site *group;
    uint32_t group_index;
    double step, cap_up, cap_down, one_way;
    struct random faults, jitter;
    bool present, alive, linked, cut, training, started;
    /* linked until then; -INFINITY: never, or not by this process of the coordinator */
    double heard;
    uint32_t attempts;
    uint64_t life, link; /* generations of events */
    double origin;       /* time at which the trainer had done origin_steps */
    int64_t origin_steps;
    int64_t restore_steps; /* what a crash now goes back to */
    double restore_useful, checkpoint_from;
    enum plan_cause cause;
    double since, joined;
    struct plan_slot *slots; /* [fragments] */
    /* the stream down */
    double position, from, rate, prefix, work, work_at, start_at;
    bool active;
    struct plan_target *queue;
    uint32_t queue_count, queue_capacity;
    struct plan_span own[FRAGMENTS_LIMIT + 2];
    uint32_t own_count;
    bool uploading; /* in the ingress */
    double outage_from;
    struct plan_site *out;
};

struct plan_flow { /* an upload under way */
    uint32_t site, fragment;
    double left, rate, cap;
};

struct plan_part { /* waits for a step */
    uint32_t site, fragment;
    uint64_t base, sequence;
    int64_t steps;
};
struct plan_pending {
    struct plan_part *items;
    uint32_t count, capacity;
};
struct plan_commit {
    bool is_step;
    struct plan_part part;
    uint64_t version;
    uint32_t parts;
};
struct plan_publication {
    double at, end; /* offset of its end in the stream */
};
struct plan_mark { /* a step in the stream */
    double offset, work;
};

struct plan {
    const struct topology *topology;
    struct plan_result *out;
    double now, end, payload, fragment_parameters, apply_step, apply_part, replay_step, replay_part;
    uint32_t fragments;
    struct heap events;
    uint64_t order;
    struct site_now *sites;
    uint32_t site_count, present;
    struct dylu_rates rates; /* of the sites that are there */
    double wanted_steps;     /* H_w, summed over merged contributions */
    /* coordinator */
    struct random random;
    bool up, applying, syncing;
    uint64_t life;
    double intake_free, model_free, applying_from;
    uint32_t uploads, waiting_commits, syncing_count;
    struct plan_pending pending[FRAGMENTS_LIMIT];
    struct manifest rules;       /* of now */
    struct merge_settings merge; /* by them, in seconds */
    struct cap_changes caps;
    struct presence_history presences[FRAGMENTS_LIMIT];
    struct merge_windows windows;
    struct plan_part *step_parts;
    uint32_t step_count, step_fragment;
    struct plan_commit *commits;
    size_t commit_count, commit_capacity;
    uint64_t version;
    uint64_t *fragment_versions[FRAGMENTS_LIMIT];
    size_t fragment_count[FRAGMENTS_LIMIT], fragment_capacity[FRAGMENTS_LIMIT];
    double window_at;
    /* streams */
    struct plan_flow *flows;
    uint32_t flow_count, flow_capacity;
    double ingress_at;
    uint64_t ingress_number, tick_number;
    double stream, stream_work;
    struct plan_publication *log;
    size_t log_count, log_capacity;
    struct plan_mark *marks; /* [version] */
    size_t mark_capacity;
    size_t *seen; /* [group_count]: publications that its sites can see */
    double level, ticked, tick_at, quantum;
    double *peak_in, *peak_out;
    double peak_width, bucket_width, merged_tokens_at_target;
};

/* plan.c */
/* plan_run, with downlinks moved every `quantum` seconds at least. A candidate of the advice covers
 * a part of the duration and takes the plan's own quantum: else it would cost as many updates as
 * the whole. */
void plan_run_coarse(const struct topology *topology, const struct rules_change *changes,
                     size_t change_count, uint64_t seed, double quantum, struct plan_result *out);
void plan_post(struct plan *plan, double at, enum plan_event_kind kind, uint32_t site,
               uint32_t fragment, uint64_t number, int64_t steps);
void *plan_grow(void *items, size_t count, size_t *capacity, size_t size);
void plan_count_bytes(struct plan *plan, bool in, double from, double to, double bytes);

/* Messages with a base from that version on are judged by the cap of now. */
void plan_note_cap(struct plan *plan, uint64_t from);

/* plan_site.c */
void site_rules_changed(struct plan *plan);
void site_event(struct plan *plan, const struct plan_event *event);
void site_cause(struct plan *plan, struct site_now *site);
void site_link_lost(struct plan *plan, uint32_t site);
void site_published(struct plan *plan, const struct plan_part *part, uint64_t version);
double site_jitter(struct site_now *site);
void site_finish(struct plan *plan);

/* plan_coordinator.c */
void coordinator_event(struct plan *plan, const struct plan_event *event);
void coordinator_consider(struct plan *plan);
void coordinator_uploaded(struct plan *plan, uint32_t site, uint32_t fragment);
uint64_t plan_staleness_of(const struct plan *plan, uint32_t fragment, uint64_t base, uint64_t now);

/* plan_flow.c */
double fair_level(const double *caps, const uint32_t *counts, size_t count, double capacity);
void ingress_begin(struct plan *plan, uint32_t site, uint32_t fragment, double bytes, double cap);
/* Takes a flow out; what was on its way is lost. */
void ingress_cut(struct plan *plan, uint32_t site);
void ingress_advance(struct plan *plan);
void stream_publish(struct plan *plan, double bytes, const struct plan_part *own);
void stream_tick(struct plan *plan);
void stream_pause(struct plan *plan, struct site_now *site, bool rewind);
void stream_resume(struct plan *plan, struct site_now *site);
/* Version that the site has replayed by now. */
uint64_t stream_version(const struct plan *plan, const struct site_now *site);

/* --- bytes on the wire beside payloads, measured on real streams (docs/planning.md) --- */
#define WIRE_SHARE                                                                                 \
    (1 + 31.0 / 16384 +                                                                            \
     32.0 / 262144)        /* TLS records and HTTP/2 frames of 16 KiB, chunks of 256 KiB */
#define WIRE_SUBMIT 620.0  /* header, signature, credit's counterpart, HTTP/2 headers */
#define WIRE_RECEIPT 900.0 /* down: credit, receipt with its proof */
#define WIRE_ENTRY 384.0   /* down: a contribution's entry */
#define WIRE_STUB 40.0     /* down: one's own */
#define WIRE_STEP 110.0    /* down: a step's entry ... */
#define WIRE_PART 12.0     /* ... and each of its parts */
#define WIRE_HEARTBEAT_UP 420.0
#define WIRE_HEARTBEAT_DOWN 160.0
#define WIRE_CONNECT_UP 2600.0
#define WIRE_CONNECT_DOWN 3200.0
#define HEARTBEAT_SECONDS 20.0
#define BACKOFF_FIRST 1.0
#define BACKOFF_LIMIT 60.0
#define BUSY_SECONDS 0.5
#define KEEPALIVE_SECONDS 60.0
#define HANDSHAKES 3.0 /* round trips from connect to the first entry */

#endif
