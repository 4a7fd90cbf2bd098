/* How long a plan takes, and how much memory: 1,000 and 10,000 sites for a day. Bars: 1,000 in 60
 * s, alone and with the advice that `atoll-sim plan` gives by default; 10,000 in 10 minutes and 4
 * GiB. Exit code 1 where one is missed.
 *     make bench-plan        or: build/release/bench/plan [SITES ...] */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "plan/plan.h"

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static bool within(const char *what, double value, double bar, const char *unit) {
    if (bar <= 0) return true;
    printf("    %-12s %8.1f %s   bar %.0f: %s\n", what, value, unit, bar,
           value <= bar ? "kept" : "MISSED");
    return value <= bar;
}

/* Bars of what has one; 0: none. */
static double seconds_bar(unsigned sites) { return sites == 1000 ? 60 : sites == 10000 ? 600 : 0; }
static double memory_bar(unsigned sites) { return sites == 10000 ? 4096 : 0; }

static int run(unsigned sites) {
    char text[1024];
    struct topology *topology = NULL;
    struct error error = {0};
    struct plan_result result;
    snprintf(
        text, sizeof text,
        "duration: 24h\nmodel: {parameters: 1B}\nrun: {inner_steps: %u, quorum: 64, grace: 30s}\n"
        "coordinator: {up: 400Gbit/s, down: 100Gbit/s, uploads: 256, cores: 64}\n"
        "defaults: {decode: 0.05ns, spread: 20%%, failures: {every: 72h, lasts: 10m}, link: "
        "{outages: {every: 24h, lasts: 1m}}}\n"
        "sites:\n  - {name: a, count: %u, step: 1s, link: {up: 100Mbit/s, down: 500Mbit/s, rtt: "
        "80ms, window: 16MB}}\n"
        "  - {name: b, count: %u, step: 1.2s, link: {up: 50Mbit/s, down: 300Mbit/s, rtt: 150ms, "
        "window: 16MB}}\n",
        sites > 2000 ? 2000 : 600, sites / 2, sites - sites / 2);
    if (topology_parse(bytes_of(text, strlen(text)), "bench", &topology, &error) != OK) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    double begin = now();
    plan_run(topology, NULL, 0, 1, &result);
    double seconds = now() - begin;
    struct plan_advice advice;
    if (sites <= 1000) plan_advise(topology, 1, &result, &advice);
    double advised = now() - begin, processor = (double)clock() / CLOCKS_PER_SEC;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("%u sites x 24 h: %.1f s, %.0f MiB; %llu events, %llu contributions, busy %.2f %%\n",
           sites, seconds, (double)usage.ru_maxrss / 1024, (unsigned long long)result.events,
           (unsigned long long)result.contributions, 100 * result.busy);
    printf("    %-12s %8.1f s of a processor so far\n", "took", processor);
    bool kept = within("plan", seconds, seconds_bar(sites), "s");
    if (sites <= 1000) kept &= within("with advice", advised, seconds_bar(sites), "s");
    kept &= within("memory", (double)usage.ru_maxrss / 1024, memory_bar(sites), "MiB");
    fflush(stdout);
    plan_result_deinit(&result);
    topology_destroy(topology);
    return kept ? 0 : 1;
}

int main(int argc, char **argv) {
    if (argc == 1) return run(1000) | run(10000);
    int code = 0;
    for (int i = 1; i < argc; i++) code |= run((unsigned)strtoul(argv[i], NULL, 10));
    return code;
}
