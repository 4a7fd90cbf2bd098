/* A site of a plan: rounds, the spool, links and failures; what node_state decides, with a trainer
 * that is arithmetic. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "plan/plan_internal.h"

double site_jitter(struct site_now *site) {
    double jitter = site->group->link.jitter;
    return jitter > 0 ? jitter * random_unit(&site->jitter) : 0;
}

static uint32_t number_of(const struct plan *plan, const struct site_now *site) {
    return (uint32_t)(site - plan->sites);
}

static void post(struct plan *plan, struct site_now *site, double at, enum plan_event_kind kind,
                 uint32_t fragment, int64_t steps) {
    uint64_t number = kind == EV_SNAPSHOT || kind == EV_REBASE || kind == EV_ENCODED ||
                              kind == EV_RETRY || kind == EV_OPEN
                          ? site->slots[fragment].sequence
                          : site->life;
    if (kind == EV_CONNECT || kind == EV_LINKED) number = site->link;
    plan_post(plan, at, kind, number_of(plan, site), fragment, number, steps);
}

/* ---- time ------------------------------------------------------------------------------------ */

static enum plan_cause waits_for(const struct plan *plan, const struct site_now *site) {
    for (uint32_t fragment = 0; fragment < plan->fragments; fragment++) {
        const struct plan_slot *slot = &site->slots[fragment];
        if (slot->state <= IN_SNAPSHOT) continue;
        if (slot->state == IN_ENCODING) return PLAN_WAIT_ENCODE;
        if (!plan->up) return PLAN_WAIT_OUTAGE;
        if (slot->state == IN_UPLOADING && slot->entered) return PLAN_WAIT_QUORUM;
        if (slot->state <= IN_BACKOFF) return PLAN_WAIT_UPLOAD;
        return slot->state == IN_ACCEPTED && !slot->published ? PLAN_WAIT_QUORUM : PLAN_WAIT_DOWN;
    }
    return PLAN_WAIT_DOWN;
}

static void book(struct plan *plan, struct site_now *site, enum plan_cause next) {
    if (plan->now > site->since) {
        site->out->time[site->cause] += plan->now - site->since;
        if (site->cause == PLAN_USEFUL) { /* spread over the buckets of the plot */
            for (double at = site->since; at < plan->now;) {
                size_t bucket = MIN((size_t)(at / plan->bucket_width), PLAN_BUCKETS - 1);
                double until = bucket + 1 == PLAN_BUCKETS
                                   ? plan->now
                                   : fmin(plan->now, (double)(bucket + 1) * plan->bucket_width);
                if (!(until > at)) until = plan->now;
                plan->out->series_busy[bucket] += until - at;
                at = until;
            }
        }
        site->since = plan->now;
    }
    site->cause = next;
}

void site_cause(struct plan *plan, struct site_now *site) {
    if (!site->present || !site->alive) return; /* told by who changed it */
    book(plan, site,
         !site->started   ? PLAN_START
         : site->training ? PLAN_USEFUL
                          : waits_for(plan, site));
}

static int64_t steps_now(const struct plan *plan, const struct site_now *site) {
    if (!site->training || plan->now <= site->origin) return site->origin_steps;
    return site->origin_steps + (int64_t)((plan->now - site->origin) / site->step + 1e-6);
}

static double boundary(const struct site_now *site, int64_t steps) {
    return site->origin + (double)(steps - site->origin_steps) * site->step;
}

/* Training stands still for a copy of the fragment, between two steps. */
static void copy(struct plan *plan, struct site_now *site, int64_t steps) {
    double span = site->group->copy * plan->fragment_parameters;
    double begin = fmax(plan->now, site->origin);
    site->origin_steps = steps;
    site->origin = begin + span;
    site_cause(plan, site);
    if (site->since < plan->now) site->since = plan->now;
    site->out->time[PLAN_COPY] += span;
    site->since += span;
}

static void stop_training(struct plan *plan, struct site_now *site) {
    site->origin_steps = steps_now(plan, site);
    site->origin = fmax(site->origin, plan->now);
    site->training = false;
}

static void begin_training(struct plan *plan, struct site_now *site) {
    if (site->training) return;
    site->training = true;
    site->origin = fmax(site->origin, plan->now);
    site_cause(plan, site);
}

/* As the coordinator tells it: by rates once two contributions were merged, before that by what the
 * site has not offered by now, which makes a first round H * sqrt(rate / fastest). */
static double inner_steps(const struct plan *plan, const struct site_now *site) {
    const struct manifest *rules = &plan->rules;
    double fastest = dylu_fastest(&plan->rates);
    if (!rules->inner.dylu || !(fastest > 0)) return rules->inner.inner_steps;
    double share = 1 / site->step / fastest;
    return dylu_inner_steps(rules->inner.inner_steps, site->out->merged < 2 ? sqrt(share) : share,
                            1);
}

/* ---- rounds ---------------------------------------------------------------------------------- */

static void phase_over(struct plan *plan, struct plan_slot *slot, enum plan_phase phase) {
    slot->phase[phase] += plan->now - slot->phase_at;
    slot->phase_at = plan->now;
}

static bool message_under_way(const struct plan *plan, const struct site_now *site) {
    for (uint32_t fragment = 0; fragment < plan->fragments; fragment++) {
        const struct plan_slot *slot = &site->slots[fragment];
        if (slot->state == IN_SNAPSHOT || slot->state == IN_ENCODING ||
            (slot->encoded && !slot->in_ledger))
            return true;
    }
    return false;
}

/* A request to the trainer, who is in the next step by the time it comes; with overlap off he
 * stands. */
static void at_next_step(struct plan *plan, struct site_now *site, enum plan_event_kind kind,
                         uint32_t fragment, bool at_end) {
    int64_t steps = steps_now(plan, site);
    double at = plan->now;
    if (site->training) {
        int64_t target = steps + (plan->topology->run.overlap || !at_end ? 1 : 0);
        at = fmax(plan->now, boundary(site, target));
        steps = target;
    }
    post(plan, site, at, kind, fragment, steps);
}

static void check_rounds(struct plan *plan, struct site_now *site) {
    if (!site->present || !site->alive || !site->started || !site->training) return;
    int64_t steps = steps_now(plan, site);
    double due = INFINITY;
    for (uint32_t fragment = 0; fragment < plan->fragments; fragment++) {
        struct plan_slot *slot = &site->slots[fragment];
        if (slot->state != IN_TRAINING) continue;
        int64_t wanted = slot->mark + (int64_t)inner_steps(plan, site);
        if (steps < wanted || steps <= site->restore_steps - 1) {
            due = fmin(due, fmax(boundary(site, wanted), plan->now + 1e-9));
            continue;
        }
        if (message_under_way(plan, site)) return; /* asked again when it is in the ledger */
        slot->base = stream_version(plan, site);   /* it has followed: node/node_rounds.c */
        slot->state = IN_SNAPSHOT;
        slot->sequence++;
        at_next_step(plan, site, EV_SNAPSHOT, fragment, true);
    }
    if (isfinite(due)) post(plan, site, due, EV_DUE, 0, 0);
}

static void snapshotted(struct plan *plan, struct site_now *site, uint32_t fragment) {
    struct plan_slot *slot = &site->slots[fragment];
    int64_t steps = steps_now(plan, site);
    slot->steps = steps - slot->mark;
    slot->mark = steps;
    slot->state = IN_ENCODING;
    slot->phase_at = plan->now;
    memset(slot->phase, 0, sizeof slot->phase);
    slot->got = 0;
    slot->entered = slot->published = false;
    slot->attempts = 0;
    if (!plan->topology->run.overlap) stop_training(plan, site);
    copy(plan, site, steps);
    site_cause(plan, site);
    if (steps > site->restore_steps) {
        site->restore_steps = steps;
        site->restore_useful = site->out->time[PLAN_USEFUL] + fmax(0, plan->now - site->since);
    }
    site->out->rounds++;
    double work = site->group->encode * plan->fragment_parameters + 0.008;
    post(plan, site, plan->now + work, EV_ENCODED, fragment, 0);
    check_rounds(plan, site);
}

static double backoff(struct site_now *site, uint32_t attempts) {
    double ceiling = attempts > 10 ? BACKOFF_LIMIT
                                   : fmin(BACKOFF_FIRST * (double)(1u << attempts), BACKOFF_LIMIT);
    return 0.001 + random_unit(&site->jitter) * ceiling;
}

static void wait_and_retry(struct plan *plan, struct site_now *site, uint32_t fragment,
                           double at_least) {
    struct plan_slot *slot = &site->slots[fragment];
    slot->state = IN_BACKOFF;
    slot->attempts++;
    site_cause(plan, site);
    post(plan, site, plan->now + at_least + backoff(site, slot->attempts), EV_RETRY, fragment, 0);
}

static void upload(struct plan *plan, struct site_now *site, uint32_t fragment) {
    struct plan_slot *slot = &site->slots[fragment];
    if (!site->linked) {
        slot->state = IN_BACKOFF;
        site_cause(plan, site);
        post(plan, site, plan->now + backoff(site, slot->attempts), EV_RETRY, fragment, 0);
        return;
    }
    slot->state = IN_UPLOADING;
    site_cause(plan, site);
    post(plan, site, plan->now + site->one_way + site_jitter(site), EV_OPEN, fragment, 0);
}

/* Its contribution (version 0), or the step that merged it, is in the ledger's stream now. */
void site_published(struct plan *plan, const struct plan_part *part, uint64_t version) {
    struct site_now *site = &plan->sites[part->site];
    struct plan_slot *slot = &site->slots[part->fragment];
    if (!site->present) return;
    if (version) {
        slot->published = true;
        phase_over(plan, slot, PLAN_MERGING);
        site->out->merged++;
        plan->wanted_steps += inner_steps(plan, site);
        site->out->steps_sent += (double)part->steps;
        double before = plan->out->merged_tokens;
        plan->out->merged_tokens +=
            (double)part->steps * site->group->batch_tokens / plan->fragments;
        double target = plan->topology->target_tokens;
        if (target > 0 && before < target && plan->out->merged_tokens >= target)
            plan->out->seconds_to_target = plan->now;
        site_cause(plan, site);
    }
    double weight =
        version ? plan->marks[version - 1].work - (version > 1 ? plan->marks[version - 2].work : 0)
                : 0;
    size_t capacity = site->queue_capacity;
    site->queue = plan_grow(site->queue, site->queue_count, &capacity, sizeof *site->queue);
    site->queue_capacity = (uint32_t)capacity;
    site->queue[site->queue_count++] =
        (struct plan_target){.offset = version ? plan->marks[version - 1].offset : plan->stream,
                             .work = version ? plan->marks[version - 1].work : 0,
                             .weight = weight,
                             .at = plan->now,
                             .fragment = part->fragment,
                             .version = version,
                             .sequence = part->sequence};
}

static void rebased(struct plan *plan, struct site_now *site, uint32_t fragment) {
    struct plan_slot *slot = &site->slots[fragment];
    if (slot->state == IN_MERGING) {
        phase_over(plan, slot, PLAN_RETURNING);
        for (size_t i = 0; i < PLAN_PHASES; i++) site->out->phase[i] += slot->phase[i];
    }
    slot->state = IN_TRAINING;
    slot->encoded = slot->in_ledger = false;
    slot->sequence++;
    slot->attempts = 0;
    copy(plan, site, steps_now(plan, site));
    if (!site->training) {
        bool wait = false;
        for (uint32_t other = 0; other < plan->fragments; other++)
            wait |= site->slots[other].state > IN_SNAPSHOT;
        if (!wait) begin_training(plan, site);
    }
    site_cause(plan, site);
    check_rounds(plan, site);
}

static void merged(struct plan *plan, struct site_now *site, uint32_t fragment, uint64_t version) {
    struct plan_slot *slot = &site->slots[fragment];
    slot->state = IN_MERGING;
    slot->again = false;
    slot->encoded = slot->in_ledger = false;
    slot->base = version;
    site_cause(plan, site);
    at_next_step(plan, site, EV_REBASE, fragment, false);
}

static void refused(struct plan *plan, struct site_now *site, uint32_t fragment) {
    struct plan_slot *slot = &site->slots[fragment];
    if (slot->state != IN_UPLOADING) return;
    slot->state = IN_RESTORING;
    slot->base = stream_version(plan, site);
    slot->again = !slot->again; /* due again at once, and once, as in node/node_messages.c */
    if (slot->again) slot->mark -= slot->steps;
    site_cause(plan, site);
    at_next_step(plan, site, EV_REBASE, fragment, false);
}

/* ---- links ----------------------------------------------------------------------------------- */

static void connections_cut(struct plan *plan, struct site_now *site) {
    stream_pause(plan, site, true);
    ingress_cut(plan, number_of(plan, site));
    if (site->linked) {
        site->heard = plan->now;
        /* it waits for one site less from then on */
        if (isfinite(plan->merge.away_after))
            plan_post(plan, plan->now + plan->merge.away_after + 1e-3, EV_WINDOW, 0, 0, plan->life,
                      0);
    }
    site->linked = false;
    site->link++;
    for (uint32_t fragment = 0; fragment < plan->fragments; fragment++) {
        struct plan_slot *slot = &site->slots[fragment];
        if (slot->state != IN_UPLOADING) continue;
        wait_and_retry(plan, site, fragment, 0);
    }
}

void site_link_lost(struct plan *plan, uint32_t number) {
    struct site_now *site = &plan->sites[number];
    if (!site->present || !site->alive) return;
    connections_cut(plan, site);
    site_cause(plan, site);
    site->attempts = 1;
    post(plan, site, plan->now + backoff(site, 0), EV_CONNECT, 0, 0);
}

static void connect_site(struct plan *plan, struct site_now *site) {
    if (!plan->up || site->cut) {
        post(plan, site, plan->now + 2 * site->one_way + backoff(site, site->attempts), EV_CONNECT,
             0, 0);
        site->attempts++;
        return;
    }
    site->out->sent += WIRE_CONNECT_UP;
    site->out->received += WIRE_CONNECT_DOWN;
    post(plan, site, plan->now + HANDSHAKES * 2 * site->one_way, EV_LINKED, 0, 0);
}

static void stagger(struct plan *plan, struct site_now *site) {
    int64_t round = (int64_t)inner_steps(plan, site), count = plan->fragments;
    for (int64_t fragment = 0; fragment < count; fragment++)
        site->slots[fragment].mark =
            site->origin_steps + (round * (fragment + 1) + count - 1) / count - round;
}

/* A site that is new takes the newest snapshot where that is fewer bytes than the steps it saves.
 */
static void take_snapshot(struct plan *plan, struct site_now *site) {
    if (plan->version == 0) return;
    const struct topology_run *run = &plan->topology->run;
    double content = (run->mode == OUTER_DENSE ? 12 : 10) * plan->topology->model.parameters;
    if ((double)plan->version * plan->payload <= content) return;
    uint64_t version = plan->version - plan->version % (uint64_t)run->snapshot_interval;
    if (version == 0) return;
    const struct plan_mark *mark = &plan->marks[version - 1];
    if (!(mark->offset > site->position)) return;
    site->position = mark->offset;
    site->work = mark->work;
    site->prefix = content + (double)plan->out->entries * WIRE_ENTRY;
}

static void linked(struct plan *plan, struct site_now *site) {
    site->linked = true;
    site->attempts = 0;
    if (!site->started && site->position <= 0) take_snapshot(plan, site);
    stream_resume(plan, site);
    if (!site->started) { /* it must see what there was when it came */
        double room = plan->stream - site->position + site->prefix;
        double rate = fmin(site->cap_down, plan->level);
        double wait = 2 * site->one_way + (room > 0 ? room / rate : 0) +
                      /* told at once: a joining site is alone on its link */
                      fmax(0, plan->stream_work - site->work);
        post(plan, site, plan->now + wait, EV_TRAIN, 0, 0);
    }
    for (uint32_t fragment = 0; fragment < plan->fragments; fragment++) {
        struct plan_slot *slot = &site->slots[fragment];
        if (slot->state != IN_BACKOFF || slot->attempts != 0) continue;
        upload(plan, site, fragment);
    }
}

static void starts_training(struct plan *plan, struct site_now *site) {
    site->started = true;
    site->start_at = plan->now;
    uint64_t version = stream_version(plan, site);
    for (uint32_t fragment = 0; fragment < plan->fragments; fragment++)
        site->slots[fragment].base = version;
    stagger(plan, site);
    begin_training(plan, site);
    check_rounds(plan, site);
}

/* A site has come or gone: the others' H_w follow. */
static void note_fastest(struct plan *plan, const struct site_now *changed) {
    double before = dylu_fastest(&plan->rates);
    if (changed->alive) {
        dylu_note(&plan->rates, 1 / changed->step);
    } else if (1 / changed->step >= plan->rates.second || plan->rates.count < 4) {
        plan->rates = (struct dylu_rates){0};
        for (uint32_t i = 0; i < plan->site_count; i++)
            if (plan->sites[i].alive) dylu_note(&plan->rates, 1 / plan->sites[i].step);
    } else {
        plan->rates.count--;
    }
    if (dylu_fastest(&plan->rates) == before || !plan->rules.inner.dylu) return;
    site_rules_changed(plan);
}

void site_rules_changed(struct plan *plan) {
    for (uint32_t i = 0; i < plan->site_count; i++) check_rounds(plan, &plan->sites[i]);
}

/* ---- failures -------------------------------------------------------------------------------- */

static void fails(struct plan *plan, struct site_now *site, double length) {
    if (!site->alive) return;
    site->out->crashes++;
    book(plan, site, PLAN_REPAIR);
    double since_checkpoint = fmod(plan->now - site->checkpoint_from, site->group->checkpoint);
    double kept =
        fmax(site->restore_useful, site->out->time[PLAN_USEFUL] - fmax(0, since_checkpoint));
    double lost = fmax(0, fmin(site->out->time[PLAN_USEFUL] - kept, site->out->time[PLAN_USEFUL]));
    if (!site->started) lost = 0;
    site->out->time[PLAN_USEFUL] -= lost;
    site->out->time[PLAN_REWORK] += lost;
    site->restore_useful = site->out->time[PLAN_USEFUL];
    if (site->training) {
        int64_t steps = steps_now(plan, site);
        stop_training(plan, site);
        site->origin_steps = steps;
    }
    connections_cut(plan, site);
    site->alive = false;
    site->life++;
    for (uint32_t fragment = 0; fragment < plan->fragments; fragment++) {
        struct plan_slot *slot = &site->slots[fragment];
        slot->attempts = 0;
        if (slot->state == IN_SNAPSHOT || slot->state == IN_ENCODING ||
            slot->state == IN_RESTORING) {
            slot->state = IN_TRAINING;
            slot->sequence++;
        } else if (slot->state == IN_MERGING) {
            slot->state = IN_TRAINING;
            slot->sequence++;
        }
    }
    book(plan, site, PLAN_REPAIR); /* cutting its connections has told it otherwise */
    note_fastest(plan, site);
    plan_post(plan, plan->now + length, EV_REPAIRED, number_of(plan, site), 0, site->life, 0);
}

static void restarted(struct plan *plan, struct site_now *site) {
    site->alive = true;
    site->since = plan->now;
    site->checkpoint_from = plan->now;
    site->origin = plan->now;
    uint64_t version = stream_version(plan, site);
    if (site->started) {
        stagger(plan, site);
        for (uint32_t fragment = 0; fragment < plan->fragments; fragment++) {
            struct plan_slot *slot = &site->slots[fragment];
            if (slot->state == IN_TRAINING) slot->base = version;
            if (slot->state == IN_BACKOFF)
                post(plan, site, plan->now + backoff(site, 0), EV_RETRY, fragment, 0);
        }
        bool wait = false;
        for (uint32_t other = 0; other < plan->fragments; other++)
            wait |= site->slots[other].state > IN_SNAPSHOT;
        site->restore_steps = site->origin_steps;
        if (plan->topology->run.overlap || !wait) begin_training(plan, site);
    }
    site_cause(plan, site);
    post(plan, site, plan->now, EV_CONNECT, 0, 0);
    check_rounds(plan, site);
    note_fastest(plan, site);
}

/* Of a group's failures and its GPUs' together. */
static double failure_gap(struct site_now *site) {
    const struct topology_fault *fault = &site->group->failure;
    double gpus = site->group->gpu_mtbf / site->group->gpu_count;
    if (fault->regular || isinf(gpus))
        return fmin(topology_fault_gap(fault, &site->faults),
                    isinf(gpus) ? INFINITY : topology_draw(gpus, &site->faults));
    double rate = 1 / gpus + (isfinite(fault->every) ? 1 / fault->every : 0);
    return topology_draw(1 / rate, &site->faults);
}

static void joins(struct plan *plan, struct site_now *site) {
    uint32_t number = number_of(plan, site);
    const struct topology_site *group = site->group;
    book(plan, site, PLAN_START);
    site->present = site->alive = true;
    site->joined = site->checkpoint_from = plan->now;
    plan->present++;
    note_fastest(plan, site);
    connect_site(plan, site);
    plan_post(plan, plan->now + failure_gap(site), EV_FAIL, number, 0, 0, 0);
    plan_post(plan, group->failure.at, EV_FAIL, number, 1, 0, 0);
    plan_post(plan, plan->now + topology_fault_gap(&group->link.reset, &site->faults), EV_RESET,
              number, 0, 0, 0);
    plan_post(plan, group->link.reset.at, EV_RESET, number, 1, 0, 0);
    plan_post(plan, plan->now + topology_fault_gap(&group->link.outage, &site->faults), EV_OUTAGE,
              number, 0, 0, 0);
    plan_post(plan, group->link.outage.at, EV_OUTAGE, number, 1, 0, 0);
}

static void leaves(struct plan *plan, struct site_now *site) {
    if (!site->present) return;
    if (site->alive) connections_cut(plan, site);
    book(plan, site, PLAN_ABSENT);
    site->present = site->alive = site->training = false;
    site->life++;
    site->link++;
    site->active = false;
    for (uint32_t fragment = 0; fragment < plan->fragments; fragment++)
        site->slots[fragment].sequence++;
    plan->present--;
    note_fastest(plan, site);
    coordinator_consider(plan);
}

static void fault_event(struct plan *plan, struct site_now *site, const struct plan_event *event) {
    const struct topology_site *group = site->group;
    const struct topology_fault *fault = event->kind == EV_FAIL    ? &group->failure
                                         : event->kind == EV_RESET ? &group->link.reset
                                                                   : &group->link.outage;
    bool extra = event->fragment == 1;
    if (!site->present) return;
    if (event->kind == EV_RESET) {
        if (site->alive && site->linked) {
            site->out->resets++;
            site_link_lost(plan, event->site);
        }
        if (!extra)
            plan_post(plan, plan->now + topology_fault_gap(fault, &site->faults), EV_RESET,
                      event->site, 0, 0, 0);
        return;
    }
    double length = topology_fault_length(fault, extra, &site->faults);
    if (event->kind == EV_FAIL) {
        fails(plan, site, length);
        if (!extra)
            plan_post(plan, plan->now + length + failure_gap(site), EV_FAIL, event->site, 0, 0, 0);
        return;
    }
    stream_pause(plan, site, false);
    site->cut = true;
    site->outage_from = plan->now;
    if (site->uploading) ingress_advance(plan);
    plan_post(plan, plan->now + length, EV_OUTAGE_OVER, event->site, event->fragment, 0, 0);
}

static void outage_over(struct plan *plan, struct site_now *site, const struct plan_event *event) {
    site->cut = false;
    if (event->fragment == 0)
        plan_post(plan, plan->now + topology_fault_gap(&site->group->link.outage, &site->faults),
                  EV_OUTAGE, event->site, 0, 0, 0);
    if (!site->present || !site->alive) return;
    if (plan->now - site->outage_from > KEEPALIVE_SECONDS && site->linked) {
        site_link_lost(plan, event->site); /* keepalive gave the connections up meanwhile */
        return;
    }
    for (uint32_t fragment = 0; fragment < plan->fragments; fragment++) {
        struct plan_slot *slot = &site->slots[fragment];
        if (slot->state == IN_UPLOADING && !site->uploading && !slot->entered)
            post(plan, site, plan->now + site->one_way, EV_OPEN, fragment, 0);
    }
    if (site->linked) stream_resume(plan, site);
    if (site->uploading) ingress_advance(plan);
}

/* ---- events ---------------------------------------------------------------------------------- */

static void slot_event(struct plan *plan, struct site_now *site, const struct plan_event *event) {
    struct plan_slot *slot = &site->slots[event->fragment];
    if (slot->sequence != event->number || !site->present) return;
    if (event->kind == EV_MERGED) { /* also where it comes before the receipt */
        if (!site->alive)           /* it will be replayed after the restart */
            plan_post(plan, plan->now + 1, EV_MERGED, event->site, event->fragment, event->number,
                      event->steps);
        else if (slot->state != IN_TRAINING)
            merged(plan, site, event->fragment, (uint64_t)event->steps);
        return;
    }
    if (!site->alive) return;
    switch (event->kind) {
    case EV_SNAPSHOT:
    case EV_REBASE:
        if (site->training &&
            boundary(site, event->steps) > plan->now + 1e-9) { /* another copy came between */
            post(plan, site, boundary(site, event->steps), event->kind, event->fragment,
                 event->steps);
        } else if (event->kind == EV_SNAPSHOT) {
            if (slot->state == IN_SNAPSHOT) snapshotted(plan, site, event->fragment);
        } else {
            rebased(plan, site, event->fragment);
        }
        break;
    case EV_ENCODED:
        if (slot->state != IN_ENCODING) return;
        slot->encoded = true;
        slot->in_ledger = false;
        phase_over(plan, slot, PLAN_ENCODING);
        upload(plan, site, event->fragment);
        break;
    case EV_RETRY:
        if (slot->state == IN_BACKOFF) upload(plan, site, event->fragment);
        break;
    case EV_RECEIPT:
        if (slot->state != IN_UPLOADING) return;
        slot->state = IN_ACCEPTED;
        slot->attempts = 0;
        site_cause(plan, site);
        break;
    case EV_REFUSED: refused(plan, site, event->fragment); break;
    case EV_BUSY:
        if (slot->state == IN_UPLOADING) wait_and_retry(plan, site, event->fragment, BUSY_SECONDS);
        break;
    default: break;
    }
}

void site_event(struct plan *plan, const struct plan_event *event) {
    struct site_now *site = &plan->sites[event->site];
    switch (event->kind) {
    case EV_JOIN: joins(plan, site); return;
    case EV_LEAVE: leaves(plan, site); return;
    case EV_FAIL:
    case EV_RESET:
    case EV_OUTAGE: fault_event(plan, site, event); return;
    case EV_OUTAGE_OVER: outage_over(plan, site, event); return;
    case EV_CONNECT:
        if (event->number == site->link && site->alive) connect_site(plan, site);
        return;
    case EV_LINKED:
        if (event->number == site->link && site->alive && plan->up) linked(plan, site);
        return;
    case EV_DUE:
        if (event->number != site->life || !site->present) return;
        if (event->steps < 0 && site->slots[event->fragment].sequence == (uint64_t)-event->steps)
            site->slots[event->fragment].in_ledger = true;
        check_rounds(plan, site);
        return;
    case EV_TRAIN:
        if (event->number == site->life && site->alive && !site->started)
            starts_training(plan, site);
        return;
    case EV_REPAIRED:
        if (event->number != site->life) return;
        book(plan, site, PLAN_RESTART);
        plan_post(plan, plan->now + site->group->restart, EV_RESTARTED, event->site, 0, site->life,
                  0);
        return;
    case EV_RESTARTED:
        if (event->number == site->life && site->present) {
            book(plan, site, PLAN_RESTART);
            restarted(plan, site);
        }
        return;
    default: slot_event(plan, site, event); return;
    }
}

void site_finish(struct plan *plan) {
    for (uint32_t i = 0; i < plan->site_count; i++) {
        struct site_now *site = &plan->sites[i];
        if (site->active && plan->log_count) stream_pause(plan, site, false);
        if (site->since > plan->now) { /* a copy that goes on past the end */
            site->out->time[PLAN_COPY] -= site->since - plan->now;
            site->since = plan->now;
        }
        book(plan, site, site->cause);
    }
}
