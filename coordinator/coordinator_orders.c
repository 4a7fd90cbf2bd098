/* Joining, and the admin's orders: what changes who takes part, and whether the run goes on. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mark.h"
#include "base/memory.h"
#include "coordinator/coordinator_state_internal.h"

enum { DEFERRED_LIMIT = 64 };

/* Until the outer step under way is done. False: too much waits for it. */
static bool defer(struct coordinator_state *state, const struct coordinator_event *event) {
    if (state->deferred_count == DEFERRED_LIMIT) return false;
    if (event->kind == COORDINATOR_ADMIN) MARK("order: deferred until a step is done");
    state->deferred = xrealloc(state->deferred, (state->deferred_count + 1) * sizeof *event);
    state->deferred[state->deferred_count++] = *event;
    return true;
}

/* ---- joining --------------------------------------------------------------------------------- */

static void refuse_join(uint64_t call, enum refusal code, const char *message,
                        struct coordinator_actions *out) {
    struct coordinator_action *action = state_act(out, DO_JOINED, call);
    action->code = code;
    snprintf(action->message, sizeof action->message, "%s", message);
}

/* The invitation was used. By the same key: the answer was lost on the way and is said again, but
 * not before the entry is durable, for until then nobody is a member. */
static void join_again(struct coordinator_state *state, const struct coordinator_event *event,
                       const struct run_site *named, struct coordinator_actions *out) {
    if (!named || named->revoked ||
        memcmp(named->public_key, event->join.public_key, PUBLIC_KEY_SIZE) != 0) {
        MARK("join: with another key");
        refuse_join(event->call, REFUSED_DUPLICATE,
                    "the invitation was used already, with another key", out);
        return;
    }
    for (size_t i = 0; i < state->commit_count; i++) {
        if (state->commits[i].answer != ANSWER_JOINED || state->commits[i].site != named->site)
            continue;
        MARK("join: again, before the entry is durable");
        refuse_join(event->call, REFUSED_BUSY, "the site is being enrolled: ask again in a moment",
                    out);
        return;
    }
    MARK("join: again, the answer was lost");
    state_act(out, DO_JOINED, event->call)->site = named->site;
}

/* Nothing but a used invitation is told apart by the key. */
static void refuse_ended(const struct run_invitation *invitation, uint64_t call,
                         struct coordinator_actions *out) {
    MARK("join: with an invitation that holds no more");
    refuse_join(call, REFUSED_REVOKED,
                invitation->end == INVITATION_REPLACED
                    ? "a newer invitation of that name took this one's place: use the newest"
                : invitation->end == INVITATION_WITHDRAWN
                    ? "the admin withdrew this invitation: ask for a new one"
                    : "this invitation ended when a site of its name was enrolled or revoked: ask "
                      "the admin for a new one",
                out);
}

/* By our clock, which need not be right. */
static void refuse_expired(struct coordinator_state *state, const struct run_invitation *invitation,
                           uint64_t call, struct instant now, struct coordinator_actions *out) {
    struct clock_off off;
    char message[160];
    if (coordinator_state_clock_off(state, now, &off) && off.ahead_ms > 0 &&
        now.wall_ms - invitation->expires_ms < (uint64_t)off.ahead_ms) {
        snprintf(message, sizeof message,
                 "the coordinator's clock is %llu s ahead, and only by that has the invitation "
                 "expired: it holds again "
                 "once that clock is set",
                 (unsigned long long)off.ahead_ms / 1000);
        refuse_join(call, REFUSED_EXPIRED, message, out);
        return;
    }
    snprintf(
        message, sizeof message,
        "the invitation expired %llu s ago by the coordinator's clock: ask the admin for a new one",
        (unsigned long long)(now.wall_ms - invitation->expires_ms) / 1000);
    refuse_join(call, REFUSED_EXPIRED, message, out);
}

void orders_join(struct coordinator_state *state, const struct coordinator_event *event,
                 struct instant now, struct coordinator_actions *out) {
    const struct run_invitation *invitation =
        run_state_invitation(state->run, event->join.secret_digest);
    const struct run_site *named = run_state_site_named(state->run, event->join.name);
    if (!invitation || strcmp(invitation->name, event->join.name) != 0) {
        refuse_join(event->call, REFUSED_UNKNOWN_SITE,
                    "no such invitation: ask the admin for a new one (atollctl site invite)", out);
        return;
    }
    if (invitation->end == INVITATION_USED) {
        join_again(state, event, named, out);
        return;
    }
    if (invitation->end != INVITATION_OPEN) {
        refuse_ended(invitation, event->call, out);
        return;
    }
    if (run_state_phase(state->run) == RUN_STOPPED) {
        MARK("join: the run is over");
        refuse_join(event->call, REFUSED_STOPPED, refusal_advice(REFUSED_STOPPED), out);
        return;
    }
    if (invitation->expires_ms && now.wall_ms > invitation->expires_ms) {
        MARK("join: the invitation has expired");
        refuse_expired(state, invitation, event->call, now, out);
        return;
    }
    if (named && !named->revoked) {
        refuse_join(event->call, REFUSED_UNKNOWN_SITE,
                    "a site of that name is enrolled: the admin must revoke it first", out);
        return;
    }
    if (event->join.look) {
        state_act(out, DO_JOINED, event->call)->role = invitation->role;
        return;
    }
    if (state->commit_count >= COMMITS_LIMIT) {
        refuse_join(event->call, REFUSED_BUSY,
                    "more waits for the coordinator's disk than it takes: ask again in a moment",
                    out);
        return;
    }
    if (state->applying) { /* the step's rate follows the number of sites */
        MARK("join: deferred until a step is done");
        if (!defer(state, event))
            refuse_join(event->call, REFUSED_BUSY,
                        "more wait to join than the coordinator takes: ask again in a moment", out);
        return;
    }
    struct ledger_entry entry = state_entry(state, LEDGER_SITE_ADDED, now);
    entry.added.site = run_state_site_count(state->run) + 1;
    memcpy(entry.added.name, event->join.name, SITE_NAME_SIZE);
    memcpy(entry.added.public_key, event->join.public_key, PUBLIC_KEY_SIZE);
    memcpy(entry.added.secret_digest, event->join.secret_digest, DIGEST_SIZE);
    /* What is left are rules about what the peer chose: a key that was enrolled before, a run that
     * is full. */
    struct error error = {0};
    struct commit *commit =
        state_append_if_legal(state, &entry, ANSWER_JOINED, event->call, out, &error);
    if (!commit) {
        refuse_join(event->call, REFUSED_MALFORMED, error.message, out);
        return;
    }
    commit->site = entry.added.site;
    presence_hear(state, entry.added.site, now);
}

/* ---- the admin's orders ---------------------------------------------------------------------- */

/* What the admin is told where an order changes nothing. */
struct objection {
    enum order_outcome outcome;
    const char *reason; /* NULL: there is none */
};

static struct objection conflict(const char *reason) {
    return (struct objection){ORDER_CONFLICT, reason};
}

static struct objection rule_entry(struct coordinator_state *state,
                                   const struct coordinator_event *event, struct instant now,
                                   struct ledger_entry *entry) {
    struct error error = {0};
    struct manifest changed;
    struct buffer value = {0};
    *entry = state_entry(state, LEDGER_RULE, now);
    enum status status = manifest_change(run_state_manifest(state->run), event->admin.key,
                                         event->admin.value, &changed, &value, &error);
    snprintf(entry->rule.key, sizeof entry->rule.key, "%s", event->admin.key);
    snprintf(entry->rule.value, sizeof entry->rule.value, "%.*s", (int)value.size,
             (const char *)value.data);
    bool fits = value.size < sizeof entry->rule.value;
    buffer_deinit(&value);
    memcpy(entry->rule.reason, event->admin.reason, REASON_SIZE);
    snprintf(state->objection, sizeof state->objection, "%s",
             status == OK ? "the value is too long" : error.message);
    return status == OK && fits ? (struct objection){0}
                                : (struct objection){ORDER_BAD_VALUE, state->objection};
}

static struct objection invitation_entry(struct coordinator_state *state,
                                         const struct coordinator_event *event, struct instant now,
                                         struct ledger_entry *entry) {
    const struct run_site *site = run_state_site_named(state->run, event->admin.name);
    if (name_check(event->admin.name, NULL) != OK)
        return (struct objection){
            ORDER_BAD_VALUE,
            "a site's name is 1-32 characters from a-z, 0-9 and '-', starting with a letter"};
    if (site && !site->revoked) return conflict("a site of that name is enrolled: revoke it first");
    if (run_state_phase(state->run) == RUN_STOPPED) return conflict("the run has been stopped");
    if (run_state_site_count(state->run) >= SITES_LIMIT)
        return conflict("the run has as many sites as there can be");
    *entry = state_entry(state, LEDGER_SITE_INVITED, now);
    memcpy(entry->invited.name, event->admin.name, SITE_NAME_SIZE);
    memcpy(entry->invited.secret_digest, event->admin.secret_digest, DIGEST_SIZE);
    entry->invited.expires_ms = event->admin.expires_ms;
    entry->invited.role = event->admin.role;
    return (struct objection){0};
}

static struct objection order_entry(struct coordinator_state *state,
                                    const struct coordinator_event *event, struct instant now,
                                    struct ledger_entry *entry) {
    enum run_phase phase = run_state_phase(state->run);
    const struct run_site *site = run_state_site_named(state->run, event->admin.name);
    switch (event->admin.order) {
    case ORDER_PAUSE:
        if (phase != RUN_ACTIVE)
            return conflict(phase == RUN_PAUSED ? "the run is paused already"
                                                : "the run has been stopped");
        *entry = state_entry(state, LEDGER_PAUSED, now);
        break;
    case ORDER_RESUME:
        if (phase != RUN_PAUSED)
            return conflict(phase == RUN_ACTIVE ? "the run is not paused"
                                                : "the run has been stopped");
        if (run_state_is_spent(state->run) &&
            event->admin.token_budget <= run_state_tokens(state->run))
            return conflict("the run's token budget is spent: resume it with a larger one "
                            "(--token-budget), or stop it");
        *entry = state_entry(state, LEDGER_RESUMED, now);
        entry->note.token_budget = event->admin.token_budget;
        break;
    case ORDER_STOP:
        if (phase == RUN_STOPPED) return conflict("the run has been stopped already");
        *entry = state_entry(state, LEDGER_STOPPED, now);
        break;
    case ORDER_INVITE: return invitation_entry(state, event, now, entry);
    case ORDER_UNINVITE:
        if (!run_state_open_invitation(state->run, event->admin.name))
            return (struct objection){
                ORDER_NO_SUCH_SITE,
                "no invitation of that name is open (atollctl site invitations lists them)"};
        *entry = state_entry(state, LEDGER_SITE_UNINVITED, now);
        memcpy(entry->uninvited.name, event->admin.name, SITE_NAME_SIZE);
        return (struct objection){0};
    case ORDER_REVOKE:
        if (!site)
            return (struct objection){ORDER_NO_SUCH_SITE, "no site of that name was ever enrolled"};
        if (site->revoked) return conflict("the site is revoked already");
        *entry = state_entry(state, LEDGER_SITE_REVOKED, now);
        entry->revoked.site = site->site;
        memcpy(entry->revoked.reason, event->admin.reason, REASON_SIZE);
        return (struct objection){0};
    case ORDER_RULE: return rule_entry(state, event, now, entry);
    default: return (struct objection){ORDER_BAD_VALUE, "there is no such order"};
    }
    memcpy(entry->note.reason, event->admin.reason, REASON_SIZE);
    return (struct objection){0};
}

static void cut_site(struct coordinator_state *state, uint32_t site, const char *reason,
                     struct coordinator_actions *out) {
    for (size_t i = state->upload_count; i-- > 0;) {
        struct admitted *upload = &state->uploads[i];
        if (upload->site != site) continue;
        uploads_refuse(state, upload->call, REFUSED_REVOKED, NULL, out);
        uploads_remove(state, upload);
    }
    struct coordinator_action *action = state_act(out, DO_CUT, 0);
    action->site = site;
    snprintf(action->message, sizeof action->message, "%s", reason);
}

static struct coordinator_action *reply(struct coordinator_actions *out, uint64_t call,
                                        enum order_outcome outcome, const char *message) {
    struct coordinator_action *action = state_act(out, DO_ADMIN_REPLY, call);
    action->outcome = outcome;
    snprintf(action->message, sizeof action->message, "%s", message);
    return action;
}

/* A revocation drops the site's waiting contributions, and one of them may be in the step under
 * way; and what the step's rate follows, the number of sites and H, stays as it is until it is
 * done. */
static void defer_order(struct coordinator_state *state, const struct coordinator_event *event,
                        struct coordinator_actions *out) {
    if (defer(state, event)) return;
    reply(out, event->call, ORDER_BUSY,
          "too many orders wait for the outer step under way: try again in a moment");
}

static void order_snapshot(struct coordinator_state *state, const struct coordinator_event *event,
                           struct coordinator_actions *out) {
    if (state->behind) {
        reply(out, event->call, ORDER_BUSY,
              "the model is being restored: a payload of the ledger was lost and is asked for");
        return;
    }
    uint64_t version = state->applying ? state->step.step.version : run_state_version(state->run);
    if (state->applying) MARK("order: a snapshot after a step");
    if (state->applying)
        state->snapshot_wanted = true;
    else
        steps_snapshot(state, out);
    reply(out, event->call, ORDER_DONE, "a snapshot is being written")->version = version;
}

void orders_admin(struct coordinator_state *state, const struct coordinator_event *event,
                  struct instant now, struct coordinator_actions *out) {
    if (state->applying &&
        (event->admin.order == ORDER_REVOKE || event->admin.order == ORDER_RULE)) {
        defer_order(state, event, out);
        return;
    }
    if (event->admin.order == ORDER_SNAPSHOT) {
        order_snapshot(state, event, out);
        return;
    }
    if (state->commit_count >=
        COMMITS_LIMIT + (event->admin.order == ORDER_INVITE ? 0 : COMMITS_RESERVED)) {
        reply(out, event->call, ORDER_BUSY,
              "more waits for the coordinator's disk than it takes: ask again in a moment");
        return;
    }
    struct ledger_entry entry;
    struct error error = {0};
    struct commit *commit = NULL;
    struct objection objection = order_entry(state, event, now, &entry);
    if (!objection.reason) {
        commit = state_append_if_legal(state, &entry, ANSWER_ADMIN, event->call, out, &error);
        /* by a rule of the ledger */
        if (!commit) objection = (struct objection){ORDER_BAD_VALUE, error.message};
    }
    if (!commit) {
        reply(out, event->call, objection.outcome, objection.reason);
        return;
    }
    snprintf(commit->message, sizeof commit->message, "%s", ledger_kind_name(entry.kind));
    if (entry.kind == LEDGER_SITE_REVOKED)
        cut_site(state, entry.revoked.site, entry.revoked.reason, out);
}

void orders_take_deferred(struct coordinator_state *state, struct instant now,
                          struct coordinator_actions *out) {
    size_t count = state->deferred_count;
    state->deferred_count = 0;
    for (size_t i = 0; i < count && !state->stopping; i++)
        if (state->deferred[i].kind == COORDINATOR_JOIN)
            orders_join(state, &state->deferred[i], now, out);
        else
            orders_admin(state, &state->deferred[i], now, out);
}
