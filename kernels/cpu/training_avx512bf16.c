/* The training operations on AVX-512 with AVX512-BF16: linear layers round their inputs to
 * bfloat16, the rest is as on AVX-512. */
#include "kernels/cpu/lanes_avx512.h"

#define KERNELS_TABLE kernels_avx512bf16
#define KERNELS_NAME "avx512bf16"
#define LINEAR(function) bf16_##function
#include "kernels/cpu/linear_bf16_body.h"
#include "kernels/cpu/table_body.h"
