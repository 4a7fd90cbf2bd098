/* The tables of kernels/cpu. A table whose instruction set the compiler cannot produce is absent
 * from the build altogether: its file is compiled only where the architecture has it (see
 * tables.c). */
#ifndef KERNELS_CPU_TABLES_H
#define KERNELS_CPU_TABLES_H

#include "kernels/kernels.h"

extern const struct kernels kernels_portable;
extern const struct kernels kernels_avx2;
extern const struct kernels kernels_avx512;
extern const struct kernels kernels_avx512bf16;
extern const struct kernels kernels_amx;

#endif
