// What the training's .cu files share: the session, launching on its stream, 16-byte pieces of
// bf16, sums over a warp.
#ifndef KERNELS_CUDA_TRAINING_CUH
#define KERNELS_CUDA_TRAINING_CUH

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda_training.h"

struct matmul_state;      // matmul.cu
struct attention_choices; // attention_choice.cu

struct cuda_session {
    cudaStream_t stream, copies;
    cudaEvent_t arrived, taken;
    cudaGraphExec_t step; // of capture_end
    matmul_state *matmuls;
    attention_choices *attention;
};

constexpr unsigned WARP = 32, ALL_LANES = 0xFFFFFFFFu;

// Eight bf16.
struct octet {
    uint32_t pair[4];
};

__device__ __forceinline__ octet load_octet(const bf16 *from) {
    uint4 v = *reinterpret_cast<const uint4 *>(from);
    return octet{{v.x, v.y, v.z, v.w}};
}
__device__ __forceinline__ void store_octet(bf16 *to, const octet &o) {
    *reinterpret_cast<uint4 *>(to) = make_uint4(o.pair[0], o.pair[1], o.pair[2], o.pair[3]);
}
__device__ __forceinline__ void widen(const octet &o, float out[8]) {
    UNROLL for (int i = 0; i < 4; i++) {
        out[2 * i] = low_half(o.pair[i]);
        out[2 * i + 1] = high_half(o.pair[i]);
    }
}
__device__ __forceinline__ octet narrow(const float in[8]) {
    octet o;
    UNROLL for (int i = 0; i < 4; i++) o.pair[i] = pack_bf16(in[2 * i], in[2 * i + 1]);
    return o;
}

// Every lane gets the sum: the same tree of additions each time.
__device__ __forceinline__ float warp_sum(float x) {
    UNROLL for (int reach = 16; reach > 0; reach /= 2) x += __shfl_xor_sync(ALL_LANES, x, reach);
    return x;
}
__device__ __forceinline__ float warp_top(float x) {
    UNROLL for (int reach = 16; reach > 0; reach /= 2) x =
        fmaxf(x, __shfl_xor_sync(ALL_LANES, x, reach));
    return x;
}

inline bf16 *halves(struct device_memory memory) { return device_pointer<bf16>(memory); }

// Each file puts its functions into the table; matmul.cu also has a life of its own.
INTERNAL void attention_install(struct cuda_training *training);
INTERNAL void norm_install(struct cuda_training *training);
INTERNAL void layers_install(struct cuda_training *training);
INTERNAL void optimizer_install(struct cuda_training *training);
INTERNAL void matmul_install(struct cuda_training *training);
INTERNAL const char *matmul_open(const char *cache, matmul_state **out);
INTERNAL void matmul_close(matmul_state *state);

#endif
