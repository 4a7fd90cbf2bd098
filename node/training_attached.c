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
 * next one that attaches loads theta_s where a message is in flight, else the base; or goes on, if
 * it says where it stands and that is known here (node/stand.h).
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
#include "node/stand.h"
#include "node/training_internal.h"

enum {
    LEAST_WAIT_MS = 1,
    MOST_WAIT_MS = 20,
    LOAD_LEAD = 2,
    IDLE_WAIT_MS = 100,
    STANDSTILL_NS = 2000000000
};

struct attached { /* the thread's own */
    struct training *training;
    struct border *border;
    uint64_t session; /* that trains; 0: none */
    uint64_t counted; /* steps of it */
    uint64_t tokens;  /* and their tokens */
    uint64_t clock;   /* figures.trainer_steps at its first step */
    uint64_t ahead;   /* its steps up to there do not count, and then ... */
    uint64_t reload;  /* ... these fragments are loaded, a bit each; none counts before they are */
    uint64_t step_ns; /* when a step was last counted */
    double step_s;    /* how long one takes, lately */
    bool busy;        /* `request` has been ordered */
    uint32_t fragments_loaded; /* from a snapshot of the run, with nobody attached */
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
    figures->trainer_steps = attached->clock + attached->counted;
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
    attached->counted = to;
    attached->tokens += tokens;
    if (attached->reload != 0) return true;
    for (uint64_t step = 0; step < steps; step++)
        for (uint32_t i = 0; i < options->replica->fragments; i++)
            round_progress_step(&options->fragment[i].progress, left / open, loss,
                                options->replica->base_version[i]);
    note_steps(attached, steps, tokens, loss);
    return true;
}

/* What a job had trained before it came back, and what is in no message yet. */
static void count_unsent(struct attached *attached, uint64_t steps, uint64_t tokens) {
    struct training_options *options = &attached->training->options;
    tokens = MIN(tokens, steps * options->max_step_tokens);
    if (steps == 0) return;
    for (uint32_t i = 0; i < options->replica->fragments; i++)
        round_progress_unsent(&options->fragment[i].progress, steps, tokens,
                              options->replica->base_version[i]);
    note_steps(attached, steps, tokens, (double)NAN);
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
    stand_changes(options->stand, request->fragment);
    training_mark_rebase(&options->fragment[request->fragment], options->replica, request->fragment,
                         request->sequence, request->why, NULL);
    stand_is(options->stand, request->fragment, &options->fragment[request->fragment]);
    handler_of(attached)->rebased(handler_of(attached)->context, request->fragment,
                                  request->sequence, request->why);
}

static void order(struct attached *attached) {
    const struct training_options *options = &attached->training->options;
    const struct training_request *request = &attached->request;
    struct replica *replica = options->replica;
    attached->busy = true;
    if (request->kind == REQUEST_SNAPSHOT) {
        border_publish(attached->border, request->fragment);
        return;
    }
    uint64_t count, start = fragment_start(replica, request->fragment, &count);
    if (request->kind == REQUEST_LOAD) {
        bool in_flight = options->fragment[request->fragment].in_flight != 0;
        memcpy(border_correction(attached->border),
               (in_flight ? replica->snapshot : replica->base) + start, count * sizeof(float));
        border_load(attached->border, request->fragment, replica->base_version[request->fragment]);
        return;
    }
    const float *from = training_move_from(replica, request->why);
    elementwise_subtract(border_correction(attached->border), replica->next + start, from + start,
                         (size_t)count);
    border_add(attached->border, request->fragment, replica->next_version[request->fragment]);
}

static void tell_stand(struct attached *attached) {
    const struct training_request *request = &attached->request;
    bool moves = request->kind == REQUEST_REBASE;
    stand_order(attached->training->options.stand, border_order(attached->border),
                request->fragment, moves ? request->why : 0);
}

static void give_order(struct attached *attached) {
    order(attached);
    tell_stand(attached);
}

/* A value that is not finite would end the round, and three of them the site. */
static bool copy_published(struct attached *attached) {
    struct replica *replica = attached->training->options.replica;
    uint32_t fragment = attached->request.fragment;
    uint64_t count, at = 0, start = fragment_start(replica, fragment, &count);
    float *values = replica->snapshot + start; /* ranks can still write where they published */
    stand_changes(attached->training->options.stand, fragment);
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
    mark->at = training->figures.trainer_steps;
    stand_is(options->stand, request->fragment, mark);
    handler_of(attached)->snapshotted(handler_of(attached)->context, request->fragment,
                                      request->sequence, training->figures.steps,
                                      training->figures.tokens, mark->progress.began_in_flight,
                                      training->figures.trainer_steps, &no_optimizer);
}

static void loaded(struct attached *attached) {
    struct training_options *options = &attached->training->options;
    uint32_t fragment = attached->request.fragment;
    attached->reload &= ~(UINT64_C(1) << fragment);
    stand_is(options->stand, fragment, &options->fragment[fragment]);
    stand_loaded(options->stand, fragment);
    if (attached->reload == 0)
        log_info("trainer_caught_up", "steps=%llu beyond=%llu",
                 (unsigned long long)attached->counted,
                 (unsigned long long)(attached->counted - MIN(attached->counted, attached->ahead)));
}

/* The order was carried out by all ranks, after the step up to which steps are counted. False: what
 * was published is of no use. */
static bool finish_order(struct attached *attached) {
    enum training_request_kind kind = attached->request.kind;
    bool fine = kind != REQUEST_SNAPSHOT || copy_published(attached);
    if (!fine) return false;
    border_forget(attached->border);
    attached->busy = false;
    if (kind == REQUEST_REBASE) move_base(attached);
    if (kind == REQUEST_SNAPSHOT) take_published(attached);
    if (kind == REQUEST_LOAD) loaded(attached);
    return true;
}

/* ---- sessions -------------------------------------------------------------------------------- */

/* With nobody attached: nothing is there to be published, and nothing stands on the base. */
static void do_without(struct attached *attached) {
    const struct training_request *request = &attached->request;
    attached->busy = false;
    if (request->kind == REQUEST_REBASE) move_base(attached);
    attached->fragments_loaded += request->kind == REQUEST_REBASE && request->why == MOVE_LOADED;
    if (request->kind == REQUEST_SNAPSHOT)
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
    stand_session(options->stand, 0, 0); /* from here on the base moves without it */
    stand_lose(options->stand, lost);
    log_info("trainer_left", "steps=%llu steps_lost=%llu waited_ms=%llu",
             (unsigned long long)progress.steps, (unsigned long long)lost,
             (unsigned long long)progress.waited_ms);
    handler_of(attached)->trainer_lost(handler_of(attached)->context);
}

static void begin_session(struct attached *attached, uint64_t session) {
    struct training_options *options = &attached->training->options;
    const struct stand_plan *plan = stand_plan(options->stand);
    struct border_progress progress;
    border_progress(attached->border, &progress);
    attached->session = session;
    attached->counted = attached->tokens = 0;
    attached->clock = plan->clock;
    attached->ahead = plan->ahead;
    attached->reload = plan->reload;
    attached->step_ns = clock_monotonic_ns();
    stand_session(options->stand, 0, 0);
    for (uint32_t i = 0; i < options->replica->fragments; i++)
        stand_is(options->stand, i, &options->fragment[i]);
    stand_session(options->stand, border_session_id(attached->border), plan->reload);
    log_info("trainer_attached",
             "ranks=%u relayed=%u steps=%llu kept=%llu lost=%llu ahead=%llu memory=%llu",
             progress.ranks, progress.relayed, (unsigned long long)plan->steps,
             (unsigned long long)plan->unsent_steps, (unsigned long long)plan->lost,
             (unsigned long long)plan->ahead, (unsigned long long)border_size(attached->border));
    count_unsent(attached, plan->unsent_steps, plan->unsent_tokens);
}

static void watch_session(struct attached *attached) {
    uint64_t session = border_session(attached->border);
    if (attached->session != 0 && session != attached->session) lose_session(attached);
    if (session == 0 || attached->session == session) return;
    begin_session(attached, session);
}

/* A checkpoint of the job's: what its parameters stand on goes to a file. */
static void keep_state(struct attached *attached) {
    struct error error = {0};
    if (attached->session == 0 || !border_asks_to_keep(attached->border)) return;
    if (stand_keep(attached->training->options.stand, &error) != OK)
        log_warn("state_not_kept",
                 "message=\"%s\" do=\"make room: a job that goes on from this "
                 "checkpoint will load the newest model\"",
                 error.message);
    border_kept(attached->border);
}

/* ---- the loop -------------------------------------------------------------------------------- */

static void count_and_finish(struct attached *attached) {
    struct border_progress progress;
    uint64_t at = 0;
    bool done = attached->busy && border_is_done(attached->border, &at);
    if (attached->busy) tell_stand(attached); /* it may have been given again */
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
    if (attached->session != 0 && attached->reload != 0 &&
        attached->counted + LOAD_LEAD >= attached->ahead) {
        attached->request = (struct training_request){
            .kind = REQUEST_LOAD, .fragment = (uint32_t)__builtin_ctzll(attached->reload)};
        give_order(attached);
        return;
    }
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

static bool lacks_model(const struct attached *attached) {
    const struct training_options *options = &attached->training->options;
    return options->lacks_model && attached->fragments_loaded < options->replica->fragments;
}

void training_attached_body(void *context) {
    struct training *training = context;
    struct attached attached = {.training = training, .border = training->options.border};
    while (look_around(&attached)) {
        if (lacks_model(&attached)) { /* a job that attaches now waits to be welcomed */
            clock_sleep_ms(LEAST_WAIT_MS);
            next_request(&attached);
            continue;
        }
        border_poll(attached.border, wait_ms(&attached));
        watch_session(&attached);
        if (attached.session != 0) count_and_finish(&attached);
        watch_session(&attached); /* it may have been refused just now */
        keep_state(&attached);
        next_request(&attached);
    }
    if (training->capture_last) training_capture_at_end(training);
}
