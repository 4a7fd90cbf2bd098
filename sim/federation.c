#include "sim/federation.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "sim/coordinator.h"
#include "sim/site.h"

struct federation {
    struct world world;
    struct scenario scenario;
    struct network *network;
    struct key_pair *keys[PROCESS_LIMIT]; /* by process */
    float *initial;
    struct check *check;
    struct coordinator *coordinator;
    struct site *sites[PROCESS_LIMIT]; /* 1 .. site_count */
    uint32_t site_count;
    uint8_t secrets[PROCESS_LIMIT][DIGEST_SIZE];
    uint64_t invited_from[PROCESS_LIMIT]; /* world time from which the admin wants it in */
    bool revoking[PROCESS_LIMIT], halted[PROCESS_LIMIT], returning[PROCESS_LIMIT];
    bool storm, stop_wanted;
};

static bool is_honest(const struct federation *f, uint32_t process) {
    return !f->scenario.site[process].faulty && !f->revoking[process];
}

/* ---- processes ---------------------------------------------------------------------------------------------------------------- */

static void on_start(void *context, struct event *event) {
    struct federation *f = context;
    uint32_t process = (uint32_t)event->number;
    f->returning[process] = false;
    if (f->world.processes[process].alive || f->halted[process]) return;
    if (process == COORDINATOR)
        coordinator_boot(f->coordinator);
    else
        site_boot(f->sites[process]);
}

static void start_later(struct federation *f, uint32_t process, uint64_t delay) {
    if (f->returning[process]) return;
    f->returning[process] = true;
    world_post(&f->world, delay, NO_PROCESS, on_start, f, NULL)->number = process;
}

static void crash(struct federation *f, uint32_t process) {
    if (!f->world.processes[process].alive) return;
    world_trace(&f->world, "%-12s CRASH%s", process == COORDINATOR ? "coordinator" : site_name(f->sites[process]),
                f->world.processes[process].doomed ? " behind a write" : "");
    if (f->world.processes[process].doomed) f->world.tally.write_crashes++;
    f->world.tally.crashes++;
    process_stop(&f->world, process);
    if (process == COORDINATOR)
        coordinator_die(f->coordinator);
    else
        site_die(f->sites[process]);
    network_process_died(f->network, process);
    start_later(f, process, f->storm ? world_between(&f->world, 50 * MS, 6 * SECOND) : 200 * MS);
}

static void reap(struct federation *f) {
    for (uint32_t process = 0; process <= f->site_count; process++) {
        if (f->world.processes[process].alive && f->world.processes[process].doomed) crash(f, process);
    }
}

static void on_coordinator_stopped(void *context, const char *message) {
    struct federation *f = context;
    world_fail(&f->world, "stop", "the coordinator stopped itself: %s", message);
}

static void on_site_halted(void *context, uint32_t process, const char *message) {
    struct federation *f = context;
    f->halted[process] = true;
    if (is_honest(f, process)) world_fail(&f->world, "halt", "%s gave up: %s", site_name(f->sites[process]), message);
}

/* ---- the network's ends ------------------------------------------------------------------------------------------------------- */

static void message_at_coordinator(void *context, uint32_t stream, uint32_t site, uint32_t certificate,
                                   const struct message *message) {
    coordinator_message(((struct federation *)context)->coordinator, stream, site, certificate, message);
}
static void closed_at_coordinator(void *context, uint32_t stream) {
    coordinator_closed(((struct federation *)context)->coordinator, stream);
}
static void message_at_site(void *context, uint32_t site, uint32_t stream, const struct message *message) {
    site_message(((struct federation *)context)->sites[site], stream, message);
}
static void closed_at_site(void *context, uint32_t site, uint32_t stream) {
    site_closed(((struct federation *)context)->sites[site], stream);
}

/* ---- faults ------------------------------------------------------------------------------------------------------------------- */

static uint64_t around(struct federation *f, uint64_t mean) { return world_between(&f->world, mean / 4, mean * 7 / 4); }

static void on_crash(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    if (!f->storm) return;
    bool coordinator = world_chance(&f->world, 0.4);
    uint32_t process = coordinator ? COORDINATOR : (uint32_t)world_between(&f->world, 1, f->site_count);
    struct process *victim = &f->world.processes[process];
    bool at_write = world_chance(&f->world, f->scenario.crash_at_write);
    uint64_t writes = world_between(&f->world, 1, 6);
    if (victim->alive && at_write)
        victim->dies_at_write = victim->writes + writes;
    else
        crash(f, process);
    world_post(&f->world, around(f, f->scenario.crash_every_us), NO_PROCESS, on_crash, f, NULL);
}

static void on_partition(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    if (!f->storm) return;
    uint32_t site = (uint32_t)world_between(&f->world, 1, f->site_count);
    uint64_t kind = world_below(&f->world, 3);
    uint64_t duration = world_heavy_tail(&f->world, 1500 * MS);
    network_partition(f->network, site, kind != 1, kind != 2, MIN(duration, 20 * SECOND));
    f->world.tally.partitions++;
    world_trace(&f->world, "partition    %s %s for %.1f s", site_name(f->sites[site]),
                kind == 0   ? "both ways"
                : kind == 1 ? "down"
                            : "up",
                (double)duration * 1e-6);
    world_post(&f->world, around(f, f->scenario.partition_every_us), NO_PROCESS, on_partition, f, NULL);
}

/* A contribution in the durable ledger, drawn at random; false: there is none. */
static bool pick_victim(struct federation *f, struct ledger_entry *out) {
    const struct disk *disk = coordinator_disk(f->coordinator);
    for (int tries = 0; tries < 20; tries++) {
        uint64_t index = world_below(&f->world, disk->entry_count);
        if (ledger_entry_decode(buffer_bytes(&disk->entries[index]), out, NULL) == OK && out->kind == LEDGER_CONTRIBUTION)
            return true;
    }
    return false;
}

static void on_misbehave(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    if (!f->storm) return;
    struct ledger_entry *victim = xmalloc(sizeof *victim);
    for (uint32_t site = 1; site <= f->site_count; site++) {
        if (!f->scenario.site[site].faulty || !f->world.processes[site].alive) continue;
        bool found = pick_victim(f, victim);
        site_misbehave(f->sites[site], check_run(f->check), found ? victim : NULL);
    }
    free(victim);
    world_post(&f->world, around(f, f->scenario.malformed_every_us), NO_PROCESS, on_misbehave, f, NULL);
}

/* ---- the admin ---------------------------------------------------------------------------------------------------------------- */

static void order(struct federation *f, struct coordinator_event *event, const char *what) {
    world_trace(&f->world, "admin        %s %s", what, event->admin.name);
    coordinator_order(f->coordinator, event);
}

static void plain_order(struct federation *f, enum admin_order kind, const char *what) {
    struct coordinator_event event = {0};
    event.admin.order = kind;
    event.admin.inner_steps = (uint32_t)world_between(&f->world, 2, 10);
    snprintf(event.admin.reason, sizeof event.admin.reason, "because");
    order(f, &event, what);
}

static void invite(struct federation *f, uint32_t process) {
    struct coordinator_event event = {0};
    event.admin.order = ORDER_INVITE;
    snprintf(event.admin.name, sizeof event.admin.name, "%s", site_name(f->sites[process]));
    memcpy(event.admin.secret_digest, f->secrets[process], DIGEST_SIZE);
    order(f, &event, "invite");
}

static void revoke(struct federation *f, uint32_t process) {
    struct coordinator_event event = {0};
    event.admin.order = ORDER_REVOKE;
    snprintf(event.admin.name, sizeof event.admin.name, "%s", site_name(f->sites[process]));
    order(f, &event, "revoke");
}

/* The admin's aims, looked after until the durable ledger shows them. */
static void on_admin(void *context, struct event *event) {
    struct federation *f = context;
    const struct run_state *run = check_run(f->check);
    const struct run_state *now = coordinator_run(f->coordinator);
    (void)event;
    for (uint32_t process = 1; now && process <= f->site_count; process++) {
        const struct run_site *site = run_state_site_named(now, site_name(f->sites[process]));
        bool wanted = f->world.now >= f->invited_from[process] && !f->revoking[process];
        if (wanted && !site && !run_state_invitation(now, f->secrets[process])) invite(f, process);
        now = coordinator_run(f->coordinator);
        if (!now) break;
        site = run_state_site_named(now, site_name(f->sites[process]));
        if (f->revoking[process] && site && !site->revoked) revoke(f, process);
        now = coordinator_run(f->coordinator);
    }
    if (now && !f->storm && run_state_phase(now) == RUN_PAUSED) plain_order(f, ORDER_RESUME, "resume");
    now = coordinator_run(f->coordinator);
    if (now && f->stop_wanted && run_state_phase(now) != RUN_STOPPED) plain_order(f, ORDER_STOP, "stop");
    (void)run;
    world_post(&f->world, 400 * MS, NO_PROCESS, on_admin, f, NULL);
}

static void on_order(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    if (!f->storm) return;
    uint64_t kind = world_below(&f->world, 10);
    uint32_t process = (uint32_t)world_between(&f->world, 1, f->site_count);
    uint32_t revoked = 0;
    for (uint32_t i = 1; i <= f->site_count; i++) revoked += f->revoking[i];
    if (kind < 2)
        plain_order(f, ORDER_PAUSE, "pause");
    else if (kind < 5)
        plain_order(f, ORDER_RESUME, "resume");
    else if (kind < 7)
        plain_order(f, ORDER_INNER_STEPS, "inner steps");
    else if (kind < 8)
        plain_order(f, ORDER_SNAPSHOT, "snapshot");
    else if (revoked == 0 && f->scenario.sites >= 3 && f->world.now > 8 * SECOND)
        f->revoking[process] = true; /* the admin sees to it */
    world_post(&f->world, around(f, f->scenario.order_every_us), NO_PROCESS, on_order, f, NULL);
}

/* ---- the parts of a run ------------------------------------------------------------------------------------------------------- */

static struct key_pair *key_of(struct federation *f) {
    uint8_t seed[KEY_SEED_SIZE];
    struct key_pair *key = NULL;
    for (size_t i = 0; i < sizeof seed; i++) seed[i] = (uint8_t)world_below(&f->world, 256);
    ASSERT(key_pair_from_seed(seed, &key, NULL) == OK);
    return key;
}

static void create(struct federation *f, uint64_t seed, enum plant plant, bool trace) {
    world_init(&f->world, seed);
    f->world.print_trace = trace;
    scenario_draw(&f->scenario, &f->world, plant);
    struct network_ends ends = {f, message_at_coordinator, closed_at_coordinator, message_at_site, closed_at_site};
    f->network = network_create(&f->world, &ends);
    network_set_faults(f->network, &f->scenario.storm);
    f->initial = xcalloc((size_t)f->scenario.parameters, sizeof(float));
    for (uint64_t i = 0; i < f->scenario.parameters; i++) f->initial[i] = (float)(random_unit(&f->world.random) - 0.5);
    f->keys[COORDINATOR] = key_of(f);
    snprintf(f->world.processes[COORDINATOR].name, sizeof f->world.processes[0].name, "coordinator");
    f->coordinator = coordinator_create(&(struct coordinator_setup){.world = &f->world,
                                                                    .scenario = &f->scenario,
                                                                    .network = f->network,
                                                                    .key = f->keys[COORDINATOR],
                                                                    .initial = f->initial,
                                                                    .stopped = on_coordinator_stopped,
                                                                    .context = f});
    f->check = check_create(&f->world, &f->scenario, coordinator_disk(f->coordinator), f->initial);
    coordinator_set_check(f->coordinator, f->check);
    check_ledger_grew(f->check);
    f->site_count = f->scenario.sites + f->scenario.spares;
    for (uint32_t i = 1; i <= f->site_count; i++) {
        f->keys[i] = key_of(f);
        struct site_setup setup = {.world = &f->world,
                                   .scenario = &f->scenario,
                                   .network = f->network,
                                   .check = f->check,
                                   .key = f->keys[i],
                                   .initial = f->initial,
                                   .process = i,
                                   .halted = on_site_halted,
                                   .context = f};
        for (size_t j = 0; j < DIGEST_SIZE; j++) setup.secret_digest[j] = (uint8_t)world_below(&f->world, 256);
        memcpy(f->secrets[i], setup.secret_digest, DIGEST_SIZE);
        f->sites[i] = site_create(&setup);
        bool spare = i > f->scenario.sites;
        f->invited_from[i] = spare ? world_between(&f->world, 2 * SECOND, f->scenario.storm_us) : 0;
        start_later(f, i, f->invited_from[i] + world_below(&f->world, SECOND));
    }
}

static void destroy(struct federation *f) {
    for (uint32_t i = 1; i <= f->site_count; i++) site_destroy(f->sites[i]);
    coordinator_destroy(f->coordinator);
    check_destroy(f->check);
    network_destroy(f->network);
    for (uint32_t i = 0; i < PROCESS_LIMIT; i++) key_pair_destroy(f->keys[i]);
    free(f->initial);
    world_deinit(&f->world);
}

static bool run_until(struct federation *f, uint64_t until) {
    while (world_step(&f->world, until)) reap(f);
    if (!f->world.failed) f->world.now = MAX(f->world.now, until);
    return !f->world.failed;
}

static void begin_storm(struct federation *f) {
    const struct scenario *s = &f->scenario;
    f->storm = true;
    start_later(f, COORDINATOR, 0);
    world_post(&f->world, 10 * MS, NO_PROCESS, on_admin, f, NULL);
    if (s->crash_every_us) world_post(&f->world, around(f, s->crash_every_us), NO_PROCESS, on_crash, f, NULL);
    if (s->partition_every_us) world_post(&f->world, around(f, s->partition_every_us), NO_PROCESS, on_partition, f, NULL);
    if (s->order_every_us) world_post(&f->world, around(f, s->order_every_us), NO_PROCESS, on_order, f, NULL);
    if (s->malformed_every_us) world_post(&f->world, around(f, s->malformed_every_us), NO_PROCESS, on_misbehave, f, NULL);
}

static void calm(struct federation *f) {
    f->storm = false;
    world_trace(&f->world, "calm");
    network_set_faults(f->network, &f->scenario.calm);
    network_heal(f->network);
    for (uint32_t process = 0; process <= f->site_count; process++) {
        f->world.processes[process].dies_at_write = 0;
        if (!f->world.processes[process].alive) {
            f->returning[process] = false;
            start_later(f, process, world_below(&f->world, SECOND));
        }
    }
}

/* The first honest site without a merge beyond `before`; 0: none. */
static uint32_t without_merge(const struct federation *f, const uint64_t *before) {
    for (uint32_t process = 1; process <= f->site_count; process++) {
        uint32_t number = site_number(f->sites[process]);
        if (is_honest(f, process) && (number == 0 || check_merged(f->check, number) <= before[process])) return process;
    }
    return 0;
}

static void fail_liveness(struct federation *f, uint32_t process) {
    const struct node_state *brain = site_brain(f->sites[process]);
    char slots[64] = "";
    for (uint32_t i = 0; brain && i < f->scenario.manifest.fragments; i++)
        snprintf(slots + strlen(slots), sizeof slots - strlen(slots), " %d", (int)node_state_slot(brain, i));
    world_fail(&f->world, "I8",
               "%s has had nothing merged in %d calm seconds: %s, linked %d, slots%s, backlog %llu, version %llu",
               site_name(f->sites[process]), LIVENESS_SECONDS, brain ? "up" : "down", brain && node_state_linked(brain), slots,
               (unsigned long long)(brain ? node_state_backlog(brain) : 0),
               (unsigned long long)(brain ? run_state_version(node_state_run(brain)) : 0));
}

static void wait_for_merges(struct federation *f) {
    uint64_t before[PROCESS_LIMIT] = {0};
    for (uint32_t i = 1; i <= f->site_count; i++) {
        if (site_number(f->sites[i])) before[i] = check_merged(f->check, site_number(f->sites[i]));
    }
    uint64_t until = f->world.now + LIVENESS_SECONDS * SECOND;
    while (without_merge(f, before) && f->world.now < until) {
        if (!run_until(f, f->world.now + 200 * MS)) return;
    }
    uint32_t late = without_merge(f, before);
    if (late) fail_liveness(f, late);
}

static uint32_t unfinished(const struct federation *f) {
    for (uint32_t process = 1; process <= f->site_count; process++) {
        if (is_honest(f, process) && !site_is_finished(f->sites[process])) return process;
    }
    return 0;
}

static void stop_run(struct federation *f) {
    f->stop_wanted = true;
    uint64_t until = f->world.now + FINISH_SECONDS * SECOND;
    while (unfinished(f) && f->world.now < until) {
        if (!run_until(f, f->world.now + 200 * MS)) return;
    }
    uint32_t late = unfinished(f);
    if (!late) return;
    fail_liveness(f, late);
    snprintf(f->world.failure, sizeof f->world.failure, "%s does not finish although the run was stopped",
             site_name(f->sites[late]));
}

static void compare_replicas(struct federation *f) {
    for (uint32_t i = 1; i <= f->site_count; i++) {
        const struct replica *replica = site_replica(f->sites[i]);
        uint8_t root[DIGEST_SIZE];
        if (!replica || f->halted[i]) continue;
        state_root(replica->global.theta, replica->parameters, root);
        check_root(f->check, site_name(f->sites[i]), replica->global.version, root);
    }
}

void federation_run(uint64_t seed, enum plant plant, bool trace, FILE *report, struct federation_result *out) {
    struct federation *f = xcalloc(1, sizeof *f);
    create(f, seed, plant, trace);
    memset(out, 0, sizeof *out);
    scenario_describe(&f->scenario, out->scenario, sizeof out->scenario);
    world_trace(&f->world, "seed %llu: %.120s", (unsigned long long)seed, out->scenario);
    begin_storm(f);
    bool fine = run_until(f, f->scenario.storm_us);
    if (fine) calm(f);
    if (fine) wait_for_merges(f);
    if (!f->world.failed && f->scenario.stop_at_end) stop_run(f);
    if (!f->world.failed) compare_replicas(f);
    if (!f->world.failed) check_end(f->check);
    out->failed = f->world.failed;
    snprintf(out->invariant, sizeof out->invariant, "%s", f->world.invariant);
    snprintf(out->failure, sizeof out->failure, "%s", f->world.failure);
    out->trace_hash = f->world.trace_hash;
    f->world.tally.simulated_ms = f->world.now / MS;
    out->tally = f->world.tally;
    if (out->failed && report) world_print_last(&f->world, report);
    destroy(f);
    free(f);
}
