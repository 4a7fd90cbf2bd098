/* Memory for one decoded message: a fixed block from which pieces are cut and which is given back
 * as a whole.
 *
 * protobuf-c allocates as the sender pleases: 4 MB of empty sub-messages became 285 MB. Here its
 * allocator cuts from a block that the receiver sized beforehand; when the block is used up, the
 * message is refused. Nothing is freed one by one. What a decoded message lends (texts, bytes,
 * arrays) lives in the arena: it is valid until arena_reset or the end of the block. One owner, no
 * lock: an arena for each call or thread.
 */
#ifndef PROTO_ARENA_H
#define PROTO_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Enough for the largest legal message of any type (the tests hold it to that). */
enum { ARENA_SIZE = 384 * 1024 };

struct arena {
    uint8_t *memory; /* [size] */
    size_t size;
    size_t used;
    size_t limit; /* not past here, for the message being decoded; at most size */
    bool refused; /* something was asked for that did not fit; cleared by arena_reset */
    bool owned;   /* arena_deinit frees the block */
};

/* Over the caller's block, which it goes on owning. */
void arena_init(struct arena *arena, void *memory, size_t size);
/* With a block of its own from the heap. Ends with arena_deinit, which is a no-op on {0} and on
 * arenas over a caller's block. */
void arena_create(struct arena *arena, size_t size);
void arena_deinit(struct arena *arena);
/* Everything lent from it is gone. */
void arena_reset(struct arena *arena);
/* 16-byte aligned, not zeroed; NULL where it does not fit. A size of 0 gives a valid pointer. */
void *arena_take(struct arena *arena, size_t size);

#endif
