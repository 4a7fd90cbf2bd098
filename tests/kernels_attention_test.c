#include "tests/kernels_amx_emulated.h"

#include "tests/kernels_reference.h"

static const struct attention_shape shapes[] = {
    /* length, heads, kv_heads, head_size */
    {1, 1, 1, 2},   {31, 2, 1, 4},  {32, 2, 2, 32}, {33, 4, 2, 10},
    {24, 1, 1, 34}, {65, 3, 1, 64}, {100, 2, 2, 6}, {48, 2, 1, 16},
};

struct reference { /* one head of attention in double */
    size_t length, size;
    double *p;  /* [length][length] */
    double *dp; /* same: dS */
};

static double at(const float *rows, size_t stride, size_t row, size_t column) {
    return (double)rows[row * stride + column];
}

/* P, and with d_out also dS, of one query head. */
static void fill_reference(struct reference *r, const struct attention_shape *s, const float *qkv,
                           size_t head, const float *d_out) {
    size_t stride = attention_qkv_width(s), size = s->head_size, group = s->heads / s->kv_heads,
           width = s->heads * size;
    size_t q = head * size, k = (s->heads + head / group) * size, v = k + s->kv_heads * size;
    for (size_t i = 0; i < s->length; i++) {
        double sum = 0, top = -INFINITY, mean = 0, *p = r->p + i * s->length,
               *dp = r->dp + i * s->length;
        for (size_t j = 0; j <= i; j++) {
            p[j] = 0;
            for (size_t d = 0; d < size; d++)
                p[j] += at(qkv, stride, i, q + d) * at(qkv, stride, j, k + d) / sqrt((double)size);
            top = fmax(top, p[j]);
        }
        for (size_t j = 0; j <= i; j++) sum += p[j] = exp(p[j] - top);
        for (size_t j = 0; j < s->length; j++) p[j] = j <= i ? p[j] / sum : 0;
        for (size_t j = 0; j < s->length; j++) {
            dp[j] = 0;
            for (size_t d = 0; d_out && d < size; d++)
                dp[j] += at(d_out, width, i, q + d) * at(qkv, stride, j, v + d);
            mean += p[j] * dp[j];
        }
        for (size_t j = 0; j < s->length; j++) dp[j] = p[j] * (dp[j] - mean) / sqrt((double)size);
    }
}

static void check_attention(const struct kernels *k, const struct attention_shape *s) {
    size_t stride = attention_qkv_width(s), width = s->heads * s->head_size, size = s->head_size,
           group = s->heads / s->kv_heads;
    float *qkv = guarded_samples(s->length * stride, 1, 2.0f),
          *d_out = guarded_samples(s->length * width, 2, 1.0f);
    float *out = guarded(s->length * width), *lse = guarded(s->length * s->heads),
          *d_qkv = guarded(s->length * stride);
    void *scratch = xmalloc(k->attention_scratch_size(s));
    k->attention_forward(s, qkv, out, lse, scratch);
    k->attention_backward(s, qkv, out, lse, d_out, d_qkv, scratch);
    double *wanted = xcalloc(s->length * stride, sizeof *wanted);
    struct reference r = {s->length, size, xcalloc(s->length * s->length, sizeof(double)),
                          xcalloc(s->length * s->length, sizeof(double))};
    for (size_t h = 0; h < s->heads; h++) {
        fill_reference(&r, s, qkv, h, d_out);
        size_t q = h * size, kk = (s->heads + h / group) * size, v = kk + s->kv_heads * size;
        for (size_t i = 0; i < s->length; i++)
            for (size_t d = 0; d < size; d++) {
                double o = 0;
                for (size_t j = 0; j <= i; j++) {
                    o += r.p[i * s->length + j] * at(qkv, stride, j, v + d);
                    wanted[i * stride + q + d] +=
                        r.dp[i * s->length + j] * at(qkv, stride, j, kk + d);
                    wanted[j * stride + kk + d] +=
                        r.dp[i * s->length + j] * at(qkv, stride, i, q + d);
                    wanted[j * stride + v + d] +=
                        r.p[i * s->length + j] * at(d_out, width, i, q + d);
                }
                check_close(k->name, "out", i * width + q + d, (double)out[i * width + q + d], o, 4,
                            64);
            }
    }
    for (size_t i = 0; i < s->length * stride; i++)
        check_close(k->name, "d_qkv", i, (double)d_qkv[i], wanted[i], 16, 256);
    free(r.p);
    free(r.dp);
    free(wanted);
    free(scratch);
    guarded_free(qkv, s->length * stride);
    guarded_free(d_out, s->length * width);
    guarded_free(out, s->length * width);
    guarded_free(lse, s->length * s->heads);
    guarded_free(d_qkv, s->length * stride);
}

TEST(attention_and_its_gradient_match_the_definition_on_every_table) {
    const struct kernels *k;
    for (size_t i = 0; i < COUNT_OF(shapes); i++) FOR_EVERY_TABLE(k) check_attention(k, &shapes[i]);
}

TEST(no_row_sees_a_later_one) {
    const struct kernels *k;
    const struct attention_shape s = {50, 2, 1, 8};
    size_t stride = attention_qkv_width(&s), width = s.heads * s.head_size;
    FOR_EVERY_TABLE(k) {
        float *qkv = guarded_samples(s.length * stride, 1, 1.0f), *one = guarded(s.length * width),
              *two = guarded(s.length * width);
        float *lse = guarded(s.length * s.heads);
        void *scratch = xmalloc(k->attention_scratch_size(&s));
        k->attention_forward(&s, qkv, one, lse, scratch);
        for (size_t i = 27 * stride; i < s.length * stride; i++) qkv[i] = sample(9, i, 50.0f);
        k->attention_forward(&s, qkv, two, lse, scratch);
        CHECK_MEMORY(one, two, 27 * width * sizeof *one);
        for (size_t i = 27 * width; i < s.length * width; i++) CHECK(one[i] != two[i]);
        free(scratch);
        guarded_free(qkv, s.length * stride);
        guarded_free(one, s.length * width);
        guarded_free(two, s.length * width);
        guarded_free(lse, s.length * s.heads);
    }
}

TEST(large_scores_do_not_overflow) {
    const struct kernels *k;
    const struct attention_shape s = {40, 1, 1, 8};
    FOR_EVERY_TABLE(k) {
        float *qkv = guarded_samples(s.length * 24, 1, 200.0f), *out = guarded(s.length * 8),
              *lse = guarded(s.length);
        float *d_qkv = guarded(s.length * 24);
        void *scratch = xmalloc(k->attention_scratch_size(&s));
        k->attention_forward(&s, qkv, out, lse, scratch);
        k->attention_backward(&s, qkv, out, lse, out, d_qkv, scratch);
        for (size_t i = 0; i < s.length * 8; i++) CHECK(fabsf(out[i]) <= 200.001f);
        for (size_t i = 0; i < s.length * 24; i++) CHECK(isfinite(d_qkv[i]));
        free(scratch);
        guarded_free(qkv, s.length * 24);
        guarded_free(out, s.length * 8);
        guarded_free(lse, s.length);
        guarded_free(d_qkv, s.length * 24);
    }
}
