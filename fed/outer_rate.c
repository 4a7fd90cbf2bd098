/* Quotients of small whole numbers: no table, no libm. */
#include "fed/outer_rate.h"

#include <math.h>

#include "base/memory.h"

enum {
    ROUND_OF_ONE = 50, /* inner steps of a round that a rate of 1 would be for in dense mode */
    PERIOD_LIMIT = 256
};

double outer_rate_default(enum outer_mode mode, uint32_t inner_steps) {
    if (mode == OUTER_SPARSE) return 1;
    return fmin(fmax((double)inner_steps / ROUND_OF_ONE, 0.1), 0.4);
}

uint32_t outer_period_default(uint32_t present) {
    return MIN(MAX(present, 1u), (uint32_t)PERIOD_LIMIT);
}

struct step_rules step_rules_of(const struct manifest *manifest, uint32_t inner_steps,
                                uint32_t present) {
    bool by_rule = manifest->outer.learning_rate == RATE_AUTO;
    double rate = by_rule ? outer_rate_default(manifest->outer.mode, inner_steps)
                          : manifest->outer.learning_rate;
    uint32_t period = manifest->outer.period;
    if (period == MANIFEST_AUTO) period = outer_period_default(present);
    return (struct step_rules){(float)rate, period};
}

uint32_t staleness_cap_of(uint32_t cap, uint32_t present) {
    enum { LEAST_CAP = 16 };
    if (cap != MANIFEST_AUTO) return cap;
    uint32_t twice = 2 * MIN(present, (uint32_t)STALENESS_LIMIT / 2);
    return MAX(twice, (uint32_t)LEAST_CAP);
}
