/* One allocation, many arrays. A plan function takes all its arrays from an arena; run over an
 * empty arena it measures, run over one that has memory, it places. So what a thing says it will
 * take and what it takes are the same line of code.
 */
#ifndef MODEL_TENSOR_ARENA_H
#define MODEL_TENSOR_ARENA_H

#include <stddef.h>
#include <stdint.h>

struct tensor_arena {
    uint8_t *base; /* NULL: measure only */
    uint64_t used;
};

enum { ARENA_ALIGNMENT = 64 };

/* NULL while measuring. Sizes are bounded by model_config_check and trainer_check far below
 * overflow. */
static inline void *tensor_arena_take(struct tensor_arena *arena, uint64_t count, uint64_t size) {
    void *out = arena->base ? arena->base + arena->used : NULL;
    arena->used += (count * size + ARENA_ALIGNMENT - 1) / ARENA_ALIGNMENT * ARENA_ALIGNMENT;
    return out;
}
static inline float *tensor_arena_floats(struct tensor_arena *arena, uint64_t count) {
    return tensor_arena_take(arena, count, sizeof(float));
}

#endif
