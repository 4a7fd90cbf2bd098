/* The border between the programs (C11) and the CUDA backend (C++17, a shared object of its own): one struct of functions.
 *
 * Both sides include this file and nothing else of each other's. The shared object exports one symbol, which returns the
 * struct; version and struct_size tell a loader whether it was built from this very text. No CUDA type crosses the border:
 * device memory is a struct of its own, so that it cannot be dereferenced here by mistake.
 *
 * Every function returns NULL, or a text that says what failed (static storage, or the driver's). Work is queued on one
 * stream, in order; upload, download, is_finite, norm_squared and synchronize wait for it. One thread at a time.
 *
 * The arithmetic is kernels/elementwise.h's, operation by operation and bit by bit; [count] floats each unless it says so.
 */
#ifndef KERNELS_CUDA_OPERATIONS_H
#define KERNELS_CUDA_OPERATIONS_H

#include <stddef.h>
#include <stdint.h>

enum { CUDA_OPERATIONS_VERSION = 1, CUDA_SELECT_CHUNK = 4096, CUDA_SELECT_MAX = 128 };
#define CUDA_OPERATIONS_SYMBOL "atoll_cuda_operations"

struct device_memory { /* an address on the device; 0 is none */
    uint64_t address;
};

struct cuda_operations {
    uint32_t version, struct_size;

    /* --- device and memory --- */
    /* Uses the first device there is and describes it, terminated: "NVIDIA H100, 79 GiB, compute 9.0". */
    const char *(*open)(char *description, size_t description_size);
    const char *(*allocate)(size_t size, struct device_memory *out); /* zeroed */
    void (*release)(struct device_memory memory);
    const char *(*upload)(struct device_memory to, size_t offset, const void *from, size_t size);
    const char *(*download)(void *to, struct device_memory from, size_t offset, size_t size);
    const char *(*synchronize)(void);

    /* --- as in kernels/elementwise.h --- */
    const char *(*add)(struct device_memory out, struct device_memory a, struct device_memory b, size_t count);
    const char *(*subtract)(struct device_memory out, struct device_memory a, struct device_memory b, size_t count);
    const char *(*scale)(struct device_memory out, struct device_memory a, float scale, size_t count);
    const char *(*add_scaled)(struct device_memory out, struct device_memory a, float scale, size_t count);
    const char *(*feedback)(struct device_memory e, struct device_memory delta, float decay, size_t count);
    const char *(*rebase)(struct device_memory local, struct device_memory fresh, struct device_memory origin, size_t count);
    const char *(*nesterov_between)(struct device_memory theta, struct device_memory sum, struct device_memory g, float rate,
                                    float period, size_t count);
    const char *(*nesterov_end)(struct device_memory theta, struct device_memory momentum, struct device_memory sum,
                                struct device_memory g, float rate, float beta, float period, size_t count);
    const char *(*sgd)(struct device_memory theta, struct device_memory q, float weight, size_t count);
    const char *(*sgd_mean)(struct device_memory theta, struct device_memory sum, struct device_memory senders, float weight,
                            size_t count); /* senders: uint16_t [count] */
    /* index: uint32_t [count], all different, as within one message; senders may be none. */
    const char *(*scatter_add)(struct device_memory sum, struct device_memory senders, struct device_memory index,
                               struct device_memory value, float scale, size_t count);
    const char *(*is_finite)(struct device_memory a, size_t count, int *out);
    const char *(*norm_squared)(struct device_memory a, size_t count, double *out);

    /* --- topk2's selection --- */
    /* e = (decay · e) + (base − local), and of each CUDA_SELECT_CHUNK elements of it the ceil(n · keep / 4096) largest, as
     * codec/select.h chooses them. With c the chunk: sent[c] says how many; index[c · keep …] (uint16_t, within the chunk,
     * increasing) and value[c · keep …] which. keep <= CUDA_SELECT_MAX. */
    const char *(*select)(struct device_memory e, struct device_memory base, struct device_memory local, float decay,
                          size_t count, uint32_t keep, struct device_memory sent, struct device_memory index,
                          struct device_memory value);
};

#endif
