/* The rpc threads' side: who calls, what they say in the first place, and the registry of open calls.
 *
 * Nothing here waits for disk or brain. A call's identity comes from its certificate alone; whether that site is still welcome
 * is in the `revoked` bits, which the brain sets before it cuts a site's calls, so no call slips in between.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "coordinator/server_internal.h"
#include "crypto/certificate.h"
#include "crypto/digest.h"
#include "fed/invitation.h"

/* ---- the registry ------------------------------------------------------------------------------------------------------- */

static struct call *open_call(struct server *server, enum service_method method, struct rpc_call *rpc) {
    struct call *call = xcalloc(1, sizeof *call);
    atomic_init(&call->references, 1);
    call->server = server;
    call->bytes_out = &server->bytes_out;
    call->method = method;
    call->rpc = rpc_call_retain(rpc);
    pthread_mutex_lock(&server->calls_lock);
    call->number = ++server->next_call;
    if (server->call_count == server->call_capacity) {
        server->call_capacity = server->call_capacity ? server->call_capacity * 2 : 64;
        server->calls = xrealloc(server->calls, server->call_capacity * sizeof(struct call *));
    }
    server->calls[server->call_count++] = call;
    pthread_mutex_unlock(&server->calls_lock);
    return call;
}

static void call_forget(struct call *call) {
    struct server *server = call->server;
    pthread_mutex_lock(&server->calls_lock);
    for (size_t i = 0; i < server->call_count; i++) {
        if (server->calls[i] != call) continue;
        server->calls[i] = server->calls[--server->call_count];
        break;
    }
    pthread_mutex_unlock(&server->calls_lock);
    call_release(call);
}

struct call *call_find(struct server *server, uint64_t number) {
    struct call *found = NULL;
    pthread_mutex_lock(&server->calls_lock);
    for (size_t i = 0; i < server->call_count && !found; i++) {
        if (server->calls[i]->number == number) found = call_retain(server->calls[i]);
    }
    pthread_mutex_unlock(&server->calls_lock);
    return found;
}

void calls_cut(struct server *server, uint32_t site, const char *reason) {
    char message[64 + REASON_SIZE];
    snprintf(message, sizeof message, "this site was revoked%s%s", *reason ? ": " : "", reason);
    pthread_mutex_lock(&server->calls_lock);
    server->revoked[site / 8] |= (uint8_t)(1u << site % 8);
    for (size_t i = 0; i < server->call_count; i++) {
        struct call *call = server->calls[i];
        /* a Submit is being answered with its refusal, which says more than a cut */
        if (call->site == site && call->method != METHOD_SUBMIT) rpc_call_finish(call->rpc, RPC_PERMISSION_DENIED, message);
    }
    pthread_mutex_unlock(&server->calls_lock);
}

static bool is_revoked(struct server *server, uint32_t site) {
    pthread_mutex_lock(&server->calls_lock);
    bool revoked = site > SITES_LIMIT || (server->revoked[site / 8] >> site % 8 & 1);
    pthread_mutex_unlock(&server->calls_lock);
    return revoked;
}

/* ---- opening ------------------------------------------------------------------------------------------------------------ */

/* Who the certificate says it is. False, with the call ended, for somebody who has no business here. */
static bool identify(struct call *call) {
    const struct rpc_peer *peer = rpc_call_peer(call->rpc);
    if (call->method == METHOD_JOIN) return true;
    struct identity identity;
    struct error error = {0};
    if (!peer->authenticated) {
        rpc_call_finish(call->rpc, RPC_UNAUTHENTICATED, "this method needs the certificate that joining the run gave you");
        return false;
    }
    if (identity_parse(peer->uri, &identity, &error) != OK) {
        rpc_call_finish(call->rpc, RPC_PERMISSION_DENIED, error.message);
        return false;
    }
    if (memcmp(identity.run_id, call->server->run_id, RUN_ID_SIZE) != 0) {
        rpc_call_finish(call->rpc, RPC_PERMISSION_DENIED, "the certificate is for another run");
        return false;
    }
    bool wants_admin = call->method == METHOD_ADMIN;
    if ((identity.role == IDENTITY_ADMIN) != wants_admin) {
        rpc_call_finish(call->rpc, RPC_PERMISSION_DENIED,
                        wants_admin ? "only an admin's certificate may do that" : "only a site's certificate may do that");
        return false;
    }
    call->site = wants_admin ? 0 : identity.site;
    if (!wants_admin && is_revoked(call->server, call->site)) {
        rpc_call_finish(call->rpc, RPC_PERMISSION_DENIED, "this site was revoked");
        return false;
    }
    return true;
}

static void open_method(struct rpc_call *rpc, void *user, enum service_method method) {
    struct server *server = user;
    struct call *call = open_call(server, method, rpc);
    rpc_call_set_user(rpc, call);
    if (!identify(call)) return;
    if (method == METHOD_SUBMIT) rpc_call_read(rpc);
}

static void open_join(struct rpc_call *rpc, void *user) { open_method(rpc, user, METHOD_JOIN); }
static void open_submit(struct rpc_call *rpc, void *user) { open_method(rpc, user, METHOD_SUBMIT); }
static void open_follow(struct rpc_call *rpc, void *user) { open_method(rpc, user, METHOD_FOLLOW); }
static void open_snapshot(struct rpc_call *rpc, void *user) { open_method(rpc, user, METHOD_SNAPSHOT); }
static void open_heartbeat(struct rpc_call *rpc, void *user) { open_method(rpc, user, METHOD_HEARTBEAT); }
static void open_admin(struct rpc_call *rpc, void *user) { open_method(rpc, user, METHOD_ADMIN); }

static void on_closed(struct rpc_call *rpc, void *user, const struct rpc_outcome *outcome) {
    struct call *call = user;
    (void)rpc, (void)outcome;
    atomic_store(&call->closed, true);
    struct server *server = call->server;
    if (call->method == METHOD_SUBMIT) {
        /* before the brain can let a newer call have the same upload */
        intake_post(server->intake, &(struct intake_message){.kind = INTAKE_CLOSE, .call = call});
        brain_tell_event(server, &(struct coordinator_event){.kind = COORDINATOR_CALL_GONE, .call = call->number});
    } else if (call->method == METHOD_FOLLOW || call->method == METHOD_SNAPSHOT) {
        publisher_post(server->publisher, &(struct publisher_message){.kind = PUBLISHER_CLOSED, .call = call});
    }
    call_forget(call);
}

/* ---- messages ----------------------------------------------------------------------------------------------------------- */

static bool split(struct call *call, const struct buffer *message, struct frame *frame) {
    struct error error = {0};
    atomic_fetch_add(&call->server->bytes_in, message->size + FRAME_OVERHEAD);
    if (frame_split(buffer_bytes(message), frame, &error) == OK) return true;
    rpc_call_finish(call->rpc, RPC_INVALID_ARGUMENT, error.message);
    return false;
}

/* Decoded messages live in an arena on this thread for as long as the callback runs. */
static struct arena *begin_decode(void) {
    struct arena *arena = xcalloc(1, sizeof *arena);
    arena_create(arena, ARENA_SIZE);
    return arena;
}

static void end_decode(struct arena *arena) {
    arena_deinit(arena);
    free(arena);
}

static void refuse_bytes(struct call *call, const struct error *error) {
    rpc_call_finish(call->rpc, RPC_INVALID_ARGUMENT, error->message);
}

/* False, with the call ended, for a peer of another age. */
static bool speaks(struct call *call, uint32_t protocol) {
    if (protocol >= WIRE_PROTOCOL_OLDEST && protocol <= WIRE_PROTOCOL_NEWEST) return true;
    rpc_call_finish(call->rpc, RPC_INVALID_ARGUMENT,
                    "this coordinator does not speak that protocol version: update the older side");
    return false;
}

static void submit_opened(struct call *call, const struct submit_frame *frame) {
    struct brain_item *item = brain_item_create(BRAIN_EVENT, NULL);
    item->event.kind = COORDINATOR_SUBMIT_OPEN;
    item->event.call = call->number;
    item->event.submit.site = call->site;
    item->event.submit.waits = frame->open.waits;
    item->event.submit.instance = frame->open.instance;
    item->event.submit.supply = frame->open.supply;
    memcpy(item->event.submit.header, frame->open.header, CONTRIBUTION_HEADER_SIZE);
    memcpy(item->event.submit.signature, frame->open.signature, SIGNATURE_SIZE);
    brain_push(call->server, item);
}

static void submit_message(struct rpc_call *rpc, void *user, struct buffer *message) {
    struct call *call = user;
    struct frame split_frame;
    struct submit_frame frame;
    struct error error = {0};
    if (!split(call, message, &split_frame)) return;
    struct arena *arena = begin_decode();
    if (submit_frame_decode(split_frame, arena, &frame, &error) != OK) {
        refuse_bytes(call, &error);
    } else if ((frame.kind == SUBMIT_OPEN) == call->submits) {
        rpc_call_finish(rpc, RPC_INVALID_ARGUMENT, call->submits ? "a second header on one stream" : "a chunk before the header");
    } else if (frame.kind == SUBMIT_OPEN) {
        if (speaks(call, frame.open.protocol)) {
            call->submits = true;
            submit_opened(call, &frame);
        }
    } else {
        struct intake_message chunk = {.kind = INTAKE_CHUNK, .call = call};
        chunk.chunk.offset = frame.chunk.offset;
        chunk.chunk.message = *message; /* taken */
        chunk.chunk.head_size = message->size - frame.payload.size;
        *message = (struct buffer){0};
        intake_post(call->server->intake, &chunk);
    }
    end_decode(arena);
}

static void submit_half_closed(struct rpc_call *rpc, void *user) {
    struct call *call = user;
    if (call->submits)
        intake_post(call->server->intake, &(struct intake_message){.kind = INTAKE_HALF_CLOSE, .call = call});
    else
        rpc_call_finish(rpc, RPC_INVALID_ARGUMENT, "the header is missing");
}

static void follow_message(struct rpc_call *rpc, void *user, struct buffer *message) {
    struct call *call = user;
    struct frame frame;
    struct follow_request request;
    struct error error = {0};
    (void)rpc;
    if (!split(call, message, &frame)) return;
    struct arena *arena = begin_decode();
    if (follow_request_decode(frame, arena, &request, &error) != OK)
        refuse_bytes(call, &error);
    else if (speaks(call, request.protocol))
        publisher_post(call->server->publisher,
                       &(struct publisher_message){.kind = PUBLISHER_FOLLOW, .call = call, .follow = request});
    end_decode(arena);
}

static void snapshot_message(struct rpc_call *rpc, void *user, struct buffer *message) {
    struct call *call = user;
    struct frame frame;
    struct snapshot_request request;
    struct error error = {0};
    (void)rpc;
    if (!split(call, message, &frame)) return;
    struct arena *arena = begin_decode();
    if (snapshot_request_decode(frame, arena, &request, &error) != OK)
        refuse_bytes(call, &error);
    else if (speaks(call, request.protocol))
        publisher_post(call->server->publisher,
                       &(struct publisher_message){.kind = PUBLISHER_SNAPSHOT, .call = call, .snapshot = request});
    end_decode(arena);
}

static void stream_writable(struct rpc_call *rpc, void *user) {
    struct call *call = user;
    (void)rpc;
    publisher_post(call->server->publisher, &(struct publisher_message){.kind = PUBLISHER_WRITABLE, .call = call});
}

static void heartbeat_message(struct rpc_call *rpc, void *user, struct buffer *message) {
    struct call *call = user;
    struct frame frame;
    struct heartbeat_request request;
    struct error error = {0};
    (void)rpc;
    if (!split(call, message, &frame)) return;
    struct arena *arena = begin_decode();
    if (heartbeat_request_decode(frame, arena, &request, &error) != OK) {
        refuse_bytes(call, &error);
    } else if (speaks(call, request.protocol)) {
        struct brain_item *item = brain_item_create(BRAIN_REPORT, call);
        item->report = request;
        strncpy(item->device, request.device, WIRE_DEVICE_LIMIT);
        strncpy(item->software, request.software, WIRE_SOFTWARE_LIMIT);
        item->report.device = item->report.software = NULL;
        item->event.kind = COORDINATOR_HEARTBEAT;
        item->event.call = call->number;
        item->event.heartbeat.site = call->site;
        item->event.heartbeat.instance = request.instance;
        item->event.heartbeat.turn = request.turn;
        item->event.heartbeat.time_ms = request.time_ms;
        brain_push(call->server, item);
    }
    end_decode(arena);
}

static void refuse_join(struct call *call, enum join_code code, const char *message) {
    struct join_reply reply = {.code = code, .message = message};
    struct buffer head = {0};
    struct error error = {0};
    if (join_reply_encode(&reply, &head, &error) == OK)
        call_answer(call, &head);
    else
        rpc_call_finish(call->rpc, RPC_INTERNAL, error.message);
}

static void join_request(struct call *call, const struct join_request *request) {
    struct error error = {0};
    struct brain_item *item = brain_item_create(BRAIN_EVENT, NULL);
    item->event.kind = COORDINATOR_JOIN;
    item->event.call = call->number;
    call->protocol = protocol_negotiate(request->protocol_min, request->protocol_max);
    if (call->protocol == 0) {
        refuse_join(call, JOIN_PROTOCOL, "no protocol version in common: update the older side");
    } else if (certificate_request_key(request->csr_der, item->event.join.public_key, &error) != OK) {
        refuse_join(call, JOIN_CSR, error.message);
    } else if (strlen(request->site_name) >= SITE_NAME_SIZE || name_check(request->site_name, &error) != OK) {
        refuse_join(call, JOIN_NAME, "a site's name is 1 to 32 of a-z, 0-9 and '-', a letter first");
    } else {
        memcpy(item->event.join.name, request->site_name, strlen(request->site_name) + 1);
        item->event.join.look = request->look;
        digest_sha256(request->invitation_secret.data, request->invitation_secret.size, item->event.join.secret_digest);
        buffer_append(&call->csr, request->csr_der.data, request->csr_der.size);
        brain_push(call->server, item);
        return;
    }
    free(item);
}

static void join_message(struct rpc_call *rpc, void *user, struct buffer *message) {
    struct call *call = user;
    struct frame frame;
    struct join_request request;
    struct error error = {0};
    (void)rpc;
    if (!split(call, message, &frame)) return;
    struct arena *arena = begin_decode();
    if (join_request_decode(frame, arena, &request, &error) != OK)
        refuse_bytes(call, &error);
    else
        join_request(call, &request);
    clear(message->data, message->size); /* the secret */
    end_decode(arena);
}

/* The order as the brain takes it; false for the verbs that only look. */
static bool admin_order(const struct admin_request *request, struct coordinator_event *event) {
    static const enum admin_order orders[ADMIN_VERB_COUNT] = {
        [ADMIN_PAUSE] = ORDER_PAUSE,      [ADMIN_RESUME] = ORDER_RESUME, [ADMIN_STOP] = ORDER_STOP,
        [ADMIN_INVITE] = ORDER_INVITE,    [ADMIN_REVOKE] = ORDER_REVOKE, [ADMIN_SET_INNER_STEPS] = ORDER_INNER_STEPS,
        [ADMIN_SNAPSHOT] = ORDER_SNAPSHOT};
    if (!orders[request->verb]) return false;
    event->kind = COORDINATOR_ADMIN;
    event->admin.order = orders[request->verb];
    strncpy(event->admin.name, request->site_name, SITE_NAME_SIZE - 1);
    strncpy(event->admin.reason, request->reason, REASON_SIZE - 1);
    event->admin.expires_ms = request->expires_ms;
    event->admin.inner_steps = request->value > UINT32_MAX ? 0 : (uint32_t)request->value;
    return true;
}

/* The admin's clock says when an invitation ends and ours whether it has. False, with the call answered, where it would have ended
 * before anybody can use it. */
static bool invites_for_later(struct call *call, const struct admin_request *request) {
    uint64_t now = clock_wall_ms();
    char message[192];
    if (request->verb != ADMIN_INVITE || request->expires_ms == 0 || now < request->expires_ms) return true;
    snprintf(message, sizeof message,
             "the invitation would have expired %llu s ago by the coordinator's clock: set the clock that is wrong (NTP), the "
             "coordinator's or this machine's, or invite with a longer --expires",
             (unsigned long long)(now - request->expires_ms) / 1000);
    admin_refuse(call, ADMIN_INVALID, message);
    return false;
}

static void admin_message(struct rpc_call *rpc, void *user, struct buffer *message) {
    struct call *call = user;
    struct frame frame;
    struct admin_request request;
    struct error error = {0};
    (void)rpc;
    if (!split(call, message, &frame)) return;
    struct arena *arena = begin_decode();
    if (admin_request_decode(frame, arena, &request, &error) != OK) {
        refuse_bytes(call, &error);
    } else if (speaks(call, request.protocol) && invites_for_later(call, &request)) {
        struct brain_item *item = brain_item_create(BRAIN_ADMIN_LOOK, call);
        if (admin_order(&request, &item->event)) item->kind = BRAIN_EVENT;
        item->event.call = call->number;
        item->admin = request;
        item->admin.site_name = item->admin.reason = NULL; /* lived in the arena */
        brain_push(call->server, item);
    }
    end_decode(arena);
}

void server_methods(struct server *server, struct rpc_server_method methods[static METHOD_COUNT]) {
    static const struct rpc_handler handlers[METHOD_COUNT] = {
        [METHOD_JOIN] = {.on_open = open_join, .on_message = join_message, .on_closed = on_closed},
        [METHOD_SUBMIT] = {.on_open = open_submit,
                           .on_message = submit_message,
                           .on_half_close = submit_half_closed,
                           .on_closed = on_closed},
        [METHOD_FOLLOW] = {.on_open = open_follow,
                           .on_message = follow_message,
                           .on_writable = stream_writable,
                           .on_closed = on_closed},
        [METHOD_SNAPSHOT] = {.on_open = open_snapshot,
                             .on_message = snapshot_message,
                             .on_writable = stream_writable,
                             .on_closed = on_closed},
        [METHOD_HEARTBEAT] = {.on_open = open_heartbeat, .on_message = heartbeat_message, .on_closed = on_closed},
        [METHOD_ADMIN] = {.on_open = open_admin, .on_message = admin_message, .on_closed = on_closed}};
    for (int method = 0; method < METHOD_COUNT; method++) {
        enum service_method which = (enum service_method)method;
        methods[method] = (struct rpc_server_method){
            .method = {service_path(which), service_client_streams(which), service_server_streams(which)},
            .handler = &handlers[method],
            .user = server,
            .progress_timeout_ms = 60000,
            .write_queue = 4};
    }
}
