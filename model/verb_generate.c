/* `generate` (model/verbs.h): a continuation of a prompt on stdout, written as it is drawn; whole
 * characters only. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "model/config_file.h"
#include "model/generate.h"
#include "model/verbs.h"
#include "text/tokenizer.h"

static const struct setting generate_options_table[] = {
    VERB_MODEL,
    {"prompt", SETTING_TEXT, VERB_FIELD(prompt),
     .help = "Text to continue, by the tokenizer.json beside the model."},
    {"tokens", SETTING_TEXT, VERB_FIELD(tokens),
     .help = "Tokens to continue, as numbers: \"12 7 3\"; tokens are printed too."},
    {"sample", SETTING_COUNT, VERB_FIELD(sample), .fallback = "200", .min = "1", .max = "1048576",
     .help = "Tokens to write after the prompt."},
    {"temperature", SETTING_NUMBER, VERB_FIELD(temperature), .fallback = "0.8", .min = "0",
     .max = "100", .help = "0: always the likeliest."},
    {"top-k", SETTING_COUNT, VERB_FIELD(top_k), .fallback = "0", .max = "1048576",
     .help = "Draw from the k likeliest; 0: all."},
    {"top-p", SETTING_NUMBER, VERB_FIELD(top_p), .fallback = "1", .max = "1",
     .help = "Draw from the likeliest that make up this share."},
    {"ignore-eos", SETTING_BOOL, VERB_FIELD(ignore_eos),
     .help = "Continue after the token that ends a text (eos_token_id of config.json)."},
    {"seed", SETTING_COUNT, VERB_FIELD(seed), .fallback = "1", .help = "Seed of the sampling."},
    {0}};

struct writer {                        /* prints tokens as they come */
    const struct tokenizer *tokenizer; /* NULL: as numbers, or with `bytes` as bytes */
    bool bytes, first;
    uint32_t ends[CONFIG_END_TOKENS];
    size_t end_count;
    struct utf8_stream stream;
    struct buffer text, ready;
};

static void write_ready(struct writer *w) {
    fwrite(w->ready.data, 1, w->ready.size, stdout);
    fflush(stdout);
    w->ready.size = w->text.size = 0;
}

static void write_token(struct writer *w, uint32_t token) {
    if (w->tokenizer) {
        tokenizer_decode(w->tokenizer, token, &w->text);
    } else if (w->bytes) {
        buffer_u8(&w->text, (uint8_t)token);
    } else {
        printf(w->first ? "%u" : " %u", token);
        w->first = false;
        return;
    }
    utf8_stream_push(&w->stream, buffer_bytes(&w->text), &w->ready);
    write_ready(w);
}

static bool write_drawn(void *context, uint32_t token) {
    struct writer *w = context;
    for (size_t i = 0; i < w->end_count; i++)
        if (w->ends[i] == token) return false;
    write_token(w, token);
    return true;
}

static enum status read_ends(const struct verb_settings *s, struct writer *writer,
                             struct error *error) {
    if (s->ignore_eos) return OK;
    char *path = file_join(s->model, "config.json");
    struct buffer text = {0};
    enum status status = file_read(path, CONFIG_FILE_MAX, &text, error);
    if (status == OK)
        status =
            config_file_end_tokens(buffer_bytes(&text), writer->ends, &writer->end_count, error);
    if (status != OK) status = error_wrap(error, status, "%s", path);
    buffer_deinit(&text);
    free(path);
    return status;
}

/* The prompt's tokens. *tokenizer stays NULL where tokens are given, or are bytes. */
static enum status read_prompt(const struct verb_settings *s, const struct layout *layout,
                               struct tokenizer **tokenizer, struct buffer *tokens,
                               struct error *error) {
    if (s->tokens && s->prompt)
        return error_set(error, INVALID,
                         "give a --prompt or --tokens, not both: only one would be read");
    if (s->tokens) return verb_parse_tokens(s->tokens, tokens, error);
    if (!s->prompt || !*s->prompt) return error_set(error, INVALID, "give a --prompt, or --tokens");
    enum status status = tokenizer_open(s->model, tokenizer, error);
    if (status == NOT_FOUND && layout->config.vocabulary == 256) {
        for (const char *c = s->prompt; *c; c++) buffer_u32(tokens, (uint8_t)*c);
        return OK;
    }
    if (status == NOT_FOUND)
        return error_set(error, INVALID,
                         "%s has no tokenizer.json to read the prompt with: give --tokens",
                         s->model);
    TRY(status);
    return tokenizer_encode(*tokenizer, bytes_of(s->prompt, strlen(s->prompt)), true, tokens,
                            error);
}

static enum status write_continuation(const struct verb_settings *s, const struct layout *layout,
                                      const float *parameters, struct error *error) {
    struct buffer prompt = {0};
    struct tokenizer *tokenizer = NULL;
    enum status status = read_prompt(s, layout, &tokenizer, &prompt, error);
    size_t length = prompt.size / 4, context = layout->config.context;
    if (status == OK && length >= context)
        status = error_set(error, INVALID, "the prompt has %zu tokens; the model's context is %zu",
                           length, context);
    uint32_t count = (uint32_t)MIN(s->sample, (uint64_t)(context - MIN(length, context)));
    uint32_t *tokens = xcalloc(length + count + 1, sizeof *tokens);
    struct writer writer = {.tokenizer = tokenizer, .bytes = !s->tokens, .first = true};
    const struct generate_options how = {.temperature = (float)s->temperature,
                                         .top_k = (uint32_t)s->top_k,
                                         .top_p = (float)s->top_p,
                                         .seed = s->seed,
                                         .each = write_drawn,
                                         .context = &writer};
    if (status == OK) status = read_ends(s, &writer, error);
    if (status == OK && length) memcpy(tokens, prompt.data, prompt.size);
    for (size_t i = 0; status == OK && i < length; i++) {
        if (tokens[i] >= layout->config.vocabulary)
            status = error_set(error, INVALID, "token %u is beyond the model's vocabulary of %u",
                               tokens[i], layout->config.vocabulary);
        else if (s->tokens)
            write_token(&writer, tokens[i]);
    }
    if (status == OK && !s->tokens) fputs(s->prompt, stdout);
    if (status == OK)
        status = generate(layout, parameters, &how, tokens, (uint32_t)length, tokens + length,
                          count, error);
    utf8_stream_end(&writer.stream, &writer.ready);
    write_ready(&writer);
    if (status == OK) putchar('\n');
    free(tokens);
    buffer_deinit(&prompt);
    buffer_deinit(&writer.text);
    buffer_deinit(&writer.ready);
    tokenizer_close(tokenizer);
    return status;
}

static int run_generate(struct options *options, void *values) {
    return verb_with_model(options, values, write_continuation);
}

const struct command verb_generate_command = {
    .name = "generate",
    .summary = "continues a prompt",
    .description = VERB_EXIT_CODES,
    .examples = "generate model --prompt \"It was \" --sample 300 --temperature 0.7",
    .options = generate_options_table,
    .run = run_generate};
