/* The inside of the simulated site: site.c (life, the brain's events and actions), site_worker.c (trainer and worker), site_restore.c
 * (from the disk), site_link.c (the network), site_faulty.c (bad manners). */
#ifndef SIM_SITE_INTERNAL_H
#define SIM_SITE_INTERNAL_H

#include "sim/disk.h"
#include "sim/site.h"

enum move { MOVE_MERGED = 1, MOVE_REFUSED, MOVE_ADVANCED, MOVE_LOADED };

struct round { /* a record on disk, as struct journal_round */
    bool exists, in_flight, refused;
    uint64_t sequence, base_version, trainer_steps;
    uint8_t header[CONTRIBUTION_HEADER_SIZE], signature[SIGNATURE_SIZE];
    uint8_t payload_digest[DIGEST_SIZE];
    struct buffer feedback, snapshot;                         /* of the fragment */
    struct ledger_head accepted;                              /* size 0: no receipt was recorded */
    int64_t steps_in_snapshot, steps_sent, steps_in_feedback; /* the checker's, as in struct trained */
};

/* How many inner steps are in a fragment's vectors beyond its base: moved as those are, and so apart from the counts that the site
 * keeps for its headers. The checker's. */
struct trained {
    int64_t local, snapshot, feedback;
    int64_t sent;  /* in the message under way */
    int64_t round; /* since the last snapshot */
};

struct fragment_marks { /* as the trainer knows them */
    uint64_t base_version, in_flight, over;
    struct round_progress progress;
    struct trained trained;
};

struct capture { /* the trainer between two steps */
    uint64_t trainer_steps;
    struct buffer local, base, snapshot;
    struct fragment_marks fragment[FRAGMENTS_LIMIT];
};

struct checkpoint { /* on disk */
    bool exists;
    uint64_t version, payloads_from;
    uint8_t root[DIGEST_SIZE];
    struct buffer global;
    struct capture trainer;
};

/* A copy of what a site has on its disk. */
struct site_copy {
    bool exists;
    struct disk disk;
    struct round rounds[FRAGMENTS_LIMIT];
    struct checkpoint checkpoint;
};

enum damage { DAMAGE_NONE, DAMAGE_ROUND, DAMAGE_CHECKPOINT };

enum request_kind { REQUEST_SNAPSHOT, REQUEST_REBASE, REQUEST_CAPTURE };
struct request { /* to the trainer */
    enum request_kind kind;
    uint32_t fragment;
    uint64_t sequence;
    enum move why;
};

enum job_kind { JOB_ENCODE, JOB_APPLY, JOB_REBASE, JOB_RESTORE, JOB_ADVANCE, JOB_ACCEPTED, JOB_REBASED, JOB_CAPTURED, JOB_LOAD };
struct job { /* for the worker */
    enum job_kind kind;
    uint32_t fragment;
    uint64_t sequence;
    enum move why;
    struct contribution contribution;
    struct buffer bytes; /* APPLY */
    struct capture *capture;
    struct snapshot_header header;
    struct ledger_head head; /* ACCEPTED */
};

enum source { FROM_TRAINER, FROM_WORKER, FROM_DOWNLINK, FROM_UPLINK, FROM_PULSE, FROM_REFETCH, SOURCE_COUNT };

struct upload_order {
    uint32_t fragment;
    uint64_t sequence;
};

enum downlink_phase { DOWN_IDLE, DOWN_KNOCKING, DOWN_ASKING, DOWN_FETCHING, DOWN_FOLLOWING };

struct site {
    struct site_setup setup;
    struct world *world;
    char name[SITE_NAME_SIZE];

    /* on disk */
    struct disk disk;
    uint32_t number; /* 0: not joined */
    struct round rounds[FRAGMENTS_LIMIT];
    struct checkpoint checkpoint;
    struct buffer download; /* of a snapshot, as far as it came */
    bool restored;          /* the disk was set back, and its operator says so from then on */
    uint64_t made_plus_1;   /* of the last order to follow */
    uint8_t download_digest[DIGEST_SIZE];
    enum damage damaged; /* a record that cannot be read */
    struct site_copy copy;

    /* in memory */
    bool running; /* the brain is there */
    bool robbed;  /* its invitation was used, with another key */
    bool finished, halted;
    struct node_state *state;
    struct node_actions actions;
    struct replica replica;
    float *local;
    uint64_t timer_round;
    uint64_t told_until[SOURCE_COUNT]; /* world time of the last thing told */

    bool train, stepping;
    uint64_t until_steps, steps, tokens, trainer_steps;
    struct request requests[4 * FRAGMENTS_LIMIT];
    size_t request_count;
    struct fragment_marks marks[FRAGMENTS_LIMIT];
    uint64_t capture_at;
    bool capture_out, capture_wanted; /* one is not on the disk yet; another one after it */

    struct job *jobs; /* [job_count] */
    size_t job_count;
    bool working, loaded;
    uint32_t loading;
    uint64_t loaded_from; /* payloads_from of the snapshot that the replica came from */

    enum downlink_phase down;
    uint32_t down_stream;
    bool ask_offer, omit_own;
    uint64_t from, payloads_from, next;
    struct snapshot_header offer;
    uint32_t pulse_stream, turn;
    uint32_t refetch_stream, supply_stream; /* payloads that were lost, ours and the coordinator's */
    uint64_t refetch_index, supply_index;
    uint32_t join_stream;
    struct upload_order uploads[2 * FRAGMENTS_LIMIT];
    size_t upload_count;
    uint32_t upload_stream; /* 0: none under way */
};

struct instant site_now(const struct site *site);
/* Copies event, its bytes and message. */
void site_tell(struct site *site, enum source source, const struct node_event *event);

/* site_worker.c */
void site_train(struct site *site, bool train, uint64_t until_steps);
void site_request(struct site *site, struct request request);
void site_job(struct site *site, struct job job); /* takes job.bytes and job.capture */
void site_worker_clear(struct site *site);
void capture_deinit(struct capture *capture);

/* site_restore.c: spooled has room for FRAGMENTS_LIMIT. Not OK: the disk does not bring it back. */
MUST_USE enum status site_restore(struct site *site, struct node_spooled *spooled, size_t *count, struct error *error);
/* Stored entries that the replica can go by: all, unless a step's payload is lost. Before the brain reads them. */
uint64_t site_entries_to_go_by(struct site *site);

/* site_disk.c */
void site_disk_deinit(struct site *site);
/* The payload with that digest, compared with it, as a blob store's reader does. */
MUST_USE enum status site_payload(const struct site *site, const uint8_t *digest, struct bytes *out, struct error *error);

/* site_link.c */
void site_connect(struct site *site, const struct node_action *action);
void site_follow(struct site *site, const struct node_action *action);
void site_fetch(struct site *site);
void site_upload(struct site *site, uint32_t fragment, uint64_t sequence);
void site_pulse(struct site *site);
void site_refetch(struct site *site, uint64_t index);
void site_supply(struct site *site, uint64_t index);
void site_join(struct site *site);
void site_enter(struct site *site); /* joined: the brain starts (site.c) */
void site_link_clear(struct site *site);

#endif
