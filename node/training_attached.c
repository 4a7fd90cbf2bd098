/* The trainer's thread of a site to which a trainer attaches (attach/border.h): the same requests,
 * handler, marks and captures as of the built-in trainer, whose steps are another process's.
 *
 * theta_local is in the trainer. What moves it is told as a correction c, and the trainer does
 * p += c after a step that all ranks agree on: theta_next - theta_s when our part was merged,
 * theta_next - theta_base when the base follows. theta_s and theta_base move here once every rank
 * has applied it. Steps are counted in the order in which they were done beside publications and
 * corrections: none beyond the step of an order is, before the order has been dealt with.
 *
 * A trainer that ends or dies takes with it what it trained since its last publication. What it had
 * been asked for is then given up (a snapshot) or done without it (a move of the base), and the
 * next one that attaches loads theta_s where a message is in flight, else the base.
 */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "attach/border.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "kernels/elementwise.h"
#include "node/training_internal.h"

enum { LEAST_WAIT_MS = 1, MOST_WAIT_MS = 20, IDLE_WAIT_MS = 100, STANDSTILL_NS = 2000000000 };

struct attached { /* the thread's own */
    struct training *training;
    struct border *border;
    uint64_t session; /* that trains; 0: none */
    uint64_t counted; /* steps of it */
    uint64_t tokens;  /* and their tokens */
    uint64_t step_ns; /* when a step was last counted */
    double step_s;    /* how long one takes, lately */
    bool busy;        /* `request` has been ordered */
    struct training_request request;
};

static struct training_handler *handler_of(struct attached *attached) {
    return &attached->training->options.handler;
}

/* ---- steps ----------------------------------------------------------------------------------- */

static void note_steps(struct attached *attached, uint64_t steps, uint64_t tokens, double loss) {
    struct training *training = attached->training;
    uint64_t now = clock_monotonic_ns();
    pthread_mutex_lock(&training->lock);
    struct training_figures *figures = &training->figures;
    attached->step_s = (double)(now - attached->step_ns) * 1e-9 / (double)steps;
    attached->step_ns = now;
    training_book(training, true, LOST_OTHER);
    figures->steps += steps;
    figures->tokens += tokens;
    figures->trainer_steps += steps;
    figures->trainer_tokens += tokens;
    if (isfinite(loss))
        figures->loss = isnan(figures->loss) ? loss : 0.95 * figures->loss + 0.05 * loss;
    training_note_rates(training, attached->step_s, tokens);
    uint64_t all_steps = figures->steps, all_tokens = figures->tokens;
    pthread_mutex_unlock(&training->lock);
    handler_of(attached)->progress(handler_of(attached)->context, all_steps, all_tokens, loss);
}

/* As a header may tell it; NaN: nobody knows. A trainer's may be anything. */
static double loss_of(const struct border_progress *progress) {
    double loss = progress->loss;
    return loss >= 0 && loss <= (double)FLT_MAX && !signbit(loss) ? loss : (double)NAN;
}

/* Steps up to `to`, which all ranks have done. False: they cannot be what they say. */
static bool count_steps(struct attached *attached, const struct border_progress *progress,
                        uint64_t to) {
    struct training_options *options = &attached->training->options;
    if (to <= attached->counted) return true;
    uint64_t steps = to - attached->counted, open = progress->rank_steps - attached->counted;
    uint64_t left = progress->tokens - attached->tokens;
    /* its tokens are written before its step */
    if (progress->tokens < attached->tokens || left / (open + 1) > options->max_step_tokens) {
        char why[256];
        snprintf(why, sizeof why,
                 "%llu tokens in a step are more than the run takes; the manifest's "
                 "admission.max_step_tokens is %llu",
                 (unsigned long long)(left / open), (unsigned long long)options->max_step_tokens);
        border_refuse(attached->border, why);
        return false;
    }
    double loss = loss_of(progress);
    uint64_t tokens = left / open * steps;
    for (uint64_t step = 0; step < steps; step++)
        for (uint32_t i = 0; i < options->replica->fragments; i++)
            round_progress_step(&options->fragment[i].progress, left / open, loss,
                                options->replica->base_version[i]);
    attached->counted = to;
    attached->tokens += tokens;
    note_steps(attached, steps, tokens, loss);
    return true;
}

/* ---- what was asked for ---------------------------------------------------------------------- */

static uint64_t fragment_start(const struct replica *replica, uint32_t fragment, uint64_t *count) {
    uint64_t start;
    fragment_range(replica->parameters, replica->fragments, fragment, &start, count);
    return start;
}

static void move_base(struct attached *attached) {
    struct training_options *options = &attached->training->options;
    const struct training_request *request = &attached->request;
    training_mark_rebase(&options->fragment[request->fragment], options->replica, request->fragment,
                         request->sequence, request->why, NULL);
    handler_of(attached)->rebased(handler_of(attached)->context, request->fragment,
                                  request->sequence, request->why);
}

static void give_order(struct attached *attached) {
    const struct training_options *options = &attached->training->options;
    const struct training_request *request = &attached->request;
    struct replica *replica = options->replica;
    attached->busy = true;
    if (request->kind == REQUEST_SNAPSHOT) {
        border_publish(attached->border, request->fragment);
        return;
    }
    uint64_t count, start = fragment_start(replica, request->fragment, &count);
    const float *from = training_move_from(replica, request->why);
    elementwise_subtract(border_correction(attached->border), replica->next + start, from + start,
                         (size_t)count);
    border_add(attached->border, request->fragment, replica->next_version[request->fragment]);
}

/* A value that is not finite would end the round, and three of them the site. */
static bool copy_published(struct attached *attached) {
    struct replica *replica = attached->training->options.replica;
    uint32_t fragment = attached->request.fragment;
    uint64_t count, at = 0, start = fragment_start(replica, fragment, &count);
    float *values = replica->snapshot + start; /* ranks can still write where they published */
    memcpy(values, border_published(attached->border), count * sizeof(float));
    if (elementwise_is_finite(values, (size_t)count)) return true;
    while (isfinite(values[at])) at++;
    char where[256], why[400];
    border_blame(attached->border, fragment, at, where, sizeof where);
    snprintf(why, sizeof why, "%s: a parameter is not finite after step %llu", where,
             (unsigned long long)attached->counted);
    border_refuse(attached->border, why);
    return false;
}

static void take_published(struct attached *attached) {
    struct training *training = attached->training;
    struct training_options *options = &training->options;
    const struct training_request *request = &attached->request;
    struct replica *replica = options->replica;
    struct training_mark *mark = &options->fragment[request->fragment];
    struct buffer no_optimizer = {0};
    training_mark_sent(mark, replica->fragments, request->sequence);
    handler_of(attached)->snapshotted(handler_of(attached)->context, request->fragment,
                                      request->sequence, training->figures.steps,
                                      training->figures.tokens, mark->progress.began_in_flight,
                                      training->figures.trainer_steps, &no_optimizer);
}

/* The order was carried out by all ranks, after the step up to which steps are counted. False: what
 * was published is of no use. */
static bool finish_order(struct attached *attached) {
    bool fine = attached->request.kind == REQUEST_REBASE || copy_published(attached);
    if (!fine) return false;
    border_forget(attached->border);
    attached->busy = false;
    if (attached->request.kind == REQUEST_REBASE)
        move_base(attached);
    else
        take_published(attached);
    return true;
}

/* ---- sessions -------------------------------------------------------------------------------- */

/* With nobody attached: nothing is there to be published, and nothing stands on the base. */
static void do_without(struct attached *attached) {
    const struct training_request *request = &attached->request;
    attached->busy = false;
    if (request->kind == REQUEST_REBASE)
        move_base(attached);
    else
        handler_of(attached)->snapshot_lost(handler_of(attached)->context, request->fragment,
                                            request->sequence);
}

static void lose_session(struct attached *attached) {
    struct training_options *options = &attached->training->options;
    struct border_progress progress;
    uint64_t at, lost = 0;
    border_progress(attached->border, &progress);
    bool done = attached->busy && border_is_done(attached->border, &at) && at >= attached->counted;
    if (done) done = count_steps(attached, &progress, at) && finish_order(attached);
    if (!done && attached->busy) do_without(attached);
    border_forget(attached->border);
    for (uint32_t i = 0; i < options->replica->fragments; i++) {
        lost = MAX(lost, options->fragment[i].progress.steps);
        round_progress_lost(&options->fragment[i].progress);
    }
    lost += progress.steps > attached->counted ? progress.steps - attached->counted : 0;
    attached->session = 0;
    log_info("trainer_left", "steps=%llu steps_lost=%llu", (unsigned long long)progress.steps,
             (unsigned long long)lost);
    handler_of(attached)->trainer_lost(handler_of(attached)->context);
}

static void watch_session(struct attached *attached) {
    uint64_t session = border_session(attached->border);
    if (attached->session != 0 && session != attached->session) lose_session(attached);
    if (session == 0 || attached->session == session) return;
    struct border_progress progress;
    border_progress(attached->border, &progress);
    attached->session = session;
    attached->counted = attached->tokens = 0;
    attached->step_ns = clock_monotonic_ns();
    log_info("trainer_attached", "ranks=%u", progress.ranks);
}

/* ---- the loop -------------------------------------------------------------------------------- */

static void count_and_finish(struct attached *attached) {
    struct border_progress progress;
    uint64_t at = 0;
    bool done = attached->busy && border_is_done(attached->border, &at);
    border_progress(attached->border, &progress);
    /* what is beyond an order's step comes after the order */
    uint64_t to = attached->busy ? MIN(progress.steps, at) : progress.steps;
    if (!count_steps(attached, &progress, to)) return;
    if (done && finish_order(attached)) (void)count_steps(attached, &progress, progress.steps);
}

static void next_request(struct attached *attached) {
    struct training *training = attached->training;
    bool gathers = attached->session == 0 && border_has_ranks(attached->border);
    if (attached->busy || gathers) return; /* who loads the model stands on the base as it is */
    pthread_mutex_lock(&training->lock);
    bool taken = training_take_request(training, &attached->request);
    pthread_mutex_unlock(&training->lock);
    if (!taken) return;
    if (attached->session == 0)
        do_without(attached);
    else
        give_order(attached);
}

/* What the trainer may see of the run; the time without a step; whether a capture is due. True: the
 * thread goes on. */
static bool look_around(struct attached *attached) {
    struct training *training = attached->training;
    uint64_t now = clock_monotonic_ns();
    pthread_mutex_lock(&training->lock);
    bool stands = attached->session == 0 || now - attached->step_ns > STANDSTILL_NS;
    if (stands) {
        enum lost_cause cause = training->train ? LOST_OTHER : training_lost_to(training);
        training_book(training, false, cause);
        training_note_standstill(training);
    }
    double rate = (double)schedule_at(&training->options.schedule, training_run_tokens(training));
    bool over = training->over, go_on = !training->stopping;
    bool capture = go_on && training_take_capture(training, attached->session != 0);
    pthread_mutex_unlock(&training->lock);
    border_tell(attached->border, over, training->options.inner_steps,
                rate / (double)training->peak);
    if (capture) training_do_capture(training);
    return go_on;
}

static uint64_t wait_ms(const struct attached *attached) {
    if (attached->session == 0)
        return border_has_ranks(attached->border) ? LEAST_WAIT_MS : IDLE_WAIT_MS;
    uint64_t part = (uint64_t)(attached->step_s * 1000 / 8);
    return MIN(MAX(part, (uint64_t)LEAST_WAIT_MS), (uint64_t)MOST_WAIT_MS);
}

void training_attached_body(void *context) {
    struct training *training = context;
    struct attached attached = {.training = training, .border = training->options.border};
    while (look_around(&attached)) {
        border_poll(attached.border, wait_ms(&attached));
        watch_session(&attached);
        if (attached.session != 0) count_and_finish(&attached);
        watch_session(&attached); /* it may have been refused just now */
        next_request(&attached);
    }
    if (attached.busy) do_without(&attached);
    if (training->capture_last) training_capture_at_end(training);
}
