/* The outer rate and the period that follow the federation, where the manifest leaves them to it:
 * by H and by the number of sites that are present (K).
 *
 * Sparse mode: a rate of 1 and rounds of K contributions. A round moves each coordinate by its mean
 * over those that sent it (fed/model_state.h), so that K does not matter, nor how many parts a step
 * has. Measured with 0.12 M parameters, 1.02 M tokens, one part a step, held-out nats against
 * synchronous training, three paired seeds: K = 4, H = 15: -0.002; K = 8, H = 15: +0.006; K = 16,
 * H = 8: -0.015. Without rounds, each part added at a rate of min(1, 4 / K): +0.012, +0.066,
 * +0.026; at a rate of 1, K = 8: +0.11 (two seeds), K = 16: more than +0.5.
 *
 * Dense mode (delayed Nesterov): a period of K, and a rate by H: the shorter a round, the smaller
 * the share of noise that averaging takes out of a delta, and the more a large outer step with
 * momentum adds back:
 *
 *     rate(H) = H / 50, at most 0.4, at least 0.1
 *
 * Measured with 0.12 M parameters, K = 4, asynchronous, 0.5 M tokens, held-out nats:
 * H = 8 at 0.16 / 0.23 / 0.7: 2.61 / 2.60 / 3.18; H = 15 at 0.3 / 0.44 / 0.7: 2.51 / 2.74 / 2.94;
 * H = 30 at 0.25 / 0.4 / 0.7: 2.57 / 2.51 / 2.69. Synchronous, H = 15, at 0.3 / 0.44: 2.50 / 2.62.
 *
 * docs/experiments.md has what was measured. Quotients of doubles, each rounded once: the same bits
 * on every machine. A step entry names both, so that the ledger says what was applied. */
#ifndef FED_OUTER_RATE_H
#define FED_OUTER_RATE_H

#include "fed/manifest.h"

/* The outer learning rate of a run whose manifest names none. inner_steps: H, at least 1. */
double outer_rate_default(enum outer_mode mode, uint32_t inner_steps);
/* The period for K sites, within what a manifest may say. */
uint32_t outer_period_default(uint32_t present);

/* What a step entry names for the model to take: from the manifest, where it names none by H and
 * the sites that are present. */
struct step_rules {
    float rate;      /* the outer learning rate */
    uint32_t period; /* contributions in a round, from when the sum is cleared next */
};
struct step_rules step_rules_of(const struct manifest *manifest, uint32_t inner_steps,
                                uint32_t present);
/* Outer steps that a contribution may have missed, by the manifest's cap, where `present` sites
 * were there at most since its base: for MANIFEST_AUTO twice as many, so that no healthy one is
 * refused (with equal speeds it misses up to 2K - 2), and never fewer than 16. */
uint32_t staleness_cap_of(uint32_t cap, uint32_t present);

#endif
