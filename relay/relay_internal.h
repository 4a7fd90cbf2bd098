/* The inside of a relay: relay.c has the connection to the node and the loop, relay_rank.c the
 * ranks of this host. Nobody else includes it. */
#ifndef RELAY_RELAY_INTERNAL_H
#define RELAY_RELAY_INTERNAL_H

#include "relay/rank_share.h"
#include "relay/relay.h"
#include "relay/relay_link.h"
#include "relay/relay_mirror.h"

struct relay_rank { /* a connection of this host */
    uint32_t number;
    int descriptor; /* -1: it has ended, and goes at the end of the round */
    uint64_t since_ms;
    bool greeted;
    uint32_t rank, world;
    struct relay_mirror *mirror; /* NULL: not welcomed */
    struct rank_share share;
    bool going;
    struct frame_report sent;
    uint64_t order; /* that is being published; 0: none */
    struct share_walk walk;
};

struct relay {
    const struct relay_options *options;
    struct tls_context *tls;
    int listener;
    char token[WIRE_TOKEN_SIZE + 1];
    struct relay_link *link; /* NULL: there is none */
    bool greeted;            /* the node has answered */
    uint64_t since_ms, next_ms, backoff_ms, pinged_ms, round_trip_us;
    char why[WIRE_TEXT_SIZE];    /* there is none */
    struct relay_mirror *mirror; /* the newest */
    struct relay_rank **ranks;
    size_t rank_count;
    uint32_t numbers;
    bool stopping, over; /* stopping: ranks are told that the run is over */
};

/* ---- relay_rank.c ---- */
void relay_rank_free(struct relay_rank *rank);
/* Its last words, if it gets to hear them: of type REFUSED or APART. */
void relay_rank_end(struct relay_rank *rank, uint32_t type, const char *why);
struct relay_rank *relay_rank_numbered(const struct relay *relay, uint32_t number);
void relay_accept_ranks(struct relay *relay);
/* What it says, what it reports, what it publishes. */
void relay_rank_work(struct relay *relay, struct relay_rank *rank);
/* A message of the node's. INVALID: it is none. */
MUST_USE enum status relay_rank_hear(struct relay *relay, struct relay_rank *rank,
                                     const struct relay_frame *frame, struct error *error);
void relay_sweep_ranks(struct relay *relay);

#endif
