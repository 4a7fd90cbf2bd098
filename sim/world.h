/* The simulated world: one clock, one heap of events, one stream of randomness, and the processes
 * that live in it.
 *
 * Everything a run does comes from its seed: events happen in the order (time, time due, order of
 * posting), nothing reads a real clock or the system's randomness, there is one thread. So a seed
 * names a run, and its trace hash (over every line that the trace would have) says whether two runs
 * were the same.
 *
 * A process is the coordinator or a site's daemon. It has its own clocks (a monotonic one that
 * starts anywhere at each start, a wall clock that is wrong by a bit) and dies with everything that
 * is not on its disk: an event posted to a process is dropped when that incarnation of it is gone.
 * A process may be told to die at its n-th durable write from now; it is then `doomed`: whatever
 * its code still does in that event reaches neither disk nor network, and it is gone when the event
 * ends.
 */
#ifndef SIM_WORLD_H
#define SIM_WORLD_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/heap.h"
#include "base/random.h"
#include "base/status.h"
#include "sim/fault_kind.h"

enum { PROCESS_LIMIT = 20, NO_PROCESS = PROCESS_LIMIT, TRACE_LINES = 40, TRACE_LINE_SIZE = 160 };
#define MS UINT64_C(1000) /* the world counts microseconds */
#define SECOND (1000 * MS)

struct event;
typedef void event_handler(void *context, struct event *event);

struct event {
    uint64_t at, due,
        order; /* due: when it was to come; at: when it comes, later where its gate stood still */
    uint32_t process, incarnation; /* NO_PROCESS: always happens */
    uint32_t gate; /* comes only once this process does not stand still; NO_PROCESS: none */
    event_handler *run;
    void *context;
    void
        *payload; /* owned; freed with `release` after the handler, unless it set payload to NULL */
    void (*release)(void *); /* may be NULL: free */
    uint64_t number;
};

struct process {
    char name[16];
    uint32_t incarnation;
    bool alive, doomed;
    uint64_t clock_at;       /* world time from which its clocks are counted: its start, or the last
                                change of drift */
    uint64_t monotonic_from; /* us that its monotonic clock showed then */
    int64_t wall_skew_ms;
    int64_t drift_ppm;      /* of both clocks; the machine's, so it outlives the process */
    uint64_t frozen_until;  /* stands still till then */
    bool failed_write;      /* in this incarnation: it may stop because of it */
    bool may_stop;          /* likewise, because of damage that was done to its disk */
    uint64_t writes;        /* durable ones, ever */
    uint64_t dies_at_write; /* `writes` to die at; 0: none */
};

enum { BYZANTINE_KINDS = 48, PROBE_KINDS = 48, REFUSALS = 32 };

/* What happened, for the lines that close a run. Every field is a count. */
struct tally {
    uint64_t events, messages, messages_late, commits, contributions, steps, receipts, entries,
        joins, orders[12], refusals[REFUSALS], restores, advances, snapshots_loaded,
        snapshots_passed_over, dropped, supplied, refetched, residual_checks, simulated_ms, halts,
        stops, robbed;
    uint64_t faults[FAULT_KIND_COUNT], lies[BYZANTINE_KINDS], probes[PROBE_KINDS],
        hostile_input[PROBE_KINDS];
};

struct fault_record {    /* one that was injected */
    uint64_t number, at; /* number: among all that were drawn */
    enum fault_kind kind;
    uint32_t process;
};

/* What is left out of a run: nothing, where it is NULL. */
struct world_filter {
    const uint64_t *kept; /* [kept_count], rising: the only faults that are injected; NULL: all */
    size_t kept_count;
    uint32_t absent; /* bit n: site process n never appears */
};

struct world {
    uint64_t seed, now, order;
    struct random random; /* what happens anyway: delays, speeds */
    struct random luck;   /* faults that befall a message, a write, a crash */
    struct random plan;   /* faults that come at times of their own, and the scenario */
    struct heap events;   /* of struct event, by (at, due, order) */
    struct process processes[PROCESS_LIMIT];
    struct tally tally;
    const struct world_filter *filter; /* borrowed; may be NULL */
    uint64_t drawn;                    /* faults, injected or left out */
    struct fault_record *injected;     /* [injected_count] */
    size_t injected_count, injected_capacity;
    double write_failures; /* chance that a durable write fails */
    bool print_trace;
    uint64_t trace_hash;
    char lines[TRACE_LINES][TRACE_LINE_SIZE]; /* a ring of the last ones */
    uint64_t line_count;
    bool failed;
    char invariant[32], failure[512];
};

void world_init(struct world *world, uint64_t seed);
void world_deinit(struct world *world);

/* Takes payload. `process` must be alive when the event comes, in the incarnation it is in now. */
struct event *world_post(struct world *world, uint64_t delay, uint32_t process, event_handler *run,
                         void *context, void *payload);
/* Runs the next event; false where there is none, or something has failed, or the next lies after
 * `until`. */
bool world_step(struct world *world, uint64_t until);

void process_start(struct world *world, uint32_t process);
void process_stop(struct world *world, uint32_t process);
uint64_t process_monotonic_ms(const struct world *world, uint32_t process);
uint64_t process_wall_ms(const struct world *world, uint32_t process);
/* Delay until the process's monotonic clock shows `at_ms`. */
uint64_t process_delay_until(const struct world *world, uint32_t process, uint64_t at_ms);
/* A durable write is about to be done. CANCELLED: the process is doomed and it never happens; the
 * write that dooms it happens. FULL: there was no room for all of it, nothing is there. FAILED: its
 * sync failed; the caller may ask world_luck whether it is there all the same. */
MUST_USE enum status process_write(struct world *world, uint32_t process);
bool process_is_doomed(const struct world *world, uint32_t process);
bool process_is_frozen(const struct world *world, uint32_t process);
/* Stands still for so long, and then gets what came meanwhile, in the order in which it was due. */
void process_freeze(struct world *world, uint32_t process, uint64_t duration);
/* Goes on now, and gets what came meanwhile before anything else. */
void process_thaw(struct world *world, uint32_t process);
/* From now on its clocks run so much fast or slow, and the wall clock is off by skew_ms. */
void process_set_clock(struct world *world, uint32_t process, int64_t drift_ppm, int64_t skew_ms);

/* --- faults --- */
/* A fault is due: true where it is to be injected, and then it has been counted. `process` is whom
 * it befalls. */
bool world_fault(struct world *world, enum fault_kind kind, uint32_t process);
bool world_luck(struct world *world, double probability); /* from the stream of luck */
/* from the plan's; inclusive */
uint64_t world_plan(struct world *world, uint64_t low, uint64_t high);
uint64_t world_luck_below(struct world *world, uint64_t limit);

/* --- randomness of what happens anyway --- */
uint64_t world_below(struct world *world, uint64_t limit);
uint64_t world_between(struct world *world, uint64_t low, uint64_t high); /* inclusive */
bool world_chance(struct world *world, double probability);
/* Around `mean`, now and then ten times as long: what queues do. */
uint64_t world_heavy_tail(struct world *world, uint64_t mean);

/* --- what is seen --- */
void world_trace(struct world *world, const char *format, ...) PRINTF_LIKE(2, 3);
/* The first failure of a run is kept and ends it. */
void world_fail(struct world *world, const char *invariant, const char *format, ...)
    PRINTF_LIKE(3, 4);
void world_print_last(const struct world *world, FILE *out);

#endif
