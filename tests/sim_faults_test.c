/* Federations under simulated faults: no invariant breaks, runs are reproducible, and bugs of known kinds are found. */
#include "fed/receipt.h"
#include "sim/faults.h"
#include "tests/test.h"

enum { SEEDS = 200 };

static struct faults_summary run(uint64_t first, uint64_t count, enum plant plant, FILE *out) {
    struct faults_options options = {.first = first, .count = count, .plant = plant};
    struct faults_summary summary;
    faults_run(&options, out, &summary);
    return summary;
}

/* What the seeds put to the test is counted, so that it cannot silently become nothing. */
static void check_coverage(const struct tally *tally) {
    CHECK(tally->crashes > 100);
    CHECK(tally->write_crashes > 50);
    CHECK(tally->partitions > 50);
    CHECK(tally->messages_lost > 500);
    CHECK(tally->resets > 100);
    CHECK(tally->messages_doubled > 100);
    CHECK(tally->malformed > 200);
    CHECK(tally->contributions > 2000);
    CHECK(tally->steps > 1000);
    CHECK(tally->restores > 50);
    CHECK(tally->advances > 100);
    CHECK(tally->snapshots_loaded > 10);
    CHECK(tally->residual_checks > 1000);
    static const enum refusal expected[] = {REFUSED_REBASE,    REFUSED_REVOKED, REFUSED_MALFORMED, REFUSED_NONFINITE,
                                            REFUSED_DUPLICATE, REFUSED_PAUSED,  REFUSED_BUSY,      REFUSED_SIGNATURE,
                                            REFUSED_SEQUENCE,  REFUSED_LAYOUT,  REFUSED_BASE,      REFUSED_STOPPED,
                                            REFUSED_DIGEST,    REFUSED_NORM,    REFUSED_EXPIRED,   REFUSED_UNKNOWN_SITE};
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        if (tally->refusals[expected[i]] == 0) test_failed(__FILE__, __LINE__, "no %s refusal", refusal_name(expected[i]));
    }
}

TEST_WITHIN(no_invariant_breaks_in_two_hundred_federations, 180000) {
    struct faults_summary summary = run(1, SEEDS, PLANT_NONE, stdout);
    CHECK_EQUAL(summary.first_failure, 0);
    CHECK_EQUAL(summary.seeds, SEEDS);
    check_coverage(&summary.tally);
}

TEST(the_same_seed_is_the_same_run) {
    struct faults_summary once = run(1, 8, PLANT_NONE, NULL), again = run(1, 8, PLANT_NONE, NULL);
    CHECK_EQUAL(once.failures, 0);
    CHECK(once.hash == again.hash);
    CHECK_EQUAL(once.tally.events, again.tally.events);
}

TEST(another_seed_is_another_run) { CHECK(run(1, 1, PLANT_NONE, NULL).hash != run(2, 1, PLANT_NONE, NULL).hash); }

static void check_found(enum plant plant) {
    struct faults_summary summary = run(1, SEEDS, plant, NULL);
    if (summary.first_failure == 0) test_failed(__FILE__, __LINE__, "%s is not found in %d seeds", plant_names[plant], SEEDS);
}

TEST(a_receipt_before_the_entry_is_durable_is_found) { check_found(PLANT_ACK_BEFORE_DURABLE); }
TEST(a_step_applied_twice_after_a_restart_is_found) { check_found(PLANT_APPLY_TWICE); }
TEST(a_sequence_entered_twice_is_found) { check_found(PLANT_SKIP_SEQUENCE_CHECK); }
TEST(a_refused_messages_mass_that_is_lost_is_found) { check_found(PLANT_DROP_RESIDUAL); }
TEST(a_rebase_that_was_not_done_is_found) { check_found(PLANT_FORGET_REBASE); }
TEST(a_delta_from_an_older_base_than_it_says_is_found) { check_found(PLANT_STALE_OFF_BY_ONE); }
TEST(a_message_that_is_sent_before_it_is_spooled_is_found) { check_found(PLANT_UPLOAD_BEFORE_SPOOL); }
TEST(error_feedback_from_before_the_message_is_found) { check_found(PLANT_OLD_FEEDBACK); }
TEST(a_contribution_behind_its_sites_revocation_is_found) { check_found(PLANT_LOSE_REVOCATION); }
TEST(a_payload_deleted_under_an_accepted_contribution_is_found) { check_found(PLANT_DELETE_SHARED_PAYLOAD); }
TEST(an_upload_that_is_never_resumed_is_found) { check_found(PLANT_FORGET_RESUME); }
