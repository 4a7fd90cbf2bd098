/* atoll-trainer: the training engine alone, on one machine. Trains on text or .bin files, says loss and speed on stderr as it
 * goes and a summary on stdout, and exports what transformers opens. `--help` tells the rest. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/options.h"
#include "model/export.h"
#include "model/generate.h"
#include "model/safetensors.h"
#include "model/trainer.h"

struct settings {
    struct option_list data;
    uint64_t vocabulary, hidden, layers, heads, kv_heads, ffn, context;
    bool tied;
    uint64_t sequences, length, accumulation, shards, threads, steps, warmup, seed;
    double rate, floor, decay, clip, heldout;
    int schedule;
    uint64_t log_every, evaluate_every, evaluate_windows;
    const char *start, *state, *export_to, *kernels, *prompt;
    uint64_t sample;
};

#define FIELD(name) OPTION_FIELD(struct settings, name)
static const char *const schedules[] = {"constant", "cosine", "linear", NULL};
static const struct option table[] = {
    {"data", OPTION_LIST, FIELD(data), .flags = OPTION_POSITIONAL | OPTION_REQUIRED, .value_name = "FILE",
     .help = "Text (a token is a byte) or .bin files of 16-bit tokens (llm.c's or nanoGPT's layout)."},
    {"vocabulary", OPTION_U64, FIELD(vocabulary), .fallback = "256", .min = "1", .max = "65536", .help = "Tokens there are."},
    {"hidden", OPTION_U64, FIELD(hidden), .fallback = "160", .min = "2", .max = "65536", .help = "Width of the model."},
    {"layers", OPTION_U64, FIELD(layers), .fallback = "4", .min = "1", .max = "1024", .help = "Layers."},
    {"heads", OPTION_U64, FIELD(heads), .fallback = "5", .min = "1", .max = "65536", .help = "Attention heads."},
    {"kv-heads", OPTION_U64, FIELD(kv_heads), .fallback = "5", .min = "1", .max = "65536", .help = "Heads of keys and values."},
    {"ffn", OPTION_U64, FIELD(ffn), .fallback = "448", .min = "1", .max = "262144", .help = "Width of the feed-forward layers."},
    {"context", OPTION_U64, FIELD(context), .fallback = "512", .min = "1", .max = "1048576", .help = "Longest sequence."},
    {"tied", OPTION_BOOL, FIELD(tied), .fallback = "true", .help = "The head is the embedding."},
    {"sequences", OPTION_U64, FIELD(sequences), .fallback = "16", .min = "1", .max = "65536", .help = "Sequences in a batch."},
    {"length", OPTION_U64, FIELD(length), .fallback = "128", .min = "1", .max = "1048576", .help = "Tokens in a sequence."},
    {"accumulation", OPTION_U64, FIELD(accumulation), .fallback = "1", .min = "1", .max = "65536", .help = "Batches a step."},
    {"shards", OPTION_U64, FIELD(shards), .fallback = "0", .max = "1024", .help = "Parts a step is split into; 0: four."},
    {"threads", OPTION_U64, FIELD(threads), .fallback = "0", .max = "1024", .help = "Threads; 0: one a processor."},
    {"steps", OPTION_U64, FIELD(steps), .fallback = "1000", .help = "Steps to train in all, those of a loaded state included."},
    {"schedule", OPTION_ENUM, FIELD(schedule), .fallback = "cosine", .choices = schedules, .help = "Of the learning rate."},
    {"learning-rate", OPTION_F64, FIELD(rate), .fallback = "0.002", .help = "Learning rate after warm-up."},
    {"floor", OPTION_F64, FIELD(floor), .fallback = "0.0002", .help = "Learning rate at the end."},
    {"warmup-steps", OPTION_U64, FIELD(warmup), .fallback = "50", .help = "Steps of warm-up."},
    {"decay", OPTION_F64, FIELD(decay), .fallback = "0.1", .help = "AdamW's weight decay."},
    {"clip", OPTION_F64, FIELD(clip), .fallback = "1", .help = "Largest gradient norm; 0: any."},
    {"heldout", OPTION_F64, FIELD(heldout), .fallback = "0.05", .min = "0", .max = "0.5",
     .help = "Part of each file kept for evaluation."},
    {"seed", OPTION_U64, FIELD(seed), .fallback = "1", .help = "Of the initial parameters and the order of the data."},
    {"log-every", OPTION_U64, FIELD(log_every), .fallback = "50", .min = "1", .help = "Steps between two lines of progress."},
    {"evaluate-every", OPTION_U64, FIELD(evaluate_every), .fallback = "0",
     .help = "Steps between two evaluations; 0: at the end only."},
    {"evaluate-windows", OPTION_U64, FIELD(evaluate_windows), .fallback = "64",
     .help = "Held-out sequences an evaluation reads; 0: all."},
    {"start", OPTION_PATH, FIELD(start), .value_name = "FILE", .help = "A .safetensors file to start from."},
    {"state", OPTION_PATH, FIELD(state), .value_name = "FILE",
     .help = "Training state: continued if it is there, written at the end."},
    {"export", OPTION_PATH, FIELD(export_to), .value_name = "DIRECTORY", .help = "Where to write what transformers opens."},
    {"kernels", OPTION_TEXT, FIELD(kernels), .help = "Kernels to use instead of the best for this processor."},
    {"prompt", OPTION_TEXT, FIELD(prompt), .help = "Bytes to continue when training is done."},
    {"sample", OPTION_U64, FIELD(sample), .fallback = "200", .help = "Bytes to write after the prompt."},
    {0}};
static const struct command program = {.name = "atoll-trainer",
                                       .summary = "trains a Llama-style model on one machine's processors",
                                       .options = table,
                                       .version = "1"};

static volatile sig_atomic_t stopping;
static void stop(int number) {
    (void)number;
    stopping = 1;
}

static struct trainer_options trainer_options_of(const struct settings *s) {
    uint64_t step = s->sequences * s->length * s->accumulation;
    return (struct trainer_options){
        .model = {.vocabulary = (uint32_t)s->vocabulary,
                  .hidden = (uint32_t)s->hidden,
                  .layers = (uint32_t)s->layers,
                  .heads = (uint32_t)s->heads,
                  .kv_heads = (uint32_t)s->kv_heads,
                  .ffn = (uint32_t)s->ffn,
                  .context = (uint32_t)s->context,
                  .rope_theta = 10000.0f,
                  .norm_eps = 1e-5f,
                  .tied = s->tied},
        .sequences = (uint32_t)s->sequences,
        .length = (uint32_t)s->length,
        .accumulation = (uint32_t)s->accumulation,
        .shards = (uint32_t)s->shards,
        .threads = (uint32_t)s->threads,
        .kernels = s->kernels,
        .adamw = {.beta1 = 0.9f, .beta2 = 0.95f, .epsilon = 1e-8f, .decay = (float)s->decay, .clip = (float)s->clip},
        .schedule = {.shape = (enum schedule_shape)s->schedule,
                     .peak = (float)s->rate,
                     .floor = (float)s->floor,
                     .warmup_tokens = s->warmup * step,
                     .total_tokens = MAX(s->steps, s->warmup + 1) * step}};
}

/* Parameters from the state, from a checkpoint or from the seed. */
static enum status begin(struct trainer *trainer, const struct settings *s, struct error *error) {
    if (s->state && file_exists(s->state)) {
        struct buffer state = {0};
        enum status status = file_read(s->state, SIZE_MAX / 2, &state, error);
        if (status == OK) status = trainer_load(trainer, buffer_bytes(&state), error);
        buffer_deinit(&state);
        return status;
    }
    if (s->start) return safetensors_read(s->start, trainer_layout(trainer), trainer_parameters(trainer), error);
    layout_initialise(trainer_layout(trainer), s->seed, trainer_parameters(trainer));
    return OK;
}

static enum status evaluate(struct trainer *trainer, const struct data *data, const struct settings *s, double *nats,
                            struct error *error) {
    enum status status = trainer_evaluate(trainer, data, s->evaluate_windows, nats, error);
    if (status == OK)
        log_info("evaluated", "step=%llu heldout_nats=%.4f", (unsigned long long)trainer_counters(trainer).steps, *nats);
    return status;
}

static enum status train(struct trainer *trainer, const struct data *data, const struct settings *s, double *speed,
                         struct error *error) {
    uint64_t start = clock_monotonic_ns(), mark = start, tokens = 0, marked = 0;
    while (!stopping && trainer_counters(trainer).steps < s->steps) {
        struct trainer_result result;
        TRY(trainer_step(trainer, data, trainer_counters(trainer).tokens, &result, error));
        tokens += result.tokens;
        uint64_t steps = trainer_counters(trainer).steps;
        if (steps % s->log_every == 0) {
            uint64_t now = clock_monotonic_ns();
            log_info("trained", "step=%llu loss=%.4f gradient_norm=%.3f learning_rate=%.2e tokens_per_second=%.0f",
                     (unsigned long long)steps, result.loss, result.gradient_norm, (double)result.learning_rate,
                     (double)(tokens - marked) * 1e9 / (double)(now - mark));
            mark = now, marked = tokens;
        }
        double nats;
        if (s->evaluate_every && steps % s->evaluate_every == 0) TRY(evaluate(trainer, data, s, &nats, error));
    }
    *speed = (double)tokens * 1e9 / (double)(clock_monotonic_ns() - start + 1);
    return OK;
}

static enum status sample(struct trainer *trainer, const struct settings *s, struct error *error) {
    const struct layout *layout = trainer_layout(trainer);
    size_t length = strlen(s->prompt), context = layout->config.context;
    if (layout->config.vocabulary < 256) return error_set(error, INVALID, "this vocabulary is not of bytes: no prompt");
    if (length == 0 || length >= context) return error_set(error, INVALID, "the prompt must have 1 to %zu bytes", context - 1);
    uint32_t count = (uint32_t)MIN(s->sample, (uint64_t)(context - length));
    uint16_t *tokens = xcalloc(length + count, sizeof *tokens);
    for (size_t i = 0; i < length; i++) tokens[i] = (uint8_t)s->prompt[i];
    const struct generate_options options = GENERATE_DEFAULTS;
    enum status status =
        generate(layout, trainer_parameters(trainer), &options, tokens, (uint32_t)length, tokens + length, count, error);
    for (size_t i = 0; status == OK && i < length + count; i++) putchar(tokens[i] < 256 ? tokens[i] : '?');
    if (status == OK) putchar('\n');
    free(tokens);
    return status;
}

static enum status finish(struct trainer *trainer, const struct data *data, const struct settings *s, double speed,
                          struct error *error) {
    if (s->state) {
        struct buffer state = {0};
        trainer_save(trainer, &state);
        enum status status = file_write(s->state, buffer_bytes(&state), 0644, error);
        buffer_deinit(&state);
        TRY(status);
    }
    struct trainer_counters counters = trainer_counters(trainer);
    if (s->export_to)
        TRY(export_model(s->export_to, trainer_layout(trainer), trainer_parameters(trainer), (int64_t)counters.steps,
                         s->vocabulary == 256, error));
    printf("parameters=%llu kernels=%s steps=%llu tokens=%llu tokens_per_second=%.0f",
           (unsigned long long)trainer_layout(trainer)->count, trainer_kernels(trainer), (unsigned long long)counters.steps,
           (unsigned long long)counters.tokens, speed);
    double nats;
    if (data_heldout_count(data, (uint32_t)s->length) > 0) {
        TRY(evaluate(trainer, data, s, &nats, error));
        printf(" heldout_nats=%.4f", nats);
    }
    printf("\n");
    return s->prompt ? sample(trainer, s, error) : OK;
}

int main(int argc, char **argv) {
    struct settings settings = {0};
    struct options *options = options_create(&program, &settings);
    int code = options_start(options, &(struct options_setup){.argc = argc, .argv = argv, .environment = environ});
    if (code != OPTIONS_GO_ON) {
        options_destroy(options);
        return code;
    }
    signal(SIGINT, stop);
    signal(SIGTERM, stop);
    struct error error = {0};
    struct trainer *trainer = NULL;
    struct data *data = NULL;
    double speed = 0;
    const struct data_options data_options = {
        .vocabulary = (uint32_t)settings.vocabulary, .heldout = settings.heldout, .seed = settings.seed};
    const struct trainer_options trainer_options = trainer_options_of(&settings);
    enum status status = data_open(settings.data.items, settings.data.count, &data_options, &data, &error);
    if (status == OK) status = trainer_create(&trainer_options, &trainer, &error);
    if (status == OK) status = begin(trainer, &settings, &error);
    if (status == OK) status = train(trainer, data, &settings, &speed, &error);
    if (status == OK) status = finish(trainer, data, &settings, speed, &error);
    if (status != OK) fprintf(stderr, "atoll-trainer: %s\n", error.message);
    trainer_destroy(trainer);
    data_close(data);
    options_destroy(options);
    return status == OK ? 0 : status == INVALID || status == NOT_FOUND ? 2 : 1;
}
