/* config.json to a shape and back (model/config_file.h). Keys that change the mathematics are
 * refused by config_keys.c; what has no say is carried along and comes out of an export again. */
#include "model/config_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "model/config_keys.h"

/* Whole numbers of the shape: config.json's name, and where it lands. */
static const struct {
    const char *name;
    size_t offset;
    bool required;
} numbers[] = {
    {"vocab_size", offsetof(struct model_config, vocabulary), true},
    {"hidden_size", offsetof(struct model_config, hidden), true},
    {"num_hidden_layers", offsetof(struct model_config, layers), true},
    {"num_attention_heads", offsetof(struct model_config, heads), true},
    {"num_key_value_heads", offsetof(struct model_config, kv_heads), false},
    {"intermediate_size", offsetof(struct model_config, ffn), true},
    {"max_position_embeddings", offsetof(struct model_config, context), true},
};

static uint32_t *number_of(struct model_config *config, size_t index) {
    return (uint32_t *)(void *)((char *)config + numbers[index].offset);
}

static bool is_listed(const char *const *list, const char *name) {
    for (; *list; list++)
        if (strcmp(*list, name) == 0) return true;
    return false;
}

/* A member's value as a person wrote it, short enough for a message. */
static const char *value_text(const struct json_value *value, char out[static 64]) {
    static const char *const kinds[] = {
        [JSON_NULL] = "null", [JSON_ARRAY] = "a list", [JSON_OBJECT] = "an object"};
    if (value->type == JSON_BOOL) return value->boolean ? "true" : "false";
    if (value->type == JSON_NUMBER) {
        if (value->is_u64)
            snprintf(out, 64, "%llu", (unsigned long long)value->integer);
        else
            f64_format(value->number, out);
        return out;
    }
    if (value->type == JSON_STRING) {
        snprintf(out, 64, "\"%.50s\"", value->text);
        return out;
    }
    return kinds[value->type];
}

static enum status refuse(const struct json_value *value, const char *wanted, struct error *error) {
    char text[64];
    return error_set(error, INVALID, "field \"%.60s\" is %s; it must be %s", value->key,
                     value_text(value, text), wanted);
}

static double number_value(const struct json_value *value) {
    return value->is_u64 ? (double)value->integer : value->number;
}

static enum status read_theta(const struct json_value *value, float *theta, struct error *error) {
    if (value->type != JSON_NUMBER) return refuse(value, "a number", error);
    float read = (float)number_value(value);
    if (*theta != 0.0f && *theta != read)
        return error_set(error, INVALID, "field \"rope_theta\" is said twice, as %g and %g",
                         (double)*theta, (double)read);
    *theta = read;
    return OK;
}

static bool is_text(const struct json_value *value, const char *const *texts) {
    for (; value->type == JSON_STRING && *texts; texts++)
        if (strcmp(value->text, *texts) == 0) return true;
    return false;
}

/* rope_scaling and rope_parameters: plain rotation or nothing. Scaling by 1 is none; how long texts
 * were before it says nothing then. */
static enum status read_rope(const struct json_value *value, float *theta, struct error *error) {
    static const char *const kinds[] = {"default", NULL},
                             *const scalings[] = {"default", "linear", "dynamic", NULL},
                             *const ones[] = {"factor", "partial_rotary_factor", "attention_factor",
                                              NULL};
    if (value->type == JSON_NULL) return OK;
    if (value->type != JSON_OBJECT) return refuse(value, "an object or null", error);
    const struct json_value *factor = json_object_get(value, "factor");
    bool unscaled = factor && factor->type == JSON_NUMBER && number_value(factor) == 1;
    for (size_t i = 0; i < value->count; i++) {
        const struct json_value *member = &value->items[i];
        bool is_one = false;
        for (size_t k = 0; ones[k]; k++)
            is_one = is_one || (strcmp(member->key, ones[k]) == 0 && member->type == JSON_NUMBER &&
                                number_value(member) == 1);
        if (strcmp(member->key, "rope_theta") == 0)
            TRY(read_theta(member, theta, error));
        else if (strcmp(member->key, "rope_type") == 0 || strcmp(member->key, "type") == 0) {
            char text[64];
            if (!is_text(member, unscaled ? scalings : kinds))
                return error_set(error, INVALID, "field \"%s.%.60s\" is %s; it must be \"default\"",
                                 value->key, member->key, value_text(member, text));
        } else if (member->type != JSON_NULL && !is_one &&
                   strcmp(member->key, "original_max_position_embeddings") != 0)
            return error_set(
                error, INVALID,
                "field \"%s.%.60s\" asks for rotary positions of another kind than \"default\"",
                value->key, member->key);
    }
    return OK;
}

struct parts { /* what is read before it is known whether it fits together */
    struct model_config config;
    uint64_t head_size; /* 0: not said */
    bool is_llama;
    const struct json_value *unknown; /* the last key of no list */
};

static enum status read_member(const struct json_value *value, struct parts *parts,
                               struct error *error) {
    const char *name = value->key;
    for (size_t i = 0; i < COUNT_OF(numbers); i++)
        if (strcmp(name, numbers[i].name) == 0) {
            if (value->type == JSON_NULL && !numbers[i].required) return OK;
            if (value->type != JSON_NUMBER || !value->is_u64 || value->integer > UINT32_MAX)
                return refuse(value, "a whole number", error);
            if (value->integer == 0) return refuse(value, "above 0", error);
            *number_of(&parts->config, i) = (uint32_t)value->integer;
            return OK;
        }
    if (strcmp(name, "model_type") == 0) {
        if (value->type != JSON_STRING || strcmp(value->text, "llama") != 0)
            return refuse(value, "\"llama\"", error);
        parts->is_llama = true;
        return OK;
    }
    if (strcmp(name, "hidden_act") == 0)
        return value->type == JSON_STRING &&
                       (strcmp(value->text, "silu") == 0 || strcmp(value->text, "swish") == 0)
                   ? OK
                   : refuse(value, "\"silu\" (or \"swish\", which is the same)", error);
    if (strcmp(name, "attention_dropout") == 0)
        return value->type == JSON_NUMBER && number_value(value) == 0
                   ? OK
                   : refuse(value, "0: there is no dropout", error);
    if (strcmp(name, "tie_word_embeddings") == 0) {
        if (value->type != JSON_BOOL) return refuse(value, "true or false", error);
        parts->config.tied = value->boolean;
        return OK;
    }
    if (strcmp(name, "rms_norm_eps") == 0) {
        if (value->type != JSON_NUMBER) return refuse(value, "a number", error);
        parts->config.norm_eps = (float)number_value(value);
        return OK;
    }
    if (strcmp(name, "head_dim") == 0) {
        if (value->type == JSON_NULL) return OK;
        if (value->type != JSON_NUMBER || !value->is_u64)
            return refuse(value, "a whole number", error);
        parts->head_size = value->integer;
        return value->integer > 0 ? OK : refuse(value, "above 0", error);
    }
    if (strcmp(name, "rope_theta") == 0) return read_theta(value, &parts->config.rope_theta, error);
    if (strcmp(name, "rope_scaling") == 0 || strcmp(name, "rope_parameters") == 0)
        return read_rope(value, &parts->config.rope_theta, error);
    const char *wanted;
    switch (config_key_of(value, parts->config.context, &wanted)) {
    case CONFIG_KEY_CHANGES: return refuse(value, wanted, error);
    case CONFIG_KEY_UNKNOWN: parts->unknown = value; break;
    case CONFIG_KEY_HARMLESS: break;
    }
    return OK;
}

static enum status check_parts(const struct parts *parts, struct error *error) {
    const struct model_config *c = &parts->config;
    if (!parts->is_llama)
        return error_set(error, INVALID, "field \"model_type\" is missing; it must be \"llama\"");
    TRY(model_config_check(c, error));
    if (parts->head_size && parts->head_size != model_head_size(c))
        return error_set(
            error, INVALID,
            "field \"head_dim\" is %llu; it must be hidden_size / num_attention_heads, %u",
            (unsigned long long)parts->head_size, model_head_size(c));
    return OK;
}

enum status config_file_decode(struct bytes text, struct model_config *out, struct error *error) {
    struct json *json = NULL;
    const struct json_limits limits = {.size = CONFIG_FILE_MAX, .depth = 16};
    enum status status = json_parse(text, &limits, &json, error);
    if (status != OK) return status;
    const struct json_value *root = json_root(json);
    struct parts parts = {.config = {.norm_eps = 1e-6f}};
    if (root->type != JSON_OBJECT) status = error_set(error, INVALID, "it is not a JSON object");
    const struct json_value *context =
        root->type == JSON_OBJECT ? json_object_get(root, "max_position_embeddings") : NULL;
    if (context && context->type == JSON_NUMBER && context->is_u64)
        parts.config.context = (uint32_t)MIN(context->integer, (uint64_t)UINT32_MAX);
    for (size_t i = 0; status == OK && i < root->count; i++)
        status = read_member(&root->items[i], &parts, error);
    for (size_t i = 0; status == OK && i < COUNT_OF(numbers); i++)
        if (numbers[i].required && !json_object_get(root, numbers[i].name))
            status = error_set(error, INVALID, "field \"%s\" is missing", numbers[i].name);
    char quoted[128];
    if (status == OK && parts.unknown)
        log_info("config_key_passed_over",
                 "key=%s message=\"no known key that changes what a Llama computes\"",
                 log_quote(parts.unknown->key, quoted, sizeof quoted));
    json_close(json);
    if (status != OK) return status;
    if (parts.config.kv_heads == 0) parts.config.kv_heads = parts.config.heads;
    if (parts.config.rope_theta == 0.0f) parts.config.rope_theta = 10000.0f;
    TRY(check_parts(&parts, error));
    *out = parts.config;
    return OK;
}

static enum status read_end_token(const struct json_value *value, uint32_t *out,
                                  struct error *error) {
    if (value->type != JSON_NUMBER || !value->is_u64 || value->integer > UINT32_MAX)
        return error_set(error, INVALID,
                         "field \"eos_token_id\" holds something that is not a token");
    *out = (uint32_t)value->integer;
    return OK;
}

enum status config_file_end_tokens(struct bytes text, uint32_t out[static CONFIG_END_TOKENS],
                                   size_t *count, struct error *error) {
    struct json *json = NULL;
    const struct json_limits limits = {.size = CONFIG_FILE_MAX, .depth = 16};
    *count = 0;
    TRY(json_parse(text, &limits, &json, error));
    const struct json_value *value = json_object_get(json_root(json), "eos_token_id");
    enum status status = OK;
    if (value && value->type == JSON_ARRAY) {
        if (value->count > CONFIG_END_TOKENS)
            status =
                error_set(error, INVALID, "field \"eos_token_id\" lists %zu tokens", value->count);
        for (size_t i = 0; status == OK && i < value->count; i++)
            status = read_end_token(&value->items[i], &out[(*count)++], error);
    } else if (value && value->type != JSON_NULL) {
        status = read_end_token(value, &out[(*count)++], error);
    }
    json_close(json);
    return status;
}

/* --- writing ---------------------------------------------------------------------------------- */

/* The double whose shortest decimal is also the float's: 1e-5, not 9.99999974737875e-06. */
static double plain_double(float value) {
    char text[32];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value) break;
    }
    return strtod(text, NULL);
}

/* What says how the model computes, or how it is stored, is ours to write. */
static bool is_written_here(const char *name) {
    static const char *const own[] = {
        "architectures",       "model_type", "head_dim",     "rope_theta", "rope_parameters",
        "rope_scaling",        "dtype",      "rms_norm_eps", "hidden_act", "attention_bias",
        "tie_word_embeddings", "mlp_bias",   "torch_dtype",  NULL};
    for (size_t i = 0; i < COUNT_OF(numbers); i++)
        if (strcmp(name, numbers[i].name) == 0) return true;
    return is_listed(own, name) || name[0] == '_';
}

static void encode(const struct model_config *config, const char *dtype,
                   const struct json_value *other, struct buffer *out) {
    struct model_config c = *config;
    struct json_writer w = json_writer_of(out, true);
    json_begin_object(&w);
    json_key(&w, "architectures");
    json_begin_array(&w);
    json_text(&w, "LlamaForCausalLM");
    json_end_array(&w);
    json_put_text(&w, "model_type", "llama");
    for (size_t i = 0; i < COUNT_OF(numbers); i++) {
        json_key(&w, numbers[i].name);
        json_u64(&w, *number_of(&c, i));
    }
    json_put_u64(&w, "head_dim", model_head_size(config));
    double theta = plain_double(config->rope_theta);
    json_put_f64(&w, "rope_theta", theta);
    json_key(&w, "rope_parameters");
    json_begin_object(&w);
    json_put_text(&w, "rope_type", "default");
    json_put_f64(&w, "rope_theta", theta);
    json_end_object(&w);
    json_put_f64(&w, "rms_norm_eps", plain_double(config->norm_eps));
    json_put_bool(&w, "tie_word_embeddings", config->tied);
    json_put_text(&w, "hidden_act", "silu");
    json_put_bool(&w, "attention_bias", false);
    json_put_bool(&w, "mlp_bias", false);
    json_put_text(&w, "torch_dtype", dtype);
    static const char *const ends[] = {"bos_token_id", "eos_token_id"};
    for (size_t i = 0; i < COUNT_OF(ends); i++) {
        if (other && json_object_get(other, ends[i])) continue;
        json_key(&w, ends[i]);
        json_null(&w);
    }
    for (size_t i = 0; other && i < other->count; i++) {
        if (is_written_here(other->items[i].key)) continue;
        json_key(&w, other->items[i].key);
        json_copy(&w, &other->items[i]);
    }
    json_end_object(&w);
}

void config_file_encode(const struct model_config *config, const char *dtype, struct buffer *out) {
    encode(config, dtype, NULL, out);
}

enum status config_file_encode_onto(const struct model_config *config, const char *dtype,
                                    struct bytes other, struct buffer *out, struct error *error) {
    struct json *json = NULL;
    const struct json_limits limits = {.size = CONFIG_FILE_MAX, .depth = 16};
    if (other.size) TRY(json_parse(other, &limits, &json, error));
    const struct json_value *root = json ? json_root(json) : NULL;
    encode(config, dtype, root && root->type == JSON_OBJECT ? root : NULL, out);
    json_close(json);
    return OK;
}

enum status model_config_compare(const struct model_config *wanted, const struct model_config *got,
                                 struct error *error) {
    struct model_config a = *wanted, b = *got;
    for (size_t i = 0; i < COUNT_OF(numbers); i++)
        if (*number_of(&a, i) != *number_of(&b, i))
            return error_set(error, INVALID, "field \"%s\" is %u; it must be %u", numbers[i].name,
                             *number_of(&b, i), *number_of(&a, i));
    if (a.rope_theta != b.rope_theta)
        return error_set(error, INVALID, "field \"rope_theta\" is %g; it must be %g",
                         (double)b.rope_theta, (double)a.rope_theta);
    if (a.norm_eps != b.norm_eps)
        return error_set(error, INVALID, "field \"rms_norm_eps\" is %g; it must be %g",
                         (double)b.norm_eps, (double)a.norm_eps);
    if (a.tied != b.tied)
        return error_set(error, INVALID, "field \"tie_word_embeddings\" is %s; it must be %s",
                         b.tied ? "true" : "false", a.tied ? "true" : "false");
    return OK;
}
