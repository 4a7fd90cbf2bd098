/* JSON (RFC 8259): a strict bounded reader, and a small writer.
 *
 * Home-made because the training engine builds on bare machines with gcc and make alone, and
 * because what we read (safetensors headers, tokenizers, config.json, tokens of invitation) may
 * come from a stranger: the reader has limits on size and depth, needs valid UTF-8, refuses
 * duplicate keys, trailing bytes, numbers that are not JSON and the escape \u0000 (our texts are C
 * strings, and a name cut short at a zero is another name). The document is one allocation arena:
 * 32 bytes a value plus its text, freed in one call.
 *
 * Values are read with helpers that answer NOT_FOUND for an absent key and INVALID for one of the
 * wrong type, both with the key in the message.
 */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/status.h"

enum json_type { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

struct json_value {  /* lent by the document; read only */
    uint8_t type;    /* enum json_type */
    bool boolean;    /* of a BOOL */
    bool is_u64;     /* a NUMBER written as digits only, that fits: `integer` is exact */
    const char *key; /* of an object's member, terminated; else NULL */
    union {
        double number;    /* of a NUMBER, always finite */
        const char *text; /* of a STRING: UTF-8, terminated, no zero inside */
        /* [count], of an ARRAY; of an OBJECT its members, in the order of the file */
        const struct json_value *items;
    };
    union {
        uint64_t integer; /* of a NUMBER with is_u64 */
        size_t size;      /* of a STRING, in bytes */
        size_t count;     /* of an ARRAY or OBJECT */
    };
};

struct json_limits {
    size_t size;    /* bytes of text; 0: 1 MiB */
    unsigned depth; /* arrays and objects inside each other; 0: 32; at most 512 */
};

struct json;

/* INVALID with line and column; FULL if memory is out (at most about 50 bytes are used per byte of
 * text). The text is not kept. *out is closed with json_close. */
MUST_USE enum status json_parse(struct bytes text, const struct json_limits *limits,
                                struct json **out, struct error *error);
void json_close(struct json *json); /* NULL is a no-op */
const struct json_value *json_root(const struct json *json);

/* NULL if it is not an object or has no such member. O(log count). */
const struct json_value *json_object_get(const struct json_value *object, const char *key);
/* NULL if it is not an array or shorter. */
const struct json_value *json_array_get(const struct json_value *array, size_t index);

/* A member that must be there and be of this type. */
MUST_USE enum status json_get_u64(const struct json_value *object, const char *key, uint64_t *out,
                                  struct error *error);
MUST_USE enum status json_get_f64(const struct json_value *object, const char *key, double *out,
                                  struct error *error);
MUST_USE enum status json_get_bool(const struct json_value *object, const char *key, bool *out,
                                   struct error *error);
/* *out is lent by the document. */
MUST_USE enum status json_get_text(const struct json_value *object, const char *key,
                                   const char **out, struct error *error);
MUST_USE enum status json_get_array(const struct json_value *object, const char *key,
                                    const struct json_value **out, struct error *error);
MUST_USE enum status json_get_object(const struct json_value *object, const char *key,
                                     const struct json_value **out, struct error *error);

/* --- writing: straight into a buffer, no document ---
 *
 *     struct json_writer writer = json_writer_of(&buffer, true);
 *     json_begin_object(&writer);
 *     json_key(&writer, "version");
 *     json_u64(&writer, 7);
 *     json_end_object(&writer);
 *
 * What is written is always valid: bytes that are not UTF-8 become U+FFFD, non-finite floats null.
 * A call out of place (a value without its key, an end without its begin, a second root) asserts.
 */
enum { JSON_WRITER_DEPTH = 64 };

struct json_writer {
    struct buffer *out; /* borrowed */
    bool pretty;        /* two spaces an indent, a line a value; else no blanks at all */
    bool after_key;
    bool finished;
    unsigned depth;
    struct {
        bool is_object, has_items;
    } levels[JSON_WRITER_DEPTH];
};

struct json_writer json_writer_of(struct buffer *out, bool pretty);
void json_begin_object(struct json_writer *writer);
void json_end_object(struct json_writer *writer);
void json_begin_array(struct json_writer *writer);
void json_end_array(struct json_writer *writer);
void json_key(struct json_writer *writer, const char *key);
void json_text(struct json_writer *writer, const char *text); /* NULL: null */
void json_text_sized(struct json_writer *writer, const char *text, size_t size);
void json_u64(struct json_writer *writer, uint64_t value); /* all digits, also past 2^53 */
void json_i64(struct json_writer *writer, int64_t value);
/* the shortest that reads back as the same double */
void json_f64(struct json_writer *writer, double value);
void json_bool(struct json_writer *writer, bool value);
void json_null(struct json_writer *writer);
/* what was read, with all below it */
void json_copy(struct json_writer *writer, const struct json_value *value);
/* Every begin has had its end, and something was written. */
bool json_is_complete(const struct json_writer *writer);

/* The shortest decimal that strtod reads back as the same double; "nan", "inf" or "-inf" else.
 * Returns out. */
enum { F64_TEXT_SIZE = 32 };
char *f64_format(double value, char out[static F64_TEXT_SIZE]);

/* A member of an object: its key and its value. */
void json_put_text(struct json_writer *writer, const char *key, const char *text); /* NULL: null */
void json_put_u64(struct json_writer *writer, const char *key, uint64_t value);
void json_put_f64(struct json_writer *writer, const char *key, double value); /* not finite: null */
void json_put_bool(struct json_writer *writer, const char *key, bool value);

#endif
