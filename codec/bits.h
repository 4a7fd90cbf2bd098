/* Bits packed from the low end of each byte upwards, as topk2's payload has them.
 *
 * The writer writes into memory that its caller made large enough, with BIT_WRITER_SLACK bytes to
 * spare. The reader is bounded and remembers its first failure, after which it gives zeroes; it
 * never reads past its bytes.
 */
#ifndef CODEC_BITS_H
#define CODEC_BITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { BIT_WRITER_SLACK = 8 };

struct bit_writer {
    uint8_t *out;
    size_t at;      /* whole bytes written */
    uint64_t held;  /* bits not yet written, from the low end */
    unsigned count; /* of them, below 32 between calls */
};

/* The low `count` bits of value, count <= 32; the bits above must be zero. */
static inline void bits_put(struct bit_writer *writer, uint32_t value, unsigned count) {
    writer->held |= (uint64_t)value << writer->count;
    writer->count += count;
    if (writer->count < 32) return;
    for (unsigned byte = 0; byte < 4; byte++)
        writer->out[writer->at + byte] = (uint8_t)(writer->held >> 8 * byte);
    writer->at += 4;
    writer->held >>= 32;
    writer->count -= 32;
}

/* `zeroes` zero bits, then a one. */
static inline void bits_put_unary(struct bit_writer *writer, uint32_t zeroes) {
    for (; zeroes >= 31; zeroes -= 31) bits_put(writer, 0, 31);
    bits_put(writer, 1u << zeroes, zeroes + 1);
}

/* Pads with zero bits to a whole byte; returns the bytes written in all. */
static inline size_t bits_finish(struct bit_writer *writer) {
    for (; writer->count > 0; writer->count -= writer->count < 8 ? writer->count : 8) {
        writer->out[writer->at++] = (uint8_t)writer->held;
        writer->held >>= 8;
    }
    return writer->at;
}

struct bit_reader {
    const uint8_t *data;
    size_t size, at; /* bytes */
    uint64_t held;   /* bits read ahead; above `count` they are zero */
    unsigned count;
    bool failed;
};

static inline void bits_refill(struct bit_reader *reader) {
    if (reader->count <= 56 && reader->size - reader->at >= 8) { /* eight bytes at once */
        const uint8_t *from = reader->data + reader->at;
        uint64_t word = 0;
        for (unsigned byte = 0; byte < 8; byte++) word |= (uint64_t)from[byte] << 8 * byte;
        unsigned bytes = (64 - reader->count) / 8;
        reader->held |= word << reader->count;
        reader->count += 8 * bytes;
        reader->at += bytes;
        if (reader->count < 64) reader->held &= (1ull << reader->count) - 1;
        return;
    }
    while (reader->count <= 56 && reader->at < reader->size) {
        reader->held |= (uint64_t)reader->data[reader->at++] << reader->count;
        reader->count += 8;
    }
}

/* count <= 32 */
static inline uint32_t bits_get(struct bit_reader *reader, unsigned count) {
    if (reader->count < count) bits_refill(reader);
    if (reader->count < count) {
        reader->failed = true;
        reader->count = 0;
        reader->held = 0;
        return 0;
    }
    uint32_t value = (uint32_t)(reader->held & ((1ull << count) - 1));
    reader->held >>= count;
    reader->count -= count;
    return value;
}

/* The number of zeroes before the next one. Fails where there are more than `limit`. */
static inline uint32_t bits_get_unary(struct bit_reader *reader, uint32_t limit) {
    uint32_t zeroes = 0;
    while (reader->held == 0) {
        zeroes += reader->count;
        reader->count = 0;
        bits_refill(reader);
        if (reader->count == 0 || zeroes > limit) {
            reader->failed = true;
            return 0;
        }
    }
    unsigned run = (unsigned)__builtin_ctzll(reader->held);
    reader->held = reader->held >> run >> 1; /* in two steps: run may be 63 */
    reader->count -= run + 1;
    zeroes += run;
    if (zeroes > limit) {
        reader->failed = true;
        return 0;
    }
    return zeroes;
}

/* A number in unary, as bits_get_unary, and the `count` bits after it, count <= 32. */
static inline uint32_t bits_get_rice(struct bit_reader *reader, uint32_t limit, unsigned count,
                                     uint32_t *rest) {
    if (reader->count < 48) bits_refill(reader);
    unsigned run = reader->held != 0 ? (unsigned)__builtin_ctzll(reader->held) : 64;
    if (run + 1 + count > reader->count || run > limit) { /* long, or at the end */
        uint32_t zeroes = bits_get_unary(reader, limit);
        *rest = bits_get(reader, count);
        return zeroes;
    }
    uint64_t after = reader->held >> run >> 1; /* in two steps: run may be 63 */
    *rest = (uint32_t)(after & ((1ull << count) - 1));
    reader->held = after >> count;
    reader->count -= run + 1 + count;
    return run;
}

/* bit <= 8 * size */
static inline void bits_seek(struct bit_reader *reader, uint64_t bit) {
    reader->at = (size_t)(bit / 8);
    reader->held = 0;
    reader->count = 0;
    (void)bits_get(reader, (unsigned)(bit % 8));
}

/* True if all has been read except fewer than eight padding bits, and those are zero. */
static inline bool bits_at_end(const struct bit_reader *reader) {
    return !reader->failed && reader->at == reader->size && reader->count < 8 && reader->held == 0;
}

#endif
