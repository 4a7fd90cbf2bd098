/* TCP for relays and gateways (relay/relay_socket.h). */
#include "relay/relay_socket.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/address.h"
#include "base/memory.h"

static enum status resolve(const char *text, enum address_use use, struct addrinfo **out,
                           struct error *error) {
    struct address address;
    char port[8];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    TRY(address_parse(text, use, &address, error));
    snprintf(port, sizeof port, "%u", address.port);
    if (use == ADDRESS_TO_LISTEN) hints.ai_flags = AI_PASSIVE;
    if (address.ipv4 || address.ipv6) hints.ai_flags |= AI_NUMERICHOST;
    int result = getaddrinfo(address.host, port, &hints, out);
    if (result != 0)
        return error_set(error, UNAVAILABLE, "%s: %s", address.host, gai_strerror(result));
    return OK;
}

static int open_socket(const struct addrinfo *at) {
    int one = 1;
    int descriptor = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (descriptor >= 0) (void)setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return descriptor;
}

static uint16_t port_of(int descriptor) {
    struct sockaddr_storage at = {0};
    socklen_t size = sizeof at;
    (void)getsockname(descriptor, (struct sockaddr *)&at, &size);
    return at.ss_family == AF_INET6 ? ntohs(((struct sockaddr_in6 *)&at)->sin6_port)
                                    : ntohs(((struct sockaddr_in *)&at)->sin_port);
}

enum status relay_socket_listen(const char *address, int *out, uint16_t *port,
                                struct error *error) {
    struct addrinfo *found;
    int one = 1, number = 0;
    TRY(resolve(address, ADDRESS_TO_LISTEN, &found, error));
    for (const struct addrinfo *at = found; at; at = at->ai_next) {
        int descriptor = open_socket(at);
        if (descriptor >= 0 &&
            setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0 &&
            bind(descriptor, at->ai_addr, at->ai_addrlen) == 0 && listen(descriptor, 64) == 0) {
            *port = port_of(descriptor);
            *out = descriptor;
            freeaddrinfo(found);
            return OK;
        }
        number = errno;
        if (descriptor >= 0) close(descriptor);
    }
    freeaddrinfo(found);
    return error_set(error, UNAVAILABLE, "listen at %s: %s", address, strerror(number));
}

static int finish_connect(int descriptor, uint64_t timeout_ms) {
    struct pollfd wait = {.fd = descriptor, .events = POLLOUT};
    int number = 0;
    socklen_t size = sizeof number;
    if (poll(&wait, 1, (int)MIN(timeout_ms, (uint64_t)60000)) != 1) return ETIMEDOUT;
    if (getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &number, &size) != 0) return errno;
    return number;
}

enum status relay_socket_connect(const char *address, uint64_t timeout_ms, int *out,
                                 struct error *error) {
    struct addrinfo *found;
    int number = 0;
    TRY(resolve(address, ADDRESS_TO_CONNECT, &found, error));
    for (const struct addrinfo *at = found; at; at = at->ai_next) {
        int descriptor = open_socket(at);
        number = descriptor < 0 ? errno : 0;
        if (descriptor >= 0 && connect(descriptor, at->ai_addr, at->ai_addrlen) != 0)
            number = errno == EINPROGRESS ? finish_connect(descriptor, timeout_ms) : errno;
        if (descriptor >= 0 && number == 0) {
            *out = descriptor;
            freeaddrinfo(found);
            return OK;
        }
        if (descriptor >= 0) close(descriptor);
    }
    freeaddrinfo(found);
    return error_set(error, UNAVAILABLE, "%s: %s", address, strerror(number));
}

int relay_socket_accept(int listener, char peer[static RELAY_PEER_SIZE]) {
    struct sockaddr_storage from;
    socklen_t size = sizeof from;
    int one = 1;
    int descriptor =
        accept4(listener, (struct sockaddr *)&from, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);
    snprintf(peer, RELAY_PEER_SIZE, "?");
    if (descriptor < 0) return -1;
    (void)setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    (void)getnameinfo((struct sockaddr *)&from, size, peer, RELAY_PEER_SIZE, NULL, 0,
                      NI_NUMERICHOST);
    return descriptor;
}
