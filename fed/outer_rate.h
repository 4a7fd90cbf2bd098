/* The outer rate that follows the federation: what a step's parts are multiplied by, from the
 * number of sites that are present (K) and the number of parts in the step (n).
 *
 * Sparse mode (plain outer SGD). Where a step has a part of every site, each coordinate is averaged
 * over the sites that sent it, and a rate of 1 is right for any K. Where each step has one part,
 * nothing is averaged: what K sites found out about the same coordinate is added up, one version
 * after the other, and from K = 4 on that is too much. Between the two it is linear in n:
 *
 *     one(K) = min(1, 4 / K)
 *     factor(K, n) = one(K) + (1 - one(K)) (n - 1) / (K - 1)
 *
 *       K     n = 1    n = 2    n = 4    n = K
 *      1-4    1        1        1        1
 *       8     0.5      0.571    0.714    1
 *      16     0.25     0.3      0.4      1
 *      32     0.125    0.153    0.210    1
 *
 * Measured with 0.12 M parameters, H = 8, 1.02 M tokens, K = 16, held-out nats: n = 1 at 1 / 0.25:
 * 3.36 / 2.79; n = 4 at 1 / 0.4 / 0.25: 3.33 / 2.68 / 2.75; n = 16 at 1: 2.77. A rate of 4 n / K,
 * which is 1 for 4 of 16, is as bad as 1 for one part.
 *
 * docs/experiments.md has what was measured for it. Dense mode (delayed Nesterov) divides by the
 * period, which grows with K, and needs no factor: 1.
 *
 * Dense mode's rate depends on H instead: the shorter a round, the smaller the share of noise that
 * averaging takes out of a delta, and the more a large outer step with momentum adds back:
 *
 *     rate(H) = H / 50, at most 0.4, at least 0.1
 *
 * Measured with 0.12 M parameters, K = 4, asynchronous, 0.5 M tokens, held-out nats:
 * H = 8 at 0.16 / 0.23 / 0.7: 2.61 / 2.60 / 3.18; H = 15 at 0.3 / 0.44 / 0.7: 2.51 / 2.74 / 2.94;
 * H = 30 at 0.25 / 0.4 / 0.7: 2.57 / 2.51 / 2.69. Synchronous, H = 15, at 0.3 / 0.44: 2.50 / 2.62.
 *
 * Sparse mode's is 1. Products and quotients of doubles, each rounded once: the same bits on every
 * machine. The factor goes into the scale of the parts (fed/scale.h), so that the ledger says what
 * was applied. */
#ifndef FED_OUTER_RATE_H
#define FED_OUTER_RATE_H

#include "fed/manifest.h"

/* In (0, 1]. present: at least the number of sites with a part in the step counts. parts >= 1. */
double outer_rate_factor(enum outer_mode mode, uint32_t present, uint32_t parts);
/* The outer learning rate of a run whose manifest names none. inner_steps: H, at least 1. */
double outer_rate_default(enum outer_mode mode, uint32_t inner_steps);
/* The period of delayed Nesterov for K sites, within what a manifest may say; 1 in sparse mode. */
uint32_t outer_period_default(enum outer_mode mode, uint32_t present);

/* What a step entry names for the model to take: from the manifest, where it names none by H and
 * the sites that are present. */
struct step_rules {
    float rate;      /* the outer learning rate */
    uint32_t period; /* of delayed Nesterov, from when its sum is cleared next; 1 in sparse mode */
};
struct step_rules step_rules_of(const struct manifest *manifest, uint32_t inner_steps,
                                uint32_t present);
/* What the scale of each part has for the number of parts: outer_rate_factor where the manifest
 * leaves the rate to it, else 1. */
double step_factor_of(const struct manifest *manifest, uint32_t present, uint32_t parts);
/* Outer steps that a contribution may have missed, where `present` sites were there at most since
 * its base: twice as many, so that no healthy one is refused (with equal speeds it misses up to
 * 2K - 2), and never fewer than 16. */
uint32_t staleness_cap_of(const struct manifest *manifest, uint32_t present);

#endif
