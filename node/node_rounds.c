/* The site's rounds: a slot per fragment, from snapshot to rebase, and when training goes on.
 * node_messages.c has what happens to a message between the two; node_state.c decides when these
 * are asked. */
#include <math.h>
#include <string.h>

#include "base/mark.h"
#include "base/memory.h"
#include "node/node_state_internal.h"

uint32_t node_inner_steps_now(const struct node_state *state) {
    uint32_t group = run_state_inner_steps(state->run);
    return state->inner_steps ? MIN(state->inner_steps, group) : group;
}

/* Rounds of several fragments end one after another, not all at once: fragment f is due (f + 1) / F
 * of a round in, rounded up: due at once it would have nothing to send, and with overlap off the
 * trainer would never get to its first step. */
void node_rounds_stagger(struct node_state *state) {
    int64_t round = node_inner_steps_now(state), count = state->fragments;
    for (int64_t fragment = 0; fragment < count; fragment++) {
        struct slot *slot = &state->slots[fragment];
        slot->steps_mark =
            (int64_t)state->steps + (round * (fragment + 1) + count - 1) / count - round;
        if (!slot->resumed) continue;
        MARK("restart: a round goes on");
        if (slot->begun) slot->steps_mark = (int64_t)state->steps;
        slot->steps_mark -= (int64_t)slot->round_steps;
    }
}

/* Also, our own entry must have come: a restart in the middle of the first catch-up has less than
 * that, and a header could name neither our key nor our last contribution. */
static bool run_takes_contributions(const struct node_state *state) {
    return state->started && !state->halted && run_state_has_genesis(state->run) &&
           run_state_phase(state->run) == RUN_ACTIVE &&
           run_state_site(state->run, state->options.site);
}

/* A message of ours that is not in the ledger yet: the next one must name it as its predecessor, so
 * it waits. */
static bool message_under_way(const struct node_state *state) {
    for (uint32_t fragment = 0; fragment < state->fragments; fragment++) {
        const struct slot *slot = &state->slots[fragment];
        if (slot->phase == SLOT_SNAPSHOT || slot->phase == SLOT_ENCODING ||
            (slot->encoded && !slot->in_ledger))
            return true;
    }
    return false;
}

/* What was accepted is in the ledger, and merged without us. */
bool node_rounds_drained(const struct node_state *state) {
    if (!state->started || state->supplying || state->wanted_next < state->wanted_count)
        return false;
    for (uint32_t fragment = 0; fragment < state->fragments; fragment++) {
        enum slot_phase phase = state->slots[fragment].phase;
        /* a paused run takes nothing: it is in the spool, and goes at the next start */
        if (phase == SLOT_BACKOFF && run_state_phase(state->run) == RUN_PAUSED) continue;
        if (phase != SLOT_TRAINING && phase != SLOT_ACCEPTED) return false;
    }
    return true;
}

/* What was to be sent stays in the residual: the next contribution carries it, and counts it. */
void node_slot_give_back(struct slot *slot) {
    slot->steps_unsent += slot->steps_in_flight;
    slot->tokens_unsent += slot->tokens_in_flight;
    slot->steps_in_flight = 0;
    slot->tokens_in_flight = 0;
}

/* Worker and trainer share a fragment's vectors, so one order at a time moves them. */
static void order_move(struct node_state *state, uint32_t fragment, enum node_action_kind kind,
                       struct node_actions *out) {
    struct slot *slot = &state->slots[fragment];
    if (slot->moving) {
        MARK("slot: an order waits until the base has moved");
        slot->owed = kind;
        return;
    }
    slot->moving = true;
    if (kind == NODE_DO_RESTORE) node_slot_give_back(slot);
    struct node_action *action = node_act(out, kind);
    action->fragment = fragment;
    if (kind != NODE_DO_ADVANCE) action->sequence = slot->sequence;
}

/* ---- following ------------------------------------------------------------------------------- */

/* The base may go forward: nobody reads it for a delta, and no other order moves it. */
static bool may_advance(const struct slot *slot) {
    return !slot->moving && !slot->baseless &&
           (slot->phase == SLOT_TRAINING || slot->phase == SLOT_UPLOADING ||
            slot->phase == SLOT_BACKOFF || slot->phase == SLOT_ACCEPTED);
}

static void advance(struct node_state *state, uint32_t fragment, struct node_actions *out) {
    MARK("slot: follows");
    if (state->slots[fragment].encoded) MARK("slot: follows with a message in flight");
    order_move(state, fragment, NODE_DO_ADVANCE, out);
}

/* The worker stands where the run state stands: what is staged now has no part of ours that the
 * slots do not know of. */
static bool replica_is_known(const struct node_state *state) {
    bool applies = state->applying && !state->lost;
    return !applies && state->link != LINK_FETCHING &&
           run_state_version(state->run) == state->replica_version;
}

void node_rounds_follow(struct node_state *state, struct node_actions *out) {
    if (!run_state_has_genesis(state->run) || state->halted || state->finishing ||
        state->catching_up || run_state_phase(state->run) == RUN_STOPPED ||
        !replica_is_known(state))
        return;
    bool waits = !state->training || state->steps >= state->until_steps;
    for (uint32_t fragment = 0; fragment < state->fragments; fragment++) {
        const struct slot *slot = &state->slots[fragment];
        if (!may_advance(slot)) continue;
        if (!waits && state->steps - slot->followed_at < state->options.follow_interval) continue;
        if (run_state_staleness(state->run, fragment, slot->base_version) == 0) continue;
        advance(state, fragment, out);
    }
}

bool node_rounds_at_rest(const struct node_state *state) {
    for (uint32_t fragment = 0; fragment < state->fragments; fragment++) {
        const struct slot *slot = &state->slots[fragment];
        if (slot->moving || slot->phase == SLOT_SNAPSHOT || slot->phase == SLOT_ENCODING)
            return false;
    }
    return true;
}

/* ---- the round's end ------------------------------------------------------------------------- */

/* An empty delta helps nobody. */
static bool has_something(const struct slot *slot) {
    return slot->steps_unsent > 0 && slot->tokens_unsent > 0;
}

static bool waits_for_merge(const struct node_state *state) {
    if (state->options.overlap) return false;
    for (uint32_t fragment = 0; fragment < state->fragments; fragment++) {
        if (state->slots[fragment].phase > SLOT_SNAPSHOT) return true;
    }
    return false;
}

/* With overlap off, sites that joined at different times are due on different fragments, and where
 * a step takes every site they would wait for each other for ever. So a site that waits gives what
 * it has of each fragment that another one waits for; and where it has nothing of it (a start has
 * forgotten what it trained, or the fragment was merged while it stood still), it trains one step
 * more and gives that. So each fragment that anybody waits for is given by all, and merges. */
static bool is_waited_for(const struct node_state *state, uint32_t fragment) {
    return state->slots[fragment].phase == SLOT_TRAINING &&
           run_state_pending_count(state->run, fragment) > 0;
}

static bool owes_a_step(const struct node_state *state) {
    for (uint32_t fragment = 0; fragment < state->fragments; fragment++) {
        if (is_waited_for(state, fragment) && !has_something(&state->slots[fragment])) return true;
    }
    return false;
}

static bool fragment_due(const struct node_state *state, uint32_t fragment) {
    const struct slot *slot = &state->slots[fragment];
    if (slot->phase != SLOT_TRAINING || !has_something(slot)) return false;
    if ((int64_t)state->steps - slot->steps_mark >= (int64_t)node_inner_steps_now(state))
        return true;
    return waits_for_merge(state) && is_waited_for(state, fragment);
}

_Static_assert(FRAGMENTS_LIMIT <= 64, "a bit for each");

/* Of those that are due and not in `asked`, the one whose last snapshot is the longest ago. By
 * their numbers the first ones would leave the last ones no turn, where a message takes longer than
 * a round. */
static bool longest_due(const struct node_state *state, uint64_t asked, uint32_t *out) {
    bool found = false;
    for (uint32_t fragment = 0; fragment < state->fragments; fragment++) {
        const struct slot *slot = &state->slots[fragment];
        if ((asked >> fragment & 1) || !fragment_due(state, fragment)) continue;
        if (found && slot->steps_mark >= state->slots[*out].steps_mark) continue;
        *out = fragment;
        found = true;
    }
    return found;
}

/* What is beyond the cap would be refused, so the base goes forward first. Once: where the run goes
 * on faster than a base moves, a site that waited for it would never offer anything; and it is by
 * what is offered, refused or not, that the coordinator knows how often the others may. A fragment
 * whose base moves keeps its turn: where steps come fast one is nearly always on the move, and
 * would never be offered beside others that are not. */
void node_rounds_begin(struct node_state *state, struct node_actions *out) {
    if (!run_takes_contributions(state) || state->catching_up || state->leaving ||
        state->link == LINK_FETCHING)
        return;
    uint64_t asked = 0;
    for (uint32_t fragment = 0; longest_due(state, asked, &fragment);) {
        struct slot *slot = &state->slots[fragment];
        asked |= UINT64_C(1) << fragment;
        if (message_under_way(state)) return;
        if (slot->moving) {
            MARK("slot: its turn waits until the base has moved");
            return;
        }
        if (run_state_staleness(state->run, fragment, slot->base_version) >
                run_state_staleness_cap(state->run, fragment, slot->base_version) &&
            !slot->caught_up) {
            MARK("slot: its base is beyond the cap");
            slot->caught_up = true;
            if (!replica_is_known(state)) continue;
            advance(state, fragment, out);
            return;
        }
        slot->caught_up = false;
        MARK("slot: snapshot");
        if ((int64_t)state->steps - slot->steps_mark < (int64_t)node_inner_steps_now(state))
            MARK("slot: snapshot early, others wait for the fragment");
        node_slot_enter(slot, SLOT_SNAPSHOT);
        slot->sequence = ++state->sequence;
        struct node_action *action = node_act(out, NODE_DO_SNAPSHOT);
        action->fragment = fragment;
        action->sequence = slot->sequence;
    }
}

/* A site that is new starts from the newest parameters, not from those the run began with. */
void node_rounds_catch_up(struct node_state *state, struct node_actions *out) {
    if (!state->catching_up || !run_state_has_genesis(state->run) ||
        run_state_version(state->run) < state->caught_up_at)
        return;
    state->catching_up = false;
    for (uint32_t fragment = 0; fragment < state->fragments; fragment++)
        if (may_advance(&state->slots[fragment])) advance(state, fragment, out);
}

void node_progress(struct node_state *state, const struct node_event *event) {
    uint64_t tokens = event->progress.tokens - state->tokens,
             steps = event->progress.steps - state->steps;
    state->steps = event->progress.steps;
    state->tokens = event->progress.tokens;
    for (uint32_t fragment = 0; fragment < state->fragments; fragment++) {
        struct slot *slot = &state->slots[fragment];
        slot->tokens_unsent += tokens;
        slot->steps_unsent += steps;
        if (steps > 0 && isfinite(event->progress.loss)) {
            slot->loss_sum += event->progress.loss;
            slot->loss_count++;
        }
    }
}

static void begin_anew(const struct node_state *state, struct slot *slot) {
    slot->steps_unsent = 0;
    slot->tokens_unsent = 0;
    slot->loss_sum = 0;
    slot->loss_count = 0;
    slot->steps_mark = (int64_t)state->steps;
}

void node_trainer_lost(struct node_state *state) {
    for (uint32_t fragment = 0; fragment < state->fragments; fragment++)
        begin_anew(state, &state->slots[fragment]);
}

void node_snapshotted(struct node_state *state, const struct node_event *event,
                      struct node_actions *out) {
    if (event->fragment >= state->fragments) return;
    struct slot *slot = &state->slots[event->fragment];
    if (slot->phase != SLOT_SNAPSHOT || slot->sequence != event->sequence) return;
    if (event->status != OK) { /* nobody is there to make it: the next round's number is another */
        node_slot_enter(slot, SLOT_TRAINING);
        slot->sequence = 0;
        begin_anew(state, slot);
        return;
    }
    slot->steps_mark = (int64_t)event->snapshotted.steps;
    slot->steps_in_flight = slot->steps_unsent;
    slot->steps_unsent = 0;
    /* each fragment's contribution carries its share; what that leaves over is left to the next one
     */
    slot->tokens_in_flight = slot->tokens_unsent - slot->tokens_unsent % state->fragments;
    slot->tokens_unsent -= slot->tokens_in_flight;
    MARK("slot: encoding");
    node_slot_enter(slot, SLOT_ENCODING);
    struct node_action *action = node_act(out, NODE_DO_ENCODE);
    action->fragment = event->fragment;
    action->sequence = slot->sequence;
    node_message_header(state, event->fragment, slot, event->snapshotted.began,
                        &action->contribution);
    slot->loss_sum = 0;
    slot->loss_count = 0;
}

/* What comes back is a round's training already. Where it may be taken from another base it is due
 * at once: a round later it is worth less, and a message that merges would carry two rounds. */
void node_slot_restore(struct node_state *state, uint32_t fragment, bool due,
                       struct node_actions *out) {
    struct slot *slot = &state->slots[fragment];
    MARK("slot: restoring");
    if (due) slot->steps_mark -= (int64_t)slot->steps_in_flight;
    node_slot_enter(slot, SLOT_RESTORING);
    order_move(state, fragment, NODE_DO_RESTORE, out);
}

void node_slot_merged(struct node_state *state, uint32_t fragment, struct node_actions *out) {
    struct slot *slot = &state->slots[fragment];
    MARK("slot: merging");
    /* it was refused by another coordinator, and its mass is on its way back */
    bool taken_back = slot->phase == SLOT_RESTORING && !slot->owed;
    node_slot_enter(slot, SLOT_MERGING);
    slot->steps_in_flight = 0;
    slot->tokens_in_flight = 0;
    slot->rejected = 0;
    slot->again = false;
    slot->encoded = false;
    slot->in_ledger = false;
    if (!taken_back) order_move(state, fragment, NODE_DO_REBASE, out);
}

void node_slot_dropped(struct node_state *state, uint32_t fragment, struct node_actions *out) {
    const struct slot *slot = &state->slots[fragment];
    if (slot->phase < SLOT_MERGING) node_slot_restore(state, fragment, true, out);
}

void node_rebased(struct node_state *state, const struct node_event *event,
                  struct node_actions *out) {
    if (event->fragment >= state->fragments) return;
    struct slot *slot = &state->slots[event->fragment];
    slot->base_version = event->rebased.base_version;
    slot->followed_at = state->steps;
    if (!slot->moving) return; /* onto a snapshot of the run */
    slot->moving = false;
    if (slot->owed) {
        enum node_action_kind owed = slot->owed;
        slot->owed = 0;
        order_move(state, event->fragment, owed, out);
        return;
    }
    if (slot->phase != SLOT_MERGING && slot->phase != SLOT_RESTORING) return;
    MARK("slot: training again");
    node_slot_enter(slot, SLOT_TRAINING);
    slot->baseless = false;
    slot->sequence = 0;
    slot->encoded = false;
    slot->in_ledger = false;
    slot->attempts = 0;
}

/* ---- when training goes on ------------------------------------------------------------------- */

/* With overlap off a round is exactly H_w steps: the trainer stops there by itself and waits until
 * it was merged. */
static uint64_t round_end(const struct node_state *state) {
    if (state->options.overlap) return UINT64_MAX;
    int64_t end = INT64_MAX;
    for (uint32_t fragment = 0; fragment < state->fragments; fragment++) {
        const struct slot *slot = &state->slots[fragment];
        int64_t due = slot->steps_mark + (int64_t)node_inner_steps_now(state);
        /* H was lowered: overdue, and yet nothing to send. Only a step more can end the round. */
        if (!has_something(slot)) MARK("round: overdue with nothing to send");
        if (!has_something(slot)) due = MAX(due, (int64_t)state->steps + 1);
        end = MIN(end, due);
    }
    return end > 0 ? (uint64_t)end : 0;
}

void node_train_or_wait(struct node_state *state, struct node_actions *out) {
    enum node_wait wait = NODE_WAIT_NONE;
    uint64_t until = UINT64_MAX;
    if (!run_state_has_genesis(state->run) || state->catching_up) {
        wait = NODE_WAIT_START;
    } else if (run_state_phase(state->run) != RUN_ACTIVE) {
        MARK("training: waits, paused");
        wait = NODE_WAIT_PAUSED;
    } else if (state->leaving) {
        MARK("training: ends, the site leaves");
        wait = NODE_WAIT_PAUSED;
    } else {
        until = round_end(state);
        if (waits_for_merge(state) && owes_a_step(state)) {
            MARK("training: a step more, others wait for a fragment of which there is nothing to "
                 "give");
            until = state->steps + 1;
        } else if (waits_for_merge(state)) {
            MARK("training: waits for a merge, overlap is off");
            wait = NODE_WAIT_MERGE;
        }
    }
    bool train = wait == NODE_WAIT_NONE && !state->halted && !state->finishing;
    if (train == state->training && wait == state->waiting && until == state->until_steps) return;
    state->training = train;
    state->waiting = wait;
    state->until_steps = until;
    struct node_action *action = node_act(out, NODE_DO_TRAIN);
    action->train = train;
    action->wait = wait;
    action->until_steps = until;
}
