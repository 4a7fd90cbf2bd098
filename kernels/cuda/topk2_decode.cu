// topk2's messages on their way back: a step of the outer optimizer over several, or one added to
// what is there. The places of the chunks in a message's stream come from the host, whose check of
// the message has walked it anyway.
#include "kernels/cuda/topk2.cuh"

namespace {

constexpr unsigned PARTS_AT_ONCE = 16;

struct stream_reader {
    const uint32_t *word;
    size_t at, end; // bits

    // The next 32 bits; zeroes beyond the end, so that garbage ends.
    __device__ uint32_t peek() const {
        if (at >= end) return 0;
        uint64_t pair = word[at / 32] | uint64_t{word[at / 32 + 1]} << 32;
        return static_cast<uint32_t>(pair >> at % 32);
    }
    __device__ uint32_t get(unsigned bits) { // bits < 32
        uint32_t value = peek() & ((1u << bits) - 1);
        at += bits;
        return value;
    }
    __device__ unsigned get_unary() {
        unsigned zeroes = 0;
        for (uint32_t next = peek(); at < end; next = peek()) {
            if (next) {
                unsigned run = static_cast<unsigned>(__ffs(static_cast<int>(next))) - 1;
                at += run + 1;
                return zeroes + run;
            }
            zeroes += 32;
            at += 32;
        }
        return zeroes;
    }
};

struct part {
    const uint32_t *message;
    const unsigned long long *places;
    size_t end; // of the message, in bits
    float scale;
};

// The elements of a chunk, its place known: index [KEEP_MAX], value [KEEP_MAX]. Returns how many.
// Whatever the bits are, indices stay within `size`.
__device__ unsigned decode_chunk(const struct part &part, shape form, size_t c, unsigned size,
                                 uint16_t *index, float *value) {
    unsigned long long place = part.places[c];
    stream_reader in = {part.message, STREAM_AT + (place & 0xFFFFFFFFFFFFull), part.end};
    unsigned keep = (size * form.keep + CHUNK - 1) / CHUNK, rice = form.usual_rice, sent = keep;
    if (!in.get(1)) {
        rice = in.get(RICE_BITS);
        sent = in.get(form.sent_bits);
        sent = sent < keep ? sent : keep;
        if (sent == 0) return 0;
    }
    if (place >> 63) { // there is a shift
        unsigned width = in.get_unary();
        in.at += width;
    }
    int shift = static_cast<int>(place >> 48 & 0x7FFF) - CUDA_PLACE_SHIFT_ZERO;
    float scale = power_of_two(shift < -SHIFT_MAX  ? -SHIFT_MAX
                               : shift > SHIFT_MAX ? SHIFT_MAX
                                                   : shift);
    unsigned next = 0;
    for (unsigned j = 0; j < sent; j++) {
        unsigned gap = in.get_unary() << rice;
        uint32_t rest = in.get(rice + 1);
        gap |= rest & ((1u << rice) - 1);
        if (gap >= size - next) return j; // never in a message that was checked
        index[j] = static_cast<uint16_t>(next + gap);
        value[j] = (rest >> rice & 1) ? -1.0f : 1.0f; // the sign, until the runs are read
        next += gap + 1;
    }
    uint8_t run_rice =
        reinterpret_cast<const uint8_t *>(part.message)[HEADER_SIZE + 4 * TABLE] & 15;
    const uint32_t *table = part.message + HEADER_SIZE / 4;
    for (unsigned at = 0;;) {
        unsigned run = in.get_unary() << run_rice;
        run |= in.get(run_rice);
        unsigned stop = run < sent - at ? at + run : sent;
        for (; at < stop; at++)
            value[at] = __fmul_rn(__uint_as_float(table[value[at] < 0 ? 2 : 0]), scale);
        if (at >= sent) return sent;
        value[at] = __fmul_rn(__uint_as_float(table[value[at] < 0 ? 3 : 1]), scale);
        at++;
    }
}

struct part_list {
    unsigned count;
    struct part part[CUDA_PARTS_MAX];
};

struct round_of {
    float *theta, *sum;
    uint16_t *senders;
    float rate;
};

// As elementwise_scatter_mean for one element.
__device__ void merge_element(const struct round_of &round, size_t i, float scale, float value) {
    unsigned n = round.senders[i];
    float sum = round.sum[i], before = n > 0 ? __fdiv_rn(sum, static_cast<float>(n)) : 0.0f;
    sum = __fadd_rn(sum, __fmul_rn(scale, value));
    float after = __fdiv_rn(sum, static_cast<float>(n + 1));
    round.sum[i] = sum;
    round.senders[i] = static_cast<uint16_t>(n + 1);
    round.theta[i] = __fsub_rn(round.theta[i], __fmul_rn(round.rate, __fsub_rn(after, before)));
}

// A block takes a chunk: its messages are decoded side by side, a thread each, and merged in their
// order.
__global__ void __launch_bounds__(CHUNK_THREADS)
    step_chunk(struct part_list list, shape form, size_t count, struct round_of round) {
    __shared__ float value[PARTS_AT_ONCE][KEEP_MAX];
    __shared__ uint16_t index[PARTS_AT_ONCE][KEEP_MAX];
    __shared__ unsigned sent[PARTS_AT_ONCE];
    size_t c = blockIdx.x, first = c * CHUNK;
    unsigned size = static_cast<unsigned>(count - first < CHUNK ? count - first : CHUNK);
    for (unsigned from = 0; from < list.count; from += PARTS_AT_ONCE) {
        unsigned parts = list.count - from < PARTS_AT_ONCE ? list.count - from : PARTS_AT_ONCE;
        unsigned k = threadIdx.x / (CHUNK_THREADS / PARTS_AT_ONCE);
        if (threadIdx.x % (CHUNK_THREADS / PARTS_AT_ONCE) == 0 && k < parts)
            sent[k] = decode_chunk(list.part[from + k], form, c, size, index[k], value[k]);
        __syncthreads();
        for (k = 0; k < parts; k++) {
            if (threadIdx.x < sent[k])
                merge_element(round, first + index[k][threadIdx.x], list.part[from + k].scale,
                              value[k][threadIdx.x]);
            __syncthreads();
        }
    }
}

__global__ void __launch_bounds__(CHUNK_THREADS)
    add_chunk(struct part part, shape form, size_t count, float *target) {
    __shared__ float value[KEEP_MAX];
    __shared__ uint16_t index[KEEP_MAX];
    __shared__ unsigned sent;
    size_t c = blockIdx.x, first = c * CHUNK;
    unsigned size = static_cast<unsigned>(count - first < CHUNK ? count - first : CHUNK);
    if (threadIdx.x == 0) sent = decode_chunk(part, form, c, size, index, value);
    __syncthreads();
    if (threadIdx.x >= sent) return;
    float *at = target + first + index[threadIdx.x];
    *at = __fadd_rn(*at, __fmul_rn(part.scale, value[threadIdx.x]));
}

struct part part_of(const struct cuda_part *part) {
    return {device_pointer<uint32_t>(part->message),
            device_pointer<unsigned long long>(part->places), 8 * part->size, part->scale};
}

} // namespace

const char *topk2_step(uint32_t codec, size_t count, const struct cuda_part *parts,
                       uint32_t part_count, float rate, const struct cuda_round *round) {
    if (part_count > CUDA_PARTS_MAX)
        return fail(CUDA_FAILURE_INPUT, "%u parts of a step, at most %d", part_count,
                    CUDA_PARTS_MAX);
    if (count == 0 || part_count == 0) return nullptr;
    struct part_list list = {};
    list.count = part_count;
    for (uint32_t i = 0; i < part_count; i++) list.part[i] = part_of(&parts[i]);
    return LAUNCH(step_chunk, static_cast<unsigned>(chunks_of(count)), CHUNK_THREADS, list,
                  shape_of(codec), count,
                  round_of{floats(round->theta), floats(round->sum),
                           device_pointer<uint16_t>(round->senders), rate});
}

const char *topk2_add(uint32_t codec, size_t count, const struct cuda_part *part, float *target) {
    if (count == 0) return nullptr;
    return LAUNCH(add_chunk, static_cast<unsigned>(chunks_of(count)), CHUNK_THREADS, part_of(part),
                  shape_of(codec), count, target);
}
