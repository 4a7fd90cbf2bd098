/* The inside of the checker, shared by check.c (the ledger) and check_site.c (what sites do). */
#ifndef SIM_CHECK_INTERNAL_H
#define SIM_CHECK_INTERNAL_H

#include "sim/check.h"

/* numbers that are told apart: a name that was robbed gets another one */
enum { CHECK_SITES = 4 * (SITES_MOST + SPARE_SITES) };

struct check_version { /* the truth at a version */
    uint8_t root[DIGEST_SIZE];
    uint8_t fragments[FRAGMENTS_LIMIT][DIGEST_SIZE]; /* of each fragment's theta */
};

struct check_contribution { /* of a ledger entry; site 0: it is something else */
    uint32_t site, fragment;
    uint64_t sequence;
    /* limit: what its norm is scaled down to, before the weight; infinity: none */
    double norm, limit;
    bool merged, dropped;
    uint64_t version; /* of the step that merged it */
    uint8_t digest[DIGEST_SIZE];
};

struct check_acknowledged {
    uint64_t index;
    uint8_t leaf[DIGEST_SIZE];
};

struct check_mass {  /* a site's books, by process */
    float *feedback; /* [parameters]: as the durable records have it */
    /* [parameters]: 0.95 e + delta of the encoding under way; afterwards the new e */
    float *target;
    struct buffer message[FRAGMENTS_LIMIT]; /* spooled last */
    float *copied_feedback;                 /* [parameters], and */
    struct buffer copied_message[FRAGMENTS_LIMIT];
    bool set_back; /* it may send another message with a number that it does not know it has used */
    struct check_sent_message {
        uint64_t sequence;
        uint8_t digest[DIGEST_SIZE];
    } * sent;
    size_t sent_count;
};

struct check {
    struct world *world;
    const struct scenario *scenario;
    struct disk *disk;
    const float *initial;
    struct run_state *run;
    struct model_state model;
    uint64_t size; /* entries taken */
    struct check_version *versions;
    struct check_contribution *entries; /* [size] */
    size_t entry_capacity;
    struct check_norms {
        double norm[CHECK_SITES]; /* the last of each site, by number; 0: none */
        uint64_t time_ms[CHECK_SITES], count;
        double median; /* 0: none yet */
    } norms[FRAGMENTS_LIMIT];
    uint32_t training, inner_steps; /* training: sites enrolled that do */
    bool was_alone;                 /* a site was the only member: what it tells counts */
    uint64_t last_sequence[CHECK_SITES], merged[CHECK_SITES];
    bool revoked[CHECK_SITES];
    uint32_t contributed[CHECK_SITES][FRAGMENTS_LIMIT], presence_entries[CHECK_SITES];
    uint8_t (*hostile_input)[DIGEST_SIZE];
    size_t hostile_input_count;
    struct check_acknowledged *acknowledged;
    size_t acknowledged_count;
    struct check_mass mass[PROCESS_LIMIT];
    float *scratch; /* [parameters] */
};

#endif
