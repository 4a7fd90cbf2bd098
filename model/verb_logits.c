/* `logits` (model/verbs.h): the logits of given tokens as text, for tests that compare with
 * transformers. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "model/generate.h"
#include "model/verbs.h"

static const struct setting logits_options[] = {VERB_MODEL,
                                                {"tokens", SETTING_TEXT, VERB_FIELD(tokens),
                                                 .flags = OPTION_REQUIRED,
                                                 .help = "What to read, as numbers: \"12 7 3\"."},
                                                VERB_KERNELS,
                                                {0}};

static enum status write_logits(const struct verb_settings *s, const struct layout *layout,
                                const float *parameters, struct error *error) {
    struct buffer tokens = {0}, text = {0};
    struct generator *generator = NULL;
    const float *logits;
    enum status status = verb_parse_tokens(s->tokens, &tokens, error);
    if (status == OK)
        status =
            generator_create(layout, parameters, (uint32_t)MIN(tokens.size / 4, (size_t)UINT32_MAX),
                             s->kernels, &generator, error);
    struct json_writer w = json_writer_of(&text, false);
    json_begin_array(&w);
    for (size_t i = 0; status == OK && i < tokens.size / 4; i++) {
        uint32_t token;
        memcpy(&token, tokens.data + 4 * i, sizeof token);
        status = generator_read(generator, token, &logits, error);
        json_begin_array(&w);
        for (uint32_t v = 0; status == OK && v < layout->config.vocabulary; v++)
            json_f64(&w, (double)logits[v]);
        json_end_array(&w);
    }
    json_end_array(&w);
    if (status == OK) printf("%.*s\n", (int)text.size, (const char *)text.data);
    generator_destroy(generator);
    buffer_deinit(&tokens);
    buffer_deinit(&text);
    return status;
}

static int run_logits(struct options *options, void *values) {
    return verb_with_model(options, values, write_logits);
}

const struct command verb_logits_command = {.name = "logits",
                                            .summary = "a model's logits after each token, as JSON",
                                            .description = VERB_EXIT_CODES,
                                            .examples = "logits model --tokens \"12 7 3\"",
                                            .options = logits_options,
                                            .run = run_logits};
