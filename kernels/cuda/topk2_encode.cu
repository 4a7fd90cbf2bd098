// topk2 after its selection. After select.cu there is one element in 64 (32) left, so that here a
// thread takes a whole chunk and does what codec/topk2.c does, in its order: every sum in double
// has the CPU's bits.
//
// It is a row of short launches, because each needs sums over all chunks of the one before:
//     magnitudes of the chunks -> their sum -> shifts -> sum of squares -> codes -> table ->
//     lengths in bits -> places -> bits
// The sums over chunks go from left to right, one addition after the other: that is their contract.
// One thread does them out of shared memory while its block loads what comes next; at 124 M
// parameters that is 30,000 additions, three times.
#include <cfloat>
#include <cstdint>

#include "kernels/cuda/topk2.cuh"
#include "kernels/cuda/warp.cuh"

namespace {

constexpr unsigned FOLD_THREADS = 256, FOLD_TILE = 1024, SCAN_THREADS = 1024;
constexpr unsigned RICE_MAX = 12, RUN_RICE_MAX = 7, CODE_WORDS = KEEP_MAX / 32;
constexpr double LARGE_SQUARED = 1.5 * 1.5, SQRT_2 = 1.41421356237309504880;

unsigned blocks_of(size_t chunks) {
    return static_cast<unsigned>((chunks + CHUNK_THREADS - 1) / CHUNK_THREADS);
}

struct summary { // of one encoding; zeroed except bad and first_sent
    unsigned long long bad, entries, first_sent, run_cost[RUN_RICE_MAX + 1], members[TABLE], bits;
    double total, squares;
    int largest_shift;
    uint32_t table[TABLE];
    unsigned run_rice;
};

struct plan { // where everything is
    shape form;
    uint32_t codec;
    size_t count, chunks;
    summary *sum;
    double *magnitude, *part;  // [chunks]; [TABLE][chunks]
    unsigned long long *place; // [chunks]: the chunk's first bit in the stream
    uint32_t *code, *length;   // [chunks][CODE_WORDS], a bit per element: large; [chunks], bits
    int *shift;                // [chunks]
    float *value;              // [chunks][keep]
    uint16_t *sent, *index;    // [chunks]; [chunks][keep]
    uint8_t *form_of;          // [chunks]: 16 for the usual form, else the Rice parameter
    float *e_out;              // may be NULL
    uint32_t *message;
};

__device__ __forceinline__ size_t chunk_of_thread() {
    return size_t{blockIdx.x} * blockDim.x + threadIdx.x;
}

// --- sums over the chunks, from left to right ---

// result[c] = Σ columns[c][0 … count), for the threads c < COLUMNS. `tile` is shared.
template <unsigned COLUMNS>
__device__ void fold(const double *columns, size_t count, double (*tile)[FOLD_TILE],
                     double *result) {
    constexpr unsigned EACH = FOLD_TILE / FOLD_THREADS;
    double next[COLUMNS][EACH], sum = 0;
    for (size_t at = 0; at < count; at += FOLD_TILE) {
#pragma unroll
        for (unsigned c = 0; c < COLUMNS; c++) {
#pragma unroll
            for (unsigned k = 0; k < EACH; k++) {
                size_t i = at + threadIdx.x + k * FOLD_THREADS;
                next[c][k] = i < count ? columns[c * count + i] : 0.0;
            }
        }
        __syncthreads(); // the last tile has been added
#pragma unroll
        for (unsigned c = 0; c < COLUMNS; c++) {
#pragma unroll
            for (unsigned k = 0; k < EACH; k++)
                tile[c][threadIdx.x + k * FOLD_THREADS] = next[c][k];
        }
        __syncthreads();
        if (threadIdx.x < COLUMNS) {
#pragma unroll 32
            for (unsigned i = 0; i < FOLD_TILE; i++)
                sum = __dadd_rn(sum, tile[threadIdx.x][i]); // + 0 beyond the end
        }
    }
    if (threadIdx.x < COLUMNS) result[threadIdx.x] = sum;
    __syncthreads();
}

__global__ void __launch_bounds__(FOLD_THREADS) fold_magnitudes(struct plan p) {
    __shared__ double tile[1][FOLD_TILE], sum[1];
    fold<1>(p.magnitude, p.chunks, tile, sum);
    if (threadIdx.x == 0) p.sum->total = sum[0];
}

__global__ void __launch_bounds__(FOLD_THREADS) fold_squares(struct plan p) {
    __shared__ double tile[1][FOLD_TILE], sum[1];
    fold<1>(p.part, p.chunks, tile, sum);
    if (threadIdx.x == 0) p.sum->squares = sum[0];
}

// --- a chunk's sums ---

__global__ void __launch_bounds__(CHUNK_THREADS) sum_magnitudes(struct plan p) {
    __shared__ unsigned entries;
    if (threadIdx.x == 0) entries = 0;
    __syncthreads();
    size_t c = chunk_of_thread();
    if (c < p.chunks) {
        unsigned sent = p.sent[c];
        const float *value = p.value + c * p.form.keep;
        double magnitude = 0;
        for (unsigned j = 0; j < sent; j++) {
            double x = static_cast<double>(value[j]);
            magnitude = __dadd_rn(magnitude, x < 0 ? -x : x);
        }
        p.magnitude[c] = magnitude;
        atomicAdd(&entries, sent);
        if (sent > 0) atomicMin(&p.sum->first_sent, static_cast<unsigned long long>(c));
    }
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(&p.sum->entries, static_cast<unsigned long long>(entries));
}

// log2, to the nearest integer; positive and normal.
__device__ __forceinline__ int nearest_log2(double value) {
    long long bits = __double_as_longlong(value);
    int exponent = static_cast<int>(bits >> 52) - 1023;
    return exponent + (__longlong_as_double((bits & 0xFFFFFFFFFFFFFll) | 1023ll << 52) >= SQRT_2);
}

__device__ __forceinline__ int log2_over_mean(const struct plan &p, size_t c, double mean) {
    return nearest_log2(__ddiv_rn(__ddiv_rn(p.magnitude[c], static_cast<double>(p.sent[c])), mean));
}

// An element over its chunk's scale; exact.
__device__ __forceinline__ double normalised(float value, float down) {
    return __dmul_rn(static_cast<double>(value), static_cast<double>(down));
}

__global__ void __launch_bounds__(CHUNK_THREADS) choose_shifts(struct plan p) {
    size_t c = chunk_of_thread();
    if (c >= p.chunks) return;
    unsigned sent = p.sent[c];
    double part = 0;
    int shift = 0;
    if (sent > 0) {
        double mean = __ddiv_rn(p.sum->total, static_cast<double>(p.sum->entries));
        shift = log2_over_mean(p, c, mean) - log2_over_mean(p, p.sum->first_sent, mean);
        shift = shift > SHIFT_MAX ? SHIFT_MAX : shift < -SHIFT_MAX ? -SHIFT_MAX : shift;
        if (shift > 0) atomicMax(&p.sum->largest_shift, shift);
        const float *value = p.value + c * p.form.keep;
        float down = power_of_two(-shift);
        for (unsigned j = 0; j < sent; j++) {
            double x = normalised(value[j], down);
            part = __dadd_rn(part, __dmul_rn(x, x));
        }
    }
    p.shift[c] = shift;
    p.part[c] = part;
}

// --- codes ---

// Calls use(run) for each run of elements that are not large, the one at the end included.
template <class Use>
__device__ __forceinline__ void for_each_run(const uint32_t *code, unsigned sent, Use use) {
    unsigned from = 0;
    for (unsigned word = 0; word * 32 < sent; word++) {
        for (uint32_t left = code[word]; left; left &= left - 1) {
            unsigned j = word * 32 + static_cast<unsigned>(__ffs(static_cast<int>(left))) - 1;
            use(j - from);
            from = j + 1;
        }
    }
    use(sent - from);
}

__global__ void __launch_bounds__(CHUNK_THREADS) choose_codes(struct plan p) {
    __shared__ unsigned cost[RUN_RICE_MAX + 1],
        members[TABLE]; // of a block's chunks: far below 2^32
    if (threadIdx.x <= RUN_RICE_MAX) cost[threadIdx.x] = 0;
    if (threadIdx.x < TABLE) members[threadIdx.x] = 0;
    __syncthreads();
    size_t c = chunk_of_thread();
    if (c < p.chunks) {
        unsigned sent = p.sent[c];
        double entries = static_cast<double>(p.sum->entries),
               limit = __dmul_rn(LARGE_SQUARED, p.sum->squares);
        const float *value = p.value + c * p.form.keep;
        float down = power_of_two(-p.shift[c]);
        double part[TABLE] = {0, 0, 0, 0};
        unsigned in_bin[TABLE] = {0, 0, 0, 0};
        uint32_t large[CODE_WORDS] = {0, 0, 0, 0};
#pragma unroll
        for (unsigned word = 0; word < CODE_WORDS; word++) {
            unsigned end = sent < word * 32 + 32 ? sent : word * 32 + 32;
            for (unsigned j = word * 32; j < end; j++) {
                double x = normalised(value[j], down);
                bool is_large = __dmul_rn(__dmul_rn(x, x), entries) >= limit;
                unsigned code = (x < 0 ? 2u : 0u) | is_large;
                double size = x < 0 ? -x : x;
#pragma unroll
                for (unsigned b = 0; b < TABLE;
                     b++) { // no register array has an index that is not known
                    if (code == b) part[b] = __dadd_rn(part[b], size), in_bin[b]++;
                }
                large[word] |= static_cast<uint32_t>(is_large) << (j & 31);
            }
            p.code[c * CODE_WORDS + word] = large[word];
        }
#pragma unroll
        for (unsigned b = 0; b < TABLE; b++) {
            p.part[b * p.chunks + c] = part[b];
            if (in_bin[b]) atomicAdd(&members[b], in_bin[b]);
        }
        if (sent > 0) {
            unsigned mine[RUN_RICE_MAX + 1] = {0};
            for_each_run(p.code + c * CODE_WORDS, sent, [&mine](unsigned run) {
#pragma unroll
                for (unsigned rice = 0; rice <= RUN_RICE_MAX; rice++)
                    mine[rice] += 1 + rice + (run >> rice);
            });
#pragma unroll
            for (unsigned rice = 0; rice <= RUN_RICE_MAX; rice++)
                atomicAdd(&cost[rice], mine[rice]);
        }
    }
    __syncthreads();
    if (threadIdx.x <= RUN_RICE_MAX)
        atomicAdd(&p.sum->run_cost[threadIdx.x],
                  static_cast<unsigned long long>(cost[threadIdx.x]));
    if (threadIdx.x < TABLE)
        atomicAdd(&p.sum->members[threadIdx.x],
                  static_cast<unsigned long long>(members[threadIdx.x]));
}

__device__ void put_bytes(uint8_t *to, unsigned long long value, unsigned bytes) {
    for (unsigned b = 0; b < bytes; b++) to[b] = static_cast<uint8_t>(value >> 8 * b);
}

// The table, the runs' parameter, and the message up to the stream.
__global__ void __launch_bounds__(FOLD_THREADS) make_table(struct plan p) {
    __shared__ double tile[TABLE][FOLD_TILE], sum[TABLE];
    fold<TABLE>(p.part, p.chunks, tile, sum);
    if (threadIdx.x != 0) return;
    unsigned best = 0;
    for (unsigned rice = 1; rice <= RUN_RICE_MAX; rice++) {
        if (p.sum->run_cost[rice] < p.sum->run_cost[best]) best = rice;
    }
    p.sum->run_rice = best;
    double most = __dmul_rn(static_cast<double>(FLT_MAX),
                            static_cast<double>(power_of_two(-p.sum->largest_shift))),
           least = FLT_MIN;
    uint8_t *out = reinterpret_cast<uint8_t *>(p.message);
    out[0] = static_cast<uint8_t>(p.codec);
    out[1] = 1;
    out[2] = out[3] = 0;
    put_bytes(out + 4, p.count, 8);
    for (unsigned code = 0; code < TABLE; code++) {
        uint32_t entry = 0;
        if (p.sum->members[code] > 0) {
            double mean = __ddiv_rn(sum[code], static_cast<double>(p.sum->members[code]));
            mean = mean > least ? mean : least;
            mean = mean < most ? mean : most;
            entry = __float_as_uint(__double2float_rn(mean)) | code >> 1 << 31;
        }
        p.sum->table[code] = entry;
        put_bytes(out + HEADER_SIZE + 4 * code, entry, 4);
    }
    out[HEADER_SIZE + 4 * TABLE] = static_cast<uint8_t>(best);
}

// --- places ---

// The shift's difference to that of the last chunk before c that sends anything; false where there
// is none.
__device__ bool shift_difference(const struct plan &p, size_t c, int *difference) {
    for (size_t before = c; before > p.sum->first_sent;) {
        if (p.sent[--before] == 0) continue;
        *difference = p.shift[c] - p.shift[before];
        return true;
    }
    return false;
}

__device__ __forceinline__ unsigned gamma_of(int difference) {
    return 1 + static_cast<unsigned>(difference < 0 ? -2 * difference - 1 : 2 * difference);
}
__device__ __forceinline__ unsigned gamma_width(unsigned gamma) {
    return 31 - static_cast<unsigned>(__clz(static_cast<int>(gamma)));
}

constexpr unsigned USUAL = 16;

__global__ void __launch_bounds__(CHUNK_THREADS) measure(struct plan p) {
    size_t c = chunk_of_thread();
    if (c >= p.chunks) return;
    unsigned sent = p.sent[c], length = 1 + RICE_BITS + p.form.sent_bits, form = 0;
    if (sent > 0) {
        size_t left = p.count - c * CHUNK;
        unsigned size = left < CHUNK ? static_cast<unsigned>(left) : CHUNK,
                 keep = (size * p.form.keep + CHUNK - 1) / CHUNK;
        unsigned cost[RICE_MAX + 1], next = 0;
#pragma unroll
        for (unsigned rice = 0; rice <= RICE_MAX; rice++) cost[rice] = sent * (1 + rice);
        const uint16_t *index = p.index + c * p.form.keep;
        for (unsigned j = 0; j < sent; j++) {
            unsigned gap = index[j] - next;
#pragma unroll
            for (unsigned rice = 0; rice <= RICE_MAX; rice++) cost[rice] += gap >> rice;
            next = index[j] + 1u;
        }
        unsigned least = cost[0], usual = 0;
#pragma unroll
        for (unsigned rice = 1; rice <= RICE_MAX; rice++) {
            if (cost[rice] < least) least = cost[rice], form = rice;
        }
#pragma unroll
        for (unsigned rice = 0; rice <= RICE_MAX; rice++) {
            if (rice == p.form.usual_rice) usual = cost[rice];
        }
        length += least;
        if (sent == keep && usual <= RICE_BITS + p.form.sent_bits + least)
            form = USUAL, length = 1 + usual;
        int difference;
        if (shift_difference(p, c, &difference))
            length += 2 * gamma_width(gamma_of(difference)) + 1;
        length += sent; // signs
        unsigned rice = p.sum->run_rice;
        for_each_run(p.code + c * CODE_WORDS, sent,
                     [&](unsigned run) { length += (run >> rice) + 1 + rice; });
    }
    p.form_of[c] = static_cast<uint8_t>(form);
    p.length[c] = length;
}

// Exclusive sums of the lengths: each thread has a stretch of chunks.
__global__ void __launch_bounds__(SCAN_THREADS) find_places(struct plan p) {
    __shared__ unsigned long long sums[SCAN_THREADS];
    size_t each = (p.chunks + SCAN_THREADS - 1) / SCAN_THREADS, from = each * threadIdx.x,
           to = from + each;
    from = from < p.chunks ? from : p.chunks;
    to = to < p.chunks ? to : p.chunks;
    unsigned long long mine = 0;
    for (size_t c = from; c < to; c++) mine += p.length[c];
    sums[threadIdx.x] = mine;
    __syncthreads();
    for (unsigned reach = 1; reach < SCAN_THREADS; reach *= 2) {
        unsigned long long before = threadIdx.x >= reach ? sums[threadIdx.x - reach] : 0;
        __syncthreads();
        sums[threadIdx.x] += before;
        __syncthreads();
    }
    unsigned long long at = sums[threadIdx.x] - mine;
    for (size_t c = from; c < to; c++) {
        p.place[c] = at;
        at += p.length[c];
    }
    if (threadIdx.x == SCAN_THREADS - 1) p.sum->bits = sums[threadIdx.x];
}

// --- bits ---

// Little-endian words that are zero at first. The first and the last may be shared with a
// neighbour: those are or-ed.
struct packer {
    uint32_t *word;
    uint64_t held;
    unsigned count;
    bool first;

    __device__ packer(uint32_t *message, size_t at)
        : word(message + at / 32), held(0), count(at % 32), first(true) {}
    __device__ void put(uint32_t value, unsigned bits) { // bits <= 32
        held |= uint64_t{value} << count;
        count += bits;
        if (count < 32) return;
        if (first)
            atomicOr(word, static_cast<uint32_t>(held));
        else
            *word = static_cast<uint32_t>(held);
        first = false;
        word++;
        held >>= 32;
        count -= 32;
    }
    __device__ void put_unary(unsigned zeroes) {
        for (; zeroes >= 31; zeroes -= 31) put(0, 31);
        put(1u << zeroes, zeroes + 1);
    }
    __device__ void finish() {
        if (count > 0) atomicOr(word, static_cast<uint32_t>(held));
    }
};

// Writes a chunk's bits, and takes what they will be decoded to from e.
__global__ void __launch_bounds__(CHUNK_THREADS) pack(struct plan p) {
    size_t c = chunk_of_thread();
    if (c >= p.chunks) return;
    unsigned sent = p.sent[c], form = p.form_of[c], rice = form == USUAL ? p.form.usual_rice : form;
    packer out(p.message, STREAM_AT + p.place[c]);
    out.put(form == USUAL, 1);
    if (form != USUAL) {
        out.put(rice, RICE_BITS);
        out.put(sent, p.form.sent_bits);
    }
    if (sent > 0) {
        int difference;
        if (shift_difference(p, c, &difference)) {
            unsigned gamma = gamma_of(difference), width = gamma_width(gamma);
            out.put_unary(width);
            out.put(gamma & ((1u << width) - 1), width);
        }
        const uint32_t *code = p.code + c * CODE_WORDS;
        const uint16_t *index = p.index + c * p.form.keep;
        const float *value = p.value + c * p.form.keep;
        float scale = power_of_two(p.shift[c]);
        unsigned next = 0;
        for (unsigned j = 0; j < sent; j++) {
            unsigned i = index[j], gap = i - next, negative = value[j] < 0,
                     large = code[j / 32] >> (j % 32) & 1;
            out.put_unary(gap >> rice);
            out.put((gap & ((1u << rice) - 1)) | negative << rice, rice + 1);
            next = i + 1;
            if (p.e_out)
                p.e_out[c * CHUNK + i] = __fsub_rn(
                    value[j],
                    __fmul_rn(__uint_as_float(p.sum->table[2 * negative + large]), scale));
        }
        unsigned run_rice = p.sum->run_rice;
        for_each_run(code, sent, [&](unsigned run) {
            out.put_unary(run >> run_rice);
            out.put(run & ((1u << run_rice) - 1), run_rice);
        });
    }
    out.finish();
}

// --- encoding, as a whole ---

struct arena {
    size_t at;
    template <class T> T *take(char *base, size_t count) {
        size_t here = at;
        at = (at + count * sizeof(T) + 255) / 256 * 256;
        return base ? reinterpret_cast<T *>(base + here) : nullptr;
    }
};

size_t lay_out(uint32_t codec, size_t count, char *base, struct plan *p) {
    arena arena = {0};
    size_t chunks = chunks_of(count), entries = chunks * shape_of(codec).keep;
    *p = {};
    p->form = shape_of(codec);
    p->codec = codec;
    p->count = count;
    p->chunks = chunks;
    p->sum = arena.take<summary>(base, 1);
    p->magnitude = arena.take<double>(base, chunks);
    p->part = arena.take<double>(base, TABLE * chunks);
    p->place = arena.take<unsigned long long>(base, chunks);
    p->code = arena.take<uint32_t>(base, CODE_WORDS * chunks);
    p->length = arena.take<uint32_t>(base, chunks);
    p->shift = arena.take<int>(base, chunks);
    p->value = arena.take<float>(base, entries);
    p->sent = arena.take<uint16_t>(base, chunks);
    p->index = arena.take<uint16_t>(base, entries);
    p->form_of = arena.take<uint8_t>(base, chunks);
    return arena.at;
}

// As topk2_payload_bound.
size_t message_bound(uint32_t codec, size_t count) {
    shape form = shape_of(codec);
    size_t chunks = chunks_of(count), entries = chunks * form.keep;
    size_t bits = chunks * (1 + 1 + RICE_BITS + form.sent_bits + 17 + (CHUNK >> form.usual_rice)) +
                  entries * (1 + form.usual_rice + 2);
    return HEADER_SIZE + PREFIX_SIZE + (bits + 7) / 8;
}

} // namespace

void topk2_sizes(uint32_t codec, size_t count, struct cuda_codec_sizes *out) {
    struct plan p;
    out->message = (message_bound(codec, count) + 16 + 15) / 16 * 16;
    out->scratch = lay_out(codec, count, nullptr, &p);
}

const char *topk2_encode(const struct cuda_encoding *encoding, struct cuda_encoded *out) {
    struct cuda_codec_sizes sizes;
    struct plan p;
    topk2_sizes(encoding->codec, encoding->count, &sizes);
    lay_out(encoding->codec, encoding->count, device_pointer<char>(encoding->scratch), &p);
    p.e_out = floats(encoding->e_out);
    p.message = device_pointer<uint32_t>(encoding->message);
    cudaStream_t stream = current_stream();
    summary start = {};
    start.bad = p.count;
    start.first_sent = p.chunks;
    TRY_CUDA(cudaMemcpyAsync(p.sum, &start, sizeof start, cudaMemcpyHostToDevice, stream));
    TRY_CUDA(cudaMemsetAsync(p.message, 0, sizes.message, stream));
    uint64_t addresses = encoding->base.address | encoding->local.address | encoding->e.address |
                         encoding->e_out.address;
    selection selection = {floats(encoding->base),
                           floats(encoding->local),
                           floats(encoding->e),
                           p.e_out,
                           p.count,
                           encoding->decay,
                           p.form.keep,
                           addresses % 16 == 0,
                           &p.sum->bad,
                           p.sent,
                           p.index,
                           p.value};
    unsigned blocks = blocks_of(p.chunks);
    if (p.chunks > 0) {
        TRY_CUDA(select_launch(selection));
        TRY_CUDA(LAUNCH(sum_magnitudes, blocks, CHUNK_THREADS, p));
        TRY_CUDA(LAUNCH(fold_magnitudes, 1, FOLD_THREADS, p));
        TRY_CUDA(LAUNCH(choose_shifts, blocks, CHUNK_THREADS, p));
        TRY_CUDA(LAUNCH(fold_squares, 1, FOLD_THREADS, p));
        TRY_CUDA(LAUNCH(choose_codes, blocks, CHUNK_THREADS, p));
    }
    TRY_CUDA(LAUNCH(make_table, 1, FOLD_THREADS, p));
    if (p.chunks > 0) {
        TRY_CUDA(LAUNCH(measure, blocks, CHUNK_THREADS, p));
        TRY_CUDA(LAUNCH(find_places, 1, SCAN_THREADS, p));
        TRY_CUDA(LAUNCH(pack, blocks, CHUNK_THREADS, p));
    }
    summary end;
    TRY_CUDA(cudaMemcpyAsync(&end, p.sum, sizeof end, cudaMemcpyDeviceToHost, stream));
    TRY_CUDA(cudaStreamSynchronize(stream));
    out->bad = end.bad;
    out->size = HEADER_SIZE + PREFIX_SIZE + (end.bits + 7) / 8;
    return nullptr;
}
