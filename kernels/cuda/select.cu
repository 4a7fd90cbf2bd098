// topk2's selection, a block of threads a chunk: error feedback is added on the way in, the k-th largest magnitude is found
// digit by digit from histograms of the bit patterns (all in shared memory), and what is at or above it is written out in the
// order of the indices. Integers only once the sum is formed, so the choice is codec/select.c's to the last tie.
#include "kernels/cuda/device.cuh"

namespace {

constexpr unsigned CHUNK = CUDA_SELECT_CHUNK, EACH = CHUNK / BLOCK_THREADS, DIGITS = 256;

// Inclusive sums over the block's threads; `sums` is [BLOCK_THREADS], shared. Returns this thread's.
__device__ unsigned inclusive_sum(unsigned mine, unsigned *sums) {
    sums[threadIdx.x] = mine;
    __syncthreads();
    for (unsigned reach = 1; reach < BLOCK_THREADS; reach *= 2) {
        unsigned before = threadIdx.x >= reach ? sums[threadIdx.x - reach] : 0;
        __syncthreads();
        sums[threadIdx.x] += before;
        __syncthreads();
    }
    unsigned result = sums[threadIdx.x];
    __syncthreads();
    return result;
}

// *bound becomes the keep-th largest key; *equal, how many of the keys equal to it are among the keep largest.
__device__ void find_bound(const uint32_t *key, unsigned keep, unsigned *histogram, uint32_t *bound, unsigned *equal) {
    uint32_t mask = 0;
    if (threadIdx.x == 0) *bound = 0, *equal = keep;
    for (int shift = 24; shift >= 0; shift -= 8) {
        histogram[threadIdx.x] = 0;
        __syncthreads();
        uint32_t prefix = *bound;
        for (unsigned j = 0; j < EACH; j++) {
            uint32_t k = key[threadIdx.x + j * BLOCK_THREADS];
            if ((k & mask) == prefix) atomicAdd(&histogram[k >> shift & (DIGITS - 1)], 1u);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            unsigned wanted = *equal, digit = DIGITS - 1;
            for (; digit > 0 && histogram[digit] < wanted; digit--) wanted -= histogram[digit];
            *bound = prefix | digit << shift;
            *equal = wanted;
        }
        __syncthreads();
        mask |= uint32_t{DIGITS - 1} << shift;
    }
}

__global__ void select_chunk(float *e, const float *base, const float *local, float decay, size_t count, unsigned keep_whole,
                             uint32_t *sent, uint16_t *index, float *value) {
    __shared__ uint32_t key[CHUNK];
    __shared__ unsigned counts[BLOCK_THREADS];
    __shared__ uint32_t bound;
    __shared__ unsigned equal;
    static_assert(BLOCK_THREADS == DIGITS, "a histogram has a counter a thread");

    size_t first = size_t{blockIdx.x} * CHUNK;
    unsigned size = static_cast<unsigned>(count - first < CHUNK ? count - first : CHUNK);
    unsigned keep = (size * keep_whole + CHUNK - 1) / CHUNK;
    for (unsigned j = 0; j < EACH; j++) {
        unsigned i = threadIdx.x + j * BLOCK_THREADS;
        uint32_t bits = 0; // beyond the end: a zero, which is never sent
        if (i < size) {
            float x = __fadd_rn(__fmul_rn(decay, e[first + i]), __fsub_rn(base[first + i], local[first + i]));
            e[first + i] = x;
            bits = __float_as_uint(x) & 0x7FFFFFFFu;
        }
        key[i] = bits;
    }
    __syncthreads();
    find_bound(key, keep, counts, &bound, &equal);

    // From here on a thread owns EACH neighbours, so that the order of threads is the order of indices.
    unsigned from = threadIdx.x * EACH, mine_equal = 0, mine = 0;
    for (unsigned i = from; i < from + EACH; i++) mine_equal += key[i] == bound;
    unsigned seen = inclusive_sum(mine_equal, counts) - mine_equal;
    bool ties = bound != 0;
    for (unsigned i = from, at = seen; i < from + EACH; i++) {
        mine += key[i] > bound || (key[i] == bound && ties && at < equal);
        at += key[i] == bound;
    }
    unsigned total = inclusive_sum(mine, counts), slot = total - mine;
    if (threadIdx.x == BLOCK_THREADS - 1) sent[blockIdx.x] = total;
    size_t out = size_t{blockIdx.x} * keep_whole;
    for (unsigned i = from; i < from + EACH; i++) {
        bool chosen = key[i] > bound || (key[i] == bound && ties && seen < equal);
        seen += key[i] == bound;
        if (!chosen) continue;
        index[out + slot] = static_cast<uint16_t>(i);
        value[out + slot] = e[first + i];
        slot++;
    }
}

} // namespace

const char *select_launch(struct device_memory e, struct device_memory base, struct device_memory local, float decay,
                          size_t count, uint32_t keep, struct device_memory sent, struct device_memory index,
                          struct device_memory value) {
    if (keep == 0 || keep > CUDA_SELECT_MAX) return fail(CUDA_FAILURE_INPUT, "keep is %u, wanted 1 to %d", keep, CUDA_SELECT_MAX);
    size_t chunks = (count + CHUNK - 1) / CHUNK;
    if (chunks == 0) return nullptr;
    if (chunks > 0x7FFFFFFF) return fail(CUDA_FAILURE_INPUT, "%zu elements are too many for one launch", count);
    return LAUNCH(select_chunk, static_cast<unsigned>(chunks), BLOCK_THREADS, floats(e), floats(base), floats(local), decay,
                  count, keep, device_pointer<uint32_t>(sent), device_pointer<uint16_t>(index), floats(value));
}
