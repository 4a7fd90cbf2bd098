#include "sim/scenario.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "codec/codec.h"

const char *const plant_names[PLANT_COUNT + 1] = {[PLANT_NONE] = "none",
                                                  [PLANT_ACK_BEFORE_DURABLE] = "ack_before_durable",
                                                  [PLANT_APPLY_TWICE] = "apply_twice",
                                                  [PLANT_SKIP_SEQUENCE_CHECK] = "skip_sequence_check",
                                                  [PLANT_DROP_RESIDUAL] = "drop_residual_on_refusal",
                                                  [PLANT_FORGET_REBASE] = "forget_rebase",
                                                  [PLANT_STALE_OFF_BY_ONE] = "stale_off_by_one",
                                                  [PLANT_UPLOAD_BEFORE_SPOOL] = "upload_before_spool",
                                                  [PLANT_OLD_FEEDBACK] = "old_feedback",
                                                  [PLANT_LOSE_REVOCATION] = "lose_revocation",
                                                  [PLANT_DELETE_SHARED_PAYLOAD] = "delete_shared_payload",
                                                  [PLANT_FORGET_RESUME] = "forget_resume"};

/* Every draw is a statement of its own: the order in which a call's arguments are evaluated is the compiler's choice. */
static void draw_manifest(struct scenario *s, struct world *world) {
    static const char *const dense[] = {"int8", "int8", "fp32", "bf16", "fp4"};
    static const char *const expiries[] = {"0", "1d", "10s"}; /* clocks are up to 6 s apart */
    bool sparse = world_chance(world, 0.55);
    uint64_t fragments = world_chance(world, 0.5) ? 1 : world_between(world, 2, 4);
    /* With several fragments and no overlap an endless window can never end: sites that joined at different times wait for each
     * other on different fragments (docs/simulation.md). */
    bool forever = !s->overlap && fragments == 1 && world_chance(world, 0.4);
    uint64_t quorum = forever ? s->sites : world_between(world, 1, s->sites);
    struct buffer yaml = {0};
    buffer_append_text(&yaml, "name: storm\nfragments: %u\nmerge:\n  quorum: %u\n", (unsigned)fragments, (unsigned)quorum);
    if (forever)
        buffer_append_text(&yaml, "  grace: forever\n");
    else
        buffer_append_text(&yaml, "  grace: %ums\n", (unsigned)world_between(world, 0, 2000));
    buffer_append_text(&yaml, "  staleness_cap: %u\n", (unsigned)world_between(world, 2, 3 * s->sites));
    buffer_append_text(&yaml, "  warmup_steps: %u\n", (unsigned)world_below(world, 4));
    buffer_append_text(&yaml, "  warmup_grace: %ums\n", (unsigned)world_between(world, 500, 4000));
    buffer_append_text(&yaml, "  staleness_weight: %s\n", world_chance(world, 0.3) ? "polynomial" : "none");
    buffer_append_text(&yaml, "inner:\n  inner_steps: %u\n", (unsigned)world_between(world, 3, 10));
    buffer_append_text(&yaml, "  dylu: %s\n", world_chance(world, 0.5) ? "true" : "false");
    buffer_append_text(&yaml, "outer:\n  mode: %s\n", sparse ? "sparse" : "dense");
    if (!sparse) buffer_append_text(&yaml, "  period: %u\n", (unsigned)world_between(world, 1, 2 * s->sites));
    const char *codec =
        sparse ? (world_chance(world, 0.5) ? "topk2-64" : "topk2-128") : dense[world_below(world, COUNT_OF(dense))];
    buffer_append_text(&yaml, "codec:\n  kind: %s\n", codec);
    uint64_t window = world_between(world, 4, 32);
    buffer_append_text(&yaml, "admission:\n  clip_window: %u\n", (unsigned)window);
    buffer_append_text(&yaml, "  clip_minimum: %u\n", (unsigned)world_between(world, 1, window));
    buffer_append_text(&yaml, "  clip_factor: %u\n", (unsigned)world_below(world, 4));
    buffer_append_text(&yaml, "  expiry: %s\n", expiries[world_below(world, COUNT_OF(expiries))]);
    buffer_append_text(&yaml, "root_interval: %u\n", world_chance(world, 0.7) ? 1u : (unsigned)world_between(world, 2, 4));
    buffer_append_text(&yaml, "snapshot_interval: %u\n", (unsigned)world_between(world, 2, 12));
    struct error error = {0};
    enum status status = manifest_parse(buffer_bytes(&yaml), &s->manifest, &error);
    if (status != OK) fprintf(stderr, "%.*s\n%s\n", (int)yaml.size, (const char *)yaml.data, error.message);
    ASSERT(status == OK);
    buffer_deinit(&yaml);
    s->parameters = fragments == 1 ? world_between(world, 64, 9000) : fragments * CODEC_CHUNK + world_below(world, 3000);
}

static void draw_network(struct scenario *s, struct world *world) {
    uint64_t latency = world_between(world, 2, 60) * MS;
    s->calm = (struct network_faults){.latency = latency, .bytes_per_second = 20000000, .keepalive = 3 * SECOND};
    s->storm = s->calm;
    double weight = world_chance(world, 0.15) ? 0 : random_unit(&world->random);
    s->storm.lost = 0.04 * weight * random_unit(&world->random);
    s->storm.reset = 0.04 * weight * random_unit(&world->random);
    s->storm.doubled = 0.4 * weight * random_unit(&world->random);
    s->storm.latency = world_between(world, 1, 200) * MS;
    s->storm.bytes_per_second = world_between(world, 20000, 2000000);
}

static uint64_t now_and_then(struct world *world, double share, uint64_t low, uint64_t high) {
    bool on = world_chance(world, share);
    uint64_t every = world_between(world, low, high);
    return on ? every : 0;
}

void scenario_draw(struct scenario *s, struct world *world, enum plant plant) {
    memset(s, 0, sizeof *s);
    s->plant = plant;
    s->sites = (uint32_t)world_between(world, 1, 5);
    s->spares = world_chance(world, 0.3) ? 0 : (uint32_t)world_between(world, 1, SPARE_SITES);
    s->overlap = world_chance(world, 0.75);
    draw_manifest(s, world);
    draw_network(s, world);
    uint64_t step = world_between(world, 60, 250) * MS;
    for (uint32_t i = 1; i <= s->sites + s->spares; i++) s->site[i].step_us = step * world_between(world, 70, 200) / 100;
    if (s->sites >= 2 && s->manifest.merge.grace_ms != UINT64_MAX && world_chance(world, 0.5)) {
        s->site[s->sites].faulty = true;
        s->malformed_every_us = world_between(world, 500, 4000) * MS;
    }
    s->commit_us = world_between(world, 1, 40) * MS;
    s->apply_us = world_between(world, 1, 150) * MS;
    s->check_us = world_between(world, 1, 60) * MS;
    s->worker_us = world_between(world, 1, 40) * MS;
    s->storm_us = world_between(world, 12, 36) * SECOND;
    s->crash_every_us = now_and_then(world, 0.75, 3000 * MS, 15000 * MS);
    s->crash_at_write = random_unit(&world->random);
    s->partition_every_us = now_and_then(world, 0.6, 4000 * MS, 20000 * MS);
    s->order_every_us = now_and_then(world, 0.7, 3000 * MS, 12000 * MS);
    s->checkpoint_us = world_between(world, 2, 20) * SECOND;
    s->heartbeat_ms = world_between(world, 1000, 5000);
    s->presence_ms = 3 * s->heartbeat_ms;
    s->uploads_limit = (uint32_t)(world_chance(world, 0.2) ? 1 : world_between(world, 2, 16));
    s->chunk_limit = (uint32_t)world_between(world, 64, 8192);
    s->nominal_payload = s->parameters * sizeof(float) / world_between(world, 1, 12);
    s->stop_at_end = world_chance(world, 0.3);
}

void scenario_describe(const struct scenario *s, char *out, size_t size) {
    const struct manifest *m = &s->manifest;
    snprintf(out, size,
             "%u sites%s, %s %s, %u fragments of %llu, quorum %u, cap %u, overlap %s, crashes %s, loss %.3f, resets %.3f",
             s->sites, s->malformed_every_us ? " (one faulty)" : "", m->outer.mode == OUTER_SPARSE ? "sparse" : "dense",
             codec_name((enum codec)m->codec.kind), m->fragments, (unsigned long long)s->parameters, m->merge.quorum,
             m->merge.staleness_cap, s->overlap ? "on" : "off", s->crash_every_us ? "on" : "off", s->storm.lost, s->storm.reset);
}
