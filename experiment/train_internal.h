/* The inside of the workbench: train.c (time: events, links, merging), train_site.c (tensors:
 * steps, rounds, rebases) and train_hostile.c (what a hostile site sends). */
#ifndef EXPERIMENT_TRAIN_INTERNAL_H
#define EXPERIMENT_TRAIN_INTERNAL_H

#include "base/heap.h"
#include "base/random.h"
#include "experiment/train.h"
#include "fed/merge_policy.h"
#include "fed/model_state.h"
#include "fed/run_state.h"
#include "fed/scale.h"
#include "fed/staleness.h"
#include "fed/weight.h"
#include "model/trainer.h"

struct train_version { /* theta of a version, shared */
    uint64_t version;
    uint64_t steps[FRAGMENTS_LIMIT]; /* of each fragment, up to it */
    uint32_t holders;
    float theta[];
};

struct train_faults { /* one fault of the file at one site, walked forward in time */
    const struct topology_fault *fault;
    struct random random;
    double from, until; /* the next or current one */
    bool at_done;
};

struct train_slot { /* a fragment at a site */
    struct train_version *base;
    bool in_flight; /* its part of `snapshot` is of a message under way */
    /* What to do at the next step's end, with `known`. A follow is left out where the site does not
     * follow, and is part of the others. */
    enum {
        REBASE_NONE,
        REBASE_FOLLOW,
        REBASE_MERGED,
        REBASE_SPARSE_REFUSED,
        REBASE_DENSE_REFUSED
    } why;
    uint64_t base_version, base_steps; /* of that message; steps of the fragment up to it */
    uint64_t since_snapshot;           /* steps; at first more, so that fragments take turns */
    uint64_t sent_steps;               /* of the message under way */
    uint64_t round_tokens, own_known_tokens; /* at the snapshot; at that of the last one merged */
    bool stale, again; /* the last refusal was of the base; and what it gave back came at once */
    uint64_t sequence, taken; /* of the last message; of the last that came or was lost */
    double norm;
    struct verified_payload *payload; /* of the message under way; NULL: there was none yet */
};

struct train_site {
    const struct topology_site *group;
    struct topology_place place;
    double step;
    uint32_t inner_steps; /* H_w */
    struct train_faults failure, outage;
    const struct data *data;
    /* time */
    uint64_t generation; /* of its STEP events: a crash makes those under way void */
    bool came, left;
    bool up, waits; /* waits: overlap is off, for the merge */
    double heard;   /* not up: when the coordinator heard of it last; -INFINITY: never */
    double busy, checkpointed;
    /* tensors */
    float *theta;    /* [P] */
    float *feedback; /* [P]; NULL in dense mode */
    float *snapshot; /* [P] */
    struct train_slot slots[FRAGMENTS_LIMIT];
    struct buffer optimizer;
    struct train_version *known; /* the newest that it has heard of */
    double entered;              /* when it hears that the last message is in the ledger */
    uint64_t since_follow;       /* steps */
    double stream_until;         /* what was sent to it before arrives by then */
    uint64_t *due;               /* [due_count] run tokens of steps not yet trained */
    size_t due_count, due_capacity;
    /* books */
    uint64_t tokens, known_tokens;
    double loss;
    double part_bytes; /* of its part in the step that is delivered; 0: it has none */
    struct train_site_record record;
};

struct train_pending { /* at the coordinator */
    uint32_t site;
    struct train_pending *next;
    uint64_t base_steps;
    double clip, weight;
};

struct train_queue { /* of a fragment */
    struct train_pending *first, **end;
    uint32_t count;
    uint64_t steps; /* that were made of it */
    struct clip clip;
    struct weighing weights;
    struct presence_history present;
    struct codec_encoder *encoder;
};

struct train_range { /* a fragment's parameters */
    size_t start, count;
};

enum train_event_kind {
    EVENT_STEP,
    EVENT_ARRIVE,
    EVENT_GRACE,
    EVENT_DELIVER,
    EVENT_FAIL,
    EVENT_REPAIR,
    EVENT_LEAVE,
    EVENT_RULE,
    EVENT_EVALUATE
};

struct train_event {
    double at;
    uint64_t order; /* of equal times */
    enum train_event_kind kind;
    uint32_t site, fragment; /* fragment: ARRIVE, DELIVER */
    uint64_t generation;     /* STEP: of the site; ARRIVE: the message's sequence; RULE: which */
    struct train_version *version; /* DELIVER; NULL: a refusal */
    uint64_t run_tokens;
    bool merged; /* the step has the site's part */
};

struct train {
    const struct train_options *options;
    struct manifest rules; /* of now */
    struct cap_changes caps;
    struct layout layout;
    struct model_state model;
    struct train_version *newest;
    struct train_version **last; /* [average], owned: a ring of the last versions; NULL: none is */
    uint64_t last_count;         /* ever put there */
    uint64_t version_count, versions_most;
    struct data **data;
    struct train_site *sites;
    uint32_t site_count, threads;
    struct trainer **trainers; /* [threads] */
    struct train_faults coordinator;
    struct random random; /* jitter */
    struct random losses; /* of messages */
    double now;
    struct heap heap; /* of train_event */
    uint64_t events;
    struct train_queue queues[FRAGMENTS_LIMIT];
    struct merge_windows windows;
    double wake;   /* of the newest GRACE event */
    double *clips; /* [clip_count], owned: of the honest sites' contributions */
    size_t clip_count, clip_capacity;
    struct buffer overheard; /* the last honest site's payload, for a hostile one */
    uint64_t ledger_tokens, staleness_sum;
    struct train_record record;
    size_t record_capacity;
    struct train_result result;
    struct error failure;
};

/* A contribution's header, frames and receipt; an entry and its frames. */
enum { HEADER_BYTES = 600 };

/* --- train.c --- */
struct train_event train_event_at(double at, enum train_event_kind kind, uint32_t site);
void train_post(struct train *train, struct train_event event);
/* Seconds that a message over the link is late by, drawn anew. */
double train_jitter(struct train *train, const struct topology_link *link);
/* When something that is due at `at` can be done; `at` never goes back. */
double faults_release(struct train_faults *faults, double at);
MUST_USE enum status train_note_evaluation(struct train *train, struct error *error);

/* --- train_cluster.c --- */
MUST_USE enum status cluster_run(struct train *train, struct error *error);

/* --- train_coordinator.c --- */
/* The norm that longer ones of the fragment are scaled down to now; INFINITY: none. */
double train_clip_limit(const struct train *train, uint32_t fragment);
/* The rules of messages with a base from that version on. */
void train_note_cap(struct train *train, uint64_t from);
/* What a message may have missed whose base has that version and missed so many steps. */
uint32_t train_staleness_cap(const struct train *train, uint32_t fragment, uint64_t base_version,
                             uint64_t missed);
/* A contribution is there. */
MUST_USE enum status train_arrive(struct train *train, const struct train_event *event);
/* Starts the outer steps that are due, or sets the time to look again. */
MUST_USE enum status train_consider(struct train *train, struct error *error);

/* --- train_hostile.c --- */
/* Where there is one, there is one fragment. */
bool site_is_hostile(const struct train *train, const struct train_site *site);
/* A contribution has come, and everybody sees it. */
void hostile_note_honest(struct train *train, const struct train_site *site);
/* Instead of what was encoded: payload and norm. */
MUST_USE enum status hostile_round(struct train *train, struct train_site *site,
                                   struct error *error);

/* --- train_site.c --- */
MUST_USE enum status site_init(struct train *train, uint32_t index, struct error *error);
void trainee_deinit(struct train_site *site);
struct train_version *version_hold(struct train_version *version);
void version_release(struct train *train, struct train_version *version);
struct train_range train_range_of(const struct train *train, uint32_t fragment);
/* The model's theta as it is now. */
struct train_version *version_take(struct train *train);
/* The newest version joins those that are averaged. */
void version_remember(struct train *train);
/* What is evaluated and exported: the newest version, or the mean of the last; [parameters]. */
void version_average(const struct train *train, float *out);
void site_step_due(struct train *train, struct train_site *site);
/* Trains everything that is due at sites that cannot lose it, and at `must`, in parallel. */
MUST_USE enum status sites_flush(struct train *train, struct train_site *must, struct error *error);
/* What the site sends: payload and norm. Takes the message. */
MUST_USE enum status site_seal(struct train *train, struct train_site *site, uint32_t fragment,
                               struct buffer *message, struct error *error);
/* Snapshot, encoding: payload and norm. */
MUST_USE enum status site_round(struct train *train, struct train_site *site, uint32_t fragment,
                                struct error *error);
/* What the slot's `why` says, onto site->known. */
MUST_USE enum status site_rebase(struct train *train, struct train_site *site, uint32_t fragment,
                                 struct error *error);
/* The global model on every file's held-out part, [files], and their mean. */
MUST_USE enum status train_evaluate(struct train *train, double *files, double *out,
                                    struct error *error);
size_t train_file_count(const struct train *train);

#endif
