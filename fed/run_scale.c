/* Staleness, and the steps of a ledger: what each part of one is scaled by (fed/scale.h). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mark.h"
#include "base/memory.h"
#include "fed/outer_rate.h"
#include "fed/run_internal.h"

static uint64_t remembered_steps(const struct run_state *state, const struct fragment_slot *slot) {
    return MIN(slot->steps, (uint64_t)state->remembered);
}

/* The number of steps with a version above base; versions increase, so it is a search from the
 * newest back. */
uint64_t run_state_staleness(const struct run_state *state, uint32_t fragment,
                             uint64_t base_version) {
    if (fragment >= FRAGMENTS_LIMIT || !state->has_genesis) return 0;
    const struct fragment_slot *slot = &state->fragments[fragment];
    /* how many newest steps are above base */
    uint64_t low = 0, high = remembered_steps(state, slot);
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        uint64_t step = slot->steps - 1 - middle;
        if (slot->versions[step % state->remembered] > base_version)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == state->remembered && slot->steps > low) MARK("staleness: beyond what is remembered");
    return low == state->remembered && slot->steps > low ? UINT64_MAX : low;
}

uint32_t run_state_staleness_cap(const struct run_state *state, uint32_t fragment,
                                 uint64_t base_version) {
    if (fragment >= FRAGMENTS_LIMIT || !state->has_genesis) return 0;
    uint64_t missed = run_state_staleness(state, fragment, base_version);
    uint32_t most = presence_history_most(&state->fragments[fragment].present, missed);
    return cap_changes_at(&state->caps, base_version, most);
}

enum codec run_state_codec(const struct run_state *state, uint64_t base_version) {
    uint32_t at = state->codec_count;
    while (at > 1 && state->codecs[at - 1].from > base_version) at--;
    return state->codecs[at - 1].codec;
}

void run_note_codec(struct run_state *state, uint64_t from) {
    enum codec codec = (enum codec)state->manifest.codec.kind;
    /* two rules at one version: the later one alone */
    if (state->codec_count == 0 || state->codecs[state->codec_count - 1].from != from) {
        size_t count = state->codec_count + 1;
        state->codecs = xrealloc(state->codecs, count * sizeof *state->codecs);
        state->codec_count++;
    }
    state->codecs[state->codec_count - 1] = (struct codec_change){from, codec};
}

/* What was forgotten before stays forgotten. A message with a base so old is judged by a cap of
 * then, which it exceeds by the steps that are known. */
void run_remember(struct run_state *state, uint32_t cap) {
    uint32_t wanted = staleness_reach(cap);
    if (wanted <= state->remembered) return;
    uint32_t fragments = state->manifest.fragments, interval = state->manifest.root_interval;
    for (uint32_t f = 0; f < fragments; f++) {
        struct fragment_slot *slot = &state->fragments[f];
        uint64_t *versions = xcalloc(wanted, sizeof *versions);
        for (uint64_t back = 1; back <= remembered_steps(state, slot); back++) {
            uint64_t step = slot->steps - back;
            versions[step % wanted] = slot->versions[step % state->remembered];
        }
        free(slot->versions);
        slot->versions = versions;
        presence_history_reach(&slot->present, wanted);
    }
    uint64_t reach = (uint64_t)wanted * fragments, capacity = reach / interval + 2;
    struct root_slot *roots = xcalloc((size_t)capacity, sizeof *roots);
    for (uint64_t i = 0; i < state->root_capacity; i++)
        if (state->roots[i].known)
            roots[state->roots[i].version / interval % capacity] = state->roots[i];
    free(state->roots);
    state->roots = roots;
    state->root_capacity = capacity;
    state->root_reach = reach;
    state->remembered = wanted;
}

void run_note_present(struct run_state *state) {
    for (uint32_t f = 0; f < state->manifest.fragments; f++)
        presence_history_note(&state->fragments[f].present, state->present_sites);
}

struct clip_rules run_clip_rules(const struct run_state *state, uint32_t fragment) {
    return clip_rules_of(&state->manifest, state->inner_steps,
                         state->fragments[fragment].parameters);
}

double run_state_median_norm(const struct run_state *state, uint32_t fragment) {
    return fragment < FRAGMENTS_LIMIT ? state->fragments[fragment].clip.median : 0;
}

double run_state_norm_limit(const struct run_state *state, uint32_t fragment) {
    if (!state->has_genesis || fragment >= state->manifest.fragments) return (double)INFINITY;
    struct clip_rules rules = run_clip_rules(state, fragment);
    return clip_limit(&state->fragments[fragment].clip, &rules);
}

float run_scale_of(const struct run_state *state, uint32_t fragment,
                   const struct pending_slot *slot) {
    uint64_t staleness = slot->staleness + (state->fragments[fragment].steps - slot->steps);
    return scale_of(slot->pending.clip,
                    slot->pending.weight * staleness_weight_of(&state->manifest, staleness));
}

int64_t run_pending_at(const struct run_state *state, uint32_t fragment, uint64_t index) {
    const struct fragment_slot *slot = &state->fragments[fragment];
    int64_t low = 0, high = slot->count;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (slot->pending[middle].pending.index < index)
            low = middle + 1;
        else
            high = middle;
    }
    return low < slot->count && slot->pending[low].pending.index == index ? low : -1;
}

static bool root_is_due(const struct run_state *state, uint64_t version) {
    return version % state->manifest.root_interval == 0;
}

enum status run_check_step(const struct run_state *state, const struct ledger_entry *entry,
                           struct error *error) {
    uint32_t fragment = entry->step.fragment;
    if (fragment >= state->manifest.fragments)
        return error_set(error, INVALID, "fragment %u of %u", fragment, state->manifest.fragments);
    if (entry->step.version != state->version + 1)
        return error_set(error, INVALID, "version %llu after %llu",
                         (unsigned long long)entry->step.version,
                         (unsigned long long)state->version);
    if (entry->step.has_root != root_is_due(state, entry->step.version))
        return error_set(error, INVALID, "version %llu %s a state root, one in %u has one",
                         (unsigned long long)entry->step.version,
                         entry->step.has_root ? "has" : "lacks", state->manifest.root_interval);
    if (entry->step.count < 1 || entry->step.count > STEP_CONTRIBUTIONS_LIMIT)
        return error_set(error, INVALID, "%u contributions", entry->step.count);
    struct step_rules rules =
        step_rules_of(&state->manifest, state->inner_steps, state->present_sites);
    if (memcmp(&entry->step.rate, &rules.rate, sizeof rules.rate) != 0 ||
        entry->step.period != rules.period)
        return error_set(error, INVALID, "rate %.9g and period %u, the rules give %.9g and %u",
                         (double)entry->step.rate, entry->step.period, (double)rules.rate,
                         rules.period);
    for (uint16_t i = 0; i < entry->step.count; i++) {
        const struct step_part *part = &entry->step.parts[i];
        int64_t at = run_pending_at(state, fragment, part->index);
        if (at < 0 || (i > 0 && part->index <= part[-1].index))
            return error_set(
                error, INVALID,
                "part %u: entry %llu is not a waiting contribution of fragment %u, or out of order",
                i, (unsigned long long)part->index, fragment);
        float scale = run_scale_of(state, fragment, &state->fragments[fragment].pending[at]);
        if (memcmp(&scale, &part->scale, sizeof scale) != 0)
            return error_set(error, INVALID, "part %u: scale %.9g, the rules give %.9g", i,
                             (double)part->scale, (double)scale);
    }
    return OK;
}

void run_commit_step(struct run_state *state, const struct ledger_entry *entry) {
    uint32_t fragment = entry->step.fragment;
    struct fragment_slot *slot = &state->fragments[fragment];
    uint32_t kept = 0, part = 0;
    for (uint32_t i = 0; i < slot->count; i++) {
        const struct run_pending *pending = &slot->pending[i].pending;
        if (part < entry->step.count && pending->index == entry->step.parts[part].index) {
            struct site_slot *site = &state->sites[pending->contribution.site - 1];
            site->pending &= ~(UINT64_C(1) << fragment);
            site->site.last_scale = entry->step.parts[part].scale;
            part++;
        } else {
            slot->pending[kept++] = slot->pending[i];
        }
    }
    slot->count = kept;
    presence_history_step(&slot->present, state->present_sites);
    slot->versions[slot->steps++ % state->remembered] = entry->step.version;
    slot->version = state->version = entry->step.version;
    struct clip_rules rules = run_clip_rules(state, fragment);
    clip_step(&slot->clip, &rules, entry->time_ms, state->active_sites);
    if (!entry->step.has_root) return;
    struct root_slot *root =
        &state->roots[(state->version / state->manifest.root_interval) % state->root_capacity];
    root->known = true;
    root->version = state->root_version = state->version;
    memcpy(root->root, entry->step.root, DIGEST_SIZE);
}

void run_state_plan_step(const struct run_state *state, uint32_t fragment, uint16_t count,
                         struct ledger_entry *out) {
    ASSERT(count >= 1 && count <= STEP_CONTRIBUTIONS_LIMIT &&
           count <= run_state_pending_count(state, fragment));
    memset(out, 0, sizeof *out);
    out->kind = LEDGER_STEP;
    out->epoch = state->epoch;
    out->step.fragment = fragment;
    out->step.version = state->version + 1;
    out->step.count = count;
    struct step_rules rules =
        step_rules_of(&state->manifest, state->inner_steps, state->present_sites);
    out->step.rate = rules.rate;
    out->step.period = rules.period;
    for (uint16_t i = 0; i < count; i++) {
        const struct pending_slot *slot = &state->fragments[fragment].pending[i];
        out->step.parts[i] =
            (struct step_part){slot->pending.index, run_scale_of(state, fragment, slot)};
    }
}
