// The shared object's one exported function, and what has to do with the device rather than with arithmetic.
#include <cstdio>

#include "kernels/cuda/device.cuh"

namespace {

const char *open_device(char *description, size_t description_size) {
    int devices = 0;
    cudaError_t code = cudaGetDeviceCount(&devices);
    if (code != cudaSuccess) return text_of(code);
    if (devices == 0) return "no CUDA device";
    cudaDeviceProp properties;
    code = cudaGetDeviceProperties(&properties, 0);
    if (code == cudaSuccess) code = cudaSetDevice(0);
    if (code != cudaSuccess) return text_of(code);
    if (properties.major < 8) return "the CUDA device is older than compute capability 8.0";
    snprintf(description, description_size, "%s, %zu GiB, compute %d.%d", properties.name, properties.totalGlobalMem >> 30,
             properties.major, properties.minor);
    return nullptr;
}

const char *allocate(size_t size, struct device_memory *out) {
    void *memory = nullptr;
    size += size == 0;
    cudaError_t code = cudaMalloc(&memory, size);
    if (code != cudaSuccess) return text_of(code);
    code = cudaMemset(memory, 0, size);
    if (code != cudaSuccess) {
        cudaFree(memory);
        return text_of(code);
    }
    out->address = reinterpret_cast<uint64_t>(memory);
    return nullptr;
}

void release(struct device_memory memory) { cudaFree(device_pointer<void>(memory)); }

const char *upload(struct device_memory to, size_t offset, const void *from, size_t size) {
    return text_of(cudaMemcpy(device_pointer<char>(to) + offset, from, size, cudaMemcpyHostToDevice));
}

const char *download(void *to, struct device_memory from, size_t offset, size_t size) {
    return text_of(cudaMemcpy(to, device_pointer<char>(from) + offset, size, cudaMemcpyDeviceToHost));
}

const char *synchronize() { return text_of(cudaDeviceSynchronize()); }

} // namespace

extern "C" const struct cuda_operations *atoll_cuda_operations(void);
extern "C" const struct cuda_operations *atoll_cuda_operations(void) {
    static struct cuda_operations operations = {};
    operations.version = CUDA_OPERATIONS_VERSION;
    operations.struct_size = sizeof operations;
    operations.open = open_device;
    operations.allocate = allocate;
    operations.release = release;
    operations.upload = upload;
    operations.download = download;
    operations.synchronize = synchronize;
    operations.select = select_launch;
    elementwise_install(&operations);
    return &operations;
}
