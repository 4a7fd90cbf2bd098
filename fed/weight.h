/* How much each contribution counts: the policy of the manifest, without a ledger. run_state and
 * the workbench both compute it here.
 *
 *   equal    1 for every contribution, whatever is behind it
 *   tokens   by the tokens it was trained on: those over the mean of the sites' last ones, so that
 *            the weights of a round of all sites add up to their number
 *   shares   by the share of the data that the manifest gives its site: the share, over the
 *            site's part of the tokens that all train in a time, and 1 at most. So a site that
 *            trains more than its share counts for its share, and one that trains less counts in
 *            full: above 1 a step goes beyond what its site has found, and all texts lose by it;
 *            for less, the others' data would be thrown away (docs/decisions.md). Shares are
 *            relative to each other; a site that none is written for has the mean of those that
 *            are written
 *
 * Order: first the clip (fed/scale.h), then the weight, then the cap of influence: a weight is
 * between WEIGHT_LEAST and WEIGHT_MOST. So no contribution moves the model by more than WEIGHT_MOST
 * times what the longest one may under `equal`, whatever its site tells.
 *
 * Tokens are what sites tell, so one site's count as at most TOLD_APART times the median site's,
 * and as at least that part of it: what a lie takes from the others, or gives them, is bounded too.
 * Each site has one voice per fragment, its last contribution and its flow, older parts fading by
 * half with each; it counts for the manifest's voice_age. The weight is fixed when the
 * contribution's entry is applied.
 *
 * Sums go by site number; + - * / and comparisons in double: everybody gets the same bits.
 */
#ifndef FED_WEIGHT_H
#define FED_WEIGHT_H

#include "fed/manifest.h"

#define WEIGHT_MOST 2.0
#define WEIGHT_LEAST 0.125
#define TOLD_APART 4.0

struct weight_voice {
    uint64_t tokens; /* of the last contribution; 0: no voice */
    uint64_t time_ms;
    uint64_t flow_tokens, flow_ms; /* flow_ms 0: not known yet */
    uint64_t active_ms;            /* of the last contribution, in time that was not paused */
    double share;                  /* relative to the others' */
};

struct weighing {                /* of one fragment; all zero: nothing came yet */
    struct weight_voice *voices; /* [count], owned: of site n at n - 1 */
    uint32_t count;
};

void weighing_deinit(struct weighing *weights);
/* A contribution of the site, numbered from 1, came. `active_ms`: the time less the pauses. */
void weighing_note(struct weighing *weights, uint32_t site, uint64_t tokens, double share,
                   uint64_t time_ms, uint64_t active_ms);
/* Its voice counts no more. */
void weighing_silence(struct weighing *weights, uint32_t site);
/* Of the contribution that the site's voice was noted for last, in [WEIGHT_LEAST, WEIGHT_MOST]; 1
 * where nothing is known. */
double weighing_of(const struct weighing *weights, const struct manifest *manifest, uint32_t site,
                   uint64_t time_ms);

/* The manifest's share of the site of that name. */
double weight_share(const struct manifest *manifest, const char *name);
/* `shares` of the manifest: "none", or name=number with blanks between, names ascending. INVALID
 * says what is wrong. */
MUST_USE enum status shares_check(const char *text, struct error *error);

#endif
