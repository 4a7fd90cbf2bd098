/* The site's messages: a round's delta from its header to what the coordinator answers, sent again
 * until the ledger says what became of it. node_rounds.c begins and ends the rounds. */
#include <string.h>

#include "base/mark.h"
#include "base/memory.h"
#include "node/node_state_internal.h"

enum { REJECTED_IN_A_ROW_LIMIT = 3 };

/* The header, except what only the encoded payload tells. */
void node_message_header(const struct node_state *state, uint32_t fragment, const struct slot *slot,
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
        node_slot_give_back(slot);
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

/* Not of the message itself: the same training may be taken from another base, or by now. Once:
 * where the run goes on faster than a message comes over, the next one would fare no better, and it
 * is by its offers that the coordinator knows how long a round is here. */
static bool refusal_asks_again(struct slot *slot, enum refusal code) {
    bool of_time = code == REFUSED_REBASE || code == REFUSED_EXPIRED || code == REFUSED_EPOCH;
    slot->again = of_time && !slot->again;
    return slot->again;
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
    node_slot_restore(state, event->fragment, refusal_asks_again(slot, code), out);
}

void node_upload_broken(struct node_state *state, const struct node_event *event,
                        struct instant now) {
    struct slot *slot = uploading(state, event);
    if (slot) wait_and_retry(state, slot, 0, now);
}

void node_messages_link_up(struct node_state *state, struct instant now) {
    for (uint32_t fragment = 0; fragment < state->fragments;
         fragment++) { /* do not sit out a backoff meant for the outage */
        struct slot *slot = &state->slots[fragment];
        if (slot->phase == SLOT_BACKOFF && slot->attempts == 0) slot->retry_at = now.monotonic_ms;
    }
}

static bool inclusion_is_due(const struct node_state *state, const struct slot *slot) {
    return slot->phase == SLOT_ACCEPTED && !slot->in_ledger && state->link == LINK_UP;
}

uint64_t node_messages_wake(const struct node_state *state) {
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
void node_messages_epoch_begins(struct node_state *state) {
    for (uint32_t fragment = 0; fragment < state->fragments; fragment++) {
        struct slot *slot = &state->slots[fragment];
        if (slot->phase == SLOT_ACCEPTED && !slot->in_ledger) slot->retry_at = 0;
    }
}

void node_messages_retry(struct node_state *state, struct instant now, struct node_actions *out) {
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
void node_messages_take_up(struct node_state *state, const struct node_spooled *spooled,
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
