/* When an outer step starts. The coordinator, the planner and the workbench ask here, so that what
 * is planned and tried out is what a run does. */
#include "fed/merge_policy.h"

#include <math.h>

#include "base/mark.h"
#include "base/memory.h"

static double milliseconds(uint64_t ms) { return ms == UINT64_MAX ? INFINITY : (double)ms; }

struct merge_settings merge_settings_of(const struct manifest *manifest) {
    return (struct merge_settings){.fragments = manifest->fragments,
                                   .quorum = manifest->merge.quorum,
                                   .warmup_steps = manifest->merge.warmup_steps,
                                   .grace = milliseconds(manifest->merge.grace_ms),
                                   .warmup_grace = milliseconds(manifest->merge.warmup_grace_ms),
                                   .away_after = milliseconds(manifest->merge.away_after_ms)};
}

bool merge_is_warm_up(const struct merge_settings *settings, uint64_t version) {
    return version < settings->warmup_steps;
}

bool merge_is_present(bool is_linked, double heard, double now, double away_after) {
    return is_linked || now - heard < away_after;
}

uint32_t merge_quorum(const struct merge_settings *settings, const struct merge_view *view) {
    uint32_t quorum;
    if (view->is_over) {
        MARK("step: the run is over, what waits is merged");
        quorum = 1;
    } else if (merge_is_warm_up(settings, view->version)) {
        MARK("step: warm-up");
        quorum = view->present;
    } else {
        quorum = MIN(settings->quorum, view->present);
    }
    return MAX(quorum, 1u);
}

static double grace_of(const struct merge_settings *settings, const struct merge_view *view) {
    bool warm_up = !view->is_over && merge_is_warm_up(settings, view->version);
    return warm_up ? settings->warmup_grace : settings->grace;
}

static void note_window(struct merge_windows *windows, uint32_t fragment, bool waits, double now) {
    if (waits && !windows->open[fragment]) windows->since[fragment] = now;
    windows->open[fragment] = waits; /* a revocation may have dropped what it was opened for */
}

struct merge_decision merge_decide(const struct merge_settings *settings,
                                   const struct merge_view *view, double now,
                                   struct merge_windows *windows) {
    struct merge_decision decision = {.wake = INFINITY};
    uint32_t quorum = merge_quorum(settings, view);
    double grace = grace_of(settings, view), oldest = INFINITY;
    ASSERT(settings->fragments <= FRAGMENTS_LIMIT);
    for (uint32_t fragment = 0; fragment < settings->fragments; fragment++) {
        note_window(windows, fragment, view->waiting[fragment] > 0, now);
        if (view->waiting[fragment] == 0) continue;
        double since = windows->since[fragment], end = since + grace;
        if (view->held[fragment]) {
            MARK("step: waits for a lost payload");
        } else if (view->waiting[fragment] < quorum && now < end) {
            MARK("step: a grace window");
            decision.wake = fmin(decision.wake, end);
        } else if (since < oldest) { /* whose contribution has waited longest goes first */
            oldest = since;
            decision.is_due = true;
            decision.fragment = fragment;
        }
    }
    if (decision.is_due) windows->open[decision.fragment] = false;
    return decision;
}
