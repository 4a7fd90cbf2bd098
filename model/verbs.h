/* What the training engine does alone, on one machine: the verbs of `atoll-trainer`.
 *
 *     train      on text or .bin files, from a seed, a preset or any Llama checkpoint; exports what
 *                transformers opens
 *     eval       the loss of a model directory over files
 *     generate   a continuation, by a model directory
 *     logits     what a model directory says after each of some tokens, for comparing with other
 *                programs
 *
 * One table of options a verb, a file a verb. A program's main only dispatches. Results on stdout,
 * the rest on stderr. Exit codes: VERB_DONE also when SIGINT or SIGTERM ended training in order,
 * with its state written; VERB_FAILED: memory, disk or a loss that is not finite; VERB_USAGE:
 * flags, files or a model that are wrong, nothing was changed.
 */
#ifndef MODEL_VERBS_H
#define MODEL_VERBS_H

#include "base/options.h"
#include "model/data_format.h"
#include "model/trainer.h"

enum { VERB_DONE = 0, VERB_FAILED = 1, VERB_USAGE = 2 };

struct verb_settings {
    struct setting_list data;
    enum data_format data_format;
    uint64_t vocabulary, hidden, layers, heads, kv_heads, ffn, context;
    bool tied;
    uint64_t sequences, length, accumulation, shards, threads, steps, warmup, seed;
    double rate, floor, decay, clip, heldout;
    int schedule;
    uint64_t log_every, evaluate_every, evaluate_windows;
    const char *start, *state, *export_to, *kernels, *prompt, *preset, *log, *plot, *model, *tokens,
        *text;
    uint64_t sample, save_every, top_k, shard_size;
    double temperature, top_p;
    bool recompute, bf16_moments, ignore_eos, control_tokens;
    int dtype, device;
};

extern const struct command verb_train_command, verb_eval_command, verb_generate_command,
    verb_logits_command;
/* All of them, ending with NULL; `values` of their options is a struct verb_settings. */
extern const struct command *const verb_commands[];

/* Reads the arguments and runs the verb. Returns the exit code. */
int verbs_main(const struct command *program, int argc, char **argv);

/* --- what the verbs share --- */
#define VERB_FIELD(name) SETTING_FIELD(struct verb_settings, name)
#define VERB_THREADS                                                                               \
    {                                                                                              \
        "threads", SETTING_COUNT, VERB_FIELD(threads), .fallback = "0", .max = "1024",             \
                                                       .help = "Threads; 0: one per processor."    \
    }
#define VERB_DATA_FORMAT                                                                           \
    {                                                                                              \
        "data-format", SETTING_CHOICE, VERB_FIELD(data_format),                                    \
            .fallback = "auto", .choices = data_format_names,                                      \
            .help = "What the files are. auto: told from their content, and "                      \
                    "refused where they do not fit the model; to insist: "                         \
                    "bytes (each a token), llmc (tokens after llm.c's "                            \
                    "header), u16 or u32 (tokens without a header)."                               \
    }
#define VERB_KERNELS                                                                               \
    {                                                                                              \
        "kernels", SETTING_TEXT, VERB_FIELD(kernels),                                              \
            .help = "Kernels to use instead of the best for this processor."                       \
    }
#define VERB_MODEL                                                                                 \
    {                                                                                              \
        "model", SETTING_PATH, VERB_FIELD(model),                                                  \
            .flags = OPTION_POSITIONAL | OPTION_REQUIRED, .value_name = "MODEL",                   \
            .help = "Directory of config.json and model.safetensors, whole or in parts."           \
    }
#define VERB_EXIT_CODES                                                                            \
    "Exit codes: 0 done, 1 a failure (memory, disk, a loss that is not finite), 2 flags or files " \
    "that are wrong."

/* Says on stderr what went wrong, and gives the code. */
int verb_exit_code(const struct options *options, enum status status, const struct error *error);
/* Says on stderr what `doing` takes; FULL, with what would fit, where there is not that much.
 * `also` is taken beside the trainer. */
MUST_USE enum status verb_check_memory(const struct trainer_options *options, uint64_t also,
                                       struct error *error);
/* Numbers with blanks or commas between them, as u32 to *out. */
MUST_USE enum status verb_parse_tokens(const char *text, struct buffer *out, struct error *error);
/* Loads s->model, lends it to `body`, and gives the exit code. */
typedef enum status verb_body(const struct verb_settings *s, const struct layout *layout,
                              const float *parameters, struct error *error);
int verb_with_model(const struct options *options, const struct verb_settings *s, verb_body *body);

#endif
