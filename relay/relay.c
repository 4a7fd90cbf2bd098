/* A relay's connection to the node, and its loop (relay/relay.h). */
#include "relay/relay.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "attach/border_socket.h"
#include "base/clock.h"
#include "base/ending.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "relay/relay_internal.h"
#include "relay/relay_socket.h"

enum {
    CONNECT_MS = 5000,
    GREETING_MS = 8000,
    SILENCE_MS = 20000,
    PING_MS = 1000,
    BACKOFF_LEAST_MS = 100,
    BACKOFF_MOST_MS = 2000,
    LOOK_MS = 1,
    IDLE_MS = 100
};

/* ---- the connection -------------------------------------------------------------------------- */

/* All that ranks here wait for is over with it. */
static void lose_link(struct relay *relay, const char *why) {
    if (relay->greeted || strcmp(relay->why, why) != 0)
        log_warn("node_lost", "to=\"%s\" ranks=%zu message=\"%s\"", relay->options->to,
                 relay->rank_count, why);
    snprintf(relay->why, sizeof relay->why, "the relay has no connection to the node at %s: %.300s",
             relay->options->to, why);
    relay_link_destroy(relay->link);
    relay->link = NULL;
    relay->greeted = false;
    for (size_t i = 0; i < relay->rank_count; i++)
        if (relay->ranks[i]->greeted) relay_rank_end(relay->ranks[i], WIRE_APART, relay->why);
    relay_mirror_release(relay->mirror);
    relay->mirror = NULL;
    relay->next_ms = clock_monotonic_ms() + relay->backoff_ms;
    relay->backoff_ms = MIN(2 * relay->backoff_ms, (uint64_t)BACKOFF_MOST_MS);
    if (relay->stopping) relay->over = true;
}

static void try_to_connect(struct relay *relay) {
    struct error error = {0};
    struct frame_hello hello = {
        .magic = RELAY_MAGIC, .version = RELAY_VERSION, .border_version = WIRE_BORDER_VERSION};
    int descriptor;
    if (relay->link || clock_monotonic_ms() < relay->next_ms) return;
    enum status status = relay_socket_connect(relay->options->to, CONNECT_MS, &descriptor, &error);
    if (status == OK) status = relay_link_create(relay->tls, descriptor, &relay->link, &error);
    if (status != OK) {
        lose_link(relay, error.message);
        return;
    }
    relay->since_ms = clock_monotonic_ms();
    relay_link_send(relay->link, FRAME_HELLO, 0, &hello, sizeof hello, NULL, 0);
}

static void ping(struct relay *relay) {
    uint64_t now = clock_monotonic_ms();
    struct frame_ping ping = {.at_ns = clock_monotonic_ns(), .round_trip_us = relay->round_trip_us};
    if (!relay->greeted || now - relay->pinged_ms < PING_MS) return;
    relay->pinged_ms = now;
    relay_link_send(relay->link, FRAME_PING, 0, &ping, sizeof ping, NULL, 0);
}

/* ---- what the node says ---------------------------------------------------------------------- */

#define FRAME_AS(frame, out)                                                                       \
    ((frame)->size == sizeof *(out) ? (memcpy((out), (frame)->data, sizeof *(out)), true) : false)

static enum status take_hello(struct relay *relay, const struct relay_frame *frame,
                              struct error *error) {
    struct frame_hello hello;
    if (frame->type == FRAME_WRONG)
        return error_set(error, REFUSED, "%.*s", (int)MIN(frame->size, (size_t)300),
                         (const char *)frame->data);
    if (frame->type != FRAME_HELLO || !FRAME_AS(frame, &hello) || hello.magic != RELAY_MAGIC)
        return error_set(error, INVALID, "it does not answer as a node does");
    /* from now on: who waits for the socket to be there may then attach at once */
    if (relay->listener < 0)
        TRY(border_socket_listen(relay->options->socket, &relay->listener, error));
    relay->greeted = true;
    relay->backoff_ms = BACKOFF_LEAST_MS;
    relay->pinged_ms = 0;
    log_info("node_reached", "to=\"%s\"", relay->options->to);
    return OK;
}

static enum status take_memory(struct relay *relay, const struct relay_frame *frame,
                               struct error *error) {
    struct frame_memory part;
    if (frame->size < sizeof part) return error_set(error, INVALID, "a memory of no bytes");
    memcpy(&part, frame->data, sizeof part);
    if (part.part != frame->size - sizeof part)
        return error_set(error, INVALID, "a memory of other bytes than it says");
    if (part.at == 0) {
        relay_mirror_release(relay->mirror);
        relay->mirror = NULL;
        TRY(relay_mirror_begin(&part, &relay->mirror, error));
    }
    if (!relay->mirror) return error_set(error, INVALID, "a memory without its front");
    return relay_mirror_add(relay->mirror, &part, frame->data + sizeof part, error);
}

/* What ranks here hold, each place once; all of them have declared by the first offer. */
static void collect_held(struct relay *relay) {
    struct relay_mirror *mirror = relay->mirror;
    size_t count = 0;
    for (size_t i = 0; i < relay->rank_count; i++)
        if (relay->ranks[i]->mirror == mirror) count += relay->ranks[i]->share.count;
    mirror->held = xcalloc(count + 1, sizeof *mirror->held);
    for (size_t i = 0; i < relay->rank_count; i++) {
        const struct rank_share *share = &relay->ranks[i]->share;
        if (relay->ranks[i]->mirror != mirror || share->count == 0) continue;
        memcpy(mirror->held + mirror->held_count, share->pieces,
               share->count * sizeof *share->pieces);
        mirror->held_count += share->count;
    }
    mirror->held_count = coverage_distinct(mirror->held, mirror->held_count);
}

static void say_has(struct relay *relay) {
    struct frame_has has = {.session = relay->mirror->session, .offer = relay->mirror->offer};
    if (relay->mirror->floats_left == 0)
        relay_link_send(relay->link, FRAME_HAS, 0, &has, sizeof has, NULL, 0);
}

static enum status take_offered(struct relay *relay, const struct relay_frame *frame,
                                struct error *error) {
    struct frame_offer offer;
    if (!FRAME_AS(frame, &offer)) return error_set(error, INVALID, "an offer that is none");
    if (!relay->mirror->held) collect_held(relay);
    TRY(relay_mirror_offer(relay->mirror, &offer, error));
    say_has(relay);
    return OK;
}

static enum status take_data(struct relay *relay, const struct relay_frame *frame,
                             struct error *error) {
    TRY(relay_mirror_data(relay->mirror, frame->data, frame->size, error));
    say_has(relay);
    return OK;
}

static enum status take_order(struct relay *relay, const struct relay_frame *frame,
                              struct error *error) {
    struct frame_order order;
    if (!FRAME_AS(frame, &order)) return error_set(error, INVALID, "an order that is none");
    return relay_mirror_order(relay->mirror, &order, error);
}

/* For ranks that are not attached now, and will find no relay. */
static void note_end(struct relay *relay) {
    relay->stopping = true;
    (void)!file_write(relay->options->token_file, bytes_of(WIRE_OVER, sizeof WIRE_OVER - 1), 0600,
                      NULL);
}

static enum status take_tell(struct relay *relay, const struct relay_frame *frame,
                             struct error *error) {
    struct frame_tell tell;
    if (!FRAME_AS(frame, &tell)) return error_set(error, INVALID, "the node tells nothing");
    relay_mirror_tell(relay->mirror, &tell);
    if ((tell.flags & WIRE_STOPPING) && !relay->stopping) note_end(relay);
    return OK;
}

static void take_pong(struct relay *relay, const struct relay_frame *frame) {
    struct frame_ping pong;
    if (!FRAME_AS(frame, &pong)) return;
    uint64_t us = (clock_monotonic_ns() - pong.at_ns) / 1000;
    relay->round_trip_us = relay->round_trip_us == 0 ? us : (3 * relay->round_trip_us + us) / 4;
}

static enum status take_of_memory(struct relay *relay, const struct relay_frame *frame,
                                  struct error *error) {
    uint64_t decided;
    if (!relay->mirror || !relay->mirror->tensors)
        return error_set(error, INVALID, "the node speaks of a session that is none");
    switch (frame->type) {
    case FRAME_OFFER: return take_offered(relay, frame, error);
    case FRAME_DATA: return take_data(relay, frame, error);
    case FRAME_ORDER: return take_order(relay, frame, error);
    case FRAME_TELL: return take_tell(relay, frame, error);
    case FRAME_DECISION:
        if (!FRAME_AS(frame, &decided)) return error_set(error, INVALID, "a decision of nothing");
        atomic_store(&relay->mirror->shared->decided, decided);
        return OK;
    default: return error_set(error, INVALID, "a frame of type %u", frame->type);
    }
}

static enum status take_frame(struct relay *relay, const struct relay_frame *frame,
                              struct error *error) {
    struct relay_rank *rank = relay_rank_numbered(relay, frame->channel);
    if (!relay->greeted) return take_hello(relay, frame, error);
    switch (frame->type) {
    case FRAME_MESSAGE: return rank ? relay_rank_hear(relay, rank, frame, error) : OK;
    case FRAME_CLOSE:
        if (rank) relay_rank_end(rank, WIRE_REFUSED, NULL);
        return OK;
    case FRAME_MEMORY: return take_memory(relay, frame, error);
    case FRAME_PONG: take_pong(relay, frame); return OK;
    case FRAME_OVER:
        note_end(relay);
        relay->over = true;
        return OK;
    case FRAME_WRONG:
        return error_set(error, REFUSED, "%.*s", (int)MIN(frame->size, (size_t)300),
                         (const char *)frame->data);
    default: return take_of_memory(relay, frame, error);
    }
}

static enum status hear_node(struct relay *relay, struct error *error) {
    struct relay_frame frame;
    bool there;
    for (;;) {
        TRY(relay_link_next(relay->link, &frame, &there, error));
        if (!there) return OK;
        TRY(take_frame(relay, &frame, error));
        relay_link_taken(relay->link);
    }
}

static enum status work_link(struct relay *relay, struct error *error) {
    uint64_t now = clock_monotonic_ms();
    enum status ended = relay_link_work(relay->link, error);
    /* also where it has ended: what it had said counts */
    TRY(hear_node(relay, ended == OK ? error : NULL));
    if (ended != OK) return ended;
    if (!relay->greeted && now - relay->since_ms > GREETING_MS)
        return error_set(error, TIMEOUT, "it does not answer in time");
    if (relay->greeted && relay_link_silence_ms(relay->link) > SILENCE_MS)
        return error_set(error, TIMEOUT, "nothing was heard of it for 20 s");
    return OK;
}

/* ---- the loop -------------------------------------------------------------------------------- */

static void wait_for_something(const struct relay *relay) {
    struct pollfd *waits = xcalloc(relay->rank_count + 2, sizeof *waits);
    size_t count = 0;
    int timeout = IDLE_MS;
    /* what ranks say would not be read */
    bool full = relay->link && relay_link_waiting(relay->link) >= RELAY_LINK_ROOM;
    waits[count++] = (struct pollfd){.fd = relay->listener, .events = POLLIN};
    if (relay->link) {
        int patience = relay_link_patience(relay->link);
        waits[count++] = (struct pollfd){.fd = relay_link_descriptor(relay->link),
                                         .events = relay_link_events(relay->link)};
        if (patience >= 0) timeout = MIN(timeout, patience);
    }
    for (size_t i = 0; i < relay->rank_count; i++) {
        waits[count++] =
            (struct pollfd){.fd = full ? -1 : relay->ranks[i]->descriptor, .events = POLLIN};
        if (relay->ranks[i]->going) timeout = MIN(timeout, (int)LOOK_MS);
    }
    (void)poll(waits, count, timeout);
    free(waits);
}

static void work(struct relay *relay) {
    struct error error = {0};
    try_to_connect(relay);
    if (relay->link && work_link(relay, &error) != OK) lose_link(relay, error.message);
    relay_accept_ranks(relay);
    for (size_t i = 0; i < relay->rank_count; i++) relay_rank_work(relay, relay->ranks[i]);
    relay_sweep_ranks(relay);
    ping(relay);
    if (relay->link && work_link(relay, &error) != OK) lose_link(relay, error.message);
}

static void relay_deinit(struct relay *relay) {
    for (size_t i = 0; i < relay->rank_count; i++) relay_rank_free(relay->ranks[i]);
    free(relay->ranks);
    relay_link_destroy(relay->link);
    relay_mirror_release(relay->mirror);
    tls_context_destroy(relay->tls);
    if (relay->listener >= 0) {
        close(relay->listener);
        (void)unlink(relay->options->socket);
    }
    clear(relay->token, sizeof relay->token);
}

enum status relay_run(const struct relay_options *options, bool *over, struct error *error) {
    struct relay relay = {.options = options, .listener = -1, .backoff_ms = BACKOFF_LEAST_MS};
    snprintf(relay.why, sizeof relay.why, "the relay has not reached the node at %s yet",
             options->to);
    enum status status = tls_context_create(options->secret, false, &relay.tls, error);
    if (status == OK) status = border_token_create(options->token_file, relay.token, error);
    if (status == OK) status = border_socket_check(options->socket, error);
    if (status == OK) (void)unlink(options->socket); /* of a relay that was killed */
    if (status == OK)
        log_info("relay_at",
                 "socket=\"%s\" to=\"%s\" memory_of_link=%llu formula=\"4096 + 128 * ranks, + 280 "
                 "* tensors, + 4 * the largest fragment, twice; each in whole pages; and the "
                 "link\"",
                 options->socket, options->to, (unsigned long long)relay_link_memory());
    while (status == OK && !ending_is_asked() && !relay.over) {
        wait_for_something(&relay);
        work(&relay);
    }
    *over = relay.over;
    relay_deinit(&relay);
    return status;
}
