/* The brain's thread: one event after the other into coordinator_state, then what it says is to be done. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/random.h"
#include "coordinator/server_internal.h"
#include "crypto/certificate.h"
#include "fed/invitation.h"

enum { CERTIFICATE_S = 5 * 31557600, WAKE_ITEMS = 1024 };

void server_break(struct server *server, const char *format, ...) {
    if (atomic_exchange(&server->stopping, true)) return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(server->reason, sizeof server->reason, format, arguments);
    va_end(arguments);
    atomic_store(&server->broken, true);
    sem_post(&server->ended);
}

struct brain_item *brain_item_create(enum brain_item_kind kind, struct call *call) {
    struct brain_item *item = xcalloc(1, sizeof *item);
    item->kind = kind;
    item->call = call_retain(call);
    return item;
}

static void brain_item_destroy(struct brain_item *item) {
    call_release(item->call);
    free(item->lost);
    free(item);
}

void brain_push(struct server *server, struct brain_item *item) {
    if (queue_push_wait(server->brain_queue, item) != OK) brain_item_destroy(item);
}

static struct lost_payload *copy_of(const struct lost_payload *lost, size_t count) {
    if (count == 0) return NULL;
    struct lost_payload *copy = xmalloc(count * sizeof *copy);
    memcpy(copy, lost, count * sizeof *copy);
    return copy;
}

void brain_tell_event(void *context, const struct coordinator_event *event) {
    struct brain_item *item = brain_item_create(BRAIN_EVENT, NULL);
    const char *message = NULL;
    item->event = *event;
    switch (event->kind) {
    case COORDINATOR_UPLOADED:
    case COORDINATOR_CHECKED:
        message = event->uploaded.message;
        item->event.uploaded.message = message ? item->message : NULL;
        break;
    case COORDINATOR_APPLIED:
    case COORDINATOR_LOST:
        message = event->applied.message;
        item->event.applied.message = message ? item->message : NULL;
        item->event.applied.lost = item->lost = copy_of(event->applied.lost, event->applied.lost_count);
        break;
    default: break;
    }
    if (message) snprintf(item->message, sizeof item->message, "%s", message);
    brain_push(context, item);
}

/* ---- doing what it says --------------------------------------------------------------------------------------------------- */

static void send_submit_reply(struct server *server, uint64_t number, const struct submit_reply *reply) {
    struct call *call = call_find(server, number);
    if (!call) return;
    struct buffer head = {0};
    struct error error = {0};
    if (submit_reply_encode(reply, &head, &error) != OK)
        rpc_call_finish(call->rpc, RPC_INTERNAL, error.message);
    else
        call_answer(call, &head);
    call_release(call);
}

static void do_refuse(struct server *server, const struct coordinator_action *action) {
    struct submit_reply reply = {.kind = SUBMIT_REFUSAL};
    reply.refusal.code = action->code;
    reply.refusal.message = action->message;
    reply.refusal.retry_after_ms = action->retry_after_ms;
    reply.refusal.current_version = action->current_version;
    reply.refusal.receipt = buffer_bytes(&action->bytes);
    char quoted[256];
    struct call *call = call_find(server, action->call);
    if (action->supply)
        log_info("payload_supplied", "site=%u message=%s", call ? call->site : 0,
                 log_quote(action->message, quoted, sizeof quoted));
    else
        log_info("contribution_refused", "site=%u code=%s reason=%s", call ? call->site : 0, refusal_name(action->code),
                 log_quote(action->message, quoted, sizeof quoted));
    call_release(call);
    send_submit_reply(server, action->call, &reply);
}

static void do_receipt(struct server *server, const struct coordinator_action *action) {
    struct submit_reply reply = {.kind = SUBMIT_RECEIPT};
    reply.receipt = buffer_bytes(&action->bytes);
    send_submit_reply(server, action->call, &reply);
}

static void do_publish(struct server *server, uint64_t size) {
    bool due = server->head_size == 0 || size - server->head_size >= server->options.head_interval;
    uint8_t head[HEAD_SIZE];
    if (due) {
        server->head_size = coordinator_state_committed(server->state);
        coordinator_state_head(server->state, head);
    }
    publisher_grow(server->publisher, size, due ? head : NULL, server->head_size);
}

static enum status issue(struct server *server, uint32_t site, const char *name, struct bytes request, struct buffer *out,
                         struct error *error) {
    struct identity identity = {.role = IDENTITY_SITE, .site = site};
    char uri[IDENTITY_URI_SIZE];
    memcpy(identity.run_id, server->run_id, RUN_ID_SIZE);
    identity_write(&identity, uri);
    uint64_t now_s = MAX(clock_wall_ms() / 1000, CERTIFICATE_NOW_LEAST_S);
    struct certificate_terms terms = {.common_name = name,
                                      .uri = uri,
                                      .client = true,
                                      .not_before_s = CERTIFICATE_FROM_S,
                                      .not_after_s = now_s + CERTIFICATE_S};
    return certificate_issue(buffer_bytes(&server->keys.authority_pem), server->keys.authority, request, &terms, CERTIFICATE_PEM,
                             out, error);
}

static enum join_code join_code_of(enum refusal code) {
    switch (code) {
    case ACCEPTED: return JOIN_OK;
    case REFUSED_EXPIRED: return JOIN_EXPIRED;
    case REFUSED_STOPPED: return JOIN_STOPPED;
    case REFUSED_BUSY: return JOIN_BUSY;
    case REFUSED_DUPLICATE: return JOIN_USED;
    case REFUSED_MALFORMED: return JOIN_CSR;
    default: return JOIN_SECRET;
    }
}

static void do_joined(struct server *server, const struct coordinator_action *action) {
    struct call *call = call_find(server, action->call);
    if (!call) return;
    struct join_reply reply = {.code = join_code_of(action->code), .message = action->message, .server_time_ms = clock_wall_ms()};
    struct buffer certificate = {0}, manifest = {0}, head = {0};
    struct error error = {0};
    enum status status = OK;
    if (action->code == ACCEPTED) {
        const struct run_site *site =
            action->site ? run_state_site(coordinator_state_run(server->state), action->site) : NULL; /* NULL: only a look */
        if (site) status = issue(server, action->site, site->name, buffer_bytes(&call->csr), &certificate, &error);
        manifest_write(&server->manifest, &manifest);
        reply.protocol = call->protocol;
        memcpy(reply.run_id, server->run_id, RUN_ID_SIZE);
        reply.site = action->site;
        reply.certificate_pem = buffer_bytes(&certificate);
        reply.ca_pem = buffer_bytes(&server->keys.authority_pem);
        memcpy(reply.coordinator_key, key_pair_public(server->keys.coordinator), PUBLIC_KEY_SIZE);
        reply.manifest = buffer_bytes(&manifest);
        if (site) log_info("site_joined", "site=%u name=%s", action->site, site->name);
    } else {
        char quoted[256];
        log_warn("join_refused", "code=%s reason=%s", join_code_name(reply.code),
                 log_quote(action->message, quoted, sizeof quoted));
    }
    if (status == OK) status = join_reply_encode(&reply, &head, &error);
    if (status == OK)
        call_answer(call, &head);
    else
        rpc_call_finish(call->rpc, RPC_INTERNAL, error.message);
    buffer_deinit(&certificate);
    buffer_deinit(&manifest);
    call_release(call);
}

_Static_assert((int)WANTED_LIMIT == (int)WIRE_WANTED_LIMIT, "the brain asks for what one answer carries");

static void do_heartbeat_reply(struct server *server, const struct coordinator_action *action) {
    struct call *call = call_find(server, action->call);
    if (!call) return;
    const struct run_state *run = coordinator_state_run(server->state);
    struct heartbeat_reply reply = {.inner_steps = action->inner_steps,
                                    .epoch = run_state_epoch(run),
                                    .version = run_state_version(run),
                                    .phase = run_state_phase(run),
                                    .server_time_ms = clock_wall_ms(),
                                    .sites_present = action->sites_present,
                                    .turn = action->turn,
                                    .copies = action->copies,
                                    .code = action->code,
                                    .message = action->message,
                                    .wanted_count = action->wanted_count};
    memcpy(reply.wanted, action->wanted, sizeof reply.wanted);
    struct buffer head = {0};
    struct error error = {0};
    if (heartbeat_reply_encode(&reply, &head, &error) == OK)
        call_answer(call, &head);
    else
        rpc_call_finish(call->rpc, RPC_INTERNAL, error.message);
    call_release(call);
}

static void do_admit(struct server *server, const struct coordinator_action *action) {
    struct call *call = call_find(server, action->call);
    if (!call) return;
    struct intake_message message = {.kind = INTAKE_ADMIT, .call = call};
    message.admit.contribution = action->contribution;
    message.admit.supply = action->supply;
    intake_post(server->intake, &message);
    call_release(call);
}

static void do_check(struct server *server, const struct coordinator_action *action) {
    struct intake_message message = {.kind = INTAKE_CHECK};
    message.check.number = action->call;
    message.check.contribution = action->contribution;
    intake_post(server->intake, &message);
}

static void do_drop(struct server *server, const struct coordinator_action *action) {
    struct call *call = call_find(server, action->call);
    if (!call) return;
    intake_post(server->intake, &(struct intake_message){.kind = INTAKE_CLOSE, .call = call});
    rpc_call_finish(call->rpc, RPC_ABORTED, "the site submits over a newer call");
    call_release(call);
}

/* A site that is sent away for now asks again; one that is cut for good must not. */
static void do_end(struct server *server, const struct coordinator_action *action) {
    struct call *call = call_find(server, action->call);
    if (!call) return;
    rpc_call_finish(call->rpc, action->code == REFUSED_COPY ? RPC_PERMISSION_DENIED : RPC_UNAVAILABLE, action->message);
    call_release(call);
}

static const struct run_pending *pending_of(const struct run_state *run, uint32_t fragment, uint64_t index) {
    uint32_t count = run_state_pending_count(run, fragment);
    for (uint32_t at = 0; at < count; at++) {
        const struct run_pending *pending = run_state_pending(run, fragment, at);
        if (pending->index == index) return pending;
    }
    return NULL;
}

/* What the model's thread must know of the contributions is copied while the run state still has them pending. */
static void do_apply(struct server *server, const struct ledger_entry *entry) {
    const struct run_state *run = coordinator_state_run(server->state);
    struct model_message message = {.kind = MODEL_APPLY};
    message.apply.fragment = entry->step.fragment;
    message.apply.version = entry->step.version;
    message.apply.count = entry->step.count;
    message.apply.parts = xcalloc(entry->step.count, sizeof *message.apply.parts);
    for (uint16_t i = 0; i < entry->step.count; i++) {
        const struct run_pending *pending = pending_of(run, entry->step.fragment, entry->step.parts[i].index);
        ASSERT(pending);
        message.apply.parts[i] = (struct model_part){
            .index = pending->index, .contribution = pending->contribution, .scale = entry->step.parts[i].scale};
    }
    model_thread_post(server->model_thread, &message); /* takes the parts */
}

static void do_snapshot(struct server *server, const struct coordinator_action *action) {
    struct model_message message = {.kind = MODEL_SNAPSHOT};
    message.snapshot.version = action->version;
    message.snapshot.ledger_size = action->size;
    message.snapshot.payloads_from = action->first_index;
    message.snapshot.epoch = run_state_epoch(coordinator_state_run(server->state));
    model_thread_post(server->model_thread, &message);
}

static void perform(struct server *server, const struct coordinator_action *action) {
    switch (action->kind) {
    case DO_ADMIT: do_admit(server, action); break;
    case DO_REFUSE: do_refuse(server, action); break;
    case DO_RECEIPT: do_receipt(server, action); break;
    case DO_DROP: do_drop(server, action); break;
    case DO_CHECK: do_check(server, action); break;
    case DO_COMMIT: ledger_add(server, action); break;
    case DO_PUBLISH: do_publish(server, action->size); break;
    case DO_APPLY: do_apply(server, &action->step); break;
    case DO_CATCH_UP: model_thread_post(server->model_thread, &(struct model_message){.kind = MODEL_CATCH_UP}); break;
    case DO_SNAPSHOT: do_snapshot(server, action); break;
    case DO_JOINED: do_joined(server, action); break;
    case DO_HEARTBEAT_REPLY: do_heartbeat_reply(server, action); break;
    case DO_ADMIN_REPLY: admin_done(server, action); break;
    case DO_END: do_end(server, action); break;
    case DO_COPY:
        log_error("site_runs_twice", "site=%u copies=%u message=\"%s\"", action->site, action->copies, action->message);
        break;
    case DO_CUT: calls_cut(server, action->site, action->message); break;
    case DO_TIMER: server->timer_ms = action->at_ms; break;
    case DO_STOP:
        if (!atomic_load(&server->stopping)) server->halted = action->halt;
        server_break(server, "%s", action->message);
        break;
    }
}

static void tell_entry(struct server *server, const struct coordinator_action *action) {
    struct reader reader = reader_of(buffer_bytes(&action->bytes));
    struct ledger_entry entry;
    struct contribution contribution;
    if (ledger_entry_decode(reader_take(&reader, reader_u32(&reader)), &entry, NULL) != OK) return;
    if (entry.kind == LEDGER_STEP) {
        log_info("outer_step", "version=%llu fragment=%u contributions=%u", (unsigned long long)entry.step.version,
                 entry.step.fragment, entry.step.count);
    } else if (entry.kind == LEDGER_CONTRIBUTION) {
        if (contribution_decode(bytes_of(entry.contribution.header, CONTRIBUTION_HEADER_SIZE), &contribution, NULL) != OK) return;
        struct intake_message message = {.kind = INTAKE_KEEP};
        memcpy(message.keep.digest, contribution.payload_digest, DIGEST_SIZE);
        intake_post(server->intake, &message);
        log_info("contribution_accepted", "site=%u sequence=%llu fragment=%u base=%llu loss=%.4f size=%llu", contribution.site,
                 (unsigned long long)contribution.sequence, contribution.fragment, (unsigned long long)contribution.base_version,
                 (double)contribution.loss, (unsigned long long)contribution.payload_size);
    } else {
        if (entry.kind == LEDGER_DROPPED || entry.kind == LEDGER_SITE_REVOKED)
            publisher_drop(server->publisher, coordinator_state_run(server->state));
        if (entry.kind == LEDGER_DROPPED)
            log_error("contribution_dropped", "entry=%llu reason=\"%s\" do=\"nothing: its site keeps the mass\"",
                      (unsigned long long)entry.dropped.index, entry.dropped.reason);
        log_info("ledger_entry", "kind=%s index=%llu", ledger_kind_name(entry.kind), (unsigned long long)action->first_index);
    }
}

static void perform_all(struct server *server, struct coordinator_actions *actions) {
    for (size_t i = 0; i < actions->count; i++) {
        if (actions->items[i].kind == DO_COMMIT) tell_entry(server, &actions->items[i]);
        perform(server, &actions->items[i]);
    }
    coordinator_actions_clear(actions);
}

/* ---- what it is given ------------------------------------------------------------------------------------------------------ */

static void take_report(struct server *server, const struct brain_item *item) {
    uint32_t site = item->event.heartbeat.site;
    if (site == 0 || site > SITES_LIMIT) return;
    struct site_report *report = &server->reports[site];
    report->heard = true;
    report->last = item->report;
    memcpy(report->device, item->device, sizeof report->device);
    memcpy(report->software, item->software, sizeof report->software);
}

/* An invitation's secret is made here, by the only side that knows randomness; the brain and the ledger see its digest. It waits
 * in the call until the entry is durable. */
static void make_secret(struct brain_item *item) {
    uint8_t secret[SECRET_SIZE];
    random_system(secret, sizeof secret);
    digest_sha256(secret, sizeof secret, item->event.admin.secret_digest);
    buffer_append(&item->call->secret, secret, sizeof secret);
    clear(secret, sizeof secret);
}

static void step(struct server *server, const struct coordinator_event *event, struct coordinator_actions *actions) {
    coordinator_state_step(server->state, event, clock_instant(), actions);
    perform_all(server, actions);
}

static void take_durable(struct server *server, const struct brain_item *item, struct coordinator_actions *actions) {
    struct coordinator_event event = {.kind = COORDINATOR_COMMITTED};
    event.committed.commit = ledger_taken(server, item->status, item->message);
    event.committed.status = item->status;
    if (event.committed.commit == 0) return; /* the disk is full: it is tried again */
    if (item->status != OK) log_error("commit_failed", "reason=\"%s\"", item->message);
    step(server, &event, actions);
}

static void take_item(struct server *server, struct brain_item *item, struct coordinator_actions *actions) {
    if (item->kind == BRAIN_ADMIN_LOOK) {
        admin_look(server, item);
        return;
    }
    if (item->kind == BRAIN_DURABLE) {
        take_durable(server, item, actions);
        return;
    }
    if (item->event.kind == COORDINATOR_ADMIN && item->event.admin.order == ORDER_INVITE) make_secret(item);
    step(server, &item->event, actions);
    if (item->kind == BRAIN_REPORT &&
        coordinator_state_has_place(server->state, item->event.heartbeat.site, item->event.heartbeat.instance))
        take_report(server, item); /* a copy's figures are not the site's */
    if (item->kind == BRAIN_REPORT) waits_hear_clock(server);
}

/* What is due by now. */
static void take_time(struct server *server, struct coordinator_actions *actions) {
    uint64_t now = clock_monotonic_ms();
    if (server->timer_ms <= now) {
        server->timer_ms = UINT64_MAX;
        step(server, &(struct coordinator_event){.kind = COORDINATOR_TIMER}, actions);
    }
    if (ledger_retry_at(server) <= now) ledger_retry(server);
}

static uint64_t time_left(const struct server *server) {
    uint64_t now = clock_monotonic_ms(), at = MIN(server->timer_ms, ledger_retry_at(server));
    return at == UINT64_MAX ? UINT64_MAX : at > now ? at - now : 0;
}

/* A wake-up takes what is in the queue by then, and the entries that came of it go to the disk together. False: the end. */
static bool wake(struct server *server, void *popped, struct coordinator_actions *actions) {
    bool ended = false;
    enum status status = OK;
    for (int taken = 0; status == OK && !ended; taken++) {
        struct brain_item *item = popped;
        ended = item->kind == BRAIN_END;
        if (!ended) take_item(server, item, actions);
        brain_item_destroy(item);
        if (taken == WAKE_ITEMS) break; /* the clock is looked at now and then */
        status = queue_pop(server->brain_queue, 0, &popped);
    }
    return !ended && status != CANCELLED;
}

void brain_run(void *context) {
    struct server *server = context;
    struct coordinator_actions actions = {0};
    enum status status = OK;
    coordinator_state_start(server->state, clock_instant(), &actions);
    perform_all(server, &actions);
    do_publish(server, coordinator_state_committed(server->state));
    while (status != CANCELLED) {
        void *popped = NULL;
        ledger_flush(server);
        status = queue_pop(server->brain_queue, time_left(server), &popped);
        if (status == OK && !wake(server, popped, &actions)) break;
        take_time(server, &actions);
    }
    ledger_end(server);
    coordinator_actions_deinit(&actions);
}
