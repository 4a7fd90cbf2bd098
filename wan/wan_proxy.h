/* A WAN on one machine: a TCP proxy whose links delay, pace, stall, reset, corrupt and swallow what
 * passes through them.
 *
 * Each link listens on a port of its own and connects onwards for every connection that it accepts;
 * what its bytes go through is wan/wan_link.h. Loopback's own TCP is too good to notice, so what
 * the peers see is the link alone: an honest round trip before the first byte, windows, slow start,
 * one bottleneck for all connections of a way.
 *
 * Memory is bounded: of each way of a connection at most `window` bytes are held, then its sender
 * is not read from (its own socket fills up, as with a real window); there are at most
 * WAN_CONNECTIONS_LIMIT connections, of WAN_LINKS_LIMIT links.
 *
 * It is told what to do in lines, and answers each with one line, "ok ..." or "error ...":
 *
 *     link NAME from HOST:PORT to HOST:PORT    port 0: any; answers "ok port=12345"
 *     set NAME KEY VALUE [KEY VALUE ...]       wan_settings_set's keys; NAME may be * for all
 *                                              links, here and below
 *     target NAME HOST:PORT                    for connections from now on
 *     reset NAME                               RST to both ends of every connection
 *     stall NAME DURATION [up|down]            nothing comes out for so long
 *     half-close NAME up|down                  that way ends (FIN), the other goes on; what still
 *                                              comes is thrown away
 *     corrupt NAME up|down                     one bit of the next byte is flipped
 *     show                                     "ok " and a JSON object with each link's counters
 *     quit
 *
 * One thread, epoll. A peer that resets, hangs or never reads costs its own connection only.
 */
#ifndef WAN_WAN_PROXY_H
#define WAN_WAN_PROXY_H

#include <stdint.h>

#include "base/bytes.h"
#include "wan/wan_link.h"

enum {
    WAN_LINKS_LIMIT = 1024,
    WAN_CONNECTIONS_LIMIT = 4096,
    WAN_LINE_LIMIT = 4096,
    WAN_NAME_SIZE = 64
};

struct wan_proxy;

struct wan_link_setup {
    const char *name;            /* letters, digits, '-', '_' and '.' */
    const char *listen, *target; /* IPv4 HOST:PORT */
    struct wan_settings settings;
};

/* `seed` is of all links' draws. FAILED. */
MUST_USE enum status wan_proxy_create(uint64_t seed, struct wan_proxy **out, struct error *error);
void wan_proxy_destroy(struct wan_proxy *proxy); /* resets what is open; NULL is a no-op */
/* *port: where it listens. INVALID: name or address; UNAVAILABLE: the port is taken; FULL. */
MUST_USE enum status wan_proxy_add(struct wan_proxy *proxy, const struct wan_link_setup *setup,
                                   uint16_t *port, struct error *error);
/* One line; appends the answer and a line feed. False after `quit`. */
bool wan_proxy_command(struct wan_proxy *proxy, const char *line, struct buffer *answer);
/* Works until `quit` or the end of `input`, whose lines are commands; answers go to `output`. Both
 * are borrowed. FAILED. */
MUST_USE enum status wan_proxy_run(struct wan_proxy *proxy, int input, int output,
                                   struct error *error);

#endif
