/* Rules that follow the sites that are present, or an admin. */
#include "tests/codec_whole.h"
#include "tests/fed_fixture.h"

TEST(a_round_is_of_all_the_sites_that_are_present) {
    struct fixture *f = fixture_open("merge.warmup_steps: 0\n", 5000);
    fixture_sites(f, 8);
    fixture_contribute(f, 1, 0, 0, 0.01f);
    fixture_contribute(f, 2, 0, 0, 0.01f);
    CHECK_EQUAL(fixture_planned_step(f, 0, 1).step.period, 8);
    CHECK_NEAR(fixture_planned_step(f, 0, 1).step.parts[0].scale, 1, 0);
    for (uint32_t site = 3; site <= 6; site++) fixture_presence(f, LEDGER_SITE_AWAY, site);
    struct ledger_entry entry = fixture_planned_step(f, 0, 1);
    CHECK_EQUAL(entry.step.period, 4);
    fixture_presence(f, LEDGER_SITE_BACK, 3); /* what was planned before does not hold after */
    fixture_refused(f, &entry, "the rules give 1 and 5");
    fixture_close(f);
    f = fixture_open("outer: {learning_rate: 0.5, period: 3}\n", 5000); /* named: for all steps */
    fixture_sites(f, 8);
    fixture_contribute(f, 1, 0, 0, 0.01f);
    CHECK_EQUAL(fixture_planned_step(f, 0, 1).step.period, 3);
    CHECK_NEAR(fixture_planned_step(f, 0, 1).step.rate, 0.5, 0);
    fixture_close(f);
}

TEST(the_cap_is_twice_the_most_sites_that_were_present_since_the_base) {
    struct fixture *f = fixture_open("merge.warmup_steps: 0\n", 5000);
    fixture_sites(f, 20);
    CHECK_EQUAL(run_state_staleness_cap(f->run, 0, 0), 40);
    for (uint32_t site = 3; site <= 20; site++) fixture_presence(f, LEDGER_SITE_LEFT, site);
    CHECK_EQUAL(run_state_staleness_cap(f->run, 0, 0), 40); /* they were there at the base */
    for (uint64_t version = 0; version < 2; version++) {
        fixture_contribute(f, 1, 0, version, 0.01f);
        fixture_step(f, 0, 1);
    }
    CHECK_EQUAL(run_state_staleness_cap(f->run, 0, 0), 40);
    CHECK_EQUAL(run_state_staleness_cap(f->run, 0, 1), 16); /* never fewer */
    CHECK_EQUAL(run_state_staleness_cap(f->run, 0, 2), 16);
    fixture_presence(f, LEDGER_SITE_BACK, 3);
    for (uint32_t site = 4; site <= 12; site++) fixture_presence(f, LEDGER_SITE_BACK, site);
    CHECK_EQUAL(run_state_staleness_cap(f->run, 0, 1), 24);
    fixture_close(f);
    f = fixture_open("merge.staleness_cap: 3\n", 5000);
    fixture_sites(f, 20);
    CHECK_EQUAL(run_state_staleness_cap(f->run, 0, 0), 3);
    fixture_close(f);
}

static void changes_its_period(const char *yaml) {
    struct fixture *f = fixture_open(yaml, 5000);
    fixture_sites(f, 3);
    for (uint32_t site = 1; site <= 2; site++) {
        fixture_contribute(f, site, 0, 0, 0.01f);
        fixture_step(f, 0, 1);
    }
    CHECK_EQUAL(f->model.sums[0].count, 2);
    CHECK_EQUAL(f->model.sums[0].period, 3);
    fixture_presence(f, LEDGER_SITE_AWAY, 3);
    fixture_contribute(f, 1, 0, 2, 0.01f);
    CHECK_EQUAL(fixture_planned_step(f, 0, 1).step.period, 2);
    fixture_step(f, 0, 1); /* the third: D is cleared, as it was begun */
    CHECK_EQUAL(f->model.sums[0].count, 0);
    for (uint64_t version = 3; version < 5; version++) {
        fixture_contribute(f, 1, 0, version, 0.01f);
        fixture_step(f, 0, 1);
        CHECK_EQUAL(f->model.sums[0].period, 2);
        CHECK_EQUAL(f->model.sums[0].count, version == 3 ? 1 : 0);
    }
    fixture_close(f);
}

TEST(the_period_is_the_number_of_present_sites_once_the_sum_is_cleared) {
    changes_its_period("outer: {mode: dense}\n");
    changes_its_period("outer: {mode: sparse}\n");
}

TEST(another_rule_holds_for_the_next_step_and_is_checked_as_the_manifest_is) {
    struct fixture *f = fixture_open("merge.warmup_steps: 0\n", 5000);
    fixture_sites(f, 2);
    fixture_contribute(f, 1, 0, 0, 0.01f);
    CHECK_NEAR(fixture_planned_step(f, 0, 1).step.rate, 1, 0);
    fixture_set(f, "outer.learning_rate", "0.5");
    fixture_set(f, "merge.quorum", "7");
    fixture_set(f, "inner.inner_steps", "12");
    CHECK_NEAR(fixture_planned_step(f, 0, 1).step.rate, 0.5, 0);
    CHECK_EQUAL(run_state_manifest(f->run)->merge.quorum, 7);
    CHECK_EQUAL(run_state_inner_steps(f->run), 12);
    fixture_set(f, "inner.learning_rate", "0.0005");
    fixture_set(f, "token_budget", "100000");
    fixture_set(f, "inner.schedule", "cosine");
    CHECK_EQUAL(run_state_manifest(f->run)->inner.schedule, INNER_COSINE);
    struct ledger_entry entry = fixture_rule(f, "inner.decay_tokens", "0");
    fixture_append(f, &entry);
    entry = fixture_rule(f, "token_budget", "0");
    fixture_refused(f, &entry, "needs an end");
    entry = fixture_rule(f, "model.hidden", "64");
    fixture_refused(f, &entry, "holds for the whole run");
    entry = fixture_rule(f, "merge.quorom", "2");
    fixture_refused(f, &entry, "did you mean merge.quorum");
    entry = fixture_rule(f, "merge.quorum", "0");
    fixture_refused(f, &entry, "write a whole number, 1 to 256");
    entry = fixture_rule(f, "merge.quorum", "07");
    fixture_refused(f, &entry, "invalid value");
    entry = fixture_rule(f, "merge.grace", "1000ms");
    fixture_refused(f, &entry, "not in its one form");
    entry = fixture_rule(f, "outer.period", "0");
    fixture_refused(f, &entry, "outer.period");
    fixture_step(f, 0, 1);
    fixture_close(f);
}

/* theta after a step of the last two payloads, in the codecs named, within one round. */
static float *merged(struct fixture *f, const enum codec codecs[static 2], float rate,
                     const float scales[static 2]) {
    size_t count = (size_t)f->parameters;
    float *sum = xcalloc(count, sizeof *sum), *theta = xcalloc(count, sizeof *theta);
    uint16_t *senders = xcalloc(count, sizeof *senders);
    memcpy(theta, f->model.theta, count * sizeof *theta);
    memcpy(sum, f->model.accumulated, count * sizeof *sum);
    memcpy(senders, f->model.senders, count * sizeof *senders);
    const struct codec_round round = {theta, sum, senders};
    for (size_t i = 0; i < 2; i++)
        codec_merge_whole(codecs[i], buffer_bytes(&f->payloads[f->payload_count - 2 + i].bytes),
                          count, scales[i], rate, &round);
    free(sum);
    free(senders);
    return theta;
}

TEST(a_message_is_in_the_codec_of_its_base_version_and_one_step_merges_both) {
    struct fixture *f = fixture_open("merge.warmup_steps: 0\n", 5000);
    struct error why = {0};
    fixture_sites(f, 3);
    fixture_set(f, "codec.kind", "topk2-128");
    struct ledger_entry entry = fixture_rule(f, "codec.kind", "int8");
    fixture_refused(f, &entry, "codec.kind");
    CHECK_EQUAL(run_state_codec(f->run, 0), CODEC_TOPK2_64); /* what is under way is as it was */
    CHECK_EQUAL(run_state_codec(f->run, 1), CODEC_TOPK2_128);
    fixture_contribute(f, 1, 0, 0, 0.01f);
    fixture_step(f, 0, 1);
    float *delta = fixture_delta(f, 0, 0.01f);
    struct bytes payload = fixture_payload_of(f, 0, delta);
    struct contribution c = fixture_contribution(f, 2, 0, 1, payload), read;
    entry = fixture_signed(f, &c, f->keys[2]);
    fixture_refused(f, &entry, "for base version 1");
    fixture_contribute_delta(f, 2, 0, 0, delta);
    fixture_use_codec(f, CODEC_TOPK2_128);
    payload = fixture_payload_of(f, 0, delta);
    c = fixture_contribution(f, 3, 0, 0, payload);
    entry = fixture_signed(f, &c, f->keys[3]);
    fixture_refused(f, &entry, "for base version 0");
    c = fixture_contribution(f, 3, 0, 1, payload);
    CHECK(payload.size > codec_bound(CODEC_TOPK2_64, 5000)); /* it is the new one's bound */
    entry = fixture_signed(f, &c, f->keys[3]);
    struct admission_limits limits = {FIXTURE_NOW, UINT64_MAX};
    CHECK_EQUAL(admission_header(
                    f->run, 3, bytes_of(entry.contribution.header, CONTRIBUTION_HEADER_SIZE),
                    bytes_of(entry.contribution.signature, SIGNATURE_SIZE), &limits, &read, &why),
                ACCEPTED);
    fixture_append(f, &entry);
    struct ledger_entry planned = fixture_planned_step(f, 0, 2);
    const enum codec codecs[] = {CODEC_TOPK2_64, CODEC_TOPK2_128};
    const float scales[] = {planned.step.parts[0].scale, planned.step.parts[1].scale};
    float *wanted = merged(f, codecs, planned.step.rate, scales);
    fixture_step(f, 0, 2);
    for (size_t i = 0; i < 5000; i++) CHECK_NEAR(f->model.theta[i], wanted[i], 1e-7);
    free(wanted);
    free(delta);
    fixture_close(f);
}

TEST(a_message_is_judged_by_the_cap_of_its_base_version) {
    struct fixture *f = fixture_open("merge: {warmup_steps: 0, staleness_cap: 3}\n", 5000);
    fixture_sites(f, 2);
    for (uint64_t version = 0; version < 2; version++) {
        fixture_contribute(f, 1, 0, version, 0.01f);
        fixture_step(f, 0, 1);
    }
    fixture_set(f, "merge.staleness_cap", "9");
    CHECK_EQUAL(run_state_staleness_cap(f->run, 0, 2), 3);
    for (uint64_t version = 2; version < 12; version++) {
        fixture_contribute(f, 1, 0, version, 0.01f);
        fixture_step(f, 0, 1);
    }
    CHECK_EQUAL(run_state_staleness_cap(f->run, 0, 2), 3);
    CHECK_EQUAL(run_state_staleness_cap(f->run, 0, 3), 9);
    CHECK_EQUAL(run_state_staleness(f->run, 0, 3), 9); /* remembered as far back as that */
    uint8_t root[DIGEST_SIZE];
    CHECK(run_state_root_at(f->run, 3, root));
    CHECK(run_state_staleness(f->run, 0, 1) > 3);
    fixture_set(f, "merge.staleness_cap", "1");
    CHECK_EQUAL(run_state_staleness_cap(f->run, 0, 12), 9);
    fixture_contribute(f, 1, 0, 4, 0.01f); /* by the cap of its base it is welcome */
    fixture_close(f);
}

TEST(what_was_changed_is_kept_with_its_entry_its_time_and_its_reason_newest_first) {
    struct fixture *f = fixture_open("merge.warmup_steps: 0\n", 5000);
    fixture_sites(f, 2);
    CHECK_EQUAL(run_state_rule_changes(f->run), 0);
    CHECK(run_state_rule_change(f->run, 0) == NULL);
    for (unsigned i = 1; i <= RULE_CHANGES_KEPT + 5; i++) {
        char value[16];
        snprintf(value, sizeof value, "%u", i);
        struct ledger_entry entry = fixture_rule(f, "merge.quorum", value);
        snprintf(entry.rule.reason, sizeof entry.rule.reason, "change %u", i);
        fixture_append(f, &entry);
    }
    CHECK_EQUAL(run_state_rule_changes(f->run), RULE_CHANGES_KEPT);
    const struct rule_change *newest = run_state_rule_change(f->run, 0),
                             *oldest = run_state_rule_change(f->run, RULE_CHANGES_KEPT - 1);
    CHECK_EQUAL(newest->index, f->entry_count - 1);
    CHECK_EQUAL(oldest->index, newest->index - RULE_CHANGES_KEPT + 1);
    CHECK_TEXT(newest->key, "merge.quorum");
    CHECK_TEXT(newest->value, "69");
    CHECK_TEXT(newest->reason, "change 69");
    CHECK_TEXT(oldest->reason, "change 6");
    CHECK(newest->time_ms > oldest->time_ms);
    CHECK(run_state_rule_change(f->run, RULE_CHANGES_KEPT) == NULL);
    fixture_close(f);
}
