/* The gateway's thread, and who may connect to it (relay/gateway.h). */
#include "relay/gateway.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "relay/gateway_internal.h"

enum {
    LINKS_LIMIT = 4096,
    STRANGERS_LIMIT = 256,
    STRANGERS_OF_ADDRESS = 32,
    HANDSHAKE_MS = 8000,
    SILENCE_MS = 30000,
    LOOK_MS = 1,
    IDLE_MS = 100,
    FAREWELL_MS = 1000,
    SAYING_MS = 1000
};

/* ---- connections ----------------------------------------------------------------------------- */

/* Anybody may make these: not a line for each. */
static void say_stranger(struct gateway *gateway, const char *peer, const char *why) {
    uint64_t now = clock_monotonic_ms();
    if (gateway->strangers_said_ms != 0 && now - gateway->strangers_said_ms < SAYING_MS) return;
    gateway->strangers_said_ms = now;
    log_warn("relay_refused",
             "peer=\"%s\" message=\"%s\" do=\"if it is a relay of this site, give it "
             "relay.token of the site's directory\"",
             peer, why);
}

static bool has_room(const struct gateway *gateway, const char *peer) {
    size_t strangers = 0, same = 0;
    for (size_t i = 0; i < gateway->link_count; i++) {
        const struct gate_link *link = gateway->links[i];
        strangers += !link->greeted;
        same += !link->greeted && strcmp(link->peer, peer) == 0;
    }
    return gateway->link_count < LINKS_LIMIT && strangers < STRANGERS_LIMIT &&
           same < STRANGERS_OF_ADDRESS;
}

static void accept_all(struct gateway *gateway) {
    char peer[RELAY_PEER_SIZE];
    int descriptor;
    while ((descriptor = relay_socket_accept(gateway->listener, peer)) >= 0) {
        struct relay_link *link;
        if (!has_room(gateway, peer)) {
            say_stranger(gateway, peer,
                         "too many connections have not shown that they have the "
                         "token");
            close(descriptor);
            continue;
        }
        if (relay_link_create(gateway->tls, descriptor, &link, NULL) != OK) continue;
        struct gate_link *gate = xcalloc(1, sizeof *gate);
        gate->link = link;
        gate->since_ms = clock_monotonic_ms();
        memcpy(gate->peer, peer, sizeof gate->peer);
        gateway->links =
            xrealloc(gateway->links, (gateway->link_count + 1) * sizeof gateway->links[0]);
        gateway->links[gateway->link_count++] = gate;
    }
}

static void end_link(struct gateway *gateway, struct gate_link *link, const char *why) {
    if (!relay_link_is_secret(link->link)) {
        say_stranger(gateway, link->peer, why);
    } else {
        log_warn(link->greeted ? "relay_gone" : "relay_refused",
                 "peer=\"%s\" ranks=%zu message=\"%s\"", link->peer, link->channel_count, why);
        relay_link_send(link->link, FRAME_WRONG, 0, why, strlen(why), NULL, 0);
        (void)!relay_link_work(link->link, NULL);
    }
    gate_link_free(link);
}

/* NULL: it is fine. */
static const char *is_late(const struct gate_link *link, uint64_t now) {
    if (!link->greeted && now - link->since_ms > HANDSHAKE_MS)
        return "it did not show in time that it has the token";
    if (link->greeted && relay_link_silence_ms(link->link) > SILENCE_MS)
        return "nothing was heard of it for 30 s";
    return NULL;
}

static void work(struct gateway *gateway) {
    size_t kept = 0;
    uint64_t now = clock_monotonic_ms();
    for (size_t i = 0; i < gateway->link_count; i++) {
        struct gate_link *link = gateway->links[i];
        struct error error = {0};
        bool greeted = link->greeted;
        enum status status = gate_link_work(gateway, link, &error);
        const char *late = is_late(link, now);
        if (!greeted && link->greeted) log_info("relay_connected", "peer=\"%s\"", link->peer);
        if (status != OK || late)
            end_link(gateway, link, status != OK ? error.message : late);
        else
            gateway->links[kept++] = link;
    }
    gateway->link_count = kept;
}

/* ---- waiting --------------------------------------------------------------------------------- */

static size_t count_waits(const struct gateway *gateway) {
    size_t count = 1 + gateway->link_count;
    for (size_t i = 0; i < gateway->link_count; i++) count += gateway->links[i]->channel_count;
    return count;
}

static void wait_for_something(const struct gateway *gateway) {
    struct pollfd *waits = xcalloc(count_waits(gateway), sizeof *waits);
    size_t count = 0;
    int timeout = IDLE_MS;
    waits[count++] = (struct pollfd){.fd = gateway->listener, .events = POLLIN};
    for (size_t i = 0; i < gateway->link_count; i++) {
        const struct gate_link *link = gateway->links[i];
        waits[count++] = (struct pollfd){.fd = relay_link_descriptor(link->link),
                                         .events = relay_link_events(link->link)};
        bool full = !gate_link_has_room(link); /* what the border says would not be read */
        for (size_t c = 0; c < link->channel_count; c++)
            waits[count++] =
                (struct pollfd){.fd = full ? -1 : link->channels[c]->descriptor, .events = POLLIN};
        if (gate_link_is_going(link)) timeout = MIN(timeout, (int)LOOK_MS);
        int patience = relay_link_patience(link->link);
        if (patience >= 0) timeout = MIN(timeout, patience);
    }
    (void)poll(waits, count, timeout);
    free(waits);
}

/* The border says it in the token's place. */
static bool run_is_over(const struct gateway *gateway) {
    struct buffer content = {0};
    bool over = file_read(gateway->token_file, 4096, &content, NULL) == OK &&
                content.size == sizeof WIRE_OVER - 1 &&
                memcmp(content.data, WIRE_OVER, content.size) == 0;
    buffer_deinit(&content);
    return over;
}

/* Nothing that it says counts any more, but an end that is closed on what was not read loses what
 * was sent. False: it has heard, and closed its own. */
static bool is_leaving(struct relay_link *link) {
    struct relay_frame frame;
    bool there = false;
    if (relay_link_work(link, NULL) != OK) return false;
    while (relay_link_next(link, &frame, &there, NULL) == OK && there) relay_link_taken(link);
    return true;
}

static void say_farewell(struct gateway *gateway) {
    uint64_t until = clock_monotonic_ms() + FAREWELL_MS;
    bool waits = run_is_over(gateway);
    for (size_t i = 0; waits && i < gateway->link_count; i++)
        if (gateway->links[i]->greeted)
            relay_link_send(gateway->links[i]->link, FRAME_OVER, 0, NULL, 0, NULL, 0);
    while (waits && clock_monotonic_ms() < until) {
        waits = false;
        for (size_t i = 0; i < gateway->link_count; i++)
            if (gateway->links[i]->greeted && is_leaving(gateway->links[i]->link)) waits = true;
        if (waits) clock_sleep_ms(1);
    }
}

static void body(void *context) {
    struct gateway *gateway = context;
    while (!atomic_load(&gateway->stopping)) {
        wait_for_something(gateway);
        accept_all(gateway);
        work(gateway);
    }
    say_farewell(gateway);
}

/* ---- life ------------------------------------------------------------------------------------ */

static void gateway_free(struct gateway *gateway) {
    for (size_t i = 0; i < gateway->link_count; i++) gate_link_free(gateway->links[i]);
    free(gateway->links);
    if (gateway->listener >= 0) close(gateway->listener);
    tls_context_destroy(gateway->tls);
    free(gateway->socket);
    free(gateway->token_file);
    free_clearing(gateway, sizeof *gateway);
}

enum status gateway_start(const struct gateway_options *options, struct gateway **out,
                          uint16_t *port, struct error *error) {
    struct gateway *gateway = xcalloc(1, sizeof *gateway);
    uint64_t start, count;
    gateway->options = *options;
    gateway->socket = xstrdup(options->socket);
    gateway->token_file = xstrdup(options->token_file);
    gateway->listener = -1;
    for (uint32_t i = 0; i < options->fragments; i++) {
        options->range(options->context, i, &start, &count);
        gateway->largest = MAX(gateway->largest, count);
    }
    enum status status = relay_socket_listen(options->address, &gateway->listener, port, error);
    if (status == OK) status = tls_context_create(options->secret, true, &gateway->tls, error);
    if (status == OK) status = thread_start("relays", body, gateway, &gateway->thread, error);
    if (status == OK)
        *out = gateway;
    else
        gateway_free(gateway);
    return status;
}

void gateway_stop(struct gateway *gateway) {
    if (!gateway) return;
    atomic_store(&gateway->stopping, true);
    MUST(thread_join(gateway->thread, UINT64_MAX));
    gateway_free(gateway);
}
