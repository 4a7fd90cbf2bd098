/* How fast the sites train, and what each is told to do per round.
 *
 * A site's speed is measured, not told: inner steps of accepted contributions over the time of this
 * clock in which it could train. A contribution carries all steps since the one before it, so the
 * time between the moments when two of them are first offered is the time that they took, whatever
 * the links did. Left out are the times in which it could not: pauses of the run; where it does not
 * train while a contribution of its own is under way (overlap off), that too; and an interval in
 * which it was not present, for nobody knows what it did then.
 *
 * Steps are what sites tell, so no single one sets the pace: fed/run_state.h says whom the others
 * are measured by.
 *
 * What a site is told changes only when its share of the speed has moved by a real amount
 * (dylu_share): rates are measured, so they are never quite the same twice.
 *
 * A record must not outlive what it is of. Only sites that are present count as the fastest; older
 * intervals fade by half with each round; and a site that is present and offers nothing is as slow
 * as what it has not offered by now. */
#include <math.h>

#include "base/mark.h"
#include "coordinator/coordinator_state_internal.h"

/* A site that was told that there is no room comes again after a backoff of at most so long. */
enum { LATE_ROUNDS = 4, COMES_AGAIN_MS = 60000 };

/* Milliseconds in which the site could train. */
static uint64_t trained_ms(const struct coordinator_state *state, const struct presence *presence,
                           struct instant now) {
    uint64_t waited = presence->waited_ms;
    if (presence->is_waiting) waited += presence_active_ms(state, now) - presence->waiting_since_ms;
    return presence_active_ms(state, now) - waited;
}

void speed_offered(struct coordinator_state *state, const struct contribution *contribution,
                   bool waits, struct instant now) {
    struct presence *presence = presence_of(state, contribution->site);
    if (!presence) return;
    presence->idle_ms = presence_active_ms(state, now);
    presence->turned_away = false;
    if (contribution->sequence <= presence->offered_sequence) return; /* again, over a new call */
    presence->offered_sequence = contribution->sequence;
    presence->offered_first_ms = presence_active_ms(state, now);
    if (presence->is_waiting && !run_state_site_pending(state->run, contribution->site)) {
        MARK("speed: what a site waited for was refused");
        presence->is_waiting = false; /* it trained again, nobody knows since when */
        presence->timed = 0;
    }
    presence->offered_ms = trained_ms(state, presence, now);
    uint64_t active = presence_active_ms(state, now);
    ASSERT(presence->waited_ms <= active);
    if (waits && !presence->is_waiting) presence->waiting_since_ms = active;
    presence->is_waiting = waits;
}

void speed_turned_away(struct coordinator_state *state, uint32_t site) {
    struct presence *presence = presence_of(state, site);
    if (presence) presence->turned_away = true;
}

/* A contribution carries all steps since the fragment's last one: they took the time in which the
 * site trained between the two. All fragments come once a round. */
void speed_accepted(struct coordinator_state *state, const struct contribution *contribution) {
    struct presence *presence = presence_of(state, contribution->site);
    if (!presence) return;
    double keep = 1 - 0.5 / run_state_manifest(state->run)->fragments;
    uint64_t *from_ms = &presence->timed_from_ms[contribution->fragment],
             bit = UINT64_C(1) << contribution->fragment;
    if (presence->timed & bit && presence->offered_ms > *from_ms) {
        presence->steps = presence->steps * keep + contribution->inner_steps;
        presence->steps_ms = presence->steps_ms * keep + (double)(presence->offered_ms - *from_ms);
        presence->rounds = presence->rounds * keep + 1;
    }
    presence->timed |= bit;
    *from_ms = presence->offered_ms;
    presence->waits_for_step = true;
}

void speed_merged(struct coordinator_state *state, struct instant now) {
    for (uint32_t site = 1; site <= state->presence_count; site++) {
        struct presence *presence = &state->presence[site - 1];
        if (!presence->waits_for_step || run_state_site_pending(state->run, site)) continue;
        presence->waits_for_step = false;
        presence->idle_ms = presence_active_ms(state, now);
        if (presence->is_waiting)
            presence->waited_ms += presence->idle_ms - presence->waiting_since_ms;
        presence->is_waiting = false;
    }
}

/* Inner steps per second; INFINITY: not known. Nothing that it offers is under way for so long:
 * then it is not faster than that much less than a round in that time. One that was never measured
 * is believed for a round, another for LATE_ROUNDS. */
static double rate_of(const struct coordinator_state *state, uint32_t site, struct instant now) {
    const struct presence *presence = &state->presence[site - 1];
    bool measured = presence->steps_ms > 0;
    double rate = measured ? presence->steps * 1000 / presence->steps_ms : (double)INFINITY;
    uint64_t idle = presence_active_ms(state, now) - presence->idle_ms;
    /* it waits for us, not we for it */
    if (presence->turned_away && idle < COMES_AGAIN_MS) return rate;
    if (idle == 0 || presence->uploading > 0 || run_state_site_pending(state->run, site))
        return rate;
    double bound =
        (measured ? LATE_ROUNDS : 1) * run_state_inner_steps(state->run) * 1000.0 / (double)idle;
    return fmin(rate, bound);
}

static double fastest_rate(const struct coordinator_state *state, struct instant now) {
    struct dylu_rates rates = {0};
    for (uint32_t site = 1; site <= state->presence_count; site++) {
        if (state->presence[site - 1].steps_ms > 0 && run_state_is_present(state->run, site))
            dylu_note(&rates, rate_of(state, site, now));
    }
    return dylu_fastest(&rates);
}

double speed_share(const struct coordinator_state *state, uint32_t site, struct instant now) {
    return dylu_share(state->presence[site - 1].share, rate_of(state, site, now),
                      fastest_rate(state, now));
}

uint32_t coordinator_state_inner_steps(const struct coordinator_state *state, uint32_t site,
                                       struct instant now) {
    uint32_t inner_steps = run_state_inner_steps(state->run);
    if (!run_state_manifest(state->run)->inner.dylu || site == 0 || site > state->presence_count)
        return inner_steps;
    uint32_t scaled = dylu_steps(inner_steps, speed_share(state, site, now));
    if (scaled < inner_steps) MARK("speed: fewer inner steps for a slower site");
    return scaled;
}

/* What a site has under way is not held against it: its idle time begins anew. */
void speed_note_idle(struct coordinator_state *state, struct instant now) {
    for (uint32_t site = 1; site <= state->presence_count; site++) {
        struct presence *presence = &state->presence[site - 1];
        if (presence->uploading > 0 || run_state_site_pending(state->run, site))
            presence->idle_ms = presence_active_ms(state, now);
    }
}
