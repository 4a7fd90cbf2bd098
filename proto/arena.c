/* The bounded block that one message is decoded into (proto/arena.h). When it is used up the
 * message is refused, so a hostile message cannot allocate. */
#include "proto/arena.h"

#include <stdlib.h>

#include "base/memory.h"

enum { ALIGNMENT = 16 };

void arena_init(struct arena *arena, void *memory, size_t size) {
    *arena = (struct arena){.memory = memory, .size = size, .limit = size};
}

void arena_create(struct arena *arena, size_t size) {
    arena_init(arena, xmalloc(size), size);
    arena->owned = true;
}

void arena_deinit(struct arena *arena) {
    clear(arena->memory, arena->used); /* a message may have held a secret */
    if (arena->owned) free(arena->memory);
    *arena = (struct arena){0};
}

void arena_reset(struct arena *arena) {
    clear(arena->memory, arena->used);
    arena->used = 0;
    arena->limit = arena->size;
    arena->refused = false;
}

void *arena_take(struct arena *arena, size_t size) {
    /* The block may start anywhere: what is aligned is the address, not the offset. */
    size_t skip = (ALIGNMENT - ((uintptr_t)arena->memory + arena->used) % ALIGNMENT) % ALIGNMENT;
    size_t left = arena->limit - arena->used;
    if (!arena->memory || skip > left || size > left - skip) {
        arena->refused = true;
        return NULL;
    }
    uint8_t *piece = arena->memory + arena->used + skip;
    arena->used += skip + size;
    return piece;
}
