// What goes over flat vectors at a step's end: the sum of the losses, the gradient's norm, AdamW.
// Sums are trees of fixed shape.
#include "kernels/cuda/training.cuh"

namespace {

constexpr unsigned SUM_THREADS = 1024;

// All of the block's threads give a value, thread 0 gets the sum; `lane` is [threads], shared, a
// power of two.
__device__ double block_sum(double mine, double *lane) {
    lane[threadIdx.x] = mine;
    __syncthreads();
    for (unsigned width = blockDim.x / 2; width > 0; width /= 2) {
        if (threadIdx.x < width) lane[threadIdx.x] += lane[threadIdx.x + width];
        __syncthreads();
    }
    double sum = lane[0];
    __syncthreads();
    return sum;
}

__global__ void add_losses(const float *losses, unsigned count, bool accumulate,
                           cuda_outcome *outcome) {
    __shared__ double lane[SUM_THREADS];
    double mine = 0;
    for (unsigned i = threadIdx.x; i < count; i += SUM_THREADS)
        mine += static_cast<double>(losses[i]);
    double sum = block_sum(mine, lane);
    if (threadIdx.x == 0) outcome->loss = accumulate ? outcome->loss + sum : sum;
}

__global__ void gradient_squares(const float *gradient, size_t count, double *partials) {
    __shared__ double lane[BLOCK_THREADS];
    size_t stride = size_t{gridDim.x} * blockDim.x, fours = count / 4;
    double sum = 0;
    for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < fours; i += stride) {
        uint4 bits = reinterpret_cast<const uint4 *>(gradient)[i];
        float a = __uint_as_float(bits.x), b = __uint_as_float(bits.y), c = __uint_as_float(bits.z),
              d = __uint_as_float(bits.w);
        sum += static_cast<double>(fmaf(a, a, b * b) + fmaf(c, c, d * d));
    }
    if (blockIdx.x == 0 && threadIdx.x < count % 4) {
        double last = static_cast<double>(gradient[4 * fours + threadIdx.x]);
        sum += last * last;
    }
    double all = block_sum(sum, lane);
    if (threadIdx.x == 0) partials[blockIdx.x] = all;
}

__global__ void judge_gradient(const double *partials, unsigned count, float clip,
                               cuda_outcome *outcome) {
    __shared__ double lane[SUM_THREADS];
    static_assert(CUDA_SUM_BLOCKS == SUM_THREADS, "a thread a partial sum");
    double squares = block_sum(threadIdx.x < count ? partials[threadIdx.x] : 0.0, lane);
    if (threadIdx.x != 0) return;
    double norm = sqrt(squares);
    outcome->norm = norm;
    outcome->finite = norm - norm == 0.0 && outcome->loss - outcome->loss == 0.0;
    double scale = clip > 0.0f ? static_cast<double>(clip) / (norm + 1e-6) : 1.0;
    outcome->gradient_scale = static_cast<float>(scale < 1.0 ? scale : 1.0);
}

// --- AdamW ---

// As in model/moments.c, which says why.
__device__ __forceinline__ uint32_t chance(uint32_t position, uint32_t salt) {
    uint32_t x = position * 0x9e3779b1u ^ salt;
    x = (x ^ x >> 15) * 0x85ebca77u;
    x = (x ^ x >> 13) * 0xc2b2ae3du;
    return x >> 16;
}
__device__ __forceinline__ float moment_read(const float *m, size_t at, uint32_t) { return m[at]; }
__device__ __forceinline__ float moment_read(const bf16 *m, size_t at, uint32_t) {
    return from_bf16(m[at]);
}
__device__ __forceinline__ void moment_write(float *m, size_t at, float value, uint32_t) {
    m[at] = value;
}
__device__ __forceinline__ void moment_write(bf16 *m, size_t at, float value, uint32_t salt) {
    m[at] =
        static_cast<bf16>((__float_as_uint(value) + chance(static_cast<uint32_t>(at), salt)) >> 16);
}

// A block a piece; neighbouring threads have neighbouring elements.
template <class Moment>
__global__ void adamw_piece(const cuda_piece *pieces, const cuda_update *update,
                            const cuda_outcome *outcome, float beta1, float beta2, float epsilon,
                            float decay, const float *gradient, float *parameters, bf16 *copy,
                            Moment *m, Moment *v) {
    if (!outcome->finite) return;
    cuda_piece piece = pieces[blockIdx.x];
    float scale = outcome->gradient_scale, rate = update->learning_rate * update->correction1,
          correction2 = update->correction2;
    float keep = piece.decays ? 1.0f - update->learning_rate * decay : 1.0f, rest1 = 1.0f - beta1,
          rest2 = 1.0f - beta2;
    uint32_t salt_m = update->salt_m, salt_v = update->salt_v;
    for (unsigned i = threadIdx.x; i < piece.count; i += blockDim.x) {
        size_t at = piece.offset + i;
        uint32_t high = static_cast<uint32_t>(at >> 32);
        float g = gradient[at] * scale;
        float new_m = fmaf(beta1, moment_read(m, at, 0), rest1 * g);
        float new_v = fmaf(beta2, moment_read(v, at, 0), rest2 * g * g);
        moment_write(m, at, new_m, salt_m ^ high);
        moment_write(v, at, new_v, salt_v ^ high);
        float change = rate * new_m / (sqrtf(new_v * correction2) + epsilon);
        float p = parameters[at] * keep - change;
        parameters[at] = p;
        copy[at] = static_cast<bf16>(pack_bf16(p, 0.0f));
    }
}

__global__ void round_all(size_t count, const float *from, bf16 *to) {
    size_t stride = size_t{gridDim.x} * blockDim.x;
    for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride)
        to[i] = static_cast<bf16>(pack_bf16(from[i], 0.0f));
}

__global__ void rebase_all(size_t count, float *local, bf16 *copy, const float *fresh,
                           const float *origin) {
    size_t stride = size_t{gridDim.x} * blockDim.x;
    for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
        float p = __fadd_rn(fresh[i], __fsub_rn(local[i], origin[i]));
        local[i] = p;
        copy[i] = static_cast<bf16>(pack_bf16(p, 0.0f));
    }
}

const char *loss_sum(cuda_session *session, struct device_memory losses, uint32_t count,
                     uint32_t accumulate, struct device_memory outcome) {
    return LAUNCH_ON(session->stream, add_losses, 1, SUM_THREADS, 0, floats(losses), count,
                     accumulate != 0, device_pointer<cuda_outcome>(outcome));
}

const char *judge(cuda_session *session, uint64_t count, struct device_memory gradient,
                  struct device_memory partials, float clip, struct device_memory outcome) {
    size_t wanted = (count / 4 + BLOCK_THREADS - 1) / BLOCK_THREADS + 1;
    unsigned blocks = static_cast<unsigned>(wanted < SUM_THREADS ? wanted : SUM_THREADS);
    TRY_CUDA(LAUNCH_ON(session->stream, gradient_squares, blocks, BLOCK_THREADS, 0,
                       floats(gradient), count, device_pointer<double>(partials)));
    return LAUNCH_ON(session->stream, judge_gradient, 1, SUM_THREADS, 0,
                     device_pointer<double>(partials), blocks, clip,
                     device_pointer<cuda_outcome>(outcome));
}

template <class Moment> const char *run_adamw(cuda_session *session, const struct cuda_adamw *a) {
    return LAUNCH_ON(session->stream, adamw_piece<Moment>, a->piece_count, BLOCK_THREADS, 0,
                     device_pointer<cuda_piece>(a->pieces), device_pointer<cuda_update>(a->update),
                     device_pointer<cuda_outcome>(a->outcome), a->beta1, a->beta2, a->epsilon,
                     a->decay, floats(a->gradient), floats(a->parameters), halves(a->copy),
                     device_pointer<Moment>(a->m), device_pointer<Moment>(a->v));
}

const char *adamw(cuda_session *session, const struct cuda_adamw *a) {
    return a->narrow ? run_adamw<bf16>(session, a) : run_adamw<float>(session, a);
}

const char *to_bf16(cuda_session *session, uint64_t count, struct device_memory from,
                    struct device_memory to) {
    return LAUNCH_ON(session->stream, round_all, blocks_for(count), BLOCK_THREADS, 0, count,
                     floats(from), halves(to));
}

const char *rebase(cuda_session *session, uint64_t count, struct device_memory local,
                   struct device_memory copy, struct device_memory fresh,
                   struct device_memory origin) {
    return LAUNCH_ON(session->stream, rebase_all, blocks_for(count), BLOCK_THREADS, 0, count,
                     floats(local), halves(copy), floats(fresh), floats(origin));
}

} // namespace

void optimizer_install(struct cuda_training *training) {
    training->loss_sum = loss_sum;
    training->judge = judge;
    training->adamw = adamw;
    training->to_bf16 = to_bf16;
    training->rebase = rebase;
}
