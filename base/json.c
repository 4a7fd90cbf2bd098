/* The reader: recursive descent with a bounded depth. Values under construction lie on one stack;
 * when an array or object ends, its items move from there into the arena, side by side, so that an
 * index reaches them. An object of more than a few members has after its items a table of their
 * indices sorted by key, which finds duplicates at the end and members later. */
#include "base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"

enum {
    SIZE_DEFAULT = 1 << 20,
    DEPTH_DEFAULT = 32,
    DEPTH_MAX = 512,
    BLOCK_SIZE = 16384,
    FEW_MEMBERS = 8,
    NUMBER_MAX = 512
};

struct block { /* of the arena; a large item gets one of its own */
    struct block *next;
    size_t size, used;
    uint8_t data[];
};

struct json {
    struct block *blocks;
    struct json_value root;
};

struct json_parser {
    const uint8_t *text;
    size_t size, at;
    unsigned depth, depth_max;
    struct json *json;
    struct json_value *stack;
    size_t stacked, stack_capacity;
    struct buffer scratch; /* of the string or number being read */
    struct error *error;
};

static enum status parse_value(struct json_parser *parser, struct json_value *out);

static void *take_memory(struct json *json, size_t size) {
    size = (size + 7) / 8 * 8;
    struct block *block = json->blocks;
    if (!block || block->size - block->used < size) {
        size_t room = MAX(size, (size_t)BLOCK_SIZE);
        struct block *fresh = malloc(sizeof *fresh + room);
        if (!fresh) return NULL;
        *fresh = (struct block){.size = room};
        if (block && size >= BLOCK_SIZE / 4) { /* goes after the block that still has room */
            fresh->next = block->next;
            block->next = fresh;
        } else {
            fresh->next = block;
            json->blocks = fresh;
        }
        block = fresh;
    }
    void *taken = block->data + block->used;
    block->used += size;
    return taken;
}

static enum status complain(struct json_parser *parser, const char *what) {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < parser->at && i < parser->size; i++) {
        column = parser->text[i] == '\n' ? 1 : column + 1;
        line += parser->text[i] == '\n';
    }
    return error_set(parser->error, INVALID, "JSON, line %zu, column %zu: %s", line, column, what);
}

static enum status no_memory(struct json_parser *parser) {
    return error_set(parser->error, FULL, "no memory for a JSON document");
}

static void skip_blanks(struct json_parser *parser) {
    while (parser->at < parser->size) {
        uint8_t c = parser->text[parser->at];
        if (c != ' ' && c != '\t' && c != '\n' && c != '\r') return;
        parser->at++;
    }
}

/* The next byte, or 0 at the end: no token begins with a zero byte. */
static uint8_t peek(const struct json_parser *parser) {
    return parser->at < parser->size ? parser->text[parser->at] : 0;
}

/* --- strings --- */

static void append_utf8(struct buffer *out, uint32_t point) {
    if (point < 0x80) {
        buffer_u8(out, (uint8_t)point);
    } else if (point < 0x800) {
        buffer_u8(out, (uint8_t)(0xc0 | point >> 6));
        buffer_u8(out, (uint8_t)(0x80 | (point & 63)));
    } else if (point < 0x10000) {
        buffer_u8(out, (uint8_t)(0xe0 | point >> 12));
        buffer_u8(out, (uint8_t)(0x80 | (point >> 6 & 63)));
        buffer_u8(out, (uint8_t)(0x80 | (point & 63)));
    } else {
        buffer_u8(out, (uint8_t)(0xf0 | point >> 18));
        buffer_u8(out, (uint8_t)(0x80 | (point >> 12 & 63)));
        buffer_u8(out, (uint8_t)(0x80 | (point >> 6 & 63)));
        buffer_u8(out, (uint8_t)(0x80 | (point & 63)));
    }
}

static enum status parse_hex4(struct json_parser *parser, uint32_t *out) {
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) {
        uint8_t c = peek(parser);
        uint32_t digit = 16;
        if (c >= '0' && c <= '9') digit = c - (uint32_t)'0';
        if (c >= 'a' && c <= 'f') digit = c - (uint32_t)'a' + 10;
        if (c >= 'A' && c <= 'F') digit = c - (uint32_t)'A' + 10;
        if (digit == 16) return complain(parser, "\\u needs four hexadecimal digits");
        value = value << 4 | digit;
        parser->at++;
    }
    *out = value;
    return OK;
}

/* After "\u". */
static enum status parse_unicode_escape(struct json_parser *parser) {
    uint32_t point = 0, low = 0;
    TRY(parse_hex4(parser, &point));
    if (point == 0) return complain(parser, "a zero character in a text is not accepted here");
    if (point >= 0xdc00 && point <= 0xdfff)
        return complain(parser, "a low surrogate without its high one");
    if (point >= 0xd800 && point <= 0xdbff) {
        bool paired =
            parser->size - parser->at >= 2 && memcmp(parser->text + parser->at, "\\u", 2) == 0;
        if (!paired) return complain(parser, "a high surrogate without its low one");
        parser->at += 2;
        TRY(parse_hex4(parser, &low));
        if (low < 0xdc00 || low > 0xdfff)
            return complain(parser, "a high surrogate without its low one");
        point = 0x10000 + ((point - 0xd800) << 10) + (low - 0xdc00);
    }
    append_utf8(&parser->scratch, point);
    return OK;
}

static enum status parse_escape(struct json_parser *parser) {
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    uint8_t c = peek(parser);
    const char *found = c ? strchr(names, c) : NULL;
    if (!found && c != 'u') return complain(parser, "unknown escape");
    parser->at++;
    if (!found) return parse_unicode_escape(parser);
    buffer_u8(&parser->scratch, (uint8_t)values[found - names]);
    return OK;
}

/* At the opening quote. */
static enum status parse_string(struct json_parser *parser, const char **out, size_t *size) {
    parser->at++;
    parser->scratch.size = 0;
    for (;;) {
        if (parser->at >= parser->size) return complain(parser, "the text ends inside a string");
        const uint8_t *here = parser->text + parser->at;
        if (*here == '"') break;
        if (*here < ' ') return complain(parser, "a control character inside a string");
        if (*here == '\\') {
            parser->at++;
            TRY(parse_escape(parser));
            continue;
        }
        size_t length = utf8_length(here, parser->size - parser->at);
        if (length == 0) return complain(parser, "bytes that are not UTF-8");
        buffer_append(&parser->scratch, here, length);
        parser->at += length;
    }
    parser->at++;
    char *copy = take_memory(parser->json, parser->scratch.size + 1);
    if (!copy) return no_memory(parser);
    if (parser->scratch.size) memcpy(copy, parser->scratch.data, parser->scratch.size);
    copy[parser->scratch.size] = 0;
    *out = copy;
    *size = parser->scratch.size;
    return OK;
}

/* --- numbers --- */

static size_t skip_digits(struct json_parser *parser) {
    size_t start = parser->at;
    while (peek(parser) >= '0' && peek(parser) <= '9') parser->at++;
    return parser->at - start;
}

static enum status parse_number(struct json_parser *parser, struct json_value *out) {
    size_t start = parser->at;
    bool plain = peek(parser) != '-', fits = true;
    if (!plain) parser->at++;
    bool leads_with_zero = peek(parser) == '0';
    size_t whole = skip_digits(parser);
    if (whole == 0) return complain(parser, "a value was expected");
    if (leads_with_zero && whole > 1) return complain(parser, "a number with a leading zero");
    if (peek(parser) == '.') {
        plain = false;
        parser->at++;
        if (skip_digits(parser) == 0)
            return complain(parser, "expected a digit after the decimal point");
    }
    if (peek(parser) == 'e' || peek(parser) == 'E') {
        plain = false;
        parser->at++;
        if (peek(parser) == '+' || peek(parser) == '-') parser->at++;
        if (skip_digits(parser) == 0)
            return complain(parser, "a digit was expected in the exponent");
    }
    char digits[NUMBER_MAX];
    size_t size = parser->at - start;
    if (size >= sizeof digits) return complain(parser, "a number of more than 511 characters");
    memcpy(digits, parser->text + start, size);
    digits[size] = 0;
    *out = (struct json_value){.type = JSON_NUMBER, .number = strtod(digits, NULL)};
    if (!(out->number - out->number == 0))
        return complain(parser, "a number too large for a double");
    uint64_t integer = 0;
    for (size_t i = 0; plain && fits && i < size; i++) {
        fits = !__builtin_mul_overflow(integer, (uint64_t)10, &integer) &&
               !__builtin_add_overflow(integer, (uint64_t)(digits[i] - '0'), &integer);
    }
    out->is_u64 = plain && fits;
    out->integer = out->is_u64 ? integer : 0;
    return OK;
}

/* --- arrays and objects --- */

static enum status push(struct json_parser *parser, const struct json_value *value) {
    if (parser->stacked == parser->stack_capacity) {
        size_t capacity = MAX(parser->stack_capacity * 2, (size_t)64);
        struct json_value *grown = realloc(parser->stack, capacity * sizeof *grown);
        if (!grown) return no_memory(parser);
        parser->stack = grown;
        parser->stack_capacity = capacity;
    }
    parser->stack[parser->stacked++] = *value;
    return OK;
}

static const uint32_t *sorted_indices(const struct json_value *object) {
    return (const uint32_t *)(object->items + object->count);
}

static int compare_members(const void *a, const void *b, void *items) {
    const struct json_value *values = items;
    return strcmp(values[*(const uint32_t *)a].key, values[*(const uint32_t *)b].key);
}

static enum status refuse_duplicate(struct json_parser *parser, const char *key) {
    char message[160];
    snprintf(message, sizeof message, "the key '%.100s' is there twice in one object", key);
    return complain(parser, message);
}

static enum status index_members(struct json_parser *parser, const struct json_value *object) {
    if (object->count <= FEW_MEMBERS) {
        for (size_t i = 0; i < object->count; i++) {
            for (size_t j = 0; j < i; j++) {
                if (strcmp(object->items[i].key, object->items[j].key) == 0)
                    return refuse_duplicate(parser, object->items[i].key);
            }
        }
        return OK;
    }
    uint32_t *sorted = (uint32_t *)(uintptr_t)sorted_indices(object);
    for (size_t i = 0; i < object->count; i++) sorted[i] = (uint32_t)i;
    qsort_r(sorted, object->count, sizeof *sorted, compare_members,
            (void *)(uintptr_t)object->items);
    for (size_t i = 1; i < object->count; i++) {
        const char *key = object->items[sorted[i]].key;
        if (strcmp(object->items[sorted[i - 1]].key, key) == 0)
            return refuse_duplicate(parser, key);
    }
    return OK;
}

/* Moves what lies on the stack from `first` on into the arena. */
static enum status close_container(struct json_parser *parser, size_t first,
                                   struct json_value *out) {
    size_t count = parser->stacked - first;
    size_t size = count * sizeof(struct json_value);
    bool indexed = out->type == JSON_OBJECT && count > FEW_MEMBERS;
    struct json_value *items =
        take_memory(parser->json, size + (indexed ? count * sizeof(uint32_t) : 0));
    if (!items) return no_memory(parser);
    if (count) memcpy(items, parser->stack + first, size);
    parser->stacked = first;
    out->items = items;
    out->count = count;
    return out->type == JSON_OBJECT ? index_members(parser, out) : OK;
}

/* One item, after its key if it is an object's. */
static enum status parse_item(struct json_parser *parser, enum json_type type) {
    struct json_value item = {0};
    const char *key = NULL;
    skip_blanks(parser);
    if (type == JSON_OBJECT) {
        size_t key_size = 0;
        if (peek(parser) != '"') return complain(parser, "a key in double quotes was expected");
        TRY(parse_string(parser, &key, &key_size));
        skip_blanks(parser);
        if (peek(parser) != ':') return complain(parser, "expected ':' after the key");
        parser->at++;
    }
    TRY(parse_value(parser, &item));
    item.key = key;
    return push(parser, &item);
}

static enum status parse_container(struct json_parser *parser, enum json_type type,
                                   struct json_value *out) {
    uint8_t closing = type == JSON_OBJECT ? '}' : ']';
    size_t first = parser->stacked;
    if (parser->depth == parser->depth_max) return complain(parser, "nested too deeply");
    parser->depth++;
    parser->at++;
    skip_blanks(parser);
    if (peek(parser) == closing)
        parser->at++;
    else {
        for (;;) {
            TRY(parse_item(parser, type));
            skip_blanks(parser);
            uint8_t c = peek(parser);
            if (c != closing && c != ',')
                return complain(parser, type == JSON_OBJECT ? "',' or '}' was expected"
                                                            : "',' or ']' was expected");
            parser->at++;
            if (c == closing) break;
        }
    }
    parser->depth--;
    *out = (struct json_value){.type = (uint8_t)type};
    return close_container(parser, first, out);
}

static enum status parse_word(struct json_parser *parser, const char *word, struct json_value value,
                              struct json_value *out) {
    size_t size = strlen(word);
    if (parser->size - parser->at < size || memcmp(parser->text + parser->at, word, size) != 0) {
        return complain(parser, "a value was expected");
    }
    parser->at += size;
    *out = value;
    return OK;
}

static enum status parse_value(struct json_parser *parser, struct json_value *out) {
    skip_blanks(parser);
    switch (peek(parser)) {
    case '{': return parse_container(parser, JSON_OBJECT, out);
    case '[': return parse_container(parser, JSON_ARRAY, out);
    case 't':
        return parse_word(parser, "true", (struct json_value){.type = JSON_BOOL, .boolean = true},
                          out);
    case 'f': return parse_word(parser, "false", (struct json_value){.type = JSON_BOOL}, out);
    case 'n': return parse_word(parser, "null", (struct json_value){.type = JSON_NULL}, out);
    case '"': {
        const char *text = NULL;
        size_t size = 0;
        TRY(parse_string(parser, &text, &size));
        *out = (struct json_value){.type = JSON_STRING, .text = text, .size = size};
        return OK;
    }
    default: return parse_number(parser, out);
    }
}

static enum status parse_document(struct json_parser *parser) {
    TRY(parse_value(parser, &parser->json->root));
    skip_blanks(parser);
    return parser->at == parser->size ? OK : complain(parser, "more text after the value");
}

enum status json_parse(struct bytes text, const struct json_limits *limits, struct json **out,
                       struct error *error) {
    size_t size_max = limits && limits->size ? limits->size : SIZE_DEFAULT;
    unsigned depth_max =
        limits && limits->depth ? MIN(limits->depth, (unsigned)DEPTH_MAX) : DEPTH_DEFAULT;
    if (text.size > size_max || text.size > UINT32_MAX) {
        return error_set(error, INVALID, "a JSON document of %zu bytes, more than the limit of %zu",
                         text.size, size_max);
    }
    struct json *json = calloc(1, sizeof *json);
    if (!json) return error_set(error, FULL, "no memory for a JSON document");
    size_t mark = utf8_mark(text.data, text.size);
    struct json_parser parser = {.text = mark ? text.data + mark : text.data,
                                 .size = text.size - mark,
                                 .depth_max = depth_max,
                                 .json = json,
                                 .error = error};
    enum status status = parse_document(&parser);
    free(parser.stack);
    buffer_deinit(&parser.scratch);
    if (status == OK)
        *out = json;
    else
        json_close(json);
    return status;
}

void json_close(struct json *json) {
    if (!json) return;
    for (struct block *block = json->blocks; block;) {
        struct block *next = block->next;
        free(block);
        block = next;
    }
    free(json);
}

const struct json_value *json_root(const struct json *json) { return &json->root; }

/* --- lookup --- */

const struct json_value *json_object_get(const struct json_value *object, const char *key) {
    if (!object || object->type != JSON_OBJECT) return NULL;
    if (object->count <= FEW_MEMBERS) {
        for (size_t i = 0; i < object->count; i++) {
            if (strcmp(object->items[i].key, key) == 0) return &object->items[i];
        }
        return NULL;
    }
    const uint32_t *sorted = sorted_indices(object);
    size_t low = 0, high = object->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(key, object->items[sorted[middle]].key);
        if (order == 0) return &object->items[sorted[middle]];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

const struct json_value *json_array_get(const struct json_value *array, size_t index) {
    return array && array->type == JSON_ARRAY && index < array->count ? &array->items[index] : NULL;
}

static enum status get(const struct json_value *object, const char *key, enum json_type type,
                       const char *type_name, const struct json_value **out, struct error *error) {
    if (!object || object->type != JSON_OBJECT)
        return error_set(error, INVALID, "cannot look up '%s': the value is not an object", key);
    const struct json_value *value = json_object_get(object, key);
    if (!value) return error_set(error, NOT_FOUND, "the key '%s' is missing", key);
    if (value->type != type) return error_set(error, INVALID, "'%s' is not %s", key, type_name);
    *out = value;
    return OK;
}

enum status json_get_u64(const struct json_value *object, const char *key, uint64_t *out,
                         struct error *error) {
    const struct json_value *value = NULL;
    TRY(get(object, key, JSON_NUMBER, "a whole number", &value, error));
    if (!value->is_u64)
        return error_set(error, INVALID, "'%s' is not a whole number from 0 to 2^64-1", key);
    *out = value->integer;
    return OK;
}

enum status json_get_f64(const struct json_value *object, const char *key, double *out,
                         struct error *error) {
    const struct json_value *value = NULL;
    TRY(get(object, key, JSON_NUMBER, "a number", &value, error));
    *out = value->number;
    return OK;
}

enum status json_get_bool(const struct json_value *object, const char *key, bool *out,
                          struct error *error) {
    const struct json_value *value = NULL;
    TRY(get(object, key, JSON_BOOL, "true or false", &value, error));
    *out = value->boolean;
    return OK;
}

enum status json_get_text(const struct json_value *object, const char *key, const char **out,
                          struct error *error) {
    const struct json_value *value = NULL;
    TRY(get(object, key, JSON_STRING, "a text", &value, error));
    *out = value->text;
    return OK;
}

enum status json_get_array(const struct json_value *object, const char *key,
                           const struct json_value **out, struct error *error) {
    return get(object, key, JSON_ARRAY, "an array", out, error);
}

enum status json_get_object(const struct json_value *object, const char *key,
                            const struct json_value **out, struct error *error) {
    return get(object, key, JSON_OBJECT, "an object", out, error);
}
