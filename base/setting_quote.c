/* A text as a YAML scalar that any reader gives back as that text (base/setting.h). */
#include <string.h>
#include <strings.h>

#include "base/memory.h"
#include "base/setting.h"
#include "base/utf8.h"

/* Words and numbers that some YAML reader takes for something other than text. */
static bool looks_like_another_type(const char *text) {
    static const char *const words[] = {"null", "true", "false", "yes", "no",
                                        "on",   "off",  "y",     "n"};
    for (size_t i = 0; i < COUNT_OF(words); i++) {
        if (strcasecmp(text, words[i]) == 0) return true;
    }
    return strchr("+-.0123456789", *text) != NULL;
}

/* What YAML takes for a line break, a byte order mark or no character at all, even in quotes (YAML
 * 1.1, section 4). */
static bool is_unprintable(uint32_t point) {
    return (point >= 0x80 && point < 0xa0) || point == 0x2028 || point == 0x2029 ||
           point == 0xfeff || point >= 0xfffe;
}

void setting_quote(const char *text, struct buffer *out) {
    static const char safe[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./+-";
    if (*text && strspn(text, safe) == strlen(text) && !looks_like_another_type(text)) {
        buffer_append(out, text, strlen(text));
        return;
    }
    buffer_u8(out, '"');
    for (const uint8_t *c = (const uint8_t *)text; *c;) {
        size_t size = utf8_length(c, strlen((const char *)c));
        uint32_t point = size == 2 ? (c[0] & 31u) << 6 | (c[1] & 63u) : 0;
        if (size == 3) point = (c[0] & 15u) << 12 | (c[1] & 63u) << 6 | (c[2] & 63u);
        if (*c == '"' || *c == '\\')
            buffer_append_text(out, "\\%c", *c);
        else if (*c == '\n')
            buffer_append_text(out, "\\n");
        else if (*c == '\t')
            buffer_append_text(out, "\\t");
        else if (*c < ' ' || *c == 127)
            buffer_append_text(out, "\\x%02x", *c);
        else if (is_unprintable(point))
            buffer_append_text(out, "\\u%04x", point);
        else
            buffer_append(out, c, size ? size : 1);
        c += size ? size : 1;
    }
    buffer_u8(out, '"');
}
