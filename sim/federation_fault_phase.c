/* The fault phase: faults that come at times of their own, each kind in its own rhythm, until
 * calm. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "sim/byzantine_coordinator.h"
#include "sim/federation_internal.h"
#include "sim/hostile_input.h"

/* ---- faults ---------------------------------------------------------------------------------- */

static uint64_t planned_around(struct federation *f, uint64_t mean) {
    return world_plan(&f->world, mean / 4, mean * 7 / 4);
}
uint32_t federation_planned_site(struct federation *f) {
    return (uint32_t)world_plan(&f->world, 1, f->site_count);
}

/* The next of a kind of fault; false: the fault phase is over. */
bool federation_again(struct federation *f, uint64_t mean, event_handler *run) {
    if (!f->fault_phase) return false;
    world_post(&f->world, planned_around(f, mean), NO_PROCESS, run, f, NULL);
    return true;
}

struct moment_awaited {
    federation_is *is;
    federation_act *act;
    uint32_t process;
    unsigned tries;
};

static void on_moment(void *context, struct event *event) {
    struct federation *f = context;
    struct moment_awaited *moment = event->payload;
    if (!f->fault_phase) return;
    if (moment->is(f, moment->process) || moment->tries-- == 0) {
        moment->act(f, moment->process);
        return;
    }
    event->payload = NULL;
    world_post(&f->world, 5 * MS, NO_PROCESS, on_moment, f, moment);
}

void federation_at_moment(struct federation *f, federation_is *is, federation_act *act,
                          uint32_t process) {
    struct moment_awaited *moment = xcalloc(1, sizeof *moment);
    *moment = (struct moment_awaited){is, act, process, 2000};
    world_post(&f->world, 0, NO_PROCESS, on_moment, f, moment);
}

bool federation_is_stepping(const struct federation *f, uint32_t process) {
    (void)process;
    return coordinator_is_stepping(f->coordinator);
}

bool federation_is_receiving(const struct federation *f, uint32_t process) {
    (void)process;
    return coordinator_is_receiving(f->coordinator);
}

bool federation_is_submitting(const struct federation *f, uint32_t process) {
    return coordinator_is_called(f->coordinator, site_number(f->sites[process]));
}

static void crash(struct federation *f, uint32_t process) {
    federation_go_down(f, process, "crash");
}

/* The fragments of which a site's message is under way, a bit each. */
static uint32_t under_way(const struct federation *f, uint32_t process) {
    const struct node_state *core = site_core(f->sites[process]);
    uint32_t bits = 0;
    for (uint32_t i = 0; core && i < f->scenario.manifest.fragments; i++) {
        enum slot_phase phase = node_state_slot(core, i);
        bits |= (uint32_t)(phase >= SLOT_UPLOADING && phase <= SLOT_ACCEPTED) << i;
    }
    return bits;
}

/* Two sites have each given what the other one has not. */
static bool is_crossed(const struct federation *f, uint32_t process) {
    (void)process;
    for (uint32_t a = 1; a <= f->site_count; a++) {
        for (uint32_t b = 1; b < a; b++) {
            uint32_t own = under_way(f, a), others = under_way(f, b);
            if (own & ~others && others & ~own) return true;
        }
    }
    return false;
}

/* The power is gone everywhere. What each knew of the fragments that it had not given yet is gone
 * with it. */
static void crash_all(struct federation *f, uint32_t process) {
    (void)process;
    for (uint32_t i = 1; i <= f->site_count; i++) crash(f, i);
}

static void on_crash(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    if (!federation_again(f, f->scenario.every.crash, on_crash)) return;
    bool coordinator = world_plan(&f->world, 1, 10) <= 4;
    uint32_t process = federation_planned_site(f);
    if (coordinator) process = COORDINATOR;
    struct process *victim = &f->world.processes[process];
    bool at_write = (double)world_plan(&f->world, 0, 99) < f->scenario.crash_at_write * 100;
    uint64_t writes = world_plan(&f->world, 1, 6);
    bool in_transfer = world_plan(&f->world, 0, 1) == 1;
    if (!victim->alive) return;
    if (at_write) {
        if (world_fault(&f->world, FAULT_CRASH_AT_WRITE, process))
            victim->dies_at_write = victim->writes + writes;
    } else if (world_fault(&f->world, coordinator ? FAULT_COORDINATOR_CRASH : FAULT_SITE_CRASH,
                           process)) {
        if (coordinator && in_transfer)
            federation_at_moment(f, federation_is_receiving, crash, process);
        else if (!coordinator && !f->scenario.overlap && f->scenario.manifest.fragments > 1)
            federation_at_moment(f, is_crossed, crash_all, process);
        else
            crash(f, process);
    }
}

/* Crashes where a restart has most to put together. */
static void on_look(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    if (!f->fault_phase) return;
    world_post(&f->world, 20 * MS * f->scenario.pace, NO_PROCESS, on_look, f, NULL);
    for (uint32_t i = 1; i <= f->site_count; i++) {
        for (unsigned moment = 0; moment < MOMENT_COUNT; moment++) {
            if (f->struck[moment] >= STRIKES || !f->world.processes[i].alive ||
                !site_is_at(f->sites[i], (enum site_moment)moment) ||
                !world_fault(&f->world, FAULT_SITE_CRASH, i))
                continue;
            f->struck[moment]++;
            crash(f, i);
        }
    }
}

static void on_crossing(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    federation_at_moment(f, is_crossed, crash_all, 1);
}

static void on_partition(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    if (!federation_again(f, f->scenario.every.partition, on_partition)) return;
    static const enum fault_kind kinds[] = {FAULT_PARTITION, FAULT_PARTITION_DOWN,
                                            FAULT_PARTITION_UP};
    uint32_t site = federation_planned_site(f);
    uint64_t kind = world_plan(&f->world, 0, 2);
    uint64_t duration =
        world_plan(&f->world, 200 * MS, 2 * SECOND) * (world_plan(&f->world, 1, 10) == 1 ? 10 : 1);
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
    if (!f->fault_phase || !world_fault(&f->world, FAULT_CLOG, clog->site)) return;
    network_partition(f->network, clog->site, clog->up, !clog->up, clog->duration);
}

/* One link after the other stops, and they come back each in its own time. */
static void on_clog(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    if (!federation_again(f, f->scenario.every.clog, on_clog)) return;
    uint64_t links = world_plan(&f->world, 2, 2 * f->site_count), delay = 0;
    for (uint64_t i = 0; i < links; i++) {
        struct clog *clog = xcalloc(1, sizeof *clog);
        clog->site = federation_planned_site(f);
        clog->up = world_plan(&f->world, 0, 1) == 1;
        clog->duration = world_plan(&f->world, 500 * MS, 8 * SECOND);
        delay += world_plan(&f->world, 10 * MS, 600 * MS);
        world_post(&f->world, delay, NO_PROCESS, on_clogged, f, clog);
    }
}

static void on_pause(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    if (!federation_again(f, f->scenario.every.pause, on_pause)) return;
    uint32_t process = (uint32_t)world_plan(&f->world, 0, f->site_count);
    uint64_t longer = f->scenario.presence_ms * MS;
    uint64_t duration = world_plan(&f->world, longer / 4, 2 * longer);
    if (!f->world.processes[process].alive || process_is_frozen(&f->world, process)) return;
    if (world_fault(&f->world, FAULT_PAUSE, process)) process_freeze(&f->world, process, duration);
}

static void on_clock(void *context, struct event *event) {
    struct federation *f = context;
    enum { HOUR_MS = 3600000 };
    (void)event;
    if (!federation_again(f, f->scenario.every.clock, on_clock)) return;
    uint32_t process = (uint32_t)world_plan(&f->world, 0, f->site_count);
    bool jump = world_plan(&f->world, 0, 1) == 1;
    int64_t skew = (int64_t)world_plan(&f->world, 0, 2 * HOUR_MS) - HOUR_MS;
    int64_t drift = ((int64_t)world_plan(&f->world, 0, 40) - 20) * 1000;
    const struct process *victim = &f->world.processes[process];
    if (!world_fault(&f->world, jump ? FAULT_CLOCK_JUMP : FAULT_CLOCK_DRIFT, process)) return;
    process_set_clock(&f->world, process, jump ? victim->drift_ppm : drift,
                      jump ? skew : victim->wall_skew_ms);
}

static bool pick_victim(struct federation *f, struct ledger_entry *out);

static bool has_snapshots(const struct federation *f, uint32_t process) {
    (void)process;
    return coordinator_has_snapshots(f->coordinator);
}

/* A machine whose disk goes bad does not stay up for long. */
static void flip_snapshot(struct federation *f, uint32_t process) {
    bool falls = world_luck(&f->world, 0.75);
    if (!coordinator_flip_snapshot(f->coordinator) || !falls) return;
    if (world_fault(&f->world, FAULT_COORDINATOR_CRASH, process)) crash(f, process);
}

/* The snapshot of version 0 goes while sites without a copy ask for it, and there is no other. */
static void on_early_damage(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    if (coordinator_has_snapshots(f->coordinator) &&
        world_fault(&f->world, FAULT_FLIPPED_BLOB, COORDINATOR))
        (void)coordinator_flip_snapshot(f->coordinator);
}

static bool has_waiting(const struct federation *f, uint32_t process) {
    const struct run_state *run = check_run(f->check);
    bool waiting = false;
    (void)process;
    for (uint32_t i = 0; i < f->scenario.manifest.fragments; i++)
        waiting |= run_state_pending_count(run, i) > 0;
    return waiting;
}

/* A contribution that waits to be merged, now and then everybody's copy of it. */
static void flip_waiting(struct federation *f, uint32_t process) {
    const struct run_state *run = check_run(f->check);
    bool everywhere = world_luck(&f->world, 0.4);
    (void)process;
    for (uint32_t i = 0; i < f->scenario.manifest.fragments; i++) {
        uint32_t count = run_state_pending_count(run, i);
        if (count == 0) continue;
        uint32_t at = (uint32_t)world_luck_below(&f->world, count);
        const struct run_pending *pending = run_state_pending(run, i, at);
        if (!federation_waits(f, i, pending->index)) return;
        const uint8_t *digest = pending->contribution.payload_digest;
        (void)disk_flip(coordinator_disk(f->coordinator), digest);
        for (uint32_t site = 1; everywhere && site <= f->site_count; site++)
            site_flip_payload(f->sites[site], digest);
        return;
    }
}

static bool may_lie(const struct federation *f, uint32_t site) {
    return site == f->scenario.sites && f->scenario.every.lie && f->scenario.site[site].faulty &&
           f->world.processes[site].alive && !f->halted[site];
}

static bool flip_at_coordinator(struct federation *f, bool record) {
    struct disk *disk = coordinator_disk(f->coordinator);
    struct contribution c;
    if (record) {
        disk->damaged_entry = world_luck_below(&f->world, disk->entry_count);
        return true;
    }
    if (world_luck(&f->world, 0.5)) {
        federation_at_moment(f, has_snapshots, flip_snapshot, COORDINATOR);
        return true;
    }
    if (world_luck(&f->world, 0.6)) {
        federation_at_moment(f, has_waiting, flip_waiting, COORDINATOR);
        return true;
    }
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    bool found = pick_victim(f, entry) &&
                 contribution_decode(bytes_of(entry->contribution.header, CONTRIBUTION_HEADER_SIZE),
                                     &c, NULL) == OK &&
                 disk_flip(disk, c.payload_digest);
    free(entry);
    if (found && world_luck(&f->world, 0.5) &&
        world_fault(&f->world, FAULT_COORDINATOR_CRASH, COORDINATOR))
        crash(f, COORDINATOR); /* its replay may need it */
    return found;
}

static void on_flip(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    if (!federation_again(f, f->scenario.every.flip, on_flip)) return;
    uint32_t process = federation_planned_site(f);
    if (world_plan(&f->world, 0, 1) == 0) process = COORDINATOR;
    bool record = world_plan(&f->world, 0, 1) == 1;
    if (process != COORDINATOR && !site_has_disk(f->sites[process])) return;
    if (!world_fault(&f->world, record ? FAULT_FLIPPED_RECORD : FAULT_FLIPPED_BLOB, process))
        return;
    if (process == COORDINATOR)
        (void)flip_at_coordinator(f, record);
    else
        (void)site_flip(f->sites[process], record);
}

static void on_backup(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    if (!federation_again(f, f->scenario.every.backup, on_backup)) return;
    uint32_t process = federation_planned_site(f);
    uint64_t what = world_plan(&f->world, 0, 4);
    struct simulated_site *site = f->sites[process];
    if (!site_has_disk(site)) return;
    if (what <= 1) {
        site_back_up(site);
    } else if (world_fault(&f->world, what == 4 ? FAULT_WIPED : FAULT_OLD_BACKUP, process)) {
        f->wipe[process] = what == 4;
        f->put_back[process] = what != 4;
        federation_go_down(f, process, "its disk is changed");
    }
}

static void on_drain(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    if (!federation_again(f, f->scenario.every.drain, on_drain)) return;
    uint32_t process = federation_planned_site(f);
    if (!f->world.processes[process].alive || process_is_frozen(&f->world, process) ||
        !site_core(f->sites[process]) || !world_fault(&f->world, FAULT_DRAIN, process))
        return;
    (void)site_leave(f->sites[process]);
}

static void on_byzantine_coordinator(void *context, struct event *event) {
    struct federation *f = context;
    struct error error = {0};
    (void)event;
    if (!federation_again(f, f->scenario.every.byzantine_coordinator, on_byzantine_coordinator))
        return;
    uint32_t process = federation_planned_site(f);
    enum byzantine_coordinator kind =
        (enum byzantine_coordinator)world_plan(&f->world, 0, FALSEHOOD_COUNT - 1);
    struct byzantine_coordinator_input input = {site_disk(f->sites[process]),
                                                site_number(f->sites[process]),
                                                f->keys[COORDINATOR], f->keys[process]};
    if (!federation_is_honest(f, process) || input.site == 0 ||
        !world_fault(&f->world, FAULT_FALSE_COORDINATOR, process))
        return;
    f->world.tally.probes[kind]++;
    if (!byzantine_coordinator_tell(&input, kind, &error))
        world_fail(&f->world, "trust", "%s", error.message);
}

static void offer_hostile_input(struct federation *f, enum hostile_input_kind kind,
                                uint32_t process, bool whole) {
    struct error error = {0};
    struct hostile_input input = {.world = &f->world,
                                  .scenario = &f->scenario,
                                  .ledger = coordinator_disk(f->coordinator),
                                  .key = f->keys[COORDINATOR],
                                  .stranger = f->keys[process],
                                  .initial = f->initial,
                                  .whole = whole};
    if (!world_fault(&f->world, FAULT_HOSTILE_INPUT, process)) return;
    f->world.tally.hostile_input[kind]++;
    if (!hostile_input_offer(&input, kind, &error))
        world_fail(&f->world, "malformed", "%s: %s", hostile_input_name(kind), error.message);
}

static void on_hostile_input(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    if (!federation_again(f, f->scenario.every.hostile_input, on_hostile_input)) return;
    uint32_t process = federation_planned_site(f);
    enum hostile_input_kind kind =
        (enum hostile_input_kind)world_plan(&f->world, 0, HOSTILE_COUNT - 1);
    offer_hostile_input(f, kind, process, false);
}

/* The last token is spent: an old copy may end right behind the contribution that spent it. The
 * entry by which the run pauses is durable together with that, so no crash comes between them. */
static void on_spending(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    if (!f->fault_phase) return;
    if (!run_state_is_spent(check_run(f->check)))
        world_post(&f->world, 100 * MS, NO_PROCESS, on_spending, f, NULL);
    else
        offer_hostile_input(f, HOSTILE_COORDINATOR_EVENT, 1, true);
}

/* A payload of the newest step is damaged everywhere, and the coordinator falls: it starts behind,
 * and is behind when a person puts the payload back. */
static bool damage_newest_step(struct federation *f) {
    struct disk *disk = coordinator_disk(f->coordinator);
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    struct contribution c;
    uint64_t at = disk->entry_count;
    bool found = false;
    while (!found && at-- > 0)
        found = ledger_entry_decode(buffer_bytes(&disk->entries[at]), entry, NULL) == OK &&
                entry->kind == LEDGER_STEP;
    found = found &&
            ledger_entry_decode(buffer_bytes(&disk->entries[entry->step.parts[0].index]), entry,
                                NULL) == OK &&
            contribution_decode(bytes_of(entry->contribution.header, CONTRIBUTION_HEADER_SIZE), &c,
                                NULL) == OK &&
            disk_flip(disk, c.payload_digest);
    for (uint32_t site = 1; found && site <= f->site_count; site++)
        site_flip_payload(f->sites[site], c.payload_digest);
    free(entry);
    return found;
}

static bool is_up(const struct federation *f, uint32_t process) {
    return f->world.processes[process].alive &&
           !disk_has_damaged_record(coordinator_disk(f->coordinator));
}

static void fall_behind(struct federation *f, uint32_t process) {
    if (!is_up(f, process) || !world_fault(&f->world, FAULT_FLIPPED_BLOB, process)) return;
    if (damage_newest_step(f) && world_fault(&f->world, FAULT_COORDINATOR_CRASH, process))
        crash(f, process);
}

static void on_late_damage(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    federation_at_moment(f, is_up, fall_behind, COORDINATOR);
}

static void on_takeover(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    if (!federation_again(f, f->scenario.every.takeover, on_takeover)) return;
    bool behind_a_receipt = world_plan(&f->world, 0, 1) == 1;
    if (!world_fault(&f->world, FAULT_TAKEOVER, COORDINATOR)) return;
    coordinator_replace(f->coordinator, behind_a_receipt);
    if (!behind_a_receipt) federation_go_down(f, COORDINATOR, "another takes over");
}

/* A contribution in the durable ledger, drawn at random; false: there is none. */
static bool pick_victim(struct federation *f, struct ledger_entry *out) {
    const struct disk *disk = coordinator_disk(f->coordinator);
    for (int tries = 0; tries < 20; tries++) {
        uint64_t index = world_luck_below(&f->world, disk->entry_count);
        if (ledger_entry_decode(buffer_bytes(&disk->entries[index]), out, NULL) == OK &&
            out->kind == LEDGER_CONTRIBUTION)
            return true;
    }
    return false;
}

/* One that tells more steps than can be goes on when the faults are over: what is measured of it is
 * soon forgotten. */
static void on_boast(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    uint64_t again = world_luck_below(&f->world, 2 * f->scenario.every.lie);
    world_post(&f->world, f->scenario.every.lie + again, NO_PROCESS, on_boast, f, NULL);
    uint32_t site = f->scenario.sites;
    if (!f->fault_phase && f->world.processes[site].alive && !f->halted[site])
        site_boast(f->sites[site], check_run(f->check));
}

/* The coordinator's copy of the victim's payload was damaged, and a liar names it in a contribution
 * of its own: so the damage is found outside of a step, where nobody follows from there. */
static bool name_damaged(struct federation *f, uint32_t site, const struct ledger_entry *victim) {
    struct contribution c;
    if (f->named_damaged >= 3 || !world_luck(&f->world, 0.3) ||
        contribution_decode(bytes_of(victim->contribution.header, CONTRIBUTION_HEADER_SIZE), &c,
                            NULL) != OK ||
        c.site == site || !world_fault(&f->world, FAULT_FLIPPED_BLOB, COORDINATOR) ||
        !disk_flip(coordinator_disk(f->coordinator), c.payload_digest))
        return false;
    f->named_damaged++;
    site_steal(f->sites[site], check_run(f->check), victim);
    return true;
}

static void on_misbehave(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    if (!federation_again(f, f->scenario.every.lie, on_misbehave)) return;
    struct ledger_entry *victim = xmalloc(sizeof *victim);
    for (uint32_t site = 1; site <= f->site_count; site++) {
        if (!may_lie(f, site)) continue;
        bool found = pick_victim(f, victim);
        if (found && name_damaged(f, site, victim)) continue;
        site_misbehave(f->sites[site], check_run(f->check), found ? victim : NULL);
    }
    free(victim);
}

void federation_begin_fault_phase(struct federation *f) {
    const struct scenario *s = &f->scenario;
    f->fault_phase = true;
    federation_start_later(f, COORDINATOR, 0);
    world_post(&f->world, 10 * MS, NO_PROCESS, federation_on_admin, f, NULL);
    if (s->site[s->sites].boasts)
        world_post(&f->world, s->fault_phase_us, NO_PROCESS, on_boast, f, NULL);
    struct {
        uint64_t every;
        event_handler *run;
    } const faults[] = {{s->every.crash, on_crash},
                        {s->every.partition, on_partition},
                        {s->every.clog, on_clog},
                        {s->every.pause, on_pause},
                        {s->every.clock, on_clock},
                        {s->every.flip, on_flip},
                        {s->every.backup, on_backup},
                        {s->every.takeover, on_takeover},
                        {s->every.order, federation_on_order},
                        {s->every.drain, on_drain},
                        {s->every.lie, on_misbehave},
                        {s->every.byzantine_coordinator, on_byzantine_coordinator},
                        {s->every.hostile_input, on_hostile_input}};
    f->world.write_failures = s->write_failures;
    if (s->every.crash) world_post(&f->world, 0, NO_PROCESS, on_look, f, NULL);
    uint64_t late = s->fault_phase_us - 8 * SECOND * MIN(s->pace, 4u);
    if (s->manifest.merge.grace_ms == UINT64_MAX && !s->overlap && s->manifest.fragments > 1) {
        world_post(&f->world, s->fault_phase_us / 2, NO_PROCESS, on_crossing, f, NULL);
        world_post(&f->world, late, NO_PROCESS, on_crossing, f, NULL);
    }
    if (s->manifest.token_budget) world_post(&f->world, 0, NO_PROCESS, on_spending, f, NULL);
    if (random_hash(f->world.seed, UINT64_C(0x1a7e)) % 6 == 0)
        world_post(&f->world, late, NO_PROCESS, on_late_damage, f, NULL);
    if (random_hash(f->world.seed, UINT64_C(0xea71)) % 12 == 0)
        world_post(&f->world, 1500 * MS, NO_PROCESS, on_early_damage, f, NULL);
    for (size_t i = 0; i < COUNT_OF(faults); i++) {
        if (faults[i].every) (void)federation_again(f, faults[i].every, faults[i].run);
    }
}
