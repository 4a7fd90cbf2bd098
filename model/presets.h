/* Shapes by name, so that nobody has to choose nine numbers: Llama's proportions (head size 32 to
 * 128, feed-forward 8/3 of the width rounded to what the kernels like, grouped queries from 350m
 * on), from what a laptop trains in minutes to Llama's own 8B. A name is the rounded count of
 * parameters at the vocabulary it comes with; small ones speak bytes and tie the head. Any field
 * may be changed afterwards.
 */
#ifndef MODEL_PRESETS_H
#define MODEL_PRESETS_H

#include <stddef.h>

#include "model/config.h"

struct preset {
    const char *name;
    struct model_config config;
};

/* INVALID names the presets there are. */
MUST_USE enum status preset_find(const char *name, struct model_config *out, struct error *error);
/* The index-th, smallest first; NULL beyond the last. */
const struct preset *preset_at(size_t index);

#endif
