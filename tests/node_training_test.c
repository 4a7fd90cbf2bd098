#include "node/training.h"

#include <stdatomic.h>

#include "base/clock.h"
#include "tests/node_fixture.h"

/* What the trainer's thread told, as the daemon would see it. */
struct seen {
    struct fixture site;
    struct training *training;
    atomic_uint_fast64_t steps, tokens, snapshots, rebases, captures, failures;
    atomic_uint_fast64_t snapshot_steps;
    float *at_snapshot; /* theta_local when `snapshotted` came */
    float *at_rebase;
    struct training_capture *capture; /* the last */
    bool keep;                        /* captures are not freed, as by a disk that stands still */
    struct training_capture *kept;
    bool optimizer_came;
};

static void on_progress(void *context, uint64_t steps, uint64_t tokens, double loss) {
    struct seen *seen = context;
    CHECK(loss > 0 && loss < 20);
    atomic_store(&seen->steps, steps);
    atomic_store(&seen->tokens, tokens);
}

static void on_snapshotted(void *context, uint32_t fragment, uint64_t sequence, uint64_t steps,
                           uint64_t tokens, uint64_t began, uint64_t trainer_steps,
                           struct buffer *optimizer) {
    struct seen *seen = context;
    CHECK_EQUAL(began, 0);
    CHECK_EQUAL(fragment, 0);
    CHECK_EQUAL(sequence, 7);
    CHECK_EQUAL(steps, trainer_steps);
    CHECK_EQUAL(tokens, steps * 4 * 16);
    seen->optimizer_came = optimizer->size > 0;
    memcpy(seen->at_snapshot, trainer_parameters_to_change(seen->site.trainer),
           seen->site.count * sizeof(float));
    atomic_store(&seen->snapshot_steps, steps);
    atomic_fetch_add(&seen->snapshots, 1);
}

static void on_rebased(void *context, uint32_t fragment, uint64_t sequence,
                       enum training_move why) {
    struct seen *seen = context;
    (void)fragment;
    (void)sequence;
    (void)why;
    memcpy(seen->at_rebase, trainer_parameters_to_change(seen->site.trainer),
           seen->site.count * sizeof(float));
    atomic_fetch_add(&seen->rebases, 1);
}

static void on_captured(void *context, struct training_capture *capture) {
    struct seen *seen = context;
    if (seen->keep) {
        CHECK(!seen->kept); /* there is never a second one */
        seen->kept = capture;
    } else {
        training_capture_destroy(seen->capture);
        seen->capture = xcalloc(1, sizeof *capture);
        *seen->capture = *capture; /* what is in it; the capture itself is given back */
        seen->capture->freed = NULL;
        capture->trainer = capture->base = capture->snapshot = (struct buffer){0};
        training_capture_destroy(capture);
    }
    atomic_fetch_add(&seen->captures, 1);
}

static void on_failed(void *context, enum status status, const char *message) {
    struct seen *seen = context;
    CHECK(status != OK);
    CHECK(message && *message);
    atomic_fetch_add(&seen->failures, 1);
}

static struct training_options options_of(struct seen *seen) {
    return (struct training_options){.trainer = seen->site.trainer,
                                     .data = seen->site.data,
                                     .replica = &seen->site.replica,
                                     .schedule = {.peak = 1e-3f},
                                     .throttle = 1,
                                     .keep_optimizer = true,
                                     .handler = {.context = seen,
                                                 .progress = on_progress,
                                                 .snapshotted = on_snapshotted,
                                                 .rebased = on_rebased,
                                                 .captured = on_captured,
                                                 .failed = on_failed}};
}

static struct seen *begin_with(enum outer_mode mode) {
    struct seen *seen = xcalloc(1, sizeof *seen);
    fixture_init(&seen->site, mode, 1);
    seen->at_snapshot = xcalloc(seen->site.count, sizeof(float));
    seen->at_rebase = xcalloc(seen->site.count, sizeof(float));
    return seen;
}

static struct seen *begin(enum outer_mode mode) {
    struct seen *seen = begin_with(mode);
    struct error error = {0};
    struct training_options options = options_of(seen);
    CHECK_OK(training_start(&options, &seen->training, &error));
    return seen;
}

static void end(struct seen *seen) {
    training_destroy(seen->training);
    training_capture_destroy(seen->capture);
    fixture_deinit(&seen->site);
    free(seen->at_snapshot);
    free(seen->at_rebase);
    free(seen);
}

static void wait_for(atomic_uint_fast64_t *counter, uint64_t least) {
    for (unsigned i = 0; i < 3000 && atomic_load(counter) < least; i++) clock_sleep_ms(10);
    CHECK(atomic_load(counter) >= least);
}

TEST(it_waits_until_it_is_told_to_train_and_books_the_wait) {
    struct seen *seen = begin(OUTER_SPARSE);
    clock_sleep_ms(300);
    CHECK_EQUAL(atomic_load(&seen->steps), 0);
    struct training_figures figures;
    training_figures(seen->training, &figures);
    CHECK(figures.lost_ns[LOST_RESTART] > 0);
    CHECK_EQUAL(figures.compute_ns, 0);
    CHECK(isnan(figures.loss));
    training_train(seen->training, true, NODE_WAIT_NONE, UINT64_MAX);
    wait_for(&seen->steps, 5);
    training_train(seen->training, false, NODE_WAIT_PAUSED, UINT64_MAX);
    clock_sleep_ms(50);
    uint64_t steps = atomic_load(&seen->steps);
    clock_sleep_ms(300);
    CHECK_EQUAL(atomic_load(&seen->steps), steps);
    training_figures(seen->training, &figures);
    CHECK(figures.lost_ns[LOST_PAUSED] > 200000000u);
    CHECK(figures.compute_ns > 0);
    CHECK_EQUAL(figures.steps, steps);
    CHECK(figures.steps_per_second > 0);
    end(seen);
}

TEST(a_round_without_overlap_is_exactly_as_many_steps_as_asked) {
    struct seen *seen = begin(OUTER_SPARSE);
    training_train(seen->training, true, NODE_WAIT_NONE, 6);
    wait_for(&seen->steps, 6);
    clock_sleep_ms(100);
    CHECK_EQUAL(atomic_load(&seen->steps), 6);
    training_snapshot(seen->training, 0, 7);
    wait_for(&seen->snapshots, 1);
    CHECK_EQUAL(atomic_load(&seen->snapshot_steps), 6);
    training_train(seen->training, true, NODE_WAIT_NONE, 8);
    wait_for(&seen->steps, 8);
    clock_sleep_ms(100);
    CHECK_EQUAL(atomic_load(&seen->steps), 8);
    end(seen);
}

TEST(another_schedule_holds_from_the_next_step_on) {
    struct seen *seen = begin(OUTER_SPARSE);
    struct training_figures figures;
    training_train(seen->training, true, NODE_WAIT_NONE, 2);
    wait_for(&seen->steps, 2);
    training_figures(seen->training, &figures);
    CHECK(figures.learning_rate == 1e-3f);
    struct schedule linear = {
        .shape = SCHEDULE_LINEAR, .peak = 0.5f, .floor = 0.25f, .total_tokens = 1000000};
    training_set_schedule(seen->training, &linear);
    training_tell_run(seen->training, 2000000, 0, (struct run_flow){0}); /* beyond its end */
    training_train(seen->training, true, NODE_WAIT_NONE, 3);
    wait_for(&seen->steps, 3);
    training_figures(seen->training, &figures);
    CHECK(figures.learning_rate == 0.25f);
    end(seen);
}

TEST(a_snapshot_is_taken_between_two_steps_and_training_goes_on) {
    struct seen *seen = begin(OUTER_SPARSE);
    training_train(seen->training, true, NODE_WAIT_NONE, UINT64_MAX);
    wait_for(&seen->steps, 3);
    training_snapshot(seen->training, 0, 7);
    wait_for(&seen->snapshots, 1);
    wait_for(&seen->steps, atomic_load(&seen->snapshot_steps) + 3);
    training_stop(seen->training, false);
    CHECK(seen->optimizer_came);
    CHECK_MEMORY(seen->site.replica.snapshot, seen->at_snapshot, seen->site.count * sizeof(float));
    CHECK(memcmp(trainer_parameters_to_change(seen->site.trainer), seen->at_snapshot,
                 seen->site.count * sizeof(float)) != 0);
    end(seen);
}

/* The arithmetic of replica.h on what the thread actually had, whatever it had trained meanwhile.
 */
static void check_rebase(enum outer_mode mode, enum training_move why, bool from_base) {
    struct seen *seen = begin(mode);
    size_t size = seen->site.count * sizeof(float);
    float *base = xmalloc(size), *before = xmalloc(size);
    training_train(seen->training, true, NODE_WAIT_NONE, 4);
    wait_for(&seen->steps, 4);
    training_snapshot(seen->training, 0, 7);
    wait_for(&seen->snapshots, 1);
    training_train(seen->training, true, NODE_WAIT_NONE, 9);
    wait_for(&seen->steps, 9);
    training_train(seen->training, false, NODE_WAIT_MERGE, UINT64_MAX);
    clock_sleep_ms(50);
    memcpy(before, trainer_parameters_to_change(seen->site.trainer), size);
    memcpy(base, seen->site.replica.base, size);
    fixture_fill(seen->site.replica.global.theta, seen->site.count, 44);
    seen->site.replica.global.version = 3;
    replica_stage(&seen->site.replica, 0);
    training_rebase(seen->training, 0, 7, why); /* done though training is off */
    wait_for(&seen->rebases, 1);
    const float *next = seen->site.replica.global.theta;
    bool follows = why == MOVE_ADVANCED;
    for (size_t i = 0; i < seen->site.count; i++) {
        float moved = next[i] + (seen->at_snapshot[i] - base[i]);
        CHECK(seen->site.replica.snapshot[i] == (follows ? moved : seen->at_snapshot[i]));
        float from = from_base ? base[i] : seen->at_snapshot[i];
        CHECK(seen->at_rebase[i] == next[i] + (before[i] - from));
        CHECK(seen->site.replica.base[i] == next[i]);
    }
    CHECK_EQUAL(seen->site.replica.base_version[0], 3);
    free(base);
    free(before);
    end(seen);
}

TEST(a_merge_keeps_progress_since_the_snapshot) { check_rebase(OUTER_SPARSE, MOVE_MERGED, false); }
TEST(a_merge_in_dense_mode_keeps_the_same) { check_rebase(OUTER_DENSE, MOVE_MERGED, false); }
TEST(a_refusal_in_sparse_mode_keeps_progress_since_the_snapshot) {
    check_rebase(OUTER_SPARSE, MOVE_REFUSED, false);
}
TEST(a_refusal_in_dense_mode_keeps_progress_since_the_base) {
    check_rebase(OUTER_DENSE, MOVE_REFUSED, true);
}
TEST(a_base_that_follows_keeps_progress_and_takes_a_message_in_flight_with_it) {
    check_rebase(OUTER_SPARSE, MOVE_ADVANCED, true);
}

TEST(captures_say_what_is_in_flight_and_what_is_over) {
    struct seen *seen = begin(OUTER_SPARSE);
    training_train(seen->training, true, NODE_WAIT_NONE, 3);
    wait_for(&seen->steps, 3);
    training_capture(seen->training);
    wait_for(&seen->captures, 1);
    CHECK_EQUAL(seen->capture->fragment[0].mark.in_flight, 0);
    CHECK_EQUAL(seen->capture->snapshot.size, 0);
    CHECK_EQUAL(seen->capture->trainer_steps, 3);
    CHECK_EQUAL(seen->capture->fragment[0].mark.progress.steps, 3);
    CHECK_EQUAL(seen->capture->fragment[0].mark.progress.tokens, 3 * 4 * 16);
    CHECK(!seen->capture->fragment[0].mark.progress.begun);
    training_snapshot(seen->training, 0, 7);
    training_capture(seen->training); /* in the order they were asked for */
    wait_for(&seen->captures, 2);
    CHECK_EQUAL(seen->capture->fragment[0].mark.in_flight, 7);
    CHECK_EQUAL(seen->capture->fragment[0].mark.over, 0);
    CHECK_EQUAL(seen->capture->fragment[0].mark.progress.steps_in_flight, 3);
    CHECK_EQUAL(seen->capture->fragment[0].mark.progress.steps, 0);
    CHECK(seen->capture->fragment[0].mark.progress.begun);
    CHECK_MEMORY(seen->capture->snapshot.data, seen->at_snapshot, seen->site.count * sizeof(float));
    replica_stage(&seen->site.replica, 0);
    training_rebase(seen->training, 0, 7, MOVE_MERGED);
    training_capture(seen->training);
    wait_for(&seen->captures, 3);
    CHECK_EQUAL(seen->capture->fragment[0].mark.in_flight, 0);
    CHECK_EQUAL(seen->capture->fragment[0].mark.over, 7);
    end(seen);
}

/* A producer by the clock and a consumer by the disk: what is not written yet is one capture,
 * however many fall due or are asked for. */
TEST(while_one_capture_waits_no_other_is_made_and_one_makes_up_for_all) {
    struct seen *seen = begin_with(OUTER_DENSE);
    struct error error = {0};
    struct training_options options = options_of(seen);
    options.checkpoint_ms = 1;
    seen->keep = true;
    CHECK_OK(training_start(&options, &seen->training, &error));
    training_train(seen->training, true, NODE_WAIT_NONE, UINT64_MAX);
    wait_for(&seen->captures, 1);
    uint64_t steps = atomic_load(&seen->steps);
    /* more than the queue of requests holds */
    for (unsigned i = 0; i < 300; i++) training_capture(seen->training);
    wait_for(&seen->steps, steps + 50);
    CHECK_EQUAL(atomic_load(&seen->captures), 1);
    /* nothing falls due any more */
    training_train(seen->training, false, NODE_WAIT_PAUSED, UINT64_MAX);
    training_capture(seen->training);
    struct training_capture *first = seen->kept;
    seen->kept = NULL;
    training_capture_destroy(first);
    wait_for(&seen->captures, 2);
    clock_sleep_ms(300);
    CHECK_EQUAL(atomic_load(&seen->captures), 2);
    CHECK(seen->kept->trainer_steps >= steps + 50);
    struct training_capture *second = seen->kept;
    seen->kept = NULL;
    training_capture_destroy(second);
    training_stop(seen->training, false);
    end(seen);
}

TEST(a_last_capture_is_made_when_it_stops_and_loads_into_another_trainer) {
    struct seen *seen = begin(OUTER_SPARSE);
    training_train(seen->training, true, NODE_WAIT_NONE, UINT64_MAX);
    wait_for(&seen->steps, 4);
    training_stop(seen->training, true);
    CHECK_EQUAL(atomic_load(&seen->captures), 1);
    struct fixture other;
    struct error error = {0};
    fixture_init(&other, OUTER_SPARSE, 1);
    CHECK_OK(trainer_load(other.trainer, buffer_bytes(&seen->capture->trainer), &error));
    CHECK_EQUAL(trainer_counters(other.trainer).steps, seen->capture->trainer_steps);
    CHECK_MEMORY(trainer_parameters_to_change(other.trainer),
                 trainer_parameters_to_change(seen->site.trainer), other.count * sizeof(float));
    fixture_deinit(&other);
    end(seen);
}

TEST(a_stop_does_not_wait_for_a_throttled_step) {
    struct seen *seen = begin_with(OUTER_SPARSE);
    struct error error = {0};
    struct training_options options = options_of(seen);
    options.throttle = 1000000;
    CHECK_OK(training_start(&options, &seen->training, &error));
    training_train(seen->training, true, NODE_WAIT_NONE, UINT64_MAX);
    clock_sleep_ms(300);
    training_stop(seen->training,
                  false); /* the step takes hours: the test's deadline would end it */
    CHECK(atomic_load(&seen->steps) <= 1);
    end(seen);
}

TEST(a_paced_step_takes_at_least_its_time_which_is_device_time) {
    struct seen *seen = begin_with(OUTER_SPARSE);
    struct error error = {0};
    struct training_options options = options_of(seen);
    options.pace_ns = 40000000;
    CHECK_OK(training_start(&options, &seen->training, &error));
    uint64_t from = clock_monotonic_ns();
    training_train(seen->training, true, NODE_WAIT_NONE, UINT64_MAX);
    wait_for(&seen->steps, 5);
    CHECK(clock_monotonic_ns() - from >= 5 * options.pace_ns);
    training_stop(seen->training, false);
    struct training_figures figures;
    training_figures(seen->training, &figures);
    CHECK(figures.compute_ns >= 5 * options.pace_ns);
    end(seen);
}

TEST(a_throttled_step_counts_as_device_time) {
    struct seen *seen = begin_with(OUTER_SPARSE);
    struct error error = {0};
    struct training_options options = options_of(seen);
    options.throttle = 20;
    CHECK_OK(training_start(&options, &seen->training, &error));
    training_train(seen->training, true, NODE_WAIT_NONE, UINT64_MAX);
    wait_for(&seen->steps, 10);
    training_stop(seen->training, false);
    struct training_figures figures;
    training_figures(seen->training, &figures);
    uint64_t lost = 0;
    for (unsigned i = 0; i < LOST_CAUSE_COUNT; i++) lost += figures.lost_ns[i];
    CHECK(figures.compute_ns > 9 * lost);
    end(seen);
}

TEST(data_that_go_away_end_training_and_are_told) {
    struct seen *seen = begin(OUTER_SPARSE);
    char *path = file_join(test_directory(), "text.txt");
    FILE *file = fopen(path, "w"); /* truncates it under the open data */
    CHECK(file);
    fclose(file);
    free(path);
    training_train(seen->training, true, NODE_WAIT_NONE, UINT64_MAX);
    wait_for(&seen->failures, 1);
    CHECK_EQUAL(atomic_load(&seen->steps), 0);
    end(seen);
}
