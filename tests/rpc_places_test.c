#include "rpc/places.h"

#include "base/random.h"
#include "tests/test.h"

static struct places places_of(struct places_limits limits) {
    struct places places;
    places_init(&places, &limits);
    return places;
}

/* Who goes now; 0: nobody. At most one may. */
static uint64_t goes(struct places *places, uint64_t now_ms) {
    uint64_t id = 0, more = 0;
    if (!places_evict(places, now_ms, &id)) return 0;
    CHECK(!places_evict(places, now_ms, &more));
    return id;
}

TEST(a_stranger_goes_when_its_time_is_up_and_a_member_stays) {
    struct places places = places_of((struct places_limits){.strangers = 4, .stranger_ms = 30});
    places_enter(&places, 1, 7, 100);
    places_enter(&places, 2, 7, 100);
    places_claim(&places, 2, PLACE_MEMBER, 5, 9);
    CHECK_EQUAL(goes(&places, 129), 0);
    CHECK_EQUAL(goes(&places, 130), 1);
    CHECK_EQUAL(goes(&places, 1000), 0); /* said once, and the member is none */
    places_deinit(&places);
}

TEST(the_oldest_of_the_source_with_most_strangers_goes) {
    struct places places = places_of((struct places_limits){.strangers = 3});
    places_enter(&places, 1, 9, 0); /* the oldest of all */
    places_enter(&places, 2, 7, 1);
    places_enter(&places, 3, 7, 2);
    CHECK_EQUAL(goes(&places, 3), 0);
    places_enter(&places, 4, 7, 3);
    CHECK_EQUAL(goes(&places, 3), 2);
    places_deinit(&places);
}

TEST(who_says_nothing_goes_before_who_speaks) {
    struct places places = places_of((struct places_limits){.strangers = 4, .silent_ms = 50});
    for (uint64_t id = 1; id <= 4; id++) places_enter(&places, id, 7, id);
    places.items[0].spoke = places.items[1].spoke = places.items[2].spoke = true;
    places_enter(&places, 5, 7, 20); /* the silent have had no time yet, and are few */
    CHECK_EQUAL(goes(&places, 20), 1);
    places.items[4].spoke = true;
    places_enter(&places, 6, 7, 60);
    CHECK_EQUAL(goes(&places, 60), 4);
    places_deinit(&places);
}

TEST(a_storm_of_silent_ones_does_not_push_out_who_speaks) {
    struct places places = places_of((struct places_limits){.strangers = 8, .silent_ms = 50});
    places_enter(&places, 1, 7, 0);
    places.items[0].spoke = true;
    for (uint64_t id = 2; id < 200; id++) {
        places_enter(&places, id, 7, 1); /* all in one millisecond */
        CHECK(goes(&places, 1) != 1);
    }
    places_deinit(&places);
}

TEST(a_group_over_its_limit_loses_its_oldest) {
    struct places places = places_of((struct places_limits){.strangers = 9, .members = 9});
    for (uint64_t id = 1; id <= 3; id++) {
        places_enter(&places, id, 7, id);
        places_claim(&places, id, PLACE_MEMBER, 5, 2);
    }
    CHECK_EQUAL(goes(&places, 9), 1);
    places_deinit(&places);
}

TEST(the_largest_group_makes_room_and_admins_are_no_members) {
    struct places places =
        places_of((struct places_limits){.strangers = 9, .members = 3, .admins = 2});
    for (uint64_t id = 1; id <= 6; id++) places_enter(&places, id, 7, id);
    places_claim(&places, 1, PLACE_ADMIN, 0, 0);
    places_claim(&places, 2, PLACE_MEMBER, 5, 9);
    places_claim(&places, 3, PLACE_MEMBER, 6, 9);
    places_claim(&places, 4, PLACE_MEMBER, 6, 9);
    CHECK_EQUAL(goes(&places, 9), 0);
    places_claim(&places, 5, PLACE_MEMBER, 4, 9);
    CHECK_EQUAL(goes(&places, 9), 3);
    places_claim(&places, 6, PLACE_ADMIN, 0, 0);
    CHECK_EQUAL(goes(&places, 9), 0);
    places_enter(&places, 7, 7, 7);
    places_claim(&places, 7, PLACE_ADMIN, 0, 0);
    CHECK_EQUAL(goes(&places, 9), 1);
    places_deinit(&places);
}

TEST(a_claim_counts_once_and_only_of_who_is_there) {
    struct places places = places_of((struct places_limits){.strangers = 9});
    places_claim(&places, 1, PLACE_ADMIN, 0, 0);
    places_enter(&places, 1, 7, 0);
    places_claim(&places, 1, PLACE_MEMBER, 5, 9);
    places_claim(&places, 1, PLACE_ADMIN, 0, 0);
    CHECK_EQUAL(places_find(&places, 1)->role, PLACE_MEMBER);
    places_leave(&places, 1);
    places_leave(&places, 1);
    CHECK(!places_find(&places, 1));
    places_deinit(&places);
}

TEST(what_is_short_costs_a_stranger_first_and_never_a_members_only_place) {
    struct places places = places_of((struct places_limits){.strangers = 9, .members = 9});
    for (uint64_t id = 1; id <= 5; id++) places_enter(&places, id, 7, id);
    places_claim(&places, 1, PLACE_MEMBER, 5, 9);
    places_claim(&places, 2, PLACE_MEMBER, 6, 9);
    places_claim(&places, 3, PLACE_MEMBER, 6, 9);
    places_claim(&places, 4, PLACE_ADMIN, 0, 0);
    CHECK(places_spare(&places, 9));
    CHECK_EQUAL(goes(&places, 9), 5);
    CHECK(places_spare(&places, 9));
    CHECK_EQUAL(goes(&places, 9), 2);
    CHECK(!places_spare(&places, 9));
    places_deinit(&places);
}

/* Whatever strangers and one greedy group do, the honest are there to the end: an admin, a member
 * of a small group, and a stranger of a source of its own until its time is up. */
TEST(no_storm_costs_the_honest_their_places) {
    struct random random;
    random_init(&random, 4711);
    enum { ADMIN = 1, MEMBER, STRANGER, FIRST };
    struct places places = places_of((struct places_limits){
        .strangers = 16, .members = 24, .admins = 4, .stranger_ms = 1000, .silent_ms = 50});
    for (uint64_t id = ADMIN; id < FIRST; id++) places_enter(&places, id, 1, 0);
    places_claim(&places, ADMIN, PLACE_ADMIN, 0, 0);
    places_claim(&places, MEMBER, PLACE_MEMBER, 1, 8);
    for (uint64_t id = FIRST, now_ms = 0; id < 3000; id++) {
        now_ms += random_below(&random, 2) && now_ms < 900;
        places_enter(&places, id, 2 + random_below(&random, 2), now_ms);
        places.items[places.count - 1].spoke = random_below(&random, 2);
        if (random_below(&random, 3) == 0)
            places_claim(&places, id, PLACE_MEMBER, 2 + random_below(&random, 6), 8);
        for (uint64_t gone; places_evict(&places, now_ms, &gone);) {
            CHECK(gone >= FIRST);
            if (random_below(&random, 2)) places_leave(&places, gone); /* or later */
        }
        size_t there = 0;
        for (size_t i = 0; i < places.count; i++) there += !places.items[i].leaving;
        CHECK(there <= 16 + 24 + 4);
    }
    places_deinit(&places);
}

TEST(of_equal_sources_the_one_whose_oldest_came_first_goes_whatever_its_number) {
    struct places places = places_of((struct places_limits){.strangers = 3});
    uint64_t gone;
    places_enter(&places, 1, 900, 0);
    places_enter(&places, 2, 800, 1);
    places_enter(&places, 3, 700, 2);
    places_enter(&places, 4, 1, 3); /* the lowest number, and the newest */
    CHECK(places_evict(&places, 3, &gone));
    CHECK_EQUAL(gone, 1);
    CHECK(!places_evict(&places, 3, &gone));
    places_deinit(&places);
}

TEST(who_is_known_at_once_takes_no_strangers_place_and_loses_none_to_strangers) {
    struct places places =
        places_of((struct places_limits){.strangers = 2, .members = 8, .admins = 2});
    uint64_t gone;
    places_enter(&places, 1, 7, 0);
    places_enter(&places, 2, 8, 1);
    places_enter_known(&places, 3, PLACE_MEMBER, 5, 4, 2);
    places_enter_known(&places, 4, PLACE_ADMIN, 0, 0, 3);
    CHECK(!places_evict(&places, 3, &gone));
    places_enter_known(&places, 5, PLACE_MEMBER, 5, 1, 4); /* its group's own oldest */
    CHECK(places_evict(&places, 4, &gone));
    CHECK_EQUAL(gone, 3);
    CHECK(!places_evict(&places, 4, &gone));
    places_deinit(&places);
}
