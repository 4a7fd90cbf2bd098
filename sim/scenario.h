/* What one seed stands for: the run's manifest, the sites, their pace, and how bad the network,
 * disks and machines are. Drawn once, at the start, from the world's randomness; every later
 * decision draws again. */
#ifndef SIM_SCENARIO_H
#define SIM_SCENARIO_H

#include "fed/manifest.h"
#include "sim/network.h"

enum { SITES_MOST = 16, SPARE_SITES = 2 /* invited while the run goes on */, HOARDERS = 4 };

/* What a faulty site's changed client asks for in the calm (sim/site_changed.c). */
enum changed_client_kind {
    CHANGED_NOT = 0,
    CHANGED_FLOODS,         /* contributions one after another, as fast as they are answered */
    CHANGED_COMES_AND_GOES, /* heartbeats: it is there, it leaves, it is there */
    CHANGED_HOARDS          /* uploads that it opens and does not go on with */
};

struct site_scenario {
    bool faulty;
    enum changed_client_kind changed;
    bool observes;    /* by its invitation: it follows, and trains nothing */
    bool lacks_model; /* it has no copy of version 0 */
    bool boasts;      /* faulty, and tells more steps than can be to the end */
    uint64_t step_us; /* an inner step */
};

struct scenario {
    struct manifest manifest;
    uint64_t parameters;
    uint32_t guest;         /* a spare that is fast and leaves for good; 0: none */
    uint32_t sites, spares; /* of the spares the admin invites one now and then */
    struct site_scenario site[SITES_MOST + SPARE_SITES + 1]; /* by process number */
    bool overlap, hoards; /* hoards: the last HOARDERS sites do */
    uint32_t follow_interval;
    uint64_t pace; /* training, timers and faults are so many times slower than at 1, the network is
                      not: a round of 1 to 100 s */
    uint64_t commit_us, apply_us, check_us, worker_us; /* means */
    struct network_faults fault_phase, calm;
    uint64_t fault_phase_us; /* faults stop after so long */
    double crash_at_write;   /* share of crashes that wait for a durable write */
    double write_failures;   /* chance of a durable write to fail */
    struct {                 /* means between two, us; 0: none */
        uint64_t crash, partition, clog, pause, clock, flip, backup, takeover, order, lie, drain,
            byzantine_coordinator, hostile_input;
    } every;
    uint64_t checkpoint_us, heartbeat_ms, presence_ms;
    uint32_t uploads_limit, chunk_limit;
    uint64_t nominal_payload; /* what sites take a missed step to cost: small ones load snapshots
                                 seldom */
    bool beats_late;          /* the interval of its settings is longer than the run's away_after */
    bool encodes_slowly;      /* a message is made in a large part of a round */
    bool loads;               /* a site that has missed a step takes a snapshot of the run */
    bool stop_at_end;
};

/* sites 0: drawn too. */
void scenario_draw(struct scenario *scenario, struct world *world, uint32_t sites);
/* How far apart one site's entries of coming and going are, once some came at once. */
uint64_t scenario_apart_ms(const struct scenario *scenario);
/* One line for people. */
void scenario_describe(const struct scenario *scenario, char *out, size_t size);

#endif
