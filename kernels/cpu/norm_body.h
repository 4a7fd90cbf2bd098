/* RMSNorm (Zhang and Sennrich, arXiv 1910.07467). Backward, with n = x * rstd and g = dy * w:
 *     dx = rstd * (g - n * mean(g * n)),  dw = sum over rows of dy * n */
#ifndef KERNELS_CPU_NORM_BODY_H
#define KERNELS_CPU_NORM_BODY_H

#include <math.h>

#include "kernels/cpu/lanes.h"

static void norm_forward(size_t rows, size_t width, float eps, const float *x, const float *w, float *y, float *rstd) {
    for (size_t i = 0; i < rows; i++, x += width, y += width) {
        vf squares = vf_set(0.0f);
        FOR_LANES(j, width) {
            vf v = vf_get(x, j, width);
            squares = vf_fma(v, v, squares);
        }
        rstd[i] = 1.0f / sqrtf(vf_sum(squares) / (float)width + eps);
        vf scale = vf_set(rstd[i]);
        FOR_LANES(j, width) vf_put(y, j, width, vf_get(x, j, width) * scale * vf_get(w, j, width));
    }
}

static void norm_backward(size_t rows, size_t width, const float *dy, const float *x, const float *w, const float *rstd,
                          float *dx, float *dw) {
    for (size_t i = 0; i < rows; i++, x += width, dy += width, dx += width) {
        vf dot = vf_set(0.0f);
        FOR_LANES(j, width) dot = vf_fma(vf_get(dy, j, width) * vf_get(w, j, width), vf_get(x, j, width), dot);
        vf scale = vf_set(rstd[i]), mean = vf_set(vf_sum(dot) * rstd[i] / (float)width);
        FOR_LANES(j, width) {
            vf n = vf_get(x, j, width) * scale, g = vf_get(dy, j, width);
            vf_put(dw, j, width, vf_fma(g, n, vf_get(dw, j, width)));
            vf_put(dx, j, width, vf_fma(scale, g * vf_get(w, j, width) - n * mean, vf_get(dx, j, width)));
        }
    }
}

#endif
