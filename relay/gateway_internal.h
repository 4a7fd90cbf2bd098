/* The inside of the gateway: gateway.c has the thread and its connections, gateway_link.c what a
 * relay and the border say and write. Nobody else includes it. */
#ifndef RELAY_GATEWAY_INTERNAL_H
#define RELAY_GATEWAY_INTERNAL_H

#include <stdatomic.h>

#include "attach/border.h"
#include "base/thread.h"
#include "relay/gateway.h"
#include "relay/rank_share.h"
#include "relay/relay_link.h"
#include "relay/relay_socket.h"

struct gate_memory { /* a session's */
    unsigned uses;
    uint64_t inode, session;
    struct wire_shared *shared;
    size_t size;
    struct border_places at;
    uint32_t world;
};

struct gate_channel { /* a rank at the relay */
    uint32_t number;
    int descriptor; /* to the border; -1: it has ended */
    uint32_t rank, world;
    struct gate_memory *memory; /* NULL: not welcomed */
    struct rank_share share;
    bool going;
    uint64_t order; /* the last one to publish, ... */
    struct share_walk walk;
    uint64_t floats_left; /* ... and what has not come of it */
};

struct gate_feed { /* what of a session's memory the relay has */
    struct gate_memory *memory;
    uint64_t offer, has; /* sent; and come, says the relay */
    struct coverage_piece *held;
    size_t held_count;
    struct share_walk walk; /* of an offer that is being sent */
    uint64_t floats_left;
    struct frame_order order; /* the last that was sent */
    uint64_t decided;
    struct frame_tell told;
};

struct gate_link {
    struct relay_link *link;
    char peer[RELAY_PEER_SIZE];
    uint64_t since_ms;
    bool greeted;
    struct gate_channel **channels;
    size_t channel_count;
    struct gate_feed feed;
    uint64_t round_trip_us;
};

struct gateway {
    struct gateway_options options;
    char *socket, *token_file;
    struct tls_context *tls;
    int listener;
    struct thread *thread;
    atomic_bool stopping;
    struct gate_link **links;
    size_t link_count;
    uint64_t largest; /* fragment, floats */
    uint64_t strangers_said_ms;
};

/* All that can be done now. Not OK: the link is to be ended, with that message. */
MUST_USE enum status gate_link_work(struct gateway *gateway, struct gate_link *link,
                                    struct error *error);
/* For what it is to be told: by its ranks' border, or in answer. */
bool gate_link_has_room(const struct gate_link *link);
/* A rank at it trains. */
bool gate_link_is_going(const struct gate_link *link);
void gate_link_free(struct gate_link *link);

#endif
