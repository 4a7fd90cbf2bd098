/* The arithmetic that every machine of a run must agree on, bit for bit: the outer optimizer's and
 * the codec's.
 *
 * Each function is a loop over fp32 elements with one IEEE-754 rounding (to nearest, ties to even)
 * per operation written below, in the order written, never contracted into a fused multiply-add and
 * never reassociated. So the results have the same bits from gcc and clang, at -O0 and -O3, at
 * every vector width, and from kernels/cuda. There is one reduction, the squared norm, and its
 * order of additions is part of its contract.
 *
 * These stand apart from the table of training kernels on purpose: those may differ between
 * machines, these may not. Bitwise deterministic, all of them. Denormals are kept: a thread that
 * sets FTZ or DAZ must not call these.
 *
 * Shapes are [count]. Where two arguments are the same kind of array they may be the same pointer
 * (out == a), but must not overlap in part. Any thread; nothing is allocated; nothing fails.
 * Callers split a range over threads as they like.
 */
#ifndef KERNELS_ELEMENTWISE_H
#define KERNELS_ELEMENTWISE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* --- plain --- */
void elementwise_copy(float *out, const float *a, size_t count);
/* out = a + b */
void elementwise_add(float *out, const float *a, const float *b, size_t count);
/* out = a − b: delta = base − local */
void elementwise_subtract(float *out, const float *a, const float *b, size_t count);
/* out = scale · a */
void elementwise_scale(float *out, const float *a, float scale, size_t count);
/* out = out + (scale · a) */
void elementwise_add_scaled(float *out, const float *a, float scale, size_t count);

/* --- the site --- */
/* e = (decay · e) + delta: error feedback (decay 0.95). */
void elementwise_feedback(float *e, const float *delta, float decay, size_t count);
/* local = fresh + (local − origin): a site goes on from the new global parameters and keeps its
 * progress since `origin`, which is the snapshot (its delta was merged) or the old base (it follows
 * a newer version, or its delta was refused in dense mode). */
void elementwise_rebase(float *local, const float *fresh, const float *origin, size_t count);

/* --- outer optimizers (fed/model_state.h has the formulas) --- */
/* Delayed Nesterov (arXiv 2401.09135, algorithm 3, c = 0), a contribution g that does not end a
 * period:
 *     sum = sum + g;   theta = theta − rate · (g / period) */
void elementwise_nesterov_between(float *theta, float *sum, const float *g, float rate,
                                  float period, size_t count);
/* The contribution that ends a period:
 *     sum = sum + g;   momentum = (beta · momentum) + (sum / period)
 *     theta = theta − rate · ((beta · momentum) + (g / period)); sum = 0 */
void elementwise_nesterov_end(float *theta, float *momentum, float *sum, const float *g, float rate,
                              float beta, float period, size_t count);
/* Plain SGD: theta = theta − (weight · q). */
void elementwise_sgd(float *theta, const float *q, float weight, size_t count);

/* --- sparse --- */
/* Moves theta to what the mean of a round is with one more message: each coordinate's mean is over
 * those that sent it so far. Where i = index[j], n = senders[i], and a mean over nobody is 0:
 *     before = sum[i] / n;  sum[i] = sum[i] + (scale · value[j]);  senders[i] = n + 1
 *     theta[i] = theta[i] − (rate · ((sum[i] / (n + 1)) − before))
 * index: each at most once, and below the size of the others, as the caller promises. */
void elementwise_scatter_mean(float *theta, float *sum, uint16_t *senders, const uint16_t *index,
                              const float *value, float scale, float rate, size_t count);

/* --- reductions --- */
bool elementwise_is_finite(const float *a, size_t count); /* no NaN, no infinity; true for none */
/* Σ a² in double. Blocks of ELEMENTWISE_BLOCK elements from the start; in a block, lane j of 16
 * adds the squares of elements j, j+16, j+32, … in that order (a short last block behaves as if
 * filled up with zeroes); the lanes fold in halves, lane j with lane j+8, then j+4, j+2, j+1; block
 * sums are added from left to right. Squares are exact in double. A range that starts at a multiple
 * of ELEMENTWISE_BLOCK may be given to another thread block by block: the whole is ((block 0 +
 * block 1) + block 2) + … whichever thread computed each. Finite for all finite inputs. */
enum { ELEMENTWISE_BLOCK = 4096, ELEMENTWISE_LANES = 16 };
double elementwise_norm_squared(const float *a, size_t count);
/* The same, the same bits, of one block that has value[j] at index[j] and zeroes elsewhere: index
 * increasing, below ELEMENTWISE_BLOCK; both are [count]. */
double elementwise_norm_squared_at(const uint16_t *index, const float *value, size_t count);

#endif
