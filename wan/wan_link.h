/* What a WAN link does to a stream of bytes, as arithmetic: time and sizes in, times out.
 * wan/wan_proxy.h carries it out on sockets.
 *
 * A link has two ways, up (from the site) and down. A way is a bottleneck, which all connections
 * share: `rate`, with a buffer of `queue` bytes before it, then a `delay` with `jitter`. On it run
 * flows, one per connection, which behave as TCP does where that is what one notices: a flow starts
 * with ten segments unacknowledged and doubles them with every round trip (slow start, again after
 * idling), a lost segment stalls everything after it for a round trip (or a retransmission timeout,
 * where too little is in flight to notice sooner) and halves the window, which then grows by a
 * segment a round trip; nothing is unacknowledged beyond `window`. Nothing is ever lost or
 * reordered for the peers: what a network does to packets reaches them as time.
 *
 * Not modelled: CUBIC's curve, SACK's finer points, packets of handshakes that are lost. Pure: no
 * clock, no sockets; random draws come from the caller's stream, so one seed gives one link.
 */
#ifndef WAN_WAN_LINK_H
#define WAN_WAN_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/random.h"
#include "base/status.h"

enum wan_way { WAN_UP, WAN_DOWN, WAN_WAYS };

enum {
    WAN_SEGMENT = 1460,
    WAN_FIRST_WINDOW = 10 * WAN_SEGMENT,
    WAN_WINDOW_LEAST = 2 * WAN_SEGMENT
};

struct wan_way_settings {
    uint64_t delay_ns, jitter_ns; /* jitter: uniform in [0, jitter] on top of the delay */
    uint64_t rate;                /* bits per second; 0: no limit */
    uint64_t queue;         /* bytes before the bottleneck; where it is full, the sender waits */
    uint64_t window;        /* bytes unacknowledged, a flow: what both ends' socket buffers allow */
    double loss;            /* of segments, in [0, 0.5] */
    uint64_t corrupt_every; /* one bit is flipped in every so many bytes; 0: none */
    bool blackhole;         /* nothing comes out until it is off again */
};

struct wan_settings {
    struct wan_way_settings way[WAN_WAYS];
    uint64_t reset_every_ns; /* all connections of the link are reset so often; 0: never */
};

struct wan_settings wan_settings_default(void); /* a perfect link */
/* Key and value as people write them: `rtt 200ms` (half of it each way), `up.delay 5ms`, `rate
 * 20Mbit/s` (both ways), `down.loss 1%`, `queue 256KiB`, `window 4MiB`, `up.corrupt 10MiB`,
 * `blackhole on`, `reset 30s`. INVALID names the keys there are, or the bound. */
MUST_USE enum status wan_settings_set(struct wan_settings *settings, const char *key,
                                      const char *value, struct error *error);
uint64_t wan_round_trip_ns(const struct wan_settings *settings);

struct wan_bottleneck { /* of one way; zeroed at first */
    uint64_t free_ns;   /* when it will have sent all that it was given */
};

struct wan_flow {            /* one way of a connection */
    uint64_t arrival_ns;     /* of what was sent last: bytes keep their order */
    uint64_t sent_ns;        /* the same, departure */
    uint64_t unacknowledged; /* bytes */
    uint64_t window;         /* bytes, as TCP's congestion window */
    uint64_t threshold;      /* slow start below it */
    uint64_t losses;         /* segments */
};

void wan_flow_init(struct wan_flow *flow);
/* Bytes that the flow may send at `now`; 0: *wait_ns says when to ask again, UINT64_MAX: when
 * something is acknowledged. */
size_t wan_flow_allowance(struct wan_flow *flow, const struct wan_bottleneck *bottleneck,
                          const struct wan_settings *settings, enum wan_way way, uint64_t now_ns,
                          uint64_t *wait_ns);
/* Sends `size` bytes, at most what is allowed, and returns when they arrive. */
uint64_t wan_flow_send(struct wan_flow *flow, struct wan_bottleneck *bottleneck,
                       const struct wan_settings *settings, enum wan_way way, struct random *random,
                       uint64_t now_ns, size_t size);
/* The sender hears that `size` bytes have arrived. */
void wan_flow_acknowledge(struct wan_flow *flow, const struct wan_way_settings *way, size_t size);

#endif
