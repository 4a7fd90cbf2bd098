/* The codecs that send every element: fp32, bf16, int8, fp4. Byte layouts are in docs/codec.md.
 *
 * A block's scale is a power of two, stored as the biased exponent of the float it is: 0 for a
 * block of zeroes, else the smallest of 1 … that lets the block's largest magnitude fit. "Smallest"
 * is what makes it canonical, so decoders check it.
 */
#include <string.h>

#include "base/memory.h"
#include "codec/format.h"

enum {
    INT8_LIMIT = 127,
    INT8_SCALE_MAX =
        248, /* the largest code is then 127 · 2^121, finite; FLT_MAX itself is cut to it */
    FP4_LEVELS = 7,
    FP4_SCALE_MAX = 248, /* the seventh level is then 2^127 */
    BF16_MAX = 0x7F7F
};

static size_t block_count(size_t count) { return count / CODEC_BLOCK + (count % CODEC_BLOCK != 0); }

size_t dense_payload_size(enum codec codec, size_t count) {
    switch (codec) {
    case CODEC_FP32: return count * 4;
    case CODEC_BF16: return count * 2;
    case CODEC_INT8: return block_count(count) + count;
    case CODEC_FP4: return block_count(count) + count / 2 + count % 2;
    default: return 0;
    }
}

static uint32_t load_u32(const uint8_t *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint32_t largest_magnitude(const float *x, size_t size) {
    int32_t largest = 0;
    for (size_t i = 0; i < size; i++) {
        int32_t key = (int32_t)(float_bits(x[i]) & 0x7FFFFFFF);
        largest = key > largest ? key : largest;
    }
    return (uint32_t)largest;
}

/* --- encoding --- */

static void fp32_encode(const float *x, size_t size, uint8_t *out, float *decoded) {
    for (size_t i = 0; i < size; i++) {
        uint32_t bits = float_bits(x[i]);
        for (unsigned byte = 0; byte < 4; byte++) out[4 * i + byte] = (uint8_t)(bits >> 8 * byte);
        decoded[i] = x[i];
    }
}

/* Nearest, ties to even; what would round to infinity becomes the largest finite value. */
static void bf16_encode(const float *x, size_t size, uint8_t *out, float *decoded) {
    for (size_t i = 0; i < size; i++) {
        uint32_t bits = float_bits(x[i]), sign = bits >> 31 << 15;
        uint32_t rounded = ((bits & 0x7FFFFFFF) + 0x7FFF + ((bits >> 16) & 1)) >> 16;
        rounded = (rounded > BF16_MAX ? BF16_MAX : rounded) | sign;
        out[2 * i] = (uint8_t)rounded;
        out[2 * i + 1] = (uint8_t)(rounded >> 8);
        decoded[i] = float_of(rounded << 16);
    }
}

/* Nearest integer, ties to even, |value| <= 2^22: adding and taking away 1.5 · 2^23 lets the
 * addition round. */
static float round_even(float value) { return (value + 12582912.0f) - 12582912.0f; }

static uint8_t int8_scale(uint32_t largest) {
    if (largest <= 0x400000)
        return 0; /* 2^-127 is half of the smallest scale, and a tie goes to the even 0 */
    uint32_t exponent = largest >> 23;
    /* 64·1.9921875 = 127.5 rounds to 128 */
    uint32_t scale = exponent - 6 + ((largest & 0x7FFFFF) >= 0x7F0000);
    return (uint8_t)(exponent < 6 || scale < 1 ? 1 : MIN(scale, (uint32_t)INT8_SCALE_MAX));
}

static void int8_encode(const float *x, size_t size, uint8_t *scales, uint8_t *out,
                        float *decoded) {
    for (size_t at = 0; at < size; at += CODEC_BLOCK) {
        size_t end = MIN(at + CODEC_BLOCK, size);
        uint8_t scale = int8_scale(largest_magnitude(x + at, end - at));
        scales[at / CODEC_BLOCK] = scale;
        float up = scale ? power_of_two(127 - scale) : 0.0f,
              down = scale ? power_of_two(scale - 127) : 0.0f;
        for (size_t i = at; i < end; i++) {
            float q = MAX(MIN(round_even(x[i] * up), (float)INT8_LIMIT), -(float)INT8_LIMIT);
            out[i] = (uint8_t)(int8_t)q;
            /* through the integer, so that −0 becomes what a decoder sees */
            decoded[i] = (float)(int8_t)q * down;
        }
    }
}

/* A magnitude's power of two, to the nearest in value: 1.5 · 2^n rounds up. Biased exponent. */
static uint32_t nearest_exponent(uint32_t magnitude) { return (magnitude + 0x400000) >> 23; }

/* The smallest magnitude that rounds to the lowest level 2^(scale-127) rather than to zero: half of
 * it. */
static uint32_t half_level(uint32_t scale) { return scale > 1 ? (scale - 1) << 23 : 0x400000; }

static uint8_t fp4_scale(uint32_t largest) {
    if (largest < half_level(1)) return 0;
    uint32_t exponent = MIN(nearest_exponent(largest), (uint32_t)(FP4_SCALE_MAX + FP4_LEVELS - 1));
    return (uint8_t)(exponent < FP4_LEVELS ? 1 : exponent - (FP4_LEVELS - 1));
}

static uint32_t fp4_code(uint32_t bits, uint32_t scale) {
    uint32_t magnitude = bits & 0x7FFFFFFF;
    if (scale == 0 || magnitude < half_level(scale)) return 0;
    uint32_t exponent = MAX(nearest_exponent(magnitude), scale);
    return MIN(exponent - scale + 1, (uint32_t)FP4_LEVELS) | bits >> 31 << 3;
}

static float fp4_value(uint32_t code, uint32_t scale) {
    uint32_t level = code & 7;
    return level ? float_of((scale + level - 1) << 23 | code >> 3 << 31) : 0.0f;
}

static void fp4_encode(const float *x, size_t size, uint8_t *scales, uint8_t *out, float *decoded) {
    memset(out, 0, size / 2 + size % 2);
    for (size_t at = 0; at < size; at += CODEC_BLOCK) {
        size_t end = MIN(at + CODEC_BLOCK, size);
        uint8_t scale = fp4_scale(largest_magnitude(x + at, end - at));
        scales[at / CODEC_BLOCK] = scale;
        for (size_t i = at; i < end; i++) {
            uint32_t code = fp4_code(float_bits(x[i]), scale);
            out[i / 2] = (uint8_t)(out[i / 2] | code << 4 * (i % 2));
            decoded[i] = fp4_value(code, scale);
        }
    }
}

void dense_encode(enum codec codec, const float *x, size_t first, size_t size, size_t count,
                  uint8_t *payload, float *decoded) {
    uint8_t *scales = payload + first / CODEC_BLOCK, *codes = payload + block_count(count);
    switch (codec) {
    case CODEC_FP32: fp32_encode(x, size, payload + first * 4, decoded); break;
    case CODEC_BF16: bf16_encode(x, size, payload + first * 2, decoded); break;
    case CODEC_INT8: int8_encode(x, size, scales, codes + first, decoded); break;
    default: fp4_encode(x, size, scales, codes + first / 2, decoded); break;
    }
}

/* --- decoding --- */

static enum status not_finite(const char *name, size_t element, struct error *error) {
    return error_set(error, INVALID, "%s message: element %zu is not finite", name, element);
}

static enum status fp32_next(const uint8_t *raw, struct piece *out, struct error *error) {
    for (size_t i = 0; i < out->size; i++) {
        uint32_t bits = load_u32(raw + 4 * i);
        if (!bits_are_finite(bits)) return not_finite("fp32", out->first + i, error);
        out->value[i] = float_of(bits);
    }
    return OK;
}

static enum status bf16_next(const uint8_t *raw, struct piece *out, struct error *error) {
    for (size_t i = 0; i < out->size; i++) {
        uint32_t bits = ((uint32_t)raw[2 * i] | (uint32_t)raw[2 * i + 1] << 8) << 16;
        if (!bits_are_finite(bits)) return not_finite("bf16", out->first + i, error);
        out->value[i] = float_of(bits);
    }
    return OK;
}

static enum status int8_next(const uint8_t *scales, const uint8_t *codes, struct piece *out,
                             struct error *error) {
    for (size_t at = 0; at < out->size; at += CODEC_BLOCK) {
        size_t end = MIN(at + CODEC_BLOCK, out->size), block = (out->first + at) / CODEC_BLOCK;
        unsigned scale = scales[at / CODEC_BLOCK];
        if (scale > INT8_SCALE_MAX)
            return error_set(error, INVALID, "int8 message: block %zu: scale %u is out of range",
                             block, scale);
        float down = scale ? power_of_two((int)scale - 127) : 0.0f;
        int largest = 0;
        for (size_t i = at; i < end; i++) {
            int q = (int8_t)codes[i], magnitude = q < 0 ? -q : q;
            largest = MAX(largest, magnitude);
            out->value[i] = (float)q * down;
        }
        int least = scale == 0   ? 0
                    : scale == 1 ? 1
                                 : (INT8_LIMIT + 1) / 2,
            most = scale == 0 ? 0 : INT8_LIMIT;
        if (largest < least || largest > most) {
            return error_set(error, INVALID,
                             "int8 message: block %zu: largest code %d does not fit scale %u, "
                             "which allows %d to %d",
                             block, largest, scale, least, most);
        }
    }
    return OK;
}

static enum status fp4_next(const uint8_t *scales, const uint8_t *codes, struct piece *out,
                            struct error *error) {
    for (size_t at = 0; at < out->size; at += CODEC_BLOCK) {
        size_t end = MIN(at + CODEC_BLOCK, out->size), block = (out->first + at) / CODEC_BLOCK;
        uint32_t scale = scales[at / CODEC_BLOCK], largest = 0;
        if (scale > FP4_SCALE_MAX)
            return error_set(error, INVALID, "fp4 message: block %zu: scale %u is out of range",
                             block, scale);
        for (size_t i = at; i < end; i++) {
            uint32_t code = codes[i / 2] >> 4 * (i % 2) & 15;
            if (code == 8)
                return error_set(error, INVALID, "fp4 message: element %zu is a negative zero",
                                 out->first + i);
            largest = MAX(largest, code & 7);
            out->value[i] = fp4_value(code, scale);
        }
        uint32_t least = scale == 0   ? 0
                         : scale == 1 ? 1
                                      : FP4_LEVELS,
                 most = scale == 0 ? 0 : FP4_LEVELS;
        if (largest < least || largest > most) {
            return error_set(error, INVALID,
                             "fp4 message: block %zu: largest code %u does not fit scale %u, which "
                             "allows %u to %u",
                             block, largest, scale, least, most);
        }
    }
    if (out->size % 2 != 0 && codes[out->size / 2] >> 4 != 0) {
        return error_set(error, INVALID, "fp4 message: padding is not zero");
    }
    return OK;
}

enum status dense_next(struct cursor *cursor, struct piece *out, struct error *error) {
    size_t first = cursor->at;
    const uint8_t *payload = cursor->payload.data;
    const uint8_t *scales = payload + first / CODEC_BLOCK,
                  *codes = payload + block_count(cursor->count);
    out->sent = out->size;
    switch (cursor->codec) {
    case CODEC_FP32: return fp32_next(payload + first * 4, out, error);
    case CODEC_BF16: return bf16_next(payload + first * 2, out, error);
    case CODEC_INT8: return int8_next(scales, codes + first, out, error);
    default: return fp4_next(scales, codes + first / 2, out, error);
    }
}
