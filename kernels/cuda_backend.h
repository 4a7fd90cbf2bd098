/* Finds the CUDA backend at start, if there is one: programs are built and run without CUDA, and use it where it is.
 *
 * The backend is a shared object beside the program (bin/atoll-kernels-cuda.so), opened with dlopen. Whatever is missing (the
 * file, the driver, a device) is not an error of the program: cuda_backend_open says so in one line and the CPU does the work.
 */
#ifndef KERNELS_CUDA_BACKEND_H
#define KERNELS_CUDA_BACKEND_H

#include "base/status.h"
#include "kernels/cuda_operations.h"

enum { CUDA_BACKEND_FOUND_SIZE = 256 };

struct cuda_backend {
    const struct cuda_operations *operations; /* lent until cuda_backend_close */
    char found[CUDA_BACKEND_FOUND_SIZE];      /* "NVIDIA H100 80GB HBM3, 79 GiB, compute 9.0" */
    void *library;
};

/* path NULL: atoll-kernels-cuda.so in the directory of the running program. UNAVAILABLE where there is no such file, no driver
 * or no device; INVALID where the file is something else or from another build. The error is one line made to be logged, such
 * as "no CUDA, using the CPU: …/atoll-kernels-cuda.so: CUDA driver version is insufficient". */
MUST_USE enum status cuda_backend_open(const char *path, struct cuda_backend *out, struct error *error);
/* All device memory must have been released. {0} and NULL are no-ops. */
void cuda_backend_close(struct cuda_backend *backend);
/* A struct cuda_operations function's answer as a status: OK for NULL, else FAILED with `what` in front. */
MUST_USE enum status cuda_backend_status(const char *answer, const char *what, struct error *error);

#endif
