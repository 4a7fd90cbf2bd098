#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "model/generate.h"
#include "model/verbs.h"

static const struct option generate_options_table[] = {
    VERB_MODEL,
    {"prompt", OPTION_TEXT, VERB_FIELD(prompt), .help = "Bytes to continue, where the vocabulary is bytes."},
    {"tokens", OPTION_TEXT, VERB_FIELD(tokens), .help = "Tokens to continue, as numbers: \"12 7 3\"; tokens are printed too."},
    {"sample", OPTION_U64, VERB_FIELD(sample), .fallback = "200", .min = "1", .max = "1048576",
     .help = "Tokens to write after the prompt."},
    {"temperature", OPTION_F64, VERB_FIELD(temperature), .fallback = "0.8", .min = "0", .max = "100",
     .help = "0: always the likeliest."},
    {"top-k", OPTION_U64, VERB_FIELD(top_k), .fallback = "0", .max = "1048576", .help = "Draw from the k likeliest; 0: all."},
    {"top-p", OPTION_F64, VERB_FIELD(top_p), .fallback = "1", .max = "1",
     .help = "Draw from the likeliest that make up this share."},
    {"seed", OPTION_U64, VERB_FIELD(seed), .fallback = "1", .help = "Of the drawing."},
    {0}};

static enum status write_continuation(const struct verb_settings *s, const struct layout *layout, const float *parameters,
                                      struct error *error) {
    struct buffer prompt = {0};
    enum status status = OK;
    if (s->tokens)
        status = verb_parse_tokens(s->tokens, &prompt, error);
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

static int run_generate(struct options *options, void *values) { return verb_with_model(options, values, write_continuation); }

const struct command verb_generate_command = {.name = "generate",
                                              .summary = "continues a prompt",
                                              .description = VERB_EXIT_CODES,
                                              .examples = "generate model --prompt \"It was \" --sample 300 --temperature 0.7",
                                              .options = generate_options_table,
                                              .run = run_generate};
