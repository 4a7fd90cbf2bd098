/* .safetensors files (model/safetensors.h). Headers come from strangers: size, JSON, types, shapes
 * and offsets are all checked before a byte of data is read. */
#include "model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

/* --- writing ---------------------------------------------------------------------------------- */

static const char *const dtype_names[] = {
    [DTYPE_F32] = "F32", [DTYPE_BF16] = "BF16", [DTYPE_F16] = "F16"};

/* The size and the padded header of a file with count tensors from the first-th on. */
static void write_header(const struct layout *layout, uint32_t first, uint32_t count,
                         enum tensor_dtype dtype, int64_t version, struct buffer *file) {
    struct buffer header = {0}, *out = &header;
    struct json_writer writer = json_writer_of(out, false);
    json_begin_object(&writer);
    json_key(&writer, "__metadata__");
    json_begin_object(&writer);
    json_key(&writer, "format");
    json_text(&writer, "pt"); /* transformers needs to be told */
    if (version >= 0) {
        char text[24];
        snprintf(text, sizeof text, "%lld", (long long)version);
        json_key(&writer, "version");
        json_text(&writer, text);
    }
    json_end_object(&writer);
    uint64_t start = layout->tensors[first].offset, size = tensor_dtype_size(dtype);
    for (uint32_t i = first; i < first + count; i++) {
        const struct layout_tensor *tensor = &layout->tensors[i];
        json_key(&writer, tensor->name);
        json_begin_object(&writer);
        json_key(&writer, "dtype");
        json_text(&writer, dtype_names[dtype]);
        json_key(&writer, "shape");
        json_begin_array(&writer);
        for (uint32_t d = 0; d < tensor->dimensions; d++) json_u64(&writer, tensor->shape[d]);
        json_end_array(&writer);
        json_key(&writer, "data_offsets");
        json_begin_array(&writer);
        json_u64(&writer, (tensor->offset - start) * size);
        json_u64(&writer, (tensor->offset - start + tensor->count) * size);
        json_end_array(&writer);
        json_end_object(&writer);
    }
    json_end_object(&writer);
    /* so that the data are aligned in a mapped file */
    while (header.size % 8 != 0) buffer_u8(&header, ' ');
    buffer_u64(file, header.size);
    buffer_append(file, header.data, header.size);
    buffer_deinit(&header);
}

void safetensors_encode(const struct layout *layout, const float *parameters, int64_t version,
                        struct buffer *out) {
    write_header(layout, 0, layout->tensor_count, DTYPE_F32, version, out);
    buffer_reserve(out, out->size + layout->count * sizeof(float));
    buffer_append(out, parameters, layout->count * sizeof(float));
}

enum status safetensors_write(const char *path, const struct layout *layout,
                              const float *parameters, int64_t version, struct error *error) {
    return safetensors_write_part(path, layout, parameters, 0, layout->tensor_count, DTYPE_F32,
                                  version, error);
}

enum { PIECE = 1 << 16 }; /* values that are converted at a time */

static uint16_t bfloat_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (value != value) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static uint16_t half_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    /* rounds to infinity, or is none */
    if (magnitude >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000) { /* a subnormal: units of 2^-24 */
        float units = fabsf(value) * 16777216.0f;
        return (uint16_t)(sign | (uint32_t)rintf(units));
    }
    magnitude += 0xfff + (magnitude >> 13 & 1);
    return (uint16_t)(sign | (magnitude - 0x38000000) >> 13);
}

static bool is_infinite(uint16_t bits, enum tensor_dtype dtype) {
    uint16_t exponent = dtype == DTYPE_F16 ? 0x7c00 : 0x7f80;
    return (bits & exponent) == exponent;
}

static enum status write_values(int descriptor, const float *values, uint64_t count,
                                enum tensor_dtype dtype, struct error *error) {
    if (dtype == DTYPE_F32)
        return file_write_all(descriptor, values, count * sizeof *values, error);
    uint16_t *piece = xmalloc(PIECE * sizeof *piece);
    enum status status = OK;
    for (uint64_t at = 0; at < count && status == OK; at += PIECE) {
        uint64_t here = MIN(count - at, (uint64_t)PIECE);
        for (uint64_t i = 0; i < here; i++) {
            piece[i] = dtype == DTYPE_F16 ? half_of(values[at + i]) : bfloat_of(values[at + i]);
            if (is_infinite(piece[i], dtype)) {
                status = error_set(error, INVALID, "value %g does not fit into %s",
                                   (double)values[at + i], dtype_names[dtype]);
                break;
            }
        }
        if (status == OK) status = file_write_all(descriptor, piece, here * sizeof *piece, error);
    }
    free(piece);
    return status;
}

/* As file_write, but without the whole file in memory. */
enum status safetensors_write_part(const char *path, const struct layout *layout,
                                   const float *parameters, uint32_t first, uint32_t count,
                                   enum tensor_dtype dtype, int64_t version, struct error *error) {
    struct buffer header = {0};
    write_header(layout, first, count, dtype, version, &header);
    char *temporary = xformat("%s.tmp.%ld", path, (long)getpid()), *directory = xstrdup(path),
         *slash = strrchr(directory, '/');
    char reason[FILE_REASON_SIZE];
    if (slash) slash[slash == directory] = 0;
    enum status status = file_check_kind(path, error);
    int descriptor = -1;
    unlink(temporary); /* never opened: whatever is there is not ours */
    if (status == OK) descriptor = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (status == OK && descriptor < 0)
        status = error_set(error, FAILED, "create %s: %s", temporary, file_reason(errno, reason));
    if (status == OK) status = file_write_all(descriptor, header.data, header.size, error);
    for (uint32_t i = first; i < first + count && status == OK; i++) {
        const struct layout_tensor *tensor = &layout->tensors[i];
        status = write_values(descriptor, parameters + tensor->offset, tensor->count, dtype, error);
        if (status != OK) error_wrap(error, status, "tensor \"%s\"", tensor->name);
    }
    if (status == OK && fdatasync(descriptor) != 0)
        status = error_set(error, FAILED, "sync %s: %s", temporary, file_reason(errno, reason));
    if (descriptor >= 0) close(descriptor);
    if (status == OK && rename(temporary, path) != 0)
        status = error_set(error, FAILED, "rename %s: %s", path, strerror(errno));
    if (status != OK && descriptor >= 0) {
        unlink(temporary);
        error_wrap(error, status, "write %s", path);
    }
    if (status == OK) status = file_sync_directory(slash ? directory : ".", error);
    free(directory);
    free(temporary);
    buffer_deinit(&header);
    return status;
}

/* --- reading ---------------------------------------------------------------------------------- */

/* Where a file's bytes come from: memory, or a descriptor, from which only pieces are in memory. */
struct shard_source {
    const uint8_t *memory; /* NULL: the descriptor */
    int descriptor;
    uint64_t size;
};

static enum status source_read(const struct shard_source *source, uint64_t at, void *out,
                               size_t size, struct error *error) {
    if (at > source->size || size > source->size - at)
        return error_set(error, CORRUPT, "truncated after %llu bytes",
                         (unsigned long long)source->size);
    if (source->memory) {
        memcpy(out, source->memory + at, size);
        return OK;
    }
    for (size_t done = 0; done < size;) {
        ssize_t got =
            pread(source->descriptor, (uint8_t *)out + done, size - done, (off_t)(at + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return error_set(error, FAILED, "read: %s", strerror(errno));
        if (got == 0) return error_set(error, CORRUPT, "shorter than when it was opened");
        done += (size_t)got;
    }
    return OK;
}

struct stored { /* a tensor as the header tells of it */
    const char *name;
    enum tensor_dtype dtype;
    uint64_t begin, end;                /* in the data part */
    const struct layout_tensor *tensor; /* NULL: the head of a tied model */
    bool derived;                       /* no parameter: passed over */
};

static float half_to_float(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31,
             fraction = half & 1023;
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

/* Values [at, at + count) of a tensor, widened; raw is room for as many. INVALID where one is not
 * finite. */
static enum status read_values(const struct shard_source *source, uint64_t data,
                               const struct stored *stored, uint64_t at, uint64_t count, void *raw,
                               float *out, struct error *error) {
    uint64_t size = tensor_dtype_size(stored->dtype);
    bool wide = stored->dtype == DTYPE_F32;
    TRY(source_read(source, data + stored->begin + at * size, wide ? (void *)out : raw,
                    count * size, error));
    const uint16_t *narrow = raw;
    if (stored->dtype == DTYPE_F16)
        for (uint64_t i = 0; i < count; i++) out[i] = half_to_float(narrow[i]);
    else if (!wide)
        for (uint64_t i = 0; i < count; i++) {
            uint32_t bits = (uint32_t)narrow[i] << 16;
            memcpy(&out[i], &bits, sizeof bits);
        }
    for (uint64_t i = 0; i < count; i++)
        if (!isfinite(out[i]))
            return error_set(error, INVALID, "tensor \"%s\" has a value that is not finite",
                             stored->name);
    return OK;
}

static enum status read_dtype(const struct json_value *entry, enum tensor_dtype *out,
                              struct error *error) {
    const char *text;
    TRY(json_get_text(entry, "dtype", &text, error));
    for (size_t i = 0; i < COUNT_OF(dtype_names); i++)
        if (strcmp(text, dtype_names[i]) == 0) {
            *out = (enum tensor_dtype)i;
            return OK;
        }
    return error_set(error, INVALID, "dtype \"%.20s\" is not one of F32, BF16, F16", text);
}

static enum status check_shape(const struct json_value *entry, const struct layout_tensor *tensor,
                               struct error *error) {
    const struct json_value *shape;
    TRY(json_get_array(entry, "shape", &shape, error));
    bool same = shape->count == tensor->dimensions;
    for (size_t i = 0; same && i < shape->count; i++)
        same = shape->items[i].type == JSON_NUMBER && shape->items[i].is_u64 &&
               shape->items[i].integer == tensor->shape[i];
    if (same) return OK;
    return error_set(error, INVALID, "its shape is not [%u%s%.0u]", tensor->shape[0],
                     tensor->dimensions == 2 ? ", " : "",
                     tensor->dimensions == 2 ? tensor->shape[1] : 0);
}

static enum status read_entry(const struct json_value *entry, const struct layout_tensor *shape_of,
                              uint64_t data_size, struct stored *out, struct error *error) {
    if (entry->type != JSON_OBJECT) return error_set(error, CORRUPT, "its entry is not an object");
    if (shape_of) TRY(read_dtype(entry, &out->dtype, error));
    if (shape_of) TRY(check_shape(entry, shape_of, error));
    const struct json_value *offsets;
    TRY(json_get_array(entry, "data_offsets", &offsets, error));
    for (size_t i = 0; i < offsets->count; i++)
        if (offsets->items[i].type != JSON_NUMBER || !offsets->items[i].is_u64)
            return error_set(error, CORRUPT, "an offset is not a whole number");
    if (offsets->count != 2) return error_set(error, CORRUPT, "it has %zu offsets", offsets->count);
    out->begin = offsets->items[0].integer;
    out->end = offsets->items[1].integer;
    if (out->end > data_size || out->begin > out->end ||
        out->end - out->begin !=
            (shape_of ? shape_of->count * tensor_dtype_size(out->dtype) : out->end - out->begin))
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

bool safetensors_is_derived(const char *name) {
    static const char suffix[] = "rotary_emb.inv_freq";
    size_t size = strlen(name);
    if (size < sizeof suffix - 1 || strcmp(name + size - (sizeof suffix - 1), suffix) != 0)
        return false;
    return size == sizeof suffix - 1 || name[size - sizeof suffix] == '.';
}

/* Fills stored[] (room for as many as the header has) from the header's members. */
static enum status read_members(const struct layout *layout, const struct json_value *root,
                                uint64_t data_size, struct stored *stored, uint32_t *count,
                                struct error *error) {
    *count = 0;
    if (root->type != JSON_OBJECT) return error_set(error, CORRUPT, "the header is not an object");
    for (size_t i = 0; i < root->count; i++) {
        const struct json_value *entry = &root->items[i];
        if (strcmp(entry->key, "__metadata__") == 0) continue;
        const struct layout_tensor *tensor = layout_find(layout, entry->key), *shape_of = tensor;
        if (!tensor && layout->config.tied && strcmp(entry->key, "lm_head.weight") == 0)
            shape_of = &layout->tensors[0];
        bool derived = !shape_of && safetensors_is_derived(entry->key);
        if (!shape_of && !derived)
            return error_set(error, INVALID, "tensor \"%.100s\" is not in this model", entry->key);
        struct stored *s = &stored[(*count)++];
        *s = (struct stored){.name = entry->key, .tensor = tensor, .derived = derived};
        enum status status = read_entry(entry, shape_of, data_size, s, error);
        if (status != OK) {
            error_wrap(error, status, "tensor \"%.100s\"", entry->key);
            /* a member that should be there is not */
            return fail_as(error, status == NOT_FOUND ? CORRUPT : status);
        }
    }
    return OK;
}

static enum status check_all_there(const struct layout *layout, const struct json_value *root,
                                   struct error *error) {
    for (uint32_t i = 0; i < layout->tensor_count; i++)
        if (!json_object_get(root, layout->tensors[i].name))
            return error_set(error, INVALID, "tensor \"%s\" is missing", layout->tensors[i].name);
    return OK;
}

static enum status check_tiling(struct stored *stored, uint32_t count, uint64_t data_size,
                                struct error *error) {
    qsort(stored, count, sizeof *stored, by_begin);
    uint64_t at = 0;
    for (uint32_t i = 0; i < count; at = stored[i++].end)
        if (stored[i].begin != at)
            return error_set(error, CORRUPT, "tensor \"%s\" overlaps another or leaves a gap",
                             stored[i].name);
    if (at != data_size)
        return error_set(error, CORRUPT, "%llu bytes belong to no tensor",
                         (unsigned long long)(data_size - at));
    return OK;
}

static enum status check_tied_head(const struct shard_source *source, uint64_t data,
                                   const struct stored *stored, const struct layout *layout,
                                   const float *parameters, float *piece, void *raw,
                                   struct error *error) {
    const struct layout_tensor *embedding = &layout->tensors[0];
    for (uint64_t at = 0; at < embedding->count; at += PIECE) {
        uint64_t here = MIN(embedding->count - at, (uint64_t)PIECE);
        TRY(read_values(source, data, stored, at, here, raw, piece, error));
        for (uint64_t i = 0; i < here; i++)
            if (piece[i] != parameters[embedding->offset + at + i])
                return error_set(error, INVALID,
                                 "lm_head.weight differs from the embedding it is tied to");
    }
    return OK;
}

/* The tensors into the parameters, then the head of a tied model against the embedding. */
static enum status copy_values(const struct shard_source *source, uint64_t data,
                               const struct layout *layout, const struct stored *stored,
                               uint32_t count, float *parameters, struct error *error) {
    float *piece = xmalloc(PIECE * sizeof *piece);
    uint16_t *raw = xmalloc(PIECE * sizeof *raw);
    enum status status = OK;
    for (uint32_t i = 0; i < count; i++) {
        const struct layout_tensor *tensor = stored[i].tensor;
        for (uint64_t at = 0; tensor && at < tensor->count && status == OK; at += PIECE)
            status =
                read_values(source, data, &stored[i], at, MIN(tensor->count - at, (uint64_t)PIECE),
                            raw, parameters + tensor->offset + at, error);
    }
    for (uint32_t i = 0; i < count && status == OK; i++)
        if (!stored[i].tensor && !stored[i].derived)
            status =
                check_tied_head(source, data, &stored[i], layout, parameters, piece, raw, error);
    free(raw);
    free(piece);
    return status;
}

/* A tensor comes once, and the head of a tied model after its embedding. */
static enum status mark_held(const struct layout *layout, const struct stored *stored,
                             uint32_t count, uint32_t mark, uint32_t *held, struct error *error) {
    for (uint32_t i = 0; i < count; i++) {
        if (stored[i].derived) continue;
        size_t index =
            stored[i].tensor ? (size_t)(stored[i].tensor - layout->tensors) : layout->tensor_count;
        if (held[index])
            return error_set(error, INVALID, "tensor \"%s\" is in another file as well",
                             stored[i].name);
        held[index] = mark;
    }
    if (held[layout->tensor_count] && !held[0])
        return error_set(error, INVALID,
                         "lm_head.weight is tied to an embedding that is not there");
    return OK;
}

/* With `held`, whatever tensors there are; without, all of them. */
static enum status decode(const struct shard_source *source, const struct layout *layout,
                          float *parameters, uint32_t mark, uint32_t *held, struct error *error) {
    uint8_t raw_size[8];
    if (source->size < 8)
        return error_set(error, CORRUPT, "not a safetensors file, or truncated: %d bytes",
                         (int)source->size);
    TRY(source_read(source, 0, raw_size, sizeof raw_size, error));
    struct reader reader = reader_of(bytes_of(raw_size, sizeof raw_size));
    uint64_t header_size = reader_u64(&reader);
    if (header_size > source->size - 8 || header_size > SAFETENSORS_HEADER_MAX)
        return error_set(error, CORRUPT, "not a safetensors file, or truncated: %llu bytes",
                         (unsigned long long)source->size);
    uint64_t data = 8 + header_size, data_size = source->size - data;
    struct json *json = NULL;
    struct stored *stored = NULL;
    uint8_t *header = xmalloc(header_size);
    uint32_t count = 0;
    const struct json_limits limits = {.size = SAFETENSORS_HEADER_MAX, .depth = 8};
    enum status status = source_read(source, 8, header, header_size, error);
    if (status != OK) goto out;
    status = json_parse(bytes_of(header, header_size), &limits, &json, error);
    if (status != OK) {
        error_wrap(error, status, "safetensors header");
        /* a file's bad JSON is a bad file */
        status = fail_as(error, status == FULL ? FULL : CORRUPT);
        goto out;
    }
    stored = xcalloc(json_root(json)->count + 1, sizeof *stored);
    status = read_members(layout, json_root(json), data_size, stored, &count, error);
    if (status == OK && !held) status = check_all_there(layout, json_root(json), error);
    if (status == OK) status = check_tiling(stored, count, data_size, error);
    if (status == OK && held) status = mark_held(layout, stored, count, mark, held, error);
    if (status == OK) status = copy_values(source, data, layout, stored, count, parameters, error);
out:
    free(header);
    free(stored);
    json_close(json);
    return status;
}

enum status safetensors_decode(const struct layout *layout, struct bytes file, float *parameters,
                               struct error *error) {
    const struct shard_source source = {.memory = file.data ? file.data : (const uint8_t *)"",
                                        .size = file.size};
    return decode(&source, layout, parameters, 0, NULL, error);
}

static enum status decode_file(const char *path, const struct layout *layout, float *parameters,
                               uint32_t mark, uint32_t *held, struct error *error) {
    struct shard_source source = {0};
    TRY(file_open(path, &source.descriptor, &source.size, error));
    enum status status = decode(&source, layout, parameters, mark, held, error);
    if (status != OK) status = error_wrap(error, status, "%s", path);
    close(source.descriptor);
    return status;
}

enum status safetensors_read(const char *path, const struct layout *layout, float *parameters,
                             struct error *error) {
    return decode_file(path, layout, parameters, 0, NULL, error);
}

enum status safetensors_read_part(const char *path, const struct layout *layout, float *parameters,
                                  uint32_t mark, uint32_t *held, struct error *error) {
    return decode_file(path, layout, parameters, mark, held, error);
}
