/* One UTF-8 sequence at a time (RFC 3629: no overlong forms, no surrogates, nothing past U+10FFFF).
 */
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The bytes of the sequence that begins at text, of which `left` >= 1 may be read; 0 if it is none.
 */
static inline size_t utf8_length(const uint8_t *text, size_t left) {
    uint8_t c = text[0];
    if (c < 0x80) return 1;
    size_t length = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
    if (c < 0xc2 || c > 0xf4 || length > left) return 0;
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xc0) != 0x80) return 0;
    }
    if ((c == 0xe0 && text[1] < 0xa0) || (c == 0xed && text[1] > 0x9f)) return 0;
    if ((c == 0xf0 && text[1] < 0x90) || (c == 0xf4 && text[1] > 0x8f)) return 0;
    return length;
}

/* The same, but 0 also for a character that is not to be shown to people in a text of somebody
 * else: controls (C0, DEL, C1), which rule a terminal, and what cannot be seen or turns the order
 * of what stands beside it, so that a text reads as another one: soft hyphen, zero width, line
 * and paragraph separators, marks, embeddings and isolates of direction, tags. */
static inline size_t utf8_shown_length(const uint8_t *text, size_t left) {
    size_t length = utf8_length(text, left);
    if (length <= 1) return length && text[0] >= 0x20 && text[0] != 0x7f ? 1 : 0;
    uint32_t point = text[0] & (0xffu >> (length + 1));
    for (size_t i = 1; i < length; i++) point = point << 6 | (text[i] & 0x3f);
    bool hidden = point < 0xa0 || point == 0xad || point == 0x61c || point == 0x180e ||
                  (point >= 0x200b && point <= 0x200f) || (point >= 0x2028 && point <= 0x202e) ||
                  (point >= 0x2060 && point <= 0x206f) || point == 0xfeff ||
                  (point >= 0xfff9 && point <= 0xfffb) || (point >= 0xe0000 && point <= 0xe007f);
    return hidden ? 0 : length;
}

/* Bytes of the byte order mark that some editors put before UTF-8 text: 3, or 0 where there is
 * none. It is not a part of the text. */
static inline size_t utf8_mark(const uint8_t *text, size_t size) {
    return size >= 3 && text[0] == 0xef && text[1] == 0xbb && text[2] == 0xbf ? 3 : 0;
}

/* Whether it begins as editors begin UTF-16 text. */
static inline bool utf16_mark(const uint8_t *text, size_t size) {
    return size >= 2 &&
           ((text[0] == 0xff && text[1] == 0xfe) || (text[0] == 0xfe && text[1] == 0xff));
}

static inline bool utf8_is_valid(const uint8_t *text, size_t size) {
    for (size_t at = 0, length; at < size; at += length)
        if ((length = utf8_length(text + at, size - at)) == 0) return false;
    return true;
}

#endif
