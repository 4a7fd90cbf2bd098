/* `atoll-sim faults` (sim/faults.h): runs seeds one after another, adds up what they met, prints a
 * failure and its replay command. */
#include "sim/faults.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "coordinator/coordinator_state.h"
#include "fed/receipt.h"
#include "sim/byzantine_coordinator.h"
#include "sim/byzantine_site.h"
#include "sim/hostile_input.h"
#include "sim/marks.h"
#include "sim/shrink.h"

static unsigned long long llu(uint64_t value) { return (unsigned long long)value; }

/* Every field of a tally is a count. */
static void add(struct tally *sum, const struct tally *more) {
    uint64_t *to = (uint64_t *)(void *)sum;
    const uint64_t *from = (const uint64_t *)(const void *)more;
    for (size_t i = 0; i < sizeof *sum / sizeof *to; i++) to[i] += from[i];
}

bool faults_list_parse(const char *text, struct buffer *out) {
    uint64_t last = 0;
    while (*text) {
        char *end;
        if (*text < '0' || *text > '9') return false;
        uint64_t low = strtoull(text, &end, 10), high = low;
        if (end == text || low <= last) return false;
        if (*end == '-') {
            text = end + 1;
            high = strtoull(text, &end, 10);
            if (end == text || high < low || high - low > 1000000) return false;
        }
        for (last = low; last <= high; last++) buffer_append(out, &last, sizeof last);
        last = high;
        if (*end && *end != ',') return false;
        text = *end ? end + 1 : end;
    }
    return true;
}

/* ---- what a run put to the test -------------------------------------------------------------- */

/* In how many seeds each count was above zero: one that is so in few of them is at zero as soon as
 * draws change. */
struct seen {
    struct tally seeds;
    uint64_t *mark_seeds, *mark_counts; /* [marks_total()]; counts: up to the last seed */
};

static void see(struct seen *seen, const struct tally *tally) {
    uint64_t *to = (uint64_t *)(void *)&seen->seeds;
    const uint64_t *from = (const uint64_t *)(const void *)tally;
    struct mark_count mark;
    for (size_t i = 0; i < sizeof *tally / sizeof *to; i++) to[i] += from[i] > 0;
    for (uint64_t i = 0; marks_at(i, &mark); i++) {
        seen->mark_seeds[i] += mark.count > seen->mark_counts[i];
        seen->mark_counts[i] = mark.count;
    }
}

static void print_named(FILE *out, const char *what, const char *name, uint64_t count,
                        uint64_t seeds, uint64_t *missing) {
    if (count == 0) ++*missing;
    if (out)
        fprintf(out, "%-10s %-44s %10llu in %5llu seeds%s\n", what, name, llu(count), llu(seeds),
                count ? "" : "   <- never");
}

static uint64_t print_coverage(const struct tally *t, const struct seen *seen, FILE *out) {
    const struct tally *s = &seen->seeds;
    static const char *const orders[] = {
        [ORDER_PAUSE] = "pause",      [ORDER_RESUME] = "resume", [ORDER_STOP] = "stop",
        [ORDER_INVITE] = "invite",    [ORDER_REVOKE] = "revoke", [ORDER_RULE] = "rule",
        [ORDER_SNAPSHOT] = "snapshot"};
    uint64_t missing = 0;
    struct mark_count mark;
    for (unsigned i = 0; i < FAULT_KIND_COUNT; i++)
        print_named(out, "fault", fault_names[i], t->faults[i], s->faults[i], &missing);
    for (unsigned i = 0; i < BYZANTINE_COUNT; i++)
        print_named(out, "lie", byzantine_site_names[i], t->lies[i], s->lies[i], &missing);
    for (unsigned i = 0; i < FALSEHOOD_COUNT; i++)
        print_named(out, "falsehood", byzantine_coordinator_names[i], t->probes[i], s->probes[i],
                    &missing);
    print_named(out, "restart", "after a damaged snapshot", t->snapshots_passed_over,
                s->snapshots_passed_over, &missing);
    print_named(out, "join", "with an invitation that was stolen", t->robbed, s->robbed, &missing);
    for (unsigned i = 0; i < HOSTILE_COUNT; i++)
        print_named(out, "malformed", hostile_input_name((enum hostile_input_kind)i),
                    t->hostile_input[i], s->hostile_input[i], &missing);
    for (unsigned i = 1; i < REFUSAL_COUNT; i++)
        /* the one takes two living processes with one key, the other an observer */
        if (i != REFUSED_COPY && i != REFUSED_OBSERVER)
            print_named(out, "refusal", refusal_name(i), t->refusals[i], s->refusals[i], &missing);
    for (unsigned i = ORDER_PAUSE; i <= ORDER_SNAPSHOT; i++)
        print_named(out, "order", orders[i], t->orders[i], s->orders[i], &missing);
    for (uint64_t i = 0; marks_at(i, &mark); i++)
        print_named(out, "mark", mark.name, mark.count, seen->mark_seeds[i], &missing);
    return missing;
}

static void print_summary(const struct faults_summary *s, FILE *out) {
    const struct tally *t = &s->tally;
    uint64_t faults = 0, lies = 0;
    for (unsigned i = 0; i < FAULT_KIND_COUNT; i++) faults += t->faults[i];
    for (unsigned i = 0; i < BYZANTINE_COUNT; i++) lies += t->lies[i];
    fprintf(out,
            "seeds=%llu failures=%llu simulated_days=%.2f events=%llu messages=%llu faults=%llu "
            "lies=%llu "
            "acknowledged=%llu contributions=%llu versions=%llu entries_followed=%llu joins=%llu "
            "restores=%llu advances=%llu "
            "snapshots_loaded=%llu payloads_supplied=%llu payloads_refetched=%llu "
            "contributions_dropped=%llu "
            "residual_checks=%llu restarts_of_sites=%llu restarts_of_the_coordinator=%llu\n",
            llu(s->seeds), llu(s->failures), (double)t->simulated_ms / 86400e3, llu(t->events),
            llu(t->messages), llu(faults), llu(lies), llu(t->receipts), llu(t->contributions),
            llu(t->steps), llu(t->entries), llu(t->joins), llu(t->restores), llu(t->advances),
            llu(t->snapshots_loaded), llu(t->supplied), llu(t->refetched), llu(t->dropped),
            llu(t->residual_checks), llu(t->halts), llu(t->stops));
    fprintf(out, "faults:");
    for (unsigned i = 0; i < FAULT_KIND_COUNT; i++)
        fprintf(out, " %s=%llu", fault_names[i], llu(t->faults[i]));
    fprintf(out, "\nrefused:");
    for (unsigned i = 1; i < REFUSAL_COUNT; i++)
        fprintf(out, " %s=%llu", refusal_name(i), llu(t->refusals[i]));
    fprintf(out, "\nhash=%016llx\n", llu(s->hash));
}

/* ---- a seed that fails ----------------------------------------------------------------------- */

static void print_list(FILE *out, const uint64_t *numbers, size_t count) {
    for (size_t i = 0; i < count; i++) {
        size_t last = i;
        while (last + 1 < count && numbers[last + 1] == numbers[last] + 1) last++;
        fprintf(out, "%s%llu", i ? "," : "", llu(numbers[i]));
        if (last > i) fprintf(out, "-%llu", llu(numbers[last]));
        i = last;
    }
    if (count == 0) fprintf(out, "0");
}

static void print_replay(const struct faults_options *options, const struct federation_options *run,
                         const struct shrunk *shrunk, FILE *out) {
    fprintf(out, "    replay: atoll-sim faults --seed %llu --trace", llu(run->seed));
    if (options->sites) fprintf(out, " --sites %u", options->sites);
    if (options->mutant) fprintf(out, " --mutant %s", options->mutant);
    if (shrunk) {
        fprintf(out, " --keep ");
        print_list(out, (const uint64_t *)(const void *)shrunk->kept.data,
                   shrunk->kept.size / sizeof(uint64_t));
        uint64_t absent[32];
        size_t count = 0;
        for (uint32_t site = 1; site < 32; site++) {
            if (shrunk->absent >> site & 1) absent[count++] = site;
        }
        if (count > 0) fprintf(out, " --absent ");
        if (count > 0) print_list(out, absent, count);
    }
    fprintf(out, "\n");
}

static void print_failure(const struct faults_options *options,
                          const struct federation_options *run,
                          const struct federation_result *failed, FILE *out) {
    struct shrunk shrunk;
    struct federation_options smaller = *run;
    struct federation_result result;
    fprintf(out, "seed %llu broke %s: %s\n    %s\n", llu(run->seed), failed->invariant,
            failed->failure, failed->scenario);
    print_replay(options, run, NULL, out);
    if (!options->shrink) return;
    shrink(run, failed, &shrunk);
    uint64_t none = 0;
    struct world_filter filter = {
        shrunk.kept.size ? (const uint64_t *)(const void *)shrunk.kept.data : &none,
        shrunk.kept.size / sizeof(uint64_t), shrunk.absent};
    smaller.filter = &filter;
    smaller.report = out;
    fprintf(out, "    %zu of its %zu faults break it alike (%u tries); the end of that run:\n",
            filter.kept_count, failed->injected_count, shrunk.tries);
    federation_run(&smaller, &result);
    for (size_t i = 0; i < result.injected_count; i++) {
        const struct fault_record *fault = &result.injected[i];
        fprintf(out, "    fault %llu: %s at %.6f s, process %u\n", llu(fault->number),
                fault_names[fault->kind], (double)fault->at * 1e-6, fault->process);
    }
    print_replay(options, run, &shrunk, out);
    federation_result_deinit(&result);
    shrunk_deinit(&shrunk);
}

/* ---- many seeds ------------------------------------------------------------------------------ */

static struct { /* what is being run, for on_abort */
    const struct faults_options *options;
    uint64_t seed;
    FILE *out;
} running;

/* An assertion of the program under test has failed, and said so: which seed it was. Called on the
 * thread that failed, from abort(); a process whose state contradicts itself is not gone on with,
 * so such a seed is not made smaller. */
static void on_abort(int signal) {
    (void)signal;
    struct federation_options run = {.seed = running.seed};
    fprintf(running.out, "seed %llu broke assertion: see the line above\n", llu(running.seed));
    print_replay(running.options, &run, NULL, running.out);
    fflush(running.out);
}

static void run_seed(const struct faults_options *options, uint64_t seed, FILE *out,
                     struct faults_summary *summary, struct seen *seen) {
    struct federation_options run = {
        .seed = seed, .sites = options->sites, .filter = options->filter, .trace = options->trace};
    struct federation_result result;
    running.seed = seed;
    federation_run(&run, &result);
    summary->seeds++;
    summary->hash = random_hash(summary->hash, result.trace_hash);
    add(&summary->tally, &result.tally);
    see(seen, &result.tally);
    if (out && options->hashes)
        fprintf(out, "seed=%llu hash=%016llx\n", llu(seed), llu(result.trace_hash));
    if (result.failed) {
        summary->failures++;
        summary->first_failure = seed;
        snprintf(summary->invariant, sizeof summary->invariant, "%s", result.invariant);
        if (out) print_failure(options, &run, &result, out);
    }
    federation_result_deinit(&result);
}

static double cpu_seconds(void) {
    struct timespec spent;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spent);
    return (double)spent.tv_sec + (double)spent.tv_nsec * 1e-9;
}

void faults_run(const struct faults_options *options, FILE *out, struct faults_summary *summary) {
    double start = cpu_seconds();
    struct seen seen = {.mark_seeds = xcalloc(marks_total() + 1, sizeof(uint64_t)),
                        .mark_counts = xcalloc(marks_total() + 1, sizeof(uint64_t))};
    memset(summary, 0, sizeof *summary);
    marks_clear();
    running.options = options;
    running.out = out ? out : stderr;
    void (*before)(int) = signal(SIGABRT, on_abort);
    for (uint64_t seed = options->first;
         seed < options->first + options->count && summary->failures == 0; seed++)
        run_seed(options, seed, out, summary, &seen);
    signal(SIGABRT, before);
    summary->missing = print_coverage(&summary->tally, &seen, options->coverage ? out : NULL);
    free(seen.mark_seeds);
    free(seen.mark_counts);
    if (!out) return;
    print_summary(summary, out);
    double spent = cpu_seconds() - start;
    fprintf(out, "cpu_s=%.1f simulated_s_per_cpu_s=%.0f\n", spent,
            (double)summary->tally.simulated_ms / 1e3 / (spent + 1e-9));
    if (options->coverage && summary->missing)
        fprintf(out, "%llu marks were never passed\n", llu(summary->missing));
}
