/* Clipping by the running median, the weight of staleness, and the scale that both give. */
#include "fed/scale.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mark.h"
#include "base/memory.h"

void clip_window_init(struct clip_window *window, const struct manifest *manifest) {
    ASSERT(manifest->admission.clip_window >= 1);
    *window = (struct clip_window){.factor = manifest->admission.clip_factor,
                                   .size = manifest->admission.clip_window,
                                   .minimum = manifest->admission.clip_minimum};
    window->norms = xcalloc(window->size, sizeof window->norms[0]);
    window->sorted = xcalloc(window->size, sizeof window->sorted[0]);
}

void clip_window_deinit(struct clip_window *window) {
    free(window->norms);
    free(window->sorted);
    *window = (struct clip_window){0};
}

static uint64_t norms_held(const struct clip_window *window) {
    return MIN(window->count, (uint64_t)window->size);
}

double clip_window_median(const struct clip_window *window) {
    if (window->count == 0 || window->count < window->minimum) return 0;
    return window->sorted[norms_held(window) / 2];
}

/* A median of zero clips nothing: else the first sites to send zeroes could hold everybody at zero.
 */
double clip_window_clip(const struct clip_window *window, double norm) {
    double factor = window->factor, median = clip_window_median(window);
    if (!(factor > 0) || !(median > 0)) return 1;
    double limit = factor * median;
    if (!(norm > limit)) return 1;
    MARK("norm: clipped");
    double clip = limit / norm;
    return clip > 0 ? clip : 0x1p-1022; /* an underflow stays above zero: clip is in (0, 1] */
}

void clip_window_push(struct clip_window *window, double norm) {
    uint64_t held = norms_held(window), slot = window->count % window->size;
    double *sorted = window->sorted;
    if (held == window->size) { /* the oldest leaves the order; equal values are alike */
        uint64_t at = 0;
        while (sorted[at] != window->norms[slot]) at++;
        memmove(&sorted[at], &sorted[at + 1], (size_t)(held - at - 1) * sizeof sorted[0]);
        held--;
    }
    uint64_t at = held;
    while (at > 0 && sorted[at - 1] > norm) {
        sorted[at] = sorted[at - 1];
        at--;
    }
    sorted[at] = norm;
    window->norms[slot] = norm;
    window->count++;
}

double staleness_weight_of(const struct manifest *manifest, uint64_t staleness) {
    if (manifest->merge.staleness_weight == STALENESS_NONE) return 1;
    double base = 1 + (double)staleness;
    return manifest->merge.staleness_exponent == 1 ? 1 / base : 1 / sqrt(base);
}

/* Towards zero: rounded to the nearest, a norm would come out above its limit, by half a unit in
 * the last place, which is 6e-8 of it and, where the scale is denormal, any part of it. */
float scale_of(double clip, double weight) {
    double value = clip * weight;
    float nearest = (float)value;
    if (!((double)nearest > value)) return nearest;
    uint32_t bits;
    memcpy(&bits, &nearest, sizeof bits);
    bits--;
    memcpy(&nearest, &bits, sizeof nearest);
    return nearest;
}
