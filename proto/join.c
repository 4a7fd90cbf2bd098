/* Join (proto/messages.h): an invitation's secret and a certificate request up, the certificate
 * and the manifest down. Encode, decode, and the checks of every field. */
#include "proto/wire.h"

#include "base/memory.h"

uint32_t protocol_negotiate(uint32_t min, uint32_t max) {
    uint32_t newest = MIN(max, (uint32_t)WIRE_PROTOCOL_NEWEST);
    return newest >= MAX(min, (uint32_t)WIRE_PROTOCOL_OLDEST) ? newest : 0;
}

const char *join_code_name(uint32_t code) {
    static const char *const names[JOIN_CODE_COUNT] = {
        [JOIN_OK] = "ok",
        [JOIN_SECRET] = "secret",
        [JOIN_EXPIRED] = "expired",
        [JOIN_USED] = "used",
        [JOIN_NAME] = "name",
        [JOIN_CSR] = "csr",
        [JOIN_PROTOCOL] = "protocol",
        [JOIN_STOPPED] = "stopped",
        [JOIN_BUSY] = "busy",
        [JOIN_VOID] = "void",
    };
    return code < JOIN_CODE_COUNT ? names[code] : "unknown";
}

/* --- request ---------------------------------------------------------------------------------- */

static enum status request_check(const struct join_request *request, struct error *error) {
    TRY(wire_check_range(request->protocol_min, 1, 65535, "protocol_min", error));
    TRY(wire_check_range(request->protocol_max, request->protocol_min, 65535, "protocol_max",
                         error));
    TRY(wire_check_text(request->site_name, 1, WIRE_SITE_NAME_LIMIT, "site_name", error));
    TRY(wire_check_size(request->invitation_secret, WIRE_SECRET_MIN, WIRE_SECRET_LIMIT,
                        "invitation_secret", error));
    TRY(wire_check_size(request->csr_der, 1, WIRE_CSR_LIMIT, "csr_der", error));
    return wire_check_text(request->software, 0, WIRE_SOFTWARE_LIMIT, "software", error);
}

static enum status request_convert(const ProtobufCMessage *message, struct bytes payload,
                                   struct arena *arena, void *out, struct error *error) {
    (void)payload, (void)arena;
    const Atoll__V1__JoinRequest *from = (const Atoll__V1__JoinRequest *)message;
    struct join_request request = {
        .protocol_min = from->protocol_min,
        .protocol_max = from->protocol_max,
        .site_name = from->site_name,
        .invitation_secret = wire_bytes(from->invitation_secret),
        .csr_der = wire_bytes(from->csr_der),
        .software = from->software,
        .look = from->look,
    };
    TRY(request_check(&request, error));
    *(struct join_request *)out = request;
    return OK;
}

/* Small: this is what somebody without a certificate may make the server hold. */
static const struct wire_type request_type = {&atoll__v1__join_request__descriptor, 8 * 1024,
                                              16 * 1024, false, request_convert};

enum status join_request_encode(const struct join_request *request, struct buffer *out,
                                struct error *error) {
    char software[WIRE_SOFTWARE_LIMIT + 1];
    struct join_request cleaned = *request;
    cleaned.software = wire_text_clean(request->software, WIRE_SOFTWARE_LIMIT, software);
    TRY(request_check(&cleaned, error));
    Atoll__V1__JoinRequest message = ATOLL__V1__JOIN_REQUEST__INIT;
    message.protocol_min = request->protocol_min;
    message.protocol_max = request->protocol_max;
    message.site_name = wire_text(request->site_name);
    message.invitation_secret = wire_binary(request->invitation_secret);
    message.look = request->look;
    message.csr_der = wire_binary(request->csr_der);
    message.software = software;
    return wire_encode(&request_type, &message.base, out, error);
}

enum status join_request_decode(struct frame frame, struct arena *arena, struct join_request *out,
                                struct error *error) {
    return wire_decode(&request_type, frame, arena, out, error);
}

/* --- reply ------------------------------------------------------------------------------------ */

static enum status reply_check(const struct join_reply *reply, struct error *error) {
    TRY(wire_check_text(reply->message, 0, WIRE_MESSAGE_LIMIT, "message", error));
    if (reply->code != JOIN_OK) return OK;
    TRY(wire_check_protocol(reply->protocol, error));
    TRY(wire_check_range(reply->role, 0, 1, "role", error));
    bool member = reply->site != 0;
    if (!member && reply->certificate_pem.size > 0)
        return error_set(error, INVALID, "site: 0, beside a certificate");
    TRY(wire_check_size(reply->certificate_pem, member ? 1 : 0, member ? WIRE_PEM_LIMIT : 0,
                        "certificate_pem", error));
    TRY(wire_check_size(reply->layout, 0, WIRE_LAYOUT_LIMIT, "layout", error));
    TRY(wire_check_size(reply->ca_pem, 1, WIRE_PEM_LIMIT, "ca_pem", error));
    return wire_check_size(reply->manifest, 1, WIRE_MANIFEST_LIMIT, "manifest", error);
}

static enum status reply_convert(const ProtobufCMessage *message, struct bytes payload,
                                 struct arena *arena, void *out, struct error *error) {
    (void)arena;
    const Atoll__V1__JoinReply *from = (const Atoll__V1__JoinReply *)message;
    struct join_reply reply = {
        .code = from->code, .message = from->message, .server_time_ms = from->server_time_ms};
    if (reply.code != JOIN_OK && payload.size > 0)
        return error_set(error, INVALID, "JoinReply: a layout beside a refusal");
    if (reply.code == JOIN_OK) {
        reply.protocol = from->protocol;
        reply.site = from->site;
        reply.role = from->role;
        reply.certificate_pem = wire_bytes(from->certificate_pem);
        reply.ca_pem = wire_bytes(from->ca_pem);
        reply.manifest = wire_bytes(from->manifest);
        reply.layout = payload;
        TRY(wire_fixed(from->run_id, reply.run_id, sizeof reply.run_id, true, "run_id", error));
        TRY(wire_fixed(from->coordinator_key, reply.coordinator_key, sizeof reply.coordinator_key,
                       true, "coordinator_key", error));
    }
    TRY(reply_check(&reply, error));
    *(struct join_reply *)out = reply;
    return OK;
}

static const struct wire_type reply_type = {&atoll__v1__join_reply__descriptor, 96 * 1024,
                                            128 * 1024, true, reply_convert};

enum status join_reply_encode(const struct join_reply *reply, struct buffer *out,
                              struct error *error) {
    char text[WIRE_MESSAGE_LIMIT + 1];
    struct join_reply cleaned = *reply;
    cleaned.message = wire_text_clean(reply->message, WIRE_MESSAGE_LIMIT, text);
    TRY(reply_check(&cleaned, error));
    Atoll__V1__JoinReply message = ATOLL__V1__JOIN_REPLY__INIT;
    message.code = reply->code;
    message.message = text;
    message.server_time_ms = reply->server_time_ms;
    if (reply->code == JOIN_OK) {
        message.protocol = reply->protocol;
        message.site = reply->site;
        message.role = reply->role;
        message.certificate_pem = wire_binary(reply->certificate_pem);
        message.ca_pem = wire_binary(reply->ca_pem);
        message.manifest = wire_binary(reply->manifest);
        message.run_id = wire_binary(bytes_of(reply->run_id, sizeof reply->run_id));
        message.coordinator_key =
            wire_binary(bytes_of(reply->coordinator_key, sizeof reply->coordinator_key));
    }
    TRY(wire_encode(&reply_type, &message.base, out, error));
    if (reply->code == JOIN_OK) buffer_append(out, reply->layout.data, reply->layout.size);
    return OK;
}

enum status join_reply_decode(struct frame frame, struct arena *arena, struct join_reply *out,
                              struct error *error) {
    return wire_decode(&reply_type, frame, arena, out, error);
}
