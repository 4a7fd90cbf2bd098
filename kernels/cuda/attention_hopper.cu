// attention.cu for compute 9.0: wgmma over tiles that the copy engine brings, after FlashAttention-3 (Shah et al., arXiv 2407.08608).
// Head sizes 64 and 128. Compiled for sm_90a alone.
//
// The copy engine writes shared memory and cannot rotate, and a thread that rotated there would take the issue slots and the cache's
// bandwidth that the softmax wants, once for every block that sees a key. So a pass of its own rotates q and k once, in place,
// 4 bytes an element, and backward finds them rotated. It rounds where attention.cu rounds.
//
// A block has three warpgroups. One warp of the first tells the copy engine what to bring, two to four parts ahead; the two others
// multiply, each for 64 of the ROWS rows of the tile that stays. Registers are moved from the first to the others at the start.
//     stays       in shared memory while its parts come by: queries; keys and values; queries and gradients
//     parts       of what comes by, in a ring: keys, then values; queries with gradients; keys with values
// Each place has two barriers: full, that what was ordered is there; empty, that all eight warps are done with it.
//
// forward     S = Q K^T of the next part runs beside O += P V of this one's; the softmax of the next beside the latter
// backward    two kernels, so that nothing is shared between blocks and nothing is atomic, as in attention.cu:
//     keys    S^T = K Q^T, dP^T = V dO^T, dV += P^T dO, dK += dS^T Q
//     queries S = Q K^T, dP = dO V^T, dQ += dS K
// What one product leaves in registers is the left side of the next one, as it lies there; right sides are read from one and the same tile
// along its rows or down them. So nothing but copies ever writes to tiles.
//
// There are as many blocks as multiprocessors, and each takes items in turn; an item is a tile and its mirror image from the other end
// of the sequence, which together have the same work everywhere under the causal mask. Items of one head follow each other, so that
// those at work at one time share keys and values in the cache, and so do the heads of a group.
//
// A wait has an end: after WAIT_MOST clocks the kernel says which barrier it was and where, and traps.
#include <cstdio>
#include <cstdlib>

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/ptx_hopper.cuh"

struct hopper_attention {
    decltype(&cuTensorMapEncodeTiled) encode;
    unsigned multiprocessors;
    volatile uint64_t *complaint; // pinned; what a kernel said before it trapped, 0: nothing
};

namespace {

constexpr unsigned WARPGROUP = 128, WORKERS = 2, HOPPER_THREADS = (1 + WORKERS) * WARPGROUP;
constexpr unsigned ROWS = 64 * WORKERS, BOX_ROWS = 64, PANEL = 64, ROW_BYTES = 128, ALIGNMENT = 1024, SHARED_MOST = 227 * 1024;
constexpr long long WAIT_MOST = 1LL << 34;                // clocks: some 9 seconds
constexpr int REGISTERS_LEFT = 32, REGISTERS_TAKEN = 232; // of 168 each: 32 + 2 * 232 <= 3 * 168

// --- tiles: panels of 64 columns, each of rows of 128 bytes, swizzled as the copy engine does and the products undo ---

constexpr unsigned tile_bytes(unsigned rows, unsigned size) { return rows * size * 2; }

// As many parts as there is room for beside what stays, four at the most.
constexpr unsigned stages_for(unsigned stay, unsigned part) {
    return (SHARED_MOST - ALIGNMENT - 512 - stay) / part < 4 ? (SHARED_MOST - ALIGNMENT - 512 - stay) / part : 4;
}

// Rows that are contracted along themselves, from `row` on, at columns k to k + 15.
__device__ __forceinline__ uint64_t along(uint32_t tile, unsigned rows, unsigned row, unsigned k) {
    uint32_t address = tile + k / PANEL * rows * ROW_BYTES + row * ROW_BYTES + k % PANEL * 2;
    return uint64_t{1} << 62 | uint64_t{8 * ROW_BYTES / 16} << 32 | uint64_t{1} << 16 | address / 16;
}
// All columns, contracted down the rows k to k + 15.
__device__ __forceinline__ uint64_t down(uint32_t tile, unsigned rows, unsigned k) {
    uint32_t address = tile + k * ROW_BYTES;
    return uint64_t{1} << 62 | uint64_t{8 * ROW_BYTES / 16} << 32 | uint64_t{rows * ROW_BYTES / 16} << 16 | address / 16;
}

// s[64][N] = rows [row, row + 64) of left, times right[N][D] transposed.
template <int D, int N>
__device__ __forceinline__ void scores(float (&s)[N / 8][4], uint32_t left, unsigned left_rows, unsigned row, uint32_t right) {
    UNROLL for (unsigned k = 0; k < D; k += 16) multiply(s, along(left, left_rows, row, k), along(right, N, 0, k), k != 0);
}
// sum[64][D] += w[64][N] right[N][D]
template <int D, int N>
__device__ __forceinline__ void add_product(float (&sum)[D / 8][4], const uint32_t (&w)[N / 16][4], uint32_t right) {
    UNROLL for (unsigned k = 0; k < N; k += 16) multiply_down(sum, w[k / 16], down(right, N, k));
}
// What a product left in registers, as the left side of the next.
template <int N> __device__ __forceinline__ void pack(uint32_t (&to)[N / 16][4], const float (&from)[N / 8][4]) {
    UNROLL for (int k = 0; k < N / 16; k++) {
        to[k][0] = pack_bf16(from[2 * k][0], from[2 * k][1]);
        to[k][1] = pack_bf16(from[2 * k][2], from[2 * k][3]);
        to[k][2] = pack_bf16(from[2 * k + 1][0], from[2 * k + 1][1]);
        to[k][3] = pack_bf16(from[2 * k + 1][2], from[2 * k + 1][3]);
    }
}

// Keys after the row's own are not seen. s is of keys from `first` on.
template <int N> __device__ __forceinline__ void hide_future(float (&s)[N / 8][4], unsigned row, unsigned first) {
    unsigned column = first + 2 * (threadIdx.x % 4);
    UNROLL for (unsigned n = 0; n < N / 8; n++) for (unsigned i = 0; i < 4; i++) if (column + 8 * n + i % 2 > row + 8 * (i / 2))
        s[n][i] = -INFINITY;
}

// The same where s is transposed: keys from `key` on, queries from `first` on.
template <int N> __device__ __forceinline__ void hide_past(float (&s)[N / 8][4], unsigned key, unsigned first) {
    unsigned column = first + 2 * (threadIdx.x % 4);
    UNROLL for (unsigned n = 0; n < N / 8; n++) for (unsigned i = 0; i < 4; i++) if (key + 8 * (i / 2) > column + 8 * n + i % 2)
        s[n][i] = -INFINITY;
}

// --- barriers ---

enum place_of_wait { STAY_FULL = 1, STAY_EMPTY, PART_FULL, PART_EMPTY, VALUES_FULL, VALUES_EMPTY };

struct gate { // what is kept in one place of shared memory, whether once or in a ring
    uint64_t full, empty;
};

__device__ __forceinline__ void wait_for(uint64_t *barrier, unsigned parity, place_of_wait what, volatile uint64_t *complaint) {
    if (barrier_passed(barrier, parity)) return;
    long long since = clock_now();
    while (!barrier_passed(barrier, parity))
        if (clock_now() - since > WAIT_MOST) trap_with(complaint, uint64_t{blockIdx.x} << 16 | threadIdx.x / WARP << 8 | what);
}

// Where in a ring of COUNT gates someone is. Full is waited for with the phase, empty with the other one: at the start all are.
template <unsigned COUNT> struct turn {
    unsigned stage = 0, phase = 0;
    __device__ __forceinline__ void next() {
        if (++stage < COUNT) return;
        stage = 0;
        phase ^= 1;
    }
};

__device__ __forceinline__ void gate_init(gate *g, unsigned orders) {
    barrier_init(&g->full, orders);
    barrier_init(&g->empty, WORKERS * WARPGROUP / WARP);
}
// By all of a warp once it has read what it wants; its products must have been waited for.
__device__ __forceinline__ void leave(gate *g) {
    __syncwarp();
    if (threadIdx.x % WARP == 0) barrier_arrive(&g->empty);
}

// `rows` rows of D elements from row `from` of a head and sequence; rows beyond its end arrive as zeroes.
template <int D>
__device__ __forceinline__ void order_tile(uint32_t to, const tensor_map *map, unsigned head, unsigned from, unsigned rows,
                                           unsigned sequence, uint64_t *barrier) {
    for (unsigned column = 0; column < D; column += PANEL)
        for (unsigned row = 0; row < rows; row += BOX_ROWS)
            box_copy(to + (column / PANEL * rows + row) * ROW_BYTES, map, column, head, from + row, sequence, barrier);
}

// --- which tiles a block has, one after the other: the same for all of its warps ---

struct walk {
    unsigned tiles, heads, items, item, half;
    unsigned tile, head, sequence; // of now
    __device__ __forceinline__ walk(unsigned tiles_, unsigned heads_, unsigned sequences)
        : tiles(tiles_), heads(heads_), items((tiles_ + 1) / 2 * heads_ * sequences), item(blockIdx.x), half(0) {}
    __device__ __forceinline__ bool next() {
        unsigned each = (tiles + 1) / 2;
        for (; item < items; item += gridDim.x, half = 0) {
            unsigned i = item % each, pair = item / each;
            if (half == 2 || (half == 1 && tiles - 1 - i == i)) continue;
            tile = half ? i : tiles - 1 - i;
            head = pair % heads;
            sequence = pair / heads;
            half++;
            return true;
        }
        return false;
    }
};

// Known to the compiler to be one number for all of a warp.
__device__ __forceinline__ unsigned warpgroup_here() { return __shfl_sync(ALL_LANES, threadIdx.x / WARPGROUP, 0); }

__device__ __forceinline__ unsigned char *aligned(unsigned char *shared) {
    return shared + (ALIGNMENT - shared_address(shared) % ALIGNMENT) % ALIGNMENT;
}

// --- positions ---

// In place; a thread eight pairs of one row and head of q or k.
__global__ void rotate_positions(attention_arguments a, unsigned size) {
    unsigned octets = size / 16, heads = a.heads + a.kv_heads;
    size_t item = size_t{blockIdx.x} * blockDim.x + threadIdx.x, row = item / octets / heads;
    if (row >= size_t{a.sequences} * a.length) return;
    unsigned at = static_cast<unsigned>(item % octets) * 8, head = static_cast<unsigned>(item / octets % heads);
    bf16 *low = a.qkv_to + row * a.width(size) + size_t{head} * size + at, *high = low + size / 2;
    const float *cos = a.cos + row % a.length * (size / 2) + at, *sin = a.sin + row % a.length * (size / 2) + at;
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
    static constexpr unsigned STAY = tile_bytes(ROWS, D), PART = tile_bytes(N, D), STAGES = stages_for(STAY, 2 * PART),
                              KEYS = STAY, VALUES = KEYS + STAGES * PART, GATES = VALUES + STAGES * PART,
                              ALL = GATES + (1 + 2 * STAGES) * sizeof(gate) + ALIGNMENT;
};

// Scores become weights; top and total are a row's so far, shrink what earlier ones are to be multiplied with.
template <int N>
__device__ __forceinline__ void weigh(float (&s)[N / 8][4], float scale, float top[2], float total[2], float shrink[2]) {
    float higher[2] = {top[0], top[1]}, shift[2], part[2] = {0, 0};
    UNROLL for (int n = 0; n < N / 8; n++) for (int i = 0; i < 4; i++) higher[i / 2] = fmaxf(higher[i / 2], s[n][i]);
    UNROLL for (int h = 0; h < 2; h++) {
        higher[h] = row_top(higher[h]); // every row sees a key of the first tile: finite, if the scores are
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
__device__ __forceinline__ void forward_orders(const attention_arguments &a, const tensor_map *qkv, uint32_t shared, gate *stay,
                                               gate *keys, gate *values, volatile uint64_t *complaint) {
    using layout = forward_layout<D, N>;
    turn<1> q;
    turn<layout::STAGES> part;
    for (walk at(a.tiles, a.heads, a.sequences); at.next(); q.next()) {
        unsigned key_head = a.heads + at.head / (a.heads / a.kv_heads), value_head = key_head + a.kv_heads;
        wait_for(&stay->empty, q.phase ^ 1, STAY_EMPTY, complaint);
        barrier_arrive_expecting(&stay->full, layout::STAY);
        order_tile<D>(shared, qkv, at.head, at.tile * ROWS, ROWS, at.sequence, &stay->full);
        for (unsigned j = at.tile * (ROWS / N) + ROWS / N; j-- > 0; part.next()) { // the diagonal first
            gate *k = keys + part.stage, *v = values + part.stage;
            wait_for(&k->empty, part.phase ^ 1, PART_EMPTY, complaint);
            barrier_arrive_expecting(&k->full, layout::PART);
            order_tile<D>(shared + layout::KEYS + part.stage * layout::PART, qkv, key_head, j * N, N, at.sequence, &k->full);
            wait_for(&v->empty, part.phase ^ 1, VALUES_EMPTY, complaint);
            barrier_arrive_expecting(&v->full, layout::PART);
            order_tile<D>(shared + layout::VALUES + part.stage * layout::PART, qkv, value_head, j * N, N, at.sequence, &v->full);
        }
    }
}

template <int D, int N>
__device__ __forceinline__ void forward_work(const attention_arguments &a, uint32_t shared, gate *stay, gate *keys, gate *values,
                                             unsigned worker, volatile uint64_t *complaint) {
    using layout = forward_layout<D, N>;
    static_assert(N == int{ROWS}, "one part is on the diagonal");
    static_assert(layout::STAGES >= 2 && layout::ALL <= SHARED_MOST, "");
    turn<1> q;
    turn<layout::STAGES> k, v;
    unsigned lane = threadIdx.x % WARP, inside = 64 * worker + threadIdx.x % WARPGROUP / WARP * 16 + lane / 4;
    float scale = LOG2_E / sqrtf(static_cast<float>(D));
    for (walk at(a.tiles, a.heads, a.sequences); at.next(); q.next()) {
        unsigned row = at.tile * ROWS + inside;
        float s[N / 8][4], sum[D / 8][4], top[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0}, shrink[2];
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
            scores<D, N>(s, shared, ROWS, 64 * worker, shared + layout::KEYS + k.stage * layout::PART);
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
            // Here, because the assembler does not carry the next wait over it, away from beside the product.
            if (j > 0) wait_for(&keys[k.stage].full, k.phase, PART_FULL, complaint);
            products_wait<0>();
            settle(sum);
            settle(p);
            leave(values + v.stage);
            v.next();
            UNROLL for (int n = 0; n < D / 8; n++) for (int i = 0; i < 4; i++) sum[n][i] *= shrink[i / 2];
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
                      a.out_to + size_t{at.sequence} * a.length * a.heads * D + size_t{at.head} * D, size_t{a.heads} * D, row,
                      a.length, nullptr, nullptr);
        float *lse = a.lse_to + (size_t{at.sequence} * a.heads + at.head) * a.length;
        for (int h = 0; h < 2; h++)
            if (lane % 4 == 0 && row + 8 * h < a.length) lse[row + 8 * h] = top[h] * scale * LN_2 + logf(total[h]);
    }
}

template <int D, int N>
__global__ void __launch_bounds__(HOPPER_THREADS, 1)
    attend_hopper(attention_arguments a, const __grid_constant__ tensor_map qkv, volatile uint64_t *complaint) {
    DYNAMIC_SHARED(unaligned);
    unsigned char *shared = aligned(unaligned);
    using layout = forward_layout<D, N>;
    gate *stay = reinterpret_cast<gate *>(shared + layout::GATES), *keys = stay + 1, *values = keys + layout::STAGES;
    if (threadIdx.x == 0) {
        map_fetch(&qkv);
        gate_init(stay, 1);
        for (unsigned i = 0; i < layout::STAGES; i++) gate_init(keys + i, 1), gate_init(values + i, 1);
        barriers_made();
    }
    __syncthreads();
    unsigned group = warpgroup_here();
    if (group == 0) {
        registers_give<REGISTERS_LEFT>();
        if (threadIdx.x == 0) forward_orders<D, N>(a, &qkv, shared_address(shared), stay, keys, values, complaint);
    } else {
        registers_take<REGISTERS_TAKEN>();
        forward_work<D, N>(a, shared_address(shared), stay, keys, values, group - 1, complaint);
    }
}

// --- backward ---

// Two tiles stay; a part is a pair of tiles of N rows.
template <int D, int N> struct backward_layout {
    static constexpr unsigned STAY = tile_bytes(ROWS, D), PART = tile_bytes(N, D),
                              STAGES = stages_for(2 * STAY, 2 * PART + 2 * N * 4), SECOND = STAY, PARTS = 2 * STAY,
                              ROW_VALUES = PARTS + STAGES * 2 * PART, // [STAGES][2][N] floats: lse, delta
        GATES = ROW_VALUES + STAGES * 2 * N * 4, ALL = GATES + (1 + STAGES) * sizeof(gate) + ALIGNMENT;
    static_assert(STAGES >= 2 && GATES % 8 == 0 && ALL <= SHARED_MOST, "");
};

// Of one query; no weight to one that is not there.
struct row_value {
    float lse, delta;
};
__device__ __forceinline__ row_value row_value_of(const attention_arguments &a, unsigned sequence, unsigned head, unsigned row) {
    size_t at = (size_t{sequence} * a.heads + head) * a.length + row;
    return row < a.length ? row_value{a.lse[at], a.delta[at]} : row_value{INFINITY, 0.0f};
}

// The keys' parts are the queries of all heads of the group, from the diagonal on.
template <int D, int N>
__device__ __forceinline__ void key_orders(const attention_arguments &a, const tensor_map *qkv, const tensor_map *d_out,
                                           unsigned char *memory, gate *stay, gate *parts, volatile uint64_t *complaint) {
    using layout = backward_layout<D, N>;
    uint32_t shared = shared_address(memory);
    unsigned lane = threadIdx.x % WARP, group = a.heads / a.kv_heads;
    turn<1> kept;
    turn<layout::STAGES> part;
    for (walk at(a.tiles, a.kv_heads, a.sequences); at.next(); kept.next()) {
        wait_for(&stay->empty, kept.phase ^ 1, STAY_EMPTY, complaint);
        if (lane == 0) {
            barrier_arrive_expecting(&stay->full, 2 * layout::STAY);
            order_tile<D>(shared, qkv, a.heads + at.head, at.tile * ROWS, ROWS, at.sequence, &stay->full);
            order_tile<D>(shared + layout::SECOND, qkv, a.heads + a.kv_heads + at.head, at.tile * ROWS, ROWS, at.sequence,
                          &stay->full);
        }
        for (unsigned head = at.head * group; head < (at.head + 1) * group; head++)
            for (unsigned start = at.tile * ROWS; start < a.length; start += N, part.next()) {
                gate *here = parts + part.stage;
                uint32_t to = shared + layout::PARTS + part.stage * 2 * layout::PART;
                float *values = reinterpret_cast<float *>(memory + layout::ROW_VALUES) + part.stage * 2 * N;
                row_value mine[N / WARP]; // on their way while others are waited for
                UNROLL for (unsigned i = 0; i < N / WARP; i++) mine[i] =
                    row_value_of(a, at.sequence, head, start + i * WARP + lane);
                wait_for(&here->empty, part.phase ^ 1, PART_EMPTY, complaint);
                if (lane == 0) {
                    barrier_arrive_expecting(&here->full, 2 * layout::PART);
                    order_tile<D>(to, qkv, head, start, N, at.sequence, &here->full);
                    order_tile<D>(to + layout::PART, d_out, head, start, N, at.sequence, &here->full);
                }
                UNROLL for (unsigned i = 0; i < N / WARP; i++) {
                    values[i * WARP + lane] = mine[i].lse * LOG2_E; // here: above it would wait for memory
                    values[N + i * WARP + lane] = mine[i].delta;
                }
                barrier_arrive(&here->full);
            }
    }
}

template <int D, int N>
__device__ __forceinline__ void key_work(const attention_arguments &a, unsigned char *memory, gate *stay, gate *parts,
                                         unsigned worker, volatile uint64_t *complaint) {
    using layout = backward_layout<D, N>;
    uint32_t shared = shared_address(memory);
    unsigned lane = threadIdx.x % WARP, inside = threadIdx.x % WARPGROUP / WARP * 16 + lane / 4, column = 2 * (lane % 4);
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
                uint32_t q = shared + layout::PARTS + part.stage * 2 * layout::PART, d = q + layout::PART;
                const float *lse = reinterpret_cast<const float *>(memory + layout::ROW_VALUES) + part.stage * 2 * N,
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
                    UNROLL for (unsigned i = 0; i < 4; i++) s[n][i] *= dp[n][i] - (i % 2 ? two.y : two.x);
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
        store_rows<D>(dv, 1.0f, 1.0f, to + size_t{a.kv_heads} * D, stride, key, a.length, nullptr, nullptr);
    }
}

template <int D, int N>
__global__ void __launch_bounds__(HOPPER_THREADS, 1)
    find_key_gradients_hopper(attention_arguments a, const __grid_constant__ tensor_map qkv,
                              const __grid_constant__ tensor_map d_out, volatile uint64_t *complaint) {
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
template <int N> __device__ __forceinline__ unsigned parts_seen(const attention_arguments &a, unsigned tile) {
    unsigned end = (tile + 1) * ROWS < a.length ? (tile + 1) * ROWS : a.length;
    return (end + N - 1) / N;
}

template <int D, int N>
__device__ __forceinline__ void query_orders(const attention_arguments &a, const tensor_map *qkv, const tensor_map *d_out,
                                             uint32_t shared, gate *stay, gate *parts, volatile uint64_t *complaint) {
    using layout = backward_layout<D, N>;
    turn<1> kept;
    turn<layout::STAGES> part;
    for (walk at(a.tiles, a.heads, a.sequences); at.next(); kept.next()) {
        unsigned key_head = a.heads + at.head / (a.heads / a.kv_heads), end = parts_seen<N>(a, at.tile);
        wait_for(&stay->empty, kept.phase ^ 1, STAY_EMPTY, complaint);
        barrier_arrive_expecting(&stay->full, 2 * layout::STAY);
        order_tile<D>(shared, qkv, at.head, at.tile * ROWS, ROWS, at.sequence, &stay->full);
        order_tile<D>(shared + layout::SECOND, d_out, at.head, at.tile * ROWS, ROWS, at.sequence, &stay->full);
        for (unsigned j = 0; j < end; j++, part.next()) {
            gate *here = parts + part.stage;
            uint32_t to = shared + layout::PARTS + part.stage * 2 * layout::PART;
            wait_for(&here->empty, part.phase ^ 1, PART_EMPTY, complaint);
            barrier_arrive_expecting(&here->full, 2 * layout::PART);
            order_tile<D>(to, qkv, key_head, j * N, N, at.sequence, &here->full);
            order_tile<D>(to + layout::PART, qkv, key_head + a.kv_heads, j * N, N, at.sequence, &here->full);
        }
    }
}

template <int D, int N>
__device__ __forceinline__ void query_work(const attention_arguments &a, uint32_t shared, gate *stay, gate *parts,
                                           unsigned worker, volatile uint64_t *complaint) {
    using layout = backward_layout<D, N>;
    unsigned lane = threadIdx.x % WARP, inside = threadIdx.x % WARPGROUP / WARP * 16 + lane / 4;
    float scale = 1.0f / sqrtf(static_cast<float>(D)), power_scale = scale * LOG2_E;
    turn<1> kept;
    turn<layout::STAGES> part;
    for (walk at(a.tiles, a.heads, a.sequences); at.next(); kept.next()) {
        unsigned first = at.tile * ROWS + 64 * worker, row = first + inside, end = parts_seen<N>(a, at.tile);
        unsigned mine = (first + 64 + N - 1) / N < end ? (first + 64 + N - 1) / N : end;
        row_value values[2] = {row_value_of(a, at.sequence, at.head, row), row_value_of(a, at.sequence, at.head, row + 8)};
        float shift[2] = {values[0].lse * LOG2_E, values[1].lse * LOG2_E};
        float dq[D / 8][4];
        UNROLL for (int n = 0; n < D / 8; n++) for (int i = 0; i < 4; i++) dq[n][i] = 0;
        wait_for(&stay->full, kept.phase, STAY_FULL, complaint);
        wait_for(&parts[part.stage].full, part.phase, PART_FULL, complaint);
        for (unsigned j = 0; j < mine; j++) {
            gate *here = parts + part.stage;
            uint32_t k = shared + layout::PARTS + part.stage * 2 * layout::PART, v = k + layout::PART;
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
            UNROLL for (int n = 0; n < N / 8; n++) for (int i = 0; i < 4; i++) s[n][i] *= dp[n][i] - values[i / 2].delta;
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
        for (unsigned j = mine; j < end; j++, part.next()) { // of these the other half alone sees keys
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
                                const __grid_constant__ tensor_map d_out, volatile uint64_t *complaint) {
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
        if (threadIdx.x == 0) query_orders<D, N>(a, &qkv, &d_out, shared_address(shared), stay, parts, complaint);
    } else {
        registers_take<REGISTERS_TAKEN>();
        query_work<D, N>(a, shared_address(shared), stay, parts, group - 1, complaint);
    }
}

// --- launches ---

// Of [sequences][length][heads] rows of `size` elements; a box is 64 rows of one head, 64 elements of each.
const char *make_map(const hopper_attention *hopper, tensor_map *out, const bf16 *from, const attention_arguments &a,
                     unsigned heads, unsigned size) {
    const cuuint64_t shape[4] = {size, heads, a.length, a.sequences};
    const cuuint64_t strides[3] = {uint64_t{size} * 2, uint64_t{heads} * size * 2, uint64_t{a.length} * heads * size * 2};
    const cuuint32_t box[4] = {PANEL, 1, BOX_ROWS, 1}, each[4] = {1, 1, 1, 1};
    CUresult result = hopper->encode(out, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<bf16 *>(from), shape, strides, box,
                                     each, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                     CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result == CUDA_SUCCESS) return nullptr;
    return fail(CUDA_FAILURE_OTHER, "cuTensorMapEncodeTiled: error %d", static_cast<int>(result));
}

unsigned blocks_of(const hopper_attention *hopper, const attention_arguments &a, unsigned heads) {
    unsigned items = (a.tiles + 1) / 2 * heads * a.sequences;
    return items < hopper->multiprocessors ? items : hopper->multiprocessors;
}

template <int D> const char *forward(cuda_session *session, const hopper_attention *hopper, const attention_arguments &a) {
    constexpr int N = 128;
    constexpr unsigned SHARED = forward_layout<D, N>::ALL;
    tensor_map qkv;
    TRY_CUDA(make_map(hopper, &qkv, a.qkv, a, a.heads + 2 * a.kv_heads, D));
    size_t items = size_t{a.sequences} * a.length * (a.heads + a.kv_heads) * (D / 16);
    TRY_CUDA(LAUNCH_ON(session->stream, rotate_positions, static_cast<unsigned>((items + BLOCK_THREADS - 1) / BLOCK_THREADS),
                       BLOCK_THREADS, 0, a, unsigned{D}));
    auto kernel = attend_hopper<D, N>;
    TRY_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(SHARED)));
    return LAUNCH_ON(session->stream, kernel, blocks_of(hopper, a, a.heads), HOPPER_THREADS, SHARED, a, qkv, hopper->complaint);
}

template <int D> const char *backward(cuda_session *session, const hopper_attention *hopper, const attention_arguments &a) {
    constexpr int QUERIES = 64, KEYS = 128;
    constexpr unsigned KEYS_SHARED = backward_layout<D, QUERIES>::ALL, QUERIES_SHARED = backward_layout<D, KEYS>::ALL;
    tensor_map qkv, d_out;
    TRY_CUDA(make_map(hopper, &qkv, a.qkv, a, a.heads + 2 * a.kv_heads, D));
    TRY_CUDA(make_map(hopper, &d_out, a.d_out, a, a.heads, D));
    TRY_CUDA(attention_delta(session, a, D));
    auto by_keys = find_key_gradients_hopper<D, QUERIES>;
    auto by_queries = find_query_gradients_hopper<D, KEYS>;
    TRY_CUDA(cudaFuncSetAttribute(by_keys, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(KEYS_SHARED)));
    TRY_CUDA(cudaFuncSetAttribute(by_queries, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(QUERIES_SHARED)));
    TRY_CUDA(LAUNCH_ON(session->stream, by_keys, blocks_of(hopper, a, a.kv_heads), HOPPER_THREADS, KEYS_SHARED, a, qkv, d_out,
                       hopper->complaint));
    return LAUNCH_ON(session->stream, by_queries, blocks_of(hopper, a, a.heads), HOPPER_THREADS, QUERIES_SHARED, a, qkv, d_out,
                     hopper->complaint);
}

attention_arguments in_tiles(const attention_arguments &arguments) {
    attention_arguments a = arguments;
    a.tiles = (a.length + ROWS - 1) / ROWS;
    return a;
}

} // namespace

bool hopper_attention_can(const hopper_attention *hopper, unsigned size) { return hopper && (size == 64 || size == 128); }

const char *hopper_attention_forward(cuda_session *session, const hopper_attention *hopper, const attention_arguments &a,
                                     unsigned size) {
    return size == 64 ? forward<64>(session, hopper, in_tiles(a)) : forward<128>(session, hopper, in_tiles(a));
}

const char *hopper_attention_backward(cuda_session *session, const hopper_attention *hopper, const attention_arguments &a,
                                      unsigned size) {
    return size == 64 ? backward<64>(session, hopper, in_tiles(a)) : backward<128>(session, hopper, in_tiles(a));
}

const char *hopper_attention_explain(const hopper_attention *hopper, const char *why) {
    static const char *const names[] = {"nothing",     "the tile that stays", "its readers",        "a part",
                                        "its readers", "a part's values",     "the values' readers"};
    uint64_t complaint = hopper ? *hopper->complaint : 0;
    if (!complaint) return why;
    char copy[CUDA_FAILURE_SIZE];
    snprintf(copy, sizeof copy, "%.120s", why);
    unsigned what = complaint % 256 < sizeof names / sizeof *names ? static_cast<unsigned>(complaint % 256) : 0;
    return fail(CUDA_FAILURE_LOST, "%s; attention by wgmma waited too long for %s (barrier %u, warp %u, block %u)", copy,
                names[what], static_cast<unsigned>(complaint % 256), static_cast<unsigned>(complaint >> 8 & 0xFF),
                static_cast<unsigned>(complaint >> 16));
}

static const char *fill(hopper_attention *hopper) {
    int multiprocessors = 0;
    void *complaint = nullptr;
    TRY_CUDA(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0));
    TRY_CUDA(cudaMallocHost(&complaint, sizeof *hopper->complaint));
    hopper->multiprocessors = static_cast<unsigned>(multiprocessors);
    hopper->complaint = static_cast<volatile uint64_t *>(complaint);
    *hopper->complaint = 0;
    return nullptr;
}

const char *hopper_attention_open(hopper_attention **out) {
    int major = 0, minor = 0;
    void *encode = nullptr;
    cudaDriverEntryPointQueryResult found;
    *out = nullptr;
    TRY_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
    TRY_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0));
    if (major != 9 || minor != 0) return nullptr;
#if CUDART_VERSION >= 12050
    cudaError_t code = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode, 12000, cudaEnableDefault, &found);
#else
    cudaError_t code = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &encode, cudaEnableDefault, &found);
#endif
    if (code != cudaSuccess || found != cudaDriverEntryPointSuccess || !encode) return (void)cudaGetLastError(), nullptr;
    hopper_attention *hopper = static_cast<hopper_attention *>(calloc(1, sizeof *hopper));
    if (!hopper) return fail(CUDA_FAILURE_MEMORY, "out of host memory");
    hopper->encode = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(encode);
    const char *why = fill(hopper);
    if (why)
        hopper_attention_close(hopper);
    else
        *out = hopper;
    return why;
}

void hopper_attention_close(hopper_attention *hopper) {
    if (!hopper) return;
    if (hopper->complaint) (void)cudaFreeHost(const_cast<uint64_t *>(hopper->complaint));
    free(hopper);
}
