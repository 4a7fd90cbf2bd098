/* `atoll-sim faults`: many seeds and what they put to the test; or one seed, with its trace; or,
 * where one fails, the least of it that still does. */
#ifndef SIM_FAULTS_H
#define SIM_FAULTS_H

#include "sim/federation.h"

struct faults_options {
    uint64_t first, count;             /* seeds */
    uint32_t sites;                    /* 0: each seed draws them */
    const struct world_filter *filter; /* what is left out; may be NULL */
    const char *mutant;                /* put in on purpose; NULL: nothing */
    bool trace, hashes;                /* hashes: a line a seed with its trace hash */
    bool shrink;                       /* a seed that fails is made smaller first */
    bool coverage; /* every mark is named with its count, and one at zero is a failure */
};

struct faults_summary {
    uint64_t seeds, failures, first_failure; /* first_failure 0: none */
    char invariant[32];                      /* that it broke */
    uint64_t hash;                           /* of all trace hashes */
    struct tally tally;
    uint64_t missing; /* marks at zero */
};

/* Stops at the first seed that fails, which is told on `out` with what it takes to see it again.
 * out may be NULL. */
void faults_run(const struct faults_options *options, FILE *out, struct faults_summary *summary);

/* "3,7-9,40" into rising numbers, appended to *out (uint64_t each). False: it is not such a list.
 */
bool faults_list_parse(const char *text, struct buffer *out);

#endif
