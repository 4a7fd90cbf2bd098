/* The loop: messages in, steps of the state machine, and what they ask for. */
#include "coordinator/loop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/random.h"
#include "coordinator/loop_internal.h"
#include "fed/invitation.h"

enum { MESSAGES_LIMIT = 65536, WAKE_MESSAGES = 1024 };

/* ---- messages -------------------------------------------------------------------------------- */

struct posted { /* a message in the queue, with what it borrows */
    struct loop_message message;
    bool end; /* no message: the loop is to end */
    struct lost_payload *lost;
    char text[192];
    struct heartbeat_request report;
    char device[WIRE_DEVICE_LIMIT + 1], software[WIRE_SOFTWARE_LIMIT + 1];
};

static void posted_destroy(struct posted *posted) {
    call_release(posted->message.call);
    free(posted->lost);
    free(posted);
}

static void copy_text(struct posted *posted, const char **text) {
    if (!*text) return;
    snprintf(posted->text, sizeof posted->text, "%s", *text);
    *text = posted->text;
}

static void copy_lost(struct posted *posted) {
    struct coordinator_event *event = &posted->message.event;
    size_t size = event->applied.lost_count * sizeof *posted->lost;
    if (size > 0) {
        posted->lost = xmalloc(size);
        memcpy(posted->lost, event->applied.lost, size);
    }
    event->applied.lost = posted->lost;
}

static struct posted *posted_create(const struct loop_message *message) {
    struct posted *posted = xcalloc(1, sizeof *posted);
    struct loop_message *copy = &posted->message;
    *copy = *message;
    call_retain(copy->call);
    if (copy->kind == LOOP_WRITTEN) copy_text(posted, &copy->written.message);
    if (copy->kind == LOOP_REPORT) {
        strncpy(posted->device, message->report->device, WIRE_DEVICE_LIMIT);
        strncpy(posted->software, message->report->software, WIRE_SOFTWARE_LIMIT);
        posted->report = *message->report;
        posted->report.device = posted->device;
        posted->report.software = posted->software;
        copy->report = &posted->report;
    }
    switch (copy->event.kind) {
    case COORDINATOR_UPLOADED:
    case COORDINATOR_CHECKED: copy_text(posted, &copy->event.uploaded.message); break;
    case COORDINATOR_APPLIED:
    case COORDINATOR_LOST:
        copy_text(posted, &copy->event.applied.message);
        copy_lost(posted);
        break;
    default: break;
    }
    return posted;
}

void loop_post(struct loop *loop, const struct loop_message *message) {
    struct posted *posted = posted_create(message);
    if (queue_push_wait(loop->queue, posted) != OK) posted_destroy(posted);
}

/* ---- steps ----------------------------------------------------------------------------------- */

static void step(struct loop *loop, const struct coordinator_event *event,
                 struct coordinator_actions *actions) {
    coordinator_state_step(loop->state, event, clock_instant(), actions);
    loop_act_all(loop, actions);
}

/* An invitation's secret is made here, by the only side that knows randomness; the state machine
 * and the ledger see its digest. It waits in the call until the entry is durable. */
static void make_secret(struct call *call, uint8_t secret_digest[static DIGEST_SIZE]) {
    uint8_t secret[SECRET_SIZE];
    random_system(secret, sizeof secret);
    digest_sha256(secret, sizeof secret, secret_digest);
    buffer_append(&call->secret, secret, sizeof secret);
    clear(secret, sizeof secret);
}

/* One voice for each observer. A version that is not there yet cannot have been evaluated; what it
 * tells is its own word, and nothing but what people see follows from it. */
static void keep_heldout(struct loop *loop, uint32_t site, const struct heldout_status *told) {
    const struct run_state *run = coordinator_state_run(loop->state);
    const struct run_site *enrolled = run_state_site(run, site);
    struct site_report *report = &loop->reports[site];
    if (enrolled->role != SITE_OBSERVES || !told->any || told->version > run_state_version(run))
        return;
    bool is_new = !report->heldout.any || report->heldout.version != told->version;
    bool rises = told->loss > told->best_loss + loop->options.heldout_margin;
    report->heldout = *told;
    if (is_new)
        log_info("heldout", "observer=%s version=%llu loss=%.4f best=%.4f best_version=%llu",
                 enrolled->name, (unsigned long long)told->version, told->loss, told->best_loss,
                 (unsigned long long)told->best_version);
    if (rises && !report->rises)
        log_warn("heldout_rises",
                 "observer=%s version=%llu loss=%.4f best=%.4f best_version=%llu do=\"look at the "
                 "sites' losses and norms; the best version can be exported: atollctl model export "
                 "--at %llu\"",
                 enrolled->name, (unsigned long long)told->version, told->loss, told->best_loss,
                 (unsigned long long)told->best_version, (unsigned long long)told->best_version);
    report->rises = rises;
}

/* A copy's figures are not the site's. */
static void keep_report(struct loop *loop, const struct coordinator_event *event,
                        const struct heartbeat_request *last) {
    uint32_t site = event->heartbeat.site;
    if (site == 0 || site > SITES_LIMIT ||
        !coordinator_state_has_place(loop->state, site, event->heartbeat.instance))
        return;
    struct site_report *report = &loop->reports[site];
    report->heard = true;
    report->last = *last;
    keep_heldout(loop, site, &last->heldout);
    memcpy(report->device, last->device, strlen(last->device) + 1);
    memcpy(report->software, last->software, strlen(last->software) + 1);
    report->last.device = report->last.software = NULL;
}

static void take_written(struct loop *loop, enum status status, const char *message,
                         struct coordinator_actions *actions) {
    struct coordinator_event event = {.kind = COORDINATOR_COMMITTED};
    event.committed.commit =
        ledger_queue_taken(loop->options.ledger, status, message, clock_monotonic_ms());
    event.committed.status = status;
    if (event.committed.commit == 0) return; /* the disk is full: it is tried again */
    if (status != OK) log_error("commit_failed", "reason=\"%s\"", message);
    step(loop, &event, actions);
}

static void take_message(struct loop *loop, struct loop_message *message,
                         struct coordinator_actions *actions) {
    struct coordinator_event *event = &message->event;
    switch (message->kind) {
    case LOOP_EVENT:
        if (event->kind == COORDINATOR_ADMIN && event->admin.order == ORDER_INVITE)
            make_secret(message->call, event->admin.secret_digest);
        step(loop, event, actions);
        break;
    case LOOP_REPORT:
        step(loop, event, actions);
        keep_report(loop, event, message->report);
        loop_hear_clock(loop);
        break;
    case LOOP_QUESTION:
        loop_answer(loop, message->call, message->question.verb, message->question.first_site);
        break;
    case LOOP_WRITTEN:
        take_written(loop, message->written.status, message->written.message, actions);
        break;
    }
}

/* What is due by now. */
static void take_time(struct loop *loop, struct coordinator_actions *actions) {
    uint64_t now = clock_monotonic_ms();
    if (loop->timer_ms <= now) {
        loop->timer_ms = UINT64_MAX;
        step(loop, &(struct coordinator_event){.kind = COORDINATOR_TIMER}, actions);
    }
    if (ledger_queue_retry_at(loop->options.ledger) <= now)
        ledger_queue_retry(loop->options.ledger, now);
}

static uint64_t time_left(const struct loop *loop) {
    uint64_t now = clock_monotonic_ms(),
             at = MIN(loop->timer_ms, ledger_queue_retry_at(loop->options.ledger));
    return at == UINT64_MAX ? UINT64_MAX : at > now ? at - now : 0;
}

/* A wake-up takes what is in the queue by then, and the entries that came of it go to the disk
 * together. False: the end. */
static bool wake(struct loop *loop, void *popped, struct coordinator_actions *actions) {
    bool ended = false;
    enum status status = OK;
    for (int taken = 0; status == OK && !ended; taken++) {
        struct posted *posted = popped;
        ended = posted->end;
        if (!ended) take_message(loop, &posted->message, actions);
        posted_destroy(posted);
        if (taken == WAKE_MESSAGES) break; /* the clock is looked at now and then */
        status = queue_pop(loop->queue, 0, &popped);
    }
    return !ended && status != CANCELLED;
}

static void run(void *context) {
    struct loop *loop = context;
    struct coordinator_actions actions = {0};
    enum status status = OK;
    coordinator_state_start(loop->state, clock_instant(), &actions);
    loop_act_all(loop, &actions);
    loop_publish(loop, coordinator_state_committed(loop->state));
    while (status != CANCELLED) {
        void *popped = NULL;
        ledger_queue_flush(loop->options.ledger, clock_monotonic_ms());
        status = queue_pop(loop->queue, time_left(loop), &popped);
        if (status == OK && !wake(loop, popped, &actions)) break;
        take_time(loop, &actions);
    }
    ledger_queue_end(loop->options.ledger, clock_monotonic_ms());
    coordinator_actions_deinit(&actions);
}

/* ---- life ------------------------------------------------------------------------------------ */

struct loop *loop_create(void) {
    struct loop *loop = xcalloc(1, sizeof *loop);
    loop->queue = queue_create(MESSAGES_LIMIT);
    loop->reports = xcalloc(SITES_LIMIT + 1, sizeof loop->reports[0]);
    loop->started_ms = clock_monotonic_ms();
    loop->timer_ms = UINT64_MAX;
    return loop;
}

enum status loop_start(struct loop *loop, const struct loop_options *options, struct error *error) {
    loop->options = *options;
    loop->state = options->state;
    return thread_start("loop", run, loop, &loop->thread, error);
}

void loop_stop(struct loop *loop) {
    if (loop->thread) {
        struct posted *end = xcalloc(1, sizeof *end);
        end->end = true;
        if (queue_push_wait(loop->queue, end) != OK) posted_destroy(end);
        if (thread_join(loop->thread, UINT64_MAX) != OK) log_error("thread_stuck", "thread=loop");
        loop->thread = NULL;
    }
    queue_close(loop->queue); /* what others still post is dropped */
}

void loop_destroy(struct loop *loop) {
    if (!loop) return;
    void *popped;
    while (queue_pop(loop->queue, 0, &popped) == OK) posted_destroy(popped);
    queue_destroy(loop->queue);
    free(loop->reports);
    free(loop);
}
