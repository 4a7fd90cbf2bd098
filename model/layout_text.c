/* Layouts as text (model/layout_text.h). Every bound is checked where a tensor is added, so that no
 * later product of sizes can overflow. */
#include "model/layout_text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"

static const char first_line[] = "atoll tensors 1\n";

enum { LINE_MAX_SIZE = 1024, DIGEST_BYTES = 32 };
#define VALUES_MAX (UINT64_C(1) << 42) /* of a tensor, and of all */

/* ---- types ----------------------------------------------------------------------------------- */

static const char *const dtype_names[DTYPE_COUNT] = {
    [DTYPE_F32] = "F32", [DTYPE_BF16] = "BF16", [DTYPE_F16] = "F16"};

const char *tensor_dtype_name(enum tensor_dtype dtype) { return dtype_names[dtype]; }

enum tensor_dtype tensor_dtype_of(const char *type) {
    for (int i = 0; i < DTYPE_COUNT; i++)
        if (strcmp(dtype_names[i], type) == 0) return (enum tensor_dtype)i;
    return DTYPE_COUNT;
}

uint64_t layout_type_size(const char *type) {
    static const struct {
        const char *name;
        uint64_t size;
    } types[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1},
                 {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},
                 {"U32", 4},  {"F32", 4}, {"F64", 8}, {"I64", 8},     {"U64", 8}};
    for (size_t i = 0; i < COUNT_OF(types); i++)
        if (strcmp(types[i].name, type) == 0) return types[i].size;
    return 0;
}

/* ---- adding ---------------------------------------------------------------------------------- */

static enum status check_name(const char *name, struct error *error) {
    size_t size = strlen(name);
    if (size == 0 || size >= LAYOUT_NAME_SIZE)
        return error_set(error, INVALID, "a tensor's name has %zu bytes; 1 to %d are possible",
                         size, LAYOUT_NAME_SIZE - 1);
    bool plain = name[0] != ' ' && name[size - 1] != ' ' && !strstr(name, "] ") &&
                 utf8_is_valid((const uint8_t *)name, size);
    for (size_t i = 0; plain && i < size; i++)
        plain = (unsigned char)name[i] >= 0x20 && name[i] != 0x7f;
    if (plain) return OK;
    char shown[LAYOUT_NAME_SIZE] = "";
    for (size_t i = 0; i < size; i++)
        shown[i] = (unsigned char)name[i] < 0x20 || (unsigned char)name[i] >= 0x7f ? '?' : name[i];
    return error_set(
        error, INVALID,
        "tensor \"%s\": a layout's names have no control characters, no blank at an end "
        "and no \"] \"",
        shown);
}

/* 0 where a dimension is. */
static enum status count_values(const char *name, uint32_t dimensions, const uint64_t *shape,
                                uint64_t *out, struct error *error) {
    uint64_t values = 1;
    bool is_empty = false;
    if (dimensions > LAYOUT_DIMENSIONS)
        return error_set(error, INVALID,
                         "tensor \"%.100s\" has %u dimensions; at most %d are "
                         "possible",
                         name, dimensions, LAYOUT_DIMENSIONS);
    for (uint32_t d = 0; d < dimensions; d++) {
        if (shape[d] > VALUES_MAX / values)
            return error_set(error, INVALID, "tensor \"%.100s\" is too large", name);
        is_empty |= shape[d] == 0;
        values *= shape[d] ? shape[d] : 1;
    }
    *out = is_empty ? 0 : values;
    return OK;
}

enum status layout_add_trained(struct layout *layout, const char *name, enum tensor_dtype dtype,
                               uint32_t dimensions, const uint64_t *shape, struct error *error) {
    uint64_t values;
    TRY(check_name(name, error));
    TRY(count_values(name, dimensions, shape, &values, error));
    if (values == 0)
        return error_set(error, INVALID,
                         "tensor \"%.100s\" is empty, so nothing of it can be trained: write it as "
                         "frozen",
                         name);
    if (layout->tensor_count == LAYOUT_TENSORS_MAX || values > VALUES_MAX - layout->count)
        return error_set(error, INVALID, "there are too many tensors: \"%.100s\" is one more",
                         name);
    /* grows at powers of two */
    if ((layout->tensor_count & (layout->tensor_count - 1)) == 0) {
        size_t room = layout->tensor_count ? 2 * (size_t)layout->tensor_count : 1;
        layout->tensors = xrealloc(layout->tensors, room * sizeof *layout->tensors);
    }
    struct layout_tensor *tensor = &layout->tensors[layout->tensor_count++];
    *tensor = (struct layout_tensor){
        .offset = layout->count, .count = values, .dimensions = dimensions, .dtype = dtype};
    memcpy(tensor->name, name, strlen(name));
    if (dimensions) memcpy(tensor->shape, shape, dimensions * sizeof *shape);
    tensor->decays = dimensions > 1;
    size_t length = strlen(name);
    bool bias = length >= 4 && strcmp(name + length - 4, "bias") == 0;
    tensor->initial_scale = dimensions > 1 ? layout_initial_scale(1) : bias ? -1.0f : 0.0f;
    layout->count += values;
    return OK;
}

static enum status add_other(struct layout *layout, const char *name, struct layout_other **out,
                             struct error *error) {
    TRY(check_name(name, error));
    if (layout->other_count == LAYOUT_TENSORS_MAX)
        return error_set(error, INVALID, "there are too many tensors: \"%.100s\" is one more",
                         name);
    if ((layout->other_count & (layout->other_count - 1)) == 0) {
        size_t room = layout->other_count ? 2 * (size_t)layout->other_count : 1;
        layout->others = xrealloc(layout->others, room * sizeof *layout->others);
    }
    *out = &layout->others[layout->other_count++];
    **out = (struct layout_other){.tied = LAYOUT_FROZEN};
    memcpy((*out)->name, name, strlen(name));
    return OK;
}

enum status layout_add_tied(struct layout *layout, const char *name, const char *of,
                            struct error *error) {
    const struct layout_tensor *tensor = layout_find(layout, of);
    if (!tensor)
        return error_set(error, INVALID,
                         "tensor \"%.100s\" is tied to \"%.100s\", which is not "
                         "trained",
                         name, of);
    struct layout_other *other;
    TRY(add_other(layout, name, &other, error));
    other->tied = (uint32_t)(tensor - layout->tensors);
    other->dimensions = tensor->dimensions;
    memcpy(other->shape, tensor->shape, sizeof other->shape);
    return OK;
}

enum status layout_add_frozen(struct layout *layout, const char *name, const char *type,
                              uint32_t dimensions, const uint64_t *shape,
                              const uint8_t digest[static DIGEST_BYTES], struct error *error) {
    uint64_t values, size = layout_type_size(type);
    TRY(count_values(name, dimensions, shape, &values, error));
    if (size == 0)
        return error_set(error, INVALID, "tensor \"%.100s\" has type \"%.11s\", which is none",
                         name, type);
    struct layout_other *other;
    TRY(add_other(layout, name, &other, error));
    snprintf(other->type, sizeof other->type, "%s", type);
    other->dimensions = dimensions;
    if (dimensions) memcpy(other->shape, shape, dimensions * sizeof *shape);
    other->size = values * size;
    memcpy(other->digest, digest, DIGEST_BYTES);
    return OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct layout_other *)a)->name, ((const struct layout_other *)b)->name);
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

enum status layout_finish(struct layout *layout, struct error *error) {
    if (layout->tensor_count == 0) return error_set(error, INVALID, "there is no tensor to train");
    if (layout->other_count)
        qsort(layout->others, layout->other_count, sizeof *layout->others, by_name);
    size_t count = (size_t)layout->tensor_count + layout->other_count;
    const char **names = xcalloc(count, sizeof *names), *twice = NULL;
    for (uint32_t i = 0; i < layout->tensor_count; i++) names[i] = layout->tensors[i].name;
    for (uint32_t i = 0; i < layout->other_count; i++)
        names[layout->tensor_count + i] = layout->others[i].name;
    qsort(names, count, sizeof *names, by_text);
    for (size_t i = 1; i < count && !twice; i++)
        if (strcmp(names[i - 1], names[i]) == 0) twice = names[i];
    enum status status =
        twice ? error_set(error, INVALID, "tensor \"%.100s\" comes twice", twice) : OK;
    free(names);
    return status;
}

void layout_recognise(struct layout *layout, const struct model_config *config) {
    struct layout own = {0};
    if (layout_init(config, &own, NULL) != OK) return;
    bool same = own.tensor_count == layout->tensor_count;
    for (uint32_t i = 0; same && i < own.tensor_count; i++)
        same = strcmp(own.tensors[i].name, layout->tensors[i].name) == 0 &&
               own.tensors[i].dimensions == layout->tensors[i].dimensions &&
               memcmp(own.tensors[i].shape, layout->tensors[i].shape,
                      sizeof own.tensors[i].shape) == 0;
    for (uint32_t i = 0; same && i < own.tensor_count; i++) {
        layout->tensors[i].decays = own.tensors[i].decays;
        layout->tensors[i].initial_scale = own.tensors[i].initial_scale;
    }
    layout->built_in = same;
    if (same) layout->config = *config;
    layout_deinit(&own);
}

/* ---- writing --------------------------------------------------------------------------------- */

void layout_write(const struct layout *layout, struct buffer *out) {
    char shape[LAYOUT_SHAPE_SIZE];
    buffer_append(out, first_line, sizeof first_line - 1);
    for (uint32_t i = 0; i < layout->tensor_count; i++) {
        const struct layout_tensor *tensor = &layout->tensors[i];
        buffer_append_text(out, "trained %s %s %s\n", dtype_names[tensor->dtype],
                           layout_shape_text(tensor->dimensions, tensor->shape, shape),
                           tensor->name);
    }
    for (uint32_t i = 0; i < layout->other_count; i++) {
        const struct layout_other *other = &layout->others[i];
        if (other->tied != LAYOUT_FROZEN) {
            buffer_append_text(out, "tied [%s] %s\n", layout->tensors[other->tied].name,
                               other->name);
            continue;
        }
        buffer_append_text(out, "frozen %s %s ", other->type,
                           layout_shape_text(other->dimensions, other->shape, shape));
        for (int b = 0; b < DIGEST_BYTES; b++) buffer_append_text(out, "%02x", other->digest[b]);
        buffer_append_text(out, " %s\n", other->name);
    }
}

/* ---- reading --------------------------------------------------------------------------------- */

/* The next word, up to a blank, which is skipped. NULL: there is none. */
static char *take_word(char **at) {
    char *word = *at, *end = strchr(word, ' ');
    if (!end || end == word) return NULL;
    *end = 0;
    *at = end + 1;
    return word;
}

/* What stands in brackets, and the blank after it. NULL: there are none. */
static char *take_brackets(char **at) {
    if (**at != '[') return NULL;
    char *text = *at + 1, *end = strstr(text, "] ");
    if (!end) return NULL;
    *end = 0;
    *at = end + 2;
    return text;
}

static enum status parse_shape(const char *text, uint32_t *dimensions, uint64_t *shape,
                               struct error *error) {
    *dimensions = 0;
    while (*text) {
        char *end;
        if (*text < '0' || *text > '9' || *dimensions == LAYOUT_DIMENSIONS)
            return error_set(error, INVALID,
                             "a shape is [] or up to %d whole numbers, such as "
                             "[32, 64]",
                             LAYOUT_DIMENSIONS);
        shape[(*dimensions)++] = strtoull(text, &end, 10);
        if (end - text > 18) return error_set(error, INVALID, "a dimension is too large");
        text = end;
        if (*text == ',') text++;
        while (*text == ' ') text++;
    }
    return OK;
}

static enum status parse_digest(const char *text, uint8_t out[static DIGEST_BYTES],
                                struct error *error) {
    memset(out, 0, DIGEST_BYTES);
    if (strcmp(text, "-") == 0) return OK;
    if (strlen(text) != 2 * DIGEST_BYTES || strspn(text, "0123456789abcdef") != 2 * DIGEST_BYTES)
        return error_set(error, INVALID, "a frozen tensor's digest is 64 hexadecimal digits, or -");
    for (int i = 0; i < DIGEST_BYTES; i++) {
        char two[3] = {text[2 * i], text[2 * i + 1], 0};
        out[i] = (uint8_t)strtoul(two, NULL, 16);
    }
    return OK;
}

static enum status parse_tensor(char *rest, bool frozen, struct layout *layout,
                                struct error *error) {
    char *type = take_word(&rest), *brackets = type ? take_brackets(&rest) : NULL;
    char *hex = brackets && frozen ? take_word(&rest) : NULL;
    uint32_t dimensions;
    uint64_t shape[LAYOUT_DIMENSIONS] = {0};
    uint8_t digest[DIGEST_BYTES];
    if (!brackets || (frozen && !hex))
        return error_set(error, INVALID, "it is not `%s`",
                         frozen ? "frozen TYPE [SHAPE] DIGEST NAME" : "trained TYPE [SHAPE] NAME");
    TRY(parse_shape(brackets, &dimensions, shape, error));
    if (frozen) {
        TRY(parse_digest(hex, digest, error));
        return layout_add_frozen(layout, rest, type, dimensions, shape, digest, error);
    }
    enum tensor_dtype dtype = tensor_dtype_of(type);
    if (dtype == DTYPE_COUNT)
        return error_set(error, INVALID, "type \"%.11s\" cannot be trained; write F32, BF16 or F16",
                         type);
    return layout_add_trained(layout, rest, dtype, dimensions, shape, error);
}

static enum status parse_line(char *line, struct layout *layout, struct error *error) {
    char *rest = line, *word = take_word(&rest);
    if (word && strcmp(word, "trained") == 0) {
        if (layout->other_count)
            return error_set(error, INVALID, "trained tensors come before all others");
        return parse_tensor(rest, false, layout, error);
    }
    if (word && strcmp(word, "frozen") == 0) return parse_tensor(rest, true, layout, error);
    if (word && strcmp(word, "tied") == 0) {
        char *of = take_brackets(&rest);
        if (!of) return error_set(error, INVALID, "it is not `tied [NAME] OTHER-NAME`");
        return layout_add_tied(layout, rest, of, error);
    }
    return error_set(error, INVALID, "a line begins with trained, tied or frozen");
}

static enum status parse_lines(struct bytes text, struct layout *layout, struct error *error) {
    unsigned number = 0;
    for (size_t at = 0; at < text.size;) {
        const uint8_t *end = memchr(text.data + at, '\n', text.size - at);
        size_t size = end ? (size_t)(end - text.data) - at : text.size - at;
        char line[LINE_MAX_SIZE];
        number++;
        if (size >= sizeof line || memchr(text.data + at, 0, size))
            return error_set(error, INVALID, "line %u is too long, or has a zero in it", number);
        memcpy(line, text.data + at, size);
        line[size] = 0;
        if (size && line[size - 1] == '\r') line[size - 1] = 0; /* an editor's of another system */
        at += size + 1;
        if (number == 1 || line[0] == '#' || line[strspn(line, " \t\r")] == 0) continue;
        enum status status = parse_line(line, layout, error);
        if (status != OK) return error_wrap(error, status, "line %u", number);
    }
    return OK;
}

enum status layout_parse(struct bytes text, struct layout *out, struct error *error) {
    struct layout layout = {0};
    if (text.size > LAYOUT_TEXT_MAX)
        return error_set(error, INVALID, "a layout of %zu bytes; at most %d are possible",
                         text.size, LAYOUT_TEXT_MAX);
    size_t first = sizeof first_line - 2; /* without its end */
    if (text.size <= first || memcmp(text.data, first_line, first) != 0 ||
        (text.data[first] != '\n' && text.data[first] != '\r'))
        return error_set(error, INVALID, "a layout's first line is \"atoll tensors 1\"");
    enum status status = parse_lines(text, &layout, error);
    if (status == OK) status = layout_finish(&layout, error);
    if (status == OK)
        *out = layout;
    else
        layout_deinit(&layout);
    return status;
}
