/* atoll-trainer: the training engine alone, on one machine.
 *
 *     train      on text or .bin files, from a seed, a preset or any Llama checkpoint; exports what transformers opens
 *     eval       the loss of a model directory over files
 *     generate   a continuation, by a model directory
 *     logits     what a model directory says after each of some tokens, for comparing with other programs
 *
 * Results on stdout, the rest on stderr. Without a verb it trains. */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/options.h"
#include "model/checkpoint.h"
#include "model/config_file.h"
#include "model/export.h"
#include "model/fit.h"
#include "model/generate.h"
#include "model/history.h"
#include "model/presets.h"
#include "model/trainer.h"

struct settings {
    struct option_list data;
    uint64_t vocabulary, hidden, layers, heads, kv_heads, ffn, context;
    bool tied;
    uint64_t sequences, length, accumulation, shards, threads, steps, warmup, seed;
    double rate, floor, decay, clip, heldout;
    int schedule;
    uint64_t log_every, evaluate_every, evaluate_windows;
    const char *start, *state, *export_to, *kernels, *prompt, *preset, *log, *plot, *model, *tokens;
    uint64_t sample, save_every, top_k, shard_size;
    double temperature, top_p;
    bool recompute, bf16_moments;
    int dtype;
};

#define FIELD(name) OPTION_FIELD(struct settings, name)
static const char *const schedules[] = {"constant", "cosine", "linear", NULL};
static const char *const dtypes[] = {"f32", "bf16", "f16", NULL};
#define THREADS                                                                                                                  \
    { "threads", OPTION_U64, FIELD(threads), .fallback = "0", .max = "1024", .help = "Threads; 0: one a processor." }
#define KERNELS                                                                                                                  \
    { "kernels", OPTION_TEXT, FIELD(kernels), .help = "Kernels to use instead of the best for this processor." }
static const struct option train_options[] = {
    {"data", OPTION_LIST, FIELD(data), .flags = OPTION_POSITIONAL | OPTION_REQUIRED, .value_name = "FILE",
     .help = "Text (a token is a byte) or .bin files of 16-bit tokens (llm.c's or nanoGPT's layout)."},
    {"preset", OPTION_TEXT, FIELD(preset), .fallback = "1m",
     .help = "Shape of the model: 300k, 1m, 4m, 12m, 50m, 125m, 350m, 1b, 3b, 8b; what follows changes a part of it."},
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
    {"shards", OPTION_U64, FIELD(shards), .fallback = "0", .max = "1024",
     .help = "Parts a step is split into; 0: one for 1024 tokens, 4 to 64."},
    THREADS,
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
    {"start", OPTION_PATH, FIELD(start), .value_name = "PATH",
     .help = "A model directory (its config.json gives the shape) or a .safetensors file to start from."},
    {"state", OPTION_PATH, FIELD(state), .value_name = "FILE",
     .help = "Training state: continued if it is there, written at the end."},
    {"export", OPTION_PATH, FIELD(export_to), .value_name = "DIRECTORY", .help = "Where to write what transformers opens."},
    KERNELS,
    {"recompute", OPTION_BOOL, FIELD(recompute), .fallback = "false",
     .help = "Compute activations again in the backward pass: less memory, a third more work."},
    {"bf16-moments", OPTION_BOOL, FIELD(bf16_moments), .fallback = "false", .help = "Keep the optimizer's moments in bfloat16."},
    {"save-every", OPTION_U64, FIELD(save_every), .fallback = "0",
     .help = "Steps between two writings of the state; 0: at the end only."},
    {"log", OPTION_PATH, FIELD(log), .value_name = "FILE",
     .help = "Where every progress line goes too, as CSV or, if named .jsonl, JSON."},
    {"plot", OPTION_PATH, FIELD(plot), .value_name = "FILE", .help = "Where a picture of the loss goes, as SVG."},
    {"dtype", OPTION_ENUM, FIELD(dtype), .fallback = "f32", .choices = dtypes, .help = "Of the exported tensors."},
    {"shard-size", OPTION_SIZE, FIELD(shard_size), .fallback = "5GiB", .min = "1KiB", .help = "Largest exported file."},
    {"prompt", OPTION_TEXT, FIELD(prompt), .help = "Bytes to continue when training is done."},
    {"sample", OPTION_U64, FIELD(sample), .fallback = "200", .help = "Bytes to write after the prompt."},
    {0}};

#define MODEL                                                                                                                    \
    {                                                                                                                            \
        "model", OPTION_PATH, FIELD(model), .flags = OPTION_POSITIONAL | OPTION_REQUIRED, .value_name = "DIRECTORY",             \
                                            .help = "config.json and model.safetensors, whole or in parts."                      \
    }

static const struct option eval_options[] = {
    MODEL,
    {"data", OPTION_LIST, FIELD(data), .flags = OPTION_POSITIONAL | OPTION_REQUIRED, .value_name = "FILE",
     .help = "Text (a token is a byte) or .bin files of 16-bit tokens."},
    {"length", OPTION_U64, FIELD(length), .fallback = "128", .min = "1", .max = "1048576", .help = "Tokens in a sequence."},
    {"heldout", OPTION_F64, FIELD(heldout), .fallback = "0.05", .min = "0", .max = "0.5",
     .help = "Part of each file, its end, that is read."},
    {"evaluate-windows", OPTION_U64, FIELD(evaluate_windows), .fallback = "64", .help = "Sequences to read; 0: all."},
    THREADS,
    KERNELS,
    {0}};

static const struct option generate_options_table[] = {
    MODEL,
    {"prompt", OPTION_TEXT, FIELD(prompt), .help = "Bytes to continue, where the vocabulary is bytes."},
    {"tokens", OPTION_TEXT, FIELD(tokens), .help = "Tokens to continue, as numbers: \"12 7 3\"; tokens are printed too."},
    {"sample", OPTION_U64, FIELD(sample), .fallback = "200", .min = "1", .max = "1048576",
     .help = "Tokens to write after the prompt."},
    {"temperature", OPTION_F64, FIELD(temperature), .fallback = "0.8", .min = "0", .max = "100",
     .help = "0: always the likeliest."},
    {"top-k", OPTION_U64, FIELD(top_k), .fallback = "0", .max = "65536", .help = "Draw from the k likeliest; 0: all."},
    {"top-p", OPTION_F64, FIELD(top_p), .fallback = "1", .max = "1", .help = "Draw from the likeliest that make up this share."},
    {"seed", OPTION_U64, FIELD(seed), .fallback = "1", .help = "Of the drawing."},
    {0}};

static const struct option logits_options[] = {
    MODEL,
    {"tokens", OPTION_TEXT, FIELD(tokens), .flags = OPTION_REQUIRED, .help = "What to read, as numbers: \"12 7 3\"."},
    KERNELS,
    {0}};

static int run_train(struct options *options, void *values);
static int run_eval(struct options *options, void *values);
static int run_generate(struct options *options, void *values);
static int run_logits(struct options *options, void *values);
static const struct command train_command = {
    .name = "train", .summary = "trains a model and exports it", .options = train_options, .run = run_train};
static const struct command eval_command = {
    .name = "eval", .summary = "the loss of a model over files", .options = eval_options, .run = run_eval};
static const struct command generate_command = {
    .name = "generate", .summary = "continues a prompt", .options = generate_options_table, .run = run_generate};
static const struct command logits_command = {
    .name = "logits", .summary = "a model's logits after each token, as JSON", .options = logits_options, .run = run_logits};
static const struct command *const commands[] = {&train_command, &eval_command, &generate_command, &logits_command, NULL};
static const struct command program = {.name = "atoll-trainer",
                                       .summary = "trains a Llama-style model on one machine's processors",
                                       .children = commands,
                                       .version = "1"};

static volatile sig_atomic_t stopping;
static void stop(int number) {
    (void)number;
    stopping = 1;
}

/* The shape: of the checkpoint, or of the preset with what was said beside it. A checkpoint admits no changes. */
static enum status model_of(const struct options *options, const struct settings *s, struct model_config *out,
                            struct error *error) {
    struct model_config given;
    char *config = s->start ? file_join(s->start, "config.json") : NULL;
    bool fixed = config && file_exists(config);
    free(config);
    if (fixed)
        TRY(checkpoint_config(s->start, &given, error));
    else
        TRY(preset_find(s->preset, &given, error));
    const struct {
        const char *name;
        uint64_t value;
        uint32_t *field;
    } parts[] = {{"vocabulary", s->vocabulary, &given.vocabulary},
                 {"hidden", s->hidden, &given.hidden},
                 {"layers", s->layers, &given.layers},
                 {"heads", s->heads, &given.heads},
                 {"kv-heads", s->kv_heads, &given.kv_heads},
                 {"ffn", s->ffn, &given.ffn},
                 {"context", s->context, &given.context}};
    const struct model_config before = given;
    for (size_t i = 0; i < COUNT_OF(parts); i++)
        if (options_source(options, parts[i].name, NULL) != OPTION_FROM_DEFAULT) *parts[i].field = (uint32_t)parts[i].value;
    if (options_source(options, "tied", NULL) != OPTION_FROM_DEFAULT) given.tied = s->tied;
    if (fixed) {
        enum status status = model_config_compare(&given, &before, error);
        if (status != OK) return error_wrap(error, status, "%s/config.json, against the flags", s->start);
    }
    *out = given;
    return OK;
}

static struct trainer_options trainer_options_of(const struct settings *s, const struct model_config *model) {
    uint64_t step = s->sequences * s->length * s->accumulation;
    return (struct trainer_options){
        .model = *model,
        .recompute = s->recompute,
        .bf16_moments = s->bf16_moments,
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
    if (s->start) return checkpoint_read(s->start, trainer_layout(trainer), trainer_parameters(trainer), error);
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

static enum status save_state(const struct trainer *trainer, const char *path, struct error *error) {
    struct buffer state = {0};
    trainer_save(trainer, &state);
    enum status status = file_write(path, buffer_bytes(&state), 0644, error);
    buffer_deinit(&state);
    return status;
}

/* A point of progress: into the history, and to the person. */
static enum status report(struct history *history, const struct history_point *point, uint64_t steps, struct error *error) {
    double left =
        point->tokens_per_second > 0 && point->step > 0
            ? (double)(steps - MIN(steps, point->step)) * (double)point->tokens / (double)point->step / point->tokens_per_second
            : 0;
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r\033[Kstep %llu/%llu  loss %.4f  %.0f tokens/s  %d:%02d:%02d left", (unsigned long long)point->step,
                (unsigned long long)steps, point->loss, point->tokens_per_second, (int)(left / 3600), (int)(left / 60) % 60,
                (int)left % 60);
    else
        log_info("trained", "step=%llu loss=%.4f gradient_norm=%.3f learning_rate=%.2e tokens_per_second=%.0f",
                 (unsigned long long)point->step, point->loss, point->gradient_norm, point->learning_rate,
                 point->tokens_per_second);
    return history_add(history, point, error);
}

static enum status train(struct trainer *trainer, const struct data *data, const struct settings *s, struct history *history,
                         double *speed, struct error *error) {
    uint64_t start = clock_monotonic_ns(), mark = start, tokens = 0, marked = 0;
    enum status status = OK;
    while (status == OK && !stopping && trainer_counters(trainer).steps < s->steps) {
        struct trainer_result result;
        status = trainer_step(trainer, data, trainer_counters(trainer).tokens, &result, error);
        if (status != OK) break;
        tokens += result.tokens;
        struct trainer_counters counters = trainer_counters(trainer);
        double heldout = NAN;
        if (s->evaluate_every && counters.steps % s->evaluate_every == 0) status = evaluate(trainer, data, s, &heldout, error);
        if (status == OK && (counters.steps % s->log_every == 0 || isfinite(heldout))) {
            uint64_t now = clock_monotonic_ns();
            const struct history_point point = {.step = counters.steps,
                                                .tokens = counters.tokens,
                                                .loss = result.loss,
                                                .heldout = heldout,
                                                .gradient_norm = result.gradient_norm,
                                                .learning_rate = (double)result.learning_rate,
                                                .tokens_per_second = (double)(tokens - marked) * 1e9 / (double)(now - mark),
                                                .seconds = (double)(now - start) * 1e-9};
            status = report(history, &point, s->steps, error);
            mark = now, marked = tokens;
        }
        if (status == OK && s->save_every && s->state && counters.steps % s->save_every == 0)
            status = save_state(trainer, s->state, error);
    }
    if (isatty(STDERR_FILENO)) fprintf(stderr, "\n");
    *speed = (double)tokens * 1e9 / (double)(clock_monotonic_ns() - start + 1);
    return status;
}

static enum status sample(struct trainer *trainer, const struct settings *s, struct error *error) {
    const struct layout *layout = trainer_layout(trainer);
    size_t length = strlen(s->prompt), context = layout->config.context;
    if (layout->config.vocabulary < 256) return error_set(error, INVALID, "this vocabulary is not of bytes: no prompt");
    if (length == 0 || length >= context) return error_set(error, INVALID, "the prompt must have 1 to %zu bytes", context - 1);
    uint32_t count = (uint32_t)MIN(s->sample, (uint64_t)(context - length));
    uint32_t *tokens = xcalloc(length + count, sizeof *tokens);
    for (size_t i = 0; i < length; i++) tokens[i] = (uint8_t)s->prompt[i];
    const struct generate_options options = GENERATE_DEFAULTS;
    enum status status =
        generate(layout, trainer_parameters(trainer), &options, tokens, (uint32_t)length, tokens + length, count, error);
    for (size_t i = 0; status == OK && i < length + count; i++) putchar(tokens[i] < 256 ? (int)tokens[i] : '?');
    if (status == OK) putchar('\n');
    free(tokens);
    return status;
}

static enum status finish(struct trainer *trainer, const struct data *data, const struct settings *s, double speed,
                          struct error *error) {
    if (s->state) TRY(save_state(trainer, s->state, error));
    struct trainer_counters counters = trainer_counters(trainer);
    if (s->export_to) {
        bool bytes = trainer_layout(trainer)->config.vocabulary == 256;
        char *tokenizer = s->start ? file_join(s->start, "tokenizer.json") : NULL;
        const struct export_options how = {.version = (int64_t)counters.steps,
                                           .byte_tokenizer = bytes,
                                           .tokenizer_of = !bytes && tokenizer && file_exists(tokenizer) ? s->start : NULL,
                                           .dtype = (enum tensor_dtype)s->dtype,
                                           .shard_size = s->shard_size};
        enum status status = export_model_as(s->export_to, trainer_layout(trainer), trainer_parameters(trainer), &how, error);
        free(tokenizer);
        TRY(status);
    }
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

static int exit_code(enum status status, const struct error *error) {
    if (status != OK) fprintf(stderr, "atoll-trainer: %s\n", error->message);
    return status == OK ? 0 : status == INVALID || status == NOT_FOUND ? 2 : 1;
}

static enum status write_plot(const struct history *history, const char *path, struct error *error) {
    struct buffer picture = {0};
    history_plot(history, "Training loss", &picture);
    enum status status = file_write(path, buffer_bytes(&picture), 0644, error);
    buffer_deinit(&picture);
    return status;
}

/* Says what it will take, and refuses what there is not. */
static enum status check_memory(const struct trainer_options *options, struct error *error) {
    char wanted[SIZE_TEXT_SIZE], there[SIZE_TEXT_SIZE];
    TRY(trainer_check(options, error));
    uint64_t available = memory_available();
    fprintf(stderr, "memory: training takes %s of the %s that are free\n", size_text(trainer_memory(options), wanted),
            size_text(available, there));
    return trainer_fit(options, 0, available, error);
}

static int run_train(struct options *options, void *values) {
    struct settings *s = values;
    struct error error = {0};
    struct trainer *trainer = NULL;
    struct data *data = NULL;
    struct history *history = NULL;
    struct model_config model;
    double speed = 0;
    signal(SIGINT, stop);
    signal(SIGTERM, stop);
    enum status status = model_of(options, s, &model, &error);
    if (status != OK) return exit_code(status, &error);
    if (options_source(options, "length", NULL) == OPTION_FROM_DEFAULT) s->length = MIN(s->length, (uint64_t)model.context);
    const struct data_options data_options = {.vocabulary = model.vocabulary, .heldout = s->heldout, .seed = s->seed};
    const struct trainer_options trainer_options = trainer_options_of(s, &model);
    status = data_open(s->data.items, s->data.count, &data_options, &data, &error);
    if (status == OK) status = check_memory(&trainer_options, &error);
    if (status == OK) status = history_open(s->log, &history, &error);
    if (status == OK) status = trainer_create(&trainer_options, &trainer, &error);
    if (status == OK) status = begin(trainer, s, &error);
    if (status == OK) status = train(trainer, data, s, history, &speed, &error);
    if (status == OK && s->plot) status = write_plot(history, s->plot, &error);
    if (status == OK) status = finish(trainer, data, s, speed, &error);
    trainer_destroy(trainer);
    history_close(history);
    data_close(data);
    return exit_code(status, &error);
}

/* --- verbs over a model directory ------------------------------------------------------------------------------------------------- */

static int run_eval(struct options *options, void *values) {
    (void)options;
    const struct settings *s = values;
    struct error error = {0};
    struct trainer *trainer = NULL;
    struct data *data = NULL;
    struct trainer_options trainer_options = TRAINER_DEFAULTS;
    double nats;
    enum status status = checkpoint_config(s->model, &trainer_options.model, &error);
    trainer_options.length = (uint32_t)MIN(s->length, (uint64_t)trainer_options.model.context);
    trainer_options.threads = (uint32_t)s->threads;
    trainer_options.kernels = s->kernels;
    const struct data_options data_options = {.vocabulary = trainer_options.model.vocabulary, .heldout = s->heldout};
    if (status == OK) status = data_open(s->data.items, s->data.count, &data_options, &data, &error);
    if (status == OK) status = check_memory(&trainer_options, &error);
    if (status == OK) status = trainer_create(&trainer_options, &trainer, &error);
    if (status == OK) status = checkpoint_read(s->model, trainer_layout(trainer), trainer_parameters(trainer), &error);
    if (status == OK) status = trainer_evaluate(trainer, data, s->evaluate_windows, &nats, &error);
    if (status == OK)
        printf("parameters=%llu kernels=%s heldout_nats=%.6f perplexity=%.4f\n",
               (unsigned long long)trainer_layout(trainer)->count, trainer_kernels(trainer), nats, exp(nats));
    trainer_destroy(trainer);
    data_close(data);
    return exit_code(status, &error);
}

/* Numbers with blanks or commas between them. */
static enum status parse_tokens(const char *text, struct buffer *out, struct error *error) {
    while (*text) {
        char *end;
        unsigned long token = strtoul(text, &end, 10);
        if (end == text || *text == '-' || token >= MODEL_VOCABULARY_MAX)
            return error_set(error, INVALID, "\"%.20s\" is no token: a number below %d", text, MODEL_VOCABULARY_MAX);
        buffer_u32(out, (uint32_t)token);
        text = end + strspn(end, " ,");
    }
    return out->size ? OK : error_set(error, INVALID, "there are no tokens");
}

static enum status write_continuation(const struct settings *s, const struct layout *layout, const float *parameters,
                                      struct error *error) {
    struct buffer prompt = {0};
    enum status status = OK;
    if (s->tokens)
        status = parse_tokens(s->tokens, &prompt, error);
    else if (!s->prompt || layout->config.vocabulary != 256)
        status = error_set(error, INVALID, "give --prompt where the vocabulary is 256 bytes, else --tokens");
    for (const char *c = s->tokens ? "" : s->prompt; status == OK && c && *c; c++) buffer_u32(&prompt, (uint8_t)*c);
    size_t length = prompt.size / 4, context = layout->config.context;
    if (status == OK && length >= context)
        status = error_set(error, INVALID, "the prompt has %zu tokens; the model's context is %zu", length, context);
    uint32_t count = (uint32_t)MIN(s->sample, (uint64_t)(context - MIN(length, context)));
    uint32_t *tokens = xcalloc(length + count + 1, sizeof *tokens);
    const struct generate_options how = {(float)s->temperature, (uint32_t)s->top_k, (float)s->top_p, s->seed};
    if (status == OK && length) memcpy(tokens, prompt.data, prompt.size);
    if (status == OK) status = generate(layout, parameters, &how, tokens, (uint32_t)length, tokens + length, count, error);
    for (size_t i = 0; status == OK && i < length + count; i++)
        s->tokens ? printf(i ? " %u" : "%u", tokens[i]) : putchar((int)tokens[i]);
    if (status == OK) putchar('\n');
    free(tokens);
    buffer_deinit(&prompt);
    return status;
}

static enum status write_logits(const struct settings *s, const struct layout *layout, const float *parameters,
                                struct error *error) {
    struct buffer tokens = {0}, text = {0};
    struct generator *generator = NULL;
    const float *logits;
    enum status status = parse_tokens(s->tokens, &tokens, error);
    if (status == OK)
        status = generator_create(layout, parameters, (uint32_t)MIN(tokens.size / 4, (size_t)UINT32_MAX), s->kernels, &generator,
                                  error);
    struct json_writer w = json_writer_of(&text, false);
    json_begin_array(&w);
    for (size_t i = 0; status == OK && i < tokens.size / 4; i++) {
        uint32_t token;
        memcpy(&token, tokens.data + 4 * i, sizeof token);
        status = generator_read(generator, token, &logits, error);
        json_begin_array(&w);
        for (uint32_t v = 0; status == OK && v < layout->config.vocabulary; v++) json_f64(&w, (double)logits[v]);
        json_end_array(&w);
    }
    json_end_array(&w);
    if (status == OK) printf("%.*s\n", (int)text.size, (const char *)text.data);
    generator_destroy(generator);
    buffer_deinit(&tokens);
    buffer_deinit(&text);
    return status;
}

static int with_model(const struct settings *s, enum status (*body)(const struct settings *s, const struct layout *layout,
                                                                    const float *parameters, struct error *error)) {
    struct error error = {0};
    struct layout layout = {0};
    float *parameters = NULL;
    enum status status = checkpoint_load(s->model, &layout, &parameters, &error);
    if (status == OK) status = body(s, &layout, parameters, &error);
    free(parameters);
    layout_deinit(&layout);
    return exit_code(status, &error);
}

static int run_generate(struct options *options, void *values) {
    (void)options;
    return with_model(values, write_continuation);
}

static int run_logits(struct options *options, void *values) {
    (void)options;
    return with_model(values, write_logits);
}

/* Whether the first argument stands where a verb does. Training needs none. */
static bool has_verb(int argc, char **argv) {
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "--version") == 0)
        return true;
    for (size_t i = 0; commands[i]; i++)
        if (strcmp(argv[1], commands[i]->name) == 0) return true;
    return false;
}

int main(int argc, char **argv) {
    struct settings settings = {0};
    char **arguments = xcalloc((size_t)argc + 2, sizeof *arguments), verb[] = "train";
    int count = argc > 0 ? 1 : 0, skip = count;
    if (count) arguments[0] = argv[0];
    if (!has_verb(argc, argv)) arguments[count++] = verb;
    for (int i = skip; i < argc; i++) arguments[count++] = argv[i];
    struct options *options = options_create(&program, &settings);
    int code = options_start(options, &(struct options_setup){.argc = count, .argv = arguments, .environment = environ});
    if (code == OPTIONS_GO_ON) code = options_command(options)->run(options, &settings);
    options_destroy(options);
    free(arguments);
    return code;
}
