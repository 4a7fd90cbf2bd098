/* What the admin asks without changing anything, and the form of every answer. On the brain's thread. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "coordinator/server_internal.h"

static void send_reply(struct call *call, const struct admin_reply *reply) {
    struct buffer head = {0};
    struct error error = {0};
    if (admin_reply_encode(reply, &head, &error) == OK)
        call_answer(call, &head);
    else
        rpc_call_finish(call->rpc, RPC_INTERNAL, error.message);
}

static void describe_run(struct server *server, struct run_status *out) {
    const struct run_state *run = coordinator_state_run(server->state);
    memset(out, 0, sizeof *out);
    out->waits = waits_sentence(server, &out->clock_ahead_ms);
    memcpy(out->run_id, server->run_id, RUN_ID_SIZE);
    out->name = server->manifest.name;
    out->phase = run_state_phase(run);
    out->reason = run_state_reason(run);
    out->version = run_state_version(run);
    out->ledger_size = coordinator_state_committed(server->state);
    out->tokens = run_state_tokens(run);
    out->token_budget = server->manifest.token_budget;
    out->epoch = run_state_epoch(run);
    out->inner_steps = run_state_inner_steps(run);
    out->parameters = server->parameters;
    run_state_root(run, &out->root_version, out->root);
    for (uint32_t fragment = 0; fragment < server->manifest.fragments; fragment++) {
        out->pending += run_state_pending_count(run, fragment);
    }
    for (int code = 1; code < REFUSAL_COUNT; code++) {
        out->refused[code < WIRE_CODES ? code : 0] += coordinator_state_refused(server->state, (enum refusal)code);
    }
    for (uint32_t site = 1; site <= run_state_site_count(run); site++) {
        out->accepted += run_state_site(run, site)->contributions;
        uint64_t ago;
        out->sites_connected += coordinator_state_connected(server->state, site, clock_instant());
        out->sites_twice += coordinator_state_copies(server->state, site, clock_instant(), &ago) > 0;
    }
    out->sites_active = run_state_active_sites(run);
    out->uptime_ms = clock_monotonic_ms() - server->started_ms;
    out->bytes_in = atomic_load(&server->bytes_in);
    out->bytes_out = atomic_load(&server->bytes_out);
}

static void describe_site(struct server *server, const struct run_site *site, struct site_status *out) {
    const struct site_report *report = &server->reports[site->site];
    const struct heartbeat_request *last = &report->last;
    *out = (struct site_status){.site = site->site,
                                .name = site->name,
                                .revoked = site->revoked,
                                .connected = coordinator_state_connected(server->state, site->site, clock_instant()),
                                .inner_steps = coordinator_state_inner_steps(server->state, site->site, clock_instant()),
                                .tokens = site->tokens,
                                .contributions = site->contributions,
                                .loss = NAN,
                                .last_seen_ms_ago = coordinator_state_silence(server->state, site->site, clock_instant()),
                                .device = report->device,
                                .software = report->software};
    out->copies = coordinator_state_copies(server->state, site->site, clock_instant(), &out->copy_ms_ago);
    if (!report->heard) return;
    out->version = last->version;
    out->staleness = last->staleness;
    out->loss = last->loss;
    if (out->connected) out->tokens_per_second = last->tokens_per_second; /* else nobody knows, and 0 is the better guess */
    out->refused = last->refused;
    out->bytes_up = last->bytes_up;
    out->bytes_down = last->bytes_down;
    out->compute_ms = last->compute_ms;
    memcpy(out->lost_ms, last->lost_ms, sizeof out->lost_ms);
}

static void answer_sites(struct server *server, struct call *call, uint32_t first) {
    const struct run_state *run = coordinator_state_run(server->state);
    struct site_status *sites = xcalloc(WIRE_SITES_LIMIT, sizeof *sites);
    struct admin_reply reply = {.has_run = true, .sites = sites};
    describe_run(server, &reply.run);
    uint32_t site = MAX(first, 1);
    for (; site <= run_state_site_count(run) && reply.site_count < WIRE_SITES_LIMIT; site++) {
        describe_site(server, run_state_site(run, site), &sites[reply.site_count++]);
    }
    if (site <= run_state_site_count(run)) reply.next_site = site;
    send_reply(call, &reply);
    free(sites);
}

static void answer_status(struct server *server, struct call *call) {
    struct admin_reply reply = {.has_run = true};
    uint8_t head[HEAD_SIZE];
    describe_run(server, &reply.run);
    coordinator_state_head(server->state, head);
    reply.head = bytes_of(head, sizeof head);
    send_reply(call, &reply);
}

void admin_refuse(struct call *call, uint32_t code, const char *message) {
    send_reply(call, &(struct admin_reply){.code = code, .message = message});
}

/* The brain carried an order out, or said why not. An invitation's secret waited in the call for this. */
void admin_done(struct server *server, const struct coordinator_action *action) {
    static const uint32_t codes[] = {[ORDER_DONE] = ADMIN_OK,
                                     [ORDER_NO_SUCH_SITE] = ADMIN_NOT_FOUND,
                                     [ORDER_BAD_VALUE] = ADMIN_INVALID,
                                     [ORDER_CONFLICT] = ADMIN_CONFLICT,
                                     [ORDER_BUSY] = ADMIN_BUSY};
    struct call *call = call_find(server, action->call);
    if (!call) return;
    struct admin_reply reply = {.code = codes[action->outcome], .message = action->message};
    if (reply.code == ADMIN_OK) {
        reply.invitation_secret = buffer_bytes(&call->secret);
        reply.address = server->options.advertise;
        reply.value = action->version;
        reply.has_run = true;
        describe_run(server, &reply.run);
    }
    send_reply(call, &reply);
    clear(call->secret.data, call->secret.size);
    call->secret.size = 0;
    call_release(call);
}

void admin_look(struct server *server, const struct brain_item *item) {
    switch (item->admin.verb) {
    case ADMIN_STATUS: answer_status(server, item->call); break;
    case ADMIN_SITES: answer_sites(server, item->call, item->admin.first_site); break;
    default: admin_refuse(item->call, ADMIN_INVALID, "this coordinator does not know that verb"); break;
    }
}
