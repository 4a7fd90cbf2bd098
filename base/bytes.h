/* Bounded views, readers and writers of bytes. Everything that a peer or a disk gave us is read
 * through these.
 *
 * A `struct reader` remembers its first failure: read all fields, then ask reader_finish once.
 * After a failure every read gives zeroes, so that no check is needed in between. All integers are
 * little-endian; floats travel as their bit patterns. A `struct buffer` grows; a `struct writer`
 * does not, and remembers an overflow in the same way.
 */
#ifndef BASE_BYTES_H
#define BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

struct bytes { /* borrowed: says nothing about who owns what it points to */
    const uint8_t *data;
    size_t size;
};

static inline struct bytes bytes_of(const void *data, size_t size) {
    return (struct bytes){data, size};
}
bool bytes_equal(struct bytes a, struct bytes b);

/* --- growing buffer, owned by its holder; start with {0}, end with buffer_deinit. Memory that a
 * small one lets go of is overwritten, as it may hold a key. --- */
struct buffer {
    uint8_t *data;
    size_t size, capacity;
};

void buffer_deinit(struct buffer *buffer);
/* aborts when memory is out: bound what a peer chooses first */
void buffer_reserve(struct buffer *buffer, size_t capacity);
void buffer_append(struct buffer *buffer, const void *data, size_t size);
/* no terminator is counted */
void buffer_append_text(struct buffer *buffer, const char *format, ...) PRINTF_LIKE(2, 3);
void buffer_u8(struct buffer *buffer, uint8_t value);
void buffer_u16(struct buffer *buffer, uint16_t value);
void buffer_u32(struct buffer *buffer, uint32_t value);
void buffer_u64(struct buffer *buffer, uint64_t value);
void buffer_f32(struct buffer *buffer, float value);
void buffer_f64(struct buffer *buffer, double value);
static inline struct bytes buffer_bytes(const struct buffer *buffer) {
    return bytes_of(buffer->data, buffer->size);
}

/* --- bounded reader over borrowed bytes --- */
struct reader {
    const uint8_t *data;
    size_t size, at;
    bool failed;
};

static inline struct reader reader_of(struct bytes bytes) {
    return (struct reader){bytes.data, bytes.size, 0, false};
}
uint8_t reader_u8(struct reader *reader);
uint16_t reader_u16(struct reader *reader);
uint32_t reader_u32(struct reader *reader);
uint64_t reader_u64(struct reader *reader);
float reader_f32(struct reader *reader);
double reader_f64(struct reader *reader);
/* Copies size bytes to out, or zeroes out and fails. */
void reader_copy(struct reader *reader, void *out, size_t size);
/* Lends size bytes of the underlying memory; {NULL, 0} and failure where fewer are left. */
struct bytes reader_take(struct reader *reader, size_t size);
static inline size_t reader_left(const struct reader *reader) {
    return reader->failed ? 0 : reader->size - reader->at;
}
/* OK only if nothing failed and nothing is left over; `what` names the object in the message. */
MUST_USE enum status reader_finish(const struct reader *reader, const char *what,
                                   struct error *error);

/* --- hexadecimal --- */
enum { HEX32_SIZE = 65 };
/* out holds 2*size+1 characters. Returns out, for use in a format's arguments. */
char *hex_encode(const void *data, size_t size, char *out);
/* INVALID unless text is exactly 2*size hexadecimal digits. */
MUST_USE enum status hex_decode(const char *text, void *out, size_t size, struct error *error);

#endif
