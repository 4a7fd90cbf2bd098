/* Inside codec/: a message, chunk by chunk. Everything public is a loop over these pieces.
 *
 * A decoder walks a message with a cursor. message_next validates the chunk it decodes, message_end
 * what is left behind the last one; so one walk that keeps nothing is codec_check, and a second
 * walk over a checked message cannot fail.
 */
#ifndef CODEC_FORMAT_H
#define CODEC_FORMAT_H

#include "codec/bits.h"
#include "codec/codec.h"

enum { FORMAT_VERSION = 1, TABLE_COUNT = 4, RICE_MAX = 12, RUN_RICE_MAX = 7, SHIFT_MAX = 126 };

/* --- floats as integers --- */
static inline uint32_t float_bits(float value) {
    union {
        float f;
        uint32_t u;
    } pun = {.f = value};
    return pun.u;
}
static inline float float_of(uint32_t bits) {
    union {
        uint32_t u;
        float f;
    } pun = {.u = bits};
    return pun.f;
}
static inline bool bits_are_finite(uint32_t bits) { return (bits & 0x7F800000u) != 0x7F800000u; }
/* 2^exponent, -126 <= exponent <= 127 */
static inline float power_of_two(int exponent) {
    return float_of((uint32_t)(exponent + 127) << 23);
}

/* What a chunk holds: at most CODEC_CHUNK elements, of which `sent` have a value. */
struct piece {
    size_t first, size;          /* the elements it spans */
    size_t sent;                 /* == size where all are */
    uint16_t index[CODEC_CHUNK]; /* [sent], counted from `first`, increasing; meaningless for dense
                                    codecs */
    float value[CODEC_CHUNK];    /* [sent] */
};

/* --- decoding --- */
struct cursor {
    enum codec codec;
    size_t count, at;     /* elements in all; elements walked over */
    struct bytes payload; /* after the header */
    bool is_checked;      /* it was walked over before: what it holds is as it must be */
    /* topk2 */
    struct bit_reader bits;
    uint32_t table[TABLE_COUNT]; /* bit patterns */
    unsigned run_rice;
    uint64_t run_cost[RUN_RICE_MAX +
                      1];     /* in bits, of all runs so far, had each parameter been chosen */
    unsigned codes_used;      /* a bit for each code seen so far */
    bool shift_known;         /* a chunk that is not empty has been seen */
    int shift, largest_shift; /* of the last such chunk; of all */
};

/* Checks the header and the payload's length as far as it follows from the header. The message must
 * stay. */
MUST_USE enum status message_begin(enum codec codec, struct bytes message, size_t count,
                                   struct cursor *out, struct error *error);
/* The next piece while out->at < out->count. */
MUST_USE enum status message_next(struct cursor *cursor, struct piece *out, struct error *error);
MUST_USE enum status message_end(const struct cursor *cursor, struct error *error);
/* What a walk that starts here must know; and a checked message's cursor goes there, to element
 * `at`, which begins a chunk. */
uint64_t message_mark(const struct cursor *cursor);
void message_seek(struct cursor *cursor, size_t at, uint64_t mark);

/* --- dense codecs: payloads in which every chunk's place is known --- */
size_t dense_payload_size(enum codec codec, size_t count);
/* Encodes the chunk of `size` elements that starts at element `first` (a multiple of CODEC_CHUNK)
 * into the payload for `count` elements, and writes what a decoder will see to decoded. x is
 * finite. */
void dense_encode(enum codec codec, const float *x, size_t first, size_t size, size_t count,
                  uint8_t *payload, float *decoded);
MUST_USE enum status dense_next(struct cursor *cursor, struct piece *out, struct error *error);

/* --- topk2 --- */
struct topk2_encoder;
MUST_USE enum status topk2_encoder_create(enum codec codec, size_t count,
                                          struct topk2_encoder **out, struct error *error);
void topk2_encoder_destroy(struct topk2_encoder *encoder);
/* A message: topk2_select for every chunk, in any order and by any thread, then topk2_finish. The
 * chunk begins at element `first`; *hint as select_largest's, one for chunks in a row. */
void topk2_select(struct topk2_encoder *encoder, size_t first, const float *x, size_t size,
                  uint32_t *hint);
/* Writes the payload, and returns its size. `payload` holds topk2_payload_bound bytes and
 * BIT_WRITER_SLACK. */
size_t topk2_finish(struct topk2_encoder *encoder, uint8_t *payload);
/* Takes what the chunk that begins at element `first` has sent from its elements of e; after
 * topk2_finish, by any thread. */
void topk2_subtract(const struct topk2_encoder *encoder, size_t first, float *e);
size_t topk2_payload_bound(enum codec codec, size_t count);
MUST_USE enum status topk2_begin_decoding(struct cursor *cursor, struct error *error);
MUST_USE enum status topk2_next(struct cursor *cursor, struct piece *out, struct error *error);
uint64_t topk2_mark(const struct cursor *cursor);
void topk2_seek(struct cursor *cursor, uint64_t mark);
MUST_USE enum status topk2_end(const struct cursor *cursor, struct error *error);

#endif
