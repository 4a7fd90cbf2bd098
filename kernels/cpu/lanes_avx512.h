/* Lanes for AVX-512: vectors of sixteen, a 12 x 32 register tile (24 of 32 registers hold sums).
 * See lanes.h. */
#ifndef KERNELS_CPU_LANES_AVX512_H
#define KERNELS_CPU_LANES_AVX512_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define LANES 16
#define TILE_ROWS 12
#define TILE_VECTORS 2

typedef __m512 vf;

static inline vf vf_set(float x) { return _mm512_set1_ps(x); }
static inline vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void vf_store(float *p, vf v) { _mm512_storeu_ps(p, v); }
static inline __mmask16 vf_some(size_t count) { return (__mmask16)((1u << count) - 1u); }
static inline vf vf_load_some(const float *p, size_t count, float fill) {
    return _mm512_mask_loadu_ps(vf_set(fill), vf_some(count), p);
}
static inline vf vf_keep(vf v, size_t count) { return _mm512_maskz_mov_ps(vf_some(count), v); }
static inline void vf_store_some(float *p, size_t count, vf v) {
    _mm512_mask_storeu_ps(p, vf_some(count), v);
}
static inline vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); } /* b where either is NaN */
static inline vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline vf vf_sqrt(vf a) { return _mm512_sqrt_ps(a); }
static inline float vf_sum(vf a) { return _mm512_reduce_add_ps(a); }
static inline float vf_top(vf a) { return _mm512_reduce_max_ps(a); }
/* |x| < 2^22. (gcc's roundscale is a macro that does not pass -Wconversion at -O0.) */
static inline vf vf_round(vf x) {
    const vf magic = vf_set(12582912.0f); /* 1.5 * 2^23: adding it drops the fraction */
    return (x + magic) - magic;
}
static inline vf vf_scale(vf x, vf n) { return _mm512_scalef_ps(x, n); }
static inline void vf_transpose(vf r[static LANES]) {
    vf t[LANES], q[LANES];
    for (int i = 0; i < LANES; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4) {
        q[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
        q[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xEE);
        q[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        q[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
    }
    /* q[4g + c] now holds, in its four quarters, column 4*quarter + c of rows 4g .. 4g+3: what is
     * left is a 4 x 4 transpose of quarters. */
    for (int c = 0; c < 4; c++) {
        vf low02 = _mm512_shuffle_f32x4(q[c], q[4 + c], 0x88),
           low13 = _mm512_shuffle_f32x4(q[c], q[4 + c], 0xDD);
        vf high02 = _mm512_shuffle_f32x4(q[8 + c], q[12 + c], 0x88),
           high13 = _mm512_shuffle_f32x4(q[8 + c], q[12 + c], 0xDD);
        r[c] = _mm512_shuffle_f32x4(low02, high02, 0x88);
        r[8 + c] = _mm512_shuffle_f32x4(low02, high02, 0xDD);
        r[4 + c] = _mm512_shuffle_f32x4(low13, high13, 0x88);
        r[12 + c] = _mm512_shuffle_f32x4(low13, high13, 0xDD);
    }
}

#endif
