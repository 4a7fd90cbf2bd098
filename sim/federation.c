#include "sim/federation.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "sim/coordinator.h"
#include "sim/falsehood.h"
#include "sim/malformed.h"
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
    bool wipe[PROCESS_LIMIT]; /* its disk did not bring it back, or it is to be lost */
    bool put_back[PROCESS_LIMIT];
    bool storm, stop_wanted;
};

static bool is_absent(const struct federation *f, uint32_t process) {
    return f->world.filter && f->world.filter->absent >> process & 1;
}

static bool is_honest(const struct federation *f, uint32_t process) {
    return !f->scenario.site[process].faulty && !f->revoking[process] && !is_absent(f, process);
}

/* ---- processes ---------------------------------------------------------------------------------------------------------------- */

static void on_start(void *context, struct event *event) {
    struct federation *f = context;
    uint32_t process = (uint32_t)event->number;
    f->returning[process] = false;
    if (f->world.processes[process].alive || f->halted[process]) return;
    if (process == COORDINATOR) {
        coordinator_boot(f->coordinator);
        return;
    }
    if (f->put_back[process]) (void)site_put_back(f->sites[process]);
    if (f->wipe[process]) site_wipe(f->sites[process]);
    f->put_back[process] = f->wipe[process] = false;
    site_boot(f->sites[process]);
}

static void start_later(struct federation *f, uint32_t process, uint64_t delay) {
    if (f->returning[process] || is_absent(f, process)) return;
    f->returning[process] = true;
    world_post(&f->world, delay, NO_PROCESS, on_start, f, NULL)->number = process;
}

static void go_down(struct federation *f, uint32_t process, const char *why) {
    struct world *world = &f->world;
    uint64_t pause = world_between(world, 50 * MS, 6 * SECOND * MIN(f->scenario.pace, 4u));
    if (!world->processes[process].alive) return;
    world_trace(world, "%-12s DOWN: %s", world->processes[process].name, why);
    process_stop(world, process);
    if (process == COORDINATOR)
        coordinator_die(f->coordinator);
    else
        site_die(f->sites[process]);
    network_process_died(f->network, process);
    start_later(f, process, f->storm ? pause : 200 * MS);
}

static void reap(struct federation *f) {
    for (uint32_t process = 0; process <= f->site_count; process++) {
        if (f->world.processes[process].alive && f->world.processes[process].doomed) go_down(f, process, "behind a write");
    }
}

/* Where its disk has failed or was damaged it may give up, and whoever looks after it starts it again. */
static void on_coordinator_stopped(void *context, const char *message) {
    struct federation *f = context;
    struct disk *disk = coordinator_disk(f->coordinator);
    if (!f->world.processes[COORDINATOR].failed_write && !disk_is_damaged(disk)) {
        world_fail(&f->world, "stop", "the coordinator stopped itself: %s", message);
        return;
    }
    world_trace(&f->world, "coordinator  stops: %.100s", message);
    f->world.tally.stops++;
    disk_repair(disk);
    f->world.processes[COORDINATOR].doomed = true;
}

static void on_site_halted(void *context, uint32_t process, const char *message) {
    struct federation *f = context;
    bool damaged = site_is_damaged(f->sites[process]);
    world_trace(&f->world, "%-12s gives up: %.100s", site_name(f->sites[process]), message);
    if (f->world.processes[process].failed_write || damaged) {
        f->world.tally.halts++;
        f->wipe[process] = damaged;
        f->world.processes[process].doomed = true;
        return;
    }
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

static uint64_t planned_around(struct federation *f, uint64_t mean) { return world_plan(&f->world, mean / 4, mean * 7 / 4); }
static uint32_t planned_site(struct federation *f) { return (uint32_t)world_plan(&f->world, 1, f->site_count); }

/* The next of a kind of fault; false: the storm is over. */
static bool again(struct federation *f, uint64_t mean, event_handler *run) {
    if (!f->storm) return false;
    world_post(&f->world, planned_around(f, mean), NO_PROCESS, run, f, NULL);
    return true;
}

static void on_crash(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    if (!again(f, f->scenario.every.crash, on_crash)) return;
    bool coordinator = world_plan(&f->world, 1, 10) <= 4;
    uint32_t process = planned_site(f);
    if (coordinator) process = COORDINATOR;
    struct process *victim = &f->world.processes[process];
    bool at_write = (double)world_plan(&f->world, 0, 99) < f->scenario.crash_at_write * 100;
    uint64_t writes = world_plan(&f->world, 1, 6);
    if (!victim->alive) return;
    if (at_write) {
        if (world_fault(&f->world, FAULT_CRASH_AT_WRITE, process)) victim->dies_at_write = victim->writes + writes;
    } else if (world_fault(&f->world, coordinator ? FAULT_COORDINATOR_CRASH : FAULT_SITE_CRASH, process)) {
        go_down(f, process, "crash");
    }
}

static void on_partition(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    if (!again(f, f->scenario.every.partition, on_partition)) return;
    static const enum fault_kind kinds[] = {FAULT_PARTITION, FAULT_PARTITION_DOWN, FAULT_PARTITION_UP};
    uint32_t site = planned_site(f);
    uint64_t kind = world_plan(&f->world, 0, 2);
    uint64_t duration = world_plan(&f->world, 200 * MS, 2 * SECOND) * (world_plan(&f->world, 1, 10) == 1 ? 10 : 1);
    if (!world_fault(&f->world, kinds[kind], site)) return;
    network_partition(f->network, site, kind != 1, kind != 2, duration);
}

struct clog {
    uint32_t site;
    bool up;
    uint64_t duration;
};

static void on_clogged(void *context, struct event *event) {
    struct federation *f = context;
    const struct clog *clog = event->payload;
    if (!f->storm || !world_fault(&f->world, FAULT_CLOG, clog->site)) return;
    network_partition(f->network, clog->site, clog->up, !clog->up, clog->duration);
}

/* One link after the other stops, and they come back each in its own time. */
static void on_clog(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    if (!again(f, f->scenario.every.clog, on_clog)) return;
    uint64_t links = world_plan(&f->world, 2, 2 * f->site_count), delay = 0;
    for (uint64_t i = 0; i < links; i++) {
        struct clog *clog = xcalloc(1, sizeof *clog);
        clog->site = planned_site(f);
        clog->up = world_plan(&f->world, 0, 1) == 1;
        clog->duration = world_plan(&f->world, 500 * MS, 8 * SECOND);
        delay += world_plan(&f->world, 10 * MS, 600 * MS);
        world_post(&f->world, delay, NO_PROCESS, on_clogged, f, clog);
    }
}

static void on_pause(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    if (!again(f, f->scenario.every.pause, on_pause)) return;
    uint32_t process = (uint32_t)world_plan(&f->world, 0, f->site_count);
    uint64_t longer = f->scenario.presence_ms * MS;
    uint64_t duration = world_plan(&f->world, longer / 4, 2 * longer);
    if (!f->world.processes[process].alive || process_is_frozen(&f->world, process)) return;
    if (world_fault(&f->world, FAULT_PAUSE, process)) f->world.processes[process].frozen_until = f->world.now + duration;
}

static void on_clock(void *context, struct event *event) {
    struct federation *f = context;
    enum { HOUR_MS = 3600000 };
    (void)event;
    if (!again(f, f->scenario.every.clock, on_clock)) return;
    uint32_t process = (uint32_t)world_plan(&f->world, 0, f->site_count);
    bool jump = world_plan(&f->world, 0, 1) == 1;
    int64_t skew = (int64_t)world_plan(&f->world, 0, 2 * HOUR_MS) - HOUR_MS;
    int64_t drift = ((int64_t)world_plan(&f->world, 0, 40) - 20) * 1000;
    const struct process *victim = &f->world.processes[process];
    if (!world_fault(&f->world, jump ? FAULT_CLOCK_JUMP : FAULT_CLOCK_DRIFT, process)) return;
    process_set_clock(&f->world, process, jump ? victim->drift_ppm : drift, jump ? skew : victim->wall_skew_ms);
}

static bool pick_victim(struct federation *f, struct ledger_entry *out);

static bool flip_at_coordinator(struct federation *f, bool record) {
    struct disk *disk = coordinator_disk(f->coordinator);
    struct contribution c;
    if (record) {
        disk->damaged_entry = world_luck_below(&f->world, disk->entry_count);
        return true;
    }
    if (world_luck(&f->world, 0.5) && coordinator_flip_snapshot(f->coordinator)) return true;
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    bool found = pick_victim(f, entry) &&
                 contribution_decode(bytes_of(entry->contribution.header, CONTRIBUTION_HEADER_SIZE), &c, NULL) == OK &&
                 disk_flip(disk, c.payload_digest);
    free(entry);
    return found;
}

static void on_flip(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    if (!again(f, f->scenario.every.flip, on_flip)) return;
    uint32_t process = planned_site(f);
    if (world_plan(&f->world, 0, 2) == 0) process = COORDINATOR;
    bool record = world_plan(&f->world, 0, 1) == 1;
    if (process != COORDINATOR && !site_has_disk(f->sites[process])) return;
    if (!world_fault(&f->world, record ? FAULT_FLIPPED_RECORD : FAULT_FLIPPED_BLOB, process)) return;
    if (process == COORDINATOR)
        (void)flip_at_coordinator(f, record);
    else
        (void)site_flip(f->sites[process], record);
}

static void on_backup(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    if (!again(f, f->scenario.every.backup, on_backup)) return;
    uint32_t process = planned_site(f);
    uint64_t what = world_plan(&f->world, 0, 4);
    struct site *site = f->sites[process];
    if (!site_has_disk(site)) return;
    if (what <= 1) {
        site_back_up(site);
    } else if (world_fault(&f->world, what == 4 ? FAULT_WIPED : FAULT_OLD_BACKUP, process)) {
        f->wipe[process] = what == 4;
        f->put_back[process] = what != 4;
        go_down(f, process, "its disk is changed");
    }
}

static void on_falsehood(void *context, struct event *event) {
    struct federation *f = context;
    struct error error = {0};
    (void)event;
    if (!again(f, f->scenario.every.falsehood, on_falsehood)) return;
    uint32_t process = planned_site(f);
    enum falsehood kind = (enum falsehood)world_plan(&f->world, 0, FALSEHOOD_COUNT - 1);
    struct falsehood_input input = {site_disk(f->sites[process]), site_number(f->sites[process]), f->keys[COORDINATOR],
                                    f->keys[process]};
    if (!is_honest(f, process) || input.site == 0 || !world_fault(&f->world, FAULT_FALSE_COORDINATOR, process)) return;
    f->world.tally.probes[kind]++;
    if (!falsehood_tell(&input, kind, &error)) world_fail(&f->world, "trust", "%s", error.message);
}

static void on_malformed(void *context, struct event *event) {
    struct federation *f = context;
    struct error error = {0};
    (void)event;
    if (!again(f, f->scenario.every.malformed, on_malformed)) return;
    uint32_t process = planned_site(f);
    enum malformed kind = (enum malformed)world_plan(&f->world, 0, MALFORMED_COUNT - 1);
    struct malformed_input input = {.world = &f->world,
                                    .scenario = &f->scenario,
                                    .ledger = coordinator_disk(f->coordinator),
                                    .key = f->keys[COORDINATOR],
                                    .stranger = f->keys[process],
                                    .initial = f->initial};
    if (!world_fault(&f->world, FAULT_MALFORMED, process)) return;
    f->world.tally.malformed[kind]++;
    if (!malformed_offer(&input, kind, &error)) world_fail(&f->world, "malformed", "%s: %s", malformed_name(kind), error.message);
}

static void on_takeover(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    if (!again(f, f->scenario.every.takeover, on_takeover)) return;
    if (!world_fault(&f->world, FAULT_TAKEOVER, COORDINATOR)) return;
    coordinator_replace(f->coordinator);
    go_down(f, COORDINATOR, "another takes over");
}

/* A contribution in the durable ledger, drawn at random; false: there is none. */
static bool pick_victim(struct federation *f, struct ledger_entry *out) {
    const struct disk *disk = coordinator_disk(f->coordinator);
    for (int tries = 0; tries < 20; tries++) {
        uint64_t index = world_luck_below(&f->world, disk->entry_count);
        if (ledger_entry_decode(buffer_bytes(&disk->entries[index]), out, NULL) == OK && out->kind == LEDGER_CONTRIBUTION)
            return true;
    }
    return false;
}

static void on_misbehave(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    if (!again(f, f->scenario.every.lie, on_misbehave)) return;
    struct ledger_entry *victim = xmalloc(sizeof *victim);
    for (uint32_t site = 1; site <= f->site_count; site++) {
        if (!f->scenario.site[site].faulty || !f->world.processes[site].alive || f->halted[site]) continue;
        bool found = pick_victim(f, victim);
        site_misbehave(f->sites[site], check_run(f->check), found ? victim : NULL);
    }
    free(victim);
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
        if (is_absent(f, process)) continue;
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
    world_post(&f->world, 400 * MS * f->scenario.pace, NO_PROCESS, on_admin, f, NULL);
}

/* Half of what an admin types is wrong, or too late. */
static void wrong_order(struct federation *f, uint64_t kind, uint32_t process) {
    struct coordinator_event event = {0};
    const struct run_state *run = coordinator_run(f->coordinator);
    snprintf(event.admin.name, sizeof event.admin.name, "%s", site_name(f->sites[process]));
    switch (kind) {
    case 0: event.admin.order = ORDER_INNER_STEPS; break; /* none at all */
    case 1:
        event.admin.order = ORDER_INNER_STEPS;
        event.admin.inner_steps = 1000001;
        break;
    case 2: /* whoever is enrolled is not invited again, whoever is not cannot be revoked */
        event.admin.order = run && run_state_site_named(run, event.admin.name) ? ORDER_INVITE : ORDER_REVOKE;
        break;
    case 3:
        event.admin.order = ORDER_INVITE;
        snprintf(event.admin.name, sizeof event.admin.name, "No Name");
        break;
    case 4: /* the same secret for another */
        if (!run || !run_state_invitation(run, f->secrets[process])) return;
        event.admin.order = ORDER_INVITE;
        snprintf(event.admin.name, sizeof event.admin.name, "somebody");
        memcpy(event.admin.secret_digest, f->secrets[process], DIGEST_SIZE);
        break;
    case 5: /* one that will have expired */
        event.admin.order = ORDER_INVITE;
        snprintf(event.admin.name, sizeof event.admin.name, "late");
        event.admin.secret_digest[0] = 7;
        event.admin.expires_ms = 1;
        break;
    default: event.admin.order = (enum admin_order)11; break; /* of a program that is newer */
    }
    order(f, &event, "wrongly orders");
}

/* Somebody knocks with an invitation that is not theirs, or not good any more. */
static void knock(struct federation *f, uint64_t kind, uint32_t process) {
    struct message message = {.kind = MESSAGE_JOIN};
    char name[SITE_NAME_SIZE] = "late";
    uint8_t secret[DIGEST_SIZE] = {7};
    const struct key_pair *key = f->keys[kind == 1 ? COORDINATOR : process];
    if (!f->world.processes[process].alive || f->halted[process]) return;
    if (kind == 0) wrong_order(f, 5, process);
    if (kind != 0) {
        memset(name, 0, sizeof name);
        snprintf(name, sizeof name, "%s", site_name(f->sites[process]));
        memcpy(secret, f->secrets[process], DIGEST_SIZE);
    }
    buffer_append(&message.bytes, secret, sizeof secret);
    buffer_append(&message.bytes, key_pair_public(key), PUBLIC_KEY_SIZE);
    buffer_append(&message.bytes, name, sizeof name);
    network_send(f->network, network_open(f->network, process, 0), true, &message);
}

static void on_order(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    if (!again(f, f->scenario.every.order, on_order)) return;
    uint64_t kind = world_plan(&f->world, 0, 14), wrong = world_plan(&f->world, 0, 6);
    uint32_t process = planned_site(f);
    uint32_t revoked = 0;
    for (uint32_t i = 1; i <= f->site_count; i++) revoked += f->revoking[i];
    if (!world_fault(&f->world, FAULT_ORDER, process)) return;
    if (kind < 2)
        plain_order(f, ORDER_PAUSE, "pause");
    else if (kind < 5)
        plain_order(f, ORDER_RESUME, "resume");
    else if (kind < 7)
        plain_order(f, ORDER_INNER_STEPS, "inner steps");
    else if (kind < 8)
        plain_order(f, ORDER_SNAPSHOT, "snapshot");
    else if (kind < 11)
        wrong_order(f, wrong, process);
    else if (kind < 13)
        knock(f, wrong % 3, process);
    else if (revoked == 0 && f->scenario.sites >= 3 && f->world.now > f->scenario.storm_us / 3)
        f->revoking[process] = true; /* the admin sees to it */
}

/* ---- the parts of a run ------------------------------------------------------------------------------------------------------- */

static struct key_pair *key_of(struct federation *f) {
    uint8_t seed[KEY_SEED_SIZE];
    struct key_pair *key = NULL;
    for (size_t i = 0; i < sizeof seed; i++) seed[i] = (uint8_t)world_below(&f->world, 256);
    ASSERT(key_pair_from_seed(seed, &key, NULL) == OK);
    return key;
}

static void create(struct federation *f, const struct federation_options *options) {
    world_init(&f->world, options->seed);
    f->world.print_trace = options->trace;
    f->world.filter = options->filter;
    scenario_draw(&f->scenario, &f->world, options->sites);
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
                                   .coordinator = f->coordinator,
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
    struct {
        uint64_t every;
        event_handler *run;
    } const faults[] = {{s->every.crash, on_crash},   {s->every.partition, on_partition}, {s->every.clog, on_clog},
                        {s->every.pause, on_pause},   {s->every.clock, on_clock},         {s->every.flip, on_flip},
                        {s->every.backup, on_backup}, {s->every.takeover, on_takeover},   {s->every.order, on_order},
                        {s->every.lie, on_misbehave}, {s->every.falsehood, on_falsehood}, {s->every.malformed, on_malformed}};
    f->world.write_failures = s->write_failures;
    for (size_t i = 0; i < COUNT_OF(faults); i++) {
        if (faults[i].every) (void)again(f, faults[i].every, faults[i].run);
    }
}

static void calm(struct federation *f) {
    f->storm = false;
    world_trace(&f->world, "calm");
    network_set_faults(f->network, &f->scenario.calm);
    network_heal(f->network);
    f->world.write_failures = 0;
    disk_repair(coordinator_disk(f->coordinator));
    coordinator_repair_snapshots(f->coordinator);
    for (uint32_t process = 0; process <= f->site_count; process++) {
        f->world.processes[process].dies_at_write = f->world.processes[process].frozen_until = 0;
        process_set_clock(&f->world, process, 0, (int64_t)world_between(&f->world, 0, 6000) - 3000);
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
               "%s has had nothing merged in %llu calm seconds: %s, linked %d, slots%s, backlog %llu, version %llu",
               site_name(f->sites[process]), (unsigned long long)(LIVENESS_SECONDS * f->scenario.pace), brain ? "up" : "down",
               brain && node_state_linked(brain), slots, (unsigned long long)(brain ? node_state_backlog(brain) : 0),
               (unsigned long long)(brain ? run_state_version(node_state_run(brain)) : 0));
}

/* Its token budget may have ended the run. */
static bool is_over(const struct federation *f) { return run_state_phase(check_run(f->check)) == RUN_STOPPED; }

static void wait_for_merges(struct federation *f) {
    uint64_t before[PROCESS_LIMIT] = {0};
    for (uint32_t i = 1; i <= f->site_count; i++) {
        if (site_number(f->sites[i])) before[i] = check_merged(f->check, site_number(f->sites[i]));
    }
    uint64_t until = f->world.now + LIVENESS_SECONDS * SECOND * f->scenario.pace;
    while (!is_over(f) && without_merge(f, before) && f->world.now < until) {
        if (!run_until(f, f->world.now + 200 * MS * f->scenario.pace)) return;
    }
    uint32_t late = is_over(f) ? 0 : without_merge(f, before);
    if (late) fail_liveness(f, late);
}

static uint32_t unfinished(const struct federation *f) {
    for (uint32_t process = 1; process <= f->site_count; process++) {
        if (site_number(f->sites[process]) == 0) continue; /* the run was over before it came */
        if (is_honest(f, process) && !site_is_finished(f->sites[process])) return process;
    }
    return 0;
}

static void stop_run(struct federation *f) {
    f->stop_wanted = true;
    uint64_t until = f->world.now + FINISH_SECONDS * SECOND * f->scenario.pace;
    while (unfinished(f) && f->world.now < until) {
        if (!run_until(f, f->world.now + 200 * MS * f->scenario.pace)) return;
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

void federation_run(const struct federation_options *options, struct federation_result *out) {
    struct federation *f = xcalloc(1, sizeof *f);
    create(f, options);
    memset(out, 0, sizeof *out);
    scenario_describe(&f->scenario, out->scenario, sizeof out->scenario);
    world_trace(&f->world, "seed %llu: %.120s", (unsigned long long)options->seed, out->scenario);
    begin_storm(f);
    bool fine = run_until(f, f->scenario.storm_us);
    if (fine) calm(f);
    if (fine) wait_for_merges(f);
    if (!f->world.failed && (f->scenario.stop_at_end || is_over(f))) stop_run(f);
    if (!f->world.failed) compare_replicas(f);
    if (!f->world.failed) check_end(f->check);
    out->failed = f->world.failed;
    snprintf(out->invariant, sizeof out->invariant, "%s", f->world.invariant);
    snprintf(out->failure, sizeof out->failure, "%s", f->world.failure);
    out->trace_hash = f->world.trace_hash;
    out->sites = f->site_count;
    f->world.tally.simulated_ms = f->world.now / MS;
    out->tally = f->world.tally;
    out->injected = f->world.injected;
    out->injected_count = f->world.injected_count;
    f->world.injected = NULL;
    if (out->failed && options->report) world_print_last(&f->world, options->report);
    destroy(f);
    free(f);
}

void federation_result_deinit(struct federation_result *result) {
    free(result->injected);
    result->injected = NULL;
}
