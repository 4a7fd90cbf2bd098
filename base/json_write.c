/* The writer half of base/json.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/utf8.h"

struct json_writer json_writer_of(struct buffer *out, bool pretty) {
    return (struct json_writer){.out = out, .pretty = pretty};
}

static void new_line(struct json_writer *writer) {
    if (!writer->pretty) return;
    buffer_u8(writer->out, '\n');
    for (unsigned i = 0; i < writer->depth; i++) buffer_append(writer->out, "  ", 2);
}

static void separate(struct json_writer *writer) {
    if (writer->levels[writer->depth - 1].has_items) buffer_u8(writer->out, ',');
    writer->levels[writer->depth - 1].has_items = true;
    new_line(writer);
}

/* Before every value: the comma, and the proof that a value may stand here. */
static void before_value(struct json_writer *writer) {
    ASSERT(!writer->finished);
    if (writer->depth == 0) {
        writer->finished = true; /* begin_* takes it back until its end */
        return;
    }
    if (writer->levels[writer->depth - 1].is_object) {
        ASSERT(writer->after_key);
        writer->after_key = false;
    } else {
        separate(writer);
    }
}

static void begin(struct json_writer *writer, bool is_object) {
    before_value(writer);
    ASSERT(writer->depth < JSON_WRITER_DEPTH);
    writer->finished = false;
    writer->levels[writer->depth].is_object = is_object;
    writer->levels[writer->depth].has_items = false;
    writer->depth++;
    buffer_u8(writer->out, is_object ? '{' : '[');
}

static void end(struct json_writer *writer, bool is_object) {
    ASSERT(writer->depth > 0 && writer->levels[writer->depth - 1].is_object == is_object &&
           !writer->after_key);
    writer->depth--;
    if (writer->levels[writer->depth].has_items) new_line(writer);
    buffer_u8(writer->out, is_object ? '}' : ']');
    writer->finished = writer->depth == 0;
}

void json_begin_object(struct json_writer *writer) { begin(writer, true); }
void json_end_object(struct json_writer *writer) { end(writer, true); }
void json_begin_array(struct json_writer *writer) { begin(writer, false); }
void json_end_array(struct json_writer *writer) { end(writer, false); }

static void quote(struct buffer *out, const char *text, size_t size) {
    static const char names[] = "\"\\bfnrt", values[] = "\"\\\b\f\n\r\t";
    const unsigned char *bytes = (const unsigned char *)text;
    buffer_u8(out, '"');
    for (size_t i = 0; i < size;) {
        const char *escape = bytes[i] ? strchr(values, bytes[i]) : NULL;
        size_t length = utf8_length(bytes + i, size - i);
        if (escape)
            buffer_append_text(out, "\\%c", names[escape - values]);
        else if (bytes[i] < ' ' || bytes[i] == 127)
            buffer_append_text(out, "\\u%04x", bytes[i]);
        else if (length == 0)
            buffer_append(out, "\xef\xbf\xbd", 3);
        else
            buffer_append(out, bytes + i, length);
        i += length ? length : 1;
    }
    buffer_u8(out, '"');
}

void json_key(struct json_writer *writer, const char *key) {
    ASSERT(writer->depth > 0 && writer->levels[writer->depth - 1].is_object && !writer->after_key);
    separate(writer);
    quote(writer->out, key, strlen(key));
    buffer_append(writer->out, ": ", writer->pretty ? 2 : 1);
    writer->after_key = true;
}

void json_text_sized(struct json_writer *writer, const char *text, size_t size) {
    before_value(writer);
    quote(writer->out, text, size);
}

void json_text(struct json_writer *writer, const char *text) {
    if (text)
        json_text_sized(writer, text, strlen(text));
    else
        json_null(writer);
}

void json_u64(struct json_writer *writer, uint64_t value) {
    before_value(writer);
    buffer_append_text(writer->out, "%llu", (unsigned long long)value);
}

void json_i64(struct json_writer *writer, int64_t value) {
    before_value(writer);
    buffer_append_text(writer->out, "%lld", (long long)value);
}

void json_f64(struct json_writer *writer, double value) {
    char text[F64_TEXT_SIZE];
    before_value(writer);
    bool finite = value - value == 0;
    buffer_append_text(writer->out, "%s", finite ? f64_format(value, text) : "null");
}

void json_bool(struct json_writer *writer, bool value) {
    before_value(writer);
    buffer_append_text(writer->out, "%s", value ? "true" : "false");
}

void json_null(struct json_writer *writer) {
    before_value(writer);
    buffer_append_text(writer->out, "null");
}

bool json_is_complete(const struct json_writer *writer) { return writer->finished; }

char *f64_format(double value, char out[static F64_TEXT_SIZE]) {
    if (value != value) return memcpy(out, "nan", 4);
    /* Any decimal of up to 15 digits survives the way through a double, so %.15g finds it if there
     * is one; else 16 or 17. */
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(out, F64_TEXT_SIZE, "%.*g", digits, value);
        if (strtod(out, NULL) == value) break;
    }
    return out;
}

void json_copy(struct json_writer *writer, const struct json_value *value) {
    switch ((enum json_type)value->type) {
    case JSON_NULL: json_null(writer); return;
    case JSON_BOOL: json_bool(writer, value->boolean); return;
    case JSON_NUMBER:
        if (value->is_u64)
            json_u64(writer, value->integer);
        else
            json_f64(writer, value->number);
        return;
    case JSON_STRING: json_text_sized(writer, value->text, value->size); return;
    case JSON_ARRAY:
        json_begin_array(writer);
        for (size_t i = 0; i < value->count; i++) json_copy(writer, &value->items[i]);
        json_end_array(writer);
        return;
    case JSON_OBJECT:
        json_begin_object(writer);
        for (size_t i = 0; i < value->count; i++) {
            json_key(writer, value->items[i].key);
            json_copy(writer, &value->items[i]);
        }
        json_end_object(writer);
        return;
    }
}

void json_put_text(struct json_writer *writer, const char *key, const char *text) {
    json_key(writer, key);
    json_text(writer, text);
}

void json_put_u64(struct json_writer *writer, const char *key, uint64_t value) {
    json_key(writer, key);
    json_u64(writer, value);
}

void json_put_f64(struct json_writer *writer, const char *key, double value) {
    json_key(writer, key);
    json_f64(writer, value);
}

void json_put_bool(struct json_writer *writer, const char *key, bool value) {
    json_key(writer, key);
    json_bool(writer, value);
}
