/* One connection through a link: two pipes, each from one socket to the other.
 *
 * A pipe reads what its flow allows, gives each piece its time of arrival, writes it when that has
 * come, and lets the sender know a one-way delay later. Every change of anything ends in
 * pipe_service, which does all that can be done now and sets the one timer for what comes next;
 * what depends on a socket is asked of epoll. So there is no state of "doing".
 *
 * Epoll is level-triggered. A socket whose both ways have ended reports EPOLLHUP for ever, wanted
 * or not: it is taken out of epoll then, and what it still holds is read when the flow allows (a
 * recv never waits there).
 */
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/memory.h"
#include "wan/wan_proxy_internal.h"

enum { READS_AT_ONCE = 16, SOCKET_BUFFER = 128 << 10 };

static struct link_way *way_of(struct pipe *pipe) {
    return &pipe->connection->link->way[pipe->way];
}
static const struct wan_way_settings *settings_of(const struct pipe *pipe) {
    return &pipe->connection->link->settings.way[pipe->way];
}

/* ---- pieces ---- */

static struct wan_piece *piece_push(struct pipe *pipe, size_t capacity) {
    struct wan_piece *piece = xcalloc(1, sizeof(*piece) + capacity);
    if (pipe->last)
        pipe->last->next = piece;
    else
        pipe->first = piece;
    pipe->last = piece;
    return piece;
}

static void piece_pop(struct pipe *pipe) {
    struct wan_piece *piece = pipe->first;
    pipe->first = piece->next;
    if (!pipe->first) pipe->last = NULL;
    free(piece);
}

static void acknowledgement_push(struct pipe *pipe, uint64_t at_ns, uint32_t size) {
    struct acknowledgement *one = xcalloc(1, sizeof(*one));
    *one = (struct acknowledgement){.at_ns = at_ns, .size = size};
    if (pipe->last_acknowledgement)
        pipe->last_acknowledgement->next = one;
    else
        pipe->first_acknowledgement = one;
    pipe->last_acknowledgement = one;
}

/* The next byte at the corruption's place has a bit flipped; the peers' TLS must notice. */
static void pipe_corrupt(struct pipe *pipe, uint8_t *data, size_t size) {
    struct link_way *way = way_of(pipe);
    uint64_t every = settings_of(pipe)->corrupt_every;
    if (way->corrupt_next) {
        data[0] ^= 1;
        way->corrupt_next = false;
        way->corrupted++;
    }
    way->since_corruption += size;
    if (!every) {
        way->since_corruption = 0;
    } else if (way->since_corruption >= every) {
        way->since_corruption %= every;
        data[size - 1] ^= (uint8_t)(1u << (way->bytes_in & 7));
        way->corrupted++;
    }
}

static void pipe_take(struct pipe *pipe, const uint8_t *data, size_t size, uint64_t now_ns) {
    struct link *link = pipe->connection->link;
    struct link_way *way = way_of(pipe);
    uint64_t losses = pipe->flow.losses;
    struct wan_piece *piece = piece_push(pipe, size);
    memcpy(piece->data, data, size);
    piece->size = (uint32_t)size;
    pipe_corrupt(pipe, piece->data, size);
    piece->arrival_ns = wan_flow_send(&pipe->flow, &way->bottleneck, &link->settings, pipe->way,
                                      &link->random, now_ns, size);
    way->losses += pipe->flow.losses - losses;
}

static void pipe_end(struct pipe *pipe, uint64_t now_ns) {
    struct wan_piece *piece = piece_push(pipe, 0);
    uint64_t arrival = now_ns + settings_of(pipe)->delay_ns;
    piece->end = true;
    piece->arrival_ns = MAX(arrival, pipe->flow.arrival_ns);
    pipe->ended = true;
}

/* ---- moving ---- */

enum wan_move { MOVE_ON, MOVE_BLOCKED, MOVE_BROKEN };

/* Reads until the flow or the socket has no more. *wait_ns: when the flow should be asked again. */
static enum wan_move pipe_read(struct pipe *pipe, uint64_t now_ns, uint64_t *wait_ns) {
    uint8_t data[65536];
    struct link *link = pipe->connection->link;
    struct link_way *way = way_of(pipe);
    *wait_ns = UINT64_MAX;
    for (int i = 0; i < READS_AT_ONCE; i++) {
        size_t allowed = sizeof(data);
        if (!pipe->discarding) {
            allowed = wan_flow_allowance(&pipe->flow, &way->bottleneck, &link->settings, pipe->way,
                                         now_ns, wait_ns);
            if (!allowed) return MOVE_ON;
        }
        ssize_t got = recv(pipe->source->descriptor, data, MIN(allowed, sizeof(data)), 0);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return MOVE_BLOCKED;
        if (got < 0) return MOVE_BROKEN;
        if (got > 0) way->bytes_in += (uint64_t)got;
        if (pipe->discarding) {
            way->discarded += (uint64_t)got;
            if (got == 0) {
                pipe->ended = true;
                return MOVE_ON;
            }
        } else if (got == 0) {
            pipe_end(pipe, now_ns);
            return MOVE_ON;
        } else {
            pipe_take(pipe, data, (size_t)got, now_ns);
        }
    }
    *wait_ns = now_ns + 1; /* others first */
    return MOVE_ON;
}

static enum wan_move pipe_write(struct pipe *pipe, uint64_t now_ns) {
    while (pipe->first && pipe->first->arrival_ns <= now_ns) {
        struct wan_piece *piece = pipe->first;
        if (piece->end) {
            (void)shutdown(pipe->sink->descriptor, SHUT_WR);
            pipe->shut = true;
            piece_pop(pipe);
            continue;
        }
        ssize_t sent = send(pipe->sink->descriptor, piece->data + piece->written,
                            piece->size - piece->written, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return MOVE_BLOCKED;
        if (sent < 0) return MOVE_BROKEN;
        piece->written += (uint32_t)sent;
        way_of(pipe)->bytes_out += (uint64_t)sent;
        if (piece->written < piece->size) continue;
        acknowledgement_push(
            pipe, now_ns + pipe->connection->link->settings.way[!pipe->way].delay_ns, piece->size);
        piece_pop(pipe);
    }
    return MOVE_ON;
}

/* Until when nothing comes out of a way. */
static uint64_t held_until_ns(const struct link *link, enum wan_way way) {
    return link->settings.way[way].blackhole ? UINT64_MAX : link->way[way].stalled_until_ns;
}

/* Acknowledgements take the other way back, so what holds that one holds them too. */
static void pipe_acknowledge(struct pipe *pipe, uint64_t now_ns) {
    if (held_until_ns(pipe->connection->link, !pipe->way) > now_ns) return;
    while (pipe->first_acknowledgement && pipe->first_acknowledgement->at_ns <= now_ns) {
        struct acknowledgement *one = pipe->first_acknowledgement;
        wan_flow_acknowledge(&pipe->flow, settings_of(pipe), one->size);
        pipe->first_acknowledgement = one->next;
        if (!one->next) pipe->last_acknowledgement = NULL;
        free(one);
    }
}

static void connection_watch(struct connection *connection, const uint32_t interest[static 2]) {
    struct wan_proxy *proxy = connection->link->proxy;
    if (!endpoint_watch(proxy, &connection->near, interest[0]) ||
        !endpoint_watch(proxy, &connection->far, interest[1]))
        connection_reset(connection);
}

/* What a pipe needs of its sockets. False: the connection is broken. */
static bool pipe_service(struct pipe *pipe, uint64_t now_ns, bool *wants_read, bool *wants_write) {
    struct connection *connection = pipe->connection;
    uint64_t held_until = held_until_ns(connection->link, pipe->way),
             back_held_until = held_until_ns(connection->link, !pipe->way);
    uint64_t next = UINT64_MAX, wait_ns = UINT64_MAX;
    /* its sink: the near one always is */
    bool usable = connection->connected || pipe->way == WAN_DOWN;
    enum wan_move wrote = MOVE_ON, read = MOVE_ON;
    *wants_read = *wants_write = false;
    pipe_acknowledge(pipe, now_ns);
    if (usable && held_until <= now_ns) wrote = pipe_write(pipe, now_ns);
    if (wrote == MOVE_BROKEN) return false;
    *wants_write = wrote == MOVE_BLOCKED;
    bool reads = !pipe->ended && (connection->connected || pipe->way == WAN_UP);
    if (reads && pipe->opens_ns <= now_ns) read = pipe_read(pipe, now_ns, &wait_ns);
    if (read == MOVE_BROKEN) return false;
    *wants_read = read == MOVE_BLOCKED;

    if (pipe->first_acknowledgement)
        next = MAX(pipe->first_acknowledgement->at_ns, back_held_until);
    if (pipe->first && usable && wrote == MOVE_ON)
        next = MIN(next, MAX(pipe->first->arrival_ns, held_until));
    if (reads && pipe->opens_ns > now_ns) next = MIN(next, pipe->opens_ns);
    if (reads && read == MOVE_ON && !pipe->ended) next = MIN(next, wait_ns);
    if (next != UINT64_MAX) next = MAX(next, now_ns + 1);
    timer_set(connection->link->proxy, &pipe->timer, next);
    return true;
}

static void connection_close(struct connection *connection) {
    struct link *link = connection->link;
    struct wan_proxy *proxy = link->proxy;
    if (connection->dead) return;
    connection->dead = true;
    if (connection->near.descriptor >= 0) close(connection->near.descriptor);
    if (connection->far.descriptor >= 0) close(connection->far.descriptor);
    connection->near.descriptor = connection->far.descriptor = -1;
    for (int i = 0; i < WAN_WAYS; i++) timer_set(proxy, &connection->pipes[i].timer, UINT64_MAX);
    if (connection->next) connection->next->previous = connection->previous;
    if (connection->previous)
        connection->previous->next = connection->next;
    else
        link->connections = connection->next;
    link->open--;
    proxy->connection_count--;
    connection->next = proxy->dead;
    proxy->dead = connection;
}

void connection_reset(struct connection *connection) {
    struct linger abort_it = {.l_onoff = 1, .l_linger = 0};
    if (connection->dead) return;
    (void)setsockopt(connection->near.descriptor, SOL_SOCKET, SO_LINGER, &abort_it,
                     sizeof(abort_it));
    (void)setsockopt(connection->far.descriptor, SOL_SOCKET, SO_LINGER, &abort_it,
                     sizeof(abort_it));
    connection->link->resets++;
    connection_close(connection);
}

void connection_service(struct connection *connection, uint64_t now_ns) {
    struct pipe *up = &connection->pipes[WAN_UP], *down = &connection->pipes[WAN_DOWN];
    uint32_t interest[2] = {0, 0};
    if (connection->dead) return;
    for (int i = 0; i < WAN_WAYS; i++) {
        struct pipe *pipe = &connection->pipes[i];
        bool reads, writes;
        if (!pipe_service(pipe, now_ns, &reads, &writes)) {
            connection_reset(connection);
            return;
        }
        if (reads) interest[pipe->source == &connection->far] |= EPOLLIN;
        if (writes) interest[pipe->sink == &connection->far] |= EPOLLOUT;
    }
    if (!connection->connected) interest[1] |= EPOLLOUT;
    if (up->shut && down->shut && up->ended && down->ended) {
        connection_close(connection);
        return;
    }
    connection_watch(connection, interest);
}

static void pipe_fire(struct timer *timer, uint64_t now_ns) {
    struct pipe *pipe = (struct pipe *)((char *)timer - offsetof(struct pipe, timer));
    connection_service(pipe->connection, now_ns);
}

/* The peer is gone for good, or both of its ways have ended. */
static void connection_hung(struct connection *connection, struct endpoint *endpoint) {
    int code = 0;
    socklen_t size = sizeof(code);
    (void)getsockopt(endpoint->descriptor, SOL_SOCKET, SO_ERROR, &code, &size);
    if (code) {
        connection_reset(connection);
        return;
    }
    endpoint->hung = true;
    (void)epoll_ctl(connection->link->proxy->epoll, EPOLL_CTL_DEL, endpoint->descriptor, NULL);
}

void connection_event(struct connection *connection, struct endpoint *endpoint, uint32_t events,
                      uint64_t now_ns) {
    if (connection->dead) return;
    if (endpoint == &connection->far && !connection->connected &&
        (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) {
        int code = 0;
        socklen_t size = sizeof(code);
        (void)getsockopt(endpoint->descriptor, SOL_SOCKET, SO_ERROR, &code, &size);
        if (code) {
            connection->link->refused++;
            connection_reset(connection);
            return;
        }
        connection->connected = true;
    } else if (events & (EPOLLERR | EPOLLHUP)) {
        connection_hung(connection, endpoint);
    }
    connection_service(connection, now_ns);
}

void connection_half_close(struct connection *connection, enum wan_way way, uint64_t now_ns) {
    struct pipe *pipe = &connection->pipes[way];
    if (pipe->ended || pipe->discarding) return;
    pipe_end(pipe, now_ns);
    pipe->ended = false; /* of the source we go on reading */
    pipe->discarding = true;
    connection_service(connection, now_ns);
}

static void socket_prepare(int descriptor) {
    int one = 1, buffer = SOCKET_BUFFER;
    (void)setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    (void)setsockopt(descriptor, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer));
    (void)setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof(buffer));
}

static void pipe_init(struct connection *connection, enum wan_way way, uint64_t opens_ns) {
    struct pipe *pipe = &connection->pipes[way];
    bool up = way == WAN_UP;
    *pipe = (struct pipe){.timer = {.place = SIZE_MAX, .fire = pipe_fire},
                          .connection = connection,
                          .way = way,
                          .source = up ? &connection->near : &connection->far,
                          .sink = up ? &connection->far : &connection->near,
                          .opens_ns = opens_ns};
    wan_flow_init(&pipe->flow);
}

void connection_open(struct link *link, int descriptor, uint64_t now_ns) {
    struct connection *connection = xcalloc(1, sizeof(*connection));
    int far = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    *connection = (struct connection){
        .link = link,
        .near = {.kind = ENDPOINT_NEAR, .descriptor = descriptor, .connection = connection},
        .far = {.kind = ENDPOINT_FAR, .descriptor = far, .connection = connection},
        .next = link->connections,
    };
    if (link->connections) link->connections->previous = connection;
    link->connections = connection;
    link->open++;
    link->accepted++;
    link->proxy->connection_count++;
    for (int i = 0; i < WAN_WAYS; i++)
        pipe_init(connection, (enum wan_way)i,
                  i == WAN_UP ? now_ns + wan_round_trip_ns(&link->settings) : 0);
    socket_prepare(descriptor);
    if (far >= 0) socket_prepare(far);
    if (far < 0 ||
        (connect(far, (const struct sockaddr *)&link->target, sizeof(link->target)) != 0 &&
         errno != EINPROGRESS)) {
        link->refused++;
        connection_reset(connection);
        return;
    }
    connection_service(connection, now_ns);
}

void connection_free_dead(struct wan_proxy *proxy) {
    while (proxy->dead) {
        struct connection *connection = proxy->dead;
        proxy->dead = connection->next;
        for (int i = 0; i < WAN_WAYS; i++) {
            struct pipe *pipe = &connection->pipes[i];
            while (pipe->first) piece_pop(pipe);
            while (pipe->first_acknowledgement) {
                struct acknowledgement *one = pipe->first_acknowledgement;
                pipe->first_acknowledgement = one->next;
                free(one);
            }
        }
        free(connection);
    }
}
