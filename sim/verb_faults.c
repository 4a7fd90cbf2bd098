/* The command line of `atoll-sim faults`. */
#include <stdio.h>

#include "base/bytes.h"
#include "base/memory.h"
#include "base/random.h"
#include "sim/faults.h"
#include "sim/mutants.h"
#include "sim/verbs.h"

#define FIELD(field_) SETTING_FIELD(struct sim_settings, faults.field_)

static const struct setting table[] = {
    {"seed", SETTING_COUNT, FIELD(seed), .help = "Run this seed alone."},
    {"seeds", SETTING_COUNT, FIELD(seeds), .fallback = "200", .min = "1",
     .help = "Number of seeds to run."},
    {"first", SETTING_COUNT, FIELD(first), .fallback = "0",
     .help = "The first seed; 0: drawn at random, and printed."},
    {"sites", SETTING_COUNT, FIELD(sites), .fallback = "0", .max = "16",
     .help = "Number of sites; 0: each seed draws it."},
    {"trace", SETTING_BOOL, FIELD(trace), .help = "Print every event."},
    {"hashes", SETTING_BOOL, FIELD(hashes), .help = "Print the hash of each seed's trace."},
    {"coverage", SETTING_BOOL, FIELD(coverage),
     .help = "Print every mark with its count; one at zero is a failure, unless the first seed is "
             "drawn."},
    {"shrink", SETTING_BOOL, FIELD(shrink), .fallback = "true",
     .help = "Reduce a failing seed to the faults and sites that it needs to fail."},
    {"keep", SETTING_TEXT, FIELD(keep), .value_name = "LIST",
     .help = "The only faults to inject, as 3,7-9; 0: none."},
    {"absent", SETTING_TEXT, FIELD(absent), .value_name = "LIST",
     .help = "Sites that never appear."},
    {"mutant", SETTING_TEXT, FIELD(mutant), .value_name = "NAME",
     .help = "The bug that is active in atoll-sim-mutated; list names them all."},
    {0}};

static bool read_list(const char *text, const char *option, struct buffer *out) {
    bool none = text && text[0] == '0' && !text[1];
    if (!text || none || faults_list_parse(text, out)) return true;
    fprintf(stderr, "--%s: \"%s\" is not a rising list such as 3,7-9\n", option, text);
    return false;
}

/* Above ten million: the seeds that everybody has run by hand lie below. */
static uint64_t drawn_first(uint64_t count) {
    uint64_t random;
    random_system(&random, sizeof random);
    uint64_t first = 10000000 + random % 1000000000;
    printf("first seed %llu, drawn at random; the same again: --first %llu --seeds %llu\n",
           (unsigned long long)first, (unsigned long long)first, (unsigned long long)count);
    fflush(stdout);
    return first;
}

static int run_them(const struct sim_settings *values, struct buffer *kept, struct buffer *absent) {
    uint64_t none = 0;
    struct world_filter filter = {0};
    if (values->faults.keep)
        filter.kept = kept->size ? (const uint64_t *)(const void *)kept->data : &none;
    filter.kept_count = kept->size / sizeof(uint64_t);
    for (size_t i = 0; i < absent->size / sizeof(uint64_t); i++) {
        uint64_t site = ((const uint64_t *)(const void *)absent->data)[i];
        if (site < 32) filter.absent |= 1u << site;
    }
    bool drawn = !values->faults.seed && !values->faults.first;
    uint64_t first = values->faults.seed ? values->faults.seed : values->faults.first;
    if (drawn) first = drawn_first(values->faults.seeds);
    struct faults_options wanted = {.first = first,
                                    .count = values->faults.seed ? 1 : values->faults.seeds,
                                    .sites = (uint32_t)values->faults.sites,
                                    .filter = &filter,
                                    .mutant = values->faults.mutant,
                                    .trace = values->faults.trace,
                                    .hashes = values->faults.hashes,
                                    .shrink = values->faults.shrink && !values->faults.trace,
                                    .coverage = values->faults.coverage};
    struct faults_summary summary;
    faults_run(&wanted, stdout, &summary);
    return summary.failures || (wanted.coverage && summary.missing && !drawn) ? 1 : 0;
}

static int run(struct options *options, void *context) {
    const struct sim_settings *values = context;
    struct buffer kept = {0}, absent = {0};
    int code = 2;
    const char *why = "beside --seed, which runs that one alone";
    struct error error = {0};
    if (options_refuse_idle(options, "seeds", values->faults.seed != 0, why, &error) != OK ||
        options_refuse_idle(options, "first", values->faults.seed != 0, why, &error) != OK) {
        fprintf(stderr, "atoll-sim faults: %s\n", error.message);
        return code;
    }
    if (values->faults.mutant && !mutant_choose(values->faults.mutant, stderr)) return 2;
    if (read_list(values->faults.keep, "keep", &kept) &&
        read_list(values->faults.absent, "absent", &absent))
        code = run_them(values, &kept, &absent);
    buffer_deinit(&kept);
    buffer_deinit(&absent);
    return code;
}

const struct command verb_faults = {
    .name = "faults",
    .summary =
        "federations under crashes, partitions, losses and lies, checked against the invariants",
    .examples = "atoll-sim faults --seeds 1000\natoll-sim faults --seed 7 --trace\natoll-sim "
                "faults --seed 7 --keep 3,12 --absent 2",
    .options = table,
    .run = run};
