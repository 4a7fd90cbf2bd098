/* From a seed that fails to the least of it that fails alike: faults and sites are left out, one
 * half, quarter, ... at a time, as long as the same invariant breaks (delta debugging: Zeller and
 * Hildebrandt, IEEE TSE 28(2), 2002). Each try is a run of its own, and what stays of a fault is
 * its number in the run it was drawn in. */
#ifndef SIM_SHRINK_H
#define SIM_SHRINK_H

#include "sim/federation.h"

enum { SHRINK_TRIES = 160 };

struct shrunk {
    struct buffer kept; /* uint64_t each, rising: the faults that are left */
    uint32_t absent;
    uint32_t tries;
};

/* `failed` is the result of options, with every fault. *out is to be deinited. */
void shrink(const struct federation_options *options, const struct federation_result *failed,
            struct shrunk *out);
void shrunk_deinit(struct shrunk *shrunk);

#endif
