/* The rpc threads' side: who calls, what they say in the first place, and the registry of open
 * calls. */
#include "coordinator/calls.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "crypto/certificate.h"
#include "crypto/digest.h"
#include "fed/invitation.h"
#include "rpc/acceptor.h"

enum {
    STOP_GRACE_MS = 1500,
    PROGRESS_TIMEOUT_MS = 60000,
    WRITE_QUEUE = 4,
    STRANGER_TIMEOUT_MS = 5000, /* for the one message of a caller without a certificate */
    STRANGER_MS = 30000,        /* for all that such a caller does */
    STRANGER_CALLS = 8,         /* open at once on one connection; and in all */
    STRANGER_CALLS_TOTAL = 256,
    SITE_CONNECTIONS = 20, /* a node's --connections go up to 16 */
    /* of all connections, so many at most, and a quarter of few */
    STRANGERS_MOST = 256,
    ADMINS_MOST = 16,
    /* calls */
    CALLS_LIMIT = 8192, /* with those that are being ended */
    STRANGERS_CALLS = 64,
    ADMINS_CALLS = 64,
    SITES_CALLS = 4096
};

/* Calls of one site at once. A stream that is not read holds WRITE_QUEUE messages. */
static const size_t site_calls[METHOD_COUNT] = {[METHOD_JOIN] = 64, /* of all */
                                                [METHOD_SUBMIT] = 2 * FRAGMENTS_LIMIT,
                                                [METHOD_FOLLOW] = 3,
                                                [METHOD_SNAPSHOT] = 4,
                                                [METHOD_HEARTBEAT] = 4};

struct enrolled {
    uint8_t key[PUBLIC_KEY_SIZE];
    uint8_t seen[DIGEST_SIZE]; /* SHA-256 of a certificate that is for this key; zero: none yet */
};

struct calls {
    struct calls_options options;
    struct rpc_server *rpc;
    _Atomic uint64_t bytes_in, bytes_out;
    pthread_mutex_t lock; /* of all that follows */
    struct call **open;   /* in no order, [count] */
    size_t count, capacity;
    struct places places; /* of the calls, by number */
    uint64_t next_call;
    uint8_t *revoked;          /* a bit per site number, [SITES_LIMIT / 8 + 1] */
    struct enrolled *enrolled; /* [sites], of site 1 first */
    uint32_t sites, sites_capacity;
};

static void tell(struct call *call, struct call_event *event) {
    const struct calls_options *options = &call->calls->options;
    event->call = call;
    event->event.call = call->number;
    options->tell(options->context, event);
}

static void tell_kind(struct call *call, enum call_event_kind kind) {
    tell(call, &(struct call_event){.kind = kind});
}

/* ---- the registry ---------------------------------------------------------------------------- */

/* Under lock: ends the calls that have to go for others. */
static void make_room(struct calls *calls) {
    uint64_t number;
    while (places_evict(&calls->places, 0, &number)) {
        const struct place *place = places_find(&calls->places, number);
        struct call *call = NULL;
        for (size_t i = 0; i < calls->count && !call; i++) {
            if (calls->open[i]->number == number) call = calls->open[i];
        }
        if (!call) continue;
        rpc_call_set_progress_timeout(call->rpc, STRANGER_TIMEOUT_MS); /* if nobody hears it */
        rpc_call_finish(call->rpc, RPC_RESOURCE_EXHAUSTED,
                        place->role == PLACE_STRANGER
                            ? "too many callers without a certificate at once: try again"
                            : "more such calls at once than one site or admin may have: the "
                              "oldest is ended");
    }
}

static struct call *new_call(struct calls *calls, enum service_method method,
                             struct rpc_call *rpc) {
    struct call *call = xcalloc(1, sizeof *call);
    atomic_init(&call->references, 1);
    call->calls = calls;
    call->bytes_out = &calls->bytes_out;
    call->method = method;
    call->rpc = rpc_call_retain(rpc);
    pthread_mutex_lock(&calls->lock);
    call->number = ++calls->next_call;
    pthread_mutex_unlock(&calls->lock);
    return call;
}

static uint64_t group_of(const struct call *call) {
    return (uint64_t)call->site * METHOD_COUNT + call->method;
}

/* Once it is clear whose it is: a member's or an admin's never takes the place of a stranger. A
 * Join is a stranger's. Only a call that is here is cut with its site: false, if that was revoked
 * meanwhile. */
static bool register_call(struct calls *calls, struct call *call, bool is_known) {
    enum place_role role = call->method == METHOD_ADMIN ? PLACE_ADMIN : PLACE_MEMBER;
    pthread_mutex_lock(&calls->lock);
    if (calls->count == calls->capacity) {
        calls->capacity = calls->capacity ? calls->capacity * 2 : 64;
        calls->open = xrealloc(calls->open, calls->capacity * sizeof(struct call *));
    }
    calls->open[calls->count++] = call;
    if (is_known)
        places_enter_known(&calls->places, call->number, role, group_of(call),
                           site_calls[call->method], call->number);
    else
        places_enter(&calls->places, call->number,
                     peer_source_of(rpc_call_peer(call->rpc)->address), call->number);
    bool revoked = is_known && (calls->revoked[call->site / 8] >> call->site % 8 & 1);
    make_room(calls);
    pthread_mutex_unlock(&calls->lock);
    return !revoked;
}

/* A Join that has said what it asks for is no stranger's any more, but one of a group of its own.
 */
static void claim_join(struct calls *calls, const struct call *call) {
    pthread_mutex_lock(&calls->lock);
    places_claim(&calls->places, call->number, PLACE_MEMBER, group_of(call),
                 site_calls[METHOD_JOIN]);
    make_room(calls);
    pthread_mutex_unlock(&calls->lock);
}

static void call_forget(struct call *call) {
    struct calls *calls = call->calls;
    pthread_mutex_lock(&calls->lock);
    for (size_t i = 0; i < calls->count; i++) {
        if (calls->open[i] != call) continue;
        calls->open[i] = calls->open[--calls->count];
        break;
    }
    places_leave(&calls->places, call->number);
    pthread_mutex_unlock(&calls->lock);
    call_release(call);
}

struct call *calls_find(struct calls *calls, uint64_t number) {
    struct call *found = NULL;
    pthread_mutex_lock(&calls->lock);
    for (size_t i = 0; i < calls->count && !found; i++) {
        if (calls->open[i]->number == number) found = call_retain(calls->open[i]);
    }
    pthread_mutex_unlock(&calls->lock);
    return found;
}

void calls_cut(struct calls *calls, uint32_t site, const char *reason) {
    char message[64 + REASON_SIZE];
    snprintf(message, sizeof message, "this site was revoked%s%s", *reason ? ": " : "", reason);
    pthread_mutex_lock(&calls->lock);
    calls->revoked[site / 8] |= (uint8_t)(1u << site % 8);
    for (size_t i = 0; i < calls->count; i++) {
        struct call *call = calls->open[i];
        /* a Submit is being answered with its refusal, which says more than a cut */
        if (call->site == site && call->method != METHOD_SUBMIT)
            rpc_call_finish(call->rpc, RPC_PERMISSION_DENIED, message);
    }
    pthread_mutex_unlock(&calls->lock);
}

void calls_enrol(struct calls *calls, uint32_t site, const uint8_t key[static PUBLIC_KEY_SIZE]) {
    pthread_mutex_lock(&calls->lock);
    ASSERT(site >= 1 && site <= calls->sites + 1);
    if (site > calls->sites_capacity) {
        calls->sites_capacity = calls->sites_capacity ? calls->sites_capacity * 2 : 64;
        calls->enrolled =
            xrealloc(calls->enrolled, calls->sites_capacity * sizeof *calls->enrolled);
    }
    if (site > calls->sites) calls->enrolled[site - 1] = (struct enrolled){0};
    memcpy(calls->enrolled[site - 1].key, key, PUBLIC_KEY_SIZE);
    calls->sites = MAX(calls->sites, site);
    pthread_mutex_unlock(&calls->lock);
}

/* The certificate is for the key that the ledger has for the site. One that was read before is
 * known by its digest: reading one takes 0.1 ms of processor time, at every call. */
static bool has_its_key(struct calls *calls, uint32_t site, struct bytes certificate) {
    struct certificate_info info;
    uint8_t digest[DIGEST_SIZE];
    digest_sha256(certificate.data, certificate.size, digest);
    pthread_mutex_lock(&calls->lock);
    bool seen = site <= calls->sites && digest_equal(calls->enrolled[site - 1].seen, digest);
    pthread_mutex_unlock(&calls->lock);
    if (seen) return true;
    if (certificate_parse(certificate, &info, NULL) != OK) return false;
    pthread_mutex_lock(&calls->lock);
    struct enrolled *enrolled = site <= calls->sites ? &calls->enrolled[site - 1] : NULL;
    bool same = enrolled && memcmp(enrolled->key, info.public_key, PUBLIC_KEY_SIZE) == 0;
    if (same) memcpy(enrolled->seen, digest, DIGEST_SIZE);
    pthread_mutex_unlock(&calls->lock);
    return same;
}

/* NULL for a site of this run that may speak; else why not. Its number alone says too little: a
 * coordinator that was set back to an older copy gives numbers anew, and a certificate of before
 * then names another site. */
static const char *why_not(struct calls *calls, uint32_t site, const char *certificate_pem) {
    bool enrolled = has_its_key(calls, site, bytes_of(certificate_pem, strlen(certificate_pem)));
    pthread_mutex_lock(&calls->lock);
    bool revoked = enrolled && (calls->revoked[site / 8] >> site % 8 & 1);
    pthread_mutex_unlock(&calls->lock);
    if (revoked) return "this site was revoked";
    return enrolled ? NULL
                    : "no site of this run has that number and key: the coordinator was set back "
                      "to an older copy; join again with a new invitation";
}

/* ---- opening --------------------------------------------------------------------------------- */

/* Who the certificate says it is. False, and with which code and why, for somebody who has no
 * business here. */
static bool identify(struct call *call, enum rpc_code *code, struct error *why) {
    const struct rpc_peer *peer = rpc_call_peer(call->rpc);
    if (call->method == METHOD_JOIN) return true;
    struct identity identity;
    *code = RPC_PERMISSION_DENIED;
    if (!peer->authenticated) {
        *code = RPC_UNAUTHENTICATED;
        (void)error_set(why, REFUSED,
                        "this method needs the certificate that joining the run gave you");
        return false;
    }
    if (identity_parse(peer->uri, &identity, why) != OK) return false;
    if (memcmp(identity.run_id, call->calls->options.run_id, RUN_ID_SIZE) != 0) {
        (void)error_set(why, REFUSED, "the certificate is for another run");
        return false;
    }
    bool wants_admin = call->method == METHOD_ADMIN;
    if ((identity.role == IDENTITY_ADMIN) != wants_admin) {
        (void)error_set(why, REFUSED, "only %s certificate may do that",
                        wants_admin ? "an admin's" : "a site's");
        return false;
    }
    call->site = wants_admin ? 0 : identity.site;
    const char *reason =
        wants_admin ? NULL : why_not(call->calls, call->site, peer->certificate_pem);
    if (reason) (void)error_set(why, REFUSED, "%s", reason);
    return !reason;
}

/* Whose connection it is, for the network's own limits. */
static enum place_role who(void *context, const struct rpc_peer *peer, uint64_t *member) {
    struct calls *calls = context;
    struct identity identity;
    if (identity_parse(peer->uri, &identity, NULL) != OK ||
        memcmp(identity.run_id, calls->options.run_id, RUN_ID_SIZE) != 0)
        return PLACE_STRANGER;
    if (identity.role == IDENTITY_ADMIN) return PLACE_ADMIN;
    if (why_not(calls, identity.site, peer->certificate_pem)) return PLACE_STRANGER;
    *member = identity.site;
    return PLACE_MEMBER;
}

static void open_method(struct rpc_call *rpc, void *user, enum service_method method) {
    struct call *call = new_call(user, method, rpc);
    rpc_call_set_user(rpc, call);
    enum rpc_code code = RPC_OK;
    struct error why = {0};
    bool may = identify(call, &code, &why);
    if (!register_call(user, call, may && method != METHOD_JOIN)) {
        may = false;
        code = RPC_PERMISSION_DENIED;
        (void)error_set(&why, REFUSED, "this site was revoked");
    }
    if (!may || method == METHOD_JOIN) rpc_call_set_progress_timeout(rpc, STRANGER_TIMEOUT_MS);
    if (!may) rpc_call_finish(rpc, code, why.message);
    if (may && method == METHOD_SUBMIT) rpc_call_read(rpc);
}

static void open_join(struct rpc_call *rpc, void *user) { open_method(rpc, user, METHOD_JOIN); }
static void open_submit(struct rpc_call *rpc, void *user) { open_method(rpc, user, METHOD_SUBMIT); }
static void open_follow(struct rpc_call *rpc, void *user) { open_method(rpc, user, METHOD_FOLLOW); }
static void open_snapshot(struct rpc_call *rpc, void *user) {
    open_method(rpc, user, METHOD_SNAPSHOT);
}
static void open_heartbeat(struct rpc_call *rpc, void *user) {
    open_method(rpc, user, METHOD_HEARTBEAT);
}
static void open_admin(struct rpc_call *rpc, void *user) { open_method(rpc, user, METHOD_ADMIN); }

static void on_closed(struct rpc_call *rpc, void *user, const struct rpc_outcome *outcome) {
    struct call *call = user;
    (void)rpc, (void)outcome;
    atomic_store(&call->closed, true);
    tell_kind(call, CALL_CLOSED);
    call_forget(call);
}

/* ---- messages -------------------------------------------------------------------------------- */

static bool split(struct call *call, const struct buffer *message, struct frame *frame) {
    struct error error = {0};
    atomic_fetch_add(&call->calls->bytes_in, message->size + CALL_FRAME_OVERHEAD);
    if (call->method == METHOD_JOIN) {
        rpc_call_set_progress_timeout(call->rpc, PROGRESS_TIMEOUT_MS);
        claim_join(call->calls, call);
    }
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
    struct call_event event = {.kind = CALL_EVENT, .event.kind = COORDINATOR_SUBMIT_OPEN};
    event.event.submit.site = call->site;
    event.event.submit.waits = frame->open.waits;
    event.event.submit.instance = frame->open.instance;
    event.event.submit.supply = frame->open.supply;
    memcpy(event.event.submit.header, frame->open.header, CONTRIBUTION_HEADER_SIZE);
    memcpy(event.event.submit.signature, frame->open.signature, SIGNATURE_SIZE);
    tell(call, &event);
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
        rpc_call_finish(rpc, RPC_INVALID_ARGUMENT,
                        call->submits ? "a second header on one stream"
                                      : "a chunk before the header");
    } else if (frame.kind == SUBMIT_OPEN) {
        if (speaks(call, frame.open.protocol)) {
            call->submits = true;
            submit_opened(call, &frame);
        }
    } else {
        struct call_event event = {.kind = CALL_CHUNK};
        event.chunk.offset = frame.chunk.offset;
        event.chunk.message = *message; /* taken */
        event.chunk.head_size = message->size - frame.payload.size;
        *message = (struct buffer){0};
        tell(call, &event);
    }
    end_decode(arena);
}

static void submit_half_closed(struct rpc_call *rpc, void *user) {
    struct call *call = user;
    if (call->submits)
        tell_kind(call, CALL_HALF_CLOSED);
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
        tell(call, &(struct call_event){.kind = CALL_FOLLOW, .follow = &request});
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
        tell(call, &(struct call_event){.kind = CALL_SNAPSHOT, .snapshot = &request});
    end_decode(arena);
}

static void stream_writable(struct rpc_call *rpc, void *user) {
    struct call *call = user;
    (void)rpc;
    tell_kind(call, CALL_WRITABLE);
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
        struct call_event event = {
            .kind = CALL_REPORT, .event.kind = COORDINATOR_HEARTBEAT, .report = &request};
        event.event.heartbeat.site = call->site;
        event.event.heartbeat.instance = request.instance;
        event.event.heartbeat.turn = request.turn;
        event.event.heartbeat.time_ms = request.time_ms;
        event.event.heartbeat.leaving = request.leaving;
        tell(call, &event);
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
    struct call_event event = {.kind = CALL_EVENT, .event.kind = COORDINATOR_JOIN};
    call->protocol = protocol_negotiate(request->protocol_min, request->protocol_max);
    if (call->protocol == 0) {
        refuse_join(call, JOIN_PROTOCOL, "no protocol version in common: update the older side");
    } else if (certificate_request_key(request->csr_der, event.event.join.public_key, &error) !=
               OK) {
        refuse_join(call, JOIN_CSR, error.message);
    } else if (strlen(request->site_name) >= SITE_NAME_SIZE ||
               name_check(request->site_name, &error) != OK) {
        refuse_join(
            call, JOIN_NAME,
            "a site's name is 1-32 characters from a-z, 0-9 and '-', starting with a letter");
    } else {
        memcpy(event.event.join.name, request->site_name, strlen(request->site_name) + 1);
        event.event.join.look = request->look;
        digest_sha256(request->invitation_secret.data, request->invitation_secret.size,
                      event.event.join.secret_digest);
        buffer_append(&call->csr, request->csr_der.data, request->csr_der.size);
        tell(call, &event);
    }
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

/* The order as the state machine takes it; false for the verbs that only look. */
static bool admin_order(const struct admin_request *request, struct coordinator_event *event) {
    static const enum admin_order orders[ADMIN_VERB_COUNT] = {
        [ADMIN_PAUSE] = ORDER_PAUSE,       [ADMIN_RESUME] = ORDER_RESUME,
        [ADMIN_STOP] = ORDER_STOP,         [ADMIN_INVITE] = ORDER_INVITE,
        [ADMIN_REVOKE] = ORDER_REVOKE,     [ADMIN_SET_RULE] = ORDER_RULE,
        [ADMIN_SNAPSHOT] = ORDER_SNAPSHOT, [ADMIN_UNINVITE] = ORDER_UNINVITE};
    if (!orders[request->verb]) return false;
    event->kind = COORDINATOR_ADMIN;
    event->admin.order = orders[request->verb];
    strncpy(event->admin.name, request->site_name, SITE_NAME_SIZE - 1);
    strncpy(event->admin.reason, request->reason, REASON_SIZE - 1);
    strncpy(event->admin.key, request->key, RULE_KEY_SIZE - 1);
    strncpy(event->admin.value, request->rule_value, RULE_VALUE_SIZE - 1);
    event->admin.expires_ms = request->expires_ms;
    event->admin.role = (enum site_role)request->role;
    if (request->verb == ADMIN_RESUME) event->admin.token_budget = request->value;
    return true;
}

/* The admin's clock says when an invitation ends and ours whether it has. False, with the call
 * answered, where it would have ended before anybody can use it. */
static bool invites_for_later(struct call *call, const struct admin_request *request) {
    uint64_t now = clock_wall_ms();
    char message[192];
    if (request->verb != ADMIN_INVITE || request->expires_ms == 0 || now < request->expires_ms)
        return true;
    snprintf(message, sizeof message,
             "the invitation would have expired %llu s ago by the coordinator's clock: set the "
             "clock that is wrong (NTP), the "
             "coordinator's or this machine's, or invite with a longer --expires",
             (unsigned long long)(now - request->expires_ms) / 1000);
    call_answer_admin(call, &(struct admin_reply){.code = ADMIN_INVALID, .message = message});
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
        struct call_event event = {.kind = CALL_EVENT};
        if (!admin_order(&request, &event.event)) {
            event.kind = CALL_QUESTION;
            event.question.verb = request.verb;
            event.question.first_site = request.first_site;
        }
        tell(call, &event);
    }
    end_decode(arena);
}

/* ---- start and stop -------------------------------------------------------------------------- */

static void methods_of(struct calls *calls, struct rpc_server_method methods[static METHOD_COUNT]) {
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
        [METHOD_HEARTBEAT] = {.on_open = open_heartbeat,
                              .on_message = heartbeat_message,
                              .on_closed = on_closed},
        [METHOD_ADMIN] = {
            .on_open = open_admin, .on_message = admin_message, .on_closed = on_closed}};
    for (int method = 0; method < METHOD_COUNT; method++) {
        enum service_method which = (enum service_method)method;
        methods[method] = (struct rpc_server_method){.method = {service_path(which),
                                                                service_client_streams(which),
                                                                service_server_streams(which)},
                                                     .handler = &handlers[method],
                                                     .user = calls,
                                                     .progress_timeout_ms = PROGRESS_TIMEOUT_MS,
                                                     .write_queue = WRITE_QUEUE};
    }
}

struct calls *calls_create(const struct calls_options *options) {
    struct calls *calls = xcalloc(1, sizeof *calls);
    calls->options = *options;
    calls->revoked = xcalloc(SITES_LIMIT / 8 + 1, 1);
    places_init(&calls->places, &(struct places_limits){.strangers = STRANGERS_CALLS,
                                                        .members = SITES_CALLS,
                                                        .admins = ADMINS_CALLS});
    pthread_mutex_init(&calls->lock, NULL);
    return calls;
}

enum status calls_listen(struct calls *calls, const struct rpc_server_options *server,
                         struct error *error) {
    struct rpc_server_method methods[METHOD_COUNT];
    struct rpc_server_options options = *server;
    methods_of(calls, methods);
    options.methods = methods;
    options.method_count = METHOD_COUNT;
    options.max_message_size = FRAME_LIMIT;
    options.max_calls = CALLS_LIMIT;
    options.places = (struct rpc_server_places){.strangers = STRANGERS_MOST,
                                                .admins = ADMINS_MOST,
                                                .member_connections = SITE_CONNECTIONS,
                                                .stranger_ms = STRANGER_MS,
                                                .stranger_calls = STRANGER_CALLS,
                                                .stranger_calls_total = STRANGER_CALLS_TOTAL};
    options.who = who;
    options.who_context = calls;
    return rpc_server_create(&options, &calls->rpc, error);
}

uint16_t calls_port(const struct calls *calls) { return rpc_server_port(calls->rpc); }

void calls_traffic(const struct calls *calls, uint64_t *in, uint64_t *out) {
    *in = atomic_load(&calls->bytes_in);
    *out = atomic_load(&calls->bytes_out);
}

void calls_stop(struct calls *calls) {
    if (!calls) return;
    rpc_server_close(calls->rpc, STOP_GRACE_MS);
    calls->rpc = NULL;
}

void calls_destroy(struct calls *calls) {
    if (!calls) return;
    places_deinit(&calls->places);
    free(calls->open);
    free(calls->enrolled);
    free(calls->revoked);
    pthread_mutex_destroy(&calls->lock);
    free(calls);
}
