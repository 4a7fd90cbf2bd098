/* The coordinator's core: the next entry of the ledger, and the order of events.
 * coordinator_state_internal.h tells how its files work together. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mark.h"
#include "base/memory.h"
#include "coordinator/coordinator_state_internal.h"

struct coordinator_action *state_act(struct coordinator_actions *out,
                                     enum coordinator_action_kind kind, uint64_t call) {
    if (out->count == out->capacity) {
        out->capacity = out->capacity ? out->capacity * 2 : 8;
        out->items = xrealloc(out->items, out->capacity * sizeof out->items[0]);
    }
    struct coordinator_action *action = &out->items[out->count++];
    memset(action, 0, sizeof *action);
    action->kind = kind;
    action->call = call;
    return action;
}

void state_stop(struct coordinator_state *state, struct coordinator_actions *out, bool halt,
                const char *format, ...) {
    if (state->stopping) return;
    state->stopping = true;
    struct coordinator_action *action = state_act(out, DO_STOP, 0);
    action->halt = halt;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(action->message, sizeof action->message, format, arguments);
    va_end(arguments);
}
/* ---- writing the ledger ---------------------------------------------------------------------- */

struct ledger_entry state_entry(const struct coordinator_state *state, enum ledger_kind kind,
                                struct instant now) {
    struct ledger_entry entry;
    memset(&entry, 0, sizeof entry);
    entry.kind = kind;
    entry.epoch = run_state_epoch(state->run);
    entry.time_ms = now.wall_ms;
    return entry;
}

/* Makes the entry the ledger's next, if the rules of the ledger allow it; else NULL, with the rule
 * in *error, and nothing has changed. The result is valid until the next append. */
struct commit *state_append_if_legal(struct coordinator_state *state,
                                     const struct ledger_entry *entry, enum answer answer,
                                     uint64_t call, struct coordinator_actions *out,
                                     struct error *error) {
    struct buffer raw = {0};
    ledger_entry_encode(entry, &raw);
    uint64_t index = run_state_size(state->run);
    if (run_state_apply(state->run, buffer_bytes(&raw), true, error) != OK) {
        buffer_deinit(&raw);
        return NULL;
    }
    struct coordinator_action *action = state_act(out, DO_COMMIT, 0);
    action->commit = state->next_commit++;
    action->first_index = index;
    buffer_u32(&action->bytes, (uint32_t)raw.size);
    buffer_append(&action->bytes, raw.data, raw.size);
    buffer_deinit(&raw);

    if (state->commit_count == state->commit_capacity) {
        state->commit_capacity = state->commit_capacity ? state->commit_capacity * 2 : 16;
        state->commits =
            xrealloc(state->commits, state->commit_capacity * sizeof state->commits[0]);
    }
    struct commit *commit = &state->commits[state->commit_count++];
    memset(commit, 0, sizeof *commit);
    commit->number = action->commit;
    commit->end = index + 1;
    commit->answer = answer;
    commit->call = call;
    commit->entry_time_ms = entry->time_ms;
    return commit;
}

/* The same for what this program decided by itself or has checked: a refusal means that it is
 * wrong, and it stops rather than go on from there. NULL then. */
struct commit *state_append(struct coordinator_state *state, const struct ledger_entry *entry,
                            enum answer answer, uint64_t call, struct coordinator_actions *out) {
    struct error error = {0};
    struct commit *commit = state_append_if_legal(state, entry, answer, call, out, &error);
    if (!commit)
        state_stop(state, out, true, "an own %s entry breaks a rule: %.120s",
                   ledger_kind_name(entry->kind), error.message);
    return commit;
}

void state_sign_receipt(const struct coordinator_state *state, const struct run_site *site,
                        uint64_t size, struct buffer *out) {
    struct receipt receipt = {.epoch = run_state_epoch(state->run),
                              .site = site->site,
                              .sequence = site->last_sequence,
                              .index = site->last_index,
                              .entry_time_ms = site->last_time_ms,
                              .entry_epoch = site->last_epoch,
                              .size = size};
    ASSERT(receipt.sequence > 0 && receipt.index < size);
    memcpy(receipt.run_id, run_state_run_id(state->run), RUN_ID_SIZE);
    memcpy(receipt.header_digest, site->last_digest, DIGEST_SIZE);
    const struct merkle *tree = run_state_tree(state->run);
    merkle_root(tree, size, receipt.root);
    merkle_prove_inclusion(tree, receipt.index, size, &receipt.proof);
    receipt_sign(&receipt, state->options.key, out);
}

void coordinator_state_head(const struct coordinator_state *state, uint8_t out[static HEAD_SIZE]) {
    struct ledger_head head = {.epoch = run_state_epoch(state->run), .size = state->committed};
    ASSERT(head.size <= run_state_size(state->run));
    memcpy(head.run_id, run_state_run_id(state->run), RUN_ID_SIZE);
    merkle_root(run_state_tree(state->run), head.size, head.root);
    ledger_head_sign(&head, state->options.key, out);
}

/* ---- durable --------------------------------------------------------------------------------- */

static void answer(struct coordinator_state *state, const struct commit *commit,
                   struct coordinator_actions *out) {
    ASSERT(commit->end <= state->committed);
    if (commit->call == 0) return;
    if (commit->answer == ANSWER_RECEIPT) {
        /* At most one contribution of a site is pending a fragment, but the next fragment's may be
         * in the ledger already: the receipt is for this commit's own sequence and index. */
        struct run_site site = *run_state_site(state->run, commit->site);
        site.last_sequence = commit->sequence;
        site.last_index = commit->end - 1;
        site.last_time_ms = commit->entry_time_ms;
        site.last_epoch = run_state_epoch(state->run);
        memcpy(site.last_digest, commit->header_digest, DIGEST_SIZE);
        state_sign_receipt(state, &site, state->committed,
                           &state_act(out, DO_RECEIPT, commit->call)->bytes);
    } else if (commit->answer == ANSWER_JOINED) {
        state_act(out, DO_JOINED, commit->call)->site = commit->site;
    } else if (commit->answer == ANSWER_ADMIN) {
        struct coordinator_action *action = state_act(out, DO_ADMIN_REPLY, commit->call);
        snprintf(action->message, sizeof action->message, "%s", commit->message);
    }
}

static void committed(struct coordinator_state *state, const struct coordinator_event *event,
                      struct coordinator_actions *out) {
    if (event->committed.status != OK) {
        MARK("commit: failed");
        state_stop(state, out, false,
                   "the ledger cannot be written (%s); restart once the cause is gone",
                   status_name(event->committed.status));
        return;
    }
    size_t at = 0; /* they are in order, of their numbers as of their entries */
    while (at < state->commit_count && state->commits[at].number != event->committed.commit) at++;
    if (at == state->commit_count) return;
    size_t count = at + 1;
    ASSERT(state->commits[count - 1].end > state->committed);
    state->committed = state->commits[count - 1].end;
    state_act(out, DO_PUBLISH, 0)->size = state->committed;
    for (size_t i = 0; i < count; i++) answer(state, &state->commits[i], out);
    state->commit_count -= count;
    memmove(state->commits, state->commits + count, state->commit_count * sizeof state->commits[0]);
}

/* The run pauses for its admin once its tokens are spent. It is asked of the ledger after every
 * event and at a start, not told by the contribution that spends the last of them: a crash between
 * that entry and this one would leave a run that goes on, in which every contribution is refused.
 * A pause and not the end: how many tokens there were is what sites told. */
static void pause_if_spent(struct coordinator_state *state, struct instant now,
                           struct coordinator_actions *out) {
    if (!run_state_is_spent(state->run) || run_state_phase(state->run) != RUN_ACTIVE ||
        state->stopping)
        return;
    MARK("run: its token budget is spent");
    struct ledger_entry pause = state_entry(state, LEDGER_PAUSED, now);
    snprintf(pause.note.reason, sizeof pause.note.reason,
             "the token budget of %llu is spent: resume with a larger one, or stop the run",
             (unsigned long long)run_state_token_budget(state->run));
    state_append(state, &pause, ANSWER_NOBODY, 0, out);
}

/* What follows from where things stand. */
static void settle(struct coordinator_state *state, struct instant now,
                   struct coordinator_actions *out) {
    pause_if_spent(state, now, out);
    presence_enter(state, now, out);
    steps_consider(state, now, out);
}

/* ---- life ------------------------------------------------------------------------------------ */

struct coordinator_state *coordinator_state_create(const struct coordinator_options *options,
                                                   struct run_state *run) {
    ASSERT(run_state_has_genesis(run) && options->uploads_limit > 0);
    struct coordinator_state *state = xcalloc(1, sizeof *state);
    state->options = *options;
    state->run = run;
    state->uploads = xcalloc(options->uploads_limit, sizeof state->uploads[0]);
    state->committed = run_state_size(run);
    state->next_commit = 1;
    state->timer_ms = UINT64_MAX;
    state->presence_due_ms = UINT64_MAX;
    return state;
}

void coordinator_state_destroy(struct coordinator_state *state) {
    if (!state) return;
    run_state_destroy(state->run);
    free(state->uploads);
    free(state->commits);
    free(state->presence);
    free(state->followed);
    free(state->deferred);
    free(state->lost);
    free(state);
}

void coordinator_state_start(struct coordinator_state *state, struct instant now,
                             struct coordinator_actions *out) {
    if (state->options.new_epoch) {
        struct ledger_entry entry = state_entry(state, LEDGER_EPOCH, now);
        entry.epoch++;
        if (!state_append(state, &entry, ANSWER_NOBODY, 0, out)) return;
    }
    state->listening_ms = now.monotonic_ms;
    state->presence_changed = true;
    state->behind = state->options.model_behind;
    if (state->behind) lost_catch_up(state, out);
    settle(state, now, out);
    invariants_check(state);
}

void coordinator_state_step(struct coordinator_state *state, const struct coordinator_event *event,
                            struct instant now, struct coordinator_actions *out) {
    if (state->stopping) return;
    presence_note_phase(state, now);
    presence_note_sleep(state, now);
    switch (event->kind) {
    case COORDINATOR_TIMER: state->timer_ms = UINT64_MAX; break;
    case COORDINATOR_SUBMIT_OPEN: uploads_submit_open(state, event, now, out); break;
    case COORDINATOR_UPLOADED: uploads_received(state, event, out); break;
    case COORDINATOR_CHECKED: uploads_checked(state, event, now, out); break;
    case COORDINATOR_CALL_GONE: uploads_call_gone(state, event->call); break;
    case COORDINATOR_COMMITTED: committed(state, event, out); break;
    case COORDINATOR_LOST: lost_missing(state, event, now); break;
    case COORDINATOR_APPLIED:
        steps_applied(state, event, now, out);
        orders_take_deferred(state, now, out);
        break;
    case COORDINATOR_JOIN: orders_join(state, event, now, out); break;
    case COORDINATOR_HEARTBEAT: presence_heartbeat(state, event, now, out); break;
    case COORDINATOR_FOLLOWING: places_following(state, event, now, out); break;
    case COORDINATOR_NO_SNAPSHOT: steps_no_snapshot(state, now, out); break;
    case COORDINATOR_ADMIN: orders_admin(state, event, now, out); break;
    }
    settle(state, now, out);
    presence_note_phase(state, now);
    invariants_check(state);
}

const struct run_state *coordinator_state_run(const struct coordinator_state *state) {
    return state->run;
}
uint64_t coordinator_state_committed(const struct coordinator_state *state) {
    return state->committed;
}
uint32_t coordinator_state_uploads(const struct coordinator_state *state) {
    return (uint32_t)state->upload_count;
}

uint64_t coordinator_state_refused(const struct coordinator_state *state, enum refusal code) {
    return code < REFUSAL_COUNT ? state->refused[code] : 0;
}
