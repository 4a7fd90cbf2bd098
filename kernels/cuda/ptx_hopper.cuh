// Hopper's own instructions: barriers in shared memory that count bytes, the copy engine (TMA), and
// the tensor cores' products over shared memory (wgmma). For sm_90a alone. The emulation has a file
// of this name with the same functions.
//
// Barriers count arrivals and bytes of a phase; the phase ends, and the next begins, when both are
// complete. barrier_passed(b, p) says whether the phase of parity p is over: at the start that of
// parity 1 is.
//
// multiply: d[64][N] (+)= a[64][16] b[16][N], by the 128 threads of a warpgroup, N 64 or 128. d
// lies in registers as in ptx.cuh's c, warp w having rows 16 w to 16 w + 15; a in registers,
// likewise, or in shared memory. It runs beside the threads:
//     products_begin();                   after registers it uses were touched
//     multiply(...) ...; products_commit();
//     products_wait<n>();                 until at most the n newest groups are running
//     settle(d);                          only now d may be read: keeps the compiler from reading
//                                         it earlier
// Until then neither its registers nor its shared memory may be changed.
//
// Matrices in shared memory are said by 64 bits: bits 0 to 13 the address, 16 to 29 and 32 to 45
// two offsets, all in units of 16 bytes; 62 and 63 the swizzle, 1 for 128 bytes (PTX ISA, "Matrix
// Descriptor Format").
#ifndef KERNELS_CUDA_PTX_HOPPER_CUH
#define KERNELS_CUDA_PTX_HOPPER_CUH

#include <cstdint>
#include <cuda.h>

#include "kernels/cuda/ptx.cuh"

#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "to be compiled for sm_90a alone"
#endif

typedef CUtensorMap tensor_map;

__device__ __forceinline__ uint32_t shared_address(const void *pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// 2^x; results below 2^-126 are 0.
__device__ __forceinline__ float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// --- barriers ---
__device__ __forceinline__ void barrier_init(uint64_t *barrier, unsigned arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
                 "r"(arrivals)
                 : "memory");
}
// By who made them, before the block's threads meet: makes them known to the copy engine.
__device__ __forceinline__ void barriers_made() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void barrier_arrive(uint64_t *barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
                 : "memory");
}
__device__ __forceinline__ void barrier_arrive_expecting(uint64_t *barrier, unsigned bytes) {
    asm volatile(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
        "r"(bytes)
        : "memory");
}
// Sleeps a while, if it is not.
__device__ __forceinline__ bool barrier_passed(uint64_t *barrier, unsigned parity) {
    uint32_t passed;
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.b32 %0, 1, 0, p;\n"
                 "}"
                 : "=r"(passed)
                 : "r"(shared_address(barrier)), "r"(parity)
                 : "memory");
    return passed != 0;
}
__device__ __forceinline__ long long clock_now() { return clock64(); }
// Ends the kernel with an error; `code` is where the host can read it.
__device__ __forceinline__ void trap_with(volatile uint64_t *where, uint64_t code) {
    *where = code;
    __threadfence_system();
    asm volatile("trap;");
}

// --- the copy engine: a box of a map to shared memory, its bytes counted by the barrier ---
// Called by one thread.
__device__ __forceinline__ void box_copy(uint32_t to, const tensor_map *map, unsigned c0,
                                         unsigned c1, unsigned c2, unsigned c3, uint64_t *barrier) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(to),
                 "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(shared_address(barrier))
                 : "memory");
}
__device__ __forceinline__ void map_fetch(const tensor_map *map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// --- registers of a warpgroup ---
template <int N> __device__ __forceinline__ void registers_give() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N> __device__ __forceinline__ void registers_take() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

// --- products ---
__device__ __forceinline__ void products_begin() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void products_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int N> __device__ __forceinline__ void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
template <int N> __device__ __forceinline__ void settle(float (&d)[N][4]) {
    UNROLL for (int n = 0; n < N; n++) asm volatile("" : "+f"(d[n][0]), "+f"(d[n][1]),
                                                    "+f"(d[n][2]), "+f"(d[n][3])::"memory");
}
template <int N> __device__ __forceinline__ void settle(uint32_t (&a)[N][4]) {
    UNROLL for (int n = 0; n < N; n++) asm volatile("" : "+r"(a[n][0]), "+r"(a[n][1]),
                                                    "+r"(a[n][2]), "+r"(a[n][3])::"memory");
}

#define SUMS_4(n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define SUMS_32(n)                                                                                 \
    SUMS_4(n), SUMS_4(n + 1), SUMS_4(n + 2), SUMS_4(n + 3), SUMS_4(n + 4), SUMS_4(n + 5),          \
        SUMS_4(n + 6), SUMS_4(n + 7)
#define NAMES_32                                                                                   \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%"  \
    "25,%26,%27,%28,%29,%30,%31"
#define NAMES_64                                                                                   \
    NAMES_32                                                                                       \
    ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%"   \
    "54,%55,%56,%57,%58,%59,%60,"                                                                  \
    "%61,%62,%63"
#define PRODUCT(shape, add, sums, operands)                                                        \
    "{\n"                                                                                          \
    ".reg .pred p;\n"                                                                              \
    "setp.ne.b32 p, %" #add ", 0;\n"                                                               \
    "wgmma.mma_async.sync.aligned." shape ".f32.bf16.bf16 {" sums "}, " operands ";\n"             \
    "}"

// Both from shared memory, contracted along the rows of both. add 0: d is overwritten.
__device__ __forceinline__ void multiply(float (&d)[8][4], uint64_t a, uint64_t b, int add) {
    asm volatile(PRODUCT("m64n64k16", 34, NAMES_32, "%32, %33, p, 1, 1, 0, 0")
                 : SUMS_32(0)
                 : "l"(a), "l"(b), "r"(add));
}
__device__ __forceinline__ void multiply(float (&d)[16][4], uint64_t a, uint64_t b, int add) {
    asm volatile(PRODUCT("m64n128k16", 66, NAMES_64, "%64, %65, p, 1, 1, 0, 0")
                 : SUMS_32(0), SUMS_32(8)
                 : "l"(a), "l"(b), "r"(add));
}
// a from registers, contracted down the rows of b; added.
__device__ __forceinline__ void multiply_down(float (&d)[8][4], const uint32_t (&a)[4],
                                              uint64_t b) {
    asm volatile(PRODUCT("m64n64k16", 37, NAMES_32, "{%32,%33,%34,%35}, %36, p, 1, 1, 1")
                 : SUMS_32(0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1));
}
__device__ __forceinline__ void multiply_down(float (&d)[16][4], const uint32_t (&a)[4],
                                              uint64_t b) {
    asm volatile(PRODUCT("m64n128k16", 69, NAMES_64, "{%64,%65,%66,%67}, %68, p, 1, 1, 1")
                 : SUMS_32(0), SUMS_32(8)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1));
}

#endif
