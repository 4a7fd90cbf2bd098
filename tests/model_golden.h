/* Reads tests/golden/model_*.bin, which tests/golden/model_golden.py writes and describes. */
#ifndef TESTS_MODEL_GOLDEN_H
#define TESTS_MODEL_GOLDEN_H

#include "base/file.h"
#include "base/memory.h"
#include "model/config.h"
#include "tests/test.h"

static const char *const golden_names[] = {"tied_gqa", "untied", "long"};

struct golden {
    struct model_config config;
    uint32_t sequences, length;
    uint32_t *tokens; /* [sequences][length + 1] */
    uint64_t count;
    float *parameters, *logits, *gradient, *stepped;
    double loss, norm;
};

static inline float *golden_floats(struct reader *reader, uint64_t count) {
    float *out = xmalloc(count * sizeof *out);
    for (uint64_t i = 0; i < count; i++) out[i] = reader_f32(reader);
    return out;
}

static inline struct golden golden_read(const char *name) {
    struct error error = {0};
    char *path = xformat("%s/tests/golden/model_%s.bin", test_root(), name);
    struct buffer file = {0};
    CHECK_OK(file_read(path, 1 << 20, &file, &error));
    struct reader r = reader_of(buffer_bytes(&file));
    struct golden g = {0};
    uint32_t *numbers[] = {&g.config.vocabulary, &g.config.hidden,   &g.config.layers,
                           &g.config.heads,      &g.config.kv_heads, &g.config.ffn,
                           &g.config.context};
    for (size_t i = 0; i < COUNT_OF(numbers); i++) *numbers[i] = reader_u32(&r);
    g.config.tied = reader_u32(&r) != 0;
    g.sequences = reader_u32(&r);
    g.length = reader_u32(&r);
    g.config.rope_theta = reader_f32(&r);
    g.config.norm_eps = reader_f32(&r);
    size_t tokens = (size_t)g.sequences * (g.length + 1);
    g.tokens = xmalloc(tokens * sizeof *g.tokens);
    for (size_t i = 0; i < tokens; i++) g.tokens[i] = reader_u16(&r);
    g.count = reader_u64(&r);
    CHECK(!r.failed && g.count < 1 << 20);
    g.parameters = golden_floats(&r, g.count);
    g.logits = golden_floats(&r, (uint64_t)g.sequences * g.length * g.config.vocabulary);
    g.loss = reader_f64(&r);
    g.norm = reader_f64(&r);
    g.gradient = golden_floats(&r, g.count);
    g.stepped = golden_floats(&r, g.count);
    CHECK_OK(reader_finish(&r, path, &error));
    buffer_deinit(&file);
    free(path);
    return g;
}

static inline void golden_free(struct golden *g) {
    free(g->tokens);
    free(g->parameters);
    free(g->logits);
    free(g->gradient);
    free(g->stepped);
}

#endif
