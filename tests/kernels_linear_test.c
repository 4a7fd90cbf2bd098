#include "tests/kernels_amx_emulated.h"

#include "tests/kernels_reference.h"

static const size_t shapes[][3] = {
    /* rows, out, in */
    {1, 1, 1},    {1, 33, 31},  {31, 32, 33},  {33, 31, 1},    {12, 32, 16}, {13, 65, 47},
    {24, 1, 40},  {257, 34, 9}, {7, 100, 129}, {300, 17, 70},  {3, 5, 1025}, {2, 1030, 7},
    {25, 96, 64}, {99, 6, 512}, {14, 512, 5},  {261, 1024, 3},
};

struct linear_case {
    size_t rows, out, in;
    float *x, *w, *dy;
    bool coarse;
};

static double bound_ulps(const struct kernels *k, bool coarse) {
    return coarse ? 8 : product_ulps(k, 8);
}

static struct linear_case case_of(const size_t shape[3]) {
    struct linear_case c = {.rows = shape[0], .out = shape[1], .in = shape[2]};
    c.x = guarded_samples(c.rows * c.in, 1, 1.0f);
    c.w = guarded_samples(c.out * c.in, 2, 1.0f);
    c.dy = guarded_samples(c.rows * c.out, 3, 1.0f);
    return c;
}

/* Values of 7 bits: bfloat16 holds them, so that its tables have no excuse. */
static struct linear_case coarse_case_of(const size_t shape[3]) {
    struct linear_case c = case_of(shape);
    for (size_t i = 0; i < c.rows * c.in; i++) c.x[i] = roundf(c.x[i] * 64) / 64;
    for (size_t i = 0; i < c.out * c.in; i++) c.w[i] = roundf(c.w[i] * 64) / 64;
    for (size_t i = 0; i < c.rows * c.out; i++) c.dy[i] = roundf(c.dy[i] * 64) / 64;
    c.coarse = true;
    return c;
}

static void case_free(struct linear_case *c) {
    guarded_free(c->x, c->rows * c->in);
    guarded_free(c->w, c->out * c->in);
    guarded_free(c->dy, c->rows * c->out);
}

static void check_forward(const struct kernels *k, const struct linear_case *c, bool with_add) {
    size_t y_stride = c->out + 3;
    float *y = guarded_samples(c->rows * y_stride, 4, 1.0f),
          *before = guarded_samples(c->rows * y_stride, 4, 1.0f);
    void *packed = xmalloc(k->linear_forward_size(c->out, c->in)),
         *scratch = xmalloc(k->linear_scratch_size(c->rows, c->out, c->in));
    k->linear_pack_forward(c->out, c->in, c->w, packed);
    k->linear_forward(c->rows, c->out, c->in, c->x, c->in, packed, with_add ? y : NULL, y, y_stride,
                      scratch);
    for (size_t i = 0; i < c->rows; i++)
        for (size_t j = 0; j < y_stride; j++) {
            if (j >= c->out) { /* between rows nothing may be written */
                CHECK(y[i * y_stride + j] == before[i * y_stride + j]);
                continue;
            }
            double sum = with_add ? (double)before[i * y_stride + j] : 0, weight = fabs(sum);
            for (size_t n = 0; n < c->in; n++) {
                double term = (double)c->x[i * c->in + n] * (double)c->w[j * c->in + n];
                sum += term;
                weight += fabs(term);
            }
            check_close(k->name, "y", i * y_stride + j, (double)y[i * y_stride + j], sum, weight,
                        bound_ulps(k, c->coarse));
        }
    free(packed);
    free(scratch);
    guarded_free(y, c->rows * y_stride);
    guarded_free(before, c->rows * y_stride);
}

static void check_backward_input(const struct kernels *k, const struct linear_case *c) {
    float *dx = guarded(c->rows * c->in);
    void *packed = xmalloc(k->linear_backward_size(c->out, c->in)),
         *scratch = xmalloc(k->linear_scratch_size(c->rows, c->out, c->in));
    k->linear_pack_backward(c->out, c->in, c->w, packed);
    k->linear_backward_input(c->rows, c->out, c->in, c->dy, c->out, packed, dx, c->in, scratch);
    for (size_t i = 0; i < c->rows; i++)
        for (size_t n = 0; n < c->in; n++) {
            double sum = 0, weight = 0;
            for (size_t j = 0; j < c->out; j++) {
                double term = (double)c->dy[i * c->out + j] * (double)c->w[j * c->in + n];
                sum += term;
                weight += fabs(term);
            }
            check_close(k->name, "dx", i * c->in + n, (double)dx[i * c->in + n], sum, weight,
                        bound_ulps(k, c->coarse));
        }
    free(packed);
    free(scratch);
    guarded_free(dx, c->rows * c->in);
}

static void check_backward_weight(const struct kernels *k, const struct linear_case *c,
                                  bool with_add) {
    float *dw = guarded_samples(c->out * c->in, 5, 1.0f);
    void *scratch = xmalloc(k->linear_scratch_size(c->rows, c->out, c->in));
    k->linear_backward_weight(c->rows, c->out, c->in, c->dy, c->out, c->x, c->in,
                              with_add ? dw : NULL, dw, scratch);
    for (size_t j = 0; j < c->out; j++)
        for (size_t n = 0; n < c->in; n++) {
            double sum = with_add ? (double)sample(5, j * c->in + n, 1.0f) : 0, weight = fabs(sum);
            for (size_t i = 0; i < c->rows; i++) {
                double term = (double)c->dy[i * c->out + j] * (double)c->x[i * c->in + n];
                sum += term;
                weight += fabs(term);
            }
            check_close(k->name, "dw", j * c->in + n, (double)dw[j * c->in + n], sum, weight,
                        bound_ulps(k, c->coarse));
        }
    free(scratch);
    guarded_free(dw, c->out * c->in);
}

TEST(linear_forward_is_x_times_w_transposed_on_every_table) {
    const struct kernels *k;
    for (size_t s = 0; s < COUNT_OF(shapes); s++) {
        struct linear_case c = case_of(shapes[s]);
        FOR_EVERY_TABLE(k) {
            check_forward(k, &c, false);
            check_forward(k, &c, true);
        }
        case_free(&c);
    }
}

TEST(linear_input_gradient_is_dy_times_w_on_every_table) {
    const struct kernels *k;
    for (size_t s = 0; s < COUNT_OF(shapes); s++) {
        struct linear_case c = case_of(shapes[s]);
        FOR_EVERY_TABLE(k) check_backward_input(k, &c);
        case_free(&c);
    }
}

TEST(linear_weight_gradient_is_dy_transposed_times_x_on_every_table) {
    const struct kernels *k;
    for (size_t s = 0; s < COUNT_OF(shapes); s++) {
        struct linear_case c = case_of(shapes[s]);
        FOR_EVERY_TABLE(k) {
            check_backward_weight(k, &c, false);
            check_backward_weight(k, &c, true);
        }
        case_free(&c);
    }
}

TEST(values_that_bfloat16_holds_are_multiplied_exactly_on_every_table) {
    const struct kernels *k;
    for (size_t s = 0; s < COUNT_OF(shapes); s++) {
        struct linear_case c = coarse_case_of(shapes[s]);
        FOR_EVERY_TABLE(k) {
            check_forward(k, &c, true);
            check_backward_input(k, &c);
            check_backward_weight(k, &c, true);
        }
        case_free(&c);
    }
}

TEST(linear_of_no_rows_adds_nothing) {
    const struct kernels *k;
    FOR_EVERY_TABLE(k) {
        float w[6] = {1, 2, 3, 4, 5, 6}, dw[6] = {1, 2, 3, 4, 5, 6}, *y = guarded(0);
        void *packed = xmalloc(k->linear_forward_size(2, 3)),
             *scratch = xmalloc(k->linear_scratch_size(1, 2, 3) + 64);
        k->linear_pack_forward(2, 3, w, packed);
        k->linear_forward(0, 2, 3, w, 3, packed, NULL, y, 2, scratch);
        k->linear_backward_weight(0, 2, 3, w, 2, w, 3, dw, dw, scratch);
        CHECK_MEMORY(dw, w, sizeof w);
        k->linear_backward_weight(0, 2, 3, w, 2, w, 3, NULL, dw, scratch);
        for (size_t i = 0; i < COUNT_OF(dw); i++) CHECK(dw[i] == 0.0f);
        guarded_free(y, 0);
        free(packed);
        free(scratch);
    }
}

TEST(one_not_a_number_reaches_its_whole_row_and_no_other) {
    const struct kernels *k;
    FOR_EVERY_TABLE(k) {
        size_t rows = 14, out = 37, in = 21;
        float *x = guarded_samples(rows * in, 1, 1.0f), *w = guarded_samples(out * in, 2, 1.0f),
              *y = guarded(rows * out);
        x[5 * in + 20] = NAN;
        void *packed = xmalloc(k->linear_forward_size(out, in)),
             *scratch = xmalloc(k->linear_scratch_size(rows, out, in));
        k->linear_pack_forward(out, in, w, packed);
        k->linear_forward(rows, out, in, x, in, packed, NULL, y, out, scratch);
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 0; j < out; j++) CHECK(isnan(y[i * out + j]) == (i == 5));
        free(packed);
        free(scratch);
        guarded_free(x, rows * in);
        guarded_free(w, out * in);
        guarded_free(y, rows * out);
    }
}
