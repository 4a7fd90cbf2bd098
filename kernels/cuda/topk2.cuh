// What topk2's encoder and its decoder know of the format (docs/codec.md).
#ifndef KERNELS_CUDA_TOPK2_CUH
#define KERNELS_CUDA_TOPK2_CUH

#include "kernels/cuda/codec.cuh"

constexpr unsigned TABLE = 4, RICE_BITS = 4, CHUNK_THREADS = 128;
constexpr int SHIFT_MAX = 126;
constexpr size_t HEADER_SIZE = 12, PREFIX_SIZE = 4 * TABLE + 1,
                 STREAM_AT = 8 * (HEADER_SIZE + PREFIX_SIZE); // in bits

struct shape {
    unsigned keep, usual_rice, sent_bits;
};

__host__ __device__ inline shape shape_of(uint32_t codec) {
    return codec == 5 ? shape{64, 5, 7} : shape{128, 4, 8};
}
inline size_t chunks_of(size_t count) { return (count + CHUNK - 1) / CHUNK; }

#endif
