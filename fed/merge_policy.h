/* When an outer step starts: the one place that says so, for the coordinator, the planner and the
 * workbench.
 *
 * A step of a fragment is due once `quorum` contributions to it wait, or once the grace window
 * since the first of them came is over. Of several fragments that are due, the one whose
 * contribution has waited longest goes first.
 *   - During the first warmup_steps versions the quorum is the number of sites that are present,
 *     and the window is warmup_grace: a site that died cannot hold up the run for longer.
 *   - Later the quorum is the manifest's, but never more than there are sites that are present.
 *   - Once the run is over, nobody else comes: one contribution is enough.
 * A fragment that lacks a payload is held: its window goes on, and no step of it starts.
 *
 * Pure: settings, a view and the time go in; a fragment, a time to look again, or nothing come out.
 * Times are in one unit of the caller's choice (the coordinator has milliseconds, the planner and
 * the workbench have seconds), from any origin; INFINITY is never. Milliseconds up to 2^53 are
 * exact in a double.
 */
#ifndef FED_MERGE_POLICY_H
#define FED_MERGE_POLICY_H

#include "fed/manifest.h"

struct merge_settings { /* of the run; times in the caller's unit */
    uint32_t fragments, quorum, warmup_steps;
    double grace, warmup_grace;
    double away_after; /* a site that is not heard for so long is away; INFINITY: never */
};

struct merge_view { /* what there is now */
    uint64_t version;
    bool is_over;                      /* the run is stopped */
    uint32_t present;                  /* K: sites that are present by the ledger */
    uint32_t waiting[FRAGMENTS_LIMIT]; /* contributions that wait for a step */
    bool held[FRAGMENTS_LIMIT];        /* a payload of a contribution that waits is missing */
};

struct merge_windows { /* since when a contribution to each fragment waits; all zero: none does */
    bool open[FRAGMENTS_LIMIT];
    double since[FRAGMENTS_LIMIT];
};

struct merge_decision {
    bool is_due;
    uint32_t fragment; /* is_due: the one whose step starts now */
    double wake;       /* not is_due: when to ask again; INFINITY: when something has changed */
};

/* The manifest's rules, in milliseconds. */
struct merge_settings merge_settings_of(const struct manifest *manifest);
bool merge_is_warm_up(const struct merge_settings *settings, uint64_t version);
/* Whether a site counts as present: it has a connection, or was heard less than `away_after` ago.
 * `heard` -INFINITY: never. Whoever is not enrolled, or has left, never counts; the caller knows.
 */
bool merge_is_present(bool is_linked, double heard, double now, double away_after);
/* Contributions that start a step at once. */
uint32_t merge_quorum(const struct merge_settings *settings, const struct merge_view *view);
/* To be asked after everything that can change the answer. Opens the windows of fragments for which
 * something waits since now, and closes those of the others and of the one that is due. */
struct merge_decision merge_decide(const struct merge_settings *settings,
                                   const struct merge_view *view, double now,
                                   struct merge_windows *windows);

#endif
