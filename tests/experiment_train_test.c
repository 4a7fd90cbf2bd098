/* The workbench: real training in virtual time, the same for any number of threads, whatever fails.
 */
#include "experiment/train.h"

#include <math.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "run/run_model.h"
#include "tests/test.h"

static char *write_text(void) {
    char *path = file_join(test_directory(), "text.txt");
    struct buffer text = {0};
    struct error error = {0};
    for (int i = 0; i < 4000; i++)
        buffer_append_text(&text, "the %d of %d is %s. ", i % 10, i % 7, i % 3 ? "small" : "large");
    CHECK_OK(file_write(path, buffer_bytes(&text), 0600, &error));
    buffer_deinit(&text);
    return path;
}

static struct topology *topology_of(const char *more) {
    struct topology *topology = NULL;
    struct error error = {0};
    char *text = xformat(
        "duration: 60s\nmodel: {parameters: 10000}\nrun: {inner_steps: 8, warmup_steps: 0}\n%s",
        more);
    CHECK_OK(topology_parse(bytes_of(text, strlen(text)), "test", &topology, &error));
    free(text);
    return topology;
}

static struct manifest manifest_of(const char *more) {
    struct manifest manifest;
    struct error error = {0};
    char *text = xformat(
        "name: tiny\nmodel: {hidden: 32, layers: 1, heads: 2, kv_heads: 1, ffn: 64, context: 32}\n"
        "inner: {learning_rate: 3e-3, inner_steps: 8}\n%s",
        more);
    CHECK_OK(manifest_parse(bytes_of(text, strlen(text)), &manifest, &error));
    free(text);
    return manifest;
}

static struct train_options options_of(const struct topology *topology,
                                       const struct manifest *manifest, const char *const *data) {
    return (struct train_options){.topology = topology,
                                  .manifest = manifest,
                                  .data = data,
                                  .data_count = 1,
                                  .heldout = 0.1,
                                  .windows = 8,
                                  .sequences = 2,
                                  .threads = 1,
                                  .seed = 1,
                                  .follow_interval = 1,
                                  .duration = topology->duration,
                                  .evaluate_every = 20};
}

static struct train_result run_following(const char *sites, const char *rules, uint32_t threads,
                                         uint32_t follow_interval) {
    struct topology *topology = topology_of(sites);
    struct manifest manifest = manifest_of(rules);
    const char *data = write_text();
    struct train_options options = options_of(topology, &manifest, &data);
    struct train_result result = {0};
    struct error error = {0};
    options.threads = threads;
    options.follow_interval = follow_interval;
    CHECK_OK(train_run(&options, &result, &error));
    topology_destroy(topology);
    free((void *)data);
    return result;
}

static struct train_result run_with(const char *sites, const char *rules, uint32_t threads) {
    return run_following(sites, rules, threads, 1);
}

#define FOUR                                                                                       \
    "sites:\n  - {name: a, step: 200ms, link: {rtt: 200ms}}\n  - {name: b, step: 300ms}\n  - "     \
    "{name: c, count: 2, step: 250ms}\n"

TEST(four_sites_learn_in_sparse_mode_and_are_always_busy) {
    struct train_result result = run_with(FOUR, "", 2);
    CHECK(result.heldout < 3.0 && result.heldout > 0.2); /* 5.5 before */
    CHECK(result.busy > 0.98 && result.busy <= 1.0);
    CHECK(result.contributions > 80 && result.versions > 40);
    CHECK_EQUAL(result.refused, 0);
    /* 300 + 200 + 240 + 240, and the last may end after the end */
    CHECK(result.steps >= 976 && result.steps <= 980);
    CHECK(result.distinct_versions_most <= 6 + 4);
}

TEST(four_sites_learn_in_dense_mode) {
    struct train_result result = run_with(
        FOUR, "outer: {mode: dense, period: 4}\ncodec: {kind: int8}\nmerge: {warmup_steps: 2}\n",
        2);
    CHECK(result.heldout < 3.0);
    CHECK(result.versions > 10);
}

/* Sites that cannot fail are trained in parallel; those that can, when their steps are safe. */
TEST(sites_that_train_side_by_side_give_the_same_bits_for_any_number_of_threads) {
    struct train_result one = run_with(FOUR, "merge: {warmup_steps: 0}\n", 1);
    struct train_result three = run_with(FOUR, "merge: {warmup_steps: 0}\n", 3);
    CHECK_MEMORY(one.root, three.root, DIGEST_SIZE);
    CHECK_NEAR(one.heldout, three.heldout, 0);
}

/* The root is of every parameter of the last version. */
TEST(any_number_of_threads_gives_the_same_bits) {
    static const char sites[] = "defaults: {failures: {every: 15s, lasts: 2s}, restart: 1s, "
                                "checkpoint: 3s, link: {jitter: 50ms}}\n" FOUR;
    struct train_result one = run_with(sites, "merge: {quorum: 2, grace: 1s}\n", 1);
    struct train_result three = run_with(sites, "merge: {quorum: 2, grace: 1s}\n", 3);
    CHECK_MEMORY(one.root, three.root, DIGEST_SIZE);
    CHECK_EQUAL(one.tokens, three.tokens);
    CHECK_NEAR(one.heldout, three.heldout, 0);
    CHECK(one.lost_steps > 0);
    CHECK(one.busy < 0.95);
}

TEST(a_far_site_behind_the_cap_is_refused_and_goes_on) {
    struct train_result result = run_with("sites:\n  - {name: a, count: 3, step: 200ms}\n  - "
                                          "{name: far, step: 200ms, link: {rtt: 20s}}\n",
                                          "merge: {staleness_cap: 3, warmup_steps: 0}\n", 2);
    CHECK(result.refused > 0);
    CHECK(result.heldout < 3.0);
}

/* A message of the far site misses some 22 to 38 steps: within twice 24 sites, beyond the 16 that
 * the 4 sites have which are there. */
TEST(a_cap_that_is_left_to_the_federation_is_by_the_sites_that_are_there) {
    struct train_result result =
        run_following("sites:\n  - {name: a, count: 3, step: 200ms}\n"
                      "  - {name: far, step: 200ms, link: {rtt: 12s}}\n"
                      "  - {name: left, count: 20, step: 10s, leaves: 1s}\n",
                      "merge: {staleness_cap: auto, warmup_steps: 0}\n", 2, 0);
    CHECK(result.refused > 0);
    CHECK_EQUAL(result.present_most, 24);
}

/* What the far site sends before the rule changes comes after it. */
TEST(a_message_is_judged_by_the_cap_of_its_base) {
    struct topology *topology = topology_of("sites:\n  - {name: a, count: 3, step: 200ms}\n"
                                            "  - {name: far, step: 200ms, link: {rtt: 50s}}\n");
    struct manifest manifest = manifest_of("merge: {staleness_cap: 200, warmup_steps: 0}\n");
    const char *data = write_text();
    const struct rules_change change = {30, "merge.staleness_cap", "8"};
    struct train_options options = options_of(topology, &manifest, &data);
    struct train_result result = {0};
    struct error error = {0};
    options.changes = &change;
    options.change_count = 1;
    CHECK_OK(train_run(&options, &result, &error));
    CHECK_EQUAL(result.refused, 0);
    CHECK(result.staleness_most > 60);
    topology_destroy(topology);
    free((void *)data);
}

TEST(an_absent_coordinator_costs_merges_and_no_training) {
    struct train_result away = run_with("coordinator: {outages: {at: 10s, at_lasts: 45s}}\n" FOUR,
                                        "merge: {warmup_steps: 0}\n", 2);
    CHECK(away.busy > 0.98);
    CHECK(away.contributions < 50 && away.contributions > 20);
}

TEST(a_site_that_leaves_trains_no_more_and_one_that_comes_late_starts_from_the_newest_version) {
    struct train_result result =
        run_with("sites:\n  - {name: a, step: 250ms}\n  - {name: b, step: 250ms, leaves: 20s}\n"
                 "  - {name: c, step: 250ms, joins: 40s}\n",
                 "merge: {warmup_steps: 0, staleness_cap: 3}\n", 2);
    CHECK(result.steps >= 236 + 76 + 76 && result.steps <= 240 + 80 + 80);
    CHECK(result.busy > 0.97 && result.busy <= 1.0);
    CHECK_EQUAL(result.refused, 0); /* version 0 would be far beyond the cap */
    CHECK(result.heldout < 3.5);
}

/* A quorum of three where one of three is gone: two are enough. */
TEST(a_quorum_does_not_wait_for_who_has_left) {
    struct train_result result = run_with(
        "sites:\n  - {name: a, count: 2, step: 250ms}\n  - {name: b, step: 250ms, leaves: 10s}\n",
        "merge: {warmup_steps: 0, quorum: 3, grace: 1h}\n", 2);
    CHECK(result.versions > 15);
}

/* With no grace window, what waited when a site left would wait for ever. */
TEST(a_step_that_waited_for_a_site_starts_when_it_has_left) {
    struct train_result result =
        run_with("sites:\n  - {name: a, step: 200ms}\n  - {name: b, step: 2s, leaves: 19900ms}\n",
                 "merge: {warmup_steps: 0, quorum: 2, grace: forever}\n", 2);
    CHECK(result.versions > 9 + 20); /* of both until then, then of one each 1.6 s */
}

/* As the coordinator and the planner have it: not at once, and not for ever. */
TEST(during_warm_up_a_site_that_crashed_is_waited_for_as_long_as_it_counts_as_present) {
    struct train_result result =
        run_with("sites:\n  - {name: a, step: 200ms}\n"
                 "  - {name: b, step: 200ms, failures: {at: 10s, at_lasts: 100s}}\n",
                 "merge: {warmup_steps: 1000, warmup_grace: 1h, away_after: 30s}\n", 2);
    CHECK(result.versions >= 5 + 10); /* each 1.6 s until 10 s, and again from 40 s on */
    CHECK(result.versions <= 6 + 14);
}

/* Three sites of 2 s a round and one of 16 s: about 24 versions are made in one of its rounds. */
#define ONE_SLOW                                                                                   \
    "defaults: {link: {rtt: 10ms}}\nsites:\n  - {name: a, count: 3, step: 250ms}\n"                \
    "  - {name: slow, step: 2s}\n"
#define OLD_BASES "inner: {dylu: false}\nmerge: {warmup_steps: 0, staleness_cap: 100}\n"

TEST(a_site_that_follows_sends_a_delta_from_the_newest_version_that_it_knows) {
    struct train_result own = run_following(ONE_SLOW, OLD_BASES, 2, 0),
                        follows = run_following(ONE_SLOW, OLD_BASES, 2, 1),
                        seldom = run_following(ONE_SLOW, OLD_BASES, 2, 8);
    CHECK(own.staleness_most >= 20);
    CHECK(follows.staleness_most <= 3); /* what the others send while its message is on its way */
    CHECK(seldom.staleness_most > follows.staleness_most); /* of a site with steps of 2 s */
    CHECK_EQUAL(own.tokens, follows.tokens);               /* moving costs no training */
    CHECK(follows.heldout < own.heldout);
    /* each fetches every step, either way */
    CHECK_NEAR((double)follows.bytes_down / (double)own.bytes_down, 1, 0.02);
}

/* Eight sites, one part in each step: what they found out about one coordinate is not added up. */
TEST(a_round_of_one_by_one_learns_as_one_of_all_at_once_and_better_than_without_rounds) {
    const char *sites = "sites:\n  - {name: a, count: 8, spread: 20%, step: 250ms}\n",
               *rules = "merge: {warmup_steps: 0}\n";
    struct train_result rounds = run_with(sites, rules, 2),
                        none = run_with(sites, "merge: {warmup_steps: 0}\nouter: {period: 1}\n", 2),
                        whole = run_with(sites, "merge: {quorum: 8, grace: 1h}\n", 2);
    CHECK(rounds.versions == rounds.contributions);
    CHECK(whole.versions < rounds.versions / 4);
    CHECK(rounds.heldout < none.heldout);
    CHECK(fabs(rounds.heldout - whole.heldout) < fabs(none.heldout - whole.heldout));
}

/* A link that needs 2 s for the others' payloads of a round of 2 s: what waits in it comes later
 * and later, and a base becomes old for it. */
TEST(what_a_site_follows_comes_down_its_link_one_byte_after_the_other) {
    static const char fast[] = "sites:\n  - {name: a, count: 3, step: 250ms}\n"
                               "  - {name: thin, step: 250ms, link: {down: 1Gbit/s}}\n",
                      thin[] = "sites:\n  - {name: a, count: 3, step: 250ms}\n"
                               "  - {name: thin, step: 250ms, link: {down: 8kbit/s}}\n";
    struct train_result wide = run_with(fast, OLD_BASES, 2), narrow = run_with(thin, OLD_BASES, 2);
    CHECK(wide.staleness_most <= 6);
    CHECK(narrow.staleness_most > wide.staleness_most);
}

/* ---- the reference arms ---- */

static struct train_result run_recorded(const char *sites, const char *rules,
                                        void (*change)(struct train_options *options),
                                        struct train_record *record) {
    struct topology *topology = topology_of(sites);
    struct manifest manifest = manifest_of(rules);
    const char *data = write_text();
    struct train_options options = options_of(topology, &manifest, &data);
    struct train_result result = {0};
    struct error error = {0};
    options.record = record;
    if (change) change(&options);
    CHECK_OK(train_run(&options, &result, &error));
    topology_destroy(topology);
    free((void *)data);
    return result;
}

#define ROUND 8
#define SYNCHRONOUS                                                                                \
    "outer: {mode: dense, period: 3, learning_rate: 0.7, momentum: 0.9}\ncodec: {kind: fp32}\n"    \
    "admission: {clip_factor: 0}\nmerge: {quorum: 3, grace: forever, warmup_steps: 0}\n"

static void once_a_round(struct train_options *options) { options->evaluate_every = ROUND; }

struct reference { /* synchronous DiLoCo, arXiv 2311.08105, algorithm 1, in double */
    struct layout layout;
    double *theta, *momentum, *sum; /* [layout.count] */
    struct trainer *trainers[3];
    struct data *data[3];
};

static void reference_init(struct reference *reference, const struct manifest *manifest,
                           const char *path) {
    struct error error = {0};
    struct run_model_local local = {.sequences = 2, .threads = 1};
    CHECK_OK(run_model_layout(manifest, bytes_of(NULL, 0), &reference->layout, &error));
    size_t count = reference->layout.count;
    float *first = xcalloc(count, sizeof first[0]);
    CHECK_OK(run_model_initialise(manifest, &reference->layout, NULL, first, &error));
    reference->theta = xcalloc(count, sizeof(double));
    reference->momentum = xcalloc(count, sizeof(double));
    reference->sum = xcalloc(count, sizeof(double));
    for (size_t i = 0; i < count; i++) reference->theta[i] = (double)first[i];
    free(first);
    for (uint32_t site = 0; site < 3; site++) {
        const struct run_model_files files = {.paths = &path,
                                              .count = 1,
                                              .heldout = 0.1,
                                              .seed =
                                                  random_hash(manifest->initial.seed, site + 1)};
        CHECK_OK(run_model_data(manifest, &files, &reference->data[site], &error));
        CHECK_OK(run_model_trainer(manifest, &local, &reference->trainers[site], &error));
    }
}

static void reference_load(const struct reference *reference, uint32_t site) {
    float *parameters = trainer_parameters_to_change(reference->trainers[site]);
    for (size_t i = 0; i < reference->layout.count; i++) parameters[i] = (float)reference->theta[i];
}

static void reference_round(struct reference *reference) {
    struct error error = {0};
    size_t count = reference->layout.count;
    memset(reference->sum, 0, count * sizeof(double));
    for (uint32_t site = 0; site < 3; site++) {
        reference_load(reference, site);
        for (int step = 0; step < ROUND; step++)
            CHECK_OK(
                trainer_step(reference->trainers[site], reference->data[site], 0, NULL, &error));
        const float *parameters = trainer_parameters_to_change(reference->trainers[site]);
        for (size_t i = 0; i < count; i++)
            reference->sum[i] += reference->theta[i] - (double)parameters[i];
    }
    for (size_t i = 0; i < count; i++) {
        double mean = reference->sum[i] / 3;
        reference->momentum[i] = 0.9 * reference->momentum[i] + mean;
        reference->theta[i] -= 0.7 * (0.9 * reference->momentum[i] + mean);
    }
}

static void reference_deinit(struct reference *reference) {
    for (uint32_t site = 0; site < 3; site++) {
        trainer_destroy(reference->trainers[site]);
        data_close(reference->data[site]);
    }
    layout_deinit(&reference->layout);
    free(reference->theta);
    free(reference->momentum);
    free(reference->sum);
}

/* An evaluation comes once a round, before the next merge. */
TEST(a_quorum_of_all_and_no_overlap_is_synchronous_diloco_round_by_round) {
    static const char sites[] = "run: {inner_steps: 8, warmup_steps: 0, overlap: false}\n"
                                "sites:\n  - {name: a, count: 3, step: 1s, link: {rtt: 1ms}}\n";
    struct train_record record = {0};
    struct reference reference = {0};
    struct error error = {0};
    struct topology *topology = NULL;
    char *text = xformat("duration: 60s\nmodel: {parameters: 10000}\n%s", sites);
    CHECK_OK(topology_parse(bytes_of(text, strlen(text)), "test", &topology, &error));
    free(text);
    struct manifest manifest = manifest_of(SYNCHRONOUS);
    const char *data = write_text();
    struct train_options options = options_of(topology, &manifest, &data);
    struct train_result result;
    once_a_round(&options);
    options.record = &record;
    CHECK_OK(train_run(&options, &result, &error));
    CHECK_EQUAL(result.versions, 7);
    reference_init(&reference, &manifest, data);
    double first = 0, nats = 0;
    for (uint64_t version = 0, i = 0; i < record.count; i++) {
        for (; version < record.evaluations[i].version; version++) reference_round(&reference);
        reference_load(&reference, 0);
        CHECK_OK(trainer_evaluate(reference.trainers[0], reference.data[0], 8, &nats, &error));
        CHECK_NEAR(record.evaluations[i].heldout, nats, 1e-5);
        if (i == 0) first = nats;
    }
    CHECK(record.evaluations[record.count - 1].version >= 6);
    CHECK(nats < first - 1);
    reference_deinit(&reference);
    train_record_deinit(&record);
    topology_destroy(topology);
    free((void *)data);
}

/* Momentum on every single part: what the period of delayed Nesterov is there for. */
TEST(asynchronous_nesterov_without_its_period_diverges) {
    static const char rules[] = "outer: {mode: dense, period: %d}\ncodec: {kind: fp32}\n"
                                "admission: {clip_factor: 0}\nmerge: {warmup_steps: 0}\n";
    char *naive = xformat(rules, 1), *delayed = xformat(rules, 4);
    struct train_result without = run_with(FOUR, naive, 2), with = run_with(FOUR, delayed, 2);
    CHECK(!(without.heldout < with.heldout + 2));
    CHECK(with.heldout < 3);
    free(naive);
    free(delayed);
}

static void as_one_cluster(struct train_options *options) { options->one_cluster = true; }

TEST(one_cluster_makes_all_sites_steps_with_an_update_after_each) {
    struct train_record record = {0};
    struct train_result result = run_recorded(FOUR, "", as_one_cluster, &record);
    CHECK(result.steps >= 980 && result.steps <= 981); /* 60 s of 5 + 3.33 + 4 + 4 a second */
    CHECK_EQUAL(result.tokens, result.steps * 64);
    CHECK_EQUAL(result.versions, 0);
    CHECK(result.heldout < 1.5 && result.heldout > 0.2);
    CHECK_NEAR(record.evaluations[record.count - 1].at, 60, 0);
    train_record_deinit(&record);
}

static void with_a_limit(struct train_options *options) { options->token_limit = 10000; }

TEST(a_run_ends_at_its_tokens_and_is_measured_there) {
    struct train_record record = {0};
    struct train_result result = run_recorded(FOUR, "", with_a_limit, &record);
    CHECK(result.tokens >= 10000 && result.tokens < 10000 + 64);
    CHECK(result.seconds < 12);
    CHECK_EQUAL(record.evaluations[record.count - 1].tokens, result.tokens);
    CHECK_EQUAL(record.site_count, 4);
    uint64_t tokens = 0, contributions = 0;
    for (uint32_t i = 0; i < record.site_count; i++) {
        tokens += record.sites[i].tokens;
        contributions += record.sites[i].contributions;
    }
    CHECK_EQUAL(tokens, result.tokens);
    CHECK_EQUAL(contributions, result.contributions);
    train_record_deinit(&record);
}

static const char *two_texts[2]; /* as different as can be */

static void as_it_is(struct train_options *options) {
    options->evaluate_every = 2;
    options->data = two_texts;
    options->data_count = 2;
}
static void averaged(struct train_options *options) {
    as_it_is(options);
    options->average = 4;
}
static void averaged_over_one(struct train_options *options) {
    as_it_is(options);
    options->average = 1;
}

static char *write_numbers(void) {
    char *path = file_join(test_directory(), "numbers.txt");
    struct buffer text = {0};
    struct error error = {0};
    for (int i = 0; i < 12000; i++) buffer_append_text(&text, "%d;", i * 7919 % 10007);
    CHECK_OK(file_write(path, buffer_bytes(&text), 0600, &error));
    buffer_deinit(&text);
    return path;
}

/* The sum of the distances between evaluations that follow each other, after the first half. */
static double swing_of(const struct train_record *record) {
    double sum = 0;
    for (size_t i = record->count / 2; i + 1 < record->count; i++)
        sum += fabs(record->evaluations[i + 1].heldout - record->evaluations[i].heldout);
    return sum;
}

TEST(the_mean_of_the_last_versions_swings_less_and_changes_nothing_of_the_run) {
    struct train_record newest = {0}, mean = {0}, one = {0};
    two_texts[0] = write_text();
    two_texts[1] = write_numbers();
    struct train_result a = run_recorded(FOUR, "", as_it_is, &newest),
                        b = run_recorded(FOUR, "", averaged, &mean),
                        c = run_recorded(FOUR, "", averaged_over_one, &one);
    CHECK_MEMORY(a.root, b.root, DIGEST_SIZE);
    CHECK(swing_of(&mean) < swing_of(&newest));
    CHECK_NEAR(a.heldout, c.heldout, 0);
    CHECK(b.heldout < a.heldout + 0.2);
    for (int i = 0; i < 2; i++) free((void *)two_texts[i]);
    train_record_deinit(&newest);
    train_record_deinit(&mean);
    train_record_deinit(&one);
}

/* ---- messages that are lost, or come twice ---- */

static void losing(struct train_options *options) { options->drop = 0.5; }
static void repeating(struct train_options *options) { options->duplicate = 0.5; }
static void forgetting(struct train_options *options) { options->no_feedback = true; }

TEST(half_of_the_messages_lost_costs_little_since_nothing_trained_is_thrown_away) {
    struct train_record record = {0};
    struct train_result lost = run_recorded(FOUR, "", losing, &record),
                        whole = run_with(FOUR, "", 1);
    CHECK(lost.dropped > 30 && lost.dropped > lost.contributions / 2);
    CHECK_EQUAL(lost.tokens, whole.tokens);
    CHECK(lost.heldout < whole.heldout + 0.35);
    uint64_t dropped = 0;
    for (uint32_t i = 0; i < record.site_count; i++) dropped += record.sites[i].dropped;
    CHECK_EQUAL(dropped, lost.dropped);
    train_record_deinit(&record);
}

TEST(a_message_that_comes_twice_is_merged_once) {
    struct train_result twice = run_recorded(FOUR, "", repeating, NULL),
                        once = run_with(FOUR, "", 1);
    CHECK(twice.duplicates > 20);
    CHECK_EQUAL(twice.contributions, once.contributions);
    CHECK_MEMORY(twice.root, once.root, DIGEST_SIZE);
}

TEST(error_feedback_can_be_left_out_for_comparison) {
    struct train_result without = run_recorded(FOUR, "", forgetting, NULL),
                        with = run_with(FOUR, "", 1);
    CHECK(memcmp(without.root, with.root, DIGEST_SIZE) != 0);
    CHECK_EQUAL(without.tokens, with.tokens);
}

/* A round in which more versions are made than the cap allows. */
TEST(a_base_that_fell_behind_the_cap_moves_forward_before_the_round_s_snapshot) {
    struct train_result result =
        run_with("defaults: {link: {rtt: 10ms}}\n"
                 "sites:\n  - {name: a, count: 3, step: 100ms}\n  - {name: slow, step: 2s}\n",
                 "merge: {warmup_steps: 0, staleness_cap: 5}\n", 2);
    CHECK_EQUAL(result.refused, 0);
    CHECK(result.contributions >= 3 * 70 + 25);
}

/* at_lasts may be left out where lasts says it: the one outage of `at` is no instant. */
TEST(a_fault_of_its_own_time_lasts_as_long_as_others_where_nothing_else_is_said) {
    struct train_result away =
        run_with("coordinator: {outages: {at: 10s, lasts: 45s, regular: true}}\n" FOUR,
                 "merge: {warmup_steps: 0}\n", 2);
    CHECK(away.contributions < 50 && away.contributions > 20);
}

/* ---- fragments ---- */

TEST(fragments_take_turns_and_learn_as_one_does_in_messages_of_a_part_of_the_size) {
    struct train_result one = run_with(FOUR, "", 1), four = run_with(FOUR, "fragments: 4\n", 1),
                        same = run_with(FOUR, "fragments: 4\n", 3);
    CHECK_EQUAL(four.tokens, one.tokens);
    CHECK_EQUAL(four.refused, 0);
    CHECK(four.contributions > 3 * one.contributions && four.contributions < 5 * one.contributions);
    CHECK(4 * four.message_most < 2 * one.message_most + 4 * 600); /* and a header each */
    CHECK(four.heldout < one.heldout + 0.1);
    CHECK(four.busy > 0.98);
    CHECK_MEMORY(four.root, same.root, DIGEST_SIZE);
}

TEST(half_of_the_messages_of_fragments_lost_costs_little_either) {
    struct train_result lost = run_recorded(FOUR, "fragments: 3\n", losing, NULL),
                        whole = run_with(FOUR, "fragments: 3\n", 1);
    CHECK(lost.dropped > lost.contributions / 2);
    CHECK_EQUAL(lost.tokens, whole.tokens);
    CHECK(lost.heldout < whole.heldout + 0.2);
}

TEST(fragments_without_overlap_and_no_data_are_refused) {
    struct topology *topology = topology_of("run: {overlap: false}\n" FOUR);
    struct manifest manifest = manifest_of("fragments: 2\n");
    const char *data = write_text();
    struct train_options options = options_of(topology, &manifest, &data);
    struct train_result result;
    struct error error = {0};
    CHECK_STATUS(train_run(&options, &result, &error), INVALID);
    CHECK_CONTAINS(error.message, "not 2");
    manifest.fragments = 1;
    options.data_count = 0;
    CHECK_STATUS(train_run(&options, &result, &error), INVALID);
    CHECK_CONTAINS(error.message, "no data");
    const char *absent = "/nowhere/text";
    options.data = &absent;
    options.data_count = 1;
    CHECK_STATUS(train_run(&options, &result, &error), NOT_FOUND);
    topology_destroy(topology);
    free((void *)data);
}

TEST(memory_grows_with_sites_by_the_formula) {
    struct topology *four = topology_of(FOUR),
                    *eight = topology_of("sites:\n  - {name: a, count: 8, step: 1s}\n");
    struct manifest manifest = manifest_of("");
    const char *data = "unused";
    struct train_options options = options_of(four, &manifest, &data);
    struct error error = {0};
    uint64_t small, large;
    CHECK_OK(train_memory(&options, &small, &error));
    options.topology = eight;
    CHECK_OK(train_memory(&options, &large, &error));
    struct train_result result = run_with(FOUR, "", 1);
    CHECK_EQUAL(large - small, 4 * (12 + 4 + 4 + 4) * result.parameters);
    topology_destroy(four);
    topology_destroy(eight);
}

static struct train_result run_hostile(enum train_hostile kind, double from) {
    struct topology *topology = topology_of(FOUR);
    struct manifest manifest = manifest_of("admission: {clip_factor: 0}\n");
    const char *data = write_text();
    struct train_options options = options_of(topology, &manifest, &data);
    struct train_result result = {0};
    struct error error = {0};
    options.hostile = kind;
    options.hostile_sites = 1;
    options.hostile_from = from;
    CHECK_OK(train_run(&options, &result, &error));
    topology_destroy(topology);
    free((void *)data);
    return result;
}

TEST(a_hostile_site_spoils_the_model_from_when_it_begins) {
    struct train_result honest = run_hostile(TRAIN_HONEST, 0), late = run_hostile(TRAIN_FLIP, 1e9);
    CHECK(memcmp(honest.root, late.root, DIGEST_SIZE) == 0); /* it never begins */
    for (int kind = TRAIN_LARGE; kind <= TRAIN_NEGATE; kind++) {
        struct train_result poisoned = run_hostile((enum train_hostile)kind, 0);
        if (kind == TRAIN_FLIP) CHECK(!(poisoned.heldout < honest.heldout)); /* without a clip */
        CHECK(memcmp(honest.root, poisoned.root, DIGEST_SIZE) != 0);
    }
}
