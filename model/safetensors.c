#include "model/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

/* --- writing --------------------------------------------------------------------------------------------------------------- */

static void write_header(const struct layout *layout, int64_t version, struct buffer *out) {
    struct json_writer writer = json_writer_of(out, false);
    json_begin_object(&writer);
    json_key(&writer, "__metadata__");
    json_begin_object(&writer);
    json_key(&writer, "format");
    json_text(&writer, "pt"); /* transformers wants to be told */
    if (version >= 0) {
        char text[24];
        snprintf(text, sizeof text, "%lld", (long long)version);
        json_key(&writer, "version");
        json_text(&writer, text);
    }
    json_end_object(&writer);
    for (uint32_t i = 0; i < layout->tensor_count; i++) {
        const struct layout_tensor *tensor = &layout->tensors[i];
        json_key(&writer, tensor->name);
        json_begin_object(&writer);
        json_key(&writer, "dtype");
        json_text(&writer, "F32");
        json_key(&writer, "shape");
        json_begin_array(&writer);
        for (uint32_t d = 0; d < tensor->dimensions; d++) json_u64(&writer, tensor->shape[d]);
        json_end_array(&writer);
        json_key(&writer, "data_offsets");
        json_begin_array(&writer);
        json_u64(&writer, tensor->offset * sizeof(float));
        json_u64(&writer, (tensor->offset + tensor->count) * sizeof(float));
        json_end_array(&writer);
        json_end_object(&writer);
    }
    json_end_object(&writer);
}

void safetensors_encode(const struct layout *layout, const float *parameters, int64_t version, struct buffer *out) {
    struct buffer header = {0};
    write_header(layout, version, &header);
    while (header.size % 8 != 0) buffer_u8(&header, ' '); /* so that the data are aligned in a mapped file */
    buffer_reserve(out, out->size + 8 + header.size + layout->count * sizeof(float));
    buffer_u64(out, header.size);
    buffer_append(out, header.data, header.size);
    buffer_append(out, parameters, layout->count * sizeof(float));
    buffer_deinit(&header);
}

enum status safetensors_write(const char *path, const struct layout *layout, const float *parameters, int64_t version,
                              struct error *error) {
    struct buffer file = {0};
    safetensors_encode(layout, parameters, version, &file);
    enum status status = file_write(path, buffer_bytes(&file), 0644, error);
    buffer_deinit(&file);
    return status;
}

/* --- reading --------------------------------------------------------------------------------------------------------------- */

enum dtype { DTYPE_F32, DTYPE_F16, DTYPE_BF16 };

struct stored { /* a tensor as the header tells of it */
    const char *name;
    enum dtype dtype;
    uint64_t begin, end;                /* in the data part */
    const struct layout_tensor *tensor; /* NULL: the head of a tied model */
};

static float half_to_float(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 1023;
    uint32_t bits;
    float value;
    if (exponent == 0) {
        value = (float)fraction / 16777216.0f; /* 2^-24 each: subnormals are exact */
        memcpy(&bits, &value, sizeof bits);
    } else {
        bits = (exponent == 31 ? 255u : exponent + 112) << 23 | fraction << 13;
    }
    bits |= sign;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static size_t dtype_size(enum dtype dtype) { return dtype == DTYPE_F32 ? 4 : 2; }

static float stored_value(const uint8_t *data, enum dtype dtype, uint64_t index) {
    struct reader reader = reader_of(bytes_of(data + index * dtype_size(dtype), dtype_size(dtype)));
    if (dtype == DTYPE_F32) return reader_f32(&reader);
    uint16_t bits = reader_u16(&reader);
    if (dtype == DTYPE_F16) return half_to_float(bits);
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

static enum status read_dtype(const struct json_value *entry, enum dtype *out, struct error *error) {
    static const char *const names[] = {[DTYPE_F32] = "F32", [DTYPE_F16] = "F16", [DTYPE_BF16] = "BF16"};
    const char *text;
    TRY(json_get_text(entry, "dtype", &text, error));
    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (strcmp(text, names[i]) == 0) {
            *out = (enum dtype)i;
            return OK;
        }
    return error_set(error, INVALID, "dtype \"%.20s\" is none of F32, F16, BF16", text);
}

static enum status check_shape(const struct json_value *entry, const struct layout_tensor *tensor, struct error *error) {
    const struct json_value *shape;
    TRY(json_get_array(entry, "shape", &shape, error));
    bool same = shape->count == tensor->dimensions;
    for (size_t i = 0; same && i < shape->count; i++)
        same = shape->items[i].type == JSON_NUMBER && shape->items[i].is_u64 && shape->items[i].integer == tensor->shape[i];
    if (same) return OK;
    return error_set(error, INVALID, "its shape is not [%u%s%.0u]", tensor->shape[0], tensor->dimensions == 2 ? ", " : "",
                     tensor->dimensions == 2 ? tensor->shape[1] : 0);
}

static enum status read_entry(const struct json_value *entry, const struct layout_tensor *shape_of, uint64_t data_size,
                              struct stored *out, struct error *error) {
    if (entry->type != JSON_OBJECT) return error_set(error, CORRUPT, "its entry is no object");
    TRY(read_dtype(entry, &out->dtype, error));
    TRY(check_shape(entry, shape_of, error));
    const struct json_value *offsets;
    TRY(json_get_array(entry, "data_offsets", &offsets, error));
    for (size_t i = 0; i < offsets->count; i++)
        if (offsets->items[i].type != JSON_NUMBER || !offsets->items[i].is_u64)
            return error_set(error, CORRUPT, "an offset is not a whole number");
    if (offsets->count != 2) return error_set(error, CORRUPT, "it has %zu offsets", offsets->count);
    out->begin = offsets->items[0].integer;
    out->end = offsets->items[1].integer;
    if (out->end > data_size || out->begin > out->end || out->end - out->begin != shape_of->count * dtype_size(out->dtype))
        return error_set(error, CORRUPT, "its offsets %llu..%llu do not fit its shape or the file",
                         (unsigned long long)out->begin, (unsigned long long)out->end);
    return OK;
}

/* Keeps the story and changes its kind. */
static enum status fail_as(struct error *error, enum status status) {
    if (error) error->status = status;
    return status;
}

static int by_begin(const void *a, const void *b) {
    const struct stored *x = a, *y = b;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

/* Fills stored[] (room for tensor_count + 1) from the header's members. */
static enum status read_members(const struct layout *layout, const struct json_value *root, uint64_t data_size,
                                struct stored *stored, uint32_t *count, struct error *error) {
    *count = 0;
    if (root->type != JSON_OBJECT) return error_set(error, CORRUPT, "the header is no object");
    for (size_t i = 0; i < root->count; i++) {
        const struct json_value *entry = &root->items[i];
        if (strcmp(entry->key, "__metadata__") == 0) continue;
        const struct layout_tensor *tensor = layout_find(layout, entry->key), *shape_of = tensor;
        if (!tensor && layout->config.tied && strcmp(entry->key, "lm_head.weight") == 0) shape_of = &layout->tensors[0];
        if (!shape_of) return error_set(error, INVALID, "tensor \"%.100s\" is not in this model", entry->key);
        ASSERT(*count <= layout->tensor_count); /* keys are unique, and each has matched another name */
        struct stored *s = &stored[(*count)++];
        *s = (struct stored){.name = entry->key, .tensor = tensor};
        enum status status = read_entry(entry, shape_of, data_size, s, error);
        if (status != OK) {
            error_wrap(error, status, "tensor \"%.100s\"", entry->key);
            return fail_as(error, status == NOT_FOUND ? CORRUPT : status); /* a member that should be there is not */
        }
    }
    return OK;
}

static enum status check_members(const struct layout *layout, const struct json_value *root, struct stored *stored,
                                 uint32_t count, uint64_t data_size, struct error *error) {
    for (uint32_t i = 0; i < layout->tensor_count; i++)
        if (!json_object_get(root, layout->tensors[i].name))
            return error_set(error, INVALID, "tensor \"%s\" is missing", layout->tensors[i].name);
    qsort(stored, count, sizeof *stored, by_begin);
    uint64_t at = 0;
    for (uint32_t i = 0; i < count; at = stored[i++].end)
        if (stored[i].begin != at)
            return error_set(error, CORRUPT, "tensor \"%s\" overlaps another or leaves a gap", stored[i].name);
    if (at != data_size) return error_set(error, CORRUPT, "%llu bytes belong to no tensor", (unsigned long long)(data_size - at));
    return OK;
}

static enum status copy_values(const struct layout *layout, const struct stored *stored, uint32_t count, const uint8_t *data,
                               float *parameters, struct error *error) {
    for (uint32_t i = 0; i < count; i++) {
        const struct layout_tensor *tensor = stored[i].tensor;
        if (!tensor) continue;
        for (uint64_t j = 0; j < tensor->count; j++) {
            float value = stored_value(data + stored[i].begin, stored[i].dtype, j);
            if (!isfinite(value))
                return error_set(error, INVALID, "tensor \"%s\" has a value that is not finite", stored[i].name);
            parameters[tensor->offset + j] = value;
        }
    }
    const struct layout_tensor *embedding = &layout->tensors[0];
    for (uint32_t i = 0; i < count; i++)
        for (uint64_t j = 0; !stored[i].tensor && j < embedding->count; j++)
            if (stored_value(data + stored[i].begin, stored[i].dtype, j) != parameters[embedding->offset + j])
                return error_set(error, INVALID, "lm_head.weight differs from the embedding it is tied to");
    return OK;
}

enum status safetensors_decode(const struct layout *layout, struct bytes file, float *parameters, struct error *error) {
    struct reader reader = reader_of(file);
    uint64_t header_size = reader_u64(&reader);
    if (reader.failed || header_size > reader_left(&reader) || header_size > SAFETENSORS_HEADER_MAX)
        return error_set(error, CORRUPT, "not a safetensors file, or truncated: %zu bytes", file.size);
    struct bytes header = reader_take(&reader, header_size);
    uint64_t data_size = reader_left(&reader);
    struct json *json = NULL;
    struct stored *stored = NULL;
    uint32_t count = 0;
    const struct json_limits limits = {.size = SAFETENSORS_HEADER_MAX, .depth = 8};
    enum status status = json_parse(header, &limits, &json, error);
    if (status != OK) {
        error_wrap(error, status, "safetensors header");
        return fail_as(error, status == FULL ? FULL : CORRUPT); /* a file's bad JSON is a bad file */
    }
    stored = xcalloc(layout->tensor_count + 1, sizeof *stored);
    status = read_members(layout, json_root(json), data_size, stored, &count, error);
    if (status == OK) status = check_members(layout, json_root(json), stored, count, data_size, error);
    if (status == OK) status = copy_values(layout, stored, count, file.data + 8 + header_size, parameters, error);
    free(stored);
    json_close(json);
    return status;
}

enum status safetensors_read(const char *path, const struct layout *layout, float *parameters, struct error *error) {
    struct buffer file = {0};
    size_t limit = 8 + SAFETENSORS_HEADER_MAX + (layout->count + layout->tensors[0].count) * sizeof(float);
    enum status status = file_read(path, limit, &file, error);
    if (status == OK) {
        status = safetensors_decode(layout, buffer_bytes(&file), parameters, error);
        if (status != OK) status = error_wrap(error, status, "%s", path);
    }
    buffer_deinit(&file);
    return status;
}
