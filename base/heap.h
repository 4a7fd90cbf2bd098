/* A binary heap of items of one size, the least first: what comes next in a simulation, or a timer.
 *
 * Items are copied in and out. Their order must be total where it matters which of two equal items
 * comes first: a number that counts up with every push does that, and then what comes out does not
 * depend on the heap's shape. One owner; pushing allocates.
 */
#ifndef BASE_HEAP_H
#define BASE_HEAP_H

#include <stdbool.h>
#include <stddef.h>

struct heap {
    size_t item_size;
    bool (*before)(const void *a, const void *b);   /* a strict order */
    void (*placed)(const void *item, size_t place); /* an item was put there; NULL: nobody asks */
    size_t count, capacity;
    char *items; /* [count] of item_size, owned; item i comes before 2 i + 1 and 2 i + 2 */
};

void heap_init(struct heap *heap, size_t item_size, bool (*before)(const void *, const void *));
void heap_deinit(struct heap *heap); /* frees the items' memory, not what they own */
/* The item's copy; valid until the next change of the heap. */
void *heap_push(struct heap *heap, const void *item);
/* The least item, or the one at a place below count; valid until the next change. */
void *heap_first(const struct heap *heap); /* NULL: it is empty */
void *heap_at(const struct heap *heap, size_t place);
/* Takes out the item at a place, 0 for the least; out may be NULL. */
void heap_remove(struct heap *heap, size_t place, void *out);
/* The item at that place was changed by its owner. */
void heap_changed(struct heap *heap, size_t place);
void heap_changed_all(struct heap *heap); /* any of them were */

#endif
