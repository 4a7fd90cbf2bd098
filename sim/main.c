/* atoll-sim: many sites on one machine, on simulated clocks, networks and disks, with the real state machines. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/options.h"
#include "sim/faults.h"

struct settings {
    uint64_t seed, seeds, first;
    bool trace, hashes;
    int plant;
};

static const struct option table[] = {
    {"seed", OPTION_U64, OPTION_FIELD(struct settings, seed), .help = "Run this seed alone."},
    {"seeds", OPTION_U64, OPTION_FIELD(struct settings, seeds), .fallback = "200", .min = "1", .help = "Run so many seeds."},
    {"first", OPTION_U64, OPTION_FIELD(struct settings, first), .fallback = "1", .min = "1", .help = "The first of them."},
    {"trace", OPTION_BOOL, OPTION_FIELD(struct settings, trace), .help = "Print every event."},
    {"hashes", OPTION_BOOL, OPTION_FIELD(struct settings, hashes), .help = "Print the hash of each seed's trace."},
    {"plant", OPTION_ENUM, OPTION_FIELD(struct settings, plant), .fallback = "none", .choices = plant_names,
     .help = "Plant a bug in the simulated shells, to see it found."},
    {0}};

static int run_faults(struct options *options, void *values) {
    const struct settings *settings = values;
    (void)options;
    struct faults_options wanted = {.first = settings->seed ? settings->seed : settings->first,
                                    .count = settings->seed ? 1 : settings->seeds,
                                    .plant = (enum plant)settings->plant,
                                    .trace = settings->trace,
                                    .hashes = settings->hashes};
    struct faults_summary summary;
    faults_run(&wanted, stdout, &summary);
    return summary.failures ? 1 : 0;
}

static const struct command faults = {
    .name = "faults",
    .summary = "federations under crashes, partitions, losses and lies, checked against the invariants",
    .examples = "atoll-sim faults --seeds 1000\natoll-sim faults --seed 7 --trace",
    .options = table,
    .run = run_faults};
static const struct command *const children[] = {&faults, NULL};
static const struct command program = {
    .name = "atoll-sim", .summary = "simulates federations on one machine", .children = children, .version = "1"};

int main(int argc, char **argv) {
    struct settings settings = {0};
    struct options *options = options_create(&program, &settings);
    int code = options_start(options, &(struct options_setup){.argc = argc, .argv = argv});
    if (code == OPTIONS_GO_ON) code = options_command(options)->run(options, &settings);
    options_destroy(options);
    return code;
}
