/* `atoll-sim faults`: many seeds, one line of figures; or one seed, with its trace. */
#ifndef SIM_FAULTS_H
#define SIM_FAULTS_H

#include "sim/federation.h"

struct faults_options {
    uint64_t first, count; /* seeds */
    enum plant plant;
    bool trace, hashes; /* hashes: a line a seed with its trace hash */
};

struct faults_summary {
    uint64_t seeds, failures, first_failure; /* first_failure 0: none */
    uint64_t hash;                           /* of all trace hashes */
    struct tally tally;
};

/* Stops at the first seed that fails, which is told on `out` with what it takes to see it again. out may be NULL. */
void faults_run(const struct faults_options *options, FILE *out, struct faults_summary *summary);

#endif
