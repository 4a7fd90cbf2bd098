/* Who is there: the one place that says so.
 *
 * Two questions are kept apart. Whether a site is connected (it follows, or was heard within
 * `presence_ms`) is for people, and for what is measured here. Whether it counts is in the ledger,
 * so that all agree on K: a site that was silent for the manifest's away_after is entered as AWAY,
 * as BACK once it is heard again, and as LEFT when it says that it goes. A site whose last word was
 * that it goes is not back by a message that was on its way: another process of it must come. */
#include <stdio.h>
#include <string.h>

#include "base/mark.h"
#include "base/memory.h"
#include "coordinator/coordinator_state_internal.h"

/* ---- who is there ---------------------------------------------------------------------------- */

struct presence *presence_of(struct coordinator_state *state, uint32_t site) {
    if (site == 0 || site > run_state_site_count(state->run)) return NULL;
    if (site > state->presence_count) {
        size_t count = run_state_site_count(state->run);
        state->presence = xrealloc(state->presence, count * sizeof state->presence[0]);
        memset(state->presence + state->presence_count, 0,
               (count - state->presence_count) * sizeof state->presence[0]);
        state->presence_count = count;
    }
    return &state->presence[site - 1];
}

static bool is_present(const struct coordinator_state *state, const struct presence *presence,
                       struct instant now) {
    return presence->heard &&
           merge_is_present(presence->following > 0, (double)presence->heard_ms,
                            (double)now.monotonic_ms, (double)state->options.presence_ms);
}

/* Milliseconds in which the run was not paused. */
uint64_t presence_active_ms(const struct coordinator_state *state, struct instant now) {
    uint64_t paused = state->paused_ms;
    if (state->is_paused) paused += now.monotonic_ms - state->paused_since_ms;
    return now.monotonic_ms - paused;
}

void presence_note_phase(struct coordinator_state *state, struct instant now) {
    bool paused = run_state_phase(state->run) != RUN_ACTIVE;
    if (paused == state->is_paused) return;
    if (state->is_paused) state->paused_ms += now.monotonic_ms - state->paused_since_ms;
    state->is_paused = paused;
    state->paused_since_ms = now.monotonic_ms;
}

/* When the site is away if it stays silent; UINT64_MAX: never. A Follow stream is a sign of life of
 * those alone that send no heartbeats. Nobody is away before we have listened for so long. */
static uint64_t away_at(const struct coordinator_state *state, const struct presence *presence) {
    uint64_t after = run_state_manifest(state->run)->merge.away_after_ms,
             last = MAX(presence->heard ? presence->heard_ms : 0, state->listening_ms);
    if (after == UINT64_MAX || (presence->following > 0 && !presence->beats)) return UINT64_MAX;
    return last + after;
}

/* A timer that is long overdue: this process stood still, and what sites said meanwhile is yet to
 * be read. Their silence counts from now on. */
void presence_note_sleep(struct coordinator_state *state, struct instant now) {
    uint64_t after = run_state_manifest(state->run)->merge.away_after_ms;
    if (state->timer_ms >= now.monotonic_ms || now.monotonic_ms - state->timer_ms < after / 2)
        return;
    MARK("presence: this process stood still");
    state->listening_ms = now.monotonic_ms;
}

void presence_hear(struct coordinator_state *state, uint32_t site, struct instant now) {
    struct presence *presence = presence_of(state, site);
    if (!presence) return;
    if (!is_present(state, presence, now)) {
        MARK("presence: a site comes, or comes back");
        presence->timed = 0;
        presence->turned_away = false;
        presence->idle_ms = presence_active_ms(state, now);
        presence->came_ms = presence->idle_ms;
        presence->has_offered = false;
        presence->offers = 0;
        presence->offered_round_ms = 0;
        memset(presence->offer_apart_ms, 0, sizeof presence->offer_apart_ms);
    }
    presence->heard = true;
    presence->heard_ms = now.monotonic_ms;
    if (run_state_site(state->run, site)->role == SITE_OBSERVES) return; /* it never counts */
    if (run_state_is_present(state->run, site))
        state->presence_due_ms = MIN(state->presence_due_ms, away_at(state, presence));
    else
        state->presence_changed = true;
}

bool coordinator_state_connected(const struct coordinator_state *state, uint32_t site,
                                 struct instant now) {
    if (site == 0 || site > state->presence_count) return false;
    const struct run_site *enrolled = run_state_site(state->run, site);
    return enrolled && !enrolled->revoked && is_present(state, &state->presence[site - 1], now);
}

uint64_t coordinator_state_silence(const struct coordinator_state *state, uint32_t site,
                                   struct instant now) {
    if (site == 0 || site > state->presence_count || !state->presence[site - 1].heard)
        return UINT64_MAX;
    return now.monotonic_ms - state->presence[site - 1].heard_ms;
}

/* ---- who counts ------------------------------------------------------------------------------ */

static void enter_presence(struct coordinator_state *state, enum ledger_kind kind, uint32_t site,
                           struct instant now, struct coordinator_actions *out) {
    struct ledger_entry entry = state_entry(state, kind, now);
    entry.presence.site = site;
    state_append(state, &entry, ANSWER_NOBODY, 0, out);
}

/* The ledger is everybody's and for ever. Each AWAY, BACK and LEFT takes its site APART_MS, and so
 * many may come at once: who comes and goes all the time gets an entry now and then. */
enum { APART_MS = 10000, AT_ONCE = 4 };

static uint64_t apart_ms(const struct coordinator_state *state) {
    return MIN(run_state_manifest(state->run)->merge.away_after_ms / 4, (uint64_t)APART_MS);
}

static uint64_t may_enter_at(const struct coordinator_state *state,
                             const struct presence *presence) {
    uint64_t ahead = (AT_ONCE - 1) * apart_ms(state);
    return presence->entries_ms > ahead ? presence->entries_ms - ahead : 0;
}

/* What the ledger should say of the site. */
static enum site_presence standing_of(const struct presence *presence,
                                      const struct run_site *enrolled, bool is_away) {
    if (presence->is_leaving) return SITE_LEFT;
    if (enrolled->presence == SITE_PRESENT) return is_away ? SITE_AWAY : SITE_PRESENT;
    if (!presence->heard || is_away) return enrolled->presence;
    return SITE_PRESENT;
}

static void enter_site(struct coordinator_state *state, uint32_t site, struct instant now,
                       struct coordinator_actions *out) {
    static const enum ledger_kind kinds[] = {[SITE_PRESENT] = LEDGER_SITE_BACK,
                                             [SITE_AWAY] = LEDGER_SITE_AWAY,
                                             [SITE_LEFT] = LEDGER_SITE_LEFT};
    struct presence *presence = presence_of(state, site);
    const struct run_site *enrolled = run_state_site(state->run, site);
    uint64_t away = away_at(state, presence), due = may_enter_at(state, presence);
    enum site_presence standing = standing_of(presence, enrolled, now.monotonic_ms >= away);
    if (standing == SITE_PRESENT) state->presence_due_ms = MIN(state->presence_due_ms, away);
    if (standing == enrolled->presence) return;
    if (now.monotonic_ms < due) {
        state->presence_due_ms = MIN(state->presence_due_ms, due);
        return;
    }
    if (standing == SITE_PRESENT) MARK("presence: a site counts again");
    if (standing == SITE_AWAY) MARK("presence: a site is away");
    if (standing == SITE_LEFT) MARK("presence: a site leaves");
    presence->entries_ms = MAX(presence->entries_ms, now.monotonic_ms) + apart_ms(state);
    enter_presence(state, kinds[standing], site, now, out);
}

void presence_enter(struct coordinator_state *state, struct instant now,
                    struct coordinator_actions *out) {
    if (run_state_phase(state->run) == RUN_STOPPED) state->presence_due_ms = UINT64_MAX;
    if (state->applying || state->stopping || run_state_phase(state->run) == RUN_STOPPED) return;
    if (!state->presence_changed && now.monotonic_ms < state->presence_due_ms) return;
    state->presence_changed = false;
    state->presence_due_ms = UINT64_MAX;
    uint32_t count = run_state_site_count(state->run);
    for (uint32_t site = 1; site <= count && !state->stopping; site++) {
        const struct run_site *enrolled = run_state_site(state->run, site);
        if (enrolled->revoked || enrolled->role == SITE_OBSERVES) continue;
        if (state->commit_count >= COMMITS_LIMIT) {
            state->presence_changed = true; /* the rest once the disk has caught up */
            return;
        }
        enter_site(state, site, now, out);
    }
}

/* ---- whose clock is off ---------------------------------------------------------------------- */

/* Kept beside the clock that nobody sets, so that ours is right as soon as it was set. */
static void note_clock(struct presence *presence, uint64_t time_ms, struct instant now) {
    presence->clock_told = time_ms > 0 && time_ms < INT64_MAX / 4;
    if (presence->clock_told) presence->clock_ms = (int64_t)time_ms - (int64_t)now.monotonic_ms;
}

bool coordinator_state_clock_off(const struct coordinator_state *state, struct instant now,
                                 struct clock_off *out) {
    uint32_t present = 0, ahead = 0, behind = 0;
    int64_t least_ahead = INT64_MAX, least_behind = INT64_MAX;
    for (uint32_t site = 1; site <= state->presence_count; site++) {
        const struct presence *presence = &state->presence[site - 1];
        if (!coordinator_state_connected(state, site, now)) continue;
        if (run_state_site(state->run, site)->role == SITE_OBSERVES) continue;
        present++;
        if (!presence->clock_told) continue;
        int64_t apart = (int64_t)now.wall_ms - (presence->clock_ms + (int64_t)now.monotonic_ms);
        if (apart > CLOCK_APART_LIMIT_MS) {
            ahead++;
            least_ahead = MIN(least_ahead, apart);
        } else if (apart < -CLOCK_APART_LIMIT_MS) {
            behind++;
            least_behind = MIN(least_behind, -apart);
        }
    }
    uint32_t sites = MAX(ahead, behind);
    if (sites < 2 || 2 * sites <= present) return false;
    *out = (struct clock_off){ahead > behind ? least_ahead : -least_behind, sites, present};
    return true;
}

/* ---- what it tells --------------------------------------------------------------------------- */

void presence_heartbeat(struct coordinator_state *state, const struct coordinator_event *event,
                        struct instant now, struct coordinator_actions *out) {
    uint32_t site = event->heartbeat.site;
    struct presence *presence = presence_of(state, site);
    enum refusal code = places_take(state, site, event->heartbeat.instance, now);
    if (code == ACCEPTED) {
        presence_hear(state, site, now);
        presence->beats = true;
        if (event->heartbeat.leaving && !presence->is_leaving)
            presence->is_leaving = state->presence_changed = true;
        note_clock(presence, event->heartbeat.time_ms, now);
        if (presence->challenger && !presence->is_decided &&
            event->heartbeat.turn == presence->turn)
            places_decide(state, site, presence, now, out);
    }
    speed_note_idle(state, now);
    struct coordinator_action *action = state_act(out, DO_HEARTBEAT_REPLY, event->call);
    action->site = site;
    action->code = code;
    if (code != ACCEPTED)
        snprintf(action->message, sizeof action->message, "%s", refusal_advice(code));
    action->inner_steps = coordinator_state_inner_steps(state, site, now);
    if (presence && code == ACCEPTED) presence->share = speed_share(state, site, now);
    action->sites_present = run_state_present_sites(state->run);
    if (code != ACCEPTED) return;
    invariants_check_place(presence);
    lost_ask(state, site, now, action);
    ASSERT(action->wanted_count <= WANTED_LIMIT);
    const struct run_site *enrolled = run_state_site(state->run, site);
    action->has_left =
        enrolled->role == SITE_OBSERVES
            ? presence->is_leaving
            : enrolled->presence == SITE_LEFT && enrolled->presence_at < state->committed;
    action->turn = presence->turn;
    action->copies = presence->copies;
}
