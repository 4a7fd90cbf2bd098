/* Writing .safetensors files (model/safetensors.h): a header, then the tensors, a piece at a time.
 */
#include "model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "model/checkpoint.h"

static const struct layout_other *other_of(const struct layout *layout, uint32_t item) {
    return item < layout->tensor_count ? NULL : &layout->others[item - layout->tensor_count];
}

/* The trained tensor whose values an item has; NULL: it is frozen. */
static const struct layout_tensor *values_of(const struct layout *layout, uint32_t item) {
    const struct layout_other *other = other_of(layout, item);
    if (!other) return &layout->tensors[item];
    return other->tied == LAYOUT_FROZEN ? NULL : &layout->tensors[other->tied];
}

const char *safetensors_item_type(const struct layout *layout, uint32_t item,
                                  const enum tensor_dtype *dtype) {
    const struct layout_tensor *tensor = values_of(layout, item);
    return tensor ? tensor_dtype_name(dtype ? *dtype : tensor->dtype)
                  : other_of(layout, item)->type;
}

uint64_t safetensors_item_size(const struct layout *layout, uint32_t item,
                               const enum tensor_dtype *dtype) {
    const struct layout_tensor *tensor = values_of(layout, item);
    return tensor ? tensor->count * tensor_dtype_size(dtype ? *dtype : tensor->dtype)
                  : other_of(layout, item)->size;
}

static const char *name_of(const struct layout *layout, uint32_t item) {
    const struct layout_other *other = other_of(layout, item);
    return other ? other->name : layout->tensors[item].name;
}

/* Those of wide types first. Returns [part->count], the caller's. */
static uint32_t *in_order(const struct layout *layout, const struct safetensors_part *part) {
    uint32_t *order = xcalloc(part->count, sizeof *order), at = 0;
    for (uint64_t size = 8; size > 0; size /= 2)
        for (uint32_t i = 0; i < part->count; i++)
            if (layout_type_size(safetensors_item_type(layout, part->items[i], part->dtype)) ==
                size)
                order[at++] = part->items[i];
    return order;
}

static void write_item(struct json_writer *writer, const struct layout *layout, uint32_t item,
                       const char *type, uint64_t begin, uint64_t end) {
    const struct layout_tensor *tensor = values_of(layout, item);
    const struct layout_other *other = other_of(layout, item);
    uint32_t dimensions = tensor ? tensor->dimensions : other->dimensions;
    const uint64_t *shape = tensor ? tensor->shape : other->shape;
    json_key(writer, name_of(layout, item));
    json_begin_object(writer);
    json_put_text(writer, "dtype", type);
    json_key(writer, "shape");
    json_begin_array(writer);
    for (uint32_t d = 0; d < dimensions; d++) json_u64(writer, shape[d]);
    json_end_array(writer);
    json_key(writer, "data_offsets");
    json_begin_array(writer);
    json_u64(writer, begin);
    json_u64(writer, end);
    json_end_array(writer);
    json_end_object(writer);
}

/* The size and the padded header of a file with those items, in their order. */
static void write_header(const struct layout *layout, const struct safetensors_part *part,
                         const uint32_t *order, struct buffer *file) {
    struct buffer header = {0}, *out = &header;
    struct json_writer writer = json_writer_of(out, false);
    json_begin_object(&writer);
    json_key(&writer, "__metadata__");
    json_begin_object(&writer);
    json_key(&writer, "format");
    json_text(&writer, "pt"); /* transformers needs to be told */
    if (part->version >= 0) {
        char text[24];
        snprintf(text, sizeof text, "%lld", (long long)part->version);
        json_key(&writer, "version");
        json_text(&writer, text);
    }
    json_end_object(&writer);
    uint64_t at = 0;
    for (uint32_t i = 0; i < part->count; i++) {
        uint64_t size = safetensors_item_size(layout, order[i], part->dtype);
        write_item(&writer, layout, order[i], safetensors_item_type(layout, order[i], part->dtype),
                   at, at + size);
        at += size;
    }
    json_end_object(&writer);
    /* so that the data are aligned in a mapped file */
    while (header.size % 8 != 0) buffer_u8(&header, ' ');
    buffer_u64(file, header.size);
    buffer_append(file, header.data, header.size);
    buffer_deinit(&header);
}

static const enum tensor_dtype full_precision = DTYPE_F32;

static uint32_t *all_trained(const struct layout *layout) {
    uint32_t *items = xcalloc(layout->tensor_count, sizeof *items);
    for (uint32_t i = 0; i < layout->tensor_count; i++) items[i] = i;
    return items;
}

void safetensors_encode(const struct layout *layout, const float *parameters, int64_t version,
                        struct buffer *out) {
    uint32_t *items = all_trained(layout);
    const struct safetensors_part part = {.items = items,
                                          .count = layout->tensor_count,
                                          .dtype = &full_precision,
                                          .version = version};
    write_header(layout, &part, items, out);
    buffer_reserve(out, out->size + layout->count * sizeof(float));
    buffer_append(out, parameters, layout->count * sizeof(float));
    free(items);
}

enum status safetensors_write(const char *path, const struct layout *layout,
                              const float *parameters, int64_t version, struct error *error) {
    uint32_t *items = all_trained(layout);
    const struct safetensors_part part = {.items = items,
                                          .count = layout->tensor_count,
                                          .dtype = &full_precision,
                                          .version = version};
    enum status status = safetensors_write_part(path, layout, parameters, &part, error);
    free(items);
    return status;
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

static uint16_t narrow(float value, enum tensor_dtype dtype) {
    return dtype == DTYPE_F16 ? half_of(value) : bfloat_of(value);
}

bool safetensors_fit(const float *values, uint64_t count, enum tensor_dtype dtype) {
    for (uint64_t i = 0; dtype != DTYPE_F32 && i < count; i++)
        if (is_infinite(narrow(values[i], dtype), dtype)) return false;
    return true;
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
            piece[i] = narrow(values[at + i], dtype);
            if (is_infinite(piece[i], dtype)) {
                status = error_set(error, INVALID, "value %g does not fit into %s",
                                   (double)values[at + i], tensor_dtype_name(dtype));
                break;
            }
        }
        if (status == OK) status = file_write_all(descriptor, piece, here * sizeof *piece, error);
    }
    free(piece);
    return status;
}

struct frozen_copy { /* a frozen tensor's bytes on their way into the file */
    int descriptor;
    enum status status;
    struct error *error;
};

static void copy_bytes(void *context, const void *data, size_t size) {
    struct frozen_copy *copy = context;
    if (copy->status == OK)
        copy->status = file_write_all(copy->descriptor, data, size, copy->error);
}

static enum status write_frozen(int descriptor, const char *from, const struct layout_other *other,
                                struct error *error) {
    struct checkpoint_listing listing;
    if (!from) return error_set(error, INVALID, "it is frozen, and no checkpoint has it");
    TRY(checkpoint_list(from, &listing, error));
    struct frozen_copy copy = {.descriptor = descriptor, .error = error};
    enum status status = error_set(error, NOT_FOUND, "%s lacks it", from);
    for (uint32_t i = 0; i < listing.count; i++) {
        const struct safetensors_entry *entry = &listing.tensors[i].entry;
        if (strcmp(entry->name, other->name) != 0 || entry->size != other->size) continue;
        status = safetensors_bytes(listing.files[listing.tensors[i].file], entry, copy_bytes, &copy,
                                   error);
    }
    checkpoint_listing_deinit(&listing);
    return status == OK ? copy.status : status;
}

static enum status write_data(int descriptor, const struct layout *layout, const float *parameters,
                              const struct safetensors_part *part, const uint32_t *order,
                              struct error *error) {
    for (uint32_t i = 0; i < part->count; i++) {
        const struct layout_tensor *tensor = values_of(layout, order[i]);
        enum status status =
            tensor ? write_values(descriptor, parameters + tensor->offset, tensor->count,
                                  part->dtype ? *part->dtype : tensor->dtype, error)
                   : write_frozen(descriptor, part->frozen, other_of(layout, order[i]), error);
        if (status != OK)
            return error_wrap(error, status, "tensor \"%s\"", name_of(layout, order[i]));
    }
    return OK;
}

/* As file_write, but without the whole file in memory. */
enum status safetensors_write_part(const char *path, const struct layout *layout,
                                   const float *parameters, const struct safetensors_part *part,
                                   struct error *error) {
    struct buffer header = {0};
    uint32_t *order = in_order(layout, part);
    write_header(layout, part, order, &header);
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
    if (status == OK) status = write_data(descriptor, layout, parameters, part, order, error);
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
    free(order);
    buffer_deinit(&header);
    return status;
}
