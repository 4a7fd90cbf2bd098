/* Rotary positions and SwiGLU. silu(g) = g * s with s = 1/(1 + e^-g); silu'(g) = s * (1 + g * (1 -
 * s)). */
#ifndef KERNELS_CPU_ACTIVATION_BODY_H
#define KERNELS_CPU_ACTIVATION_BODY_H

#include "kernels/cpu/lanes.h"

static void rope(size_t rows, size_t stride, size_t heads, size_t head_size, const float *cos,
                 const float *sin, float sign, float *x) {
    size_t half = head_size / 2;
    vf direction = vf_set(sign);
    for (size_t i = 0; i < rows; i++, x += stride, cos += half, sin += half)
        for (size_t h = 0; h < heads; h++) {
            float *first = x + h * head_size, *second = first + half;
            FOR_LANES(j, half) {
                vf a = vf_get(first, j, half), b = vf_get(second, j, half);
                vf c = vf_get(cos, j, half), s = vf_get(sin, j, half) * direction;
                vf_put(first, j, half, a * c - b * s);
                vf_put(second, j, half, vf_fma(b, c, a * s));
            }
        }
}

/* e^-g goes through h, in a loop of its own: a shorter chain of operations lets more of them
 * overlap. */
static inline void swiglu_exp(size_t width, const float *gate, float *h) {
    FOR_LANES(j, width) vf_put(h, j, width, vf_exp(vf_set(0.0f) - vf_get(gate, j, width)));
}

static inline vf swiglu_sigmoid(vf e) { return vf_set(1.0f) / (vf_set(1.0f) + e); }

static void swiglu_forward(size_t rows, size_t width, const float *gate_up, float *h) {
    for (size_t i = 0; i < rows; i++, gate_up += 2 * width, h += width) {
        swiglu_exp(width, gate_up, h);
        FOR_LANES(j, width) {
            vf g = vf_get(gate_up, j, width), s = swiglu_sigmoid(vf_get(h, j, width));
            vf_put(h, j, width, g * s * vf_get(gate_up + width, j, width));
        }
    }
}

static void swiglu_backward(size_t rows, size_t width, const float *gate_up, const float *dh,
                            float *h, float *d_gate_up) {
    for (size_t i = 0; i < rows;
         i++, gate_up += 2 * width, d_gate_up += 2 * width, h += width, dh += width) {
        swiglu_exp(width, gate_up, h);
        FOR_LANES(j, width) {
            __builtin_prefetch(gate_up + 2 * width + j); /* the next row */
            __builtin_prefetch(gate_up + 3 * width + j);
            vf g = vf_get(gate_up, j, width), u = vf_get(gate_up + width, j, width),
               d = vf_get(dh, j, width);
            vf s = swiglu_sigmoid(vf_get(h, j, width)), silu = g * s;
            vf_put(h, j, width, silu * u);
            vf_put(d_gate_up, j, width, d * u * vf_fma(silu, vf_set(1.0f) - s, s));
            vf_put(d_gate_up + width, j, width, d * silu);
        }
    }
}

#endif
