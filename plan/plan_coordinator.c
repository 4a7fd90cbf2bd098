/* The coordinator of a plan: intake, group commits, outer steps; what coordinator_state decides, on
 * sizes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "fed/ledger.h"
#include "plan/plan_internal.h"

uint64_t plan_staleness_of(const struct plan *plan, uint32_t fragment, uint64_t base,
                           uint64_t now) {
    const uint64_t *versions = plan->fragment_versions[fragment];
    size_t low = 0, high = plan->fragment_count[fragment];
    while (low < high) { /* the first step after base */
        size_t middle = (low + high) / 2;
        if (versions[middle] > base)
            high = middle;
        else
            low = middle + 1;
    }
    size_t count = plan->fragment_count[fragment] - low;
    while (count && versions[low + count - 1] > now) count--;
    return count;
}

/* Older than the cap; and if so, counts it. */
static bool refused_as_stale(struct plan *plan, const struct plan_event *event) {
    struct plan_site *out = plan->sites[event->site].out;
    uint64_t base = plan->sites[event->site].slots[event->fragment].base;
    uint64_t staleness = plan_staleness_of(plan, event->fragment, base, plan->version);
    uint32_t most = presence_history_most(&plan->presences[event->fragment], staleness);
    uint32_t cap = cap_changes_at(&plan->caps, base, most);
    plan->out->cap_most = MAX(plan->out->cap_most, cap);
    if (staleness <= cap) return false;
    plan->out->refused_stale++;
    out->refused_stale++;
    out->refused_most = MAX(out->refused_most, staleness);
    return true;
}

/* ---- intake ---------------------------------------------------------------------------------- */

static double latency(struct plan *plan, uint32_t site) {
    return plan->sites[site].one_way + site_jitter(&plan->sites[site]);
}

static void answer(struct plan *plan, enum plan_event_kind kind, const struct plan_event *about) {
    plan->sites[about->site].out->received += WIRE_RECEIPT;
    plan_post(plan, plan->now + latency(plan, about->site), kind, about->site, about->fragment,
              about->number, 0);
}

/* The header has come. */
static void opened(struct plan *plan, const struct plan_event *event) {
    struct site_now *site = &plan->sites[event->site];
    struct plan_slot *slot = &site->slots[event->fragment];
    if (slot->sequence != event->number || slot->state != IN_UPLOADING) return;
    if (!plan->up || site->cut) return; /* its link's end tells it */
    site->out->sent += WIRE_SUBMIT;
    if (slot->entered) {
        answer(plan, EV_RECEIPT, event);
    } else if (refused_as_stale(plan, event)) {
        answer(plan, EV_REFUSED, event);
    } else if (plan->uploads + plan->waiting_commits >= plan->topology->coordinator.uploads) {
        plan->out->busy_answers++;
        site->out->busy_answers++;
        answer(plan, EV_BUSY, event);
    } else {
        /* Credit goes back and the first byte comes; slow start from ten segments costs further
         * round trips, as long as the window that the rate needs is not reached or the message is
         * through. */
        double rtt = 2 * site->one_way, left = plan->payload * WIRE_SHARE - slot->got;
        double reach = fmin(site->cap_up * rtt, left) / 14480;
        double rounds = reach > 1 && isfinite(reach) ? floor(log(reach) / log(2.0)) : 0;
        plan->uploads++;
        plan_post(plan, plan->now + rtt * (1 + 0.5 * rounds) + site_jitter(site), EV_DATA,
                  event->site, event->fragment, event->number, (int64_t)plan->life);
    }
}

static void data_begins(struct plan *plan, const struct plan_event *event) {
    struct site_now *site = &plan->sites[event->site];
    struct plan_slot *slot = &site->slots[event->fragment];
    if ((uint64_t)event->steps != plan->life) return;
    if (slot->sequence != event->number || slot->state != IN_UPLOADING || site->uploading) {
        plan->uploads--;
        return;
    }
    ingress_begin(plan, event->site, event->fragment,
                  fmax(plan->payload * WIRE_SHARE - slot->got, 1), site->cap_up);
}

void coordinator_uploaded(struct plan *plan, uint32_t site, uint32_t fragment) {
    const struct topology_coordinator *machine = &plan->topology->coordinator;
    struct plan_slot *slot = &plan->sites[site].slots[fragment];
    double phase = plan->now - slot->phase_at;
    slot->phase[PLAN_UPLOADING] += phase;
    slot->phase_at = plan->now;
    double work = plan->payload / machine->disk_rate + machine->commit / 2 +
                  machine->decode * plan->fragment_parameters;
    plan->intake_free = fmax(plan->intake_free, plan->now) + work;
    plan->out->intake_busy += work;
    plan_post(plan, plan->intake_free, EV_CHECKED, site, fragment, slot->sequence,
              (int64_t)plan->life);
}

/* ---- commits --------------------------------------------------------------------------------- */

static void sync_next(struct plan *plan) {
    if (plan->syncing || plan->commit_count == 0) return;
    plan->syncing = true;
    plan->syncing_count = (uint32_t)plan->commit_count;
    plan_post(plan, plan->now + plan->topology->coordinator.commit, EV_SYNCED, 0, 0, plan->life, 0);
}

static void commit(struct plan *plan, struct plan_commit item) {
    plan->commits =
        plan_grow(plan->commits, plan->commit_count, &plan->commit_capacity, sizeof *plan->commits);
    plan->commits[plan->commit_count++] = item;
    sync_next(plan);
}

static void checked(struct plan *plan, const struct plan_event *event) {
    struct site_now *site = &plan->sites[event->site];
    struct plan_slot *slot = &site->slots[event->fragment];
    plan->uploads--;
    if (slot->sequence != event->number || slot->entered) return;
    if (refused_as_stale(plan, event)) {
        answer(plan, EV_REFUSED, event);
        return;
    }
    slot->entered = true;
    struct plan_part part = {event->site, event->fragment, slot->base, event->number, slot->steps};
    struct plan_pending *pending = &plan->pending[event->fragment];
    size_t capacity = pending->capacity;
    pending->items = plan_grow(pending->items, pending->count, &capacity, sizeof *pending->items);
    pending->capacity = (uint32_t)capacity;
    pending->items[pending->count++] = part;
    slot->phase[PLAN_CHECKING] += plan->now - slot->phase_at;
    slot->phase_at = plan->now;
    plan->out->contributions++;
    plan->waiting_commits++;
    commit(plan, (struct plan_commit){.part = part});
    coordinator_consider(plan);
}

static void mark_published(struct plan *plan, const struct plan_commit *item) {
    double weight = plan->replay_step + plan->replay_part * item->parts;
    plan->stream_work += weight;
    while (plan->mark_capacity < item->version) {
        plan->mark_capacity = plan->mark_capacity ? plan->mark_capacity * 2 : 256;
        plan->marks = xrealloc(plan->marks, plan->mark_capacity * sizeof *plan->marks);
    }
    plan->marks[item->version - 1] = (struct plan_mark){plan->stream, plan->stream_work};
}

/* The parts of a step that is being published follow it in plan->commits as items of their own. */
static void publish(struct plan *plan, const struct plan_commit *item) {
    if (!item->is_step) {
        plan->out->entries++;
        stream_publish(plan, plan->payload * WIRE_SHARE + WIRE_ENTRY, &item->part);
        site_published(plan, &item->part, 0);
        struct site_now *site = &plan->sites[item->part.site];
        plan->waiting_commits--;
        site->out->received += WIRE_RECEIPT;
        if (plan->up)
            plan_post(plan, plan->now + latency(plan, item->part.site), EV_RECEIPT, item->part.site,
                      item->part.fragment, item->part.sequence, 0);
        return;
    }
    if (item->parts) {
        plan->out->entries++;
        stream_publish(plan, WIRE_STEP + WIRE_PART * item->parts, NULL);
        mark_published(plan, item);
    } else {
        site_published(plan, &item->part, item->version);
    }
}

static void synced(struct plan *plan) {
    uint32_t count = plan->syncing_count;
    plan->syncing = false;
    plan->syncing_count = 0;
    for (uint32_t i = 0; i < count; i++) publish(plan, &plan->commits[i]);
    plan->commit_count -= count;
    memmove(plan->commits, plan->commits + count, plan->commit_count * sizeof *plan->commits);
    sync_next(plan);
}

/* ---- outer steps ----------------------------------------------------------------------------- */

/* K. A site that has gone for good has left. */
static uint32_t sites_present(const struct plan *plan) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < plan->site_count; i++) {
        const struct site_now *site = &plan->sites[i];
        count += site->present &&
                 merge_is_present(site->linked, site->heard, plan->now, plan->merge.away_after);
    }
    return count;
}

static struct merge_view view_of(const struct plan *plan) {
    struct merge_view view = {.version = plan->version, .present = sites_present(plan)};
    for (uint32_t fragment = 0; fragment < plan->fragments; fragment++)
        view.waiting[fragment] = plan->pending[fragment].count;
    return view;
}

static void begin_step(struct plan *plan, uint32_t fragment) {
    struct plan_pending *pending = &plan->pending[fragment];
    uint32_t count = MIN(pending->count, (uint32_t)STEP_CONTRIBUTIONS_LIMIT);
    plan->step_fragment = fragment;
    plan->step_count = count;
    memcpy(plan->step_parts, pending->items, count * sizeof *plan->step_parts);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t staleness =
            plan_staleness_of(plan, fragment, plan->step_parts[i].base, plan->version);
        plan->out->staleness[MIN(staleness, PLAN_STALENESS_MAX - 1)]++;
    }
    plan->applying = true;
    double work = plan->apply_step + plan->apply_part * count;
    plan->applying_from = fmax(plan->now, plan->model_free);
    plan->model_free = plan->applying_from + work;
    plan->out->model_busy += work;
    plan_post(plan, plan->model_free, EV_APPLIED, 0, fragment, plan->life, 0);
}

void coordinator_consider(struct plan *plan) {
    if (plan->applying || !plan->up) return;
    struct merge_view view = view_of(plan);
    for (uint32_t i = 0; i < plan->fragments; i++)
        presence_history_note(&plan->presences[i], view.present);
    struct merge_decision decision = merge_decide(&plan->merge, &view, plan->now, &plan->windows);
    if (decision.is_due) {
        begin_step(plan, decision.fragment);
    } else if (isfinite(decision.wake) && decision.wake != plan->window_at) {
        plan->window_at = decision.wake;
        plan_post(plan, decision.wake, EV_WINDOW, 0, 0, plan->life, 0);
    }
}

static void applied(struct plan *plan) {
    uint32_t fragment = plan->step_fragment;
    struct plan_pending *pending = &plan->pending[fragment];
    const struct topology_run *run = &plan->topology->run;
    plan->applying = false;
    plan->version++;
    plan->out->versions++;
    presence_history_step(&plan->presences[fragment], sites_present(plan));
    plan->fragment_versions[fragment] =
        plan_grow(plan->fragment_versions[fragment], plan->fragment_count[fragment],
                  &plan->fragment_capacity[fragment], sizeof **plan->fragment_versions);
    plan->fragment_versions[fragment][plan->fragment_count[fragment]++] = plan->version;
    commit(plan, (struct plan_commit){
                     .is_step = true, .version = plan->version, .parts = plan->step_count});
    for (uint32_t i = 0; i < plan->step_count; i++)
        commit(plan, (struct plan_commit){
                         .is_step = true, .version = plan->version, .part = plan->step_parts[i]});
    pending->count -= plan->step_count;
    memmove(pending->items, pending->items + plan->step_count,
            pending->count * sizeof *pending->items);
    if (plan->version % (uint64_t)run->snapshot_interval == 0) {
        double work = (run->mode == OUTER_DENSE ? 12 : 10) * plan->topology->model.parameters /
                      plan->topology->coordinator.disk_rate;
        plan->model_free = plan->now + work;
        plan->out->model_busy += work;
    }
    coordinator_consider(plan);
}

/* ---- outages --------------------------------------------------------------------------------- */

static void goes_down(struct plan *plan, const struct plan_event *event) {
    if (!plan->up) return;
    /* What the disk was about to sync is taken as durable: it is 8 ms of work. A step under way is
     * computed anew. */
    while (plan->commit_count) {
        plan->syncing_count = (uint32_t)plan->commit_count;
        plan->syncing = true;
        plan->up = false;
        synced(plan);
    }
    plan->up = false;
    plan->life++;
    plan->syncing = plan->applying = false;
    plan->uploads = plan->waiting_commits = 0;
    plan->intake_free = plan->model_free = 0;
    plan->window_at = INFINITY;
    for (uint32_t i = 0; i < plan->site_count; i++) site_link_lost(plan, i);
    bool extra = event->fragment == 1;
    const struct topology_fault *fault = &plan->topology->coordinator.outage;
    double length = topology_fault_length(fault, extra, &plan->random);
    plan_post(plan, plan->now + length, EV_UP, 0, event->fragment, 0, 0);
}

static void comes_up(struct plan *plan, const struct plan_event *event) {
    plan->up = true;
    plan->windows = (struct merge_windows){0};
    for (uint32_t i = 0; i < plan->site_count; i++) {
        struct site_now *site = &plan->sites[i];
        /* who was present by the ledger is so until it has been silent for as long again */
        if (merge_is_present(site->linked, site->heard, plan->now, plan->merge.away_after))
            site->heard = plan->now;
        site_cause(plan, site);
    }
    coordinator_consider(plan);
    if (event->fragment == 0)
        plan_post(plan,
                  plan->now +
                      topology_fault_gap(&plan->topology->coordinator.outage, &plan->random),
                  EV_DOWN, 0, 0, 0, 0);
}

void coordinator_event(struct plan *plan, const struct plan_event *event) {
    bool ours = event->number == plan->life;
    switch (event->kind) {
    case EV_OPEN: opened(plan, event); break;
    case EV_DATA: data_begins(plan, event); break;
    case EV_CHECKED:
        if ((uint64_t)event->steps == plan->life) checked(plan, event);
        break;
    case EV_SYNCED:
        if (ours && plan->syncing) synced(plan);
        break;
    case EV_APPLIED:
        if (ours && plan->applying) applied(plan);
        break;
    case EV_WINDOW:
        plan->window_at = INFINITY;
        if (ours) coordinator_consider(plan);
        break;
    case EV_DOWN: goes_down(plan, event); break;
    case EV_UP: comes_up(plan, event); break;
    case EV_INGRESS:
        if (event->number == plan->ingress_number) ingress_advance(plan);
        break;
    case EV_TICK:
        if (event->number == plan->tick_number) stream_tick(plan);
        break;
    default: break;
    }
}
