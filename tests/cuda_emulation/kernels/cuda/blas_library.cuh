// kernels/cuda/blas_library.cuh for the emulation: the functions are those of the emulated
// cublasLt.h.
#ifndef KERNELS_CUDA_BLAS_LIBRARY_CUH
#define KERNELS_CUDA_BLAS_LIBRARY_CUH

#include <cublasLt.h>

#include "kernels/cuda/device.cuh"

struct blas_library {
    decltype(&emulation::lt_create) create = emulation::lt_create;
    decltype(&emulation::lt_destroy) destroy = emulation::lt_destroy;
    decltype(&emulation::lt_version) version = emulation::lt_version;
    decltype(&emulation::lt_text) text = emulation::lt_text;
    decltype(&emulation::lt_product_create) product_create = emulation::lt_product_create;
    decltype(&emulation::lt_product_destroy) product_destroy = emulation::lt_product_destroy;
    decltype(&emulation::lt_product_set) product_set = emulation::lt_product_set;
    decltype(&emulation::lt_layout_create) layout_create = emulation::lt_layout_create;
    decltype(&emulation::lt_layout_destroy) layout_destroy = emulation::lt_layout_destroy;
    decltype(&emulation::lt_preference_create) preference_create = emulation::lt_preference_create;
    decltype(&emulation::lt_preference_destroy) preference_destroy =
        emulation::lt_preference_destroy;
    decltype(&emulation::lt_preference_set) preference_set = emulation::lt_preference_set;
    decltype(&emulation::lt_heuristic) heuristic = emulation::lt_heuristic;
    decltype(&emulation::lt_check) check = emulation::lt_check;
    decltype(&emulation::lt_multiply) multiply = emulation::lt_multiply;
};

// EMULATED_BLAS=0: there is none.
inline const char *blas_library_open(struct blas_library *) {
    if (emulation::number_of("EMULATED_BLAS", 1) == 0)
        return fail(CUDA_FAILURE_OTHER,
                    "training on CUDA needs cuBLASLt, but there is no libcublasLt.so.13");
    return nullptr;
}
inline void blas_library_close(struct blas_library *) {}

#endif
