/* Quotients of small whole numbers: no table, no libm. */
#include "fed/outer_rate.h"

#include <math.h>

#include "base/memory.h"

enum {
    AT_FULL_RATE = 4,  /* sites whose parts may be merged one by one at a rate of 1 */
    ROUND_OF_ONE = 50, /* inner steps of a round that a rate of 1 would be for in dense mode */
    PERIOD_LIMIT = 256
};

double outer_rate_factor(enum outer_mode mode, uint32_t present, uint32_t parts) {
    ASSERT(parts >= 1);
    uint32_t sites = MAX(present, parts);
    if (mode == OUTER_DENSE) return 1;
    if (sites <= AT_FULL_RATE) return 1;
    double one = (double)AT_FULL_RATE / sites;
    return fmin(one + (1 - one) * ((double)(parts - 1) / (double)(sites - 1)), 1);
}

double outer_rate_default(enum outer_mode mode, uint32_t inner_steps) {
    if (mode == OUTER_SPARSE) return 1;
    return fmin(fmax((double)inner_steps / ROUND_OF_ONE, 0.1), 0.4);
}

uint32_t outer_period_default(enum outer_mode mode, uint32_t present) {
    if (mode == OUTER_SPARSE) return 1;
    return MIN(MAX(present, 1u), (uint32_t)PERIOD_LIMIT);
}

struct step_rules step_rules_of(const struct manifest *manifest, uint32_t inner_steps,
                                uint32_t present) {
    bool by_rule = manifest->outer.learning_rate == RATE_AUTO;
    double rate = by_rule ? outer_rate_default(manifest->outer.mode, inner_steps)
                          : manifest->outer.learning_rate;
    uint32_t period = manifest->outer.period;
    if (period == MANIFEST_AUTO) period = outer_period_default(manifest->outer.mode, present);
    return (struct step_rules){(float)rate, period};
}

double step_factor_of(const struct manifest *manifest, uint32_t present, uint32_t parts) {
    if (manifest->outer.learning_rate != RATE_AUTO) return 1;
    return outer_rate_factor(manifest->outer.mode, present, parts);
}

uint32_t staleness_cap_of(const struct manifest *manifest, uint32_t present) {
    enum { LEAST_CAP = 16 };
    if (manifest->merge.staleness_cap != MANIFEST_AUTO) return manifest->merge.staleness_cap;
    uint32_t twice = 2 * MIN(present, (uint32_t)STALENESS_LIMIT / 2);
    return MAX(twice, (uint32_t)LEAST_CAP);
}
