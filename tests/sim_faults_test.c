/* Federations under simulated faults, of seeds that are always the same (sim_seeds_test.c has
 * others): no invariant breaks, nothing that should be tried stays untried, runs are reproducible,
 * a run that fails is made smaller, and bugs that are put in on purpose are found. */
#include "base/memory.h"
#include "sim/faults.h"
#include "sim/shrink.h"
#include "tests/test.h"

static struct faults_summary run(uint64_t first, uint64_t count, const struct world_filter *filter,
                                 FILE *out) {
    struct faults_options options = {
        .first = first, .count = count, .filter = filter, .coverage = out != NULL, .shrink = true};
    struct faults_summary summary;
    faults_run(&options, out, &summary);
    return summary;
}

/* Fewer where a sanitizer watches, and then not every rare thing comes to pass. */
static bool is_slow(void) { return getenv("ATOLL_TEST_SLOWDOWN") != NULL; }

TEST_WITHIN(no_invariant_breaks_in_five_hundred_federations_and_every_mark_is_passed, 400000) {
    uint64_t seeds = is_slow() ? 40 : 500;
    struct faults_summary summary = run(1, seeds, NULL, stdout);
    CHECK_EQUAL(summary.first_failure, 0);
    CHECK_EQUAL(summary.seeds, seeds);
    if (is_slow()) return;
    CHECK_EQUAL(summary.missing, 0);
    CHECK(summary.tally.receipts > 10000);
    CHECK(summary.tally.residual_checks > 5000);
}

TEST_WITHIN(the_same_seed_is_the_same_run, 200000) {
    struct faults_summary once = run(1, 8, NULL, NULL), again = run(1, 8, NULL, NULL);
    CHECK_EQUAL(once.failures, 0);
    CHECK(once.hash == again.hash);
    CHECK_EQUAL(once.tally.events, again.tally.events);
    CHECK_EQUAL(once.tally.messages, again.tally.messages);
}

TEST_WITHIN(another_seed_is_another_run, 200000) {
    CHECK(run(1, 1, NULL, NULL).hash != run(2, 1, NULL, NULL).hash);
}

TEST_WITHIN(what_is_left_out_of_a_run_does_not_happen, 200000) {
    static const uint64_t none[1];
    struct world_filter calm = {.kept = none, .kept_count = 0};
    struct federation_options options = {.seed = 3, .filter = &calm};
    struct federation_result result;
    federation_run(&options, &result);
    CHECK(!result.failed);
    CHECK_EQUAL(result.injected_count, 0);
    federation_result_deinit(&result);
    options.filter = NULL;
    federation_run(&options, &result);
    CHECK(result.injected_count > 2);
    uint64_t first = result.injected[0].number;
    federation_result_deinit(&result);
    struct world_filter one = {.kept = &first, .kept_count = 1};
    options.filter = &one;
    federation_run(&options, &result);
    CHECK_EQUAL(result.injected_count, 1);
    CHECK_EQUAL(result.injected[0].number, first);
    federation_result_deinit(&result);
}

TEST_WITHIN(a_site_that_is_absent_never_joins, 200000) {
    struct federation_options options = {.seed = 3, .sites = 4};
    struct federation_result all, some;
    struct world_filter filter = {.absent = 1u << 1};
    federation_run(&options, &all);
    options.filter = &filter;
    federation_run(&options, &some);
    CHECK(!all.failed);
    CHECK(!some.failed);
    CHECK(some.tally.joins < all.tally.joins);
    federation_result_deinit(&all);
    federation_result_deinit(&some);
}

TEST(a_list_of_faults_is_read_and_nonsense_is_not) {
    struct buffer list = {0};
    CHECK(faults_list_parse("3,7-9,40", &list));
    const uint64_t wanted[] = {3, 7, 8, 9, 40};
    CHECK_EQUAL(list.size, sizeof wanted);
    CHECK_MEMORY(list.data, wanted, sizeof wanted);
    static const char *const bad[] = {"x",  "3,",   "3,3", "9-7", "3-",
                                      "-3", "1,2x", "0",   "5,4", "1-99999999"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        list.size = 0;
        bool read = faults_list_parse(bad[i], &list);
        if (read && strcmp(bad[i], "3,") != 0)
            test_failed(__FILE__, __LINE__, "\"%s\" is read", bad[i]);
    }
    buffer_deinit(&list);
}

/* ---- mutants: a sample; `make sim-mutants` finds them all -------------------------------- */

/* What atoll-sim-mutated says, with this bug active. */
static void find(const char *mutant, const char *arguments, char *out, size_t size) {
    char command[1024];
    const char *programs = getenv("ATOLL_BIN");
    snprintf(command, sizeof command, "'%s/atoll-sim-mutated' faults --mutant %s %s 2>&1",
             programs ? programs : "build/release/bin", mutant, arguments);
    FILE *pipe = popen(command, "r");
    CHECK(pipe != NULL);
    size_t got = fread(out, 1, size - 1, pipe);
    out[got] = '\0';
    CHECK(pclose(pipe) != 0); /* it fails */
}

static void check_found(const char *mutant, const char *invariant) {
    static char out[65536];
    char wanted[64];
    find(mutant, "--first 1 --seeds 1000 --no-shrink", out, sizeof out);
    snprintf(wanted, sizeof wanted, " broke %s:", invariant);
    if (!strstr(out, wanted))
        test_failed(__FILE__, __LINE__, "%s: no \"%s\" in:\n%.300s", mutant, wanted, out);
}

TEST_WITHIN(a_receipt_before_the_entry_is_durable_is_found, 200000) {
    check_found("receipt_before_commit", "I1");
}
TEST_WITHIN(a_rebase_that_was_not_done_is_found, 200000) {
    check_found("rebase_forgotten", "follow");
}
TEST_WITHIN(a_refused_messages_mass_that_is_lost_is_found, 200000) {
    check_found("residual_dropped", "mass");
}
TEST_WITHIN(a_state_that_contradicts_itself_ends_the_program_and_the_seed_is_named, 200000) {
    static const char *const mutants[] = {"place_given_back_twice", "commit_kept",
                                          "stray_answer_taken"};
    for (size_t i = 0; i < COUNT_OF(mutants); i++) {
        static char out[65536];
        find(mutants[i], "--first 1 --seeds 1000 --no-shrink", out, sizeof out);
        CHECK_CONTAINS(out, "assertion failed: ");
        CHECK_CONTAINS(out, " broke assertion:");
        CHECK_CONTAINS(out, "replay: atoll-sim faults --seed ");
    }
}
TEST_WITHIN(an_epoch_that_nobody_checks_is_found, 200000) {
    check_found("epoch_unchecked", "admission");
}

TEST_WITHIN(a_run_that_fails_is_told_with_the_few_faults_that_it_takes, 200000) {
    static char out[65536];
    find("residual_dropped", "--first 1 --seeds 1000", out, sizeof out);
    CHECK(strstr(out, "break it alike"));
    char *replay = strstr(out, "--keep ");
    CHECK(replay != NULL);
    unsigned long long seed = strtoull(strstr(out, "--seed ") + 7, NULL, 10);
    char arguments[512];
    snprintf(arguments, sizeof arguments, "--no-shrink --seed %llu %.*s", seed,
             (int)strcspn(replay, "\n"), replay);
    find("residual_dropped", arguments, out, sizeof out);
    CHECK(strstr(out, " broke mass:"));
}
