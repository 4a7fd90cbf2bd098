#include "sim/world.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

#define WALL_EPOCH_MS UINT64_C(1750000000000)
#define FNV_OFFSET UINT64_C(0xcbf29ce484222325)
#define FNV_PRIME UINT64_C(0x100000001b3)

void world_init(struct world *world, uint64_t seed) {
    memset(world, 0, sizeof *world);
    world->seed = seed;
    world->now = SECOND;
    world->trace_hash = FNV_OFFSET;
    random_init(&world->random, random_hash(seed, UINT64_C(0x5eed)));
}

static void event_release(struct event *event) {
    if (!event->payload) return;
    if (event->release)
        event->release(event->payload);
    else
        free(event->payload);
}

void world_deinit(struct world *world) {
    for (size_t i = 0; i < world->count; i++) event_release(&world->heap[i]);
    free(world->heap);
    world->heap = NULL;
    world->count = world->capacity = 0;
}

/* ---- the heap ------------------------------------------------------------------------------------------------------------- */

static bool before(const struct event *a, const struct event *b) { return a->at != b->at ? a->at < b->at : a->order < b->order; }

static void sift_up(struct world *world, size_t at) {
    while (at > 0) {
        size_t parent = (at - 1) / 2;
        if (!before(&world->heap[at], &world->heap[parent])) return;
        struct event swap = world->heap[at];
        world->heap[at] = world->heap[parent];
        world->heap[parent] = swap;
        at = parent;
    }
}

static void sift_down(struct world *world) {
    size_t at = 0;
    for (;;) {
        size_t least = at;
        for (size_t child = 2 * at + 1; child <= 2 * at + 2 && child < world->count; child++) {
            if (before(&world->heap[child], &world->heap[least])) least = child;
        }
        if (least == at) return;
        struct event swap = world->heap[at];
        world->heap[at] = world->heap[least];
        world->heap[least] = swap;
        at = least;
    }
}

struct event *world_post(struct world *world, uint64_t delay, uint32_t process, event_handler *run, void *context,
                         void *payload) {
    if (world->count == world->capacity) {
        world->capacity = world->capacity ? world->capacity * 2 : 256;
        world->heap = xrealloc(world->heap, world->capacity * sizeof world->heap[0]);
    }
    struct event *event = &world->heap[world->count++];
    *event = (struct event){.at = world->now + delay,
                            .order = world->order++,
                            .process = process,
                            .incarnation = process < PROCESS_LIMIT ? world->processes[process].incarnation : 0,
                            .run = run,
                            .context = context,
                            .payload = payload};
    uint64_t order = event->order;
    sift_up(world, world->count - 1);
    for (size_t i = world->count; i-- > 0;) { /* it is near the end nearly always */
        if (world->heap[i].order == order) return &world->heap[i];
    }
    return NULL;
}

bool world_step(struct world *world, uint64_t until) {
    if (world->failed || world->count == 0 || world->heap[0].at > until) return false;
    struct event event = world->heap[0];
    world->heap[0] = world->heap[--world->count];
    sift_down(world);
    world->now = event.at;
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

/* ---- processes ------------------------------------------------------------------------------------------------------------ */

void process_start(struct world *world, uint32_t number) {
    struct process *process = &world->processes[number];
    process->alive = true;
    process->doomed = false;
    process->incarnation++;
    process->born_at = world->now;
    process->monotonic_from = world_below(world, 1000000);
    process->wall_skew_ms = (int64_t)world_below(world, 6001) - 3000;
    process->dies_at_write = 0;
}

void process_stop(struct world *world, uint32_t number) {
    struct process *process = &world->processes[number];
    process->alive = process->doomed = false;
    process->incarnation++;
}

uint64_t process_monotonic_ms(const struct world *world, uint32_t number) {
    const struct process *process = &world->processes[number];
    return process->monotonic_from + (world->now - process->born_at) / MS;
}

uint64_t process_wall_ms(const struct world *world, uint32_t number) {
    return (uint64_t)((int64_t)(WALL_EPOCH_MS + world->now / MS) + world->processes[number].wall_skew_ms);
}

uint64_t process_delay_until(const struct world *world, uint32_t number, uint64_t at_ms) {
    const struct process *process = &world->processes[number];
    uint64_t since = at_ms > process->monotonic_from ? at_ms - process->monotonic_from : 0;
    if (since > UINT64_MAX / 2 / MS) return UINT64_MAX / 4; /* practically never */
    uint64_t at = process->born_at + since * MS;
    return at > world->now ? at - world->now : 0;
}

bool process_write(struct world *world, uint32_t number) {
    struct process *process = &world->processes[number];
    if (!process->alive || process->doomed) return false;
    process->writes++;
    if (process->dies_at_write && process->writes >= process->dies_at_write) {
        process->doomed = true;
        process->dies_at_write = 0;
    }
    return true;
}

bool process_is_doomed(const struct world *world, uint32_t number) {
    return !world->processes[number].alive || world->processes[number].doomed;
}

/* ---- randomness ------------------------------------------------------------------------------------------------------------- */

uint64_t world_below(struct world *world, uint64_t limit) { return random_below(&world->random, limit); }

uint64_t world_between(struct world *world, uint64_t low, uint64_t high) { return low + world_below(world, high - low + 1); }

bool world_chance(struct world *world, double probability) { return random_unit(&world->random) < probability; }

uint64_t world_heavy_tail(struct world *world, uint64_t mean) {
    uint64_t delay = mean / 2 + world_below(world, mean + 1);
    uint64_t kind = world_below(world, 100);
    if (kind < 8) delay *= 5;
    if (kind < 1) delay *= 10;
    return delay;
}

/* ---- what is seen ----------------------------------------------------------------------------------------------------------- */

void world_trace(struct world *world, const char *format, ...) {
    char *line = world->lines[world->line_count++ % TRACE_LINES];
    int used = snprintf(line, TRACE_LINE_SIZE, "%11.6f ", (double)world->now * 1e-6);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line + used, TRACE_LINE_SIZE - (size_t)used, format, arguments);
    va_end(arguments);
    for (const char *at = line; *at; at++) world->trace_hash = (world->trace_hash ^ (uint8_t)*at) * FNV_PRIME;
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
    for (uint64_t i = first; i < world->line_count; i++) fprintf(out, "    %s\n", world->lines[i % TRACE_LINES]);
}
