/* Caps by base version, and the most sites that were present since a base. */
#include "fed/staleness.h"

#include "base/memory.h"
#include "base/random.h"
#include "fed/outer_rate.h"
#include "tests/test.h"

TEST(the_most_since_a_base_counts_the_time_of_every_step_that_it_missed) {
    struct presence_history history = {0};
    presence_history_reach(&history, 8);
    presence_history_note(&history, 4);
    presence_history_step(&history, 4); /* step 0: 4 */
    presence_history_note(&history, 9);
    presence_history_note(&history, 3);
    presence_history_step(&history, 3); /* step 1: 9, though only 3 are left */
    CHECK_EQUAL(presence_history_most(&history, 0), 3);
    CHECK_EQUAL(presence_history_most(&history, 1), 9);
    presence_history_step(&history, 3);
    CHECK_EQUAL(presence_history_most(&history, 1), 3);
    CHECK_EQUAL(presence_history_most(&history, 2), 9);
    CHECK_EQUAL(presence_history_most(&history, 1000), 9);
    presence_history_deinit(&history);
}

/* Against a list that forgets nothing, with a reach that grows on the way. */
TEST(what_is_within_reach_is_remembered_through_its_growth) {
    struct random random;
    random_init(&random, 17);
    for (int turn = 0; turn < 50; turn++) {
        struct presence_history history = {0};
        uint32_t all[200], count = 0, now = 0, reach = 1 + (uint32_t)random_below(&random, 5);
        uint64_t forgotten = 0; /* steps before were out of reach when it grew */
        presence_history_reach(&history, reach);
        while (count < 200) {
            uint32_t present = 1 + (uint32_t)random_below(&random, 50);
            presence_history_note(&history, present);
            now = MAX(now, present);
            if (random_below(&random, 3) == 0) {
                presence_history_step(&history, present);
                all[count++] = now;
                now = present;
            }
            if (random_below(&random, 40) == 0) {
                forgotten = MAX(forgotten, count > reach ? count - reach : 0);
                reach += (uint32_t)random_below(&random, 9);
                presence_history_reach(&history, reach);
                presence_history_reach(&history, 1); /* never less */
            }
            uint64_t missed = random_below(&random, reach + 1);
            if (missed > count - forgotten) missed = count - forgotten;
            uint32_t most = now;
            for (uint64_t i = 0; i < missed; i++) most = MAX(most, all[count - 1 - i]);
            CHECK_EQUAL(presence_history_most(&history, missed), most);
        }
        presence_history_deinit(&history);
    }
}

TEST(a_message_is_judged_by_the_cap_of_its_base_version) {
    struct cap_changes caps = {0};
    cap_changes_note(&caps, 0, 5);
    cap_changes_note(&caps, 10, MANIFEST_AUTO);
    cap_changes_note(&caps, 10, 7); /* two at one version: the later one */
    cap_changes_note(&caps, 20, MANIFEST_AUTO);
    CHECK_EQUAL(cap_changes_at(&caps, 9, 40), 5);
    CHECK_EQUAL(cap_changes_at(&caps, 10, 40), 7);
    CHECK_EQUAL(cap_changes_at(&caps, 19, 40), 7);
    CHECK_EQUAL(cap_changes_at(&caps, 20, 40), 80);
    CHECK_EQUAL(cap_changes_at(&caps, 1000, 3), 16);
    CHECK_EQUAL(staleness_reach(5), 6);
    CHECK(staleness_reach(MANIFEST_AUTO) > staleness_cap_of(MANIFEST_AUTO, SITES_LIMIT));
    cap_changes_deinit(&caps);
}
