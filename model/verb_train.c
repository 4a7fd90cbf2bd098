/* `train` (model/verbs.h): trains one model on this machine, with state, log, plot, samples and
 * export. Outputs are claimed before the first step; a signal saves and ends. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checksum.h"
#include "base/clock.h"
#include "base/ending.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "kernels/kernels.h"
#include "model/beside.h"
#include "model/checkpoint.h"
#include "model/config_file.h"
#include "model/export.h"
#include "model/generate.h"
#include "model/history.h"
#include "model/kernels_kept.h"
#include "model/presets.h"
#include "model/train_outputs.h"
#include "model/verbs.h"

static const char *const schedules[] = {"constant", "cosine", "linear", NULL};
static const char *const dtypes[] = {"f32", "bf16", "f16", NULL};
static const struct setting train_options[] = {
    {"data", SETTING_LIST, VERB_FIELD(data), .flags = OPTION_POSITIONAL | OPTION_REQUIRED,
     .value_name = "FILE",
     .help = "Text (a token is a byte) or shards of tokens (llm.c's layouts of 16 and 32 bits, or "
             "nanoGPT's)."},
    VERB_DATA_FORMAT,
    {"preset", SETTING_TEXT, VERB_FIELD(preset), .fallback = "1m",
     .help = "Shape of the model: 300k, 1m, 4m, 12m, 50m, 125m, 350m, 1b, 3b, 8b; what follows "
             "changes a part of it."},
    {"vocabulary", SETTING_COUNT, VERB_FIELD(vocabulary), .fallback = "256", .min = "1",
     .max = "1048576", .help = "Tokens there are."},
    {"hidden", SETTING_COUNT, VERB_FIELD(hidden), .fallback = "160", .min = "2", .max = "65536",
     .help = "Width of the model."},
    {"layers", SETTING_COUNT, VERB_FIELD(layers), .fallback = "4", .min = "1", .max = "1024",
     .help = "Layers."},
    {"heads", SETTING_COUNT, VERB_FIELD(heads), .fallback = "5", .min = "1", .max = "65536",
     .help = "Attention heads."},
    {"kv-heads", SETTING_COUNT, VERB_FIELD(kv_heads), .fallback = "5", .min = "1", .max = "65536",
     .help = "Heads of keys and values."},
    {"ffn", SETTING_COUNT, VERB_FIELD(ffn), .fallback = "448", .min = "1", .max = "262144",
     .help = "Width of the feed-forward layers."},
    {"context", SETTING_COUNT, VERB_FIELD(context), .fallback = "512", .min = "1", .max = "1048576",
     .help = "Longest sequence."},
    {"tied", SETTING_BOOL, VERB_FIELD(tied), .fallback = "true",
     .help = "The head is the embedding."},
    {"sequences", SETTING_COUNT, VERB_FIELD(sequences), .fallback = "16", .min = "1",
     .max = "65536", .help = "Sequences in a batch."},
    {"length", SETTING_COUNT, VERB_FIELD(length), .fallback = "128", .min = "1", .max = "1048576",
     .help = "Tokens in a sequence."},
    {"accumulation", SETTING_COUNT, VERB_FIELD(accumulation), .fallback = "1", .min = "1",
     .max = "65536", .help = "Batches a step."},
    {"shards", SETTING_COUNT, VERB_FIELD(shards), .fallback = "0", .max = "1024",
     .help = "Parts a step is split into; 0: one for 1024 tokens, 4 to 64."},
    VERB_THREADS,
    {"steps", SETTING_COUNT, VERB_FIELD(steps), .fallback = "1000",
     .help = "Steps to train in all, those of a loaded state included."},
    {"device", SETTING_CHOICE, VERB_FIELD(device), .fallback = "auto",
     .choices = device_choice_names,
     .help = "Where steps run: cuda (bfloat16, on the first device that CUDA_VISIBLE_DEVICES "
             "shows), cpu, or cuda where there is "
             "one."},
    {"schedule", SETTING_CHOICE, VERB_FIELD(schedule), .fallback = "cosine", .choices = schedules,
     .help = "Schedule of the learning rate."},
    {"learning-rate", SETTING_NUMBER, VERB_FIELD(rate), .fallback = "0.002",
     .help = "Learning rate after warm-up."},
    {"floor", SETTING_NUMBER, VERB_FIELD(floor), .fallback = "0.0002",
     .help = "Learning rate at the end."},
    {"warmup-steps", SETTING_COUNT, VERB_FIELD(warmup), .fallback = "50",
     .help = "Steps of warm-up."},
    {"decay", SETTING_NUMBER, VERB_FIELD(decay), .fallback = "0.1",
     .help = "AdamW's weight decay."},
    {"clip", SETTING_NUMBER, VERB_FIELD(clip), .fallback = "1",
     .help = "Largest gradient norm; 0: any."},
    {"heldout", SETTING_SHARE, VERB_FIELD(heldout), .fallback = "0.05", .min = "0", .max = "0.5",
     .help = "Part of each file kept for evaluation."},
    {"seed", SETTING_COUNT, VERB_FIELD(seed), .fallback = "1",
     .help = "Seed of the initial parameters and the order of the data."},
    {"log-every", SETTING_COUNT, VERB_FIELD(log_every), .fallback = "50", .min = "1",
     .help = "Steps between two lines of progress."},
    {"evaluate-every", SETTING_COUNT, VERB_FIELD(evaluate_every), .fallback = "0",
     .help = "Steps between two evaluations; 0: at the end only."},
    {"evaluate-windows", SETTING_COUNT, VERB_FIELD(evaluate_windows), .fallback = "64",
     .help = "Held-out sequences an evaluation reads; 0: all."},
    {"start", SETTING_PATH, VERB_FIELD(start), .value_name = "PATH",
     .help = "A model directory (its config.json gives the shape) or a .safetensors file to start "
             "from."},
    {"state", SETTING_PATH, VERB_FIELD(state), .value_name = "FILE",
     .help = "Training state: continued if it is there, written at the end and when SIGINT or "
             "SIGTERM ends it."},
    {"export", SETTING_PATH, VERB_FIELD(export_to), .value_name = "DIRECTORY",
     .help = "Directory for an export that transformers can open."},
    VERB_KERNELS,
    {"recompute", SETTING_BOOL, VERB_FIELD(recompute), .fallback = "false",
     .help = "Compute activations again in the backward pass: less memory, a third more work."},
    {"bf16-moments", SETTING_BOOL, VERB_FIELD(bf16_moments), .fallback = "false",
     .help = "Keep the optimizer's moments in bfloat16."},
    {"save-every", SETTING_COUNT, VERB_FIELD(save_every), .fallback = "0",
     .help = "Steps between two writings of the state; 0: at the end only."},
    {"log", SETTING_PATH, VERB_FIELD(log), .value_name = "FILE",
     .help = "File for every progress line, as CSV or, if named .jsonl, JSON."},
    {"plot", SETTING_PATH, VERB_FIELD(plot), .value_name = "FILE",
     .help = "File for a plot of the loss, as SVG."},
    {"dtype", SETTING_CHOICE, VERB_FIELD(dtype), .fallback = "f32", .choices = dtypes,
     .help = "Type of the exported tensors."},
    {"shard-size", SETTING_SIZE, VERB_FIELD(shard_size), .fallback = "5GiB", .min = "1KiB",
     .help = "Largest exported file."},
    {"prompt", SETTING_TEXT, VERB_FIELD(prompt),
     .help = "Bytes to continue when training is done."},
    {"sample", SETTING_COUNT, VERB_FIELD(sample), .fallback = "200",
     .help = "Bytes to write after the prompt."},
    {0}};

/* The shape: of the checkpoint, or of the preset with what was said beside it. A checkpoint admits
 * no changes. */
static enum status model_of(const struct options *options, const struct verb_settings *s,
                            struct model_config *out, struct error *error) {
    struct model_config given;
    char *config = s->start ? beside_path(s->start, "config.json") : NULL;
    bool fixed = config && file_exists(config);
    free(config);
    TRY(preset_find(s->preset, &given, error));
    if (fixed) {
        struct model_config preset = given;
        TRY(beside_config(s->start, &given, error));
        if (options_source(options, "preset", NULL) != OPTION_FROM_DEFAULT &&
            model_config_compare(&preset, &given, error) != OK)
            return error_wrap(
                error, INVALID,
                "--preset %s and config.json beside --start %s differ: leave the preset out",
                s->preset, s->start);
    }
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
        if (options_source(options, parts[i].name, NULL) != OPTION_FROM_DEFAULT)
            *parts[i].field = (uint32_t)parts[i].value;
    if (options_source(options, "tied", NULL) != OPTION_FROM_DEFAULT) given.tied = s->tied;
    if (fixed) {
        enum status status = model_config_compare(&given, &before, error);
        if (status != OK)
            return error_wrap(error, status, "config.json of --start %s, against the flags",
                              s->start);
    }
    *out = given;
    return OK;
}

static struct trainer_options trainer_options_of(const struct verb_settings *s,
                                                 const struct model_config *model) {
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
        .cancelled = ending_is_asked,
        .device = (enum device_choice)s->device,
        .adamw = {.beta1 = 0.9f,
                  .beta2 = 0.95f,
                  .epsilon = 1e-8f,
                  .decay = (float)s->decay,
                  .clip = (float)s->clip},
        .schedule = {.shape = (enum schedule_shape)s->schedule,
                     .peak = (float)s->rate,
                     .floor = (float)s->floor,
                     .warmup_tokens = s->warmup * step,
                     .total_tokens = MAX(s->steps, s->warmup + 1) * step}};
}

/* Parameters from the state, from a checkpoint or from the seed. */
static enum status begin(struct trainer *trainer, const struct verb_settings *s,
                         struct error *error) {
    if (s->state && file_exists(s->state)) {
        if (s->start)
            fprintf(stderr,
                    "--start %s is not read: training goes on from the state %s; delete that, or "
                    "name another, to start anew\n",
                    s->start, s->state);
        struct buffer state = {0};
        TRY(file_read(s->state, SIZE_MAX / 2, &state, error));
        struct bytes content;
        enum status status = checksum_open(buffer_bytes(&state), &content, error);
        if (status == OK) status = kernels_split(&content, NULL, error);
        if (status == OK) status = trainer_load(trainer, content, error);
        buffer_deinit(&state);
        return status == OK ? OK : error_wrap(error, status, "the training state %s", s->state);
    }
    if (s->start)
        return checkpoint_read(s->start, trainer_layout(trainer),
                               trainer_parameters_to_change(trainer), error);
    layout_initialise(trainer_layout(trainer), s->seed, trainer_parameters_to_change(trainer));
    return OK;
}

static enum status evaluate(struct trainer *trainer, const struct data *data,
                            const struct verb_settings *s, double *nats, struct error *error) {
    enum status status = trainer_evaluate(trainer, data, s->evaluate_windows, nats, error);
    if (status == OK)
        log_info("evaluated", "step=%llu heldout_nats=%.4f",
                 (unsigned long long)trainer_counters(trainer).steps, *nats);
    return status;
}

static enum status save_state(struct trainer *trainer, const char *path, struct error *error) {
    struct buffer state = {0};
    trainer_save(trainer, &state);
    kernels_append(&state, trainer_kernels(trainer));
    checksum_seal(&state);
    enum status status = file_write(path, buffer_bytes(&state), 0644, error);
    buffer_deinit(&state);
    return status;
}

/* A point of progress: into the history, and to the person. */
static enum status report(struct history *history, const struct history_point *point,
                          uint64_t steps, struct error *error) {
    double left = point->tokens_per_second > 0 && point->step > 0
                      ? (double)(steps - MIN(steps, point->step)) * (double)point->tokens /
                            (double)point->step / point->tokens_per_second
                      : 0;
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r\033[Kstep %llu/%llu  loss %.4f  %.0f tokens/s  %d:%02d:%02d left",
                (unsigned long long)point->step, (unsigned long long)steps, point->loss,
                point->tokens_per_second, (int)(left / 3600), (int)(left / 60) % 60,
                (int)left % 60);
    else
        log_info("trained",
                 "step=%llu loss=%.4f gradient_norm=%.3f learning_rate=%.2e tokens_per_second=%.0f",
                 (unsigned long long)point->step, point->loss, point->gradient_norm,
                 point->learning_rate, point->tokens_per_second);
    return history_add(history, point, error);
}

/* The failure of a step, after which the trainer's state is still whole. What else fails goes to
 * *aside. */
static enum status train(struct trainer *trainer, const struct data *data,
                         const struct verb_settings *s, struct history *history, double *speed,
                         struct first_failure *aside, struct error *error) {
    bool logs = true;
    uint64_t start = clock_monotonic_ns(), mark = start, tokens = 0, marked = 0;
    enum status status = OK;
    while (status == OK && !ending_is_asked() && trainer_counters(trainer).steps < s->steps) {
        struct trainer_result result;
        status = trainer_step(trainer, data, trainer_counters(trainer).tokens, &result, error);
        if (status != OK) break;
        tokens += result.tokens;
        struct trainer_counters counters = trainer_counters(trainer);
        double heldout = NAN;
        struct error other = {0};
        if (s->evaluate_every && counters.steps % s->evaluate_every == 0) {
            enum status evaluated = evaluate(trainer, data, s, &heldout, &other);
            if (evaluated != CANCELLED)
                first_failure_keep(aside, evaluated, &other, "not_evaluated", true);
        }
        if (counters.steps % s->log_every == 0 || isfinite(heldout)) {
            uint64_t now = clock_monotonic_ns();
            const struct history_point point = {.step = counters.steps,
                                                .tokens = counters.tokens,
                                                .loss = result.loss,
                                                .heldout = heldout,
                                                .gradient_norm = result.gradient_norm,
                                                .learning_rate = (double)result.learning_rate,
                                                .tokens_per_second = (double)(tokens - marked) *
                                                                     1e9 / (double)(now - mark),
                                                .seconds = (double)(now - start) * 1e-9};
            enum status logged = report(history, &point, s->steps, &other);
            if (logs) first_failure_keep(aside, logged, &other, "log_not_written", true);
            logs = logs && logged == OK;
            mark = now, marked = tokens;
        }
        if (s->save_every && s->state && counters.steps % s->save_every == 0) {
            /* tried again, and judged at the end */
            enum status saved = save_state(trainer, s->state, &other);
            if (saved != OK)
                log_error("state_not_saved", "step=%llu message=\"%s\"",
                          (unsigned long long)counters.steps, other.message);
        }
    }
    if (isatty(STDERR_FILENO)) fprintf(stderr, "\n");
    *speed = (double)tokens * 1e9 / (double)(clock_monotonic_ns() - start + 1);
    return status;
}

static enum status check_prompt(const struct verb_settings *s, const struct model_config *model,
                                struct error *error) {
    size_t length = s->prompt ? strlen(s->prompt) : 1;
    if (s->prompt && model->vocabulary < 256)
        return error_set(error, INVALID, "this vocabulary is not of bytes: no prompt");
    if (s->prompt && (length == 0 || length >= model->context))
        return error_set(error, INVALID, "the prompt must have 1 to %u bytes", model->context - 1);
    return OK;
}

static enum status sample(struct trainer *trainer, const struct verb_settings *s,
                          struct error *error) {
    const struct layout *layout = trainer_layout(trainer);
    size_t length = strlen(s->prompt), context = layout->config.context;
    uint32_t count = (uint32_t)MIN(s->sample, (uint64_t)(context - length));
    uint32_t *tokens = xcalloc(length + count, sizeof *tokens);
    for (size_t i = 0; i < length; i++) tokens[i] = (uint8_t)s->prompt[i];
    const struct generate_options options = GENERATE_DEFAULTS;
    enum status status = generate(layout, trainer_parameters_to_change(trainer), &options, tokens,
                                  (uint32_t)length, tokens + length, count, error);
    for (size_t i = 0; status == OK && i < length + count; i++)
        putchar(tokens[i] < 256 ? (int)tokens[i] : '?');
    if (status == OK) putchar('\n');
    free(tokens);
    return status;
}

static enum status export_model_of(struct trainer *trainer, const struct data *data,
                                   const struct verb_settings *s, struct error *error) {
    const struct layout *layout = trainer_layout(trainer);
    bool bytes = layout->config.vocabulary == 256 && data_is_bytes(data);
    const struct export_options how =
        train_export_options(s, bytes, trainer_counters(trainer).steps);
    return export_model_as(s->export_to, layout, trainer_parameters_to_change(trainer), &how,
                           error);
}

/* The line of figures; whether training was stopped goes to the person too. */
static enum status tell(struct trainer *trainer, const struct data *data,
                        const struct verb_settings *s, double speed, struct error *error) {
    struct trainer_counters counters = trainer_counters(trainer);
    printf("parameters=%llu kernels=%s steps=%llu tokens=%llu tokens_per_second=%.0f",
           (unsigned long long)trainer_layout(trainer)->count, trainer_kernels(trainer),
           (unsigned long long)counters.steps, (unsigned long long)counters.tokens, speed);
    double nats;
    enum status status = OK;
    if (ending_is_asked()) {
        printf(" stopped=true\n");
        fprintf(stderr,
                s->state ? "stopped at step %llu of %llu: the same command goes on from there\n"
                         : "stopped at step %llu of %llu, and without --state nothing can go on "
                           "from there\n",
                (unsigned long long)counters.steps, (unsigned long long)s->steps);
        return OK;
    }
    if (data_heldout_count(data, (uint32_t)s->length) > 0) {
        status = evaluate(trainer, data, s, &nats, error);
        if (status == OK) printf(" heldout_nats=%.4f", nats);
        if (status == CANCELLED) status = OK;
    }
    printf("\n");
    return status;
}

static enum status write_plot(const struct history *history, const char *path,
                              struct error *error) {
    struct buffer picture = {0};
    history_plot(history, "Training loss", &picture);
    enum status status = file_write(path, buffer_bytes(&picture), 0644, error);
    buffer_deinit(&picture);
    return status;
}

/* After training, however it ended: first what the work was for, then what tells of it. No failure
 * keeps the next from being tried. */
static void finish(struct trainer *trainer, const struct data *data, const struct verb_settings *s,
                   const struct history *history, double speed, struct first_failure *first) {
    bool trained = first->status == OK;
    struct error error = {0};
    if (s->state)
        first_failure_keep(first, save_state(trainer, s->state, &error), &error, "state_not_saved",
                           false);
    if (trained && s->export_to)
        first_failure_keep(first, export_model_of(trainer, data, s, &error), &error, "not_exported",
                           false);
    if (trained)
        first_failure_keep(first, tell(trainer, data, s, speed, &error), &error, "not_evaluated",
                           false);
    if (s->plot)
        first_failure_keep(first, write_plot(history, s->plot, &error), &error, "plot_not_written",
                           false);
    if (trained && s->prompt && !ending_is_asked())
        first_failure_keep(first, sample(trainer, s, &error), &error, "no_sample", false);
}

/* What reading and writing the state takes for a moment: its bytes, all at once. */
static uint64_t state_size(const struct verb_settings *s, const struct trainer_options *options) {
    struct layout layout;
    if (!s->state || layout_init(&options->model, &layout, NULL) != OK) return 0;
    uint64_t size = 3 * layout.count * sizeof(float);
    layout_deinit(&layout);
    return size;
}

static void say_kernels(const struct trainer *trainer) {
    const struct kernels *table;
    if (kernels_find(trainer_kernels(trainer), &table, NULL) == OK) /* else a device's */
        log_info("kernels", "name=%s why=\"%s\"", table->name, kernels_why(table));
}

/* What is said of something that is not done. */
static enum status check_idle(const struct options *options, const struct verb_settings *s,
                              struct error *error) {
    TRY(options_refuse_idle(options, "save-every", !s->state,
                            "without --state: nothing would be saved", error));
    TRY(options_refuse_idle(options, "dtype", !s->export_to, "without --export", error));
    TRY(options_refuse_idle(options, "shard-size", !s->export_to, "without --export", error));
    TRY(options_refuse_idle(options, "sample", !s->prompt, "without --prompt", error));
    return options_refuse_idle(options, "floor", s->schedule == SCHEDULE_CONSTANT,
                               "with --schedule constant, which does not fall", error);
}

static int run_train(struct options *options, void *values) {
    struct verb_settings *s = values;
    struct error error = {0};
    struct trainer *trainer = NULL;
    struct data *data = NULL;
    struct history *history = NULL;
    struct model_config model;
    double speed = 0;
    ending_begin(VERB_DONE); /* until it trains, nothing is unsaved */
    enum status status = check_idle(options, s, &error);
    if (status == OK) status = model_of(options, s, &model, &error);
    if (status != OK) return verb_exit_code(options, status, &error);
    if (options_source(options, "length", NULL) == OPTION_FROM_DEFAULT)
        s->length = MIN(s->length, (uint64_t)model.context);
    char *seen = file_cache("data.seen");
    const struct data_options data_options = {.vocabulary = model.vocabulary,
                                              .seen = seen,
                                              .heldout = s->heldout,
                                              .seed = s->seed,
                                              .format = s->data_format,
                                              .tokens = beside_tokens(s->start)};
    char began_with[KERNELS_NAME_SIZE] = "";
    if (s->state) kernels_peek(s->state, began_with);
    s->kernels = kernels_to_use(s->kernels, began_with, s->state);
    const struct trainer_options trainer_options = trainer_options_of(s, &model);
    struct train_outputs outputs = {0};
    struct first_failure first = {0}, aside = {0};
    status = data_open(s->data.items, s->data.count, &data_options, &data, &error);
    if (status == OK) status = trainer_check(&trainer_options, &error);
    if (status == OK) status = check_prompt(s, &model, &error);
    if (status == OK)
        status = verb_check_memory(&trainer_options, state_size(s, &trainer_options), &error);
    if (status == OK) status = train_outputs_claim(s, &model, &outputs, &error);
    if (status == OK) status = history_open(s->log, &history, &error);
    if (status == OK) status = trainer_create(&trainer_options, &trainer, &error);
    if (status == OK && s->device != DEVICE_CPU)
        log_info("device", "line=\"%s\"", trainer_device_line(trainer));
    if (status == OK) say_kernels(trainer);
    if (status == OK) status = begin(trainer, s, &error);
    ending_in_order(NULL); /* the first signal ends training after the step that is under way; a
                              later one ends the process */
    if (status == OK) {
        first_failure_keep(&first, train(trainer, data, s, history, &speed, &aside, &error), &error,
                           "not_trained", false);
        finish(trainer, data, s, history, speed, &first);
        if (first.status == OK) first = aside;
        status = first.status, error = first.error;
    }
    trainer_destroy(trainer);
    history_close(history);
    data_close(data);
    train_outputs_release(&outputs);
    free(seen);
    return verb_exit_code(options, status, &error);
}

const struct command verb_train_command = {
    .name = "train",
    .summary = "trains a model alone, without a coordinator, and exports it",
    .description = "SIGINT or SIGTERM ends it after the step under way, with its state written "
                   "(exit code 0); the same command "
                   "then goes on, and "
                   "ends with the same bits as if it had never stopped. " VERB_EXIT_CODES,
    .examples = "train text.txt --preset 4m --steps 2000 --state run.state "
                "--save-every 100 --export model\n"
                "train shard_*.bin --start Llama-model --log run.csv --plot run.svg",
    .options = train_options,
    .run = run_train};
