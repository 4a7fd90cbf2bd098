/* The site's brain: rounds, the link and time. node_ledger.c is its other half; the header tells how they work together. */
#include "node/node_state.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mark.h"
#include "base/memory.h"
#include "node/node_state_core.h"

enum { REJECTED_IN_A_ROW_LIMIT = 3 };

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

/* ---- time --------------------------------------------------------------------------------------------------------------- */

/* Full jitter: a uniform part of base * 2^attempts, at most the limit. Spreads a thousand sites that lost one coordinator. */
static uint64_t backoff(struct node_state *state, uint32_t attempts) {
    uint64_t ceiling = state->options.backoff_ms << MIN(attempts, 20u);
    ceiling = MAX(MIN(ceiling, state->options.backoff_limit_ms), 1);
    return 1 + random_below(&state->random, ceiling);
}

static void set_timer(struct node_state *state, struct node_actions *out) {
    uint64_t wake = UINT64_MAX;
    if (state->link == LINK_DOWN) wake = MIN(wake, state->link_retry_at);
    if (state->link == LINK_UP && !state->heartbeat_open) wake = MIN(wake, state->heartbeat_at);
    for (uint32_t fragment = 0; fragment < state->fragments; fragment++) {
        if (state->slots[fragment].phase == SLOT_BACKOFF) wake = MIN(wake, state->slots[fragment].retry_at);
    }
    if (wake == state->timer || wake == UINT64_MAX) return;
    state->timer = wake;
    node_act(out, NODE_DO_TIMER)->at_ms = wake;
}

/* ---- rounds ------------------------------------------------------------------------------------------------------------- */

static uint32_t inner_steps_now(const struct node_state *state) {
    uint32_t group = run_state_inner_steps(state->run);
    return state->inner_steps ? MIN(state->inner_steps, group) : group;
}

/* Rounds of several fragments end one after another, not all at once: fragment f is due (f + 1) / F of a round in, rounded up:
 * due at once it would have nothing to send, and with overlap off the trainer would never get to its first step. */
static void stagger(struct node_state *state) {
    int64_t round = inner_steps_now(state), count = state->fragments;
    for (int64_t fragment = 0; fragment < count; fragment++) {
        state->slots[fragment].steps_mark = (int64_t)state->steps + (round * (fragment + 1) + count - 1) / count - round;
    }
}

/* Also, our own entry must have come: a restart in the middle of the first catch-up has less than that, and a header could name
 * neither our key nor our last contribution. */
static bool run_takes_contributions(const struct node_state *state) {
    return state->started && !state->halted && run_state_has_genesis(state->run) && run_state_phase(state->run) == RUN_ACTIVE &&
           run_state_site(state->run, state->options.site);
}

/* A message of ours that is not in the ledger yet: the next one must name it as its predecessor, so it waits. */
static bool message_under_way(const struct node_state *state) {
    for (uint32_t fragment = 0; fragment < state->fragments; fragment++) {
        const struct slot *slot = &state->slots[fragment];
        if (slot->phase == SLOT_SNAPSHOT || slot->phase == SLOT_ENCODING || (slot->encoded && !slot->in_ledger)) return true;
    }
    return false;
}

static void advance(struct node_state *state, uint32_t fragment, struct node_actions *out) {
    MARK("slot: advancing");
    state->slots[fragment].phase = SLOT_ADVANCING;
    node_act(out, NODE_DO_ADVANCE)->fragment = fragment;
}

/* An empty delta helps nobody. */
static bool has_something(const struct slot *slot) { return slot->steps_unsent > 0 && slot->tokens_unsent > 0; }

static bool waits_for_merge(const struct node_state *state) {
    if (state->options.overlap) return false;
    for (uint32_t fragment = 0; fragment < state->fragments; fragment++) {
        if (state->slots[fragment].phase > SLOT_SNAPSHOT) return true;
    }
    return false;
}

/* With overlap off, sites that joined at different times are due on different fragments, and where a step takes every site they
 * would wait for each other for ever. So a site that waits gives what it has of each fragment that another one waits for. Of the
 * fragments waited for, take the one merged longest ago: whoever waits has trained since then, so all can give, and it merges. */
static bool fragment_due(const struct node_state *state, uint32_t fragment) {
    const struct slot *slot = &state->slots[fragment];
    if (slot->phase != SLOT_TRAINING || !has_something(slot)) return false;
    if ((int64_t)state->steps - slot->steps_mark >= (int64_t)inner_steps_now(state)) return true;
    return waits_for_merge(state) && run_state_pending_count(state->run, fragment) > 0;
}

static void begin_rounds(struct node_state *state, struct node_actions *out) {
    if (!run_takes_contributions(state) || state->catching_up) return;
    uint32_t cap = run_state_manifest(state->run)->merge.staleness_cap;
    for (uint32_t fragment = 0; fragment < state->fragments; fragment++) {
        struct slot *slot = &state->slots[fragment];
        if (!fragment_due(state, fragment)) continue;
        if (message_under_way(state)) return;
        if (run_state_staleness(state->run, fragment, slot->base_version) > cap) {
            advance(state, fragment, out);
            continue;
        }
        MARK("slot: snapshot");
        if ((int64_t)state->steps - slot->steps_mark < (int64_t)inner_steps_now(state))
            MARK("slot: snapshot early, others wait for the fragment");
        slot->phase = SLOT_SNAPSHOT;
        slot->sequence = ++state->sequence;
        struct node_action *action = node_act(out, NODE_DO_SNAPSHOT);
        action->fragment = fragment;
        action->sequence = slot->sequence;
    }
}

/* A site that is new starts from the newest parameters, not from those the run began with. */
static void catch_up(struct node_state *state, struct node_actions *out) {
    if (!state->catching_up || !run_state_has_genesis(state->run) || run_state_version(state->run) < state->caught_up_at) return;
    state->catching_up = false;
    for (uint32_t fragment = 0; fragment < state->fragments; fragment++) advance(state, fragment, out);
}

static void progress(struct node_state *state, const struct node_event *event) {
    uint64_t tokens = event->progress.tokens - state->tokens, steps = event->progress.steps - state->steps;
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

/* The header, but for what only the encoded payload tells. */
static void fill_header(const struct node_state *state, uint32_t fragment, const struct slot *slot, struct contribution *out) {
    const struct run_site *own = run_state_site(state->run, state->options.site);
    const struct manifest *manifest = run_state_manifest(state->run);
    *out = (struct contribution){.protocol = PROTOCOL_VERSION,
                                 .codec = manifest->codec.kind,
                                 .epoch = run_state_epoch(state->run),
                                 .site = state->options.site,
                                 .fragment = fragment,
                                 .sequence = slot->sequence,
                                 .base_version = slot->base_version,
                                 .inner_steps = (uint32_t)MIN(slot->steps_in_flight, UINT32_MAX),
                                 /* each fragment's contribution carries its share, so that the run counts a token once */
                                 .tokens = slot->tokens_in_flight / state->fragments,
                                 .loss = slot->loss_count ? (float)(slot->loss_sum / (double)slot->loss_count) : 0};
    memcpy(out->run_id, run_state_run_id(state->run), RUN_ID_SIZE);
    memcpy(out->layout_digest, run_state_layout_digest(state->run), DIGEST_SIZE);
    memcpy(out->manifest_digest, run_state_manifest_digest(state->run), DIGEST_SIZE);
    if (!run_state_root_at(state->run, slot->base_version, out->base_root)) memset(out->base_root, 0, DIGEST_SIZE);
    if (own) {
        memcpy(out->previous, own->last_digest, DIGEST_SIZE);
        key_id(own->public_key, out->key_id);
    }
}

static void snapshotted(struct node_state *state, const struct node_event *event, struct node_actions *out) {
    if (event->fragment >= state->fragments) return;
    struct slot *slot = &state->slots[event->fragment];
    if (slot->phase != SLOT_SNAPSHOT || slot->sequence != event->sequence) return;
    slot->steps_mark = (int64_t)event->snapshotted.steps;
    slot->steps_in_flight = slot->steps_unsent;
    slot->tokens_in_flight = slot->tokens_unsent;
    slot->steps_unsent = 0;
    slot->tokens_unsent = 0;
    MARK("slot: encoding");
    slot->phase = SLOT_ENCODING;
    struct node_action *action = node_act(out, NODE_DO_ENCODE);
    action->fragment = event->fragment;
    action->sequence = slot->sequence;
    fill_header(state, event->fragment, slot, &action->contribution);
    slot->loss_sum = 0;
    slot->loss_count = 0;
}

static void upload(struct node_state *state, uint32_t fragment, struct node_moment now, struct node_actions *out) {
    struct slot *slot = &state->slots[fragment];
    if (state->link != LINK_UP || run_state_phase(state->run) != RUN_ACTIVE) { /* tried again when either changes */
        MARK("slot: backoff, the link is down or the run is paused");
        slot->phase = SLOT_BACKOFF;
        slot->retry_at = now.monotonic_ms + backoff(state, slot->attempts);
        return;
    }
    MARK("slot: uploading");
    slot->phase = SLOT_UPLOADING;
    struct node_action *action = node_act(out, NODE_DO_UPLOAD);
    action->fragment = fragment;
    action->sequence = slot->sequence;
}

static void take_message(struct slot *slot, const uint8_t *header, const uint8_t *signature) {
    memcpy(slot->header, header, CONTRIBUTION_HEADER_SIZE);
    memcpy(slot->signature, signature, SIGNATURE_SIZE);
    contribution_digest(slot->header, slot->header_digest);
    slot->encoded = true;
    slot->in_ledger = false;
    slot->attempts = 0;
}

/* What was to be sent stays in the residual: the next contribution carries it, and counts it. */
static void give_back(struct slot *slot) {
    slot->steps_unsent += slot->steps_in_flight;
    slot->tokens_unsent += slot->tokens_in_flight;
    slot->steps_in_flight = 0;
    slot->tokens_in_flight = 0;
}

static void encoded(struct node_state *state, const struct node_event *event, struct node_moment now, struct node_actions *out) {
    if (event->fragment >= state->fragments) return;
    struct slot *slot = &state->slots[event->fragment];
    if (slot->phase != SLOT_ENCODING || slot->sequence != event->sequence) return;
    if (event->status != OK) { /* the delta was not finite: training goes on, the next round tries again */
        slot->phase = SLOT_TRAINING;
        give_back(slot);
        slot->sequence = 0;
        if (++slot->rejected >= REJECTED_IN_A_ROW_LIMIT) {
            node_halt(state, out, "no contribution can be made: %.180s",
                      event->message ? event->message : status_name(event->status));
        }
        return;
    }
    take_message(slot, event->encoded.header, event->encoded.signature);
    upload(state, event->fragment, now, out);
}

static void restore(struct node_state *state, uint32_t fragment, struct node_actions *out) {
    struct slot *slot = &state->slots[fragment];
    MARK("slot: restoring");
    slot->phase = SLOT_RESTORING;
    give_back(slot);
    struct node_action *action = node_act(out, NODE_DO_RESTORE);
    action->fragment = fragment;
    action->sequence = slot->sequence;
}

void node_slot_merged(struct node_state *state, uint32_t fragment, struct node_actions *out) {
    struct slot *slot = &state->slots[fragment];
    MARK("slot: merging");
    slot->phase = SLOT_MERGING;
    slot->steps_in_flight = 0;
    slot->tokens_in_flight = 0;
    slot->rejected = 0;
    slot->encoded = false;
    slot->in_ledger = false;
    struct node_action *action = node_act(out, NODE_DO_REBASE);
    action->fragment = fragment;
    action->sequence = slot->sequence;
}

static void rebased(struct node_state *state, const struct node_event *event) {
    if (event->fragment >= state->fragments) return;
    struct slot *slot = &state->slots[event->fragment];
    if (slot->phase != SLOT_MERGING && slot->phase != SLOT_RESTORING && slot->phase != SLOT_ADVANCING) return;
    MARK("slot: training again");
    slot->phase = SLOT_TRAINING;
    slot->base_version = event->rebased.base_version;
    slot->sequence = 0;
    slot->encoded = false;
    slot->attempts = 0;
}

/* ---- the coordinator's answers ------------------------------------------------------------------------------------------ */

static struct slot *uploading(struct node_state *state, const struct node_event *event) {
    if (event->fragment >= state->fragments) return NULL;
    struct slot *slot = &state->slots[event->fragment];
    return slot->phase == SLOT_UPLOADING && slot->sequence == event->sequence ? slot : NULL;
}

static void wait_and_retry(struct node_state *state, struct slot *slot, uint64_t at_least_ms, struct node_moment now) {
    MARK("slot: backoff after an answer or none");
    slot->phase = SLOT_BACKOFF;
    slot->attempts++;
    slot->retry_at = now.monotonic_ms + at_least_ms + backoff(state, slot->attempts);
}

static void receipt(struct node_state *state, const struct node_event *event, struct node_moment now, struct node_actions *out) {
    struct slot *slot = uploading(state, event);
    if (!slot) return;
    struct receipt got;
    struct error error = {0};
    if (receipt_verify(event->bytes, run_state_coordinator_key(state->run), slot->header, slot->signature, &got, &error) != OK ||
        memcmp(got.run_id, run_state_run_id(state->run), RUN_ID_SIZE) != 0) {
        node_halt(state, out, "a receipt does not verify: %.180s", *error.message ? error.message : "it is of another run");
        return;
    }
    if (got.epoch < run_state_epoch(state->run)) { /* from a coordinator that has been superseded: it counts for nothing */
        MARK("receipt: of an epoch that is over");
        wait_and_retry(state, slot, 0, now);
        return;
    }
    MARK("slot: accepted, by a receipt");
    slot->phase = SLOT_ACCEPTED;
    slot->attempts = 0;
    if (got.size > state->head.size) { /* a receipt is a head too: our own ledger must come to agree with it */
        state->head.epoch = got.epoch;
        state->head.size = got.size;
        memcpy(state->head.root, got.root, DIGEST_SIZE);
    }
}

/* True where the refusal means that this site as it is must not go on. */
static bool refusal_ends_us(enum refusal code) {
    switch (code) {
    case REFUSED_REVOKED:
    case REFUSED_RUN:
    case REFUSED_LAYOUT:
    case REFUSED_SIGNATURE:
    case REFUSED_UNKNOWN_SITE:
    case REFUSED_BASE: return true;
    default: return false;
    }
}

static bool refusal_blames_us(enum refusal code) {
    return code == REFUSED_MALFORMED || code == REFUSED_NONFINITE || code == REFUSED_SIZE || code == REFUSED_DIGEST ||
           code == REFUSED_NORM;
}

static void refused(struct node_state *state, const struct node_event *event, struct node_moment now, struct node_actions *out) {
    struct slot *slot = uploading(state, event);
    if (!slot) return;
    enum refusal code = event->refused.code;
    if ((unsigned)code < REFUSAL_COUNT) state->refused[code]++;
    if (code == REFUSED_DUPLICATE) {
        if (event->bytes.size > 0)
            receipt(state, event, now, out);
        else
            MARK("slot: accepted, a duplicate without a receipt");
        slot->phase = SLOT_ACCEPTED; /* it is in the ledger: Follow brings it */
        return;
    }
    if (refusal_is_temporary(code)) {
        wait_and_retry(state, slot, event->refused.retry_after_ms, now);
        return;
    }
    if (refusal_ends_us(code)) {
        MARK("refusal: ends the site");
        node_halt(state, out, "the coordinator refused this site (%s): %.140s", refusal_name(code),
                  event->message && *event->message ? event->message : refusal_advice(code));
        return;
    }
    if (refusal_blames_us(code) && ++slot->rejected >= REJECTED_IN_A_ROW_LIMIT) {
        node_halt(state, out, "%u contributions in a row were refused (%s): this build or this machine is broken. %.100s",
                  slot->rejected, refusal_name(code), event->message ? event->message : "");
        return;
    }
    restore(state, event->fragment, out);
}

/* ---- the link ----------------------------------------------------------------------------------------------------------- */

static void connect_now(struct node_state *state, struct node_actions *out) {
    struct node_action *action = node_act(out, NODE_DO_CONNECT);
    action->ask_offer = run_state_size(state->run) == 0 && state->queue_count == 0 && state->replica_version == 0;
    action->index = run_state_size(state->run) + state->queue_count;
    action->payloads_from = state->payloads_from;
    state->link = action->ask_offer ? LINK_CONNECTING : LINK_OPENING;
}

static void follow(struct node_state *state, struct node_actions *out) {
    struct node_action *action = node_act(out, NODE_DO_FOLLOW);
    action->index = run_state_size(state->run) + state->queue_count;
    action->payloads_from = state->payloads_from;
    state->link = LINK_OPENING;
}

static void link_down(struct node_state *state, struct node_moment now) {
    MARK("link: down");
    state->link = LINK_DOWN;
    state->heartbeat_open = false;
    state->link_retry_at = now.monotonic_ms + backoff(state, state->link_attempts);
    state->link_attempts++;
}

/* A snapshot is worth fetching where it is fewer bytes than the steps it saves. */
static void offer(struct node_state *state, const struct node_event *event, struct node_actions *out) {
    if (state->link != LINK_CONNECTING) return;
    const struct snapshot_header *header = &event->offer.header;
    uint64_t missed =
        event->offer.exists && header->version > state->replica_version ? header->version - state->replica_version : 0;
    if (missed > 0 && missed * MAX(state->options.nominal_payload, 1) > header->content_size) {
        MARK("link: fetching a snapshot");
        state->offer = *header;
        state->link = LINK_FETCHING;
        node_act(out, NODE_DO_FETCH);
    } else {
        follow(state, out);
    }
}

static void snapshot_loaded(struct node_state *state, const struct node_event *event, struct node_moment now,
                            struct node_actions *out) {
    if (state->link != LINK_FETCHING) return;
    if (event->status != OK) {
        MARK("link: a fetch that failed");
        link_down(state, now);
        return;
    }
    state->replica_version = state->offer.version;
    state->payloads_from = state->offer.payloads_from;
    for (uint32_t fragment = 0; fragment < FRAGMENTS_LIMIT; fragment++)
        state->slots[fragment].base_version = state->offer.version;
    follow(state, out);
}

static void heartbeat_reply(struct node_state *state, const struct node_event *event, struct node_moment now) {
    state->heartbeat_open = false;
    state->heartbeat_at = now.monotonic_ms + state->options.heartbeat_ms;
    if (event->status != OK) return;
    if (event->heartbeat.inner_steps > 0) state->inner_steps = event->heartbeat.inner_steps;
    if (state->catching_up && state->caught_up_at == UINT64_MAX) state->caught_up_at = event->heartbeat.version;
}

/* ---- what follows from where things stand -------------------------------------------------------------------------------- */

/* With overlap off a round is exactly H_w steps: the trainer stops there by itself and waits until it was merged. */
static uint64_t round_end(const struct node_state *state) {
    if (state->options.overlap) return UINT64_MAX;
    int64_t end = INT64_MAX;
    for (uint32_t fragment = 0; fragment < state->fragments; fragment++) {
        const struct slot *slot = &state->slots[fragment];
        int64_t due = slot->steps_mark + (int64_t)inner_steps_now(state);
        /* H was lowered: overdue, and yet nothing to send. Only a step more can end the round. */
        if (!has_something(slot)) MARK("round: overdue with nothing to send");
        if (!has_something(slot)) due = MAX(due, (int64_t)state->steps + 1);
        end = MIN(end, due);
    }
    return end > 0 ? (uint64_t)end : 0;
}

static void train_or_wait(struct node_state *state, struct node_actions *out) {
    enum node_wait wait = NODE_WAIT_NONE;
    uint64_t until = UINT64_MAX;
    if (!run_state_has_genesis(state->run) || state->catching_up) {
        wait = NODE_WAIT_START;
    } else if (run_state_phase(state->run) != RUN_ACTIVE) {
        MARK("training: waits, paused");
        wait = NODE_WAIT_PAUSED;
    } else if (!state->options.overlap) {
        until = round_end(state);
        if (waits_for_merge(state)) {
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

/* The run has been stopped, and what of ours is in the ledger has been merged: there is nothing left to do. A message that is
 * not in the ledger by now will be refused, so it is not waited for. */
static void finish_if_over(struct node_state *state, struct node_actions *out) {
    if (state->finishing || state->halted || !run_state_has_genesis(state->run)) return;
    if (run_state_phase(state->run) != RUN_STOPPED || state->applying || state->queue_count > 0) return;
    for (uint32_t fragment = 0; fragment < state->fragments; fragment++) {
        const struct slot *slot = &state->slots[fragment];
        if (run_state_pending_count(state->run, fragment) > 0) return;
        if (slot->phase == SLOT_SNAPSHOT || slot->phase == SLOT_ENCODING || slot->phase >= SLOT_MERGING) { return; }
    }
    MARK("site: finishes");
    state->finishing = true;
    node_act(out, NODE_DO_FINISH);
}

static void settle(struct node_state *state, struct node_moment now, struct node_actions *out) {
    if (!state->started || state->halted) return;
    for (uint32_t fragment = 0; fragment < state->fragments; fragment++) {
        struct slot *slot = &state->slots[fragment];
        if (slot->phase == SLOT_BACKOFF && now.monotonic_ms >= slot->retry_at) upload(state, fragment, now, out);
    }
    if (state->link == LINK_DOWN && now.monotonic_ms >= state->link_retry_at) connect_now(state, out);
    if (state->link == LINK_UP && !state->heartbeat_open && now.monotonic_ms >= state->heartbeat_at) {
        state->heartbeat_open = true;
        node_act(out, NODE_DO_HEARTBEAT);
    }
    catch_up(state, out);
    begin_rounds(state, out);
    finish_if_over(state, out);
    train_or_wait(state, out);
    set_timer(state, out);
}

/* ---- life --------------------------------------------------------------------------------------------------------------- */

struct node_state *node_state_create(const struct node_options *options) {
    struct node_state *state = xcalloc(1, sizeof *state);
    state->options = *options;
    state->sequence = options->last_sequence;
    random_init(&state->random, options->seed);
    state->run = run_state_create();
    state->timer = UINT64_MAX;
    state->waiting = NODE_WAIT_START;
    state->until_steps = UINT64_MAX;
    return state;
}

void node_state_destroy(struct node_state *state) {
    if (!state) return;
    for (size_t i = 0; i < state->queue_count; i++) buffer_deinit(&state->queue[(state->queue_head + i) % state->queue_capacity]);
    free(state->queue);
    run_state_destroy(state->run);
    free(state);
}

enum status node_state_restore(struct node_state *state, struct bytes entry, struct error *error) {
    ASSERT(!state->started);
    return node_ledger_take(state, entry, true, error);
}

/* Where a message that was in the spool at the crash stands, by the ledger as we have it. */
static void take_up(struct node_state *state, const struct node_spooled *spooled, struct node_moment now,
                    struct node_actions *out) {
    if (spooled->fragment >= state->fragments) return;
    struct slot *slot = &state->slots[spooled->fragment];
    slot->sequence = spooled->sequence;
    take_message(slot, spooled->header, spooled->signature);
    struct contribution contribution;
    if (contribution_decode(bytes_of(spooled->header, CONTRIBUTION_HEADER_SIZE), &contribution, NULL) == OK) {
        slot->steps_in_flight = contribution.inner_steps;
        slot->tokens_in_flight = contribution.tokens * state->fragments;
    }
    state->sequence = MAX(state->sequence, spooled->sequence);
    uint64_t index;
    if (!run_state_find(state->run, state->options.site, spooled->sequence, &index)) {
        MARK("restart: a message that is not in the ledger");
        upload(state, spooled->fragment, now, out);
        return;
    }
    uint32_t pending = run_state_pending_count(state->run, spooled->fragment);
    for (uint32_t at = 0; at < pending; at++) {
        if (run_state_pending(state->run, spooled->fragment, at)->index != index) continue;
        slot->in_ledger = true;
        slot->index = index;
        MARK("restart: a message that waits for its merge");
        slot->phase = SLOT_ACCEPTED;
        return;
    }
    MARK("restart: a message that was merged");
    node_slot_merged(state, spooled->fragment, out);
}

void node_state_start(struct node_state *state, uint64_t replica_version, const struct node_spooled *spooled,
                      size_t spooled_count, struct node_moment now, struct node_actions *out) {
    state->started = true;
    state->replica_version = replica_version;
    state->link_retry_at = now.monotonic_ms;
    state->catching_up = run_state_size(state->run) == 0;
    state->caught_up_at = UINT64_MAX;
    if (run_state_has_genesis(state->run)) {
        const struct run_site *own = run_state_site(state->run, state->options.site);
        if (own) state->sequence = MAX(state->sequence, own->last_sequence);
        stagger(state);
    }
    for (uint32_t fragment = 0; fragment < FRAGMENTS_LIMIT; fragment++) state->slots[fragment].base_version = replica_version;
    for (size_t i = 0; i < spooled_count; i++) take_up(state, &spooled[i], now, out);
    settle(state, now, out);
}

void node_state_step(struct node_state *state, const struct node_event *event, struct node_moment now, struct node_actions *out) {
    if (state->halted) return;
    bool knew_run = run_state_has_genesis(state->run);
    switch (event->kind) {
    case NODE_TIMER: state->timer = UINT64_MAX; break;
    case NODE_PROGRESS: progress(state, event); break;
    case NODE_SNAPSHOTTED: snapshotted(state, event, out); break;
    case NODE_ENCODED: encoded(state, event, now, out); break;
    case NODE_UPLOAD_RECEIPT: receipt(state, event, now, out); break;
    case NODE_UPLOAD_REFUSED: refused(state, event, now, out); break;
    case NODE_UPLOAD_BROKEN: {
        struct slot *slot = uploading(state, event);
        if (slot) wait_and_retry(state, slot, 0, now);
        break;
    }
    case NODE_LINK_UP:
        MARK("link: up");
        state->link = LINK_UP;
        state->link_attempts = 0;
        state->heartbeat_at = now.monotonic_ms;
        for (uint32_t fragment = 0; fragment < state->fragments; fragment++) { /* do not sit out a backoff meant for the outage */
            if (state->slots[fragment].phase == SLOT_BACKOFF && state->slots[fragment].attempts == 0) {
                state->slots[fragment].retry_at = now.monotonic_ms;
            }
        }
        break;
    case NODE_LINK_DOWN: link_down(state, now); break;
    case NODE_OFFER: offer(state, event, out); break;
    case NODE_SNAPSHOT_LOADED: snapshot_loaded(state, event, now, out); break;
    case NODE_ENTRY: node_ledger_entry(state, event->bytes, out); break;
    case NODE_HEAD: node_ledger_head(state, event->bytes, out); break;
    case NODE_APPLIED: node_ledger_applied(state, event, out); break;
    case NODE_REBASED: rebased(state, event); break;
    case NODE_HEARTBEAT_REPLY: heartbeat_reply(state, event, now); break;
    case NODE_FAULT: node_halt(state, out, "%.200s", event->message ? event->message : status_name(event->status)); break;
    }
    if (!knew_run && run_state_has_genesis(state->run)) stagger(state);
    settle(state, now, out);
}

const struct run_state *node_state_run(const struct node_state *state) { return state->run; }
enum slot_phase node_state_slot(const struct node_state *state, uint32_t fragment) { return state->slots[fragment].phase; }
uint64_t node_state_backlog(const struct node_state *state) { return state->queue_count; }
uint64_t node_state_sequence(const struct node_state *state) { return state->sequence; }
uint32_t node_state_inner_steps(const struct node_state *state) { return inner_steps_now(state); }
uint64_t node_state_staleness(const struct node_state *state) { return state->staleness; }
bool node_state_linked(const struct node_state *state) { return state->link == LINK_UP; }

uint64_t node_state_refused(const struct node_state *state, enum refusal code) {
    return (unsigned)code < REFUSAL_COUNT ? state->refused[code] : 0;
}
