// What the codec's .cu files share. The format is docs/codec.md's; the CPU's encoder, whose bits
// these give, is codec/topk2.c and codec/dense.c.
#ifndef KERNELS_CUDA_CODEC_CUH
#define KERNELS_CUDA_CODEC_CUH

#include "kernels/cuda/device.cuh"

constexpr unsigned CHUNK = CUDA_CODEC_CHUNK, KEEP_MAX = CUDA_CODEC_KEEP_MAX;

__device__ __forceinline__ uint32_t magnitude_bits(float x) {
    return __float_as_uint(x) & 0x7FFFFFFFu;
}
// 2^exponent, -126 <= exponent <= 127
__device__ __forceinline__ float power_of_two(int exponent) {
    return __uint_as_float(static_cast<uint32_t>(exponent + 127) << 23);
}

struct selection {
    const float *base, *local, *e; // local, e: may be NULL
    float *e_out;                  // with e
    size_t count;
    float decay;
    unsigned keep; // of a whole chunk
    bool aligned;  // all arrays to 16 bytes
    unsigned long long *bad;
    uint16_t *sent;  // [chunks]
    uint16_t *index; // [chunks][keep], within the chunk
    float *value;    // [chunks][keep]
};
INTERNAL const char *select_launch(const struct selection &selection); // select.cu; count > 0

// topk2_encode.cu and topk2_decode.cu, for codecs 5 and 6
INTERNAL void topk2_sizes(uint32_t codec, size_t count, struct cuda_codec_sizes *out);
INTERNAL const char *topk2_encode(const struct cuda_encoding *encoding, struct cuda_encoded *out);
INTERNAL const char *topk2_step(uint32_t codec, size_t count, const struct cuda_part *parts,
                                uint32_t part_count, float rate, const struct cuda_round *round);
INTERNAL const char *topk2_add(uint32_t codec, size_t count, const struct cuda_part *part,
                               float *target);

#endif
