/* Linear layers on AMX: bfloat16 inputs, fp32 sums, sixteen rows by sixteen columns by thirty-two
 * of the depth an instruction.
 *
 * The tile operations are five macros, which the file that includes this one gives first: the
 * processor's (training_amx.c), or an emulation of them, so that all that is here can be tested on
 * a machine without AMX.
 *     TILE_BEGIN(), TILE_END()               this thread's tiles: eight, each of 16 rows of 64
 *                                            bytes; and their release
 *     TILE_ZERO(t), TILE_LOAD(t, memory, stride), TILE_STORE(t, memory, stride), TILE_PRODUCT(sum,
 *     left, right)
 * Tiles are configured in every call, so nothing needs to know which thread it runs on, and they
 * are released at its end, so that the system does not save them when it switches threads.
 *
 * A block of the result is 32 x 32, four tiles of sums: each tile loaded is used twice. Everything
 * is padded with zeroes to whole tiles when it is rounded: right-hand panels are
 * [ceil(columns/32)][pairs][32] pairs of neighbours along the depth, left-hand sides [rows][pairs]
 * or, for weight gradients, whole tiles one after another. Rounding is to nearest even; inputs too
 * small for a normal number count as zero, as the processor itself has it; a NaN stays one.
 */
#ifndef KERNELS_CPU_LINEAR_AMX_BODY_H
#define KERNELS_CPU_LINEAR_AMX_BODY_H

#include <string.h>

#include "kernels/cpu/linear_body.h"

enum {
    AMX_SIDE = 16,        /* rows of a tile, and its columns in 32 bits */
    AMX_BLOCK = 32,       /* rows and columns of a block of the result */
    AMX_ROWS = 128,       /* of activations rounded at a time */
    AMX_WEIGHT_ROWS = 256 /* depth of a weight gradient's products */
};

typedef uint32_t amx_pair; /* two bfloat16, the lower one first along the depth */

static inline size_t amx_pairs(size_t depth) { return round_up((depth + 1) / 2, AMX_SIDE); }
/* Between rounded rows: a line more where they would collide in the first cache. */
static inline size_t amx_row(size_t depth) {
    return amx_pairs(depth) % 256 == 0 ? amx_pairs(depth) + AMX_SIDE : amx_pairs(depth);
}

static inline uint32_t amx_round(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) rounded = (bits >> 16) | 0x40;
    if (magnitude < 0x00800000) rounded = (bits >> 16) & 0x8000;
    return rounded;
}
static inline amx_pair amx_pair_of(float first, float second) {
    return amx_round(first) | amx_round(second) << 16;
}

/* --- packing ---------------------------------------------------------------------------------- */

/* x [rows][depth], and zero rows up to whole tiles. */
static void amx_round_rows(size_t rows, size_t depth, const float *x, size_t stride,
                           amx_pair *out) {
    size_t row = amx_row(depth);
    for (size_t i = 0; i < round_up(rows, AMX_BLOCK); i++, out += row) {
        size_t whole = i < rows ? depth / 2 : 0;
        const float *from = x + (i < rows ? i : 0) * stride;
        for (size_t k = 0; k < whole; k++) out[k] = amx_pair_of(from[2 * k], from[2 * k + 1]);
        memset(out + whole, 0, (row - whole) * sizeof *out);
        if (i < rows && depth % 2) out[whole] = amx_pair_of(from[depth - 1], 0.0f);
    }
}

/* Panels of source [depth][columns] (column_step 1) or, with the steps swapped, of its transpose.
 */
static void amx_pack(size_t depth, size_t columns, const float *source, size_t depth_step,
                     size_t column_step, amx_pair *panels) {
    for (size_t at = 0; at < columns; at += AMX_BLOCK)
        for (size_t k = 0; k < 2 * amx_pairs(depth); k += 2, panels += AMX_BLOCK) {
            size_t here = k < depth ? MIN(columns - at, (size_t)AMX_BLOCK) : 0;
            const float *from = here ? source + k * depth_step + at * column_step : source;
            memset(panels + here, 0, (AMX_BLOCK - here) * sizeof *panels);
            if (k + 1 < depth)
                for (size_t j = 0; j < here; j++)
                    panels[j] =
                        amx_pair_of(from[j * column_step], from[j * column_step + depth_step]);
            else
                for (size_t j = 0; j < here; j++)
                    panels[j] = amx_pair_of(from[j * column_step], 0.0f);
        }
}

/* A block's columns of dy [depth][columns], transposed: for each 32 of the depth two tiles, one
 * after the other. */
static void amx_pack_left(size_t depth, size_t columns, const float *dy, size_t stride,
                          amx_pair *left) {
    for (size_t k = 0; k < amx_pairs(depth); k++) {
        amx_pair *to = left + k / AMX_SIDE * AMX_SIDE * AMX_BLOCK + k % AMX_SIDE;
        const float *first = 2 * k < depth ? dy + 2 * k * stride : NULL,
                    *second = 2 * k + 1 < depth ? first + stride : NULL;
        for (size_t i = 0; i < AMX_BLOCK; i++)
            to[i * AMX_SIDE] =
                first && i < columns ? amx_pair_of(first[i], second ? second[i] : 0.0f) : 0;
    }
}

/* --- a block ---------------------------------------------------------------------------------- */

struct amx_left { /* tile (i, k) of the left-hand side begins at data + i * tile + k * step; its
                     rows are `row` apart, in pairs */
    const amx_pair *data;
    size_t row, tile, step;
};

/* c[rows][columns] = add + left panel, rows and columns at most AMX_BLOCK; tiles must be
 * configured. */
static void amx_block(size_t rows, size_t columns, size_t pairs, struct amx_left left,
                      const amx_pair *panel, const float *add, float *c, size_t stride) {
    float sums[AMX_BLOCK][AMX_BLOCK];
    __asm__ volatile(
        "" ::
            : "memory"); /* some compilers' tile loads do not say that they read memory */
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    for (size_t k = 0; k < pairs;
         k += AMX_SIDE, left.data += left.step, panel += AMX_SIDE * AMX_BLOCK) {
        TILE_LOAD(4, left.data, left.row * sizeof(amx_pair));
        TILE_LOAD(6, panel, AMX_BLOCK * sizeof(amx_pair));
        TILE_PRODUCT(0, 4, 6);
        TILE_LOAD(7, panel + AMX_SIDE, AMX_BLOCK * sizeof(amx_pair));
        TILE_PRODUCT(1, 4, 7);
        if (rows <= AMX_SIDE) continue;
        TILE_LOAD(5, left.data + left.tile, left.row * sizeof(amx_pair));
        TILE_PRODUCT(2, 5, 6);
        TILE_PRODUCT(3, 5, 7);
    }
    TILE_STORE(0, &sums[0][0], sizeof sums[0]);
    TILE_STORE(1, &sums[0][AMX_SIDE], sizeof sums[0]);
    TILE_STORE(2, &sums[AMX_SIDE][0], sizeof sums[0]);
    TILE_STORE(3, &sums[AMX_SIDE][AMX_SIDE], sizeof sums[0]);
    __asm__ volatile("" ::: "memory");
    for (size_t i = 0; i < rows; i++, c += stride) {
        FOR_LANES(j, columns) {
            vf sum = vf_load(&sums[i][j]);
            if (add) sum = vf_get(add + i * stride, j, columns) + sum;
            vf_put(c, j, columns, sum);
        }
    }
}

/* c[rows][columns] = add + x panels, x [rows][depth] in fp32. */
static void amx_product(size_t rows, size_t columns, size_t depth, const float *x, size_t x_stride,
                        const amx_pair *panels, const float *add, float *c, size_t stride,
                        amx_pair *rounded) {
    size_t pairs = amx_pairs(depth), row = amx_row(depth);
    TILE_BEGIN();
    for (size_t from = 0; from < rows; from += AMX_ROWS) {
        size_t here = MIN(rows - from, (size_t)AMX_ROWS);
        amx_round_rows(here, depth, x + from * x_stride, x_stride, rounded);
        for (size_t j = 0; j < columns; j += AMX_BLOCK)
            for (size_t i = 0; i < here; i += AMX_BLOCK) {
                struct amx_left left = {rounded + i * row, row, AMX_SIDE * row, AMX_SIDE};
                size_t at = (from + i) * stride + j;
                amx_block(MIN(here - i, (size_t)AMX_BLOCK), MIN(columns - j, (size_t)AMX_BLOCK),
                          pairs, left, panels + j * pairs, add ? add + at : NULL, c + at, stride);
            }
    }
    TILE_END();
}

/* --- the table's functions -------------------------------------------------------------------- */

static size_t amx_panels_size(size_t depth, size_t columns) {
    return round_up(columns, AMX_BLOCK) * amx_pairs(depth) * sizeof(amx_pair);
}
static size_t amx_linear_forward_size(size_t out, size_t in) { return amx_panels_size(in, out); }
static size_t amx_linear_backward_size(size_t out, size_t in) { return amx_panels_size(out, in); }

static size_t amx_linear_scratch_size(size_t rows, size_t out, size_t in) {
    size_t products = round_up(MIN(rows, (size_t)AMX_ROWS), AMX_BLOCK) *
                      MAX(amx_row(in), amx_row(out)) * sizeof(amx_pair);
    return MAX(products, amx_panels_size(MIN(rows, (size_t)AMX_WEIGHT_ROWS), in));
}

static void amx_linear_pack_forward(size_t out, size_t in, const float *w, void *packed) {
    amx_pack(in, out, w, 1, in, packed);
}
static void amx_linear_pack_backward(size_t out, size_t in, const float *w, void *packed) {
    amx_pack(out, in, w, in, 1, packed);
}

static void amx_linear_forward(size_t rows, size_t out, size_t in, const float *x, size_t x_stride,
                               const void *packed, const float *add, float *y, size_t y_stride,
                               void *scratch) {
    amx_product(rows, out, in, x, x_stride, packed, add, y, y_stride, scratch);
}

static void amx_linear_backward_input(size_t rows, size_t out, size_t in, const float *dy,
                                      size_t dy_stride, const void *packed, float *dx,
                                      size_t dx_stride, void *scratch) {
    amx_product(rows, in, out, dy, dy_stride, packed, NULL, dx, dx_stride, scratch);
}

static void amx_linear_backward_weight(size_t rows, size_t out, size_t in, const float *dy,
                                       size_t dy_stride, const float *x, size_t x_stride,
                                       const float *add, float *dw, void *scratch) {
    amx_pair *panels = scratch, left[AMX_BLOCK * AMX_WEIGHT_ROWS / 2];
    if (!rows) linear_copy(out * in, add, dw);
    TILE_BEGIN();
    for (size_t from = 0; from < rows; from += AMX_WEIGHT_ROWS, add = dw) {
        size_t depth = MIN(rows - from, (size_t)AMX_WEIGHT_ROWS), pairs = amx_pairs(depth);
        amx_pack(depth, in, x + from * x_stride, x_stride, 1, panels);
        for (size_t i = 0; i < out; i += AMX_BLOCK) {
            size_t here = MIN(out - i, (size_t)AMX_BLOCK);
            amx_pack_left(depth, here, dy + from * dy_stride + i, dy_stride, left);
            struct amx_left tiles = {left, AMX_SIDE, AMX_SIDE * AMX_SIDE, AMX_SIDE * AMX_BLOCK};
            for (size_t j = 0; j < in; j += AMX_BLOCK)
                amx_block(here, MIN(in - j, (size_t)AMX_BLOCK), pairs, tiles, panels + j * pairs,
                          add ? add + i * in + j : NULL, dw + i * in + j, in);
        }
    }
    TILE_END();
}

#endif
