// What attention by wgmma needs beside its kernels (attention_hopper.cuh): the driver's tensor
// maps, and what a kernel said before it gave up.
#include <cstdio>
#include <cstdlib>

#include "kernels/cuda/attention_hopper.cuh"

bool hopper_attention_can(const hopper_attention *hopper, unsigned size) {
    return hopper && (size == 64 || size == 128);
}

const char *hopper_attention_map(const hopper_attention *hopper, tensor_map *out, const bf16 *from,
                                 const attention_arguments &a, unsigned heads, unsigned size) {
    const cuuint64_t shape[4] = {size, heads, a.length, a.sequences};
    const cuuint64_t strides[3] = {uint64_t{size} * 2, uint64_t{heads} * size * 2,
                                   uint64_t{a.length} * heads * size * 2};
    const cuuint32_t box[4] = {PANEL, 1, BOX_ROWS, 1}, each[4] = {1, 1, 1, 1};
    CUresult result = hopper->encode(
        out, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<bf16 *>(from), shape, strides, box,
        each, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result == CUDA_SUCCESS) return nullptr;
    return fail(CUDA_FAILURE_OTHER, "cuTensorMapEncodeTiled: error %d", static_cast<int>(result));
}

unsigned hopper_attention_blocks(const hopper_attention *hopper, const attention_arguments &a,
                                 unsigned heads) {
    unsigned items = (a.tiles + 1) / 2 * heads * a.sequences;
    return items < hopper->multiprocessors ? items : hopper->multiprocessors;
}

const char *hopper_attention_explain(const hopper_attention *hopper, const char *why) {
    static const char *const names[] = {
        "nothing",     "the tile that stays", "its readers",        "a part",
        "its readers", "a part's values",     "the values' readers"};
    uint64_t complaint = hopper ? *hopper->complaint : 0;
    if (!complaint) return why;
    char copy[CUDA_FAILURE_SIZE];
    snprintf(copy, sizeof copy, "%.120s", why);
    unsigned what =
        complaint % 256 < sizeof names / sizeof *names ? static_cast<unsigned>(complaint % 256) : 0;
    return fail(CUDA_FAILURE_LOST,
                "%s; attention by wgmma waited too long for %s (barrier %u, warp %u, block %u)",
                copy, names[what], static_cast<unsigned>(complaint % 256),
                static_cast<unsigned>(complaint >> 8 & 0xFF),
                static_cast<unsigned>(complaint >> 16));
}

static const char *fill(hopper_attention *hopper) {
    int multiprocessors = 0;
    void *complaint = nullptr;
    TRY_CUDA(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0));
    TRY_CUDA(cudaMallocHost(&complaint, sizeof *hopper->complaint));
    hopper->multiprocessors = static_cast<unsigned>(multiprocessors);
    hopper->complaint = static_cast<volatile uint64_t *>(complaint);
    *hopper->complaint = 0;
    return nullptr;
}

const char *hopper_attention_open(hopper_attention **out) {
    int major = 0, minor = 0;
    void *encode = nullptr;
    cudaDriverEntryPointQueryResult found;
    *out = nullptr;
    TRY_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
    TRY_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0));
    if (major != 9 || minor != 0) return nullptr;
#if CUDART_VERSION >= 12050
    cudaError_t code = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode, 12000,
                                                        cudaEnableDefault, &found);
#else
    cudaError_t code =
        cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &encode, cudaEnableDefault, &found);
#endif
    if (code != cudaSuccess || found != cudaDriverEntryPointSuccess || !encode)
        return (void)cudaGetLastError(), nullptr;
    hopper_attention *hopper = static_cast<hopper_attention *>(calloc(1, sizeof *hopper));
    if (!hopper) return fail(CUDA_FAILURE_MEMORY, "out of host memory");
    hopper->encode = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(encode);
    const char *why = fill(hopper);
    if (why)
        hopper_attention_close(hopper);
    else
        *out = hopper;
    return why;
}

void hopper_attention_close(hopper_attention *hopper) {
    if (!hopper) return;
    if (hopper->complaint) (void)cudaFreeHost(const_cast<uint64_t *>(hopper->complaint));
    free(hopper);
}
