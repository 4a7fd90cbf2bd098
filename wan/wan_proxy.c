/* Links, the loop, and the lines that change them. One connection's bytes are in wan_connection.c.
 */
#include "wan/wan_proxy.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/address.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "wan/wan_proxy_internal.h"

enum { EVENTS_AT_ONCE = 128, ACCEPTS_AT_ONCE = 16, LISTENER_BUFFER = 128 << 10 };

bool endpoint_watch(struct wan_proxy *proxy, struct endpoint *endpoint, uint32_t interest) {
    struct epoll_event event = {.events = interest, .data.ptr = endpoint};
    bool is_new = !endpoint->watched;
    if (endpoint->hung || (endpoint->watched && endpoint->interest == interest)) return true;
    endpoint->interest = interest;
    endpoint->watched = true;
    return epoll_ctl(proxy->epoll, is_new ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, endpoint->descriptor,
                     &event) == 0;
}

enum status wan_proxy_create(uint64_t seed, struct wan_proxy **out, struct error *error) {
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0) return error_set(error, FAILED, "epoll: %s", strerror(errno));
    *out = xcalloc(1, sizeof(**out));
    (*out)->epoll = epoll;
    timers_init(&(*out)->timers);
    (*out)->seed = seed;
    return OK;
}

void wan_proxy_destroy(struct wan_proxy *proxy) {
    if (!proxy) return;
    for (size_t i = 0; i < proxy->link_count; i++) {
        struct link *link = proxy->links[i];
        while (link->connections) connection_reset(link->connections);
        close(link->listener.descriptor);
        free(link);
    }
    connection_free_dead(proxy);
    close(proxy->epoll);
    buffer_deinit(&proxy->line);
    heap_deinit(&proxy->timers);
    free(proxy);
}

/* ---- links ---- */

static enum status socket_address(const char *text, enum address_use use, struct sockaddr_in *out,
                                  struct error *error) {
    struct address address;
    *out = (struct sockaddr_in){.sin_family = AF_INET};
    TRY(address_parse(text, use, &address, error));
    if (!address.ipv4 || inet_pton(AF_INET, address.host, &out->sin_addr) != 1)
        return error_set(error, INVALID, "\"%.100s\": this program takes IPv4 addresses only",
                         text);
    out->sin_port = htons(address.port);
    return OK;
}

static void link_fire(struct timer *timer, uint64_t now_ns) {
    struct link *link = (struct link *)((char *)timer - offsetof(struct link, timer));
    while (link->connections) connection_reset(link->connections);
    timer_set(link->proxy, timer, now_ns + link->settings.reset_every_ns);
}

static void link_service(struct link *link, uint64_t now_ns) {
    for (struct connection *one = link->connections, *next; one; one = next) {
        next = one->next;
        connection_service(one, now_ns);
    }
}

static struct link *link_find(const struct wan_proxy *proxy, const char *name) {
    for (size_t i = 0; i < proxy->link_count; i++)
        if (strcmp(proxy->links[i]->name, name) == 0) return proxy->links[i];
    return NULL;
}

static bool name_is_good(const char *name) {
    size_t size = strlen(name);
    for (size_t i = 0; i < size; i++)
        if (!isalnum((unsigned char)name[i]) && !strchr("-_.", name[i])) return false;
    return size > 0 && size < WAN_NAME_SIZE;
}

static enum status link_listen(struct link *link, const char *listen_at, struct error *error) {
    struct sockaddr_in address;
    socklen_t size = sizeof(address);
    int one = 1, buffer = LISTENER_BUFFER, descriptor;
    TRY(socket_address(listen_at, ADDRESS_TO_LISTEN, &address, error));
    descriptor = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (descriptor < 0) return error_set(error, FAILED, "socket: %s", strerror(errno));
    link->listener.descriptor = descriptor;
    (void)setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    /* Small, and before anybody connects: the window that a peer sees is our link's, not
     * loopback's. */
    (void)setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof(buffer));
    if (bind(descriptor, (struct sockaddr *)&address, sizeof(address)) != 0 ||
        listen(descriptor, 128) != 0)
        return error_set(error, UNAVAILABLE, "listen at %.60s: %s", listen_at, strerror(errno));
    (void)getsockname(descriptor, (struct sockaddr *)&address, &size);
    link->port = ntohs(address.sin_port);
    return OK;
}

enum status wan_proxy_add(struct wan_proxy *proxy, const struct wan_link_setup *setup,
                          uint16_t *port, struct error *error) {
    struct link *link;
    enum status status;
    if (proxy->link_count == WAN_LINKS_LIMIT)
        return error_set(error, FULL, "there are %d links already", WAN_LINKS_LIMIT);
    if (!name_is_good(setup->name))
        return error_set(
            error, INVALID,
            "\"%.70s\" is not a name for a link: use letters, digits, '-', '_' and '.'",
            setup->name);
    if (link_find(proxy, setup->name))
        return error_set(error, INVALID, "there is a link %s already", setup->name);
    link = xcalloc(1, sizeof(*link));
    link->proxy = proxy;
    link->timer = (struct timer){.place = SIZE_MAX, .fire = link_fire};
    link->listener = (struct endpoint){.kind = ENDPOINT_LISTENER, .descriptor = -1, .link = link};
    link->settings = setup->settings;
    strcpy(link->name, setup->name);
    random_init(&link->random, random_hash(proxy->seed, proxy->link_count));
    status = socket_address(setup->target, ADDRESS_TO_CONNECT, &link->target, error);
    if (status == OK) status = link_listen(link, setup->listen, error);
    if (status == OK && !endpoint_watch(proxy, &link->listener, EPOLLIN))
        status = error_set(error, FAILED, "epoll: %s", strerror(errno));
    if (status != OK) {
        if (link->listener.descriptor >= 0) close(link->listener.descriptor);
        free(link);
        return status;
    }
    if (link->settings.reset_every_ns)
        timer_set(proxy, &link->timer, clock_monotonic_ns() + link->settings.reset_every_ns);
    proxy->links[proxy->link_count++] = link;
    *port = link->port;
    return OK;
}

static void link_accept(struct link *link, uint64_t now_ns) {
    for (int i = 0; i < ACCEPTS_AT_ONCE; i++) {
        int descriptor =
            accept4(link->listener.descriptor, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (descriptor < 0) return;
        if (link->proxy->connection_count >= WAN_CONNECTIONS_LIMIT) {
            link->refused++;
            close(descriptor);
        } else {
            connection_open(link, descriptor, now_ns);
        }
    }
}

/* ---- commands ---- */

enum { WORDS_LIMIT = 64 };

struct words {
    const char *at[WORDS_LIMIT];
    size_t count;
};

typedef enum status link_command(struct link *link, const struct words *words, uint64_t now_ns,
                                 struct error *error);

static enum status way_parse(const char *text, enum wan_way *out, struct error *error) {
    bool up = strcmp(text, "up") == 0;
    if (!up && strcmp(text, "down") != 0)
        return error_set(error, INVALID, "\"%.40s\" is not a direction: write up or down", text);
    *out = up ? WAN_UP : WAN_DOWN;
    return OK;
}

static enum status do_set(struct link *link, const struct words *words, uint64_t now_ns,
                          struct error *error) {
    struct wan_settings wanted = link->settings;
    if (words->count < 4 || words->count % 2)
        return error_set(error, INVALID, "set needs NAME KEY VALUE [KEY VALUE ...]");
    for (size_t i = 2; i < words->count; i += 2)
        TRY(wan_settings_set(&wanted, words->at[i], words->at[i + 1], error));
    if (wanted.reset_every_ns != link->settings.reset_every_ns)
        timer_set(link->proxy, &link->timer,
                  wanted.reset_every_ns ? now_ns + wanted.reset_every_ns : UINT64_MAX);
    for (int i = 0; i < WAN_WAYS;
         i++) /* what is under way at an old rate does not hold up the new one */
        if (wanted.way[i].rate != link->settings.way[i].rate) link->way[i].bottleneck.free_ns = 0;
    link->settings = wanted;
    link_service(link, now_ns);
    return OK;
}

static enum status do_target(struct link *link, const struct words *words, uint64_t now_ns,
                             struct error *error) {
    (void)now_ns;
    if (words->count != 3) return error_set(error, INVALID, "target needs NAME HOST:PORT");
    return socket_address(words->at[2], ADDRESS_TO_CONNECT, &link->target, error);
}

static enum status do_reset(struct link *link, const struct words *words, uint64_t now_ns,
                            struct error *error) {
    (void)now_ns;
    if (words->count != 2) return error_set(error, INVALID, "reset needs NAME");
    while (link->connections) connection_reset(link->connections);
    return OK;
}

static enum status do_stall(struct link *link, const struct words *words, uint64_t now_ns,
                            struct error *error) {
    struct wan_settings read = {0};
    enum wan_way way = WAN_UP;
    if (words->count != 3 && words->count != 4)
        return error_set(error, INVALID, "stall needs NAME DURATION [up|down]");
    TRY(wan_settings_set(&read, "delay", words->at[2], error));
    if (words->count == 4) TRY(way_parse(words->at[3], &way, error));
    for (int i = 0; i < WAN_WAYS; i++)
        if (words->count == 3 || i == (int)way)
            link->way[i].stalled_until_ns = now_ns + read.way[0].delay_ns;
    link_service(link, now_ns);
    return OK;
}

static enum status do_half_close(struct link *link, const struct words *words, uint64_t now_ns,
                                 struct error *error) {
    enum wan_way way;
    if (words->count != 3) return error_set(error, INVALID, "half-close needs NAME up|down");
    TRY(way_parse(words->at[2], &way, error));
    for (struct connection *one = link->connections, *next; one; one = next) {
        next = one->next;
        connection_half_close(one, way, now_ns);
    }
    return OK;
}

static enum status do_corrupt(struct link *link, const struct words *words, uint64_t now_ns,
                              struct error *error) {
    enum wan_way way;
    (void)now_ns;
    if (words->count != 3) return error_set(error, INVALID, "corrupt needs NAME up|down");
    TRY(way_parse(words->at[2], &way, error));
    link->way[way].corrupt_next = true;
    return OK;
}

static void put_way(struct json_writer *writer, const char *key, const struct link_way *way) {
    json_key(writer, key);
    json_begin_object(writer);
    json_put_u64(writer, "bytes_in", way->bytes_in);
    json_put_u64(writer, "bytes_out", way->bytes_out);
    json_put_u64(writer, "discarded", way->discarded);
    json_put_u64(writer, "corrupted", way->corrupted);
    json_put_u64(writer, "losses", way->losses);
    json_end_object(writer);
}

static void show(const struct wan_proxy *proxy, struct buffer *answer) {
    struct json_writer writer = json_writer_of(answer, false);
    json_begin_object(&writer);
    for (size_t i = 0; i < proxy->link_count; i++) {
        const struct link *link = proxy->links[i];
        json_key(&writer, link->name);
        json_begin_object(&writer);
        json_put_u64(&writer, "port", link->port);
        json_put_u64(&writer, "accepted", link->accepted);
        json_put_u64(&writer, "open", link->open);
        json_put_u64(&writer, "resets", link->resets);
        json_put_u64(&writer, "refused", link->refused);
        put_way(&writer, "up", &link->way[WAN_UP]);
        put_way(&writer, "down", &link->way[WAN_DOWN]);
        json_end_object(&writer);
    }
    json_end_object(&writer);
}

static enum status do_link(struct wan_proxy *proxy, const struct words *words, uint16_t *port,
                           struct error *error) {
    struct wan_link_setup setup = {.settings = wan_settings_default()};
    if (words->count != 6 || strcmp(words->at[2], "from") != 0 || strcmp(words->at[4], "to") != 0)
        return error_set(error, INVALID, "link needs NAME from HOST:PORT to HOST:PORT");
    setup.name = words->at[1];
    setup.listen = words->at[3];
    setup.target = words->at[5];
    return wan_proxy_add(proxy, &setup, port, error);
}

static enum status for_links(struct wan_proxy *proxy, const struct words *words, link_command *run,
                             struct error *error) {
    uint64_t now_ns = clock_monotonic_ns();
    struct link *link;
    if (words->count < 2)
        return error_set(error, INVALID, "%s needs the NAME of a link, or *", words->at[0]);
    if (strcmp(words->at[1], "*") == 0) {
        for (size_t i = 0; i < proxy->link_count; i++)
            TRY(run(proxy->links[i], words, now_ns, error));
        return OK;
    }
    link = link_find(proxy, words->at[1]);
    if (!link) return error_set(error, INVALID, "there is no link \"%.70s\"", words->at[1]);
    return run(link, words, now_ns, error);
}

static enum status command_run(struct wan_proxy *proxy, const struct words *words,
                               struct buffer *answer, bool *quit, struct error *error) {
    static const struct {
        const char *name;
        link_command *run;
    } commands[] = {{"set", do_set},     {"target", do_target},         {"reset", do_reset},
                    {"stall", do_stall}, {"half-close", do_half_close}, {"corrupt", do_corrupt}};
    const char *name = words->count ? words->at[0] : "";
    uint16_t port;
    for (size_t i = 0; i < COUNT_OF(commands); i++) {
        if (strcmp(name, commands[i].name) != 0) continue;
        TRY(for_links(proxy, words, commands[i].run, error));
        buffer_append_text(answer, "ok");
        return OK;
    }
    if (strcmp(name, "link") == 0) {
        TRY(do_link(proxy, words, &port, error));
        buffer_append_text(answer, "ok port=%u", port);
    } else if (strcmp(name, "show") == 0) {
        buffer_append_text(answer, "ok ");
        show(proxy, answer);
    } else if (strcmp(name, "quit") == 0) {
        *quit = true;
        buffer_append_text(answer, "ok");
    } else {
        return error_set(error, INVALID,
                         "\"%.40s\" is not a command: write link, set, target, reset, stall, "
                         "half-close, corrupt, show, quit",
                         name);
    }
    return OK;
}

bool wan_proxy_command(struct wan_proxy *proxy, const char *line, struct buffer *answer) {
    struct words words = {.count = 0};
    struct error error = {0};
    char *copy = xstrdup(line), *rest = copy, *word;
    size_t start = answer->size;
    bool quit = false, too_many = false;
    while ((word = strsep(&rest, " \t\r\n"))) {
        if (!*word) continue;
        too_many = words.count == WORDS_LIMIT;
        if (too_many) break;
        words.at[words.count++] = word;
    }
    enum status status = too_many ? error_set(&error, INVALID, "more than %d words", WORDS_LIMIT)
                                  : command_run(proxy, &words, answer, &quit, &error);
    if (status != OK) {
        answer->size = start;
        buffer_append_text(answer, "error %s", error.message);
    }
    buffer_append_text(answer, "\n");
    free(copy);
    return !quit;
}

/* ---- the loop ---- */

/* Lines that have come. False: the end, or quit. */
static bool input_read(struct wan_proxy *proxy, int input, int output, struct error *error) {
    char data[4096];
    ssize_t got = read(input, data, sizeof(data));
    struct buffer answer = {0};
    bool go_on = true;
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    if (got == 0) return false;
    for (ssize_t i = 0; i < got && go_on; i++) {
        if (data[i] != '\n') {
            if (proxy->line.size < WAN_LINE_LIMIT) buffer_append(&proxy->line, &data[i], 1);
            continue;
        }
        if (proxy->line.size == WAN_LINE_LIMIT) {
            buffer_append_text(&answer, "error a line of more than %d bytes\n", WAN_LINE_LIMIT - 1);
        } else {
            buffer_u8(&proxy->line, 0);
            go_on = wan_proxy_command(proxy, (const char *)proxy->line.data, &answer);
        }
        proxy->line.size = 0;
    }
    if (answer.size && file_write_all(output, answer.data, answer.size, error) != OK) go_on = false;
    buffer_deinit(&answer);
    return go_on;
}

static int wait_ms(uint64_t next_ns, uint64_t now_ns) {
    if (next_ns == UINT64_MAX) return -1;
    if (next_ns <= now_ns) return 0;
    uint64_t ms = (next_ns - now_ns + 999999) / 1000000;
    return (int)MIN(ms, 60000u);
}

enum status wan_proxy_run(struct wan_proxy *proxy, int input, int output, struct error *error) {
    struct epoll_event events[EVENTS_AT_ONCE];
    struct error failure = {.status = OK};
    proxy->input = (struct endpoint){.kind = ENDPOINT_INPUT, .descriptor = input};
    if (!endpoint_watch(proxy, &proxy->input, EPOLLIN))
        return error_set(error, FAILED, "epoll cannot watch the input: %s", strerror(errno));
    for (bool go_on = true; go_on;) {
        uint64_t now_ns = clock_monotonic_ns(), next_ns = timer_fire_due(proxy, now_ns);
        connection_free_dead(proxy);
        int count = epoll_wait(proxy->epoll, events, EVENTS_AT_ONCE, wait_ms(next_ns, now_ns));
        if (count < 0 && errno != EINTR)
            return error_set(error, FAILED, "epoll: %s", strerror(errno));
        now_ns = clock_monotonic_ns();
        for (int i = 0; i < count && go_on; i++) {
            struct endpoint *endpoint = events[i].data.ptr;
            switch (endpoint->kind) {
            case ENDPOINT_INPUT: go_on = input_read(proxy, input, output, &failure); break;
            case ENDPOINT_LISTENER: link_accept(endpoint->link, now_ns); break;
            case ENDPOINT_NEAR:
            case ENDPOINT_FAR:
                connection_event(endpoint->connection, endpoint, events[i].events, now_ns);
                break;
            }
        }
    }
    (void)epoll_ctl(proxy->epoll, EPOLL_CTL_DEL, input, NULL);
    if (failure.status != OK)
        return error_set(error, failure.status, "answer: %.400s", failure.message);
    return OK;
}
