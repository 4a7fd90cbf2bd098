/* Bounds on the shape of a model (model/config.h). */
#include "model/config.h"

#include "text/tokenizer.h"

_Static_assert((int)MODEL_VOCABULARY_MAX == (int)TOKENIZER_VOCABULARY_MAX,
               "every tokenizer that is read fits a model");

static enum status check_range(const char *field, uint32_t value, uint32_t least, uint32_t most,
                               struct error *error) {
    if (value >= least && value <= most) return OK;
    return error_set(error, INVALID, "model %s is %u; it must be in %u..%u", field, value, least,
                     most);
}

enum status model_config_check(const struct model_config *config, struct error *error) {
    TRY(check_range("vocabulary", config->vocabulary, 1, MODEL_VOCABULARY_MAX, error));
    TRY(check_range("hidden", config->hidden, 2, MODEL_HIDDEN_MAX, error));
    TRY(check_range("layers", config->layers, 1, MODEL_LAYERS_MAX, error));
    TRY(check_range("heads", config->heads, 1, config->hidden, error));
    TRY(check_range("kv_heads", config->kv_heads, 1, config->heads, error));
    TRY(check_range("ffn", config->ffn, 1, MODEL_HIDDEN_MAX * 4, error));
    TRY(check_range("context", config->context, 1, MODEL_CONTEXT_MAX, error));
    uint32_t size = config->hidden / config->heads;
    if (config->hidden % config->heads != 0 || size % 2 != 0 || size > MODEL_HEAD_SIZE_MAX)
        return error_set(
            error, INVALID,
            "model heads is %u: hidden %u must split into heads of an even size up to %d",
            config->heads, config->hidden, MODEL_HEAD_SIZE_MAX);
    if (config->heads % config->kv_heads != 0)
        return error_set(error, INVALID, "model kv_heads is %u, which does not divide heads, %u",
                         config->kv_heads, config->heads);
    if (!(config->rope_theta >= 1.0f && config->rope_theta <= 1e9f))
        return error_set(error, INVALID, "model rope_theta is %g; it must be in 1..1e9",
                         (double)config->rope_theta);
    if (!(config->norm_eps > 0.0f && config->norm_eps <= 1.0f))
        return error_set(error, INVALID, "model norm_eps is %g; it must be above 0 and at most 1",
                         (double)config->norm_eps);
    return OK;
}
