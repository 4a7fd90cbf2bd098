/* The admin's requests and replies (proto/messages.h, AdminRequest and AdminReply): encode,
 * decode, and the checks of every field. */
#include "proto/wire.h"

#include <math.h>
#include <stdlib.h>

#include "base/memory.h"

const char *admin_verb_name(uint32_t verb) {
    static const char *const names[ADMIN_VERB_COUNT] = {
        [0] = "unknown",
        [ADMIN_STATUS] = "status",
        [ADMIN_PAUSE] = "pause",
        [ADMIN_RESUME] = "resume",
        [ADMIN_STOP] = "stop",
        [ADMIN_INVITE] = "invite",
        [ADMIN_REVOKE] = "revoke",
        [ADMIN_SITES] = "sites",
        [ADMIN_SET_RULE] = "set_rule",
        [ADMIN_SNAPSHOT] = "snapshot",
        [ADMIN_INVITATIONS] = "invitations",
        [ADMIN_UNINVITE] = "uninvite",
        [ADMIN_RULES] = "rules",
    };
    return verb < ADMIN_VERB_COUNT ? names[verb] : "unknown";
}

const char *admin_code_name(uint32_t code) {
    static const char *const names[ADMIN_CODE_COUNT] = {
        [ADMIN_OK] = "ok",           [ADMIN_DENIED] = "denied",     [ADMIN_NOT_FOUND] = "not_found",
        [ADMIN_INVALID] = "invalid", [ADMIN_CONFLICT] = "conflict", [ADMIN_BUSY] = "busy",
        [ADMIN_FAILED] = "failed",
    };
    return code < ADMIN_CODE_COUNT ? names[code] : "unknown";
}

enum {
    RULE_KEY_LIMIT = 47,
    RULE_VALUE_LIMIT = 79, /* as fed/manifest.h has them */
    RULES_LIMIT = 64 * 1024
};

/* --- request ---------------------------------------------------------------------------------- */

static enum status request_check(const struct admin_request *request, struct error *error) {
    TRY(wire_check_protocol(request->protocol, error));
    TRY(wire_check_range((uint32_t)request->verb, 1, ADMIN_VERB_COUNT - 1, "verb", error));
    TRY(wire_check_text(request->site_name, 0, WIRE_SITE_NAME_LIMIT, "site_name", error));
    TRY(wire_check_text(request->key, 0, RULE_KEY_LIMIT, "key", error));
    TRY(wire_check_range(request->role, 0, 1, "role", error));
    TRY(wire_check_text(request->rule_value, 0, RULE_VALUE_LIMIT, "rule_value", error));
    return wire_check_text(request->reason, 0, WIRE_REASON_LIMIT, "reason", error);
}

static enum status request_convert(const ProtobufCMessage *message, struct bytes payload,
                                   struct arena *arena, void *out, struct error *error) {
    (void)payload, (void)arena;
    const Atoll__V1__AdminRequest *from = (const Atoll__V1__AdminRequest *)message;
    struct admin_request request = {
        .protocol = from->protocol,
        .verb = (enum admin_verb)from->verb,
        .site_name = from->site_name,
        .reason = from->reason,
        .value = from->value,
        .expires_ms = from->expires_ms,
        .first_site = from->first_site,
        .key = from->key,
        .rule_value = from->rule_value,
        .role = from->role,
    };
    TRY(request_check(&request, error));
    *(struct admin_request *)out = request;
    return OK;
}

static const struct wire_type request_type = {&atoll__v1__admin_request__descriptor, 1024, 4 * 1024,
                                              false, request_convert};

enum status admin_request_encode(const struct admin_request *request, struct buffer *out,
                                 struct error *error) {
    char reason[WIRE_REASON_LIMIT + 1];
    struct admin_request cleaned = *request;
    cleaned.reason = wire_text_clean(request->reason, WIRE_REASON_LIMIT, reason);
    cleaned.key = wire_text(request->key);
    cleaned.rule_value = wire_text(request->rule_value);
    TRY(request_check(&cleaned, error));
    Atoll__V1__AdminRequest message = ATOLL__V1__ADMIN_REQUEST__INIT;
    message.protocol = request->protocol;
    message.verb = (uint32_t)request->verb;
    message.site_name = wire_text(request->site_name);
    message.reason = reason;
    message.value = request->value;
    message.expires_ms = request->expires_ms;
    message.first_site = request->first_site;
    message.key = wire_text(request->key);
    message.rule_value = wire_text(request->rule_value);
    message.role = request->role;
    return wire_encode(&request_type, &message.base, out, error);
}

enum status admin_request_decode(struct frame frame, struct arena *arena, struct admin_request *out,
                                 struct error *error) {
    return wire_decode(&request_type, frame, arena, out, error);
}

/* --- the run, within the reply ---------------------------------------------------------------- */

/* Both ways; free texts are checked on arrival only, being cut and cleaned when they leave. */
static enum status run_answer_check(const struct run_status *run, struct error *error) {
    if (!isfinite(run->heldout) || !isfinite(run->best_heldout))
        return error_set(error, INVALID, "run: a held-out loss is not finite");
    return wire_check_text(run->name, 0, WIRE_RUN_NAME_LIMIT, "run.name", error);
}

static enum status run_convert(const Atoll__V1__RunStatus *from, struct run_status *out,
                               struct error *error) {
    *out = (struct run_status){
        .name = from->name,
        .phase = from->phase,
        .reason = from->reason,
        .version = from->version,
        .ledger_size = from->ledger_size,
        .tokens = from->tokens,
        .token_budget = from->token_budget,
        .epoch = from->epoch,
        .inner_steps = from->inner_steps,
        .parameters = from->parameters,
        .root_version = from->root_version,
        .accepted = from->accepted,
        .pending = from->pending,
        .sites_active = from->sites_active,
        .sites_connected = from->sites_connected,
        .weights = from->weights,
        .sites_present = from->sites_present,
        .has_heldout = from->has_heldout,
        .heldout_version = from->heldout_version,
        .heldout = from->heldout,
        .best_version = from->best_version,
        .best_heldout = from->best_heldout,
        .heldout_rises = from->heldout_rises,
        .sites_twice = from->sites_twice,
        .clock_ahead_ms = from->clock_ahead_ms,
        .uptime_ms = from->uptime_ms,
        .bytes_in = from->bytes_in,
        .bytes_out = from->bytes_out,
        .waits = from->waits,
    };
    TRY(run_answer_check(out, error));
    TRY(wire_check_text(out->reason, 0, WIRE_REASON_LIMIT, "run.reason", error));
    TRY(wire_check_text(out->waits, 0, WIRE_MESSAGE_LIMIT, "run.waits", error));
    TRY(wire_check_range(from->n_refused, 0, WIRE_CODES, "run.refused", error));
    for (size_t i = 0; i < from->n_refused; i++) {
        uint64_t
            count = from->refused[i]->count,
            *sum = &out->refused[from->refused[i]->code < WIRE_CODES ? from->refused[i]->code : 0];
        *sum = count > UINT64_MAX - *sum ? UINT64_MAX : *sum + count;
    }
    TRY(wire_fixed(from->run_id, out->run_id, sizeof out->run_id, false, "run.run_id", error));
    return wire_fixed(from->root, out->root, sizeof out->root, false, "run.root", error);
}

struct run_packing { /* what the message points to; not to be moved */
    Atoll__V1__RunStatus message;
    Atoll__V1__CodeCount refused[WIRE_CODES], *refused_items[WIRE_CODES];
    char reason[WIRE_REASON_LIMIT + 1], waits[WIRE_MESSAGE_LIMIT + 1];
};

static void run_pack(const struct run_status *run, struct run_packing *out) {
    Atoll__V1__RunStatus *message = &out->message;
    atoll__v1__run_status__init(message);
    message->run_id = wire_binary_fixed(run->run_id, sizeof run->run_id);
    message->name = wire_text(run->name);
    message->phase = run->phase;
    message->reason = wire_text_clean(run->reason, WIRE_REASON_LIMIT, out->reason);
    message->version = run->version;
    message->ledger_size = run->ledger_size;
    message->tokens = run->tokens;
    message->token_budget = run->token_budget;
    message->epoch = run->epoch;
    message->inner_steps = run->inner_steps;
    message->parameters = run->parameters;
    message->root = wire_binary_fixed(run->root, sizeof run->root);
    message->root_version = run->root_version;
    message->accepted = run->accepted;
    message->pending = run->pending;
    message->sites_active = run->sites_active;
    message->sites_connected = run->sites_connected;
    message->weights = run->weights;
    message->sites_present = run->sites_present;
    message->has_heldout = run->has_heldout;
    message->heldout_version = run->heldout_version;
    message->heldout = run->heldout;
    message->best_version = run->best_version;
    message->best_heldout = run->best_heldout;
    message->heldout_rises = run->heldout_rises;
    message->sites_twice = run->sites_twice;
    message->clock_ahead_ms = run->clock_ahead_ms;
    message->uptime_ms = run->uptime_ms;
    message->bytes_in = run->bytes_in;
    message->bytes_out = run->bytes_out;
    message->waits = wire_text_clean(run->waits, WIRE_MESSAGE_LIMIT, out->waits);
    message->refused = out->refused_items;
    for (uint32_t code = 0; code < WIRE_CODES; code++) {
        if (run->refused[code] == 0) continue;
        Atoll__V1__CodeCount *pair = &out->refused[message->n_refused];
        atoll__v1__code_count__init(pair);
        pair->code = code;
        pair->count = run->refused[code];
        out->refused_items[message->n_refused++] = pair;
    }
}

/* --- a site, within the reply ----------------------------------------------------------------- */

static enum status site_check(const struct site_status *site, struct error *error) {
    TRY(wire_check_text(site->name, 1, WIRE_SITE_NAME_LIMIT, "sites.name", error));
    if (!(site->norm >= 0) || !isfinite(site->norm) || !(site->clip >= 0 && site->clip <= 1) ||
        !(site->scale >= 0) || !isfinite(site->scale) || !(site->weight >= 0) ||
        !isfinite(site->weight))
        return error_set(error, INVALID,
                         "sites: a norm, clip, weight or scale is out of its range");
    TRY(wire_check_heldout(&site->heldout, "sites.heldout", error));
    return wire_check_rate(site->tokens_per_second, "sites.tokens_per_second", error);
}

static enum status site_convert(const Atoll__V1__SiteStatus *from, struct site_status *out,
                                struct error *error) {
    *out = (struct site_status){
        .site = from->site,
        .name = from->name,
        .revoked = from->revoked,
        .connected = from->connected,
        .presence = from->presence,
        .version = from->version,
        .staleness = from->staleness,
        .inner_steps = from->inner_steps,
        .loss = wire_loss(from->loss),
        .tokens = from->tokens,
        .tokens_per_second = from->tokens_per_second,
        .contributions = from->contributions,
        .refused = from->refused,
        .bytes_up = from->bytes_up,
        .bytes_down = from->bytes_down,
        .compute_ms = from->compute_ms,
        .last_seen_ms_ago = from->last_seen_ms_ago,
        .copies = from->copies,
        .copy_ms_ago = from->copy_ms_ago,
        .norm = from->norm,
        .clip = from->clip,
        .weight = from->weight,
        .age = from->age,
        .scale = from->scale,
        .tokens_uncounted = from->tokens_uncounted,
        .device = from->device,
        .software = from->software,
        .role = from->role,
        .heldout = {from->has_heldout, from->heldout_version, from->best_version, from->heldout,
                    from->best_heldout},
    };
    TRY(site_check(out, error));
    TRY(wire_check_text(out->device, 0, WIRE_DEVICE_LIMIT, "sites.device", error));
    TRY(wire_check_text(out->software, 0, WIRE_SOFTWARE_LIMIT, "sites.software", error));
    return lost_pairs_read(from->n_lost, from->lost, out->lost_ms, error);
}

struct site_packing { /* what the message points to; not to be moved */
    Atoll__V1__SiteStatus message;
    struct lost_pairs lost;
    char device[WIRE_DEVICE_LIMIT + 1], software[WIRE_SOFTWARE_LIMIT + 1];
};

static void site_pack(const struct site_status *site, struct site_packing *out) {
    Atoll__V1__SiteStatus *message = &out->message;
    atoll__v1__site_status__init(message);
    message->site = site->site;
    message->name = wire_text(site->name);
    message->revoked = site->revoked;
    message->connected = site->connected;
    message->presence = site->presence;
    message->version = site->version;
    message->staleness = site->staleness;
    message->inner_steps = site->inner_steps;
    message->loss = wire_loss(site->loss);
    message->tokens = site->tokens;
    message->tokens_per_second = site->tokens_per_second;
    message->contributions = site->contributions;
    message->refused = site->refused;
    message->bytes_up = site->bytes_up;
    message->bytes_down = site->bytes_down;
    message->compute_ms = site->compute_ms;
    message->n_lost = lost_pairs_fill(&out->lost, site->lost_ms);
    message->lost = out->lost.items;
    message->last_seen_ms_ago = site->last_seen_ms_ago;
    message->copies = site->copies;
    message->copy_ms_ago = site->copy_ms_ago;
    message->norm = site->norm;
    message->clip = site->clip;
    message->weight = site->weight;
    message->age = site->age;
    message->scale = site->scale;
    message->tokens_uncounted = site->tokens_uncounted;
    message->role = site->role;
    message->has_heldout = site->heldout.any;
    message->heldout_version = site->heldout.version;
    message->heldout = site->heldout.loss;
    message->best_version = site->heldout.best_version;
    message->best_heldout = site->heldout.best_loss;
    message->device = wire_text_clean(site->device, WIRE_DEVICE_LIMIT, out->device);
    message->software = wire_text_clean(site->software, WIRE_SOFTWARE_LIMIT, out->software);
}

/* --- reply ------------------------------------------------------------------------------------ */

static enum status secret_check(struct bytes secret, struct error *error) {
    if (secret.size == 0) return OK;
    return wire_check_size(secret, WIRE_SECRET_MIN, WIRE_SECRET_LIMIT, "invitation_secret", error);
}

static enum status reply_check(const struct admin_reply *reply, struct error *error) {
    TRY(wire_check_range(reply->invitation_count, 0, WIRE_SITES_LIMIT, "invitations", error));
    for (uint32_t i = 0; i < reply->invitation_count; i++)
        TRY(wire_check_text(reply->invitations[i].name, 1, WIRE_SITE_NAME_LIMIT, "invitations.name",
                            error));
    TRY(wire_check_range(reply->site_count, 0, WIRE_SITES_LIMIT, "sites", error));
    uint32_t number = 0;
    for (uint32_t i = 0; i < reply->site_count; i++) {
        TRY(wire_check_range(reply->sites[i].site, (uint64_t)number + 1, UINT32_MAX, "sites.site",
                             error));
        number = reply->sites[i].site;
    }
    TRY(secret_check(reply->invitation_secret, error));
    TRY(wire_check_text(reply->address ? reply->address : "", 0, WIRE_ADDRESS_LIMIT, "address",
                        error));
    TRY(wire_check_size(reply->rules, 0, RULES_LIMIT, "rules", error));
    return wire_check_size(reply->head, 0, WIRE_HEAD_LIMIT, "head", error);
}

static enum status reply_convert(const ProtobufCMessage *message, struct bytes payload,
                                 struct arena *arena, void *out, struct error *error) {
    (void)payload;
    const Atoll__V1__AdminReply *from = (const Atoll__V1__AdminReply *)message;
    TRY(wire_check_range(from->n_sites, 0, WIRE_SITES_LIMIT, "sites", error));
    struct site_status *sites = arena_take(arena, from->n_sites * sizeof *sites);
    if (!sites) return error_set(error, INVALID, "takes too much memory");
    for (size_t i = 0; i < from->n_sites; i++) TRY(site_convert(from->sites[i], &sites[i], error));
    TRY(wire_check_range(from->n_invitations, 0, WIRE_SITES_LIMIT, "invitations", error));
    struct invitation_status *invitations =
        arena_take(arena, from->n_invitations * sizeof *invitations);
    if (!invitations) return error_set(error, INVALID, "takes too much memory");
    for (size_t i = 0; i < from->n_invitations; i++)
        invitations[i] = (struct invitation_status){.name = from->invitations[i]->name,
                                                    .made_ms = from->invitations[i]->made_ms,
                                                    .expires_ms = from->invitations[i]->expires_ms,
                                                    .end = from->invitations[i]->end,
                                                    .role = from->invitations[i]->role};
    struct admin_reply reply = {
        .code = from->code,
        .message = from->message,
        .has_run = from->run != NULL,
        .site_count = (uint32_t)from->n_sites,
        .sites = sites,
        .invitation_count = (uint32_t)from->n_invitations,
        .invitations = invitations,
        .next_site = from->next_site,
        .invitation_secret = wire_bytes(from->invitation_secret),
        .address = from->address,
        .head = wire_bytes(from->head),
        .value = from->value,
        .rules = wire_bytes(from->rules),
    };
    reply.run.name = reply.run.reason = "";
    TRY(wire_check_text(reply.message, 0, WIRE_MESSAGE_LIMIT, "message", error));
    if (from->run) TRY(run_convert(from->run, &reply.run, error));
    TRY(reply_check(&reply, error));
    *(struct admin_reply *)out = reply;
    return OK;
}

static const struct wire_type reply_type = {&atoll__v1__admin_reply__descriptor, FRAME_HEADER_LIMIT,
                                            ARENA_SIZE, false, reply_convert};

enum status admin_reply_encode(const struct admin_reply *reply, struct buffer *out,
                               struct error *error) {
    TRY(reply_check(reply, error));
    if (reply->has_run) TRY(run_answer_check(&reply->run, error));
    for (uint32_t i = 0; i < reply->site_count; i++) TRY(site_check(&reply->sites[i], error));
    char text[WIRE_MESSAGE_LIMIT + 1];
    struct run_packing run;
    struct site_packing *sites = xcalloc(reply->site_count, sizeof *sites);
    Atoll__V1__SiteStatus **items = xcalloc(reply->site_count, sizeof *items);
    Atoll__V1__AdminReply message = ATOLL__V1__ADMIN_REPLY__INIT;
    message.code = reply->code;
    message.message = wire_text_clean(reply->message, WIRE_MESSAGE_LIMIT, text);
    if (reply->has_run) {
        run_pack(&reply->run, &run);
        message.run = &run.message;
    }
    for (uint32_t i = 0; i < reply->site_count; i++) {
        site_pack(&reply->sites[i], &sites[i]);
        items[i] = &sites[i].message;
    }
    message.n_sites = reply->site_count;
    message.sites = items;
    Atoll__V1__InvitationStatus *invitations =
        xcalloc(reply->invitation_count, sizeof *invitations);
    Atoll__V1__InvitationStatus **invitation_items =
        xcalloc(reply->invitation_count, sizeof *invitation_items);
    for (uint32_t i = 0; i < reply->invitation_count; i++) {
        atoll__v1__invitation_status__init(&invitations[i]);
        invitations[i].name = wire_text(reply->invitations[i].name);
        invitations[i].made_ms = reply->invitations[i].made_ms;
        invitations[i].expires_ms = reply->invitations[i].expires_ms;
        invitations[i].end = reply->invitations[i].end;
        invitations[i].role = reply->invitations[i].role;
        invitation_items[i] = &invitations[i];
    }
    message.n_invitations = reply->invitation_count;
    message.invitations = invitation_items;
    message.next_site = reply->next_site;
    message.invitation_secret = wire_binary(reply->invitation_secret);
    message.address = wire_text(reply->address ? reply->address : "");
    message.head = wire_binary(reply->head);
    message.value = reply->value;
    message.rules = wire_binary(reply->rules);
    enum status status = wire_encode(&reply_type, &message.base, out, error);
    free(sites);
    free(items);
    free(invitations);
    free(invitation_items);
    return status;
}

enum status admin_reply_decode(struct frame frame, struct arena *arena, struct admin_reply *out,
                               struct error *error) {
    return wire_decode(&reply_type, frame, arena, out, error);
}
