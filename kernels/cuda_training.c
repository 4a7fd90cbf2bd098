/* Finds the training half of the CUDA backend (kernels/cuda_training.h) in a library that
 * cuda_backend.c has opened, and checks its version. */
#include "kernels/cuda_training.h"

#include <dlfcn.h>
#include <string.h>

enum status cuda_training_find(const struct cuda_backend *backend, const struct cuda_training **out,
                               struct error *error) {
    const struct cuda_training *(*get)(void) = NULL;
    void *symbol = dlsym(backend->library, CUDA_TRAINING_SYMBOL);
    memcpy(&get, &symbol, sizeof get);
    if (!get)
        return error_set(error, INVALID, "no CUDA, using the CPU: the backend has no %s",
                         CUDA_TRAINING_SYMBOL);
    const struct cuda_training *training = get();
    if (training->version != CUDA_TRAINING_VERSION || training->struct_size != sizeof *training) {
        return error_set(error, INVALID,
                         "no CUDA, using the CPU: the backend's training interface has version %u, "
                         "this program needs %d",
                         training->version, CUDA_TRAINING_VERSION);
    }
    *out = training;
    return OK;
}
