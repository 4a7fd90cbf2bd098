#include "base/random.h"
#include "kernels/kernels.h"
#include "model/generate.h"
#include "model/transformer.h"
#include "tests/model_golden.h"

/* bfloat16 products keep 8 bits of their inputs. */
static double loosened(const struct kernels *k, double tolerance) {
    return strstr(k->name, "bf16") || strstr(k->name, "amx") ? tolerance * 4000 : tolerance;
}

struct model {
    struct layout layout;
    void *memory;
    struct transformer transformer;
    struct workspace workspace;
};

static void model_make(struct model *m, const struct model_config *config, const struct kernels *k,
                       uint32_t sequences, uint32_t length, const float *parameters) {
    struct error error = {0};
    CHECK_OK(layout_init(config, &m->layout, &error));
    struct tensor_arena arena = {0};
    m->memory = NULL;
    for (int pass = 0; pass < 2; pass++) {
        if (pass) CHECK_OK(memory_try(arena.used, 1, &m->memory, &error));
        arena = (struct tensor_arena){.base = m->memory};
        transformer_plan(&m->transformer, &m->layout, k, length, true, false, &arena);
        workspace_plan(&m->workspace, &m->transformer, sequences, &arena);
    }
    for (uint32_t job = 0; job < transformer_pack_jobs(&m->transformer); job++)
        transformer_pack(&m->transformer, parameters, job);
}

static void model_free(struct model *m) {
    free(m->memory);
    layout_deinit(&m->layout);
}

TEST(loss_and_gradient_match_the_golden_vectors_on_every_table) {
    const struct kernels *k;
    for (size_t n = 0; n < COUNT_OF(golden_names); n++) {
        struct golden g = golden_read(golden_names[n]);
        for (size_t t = 0; (k = kernels_at(t)); t++) {
            struct model m;
            model_make(&m, &g.config, k, g.sequences, g.length, g.parameters);
            CHECK_EQUAL(m.layout.count, g.count);
            float *gradient = xcalloc(g.count, sizeof *gradient);
            double tokens = (double)g.sequences * g.length;
            double loss =
                transformer_run(&m.transformer, &m.workspace, g.parameters, g.tokens, g.sequences,
                                g.length, (float)(1 / tokens), gradient, false);
            CHECK_NEAR(loss / tokens, g.loss, loosened(k, 2e-6));
            double off = 0;
            for (uint64_t i = 0; i < g.count; i++) {
                off += pow((double)gradient[i] - (double)g.gradient[i], 2);
                CHECK_NEAR(gradient[i], g.gradient[i], loosened(k, 3e-6));
            }
            CHECK(sqrt(off) <= loosened(k, 4e-6) * g.norm);
            CHECK(transformer_run(&m.transformer, &m.workspace, g.parameters, g.tokens, g.sequences,
                                  g.length, 0, NULL, false) == loss);
            float *fresh = xmalloc(g.count * sizeof *fresh);
            for (uint64_t i = 0; i < g.count; i++) fresh[i] = NAN;
            CHECK(transformer_run(&m.transformer, &m.workspace, g.parameters, g.tokens, g.sequences,
                                  g.length, (float)(1 / tokens), fresh, true) == loss);
            for (uint64_t i = 0; i < g.count; i++) CHECK(fresh[i] == gradient[i]);
            free(fresh);
            free(gradient);
            model_free(&m);
        }
        golden_free(&g);
    }
}

TEST(a_token_at_a_time_gives_the_golden_logits_on_every_table) {
    struct error error = {0};
    const struct kernels *k;
    for (size_t n = 0; n < COUNT_OF(golden_names); n++) {
        struct golden g = golden_read(golden_names[n]);
        struct layout layout;
        CHECK_OK(layout_init(&g.config, &layout, &error));
        for (size_t t = 0; (k = kernels_at(t)); t++)
            for (uint32_t s = 0; s < g.sequences; s++) {
                struct generator *generator;
                CHECK_OK(
                    generator_create(&layout, g.parameters, g.length, k->name, &generator, &error));
                for (uint32_t i = 0; i < g.length; i++) {
                    const float *logits,
                        *wanted = g.logits + ((size_t)s * g.length + i) * g.config.vocabulary;
                    CHECK_OK(generator_read(generator, g.tokens[s * (g.length + 1) + i], &logits,
                                            &error));
                    for (uint32_t j = 0; j < g.config.vocabulary; j++)
                        CHECK_NEAR(logits[j], wanted[j], loosened(k, 4e-5));
                }
                generator_destroy(generator);
            }
        layout_deinit(&layout);
        golden_free(&g);
    }
}

/* Central differences along random directions: catches what the golden shapes cannot, such as sizes
 * past one tile. */
TEST(the_gradient_is_that_of_the_loss_for_a_larger_shape) {
    const struct model_config config = {.vocabulary = 300,
                                        .hidden = 72,
                                        .layers = 2,
                                        .heads = 6,
                                        .kv_heads = 3,
                                        .ffn = 100,
                                        .context = 64,
                                        .rope_theta = 10000,
                                        .norm_eps = 1e-5f,
                                        .tied = true};
    enum { SEQUENCES = 3, LENGTH = 50 };
    const struct kernels *k;
    struct error error = {0};
    struct layout layout;
    CHECK_OK(layout_init(&config, &layout, &error));
    float *parameters = xmalloc(layout.count * sizeof *parameters),
          *gradient = xcalloc(layout.count, sizeof *gradient);
    float *moved = xmalloc(layout.count * sizeof *moved);
    layout_initialise(&layout, 5, parameters);
    for (uint64_t i = 0; i < layout.count; i++) parameters[i] *= 4;
    uint32_t tokens[SEQUENCES * (LENGTH + 1)];
    for (size_t i = 0; i < COUNT_OF(tokens); i++) tokens[i] = (uint16_t)(random_hash(1, i) % 300);
    for (size_t t = 0; (k = kernels_at(t)); t++) {
        if (strstr(k->name, "bf16") || strstr(k->name, "amx"))
            continue; /* too coarse for differences */
        struct model m;
        model_make(&m, &config, k, SEQUENCES, LENGTH, parameters);
        memset(gradient, 0, layout.count * sizeof *gradient);
        double loss = transformer_run(&m.transformer, &m.workspace, parameters, tokens, SEQUENCES,
                                      LENGTH, 1, gradient, false);
        CHECK(isfinite(loss));
        for (uint32_t tensor = 0; tensor < layout.tensor_count; tensor++) {
            /* Move one tensor along its own gradient: the loss must change by |gradient|^2 * step.
             */
            const struct layout_tensor *moving = &layout.tensors[tensor];
            double square = 0, change[2];
            for (uint64_t i = moving->offset; i < moving->offset + moving->count; i++)
                square += pow((double)gradient[i], 2);
            CHECK(square > 0);
            double step = 0.4 / sqrt(square);
            step = fmin(step, 0.005 / square * loss);
            for (int side = 0; side < 2; side++) {
                memcpy(moved, parameters, layout.count * sizeof *moved);
                for (uint64_t i = moving->offset; i < moving->offset + moving->count; i++)
                    moved[i] += (float)((side ? step : -step) * (double)gradient[i]);
                for (uint32_t job = 0; job < transformer_pack_jobs(&m.transformer); job++)
                    transformer_pack(&m.transformer, moved, job);
                change[side] = transformer_run(&m.transformer, &m.workspace, moved, tokens,
                                               SEQUENCES, LENGTH, 0, NULL, false);
            }
            double slope = (change[1] - change[0]) / (2 * step * square);
            if (!(fabs(slope - 1) < 0.02))
                test_failed(__FILE__, __LINE__, "%s: %s has slope %g", k->name, moving->name,
                            slope);
        }
        model_free(&m);
    }
    free(parameters);
    free(gradient);
    free(moved);
    layout_deinit(&layout);
}
