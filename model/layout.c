/* Names, shapes and offsets of all tensors in the flat parameter vector, and the initial values
 * (model/layout.h). Every machine must get the same bits here: integers up to one multiplication,
 * no libm. */
#include "model/layout.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"

static const char MAGIC[] = "atoll layout 1\n";

/* s / sqrt(divisor) for s = 0.02, from integers alone: isqrt(0.0004 * 2^48 / divisor) / 2^24, one
 * conversion to float. */
float layout_initial_scale(uint64_t divisor) {
    uint64_t square = (UINT64_C(400) << 48) / (1000000 * divisor), root = 0;
    for (uint64_t bit = UINT64_C(1) << 28; bit; bit >>= 1)
        if ((root + bit) * (root + bit) <= square) root += bit;
    return (float)root / 16777216.0f;
}

static void layout_add(struct layout *layout, const char *name, uint32_t dimensions, uint32_t rows,
                       uint32_t columns, float scale) {
    struct layout_tensor *tensor = &layout->tensors[layout->tensor_count++];
    snprintf(tensor->name, sizeof tensor->name, "%s", name);
    tensor->dimensions = dimensions;
    tensor->shape[0] = rows;
    if (dimensions == 2) tensor->shape[1] = columns;
    tensor->offset = layout->count;
    tensor->count = (uint64_t)rows * columns;
    tensor->decays = dimensions == 2;
    tensor->initial_scale = scale;
    layout->count += tensor->count;
}

static void layout_add_layer(struct layout *layout, uint32_t layer) {
    const struct model_config *c = &layout->config;
    uint32_t kv_width = c->kv_heads * model_head_size(c);
    float scale = layout_initial_scale(1), residual = layout_initial_scale(2 * (uint64_t)c->layers);
    const struct {
        const char *name;
        uint32_t dimensions, rows, columns;
        float scale;
    } tensors[] = {
        {"input_layernorm", 1, c->hidden, 1, 0},
        {"self_attn.q_proj", 2, c->hidden, c->hidden, scale},
        {"self_attn.k_proj", 2, kv_width, c->hidden, scale},
        {"self_attn.v_proj", 2, kv_width, c->hidden, scale},
        {"self_attn.o_proj", 2, c->hidden, c->hidden, residual},
        {"post_attention_layernorm", 1, c->hidden, 1, 0},
        {"mlp.gate_proj", 2, c->ffn, c->hidden, scale},
        {"mlp.up_proj", 2, c->ffn, c->hidden, scale},
        {"mlp.down_proj", 2, c->hidden, c->ffn, residual},
    };
    for (size_t i = 0; i < COUNT_OF(tensors); i++) {
        char name[LAYOUT_NAME_SIZE];
        snprintf(name, sizeof name, "model.layers.%u.%s.weight", layer, tensors[i].name);
        layout_add(layout, name, tensors[i].dimensions, tensors[i].rows, tensors[i].columns,
                   tensors[i].scale);
    }
}

enum status layout_init(const struct model_config *config, struct layout *out,
                        struct error *error) {
    TRY(model_config_check(config, error));
    struct layout layout = {.built_in = true, .config = *config};
    layout.tensors = xcalloc(9 * (size_t)config->layers + 3, sizeof *layout.tensors);
    layout_add(&layout, "model.embed_tokens.weight", 2, config->vocabulary, config->hidden,
               layout_initial_scale(1));
    for (uint32_t layer = 0; layer < config->layers; layer++) layout_add_layer(&layout, layer);
    layout_add(&layout, "model.norm.weight", 1, config->hidden, 1, 0);
    if (!config->tied)
        layout_add(&layout, "lm_head.weight", 2, config->vocabulary, config->hidden,
                   layout_initial_scale(1));
    *out = layout;
    return OK;
}

void layout_deinit(struct layout *layout) {
    free(layout->tensors);
    free(layout->others);
    *layout = (struct layout){0};
}

const struct layout_tensor *layout_find(const struct layout *layout, const char *name) {
    for (uint32_t i = 0; i < layout->tensor_count; i++)
        if (strcmp(layout->tensors[i].name, name) == 0) return &layout->tensors[i];
    return NULL;
}

const struct layout_other *layout_find_other(const struct layout *layout, const char *name) {
    uint32_t from = 0, to = layout->other_count;
    while (from < to) {
        uint32_t middle = from + (to - from) / 2;
        int order = strcmp(layout->others[middle].name, name);
        if (order == 0) return &layout->others[middle];
        if (order < 0)
            from = middle + 1;
        else
            to = middle;
    }
    return NULL;
}

char *layout_shape_text(uint32_t dimensions, const uint64_t *shape,
                        char out[static LAYOUT_SHAPE_SIZE]) {
    size_t at = (size_t)snprintf(out, LAYOUT_SHAPE_SIZE, "[");
    for (uint32_t d = 0; d < dimensions; d++)
        at += (size_t)snprintf(out + at, LAYOUT_SHAPE_SIZE - at, "%s%llu", d ? ", " : "",
                               (unsigned long long)shape[d]);
    snprintf(out + at, LAYOUT_SHAPE_SIZE - at, "]");
    return out;
}

void layout_describe(const struct layout *layout, struct buffer *out) {
    const struct model_config *c = &layout->config;
    buffer_append(out, MAGIC, sizeof MAGIC - 1);
    const uint32_t numbers[] = {c->vocabulary, c->hidden, c->layers,  c->heads,
                                c->kv_heads,   c->ffn,    c->context, c->tied};
    for (size_t i = 0; i < COUNT_OF(numbers); i++) buffer_u32(out, numbers[i]);
    buffer_f32(out, c->rope_theta);
    buffer_f32(out, c->norm_eps);
    buffer_u64(out, layout->count);
    buffer_u32(out, layout->tensor_count);
    for (uint32_t i = 0; i < layout->tensor_count; i++) {
        const struct layout_tensor *tensor = &layout->tensors[i];
        buffer_u8(out, (uint8_t)strlen(tensor->name));
        buffer_append(out, tensor->name, strlen(tensor->name));
        buffer_u64(out, tensor->offset);
        buffer_u8(out, (uint8_t)tensor->dimensions);
        for (uint32_t d = 0; d < tensor->dimensions; d++)
            buffer_u32(out, (uint32_t)tensor->shape[d]);
    }
}

/* The settings at the front determine the rest, so a description is right if writing it anew gives
 * the same bytes. */
enum status layout_read(struct bytes description, struct layout *out, struct error *error) {
    struct reader reader = reader_of(description);
    struct bytes magic = reader_take(&reader, sizeof MAGIC - 1);
    if (reader.failed || memcmp(magic.data, MAGIC, sizeof MAGIC - 1) != 0)
        return error_set(error, INVALID, "not a layout description of version 1");
    struct model_config c = {0};
    uint32_t *numbers[] = {&c.vocabulary, &c.hidden, &c.layers, &c.heads,
                           &c.kv_heads,   &c.ffn,    &c.context};
    for (size_t i = 0; i < COUNT_OF(numbers); i++) *numbers[i] = reader_u32(&reader);
    c.tied = reader_u32(&reader) != 0;
    c.rope_theta = reader_f32(&reader);
    c.norm_eps = reader_f32(&reader);
    if (reader.failed)
        return error_set(error, INVALID, "layout description is cut off after %zu bytes",
                         description.size);
    struct layout layout = {0};
    TRY(layout_init(&c, &layout, error));
    struct buffer again = {0};
    layout_describe(&layout, &again);
    bool equal = bytes_equal(buffer_bytes(&again), description);
    buffer_deinit(&again);
    if (!equal) {
        layout_deinit(&layout);
        return error_set(error, INVALID, "layout description disagrees with its own settings");
    }
    *out = layout;
    return OK;
}

static enum status compare_tensors(const struct layout_tensor *a, const struct layout_tensor *b,
                                   struct error *error) {
    if (strcmp(a->name, b->name) != 0)
        return error_set(error, INVALID, "tensor \"%s\" against \"%s\"", a->name, b->name);
    if (a->dimensions == b->dimensions && memcmp(a->shape, b->shape, sizeof a->shape) == 0)
        return OK;
    char one[LAYOUT_SHAPE_SIZE], other[LAYOUT_SHAPE_SIZE];
    return error_set(error, INVALID, "tensor \"%s\" is %s against %s", a->name,
                     layout_shape_text(a->dimensions, a->shape, one),
                     layout_shape_text(b->dimensions, b->shape, other));
}

enum status layout_compare(const struct layout *a, const struct layout *b, struct error *error) {
    for (uint32_t i = 0; i < a->tensor_count && i < b->tensor_count; i++)
        TRY(compare_tensors(&a->tensors[i], &b->tensors[i], error));
    if (a->tensor_count != b->tensor_count) {
        const struct layout *more = a->tensor_count > b->tensor_count ? a : b;
        return error_set(error, INVALID, "tensor \"%s\" is in only one of the models",
                         more->tensors[MIN(a->tensor_count, b->tensor_count)].name);
    }
    const struct model_config *ca = &a->config, *cb = &b->config;
    const struct {
        const char *name;
        double a, b;
    } settings[] = {
        {"heads", ca->heads, cb->heads},
        {"kv_heads", ca->kv_heads, cb->kv_heads},
        {"context", ca->context, cb->context},
        {"rope_theta", (double)ca->rope_theta, (double)cb->rope_theta},
        {"norm_eps", (double)ca->norm_eps, (double)cb->norm_eps},
    };
    for (size_t i = 0; i < COUNT_OF(settings); i++)
        if (settings[i].a != settings[i].b)
            return error_set(error, INVALID, "%s is %g against %g", settings[i].name, settings[i].a,
                             settings[i].b);
    return OK;
}

static float initial_value(uint64_t seed, uint64_t index, float scale) {
    int32_t sum = 0;
    for (uint64_t word = 0; word < 3; word++) {
        uint64_t bits = random_hash(seed, 3 * index + word);
        sum += (int32_t)((bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) +
                         (bits >> 48));
    }
    /* the sum has 20 bits and the division is exact: one rounding */
    return (float)(sum - 393210) * (scale / 65536.0f);
}

void layout_initialise(const struct layout *layout, uint64_t seed, float *parameters) {
    for (uint32_t t = 0; t < layout->tensor_count; t++) {
        const struct layout_tensor *tensor = &layout->tensors[t];
        for (uint64_t i = tensor->offset; i < tensor->offset + tensor->count; i++)
            parameters[i] = tensor->initial_scale == 0.0f ? 1.0f
                            : tensor->initial_scale < 0.0f
                                ? 0.0f
                                : initial_value(seed, i, tensor->initial_scale);
    }
}
