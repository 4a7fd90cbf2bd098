/* One seed from its draw to its verdict (sim/federation.h): makes the processes, ends the faults,
 * and judges the end. */
#include "sim/federation.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "sim/federation_internal.h"

bool federation_is_absent(const struct federation *f, uint32_t process) {
    return f->world.filter && f->world.filter->absent >> process & 1;
}

bool federation_is_honest(const struct federation *f, uint32_t process) {
    return !f->scenario.site[process].faulty && !f->revoking[process] && !f->gone[process] &&
           !federation_is_absent(f, process);
}

/* ---- processes ------------------------------------------------------------------------------- */

static void on_start(void *context, struct event *event) {
    struct federation *f = context;
    uint32_t process = (uint32_t)event->number;
    f->returning[process] = false;
    if (f->world.processes[process].alive || f->halted[process] || f->gone[process]) return;
    if (process == COORDINATOR) {
        coordinator_boot(f->coordinator);
        return;
    }
    if (f->put_back[process]) (void)site_put_back(f->sites[process]);
    if (f->wipe[process]) site_wipe(f->sites[process]);
    f->put_back[process] = f->wipe[process] = false;
    if (!f->fault_phase && site_boot_changed(f->sites[process])) return;
    site_boot(f->sites[process]);
}

void federation_start_later(struct federation *f, uint32_t process, uint64_t delay) {
    if (f->returning[process] || federation_is_absent(f, process)) return;
    f->returning[process] = true;
    world_post(&f->world, delay, NO_PROCESS, on_start, f, NULL)->number = process;
}

void federation_go_down(struct federation *f, uint32_t process, const char *why) {
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
    federation_start_later(f, process, f->fault_phase ? pause : 200 * MS);
}

/* Its operator has stopped it, and tells nobody. */
static void on_leave(void *context, struct event *event) {
    struct federation *f = context;
    uint32_t guest = f->scenario.guest;
    (void)event;
    if (!world_fault(&f->world, FAULT_LEAVE, guest)) return;
    f->gone[guest] = true;
    federation_go_down(f, guest, "leaves for good");
}

static void reap(struct federation *f) {
    for (uint32_t process = 0; process <= f->site_count; process++) {
        if (f->world.processes[process].alive && f->world.processes[process].doomed)
            federation_go_down(f, process, "after a write");
    }
}

/* Where its disk has failed or was damaged it may give up, and its operator starts it again. */
static void on_coordinator_stopped(void *context, const char *message) {
    struct federation *f = context;
    struct disk *disk = coordinator_disk(f->coordinator);
    if (!f->world.processes[COORDINATOR].failed_write && !disk_has_damaged_record(disk)) {
        world_fail(&f->world, "stop", "the coordinator stopped itself: %s", message);
        return;
    }
    world_trace(&f->world, "coordinator  stops: %.100s", message);
    f->world.tally.stops++;
    disk_repair(disk);
    f->world.processes[COORDINATOR].doomed = true;
}

/* It comes back as after a crash, unless it has gone for good. */
static void on_site_left(void *context, uint32_t process) {
    struct federation *f = context;
    world_trace(&f->world, "%-12s has left", site_name(f->sites[process]));
    f->left++;
    f->world.processes[process].doomed = true;
}

static void on_site_halted(void *context, uint32_t process, const char *message) {
    struct federation *f = context;
    bool damaged = site_has_damaged_record(f->sites[process]);
    world_trace(&f->world, "%-12s gives up: %.100s", site_name(f->sites[process]), message);
    if (f->world.processes[process].failed_write || damaged) {
        f->world.tally.halts++;
        f->wipe[process] = damaged;
        f->world.processes[process].doomed = true;
        return;
    }
    f->halted[process] = true;
    if (federation_is_honest(f, process))
        world_fail(&f->world, "halt", "%s gave up: %s", site_name(f->sites[process]), message);
}

/* ---- the network's ends ---------------------------------------------------------------------- */

static void message_at_coordinator(void *context, uint32_t stream, uint32_t site,
                                   uint32_t certificate, const struct message *message) {
    coordinator_message(((struct federation *)context)->coordinator, stream, site, certificate,
                        message);
}
static void closed_at_coordinator(void *context, uint32_t stream) {
    coordinator_closed(((struct federation *)context)->coordinator, stream);
}
static void message_at_site(void *context, uint32_t site, uint32_t stream,
                            const struct message *message) {
    site_message(((struct federation *)context)->sites[site], stream, message);
}
static void closed_at_site(void *context, uint32_t site, uint32_t stream) {
    site_closed(((struct federation *)context)->sites[site], stream);
}

/* ---- the parts of a run ---------------------------------------------------------------------- */

static struct key_pair *key_of(struct federation *f) {
    uint8_t seed[KEY_SEED_SIZE];
    struct key_pair *key = NULL;
    for (size_t i = 0; i < sizeof seed; i++) seed[i] = (uint8_t)world_below(&f->world, 256);
    MUST(key_pair_from_seed(seed, &key, NULL));
    return key;
}

static void create(struct federation *f, const struct federation_options *options) {
    world_init(&f->world, options->seed);
    f->world.print_trace = options->trace;
    f->world.filter = options->filter;
    scenario_draw(&f->scenario, &f->world, options->sites);
    struct network_ends ends = {f, message_at_coordinator, closed_at_coordinator, message_at_site,
                                closed_at_site};
    f->network = network_create(&f->world, &ends);
    network_set_faults(f->network, &f->scenario.fault_phase);
    f->initial = xcalloc((size_t)f->scenario.parameters, sizeof(float));
    for (uint64_t i = 0; i < f->scenario.parameters; i++)
        f->initial[i] = (float)(random_unit(&f->world.random) - 0.5);
    f->keys[COORDINATOR] = key_of(f);
    snprintf(f->world.processes[COORDINATOR].name, sizeof f->world.processes[0].name,
             "coordinator");
    f->coordinator =
        coordinator_create(&(struct coordinator_setup){.world = &f->world,
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
                                   .left = on_site_left,
                                   .context = f};
        for (size_t j = 0; j < DIGEST_SIZE; j++)
            setup.secret_digest[j] = (uint8_t)world_below(&f->world, 256);
        memcpy(f->secrets[i], setup.secret_digest, DIGEST_SIZE);
        f->sites[i] = site_create(&setup);
        bool spare = i > f->scenario.sites;
        if (i == f->scenario.guest) {
            world_post(&f->world,
                       world_between(&f->world, f->scenario.fault_phase_us / 3,
                                     f->scenario.fault_phase_us),
                       NO_PROCESS, on_leave, f, NULL);
            spare = false;
        }
        f->invited_from[i] =
            spare ? world_between(&f->world, 2 * SECOND, f->scenario.fault_phase_us) : 0;
        federation_start_later(f, i, f->invited_from[i] + world_below(&f->world, SECOND));
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

static bool pends_in(const struct run_state *run, uint32_t fragment, uint64_t index) {
    for (uint32_t at = 0; at < run_state_pending_count(run, fragment); at++)
        if (run_state_pending(run, fragment, at)->index == index) return true;
    return false;
}

/* No step has it, not even one on its way to the disk from a coordinator that stands still. */
bool federation_waits(const struct federation *f, uint32_t fragment, uint64_t index) {
    const struct run_state *ahead = coordinator_run(f->coordinator);
    return pends_in(check_run(f->check), fragment, index) &&
           (!ahead || pends_in(ahead, fragment, index));
}

/* Whether a step that was taken needs these bytes, as of two contributions with the same ones. */
static bool is_merged_too(const struct federation *f, const struct disk *disk,
                          const uint8_t digest[static DIGEST_SIZE]) {
    const struct run_state *run = check_run(f->check);
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    bool found = false;
    for (uint64_t i = 0; i < run_state_size(run) && i < disk->entry_count && !found; i++) {
        struct contribution c;
        found = ledger_entry_decode(buffer_bytes(&disk->entries[i]), entry, NULL) == OK &&
                entry->kind == LEDGER_CONTRIBUTION &&
                contribution_decode(bytes_of(entry->contribution.header, CONTRIBUTION_HEADER_SIZE),
                                    &c, NULL) == OK &&
                memcmp(c.payload_digest, digest, DIGEST_SIZE) == 0 &&
                !federation_waits(f, c.fragment, i) && !run_state_dropped(run, i);
    }
    free(entry);
    return found;
}

/* Somebody puts right what the run cannot: records, and payloads of steps that were taken. One that
 * only waits to be merged is the run's to have again, or to give up. */
static void mend_disk(struct federation *f) {
    struct disk *disk = coordinator_disk(f->coordinator);
    const struct run_state *run = check_run(f->check);
    uint8_t(*lost)[DIGEST_SIZE] = NULL;
    size_t count = 0;
    for (uint32_t fragment = 0; fragment < f->scenario.manifest.fragments; fragment++) {
        for (uint32_t at = 0; at < run_state_pending_count(run, fragment); at++) {
            const struct run_pending *pending = run_state_pending(run, fragment, at);
            if (!federation_waits(f, fragment, pending->index)) continue;
            const uint8_t *digest = pending->contribution.payload_digest;
            if (disk_blob_is_whole(disk, digest) || is_merged_too(f, disk, digest)) continue;
            lost = xrealloc(lost, (count + 1) * sizeof *lost);
            memcpy(lost[count++], digest, DIGEST_SIZE);
        }
    }
    disk_repair(disk);
    for (size_t i = 0; i < count; i++) (void)disk_flip(disk, lost[i]);
    free(lost);
}

/* At least half of the honest sites are sending what they made: it will be their first offer to a
 * coordinator that has just come back, and says nothing of how long a round is. */
static bool half_are_sending(const struct federation *f) {
    uint32_t sending = 0, there = 0;
    for (uint32_t i = 1; i <= f->site_count; i++) {
        const struct node_state *core = site_core(f->sites[i]);
        if (!core || !federation_is_honest(f, i)) continue;
        there++;
        sending += node_state_slot(core, 0) == SLOT_UPLOADING;
    }
    return there > 0 && 2 * sending >= there;
}

/* What is measured of the others' rounds is measured while a flood may starve them. */
static void on_flood(void *context, struct event *event) {
    struct federation *f = context;
    uint64_t tries = event->number;
    if (half_are_sending(f) || tries == 0) {
        f->measures_anew = true;
        federation_go_down(f, COORDINATOR, "it measures anew in the middle of a flood");
        return;
    }
    world_post(&f->world, 5 * MS * f->scenario.pace, NO_PROCESS, on_flood, f, NULL)->number =
        tries - 1;
}

static void calm(struct federation *f) {
    f->fault_phase = false;
    world_trace(&f->world, "calm");
    network_set_faults(f->network, &f->scenario.calm);
    network_heal(f->network);
    f->world.write_failures = 0;
    mend_disk(f);
    coordinator_mend(f->coordinator);
    for (uint32_t process = 0; process <= f->site_count; process++) {
        f->world.processes[process].dies_at_write = 0;
        process_thaw(&f->world, process);
        process_set_clock(&f->world, process, 0, (int64_t)world_between(&f->world, 0, 6000) - 3000);
        if (f->scenario.site[process].changed)
            federation_go_down(f, process, "a changed client takes its place");
        if (f->scenario.encodes_slowly && f->scenario.site[process].changed)
            world_post(&f->world, 2 * SECOND, NO_PROCESS, on_flood, f, NULL)->number = 2000;
        if (!f->world.processes[process].alive) {
            f->returning[process] = false;
            federation_start_later(f, process, world_below(&f->world, SECOND));
        }
    }
}

enum { FADES_AFTER_ROUNDS = 12, LITTLE_OF_A_ROUND = 40 };

static int by_speed(const void *a, const void *b) {
    double left = *(const double *)a, right = *(const double *)b;
    return (left < right) - (left > right);
}

/* Whom the others are measured by: of more than two the second, whatever fed/ says. */
static double fastest_of(double *speeds, uint32_t count) {
    qsort(speeds, count, sizeof *speeds, by_speed);
    return count > 2 ? speeds[1] : speeds[0];
}

/* The first honest site that is told much less than its share of the speed of those that are there;
 * 0: none. */
static uint32_t told_too_little(const struct federation *f, double fastest, uint32_t *told,
                                uint32_t *share) {
    for (uint32_t i = 1; i <= f->site_count; i++) {
        const struct node_state *core = site_core(f->sites[i]);
        if (!federation_is_honest(f, i) || !core || f->scenario.site[i].observes) continue;
        *told = node_state_inner_steps(core);
        *share = dylu_inner_steps(run_state_inner_steps(node_state_run(core)),
                                  1.0 / (double)f->scenario.site[i].step_us, fastest);
        if (*told < *share / 2) return i;
    }
    return 0;
}

/* Once what was measured in the fault phase has faded no site is told much less than its share of
 * the speed, whatever others were there before. A round in which something took long, as a move
 * onto a version, may say otherwise for a while: it fades, too.
 */
static void check_inner_steps(struct federation *f) {
    const struct scenario *s = &f->scenario;
    uint64_t slowest = 0;
    double speeds[PROCESS_LIMIT] = {0};
    uint32_t count = 0;
    /* Sites that wait for several fragments give single steps to each other: what is measured then
     * is how long answers take. */
    if (!s->overlap && s->manifest.fragments > 1) return;
    bool all_honest = true;
    for (uint32_t i = 1; i <= f->site_count; i++) {
        /* beside a flood, moving onto its many versions takes a part of the trainer's time */
        if (s->site[i].changed == CHANGED_FLOODS) return;
        all_honest &= !s->site[i].changed;
        if (!site_core(f->sites[i]) || s->site[i].observes) continue;
        all_honest &= federation_is_honest(f, i);
        slowest = MAX(slowest, s->site[i].step_us);
        /* a liar may tell any number of steps; then the fastest honest one is the second */
        speeds[count++] = s->site[i].faulty ? DBL_MAX : 1.0 / (double)s->site[i].step_us;
    }
    /* of two that are measured one may tell any number of steps */
    if (count < 4 && !all_honest) return;
    double fastest = fastest_of(speeds, count);
    /* Where sites wait for their steps, what they do besides training (encoding, moves) is measured
     * with it: it must be little of a round. */
    if (!s->overlap && run_state_inner_steps(check_run(f->check)) / fastest <
                           (double)(LITTLE_OF_A_ROUND * s->worker_us))
        return;
    uint64_t round = run_state_inner_steps(check_run(f->check)) * slowest;
    uint64_t until = f->world.now + (s->manifest.merge.away_after_ms + 2 * s->heartbeat_ms) * MS +
                     FADES_AFTER_ROUNDS * round;
    if (!run_until(f, until)) return;
    for (unsigned looks = 1, wrong_looks = 0;; looks++) {
        /* nobody trains, none is told */
        if (run_state_phase(check_run(f->check)) != RUN_ACTIVE) return;
        uint32_t present = 0, counted = 0; /* who is up; who is linked, too, and may be measured */
        for (uint32_t i = 1; i <= f->site_count; i++) {
            if (!site_core(f->sites[i]) || s->site[i].observes) continue;
            present++;
            counted += run_state_is_present(check_run(f->check), i);
        }
        if (present != count) return; /* somebody came or went meanwhile */
        if (counted != present && !all_honest) return;
        uint32_t told = 0, share = 0, wrong = told_too_little(f, fastest, &told, &share);
        wrong_looks += wrong != 0;
        if (!wrong && 2 * wrong_looks <= looks) return;
        if (wrong && looks > FADES_AFTER_ROUNDS) {
            world_fail(&f->world, "speed",
                       "%s is told %u inner steps; %u are its share of the speed",
                       site_name(f->sites[wrong]), told, share);
            return;
        }
        if (!run_until(f, f->world.now + round)) return;
    }
}

/* The first site that the ledger counts wrongly: one that is up and linked is present, one that has
 * gone for good is not, nor is an observer ever. 0: none. */
static uint32_t counted_wrongly(const struct federation *f) {
    if (run_state_phase(check_run(f->check)) == RUN_STOPPED) return 0;
    for (uint32_t i = 1; i <= f->site_count; i++) {
        uint32_t number = site_number(f->sites[i]);
        const struct node_state *core = site_core(f->sites[i]);
        const struct run_site *site = number ? run_state_site(check_run(f->check), number) : NULL;
        if (!site || site->revoked) continue;
        if (f->scenario.site[i].observes) {
            if (run_state_is_present(check_run(f->check), number)) return i;
            continue;
        }
        bool is_here = core && node_state_linked(core), is_gone = !core && f->gone[i];
        if (site->presence == SITE_PRESENT ? is_gone : is_here) return i;
    }
    return 0;
}

/* Sooner or later the ledger has it right. */
static void check_counted(struct federation *f) {
    const struct scenario *s = &f->scenario;
    uint64_t until =
        f->world.now + (s->manifest.merge.away_after_ms + 3 * s->heartbeat_ms) * MS + SECOND;
    while (counted_wrongly(f) && f->world.now < until)
        if (!run_until(f, f->world.now + s->heartbeat_ms * MS / 2)) return;
    uint32_t wrong = counted_wrongly(f);
    if (wrong)
        world_fail(&f->world, "presence", "%s is %s, and the ledger %s it",
                   site_name(f->sites[wrong]), f->gone[wrong] ? "gone" : "up",
                   f->gone[wrong] ? "counts" : "does not count");
}

static bool is_steady(const struct federation *f, uint32_t process) {
    const struct node_state *core = site_core(f->sites[process]);
    const struct run_site *site =
        core ? run_state_site(check_run(f->check), site_number(f->sites[process])) : NULL;
    return federation_is_honest(f, process) && site && site->presence == SITE_PRESENT &&
           node_state_linked(core);
}

enum { ONE_FLAP = 2 }; /* AWAY and BACK */

/* Nothing is lost any more: nobody who is up and counts is away between two heartbeats, again and
 * again. Once may be: a heartbeat that came late. */
static void check_steady(struct federation *f) {
    uint32_t before[PROCESS_LIMIT];
    bool was_steady[PROCESS_LIMIT];
    for (uint32_t i = 1; i <= f->site_count; i++) {
        was_steady[i] = is_steady(f, i);
        before[i] = check_presence_entries(f->check, site_number(f->sites[i]));
    }
    if (!run_until(f, f->world.now + 3 * f->scenario.heartbeat_ms * MS)) return;
    for (uint32_t i = 1; i <= f->site_count; i++) {
        if (was_steady[i] && is_steady(f, i) &&
            check_presence_entries(f->check, site_number(f->sites[i])) > before[i] + ONE_FLAP)
            world_fail(&f->world, "presence", "%s is up and beats, and was away in the ledger",
                       site_name(f->sites[i]));
    }
}

static uint32_t site_in(const struct federation *f, enum slot_phase phase) {
    for (uint32_t i = 1; i <= f->site_count; i++) {
        const struct node_state *core = site_core(f->sites[i]);
        for (uint32_t at = 0; core && at < f->scenario.manifest.fragments; at++)
            if (federation_is_honest(f, i) && node_state_slot(core, at) == phase) return i;
    }
    return 0;
}

/* The run is paused where a site has a message under way, which nobody takes now. */
static void check_leaves_paused(struct federation *f) {
    uint64_t until = f->world.now + 20 * SECOND * f->scenario.pace;
    while (!site_in(f, SLOT_UPLOADING) && f->world.now < until)
        if (!run_until(f, f->world.now + 5 * MS * f->scenario.pace)) return;
    if (!coordinator_run(f->coordinator)) return;
    federation_pause(f);
    if (!run_until(f, f->world.now + 3 * SECOND)) return;
    uint32_t site = site_in(f, SLOT_BACKOFF), left = f->left,
             begun = f->world.processes[site].incarnation;
    if (site && run_state_phase(check_run(f->check)) == RUN_PAUSED && site_leave(f->sites[site])) {
        until = f->world.now + (4 * f->scenario.heartbeat_ms + 20000) * MS;
        while (f->left == left && f->world.now < until)
            if (!run_until(f, f->world.now + 100 * MS * f->scenario.pace)) return;
        /* one that has begun anew since, on a damaged disk, knows of no such order */
        if (f->left == left && f->world.processes[site].incarnation == begun)
            world_fail(&f->world, "leave", "%s does not leave a run that is paused",
                       site_name(f->sites[site]));
    }
    f->pause_wanted = false;
}

/* Somebody fast has left, or one of several may tell any number of steps. */
static bool speeds_are_asked(const struct federation *f) {
    const struct scenario *s = &f->scenario;
    return s->guest || (s->manifest.inner.dylu && s->every.lie && s->sites >= 4);
}

/* Contributions of a site that were merged; of an observer, which has none, versions that it
 * follows. */
static uint64_t how_far(const struct federation *f, uint32_t process) {
    const struct replica *replica = site_replica(f->sites[process]);
    uint32_t number = site_number(f->sites[process]);
    if (f->scenario.site[process].observes) return replica ? replica->global.version : 0;
    return number ? check_merged(f->check, number) : 0;
}

/* The first honest site that has got nowhere since `before`; 0: none. */
static uint32_t without_merge(const struct federation *f, const uint64_t *before) {
    for (uint32_t process = 1; process <= f->site_count; process++) {
        if (federation_is_honest(f, process) && how_far(f, process) <= before[process])
            return process;
    }
    return 0;
}

static void fail_liveness(struct federation *f, uint32_t process) {
    const struct node_state *core = site_core(f->sites[process]);
    char slots[64] = "";
    for (uint32_t i = 0; core && i < f->scenario.manifest.fragments; i++)
        snprintf(slots + strlen(slots), sizeof slots - strlen(slots), " %d",
                 (int)node_state_slot(core, i));
    world_fail(&f->world, "I8",
               "%s has had nothing merged in %llu calm seconds: %s, linked %d, slots%s, backlog "
               "%llu, version %llu",
               site_name(f->sites[process]),
               (unsigned long long)(LIVENESS_SECONDS * f->scenario.pace), core ? "up" : "down",
               core && node_state_linked(core), slots,
               (unsigned long long)(core ? node_state_backlog(core) : 0),
               (unsigned long long)(core ? run_state_version(node_state_run(core)) : 0));
}

/* Its token budget may have ended the run. */
static bool is_over(const struct federation *f) {
    return run_state_phase(check_run(f->check)) == RUN_STOPPED;
}

static void wait_for_merges(struct federation *f) {
    uint64_t before[PROCESS_LIMIT] = {0};
    for (uint32_t i = 1; i <= f->site_count; i++) before[i] = how_far(f, i);
    uint64_t until = f->world.now + LIVENESS_SECONDS * SECOND * f->scenario.pace;
    while (!is_over(f) && without_merge(f, before) && f->world.now < until) {
        if (!run_until(f, f->world.now + 200 * MS * f->scenario.pace)) return;
    }
    uint32_t late = is_over(f) ? 0 : without_merge(f, before);
    if (late) fail_liveness(f, late);
}

/* ---- a changed client ------------------------------------------------------------------------ */

static int by_count(const void *a, const void *b) {
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return (left > right) - (left < right);
}

static bool may_be_counted(const struct federation *f, uint32_t process) {
    uint32_t number = site_number(f->sites[process]);
    const struct run_site *site = number ? run_state_site(check_run(f->check), number) : NULL;
    return site && !site->revoked;
}

/* Contributions of a fragment by each site. */
static void count_contributed(const struct federation *f, uint32_t fragment, uint32_t *out) {
    for (uint32_t i = 1; i <= f->site_count; i++)
        out[i] = check_contributed(f->check, site_number(f->sites[i]), fragment);
}

/* Those since `before`: of the upper of two middle honest sites. */
static uint32_t usual_count(const struct federation *f, const uint32_t *before,
                            const uint32_t *now) {
    uint32_t counts[PROCESS_LIMIT], count = 0;
    for (uint32_t i = 1; i <= f->site_count; i++) {
        if (!federation_is_honest(f, i) || !may_be_counted(f, i) || !site_core(f->sites[i]) ||
            f->scenario.site[i].observes)
            continue;
        counts[count++] = now[i] - before[i];
    }
    qsort(counts, count, sizeof counts[0], by_count);
    return count ? counts[count / 2] : UINT32_MAX;
}

/* One that floods has no more than its share in the ledger, by what the others make of the time. */
static void check_flood(struct federation *f, uint32_t process) {
    const struct scenario *s = &f->scenario;
    uint64_t slowest = 0;
    uint32_t before[FRAGMENTS_LIMIT][PROCESS_LIMIT], now[PROCESS_LIMIT];
    for (uint32_t i = 1; i <= f->site_count; i++) slowest = MAX(slowest, s->site[i].step_us);
    uint64_t round = run_state_inner_steps(check_run(f->check)) * slowest;
    while (s->encodes_slowly && !f->measures_anew)
        if (!run_until(f, f->world.now + round)) return;
    if (!run_until(f, f->world.now + 4 * round)) return;
    for (uint32_t i = 0; i < s->manifest.fragments; i++) count_contributed(f, i, before[i]);
    if (!run_until(f, f->world.now + 8 * round)) return;
    for (uint32_t i = 0; i < s->manifest.fragments; i++) {
        count_contributed(f, i, now);
        uint32_t usual = usual_count(f, before[i], now), made = now[process] - before[i][process];
        if (usual != UINT32_MAX && made > 16 * (usual + 1))
            world_fail(&f->world, "rate",
                       "%s has %u contributions of fragment %u where others have %u",
                       site_name(f->sites[process]), made, i, usual);
    }
}

/* The ledger has at once as many entries of coming and going as it may, and then one at a time. */
static void check_coming_and_going(struct federation *f, uint32_t process) {
    enum { AT_ONCE = 4, TIMES = 12 };
    uint64_t apart = scenario_apart_ms(&f->scenario) * MS;
    uint32_t number = site_number(f->sites[process]),
             before = check_presence_entries(f->check, number);
    if (!run_until(f, f->world.now + TIMES * apart)) return;
    uint32_t made = check_presence_entries(f->check, number) - before;
    if (made > AT_ONCE + TIMES + 1)
        world_fail(&f->world, "presence", "%s has %u entries of coming and going in %llu ms",
                   site_name(f->sites[process]), made, (unsigned long long)(TIMES * apart / MS));
}

static void check_changed(struct federation *f) {
    for (uint32_t i = 1; i <= f->site_count && !f->world.failed && !is_over(f); i++) {
        enum changed_client_kind kind = f->scenario.site[i].changed;
        if (site_core(f->sites[i]) || !may_be_counted(f, i)) continue;
        if (kind == CHANGED_FLOODS) check_flood(f, i);
        if (kind == CHANGED_COMES_AND_GOES) check_coming_and_going(f, i);
    }
}

static uint32_t unfinished(const struct federation *f) {
    for (uint32_t process = 1; process <= f->site_count; process++) {
        if (site_number(f->sites[process]) == 0) continue; /* the run was over before it came */
        if (federation_is_honest(f, process) && !site_is_finished(f->sites[process]))
            return process;
    }
    return 0;
}

static void stop_run(struct federation *f) {
    federation_invite_latecomer(f);
    f->stop_wanted = true;
    uint64_t until = f->world.now + FINISH_SECONDS * SECOND * f->scenario.pace;
    while (unfinished(f) && f->world.now < until) {
        if (!run_until(f, f->world.now + 200 * MS * f->scenario.pace)) return;
    }
    uint32_t late = unfinished(f);
    if (!late) {
        federation_latecomer_attempts(f);
        (void)run_until(f, f->world.now + SECOND);
        return;
    }
    fail_liveness(f, late);
    snprintf(f->world.failure, sizeof f->world.failure,
             "%s does not finish although the run was stopped", site_name(f->sites[late]));
}

static void compare_replicas(struct federation *f) {
    for (uint32_t i = 1; i <= f->site_count; i++) {
        const struct replica *replica = site_replica(f->sites[i]);
        uint8_t root[DIGEST_SIZE];
        if (!replica || f->halted[i] || site_lacks_model(f->sites[i])) continue;
        state_root(replica->global.theta, replica->parameters, root);
        check_root(f->check, site_name(f->sites[i]), replica->global.version, root);
    }
}

void federation_run(const struct federation_options *options, struct federation_result *out) {
    log_set_level(LOG_NONE); /* simulated processes keep no diary */
    struct federation *f = xcalloc(1, sizeof *f);
    create(f, options);
    memset(out, 0, sizeof *out);
    scenario_describe(&f->scenario, out->scenario, sizeof out->scenario);
    world_trace(&f->world, "seed %llu: %.120s", (unsigned long long)options->seed, out->scenario);
    federation_begin_fault_phase(f);
    bool fine = run_until(f, f->scenario.fault_phase_us);
    if (fine) calm(f);
    if (fine) wait_for_merges(f);
    if (!f->world.failed) check_changed(f);
    if (!f->world.failed && speeds_are_asked(f) && !is_over(f)) check_inner_steps(f);
    if (!f->world.failed && !is_over(f)) check_counted(f);
    if (!f->world.failed && !is_over(f) && f->scenario.beats_late) check_steady(f);
    if (!f->world.failed && !is_over(f) && random_hash(options->seed, UINT64_C(0x1eaf)) % 8 == 0)
        check_leaves_paused(f);
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
