#include "model/safetensors.h"

#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "model/export.h"
#include "tests/test.h"

static struct layout layout_of(bool tied) {
    struct error error = {0};
    const struct model_config config = {.vocabulary = 10,
                                        .hidden = 4,
                                        .layers = 1,
                                        .heads = 2,
                                        .kv_heads = 1,
                                        .ffn = 6,
                                        .context = 8,
                                        .rope_theta = 10000,
                                        .norm_eps = 1e-5f,
                                        .tied = tied};
    struct layout layout;
    CHECK_OK(layout_init(&config, &layout, &error));
    return layout;
}

static float *values_of(const struct layout *layout) {
    float *values = xmalloc(layout->count * sizeof *values);
    layout_initialise(layout, 1, values);
    return values;
}

/* A file by hand: the header's text as given, then size bytes of data. */
static struct buffer file_of(const char *header, const void *data, size_t size) {
    struct buffer file = {0};
    buffer_u64(&file, strlen(header));
    buffer_append(&file, header, strlen(header));
    buffer_append(&file, data, size);
    return file;
}

TEST(parameters_survive_the_round_trip_bit_for_bit) {
    struct error error = {0};
    for (int tied = 0; tied < 2; tied++) {
        struct layout layout = layout_of(tied);
        float *values = values_of(&layout), *back = xcalloc(layout.count, sizeof *back);
        char *path = file_join(test_directory(), "m.safetensors");
        CHECK_OK(safetensors_write(path, &layout, values, 7, &error));
        CHECK_OK(safetensors_read(path, &layout, back, &error));
        CHECK_MEMORY(values, back, layout.count * sizeof *back);
        free(values);
        free(back);
        free(path);
        layout_deinit(&layout);
    }
}

TEST(a_file_cut_anywhere_is_refused) {
    struct error error = {0};
    struct layout layout = layout_of(true);
    float *values = values_of(&layout);
    struct buffer file = {0};
    safetensors_encode(&layout, values, -1, &file);
    for (size_t size = 0; size < file.size; size++) {
        uint8_t *exact =
            xmalloc(size); /* its own allocation, so that a sanitizer sees a read beyond it */
        memcpy(exact, file.data, size);
        CHECK_STATUS(safetensors_decode(&layout, bytes_of(exact, size), values, &error), CORRUPT);
        free(exact);
    }
    buffer_u8(&file, 0);
    CHECK_STATUS(safetensors_decode(&layout, buffer_bytes(&file), values, &error), CORRUPT);
    buffer_deinit(&file);
    free(values);
    layout_deinit(&layout);
}

TEST(damaged_headers_never_crash_nor_read_beyond_the_file) {
    struct layout layout = layout_of(true);
    float *values = values_of(&layout), *back = xmalloc(layout.count * sizeof *back);
    struct buffer file = {0};
    safetensors_encode(&layout, values, 3, &file);
    struct random random;
    random_init(&random, 9);
    size_t header = file.size - layout.count * sizeof(float);
    uint8_t *copy = xmalloc(file.size);
    for (int round = 0; round < 3000; round++) {
        memcpy(copy, file.data, file.size);
        for (uint64_t hits = 1 + random_below(&random, 3); hits > 0; hits--)
            copy[random_below(&random, header)] =
                round % 2 ? (uint8_t)random_u64(&random)
                          : (uint8_t) "0123456789{}[]\":,"[random_below(&random, 17)];
        enum status status = safetensors_decode(&layout, bytes_of(copy, file.size), back, NULL);
        CHECK(status == OK || status == CORRUPT || status == INVALID);
    }
    free(copy);
    buffer_deinit(&file);
    free(values);
    free(back);
    layout_deinit(&layout);
}

static void refused(const char *header, size_t size, enum status wanted, const char *word) {
    struct error error = {0};
    struct layout layout = layout_of(true);
    float *values = values_of(&layout);
    uint8_t *data = xcalloc(1, size);
    struct buffer file = file_of(header, data, size);
    CHECK_STATUS(safetensors_decode(&layout, buffer_bytes(&file), values, &error), wanted);
    CHECK_CONTAINS(error.message, word);
    CHECK_EQUAL(error.status, wanted);
    buffer_deinit(&file);
    free(data);
    free(values);
    layout_deinit(&layout);
}

TEST(hostile_and_foreign_headers_are_refused_by_reason) {
    refused("[]", 0, CORRUPT, "not an object");
    refused("{\"a\"", 0, CORRUPT, "header");
    refused("{\"model.norm.weight\":[]}", 0, CORRUPT, "model.norm.weight");
    refused("{}", 0, INVALID, "model.embed_tokens.weight\" is missing");
    refused("{\"other.weight\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
            INVALID, "other.weight");
    refused("{\"model.norm.weight\":{\"dtype\":\"F32\",\"shape\":[4]}}", 16, CORRUPT,
            "data_offsets");
    refused("{\"model.norm.weight\":{\"dtype\":\"I64\",\"shape\":[4],\"data_offsets\":[0,32]}}", 32,
            INVALID, "I64");
    refused("{\"model.norm.weight\":{\"dtype\":\"F32\",\"shape\":[5],\"data_offsets\":[0,20]}}", 20,
            INVALID, "shape is not [4]");
    refused("{\"model.norm.weight\":{\"dtype\":\"F32\",\"shape\":[4,1],\"data_offsets\":[0,16]}}",
            16, INVALID, "shape is not [4]");
    refused("{\"model.norm.weight\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,20]}}", 20,
            CORRUPT, "do not fit");
    refused("{\"model.norm.weight\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[4,20]}}", 16,
            CORRUPT, "do not fit");
    refused("{\"model.norm.weight\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[-16,0]}}",
            16, CORRUPT, "whole number");
    refused("{\"model.norm.weight\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":["
            "18446744073709551600,0]}}",
            16, CORRUPT, "do not fit");
    refused("{\"model.norm.weight\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16,16]}}",
            16, CORRUPT, "3 offsets");
}

/* Every tensor in one dtype, each at an offset of the caller's choosing. */
static struct buffer written_as(const struct layout *layout, const char *dtype, unsigned item,
                                bool with_head, uint64_t shift) {
    struct buffer header = {0};
    uint64_t at = 0;
    for (uint32_t i = 0; i < layout->tensor_count + with_head; i++) {
        const struct layout_tensor *tensor = &layout->tensors[i < layout->tensor_count ? i : 0];
        const char *name = i < layout->tensor_count ? tensor->name : "lm_head.weight";
        uint64_t begin = i == 1 ? at - shift : at;
        buffer_append_text(&header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%llu", i ? "," : "{",
                           name, dtype, (unsigned long long)tensor->shape[0]);
        if (tensor->dimensions == 2)
            buffer_append_text(&header, ",%llu", (unsigned long long)tensor->shape[1]);
        buffer_append_text(&header, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)begin,
                           (unsigned long long)(begin + tensor->count * item));
        at += tensor->count * item;
    }
    buffer_append_text(&header, "}");
    buffer_u8(&header, 0);
    uint8_t *data = xcalloc(1, at);
    struct buffer file = file_of((const char *)header.data, data, at);
    free(data);
    buffer_deinit(&header);
    return file;
}

TEST(half_precision_checkpoints_are_taken) {
    struct error error = {0};
    struct layout layout = layout_of(true);
    float *values = values_of(&layout);
    const struct {
        const char *dtype;
        uint16_t bits[4];
        float wanted[4];
    } cases[] = {
        {"F16", {0x3c00, 0xc100, 0x0001, 0x7bff}, {1.0f, -2.5f, 0x1p-24f, 65504.0f}},
        {"BF16", {0x3f80, 0xc020, 0x0080, 0x4780}, {1.0f, -2.5f, 0x1p-126f, 65536.0f}},
    };
    for (size_t c = 0; c < 2; c++) {
        struct buffer file = written_as(&layout, cases[c].dtype, 2, false, 0);
        memcpy(file.data + file.size - layout.count * 2, cases[c].bits, 8);
        CHECK_OK(safetensors_decode(&layout, buffer_bytes(&file), values, &error));
        for (int i = 0; i < 4; i++) CHECK(values[i] == cases[c].wanted[i]);
        CHECK(values[4] == 0.0f);
        uint16_t infinite = c ? 0x7f80 : 0x7c00;
        memcpy(file.data + file.size - 2, &infinite, 2);
        CHECK_STATUS(safetensors_decode(&layout, buffer_bytes(&file), values, &error), INVALID);
        CHECK_CONTAINS(error.message, "finite");
        buffer_deinit(&file);
    }
    free(values);
    layout_deinit(&layout);
}

TEST(overlapping_tensors_are_refused_and_a_tied_head_must_agree) {
    struct error error = {0};
    struct layout layout = layout_of(true);
    float *values = values_of(&layout);
    struct buffer overlap = written_as(&layout, "F32", 4, false, 4),
                  twice = written_as(&layout, "F32", 4, true, 0);
    CHECK_STATUS(safetensors_decode(&layout, buffer_bytes(&overlap), values, &error), CORRUPT);
    CHECK_CONTAINS(error.message, "overlaps");
    CHECK_OK(safetensors_decode(&layout, buffer_bytes(&twice), values, &error));
    twice.data[twice.size - 1] = 0x3f;
    CHECK_STATUS(safetensors_decode(&layout, buffer_bytes(&twice), values, &error), INVALID);
    CHECK_CONTAINS(error.message, "tied");
    buffer_deinit(&overlap);
    buffer_deinit(&twice);
    free(values);
    layout_deinit(&layout);
}

TEST(an_export_has_all_its_files_and_config_comes_last) {
    struct error error = {0};
    struct layout layout = layout_of(true);
    float *values = values_of(&layout);
    char *directory = file_join(test_directory(), "export");
    /* 10 tokens are not bytes */
    CHECK_STATUS(export_model(directory, &layout, values, 1, true, &error), INVALID);
    CHECK_OK(export_model(directory, &layout, values, 1, false, &error));
    const char *names[] = {"model.safetensors", "config.json", "generation_config.json"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        char *path = file_join(directory, names[i]);
        CHECK(file_exists(path));
        free(path);
    }
    free(directory);
    free(values);
    layout_deinit(&layout);
}
