// The part of the driver's interface that attention_hopper.cu uses: maps of tensors for the copy
// engine, checked as the driver checks them. EMULATED_TENSOR_MAPS=1: the driver has them; otherwise
// it is too old, and the Hopper kernels are not to be used.
#ifndef TESTS_CUDA_EMULATION_CUDA_H
#define TESTS_CUDA_EMULATION_CUDA_H

#include <cuda_runtime.h>

#define CUDART_VERSION 13000
typedef uint32_t cuuint32_t;
typedef uint64_t cuuint64_t;
enum CUresult { CUDA_SUCCESS = 0, CUDA_ERROR_INVALID_VALUE = 1 };
enum CUtensorMapDataType { CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 = 9 };
enum CUtensorMapInterleave { CU_TENSOR_MAP_INTERLEAVE_NONE = 0 };
enum CUtensorMapSwizzle { CU_TENSOR_MAP_SWIZZLE_NONE = 0, CU_TENSOR_MAP_SWIZZLE_128B = 3 };
enum CUtensorMapL2promotion {
    CU_TENSOR_MAP_L2_PROMOTION_NONE = 0,
    CU_TENSOR_MAP_L2_PROMOTION_L2_256B = 3
};
enum CUtensorMapFloatOOBfill { CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE = 0 };

struct alignas(64) CUtensorMap { // the driver's has 128 bytes that say nothing to others
    const char *from;
    cuuint64_t shape[4], strides[4]; // strides[0]: an element
    cuuint32_t box[4];
};

inline CUresult cuTensorMapEncodeTiled(CUtensorMap *out, CUtensorMapDataType type, cuuint32_t rank,
                                       void *from, const cuuint64_t *shape,
                                       const cuuint64_t *strides, const cuuint32_t *box,
                                       const cuuint32_t *each, CUtensorMapInterleave,
                                       CUtensorMapSwizzle swizzle, CUtensorMapL2promotion,
                                       CUtensorMapFloatOOBfill) {
    if (type != CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 || rank != 4 ||
        swizzle != CU_TENSOR_MAP_SWIZZLE_128B)
        return CUDA_ERROR_INVALID_VALUE; // the rest is not emulated
    if (reinterpret_cast<uintptr_t>(out) % 64 || reinterpret_cast<uintptr_t>(from) % 16 ||
        box[0] * 2 > 128 || box[0] * 2 % 16)
        return CUDA_ERROR_INVALID_VALUE;
    CUtensorMap map = {static_cast<const char *>(from), {}, {}, {}};
    for (cuuint32_t i = 0; i < rank; i++) {
        map.shape[i] = shape[i];
        map.strides[i] = i == 0 ? 2 : strides[i - 1];
        map.box[i] = box[i];
        if (shape[i] == 0 || shape[i] > cuuint64_t{1} << 32 || box[i] == 0 || box[i] > 256 ||
            each[i] != 1)
            return CUDA_ERROR_INVALID_VALUE;
        if (i > 0 && (map.strides[i] % 16 || map.strides[i] >= cuuint64_t{1} << 40))
            return CUDA_ERROR_INVALID_VALUE;
    }
    *out = map;
    return CUDA_SUCCESS;
}

enum cudaDriverEntryPointQueryResult {
    cudaDriverEntryPointSuccess = 0,
    cudaDriverEntryPointSymbolNotFound = 1
};
enum { cudaEnableDefault = 0 };
inline cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **out, unsigned,
                                                    unsigned long long,
                                                    cudaDriverEntryPointQueryResult *found) {
    bool there = strcmp(name, "cuTensorMapEncodeTiled") == 0 &&
                 emulation::number_of("EMULATED_TENSOR_MAPS", 0) != 0;
    *out = there ? reinterpret_cast<void *>(cuTensorMapEncodeTiled) : nullptr;
    *found = there ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return emulation::told(cudaSuccess);
}

#endif
