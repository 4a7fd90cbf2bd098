/* What tests of safetensors files share. */
#ifndef TESTS_SAFETENSORS_WRITE_AS_H
#define TESTS_SAFETENSORS_WRITE_AS_H

#include <stdlib.h>

#include "base/memory.h"
#include "model/safetensors.h"

/* All tensors, in one type. */
static inline enum status write_as(const char *path, const struct layout *layout,
                                   const float *values, enum tensor_dtype dtype, int64_t version,
                                   struct error *error) {
    uint32_t *items = xcalloc(layout->tensor_count, sizeof *items);
    for (uint32_t i = 0; i < layout->tensor_count; i++) items[i] = i;
    const struct safetensors_part part = {
        .items = items, .count = layout->tensor_count, .dtype = &dtype, .version = version};
    enum status status = safetensors_write_part(path, layout, values, &part, error);
    free(items);
    return status;
}

#endif
