/* A federation on paper: its model, its sites, their links and what fails, as a YAML file says it.
 * `atoll-sim plan` and `atoll-sim train` simulate it; scripts/local-federation runs the same file
 * with real processes behind a shaping proxy.
 *
 *     duration: 24h                            sites:
 *     model: {parameters: 10B}                   - name: us
 *     run: {codec: topk2-64, inner_steps: 100}     count: 4
 *     coordinator: {up: 10Gbit/s}                  gpu: {kind: H100, count: 8}
 *                                                  link: {up: 1Gbit/s, down: 2Gbit/s, rtt: 90ms}
 *
 * Strict: an unknown key is an error that names the nearest one, with file and line; every number
 * that has a unit must be written with it. `defaults:` holds the keys of a site; each site starts
 * from them. `topology_explain` prints every key with its default and meaning.
 *
 * Units here: seconds, bytes, bytes per second, shares from 0 to 1, all in double; INFINITY is
 * "never" or "unlimited". Rates are of TCP's payload: what headers of IP and TCP take (3 to 5 %) is
 * not to be counted in. 1 GB is 10^9 bytes.
 *
 * Speed of a site: `step` (an inner step) is given, or follows from `tokens_per_second`, or from
 * its GPUs: 6 * parameters * batch_tokens / (peak * mfu * gpus), Kaplan et al., arXiv 2001.08361,
 * section 2.1. A group of `count` sites with `spread: 20 %` has sites from 0.8 to 1.2 times that
 * speed, evenly, in an order that the seed shuffles.
 *
 * Plain data, one owner, no I/O but topology_load.
 */
#ifndef TOPOLOGY_TOPOLOGY_H
#define TOPOLOGY_TOPOLOGY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/random.h"
#include "base/status.h"
#include "codec/codec.h"
#include "fed/manifest.h"

enum { TOPOLOGY_GROUPS_LIMIT = 256, TOPOLOGY_SITES_LIMIT = 100000, TOPOLOGY_NAME_SIZE = 48 };

/* Something that breaks and is mended. Where `regular`, every `every` seconds to the second; else
 * intervals are drawn from the exponential distribution with that mean, and `lasts` is the mean of
 * another. `at` adds one that begins then. */
struct topology_fault {
    double every; /* seconds of working between two; INFINITY: never */
    double lasts; /* seconds */
    double at;    /* seconds from the start; INFINITY: none */
    double at_lasts;
    bool regular;
};

/* From the exponential distribution of that mean; INFINITY for INFINITY. */
double topology_draw(double mean, struct random *random);
/* Seconds of working until the next one, without the one of `at`; INFINITY: never. */
double topology_fault_gap(const struct topology_fault *fault, struct random *random);
/* How long one lasts; is_extra: the one of `at`, which lasts at_lasts where that is given. */
double topology_fault_length(const struct topology_fault *fault, bool is_extra,
                             struct random *random);

enum congestion_control { CONGESTION_CUBIC = 0, CONGESTION_BBR = 1 };

struct topology_link {
    double up, down;    /* bytes per second at the site; INFINITY: unlimited */
    double rtt;         /* seconds, to the coordinator and back */
    double jitter;      /* seconds: a message takes up to so much longer, evenly distributed */
    double loss;        /* share of packets */
    double connections; /* TCP connections that a transfer may use */
    int congestion;     /* enum congestion_control */
    double window;      /* bytes: the largest send and receive window of one connection */
    double price;       /* of a GB that the site sends */
    struct topology_fault outage; /* nothing passes */
    /* every connection is cut, and may be opened at once; `lasts` is not used */
    struct topology_fault reset;
};

struct topology_site {             /* a group of `count` equal sites */
    char name[TOPOLOGY_NAME_SIZE]; /* of the site, or "name-3" for the third of several */
    double count;
    double spread;       /* of speeds: 0 none, 0.2 from 0.8 to 1.2 */
    int gpu_kind;        /* index into topology_gpu_names; -1: none given */
    double gpu_count;    /* a site */
    double mfu;          /* share of the GPUs' peak that training reaches */
    double batch_tokens; /* of one inner step at one site */
    double tokens_per_second;
    double step; /* seconds; always filled after reading */
    struct topology_link link;
    struct topology_fault
        failure;       /* of the site's processes or machines: training and daemon stop */
    double gpu_mtbf;   /* seconds of one GPU: adds to the rate of `failure`; INFINITY: none */
    double restart;    /* seconds from the repair until it trains again: loading, warming up */
    double checkpoint; /* seconds between two checkpoints of the site's daemon */
    double decode; /* seconds for each parameter of a contribution to be decoded and merged, on all
                      its cores */
    double encode; /* seconds a parameter, once a round, beside training */
    double copy;   /* seconds a parameter that training stands still at a snapshot or rebase */
    double joins, leaves; /* seconds from the start */
};

struct topology_coordinator {
    double cores, ram;            /* count; bytes */
    double disk, disk_rate;       /* bytes; bytes per second */
    double up, down;              /* bytes per second; INFINITY */
    double price_out, price_hour; /* of a GB of egress; of an hour of the machine */
    double commit;                /* seconds: a group commit */
    double decode, step; /* seconds a parameter and core: decoding a contribution; an outer step
                            with its root */
    double uploads;      /* contributions taken at once; more are told BUSY */
    struct topology_fault outage; /* it is down */
};

struct topology_run { /* as in the run's manifest, and with its defaults */
    enum outer_mode mode;
    enum codec codec;
    double bits;        /* a parameter of a message, where measured; NAN: the codec's usual */
    double inner_steps; /* H */
    double fragments, quorum, grace, warmup_steps, warmup_grace, away_after;
    double staleness_cap; /* NAN: by the sites that are there, as `auto` in a manifest */
    double snapshot_interval, root_interval;
    bool dylu, overlap;
};

struct topology {
    char name[TOPOLOGY_NAME_SIZE];
    double duration;      /* seconds that are simulated */
    double target_tokens; /* time to so many is reported; 0: none */
    struct {
        char preset[16]; /* the shape that parameters were counted of; "": they were given */
        double parameters;
        double sequence; /* tokens, for people only */
    } model;
    struct topology_run run;
    struct topology_coordinator coordinator;
    uint64_t written; /* a bit for each of its own keys that the file has: topology_says */
    struct topology_site *groups; /* [group_count], owned */
    uint32_t group_count, site_count;
    struct { /* what its operators published, for the table of presets; NAN: not */
        double busy, uplink_bits;
        char source[160];
    } reported;
};

/* One site of a group. */
struct topology_place {
    uint32_t group, index; /* index within the group */
    double step;           /* seconds an inner step, with the group's spread */
    char name[TOPOLOGY_NAME_SIZE + 12];
};

/* INVALID with `name`, line and what to write instead. *out is freed with topology_destroy. */
MUST_USE enum status topology_parse(struct bytes yaml, const char *name, struct topology **out,
                                    struct error *error);
MUST_USE enum status topology_load(const char *path, struct topology **out, struct error *error);
/* A preset by name, compiled in from topology/presets; NOT_FOUND names the nearest. */
MUST_USE enum status topology_preset(const char *name, struct topology **out, struct error *error);
extern const char *const topology_preset_names[]; /* ends with NULL */
/* Whether the file itself has this key (`run.quorum`); not one of a site. */
bool topology_says(const struct topology *topology, const char *key);
void topology_destroy(struct topology *topology); /* NULL is a no-op */
struct topology *topology_copy(const struct topology *topology);
/* A commented file with every key. */
void topology_explain(struct buffer *out);

/* site < site_count: groups in the order of the file. */
struct topology_place topology_place(const struct topology *topology, uint32_t site, uint64_t seed);

/* Bytes per second that one transfer of the site can reach alone: the access link, windows over the
 * round trip, and losses (topology.c has the formulas and where they come from). */
double topology_rate_up(const struct topology_link *link);
double topology_rate_down(const struct topology_link *link);

#endif
