/* Held-out losses while the run goes on (run/evaluator.h). */
#include "run/evaluator.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"
#include "fed/manifest.h"
#include "run/run_model.h"

struct evaluator {
    struct evaluator_options options;
    struct trainer *trainer; /* the thread's, like the data */
    struct data *texts[EVALUATION_TEXTS];
    char names[EVALUATION_TEXTS][EVALUATION_NAME_SIZE];
    uint64_t parameters;
    struct thread *thread;

    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    float *waiting; /* [parameters]: theta of waiting_version */
    bool waits, stops;
    uint64_t waiting_version;
    struct evaluations known;
    bool rises;
};

/* The trainer asks between two batches, and cannot say whose it is: there is one evaluator in a
 * process. */
static atomic_bool given_up;
static bool is_given_up(void) { return atomic_load(&given_up); }

/* ---- one evaluation -------------------------------------------------------------------------- */

/* With the lock. */
static void judge(struct evaluator *evaluator) {
    const struct evaluated_version *last = &evaluator->known.last, *best = &evaluator->known.best;
    bool rises = last->loss > best->loss + evaluator->options.margin;
    if (rises && !evaluator->rises)
        log_warn("heldout_rises",
                 "version=%llu loss=%.4f best=%.4f best_version=%llu do=\"look at the sites' "
                 "losses and norms; the best version can be exported: atollctl model export "
                 "--at best\"",
                 (unsigned long long)last->version, last->loss, best->loss,
                 (unsigned long long)best->version);
    if (!rises && evaluator->rises)
        log_info("heldout_falls", "version=%llu loss=%.4f best=%.4f",
                 (unsigned long long)last->version, last->loss, best->loss);
    evaluator->rises = rises;
}

static void keep(struct evaluator *evaluator, const struct evaluated_version *evaluation) {
    struct error error = {0};
    char quoted[256];
    pthread_mutex_lock(&evaluator->lock);
    evaluations_note(&evaluator->known, evaluation);
    judge(evaluator);
    pthread_mutex_unlock(&evaluator->lock);
    if (evaluations_append(evaluator->options.directory, evaluation, &error) != OK)
        log_warn("evaluation_not_kept", "version=%llu reason=%s",
                 (unsigned long long)evaluation->version,
                 log_quote(error.message, quoted, sizeof quoted));
}

static void evaluate(struct evaluator *evaluator, uint64_t version) {
    struct evaluated_version evaluation = {.version = version, .time_ms = clock_wall_ms()};
    struct error error = {0};
    char quoted[256];
    double sum = 0;
    for (size_t i = 0; i < evaluator->options.count; i++) {
        double nats;
        enum status status = trainer_evaluate(evaluator->trainer, evaluator->texts[i],
                                              evaluator->options.windows, &nats, &error);
        if (status == CANCELLED) return;
        if (status != OK || !isfinite(nats)) {
            log_warn("evaluation_failed", "version=%llu text=%s reason=%s",
                     (unsigned long long)version, evaluator->names[i],
                     log_quote(status == OK ? "the loss is not finite" : error.message, quoted,
                               sizeof quoted));
            return;
        }
        memcpy(evaluation.texts[i].name, evaluator->names[i], EVALUATION_NAME_SIZE);
        evaluation.texts[i].loss = nats;
        sum += nats;
    }
    evaluation.count = (uint32_t)evaluator->options.count;
    evaluation.loss = sum / (double)evaluation.count;
    log_info("evaluated", "version=%llu loss=%.4f texts=%u took_ms=%llu",
             (unsigned long long)version, evaluation.loss, evaluation.count,
             (unsigned long long)(clock_wall_ms() - evaluation.time_ms));
    keep(evaluator, &evaluation);
}

static void run(void *context) {
    struct evaluator *evaluator = context;
    pthread_mutex_lock(&evaluator->lock);
    for (;;) {
        while (!evaluator->waits && !evaluator->stops)
            pthread_cond_wait(&evaluator->changed, &evaluator->lock);
        if (evaluator->stops) break;
        uint64_t version = evaluator->waiting_version;
        memcpy(trainer_parameters_to_change(evaluator->trainer), evaluator->waiting,
               evaluator->parameters * sizeof(float));
        evaluator->waits = false;
        pthread_mutex_unlock(&evaluator->lock);
        evaluate(evaluator, version);
        pthread_mutex_lock(&evaluator->lock);
    }
    pthread_mutex_unlock(&evaluator->lock);
}

/* ---- from other threads ---------------------------------------------------------------------- */

void evaluator_give(struct evaluator *evaluator, uint64_t version, const float *theta) {
    if (!evaluator || version % evaluator->options.every != 0) return;
    pthread_mutex_lock(&evaluator->lock);
    bool is_known = evaluator->known.count > 0 && evaluator->known.last.version >= version;
    if (!is_known) {
        memcpy(evaluator->waiting, theta, evaluator->parameters * sizeof(float));
        evaluator->waiting_version = version;
        evaluator->waits = true;
        pthread_cond_signal(&evaluator->changed);
    }
    pthread_mutex_unlock(&evaluator->lock);
}

void evaluator_report(struct evaluator *evaluator, struct evaluator_report *out) {
    *out = (struct evaluator_report){0};
    if (!evaluator) return;
    pthread_mutex_lock(&evaluator->lock);
    *out = (struct evaluator_report){.any = evaluator->known.count > 0,
                                     .version = evaluator->known.last.version,
                                     .best_version = evaluator->known.best.version,
                                     .loss = evaluator->known.last.loss,
                                     .best_loss = evaluator->known.best.loss,
                                     .rises = evaluator->rises};
    pthread_mutex_unlock(&evaluator->lock);
}

/* ---- life ------------------------------------------------------------------------------------ */

/* "data/austen.txt": austen. Of two of one name the second has its number with it. */
static void name_text(struct evaluator *evaluator, size_t at) {
    const char *path = evaluator->options.files[at], *slash = strrchr(path, '/');
    char *name = evaluator->names[at];
    snprintf(name, EVALUATION_NAME_SIZE - 3, "%s", slash ? slash + 1 : path);
    char *dot = strrchr(name, '.');
    if (dot && dot != name) *dot = 0;
    for (size_t i = 0; i < at; i++)
        if (strcmp(evaluator->names[i], name) == 0) {
            size_t size = strlen(name);
            snprintf(name + size, EVALUATION_NAME_SIZE - size, "-%zu", at + 1);
            return;
        }
}

static enum status open_texts(struct evaluator *evaluator, struct error *error) {
    const struct evaluator_options *options = &evaluator->options;
    if (options->count > EVALUATION_TEXTS)
        return error_set(error, INVALID, "%zu held-out files: at most %d", options->count,
                         EVALUATION_TEXTS);
    for (size_t i = 0; i < options->count; i++) {
        struct run_model_files files = {.paths = &options->files[i],
                                        .count = 1,
                                        .heldout = options->share,
                                        .heldout_only = true};
        enum status status = run_model_data(options->manifest, &files, &evaluator->texts[i], error);
        if (status != OK) return error_wrap(error, status, "--heldout");
        if (data_heldout_count(evaluator->texts[i], options->manifest->model.context) == 0)
            return error_set(error, INVALID,
                             "--heldout: %s: less than one sequence of %u tokens is held out: "
                             "give more text, or a larger --heldout-share",
                             options->files[i], options->manifest->model.context);
        name_text(evaluator, i);
    }
    return OK;
}

/* Nothing follows from the log: where it is of no use a new one is begun beside it. */
static void read_known(struct evaluator *evaluator) {
    const char *directory = evaluator->options.directory;
    struct error error = {0};
    enum status status = evaluations_forget_after(directory, evaluator->options.version, &error);
    if (status == OK) status = evaluations_read(directory, &evaluator->known, &error);
    if (status == OK) return;
    char *path = file_join(directory, EVALUATIONS_FILE), *aside = xformat("%s.unread", path);
    bool moved = rename(path, aside) == 0;
    log_warn("evaluations_unread", "reason=%s kept_as=%s", error.message,
             moved ? aside : "what it was");
    evaluator->known = (struct evaluations){0};
    free(aside);
    free(path);
}

static enum status start(struct evaluator *evaluator, struct error *error) {
    const struct run_model_local local = {
        .sequences = 4, .threads = 1, .forward_only = true, .cancelled = is_given_up};
    atomic_store(&given_up, false);
    TRY(open_texts(evaluator, error));
    read_known(evaluator);
    TRY(run_model_trainer(evaluator->options.manifest, &local, &evaluator->trainer, error));
    evaluator->parameters = trainer_layout(evaluator->trainer)->count;
    evaluator->waiting = xmalloc(evaluator->parameters * sizeof(float));
    if (evaluator->known.count > 0) judge(evaluator);
    return thread_start("evaluator", run, evaluator, &evaluator->thread, error);
}

enum status evaluator_start(const struct evaluator_options *options, struct evaluator **out,
                            struct error *error) {
    struct evaluator *evaluator = xcalloc(1, sizeof *evaluator);
    evaluator->options = *options;
    pthread_mutex_init(&evaluator->lock, NULL);
    pthread_cond_init(&evaluator->changed, NULL);
    enum status status = start(evaluator, error);
    if (status == OK)
        *out = evaluator;
    else
        evaluator_stop(evaluator);
    return status;
}

void evaluator_stop(struct evaluator *evaluator) {
    if (!evaluator) return;
    atomic_store(&given_up, true);
    pthread_mutex_lock(&evaluator->lock);
    evaluator->stops = true;
    pthread_cond_signal(&evaluator->changed);
    pthread_mutex_unlock(&evaluator->lock);
    if (evaluator->thread && thread_join(evaluator->thread, UINT64_MAX) != OK)
        log_error("thread_stuck", "thread=evaluator");
    trainer_destroy(evaluator->trainer);
    for (size_t i = 0; i < EVALUATION_TEXTS; i++) data_close(evaluator->texts[i]);
    pthread_cond_destroy(&evaluator->changed);
    pthread_mutex_destroy(&evaluator->lock);
    free(evaluator->waiting);
    free(evaluator);
}
