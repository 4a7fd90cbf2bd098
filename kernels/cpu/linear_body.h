/* Linear layers in fp32: three products over one register tile.
 *
 * The right-hand matrix is read from panels: [ceil(columns/32)][k][32] (32 = TILE_COLUMNS),
 * zero-padded, so that the inner loop loads it in order. The left-hand one is read where it lies, a
 * scalar broadcast at a time; whether its rows or its columns are contiguous is a pair of strides,
 * which is how one tile serves x W^T, dy W and dy^T x. Products longer than LINEAR_DEPTH are summed
 * in slices of that depth, so that a panel's slice stays in the first two caches. Rejected: packing
 * the left-hand side too (each of its values is used columns/32 times; a copy costs more than it
 * saves at the sizes that a site without a GPU trains); slices of 256, with blocks of rows that
 * stay in the second cache, and several tiles' columns of dy packed at a time (each 1 to 2 %
 * slower: the processor's own prefetching hides the second cache already).
 */
#ifndef KERNELS_CPU_LINEAR_BODY_H
#define KERNELS_CPU_LINEAR_BODY_H

#include <string.h>

#include "kernels/cpu/lanes.h"

enum { LINEAR_DEPTH = 1024, LINEAR_WEIGHT_ROWS = 256, LINEAR_APART_ROWS = 8 * TILE_ROWS };

enum { LINE = 64 / sizeof(float) }; /* floats a line of the caches */

/* Rows this far apart fall into a few sets of the first cache, where they drive each other out:
 * such a left-hand side is copied. */
static inline bool rows_collide(size_t stride) { return stride % 512 == 0; }

/* How the left-hand side of a product is read: element (i, k) is at data[i * row + k * step]. */
struct left {
    const float *data;
    size_t row, step;
};

/* One tile of `rows` (a constant after inlining) by TILE_COLUMNS: c = add + left panel, `add` NULL
 * for none. */
static ALWAYS_INLINE void tile_rows(size_t rows, size_t depth, const float *a, size_t row,
                                    size_t step, const float *panel, const float *add, float *c,
                                    size_t stride, size_t columns) {
    vf sum[TILE_ROWS][TILE_VECTORS];
    UNROLL for (size_t i = 0; i < rows; i++) __builtin_prefetch(c + i * stride, 1);
    UNROLL for (size_t i = 0; i < rows; i++) {
        UNROLL for (size_t v = 0; v < TILE_VECTORS; v++) sum[i][v] = vf_set(0.0f);
    }
    for (size_t k = 0; k < depth; k++) {
        vf right[TILE_VECTORS];
        UNROLL for (size_t v = 0; v < TILE_VECTORS; v++) right[v] = vf_load(panel + v * LANES);
        UNROLL for (size_t i = 0; i < rows; i++) {
            vf left = vf_set(a[i * row]);
            UNROLL for (size_t v = 0; v < TILE_VECTORS; v++) sum[i][v] =
                vf_fma(left, right[v], sum[i][v]);
        }
        a += step;
        panel += TILE_COLUMNS;
    }
    if (columns == TILE_COLUMNS) {
        UNROLL for (size_t i = 0; i < rows; i++) {
            UNROLL for (size_t v = 0; v < TILE_VECTORS; v++) {
                if (add) sum[i][v] = vf_load(add + i * stride + v * LANES) + sum[i][v];
                vf_store(c + i * stride + v * LANES, sum[i][v]);
            }
        }
        return;
    }
    UNROLL for (size_t i = 0; i < rows; i++) {
        UNROLL for (size_t v = 0; v < TILE_VECTORS; v++) {
            size_t left = lanes_left(columns, v * LANES);
            if (add && left)
                sum[i][v] = vf_load_some(add + i * stride + v * LANES, left, 0.0f) + sum[i][v];
            if (left) vf_store_some(c + i * stride + v * LANES, left, sum[i][v]);
        }
    }
}

#define TILE_CASE(n)                                                                               \
    case n: tile_rows(n, depth, a, row, step, panel, add, c, stride, columns); break;

/* Not inlined: one copy of each for contiguous columns (step 1) and for contiguous rows (row 1). */
static __attribute__((noinline)) void tile_by_rows(size_t rows, size_t depth, const float *a,
                                                   size_t row, const float *panel, const float *add,
                                                   float *c, size_t stride, size_t columns) {
    const size_t step = 1;
    switch (rows) {
        TILE_CASE(1)
        TILE_CASE(2)
        TILE_CASE(3)
        TILE_CASE(4)
#if TILE_ROWS > 4
        TILE_CASE(5)
        TILE_CASE(6)
#endif
#if TILE_ROWS > 6
        TILE_CASE(7)
        TILE_CASE(8)
        TILE_CASE(9)
        TILE_CASE(10)
        TILE_CASE(11)
        TILE_CASE(12)
#endif
    default: break;
    }
}

static __attribute__((noinline)) void tile_by_columns(size_t rows, size_t depth, const float *a,
                                                      size_t step, const float *panel,
                                                      const float *add, float *c, size_t stride,
                                                      size_t columns) {
    const size_t row = 1;
    switch (rows) {
        TILE_CASE(1)
        TILE_CASE(2)
        TILE_CASE(3)
        TILE_CASE(4)
#if TILE_ROWS > 4
        TILE_CASE(5)
        TILE_CASE(6)
#endif
#if TILE_ROWS > 6
        TILE_CASE(7)
        TILE_CASE(8)
        TILE_CASE(9)
        TILE_CASE(10)
        TILE_CASE(11)
        TILE_CASE(12)
#endif
    default: break;
    }
}

static inline void tile(size_t rows, size_t depth, struct left left, const float *panel,
                        const float *add, float *c, size_t stride, size_t columns) {
    if (left.step == 1)
        tile_by_rows(rows, depth, left.data, left.row, panel, add, c, stride, columns);
    else
        tile_by_columns(rows, depth, left.data, left.step, panel, add, c, stride, columns);
}

static inline size_t panels_size(size_t depth, size_t columns) {
    return round_up(columns, TILE_COLUMNS) * depth * sizeof(float);
}

/* Panels of a matrix whose rows are the depth: [depth][columns]. */
static void pack_straight(size_t depth, size_t columns, const float *source, size_t stride,
                          float *panels) {
    for (size_t at = 0; at < columns; at += TILE_COLUMNS)
        for (size_t k = 0; k < depth; k++, panels += TILE_COLUMNS) {
            const float *from = source + k * stride + at;
            for (size_t v = 0; v < TILE_COLUMNS; v += LANES) {
                size_t left = lanes_left(columns, at + v);
                vf_store(panels + v, left == LANES ? vf_load(from + v)
                                     : left        ? vf_load_some(from + v, left, 0.0f)
                                                   : vf_set(0.0f));
            }
        }
}

/* Panels of a matrix whose columns are the depth: [columns][depth], by blocks of LANES x LANES. */
static void pack_transposed(size_t depth, size_t columns, const float *source, size_t stride,
                            float *panels) {
    for (size_t at = 0; at < columns; at += LANES) {
        float *panel = panels + at / TILE_COLUMNS * TILE_COLUMNS * depth + at % TILE_COLUMNS;
        size_t rows = lanes_left(columns, at);
        for (size_t k = 0; k < depth; k += LANES) {
            size_t width = lanes_left(depth, k);
            vf block[LANES];
            UNROLL for (size_t i = 0; i < LANES; i++) {
                const float *from = source + (at + i) * stride + k;
                block[i] = i >= rows        ? vf_set(0.0f)
                           : width == LANES ? vf_load(from)
                                            : vf_load_some(from, width, 0.0f);
            }
            vf_transpose(block);
            for (size_t i = 0; i < width; i++) vf_store(panel + (k + i) * TILE_COLUMNS, block[i]);
        }
    }
    /* The last panel's vectors beyond the columns. */
    for (size_t at = round_up(columns, LANES); at < round_up(columns, TILE_COLUMNS); at += LANES) {
        float *panel = panels + at / TILE_COLUMNS * TILE_COLUMNS * depth + at % TILE_COLUMNS;
        for (size_t k = 0; k < depth; k++) vf_store(panel + k * TILE_COLUMNS, vf_set(0.0f));
    }
}

/* c[rows][columns] = add + left panels. While a panel's tiles are computed, the next one is asked
 * for, a piece a tile: it comes from far away, and no prefetcher foresees where it begins. */
static void product(size_t rows, size_t columns, size_t depth, struct left left,
                    const float *panels, const float *add, float *c, size_t stride) {
    if (!rows) return;
    if (!depth)
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 0; j < columns; j++)
                c[i * stride + j] = add ? add[i * stride + j] : 0.0f;
    for (size_t from = 0; from < depth; from += LINEAR_DEPTH) {
        size_t slice = MIN(depth - from, (size_t)LINEAR_DEPTH);
        struct left part = {left.data + from * left.step, left.row, left.step};
        size_t piece = round_up(slice * TILE_COLUMNS * TILE_ROWS / rows + 1, LINE);
        for (size_t j = 0; j < columns; j += TILE_COLUMNS) {
            const float *panel = panels + j * depth + from * TILE_COLUMNS, *next = panel,
                        *end = panel;
            if (j + TILE_COLUMNS < columns)
                next = panel + TILE_COLUMNS * depth, end = next + slice * TILE_COLUMNS;
            for (size_t i = 0; i < rows; i += TILE_ROWS) {
                for (const float *stop = next + MIN((size_t)(end - next), piece); next < stop;
                     next += LINE)
                    __builtin_prefetch(next, 0, 2);
                struct left here = {part.data + i * part.row, part.row, part.step};
                tile(MIN(rows - i, (size_t)TILE_ROWS), slice, here, panel,
                     add ? add + i * stride + j : NULL, c + i * stride + j, stride,
                     MIN(columns - j, (size_t)TILE_COLUMNS));
            }
        }
        add = c;
    }
}

static inline size_t linear_forward_size(size_t out, size_t in) { return panels_size(in, out); }
static inline size_t linear_backward_size(size_t out, size_t in) { return panels_size(out, in); }
static inline size_t linear_scratch_size(size_t rows, size_t out, size_t in) {
    size_t apart = MIN(rows, (size_t)LINEAR_APART_ROWS) * (MAX(in, out) + LANES) * sizeof(float);
    return MAX(panels_size(MIN(rows, (size_t)LINEAR_WEIGHT_ROWS), in), apart);
}

/* product of [rows][depth] in x, copied a block at a time where its rows collide. */
static inline void product_of_rows(size_t rows, size_t columns, size_t depth, const float *x,
                                   size_t x_stride, const float *panels, const float *add, float *c,
                                   size_t stride, float *scratch) {
    if (!rows_collide(x_stride)) {
        product(rows, columns, depth, (struct left){x, x_stride, 1}, panels, add, c, stride);
        return;
    }
    size_t apart = depth + LANES;
    for (size_t from = 0; from < rows; from += LINEAR_APART_ROWS) {
        size_t here = MIN(rows - from, (size_t)LINEAR_APART_ROWS);
        for (size_t i = 0; i < here; i++)
            memcpy(scratch + i * apart, x + (from + i) * x_stride, depth * sizeof(float));
        product(here, columns, depth, (struct left){scratch, apart, 1}, panels,
                add ? add + from * stride : NULL, c + from * stride, stride);
    }
}
static inline void linear_pack_forward(size_t out, size_t in, const float *w, void *packed) {
    pack_transposed(in, out, w, in, packed);
}
static inline void linear_pack_backward(size_t out, size_t in, const float *w, void *packed) {
    pack_straight(out, in, w, in, packed);
}

static inline void linear_forward(size_t rows, size_t out, size_t in, const float *x,
                                  size_t x_stride, const void *packed, const float *add, float *y,
                                  size_t y_stride, void *scratch) {
    product_of_rows(rows, out, in, x, x_stride, packed, add, y, y_stride, scratch);
}

static inline void linear_backward_input(size_t rows, size_t out, size_t in, const float *dy,
                                         size_t dy_stride, const void *packed, float *dx,
                                         size_t dx_stride, void *scratch) {
    product_of_rows(rows, in, out, dy, dy_stride, packed, NULL, dx, dx_stride, scratch);
}

/* A weight gradient over no rows. */
static inline void linear_copy(size_t count, const float *add, float *dw) {
    for (size_t i = 0; i < count; i++) dw[i] = add ? add[i] : 0.0f;
}

/* `tile` columns of dy, side by side: [depth][TILE_ROWS]. Whole vectors are stored, each over the
 * tail of the one before, so `apart` has room for one vector more. */
static inline void pack_left(size_t depth, size_t tile, const float *dy, size_t stride,
                             float *apart) {
    if (tile == TILE_ROWS && TILE_ROWS <= LANES)
        for (size_t k = 0; k < depth; k++, dy += stride, apart += TILE_ROWS)
            vf_store(apart, vf_load_some(dy, TILE_ROWS, 0.0f));
    else
        for (size_t k = 0; k < depth; k++, dy += stride, apart += TILE_ROWS)
            memcpy(apart, dy, tile * sizeof(float));
}

/* Here the depth is the rows of the batch; a group of dy's columns is read from the first cache
 * while all panels of x pass. */
static inline void linear_backward_weight(size_t rows, size_t out, size_t in, const float *dy,
                                          size_t dy_stride, const float *x, size_t x_stride,
                                          const float *add, float *dw, void *scratch) {
    float *panels = scratch, apart[LINEAR_WEIGHT_ROWS * TILE_ROWS + LANES];
    if (!rows) linear_copy(out * in, add, dw);
    for (size_t from = 0; from < rows; from += LINEAR_WEIGHT_ROWS, add = dw) {
        size_t depth = MIN(rows - from, (size_t)LINEAR_WEIGHT_ROWS);
        pack_straight(depth, in, x + from * x_stride, x_stride, panels);
        for (size_t i = 0; i < out; i += TILE_ROWS) {
            size_t tile = MIN(out - i, (size_t)TILE_ROWS);
            pack_left(depth, tile, dy + from * dy_stride + i, dy_stride, apart);
            for (size_t j = 0; j < in; j += TILE_COLUMNS)
                tile_by_columns(tile, depth, apart, TILE_ROWS, panels + j * depth,
                                add ? add + i * in + j : NULL, dw + i * in + j, in,
                                MIN(in - j, (size_t)TILE_COLUMNS));
        }
    }
}

#endif
