// The shared object's one exported function, and what has to do with the device rather than with
// arithmetic: opening, memory, streams, and failures.
#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/cuda/device.cuh"

namespace {

// --- failures ---

// The runtime keeps a last error for each thread, and so do we.
thread_local char failure_text[CUDA_FAILURE_SIZE];
thread_local enum cuda_failure failure_kind = CUDA_FAILURE_NONE;
thread_local cudaStream_t stream = nullptr;
std::atomic<bool> lost{false};

// What no later call survives: the driver answers everything with the same code until the process
// ends.
bool loses_the_device(cudaError_t code) {
    switch (code) {
    case cudaErrorDevicesUnavailable:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalAddress:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorContextIsDestroyed:
    case cudaErrorDeviceUninitialized:
    case cudaErrorUnknown: return true;
    default: return false;
    }
}

double gib(size_t size) { return static_cast<double>(size) / (1 << 30); }

enum cuda_failure failure() { return lost ? CUDA_FAILURE_LOST : failure_kind; }

} // namespace

const char *fail(enum cuda_failure kind, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(failure_text, sizeof failure_text, format, arguments);
    va_end(arguments);
    failure_kind = kind;
    return failure_text;
}

const char *cuda_answer(cudaError_t code, const char *call) {
    if (code == cudaSuccess) return nullptr;
    cudaGetLastError(); // or it would be told again, of the next launch
    bool gone = loses_the_device(code);
    if (gone) lost = true;
    return fail(gone                                ? CUDA_FAILURE_LOST
                : code == cudaErrorMemoryAllocation ? CUDA_FAILURE_MEMORY
                                                    : CUDA_FAILURE_OTHER,
                "%.*s: %s%s", static_cast<int>(strcspn(call, "(")), call,
                gone ? "the device is lost: " : "", cudaGetErrorString(code));
}

const char *device_allocate(void **out, size_t size) {
    void *memory = nullptr;
    size += size == 0;
    cudaError_t code = cudaMalloc(&memory, size);
    if (code == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        size_t available = 0, total = 0;
        if (cudaMemGetInfo(&available, &total) != cudaSuccess)
            return cuda_answer(code, "cudaMalloc");
        return fail(CUDA_FAILURE_MEMORY,
                    "out of device memory: asked for %.3f GiB, %.3f GiB of %.3f GiB are free",
                    gib(size), gib(available), gib(total));
    }
    TRY_CUDA(answer_of(code, "cudaMalloc"));
    *out = memory;
    return nullptr;
}

cudaStream_t current_stream() { return stream; }

namespace {

// --- the device ---

const char *open_device(struct cuda_device *out) {
    int devices = 0, driver = 0;
    cudaError_t code = cudaGetDeviceCount(&devices);
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (code == cudaErrorNoDevice || (code == cudaSuccess && devices == 0)) {
        cudaGetLastError();
        if (visible)
            return fail(CUDA_FAILURE_OTHER, "no CUDA device (CUDA_VISIBLE_DEVICES is \"%.80s\")",
                        visible);
        return fail(CUDA_FAILURE_OTHER, "no CUDA device");
    }
    if (code != cudaSuccess) {
        cudaGetLastError();
        // the driver's own words say it best: this is how a missing or old driver shows
        return fail(CUDA_FAILURE_OTHER, "%s", cudaGetErrorString(code));
    }
    cudaDeviceProp properties;
    TRY_CUDA(cudaGetDeviceProperties(&properties, 0));
    if (properties.major < 8)
        return fail(CUDA_FAILURE_OTHER, "%s has compute capability %d.%d, wanted 8.0 or later",
                    properties.name, properties.major, properties.minor);
    TRY_CUDA(cudaSetDevice(0));
    TRY_CUDA(cudaDriverGetVersion(&driver));
    *out = cuda_device{};
    snprintf(out->name, sizeof out->name, "%s", properties.name);
    out->memory = properties.totalGlobalMem;
    out->major = properties.major;
    out->minor = properties.minor;
    out->driver = driver;
    out->multiprocessors = properties.multiProcessorCount;
    return nullptr;
}

const char *memory(size_t *available, size_t *total) {
    TRY_CUDA(cudaMemGetInfo(available, total));
    return nullptr;
}

const char *allocate(size_t size, struct device_memory *out) {
    void *address = nullptr;
    TRY_CUDA(device_allocate(&address, size));
    const char *why = answer_of(cudaMemset(address, 0, size + (size == 0)), "cudaMemset");
    if (why) {
        cudaFree(address);
        return why;
    }
    out->address = reinterpret_cast<uint64_t>(address);
    return nullptr;
}

// A lost device frees nothing, and says so again at the next request.
void release(struct device_memory memory) { (void)cudaFree(device_pointer<void>(memory)); }

const char *allocate_host(size_t size, void **out) {
    void *address = nullptr;
    TRY_CUDA(cudaMallocHost(&address, size + (size == 0)));
    memset(address, 0, size);
    *out = address;
    return nullptr;
}

void release_host(void *address) { (void)cudaFreeHost(address); }

const char *upload_later(struct device_memory to, size_t offset, const void *from, size_t size) {
    TRY_CUDA(cudaMemcpyAsync(device_pointer<char>(to) + offset, from, size, cudaMemcpyHostToDevice,
                             stream));
    return nullptr;
}

const char *download_later(void *to, struct device_memory from, size_t offset, size_t size) {
    TRY_CUDA(cudaMemcpyAsync(to, device_pointer<char>(from) + offset, size, cudaMemcpyDeviceToHost,
                             stream));
    return nullptr;
}

const char *copy(struct device_memory to, size_t to_offset, struct device_memory from,
                 size_t from_offset, size_t size) {
    TRY_CUDA(cudaMemcpyAsync(device_pointer<char>(to) + to_offset,
                             device_pointer<char>(from) + from_offset, size,
                             cudaMemcpyDeviceToDevice, stream));
    return nullptr;
}

const char *clear(struct device_memory memory, size_t offset, size_t size) {
    TRY_CUDA(cudaMemsetAsync(device_pointer<char>(memory) + offset, 0, size, stream));
    return nullptr;
}

const char *synchronize() {
    TRY_CUDA(cudaStreamSynchronize(stream));
    return nullptr;
}

const char *upload(struct device_memory to, size_t offset, const void *from, size_t size) {
    TRY_CUDA(upload_later(to, offset, from, size));
    return synchronize();
}

const char *download(void *to, struct device_memory from, size_t offset, size_t size) {
    TRY_CUDA(download_later(to, from, offset, size));
    return synchronize();
}

// --- streams ---

cudaStream_t stream_of(struct device_stream handle) {
    return reinterpret_cast<cudaStream_t>(handle.handle);
}

const char *stream_create(struct device_stream *out) {
    cudaStream_t made = nullptr;
    TRY_CUDA(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking));
    out->handle = reinterpret_cast<uint64_t>(made);
    return nullptr;
}

void stream_destroy(struct device_stream handle) {
    if (handle.handle) (void)cudaStreamDestroy(stream_of(handle));
    if (stream == stream_of(handle)) stream = nullptr;
}

void stream_use(struct device_stream handle) { stream = stream_of(handle); }

} // namespace

extern "C" const struct cuda_operations *atoll_cuda_operations(void);
extern "C" const struct cuda_operations *atoll_cuda_operations(void) {
    static struct cuda_operations operations = {};
    operations.version = CUDA_OPERATIONS_VERSION;
    operations.struct_size = sizeof operations;
    operations.open = open_device;
    operations.failure = failure;
    operations.memory = memory;
    operations.allocate = allocate;
    operations.release = release;
    operations.allocate_host = allocate_host;
    operations.release_host = release_host;
    operations.upload = upload;
    operations.download = download;
    operations.upload_later = upload_later;
    operations.download_later = download_later;
    operations.copy = copy;
    operations.clear = clear;
    operations.stream_create = stream_create;
    operations.stream_destroy = stream_destroy;
    operations.stream_use = stream_use;
    operations.synchronize = synchronize;
    elementwise_install(&operations);
    codec_install(&operations);
    return &operations;
}
