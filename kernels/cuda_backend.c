#include "kernels/cuda_backend.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char library_name[] = "atoll-kernels-cuda.so";

/* Beside the program and nowhere else: a search path would let a stranger's library in. */
static enum status beside_the_program(char *out, size_t size, struct error *error) {
    char program[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length < 0) return error_set(error, UNAVAILABLE, "no CUDA, using the CPU: cannot tell where this program is");
    program[length] = 0;
    char *slash = strrchr(program, '/');
    int written = snprintf(out, size, "%.*s/%s", slash ? (int)(slash - program) : 1, slash ? program : ".", library_name);
    if (written < 0 || (size_t)written >= size) return error_set(error, UNAVAILABLE, "no CUDA, using the CPU: path is too long");
    return OK;
}

static enum status take_operations(void *library, const char *path, const struct cuda_operations **out, struct error *error) {
    /* POSIX lets a function's address travel as void *; ISO C does not, hence the copy. */
    const struct cuda_operations *(*get)(void) = NULL;
    void *symbol = dlsym(library, CUDA_OPERATIONS_SYMBOL);
    memcpy(&get, &symbol, sizeof get);
    if (!get) return error_set(error, INVALID, "no CUDA, using the CPU: %s has no %s", path, CUDA_OPERATIONS_SYMBOL);
    const struct cuda_operations *operations = get();
    if (operations->version != CUDA_OPERATIONS_VERSION || operations->struct_size != sizeof *operations) {
        return error_set(error, INVALID, "no CUDA, using the CPU: %s has interface version %u, this program wants %d", path,
                         operations->version, CUDA_OPERATIONS_VERSION);
    }
    *out = operations;
    return OK;
}

enum status cuda_backend_open(const char *path, struct cuda_backend *out, struct error *error) {
    char beside[PATH_MAX];
    if (!path) {
        TRY(beside_the_program(beside, sizeof beside, error));
        path = beside;
    }
    if (access(path, R_OK) != 0) return error_set(error, UNAVAILABLE, "no CUDA, using the CPU: there is no %s", path);
    struct cuda_backend backend = {.library = dlopen(path, RTLD_NOW | RTLD_LOCAL)};
    if (!backend.library) return error_set(error, INVALID, "no CUDA, using the CPU: %s", dlerror());
    enum status status = take_operations(backend.library, path, &backend.operations, error);
    if (status != OK) goto out;
    const char *why = backend.operations->open(backend.found, sizeof backend.found);
    if (why) {
        status = error_set(error, UNAVAILABLE, "no CUDA, using the CPU: %s: %s", path, why);
        goto out;
    }
    *out = backend;
    return OK;
out:
    dlclose(backend.library);
    return status;
}

void cuda_backend_close(struct cuda_backend *backend) {
    if (!backend || !backend->library) return;
    dlclose(backend->library);
    *backend = (struct cuda_backend){0};
}

enum status cuda_backend_status(const char *answer, const char *what, struct error *error) {
    if (!answer) return OK;
    return error_set(error, FAILED, "%s: %s", what, answer);
}
