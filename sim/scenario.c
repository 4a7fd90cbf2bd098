/* Draws a seed's scenario (sim/scenario.h). One draw per statement: the order of draws is part of
 * a seed's meaning. */
#include "sim/scenario.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "codec/codec.h"
#include "fed/outer_rate.h"

/* One seed in `of`, by the seed alone: a draw that was added later and moves no other. */
static bool is_one_in(const struct world *world, uint64_t what, uint64_t of) {
    return random_hash(world->seed, what) % of == 0;
}

/* From a stream of its own: the other draws of a seed stay what they are. */
static void draw_weights(struct scenario *s, struct world *world) {
    struct random random;
    random_init(&random, random_hash(world->seed, UINT64_C(0x3e16)));
    s->manifest.weights = (enum weight_policy)random_below(&random, 3);
    double of_first = ldexp(1, (int)random_below(&random, 9) - 4);
    if (random_below(&random, 2))
        snprintf(s->manifest.shares, sizeof s->manifest.shares, "site-1=%g site-2=1", of_first);
    MUST(manifest_check(&s->manifest, NULL));
}

/* Every draw is a statement of its own: the order in which a call's arguments are evaluated is the
 * compiler's choice. */
static void draw_manifest(struct scenario *s, struct world *world) {
    static const char *const dense[] = {"int8", "int8", "fp32", "bf16", "fp4"};
    static const char *const expiries[] = {"0", "1d", "10s"}; /* clocks are up to 6 s apart */
    bool sparse = world_chance(world, 0.55);
    uint64_t fragments = world_chance(world, 0.5) ? 1 : world_between(world, 2, 4);
    if (s->hoards) fragments = MAX(fragments, 2);
    /* all must come, and one of them may be revoked */
    bool forever = s->overlap ? is_one_in(world, UINT64_C(0xf04e), 8) : world_chance(world, 0.6);
    forever &= !s->hoards;
    bool everybody = forever || is_one_in(world, UINT64_C(0xa110), 3);
    uint64_t some = forever ? 0 : world_between(world, 1, s->sites);
    uint64_t quorum = everybody ? s->sites : some;
    struct buffer yaml = {0};
    buffer_append_text(&yaml, "name: storm\nfragments: %u\nmerge:\n  quorum: %u\n",
                       (unsigned)fragments, (unsigned)quorum);
    if (forever)
        buffer_append_text(&yaml, "  grace: forever\n");
    else
        buffer_append_text(&yaml, "  grace: %ums\n",
                           (unsigned)(world_between(world, 0, 2000) * s->pace));
    unsigned cap = (unsigned)world_between(world, 2, 3 * s->sites);
    if (world_chance(world, 0.7)) buffer_append_text(&yaml, "  staleness_cap: %u\n", cap);
    buffer_append_text(&yaml, "  warmup_steps: %u\n", (unsigned)world_below(world, 4));
    buffer_append_text(&yaml, "  warmup_grace: %ums\n",
                       (unsigned)(world_between(world, 500, 4000) * s->pace));
    buffer_append_text(&yaml, "  staleness_weight: %s\n",
                       world_chance(world, 0.3) ? "polynomial" : "none");
    buffer_append_text(&yaml, "  staleness_exponent: %s\n", world_chance(world, 0.5) ? "0.5" : "1");
    buffer_append_text(&yaml, "inner:\n  inner_steps: %u\n", (unsigned)world_between(world, 3, 10));
    buffer_append_text(&yaml, "  dylu: %s\n", world_chance(world, 0.5) ? "true" : "false");
    buffer_append_text(&yaml, "outer:\n  mode: %s\n", sparse ? "sparse" : "dense");
    unsigned period = (unsigned)world_between(world, 1, 2 * s->sites);
    if (!sparse && world_chance(world, 0.5)) buffer_append_text(&yaml, "  period: %u\n", period);
    if (world_chance(world, 0.3)) buffer_append_text(&yaml, "  learning_rate: 0.7\n");
    const char *codec = sparse ? (world_chance(world, 0.5) ? "topk2-64" : "topk2-128")
                               : dense[world_below(world, COUNT_OF(dense))];
    buffer_append_text(&yaml, "codec:\n  kind: %s\n", codec);
    buffer_append_text(&yaml, "admission:\n  clip_minimum: %u\n",
                       (unsigned)world_between(world, 1, 16));
    buffer_append_text(&yaml, "  clip_factor: %u\n", (unsigned)world_below(world, 4));
    if (world_chance(world, 0.3)) buffer_append_text(&yaml, "  norm_bound: 1\n");
    if (world_chance(world, 0.3)) buffer_append_text(&yaml, "  voice_age: 20s\n");
    buffer_append_text(&yaml, "  expiry: %s\n", expiries[world_below(world, COUNT_OF(expiries))]);
    bool budget = world_chance(world, 0.1);
    unsigned tokens = (unsigned)world_between(world, 2000, 20000);
    if (budget) buffer_append_text(&yaml, "token_budget: %u\n", tokens);
    buffer_append_text(&yaml, "root_interval: %u\n",
                       world_chance(world, 0.7) ? 1u : (unsigned)world_between(world, 2, 4));
    buffer_append_text(&yaml, "snapshot_interval: %u\n", (unsigned)world_between(world, 2, 12));
    struct error error = {0};
    enum status status = manifest_parse(buffer_bytes(&yaml), &s->manifest, &error);
    if (status != OK)
        fprintf(stderr, "%.*s\n%s\n", (int)yaml.size, (const char *)yaml.data, error.message);
    MUST(status);
    buffer_deinit(&yaml);
    draw_weights(s, world);
    s->parameters = fragments == 1 ? world_between(world, 64, 9000)
                                   : fragments * CODEC_CHUNK + world_below(world, 3000);
}

/* Most fault phases are moderate, some are as bad as can be: nothing that is under way gets
 * through. */
static double some(struct world *world, double most) {
    double weight = random_unit(&world->random);
    return world_chance(world, 0.25) ? 0 : most * weight * weight * weight;
}

static void draw_network(struct scenario *s, struct world *world) {
    uint64_t latency = world_between(world, 2, 60) * MS;
    s->calm = (struct network_faults){
        .latency = latency, .bytes_per_second = 20000000, .keepalive = 3 * SECOND};
    s->fault_phase = s->calm;
    s->fault_phase.lost = some(world, 0.3);
    s->fault_phase.reset = some(world, 0.1);
    s->fault_phase.reset_transfer = some(world, 0.2);
    s->fault_phase.doubled = some(world, 0.5);
    s->fault_phase.reordered = some(world, 0.3);
    s->fault_phase.slow = some(world, 0.1);
    s->fault_phase.flipped = some(world, 0.01);
    s->fault_phase.latency = world_between(world, 1, 200) * MS;
    s->fault_phase.bytes_per_second = world_between(world, 20000, 2000000);
    s->write_failures = world_chance(world, 0.3) ? some(world, 0.03) : 0;
}

/* In such a share of the runs, every so many seconds at pace 1. */
static uint64_t now_and_then(const struct scenario *s, struct world *world, double share,
                             uint64_t low, uint64_t high) {
    bool on = world_chance(world, share);
    uint64_t every = world_between(world, low * 10, high * 10) * 100 * MS * s->pace;
    return on ? every : 0;
}

static void draw_changed(struct scenario *s, struct world *world) {
    struct site_scenario *liar = &s->site[s->sites];
    if (liar->boasts) return; /* that goes on in the calm, too */
    uint64_t hash = random_hash(world->seed, UINT64_C(0xf100d)), what = hash % 4;
    if (what < 2 && s->overlap) liar->changed = CHANGED_FLOODS;
    /* below twice the eight that one site may make in a round, it may make others' stale */
    if (liar->changed == CHANGED_FLOODS && s->manifest.merge.staleness_cap < 16)
        s->manifest.merge.staleness_cap = MANIFEST_AUTO;
    bool starves = what == 0 || (s->manifest.fragments == 1 && (hash >> 8 & 1));
    if (liar->changed == CHANGED_FLOODS && starves) { /* where no merge waits for others, either */
        s->manifest.merge.quorum = 1;
        s->manifest.merge.grace_ms = s->manifest.merge.warmup_grace_ms = 0;
        s->encodes_slowly = true;
        /* the flood makes eight versions in a usual round, the others one each; a site whose rounds
         * are twice as long must have its messages merged, too */
        uint32_t enough = 2 * (6 + s->sites);
        if (staleness_cap_of(s->manifest.merge.staleness_cap, s->sites) < enough)
            s->manifest.merge.staleness_cap = enough;
    }
    if (what == 2) liar->changed = CHANGED_COMES_AND_GOES;
}

/* One that tells more steps than can be: more often where the others would be told much less. */
static bool draws_boast(const struct scenario *s, const struct world *world) {
    const struct manifest *m = &s->manifest;
    bool is_asked = m->inner.dylu && m->inner.inner_steps >= 5 && s->sites >= 4 &&
                    (s->overlap || m->fragments == 1);
    return is_one_in(world, UINT64_C(0xb0a5), 3) ||
           (is_asked && is_one_in(world, UINT64_C(0xb0a57), 2));
}

static void draw_faults(struct scenario *s, struct world *world) {
    s->every.crash = now_and_then(s, world, 0.7, 3, 15);
    s->crash_at_write = random_unit(&world->random);
    s->every.partition = now_and_then(s, world, 0.5, 4, 20);
    s->every.clog = now_and_then(s, world, 0.25, 8, 30);
    s->every.pause = now_and_then(s, world, 0.3, 5, 20);
    s->every.clock = now_and_then(s, world, 0.35, 3, 15);
    s->every.flip = now_and_then(s, world, 0.4, 3, 10);
    s->every.backup = now_and_then(s, world, 0.25, 4, 14);
    s->every.takeover = now_and_then(s, world, 0.3, 4, 16);
    s->every.order = now_and_then(s, world, 0.7, 2, 10);
    s->every.byzantine_coordinator = now_and_then(s, world, 0.6, 3, 14);
    s->every.hostile_input = now_and_then(s, world, 0.6, 4, 12);
    s->every.drain = now_and_then(s, world, 0.35, 4, 16);
    if (s->sites >= 2 && s->manifest.merge.grace_ms != UINT64_MAX && world_chance(world, 0.5)) {
        s->site[s->sites].faulty = true;
        s->site[s->sites].boasts = draws_boast(s, world);
        s->every.lie = now_and_then(s, world, 1, 0, 2) + 100 * MS;
        draw_changed(s, world);
    }
}

/* One site has a quarter of the places at most: four of them leave none. */
static void draw_hoarders(struct scenario *s) {
    for (uint32_t i = s->sites - HOARDERS + 1; i <= s->sites; i++)
        s->site[i] = (struct site_scenario){
            .faulty = true, .changed = CHANGED_HOARDS, .step_us = s->site[i].step_us};
    s->every.lie = 0;
    s->guest = 0;
    s->uploads_limit = 2 * HOARDERS;
}

/* Where no merge waits for others there are as many versions as contributions: sites must be able
 * to apply them, also with the shortest rounds that an admin sets. */
static void let_sites_follow(struct scenario *s) {
    uint64_t step = UINT64_MAX, parts = (s->sites + 8) * s->manifest.fragments;
    if (s->site[s->sites].changed != CHANGED_FLOODS || s->manifest.merge.quorum != 1) return;
    for (uint32_t i = 1; i <= s->sites; i++) step = MIN(step, s->site[i].step_us);
    s->worker_us = MIN(s->worker_us, MAX(2 * step / (3 * parts), MS / 2));
}

static uint64_t draw_pace(struct world *world) {
    static const uint64_t paces[] = {1, 1, 1, 1, 4, 4, 16, 64};
    return paces[world_below(world, COUNT_OF(paces))];
}

static uint32_t draw_sites(struct world *world) {
    uint64_t many = world_between(world, 2, 16), few = world_between(world, 2, 5);
    return (uint32_t)(world_chance(world, 0.2) ? many : few);
}

void scenario_draw(struct scenario *s, struct world *world, uint32_t sites) {
    memset(s, 0, sizeof *s);
    uint32_t drawn = draw_sites(world);
    s->hoards = sites == 0 && is_one_in(world, UINT64_C(0x40a4d), 16);
    if (s->hoards) drawn = MAX(drawn, HOARDERS + 2u);
    s->sites = sites ? MIN(sites, (uint32_t)SITES_MOST) : drawn;
    s->spares = world_chance(world, 0.3) ? 0 : (uint32_t)world_between(world, 1, SPARE_SITES);
    s->overlap = world_chance(world, 0.75);
    s->pace = draw_pace(world);
    draw_manifest(s, world);
    draw_network(s, world);
    uint64_t step = world_between(world, 60, 250) * MS * s->pace;
    for (uint32_t i = 1; i <= s->sites + s->spares; i++)
        s->site[i].step_us = step * world_between(world, 70, 200) / 100;
    draw_faults(s, world);
    bool guest = world_chance(world, 0.5);
    if (guest && s->spares > 0 && s->manifest.inner.dylu &&
        s->manifest.merge.grace_ms != UINT64_MAX) {
        s->guest = s->sites + s->spares;
        s->site[s->guest].step_us /= 10;
    }
    for (uint32_t i = 1; i <= s->sites + s->spares; i++)
        s->site[i].lacks_model = random_hash(world->seed, UINT64_C(0x1ac0) + i) % 6 == 0;
    if (s->spares > 0 && !s->guest)
        s->site[s->sites + s->spares].observes = is_one_in(world, UINT64_C(0x0b5e), 2);
    s->commit_us = world_between(world, 1, 40) * MS;
    s->apply_us = world_between(world, 1, 150) * MS;
    s->check_us = world_between(world, 1, 60) * MS;
    s->worker_us = world_between(world, 1, 40) * MS;
    s->fault_phase_us = world_between(world, 12, 30) * SECOND * s->pace;
    s->checkpoint_us = world_between(world, 2, 20) * SECOND * s->pace;
    s->heartbeat_ms = world_between(world, 1000, 5000) * s->pace;
    s->presence_ms = 3 * s->heartbeat_ms;
    s->manifest.merge.away_after_ms = s->heartbeat_ms * world_between(world, 15, 30) / 10;
    s->beats_late = s->pace >= 4 && is_one_in(world, UINT64_C(0xbea7), 4);
    if (s->beats_late) s->manifest.merge.away_after_ms = s->heartbeat_ms * 2 / 3;
    s->uploads_limit = (uint32_t)(world_chance(world, 0.2) ? 1 : world_between(world, 2, 16));
    s->chunk_limit = (uint32_t)world_between(world, 64, 8192);
    s->nominal_payload = s->parameters * sizeof(float) / world_between(world, 1, 12);
    s->loads = is_one_in(world, UINT64_C(0x10ad), 4);
    if (s->loads) s->nominal_payload = UINT64_C(1) << 30;
    s->stop_at_end = world_chance(world, 0.3);
    s->follow_interval = world_chance(world, 0.7) ? 1 : (uint32_t)world_between(world, 2, 12);
    if (s->hoards) draw_hoarders(s);
    let_sites_follow(s);
    if (s->encodes_slowly) s->commit_us = s->apply_us = s->check_us = MS;
}

uint64_t scenario_apart_ms(const struct scenario *scenario) {
    return MIN(scenario->manifest.merge.away_after_ms / 4, UINT64_C(10000));
}

void scenario_describe(const struct scenario *s, char *out, size_t size) {
    const struct manifest *m = &s->manifest;
    snprintf(out, size,
             "%u sites%s%s at pace %u, %s %s, %u fragments of %llu, quorum %u, cap %u, overlap %s, "
             "drop %.3f, reset %.3f, double %.2f",
             s->sites, s->every.lie ? " (one faulty)" : "",
             s->site[s->sites + s->spares].observes ? " and an observer" : "", (unsigned)s->pace,
             m->outer.mode == OUTER_SPARSE ? "sparse" : "dense",
             codec_name((enum codec)m->codec.kind), m->fragments, (unsigned long long)s->parameters,
             m->merge.quorum, staleness_cap_of(m->merge.staleness_cap, s->sites),
             s->overlap ? "on" : "off", s->fault_phase.lost, s->fault_phase.reset,
             s->fault_phase.doubled);
}
