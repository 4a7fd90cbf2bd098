/* The site's core: its life, events, and what follows from where things stand. Its other parts are
 * node_rounds.c, node_link.c and node_ledger.c; the header tells how they work together. */
#include "node/node_state.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mark.h"
#include "base/memory.h"
#include "node/node_state_internal.h"

struct node_action *node_act(struct node_actions *out, enum node_action_kind kind) {
    if (out->count == out->capacity) {
        out->capacity = out->capacity ? out->capacity * 2 : 8;
        out->items = xrealloc(out->items, out->capacity * sizeof out->items[0]);
    }
    struct node_action *action = &out->items[out->count++];
    memset(action, 0, sizeof *action);
    action->kind = kind;
    return action;
}

void node_actions_clear(struct node_actions *actions) {
    for (size_t i = 0; i < actions->count; i++) buffer_deinit(&actions->items[i].bytes);
    actions->count = 0;
}

void node_actions_deinit(struct node_actions *actions) {
    node_actions_clear(actions);
    free(actions->items);
    *actions = (struct node_actions){0};
}

void node_halt(struct node_state *state, struct node_actions *out, const char *format, ...) {
    if (state->halted) return;
    state->halted = true;
    struct node_action *action = node_act(out, NODE_DO_HALT);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(action->message, sizeof action->message, format, arguments);
    va_end(arguments);
}

/* ---- what follows from where things stand ---------------------------------------------------- */

static void set_timer(struct node_state *state, struct node_actions *out) {
    uint64_t wake = UINT64_MAX;
    if (state->link == LINK_DOWN) wake = MIN(wake, state->link_retry_at);
    if (state->link == LINK_UP && !state->heartbeat_open) wake = MIN(wake, state->heartbeat_at);
    wake = MIN(wake, node_messages_wake(state));
    wake = MIN(wake, node_payloads_wake(state));
    if (wake == state->timer || wake == UINT64_MAX) return;
    state->timer = wake;
    node_act(out, NODE_DO_TIMER)->at_ms = wake;
}

/* The run has been stopped, and what of ours is in the ledger has been merged: there is nothing
 * left to do. A message that is not in the ledger by now will be refused, so it is not waited for.
 */
static void finish_if_over(struct node_state *state, struct node_actions *out) {
    if (state->finishing || state->halted || !run_state_has_genesis(state->run)) return;
    if (run_state_phase(state->run) != RUN_STOPPED || state->applying || state->queue_count > 0)
        return;
    for (uint32_t fragment = 0; fragment < state->fragments; fragment++) {
        const struct slot *slot = &state->slots[fragment];
        if (run_state_pending_count(state->run, fragment) > 0) return;
        if (slot->phase == SLOT_SNAPSHOT || slot->phase == SLOT_ENCODING ||
            slot->phase >= SLOT_MERGING || slot->moving) {
            return;
        }
    }
    MARK("site: finishes");
    state->finishing = true;
    node_act(out, NODE_DO_FINISH);
}

static void settle(struct node_state *state, struct instant now, struct node_actions *out) {
    if (!state->started || state->halted) return;
    node_messages_retry(state, now, out);
    node_link_settle(state, now, out);
    node_payloads_settle(state, now, out);
    node_rounds_catch_up(state, out);
    node_rounds_begin(state, out);
    node_rounds_follow(state, out);
    finish_if_over(state, out);
    node_train_or_wait(state, out);
    set_timer(state, out);
}
/* ---- life ------------------------------------------------------------------------------------ */

struct node_state *node_state_create(const struct node_options *options) {
    struct node_state *state = xcalloc(1, sizeof *state);
    state->options = *options;
    state->sequence = options->last_sequence;
    state->payloads_from = options->payloads_from;
    state->lacks_model = options->lacks_model;
    random_init(&state->random, options->seed);
    state->run = run_state_create();
    state->timer = UINT64_MAX;
    state->waiting = NODE_WAIT_START;
    state->until_steps = UINT64_MAX;
    return state;
}

void node_state_destroy(struct node_state *state) {
    if (!state) return;
    for (size_t i = 0; i < state->queue_count; i++)
        buffer_deinit(&state->queue[(state->queue_head + i) % state->queue_capacity]);
    free(state->queue);
    run_state_destroy(state->run);
    free(state);
}

enum status node_state_restore(struct node_state *state, struct bytes entry, struct error *error) {
    ASSERT(!state->started);
    return node_ledger_take(state, entry, true, error);
}

void node_state_resume(struct node_state *state, uint32_t fragment,
                       const struct round_progress *progress) {
    ASSERT(!state->started && fragment < FRAGMENTS_LIMIT);
    struct slot *slot = &state->slots[fragment];
    slot->steps_unsent = progress->steps;
    slot->tokens_unsent = progress->tokens;
    slot->steps_in_flight = progress->steps_in_flight;
    slot->tokens_in_flight = progress->tokens_in_flight;
    slot->loss_sum = progress->loss_sum;
    slot->loss_count = progress->loss_count;
    slot->round_steps = progress->round_steps;
    slot->begun = progress->begun;
    slot->resumed = true;
}

void node_state_start(struct node_state *state, uint64_t replica_version,
                      const struct node_spooled *spooled, size_t spooled_count, struct instant now,
                      struct node_actions *out) {
    state->started = true;
    state->replica_version = replica_version;
    state->link_retry_at = now.monotonic_ms;
    state->catching_up = run_state_size(state->run) == 0;
    state->caught_up_at = UINT64_MAX;
    if (run_state_has_genesis(state->run)) {
        const struct run_site *own = run_state_site(state->run, state->options.site);
        if (own) state->sequence = MAX(state->sequence, own->last_sequence);
        node_rounds_stagger(state);
    }
    for (uint32_t fragment = 0; fragment < FRAGMENTS_LIMIT; fragment++)
        state->slots[fragment].base_version = replica_version;
    for (size_t i = 0; i < spooled_count; i++) node_messages_take_up(state, &spooled[i], now, out);
    settle(state, now, out);
    node_check(state);
}

void node_state_step(struct node_state *state, const struct node_event *event, struct instant now,
                     struct node_actions *out) {
    if (state->halted) return;
    bool knew_run = run_state_has_genesis(state->run);
    switch (event->kind) {
    case NODE_TIMER: state->timer = UINT64_MAX; break;
    case NODE_PROGRESS: node_progress(state, event); break;
    case NODE_SNAPSHOTTED: node_snapshotted(state, event, out); break;
    case NODE_TRAINER_LOST: node_trainer_lost(state); break;
    case NODE_ENCODED: node_encoded(state, event, now, out); break;
    case NODE_UPLOAD_RECEIPT: node_receipt(state, event, now, out); break;
    case NODE_UPLOAD_REFUSED: node_refused(state, event, now, out); break;
    case NODE_UPLOAD_BROKEN: node_upload_broken(state, event, now); break;
    case NODE_LINK_UP:
        node_link_up(state, now);
        node_messages_link_up(state, now);
        break;
    case NODE_LINK_DOWN: node_link_down(state, now); break;
    case NODE_OFFER: node_offer(state, event, now, out); break;
    case NODE_SNAPSHOT_LOADED: node_snapshot_loaded(state, event, now, out); break;
    case NODE_ENTRY: node_ledger_entry(state, event->bytes, out); break;
    case NODE_HEAD: node_ledger_head(state, event->bytes, out); break;
    case NODE_APPLIED: node_ledger_applied(state, event, now, out); break;
    case NODE_REFETCHED: node_refetched(state, event, now, out); break;
    case NODE_SUPPLIED: state->supplying = false; break;
    case NODE_REBASED: node_rebased(state, event, out); break;
    case NODE_HEARTBEAT_REPLY: node_heartbeat_reply(state, event, now, out); break;
    case NODE_LEAVE: state->leaving = true; break;
    case NODE_FAULT:
        node_halt(state, out, "%.200s",
                  event->message ? event->message : status_name(event->status));
        break;
    }
    if (!knew_run && run_state_has_genesis(state->run)) node_rounds_stagger(state);
    settle(state, now, out);
    node_check(state);
}

const struct run_state *node_state_run(const struct node_state *state) { return state->run; }
enum slot_phase node_state_slot(const struct node_state *state, uint32_t fragment) {
    return state->slots[fragment].phase;
}
uint64_t node_state_backlog(const struct node_state *state) { return state->queue_count; }
uint64_t node_state_sequence(const struct node_state *state) { return state->sequence; }
uint32_t node_state_inner_steps(const struct node_state *state) {
    return node_inner_steps_now(state);
}
uint64_t node_state_staleness(const struct node_state *state) { return state->staleness; }
int64_t node_state_round_steps(const struct node_state *state, uint32_t fragment) {
    return fragment < FRAGMENTS_LIMIT ? (int64_t)state->steps - state->slots[fragment].steps_mark
                                      : 0;
}
uint32_t node_state_sites_present(const struct node_state *state) { return state->sites_present; }
bool node_state_linked(const struct node_state *state) { return state->link == LINK_UP; }

uint64_t node_state_refused(const struct node_state *state, enum refusal code) {
    return (unsigned)code < REFUSAL_COUNT ? state->refused[code] : 0;
}
