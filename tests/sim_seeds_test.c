/* Seeds that nobody has tuned to: five hundred drawn anew at each run, and those that failed once
 * (tests/seeds.txt). */
#include "base/memory.h"
#include "base/random.h"
#include "sim/faults.h"
#include "tests/test.h"

static void run(uint64_t first, uint64_t count) {
    struct faults_options options = {.first = first, .count = count, .shrink = true};
    struct faults_summary summary;
    faults_run(&options, stdout, &summary); /* tells how to replay the one that fails */
    if (summary.failures > 0)
        test_failed(__FILE__, __LINE__,
                    "seed %llu broke %s. Once its cause is fixed, add it to tests/seeds.txt",
                    (unsigned long long)summary.first_failure, summary.invariant);
    CHECK_EQUAL(summary.seeds, count);
}

TEST_WITHIN(no_invariant_breaks_in_federations_that_nobody_has_seen_before, 500000) {
    uint64_t random,
        count = getenv("ATOLL_TEST_SLOWDOWN") ? 40 : 500; /* fewer where a sanitizer watches */
    random_system(&random, sizeof random);
    uint64_t first = 10000000 + random % 1000000000;
    printf("first seed %llu, drawn at random; the same again: atoll-sim faults --first %llu "
           "--seeds %llu\n",
           (unsigned long long)first, (unsigned long long)first, (unsigned long long)count);
    run(first, count);
}

TEST_WITHIN(seeds_that_failed_once_fail_no_more, 400000) {
    char line[512];
    uint64_t seeds = 0, last = 0;
    snprintf(line, sizeof line, "%s/tests/seeds.txt", test_root());
    FILE *list = fopen(line, "r");
    CHECK(list != NULL);
    while (fgets(line, sizeof line, list)) {
        if (*line == '#') continue;
        char *end;
        unsigned long long seed = strtoull(line, &end, 10);
        if (end == line || end[0] != ' ' || !strstr(end, ": "))
            test_failed(__FILE__, __LINE__, "tests/seeds.txt: no seed with its reason: %.100s",
                        line);
        CHECK(seed > last); /* rising, each once */
        last = seed;
        run(seed, 1);
        seeds++;
    }
    fclose(list);
    CHECK(seeds >= 10);
}
