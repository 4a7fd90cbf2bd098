/* Softmax and cross-entropy of rows of logits, with the gradient written over them. */
#ifndef KERNELS_CPU_LOSS_BODY_H
#define KERNELS_CPU_LOSS_BODY_H

#include <math.h>

#include "kernels/cpu/lanes.h"

static float row_top(size_t count, const float *x) {
    vf top = vf_set(-INFINITY);
    size_t at = 0;
    /* a NaN stays until a number follows it */
    for (; at + LANES <= count; at += LANES) top = vf_max(top, vf_load(x + at));
    if (at < count) top = vf_max(top, vf_load_some(x + at, count - at, -INFINITY));
    return vf_top(top);
}

/* x = e^(x - top); returns the sum. A NaN in x, or an infinite top, makes it NaN or infinite. */
static float row_exp(size_t count, float *x, float top) {
    vf sum = vf_set(0.0f), shift = vf_set(top);
    size_t at = 0;
    for (; at + LANES <= count; at += LANES) {
        vf e = vf_exp(vf_load(x + at) - shift);
        vf_store(x + at, e);
        sum = sum + e;
    }
    float rest = 0.0f;
    if (at < count) {
        float last[LANES];
        vf_store(last, vf_exp(vf_load_some(x + at, count - at, 0.0f) - shift));
        for (size_t i = 0; i < count - at; i++) rest += x[at + i] = last[i];
    }
    return vf_sum(sum) + rest;
}

static double cross_entropy(size_t rows, size_t vocabulary, float *logits, const uint32_t *targets,
                            float scale) {
    double loss = 0;
    for (size_t i = 0; i < rows; i++, logits += vocabulary) {
        float wanted = logits[targets[i]], top = row_top(vocabulary, logits);
        float sum = row_exp(vocabulary, logits, top);
        loss += (double)logf(sum) + ((double)top - (double)wanted);
        if (scale == 0.0f) continue;
        vf factor = vf_set(scale / sum);
        FOR_LANES(j, vocabulary)
        vf_put(logits, j, vocabulary, vf_get(logits, j, vocabulary) * factor);
        logits[targets[i]] -= scale;
    }
    return loss;
}

#endif
