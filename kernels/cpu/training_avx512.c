/* The training operations on AVX-512. */
#include "kernels/cpu/lanes_avx512.h"

#define KERNELS_TABLE kernels_avx512
#define KERNELS_NAME "avx512"
#include "kernels/cpu/table_body.h"
