/* The rules of a federation's `run:` as the run's manifest has them, and those that change on the
 * way, as RULE entries change them. The planner and the workbench take both from here, so that what
 * a rule means, and what it may be, is fed/'s word. */
#ifndef TOPOLOGY_RULES_H
#define TOPOLOGY_RULES_H

#include "fed/ledger.h"
#include "fed/manifest.h"
#include "topology/topology.h"

/* What `run:` says, into *out; what it does not say stays. */
void rules_begin(const struct topology_run *run, struct manifest *out);

struct rules_change { /* of one rule */
    double at;        /* seconds from the start */
    char key[RULE_KEY_SIZE], value[RULE_VALUE_SIZE];
};
/* The texts "TIME KEY VALUE" ("5m merge.quorum 3"), ordered by time, each checked against the rules
 * that hold then. `fixed` (may be NULL): whether a key stays as it is in this program, `program`.
 * INVALID, without a change in *out; which is [count] and the caller's. */
MUST_USE enum status rules_changes(const char *const texts[], size_t count,
                                   const struct manifest *begin, const char *program,
                                   bool (*fixed)(const char *key), struct rules_change **out,
                                   struct error *error);

#endif
