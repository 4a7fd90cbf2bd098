#include "model/layout.h"

#include "base/memory.h"
#include "tests/test.h"

static const struct model_config shape = {.vocabulary = 256,
                                          .hidden = 32,
                                          .layers = 2,
                                          .heads = 4,
                                          .kv_heads = 2,
                                          .ffn = 72,
                                          .context = 64,
                                          .rope_theta = 10000,
                                          .norm_eps = 1e-5f,
                                          .tied = true};

static struct layout layout_of(struct model_config config) {
    struct error error = {0};
    struct layout layout;
    CHECK_OK(layout_init(&config, &layout, &error));
    return layout;
}

TEST(tensors_follow_each_other_without_gaps_under_hugging_face_names) {
    struct model_config untied = shape;
    untied.tied = false;
    struct layout layout = layout_of(untied);
    CHECK_EQUAL(layout.tensor_count, 1 + 9 * 2 + 1 + 1);
    uint64_t at = 0;
    for (uint32_t i = 0; i < layout.tensor_count; i++) {
        CHECK_EQUAL(layout.tensors[i].offset, at);
        CHECK_EQUAL(layout.tensors[i].count,
                    layout.tensors[i].shape[0] *
                        (layout.tensors[i].dimensions == 2 ? layout.tensors[i].shape[1] : 1));
        CHECK(layout.tensors[i].decays == (layout.tensors[i].dimensions == 2));
        at += layout.tensors[i].count;
    }
    CHECK_EQUAL(layout.count, at);
    CHECK_TEXT(layout.tensors[0].name, "model.embed_tokens.weight");
    CHECK_TEXT(layout.tensors[3].name, "model.layers.0.self_attn.k_proj.weight");
    CHECK_TEXT(layout.tensors[20].name, "lm_head.weight");
    const struct layout_tensor *k = layout_find(&layout, "model.layers.1.self_attn.k_proj.weight");
    CHECK(k && k->shape[0] == 16 && k->shape[1] == 32);
    CHECK(!layout_find(&layout, "model.layers.2.self_attn.k_proj.weight"));
    layout_deinit(&layout);
    struct layout tied = layout_of(shape);
    CHECK(!layout_find(&tied, "lm_head.weight"));
    layout_deinit(&tied);
}

TEST(a_description_reads_back_as_the_same_layout) {
    struct error error = {0};
    struct layout layout = layout_of(shape), again;
    struct buffer one = {0}, two = {0};
    layout_describe(&layout, &one);
    CHECK_OK(layout_read(buffer_bytes(&one), &again, &error));
    CHECK_OK(layout_compare(&layout, &again, &error));
    layout_describe(&again, &two);
    CHECK(bytes_equal(buffer_bytes(&one), buffer_bytes(&two)));
    buffer_deinit(&one);
    buffer_deinit(&two);
    layout_deinit(&layout);
    layout_deinit(&again);
}

TEST(a_description_that_is_cut_or_changed_anywhere_is_refused) {
    struct error error = {0};
    struct layout layout = layout_of(shape), again;
    struct buffer bytes = {0};
    layout_describe(&layout, &bytes);
    for (size_t size = 0; size < bytes.size; size++)
        CHECK_STATUS(layout_read(bytes_of(bytes.data, size), &again, &error), INVALID);
    for (size_t i = 0; i < bytes.size; i++) {
        bytes.data[i] ^= 0x40;
        enum status status = layout_read(buffer_bytes(&bytes), &again, &error);
        if (status == OK) { /* only a setting without a tensor may still make sense, and then it is
                               another layout */
            CHECK(i < 60);
            CHECK_STATUS(layout_compare(&layout, &again, &error), INVALID);
            layout_deinit(&again);
        }
        bytes.data[i] ^= 0x40;
    }
    buffer_u8(&bytes, 0);
    CHECK_STATUS(layout_read(buffer_bytes(&bytes), &again, &error), INVALID);
    buffer_deinit(&bytes);
    layout_deinit(&layout);
}

TEST(a_comparison_names_the_first_tensor_or_setting_that_differs) {
    struct error error = {0};
    struct layout a = layout_of(shape);
    const struct {
        struct model_config config;
        const char *name;
    } others[] = {
        {{256, 32, 2, 4, 2, 80, 64, 10000, 1e-5f, true}, "model.layers.0.mlp.gate_proj.weight"},
        {{256, 32, 2, 4, 4, 72, 64, 10000, 1e-5f, true}, "model.layers.0.self_attn.k_proj.weight"},
        {{257, 32, 2, 4, 2, 72, 64, 10000, 1e-5f, true}, "model.embed_tokens.weight"},
        {{256, 32, 3, 4, 2, 72, 64, 10000, 1e-5f, true}, "model.layers.2.input_layernorm.weight"},
        {{256, 32, 2, 4, 2, 72, 64, 10000, 1e-5f, false}, "lm_head.weight"},
        {{256, 32, 2, 8, 4, 72, 64, 10000, 1e-5f, true}, "heads"},
        {{256, 32, 2, 4, 2, 72, 65, 10000, 1e-5f, true}, "context"},
        {{256, 32, 2, 4, 2, 72, 64, 10001, 1e-5f, true}, "rope_theta"},
        {{256, 32, 2, 4, 2, 72, 64, 10000, 2e-5f, true}, "norm_eps"},
    };
    for (size_t i = 0; i < COUNT_OF(others); i++) {
        struct layout b = layout_of(others[i].config);
        CHECK_STATUS(layout_compare(&a, &b, &error), INVALID);
        CHECK_CONTAINS(error.message, others[i].name);
        layout_deinit(&b);
    }
    CHECK_OK(layout_compare(&a, &a, &error));
    layout_deinit(&a);
}

/* The values are protocol: a run's version 0 is its seed. These came from an independent program.
 */
TEST(initial_parameters_have_these_bits_on_every_machine) {
    struct layout layout = layout_of(shape);
    float *parameters = xmalloc(layout.count * sizeof *parameters);
    layout_initialise(&layout, 7, parameters);
    const struct {
        size_t index;
        uint32_t bits;
    } wanted[] = {{0, 0xbcbca1e0},
                  {1, 0xbc7ee50f},
                  {8191, 0xbca40cc3},
                  {10272, 0xbb279eae},
                  {11295, 0x3ae65c1b}};
    for (size_t i = 0; i < COUNT_OF(wanted); i++)
        CHECK_MEMORY(&parameters[wanted[i].index], &wanted[i].bits, 4);
    double sum = 0, squares = 0;
    for (size_t i = 0; i < 256 * 32; i++)
        sum += (double)parameters[i], squares += pow((double)parameters[i], 2);
    CHECK_NEAR(sum / 8192, 0, 0.001);
    CHECK_NEAR(sqrt(squares / 8192), 0.02, 0.001);
    CHECK(parameters[8192] == 1.0f); /* the first norm */
    float first = parameters[0];
    layout_initialise(&layout, 8, parameters);
    CHECK(parameters[0] != first);
    free(parameters);
    layout_deinit(&layout);
}
