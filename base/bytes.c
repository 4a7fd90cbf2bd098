/* Readers, writers and growing buffers (base/bytes.h). A reader or writer that failed stays failed
 * and reads zeroes, so callers check once, at the end. Growing uses xrealloc: whatever a peer
 * sizes is bounded before it gets here. */
#include "base/bytes.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

bool bytes_equal(struct bytes a, struct bytes b) {
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

/* Keys, tokens and messages that hold them are small. What is as small as they are is overwritten
 * wherever a buffer lets go of memory, growing included, so that no caller has to know. */
enum { SMALL = 16384 };

static void let_go(uint8_t *data, size_t size) {
    if (size <= SMALL)
        free_clearing(data, size);
    else
        free(data);
}

void buffer_deinit(struct buffer *buffer) {
    let_go(buffer->data, buffer->capacity);
    *buffer = (struct buffer){0};
}

void buffer_reserve(struct buffer *buffer, size_t capacity) {
    if (capacity <= buffer->capacity) return;
    size_t doubled = buffer->capacity * 2;
    size_t next = MAX(MAX(capacity, doubled), (size_t)64);
    if (buffer->capacity > 0 && buffer->capacity <= SMALL) { /* realloc would leave a copy */
        uint8_t *moved = xmalloc(next);
        memcpy(moved, buffer->data, buffer->capacity);
        let_go(buffer->data, buffer->capacity);
        buffer->data = moved;
    } else {
        buffer->data = xrealloc(buffer->data, next);
    }
    buffer->capacity = next;
}

void buffer_append(struct buffer *buffer, const void *data, size_t size) {
    if (size == 0) return;
    ASSERT(buffer->size <= SIZE_MAX - size);
    buffer_reserve(buffer, buffer->size + size);
    memcpy(buffer->data + buffer->size, data, size);
    buffer->size += size;
}

void buffer_append_text(struct buffer *buffer, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    ASSERT(size >= 0);
    buffer_reserve(buffer, buffer->size + (size_t)size + 1);
    va_start(arguments, format);
    vsnprintf((char *)buffer->data + buffer->size, (size_t)size + 1, format, arguments);
    va_end(arguments);
    buffer->size += (size_t)size;
}

static void store_little_endian(uint8_t *out, uint64_t value, size_t size) {
    for (size_t i = 0; i < size; i++) out[i] = (uint8_t)(value >> (8 * i));
}

static void buffer_integer(struct buffer *buffer, uint64_t value, size_t size) {
    uint8_t raw[8];
    store_little_endian(raw, value, size);
    buffer_append(buffer, raw, size);
}

void buffer_u8(struct buffer *buffer, uint8_t value) { buffer_integer(buffer, value, 1); }
void buffer_u16(struct buffer *buffer, uint16_t value) { buffer_integer(buffer, value, 2); }
void buffer_u32(struct buffer *buffer, uint32_t value) { buffer_integer(buffer, value, 4); }
void buffer_u64(struct buffer *buffer, uint64_t value) { buffer_integer(buffer, value, 8); }

void buffer_f32(struct buffer *buffer, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    buffer_u32(buffer, bits);
}

void buffer_f64(struct buffer *buffer, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    buffer_u64(buffer, bits);
}

struct bytes reader_take(struct reader *reader, size_t size) {
    if (reader->failed || size > reader->size - reader->at) {
        reader->failed = true;
        return (struct bytes){NULL, 0};
    }
    struct bytes taken = bytes_of(reader->data + reader->at, size);
    reader->at += size;
    return taken;
}

void reader_copy(struct reader *reader, void *out, size_t size) {
    struct bytes taken = reader_take(reader, size);
    if (size == 0) return;
    if (taken.data)
        memcpy(out, taken.data, size);
    else
        memset(out, 0, size);
}

static uint64_t reader_integer(struct reader *reader, size_t size) {
    struct bytes taken = reader_take(reader, size);
    uint64_t value = 0;
    for (size_t i = 0; i < taken.size; i++) value |= (uint64_t)taken.data[i] << (8 * i);
    return value;
}

uint8_t reader_u8(struct reader *reader) { return (uint8_t)reader_integer(reader, 1); }
uint16_t reader_u16(struct reader *reader) { return (uint16_t)reader_integer(reader, 2); }
uint32_t reader_u32(struct reader *reader) { return (uint32_t)reader_integer(reader, 4); }
uint64_t reader_u64(struct reader *reader) { return reader_integer(reader, 8); }

float reader_f32(struct reader *reader) {
    uint32_t bits = reader_u32(reader);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

double reader_f64(struct reader *reader) {
    uint64_t bits = reader_u64(reader);
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

enum status reader_finish(const struct reader *reader, const char *what, struct error *error) {
    if (reader->failed)
        return error_set(error, INVALID, "%s is truncated at byte %zu of %zu", what, reader->at,
                         reader->size);
    if (reader->at != reader->size) {
        return error_set(error, INVALID, "%s has %zu bytes too many", what,
                         reader->size - reader->at);
    }
    return OK;
}

char *hex_encode(const void *data, size_t size, char *out) {
    static const char digits[] = "0123456789abcdef";
    const uint8_t *bytes = data;
    for (size_t i = 0; i < size; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[2 * size] = 0;
    return out;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

enum status hex_decode(const char *text, void *out, size_t size, struct error *error) {
    if (strlen(text) != 2 * size) {
        return error_set(error, INVALID, "expected %zu hexadecimal digits, got %zu characters",
                         2 * size, strlen(text));
    }
    uint8_t *bytes = out;
    for (size_t i = 0; i < 2 * size; i++) {
        if (hex_digit(text[i]) < 0)
            return error_set(error, INVALID, "'%c' is not a hexadecimal digit", text[i]);
    }
    for (size_t i = 0; i < size; i++) {
        bytes[i] = (uint8_t)(hex_digit(text[2 * i]) << 4 | hex_digit(text[2 * i + 1]));
    }
    return OK;
}
