// topk2's first pass, the only one over all parameters: delta, error feedback, the check for values
// that are not finite, and the selection of the largest of each chunk. 16 bytes per parameter:
// base, local and e are read once, the new e is written once.
//
// A block of threads takes a chunk, each thread four runs of four neighbours, which stay in its
// registers. The keep-th largest magnitude is found from histograms of the bit patterns in shared
// memory: eleven bits from the top, then ten, then ten more, of those only whose upper bits are the
// bound's; mostly the first two tell all. Then each thread learns by sums over the block how many
// elements in front of its own are above the bound, and how many are equal to it. Integers only
// once the sum is formed, so the choice is codec/select.c's to the last tie.
#include "kernels/cuda/codec.cuh"
#include "kernels/cuda/warp.cuh"

namespace {

constexpr unsigned THREADS = 256, RUN = 4, RUNS = CHUNK / (THREADS * RUN), WARPS = THREADS / WARP;
constexpr unsigned BINS = 2048, BINS_EACH = BINS / THREADS;
static_assert(RUNS * WARPS == WARP, "a warp holds one sum a run and warp");

struct alignas(16) run_of_four {
    float x[RUN];
};

// Elements beyond the chunk's end read as zero.
__device__ __forceinline__ run_of_four load_run(const float *from, unsigned i, unsigned size,
                                                bool vectors) {
    if (vectors) return *reinterpret_cast<const run_of_four *>(from + i);
    run_of_four run;
#pragma unroll
    for (unsigned q = 0; q < RUN; q++) run.x[q] = i + q < size ? from[i + q] : 0.0f;
    return run;
}

__device__ __forceinline__ void store_run(float *to, unsigned i, unsigned size, bool vectors,
                                          const run_of_four &run) {
    if (vectors) {
        *reinterpret_cast<run_of_four *>(to + i) = run;
        return;
    }
#pragma unroll
    for (unsigned q = 0; q < RUN; q++) {
        if (i + q < size) to[i + q] = run.x[q];
    }
}

struct bound {
    uint32_t mask, prefix; // the bits that are known, and what they are
    unsigned wanted;       // of the keys with that prefix, how many are still to be taken
    bool all;              // and there are no more
};

// One digit further. Every thread returns with the same bound.
__device__ __forceinline__ void narrow(struct bound *bound, const run_of_four *runs, unsigned shift,
                                       unsigned bits, unsigned *histogram, unsigned *totals,
                                       unsigned *found) {
#pragma unroll
    for (unsigned b = 0; b < BINS_EACH; b++) histogram[threadIdx.x + b * THREADS] = 0;
    __syncthreads();
#pragma unroll
    for (unsigned j = 0; j < RUNS; j++) {
#pragma unroll
        for (unsigned q = 0; q < RUN; q++) {
            uint32_t key = magnitude_bits(runs[j].x[q]);
            if ((key & bound->mask) == bound->prefix)
                atomicAdd(&histogram[key >> shift & ((1u << bits) - 1)], 1u);
        }
    }
    __syncthreads();
    unsigned top = BINS - 1 - threadIdx.x * BINS_EACH, mine = 0; // thread 0 has the highest bins
#pragma unroll
    for (unsigned b = 0; b < BINS_EACH; b++) mine += histogram[top - b];
    unsigned reach = block_inclusive_sum<THREADS>(mine, totals), above = reach - mine;
    if (above < bound->wanted &&
        bound->wanted <= reach) { // one thread: all together there are enough
        unsigned bin = top;
        for (; above + histogram[bin] < bound->wanted; bin--) above += histogram[bin];
        found[0] = bin;
        found[1] = bound->wanted - above;
        found[2] = histogram[bin];
    }
    __syncthreads();
    bound->mask |= ((1u << bits) - 1) << shift;
    bound->prefix |= found[0] << shift;
    bound->wanted = found[1];
    bound->all = found[1] == found[2];
}

// long: one pass over a chunk whose values stay in registers from the first read to the last write;
// its parts would have to hand all of them over.
__global__ void __launch_bounds__(THREADS, 4) select_chunk(struct selection s) {
    __shared__ unsigned histogram[BINS], totals[WARPS], found[3], sums[WARP];
    size_t first = size_t{blockIdx.x} * CHUNK;
    unsigned size = static_cast<unsigned>(s.count - first < CHUNK ? s.count - first : CHUNK);
    bool vectors = s.aligned && size == CHUNK;

    run_of_four runs[RUNS];
    unsigned long long bad = s.count;
#pragma unroll
    for (unsigned j = 0; j < RUNS; j++) {
        unsigned i = RUN * (threadIdx.x + j * THREADS);
        runs[j] = load_run(s.base + first, i, size, vectors);
        if (s.local) {
            run_of_four local = load_run(s.local + first, i, size, vectors);
#pragma unroll
            for (unsigned q = 0; q < RUN; q++) runs[j].x[q] = __fsub_rn(runs[j].x[q], local.x[q]);
        }
        if (s.e) {
            run_of_four e = load_run(s.e + first, i, size, vectors);
#pragma unroll
            for (unsigned q = 0; q < RUN; q++)
                runs[j].x[q] = __fadd_rn(__fmul_rn(s.decay, e.x[q]), runs[j].x[q]);
            store_run(s.e_out + first, i, size, vectors, runs[j]);
        }
    }
#pragma unroll
    for (unsigned j = 0; j < RUNS; j++) {
#pragma unroll
        for (unsigned q = 0; q < RUN; q++) {
            size_t at = first + RUN * (threadIdx.x + j * THREADS) + q;
            if (magnitude_bits(runs[j].x[q]) >= 0x7F800000u && at < bad) bad = at;
        }
    }
    if (bad < s.count) atomicMin(s.bad, bad);

    struct bound bound = {0, 0, (size * s.keep + CHUNK - 1) / CHUNK, false};
    narrow(&bound, runs, 20, 11, histogram, totals, found);
    if (!bound.all) narrow(&bound, runs, 10, 10, histogram, totals, found);
    if (!bound.all) narrow(&bound, runs, 0, 10, histogram, totals, found);

    // Two counts in one word, elements above the bound low and those equal to it high; by run, then
    // warp, then lane, which is the order of the indices. Zeroes are equal to nothing.
    unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, before[RUNS];
#pragma unroll
    for (unsigned j = 0; j < RUNS; j++) {
        unsigned mine = 0;
#pragma unroll
        for (unsigned q = 0; q < RUN; q++) {
            uint32_t key = magnitude_bits(runs[j].x[q]), known = key & bound.mask;
            mine += known > bound.prefix ? 1u : known == bound.prefix && key != 0 ? 1u << 16 : 0;
        }
        unsigned sum = warp_inclusive_sum(mine);
        before[j] = sum - mine;
        if (lane == WARP - 1) sums[j * WARPS + warp] = sum;
    }
    __syncthreads();
    unsigned of_all = sums[lane], up_to = warp_inclusive_sum(of_all);
    size_t out = size_t{blockIdx.x} * s.keep;
#pragma unroll
    for (unsigned j = 0; j < RUNS; j++) {
        before[j] += __shfl_sync(WHOLE_WARP, up_to - of_all, static_cast<int>(j * WARPS + warp));
        unsigned above = before[j] & 0xFFFF, equal = before[j] >> 16;
#pragma unroll
        for (unsigned q = 0; q < RUN; q++) {
            uint32_t key = magnitude_bits(runs[j].x[q]), known = key & bound.mask;
            bool is_above = known > bound.prefix, is_equal = known == bound.prefix && key != 0;
            if (is_above || (is_equal && equal < bound.wanted)) {
                unsigned slot = above + (equal < bound.wanted ? equal : bound.wanted);
                s.index[out + slot] = static_cast<uint16_t>(RUN * (threadIdx.x + j * THREADS) + q);
                s.value[out + slot] = runs[j].x[q];
            }
            above += is_above;
            equal += is_equal;
        }
    }
    if (threadIdx.x == THREADS - 1) {
        unsigned all = before[RUNS - 1]; // the last thread's last run: add what it holds itself
        unsigned above = all & 0xFFFF, equal = all >> 16;
#pragma unroll
        for (unsigned q = 0; q < RUN; q++) {
            uint32_t key = magnitude_bits(runs[RUNS - 1].x[q]), known = key & bound.mask;
            above += known > bound.prefix;
            equal += known == bound.prefix && key != 0;
        }
        s.sent[blockIdx.x] =
            static_cast<uint16_t>(above + (equal < bound.wanted ? equal : bound.wanted));
    }
}

} // namespace

const char *select_launch(const struct selection &selection) {
    return LAUNCH(select_chunk, static_cast<unsigned>((selection.count + CHUNK - 1) / CHUNK),
                  THREADS, selection);
}
