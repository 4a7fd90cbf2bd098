/* The training operations on any processor. */
#include "kernels/cpu/lanes_portable.h"

#define KERNELS_TABLE kernels_portable
#define KERNELS_NAME "portable"
#include "kernels/cpu/table_body.h"
