/* How much memory training takes, and what would make it fit (model/fit.h). Runs the planners of
 * trainer and transformer without memory, so the figure is exactly what they will ask for. */
#include "model/fit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "base/memory.h"
#include "model/presets.h"

uint64_t memory_available(void) { return limits_memory(""); }

const char *size_text(uint64_t size, char out[static SIZE_TEXT_SIZE]) {
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)size;
    size_t unit = 0;
    for (; value >= 1024 && unit + 1 < COUNT_OF(units); unit++) value /= 1024;
    snprintf(out, SIZE_TEXT_SIZE, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return out;
}

/* What may be changed to make it smaller, the least painful first; false where there is nothing
 * left of this kind. */
static bool with_recompute(struct trainer_options *o) {
    return !o->recompute && (o->recompute = true);
}
static bool with_bf16_moments(struct trainer_options *o) {
    return !o->bf16_moments && (o->bf16_moments = true);
}
static bool with_two_shards(struct trainer_options *o) {
    if (trainer_shards(o) <= 2) return false;
    o->shards = 2;
    return true;
}
static bool with_one_shard(struct trainer_options *o) {
    if (trainer_shards(o) <= 1) return false;
    o->shards = 1;
    return true;
}

static const struct {
    const char *name;
    bool (*change)(struct trainer_options *options);
} changes[] = {{"recompute", with_recompute},
               {"bf16 moments", with_bf16_moments},
               {"2 shards", with_two_shards},
               {"1 shard", with_one_shard}};

/* A loss alone: fewer threads, then shorter sequences, are all that there is to save. */
static enum status forward_fit(const struct trainer_options *options, uint64_t also,
                               uint64_t available, struct error *error) {
    struct trainer_options smaller = *options;
    uint64_t wanted = trainer_memory(options) + also;
    char a[SIZE_TEXT_SIZE], b[SIZE_TEXT_SIZE], c[SIZE_TEXT_SIZE];
    smaller.threads = 1;
    for (bool shorter = false; smaller.length >= 1; smaller.length /= 2, shorter = true) {
        uint64_t then = trainer_memory(&smaller) + also;
        if (then > available) continue;
        char length[48] = "";
        if (shorter) snprintf(length, sizeof length, " and length %u", smaller.length);
        return error_set(
            error, FULL,
            "evaluation takes %s and %s are free; with 1 thread%s it takes %s and fits",
            size_text(wanted, a), size_text(available, b), length, size_text(then, c));
    }
    smaller.length = 1;
    return error_set(error, FULL,
                     "evaluation takes %s and %s are free; this model needs %s at least",
                     size_text(wanted, a), size_text(available, b),
                     size_text(trainer_memory(&smaller) + also, c));
}

static const char *largest_preset(const struct trainer_options *options, uint64_t also,
                                  uint64_t available) {
    const char *name = NULL;
    const struct preset *preset;
    for (size_t i = 0; (preset = preset_at(i)); i++) {
        struct trainer_options o = *options;
        o.model = preset->config;
        o.length = MIN(o.length, o.model.context);
        uint64_t wanted = trainer_memory(&o);
        if (wanted <= available && also <= available - wanted) name = preset->name;
    }
    return name;
}

enum status trainer_fit(const struct trainer_options *options, uint64_t also, uint64_t available,
                        struct error *error) {
    struct trainer_options smaller = *options;
    uint64_t wanted = trainer_memory(options) + also;
    if (wanted <= available) return OK;
    if (options->forward_only) return forward_fit(options, also, available, error);
    char a[SIZE_TEXT_SIZE], b[SIZE_TEXT_SIZE], c[SIZE_TEXT_SIZE], advice[128] = "";
    for (size_t i = 0; i < COUNT_OF(changes); i++) {
        if (!changes[i].change(&smaller)) continue;
        size_t used = strlen(advice);
        const char *shards = strstr(advice, " and 2 shards"); /* one shard is instead of two */
        if (shards && i + 1 == COUNT_OF(changes)) used = (size_t)(shards - advice);
        snprintf(advice + used, sizeof advice - used, "%s%s", used ? " and " : "", changes[i].name);
        uint64_t then = trainer_memory(&smaller) + also;
        if (then <= available)
            return error_set(
                error, FULL, "training takes %s and %s are free; with %s it takes %s and fits",
                size_text(wanted, a), size_text(available, b), advice, size_text(then, c));
    }
    const char *preset = largest_preset(options, also, available);
    return error_set(error, FULL, "training takes %s and %s are free; %s%s%s", size_text(wanted, a),
                     size_text(available, b),
                     preset ? "the largest preset that fits is \""
                            : "no preset fits: make the batch or the length smaller",
                     preset ? preset : "", preset ? "\"" : "");
}
