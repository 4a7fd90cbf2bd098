/* Payloads that a disk has lost: ours are asked of the coordinator, its own are brought to it.
 * Content by digest, so a damaged copy is as good as none and anybody's is as good as the first. */
#include <string.h>

#include "base/mark.h"
#include "base/memory.h"
#include "node/node_state_internal.h"

void node_payload_lost(struct node_state *state, uint64_t index, struct instant now) {
    MARK("payload: lost here");
    state->lost = index;
    state->refetch_at = now.monotonic_ms;
}

void node_refetched(struct node_state *state, const struct node_event *event, struct instant now,
                    struct node_actions *out) {
    if (!state->refetching) return;
    state->refetching = false;
    if (event->status !=
        OK) { /* the link is down, or the coordinator has lost it too and asks for it elsewhere */
        state->refetch_at = now.monotonic_ms + node_backoff(state, ++state->refetch_attempts);
        return;
    }
    MARK("payload: obtained again");
    state->refetch_attempts = 0;
    state->lost = 0;
    node_ledger_apply_again(state, out);
}

/* As the run knows it: the record on the disk may be damaged as well. A step waits for it, so it is
 * pending. */
static struct contribution contribution_at(const struct run_state *run, uint64_t index) {
    for (uint32_t fragment = 0; fragment < run_state_manifest(run)->fragments; fragment++)
        for (uint32_t at = 0; at < run_state_pending_count(run, fragment); at++) {
            const struct run_pending *pending = run_state_pending(run, fragment, at);
            if (pending->index == index) return pending->contribution;
        }
    return (struct contribution){0}; /* nothing has this digest */
}

void node_wanted(struct node_state *state, const struct node_event *event) {
    /* those of the last answer first */
    if (state->supplying || state->wanted_next < state->wanted_count) return;
    state->wanted_count = MIN(event->heartbeat.wanted_count, (uint32_t)NODE_WANTED_LIMIT);
    state->wanted_next = 0;
    memcpy(state->wanted, event->heartbeat.wanted, sizeof state->wanted);
}

void node_payloads_settle(struct node_state *state, struct instant now, struct node_actions *out) {
    if (state->link != LINK_UP) return;
    if (state->lost && !state->refetching && now.monotonic_ms >= state->refetch_at) {
        state->refetching = true;
        struct node_action *action = node_act(out, NODE_DO_REFETCH);
        action->index = state->lost;
        action->contribution = contribution_at(state->run, state->lost);
    }
    while (!state->supplying && state->wanted_next < state->wanted_count) {
        uint64_t index = state->wanted[state->wanted_next++];
        if (index >= run_state_size(state->run)) continue; /* we have not heard of it yet */
        MARK("payload: brought to the coordinator");
        state->supplying = true;
        node_act(out, NODE_DO_SUPPLY)->index = index;
    }
}

uint64_t node_payloads_wake(const struct node_state *state) {
    return state->link == LINK_UP && state->lost && !state->refetching ? state->refetch_at
                                                                       : UINT64_MAX;
}

uint64_t node_state_lost(const struct node_state *state) { return state->lost; }
