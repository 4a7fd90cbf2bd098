// cuBLASLt, found when a session is opened: it is half a gigabyte, and the rest of the backend
// works without it. Where its header is not there either (nvcc alone is installed without it),
// blas_declarations.cuh has the little that is used. The emulation has a file of this name.
#ifndef KERNELS_CUDA_BLAS_LIBRARY_CUH
#define KERNELS_CUDA_BLAS_LIBRARY_CUH

#if __has_include(<cublasLt.h>) && !defined(ATOLL_NO_CUBLASLT_HEADER)
#include <cublasLt.h>
// What blas_declarations.cuh says of it.
static_assert(CUBLAS_STATUS_SUCCESS == 0 && CUBLAS_OP_N == 0 && CUBLAS_OP_T == 1 &&
                  CUBLAS_COMPUTE_32F == 68,
              "");
static_assert(CUBLASLT_MATMUL_DESC_TRANSA == 3 && CUBLASLT_MATMUL_DESC_TRANSB == 4, "");
static_assert(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES == 1 && sizeof(cublasLtMatmulAlgo_t) == 64,
              "");
static_assert(sizeof(cublasLtMatmulHeuristicResult_t) == 96 &&
                  offsetof(cublasLtMatmulHeuristicResult_t, state) == 72,
              "");
#else
#include "kernels/cuda/blas_declarations.cuh"
#endif
#include <dlfcn.h>

#include "kernels/cuda/device.cuh"

struct blas_library {
    void *library;
#define BLAS_FUNCTION(name, field) decltype(&name) field;
#define BLAS_FUNCTIONS                                                                             \
    BLAS_FUNCTION(cublasLtCreate, create)                                                          \
    BLAS_FUNCTION(cublasLtDestroy, destroy)                                                        \
    BLAS_FUNCTION(cublasLtGetVersion, version)                                                     \
    BLAS_FUNCTION(cublasLtGetStatusString, text)                                                   \
    BLAS_FUNCTION(cublasLtMatmulDescCreate, product_create)                                        \
    BLAS_FUNCTION(cublasLtMatmulDescDestroy, product_destroy)                                      \
    BLAS_FUNCTION(cublasLtMatmulDescSetAttribute, product_set)                                     \
    BLAS_FUNCTION(cublasLtMatrixLayoutCreate, layout_create)                                       \
    BLAS_FUNCTION(cublasLtMatrixLayoutDestroy, layout_destroy)                                     \
    BLAS_FUNCTION(cublasLtMatmulPreferenceCreate, preference_create)                               \
    BLAS_FUNCTION(cublasLtMatmulPreferenceDestroy, preference_destroy)                             \
    BLAS_FUNCTION(cublasLtMatmulPreferenceSetAttribute, preference_set)                            \
    BLAS_FUNCTION(cublasLtMatmulAlgoGetHeuristic, heuristic)                                       \
    BLAS_FUNCTION(cublasLtMatmulAlgoCheck, check)                                                  \
    BLAS_FUNCTION(cublasLtMatmul, multiply)
    BLAS_FUNCTIONS
#undef BLAS_FUNCTION
};

inline void blas_library_close(struct blas_library *blas) {
    if (blas->library) dlclose(blas->library);
    blas->library = nullptr;
}

inline const char *blas_library_open(struct blas_library *out) {
#define BLAS_TEXT(x) BLAS_TEXT_OF(x)
#define BLAS_TEXT_OF(x) #x
#ifndef CUBLAS_VER_MAJOR // without its header the library has the runtime's version
#define CUBLAS_VER_MAJOR __CUDACC_VER_MAJOR__
#endif
    const char *names[] = {"libcublasLt.so." BLAS_TEXT(CUBLAS_VER_MAJOR),
                           "/usr/local/cuda/lib64/libcublasLt.so." BLAS_TEXT(CUBLAS_VER_MAJOR)};
    struct blas_library blas = {};
    for (const char *name : names)
        if (!blas.library) blas.library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!blas.library)
        return fail(CUDA_FAILURE_OTHER, "training on CUDA needs cuBLASLt, but there is no %s",
                    names[0]);
    const char *missing = nullptr;
#define BLAS_FUNCTION(name, field)                                                                 \
    blas.field = reinterpret_cast<decltype(&name)>(dlsym(blas.library, #name));                    \
    if (!blas.field) missing = #name;
    BLAS_FUNCTIONS
#undef BLAS_FUNCTION
    if (missing) {
        blas_library_close(&blas);
        return fail(CUDA_FAILURE_OTHER, "%s has no %s", names[0], missing);
    }
    *out = blas;
    return nullptr;
}

#endif
