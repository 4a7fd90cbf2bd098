/* Opens the CUDA backend with dlopen and checks its version (kernels/cuda_backend.h). Every reason
 * not to use it is one line of text; only device=cuda turns that line into an error. Also turns
 * the backend's failures into statuses. */
#include "kernels/cuda_backend.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"

static const char library_name[] = "atoll-kernels-cuda.so";

/* Beside the program, or where `make install` puts it (../lib/atoll), and nowhere else: a search
 * path would let a stranger's library in. Where it is in neither, the first of the two, to be
 * named. */
static enum status find_library(char *out, size_t size, struct error *error) {
    static const char *const folders[] = {"", "../lib/atoll/"};
    char program[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length < 0)
        return error_set(error, UNAVAILABLE,
                         "no CUDA, using the CPU: cannot tell where this program is");
    program[length] = 0;
    char *slash = strrchr(program, '/');
    for (size_t i = COUNT_OF(folders);
         i-- > 0;) { /* the last that is written is the one beside the program */
        int written = snprintf(out, size, "%.*s/%s%s", slash ? (int)(slash - program) : 1,
                               slash ? program : ".", folders[i], library_name);
        if (written < 0 || (size_t)written >= size)
            return error_set(error, UNAVAILABLE, "no CUDA, using the CPU: path is too long");
        if (access(out, R_OK) == 0) break;
    }
    return OK;
}

static enum status take_operations(void *library, const char *path,
                                   const struct cuda_operations **out, struct error *error) {
    /* POSIX lets a function's address travel as void *; ISO C does not, hence the copy. */
    const struct cuda_operations *(*get)(void) = NULL;
    void *symbol = dlsym(library, CUDA_OPERATIONS_SYMBOL);
    memcpy(&get, &symbol, sizeof get);
    if (!get)
        return error_set(error, INVALID, "no CUDA, using the CPU: %s has no %s", path,
                         CUDA_OPERATIONS_SYMBOL);
    const struct cuda_operations *operations = get();
    if (operations->version != CUDA_OPERATIONS_VERSION ||
        operations->struct_size != sizeof *operations) {
        return error_set(
            error, INVALID,
            "no CUDA, using the CPU: %s has interface version %u, this program needs %d", path,
            operations->version, CUDA_OPERATIONS_VERSION);
    }
    *out = operations;
    return OK;
}

enum status cuda_backend_open(const char *path, struct cuda_backend *out, struct error *error) {
    char beside[PATH_MAX];
    if (!path) {
        TRY(find_library(beside, sizeof beside, error));
        path = beside;
    }
    if (access(path, R_OK) != 0)
        return error_set(error, UNAVAILABLE, "no CUDA, using the CPU: there is no %s", path);
    struct cuda_backend backend = {.library = dlopen(path, RTLD_NOW | RTLD_LOCAL)};
    if (!backend.library) return error_set(error, INVALID, "no CUDA, using the CPU: %s", dlerror());
    enum status status = take_operations(backend.library, path, &backend.operations, error);
    if (status != OK) goto out;
    const char *why = backend.operations->open(&backend.device);
    if (why) {
        status = error_set(error, UNAVAILABLE, "no CUDA, using the CPU: %s: %s", path, why);
        goto out;
    }
    const struct cuda_device *d = &backend.device;
    snprintf(backend.found, sizeof backend.found,
             "%s, %llu GiB, compute %d.%d, driver for CUDA %d.%d", d->name,
             (unsigned long long)(d->memory >> 30), d->major, d->minor, d->driver / 1000,
             d->driver % 1000 / 10);
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

const char *const device_choice_names[] = {"cpu", "cuda", "auto", NULL};

enum status cuda_backend_find(enum device_choice choice, const char *path, struct cuda_backend *out,
                              char line[ERROR_MESSAGE_SIZE], struct error *error) {
    struct error why = {0};
    struct cuda_backend backend = {0};
    if (choice == DEVICE_CPU) {
        snprintf(line, ERROR_MESSAGE_SIZE, "the CPU, as asked");
    } else if (cuda_backend_open(path, &backend, &why) == OK) {
        snprintf(line, ERROR_MESSAGE_SIZE, "%s", backend.found);
    } else if (choice == DEVICE_CUDA) {
        static const char cpu[] = ", using the CPU"; /* which is just what was not wanted */
        const char *at = strstr(why.message, cpu);
        return error_set(error, why.status,
                         "device is set to cuda, and there is %.*s%.300s; set it to auto or cpu to "
                         "go on without",
                         at ? (int)(at - why.message) : 0, why.message,
                         at ? at + sizeof cpu - 1 : why.message);
    } else {
        snprintf(line, ERROR_MESSAGE_SIZE, "%s", why.message);
    }
    *out = backend;
    return OK;
}

enum status cuda_backend_status(const struct cuda_operations *operations, const char *answer,
                                const char *what, struct error *error) {
    if (!answer) return OK;
    static const enum status statuses[] = {[CUDA_FAILURE_NONE] = FAILED,
                                           [CUDA_FAILURE_OTHER] = FAILED,
                                           [CUDA_FAILURE_MEMORY] = FULL,
                                           [CUDA_FAILURE_LOST] = UNAVAILABLE,
                                           [CUDA_FAILURE_INPUT] = INVALID};
    unsigned kind = (unsigned)operations->failure();
    return error_set(error, kind < COUNT_OF(statuses) ? statuses[kind] : FAILED, "%s: %s", what,
                     answer);
}
