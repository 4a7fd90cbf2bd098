/* Who is there and how fast they train: the one place that says so.
 *
 * Two questions are kept apart. Whether a site is connected (it follows, or was heard within
 * `presence_ms`) is for people, and for what is measured here. Whether it counts is in the ledger,
 * so that all agree on K: a site that was silent for the manifest's away_after is entered as AWAY,
 * as BACK once it is heard again, and as LEFT when it says that it goes. A site whose last word was
 * that it goes is not back by a message that was on its way: another process of it must come.
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
 * as what it has not offered by now.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mark.h"
#include "base/memory.h"
#include "coordinator/coordinator_state_internal.h"

/* A site that was told that there is no room comes again after a backoff of at most so long. */
enum { LATE_ROUNDS = 4, COMES_AGAIN_MS = 60000 };

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

/* ---- one process of a site at a time --------------------------------------------------------- */

/* A copy of a site's directory, or of its machine, has the site's key and continues its sequence,
 * and nothing in what it sends tells it from the site. So each process says the number that it drew
 * at its start. The first to come has the site's place; another one is refused for now (HELD), for
 * it may be the same site after a crash, whose last connection is not known to be dead yet. It gets
 * the place once that is gone. If the holder, asked with its next heartbeat, answers, then both are
 * alive: the one that came to a place that was taken is cut for good (COPY). The first one stays
 * because the ledger continues what it holds: what it has under way, its error feedback and its
 * base; a copy is as old as the moment it was made. */
enum { PLACE_MS = 5000, CHALLENGE_MS = 60000 };

static struct followed *followed_by(struct coordinator_state *state, uint64_t call) {
    for (size_t i = 0; i < state->followed_count; i++) {
        if (state->followed[i].call == call) return &state->followed[i];
    }
    return NULL;
}

static void follow(struct coordinator_state *state, struct presence *presence, uint64_t call,
                   uint32_t site) {
    if (state->followed_count == state->followed_capacity) {
        state->followed_capacity = state->followed_capacity ? state->followed_capacity * 2 : 16;
        state->followed =
            xrealloc(state->followed, state->followed_capacity * sizeof state->followed[0]);
    }
    state->followed[state->followed_count++] = (struct followed){call, site};
    presence->following++;
}

static void unfollow(struct coordinator_state *state, struct followed *one) {
    struct presence *presence = presence_of(state, one->site);
    ASSERT(presence->following > 0);
    presence->following--;
    *one = state->followed[--state->followed_count];
}

/* Streams of the process that had it count no more, whatever ends them. */
static void give_place(struct coordinator_state *state, uint32_t site, uint64_t instance) {
    struct presence *presence = presence_of(state, site);
    for (size_t i = state->followed_count; i-- > 0;) {
        if (state->followed[i].site == site) unfollow(state, &state->followed[i]);
    }
    presence->held = true;
    presence->is_restored = false;
    presence->is_leaving = false;
    presence->own_sequence = 0;
    presence->holder = instance;
    presence->challenger = 0;
    presence->is_decided = false;
    presence->timed = 0; /* its steps count from its first contributions on */
}

enum refusal presence_take_place(struct coordinator_state *state, uint32_t site, uint64_t instance,
                                 struct instant now) {
    struct presence *presence = presence_of(state, site);
    if (!presence) return REFUSED_UNKNOWN_SITE;
    if (run_state_site(state->run, site)->revoked) return REFUSED_REVOKED;
    if (!presence->held) give_place(state, site, instance);
    invariants_check_place(presence);
    if (presence->holder == instance) return ACCEPTED;
    bool known = presence->challenger == instance;
    if (known && presence->is_decided) return REFUSED_COPY;
    /* A link that breaks for a moment is not an end: who was refused once waits for longer. */
    uint64_t quiet = now.monotonic_ms - MAX(presence->left_ms, presence->heard_ms);
    if (presence->following == 0 && (!known || quiet >= PLACE_MS)) {
        MARK("place: another process of the site takes it");
        give_place(state, site, instance);
        return ACCEPTED;
    }
    if (!known &&
        (presence->challenger == 0 || now.monotonic_ms - presence->challenged_ms >= CHALLENGE_MS)) {
        MARK("place: another process of the site asks for it");
        presence->challenger = instance;
        presence->challenged_ms = now.monotonic_ms;
        presence->is_decided = false;
        presence->turn++;
    }
    return REFUSED_HELD;
}

bool coordinator_state_has_place(const struct coordinator_state *state, uint32_t site,
                                 uint64_t instance) {
    if (site == 0 || site > state->presence_count) return false;
    return state->presence[site - 1].held && state->presence[site - 1].holder == instance;
}

uint32_t coordinator_state_copies(const struct coordinator_state *state, uint32_t site,
                                  struct instant now, uint64_t *ms_ago) {
    if (site == 0 || site > state->presence_count) return 0;
    const struct presence *presence = &state->presence[site - 1];
    *ms_ago = presence->copies ? now.monotonic_ms - presence->copy_ms : 0;
    return presence->copies;
}

/* ---- how fast -------------------------------------------------------------------------------- */

/* Milliseconds in which the site could train. */
static uint64_t trained_ms(const struct coordinator_state *state, const struct presence *presence,
                           struct instant now) {
    uint64_t waited = presence->waited_ms;
    if (presence->is_waiting) waited += presence_active_ms(state, now) - presence->waiting_since_ms;
    return presence_active_ms(state, now) - waited;
}

void presence_offered(struct coordinator_state *state, const struct contribution *contribution,
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

void presence_turned_away(struct coordinator_state *state, uint32_t site) {
    struct presence *presence = presence_of(state, site);
    if (presence) presence->turned_away = true;
}

/* A contribution carries all steps since the fragment's last one: they took the time in which the
 * site trained between the two. All fragments come once a round. */
void presence_accepted(struct coordinator_state *state, const struct contribution *contribution) {
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

void presence_merged(struct coordinator_state *state, struct instant now) {
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

static double share_of(const struct coordinator_state *state, uint32_t site, struct instant now) {
    return dylu_share(state->presence[site - 1].share, rate_of(state, site, now),
                      fastest_rate(state, now));
}

uint32_t coordinator_state_inner_steps(const struct coordinator_state *state, uint32_t site,
                                       struct instant now) {
    uint32_t inner_steps = run_state_inner_steps(state->run);
    if (!run_state_manifest(state->run)->inner.dylu || site == 0 || site > state->presence_count)
        return inner_steps;
    uint32_t scaled = dylu_steps(inner_steps, share_of(state, site, now));
    if (scaled < inner_steps) MARK("speed: fewer inner steps for a slower site");
    return scaled;
}

/* What a site has under way is not held against it: its idle time begins anew. */
static void note_idle(struct coordinator_state *state, struct instant now) {
    for (uint32_t site = 1; site <= state->presence_count; site++) {
        struct presence *presence = &state->presence[site - 1];
        if (presence->uploading > 0 || run_state_site_pending(state->run, site))
            presence->idle_ms = presence_active_ms(state, now);
    }
}

/* ---- what it tells --------------------------------------------------------------------------- */

/* One process more is cut; the message is the caller's to write. */
static struct coordinator_action *count_copy(struct presence *presence, uint32_t site,
                                             struct instant now, struct coordinator_actions *out) {
    presence->copies++;
    presence->copy_ms = now.monotonic_ms;
    struct coordinator_action *action = state_act(out, DO_COPY, 0);
    action->site = site;
    action->copies = presence->copies;
    return action;
}

static void decide(struct coordinator_state *state, uint32_t site, struct presence *presence,
                   struct instant now, struct coordinator_actions *out) {
    ASSERT(presence->held && presence->challenger != 0 && !presence->is_decided);
    presence->is_decided = true;
    struct coordinator_action *action = count_copy(presence, site, now, out);
    snprintf(
        action->message, sizeof action->message,
        "site %.32s runs twice: process %016llx was there first and stays, process %016llx is cut",
        run_state_site(state->run, site)->name, (unsigned long long)presence->holder,
        (unsigned long long)presence->challenger);
}

void presence_heartbeat(struct coordinator_state *state, const struct coordinator_event *event,
                        struct instant now, struct coordinator_actions *out) {
    uint32_t site = event->heartbeat.site;
    struct presence *presence = presence_of(state, site);
    enum refusal code = presence_take_place(state, site, event->heartbeat.instance, now);
    if (code == ACCEPTED) {
        presence_hear(state, site, now);
        presence->beats = true;
        if (event->heartbeat.leaving && !presence->is_leaving)
            presence->is_leaving = state->presence_changed = true;
        note_clock(presence, event->heartbeat.time_ms, now);
        if (presence->challenger && !presence->is_decided &&
            event->heartbeat.turn == presence->turn)
            decide(state, site, presence, now, out);
    }
    note_idle(state, now);
    struct coordinator_action *action = state_act(out, DO_HEARTBEAT_REPLY, event->call);
    action->site = site;
    action->code = code;
    if (code != ACCEPTED)
        snprintf(action->message, sizeof action->message, "%s", refusal_advice(code));
    action->inner_steps = coordinator_state_inner_steps(state, site, now);
    if (presence && code == ACCEPTED) presence->share = share_of(state, site, now);
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

/* A process that lacks contributions which the ledger has under its name did not make them: a
 * message is in a site's journal before any of it is sent, so a site that only crashed has all of
 * them. Somebody else did, with the same key, or this one was set back to a time before them.
 * Nothing here tells the one from the other, and to go on would merge the same work twice; so it is
 * cut, both are named, and a person who knows that there is no other one says so (`restored`). */
static void cut_behind(struct coordinator_state *state, uint32_t site, uint64_t instance,
                       uint64_t first, struct instant now, struct coordinator_actions *out) {
    struct presence *presence = presence_of(state, site);
    if (presence->behind != instance || instance == 0) {
        const struct run_site *enrolled = run_state_site(state->run, site);
        presence->behind = instance;
        struct coordinator_action *action = count_copy(presence, site, now, out);
        snprintf(action->message, sizeof action->message,
                 "site %.32s came back without its contributions %llu to %llu: a copy of it has "
                 "run, or it is from an old backup. "
                 "It is cut",
                 enrolled->name, (unsigned long long)first,
                 (unsigned long long)enrolled->last_sequence);
    }
    if (presence->holder != instance || presence->following > 0) return;
    presence->held = false; /* who comes next may have all */
    presence->heard = false;
    presence->challenger = 0;
    presence->is_decided = false;
}

void presence_behind_message(const struct coordinator_state *state, uint32_t site, uint64_t first,
                             char *out, size_t size) {
    snprintf(out, size,
             "contributions %llu to %llu of this site were made elsewhere: a copy ran, or this is "
             "an old backup. If there is no copy: "
             "run once with --restored",
             (unsigned long long)first,
             (unsigned long long)run_state_site(state->run, site)->last_sequence);
}

enum refusal presence_judge_sequence(struct coordinator_state *state,
                                     const struct contribution *contribution, uint64_t instance,
                                     struct instant now, struct coordinator_actions *out) {
    uint64_t index;
    struct presence *presence = presence_of(state, contribution->site);
    if (!presence || presence->is_restored ||
        !run_state_find(state->run, contribution->site, contribution->sequence, &index))
        return REFUSED_SEQUENCE;
    if (presence->following == 0 &&
        instance != 0) { /* its Follow request says more: perhaps that a person knows */
        MARK("place: another contribution of a number that the ledger has, before it follows");
        return REFUSED_HELD;
    }
    cut_behind(state, contribution->site, instance, contribution->sequence, now, out);
    return REFUSED_COPY;
}

static void refuse_to_follow(const struct coordinator_event *event, enum refusal code,
                             struct coordinator_actions *out) {
    struct coordinator_action *action = state_act(out, DO_END, event->call);
    action->site = event->following.site;
    action->code = code;
    snprintf(action->message, sizeof action->message, "%s", refusal_advice(code));
}

static void open_follow(struct coordinator_state *state, const struct coordinator_event *event,
                        struct instant now, struct coordinator_actions *out) {
    uint32_t site = event->following.site;
    enum refusal code = presence_take_place(state, site, event->following.instance, now);
    if (code != ACCEPTED) {
        refuse_to_follow(event, code, out);
        return;
    }
    struct presence *presence = presence_of(state, site);
    uint64_t made_plus_1 = event->following.made_plus_1,
             last = run_state_site(state->run, site)->last_sequence;
    presence->is_restored |= event->following.restored;
    if (made_plus_1 > 0 && MAX(made_plus_1 - 1, presence->own_sequence) < last &&
        !presence->is_restored) {
        cut_behind(state, site, event->following.instance, made_plus_1, now, out);
        struct coordinator_action *action = state_act(out, DO_END, event->call);
        action->site = site;
        action->code = REFUSED_COPY;
        presence_behind_message(state, site, made_plus_1, action->message, sizeof action->message);
        return;
    }
    if (!followed_by(state, event->call)) follow(state, presence, event->call, site);
    invariants_check_place(presence);
    presence_hear(state, site, now);
}

/* One that was refused, or whose process has lost the place since, is not among them. */
static void close_follow(struct coordinator_state *state, const struct coordinator_event *event,
                         struct instant now) {
    struct followed *one = followed_by(state, event->call);
    if (!one) {
        MARK("place: a stream that was refused ends");
        return;
    }
    uint32_t site = one->site;
    struct presence *presence = presence_of(state, site);
    unfollow(state, one);
    if (presence->following == 0) presence->left_ms = now.monotonic_ms;
    invariants_check_place(presence);
    presence_hear(state, site, now);
}

void presence_following(struct coordinator_state *state, const struct coordinator_event *event,
                        struct instant now, struct coordinator_actions *out) {
    if (event->following.open)
        open_follow(state, event, now, out);
    else
        close_follow(state, event, now);
}
