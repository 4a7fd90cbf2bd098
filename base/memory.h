/* Memory for small control data, which aborts when there is none, and for model-sized arrays, which
 * fails with a status.
 *
 * Anything whose size a peer chooses is bounded first and taken with memory_try. Secrets are freed
 * with free_clearing.
 */
#ifndef BASE_MEMORY_H
#define BASE_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* These never return NULL; a size of 0 gives a unique pointer that may be freed. All are freed with
 * free(). */
void *xmalloc(size_t size);
void *xcalloc(size_t count, size_t size); /* zeroed; aborts on overflow of count * size */
void *xrealloc(void *old, size_t size);
char *xstrdup(const char *text);
char *xformat(const char *format, ...) PRINTF_LIKE(1, 2); /* asprintf that cannot fail */

/* One zeroed array of `count` items of `size` bytes, 64-byte aligned, for model-sized data; *out is
 * freed with free(). FULL if the machine has not that much. */
MUST_USE enum status memory_try(size_t count, size_t size, void **out, struct error *error);

/* Overwrites before freeing, so that a secret does not outlive its use. NULL is a no-op. */
void free_clearing(void *pointer, size_t size);
void clear(void *pointer, size_t size);

#endif
