/* The simulated world (sim/world.h): one clock, a heap of events, randomness, and the gates at
 * which durable writes can crash. */
#include "sim/world.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

#define WALL_EPOCH_MS UINT64_C(1750000000000)
#define FNV_OFFSET UINT64_C(0xcbf29ce484222325)
#define FNV_PRIME UINT64_C(0x100000001b3)

static bool before(const void *first, const void *second) {
    const struct event *a = first, *b = second;
    if (a->at != b->at) return a->at < b->at;
    return a->due != b->due ? a->due < b->due : a->order < b->order;
}

void world_init(struct world *world, uint64_t seed) {
    memset(world, 0, sizeof *world);
    world->seed = seed;
    world->now = SECOND;
    world->trace_hash = FNV_OFFSET;
    heap_init(&world->events, sizeof(struct event), before);
    random_init(&world->random, random_hash(seed, UINT64_C(0x5eed)));
    random_init(&world->luck, random_hash(seed, UINT64_C(0x10c7)));
    random_init(&world->plan, random_hash(seed, UINT64_C(0x97a7)));
}

static void event_release(struct event *event) {
    if (!event->payload) return;
    if (event->release)
        event->release(event->payload);
    else
        free(event->payload);
}

void world_deinit(struct world *world) {
    for (size_t i = 0; i < world->events.count; i++) event_release(heap_at(&world->events, i));
    heap_deinit(&world->events);
    free(world->injected);
    world->injected = NULL;
}

/* ---- the heap -------------------------------------------------------------------------------- */

struct event *world_post(struct world *world, uint64_t delay, uint32_t process, event_handler *run,
                         void *context, void *payload) {
    struct event event = {.at = world->now + delay,
                          .due = world->now + delay,
                          .order = world->order++,
                          .process = process,
                          .incarnation =
                              process < PROCESS_LIMIT ? world->processes[process].incarnation : 0,
                          .gate = process,
                          .run = run,
                          .context = context,
                          .payload = payload};
    return heap_push(&world->events, &event);
}

/* A process that stands still gets its events when it goes on, in their order. */
static bool wait_at_gate(struct world *world) {
    struct event *first = heap_first(&world->events);
    if (first->gate >= PROCESS_LIMIT || !process_is_frozen(world, first->gate)) return false;
    first->at = world->processes[first->gate].frozen_until;
    heap_changed(&world->events, 0);
    return true;
}

bool world_step(struct world *world, uint64_t until) {
    const struct event *first = heap_first(&world->events);
    if (world->failed || !first || first->at > until) return false;
    world->now = first->at;
    if (wait_at_gate(world)) return true;
    struct event event;
    heap_remove(&world->events, 0, &event);
    bool there = true;
    if (event.process < PROCESS_LIMIT) {
        const struct process *process = &world->processes[event.process];
        there = process->alive && !process->doomed && process->incarnation == event.incarnation;
    }
    if (there) {
        world->tally.events++;
        event.run(event.context, &event);
    }
    event_release(&event);
    return true;
}

/* ---- processes ------------------------------------------------------------------------------- */

void process_start(struct world *world, uint32_t number) {
    struct process *process = &world->processes[number];
    process->alive = true;
    process->doomed = process->failed_write = process->may_stop = false;
    process->incarnation++;
    process->clock_at = world->now;
    process->monotonic_from = world_below(world, 1000000) * MS;
    process->wall_skew_ms = (int64_t)world_below(world, 6001) - 3000;
    process->dies_at_write = 0;
    process->frozen_until = 0;
}

void process_stop(struct world *world, uint32_t number) {
    struct process *process = &world->processes[number];
    process->alive = process->doomed = false;
    process->frozen_until = 0;
    process->incarnation++;
}

/* Of its own microseconds in `elapsed` of the world's. */
static uint64_t drifted(const struct process *process, uint64_t elapsed) {
    int64_t extra = (int64_t)(elapsed / 1000000) * process->drift_ppm;
    return (uint64_t)((int64_t)elapsed + extra);
}

static uint64_t monotonic_us(const struct world *world, uint32_t number) {
    const struct process *process = &world->processes[number];
    return process->monotonic_from + drifted(process, world->now - process->clock_at);
}

uint64_t process_monotonic_ms(const struct world *world, uint32_t number) {
    return monotonic_us(world, number) / MS;
}

uint64_t process_wall_ms(const struct world *world, uint32_t number) {
    const struct process *process = &world->processes[number];
    int64_t gained = (int64_t)drifted(process, world->now - process->clock_at) -
                     (int64_t)(world->now - process->clock_at);
    return (uint64_t)((int64_t)(WALL_EPOCH_MS + world->now / MS) + process->wall_skew_ms +
                      gained / (int64_t)MS);
}

void process_set_clock(struct world *world, uint32_t number, int64_t drift_ppm, int64_t skew_ms) {
    struct process *process = &world->processes[number];
    process->monotonic_from = monotonic_us(world, number);
    process->clock_at = world->now;
    process->drift_ppm = drift_ppm;
    process->wall_skew_ms = skew_ms;
}

uint64_t process_delay_until(const struct world *world, uint32_t number, uint64_t at_ms) {
    uint64_t now = monotonic_us(world, number);
    if (at_ms > UINT64_MAX / 4 / MS) return UINT64_MAX / 8; /* practically never */
    uint64_t wanted = at_ms * MS;
    if (wanted <= now) return 0;
    /* A clock that runs fast gets there sooner; rounded up, for a timer must not fire early. */
    uint64_t ppm = (uint64_t)(1000000 + world->processes[number].drift_ppm);
    return (wanted - now) * 1000 / (ppm / 1000) + 2 * MS;
}

enum status process_write(struct world *world, uint32_t number) {
    struct process *process = &world->processes[number];
    if (!process->alive || process->doomed) return CANCELLED;
    process->writes++;
    if (process->dies_at_write && process->writes >= process->dies_at_write) {
        process->doomed = true;
        process->dies_at_write = 0;
    }
    if (!world_luck(world, world->write_failures)) return OK;
    static const enum fault_kind kinds[] = {FAULT_FSYNC, FAULT_NO_SPACE, FAULT_SHORT_WRITE};
    enum fault_kind kind = kinds[world_luck_below(world, 3)];
    if (process->doomed || !world_fault(world, kind, number)) return OK;
    process->failed_write = true;
    return kind == FAULT_FSYNC ? FAILED : FULL;
}

bool process_is_doomed(const struct world *world, uint32_t number) {
    return !world->processes[number].alive || world->processes[number].doomed;
}

bool process_is_frozen(const struct world *world, uint32_t number) {
    return world->processes[number].frozen_until > world->now;
}

void process_freeze(struct world *world, uint32_t number, uint64_t duration) {
    world->processes[number].frozen_until = world->now + duration;
}

/* What waits at its gate stands in the heap at the time at which it would have gone on. Left there
 * it would come after what is sent from now on: an entry of the ledger after the one that follows
 * it. */
void process_thaw(struct world *world, uint32_t number) {
    if (!process_is_frozen(world, number)) return;
    world->processes[number].frozen_until = 0;
    for (size_t i = 0; i < world->events.count; i++) {
        struct event *event = heap_at(&world->events, i);
        if (event->gate == number && event->due < event->at)
            event->at = MAX(event->due, world->now);
    }
    heap_changed_all(&world->events);
}

/* ---- faults ---------------------------------------------------------------------------------- */

static bool is_kept(const struct world_filter *filter, uint64_t number) {
    if (!filter || !filter->kept) return true;
    size_t low = 0, high = filter->kept_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (filter->kept[middle] < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low < filter->kept_count && filter->kept[low] == number;
}

bool world_fault(struct world *world, enum fault_kind kind, uint32_t process) {
    uint64_t number = ++world->drawn;
    if (!is_kept(world->filter, number)) return false;
    if (world->injected_count == world->injected_capacity) {
        world->injected_capacity = world->injected_capacity ? world->injected_capacity * 2 : 128;
        world->injected =
            xrealloc(world->injected, world->injected_capacity * sizeof world->injected[0]);
    }
    world->injected[world->injected_count++] =
        (struct fault_record){number, world->now, kind, process};
    world->tally.faults[kind]++;
    world_trace(world, "FAULT %llu    %s %s", (unsigned long long)number, fault_names[kind],
                process < PROCESS_LIMIT ? world->processes[process].name : "");
    return true;
}

bool world_luck(struct world *world, double probability) {
    return random_unit(&world->luck) < probability;
}
uint64_t world_luck_below(struct world *world, uint64_t limit) {
    return random_below(&world->luck, limit);
}
uint64_t world_plan(struct world *world, uint64_t low, uint64_t high) {
    return low + random_below(&world->plan, high - low + 1);
}

/* ---- randomness ------------------------------------------------------------------------------ */

uint64_t world_below(struct world *world, uint64_t limit) {
    return random_below(&world->random, limit);
}

uint64_t world_between(struct world *world, uint64_t low, uint64_t high) {
    return low + world_below(world, high - low + 1);
}

bool world_chance(struct world *world, double probability) {
    return random_unit(&world->random) < probability;
}

uint64_t world_heavy_tail(struct world *world, uint64_t mean) {
    uint64_t delay = mean / 2 + world_below(world, mean + 1);
    return world_below(world, 100) < 5 ? delay * 10 : delay;
}

/* ---- what is seen ---------------------------------------------------------------------------- */

void world_trace(struct world *world, const char *format, ...) {
    char *line = world->lines[world->line_count++ % TRACE_LINES];
    int used = snprintf(line, TRACE_LINE_SIZE, "%11.6f ", (double)world->now * 1e-6);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line + used, TRACE_LINE_SIZE - (size_t)used, format, arguments);
    va_end(arguments);
    for (const char *at = line; *at; at++)
        world->trace_hash = (world->trace_hash ^ (uint8_t)*at) * FNV_PRIME;
    if (world->print_trace) puts(line);
}

void world_fail(struct world *world, const char *invariant, const char *format, ...) {
    if (world->failed) return;
    world->failed = true;
    snprintf(world->invariant, sizeof world->invariant, "%s", invariant);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(world->failure, sizeof world->failure, format, arguments);
    va_end(arguments);
    world_trace(world, "FAILED %s: %.120s", world->invariant, world->failure);
}

void world_print_last(const struct world *world, FILE *out) {
    uint64_t first = world->line_count > TRACE_LINES ? world->line_count - TRACE_LINES : 0;
    for (uint64_t i = first; i < world->line_count; i++)
        fprintf(out, "    %s\n", world->lines[i % TRACE_LINES]);
}
