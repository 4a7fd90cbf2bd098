// Enough of CUDA to run kernels/cuda/*.cu on the CPU, so that their logic is tested where there is no GPU: docs/gpu.md has the
// command. It stands in for <cuda_runtime.h>. A block's threads are fibers that take turns at __syncthreads, in increasing and
// decreasing order by turns, so that a missing barrier is likely to show. It says nothing about a real device's arithmetic,
// memory model or speed.
#ifndef TESTS_CUDA_EMULATION_CUDA_RUNTIME_H
#define TESTS_CUDA_EMULATION_CUDA_RUNTIME_H

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <ucontext.h>

#define __global__
#define __device__
#define __shared__ static

struct emulated_index {
    unsigned x;
};
inline emulated_index threadIdx, blockIdx, gridDim, blockDim;

namespace emulation {
enum { STACK = 64 * 1024, THREADS = 1024 };
struct fiber {
    ucontext_t context;
    bool done;
};
inline fiber fibers[THREADS];
inline char *stacks = static_cast<char *>(malloc(size_t{STACK} * THREADS));
inline ucontext_t scheduler;
inline std::function<void()> body;

inline void enter() {
    body();
    fibers[threadIdx.x].done = true;
}

inline void launch(unsigned blocks, unsigned threads, std::function<void()> kernel) {
    body = kernel;
    gridDim.x = blocks;
    blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) {
        for (unsigned t = 0; t < threads; t++) {
            getcontext(&fibers[t].context);
            fibers[t].context.uc_stack.ss_sp = stacks + size_t{STACK} * t;
            fibers[t].context.uc_stack.ss_size = STACK;
            fibers[t].context.uc_link = &scheduler;
            fibers[t].done = false;
            makecontext(&fibers[t].context, enter, 0);
        }
        bool running = true;
        for (unsigned turn = 0; running; turn++) {
            running = false;
            for (unsigned i = 0; i < threads; i++) {
                unsigned t = turn % 2 ? threads - 1 - i : i;
                if (fibers[t].done) continue;
                threadIdx.x = t;
                swapcontext(&scheduler, &fibers[t].context);
                running = running || !fibers[t].done;
            }
        }
    }
}
} // namespace emulation

#define LAUNCH(kernel, blocks, threads, ...) emulation::launch((blocks), (threads), [=] { kernel(__VA_ARGS__); })
inline void __syncthreads() {
    unsigned me = threadIdx.x;
    swapcontext(&emulation::fibers[me].context, &emulation::scheduler);
}
inline unsigned atomicAdd(unsigned *at, unsigned value) {
    unsigned old = *at;
    *at += value;
    return old;
}

inline uint32_t __float_as_uint(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }

enum cudaError_t { cudaSuccess, cudaErrorMemoryAllocation };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };
struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    int major, minor;
};
inline const char *cudaGetErrorString(cudaError_t code) { return code == cudaSuccess ? "no error" : "out of memory"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int *count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp *out, int) {
    *out = cudaDeviceProp{"emulated on the CPU", size_t{1} << 30, 9, 0};
    return cudaSuccess;
}
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline cudaError_t cudaMalloc(void **out, size_t size) { return (*out = malloc(size)) ? cudaSuccess : cudaErrorMemoryAllocation; }
inline cudaError_t cudaFree(void *memory) { return free(memory), cudaSuccess; }
inline cudaError_t cudaMemset(void *to, int value, size_t size) { return memset(to, value, size), cudaSuccess; }
inline cudaError_t cudaMemcpy(void *to, const void *from, size_t size, cudaMemcpyKind) {
    return memcpy(to, from, size), cudaSuccess;
}

#endif
