// Sums over the threads of a warp and a block, for the codec's kernels.
#ifndef KERNELS_CUDA_WARP_CUH
#define KERNELS_CUDA_WARP_CUH

#include <cuda_runtime.h>

constexpr unsigned WARP = 32, WHOLE_WARP = 0xFFFFFFFFu;

// The sum of `mine` over the lanes up to this one.
__device__ __forceinline__ unsigned warp_inclusive_sum(unsigned mine) {
    unsigned lane = threadIdx.x % WARP;
#pragma unroll
    for (unsigned reach = 1; reach < WARP; reach *= 2) {
        unsigned before = __shfl_up_sync(WHOLE_WARP, mine, reach);
        if (lane >= reach) mine += before;
    }
    return mine;
}

// The same over a block of THREADS; `totals` is [THREADS / WARP], shared, free again after the next
// barrier.
template <unsigned THREADS>
__device__ __forceinline__ unsigned block_inclusive_sum(unsigned mine, unsigned *totals) {
    unsigned sum = warp_inclusive_sum(mine), warp = threadIdx.x / WARP;
    if (threadIdx.x % WARP == WARP - 1) totals[warp] = sum;
    __syncthreads();
    for (unsigned w = 0; w < warp; w++) sum += totals[w];
    return sum;
}

#endif
