/* The loop: events in, actions out, on a thread of its own. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/random.h"
#include "node/daemon_internal.h"
#include "node/leave.h"
#include "run/run_model.h"

enum { HEARTBEAT_TIMEOUT_MS = 30000, INCLUSION_MS = 30000 };

static struct daemon_message *event_message_create(const struct node_event *event) {
    struct daemon_message *message = xcalloc(1, sizeof *message);
    message->event = *event;
    if (event->bytes.size > 0) buffer_append(&message->bytes, event->bytes.data, event->bytes.size);
    message->event.bytes = buffer_bytes(&message->bytes);
    if (event->message) {
        size_t size = MIN(strlen(event->message), sizeof message->message - 1);
        memcpy(message->message, event->message, size);
        message->event.message = message->message;
    }
    return message;
}

static void event_message_destroy(struct daemon_message *message) {
    buffer_deinit(&message->bytes);
    free(message);
}

void daemon_loop_post(void *context, const struct node_event *event) {
    struct daemon *daemon = context;
    struct daemon_message *message = event_message_create(event);
    if (queue_push_wait(daemon->events, message) != OK) event_message_destroy(message);
}

/* ---- heartbeats: a call of their own, answered on rpc/'s thread ------------------------------ */

static enum status decode_reply(struct buffer *raw, struct heartbeat_reply *out,
                                struct arena *arena, struct error *error) {
    struct frame frame;
    TRY(frame_split(buffer_bytes(raw), &frame, error));
    return heartbeat_reply_decode(frame, arena, out, error);
}

static void compare_clocks(struct daemon *daemon, uint64_t server_ms) {
    int64_t ahead = (int64_t)server_ms - (int64_t)clock_wall_ms();
    char message[TROUBLE_TEXT_SIZE];
    atomic_store(&daemon->coordinator_ms, (int64_t)server_ms - (int64_t)clock_monotonic_ms());
    if (ahead >= -CLOCK_APART_MS && ahead <= CLOCK_APART_MS) {
        trouble_ends(daemon->troubles, TROUBLE_CLOCK);
        return;
    }
    snprintf(
        message, sizeof message,
        "this machine's clock is %lld s %s the coordinator's; contributions are signed by that one",
        (long long)(ahead < 0 ? -ahead : ahead) / 1000, ahead < 0 ? "ahead of" : "behind");
    trouble_begins(daemon->troubles, TROUBLE_CLOCK, message);
}

_Static_assert((int)NODE_WANTED_LIMIT == (int)WIRE_WANTED_LIMIT,
               "the core takes what one answer carries");

/* For now: as if it had not been answered. For good: the end of this process. */
static struct node_event refused_heartbeat(const struct heartbeat_reply *reply,
                                           struct error *error) {
    log_warn("heartbeat_refused", "code=%s message=\"%s\"", refusal_name(reply->code),
             reply->message);
    if (refusal_is_temporary(reply->code))
        return (struct node_event){.kind = NODE_HEARTBEAT_REPLY, .status = UNAVAILABLE};
    (void)error_set(error, REFUSED, "the coordinator refuses this site: %s", reply->message);
    return (struct node_event){.kind = NODE_FAULT, .status = REFUSED, .message = error->message};
}

static void on_heartbeat_reply(void *user, const struct rpc_outcome *outcome, struct buffer *raw) {
    struct daemon *daemon = user;
    struct node_event event = {.kind = NODE_HEARTBEAT_REPLY, .status = outcome->status};
    struct error error = {0};
    struct arena arena = {0};
    arena_create(&arena, ARENA_SIZE);
    if (outcome->status == OK) {
        struct heartbeat_reply reply;
        traffic_down(&daemon->traffic, raw->size);
        event.status = decode_reply(raw, &reply, &arena, &error);
        if (event.status == OK) {
            event.heartbeat.inner_steps = reply.inner_steps;
            event.heartbeat.phase = (enum run_phase)reply.phase;
            event.heartbeat.version = reply.version;
            event.heartbeat.sites_present = reply.sites_present;
            event.heartbeat.has_left = reply.has_left;
            if (reply.server_time_ms > 0) compare_clocks(daemon, reply.server_time_ms);
            event.heartbeat.wanted_count = MIN(reply.wanted_count, (uint32_t)NODE_WANTED_LIMIT);
            memcpy(event.heartbeat.wanted, reply.wanted, sizeof event.heartbeat.wanted);
            if (reply.code)
                event = refused_heartbeat(&reply, &error);
            else
                report_set_answer(daemon->report, reply.turn, reply.copies);
        }
    }
    arena_deinit(&arena);
    struct daemon_message *message = event_message_create(&event);
    if (queue_push(daemon->events, message) != OK) { /* this thread may not wait */
        event_message_destroy(message);
        atomic_store(&daemon->heartbeat_lost, true);
    }
}

static void send_heartbeat(struct daemon *daemon) {
    struct buffer request = {0};
    struct error error = {0};
    report_heartbeat(daemon->report, daemon->training, daemon->evaluator, &request);
    struct rpc_piece piece = rpc_piece_of(buffer_bytes(&request));
    struct rpc_call_options options = {.progress_timeout_ms = HEARTBEAT_TIMEOUT_MS};
    enum status status = rpc_channel_unary(daemon->channel, service_path(METHOD_HEARTBEAT),
                                           &options, &piece, 1, on_heartbeat_reply, daemon, &error);
    if (status == OK)
        traffic_up(&daemon->traffic, request.size);
    else
        atomic_store(&daemon->heartbeat_lost, true);
    buffer_deinit(&request);
}

/* ---- actions --------------------------------------------------------------------------------- */

bool daemon_end(struct daemon *daemon, enum daemon_end how, const char *message) {
    pthread_mutex_lock(&daemon->lock);
    bool first = !daemon->ended;
    if (first) {
        daemon->ended = true;
        daemon->end = how;
        error_set(&daemon->why, FAILED, "%s", message);
    }
    pthread_mutex_unlock(&daemon->lock);
    return first;
}

static void log_merged(struct daemon *daemon, const struct node_action *action) {
    log_info("merged", "fragment=%u sequence=%llu staleness=%llu version=%llu", action->fragment,
             (unsigned long long)action->sequence,
             (unsigned long long)node_state_staleness(daemon->state),
             (unsigned long long)run_state_version(node_state_run(daemon->state)));
}

static void act(struct daemon *daemon, struct node_action *action) {
    switch (action->kind) {
    case NODE_DO_CONNECT:
        downlink_connect(daemon->downlink, action->ask_offer, action->index, action->payloads_from,
                         action->sequence);
        break;
    case NODE_DO_FETCH: downlink_fetch(daemon->downlink); break;
    case NODE_DO_FOLLOW:
        downlink_follow(daemon->downlink, action->index, action->payloads_from, action->sequence);
        break;
    case NODE_DO_SNAPSHOT:
        training_snapshot(daemon->training, action->fragment, action->sequence);
        break;
    case NODE_DO_ENCODE: worker_encode(daemon->worker, &action->contribution); break;
    case NODE_DO_UPLOAD:
        uplink_send(daemon->uplink, daemon->channel, action->fragment, action->sequence);
        break;
    case NODE_DO_APPLY:
        worker_apply(daemon->worker, node_state_run(daemon->state), buffer_bytes(&action->bytes));
        break;
    case NODE_DO_REBASE:
        log_merged(daemon, action);
        worker_rebase(daemon->worker, action->fragment, action->sequence);
        break;
    case NODE_DO_RESTORE: worker_restore(daemon->worker, action->fragment, action->sequence); break;
    case NODE_DO_ACCEPTED:
        daemon_restored_is_over(daemon);
        worker_accepted(daemon->worker, action->fragment, action->sequence, &action->head);
        break;
    case NODE_DO_ADVANCE: worker_advance(daemon->worker, action->fragment); break;
    case NODE_DO_TRAIN:
        training_train(daemon->training, action->train && !daemon->site->observes, action->wait,
                       action->until_steps);
        break;
    case NODE_DO_REFETCH:
        uplink_refetch(daemon->uplink, daemon->channel, action->index, &action->contribution);
        break;
    case NODE_DO_SUPPLY: uplink_supply(daemon->uplink, daemon->channel, action->index); break;
    case NODE_DO_HEARTBEAT:
        report_set_leaving(daemon->report, action->leaving);
        send_heartbeat(daemon);
        break;
    case NODE_DO_TIMER: daemon->timer_at = action->at_ms; break;
    case NODE_DO_FINISH:
        log_info("run_over", "reason=\"%s\"", run_state_reason(node_state_run(daemon->state)));
        (void)daemon_end(daemon, DAEMON_FINISHED, "the run is over");
        break;
    case NODE_DO_LEFT:
        log_info("left", "message=\"it counts no more until it is started again\"");
        (void)daemon_end(daemon, DAEMON_STOPPED, LEAVE_DONE);
        break;
    case NODE_DO_HALT:
        log_error("halted", "message=\"%s\"", action->message);
        (void)daemon_end(daemon, DAEMON_HALTED, action->message);
        break;
    }
}

/* What others may see of the core, and what the trainer's schedule goes by. */
static void publish(struct daemon *daemon) {
    const struct node_state *state = daemon->state;
    const struct run_state *run = node_state_run(state);
    atomic_store(&daemon->backlog, node_state_backlog(state));
    struct report_view view = {.linked = node_state_linked(state),
                               .has_run = run_state_has_genesis(run),
                               .ledger_size = run_state_size(run),
                               .sequence = node_state_sequence(state),
                               .staleness = node_state_staleness(state)};
    for (unsigned code = 1; code < REFUSAL_COUNT; code++)
        view.refused[code] = node_state_refused(state, (enum refusal)code);
    if (view.has_run) {
        const struct run_site *own = run_state_site(run, daemon->site->number);
        view.version = run_state_version(run);
        view.run_tokens = run_state_tokens(run);
        view.epoch = run_state_epoch(run);
        view.phase = run_state_phase(run);
        view.active_sites = run_state_active_sites(run);
        view.sites_present = node_state_sites_present(state);
        view.inner_steps = node_state_inner_steps(state);
        view.fragments = run_state_manifest(run)->fragments;
        for (uint32_t i = 0; i < view.fragments; i++) view.slots[i] = node_state_slot(state, i);
        view.accepted = own ? own->contributions : 0;
        view.own_tokens = own ? own->tokens : 0;
    }
    report_set_view(daemon->report, &view);
    if (view.has_run && daemon->training && view.inner_steps > 0)
        training_set_inner_steps(daemon->training, view.inner_steps);
    if (!view.has_run || view.ledger_size == daemon->told_ledger_size || !daemon->training) return;
    daemon->told_ledger_size = view.ledger_size;
    struct schedule schedule = run_model_schedule(run_state_manifest(run));
    training_set_schedule(daemon->training, &schedule);
    training_tell_run(daemon->training, view.run_tokens, view.own_tokens,
                      run_state_flow(run, daemon->site->number));
}

static void act_all(struct daemon *daemon, struct node_actions *actions) {
    publish(daemon);
    for (size_t i = 0; i < actions->count; i++) act(daemon, &actions->items[i]);
    node_actions_clear(actions);
}

/* Training goes on meanwhile, so nothing else would show that the site's model stands still. */
static void note_lost(struct daemon *daemon) {
    uint64_t lost = node_state_lost(daemon->state);
    char message[TROUBLE_TEXT_SIZE];
    if (lost == 0) {
        trouble_ends(daemon->troubles, TROUBLE_PAYLOAD);
        return;
    }
    snprintf(message, sizeof message,
             "the payload of ledger entry %llu is damaged on this disk, and the next step needs it",
             (unsigned long long)lost);
    trouble_begins(daemon->troubles, TROUBLE_PAYLOAD, message);
}

static void step(struct daemon *daemon, const struct node_event *event,
                 struct node_actions *actions) {
    node_state_step(daemon->state, event, clock_instant(), actions);
    note_lost(daemon);
    act_all(daemon, actions);
}

static uint64_t time_left(uint64_t at_ms) {
    if (at_ms == UINT64_MAX) return UINT64_MAX;
    uint64_t now = clock_monotonic_ms();
    return at_ms > now ? at_ms - now : 0;
}

/* Entries that were stored and that the replica could not go by: they come to the core as if they
 * had just come. */
static void take_stored(struct daemon *daemon, struct node_actions *actions) {
    struct ledger_source source = journal_source(daemon->journal);
    struct buffer raw = {0};
    struct error error = {0};
    enum status status = OK;
    uint64_t size = journal_size(daemon->journal);
    for (uint64_t index = daemon->restored.entries; status == OK && index < size; index++) {
        raw.size = 0;
        status = source.entry(source.context, index, &raw, &error);
        struct node_event event = {.kind = NODE_ENTRY, .bytes = buffer_bytes(&raw)};
        if (status != OK)
            event =
                (struct node_event){.kind = NODE_FAULT, .status = status, .message = error.message};
        step(daemon, &event, actions);
    }
    buffer_deinit(&raw);
}

void daemon_loop_run(void *context) {
    struct daemon *daemon = context;
    struct node_actions actions = {0};
    void *item = NULL;
    enum status status;
    const struct restored *restored = &daemon->restored;
    for (uint32_t i = 0; i < daemon->replica.fragments; i++)
        node_state_resume(daemon->state, i, &restored->fragment[i].progress);
    node_state_start(daemon->state, daemon->replica.global.version, restored->spooled,
                     restored->spooled_count, clock_instant(), &actions);
    act_all(daemon, &actions);
    take_stored(daemon, &actions);
    while ((status = queue_pop(daemon->events, MIN(time_left(daemon->timer_at), 1000u), &item)) !=
           CANCELLED) {
        if (status == OK) {
            struct daemon_message *message = item;
            step(daemon, &message->event, &actions);
            event_message_destroy(message);
        }
        if (atomic_exchange(&daemon->heartbeat_lost, false))
            step(daemon, &(struct node_event){.kind = NODE_HEARTBEAT_REPLY, .status = UNAVAILABLE},
                 &actions);
        if (time_left(daemon->timer_at) > 0) continue;
        daemon->timer_at = UINT64_MAX;
        step(daemon, &(struct node_event){.kind = NODE_TIMER}, &actions);
    }
    node_actions_deinit(&actions);
}

/* ---- start ----------------------------------------------------------------------------------- */

uint64_t daemon_nominal_payload(const struct daemon *daemon) {
    const struct manifest *manifest = &daemon->site->manifest;
    uint64_t parameters = daemon->layout.count;
    double bits = codec_bits((enum codec)manifest->codec.kind);
    return (uint64_t)(bits / 8 * (double)parameters / manifest->fragments *
                      manifest->merge.quorum) +
           1;
}

enum status daemon_loop_restore(struct daemon *daemon, struct error *error) {
    const struct settings *settings = daemon->settings;
    struct node_options options = {.site = daemon->site->number,
                                   .overlap = settings->overlap,
                                   .follow_interval = (uint32_t)settings->follow_interval,
                                   .heartbeat_ms = settings->heartbeat_ms,
                                   .backoff_ms = settings->backoff_ms,
                                   .backoff_limit_ms = settings->backoff_limit_ms,
                                   .inclusion_ms = INCLUSION_MS,
                                   .queue_limit = BACKLOG_LIMIT,
                                   .nominal_payload = daemon_nominal_payload(daemon),
                                   .payloads_from = daemon->restored.payloads_from,
                                   .last_sequence = daemon->restored.last_sequence,
                                   .lacks_model = daemon->lacks_model,
                                   .restored = daemon->is_restored};
    random_system(&options.seed, sizeof options.seed);
    daemon->timer_at = UINT64_MAX;
    daemon->state = node_state_create(&options);
    struct ledger_source source = journal_source(daemon->journal);
    struct buffer raw = {0};
    enum status status = OK;
    for (uint64_t index = 0; status == OK && index < daemon->restored.entries; index++) {
        raw.size = 0;
        status = source.entry(source.context, index, &raw, error);
        if (status == OK) status = node_state_restore(daemon->state, buffer_bytes(&raw), error);
    }
    buffer_deinit(&raw);
    return status;
}
