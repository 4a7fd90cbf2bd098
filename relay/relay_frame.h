/* What a relay and its node's gateway say to each other over TLS: frames of a head and at most
 * RELAY_FRAME_LIMIT bytes. A channel is a rank's connection to the relay, numbered by it.
 *
 * Messages of the border's socket (libatoll/wire.h) travel as they are. Beside them travels what
 * stands in the shared memory: from the relay what its ranks report and publish, from the node
 * orders, decisions and what is to be added or loaded. Values are floats without places: both ends
 * walk the same pieces in the same order (attach/share.h).
 *
 * Numbers are little-endian, as all machines that Atoll runs on; HELLO would look wrong from
 * another one.
 */
#ifndef RELAY_RELAY_FRAME_H
#define RELAY_RELAY_FRAME_H

#include "libatoll/wire.h"

enum { RELAY_VERSION = 1, RELAY_FRAME_LIMIT = WIRE_PACKET_LIMIT, RELAY_CHUNK = 64 * 1024 };
#define RELAY_MAGIC UINT64_C(0x0a0d796c65727461)

enum frame_type {
    FRAME_HELLO = 1, /* both ways, first */
    FRAME_MESSAGE,   /* both ways: a message of the channel's socket */
    FRAME_CLOSE,     /* both ways: the channel's socket has ended */
    /* from the relay */
    FRAME_REPORT = 16, /* of the channel's rank */
    FRAME_PUBLISHED,   /* an order's id, then floats that the rank copied out */
    FRAME_HAS,         /* all of an offer has come */
    FRAME_PING,
    /* from the node */
    FRAME_MEMORY = 32, /* of the session that channels are welcomed to next: its front, in parts */
    FRAME_OFFER,       /* what DATA is of */
    FRAME_DATA,        /* floats for the memory's `in` */
    FRAME_ORDER,
    FRAME_DECISION,
    FRAME_TELL, /* the flags and the like */
    FRAME_PONG,
    FRAME_OVER, /* the run is over */
    FRAME_WRONG /* the last one: why the node ends the connection, as text */
};

struct frame_head {
    uint32_t type, channel, size;
};

struct frame_hello {
    uint64_t magic;
    uint32_t version, border_version;
};

struct frame_report {
    uint64_t steps, tokens, loss, seen, done, state, waited_us;
};

struct frame_has {
    uint64_t session, offer;
};

struct frame_ping { /* PONG: the same back */
    uint64_t at_ns, round_trip_us;
};

struct frame_memory { /* then `part` bytes, from byte `at` on */
    uint64_t session, size, front, at, part;
};

struct frame_offer {
    uint64_t offer, fragment, start, count, floats; /* floats: of DATA */
};

struct frame_order {
    uint64_t id, kind, fragment, at, start, count, version;
};

struct frame_tell {
    uint64_t flags, inner_steps, factor, state, wait_ms;
};

#endif
