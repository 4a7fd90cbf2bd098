/* AdamW's moments in fp32 or bfloat16 (model/moments.h): memory, and to and from a saved state. */
#include "model/moments.h"

#include <string.h>

#include "base/memory.h"

enum { PIECE = 4096 };

void moments_plan(struct moments *moments, uint64_t count, bool narrow,
                  struct tensor_arena *arena) {
    *moments = (struct moments){.count = count};
    if (narrow)
        moments->narrow = tensor_arena_take(arena, count, sizeof *moments->narrow);
    else
        moments->wide = tensor_arena_floats(arena, count);
}

void moments_clear(struct moments *moments) {
    if (moments->narrow)
        memset(moments->narrow, 0, moments->count * sizeof *moments->narrow);
    else
        memset(moments->wide, 0, moments->count * sizeof *moments->wide);
}

void moments_read(const struct moments *moments, uint64_t at, uint64_t count, float *out) {
    if (!moments->narrow) {
        memcpy(out, moments->wide + at, count * sizeof *out);
        return;
    }
    for (uint64_t i = 0; i < count; i++) {
        uint32_t bits = (uint32_t)moments->narrow[at + i] << 16;
        memcpy(&out[i], &bits, sizeof bits);
    }
}

/* Sixteen bits of chance from 32 of position and step: two rounds of multiply and shift, all of
 * which vectorise. */
static inline uint32_t chance(uint32_t position, uint32_t salt) {
    uint32_t x = position * 0x9e3779b1u ^ salt;
    x = (x ^ x >> 15) * 0x85ebca77u;
    x = (x ^ x >> 13) * 0xc2b2ae3du;
    return x >> 16;
}

uint32_t moments_salt(uint64_t salt) {
    return (uint32_t)((salt + 1) * UINT64_C(0x9e3779b97f4a7c15) >> 32);
}

void moments_write(struct moments *moments, uint64_t at, uint64_t count, const float *values,
                   uint64_t salt) {
    if (!moments->narrow) {
        memcpy(moments->wide + at, values, count * sizeof *values);
        return;
    }
    uint32_t mixed = moments_salt(salt) ^ (uint32_t)(at >> 32);
    for (uint64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        /* Finite values only: a step that is not finite never comes here. At most the next larger
         * magnitude is reached. */
        moments->narrow[at + i] = (uint16_t)((bits + chance((uint32_t)(at + i), mixed)) >> 16);
    }
}

void moments_save(const struct moments *moments, struct buffer *out) {
    float piece[PIECE];
    for (uint64_t at = 0; at < moments->count; at += PIECE) {
        uint64_t here = MIN(moments->count - at, (uint64_t)PIECE);
        moments_read(moments, at, here, piece);
        buffer_append(out, piece, here * sizeof *piece);
    }
}

void moments_load(struct moments *moments, const uint8_t *data) {
    if (!moments->narrow) {
        memcpy(moments->wide, data, moments->count * sizeof *moments->wide);
        return;
    }
    /* the upper half */
    for (uint64_t i = 0; i < moments->count; i++) memcpy(&moments->narrow[i], data + 4 * i + 2, 2);
}
