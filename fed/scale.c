/* Clipping by the median of the sites, the weight of staleness, and the scale that both give. */
#include "fed/scale.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mark.h"
#include "base/memory.h"

struct clip_rules clip_rules_of(const struct manifest *manifest, uint32_t inner_steps,
                                uint64_t parameters) {
    struct clip_rules rules = {.factor = manifest->admission.clip_factor,
                               .bound = manifest->admission.norm_bound,
                               .minimum = manifest->admission.clip_minimum,
                               .age_ms = manifest->admission.voice_age_ms};
    /* AdamW moves no parameter by much more than its rate in a step */
    if (!(rules.bound > 0))
        rules.bound = manifest->inner.learning_rate * inner_steps * sqrt((double)parameters);
    return rules;
}

void clip_deinit(struct clip *clip) {
    free(clip->voices);
    *clip = (struct clip){0};
}

double clip_limit(const struct clip *clip, const struct clip_rules *rules) {
    if (!(rules->factor > 0)) return (double)INFINITY;
    return clip->median > 0 ? rules->factor * clip->median : rules->bound;
}

double clip_norm(double norm, uint32_t steps, uint32_t inner_steps) {
    uint32_t most = MAX(inner_steps, 1u), made = MIN(MAX(steps, 1u), most);
    return norm * sqrt((double)most / (double)made);
}

double clip_of(double limit, double norm) {
    if (!(norm > limit)) return 1;
    MARK("norm: clipped");
    double clip = limit / norm;
    return clip > 0 ? clip : 0x1p-1022; /* an underflow stays above zero: clip is in (0, 1] */
}

static void make_room(struct clip *clip, uint32_t site) {
    if (site <= clip->count) return;
    uint32_t count = MAX(site, 2 * clip->count);
    clip->voices = xrealloc(clip->voices, count * sizeof clip->voices[0]);
    memset(clip->voices + clip->count, 0, (count - clip->count) * sizeof clip->voices[0]);
    clip->count = count;
}

void clip_note(struct clip *clip, uint32_t site, double norm, uint64_t time_ms) {
    ASSERT(site >= 1);
    clip->contributions++;
    if (!(norm > 0)) return;
    make_room(clip, site);
    clip->voices[site - 1] = (struct clip_voice){norm, time_ms};
}

void clip_silence(struct clip *clip, uint32_t site) {
    if (site <= clip->count) clip->voices[site - 1].norm = 0;
}

bool voice_counts(uint64_t time_ms, uint64_t now_ms, uint64_t age_ms) {
    return now_ms <= time_ms || now_ms - time_ms <= age_ms;
}

static void swap(double *a, double *b) {
    double kept = *a;
    *a = *b;
    *b = kept;
}

/* Quickselect: what is kept is the part that the wanted place is in. */
double lower_median(double *values, uint32_t count) {
    ASSERT(count >= 1);
    uint32_t wanted = (count - 1) / 2, low = 0, high = count - 1;
    while (low < high) {
        double pivot = values[low + (high - low) / 2];
        uint32_t i = low, j = high;
        for (;;) {
            while (values[i] < pivot) i++;
            while (values[j] > pivot) j--;
            if (i >= j) break;
            swap(&values[i++], &values[j--]);
        }
        if (wanted <= j)
            high = j;
        else
            low = j + 1;
    }
    return values[wanted];
}

static double within_a_factor_of_two(double value, double before) {
    return fmin(fmax(value, before / 2), before * 2);
}

void clip_step(struct clip *clip, const struct clip_rules *rules, uint64_t time_ms,
               uint32_t enrolled) {
    if (clip->contributions < rules->minimum || clip->count == 0) return;
    double *norms = xcalloc(clip->count, sizeof norms[0]);
    uint32_t count = 0;
    for (uint32_t i = 0; i < clip->count; i++) {
        const struct clip_voice *voice = &clip->voices[i];
        if (voice->norm > 0 && voice_counts(voice->time_ms, time_ms, rules->age_ms))
            norms[count++] = voice->norm;
    }
    if (count >= MAX(MIN((uint32_t)CLIP_VOICES, enrolled), 1u)) {
        double median = lower_median(norms, count), before = clip->median;
        if (!(before > 0)) before = median = fmin(median, rules->bound);
        median = within_a_factor_of_two(median, before);
        if (median != before) MARK("norm: the median moves");
        if (median >= 0x1p-1000) clip->median = median; /* halved for ever, it would become zero */
    } else {
        MARK("norm: too few voices");
    }
    free(norms);
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
