/* When an outer step starts, and what becomes of it. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mark.h"
#include "base/memory.h"
#include "coordinator/coordinator_state_internal.h"

/* ---- outer steps -------------------------------------------------------------------------------------------------------- */

static uint32_t quorum_now(const struct coordinator_state *state, struct instant now, uint64_t *grace_ms) {
    const struct manifest *manifest = run_state_manifest(state->run);
    *grace_ms = manifest->merge.grace_ms;
    uint32_t wanted = manifest->merge.quorum;
    if (run_state_phase(state->run) == RUN_STOPPED) {
        MARK("step: the run is over, what waits is merged");
        wanted = 1; /* nobody else will come: merge what is there */
    } else if (run_state_version(state->run) < manifest->merge.warmup_steps) {
        MARK("step: warm-up");
        wanted = brain_connected(state, now);
        *grace_ms = manifest->merge.warmup_grace_ms;
    } else {
        wanted = MIN(wanted, run_state_active_sites(state->run));
    }
    return MAX(wanted, 1);
}

static uint64_t window_end(const struct coordinator_state *state, uint32_t fragment, uint64_t grace_ms) {
    uint64_t start = state->window_start[fragment];
    return grace_ms > UINT64_MAX - start ? UINT64_MAX : start + grace_ms;
}

static void begin_step(struct coordinator_state *state, uint32_t fragment, uint32_t pending, struct coordinator_actions *out) {
    uint16_t count = (uint16_t)MIN(pending, (uint32_t)STEP_CONTRIBUTIONS_LIMIT);
    run_state_plan_step(state->run, fragment, count, &state->step);
    MARK("step: begins");
    if (pending > 1) MARK("step: of several contributions");
    state->applying = true;
    state->window_open[fragment] = false;
    brain_act(out, DO_APPLY, 0)->step = state->step;
}

/* Starts the next step if one is due, else asks for the timer that will make it due. Called after everything that could
 * have changed the answer. */
void brain_consider_step(struct coordinator_state *state, struct instant now, struct coordinator_actions *out) {
    if (state->behind && !state->stopping) brain_catch_up_again(state, now, out);
    if (state->applying || state->behind || state->stopping) return;
    uint64_t grace_ms, wake = brain_lost_age(state, now, UINT64_MAX, out), oldest = UINT64_MAX;
    if (state->stopping) return;
    uint32_t quorum = quorum_now(state, now, &grace_ms), due = UINT32_MAX;
    uint32_t fragments = run_state_manifest(state->run)->fragments;
    for (uint32_t fragment = 0; fragment < fragments; fragment++) {
        uint32_t pending = run_state_pending_count(state->run, fragment);
        if (pending == 0) {
            state->window_open[fragment] = false; /* a revocation may have dropped what it was opened for */
            continue;
        }
        if (!state->window_open[fragment]) {
            state->window_open[fragment] = true;
            state->window_start[fragment] = now.monotonic_ms;
        }
        uint64_t end = window_end(state, fragment, grace_ms);
        if (brain_lost_holds(state, fragment)) {
            MARK("step: waits for a lost payload");
            continue;
        }
        if (pending < quorum && now.monotonic_ms < end) {
            MARK("step: a grace window");
            wake = MIN(wake, end);
            continue;
        }
        if (state->window_start[fragment] < oldest) { /* whose contribution has waited longest goes first */
            oldest = state->window_start[fragment];
            due = fragment;
        }
    }
    if (due != UINT32_MAX) {
        begin_step(state, due, run_state_pending_count(state->run, due), out);
    } else if (wake != state->timer_ms && wake != UINT64_MAX) {
        state->timer_ms = wake;
        brain_act(out, DO_TIMER, 0)->at_ms = wake;
    }
}

/* Index of the oldest contribution that waits for a step; the ledger's size if none does. */
static uint64_t oldest_pending(const struct coordinator_state *state) {
    uint64_t oldest = run_state_size(state->run);
    uint32_t fragments = run_state_manifest(state->run)->fragments;
    for (uint32_t fragment = 0; fragment < fragments; fragment++) {
        if (run_state_pending_count(state->run, fragment) == 0) continue;
        oldest = MIN(oldest, run_state_pending(state->run, fragment, 0)->index);
    }
    return oldest;
}

/* Of the model as it is after the newest step; only while none is being applied. */
void brain_snapshot(struct coordinator_state *state, struct coordinator_actions *out) {
    struct coordinator_action *action = brain_act(out, DO_SNAPSHOT, 0);
    action->version = run_state_version(state->run);
    action->size = run_state_size(state->run);
    action->first_index = oldest_pending(state);
    MARK("step: snapshot");
    state->snapshot_wanted = false;
}

void brain_step_applied(struct coordinator_state *state, const struct coordinator_event *event, struct instant now,
                        struct coordinator_actions *out) {
    if (state->behind) {
        brain_caught_up(state, event, now, out);
        return;
    }
    if (!state->applying) return;
    state->applying = false;
    if (event->applied.lost_count > 0) { /* nothing was touched: the step is planned anew once they are here, or dropped */
        MARK("step: a payload is lost");
        brain_lost(state, event, now);
        return;
    }
    if (event->applied.status != OK) {
        brain_stop(state, out, event->applied.status == CORRUPT || event->applied.status == INVALID,
                   "step %llu cannot be computed: %s", (unsigned long long)state->step.step.version,
                   event->applied.message ? event->applied.message : status_name(event->applied.status));
        return;
    }
    const struct manifest *manifest = run_state_manifest(state->run);
    struct ledger_entry entry = state->step;
    entry.epoch = run_state_epoch(state->run);
    entry.time_ms = now.wall_ms;
    entry.step.has_root = entry.step.version % manifest->root_interval == 0;
    if (entry.step.has_root)
        memcpy(entry.step.root, event->applied.root, DIGEST_SIZE);
    else
        memset(entry.step.root, 0, DIGEST_SIZE);
    if (!brain_append(state, &entry, ANSWER_NOBODY, 0, out)) return;
    brain_merged(state, now);
    if (entry.step.version % manifest->snapshot_interval == 0 || state->snapshot_wanted) brain_snapshot(state, out);
}
