/* The connections that were accepted, where the library has closed one and its number is somebody
 * else's. The test is the library: it gets the descriptors. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "rpc/acceptor.h"
#include "tests/test.h"

enum { PATIENCE_MS = 20000 };

struct house {
    struct acceptor *acceptor;
    uint16_t port;
    _Atomic int given; /* the last descriptor; 0: none since it was taken */
};

static void on_give(void *context, int descriptor) {
    struct house *house = context;
    atomic_store(&house->given, descriptor);
}

static void house_open(struct house *house, uint32_t strangers) {
    static const char *const addresses[] = {"127.0.0.1:0"};
    struct rpc_server_options options = {
        .addresses = addresses,
        .address_count = 1,
        .max_connections = 64,
        .keepalive_timeout_ms = 20000,
        .places = {
            .strangers = strangers, .admins = 2, .stranger_ms = 3600000, .member_connections = 4}};
    struct error error = {0};
    *house = (struct house){0};
    CHECK_OK(acceptor_open(&options, &house->acceptor, &house->port, &error));
    CHECK_OK(acceptor_start(house->acceptor, on_give, house, &error));
}

static int connect_to(uint16_t port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(descriptor >= 0);
    CHECK(connect(descriptor, (struct sockaddr *)&address, sizeof address) == 0);
    return descriptor;
}

/* A client comes; *ours is what the library is given of it. */
static int come(struct house *house, int *ours) {
    int client = connect_to(house->port);
    uint64_t until = clock_monotonic_ms() + PATIENCE_MS;
    while ((*ours = atomic_exchange(&house->given, 0)) == 0) {
        CHECK(clock_monotonic_ms() < until);
        clock_sleep_ms(1);
    }
    return client;
}

static bool is_cut(int client) {
    char byte;
    ssize_t count = recv(client, &byte, 1, MSG_DONTWAIT | MSG_PEEK);
    return count == 0 || (count < 0 && errno != EAGAIN && errno != EWOULDBLOCK);
}

/* A connection that the acceptor knows nothing of, with words that it has received. */
static void pair_open(int *client, int *served) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(bind(listening, (struct sockaddr *)&address, size) == 0 && listen(listening, 4) == 0);
    CHECK(getsockname(listening, (struct sockaddr *)&address, &size) == 0);
    *client = connect_to(ntohs(address.sin_port));
    *served = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
    CHECK(*served >= 0 && send(*client, "word", 4, 0) == 4);
    close(listening);
}

TEST(a_stranger_who_has_gone_costs_no_other_its_place_though_its_number_lives_on) {
    struct house house;
    int ours[3], client, served;
    house_open(&house, 2);
    pair_open(&client, &served);
    int first = come(&house, &ours[0]), second = come(&house, &ours[1]);
    CHECK(dup2(served, ours[0]) == ours[0]); /* closed, and another's at once */
    int third = come(&house, &ours[2]);
    uint64_t open, dropped;
    acceptor_count(house.acceptor, &open, &dropped);
    CHECK_EQUAL(dropped, 0);
    CHECK_EQUAL(open, 2);
    CHECK(!is_cut(second) && !is_cut(third) && !is_cut(client));
    acceptor_close(house.acceptor);
    int all[] = {first, second, third, client, served, ours[0], ours[1], ours[2]};
    for (size_t i = 0; i < COUNT_OF(all); i++) close(all[i]);
}

struct changing { /* a number that is now the connection's, now another's */
    int number, own, other;
    _Atomic bool stop;
};

static void *change(void *context) {
    struct changing *changing = context;
    while (!atomic_load(&changing->stop)) {
        CHECK(dup2(changing->other, changing->number) == changing->number);
        CHECK(dup2(changing->own, changing->number) == changing->number);
    }
    return NULL;
}

TEST(whoever_has_the_number_of_one_who_must_go_is_never_shut_down_for_it) {
    struct house house;
    int client, served;
    house_open(&house, 1);
    pair_open(&client, &served);
    for (int round = 0; round < 300; round++) {
        int ours, next;
        int first = come(&house, &ours);
        struct changing changing = {.number = ours, .own = dup(ours), .other = served};
        pthread_t thread;
        CHECK(changing.own >= 0 && pthread_create(&thread, NULL, change, &changing) == 0);
        int second = come(&house, &next); /* the first one must go */
        atomic_store(&changing.stop, true);
        CHECK(pthread_join(thread, NULL) == 0);
        CHECK(!is_cut(client) && send(served, "x", 1, MSG_NOSIGNAL) == 1);
        char byte;
        CHECK(recv(client, &byte, 1, 0) == 1);
        close(changing.own);
        close(ours);
        close(next);
        close(first);
        close(second);
    }
    acceptor_close(house.acceptor);
    close(client);
    close(served);
}
