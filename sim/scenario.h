/* What one seed stands for: the run's manifest, the sites, how bad the network, disks and machines are, and which bug (if any) is
 * planted on purpose. Drawn once, at the start, from the world's randomness; every later decision draws again. */
#ifndef SIM_SCENARIO_H
#define SIM_SCENARIO_H

#include "fed/manifest.h"
#include "sim/network.h"

enum { SITES_MOST = 6, SPARE_SITES = 2 /* invited while the run goes on */ };

/* Bugs of the kind that this is there to find, in the simulated shells: a check that never fails proves nothing. */
enum plant {
    PLANT_NONE = 0,
    PLANT_ACK_BEFORE_DURABLE,    /* COMMITTED is told before the ledger is synced */
    PLANT_APPLY_TWICE,           /* a checkpoint names the version before its content's: replay applies a step again */
    PLANT_SKIP_SEQUENCE_CHECK,   /* a repeated contribution is entered again */
    PLANT_DROP_RESIDUAL,         /* a refused message's mass does not go back into the error feedback */
    PLANT_FORGET_REBASE,         /* REBASED is told without having been done */
    PLANT_STALE_OFF_BY_ONE,      /* headers name a base one version younger than the delta's */
    PLANT_UPLOAD_BEFORE_SPOOL,   /* ENCODED is told before the spool's record is durable */
    PLANT_OLD_FEEDBACK,          /* the spool's record holds the error feedback from before the message */
    PLANT_LOSE_REVOCATION,       /* a revoked site's contributions go on being entered */
    PLANT_DELETE_SHARED_PAYLOAD, /* a refused payload is deleted although an accepted contribution has the same bytes */
    PLANT_FORGET_RESUME,         /* an upload that broke is never resumed: its event is lost */
    PLANT_COUNT
};
extern const char *const plant_names[PLANT_COUNT + 1]; /* "none", "ack_before_durable", ...; NULL at the end */

struct site_scenario {
    bool faulty;
    uint64_t step_us; /* an inner step */
};

struct scenario {
    enum plant plant;
    struct manifest manifest;
    uint64_t parameters;
    uint32_t sites, spares;                                  /* of the spares the admin invites one now and then */
    struct site_scenario site[SITES_MOST + SPARE_SITES + 1]; /* by process number */
    bool overlap;
    uint64_t commit_us, apply_us, check_us, worker_us; /* means */
    struct network_faults storm, calm;
    uint64_t storm_us;                                               /* faults stop after so long */
    uint64_t crash_every_us;                                         /* mean, all processes together; 0: none */
    double crash_at_write;                                           /* share of crashes that wait for a durable write */
    uint64_t partition_every_us, order_every_us, malformed_every_us; /* means; 0: none */
    uint64_t checkpoint_us, heartbeat_ms, presence_ms;
    uint32_t uploads_limit, chunk_limit;
    uint64_t nominal_payload; /* what sites take a missed step to cost: small ones load snapshots seldom */
    bool stop_at_end;
};

/* `plant` changes nothing of what is drawn. */
void scenario_draw(struct scenario *scenario, struct world *world, enum plant plant);
/* One line for people. */
void scenario_describe(const struct scenario *scenario, char *out, size_t size);

#endif
