/* The site's link to the coordinator: connecting, a snapshot to start from, following, heartbeats.
 */
#include "base/mark.h"
#include "base/memory.h"
#include "node/node_state_internal.h"

enum { LEAVE_AGAIN_MS = 250 /* between heartbeats of a site that waits to have left */ };

/* Full jitter: a uniform part of base * 2^attempts, at most the limit. Spreads a thousand sites
 * that lost one coordinator. */
uint64_t node_backoff(struct node_state *state, uint32_t attempts) {
    uint64_t ceiling = state->options.backoff_ms << MIN(attempts, 20u);
    ceiling = MAX(MIN(ceiling, state->options.backoff_limit_ms), 1);
    return 1 + random_below(&state->random, ceiling);
}

static void connect_now(struct node_state *state, struct node_actions *out) {
    struct node_action *action = node_act(out, NODE_DO_CONNECT);
    action->ask_offer =
        run_state_size(state->run) == 0 && state->queue_count == 0 && state->replica_version == 0;
    action->index = run_state_size(state->run) + state->queue_count;
    action->payloads_from = state->payloads_from;
    action->sequence = state->sequence;
    state->link = action->ask_offer ? LINK_CONNECTING : LINK_OPENING;
}

static void follow(struct node_state *state, struct node_actions *out) {
    struct node_action *action = node_act(out, NODE_DO_FOLLOW);
    action->index = run_state_size(state->run) + state->queue_count;
    action->payloads_from = state->payloads_from;
    action->sequence = state->sequence;
    state->link = LINK_OPENING;
}

void node_link_down(struct node_state *state, struct instant now) {
    MARK("link: down");
    state->link = LINK_DOWN;
    state->fetch_owed = false;
    state->heartbeat_open = false;
    state->link_retry_at = now.monotonic_ms + node_backoff(state, state->link_attempts);
    state->link_attempts++;
}

/* A snapshot is worth fetching where it is fewer bytes than the steps it saves, and needed where
 * what the steps start from is not known. */
void node_offer(struct node_state *state, const struct node_event *event, struct instant now,
                struct node_actions *out) {
    if (state->link != LINK_CONNECTING) return;
    const struct snapshot_header *header = &event->offer.header;
    uint64_t missed = event->offer.exists && header->version > state->replica_version
                          ? header->version - state->replica_version
                          : 0;
    bool cheaper =
        missed > 0 && missed * MAX(state->options.nominal_payload, 1) > header->content_size;
    if (state->lacks_model && !event->offer.exists) {
        node_link_down(state, now); /* the only one was damaged: another is being written */
    } else if (cheaper || state->lacks_model) {
        MARK("link: fetching a snapshot");
        state->offer = *header;
        state->link = LINK_FETCHING;
        state->fetch_owed = true;
    } else {
        follow(state, out);
    }
}

void node_snapshot_loaded(struct node_state *state, const struct node_event *event,
                          struct instant now, struct node_actions *out) {
    if (state->link != LINK_FETCHING) return;
    if (event->status != OK) {
        MARK("link: a fetch that failed");
        node_link_down(state, now);
        return;
    }
    state->replica_version = state->offer.version;
    state->lacks_model = false;
    state->payloads_from = state->offer.payloads_from;
    follow(state, out);
}

/* Two beats may be lost, and the site still counts: away_after is the run's, the interval the
 * site's. */
static uint64_t beat_ms(const struct node_state *state) {
    return MIN(state->options.heartbeat_ms,
               run_state_manifest(state->run)->merge.away_after_ms / 3);
}

void node_heartbeat_reply(struct node_state *state, const struct node_event *event,
                          struct instant now, struct node_actions *out) {
    state->heartbeat_open = false;
    state->heartbeat_at = now.monotonic_ms + beat_ms(state);
    if (event->status != OK) return;
    if (state->leaving && event->heartbeat.has_left && node_rounds_drained(state) &&
        !state->has_left) {
        MARK("site: has left");
        state->has_left = true;
        node_act(out, NODE_DO_LEFT);
    }
    if (event->heartbeat.inner_steps > 0) state->inner_steps = event->heartbeat.inner_steps;
    if (event->heartbeat.sites_present > 0) state->sites_present = event->heartbeat.sites_present;
    node_wanted(state, event);
    if (state->catching_up && state->caught_up_at == UINT64_MAX)
        state->caught_up_at = event->heartbeat.version;
}

void node_link_up(struct node_state *state, struct instant now) {
    MARK("link: up");
    state->link = LINK_UP;
    state->link_attempts = 0;
    state->heartbeat_at = now.monotonic_ms;
}

void node_link_settle(struct node_state *state, struct instant now, struct node_actions *out) {
    if (state->link == LINK_DOWN && now.monotonic_ms >= state->link_retry_at)
        connect_now(state, out);
    if (state->leaving && node_rounds_drained(state))
        state->heartbeat_at = MIN(state->heartbeat_at, now.monotonic_ms + LEAVE_AGAIN_MS);
    /* Loading moves the bases of all fragments without a message in flight. */
    if (state->fetch_owed && node_rounds_at_rest(state)) {
        state->fetch_owed = false;
        node_act(out, NODE_DO_FETCH);
    }
    if (state->link == LINK_UP && !state->heartbeat_open &&
        now.monotonic_ms >= state->heartbeat_at) {
        state->heartbeat_open = true;
        node_act(out, NODE_DO_HEARTBEAT)->leaving = state->leaving && node_rounds_drained(state);
    }
}
