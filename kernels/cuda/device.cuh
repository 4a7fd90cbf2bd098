// What the .cu files share: the launch geometry, errors as text, and device_memory as pointers.
#ifndef KERNELS_CUDA_DEVICE_CUH
#define KERNELS_CUDA_DEVICE_CUH

#include <cuda_runtime.h>

#include "kernels/cuda_operations.h"

constexpr unsigned BLOCK_THREADS = 256;

inline const char *text_of(cudaError_t code) { return code == cudaSuccess ? nullptr : cudaGetErrorString(code); }
inline const char *launched() { return text_of(cudaGetLastError()); }

template <class T> T *device_pointer(struct device_memory memory) { return reinterpret_cast<T *>(memory.address); }
inline float *floats(struct device_memory memory) { return device_pointer<float>(memory); }

// Grid-stride loops: enough blocks to fill a device, whatever the count.
inline unsigned blocks_for(size_t items) {
    size_t blocks = (items + BLOCK_THREADS - 1) / BLOCK_THREADS;
    return static_cast<unsigned>(blocks < 4096 ? blocks : 4096);
}

#ifndef LAUNCH
#define LAUNCH(kernel, blocks, threads, ...) kernel<<<(blocks), (threads)>>>(__VA_ARGS__)
#endif

// Shared between the .cu files, not with the world: the object exports CUDA_OPERATIONS_SYMBOL alone.
#define INTERNAL __attribute__((visibility("hidden")))
// elementwise.cu
INTERNAL void elementwise_install(struct cuda_operations *operations);
// select.cu
INTERNAL const char *select_launch(struct device_memory e, struct device_memory base, struct device_memory local, float decay,
                                   size_t count, uint32_t keep, struct device_memory sent, struct device_memory index,
                                   struct device_memory value);

#endif
