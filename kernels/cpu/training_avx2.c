/* The training operations on AVX2 with FMA. */
#include "kernels/cpu/lanes_avx2.h"

#define KERNELS_TABLE kernels_avx2
#define KERNELS_NAME "avx2"
#include "kernels/cpu/table_body.h"
