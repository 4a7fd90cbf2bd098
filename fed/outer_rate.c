/* Quotients of small whole numbers: no table, no libm. */
#include "fed/outer_rate.h"

#include <math.h>

#include "base/memory.h"

enum {
    AT_FULL_RATE = 4, /* sites whose parts may be merged one by one at a rate of 1 */
    FULL_ROUND = 24,  /* inner steps of a round that dense mode's full rate is for */
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
    double rate = inner_steps >= FULL_ROUND ? 0.7 : 0.7 * inner_steps / FULL_ROUND;
    return fmax(rate, 0.1);
}

uint32_t outer_period_default(enum outer_mode mode, uint32_t present) {
    if (mode == OUTER_SPARSE) return 1;
    return MIN(MAX(present, 1u), (uint32_t)PERIOD_LIMIT);
}
