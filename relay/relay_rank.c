/* The ranks at a relay: what they say on its socket, and what stands in the memory that they share
 * with it (relay/relay.h). */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "attach/border_socket.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "relay/relay_internal.h"

enum { SILENCE_MS = 10000 };

/* ---- a connection ---------------------------------------------------------------------------- */

void relay_rank_free(struct relay_rank *rank) {
    if (rank->descriptor >= 0) close(rank->descriptor);
    relay_mirror_release(rank->mirror);
    rank_share_deinit(&rank->share);
    free(rank);
}

void relay_rank_end(struct relay_rank *rank, uint32_t type, const char *why) {
    struct wire_refused refused = {.type = type};
    snprintf(refused.text, sizeof refused.text, "%s", why ? why : "");
    if (rank->descriptor < 0) return;
    if (why) (void)border_socket_send(rank->descriptor, &refused, sizeof refused, NULL);
    close(rank->descriptor);
    rank->descriptor = -1;
    rank->going = false;
}

struct relay_rank *relay_rank_numbered(const struct relay *relay, uint32_t number) {
    for (size_t i = 0; i < relay->rank_count; i++)
        if (relay->ranks[i]->number == number) return relay->ranks[i];
    return NULL;
}

void relay_accept_ranks(struct relay *relay) {
    for (;;) {
        int descriptor = accept4(relay->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (descriptor < 0) return;
        if (relay->rank_count >= WIRE_RANKS_LIMIT + 64) {
            close(descriptor);
            continue;
        }
        struct relay_rank *rank = xcalloc(1, sizeof *rank);
        rank->descriptor = descriptor;
        rank->since_ms = clock_monotonic_ms();
        rank->number = ++relay->numbers;
        relay->ranks = xrealloc(relay->ranks, (relay->rank_count + 1) * sizeof relay->ranks[0]);
        relay->ranks[relay->rank_count++] = rank;
    }
}

/* ---- what a rank says ------------------------------------------------------------------------ */

static void greet(struct relay *relay, struct relay_rank *rank, const uint8_t *bytes, size_t size) {
    struct wire_attach hello = {0};
    char why[WIRE_TEXT_SIZE];
    if (size == sizeof hello) memcpy(&hello, bytes, sizeof hello);
    if (hello.type != WIRE_ATTACH) {
        relay_rank_end(rank, WIRE_REFUSED, "this is not libatoll's protocol");
    } else if (hello.version != WIRE_BORDER_VERSION) {
        snprintf(why, sizeof why, "the trainer's libatoll speaks version %u, this relay %d",
                 hello.version, WIRE_BORDER_VERSION);
        relay_rank_end(rank, WIRE_REFUSED, why);
    } else if (!border_token_is(relay->token, hello.token)) {
        relay_rank_end(rank, WIRE_REFUSED,
                       "wrong token: it is in attach.token of the relay's directory, and changes "
                       "when the relay starts");
    } else if (hello.world == 0 || hello.world > WIRE_RANKS_LIMIT || hello.rank >= hello.world) {
        relay_rank_end(rank, WIRE_REFUSED, "there is no such rank");
    } else if (!relay->greeted) {
        relay_rank_end(rank, WIRE_APART, relay->why);
    } else {
        rank->greeted = true;
        rank->rank = hello.rank;
        rank->world = hello.world;
        memset(hello.token, 0, sizeof hello.token);
        relay_link_send(relay->link, FRAME_MESSAGE, rank->number, &hello, sizeof hello, NULL, 0);
    }
}

/* One message. False: nothing is there. */
static bool hear_one(struct relay *relay, struct relay_rank *rank) {
    uint8_t bytes[WIRE_PACKET_LIMIT];
    int passed[BORDER_PASSED_LIMIT];
    uint32_t type = 0;
    struct error error = {0};
    ssize_t got = border_socket_receive(rank->descriptor, bytes, sizeof bytes, passed);
    for (size_t i = 0; i < BORDER_PASSED_LIMIT; i++)
        if (passed[i] >= 0) close(passed[i]); /* it cannot go to another host */
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (got <= 0 || got > (ssize_t)sizeof bytes) {
        relay_rank_end(rank, WIRE_REFUSED,
                       got > 0 ? "a message is longer than any that libatoll sends" : NULL);
        return false;
    }
    rank->since_ms = clock_monotonic_ms();
    if (!rank->greeted) {
        greet(relay, rank, bytes, (size_t)got);
        return rank->descriptor >= 0;
    }
    if (got >= (ssize_t)sizeof type) memcpy(&type, bytes, sizeof type);
    if (!rank->mirror) { /* libatoll waits to be welcomed */
        relay_rank_end(rank, WIRE_REFUSED, "a rank does not wait to be welcomed");
        return false;
    }
    if (type == WIRE_DECLARE &&
        rank_share_declare(&rank->share, rank->mirror->tensors, rank->mirror->tensor_count,
                           rank->rank, bytes, (size_t)got, &error) != OK) {
        relay_rank_end(rank, WIRE_REFUSED, error.message);
        return false;
    }
    relay_link_send(relay->link, FRAME_MESSAGE, rank->number, bytes, (size_t)got, NULL, 0);
    return true;
}

/* ---- what the node says to it ---------------------------------------------------------------- */

static enum status welcome(struct relay *relay, struct relay_rank *rank, struct error *error) {
    struct relay_mirror *mirror = relay->mirror;
    if (rank->mirror || !mirror || !mirror->tensors || rank->rank >= mirror->world)
        return error_set(error, INVALID, "the node welcomes a rank to no session");
    struct wire_welcome welcome = {
        .type = WIRE_WELCOME, .version = WIRE_BORDER_VERSION, .size = mirror->size};
    int passed[BORDER_PASSED_LIMIT] = {mirror->descriptor, -1};
    mirror->uses++;
    rank->mirror = mirror;
    if (!border_socket_send(rank->descriptor, &welcome, sizeof welcome, passed))
        relay_rank_end(rank, WIRE_REFUSED, NULL);
    return OK;
}

enum status relay_rank_hear(struct relay *relay, struct relay_rank *rank,
                            const struct relay_frame *frame, struct error *error) {
    uint32_t type = 0;
    if (rank->descriptor < 0) return OK;
    if (frame->size >= sizeof type) memcpy(&type, frame->data, sizeof type);
    if (type == WIRE_WELCOME) return welcome(relay, rank, error);
    if (type == WIRE_GO) {
        TRY(rank_share_go(&rank->share, frame->data, frame->size, error));
        rank->going = rank->mirror != NULL;
        log_info("rank_goes", "rank=%u world=%u memory=%zu", rank->rank, rank->world,
                 rank->mirror ? rank->mirror->size : 0);
    }
    if (!border_socket_send(rank->descriptor, frame->data, frame->size, NULL))
        relay_rank_end(rank, WIRE_REFUSED, NULL);
    return OK;
}

/* ---- what stands in the memory --------------------------------------------------------------- */

/* What was done before a step is then seen with it, and before a state that is asked for. */
static struct frame_report read_line(const struct relay_rank *rank) {
    const struct wire_rank *line = relay_mirror_line(rank->mirror, rank->rank);
    struct frame_report report;
    report.state = atomic_load(&line->state);
    report.steps = atomic_load(&line->steps);
    report.seen = atomic_load(&line->seen);
    report.done = atomic_load(&line->done);
    report.tokens = atomic_load(&line->tokens);
    report.loss = atomic_load(&line->loss);
    report.waited_us = atomic_load(&line->waited_us);
    return report;
}

/* Values that the rank copied out. False: not all of them have been sent. */
static bool publish(struct relay *relay, struct relay_rank *rank) {
    float values[RELAY_CHUNK / sizeof(float)];
    const float *out = relay_mirror_out(rank->mirror);
    while (relay_link_waiting(relay->link) < RELAY_LINK_ROOM) {
        uint64_t count = share_walk_gather(&rank->walk, out, COUNT_OF(values), values);
        if (count == 0) return true;
        relay_link_send(relay->link, FRAME_PUBLISHED, rank->number, &rank->order,
                        sizeof rank->order, values, (size_t)count * sizeof(float));
    }
    return false;
}

/* The node sees that it published, and the steps after that, once it has what was published. False:
 * there is more to be sent. */
static bool report(struct relay *relay, struct relay_rank *rank) {
    if (!relay->greeted || !rank->mirror || rank->mirror != relay->mirror || !rank->share.owned)
        return true;
    const struct frame_order *order = &rank->mirror->order;
    struct frame_report now = read_line(rank);
    if (order->kind == WIRE_PUBLISH && order->id != 0 && now.done == order->id &&
        rank->sent.done != order->id) {
        if (rank->order != order->id) {
            rank->order = order->id;
            share_walk_begin(&rank->walk, rank->mirror->tensors, rank->share.owned,
                             rank->share.owned_count, order->start, order->count);
        }
        if (!publish(relay, rank)) return false;
    }
    if (memcmp(&now, &rank->sent, sizeof now) == 0) return true;
    rank->sent = now;
    relay_link_send(relay->link, FRAME_REPORT, rank->number, &now, sizeof now, NULL, 0);
    return true;
}

static bool says_something(const struct relay_rank *rank) {
    struct pollfd wait = {.fd = rank->descriptor, .events = POLLIN};
    return poll(&wait, 1, 0) == 1;
}

void relay_rank_work(struct relay *relay, struct relay_rank *rank) {
    /* what it did before it said something, or ended, goes first, and counts */
    while (rank->descriptor >= 0 &&
           (!relay->link || relay_link_waiting(relay->link) < RELAY_LINK_ROOM) &&
           says_something(rank) && report(relay, rank) && hear_one(relay, rank))
        continue;
    if (rank->descriptor >= 0 && !rank->greeted &&
        clock_monotonic_ms() - rank->since_ms > SILENCE_MS)
        relay_rank_end(rank, WIRE_REFUSED, NULL);
    (void)report(relay, rank);
}

/* ---- its end -------------------------------------------------------------------------------- */

void relay_sweep_ranks(struct relay *relay) {
    size_t kept = 0;
    for (size_t i = 0; i < relay->rank_count; i++) {
        struct relay_rank *rank = relay->ranks[i];
        if (rank->descriptor >= 0) {
            relay->ranks[kept++] = rank;
            continue;
        }
        if (relay->link && rank->greeted)
            relay_link_send(relay->link, FRAME_CLOSE, rank->number, NULL, 0, NULL, 0);
        if (rank->share.owned) {
            struct frame_report last = read_line(rank);
            log_info("rank_left", "rank=%u steps=%llu waited_ms=%llu", rank->rank,
                     (unsigned long long)last.steps, (unsigned long long)last.waited_us / 1000);
        }
        relay_rank_free(rank);
    }
    relay->rank_count = kept;
}
