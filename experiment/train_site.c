/* What happens to tensors: inner steps (in parallel), rounds, rebases, versions of the global
 * model. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/thread.h"
#include "experiment/train_internal.h"
#include "kernels/elementwise.h"

struct train_version *version_hold(struct train_version *version) {
    version->holders++;
    return version;
}

void version_release(struct train *train, struct train_version *version) {
    if (!version || --version->holders) return;
    train->version_count--;
    free(version);
}

struct train_version *version_take(struct train *train) {
    size_t size = train->layout.count * sizeof(float);
    struct train_version *version = xmalloc(sizeof(*version) + size);
    version->version = train->model.version;
    for (uint32_t i = 0; i < FRAGMENTS_LIMIT; i++) version->steps[i] = train->queues[i].steps;
    version->holders = 1;
    memcpy(version->theta, train->model.theta, size);
    train->version_count++;
    train->versions_most = MAX(train->versions_most, train->version_count);
    return version;
}

void version_remember(struct train *train) {
    uint32_t average = train->options->average;
    if (average < 2) return;
    if (!train->last) train->last = xcalloc(average, sizeof(train->last[0]));
    struct train_version **place = &train->last[train->last_count++ % average];
    version_release(train, *place);
    *place = version_hold(train->newest);
}

/* A sum in double of a few floats, then one rounding. */
void version_average(const struct train *train, float *out) {
    uint64_t count = MIN(train->last_count, (uint64_t)train->options->average);
    if (count == 0) {
        memcpy(out, train->model.theta, train->layout.count * sizeof(float));
        return;
    }
    for (size_t i = 0; i < train->layout.count; i++) {
        double sum = 0;
        for (uint64_t j = 0; j < count; j++) sum += (double)train->last[j]->theta[i];
        out[i] = (float)(sum / (double)count);
    }
}

struct train_range train_range_of(const struct train *train, uint32_t fragment) {
    uint64_t start, count;
    fragment_range(train->layout.count, train->model.fragments, fragment, &start, &count);
    return (struct train_range){(size_t)start, (size_t)count};
}

enum status site_init(struct train *train, uint32_t index, struct error *error) {
    struct train_site *site = &train->sites[index];
    void *theta = NULL, *feedback = NULL, *snapshot = NULL;
    TRY(memory_try(train->layout.count, sizeof(float), &theta, error));
    site->theta = theta;
    memcpy(site->theta, train->model.theta, train->layout.count * sizeof(float));
    if (codec_is_sparse((enum codec)train->options->manifest->codec.kind)) {
        TRY(memory_try(train->layout.count, sizeof(float), &feedback, error));
        site->feedback = feedback;
    }
    TRY(memory_try(train->layout.count, sizeof(float), &snapshot, error));
    site->snapshot = snapshot;
    for (uint32_t i = 0; i < train->model.fragments; i++)
        site->slots[i].base = version_hold(train->newest);
    site->known = version_hold(train->newest);
    trainer_save_optimizer(train->trainers[0], &site->optimizer); /* it has not trained yet */
    site->loss = NAN;
    return OK;
}

void trainee_deinit(struct train_site *site) {
    free(site->theta);
    free(site->feedback);
    free(site->snapshot);
    free(site->due);
    buffer_deinit(&site->optimizer);
    for (uint32_t i = 0; i < FRAGMENTS_LIMIT; i++) payload_destroy(site->slots[i].payload);
}

/* What the run has seen, as the site reckons it: node/training.c's estimate. */
static uint64_t run_tokens_of(const struct train *train, const struct train_site *site) {
    uint64_t known = 0; /* each fragment's message has its share */
    for (uint32_t i = 0; i < train->model.fragments; i++) known += site->slots[i].own_known_tokens;
    uint64_t pending = site->tokens - known / train->model.fragments;
    double ratio = 1;
    for (uint32_t i = 0; i < train->site_count; i++)
        if (train->sites[i].up && &train->sites[i] != site)
            ratio += site->step / train->sites[i].step;
    return site->known_tokens + (uint64_t)(ratio * (double)pending);
}

void site_step_due(struct train *train, struct train_site *site) {
    if (site->due_count == site->due_capacity) {
        site->due_capacity = MAX(2 * site->due_capacity, 16u);
        site->due = xrealloc(site->due, site->due_capacity * sizeof(site->due[0]));
    }
    site->due[site->due_count++] = run_tokens_of(train, site);
    site->tokens += (uint64_t)train->options->sequences * train->options->manifest->model.context;
}

/* ---- inner steps ---- */

struct flush {
    struct train *train;
    struct train_site **sites;
    size_t count;
    atomic_size_t next, worker;
    atomic_bool failed;
    struct error error; /* of the first that failed */
};

static enum status trainee_train(struct trainer *trainer, struct train_site *site,
                                 size_t parameters, struct error *error) {
    struct trainer_result result = {0};
    double sum = 0;
    memcpy(trainer_parameters_to_change(trainer), site->theta, parameters * sizeof(float));
    TRY(trainer_load(trainer, buffer_bytes(&site->optimizer), error));
    for (size_t i = 0; i < site->due_count; i++) {
        TRY(trainer_step(trainer, site->data, site->due[i], &result, error));
        sum += result.loss;
    }
    site->loss = sum / (double)site->due_count;
    site->due_count = 0;
    memcpy(site->theta, trainer_parameters_to_change(trainer), parameters * sizeof(float));
    site->optimizer.size = 0;
    trainer_save_optimizer(trainer, &site->optimizer);
    return OK;
}

static void flush_body(void *context) {
    struct flush *flush = context;
    struct trainer *trainer = flush->train->trainers[atomic_fetch_add(&flush->worker, 1)];
    size_t at;
    while ((at = atomic_fetch_add(&flush->next, 1)) < flush->count) {
        struct error error = {0};
        if (trainee_train(trainer, flush->sites[at], flush->train->layout.count, &error) == OK)
            continue;
        if (!atomic_exchange(&flush->failed, true)) flush->error = error;
    }
}

/* Fewer than W sites that are due make little use of W threads; those with no failures ahead are
 * always worth training now. */
static bool site_is_safe(const struct train_site *site) { return isinf(site->failure.from); }

enum status sites_flush(struct train *train, struct train_site *must, struct error *error) {
    struct thread *threads[64];
    size_t thread_count = 0;
    struct flush flush = {.train = train,
                          .sites = xcalloc(train->site_count, sizeof(flush.sites[0]))};
    enum status status = OK;
    for (uint32_t i = 0; i < train->site_count; i++) {
        struct train_site *site = &train->sites[i];
        if (site->due_count && (site == must || site_is_safe(site)))
            flush.sites[flush.count++] = site;
    }
    for (; thread_count + 1 < MIN((size_t)train->threads, flush.count); thread_count++) {
        status = thread_start("train", flush_body, &flush, &threads[thread_count], error);
        if (status != OK) break;
    }
    flush_body(&flush);
    for (size_t i = 0; i < thread_count; i++) (void)!thread_join(threads[i], UINT64_MAX);
    if (flush.failed) status = error_set(error, flush.error.status, "%.500s", flush.error.message);
    free(flush.sites);
    return status;
}

/* ---- rounds ---- */

enum status site_seal(struct train *train, struct train_site *site, uint32_t fragment,
                      struct buffer *message, struct error *error) {
    enum codec codec = (enum codec)train->options->manifest->codec.kind;
    struct train_slot *slot = &site->slots[fragment];
    payload_destroy(slot->payload);
    slot->payload = NULL;
    enum status status =
        payload_seal(codec, train_range_of(train, fragment).count, message, &slot->payload, error);
    buffer_deinit(message);
    if (status == OK) slot->norm = payload_norm(slot->payload);
    return status;
}

enum status site_round(struct train *train, struct train_site *site, uint32_t fragment,
                       struct error *error) {
    struct train_slot *slot = &site->slots[fragment];
    struct train_range range = train_range_of(train, fragment);
    float *feedback = site->feedback ? site->feedback + range.start : NULL;
    struct buffer message = {0};
    TRY(sites_flush(train, site, error));
    slot->in_flight = true;
    memcpy(site->snapshot + range.start, site->theta + range.start, range.count * sizeof(float));
    slot->base_version = slot->base->version;
    slot->base_steps = slot->base->steps[fragment];
    TRY(codec_encode(train->queues[fragment].encoder, slot->base->theta + range.start,
                     site->snapshot + range.start, feedback, &message, error));
    if (feedback && train->options->no_feedback) memset(feedback, 0, range.count * sizeof(float));
    slot->sequence++;
    TRY(site_seal(train, site, fragment, &message, error));
    return site_is_hostile(train, site) ? hostile_round(train, site, error) : OK;
}

/* node/replica.h: local = next + (local - from), where `from` is the snapshot if the message that
 * it made is no longer under way, and the base otherwise. A snapshot that stays moves alike. */
enum status site_rebase(struct train *train, struct train_site *site, uint32_t fragment,
                        struct error *error) {
    enum codec codec = (enum codec)train->options->manifest->codec.kind;
    struct train_slot *slot = &site->slots[fragment];
    struct train_range range = train_range_of(train, fragment);
    const float *next = site->known->theta + range.start, *base = slot->base->theta + range.start;
    float *snapshot = site->snapshot + range.start;
    bool from_snapshot = slot->why == REBASE_MERGED || slot->why == REBASE_SPARSE_REFUSED;
    bool ends = slot->why != REBASE_FOLLOW;
    TRY(sites_flush(train, site, error));
    if (slot->why == REBASE_SPARSE_REFUSED && !train->options->no_feedback)
        TRY(codec_restore(codec, payload_bytes(slot->payload), range.count,
                          site->feedback + range.start, error));
    elementwise_rebase(site->theta + range.start, next, from_snapshot ? snapshot : base,
                       range.count);
    if (!ends && slot->in_flight) elementwise_rebase(snapshot, next, base, range.count);
    version_release(train, slot->base);
    slot->base = version_hold(site->known);
    if (ends) slot->in_flight = false;
    slot->why = REBASE_NONE;
    return OK;
}

size_t train_file_count(const struct train *train) {
    return MIN(train->options->data_count, (size_t)train->site_count);
}

enum status train_evaluate(struct train *train, double *files, double *out, struct error *error) {
    double sum = 0;
    size_t count = train_file_count(train);
    version_average(train, trainer_parameters_to_change(train->trainers[0]));
    for (size_t i = 0; i < count; i++) {
        TRY(trainer_evaluate(train->trainers[0], train->data[i], train->options->windows, &files[i],
                             error));
        sum += files[i];
    }
    *out = sum / (double)count;
    return OK;
}
