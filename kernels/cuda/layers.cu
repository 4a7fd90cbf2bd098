// The layers that go through memory once: embedding, SwiGLU, softmax with cross-entropy. Sixteen
// bytes per thread and access.
#include "kernels/cuda/training.cuh"

namespace {

__global__ void embed_rows(unsigned rows, unsigned length, unsigned octets, const uint32_t *tokens,
                           const bf16 *table, bf16 *x) {
    size_t count = size_t{rows} * octets, stride = size_t{gridDim.x} * blockDim.x;
    for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
        unsigned row = static_cast<unsigned>(i / octets), at = static_cast<unsigned>(i % octets);
        uint32_t token = tokens[size_t{row / length} * (length + 1) + row % length];
        store_octet(x + 8 * i, load_octet(table + 8 * (size_t{token} * octets + at)));
    }
}

// A block sums the rows of one token, in their order, a thread eight columns: no two blocks write
// the same place.
__global__ void embed_gradient(unsigned octets, const uint32_t *order, const uint32_t *first,
                               const bf16 *dx, float *d_table) {
    uint32_t token = blockIdx.x, from = first[token], end = first[token + 1];
    if (from == end) return;
    for (unsigned at = threadIdx.x; at < octets; at += blockDim.x) {
        float *out = d_table + 8 * (size_t{token} * octets + at);
        float sum[8];
        for (int j = 0; j < 8; j++) sum[j] = out[j];
        for (uint32_t i = from; i < end; i++) {
            float x[8];
            widen(load_octet(dx + 8 * (size_t{order[i]} * octets + at)), x);
            for (int j = 0; j < 8; j++) sum[j] += x[j];
        }
        for (int j = 0; j < 8; j++) out[j] = sum[j];
    }
}

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__global__ void swiglu(size_t count, unsigned octets, const bf16 *gate_up, bf16 *h) {
    size_t stride = size_t{gridDim.x} * blockDim.x;
    for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
        const bf16 *row = gate_up + 16 * octets * (i / octets) + 8 * (i % octets);
        float g[8], u[8], out[8];
        widen(load_octet(row), g);
        widen(load_octet(row + 8 * size_t{octets}), u);
        for (int j = 0; j < 8; j++) out[j] = g[j] * sigmoid(g[j]) * u[j];
        store_octet(h + 8 * i, narrow(out));
    }
}

// A thread reads its eight gates and ups before it writes their gradients, which may lie in the
// same place.
__global__ void swiglu_gradient(size_t count, unsigned octets, const bf16 *gate_up, const bf16 *dh,
                                bf16 *h, bf16 *d_gate_up) {
    size_t stride = size_t{gridDim.x} * blockDim.x;
    for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
        size_t at = 16 * octets * (i / octets) + 8 * (i % octets), up = at + 8 * size_t{octets};
        float g[8], u[8], d[8], again[8], dg[8], du[8];
        widen(load_octet(gate_up + at), g);
        widen(load_octet(gate_up + up), u);
        widen(load_octet(dh + 8 * i), d);
        for (int j = 0; j < 8; j++) {
            float s = sigmoid(g[j]), silu = g[j] * s;
            again[j] = silu * u[j];
            dg[j] = d[j] * u[j] * (s + silu * (1.0f - s));
            du[j] = d[j] * silu;
        }
        if (h) store_octet(h + 8 * i, narrow(again));
        store_octet(d_gate_up + at, narrow(dg));
        store_octet(d_gate_up + up, narrow(du));
    }
}

// --- cross-entropy: a block a row ---

constexpr unsigned ROW_THREADS = 512, ROW_WARPS = ROW_THREADS / WARP;

// Largest and sum of e^(x - largest) of two parts of a row, joined; a part may be empty (-infinity,
// 0). A NaN shows in the sum.
__device__ __forceinline__ void join(float &top, float &sum, float other_top, float other_sum) {
    float both = fmaxf(top, other_top);
    float mine = top == both ? sum : sum * expf(top - both);
    sum = mine + (other_top == both ? other_sum : other_sum * expf(other_top - both));
    top = both;
}

__global__ void __launch_bounds__(ROW_THREADS)
    softmax_loss(unsigned from, unsigned length, unsigned vocabulary, unsigned stride, float scale,
                 bf16 *logits, const uint32_t *tokens, float *losses) {
    __shared__ float tops[ROW_WARPS], sums[ROW_WARPS], wanted_logit;
    unsigned row = from + blockIdx.x, whole = vocabulary / 8 * 8;
    uint32_t target = tokens[size_t{row / length} * (length + 1) + row % length + 1];
    bf16 *x = logits + size_t{blockIdx.x} * stride;
    float top = -INFINITY, sum = 0;
    for (unsigned at = 8 * threadIdx.x; at < vocabulary; at += 8 * ROW_THREADS) {
        float v[8], here = -INFINITY, part = 0;
        // the stride is a multiple of eight: what lies beyond the vocabulary is there, and not used
        widen(load_octet(x + at), v);
        for (int j = 0; j < 8; j++) {
            if (at + j >= vocabulary) v[j] = -INFINITY;
            here = fmaxf(here, v[j]);
        }
        for (int j = 0; j < 8; j++) part += expf(v[j] - here);
        join(top, sum, here, part);
    }
    for (int reach = 16; reach > 0; reach /= 2) {
        float other_top = __shfl_xor_sync(ALL_LANES, top, reach),
              other_sum = __shfl_xor_sync(ALL_LANES, sum, reach);
        join(top, sum, other_top, other_sum);
    }
    if (threadIdx.x % WARP == 0) tops[threadIdx.x / WARP] = top, sums[threadIdx.x / WARP] = sum;
    if (threadIdx.x == 0) wanted_logit = from_bf16(x[target]);
    __syncthreads();
    top = tops[0], sum = sums[0];
    for (unsigned w = 1; w < ROW_WARPS; w++) join(top, sum, tops[w], sums[w]);
    if (threadIdx.x == 0) losses[row] = logf(sum) + (top - wanted_logit);
    if (scale == 0.0f) return;
    float factor = scale / sum;
    for (unsigned at = 8 * threadIdx.x; at < whole; at += 8 * ROW_THREADS) {
        float v[8];
        widen(load_octet(x + at), v);
        for (int j = 0; j < 8; j++)
            v[j] = factor * expf(v[j] - top) - (at + j == target ? scale : 0.0f);
        store_octet(x + at, narrow(v));
    }
    for (unsigned at = whole + threadIdx.x; at < vocabulary; at += ROW_THREADS)
        x[at] = static_cast<bf16>(
            pack_bf16(factor * expf(from_bf16(x[at]) - top) - (at == target ? scale : 0.0f), 0.0f));
}

// --- launches ---

const char *embed(cuda_session *session, uint32_t rows, uint32_t length, uint32_t hidden,
                  struct device_memory tokens, struct device_memory table, struct device_memory x) {
    return LAUNCH_ON(session->stream, embed_rows, blocks_for(size_t{rows} * hidden / 8),
                     BLOCK_THREADS, 0, rows, length, hidden / 8, device_pointer<uint32_t>(tokens),
                     halves(table), halves(x));
}

const char *embed_backward(cuda_session *session, uint32_t vocabulary, uint32_t hidden,
                           struct device_memory order, struct device_memory first,
                           struct device_memory dx, struct device_memory d_table) {
    unsigned threads = hidden / 8 < 128 ? 64 : 128;
    return LAUNCH_ON(session->stream, embed_gradient, vocabulary, threads, 0, hidden / 8,
                     device_pointer<uint32_t>(order), device_pointer<uint32_t>(first), halves(dx),
                     floats(d_table));
}

const char *swiglu_forward(cuda_session *session, uint32_t rows, uint32_t width,
                           struct device_memory gate_up, struct device_memory h) {
    size_t count = size_t{rows} * width / 8;
    return LAUNCH_ON(session->stream, swiglu, blocks_for(count), BLOCK_THREADS, 0, count, width / 8,
                     halves(gate_up), halves(h));
}

const char *swiglu_backward(cuda_session *session, uint32_t rows, uint32_t width,
                            struct device_memory gate_up, struct device_memory dh,
                            struct device_memory h, struct device_memory d_gate_up) {
    size_t count = size_t{rows} * width / 8;
    return LAUNCH_ON(session->stream, swiglu_gradient, blocks_for(count), BLOCK_THREADS, 0, count,
                     width / 8, halves(gate_up), halves(dh), halves(h), halves(d_gate_up));
}

const char *cross_entropy(cuda_session *session, const struct cuda_loss *l) {
    return LAUNCH_ON(session->stream, softmax_loss, l->rows, ROW_THREADS, 0, l->from, l->length,
                     l->vocabulary, l->stride, l->scale, halves(l->logits),
                     device_pointer<uint32_t>(l->tokens), floats(l->losses));
}

} // namespace

void layers_install(struct cuda_training *training) {
    training->embed = embed;
    training->embed_backward = embed_backward;
    training->swiglu_forward = swiglu_forward;
    training->swiglu_backward = swiglu_backward;
    training->cross_entropy = cross_entropy;
}
