// kernels/elementwise.h on the device, with the same bits: every operation is an intrinsic that
// rounds once to nearest even (__fadd_rn and its kin are never fused), denormals are kept, division
// is the IEEE one.
#include <cstdlib>

#include "kernels/cuda/device.cuh"
#include "kernels/elementwise.h"

namespace {

template <class Operation> __global__ void for_each_element(Operation operation, size_t count) {
    size_t stride = size_t{gridDim.x} * blockDim.x;
    for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride)
        operation(i);
}

template <class Operation> const char *run(Operation operation, size_t count) {
    if (count == 0) return nullptr;
    return LAUNCH(for_each_element<Operation>, blocks_for(count), BLOCK_THREADS, operation, count);
}

struct add_operation {
    float *out;
    const float *a, *b;
    __device__ void operator()(size_t i) const { out[i] = __fadd_rn(a[i], b[i]); }
};

struct subtract_operation {
    float *out;
    const float *a, *b;
    __device__ void operator()(size_t i) const { out[i] = __fsub_rn(a[i], b[i]); }
};

struct scale_operation {
    float *out;
    const float *a;
    float scale;
    __device__ void operator()(size_t i) const { out[i] = __fmul_rn(scale, a[i]); }
};

struct add_scaled_operation {
    float *out;
    const float *a;
    float scale;
    __device__ void operator()(size_t i) const {
        out[i] = __fadd_rn(out[i], __fmul_rn(scale, a[i]));
    }
};

struct feedback_operation {
    float *e;
    const float *delta;
    float decay;
    __device__ void operator()(size_t i) const {
        e[i] = __fadd_rn(__fmul_rn(decay, e[i]), delta[i]);
    }
};

struct rebase_operation {
    float *local;
    const float *fresh, *origin;
    __device__ void operator()(size_t i) const {
        local[i] = __fadd_rn(fresh[i], __fsub_rn(local[i], origin[i]));
    }
};

struct nesterov_between_operation {
    float *theta, *sum;
    const float *g;
    float rate, period;
    __device__ void operator()(size_t i) const {
        sum[i] = __fadd_rn(sum[i], g[i]);
        theta[i] = __fsub_rn(theta[i], __fmul_rn(rate, __fdiv_rn(g[i], period)));
    }
};

struct nesterov_end_operation {
    float *theta, *momentum, *sum;
    const float *g;
    float rate, beta, period;
    __device__ void operator()(size_t i) const {
        float total = __fadd_rn(sum[i], g[i]);
        float m = __fadd_rn(__fmul_rn(beta, momentum[i]), __fdiv_rn(total, period));
        theta[i] = __fsub_rn(
            theta[i], __fmul_rn(rate, __fadd_rn(__fmul_rn(beta, m), __fdiv_rn(g[i], period))));
        momentum[i] = m;
        sum[i] = 0.0f;
    }
};

struct sgd_operation {
    float *theta;
    const float *q;
    float weight;
    __device__ void operator()(size_t i) const {
        theta[i] = __fsub_rn(theta[i], __fmul_rn(weight, q[i]));
    }
};

struct find_bad_operation {
    const float *a;
    int *bad;
    __device__ void operator()(size_t i) const {
        if ((__float_as_uint(a[i]) & 0x7F800000u) == 0x7F800000u)
            *bad = 1; // all writers write the same
    }
};

// A group of 16 threads is one block of the reduction tree: thread j is lane j, and walks down its
// rows.
constexpr unsigned LANES = ELEMENTWISE_LANES, TREES = BLOCK_THREADS / LANES;
constexpr size_t TREE_SIZE = ELEMENTWISE_BLOCK;

__global__ void sum_squares(const float *a, size_t count, double *sums, size_t blocks) {
    __shared__ double lane[BLOCK_THREADS];
    size_t block = size_t{blockIdx.x} * TREES + threadIdx.x / LANES;
    unsigned j = threadIdx.x % LANES;
    double sum = 0;
    size_t first = block * TREE_SIZE, left = first < count ? count - first : 0;
    size_t size = left < TREE_SIZE ? left : TREE_SIZE;
    for (size_t i = j; i < size; i += LANES) {
        double x = static_cast<double>(a[first + i]);
        sum = __dadd_rn(sum, __dmul_rn(x, x));
    }
    lane[threadIdx.x] = sum;
    __syncthreads();
    for (unsigned width = LANES / 2; width > 0; width /= 2) {
        if (j < width) lane[threadIdx.x] = __dadd_rn(lane[threadIdx.x], lane[threadIdx.x + width]);
        __syncthreads();
    }
    if (j == 0 && block < blocks) sums[block] = lane[threadIdx.x];
}

const char *add(struct device_memory out, struct device_memory a, struct device_memory b,
                size_t count) {
    return run(add_operation{floats(out), floats(a), floats(b)}, count);
}

const char *subtract(struct device_memory out, struct device_memory a, struct device_memory b,
                     size_t count) {
    return run(subtract_operation{floats(out), floats(a), floats(b)}, count);
}

const char *scale(struct device_memory out, struct device_memory a, float by, size_t count) {
    return run(scale_operation{floats(out), floats(a), by}, count);
}

const char *add_scaled(struct device_memory out, struct device_memory a, float by, size_t count) {
    return run(add_scaled_operation{floats(out), floats(a), by}, count);
}

const char *feedback(struct device_memory e, struct device_memory delta, float decay,
                     size_t count) {
    return run(feedback_operation{floats(e), floats(delta), decay}, count);
}

const char *rebase(struct device_memory local, struct device_memory fresh,
                   struct device_memory origin, size_t count) {
    return run(rebase_operation{floats(local), floats(fresh), floats(origin)}, count);
}

const char *nesterov_between(struct device_memory theta, struct device_memory sum,
                             struct device_memory g, float rate, float period, size_t count) {
    return run(nesterov_between_operation{floats(theta), floats(sum), floats(g), rate, period},
               count);
}

const char *nesterov_end(struct device_memory theta, struct device_memory momentum,
                         struct device_memory sum, struct device_memory g, float rate, float beta,
                         float period, size_t count) {
    return run(nesterov_end_operation{floats(theta), floats(momentum), floats(sum), floats(g), rate,
                                      beta, period},
               count);
}

const char *sgd(struct device_memory theta, struct device_memory q, float weight, size_t count) {
    return run(sgd_operation{floats(theta), floats(q), weight}, count);
}

const char *find_bad(const float *a, size_t count, int *bad, int *found) {
    TRY_CUDA(cudaMemsetAsync(bad, 0, sizeof *bad, current_stream()));
    TRY_CUDA(run(find_bad_operation{a, bad}, count));
    TRY_CUDA(cudaMemcpyAsync(found, bad, sizeof *found, cudaMemcpyDeviceToHost, current_stream()));
    TRY_CUDA(cudaStreamSynchronize(current_stream()));
    return nullptr;
}

const char *is_finite(struct device_memory a, size_t count, int *out) {
    void *bad = nullptr;
    int found = 0;
    TRY_CUDA(device_allocate(&bad, sizeof found));
    const char *why = find_bad(floats(a), count, static_cast<int *>(bad), &found);
    (void)cudaFree(bad);
    if (!why) *out = !found;
    return why;
}

const char *block_sums(const float *a, size_t count, double *sums, double *host, size_t blocks) {
    TRY_CUDA(LAUNCH(sum_squares, static_cast<unsigned>((blocks + TREES - 1) / TREES), BLOCK_THREADS,
                    a, count, sums, blocks));
    TRY_CUDA(cudaMemcpyAsync(host, sums, blocks * sizeof *sums, cudaMemcpyDeviceToHost,
                             current_stream()));
    TRY_CUDA(cudaStreamSynchronize(current_stream()));
    return nullptr;
}

// The blocks' sums are added on the host, from left to right.
const char *norm_squared(struct device_memory a, size_t count, double *out) {
    size_t blocks = (count + TREE_SIZE - 1) / TREE_SIZE;
    double sum = 0;
    if (blocks > 0) {
        double *host = static_cast<double *>(malloc(blocks * sizeof *host));
        if (!host) return fail(CUDA_FAILURE_MEMORY, "out of host memory for a norm");
        void *sums = nullptr;
        const char *why = device_allocate(&sums, blocks * sizeof *host);
        if (!why) {
            why = block_sums(floats(a), count, static_cast<double *>(sums), host, blocks);
            (void)cudaFree(sums);
        }
        for (size_t block = 0; !why && block < blocks; block++) sum += host[block];
        free(host);
        if (why) return why;
    }
    *out = sum;
    return nullptr;
}

} // namespace

void elementwise_install(struct cuda_operations *operations) {
    operations->add = add;
    operations->subtract = subtract;
    operations->scale = scale;
    operations->add_scaled = add_scaled;
    operations->feedback = feedback;
    operations->rebase = rebase;
    operations->nesterov_between = nesterov_between;
    operations->nesterov_end = nesterov_end;
    operations->sgd = sgd;
    operations->is_finite = is_finite;
    operations->norm_squared = norm_squared;
}
