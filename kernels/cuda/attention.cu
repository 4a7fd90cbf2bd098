// Causal attention with grouped queries, after FlashAttention-2 (Dao, arXiv 2307.08691), on tensor
// cores.
//
// qkv holds what the projection gave: rotary positions are applied here, in shared memory, once a
// tile has arrived, and their inverse to dq and dk in registers before they are stored. Tiles of
// TILE keys or queries come in by copies that do not wait, the next while this one is used. A block
// has four warps, each with 16 rows of the tile that stays.
//
// forward     a block a tile of queries; over the tiles of keys up to the diagonal: S = Q K^T,
//             running largest and sum, O += P V
// delta       D = rowsum(dO * O)
// backward    two kernels, so that no sum is shared between blocks and nothing is atomic:
//     keys    a block a tile of keys; over the group's heads and the tiles of queries from the
//             diagonal on, all transposed so that what one product gives in registers is what the
//             next one takes: S^T = K Q^T, dP^T = V dO^T, dV += P^T dO, dK += dS^T Q
//     queries a block a tile of queries, as in forward: S and dP again, dQ += dS K
// The second kernel computes S and dP once more (7 products instead of 5): the price of determinism
// without waiting. Rows beyond the sequence's end are zeroes when loaded and not stored.
#include "kernels/cuda/attention.cuh"

namespace {

constexpr unsigned TILE = 64, ATTENTION_WARPS = 4, ATTENTION_THREADS = ATTENTION_WARPS * WARP;

// A tile in shared memory: rows of D elements and 16 bytes, so that eight rows at one column lie in
// different banks.
template <int D> constexpr int PITCH = D + 8;
template <int D> constexpr int TILE_SIZE = static_cast<int>(TILE) * PITCH<D>;

// `rows` rows from `from`, each D elements at `source` + row * stride; rows at and beyond `end` are
// zeroes.
template <int D>
__device__ __forceinline__ void load_tile(bf16 *tile, const bf16 *source, size_t stride,
                                          unsigned from, unsigned rows, unsigned end) {
    constexpr unsigned OCTETS = D / 8;
    for (unsigned i = threadIdx.x; i < rows * OCTETS; i += ATTENTION_THREADS) {
        unsigned row = i / OCTETS, at = i % OCTETS * 8;
        bool there = from + row < end;
        copy_async(tile + row * PITCH<D> + at, source + (there ? (from + row) * stride : 0) + at,
                   there);
    }
}

// (a, b) = (x[i], x[i + D/2]) -> (a cos - b sin, b cos + a sin), two i at a time.
template <int D>
__device__ __forceinline__ void rotate_tile(bf16 *tile, const float *cos, const float *sin,
                                            unsigned from, unsigned rows, unsigned end) {
    constexpr unsigned HALF = D / 2, PAIRS = D / 4;
    for (unsigned i = threadIdx.x; i < rows * PAIRS; i += ATTENTION_THREADS) {
        unsigned row = i / PAIRS, at = i % PAIRS * 2;
        if (from + row >= end) continue;
        const float *c = cos + size_t{from + row} * HALF + at,
                    *s = sin + size_t{from + row} * HALF + at;
        uint32_t *low = reinterpret_cast<uint32_t *>(tile + row * PITCH<D> + at),
                 *high = low + HALF / 2;
        float a0 = low_half(*low), a1 = high_half(*low), b0 = low_half(*high),
              b1 = high_half(*high);
        *low = pack_bf16(a0 * c[0] - b0 * s[0], a1 * c[1] - b1 * s[1]);
        *high = pack_bf16(b0 * c[0] + a0 * s[0], b1 * c[1] + a1 * s[1]);
    }
}

// The operands of multiply_add from tiles; see ptx.cuh for who holds what.
// a = rows [row, row + 16) at columns [column, column + 16).
template <int D>
__device__ __forceinline__ void left_of(uint32_t a[4], const bf16 *tile, unsigned row,
                                        unsigned column) {
    unsigned lane = threadIdx.x % WARP;
    load_matrices(a, tile + (row + lane % 16) * PITCH<D> + column + lane / 16 * 8);
}
// b[k][n] = tile[n][k]: two of them, for n in [row, row + 8) and the eight after; b[0], b[1] are
// the first's, b[2], b[3] the second's.
template <int D>
__device__ __forceinline__ void right_by_rows(uint32_t b[4], const bf16 *tile, unsigned row,
                                              unsigned column) {
    unsigned lane = threadIdx.x % WARP;
    load_matrices(b,
                  tile + (row + lane / 16 * 8 + lane % 8) * PITCH<D> + column + lane / 8 % 2 * 8);
}
// b[k][n] = tile[k][n], likewise for n in [column, column + 8) and the eight after.
template <int D>
__device__ __forceinline__ void right_by_columns(uint32_t b[4], const bf16 *tile, unsigned row,
                                                 unsigned column) {
    unsigned lane = threadIdx.x % WARP;
    load_matrices_transposed(b, tile + (row + lane % 16) * PITCH<D> + column + lane / 16 * 8);
}

// s[rows of left][N] = left[16][D] right[N][D]^T
template <int D, int N>
__device__ __forceinline__ void scores(float s[N / 8][4], const bf16 *left, unsigned row,
                                       const bf16 *right) {
    UNROLL for (int n = 0; n < N / 8; n++) for (int i = 0; i < 4; i++) s[n][i] = 0;
    UNROLL for (int k = 0; k < D; k += 16) {
        uint32_t a[4];
        left_of<D>(a, left, row, k);
        UNROLL for (int n = 0; n < N; n += 16) {
            uint32_t b[4];
            right_by_rows<D>(b, right, n, k);
            multiply_add(s[n / 8], a, b[0], b[1]);
            multiply_add(s[n / 8 + 1], a, b[2], b[3]);
        }
    }
}

// sum[16][D] += w[16][N] right[N][D]; w is what scores left in registers, rounded to bf16 here.
template <int D, int N>
__device__ __forceinline__ void add_product(float sum[D / 8][4], const float w[N / 8][4],
                                            const bf16 *right) {
    UNROLL for (int k = 0; k < N; k += 16) {
        const float *first = w[k / 8], *second = w[k / 8 + 1];
        uint32_t a[4] = {pack_bf16(first[0], first[1]), pack_bf16(first[2], first[3]),
                         pack_bf16(second[0], second[1]), pack_bf16(second[2], second[3])};
        UNROLL for (int d = 0; d < D; d += 16) {
            uint32_t b[4];
            right_by_columns<D>(b, right, k, d);
            multiply_add(sum[d / 8], a, b[0], b[1]);
            multiply_add(sum[d / 8 + 1], a, b[2], b[3]);
        }
    }
}

// Where a block works. The last tiles of queries have the most to do, so they come first; of keys,
// the first.
struct place {
    unsigned tile, head, sequence;
};
__device__ __forceinline__ place place_of(unsigned tiles, unsigned heads, bool last_first) {
    unsigned pair = blockIdx.x % (gridDim.x / tiles), tile = blockIdx.x / (gridDim.x / tiles);
    return place{last_first ? tiles - 1 - tile : tile, pair % heads, pair / heads};
}

// --- forward ---

template <int D>
__global__ void __launch_bounds__(ATTENTION_THREADS) attend(attention_arguments a) {
    DYNAMIC_SHARED(shared);
    bf16 *q = reinterpret_cast<bf16 *>(shared), *k = q + TILE_SIZE<D>,
         *v = k + 2 * TILE_SIZE<D>; // k and v twice each
    place at = place_of(a.tiles, a.heads, true);
    unsigned warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, from = at.tile * TILE;
    unsigned row = from + 16 * warp + lane / 4, column = 2 * (lane % 4),
             kv_head = at.head / (a.heads / a.kv_heads);
    size_t stride = a.width(D);
    const bf16 *qkv = a.qkv + size_t{at.sequence} * a.length * stride;
    const bf16 *keys = qkv + size_t{a.heads + kv_head} * D, *values = keys + size_t{a.kv_heads} * D;
    float scale = LOG2_E / sqrtf(static_cast<float>(D)); // powers of two instead of e

    load_tile<D>(q, qkv + size_t{at.head} * D, stride, from, TILE, a.length);
    load_tile<D>(k, keys, stride, 0, TILE, a.length);
    load_tile<D>(v, values, stride, 0, TILE, a.length);
    copies_commit();
    float sum[D / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
    for (unsigned j = 0; j <= at.tile; j++) {
        bf16 *k_here = k + j % 2 * TILE_SIZE<D>, *v_here = v + j % 2 * TILE_SIZE<D>;
        copies_wait();
        __syncthreads(); // all have this tile, and are done with the one before
        if (j < at.tile) {
            load_tile<D>(k + (j + 1) % 2 * TILE_SIZE<D>, keys, stride, (j + 1) * TILE, TILE,
                         a.length);
            load_tile<D>(v + (j + 1) % 2 * TILE_SIZE<D>, values, stride, (j + 1) * TILE, TILE,
                         a.length);
        }
        copies_commit();
        if (j == 0) rotate_tile<D>(q, a.cos, a.sin, from, TILE, a.length);
        rotate_tile<D>(k_here, a.cos, a.sin, j * TILE, TILE, a.length);
        __syncthreads();

        float s[TILE / 8][4], highest[2] = {-INFINITY, -INFINITY}, part[2] = {0, 0}, shrink[2];
        scores<D, TILE>(s, q, 16 * warp, k_here);
        UNROLL for (unsigned n = 0; n < TILE / 8; n++) for (unsigned i = 0; i < 4; i++) {
            bool seen = j * TILE + 8 * n + column + i % 2 <= row + 8 * (i / 2);
            s[n][i] = seen ? s[n][i] * scale : -INFINITY;
            highest[i / 2] = fmaxf(highest[i / 2], s[n][i]);
        }
        UNROLL for (int h = 0; h < 2; h++) {
            float higher = fmaxf(
                top[h],
                row_top(
                    highest
                        [h])); // of the first tile every row sees a key: finite, if the scores are
            shrink[h] = exp2f(top[h] - higher);
            top[h] = higher;
        }
        UNROLL for (unsigned n = 0; n < TILE / 8; n++) for (unsigned i = 0; i < 4; i++)
            part[i / 2] += s[n][i] = exp2f(s[n][i] - top[i / 2]);
        for (int h = 0; h < 2; h++) total[h] = total[h] * shrink[h] + part[h];
        UNROLL for (int n = 0; n < D / 8; n++) for (int i = 0; i < 4; i++) sum[n][i] *=
            shrink[i / 2];
        add_product<D, TILE>(sum, s, v_here);
    }
    for (int h = 0; h < 2; h++) total[h] = row_sum(total[h]);
    store_rows<D>(sum, 1.0f / total[0], 1.0f / total[1],
                  a.out_to + size_t{at.sequence} * a.length * a.heads * D + size_t{at.head} * D,
                  size_t{a.heads} * D, row, a.length, nullptr, nullptr);
    if (lane % 4 != 0) return;
    float *lse = a.lse_to + (size_t{at.sequence} * a.heads + at.head) * a.length;
    for (int h = 0; h < 2; h++)
        if (row + 8 * h < a.length) lse[row + 8 * h] = top[h] * LN_2 + logf(total[h]);
}

// --- backward ---

// Eight lanes a row and head, or sixteen where it has more than 64 elements; eight elements each.
__global__ void find_delta(attention_arguments a, unsigned size) {
    unsigned lanes = size > 64 ? 16 : 8, lane = threadIdx.x % lanes;
    size_t item = (size_t{blockIdx.x} * ATTENTION_THREADS + threadIdx.x) / lanes,
           row = item / a.heads;
    unsigned head = static_cast<unsigned>(item % a.heads);
    bool there = row < size_t{a.sequences} * a.length;
    float dot = 0, x[8], y[8];
    if (there && 8 * lane < size) {
        size_t at = (row * a.heads + head) * size + 8 * lane;
        widen(load_octet(a.out + at), x);
        widen(load_octet(a.d_out + at), y);
        UNROLL for (int i = 0; i < 8; i++) dot = fmaf(x[i], y[i], dot);
    }
    for (unsigned reach = lanes / 2; reach > 0; reach /= 2)
        dot += __shfl_xor_sync(ALL_LANES, dot, reach);
    if (there && lane == 0)
        a.delta_to[(row / a.length * a.heads + head) * a.length + row % a.length] = dot;
}

// What stays in registers is dK and dV of 16 keys a warp; N queries are looked at together.
template <int D, int N>
__global__ void __launch_bounds__(ATTENTION_THREADS) find_key_gradients(attention_arguments a) {
    DYNAMIC_SHARED(shared);
    constexpr int PART = N * PITCH<D>;
    bf16 *k = reinterpret_cast<bf16 *>(shared), *v = k + TILE_SIZE<D>, *q = v + TILE_SIZE<D>,
         *d = q + 2 * PART; // q and d twice each
    float *row_lse = reinterpret_cast<float *>(d + 2 * PART), *row_delta = row_lse + N;
    place at = place_of(a.tiles, a.kv_heads, false);
    unsigned warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, from = at.tile * TILE,
             group = a.heads / a.kv_heads;
    unsigned key = from + 16 * warp + lane / 4, column = 2 * (lane % 4);
    size_t stride = a.width(D), out_stride = size_t{a.heads} * D,
           first_row = size_t{at.sequence} * a.length;
    const bf16 *qkv = a.qkv + first_row * stride, *d_out = a.d_out + first_row * out_stride;
    size_t k_at = size_t{a.heads + at.head} * D, v_at = k_at + size_t{a.kv_heads} * D;
    float scale = 1.0f / sqrtf(static_cast<float>(D));
    unsigned first = from / N, parts = (a.length + N - 1) / N - first,
             count = group * parts; // first: the diagonal's part of queries

    load_tile<D>(k, qkv + k_at, stride, from, TILE, a.length);
    load_tile<D>(v, qkv + v_at, stride, from, TILE, a.length);
    load_tile<D>(q, qkv + size_t{at.head * group} * D, stride, first * N, N, a.length);
    load_tile<D>(d, d_out + size_t{at.head * group} * D, out_stride, first * N, N, a.length);
    copies_commit();
    float dk[D / 8][4] = {}, dv[D / 8][4] = {};
    for (unsigned j = 0; j < count; j++) {
        unsigned head = at.head * group + j / parts, start = (first + j % parts) * N;
        bf16 *q_here = q + j % 2 * PART, *d_here = d + j % 2 * PART;
        copies_wait();
        __syncthreads();
        if (j + 1 < count) {
            unsigned next_head = at.head * group + (j + 1) / parts,
                     next = (first + (j + 1) % parts) * N;
            load_tile<D>(q + (j + 1) % 2 * PART, qkv + size_t{next_head} * D, stride, next, N,
                         a.length);
            load_tile<D>(d + (j + 1) % 2 * PART, d_out + size_t{next_head} * D, out_stride, next, N,
                         a.length);
        }
        copies_commit();
        if (threadIdx.x < N) {
            size_t query = (size_t{at.sequence} * a.heads + head) * a.length + start + threadIdx.x;
            bool there = start + threadIdx.x < a.length;
            row_lse[threadIdx.x] =
                there ? a.lse[query] * LOG2_E : INFINITY; // no weight to what is not there
            row_delta[threadIdx.x] = there ? a.delta[query] : 0.0f;
        }
        if (j == 0) rotate_tile<D>(k, a.cos, a.sin, from, TILE, a.length);
        rotate_tile<D>(q_here, a.cos, a.sin, start, N, a.length);
        __syncthreads();

        float s[N / 8][4], p[N / 8][4];
        scores<D, N>(s, k, 16 * warp, q_here);
        UNROLL for (unsigned n = 0; n < N / 8; n++) for (unsigned i = 0; i < 4; i++) {
            unsigned query = 8 * n + column + i % 2;
            bool seen = key + 8 * (i / 2) <= start + query;
            p[n][i] = seen ? exp2f(s[n][i] * (scale * LOG2_E) - row_lse[query]) : 0.0f;
        }
        add_product<D, N>(dv, p, d_here);
        scores<D, N>(s, v, 16 * warp, d_here);
        UNROLL for (unsigned n = 0; n < N / 8; n++) for (unsigned i = 0; i < 4; i++) s[n][i] =
            p[n][i] * (s[n][i] - row_delta[8 * n + column + i % 2]);
        add_product<D, N>(dk, s, q_here);
    }
    bf16 *to = a.d_qkv + first_row * stride;
    store_rows<D>(dk, scale, scale, to + k_at, stride, key, a.length, a.cos, a.sin);
    store_rows<D>(dv, 1.0f, 1.0f, to + v_at, stride, key, a.length, nullptr, nullptr);
}

// N keys are looked at together.
template <int D, int N>
__global__ void __launch_bounds__(ATTENTION_THREADS) find_query_gradients(attention_arguments a) {
    DYNAMIC_SHARED(shared);
    constexpr int PART = N * PITCH<D>;
    bf16 *q = reinterpret_cast<bf16 *>(shared), *d = q + TILE_SIZE<D>, *k = d + TILE_SIZE<D>,
         *v = k + 2 * PART; // k and v twice each
    place at = place_of(a.tiles, a.heads, true);
    unsigned warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, from = at.tile * TILE;
    unsigned row = from + 16 * warp + lane / 4, column = 2 * (lane % 4),
             kv_head = at.head / (a.heads / a.kv_heads);
    size_t stride = a.width(D), out_stride = size_t{a.heads} * D,
           first_row = size_t{at.sequence} * a.length;
    const bf16 *qkv = a.qkv + first_row * stride;
    const bf16 *keys = qkv + size_t{a.heads + kv_head} * D, *values = keys + size_t{a.kv_heads} * D;
    unsigned end = from + TILE < a.length ? from + TILE : a.length, parts = (end + N - 1) / N;
    float scale = 1.0f / sqrtf(static_cast<float>(D)), lse[2], delta[2];
    for (int h = 0; h < 2; h++) {
        size_t query = (size_t{at.sequence} * a.heads + at.head) * a.length + row + 8 * h;
        bool there = row + 8 * h < a.length;
        lse[h] = there ? a.lse[query] * LOG2_E : INFINITY;
        delta[h] = there ? a.delta[query] : 0.0f;
    }

    load_tile<D>(q, qkv + size_t{at.head} * D, stride, from, TILE, a.length);
    load_tile<D>(d, a.d_out + first_row * out_stride + size_t{at.head} * D, out_stride, from, TILE,
                 a.length);
    load_tile<D>(k, keys, stride, 0, N, a.length);
    load_tile<D>(v, values, stride, 0, N, a.length);
    copies_commit();
    float dq[D / 8][4] = {};
    for (unsigned j = 0; j < parts; j++) {
        bf16 *k_here = k + j % 2 * PART, *v_here = v + j % 2 * PART;
        copies_wait();
        __syncthreads();
        if (j + 1 < parts) {
            load_tile<D>(k + (j + 1) % 2 * PART, keys, stride, (j + 1) * N, N, a.length);
            load_tile<D>(v + (j + 1) % 2 * PART, values, stride, (j + 1) * N, N, a.length);
        }
        copies_commit();
        if (j == 0) rotate_tile<D>(q, a.cos, a.sin, from, TILE, a.length);
        rotate_tile<D>(k_here, a.cos, a.sin, j * N, N, a.length);
        __syncthreads();

        float s[N / 8][4], dp[N / 8][4];
        scores<D, N>(s, q, 16 * warp, k_here);
        scores<D, N>(dp, d, 16 * warp, v_here);
        UNROLL for (unsigned n = 0; n < N / 8; n++) for (unsigned i = 0; i < 4; i++) {
            bool seen = j * N + 8 * n + column + i % 2 <= row + 8 * (i / 2);
            float p = seen ? exp2f(s[n][i] * (scale * LOG2_E) - lse[i / 2]) : 0.0f;
            s[n][i] = p * (dp[n][i] - delta[i / 2]);
        }
        add_product<D, N>(dq, s, k_here);
    }
    store_rows<D>(dq, scale, scale, a.d_qkv + first_row * stride + size_t{at.head} * D, stride, row,
                  a.length, a.cos, a.sin);
}

// --- launches ---

attention_arguments arguments_of(const struct cuda_attention *a) {
    attention_arguments out = {};
    out.sequences = a->sequences, out.length = a->length, out.heads = a->heads,
    out.kv_heads = a->kv_heads;
    out.tiles = (a->length + TILE - 1) / TILE;
    out.qkv = halves(a->qkv), out.out = halves(a->out), out.d_out = halves(a->d_out);
    out.lse = floats(a->lse), out.cos = floats(a->cos), out.sin = floats(a->sin),
    out.delta = floats(a->delta);
    out.out_to = halves(a->out), out.d_qkv = halves(a->d_qkv), out.qkv_to = halves(a->qkv);
    out.lse_to = floats(a->lse), out.delta_to = floats(a->delta);
    return out;
}

template <int D> const char *run_forward(cuda_session *session, const attention_arguments &a) {
    constexpr int SHARED = 5 * TILE_SIZE<D> * 2;
    TRY_CUDA(cudaFuncSetAttribute(attend<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED));
    return LAUNCH_ON(session->stream, attend<D>, a.tiles * a.heads * a.sequences, ATTENTION_THREADS,
                     SHARED, a);
}

template <int D> const char *run_backward(cuda_session *session, const attention_arguments &a) {
    constexpr int N = D > 64 ? 32 : 64, PART = N * PITCH<D>;
    constexpr int KEYS_SHARED = (2 * TILE_SIZE<D> + 4 * PART) * 2 + 2 * N * 4,
                  QUERIES_SHARED = (2 * TILE_SIZE<D> + 4 * PART) * 2;
    TRY_CUDA(attention_delta(session, a, D));
    auto by_keys = find_key_gradients<D, N>;
    auto by_queries = find_query_gradients<D, N>;
    TRY_CUDA(
        cudaFuncSetAttribute(by_keys, cudaFuncAttributeMaxDynamicSharedMemorySize, KEYS_SHARED));
    TRY_CUDA(cudaFuncSetAttribute(by_queries, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  QUERIES_SHARED));
    TRY_CUDA(LAUNCH_ON(session->stream, by_keys, a.tiles * a.kv_heads * a.sequences,
                       ATTENTION_THREADS, KEYS_SHARED, a));
    return LAUNCH_ON(session->stream, by_queries, a.tiles * a.heads * a.sequences,
                     ATTENTION_THREADS, QUERIES_SHARED, a);
}

template <int D>
const char *run(cuda_session *session, const attention_arguments &a, bool forward) {
    return forward ? run_forward<D>(session, a) : run_backward<D>(session, a);
}

const char *attention_forward(cuda_session *session, const struct cuda_attention *a) {
    return attention_run(session, attention_chosen(session->attention, a), a, true);
}
const char *attention_backward(cuda_session *session, const struct cuda_attention *a) {
    return attention_run(session, attention_chosen(session->attention, a), a, false);
}

} // namespace

const char *attention_run(cuda_session *session, const hopper_attention *hopper,
                          const struct cuda_attention *a, bool forward) {
    attention_arguments arguments = arguments_of(a);
    if (hopper && forward)
        return hopper_attention_forward(session, hopper, arguments, a->head_size);
    if (hopper) return hopper_attention_backward(session, hopper, arguments, a->head_size);
    switch (a->head_size) {
    case 32: return run<32>(session, arguments, forward);
    case 48: return run<48>(session, arguments, forward);
    case 64: return run<64>(session, arguments, forward);
    case 80: return run<80>(session, arguments, forward);
    case 96: return run<96>(session, arguments, forward);
    case 112: return run<112>(session, arguments, forward);
    case 128: return run<128>(session, arguments, forward);
    default:
        return fail(CUDA_FAILURE_INPUT, "head size is %u; it must be a multiple of 16 in 32..128",
                    a->head_size);
    }
}

const char *attention_delta(cuda_session *session, const attention_arguments &a, unsigned size) {
    size_t threads = size_t{a.sequences} * a.length * a.heads * (size > 64 ? 16 : 8);
    return LAUNCH_ON(session->stream, find_delta,
                     static_cast<unsigned>((threads + ATTENTION_THREADS - 1) / ATTENTION_THREADS),
                     ATTENTION_THREADS, 0, a, size);
}

void attention_install(struct cuda_training *training) {
    training->attention_forward = attention_forward;
    training->attention_backward = attention_backward;
}
