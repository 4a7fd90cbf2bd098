/* `eval` (model/verbs.h): perplexity of a model on text or shards. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "model/beside.h"
#include "model/checkpoint.h"
#include "model/verbs.h"
#include "text/tokenizer.h"

enum { TEXT_MAX = 1 << 30 };

static const struct setting eval_options[] = {
    VERB_MODEL,
    {"data", SETTING_LIST, VERB_FIELD(data), .flags = OPTION_POSITIONAL, .value_name = "FILE",
     .help = "Text (a token is a byte) or shards of tokens."},
    VERB_DATA_FORMAT,
    {"text", SETTING_PATH, VERB_FIELD(text), .value_name = "FILE",
     .help = "UTF-8 text to read whole, by the tokenizer.json beside the model, instead of files "
             "of tokens."},
    {"control-tokens", SETTING_BOOL, VERB_FIELD(control_tokens),
     .help =
         "With --text: text such as <|endoftext|> is the tokenizer's control token, and not text."},
    {"length", SETTING_COUNT, VERB_FIELD(length), .fallback = "128", .min = "1", .max = "1048576",
     .help = "Tokens in a sequence."},
    {"heldout", SETTING_SHARE, VERB_FIELD(heldout), .fallback = "0.05", .min = "0", .max = "1",
     .help = "Part of each file, its end, that is read; 1: all of it."},
    {"evaluate-windows", SETTING_COUNT, VERB_FIELD(evaluate_windows), .fallback = "64",
     .help = "Sequences to read; 0: all."},
    VERB_THREADS,
    VERB_KERNELS,
    {0}};

static enum status read_text(void *context, uint64_t at, void *out, size_t size,
                             struct error *error) {
    const struct bytes *text = context;
    if (at > text->size || size > text->size - at)
        return error_set(error, CORRUPT, "beyond the end");
    memcpy(out, text->data + at, size);
    return OK;
}

/* By the rules for text that is trained on: bytes that happen to be UTF-8 are not all text. */
static enum status check_text(struct bytes text, struct error *error) {
    const struct data_source source = {
        .read = read_text, .context = &text, .name = "the text", .size = text.size};
    const struct data_demand demand = {.tokens = DATA_TOKENS_BYTE, .vocabulary = 256};
    struct data_shape shape;
    if (text.size == 0) return error_set(error, INVALID, "it is empty");
    enum status status = data_format_detect(&source, &demand, &shape, error);
    if (status != OK) {
        char *insist = error ? strstr(error->message, data_format_insist) : NULL;
        if (insist) *insist = 0; /* not with --text */
        return status;
    }
    if (shape.token_size == 1) return OK;
    return error_set(error, INVALID, "it holds tokens, not text: give it without --text");
}

/* The data that were named. *tokens holds those of a text, and must live as long as *out. */
static enum status open_data(const struct verb_settings *s, const struct model_config *model,
                             struct buffer *tokens, struct data **out, struct error *error) {
    const struct data_options options = {.vocabulary = model->vocabulary,
                                         .heldout = s->heldout,
                                         .format = s->data_format,
                                         .tokens = beside_tokens(s->model)};
    if ((s->text != NULL) == (s->data.count > 0))
        return error_set(error, INVALID, "give files of tokens, or one --text FILE");
    if (!s->text) return data_open(s->data.items, s->data.count, &options, out, error);
    struct tokenizer *tokenizer = NULL;
    struct buffer text = {0};
    enum status status = tokenizer_open(s->model, &tokenizer, error);
    if (status == OK) status = file_read(s->text, TEXT_MAX, &text, error);
    if (status == OK) status = check_text(buffer_bytes(&text), error);
    size_t mark = utf8_mark(text.data, text.size);
    struct bytes content = bytes_of(text.data + mark, text.size - mark);
    if (status == OK)
        status = s->control_tokens ? tokenizer_encode(tokenizer, content, false, tokens, error)
                                   : tokenizer_encode_document(tokenizer, content, tokens, error);
    tokenizer_close(tokenizer);
    buffer_deinit(&text);
    if (status == OK && tokens->size == 0)
        status = error_set(error, INVALID, "%s is empty", s->text);
    if (status != OK) return error_wrap(error, status, "--text %s", s->text);
    return data_open_tokens(s->text, (const uint32_t *)(const void *)tokens->data, tokens->size / 4,
                            &options, out, error);
}

static enum status check_idle(const struct options *options, const struct verb_settings *s,
                              struct error *error) {
    const char *why = "with --text, which is read whole";
    TRY(options_refuse_idle(options, "heldout", s->text != NULL, why, error));
    TRY(options_refuse_idle(options, "control-tokens", s->text == NULL,
                            "without --text: tokens are what they are", error));
    return options_refuse_idle(options, "data-format", s->text != NULL, why, error);
}

static int run_eval(struct options *options, void *values) {
    const struct verb_settings *s = values;
    struct error error = {0};
    struct trainer *trainer = NULL;
    struct data *data = NULL;
    struct trainer_options trainer_options = TRAINER_DEFAULTS;
    trainer_options.forward_only = true;
    double nats;
    enum status status = check_idle(options, s, &error);
    if (status == OK) status = checkpoint_config(s->model, &trainer_options.model, &error);
    trainer_options.length = (uint32_t)MIN(s->length, (uint64_t)trainer_options.model.context);
    trainer_options.threads = (uint32_t)s->threads;
    trainer_options.kernels = s->kernels;
    struct buffer tokens = {0};
    if (status == OK) status = open_data(s, &trainer_options.model, &tokens, &data, &error);
    if (status == OK) status = trainer_check(&trainer_options, &error);
    if (status == OK) status = verb_check_memory(&trainer_options, 0, &error);
    if (status == OK) status = trainer_create(&trainer_options, &trainer, &error);
    if (status == OK)
        status = checkpoint_read(s->model, trainer_layout(trainer),
                                 trainer_parameters_to_change(trainer), &error);
    if (status == OK) status = trainer_evaluate(trainer, data, s->evaluate_windows, &nats, &error);
    if (status == OK)
        printf("parameters=%llu kernels=%s heldout_nats=%.6f perplexity=%.4f\n",
               (unsigned long long)trainer_layout(trainer)->count, trainer_kernels(trainer), nats,
               exp(nats));
    trainer_destroy(trainer);
    data_close(data);
    buffer_deinit(&tokens);
    return verb_exit_code(options, status, &error);
}

const struct command verb_eval_command = {.name = "eval",
                                          .summary = "the loss of a model over files",
                                          .description = VERB_EXIT_CODES,
                                          .examples = "eval model text.txt --heldout 1",
                                          .options = eval_options,
                                          .run = run_eval};
