/* Follow (proto/messages.h): the request, and frames of ledger entries, payload pieces, heads and
 * offers. Encode, decode, and the checks of every field. */
#include "proto/wire.h"

#include <stdlib.h>

#include "base/memory.h"

/* --- request ---------------------------------------------------------------------------------- */

static enum status request_check(const struct follow_request *request, struct error *error) {
    TRY(wire_check_protocol(request->protocol, error));
    TRY(wire_check_range(request->from_index, 0, INT64_MAX, "from_index", error));
    if (request->chunk_limit == 0) return OK;
    return wire_check_range(request->chunk_limit, WIRE_CHUNK_MIN, FRAME_PAYLOAD_LIMIT,
                            "chunk_limit", error);
}

static enum status request_convert(const ProtobufCMessage *message, struct bytes payload,
                                   struct arena *arena, void *out, struct error *error) {
    (void)payload, (void)arena;
    const Atoll__V1__FollowRequest *from = (const Atoll__V1__FollowRequest *)message;
    struct follow_request request = {
        .protocol = from->protocol,
        .from_index = from->from_index,
        .payloads_from_index = from->payloads_from_index,
        .omit_own = from->omit_own,
        .chunk_limit = from->chunk_limit,
        .instance = from->instance,
        .made_plus_1 = from->made_plus_1,
        .restored = from->restored,
    };
    TRY(request_check(&request, error));
    *(struct follow_request *)out = request;
    return OK;
}

static const struct wire_type request_type = {&atoll__v1__follow_request__descriptor, 1024,
                                              4 * 1024, false, request_convert};

enum status follow_request_encode(const struct follow_request *request, struct buffer *out,
                                  struct error *error) {
    TRY(request_check(request, error));
    Atoll__V1__FollowRequest message = ATOLL__V1__FOLLOW_REQUEST__INIT;
    message.protocol = request->protocol;
    message.from_index = request->from_index;
    message.payloads_from_index = request->payloads_from_index;
    message.omit_own = request->omit_own;
    message.chunk_limit = request->chunk_limit;
    message.instance = request->instance;
    message.made_plus_1 = request->made_plus_1;
    message.restored = request->restored;
    return wire_encode(&request_type, &message.base, out, error);
}

enum status follow_request_decode(struct frame frame, struct arena *arena,
                                  struct follow_request *out, struct error *error) {
    return wire_decode(&request_type, frame, arena, out, error);
}

/* --- frames ----------------------------------------------------------------------------------- */

static enum status piece_check(const struct follow_frame *message, struct error *error) {
    if (message->payload_total == 0) {
        TRY(wire_check_range(message->payload_index, 0, 0, "payload_index without payload_total",
                             error));
        return wire_check_range(message->payload_offset, 0, 0,
                                "payload_offset without payload_total", error);
    }
    TRY(wire_check_range(message->payload_total, 1, WIRE_PAYLOAD_TOTAL_LIMIT, "payload_total",
                         error));
    return wire_check_range(message->payload_offset, 0, message->payload_total - 1,
                            "payload_offset", error);
}

static enum status frame_check(const struct follow_frame *message, struct error *error) {
    TRY(wire_check_range(message->entry_count, 0, WIRE_ENTRIES_LIMIT, "entries", error));
    TRY(wire_check_range(message->own_count, 0, WIRE_ENTRIES_LIMIT - message->entry_count, "own",
                         error));
    uint32_t places = message->entry_count + message->own_count;
    TRY(wire_check_range(message->first_index, 0, message->has_first_index ? INT64_MAX : 0,
                         "first_index", error));
    for (uint32_t i = 0; i < message->entry_count; i++)
        TRY(wire_check_size(message->entries[i], 1, WIRE_ENTRY_LIMIT, "entries", error));
    uint32_t free_from = 0;
    for (uint32_t i = 0; i < message->own_count; i++) {
        TRY(wire_check_range(message->own[i].place, free_from, places - 1, "own.place", error));
        TRY(wire_check_range(message->own[i].sequence, 1, UINT64_MAX, "own.sequence", error));
        free_from = message->own[i].place + 1;
    }
    TRY(wire_check_range(message->dropped_count, 0, WIRE_ENTRIES_LIMIT, "dropped", error));
    TRY(wire_check_size(message->head, 0, WIRE_HEAD_LIMIT, "head", error));
    return piece_check(message, error);
}

static enum status frame_convert(const ProtobufCMessage *raw, struct bytes payload,
                                 struct arena *arena, void *out, struct error *error) {
    const Atoll__V1__FollowFrame *from = (const Atoll__V1__FollowFrame *)raw;
    TRY(wire_check_range(from->n_entries, 0, WIRE_ENTRIES_LIMIT, "entries", error));
    TRY(wire_check_range(from->n_own, 0, WIRE_ENTRIES_LIMIT, "own", error));
    struct bytes *entries = arena_take(arena, from->n_entries * sizeof *entries);
    struct follow_own *own = arena_take(arena, from->n_own * sizeof *own);
    TRY(wire_check_range(from->n_dropped, 0, WIRE_ENTRIES_LIMIT, "dropped", error));
    uint64_t *dropped = arena_take(arena, from->n_dropped * sizeof *dropped);
    if (!entries || !own || !dropped) return error_set(error, INVALID, "takes too much memory");
    for (size_t i = 0; i < from->n_entries; i++) entries[i] = wire_bytes(from->entries[i]);
    for (size_t i = 0; i < from->n_dropped; i++) dropped[i] = from->dropped[i];
    for (size_t i = 0; i < from->n_own; i++)
        own[i] =
            (struct follow_own){from->own[i]->place, from->own[i]->sequence, from->own[i]->time_ms,
                                from->own[i]->epoch, from->own[i]->header};
    struct follow_frame message = {
        .has_first_index = from->first_index_plus_1 > 0,
        .first_index = from->first_index_plus_1 > 0 ? from->first_index_plus_1 - 1 : 0,
        .entry_count = (uint32_t)from->n_entries,
        .entries = entries,
        .own_count = (uint32_t)from->n_own,
        .own = own,
        .dropped_count = (uint32_t)from->n_dropped,
        .dropped = dropped,
        .head = wire_bytes(from->head),
        .payload_total = from->payload_total,
        .payload_index = from->payload_index,
        .payload_offset = from->payload_offset,
        .payload = payload,
    };
    TRY(frame_check(&message, error));
    if (message.payload_total == 0) {
        TRY(wire_check_size(payload, 0, 0, "payload without payload_total", error));
    } else {
        TRY(wire_check_size(payload, 1, FRAME_PAYLOAD_LIMIT, "payload", error));
        TRY(wire_check_range(payload.size, 1, message.payload_total - message.payload_offset,
                             "payload past payload_total", error));
    }
    *(struct follow_frame *)out = message;
    return OK;
}

static const struct wire_type frame_type = {&atoll__v1__follow_frame__descriptor,
                                            FRAME_HEADER_LIMIT, ARENA_SIZE, true, frame_convert};

enum status follow_frame_encode(const struct follow_frame *message, struct buffer *out,
                                struct error *error) {
    TRY(frame_check(message, error));
    Atoll__V1__FollowFrame frame = ATOLL__V1__FOLLOW_FRAME__INIT;
    uint64_t *dropped = xcalloc(message->dropped_count, sizeof *dropped);
    ProtobufCBinaryData *entries = xcalloc(message->entry_count, sizeof *entries);
    Atoll__V1__FollowOwn *own = xcalloc(message->own_count, sizeof *own),
                         **own_items = xcalloc(message->own_count, sizeof *own_items);
    for (uint32_t i = 0; i < message->entry_count; i++)
        entries[i] = wire_binary(message->entries[i]);
    for (uint32_t i = 0; i < message->own_count; i++) {
        own_items[i] = &own[i];
        atoll__v1__follow_own__init(&own[i]);
        own[i].place = message->own[i].place;
        own[i].sequence = message->own[i].sequence;
        own[i].time_ms = message->own[i].time_ms;
        own[i].epoch = message->own[i].epoch;
        own[i].header = message->own[i].header;
    }
    frame.first_index_plus_1 = message->has_first_index ? message->first_index + 1 : 0;
    frame.n_entries = message->entry_count;
    frame.entries = entries;
    frame.n_own = message->own_count;
    frame.own = own_items;
    for (uint32_t i = 0; i < message->dropped_count; i++) dropped[i] = message->dropped[i];
    frame.n_dropped = message->dropped_count;
    frame.dropped = dropped;
    frame.head = wire_binary(message->head);
    frame.payload_total = message->payload_total;
    frame.payload_index = message->payload_index;
    frame.payload_offset = message->payload_offset;
    enum status status = wire_encode(&frame_type, &frame.base, out, error);
    free(dropped);
    free(entries);
    free(own);
    free(own_items);
    return status;
}

enum status follow_frame_decode(struct frame frame, struct arena *arena, struct follow_frame *out,
                                struct error *error) {
    return wire_decode(&frame_type, frame, arena, out, error);
}

bool follow_next(const struct follow_frame *frame, struct follow_cursor *cursor,
                 struct follow_item *item) {
    *item = (struct follow_item){.place = cursor->place};
    if (cursor->own < frame->own_count && frame->own[cursor->own].place == cursor->place) {
        item->own = &frame->own[cursor->own++];
    } else if (cursor->entry < frame->entry_count) {
        item->entry = frame->entries[cursor->entry++];
    } else {
        return false;
    }
    cursor->place++;
    return true;
}
