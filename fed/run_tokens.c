/* How many of the tokens that sites tell count, for the learning rate's schedule and the budget.
 *
 * Nobody can see how many tokens a site trained on. What can be seen is what the others tell, and
 * the time: a site counts for at most TOKEN_RATE_LIMIT times the median site's rate in the time
 * since its last part. What it tells beyond that waits and counts later, so an honest site whose
 * parts come in a bunch after an outage, or are told before there is a median, loses nothing, and
 * one that tells 2^50 counts as eight.
 *
 * A site's rate is of its own parts within about voice_age. The median is over sites that were
 * heard within voice_age, each with one voice, the lower of two middle values; where these are
 * fewer than three, over all that are members and ever told a rate, so nobody gains by the silence
 * of the others. Who was revoked or has left is not a member, but those that have left measure the
 * last one that stays for a voice_age: else a liar's tokens would count once the others go home.
 *
 * Two sites have no majority: whatever their ratio, the fast one may be honest, or the slow one, or
 * neither. The faster one then counts for up to TOKEN_RATE_LIMIT_OF_TWO times the slower one. That
 * is the ratio that the federation is made for: the faster one's parts have up to eight times the
 * steps (DyLU), and come up to eight times as often (coordinator_rate.c).
 *
 * One voice alone is not a median, except in a run of one site, or when no other came for a whole
 * voice_age. Until there is a median tokens wait, and the time, too: with the first median all
 * counts that it allows since then. A run that warms up goes on meanwhile, by a part of the warm-up
 * per contribution and no further than to its end: what a liar gains is that the rate rises early,
 * over parts that are nobody's but its own, and neither the decay nor the budget begins.
 *
 * The clock is that of the entries less the pauses, so all agree; where it was set, a part counts
 * late or early, once.
 */
#include <math.h>
#include <stdlib.h>

#include "base/mark.h"
#include "base/memory.h"
#include "fed/run_internal.h"

static uint64_t add_saturated(uint64_t a, uint64_t b) {
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

uint64_t run_active_ms(const struct run_state *state, uint64_t time_ms) {
    uint64_t paused = state->paused_ms;
    if (state->phase == RUN_PAUSED && time_ms > state->paused_since_ms)
        paused += time_ms - state->paused_since_ms;
    return time_ms > paused ? time_ms - paused : 0;
}

enum { VOICES = 3 /* fewer have no majority */, WARMUP_PARTS = 16 };

struct voices {
    double *rates; /* [count] */
    uint32_t count;
};

/* Tokens per millisecond, as told; 0: nobody knows. */
static double rate_of(const struct site_slot *site) {
    return site->rate.ms > 0 ? (double)site->rate.tokens / (double)site->rate.ms : 0;
}

static bool is_member(const struct site_slot *site) {
    return !site->site.revoked && site->site.role == SITE_TRAINS &&
           site->site.presence != SITE_LEFT;
}

static uint32_t members_of(const struct run_state *state) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < state->site_count; i++) count += is_member(&state->sites[i]);
    return count;
}

/* By others that are members, or that have left and told a rate within voice_age. */
static bool is_measured(const struct run_state *state, const struct site_slot *own,
                        uint64_t time_ms) {
    uint64_t age = state->manifest.admission.voice_age_ms;
    for (uint32_t i = 0; i < state->site_count; i++) {
        const struct site_slot *site = &state->sites[i];
        bool speaks = !site->site.revoked && site->rate.ms > 0 &&
                      voice_counts(site->site.last_time_ms, time_ms, age);
        if (site != own && (is_member(site) || speaks)) return true;
    }
    return false;
}

/* Tokens per millisecond, of the sites that were heard, or of all that ever told; `left`: of those
 * too that have left. */
static struct voices voices_of(const struct run_state *state, uint64_t time_ms, bool heard,
                               bool left) {
    uint64_t age = state->manifest.admission.voice_age_ms;
    struct voices voices = {.rates = xcalloc(state->site_count, sizeof voices.rates[0])};
    for (uint32_t i = 0; i < state->site_count; i++) {
        const struct site_slot *site = &state->sites[i];
        if (site->site.revoked || (!left && !is_member(site))) continue;
        if (rate_of(site) == 0) continue;
        if (heard && !voice_counts(site->site.last_time_ms, time_ms, age)) continue;
        voices.rates[voices.count++] = rate_of(site);
    }
    return voices;
}

/* Tokens per millisecond that a site counts for, at most; 0: nobody can tell yet. */
static double rate_limit(const struct run_state *state, uint64_t time_ms) {
    struct voices voices = voices_of(state, time_ms, true, false);
    uint32_t asked = members_of(state);
    if (voices.count < VOICES) {
        free(voices.rates);
        voices = voices_of(state, time_ms, false, false);
    }
    if (asked < 2) { /* the last one is still measured by those that have left */
        free(voices.rates);
        voices = voices_of(state, time_ms, true, true);
        asked = state->active_sites;
    }
    bool is_alone = voices.count == 1 &&
                    !voice_counts(state->began_ms, time_ms, state->manifest.admission.voice_age_ms);
    double limit = 0;
    if (voices.count >= 2 || is_alone)
        limit = lower_median(voices.rates, voices.count) *
                (asked == 2 ? TOKEN_RATE_LIMIT_OF_TWO : TOKEN_RATE_LIMIT);
    free(voices.rates);
    return limit;
}

static uint64_t most_of(double tokens) {
    return tokens < 0x1p60 ? (uint64_t)tokens : UINT64_C(1) << 60;
}

/* What a contribution counts while there is no median. */
static uint64_t most_of_warmup(const struct run_state *state) {
    uint64_t warmup = state->manifest.inner.warmup_tokens;
    return warmup > state->tokens ? MIN(warmup / WARMUP_PARTS, warmup - state->tokens) : 0;
}

static void note_rate(struct site_slot *site, uint64_t tokens, uint64_t elapsed, uint64_t age_ms) {
    if (site->site.contributions == 0 || elapsed == 0) return; /* nobody knows since when */
    site->rate.tokens = add_saturated(site->rate.tokens, tokens);
    site->rate.ms += elapsed;
    if (site->rate.ms <= age_ms) return;
    site->rate.tokens /= 2; /* what is older fades */
    site->rate.ms = (site->rate.ms + 1) / 2;
}

static uint64_t since(uint64_t now_ms, uint64_t then_ms) {
    return now_ms > then_ms ? now_ms - then_ms : 0;
}

void run_count_tokens(struct run_state *state, struct site_slot *site, uint64_t tokens,
                      uint64_t time_ms) {
    uint64_t now = run_active_ms(state, time_ms),
             told = add_saturated(site->site.uncounted, tokens), count = told;
    if (is_measured(state, site, time_ms)) {
        double limit = rate_limit(state, time_ms);
        if (limit > 0) {
            count = MIN(told, most_of(limit * (double)since(now, site->rate.settled_ms)));
            site->rate.settled_ms = now;
        } else {
            MARK("tokens: nobody can tell yet how many count");
            count = MIN(told, most_of_warmup(state));
            if (site->site.contributions == 0) site->rate.settled_ms = now; /* idle before */
        }
    }
    if (count < told) MARK("tokens: more than count");
    site->site.tokens = add_saturated(site->site.tokens, tokens);
    site->site.uncounted = told - count;
    site->site.counted = add_saturated(site->site.counted, count);
    state->tokens = add_saturated(state->tokens, count);
    note_rate(site, tokens, since(now, site->rate.since_ms),
              state->manifest.admission.voice_age_ms);
    site->rate.since_ms = now;
}

void run_uncount_tokens(struct run_state *state, struct site_slot *site, uint64_t tokens) {
    tokens = MIN(tokens, site->site.tokens);
    site->site.tokens -= tokens;
    uint64_t waiting = MIN(tokens, site->site.uncounted);
    site->site.uncounted -= waiting;
    uint64_t counted = MIN(tokens - waiting, site->site.counted);
    site->site.counted -= counted;
    state->tokens -= MIN(state->tokens, counted);
}

/* ---- the schedule between contributions ------------------------------------------------------ */

/* `limit` (0: nobody can tell): what a site tells beyond what counts moves nobody's schedule. */
static double counted_rate_of(const struct site_slot *site, double limit) {
    return limit > 0 ? fmin(rate_of(site), limit) : rate_of(site);
}

/* What the other had trained beyond its last contribution when ours was entered; at most two rounds
 * of its own, for who is late may be gone. */
static double unsent_of(const struct run_state *state, const struct site_slot *other,
                        const struct site_slot *own, double limit) {
    const struct weighing *last = &state->fragments[0].weights;
    uint32_t at = other->site.site - 1;
    double most = at < last->count ? 2.0 * (double)last->voices[at].tokens : 0,
           apart_ms = (double)own->rate.since_ms - (double)other->rate.since_ms;
    return fmin(apart_ms * counted_rate_of(other, limit), most);
}

struct run_flow run_state_flow(const struct run_state *state, uint32_t site) {
    const struct site_slot *own = run_site_slot(state, site);
    bool is_known = own && rate_of(own) > 0;
    double limit = is_known ? rate_limit(state, own->site.last_time_ms) : 0;
    struct run_flow flow = {0};
    for (uint32_t i = 0; i < state->site_count; i++) {
        const struct site_slot *other = &state->sites[i];
        if (other == own || !run_state_is_present(state, other->site.site)) continue;
        bool both = is_known && rate_of(other) > 0;
        flow.ratio += both ? counted_rate_of(other, limit) / counted_rate_of(own, limit) : 1;
        if (both) flow.unsent += unsent_of(state, other, own, limit);
    }
    return flow;
}
