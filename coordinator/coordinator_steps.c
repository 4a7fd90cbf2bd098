/* When an outer step starts, and what becomes of it. */
#include <stdio.h>
#include <string.h>

#include "base/mark.h"
#include "base/memory.h"
#include "coordinator/coordinator_state_internal.h"

enum { SNAPSHOT_AGAIN_MS = 10000 /* between two that are begun since there is none */ };

/* ---- outer steps ----------------------------------------------------------------------------- */

static struct merge_view view_of(const struct coordinator_state *state,
                                 const struct merge_settings *settings) {
    struct merge_view view = {.version = run_state_version(state->run),
                              .is_over = run_state_phase(state->run) == RUN_STOPPED,
                              .present = run_state_present_sites(state->run)};
    for (uint32_t fragment = 0; fragment < settings->fragments; fragment++) {
        view.waiting[fragment] = run_state_pending_count(state->run, fragment);
        view.held[fragment] = view.waiting[fragment] > 0 && lost_holds(state, fragment);
    }
    return view;
}

static void begin_step(struct coordinator_state *state, uint32_t fragment, uint32_t pending,
                       struct coordinator_actions *out) {
    uint16_t count = (uint16_t)MIN(pending, (uint32_t)STEP_CONTRIBUTIONS_LIMIT);
    run_state_plan_step(state->run, fragment, count, &state->step);
    MARK("step: begins");
    ASSERT(!state->applying && !state->behind && pending > 0);
    if (pending > 1) MARK("step: of several contributions");
    state->applying = true;
    state_act(out, DO_APPLY, 0)->step = state->step;
}

/* Starts the next step if one is due, else asks for the timer that will make it due. Called after
 * everything that could have changed the answer. */
void steps_consider(struct coordinator_state *state, struct instant now,
                    struct coordinator_actions *out) {
    if (state->behind && !state->stopping) lost_catch_up_again(state, now, out);
    if (state->applying || state->behind || state->stopping) return;
    uint64_t wake = lost_age(state, now, state->presence_due_ms, out);
    if (state->stopping) return;
    struct merge_settings settings = merge_settings_of(run_state_manifest(state->run));
    struct merge_view view = view_of(state, &settings);
    struct merge_decision decision =
        merge_decide(&settings, &view, (double)now.monotonic_ms, &state->windows);
    if (decision.is_due) {
        begin_step(state, decision.fragment, view.waiting[decision.fragment], out);
        return;
    }
    if (decision.wake < 0x1p63) wake = MIN(wake, (uint64_t)decision.wake);
    if (wake == state->timer_ms || wake == UINT64_MAX) return;
    state->timer_ms = wake;
    state_act(out, DO_TIMER, 0)->at_ms = wake;
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
void steps_snapshot(struct coordinator_state *state, struct coordinator_actions *out) {
    ASSERT(!state->applying && !state->behind);
    struct coordinator_action *action = state_act(out, DO_SNAPSHOT, 0);
    action->version = run_state_version(state->run);
    action->size = run_state_size(state->run);
    action->first_index = oldest_pending(state);
    MARK("step: snapshot");
    state->snapshot_wanted = false;
}

/* The only one was damaged, say. The next is many versions away, and none may come: who has no copy
 * of version 0 trains nothing without a snapshot, and a step may wait for that site. So one is
 * written of the model as it is, now; where that is not there or the disk has no room, who asked
 * asks again. */
void steps_no_snapshot(struct coordinator_state *state, struct instant now,
                       struct coordinator_actions *out) {
    bool asked =
        state->no_snapshot_ms > 0 && now.monotonic_ms - state->no_snapshot_ms < SNAPSHOT_AGAIN_MS;
    if (state->behind || state->applying || asked) return;
    MARK("step: a snapshot, since there is none");
    state->no_snapshot_ms = MAX(now.monotonic_ms, 1);
    steps_snapshot(state, out);
    out->items[out->count - 1].if_none = true;
}

/* A step that would make the model cease to be finite is never entered: the part that would bring
 * it there is given up, its site takes the mass back, and the step is planned anew without it. */
static void drop_nonfinite(struct coordinator_state *state, uint64_t index, struct instant now,
                           struct coordinator_actions *out) {
    struct ledger_entry entry = state_entry(state, LEDGER_DROPPED, now);
    entry.dropped.index = index;
    snprintf(entry.dropped.reason, sizeof entry.dropped.reason,
             "the step with it would make the model cease to be finite");
    if (state_append(state, &entry, ANSWER_NOBODY, 0, out)) speed_merged(state, now);
}

void steps_applied(struct coordinator_state *state, const struct coordinator_event *event,
                   struct instant now, struct coordinator_actions *out) {
    if (state->behind) {
        lost_caught_up(state, event, now, out);
        return;
    }
    if (!state->applying) return;
    state->applying = false;
    if (event->applied.lost_count >
        0) { /* nothing was touched: the step is planned anew once they are here, or dropped */
        MARK("step: a payload is lost");
        lost_missing(state, event, now);
        return;
    }
    if (event->applied.nonfinite > 0) {
        drop_nonfinite(state, event->applied.nonfinite, now, out);
        return;
    }
    if (event->applied.status != OK) {
        state_stop(state, out, event->applied.status == CORRUPT || event->applied.status == INVALID,
                   "step %llu cannot be computed: %s", (unsigned long long)state->step.step.version,
                   event->applied.message ? event->applied.message
                                          : status_name(event->applied.status));
        return;
    }
    const struct manifest *manifest = run_state_manifest(state->run);
    ASSERT(state->step.step.version == run_state_version(state->run) + 1);
    struct ledger_entry entry = state->step;
    entry.epoch = run_state_epoch(state->run);
    entry.time_ms = now.wall_ms;
    entry.step.has_root = entry.step.version % manifest->root_interval == 0;
    if (entry.step.has_root)
        memcpy(entry.step.root, event->applied.root, DIGEST_SIZE);
    else
        memset(entry.step.root, 0, DIGEST_SIZE);
    if (!state_append(state, &entry, ANSWER_NOBODY, 0, out)) return;
    speed_merged(state, now);
    if (entry.step.version % manifest->snapshot_interval == 0 || state->snapshot_wanted)
        steps_snapshot(state, out);
}
