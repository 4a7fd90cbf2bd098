/* Submit (proto/messages.h): open and chunk frames up; credit, receipt and refusal down. Encode,
 * decode, and the checks of every field. */
#include "proto/wire.h"

/* --- client -> server ------------------------------------------------------------------------- */

static enum status frame_check(const struct submit_frame *message, struct error *error) {
    switch (message->kind) {
    case SUBMIT_OPEN: return wire_check_protocol(message->open.protocol, error);
    case SUBMIT_CHUNK:
        return wire_check_range(message->chunk.offset, 0, WIRE_PAYLOAD_TOTAL_LIMIT - 1,
                                "chunk.offset", error);
    }
    return error_set(error, INVALID, "kind: neither open nor chunk");
}

static enum status frame_convert(const ProtobufCMessage *raw, struct bytes payload,
                                 struct arena *arena, void *out, struct error *error) {
    (void)arena;
    const Atoll__V1__SubmitFrame *from = (const Atoll__V1__SubmitFrame *)raw;
    if (!from->open == !from->chunk)
        return error_set(error, INVALID, "%s of open and chunk", from->open ? "both" : "none");
    struct submit_frame message = {.payload = payload};
    if (from->open) {
        message.kind = SUBMIT_OPEN;
        message.open.protocol = from->open->protocol;
        message.open.waits = from->open->waits != 0;
        message.open.instance = from->open->instance;
        message.open.supply = from->open->supply;
        TRY(wire_fixed(from->open->header, message.open.header, sizeof message.open.header, true,
                       "open.header", error));
        TRY(wire_fixed(from->open->signature, message.open.signature, sizeof message.open.signature,
                       true, "open.signature", error));
        TRY(wire_check_size(payload, 0, 0, "payload of an open", error));
    } else {
        message.kind = SUBMIT_CHUNK;
        message.chunk.offset = from->chunk->offset;
        TRY(wire_check_size(payload, 1, FRAME_PAYLOAD_LIMIT, "payload of a chunk", error));
    }
    TRY(frame_check(&message, error));
    *(struct submit_frame *)out = message;
    return OK;
}

static const struct wire_type frame_type = {&atoll__v1__submit_frame__descriptor, 1024, 4 * 1024,
                                            true, frame_convert};

enum status submit_frame_encode(const struct submit_frame *message, struct buffer *out,
                                struct error *error) {
    TRY(frame_check(message, error));
    Atoll__V1__SubmitFrame frame = ATOLL__V1__SUBMIT_FRAME__INIT;
    Atoll__V1__SubmitOpen open = ATOLL__V1__SUBMIT_OPEN__INIT;
    Atoll__V1__SubmitChunk chunk = ATOLL__V1__SUBMIT_CHUNK__INIT;
    if (message->kind == SUBMIT_OPEN) {
        open.protocol = message->open.protocol;
        open.waits = message->open.waits;
        open.instance = message->open.instance;
        open.supply = message->open.supply;
        open.header = wire_binary(bytes_of(message->open.header, sizeof message->open.header));
        open.signature =
            wire_binary(bytes_of(message->open.signature, sizeof message->open.signature));
        frame.open = &open;
    } else {
        chunk.offset = message->chunk.offset;
        frame.chunk = &chunk;
    }
    return wire_encode(&frame_type, &frame.base, out, error);
}

enum status submit_frame_decode(struct frame frame, struct arena *arena, struct submit_frame *out,
                                struct error *error) {
    return wire_decode(&frame_type, frame, arena, out, error);
}

/* --- server -> client ------------------------------------------------------------------------- */

static enum status reply_check(const struct submit_reply *reply, struct error *error) {
    switch (reply->kind) {
    case SUBMIT_CREDIT:
        TRY(wire_check_range(reply->credit.resume_offset, 0, WIRE_PAYLOAD_TOTAL_LIMIT,
                             "credit.resume_offset", error));
        return wire_check_range(reply->credit.chunk_limit, WIRE_CHUNK_MIN, FRAME_PAYLOAD_LIMIT,
                                "credit.chunk_limit", error);
    case SUBMIT_RECEIPT:
        return wire_check_size(reply->receipt, 1, WIRE_RECEIPT_LIMIT, "receipt", error);
    case SUBMIT_REFUSAL:
        TRY(wire_check_range(reply->refusal.code, 1, UINT32_MAX, "refusal.code", error));
        TRY(wire_check_text(reply->refusal.message, 0, WIRE_MESSAGE_LIMIT, "refusal.message",
                            error));
        return wire_check_size(reply->refusal.receipt, 0, WIRE_RECEIPT_LIMIT, "refusal.receipt",
                               error);
    }
    return error_set(error, INVALID, "kind: none of credit, receipt, refusal");
}

static enum status reply_convert(const ProtobufCMessage *message, struct bytes payload,
                                 struct arena *arena, void *out, struct error *error) {
    (void)payload, (void)arena;
    const Atoll__V1__SubmitReply *from = (const Atoll__V1__SubmitReply *)message;
    if (!!from->credit + !!from->receipt + !!from->refusal != 1)
        return error_set(error, INVALID, "not exactly one of credit, receipt, refusal");
    struct submit_reply reply = {0};
    if (from->credit) {
        reply.kind = SUBMIT_CREDIT;
        reply.credit.resume_offset = from->credit->resume_offset;
        reply.credit.chunk_limit = from->credit->chunk_limit;
    } else if (from->receipt) {
        reply.kind = SUBMIT_RECEIPT;
        reply.receipt = wire_bytes(from->receipt->receipt);
    } else {
        reply.kind = SUBMIT_REFUSAL;
        reply.refusal.code = from->refusal->code;
        reply.refusal.message = from->refusal->message;
        reply.refusal.retry_after_ms = from->refusal->retry_after_ms;
        reply.refusal.current_version = from->refusal->current_version;
        reply.refusal.receipt = wire_bytes(from->refusal->receipt);
    }
    TRY(reply_check(&reply, error));
    *(struct submit_reply *)out = reply;
    return OK;
}

static const struct wire_type reply_type = {&atoll__v1__submit_reply__descriptor, 8 * 1024,
                                            16 * 1024, false, reply_convert};

enum status submit_reply_encode(const struct submit_reply *reply, struct buffer *out,
                                struct error *error) {
    char text[WIRE_MESSAGE_LIMIT + 1];
    struct submit_reply cleaned = *reply;
    if (reply->kind == SUBMIT_REFUSAL)
        cleaned.refusal.message = wire_text_clean(reply->refusal.message, WIRE_MESSAGE_LIMIT, text);
    TRY(reply_check(&cleaned, error));
    Atoll__V1__SubmitReply message = ATOLL__V1__SUBMIT_REPLY__INIT;
    Atoll__V1__SubmitCredit credit = ATOLL__V1__SUBMIT_CREDIT__INIT;
    Atoll__V1__SubmitReceipt receipt = ATOLL__V1__SUBMIT_RECEIPT__INIT;
    Atoll__V1__SubmitRefusal refusal = ATOLL__V1__SUBMIT_REFUSAL__INIT;
    if (reply->kind == SUBMIT_CREDIT) {
        credit.resume_offset = reply->credit.resume_offset;
        credit.chunk_limit = reply->credit.chunk_limit;
        message.credit = &credit;
    } else if (reply->kind == SUBMIT_RECEIPT) {
        receipt.receipt = wire_binary(reply->receipt);
        message.receipt = &receipt;
    } else {
        refusal.code = reply->refusal.code;
        refusal.message = text;
        refusal.retry_after_ms = reply->refusal.retry_after_ms;
        refusal.current_version = reply->refusal.current_version;
        refusal.receipt = wire_binary(reply->refusal.receipt);
        message.refusal = &refusal;
    }
    return wire_encode(&reply_type, &message.base, out, error);
}

enum status submit_reply_decode(struct frame frame, struct arena *arena, struct submit_reply *out,
                                struct error *error) {
    return wire_decode(&reply_type, frame, arena, out, error);
}
