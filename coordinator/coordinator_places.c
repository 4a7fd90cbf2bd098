/* One process of a site at a time: who has its place, and who is cut.
 *
 * A copy of a site's directory, or of its machine, has the site's key and continues its sequence,
 * and nothing in what it sends tells it from the site. So each process says the number that it drew
 * at its start. The first to come has the site's place; another one is refused for now (HELD), for
 * it may be the same site after a crash, whose last connection is not known to be dead yet. It gets
 * the place once that is gone. If the holder, asked with its next heartbeat, answers, then both are
 * alive: the one that came to a place that was taken is cut for good (COPY). The first one stays
 * because the ledger continues what it holds: what it has under way, its error feedback and its
 * base; a copy is as old as the moment it was made. */
#include <stdio.h>

#include "base/mark.h"
#include "base/memory.h"
#include "coordinator/coordinator_state_internal.h"

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

enum refusal places_take(struct coordinator_state *state, uint32_t site, uint64_t instance,
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

void places_decide(struct coordinator_state *state, uint32_t site, struct presence *presence,
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

void places_behind_message(const struct coordinator_state *state, uint32_t site, uint64_t first,
                           char *out, size_t size) {
    snprintf(out, size,
             "contributions %llu to %llu of this site were made elsewhere: a copy ran, or this is "
             "an old backup. If there is no copy: "
             "run once with --restored",
             (unsigned long long)first,
             (unsigned long long)run_state_site(state->run, site)->last_sequence);
}

enum refusal places_judge_sequence(struct coordinator_state *state,
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
    enum refusal code = places_take(state, site, event->following.instance, now);
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
        places_behind_message(state, site, made_plus_1, action->message, sizeof action->message);
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

void places_following(struct coordinator_state *state, const struct coordinator_event *event,
                      struct instant now, struct coordinator_actions *out) {
    if (event->following.open)
        open_follow(state, event, now, out);
    else
        close_follow(state, event, now);
}
