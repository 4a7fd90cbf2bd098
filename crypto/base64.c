/* Strict base64url (crypto/base64.h): exactly one text for each sequence of bytes. Tokens that
 * people paste come through here. */
#include "crypto/base64.h"

#include <openssl/crypto.h>

static const char alphabet[65] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

char *base64url_encode(const void *data, size_t size, char *out) {
    const uint8_t *bytes = data;
    char *at = out;
    uint32_t held = 0;
    unsigned bits = 0; /* of held, still to be written */
    for (size_t i = 0; i < size; i++) {
        held = held << 8 | bytes[i];
        bits += 8;
        while (bits >= 6) {
            bits -= 6;
            *at++ = alphabet[held >> bits & 63];
        }
    }
    if (bits > 0) *at++ = alphabet[held << (6 - bits) & 63];
    *at = 0;
    return out;
}

static int value_of(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '-' ? 62 : c == '_' ? 63 : -1;
}

enum status base64url_decode(const char *text, size_t text_size, size_t limit, struct buffer *out,
                             struct error *error) {
    size_t size = text_size / 4 * 3 + (text_size % 4 ? text_size % 4 - 1 : 0);
    if (text_size % 4 == 1)
        return error_set(error, INVALID, "%zu characters are not base64url: some are missing",
                         text_size);
    if (size > limit)
        return error_set(error, INVALID, "base64url text of %zu bytes, more than the limit of %zu",
                         size, limit);
    size_t start = out->size;
    buffer_reserve(out, start + size);
    uint32_t held = 0;
    unsigned bits = 0;
    for (size_t i = 0; i < text_size; i++) {
        int value = value_of(text[i]);
        if (value < 0) {
            out->size = start;
            return error_set(error, INVALID, "character %zu is not base64url", i + 1);
        }
        held = held << 6 | (uint32_t)value;
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            buffer_u8(out, (uint8_t)(held >> bits));
        }
    }
    if ((held & ((1u << bits) - 1)) != 0) {
        out->size = start;
        return error_set(error, INVALID,
                         "base64url text whose last character has unused bits that are not zero");
    }
    return OK;
}
