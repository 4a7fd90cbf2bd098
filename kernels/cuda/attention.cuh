// What the two ways of attention share: attention.cu for any device, attention_hopper*.cu for
// compute 9.0.
#ifndef KERNELS_CUDA_ATTENTION_CUH
#define KERNELS_CUDA_ATTENTION_CUH

#include "kernels/cuda/training.cuh"

constexpr float LOG2_E = 1.44269504f, LN_2 = 0.69314718f;

struct attention_arguments {
    unsigned sequences, length, heads, kv_heads, tiles;
    const bf16 *qkv, *out, *d_out;
    const float *lse, *cos, *sin, *delta;
    bf16 *out_to, *d_qkv, *qkv_to;
    float *lse_to, *delta_to;
    __device__ size_t width(unsigned size) const { return size_t{heads + 2 * kv_heads} * size; }
};

// Four lanes hold a row between them.
static __device__ __forceinline__ float row_sum(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}
static __device__ __forceinline__ float row_top(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

// Rows row and row + 8 of sums, times factors, to rows of `to`; with cos, rotated back first.
template <int D>
static __device__ __forceinline__ void
store_rows(float sum[D / 8][4], float factor0, float factor1, bf16 *to, size_t stride, unsigned row,
           unsigned end, const float *cos, const float *sin) {
    unsigned t = threadIdx.x % 4;
    UNROLL for (int half = 0; half < 2; half++) {
        unsigned here = row + 8 * half;
        if (here >= end) continue;
        float factor = half ? factor1 : factor0;
        if (cos) {
            const float *c = cos + size_t{here} * (D / 2) + 2 * t,
                        *s = sin + size_t{here} * (D / 2) + 2 * t;
            UNROLL for (int n = 0; n < D / 16; n++) for (int i = 0; i < 2; i++) {
                float a = sum[n][2 * half + i], b = sum[n + D / 16][2 * half + i];
                sum[n][2 * half + i] = a * c[8 * n + i] + b * s[8 * n + i];
                sum[n + D / 16][2 * half + i] = b * c[8 * n + i] - a * s[8 * n + i];
            }
        }
        UNROLL for (int n = 0; n < D / 8; n++) *
            reinterpret_cast<uint32_t *>(to + here * stride + 8 * n + 2 * t) =
            pack_bf16(sum[n][2 * half] * factor, sum[n][2 * half + 1] * factor);
    }
}

// --- attention.cu ---
struct hopper_attention;
// One pass, by attention_hopper*.cu where hopper is given.
INTERNAL const char *attention_run(cuda_session *session, const hopper_attention *hopper,
                                   const struct cuda_attention *a, bool forward);
// delta_to = rowsum(dO * O).
INTERNAL const char *attention_delta(cuda_session *session, const attention_arguments &a,
                                     unsigned size);

// --- attention_hopper*.cu ---
// NULL in *out, and no error, where the device is another or the driver knows no tensor maps.
INTERNAL const char *hopper_attention_open(hopper_attention **out);
INTERNAL void hopper_attention_close(hopper_attention *hopper);
INTERNAL bool hopper_attention_can(const hopper_attention *hopper, unsigned size);
// `why`, with what a kernel said before it gave up, if one did.
INTERNAL const char *hopper_attention_explain(const hopper_attention *hopper, const char *why);
// Forward leaves q and k rotated in qkv, and backward takes them so.
INTERNAL const char *hopper_attention_forward(cuda_session *session, const hopper_attention *hopper,
                                              const attention_arguments &a, unsigned size);
INTERNAL const char *hopper_attention_backward(cuda_session *session,
                                               const hopper_attention *hopper,
                                               const attention_arguments &a, unsigned size);

// --- attention_measure.cu: both ways over one problem of this shape and a small odd one ---
// Not while a session has work.
INTERNAL const char *attention_measure(cuda_session *session, const struct cuda_attention *shape,
                                       struct cuda_attention_measure *out);

// --- attention_choice.cu ---
struct attention_choices;
INTERNAL const char *attention_choices_open(const char *cache, attention_choices **out);
INTERNAL void attention_choices_close(attention_choices *choices);
// What attention_hopper*.cu needs, where the device can; and where it is also what this shape uses.
INTERNAL const hopper_attention *attention_hopper(const attention_choices *choices);
INTERNAL const hopper_attention *attention_chosen(const attention_choices *choices,
                                                  const struct cuda_attention *a);
INTERNAL void attention_choice_install(struct cuda_training *training);

#endif
