/* The trainer's loss curve beside PyTorch's from the same weights and batches:
 * tests/golden/model_curve.txt, which tests/golden/curve.py writes and describes. */
#include <fcntl.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "kernels/kernels.h"
#include "model/trainer.h"
#include "tests/test.h"

enum { VOCABULARY = 64, LENGTH = 32, SEQUENCES = 8, STEPS = 500 };

static void read_golden(double *losses) {
    struct error error = {0};
    struct buffer file = {0};
    char *path = xformat("%s/tests/golden/model_curve.txt", test_root());
    CHECK_OK(file_read(path, 1 << 16, &file, &error));
    char *at = (char *)file.data;
    for (int i = 0; i < STEPS; i++) losses[i] = strtod(at, &at);
    CHECK(losses[STEPS - 1] > 0);
    buffer_deinit(&file);
    free(path);
}

/* Every step has a file of its own with its batch as the only windows, in an order that does not
 * matter to the loss. */
static struct data *step_data(int step) {
    static uint64_t last;
    struct error error = {0};
    struct buffer tokens = {0};
    enum { COUNT = SEQUENCES * (LENGTH + 1) };
    uint16_t batch[COUNT];
    if (step == 0) last = 0;
    for (uint64_t i = 0; i < COUNT; i++) {
        uint64_t value = random_hash(9, (uint64_t)step * COUNT + i);
        last = value % 4 ? (last * 5 + 3) % VOCABULARY : (value >> 32) % VOCABULARY;
        batch[i] = (uint16_t)last;
    }
    const char *paths[SEQUENCES];
    for (int s = 0; s < SEQUENCES; s++) {
        tokens.size = 0;
        for (int i = 0; i <= LENGTH; i++) buffer_u16(&tokens, batch[s * (LENGTH + 1) + i]);
        char *path = xformat("%s/%d.bin", test_directory(), s);
        /* file_write would wait for the disk each time */
        int descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        CHECK(descriptor >= 0);
        CHECK_OK(file_write_all(descriptor, tokens.data, tokens.size, &error));
        close(descriptor);
        paths[s] = path;
    }
    buffer_deinit(&tokens);
    struct data *data;
    const struct data_options options = {.vocabulary = VOCABULARY, .seed = 1};
    CHECK_OK(data_open(paths, SEQUENCES, &options, &data, &error));
    for (int s = 0; s < SEQUENCES; s++) free((void *)(uintptr_t)paths[s]);
    return data;
}

static void train_curve(const char *kernels, int steps, double *losses) {
    struct error error = {0};
    struct trainer_options options = TRAINER_DEFAULTS;
    options.model = (struct model_config){.vocabulary = VOCABULARY,
                                          .hidden = 32,
                                          .layers = 2,
                                          .heads = 4,
                                          .kv_heads = 2,
                                          .ffn = 48,
                                          .context = LENGTH,
                                          .rope_theta = 10000,
                                          .norm_eps = 1e-5f,
                                          .tied = true};
    options.sequences = SEQUENCES;
    options.length = LENGTH;
    options.schedule.peak = 2e-3f;
    options.kernels = kernels;
    options.threads = 1;
    struct trainer *trainer;
    CHECK_OK(trainer_create(&options, &trainer, &error));
    layout_initialise(trainer_layout(trainer), 1, trainer_parameters_to_change(trainer));
    for (int step = 0; step < steps; step++) {
        struct data *data = step_data(step);
        struct trainer_result result;
        CHECK_OK(trainer_step(trainer, data, 0, &result, &error));
        losses[step] = result.loss;
        data_close(data);
    }
    trainer_destroy(trainer);
}

TEST_WITHIN(fp32_losses_are_pytorchs_within_1e_4_over_50_steps_on_every_instruction_set, 120000) {
    double golden[STEPS], losses[STEPS];
    read_golden(golden);
    const struct kernels *kernels;
    for (size_t i = 0; (kernels = kernels_at(i)); i++) {
        if (strstr(kernels->name, "bf16") || strstr(kernels->name, "amx")) continue;
        train_curve(kernels->name, 50, losses);
        double worst = 0;
        for (int step = 0; step < 50; step++) {
            worst = fmax(worst, fabs(losses[step] / golden[step] - 1));
            CHECK_NEAR(losses[step] / golden[step], 1, 1e-4);
        }
        printf("%s: worst relative difference %.2g\n", kernels->name, worst);
    }
    CHECK(golden[49] < 0.7 * golden[0]);
}

/* Single steps of a small batch are noisy, so the last 50 are averaged: the mean and each one. */
TEST_WITHIN(bf16_losses_are_pytorchs_within_half_a_percent_after_500_steps, 120000) {
    double golden[STEPS], losses[STEPS], ours = 0, theirs = 0;
    const struct kernels *kernels;
    read_golden(golden);
    for (size_t i = 0; (kernels = kernels_at(i)); i++) {
        if (!strstr(kernels->name, "bf16") && !strstr(kernels->name, "amx") && i != 0)
            continue; /* the portable set too, so that something runs everywhere */
        train_curve(kernels->name, STEPS, losses);
        ours = theirs = 0;
        for (int step = STEPS - 50; step < STEPS; step++)
            ours += losses[step], theirs += golden[step];
        printf("%s: %.6f against %.6f\n", kernels->name, ours / 50, theirs / 50);
        CHECK_NEAR(ours / theirs, 1, 0.005);
        CHECK_NEAR(losses[STEPS - 1] / golden[STEPS - 1], 1, 0.005);
    }
}
