// kernels/cuda/ptx.cuh for the emulation: the same functions, word for word what its comment says
// they do, a lane at a time.
#ifndef KERNELS_CUDA_PTX_CUH
#define KERNELS_CUDA_PTX_CUH

#include <cstdint>
#include <cstring>

typedef uint16_t bf16;

inline float from_bf16(uint32_t bits) { return __uint_as_float(bits << 16); }
inline float low_half(uint32_t pair) { return __uint_as_float(pair << 16); }
inline float high_half(uint32_t pair) { return __uint_as_float(pair & 0xFFFF0000u); }
inline uint32_t emulated_round(float value) {
    uint32_t bits = __float_as_uint(value);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FFF; // as the instruction does with any NaN
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}
inline uint32_t pack_bf16(float low, float high) {
    return emulated_round(low) | emulated_round(high) << 16;
}

struct emulated_operands {
    uint32_t a[4], b[2];
};

inline void multiply_add(float c[4], const uint32_t a[4], const uint32_t b0, const uint32_t b1) {
    emulation::exchange<emulated_operands> warp({{a[0], a[1], a[2], a[3]}, {b0, b1}});
    unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    for (unsigned k = 0; k < 16;
         k++) { // pair k / 2 of a row or column: in lane k / 2 % 4, lower columns first
        unsigned holder = k / 2 % 4, upper = k / 8;
        auto half = [&](uint32_t pair) { return k % 2 ? high_half(pair) : low_half(pair); };
        emulated_operands above = warp.of(4 * g + holder), left = warp.of(4 * (2 * t) + holder),
                          right = warp.of(4 * (2 * t + 1) + holder);
        float b_left = half(left.b[upper]), b_right = half(right.b[upper]);
        float top = half(above.a[2 * upper]), bottom = half(above.a[2 * upper + 1]);
        c[0] += top * b_left;
        c[1] += top * b_right;
        c[2] += bottom * b_left;
        c[3] += bottom * b_right;
    }
}

inline void load_matrices(uint32_t r[4], const bf16 *row) {
    emulation::exchange<const bf16 *> warp(row);
    unsigned lane = threadIdx.x % 32;
    for (unsigned i = 0; i < 4; i++)
        memcpy(&r[i], warp.of(8 * i + lane / 4) + 2 * (lane % 4), sizeof r[i]);
}

inline void load_matrices_transposed(uint32_t r[4], const bf16 *row) {
    emulation::exchange<const bf16 *> warp(row);
    unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    for (unsigned i = 0; i < 4; i++)
        r[i] = warp.of(8 * i + 2 * t)[g] | static_cast<uint32_t>(warp.of(8 * i + 2 * t + 1)[g])
                                               << 16;
}

// At once: what was read too early shows only where it is garbage, which fresh shared memory is.
inline void copy_async(void *to, const void *from, bool there) {
    if (reinterpret_cast<uintptr_t>(to) % 16 || reinterpret_cast<uintptr_t>(from) % 16) abort();
    if (there)
        memcpy(to, from, 16);
    else
        memset(to, 0, 16);
}
inline void copies_commit() {}
inline void copies_wait() {}

#define UNROLL
#define DYNAMIC_SHARED(name) unsigned char *name = emulation::dynamic_shared

#endif
