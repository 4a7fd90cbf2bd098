/* How many of the tokens that sites tell count, for the learning rate's schedule and the budget.
 *
 * Nobody can see how many tokens a site trained on. What can be seen is what the others tell, and
 * the time: a site counts for at most TOKEN_RATE_LIMIT times the median site's rate in the time
 * since its last part. What it tells beyond that waits and counts later, so an honest site whose
 * parts come in a bunch after an outage, or are told before there is a median, loses nothing, and
 * one that tells 2^50 counts as eight.
 *
 * A site's rate is of its own parts, older ones fading. The median is over sites that were heard
 * within voice_age, each with one voice, the lower of two middle values. One voice alone is not a
 * median, except in a run of one site, or when no other came for a whole voice_age. The clock is
 * that of the entries less the pauses, so all agree; where it was set, a part counts late or early,
 * once.
 */
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

/* Tokens per millisecond; 0: there is no median. */
static double median_rate(const struct run_state *state, uint64_t time_ms) {
    uint64_t age = state->manifest.admission.voice_age_ms;
    double *rates = xcalloc(state->site_count, sizeof rates[0]);
    uint32_t count = 0;
    for (uint32_t i = 0; i < state->site_count; i++) {
        const struct site_slot *site = &state->sites[i];
        if (site->site.revoked || site->rate.ms == 0 || site->rate.tokens == 0 ||
            !voice_counts(site->site.last_time_ms, time_ms, age))
            continue;
        rates[count++] = (double)site->rate.tokens / (double)site->rate.ms;
    }
    bool is_alone = count == 1 && !voice_counts(state->began_ms, time_ms, age);
    double median = count >= 2 || is_alone ? lower_median(rates, count) : 0;
    free(rates);
    return median;
}

static uint64_t most_of(double tokens) {
    return tokens < 0x1p60 ? (uint64_t)tokens : UINT64_C(1) << 60;
}

static void note_rate(struct site_slot *site, uint64_t tokens, uint64_t elapsed) {
    if (site->site.contributions == 0 || elapsed == 0) return; /* nobody knows since when */
    site->rate.tokens = site->rate.tokens / 2 + tokens;
    site->rate.ms = site->rate.ms / 2 + elapsed;
}

void run_count_tokens(struct run_state *state, struct site_slot *site, uint64_t tokens,
                      uint64_t time_ms) {
    uint64_t now = run_active_ms(state, time_ms),
             elapsed = now > site->rate.since_ms ? now - site->rate.since_ms : 0,
             told = add_saturated(site->site.uncounted, tokens), count = told;
    if (state->active_sites > 1) {
        double most = TOKEN_RATE_LIMIT * median_rate(state, time_ms) * (double)elapsed;
        count = MIN(told, most_of(most));
    }
    if (count < told) MARK("tokens: more than count");
    site->site.tokens = add_saturated(site->site.tokens, tokens);
    site->site.uncounted = told - count;
    site->site.counted = add_saturated(site->site.counted, count);
    state->tokens = add_saturated(state->tokens, count);
    note_rate(site, tokens, elapsed);
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
