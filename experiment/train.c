/* Virtual time: events, one after the other, of sites, their links and faults. The coordinator's
 * are in train_coordinator.c; what sites do to tensors is in train_site.c. */
#include "experiment/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/thread.h"
#include "experiment/train_internal.h"
#include "model/export.h"
#include "run/run_model.h"

enum { THREADS_LIMIT = 64 };

/* ---- events: by time, then order of making ---- */

static bool before(const void *first, const void *second) {
    const struct train_event *a = first, *b = second;
    return a->at < b->at || (a->at == b->at && a->order < b->order);
}

void train_post(struct train *train, struct train_event event) {
    event.order = train->events++;
    heap_push(&train->heap, &event);
}

static struct train_event event_pop(struct train *train) {
    struct train_event event;
    heap_remove(&train->heap, 0, &event);
    return event;
}

static uint64_t tokens_of(const struct train *train) {
    uint64_t tokens = 0;
    for (uint32_t i = 0; i < train->site_count; i++) tokens += train->sites[i].tokens;
    return tokens;
}

static bool has_enough(const struct train *train) {
    uint64_t limit = train->options->token_limit;
    return limit && tokens_of(train) >= limit;
}

static bool is_over(const struct train *train) {
    if (has_enough(train)) return true;
    const struct train_event *next = heap_first(&train->heap);
    return !next || next->at > train->options->duration;
}

/* ---- faults ---- */

/* The next fault after a time. */
static void faults_advance(struct train_faults *faults, double after) {
    const struct topology_fault *fault = faults->fault;
    faults->from = after + topology_fault_gap(fault, &faults->random);
    bool is_extra = !faults->at_done && isfinite(fault->at) && fault->at <= faults->from;
    if (is_extra) {
        faults->at_done = true;
        faults->from = MAX(fault->at, after);
    }
    double from = is_extra ? fault->at : faults->from; /* it may have begun during another one */
    faults->until = from + topology_fault_length(fault, is_extra, &faults->random);
}

static void faults_init(struct train_faults *faults, const struct topology_fault *fault,
                        uint64_t seed, uint64_t number) {
    faults->fault = fault;
    random_init(&faults->random, random_hash(seed, number));
    faults_advance(faults, 0);
}

double faults_release(struct train_faults *faults, double at) {
    while (faults->until <= at) faults_advance(faults, faults->until);
    return faults->from <= at ? faults->until : at;
}

/* ---- sites ---- */

struct train_event train_event_at(double at, enum train_event_kind kind, uint32_t site) {
    return (struct train_event){.at = at, .kind = kind, .site = site};
}

static void site_go_on(struct train *train, uint32_t index) {
    struct train_event event =
        train_event_at(train->now + train->sites[index].step, EVENT_STEP, index);
    event.generation = train->sites[index].generation;
    train_post(train, event);
}

double train_jitter(struct train *train, const struct topology_link *link) {
    return link->jitter > 0 ? random_unit(&train->random) * link->jitter : 0;
}

static void log_round(struct train *train, const struct train_site *site) {
    if (train->options->csv)
        fprintf(train->options->csv, "%.3f,%s,%llu,%llu,%.6f,\n", train->now, site->place.name,
                (unsigned long long)train->model.version, (unsigned long long)site->tokens,
                site->loss);
}

/* A base beyond the staleness cap would be refused: it moves forward before the snapshot, and all
 * progress is kept, as node_rounds_begin orders it. For a site that does not follow. */
static enum status advance_if_stale(struct train *train, struct train_site *site, uint32_t fragment,
                                    struct error *error) {
    struct train_slot *slot = &site->slots[fragment];
    uint64_t missed = train->newest->steps[fragment] - slot->base->steps[fragment];
    uint32_t cap = train_staleness_cap(train, fragment, slot->base->version, missed);
    if (missed <= cap || site->known == slot->base) return OK;
    slot->why = REBASE_FOLLOW;
    return site_rebase(train, site, fragment, error);
}

/* Between two inner steps. */
static enum status move(struct train *train, struct train_site *site, struct error *error) {
    uint32_t interval = train->options->follow_interval;
    bool follows = interval > 0 && ++site->since_follow >= interval;
    for (uint32_t i = 0; i < train->model.fragments; i++) {
        struct train_slot *slot = &site->slots[i];
        /* what it moves by is a step of this fragment, or nothing */
        if (slot->why == REBASE_NONE && follows && site->known != slot->base)
            slot->why = REBASE_FOLLOW;
        if (slot->why == REBASE_NONE) continue;
        TRY(site_rebase(train, site, i, error));
        site->since_follow = 0;
    }
    return OK;
}

static enum status round_end(struct train *train, uint32_t index, uint32_t fragment,
                             struct error *error) {
    struct train_site *site = &train->sites[index];
    struct train_slot *slot = &site->slots[fragment];
    const struct topology_link *link = &site->group->link;
    TRY(advance_if_stale(train, site, fragment, error));
    TRY(site_round(train, site, fragment, error));
    log_round(train, site);
    uint64_t bytes = payload_terms(slot->payload)->size + HEADER_BYTES;
    double size = (double)bytes;
    double sent = faults_release(&site->outage, train->now);
    struct train_event arrival =
        train_event_at(sent + link->rtt + size / topology_rate_up(link) + train_jitter(train, link),
                       EVENT_ARRIVE, index);
    arrival.generation = slot->sequence;
    arrival.fragment = fragment;
    site->entered = arrival.at + link->rtt / 2;
    train_post(train, arrival);
    if (train->options->duplicate > 0 && random_unit(&train->losses) < train->options->duplicate) {
        arrival.at += link->rtt;
        train_post(train, arrival);
    }
    train->result.bytes_up += bytes;
    train->result.message_most = MAX(train->result.message_most, bytes);
    slot->sent_steps = slot->since_snapshot;
    slot->since_snapshot = 0;
    slot->round_tokens = site->tokens;
    site->waits = !train->options->topology->run.overlap;
    return OK;
}

/* Of the sites that are there, as the coordinator tells it. */
static void tell_inner_steps(struct train *train) {
    const struct manifest *manifest = &train->rules;
    struct dylu_rates rates = {0};
    for (uint32_t i = 0; i < train->site_count; i++)
        if (train->sites[i].up) dylu_note(&rates, 1 / train->sites[i].step);
    for (uint32_t i = 0; i < train->site_count; i++) {
        struct train_site *site = &train->sites[i];
        site->inner_steps = manifest->inner.inner_steps;
        if (manifest->inner.dylu)
            site->inner_steps =
                dylu_inner_steps(site->inner_steps, 1 / site->step, dylu_fastest(&rates));
    }
}

/* The one whose last snapshot is the longest ago, once the message before it is in the ledger, as
 * in node/node_rounds.c. */
static bool longest_due(const struct train *train, const struct train_site *site, uint32_t *out) {
    uint64_t longest = 0;
    if (train->now < site->entered) return false;
    for (uint32_t i = 0; i < train->model.fragments; i++) {
        const struct train_slot *slot = &site->slots[i];
        if (slot->in_flight || slot->since_snapshot < MAX(site->inner_steps, longest + 1)) continue;
        longest = slot->since_snapshot;
        *out = i;
    }
    return longest > 0;
}

static enum status on_step(struct train *train, const struct train_event *event,
                           struct error *error) {
    struct train_site *site = &train->sites[event->site];
    if (event->generation != site->generation || train->now >= site->group->leaves) return OK;
    site_step_due(train, site);
    for (uint32_t i = 0; i < train->model.fragments; i++) site->slots[i].since_snapshot++;
    site->busy += site->step;
    train->result.steps++;
    TRY(move(train, site, error));
    uint32_t fragment;
    if (longest_due(train, site, &fragment)) TRY(round_end(train, event->site, fragment, error));
    if (site->due_count && train->now - site->checkpointed >= site->group->checkpoint) {
        site->checkpointed = train->now;
        TRY(sites_flush(train, site, error));
    }
    if (!site->waits) site_go_on(train, event->site);
    return OK;
}

static void note_gone(struct train *train, struct train_site *site) {
    bool cut = faults_release(&site->outage, train->now) > train->now;
    if (site->up) site->heard = cut ? site->outage.from : train->now;
    site->generation++;
    site->up = false;
}

static void on_fail(struct train *train, const struct train_event *event) {
    struct train_site *site = &train->sites[event->site];
    if (train->now >= site->group->leaves) return;
    note_gone(train, site);
    tell_inner_steps(train);
    /* What was trained since the last checkpoint or round was on no disk. */
    uint64_t lost = site->due_count, step_tokens = (uint64_t)train->options->sequences *
                                                   train->options->manifest->model.context;
    site->due_count = 0;
    site->tokens -= lost * step_tokens;
    site->busy -= (double)lost * site->step;
    for (uint32_t i = 0; i < train->model.fragments; i++)
        site->slots[i].since_snapshot -= MIN(lost, site->slots[i].since_snapshot);
    train->result.lost_steps += lost;
    train->result.steps -= lost;
    train_post(train, train_event_at(site->failure.until + site->group->restart, EVENT_REPAIR,
                                     event->site));
}

/* It takes what it trained to the end with it, except a message that is on its way. */
static void on_leave(struct train *train, struct train_site *site) {
    note_gone(train, site);
    site->left = true;
    for (uint32_t i = 0; i < train->model.fragments; i++) {
        clip_silence(&train->queues[i].clip, (uint32_t)(site - train->sites) + 1);
        weighing_silence(&train->queues[i].weights, (uint32_t)(site - train->sites) + 1);
    }
    tell_inner_steps(train);
}

/* A site that comes late starts from the newest version, as a node does that has caught up. */
static void stand_on_newest(struct train *train, struct train_site *site) {
    version_release(train, site->known);
    site->known = version_hold(train->newest);
    for (uint32_t i = 0; i < train->model.fragments; i++) {
        version_release(train, site->slots[i].base);
        site->slots[i].base = version_hold(train->newest);
    }
    memcpy(site->theta, site->known->theta, train->layout.count * sizeof(float));
    site->known_tokens = train->ledger_tokens;
}

static void on_repair(struct train *train, const struct train_event *event) {
    struct train_site *site = &train->sites[event->site];
    if (site->left) return;
    if (!site->came && site->group->joins > 0) stand_on_newest(train, site);
    site->came = true;
    site->up = true;
    tell_inner_steps(train);
    site->checkpointed = train->now;
    if (!site->waits) site_go_on(train, event->site);
    faults_advance(&site->failure, train->now);
    if (isfinite(site->failure.from))
        train_post(train, train_event_at(site->failure.from, EVENT_FAIL, event->site));
}

/* What a site has heard. A refusal after a merge cannot come: one message of a fragment is under
 * way at most. */
static void hear(struct train *train, struct train_site *site, const struct train_event *event) {
    struct train_slot *slot = &site->slots[event->fragment];
    if (event->version && event->version->version > site->known->version) {
        version_release(train, site->known);
        site->known = version_hold(event->version);
        site->known_tokens = event->run_tokens;
    }
    if (!event->version) { /* due again at once, as in node/node_messages.c */
        slot->why = site->feedback ? REBASE_SPARSE_REFUSED : REBASE_DENSE_REFUSED;
        slot->again = !slot->stale || !slot->again;
        if (slot->again) slot->since_snapshot += slot->sent_steps;
    }
    if (!event->merged) return;
    slot->why = REBASE_MERGED;
    slot->again = false;
    slot->own_known_tokens = slot->round_tokens;
}

/* The site moves at the end of the step that it is in; one that waits for the merge does so now. */
static enum status on_deliver(struct train *train, const struct train_event *event,
                              struct error *error) {
    struct train_site *site = &train->sites[event->site];
    if (site->left) {
        version_release(train, event->version);
        return OK;
    }
    if (!site->up) { /* it hears of it when it is back */
        struct train_event later = *event;
        later.at = site->failure.until + site->group->restart + site->group->link.rtt;
        train_post(train, later);
        return OK;
    }
    hear(train, site, event);
    version_release(train, event->version);
    const struct train_slot *slot = &site->slots[0]; /* with overlap off there is one */
    if (!site->waits || slot->why == REBASE_NONE) return OK;
    TRY(site_rebase(train, site, 0, error));
    site->since_follow = 0;
    site->waits = false;
    if (slot->since_snapshot >= site->inner_steps) return round_end(train, event->site, 0, error);
    site_go_on(train, event->site);
    return OK;
}

static struct train_evaluation *record_point(struct train *train, double **files) {
    struct train_record *record = &train->record;
    if (record->count == train->record_capacity) {
        train->record_capacity = MAX(2 * train->record_capacity, (size_t)32);
        record->evaluations =
            xrealloc(record->evaluations, train->record_capacity * sizeof(record->evaluations[0]));
        record->files = xrealloc(record->files, train->record_capacity * record->file_count *
                                                    sizeof(record->files[0]));
    }
    *files = record->files + record->count * record->file_count;
    return &record->evaluations[record->count];
}

enum status train_note_evaluation(struct train *train, struct error *error) {
    const struct train_options *options = train->options;
    double sum = 0, *files;
    struct train_evaluation *evaluation = record_point(train, &files);
    uint64_t tokens = tokens_of(train);
    uint32_t known = 0;
    TRY(train_evaluate(train, files, &train->result.heldout, error));
    for (uint32_t i = 0; i < train->site_count; i++) {
        if (isnan(train->sites[i].loss) || train->sites[i].left) continue;
        sum += train->sites[i].loss;
        known++;
    }
    train->result.loss = known ? sum / known : NAN;
    *evaluation = (struct train_evaluation){
        train->now, train->result.loss,    train->result.heldout, train->model.version,
        tokens,     train->result.bytes_up};
    train->record.count++;
    if (options->csv)
        fprintf(options->csv, "%.3f,global,%llu,%llu,%.6f,%.6f\n", train->now,
                (unsigned long long)train->model.version, (unsigned long long)tokens,
                train->result.loss, train->result.heldout);
    if (options->progress)
        fprintf(options->progress,
                "%10.0f s  version %-6llu %10llu tokens  loss %.4f  held-out %.4f\n", train->now,
                (unsigned long long)train->model.version, (unsigned long long)tokens,
                train->result.loss, train->result.heldout);
    if (options->history) {
        struct history_point point = {.step = train->result.steps,
                                      .tokens = tokens,
                                      .loss = train->result.loss,
                                      .heldout = train->result.heldout,
                                      .gradient_norm = NAN,
                                      .learning_rate = NAN,
                                      .tokens_per_second =
                                          train->now > 0 ? (double)tokens / train->now : 0,
                                      .seconds = train->now};
        TRY(history_add(options->history, &point, error));
    }
    return OK;
}

static enum status on_evaluate(struct train *train, struct error *error) {
    const struct train_options *options = train->options;
    TRY(train_note_evaluation(train, error));
    if (train->now < options->duration)
        train_post(train,
                   train_event_at(MIN(train->now + options->evaluate_every, options->duration),
                                  EVENT_EVALUATE, 0));
    return OK;
}

/* From the next step on, as a RULE entry; of a message under way, too. */
static enum status on_rule(struct train *train, const struct train_event *event,
                           struct error *error) {
    const struct rules_change *change = &train->options->changes[event->generation];
    uint16_t codec = train->rules.codec.kind;
    TRY(manifest_change(&train->rules, change->key, change->value, &train->rules, NULL, error));
    if (train->rules.codec.kind != codec)
        return error_set(error, INVALID, "%s cannot change in train", change->key);
    train_note_cap(train, train->model.version + 1);
    struct schedule schedule = run_model_schedule(&train->rules);
    for (uint32_t i = 0; i < train->site_count; i++)
        TRY(sites_flush(train, &train->sites[i], error)); /* what is due was trained before */
    for (uint32_t i = 0; i < train->threads; i++)
        TRY(trainer_set_schedule(train->trainers[i], &schedule, error));
    tell_inner_steps(train);
    return OK;
}

static enum status happen(struct train *train, const struct train_event *event,
                          struct error *error) {
    switch (event->kind) {
    case EVENT_STEP: return on_step(train, event, error);
    case EVENT_ARRIVE: return train_arrive(train, event);
    case EVENT_DELIVER: return on_deliver(train, event, error);
    case EVENT_EVALUATE: return on_evaluate(train, error);
    case EVENT_FAIL: on_fail(train, event); return OK;
    case EVENT_REPAIR: on_repair(train, event); return OK;
    case EVENT_RULE: return on_rule(train, event, error);
    case EVENT_LEAVE: on_leave(train, &train->sites[event->site]); return OK;
    case EVENT_GRACE: train->wake = INFINITY; return OK;
    }
    return OK;
}

static enum status handle(struct train *train, const struct train_event *event,
                          struct error *error) {
    TRY(happen(train, event, error));
    return train_consider(train, error);
}

/* ---- life ---- */

static uint32_t threads_of(const struct train_options *options) {
    uint32_t threads = options->threads ? options->threads : thread_processor_count();
    return MIN(MIN(threads, options->topology->site_count), (uint32_t)THREADS_LIMIT);
}

enum status train_memory(const struct train_options *options, uint64_t *out, struct error *error) {
    struct trainer_options one = TRAINER_DEFAULTS;
    struct layout layout;
    uint64_t sites = options->topology->site_count,
             sparse = options->manifest->outer.mode == OUTER_SPARSE ? 4 : 0;
    TRY(run_model_layout(options->manifest, bytes_of(NULL, 0), &layout, error));
    uint64_t parameters = layout.count;
    one.model = layout.config;
    layout_deinit(&layout);
    one.sequences = options->sequences;
    one.length = one.model.context;
    one.threads = 1;
    TRY(trainer_check(&one, error));
    *out = sites * (12 + sparse + 4) * parameters +
           (sites * options->manifest->fragments + 2 + options->average) * 4 * parameters +
           model_state_memory(options->manifest, parameters) +
           threads_of(options) * trainer_memory(&one);
    return OK;
}

/* Fragment f is due (f + 1) / F of a round in, as node_rounds_stagger has it. */
static void stagger(const struct train *train, struct train_site *site) {
    uint64_t round = site->inner_steps, fragments = train->model.fragments;
    for (uint64_t i = 0; i < fragments; i++)
        site->slots[i].since_snapshot = round - (round * (i + 1) + fragments - 1) / fragments;
}

static enum status sites_open(struct train *train, struct error *error) {
    const struct train_options *options = train->options;
    for (uint32_t i = 0; i < train->site_count; i++) {
        struct train_site *site = &train->sites[i];
        site->place = topology_place(options->topology, i, options->seed);
        site->group = &options->topology->groups[site->place.group];
        site->step = site->place.step;
        faults_init(&site->failure, &site->group->failure, options->seed, 2 * (uint64_t)i + 100);
        faults_init(&site->outage, &site->group->link.outage, options->seed, 2 * (uint64_t)i + 101);
        /* As a node does: the order of sampling is of the run and the site's number. */
        const struct run_model_files files = {
            .paths = &options->data[i % options->data_count],
            .count = 1,
            .format = options->data_format,
            .heldout = options->heldout,
            .seed = random_hash(options->manifest->initial.seed, i + 1)};
        TRY(run_model_data(options->manifest, &files, &train->data[i], error));
        site->data = train->data[i];
        TRY(site_init(train, i, error));
    }
    for (uint32_t i = 0; i < train->site_count; i++) {
        struct train_site *site = &train->sites[i];
        site->up = true;
        if (isfinite(site->group->leaves))
            train_post(train, train_event_at(site->group->leaves, EVENT_LEAVE, i));
        train->now = site->group->joins;
        if (train->now > 0) site->up = false;
        site->heard = -INFINITY;
        site->came = site->up;
        if (site->up) {
            site_go_on(train, i);
            if (isfinite(site->failure.from))
                train_post(train, train_event_at(site->failure.from, EVENT_FAIL, i));
        } else {
            train_post(train, train_event_at(train->now, EVENT_REPAIR, i));
        }
    }
    tell_inner_steps(train);
    for (uint32_t i = 0; i < train->site_count; i++) stagger(train, &train->sites[i]);
    train->now = 0;
    return OK;
}

static enum status train_open(struct train *train, struct error *error) {
    const struct train_options *options = train->options;
    const struct manifest *manifest = options->manifest;
    struct run_model_local local = {.sequences = options->sequences, .threads = 1};
    bool one = manifest->fragments == 1;
    if (!one && (!options->topology->run.overlap || options->hostile != TRAIN_HONEST))
        return error_set(error, INVALID,
                         "train has one fragment where sites wait for merges or are hostile, not "
                         "%u",
                         manifest->fragments);
    if (!options->data_count)
        return error_set(
            error, INVALID,
            "no data: name a file of text or tokens for each site, or some that they share");
    TRY(run_model_layout(manifest, bytes_of(NULL, 0), &train->layout, error));
    TRY(model_state_init(&train->model, manifest, train->layout.count, error));
    TRY(run_model_initialise(manifest, &train->layout, NULL, train->model.theta, error));
    for (uint32_t i = 0; i < manifest->fragments; i++) {
        train->queues[i].end = &train->queues[i].first;
        TRY(codec_encoder_create((enum codec)manifest->codec.kind, train_range_of(train, i).count,
                                 &train->queues[i].encoder, error));
    }
    for (uint32_t i = 0; i < train->threads; i++)
        TRY(run_model_trainer(manifest, &local, &train->trainers[i], error));
    train_note_cap(train, 0);
    train->newest = version_take(train);
    faults_init(&train->coordinator, &options->topology->coordinator.outage, options->seed, 1);
    random_init(&train->random, random_hash(options->seed, 2));
    random_init(&train->losses, random_hash(options->seed, 3));
    train->record.file_count = train_file_count(train);
    TRY(sites_open(train, error));
    train_post(train, train_event_at(0, EVENT_EVALUATE, 0));
    for (size_t i = 0; i < options->change_count; i++) {
        struct train_event event = train_event_at(options->changes[i].at, EVENT_RULE, 0);
        event.generation = i;
        train_post(train, event);
    }
    return OK;
}

static void pending_close(struct train_queue *queue) {
    while (queue->first) {
        struct train_pending *one = queue->first;
        queue->first = one->next;
        free(one);
    }
    clip_deinit(&queue->clip);
    weighing_deinit(&queue->weights);
    presence_history_deinit(&queue->present);
    codec_encoder_destroy(queue->encoder);
}

static void train_close(struct train *train) {
    for (uint32_t i = 0; i < train->site_count; i++) {
        for (uint32_t j = 0; j < FRAGMENTS_LIMIT; j++)
            version_release(train, train->sites[i].slots[j].base);
        version_release(train, train->sites[i].known);
        trainee_deinit(&train->sites[i]);
        data_close(train->data[i]);
    }
    for (uint32_t i = 0; i < FRAGMENTS_LIMIT; i++) pending_close(&train->queues[i]);
    while (train->heap.count) version_release(train, event_pop(train).version);
    for (uint64_t i = 0; i < MIN(train->last_count, (uint64_t)train->options->average); i++)
        version_release(train, train->last[i]);
    free(train->last);
    cap_changes_deinit(&train->caps);
    version_release(train, train->newest);
    for (uint32_t i = 0; i < train->threads; i++) trainer_destroy(train->trainers[i]);
    model_state_deinit(&train->model);
    layout_deinit(&train->layout);
    free(train->sites);
    free(train->data);
    free(train->trainers);
    buffer_deinit(&train->overheard);
    free(train->clips);
    train_record_deinit(&train->record);
    heap_deinit(&train->heap);
}

static int by_value(const void *first, const void *second) {
    const double *a = first, *b = second;
    return (*a > *b) - (*a < *b);
}

void train_record_deinit(struct train_record *record) {
    free(record->evaluations);
    free(record->files);
    free(record->sites);
    *record = (struct train_record){0};
}

static double late_mean(const struct train_record *record) {
    size_t late = MAX((record->count + 9) / 10, (size_t)1);
    double sum = 0;
    if (record->count < late) return NAN;
    for (size_t i = record->count - late; i < record->count; i++)
        sum += record->evaluations[i].heldout;
    return sum / (double)late;
}

static void record_sites(struct train *train) {
    struct train_record *record = &train->record;
    record->site_count = train->site_count;
    record->sites = xcalloc(train->site_count, sizeof(record->sites[0]));
    for (uint32_t i = 0; i < train->site_count; i++) {
        const struct train_site *site = &train->sites[i];
        record->sites[i] = site->record;
        strcpy(record->sites[i].name, site->place.name);
        record->sites[i].file = i % train->options->data_count;
        record->sites[i].inner_steps = site->inner_steps;
        record->sites[i].tokens = site->tokens;
    }
}

static void finish(struct train *train, struct train_result *out) {
    double busy = 0, there = 0;
    double end = has_enough(train) ? train->now : train->options->duration;
    train->result.tokens = 0;
    for (uint32_t i = 0; i < train->site_count; i++) {
        const struct topology_site *group = train->sites[i].group;
        there += MAX(MIN(group->leaves, end) - group->joins, 0.0);
        busy += train->sites[i].busy;
        train->result.tokens += train->sites[i].tokens;
    }
    train->result.busy = there > 0 ? busy / there : 0;
    train->result.versions = train->model.version;
    train->result.parameters = train->layout.count;
    train->result.distinct_versions_most = train->versions_most;
    train->result.staleness = train->result.contributions ? (double)train->staleness_sum /
                                                                (double)train->result.contributions
                                                          : 0;
    if (train->clip_count) qsort(train->clips, train->clip_count, sizeof(double), by_value);
    train->result.scale = train->clip_count ? train->clips[train->clip_count / 2] : 1;
    train->result.seconds = train->now;
    train->result.heldout_late = late_mean(&train->record);
    *out = train->result;
    if (!train->options->record) return;
    record_sites(train);
    *train->options->record = train->record;
    train->record = (struct train_record){0};
}

static enum status export_last(struct train *train, struct error *error) {
    if (!train->options->export_to) return OK;
    bool bytes = train->options->manifest->tokenizer == TOKENIZER_BYTE;
    float *parameters = trainer_parameters_to_change(train->trainers[0]);
    version_average(train, parameters);
    return export_model(train->options->export_to, &train->layout, parameters,
                        (int64_t)train->model.version, bytes, error);
}

static enum status simulate(struct train *train, struct error *error) {
    while (!is_over(train)) {
        struct train_event event = event_pop(train);
        train->now = event.at;
        TRY(handle(train, &event, error));
    }
    return OK;
}

enum status train_run(const struct train_options *options, struct train_result *out,
                      struct error *error) {
    struct train train = {.options = options,
                          .rules = *options->manifest,
                          .site_count = options->topology->site_count,
                          .threads = threads_of(options)};
    train.sites = xcalloc(train.site_count, sizeof(train.sites[0]));
    train.data = xcalloc(train.site_count, sizeof(train.data[0]));
    train.trainers = xcalloc(train.threads, sizeof(train.trainers[0]));
    train.wake = INFINITY;
    heap_init(&train.heap, sizeof(struct train_event), before);
    if (options->csv) fprintf(options->csv, "time_s,site,version,tokens,loss,heldout\n");
    enum status status = train_open(&train, error);
    if (status == OK)
        status = options->one_cluster ? cluster_run(&train, error) : simulate(&train, error);
    bool cut = status == OK && has_enough(&train); /* between two evaluations */
    if (cut) status = train_note_evaluation(&train, error);
    if (status == OK) status = export_last(&train, error);
    if (status == OK) finish(&train, out);
    train_close(&train);
    return status;
}
