/* How often a site may contribute.
 *
 * Each contribution makes a version, and what was made for one that is too many versions back is
 * refused as stale: a site that floods starves the others. So a site's contributions of a fragment
 * are at least an eighth of a round apart, where a round is what the median of the other sites that
 * are present needs, by this clock. Who is eight times as fast as half of them trains more steps
 * for each contribution, or waits. Nothing that the site says of itself, steps or tokens, counts.
 *
 * Time counts from the first offer of the last one, not from when there was room for it: who had to
 * come again has trained meanwhile.
 *
 * The time of a round is measured between the first offers of contributions that were accepted
 * (presence). Until there are two of those, it is the time between two offers of a fragment, be
 * they refused as stale: a site that is starved by a flood has no others, and what it had made
 * before it came says nothing. Of the last two such times it is the longer one, for what was
 * refused is offered again at once, from another base, before the next round's. Both times are of
 * one fragment: several may be refused together. Until there are two offers, it is the time from
 * when the site came to its first one; until then, of a site that sends heartbeats, a guess. Who
 * only follows has no rounds.
 */
#include <stdlib.h>

#include "base/mark.h"
#include "base/memory.h"
#include "coordinator/coordinator_state_internal.h"

enum {
    FASTER_LIMIT = 8,        /* as fast as that the median's rounds, for one site */
    GUESSED_ROUND_MS = 8000, /* of a site that has offered nothing yet ... */
    GUESS_HOLDS_MS = 600000, /* ... and may never do; a first round is not longer, either */
    ASK_AGAIN_MS = 60000     /* what was measured may have changed by then */
};

/* 0: nobody can tell. */
static uint64_t round_ms(const struct coordinator_state *state, const struct presence *presence,
                         struct instant now) {
    if (presence->rounds > 0) return (uint64_t)(presence->steps_ms / presence->rounds);
    if (presence->offered_round_ms > 0) return presence->offered_round_ms;
    if (presence->has_offered) return presence->first_round_ms;
    uint64_t here_ms = presence_active_ms(state, now) - presence->came_ms;
    return presence->beats && here_ms < GUESS_HOLDS_MS ? GUESSED_ROUND_MS : 0;
}

static int by_duration(const void *a, const void *b) {
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

/* Over the others that are present and train, the lower of two middle values; 0: there are none. */
static uint64_t median_round_ms(const struct coordinator_state *state, uint32_t site,
                                struct instant now) {
    uint64_t *rounds = xcalloc(state->presence_count, sizeof *rounds);
    size_t count = 0;
    for (uint32_t other = 1; other <= state->presence_count; other++) {
        if (other == site || run_state_site(state->run, other)->role == SITE_OBSERVES ||
            !coordinator_state_connected(state, other, now))
            continue;
        uint64_t round = round_ms(state, &state->presence[other - 1], now);
        if (round > 0) rounds[count++] = round;
    }
    qsort(rounds, count, sizeof *rounds, by_duration);
    uint64_t median = count > 0 ? rounds[(count - 1) / 2] : 0;
    free(rounds);
    return median;
}

static uint64_t least_apart_ms(const struct coordinator_state *state, uint32_t site,
                               struct instant now) {
    return median_round_ms(state, site, now) / FASTER_LIMIT;
}

uint64_t rate_too_soon(struct coordinator_state *state, uint32_t site, uint32_t fragment,
                       struct instant now) {
    const struct presence *presence = presence_of(state, site);
    if (!(presence->accepted >> fragment & 1)) return 0;
    uint64_t since_ms = presence_active_ms(state, now) - presence->accepted_ms[fragment];
    uint64_t least_ms = least_apart_ms(state, site, now);
    if (since_ms >= least_ms) return 0;
    MARK("upload: a site contributes too often");
    return MIN(least_ms - since_ms, (uint64_t)ASK_AGAIN_MS);
}

/* Who came before its time does not gain by it: its time counts. */
void rate_note_accepted(struct coordinator_state *state, uint32_t site, uint32_t fragment,
                        struct instant now) {
    struct presence *presence = presence_of(state, site);
    uint64_t *accepted_ms = &presence->accepted_ms[fragment], bit = UINT64_C(1) << fragment;
    uint64_t from_ms = presence->offered_first_ms;
    if (presence->accepted & bit)
        from_ms = MAX(from_ms, *accepted_ms + least_apart_ms(state, site, now));
    *accepted_ms = MIN(from_ms, presence_active_ms(state, now));
    presence->accepted |= bit;
}

/* Once its signature was found right, whatever else became of it. */
void rate_note_offer(struct coordinator_state *state, const struct contribution *contribution,
                     struct instant now) {
    struct presence *presence = presence_of(state, contribution->site);
    if (!presence) return;
    uint64_t active_ms = presence_active_ms(state, now);
    if (!presence->has_offered) {
        presence->has_offered = true;
        presence->first_round_ms = MIN(active_ms - presence->came_ms, (uint64_t)GUESS_HOLDS_MS);
    }
    uint32_t fragment = contribution->fragment;
    uint64_t bit = UINT64_C(1) << fragment;
    if (presence->offers & bit) {
        if (contribution->sequence == presence->newest_offer[fragment]) return; /* a new call */
        uint64_t before_ms = presence->offer_apart_ms[fragment],
                 apart_ms = MIN(active_ms - presence->offer_ms[fragment], (uint64_t)GUESS_HOLDS_MS);
        presence->offered_round_ms =
            MAX(apart_ms, before_ms > 0 ? before_ms : presence->first_round_ms);
        presence->offer_apart_ms[fragment] = apart_ms;
    }
    presence->offers |= bit;
    presence->newest_offer[fragment] = contribution->sequence;
    presence->offer_ms[fragment] = active_ms;
}
