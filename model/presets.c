/* The table of named shapes (model/presets.h). */
#include "model/presets.h"

#include <stdio.h>
#include <string.h>

#define SHAPE(vocabulary_, hidden_, layers_, heads_, kv_heads_, ffn_, context_, theta_, tied_)     \
    {                                                                                              \
        .vocabulary = vocabulary_, .hidden = hidden_, .layers = layers_, .heads = heads_,          \
        .kv_heads = kv_heads_, .ffn = ffn_, .context = context_, .rope_theta = theta_,             \
        .norm_eps = 1e-5f, .tied = tied_                                                           \
    }

static const struct preset presets[] = {
    {"120k", SHAPE(256, 64, 2, 2, 2, 192, 128, 10000.0f, true)},
    {"300k", SHAPE(256, 96, 2, 3, 3, 352, 256, 10000.0f, true)},
    {"1m", SHAPE(256, 160, 4, 5, 5, 448, 512, 10000.0f, true)},
    {"4m", SHAPE(256, 256, 5, 8, 8, 704, 512, 10000.0f, true)},
    {"12m", SHAPE(4096, 320, 8, 10, 10, 960, 512, 10000.0f, true)},
    {"50m", SHAPE(8192, 640, 9, 10, 10, 1728, 1024, 10000.0f, true)},
    {"125m", SHAPE(32000, 768, 14, 12, 12, 2048, 2048, 10000.0f, true)},
    {"350m", SHAPE(32000, 1024, 28, 16, 8, 2752, 2048, 10000.0f, true)},
    {"1b", SHAPE(32000, 2048, 22, 32, 4, 5632, 2048, 10000.0f, false)},
    {"3b", SHAPE(32000, 3072, 28, 24, 8, 8192, 4096, 500000.0f, false)},
    {"8b", SHAPE(128256, 4096, 32, 32, 8, 14336, 8192, 500000.0f, false)},
};
enum { PRESET_COUNT = sizeof presets / sizeof presets[0] };

const struct preset *preset_at(size_t index) {
    return index < PRESET_COUNT ? &presets[index] : NULL;
}

enum status preset_find(const char *name, struct model_config *out, struct error *error) {
    char list[160] = "";
    for (size_t i = 0; i < PRESET_COUNT; i++) {
        if (strcmp(presets[i].name, name) == 0) {
            *out = presets[i].config;
            return OK;
        }
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", used ? ", " : "", presets[i].name);
    }
    return error_set(error, INVALID, "there is no preset \"%.40s\"; there are %s", name, list);
}
