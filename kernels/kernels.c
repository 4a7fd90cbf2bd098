#include "kernels/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/tables.h"

#define ENVIRONMENT "ATOLL_KERNELS"

static bool always(void) { return true; }
#ifdef __x86_64__
static bool has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
static bool has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
static bool has_avx512bf16(void) { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
#endif

/* Slowest first. */
static const struct {
    const struct kernels *table;
    bool (*runs_here)(void);
} tables[] = {
    {&kernels_portable, always},
#ifdef __x86_64__
    {&kernels_avx2, has_avx2},
    {&kernels_avx512, has_avx512},
    {&kernels_avx512bf16, has_avx512bf16},
#endif
};
enum { TABLE_COUNT = sizeof tables / sizeof tables[0] };

const struct kernels *kernels_at(size_t index) {
    for (size_t i = 0; i < TABLE_COUNT; i++)
        if (tables[i].runs_here() && index-- == 0) return tables[i].table;
    return NULL;
}

enum status kernels_find(const char *name, const struct kernels **out, struct error *error) {
    if (!name) return kernels_default(out, error);
    char list[128] = "";
    const struct kernels *table;
    for (size_t i = 0; (table = kernels_at(i)); i++) {
        if (strcmp(table->name, name) == 0) {
            *out = table;
            return OK;
        }
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", used ? ", " : "", table->name);
    }
    const char *why = "there are no kernels named";
    for (size_t i = 0; i < TABLE_COUNT; i++)
        if (strcmp(tables[i].table->name, name) == 0) why = "this processor cannot run kernels";
    return error_set(error, INVALID, "%s \"%.40s\"; it can run %s", why, name, list);
}

enum status kernels_default(const struct kernels **out, struct error *error) {
    const char *name = getenv(ENVIRONMENT);
    if (name && *name) {
        enum status status = kernels_find(name, out, error);
        return status == OK ? OK : error_wrap(error, status, ENVIRONMENT);
    }
    for (size_t i = 0; kernels_at(i); i++) *out = kernels_at(i);
    return OK;
}
