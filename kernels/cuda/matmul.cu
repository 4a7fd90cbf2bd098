// Matrix products by cuBLASLt. Its matrices are column-major: what is [rows][columns] here is its
// [columns][rows], so that a product is asked for with its two sides and its result transposed:
//     y  = x W^T       as  y^T  [out][rows] = (W^T)^T x^T      transposed W [in][out], x [in][rows]
//     dx = dy W        as  dx^T [in][rows]  = W^T dy^T         W [in][out], dy [out][rows]
//     dw = dy^T x      as  dw^T [in][out]   = x^T dy
//                                              x [in][rows], transposed dy [out][rows]
// Sums are fp32. The residual is added (beta 1) and gradients are added up (beta 1, in place) by
// the product itself.
//
// Which of the library's algorithms is fastest for a shape is found by timing them, once: the
// answer is kept in the session and, by device, driver and library version, in a file of text
// lines, each with a checksum. A file that is not exactly what this session would write is ignored,
// line by line, and so is an algorithm that the library no longer accepts.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "kernels/cuda/blas_library.cuh"
#include "kernels/cuda/cache_file.cuh"
#include "kernels/cuda/training.cuh"

namespace {

constexpr int CANDIDATES = 16, TIMED_RUNS = 5;
constexpr unsigned CHOICES_MAX = 256;

struct shape {
    uint32_t kind, rows, out, in, out_stride, accumulate;
    bool operator==(const shape &o) const { return memcmp(this, &o, sizeof o) == 0; }
};

struct choice {
    shape of;
    cublasLtMatmulAlgo_t algorithm;
};

// all that a call needs, made anew for each: they are small, and a step is recorded once
struct product {
    cublasLtMatmulDesc_t what;
    cublasLtMatrixLayout_t left, right, result;
};

} // namespace

struct matmul_state {
    blas_library blas;
    cublasLtHandle_t handle;
    cache_file cache;
    choice choices[CHOICES_MAX];
    unsigned choice_count;
};

namespace {

const char *blas_answer(const matmul_state *state, cublasStatus_t status, const char *what) {
    if (status == CUBLAS_STATUS_SUCCESS) return nullptr;
    const char *lost = launched("cuBLASLt"); // the library says "execution failed" of a lost device
    if (lost) return lost;
    return fail(CUDA_FAILURE_OTHER, "%s: %s", what, state->blas.text(status));
}

shape shape_of(const struct cuda_matmul *m) {
    return shape{
        static_cast<uint32_t>(m->kind), m->rows, m->out, m->in, m->out_stride, m->accumulate};
}

const choice *find_choice(const matmul_state *state, const shape &of) {
    for (unsigned i = 0; i < state->choice_count; i++)
        if (state->choices[i].of == of) return &state->choices[i];
    return nullptr;
}

void keep_choice(matmul_state *state, const choice &made) {
    if (state->choice_count < CHOICES_MAX && !find_choice(state, made.of))
        state->choices[state->choice_count++] = made;
}

// --- the file: six numbers of the shape and eight words of the algorithm ---

std::string line_of(const choice &c) {
    char line[512];
    int size = snprintf(line, sizeof line, "%u %u %u %u %u %u", c.of.kind, c.of.rows, c.of.out,
                        c.of.in, c.of.out_stride, c.of.accumulate);
    for (uint64_t word : c.algorithm.data)
        size += snprintf(line + size, sizeof line - static_cast<size_t>(size), " %016llx",
                         static_cast<unsigned long long>(word));
    return line;
}

bool read_line(const char *line, choice *out) {
    choice c = {};
    int at = 0;
    if (sscanf(line, "%u %u %u %u %u %u%n", &c.of.kind, &c.of.rows, &c.of.out, &c.of.in,
               &c.of.out_stride, &c.of.accumulate, &at) != 6)
        return false;
    for (uint64_t &word : c.algorithm.data) {
        unsigned long long value = 0;
        int more = 0;
        if (sscanf(line + at, " %llx%n", &value, &more) != 1) return false;
        word = value;
        at += more;
    }
    *out = c;
    return line_of(c) == line;
}

void read_cache(matmul_state *state) {
    choice c;
    for (const std::string &line : cache_read(state->cache))
        if (read_line(line.c_str(), &c)) keep_choice(state, c);
}

void write_cache(const matmul_state *state) {
    std::vector<std::string> lines;
    for (unsigned i = 0; i < state->choice_count; i++) lines.push_back(line_of(state->choices[i]));
    cache_write(state->cache, lines);
}

// --- products ---

void destroy_product(const matmul_state *state, product *p) {
    if (p->result) state->blas.layout_destroy(p->result);
    if (p->right) state->blas.layout_destroy(p->right);
    if (p->left) state->blas.layout_destroy(p->left);
    if (p->what) state->blas.product_destroy(p->what);
}

#define TRY_BLAS(call)                                                                             \
    do {                                                                                           \
        const char *answer_ = blas_answer(state, (call), #call);                                   \
        if (answer_) return answer_;                                                               \
    } while (0)

// A column-major matrix of the library: `rows` lie together, `pitch` elements from column to
// column.
const char *make_layout(const matmul_state *state, cublasLtMatrixLayout_t *out, cudaDataType_t type,
                        uint64_t rows, uint64_t columns, uint64_t pitch) {
    TRY_BLAS(state->blas.layout_create(out, type, rows, columns, static_cast<int64_t>(pitch)));
    return nullptr;
}

const char *make_product(const matmul_state *state, const struct cuda_matmul *m, product *p) {
    const cublasOperation_t straight = CUBLAS_OP_N, transposed = CUBLAS_OP_T;
    TRY_BLAS(state->blas.product_create(&p->what, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    bool forward = m->kind == CUDA_LINEAR_FORWARD, weight = m->kind == CUDA_LINEAR_WEIGHT;
    TRY_BLAS(state->blas.product_set(p->what, CUBLASLT_MATMUL_DESC_TRANSA,
                                     forward ? &transposed : &straight, sizeof straight));
    TRY_BLAS(state->blas.product_set(p->what, CUBLASLT_MATMUL_DESC_TRANSB,
                                     weight ? &transposed : &straight, sizeof straight));
    // The library's left side is our right one: W [in][out], or x [in][rows].
    TRY_CUDA(make_layout(state, &p->left, CUDA_R_16BF, m->in, weight ? m->rows : m->out, m->in));
    if (forward)
        TRY_CUDA(make_layout(state, &p->right, CUDA_R_16BF, m->in, m->rows, m->in));
    else
        TRY_CUDA(make_layout(state, &p->right, CUDA_R_16BF, m->out, m->rows, m->out_stride));
    if (forward) return make_layout(state, &p->result, CUDA_R_16BF, m->out, m->rows, m->out_stride);
    if (weight) return make_layout(state, &p->result, CUDA_R_32F, m->in, m->out, m->in);
    return make_layout(state, &p->result, CUDA_R_16BF, m->in, m->rows, m->in);
}

const char *run_product(cuda_session *session, const struct cuda_matmul *m, const product *p,
                        const cublasLtMatmulAlgo_t *algorithm) {
    const matmul_state *state = session->matmuls;
    const float one = 1.0f, beta = m->accumulate ? 1.0f : 0.0f;
    void *result = device_pointer<void>(m->result);
    const void *add =
        m->kind == CUDA_LINEAR_FORWARD && m->accumulate ? device_pointer<void>(m->add) : result;
    TRY_BLAS(state->blas.multiply(
        state->handle, p->what, &one, device_pointer<void>(m->right), p->left,
        device_pointer<void>(m->left), p->right, &beta, add, p->result, result, p->result,
        algorithm, device_pointer<void>(m->workspace), CUDA_MATMUL_WORKSPACE, session->stream));
    return nullptr;
}

const char *time_product(cuda_session *session, const struct cuda_matmul *m, const product *p,
                         const cublasLtMatmulAlgo_t *algorithm, cudaEvent_t begin, cudaEvent_t end,
                         float *ms) {
    TRY_CUDA(run_product(session, m, p, algorithm)); // the first one loads the code
    TRY_CUDA(cudaEventRecord(begin, session->stream));
    for (int i = 0; i < TIMED_RUNS; i++) TRY_CUDA(run_product(session, m, p, algorithm));
    TRY_CUDA(cudaEventRecord(end, session->stream));
    TRY_CUDA(cudaEventSynchronize(end));
    TRY_CUDA(cudaEventElapsedTime(ms, begin, end));
    return nullptr;
}

const char *find_candidates(const matmul_state *state, const product *p,
                            cublasLtMatmulHeuristicResult_t *found, int *count) {
    cublasLtMatmulPreference_t preference = nullptr;
    TRY_BLAS(state->blas.preference_create(&preference));
    const uint64_t workspace = CUDA_MATMUL_WORKSPACE;
    cublasStatus_t status = state->blas.preference_set(
        preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = state->blas.heuristic(state->handle, p->what, p->left, p->right, p->result,
                                       p->result, preference, CANDIDATES, found, count);
    state->blas.preference_destroy(preference);
    return blas_answer(state, status, "cublasLtMatmulAlgoGetHeuristic");
}

// A candidate that fails is passed over, unless the device is gone.
const char *choose(cuda_session *session, const struct cuda_matmul *m, const product *p,
                   cudaEvent_t begin, cudaEvent_t end) {
    matmul_state *state = session->matmuls;
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    int count = 0, best = -1;
    float best_ms = 0;
    const char *why = nullptr;
    TRY_CUDA(find_candidates(state, p, found, &count));
    for (int i = 0; i < count; i++) {
        float ms = 0;
        if (found[i].state != CUBLAS_STATUS_SUCCESS) continue;
        const char *failed = time_product(session, m, p, &found[i].algo, begin, end, &ms);
        if (failed) {
            why = failed;
            TRY_CUDA(cudaStreamSynchronize(session->stream));
        } else if (best < 0 || ms < best_ms) {
            best = i, best_ms = ms;
        }
    }
    if (best < 0)
        return why ? why
                   : fail(CUDA_FAILURE_OTHER, "cuBLASLt has no algorithm for [%u][%u] x [%u]",
                          m->rows, m->in, m->out);
    keep_choice(state, choice{shape_of(m), found[best].algo});
    write_cache(state);
    return nullptr;
}

const char *prepare_product(cuda_session *session, const struct cuda_matmul *m, product *p) {
    matmul_state *state = session->matmuls;
    TRY_CUDA(make_product(state, m, p));
    const choice *known = find_choice(state, shape_of(m));
    if (known) {
        cublasLtMatmulHeuristicResult_t checked = {};
        cublasStatus_t status =
            state->blas.check(state->handle, p->what, p->left, p->right, p->result, p->result,
                              &known->algorithm, &checked);
        if (status == CUBLAS_STATUS_SUCCESS && checked.workspaceSize <= CUDA_MATMUL_WORKSPACE)
            return nullptr;
        state->choices[known - state->choices] =
            state->choices[--state->choice_count]; // another library's: chosen anew
    }
    cudaEvent_t begin = nullptr, end = nullptr;
    const char *why = answer_of(cudaEventCreate(&begin), "cudaEventCreate");
    if (!why) why = answer_of(cudaEventCreate(&end), "cudaEventCreate");
    if (!why) why = choose(session, m, p, begin, end);
    if (end) (void)cudaEventDestroy(end);
    if (begin) (void)cudaEventDestroy(begin);
    return why;
}

const char *matmul_prepare(cuda_session *session, const struct cuda_matmul *m) {
    product p = {};
    const char *why = prepare_product(session, m, &p);
    destroy_product(session->matmuls, &p);
    return why;
}

// A shape that was not prepared runs with the library's first guess.
const char *matmul(cuda_session *session, const struct cuda_matmul *m) {
    product p = {};
    const choice *known = find_choice(session->matmuls, shape_of(m));
    const char *why = make_product(session->matmuls, m, &p);
    if (!why) why = run_product(session, m, &p, known ? &known->algorithm : nullptr);
    destroy_product(session->matmuls, &p);
    return why;
}

const char *fill_state(matmul_state *state) {
    TRY_CUDA(blas_library_open(&state->blas));
    TRY_BLAS(state->blas.create(&state->handle));
    cudaDeviceProp properties;
    int driver = 0;
    TRY_CUDA(cudaGetDeviceProperties(&properties, 0));
    TRY_CUDA(cudaDriverGetVersion(&driver));
    char owner[512];
    snprintf(owner, sizeof owner, "atoll matmul 1, %s, driver %d, cuBLASLt %zu", properties.name,
             driver, state->blas.version());
    state->cache.owner = owner;
    read_cache(state);
    return nullptr;
}

} // namespace

const char *matmul_open(const char *cache, matmul_state **out) {
    matmul_state *state = new (std::nothrow) matmul_state();
    if (!state) return fail(CUDA_FAILURE_MEMORY, "out of host memory");
    if (cache) state->cache.path = cache;
    const char *why = fill_state(state);
    if (why) {
        matmul_close(state);
        return why;
    }
    *out = state;
    return nullptr;
}

void matmul_close(matmul_state *state) {
    if (!state) return;
    if (state->handle) state->blas.destroy(state->handle);
    blas_library_close(&state->blas);
    delete state;
}

void matmul_install(struct cuda_training *training) {
    training->matmul_prepare = matmul_prepare;
    training->matmul = matmul;
}
