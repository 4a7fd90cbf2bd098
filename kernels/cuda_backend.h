/* Finds the CUDA backend at start, if there is one: programs are built and run without CUDA, and
 * use it where it is.
 *
 * The backend is a shared object beside the program (bin/atoll-kernels-cuda.so) or in ../lib/atoll,
 * opened with dlopen. Whatever is missing (the file, the driver, a device) is not an error of the
 * program: cuda_backend_open says so in one line and the CPU does the work.
 */
#ifndef KERNELS_CUDA_BACKEND_H
#define KERNELS_CUDA_BACKEND_H

#include "base/status.h"
#include "kernels/cuda_operations.h"
#include "kernels/device_choice.h"

enum { CUDA_BACKEND_FOUND_SIZE = 384 };

struct cuda_backend {
    const struct cuda_operations *operations; /* lent until cuda_backend_close */
    struct cuda_device device;
    char found[CUDA_BACKEND_FOUND_SIZE]; /* "NVIDIA H100 80GB HBM3, 79 GiB, compute 9.0, driver for
                                            CUDA 13.0" */
    void *library;
};

/* path NULL: atoll-kernels-cuda.so in the directory of the running program, else in ../lib/atoll of
 * it. UNAVAILABLE where there is no such file, no driver or no device; INVALID where the file is
 * something else or from another build. The error is one line made to be logged, such as "no CUDA,
 * using the CPU: …/atoll-kernels-cuda.so: CUDA driver version is insufficient". */
MUST_USE enum status cuda_backend_open(const char *path, struct cuda_backend *out,
                                       struct error *error);
/* All device memory must have been released. {0} and NULL are no-ops. */
void cuda_backend_close(struct cuda_backend *backend);

/* Opens what is chosen, and writes one line for the log to say: what was found, or why the CPU
 * does the work. OK with out->operations NULL where the CPU is to do it (cpu; auto and nothing
 * found). With DEVICE_CUDA, an error where none can be used: it says why and what to set
 * instead. */
MUST_USE enum status cuda_backend_find(enum device_choice choice, const char *path,
                                       struct cuda_backend *out, char line[ERROR_MESSAGE_SIZE],
                                       struct error *error);

/* A struct cuda_operations function's answer as a status, with `what` in front: OK for NULL; FULL
 * where device memory is out; UNAVAILABLE where the device is lost, which no retry within this
 * process heals; INVALID for the arguments; else FAILED. To be called by the thread that got the
 * answer. */
MUST_USE enum status cuda_backend_status(const struct cuda_operations *operations,
                                         const char *answer, const char *what, struct error *error);

#endif
