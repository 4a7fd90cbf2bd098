#include "model/checkpoint.h"

#include <unistd.h>

#include "model/config_file.h"
#include "model/export.h"
#include "model/generate.h"
#include "tests/model_golden.h"
#include "tests/safetensors_write_as.h"

static const struct model_config shape = {.vocabulary = 12,
                                          .hidden = 8,
                                          .layers = 2,
                                          .heads = 4,
                                          .kv_heads = 2,
                                          .ffn = 10,
                                          .context = 16,
                                          .rope_theta = 500.0f,
                                          .norm_eps = 1e-5f,
                                          .tied = true};

static char *place(const char *name) { return file_join(test_directory(), name); }

static void write_file(const char *directory, const char *name, const char *text) {
    struct error error = {0};
    char *path = file_join(directory, name);
    CHECK_OK(file_write(path, bytes_of(text, strlen(text)), 0644, &error));
    free(path);
}

static struct buffer read_file(const char *directory, const char *name) {
    struct error error = {0};
    struct buffer out = {0};
    char *path = file_join(directory, name);
    CHECK_OK(file_read(path, 1 << 20, &out, &error));
    free(path);
    return out;
}

TEST(sharded_and_whole_exports_come_back_as_the_same_tensors_and_bytes) {
    struct error error = {0};
    for (int tied = 0; tied < 2; tied++)
        for (uint64_t shard_size = 0; shard_size <= 600; shard_size += 300)
            for (int dtype = DTYPE_F32; dtype <= DTYPE_F16; dtype++) {
                struct model_config config = shape;
                config.tied = tied;
                struct layout layout, back;
                CHECK_OK(layout_init(&config, &layout, &error));
                float *values = xmalloc(layout.count * sizeof *values), *first, *second;
                layout_initialise(&layout, 3, values);
                const enum tensor_dtype stored = (enum tensor_dtype)dtype;
                const struct export_options options = {
                    .version = 4, .dtype = &stored, .shard_size = shard_size};
                char *once = place("once"), *twice = place("twice");
                CHECK_OK(export_model_as(once, &layout, values, &options, &error));
                CHECK_OK(checkpoint_load(once, &back, &first, &error));
                CHECK_OK(layout_compare(&layout, &back, &error));
                if (dtype == DTYPE_F32) CHECK_MEMORY(values, first, layout.count * sizeof *values);
                for (uint64_t i = 0; i < layout.count; i++)
                    CHECK_NEAR(first[i], values[i],
                               fabsf(values[i]) * (dtype == DTYPE_F32 ? 0 : 0.00391f) + 1e-7f);
                layout_deinit(&back);
                CHECK_OK(export_model_as(twice, &layout, first, &options, &error));
                CHECK_OK(checkpoint_load(twice, &back, &second, &error));
                CHECK_MEMORY(first, second, layout.count * sizeof *first);
                const char *name =
                    shard_size ? "model.safetensors.index.json" : "model.safetensors";
                struct buffer a = read_file(once, name), b = read_file(twice, name);
                CHECK(bytes_equal(buffer_bytes(&a), buffer_bytes(&b)));
                buffer_deinit(&a);
                buffer_deinit(&b);
                free(once);
                free(twice);
                free(values);
                free(first);
                free(second);
                layout_deinit(&back);
                layout_deinit(&layout);
            }
}

TEST(exported_logits_are_those_of_transformers_within_1e_4) {
    struct error error = {0};
    for (size_t n = 0; n < COUNT_OF(golden_names); n++) {
        struct golden g = golden_read(golden_names[n]);
        struct layout layout, back;
        float *parameters;
        char *directory = place("golden");
        CHECK_OK(layout_init(&g.config, &layout, &error));
        const struct export_options options = {.version = -1, .shard_size = 1000};
        CHECK_OK(export_model_as(directory, &layout, g.parameters, &options, &error));
        CHECK_OK(checkpoint_load(directory, &back, &parameters, &error));
        for (uint32_t s = 0; s < g.sequences; s++) {
            struct generator *generator;
            CHECK_OK(generator_create(&back, parameters, g.length, "portable", &generator, &error));
            for (uint32_t i = 0; i < g.length; i++) {
                const float *logits;
                CHECK_OK(
                    generator_read(generator, g.tokens[s * (g.length + 1) + i], &logits, &error));
                for (uint32_t v = 0; v < g.config.vocabulary; v++)
                    CHECK_NEAR(logits[v],
                               g.logits[((uint64_t)s * g.length + i) * g.config.vocabulary + v],
                               1e-4);
            }
            generator_destroy(generator);
        }
        free(parameters);
        free(directory);
        layout_deinit(&layout);
        layout_deinit(&back);
        golden_free(&g);
    }
}

TEST(values_round_to_nearest_even_and_what_does_not_fit_is_refused) {
    struct error error = {0};
    struct layout layout;
    CHECK_OK(layout_init(&shape, &layout, &error));
    float *values = xcalloc(layout.count, sizeof *values),
          *back = xcalloc(layout.count, sizeof *back);
    const struct {
        enum tensor_dtype dtype;
        float in[6], out[6];
    } cases[] = {
        {DTYPE_BF16,
         {1.00390625f, 1.01171875f, -3.39e38f, 1e-40f, 0.1f, -0.0f},
         {1.0f, 1.015625f, -3.389531e38f, 9.18355e-41f, 0.10009765625f, -0.0f}},
        {DTYPE_F16,
         {1.00048828125f, 1.00146484375f, 65519.0f, 0x1p-25f, 0x1.8p-24f, 0x1.ffep-15f},
         {1.0f, 1.001953125f, 65504.0f, 0.0f, 0x1p-23f, 0x1p-14f}},
    };
    char *path = place("rounded.safetensors");
    for (size_t c = 0; c < COUNT_OF(cases); c++) {
        memcpy(values, cases[c].in, sizeof cases[c].in);
        uint32_t *held = xcalloc(layout.tensor_count + 1, sizeof *held);
        CHECK_OK(write_as(path, &layout, values, cases[c].dtype, -1, &error));
        CHECK_OK(safetensors_read_part(path, &layout, back, 1, held, &error));
        for (int i = 0; i < 6; i++)
            CHECK_NEAR(back[i], cases[c].out[i], fabsf(cases[c].out[i]) * 1e-6f);
        free(held);
        values[0] = c == 0 ? 3.4e38f : 65520.0f; /* one more rounds to infinity */
        if (c == 0) values[0] = 3.4028234e38f;
        CHECK_STATUS(write_as(path, &layout, values, cases[c].dtype, -1, &error), INVALID);
        CHECK_CONTAINS(error.message, "does not fit");
        CHECK_CONTAINS(error.message, "model.embed_tokens.weight");
    }
    free(path);
    free(values);
    free(back);
    layout_deinit(&layout);
}

static float first_value(const char *directory, const struct layout *layout, uint32_t tensor) {
    struct error error = {0};
    float *values = xcalloc(layout->count, sizeof *values);
    CHECK_OK(checkpoint_read(directory, layout, values, &error));
    float value = values[layout->tensors[tensor].offset];
    free(values);
    return value;
}

TEST(a_tensor_that_has_outgrown_its_type_is_exported_as_f32_alone_or_in_several_files) {
    static const char text[] = "atoll tensors 1\ntrained F16 [3] a\ntrained F16 [3] b\n"
                               "trained BF16 [2] c\ntied [a] d\n";
    struct error error = {0};
    struct layout layout;
    CHECK_OK(layout_parse(bytes_of(text, sizeof text - 1), &layout, &error));
    float values[] = {1, 65520, 3, 4, 65519, 6, 3.4028234e38f, 8};
    for (uint64_t shard_size = 0; shard_size <= 8; shard_size += 8) {
        const struct export_options options = {.version = 2, .shard_size = shard_size};
        char *directory = place(shard_size ? "cut" : "whole");
        CHECK_OK(export_model_as(directory, &layout, values, &options, &error));
        struct checkpoint_listing listing;
        CHECK_OK(checkpoint_list(directory, &listing, &error));
        CHECK_EQUAL(listing.count, 4);
        CHECK_EQUAL(listing.file_count, shard_size ? 4 : 1);
        for (uint32_t i = 0; i < listing.count; i++) {
            const struct safetensors_entry *entry = &listing.tensors[i].entry;
            CHECK_TEXT(entry->type, entry->name[0] == 'b' ? "F16" : "F32");
        }
        checkpoint_listing_deinit(&listing);
        CHECK(first_value(directory, &layout, 0) == 1 && first_value(directory, &layout, 1) == 4);
        CHECK(first_value(directory, &layout, 2) == 3.4028234e38f);
        if (shard_size) {
            struct buffer index = read_file(directory, CHECKPOINT_INDEX);
            buffer_u8(&index, 0);
            CHECK_CONTAINS((char *)index.data, "\"total_size\": 38"); /* 12 + 6 + 8 + 12 */
            buffer_deinit(&index);
        }
        free(directory);
    }
    layout_deinit(&layout);
}

/* --- config.json ------------------------------------------------------------------------------ */

static const char plain[] =
    "\"model_type\":\"llama\",\"vocab_size\":12,\"hidden_size\":8,\"num_hidden_layers\":2,"
    "\"num_attention_heads\":4,\"intermediate_size\":10,\"max_position_embeddings\":16";

static enum status decode(const char *more, struct model_config *out, struct error *error) {
    char *text = xformat("{%s%s}", plain, more);
    enum status status = config_file_decode(bytes_of(text, strlen(text)), out, error);
    free(text);
    return status;
}

TEST(a_config_takes_llamas_defaults_and_both_spellings_of_rotary_settings) {
    struct error error = {0};
    struct model_config c;
    CHECK_OK(decode("", &c, &error));
    CHECK_EQUAL(c.kv_heads, 4);
    CHECK(c.rope_theta == 10000.0f && c.norm_eps == 1e-6f && !c.tied);
    CHECK_OK(decode(",\"rope_theta\":500.0,\"rope_scaling\":null,\"head_dim\":2,\"use_cache\":true,"
                    "\"_odd\":7,\"new\":null",
                    &c, &error));
    CHECK(c.rope_theta == 500.0f);
    CHECK_OK(decode(",\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":500.0},\"num_"
                    "key_value_heads\":2",
                    &c, &error));
    CHECK(c.rope_theta == 500.0f);
    CHECK_EQUAL(c.kv_heads, 2);
    struct buffer text = {0};
    config_file_encode(&shape, "float32", &text);
    CHECK_OK(config_file_decode(buffer_bytes(&text), &c, &error));
    CHECK_OK(model_config_compare(&shape, &c, &error));
    buffer_u8(&text, 0);
    CHECK_CONTAINS((char *)text.data, "\"rms_norm_eps\": 1e-05");
    buffer_deinit(&text);
}

TEST(what_does_not_change_the_computation_is_passed_over) {
    static const char *const cases[] = {
        ",\"is_llama_config\":true,\"rope_interleaved\":false", /* SmolLM2 */
        ",\"unsloth_version\":\"2024.9\",\"unsloth_fixed\":true",
        ",\"max_length\":4096,\"temperature\":0.9,\"pad_token_id\":0", /* Llama-2-chat */
        ",\"hidden_act\":\"swish\"",
        ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":1.0}",
        ",\"rope_scaling\":{\"rope_type\":\"default\",\"factor\":1,\"original_max_position_"
        "embeddings\":16}",
        ",\"partial_rotary_factor\":1.0,\"sliding_window\":16,\"layer_types\":[\"full_attention\"]",
        ",\"logits_scaling\":1.0,\"num_experts_per_tok\":0,\"pruned_heads\":{},\"attention_bias\":"
        "null",
        ",\"id2label\":{\"0\":\"A\"},\"somebodys_note\":\"trained on a train\",\"some_number\":7",
    };
    struct error error = {0};
    struct model_config wanted, c;
    CHECK_OK(decode("", &wanted, &error));
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        CHECK_OK(decode(cases[i], &c, &error));
        CHECK_OK(model_config_compare(&wanted, &c, &error));
    }
}

TEST(the_tokens_that_end_a_text_are_read_from_the_config) {
    static const struct {
        const char *text;
        enum status status;
        size_t count;
        uint32_t first;
    } cases[] = {{"{}", OK, 0, 0},
                 {"{\"eos_token_id\": null}", OK, 0, 0},
                 {"{\"eos_token_id\": 2}", OK, 1, 2},
                 {"{\"eos_token_id\": [128001, 128009]}", OK, 2, 128001},
                 {"{\"eos_token_id\": []}", OK, 0, 0},
                 {"{\"eos_token_id\": -1}", INVALID, 0, 0},
                 {"{\"eos_token_id\": 1.5}", INVALID, 0, 0},
                 {"{\"eos_token_id\": \"</s>\"}", INVALID, 0, 0},
                 {"{\"eos_token_id\": 4294967296}", INVALID, 0, 0},
                 {"{\"eos_token_id\": [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}", INVALID, 0, 0},
                 {"{\"eos_token_id\": [[1]]}", INVALID, 0, 0}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        uint32_t tokens[CONFIG_END_TOKENS] = {0};
        size_t count = 0;
        struct error error = {0};
        CHECK_STATUS(config_file_end_tokens(bytes_of(cases[i].text, strlen(cases[i].text)), tokens,
                                            &count, &error),
                     cases[i].status);
        if (cases[i].status != OK) {
            CHECK_CONTAINS(error.message, "eos_token_id");
            continue;
        }
        CHECK_EQUAL(count, cases[i].count);
        CHECK_EQUAL(tokens[0], cases[i].first);
    }
}

TEST(a_config_of_another_kind_of_model_is_refused_by_its_field) {
    static const struct {
        const char *more, *word;
    } cases[] = {
        {",\"hidden_act\":\"gelu\"", "\"hidden_act\" is \"gelu\""},
        {",\"attention_bias\":true", "\"attention_bias\" is true"},
        {",\"mlp_bias\":true", "mlp_bias"},
        {",\"attention_dropout\":0.1", "attention_dropout"},
        {",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0}", "rope_type"},
        {",\"rope_scaling\":{\"factor\":8.0}", "rope_scaling.factor"},
        {",\"rope_theta\":1,\"rope_parameters\":{\"rope_theta\":2}", "said twice"},
        {",\"head_dim\":3", "\"head_dim\" is 3"},
        {",\"num_key_value_heads\":3", "kv_heads"},
        {",\"num_key_value_heads\":0", "num_key_value_heads"},
        {",\"sliding_window\":8", "sliding_window"},
        {",\"rope_interleaved\":true", "rope_interleaved"},
        {",\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":2}", "rope_type"},
        {",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":1}", "rope_type"},
        {",\"partial_rotary_factor\":0.5", "partial_rotary_factor"},
        {",\"final_logit_softcapping\":30", "final_logit_softcapping"},
        {",\"logits_scaling\":8", "logits_scaling"},
        {",\"num_local_experts\":8", "num_local_experts"},
        {",\"qk_norm\":true", "qk_norm"},
        {",\"layer_types\":[\"full_attention\",\"sliding_attention\"]", "layer_types"},
        {",\"brand_new_softcap\":3", "brand_new_softcap"},
        {",\"hidden_activation\":\"gelu\"", "hidden_activation"},
        {",\"quantization_config\":{}", "quantization_config"},
        {",\"tie_word_embeddings\":1", "tie_word_embeddings"},
        {",\"rms_norm_eps\":\"small\"", "rms_norm_eps"},
        {",\"rms_norm_eps\":-1", "norm_eps"},
    };
    struct model_config c;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct error error = {0};
        CHECK_STATUS(decode(cases[i].more, &c, &error), INVALID);
        CHECK_CONTAINS(error.message, cases[i].word);
    }
    static const char *const missing[] = {"model_type", "vocab_size", "hidden_size",
                                          "max_position_embeddings"};
    for (size_t i = 0; i < COUNT_OF(missing); i++) {
        struct error error = {0};
        char *text = xformat("{%s}", plain), *at = strstr(text, missing[i]);
        *at = '_';
        CHECK_STATUS(config_file_decode(bytes_of(text, strlen(text)), &c, &error), INVALID);
        CHECK_CONTAINS(error.message, missing[i]);
        free(text);
    }
    struct error error = {0};
    struct model_config other = shape;
    other.ffn = 11;
    CHECK_STATUS(model_config_compare(&shape, &other, &error), INVALID);
    CHECK_CONTAINS(error.message, "\"intermediate_size\" is 11; it must be 10");
}

/* --- an index that lies ----------------------------------------------------------------------- */

static void refused(const char *find, const char *replacement, const char *word) {
    struct error error = {0};
    struct layout layout;
    CHECK_OK(layout_init(&shape, &layout, &error));
    float *values = xcalloc(layout.count, sizeof *values);
    char *directory = place("lying");
    const struct export_options options = {.version = -1, .shard_size = 600};
    CHECK_OK(export_model_as(directory, &layout, values, &options, &error));
    struct buffer text = read_file(directory, "model.safetensors.index.json");
    buffer_u8(&text, 0);
    char *at = strstr((char *)text.data, find);
    CHECK(at);
    char *lie = xformat("%.*s%s%s", (int)(at - (char *)text.data), (char *)text.data, replacement,
                        at + strlen(find));
    write_file(directory, "model.safetensors.index.json", lie);
    enum status status = checkpoint_read(directory, &layout, values, &error);
    CHECK(status == INVALID || status == NOT_FOUND);
    CHECK_CONTAINS(error.message, word);
    free(lie);
    buffer_deinit(&text);
    free(directory);
    free(values);
    layout_deinit(&layout);
}

TEST(an_index_that_lies_is_refused_by_tensor_or_file) {
    refused("\"model.norm.weight\": \"model-00011", "\"model.norm.weight\": \"model-00010",
            "\"model.norm.weight\" is not in the file that the index names");
    refused("\"model.norm.weight\": \"model-00", "\"model.norm.weight\": \"/etc/model-00",
            "not the name of a .safetensors file");
    refused("\"model.norm.weight\": \"model-00", "\"model.norm.weight\": \"..model-00",
            "not the name of a .safetensors file");
    refused("model.norm.weight", "model.norm.weights", "model.norm.weights\" is not in this model");
    refused("\"weight_map\"", "\"weights\"", "weight_map");
    refused("\"model.embed_tokens.weight\": \"model-00001",
            "\"model.embed_tokens.weight\": \"model-00099", "model-00099");
}

TEST(a_directory_without_config_or_tensors_says_which) {
    struct error error = {0};
    struct model_config c;
    struct layout layout;
    CHECK_OK(layout_init(&shape, &layout, &error));
    float *values = xcalloc(layout.count, sizeof *values);
    CHECK_STATUS(checkpoint_config(test_directory(), &c, &error), NOT_FOUND);
    CHECK_CONTAINS(error.message, "config.json");
    CHECK_STATUS(checkpoint_read(test_directory(), &layout, values, &error), NOT_FOUND);
    CHECK_CONTAINS(error.message, "neither");
    /* An export over a sharded one leaves no index behind, and the other way round. */
    char *directory = place("both"), *index = file_join(directory, "model.safetensors.index.json");
    struct export_options options = {.version = -1, .shard_size = 600};
    CHECK_OK(export_model_as(directory, &layout, values, &options, &error));
    CHECK(file_exists(index));
    CHECK_OK(export_model(directory, &layout, values, -1, false, &error));
    CHECK(!file_exists(index));
    /* A tokenizer that came with the model goes with it. */
    options.beside = test_directory();
    write_file(test_directory(), "tokenizer.json", "{}");
    CHECK_OK(export_model_as(directory, &layout, values, &options, &error));
    struct buffer copied = read_file(directory, "tokenizer.json");
    CHECK(bytes_equal(buffer_bytes(&copied), bytes_of("{}", 2)));
    buffer_deinit(&copied);
    free(directory);
    free(index);
    free(values);
    layout_deinit(&layout);
}
