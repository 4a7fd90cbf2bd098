// kernels/cuda/ptx_hopper.cuh for the emulation, after the PTX ISA's text: mbarrier's phases, the
// copy engine's boxes and swizzle, wgmma's matrix descriptors, layouts and fragments.
//
// What runs beside the threads does so here too. A copy is made after some looks at its barrier, in
// no fixed order, so never for who does not look; products are made when they are waited for. Their
// operands are looked at both when they are asked for and then: what changed in between, because it
// had not arrived yet or was given away too early, ends the program, and so does a product after
// registers were touched without products_begin. EMULATED_WRONG_PRODUCTS=1: products are wrong.
#ifndef KERNELS_CUDA_PTX_HOPPER_CUH
#define KERNELS_CUDA_PTX_HOPPER_CUH

#include <algorithm>
#include <cuda.h>

#include "kernels/cuda/ptx.cuh"

typedef CUtensorMap tensor_map;

namespace emulation {

inline void broken(const char *what) {
    fprintf(stderr, "emulation: %s (block %u, thread %u)\n", what, blockIdx.x, threadIdx.x);
    abort();
}

// Shared addresses do not begin at 0, and no tile is aligned by luck.
enum : uint32_t { SHARED_FROM = 1024 + 128 };
inline unsigned char *at_shared(uint32_t address) {
    if (address < SHARED_FROM || address >= SHARED_FROM + SHARED_MOST)
        broken("an address outside of shared memory");
    return dynamic_shared + (address - SHARED_FROM);
}
// The 128-byte swizzle: of an address, the 16-byte piece within a row of 128 bytes, bits 4 to 6, is
// xored with the row, bits 7 to 9.
inline uint32_t swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

struct barrier_state {
    uint16_t arrivals, missing;
    int32_t bytes : 31;
    uint32_t parity : 1;
};
static_assert(sizeof(barrier_state) == sizeof(uint64_t), "");
inline barrier_state &state_of(uint64_t *barrier) {
    return *reinterpret_cast<barrier_state *>(barrier);
}
inline void end_phase_if_complete(barrier_state &b) {
    if (b.missing || b.bytes) return;
    b.missing = b.arrivals;
    b.parity ^= 1;
}

struct box_order {
    uint32_t to;
    CUtensorMap map;
    uint32_t at[4];
    uint64_t *barrier;
    unsigned looks; // at its barrier until it is made
};
inline std::vector<box_order> orders;
inline uint32_t chance = 1;
inline uint32_t draw() { return chance = chance * 1664525u + 1013904223u, chance >> 16; }

inline void make_copy(const box_order &o) {
    const CUtensorMap &m = o.map;
    uint32_t to = o.to, x[4];
    for (x[3] = 0; x[3] < m.box[3]; x[3]++)
        for (x[2] = 0; x[2] < m.box[2]; x[2]++)
            for (x[1] = 0; x[1] < m.box[1]; x[1]++)
                for (x[0] = 0; x[0] < m.box[0]; x[0]++, to += 2) {
                    bool inside = true;
                    size_t from = 0;
                    for (int i = 0; i < 4; i++) {
                        inside = inside && o.at[i] + x[i] < m.shape[i];
                        from += (o.at[i] + x[i]) * m.strides[i];
                    }
                    uint16_t value = 0;
                    if (inside) memcpy(&value, m.from + from, sizeof value);
                    memcpy(at_shared(swizzled(to)), &value, sizeof value);
                }
    barrier_state &b = state_of(o.barrier);
    b.bytes -= static_cast<int32_t>(to - o.to);
    end_phase_if_complete(b);
}
inline void copies_go_on(uint64_t *barrier) {
    for (size_t i = orders.size(); i-- > 0;) {
        if (orders[i].barrier != barrier || orders[i].looks-- > 0) continue;
        box_order order = orders[i];
        orders.erase(orders.begin() + static_cast<ptrdiff_t>(i));
        make_copy(order);
    }
}

// --- products ---

struct matrix { // [contracted][other], as it lies in shared memory
    uint16_t value[16][128];
};
// The address of element `minor` of those that lie together, in row `major`, of a matrix with
// 128-byte swizzle. Its rows have 128 bytes; those after eight of them are the stride offset away,
// and what is beyond 64 elements the leading offset.
inline uint16_t element(uint64_t descriptor, unsigned major, unsigned minor) {
    uint32_t start = static_cast<uint32_t>(descriptor & 0x3FFF) << 4,
             leading = static_cast<uint32_t>(descriptor >> 16 & 0x3FFF) << 4,
             stride = static_cast<uint32_t>(descriptor >> 32 & 0x3FFF) << 4;
    if (descriptor >> 62 != 1 || (descriptor >> 49 & 7) != 0)
        broken("a descriptor without the 128-byte swizzle, or with a base offset");
    uint32_t address =
        start + major / 8 * stride + major % 8 * 128 + minor / 64 * leading + minor % 64 * 2;
    uint16_t value;
    memcpy(&value, at_shared(swizzled(address)), sizeof value);
    return value;
}
inline void read_matrix(matrix *out, uint64_t descriptor, unsigned others, bool down) {
    memset(out, 0, sizeof *out);
    for (unsigned k = 0; k < 16; k++)
        for (unsigned n = 0; n < others; n++)
            out->value[k][n] = down ? element(descriptor, k, n) : element(descriptor, n, k);
}

struct product { // one thread's part
    float *sums;
    unsigned columns;
    bool left_in_registers, add;
    uint64_t left, right;
    uint32_t registers[4];
    const uint32_t *registers_at;
};
struct product_group {
    std::vector<product> products;
};
struct shared_product { // what the warpgroup has in common: read by its first thread when it asks
    matrix left, right;
    float left_values[64][16], right_values[16][128];
    bool decoded;
};
struct warpgroup_products {
    std::vector<shared_product> asked; // in order; those before `done` have been made
    size_t done;
};
inline std::vector<product_group> groups[THREADS]; // committed, and last the one that is not
inline bool begun[THREADS];
inline warpgroup_products warpgroups[THREADS / 128];

inline void ask(const product &p) {
    unsigned me = threadIdx.x;
    if (!begun[me]) broken("a product after its registers may have been touched");
    if (groups[me].empty()) groups[me].emplace_back();
    groups[me].back().products.push_back(p);
    if (me % 128) return;
    shared_product s = {};
    if (!p.left_in_registers) read_matrix(&s.left, p.left, 64, false);
    read_matrix(&s.right, p.right, p.columns, p.left_in_registers);
    warpgroups[me / 128].asked.push_back(s);
}

inline float widened(uint16_t half) { return __uint_as_float(static_cast<uint32_t>(half) << 16); }

// The first thread to come checks that nothing has changed, and widens; left sides in registers are
// all threads'.
inline void decode(shared_product *s, const product &p, size_t group, size_t index) {
    matrix left = {}, right = {};
    if (!p.left_in_registers) read_matrix(&left, p.left, 64, false);
    read_matrix(&right, p.right, p.columns, p.left_in_registers);
    if (memcmp(&left, &s->left, sizeof left) != 0 || memcmp(&right, &s->right, sizeof right) != 0)
        broken("shared memory of a product changed while it ran");
    for (unsigned k = 0; k < 16; k++)
        for (unsigned n = 0; n < 128; n++) s->right_values[k][n] = widened(right.value[k][n]);
    s->right_values[0][0] += static_cast<float>(number_of("EMULATED_WRONG_PRODUCTS", 0));
    unsigned first = threadIdx.x / 128 * 128;
    for (unsigned row = 0; row < 64; row++)
        for (unsigned k = 0; k < 16; k++) {
            uint16_t value = left.value[k][row];
            if (p.left_in_registers) {
                // warp row / 16; lane 4 (row % 8) + k % 8 / 2; registers: row, row + 8, then
                // columns from 8 on
                unsigned holder = first + row / 16 * 32 + row % 8 * 4 + k % 8 / 2;
                uint32_t pair =
                    groups[holder][group].products[index].registers[row % 16 / 8 + k / 8 * 2];
                value = static_cast<uint16_t>(k % 2 ? pair >> 16 : pair);
            }
            s->left_values[row][k] = widened(value);
        }
    s->decoded = true;
}

// d[64][columns]: warp w has rows 16 w to 16 w + 15; a lane row lane / 4 and the one 8 below, at
// columns 8 n + 2 (lane % 4) and the next.
inline void make_product(const product &p, const shared_product &s) {
    unsigned lane = threadIdx.x % 32, top = threadIdx.x % 128 / 32 * 16 + lane / 4;
    if (p.left_in_registers && memcmp(p.registers, p.registers_at, sizeof p.registers) != 0)
        broken("registers of a product changed while it ran");
    for (unsigned i = 0; i < p.columns / 2; i++) {
        unsigned row = top + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
        float sum = p.add ? p.sums[i] : 0;
        for (unsigned k = 0; k < 16; k++) sum += s.left_values[row][k] * s.right_values[k][column];
        p.sums[i] = sum;
    }
}

inline void wait_for_products(size_t pending) {
    unsigned me = threadIdx.x;
    yield(WARPGROUP_BARRIER); // all have asked
    warpgroup_products &w = warpgroups[me / 128];
    begun[me] = false;
    size_t committed = groups[me].empty() ? 0 : groups[me].size() - 1,
           ends = committed > pending ? committed - pending : 0, at = 0;
    if (!groups[me].empty() && !groups[me].back().products.empty())
        broken("products were not committed");
    for (size_t g = 0; g < ends; g++)
        for (size_t i = 0; i < groups[me][g].products.size(); i++, at++) {
            if (!w.asked[at].decoded) decode(&w.asked[at], groups[me][g].products[i], g, i);
            make_product(groups[me][g].products[i], w.asked[at]);
        }
    yield(WARPGROUP_BARRIER); // all have made them
    groups[me].erase(groups[me].begin(), groups[me].begin() + static_cast<ptrdiff_t>(ends));
    if (me % 128 == 0) w.asked.erase(w.asked.begin(), w.asked.begin() + static_cast<ptrdiff_t>(at));
    yield(WARPGROUP_BARRIER);
}

inline void check_block_end() {
    if (!orders.empty()) broken("a block ended before its copies");
    for (unsigned t = 0; t < THREADS; t++) {
        if (groups[t].size() > 1) broken("a block ended before its products");
        groups[t].clear();
        begun[t] = false;
    }
    for (warpgroup_products &w : warpgroups) w.asked.clear();
}
} // namespace emulation

inline uint32_t shared_address(const void *pointer) {
    return static_cast<uint32_t>(static_cast<const unsigned char *>(pointer) -
                                 emulation::dynamic_shared) +
           emulation::SHARED_FROM;
}
inline float power_of_two(float x) {
    float y = exp2f(x);
    return y < 1.17549435e-38f ? 0 : y;
}

// --- barriers ---
inline void barrier_init(uint64_t *barrier, unsigned arrivals) {
    emulation::block_end = emulation::check_block_end;
    emulation::state_of(barrier) = {static_cast<uint16_t>(arrivals),
                                    static_cast<uint16_t>(arrivals), 0, 0};
}
inline void barriers_made() {}
inline void barrier_arrive(uint64_t *barrier) {
    emulation::barrier_state &b = emulation::state_of(barrier);
    if (b.missing == 0) emulation::broken("one arrival too many");
    b.missing--;
    emulation::end_phase_if_complete(b);
}
inline void barrier_arrive_expecting(uint64_t *barrier, unsigned bytes) {
    emulation::state_of(barrier).bytes += static_cast<int32_t>(bytes);
    barrier_arrive(barrier);
}
// EMULATED_STUCK=1: no barrier ever opens.
inline bool barrier_passed(uint64_t *barrier, unsigned parity) {
    emulation::copies_go_on(barrier);
    bool passed =
        emulation::state_of(barrier).parity != parity && !emulation::number_of("EMULATED_STUCK", 0);
    if (!passed) emulation::yield(emulation::LOOKING_AGAIN);
    return passed;
}
inline long long clock_now() { // a look takes a millisecond or so
    static long long now;
    return now += 1 << 20;
}
inline void trap_with(volatile uint64_t *where, uint64_t code) {
    *where = code;
    emulation::trap();
}

// --- the copy engine ---
inline void box_copy(uint32_t to, const tensor_map *map, unsigned c0, unsigned c1, unsigned c2,
                     unsigned c3, uint64_t *barrier) {
    if (to % 1024) emulation::broken("a swizzled box that is not aligned to its pattern");
    emulation::orders.push_back({to, *map, {c0, c1, c2, c3}, barrier, emulation::draw() % 4});
}
inline void map_fetch(const tensor_map *) {}

template <int N> void registers_give() {}
template <int N> void registers_take() {}

// --- products ---
inline void products_begin() { emulation::begun[threadIdx.x] = true; }
inline void products_commit() {
    if (emulation::groups[threadIdx.x].empty()) emulation::groups[threadIdx.x].emplace_back();
    emulation::groups[threadIdx.x].emplace_back();
}
template <int N> void products_wait() { emulation::wait_for_products(N); }
template <class T, int N> void settle(T (&)[N][4]) {}

template <int N> void multiply(float (&d)[N][4], uint64_t a, uint64_t b, int add) {
    static_assert(N == 8 || N == 16, "");
    emulation::ask({&d[0][0], 8 * N, false, add != 0, a, b, {}, nullptr});
}
template <int N> void multiply_down(float (&d)[N][4], const uint32_t (&a)[4], uint64_t b) {
    static_assert(N == 8 || N == 16, "");
    emulation::ask({&d[0][0], 8 * N, true, true, 0, b, {a[0], a[1], a[2], a[3]}, a});
}

#endif
