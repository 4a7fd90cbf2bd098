/* One simulated federation from its seed to its verdict: a coordinator, its sites, an admin, and a
 * fault phase of faults that ends.
 *
 * First the fault phase: crashes at any moment and after any durable write, partitions, losses,
 * resets, doubled calls, orders of the admin, a site that misbehaves. Then calm: everybody is
 * started again and nothing goes wrong any more; within LIVENESS_SECONDS each honest site that was
 * not revoked must have another contribution merged (I8). Then, in some runs, the admin stops the
 * run and every honest site must finish. At last the ledger is audited from entry 0.
 */
#ifndef SIM_FEDERATION_H
#define SIM_FEDERATION_H

#include "sim/scenario.h"
#include "sim/world.h"

enum { LIVENESS_SECONDS = 240, FINISH_SECONDS = 120 }; /* at pace 1 */

struct federation_options {
    uint64_t seed;
    uint32_t sites;                    /* 0: drawn */
    const struct world_filter *filter; /* what is left out; may be NULL */
    bool trace;                        /* print every line of it on stdout */
    FILE *report; /* gets the last lines of the trace where it failed; may be NULL */
};

struct federation_result {
    bool failed;
    char invariant[32], failure[512], scenario[256];
    uint64_t trace_hash;
    uint32_t sites; /* processes 1 .. sites */
    struct tally tally;
    struct fault_record *injected; /* [injected_count], owned */
    size_t injected_count;
};

void federation_run(const struct federation_options *options, struct federation_result *out);
void federation_result_deinit(struct federation_result *result);

#endif
