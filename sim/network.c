/* The simulated network (sim/network.h): streams with delay, loss, duplication, partitions and
 * resets, all drawn from the world's randomness. */
#include "sim/network.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

struct link_stream {
    uint32_t site_process, certificate;
    uint32_t site_incarnation, coordinator_incarnation;
    bool site_open, coordinator_open;
    bool opened; /* the first message has been sent */
    bool lost_up, lost_down;
    uint64_t last_up, last_down; /* arrival of the last message */
};

struct network {
    struct world *world;
    struct network_ends ends;
    struct network_faults faults;
    struct link_stream *streams; /* number n at n - 1 */
    uint32_t count, capacity;
    uint64_t blocked_up[PROCESS_LIMIT], blocked_down[PROCESS_LIMIT]; /* until */
    uint32_t flips[PROCESS_LIMIT]; /* so far; a site whose messages are all damaged gives up */
};

enum { FLIPS_MOST = 2 };

struct parcel {
    uint32_t stream;
    bool up, closing;
    struct message message;
};

struct network *network_create(struct world *world, const struct network_ends *ends) {
    struct network *network = xcalloc(1, sizeof *network);
    network->world = world;
    network->ends = *ends;
    return network;
}

void network_destroy(struct network *network) {
    if (!network) return;
    free(network->streams);
    free(network);
}

void network_set_faults(struct network *network, const struct network_faults *faults) {
    network->faults = *faults;
}

void network_partition(struct network *network, uint32_t site, bool up, bool down,
                       uint64_t duration) {
    uint64_t until = network->world->now + duration;
    if (up) network->blocked_up[site] = MAX(network->blocked_up[site], until);
    if (down) network->blocked_down[site] = MAX(network->blocked_down[site], until);
}

void network_heal(struct network *network) {
    memset(network->blocked_up, 0, sizeof network->blocked_up);
    memset(network->blocked_down, 0, sizeof network->blocked_down);
}

static struct link_stream *stream_of(struct network *network, uint32_t number) {
    return number >= 1 && number <= network->count ? &network->streams[number - 1] : NULL;
}

static bool incarnation_is(const struct network *network, uint32_t process, uint32_t incarnation) {
    return network->world->processes[process].alive &&
           network->world->processes[process].incarnation == incarnation;
}

static bool site_is_there(const struct network *network, const struct link_stream *stream) {
    return stream->site_open &&
           incarnation_is(network, stream->site_process, stream->site_incarnation);
}

static bool coordinator_is_there(const struct network *network, const struct link_stream *stream) {
    return stream->coordinator_open &&
           incarnation_is(network, COORDINATOR, stream->coordinator_incarnation);
}

static uint32_t stream_create(struct network *network, uint32_t site, uint32_t certificate) {
    if (network->count == network->capacity) {
        network->capacity = network->capacity ? network->capacity * 2 : 64;
        network->streams =
            xrealloc(network->streams, network->capacity * sizeof network->streams[0]);
    }
    const struct process *processes = network->world->processes;
    network->streams[network->count++] =
        (struct link_stream){.site_process = site,
                             .certificate = certificate,
                             .site_incarnation = processes[site].incarnation,
                             .coordinator_incarnation = processes[COORDINATOR].incarnation,
                             .site_open = true,
                             .coordinator_open = true};
    return network->count;
}

uint32_t network_open(struct network *network, uint32_t site, uint32_t certificate) {
    return stream_create(network, site, certificate);
}

/* ---- the end of a stream --------------------------------------------------------------------- */

static void end_at_coordinator(void *context, struct event *event) {
    struct network *network = context;
    uint32_t number = (uint32_t)event->number;
    struct link_stream *stream = stream_of(network, number);
    bool there = coordinator_is_there(network, stream);
    stream->coordinator_open = false;
    if (there && stream->opened) network->ends.closed_at_coordinator(network->ends.context, number);
}

static void end_at_site(void *context, struct event *event) {
    struct network *network = context;
    uint32_t number = (uint32_t)event->number;
    struct link_stream *stream = stream_of(network, number);
    bool there = site_is_there(network, stream);
    stream->site_open = false;
    if (there) network->ends.closed_at_site(network->ends.context, stream->site_process, number);
}

static void post_end(struct network *network, uint64_t delay, uint32_t number, event_handler *run,
                     uint32_t whose) {
    struct event *event = world_post(network->world, delay, NO_PROCESS, run, network, NULL);
    event->number = number;
    event->gate = whose;
}

/* Both ends are told, each in its time. */
static void break_stream(struct network *network, uint32_t number, uint64_t within) {
    struct world *world = network->world;
    struct link_stream *stream = stream_of(network, number);
    stream->lost_up = stream->lost_down = true;
    post_end(network, 1 + world_below(world, within), number, end_at_coordinator, COORDINATOR);
    post_end(network, 1 + world_below(world, within), number, end_at_site, stream->site_process);
}

void network_process_died(struct network *network, uint32_t process) {
    for (uint32_t number = 1; number <= network->count; number++) {
        struct link_stream *stream = stream_of(network, number);
        if (process != COORDINATOR && stream->site_process != process) continue;
        if (!stream->site_open && !stream->coordinator_open) continue;
        if (process == COORDINATOR)
            stream->coordinator_open = false;
        else
            stream->site_open = false;
        break_stream(network, number, network->faults.keepalive);
    }
}

/* ---- messages -------------------------------------------------------------------------------- */

static void parcel_release(void *pointer) {
    struct parcel *parcel = pointer;
    buffer_deinit(&parcel->message.bytes);
    free(parcel);
}

static void arrive(void *context, struct event *event) {
    struct network *network = context;
    struct parcel *parcel = event->payload;
    struct link_stream *stream = stream_of(network, parcel->stream);
    event->number = parcel->stream;
    /* the stream broke while it was on its way */
    if (parcel->up ? stream->lost_up : stream->lost_down) return;
    if (parcel->closing) {
        if (parcel->up)
            end_at_coordinator(network, event);
        else
            end_at_site(network, event);
    } else if (parcel->up) {
        if (stream->coordinator_open &&
            !coordinator_is_there(network, stream)) { /* nobody listens there, or not any more */
            stream->coordinator_open = false;
            break_stream(network, parcel->stream, 100 * MS);
        } else if (stream->coordinator_open)
            network->ends.message_at_coordinator(network->ends.context, parcel->stream,
                                                 stream->site_process, stream->certificate,
                                                 &parcel->message);
    } else if (site_is_there(network, stream)) {
        network->ends.message_at_site(network->ends.context, stream->site_process, parcel->stream,
                                      &parcel->message);
    }
}

/* When a message sent now arrives; UINT64_MAX: never. */
static uint64_t arrival(struct network *network, struct link_stream *stream, bool up, size_t size) {
    struct world *world = network->world;
    uint64_t from = world->now, blocked = up ? network->blocked_up[stream->site_process]
                                             : network->blocked_down[stream->site_process];
    if (blocked > from) {
        if (blocked - from > network->faults.keepalive || world_luck(world, 0.3)) return UINT64_MAX;
        world->tally.messages_late++;
        from = blocked;
    }
    const struct network_faults *faults = &network->faults;
    uint64_t delay = faults->latency / 2 + world_below(world, faults->latency + 1);
    uint64_t tail = delay * (5 + world_luck_below(world, 46)),
             held = faults->latency * (2 + world_luck_below(world, 30));
    if (world_luck(world, faults->slow) && world_fault(world, FAULT_SLOW, stream->site_process))
        delay = tail;
    if (world_luck(world, faults->reordered) &&
        world_fault(world, FAULT_REORDER, stream->site_process))
        delay += held;
    uint64_t at = from + delay + size * SECOND / faults->bytes_per_second;
    uint64_t *last = up ? &stream->last_up : &stream->last_down;
    at = MAX(at, *last);
    *last = at;
    return at;
}

static void post_parcel(struct network *network, uint64_t at, struct parcel *parcel) {
    uint64_t delay = at > network->world->now ? at - network->world->now : 0;
    struct event *event = world_post(network->world, delay, NO_PROCESS, arrive, network, parcel);
    event->release = parcel_release;
    event->gate = parcel->up ? COORDINATOR : stream_of(network, parcel->stream)->site_process;
}

/* The same opening once more, later, as another call whose caller does not listen. */
static void send_double(struct network *network, uint32_t number, const struct message *message,
                        uint64_t first_at) {
    struct world *world = network->world;
    struct link_stream *original = stream_of(network, number);
    uint32_t ghost = stream_create(network, original->site_process, original->certificate);
    struct link_stream *stream = stream_of(network, ghost);
    stream->site_open = false;
    stream->opened = true;
    struct parcel *parcel = xcalloc(1, sizeof *parcel);
    *parcel = (struct parcel){.stream = ghost, .up = true, .message = *message};
    parcel->message.bytes = (struct buffer){0};
    buffer_append(&parcel->message.bytes, message->bytes.data, message->bytes.size);
    uint64_t delay = world_heavy_tail(world, 4 * network->faults.latency);
    /* Somebody who types a command twice: the second finds the first one's commit under way. */
    bool close = message->kind == MESSAGE_JOIN && world_luck(world, 0.5);
    if (close) delay = first_at - MIN(first_at, world->now) + world_luck_below(world, 10 * MS);
    post_parcel(network, world->now + delay, parcel);
    post_end(network, delay + 1 + world_below(world, network->faults.keepalive), ghost,
             end_at_coordinator, COORDINATOR);
}

static bool opens_a_call(enum message_kind kind) {
    return kind == MESSAGE_SUBMIT || kind == MESSAGE_HEARTBEAT || kind == MESSAGE_JOIN;
}

static bool is_reset(struct network *network, const struct link_stream *stream,
                     enum message_kind kind) {
    struct world *world = network->world;
    bool transfer = kind == MESSAGE_CHUNK || kind == MESSAGE_SNAPSHOT;
    if (!world_luck(world, transfer ? network->faults.reset_transfer : network->faults.reset))
        return false;
    return world_fault(world, transfer ? FAULT_RESET_TRANSFER : FAULT_RESET, stream->site_process);
}

/* What a broken memory does between two checks. */
static void flip(struct network *network, const struct link_stream *stream, struct buffer *bytes) {
    struct world *world = network->world;
    if (bytes->size == 0 || !world_luck(world, network->faults.flipped)) return;
    size_t at = (size_t)world_luck_below(world, bytes->size);
    uint8_t bit = (uint8_t)(1u << world_luck_below(world, 8));
    if (network->flips[stream->site_process] >= FLIPS_MOST) return;
    if (!world_fault(world, FAULT_FLIPPED_PAYLOAD, stream->site_process)) return;
    network->flips[stream->site_process]++;
    bytes->data[at] ^= bit;
}

void network_send(struct network *network, uint32_t number, bool up, struct message *message) {
    struct world *world = network->world;
    struct link_stream *stream = stream_of(network, number);
    struct buffer bytes = message->bytes;
    message->bytes = (struct buffer){0};
    uint32_t sender = up ? stream->site_process : COORDINATOR;
    bool there = up ? site_is_there(network, stream) : coordinator_is_there(network, stream);
    if (!there || process_is_doomed(world, sender)) {
        buffer_deinit(&bytes);
        return;
    }
    world->tally.messages++;
    bool first = up && !stream->opened;
    stream->opened |= up;
    struct parcel *parcel = xcalloc(1, sizeof *parcel);
    *parcel = (struct parcel){.stream = number, .up = up, .message = *message};
    parcel->message.bytes = bytes;
    bool lost = up ? stream->lost_up : stream->lost_down;
    bool reset = !lost && is_reset(network, stream, message->kind);
    uint64_t at = lost ? UINT64_MAX : arrival(network, stream, up, bytes.size);
    if (at != UINT64_MAX && !reset && world_luck(world, network->faults.lost) &&
        world_fault(world, FAULT_DROP, stream->site_process))
        at = UINT64_MAX;
    if (at == UINT64_MAX || reset) {
        parcel_release(parcel);
        if (!lost) break_stream(network, number, reset ? 100 * MS : network->faults.keepalive);
        return;
    }
    if (message->kind == MESSAGE_CHUNK) flip(network, stream, &parcel->message.bytes);
    post_parcel(network, at, parcel);
    if (first && opens_a_call(message->kind) && world_luck(world, network->faults.doubled) &&
        world_fault(world, FAULT_DUPLICATE, stream->site_process))
        send_double(network, number, &parcel->message, at);
}

void network_close(struct network *network, uint32_t number, bool by_site) {
    struct link_stream *stream = stream_of(network, number);
    if (!stream || process_is_doomed(network->world, by_site ? stream->site_process : COORDINATOR))
        return;
    bool *open = by_site ? &stream->site_open : &stream->coordinator_open;
    if (!*open) return;
    *open = false;
    if (by_site && !stream->opened) {
        stream->coordinator_open = false;
        return;
    }
    if (by_site ? stream->lost_up : stream->lost_down) return;
    uint64_t at = arrival(network, stream, by_site, 0);
    if (at == UINT64_MAX) {
        break_stream(network, number, network->faults.keepalive);
        return;
    }
    struct parcel *parcel = xcalloc(1, sizeof *parcel);
    *parcel = (struct parcel){.stream = number, .up = by_site, .closing = true};
    post_parcel(network, at, parcel);
}
