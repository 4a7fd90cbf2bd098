// What the .cu files share: how launches and calls are made and checked, the calling thread's
// stream, and device_memory as pointers.
//
// Every call of the runtime and every launch is checked where it is made, and a failure leaves as a
// text that names it:
//     TRY_CUDA(cudaMemsetAsync(...));             leaves the function with the text on failure
//     TRY_CUDA(LAUNCH(kernel, blocks, threads, arguments...));
// Texts live in the calling thread until its next failure, so there is nothing to free and threads
// do not meet.
#ifndef KERNELS_CUDA_DEVICE_CUH
#define KERNELS_CUDA_DEVICE_CUH

#include <cuda_runtime.h>

#include "kernels/cuda_operations.h"

// Shared between the .cu files, not with the world: the object exports CUDA_OPERATIONS_SYMBOL
// alone.
#define INTERNAL __attribute__((visibility("hidden")))

constexpr unsigned BLOCK_THREADS = 256;

// --- failures (backend.cu) ---
// NULL for success; else this thread's text, and its kind for cuda_operations.failure. `call` is
// source text: its name is the part up to the parenthesis. A failure that the device does not
// survive is remembered for the whole process.
INTERNAL const char *cuda_answer(cudaError_t code, const char *call);
INTERNAL const char *fail(enum cuda_failure kind, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
// Device memory, with the figures where there is not enough: asked for, free, of all. Not zeroed.
INTERNAL const char *device_allocate(void **out, size_t size);

inline const char *answer_of(cudaError_t code, const char *call) {
    return code == cudaSuccess ? nullptr : cuda_answer(code, call);
}
inline const char *answer_of(const char *answer, const char *) { return answer; }
inline const char *text_of(cudaError_t code) {
    return answer_of(code, "CUDA");
} // where the call goes without saying
#define TRY_CUDA(call)                                                                             \
    do {                                                                                           \
        const char *try_answer_ = answer_of((call), #call);                                        \
        if (try_answer_) return try_answer_;                                                       \
    } while (0)

// --- launches ---
// The stream that this thread's work goes to: cuda_operations.stream_use's, at first the device's
// default.
INTERNAL cudaStream_t current_stream();
inline const char *launched(const char *kernel = "kernel launch") {
    return answer_of(cudaGetLastError(), kernel);
}

// An expression: NULL, or what is wrong with the launch (or with work before it). What goes wrong
// while it runs shows later.
#ifndef LAUNCH_ON // tests/cuda_emulation has its own
#define LAUNCH_ON(stream, kernel, blocks, threads, shared, ...)                                    \
    (kernel<<<(blocks), (threads), (shared), (stream)>>>(__VA_ARGS__), launched(#kernel))
#endif
#define LAUNCH(kernel, blocks, threads, ...)                                                       \
    LAUNCH_ON(current_stream(), kernel, blocks, threads, 0, __VA_ARGS__)

// Grid-stride loops: enough blocks to fill a device, whatever the count.
inline unsigned blocks_for(size_t items) {
    size_t blocks = (items + BLOCK_THREADS - 1) / BLOCK_THREADS;
    return static_cast<unsigned>(blocks < 4096 ? blocks : 4096);
}

template <class T> T *device_pointer(struct device_memory memory) {
    return reinterpret_cast<T *>(memory.address);
}
inline float *floats(struct device_memory memory) { return device_pointer<float>(memory); }

// --- what each file adds to the table ---
INTERNAL void elementwise_install(struct cuda_operations *operations); // elementwise.cu
INTERNAL void codec_install(struct cuda_operations *operations);       // codec.cu

#endif
