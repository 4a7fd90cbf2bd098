// The instructions that C++ has no word for: tensor cores, their loads from shared memory, copies
// that do not wait, and bfloat16. The emulation has a file of this name with the same functions.
//
// mma: c[16][8] += a[16][16] b[16][8]. With g = lane / 4, t = lane % 4 a lane holds, as pairs of
// bf16 (the lower column in the lower half), a: rows g, g + 8, g, g + 8 at columns 2t, 2t, 2t + 8,
// 2t + 8; b: column g at rows 2t and 2t + 8; c: row g at columns 2t and 2t + 1, then row g + 8.
// load_matrices: lane l gives the address of row l % 8 of 8x8 matrix l / 8, 16 bytes; register i is
// then matrix i's row g, columns 2t and 2t + 1, or with _transposed its rows 2t and 2t + 1 of
// column g.
#ifndef KERNELS_CUDA_PTX_CUH
#define KERNELS_CUDA_PTX_CUH

#include <cstdint>

typedef uint16_t bf16;

__device__ __forceinline__ float from_bf16(uint32_t bits) { return __uint_as_float(bits << 16); }
__device__ __forceinline__ float low_half(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_half(uint32_t pair) {
    return __uint_as_float(pair & 0xFFFF0000u);
}
// To nearest even; the first argument goes to the lower half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

__device__ __forceinline__ void multiply_add(float c[4], const uint32_t a[4], const uint32_t b0,
                                             const uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void load_matrices(uint32_t r[4], const bf16 *row) {
    uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t r[4], const bf16 *row) {
    uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// 16 bytes to shared memory, or 16 zeroes; done after copies_commit and a copies_wait by the same
// thread.
__device__ __forceinline__ void copy_async(void *to, const void *from, bool there) {
    uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from),
                 "r"(there ? 16 : 0)
                 : "memory");
}
__device__ __forceinline__ void copies_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
__device__ __forceinline__ void copies_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }

#define UNROLL _Pragma("unroll")
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

#endif
