#include "sim/faults.h"

#include <string.h>

#include "base/memory.h"
#include "fed/receipt.h"

static unsigned long long llu(uint64_t value) { return (unsigned long long)value; }

/* Every field of a tally is a count. */
static void add(struct tally *sum, const struct tally *more) {
    uint64_t *to = (uint64_t *)(void *)sum;
    const uint64_t *from = (const uint64_t *)(const void *)more;
    for (size_t i = 0; i < sizeof *sum / sizeof *to; i++) to[i] += from[i];
}

static void print_summary(const struct faults_summary *s, FILE *out) {
    const struct tally *t = &s->tally;
    fprintf(
        out,
        "seeds=%llu failures=%llu simulated_s=%llu events=%llu messages=%llu lost=%llu resets=%llu doubled=%llu held_back=%llu "
        "partitions=%llu crashes=%llu crashes_behind_a_write=%llu malformed=%llu orders=%llu joins=%llu contributions=%llu "
        "versions=%llu receipts=%llu entries_followed=%llu restores=%llu advances=%llu snapshots_loaded=%llu "
        "residual_checks=%llu refused:",
        llu(s->seeds), llu(s->failures), llu(t->simulated_ms / 1000), llu(t->events), llu(t->messages), llu(t->messages_lost),
        llu(t->resets), llu(t->messages_doubled), llu(t->messages_late), llu(t->partitions), llu(t->crashes),
        llu(t->write_crashes), llu(t->malformed), llu(t->orders), llu(t->joins), llu(t->contributions), llu(t->steps),
        llu(t->receipts), llu(t->entries), llu(t->restores), llu(t->advances), llu(t->snapshots_loaded), llu(t->residual_checks));
    for (unsigned code = 1; code < REFUSAL_COUNT; code++) {
        if (t->refusals[code]) fprintf(out, " %s=%llu", refusal_name(code), llu(t->refusals[code]));
    }
    fprintf(out, " hash=%016llx\n", llu(s->hash));
}

void faults_run(const struct faults_options *options, FILE *out, struct faults_summary *summary) {
    memset(summary, 0, sizeof *summary);
    for (uint64_t seed = options->first; seed < options->first + options->count; seed++) {
        struct federation_result result;
        federation_run(seed, options->plant, options->trace, options->trace ? NULL : out, &result);
        summary->seeds++;
        summary->hash = random_hash(summary->hash, result.trace_hash);
        add(&summary->tally, &result.tally);
        if (out && options->hashes) fprintf(out, "seed=%llu hash=%016llx\n", llu(seed), llu(result.trace_hash));
        if (!result.failed) continue;
        summary->failures++;
        summary->first_failure = seed;
        if (!out) break;
        fprintf(out, "seed %llu broke %s: %s\n    %s\n    replay: atoll-sim faults --seed %llu --trace", llu(seed),
                result.invariant, result.failure, result.scenario, llu(seed));
        if (options->plant) fprintf(out, " --plant %s", plant_names[options->plant]);
        fprintf(out, "\n");
        break;
    }
    if (out) print_summary(summary, out);
}
