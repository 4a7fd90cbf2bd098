// cuBLASLt, found when a session is opened: it is half a gigabyte, and the rest of the backend works without it. Its header must be
// there where the backend is built. The emulation has a file of this name.
#ifndef KERNELS_CUDA_BLAS_LIBRARY_CUH
#define KERNELS_CUDA_BLAS_LIBRARY_CUH

#include <cublasLt.h>
#include <dlfcn.h>

#include "kernels/cuda/device.cuh"

struct blas_library {
    void *library;
#define BLAS_FUNCTION(name, field) decltype(&name) field;
#define BLAS_FUNCTIONS                                                                                                           \
    BLAS_FUNCTION(cublasLtCreate, create)                                                                                        \
    BLAS_FUNCTION(cublasLtDestroy, destroy)                                                                                      \
    BLAS_FUNCTION(cublasLtGetVersion, version)                                                                                   \
    BLAS_FUNCTION(cublasLtGetStatusString, text)                                                                                 \
    BLAS_FUNCTION(cublasLtMatmulDescCreate, product_create)                                                                      \
    BLAS_FUNCTION(cublasLtMatmulDescDestroy, product_destroy)                                                                    \
    BLAS_FUNCTION(cublasLtMatmulDescSetAttribute, product_set)                                                                   \
    BLAS_FUNCTION(cublasLtMatrixLayoutCreate, layout_create)                                                                     \
    BLAS_FUNCTION(cublasLtMatrixLayoutDestroy, layout_destroy)                                                                   \
    BLAS_FUNCTION(cublasLtMatmulPreferenceCreate, preference_create)                                                             \
    BLAS_FUNCTION(cublasLtMatmulPreferenceDestroy, preference_destroy)                                                           \
    BLAS_FUNCTION(cublasLtMatmulPreferenceSetAttribute, preference_set)                                                          \
    BLAS_FUNCTION(cublasLtMatmulAlgoGetHeuristic, heuristic)                                                                     \
    BLAS_FUNCTION(cublasLtMatmulAlgoCheck, check)                                                                                \
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
    const char *names[] = {"libcublasLt.so." BLAS_TEXT(CUBLAS_VER_MAJOR),
                           "/usr/local/cuda/lib64/libcublasLt.so." BLAS_TEXT(CUBLAS_VER_MAJOR)};
    struct blas_library blas = {};
    for (const char *name : names)
        if (!blas.library) blas.library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!blas.library) return fail(CUDA_FAILURE_OTHER, "training on CUDA wants cuBLASLt, and there is no %s", names[0]);
    const char *missing = nullptr;
#define BLAS_FUNCTION(name, field)                                                                                               \
    blas.field = reinterpret_cast<decltype(&name)>(dlsym(blas.library, #name));                                                  \
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
