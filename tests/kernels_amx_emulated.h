/* AMX's tiles in C, and the amx table compiled over them, so that its packing, padding and blocking
 * are tested on any machine.
 *
 * The emulation is Intel's description of LDTILECFG, TILELOADD, TILESTORED, TILEZERO and TDPBF16PS
 * (Software Developer's Manual, volume 2): palette 1, eight tiles of at most 16 rows of 64 bytes,
 * shapes that must fit each other; products of the pairs' lower and upper halves are summed apart
 * in fp32 over the depth, then together, then to what was there; denormal inputs count as zero and
 * denormal results become zero. What faults there fails the test here, use without a configuration
 * included. All else in this table is the portable one. Included by tests, before
 * tests/kernels_reference.h. */
#ifndef TESTS_KERNELS_AMX_EMULATED_H
#define TESTS_KERNELS_AMX_EMULATED_H

#include <stdbool.h>
#include <string.h>

#include "base/status.h"
#include "kernels/cpu/lanes_portable.h"

struct emulated_tiles {
    bool configured;
    uint16_t row_bytes[8];
    uint8_t rows[8];
    uint32_t data[8][16][16];
};
static struct emulated_tiles emulated;

static void emulated_begin(void) {
    ASSERT(!emulated.configured); /* allowed by the processor, but here it means that a release was
                                     forgotten */
    emulated = (struct emulated_tiles){.configured = true};
    for (int i = 0; i < 8; i++) emulated.row_bytes[i] = 64, emulated.rows[i] = 16;
}
static void emulated_end(void) {
    ASSERT(emulated.configured);
    emulated.configured = false;
}
static void emulated_zero(int t) {
    ASSERT(emulated.configured && t < 8 && emulated.rows[t]);
    memset(emulated.data[t], 0, sizeof emulated.data[t]);
}
static void emulated_load(int t, const void *memory, size_t stride) {
    ASSERT(emulated.configured && t < 8 && emulated.rows[t]);
    memset(emulated.data[t], 0, sizeof emulated.data[t]);
    for (size_t i = 0; i < emulated.rows[t]; i++)
        memcpy(emulated.data[t][i], (const char *)memory + i * stride, emulated.row_bytes[t]);
}
static void emulated_store(int t, void *memory, size_t stride) {
    ASSERT(emulated.configured && t < 8 && emulated.rows[t]);
    for (size_t i = 0; i < emulated.rows[t]; i++)
        memcpy((char *)memory + i * stride, emulated.data[t][i], emulated.row_bytes[t]);
}
static inline float emulated_float(uint32_t bits) { /* denormals are zero */
    if ((bits & 0x7f800000) == 0) bits &= 0x80000000;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static inline float emulated_flushed(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return emulated_float(bits);
}
static void emulated_product(int sum, int left, int right) {
    ASSERT(emulated.configured && sum < 8 && left < 8 && right < 8 && sum != left &&
           left != right && sum != right);
    ASSERT(emulated.rows[sum] == emulated.rows[left] &&
           emulated.row_bytes[sum] == emulated.row_bytes[right]);
    ASSERT(emulated.row_bytes[left] == emulated.rows[right] * 4);
    for (size_t m = 0; m < emulated.rows[sum]; m++)
        for (size_t n = 0; n < emulated.row_bytes[sum] / 4u; n++) {
            float low = 0.0f, high = 0.0f;
            for (size_t k = 0; k < emulated.rows[right]; k++) {
                uint32_t a = emulated.data[left][m][k], b = emulated.data[right][k][n];
                low = emulated_flushed(low + emulated_float(a << 16) * emulated_float(b << 16));
                high = emulated_flushed(high + emulated_float(a & 0xffff0000) *
                                                   emulated_float(b & 0xffff0000));
            }
            float result = emulated_flushed(emulated_float(emulated.data[sum][m][n]) +
                                            emulated_flushed(low + high));
            memcpy(&emulated.data[sum][m][n], &result, sizeof result);
        }
}

#define TILE_BEGIN() emulated_begin()
#define TILE_END() emulated_end()
#define TILE_ZERO(t) emulated_zero(t)
#define TILE_LOAD(t, memory, stride) emulated_load(t, memory, stride)
#define TILE_STORE(t, memory, stride) emulated_store(t, memory, stride)
#define TILE_PRODUCT(sum, left, right) emulated_product(sum, left, right)

#define KERNELS_TABLE kernels_amx_emulated
#define KERNELS_NAME "amx, emulated (bf16)"
#define LINEAR(function) amx_##function
#include "kernels/cpu/linear_amx_body.h"
#include "kernels/cpu/table_body.h"

/* The tables that this processor runs, then the emulated one. */
static inline const struct kernels *every_table_at(size_t index) {
    const struct kernels *table = kernels_at(index);
    return table || index == 0 || !kernels_at(index - 1) ? table : &kernels_amx_emulated;
}
#define FOR_EVERY_TABLE(k) for (size_t table_ = 0; (k = every_table_at(table_)); table_++)

#endif
