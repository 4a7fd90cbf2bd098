/* The inside of the proxy: wan_proxy.c (links, commands, the loop) and wan_connection.c (one
 * connection's bytes). */
#ifndef WAN_WAN_PROXY_INTERNAL_H
#define WAN_WAN_PROXY_INTERNAL_H

#include <netinet/in.h>

#include "base/heap.h"
#include "wan/wan_proxy.h"

struct connection;
struct link;

/* near: who connected; far: the target */
enum endpoint_kind { ENDPOINT_LISTENER, ENDPOINT_NEAR, ENDPOINT_FAR, ENDPOINT_INPUT };

struct endpoint { /* what an epoll event belongs to */
    enum endpoint_kind kind;
    int descriptor;    /* -1: none */
    uint32_t interest; /* told to epoll */
    bool watched;      /* epoll knows it */
    bool hung;         /* both ways have ended: taken out of epoll, still read from */
    union {
        struct connection *connection;
        struct link *link;
    };
};

struct timer { /* in the proxy's heap, by time */
    uint64_t at_ns;
    size_t place; /* SIZE_MAX: not in it */
    void (*fire)(struct timer *timer, uint64_t now_ns);
};

struct wan_piece { /* on its way */
    struct wan_piece *next;
    uint64_t arrival_ns;
    uint32_t size, written;
    bool end; /* the sender has said all */
    uint8_t data[];
};

struct acknowledgement { /* on its way back */
    struct acknowledgement *next;
    uint64_t at_ns;
    uint32_t size;
};

struct pipe { /* one way of a connection */
    struct timer timer;
    struct connection *connection;
    enum wan_way way;
    struct endpoint *source, *sink;
    struct wan_flow flow;
    struct wan_piece *first, *last;
    struct acknowledgement *first_acknowledgement, *last_acknowledgement;
    uint64_t opens_ns; /* TCP's handshake takes a round trip: nothing is read before */
    bool ended, shut,
        discarding; /* the source's end was read; told to the sink; half-closed by command */
};

struct connection {
    struct link *link;
    struct connection *next, *previous; /* of the link */
    struct endpoint near, far;
    struct pipe pipes[WAN_WAYS];
    bool connected; /* to the target */
    bool dead;      /* closed, freed after the current events */
};

struct link_way {
    struct wan_bottleneck bottleneck;
    uint64_t stalled_until_ns;
    uint64_t since_corruption; /* bytes */
    bool corrupt_next;
    uint64_t bytes_in, bytes_out, discarded, corrupted, losses;
};

struct link {
    char name[WAN_NAME_SIZE];
    struct wan_proxy *proxy;
    struct endpoint listener;
    struct timer timer; /* resets by schedule */
    struct sockaddr_in target;
    uint16_t port;
    struct wan_settings settings;
    struct random random;
    struct connection *connections;
    struct link_way way[WAN_WAYS];
    uint64_t accepted, open, resets, refused;
};

struct wan_proxy {
    int epoll;
    uint64_t seed;
    struct link *links[WAN_LINKS_LIMIT]; /* [link_count] */
    size_t link_count, connection_count;
    struct heap timers;      /* of struct timer *, the earliest first */
    struct connection *dead; /* by next */
    struct endpoint input;
    struct buffer line;
};

/* --- wan_timer.c --- */
void timers_init(struct heap *timers);
/* UINT64_MAX: not at all */
void timer_set(struct wan_proxy *proxy, struct timer *timer, uint64_t at_ns);
/* Fires what is due; returns when the next one is, UINT64_MAX: none. */
uint64_t timer_fire_due(struct wan_proxy *proxy, uint64_t now_ns);

/* --- wan_connection.c --- */
/* Takes the descriptor. */
void connection_open(struct link *link, int descriptor, uint64_t now_ns);
void connection_event(struct connection *connection, struct endpoint *endpoint, uint32_t events,
                      uint64_t now_ns);
/* Moves what may move, after settings have changed. */
void connection_service(struct connection *connection, uint64_t now_ns);
void connection_half_close(struct connection *connection, enum wan_way way, uint64_t now_ns);
/* RST to both. */
void connection_reset(struct connection *connection);
void connection_free_dead(struct wan_proxy *proxy);

/* --- wan_proxy.c --- */
bool endpoint_watch(struct wan_proxy *proxy, struct endpoint *endpoint, uint32_t interest);

#endif
