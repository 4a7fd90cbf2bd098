/* Who is there and how fast they train: the one place that says so. Status, site list, DyLU and the quorum of the warm-up all ask
 * here.
 *
 * A site is present while it follows or was heard within `presence_ms`, if it is enrolled. Its speed is measured, not told: inner
 * steps of accepted contributions over the time of this clock in which it could train. A contribution carries all steps since the
 * one before it, so the time between the moments when two of them are first offered is the time that they took, whatever the
 * links did. Left out are the times in which it could not: pauses of the run; where it does not train while a contribution of
 * its own is under way (overlap off), that too; and an interval in which it was not present, for nobody knows what it did then.
 *
 * A record must not outlive what it is of. Only sites that are present count as the fastest; older intervals fade by half with
 * each round; and a site that is present and offers nothing is as slow as what it has not offered by now.
 */
#include <math.h>
#include <string.h>

#include "base/mark.h"
#include "base/memory.h"
#include "coordinator/coordinator_state_core.h"

enum { LATE_ROUNDS = 4 };

/* ---- who is there ------------------------------------------------------------------------------------------------------- */

struct presence *brain_presence(struct coordinator_state *state, uint32_t site) {
    if (site == 0 || site > run_state_site_count(state->run)) return NULL;
    if (site > state->presence_count) {
        size_t count = run_state_site_count(state->run);
        state->presence = xrealloc(state->presence, count * sizeof state->presence[0]);
        memset(state->presence + state->presence_count, 0, (count - state->presence_count) * sizeof state->presence[0]);
        state->presence_count = count;
    }
    return &state->presence[site - 1];
}

static bool is_present(const struct coordinator_state *state, const struct presence *presence, struct moment now) {
    return presence->heard && (presence->following > 0 || now.monotonic_ms - presence->heard_ms <= state->options.presence_ms);
}

/* Milliseconds in which the run was not paused. */
static uint64_t active_ms(const struct coordinator_state *state, struct moment now) {
    uint64_t paused = state->paused_ms;
    if (state->is_paused) paused += now.monotonic_ms - state->paused_since_ms;
    return now.monotonic_ms - paused;
}

void brain_note_phase(struct coordinator_state *state, struct moment now) {
    bool paused = run_state_phase(state->run) != RUN_ACTIVE;
    if (paused == state->is_paused) return;
    if (state->is_paused) state->paused_ms += now.monotonic_ms - state->paused_since_ms;
    state->is_paused = paused;
    state->paused_since_ms = now.monotonic_ms;
}

void brain_hear(struct coordinator_state *state, uint32_t site, struct moment now) {
    struct presence *presence = brain_presence(state, site);
    if (!presence) return;
    if (!is_present(state, presence, now)) {
        MARK("presence: a site comes, or comes back");
        presence->is_timed = false;
        presence->idle_ms = active_ms(state, now);
    }
    presence->heard = true;
    presence->heard_ms = now.monotonic_ms;
}

bool coordinator_state_connected(const struct coordinator_state *state, uint32_t site, struct moment now) {
    if (site == 0 || site > state->presence_count) return false;
    const struct run_site *enrolled = run_state_site(state->run, site);
    return enrolled && !enrolled->revoked && is_present(state, &state->presence[site - 1], now);
}

uint64_t coordinator_state_silence(const struct coordinator_state *state, uint32_t site, struct moment now) {
    if (site == 0 || site > state->presence_count || !state->presence[site - 1].heard) return UINT64_MAX;
    return now.monotonic_ms - state->presence[site - 1].heard_ms;
}

uint32_t brain_connected(const struct coordinator_state *state, struct moment now) {
    uint32_t count = 0;
    for (uint32_t site = 1; site <= state->presence_count; site++) count += coordinator_state_connected(state, site, now);
    return count;
}

/* ---- how fast ----------------------------------------------------------------------------------------------------------- */

void brain_offered(struct coordinator_state *state, const struct contribution *contribution, bool waits, struct moment now) {
    struct presence *presence = brain_presence(state, contribution->site);
    if (!presence) return;
    presence->waits = waits;
    if (contribution->sequence <= presence->offered_sequence) return; /* again, over a new call */
    presence->offered_sequence = contribution->sequence;
    presence->offered_ms = active_ms(state, now);
}

/* Each of the fragments counts all steps, and all of them come once a round. */
void brain_accepted(struct coordinator_state *state, const struct contribution *contribution) {
    struct presence *presence = brain_presence(state, contribution->site);
    if (!presence) return;
    double fragments = run_state_manifest(state->run)->fragments;
    if (presence->is_timed && presence->offered_ms > presence->timed_from_ms) {
        double keep = 1 - 0.5 / fragments;
        presence->steps = presence->steps * keep + contribution->inner_steps / fragments;
        presence->steps_ms = presence->steps_ms * keep + (double)(presence->offered_ms - presence->timed_from_ms);
    }
    presence->is_timed = true;
    presence->timed_from_ms = presence->offered_ms;
    presence->waits_for_step = true;
}

void brain_merged(struct coordinator_state *state, struct moment now) {
    for (uint32_t site = 1; site <= state->presence_count; site++) {
        struct presence *presence = &state->presence[site - 1];
        if (!presence->waits_for_step || run_state_site_pending(state->run, site)) continue;
        presence->waits_for_step = false;
        presence->idle_ms = active_ms(state, now);
        if (presence->waits) presence->timed_from_ms = MAX(presence->timed_from_ms, presence->idle_ms);
    }
}

/* Inner steps a second; INFINITY: not known. Nothing that it offers is under way for so long: then it is not faster than that
 * much less than a round in that time. One that was never measured is believed for a round, another for LATE_ROUNDS. */
static double rate_of(const struct coordinator_state *state, uint32_t site, struct moment now) {
    const struct presence *presence = &state->presence[site - 1];
    bool measured = presence->steps_ms > 0;
    double rate = measured ? presence->steps * 1000 / presence->steps_ms : (double)INFINITY;
    uint64_t idle = active_ms(state, now) - presence->idle_ms;
    if (idle == 0 || presence->uploading > 0 || run_state_site_pending(state->run, site)) return rate;
    double bound = (measured ? LATE_ROUNDS : 1) * run_state_inner_steps(state->run) * 1000.0 / (double)idle;
    return fmin(rate, bound);
}

static double fastest_rate(const struct coordinator_state *state, struct moment now) {
    double fastest = 0;
    for (uint32_t site = 1; site <= state->presence_count; site++) {
        if (state->presence[site - 1].steps_ms > 0 && coordinator_state_connected(state, site, now))
            fastest = fmax(fastest, rate_of(state, site, now));
    }
    return fastest;
}

uint32_t coordinator_state_inner_steps(const struct coordinator_state *state, uint32_t site, struct moment now) {
    uint32_t inner_steps = run_state_inner_steps(state->run);
    if (!run_state_manifest(state->run)->inner.dylu || site == 0 || site > state->presence_count) return inner_steps;
    uint32_t scaled = dylu_inner_steps(inner_steps, rate_of(state, site, now), fastest_rate(state, now));
    if (scaled < inner_steps) MARK("speed: fewer inner steps for a slower site");
    return scaled;
}

/* What a site has under way is not held against it: its idle time begins anew. */
static void note_idle(struct coordinator_state *state, struct moment now) {
    for (uint32_t site = 1; site <= state->presence_count; site++) {
        struct presence *presence = &state->presence[site - 1];
        if (presence->uploading > 0 || run_state_site_pending(state->run, site)) presence->idle_ms = active_ms(state, now);
    }
}

/* ---- what it tells ------------------------------------------------------------------------------------------------------ */

void brain_heartbeat(struct coordinator_state *state, const struct coordinator_event *event, struct moment now,
                     struct coordinator_actions *out) {
    brain_hear(state, event->heartbeat.site, now);
    note_idle(state, now);
    struct coordinator_action *action = brain_act(out, DO_HEARTBEAT_REPLY, event->call);
    action->site = event->heartbeat.site;
    action->inner_steps = coordinator_state_inner_steps(state, event->heartbeat.site, now);
    action->sites_present = brain_connected(state, now);
}

void brain_following(struct coordinator_state *state, const struct coordinator_event *event, struct moment now) {
    struct presence *presence = brain_presence(state, event->following.site);
    if (!presence) return;
    brain_hear(state, event->following.site, now);
    if (event->following.open)
        presence->following++;
    else if (presence->following > 0)
        presence->following--;
}
