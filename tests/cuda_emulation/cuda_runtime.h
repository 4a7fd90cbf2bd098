// Enough of CUDA to run kernels/cuda/*.cu on the CPU, so that their logic is tested where there is
// no GPU: docs/gpu.md has the command. It stands in for <cuda_runtime.h>. A block's threads are
// fibers that take turns at __syncthreads, in increasing and decreasing order by turns, so that a
// missing barrier is likely to show. It says nothing about a real device's arithmetic, memory model
// or speed.
#ifndef TESTS_CUDA_EMULATION_CUDA_RUNTIME_H
#define TESTS_CUDA_EMULATION_CUDA_RUNTIME_H

#include <chrono>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <tuple>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__
#define __shared__ static

struct emulated_index {
    unsigned x;
};
inline emulated_index threadIdx, blockIdx, gridDim, blockDim;

#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__

// --- the runtime's types ---
enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorDevicesUnavailable = 46,
    cudaErrorNoDevice = 100,
    cudaErrorDeviceUninitialized = 201,
    cudaErrorECCUncorrectable = 214,
    cudaErrorNvlinkUncorrectable = 220,
    cudaErrorIllegalAddress = 700,
    cudaErrorLaunchTimeout = 702,
    cudaErrorContextIsDestroyed = 709,
    cudaErrorAssert = 710,
    cudaErrorHardwareStackError = 714,
    cudaErrorIllegalInstruction = 715,
    cudaErrorMisalignedAddress = 716,
    cudaErrorInvalidAddressSpace = 717,
    cudaErrorInvalidPc = 718,
    cudaErrorLaunchFailure = 719,
    cudaErrorUnknown = 999
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum { cudaStreamNonBlocking = 1 };
struct CUstream_st {};
typedef CUstream_st *cudaStream_t;
struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    int major, minor, multiProcessorCount;
};

namespace emulation {

// Faults on demand, by the environment: EMULATED_MEMORY, bytes that can be allocated;
// EMULATED_LOSS=n, the n-th launch (from 1) finds an illegal address, after which every call fails;
// EMULATED_TEAR=n, so does a copy to the host of n bytes or more, in its middle;
// EMULATED_DEVICES=0, none.
inline size_t number_of(const char *name, size_t otherwise) {
    const char *text = getenv(name);
    return text && *text ? strtoull(text, nullptr, 10) : otherwise;
}
inline size_t allocated;
inline size_t total() { return number_of("EMULATED_MEMORY", size_t{1} << 32); }
inline size_t launches;
inline bool lost;
inline cudaError_t last = cudaSuccess;
inline cudaError_t told(cudaError_t code) { return lost ? cudaErrorIllegalAddress : code; }
inline std::recursive_mutex
    mutex; // one launch at a time: the fibers are few, the threads that launch may be many

enum { STACK = 64 * 1024, THREADS = 1024 };
inline unsigned exchanges[THREADS];
enum waiting {
    NOTHING,
    WARP_BARRIER,
    WARPGROUP_BARRIER,
    BLOCK_BARRIER,
    LOOKING_AGAIN
}; // the last: until the next turn
struct fiber {
    jmp_buf at;
    bool started, done;
    waiting waits;
};
inline fiber fibers[THREADS];
inline char *stacks = static_cast<char *>(malloc(size_t{STACK} * THREADS));
inline ucontext_t starter;
inline jmp_buf scheduler;
inline const std::function<void()> *body;

inline void enter() {
    (*body)();
    fibers[threadIdx.x].done = true;
    _longjmp(scheduler, 1);
}

// swapcontext asks the kernel for the signal mask each time; only a fiber's first turn needs it.
inline void turn_of(unsigned thread) {
    fiber &me = fibers[thread];
    if (_setjmp(scheduler)) return;
    if (me.started) _longjmp(me.at, 1);
    me.started = true;
    ucontext_t fresh = starter;
    fresh.uc_stack.ss_sp = stacks + size_t{STACK} * thread;
    fresh.uc_stack.ss_size = STACK;
    fresh.uc_link = nullptr;
    makecontext(&fresh, enter, 0);
    setcontext(&fresh);
}

// Gives the turn away: back to the caller once all others of the warp or of the block, if they have
// not ended, wait for the same.
inline void yield(waiting what) {
    unsigned me = threadIdx.x;
    fibers[me].waits = what;
    if (!_setjmp(fibers[me].at)) _longjmp(scheduler, 1);
}

inline bool all_wait(unsigned from, unsigned end, waiting what) {
    bool some = false;
    for (unsigned t = from; t < end; t++) {
        if (fibers[t].done) continue;
        if (fibers[t].waits != what) return false;
        some = true;
    }
    return some;
}

// Opens those barriers of `size` threads that all have reached; false where none is.
inline bool open_barriers(unsigned threads, unsigned size, waiting what) {
    bool opened = false;
    for (unsigned from = 0; from < threads; from += size) {
        unsigned end = from + size < threads ? from + size : threads;
        if (!all_wait(from, end, what)) continue;
        for (unsigned t = from; t < end; t++) fibers[t].waits = NOTHING;
        opened = true;
    }
    return opened;
}
inline bool open_barriers(unsigned threads) {
    bool opened = open_barriers(threads, 32, WARP_BARRIER);
    opened = open_barriers(threads, 128, WARPGROUP_BARRIER) || opened;
    opened = open_barriers(threads, threads, BLOCK_BARRIER) || opened;
    for (unsigned t = 0; t < threads; t++) {
        if (fibers[t].waits != LOOKING_AGAIN) continue;
        fibers[t].waits = NOTHING;
        opened = true;
    }
    return opened;
}

// A trap: the launch ends at once and the device is lost.
inline bool trapped;
inline void trap() {
    trapped = true;
    _longjmp(scheduler, 1);
}
// What a block may not leave behind; set by who has something.
inline void (*block_end)();

// What a launch asks for; filled with what no kernel may rely on.
enum { SHARED_MOST = 227 * 1024 };
alignas(128) inline unsigned char dynamic_shared[SHARED_MOST];

// Work given to a stream while it is recorded; it runs at cudaGraphLaunch, with the arguments of
// now.
inline bool recording;
inline std::vector<std::function<void()>> recorded;

// A kernel and its arguments, which are of the time of the launch even where it is recorded.
template <class Kernel, class... Arguments>
std::function<void()> bound(Kernel kernel, Arguments... arguments) {
    return [kernel, all = std::make_tuple(arguments...)] { std::apply(kernel, all); };
}

inline const char *launch(unsigned blocks, unsigned threads, size_t shared,
                          const std::function<void()> &kernel) {
    std::lock_guard<std::recursive_mutex> guard(mutex);
    if (recording) {
        recorded.push_back([=] { launch(blocks, threads, shared, kernel); });
        return nullptr;
    }
    if (lost || ++launches == number_of("EMULATED_LOSS", 0)) {
        lost = true;
        last = cudaErrorIllegalAddress;
        return nullptr;
    }
    if (blocks == 0 || threads == 0 || threads > THREADS || shared > SHARED_MOST) {
        last = cudaErrorInvalidConfiguration;
        return nullptr;
    }
    memset(dynamic_shared, 0xA5, shared);
    body = &kernel;
    gridDim.x = blocks;
    blockDim.x = threads;
    getcontext(&starter);
    for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) {
        for (unsigned t = 0; t < threads; t++) {
            fibers[t].started = fibers[t].done = false;
            fibers[t].waits = NOTHING;
            exchanges[t] = 0;
        }
        bool running = true;
        for (unsigned turn = 0; running; turn++) {
            running = false;
            for (unsigned i = 0; i < threads; i++) {
                unsigned t = turn % 2 ? threads - 1 - i : i;
                if (fibers[t].done || fibers[t].waits != NOTHING) continue;
                threadIdx.x = t;
                turn_of(t);
                if (trapped) {
                    trapped = false;
                    lost = true;
                    last = cudaErrorLaunchFailure;
                    return nullptr;
                }
            }
            for (unsigned t = 0; t < threads; t++) running = running || !fibers[t].done;
            if (running && !open_barriers(threads)) {
                fprintf(stderr, "emulation: threads of a block wait for different barriers\n");
                abort();
            }
        }
        if (block_end) block_end();
    }
    return nullptr;
}
} // namespace emulation

// blocks, threads: numbers.
#define LAUNCH_ON(stream, kernel, blocks, threads, shared, ...)                                    \
    ((void)(stream),                                                                               \
     emulation::launch(                                                                            \
         (blocks), (threads), (shared),                                                            \
         emulation::bound([=](auto... argument) { kernel(argument...); }, __VA_ARGS__)),           \
     launched(#kernel))
inline void __syncthreads() { emulation::yield(emulation::BLOCK_BARRIER); }
inline void __syncwarp(unsigned = 0xFFFFFFFFu) { emulation::yield(emulation::WARP_BARRIER); }

namespace emulation {
// What each lane shows the others of its warp. There are two sets in turn: who is already at the
// next exchange writes into the other one, and nobody gets two ahead.
struct shown {
    alignas(16) unsigned char bytes[32];
};
inline shown shows[2][THREADS];
// Shows `mine` and waits for the warp; then `of(lane)` reads what a lane has shown.
template <class T> struct exchange {
    unsigned set, first;
    explicit exchange(const T &mine) {
        static_assert(sizeof(T) <= sizeof(shown), "too much for one exchange");
        unsigned me = threadIdx.x;
        set = exchanges[me]++ % 2;
        first = me & ~31u;
        memcpy(shows[set][me].bytes, &mine, sizeof mine);
        yield(WARP_BARRIER);
    }
    T of(unsigned lane) const {
        T value;
        memcpy(&value, shows[set][first + lane].bytes, sizeof value);
        return value;
    }
};
} // namespace emulation

template <class T> T __shfl_xor_sync(unsigned, T value, int with) {
    emulation::exchange<T> exchange(value);
    return exchange.of((threadIdx.x & 31u) ^ static_cast<unsigned>(with));
}
template <class T> T __shfl_sync(unsigned, T value, int from) {
    emulation::exchange<T> exchange(value);
    return exchange.of(static_cast<unsigned>(from) & 31u);
}

inline unsigned atomicAdd(unsigned *at, unsigned value) {
    unsigned old = *at;
    *at += value;
    return old;
}

struct float2 {
    float x, y;
};
struct uint4 {
    unsigned x, y, z, w;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return uint4{x, y, z, w};
}
inline float __uint_as_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
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

#include "intrinsics.h"

// --- the runtime's calls ---
inline const char *cudaGetErrorString(cudaError_t code) {
    switch (code) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    default: return "an emulated error";
    }
}
inline cudaError_t cudaGetLastError() {
    cudaError_t code = emulation::last;
    emulation::last = cudaSuccess;
    return emulation::told(code);
}
inline cudaError_t cudaGetDeviceCount(int *count) {
    *count = static_cast<int>(emulation::number_of("EMULATED_DEVICES", 1));
    return *count ? cudaSuccess : cudaErrorNoDevice;
}
inline cudaError_t cudaSetDevice(int) { return emulation::told(cudaSuccess); }
inline cudaError_t cudaDriverGetVersion(int *version) { return *version = 13000, cudaSuccess; }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp *out, int) {
    *out = cudaDeviceProp{"emulated on the CPU", emulation::total(), 9, 0, 2};
    return cudaSuccess;
}
enum cudaDeviceAttr {
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76
};
inline cudaError_t cudaDeviceGetAttribute(int *out, cudaDeviceAttr attribute, int) {
    *out = attribute == cudaDevAttrMultiProcessorCount      ? 2
           : attribute == cudaDevAttrComputeCapabilityMajor ? 9
                                                            : 0;
    return emulation::told(cudaSuccess);
}
inline cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
    *total = emulation::total();
    *available = *total - (emulation::allocated < *total ? emulation::allocated : *total);
    return emulation::told(cudaSuccess);
}
inline cudaError_t cudaDeviceSynchronize() { return emulation::told(cudaSuccess); }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return emulation::told(cudaSuccess); }
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned) {
    return *out = new CUstream_st, emulation::told(cudaSuccess);
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) { return delete stream, cudaSuccess; }
// The size stands before what is allocated; fresh memory is not zero, as on a device.
inline cudaError_t cudaMalloc(void **out, size_t size) {
    std::lock_guard<std::recursive_mutex> guard(emulation::mutex);
    if (emulation::lost) return cudaErrorIllegalAddress;
    if (size > emulation::total() || emulation::allocated > emulation::total() - size)
        return emulation::last = cudaErrorMemoryAllocation;
    char *memory = static_cast<char *>(aligned_alloc(256, 256 + (size + 255) / 256 * 256));
    if (!memory) return emulation::last = cudaErrorMemoryAllocation;
    memcpy(memory, &size, sizeof size);
    memset(memory + 256, 0xA5, size);
    emulation::allocated += size;
    return *out = memory + 256, cudaSuccess;
}
inline cudaError_t cudaFree(void *memory) {
    std::lock_guard<std::recursive_mutex> guard(emulation::mutex);
    if (!memory) return cudaSuccess;
    char *start = static_cast<char *>(memory) - 256;
    size_t size;
    memcpy(&size, start, sizeof size);
    emulation::allocated -= size;
    return free(start), emulation::told(cudaSuccess);
}
inline cudaError_t cudaMallocHost(void **out, size_t size) {
    return (*out = malloc(size)) ? emulation::told(cudaSuccess) : cudaErrorMemoryAllocation;
}
inline cudaError_t cudaFreeHost(void *memory) { return free(memory), cudaSuccess; }
inline cudaError_t cudaMemset(void *to, int value, size_t size) {
    return memset(to, value, size), emulation::told(cudaSuccess);
}
inline cudaError_t cudaMemsetAsync(void *to, int value, size_t size, cudaStream_t) {
    if (!emulation::recording) return cudaMemset(to, value, size);
    emulation::recorded.push_back([=] { cudaMemset(to, value, size); });
    return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void *to, const void *from, size_t size, cudaMemcpyKind kind) {
    if (emulation::lost) return cudaErrorIllegalAddress;
    if (kind == cudaMemcpyDeviceToHost && size >= emulation::number_of("EMULATED_TEAR", SIZE_MAX)) {
        memmove(to, from, size / 2);
        emulation::lost = true;
        return cudaErrorIllegalAddress;
    }
    return memmove(to, from, size), cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, cudaMemcpyKind kind,
                                   cudaStream_t) {
    if (!emulation::recording) return cudaMemcpy(to, from, size, kind);
    emulation::recorded.push_back([=] { cudaMemcpy(to, from, size, kind); });
    return cudaSuccess;
}

// --- events and graphs: a stream is done as soon as it is asked ---
struct CUevent_st {
    std::chrono::steady_clock::time_point at;
};
typedef CUevent_st *cudaEvent_t;
struct CUgraph_st {
    std::vector<std::function<void()>> work;
};
typedef CUgraph_st *cudaGraph_t, *cudaGraphExec_t;
enum { cudaEventDisableTiming = 2 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
template <class T> cudaError_t cudaFuncSetAttribute(T, cudaFuncAttribute, int) {
    return emulation::told(cudaSuccess);
}
inline cudaError_t cudaEventCreate(cudaEvent_t *out) {
    return *out = new CUevent_st, emulation::told(cudaSuccess);
}
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned) {
    return cudaEventCreate(out);
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
    return event->at = std::chrono::steady_clock::now(), emulation::told(cudaSuccess);
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return emulation::told(cudaSuccess); }
inline cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to) {
    return *ms = std::chrono::duration<float, std::milli>(to->at - from->at).count(),
           emulation::told(cudaSuccess);
}
inline cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) {
    return emulation::told(cudaSuccess);
}
inline cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
    if (emulation::recording) return cudaErrorInvalidValue;
    emulation::recording = true;
    return emulation::told(cudaSuccess);
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *out) {
    if (!emulation::recording) return cudaErrorInvalidValue;
    emulation::recording = false;
    *out = new CUgraph_st{std::move(emulation::recorded)};
    emulation::recorded.clear();
    return emulation::told(cudaSuccess);
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph,
                                        unsigned long long) {
    return *out = new CUgraph_st(*graph), emulation::told(cudaSuccess);
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return delete graph, cudaSuccess; }
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t) {
    for (auto &work : graph->work) work();
    return emulation::told(cudaSuccess);
}

#endif
