/* The scale of a contribution in a step, without a ledger: the running median that norms are
 * clipped by, the weight of its staleness, and the rounding to fp32. fed/run_state.h says what the
 * figures mean; run_state and the workbench both compute them here.
 *
 * All of it is integer arithmetic except for four operations in double (factor * median, / norm,
 * * weight, and sqrt, which IEEE-754 rounds exactly), so everybody gets the same bits.
 */
#ifndef FED_SCALE_H
#define FED_SCALE_H

#include "fed/manifest.h"

struct clip_window { /* the norms of the last contributions; zero before clip_window_init */
    double factor;   /* 0: nothing is clipped */
    uint32_t size, minimum;
    double *norms;  /* [size], owned: number c at c % size */
    double *sorted; /* [size], owned: the same, in order: the median is a look-up */
    uint64_t count; /* ever pushed */
};

void clip_window_init(struct clip_window *window, const struct manifest *manifest);
void clip_window_deinit(struct clip_window *window);
/* Upper median of the norms in the window; 0 while fewer than clip_minimum were ever pushed. */
double clip_window_median(const struct clip_window *window);
/* What a contribution of this norm is multiplied by, in (0, 1]: to be asked before its own norm is
 * pushed. */
double clip_window_clip(const struct clip_window *window, double norm);
/* norm: finite, not negative. */
void clip_window_push(struct clip_window *window, double norm);

/* 1, or (1 + staleness)^-exponent, in (0, 1]. */
double staleness_weight_of(const struct manifest *manifest, uint64_t staleness);
/* clip * weight, both above 0, rounded to fp32 towards zero. */
float scale_of(double clip, double weight);

#endif
