/* When an outer step starts: every rule, on its own and against the others. */
#include "fed/merge_policy.h"

#include <math.h>

#include "tests/test.h"

static const struct merge_settings rules = {
    .fragments = 3, .quorum = 4, .warmup_steps = 10, .grace = 60, .warmup_grace = 300};

static struct merge_view view_of(uint64_t version, uint32_t first, uint32_t second,
                                 uint32_t third) {
    return (struct merge_view){.version = version, .present = 8, .waiting = {first, second, third}};
}

static struct merge_decision decide(const struct merge_view *view, double now,
                                    struct merge_windows *windows) {
    return merge_decide(&rules, view, now, windows);
}

static void check_due(struct merge_decision got, uint32_t fragment) {
    CHECK(got.is_due);
    CHECK_EQUAL(got.fragment, fragment);
}

static void check_waits(struct merge_decision got, double wake) {
    CHECK(!got.is_due);
    CHECK(isinf(wake) ? isinf(got.wake) : got.wake - wake == 0);
}

TEST(nothing_waits_and_nothing_is_asked_for) {
    struct merge_windows windows = {0};
    struct merge_view view = view_of(10, 0, 0, 0);
    check_waits(decide(&view, 100, &windows), INFINITY);
}

TEST(a_quorum_starts_a_step_at_once_and_one_less_waits_for_the_grace_window) {
    struct merge_windows windows = {0};
    struct merge_view view = view_of(10, 3, 0, 0);
    check_waits(decide(&view, 100, &windows), 160);
    /* since the first one came, not since now */
    check_waits(decide(&view, 159.999, &windows), 160);
    view.waiting[0] = 4;
    check_due(decide(&view, 120, &windows), 0);
}

TEST(the_end_of_the_grace_window_starts_a_step_of_what_there_is) {
    struct merge_windows windows = {0};
    struct merge_view view = view_of(10, 1, 0, 0);
    check_waits(decide(&view, 100, &windows), 160);
    check_due(decide(&view, 160, &windows), 0);
    check_waits(decide(&view, 170, &windows), 230); /* what is left has a window of its own */
}

TEST(no_grace_waits_for_the_quorum_for_ever) {
    struct merge_settings patient = rules;
    struct merge_windows windows = {0};
    struct merge_view view = view_of(10, 3, 0, 0);
    patient.grace = INFINITY;
    check_waits(merge_decide(&patient, &view, 0, &windows), INFINITY);
    check_waits(merge_decide(&patient, &view, 1e12, &windows), INFINITY);
}

TEST(a_fragment_for_which_nothing_waits_any_more_loses_its_window) {
    struct merge_windows windows = {0};
    struct merge_view view = view_of(10, 1, 0, 0);
    check_waits(decide(&view, 100, &windows), 160);
    view.waiting[0] = 0; /* its site was revoked */
    check_waits(decide(&view, 110, &windows), INFINITY);
    view.waiting[0] = 1;
    check_waits(decide(&view, 150, &windows), 210);
}

TEST(during_warm_up_every_site_that_is_present_is_waited_for_and_the_window_is_its_own) {
    struct merge_windows windows = {0};
    struct merge_view view = view_of(9, 4, 0, 0);
    view.present = 5;
    check_waits(decide(&view, 100, &windows), 400);
    view.present = 4; /* one has gone */
    check_due(decide(&view, 101, &windows), 0);
    view.waiting[0] = 1;
    check_waits(decide(&view, 102, &windows), 402);
    check_due(decide(&view, 402, &windows), 0);
    CHECK(merge_is_warm_up(&rules, 9) && !merge_is_warm_up(&rules, 10));
}

TEST(a_quorum_is_never_more_than_there_are_sites_present_nor_none) {
    struct merge_view view = view_of(10, 0, 0, 0);
    CHECK_EQUAL(merge_quorum(&rules, &view), 4);
    view.present = 3;
    CHECK_EQUAL(merge_quorum(&rules, &view), 3);
    view.present = 0;
    CHECK_EQUAL(merge_quorum(&rules, &view), 1);
    view.version = 0;
    CHECK_EQUAL(merge_quorum(&rules, &view), 1);
}

TEST(once_the_run_is_over_one_is_enough_also_during_warm_up) {
    struct merge_windows windows = {0};
    struct merge_view view = view_of(10, 0, 1, 0);
    check_waits(decide(&view, 100, &windows), 160);
    view.is_over = true;
    check_due(decide(&view, 101, &windows), 1);
    view.version = 0;
    view.present = 5;
    check_due(decide(&view, 102, &windows), 1);
}

TEST(of_several_fragments_the_one_that_has_waited_longest_goes_first_and_of_equals_the_first) {
    struct merge_windows windows = {0};
    struct merge_view view = view_of(10, 0, 0, 1);
    check_waits(decide(&view, 100, &windows), 160);
    view.waiting[0] = view.waiting[1] = 1;
    check_waits(decide(&view, 110, &windows), 160); /* the first end */
    view.waiting[0] = view.waiting[1] = view.waiting[2] = 4;
    check_due(decide(&view, 120, &windows), 2);
    view.waiting[2] = 0;
    check_due(decide(&view, 120, &windows), 0);
    view.waiting[0] = 0;
    check_due(decide(&view, 120, &windows), 1);
}

TEST(a_fragment_that_lacks_a_payload_waits_holds_up_no_other_and_keeps_its_place) {
    struct merge_windows windows = {0};
    struct merge_view view = view_of(10, 4, 0, 0);
    view.held[0] = true;
    check_waits(decide(&view, 100, &windows), INFINITY); /* the payload's arrival is the event */
    view.waiting[1] = 4;
    check_due(decide(&view, 130, &windows), 1);
    view.held[0] = false;
    check_due(decide(&view, 140, &windows), 0); /* since 100 */
}

TEST(a_site_is_present_while_it_is_linked_or_was_heard_lately) {
    CHECK(merge_is_present(true, -INFINITY, 100, 30));
    CHECK(merge_is_present(false, 70.1, 100, 30));
    CHECK(!merge_is_present(false, 70, 100, 30));
    CHECK(merge_is_present(false, 0, 1e9, INFINITY));
    CHECK(!merge_is_present(false, -INFINITY, 100, 30));
}

TEST(the_manifest_s_times_are_milliseconds_and_its_none_is_never) {
    struct manifest manifest;
    manifest_defaults(&manifest);
    manifest.fragments = 7;
    manifest.merge.quorum = 5;
    manifest.merge.grace_ms = 1500;
    manifest.merge.warmup_steps = 2;
    manifest.merge.warmup_grace_ms = UINT64_MAX;
    struct merge_settings settings = merge_settings_of(&manifest);
    CHECK_EQUAL(settings.fragments, 7);
    CHECK_EQUAL(settings.quorum, 5);
    CHECK_EQUAL(settings.warmup_steps, 2);
    CHECK_NEAR(settings.grace, 1500, 0);
    CHECK(isinf(settings.warmup_grace));
}
