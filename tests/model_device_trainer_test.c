/* A step on the device against the CPU's, over whole models: loss, gradient and update; what is
 * refused; what a lost device does.
 *
 * On the GPU where there is one, else on the emulated device (docs/gpu.md). Bounds: activations
 * have 8 bits, so a loss within 0.5 % and, of the gradient as a vector, a distance within 3 % of
 * its length; AdamW and its sums are fp32 and held to 1e-5. */
#include "model/device_trainer.h"

#include <limits.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "kernels/elementwise.h"
#include "model/trainer.h"
#include "model/transformer.h"
#include "tests/test.h"

static const char *library(bool emulated) {
    static char path[PATH_MAX + 64];
    char program[PATH_MAX] = {0};
    CHECK(readlink("/proc/self/exe", program, sizeof program - 1) > 0);
    *strrchr(program, '/') = 0;
    snprintf(path, sizeof path,
             emulated ? "%s/atoll-kernels-emulated.so" : "%s/../bin/atoll-kernels-cuda.so",
             program);
    return path;
}

/* A GPU, else the emulation; skips the test where there is neither (no C++ compiler). */
static void find_backend(struct cuda_backend *out) {
    struct error error = {0};
    const char *named = getenv("ATOLL_TEST_CUDA_LIBRARY");
    if (named) {
        CHECK_OK(cuda_backend_open(named, out, &error));
        return;
    }
    if (cuda_backend_open(library(false), out, &error) == OK) return;
    if (!file_exists(library(true))) TEST_SKIP("%s, and no emulation was built", error.message);
    CHECK_OK(cuda_backend_open(library(true), out, &error));
}

static struct model_config config_of(uint32_t heads, uint32_t kv_heads, uint32_t head_size,
                                     bool tied) {
    return (struct model_config){.vocabulary = 131,
                                 .hidden = heads * head_size,
                                 .layers = 2,
                                 .heads = heads,
                                 .kv_heads = kv_heads,
                                 .ffn = 88,
                                 .context = 128,
                                 .rope_theta = 10000,
                                 .norm_eps = 1e-5f,
                                 .tied = tied};
}

struct both { /* a model on both sides */
    struct layout layout;
    struct device_trainer_options options;
    float *parameters, *gradient; /* CPU */
    uint32_t *tokens;             /* of a step */
    uint64_t sequences;           /* of a step */
    struct transformer transformer;
    struct workspace workspace;
    void *memory;
    struct device_trainer *device;
};

static void plan(struct both *b, struct tensor_arena *arena) {
    const struct kernels *kernels = kernels_at(0);
    transformer_plan(&b->transformer, &b->layout, kernels, b->options.length, true, false, arena);
    workspace_plan(&b->workspace, &b->transformer, (uint32_t)b->sequences, arena);
}

static void fill_tokens(struct both *b, uint64_t seed) {
    struct random random;
    random_init(&random, seed);
    for (uint64_t i = 0; i < b->sequences * (b->options.length + 1); i++) {
        uint32_t before = i ? b->tokens[i - 1] : 1;
        b->tokens[i] = random_below(&random, 4)
                           ? (before * 5 + 3) % b->layout.config.vocabulary
                           : (uint32_t)random_below(&random, b->layout.config.vocabulary);
    }
}

static void make(struct both *b, const struct cuda_backend *backend, struct model_config config,
                 uint32_t sequences, uint32_t length, uint32_t accumulation) {
    struct error error = {0};
    *b = (struct both){.sequences = (uint64_t)sequences * accumulation};
    CHECK_OK(layout_init(&config, &b->layout, &error));
    b->options = (struct device_trainer_options){.layout = &b->layout,
                                                 .backend = backend,
                                                 .sequences = sequences,
                                                 .length = length,
                                                 .accumulation = accumulation,
                                                 .adamw = ADAMW_DEFAULTS};
    b->parameters = xcalloc(b->layout.count, sizeof(float));
    b->gradient = xcalloc(b->layout.count, sizeof(float));
    b->tokens = xcalloc(b->sequences * (length + 1), sizeof *b->tokens);
    layout_initialise(&b->layout, 5, b->parameters);
    fill_tokens(b, 9);
    struct tensor_arena arena = {0};
    plan(b, &arena);
    CHECK_OK(memory_try(arena.used, 1, &b->memory, &error));
    arena = (struct tensor_arena){.base = b->memory};
    plan(b, &arena);
}

static void make_device(struct both *b) {
    struct error error = {0};
    CHECK_OK(device_trainer_create(&b->options, &b->device, &error));
    CHECK_OK(device_trainer_upload(b->device, b->parameters, NULL, NULL, &error));
}

static void end(struct both *b) {
    device_trainer_destroy(b->device);
    layout_deinit(&b->layout);
    free(b->parameters);
    free(b->gradient);
    free(b->tokens);
    free(b->memory);
}

/* The CPU's loss and, in b->gradient, gradient. */
static double cpu_loss(struct both *b) {
    uint64_t count = b->sequences * b->options.length;
    memset(b->gradient, 0, b->layout.count * sizeof(float));
    for (uint32_t job = 0; job < transformer_pack_jobs(&b->transformer); job++)
        transformer_pack(&b->transformer, b->parameters, job);
    return transformer_run(&b->transformer, &b->workspace, b->parameters, b->tokens,
                           (uint32_t)b->sequences, b->options.length, (float)(1.0 / (double)count),
                           b->gradient, false) /
           (double)count;
}

static struct cuda_outcome device_step(struct both *b, float rate, uint32_t step) {
    struct error error = {0};
    struct cuda_outcome outcome = {0};
    const struct cuda_update update = {.learning_rate = rate,
                                       .correction1 = (float)(1 / (1 - pow(0.9f, step))),
                                       .correction2 = (float)(1 / (1 - pow(0.95f, step)))};
    CHECK_OK(device_trainer_stage(b->device, b->tokens, &error));
    CHECK_OK(device_trainer_begin(b->device, &update, &error));
    CHECK_OK(device_trainer_end(b->device, &outcome, &error));
    return outcome;
}

static double length_of(const float *x, uint64_t count) {
    double sum = 0;
    for (uint64_t i = 0; i < count; i++) sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

/* Tensor by tensor, so that a wrong small one does not hide behind large ones. */
static void compare_gradients(const struct both *b, const float *got) {
    for (uint32_t t = 0; t < b->layout.tensor_count; t++) {
        const struct layout_tensor *tensor = &b->layout.tensors[t];
        float *difference = xmalloc(tensor->count * sizeof *difference);
        for (uint64_t i = 0; i < tensor->count; i++)
            difference[i] = got[tensor->offset + i] - b->gradient[tensor->offset + i];
        double far = length_of(difference, tensor->count),
               whole = length_of(b->gradient + tensor->offset, tensor->count);
        if (!(far <= 0.03 * whole + 1e-7))
            test_failed(__FILE__, __LINE__, "%s: gradient is %g away of a length of %g",
                        tensor->name, far, whole);
        free(difference);
    }
}

static void compare_model(const struct cuda_backend *backend, struct model_config config,
                          uint32_t sequences, uint32_t length, uint32_t accumulation,
                          bool recompute) {
    struct error error = {0};
    struct both b;
    make(&b, backend, config, sequences, length, accumulation);
    b.options.recompute = recompute;
    make_device(&b);
    for (uint32_t step = 1; step <= 2;
         step++) { /* the second finds what the first has left behind */
        double loss = cpu_loss(&b);
        struct cuda_outcome outcome = device_step(&b, 0.0f, step);
        CHECK_EQUAL(outcome.finite, 1);
        CHECK_NEAR(outcome.loss / (double)(b.sequences * length), loss, 0.005 * loss);
        CHECK_NEAR(outcome.norm, length_of(b.gradient, b.layout.count), 0.02 * outcome.norm);
        float *gradient = xmalloc(b.layout.count * sizeof *gradient);
        CHECK_OK(device_trainer_gradient(b.device, gradient, &error));
        CHECK_NEAR(outcome.norm, length_of(gradient, b.layout.count), 1e-5 * outcome.norm);
        compare_gradients(&b, gradient);
        free(gradient);
        fill_tokens(&b, 10 + step);
    }
    end(&b);
}

TEST(a_step_has_the_cpus_loss_and_gradient) {
    struct cuda_backend backend;
    find_backend(&backend);
    printf("  compared with %s\n", backend.found);
    compare_model(&backend, config_of(2, 1, 32, true), 3, 37, 1, false);
    compare_model(&backend, config_of(2, 2, 64, false), 1, 65, 3, false);
    compare_model(&backend, config_of(3, 1, 48, false), 2, 70, 2, true);
    cuda_backend_close(&backend);
}

/* Recorded and repeated, with micro-batches, and rotated anew where activations are computed again.
 */
TEST(a_step_with_hoppers_attention_has_the_cpus_loss_and_gradient) {
    struct cuda_backend backend;
    setenv("ATOLL_ATTENTION", "wgmma", 1);
    setenv("EMULATED_TENSOR_MAPS", "1", 1);
    find_backend(&backend);
    if (backend.device.major != 9 || backend.device.minor != 0)
        TEST_SKIP("%s has no wgmma", backend.found);
    printf("  compared with %s\n", backend.found);
    compare_model(&backend, config_of(2, 1, 64, true), 1, 33, 2, true);
    cuda_backend_close(&backend);
}

/* Both sides from the same weights and batches, the CPU's by its own AdamW: 200 steps on a GPU, 20
 * emulated, or as many as ATOLL_TEST_CURVE_STEPS says. */
TEST(the_loss_curve_is_the_cpus_within_half_a_percent) {
    struct cuda_backend backend;
    find_backend(&backend);
    printf("  compared with %s\n", backend.found);
    struct both b;
    make(&b, &backend, config_of(2, 1, 32, true), 4, 32, 1);
    make_device(&b);
    float *m = xcalloc(b.layout.count, sizeof *m), *v = xcalloc(b.layout.count, sizeof *v);
    double first = 0, loss = 0;
    const char *said = getenv("ATOLL_TEST_CURVE_STEPS");
    uint32_t steps = said                                         ? (uint32_t)atoi(said)
                     : strncmp(backend.found, "emulated", 8) == 0 ? 20
                                                                  : 200;
    for (uint32_t step = 1; step <= steps; step++) {
        fill_tokens(&b, 100 + step);
        loss = cpu_loss(&b);
        if (step == 1) first = loss;
        double norm = length_of(b.gradient, b.layout.count);
        struct cuda_outcome outcome = device_step(&b, 3e-3f, step);
        CHECK_NEAR(outcome.loss / (double)(b.sequences * b.options.length), loss, 0.005 * loss);
        for (uint32_t t = 0; t < b.layout.tensor_count; t++) {
            const struct layout_tensor *tensor = &b.layout.tensors[t];
            const struct adamw_options *o = &b.options.adamw;
            const struct adamw_step update = {.learning_rate = 3e-3f,
                                              .beta1 = o->beta1,
                                              .beta2 = o->beta2,
                                              .epsilon = o->epsilon,
                                              .decay = tensor->decays ? o->decay : 0.0f,
                                              .gradient_scale = (float)fmin(1, 1 / (norm + 1e-6)),
                                              .correction1 = (float)(1 / (1 - pow(0.9f, step))),
                                              .correction2 = (float)(1 / (1 - pow(0.95f, step)))};
            uint64_t at = tensor->offset;
            kernels_at(0)->adamw(tensor->count, &update, b.gradient + at, b.parameters + at, m + at,
                                 v + at);
        }
    }
    printf("  %u steps: the loss is %.4f from %.4f\n", steps, loss, first);
    CHECK(loss < 0.9 * first); /* something was learnt */
    free(m);
    free(v);
    end(&b);
    cuda_backend_close(&backend);
}

TEST(a_step_repeats_bit_for_bit) {
    struct cuda_backend backend;
    find_backend(&backend);
    struct error error = {0};
    float *got[2];
    for (int i = 0; i < 2; i++) {
        struct both b;
        make(&b, &backend, config_of(2, 1, 32, true), 2, 33, 2);
        make_device(&b);
        for (uint32_t step = 1; step <= 2; step++) device_step(&b, 1e-3f, step);
        got[i] = xmalloc(b.layout.count * sizeof(float));
        CHECK_OK(device_trainer_download(b.device, got[i], NULL, NULL, &error));
        if (i == 1) CHECK_MEMORY(got[0], got[1], b.layout.count * sizeof(float));
        end(&b);
    }
    free(got[0]);
    free(got[1]);
    cuda_backend_close(&backend);
}

TEST(a_gradient_that_is_not_finite_changes_nothing) {
    struct cuda_backend backend;
    find_backend(&backend);
    struct error error = {0};
    struct both b;
    make(&b, &backend, config_of(2, 1, 32, true), 2, 33, 1);
    b.parameters[b.tokens[0] * b.layout.config.hidden] = NAN;
    make_device(&b);
    CHECK_EQUAL(device_step(&b, 1e-3f, 1).finite, 0);
    float *after = xmalloc(b.layout.count * sizeof *after);
    CHECK_OK(device_trainer_download(b.device, after, NULL, NULL, &error));
    CHECK_MEMORY(after, b.parameters, b.layout.count * sizeof *after);
    free(after);
    end(&b);
    cuda_backend_close(&backend);
}

TEST(evaluation_has_the_cpus_loss_for_any_number_of_sequences) {
    struct cuda_backend backend;
    find_backend(&backend);
    struct error error = {0};
    struct both b;
    make(&b, &backend, config_of(2, 1, 32, false), 2, 40, 3);
    make_device(&b);
    for (uint64_t count = 1; count <= 5; count += 2) {
        uint64_t rows = count * b.options.length;
        double got = 0, wanted = 0;
        CHECK_OK(device_trainer_loss(b.device, b.tokens, count, &got, &error));
        for (uint32_t job = 0; job < transformer_pack_jobs(&b.transformer); job++)
            transformer_pack(&b.transformer, b.parameters, job);
        wanted = transformer_run(&b.transformer, &b.workspace, b.parameters, b.tokens,
                                 (uint32_t)count, b.options.length, 0, NULL, false);
        CHECK_NEAR(got / (double)rows, wanted / (double)rows, 0.005 * wanted / (double)rows);
    }
    end(&b);
    cuda_backend_close(&backend);
}

TEST(what_the_kernels_cannot_do_is_invalid_and_named) {
    struct cuda_backend backend;
    find_backend(&backend);
    struct error error = {0};
    struct both b;
    make(&b, &backend, config_of(2, 1, 20, true), 1, 16, 1);
    CHECK_STATUS(device_trainer_create(&b.options, &b.device, &error), INVALID);
    CHECK_CONTAINS(error.message, "head size is 20");
    end(&b);
    struct model_config odd = config_of(2, 1, 32, true);
    odd.ffn = 90;
    make(&b, &backend, odd, 1, 16, 1);
    CHECK_STATUS(device_trainer_create(&b.options, &b.device, &error), INVALID);
    CHECK_CONTAINS(error.message, "ffn size is 90");
    end(&b);
    cuda_backend_close(&backend);
}

static void need_library(const char *path) {
    if (!file_exists(path)) TEST_SKIP("there is no %s", path);
}

static void find_emulation(struct cuda_backend *out) {
    struct error error = {0};
    need_library(library(true));
    CHECK_OK(cuda_backend_open(library(true), out, &error));
}

TEST(too_little_memory_is_refused_with_both_figures) {
    struct cuda_backend backend;
    setenv("EMULATED_MEMORY", "1000000", 1);
    find_emulation(&backend);
    struct error error = {0};
    struct both b;
    make(&b, &backend, config_of(2, 1, 32, true), 1, 16, 1);
    CHECK(device_trainer_memory(&b.options) > 32 << 20);
    CHECK_STATUS(device_trainer_create(&b.options, &b.device, &error), FULL);
    CHECK_CONTAINS(error.message,
                   "needs 0.03 GiB of device memory for a batch of 1 x 16; 0.00 GiB");
    end(&b);
    cuda_backend_close(&backend);
}

TEST(a_lost_device_is_unavailable) {
    struct cuda_backend backend;
    setenv("EMULATED_LOSS", "400", 1);
    find_emulation(&backend);
    struct error error = {0};
    struct both b;
    make(&b, &backend, config_of(2, 1, 32, true), 1, 16, 1);
    make_device(&b);
    enum status status = OK;
    for (int i = 0; i < 20 && status == OK; i++) {
        struct cuda_outcome outcome;
        status = device_trainer_stage(b.device, b.tokens, &error);
        if (status == OK) status = device_trainer_begin(b.device, &(struct cuda_update){0}, &error);
        if (status == OK) status = device_trainer_end(b.device, &outcome, &error);
    }
    CHECK_EQUAL(status, UNAVAILABLE);
    CHECK_CONTAINS(error.message, "lost");
    CHECK_STATUS(device_trainer_download(b.device, b.parameters, NULL, NULL, &error), UNAVAILABLE);
    end(&b);
}

static size_t lines_of(const char *path, struct buffer *out) {
    struct error error = {0};
    size_t lines = 0;
    out->size = 0;
    CHECK_OK(file_read(path, 1 << 20, out, &error));
    for (size_t i = 0; i < out->size; i++) lines += out->data[i] == '\n';
    return lines;
}

/* The file's lines may come in another order after a repair; a whole one is left as it is. */
TEST(matrix_algorithms_are_kept_and_a_damaged_file_is_written_anew) {
    struct cuda_backend backend;
    find_backend(&backend);
    struct error error = {0};
    struct both b;
    struct buffer whole = {0}, again = {0};
    char *path = file_join(test_directory(), "matmul");
    for (int i = 0; i < 4; i++) {
        make(&b, &backend, config_of(2, 1, 32, true), 1, 16, 1);
        b.options.cache = path;
        make_device(&b);
        size_t lines = lines_of(path, i ? &again : &whole);
        CHECK_EQUAL(lines, 1 + 15); /* four layers' products three ways, and the head's */
        if (i == 1) CHECK_MEMORY(again.data, whole.data, whole.size);
        CHECK_EQUAL(device_step(&b, 0, 1).finite, 1);
        end(&b);
        if (i == 1) { /* a digit of an algorithm is turned over */
            char *at = strstr((char *)again.data, "\n") + 40;
            *at = *at == '0' ? '1' : '0';
            CHECK_OK(file_write(path, buffer_bytes(&again), 0600, &error));
        }
        if (i == 2) CHECK_OK(file_write(path, bytes_of("\0garbage\n1 2 3", 14), 0600, &error));
    }
    buffer_deinit(&whole);
    buffer_deinit(&again);
    free(path);
    cuda_backend_close(&backend);
}

/* --- the trainer on a device --- */

static struct data *text_data(void) {
    struct error error = {0};
    struct buffer text = {0};
    struct random random;
    random_init(&random, 3);
    while (text.size < 20000)
        buffer_append_text(&text, "the %s sat on the %s. ",
                           (const char *[]){"cat", "dog", "owl"}[random_below(&random, 3)],
                           (const char *[]){"mat", "hill", "moon"}[random_below(&random, 3)]);
    char *path = file_join(test_directory(), "train.txt");
    CHECK_OK(file_write(path, buffer_bytes(&text), 0600, &error));
    const struct data_options options = {.vocabulary = 256, .heldout = 0.1, .seed = 11};
    struct data *data;
    CHECK_OK(data_open((const char *const[]){path}, 1, &options, &data, &error));
    free(path);
    buffer_deinit(&text);
    return data;
}

static struct trainer_options trainer_options_of(enum device_choice device) {
    struct trainer_options options = TRAINER_DEFAULTS;
    options.model = config_of(2, 1, 32, true);
    options.model.vocabulary = 256;
    options.sequences = 2;
    options.length = 24;
    options.accumulation = 2;
    options.threads = 1;
    options.device = device;
    options.cuda_library = getenv("ATOLL_TEST_CUDA_LIBRARY");
    if (!options.cuda_library)
        options.cuda_library = library(!file_exists(library(false)) || !getenv("ATOLL_TEST_GPU"));
    return options;
}

static struct trainer *trainer_of(const struct trainer_options *options) {
    struct error error = {0};
    struct trainer *trainer;
    setenv("XDG_CACHE_HOME", test_directory(), 1);
    CHECK_OK(trainer_create(options, &trainer, &error));
    layout_initialise(trainer_layout(trainer), 7, trainer_parameters_to_change(trainer));
    return trainer;
}

static double step_of(struct trainer *trainer, const struct data *data) {
    struct error error = {0};
    struct trainer_result result = {0};
    CHECK_OK(trainer_step(trainer, data, trainer_counters(trainer).tokens, &result, &error));
    return result.loss;
}

static struct buffer state_of(struct trainer *trainer) {
    struct buffer state = {0};
    trainer_save(trainer, &state);
    return state;
}

TEST(a_trainer_on_the_device_follows_the_cpus_and_its_state_moves_between_them) {
    struct trainer_options there = trainer_options_of(DEVICE_CUDA),
                           here = trainer_options_of(DEVICE_CPU);
    need_library(there.cuda_library);
    struct error error = {0};
    struct data *data = text_data();
    struct trainer *device = trainer_of(&there), *cpu = trainer_of(&here);
    CHECK_TEXT(trainer_kernels(device), "cuda");
    CHECK_CONTAINS(trainer_device_line(device), "; attention by ");
    CHECK_TEXT(trainer_device_line(cpu), "the CPU, as asked");
    for (int i = 0; i < 6; i++) {
        double loss = step_of(cpu, data);
        CHECK_NEAR(step_of(device, data), loss, 0.005 * loss);
    }
    CHECK_EQUAL(trainer_counters(device).position.index, trainer_counters(cpu).position.index);
    struct buffer state = state_of(device);
    CHECK_OK(trainer_load(cpu, buffer_bytes(&state), &error));
    double nats_there, nats_here;
    CHECK_OK(trainer_evaluate(device, data, 5, &nats_there, &error));
    CHECK_OK(trainer_evaluate(cpu, data, 5, &nats_here, &error));
    CHECK_NEAR(nats_there, nats_here, 0.005 * nats_here);
    double loss = step_of(cpu, data);
    CHECK_NEAR(step_of(device, data), loss, 0.005 * loss);
    buffer_deinit(&state);
    trainer_destroy(device);
    trainer_destroy(cpu);
    data_close(data);
}

/* Looking at the state, moving the parameters and loading between steps is what a node does. */
TEST(a_trainer_on_the_device_continues_from_its_state_bit_for_bit) {
    for (int narrow = 0; narrow < 2; narrow++) {
        struct trainer_options options = trainer_options_of(DEVICE_CUDA);
        options.bf16_moments = narrow;
        need_library(options.cuda_library);
        struct error error = {0};
        struct data *data = text_data();
        struct trainer *whole = trainer_of(&options), *first = trainer_of(&options),
                       *second = trainer_of(&options);
        for (int i = 0; i < 3; i++) step_of(whole, data);
        trainer_parameters_to_change(whole)[70] += 0.25f;
        step_of(whole, data);
        step_of(whole, data);
        for (int i = 0; i < 3; i++) step_of(first, data);
        step_of(second, data); /* what was staged for it is not what comes next */
        struct buffer state = state_of(first);
        CHECK_OK(trainer_load(second, buffer_bytes(&state), &error));
        trainer_parameters_to_change(second)[70] += 0.25f;
        step_of(second, data);
        step_of(second, data);
        struct buffer a = state_of(whole), b = state_of(second);
        CHECK_EQUAL(a.size, b.size);
        CHECK_MEMORY(a.data, b.data, a.size);
        buffer_deinit(&state);
        buffer_deinit(&a);
        buffer_deinit(&b);
        trainer_destroy(whole);
        trainer_destroy(first);
        trainer_destroy(second);
        data_close(data);
    }
}

/* Where the others have gone: from `origin` to `fresh`, another way each turn. */
struct bases {
    uint64_t start, count;
    float *fresh, *origin; /* [count] */
};

static struct bases bases_of(const struct trainer *trainer, uint64_t turn) {
    uint64_t all = trainer_layout(trainer)->count, half = all / 2 / 4096 * 4096;
    struct bases bases = {turn % 3 == 1 ? half : 0, turn % 3 ? all - half : all, NULL, NULL};
    if (turn % 3 == 2) bases.count = half;
    bases.fresh = xcalloc(bases.count, sizeof *bases.fresh);
    bases.origin = xcalloc(bases.count, sizeof *bases.origin);
    for (uint64_t i = 0; i < bases.count; i++) {
        bases.fresh[i] = (float)(random_hash(turn, i) % 2001) * 1e-5f - 1e-2f;
        bases.origin[i] = (float)(random_hash(turn + 100, i) % 2001) * 1e-5f - 1e-2f;
    }
    return bases;
}

static void bases_end(struct bases *bases) {
    free(bases->fresh);
    free(bases->origin);
}

/* Several steps and moves, with looks at the state in some turns: the bits are those of a trainer
 * whose parameters come down, move and go up again, and nothing comes down for it. */
TEST(a_base_moves_where_the_parameters_lie_with_the_cpus_bits) {
    for (int narrow = 0; narrow < 2; narrow++) {
        struct trainer_options options = trainer_options_of(DEVICE_CUDA);
        options.cuda_library = library(true);
        options.bf16_moments = narrow;
        need_library(options.cuda_library);
        struct data *data = text_data();
        struct trainer *there = trainer_of(&options), *here = trainer_of(&options);
        for (uint64_t turn = 0; turn < 9; turn++) {
            struct bases bases = bases_of(there, turn);
            if (turn != 4) CHECK_NEAR(step_of(there, data), step_of(here, data), 0);
            if (turn == 6) (void)trainer_parameters_to_change(there); /* the mirror may be ahead */
            trainer_release_data(there); /* no other thread while the environment changes */
            setenv("EMULATED_TEAR", "64", 1);
            trainer_rebase(there, bases.start, bases.count, bases.fresh, bases.origin);
            CHECK(!trainer_is_lost(there));
            unsetenv("EMULATED_TEAR");
            elementwise_rebase(trainer_parameters_to_change(here) + bases.start, bases.fresh,
                               bases.origin, bases.count);
            bases_end(&bases);
            if (turn % 4 == 1) {
                struct buffer a = state_of(there), b = state_of(here);
                CHECK_EQUAL(a.size, b.size);
                CHECK_MEMORY(a.data, b.data, a.size);
                buffer_deinit(&a);
                buffer_deinit(&b);
            }
        }
        CHECK_NEAR(step_of(there, data), step_of(here, data), 0);
        struct buffer a = state_of(there), b = state_of(here);
        CHECK_MEMORY(a.data, b.data, a.size);
        buffer_deinit(&a);
        buffer_deinit(&b);
        trainer_destroy(there);
        trainer_destroy(here);
        data_close(data);
    }
}

/* The node's base has moved: what is left must stand on it, or its next delta would take back what
 * the others did. */
TEST(what_a_lost_device_leaves_stands_on_the_base_that_the_trainer_was_moved_to) {
    struct trainer_options options = trainer_options_of(DEVICE_CUDA);
    options.cuda_library = library(true);
    need_library(options.cuda_library);
    struct error error = {0};
    struct data *data = text_data();
    struct trainer *trainer = trainer_of(&options);
    uint64_t count = trainer_layout(trainer)->count;
    step_of(trainer, data);
    float *wanted = xcalloc(count, sizeof *wanted);
    struct buffer seen = state_of(trainer); /* the mirror is of step 1 */
    trainer_release_data(trainer);
    memcpy(wanted, trainer_parameters_to_change(trainer), count * sizeof *wanted);
    step_of(trainer, data);
    step_of(trainer, data);
    struct bases bases = bases_of(trainer, 0);
    trainer_release_data(trainer);
    trainer_rebase(trainer, 0, count, bases.fresh, bases.origin);
    CHECK_EQUAL(trainer_counters(trainer).steps, 3);
    setenv("EMULATED_TEAR", "64", 1); /* the next look at it finds the device lost */
    const float *left = trainer_parameters_to_change(trainer);
    CHECK(trainer_is_lost(trainer));
    CHECK_EQUAL(trainer_counters(trainer).steps, 1);
    elementwise_rebase(wanted, bases.fresh, bases.origin, count);
    CHECK_MEMORY(left, wanted, count * sizeof *wanted);
    /* and a move after the loss is made on what is left */
    trainer_rebase(trainer, 0, count, bases.fresh, bases.origin);
    elementwise_rebase(wanted, bases.fresh, bases.origin, count);
    CHECK_MEMORY(trainer_parameters_to_change(trainer), wanted, count * sizeof *wanted);
    CHECK_STATUS(trainer_step(trainer, data, 0, NULL, &error), UNAVAILABLE);
    buffer_deinit(&seen);
    bases_end(&bases);
    free(wanted);
    trainer_destroy(trainer);
    data_close(data);
}

TEST(a_trainer_whose_device_is_lost_keeps_the_last_state_that_was_seen) {
    struct trainer_options options = trainer_options_of(DEVICE_CUDA);
    options.cuda_library = library(true);
    need_library(options.cuda_library);
    setenv("EMULATED_LOSS", "700", 1);
    struct error error = {0};
    struct data *data = text_data();
    struct trainer *trainer = trainer_of(&options);
    step_of(trainer, data);
    struct buffer seen = state_of(trainer), left = {0};
    enum status status = OK;
    for (int i = 0; i < 50 && status == OK; i++)
        status = trainer_step(trainer, data, 0, NULL, &error);
    CHECK_EQUAL(status, UNAVAILABLE);
    CHECK_STATUS(trainer_step(trainer, data, 0, NULL, &error), UNAVAILABLE);
    CHECK_CONTAINS(error.message, "the trainer holds the state of step 1");
    left = state_of(trainer);
    CHECK_EQUAL(left.size, seen.size);
    CHECK_MEMORY(left.data, seen.data, seen.size);
    buffer_deinit(&seen);
    buffer_deinit(&left);
    trainer_destroy(trainer);
    data_close(data);
}

/* Half of the parameters came down, and nothing of the moments. */
TEST(a_device_that_is_lost_in_a_download_leaves_the_last_state_whole) {
    struct trainer_options options = trainer_options_of(DEVICE_CUDA);
    options.cuda_library = library(true);
    need_library(options.cuda_library);
    struct error error = {0};
    struct data *data = text_data();
    struct trainer *trainer = trainer_of(&options);
    step_of(trainer, data);
    step_of(trainer, data);
    struct buffer seen = state_of(trainer);
    step_of(trainer, data);
    trainer_release_data(trainer); /* no other thread while the environment changes */
    setenv("EMULATED_TEAR", "4096", 1);
    CHECK(!trainer_is_lost(trainer));
    CHECK_EQUAL(trainer_counters(trainer).steps, 3);
    struct buffer left = state_of(trainer);
    CHECK(trainer_is_lost(trainer));
    CHECK_EQUAL(trainer_counters(trainer).steps, 2);
    CHECK_EQUAL(left.size, seen.size);
    CHECK_MEMORY(left.data, seen.data, seen.size);
    CHECK_STATUS(trainer_step(trainer, data, 0, NULL, &error), UNAVAILABLE);
    buffer_deinit(&seen);
    buffer_deinit(&left);
    trainer_destroy(trainer);
    data_close(data);
}

/* What was read ahead of the old data is not what the new ones have at that place. */
TEST(data_may_be_closed_once_they_are_released_and_others_opened) {
    struct trainer_options options = trainer_options_of(DEVICE_CUDA);
    need_library(options.cuda_library);
    struct data *data = text_data();
    struct trainer *one = trainer_of(&options), *other = trainer_of(&options);
    step_of(one, data);
    trainer_release_data(one);
    trainer_release_data(one);
    step_of(other, data);
    trainer_release_data(other);
    data_close(data);
    char *path = file_join(test_directory(), "other.txt");
    struct error error = {0};
    struct buffer text = {0};
    for (unsigned i = 0; i < 9000; i++)
        buffer_u8(&text, (uint8_t)('a' + random_hash(3, i / 3) % 26));
    CHECK_OK(file_write(path, buffer_bytes(&text), 0600, &error));
    const struct data_options data_options = {.vocabulary = 256, .seed = 2};
    CHECK_OK(data_open((const char *const[]){path}, 1, &data_options, &data, &error));
    double nats;
    /* these hold nothing out */
    CHECK_STATUS(trainer_evaluate(other, data, 1, &nats, &error), NOT_FOUND);
    for (int i = 0; i < 2; i++) CHECK(step_of(one, data) == step_of(other, data));
    struct buffer a = state_of(one), b = state_of(other);
    CHECK_EQUAL(a.size, b.size);
    CHECK_MEMORY(a.data, b.data, a.size);
    CHECK_EQUAL(trainer_counters(one).position.index, 3 * 4);
    buffer_deinit(&a);
    buffer_deinit(&b);
    buffer_deinit(&text);
    free(path);
    trainer_destroy(one);
    trainer_destroy(other);
    data_close(data);
}

TEST(data_that_fail_are_said_by_the_step_that_needs_them) {
    struct trainer_options options = trainer_options_of(DEVICE_CUDA);
    need_library(options.cuda_library);
    struct error error = {0};
    struct data *data = text_data();
    struct trainer *trainer = trainer_of(&options);
    step_of(trainer, data);
    step_of(trainer, data);
    trainer_release_data(trainer);
    char *path = file_join(test_directory(), "train.txt");
    CHECK_EQUAL(truncate(path, 0), 0);
    struct data_position before = trainer_counters(trainer).position;
    CHECK(trainer_step(trainer, data, 0, NULL, &error) != OK);
    CHECK_CONTAINS(error.message, "train.txt");
    CHECK_EQUAL(trainer_counters(trainer).position.index, before.index);
    CHECK_EQUAL(trainer_counters(trainer).steps, 2);
    CHECK(!trainer_is_lost(trainer));
    free(path);
    trainer_destroy(trainer);
    data_close(data);
}

TEST(memory_is_reckoned_for_the_host_and_for_the_device) {
    struct trainer_options there = trainer_options_of(DEVICE_CUDA),
                           here = trainer_options_of(DEVICE_CPU);
    there.sequences = here.sequences = 64;
    struct layout layout;
    struct error error = {0};
    CHECK_OK(layout_init(&there.model, &layout, &error));
    CHECK_EQUAL(trainer_device_memory(&here), 0);
    CHECK(trainer_device_memory(&there) > 18 * layout.count);
    /* the mirror, and where the next one comes down */
    CHECK(trainer_memory(&there) >= 24 * layout.count);
    CHECK(trainer_memory(&there) < trainer_memory(&here));
    there.device = DEVICE_AUTO;
    CHECK_EQUAL(trainer_memory(&there), trainer_memory(&here));
    layout_deinit(&layout);
}

TEST(auto_uses_the_cpu_and_says_why_where_the_device_cannot) {
    struct trainer_options options = trainer_options_of(DEVICE_AUTO);
    struct error error = {0};
    struct trainer *trainer;
    options.cuda_library = "/nonexistent.so";
    CHECK_OK(trainer_create(&options, &trainer, &error));
    CHECK_CONTAINS(trainer_device_line(trainer),
                   "no CUDA, using the CPU: there is no /nonexistent.so");
    CHECK(strcmp(trainer_kernels(trainer), "cuda") != 0);
    trainer_destroy(trainer);
    options.device = DEVICE_CUDA;
    CHECK(trainer_create(&options, &trainer, &error) != OK);
    options.cuda_library = library(true);
    need_library(options.cuda_library);
    setenv("EMULATED_BLAS", "0", 1);
    options.device = DEVICE_AUTO;
    CHECK_OK(trainer_create(&options, &trainer, &error));
    CHECK_CONTAINS(trainer_device_line(trainer),
                   "no CUDA, using the CPU: CUDA: training on CUDA needs cuBLASLt");
    trainer_destroy(trainer);
}
