/* Linear layers with bfloat16 inputs and fp32 sums, on AVX512-BF16: vdpbf16ps multiplies two pairs
 * a lane, so a product costs half the instructions of linear_body.h's.
 *
 * The same register tile and panels, but a "step" is now a pair of neighbours along the depth, in
 * 32 bits: right-hand panels are [ceil(columns/32)][pairs][32] pairs, the left-hand side is
 * [rows][pairs], broadcast a pair at a time. An odd depth gets a zero after it. Activations are
 * rounded (to nearest even) on the way, a block of rows at a time, so that the rounded copy is
 * still in the cache when it is read; weights are rounded when they are packed. What is added up,
 * and all that is kept, stays fp32. Inputs too small for a normal number count as zero.
 */
#ifndef KERNELS_CPU_LINEAR_BF16_BODY_H
#define KERNELS_CPU_LINEAR_BF16_BODY_H

#include "kernels/cpu/linear_body.h"

enum {
    BF16_ROWS = 10 * TILE_ROWS, /* of activations rounded at a time */
    BF16_PAIRS = 512,           /* longest slice of the depth summed in registers */
    BF16_WEIGHT_PAIRS = 128,    /* the same where the depth is the rows of the batch */
};

typedef uint32_t pair; /* two bfloat16, the lower one first along the depth */

static inline size_t pairs_of(size_t depth) { return (depth + 1) / 2; }

/* Between rounded rows: a line more where they would collide in the first cache. */
static inline size_t bf16_row(size_t depth) {
    return pairs_of(depth) % 256 == 0 ? pairs_of(depth) + LANES : pairs_of(depth);
}

static inline __m512i pairs_load(const pair *p) { return _mm512_loadu_si512(p); }
/* 16 pairs of 32 neighbours along a row. */
static inline __m512i pairs_along(vf low, vf high) {
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}
/* 16 pairs, each of a value of `first` and the one below it in `second`. */
static inline __m512i pairs_across(vf first, vf second) {
    __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(second, first);
    const __m512i interleave =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(interleave, halves);
}
static ALWAYS_INLINE vf vf_get_or_zero(const float *p, size_t at, size_t count) {
    return at + LANES <= count ? vf_load(p + at)
           : at < count        ? vf_load_some(p + at, count - at, 0.0f)
                               : vf_set(0.0f);
}

/* --- packing ---------------------------------------------------------------------------------- */

static void bf16_round_rows(size_t rows, size_t depth, const float *x, size_t stride, pair *out) {
    size_t pairs = pairs_of(depth);
    for (size_t i = 0; i < rows; i++, x += stride, out += bf16_row(depth))
        for (size_t k = 0; k < pairs; k += LANES) {
            __m512i rounded = pairs_along(vf_get_or_zero(x, 2 * k, depth),
                                          vf_get_or_zero(x, 2 * k + LANES, depth));
            _mm512_mask_storeu_epi32(out + k, vf_some(lanes_left(pairs, k)), rounded);
        }
}

/* From [depth][columns]. */
static void bf16_pack_straight(size_t depth, size_t columns, const float *source, size_t stride,
                               pair *panels) {
    for (size_t at = 0; at < columns; at += TILE_COLUMNS)
        for (size_t k = 0; k < depth; k += 2, panels += TILE_COLUMNS)
            for (size_t v = 0; v < TILE_COLUMNS; v += LANES) {
                const float *row = source + k * stride;
                vf first = vf_get_or_zero(row, at + v, columns);
                vf second =
                    k + 1 < depth ? vf_get_or_zero(row + stride, at + v, columns) : vf_set(0.0f);
                _mm512_storeu_si512(panels + v, pairs_across(first, second));
            }
}

/* From [columns][depth]. */
static void bf16_pack_transposed(size_t depth, size_t columns, const float *source, size_t stride,
                                 pair *panels) {
    size_t pairs = pairs_of(depth);
    for (size_t at = 0; at < round_up(columns, TILE_COLUMNS); at += LANES) {
        pair *panel = panels + at / TILE_COLUMNS * TILE_COLUMNS * pairs + at % TILE_COLUMNS;
        for (size_t k = 0; k < pairs; k += LANES) {
            vf block[LANES];
            UNROLL for (size_t i = 0; i < LANES; i++) {
                const float *row = source + (at + i) * stride;
                block[i] = at + i >= columns
                               ? vf_set(0.0f)
                               : (vf)pairs_along(vf_get_or_zero(row, 2 * k, depth),
                                                 vf_get_or_zero(row, 2 * k + LANES, depth));
            }
            vf_transpose(block);
            for (size_t i = 0; i < MIN(pairs - k, (size_t)LANES); i++)
                vf_store((float *)(panel + (k + i) * TILE_COLUMNS), block[i]);
        }
    }
}

/* --- the tile --------------------------------------------------------------------------------- */

/* c = add + a panel for `rows` (a constant) rows; pair (i, k) of the left-hand side is a[i * row +
 * k * step]. */
static ALWAYS_INLINE void bf16_tile_rows(size_t rows, size_t pairs, const pair *a, size_t row,
                                         size_t step, const pair *panel, const float *add, float *c,
                                         size_t stride, size_t columns) {
    vf sum[TILE_ROWS][TILE_VECTORS];
    UNROLL for (size_t i = 0; i < rows; i++) {
        UNROLL for (size_t v = 0; v < TILE_VECTORS; v++) sum[i][v] = vf_set(0.0f);
    }
    for (size_t k = 0; k < pairs; k++) {
        __m512bh right[TILE_VECTORS];
        UNROLL for (size_t v = 0; v < TILE_VECTORS; v++) right[v] =
            (__m512bh)pairs_load(panel + v * LANES);
        UNROLL for (size_t i = 0; i < rows; i++) {
            __m512bh left = (__m512bh)_mm512_set1_epi32((int)a[i * row]);
            UNROLL for (size_t v = 0; v < TILE_VECTORS; v++) sum[i][v] =
                _mm512_dpbf16_ps(sum[i][v], left, right[v]);
        }
        a += step;
        panel += TILE_COLUMNS;
    }
    UNROLL for (size_t i = 0; i < rows; i++) {
        UNROLL for (size_t v = 0; v < TILE_VECTORS; v++) {
            __mmask16 some = vf_some(lanes_left(columns, v * LANES));
            size_t at = i * stride + v * LANES;
            if (add) sum[i][v] = _mm512_maskz_loadu_ps(some, add + at) + sum[i][v];
            _mm512_mask_storeu_ps(c + at, some, sum[i][v]);
        }
    }
}

#define BF16_CASE(n)                                                                               \
    case n: bf16_tile_rows(n, pairs, a, row, step, panel, add, c, stride, columns); break;

static __attribute__((noinline)) void bf16_tile_by_rows(size_t rows, size_t pairs, const pair *a,
                                                        size_t row, const pair *panel,
                                                        const float *add, float *c, size_t stride,
                                                        size_t columns) {
    const size_t step = 1;
    switch (rows) {
        BF16_CASE(1)
        BF16_CASE(2)
        BF16_CASE(3)
        BF16_CASE(4)
        BF16_CASE(5)
        BF16_CASE(6)
        BF16_CASE(7)
        BF16_CASE(8)
        BF16_CASE(9)
        BF16_CASE(10)
        BF16_CASE(11)
        BF16_CASE(12)
    default: break;
    }
}

static __attribute__((noinline)) void bf16_tile_by_columns(size_t rows, size_t pairs, const pair *a,
                                                           const pair *panel, const float *add,
                                                           float *c, size_t stride,
                                                           size_t columns) {
    const size_t row = 1, step = TILE_ROWS;
    switch (rows) {
        BF16_CASE(1)
        BF16_CASE(2)
        BF16_CASE(3)
        BF16_CASE(4)
        BF16_CASE(5)
        BF16_CASE(6)
        BF16_CASE(7)
        BF16_CASE(8)
        BF16_CASE(9)
        BF16_CASE(10)
        BF16_CASE(11)
        BF16_CASE(12)
    default: break;
    }
}

/* c[rows][columns] = add + x panels, x [rows][depth] in fp32. */
static void bf16_product(size_t rows, size_t columns, size_t depth, const float *x, size_t x_stride,
                         const pair *panels, const float *add, float *c, size_t stride,
                         pair *rounded) {
    size_t pairs = pairs_of(depth), row = bf16_row(depth);
    for (size_t from = 0; from < rows; from += BF16_ROWS) {
        size_t here = MIN(rows - from, (size_t)BF16_ROWS);
        bf16_round_rows(here, depth, x + from * x_stride, x_stride, rounded);
        const float *term = add ? add + from * stride : NULL;
        float *out = c + from * stride;
        for (size_t k = 0; k < pairs; k += BF16_PAIRS, term = out)
            for (size_t j = 0; j < columns; j += TILE_COLUMNS)
                for (size_t i = 0; i < here; i += TILE_ROWS)
                    bf16_tile_by_rows(MIN(here - i, (size_t)TILE_ROWS),
                                      MIN(pairs - k, (size_t)BF16_PAIRS), rounded + i * row + k,
                                      row, panels + j * pairs + k * TILE_COLUMNS,
                                      term ? term + i * stride + j : NULL, out + i * stride + j,
                                      stride, MIN(columns - j, (size_t)TILE_COLUMNS));
    }
}

/* --- the table's functions -------------------------------------------------------------------- */

static size_t bf16_panels_size(size_t depth, size_t columns) {
    return round_up(columns, TILE_COLUMNS) * pairs_of(depth) * sizeof(pair);
}
static size_t bf16_linear_forward_size(size_t out, size_t in) { return bf16_panels_size(in, out); }
static size_t bf16_linear_backward_size(size_t out, size_t in) { return bf16_panels_size(out, in); }

static size_t bf16_linear_scratch_size(size_t rows, size_t out, size_t in) {
    size_t products =
        MIN(rows, (size_t)BF16_ROWS) * MAX(bf16_row(in), bf16_row(out)) * sizeof(pair);
    size_t weights = bf16_panels_size(MIN(rows, (size_t)2 * BF16_WEIGHT_PAIRS), in);
    return MAX(products, weights);
}

static void bf16_linear_pack_forward(size_t out, size_t in, const float *w, void *packed) {
    bf16_pack_transposed(in, out, w, in, packed);
}
static void bf16_linear_pack_backward(size_t out, size_t in, const float *w, void *packed) {
    bf16_pack_straight(out, in, w, in, packed);
}

static void bf16_linear_forward(size_t rows, size_t out, size_t in, const float *x, size_t x_stride,
                                const void *packed, const float *add, float *y, size_t y_stride,
                                void *scratch) {
    bf16_product(rows, out, in, x, x_stride, packed, add, y, y_stride, scratch);
}

static void bf16_linear_backward_input(size_t rows, size_t out, size_t in, const float *dy,
                                       size_t dy_stride, const void *packed, float *dx,
                                       size_t dx_stride, void *scratch) {
    bf16_product(rows, in, out, dy, dy_stride, packed, NULL, dx, dx_stride, scratch);
}

/* A tile's columns of dy, as [pairs][TILE_ROWS] pairs. Whole vectors are stored, each over the tail
 * of the one before: `left` has room for one vector more. */
static void bf16_pack_left(size_t depth, size_t columns, const float *dy, size_t stride,
                           pair *left) {
    for (size_t k = 0; k < depth; k += 2, left += TILE_ROWS) {
        const float *row = dy + k * stride;
        vf first = vf_load_some(row, columns, 0.0f);
        vf second = k + 1 < depth ? vf_load_some(row + stride, columns, 0.0f) : vf_set(0.0f);
        _mm512_storeu_si512(left, pairs_across(first, second));
    }
}

static void bf16_linear_backward_weight(size_t rows, size_t out, size_t in, const float *dy,
                                        size_t dy_stride, const float *x, size_t x_stride,
                                        const float *add, float *dw, void *scratch) {
    pair *panels = scratch, left[BF16_WEIGHT_PAIRS * TILE_ROWS + LANES];
    if (!rows) linear_copy(out * in, add, dw);
    for (size_t from = 0; from < rows; from += 2 * BF16_WEIGHT_PAIRS, add = dw) {
        size_t depth = MIN(rows - from, (size_t)2 * BF16_WEIGHT_PAIRS), pairs = pairs_of(depth);
        bf16_pack_straight(depth, in, x + from * x_stride, x_stride, panels);
        for (size_t i = 0; i < out; i += TILE_ROWS) {
            size_t tile = MIN(out - i, (size_t)TILE_ROWS);
            bf16_pack_left(depth, tile, dy + from * dy_stride + i, dy_stride, left);
            for (size_t j = 0; j < in; j += TILE_COLUMNS)
                bf16_tile_by_columns(tile, pairs, left, panels + j * pairs,
                                     add ? add + i * in + j : NULL, dw + i * in + j, in,
                                     MIN(in - j, (size_t)TILE_COLUMNS));
        }
    }
}

#endif
