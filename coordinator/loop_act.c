/* What the state machine says is to be done: answers to calls, and messages to those who do the
 * work. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "coordinator/loop_internal.h"
#include "crypto/certificate.h"
#include "fed/invitation.h"

enum { CERTIFICATE_S = 5 * 31557600 };

static void send_submit_reply(struct loop *loop, uint64_t number,
                              const struct submit_reply *reply) {
    struct call *call = calls_find(loop->options.calls, number);
    if (!call) return;
    struct buffer head = {0};
    struct error error = {0};
    if (submit_reply_encode(reply, &head, &error) != OK)
        call_finish(call, RPC_INTERNAL, error.message);
    else
        call_answer(call, &head);
    call_release(call);
}

static void act_refuse(struct loop *loop, const struct coordinator_action *action) {
    struct submit_reply reply = {.kind = SUBMIT_REFUSAL};
    reply.refusal.code = action->code;
    reply.refusal.message = action->message;
    reply.refusal.retry_after_ms = action->retry_after_ms;
    reply.refusal.current_version = action->current_version;
    reply.refusal.receipt = buffer_bytes(&action->bytes);
    char quoted[256];
    struct call *call = calls_find(loop->options.calls, action->call);
    if (action->supply)
        log_info("payload_supplied", "site=%u message=%s", call ? call->site : 0,
                 log_quote(action->message, quoted, sizeof quoted));
    else
        log_info("contribution_refused", "site=%u code=%s reason=%s", call ? call->site : 0,
                 refusal_name(action->code), log_quote(action->message, quoted, sizeof quoted));
    call_release(call);
    send_submit_reply(loop, action->call, &reply);
}

static void act_receipt(struct loop *loop, const struct coordinator_action *action) {
    struct submit_reply reply = {.kind = SUBMIT_RECEIPT};
    reply.receipt = buffer_bytes(&action->bytes);
    send_submit_reply(loop, action->call, &reply);
}

void loop_publish(struct loop *loop, uint64_t size) {
    bool due = loop->head_size == 0 || size - loop->head_size >= loop->options.head_interval;
    uint8_t head[HEAD_SIZE];
    if (due) {
        loop->head_size = coordinator_state_committed(loop->state);
        coordinator_state_head(loop->state, head);
    }
    publisher_grow(loop->options.publisher, size, due ? head : NULL, loop->head_size);
}

static enum status issue(struct loop *loop, uint32_t site, const char *name, struct bytes request,
                         struct buffer *out, struct error *error) {
    struct identity identity = {.role = IDENTITY_SITE, .site = site};
    char uri[IDENTITY_URI_SIZE];
    memcpy(identity.run_id, loop->options.run_id, RUN_ID_SIZE);
    identity_write(&identity, uri);
    uint64_t now_s = MAX(clock_wall_ms() / 1000, CERTIFICATE_NOW_LEAST_S);
    struct certificate_terms terms = {.common_name = name,
                                      .uri = uri,
                                      .client = true,
                                      .not_before_s = CERTIFICATE_FROM_S,
                                      .not_after_s = now_s + CERTIFICATE_S};
    return certificate_issue(buffer_bytes(&loop->options.keys->authority_pem),
                             loop->options.keys->authority, request, &terms, CERTIFICATE_PEM, out,
                             error);
}

static enum join_code join_code_of(enum refusal code) {
    switch (code) {
    case ACCEPTED: return JOIN_OK;
    case REFUSED_EXPIRED: return JOIN_EXPIRED;
    case REFUSED_STOPPED: return JOIN_STOPPED;
    case REFUSED_BUSY: return JOIN_BUSY;
    case REFUSED_DUPLICATE: return JOIN_USED;
    case REFUSED_REVOKED: return JOIN_VOID;
    case REFUSED_MALFORMED: return JOIN_CSR;
    default: return JOIN_SECRET;
    }
}

/* A site is one whether or not the call that made it one is still there to be answered. */
static void enrol_new(struct loop *loop) {
    const struct run_state *run = coordinator_state_run(loop->state);
    for (; loop->sites < run_state_site_count(run); loop->sites++)
        calls_enrol(loop->options.calls, loop->sites + 1,
                    run_state_site(run, loop->sites + 1)->public_key);
}

static void act_joined(struct loop *loop, const struct coordinator_action *action) {
    struct call *call = calls_find(loop->options.calls, action->call);
    if (!call) return;
    struct join_reply reply = {.code = join_code_of(action->code),
                               .message = action->message,
                               .server_time_ms = clock_wall_ms()};
    struct buffer certificate = {0}, manifest = {0}, head = {0};
    struct error error = {0};
    enum status status = OK;
    if (action->code == ACCEPTED) {
        const struct run_site *site =
            /* NULL: only a look */
            action->site ? run_state_site(coordinator_state_run(loop->state), action->site) : NULL;
        if (site)
            status = issue(loop, action->site, site->name, buffer_bytes(&call->csr), &certificate,
                           &error);
        manifest_write(loop->options.manifest, &manifest);
        reply.protocol = call->protocol;
        memcpy(reply.run_id, loop->options.run_id, RUN_ID_SIZE);
        reply.site = action->site;
        reply.role = site ? site->role : action->role;
        reply.certificate_pem = buffer_bytes(&certificate);
        reply.ca_pem = buffer_bytes(&loop->options.keys->authority_pem);
        memcpy(reply.coordinator_key, key_pair_public(loop->options.keys->coordinator),
               PUBLIC_KEY_SIZE);
        reply.manifest = buffer_bytes(&manifest);
        reply.layout = loop->options.layout;
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
        call_finish(call, RPC_INTERNAL, error.message);
    buffer_deinit(&certificate);
    buffer_deinit(&manifest);
    call_release(call);
}

static void act_heartbeat_reply(struct loop *loop, const struct coordinator_action *action) {
    struct call *call = calls_find(loop->options.calls, action->call);
    if (!call) return;
    const struct run_state *run = coordinator_state_run(loop->state);
    struct heartbeat_reply reply = {.inner_steps = action->inner_steps,
                                    .epoch = run_state_epoch(run),
                                    .version = run_state_version(run),
                                    .phase = run_state_phase(run),
                                    .server_time_ms = clock_wall_ms(),
                                    .sites_present = action->sites_present,
                                    .has_left = action->has_left,
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
        call_finish(call, RPC_INTERNAL, error.message);
    call_release(call);
}

static void act_admit(struct loop *loop, const struct coordinator_action *action) {
    struct call *call = calls_find(loop->options.calls, action->call);
    if (!call) return;
    struct intake_message message = {.kind = INTAKE_ADMIT, .call = call};
    message.admit.contribution = action->contribution;
    message.admit.supply = action->supply;
    intake_post(loop->options.intake, &message);
    call_release(call);
}

static void act_check(struct loop *loop, const struct coordinator_action *action) {
    struct intake_message message = {.kind = INTAKE_CHECK};
    message.check.number = action->call;
    message.check.contribution = action->contribution;
    intake_post(loop->options.intake, &message);
}

static void keep_named(struct loop *loop, const struct contribution *contribution) {
    struct intake_message message = {.kind = INTAKE_KEEP};
    memcpy(message.keep.digest, contribution->payload_digest, DIGEST_SIZE);
    intake_post(loop->options.intake, &message);
}

static void act_drop(struct loop *loop, const struct coordinator_action *action) {
    struct call *call = calls_find(loop->options.calls, action->call);
    if (!call) return;
    /* Ended first: else the intake may find a chunk of a call that it has closed, and blame it. */
    call_finish(call, RPC_ABORTED, "the site submits over a newer call");
    intake_post(loop->options.intake, &(struct intake_message){.kind = INTAKE_CLOSE, .call = call});
    call_release(call);
}

/* A site that is sent away for now asks again; one that is cut for good must not. */
static void act_end(struct loop *loop, const struct coordinator_action *action) {
    struct call *call = calls_find(loop->options.calls, action->call);
    if (!call) return;
    bool again = refusal_is_temporary(action->code);
    call_finish(call, again ? RPC_UNAVAILABLE : RPC_PERMISSION_DENIED, action->message);
    call_release(call);
}

static void act_apply(struct loop *loop, const struct ledger_entry *entry) {
    struct model_message message = {.kind = MODEL_APPLY};
    message.apply = model_step_of(coordinator_state_run(loop->state), entry);
    model_thread_post(loop->options.model_thread, &message); /* takes the parts */
}

static void act_snapshot(struct loop *loop, const struct coordinator_action *action) {
    struct model_message message = {.kind = MODEL_SNAPSHOT};
    message.snapshot.version = action->version;
    message.snapshot.ledger_size = action->size;
    message.snapshot.payloads_from = action->first_index;
    message.snapshot.epoch = run_state_epoch(coordinator_state_run(loop->state));
    message.snapshot.if_none = action->if_none;
    model_thread_post(loop->options.model_thread, &message);
}

static void act(struct loop *loop, const struct coordinator_action *action) {
    switch (action->kind) {
    case DO_ADMIT: act_admit(loop, action); break;
    case DO_REFUSE: act_refuse(loop, action); break;
    case DO_RECEIPT: act_receipt(loop, action); break;
    case DO_DROP: act_drop(loop, action); break;
    case DO_CHECK: act_check(loop, action); break;
    case DO_KEEP: keep_named(loop, &action->contribution); break;
    case DO_COMMIT:
        ledger_queue_add(loop->options.ledger, action->commit, action->first_index,
                         buffer_bytes(&action->bytes));
        break;
    case DO_PUBLISH:
        enrol_new(loop);
        loop_publish(loop, action->size);
        break;
    case DO_APPLY: act_apply(loop, &action->step); break;
    case DO_CATCH_UP:
        model_thread_post(loop->options.model_thread,
                          &(struct model_message){.kind = MODEL_CATCH_UP});
        break;
    case DO_SNAPSHOT: act_snapshot(loop, action); break;
    case DO_JOINED: act_joined(loop, action); break;
    case DO_HEARTBEAT_REPLY: act_heartbeat_reply(loop, action); break;
    case DO_ADMIN_REPLY: loop_order_done(loop, action); break;
    case DO_END: act_end(loop, action); break;
    case DO_COPY:
        log_error("site_runs_twice", "site=%u copies=%u message=\"%s\"", action->site,
                  action->copies, action->message);
        break;
    case DO_CUT: calls_cut(loop->options.calls, action->site, action->message); break;
    case DO_TIMER: loop->timer_ms = action->at_ms; break;
    case DO_STOP: loop->options.stop(loop->options.context, action->halt, action->message); break;
    }
}

static void log_entry(struct loop *loop, const struct coordinator_action *action) {
    struct reader reader = reader_of(buffer_bytes(&action->bytes));
    struct ledger_entry entry;
    struct contribution contribution;
    if (ledger_entry_decode(reader_take(&reader, reader_u32(&reader)), &entry, NULL) != OK) return;
    if (entry.kind == LEDGER_STEP) {
        log_info("outer_step", "version=%llu fragment=%u contributions=%u",
                 (unsigned long long)entry.step.version, entry.step.fragment, entry.step.count);
    } else if (entry.kind == LEDGER_CONTRIBUTION) {
        if (contribution_decode(bytes_of(entry.contribution.header, CONTRIBUTION_HEADER_SIZE),
                                &contribution, NULL) != OK)
            return;
        keep_named(loop, &contribution);
        log_info("contribution_accepted",
                 "site=%u sequence=%llu fragment=%u base=%llu loss=%.4f size=%llu",
                 contribution.site, (unsigned long long)contribution.sequence,
                 contribution.fragment, (unsigned long long)contribution.base_version,
                 (double)contribution.loss, (unsigned long long)contribution.payload_size);
    } else {
        if (entry.kind == LEDGER_DROPPED || entry.kind == LEDGER_SITE_REVOKED)
            publisher_drop(loop->options.publisher, coordinator_state_run(loop->state));
        if (entry.kind == LEDGER_DROPPED)
            log_error("contribution_dropped",
                      "entry=%llu reason=\"%s\" do=\"nothing: its site keeps the mass\"",
                      (unsigned long long)entry.dropped.index, entry.dropped.reason);
        log_info("ledger_entry", "kind=%s index=%llu", ledger_kind_name(entry.kind),
                 (unsigned long long)action->first_index);
    }
}

void loop_act_all(struct loop *loop, struct coordinator_actions *actions) {
    for (size_t i = 0; i < actions->count; i++) {
        if (actions->items[i].kind == DO_COMMIT) log_entry(loop, &actions->items[i]);
        act(loop, &actions->items[i]);
    }
    coordinator_actions_clear(actions);
}
