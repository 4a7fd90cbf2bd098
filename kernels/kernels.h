/* The numeric operations of training, behind one table, chosen once for the processor at hand.
 *
 * Each instruction set has a table of its own: portable (any machine), avx2, avx512, avx512bf16,
 * amx. All tables compute the same functions; their last bits differ (order of sums, fused
 * multiply-add), and avx512bf16 and amx round the inputs of matrix products to bfloat16, with sums
 * in fp32. Every operation is deterministic: same table, same shapes, same inputs, same bits,
 * whatever the thread and the alignment. Nothing is allocated: the caller gives scratch memory of
 * the size that the *_size functions say.
 *
 * Matrices are row-major with a stride in floats. "Linear" is y = x W^T with W [out][in], as stored
 * in checkpoints. Its forward and its input gradient read W from packed copies (panels as wide as
 * the register tile), made by linear_pack once per change of W and shared by all threads. Gradients
 * with respect to a norm's weights are added to what is there. Pointers to distinct arrays must not
 * overlap unless a comment says so.
 */
#ifndef KERNELS_KERNELS_H
#define KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

struct attention_shape {
    size_t length; /* rows of one sequence; row i sees rows 0..i */
    size_t heads, kv_heads, head_size;
    /* A row of qkv is [heads][head_size] queries, [kv_heads][head_size] keys, as many values,
     * without gaps; a row of the output is [heads][head_size]. */
};

static inline size_t attention_qkv_width(const struct attention_shape *shape) {
    return (shape->heads + 2 * shape->kv_heads) * shape->head_size;
}

struct adamw_step { /* see model/adamw.h */
    float learning_rate, beta1, beta2, epsilon, decay;
    float gradient_scale;           /* of clipping: g is multiplied by it first */
    float correction1, correction2; /* 1/(1-beta1^t), 1/(1-beta2^t) */
};

struct kernels {
    const char *name;

    /* --- linear layers ------------------------------------------------------------------------ */
    /* bytes of the packed copy for linear_forward */
    size_t (*linear_forward_size)(size_t out, size_t in);
    /* bytes of the packed copy for linear_backward_input */
    size_t (*linear_backward_size)(size_t out, size_t in);
    size_t (*linear_scratch_size)(size_t rows, size_t out, size_t in);
    void (*linear_pack_forward)(size_t out, size_t in, const float *w, void *packed);
    void (*linear_pack_backward)(size_t out, size_t in, const float *w, void *packed);
    /* y[rows][out] = x[rows][in] W^T, plus add[rows][out] (stride y_stride) unless it is NULL; add
     * may be y. */
    void (*linear_forward)(size_t rows, size_t out, size_t in, const float *x, size_t x_stride,
                           const void *packed, const float *add, float *y, size_t y_stride,
                           void *scratch);
    /* dx[rows][in] = dy[rows][out] W */
    void (*linear_backward_input)(size_t rows, size_t out, size_t in, const float *dy,
                                  size_t dy_stride, const void *packed, float *dx, size_t dx_stride,
                                  void *scratch);
    /* dw[out][in] = dy[rows][out]^T x[rows][in], plus add[out][in] unless it is NULL; add may be
     * dw. */
    void (*linear_backward_weight)(size_t rows, size_t out, size_t in, const float *dy,
                                   size_t dy_stride, const float *x, size_t x_stride,
                                   const float *add, float *dw, void *scratch);

    /* --- RMSNorm: y = x * rstd * w, rstd = 1/sqrt(mean(x^2) + eps); arrays are [rows][width],
     * dense --- */
    void (*norm_forward)(size_t rows, size_t width, float eps, const float *x, const float *w,
                         float *y, float *rstd);
    /* y once more, the same bits, from the rstd that the forward pass left. */
    void (*norm_again)(size_t rows, size_t width, const float *x, const float *w, const float *rstd,
                       float *y);
    /* dx += gradient, dw += gradient */
    void (*norm_backward)(size_t rows, size_t width, const float *dy, const float *x,
                          const float *w, const float *rstd, float *dx, float *dw);

    /* --- rotary positions, half-rotation: (a, b) = (x[i], x[i + half]) -> (a cos - b sin, b cos +
     * a sin) --- */
    /* In place on `heads` heads of head_size at the start of each row; cos, sin:
     * [rows][head_size/2]. sign -1 is the inverse, which is the gradient. */
    void (*rope)(size_t rows, size_t stride, size_t heads, size_t head_size, const float *cos,
                 const float *sin, float sign, float *x);

    /* --- SwiGLU: h = silu(gate) * up; a row of gate_up is [width] gates, [width] ups ---------- */
    void (*swiglu_forward)(size_t rows, size_t width, const float *gate_up, float *h);
    /* Gives h again (not kept from the forward pass), and d_gate_up, which may be gate_up. */
    void (*swiglu_backward)(size_t rows, size_t width, const float *gate_up, const float *dh,
                            float *h, float *d_gate_up);

    /* --- causal attention over one sequence, scores scaled by 1/sqrt(head_size) --------------- */
    size_t (*attention_scratch_size)(const struct attention_shape *shape);
    /* lse [heads][length]: log of each row's sum of exponentials, all that backward needs to
     * compute the weights again. */
    void (*attention_forward)(const struct attention_shape *shape, const float *qkv, float *out,
                              float *lse, void *scratch);
    void (*attention_backward)(const struct attention_shape *shape, const float *qkv,
                               const float *out, const float *lse, const float *d_out, float *d_qkv,
                               void *scratch);

    /* --- softmax cross-entropy: returns the sum over rows of -log p[target] ------------------- */
    /* With scale != 0 logits become scale * (p - onehot(target)), in place; with 0 they are
     * undefined afterwards. */
    double (*cross_entropy)(size_t rows, size_t vocabulary, float *logits, const uint32_t *targets,
                            float scale);

    /* --- over flat vectors -------------------------------------------------------------------- */
    /* out = parts[0] + parts[1] + ... in this order (out may be parts[0]); returns the sum of
     * squares of out. */
    double (*gradient_sum)(size_t count, size_t parts_count, const float *const *parts,
                           size_t offset, float *out);
    void (*adamw)(size_t count, const struct adamw_step *step, const float *gradient,
                  float *parameters, float *m, float *v);
};

/* The table for this machine: the fastest by measure (kernels/choice.h), or the one that
 * ATOLL_KERNELS names. INVALID if that names none or one that this processor cannot run; the
 * message lists those it can. The first call of a processor's first program takes half a second. */
MUST_USE enum status kernels_default(const struct kernels **out, struct error *error);
/* By name, whatever the environment says; NULL is kernels_default. */
MUST_USE enum status kernels_find(const char *name, const struct kernels **out,
                                  struct error *error);
/* Why this table is used, in a line: what was measured, or who asked for it. Static storage. */
const char *kernels_why(const struct kernels *kernels);
/* The index-th table that this processor can run, from the least demanding to the most; NULL beyond
 * the last. */
const struct kernels *kernels_at(size_t index);

#endif
