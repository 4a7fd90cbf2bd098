// Attention's forward pass by wgmma: attention_hopper.cuh says how.
#include "kernels/cuda/attention_hopper.cuh"

namespace {

// --- positions ---

// In place; a thread eight pairs of one row and head of q or k.
__global__ void rotate_positions(attention_arguments a, unsigned size) {
    unsigned octets = size / 16, heads = a.heads + a.kv_heads;
    size_t item = size_t{blockIdx.x} * blockDim.x + threadIdx.x, row = item / octets / heads;
    if (row >= size_t{a.sequences} * a.length) return;
    unsigned at = static_cast<unsigned>(item % octets) * 8,
             head = static_cast<unsigned>(item / octets % heads);
    bf16 *low = a.qkv_to + row * a.width(size) + size_t{head} * size + at, *high = low + size / 2;
    const float *cos = a.cos + row % a.length * (size / 2) + at,
                *sin = a.sin + row % a.length * (size / 2) + at;
    float x[8], y[8], p[8], q[8];
    widen(load_octet(low), x);
    widen(load_octet(high), y);
    UNROLL for (int i = 0; i < 8; i++) {
        p[i] = x[i] * cos[i] - y[i] * sin[i];
        q[i] = y[i] * cos[i] + x[i] * sin[i];
    }
    store_octet(low, narrow(p));
    store_octet(high, narrow(q));
}

// --- forward ---

template <int D, int N> struct forward_layout {
    static constexpr unsigned STAY = tile_bytes(ROWS, D), PART = tile_bytes(N, D),
                              STAGES = stages_for(STAY, 2 * PART), KEYS = STAY,
                              VALUES = KEYS + STAGES * PART, GATES = VALUES + STAGES * PART,
                              ALL = GATES + (1 + 2 * STAGES) * sizeof(gate) + ALIGNMENT;
};

// Scores become weights; top and total are a row's so far, shrink what earlier ones are to be
// multiplied with.
template <int N>
__device__ __forceinline__ void weigh(float (&s)[N / 8][4], float scale, float top[2],
                                      float total[2], float shrink[2]) {
    float higher[2] = {top[0], top[1]}, shift[2], part[2] = {0, 0};
    UNROLL for (int n = 0; n < N / 8; n++) for (int i = 0; i < 4; i++) higher[i / 2] =
        fmaxf(higher[i / 2], s[n][i]);
    UNROLL for (int h = 0; h < 2; h++) {
        higher[h] =
            row_top(higher[h]); // every row sees a key of the first tile: finite, if the scores are
        shift[h] = higher[h] * scale;
        shrink[h] = power_of_two(fmaf(top[h], scale, -shift[h]));
        top[h] = higher[h];
    }
    UNROLL for (int n = 0; n < N / 8; n++) for (int i = 0; i < 4; i++) {
        s[n][i] = power_of_two(fmaf(s[n][i], scale, -shift[i / 2]));
        part[i / 2] += s[n][i];
    }
    for (int h = 0; h < 2; h++) total[h] = fmaf(total[h], shrink[h], part[h]);
}

template <int D, int N>
__device__ __forceinline__ void forward_orders(const attention_arguments &a, const tensor_map *qkv,
                                               uint32_t shared, gate *stay, gate *keys,
                                               gate *values, volatile uint64_t *complaint) {
    using layout = forward_layout<D, N>;
    turn<1> q;
    turn<layout::STAGES> part;
    for (walk at(a.tiles, a.heads, a.sequences); at.next(); q.next()) {
        unsigned key_head = a.heads + at.head / (a.heads / a.kv_heads),
                 value_head = key_head + a.kv_heads;
        wait_for(&stay->empty, q.phase ^ 1, STAY_EMPTY, complaint);
        barrier_arrive_expecting(&stay->full, layout::STAY);
        order_tile<D>(shared, qkv, at.head, at.tile * ROWS, ROWS, at.sequence, &stay->full);
        for (unsigned j = at.tile * (ROWS / N) + ROWS / N; j-- > 0;
             part.next()) { // the diagonal first
            gate *k = keys + part.stage, *v = values + part.stage;
            wait_for(&k->empty, part.phase ^ 1, PART_EMPTY, complaint);
            barrier_arrive_expecting(&k->full, layout::PART);
            order_tile<D>(shared + layout::KEYS + part.stage * layout::PART, qkv, key_head, j * N,
                          N, at.sequence, &k->full);
            wait_for(&v->empty, part.phase ^ 1, VALUES_EMPTY, complaint);
            barrier_arrive_expecting(&v->full, layout::PART);
            order_tile<D>(shared + layout::VALUES + part.stage * layout::PART, qkv, value_head,
                          j * N, N, at.sequence, &v->full);
        }
    }
}

// long: one pipeline, whose products are in flight in registers from one stage to the next; a cut
// would let the compiler move them to memory.
template <int D, int N>
__device__ __forceinline__ void forward_work(const attention_arguments &a, uint32_t shared,
                                             gate *stay, gate *keys, gate *values, unsigned worker,
                                             volatile uint64_t *complaint) {
    using layout = forward_layout<D, N>;
    static_assert(N == int{ROWS}, "one part is on the diagonal");
    static_assert(layout::STAGES >= 2 && layout::ALL <= SHARED_MOST, "");
    turn<1> q;
    turn<layout::STAGES> k, v;
    unsigned lane = threadIdx.x % WARP,
             inside = 64 * worker + threadIdx.x % WARPGROUP / WARP * 16 + lane / 4;
    float scale = LOG2_E / sqrtf(static_cast<float>(D));
    for (walk at(a.tiles, a.heads, a.sequences); at.next(); q.next()) {
        unsigned row = at.tile * ROWS + inside;
        float s[N / 8][4], sum[D / 8][4], top[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0},
                                          shrink[2];
        uint32_t p[N / 16][4];
        UNROLL for (int n = 0; n < D / 8; n++) for (int i = 0; i < 4; i++) sum[n][i] = 0;
        wait_for(&stay->full, q.phase, STAY_FULL, complaint);
        wait_for(&keys[k.stage].full, k.phase, PART_FULL, complaint);
        products_begin();
        scores<D, N>(s, shared, ROWS, 64 * worker, shared + layout::KEYS + k.stage * layout::PART);
        products_commit();
        products_wait<0>();
        settle(s);
        leave(keys + k.stage);
        k.next();
        hide_future<N>(s, row, at.tile * N);
        weigh<N>(s, scale, top, total, shrink);
        pack<N>(p, s);
        if (at.tile > 0) wait_for(&keys[k.stage].full, k.phase, PART_FULL, complaint);
        for (unsigned j = at.tile; j-- > 0;) {
            settle(p);
            settle(sum);
            products_begin();
            scores<D, N>(s, shared, ROWS, 64 * worker,
                         shared + layout::KEYS + k.stage * layout::PART);
            products_commit();
            wait_for(&values[v.stage].full, v.phase, VALUES_FULL, complaint);
            products_begin();
            add_product<D, N>(sum, p, shared + layout::VALUES + v.stage * layout::PART);
            products_commit();
            products_wait<1>();
            settle(s);
            leave(keys + k.stage);
            k.next();
            weigh<N>(s, scale, top, total, shrink);
            settle(s);
            // Here, because the assembler does not carry the next wait over it, away from beside
            // the product.
            if (j > 0) wait_for(&keys[k.stage].full, k.phase, PART_FULL, complaint);
            products_wait<0>();
            settle(sum);
            settle(p);
            leave(values + v.stage);
            v.next();
            UNROLL for (int n = 0; n < D / 8; n++) for (int i = 0; i < 4; i++) sum[n][i] *=
                shrink[i / 2];
            pack<N>(p, s);
        }
        leave(stay);
        wait_for(&values[v.stage].full, v.phase, VALUES_FULL, complaint);
        settle(p);
        settle(sum);
        products_begin();
        add_product<D, N>(sum, p, shared + layout::VALUES + v.stage * layout::PART);
        products_commit();
        products_wait<0>();
        settle(sum);
        leave(values + v.stage);
        v.next();

        for (int h = 0; h < 2; h++) total[h] = row_sum(total[h]);
        store_rows<D>(sum, 1.0f / total[0], 1.0f / total[1],
                      a.out_to + size_t{at.sequence} * a.length * a.heads * D + size_t{at.head} * D,
                      size_t{a.heads} * D, row, a.length, nullptr, nullptr);
        float *lse = a.lse_to + (size_t{at.sequence} * a.heads + at.head) * a.length;
        for (int h = 0; h < 2; h++)
            if (lane % 4 == 0 && row + 8 * h < a.length)
                lse[row + 8 * h] = top[h] * scale * LN_2 + logf(total[h]);
    }
}

template <int D, int N>
__global__ void __launch_bounds__(HOPPER_THREADS, 1)
    attend_hopper(attention_arguments a, const __grid_constant__ tensor_map qkv,
                  volatile uint64_t *complaint) {
    DYNAMIC_SHARED(unaligned);
    unsigned char *shared = aligned(unaligned);
    using layout = forward_layout<D, N>;
    gate *stay = reinterpret_cast<gate *>(shared + layout::GATES), *keys = stay + 1,
         *values = keys + layout::STAGES;
    if (threadIdx.x == 0) {
        map_fetch(&qkv);
        gate_init(stay, 1);
        for (unsigned i = 0; i < layout::STAGES; i++)
            gate_init(keys + i, 1), gate_init(values + i, 1);
        barriers_made();
    }
    __syncthreads();
    unsigned group = warpgroup_here();
    if (group == 0) {
        registers_give<REGISTERS_LEFT>();
        if (threadIdx.x == 0)
            forward_orders<D, N>(a, &qkv, shared_address(shared), stay, keys, values, complaint);
    } else {
        registers_take<REGISTERS_TAKEN>();
        forward_work<D, N>(a, shared_address(shared), stay, keys, values, group - 1, complaint);
    }
}

// --- launch ---

template <int D>
const char *forward(cuda_session *session, const hopper_attention *hopper,
                    const attention_arguments &a) {
    constexpr int N = 128;
    constexpr unsigned SHARED = forward_layout<D, N>::ALL;
    tensor_map qkv;
    TRY_CUDA(hopper_attention_map(hopper, &qkv, a.qkv, a, a.heads + 2 * a.kv_heads, D));
    size_t items = size_t{a.sequences} * a.length * (a.heads + a.kv_heads) * (D / 16);
    TRY_CUDA(LAUNCH_ON(session->stream, rotate_positions,
                       static_cast<unsigned>((items + BLOCK_THREADS - 1) / BLOCK_THREADS),
                       BLOCK_THREADS, 0, a, unsigned{D}));
    auto kernel = attend_hopper<D, N>;
    TRY_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(SHARED)));
    return LAUNCH_ON(session->stream, kernel, hopper_attention_blocks(hopper, a, a.heads),
                     HOPPER_THREADS, SHARED, a, qkv, hopper->complaint);
}

} // namespace

const char *hopper_attention_forward(cuda_session *session, const hopper_attention *hopper,
                                     const attention_arguments &a, unsigned size) {
    return size == 64 ? forward<64>(session, hopper, in_tiles(a))
                      : forward<128>(session, hopper, in_tiles(a));
}
