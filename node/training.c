/* The trainer's thread (node/training.h): inner steps, and between two of them what was asked for.
 * A stack trace here is in the middle of training, never of the network. */
#include "node/training.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"
#include "model/trainer.h"
#include "node/training_internal.h"

static void on_capture_freed(void *context, uint64_t retry_ms) {
    struct training *training = context;
    uint64_t interval = training->options.checkpoint_ms;
    pthread_mutex_lock(&training->lock);
    training->capture_out = false;
    training->capture_at_ms =
        clock_monotonic_ms() + (retry_ms ? MIN(retry_ms, interval) : interval);
    pthread_cond_broadcast(&training->changed);
    pthread_mutex_unlock(&training->lock);
}

/* ---- time ------------------------------------------------------------------------------------ */

void training_book(struct training *training, bool compute, enum lost_cause cause) {
    uint64_t now = clock_monotonic_ns(), spent = now - training->booked_ns;
    training->booked_ns = now;
    if (compute)
        training->figures.compute_ns += spent;
    else
        training->figures.lost_ns[cause] += spent;
}

void training_book_unlocked(struct training *training, enum lost_cause cause) {
    pthread_mutex_lock(&training->lock);
    training_book(training, false, cause);
    pthread_mutex_unlock(&training->lock);
}

static enum lost_cause cause_of(enum node_wait wait) {
    switch (wait) {
    case NODE_WAIT_MERGE: return LOST_WAIT_QUORUM;
    case NODE_WAIT_PAUSED: return LOST_PAUSED;
    case NODE_WAIT_START: return LOST_RESTART;
    case NODE_WAIT_NONE: break;
    }
    return LOST_OTHER;
}

enum lost_cause training_lost_to(const struct training *training) {
    return cause_of(training->train ? NODE_WAIT_MERGE : training->wait);
}

/* With the lock: waits for a change, at most until the monotonic time. */
static void wait_until_ns(struct training *training, uint64_t at_ns) {
    struct timespec at = {(time_t)(at_ns / 1000000000u), (long)(at_ns % 1000000000u)};
    pthread_cond_timedwait(&training->changed, &training->lock, &at);
}

/* ---- requests -------------------------------------------------------------------------------- */

static void ask(struct training *training, struct training_request request) {
    pthread_mutex_lock(&training->lock);
    /* the core has at most one per fragment under way */
    ASSERT(training->request_count < REQUESTS_LIMIT);
    training->requests[(training->request_head + training->request_count++) % REQUESTS_LIMIT] =
        request;
    pthread_cond_broadcast(&training->changed);
    pthread_mutex_unlock(&training->lock);
}

void training_snapshot(struct training *training, uint32_t fragment, uint64_t sequence) {
    ask(training, (struct training_request){
                      .kind = REQUEST_SNAPSHOT, .fragment = fragment, .sequence = sequence});
}

void training_rebase(struct training *training, uint32_t fragment, uint64_t sequence,
                     enum training_move why) {
    ask(training,
        (struct training_request){
            .kind = REQUEST_REBASE, .fragment = fragment, .sequence = sequence, .why = why});
}

void training_capture(struct training *training) {
    pthread_mutex_lock(&training->lock);
    training->capture_wanted = true;
    pthread_cond_broadcast(&training->changed);
    pthread_mutex_unlock(&training->lock);
}

static void fail(struct training *training, enum status status, const char *message) {
    training->options.handler.failed(training->options.handler.context, status, message);
    pthread_mutex_lock(&training->lock);
    training->train = false;
    training->wait = NODE_WAIT_NONE;
    pthread_mutex_unlock(&training->lock);
}

static void do_snapshot(struct training *training, const struct training_request *request) {
    struct trainer *trainer = training->options.trainer;
    float *local = trainer_parameters_to_change(trainer);
    if (trainer_is_lost(
            trainer)) { /* what is left is older than what the message would say of its steps */
        fail(training, UNAVAILABLE, "before a contribution was made");
        return;
    }
    struct training_mark *mark = &training->options.fragment[request->fragment];
    training_mark_snapshot(mark, training->options.replica, request->fragment, request->sequence,
                           local);
    struct buffer optimizer = {0};
    if (training->options.keep_optimizer) trainer_save_optimizer(trainer, &optimizer);
    training_book_unlocked(training, LOST_ENCODE);
    training->options.handler.snapshotted(training->options.handler.context, request->fragment,
                                          request->sequence, training->figures.steps,
                                          training->figures.tokens, mark->progress.began_in_flight,
                                          trainer_counters(trainer).steps, &optimizer);
    buffer_deinit(&optimizer);
}

/* The trainer's parameters move where they are; then the mark and the replica as if these were
 * elsewhere. */
static void do_rebase(struct training *training, const struct training_request *request) {
    struct replica *replica = training->options.replica;
    uint64_t start, count;
    fragment_range(replica->parameters, replica->fragments, request->fragment, &start, &count);
    trainer_rebase(training->options.trainer, start, count, replica->next + start,
                   training_move_from(replica, request->why) + start);
    training_mark_rebase(&training->options.fragment[request->fragment], replica, request->fragment,
                         request->sequence, request->why, NULL);
    training_book_unlocked(training, LOST_REBASE);
    training->options.handler.rebased(training->options.handler.context, request->fragment,
                                      request->sequence, request->why);
}

void training_do_capture(struct training *training) {
    struct training_capture *capture =
        training_capture_create(training->options.fragment, training->options.replica);
    capture->freed = on_capture_freed;
    capture->context = training;
    if (training->options.trainer) {
        trainer_save(training->options.trainer, &capture->trainer);
        /* saving may find the device lost, and go back */
        capture->trainer_steps = trainer_counters(training->options.trainer).steps;
    } else { /* its state is its own */
        buffer_append_text(&capture->trainer, "%s", TRAINING_ATTACHED);
        capture->trainer_steps = training->figures.trainer_steps;
    }
    training_book_unlocked(training, LOST_OTHER);
    training->options.handler.captured(training->options.handler.context, capture);
}

/* ---- steps ----------------------------------------------------------------------------------- */

/* Tokens the whole run has seen, by the ledger and by what we have trained since our last
 * contribution that is in it, and the others meanwhile, each at its own rate. It is an estimate:
 * where it was too high, because a site slowed down or left, it falls again. With the lock. */
uint64_t training_run_tokens(struct training *training) {
    uint64_t told = training->run_own_tokens - training->run_own_tokens_first;
    uint64_t trained = training->options.tokens_unsent + training->figures.tokens;
    uint64_t pending = trained > told ? trained - told : 0;
    double others = training->run_flow.unsent + training->run_flow.ratio * (double)pending;
    return training->run_tokens + pending + (uint64_t)fmin(fmax(others, 0), 0x1p60);
}

void training_note_rates(struct training *training, double step_s, uint64_t tokens) {
    struct training_figures *figures = &training->figures;
    double rate = step_s > 0 ? 1.0 / step_s : 0;
    figures->steps_per_second =
        figures->steps_per_second > 0 ? 0.9 * figures->steps_per_second + 0.1 * rate : rate;
    uint64_t now = clock_monotonic_ms();
    training->rate_tokens += tokens;
    uint64_t window = now - training->rate_from_ms;
    if (window >= RATE_WINDOW_MS || (figures->tokens_per_second <= 0 && window >= 1000)) {
        figures->tokens_per_second = (double)training->rate_tokens * 1000.0 / (double)window;
        training->rate_from_ms = now;
        training->rate_tokens = 0;
    }
}

/* A rate is of the last window: where nothing was trained in it, it is 0. With the lock. */
void training_note_standstill(struct training *training) {
    uint64_t now = clock_monotonic_ms(), window = now - training->rate_from_ms;
    if (window < RATE_WINDOW_MS) return;
    training->figures.tokens_per_second = (double)training->rate_tokens * 1000.0 / (double)window;
    if (training->rate_tokens == 0) training->figures.steps_per_second = 0;
    training->rate_from_ms = now;
    training->rate_tokens = 0;
}

/* Plays a slower device: the rest of the step's time is slept, but a stop ends it. */
static void throttle(struct training *training, uint64_t from_ns) {
    uint64_t now = clock_monotonic_ns(), until = from_ns + training->options.pace_ns;
    uint64_t slower =
        now + (uint64_t)((double)(now - from_ns) * (training->options.throttle - 1.0));
    if (training->options.throttle > 1.0) until = MAX(until, slower);
    if (until <= now) return;
    pthread_mutex_lock(&training->lock);
    while (!training->stopping && clock_monotonic_ns() < until) wait_until_ns(training, until);
    pthread_mutex_unlock(&training->lock);
}

static void one_step(struct training *training) {
    struct error error = {0};
    struct trainer_result result = {0};
    pthread_mutex_lock(&training->lock);
    uint64_t run_tokens = training_run_tokens(training);
    struct schedule schedule = training->options.schedule;
    pthread_mutex_unlock(&training->lock);
    struct data_position before = trainer_counters(training->options.trainer).position;
    uint64_t from = clock_monotonic_ns();
    enum status status = trainer_set_schedule(training->options.trainer, &schedule, &error);
    if (status == OK)
        status = trainer_step(training->options.trainer, training->options.data, run_tokens,
                              &result, &error);
    struct data_position after = trainer_counters(training->options.trainer).position;
    /* else it is the data that failed */
    bool moved = after.epoch != before.epoch || after.index != before.index;
    if (status == CORRUPT && moved && ++training->bad_steps < BAD_STEPS_LIMIT) {
        log_warn("step_not_finite", "in_a_row=%u message=\"%s\"", training->bad_steps,
                 error.message);
        training_book_unlocked(training, LOST_OTHER);
        return;
    }
    if (status != OK) {
        fail(training, status, error.message);
        return;
    }
    training->bad_steps = 0;
    for (uint32_t i = 0; i < training->options.replica->fragments; i++)
        round_progress_step(&training->options.fragment[i].progress, result.tokens, result.loss,
                            training->options.replica->base_version[i]);
    throttle(training, from);

    struct trainer_counters counters = trainer_counters(training->options.trainer);
    pthread_mutex_lock(&training->lock);
    struct training_figures *figures = &training->figures;
    training_book(training, true, LOST_OTHER);
    figures->steps++;
    figures->tokens += result.tokens;
    figures->trainer_steps = counters.steps;
    figures->trainer_tokens = counters.tokens;
    figures->loss = isnan(figures->loss) ? result.loss : 0.95 * figures->loss + 0.05 * result.loss;
    figures->learning_rate = result.learning_rate;
    training_note_rates(training, (double)(clock_monotonic_ns() - from) * 1e-9, result.tokens);
    uint64_t steps = figures->steps, tokens = figures->tokens;
    pthread_mutex_unlock(&training->lock);

    training->options.handler.progress(training->options.handler.context, steps, tokens,
                                       result.loss);
}

bool training_take_request(struct training *training, struct training_request *request) {
    if (training->request_count == 0) return false;
    *request = training->requests[training->request_head];
    training->request_head = (training->request_head + 1) % REQUESTS_LIMIT;
    training->request_count--;
    return true;
}

enum todo { TODO_STOP, TODO_REQUEST, TODO_CAPTURE, TODO_STEP };

bool training_take_capture(struct training *training, bool train) {
    bool due = train && training->options.checkpoint_ms > 0 &&
               clock_monotonic_ms() >= training->capture_at_ms;
    if (training->capture_out || !(due || training->capture_wanted)) return false;
    training->capture_out = true;
    training->capture_wanted = false;
    return true;
}

/* The next thing to do. */
static enum todo next(struct training *training, struct training_request *request) {
    enum todo todo = TODO_STOP;
    pthread_mutex_lock(&training->lock);
    while (!training->stopping) {
        if (training_take_request(training, request)) {
            todo = TODO_REQUEST;
            break;
        }
        bool train = training->train && training->figures.steps < training->until_steps;
        if (training_take_capture(training, train)) {
            todo = TODO_CAPTURE;
            break;
        }
        if (train) {
            todo = TODO_STEP;
            break;
        }
        enum lost_cause cause = training_lost_to(training);
        /* wakes to keep the books current */
        wait_until_ns(training, clock_monotonic_ns() + 200000000u);
        training_book(training, false, cause);
        training_note_standstill(training);
    }
    if (training->stopping) todo = TODO_STOP; /* what is pending is dropped */
    pthread_mutex_unlock(&training->lock);
    return todo;
}

/* The one there is holds an older state: its memory first, then the last one. */
void training_capture_at_end(struct training *training) {
    pthread_mutex_lock(&training->lock);
    while (training->capture_out) pthread_cond_wait(&training->changed, &training->lock);
    training->capture_out = true;
    pthread_mutex_unlock(&training->lock);
    training_do_capture(training);
}

static void body(void *context) {
    struct training *training = context;
    struct training_request request;
    enum todo todo;
    while ((todo = next(training, &request)) != TODO_STOP) {
        if (todo == TODO_STEP)
            one_step(training);
        else if (todo == TODO_CAPTURE)
            training_do_capture(training);
        else if (request.kind == REQUEST_SNAPSHOT)
            do_snapshot(training, &request);
        else
            do_rebase(training, &request);
    }
    if (training->capture_last) training_capture_at_end(training);
}

/* ---- life ------------------------------------------------------------------------------------ */

enum status training_start(const struct training_options *options, struct training **out,
                           struct error *error) {
    struct training *training = xcalloc(1, sizeof *training);
    training->options = *options;
    training->peak = options->schedule.peak;
    training->wait = NODE_WAIT_START;
    training->figures.loss = (double)NAN;
    training->figures.trainer_steps = options->trainer_steps;
    if (options->trainer) {
        struct trainer_counters counters = trainer_counters(options->trainer);
        training->figures.trainer_steps = counters.steps;
        training->figures.trainer_tokens = counters.tokens;
    }
    training->booked_ns = clock_monotonic_ns();
    training->rate_from_ms = clock_monotonic_ms();
    training->capture_at_ms = clock_monotonic_ms() + options->checkpoint_ms;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&training->lock, NULL);
    pthread_cond_init(&training->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    *out = training; /* before the thread's first steps, which may ask for it */
    enum status status = thread_start("trainer", options->trainer ? body : training_attached_body,
                                      training, &training->thread, error);
    if (status != OK) {
        *out = NULL;
        training_destroy(training);
    }
    return status;
}

void training_train(struct training *training, bool train, enum node_wait wait,
                    uint64_t until_steps) {
    pthread_mutex_lock(&training->lock);
    training->train = train;
    training->wait = wait;
    training->until_steps = until_steps;
    pthread_cond_broadcast(&training->changed);
    pthread_mutex_unlock(&training->lock);
}

void training_tell_run(struct training *training, uint64_t tokens, uint64_t own_tokens,
                       struct run_flow others) {
    pthread_mutex_lock(&training->lock);
    if (!training->run_told) training->run_own_tokens_first = own_tokens;
    training->run_told = true;
    training->run_tokens = tokens;
    training->run_own_tokens = own_tokens;
    training->run_flow = others;
    pthread_mutex_unlock(&training->lock);
}

void training_set_schedule(struct training *training, const struct schedule *schedule) {
    pthread_mutex_lock(&training->lock);
    training->options.schedule = *schedule;
    pthread_mutex_unlock(&training->lock);
}

void training_set_inner_steps(struct training *training, uint32_t inner_steps) {
    pthread_mutex_lock(&training->lock);
    training->options.inner_steps = inner_steps;
    pthread_mutex_unlock(&training->lock);
}

void training_over(struct training *training) {
    pthread_mutex_lock(&training->lock);
    training->over = true;
    pthread_cond_broadcast(&training->changed);
    pthread_mutex_unlock(&training->lock);
}

const struct training_mark *training_mark_of(const struct training *training, uint32_t fragment) {
    return &training->options.fragment[fragment];
}

void training_figures(struct training *training, struct training_figures *out) {
    pthread_mutex_lock(&training->lock);
    *out = training->figures;
    out->training = training->train;
    pthread_mutex_unlock(&training->lock);
}

void training_stop(struct training *training, bool capture) {
    pthread_mutex_lock(&training->lock);
    training->stopping = true;
    training->capture_last = capture;
    pthread_cond_broadcast(&training->changed);
    pthread_mutex_unlock(&training->lock);
    (void)!thread_join(training->thread, UINT64_MAX);
    training->thread = NULL;
}

void training_destroy(struct training *training) {
    if (!training) return;
    if (training->thread) training_stop(training, false);
    pthread_cond_destroy(&training->changed);
    pthread_mutex_destroy(&training->lock);
    free(training);
}
