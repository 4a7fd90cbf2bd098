// RMSNorm, a warp a row. Its weight's gradient is a sum over all rows: each warp adds up its own
// rows in shared memory, each block its warps, and a second kernel the CUDA_NORM_GROUPS blocks, all
// in a fixed order.
#include "kernels/cuda/training.cuh"

namespace {

constexpr unsigned NORM_WARPS = 8, GROUPS = CUDA_NORM_GROUPS, NORM_SHARED = 64 * 1024;

__global__ void normalise(unsigned rows, unsigned width, float eps, const bf16 *x, const float *w,
                          bf16 *y, float *rstd) {
    unsigned row = blockIdx.x * NORM_WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (row >= rows) return;
    x += size_t{row} * width;
    y += size_t{row} * width;
    float squares = 0;
    for (unsigned at = 8 * lane; at < width; at += 8 * WARP) {
        float v[8];
        widen(load_octet(x + at), v);
        for (int j = 0; j < 8; j++) squares = fmaf(v[j], v[j], squares);
    }
    float scale = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(width) + eps);
    if (lane == 0) rstd[row] = scale;
    for (unsigned at = 8 * lane; at < width; at += 8 * WARP) {
        float v[8];
        widen(load_octet(x + at), v);
        for (int j = 0; j < 8; j++) v[j] = v[j] * scale * w[at + j];
        store_octet(y + at, narrow(v));
    }
}

// Block b does the rows b * warps + warp, and every gridDim.x * warps after it.
__global__ void normalise_gradient(unsigned rows, unsigned width, const bf16 *dy, const bf16 *x,
                                   const float *w, const float *rstd, bf16 *dx, bool add,
                                   float *partials) {
    DYNAMIC_SHARED(shared);
    float *sums = reinterpret_cast<float *>(shared); // [warps][width]
    unsigned warps = blockDim.x / WARP, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    float *mine = sums + size_t{warp} * width;
    for (unsigned at = lane; at < width; at += WARP) mine[at] = 0;
    __syncwarp();
    for (unsigned row = blockIdx.x * warps + warp; row < rows; row += gridDim.x * warps) {
        size_t start = size_t{row} * width;
        float scale = rstd[row], dot = 0;
        for (unsigned at = 8 * lane; at < width; at += 8 * WARP) {
            float g[8], v[8];
            widen(load_octet(dy + start + at), g);
            widen(load_octet(x + start + at), v);
            for (int j = 0; j < 8; j++) dot = fmaf(g[j] * w[at + j], v[j], dot);
        }
        float mean = warp_sum(dot) * scale / static_cast<float>(width);
        for (unsigned at = 8 * lane; at < width; at += 8 * WARP) {
            float g[8], v[8], d[8] = {0, 0, 0, 0, 0, 0, 0, 0};
            widen(load_octet(dy + start + at), g);
            widen(load_octet(x + start + at), v);
            if (add) widen(load_octet(dx + start + at), d);
            for (int j = 0; j < 8; j++) {
                float n = v[j] * scale;
                mine[at + j] = fmaf(g[j], n, mine[at + j]);
                d[j] = fmaf(scale, g[j] * w[at + j] - n * mean, d[j]);
            }
            store_octet(dx + start + at, narrow(d));
        }
    }
    __syncthreads();
    for (unsigned at = threadIdx.x; at < width; at += blockDim.x) {
        float sum = sums[at];
        for (unsigned i = 1; i < warps; i++) sum += sums[size_t{i} * width + at];
        partials[size_t{blockIdx.x} * width + at] = sum;
    }
}

// A block has 32 columns; thread (slice, column) adds up every eighth group, then the first slice
// the eight slices.
__global__ void sum_groups(unsigned groups, unsigned width, const float *partials, float *dw,
                           bool accumulate) {
    __shared__ float slices[NORM_WARPS][WARP];
    unsigned slice = threadIdx.x / WARP, lane = threadIdx.x % WARP,
             column = blockIdx.x * WARP + lane;
    float sum = 0;
    if (column < width)
        for (unsigned group = slice; group < groups; group += NORM_WARPS)
            sum += partials[size_t{group} * width + column];
    slices[slice][lane] = sum;
    __syncthreads();
    if (slice != 0 || column >= width) return;
    for (unsigned i = 1; i < NORM_WARPS; i++) sum += slices[i][lane];
    dw[column] = accumulate ? dw[column] + sum : sum;
}

const char *norm_forward(cuda_session *session, const struct cuda_norm *n) {
    return LAUNCH_ON(session->stream, normalise, (n->rows + NORM_WARPS - 1) / NORM_WARPS,
                     NORM_WARPS * WARP, 0, n->rows, n->width, n->eps, halves(n->x), floats(n->w),
                     halves(n->y), floats(n->rstd));
}

const char *norm_backward(cuda_session *session, const struct cuda_norm *n) {
    if (n->width > CUDA_WIDTH_MAX)
        return fail(CUDA_FAILURE_INPUT, "a norm is %u wide; %d is the most", n->width,
                    CUDA_WIDTH_MAX);
    unsigned warps = NORM_WARPS;
    while (warps > 1 && warps * n->width * sizeof(float) > NORM_SHARED) warps /= 2;
    unsigned wanted = (n->rows + warps - 1) / warps, groups = wanted < GROUPS ? wanted : GROUPS;
    TRY_CUDA(cudaFuncSetAttribute(normalise_gradient, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  NORM_SHARED));
    TRY_CUDA(LAUNCH_ON(session->stream, normalise_gradient, groups, warps * WARP,
                       warps * n->width * sizeof(float), n->rows, n->width, halves(n->dy),
                       halves(n->x), floats(n->w), floats(n->rstd), halves(n->dx), n->add != 0,
                       floats(n->partials)));
    return LAUNCH_ON(session->stream, sum_groups, (n->width + WARP - 1) / WARP, NORM_WARPS * WARP,
                     0, groups, n->width, floats(n->partials), floats(n->dw), n->accumulate != 0);
}

} // namespace

void norm_install(struct cuda_training *training) {
    training->norm_forward = norm_forward;
    training->norm_backward = norm_backward;
}
