#include "base/queue.h"

#include "base/clock.h"
#include "base/thread.h"
#include "tests/test.h"

static void *item(uintptr_t value) { return (void *)value; }

TEST(first_in_is_first_out_also_around_the_end) {
    struct queue *queue = queue_create(3);
    uintptr_t in = 1, out = 1;
    void *got = NULL;
    for (int round = 0; round < 10; round++) {
        while (queue_push(queue, item(in)) == OK) in++;
        CHECK_EQUAL(queue_size(queue), 3);
        for (int i = 0; i < 2; i++) {
            CHECK_STATUS(queue_pop(queue, 0, &got), OK);
            CHECK(got == item(out++));
        }
    }
    queue_destroy(queue);
    queue_destroy(NULL);
}

TEST(full_is_an_answer_and_empty_is_a_timeout) {
    struct queue *queue = queue_create(1);
    void *got = item(42);
    uint64_t before = clock_monotonic_ms();
    CHECK_STATUS(queue_pop(queue, 30, &got), TIMEOUT);
    CHECK(clock_monotonic_ms() - before >= 29);
    CHECK(got == item(42));
    CHECK_STATUS(queue_push(queue, item(1)), OK);
    CHECK_STATUS(queue_push(queue, item(2)), FULL);
    queue_destroy(queue);
}

TEST(a_closed_queue_takes_nothing_and_gives_what_it_has) {
    struct queue *queue = queue_create(4);
    void *got = NULL;
    CHECK_STATUS(queue_push(queue, item(1)), OK);
    queue_close(queue);
    CHECK_STATUS(queue_push(queue, item(2)), CANCELLED);
    CHECK_STATUS(queue_push_wait(queue, item(2)), CANCELLED);
    CHECK_STATUS(queue_pop(queue, UINT64_MAX, &got), OK);
    CHECK(got == item(1));
    CHECK_STATUS(queue_pop(queue, UINT64_MAX, &got), CANCELLED);
    queue_destroy(queue);
}

static void close_soon(void *context) {
    clock_sleep_ms(20);
    queue_close(context);
}
TEST(closing_wakes_those_who_wait_on_either_side) {
    struct error error = {0};
    struct thread *thread = NULL;
    void *got = NULL;
    struct queue *queue = queue_create(1);
    CHECK_OK(thread_start("closer", close_soon, queue, &thread, &error));
    CHECK_STATUS(queue_pop(queue, UINT64_MAX, &got), CANCELLED);
    CHECK_EQUAL(thread_join(thread, UINT64_MAX), OK);
    queue_destroy(queue);
    queue = queue_create(1);
    CHECK_STATUS(queue_push(queue, item(1)), OK);
    CHECK_OK(thread_start("closer", close_soon, queue, &thread, &error));
    CHECK_STATUS(queue_push_wait(queue, item(2)), CANCELLED);
    CHECK_EQUAL(thread_join(thread, UINT64_MAX), OK);
    queue_destroy(queue);
}

enum { ITEMS = 5000, PRODUCERS = 3 };
struct traffic {
    struct queue *queue;
    uint64_t sum;
};
static void produce(void *context) {
    for (uintptr_t i = 1; i <= ITEMS; i++) {
        if (queue_push_wait(context, item(i)) != OK) abort();
    }
}
static void consume(void *context) {
    struct traffic *traffic = context;
    void *got = NULL;
    while (queue_pop(traffic->queue, UINT64_MAX, &got) == OK) traffic->sum += (uintptr_t)got;
}
TEST(nothing_is_lost_or_doubled_between_threads) {
    struct error error = {0};
    struct traffic traffic[2] = {{queue_create(7), 0}, {NULL, 0}};
    traffic[1].queue = traffic[0].queue;
    struct thread *producers[PRODUCERS], *consumers[2];
    for (int i = 0; i < 2; i++)
        CHECK_OK(thread_start("consumer", consume, &traffic[i], &consumers[i], &error));
    for (int i = 0; i < PRODUCERS; i++)
        CHECK_OK(thread_start("producer", produce, traffic[0].queue, &producers[i], &error));
    for (int i = 0; i < PRODUCERS; i++) CHECK_EQUAL(thread_join(producers[i], UINT64_MAX), OK);
    queue_close(traffic[0].queue);
    for (int i = 0; i < 2; i++) CHECK_EQUAL(thread_join(consumers[i], UINT64_MAX), OK);
    CHECK_EQUAL(traffic[0].sum + traffic[1].sum, (uint64_t)PRODUCERS * ITEMS * (ITEMS + 1) / 2);
    queue_destroy(traffic[0].queue);
}
TEST_EXPECTED_TO(CRASH, a_queue_without_room_asserts) { queue_create(0); }
