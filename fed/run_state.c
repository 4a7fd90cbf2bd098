/* The control half of the state machine (fed/run_state.h): creation and questions. Entries change
 * it in run_apply.c, scales are in run_scale.c. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "fed/run_internal.h"

struct run_state *run_state_create(void) {
    struct run_state *state = xcalloc(1, sizeof *state);
    state->tree = merkle_create();
    return state;
}

void run_state_destroy(struct run_state *state) {
    if (!state) return;
    for (uint32_t i = 0; i < state->site_count; i++) free(state->sites[i].records);
    for (size_t i = 0; i < FRAGMENTS_LIMIT; i++) {
        free(state->fragments[i].pending);
        free(state->fragments[i].versions);
        presence_history_deinit(&state->fragments[i].present);
        clip_deinit(&state->fragments[i].clip);
        weighing_deinit(&state->fragments[i].weights);
    }
    free(state->sites);
    free(state->invitations);
    free(state->roots);
    free(state->dropped);
    cap_changes_deinit(&state->caps);
    free(state->codecs);
    free(state->changes);
    merkle_destroy(state->tree);
    free(state);
}

uint64_t run_state_size(const struct run_state *state) { return state->size; }
const struct merkle *run_state_tree(const struct run_state *state) { return state->tree; }
bool run_state_has_genesis(const struct run_state *state) { return state->has_genesis; }
uint32_t run_state_rule_changes(const struct run_state *state) {
    return (uint32_t)MIN(state->change_count, (uint64_t)RULE_CHANGES_KEPT);
}
const struct rule_change *run_state_rule_change(const struct run_state *state, uint32_t back) {
    if (back >= run_state_rule_changes(state)) return NULL;
    return &state->changes[(state->change_count - 1 - back) % RULE_CHANGES_KEPT];
}
const struct manifest *run_state_manifest(const struct run_state *state) {
    return &state->manifest;
}
const struct manifest *run_state_genesis(const struct run_state *state) { return &state->genesis; }
const uint8_t *run_state_manifest_digest(const struct run_state *state) {
    return state->manifest_digest;
}
const uint8_t *run_state_layout_digest(const struct run_state *state) {
    return state->layout_digest;
}
const uint8_t *run_state_run_id(const struct run_state *state) { return state->run_id; }
const uint8_t *run_state_coordinator_key(const struct run_state *state) {
    return state->coordinator_key;
}
const uint8_t *run_state_initial_root(const struct run_state *state) { return state->initial_root; }
uint64_t run_state_parameters(const struct run_state *state) { return state->parameters; }
uint64_t run_state_version(const struct run_state *state) { return state->version; }
uint32_t run_state_epoch(const struct run_state *state) { return state->epoch; }
enum run_phase run_state_phase(const struct run_state *state) { return state->phase; }
const char *run_state_reason(const struct run_state *state) { return state->reason; }
uint32_t run_state_inner_steps(const struct run_state *state) { return state->inner_steps; }
uint64_t run_state_tokens(const struct run_state *state) { return state->tokens; }
uint64_t run_state_token_budget(const struct run_state *state) { return state->token_budget; }
bool run_state_is_spent(const struct run_state *state) {
    return state->token_budget != 0 && state->tokens >= state->token_budget;
}
uint32_t run_state_site_count(const struct run_state *state) { return state->site_count; }
uint32_t run_state_active_sites(const struct run_state *state) { return state->active_sites; }
uint32_t run_state_present_sites(const struct run_state *state) { return state->present_sites; }
uint32_t run_state_invitation_count(const struct run_state *state) {
    return state->invitation_count;
}

bool run_state_root_at(const struct run_state *state, uint64_t version,
                       uint8_t out[static DIGEST_SIZE]) {
    if (!state->has_genesis || version > state->version ||
        state->version - version > state->root_reach ||
        version % state->manifest.root_interval != 0)
        return false;
    const struct root_slot *slot =
        &state->roots[(version / state->manifest.root_interval) % state->root_capacity];
    if (!slot->known || slot->version != version) return false;
    memcpy(out, slot->root, DIGEST_SIZE);
    return true;
}

void run_state_root(const struct run_state *state, uint64_t *version,
                    uint8_t out[static DIGEST_SIZE]) {
    *version = state->root_version;
    if (state->has_genesis) {
        uint64_t number = state->root_version / state->manifest.root_interval;
        memcpy(out, state->roots[number % state->root_capacity].root, DIGEST_SIZE);
    } else {
        memset(out, 0, DIGEST_SIZE);
    }
}

const struct site_slot *run_site_slot(const struct run_state *state, uint32_t site) {
    return site >= 1 && site <= state->site_count ? &state->sites[site - 1] : NULL;
}

const struct run_site *run_state_site(const struct run_state *state, uint32_t site) {
    const struct site_slot *slot = run_site_slot(state, site);
    return slot ? &slot->site : NULL;
}

bool run_state_is_present(const struct run_state *state, uint32_t site) {
    const struct site_slot *slot = run_site_slot(state, site);
    return slot && !slot->site.revoked && slot->site.role == SITE_TRAINS &&
           slot->site.presence == SITE_PRESENT;
}

const struct run_site *run_state_site_named(const struct run_state *state, const char *name) {
    for (uint32_t i = state->site_count; i > 0; i--)
        if (strcmp(state->sites[i - 1].site.name, name) == 0) return &state->sites[i - 1].site;
    return NULL;
}

const struct run_invitation *run_state_invitation(const struct run_state *state,
                                                  const uint8_t digest[static DIGEST_SIZE]) {
    for (uint32_t i = 0; i < state->invitation_count; i++)
        if (memcmp(state->invitations[i].secret_digest, digest, DIGEST_SIZE) == 0)
            return &state->invitations[i];
    return NULL;
}

const struct run_invitation *run_state_open_invitation(const struct run_state *state,
                                                       const char *name) {
    for (uint32_t i = state->invitation_count; i-- > 0;)
        if (state->invitations[i].end == INVITATION_OPEN &&
            strcmp(state->invitations[i].name, name) == 0)
            return &state->invitations[i];
    return NULL;
}

const struct run_invitation *run_state_invitation_at(const struct run_state *state, uint32_t at) {
    ASSERT(at < state->invitation_count);
    return &state->invitations[at];
}

uint32_t run_state_pending_count(const struct run_state *state, uint32_t fragment) {
    return fragment < FRAGMENTS_LIMIT ? state->fragments[fragment].count : 0;
}

double dylu_share(double before, double rate, double fastest) {
    bool is_slower = fastest > 0 && isfinite(fastest) && rate < fastest;
    double share = is_slower ? rate / fastest : 1;
    if (before > 0 && fabs(share - before) <= DYLU_MOVED * fmax(share, before)) return before;
    return share >= DYLU_SAME ? 1 : share;
}

uint32_t dylu_steps(uint32_t inner_steps, double share) {
    enum { SLOWEST_SHARE = 8 };
    uint32_t least = MAX(inner_steps / SLOWEST_SHARE, 1);
    /* 0.3 / 0.1 is 3, whatever fp64 says */
    double scaled = floor(share * inner_steps * (1 + 1e-12));
    if (!(scaled > least)) return least;
    return MIN((uint32_t)scaled, inner_steps);
}

uint32_t dylu_inner_steps(uint32_t inner_steps, double rate, double fastest) {
    return dylu_steps(inner_steps, dylu_share(0, rate, fastest));
}

void dylu_note(struct dylu_rates *rates, double rate) {
    rates->count++;
    if (rate > rates->first) {
        rates->second = rates->first;
        rates->first = rate;
    } else if (rate > rates->second) {
        rates->second = rate;
    }
}

double dylu_fastest(const struct dylu_rates *rates) {
    return rates->count > 2 ? rates->second : rates->first;
}

bool run_state_site_pending(const struct run_state *state, uint32_t site) {
    const struct site_slot *slot = run_site_slot(state, site);
    return slot && slot->pending != 0;
}

const struct run_pending *run_state_pending(const struct run_state *state, uint32_t fragment,
                                            uint32_t at) {
    ASSERT(at < run_state_pending_count(state, fragment));
    return &state->fragments[fragment].pending[at].pending;
}

uint64_t run_state_fragment_version(const struct run_state *state, uint32_t fragment) {
    return fragment < FRAGMENTS_LIMIT ? state->fragments[fragment].version : 0;
}

uint64_t digest_prefix(const uint8_t digest[static DIGEST_SIZE]) {
    uint64_t prefix;
    memcpy(&prefix, digest, sizeof prefix);
    return prefix;
}

const struct sequence_record *run_record(const struct site_slot *slot, uint64_t sequence) {
    uint64_t low = 0, high = slot->count;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (slot->records[middle].sequence < sequence)
            low = middle + 1;
        else
            high = middle;
    }
    return low < slot->count && slot->records[low].sequence == sequence ? &slot->records[low]
                                                                        : NULL;
}

bool run_state_find(const struct run_state *state, uint32_t site, uint64_t sequence,
                    uint64_t *index) {
    const struct site_slot *slot = run_site_slot(state, site);
    const struct sequence_record *record = slot ? run_record(slot, sequence) : NULL;
    if (record) *index = record->index;
    return record != NULL;
}

size_t run_state_dropped_count(const struct run_state *state) { return state->dropped_count; }
uint64_t run_state_dropped_at(const struct run_state *state, size_t at) {
    return state->dropped[at];
}

bool run_state_dropped(const struct run_state *state, uint64_t index) {
    for (size_t i = 0; i < state->dropped_count; i++)
        if (state->dropped[i] == index) return true;
    return false;
}

/* Boundaries lie at whole chunks, as evenly as those allow: with c whole chunks, fragment f starts
 * at chunk floor(c * f / n). */
void fragment_range(uint64_t parameters, uint32_t fragments, uint32_t fragment, uint64_t *start,
                    uint64_t *count) {
    ASSERT(fragment < fragments && fragments <= FRAGMENTS_LIMIT);
    const uint64_t chunk = 4096, chunks = parameters / chunk;
    uint64_t end =
        fragment + 1 == fragments ? parameters : chunks * (fragment + 1) / fragments * chunk;
    *start = chunks * fragment / fragments * chunk;
    *count = end - *start;
}

uint64_t fragment_largest(uint64_t parameters, uint32_t fragments) {
    uint64_t largest = 0;
    for (uint32_t fragment = 0; fragment < fragments; fragment++) {
        uint64_t start, count;
        fragment_range(parameters, fragments, fragment, &start, &count);
        largest = MAX(largest, count);
    }
    return largest;
}
