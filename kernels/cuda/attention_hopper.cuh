// Attention for compute 9.0, as attention.cu is for any: wgmma over tiles that the copy engine
// brings, after FlashAttention-3 (Shah et al., arXiv 2407.08608). Head sizes 64 and 128. What
// includes this is compiled for sm_90a alone: attention_hopper_forward.cu,
// attention_hopper_backward.cu.
//
// The copy engine writes shared memory and cannot rotate, and a thread that rotated there would
// take the issue slots and the cache's bandwidth that the softmax needs, once for every block that
// sees a key. So a pass of its own rotates q and k once, in place, 4 bytes per element, and
// backward finds them rotated. It rounds where attention.cu rounds.
//
// A block has three warpgroups. One warp of the first tells the copy engine what to bring, two to
// four parts ahead; the two others multiply, each for 64 of the ROWS rows of the tile that stays.
// Registers are moved from the first to the others at the start.
//     stays       in shared memory while its parts come by: queries; keys and values; queries and
//                 gradients
//     parts       of what comes by, in a ring: keys, then values; queries with gradients; keys with
//                 values
// Each place has two barriers: full, that what was ordered is there; empty, that all eight warps
// are done with it.
//
// forward     S = Q K^T of the next part runs beside O += P V of this one's; the softmax of the
//             next beside the latter
// backward    two kernels, so that nothing is shared between blocks and nothing is atomic, as in
//             attention.cu:
//     keys    S^T = K Q^T, dP^T = V dO^T, dV += P^T dO, dK += dS^T Q
//     queries S = Q K^T, dP = dO V^T, dQ += dS K
// What one product leaves in registers is the left side of the next one, as it lies there; right
// sides are read from one and the same tile along its rows or down them. So nothing but copies ever
// writes to tiles.
//
// There are as many blocks as multiprocessors, and each takes items in turn; an item is a tile and
// its mirror image from the other end of the sequence, which together have the same work everywhere
// under the causal mask. Items of one head follow each other, so that those at work at one time
// share keys and values in the cache, and so do the heads of a group.
//
// A wait has an end: after WAIT_MOST clocks the kernel says which barrier it was and where, and
// traps.
#ifndef KERNELS_CUDA_ATTENTION_HOPPER_CUH
#define KERNELS_CUDA_ATTENTION_HOPPER_CUH

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/ptx_hopper.cuh"

struct hopper_attention {
    decltype(&cuTensorMapEncodeTiled) encode;
    unsigned multiprocessors;
    volatile uint64_t *complaint; // pinned; what a kernel said before it trapped, 0: nothing
};

// --- attention_hopper.cu ---
// Of [sequences][length][heads] rows of `size` elements; a box is 64 rows of one head, 64 elements
// of each.
INTERNAL const char *hopper_attention_map(const hopper_attention *hopper, tensor_map *out,
                                          const bf16 *from, const attention_arguments &a,
                                          unsigned heads, unsigned size);
// How many blocks share the items of all these heads.
INTERNAL unsigned hopper_attention_blocks(const hopper_attention *hopper,
                                          const attention_arguments &a, unsigned heads);

namespace {

constexpr unsigned WARPGROUP = 128, WORKERS = 2, HOPPER_THREADS = (1 + WORKERS) * WARPGROUP;
constexpr unsigned ROWS = 64 * WORKERS, BOX_ROWS = 64, PANEL = 64, ROW_BYTES = 128,
                   ALIGNMENT = 1024, SHARED_MOST = 227 * 1024;
constexpr long long WAIT_MOST = 1LL << 34;                // clocks: some 9 seconds
constexpr int REGISTERS_LEFT = 32, REGISTERS_TAKEN = 232; // of 168 each: 32 + 2 * 232 <= 3 * 168

// --- tiles: panels of 64 columns, each of rows of 128 bytes ---
// Swizzled as the copy engine does and the products undo.

constexpr unsigned tile_bytes(unsigned rows, unsigned size) { return rows * size * 2; }

// As many parts as there is room for beside what stays, four at the most.
constexpr unsigned stages_for(unsigned stay, unsigned part) {
    return (SHARED_MOST - ALIGNMENT - 512 - stay) / part < 4
               ? (SHARED_MOST - ALIGNMENT - 512 - stay) / part
               : 4;
}

// Rows that are contracted along themselves, from `row` on, at columns k to k + 15.
__device__ __forceinline__ uint64_t along(uint32_t tile, unsigned rows, unsigned row, unsigned k) {
    uint32_t address = tile + k / PANEL * rows * ROW_BYTES + row * ROW_BYTES + k % PANEL * 2;
    return uint64_t{1} << 62 | uint64_t{8 * ROW_BYTES / 16} << 32 | uint64_t{1} << 16 |
           address / 16;
}
// All columns, contracted down the rows k to k + 15.
__device__ __forceinline__ uint64_t down(uint32_t tile, unsigned rows, unsigned k) {
    uint32_t address = tile + k * ROW_BYTES;
    return uint64_t{1} << 62 | uint64_t{8 * ROW_BYTES / 16} << 32 |
           uint64_t{rows * ROW_BYTES / 16} << 16 | address / 16;
}

// s[64][N] = rows [row, row + 64) of left, times right[N][D] transposed.
template <int D, int N>
__device__ __forceinline__ void scores(float (&s)[N / 8][4], uint32_t left, unsigned left_rows,
                                       unsigned row, uint32_t right) {
    UNROLL for (unsigned k = 0; k < D; k += 16)
        multiply(s, along(left, left_rows, row, k), along(right, N, 0, k), k != 0);
}
// sum[64][D] += w[64][N] right[N][D]
template <int D, int N>
__device__ __forceinline__ void add_product(float (&sum)[D / 8][4], const uint32_t (&w)[N / 16][4],
                                            uint32_t right) {
    UNROLL for (unsigned k = 0; k < N; k += 16) multiply_down(sum, w[k / 16], down(right, N, k));
}
// What a product left in registers, as the left side of the next.
template <int N>
__device__ __forceinline__ void pack(uint32_t (&to)[N / 16][4], const float (&from)[N / 8][4]) {
    UNROLL for (int k = 0; k < N / 16; k++) {
        to[k][0] = pack_bf16(from[2 * k][0], from[2 * k][1]);
        to[k][1] = pack_bf16(from[2 * k][2], from[2 * k][3]);
        to[k][2] = pack_bf16(from[2 * k + 1][0], from[2 * k + 1][1]);
        to[k][3] = pack_bf16(from[2 * k + 1][2], from[2 * k + 1][3]);
    }
}

// Keys after the row's own are not seen. s is of keys from `first` on.
template <int N>
__device__ __forceinline__ void hide_future(float (&s)[N / 8][4], unsigned row, unsigned first) {
    unsigned column = first + 2 * (threadIdx.x % 4);
    UNROLL for (unsigned n = 0; n < N / 8;
                n++) for (unsigned i = 0; i < 4;
                          i++) if (column + 8 * n + i % 2 > row + 8 * (i / 2)) s[n][i] = -INFINITY;
}

// The same where s is transposed: keys from `key` on, queries from `first` on.
template <int N>
__device__ __forceinline__ void hide_past(float (&s)[N / 8][4], unsigned key, unsigned first) {
    unsigned column = first + 2 * (threadIdx.x % 4);
    UNROLL for (unsigned n = 0; n < N / 8;
                n++) for (unsigned i = 0; i < 4;
                          i++) if (key + 8 * (i / 2) > column + 8 * n + i % 2) s[n][i] = -INFINITY;
}

// --- barriers ---

enum place_of_wait { STAY_FULL = 1, STAY_EMPTY, PART_FULL, PART_EMPTY, VALUES_FULL, VALUES_EMPTY };

struct gate { // what is kept in one place of shared memory, whether once or in a ring
    uint64_t full, empty;
};

__device__ __forceinline__ void wait_for(uint64_t *barrier, unsigned parity, place_of_wait what,
                                         volatile uint64_t *complaint) {
    if (barrier_passed(barrier, parity)) return;
    long long since = clock_now();
    while (!barrier_passed(barrier, parity))
        if (clock_now() - since > WAIT_MOST)
            trap_with(complaint, uint64_t{blockIdx.x} << 16 | threadIdx.x / WARP << 8 | what);
}

// Where in a ring of COUNT gates someone is. Full is waited for with the phase, empty with the
// other one: at the start all are.
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
// By all of a warp once it has read what it needs; its products must have been waited for.
__device__ __forceinline__ void leave(gate *g) {
    __syncwarp();
    if (threadIdx.x % WARP == 0) barrier_arrive(&g->empty);
}

// `rows` rows of D elements from row `from` of a head and sequence; rows beyond its end arrive as
// zeroes.
template <int D>
__device__ __forceinline__ void order_tile(uint32_t to, const tensor_map *map, unsigned head,
                                           unsigned from, unsigned rows, unsigned sequence,
                                           uint64_t *barrier) {
    for (unsigned column = 0; column < D; column += PANEL)
        for (unsigned row = 0; row < rows; row += BOX_ROWS)
            box_copy(to + (column / PANEL * rows + row) * ROW_BYTES, map, column, head, from + row,
                     sequence, barrier);
}

// --- which tiles a block has, one after the other: the same for all of its warps ---

struct walk {
    unsigned tiles, heads, items, item, half;
    unsigned tile, head, sequence; // of now
    __device__ __forceinline__ walk(unsigned tiles_, unsigned heads_, unsigned sequences)
        : tiles(tiles_), heads(heads_), items((tiles_ + 1) / 2 * heads_ * sequences),
          item(blockIdx.x), half(0) {}
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
__device__ __forceinline__ unsigned warpgroup_here() {
    return __shfl_sync(ALL_LANES, threadIdx.x / WARPGROUP, 0);
}

__device__ __forceinline__ unsigned char *aligned(unsigned char *shared) {
    return shared + (ALIGNMENT - shared_address(shared) % ALIGNMENT) % ALIGNMENT;
}

// Tiles of ROWS.
inline attention_arguments in_tiles(const attention_arguments &arguments) {
    attention_arguments a = arguments;
    a.tiles = (a.length + ROWS - 1) / ROWS;
    return a;
}

} // namespace

#endif
