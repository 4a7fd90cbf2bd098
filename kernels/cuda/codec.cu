// The codecs that send every element, fp32, bf16, int8 and fp4, with codec/dense.c's bits; and the
// choice between them and topk2.
//
// A warp takes a block of 128 elements, a lane four neighbours. Encoding reads base and local once
// and writes the message: 8 bytes a parameter and the codec's. The outer step decodes, scales and
// applies in one pass: 16 bytes per parameter and the codec's, 24 where a period ends.
#include "kernels/cuda/codec.cuh"
#include "kernels/cuda/warp.cuh"

namespace {

enum codec : uint32_t { FP32 = 1, BF16 = 2, INT8 = 3, FP4 = 4, TOPK2_64 = 5, TOPK2_128 = 6 };
constexpr unsigned THREADS = 256, BLOCK = 128, EACH = BLOCK / WARP;
constexpr size_t HEADER_SIZE = 12;
constexpr uint32_t SCALE_MAX = 248, BF16_MAX = 0x7F7F, FP4_LEVELS = 7;

size_t blocks_of(size_t count) { return (count + BLOCK - 1) / BLOCK; }

size_t payload_size(uint32_t codec, size_t count) {
    switch (codec) {
    case FP32: return count * 4;
    case BF16: return count * 2;
    case INT8: return blocks_of(count) + count;
    case FP4: return blocks_of(count) + count / 2 + count % 2;
    default: return 0;
    }
}

// --- encoding ---

__device__ __forceinline__ uint32_t bf16_of(float x) {
    uint32_t bits = __float_as_uint(x),
             rounded = ((bits & 0x7FFFFFFF) + 0x7FFF + (bits >> 16 & 1)) >> 16;
    return (rounded > BF16_MAX ? BF16_MAX : rounded) | bits >> 31 << 15;
}

__device__ __forceinline__ uint32_t int8_scale(uint32_t largest) {
    if (largest <= 0x400000) return 0;
    uint32_t exponent = largest >> 23, scale = exponent - 6 + ((largest & 0x7FFFFF) >= 0x7F0000);
    return exponent < 6 || scale < 1 ? 1 : scale < SCALE_MAX ? scale : SCALE_MAX;
}

__device__ __forceinline__ uint32_t int8_code(float x, uint32_t scale) {
    if (scale == 0) return 0;
    float up = power_of_two(127 - static_cast<int>(scale));
    float q = __fsub_rn(__fadd_rn(__fmul_rn(x, up), 12582912.0f), 12582912.0f); // to nearest even
    q = q < 127.0f ? q : 127.0f;
    q = q > -127.0f ? q : -127.0f;
    return static_cast<uint32_t>(static_cast<int>(q)) & 0xFF;
}

__device__ __forceinline__ uint32_t nearest_exponent(uint32_t magnitude) {
    return (magnitude + 0x400000) >> 23;
}
__device__ __forceinline__ uint32_t half_level(uint32_t scale) {
    return scale > 1 ? (scale - 1) << 23 : 0x400000;
}

__device__ __forceinline__ uint32_t fp4_scale(uint32_t largest) {
    if (largest < half_level(1)) return 0;
    uint32_t exponent = nearest_exponent(largest);
    if (exponent > SCALE_MAX + FP4_LEVELS - 1) exponent = SCALE_MAX + FP4_LEVELS - 1;
    return exponent < FP4_LEVELS ? 1 : exponent - (FP4_LEVELS - 1);
}

__device__ __forceinline__ uint32_t fp4_code(float x, uint32_t scale) {
    uint32_t bits = __float_as_uint(x), magnitude = bits & 0x7FFFFFFF;
    if (scale == 0 || magnitude < half_level(scale)) return 0;
    uint32_t exponent = nearest_exponent(magnitude);
    if (exponent < scale) exponent = scale;
    uint32_t level = exponent - scale + 1;
    return (level < FP4_LEVELS ? level : FP4_LEVELS) | bits >> 31 << 3;
}

template <uint32_t CODEC>
__device__ __forceinline__ void put(uint8_t *payload, size_t count, size_t i, unsigned here,
                                    const float *x, uint32_t scale) {
    uint8_t *codes = payload + (count + BLOCK - 1) / BLOCK;
#pragma unroll
    for (unsigned q = 0; q < EACH; q++) {
        if (q >= here) break;
        if (CODEC == FP32) {
            uint32_t bits = __float_as_uint(x[q]);
            for (unsigned b = 0; b < 4; b++)
                payload[4 * (i + q) + b] = static_cast<uint8_t>(bits >> 8 * b);
        } else if (CODEC == BF16) {
            uint32_t bits = bf16_of(x[q]);
            payload[2 * (i + q)] = static_cast<uint8_t>(bits);
            payload[2 * (i + q) + 1] = static_cast<uint8_t>(bits >> 8);
        } else if (CODEC == INT8) {
            codes[i + q] = static_cast<uint8_t>(int8_code(x[q], scale));
        } else if (q % 2 == 0) { // two per byte; what lies beyond the end is a zero
            uint32_t upper = q + 1 < here ? fp4_code(x[q + 1], scale) : 0;
            codes[(i + q) / 2] = static_cast<uint8_t>(fp4_code(x[q], scale) | upper << 4);
        }
    }
}

template <uint32_t CODEC>
__global__ void __launch_bounds__(THREADS)
    encode_blocks(const float *base, const float *local, size_t count, uint8_t *message,
                  unsigned long long *bad) {
    size_t block = (size_t{blockIdx.x} * THREADS + threadIdx.x) / WARP,
           i = block * BLOCK + threadIdx.x % WARP * EACH;
    unsigned here = i >= count ? 0 : count - i < EACH ? static_cast<unsigned>(count - i) : EACH;
    float x[EACH] = {0, 0, 0, 0};
    uint32_t largest = 0;
#pragma unroll
    for (unsigned q = 0; q < EACH; q++) {
        if (q < here) x[q] = local ? __fsub_rn(base[i + q], local[i + q]) : base[i + q];
    }
#pragma unroll
    for (unsigned q = 0; q < EACH; q++) {
        uint32_t key = magnitude_bits(x[q]);
        if (key >= 0x7F800000u) atomicMin(bad, static_cast<unsigned long long>(i + q));
        largest = key > largest ? key : largest;
    }
#pragma unroll
    for (unsigned reach = WARP / 2; reach > 0; reach /= 2) {
        uint32_t other = __shfl_xor_sync(WHOLE_WARP, largest, static_cast<int>(reach));
        largest = other > largest ? other : largest;
    }
    uint32_t scale = CODEC == INT8 ? int8_scale(largest) : CODEC == FP4 ? fp4_scale(largest) : 0;
    uint8_t *payload = message + HEADER_SIZE;
    if ((CODEC == INT8 || CODEC == FP4) && threadIdx.x % WARP == 0 && here)
        payload[block] = static_cast<uint8_t>(scale);
    put<CODEC>(payload, count, i, here, x, scale);
    if (block == 0 && threadIdx.x == 0) {
        message[0] = CODEC;
        message[1] = 1;
        message[2] = message[3] = 0;
        for (unsigned b = 0; b < 8; b++)
            message[4 + b] = static_cast<uint8_t>(static_cast<unsigned long long>(count) >> 8 * b);
    }
}

template <uint32_t CODEC> const char *encode_dense(const struct cuda_encoding *encoding) {
    size_t warps =
        blocks_of(encoding->count) + (encoding->count == 0); // the header is written in any case
    return LAUNCH(encode_blocks<CODEC>,
                  static_cast<unsigned>((warps * WARP + THREADS - 1) / THREADS), THREADS,
                  floats(encoding->base), floats(encoding->local), encoding->count,
                  device_pointer<uint8_t>(encoding->message),
                  device_pointer<unsigned long long>(encoding->scratch));
}

const char *launch_encode(const struct cuda_encoding *encoding) {
    switch (encoding->codec) {
    case FP32: return encode_dense<FP32>(encoding);
    case BF16: return encode_dense<BF16>(encoding);
    case INT8: return encode_dense<INT8>(encoding);
    default: return encode_dense<FP4>(encoding);
    }
}

const char *encode(const struct cuda_encoding *encoding, struct cuda_encoded *out) {
    if (encoding->codec < FP32 || encoding->codec > TOPK2_128)
        return fail(CUDA_FAILURE_INPUT, "there is no codec %u", encoding->codec);
    if (encoding->count / CHUNK >= 0x7FFFFFFF / (CHUNK / BLOCK))
        return fail(CUDA_FAILURE_INPUT, "%llu elements are too many for one launch",
                    static_cast<unsigned long long>(encoding->count));
    if (encoding->codec >= TOPK2_64) return topk2_encode(encoding, out);
    if (encoding->e.address)
        return fail(CUDA_FAILURE_INPUT, "codec %u has no error feedback", encoding->codec);
    unsigned long long bad = encoding->count;
    void *at = device_pointer<void>(encoding->scratch);
    TRY_CUDA(cudaMemcpyAsync(at, &bad, sizeof bad, cudaMemcpyHostToDevice, current_stream()));
    TRY_CUDA(launch_encode(encoding));
    TRY_CUDA(cudaMemcpyAsync(&bad, at, sizeof bad, cudaMemcpyDeviceToHost, current_stream()));
    TRY_CUDA(cudaStreamSynchronize(current_stream()));
    out->bad = bad;
    out->size = HEADER_SIZE + payload_size(encoding->codec, encoding->count);
    return nullptr;
}

void sizes(uint32_t codec, uint64_t count, struct cuda_codec_sizes *out) {
    if (codec >= TOPK2_64) {
        topk2_sizes(codec, count, out);
        return;
    }
    out->message = HEADER_SIZE + payload_size(codec, count) + 16;
    out->scratch = 256;
}

// --- decoding ---

template <uint32_t CODEC>
__device__ __forceinline__ float value_at(const uint8_t *payload, size_t count, size_t i) {
    if (CODEC == FP32) {
        const uint8_t *at = payload + 4 * i;
        return __uint_as_float(at[0] | uint32_t{at[1]} << 8 | uint32_t{at[2]} << 16 |
                               uint32_t{at[3]} << 24);
    }
    if (CODEC == BF16)
        return __uint_as_float((payload[2 * i] | uint32_t{payload[2 * i + 1]} << 8) << 16);
    const uint8_t *codes = payload + (count + BLOCK - 1) / BLOCK;
    uint32_t scale = payload[i / BLOCK];
    if (CODEC == INT8) {
        float down = scale ? power_of_two(static_cast<int>(scale) - 127) : 0.0f;
        return __fmul_rn(static_cast<float>(static_cast<int8_t>(codes[i])), down);
    }
    uint32_t code = codes[i / 2] >> 4 * (i % 2) & 15, level = code & 7;
    return level ? __uint_as_float((scale + level - 1) << 23 | code >> 3 << 31) : 0.0f;
}

struct nesterov {
    float *theta, *momentum, *sum, scale, rate, beta, period;
};

template <uint32_t CODEC, bool ENDS>
__global__ void __launch_bounds__(THREADS)
    step_elements(const uint8_t *payload, size_t count, struct nesterov n) {
    size_t stride = size_t{gridDim.x} * THREADS;
    for (size_t i = size_t{blockIdx.x} * THREADS + threadIdx.x; i < count; i += stride) {
        float g = __fmul_rn(n.scale, value_at<CODEC>(payload, count, i)),
              total = __fadd_rn(n.sum[i], g), update;
        if (ENDS) {
            float m = __fadd_rn(__fmul_rn(n.beta, n.momentum[i]), __fdiv_rn(total, n.period));
            update = __fadd_rn(__fmul_rn(n.beta, m), __fdiv_rn(g, n.period));
            n.momentum[i] = m;
            n.sum[i] = 0.0f;
        } else {
            update = __fdiv_rn(g, n.period);
            n.sum[i] = total;
        }
        n.theta[i] = __fsub_rn(n.theta[i], __fmul_rn(n.rate, update));
    }
}

template <uint32_t CODEC>
const char *launch_step(const struct cuda_part *part, size_t count, const struct nesterov &n,
                        bool ends) {
    const uint8_t *payload = device_pointer<uint8_t>(part->message) + HEADER_SIZE;
    if (ends)
        return LAUNCH((step_elements<CODEC, true>), blocks_for(count), THREADS, payload, count, n);
    return LAUNCH((step_elements<CODEC, false>), blocks_for(count), THREADS, payload, count, n);
}

const char *step_dense(uint32_t codec, uint64_t count, const struct cuda_part *part,
                       const struct cuda_nesterov *step) {
    if (codec < FP32 || codec > FP4)
        return fail(CUDA_FAILURE_INPUT, "codec %u is not dense", codec);
    if (count == 0) return nullptr;
    struct nesterov n = {floats(step->theta), floats(step->momentum),
                         floats(step->sum),   part->scale,
                         step->rate,          step->beta,
                         step->period};
    switch (codec) {
    case FP32: return launch_step<FP32>(part, count, n, step->ends);
    case BF16: return launch_step<BF16>(part, count, n, step->ends);
    case INT8: return launch_step<INT8>(part, count, n, step->ends);
    default: return launch_step<FP4>(part, count, n, step->ends);
    }
}

const char *step_sparse(uint32_t codec, uint64_t count, const struct cuda_part *parts,
                        uint32_t part_count, float rate, const struct cuda_round *round) {
    if (codec != TOPK2_64 && codec != TOPK2_128)
        return fail(CUDA_FAILURE_INPUT, "codec %u is not sparse", codec);
    return topk2_step(codec, count, parts, part_count, rate, round);
}

const char *add(uint32_t codec, uint64_t count, const struct cuda_part *part,
                struct device_memory target) {
    if (codec != TOPK2_64 && codec != TOPK2_128)
        return fail(CUDA_FAILURE_INPUT, "codec %u is not sparse", codec);
    return topk2_add(codec, count, part, floats(target));
}

} // namespace

void codec_install(struct cuda_operations *operations) {
    operations->codec_sizes = sizes;
    operations->codec_encode = encode;
    operations->codec_add = add;
    operations->codec_step_sparse = step_sparse;
    operations->codec_step_dense = step_dense;
}
