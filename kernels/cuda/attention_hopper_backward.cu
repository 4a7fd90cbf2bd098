// Attention's backward pass by wgmma, in two kernels: attention_hopper.cuh says how.
#include "kernels/cuda/attention_hopper.cuh"

namespace {

// Two tiles stay; a part is a pair of tiles of N rows.
template <int D, int N> struct backward_layout {
    static constexpr unsigned STAY = tile_bytes(ROWS, D), PART = tile_bytes(N, D),
                              STAGES = stages_for(2 * STAY, 2 * PART + 2 * N * 4), SECOND = STAY,
                              PARTS = 2 * STAY,
                              ROW_VALUES =
                                  PARTS + STAGES * 2 * PART, // [STAGES][2][N] floats: lse, delta
        GATES = ROW_VALUES + STAGES * 2 * N * 4,
                              ALL = GATES + (1 + STAGES) * sizeof(gate) + ALIGNMENT;
    static_assert(STAGES >= 2 && GATES % 8 == 0 && ALL <= SHARED_MOST, "");
};

// Of one query; no weight to one that is not there.
struct row_value {
    float lse, delta;
};
__device__ __forceinline__ row_value row_value_of(const attention_arguments &a, unsigned sequence,
                                                  unsigned head, unsigned row) {
    size_t at = (size_t{sequence} * a.heads + head) * a.length + row;
    return row < a.length ? row_value{a.lse[at], a.delta[at]} : row_value{INFINITY, 0.0f};
}

// The keys' parts are the queries of all heads of the group, from the diagonal on.
template <int D, int N>
__device__ __forceinline__ void key_orders(const attention_arguments &a, const tensor_map *qkv,
                                           const tensor_map *d_out, unsigned char *memory,
                                           gate *stay, gate *parts, volatile uint64_t *complaint) {
    using layout = backward_layout<D, N>;
    uint32_t shared = shared_address(memory);
    unsigned lane = threadIdx.x % WARP, group = a.heads / a.kv_heads;
    turn<1> kept;
    turn<layout::STAGES> part;
    for (walk at(a.tiles, a.kv_heads, a.sequences); at.next(); kept.next()) {
        wait_for(&stay->empty, kept.phase ^ 1, STAY_EMPTY, complaint);
        if (lane == 0) {
            barrier_arrive_expecting(&stay->full, 2 * layout::STAY);
            order_tile<D>(shared, qkv, a.heads + at.head, at.tile * ROWS, ROWS, at.sequence,
                          &stay->full);
            order_tile<D>(shared + layout::SECOND, qkv, a.heads + a.kv_heads + at.head,
                          at.tile * ROWS, ROWS, at.sequence, &stay->full);
        }
        for (unsigned head = at.head * group; head < (at.head + 1) * group; head++)
            for (unsigned start = at.tile * ROWS; start < a.length; start += N, part.next()) {
                gate *here = parts + part.stage;
                uint32_t to = shared + layout::PARTS + part.stage * 2 * layout::PART;
                float *values =
                    reinterpret_cast<float *>(memory + layout::ROW_VALUES) + part.stage * 2 * N;
                row_value mine[N / WARP]; // on their way while others are waited for
                UNROLL for (unsigned i = 0; i < N / WARP; i++) mine[i] =
                    row_value_of(a, at.sequence, head, start + i * WARP + lane);
                wait_for(&here->empty, part.phase ^ 1, PART_EMPTY, complaint);
                if (lane == 0) {
                    barrier_arrive_expecting(&here->full, 2 * layout::PART);
                    order_tile<D>(to, qkv, head, start, N, at.sequence, &here->full);
                    order_tile<D>(to + layout::PART, d_out, head, start, N, at.sequence,
                                  &here->full);
                }
                UNROLL for (unsigned i = 0; i < N / WARP; i++) {
                    values[i * WARP + lane] =
                        mine[i].lse * LOG2_E; // here: above it would wait for memory
                    values[N + i * WARP + lane] = mine[i].delta;
                }
                barrier_arrive(&here->full);
            }
    }
}

// long: one pipeline, whose products are in flight in registers from one stage to the next; a cut
// would let the compiler move them to memory.
template <int D, int N>
__device__ __forceinline__ void key_work(const attention_arguments &a, unsigned char *memory,
                                         gate *stay, gate *parts, unsigned worker,
                                         volatile uint64_t *complaint) {
    using layout = backward_layout<D, N>;
    uint32_t shared = shared_address(memory);
    unsigned lane = threadIdx.x % WARP, inside = threadIdx.x % WARPGROUP / WARP * 16 + lane / 4,
             column = 2 * (lane % 4);
    unsigned group = a.heads / a.kv_heads;
    float scale = 1.0f / sqrtf(static_cast<float>(D)), power_scale = scale * LOG2_E;
    turn<1> kept;
    turn<layout::STAGES> part;
    for (walk at(a.tiles, a.kv_heads, a.sequences); at.next(); kept.next()) {
        unsigned first = at.tile * ROWS + 64 * worker, key = first + inside;
        float dk[D / 8][4], dv[D / 8][4];
        UNROLL for (int n = 0; n < D / 8; n++) for (int i = 0; i < 4; i++) dk[n][i] = dv[n][i] = 0;
        wait_for(&stay->full, kept.phase, STAY_FULL, complaint);
        for (unsigned head = 0; head < group; head++)
            for (unsigned start = at.tile * ROWS; start < a.length; start += N, part.next()) {
                gate *here = parts + part.stage;
                uint32_t q = shared + layout::PARTS + part.stage * 2 * layout::PART,
                         d = q + layout::PART;
                const float *lse = reinterpret_cast<const float *>(memory + layout::ROW_VALUES) +
                                   part.stage * 2 * N,
                            *delta = lse + N;
                wait_for(&here->full, part.phase, PART_FULL, complaint);
                if (start + N <= first) { // no query here sees a key of this half
                    leave(here);
                    continue;
                }
                float s[N / 8][4], dp[N / 8][4];
                uint32_t p[N / 16][4], ds[N / 16][4];
                products_begin();
                scores<D, N>(s, shared, ROWS, 64 * worker, q);
                products_commit();
                scores<D, N>(dp, shared + layout::SECOND, ROWS, 64 * worker, d);
                products_commit();
                products_wait<1>();
                settle(s);
                if (start < first + 64) // the diagonal: the rest is seen by all
                    hide_past<N>(s, key, start);
                UNROLL for (unsigned n = 0; n < N / 8; n++) {
                    float2 two = *reinterpret_cast<const float2 *>(lse + 8 * n + column);
                    UNROLL for (unsigned i = 0; i < 4; i++) s[n][i] =
                        power_of_two(fmaf(s[n][i], power_scale, -(i % 2 ? two.y : two.x)));
                }
                pack<N>(p, s);
                settle(p);
                settle(dv);
                products_begin();
                add_product<D, N>(dv, p, d);
                products_commit();
                products_wait<1>();
                settle(dp);
                UNROLL for (unsigned n = 0; n < N / 8; n++) {
                    float2 two = *reinterpret_cast<const float2 *>(delta + 8 * n + column);
                    UNROLL for (unsigned i = 0; i < 4; i++) s[n][i] *=
                        dp[n][i] - (i % 2 ? two.y : two.x);
                }
                pack<N>(ds, s);
                settle(ds);
                settle(dk);
                products_begin();
                add_product<D, N>(dk, ds, q);
                products_commit();
                products_wait<0>();
                settle(dk);
                settle(dv);
                leave(here);
            }
        leave(stay);
        size_t stride = a.width(D), first_row = size_t{at.sequence} * a.length;
        bf16 *to = a.d_qkv + first_row * stride + size_t{a.heads + at.head} * D;
        store_rows<D>(dk, scale, scale, to, stride, key, a.length, a.cos, a.sin);
        store_rows<D>(dv, 1.0f, 1.0f, to + size_t{a.kv_heads} * D, stride, key, a.length, nullptr,
                      nullptr);
    }
}

template <int D, int N>
__global__ void __launch_bounds__(HOPPER_THREADS, 1)
    find_key_gradients_hopper(attention_arguments a, const __grid_constant__ tensor_map qkv,
                              const __grid_constant__ tensor_map d_out,
                              volatile uint64_t *complaint) {
    DYNAMIC_SHARED(unaligned);
    unsigned char *shared = aligned(unaligned);
    using layout = backward_layout<D, N>;
    gate *stay = reinterpret_cast<gate *>(shared + layout::GATES), *parts = stay + 1;
    if (threadIdx.x == 0) {
        map_fetch(&qkv);
        map_fetch(&d_out);
        gate_init(stay, 1);
        for (unsigned i = 0; i < layout::STAGES; i++) gate_init(parts + i, 1 + WARP);
        barriers_made();
    }
    __syncthreads();
    unsigned group = warpgroup_here();
    if (group == 0) {
        registers_give<REGISTERS_LEFT>();
        if (threadIdx.x < WARP) key_orders<D, N>(a, &qkv, &d_out, shared, stay, parts, complaint);
    } else {
        registers_take<REGISTERS_TAKEN>();
        key_work<D, N>(a, shared, stay, parts, group - 1, complaint);
    }
}

// Parts of keys that the last query of a tile sees, or of the sequence.
template <int N>
__device__ __forceinline__ unsigned parts_seen(const attention_arguments &a, unsigned tile) {
    unsigned end = (tile + 1) * ROWS < a.length ? (tile + 1) * ROWS : a.length;
    return (end + N - 1) / N;
}

template <int D, int N>
__device__ __forceinline__ void query_orders(const attention_arguments &a, const tensor_map *qkv,
                                             const tensor_map *d_out, uint32_t shared, gate *stay,
                                             gate *parts, volatile uint64_t *complaint) {
    using layout = backward_layout<D, N>;
    turn<1> kept;
    turn<layout::STAGES> part;
    for (walk at(a.tiles, a.heads, a.sequences); at.next(); kept.next()) {
        unsigned key_head = a.heads + at.head / (a.heads / a.kv_heads),
                 end = parts_seen<N>(a, at.tile);
        wait_for(&stay->empty, kept.phase ^ 1, STAY_EMPTY, complaint);
        barrier_arrive_expecting(&stay->full, 2 * layout::STAY);
        order_tile<D>(shared, qkv, at.head, at.tile * ROWS, ROWS, at.sequence, &stay->full);
        order_tile<D>(shared + layout::SECOND, d_out, at.head, at.tile * ROWS, ROWS, at.sequence,
                      &stay->full);
        for (unsigned j = 0; j < end; j++, part.next()) {
            gate *here = parts + part.stage;
            uint32_t to = shared + layout::PARTS + part.stage * 2 * layout::PART;
            wait_for(&here->empty, part.phase ^ 1, PART_EMPTY, complaint);
            barrier_arrive_expecting(&here->full, 2 * layout::PART);
            order_tile<D>(to, qkv, key_head, j * N, N, at.sequence, &here->full);
            order_tile<D>(to + layout::PART, qkv, key_head + a.kv_heads, j * N, N, at.sequence,
                          &here->full);
        }
    }
}

template <int D, int N>
__device__ __forceinline__ void query_work(const attention_arguments &a, uint32_t shared,
                                           gate *stay, gate *parts, unsigned worker,
                                           volatile uint64_t *complaint) {
    using layout = backward_layout<D, N>;
    unsigned lane = threadIdx.x % WARP, inside = threadIdx.x % WARPGROUP / WARP * 16 + lane / 4;
    float scale = 1.0f / sqrtf(static_cast<float>(D)), power_scale = scale * LOG2_E;
    turn<1> kept;
    turn<layout::STAGES> part;
    for (walk at(a.tiles, a.heads, a.sequences); at.next(); kept.next()) {
        unsigned first = at.tile * ROWS + 64 * worker, row = first + inside,
                 end = parts_seen<N>(a, at.tile);
        unsigned mine = (first + 64 + N - 1) / N < end ? (first + 64 + N - 1) / N : end;
        row_value values[2] = {row_value_of(a, at.sequence, at.head, row),
                               row_value_of(a, at.sequence, at.head, row + 8)};
        float shift[2] = {values[0].lse * LOG2_E, values[1].lse * LOG2_E};
        float dq[D / 8][4];
        UNROLL for (int n = 0; n < D / 8; n++) for (int i = 0; i < 4; i++) dq[n][i] = 0;
        wait_for(&stay->full, kept.phase, STAY_FULL, complaint);
        wait_for(&parts[part.stage].full, part.phase, PART_FULL, complaint);
        for (unsigned j = 0; j < mine; j++) {
            gate *here = parts + part.stage;
            uint32_t k = shared + layout::PARTS + part.stage * 2 * layout::PART,
                     v = k + layout::PART;
            float s[N / 8][4], dp[N / 8][4];
            uint32_t ds[N / 16][4];
            products_begin();
            scores<D, N>(s, shared, ROWS, 64 * worker, k);
            products_commit();
            scores<D, N>(dp, shared + layout::SECOND, ROWS, 64 * worker, v);
            products_commit();
            products_wait<1>();
            settle(s);
            if ((j + 1) * N > first) hide_future<N>(s, row, j * N);
            UNROLL for (int n = 0; n < N / 8; n++) for (int i = 0; i < 4; i++) s[n][i] =
                power_of_two(fmaf(s[n][i], power_scale, -shift[i / 2]));
            settle(s);
            part.next(); // waited for here for the same reason as in forward
            if (j + 1 < mine) wait_for(&parts[part.stage].full, part.phase, PART_FULL, complaint);
            products_wait<0>();
            settle(dp);
            UNROLL for (int n = 0; n < N / 8; n++) for (int i = 0; i < 4; i++) s[n][i] *=
                dp[n][i] - values[i / 2].delta;
            pack<N>(ds, s);
            settle(ds);
            settle(dq);
            products_begin();
            add_product<D, N>(dq, ds, k);
            products_commit();
            products_wait<0>();
            settle(dq);
            leave(here);
        }
        leave(stay);
        for (unsigned j = mine; j < end;
             j++, part.next()) { // of these the other half alone sees keys
            wait_for(&parts[part.stage].full, part.phase, PART_FULL, complaint);
            leave(parts + part.stage);
        }
        bf16 *to = a.d_qkv + size_t{at.sequence} * a.length * a.width(D) + size_t{at.head} * D;
        store_rows<D>(dq, scale, scale, to, a.width(D), row, a.length, a.cos, a.sin);
    }
}

template <int D, int N>
__global__ void __launch_bounds__(HOPPER_THREADS, 1)
    find_query_gradients_hopper(attention_arguments a, const __grid_constant__ tensor_map qkv,
                                const __grid_constant__ tensor_map d_out,
                                volatile uint64_t *complaint) {
    DYNAMIC_SHARED(unaligned);
    unsigned char *shared = aligned(unaligned);
    using layout = backward_layout<D, N>;
    gate *stay = reinterpret_cast<gate *>(shared + layout::GATES), *parts = stay + 1;
    if (threadIdx.x == 0) {
        map_fetch(&qkv);
        map_fetch(&d_out);
        gate_init(stay, 1);
        for (unsigned i = 0; i < layout::STAGES; i++) gate_init(parts + i, 1);
        barriers_made();
    }
    __syncthreads();
    unsigned group = warpgroup_here();
    if (group == 0) {
        registers_give<REGISTERS_LEFT>();
        if (threadIdx.x == 0)
            query_orders<D, N>(a, &qkv, &d_out, shared_address(shared), stay, parts, complaint);
    } else {
        registers_take<REGISTERS_TAKEN>();
        query_work<D, N>(a, shared_address(shared), stay, parts, group - 1, complaint);
    }
}

// --- launches ---

template <int D>
const char *backward(cuda_session *session, const hopper_attention *hopper,
                     const attention_arguments &a) {
    constexpr int QUERIES = 64, KEYS = 128;
    constexpr unsigned KEYS_SHARED = backward_layout<D, QUERIES>::ALL,
                       QUERIES_SHARED = backward_layout<D, KEYS>::ALL;
    tensor_map qkv, d_out;
    TRY_CUDA(hopper_attention_map(hopper, &qkv, a.qkv, a, a.heads + 2 * a.kv_heads, D));
    TRY_CUDA(hopper_attention_map(hopper, &d_out, a.d_out, a, a.heads, D));
    TRY_CUDA(attention_delta(session, a, D));
    auto by_keys = find_key_gradients_hopper<D, QUERIES>;
    auto by_queries = find_query_gradients_hopper<D, KEYS>;
    TRY_CUDA(cudaFuncSetAttribute(by_keys, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(KEYS_SHARED)));
    TRY_CUDA(cudaFuncSetAttribute(by_queries, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(QUERIES_SHARED)));
    TRY_CUDA(LAUNCH_ON(session->stream, by_keys, hopper_attention_blocks(hopper, a, a.kv_heads),
                       HOPPER_THREADS, KEYS_SHARED, a, qkv, d_out, hopper->complaint));
    return LAUNCH_ON(session->stream, by_queries, hopper_attention_blocks(hopper, a, a.heads),
                     HOPPER_THREADS, QUERIES_SHARED, a, qkv, d_out, hopper->complaint);
}

} // namespace

const char *hopper_attention_backward(cuda_session *session, const hopper_attention *hopper,
                                      const attention_arguments &a, unsigned size) {
    return size == 64 ? backward<64>(session, hopper, in_tiles(a))
                      : backward<128>(session, hopper, in_tiles(a));
}
