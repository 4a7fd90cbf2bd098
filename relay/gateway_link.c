/* One relay at the gateway: its ranks at the border, and what goes to and fro between the
 * session's memory and the relay (relay/gateway.h). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "attach/border_socket.h"
#include "base/file.h"
#include "base/memory.h"
#include "relay/gateway_internal.h"

/* ---- a session's memory ---------------------------------------------------------------------- */

static void memory_release(struct gate_memory *memory) {
    if (!memory || --memory->uses > 0) return;
    munmap(memory->shared, memory->size);
    free(memory);
}

/* The one that a channel of this link has already, else a new one. NULL: it is not as it should be.
 */
static struct gate_memory *memory_of(const struct gateway *gateway, const struct gate_link *link,
                                     const struct gate_channel *channel, int descriptor) {
    struct stat found;
    struct gate_memory *known = link->feed.memory;
    struct border_places at =
        border_places(channel->world, gateway->options.tensor_count, gateway->largest);
    if (fstat(descriptor, &found) != 0 || (uint64_t)found.st_size != at.size) return NULL;
    if (known && known->inode == found.st_ino && known->world == channel->world) {
        known->uses++;
        return known;
    }
    void *shared = mmap(NULL, (size_t)at.size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (shared == MAP_FAILED) return NULL;
    struct gate_memory *memory = xcalloc(1, sizeof *memory);
    *memory = (struct gate_memory){.uses = 1,
                                   .inode = found.st_ino,
                                   .shared = shared,
                                   .size = (size_t)at.size,
                                   .at = at,
                                   .world = channel->world};
    memory->session = memory->shared->session;
    return memory;
}

static struct wire_rank *line_of(const struct gate_channel *channel) {
    const struct gate_memory *memory = channel->memory;
    return (struct wire_rank *)(void *)((char *)memory->shared + memory->at.ranks) + channel->rank;
}

static float *area(const struct gate_memory *memory, uint64_t at) {
    return (float *)(void *)((char *)memory->shared + at);
}

/* From here on the relay hears of this session. Its front has nothing of a rank's. */
static void feed_begin(struct gate_link *link, struct gate_memory *memory) {
    memory_release(link->feed.memory);
    free(link->feed.held);
    link->feed = (struct gate_feed){.memory = memory};
    memory->uses++;
    for (uint64_t at = 0; at < memory->at.out; at += RELAY_CHUNK) {
        uint64_t part = MIN(memory->at.out - at, (uint64_t)RELAY_CHUNK);
        struct frame_memory front = {.session = memory->session,
                                     .size = memory->size,
                                     .front = memory->at.out,
                                     .at = at,
                                     .part = part};
        relay_link_send(link->link, FRAME_MEMORY, 0, &front, sizeof front,
                        (char *)memory->shared + at, (size_t)part);
    }
}

/* ---- channels -------------------------------------------------------------------------------- */

static void channel_free(struct gate_channel *channel) {
    if (channel->descriptor >= 0) close(channel->descriptor);
    memory_release(channel->memory);
    rank_share_deinit(&channel->share);
    free(channel);
}

static struct gate_channel *channel_numbered(const struct gate_link *link, uint32_t number) {
    for (size_t i = 0; i < link->channel_count; i++)
        if (link->channels[i]->number == number) return link->channels[i];
    return NULL;
}

static void channel_remove(struct gate_link *link, struct gate_channel *channel) {
    size_t kept = 0;
    for (size_t i = 0; i < link->channel_count; i++)
        if (link->channels[i] != channel) link->channels[kept++] = link->channels[i];
    link->channel_count = kept;
    channel_free(channel);
}

void gate_link_free(struct gate_link *link) {
    for (size_t i = 0; i < link->channel_count; i++) channel_free(link->channels[i]);
    free(link->channels);
    memory_release(link->feed.memory);
    free(link->feed.held);
    relay_link_destroy(link->link);
    free(link);
}

bool gate_link_is_going(const struct gate_link *link) {
    for (size_t i = 0; i < link->channel_count; i++)
        if (link->channels[i]->going) return true;
    return false;
}

bool gate_link_has_room(const struct gate_link *link) {
    return relay_link_waiting(link->link) < 2 * RELAY_LINK_ROOM;
}

static int connect_to_border(const struct gateway *gateway) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(gateway->socket) >= sizeof address.sun_path) return -1;
    memcpy(address.sun_path, gateway->socket, strlen(gateway->socket));
    int descriptor = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (descriptor >= 0 && connect(descriptor, (struct sockaddr *)&address, sizeof address) == 0)
        return descriptor;
    if (descriptor >= 0) close(descriptor);
    return -1;
}

static enum status fill_token(const struct gateway *gateway, struct wire_attach *hello,
                              struct error *error) {
    struct buffer content = {0};
    TRY(file_read(gateway->token_file, WIRE_TOKEN_SIZE, &content, error));
    if (content.size == WIRE_TOKEN_SIZE) memcpy(hello->token, content.data, WIRE_TOKEN_SIZE);
    free_clearing(content.data, content.capacity);
    return OK;
}

static void send_refusal(struct gate_link *link, uint32_t number, uint32_t type, const char *why) {
    struct wire_refused refused = {.type = type};
    snprintf(refused.text, sizeof refused.text, "%s", why);
    relay_link_send(link->link, FRAME_MESSAGE, number, &refused, sizeof refused, NULL, 0);
    relay_link_send(link->link, FRAME_CLOSE, number, NULL, 0, NULL, 0);
}

static enum status open_channel(const struct gateway *gateway, struct gate_link *link,
                                const struct relay_frame *frame, struct error *error) {
    struct wire_attach hello;
    if (frame->size != sizeof hello)
        return error_set(error, INVALID, "a channel begins with %zu bytes", frame->size);
    memcpy(&hello, frame->data, sizeof hello);
    if (hello.type != WIRE_ATTACH || link->channel_count >= WIRE_RANKS_LIMIT ||
        hello.world > WIRE_RANKS_LIMIT || hello.rank >= hello.world)
        return error_set(error, INVALID, "a channel begins with something else than a rank");
    TRY(fill_token(gateway, &hello, error));
    hello.relayed = 1;
    int descriptor = connect_to_border(gateway);
    if (descriptor < 0 || send(descriptor, &hello, sizeof hello, MSG_NOSIGNAL) != sizeof hello) {
        if (descriptor >= 0) close(descriptor);
        send_refusal(link, frame->channel, WIRE_APART, "the node takes no ranks now");
        return OK;
    }
    struct gate_channel *channel = xcalloc(1, sizeof *channel);
    *channel = (struct gate_channel){.number = frame->channel,
                                     .descriptor = descriptor,
                                     .rank = hello.rank,
                                     .world = hello.world};
    link->channels = xrealloc(link->channels, (link->channel_count + 1) * sizeof link->channels[0]);
    link->channels[link->channel_count++] = channel;
    return OK;
}

/* ---- what the border says -------------------------------------------------------------------- */

static void take_welcome(const struct gateway *gateway, struct gate_link *link,
                         struct gate_channel *channel, int descriptor) {
    if (channel->memory || descriptor < 0) return;
    channel->memory = memory_of(gateway, link, channel, descriptor);
    if (channel->memory && channel->memory != link->feed.memory) feed_begin(link, channel->memory);
}

/* False: nothing is there by now. */
static bool hear_border(const struct gateway *gateway, struct gate_link *link,
                        struct gate_channel *channel) {
    uint8_t bytes[WIRE_PACKET_LIMIT];
    int passed[BORDER_PASSED_LIMIT];
    uint32_t type = 0;
    ssize_t got = border_socket_receive(channel->descriptor, bytes, sizeof bytes, passed);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (got >= (ssize_t)sizeof type) memcpy(&type, bytes, sizeof type);
    if (type == WIRE_WELCOME) take_welcome(gateway, link, channel, passed[0]);
    for (size_t i = 0; i < BORDER_PASSED_LIMIT; i++)
        if (passed[i] >= 0) close(passed[i]);
    bool fine = type != WIRE_WELCOME || channel->memory;
    if (got > 0 && got <= (ssize_t)sizeof bytes && type == WIRE_GO && channel->memory) {
        fine = rank_share_go(&channel->share, bytes, (size_t)got, NULL) == OK;
        channel->going = fine;
    }
    if (got > 0 && got <= (ssize_t)sizeof bytes && fine) {
        relay_link_send(link->link, FRAME_MESSAGE, channel->number, bytes, (size_t)got, NULL, 0);
        return true;
    }
    close(channel->descriptor);
    channel->descriptor = -1;
    channel->going = false;
    relay_link_send(link->link, FRAME_CLOSE, channel->number, NULL, 0, NULL, 0);
    return false;
}

/* ---- what the relay says --------------------------------------------------------------------- */

/* False: the border's socket is full, and the frame is to be looked at again. */
static bool pass_on(struct gate_channel *channel, const struct relay_frame *frame) {
    if (channel->descriptor < 0) return true;
    if (send(channel->descriptor, frame->data, frame->size, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
        return true;
    if (errno == EAGAIN || errno == EINTR) return false;
    return true; /* its end is found when it is read */
}

static enum status take_message(const struct gateway *gateway, struct gate_link *link,
                                const struct relay_frame *frame, bool *taken, struct error *error) {
    struct gate_channel *channel = channel_numbered(link, frame->channel);
    uint32_t type = 0;
    if (!channel) return open_channel(gateway, link, frame, error);
    if (frame->size >= sizeof type) memcpy(&type, frame->data, sizeof type);
    if (type == WIRE_ATTACH) return error_set(error, INVALID, "a channel begins twice");
    *taken = pass_on(channel, frame);
    if (*taken && type == WIRE_DECLARE && channel->descriptor >= 0 &&
        rank_share_declare(&channel->share, gateway->options.tensors, gateway->options.tensor_count,
                           channel->rank, frame->data, frame->size, NULL) != OK)
        channel->share.count = 0; /* the border says what is wrong, and ends the rank */
    return OK;
}

static enum status take_report(struct gate_link *link, struct gate_channel *channel,
                               const struct relay_frame *frame, struct error *error) {
    struct frame_report report;
    if (frame->size != sizeof report)
        return error_set(error, INVALID, "a report of %zu bytes", frame->size);
    memcpy(&report, frame->data, sizeof report);
    if (!channel || !channel->going || channel->memory != link->feed.memory) return OK;
    if (report.done == channel->order && channel->floats_left > 0)
        return error_set(error, INVALID, "rank %u says that it published, and sent less",
                         channel->rank);
    struct wire_rank *line = line_of(channel);
    atomic_fetch_add(&line->turn, 1); /* many steps may be between two reports: all, or none */
    atomic_store(&line->round_trip_us, link->round_trip_us);
    atomic_store(&line->waited_us, report.waited_us);
    atomic_store(&line->seen, report.seen);
    atomic_store(&line->done, report.done);
    atomic_store(&line->tokens, report.tokens);
    atomic_store(&line->loss, report.loss);
    atomic_store(&line->steps, report.steps); /* what was done before a step is seen with it */
    atomic_store(&line->state, report.state); /* and before a state that is asked for */
    atomic_fetch_add(&line->turn, 1);
    return OK;
}

static enum status take_published(struct gate_link *link, struct gate_channel *channel,
                                  const struct relay_frame *frame, struct error *error) {
    uint64_t order;
    float values[RELAY_FRAME_LIMIT / sizeof(float)];
    if (frame->size < sizeof order || (frame->size - sizeof order) % sizeof(float) != 0)
        return error_set(error, INVALID, "a publication of %zu bytes", frame->size);
    memcpy(&order, frame->data, sizeof order);
    uint64_t floats = (frame->size - sizeof order) / sizeof(float);
    if (!channel || !channel->going || channel->memory != link->feed.memory) return OK;
    if (order != channel->order || floats > channel->floats_left)
        return error_set(error, INVALID, "rank %u sends more than it was to publish",
                         channel->rank);
    memcpy(values, frame->data + sizeof order, (size_t)floats * sizeof(float));
    uint64_t done = share_walk_scatter(&channel->walk, values, floats,
                                       area(channel->memory, channel->memory->at.out));
    channel->floats_left -= done;
    return OK;
}

static enum status take_has(struct gate_link *link, const struct relay_frame *frame,
                            struct error *error) {
    struct frame_has has;
    struct gate_feed *feed = &link->feed;
    if (frame->size != sizeof has)
        return error_set(error, INVALID, "an answer of %zu bytes", frame->size);
    memcpy(&has, frame->data, sizeof has);
    if (!feed->memory || has.session != feed->memory->session) return OK;
    if (has.offer > feed->offer || feed->floats_left > 0)
        return error_set(error, INVALID, "the relay says that it has what was not sent");
    feed->has = has.offer;
    for (size_t i = 0; i < link->channel_count; i++)
        if (link->channels[i]->memory == feed->memory)
            atomic_store(&line_of(link->channels[i])->has, has.offer);
    return OK;
}

static enum status take_ping(struct gate_link *link, const struct relay_frame *frame,
                             struct error *error) {
    struct frame_ping ping;
    if (frame->size != sizeof ping)
        return error_set(error, INVALID, "a ping of %zu bytes", frame->size);
    memcpy(&ping, frame->data, sizeof ping);
    link->round_trip_us = ping.round_trip_us;
    relay_link_send(link->link, FRAME_PONG, 0, &ping, sizeof ping, NULL, 0);
    return OK;
}

static enum status take_hello(struct gate_link *link, const struct relay_frame *frame,
                              struct error *error) {
    struct frame_hello hello = {0};
    if (frame->size == sizeof hello) memcpy(&hello, frame->data, sizeof hello);
    if (frame->type != FRAME_HELLO || hello.magic != RELAY_MAGIC)
        return error_set(error, INVALID, "it does not begin as a relay does");
    if (hello.version != RELAY_VERSION || hello.border_version != WIRE_BORDER_VERSION)
        return error_set(error, INVALID,
                         "the relay speaks version %u.%u, this node %d.%d: install the same Atoll "
                         "on both hosts",
                         hello.version, hello.border_version, RELAY_VERSION, WIRE_BORDER_VERSION);
    relay_link_send(link->link, FRAME_HELLO, 0, &hello, sizeof hello, NULL, 0);
    link->greeted = true;
    return OK;
}

static enum status take_frame(const struct gateway *gateway, struct gate_link *link,
                              const struct relay_frame *frame, bool *taken, struct error *error) {
    struct gate_channel *channel = channel_numbered(link, frame->channel);
    *taken = true;
    if (!link->greeted) return take_hello(link, frame, error);
    switch (frame->type) {
    case FRAME_MESSAGE: return take_message(gateway, link, frame, taken, error);
    case FRAME_CLOSE:
        if (channel) channel_remove(link, channel);
        return OK;
    case FRAME_REPORT: return take_report(link, channel, frame, error);
    case FRAME_PUBLISHED: return take_published(link, channel, frame, error);
    case FRAME_HAS: return take_has(link, frame, error);
    case FRAME_PING: return take_ping(link, frame, error);
    default: return error_set(error, INVALID, "a frame of type %u", frame->type);
    }
}

static enum status hear_relay(const struct gateway *gateway, struct gate_link *link,
                              struct error *error) {
    struct relay_frame frame;
    bool there, taken = true;
    while (gate_link_has_room(link)) { /* for what it is answered: it may not read */
        TRY(relay_link_next(link->link, &frame, &there, error));
        if (!there) return OK;
        TRY(take_frame(gateway, link, &frame, &taken, error));
        if (!taken) return OK;
        relay_link_taken(link->link);
    }
    return OK;
}

/* ---- what stands in the memory --------------------------------------------------------------- */

/* What ranks of the relay hold, each place once. All of them have declared by the first offer. */
static void collect_held(struct gate_link *link) {
    struct gate_feed *feed = &link->feed;
    size_t count = 0;
    for (size_t i = 0; i < link->channel_count; i++)
        if (link->channels[i]->memory == feed->memory) count += link->channels[i]->share.count;
    feed->held = xcalloc(count + 1, sizeof *feed->held);
    for (size_t i = 0; i < link->channel_count; i++) {
        const struct rank_share *share = &link->channels[i]->share;
        if (link->channels[i]->memory != feed->memory || share->count == 0) continue;
        memcpy(feed->held + feed->held_count, share->pieces, share->count * sizeof *share->pieces);
        feed->held_count += share->count;
    }
    feed->held_count = coverage_distinct(feed->held, feed->held_count);
}

static void begin_offer(const struct gateway *gateway, struct gate_link *link, uint64_t number) {
    struct gate_feed *feed = &link->feed;
    const struct gateway_options *options = &gateway->options;
    struct frame_offer offer = {.offer = number,
                                .fragment = atomic_load(&feed->memory->shared->offered)};
    if (offer.fragment >= options->fragments) return; /* somebody wrote over it */
    options->range(options->context, (uint32_t)offer.fragment, &offer.start, &offer.count);
    if (!feed->held) collect_held(link);
    share_walk_begin(&feed->walk, options->tensors, feed->held, feed->held_count, offer.start,
                     offer.count);
    offer.floats = feed->floats_left = share_walk_floats(&feed->walk);
    feed->offer = number;
    relay_link_send(link->link, FRAME_OFFER, 0, &offer, sizeof offer, NULL, 0);
}

static void send_data(struct gate_link *link) {
    struct gate_feed *feed = &link->feed;
    float values[RELAY_CHUNK / sizeof(float)];
    while (feed->floats_left > 0 && relay_link_waiting(link->link) < RELAY_LINK_ROOM) {
        uint64_t count = share_walk_gather(&feed->walk, area(feed->memory, feed->memory->at.in),
                                           COUNT_OF(values), values);
        relay_link_send(link->link, FRAME_DATA, 0, values, (size_t)count * sizeof(float), NULL, 0);
        feed->floats_left -= count;
    }
}

static void expect_published(const struct gateway *gateway, struct gate_link *link) {
    const struct frame_order *order = &link->feed.order;
    for (size_t i = 0; i < link->channel_count; i++) {
        struct gate_channel *channel = link->channels[i];
        if (channel->memory != link->feed.memory) continue;
        channel->order = order->id;
        share_walk_begin(&channel->walk, gateway->options.tensors, channel->share.owned,
                         channel->share.owned_count, order->start, order->count);
        channel->floats_left = share_walk_floats(&channel->walk);
    }
}

static void send_order(const struct gateway *gateway, struct gate_link *link, uint64_t id) {
    struct gate_feed *feed = &link->feed;
    const struct gateway_options *options = &gateway->options;
    const struct wire_order *slot = &feed->memory->shared->orders[id & 1];
    if (atomic_load(&slot->id) != id) return; /* being written */
    struct frame_order order = {.id = id,
                                .kind = atomic_load(&slot->kind),
                                .fragment = atomic_load(&slot->fragment),
                                .at = atomic_load(&slot->at),
                                .version = atomic_load(&slot->version)};
    if (atomic_load(&slot->id) != id || order.fragment >= options->fragments) return;
    options->range(options->context, (uint32_t)order.fragment, &order.start, &order.count);
    feed->order = order;
    if (order.kind == WIRE_PUBLISH) expect_published(gateway, link);
    relay_link_send(link->link, FRAME_ORDER, 0, &order, sizeof order, NULL, 0);
}

static void send_told(struct gate_link *link) {
    struct gate_feed *feed = &link->feed;
    const struct wire_shared *shared = feed->memory->shared;
    struct frame_tell tell = {.flags = atomic_load(&shared->flags),
                              .inner_steps = atomic_load(&shared->inner_steps),
                              .factor = atomic_load(&shared->factor),
                              .state = atomic_load(&shared->state),
                              .wait_ms = atomic_load(&shared->wait_ms)};
    if (memcmp(&tell, &feed->told, sizeof tell) == 0) return;
    feed->told = tell;
    relay_link_send(link->link, FRAME_TELL, 0, &tell, sizeof tell, NULL, 0);
}

static void feed_relay(const struct gateway *gateway, struct gate_link *link) {
    struct gate_feed *feed = &link->feed;
    if (!feed->memory) return;
    const struct wire_shared *shared = feed->memory->shared;
    send_told(link);
    /* the order first: what it is of has been offered before it */
    uint64_t id = atomic_load(&shared->order), decided = atomic_load(&shared->decided);
    uint64_t offer = atomic_load(&shared->offer);
    if (feed->floats_left == 0 && offer != feed->offer) begin_offer(gateway, link, offer);
    send_data(link);
    if (feed->floats_left == 0 && id != feed->order.id) send_order(gateway, link, id);
    /* of an order that the relay has, since its ranks have acknowledged it */
    if (decided != feed->decided) {
        feed->decided = decided;
        relay_link_send(link->link, FRAME_DECISION, 0, &decided, sizeof decided, NULL, 0);
    }
}

/* ---- all of it ------------------------------------------------------------------------------- */

static enum status send_and_hear(const struct gateway *gateway, struct gate_link *link,
                                 struct error *error) {
    enum status ended = relay_link_work(link->link, error);
    if (!relay_link_is_secret(link->link)) return ended;
    /* also where it has ended: what it had said counts */
    TRY(hear_relay(gateway, link, ended == OK ? error : NULL));
    return ended;
}

enum status gate_link_work(struct gateway *gateway, struct gate_link *link, struct error *error) {
    TRY(send_and_hear(gateway, link, error));
    for (size_t i = 0; i < link->channel_count; i++) {
        struct gate_channel *channel = link->channels[i];
        while (channel->descriptor >= 0 && gate_link_has_room(link) &&
               hear_border(gateway, link, channel))
            continue;
    }
    feed_relay(gateway, link);
    return send_and_hear(gateway, link, error);
}
