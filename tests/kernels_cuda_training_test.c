/* Each operation of kernels/cuda_training.h against the CPU's portable kernels, over odd sizes.
 *
 * On the GPU where there is one, else on the emulated device (docs/gpu.md). Inputs are bfloat16 on
 * both sides, so what differs is the order of sums, the device's exponentials and the rounding of
 * what is written as bfloat16 (half of 2^-8 of a value). Bounds are on the distance of whole
 * arrays, as a part of their length: 0.004 where a result is rounded once, 0.01 where weights are
 * rounded on the way (attention), 1e-5 where nothing is. */
#include "kernels/cuda_training.h"

#include <limits.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "kernels/elementwise.h"
#include "kernels/kernels.h"
#include "tests/test.h"

static struct cuda_backend backend;
static const struct cuda_operations *cuda;
static const struct cuda_training *training;
static struct cuda_session *session;
static const struct kernels *cpu;

/* Freed when a test's process ends. */
static struct {
    void *host[1024];
    struct device_memory there[1024];
    size_t host_count, there_count;
} kept;

static void *take(size_t size) {
    ASSERT(kept.host_count < COUNT_OF(kept.host));
    return kept.host[kept.host_count++] = xmalloc(size);
}

static void end(void) {
    training->close(session);
    for (size_t i = 0; i < kept.there_count; i++) cuda->release(kept.there[i]);
    for (size_t i = 0; i < kept.host_count; i++) free(kept.host[i]);
}

static void must(const char *answer) {
    if (answer) test_failed(__FILE__, __LINE__, "the device says %s", answer);
}

static void start(void) {
    struct error error = {0};
    char program[PATH_MAX] = {0}, path[PATH_MAX + 64];
    const char *named = getenv("ATOLL_TEST_CUDA_LIBRARY");
    CHECK(readlink("/proc/self/exe", program, sizeof program - 1) > 0);
    *strrchr(program, '/') = 0;
    snprintf(path, sizeof path, "%s/../bin/atoll-kernels-cuda.so", program);
    if (named || cuda_backend_open(path, &backend, &error) != OK) {
        snprintf(path, sizeof path, "%s/atoll-kernels-emulated.so", program);
        if (!named && !file_exists(path)) {
            TEST_SKIP("%s, and no emulation was built", error.message);
        }
        CHECK_OK(cuda_backend_open(named ? named : path, &backend, &error));
    }
    const char *wish = getenv("ATOLL_ATTENTION");
    if (wish && strcmp(wish, "wgmma") == 0 &&
        (backend.device.major != 9 || backend.device.minor != 0)) {
        TEST_SKIP("%s has no wgmma", backend.found);
    }
    printf("  compared with %s\n", backend.found);
    cuda = backend.operations;
    cpu = kernels_at(0);
    CHECK_OK(cuda_training_find(&backend, &training, &error));
    must(training->open(NULL, &session));
    atexit(end);
}

static uint16_t to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
static float from_bf16(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Random numbers that are bfloat16. */
static float *randoms(size_t count, uint64_t seed, float scale) {
    struct random random;
    random_init(&random, seed);
    float *x = take(count * sizeof *x);
    for (size_t i = 0; i < count; i++)
        x[i] = from_bf16(to_bf16(scale * (float)(random_unit(&random) * 2 - 1)));
    return x;
}

static struct device_memory bytes_there(const void *from, size_t size) {
    struct device_memory out = {0};
    must(cuda->allocate(size, &out));
    must(cuda->synchronize());
    ASSERT(kept.there_count < COUNT_OF(kept.there));
    kept.there[kept.there_count++] = out;
    if (from) must(training->upload(session, out, from, size));
    return out;
}
static struct device_memory floats_there(const float *x, size_t count) {
    return bytes_there(x, count * sizeof *x);
}
static struct device_memory halves_there(const float *x, size_t count) {
    uint16_t *half = take(count * sizeof *half);
    for (size_t i = 0; x && i < count; i++) half[i] = to_bf16(x[i]);
    return bytes_there(x ? half : NULL, count * sizeof *half);
}

static void check_distance(const char *what, const float *got, const float *wanted, size_t count,
                           double bound) {
    double far = 0, whole = 0;
    for (size_t i = 0; i < count; i++) {
        far += ((double)got[i] - (double)wanted[i]) * ((double)got[i] - (double)wanted[i]);
        whole += (double)wanted[i] * (double)wanted[i];
    }
    if (!(sqrt(far) <= bound * sqrt(whole) + 1e-12))
        test_failed(__FILE__, __LINE__, "%s: %g away of a length of %g", what, sqrt(far),
                    sqrt(whole));
}
static void check_floats(const char *what, struct device_memory there, const float *wanted,
                         size_t count, double bound) {
    float *got = take(count * sizeof *got);
    must(training->download(session, got, there, count * sizeof *got));
    check_distance(what, got, wanted, count, bound);
}
static void check_halves(const char *what, struct device_memory there, const float *wanted,
                         size_t count, double bound) {
    uint16_t *half = take(count * sizeof *half);
    float *got = take(count * sizeof *got);
    must(training->download(session, half, there, count * sizeof *half));
    for (size_t i = 0; i < count; i++) got[i] = from_bf16(half[i]);
    check_distance(what, got, wanted, count, bound);
}

static void compare_attention(uint32_t sequences, uint32_t length, uint32_t heads,
                              uint32_t kv_heads, uint32_t size) {
    struct attention_shape shape = {length, heads, kv_heads, size};
    size_t width = attention_qkv_width(&shape), rows = (size_t)sequences * length, half = size / 2;
    float *qkv = randoms(rows * width, size + length, 2),
          *d_out = randoms(rows * heads * size, 3, 1), *rotated = take(rows * width * 4);
    float *out = take(rows * heads * size * 4), *lse = take(rows * heads * 4),
          *d_qkv = take(rows * width * 4);
    float *cosines = take(length * half * 4), *sines = take(length * half * 4);
    for (size_t i = 0; i < length * half; i++) {
        double angle = (double)(i / half) * pow(10000, -2.0 * (double)(i % half) / size);
        cosines[i] = (float)cos(angle), sines[i] = (float)sin(angle);
    }
    void *scratch = take(cpu->attention_scratch_size(&shape));
    memcpy(rotated, qkv, rows * width * 4);
    for (size_t s = 0; s < sequences; s++) {
        size_t at = s * length * width, row = s * length * heads * size;
        cpu->rope(length, width, heads + kv_heads, size, cosines, sines, 1, rotated + at);
        cpu->attention_forward(&shape, rotated + at, out + row, lse + s * length * heads, scratch);
        cpu->attention_backward(&shape, rotated + at, out + row, lse + s * length * heads,
                                d_out + row, d_qkv + at, scratch);
        cpu->rope(length, width, heads + kv_heads, size, cosines, sines, -1, d_qkv + at);
    }
    struct cuda_attention a = {.sequences = sequences,
                               .length = length,
                               .heads = heads,
                               .kv_heads = kv_heads,
                               .head_size = size};
    a.qkv = halves_there(qkv, rows * width), a.out = halves_there(NULL, rows * heads * size),
    a.d_out = halves_there(d_out, rows * heads * size);
    a.d_qkv = halves_there(NULL, rows * width), a.lse = floats_there(NULL, rows * heads),
    a.delta = floats_there(NULL, rows * heads);
    a.cos = floats_there(cosines, length * half), a.sin = floats_there(sines, length * half);
    must(training->attention_forward(session, &a));
    check_halves("attention", a.out, out, rows * heads * size, 0.01);
    check_floats("attention's lse", a.lse, lse, rows * heads, 0.004);
    must(training->attention_backward(session, &a));
    check_halves("attention's gradient", a.d_qkv, d_qkv, rows * width, 0.01);
}

TEST(attention_is_the_cpus_for_every_head_size_and_odd_lengths) {
    start();
    for (uint32_t size = 32; size <= 128; size += 16)
        compare_attention(1, 67 + size / 16, 2, 1, size);
    compare_attention(2, 1, 1, 1, 32);
    compare_attention(1, 63, 4, 2, 32);
    compare_attention(1, 64, 3, 3, 32);
    compare_attention(2, 65, 6, 2, 32);
    compare_attention(1, 193, 2, 1, 64);
    struct cuda_attention odd = {
        .sequences = 1, .length = 1, .heads = 1, .kv_heads = 1, .head_size = 40};
    CHECK_CONTAINS(training->attention_forward(session, &odd), "head size is 40");
}

/* Compute 9.0's own instructions: on a GPU that has them, or emulated. A length of 650 has more
 * parts than a ring has places. */
TEST(attention_by_hoppers_instructions_is_the_cpus_for_odd_lengths_and_groups) {
    setenv("ATOLL_ATTENTION", "wgmma", 1);
    setenv("EMULATED_TENSOR_MAPS", "1", 1);
    start();
    const uint32_t shapes[][5] = {{1, 1, 1, 1, 64},   {2, 63, 2, 1, 64},   {1, 64, 3, 3, 64},
                                  {3, 65, 4, 1, 128}, {1, 128, 2, 2, 128}, {1, 129, 2, 1, 64},
                                  {2, 200, 4, 2, 64}, {1, 300, 1, 1, 128}, {1, 257, 2, 1, 128},
                                  {1, 650, 1, 1, 64}};
    for (size_t i = 0; i < COUNT_OF(shapes); i++)
        compare_attention(shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3], shapes[i][4]);
}

TEST(attention_goes_the_way_that_was_measured) {
    start();
    const struct cuda_attention shapes[] = {
        {.sequences = 32, .length = 1024, .heads = 12, .kv_heads = 12, .head_size = 64},
        {.sequences = 8, .length = 1024, .heads = 16, .kv_heads = 16, .head_size = 128},
        {.sequences = 2, .length = 193, .heads = 4, .kv_heads = 2, .head_size = 64}};
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        must(training->attention_prepare(session, &shapes[i]));
        printf("  %u x %u, %u heads of %u: %s\n", shapes[i].sequences, shapes[i].length,
               shapes[i].heads, shapes[i].head_size, training->attention_line(session));
    }
    compare_attention(2, 193, 4, 2, 64);
}

static void compare_norm(uint32_t rows, uint32_t width) {
    size_t count = (size_t)rows * width;
    float *x = randoms(count, 1, 3), *w = randoms(width, 2, 1), *dy = randoms(count, 3, 1),
          *dx = randoms(count, 4, 1), *dw = randoms(width, 5, 1);
    float *y = take(count * 4), *rstd = take(rows * 4);
    struct cuda_norm n = {.rows = rows, .width = width, .eps = 1e-5f, .add = 1, .accumulate = 1};
    n.x = halves_there(x, count), n.w = floats_there(w, width), n.y = halves_there(NULL, count),
    n.rstd = floats_there(NULL, rows);
    n.dy = halves_there(dy, count), n.dx = halves_there(dx, count), n.dw = floats_there(dw, width);
    n.partials = floats_there(NULL, (size_t)CUDA_NORM_GROUPS * width);
    cpu->norm_forward(rows, width, 1e-5f, x, w, y, rstd);
    cpu->norm_backward(rows, width, dy, x, w, rstd, dx, dw);
    must(training->norm_forward(session, &n));
    check_halves("norm", n.y, y, count, 0.004);
    check_floats("norm's rstd", n.rstd, rstd, rows, 1e-5);
    must(training->norm_backward(session, &n));
    check_halves("norm's gradient", n.dx, dx, count, 0.004);
    check_floats("norm's weight gradient", n.dw, dw, width, 1e-5);
}

TEST(norms_are_the_cpus_and_their_gradients_are_added) {
    start();
    const uint32_t shapes[][2] = {{1, 8}, {7, 24}, {33, 256}, {2100, 40}, {5, 4104}};
    for (size_t i = 0; i < COUNT_OF(shapes); i++) compare_norm(shapes[i][0], shapes[i][1]);
}

TEST(swiglu_is_the_cpus_also_in_place) {
    start();
    const uint32_t shapes[][2] = {{1, 8}, {3, 88}, {257, 104}};
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        uint32_t rows = shapes[i][0], width = shapes[i][1];
        size_t count = (size_t)rows * width;
        float *gate_up = randoms(2 * count, 1, 4), *dh = randoms(count, 2, 1), *h = take(count * 4);
        struct device_memory there = halves_there(gate_up, 2 * count),
                             h_there = halves_there(NULL, count), again = halves_there(NULL, count);
        must(training->swiglu_forward(session, rows, width, there, h_there));
        must(training->swiglu_backward(session, rows, width, there, halves_there(dh, count), again,
                                       there));
        cpu->swiglu_forward(rows, width, gate_up, h);
        check_halves("swiglu", h_there, h, count, 0.004);
        check_halves("swiglu again", again, h, count, 0.004);
        cpu->swiglu_backward(rows, width, gate_up, dh, h, gate_up);
        check_halves("swiglu's gradient", there, gate_up, 2 * count, 0.004);
    }
}

static void compare_loss(uint32_t from, uint32_t rows, uint32_t vocabulary) {
    enum { LENGTH = 5, SEQUENCES = 4 };
    uint32_t stride = (vocabulary + 7) / 8 * 8, tokens[SEQUENCES * (LENGTH + 1)],
             targets[SEQUENCES * LENGTH];
    float *logits = randoms((size_t)rows * vocabulary, vocabulary, 8),
          *padded = take((size_t)rows * stride * 4);
    for (size_t i = 0; i < COUNT_OF(tokens); i++) tokens[i] = (uint32_t)(i * 7919) % vocabulary;
    for (uint32_t i = 0; i < rows; i++)
        targets[i] = tokens[(from + i) / LENGTH * (LENGTH + 1) + (from + i) % LENGTH + 1];
    for (size_t i = 0; i < (size_t)rows * stride; i++)
        padded[i] = i % stride < vocabulary ? logits[i / stride * vocabulary + i % stride] : 7777;
    struct cuda_loss l = {.from = from,
                          .rows = rows,
                          .length = LENGTH,
                          .vocabulary = vocabulary,
                          .stride = stride,
                          .scale = 0.25f};
    l.logits = halves_there(padded, (size_t)rows * stride),
    l.tokens = bytes_there(tokens, sizeof tokens);
    l.losses = floats_there(NULL, (size_t)SEQUENCES * LENGTH);
    struct device_memory outcome = bytes_there(NULL, sizeof(struct cuda_outcome));
    struct cuda_outcome got;
    must(training->cross_entropy(session, &l));
    must(training->loss_sum(session, (struct device_memory){l.losses.address + from * 4}, rows, 0,
                            outcome));
    must(training->download(session, &got, outcome, sizeof got));
    double loss = cpu->cross_entropy(rows, vocabulary, logits, targets, 0.25f);
    CHECK_NEAR(got.loss, loss, 1e-5 * fabs(loss));
    for (size_t i = 0; i < (size_t)rows * stride; i++)
        padded[i] = i % stride < vocabulary ? logits[i / stride * vocabulary + i % stride]
                                            : from_bf16(to_bf16(7777));
    check_halves("cross entropy's gradient and what lies beside it", l.logits, padded,
                 (size_t)rows * stride, 0.004);
}

TEST(cross_entropy_is_the_cpus_for_rows_of_a_batch_and_odd_vocabularies) {
    start();
    const uint32_t shapes[][3] = {
        {0, 20, 256}, {3, 9, 131}, {7, 1, 1}, {2, 6, 4097}, {0, 3, 20011}};
    for (size_t i = 0; i < COUNT_OF(shapes); i++)
        compare_loss(shapes[i][0], shapes[i][1], shapes[i][2]);
}

static void multiply(struct cuda_matmul m) {
    m.workspace = bytes_there(NULL, CUDA_MATMUL_WORKSPACE);
    must(training->matmul(session, &m));
}

TEST(products_are_rows_times_weights_with_their_residual_and_sums) {
    start();
    enum { ROWS = 19, OUT = 24, IN = 40, STRIDE = 32 };
    float *x = randoms(ROWS * IN, 1, 1), *w = randoms(OUT * IN, 2, 1),
          *dy = randoms(ROWS * STRIDE, 3, 1), *add = randoms(ROWS * STRIDE, 4, 1);
    float y[ROWS * STRIDE], dx[ROWS * IN] = {0}, *dw = randoms(OUT * IN, 5, 1);
    struct device_memory x_there = halves_there(x, ROWS * IN), w_there = halves_there(w, OUT * IN),
                         dw_there = floats_there(dw, OUT * IN);
    struct device_memory dy_there = halves_there(dy, ROWS * STRIDE),
                         y_there = halves_there(add, ROWS * STRIDE),
                         dx_there = halves_there(NULL, ROWS * IN);
    memcpy(y, add, sizeof y);
    for (size_t r = 0; r < ROWS; r++)
        for (size_t o = 0; o < OUT; o++)
            for (size_t i = 0; i < IN; i++) {
                y[r * STRIDE + o] += x[r * IN + i] * w[o * IN + i];
                dx[r * IN + i] += dy[r * STRIDE + o] * w[o * IN + i];
                dw[o * IN + i] += dy[r * STRIDE + o] * x[r * IN + i];
            }
    struct cuda_matmul m = {
        .rows = ROWS, .out = OUT, .in = IN, .out_stride = STRIDE, .accumulate = 1};
    m.kind = CUDA_LINEAR_FORWARD, m.left = x_there, m.right = w_there, m.add = y_there,
    m.result = y_there;
    multiply(m);
    m.kind = CUDA_LINEAR_WEIGHT, m.left = dy_there, m.right = x_there, m.result = dw_there;
    multiply(m);
    m.kind = CUDA_LINEAR_INPUT, m.right = w_there, m.result = dx_there, m.accumulate = 0;
    multiply(m);
    check_halves("forward", y_there, y, ROWS * STRIDE, 0.004);
    check_floats("weight gradient", dw_there, dw, OUT * IN, 1e-5);
    check_halves("input gradient", dx_there, dx, ROWS * IN, 0.004);
}

/* Infinities, differences beyond the largest float and denormals too: the same bits. */
TEST(a_rebase_has_the_cpus_bits) {
    start();
    enum { COUNT = 20005 };
    float *local = randoms(COUNT, 1, 1), *fresh = randoms(COUNT, 2, 1),
          *origin = randoms(COUNT, 3, 1);
    const float odd[] = {3e38f, -3e38f, 1e-40f, -1e-45f, 0.0f, -0.0f, INFINITY, 1.0f};
    for (size_t i = 0; i < 512; i++) {
        local[i] = odd[i % 8];
        fresh[i] = odd[i / 8 % 8];
        origin[i] = odd[i / 64];
    }
    struct device_memory there = floats_there(local, COUNT), copy = halves_there(NULL, COUNT);
    must(training->rebase(session, COUNT, there, copy, floats_there(fresh, COUNT),
                          floats_there(origin, COUNT)));
    elementwise_rebase(local, fresh, origin, COUNT);
    float *got = xcalloc(COUNT, sizeof *got);
    uint16_t *half = xcalloc(COUNT, sizeof *half);
    must(training->download(session, got, there, COUNT * sizeof *got));
    must(training->download(session, half, copy, COUNT * sizeof *half));
    for (size_t i = 0; i < COUNT; i++) {
        CHECK(isnan(local[i]) ? isnan(got[i]) : memcmp(&got[i], &local[i], sizeof got[i]) == 0);
        if (isfinite(local[i])) CHECK_EQUAL(half[i], to_bf16(local[i]));
    }
    free(got);
    free(half);
}

TEST(adamw_and_the_judgement_before_it_are_the_cpus) {
    start();
    enum { COUNT = 20005 };
    float *g = randoms(COUNT, 1, 1), *p = randoms(COUNT, 2, 1), *m = randoms(COUNT, 3, 0.1f),
          *v = randoms(COUNT, 4, 0.1f);
    for (size_t i = 0; i < COUNT; i++) v[i] = fabsf(v[i]);
    double squares = 0;
    for (size_t i = 0; i < COUNT; i++) squares += (double)g[i] * (double)g[i];
    const struct cuda_piece pieces[] = {{0, 8192, 1}, {8192, 11808, 0}, {20000, 5, 1}};
    const struct cuda_update update = {
        .learning_rate = 0.01f, .correction1 = 1.5f, .correction2 = 2.5f};
    struct cuda_outcome outcome = {.loss = 1};
    struct cuda_adamw a = {.count = COUNT,
                           .piece_count = 3,
                           .beta1 = 0.9f,
                           .beta2 = 0.95f,
                           .epsilon = 1e-8f,
                           .decay = 0.1f};
    a.pieces = bytes_there(pieces, sizeof pieces), a.update = bytes_there(&update, sizeof update),
    a.outcome = bytes_there(&outcome, sizeof outcome);
    a.gradient = floats_there(g, COUNT), a.parameters = floats_there(p, COUNT),
    a.copy = halves_there(NULL, COUNT);
    a.m = floats_there(m, COUNT), a.v = floats_there(v, COUNT);
    must(training->judge(session, COUNT, a.gradient,
                         bytes_there(NULL, CUDA_SUM_BLOCKS * sizeof(double)), 1.0f, a.outcome));
    must(training->adamw(session, &a));
    must(training->download(session, &outcome, a.outcome, sizeof outcome));
    CHECK_EQUAL(outcome.finite, 1);
    CHECK_NEAR(outcome.norm, sqrt(squares), 1e-6 * sqrt(squares));
    CHECK_NEAR((double)outcome.gradient_scale, 1 / (sqrt(squares) + 1e-6), 1e-6);
    for (size_t i = 0; i < COUNT_OF(pieces); i++) {
        const struct adamw_step step = {.learning_rate = 0.01f,
                                        .beta1 = 0.9f,
                                        .beta2 = 0.95f,
                                        .epsilon = 1e-8f,
                                        .decay = pieces[i].decays ? 0.1f : 0,
                                        .gradient_scale = outcome.gradient_scale,
                                        .correction1 = 1.5f,
                                        .correction2 = 2.5f};
        size_t at = pieces[i].offset;
        cpu->adamw(pieces[i].count, &step, g + at, p + at, m + at, v + at);
    }
    check_floats("parameters", a.parameters, p, COUNT, 1e-6);
    check_floats("m", a.m, m, COUNT, 1e-6);
    check_floats("v", a.v, v, COUNT, 1e-6);
    check_halves("the copy", a.copy, p, COUNT, 0.004);
}
