/* The site's rounds: a slot per fragment, from snapshot to rebase, the coordinator's answers to
 * what was sent, and when training goes on. node_state.c decides when these are asked. */
#include <math.h>
#include <string.h>

#include "base/mark.h"
#include "base/memory.h"
#include "node/node_state_internal.h"

enum { REJECTED_IN_A_ROW_LIMIT = 3 };

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
static void give_back(struct slot *slot) {
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
    if (kind == NODE_DO_RESTORE) give_back(slot);
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
        if ((asked >> fragment & 1) || slot->moving || !fragment_due(state, fragment)) continue;
        if (found && slot->steps_mark >= state->slots[*out].steps_mark) continue;
        *out = fragment;
        found = true;
    }
    return found;
}

/* What is beyond the cap would be refused, so the base goes forward first. Once: where the run goes
 * on faster than a base moves, a site that waited for it would never offer anything; and it is by
 * what is offered, refused or not, that the coordinator knows how often the others may. */
void node_rounds_begin(struct node_state *state, struct node_actions *out) {
    if (!run_takes_contributions(state) || state->catching_up || state->leaving ||
        state->link == LINK_FETCHING)
        return;
    uint64_t asked = 0;
    for (uint32_t fragment = 0; longest_due(state, asked, &fragment);) {
        struct slot *slot = &state->slots[fragment];
        asked |= UINT64_C(1) << fragment;
        if (message_under_way(state)) return;
        if (run_state_staleness(state->run, fragment, slot->base_version) >
                run_state_staleness_cap(state->run, fragment, slot->base_version) &&
            !slot->caught_up) {
            MARK("slot: its base is beyond the cap");
            if (!replica_is_known(state)) continue;
            slot->caught_up = true;
            advance(state, fragment, out);
            continue;
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

/* The header, except what only the encoded payload tells. */
static void fill_header(const struct node_state *state, uint32_t fragment, const struct slot *slot,
                        uint64_t began, struct contribution *out) {
    const struct run_site *own = run_state_site(state->run, state->options.site);
    *out = (struct contribution){
        .protocol = PROTOCOL_VERSION,
        .codec = (uint16_t)run_state_codec(state->run, slot->base_version),
        .epoch = run_state_epoch(state->run),
        .site = state->options.site,
        .fragment = fragment,
        .sequence = slot->sequence,
        .base_version = slot->base_version,
        .began_version = MIN(began, slot->base_version),
        .inner_steps = (uint32_t)MIN(slot->steps_in_flight, UINT32_MAX),
        /* each fragment's contribution carries its share, so that the run
         * counts a token once */
        .tokens = slot->tokens_in_flight / state->fragments,
        .loss = slot->loss_count ? (float)(slot->loss_sum / (double)slot->loss_count) : 0};
    memcpy(out->run_id, run_state_run_id(state->run), RUN_ID_SIZE);
    memcpy(out->layout_digest, run_state_layout_digest(state->run), DIGEST_SIZE);
    memcpy(out->manifest_digest, run_state_manifest_digest(state->run), DIGEST_SIZE);
    if (!run_state_root_at(state->run, slot->base_version, out->base_root))
        memset(out->base_root, 0, DIGEST_SIZE);
    if (own) {
        memcpy(out->previous, own->last_digest, DIGEST_SIZE);
        key_id(own->public_key, out->key_id);
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
    fill_header(state, event->fragment, slot, event->snapshotted.began, &action->contribution);
    slot->loss_sum = 0;
    slot->loss_count = 0;
}

static void upload(struct node_state *state, uint32_t fragment, struct instant now,
                   struct node_actions *out) {
    struct slot *slot = &state->slots[fragment];
    if (state->link != LINK_UP ||
        run_state_phase(state->run) != RUN_ACTIVE) { /* tried again when either changes */
        MARK("slot: backoff, the link is down or the run is paused");
        node_slot_enter(slot, SLOT_BACKOFF);
        slot->retry_at = now.monotonic_ms + node_backoff(state, slot->attempts);
        return;
    }
    MARK("slot: uploading");
    node_slot_enter(slot, SLOT_UPLOADING);
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

void node_encoded(struct node_state *state, const struct node_event *event, struct instant now,
                  struct node_actions *out) {
    if (event->fragment >= state->fragments) return;
    struct slot *slot = &state->slots[event->fragment];
    if (slot->phase != SLOT_ENCODING || slot->sequence != event->sequence) return;
    if (event->status !=
        OK) { /* the delta was not finite: training goes on, the next round tries again */
        node_slot_enter(slot, SLOT_TRAINING);
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
    slot->encoded = false;
    slot->in_ledger = false;
    if (!taken_back) order_move(state, fragment, NODE_DO_REBASE, out);
}

void node_slot_dropped(struct node_state *state, uint32_t fragment, struct node_actions *out) {
    const struct slot *slot = &state->slots[fragment];
    if (slot->phase < SLOT_MERGING) restore(state, fragment, out);
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
/* ---- the coordinator's answers --------------------------------------------------------------- */

static struct slot *uploading(struct node_state *state, const struct node_event *event) {
    if (event->fragment >= state->fragments) return NULL;
    struct slot *slot = &state->slots[event->fragment];
    return slot->phase == SLOT_UPLOADING && slot->sequence == event->sequence ? slot : NULL;
}

/* Whatever the coordinator tells it to wait. */
enum { TOLD_WAIT_LIMIT_MS = 600000 };

static void wait_and_retry(struct node_state *state, struct slot *slot, uint64_t at_least_ms,
                           struct instant now) {
    MARK("slot: backoff after an answer or none");
    node_slot_enter(slot, SLOT_BACKOFF);
    slot->attempts++;
    slot->retry_at = now.monotonic_ms + MIN(at_least_ms, (uint64_t)TOLD_WAIT_LIMIT_MS) +
                     node_backoff(state, slot->attempts);
}

/* The coordinator says that it has it. Its entry must come by Follow; where it does not, the
 * coordinator is asked again. */
static void round_accepted(struct node_state *state, struct slot *slot, struct instant now) {
    node_slot_enter(slot, SLOT_ACCEPTED);
    slot->attempts = 0;
    slot->retry_at = now.monotonic_ms + state->options.inclusion_ms;
}

/* A receipt is a head, too: our own ledger must come to agree with it. */
static void accepted_with(struct node_state *state, struct slot *slot,
                          const struct ledger_head *head, struct instant now) {
    round_accepted(state, slot, now);
    if (head->size <= state->head.size) return;
    state->head.epoch = head->epoch;
    state->head.size = head->size;
    memcpy(state->head.root, head->root, DIGEST_SIZE);
}

/* A receipt decides by itself what the slot does next: accepted, sent again, or the end of this
 * site. */
static void take_receipt(struct node_state *state, struct slot *slot, struct bytes receipt,
                         struct instant now, struct node_actions *out) {
    struct receipt got;
    struct error error = {0};
    if (receipt_verify(receipt, run_state_coordinator_key(state->run), slot->header,
                       slot->signature, &got, &error) != OK ||
        memcmp(got.run_id, run_state_run_id(state->run), RUN_ID_SIZE) != 0) {
        node_halt(state, out, "a receipt does not verify: %.180s",
                  *error.message ? error.message : "it is of another run");
        return;
    }
    if (got.epoch <
        run_state_epoch(
            state->run)) { /* from a coordinator that has been superseded: it counts for nothing */
        MARK("receipt: of an epoch that is over");
        wait_and_retry(state, slot, 0, now);
        return;
    }
    MARK("slot: accepted, by a receipt");
    struct ledger_head head = {.epoch = got.epoch, .size = got.size};
    memcpy(head.root, got.root, DIGEST_SIZE);
    accepted_with(state, slot, &head, now);
    struct node_action *action = node_act(out, NODE_DO_ACCEPTED);
    action->fragment = (uint32_t)(slot - state->slots);
    action->sequence = slot->sequence;
    action->head = head;
}

void node_receipt(struct node_state *state, const struct node_event *event, struct instant now,
                  struct node_actions *out) {
    struct slot *slot = uploading(state, event);
    if (slot) take_receipt(state, slot, event->bytes, now, out);
}

/* It is in the ledger already, says the coordinator. With the old receipt, that is what is judged.
 */
static void take_duplicate(struct node_state *state, struct slot *slot, struct bytes receipt,
                           struct instant now, struct node_actions *out) {
    if (receipt.size > 0) {
        take_receipt(state, slot, receipt, now, out);
        return;
    }
    MARK("slot: accepted, a duplicate without a receipt");
    round_accepted(state, slot, now);
}

/* True where the refusal means that this site as it is must not go on. */
static bool refusal_ends_us(enum refusal code) {
    switch (code) {
    case REFUSED_REVOKED:
    case REFUSED_RUN:
    case REFUSED_LAYOUT:
    case REFUSED_SIGNATURE:
    case REFUSED_UNKNOWN_SITE:
    case REFUSED_COPY:
    case REFUSED_OBSERVER:
    case REFUSED_BASE: return true;
    default: return false;
    }
}

static bool refusal_blames_us(enum refusal code) {
    return code == REFUSED_MALFORMED || code == REFUSED_NONFINITE || code == REFUSED_SIZE ||
           code == REFUSED_DIGEST || code == REFUSED_NORM;
}

void node_refused(struct node_state *state, const struct node_event *event, struct instant now,
                  struct node_actions *out) {
    struct slot *slot = uploading(state, event);
    if (!slot) return;
    enum refusal code = event->refused.code;
    if ((unsigned)code < REFUSAL_COUNT) state->refused[code]++;
    if (code == REFUSED_DUPLICATE) {
        take_duplicate(state, slot, event->bytes, now, out);
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
        node_halt(state, out,
                  "%u contributions in a row were refused (%s): this build or this machine is "
                  "broken. %.100s",
                  slot->rejected, refusal_name(code), event->message ? event->message : "");
        return;
    }
    restore(state, event->fragment, out);
}
void node_upload_broken(struct node_state *state, const struct node_event *event,
                        struct instant now) {
    struct slot *slot = uploading(state, event);
    if (slot) wait_and_retry(state, slot, 0, now);
}

void node_rounds_link_up(struct node_state *state, struct instant now) {
    for (uint32_t fragment = 0; fragment < state->fragments;
         fragment++) { /* do not sit out a backoff meant for the outage */
        struct slot *slot = &state->slots[fragment];
        if (slot->phase == SLOT_BACKOFF && slot->attempts == 0) slot->retry_at = now.monotonic_ms;
    }
}

static bool inclusion_is_due(const struct node_state *state, const struct slot *slot) {
    return slot->phase == SLOT_ACCEPTED && !slot->in_ledger && state->link == LINK_UP;
}

uint64_t node_rounds_wake(const struct node_state *state) {
    uint64_t wake = UINT64_MAX;
    for (uint32_t fragment = 0; fragment < state->fragments; fragment++) {
        const struct slot *slot = &state->slots[fragment];
        if (slot->phase == SLOT_BACKOFF || inclusion_is_due(state, slot))
            wake = MIN(wake, slot->retry_at);
    }
    return wake;
}

/* What the superseded coordinator accepted is in the ledger before the new epoch's entry, or
 * nowhere: ask the new one. */
void node_rounds_epoch_begins(struct node_state *state) {
    for (uint32_t fragment = 0; fragment < state->fragments; fragment++) {
        struct slot *slot = &state->slots[fragment];
        if (slot->phase == SLOT_ACCEPTED && !slot->in_ledger) slot->retry_at = 0;
    }
}

void node_rounds_retry(struct node_state *state, struct instant now, struct node_actions *out) {
    for (uint32_t fragment = 0; fragment < state->fragments; fragment++) {
        const struct slot *slot = &state->slots[fragment];
        if (slot->phase == SLOT_BACKOFF && now.monotonic_ms >= slot->retry_at)
            upload(state, fragment, now, out);
        if (inclusion_is_due(state, slot) && now.monotonic_ms >= slot->retry_at) {
            MARK("slot: an inclusion that does not come is asked for");
            upload(state, fragment, now, out);
        }
    }
}

/* Where a message that was in the spool at the crash stands, by the ledger as we have it. */
void node_rounds_take_up(struct node_state *state, const struct node_spooled *spooled,
                         struct instant now, struct node_actions *out) {
    if (spooled->fragment >= state->fragments) return;
    struct slot *slot = &state->slots[spooled->fragment];
    slot->sequence = spooled->sequence;
    take_message(slot, spooled->header, spooled->signature);
    slot->base_version = spooled->base_version;
    slot->baseless = spooled->baseless;
    struct contribution contribution;
    if (slot->steps_in_flight == 0 &&
        contribution_decode(bytes_of(spooled->header, CONTRIBUTION_HEADER_SIZE), &contribution,
                            NULL) == OK) {
        slot->steps_in_flight = contribution.inner_steps;
        slot->tokens_in_flight = contribution.tokens * state->fragments;
    }
    state->sequence = MAX(state->sequence, spooled->sequence);
    uint64_t index;
    if (!run_state_find(state->run, state->options.site, spooled->sequence, &index)) {
        if (spooled->accepted.size > 0 && spooled->accepted.epoch >= run_state_epoch(state->run)) {
            MARK("restart: a message that was accepted");
            accepted_with(state, slot, &spooled->accepted, now);
            return;
        }
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
        node_slot_enter(slot, SLOT_ACCEPTED);
        return;
    }
    if (run_state_dropped(state->run, index)) {
        slot->in_ledger = true;
        slot->index = index;
        node_slot_dropped(state, spooled->fragment, out);
        return;
    }
    MARK("restart: a message that was merged");
    node_slot_merged(state, spooled->fragment, out);
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
