/* What all lanes share. The operations of this folder are written once, in *_body.h, against a
 * dozen vector primitives; each instruction set gives these in a file of its own (lanes_<set>.h,
 * included first) and compiles the bodies with them:
 *
 *     LANES, TILE_ROWS, TILE_VECTORS        floats a vector; the register tile of matrix products
 *                                           is ROWS x (VECTORS * LANES)
 *     vf, vf_set, vf_load, vf_store, vf_load_some, vf_store_some, vf_keep, vf_fma, vf_max, vf_min,
 *     vf_sqrt, vf_sum, vf_top,
 *     vf_round, vf_scale, vf_transpose      and the operators + - * / on vf
 *
 * A body is compiled several times with different flags, so everything in it is static.
 */
#ifndef KERNELS_CPU_LANES_H
#define KERNELS_CPU_LANES_H

#ifndef LANES
#error "include the lanes of an instruction set first"
#endif

#include "base/memory.h"
#include "kernels/kernels.h"

enum { TILE_COLUMNS = TILE_VECTORS * LANES };

#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define ALWAYS_INLINE inline __attribute__((always_inline))

static inline size_t round_up(size_t count, size_t multiple) {
    return (count + multiple - 1) / multiple * multiple;
}
/* How many of a vector's lanes, beginning at `at`, lie below `count`. */
static inline size_t lanes_left(size_t count, size_t at) {
    return count <= at ? 0 : MIN(count - at, (size_t)LANES);
}

/* e^x to about 2 ulp (Cephes' polynomial); below -87.3 it stays at the least normal number, above
 * 88 at the largest power reached. NaN gives NaN. */
static inline vf vf_exp(vf x) {
    x = vf_max(vf_set(-87.3f), vf_min(vf_set(88.0f), x));
    vf n = vf_round(x * vf_set(1.44269504088896341f));
    vf r = vf_fma(n, vf_set(-0.693359375f), x);
    r = vf_fma(n, vf_set(2.12194440e-4f), r);
    /* In pairs (Estrin): what limits a loop over vf_exp is how long a value's chain of operations
     * is. */
    vf square = r * r;
    vf high = vf_fma(vf_set(1.9875691500e-4f), r, vf_set(1.3981999507e-3f));
    vf middle = vf_fma(vf_set(8.3334519073e-3f), r, vf_set(4.1665795894e-2f));
    vf low = vf_fma(vf_set(1.6666665459e-1f), r, vf_set(5.0000001201e-1f));
    vf p = vf_fma(vf_fma(high, square, middle), square, low);
    p = vf_fma(p, square, r) + vf_set(1.0f);
    return vf_scale(p, n);
}

/* for (at = 0; at < count; at += LANES), with `some` telling the whole vectors from the last,
 * shorter one */
#define FOR_LANES(at, count) for (size_t at = 0; at < (count); at += LANES)
static ALWAYS_INLINE vf vf_get(const float *p, size_t at, size_t count) {
    return at + LANES <= count ? vf_load(p + at) : vf_load_some(p + at, count - at, 0.0f);
}
static ALWAYS_INLINE void vf_put(float *p, size_t at, size_t count, vf v) {
    if (at + LANES <= count)
        vf_store(p + at, v);
    else
        vf_store_some(p + at, count - at, v);
}

#endif
