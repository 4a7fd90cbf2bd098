/* The planner's life: set up, events in order, the sums at the end. */
#include "plan/plan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "plan/plan_internal.h"

const char *const plan_cause_names[PLAN_CAUSES] = {
    "useful",      "copy",        "rework",      "repair",      "restart",   "start",
    "wait_encode", "wait_upload", "wait_outage", "wait_quorum", "wait_down", "absent"};
const char *const plan_phase_names[PLAN_PHASES] = {"encode", "upload", "check", "merge", "return"};

/* ---- events ---------------------------------------------------------------------------------- */

static bool before(const void *first, const void *second) {
    const struct plan_event *a = first, *b = second;
    return a->at < b->at || (a->at == b->at && a->order < b->order);
}

void *plan_grow(void *items, size_t count, size_t *capacity, size_t size) {
    if (count < *capacity) return items;
    *capacity = *capacity ? *capacity * 2 : 16;
    return xrealloc(items, *capacity * size);
}

void plan_post(struct plan *plan, double at, enum plan_event_kind kind, uint32_t site,
               uint32_t fragment, uint64_t number, int64_t steps) {
    if (!(at <= plan->end)) return; /* also INFINITY: never */
    struct plan_event event = {
        fmax(at, plan->now), plan->order++, kind, site, fragment, number, steps};
    heap_push(&plan->events, &event);
}

/* ---- rates over time ------------------------------------------------------------------------- */

static void spread(double *buckets, size_t count, double width, double from, double to,
                   double bytes) {
    size_t first = MIN((size_t)(from / width), count - 1),
           last = MIN((size_t)(to / width), count - 1);
    if (first == last || !(to > from)) {
        buckets[last] += bytes;
        return;
    }
    for (size_t bucket = first; bucket <= last; bucket++) {
        double low = fmax(from, (double)bucket * width),
               high = bucket == last ? to : (double)(bucket + 1) * width;
        buckets[bucket] += bytes * (high - low) / (to - from);
    }
}

enum { PEAK_BUCKETS = 8640 };

void plan_count_bytes(struct plan *plan, bool in, double from, double to, double bytes) {
    if (to - from > plan->bucket_width * 4) from = to - plan->bucket_width * 4;
    spread(in ? plan->peak_in : plan->peak_out, PEAK_BUCKETS, plan->peak_width, from, to, bytes);
    spread(in ? plan->out->series_in : plan->out->series_out, PLAN_BUCKETS, plan->bucket_width,
           from, to, bytes);
}

/* ---- life ------------------------------------------------------------------------------------ */

/* Bits per parameter of a message; docs/codec.md. */
static void set_up_site(struct plan *plan, uint32_t number, uint64_t seed) {
    struct site_now *site = &plan->sites[number];
    site->out = &plan->out->sites[number];
    site->out->place = topology_place(plan->topology, number, seed);
    site->group_index = site->out->place.group;
    site->group = &plan->topology->groups[site->group_index];
    site->step = site->out->place.step;
    site->cap_up = topology_rate_up(&site->group->link);
    site->cap_down = topology_rate_down(&site->group->link);
    site->one_way = site->group->link.rtt / 2;
    site->slots = xcalloc(plan->fragments, sizeof *site->slots);
    for (uint32_t fragment = 0; fragment < plan->fragments; fragment++)
        site->slots[fragment].sequence = 1;
    site->cause = PLAN_ABSENT;
    site->heard = -INFINITY;
    random_init(&site->faults, random_hash(seed, 2 * (uint64_t)number + 1));
    random_init(&site->jitter, random_hash(seed, 2 * (uint64_t)number + 2));
    plan_post(plan, site->group->joins, EV_JOIN, number, 0, 0, 0);
    plan_post(plan, site->group->leaves, EV_LEAVE, number, 0, 0, 0);
}

bool plan_ignores(const char *key) {
    static const char *const counting[] = {
        "inner.inner_steps",   "inner.dylu",         "merge.quorum",       "merge.grace",
        "merge.staleness_cap", "merge.warmup_steps", "merge.warmup_grace", "merge.away_after"};
    for (size_t i = 0; i < COUNT_OF(counting); i++)
        if (strcmp(counting[i], key) == 0) return false;
    return true;
}

void plan_rules(const struct topology *topology, struct manifest *out) {
    manifest_defaults(out);
    strcpy(out->name, "plan");
    rules_begin(&topology->run, out);
    if (out->outer.mode == OUTER_SPARSE) return;
    out->outer.momentum = 0.9;
    out->codec.decay = 0;
}

static void take_merge(struct plan *plan) {
    plan->merge = merge_settings_of(&plan->rules);
    plan->merge.grace /= 1000; /* the time here is in seconds */
    plan->merge.warmup_grace /= 1000;
    plan->merge.away_after /= 1000;
}

void plan_note_cap(struct plan *plan, uint64_t from) {
    uint32_t cap = plan->rules.merge.staleness_cap;
    cap_changes_note(&plan->caps, from, cap);
    for (uint32_t i = 0; i < plan->fragments; i++)
        presence_history_reach(&plan->presences[i], staleness_reach(cap));
}

/* As a RULE entry: from the next version on. */
static void change_rule(struct plan *plan, const struct rules_change *change) {
    MUST(manifest_change(&plan->rules, change->key, change->value, &plan->rules, NULL, NULL));
    take_merge(plan);
    plan_note_cap(plan, plan->version + 1);
    site_rules_changed(plan);
    coordinator_consider(plan);
}

static void set_up(struct plan *plan, const struct topology *topology, uint64_t seed,
                   double quantum, struct plan_result *out) {
    const struct topology_coordinator *machine = &topology->coordinator;
    plan->topology = topology;
    plan->out = out;
    heap_init(&plan->events, sizeof(struct plan_event), before);
    plan->end = topology->duration;
    plan->fragments = (uint32_t)topology->run.fragments;
    plan->fragment_parameters = topology->model.parameters / plan->fragments;
    double bits = isnan(topology->run.bits) ? codec_bits(topology->run.codec) : topology->run.bits;
    plan->payload = ceil(bits / 8 * plan->fragment_parameters) + 12;
    plan->apply_step = machine->step * plan->fragment_parameters;
    plan->apply_part = machine->decode * plan->fragment_parameters;
    plan_rules(topology, &plan->rules);
    take_merge(plan);
    plan_note_cap(plan, 0);
    plan->up = true;
    plan->level = INFINITY;
    plan->tick_at = plan->window_at = INFINITY;
    plan->site_count = topology->site_count;
    plan->quantum = fmax(
        plan->site_count <= PLAN_EXACT_SITES ? 0 : plan->end * plan->site_count / 1e8, quantum);
    plan->peak_width = fmax(plan->end / PEAK_BUCKETS, fmin(10, plan->end));
    plan->bucket_width = plan->end / PLAN_BUCKETS;
    plan->peak_in = xcalloc(PEAK_BUCKETS, sizeof *plan->peak_in);
    plan->peak_out = xcalloc(PEAK_BUCKETS, sizeof *plan->peak_out);
    plan->step_parts = xcalloc(STEP_CONTRIBUTIONS_LIMIT, sizeof *plan->step_parts);
    plan->seen = xcalloc(topology->group_count, sizeof *plan->seen);
    plan->sites = xcalloc(plan->site_count, sizeof *plan->sites);
    out->sites = xcalloc(plan->site_count, sizeof *out->sites);
    out->seconds_to_target = topology->target_tokens > 0 ? INFINITY : NAN;
    random_init(&plan->random, random_hash(seed, 0));
    double replay = 0;
    for (uint32_t group = 0; group < topology->group_count; group++)
        replay = fmax(replay, topology->groups[group].decode);
    plan->replay_part = replay * plan->fragment_parameters;
    plan->replay_step = replay * plan->fragment_parameters;
    for (uint32_t i = 0; i < plan->site_count; i++) set_up_site(plan, i, seed);
    plan_post(plan, topology_fault_gap(&machine->outage, &plan->random), EV_DOWN, 0, 0, 0, 0);
    plan_post(plan, machine->outage.at, EV_DOWN, 0, 1, 0, 0);
}

static void tear_down(struct plan *plan) {
    for (uint32_t i = 0; i < plan->site_count; i++) {
        free(plan->sites[i].slots);
        free(plan->sites[i].queue);
    }
    for (uint32_t fragment = 0; fragment < FRAGMENTS_LIMIT; fragment++) {
        free(plan->pending[fragment].items);
        free(plan->fragment_versions[fragment]);
        presence_history_deinit(&plan->presences[fragment]);
    }
    cap_changes_deinit(&plan->caps);
    free(plan->sites);
    heap_deinit(&plan->events);
    free(plan->step_parts);
    free(plan->commits);
    free(plan->flows);
    free(plan->log);
    free(plan->marks);
    free(plan->seen);
    free(plan->peak_in);
    free(plan->peak_out);
}

/* ---- sums ------------------------------------------------------------------------------------ */

static void sum_site(struct plan *plan, struct site_now *site) {
    struct plan_result *out = plan->out;
    struct plan_site *own = site->out;
    double present = plan->end - own->time[PLAN_ABSENT],
           linked = present - own->time[PLAN_REPAIR] - own->time[PLAN_RESTART];
    own->sent += fmax(0, linked) / HEARTBEAT_SECONDS * WIRE_HEARTBEAT_UP;
    own->received += fmax(0, linked) / HEARTBEAT_SECONDS * WIRE_HEARTBEAT_DOWN;
    own->received += own->received_lost; /* as sent to it, as `sent` is as sent by it */
    own->useful_steps = own->time[PLAN_USEFUL] / site->step;
    own->tokens = own->useful_steps * site->group->batch_tokens;
    own->busy = present > 0 ? own->time[PLAN_USEFUL] / present : 0;
    own->tokens_per_second = present > 0 ? own->tokens / present : 0;
    own->cost = own->sent / 1e9 * site->group->link.price;
    out->up_bytes += own->sent;
    out->down_bytes += own->received;
    out->up_lost += own->sent_lost;
    out->down_lost += own->received_lost;
    out->cost_sites += own->cost;
    out->goodput_tokens += own->tokens;
}

/* A message that takes longer from its base to its entry than `cap` steps of its fragment is
 * refused, and so is the next one. */
static void name_starved(struct plan *plan) {
    struct plan_result *out = plan->out;
    const char *first = NULL;
    uint64_t refused = 0, merged = 0;
    for (uint32_t i = 0; i < out->site_count; i++) {
        struct plan_site *site = &out->sites[i];
        site->starved = site->refused_stale >= 3 && site->refused_stale > site->merged;
        if (!site->starved) continue;
        if (!first) first = site->place.name;
        out->starved_sites++;
        out->cap_wanted = MAX(out->cap_wanted, site->refused_most);
        refused += site->refused_stale;
        merged += site->merged;
    }
    if (!first) return;
    snprintf(out->binding, sizeof out->binding,
             "the staleness cap of %u against upload time: %u site%s (%s%s) had %llu messages "
             "refused and %llu merged, for "
             "they take "
             "up to %llu steps to come",
             out->cap_most, out->starved_sites, out->starved_sites > 1 ? "s" : "", first,
             out->starved_sites > 1 ? ", ..." : "", (unsigned long long)refused,
             (unsigned long long)merged, (unsigned long long)out->cap_wanted);
}

static void name_binding(struct plan *plan) {
    struct plan_result *out = plan->out;
    double phase[PLAN_PHASES] = {0}, merged = 0;
    for (uint32_t i = 0; i < out->site_count; i++) {
        for (size_t j = 0; j < PLAN_PHASES; j++) phase[j] += out->sites[i].phase[j];
        merged += (double)out->sites[i].merged;
    }
    size_t most = 0;
    for (size_t j = 1; j < PLAN_PHASES; j++)
        if (phase[j] > phase[most]) most = j;
    static const char *const words[PLAN_PHASES] = {
        "encoding at the sites", "the sites' uplinks (or BUSY and retries)",
        "the coordinator's intake and disk", "quorum and grace window",
        "the downlinks and replay at the sites"};
    const char *what = words[most];
    if (out->model_busy > 0.95 * plan->end)
        what = "the coordinator's model thread: outer steps one by one";
    if (out->intake_busy > 0.95 * plan->end) what = "the coordinator's intake thread";
    if (out->down_bytes > 0.9 * plan->topology->coordinator.up * plan->end)
        what = "the coordinator's uplink, shared by all downlinks";
    if (plan->topology->run.overlap && merged > 0 &&
        out->effective_inner_steps <= 1.1 * out->wanted_inner_steps)
        what = "nothing: rounds return within H steps";
    snprintf(out->binding, sizeof out->binding, "%s", what);
}

static void sum_up(struct plan *plan) {
    struct plan_result *out = plan->out;
    const struct topology_run *run = &plan->topology->run;
    double merged = 0, steps = 0, useful = 0, present = 0;
    for (uint32_t i = 0; i < plan->site_count; i++) {
        struct site_now *site = &plan->sites[i];
        sum_site(plan, site);
        merged += (double)site->out->merged;
        steps += site->out->steps_sent;
        useful += site->out->time[PLAN_USEFUL];
        present += plan->end - site->out->time[PLAN_ABSENT];
    }
    out->duration = plan->end;
    out->site_count = plan->site_count;
    out->site_limit = SITES_LIMIT;
    out->round_bytes = plan->payload;
    out->busy = present > 0 ? useful / present : 0;
    out->effective_inner_steps = merged > 0 ? steps / merged : 0;
    out->wanted_inner_steps =
        merged > 0 ? plan->wanted_steps / merged : (double)plan->rules.inner.inner_steps;
    out->up_received = out->up_bytes - out->up_lost;
    out->down_received = out->down_bytes - out->down_lost;
    out->uplink_bits = merged > 0 ? out->up_bytes * 8 / (merged * plan->fragment_parameters) : 0;
    out->cost_egress = out->down_bytes / 1e9 * plan->topology->coordinator.price_out;
    out->cost_hours = plan->end / 3600 * plan->topology->coordinator.price_hour;
    for (size_t i = 0; i < PEAK_BUCKETS; i++) {
        out->peak_in = fmax(out->peak_in, plan->peak_in[i] / plan->peak_width);
        out->peak_out = fmax(out->peak_out, plan->peak_out[i] / plan->peak_width);
    }
    for (size_t i = 0; i < PLAN_BUCKETS; i++) {
        out->series_busy[i] /= plan->bucket_width * plan->site_count;
        out->series_in[i] /= plan->bucket_width;
        out->series_out[i] /= plan->bucket_width;
    }
    name_binding(plan);
    name_starved(plan);
    /* TLS 1.06 GB/s and SHA-256 1.4 GB/s a core, Ed25519 100 us to verify and 40 to sign: measured
     * (docs/planning.md). */
    double crypto = (out->up_bytes + out->down_bytes) / 1.06e9 + out->up_bytes / 1.4e9 +
                    (double)out->contributions * 140e-6;
    out->cpu_cores = (crypto + out->intake_busy + out->model_busy) / plan->end;
    out->intake_busy /= plan->end;
    out->model_busy /= plan->end;
    out->step_apply = plan->apply_step + plan->apply_part;
    double parameters = plan->topology->model.parameters,
           snapshot = (run->mode == OUTER_DENSE ? 12 : 10) * parameters;
    out->ram = snapshot + 3 * 4 * plan->fragment_parameters + 102e3 * plan->site_count +
               64 * (double)out->entries + 24 * (double)out->contributions + 64e6;
    out->disk = (double)out->contributions * (plan->payload + 400) + 2 * snapshot +
                (double)out->entries * 400;
    out->events = plan->order;
    out->quantum = plan->quantum;
}

void plan_run(const struct topology *topology, const struct rules_change *changes,
              size_t change_count, uint64_t seed, struct plan_result *out) {
    plan_run_coarse(topology, changes, change_count, seed, 0, out);
}

void plan_run_coarse(const struct topology *topology, const struct rules_change *changes,
                     size_t change_count, uint64_t seed, double quantum, struct plan_result *out) {
    struct plan *plan = xcalloc(1, sizeof *plan);
    memset(out, 0, sizeof *out);
    set_up(plan, topology, seed, quantum, out);
    for (size_t i = 0; i < change_count; i++) plan_post(plan, changes[i].at, EV_RULE, 0, 0, i, 0);
    while (plan->events.count) {
        struct plan_event event;
        heap_remove(&plan->events, 0, &event);
        plan->now = event.at;
        if (event.kind == EV_RULE)
            change_rule(plan, &changes[event.number]);
        else if (event.kind < EV_OPEN)
            site_event(plan, &event);
        else
            coordinator_event(plan, &event);
    }
    plan->now = plan->end;
    site_finish(plan);
    sum_up(plan);
    tear_down(plan);
    free(plan);
}

void plan_result_deinit(struct plan_result *result) {
    free(result->sites);
    *result = (struct plan_result){0};
}

uint64_t plan_staleness(const struct plan_result *result, double share) {
    double all = 0, sum = 0;
    for (size_t i = 0; i < PLAN_STALENESS_MAX; i++) all += (double)result->staleness[i];
    for (size_t i = 0; i < PLAN_STALENESS_MAX; i++) {
        sum += (double)result->staleness[i];
        if (sum > 0 && sum >= share * all) return i;
    }
    return 0;
}

double plan_share(const struct plan_result *result, enum plan_cause cause) {
    double sum = 0, present = 0;
    for (uint32_t i = 0; i < result->site_count; i++) {
        sum += result->sites[i].time[cause];
        present += result->duration - result->sites[i].time[PLAN_ABSENT];
    }
    return present > 0 ? sum / present : 0;
}
