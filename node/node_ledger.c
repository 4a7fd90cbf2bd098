/* What the ledger says: entries, steps and heads, in order, each believed only once it was checked.
 *
 * An entry that is not a step takes effect at once. A STEP waits for the worker to move the
 * replica; entries that come meanwhile queue after it, so the run state and the replica always
 * speak of the same prefix. A head is compared with our own tree as soon as we have as many entries
 * as it speaks of.
 */
#include <stdlib.h>
#include <string.h>

#include "base/mark.h"
#include "base/memory.h"
#include "node/node_state_internal.h"

static struct slot *slot_of_digest(struct node_state *state,
                                   const uint8_t digest[static DIGEST_SIZE]) {
    for (uint32_t fragment = 0; fragment < state->fragments; fragment++) {
        struct slot *slot = &state->slots[fragment];
        if (slot->encoded && memcmp(slot->header_digest, digest, DIGEST_SIZE) == 0) return slot;
    }
    return NULL;
}

/* Under our name and not of ours: a number that we have not used yet, or one that we use for
 * another message just now. */
static bool made_elsewhere(const struct node_state *state,
                           const struct contribution *contribution) {
    if (contribution->sequence > state->sequence) return true;
    for (uint32_t fragment = 0; fragment < state->fragments; fragment++) {
        const struct slot *slot = &state->slots[fragment];
        if (slot->encoded && slot->sequence == contribution->sequence) return true;
    }
    return false;
}

static void note_contribution(struct node_state *state, const struct ledger_entry *entry,
                              uint64_t index) {
    struct contribution contribution;
    struct bytes header = bytes_of(entry->contribution.header, CONTRIBUTION_HEADER_SIZE);
    if (contribution_decode(header, &contribution, NULL) != OK ||
        contribution.site != state->options.site)
        return;
    uint8_t digest[DIGEST_SIZE];
    contribution_digest(entry->contribution.header, digest);
    struct slot *slot = slot_of_digest(state, digest);
    if (!slot && state->started && made_elsewhere(state, &contribution))
        state->foreign = contribution.sequence;
    state->sequence = MAX(state->sequence, contribution.sequence);
    if (!slot) MARK("ledger: ours, from before our disk was set back");
    if (!slot)
        return; /* ours, from before a restore of an old backup: nothing of it is left here */
    slot->in_ledger = true;
    slot->index = index;
}

/* What a superseded coordinator signed beyond the takeover is not evidence against its successor.
 */
static void epoch_begins(struct node_state *state, uint64_t index) {
    if (state->head.epoch < run_state_epoch(state->run) && state->head.size > index)
        state->head.size = 0;
    node_messages_epoch_begins(state);
}

enum status node_ledger_take(struct node_state *state, struct bytes raw, bool trusted,
                             struct error *error) {
    struct ledger_entry entry;
    TRY(ledger_entry_decode(raw, &entry, error));
    uint64_t index = run_state_size(state->run);
    TRY(run_state_apply(state->run, raw, trusted, error));
    if (entry.kind == LEDGER_GENESIS) {
        state->fragments = run_state_manifest(state->run)->fragments;
    } else if (entry.kind == LEDGER_CONTRIBUTION) {
        note_contribution(state, &entry, index);
    } else if (entry.kind == LEDGER_EPOCH) {
        epoch_begins(state, index);
    }
    return OK;
}

/* The coordinator has lost its payload for good: as after a refusal, the mass is ours again. */
static void note_dropped(struct node_state *state, uint64_t index, struct node_actions *out) {
    for (uint32_t fragment = 0; fragment < state->fragments; fragment++) {
        const struct slot *slot = &state->slots[fragment];
        if (slot->encoded && slot->in_ledger && slot->index == index)
            node_slot_dropped(state, fragment, out);
    }
}

static void check_head(struct node_state *state, struct node_actions *out) {
    if (state->head.size == 0 || state->head.size > run_state_size(state->run)) return;
    uint8_t root[DIGEST_SIZE];
    merkle_root(run_state_tree(state->run), state->head.size, root);
    if (memcmp(root, state->head.root, DIGEST_SIZE) != 0) {
        node_halt(state, out,
                  "the coordinator signed another history: its head over %llu entries is not ours. "
                  "Keep this "
                  "directory as evidence and tell the admin",
                  (unsigned long long)state->head.size);
    }
    state->head.size = 0;
}

void node_ledger_head(struct node_state *state, struct bytes raw, struct node_actions *out) {
    struct ledger_head head;
    struct error error = {0};
    if (!run_state_has_genesis(state->run)) return;
    if (ledger_head_verify(raw, run_state_coordinator_key(state->run), &head, &error) != OK) {
        node_halt(state, out, "a ledger head does not verify: %.150s", error.message);
        return;
    }
    if (memcmp(head.run_id, run_state_run_id(state->run), RUN_ID_SIZE) != 0) {
        node_halt(state, out, "a ledger head is of another run");
        return;
    }
    if (head.epoch <
        run_state_epoch(
            state->run)) { /* of a coordinator that has been superseded: as with its receipts */
        MARK("head: of an epoch that is over");
        return;
    }
    if (head.size > state->head.size) state->head = head;
    check_head(state, out);
}

/* The rules' half of a step, once the replica has it; then what it means for our own contributions.
 */
static void step_taken(struct node_state *state, struct bytes raw, const struct ledger_entry *entry,
                       struct node_actions *out) {
    struct error error = {0};
    uint32_t fragment = entry->step.fragment;
    struct slot *slot = fragment < state->fragments ? &state->slots[fragment] : NULL;
    bool ours = false;
    for (uint16_t i = 0; slot && slot->in_ledger && i < entry->step.count; i++)
        ours |= entry->step.parts[i].index == slot->index;
    struct contribution sent; /* the base has moved since */
    uint64_t staleness = 0;
    if (ours &&
        contribution_decode(bytes_of(slot->header, CONTRIBUTION_HEADER_SIZE), &sent, NULL) == OK)
        staleness = run_state_staleness(state->run, fragment, sent.base_version);
    if (node_ledger_take(state, raw, false, &error) != OK) {
        node_halt(state, out, "the ledger breaks its rules: %.180s", error.message);
        return;
    }
    state->replica_version = MAX(state->replica_version, entry->step.version);
    if (ours) {
        state->staleness = staleness;
        node_slot_merged(state, fragment, out);
    }
}

static void take(struct node_state *state, struct bytes raw, struct node_actions *out) {
    struct error error = {0};
    struct ledger_entry entry;
    if (ledger_entry_decode(raw, &entry, &error) != OK) {
        node_halt(state, out, "entry %llu: %.180s", (unsigned long long)run_state_size(state->run),
                  error.message);
        return;
    }
    if (entry.kind != LEDGER_STEP) {
        if (node_ledger_take(state, raw, false, &error) != OK)
            node_halt(state, out, "the ledger breaks its rules: %.180s", error.message);
        else if (entry.kind == LEDGER_DROPPED)
            note_dropped(state, entry.dropped.index, out);
        else if (state->foreign && !state->options.restored)
            node_halt(state, out,
                      "contribution %llu under this site's name was not made here: a copy of this "
                      "directory or machine has run, or "
                      "this directory is from an older backup. If no copy runs any more: start it "
                      "once with --restored",
                      (unsigned long long)state->foreign);
    } else if (entry.step.version <= state->replica_version) {
        MARK("ledger: a step that the snapshot has");
        step_taken(state, raw, &entry, out); /* the snapshot we started from has it */
    } else {
        state->applying = true;
        struct node_action *action = node_act(out, NODE_DO_APPLY);
        buffer_append(&action->bytes, raw.data, raw.size);
    }
}

void node_ledger_apply_again(struct node_state *state, struct node_actions *out) {
    if (!state->applying || state->queue_count == 0) return;
    const struct buffer *first = &state->queue[state->queue_head];
    buffer_append(&node_act(out, NODE_DO_APPLY)->bytes, first->data, first->size);
}

static void queue_put(struct node_state *state, struct bytes raw) {
    if (state->applying) MARK("ledger: an entry waits for a step");
    if (state->queue_count == state->queue_capacity) {
        size_t capacity = state->queue_capacity ? state->queue_capacity * 2 : 64;
        struct buffer *grown = xcalloc(capacity, sizeof *grown);
        for (size_t i = 0; i < state->queue_count; i++) {
            grown[i] = state->queue[(state->queue_head + i) % state->queue_capacity];
        }
        free(state->queue);
        state->queue = grown;
        state->queue_head = 0;
        state->queue_capacity = capacity;
    }
    struct buffer copy = {0};
    buffer_append(&copy, raw.data, raw.size);
    state->queue[(state->queue_head + state->queue_count++) % state->queue_capacity] = copy;
}

static void drain(struct node_state *state, struct node_actions *out) {
    while (state->queue_count > 0 && !state->applying && !state->halted) {
        struct buffer *first = &state->queue[state->queue_head];
        take(state, buffer_bytes(first), out);
        if (state->applying) return; /* a step stays at the head until it is applied */
        buffer_deinit(first);
        state->queue_head = (state->queue_head + 1) % state->queue_capacity;
        state->queue_count--;
    }
    if (!state->halted) check_head(state, out);
}

void node_ledger_entry(struct node_state *state, struct bytes raw, struct node_actions *out) {
    queue_put(state, raw);
    drain(state, out);
}

void node_ledger_applied(struct node_state *state, const struct node_event *event,
                         struct instant now, struct node_actions *out) {
    if (!state->applying || state->queue_count == 0) return;
    if (event->status != OK &&
        event->applied.lost) { /* nothing was touched: the step stays at the queue's head */
        node_payload_lost(state, event->applied.lost, now);
        return;
    }
    struct buffer first = state->queue[state->queue_head];
    state->queue_head = (state->queue_head + 1) % state->queue_capacity;
    state->queue_count--;
    state->applying = false;
    struct ledger_entry entry;
    struct error error = {0};
    if (event->status != OK) {
        node_halt(state, out, "a step cannot be applied: %.180s",
                  event->message ? event->message : status_name(event->status));
    } else if (ledger_entry_decode(buffer_bytes(&first), &entry, &error) != OK) {
        node_halt(state, out, "%.200s", error.message);
    } else if (entry.step.has_root &&
               memcmp(entry.step.root, event->applied.root, DIGEST_SIZE) != 0) {
        node_halt(state, out,
                  "state root differs at version %llu: this site's replica is not the model that "
                  "the ledger names",
                  (unsigned long long)entry.step.version);
    } else {
        step_taken(state, buffer_bytes(&first), &entry, out);
    }
    buffer_deinit(&first);
    drain(state, out);
}
