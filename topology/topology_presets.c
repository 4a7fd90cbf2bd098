/* The files of topology/presets as they are, in the program. */
#include <string.h>

#include "base/suggest.h"
#include "topology/topology.h"

#define PRESET(symbol_, file_)                                                                     \
    extern const uint8_t symbol_##_begin[], symbol_##_end[];                                       \
    __asm__(".section .rodata\n.global " #symbol_ "_begin, " #symbol_ "_end\n" #symbol_            \
            "_begin:\n.incbin \"topology/presets/" file_ "\"\n" #symbol_                           \
            "_end:\n.byte 0\n.text\n")

PRESET(preset_intellect_1, "intellect-1.yaml");
PRESET(preset_covenant_72b, "covenant-72b.yaml");
PRESET(preset_decoupled_diloco, "decoupled-diloco.yaml");
PRESET(preset_eight_campuses, "eight-campuses.yaml");

const char *const topology_preset_names[] = {"intellect-1", "covenant-72b", "decoupled-diloco",
                                             "eight-campuses", NULL};
static const uint8_t *const begins[] = {preset_intellect_1_begin, preset_covenant_72b_begin,
                                        preset_decoupled_diloco_begin, preset_eight_campuses_begin};
static const uint8_t *const ends[] = {preset_intellect_1_end, preset_covenant_72b_end,
                                      preset_decoupled_diloco_end, preset_eight_campuses_end};

enum status topology_preset(const char *name, struct topology **out, struct error *error) {
    struct suggestion near;
    suggest_init(&near, name);
    for (size_t i = 0; topology_preset_names[i]; i++) {
        if (strcmp(topology_preset_names[i], name) == 0)
            return topology_parse(bytes_of(begins[i], (size_t)(ends[i] - begins[i])), name, out,
                                  error);
        suggest_offer(&near, topology_preset_names[i]);
    }
    return error_set(error, NOT_FOUND,
                     "there is no preset \"%.40s\"%s%s; there are intellect-1, covenant-72b, "
                     "decoupled-diloco, eight-campuses",
                     name, near.best ? "; did you mean " : "", near.best ? near.best : "");
}
