/* The coordinator in virtual time: what has come, when an outer step starts (fed/merge_policy.h),
 * and what is sent to whom. Events and sites are in train.c. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "experiment/train_internal.h"
#include "fed/outer_rate.h"

/* On its way to the site, after all that was sent to it before: a step, or a refusal where
 * `version` is NULL. A stream keeps its order, and its bytes wait for those before them. */
static void deliver(struct train *train, uint32_t index, uint32_t fragment, double bytes,
                    struct train_version *version, bool merged) {
    struct train_site *site = &train->sites[index];
    const struct topology_link *link = &site->group->link;
    double sent = MAX(faults_release(&site->outage, train->now), site->stream_until);
    site->stream_until = sent + bytes / topology_rate_down(link);
    struct train_event event = train_event_at(
        site->stream_until + link->rtt / 2 + train_jitter(train, link), EVENT_DELIVER, index);
    event.version = version ? version_hold(version) : NULL;
    event.run_tokens = train->ledger_tokens;
    event.fragment = fragment;
    event.merged = merged;
    train->result.bytes_down += (uint64_t)bytes;
    train_post(train, event);
}

static struct step_input input_of(const struct train *train, uint32_t fragment,
                                  const struct train_pending *one, uint64_t staleness) {
    double weight = one->weight * staleness_weight_of(&train->rules, staleness);
    const struct train_slot *slot = &train->sites[one->site].slots[fragment];
    return (struct step_input){slot->payload, scale_of(one->clip, weight)};
}

static uint64_t milliseconds_of(double seconds) { return (uint64_t)(seconds * 1000); }

static struct clip_rules clip_rules(const struct train *train, uint32_t fragment) {
    const struct manifest *manifest = &train->rules;
    size_t parameters = train_range_of(train, fragment).count;
    return clip_rules_of(manifest, manifest->inner.inner_steps, parameters);
}

double train_clip_limit(const struct train *train, uint32_t fragment) {
    struct clip_rules rules = clip_rules(train, fragment);
    return clip_limit(&train->queues[fragment].clip, &rules);
}

/* A site that left counts as revoked. */
static uint32_t enrolled(const struct train *train) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < train->site_count; i++)
        count += !train->sites[i].left && train->now >= train->sites[i].group->joins;
    return count;
}

/* Everybody hears of the step, and fetches what others sent; its own payload a site has. */
static void deliver_step(struct train *train, uint32_t fragment, uint32_t count) {
    double bytes = 0;
    struct train_pending *one = train->queues[fragment].first;
    for (uint32_t i = 0; i < count; i++, one = one->next) {
        struct train_site *site = &train->sites[one->site];
        site->part_bytes = (double)payload_terms(site->slots[fragment].payload)->size;
        bytes += site->part_bytes + HEADER_BYTES;
    }
    for (uint32_t i = 0; i < train->site_count; i++) {
        struct train_site *site = &train->sites[i];
        if (!site->left && site->came)
            deliver(train, i, fragment, bytes - site->part_bytes, train->newest,
                    site->part_bytes > 0);
        site->part_bytes = 0;
    }
}

static void queue_drop(struct train_queue *queue, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        struct train_pending *one = queue->first;
        queue->first = one->next;
        free(one);
    }
    if (!queue->first) queue->end = &queue->first;
    queue->count -= count;
}

/* Followed by the coordinator, or so lately that it does not miss the site yet. */
static bool is_present(struct train *train, struct train_site *site) {
    double away_after = merge_settings_of(&train->rules).away_after / 1000;
    bool cut = faults_release(&site->outage, train->now) > train->now;
    double heard = !site->up ? site->heard : cut ? site->outage.from : train->now;
    return merge_is_present(site->up && !cut, heard, train->now, away_after);
}

static uint32_t present(struct train *train) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < train->site_count; i++) {
        struct train_site *site = &train->sites[i];
        if (site->left || train->now < site->group->joins) continue;
        count += is_present(train, site);
    }
    return count;
}

void train_note_cap(struct train *train, uint64_t from) {
    uint32_t cap = train->rules.merge.staleness_cap;
    cap_changes_note(&train->caps, from, cap);
    for (uint32_t i = 0; i < train->model.fragments; i++)
        presence_history_reach(&train->queues[i].present, staleness_reach(cap));
}

uint32_t train_staleness_cap(const struct train *train, uint32_t fragment, uint64_t base_version,
                             uint64_t missed) {
    uint32_t most = presence_history_most(&train->queues[fragment].present, missed);
    return cap_changes_at(&train->caps, base_version, most);
}

static void note_present(struct train *train) {
    uint32_t here = present(train);
    train->result.present_most = MAX(train->result.present_most, here);
    for (uint32_t i = 0; i < train->model.fragments; i++)
        presence_history_note(&train->queues[i].present, here);
}

/* Merges the first `count` of what waits. */
static enum status outer_step(struct train *train, uint32_t fragment, uint32_t count,
                              struct error *error) {
    struct step_input *inputs = xcalloc(count, sizeof(inputs[0]));
    struct train_queue *queue = &train->queues[fragment];
    struct train_pending *one = queue->first;
    const struct manifest *manifest = &train->rules;
    uint32_t here = present(train);
    struct step_rules step = step_rules_of(manifest, manifest->inner.inner_steps, here);
    for (uint32_t i = 0; i < count; i++, one = one->next) {
        uint64_t staleness = queue->steps - one->base_steps;
        inputs[i] = input_of(train, fragment, one, staleness);
        train->staleness_sum += staleness;
        struct train_site_record *record = &train->sites[one->site].record;
        record->staleness_most = MAX(record->staleness_most, staleness);
        train->result.staleness_most = MAX(train->result.staleness_most, staleness);
    }
    enum status status = model_state_step(&train->model, fragment, train->model.version + 1, &step,
                                          count, inputs, train->result.root, error);
    free(inputs);
    if (status != OK) return status;
    struct clip_rules rules = clip_rules(train, fragment);
    queue->steps++;
    presence_history_step(&queue->present, here);
    clip_step(&queue->clip, &rules, milliseconds_of(train->now), enrolled(train));
    version_release(train, train->newest);
    train->newest = version_take(train);
    version_remember(train);
    deliver_step(train, fragment, count);
    queue_drop(queue, count);
    return OK;
}

/* A site that left, or is away, is not waited for. */
static struct merge_view view_of(struct train *train) {
    struct merge_view view = {.version = train->model.version, .present = present(train)};
    for (uint32_t i = 0; i < train->model.fragments; i++) view.waiting[i] = train->queues[i].count;
    return view;
}

/* Outer steps as long as one is due, or a timer for the next; after every event. */
static bool nothing_waits(const struct train *train) {
    for (uint32_t i = 0; i < train->model.fragments; i++)
        if (train->queues[i].count > 0) return false;
    return true;
}

enum status train_consider(struct train *train, struct error *error) {
    struct merge_settings settings = merge_settings_of(&train->rules);
    note_present(train);
    if (nothing_waits(train) || faults_release(&train->coordinator, train->now) > train->now)
        return OK;
    settings.grace /= 1000; /* the time here is in seconds */
    settings.warmup_grace /= 1000;
    settings.away_after /= 1000;
    for (;;) {
        struct merge_view view = view_of(train);
        struct merge_decision next = merge_decide(&settings, &view, train->now, &train->windows);
        if (next.is_due) {
            uint32_t count =
                MIN(train->queues[next.fragment].count, (uint32_t)STEP_CONTRIBUTIONS_LIMIT);
            TRY(outer_step(train, next.fragment, count, error));
            continue;
        }
        if (isfinite(next.wake) && next.wake != train->wake) {
            train->wake = next.wake;
            train_post(train, train_event_at(next.wake, EVENT_GRACE, 0));
        }
        return OK;
    }
}

static void note_clip(struct train *train, double clip) {
    if (train->clip_count == train->clip_capacity) {
        train->clip_capacity = MAX(2 * train->clip_capacity, (size_t)64);
        train->clips = xrealloc(train->clips, train->clip_capacity * sizeof(train->clips[0]));
    }
    train->clips[train->clip_count++] = clip;
}

/* By the manifest's policy, as run_state weighs it. */
static double weigh(struct train *train, uint32_t fragment, uint32_t site, uint64_t tokens) {
    struct weighing *weights = &train->queues[fragment].weights;
    const struct manifest *manifest = &train->rules;
    uint64_t now = milliseconds_of(train->now);
    double share = weight_share(manifest, train->sites[site].place.name);
    weighing_note(weights, site + 1, tokens, share, now, now);
    return weighing_of(weights, manifest, site + 1, now);
}

enum status train_arrive(struct train *train, const struct train_event *event) {
    const struct manifest *manifest = &train->rules;
    struct train_site *site = &train->sites[event->site];
    struct train_slot *slot = &site->slots[event->fragment];
    struct train_queue *queue = &train->queues[event->fragment];
    double back = faults_release(&train->coordinator, train->now);
    if (back > train->now) { /* it is away: the site tries again when it is back */
        struct train_event again = *event;
        again.at = back + site->group->link.rtt;
        site->entered = again.at + site->group->link.rtt / 2;
        train_post(train, again);
        return OK;
    }
    if (event->generation <= slot->taken) { /* it came before */
        train->result.duplicates++;
        site->record.duplicates++;
        return OK;
    }
    slot->taken = event->generation;
    if (train->options->drop > 0 && random_unit(&train->losses) < train->options->drop) {
        train->result.dropped++;
        slot->stale = false;
        site->record.dropped++;
        deliver(train, event->site, event->fragment, HEADER_BYTES, NULL, false);
        return OK;
    }
    uint64_t missed = queue->steps - slot->base_steps;
    if (missed > train_staleness_cap(train, event->fragment, slot->base_version, missed)) {
        train->result.refused++;
        slot->stale = true;
        site->record.refused++;
        deliver(train, event->site, event->fragment, HEADER_BYTES, NULL, false);
        return OK;
    }
    double norm = clip_norm(slot->norm, (uint32_t)slot->sent_steps, manifest->inner.inner_steps);
    struct train_pending *one = xcalloc(1, sizeof(*one));
    uint64_t tokens = (slot->round_tokens - slot->own_known_tokens) / train->model.fragments;
    *one = (struct train_pending){.site = event->site,
                                  .base_steps = slot->base_steps,
                                  .clip = clip_of(train_clip_limit(train, event->fragment), norm),
                                  .weight = weigh(train, event->fragment, event->site, tokens)};
    clip_note(&queue->clip, event->site + 1, norm, milliseconds_of(train->now));
    if (!site_is_hostile(train, site)) note_clip(train, one->clip);
    train->result.clipped += one->clip < 1;
    site->record.clipped += one->clip < 1;
    site->record.contributions++;
    hostile_note_honest(train, site);
    *queue->end = one;
    queue->end = &one->next;
    queue->count++;
    train->result.contributions++;
    train->ledger_tokens += tokens;
    return OK;
}
