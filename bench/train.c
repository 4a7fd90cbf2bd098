/* Speed of the CPU trainer, on random tokens.
 *
 *     train                                              a table: every set of kernels, one thread
 *                                                        and all
 *     train tables                                       the names of those that this processor can
 *                                                        run
 *     train serve HIDDEN LAYERS HEADS FFN LENGTH SEQUENCES VOCABULARY THREADS KERNELS
 *         for bench/train_vs_pytorch.py: at each line with a number of seconds on stdin, trains for
 *         that long and prints one
 *         line of JSON: tokens per second (of the median step), the last loss and the peak memory.
 *             KERNELS cuda: a CUDA device,
 *         by the library that ATOLL_TEST_CUDA_LIBRARY names; default: what a trainer takes that
 *         nobody told
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/thread.h"
#include "kernels/kernels.h"
#include "model/trainer.h"

struct setup {
    uint32_t hidden, layers, heads, ffn, length, sequences, vocabulary, threads;
    const char *kernels;
};

struct session {
    struct trainer *trainer;
    struct data *data;
};

static enum status write_tokens(const char *path, struct error *error) {
    struct buffer text = {0};
    for (uint64_t i = 0; i < 1 << 18; i++) buffer_u8(&text, (uint8_t)random_hash(1, i));
    enum status status = file_write(path, buffer_bytes(&text), 0600, error);
    buffer_deinit(&text);
    return status;
}

static enum status session_open(struct session *session, const struct setup *s,
                                struct error *error) {
    struct trainer_options options = TRAINER_DEFAULTS;
    options.model = (struct model_config){.vocabulary = s->vocabulary,
                                          .hidden = s->hidden,
                                          .layers = s->layers,
                                          .heads = s->heads,
                                          .kv_heads = s->heads,
                                          .ffn = s->ffn,
                                          .context = s->length,
                                          .rope_theta = 10000.0f,
                                          .norm_eps = 1e-5f,
                                          .tied = true};
    options.sequences = s->sequences;
    options.length = s->length;
    options.threads = s->threads;
    bool cuda = s->kernels && strcmp(s->kernels, "cuda") == 0;
    options.kernels = cuda || strcmp(s->kernels, "default") == 0 ? NULL : s->kernels;
    options.device = cuda ? DEVICE_CUDA : DEVICE_CPU;
    options.cuda_library = getenv("ATOLL_TEST_CUDA_LIBRARY"); /* NULL: beside this program */
    char *path = xformat("/tmp/atoll-bench-%ld.txt", (long)getpid());
    const struct data_options data_options = {.vocabulary = 256, .seed = 1, .format = DATA_BYTES};
    enum status status = write_tokens(path, error);
    if (status == OK)
        status = data_open((const char *const[]){path}, 1, &data_options, &session->data, error);
    unlink(path); /* it stays open */
    free(path);
    if (status == OK) status = trainer_create(&options, &session->trainer, error);
    if (status == OK)
        layout_initialise(trainer_layout(session->trainer), 1,
                          trainer_parameters_to_change(session->trainer));
    return status;
}

static void session_close(struct session *session) {
    trainer_destroy(session->trainer);
    data_close(session->data);
    *session = (struct session){0};
}

static int ascending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Trains for so long, two steps at least; tokens per second of the median step. */
static enum status session_run(struct session *session, double seconds, double *speed, double *loss,
                               struct error *error) {
    enum { STEPS_MAX = 100000 };
    uint64_t *times = xmalloc(STEPS_MAX * sizeof *times), start = clock_monotonic_ns();
    struct trainer_result result = {0};
    size_t count = 0;
    enum status status = OK;
    while (status == OK && count < STEPS_MAX &&
           (count < 2 || (double)(clock_monotonic_ns() - start) < seconds * 1e9)) {
        uint64_t before = clock_monotonic_ns();
        status = trainer_step(session->trainer, session->data, 0, &result, error);
        times[count++] = clock_monotonic_ns() - before;
    }
    qsort(times, count, sizeof *times, ascending);
    *speed = (double)result.tokens * 1e9 / (double)times[count / 2];
    *loss = result.loss;
    free(times);
    return status;
}

static int failed(const struct error *error) {
    fprintf(stderr, "train: %s\n", error->message);
    return 1;
}

static int serve(char **arguments) {
    struct error error = {0};
    struct session session = {0};
    uint32_t numbers[8];
    for (int i = 0; i < 8; i++) numbers[i] = (uint32_t)strtoul(arguments[i], NULL, 10);
    const struct setup setup = {numbers[0], numbers[1], numbers[2], numbers[3],  numbers[4],
                                numbers[5], numbers[6], numbers[7], arguments[8]};
    if (session_open(&session, &setup, &error) != OK) return failed(&error);
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        double speed, loss;
        if (session_run(&session, strtod(line, NULL), &speed, &loss, &error) != OK)
            return failed(&error);
        struct rusage usage;
        getrusage(RUSAGE_SELF, &usage);
        const struct kernels *kernels;
        bool table = kernels_find(trainer_kernels(session.trainer), &kernels, NULL) == OK;
        printf("{\"tokens_per_second\": %.1f, \"loss\": %.4f, \"parameters\": %llu, \"peak_kib\": "
               "%ld, \"kernels\": \"%s\", "
               "\"why\": \"%s\"}\n",
               speed, loss, (unsigned long long)trainer_layout(session.trainer)->count,
               usage.ru_maxrss, trainer_kernels(session.trainer),
               table ? kernels_why(kernels) : "");
        fflush(stdout);
    }
    session_close(&session);
    return 0;
}

static int print_table(void) {
    struct error error = {0};
    const struct kernels *kernels;
    printf("%-12s %8s %14s %12s\n", "kernels", "threads", "tokens/s", "GFLOP/s");
    for (size_t i = 0; (kernels = kernels_at(i)); i++)
        for (uint32_t threads = 1; threads <= MIN(thread_processor_count(), 4u); threads *= 2) {
            struct session session = {0};
            const struct setup setup = {160, 4, 5, 448, 128, 16, 256, threads, kernels->name};
            double speed, loss;
            if (session_open(&session, &setup, &error) != OK) return failed(&error);
            if (session_run(&session, 1.0, &speed, &loss, &error) != OK) return failed(&error);
            /* six floating-point operations a parameter and token */
            printf("%-12s %8u %14.0f %12.1f\n", kernels->name, threads, speed,
                   speed * 6e-9 * (double)trainer_layout(session.trainer)->count);
            session_close(&session);
        }
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 11 && strcmp(argv[1], "serve") == 0) return serve(argv + 2);
    if (argc == 1) return print_table();
    if (argc == 2 && strcmp(argv[1], "tables") == 0) {
        for (size_t i = 0; kernels_at(i); i++) puts(kernels_at(i)->name);
        return 0;
    }
    fprintf(stderr, "usage: train | train tables | train serve HIDDEN LAYERS HEADS FFN LENGTH "
                    "SEQUENCES VOCABULARY THREADS KERNELS\n");
    return 2;
}
