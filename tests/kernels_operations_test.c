#include "tests/kernels_amx_emulated.h"

#include "tests/kernels_reference.h"

static const size_t widths[] = {1, 2, 3, 4, 15, 16, 17, 31, 32, 33, 100, 1023, 1025};

TEST(norm_and_its_gradient_match_the_definition) {
    const struct kernels *k;
    const size_t rows = 5;
    const float eps = 1e-5f;
    for (size_t t = 0; t < COUNT_OF(widths); t++) FOR_EVERY_TABLE(k) {
            size_t n = widths[t];
            float *x = guarded_samples(rows * n, 1, 3.0f), *w = guarded_samples(n, 2, 2.0f),
                  *dy = guarded_samples(rows * n, 3, 1.0f);
            float *y = guarded(rows * n), *rstd = guarded(rows),
                  *dx = guarded_samples(rows * n, 4, 1.0f), *dw = guarded_samples(n, 5, 1.0f);
            k->norm_forward(rows, n, eps, x, w, y, rstd);
            float *again = guarded(rows * n);
            k->norm_again(rows, n, x, w, rstd, again);
            CHECK_MEMORY(again, y, rows * n * sizeof *y);
            guarded_free(again, rows * n);
            k->norm_backward(rows, n, dy, x, w, rstd, dx, dw);
            double *wanted_dw = xcalloc(n, sizeof *wanted_dw);
            for (size_t j = 0; j < n; j++) wanted_dw[j] = (double)sample(5, j, 1.0f);
            for (size_t i = 0; i < rows; i++) {
                double squares = 0, mean = 0;
                for (size_t j = 0; j < n; j++) squares += pow((double)x[i * n + j], 2);
                double r = 1 / sqrt(squares / (double)n + (double)eps);
                for (size_t j = 0; j < n; j++)
                    mean +=
                        (double)dy[i * n + j] * (double)w[j] * (double)x[i * n + j] * r / (double)n;
                check_close(k->name, "rstd", i, (double)rstd[i], r, r, 16);
                for (size_t j = 0; j < n; j++) {
                    double v = (double)x[i * n + j] * r, g = (double)dy[i * n + j];
                    check_close(k->name, "y", i * n + j, (double)y[i * n + j], v * (double)w[j],
                                fabs(v * (double)w[j]), 16);
                    check_close(k->name, "dx", i * n + j, (double)dx[i * n + j],
                                (double)sample(4, i * n + j, 1.0f) +
                                    r * (g * (double)w[j] - v * mean),
                                1 + r * (2 + fabs(v) * 4), 32);
                    wanted_dw[j] += g * v;
                }
            }
            for (size_t j = 0; j < n; j++)
                check_close(k->name, "dw", j, (double)dw[j], wanted_dw[j], 20, 16);
            free(wanted_dw);
            guarded_free(x, rows * n), guarded_free(w, n), guarded_free(dy, rows * n),
                guarded_free(y, rows * n);
            guarded_free(rstd, rows), guarded_free(dx, rows * n), guarded_free(dw, n);
        }
}

TEST(rope_turns_halves_of_each_head_and_its_inverse_turns_them_back) {
    const struct kernels *k;
    const size_t rows = 3, heads = 2, sizes[] = {2, 6, 16, 32, 34, 64};
    for (size_t t = 0; t < COUNT_OF(sizes); t++) FOR_EVERY_TABLE(k) {
            size_t size = sizes[t], half = size / 2, stride = heads * size + 5;
            float *x = guarded_samples(rows * stride, 1, 1.0f), *cosines = guarded(rows * half),
                  *sines = guarded(rows * half);
            for (size_t i = 0; i < rows * half; i++)
                cosines[i] = cosf((float)i), sines[i] = sinf((float)i);
            k->rope(rows, stride, heads, size, cosines, sines, 1.0f, x);
            for (size_t i = 0; i < rows; i++)
                for (size_t j = 0; j < stride; j++) {
                    double wanted = (double)sample(1, i * stride + j, 1.0f);
                    if (j < heads * size) {
                        size_t in = j % size, pair = in < half ? j + half : j - half;
                        double c = cos((double)(i * half + in % half)),
                               s = sin((double)(i * half + in % half));
                        double other = (double)sample(1, i * stride + pair, 1.0f);
                        wanted = in < half ? wanted * c - other * s : wanted * c + other * s;
                    }
                    check_close(k->name, "x", i * stride + j, (double)x[i * stride + j], wanted, 2,
                                8);
                }
            k->rope(rows, stride, heads, size, cosines, sines, -1.0f, x);
            for (size_t i = 0; i < rows * stride; i++)
                check_close(k->name, "back", i, (double)x[i], (double)sample(1, i, 1.0f), 2, 16);
            guarded_free(x, rows * stride), guarded_free(cosines, rows * half),
                guarded_free(sines, rows * half);
        }
}

TEST(swiglu_and_its_gradient_match_the_definition) {
    const struct kernels *k;
    const size_t rows = 3;
    for (size_t t = 0; t < COUNT_OF(widths); t++) FOR_EVERY_TABLE(k) {
            size_t n = widths[t];
            float *gu = guarded_samples(rows * 2 * n, 1, 30.0f),
                  *dh = guarded_samples(rows * n, 2, 1.0f);
            float *h = guarded(rows * n), *again = guarded(rows * n);
            k->swiglu_forward(rows, n, gu, h);
            k->swiglu_backward(rows, n, gu, dh, again, gu); /* in place, as the model does */
            CHECK_MEMORY(h, again, rows * n * sizeof *h);
            for (size_t i = 0; i < rows; i++)
                for (size_t j = 0; j < n; j++) {
                    double g = (double)sample(1, i * 2 * n + j, 30.0f),
                           u = (double)sample(1, i * 2 * n + n + j, 30.0f);
                    double s = 1 / (1 + exp(-g)), d = (double)dh[i * n + j];
                    check_close(k->name, "h", i * n + j, (double)h[i * n + j], g * s * u,
                                fabs(g * s * u), 16);
                    check_close(k->name, "dg", i * n + j, (double)gu[i * 2 * n + j],
                                d * u * s * (1 + g * (1 - s)), fabs(d * u) * 4, 32);
                    check_close(k->name, "du", i * n + j, (double)gu[i * 2 * n + n + j], d * g * s,
                                fabs(d * g * s), 16);
                }
            guarded_free(gu, rows * 2 * n), guarded_free(dh, rows * n), guarded_free(h, rows * n),
                guarded_free(again, rows * n);
        }
}

TEST(cross_entropy_and_its_gradient_match_the_definition) {
    const struct kernels *k;
    const size_t rows = 4;
    for (size_t t = 0; t < COUNT_OF(widths); t++) FOR_EVERY_TABLE(k) {
            size_t n = widths[t];
            float *logits = guarded_samples(rows * n, 1, 20.0f);
            uint32_t targets[4] = {0, (uint32_t)(n - 1), (uint32_t)(n / 2), 0};
            double loss = k->cross_entropy(rows, n, logits, targets, 0.25f), wanted = 0;
            for (size_t i = 0; i < rows; i++) {
                double sum = 0, top = -INFINITY;
                for (size_t j = 0; j < n; j++) top = fmax(top, (double)sample(1, i * n + j, 20.0f));
                for (size_t j = 0; j < n; j++)
                    sum += exp((double)sample(1, i * n + j, 20.0f) - top);
                wanted += log(sum) + top - (double)sample(1, i * n + targets[i], 20.0f);
                for (size_t j = 0; j < n; j++) {
                    double p = exp((double)sample(1, i * n + j, 20.0f) - top) / sum;
                    check_close(k->name, "d", i * n + j, (double)logits[i * n + j],
                                0.25 * (p - (j == targets[i])), 0.25, 32);
                }
            }
            check_close(k->name, "loss", 0, loss, wanted, 100, 16);
            float *again = guarded_samples(rows * n, 1, 20.0f);
            CHECK(k->cross_entropy(rows, n, again, targets, 0.0f) == loss);
            guarded_free(logits, rows * n), guarded_free(again, rows * n);
        }
}

/* The loss does not change with a shift of all logits, however far from 0 it takes them. */
TEST(cross_entropy_of_logits_far_below_zero_is_that_of_their_differences) {
    const struct kernels *k;
    for (size_t t = 0; t < COUNT_OF(widths); t++) FOR_EVERY_TABLE(k) {
            size_t n = widths[t];
            float *logits = guarded(n);
            for (size_t j = 0; j < n; j++) logits[j] = -1000.0f;
            const uint32_t target = (uint32_t)(n - 1);
            check_close(k->name, "loss", n, k->cross_entropy(1, n, logits, &target, 1.0f),
                        log((double)n), 100, 16);
            for (size_t j = 0; j < n; j++)
                check_close(k->name, "d", j, (double)logits[j], 1.0 / (double)n - (j == target), 1,
                            32);
            guarded_free(logits, n);
        }
}

TEST(a_logit_that_is_not_finite_makes_the_loss_not_finite) {
    const struct kernels *k;
    const float bad[] = {NAN, INFINITY};
    FOR_EVERY_TABLE(k)
    for (size_t b = 0; b < 2; b++)
        for (size_t place = 0; place < 40; place++) {
            float logits[40];
            for (size_t i = 0; i < 40; i++) logits[i] = sample(1, i, 1.0f);
            logits[place] = bad[b];
            uint32_t target = 3;
            CHECK(!isfinite(k->cross_entropy(1, 40, logits, &target, 1.0f)));
        }
}

TEST(gradients_are_summed_in_order_with_their_squares) {
    const struct kernels *k;
    const size_t sizes[] = {0, 1, 31, 32, 33, 1023, 4096, 4097, 10001};
    for (size_t t = 0; t < COUNT_OF(sizes); t++) FOR_EVERY_TABLE(k) {
            size_t n = sizes[t], offset = 7;
            float *a = guarded_samples(n + offset, 1, 1.0f),
                  *b = guarded_samples(n + offset, 2, 1e-4f),
                  *c = guarded_samples(n + offset, 3, 100.0f);
            const float *parts[] = {a, b, c};
            double squares = 0;
            float *wanted = guarded(n);
            for (size_t i = 0; i < n; i++) {
                wanted[i] = (a[offset + i] + b[offset + i]) + c[offset + i];
                squares += (double)wanted[i] * (double)wanted[i];
            }
            double got = k->gradient_sum(n, 3, parts, offset, a + offset);
            CHECK_MEMORY(a + offset, wanted, n * sizeof *wanted);
            check_close(k->name, "squares", n, got, squares, squares, 256);
            if (n > 20) {
                a[offset + 20] = NAN;
                CHECK(!isfinite(k->gradient_sum(n, 3, parts, offset, a + offset)));
            }
            guarded_free(a, n + offset), guarded_free(b, n + offset), guarded_free(c, n + offset),
                guarded_free(wanted, n);
        }
}

TEST(adamw_matches_the_definition) {
    const struct kernels *k;
    const struct adamw_step step = {.learning_rate = 0.01f,
                                    .beta1 = 0.9f,
                                    .beta2 = 0.95f,
                                    /* large enough that it shows where it is added */
                                    .epsilon = 0.01f,
                                    .decay = 0.1f,
                                    .gradient_scale = 0.5f,
                                    .correction1 = 1.0f / 0.19f,
                                    .correction2 = 1.0f / 0.0975f};
    const size_t sizes[] = {0, 1, 31, 32, 33, 1025};
    for (size_t t = 0; t < COUNT_OF(sizes); t++) FOR_EVERY_TABLE(k) {
            size_t n = sizes[t];
            float *g = guarded_samples(n, 1, 1.0f), *p = guarded_samples(n, 2, 1.0f),
                  *m = guarded_samples(n, 3, 0.1f), *v = guarded(n);
            for (size_t i = 0; i < n; i++) v[i] = fabsf(sample(4, i, 0.1f));
            k->adamw(n, &step, g, p, m, v);
            for (size_t i = 0; i < n; i++) {
                double grad = (double)g[i] * 0.5, lr = (double)step.learning_rate;
                double wm = (double)step.beta1 * (double)sample(3, i, 0.1f) +
                            (1 - (double)step.beta1) * grad;
                double wv = (double)step.beta2 * (double)fabsf(sample(4, i, 0.1f)) +
                            (1 - (double)step.beta2) * grad * grad;
                double change = lr * wm * (double)step.correction1 /
                                (sqrt(wv * (double)step.correction2) + (double)step.epsilon);
                double wp = (double)sample(2, i, 1.0f) * (1 - lr * (double)step.decay) - change;
                check_close(k->name, "m", i, (double)m[i], wm, 1, 4);
                check_close(k->name, "v", i, (double)v[i], wv, 1, 4);
                check_close(k->name, "p", i, (double)p[i], wp, 1 + fabs(change), 16);
            }
            guarded_free(g, n), guarded_free(p, n), guarded_free(m, n), guarded_free(v, n);
        }
}
