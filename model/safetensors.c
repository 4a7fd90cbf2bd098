/* Reading .safetensors files (model/safetensors.h). Headers come from strangers: size, JSON, types,
 * shapes and offsets are all checked before a byte of data is read. */
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

enum { PIECE = 1 << 16 }; /* values that are converted at a time */

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
    const struct layout_tensor *tensor; /* its values go there; NULL: they are */
    const struct layout_tensor *same;   /* compared with those of this one, or */
    bool passed_over;                   /* no parameter */
    uint32_t slot;                      /* in `held` */
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
    *out = tensor_dtype_of(text);
    if (*out != DTYPE_COUNT) return OK;
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
    char text[LAYOUT_SHAPE_SIZE];
    return error_set(error, INVALID, "its shape is not %s",
                     layout_shape_text(tensor->dimensions, tensor->shape, text));
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
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end; /* an empty one before who begins there */
}

bool safetensors_is_derived(const char *name) {
    static const char suffix[] = "rotary_emb.inv_freq";
    size_t size = strlen(name);
    if (size < sizeof suffix - 1 || strcmp(name + size - (sizeof suffix - 1), suffix) != 0)
        return false;
    return size == sizeof suffix - 1 || name[size - sizeof suffix] == '.';
}

/* What a name is in this layout. False: nothing. */
static bool place_stored(const struct layout *layout, struct stored *out) {
    const char *name = out->name;
    const struct layout_other *other = layout_find_other(layout, name);
    out->tensor = layout_find(layout, name);
    if (out->tensor) {
        out->slot = (uint32_t)(out->tensor - layout->tensors);
    } else if (other) {
        out->slot = layout->tensor_count + (uint32_t)(other - layout->others);
        out->passed_over = other->tied == LAYOUT_FROZEN;
        out->same = out->passed_over ? NULL : &layout->tensors[other->tied];
    } else if (layout->built_in && layout->config.tied && strcmp(name, "lm_head.weight") == 0) {
        out->slot = layout->tensor_count + layout->other_count;
        out->same = &layout->tensors[0];
    } else {
        out->passed_over = layout->built_in && safetensors_is_derived(name);
        out->slot = UINT32_MAX;
    }
    return out->tensor || out->same || out->passed_over;
}

/* Fills stored[] (room for as many as the header has) from the header's members. */
static enum status read_members(const struct layout *layout, const struct json_value *root,
                                uint64_t data_size, struct stored *stored, uint32_t *count,
                                struct error *error) {
    *count = 0;
    for (size_t i = 0; i < root->count; i++) {
        const struct json_value *entry = &root->items[i];
        if (strcmp(entry->key, "__metadata__") == 0) continue;
        struct stored *s = &stored[(*count)++];
        *s = (struct stored){.name = entry->key};
        if (!place_stored(layout, s))
            return error_set(error, INVALID, "tensor \"%.100s\" is not in this model", entry->key);
        enum status status =
            read_entry(entry, s->tensor ? s->tensor : s->same, data_size, s, error);
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

static enum status check_tied(const struct shard_source *source, uint64_t data,
                              const struct stored *stored, const float *parameters, float *piece,
                              void *raw, struct error *error) {
    const struct layout_tensor *same = stored->same;
    for (uint64_t at = 0; at < same->count; at += PIECE) {
        uint64_t here = MIN(same->count - at, (uint64_t)PIECE);
        TRY(read_values(source, data, stored, at, here, raw, piece, error));
        for (uint64_t i = 0; i < here; i++)
            if (piece[i] != parameters[same->offset + at + i])
                return error_set(error, INVALID,
                                 "tensor \"%s\" differs from \"%s\", which it is "
                                 "tied to",
                                 stored->name, same->name);
    }
    return OK;
}

static enum status check_ties(const struct shard_source *source, uint64_t data,
                              const struct stored *stored, uint32_t count, const float *parameters,
                              struct error *error) {
    float *piece = xmalloc(PIECE * sizeof *piece);
    uint16_t *raw = xmalloc(PIECE * sizeof *raw);
    enum status status = OK;
    for (uint32_t i = 0; i < count && status == OK; i++)
        if (stored[i].same)
            status = check_tied(source, data, &stored[i], parameters, piece, raw, error);
    free(raw);
    free(piece);
    return status;
}

static enum status copy_values(const struct shard_source *source, uint64_t data,
                               const struct stored *stored, uint32_t count, float *parameters,
                               struct error *error) {
    uint16_t *raw = xmalloc(PIECE * sizeof *raw);
    enum status status = OK;
    for (uint32_t i = 0; i < count; i++) {
        const struct layout_tensor *tensor = stored[i].tensor;
        for (uint64_t at = 0; tensor && at < tensor->count && status == OK; at += PIECE)
            status =
                read_values(source, data, &stored[i], at, MIN(tensor->count - at, (uint64_t)PIECE),
                            raw, parameters + tensor->offset + at, error);
    }
    free(raw);
    return status;
}

/* A tensor comes once. */
static enum status mark_held(const struct stored *stored, uint32_t count, uint32_t mark,
                             uint32_t *held, struct error *error) {
    for (uint32_t i = 0; i < count; i++) {
        if (stored[i].slot == UINT32_MAX) continue;
        if (held[stored[i].slot])
            return error_set(error, INVALID, "tensor \"%s\" is in another file as well",
                             stored[i].name);
        held[stored[i].slot] = mark;
    }
    return OK;
}

/* ---- the header ------------------------------------------------------------------------------ */

struct opened {        /* a file whose header has been read */
    struct json *json; /* an object */
    uint64_t data, data_size;
};

static enum status open_header(const struct shard_source *source, struct opened *out,
                               struct error *error) {
    uint8_t raw_size[8];
    if (source->size < 8)
        return error_set(error, CORRUPT, "not a safetensors file, or truncated: %d bytes",
                         (int)source->size);
    TRY(source_read(source, 0, raw_size, sizeof raw_size, error));
    struct reader reader = reader_of(bytes_of(raw_size, sizeof raw_size));
    uint64_t header_size = reader_u64(&reader);
    if (header_size > source->size - 8)
        return error_set(error, CORRUPT, "not a safetensors file, or truncated: %llu bytes",
                         (unsigned long long)source->size);
    if (header_size > SAFETENSORS_HEADER_MAX)
        return error_set(error, CORRUPT, "its header has %llu bytes; at most %d are possible",
                         (unsigned long long)header_size, SAFETENSORS_HEADER_MAX);
    uint8_t *header = xmalloc(MAX(header_size, (uint64_t)1));
    const struct json_limits limits = {.size = SAFETENSORS_HEADER_MAX, .depth = 8};
    struct json *json = NULL;
    enum status status = source_read(source, 8, header, header_size, error);
    if (status == OK) {
        status = json_parse(bytes_of(header, header_size), &limits, &json, error);
        if (status != OK) {
            error_wrap(error, status, "safetensors header");
            /* a file's bad JSON is a bad file */
            status = fail_as(error, status == FULL ? FULL : CORRUPT);
        }
    }
    free(header);
    if (status == OK && json_root(json)->type != JSON_OBJECT)
        status = error_set(error, CORRUPT, "the header is not an object");
    if (status != OK) {
        json_close(json);
        return status;
    }
    *out = (struct opened){json, 8 + header_size, source->size - 8 - header_size};
    return OK;
}

/* ---- a model --------------------------------------------------------------------------------- */

/* What of a file is read: all tensors of the layout, which must be there; whichever are there; or
 * only the other names of tensors that were read before. */
enum reading { READ_ALL, READ_PART, READ_TIES };

static enum status decode(const struct shard_source *source, const struct layout *layout,
                          float *parameters, enum reading reading, uint32_t mark, uint32_t *held,
                          struct error *error) {
    struct opened opened;
    TRY(open_header(source, &opened, error));
    const struct json_value *root = json_root(opened.json);
    struct stored *stored = xcalloc(root->count + 1, sizeof *stored);
    uint32_t count = 0;
    enum status status = read_members(layout, root, opened.data_size, stored, &count, error);
    if (status == OK && reading == READ_ALL) status = check_all_there(layout, root, error);
    if (status == OK) status = check_tiling(stored, count, opened.data_size, error);
    if (status == OK && reading == READ_PART) status = mark_held(stored, count, mark, held, error);
    if (status == OK && reading != READ_TIES)
        status = copy_values(source, opened.data, stored, count, parameters, error);
    if (status == OK && reading != READ_PART)
        status = check_ties(source, opened.data, stored, count, parameters, error);
    free(stored);
    json_close(opened.json);
    return status;
}

enum status safetensors_decode(const struct layout *layout, struct bytes file, float *parameters,
                               struct error *error) {
    const struct shard_source source = {.memory = file.data ? file.data : (const uint8_t *)"",
                                        .size = file.size};
    return decode(&source, layout, parameters, READ_ALL, 0, NULL, error);
}

static enum status decode_file(const char *path, const struct layout *layout, float *parameters,
                               enum reading reading, uint32_t mark, uint32_t *held,
                               struct error *error) {
    struct shard_source source = {0};
    TRY(file_open(path, &source.descriptor, &source.size, error));
    enum status status = decode(&source, layout, parameters, reading, mark, held, error);
    if (status != OK) status = error_wrap(error, status, "%s", path);
    close(source.descriptor);
    return status;
}

enum status safetensors_read(const char *path, const struct layout *layout, float *parameters,
                             struct error *error) {
    return decode_file(path, layout, parameters, READ_ALL, 0, NULL, error);
}

enum status safetensors_read_part(const char *path, const struct layout *layout, float *parameters,
                                  uint32_t mark, uint32_t *held, struct error *error) {
    return decode_file(path, layout, parameters, READ_PART, mark, held, error);
}

enum status safetensors_check_ties(const char *path, const struct layout *layout,
                                   const float *parameters, struct error *error) {
    /* nothing is written to them */
    return decode_file(path, layout, (float *)(uintptr_t)parameters, READ_TIES, 0, NULL, error);
}

/* ---- whatever a file holds ------------------------------------------------------------------- */

static enum status list_shape(const struct json_value *member, struct safetensors_entry *out,
                              uint64_t *values, struct error *error) {
    const struct json_value *shape;
    TRY(json_get_array(member, "shape", &shape, error));
    *values = 1;
    if (shape->count > LAYOUT_DIMENSIONS)
        return error_set(error, INVALID, "it has %zu dimensions; at most %d are possible",
                         shape->count, LAYOUT_DIMENSIONS);
    for (size_t d = 0; d < shape->count; d++) {
        const struct json_value *size = &shape->items[d];
        if (size->type != JSON_NUMBER || !size->is_u64)
            return error_set(error, CORRUPT, "its shape is not of whole numbers");
        if (size->integer != 0 && *values > (UINT64_MAX >> 4) / size->integer)
            return error_set(error, CORRUPT, "its shape is larger than any file");
        out->shape[d] = size->integer;
        *values *= size->integer;
    }
    out->dimensions = (uint32_t)shape->count;
    return OK;
}

static enum status list_member(const struct json_value *member, uint64_t data_size,
                               struct safetensors_entry *out, struct stored *stored,
                               struct error *error) {
    const char *type;
    uint64_t values;
    *stored = (struct stored){.name = member->key, .passed_over = true};
    if (strlen(member->key) >= sizeof out->name)
        return error_set(error, INVALID, "its name has %zu bytes; at most %zu are possible",
                         strlen(member->key), sizeof out->name - 1);
    TRY(read_entry(member, NULL, data_size, stored, error));
    TRY(json_get_text(member, "dtype", &type, error));
    uint64_t size = layout_type_size(type);
    if (size == 0) return error_set(error, INVALID, "dtype \"%.20s\" is not known", type);
    TRY(list_shape(member, out, &values, error));
    if (stored->end - stored->begin != values * size)
        return error_set(error, CORRUPT, "its offsets %llu..%llu do not fit its shape",
                         (unsigned long long)stored->begin, (unsigned long long)stored->end);
    memcpy(out->name, member->key, strlen(member->key));
    memcpy(out->type, type, strlen(type));
    out->at = stored->begin;
    out->size = values * size;
    return OK;
}

static int by_place(const void *a, const void *b) {
    const struct safetensors_entry *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

static enum status list(const struct opened *opened, struct safetensors_entry *entries,
                        struct stored *stored, uint32_t *count, struct error *error) {
    const struct json_value *root = json_root(opened->json);
    for (size_t i = 0; i < root->count; i++) {
        const struct json_value *member = &root->items[i];
        if (strcmp(member->key, "__metadata__") == 0) continue;
        enum status status =
            list_member(member, opened->data_size, &entries[*count], &stored[*count], error);
        if (status != OK) {
            error_wrap(error, status, "tensor \"%.100s\"", member->key);
            return fail_as(error, status == NOT_FOUND ? CORRUPT : status);
        }
        entries[(*count)++].at += opened->data;
    }
    TRY(check_tiling(stored, *count, opened->data_size, error));
    qsort(entries, *count, sizeof *entries, by_place);
    return OK;
}

enum status safetensors_list(const char *path, struct safetensors_entry **out, uint32_t *count,
                             struct error *error) {
    struct shard_source source = {0};
    struct opened opened = {0};
    TRY(file_open(path, &source.descriptor, &source.size, error));
    enum status status = open_header(&source, &opened, error);
    size_t most = status == OK ? json_root(opened.json)->count + 1 : 1;
    struct safetensors_entry *entries = xcalloc(most, sizeof *entries);
    struct stored *stored = xcalloc(most, sizeof *stored);
    *count = 0;
    if (status == OK) status = list(&opened, entries, stored, count, error);
    if (status == OK)
        *out = entries;
    else
        free(entries);
    free(stored);
    json_close(opened.json);
    close(source.descriptor);
    return status == OK ? OK : error_wrap(error, status, "%s", path);
}

enum status safetensors_bytes(const char *path, const struct safetensors_entry *entry,
                              void (*take)(void *context, const void *data, size_t size),
                              void *context, struct error *error) {
    struct shard_source source = {0};
    TRY(file_open(path, &source.descriptor, &source.size, error));
    uint8_t *piece = xmalloc(PIECE);
    enum status status = OK;
    for (uint64_t at = 0; status == OK && at < entry->size; at += PIECE) {
        size_t here = (size_t)MIN(entry->size - at, (uint64_t)PIECE);
        status = source_read(&source, entry->at + at, piece, here, error);
        if (status == OK) take(context, piece, here);
    }
    free(piece);
    close(source.descriptor);
    return status == OK ? OK : error_wrap(error, status, "%s", path);
}
