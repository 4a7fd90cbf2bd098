/* The scale of a contribution in a step, without a ledger: the median norm of the sites, which
 * norms are clipped by, the weight of staleness, and the rounding to fp32. fed/run_state.h says
 * what the figures mean; run_state and the workbench both compute them here.
 *
 * Each site has one voice per fragment, its last norm as it came, not as it was clipped: so a site
 * that sends often, or much, moves the median no more than any other, and a minority moves it only
 * between the norms of the rest. The median follows the voices once a step, by a factor of 2 at
 * most, and is never zero. Before it is known, a bound of the manifest stands for it.
 *
 * All of it is integer arithmetic except for comparisons and five operations in double (*, / and
 * sqrt, which IEEE-754 rounds exactly), so everybody gets the same bits.
 */
#ifndef FED_SCALE_H
#define FED_SCALE_H

#include "fed/manifest.h"

enum { CLIP_VOICES = 3 /* fewer make no median, unless the run has fewer sites */ };

struct clip_rules {
    double factor;    /* 0: nothing is clipped */
    double bound;     /* of a norm, while there is no median */
    uint32_t minimum; /* contributions before there is a median */
    uint64_t age_ms;  /* a voice counts for so long */
};

struct clip_voice {
    double norm; /* 0: none */
    uint64_t time_ms;
};

struct clip {                  /* of one fragment; all zero: nothing came yet */
    struct clip_voice *voices; /* [count], owned: of site n at n - 1 */
    uint32_t count;
    uint64_t contributions; /* ever */
    double median;          /* 0: not known yet */
};

/* For a fragment of `parameters` floats and the H of now. */
struct clip_rules clip_rules_of(const struct manifest *manifest, uint32_t inner_steps,
                                uint64_t parameters);
void clip_deinit(struct clip *clip);
/* The norm that longer ones are scaled down to; INFINITY: none. */
double clip_limit(const struct clip *clip, const struct clip_rules *rules);
/* What the norm of a contribution of so many inner steps would be with H of them: DyLU gives slower
 * sites fewer, and a delta grows about as the root of their number. What is told beyond H counts as
 * H, so who tells more than it did gains no more than the fastest honest site has. */
double clip_norm(double norm, uint32_t steps, uint32_t inner_steps);
/* What a contribution of this norm is multiplied by, in (0, 1]. */
double clip_of(double limit, double norm);
/* A contribution of the site, numbered from 1, came. norm: finite, not negative; of zero it leaves
 * the site's voice as it is. */
void clip_note(struct clip *clip, uint32_t site, double norm, uint64_t time_ms);
/* Its voice counts no more. */
void clip_silence(struct clip *clip, uint32_t site);
/* A step was made, at that time and with so many sites enrolled: the median moves. */
void clip_step(struct clip *clip, const struct clip_rules *rules, uint64_t time_ms,
               uint32_t enrolled);

/* Whether what came at `time_ms` counts `now`, by clocks that may be set. */
bool voice_counts(uint64_t time_ms, uint64_t now_ms, uint64_t age_ms);
/* The lower of the two middle values; count >= 1. Reorders them. */
double lower_median(double *values, uint32_t count);

/* 1, or (1 + staleness)^-exponent, in (0, 1]. */
double staleness_weight_of(const struct manifest *manifest, uint64_t staleness);
/* clip * weight, both above 0, rounded to fp32 towards zero. weight: of its policy (fed/weight.h)
 * and of staleness together. */
float scale_of(double clip, double weight);

#endif
