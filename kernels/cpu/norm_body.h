/* RMSNorm (Zhang and Sennrich, arXiv 1910.07467). Backward, with n = x * rstd and g = dy * w:
 *     dx = rstd * (g - n * mean(g * n)),  dw = sum over rows of dy * n */
#ifndef KERNELS_CPU_NORM_BODY_H
#define KERNELS_CPU_NORM_BODY_H

#include <math.h>

#include "kernels/cpu/lanes.h"

/* Four sums side by side: one alone would wait for each of its additions. */
enum { NORM_SUMS = 4 };

static float norm_squares(size_t width, const float *x) {
    vf sums[NORM_SUMS] = {vf_set(0.0f), vf_set(0.0f), vf_set(0.0f), vf_set(0.0f)};
    size_t at = 0;
    for (; at + NORM_SUMS * LANES <= width; at += NORM_SUMS * LANES) {
        UNROLL for (size_t i = 0; i < NORM_SUMS; i++) {
            vf v = vf_load(x + at + i * LANES);
            sums[i] = vf_fma(v, v, sums[i]);
        }
    }
    for (; at < width; at += LANES) {
        vf v = vf_get(x, at, width);
        sums[0] = vf_fma(v, v, sums[0]);
    }
    return vf_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

/* The sum of dy * w * x. */
static float norm_dot(size_t width, const float *dy, const float *w, const float *x) {
    vf sums[NORM_SUMS] = {vf_set(0.0f), vf_set(0.0f), vf_set(0.0f), vf_set(0.0f)};
    size_t at = 0;
    for (; at + NORM_SUMS * LANES <= width; at += NORM_SUMS * LANES) {
        UNROLL for (size_t i = 0; i < NORM_SUMS; i++) {
            size_t here = at + i * LANES;
            sums[i] = vf_fma(vf_load(dy + here) * vf_load(w + here), vf_load(x + here), sums[i]);
        }
    }
    for (; at < width; at += LANES)
        sums[0] =
            vf_fma(vf_get(dy, at, width) * vf_get(w, at, width), vf_get(x, at, width), sums[0]);
    return vf_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

static void norm_again(size_t rows, size_t width, const float *x, const float *w, const float *rstd,
                       float *y) {
    for (size_t i = 0; i < rows; i++, x += width, y += width) {
        vf scale = vf_set(rstd[i]);
        FOR_LANES(j, width) vf_put(y, j, width, vf_get(x, j, width) * scale * vf_get(w, j, width));
    }
}

static void norm_forward(size_t rows, size_t width, float eps, const float *x, const float *w,
                         float *y, float *rstd) {
    for (size_t i = 0; i < rows; i++, x += width, y += width) {
        rstd[i] = 1.0f / sqrtf(norm_squares(width, x) / (float)width + eps);
        norm_again(1, width, x, w, rstd + i, y);
    }
}

static void norm_backward(size_t rows, size_t width, const float *dy, const float *x,
                          const float *w, const float *rstd, float *dx, float *dw) {
    for (size_t i = 0; i < rows; i++, x += width, dy += width, dx += width) {
        vf scale = vf_set(rstd[i]),
           mean = vf_set(norm_dot(width, dy, w, x) * rstd[i] / (float)width);
        FOR_LANES(j, width) {
            vf n = vf_get(x, j, width) * scale, g = vf_get(dy, j, width);
            vf_put(dw, j, width, vf_fma(g, n, vf_get(dw, j, width)));
            vf_put(dx, j, width,
                   vf_fma(scale, g * vf_get(w, j, width) - n * mean, vf_get(dx, j, width)));
        }
    }
}

#endif
