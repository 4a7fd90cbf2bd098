/* What `atoll-sim train` trains under: one manifest, from a manifest's file or else the
 * federation's `run:`, and the command line over both. Where both files say a rule, they must say
 * the same: what one of them loses silently is found when the curve is not what was asked for. */
#ifndef SIM_TRAIN_SETTLE_H
#define SIM_TRAIN_SETTLE_H

#include "experiment/train.h"
#include "fed/manifest.h"
#include "sim/verbs.h"
#include "topology/rules.h"

/* Changes `topology`, too: the number of sites, and for --sync that nothing overlaps. INVALID. */
MUST_USE enum status train_settle(const struct sim_settings *settings, struct topology *topology,
                                  struct manifest *out, struct error *error);
/* The changes of rules on the way, [settings->train.rules.count] of them by time, each checked
 * against the rules that hold then; freed by the caller. INVALID. */
MUST_USE enum status train_changes(const struct sim_settings *settings,
                                   const struct manifest *manifest, struct rules_change **out,
                                   struct error *error);

#endif
