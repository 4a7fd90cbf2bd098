/* The proxy on real sockets. Times are only bounded from below here: a busy machine may be late,
 * the link may never be early. */
#include "wan/wan_proxy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/thread.h"
#include "tests/test.h"

struct fixture {
    struct wan_proxy *proxy;
    struct thread *thread;
    int control[2]; /* ours, the proxy's */
    int target;     /* listens */
    uint16_t target_port, port;
    enum status ended;
};

static void proxy_body(void *context) {
    struct fixture *f = context;
    f->ended = wan_proxy_run(f->proxy, f->control[1], f->control[1], NULL);
}

static void deadline(int descriptor, unsigned ms) {
    struct timeval limit = {.tv_sec = ms / 1000, .tv_usec = (long)(ms % 1000) * 1000};
    CHECK(setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) == 0);
}

static int listen_anywhere(uint16_t *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(descriptor >= 0 && bind(descriptor, (struct sockaddr *)&address, size) == 0 &&
          listen(descriptor, 64) == 0);
    CHECK(getsockname(descriptor, (struct sockaddr *)&address, &size) == 0);
    *port = ntohs(address.sin_port);
    return descriptor;
}

/* The answer to one line, without its line feed; static storage. */
static const char *say(struct fixture *f, const char *format, ...) PRINTF_LIKE(2, 3);
static const char *say(struct fixture *f, const char *format, ...) {
    static char answer[65536];
    char line[256];
    size_t size = 0;
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof(line) - 1, format, arguments);
    va_end(arguments);
    line[length++] = '\n';
    CHECK(write(f->control[0], line, (size_t)length) == length);
    do {
        ssize_t got = read(f->control[0], answer + size, sizeof(answer) - 1 - size);
        CHECK(got > 0);
        size += (size_t)got;
    } while (answer[size - 1] != '\n');
    answer[size - 1] = '\0';
    return answer;
}

static uint16_t add_link(struct fixture *f, const char *name) {
    unsigned port = 0;
    CHECK(sscanf(say(f, "link %s from 127.0.0.1:0 to 127.0.0.1:%u", name, f->target_port),
                 "ok port=%u", &port) == 1);
    return (uint16_t)port;
}

static struct fixture *start(void) {
    struct fixture *f = xcalloc(1, sizeof(*f));
    struct error error = {0};
    CHECK_OK(wan_proxy_create(1, &f->proxy, &error));
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, f->control) == 0);
    f->target = listen_anywhere(&f->target_port);
    CHECK_OK(thread_start("proxy", proxy_body, f, &f->thread, &error));
    f->port = add_link(f, "a");
    return f;
}

static void finish(struct fixture *f) {
    CHECK_TEXT(say(f, "quit"), "ok");
    CHECK(thread_join(f->thread, 20000) == OK);
    CHECK_EQUAL(f->ended, OK);
    wan_proxy_destroy(f->proxy);
    close(f->control[0]), close(f->control[1]), close(f->target);
    free(f);
}

static uint64_t counter(struct fixture *f, const char *way, const char *name) {
    char key[64];
    const char *at = strstr(say(f, "show"), "\"a\":");
    CHECK(at != NULL);
    if (way) {
        snprintf(key, sizeof(key), "\"%s\":", way);
        CHECK((at = strstr(at, key)) != NULL);
    }
    snprintf(key, sizeof(key), "\"%s\":", name);
    CHECK((at = strstr(at, key)) != NULL);
    return strtoull(at + strlen(key), NULL, 10);
}

static int connect_to(uint16_t port) {
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(descriptor >= 0 &&
          connect(descriptor, (struct sockaddr *)&address, sizeof(address)) == 0);
    deadline(descriptor, 30000);
    return descriptor;
}

static int accept_one(struct fixture *f) {
    int descriptor = accept(f->target, NULL, NULL);
    CHECK(descriptor >= 0);
    deadline(descriptor, 30000);
    return descriptor;
}

static void pair(struct fixture *f, int *near, int *far) {
    *near = connect_to(f->port);
    *far = accept_one(f);
}

struct sending {
    int descriptor;
    const uint8_t *data;
    size_t size;
};

static void send_body(void *context) {
    struct sending *one = context;
    for (size_t at = 0; at < one->size;) {
        ssize_t sent = send(one->descriptor, one->data + at, one->size - at, MSG_NOSIGNAL);
        if (sent <= 0) return;
        at += (size_t)sent;
    }
    (void)shutdown(one->descriptor, SHUT_WR);
}

static uint8_t *pattern(size_t size, uint64_t seed) {
    uint8_t *data = xmalloc(size);
    for (size_t i = 0; i < size; i++) data[i] = (uint8_t)random_hash(seed, i);
    return data;
}

/* Everything until the end; how many bytes differ. */
static size_t receive_all(int descriptor, const uint8_t *wanted, size_t size) {
    uint8_t data[16384];
    size_t at = 0, differing = 0;
    for (;;) {
        ssize_t got = recv(descriptor, data, sizeof(data), 0);
        CHECK(got >= 0);
        if (got == 0) break;
        CHECK(at + (size_t)got <= size);
        for (ssize_t i = 0; i < got; i++) differing += data[i] != wanted[at + (size_t)i];
        at += (size_t)got;
    }
    CHECK_EQUAL(at, size);
    return differing;
}

TEST(bytes_pass_intact_both_ways_at_once_then_the_ends_and_all_is_counted) {
    enum { UP = 700001, DOWN = 300007 };
    struct fixture *f = start();
    int near, far;
    struct error error = {0};
    struct thread *threads[2];
    uint8_t *up = pattern(UP, 1), *down = pattern(DOWN, 2);
    CHECK_TEXT(
        say(f, "set a rtt 10ms jitter 5ms rate 50Mbit/s loss 0.5%% window 64KiB queue 32KiB"),
        "ok");
    pair(f, &near, &far);
    struct sending sends[2] = {{near, up, UP}, {far, down, DOWN}};
    for (int i = 0; i < 2; i++)
        CHECK_OK(thread_start("send", send_body, &sends[i], &threads[i], &error));
    CHECK_EQUAL(receive_all(far, up, UP), 0);
    CHECK_EQUAL(receive_all(near, down, DOWN), 0);
    for (int i = 0; i < 2; i++) CHECK(thread_join(threads[i], 10000) == OK);
    CHECK_EQUAL(counter(f, "up", "bytes_in"), UP);
    CHECK_EQUAL(counter(f, "up", "bytes_out"), UP);
    CHECK_EQUAL(counter(f, "down", "bytes_out"), DOWN);
    CHECK(counter(f, "up", "losses") > 0);
    CHECK_EQUAL(counter(f, NULL, "accepted"), 1);
    CHECK_EQUAL(counter(f, NULL, "resets"), 0);
    while (counter(f, NULL, "open") != 0) clock_sleep_ms(1);
    close(near), close(far), free(up), free(down);
    finish(f);
}

TEST(the_first_byte_takes_a_handshake_and_a_delay_the_next_a_delay) {
    struct fixture *f = start();
    int near, far;
    char byte;
    CHECK_TEXT(say(f, "set a rtt 100ms"), "ok");
    uint64_t start_ns = clock_monotonic_ns();
    pair(f, &near, &far);
    CHECK(send(near, "x", 1, 0) == 1);
    CHECK(recv(far, &byte, 1, 0) == 1);
    CHECK(clock_monotonic_ns() - start_ns >= 150000000);
    start_ns = clock_monotonic_ns();
    CHECK(send(far, "y", 1, 0) == 1);
    CHECK(recv(near, &byte, 1, 0) == 1 && byte == 'y');
    CHECK(clock_monotonic_ns() - start_ns >= 50000000);
    close(near), close(far);
    finish(f);
}

TEST(a_rate_is_never_exceeded_and_may_be_changed_under_way) {
    enum { SIZE = 400000 };
    struct fixture *f = start();
    int near, far;
    struct error error = {0};
    struct thread *thread;
    uint8_t *data = pattern(SIZE, 1), piece[4096];
    size_t got = 0;
    CHECK_TEXT(say(f, "set a up.rate 4Mbit/s"), "ok");
    pair(f, &near, &far);
    uint64_t start_ns = clock_monotonic_ns();
    struct sending sends = {near, data, SIZE};
    CHECK_OK(thread_start("up", send_body, &sends, &thread, &error));
    while (got < 200000) {
        ssize_t one = recv(far, piece, sizeof(piece), 0);
        CHECK(one > 0);
        got += (size_t)one;
    }
    CHECK((double)(clock_monotonic_ns() - start_ns) >= (double)got * 8 / 4e6 * 1e9 * 0.99 - 5e6);
    CHECK_TEXT(say(f, "set a rate unlimited"), "ok");
    while (got < SIZE) {
        ssize_t one = recv(far, piece, sizeof(piece), 0);
        CHECK(one > 0);
        got += (size_t)one;
    }
    CHECK(thread_join(thread, 10000) == OK);
    close(near), close(far), free(data);
    finish(f);
}

TEST(a_reset_reaches_both_ends_and_the_next_connection_works) {
    struct fixture *f = start();
    int near, far;
    char byte;
    pair(f, &near, &far);
    CHECK(send(near, "x", 1, 0) == 1);
    CHECK(recv(far, &byte, 1, 0) == 1);
    CHECK_TEXT(say(f, "reset a"), "ok");
    CHECK(recv(near, &byte, 1, 0) < 0 && errno == ECONNRESET);
    CHECK(recv(far, &byte, 1, 0) < 0 && errno == ECONNRESET);
    close(near), close(far);
    pair(f, &near, &far);
    CHECK(send(far, "z", 1, 0) == 1);
    CHECK(recv(near, &byte, 1, 0) == 1 && byte == 'z');
    CHECK_EQUAL(counter(f, NULL, "resets"), 1);
    close(near), close(far);
    finish(f);
}

TEST(resets_come_by_schedule) {
    struct fixture *f = start();
    int near, far;
    char byte;
    pair(f, &near, &far);
    CHECK_TEXT(say(f, "set a reset 50ms"), "ok");
    CHECK(recv(near, &byte, 1, 0) < 0 && errno == ECONNRESET);
    close(near), close(far);
    pair(f, &near, &far);
    CHECK(recv(near, &byte, 1, 0) < 0 && errno == ECONNRESET);
    CHECK_TEXT(say(f, "set a reset 0"), "ok");
    close(near), close(far);
    finish(f);
}

/* An RST by a peer is an RST at the other. */
TEST(a_peer_that_resets_is_a_reset_at_the_other_end) {
    struct linger abort_it = {.l_onoff = 1};
    struct fixture *f = start();
    int near, far;
    char byte;
    pair(f, &near, &far);
    CHECK(send(near, "x", 1, 0) == 1);
    CHECK(recv(far, &byte, 1, 0) == 1);
    CHECK(setsockopt(near, SOL_SOCKET, SO_LINGER, &abort_it, sizeof(abort_it)) == 0);
    close(near);
    CHECK(recv(far, &byte, 1, 0) < 0 && errno == ECONNRESET);
    close(far);
    finish(f);
}

TEST(a_half_closed_way_ends_and_the_other_goes_on) {
    struct fixture *f = start();
    int near, far;
    char text[8];
    pair(f, &near, &far);
    CHECK(send(near, "one", 3, 0) == 3);
    CHECK(recv(far, text, 3, MSG_WAITALL) == 3);
    CHECK_TEXT(say(f, "half-close a up"), "ok");
    CHECK(recv(far, text, 1, 0) == 0);
    CHECK(send(near, "two", 3, 0) == 3); /* goes nowhere */
    CHECK(send(far, "three", 5, 0) == 5);
    CHECK(recv(near, text, 5, MSG_WAITALL) == 5);
    CHECK_MEMORY(text, "three", 5);
    while (counter(f, "up", "discarded") != 3) clock_sleep_ms(1);
    CHECK_EQUAL(counter(f, "up", "bytes_out"), 3);
    close(far);
    CHECK(recv(near, text, 1, 0) == 0);
    close(near);
    finish(f);
}

TEST(nothing_leaves_a_blackhole_and_all_of_it_comes_when_it_is_gone) {
    struct fixture *f = start();
    int near, far;
    char text[8];
    pair(f, &near, &far);
    CHECK_TEXT(say(f, "set a up.blackhole on"), "ok");
    CHECK(send(near, "later", 5, 0) == 5);
    CHECK(send(far, "now", 3, 0) == 3);
    CHECK(recv(near, text, 3, MSG_WAITALL) == 3);
    deadline(far, 100);
    CHECK(recv(far, text, 1, 0) < 0 && (errno == EAGAIN || errno == EWOULDBLOCK));
    CHECK_TEXT(say(f, "set * blackhole off"), "ok");
    deadline(far, 30000);
    CHECK(recv(far, text, 5, MSG_WAITALL) == 5);
    CHECK_MEMORY(text, "later", 5);
    close(near), close(far);
    finish(f);
}

TEST(a_stall_delays_what_comes_within_it) {
    struct fixture *f = start();
    int near, far;
    char byte;
    pair(f, &near, &far);
    uint64_t start_ns = clock_monotonic_ns();
    CHECK_TEXT(say(f, "stall a 150ms down"), "ok");
    CHECK(send(far, "x", 1, 0) == 1);
    CHECK(recv(near, &byte, 1, 0) == 1);
    CHECK(clock_monotonic_ns() - start_ns >= 150000000);
    close(near), close(far);
    finish(f);
}

TEST(corruption_flips_one_bit_where_it_is_told_to) {
    enum { SIZE = 100000 };
    struct fixture *f = start();
    int near, far;
    struct error error = {0};
    struct thread *thread;
    uint8_t *data = pattern(SIZE, 5), byte;
    pair(f, &near, &far);
    CHECK_TEXT(say(f, "corrupt a down"), "ok");
    CHECK(send(far, "\x40", 1, 0) == 1);
    CHECK(recv(near, &byte, 1, 0) == 1);
    CHECK_EQUAL(byte, 0x41);
    CHECK(send(far, "\x40", 1, 0) == 1);
    CHECK(recv(near, &byte, 1, 0) == 1);
    CHECK_EQUAL(byte, 0x40);
    CHECK_TEXT(say(f, "set a up.corrupt 60kB"), "ok");
    struct sending sends = {near, data, SIZE};
    CHECK_OK(thread_start("up", send_body, &sends, &thread, &error));
    CHECK_EQUAL(receive_all(far, data, SIZE), 1);
    CHECK(thread_join(thread, 10000) == OK);
    CHECK_EQUAL(counter(f, "up", "corrupted"), 1);
    CHECK_EQUAL(counter(f, "down", "corrupted"), 1);
    close(near), close(far), free(data);
    finish(f);
}

TEST(a_receiver_that_does_not_read_costs_a_window_and_no_more) {
    struct fixture *f = start();
    int near, far;
    uint8_t *data = pattern(1 << 20, 5);
    size_t sent = 0;
    CHECK_TEXT(say(f, "set a window 64KiB"), "ok");
    pair(f, &near, &far);
    CHECK(fcntl(near, F_SETFL, O_NONBLOCK) == 0);
    for (int quiet = 0; quiet < 100;) { /* until it has been full for 100 ms */
        ssize_t one = send(near, data, 1 << 20, MSG_NOSIGNAL);
        if (one > 0)
            sent += (size_t)one, quiet = 0;
        else
            clock_sleep_ms(1), quiet++;
        CHECK(sent < 64 << 20);
    }
    uint64_t in = counter(f, "up", "bytes_in"), out = counter(f, "up", "bytes_out");
    CHECK(in > out && in - out <= 64 << 10);
    CHECK(in < sent);
    close(near), close(far), free(data);
    finish(f);
}

TEST(a_target_that_is_away_is_a_refused_connection_and_comes_back) {
    struct fixture *f = start();
    uint16_t nobody;
    int descriptor = listen_anywhere(&nobody), near;
    char byte;
    close(descriptor);
    CHECK_TEXT(say(f, "target a 127.0.0.1:%u", nobody), "ok");
    near = connect_to(f->port);
    CHECK(recv(near, &byte, 1, 0) <= 0);
    close(near);
    CHECK_EQUAL(counter(f, NULL, "refused"), 1);
    CHECK_TEXT(say(f, "target a 127.0.0.1:%u", f->target_port), "ok");
    int far;
    pair(f, &near, &far);
    CHECK(send(near, "x", 1, 0) == 1);
    CHECK(recv(far, &byte, 1, 0) == 1);
    close(near), close(far);
    finish(f);
}

TEST(a_hundred_links_work_at_once_each_with_its_own_settings) {
    enum { LINKS = 100 };
    struct fixture *f = start();
    int near[LINKS], far[LINKS];
    char name[8], byte;
    for (int i = 0; i < LINKS; i++) {
        snprintf(name, sizeof(name), "s%d", i);
        uint16_t port = add_link(f, name);
        CHECK_TEXT(say(f, "set %s up.delay %dms", name, i % 7), "ok");
        near[i] = connect_to(port);
        far[i] = accept_one(f);
    }
    CHECK_TEXT(say(f, "set s50 up.blackhole on"), "ok");
    for (int i = 0; i < LINKS; i++) CHECK(send(near[i], &(char){(char)i}, 1, 0) == 1);
    for (int i = 0; i < LINKS; i++) {
        if (i == 50) continue;
        CHECK(recv(far[i], &byte, 1, 0) == 1);
        CHECK_EQUAL(byte, i);
    }
    CHECK(recv(far[50], &byte, 1, MSG_DONTWAIT) < 0);
    for (int i = 0; i < LINKS; i++) close(near[i]), close(far[i]);
    finish(f);
}

TEST(a_line_that_is_no_command_is_answered_with_what_is_and_changes_nothing) {
    struct fixture *f = start();
    static const char *const lines[][2] = {
        {"", "is not a command: write link, set"},
        {"restart a", "is not a command: write link, set"},
        {"set", "needs the NAME"},
        {"set b rtt 1ms", "there is no link \"b\""},
        {"set a rtt", "set needs NAME KEY VALUE"},
        {"set a rtt 1ms rate", "set needs NAME KEY VALUE"},
        {"set a rtt 1ms up.speed 1Mbit/s", "a link has no \"speed\""},
        {"stall a", "stall needs"},
        {"stall a 1s sideways", "not a direction: write up or down"},
        {"half-close a", "half-close needs"},
        {"corrupt a left", "not a direction: write up or down"},
        {"reset a now", "reset needs"},
        {"target a nowhere", "has no port"},
        {"target a 127.0.0.1:70000", "a port is a number from 1 to 65535"},
        {"target a localhost:80", "IPv4 addresses only"},
        {"link a from 127.0.0.1:0 to 127.0.0.1:1", "there is a link a already"},
        {"link a/b from 127.0.0.1:0 to 127.0.0.1:1", "is not a name for a link"},
        {"link b 127.0.0.1:0 127.0.0.1:1", "link needs NAME from"},
    };
    for (size_t i = 0; i < COUNT_OF(lines); i++) {
        const char *answer = say(f, "%s", lines[i][0]);
        CHECK(strncmp(answer, "error ", 6) == 0);
        CHECK_CONTAINS(answer, lines[i][1]);
    }
    CHECK_CONTAINS(say(f, "link b from 127.0.0.1:%u to 127.0.0.1:1", f->port), "error listen at");
    char *longest = xmalloc(WAN_LINE_LIMIT + 10);
    memset(longest, 'x', WAN_LINE_LIMIT + 9);
    CHECK(write(f->control[0], longest, WAN_LINE_LIMIT + 9) == WAN_LINE_LIMIT + 9);
    CHECK_CONTAINS(say(f, "x"), "error a line of more than");
    CHECK_CONTAINS(say(f, "show"), "\"a\":{\"port\"");
    free(longest);
    finish(f);
}

TEST(the_end_of_the_commands_is_the_end_of_the_proxy_and_of_its_connections) {
    struct fixture *f = start();
    int near, far;
    char byte;
    pair(f, &near, &far);
    CHECK(shutdown(f->control[0], SHUT_WR) == 0);
    CHECK(thread_join(f->thread, 20000) == OK);
    wan_proxy_destroy(f->proxy);
    CHECK(recv(near, &byte, 1, 0) < 0 && errno == ECONNRESET);
    CHECK(recv(far, &byte, 1, 0) < 0 && errno == ECONNRESET);
    close(near), close(far), close(f->control[0]), close(f->control[1]), close(f->target);
    free(f);
}
