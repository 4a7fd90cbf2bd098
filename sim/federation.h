/* One simulated federation from its seed to its verdict: a coordinator, its sites, an admin, and a storm of faults that ends.
 *
 * First the storm: crashes at any moment and behind any durable write, partitions, losses, resets, doubled calls, orders of the
 * admin, a site that misbehaves. Then calm: everybody is started again and nothing goes wrong any more; within
 * LIVENESS_SECONDS each honest site that was not revoked must have another contribution merged (I8). Then, in some runs, the admin
 * stops the run and every honest site must finish. At last the ledger is audited from entry 0.
 */
#ifndef SIM_FEDERATION_H
#define SIM_FEDERATION_H

#include "sim/scenario.h"
#include "sim/world.h"

enum { LIVENESS_SECONDS = 240, FINISH_SECONDS = 120 };

struct federation_result {
    bool failed;
    char invariant[32], failure[512], scenario[256];
    uint64_t trace_hash;
    struct tally tally;
};

/* `report` (may be NULL) gets the last lines of the trace where it failed; `trace` prints all of it on stdout. */
void federation_run(uint64_t seed, enum plant plant, bool trace, FILE *report, struct federation_result *out);

#endif
