// The part of cuBLASLt that kernels/cuda/matmul.cu uses, done by a loop over what the descriptors
// say: column-major matrices, two of them maybe transposed, bfloat16 in, fp32 sums, bfloat16 or
// fp32 out. It judges descriptors as the library would; it has two "algorithms", told apart by a
// mark, and refuses one without it.
#ifndef TESTS_CUDA_EMULATION_CUBLASLT_H
#define TESTS_CUDA_EMULATION_CUBLASLT_H

#include <cuda_runtime.h>

enum cublasStatus_t {
    CUBLAS_STATUS_SUCCESS = 0,
    CUBLAS_STATUS_INVALID_VALUE = 7,
    CUBLAS_STATUS_NOT_SUPPORTED = 15
};
enum cublasOperation_t { CUBLAS_OP_N, CUBLAS_OP_T };
enum cublasComputeType_t { CUBLAS_COMPUTE_32F = 68 };
enum cudaDataType_t { CUDA_R_32F = 0, CUDA_R_16BF = 14 };
enum cublasLtMatmulDescAttributes_t {
    CUBLASLT_MATMUL_DESC_TRANSA = 3,
    CUBLASLT_MATMUL_DESC_TRANSB = 4
};
enum cublasLtMatmulPreferenceAttributes_t { CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES = 1 };
struct emulated_product {
    cublasOperation_t operations[2];
};
struct emulated_layout {
    cudaDataType_t type;
    uint64_t rows, columns;
    int64_t pitch;
    float read(const void *matrix, uint64_t row, uint64_t column) const {
        size_t at = row + column * static_cast<size_t>(pitch);
        if (type == CUDA_R_32F) return static_cast<const float *>(matrix)[at];
        return __uint_as_float(static_cast<uint32_t>(static_cast<const uint16_t *>(matrix)[at])
                               << 16);
    }
    void write(void *matrix, uint64_t row, uint64_t column, float value) const {
        size_t at = row + column * static_cast<size_t>(pitch);
        uint32_t bits = __float_as_uint(value);
        if (type == CUDA_R_32F)
            static_cast<float *>(matrix)[at] = value;
        else
            static_cast<uint16_t *>(matrix)[at] =
                value != value ? 0x7FFF
                               : static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
    }
};
struct cublasLtMatmulAlgo_t {
    uint64_t data[8];
};
struct cublasLtMatmulHeuristicResult_t {
    cublasLtMatmulAlgo_t algo;
    size_t workspaceSize;
    cublasStatus_t state;
};
typedef int *cublasLtHandle_t, *cublasLtMatmulPreference_t;
typedef emulated_product *cublasLtMatmulDesc_t;
typedef emulated_layout *cublasLtMatrixLayout_t;

namespace emulation {
enum { ALGORITHM_MARK = 0x616c676f };
inline size_t searches; // how often algorithms were asked for

inline cublasStatus_t lt_create(cublasLtHandle_t *out) {
    return *out = new int, CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t lt_destroy(cublasLtHandle_t handle) {
    return delete handle, CUBLAS_STATUS_SUCCESS;
}
inline size_t lt_version() { return 130000; }
inline const char *lt_text(cublasStatus_t status) {
    return status == CUBLAS_STATUS_SUCCESS ? "success" : "not supported";
}
inline cublasStatus_t lt_product_create(cublasLtMatmulDesc_t *out, cublasComputeType_t,
                                        cudaDataType_t) {
    return *out = new emulated_product{{CUBLAS_OP_N, CUBLAS_OP_N}}, CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t lt_product_destroy(cublasLtMatmulDesc_t product) {
    return delete product, CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t lt_product_set(cublasLtMatmulDesc_t product,
                                     cublasLtMatmulDescAttributes_t which, const void *value,
                                     size_t size) {
    if (size != sizeof(cublasOperation_t)) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(&product->operations[which - CUBLASLT_MATMUL_DESC_TRANSA], value, size);
    return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t lt_layout_create(cublasLtMatrixLayout_t *out, cudaDataType_t type,
                                       uint64_t rows, uint64_t columns, int64_t pitch) {
    if (pitch < static_cast<int64_t>(rows)) return CUBLAS_STATUS_INVALID_VALUE;
    return *out = new emulated_layout{type, rows, columns, pitch}, CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t lt_layout_destroy(cublasLtMatrixLayout_t layout) {
    return delete layout, CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t lt_preference_create(cublasLtMatmulPreference_t *out) {
    return *out = new int, CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t lt_preference_destroy(cublasLtMatmulPreference_t preference) {
    return delete preference, CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t lt_preference_set(cublasLtMatmulPreference_t,
                                        cublasLtMatmulPreferenceAttributes_t, const void *,
                                        size_t) {
    return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t lt_heuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                   cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                   cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, int,
                                   cublasLtMatmulHeuristicResult_t found[], int *count) {
    searches++;
    for (int i = 0; i < 2; i++)
        found[i] = {{{ALGORITHM_MARK, static_cast<uint64_t>(i)}}, 0, CUBLAS_STATUS_SUCCESS};
    return *count = 2, CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t lt_check(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                               cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                               cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t *algorithm,
                               cublasLtMatmulHeuristicResult_t *out) {
    if (algorithm->data[0] != ALGORITHM_MARK) return CUBLAS_STATUS_NOT_SUPPORTED;
    return *out = {*algorithm, 0, CUBLAS_STATUS_SUCCESS}, CUBLAS_STATUS_SUCCESS;
}

struct dimensions {
    uint64_t rows, columns;
    dimensions(const emulated_layout &l, cublasOperation_t operation)
        : rows(operation == CUBLAS_OP_T ? l.columns : l.rows),
          columns(operation == CUBLAS_OP_T ? l.rows : l.columns) {}
};

// Both sides as rows of what is summed over, in fp32; then dot products.
inline void lt_run(emulated_product what, float alpha, const void *a, emulated_layout la,
                   const void *b, emulated_layout lb, float beta, const void *c, emulated_layout lc,
                   void *d, emulated_layout ld) {
    dimensions left(la, what.operations[0]), right(lb, what.operations[1]);
    uint64_t depth = left.columns;
    std::vector<float> rows(left.rows * depth), columns(right.columns * depth);
    for (uint64_t i = 0; i < left.rows; i++)
        for (uint64_t k = 0; k < depth; k++)
            rows[i * depth + k] =
                what.operations[0] == CUBLAS_OP_T ? la.read(a, k, i) : la.read(a, i, k);
    for (uint64_t j = 0; j < right.columns; j++)
        for (uint64_t k = 0; k < depth; k++)
            columns[j * depth + k] =
                what.operations[1] == CUBLAS_OP_T ? lb.read(b, j, k) : lb.read(b, k, j);
    for (uint64_t i = 0; i < left.rows; i++)
        for (uint64_t j = 0; j < right.columns; j++) {
            float sum[8] = {};
            const float *x = &rows[i * depth], *y = &columns[j * depth];
            uint64_t k = 0;
            for (; k + 8 <= depth; k += 8)
                for (int l = 0; l < 8; l++) sum[l] += x[k + l] * y[k + l];
            for (; k < depth; k++) sum[0] += x[k] * y[k];
            float all = alpha * (((sum[0] + sum[1]) + (sum[2] + sum[3])) +
                                 ((sum[4] + sum[5]) + (sum[6] + sum[7])));
            if (beta != 0.0f) all += beta * lc.read(c, i, j);
            ld.write(d, i, j, all);
        }
}

inline cublasStatus_t lt_multiply(cublasLtHandle_t, cublasLtMatmulDesc_t what, const void *alpha,
                                  const void *a, cublasLtMatrixLayout_t la, const void *b,
                                  cublasLtMatrixLayout_t lb, const void *beta, const void *c,
                                  cublasLtMatrixLayout_t lc, void *d, cublasLtMatrixLayout_t ld,
                                  const cublasLtMatmulAlgo_t *algorithm, void *workspace, size_t,
                                  cudaStream_t) {
    dimensions left(*la, what->operations[0]), right(*lb, what->operations[1]);
    if (left.columns != right.rows || left.rows != ld->rows || right.columns != ld->columns ||
        !workspace)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (lc->rows != ld->rows || lc->columns != ld->columns || lc->type != ld->type)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (algorithm && algorithm->data[0] != ALGORITHM_MARK) return CUBLAS_STATUS_NOT_SUPPORTED;
    auto work = [what = *what, alpha = *static_cast<const float *>(alpha), a, la = *la, b, lb = *lb,
                 beta = *static_cast<const float *>(beta), c, lc = *lc, d,
                 ld = *ld] { lt_run(what, alpha, a, la, b, lb, beta, c, lc, d, ld); };
    if (recording)
        recorded.push_back(work);
    else if (!lost)
        work();
    return CUBLAS_STATUS_SUCCESS;
}
} // namespace emulation

#endif
