/* The coordinator's calls: Submit from header to verdict, Follow, and the short ones. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "coordinator/follow_place.h"
#include "sim/coordinator_internal.h"

struct simulated_call *coordinator_call(struct coordinator *coordinator, uint64_t number) {
    for (size_t i = 0; i < coordinator->call_count; i++) {
        if (coordinator->calls[i].number == number) return &coordinator->calls[i];
    }
    return NULL;
}

static struct simulated_call *call_on(struct coordinator *coordinator, uint32_t stream) {
    for (size_t i = 0; i < coordinator->call_count; i++) {
        if (coordinator->calls[i].stream == stream) return &coordinator->calls[i];
    }
    return NULL;
}

void coordinator_call_end(struct coordinator *coordinator, struct simulated_call *call) {
    transfers_close(coordinator->transfers, call->number);
    size_t at = (size_t)(call - coordinator->calls);
    memmove(call, call + 1, (coordinator->call_count - at - 1) * sizeof *call);
    coordinator->call_count--;
}

/* The last message of a call; takes its bytes. */
void coordinator_answer(struct coordinator *coordinator, uint64_t number, struct message *message) {
    struct simulated_call *call = coordinator_call(coordinator, number);
    if (!call) {
        buffer_deinit(&message->bytes);
        return;
    }
    uint32_t stream = call->stream;
    bool follow = call->kind == MESSAGE_FOLLOW;
    uint32_t site = call->site;
    uint64_t instance = call->instance;
    network_send(coordinator->setup.network, stream, false, message);
    network_close(coordinator->setup.network, stream, false);
    coordinator_call_end(coordinator, call);
    if (!follow) return;
    struct coordinator_event event = {.kind = COORDINATOR_FOLLOWING, .call = number};
    event.following.site = site;
    event.following.instance = instance;
    coordinator_step(coordinator, &event);
}

static struct simulated_call *call_begin(struct coordinator *coordinator, uint32_t stream,
                                         uint32_t site, enum message_kind kind) {
    if (coordinator->call_count == coordinator->call_capacity) {
        coordinator->call_capacity =
            coordinator->call_capacity ? coordinator->call_capacity * 2 : 32;
        coordinator->calls =
            xrealloc(coordinator->calls, coordinator->call_capacity * sizeof coordinator->calls[0]);
    }
    struct simulated_call *call = &coordinator->calls[coordinator->call_count++];
    *call = (struct simulated_call){
        .number = ++coordinator->next_call, .stream = stream, .site = site, .kind = kind};
    return call;
}

/* ---- Submit ---------------------------------------------------------------------------------- */

/* One site has a quarter of the places at most. */
static void check_places(const struct coordinator *coordinator, uint32_t site) {
    uint32_t limit = coordinator->setup.scenario->uploads_limit, count = 0;
    for (size_t i = 0; i < coordinator->call_count; i++)
        count += coordinator->calls[i].admitted && coordinator->calls[i].site == site;
    if (count > MAX(limit / 4, 1))
        world_fail(coordinator->world, "places", "site %u has %u of %u places", site, count, limit);
}

void coordinator_admit(struct coordinator *coordinator, const struct coordinator_action *action) {
    struct simulated_call *call = coordinator_call(coordinator, action->call);
    struct message credit = {.kind = MESSAGE_CREDIT, .b = coordinator->setup.scenario->chunk_limit};
    if (!call) return;
    uint32_t stream = call->stream;
    call->admitted = !action->supply;
    check_places(coordinator, call->site);
    if (transfers_admit(coordinator->transfers, action->call, &action->contribution, action->supply,
                        coordinator_now(coordinator).monotonic_ms, &credit.a) == TRANSFER_CREDIT)
        network_send(coordinator->setup.network, stream, false, &credit);
}

/* One that nobody asked for any more was under way when its upload ended. */
static void take_chunk(struct coordinator *coordinator, const struct simulated_call *call,
                       const struct message *message) {
    (void)transfers_chunk(coordinator->transfers, call->number, message->a,
                          buffer_bytes(&message->bytes));
}

void coordinator_check(struct coordinator *coordinator, const struct coordinator_action *action) {
    transfers_check(coordinator->transfers, action->call, &action->contribution);
    coordinator_look_after(coordinator, action->contribution.payload_digest);
}

static void open_submit(struct coordinator *coordinator, struct simulated_call *call,
                        const struct message *message) {
    struct coordinator_event event = {.kind = COORDINATOR_SUBMIT_OPEN, .call = call->number};
    event.submit.site = call->site;
    event.submit.waits = !coordinator->setup.scenario->overlap;
    event.submit.instance = message->instance;
    event.submit.supply = message->a != 0;
    memcpy(call->header, message->bytes.data, CONTRIBUTION_HEADER_SIZE);
    memcpy(call->signature, message->bytes.data + CONTRIBUTION_HEADER_SIZE, SIGNATURE_SIZE);
    memcpy(event.submit.header, call->header, CONTRIBUTION_HEADER_SIZE);
    memcpy(event.submit.signature, call->signature, SIGNATURE_SIZE);
    coordinator_step(coordinator, &event);
}

/* ---- Follow ---------------------------------------------------------------------------------- */

static void put_piece(struct buffer *out, struct bytes piece) {
    buffer_u32(out, (uint32_t)piece.size);
    buffer_append(out, piece.data, piece.size);
}

static bool is_dropped(void *context, uint64_t index) {
    const struct coordinator *coordinator = context;
    return run_state_dropped(coordinator_state_run(coordinator->state), index);
}

static struct follow_place place_at(struct coordinator *coordinator,
                                    const struct simulated_call *call, uint64_t index) {
    struct follower follower = {.site = call->site,
                                .omit_own = call->omit_own,
                                .payloads_from = call->payloads_from,
                                .is_dropped = is_dropped,
                                .context = coordinator};
    struct follow_place place;
    MUST(follow_place_of(buffer_bytes(&coordinator->disk.entries[index]), index, &follower, &place,
                         NULL)); /* a damaged entry was found before */
    return place;
}

static void put_entry(struct coordinator *coordinator, const struct simulated_call *call,
                      uint64_t index, struct buffer *out) {
    struct follow_place place = place_at(coordinator, call, index);
    const struct buffer *blob =
        place.has_payload ? disk_blob_find(&coordinator->disk, place.contribution.payload_digest)
                          : NULL;
    buffer_u8(out, place.is_own ? ENTRY_OWN : place.is_dropped ? ENTRY_DROPPED : ENTRY_WHOLE);
    if (place.is_own) {
        struct buffer stub = {0};
        buffer_u32(&stub, place.stub.epoch);
        buffer_u64(&stub, place.stub.time_ms);
        buffer_u64(&stub, place.stub.sequence);
        buffer_u32(&stub, place.stub.header);
        put_piece(out, buffer_bytes(&stub));
        buffer_deinit(&stub);
    } else {
        put_piece(out, buffer_bytes(&coordinator->disk.entries[index]));
    }
    put_piece(out, blob ? buffer_bytes(blob) : (struct bytes){0});
}

/* False: a payload that the follower needs is lost, as the core hears, and the follower comes
 * again later. */
static bool payloads_are_whole(struct coordinator *coordinator, const struct simulated_call *call,
                               uint64_t from, uint64_t end) {
    for (uint64_t index = from; index < end; index++) {
        struct follow_place place = place_at(coordinator, call, index);
        if (!place.has_payload ||
            disk_blob_is_whole(&coordinator->disk, place.contribution.payload_digest))
            continue;
        coordinator_tell_lost(coordinator, index, &place.contribution);
        return false;
    }
    return true;
}

enum { BATCH = 6, HEAD_EVERY = 5 };

/* False: the call is over. */
static bool pump(struct coordinator *coordinator, struct simulated_call *call) {
    if (coordinator->disk.damaged_entry >= call->next &&
        coordinator->disk.damaged_entry < coordinator->published) {
        coordinator_break(coordinator, "an entry of the ledger is damaged");
        return true;
    }
    while (call->next < coordinator->published) {
        struct message message = {.kind = MESSAGE_ENTRIES, .a = call->next};
        uint64_t number = call->number, end = MIN(call->next + BATCH, coordinator->published);
        if (!payloads_are_whole(coordinator, call, call->next, end)) {
            call = coordinator_call(coordinator, number);
            uint32_t site = call->site;
            uint64_t instance = call->instance;
            network_close(coordinator->setup.network, call->stream, false);
            coordinator_call_end(coordinator, call);
            struct coordinator_event event = {.kind = COORDINATOR_FOLLOWING, .call = number};
            event.following.site = site;
            event.following.instance = instance;
            coordinator_step(coordinator, &event);
            return false;
        }
        for (; message.b < BATCH && call->next < coordinator->published; message.b++)
            put_entry(coordinator, call, call->next++, &message.bytes);
        network_send(coordinator->setup.network, call->stream, false, &message);
    }
    uint64_t size = coordinator_state_committed(coordinator->state);
    if (size < call->head_size + HEAD_EVERY) return true;
    uint8_t head[HEAD_SIZE];
    struct message message = {.kind = MESSAGE_HEAD};
    coordinator_state_head(coordinator->state, head);
    buffer_append(&message.bytes, head, sizeof head);
    call->head_size = size;
    network_send(coordinator->setup.network, call->stream, false, &message);
    return true;
}

void coordinator_publish(struct coordinator *coordinator, uint64_t size) {
    coordinator->published = MAX(coordinator->published, MIN(size, coordinator->disk.entry_count));
    uint64_t *follows = xcalloc(coordinator->call_count + 1, sizeof *follows);
    size_t count = 0; /* calls may end while one is served */
    for (size_t i = 0; i < coordinator->call_count; i++) {
        if (coordinator->calls[i].kind == MESSAGE_FOLLOW)
            follows[count++] = coordinator->calls[i].number;
    }
    for (size_t i = 0; i < count; i++) {
        struct simulated_call *call = coordinator_call(coordinator, follows[i]);
        if (call) (void)pump(coordinator, call);
    }
    free(follows);
}

static void open_follow(struct coordinator *coordinator, struct simulated_call *call,
                        const struct message *message) {
    struct coordinator_event event = {.kind = COORDINATOR_FOLLOWING, .call = call->number};
    call->next = call->head_size = message->a;
    call->payloads_from = message->b;
    call->omit_own = message->c != 0;
    call->instance = message->instance;
    event.following.site = call->site;
    event.following.instance = message->instance;
    event.following.made_plus_1 = message->made_plus_1;
    event.following.restored = message->restored;
    event.following.open = true;
    if (call->next > coordinator->disk.entry_count)
        world_fail(coordinator->world, "I4", "site %u follows from entry %llu, there are %llu",
                   call->site, (unsigned long long)call->next,
                   (unsigned long long)coordinator->disk.entry_count);
    uint64_t number = call->number;
    coordinator_step(coordinator, &event); /* that it is there, before that it is not */
    call = coordinator_call(coordinator, number);
    if (call) (void)pump(coordinator, call);
}

/* ---- the short ones -------------------------------------------------------------------------- */

/* A damaged one goes, and the site comes again. */
static void spoil_snapshot(struct coordinator *coordinator, struct simulated_call *call,
                           const struct snapshot_header *header) {
    struct error error = {0};
    enum status status = directory_snapshot_delete(&coordinator->data, header, &error);
    world_trace(coordinator->world, "coordinator  a damaged snapshot is taken away: %s",
                status == OK ? "done" : error.message);
    network_close(coordinator->setup.network, call->stream, false);
    coordinator_call_end(coordinator, call);
}

static void send_snapshot(struct coordinator *coordinator, struct simulated_call *call,
                          const uint8_t *raw, const struct buffer *content, uint64_t from) {
    const size_t piece = 16384;
    for (size_t at = MIN((size_t)from, content->size); at < content->size; at += piece) {
        struct message part = {.kind = MESSAGE_SNAPSHOT, .a = 1, .b = at, .c = content->size};
        buffer_append(&part.bytes, raw, SNAPSHOT_HEADER_SIZE);
        buffer_append(&part.bytes, content->data + at, MIN(piece, content->size - at));
        network_send(coordinator->setup.network, call->stream, false, &part);
    }
    network_close(coordinator->setup.network, call->stream, false);
    coordinator_call_end(coordinator, call);
}

static void open_fetch(struct coordinator *coordinator, struct simulated_call *call,
                       const struct message *message) {
    struct snapshot_header header;
    uint8_t raw[SNAPSHOT_HEADER_SIZE];
    struct buffer content = {0};
    struct message reply = {.kind = MESSAGE_SNAPSHOT, .b = message->b};
    enum status status =
        directory_snapshot_header(&coordinator->data, message->a ? message->a : UINT64_MAX,
                                  key_pair_public(coordinator->setup.key), raw, &header, NULL);
    if (status != OK || (message->a && header.version != message->a)) {
        coordinator_answer(coordinator, call->number, &reply);
        if (status != OK && !message->a)
            coordinator_step(coordinator,
                             &(struct coordinator_event){.kind = COORDINATOR_NO_SNAPSHOT});
        return;
    }
    if (blob_read(coordinator->data.blobs, header.content_digest, header.content_size, &content,
                  NULL) != OK) {
        spoil_snapshot(coordinator, call, &header);
    } else if (message->c) { /* the offer alone */
        reply.a = 1;
        reply.c = content.size;
        buffer_append(&reply.bytes, raw, SNAPSHOT_HEADER_SIZE);
        coordinator_answer(coordinator, call->number, &reply);
    } else {
        send_snapshot(coordinator, call, raw, &content, message->b);
    }
    buffer_deinit(&content);
}

static void open_join(struct coordinator *coordinator, const struct simulated_call *call,
                      const struct message *message) {
    struct coordinator_event event = {.kind = COORDINATOR_JOIN, .call = call->number};
    struct reader reader = reader_of(buffer_bytes(&message->bytes));
    reader_copy(&reader, event.join.secret_digest, DIGEST_SIZE);
    reader_copy(&reader, event.join.public_key, PUBLIC_KEY_SIZE);
    reader_copy(&reader, event.join.name, SITE_NAME_SIZE);
    coordinator_step(coordinator, &event);
}

static bool is_revoked(const struct coordinator *coordinator, uint32_t site) {
    const struct run_site *found = run_state_site(coordinator_state_run(coordinator->state), site);
    return !found || found->revoked;
}

void coordinator_message(struct coordinator *coordinator, uint32_t stream, uint32_t site_process,
                         uint32_t certificate, const struct message *message) {
    (void)site_process;
    if (!coordinator->state || process_is_doomed(coordinator->world, COORDINATOR)) return;
    struct simulated_call *call = call_on(coordinator, stream);
    if (message->kind == MESSAGE_CHUNK) {
        if (call) take_chunk(coordinator, call, message);
        return;
    }
    if (call) return; /* nothing else follows an opening */
    call = call_begin(coordinator, stream, certificate, message->kind);
    /* A Submit by a revoked site goes to the core, which must refuse it without help. */
    if (message->kind != MESSAGE_JOIN && message->kind != MESSAGE_SUBMIT &&
        is_revoked(coordinator, certificate)) {
        struct message denied = {.kind = MESSAGE_DENIED};
        call->kind = MESSAGE_DENIED;
        coordinator_answer(coordinator, call->number, &denied);
        return;
    }
    switch (message->kind) {
    case MESSAGE_SUBMIT: open_submit(coordinator, call, message); break;
    case MESSAGE_FOLLOW: open_follow(coordinator, call, message); break;
    case MESSAGE_FETCH: open_fetch(coordinator, call, message); break;
    case MESSAGE_JOIN: open_join(coordinator, call, message); break;
    case MESSAGE_HEARTBEAT: {
        struct coordinator_event event = {.kind = COORDINATOR_HEARTBEAT, .call = call->number};
        event.heartbeat.site = certificate;
        event.heartbeat.instance = message->instance;
        event.heartbeat.turn = message->turn;
        event.heartbeat.leaving = message->leaving;
        coordinator_step(coordinator, &event);
        break;
    }
    default: break;
    }
}

void coordinator_closed(struct coordinator *coordinator, uint32_t stream) {
    if (!coordinator->state || process_is_doomed(coordinator->world, COORDINATOR)) return;
    struct simulated_call *call = call_on(coordinator, stream);
    if (!call) return;
    struct coordinator_event event = {.kind = COORDINATOR_CALL_GONE, .call = call->number};
    if (call->kind == MESSAGE_FOLLOW) {
        event = (struct coordinator_event){.kind = COORDINATOR_FOLLOWING, .call = call->number};
        event.following.site = call->site;
        event.following.instance = call->instance;
    }
    coordinator_call_end(coordinator, call);
    coordinator_step(coordinator, &event);
}
