/* Loops that any compiler may vectorise without changing a bit: no operation depends on another
 * element's, and the norm's lanes are written out, so that the vector form adds in the very order
 * of the scalar form. -ffp-contract=off (Makefile) keeps a·b + c at two roundings. */
#include "kernels/elementwise.h"

#include <string.h>

void elementwise_copy(float *out, const float *a, size_t count) {
    if (count > 0 && out != a) memcpy(out, a, count * sizeof *out);
}

void elementwise_add(float *out, const float *a, const float *b, size_t count) {
    for (size_t i = 0; i < count; i++) out[i] = a[i] + b[i];
}

void elementwise_subtract(float *out, const float *a, const float *b, size_t count) {
    for (size_t i = 0; i < count; i++) out[i] = a[i] - b[i];
}

void elementwise_scale(float *out, const float *a, float scale, size_t count) {
    for (size_t i = 0; i < count; i++) out[i] = scale * a[i];
}

void elementwise_add_scaled(float *out, const float *a, float scale, size_t count) {
    for (size_t i = 0; i < count; i++) out[i] = out[i] + scale * a[i];
}

void elementwise_feedback(float *e, const float *delta, float decay, size_t count) {
    for (size_t i = 0; i < count; i++) e[i] = decay * e[i] + delta[i];
}

void elementwise_rebase(float *local, const float *fresh, const float *origin, size_t count) {
    for (size_t i = 0; i < count; i++) local[i] = fresh[i] + (local[i] - origin[i]);
}

void elementwise_nesterov_between(float *theta, float *sum, const float *g, float rate,
                                  float period, size_t count) {
    for (size_t i = 0; i < count; i++) {
        sum[i] = sum[i] + g[i];
        theta[i] = theta[i] - rate * (g[i] / period);
    }
}

void elementwise_nesterov_end(float *theta, float *momentum, float *sum, const float *g, float rate,
                              float beta, float period, size_t count) {
    for (size_t i = 0; i < count; i++) {
        float total = sum[i] + g[i];
        float m = beta * momentum[i] + total / period;
        theta[i] = theta[i] - rate * (beta * m + g[i] / period);
        momentum[i] = m;
        sum[i] = 0.0f;
    }
}

void elementwise_sgd(float *theta, const float *q, float weight, size_t count) {
    for (size_t i = 0; i < count; i++) theta[i] = theta[i] - weight * q[i];
}

void elementwise_scatter_mean(float *theta, float *sum, uint16_t *senders, const uint16_t *index,
                              const float *value, float scale, float rate, size_t count) {
    for (size_t j = 0; j < count; j++) {
        uint32_t i = index[j];
        unsigned n = senders[i];
        float before = n > 0 ? sum[i] / (float)n : 0.0f;
        sum[i] = sum[i] + scale * value[j];
        senders[i] = (uint16_t)(n + 1);
        float after = sum[i] / (float)(n + 1);
        theta[i] = theta[i] - rate * (after - before);
    }
}

/* On bit patterns rather than with isfinite: no compiler option can turn an integer comparison into
 * a constant. */
bool elementwise_is_finite(const float *a, size_t count) {
    uint32_t bad = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &a[i], sizeof bits);
        bad |= (bits & 0x7F800000u) == 0x7F800000u;
    }
    return bad == 0;
}

static double fold(double *lane) {
    for (size_t width = ELEMENTWISE_LANES / 2; width > 0; width /= 2) {
        for (size_t j = 0; j < width; j++) lane[j] += lane[j + width];
    }
    return lane[0];
}

static double block_norm_squared(const float *a, size_t count) {
    double lane[ELEMENTWISE_LANES] = {0};
    size_t rows = count / ELEMENTWISE_LANES, rest = count % ELEMENTWISE_LANES;
    for (size_t row = 0; row < rows; row++, a += ELEMENTWISE_LANES) {
        for (size_t j = 0; j < ELEMENTWISE_LANES; j++) lane[j] += (double)a[j] * (double)a[j];
    }
    for (size_t j = 0; j < rest; j++) lane[j] += (double)a[j] * (double)a[j];
    return fold(lane);
}

/* Zeroes add nothing to a lane, whatever their sign. */
double elementwise_norm_squared_at(const uint16_t *index, const float *value, size_t count) {
    double lane[ELEMENTWISE_LANES] = {0};
    for (size_t j = 0; j < count; j++)
        lane[index[j] % ELEMENTWISE_LANES] += (double)value[j] * (double)value[j];
    return fold(lane);
}

double elementwise_norm_squared(const float *a, size_t count) {
    double sum = 0;
    for (size_t at = 0; at < count; at += ELEMENTWISE_BLOCK) {
        size_t left = count - at;
        sum += block_norm_squared(a + at, left < ELEMENTWISE_BLOCK ? left : ELEMENTWISE_BLOCK);
    }
    return sum;
}
