// Attention's two ways over the same random numbers: how far apart their results are, and how long
// each takes.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cuda/attention.cuh"

namespace {

constexpr unsigned COMPARERS = 64, TIMED_RUNS = 3, ROWS_MOST = 16384;

// What differs from way to way, and what does not.
struct problem {
    struct cuda_attention a;
    size_t rows, width, out_width;
    struct device_memory out[2], lse[2], d_qkv[2], sums;
    std::vector<void *> memory;
};

__global__ void fill_random(bf16 *to, size_t count, unsigned seed, float scale) {
    for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count;
         i += size_t{gridDim.x} * blockDim.x) {
        unsigned hash = (static_cast<unsigned>(i) + seed) * 2654435761u; // a few rounds of a hash
        hash = (hash ^ hash >> 15) * 2246822519u;
        hash = (hash ^ hash >> 13) * 3266489917u;
        float unit = static_cast<float>((hash ^ hash >> 16) >> 8) * (1.0f / (1 << 24));
        to[i] = static_cast<bf16>(pack_bf16(scale * (2 * unit - 1), 0.0f));
    }
}

__global__ void fill_angles(float *cos, float *sin, unsigned length, unsigned half) {
    for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < size_t{length} * half;
         i += size_t{gridDim.x} * blockDim.x) {
        float angle = static_cast<float>(i / half) *
                      powf(10000.0f, -static_cast<float>(i % half) / static_cast<float>(half));
        cos[i] = cosf(angle);
        sin[i] = sinf(angle);
    }
}

__device__ __forceinline__ float number(bf16 x) { return from_bf16(x); }
__device__ __forceinline__ float number(float x) { return x; }

// sums[block]: squares of a - b, and of a.
template <class T> __global__ void compare(const T *a, const T *b, size_t count, double *sums) {
    __shared__ double far[BLOCK_THREADS], whole[BLOCK_THREADS];
    double f = 0, w = 0;
    for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count;
         i += size_t{gridDim.x} * blockDim.x) {
        double x = number(a[i]), y = number(b[i]);
        f += (x - y) * (x - y);
        w += x * x;
    }
    far[threadIdx.x] = f;
    whole[threadIdx.x] = w;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (unsigned i = 1; i < BLOCK_THREADS; i++) far[0] += far[i], whole[0] += whole[i];
    sums[2 * blockIdx.x] = far[0];
    sums[2 * blockIdx.x + 1] = whole[0];
}

const char *take(problem *p, size_t size, struct device_memory *out) {
    void *memory = nullptr;
    TRY_CUDA(device_allocate(&memory, size));
    p->memory.push_back(memory);
    out->address = reinterpret_cast<uint64_t>(memory);
    return nullptr;
}

const char *make_problem(cuda_session *session, problem *p) {
    struct cuda_attention *a = &p->a;
    p->rows = size_t{a->sequences} * a->length;
    p->width = size_t{a->heads + 2 * a->kv_heads} * a->head_size;
    p->out_width = size_t{a->heads} * a->head_size;
    size_t angles = size_t{a->length} * a->head_size / 2;
    TRY_CUDA(take(p, p->rows * p->width * sizeof(bf16), &a->qkv));
    TRY_CUDA(take(p, p->rows * p->out_width * sizeof(bf16), &a->d_out));
    TRY_CUDA(take(p, p->rows * a->heads * sizeof(float), &a->delta));
    TRY_CUDA(take(p, angles * sizeof(float), &a->cos));
    TRY_CUDA(take(p, angles * sizeof(float), &a->sin));
    TRY_CUDA(take(p, COMPARERS * 2 * sizeof(double), &p->sums));
    for (int way = 0; way < 2; way++) {
        TRY_CUDA(take(p, p->rows * p->out_width * sizeof(bf16), &p->out[way]));
        TRY_CUDA(take(p, p->rows * a->heads * sizeof(float), &p->lse[way]));
        TRY_CUDA(take(p, p->rows * p->width * sizeof(bf16), &p->d_qkv[way]));
        // Not numbers: what is not written shows.
        TRY_CUDA(cudaMemsetAsync(device_pointer<void>(p->out[way]), 0xFF,
                                 p->rows * p->out_width * sizeof(bf16), session->stream));
        TRY_CUDA(cudaMemsetAsync(device_pointer<void>(p->d_qkv[way]), 0xFF,
                                 p->rows * p->width * sizeof(bf16), session->stream));
    }
    TRY_CUDA(LAUNCH_ON(session->stream, fill_angles, blocks_for(angles), BLOCK_THREADS, 0,
                       floats(a->cos), floats(a->sin), a->length, a->head_size / 2));
    size_t count = p->rows * p->out_width;
    return LAUNCH_ON(session->stream, fill_random, blocks_for(count), BLOCK_THREADS, 0,
                     halves(a->d_out), count, 7u, 1.0f);
}

const char *run(cuda_session *session, problem *p, const hopper_attention *hopper, bool forward) {
    int way = hopper != nullptr;
    p->a.out = p->out[way], p->a.lse = p->lse[way], p->a.d_qkv = p->d_qkv[way];
    const char *why = attention_run(session, hopper, &p->a, forward);
    return why ? hopper_attention_explain(hopper, why) : nullptr;
}

const char *finish(cuda_session *session, const hopper_attention *hopper) {
    const char *why = answer_of(cudaStreamSynchronize(session->stream), "attention");
    return why ? hopper_attention_explain(hopper, why) : nullptr;
}

template <class T>
const char *find_distance(cuda_session *session, problem *p, const struct device_memory arrays[2],
                          size_t count, double *largest) {
    double sums[COMPARERS][2], far = 0, whole = 0;
    auto kernel = compare<T>;
    TRY_CUDA(LAUNCH_ON(session->stream, kernel, COMPARERS, BLOCK_THREADS, 0,
                       device_pointer<const T>(arrays[0]), device_pointer<const T>(arrays[1]),
                       count, device_pointer<double>(p->sums)));
    TRY_CUDA(cudaMemcpyAsync(sums, device_pointer<void>(p->sums), sizeof sums,
                             cudaMemcpyDeviceToHost, session->stream));
    TRY_CUDA(cudaStreamSynchronize(session->stream));
    for (auto &sum : sums) far += sum[0], whole += sum[1];
    double distance = sqrt(far / whole);
    if (!(distance <= *largest)) *largest = distance; // what is no number is the largest
    return nullptr;
}

const char *compare_ways(cuda_session *session, problem *p, const hopper_attention *hopper,
                         double *distance) {
    size_t count = p->rows * p->width;
    for (const hopper_attention *way : {static_cast<const hopper_attention *>(nullptr), hopper}) {
        TRY_CUDA(LAUNCH_ON(session->stream, fill_random, blocks_for(count), BLOCK_THREADS, 0,
                           halves(p->a.qkv), count, 1u, 2.0f));
        TRY_CUDA(run(session, p, way, true));
        TRY_CUDA(run(session, p, way, false));
        TRY_CUDA(finish(session, hopper));
    }
    TRY_CUDA(find_distance<bf16>(session, p, p->out, p->rows * p->out_width, distance));
    TRY_CUDA(find_distance<float>(session, p, p->lse, p->rows * p->a.heads, distance));
    return find_distance<bf16>(session, p, p->d_qkv, count, distance);
}

// ms: of forward, then of backward.
const char *time_way(cuda_session *session, problem *p, const hopper_attention *hopper,
                     cudaEvent_t begin, cudaEvent_t end, float ms[2]) {
    for (int direction = 0; direction < 2; direction++) {
        TRY_CUDA(run(session, p, hopper, direction == 0));
        TRY_CUDA(cudaEventRecord(begin, session->stream));
        for (unsigned i = 0; i < TIMED_RUNS; i++) TRY_CUDA(run(session, p, hopper, direction == 0));
        TRY_CUDA(cudaEventRecord(end, session->stream));
        TRY_CUDA(finish(session, hopper));
        TRY_CUDA(cudaEventElapsedTime(&ms[direction], begin, end));
        ms[direction] /= static_cast<float>(TIMED_RUNS);
    }
    return nullptr;
}

const char *time_ways(cuda_session *session, problem *p, const hopper_attention *hopper,
                      struct cuda_attention_measure *out) {
    cudaEvent_t begin = nullptr, end = nullptr;
    const char *why = answer_of(cudaEventCreate(&begin), "cudaEventCreate");
    if (!why) why = answer_of(cudaEventCreate(&end), "cudaEventCreate");
    if (!why) why = time_way(session, p, nullptr, begin, end, out->mma_ms);
    if (!why && hopper) why = time_way(session, p, hopper, begin, end, out->wgmma_ms);
    if (end) (void)cudaEventDestroy(end);
    if (begin) (void)cudaEventDestroy(begin);
    return why;
}

const char *measure(cuda_session *session, const struct cuda_attention &shape,
                    const hopper_attention *hopper, bool timed,
                    struct cuda_attention_measure *out) {
    problem p = {};
    p.a = shape;
    const char *why = make_problem(session, &p);
    if (!why && hopper) why = compare_ways(session, &p, hopper, &out->distance);
    if (!why && timed) why = time_ways(session, &p, hopper, out);
    for (void *memory : p.memory) (void)cudaFree(memory);
    return why;
}

} // namespace

const char *attention_measure(cuda_session *session, const struct cuda_attention *shape,
                              struct cuda_attention_measure *out) {
    const hopper_attention *hopper = attention_hopper(session->attention);
    if (!hopper_attention_can(hopper, shape->head_size)) hopper = nullptr;
    struct cuda_attention whole = *shape, odd = *shape;
    whole.sequences =
        std::max(1u, std::min(shape->sequences, ROWS_MOST / std::max(1u, shape->length)));
    odd.sequences = 2, odd.length = 193, odd.heads = shape->heads / shape->kv_heads,
    odd.kv_heads = 1;
    *out = {};
    out->sequences = whole.sequences;
    TRY_CUDA(measure(session, odd, hopper, false, out));
    return measure(session, whole, hopper, true, out);
}
