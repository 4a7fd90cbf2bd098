/* Sampling with a key and value cache (model/generate.h): the transformer's forward pass again,
 * for one position at a time. */
#include "model/generate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "model/transformer.h"

struct generator {
    const struct layout *layout;
    const struct kernels *kernels;
    const float *parameters;
    void *memory; /* all below lies in it */
    uint32_t limit, at;
    struct transformer transformer;
    float *keys, *values; /* [layers][limit][kv heads * head size] */
    float *x, *normed, *qkv, *attention, *middle, *gate_up, *h; /* one row each */
    float *weights;                                             /* [limit] */
    float *logits;
    void *scratch;
};

static void generator_plan(struct generator *g, struct tensor_arena *arena) {
    const struct model_config *c = &g->layout->config;
    transformer_plan(&g->transformer, g->layout, g->kernels, g->limit, false, false, arena);
    uint64_t cache = (uint64_t)c->layers * g->limit * c->kv_heads * model_head_size(c);
    g->keys = tensor_arena_floats(arena, cache);
    g->values = tensor_arena_floats(arena, cache);
    g->x = tensor_arena_floats(arena, c->hidden);
    g->normed = tensor_arena_floats(arena, c->hidden);
    g->qkv = tensor_arena_floats(arena, model_qkv_width(c));
    g->attention = tensor_arena_floats(arena, c->hidden);
    g->middle = tensor_arena_floats(arena, c->hidden);
    g->gate_up = tensor_arena_floats(arena, 2 * (uint64_t)c->ffn);
    g->h = tensor_arena_floats(arena, c->ffn);
    g->weights = tensor_arena_floats(arena, g->limit);
    g->logits = tensor_arena_floats(arena, c->vocabulary);
    size_t scratch = MAX(g->kernels->linear_scratch_size(1, c->vocabulary, c->hidden),
                         g->kernels->linear_scratch_size(1, c->hidden, c->ffn));
    g->scratch = tensor_arena_take(
        arena, MAX(scratch, g->kernels->linear_scratch_size(1, 2 * c->ffn, c->hidden)), 1);
}

enum status generator_create(const struct layout *layout, const float *parameters, uint32_t limit,
                             const char *kernels, struct generator **out, struct error *error) {
    if (limit < 1 || limit > layout->config.context)
        return error_set(error, INVALID, "%u tokens; the model's context is %u", limit,
                         layout->config.context);
    struct generator *g = xcalloc(1, sizeof *g);
    *g = (struct generator){.layout = layout, .parameters = parameters, .limit = limit};
    struct tensor_arena arena = {0};
    enum status status = kernels_find(kernels, &g->kernels, error);
    if (status == OK) {
        generator_plan(g, &arena);
        status = memory_try(arena.used, 1, &g->memory, error);
    }
    if (status != OK) {
        generator_destroy(g);
        return status;
    }
    arena = (struct tensor_arena){.base = g->memory};
    generator_plan(g, &arena);
    for (uint32_t job = 0; job < transformer_pack_jobs(&g->transformer); job++)
        transformer_pack(&g->transformer, parameters, job);
    *out = g;
    return OK;
}

void generator_destroy(struct generator *g) {
    if (!g) return;
    free(g->memory);
    free(g);
}

static void linear(struct generator *g, const struct matrix *m, const float *x, const float *add,
                   float *y) {
    g->kernels->linear_forward(1, m->out, m->in, x, m->in, m->forward, add, y, m->out, g->scratch);
}

static float dot(const float *a, const float *b, uint32_t count) {
    float sum = 0.0f;
    for (uint32_t i = 0; i < count; i++) sum += a[i] * b[i];
    return sum;
}

/* One query row against the cache. Plain loops: the matrices dwarf it. */
static void attend(struct generator *g, const float *keys, const float *values) {
    const struct model_config *c = &g->layout->config;
    uint32_t size = model_head_size(c), width = c->kv_heads * size, group = c->heads / c->kv_heads,
             seen = g->at + 1;
    float scale = 1.0f / sqrtf((float)size);
    for (uint32_t head = 0; head < c->heads; head++) {
        const float *q = g->qkv + head * size;
        uint32_t column = head / group * size;
        float top = -INFINITY, sum = 0.0f, *out = g->attention + head * size;
        for (uint32_t i = 0; i < seen; i++) {
            g->weights[i] = dot(q, keys + (size_t)i * width + column, size) * scale;
            top = fmaxf(top, g->weights[i]);
        }
        for (uint32_t i = 0; i < seen; i++) sum += g->weights[i] = expf(g->weights[i] - top);
        for (uint32_t j = 0; j < size; j++) out[j] = 0.0f;
        for (uint32_t i = 0; i < seen; i++)
            for (uint32_t j = 0; j < size; j++)
                out[j] += g->weights[i] / sum * values[(size_t)i * width + column + j];
    }
}

static void read_layer(struct generator *g, uint32_t index) {
    const struct model_config *c = &g->layout->config;
    const struct transformer_layer *layer = &g->transformer.layers[index];
    uint32_t size = model_head_size(c), width = c->kv_heads * size;
    float *keys = g->keys + (size_t)index * g->limit * width,
          *values = g->values + (size_t)index * g->limit * width, rstd;
    g->kernels->norm_forward(1, c->hidden, c->norm_eps, g->x, g->parameters + layer->norm1,
                             g->normed, &rstd);
    linear(g, &layer->qkv, g->normed, NULL, g->qkv);
    size_t angle = (size_t)g->at * size / 2;
    g->kernels->rope(1, model_qkv_width(c), c->heads + c->kv_heads, size,
                     g->transformer.cos + angle, g->transformer.sin + angle, 1.0f, g->qkv);
    memcpy(keys + (size_t)g->at * width, g->qkv + c->hidden, width * sizeof *keys);
    memcpy(values + (size_t)g->at * width, g->qkv + c->hidden + width, width * sizeof *values);
    attend(g, keys, values);
    linear(g, &layer->o, g->attention, g->x, g->middle);
    g->kernels->norm_forward(1, c->hidden, c->norm_eps, g->middle, g->parameters + layer->norm2,
                             g->normed, &rstd);
    linear(g, &layer->gate_up, g->normed, NULL, g->gate_up);
    g->kernels->swiglu_forward(1, c->ffn, g->gate_up, g->h);
    linear(g, &layer->down, g->h, g->middle, g->x);
}

enum status generator_read(struct generator *g, uint32_t token, const float **logits,
                           struct error *error) {
    const struct model_config *c = &g->layout->config;
    if (token >= c->vocabulary)
        return error_set(error, INVALID, "token %u is beyond the vocabulary of %u", token,
                         c->vocabulary);
    if (g->at >= g->limit)
        return error_set(error, INVALID, "the limit of %u tokens is reached", g->limit);
    memcpy(g->x, g->parameters + g->transformer.embedding + (uint64_t)token * c->hidden,
           c->hidden * sizeof *g->x);
    for (uint32_t i = 0; i < c->layers; i++) read_layer(g, i);
    float rstd;
    g->kernels->norm_forward(1, c->hidden, c->norm_eps, g->x, g->parameters + g->transformer.norm,
                             g->normed, &rstd);
    linear(g, &g->transformer.head, g->normed, NULL, g->logits);
    g->at++;
    *logits = g->logits;
    return OK;
}

/* --- sampling --------------------------------------------------------------------------------- */

struct token_candidate {
    float weight; /* e^((logit - top) / temperature) */
    uint32_t token;
};

static int heavier_first(const void *a, const void *b) {
    const struct token_candidate *x = a, *y = b;
    if (x->weight != y->weight) return x->weight < y->weight ? 1 : -1;
    return x->token < y->token ? -1 : 1;
}

static uint32_t pick(const struct generate_options *o, const float *logits, uint32_t count,
                     struct token_candidate *candidates, struct random *random) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < count; i++)
        if (logits[i] > logits[best]) best = i;
    if (o->temperature == 0.0f) return (uint32_t)best;
    for (uint32_t i = 0; i < count; i++)
        candidates[i] =
            (struct token_candidate){expf((logits[i] - logits[best]) / o->temperature), i};
    if (o->top_k || o->top_p < 1.0f) qsort(candidates, count, sizeof *candidates, heavier_first);
    if (o->top_k) count = MIN(count, o->top_k);
    double sum = 0;
    for (uint32_t i = 0; i < count; i++) sum += (double)candidates[i].weight;
    if (o->top_p < 1.0f) { /* the fewest whose weight reaches top_p of the sum */
        double kept = 0;
        uint32_t keep = 0;
        while (keep < count && kept < (double)o->top_p * sum)
            kept += (double)candidates[keep++].weight;
        count = MAX(keep, 1u);
        sum = kept;
    }
    double left = random_unit(random) * sum;
    for (uint32_t i = 0; i + 1 < count; i++)
        if ((left -= (double)candidates[i].weight) < 0) return (uint32_t)candidates[i].token;
    return (uint32_t)candidates[count - 1].token;
}

enum status generate(const struct layout *layout, const float *parameters,
                     const struct generate_options *options, const uint32_t *prompt,
                     uint32_t prompt_count, uint32_t *out, uint32_t count, struct error *error) {
    if (!(options->temperature >= 0.0f && options->temperature <= 100.0f))
        return error_set(error, INVALID, "temperature is %g; it must be in 0..100",
                         (double)options->temperature);
    if (!(options->top_p > 0.0f && options->top_p <= 1.0f))
        return error_set(error, INVALID, "top_p is %g; it must be above 0 and at most 1",
                         (double)options->top_p);
    if (prompt_count == 0) return error_set(error, INVALID, "the prompt is empty");
    if ((uint64_t)prompt_count + count > layout->config.context)
        return error_set(error, INVALID,
                         "%u tokens of prompt and %u more; the model's context is %u", prompt_count,
                         count, layout->config.context);
    struct generator *generator;
    TRY(generator_create(layout, parameters, prompt_count + count, NULL, &generator, error));
    struct token_candidate *candidates = xmalloc(layout->config.vocabulary * sizeof *candidates);
    struct random random;
    random_init(&random, options->seed);
    const float *logits = NULL;
    enum status status = OK;
    for (uint32_t i = 0; i < prompt_count && status == OK; i++)
        status = generator_read(generator, prompt[i], &logits, error);
    for (uint32_t i = 0; i < count && status == OK; i++) {
        for (uint32_t j = 0; j < layout->config.vocabulary; j++)
            if (!isfinite(logits[j]))
                status = error_set(error, CORRUPT, "logit %u is not finite", j);
        if (status != OK) break;
        out[i] = pick(options, logits, layout->config.vocabulary, candidates, &random);
        if (options->each && !options->each(options->context, out[i])) break;
        if (i + 1 < count) status = generator_read(generator, out[i], &logits, error);
    }
    free(candidates);
    generator_destroy(generator);
    return status;
}
