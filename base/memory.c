/* Allocation (base/memory.h). The x functions abort with a line on stderr when memory is out;
 * memory_try returns FULL, and what it returns is zeroed and aligned to 64 bytes. */
#include "base/memory.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

__attribute__((noreturn)) static void out_of_memory(size_t size) {
    fprintf(stderr, "out of memory: %zu bytes of control data\n", size);
    abort();
}

void *xmalloc(size_t size) {
    void *pointer = malloc(size ? size : 1);
    if (!pointer) out_of_memory(size);
    return pointer;
}

void *xcalloc(size_t count, size_t size) {
    void *pointer = calloc(count ? count : 1, size ? size : 1);
    if (!pointer) out_of_memory(count);
    return pointer;
}

void *xrealloc(void *old, size_t size) {
    void *pointer = realloc(old, size ? size : 1);
    if (!pointer) out_of_memory(size);
    return pointer;
}

char *xstrdup(const char *text) {
    size_t size = strlen(text) + 1;
    return memcpy(xmalloc(size), text, size);
}

char *xformat(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    ASSERT(size >= 0);
    char *text = xmalloc((size_t)size + 1);
    va_start(arguments, format);
    vsnprintf(text, (size_t)size + 1, format, arguments);
    va_end(arguments);
    return text;
}

enum status memory_try(size_t count, size_t size, void **out, struct error *error) {
    size_t total = 0;
    if (__builtin_mul_overflow(count, size, &total) || total > SIZE_MAX - 64) {
        return error_set(error, INVALID, "an array of %zu items of %zu bytes overflows", count,
                         size);
    }
    size_t rounded = (total + 63) / 64 * 64;
    void *pointer = aligned_alloc(64, rounded ? rounded : 64);
    if (!pointer) return error_set(error, FULL, "cannot allocate %zu bytes", total);
    memset(pointer, 0, rounded ? rounded : 64);
    *out = pointer;
    return OK;
}

/* The compiler must believe that somebody looks at it afterwards. */
void clear(void *pointer, size_t size) {
    if (size == 0) return;
    memset(pointer, 0, size);
    __asm__ volatile("" : : "r"(pointer) : "memory");
}

void free_clearing(void *pointer, size_t size) {
    if (!pointer) return;
    clear(pointer, size);
    free(pointer);
}
