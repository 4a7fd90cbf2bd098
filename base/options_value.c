/* One value at a time: text to field and back, with bounds. What these accept is what --help
 * promises. */
#include "base/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/utf8.h"

struct option_unit {
    const char *name;
    uint64_t factor;
};

static const struct option_unit size_units[] = {
    {"TiB", 1ull << 40}, {"GiB", 1ull << 30}, {"MiB", 1ull << 20}, {"KiB", 1ull << 10}, {"B", 1}};
static const struct option_unit duration_units[] = {
    {"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}};

/* The digits at the start of text; *end is what follows. False if there are none or they do not
 * fit. */
static bool digits(const char *text, uint64_t *out, const char **end) {
    uint64_t value = 0;
    const char *at = text;
    for (; *at >= '0' && *at <= '9'; at++) {
        if (__builtin_mul_overflow(value, (uint64_t)10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*at - '0'), &value)) {
            return false;
        }
    }
    *out = value;
    *end = at;
    return at != text;
}

static enum status parse_count(const char *text, uint64_t *out, struct error *error) {
    const char *end = text;
    if (digits(text, out, &end) && *end == 0) return OK;
    if (*text >= '0' && *text <= '9' && strspn(text, "0123456789") == strlen(text)) {
        return error_set(error, INVALID, "'%s' is too large", text);
    }
    return error_set(error, INVALID, "'%s' is not a count: write digits only, such as 500", text);
}

static enum status parse_with_unit(const char *text, const struct option_unit *units, size_t count,
                                   const char *teaching, uint64_t *out, struct error *error) {
    const char *end = text;
    uint64_t number = 0, factor = 0;
    if (!digits(text, &number, &end))
        return error_set(error, INVALID, "'%s' is not %s", text, teaching);
    while (*end == ' ') end++;
    for (size_t i = 0; i < count; i++) {
        if (strcmp(end, units[i].name) == 0) factor = units[i].factor;
    }
    bool bytes = units == size_units;
    if (*end == 0 && (bytes || number == 0)) factor = 1;
    if (factor == 0 && *end == 0)
        return error_set(error, INVALID, "'%s' has no unit: write %s", text, teaching);
    if (factor == 0)
        return error_set(error, INVALID, "'%s' has the unknown unit '%s': write %s", text, end,
                         teaching);
    if (__builtin_mul_overflow(number, factor, out))
        return error_set(error, INVALID, "'%s' is too large", text);
    return OK;
}

static enum status parse_number(enum option_type type, const char *text, uint64_t *out,
                                struct error *error) {
    if (type == OPTION_SIZE) {
        return parse_with_unit(text, size_units, COUNT_OF(size_units),
                               "a size such as 4096, 64KiB, 10MiB or 2GiB", out, error);
    }
    if (type == OPTION_DURATION) {
        return parse_with_unit(text, duration_units, COUNT_OF(duration_units),
                               "a duration such as 250ms, 30s, 5m or 12h", out, error);
    }
    return parse_count(text, out, error);
}

static enum status parse_f64(const char *text, double *out, struct error *error) {
    /* strtod also reads blanks, hexadecimal, "inf" and "nan"; none of these is meant here. */
    if (*text && strspn(text, "0123456789+-.eE") == strlen(text)) {
        char *end = NULL;
        double value = strtod(text, &end);
        if (*end == 0 && end != text && value - value == 0) {
            *out = value;
            return OK;
        }
    }
    return error_set(error, INVALID, "'%s' is not a number such as 0.7 or 1e-4", text);
}

static enum status parse_bool(const char *text, bool *out, struct error *error) {
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on"};
    for (size_t i = 0; i < COUNT_OF(words); i++) {
        if (strcmp(text, words[i]) == 0) {
            *out = i % 2 == 1;
            return OK;
        }
    }
    return error_set(error, INVALID, "'%s' is neither true nor false", text);
}

static enum status parse_choice(const struct option *option, const char *text, int *out,
                                struct error *error) {
    struct buffer names = {0};
    for (int i = 0; option->choices[i]; i++) {
        if (strcmp(text, option->choices[i]) == 0) {
            *out = i;
            buffer_deinit(&names);
            return OK;
        }
        buffer_append_text(&names, "%s%s", i ? ", " : "", option->choices[i]);
    }
    enum status status = error_set(error, INVALID, "'%s' is none of %.*s", text, (int)names.size,
                                   (const char *)names.data);
    buffer_deinit(&names);
    return status;
}

static enum status check_u64(const struct option *option, enum option_type type, uint64_t value,
                             const char *text, const char *what, struct error *error) {
    uint64_t bound = 0;
    if (option->min) {
        MUST(parse_number(type, option->min, &bound, NULL));
        if (value < bound)
            return error_set(error, INVALID, "%s%s is below the minimum of %s", what, text,
                             option->min);
    }
    if (option->max) {
        MUST(parse_number(type, option->max, &bound, NULL));
        if (value > bound)
            return error_set(error, INVALID, "%s%s is above the maximum of %s", what, text,
                             option->max);
    }
    return OK;
}

static enum status check_f64(const struct option *option, double value, const char *text,
                             struct error *error) {
    double bound = 0;
    if (option->min) {
        MUST(parse_f64(option->min, &bound, NULL));
        if (!(value >= bound))
            return error_set(error, INVALID, "%s is below the minimum of %s", text, option->min);
    }
    if (option->max) {
        MUST(parse_f64(option->max, &bound, NULL));
        if (!(value <= bound))
            return error_set(error, INVALID, "%s is above the maximum of %s", text, option->max);
    }
    return OK;
}

static enum status check_text(const struct option *option, const char *text, struct error *error) {
    if (option->type == OPTION_PATH && !*text)
        return error_set(error, INVALID, "the path is empty");
    char length[32];
    snprintf(length, sizeof length, "%zu", strlen(text));
    return check_u64(option, OPTION_U64, strlen(text), length, "its length of ", error);
}

/* A secret's own text must not come back in a message. */
static enum status without_text(const struct option *option, enum status status,
                                struct error *error) {
    if (status == OK || !(option->flags & OPTION_SECRET)) return status;
    return error_set(error, status, "the value (a secret, not shown) is not valid here");
}

static enum status parse_unveiled(const struct option *option, const char *text, void *out,
                                  struct error *error) {
    switch (option->type) {
    case OPTION_BOOL: {
        bool value = false;
        TRY(parse_bool(text, &value, error));
        memcpy(out, &value, sizeof value);
        return OK;
    }
    case OPTION_U64:
    case OPTION_SIZE:
    case OPTION_DURATION: {
        uint64_t value = 0;
        TRY(parse_number(option->type, text, &value, error));
        TRY(check_u64(option, option->type, value, text, "", error));
        memcpy(out, &value, sizeof value);
        return OK;
    }
    case OPTION_F64: {
        double value = 0;
        TRY(parse_f64(text, &value, error));
        TRY(check_f64(option, value, text, error));
        memcpy(out, &value, sizeof value);
        return OK;
    }
    case OPTION_ENUM: {
        int value = 0;
        TRY(parse_choice(option, text, &value, error));
        memcpy(out, &value, sizeof value);
        return OK;
    }
    case OPTION_TEXT:
    case OPTION_PATH:
        TRY(check_text(option, text, error));
        memcpy(out, &text, sizeof text);
        return OK;
    case OPTION_LIST: break;
    }
    return error_set(error, INVALID, "a list has no single value");
}

enum status option_parse(const struct option *option, const char *text, void *out,
                         struct error *error) {
    return without_text(option, parse_unveiled(option, text, out, error), error);
}

static void format_with_unit(uint64_t value, const struct option_unit *units, size_t count,
                             struct buffer *out) {
    for (size_t i = 0; i < count; i++) {
        if (value == 0 || value % units[i].factor != 0) continue;
        bool plain = units[i].factor == 1 && units == size_units;
        buffer_append_text(out, "%llu%s", (unsigned long long)(value / units[i].factor),
                           plain ? "" : units[i].name);
        return;
    }
    buffer_append_text(out, "0");
}

void option_format(const struct option *option, const void *field, struct buffer *out) {
    uint64_t number = 0;
    switch (option->type) {
    case OPTION_BOOL: buffer_append_text(out, "%s", *(const bool *)field ? "true" : "false"); break;
    case OPTION_U64:
        memcpy(&number, field, sizeof number);
        buffer_append_text(out, "%llu", (unsigned long long)number);
        break;
    case OPTION_SIZE:
        memcpy(&number, field, sizeof number);
        format_with_unit(number, size_units, COUNT_OF(size_units), out);
        break;
    case OPTION_DURATION:
        memcpy(&number, field, sizeof number);
        format_with_unit(number, duration_units, COUNT_OF(duration_units), out);
        break;
    case OPTION_F64: {
        double value = 0;
        char text[F64_TEXT_SIZE];
        memcpy(&value, field, sizeof value);
        buffer_append_text(out, "%s", f64_format(value, text));
        break;
    }
    case OPTION_ENUM: {
        int index = 0;
        memcpy(&index, field, sizeof index);
        buffer_append_text(out, "%s", option->choices[index]);
        break;
    }
    case OPTION_TEXT:
    case OPTION_PATH: {
        const char *text = NULL;
        memcpy(&text, field, sizeof text);
        if (text) option_quote(text, out);
        break;
    }
    case OPTION_LIST: {
        struct option_list list = {0};
        memcpy(&list, field, sizeof list);
        buffer_append_text(out, "[");
        for (size_t i = 0; i < list.count; i++) {
            if (i) buffer_append_text(out, ", ");
            option_quote(list.items[i], out);
        }
        buffer_append_text(out, "]");
        break;
    }
    }
}

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

void option_quote(const char *text, struct buffer *out) {
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
