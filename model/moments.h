/* One of AdamW's two moments, [count], in fp32 or in bfloat16.
 *
 * In bfloat16 a value has 8 bits, and a moment that changes by less than half of the last one would
 * stand still if it were rounded to the nearest. So it is rounded up or down by chance, in
 * proportion: right on average. The chance is a function of (position, salt), the salt being the
 * step: the same bits on any number of threads, and after a restart. Saved states hold fp32 either
 * way; a bfloat16 is one exactly, so that loading what was saved changes nothing.
 */
#ifndef MODEL_MOMENTS_H
#define MODEL_MOMENTS_H

#include <stdbool.h>

#include "base/bytes.h"
#include "model/tensor_arena.h"

struct moments {
    uint64_t count;
    float *wide;      /* [count], or NULL */
    uint16_t *narrow; /* [count], or NULL */
};

void moments_plan(struct moments *moments, uint64_t count, bool narrow, struct tensor_arena *arena);
void moments_clear(struct moments *moments);
/* [at, at + count) as fp32, and back. Any thread, for ranges that do not overlap. */
void moments_read(const struct moments *moments, uint64_t at, uint64_t count, float *out);
void moments_write(struct moments *moments, uint64_t at, uint64_t count, const float *values,
                   uint64_t salt);
/* What of the salt goes into the chance: for who rounds elsewhere (kernels/cuda/optimizer.cu). */
uint32_t moments_salt(uint64_t salt);
/* All of it as little-endian fp32. */
void moments_save(const struct moments *moments, struct buffer *out);
void moments_load(struct moments *moments, const uint8_t *data);

#endif
