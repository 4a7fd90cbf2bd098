/* Payloads that the ledger names and the disk has lost: who is asked for them, what comes of it,
 * and when one is given up.
 *
 * A lost payload is content by digest, so anybody who has it can bring it, and nothing else about
 * who brings it matters. While it is missing, the fragment whose step needs it waits; everything
 * else goes on.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mark.h"
#include "base/memory.h"
#include "coordinator/coordinator_state_internal.h"

enum {
    OTHERS_AFTER_MS = 5000, /* the contributor has it for sure while it waits to be merged: others
                               are asked later */
    AGAIN_MS =
        60000 /* a person may put back what no site has: then the disk has it, and nobody says so */
};

static bool is_pending(const struct coordinator_state *state, const struct lost_payload *payload) {
    uint32_t fragment = payload->contribution.fragment,
             count = run_state_pending_count(state->run, fragment);
    for (uint32_t at = 0; at < count; at++) {
        if (run_state_pending(state->run, fragment, at)->index == payload->index) return true;
    }
    return false;
}

static void forget(struct coordinator_state *state, struct lost *lost) {
    *lost = state->lost[--state->lost_count];
}

void lost_missing(struct coordinator_state *state, const struct coordinator_event *event,
                  struct instant now) {
    for (size_t i = 0; i < event->applied.lost_count; i++) {
        const struct lost_payload *payload = &event->applied.lost[i];
        bool known = false;
        for (size_t j = 0; j < state->lost_count; j++)
            known |= state->lost[j].payload.index == payload->index;
        if (known || payload->index >= run_state_size(state->run) ||
            run_state_dropped(state->run, payload->index))
            continue;
        MARK("lost: a payload is asked for");
        state->lost = xrealloc(state->lost, (state->lost_count + 1) * sizeof *state->lost);
        state->lost[state->lost_count++] = (struct lost){.payload = *payload,
                                                         .merged = !is_pending(state, payload),
                                                         .since_ms = now.monotonic_ms};
    }
}

static void drop(struct coordinator_state *state, const struct lost_payload *payload,
                 struct instant now, struct coordinator_actions *out) {
    ASSERT(!state->applying && is_pending(state, payload));
    struct ledger_entry entry = state_entry(state, LEDGER_DROPPED, now);
    entry.dropped.index = payload->index;
    snprintf(entry.dropped.reason, sizeof entry.dropped.reason,
             "its payload is lost, and no site could supply it");
    MARK("lost: given up");
    state_append(state, &entry, ANSWER_NOBODY, 0, out);
}

uint64_t lost_age(struct coordinator_state *state, struct instant now, uint64_t wake,
                  struct coordinator_actions *out) {
    for (size_t i = state->lost_count; i-- > 0;) {
        struct lost *lost = &state->lost[i];
        if (lost->merged) continue;
        if (!is_pending(state, &lost->payload)) { /* a revocation has dropped it */
            forget(state, lost);
            continue;
        }
        uint64_t end = state->options.lost_ms > UINT64_MAX - lost->since_ms
                           ? UINT64_MAX
                           : lost->since_ms + state->options.lost_ms;
        if (now.monotonic_ms < end || lost->call) {
            if (!lost->call) wake = MIN(wake, end);
            continue;
        }
        struct lost_payload payload = lost->payload;
        forget(state, lost);
        drop(state, &payload, now, out);
    }
    return wake;
}

bool lost_holds(const struct coordinator_state *state, uint32_t fragment) {
    for (size_t i = 0; i < state->lost_count; i++) {
        if (!state->lost[i].merged && state->lost[i].payload.contribution.fragment == fragment)
            return true;
    }
    return false;
}

void lost_ask(const struct coordinator_state *state, uint32_t site, struct instant now,
              struct coordinator_action *reply) {
    for (size_t i = 0; i < state->lost_count && reply->wanted_count < WANTED_LIMIT; i++) {
        const struct lost *lost = &state->lost[i];
        bool own = lost->payload.contribution.site == site;
        if (lost->call || (!own && now.monotonic_ms - lost->since_ms < OTHERS_AFTER_MS)) continue;
        reply->wanted[reply->wanted_count++] = lost->payload.index;
    }
}

/* ---- it is brought --------------------------------------------------------------------------- */

static struct lost *lost_like(struct coordinator_state *state,
                              const struct contribution *contribution) {
    for (size_t i = 0; i < state->lost_count; i++) {
        const struct contribution *wanted = &state->lost[i].payload.contribution;
        if (wanted->payload_size == contribution->payload_size &&
            memcmp(wanted->payload_digest, contribution->payload_digest, DIGEST_SIZE) == 0)
            return &state->lost[i];
    }
    return NULL;
}

static void thank(struct coordinator_state *state, uint64_t call, const char *message,
                  struct coordinator_actions *out) {
    struct coordinator_action *action = state_act(out, DO_REFUSE, call);
    action->code = REFUSED_DUPLICATE;
    action->supply = true;
    action->current_version = run_state_version(state->run);
    snprintf(action->message, sizeof action->message, "%s", message);
}

void lost_supply_open(struct coordinator_state *state, const struct coordinator_event *event,
                      struct instant now, struct coordinator_actions *out) {
    uint32_t site = event->submit.site;
    struct contribution contribution;
    struct error why = {0};
    enum refusal code = places_take(state, site, event->submit.instance, now);
    if (code == ACCEPTED &&
        contribution_decode(bytes_of(event->submit.header, CONTRIBUTION_HEADER_SIZE), &contribution,
                            &why) != OK)
        code = REFUSED_MALFORMED;
    if (code != ACCEPTED) {
        uploads_refuse(state, event->call, code, why.message, out);
        return;
    }
    presence_hear(state, site, now);
    struct lost *lost = lost_like(state, &contribution);
    if (!lost) {
        thank(state, event->call, "it is here", out);
        return;
    }
    if (lost->call && lost->supplier != site) {
        uploads_refuse(state, event->call, REFUSED_BUSY, "another site is bringing it", out);
        return;
    }
    if (lost->call) state_act(out, DO_DROP, lost->call);
    ASSERT(event->call != 0);
    lost->call = event->call;
    lost->supplier = site;
    struct coordinator_action *action = state_act(out, DO_ADMIT, event->call);
    action->contribution = lost->payload.contribution;
    action->supply = true;
}

static struct lost *lost_by_call(struct coordinator_state *state, uint64_t call) {
    for (size_t i = 0; i < state->lost_count && call; i++) {
        if (state->lost[i].call == call) return &state->lost[i];
    }
    return NULL;
}

static bool any_merged(const struct coordinator_state *state) {
    for (size_t i = 0; i < state->lost_count; i++) {
        if (state->lost[i].merged) return true;
    }
    return false;
}

/* It is there again, and entries name it, whatever becomes of the transfer that brought it. */
static void found(struct coordinator_state *state, const struct contribution *contribution,
                  struct coordinator_actions *out) {
    state_act(out, DO_KEEP, 0)->contribution = *contribution;
    for (struct lost *same; (same = lost_like(state, contribution)) != NULL;) forget(state, same);
}

/* Entries may share bytes. Who brings them now is told when it has. */
void lost_found(struct coordinator_state *state, const struct contribution *contribution,
                struct coordinator_actions *out) {
    struct lost *lost = lost_like(state, contribution);
    if (!lost || lost->call) return;
    found(state, contribution, out);
    if (state->behind && !any_merged(state)) lost_catch_up(state, out);
}

bool lost_supply_uploaded(struct coordinator_state *state, const struct coordinator_event *event,
                          struct coordinator_actions *out) {
    struct lost *lost = lost_by_call(state, event->call);
    if (!lost) return false;
    lost->call = 0;
    if (event->uploaded.code != ACCEPTED) {
        uploads_refuse(state, event->call, event->uploaded.code, event->uploaded.message, out);
        return true;
    }
    MARK("lost: obtained again");
    struct contribution contribution = lost->payload.contribution;
    found(state, &contribution, out); /* entries may share bytes */
    thank(state, event->call, "thank you", out);
    if (state->behind && !any_merged(state)) lost_catch_up(state, out);
    return true;
}

bool lost_supply_gone(struct coordinator_state *state, uint64_t call) {
    struct lost *lost = lost_by_call(state, call);
    if (lost) lost->call = 0;
    return lost != NULL;
}

/* ---- the model of a restart ------------------------------------------------------------------ */

void lost_catch_up(struct coordinator_state *state, struct coordinator_actions *out) {
    if (state->catching_up) return;
    ASSERT(state->behind && !state->applying);
    state->catching_up = true;
    state_act(out, DO_CATCH_UP, 0);
}

void lost_catch_up_again(struct coordinator_state *state, struct instant now,
                         struct coordinator_actions *out) {
    if (state->catching_up) return;
    uint64_t at = state->behind_ms + AGAIN_MS;
    if (now.monotonic_ms >= at) {
        lost_catch_up(state, out);
    } else if (state->timer_ms != at) {
        state->timer_ms = at;
        state_act(out, DO_TIMER, 0)->at_ms = at;
    }
}

void lost_caught_up(struct coordinator_state *state, const struct coordinator_event *event,
                    struct instant now, struct coordinator_actions *out) {
    state->catching_up = false;
    state->behind_ms = now.monotonic_ms;
    lost_missing(state, event, now);
    if (event->applied.lost_count > 0) return;
    if (event->applied.status != OK || event->applied.version != run_state_version(state->run)) {
        state_stop(state, out, event->applied.status == CORRUPT || event->applied.status == INVALID,
                   "the model cannot be restored: %s",
                   event->applied.message ? event->applied.message
                                          : status_name(event->applied.status));
        return;
    }
    state->behind = false;
    for (size_t i = state->lost_count; i-- > 0;) /* a follower that lacks it tells */
        if (state->lost[i].merged && !state->lost[i].call) forget(state, &state->lost[i]);
}

size_t coordinator_state_lost(const struct coordinator_state *state, uint64_t *index) {
    if (state->lost_count > 0) *index = state->lost[0].payload.index;
    return state->lost_count;
}

bool coordinator_state_asks_for(const struct coordinator_state *state,
                                const uint8_t digest[static DIGEST_SIZE]) {
    for (size_t i = 0; i < state->lost_count; i++) {
        if (digest_equal(state->lost[i].payload.contribution.payload_digest, digest)) return true;
    }
    return false;
}

bool coordinator_state_has_model(const struct coordinator_state *state) { return !state->behind; }
