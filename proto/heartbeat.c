/* Heartbeat (proto/messages.h): a site's figures up, H and the coordinator's state down. Encode,
 * decode, and the checks of every field. */
#include <string.h>

#include "proto/wire.h"

/* --- request ---------------------------------------------------------------------------------- */

static enum status request_check(const struct heartbeat_request *request, struct error *error) {
    TRY(wire_check_protocol(request->protocol, error));
    TRY(wire_check_rate(request->tokens_per_second, "tokens_per_second", error));
    TRY(wire_check_rate(request->steps_per_second, "steps_per_second", error));
    TRY(wire_check_heldout(&request->heldout, "heldout", error));
    TRY(wire_check_text(request->device, 0, WIRE_DEVICE_LIMIT, "device", error));
    return wire_check_text(request->software, 0, WIRE_SOFTWARE_LIMIT, "software", error);
}

static enum status request_convert(const ProtobufCMessage *message, struct bytes payload,
                                   struct arena *arena, void *out, struct error *error) {
    (void)payload, (void)arena;
    const Atoll__V1__HeartbeatRequest *from = (const Atoll__V1__HeartbeatRequest *)message;
    struct heartbeat_request request = {
        .protocol = from->protocol,
        .epoch = from->epoch,
        .version = from->version,
        .ledger_size = from->ledger_size,
        .phase = from->phase,
        .inner_steps_done = from->inner_steps_done,
        .tokens = from->tokens,
        .tokens_per_second = from->tokens_per_second,
        .steps_per_second = from->steps_per_second,
        .loss = wire_loss(from->loss),
        .staleness = from->staleness,
        .bytes_up = from->bytes_up,
        .bytes_down = from->bytes_down,
        .compute_ms = from->compute_ms,
        .rounds = from->rounds,
        .refused = from->refused,
        .device = from->device,
        .software = from->software,
        .instance = from->instance,
        .turn = from->turn,
        .time_ms = from->time_ms,
        .leaving = from->leaving,
        .heldout = {from->has_heldout, from->heldout_version, from->best_version, from->heldout,
                    from->best_heldout},
    };
    TRY(lost_pairs_read(from->n_lost, from->lost, request.lost_ms, error));
    TRY(wire_fixed(from->last_root, request.last_root, sizeof request.last_root, false, "last_root",
                   error));
    TRY(request_check(&request, error));
    *(struct heartbeat_request *)out = request;
    return OK;
}

static const struct wire_type request_type = {&atoll__v1__heartbeat_request__descriptor, 2 * 1024,
                                              8 * 1024, false, request_convert};

enum status heartbeat_request_encode(const struct heartbeat_request *request, struct buffer *out,
                                     struct error *error) {
    char device[WIRE_DEVICE_LIMIT + 1], software[WIRE_SOFTWARE_LIMIT + 1];
    struct lost_pairs lost;
    struct heartbeat_request cleaned = *request;
    cleaned.device = wire_text_clean(request->device, WIRE_DEVICE_LIMIT, device);
    cleaned.software = wire_text_clean(request->software, WIRE_SOFTWARE_LIMIT, software);
    TRY(request_check(&cleaned, error));
    Atoll__V1__HeartbeatRequest message = ATOLL__V1__HEARTBEAT_REQUEST__INIT;
    message.protocol = request->protocol;
    message.epoch = request->epoch;
    message.version = request->version;
    message.ledger_size = request->ledger_size;
    message.phase = request->phase;
    message.inner_steps_done = request->inner_steps_done;
    message.tokens = request->tokens;
    message.tokens_per_second = request->tokens_per_second;
    message.steps_per_second = request->steps_per_second;
    message.loss = wire_loss(request->loss);
    message.staleness = request->staleness;
    message.bytes_up = request->bytes_up;
    message.bytes_down = request->bytes_down;
    message.compute_ms = request->compute_ms;
    message.n_lost = lost_pairs_fill(&lost, request->lost_ms);
    message.lost = lost.items;
    message.rounds = request->rounds;
    message.refused = request->refused;
    message.device = device;
    message.software = software;
    message.instance = request->instance;
    message.turn = request->turn;
    message.time_ms = request->time_ms;
    message.leaving = request->leaving;
    message.has_heldout = request->heldout.any;
    message.heldout_version = request->heldout.version;
    message.heldout = request->heldout.loss;
    message.best_version = request->heldout.best_version;
    message.best_heldout = request->heldout.best_loss;
    message.last_root = wire_binary_fixed(request->last_root, sizeof request->last_root);
    return wire_encode(&request_type, &message.base, out, error);
}

enum status heartbeat_request_decode(struct frame frame, struct arena *arena,
                                     struct heartbeat_request *out, struct error *error) {
    return wire_decode(&request_type, frame, arena, out, error);
}

/* --- reply ------------------------------------------------------------------------------------ */

static enum status reply_convert(const ProtobufCMessage *message, struct bytes payload,
                                 struct arena *arena, void *out, struct error *error) {
    (void)payload, (void)arena;
    const Atoll__V1__HeartbeatReply *from = (const Atoll__V1__HeartbeatReply *)message;
    struct heartbeat_reply reply = {
        .code = from->code,
        .message = from->message,
        .inner_steps = from->inner_steps,
        .epoch = from->epoch,
        .version = from->version,
        .phase = from->phase,
        .server_time_ms = from->server_time_ms,
        .sites_present = from->sites_present,
        .has_left = from->has_left,
        .turn = from->turn,
        .copies = from->copies,
    };
    TRY(wire_check_text(reply.message, 0, WIRE_MESSAGE_LIMIT, "message", error));
    TRY(wire_check_range(from->n_wanted, 0, WIRE_WANTED_LIMIT, "wanted", error));
    reply.wanted_count = (uint32_t)from->n_wanted;
    for (size_t i = 0; i < from->n_wanted; i++) reply.wanted[i] = from->wanted[i];
    *(struct heartbeat_reply *)out = reply;
    return OK;
}

static const struct wire_type reply_type = {&atoll__v1__heartbeat_reply__descriptor, 1024, 4 * 1024,
                                            false, reply_convert};

enum status heartbeat_reply_encode(const struct heartbeat_reply *reply, struct buffer *out,
                                   struct error *error) {
    char text[WIRE_MESSAGE_LIMIT + 1];
    uint64_t wanted[WIRE_WANTED_LIMIT];
    Atoll__V1__HeartbeatReply message = ATOLL__V1__HEARTBEAT_REPLY__INIT;
    message.code = reply->code;
    message.message = wire_text_clean(reply->message, WIRE_MESSAGE_LIMIT, text);
    message.inner_steps = reply->inner_steps;
    message.epoch = reply->epoch;
    message.version = reply->version;
    message.phase = reply->phase;
    message.server_time_ms = reply->server_time_ms;
    message.sites_present = reply->sites_present;
    message.has_left = reply->has_left;
    message.turn = reply->turn;
    message.copies = reply->copies;
    TRY(wire_check_range(reply->wanted_count, 0, WIRE_WANTED_LIMIT, "wanted", error));
    memcpy(wanted, reply->wanted, reply->wanted_count * sizeof wanted[0]);
    message.n_wanted = reply->wanted_count;
    message.wanted = wanted;
    return wire_encode(&reply_type, &message.base, out, error);
}

enum status heartbeat_reply_decode(struct frame frame, struct arena *arena,
                                   struct heartbeat_reply *out, struct error *error) {
    return wire_decode(&reply_type, frame, arena, out, error);
}
