/* What holds of the site's state between two events, whatever came before, and how a slot may go
 * from one phase to the next. A violation is a fault of this program: it ends here, before a
 * message is made from a state that contradicts itself. Nothing that the coordinator says can bring
 * one about. */
#include "node/node_state_internal.h"

#define TO(phase_) (1u << (phase_))

/* By the phase that is left. A message may turn out to be merged, or dropped, in any phase in which
 * there is one: the ledger does not wait for the answer to an upload. */
static const unsigned next_phases[] = {
    [SLOT_TRAINING] = TO(SLOT_SNAPSHOT),
    [SLOT_SNAPSHOT] = TO(SLOT_ENCODING) | TO(SLOT_TRAINING), /* a trainer that is gone */
    [SLOT_ENCODING] = TO(SLOT_TRAINING) | TO(SLOT_UPLOADING) | TO(SLOT_BACKOFF),
    [SLOT_UPLOADING] = TO(SLOT_BACKOFF) | TO(SLOT_ACCEPTED) | TO(SLOT_MERGING) | TO(SLOT_RESTORING),
    [SLOT_BACKOFF] = TO(SLOT_BACKOFF) | TO(SLOT_UPLOADING) | TO(SLOT_MERGING) | TO(SLOT_RESTORING),
    [SLOT_ACCEPTED] = TO(SLOT_UPLOADING) | TO(SLOT_BACKOFF) | TO(SLOT_MERGING) | TO(SLOT_RESTORING),
    [SLOT_MERGING] = TO(SLOT_TRAINING),
    /* a coordinator that refuses what another one has in the ledger */
    [SLOT_RESTORING] = TO(SLOT_TRAINING) | TO(SLOT_MERGING),
};

/* A message that was in the spool at a start goes on where it stood. */
static const unsigned phases_of_spooled = TO(SLOT_UPLOADING) | TO(SLOT_BACKOFF) |
                                          TO(SLOT_ACCEPTED) | TO(SLOT_MERGING) | TO(SLOT_RESTORING);

void node_slot_enter(struct slot *slot, enum slot_phase phase) {
    bool is_spooled = slot->phase == SLOT_TRAINING && slot->encoded;
    ASSERT((is_spooled ? phases_of_spooled : next_phases[slot->phase]) & TO(phase));
    slot->phase = phase;
}

static void check_slot(const struct node_state *state, const struct slot *slot) {
    switch (slot->phase) {
    case SLOT_TRAINING:
        ASSERT(slot->sequence == 0);
        ASSERT(!slot->encoded);
        break;
    case SLOT_SNAPSHOT:
    case SLOT_ENCODING:
        ASSERT(slot->sequence > 0);
        ASSERT(!slot->encoded);
        ASSERT(!slot->moving); /* the delta starts at the base that its header names */
        break;
    case SLOT_UPLOADING:
    case SLOT_BACKOFF:
    case SLOT_ACCEPTED:
    case SLOT_RESTORING:
        ASSERT(slot->sequence > 0);
        ASSERT(slot->encoded);
        break;
    case SLOT_MERGING:
        ASSERT(slot->sequence > 0);
        ASSERT(slot->steps_in_flight == 0 && slot->tokens_in_flight == 0);
        break;
    }
    ASSERT(slot->sequence <= state->sequence);
    ASSERT(slot->moving || !slot->owed);
    ASSERT(slot->moving || slot->phase < SLOT_MERGING);
    ASSERT(!slot->in_ledger || slot->encoded);
    ASSERT(!slot->in_ledger || slot->index < run_state_size(state->run));
}

static void check_slots(const struct node_state *state) {
    uint32_t making = 0;
    for (uint32_t i = 0; i < state->fragments; i++) {
        const struct slot *slot = &state->slots[i];
        check_slot(state, slot);
        making += slot->phase == SLOT_SNAPSHOT || slot->phase == SLOT_ENCODING;
        for (uint32_t j = 0; j < i && slot->sequence > 0; j++)
            ASSERT(state->slots[j].sequence != slot->sequence);
    }
    /* the next message names the one before it */
    ASSERT(making <= 1);
}

static void check_link(const struct node_state *state) {
    ASSERT(!state->heartbeat_open || state->link == LINK_UP);
    ASSERT(!state->refetching || state->lost != 0);
    ASSERT(state->wanted_next <= state->wanted_count);
    ASSERT(state->wanted_count <= NODE_WANTED_LIMIT);
}

void node_check(const struct node_state *state) {
    if (!state->started || state->halted) return;
    ASSERT(run_state_has_genesis(state->run) == (state->fragments > 0));
    ASSERT(state->fragments <= FRAGMENTS_LIMIT);
    /* Entries wait for a step that is being applied, and for nothing else. */
    ASSERT(state->applying == (state->queue_count > 0));
    ASSERT(state->queue_count <= state->queue_capacity);
    check_slots(state);
    check_link(state);
    if (!run_state_has_genesis(state->run)) {
        ASSERT(!state->training);
        return;
    }
    /* the rules never speak of a version that the replica has not reached */
    ASSERT(run_state_version(state->run) <= state->replica_version);
    ASSERT(!state->training || run_state_phase(state->run) == RUN_ACTIVE);
    ASSERT(!state->training || !state->catching_up);
    ASSERT(!state->finishing || run_state_phase(state->run) == RUN_STOPPED);
    ASSERT(!state->has_left || (state->leaving && !state->training));
}
