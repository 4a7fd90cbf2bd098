/* A changed client: it has an enrolled site's key and certificate, and asks for as much as it can
 * get. It runs in the calm, in the place of the site's own program. Everything that it sends is in
 * order by itself; what must bound it is what the coordinator allows one site. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "sim/site_internal.h"

enum {
    TRIES_A_ROUND = 60, /* of one that floods */
    TRIES_APART = 6     /* of one that comes and goes, in the time between two of its entries */
};

static void close_stream(struct simulated_site *site, uint32_t *stream) {
    uint32_t number = *stream;
    *stream = 0;
    if (number) network_close(site->setup.network, number, true);
}

static uint64_t gap_us(const struct simulated_site *site) {
    const struct scenario *s = site->setup.scenario;
    uint64_t round = s->manifest.inner.inner_steps * s->site[site->setup.process].step_us;
    switch (s->site[site->setup.process].changed) {
    case CHANGED_FLOODS: return round / TRIES_A_ROUND;
    case CHANGED_COMES_AND_GOES:
        return MAX(scenario_apart_ms(s) * MS / TRIES_APART, 3 * s->calm.latency);
    default: return 100 * MS * s->pace;
    }
}

static void submit(struct simulated_site *site, uint32_t fragment) {
    struct changed_client *client = &site->changed;
    const struct run_state *run = check_run(site->setup.check);
    struct contribution c;
    uint8_t header[CONTRIBUTION_HEADER_SIZE], signature[SIGNATURE_SIZE];
    if (site->number > run_state_site_count(run) || client->stream[fragment]) return;
    site_make_contribution(site, run, fragment, &c, &client->payload[fragment]);
    contribution_encode(&c, header);
    contribution_sign(site->setup.key, header, signature);
    struct message open = {.kind = MESSAGE_SUBMIT, .instance = client->instance};
    buffer_append(&open.bytes, header, sizeof header);
    buffer_append(&open.bytes, signature, sizeof signature);
    client->stream[fragment] = network_open(site->setup.network, site->setup.process, site->number);
    network_send(site->setup.network, client->stream[fragment], true, &open);
}

/* It is there, and then it goes; and another process of it comes. */
static void beat(struct simulated_site *site) {
    struct changed_client *client = &site->changed;
    close_stream(site, &client->pulse);
    client->leaving = !client->leaving;
    client->instance += !client->leaving;
    struct message message = {
        .kind = MESSAGE_HEARTBEAT, .instance = client->instance, .leaving = client->leaving};
    client->pulse = network_open(site->setup.network, site->setup.process, site->number);
    network_send(site->setup.network, client->pulse, true, &message);
}

static void on_turn(void *context, struct event *event) {
    struct simulated_site *site = context;
    uint32_t fragments = site->setup.scenario->manifest.fragments;
    (void)event;
    switch (site->setup.scenario->site[site->setup.process].changed) {
    case CHANGED_COMES_AND_GOES: beat(site); break;
    default:
        for (uint32_t i = 0; i < fragments; i++) submit(site, i);
        break;
    }
    world_post(site->world, gap_us(site), site->setup.process, on_turn, site, NULL);
}

static void send_chunks_of(struct simulated_site *site, uint32_t fragment,
                           const struct message *credit) {
    const struct buffer *payload = &site->changed.payload[fragment];
    size_t limit = MAX((size_t)credit->b, 1);
    for (size_t at = (size_t)credit->a; at < payload->size; at += limit) {
        struct message chunk = {.kind = MESSAGE_CHUNK, .a = at};
        buffer_append(&chunk.bytes, payload->data + at, MIN(limit, payload->size - at));
        network_send(site->setup.network, site->changed.stream[fragment], true, &chunk);
    }
}

void site_changed_message(struct simulated_site *site, uint32_t stream,
                          const struct message *message) {
    struct changed_client *client = &site->changed;
    bool hoards = site->setup.scenario->site[site->setup.process].changed == CHANGED_HOARDS;
    for (uint32_t i = 0; i < COUNT_OF(client->stream); i++) {
        if (client->stream[i] != stream) continue;
        if (message->kind != MESSAGE_CREDIT)
            close_stream(site, &client->stream[i]);
        else if (!hoards)
            send_chunks_of(site, i, message);
    }
    if (stream == client->pulse) close_stream(site, &client->pulse);
}

void site_changed_closed(struct simulated_site *site, uint32_t stream) {
    struct changed_client *client = &site->changed;
    for (uint32_t i = 0; i < COUNT_OF(client->stream); i++) {
        if (client->stream[i] == stream) client->stream[i] = 0;
    }
    if (stream == client->pulse) client->pulse = 0;
}

void site_changed_clear(struct simulated_site *site) {
    for (uint32_t i = 0; i < COUNT_OF(site->changed.payload); i++)
        buffer_deinit(&site->changed.payload[i]);
    site->changed = (struct changed_client){0};
}

bool site_boot_changed(struct simulated_site *site) {
    if (!site->number || site->setup.scenario->site[site->setup.process].changed == CHANGED_NOT ||
        !world_fault(site->world, FAULT_CHANGED_CLIENT, site->setup.process))
        return false;
    process_start(site->world, site->setup.process);
    site->changed.runs = true;
    site->changed.instance = site->world->processes[site->setup.process].incarnation + 1;
    world_trace(site->world, "%-12s is a changed client", site->name);
    world_post(site->world, 0, site->setup.process, on_turn, site, NULL);
    return true;
}
