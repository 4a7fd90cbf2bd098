/* A binary heap. The item that is on its way to its place is kept behind the last one, in a slot
 * that is always there, so that each item on the way is copied once. */
#include "base/heap.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static char *slot(const struct heap *heap, size_t place) {
    return heap->items + place * heap->item_size;
}

static void put(struct heap *heap, size_t place, const void *item) {
    memcpy(slot(heap, place), item, heap->item_size);
    if (heap->placed) heap->placed(slot(heap, place), place);
}

void heap_init(struct heap *heap, size_t item_size, bool (*before)(const void *, const void *)) {
    *heap = (struct heap){.item_size = item_size, .before = before};
}

void heap_deinit(struct heap *heap) {
    free(heap->items);
    heap->items = NULL;
    heap->count = heap->capacity = 0;
}

/* Where an item belongs that is to go to this place or above it. Makes room for it. */
static size_t rise(struct heap *heap, size_t place, const void *item) {
    for (; place && heap->before(item, slot(heap, (place - 1) / 2)); place = (place - 1) / 2)
        put(heap, place, slot(heap, (place - 1) / 2));
    return place;
}

/* Likewise to this place or below it. */
static size_t sink(struct heap *heap, size_t place, const void *item) {
    for (size_t child; (child = 2 * place + 1) < heap->count; place = child) {
        if (child + 1 < heap->count && heap->before(slot(heap, child + 1), slot(heap, child)))
            child++;
        if (!heap->before(slot(heap, child), item)) break;
        put(heap, place, slot(heap, child));
    }
    return place;
}

/* The item is outside of the places below count. */
static void settle(struct heap *heap, size_t place, const void *item) {
    size_t higher = rise(heap, place, item);
    put(heap, higher < place ? higher : sink(heap, place, item), item);
}

void *heap_push(struct heap *heap, const void *item) {
    if (heap->count == heap->capacity) {
        heap->capacity = MAX(2 * heap->capacity, 64u);
        heap->items = xrealloc(heap->items, (heap->capacity + 1) * heap->item_size);
    }
    size_t place = rise(heap, heap->count++, item);
    put(heap, place, item);
    return slot(heap, place);
}

void *heap_first(const struct heap *heap) { return heap->count ? heap->items : NULL; }

void *heap_at(const struct heap *heap, size_t place) {
    ASSERT(place < heap->count);
    return slot(heap, place);
}

void heap_remove(struct heap *heap, size_t place, void *out) {
    ASSERT(place < heap->count);
    if (out) memcpy(out, slot(heap, place), heap->item_size);
    heap->count--; /* the last item stays behind the others, where nothing is put */
    if (place < heap->count) settle(heap, place, slot(heap, heap->count));
}

void heap_changed(struct heap *heap, size_t place) {
    ASSERT(place < heap->count);
    char *item = slot(heap, heap->capacity);
    memcpy(item, slot(heap, place), heap->item_size);
    settle(heap, place, item);
}

void heap_changed_all(struct heap *heap) {
    char *item = heap->count ? slot(heap, heap->capacity) : NULL;
    for (size_t place = heap->count; place-- > 0;) {
        memcpy(item, slot(heap, place), heap->item_size);
        put(heap, sink(heap, place, item), item);
    }
}
