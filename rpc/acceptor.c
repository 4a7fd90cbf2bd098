/* The acceptor's thread: accepts, looks which connections the library has closed, and sends away
 * whom the places (rpc/places.h) name. The table is shared with the threads on which calls come. */
#include "rpc/acceptor.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/address.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"
#include "rpc/environment.h"

enum {
    BACKLOG = 4096,
    SILENT_MS = 50,     /* a client's first words come with its last packet of TCP's handshake */
    SWEEP_MS = 100,     /* between two looks at who has gone */
    SHORT_MS = 10,      /* between two tries while something is short */
    COMPLAIN_MS = 10000 /* between two log lines about that */
};

struct accepted {
    uint64_t cookie; /* the id of its place */
    int descriptor;  /* the library's */
    struct peer_key peer;
    uint32_t calls, calls_total; /* while it is a stranger's */
};

struct acceptor {
    struct rpc_server_options options;
    int *listening; /* [listening_count] */
    size_t listening_count;
    int wake; /* eventfd: somebody has to go, or stop */
    int hold; /* what is to be shut down; else the same as wake */
    struct thread *thread;
    acceptor_give *give;
    void *context;
    uint64_t complained_ms; /* the thread's */

    pthread_mutex_t lock; /* of all that follows */
    struct places places;
    struct accepted *open; /* [open_count], in no order; one place each */
    size_t open_count, open_capacity;
    uint64_t dropped;
    bool stopping;
};

/* ---- addresses ------------------------------------------------------------------------------- */

static void key_of_address(const struct sockaddr_storage *address, struct peer_key *out) {
    memset(out, 0, sizeof *out);
    if (address->ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
        out->bytes[10] = out->bytes[11] = 0xff;
        memcpy(out->bytes + 12, &v4->sin_addr, 4);
        memcpy(out->bytes + 16, &v4->sin_port, 2);
    } else if (address->ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;
        memcpy(out->bytes, &v6->sin6_addr, 16);
        memcpy(out->bytes + 16, &v6->sin6_port, 2);
    }
}

/* The library writes an IPv6 address as a part of a URI: %5B is a bracket, %25 a percent sign. */
static bool unescape(const char *text, char *out, size_t size) {
    size_t at = 0;
    for (; *text && at + 1 < size; text++) {
        unsigned code;
        if (*text == '%' && text[1] && text[2] && sscanf(text + 1, "%2x", &code) == 1) {
            out[at++] = (char)code;
            text += 2;
        } else {
            out[at++] = *text;
        }
    }
    out[at] = 0;
    return *text == 0;
}

bool peer_key_of(const char *text, struct peer_key *out) {
    char plain[128];
    struct sockaddr_storage address = {0};
    if (!unescape(text, plain, sizeof plain)) return false;
    char *port = strrchr(plain, ':'), *host = strchr(plain, ':');
    if (!port || port == host) return false;
    *port++ = 0;
    uint16_t number = htons((uint16_t)strtoul(port, NULL, 10));
    host++;
    if (strncmp(plain, "ipv4:", 5) == 0) {
        struct sockaddr_in *v4 = (struct sockaddr_in *)&address;
        v4->sin_family = AF_INET;
        v4->sin_port = number;
        if (inet_pton(AF_INET, host, &v4->sin_addr) != 1) return false;
    } else if (strncmp(plain, "ipv6:", 5) == 0) {
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&address;
        v6->sin6_family = AF_INET6;
        v6->sin6_port = number;
        if (*host == '[') host++;
        host[strcspn(host, "]%")] = 0; /* and no zone */
        if (inet_pton(AF_INET6, host, &v6->sin6_addr) != 1) return false;
    } else {
        return false;
    }
    key_of_address(&address, out);
    return true;
}

static uint64_t source_of(const struct peer_key *peer) {
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    uint64_t source = 0;
    memcpy(&source, memcmp(peer->bytes, mapped, 12) == 0 ? peer->bytes + 8 : peer->bytes, 8);
    return source;
}

uint64_t peer_source_of(const char *text) {
    struct peer_key peer;
    return peer_key_of(text, &peer) ? source_of(&peer) : 0;
}

/* ---- listening ------------------------------------------------------------------------------- */

static void set_option(int descriptor, int level, int option, int value) {
    (void)setsockopt(descriptor, level, option, &value, sizeof value);
}

/* Accepted sockets inherit these. */
static int listen_on(const struct addrinfo *at, uint32_t timeout_ms) {
    int descriptor = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (descriptor < 0) return -1;
    set_option(descriptor, SOL_SOCKET, SO_REUSEADDR, 1);
    set_option(descriptor, IPPROTO_TCP, TCP_NODELAY, 1);
    set_option(descriptor, IPPROTO_TCP, TCP_USER_TIMEOUT, (int)timeout_ms);
    if (at->ai_family == AF_INET6) set_option(descriptor, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    if (bind(descriptor, at->ai_addr, at->ai_addrlen) == 0 && listen(descriptor, BACKLOG) == 0)
        return descriptor;
    int why = errno;
    close(descriptor);
    errno = why;
    return -1;
}

static enum status bind_one(struct acceptor *acceptor, const char *text, struct error *error) {
    struct address parsed;
    char port[8];
    TRY(address_parse(text, ADDRESS_TO_LISTEN, &parsed, error));
    snprintf(port, sizeof port, "%u", parsed.port);
    struct addrinfo hints = {.ai_family = parsed.ipv4   ? AF_INET
                                          : parsed.ipv6 ? AF_INET6
                                                        : AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
                    *list = NULL;
    int resolved = getaddrinfo(parsed.host, port, &hints, &list);
    int descriptor = -1, why = 0;
    for (struct addrinfo *at = list; at && descriptor < 0; at = at->ai_next) {
        descriptor = listen_on(at, acceptor->options.keepalive_timeout_ms);
        why = errno;
    }
    if (list) freeaddrinfo(list);
    if (descriptor < 0)
        return error_set(error, UNAVAILABLE,
                         "listen on %s: cannot bind (%s); check that the address is this "
                         "machine's, that no other process listens there, and that the port is "
                         "allowed",
                         text, resolved != 0 ? gai_strerror(resolved) : strerror(why));
    acceptor->listening[acceptor->listening_count++] = descriptor;
    return OK;
}

static uint16_t port_of(int descriptor) {
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    if (getsockname(descriptor, (struct sockaddr *)&address, &size) != 0) return 0;
    return ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                               : ((struct sockaddr_in *)&address)->sin_port);
}

enum status acceptor_open(const struct rpc_server_options *options, struct acceptor **out,
                          uint16_t *port, struct error *error) {
    const struct rpc_server_places *shared = &options->places;
    struct acceptor *acceptor = xcalloc(1, sizeof *acceptor);
    acceptor->options = *options;
    acceptor->listening = xcalloc(options->address_count, sizeof *acceptor->listening);
    acceptor->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    acceptor->hold = fcntl(acceptor->wake, F_DUPFD_CLOEXEC, 0);
    size_t all = options->max_connections;
    struct places_limits limits = {
        .strangers = shared->strangers ? MIN(shared->strangers, MAX(all / 4, 1)) : all,
        .admins = shared->admins ? MIN(shared->admins, MAX(all / 8, 1)) : 0,
        .stranger_ms = shared->stranger_ms,
        .silent_ms = SILENT_MS};
    limits.members =
        all > limits.strangers + limits.admins ? all - limits.strangers - limits.admins : 1;
    places_init(&acceptor->places, &limits);
    pthread_mutex_init(&acceptor->lock, NULL);
    enum status status =
        acceptor->hold < 0 ? error_set(error, FAILED, "eventfd: %s", strerror(errno)) : OK;
    for (size_t i = 0; i < options->address_count && status == OK; i++)
        status = bind_one(acceptor, options->addresses[i], error);
    if (status != OK) {
        acceptor_close(acceptor);
        return status;
    }
    *port = port_of(acceptor->listening[0]);
    *out = acceptor;
    return OK;
}

/* ---- the table, under the lock --------------------------------------------------------------- */

static struct accepted *connection_of(struct acceptor *acceptor, const struct peer_key *peer) {
    for (size_t i = acceptor->open_count; i > 0; i--) { /* a peer's newest is its last */
        if (memcmp(&acceptor->open[i - 1].peer, peer, sizeof *peer) == 0)
            return &acceptor->open[i - 1];
    }
    return NULL;
}

static struct accepted *connection_by(struct acceptor *acceptor, uint64_t cookie) {
    for (size_t i = 0; i < acceptor->open_count; i++) {
        if (acceptor->open[i].cookie == cookie) return &acceptor->open[i];
    }
    return NULL;
}

/* Of the socket that has the number now; 0: none has. */
static uint64_t cookie_of(int descriptor) {
    uint64_t cookie = 0;
    socklen_t size = sizeof cookie;
    if (getsockopt(descriptor, SOL_SOCKET, SO_COOKIE, &cookie, &size) != 0) return 0;
    return cookie;
}

static void forget_closed(struct acceptor *acceptor) {
    for (size_t i = 0; i < acceptor->open_count;) {
        struct accepted *one = &acceptor->open[i];
        if (cookie_of(one->descriptor) == one->cookie) {
            i++;
            continue;
        }
        places_leave(&acceptor->places, one->cookie);
        memmove(one, one + 1, (acceptor->open_count - i - 1) * sizeof *one);
        acceptor->open_count--;
    }
}

/* False: that connection has gone, and its number may be another's. */
static bool shut_down(struct acceptor *acceptor, const struct accepted *one) {
    if (dup3(one->descriptor, acceptor->hold, O_CLOEXEC) < 0) return false;
    bool is_it = cookie_of(acceptor->hold) == one->cookie;
    if (is_it) shutdown(acceptor->hold, SHUT_RDWR);
    (void)dup3(acceptor->wake, acceptor->hold, O_CLOEXEC); /* let go */
    return is_it;
}

static void send_away(struct acceptor *acceptor) {
    uint64_t cookie, now_ms = clock_monotonic_ms();
    while (places_evict(&acceptor->places, now_ms, &cookie)) {
        const struct accepted *one = connection_by(acceptor, cookie);
        if (one && shut_down(acceptor, one)) acceptor->dropped++;
    }
}

static bool may_be_too_many(const struct places *places) {
    size_t strangers = 0;
    for (size_t i = 0; i < places->count; i++)
        strangers += places->items[i].role == PLACE_STRANGER && !places->items[i].leaving;
    return strangers >= places->limits.strangers;
}

/* Who has said something. Asked only when somebody may have to go. */
static void hear_strangers(struct acceptor *acceptor) {
    struct places *places = &acceptor->places;
    for (size_t i = 0; i < places->count; i++) {
        struct place *place = &places->items[i];
        if (place->role != PLACE_STRANGER || place->leaving || place->spoke) continue;
        struct tcp_info info = {0};
        socklen_t size = sizeof info;
        int descriptor = (int)place->handle;
        if (getsockopt(descriptor, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 &&
            cookie_of(descriptor) == place->id && info.tcpi_bytes_received > 0)
            place->spoke = true;
    }
}

static void take_in(struct acceptor *acceptor, int descriptor,
                    const struct sockaddr_storage *address) {
    struct accepted one = {.cookie = cookie_of(descriptor), .descriptor = descriptor};
    key_of_address(address, &one.peer);
    if (acceptor->open_count == acceptor->open_capacity) {
        acceptor->open_capacity = acceptor->open_capacity ? acceptor->open_capacity * 2 : 64;
        acceptor->open = xrealloc(acceptor->open, acceptor->open_capacity * sizeof *acceptor->open);
    }
    if (may_be_too_many(&acceptor->places)) { /* whose places are free goes first */
        forget_closed(acceptor);
        if (may_be_too_many(&acceptor->places)) hear_strangers(acceptor);
    }
    acceptor->open[acceptor->open_count++] = one;
    places_enter(&acceptor->places, one.cookie, source_of(&one.peer), clock_monotonic_ms());
    acceptor->places.items[acceptor->places.count - 1].handle = (uint64_t)descriptor;
}

/* ---- the thread ------------------------------------------------------------------------------ */

static void complain(struct acceptor *acceptor, const char *what, bool spared) {
    uint64_t now_ms = clock_monotonic_ms();
    if (acceptor->complained_ms && now_ms - acceptor->complained_ms < COMPLAIN_MS) return;
    acceptor->complained_ms = now_ms;
    log_warn("accept_waits", "reason=\"%s\" descriptors=%llu connections=%zu sent_away=%s", what,
             (unsigned long long)rpc_descriptors_open(), acceptor->open_count,
             spared ? "one" : "nobody");
}

static bool is_shortage(int why) {
    return why == EMFILE || why == ENFILE || why == ENOBUFS || why == ENOMEM;
}

/* Takes one that waits. False: none does, or something is short. */
static bool accept_one(struct acceptor *acceptor, int listening, bool *is_short) {
    struct sockaddr_storage address = {0};
    socklen_t size = sizeof address;
    int descriptor =
        accept4(listening, (struct sockaddr *)&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (descriptor < 0 && !is_shortage(errno)) /* it has gone again, or nobody is there */
        return errno != EAGAIN && errno != EWOULDBLOCK;
    if (descriptor < 0) {
        const char *what = strerror(errno);
        pthread_mutex_lock(&acceptor->lock);
        bool spared = places_spare(&acceptor->places, clock_monotonic_ms());
        complain(acceptor, what, spared);
        pthread_mutex_unlock(&acceptor->lock);
        *is_short = true;
        return false;
    }
    pthread_mutex_lock(&acceptor->lock);
    take_in(acceptor, descriptor, &address);
    send_away(acceptor);
    pthread_mutex_unlock(&acceptor->lock);
    size = sizeof address;
    if (getpeername(descriptor, (struct sockaddr *)&address, &size) == 0)
        acceptor->give(acceptor->context, descriptor);
    else
        close(descriptor); /* it has gone already: the library would only complain */
    return true;
}

/* Those who were sent away have their descriptors until the library has closed them: until then
 * nobody else comes in, or a fast enough storm would have all descriptors. */
static bool is_full(struct acceptor *acceptor) {
    return acceptor->open_count > acceptor->options.max_connections;
}

static void thread_body(void *context) {
    struct acceptor *acceptor = context;
    size_t count = acceptor->listening_count;
    struct pollfd *polled = xcalloc(count + 1, sizeof *polled);
    polled[count] = (struct pollfd){.fd = acceptor->wake, .events = POLLIN};
    for (bool is_short = false;;) {
        pthread_mutex_lock(&acceptor->lock);
        forget_closed(acceptor);
        send_away(acceptor);
        bool full = is_full(acceptor) || is_short, stopping = acceptor->stopping;
        pthread_mutex_unlock(&acceptor->lock);
        if (stopping) break;
        for (size_t i = 0; i < count; i++)
            polled[i] = (struct pollfd){.fd = full ? -1 : acceptor->listening[i], .events = POLLIN};
        (void)poll(polled, (nfds_t)count + 1, full ? SHORT_MS : SWEEP_MS);
        uint64_t woken;
        if (polled[count].revents) (void)!read(acceptor->wake, &woken, sizeof woken);
        is_short = false;
        for (size_t i = 0; i < count; i++) {
            if (!(polled[i].revents & POLLIN)) continue;
            for (int n = 0; n < 16 && accept_one(acceptor, acceptor->listening[i], &is_short);) n++;
        }
    }
    free(polled);
}

static void wake(struct acceptor *acceptor) {
    uint64_t one = 1;
    (void)!write(acceptor->wake, &one, sizeof one);
}

enum status acceptor_start(struct acceptor *acceptor, acceptor_give *give, void *context,
                           struct error *error) {
    acceptor->give = give;
    acceptor->context = context;
    return thread_start("rpc-accept", thread_body, acceptor, &acceptor->thread, error);
}

void acceptor_stop(struct acceptor *acceptor) {
    pthread_mutex_lock(&acceptor->lock);
    acceptor->stopping = true;
    pthread_mutex_unlock(&acceptor->lock);
    wake(acceptor);
    enum status joined = thread_join(acceptor->thread, UINT64_MAX);
    MUST(joined);
    acceptor->thread = NULL;
    for (size_t i = 0; i < acceptor->listening_count; i++) close(acceptor->listening[i]);
    acceptor->listening_count = 0;
}

void acceptor_close(struct acceptor *acceptor) {
    if (!acceptor) return;
    acceptor_stop(acceptor);
    if (acceptor->hold >= 0) close(acceptor->hold);
    if (acceptor->wake >= 0) close(acceptor->wake);
    places_deinit(&acceptor->places);
    pthread_mutex_destroy(&acceptor->lock);
    free(acceptor->listening);
    free(acceptor->open);
    free(acceptor);
}

/* ---- from any thread ------------------------------------------------------------------------- */

static bool somebody_goes(const struct acceptor *acceptor) {
    for (size_t i = 0; i < acceptor->places.count; i++) {
        if (acceptor->places.items[i].leaving && !acceptor->places.items[i].told) return true;
    }
    return false;
}

void acceptor_claim(struct acceptor *acceptor, const struct peer_key *peer, enum place_role role,
                    uint64_t member) {
    bool goes = false;
    pthread_mutex_lock(&acceptor->lock);
    struct accepted *one = connection_of(acceptor, peer);
    const struct place *place = one ? places_find(&acceptor->places, one->cookie) : NULL;
    if (place && place->role == PLACE_STRANGER) {
        places_claim(&acceptor->places, one->cookie, role, member,
                     acceptor->options.places.member_connections);
        goes = somebody_goes(acceptor);
    }
    pthread_mutex_unlock(&acceptor->lock);
    if (goes) wake(acceptor);
}

bool acceptor_stranger_call(struct acceptor *acceptor, const struct peer_key *peer) {
    const struct rpc_server_places *limits = &acceptor->options.places;
    bool goes = false, counted = false;
    pthread_mutex_lock(&acceptor->lock);
    struct accepted *one = connection_of(acceptor, peer);
    const struct place *place = one ? places_find(&acceptor->places, one->cookie) : NULL;
    if (place && place->role == PLACE_STRANGER) {
        counted = true;
        one->calls++;
        one->calls_total++;
        goes = (limits->stranger_calls && one->calls > limits->stranger_calls) ||
               (limits->stranger_calls_total && one->calls_total > limits->stranger_calls_total);
        if (goes) places_expel(&acceptor->places, one->cookie);
    }
    pthread_mutex_unlock(&acceptor->lock);
    if (goes) wake(acceptor);
    return counted;
}

void acceptor_stranger_call_over(struct acceptor *acceptor, const struct peer_key *peer) {
    pthread_mutex_lock(&acceptor->lock);
    struct accepted *one = connection_of(acceptor, peer);
    if (one && one->calls > 0) one->calls--;
    pthread_mutex_unlock(&acceptor->lock);
}

enum place_role acceptor_role(struct acceptor *acceptor, const struct peer_key *peer) {
    pthread_mutex_lock(&acceptor->lock);
    struct accepted *one = connection_of(acceptor, peer);
    const struct place *place = one ? places_find(&acceptor->places, one->cookie) : NULL;
    enum place_role role = place ? place->role : PLACE_STRANGER;
    pthread_mutex_unlock(&acceptor->lock);
    return role;
}

void acceptor_count(struct acceptor *acceptor, uint64_t *open, uint64_t *dropped) {
    pthread_mutex_lock(&acceptor->lock);
    *open = acceptor->open_count;
    *dropped = acceptor->dropped;
    pthread_mutex_unlock(&acceptor->lock);
}
