/* Lanes for any processor: vectors of four in the compilers' own extension. No fused multiply-add.
 * See lanes.h. */
#ifndef KERNELS_CPU_LANES_PORTABLE_H
#define KERNELS_CPU_LANES_PORTABLE_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LANES 4
#define TILE_ROWS 4
#define TILE_VECTORS 2

typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));

static inline vf vf_set(float x) { return (vf){x, x, x, x}; }
static inline vf vf_load(const float *p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void vf_store(float *p, vf v) { memcpy(p, &v, sizeof v); }
static inline vf vf_load_some(const float *p, size_t count, float fill) {
    vf v = vf_set(fill);
    for (size_t i = 0; i < count; i++) v[i] = p[i];
    return v;
}
static inline vf vf_keep(vf v, size_t count) {
    vf kept = vf_set(0.0f);
    for (size_t i = 0; i < count; i++) kept[i] = v[i];
    return kept;
}
static inline void vf_store_some(float *p, size_t count, vf v) {
    for (size_t i = 0; i < count; i++) p[i] = v[i];
}
static inline vf vf_fma(vf a, vf b, vf c) { return a * b + c; }
static inline vf vf_max(vf a, vf b) {
    for (int i = 0; i < LANES; i++) b[i] = a[i] > b[i] ? a[i] : b[i];
    return b;
}
static inline vf vf_min(vf a, vf b) {
    for (int i = 0; i < LANES; i++) b[i] = a[i] < b[i] ? a[i] : b[i];
    return b;
}
static inline vf vf_sqrt(vf a) {
    for (int i = 0; i < LANES; i++) a[i] = sqrtf(a[i]);
    return a;
}
static inline float vf_sum(vf a) { return (a[0] + a[2]) + (a[1] + a[3]); }
static inline float vf_top(vf a) { return fmaxf(fmaxf(a[0], a[2]), fmaxf(a[1], a[3])); }
/* Rounds to the nearest integer, |x| < 2^22. */
static inline vf vf_round(vf x) {
    const vf magic = vf_set(12582912.0f); /* 1.5 * 2^23: adding it drops the fraction */
    return (x + magic) - magic;
}
/* x * 2^n for a whole n in [-126, 127] */
static inline vf vf_scale(vf x, vf n) {
    vi bits;
    for (int i = 0; i < LANES; i++) bits[i] = n[i] == n[i] ? (int32_t)n[i] : 0;
    bits = (bits + 127) << 23;
    vf power;
    memcpy(&power, &bits, sizeof power);
    return x * power;
}
static inline void vf_transpose(vf rows[static LANES]) {
    for (int i = 0; i < LANES; i++)
        for (int j = i + 1; j < LANES; j++) {
            float swap = rows[i][j];
            rows[i][j] = rows[j][i];
            rows[j][i] = swap;
        }
}

#endif
