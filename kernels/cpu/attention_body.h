/* Causal attention over one sequence, a block of ATTENTION_ROWS query rows at a time.
 *
 * A block's scores against all keys it may see are a small matrix in scratch; nothing of length x
 * length is ever kept. The forward pass leaves each row's log-sum-exp, from which the backward pass
 * makes the weights P again (Dao et al., arXiv 2205.14135): with D_i = do_i . o_i,
 *     dP = dO V^T,  dS = P * (dP - D),  dQ = dS K,  dK += dS^T Q,  dV += P^T dO
 * where S carries the 1/sqrt(head_size). All six products run on the tile of linear_body.h; keys
 * and values are packed once per key/value head, which with grouped queries serves several query
 * heads.
 */
#ifndef KERNELS_CPU_ATTENTION_BODY_H
#define KERNELS_CPU_ATTENTION_BODY_H

#include <math.h>

#include "kernels/cpu/linear_body.h"
#include "kernels/cpu/loss_body.h"

enum { ATTENTION_ROWS = 48 }; /* a multiple of every TILE_ROWS */

struct attention_scratch {
    float *keys_t, *values_t;   /* panels [ceil(length/columns)][head_size][columns] */
    float *keys, *values;       /* panels [ceil(head_size/columns)][length][columns] */
    float *queries, *d_out;     /* panels [ceil(head_size/columns)][ATTENTION_ROWS][columns] */
    float *weights, *d_weights; /* [ATTENTION_ROWS][width] */
    size_t width;               /* length, rounded up to whole panels */
};

static size_t attention_scratch_size(const struct attention_shape *shape) {
    size_t width = round_up(shape->length, TILE_COLUMNS),
           head = round_up(shape->head_size, TILE_COLUMNS);
    return (2 * width * shape->head_size + 2 * head * shape->length + 2 * head * ATTENTION_ROWS +
            2 * width * ATTENTION_ROWS) *
           sizeof(float);
}

static struct attention_scratch attention_scratch_of(const struct attention_shape *shape,
                                                     void *memory) {
    size_t width = round_up(shape->length, TILE_COLUMNS),
           head = round_up(shape->head_size, TILE_COLUMNS);
    struct attention_scratch s = {.keys_t = memory, .width = width};
    s.values_t = s.keys_t + width * shape->head_size;
    s.keys = s.values_t + width * shape->head_size;
    s.values = s.keys + head * shape->length;
    s.queries = s.values + head * shape->length;
    s.d_out = s.queries + head * ATTENTION_ROWS;
    s.weights = s.d_out + head * ATTENTION_ROWS;
    s.d_weights = s.weights + width * ATTENTION_ROWS;
    return s;
}

/* scores[rows][..] = left keys, for the keys that a tile's rows may see; what lies beyond is left
 * as it is. */
static void attention_scores(const struct attention_scratch *s, size_t rows, size_t from,
                             size_t size, const float *left, size_t stride, const float *keys_t,
                             float *scores) {
    for (size_t j = 0; j < from + rows; j += TILE_COLUMNS)
        for (size_t i = j > from ? (j - from) / TILE_ROWS * TILE_ROWS : 0; i < rows; i += TILE_ROWS)
            tile_by_rows(MIN(rows - i, (size_t)TILE_ROWS), size, left + i * stride, stride,
                         keys_t + j * size, NULL, scores + i * s->width + j, s->width,
                         TILE_COLUMNS);
}

/* c[rows][size] = weights values, over the keys that a tile's rows may see. */
static void attention_gather(const struct attention_scratch *s, size_t rows, size_t from,
                             size_t size, size_t length, const float *weights, const float *values,
                             float *c, size_t stride) {
    for (size_t j = 0; j < size; j += TILE_COLUMNS)
        for (size_t i = 0; i < rows; i += TILE_ROWS) {
            size_t here = MIN(rows - i, (size_t)TILE_ROWS);
            tile_by_rows(here, from + i + here, weights + i * s->width, s->width,
                         values + j * length, NULL, c + i * stride + j, stride,
                         MIN(size - j, (size_t)TILE_COLUMNS));
        }
}

/* A row's last vector may reach beyond the `count` keys that it sees, and a tile reads up to
 * TILE_ROWS - 1 weights beyond: there, they are zero. What was there were scores of keys further
 * on. */
static inline void attention_close(float *row, size_t count, size_t width) {
    size_t whole = count / LANES * LANES, end = round_up(count, LANES);
    if (whole < count) vf_store(row + whole, vf_keep(vf_load(row + whole), count - whole));
    if (end < width) vf_store(row + end, vf_set(0.0f));
}

/* The row's scores x become weights e^(scale x - shift), zero after `count`; returns their sum. */
static float attention_exp(size_t count, size_t width, float *x, float scale, float shift) {
    vf sum = vf_set(0.0f), factor = vf_set(scale), less = vf_set(-shift);
    size_t whole = count / LANES * LANES;
    for (size_t at = 0; at < whole; at += LANES) {
        vf e = vf_exp(vf_fma(vf_load(x + at), factor, less));
        vf_store(x + at, e);
        sum = sum + e;
    }
    if (whole < count) {
        vf e = vf_keep(vf_exp(vf_fma(vf_load(x + whole), factor, less)), count - whole);
        vf_store(x + whole, e);
        sum = sum + e;
    }
    attention_close(x, round_up(count, LANES), width);
    return vf_sum(sum);
}

static void attention_forward(const struct attention_shape *shape, const float *qkv, float *out,
                              float *lse, void *scratch) {
    struct attention_scratch s = attention_scratch_of(shape, scratch);
    size_t stride = attention_qkv_width(shape), out_stride = shape->heads * shape->head_size,
           size = shape->head_size;
    size_t group = shape->heads / shape->kv_heads;
    float scale = 1.0f / sqrtf((float)size);
    for (size_t head = 0; head < shape->heads; head++) {
        const float *q = qkv + head * size, *k = qkv + (shape->heads + head / group) * size,
                    *v = k + shape->kv_heads * size;
        if (head % group == 0) {
            pack_transposed(size, shape->length, k, stride, s.keys_t);
            pack_straight(shape->length, size, v, stride, s.values);
        }
        for (size_t from = 0; from < shape->length; from += ATTENTION_ROWS) {
            size_t rows = MIN(shape->length - from, (size_t)ATTENTION_ROWS);
            attention_scores(&s, rows, from, size, q + from * stride, stride, s.keys_t, s.weights);
            float inverse[ATTENTION_ROWS];
            for (size_t i = 0; i < rows; i++) {
                float *row = s.weights + i * s.width;
                size_t count = from + i + 1;
                float top = row_top(count, row) * scale,
                      sum = attention_exp(count, s.width, row, scale, top);
                inverse[i] = 1.0f / sum;
                lse[head * shape->length + from + i] = top + logf(sum);
            }
            float *o = out + from * out_stride + head * size;
            attention_gather(&s, rows, from, size, shape->length, s.weights, s.values, o,
                             out_stride);
            for (size_t i = 0; i < rows; i++) FOR_LANES(j, size)
            vf_put(o + i * out_stride, j, size,
                   vf_get(o + i * out_stride, j, size) * vf_set(inverse[i]));
        }
    }
}

/* Weights P and d_weights dS (with the scale in it) of `rows` rows from row `from` of one head,
 * zero where a key is not seen. */
static void attention_weights(const struct attention_scratch *s, size_t rows, size_t from,
                              size_t size, size_t out_stride, const float *out, const float *d_out,
                              const float *lse, float scale) {
    for (size_t i = 0; i < rows; i++) {
        float *p = s->weights + i * s->width, *d = s->d_weights + i * s->width;
        vf dot = vf_set(0.0f);
        FOR_LANES(j, size)
        dot = vf_fma(vf_get(out + i * out_stride, j, size), vf_get(d_out + i * out_stride, j, size),
                     dot);
        vf row_dot = vf_set(vf_sum(dot)), less = vf_set(-lse[i]), factor = vf_set(scale);
        size_t count = from + i + 1;
        FOR_LANES(j, count) { /* whole vectors: what lies after them is closed below */
            vf weight = vf_exp(vf_fma(vf_load(p + j), factor, less));
            vf_store(p + j, weight);
            vf_store(d + j, weight * (vf_load(d + j) - row_dot) * factor);
        }
        attention_close(p, count, s->width);
        attention_close(d, count, s->width);
    }
}

/* c[keys][size] += a^T panels, where a is [rows][keys] from row `from`: of each tile's keys, over
 * the rows that see one. */
static void attention_scatter(size_t rows, size_t from, size_t size, const float *a, size_t width,
                              const float *panels, float *c, size_t stride) {
    for (size_t i = 0; i < from + rows; i += TILE_ROWS) {
        size_t first = i > from ? i - from : 0, here = MIN(from + rows - i, (size_t)TILE_ROWS);
        for (size_t j = 0; j < size; j += TILE_COLUMNS)
            tile_by_columns(here, rows - first, a + first * width + i, width,
                            panels + j * rows + first * TILE_COLUMNS, c + i * stride + j,
                            c + i * stride + j, stride, MIN(size - j, (size_t)TILE_COLUMNS));
    }
}

/* Asks for rows of one head, which lie too far apart for the processor to foresee. */
static inline void attention_ask(size_t rows, size_t size, const float *x, size_t stride) {
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < size; j += LINE) __builtin_prefetch(x + i * stride + j, 0, 2);
}

static void attention_backward(const struct attention_shape *shape, const float *qkv,
                               const float *out, const float *lse, const float *d_out, float *d_qkv,
                               void *scratch) {
    struct attention_scratch s = attention_scratch_of(shape, scratch);
    size_t stride = attention_qkv_width(shape), out_stride = shape->heads * shape->head_size,
           size = shape->head_size;
    size_t group = shape->heads / shape->kv_heads;
    float scale = 1.0f / sqrtf((float)size);
    for (size_t i = 0; i < shape->length; i++) /* keys and values gather from many rows and heads */
        for (size_t j = out_stride; j < stride; j++) d_qkv[i * stride + j] = 0.0f;
    for (size_t head = 0; head < shape->heads; head++) {
        size_t k_at = (shape->heads + head / group) * size, v_at = k_at + shape->kv_heads * size;
        const float *q = qkv + head * size;
        if (head % group == 0) {
            pack_transposed(size, shape->length, qkv + k_at, stride, s.keys_t);
            pack_transposed(size, shape->length, qkv + v_at, stride, s.values_t);
            pack_straight(shape->length, size, qkv + k_at, stride, s.keys);
        }
        for (size_t from = 0; from < shape->length; from += ATTENTION_ROWS) {
            size_t rows = MIN(shape->length - from, (size_t)ATTENTION_ROWS);
            const float *q_rows = q + from * stride,
                        *do_rows = d_out + from * out_stride + head * size;
            if (head + 1 < shape->heads) {
                attention_ask(rows, size, q_rows + size, stride);
                attention_ask(rows, size, out + from * out_stride + (head + 1) * size, out_stride);
                if ((head + 1) % group == 0) {
                    attention_ask(rows, size, qkv + from * stride + k_at + size, stride);
                    attention_ask(rows, size, qkv + from * stride + v_at + size, stride);
                }
            }
            attention_scores(&s, rows, from, size, q_rows, stride, s.keys_t, s.weights);
            attention_scores(&s, rows, from, size, do_rows, out_stride, s.values_t, s.d_weights);
            attention_weights(&s, rows, from, size, out_stride,
                              out + from * out_stride + head * size, do_rows,
                              lse + head * shape->length + from, scale);
            attention_gather(&s, rows, from, size, shape->length, s.d_weights, s.keys,
                             d_qkv + from * stride + head * size, stride);
            pack_straight(rows, size, q_rows, stride, s.queries);
            attention_scatter(rows, from, size, s.d_weights, s.width, s.queries, d_qkv + k_at,
                              stride);
            pack_straight(rows, size, do_rows, out_stride, s.d_out);
            attention_scatter(rows, from, size, s.weights, s.width, s.d_out, d_qkv + v_at, stride);
        }
    }
}

#endif
