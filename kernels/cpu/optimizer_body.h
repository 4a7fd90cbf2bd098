/* Passes over flat vectors: the sum of shard gradients with its norm, and AdamW. */
#ifndef KERNELS_CPU_OPTIMIZER_BODY_H
#define KERNELS_CPU_OPTIMIZER_BODY_H

#include "kernels/cpu/lanes.h"

/* squares are summed in fp32 within a block, in double between blocks */
enum { NORM_BLOCK = 4096 };

static double gradient_sum(size_t count, size_t parts_count, const float *const *parts,
                           size_t offset, float *out) {
    double squares = 0;
    for (size_t from = 0; from < count; from += NORM_BLOCK) {
        size_t end = MIN(count, from + NORM_BLOCK);
        vf sum_squares = vf_set(0.0f);
        for (size_t at = from; at < end; at += LANES) {
            vf sum = vf_get(parts[0] + offset, at, end);
            for (size_t p = 1; p < parts_count; p++) sum = sum + vf_get(parts[p] + offset, at, end);
            vf_put(out, at, end, sum);
            sum_squares = vf_fma(sum, sum, sum_squares);
        }
        squares += (double)vf_sum(sum_squares);
    }
    return squares;
}

static void adamw(size_t count, const struct adamw_step *step, const float *gradient,
                  float *parameters, float *m, float *v) {
    vf beta1 = vf_set(step->beta1), beta2 = vf_set(step->beta2), rest1 = vf_set(1.0f - step->beta1),
       rest2 = vf_set(1.0f - step->beta2);
    vf scale = vf_set(step->gradient_scale),
       keep = vf_set(1.0f - step->learning_rate * step->decay);
    vf rate = vf_set(step->learning_rate * step->correction1),
       correction2 = vf_set(step->correction2), epsilon = vf_set(step->epsilon);
    FOR_LANES(at, count) {
        vf g = vf_get(gradient, at, count) * scale;
        vf new_m = vf_fma(beta1, vf_get(m, at, count), rest1 * g);
        vf new_v = vf_fma(beta2, vf_get(v, at, count), rest2 * g * g);
        vf_put(m, at, count, new_m);
        vf_put(v, at, count, new_v);
        vf change = rate * new_m / (vf_sqrt(new_v * correction2) + epsilon);
        vf_put(parameters, at, count, vf_get(parameters, at, count) * keep - change);
    }
}

#endif
