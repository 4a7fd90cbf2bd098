/* The simulated world: what a process that stands still gets when it goes on, and in which order.
 */
#include "base/memory.h"
#include "sim/world.h"
#include "tests/test.h"

enum { SITE = 3 };

struct arrivals {
    uint64_t numbers[16];
    uint64_t at[16];
    size_t count;
    struct world *world;
};

static void note(void *context, struct event *event) {
    struct arrivals *seen = context;
    CHECK(seen->count < COUNT_OF(seen->numbers));
    seen->at[seen->count] = seen->world->now;
    seen->numbers[seen->count++] = event->number;
}

static void post(struct world *world, struct arrivals *seen, uint64_t delay, uint64_t number) {
    world_post(world, delay, SITE, note, seen, NULL)->number = number;
}

static void run_until(struct world *world, uint64_t until) {
    while (world_step(world, until)) continue;
    world->now = until;
}

static void check_order(const struct arrivals *seen, size_t count) {
    CHECK_EQUAL(seen->count, count);
    for (size_t i = 0; i < count; i++) CHECK_EQUAL(seen->numbers[i], i + 1);
}

TEST(what_waited_for_a_process_comes_in_the_order_in_which_it_was_due) {
    struct world world;
    struct arrivals seen = {.world = &world};
    world_init(&world, 1);
    process_start(&world, SITE);
    process_freeze(&world, SITE, 100 * MS);
    post(&world, &seen, 30 * MS, 3);
    post(&world, &seen, 20 * MS, 2);
    post(&world, &seen, 10 * MS, 1);
    post(&world, &seen, 100 * MS, 4);
    run_until(&world, SECOND + 99 * MS);
    CHECK_EQUAL(seen.count, 0);
    post(&world, &seen, 10 * MS, 5);
    run_until(&world, SECOND + 200 * MS);
    check_order(&seen, 5);
    CHECK_EQUAL(seen.at[0], SECOND + 100 * MS);
    world_deinit(&world);
}

/* Two entries of a ledger: the first waits while the site stands still, the second is sent once it
 * goes on, earlier than planned. */
TEST(a_process_that_goes_on_early_gets_what_waited_before_what_is_sent_later) {
    struct world world;
    struct arrivals seen = {.world = &world};
    world_init(&world, 1);
    process_start(&world, SITE);
    process_freeze(&world, SITE, 900 * MS);
    post(&world, &seen, 20 * MS, 2);
    post(&world, &seen, 10 * MS, 1);
    post(&world, &seen, 250 * MS, 4);
    run_until(&world, SECOND + 200 * MS);
    CHECK_EQUAL(seen.count, 0);
    process_thaw(&world, SITE);
    post(&world, &seen, 1 * MS, 3);
    run_until(&world, SECOND + 300 * MS);
    check_order(&seen, 4);
    CHECK_EQUAL(seen.at[0], SECOND + 200 * MS);
    CHECK_EQUAL(seen.at[3], SECOND + 250 * MS);
    world_deinit(&world);
}
