/* The heap against sorting, with pushes, removals anywhere and changes in between. */
#include "base/heap.h"

#include <stdint.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "tests/test.h"

struct item {
    uint64_t key, number;
};

enum { NUMBERS = 400 };
static size_t place_of[NUMBERS]; /* SIZE_MAX: not in the heap */

static bool before(const void *a, const void *b) {
    const struct item *x = a, *y = b;
    return x->key != y->key ? x->key < y->key : x->number < y->number;
}

static void placed(const void *item, size_t place) {
    place_of[((const struct item *)item)->number] = place;
}

static struct item take_first(struct heap *heap) {
    struct item item = *(struct item *)heap_first(heap), taken;
    heap_remove(heap, 0, &taken);
    CHECK_EQUAL(taken.number, item.number);
    return item;
}

TEST(items_come_out_in_order_whatever_the_order_they_came_in) {
    struct heap heap;
    struct random random;
    random_init(&random, 1);
    heap_init(&heap, sizeof(struct item), before);
    CHECK(!heap_first(&heap));
    for (uint64_t i = 0; i < NUMBERS; i++) {
        struct item item = {random_hash(3, i) % 50, i};
        struct item *copy = heap_push(&heap, &item);
        CHECK(copy->number == i && copy->key == item.key);
    }
    for (size_t i = 0; i < NUMBERS; i++) {
        struct item *item = heap_at(&heap, i);
        item->key = 50 - item->key;
    }
    heap_changed_all(&heap);
    struct item last = take_first(&heap);
    for (size_t i = 1; i < NUMBERS; i++) {
        struct item next = take_first(&heap);
        CHECK(before(&last, &next));
        last = next;
    }
    CHECK(heap.count == 0 && !heap_first(&heap));
    heap_deinit(&heap);
}

static size_t least_of(const uint64_t *keys) {
    size_t least = SIZE_MAX;
    for (size_t i = 0; i < NUMBERS; i++) {
        if (place_of[i] == SIZE_MAX) continue;
        if (least == SIZE_MAX || keys[i] < keys[least]) least = i;
    }
    return least;
}

TEST(an_item_is_found_at_its_place_taken_out_anywhere_and_moved_when_it_changes) {
    struct heap heap;
    struct random random;
    uint64_t keys[NUMBERS] = {0};
    random_init(&random, 2);
    heap_init(&heap, sizeof(struct item), before);
    heap.placed = placed;
    for (size_t i = 0; i < NUMBERS; i++) place_of[i] = SIZE_MAX;
    for (int turn = 0; turn < 20000; turn++) {
        size_t number = (size_t)(random_unit(&random) * NUMBERS);
        uint64_t key = (uint64_t)(random_unit(&random) * 100);
        if (place_of[number] == SIZE_MAX) {
            heap_push(&heap, &(struct item){key, number});
            keys[number] = key;
        } else {
            struct item *item = heap_at(&heap, place_of[number]);
            CHECK_EQUAL(item->number, number);
            if (turn % 3 == 0) {
                heap_remove(&heap, place_of[number], NULL);
                place_of[number] = SIZE_MAX;
            } else {
                item->key = keys[number] = key;
                heap_changed(&heap, place_of[number]);
            }
        }
        size_t least = least_of(keys);
        const struct item *first = heap_first(&heap);
        CHECK((least == SIZE_MAX) == (first == NULL));
        if (first) CHECK_EQUAL(first->number, least);
    }
    heap_deinit(&heap);
}

TEST_EXPECTED_TO(CRASH, removing_from_an_empty_heap_asserts) {
    struct heap heap;
    heap_init(&heap, sizeof(struct item), before);
    heap_remove(&heap, 0, NULL);
}
