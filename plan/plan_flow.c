/* Links that flows share: uploads into the coordinator, one by one; the ledger's stream out of it,
 * to all sites at once. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "plan/plan_internal.h"

/* The rate L with sum of counts * min(cap, L) = capacity; INFINITY where all may have their cap. */
double fair_level(const double *caps, const uint32_t *counts, size_t count, double capacity) {
    double level = INFINITY;
    for (size_t pass = 0; pass <= count; pass++) {
        double bound = 0, free_count = 0;
        for (size_t i = 0; i < count; i++) {
            if (caps[i] <= level && pass > 0)
                bound += caps[i] * counts[i];
            else if (pass == 0)
                bound += caps[i] * counts[i];
            else
                free_count += counts[i];
        }
        if (pass == 0) {
            if (bound <= capacity) return INFINITY;
            double all = 0;
            for (size_t i = 0; i < count; i++) all += counts[i];
            level = capacity / all;
            continue;
        }
        if (free_count == 0) return level;
        double next = (capacity - bound) / free_count;
        if (!(next > level * (1 + 1e-12))) return level;
        level = next;
    }
    return level;
}

/* ---- uploads --------------------------------------------------------------------------------- */

static void ingress_share(struct plan *plan) {
    double caps_room[256] = {0};
    uint32_t ones_room[256] = {0};
    uint32_t count = plan->flow_count;
    if (count == 0) return;
    double *caps = count <= 256 ? caps_room : xcalloc(count, sizeof *caps);
    uint32_t *ones = count <= 256 ? ones_room : xcalloc(count, sizeof *ones);
    for (uint32_t i = 0; i < count; i++) {
        caps[i] = plan->sites[plan->flows[i].site].cut ? 0 : plan->flows[i].cap;
        ones[i] = 1;
    }
    double level = fair_level(caps, ones, count, plan->topology->coordinator.down), next = INFINITY;
    for (uint32_t i = 0; i < count; i++) {
        struct plan_flow *flow = &plan->flows[i];
        flow->rate = fmin(caps[i], level);
        if (flow->rate > 0) next = fmin(next, flow->left / flow->rate);
    }
    if (caps != caps_room) {
        free(caps);
        free(ones);
    }
    plan->ingress_number++;
    if (isfinite(next))
        plan_post(plan, plan->now + next, EV_INGRESS, 0, 0, plan->ingress_number, 0);
}

/* Moves all flows to now; those that are through go on at the coordinator. */
static void ingress_move(struct plan *plan) {
    double span = plan->now - plan->ingress_at;
    for (uint32_t i = 0; i < plan->flow_count; i++) {
        struct plan_flow *flow = &plan->flows[i];
        double bytes = fmin(flow->rate * span, flow->left);
        if (isinf(flow->rate)) bytes = flow->left;
        if (!(bytes > 0)) continue;
        flow->left -= bytes;
        struct site_now *site = &plan->sites[flow->site];
        double loss = site->group->link.loss;
        double sent = bytes / (1 - loss);
        site->out->sent += sent;
        site->out->sent_lost += sent - bytes;
        site->slots[flow->fragment].got += bytes;
        plan_count_bytes(plan, true, plan->ingress_at, plan->now, bytes);
    }
    plan->ingress_at = plan->now;
}

void ingress_advance(struct plan *plan) {
    ingress_move(plan);
    for (uint32_t i = 0; i < plan->flow_count;) {
        struct plan_flow flow = plan->flows[i];
        if (flow.left > flow.rate * 1e-9 + 1e-6) {
            i++;
            continue;
        }
        memmove(&plan->flows[i], &plan->flows[i + 1], (plan->flow_count - i - 1) * sizeof flow);
        plan->flow_count--;
        plan->sites[flow.site].uploading = false;
        coordinator_uploaded(plan, flow.site, flow.fragment);
    }
    ingress_share(plan);
}

void ingress_begin(struct plan *plan, uint32_t site, uint32_t fragment, double bytes, double cap) {
    ingress_move(plan);
    size_t capacity = plan->flow_capacity;
    plan->flows = plan_grow(plan->flows, plan->flow_count, &capacity, sizeof *plan->flows);
    plan->flow_capacity = (uint32_t)capacity;
    plan->flows[plan->flow_count++] =
        (struct plan_flow){.site = site, .fragment = fragment, .left = bytes, .cap = cap};
    plan->sites[site].uploading = true;
    ingress_share(plan);
}

void ingress_cut(struct plan *plan, uint32_t number) {
    struct site_now *site = &plan->sites[number];
    if (!site->uploading) return;
    ingress_move(plan);
    for (uint32_t i = 0; i < plan->flow_count; i++) {
        if (plan->flows[i].site != number) continue;
        const struct plan_flow *flow = &plan->flows[i];
        double flying =
            fmin(flow->left, fmin(site->group->link.window,
                                  isfinite(flow->rate) ? flow->rate * site->one_way : 0));
        site->out->sent += flying;
        site->out->sent_lost += flying;
        memmove(&plan->flows[i], &plan->flows[i + 1],
                (plan->flow_count - i - 1) * sizeof *plan->flows);
        plan->flow_count--;
        break;
    }
    site->uploading = false;
    if (plan->up && plan->uploads) plan->uploads--;
    ingress_share(plan);
}

/* ---- the ledger's stream --------------------------------------------------------------------- */

static void ask_tick(struct plan *plan, double at) {
    if (at >= plan->tick_at) return;
    plan->tick_at = at;
    plan_post(plan, at, EV_TICK, 0, 0, ++plan->tick_number, 0);
}

/* `own`: whose it is, and gets a stub instead. */
void stream_publish(struct plan *plan, double bytes, const struct plan_part *own) {
    if (own) {
        struct site_now *site = &plan->sites[own->site];
        if (site->own_count ==
            COUNT_OF(site->own)) { /* several behind: one span then covers a little too much */
            site->own[site->own_count - 1].to = plan->stream + bytes;
        } else {
            site->own[site->own_count++] = (struct plan_span){plan->stream, plan->stream + bytes};
        }
        site->out->received += WIRE_STUB;
    }
    plan->stream += bytes;
    plan->log = plan_grow(plan->log, plan->log_count, &plan->log_capacity, sizeof *plan->log);
    plan->log[plan->log_count++] = (struct plan_publication){plan->now, plan->stream};
    if (plan->quantum > 0) {
        ask_tick(plan, fmax(plan->now, plan->ticked + plan->quantum));
        return;
    }
    for (uint32_t group = 0; group < plan->topology->group_count; group++)
        ask_tick(plan, plan->now + plan->topology->groups[group].link.rtt / 2);
}

/* Bytes between two offsets that the site is sent. */
static double bytes_between(const struct site_now *site, double from, double to) {
    double bytes = to - from;
    for (uint32_t i = 0; i < site->own_count; i++) {
        double low = fmax(from, site->own[i].from), high = fmin(to, site->own[i].to);
        if (high > low) bytes -= high - low;
    }
    return bytes;
}

/* The offset that lies `bytes` after `from`, own spans skipped, at most `limit`. */
static double offset_after(const struct site_now *site, double from, double bytes, double limit) {
    double at = from;
    for (uint32_t i = 0; i < site->own_count && at < limit; i++) {
        if (site->own[i].to <= at) continue;
        double until = fmax(site->own[i].from, at);
        if (bytes < until - at) return fmin(at + bytes, limit);
        bytes -= until - at;
        at = site->own[i].to;
    }
    return fmin(at + bytes, limit);
}

static void target_reached(struct plan *plan, struct site_now *site,
                           const struct plan_target *target, double at) {
    uint32_t number = (uint32_t)(site - plan->sites);
    at += site_jitter(site);
    if (target->version == 0) {
        plan_post(plan, fmax(at, plan->now), EV_DUE, number, target->fragment, site->life,
                  -(int64_t)target->sequence);
        return;
    }
    double done = fmax(at + target->weight, site->work_at + (target->work - site->work));
    site->work = target->work;
    site->work_at = done;
    plan_post(plan, fmax(done, plan->now), EV_MERGED, number, target->fragment, target->sequence,
              (int64_t)target->version);
}

/* Moves one site's stream from site->from to `now`. */
static void stream_move(struct plan *plan, struct site_now *site, double limit) {
    double span = plan->now - site->from, rate = site->rate;
    if (!(span > 0) && !isinf(rate)) return;
    double room = bytes_between(site, site->position, limit) + site->prefix;
    double bytes = isinf(rate) ? room : fmin(rate * span, room);
    double used = fmin(bytes, site->prefix);
    site->prefix -= used;
    double start = site->position;
    double reached =
        bytes >= room * (1 - 1e-12) - 1e-6 ? limit : offset_after(site, start, bytes - used, limit);
    uint32_t taken = 0;
    for (; taken < site->queue_count && site->prefix <= 0; taken++) {
        const struct plan_target *target = &site->queue[taken];
        if (target->offset > reached * (1 + 1e-15) + 1e-9) break;
        double when = isinf(rate) || !(rate > 0)
                          ? plan->now
                          : site->from + (used + bytes_between(site, start, target->offset)) / rate;
        target_reached(plan, site, target, fmax(when, target->at + site->one_way));
    }
    if (taken) {
        site->queue_count -= taken;
        memmove(site->queue, site->queue + taken, site->queue_count * sizeof *site->queue);
    }
    site->position = reached;
    while (site->own_count && site->own[0].to <= reached) {
        memmove(site->own, site->own + 1, --site->own_count * sizeof *site->own);
    }
    double loss = site->group->link.loss, sent = bytes / (1 - loss);
    site->out->received += bytes;
    site->out->received_lost += sent - bytes;
    plan_count_bytes(plan, false, site->from, plan->now, sent);
    if (reached < limit) site->out->behind += span;
    site->from = plan->now;
}

static double group_limit(const struct plan *plan, uint32_t group) {
    return plan->seen[group] ? plan->log[plan->seen[group] - 1].end : 0;
}

static bool stream_runs(const struct site_now *site) {
    return site->present && site->alive && site->linked && !site->cut;
}

void stream_tick(struct plan *plan) {
    const struct topology *topology = plan->topology;
    double caps[TOPOLOGY_GROUPS_LIMIT], next = INFINITY;
    uint32_t counts[TOPOLOGY_GROUPS_LIMIT] = {0};
    size_t before[TOPOLOGY_GROUPS_LIMIT];
    plan->tick_at = INFINITY;
    for (uint32_t group = 0; group < topology->group_count; group++) {
        double delay = topology->groups[group].link.rtt / 2;
        before[group] = plan->seen[group];
        while (plan->seen[group] < plan->log_count &&
               plan->log[plan->seen[group]].at + delay <= plan->now + 1e-9)
            plan->seen[group]++;
    }
    for (uint32_t i = 0; i < plan->site_count; i++) {
        struct site_now *site = &plan->sites[i];
        if (!stream_runs(site)) continue;
        uint32_t group = site->group_index;
        double limit = group_limit(plan, group);
        if (!site->active) { /* what it can see now it could not at the last tick */
            if (plan->seen[group] == before[group] && site->position >= limit &&
                !(site->prefix > 0)) {
                site->from = plan->now;
                continue;
            }
            double first = before[group] < plan->log_count
                               ? plan->log[before[group]].at + site->one_way
                               : plan->now;
            site->from = fmin(plan->now, fmax(site->from, first));
            site->rate = fmin(site->cap_down, plan->level);
        }
        stream_move(plan, site, limit);
        site->active = site->position < limit || site->prefix > 0;
        counts[group] += site->active;
    }
    for (uint32_t group = 0; group < topology->group_count; group++)
        caps[group] = topology_rate_down(&topology->groups[group].link);
    plan->level = fair_level(caps, counts, topology->group_count, topology->coordinator.up);
    plan->ticked = plan->now;
    bool any = false;
    for (uint32_t i = 0; i < plan->site_count; i++) {
        struct site_now *site = &plan->sites[i];
        if (!site->active || !stream_runs(site)) continue;
        any = true;
        site->rate = fmin(site->cap_down, plan->level);
        if (plan->quantum > 0) continue;
        double limit = group_limit(plan, site->group_index);
        if (site->queue_count && site->queue[0].offset < limit)
            limit = fmax(site->queue[0].offset, site->position);
        next = fmin(next, (site->prefix + bytes_between(site, site->position, limit)) / site->rate);
    }
    if (plan->quantum > 0) {
        for (uint32_t group = 0; group < topology->group_count; group++)
            any |= plan->seen[group] < plan->log_count;
        if (any) ask_tick(plan, plan->now + plan->quantum);
    } else if (isfinite(next)) {
        ask_tick(plan, plan->now + fmax(next, 1e-9));
    }
    if (plan->quantum > 0) return;
    for (uint32_t group = 0; group < topology->group_count; group++) { /* what is on its way */
        if (plan->seen[group] < plan->log_count)
            ask_tick(plan, fmax(plan->now + 1e-9, plan->log[plan->seen[group]].at +
                                                      topology->groups[group].link.rtt / 2));
    }
}

void stream_pause(struct plan *plan, struct site_now *site, bool rewind) {
    if (!stream_runs(site)) return;
    if (site->active) stream_move(plan, site, group_limit(plan, site->group_index));
    site->active = false;
    if (!rewind || plan->log_count == 0) return;
    size_t low = 0, high = plan->log_count; /* the publication that it was in begins anew */
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (plan->log[middle].end > site->position)
            high = middle;
        else
            low = middle + 1;
    }
    double begin = low ? plan->log[low - 1].end : 0;
    if (low == plan->log_count || site->position <= begin) return;
    double lost = bytes_between(site, begin, site->position);
    site->position = begin;
    site->out->received -= lost;
    site->out->received_lost += lost;
}

void stream_resume(struct plan *plan, struct site_now *site) {
    site->from = plan->now;
    site->active = site->position < group_limit(plan, site->group_index) || site->prefix > 0;
    if (site->active) {
        site->rate = fmin(site->cap_down, plan->level);
        ask_tick(plan,
                 plan->quantum > 0 ? fmax(plan->now, plan->ticked + plan->quantum) : plan->now);
    }
}

uint64_t stream_version(const struct plan *plan, const struct site_now *site) {
    double work = site->work + fmax(0, plan->now - site->work_at);
    uint64_t low = 0, high = plan->version; /* marks[v - 1] is version v's */
    while (low < high) {
        uint64_t middle = (low + high + 1) / 2;
        const struct plan_mark *mark = &plan->marks[middle - 1];
        if (mark->offset > 0 && mark->offset <= site->position && mark->work <= work)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}
