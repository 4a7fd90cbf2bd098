/* The list of kernel tables, what each one needs of the processor, and the default
 * (kernels/kernels.h). Bodies are in kernels/cpu, one file per instruction set; AMX also needs the
 * kernel's permission, which is asked for once. */
#include "kernels/kernels.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __x86_64__
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "base/file.h"
#include "kernels/choice.h"
#include "kernels/cpu/tables.h"

#define ENVIRONMENT "ATOLL_KERNELS"

static bool always(void) { return true; }
#ifdef __x86_64__
static bool has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
static bool has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
static bool has_avx512bf16(void) { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }

/* The processor's tiles and their bfloat16 product (cpuid leaf 7), the system's willingness to save
 * tiles (xcr0), and its leave to use them, which a process asks for once and its later threads
 * inherit. */
static bool has_amx(void) {
    enum {
        OSXSAVE = 1 << 27,
        AMX_BF16 = 1 << 22,
        AMX_TILE = 1 << 24,
        XCR0_TILES = 3 << 17,
        REQUEST_PERMISSION = 0x1023,
        TILE_DATA = 18
    };
    unsigned a, b, c, d, low, high;
    if (!has_avx512() || !__get_cpuid(1, &a, &b, &c, &d) || !(c & OSXSAVE)) return false;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & AMX_BF16) || !(d & AMX_TILE))
        return false;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & XCR0_TILES) != XCR0_TILES) return false;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
#endif

/* By what they need of the processor. Which is the fastest is measured: kernels/choice.h. */
static const struct {
    const struct kernels *table;
    bool (*runs_here)(void);
} tables[] = {
    {&kernels_portable, always},
#ifdef __x86_64__
    {&kernels_avx2, has_avx2},
    {&kernels_avx512, has_avx512},
    {&kernels_avx512bf16, has_avx512bf16},
    {&kernels_amx, has_amx},
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

static struct kernels_choice chosen;
static pthread_once_t chosen_once = PTHREAD_ONCE_INIT;

/* The portable one is measured only where there is no other: it takes many times as long. */
static void choose(void) {
    const struct kernels *candidates[TABLE_COUNT];
    char processor[PROCESSOR_LINE_SIZE];
    size_t count = 0;
    for (size_t i = 0; kernels_at(i); i++)
        if (i > 0 || !kernels_at(1)) candidates[count++] = kernels_at(i);
    kernels_processor(candidates, count, processor);
    char *path = file_cache("kernels");
    kernels_choose(path, processor, candidates, count, &chosen);
    free(path);
}

static const struct kernels_choice *default_choice(void) {
    pthread_once(&chosen_once, choose);
    return &chosen;
}

enum status kernels_default(const struct kernels **out, struct error *error) {
    const char *name = getenv(ENVIRONMENT);
    if (name && *name) {
        enum status status = kernels_find(name, out, error);
        return status == OK ? OK : error_wrap(error, status, ENVIRONMENT);
    }
    *out = default_choice()->table;
    return OK;
}

const char *kernels_why(const struct kernels *kernels) {
    const char *name = getenv(ENVIRONMENT);
    if (name && strcmp(name, kernels->name) == 0) return "as " ENVIRONMENT " says";
    return default_choice()->table == kernels ? default_choice()->why : "asked for by name";
}
