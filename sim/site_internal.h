/* The inside of the simulated site: site.c (life, the core's events and actions), site_trainer.c,
 * site_keeper.c (the keeper's queue, and the books around it), site_progress.c (the books of its
 * own progress), site_disk.c, site_link.c (the network), site_byzantine.c (bad manners),
 * site_changed.c (a client that asks for too much). */
#ifndef SIM_SITE_INTERNAL_H
#define SIM_SITE_INTERNAL_H

#include "node/keeper.h"
#include "sim/disk.h"
#include "sim/journal.h"
#include "sim/site.h"

enum { TOKENS_A_STEP = 64 };

/* How many inner steps are in a fragment's vectors beyond its base: moved as those are, and so
 * apart from the counts that the site keeps for its headers. The checker's. */
struct trained {
    int64_t local, snapshot, feedback;
    int64_t sent;  /* in the message under way */
    int64_t round; /* since the last snapshot */
};

/* The same of a round's record, with it on the disk. */
struct round_books {
    int64_t steps_in_snapshot, steps_sent, steps_in_feedback;
};

/* Of theta_local and theta_s, by value: how far the site's own steps took them from their base
 * (site_progress.c). [parameters] each. */
struct site_progress {
    double *local, *snapshot;
    double *kept_local, *kept_snapshot; /* as the checkpoint has it */
    double *sent, *copied_sent;         /* of the last record's theta_s, and of the disk's copy's */
    bool baseless[FRAGMENTS_LIMIT], kept_baseless[FRAGMENTS_LIMIT];
    uint64_t lacking[FRAGMENTS_LIMIT]; /* inner steps on a base that lacks what the replica has */
};

/* A copy of what a site has on its disk. */
struct site_copy {
    bool exists;
    struct disk disk;
    struct journal_records records;
    struct round_books books[FRAGMENTS_LIMIT];
    uint64_t payloads_had;
};

enum request_kind { REQUEST_SNAPSHOT, REQUEST_REBASE, REQUEST_CAPTURE };
struct request { /* to the trainer */
    enum request_kind kind;
    uint32_t fragment;
    uint64_t sequence;
    enum training_move why;
};

enum source {
    FROM_TRAINER,
    FROM_KEEPER,
    FROM_DOWNLINK,
    FROM_UPLINK,
    FROM_PULSE,
    FROM_REFETCH,
    SOURCE_COUNT
};

struct upload_order {
    uint32_t fragment;
    uint64_t sequence;
};

enum downlink_phase { DOWN_IDLE, DOWN_KNOCKING, DOWN_ASKING, DOWN_FETCHING, DOWN_FOLLOWING };

struct changed_client {
    bool runs, leaving;
    uint64_t instance;
    uint32_t pulse, stream[FRAGMENTS_LIMIT]; /* 0: none; stream: of the fragment's Submit */
    struct buffer payload[FRAGMENTS_LIMIT];
};

struct simulated_site {
    struct site_setup setup;
    struct world *world;
    char name[SITE_NAME_SIZE];

    /* on disk */
    struct disk disk;
    uint32_t number; /* 0: not joined */
    struct journal_records records;
    struct round_books books[FRAGMENTS_LIMIT];
    /* the checker's: entries before it need no payload, since a checkpoint */
    uint64_t payloads_had;
    struct buffer download; /* of a snapshot, as far as it came */
    bool lacks_model;       /* it started without version 0, which a snapshot of the run brings */
    bool stops;             /* in good order, once it has a checkpoint, or has none to make */
    bool restored;          /* the disk was set back, and its operator says so from then on */
    uint64_t made_plus_1;   /* of the last order to follow */
    uint8_t download_digest[DIGEST_SIZE];
    struct site_copy copy;

    /* in memory */
    bool running; /* the core is there */
    bool robbed;  /* its invitation was used, with another key */
    bool finished, halted;
    struct node_state *state;
    struct node_actions actions;
    struct journal *journal;
    struct keeper *keeper;
    struct replica replica;
    float *local;
    uint64_t timer_round;
    uint64_t told_until[SOURCE_COUNT]; /* world time of the last thing told */

    bool train, stepping, saving;
    uint64_t until_steps, steps, tokens, trainer_steps;
    struct request requests[4 * FRAGMENTS_LIMIT];
    size_t request_count;
    bool is_staged[FRAGMENTS_LIMIT]; /* the trainer will be asked to move it */
    struct training_mark marks[FRAGMENTS_LIMIT];
    /* kept: as the checkpoint has it */
    struct trained trained[FRAGMENTS_LIMIT], kept[FRAGMENTS_LIMIT];
    struct site_progress own;
    uint64_t capture_at;
    bool capture_out, capture_wanted; /* one is not on the disk yet; another one after it */

    struct keeper_job **jobs; /* [job_count] */
    size_t job_count;
    bool working;
    bool full;            /* a job waits for room on the disk */
    uint64_t loaded_from; /* the checker's: what payloads_had will be at the next checkpoint */

    enum downlink_phase down;
    uint32_t down_stream;
    bool ask_offer, omit_own;
    uint64_t from, payloads_from, next;
    struct snapshot_header offer;
    uint32_t pulse_stream, turn;
    uint32_t refetch_stream,
        supply_stream; /* payloads that were lost, ours and the coordinator's */
    uint64_t refetch_index, supply_index;
    uint8_t refetch_digest[DIGEST_SIZE];
    uint32_t join_stream;
    struct upload_order uploads[2 * FRAGMENTS_LIMIT];
    size_t upload_count;
    uint32_t upload_stream; /* 0: none under way */
    struct changed_client changed;
};

struct instant site_now(const struct simulated_site *site);
/* Copies event, its bytes and message. */
void site_tell(struct simulated_site *site, enum source source, const struct node_event *event);

/* site_trainer.c */
void site_train(struct simulated_site *site, bool train, uint64_t until_steps);
void site_request(struct simulated_site *site, struct request request);
/* As node/restore.h asks for it. */
MUST_USE enum status site_trainer_load(struct simulated_site *site, struct bytes state,
                                       struct error *error);
void site_trainer_clear(struct simulated_site *site);

/* site_progress.c */
void site_progress_init(struct simulated_site *site);
void site_progress_deinit(struct simulated_site *site);
void site_progress_clear(struct simulated_site *site);
/* theta_local's coordinate was changed by an inner step; after a whole step. */
void site_progress_changed(struct simulated_site *site, uint64_t at, float before);
void site_progress_step(struct simulated_site *site);
void site_progress_snapshot(struct simulated_site *site, uint32_t fragment);
void site_progress_spooled(struct simulated_site *site, uint32_t fragment);
void site_progress_moved(struct simulated_site *site, uint32_t fragment, enum training_move why);
void site_progress_save(const struct simulated_site *site, struct buffer *out);
void site_progress_load(struct simulated_site *site, struct reader *reader);
void site_progress_restored(struct simulated_site *site, uint32_t fragment);
/* The books of the disk go to its copy, or back. */
void site_progress_copy(struct simulated_site *site, bool back);

/* site_keeper.c */
/* once replica and journal are there */
void site_keeper_start(struct simulated_site *site, uint64_t payloads_from);
/* takes its bytes and its capture */
void site_job(struct simulated_site *site, const struct keeper_job *job);
void site_keeper_clear(struct simulated_site *site);

/* site_changed.c */
void site_changed_message(struct simulated_site *site, uint32_t stream,
                          const struct message *message);
void site_changed_closed(struct simulated_site *site, uint32_t stream);
void site_changed_clear(struct simulated_site *site);

/* site_byzantine.c */
/* A contribution in order, with numbers made up; replaces *payload's content. */
void site_make_contribution(struct simulated_site *site, const struct run_state *run,
                            uint32_t fragment, struct contribution *out, struct buffer *payload);

/* site_disk.c */
void site_disk_init(struct simulated_site *site);
void site_disk_deinit(struct simulated_site *site);

/* site_link.c */
void site_connect(struct simulated_site *site, const struct node_action *action);
void site_follow(struct simulated_site *site, const struct node_action *action);
void site_fetch(struct simulated_site *site);
void site_upload(struct simulated_site *site, uint32_t fragment, uint64_t sequence);
void site_pulse(struct simulated_site *site, bool leaving);
void site_refetch(struct simulated_site *site, uint64_t index,
                  const struct contribution *contribution);
void site_supply(struct simulated_site *site, uint64_t index);
void site_join(struct simulated_site *site);
void site_enter(struct simulated_site *site); /* joined: the core starts (site.c) */
void site_link_clear(struct simulated_site *site);

#endif
