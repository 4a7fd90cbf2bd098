/* The training operations on AMX-BF16: linear layers on its tiles, the rest as on AVX-512. */
#include "kernels/cpu/lanes_avx512.h"

struct tile_config { /* what ldtilecfg reads, 64 bytes */
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

static inline void tiles_configure(void) {
    struct tile_config config = {.palette = 1};
    for (int i = 0; i < 8; i++) config.row_bytes[i] = 64, config.rows[i] = 16;
    __asm__ volatile("" ::"m"(config) : "memory");
    _tile_loadconfig(&config);
}

#define TILE_BEGIN() tiles_configure()
#define TILE_END() _tile_release()
#define TILE_ZERO(t) _tile_zero(t)
#define TILE_LOAD(t, memory, stride) _tile_loadd(t, memory, stride)
#define TILE_STORE(t, memory, stride) _tile_stored(t, memory, stride)
#define TILE_PRODUCT(sum, left, right) _tile_dpbf16ps(sum, left, right)

#define KERNELS_TABLE kernels_amx
#define KERNELS_NAME "amx"
#define LINEAR(function) amx_##function
#include "kernels/cpu/linear_amx_body.h"
#include "kernels/cpu/table_body.h"
