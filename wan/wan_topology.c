/* A federation's sites as links and as JSON (wan/wan_topology.h). */
#include "wan/wan_topology.h"

#include <math.h>

#include "base/json.h"

static uint64_t bits_of(double bytes_a_second) {
    return isinf(bytes_a_second) ? 0 : (uint64_t)(8 * bytes_a_second);
}
static uint64_t ns_of(double seconds) { return (uint64_t)(seconds * 1e9); }

struct wan_settings wan_settings_of(const struct topology_link *link) {
    struct wan_settings settings = wan_settings_default();
    for (int i = 0; i < WAN_WAYS; i++) {
        struct wan_way_settings *way = &settings.way[i];
        way->delay_ns = ns_of(link->rtt / 2);
        way->jitter_ns = ns_of(link->jitter);
        way->loss = link->loss;
        way->window = (uint64_t)fmin(fmax(link->window, WAN_WINDOW_LEAST), 64 << 20);
        way->rate = bits_of(i == WAN_UP ? link->up : link->down);
    }
    if (link->reset.regular && isfinite(link->reset.every))
        settings.reset_every_ns = ns_of(link->reset.every);
    return settings;
}

static void put_fault(struct json_writer *writer, const char *key,
                      const struct topology_fault *fault) {
    json_key(writer, key);
    json_begin_object(writer);
    json_put_f64(writer, "every", fault->every);
    json_put_f64(writer, "lasts", fault->lasts);
    json_put_f64(writer, "at", fault->at);
    json_put_f64(writer, "at_lasts", fault->at_lasts);
    json_put_bool(writer, "regular", fault->regular != 0);
    json_end_object(writer);
}

static void put_run(struct json_writer *writer, const struct topology_run *run) {
    json_key(writer, "run");
    json_begin_object(writer);
    json_put_text(writer, "mode", run->mode == OUTER_DENSE ? "dense" : "sparse");
    json_put_text(writer, "codec", codec_name(run->codec));
    json_put_f64(writer, "inner_steps", run->inner_steps);
    json_put_f64(writer, "fragments", run->fragments);
    json_put_f64(writer, "quorum", run->quorum);
    json_put_f64(writer, "grace", run->grace);
    json_put_f64(writer, "staleness_cap", run->staleness_cap);
    json_put_f64(writer, "warmup_steps", run->warmup_steps);
    json_put_f64(writer, "warmup_grace", run->warmup_grace);
    json_put_f64(writer, "snapshot_interval", run->snapshot_interval);
    json_put_f64(writer, "root_interval", run->root_interval);
    json_put_bool(writer, "dylu", run->dylu != 0);
    json_put_bool(writer, "overlap", run->overlap != 0);
    json_end_object(writer);
}

static void put_site(struct json_writer *writer, const struct topology *topology, uint32_t index,
                     uint64_t seed) {
    struct topology_place place = topology_place(topology, index, seed);
    const struct topology_site *site = &topology->groups[place.group];
    json_begin_object(writer);
    json_put_text(writer, "name", place.name);
    json_put_f64(writer, "step", place.step);
    json_put_f64(writer, "batch_tokens", site->batch_tokens);
    json_put_f64(writer, "restart", site->restart);
    json_put_f64(writer, "checkpoint", site->checkpoint);
    json_put_f64(writer, "joins", site->joins);
    json_put_f64(writer, "leaves", site->leaves);
    json_put_f64(writer, "up", site->link.up);
    json_put_f64(writer, "down", site->link.down);
    json_put_f64(writer, "rtt", site->link.rtt);
    json_put_f64(writer, "loss", site->link.loss);
    json_put_f64(writer, "connections", site->link.connections);
    put_fault(writer, "failure", &site->failure);
    put_fault(writer, "outage", &site->link.outage);
    put_fault(writer, "reset", &site->link.reset);
    json_end_object(writer);
}

void wan_describe(const struct topology *topology, uint64_t seed, struct buffer *out) {
    struct json_writer writer = json_writer_of(out, false);
    json_begin_object(&writer);
    json_put_text(&writer, "name", topology->name);
    json_put_f64(&writer, "duration", topology->duration);
    json_put_f64(&writer, "parameters", topology->model.parameters);
    put_run(&writer, &topology->run);
    json_key(&writer, "coordinator");
    json_begin_object(&writer);
    put_fault(&writer, "outage", &topology->coordinator.outage);
    json_end_object(&writer);
    json_key(&writer, "sites");
    json_begin_array(&writer);
    for (uint32_t i = 0; i < topology->site_count; i++) put_site(&writer, topology, i, seed);
    json_end_array(&writer);
    json_end_object(&writer);
}
