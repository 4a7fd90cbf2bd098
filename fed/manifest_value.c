/* One value of the manifest: from text, checked, to text. The text that is written is the only one
 * for its value, because it is digested; the texts that are read may be a person's. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "codec/codec.h"
#include "fed/manifest_table.h"

static const struct {
    const char *name;
    uint64_t ms;
} units[] = {{"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}};

static void *field_of(const struct setting *setting, struct manifest *manifest) {
    return (char *)manifest + setting->offset;
}
static const void *field_in(const struct setting *setting, const struct manifest *manifest) {
    return (const char *)manifest + setting->offset;
}

static enum status value_refused(const struct setting *setting, const char *text,
                                 struct error *error) {
    struct buffer range = {0};
    setting_range(setting, &range);
    enum status status = error_set(error, INVALID, "invalid value \"%.64s\": write %.*s", text,
                                   (int)range.size, (const char *)range.data);
    buffer_deinit(&range);
    return status;
}

/* Digits only: no sign, no space, no leading zero, which some take for octal. *rest is what follows
 * them. */
static bool read_digits(const char *text, uint64_t *out, const char **rest) {
    if (text[0] < '0' || text[0] > '9' || (text[0] == '0' && text[1] >= '0' && text[1] <= '9'))
        return false;
    uint64_t value = 0;
    for (; *text >= '0' && *text <= '9'; text++) {
        uint64_t digit = (uint64_t)(*text - '0');
        if (value > (UINT64_MAX - digit) / 10) return false;
        value = value * 10 + digit;
    }
    *out = value;
    *rest = text;
    return true;
}

static bool read_whole(const char *text, uint64_t *out) {
    const char *rest;
    return read_digits(text, out, &rest) && *rest == '\0';
}

static bool read_real(const char *text, double *out) {
    if (text[0] == '\0' || text[strspn(text, "0123456789.eE+-")] != '\0' || text[0] == '+' ||
        text[0] == '-')
        return false;
    char *end;
    *out = strtod(text, &end);
    return *end == '\0' && isfinite(*out);
}

static bool read_duration(const struct setting *setting, const char *text, uint64_t *out) {
    if (setting->may_be_forever && strcmp(text, "forever") == 0) {
        *out = UINT64_MAX;
        return true;
    }
    uint64_t count;
    const char *unit;
    if (!read_digits(text, &count, &unit)) return false;
    if (count == 0 && *unit == '\0') {
        *out = 0;
        return true;
    }
    for (size_t i = 0; i < COUNT_OF(units); i++) {
        if (strcmp(unit, units[i].name) != 0) continue;
        if (count > setting->max / units[i].ms) return false;
        *out = count * units[i].ms;
        return true;
    }
    return false;
}

static bool read_choice(const struct setting *setting, const char *text, int *out) {
    for (int i = 0; i < CHOICES_MAX && setting->choices[i]; i++) {
        if (strcmp(text, setting->choices[i]) != 0) continue;
        *out = i;
        return true;
    }
    return false;
}

static bool read_digest(const char *text, uint8_t out[static DIGEST_SIZE]) {
    if (strcmp(text, "none") == 0) {
        memset(out, 0, DIGEST_SIZE);
        return true;
    }
    return hex_decode(text, out, DIGEST_SIZE, NULL) == OK;
}

/* Reads into *out whatever has the type's form; the bounds are setting_check's. */
static bool read_form(const struct setting *setting, const char *text, struct manifest *out) {
    void *field = field_of(setting, out);
    uint64_t whole;
    enum codec codec;
    switch (setting->type) {
    case SETTING_NAME:
        if (name_check(text, NULL) != OK) return false;
        memset(field, 0, RUN_NAME_SIZE);
        memcpy(field, text, strlen(text));
        return true;
    case SETTING_U32:
        if (!read_whole(text, &whole) || whole > UINT32_MAX) return false;
        *(uint32_t *)field = (uint32_t)whole;
        return true;
    case SETTING_U64: return read_whole(text, field);
    case SETTING_F64: return read_real(text, field);
    case SETTING_BOOL:
        *(bool *)field = strcmp(text, "true") == 0;
        return *(bool *)field || strcmp(text, "false") == 0;
    case SETTING_CHOICE: return read_choice(setting, text, field);
    case SETTING_CODEC:
        if (codec_parse(text, &codec, NULL) != OK) return false;
        *(uint16_t *)field = (uint16_t)codec;
        return true;
    case SETTING_DIGEST: return read_digest(text, field);
    case SETTING_DURATION: return read_duration(setting, text, field);
    }
    return false;
}

enum status setting_read(const struct setting *setting, const char *text, struct manifest *out,
                         struct error *error) {
    struct manifest copy = *out;
    if (!read_form(setting, text, &copy) || setting_check(setting, &copy, NULL) != OK)
        return value_refused(setting, text, error);
    *out = copy;
    return OK;
}

static bool is_in_bounds(const struct setting *setting, const struct manifest *manifest) {
    const void *field = field_in(setting, manifest);
    uint64_t whole;
    double real;
    int choice;
    switch (setting->type) {
    case SETTING_NAME: return memchr(field, 0, RUN_NAME_SIZE) && name_check(field, NULL) == OK;
    case SETTING_U32:
        whole = *(const uint32_t *)field;
        return whole >= setting->min && whole <= setting->max;
    case SETTING_U64:
        whole = *(const uint64_t *)field;
        return whole >= setting->min && whole <= setting->max;
    case SETTING_DURATION:
        whole = *(const uint64_t *)field;
        return (setting->may_be_forever && whole == UINT64_MAX) ||
               (whole >= setting->min && whole <= setting->max);
    case SETTING_F64: /* NaN fails; so does a negative zero, which would be a second text for zero
                       */
        real = *(const double *)field;
        return !signbit(real) && real >= setting->low && real <= setting->high;
    case SETTING_CHOICE:
        memcpy(&choice, field, sizeof choice);
        return choice >= 0 && choice < CHOICES_MAX && setting->choices[choice];
    case SETTING_CODEC: return codec_is_known(*(const uint16_t *)field);
    case SETTING_BOOL:
    case SETTING_DIGEST: return true;
    }
    return false;
}

enum status setting_check(const struct setting *setting, const struct manifest *manifest,
                          struct error *error) {
    if (is_in_bounds(setting, manifest)) return OK;
    struct buffer range = {0};
    setting_range(setting, &range);
    enum status status = error_set(error, INVALID, "out of bounds: write %.*s", (int)range.size,
                                   (const char *)range.data);
    buffer_deinit(&range);
    return status;
}

static void write_real(double value, struct buffer *out) {
    char text[32];
    for (int digits = 15; digits <= 17; digits++) { /* 17 always reads back */
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    buffer_append_text(out, "%s", text);
}

static void write_duration(uint64_t ms, struct buffer *out) {
    if (ms == UINT64_MAX) {
        buffer_append_text(out, "forever");
        return;
    }
    size_t unit = 0;
    while (ms == 0 || ms % units[unit].ms != 0) {
        unit++;
        if (unit == COUNT_OF(units) - 1) break;
    }
    buffer_append_text(out, "%llu%s", (unsigned long long)(ms / units[unit].ms), units[unit].name);
}

void setting_write(const struct setting *setting, const struct manifest *manifest,
                   struct buffer *out) {
    const void *field = field_in(setting, manifest);
    static const uint8_t none[DIGEST_SIZE];
    char hex[HEX32_SIZE];
    int choice;
    switch (setting->type) {
    case SETTING_NAME: buffer_append_text(out, "%s", (const char *)field); return;
    case SETTING_U32: buffer_append_text(out, "%u", *(const uint32_t *)field); return;
    case SETTING_U64:
        buffer_append_text(out, "%llu", (unsigned long long)*(const uint64_t *)field);
        return;
    case SETTING_F64: write_real(*(const double *)field, out); return;
    case SETTING_BOOL:
        buffer_append_text(out, "%s", *(const bool *)field ? "true" : "false");
        return;
    case SETTING_CHOICE:
        memcpy(&choice, field, sizeof choice);
        buffer_append_text(out, "%s", setting->choices[choice]);
        return;
    case SETTING_CODEC: buffer_append_text(out, "%s", codec_name(*(const uint16_t *)field)); return;
    case SETTING_DIGEST:
        buffer_append_text(
            out, "%s",
            memcmp(field, none, DIGEST_SIZE) == 0 ? "none" : hex_encode(field, DIGEST_SIZE, hex));
        return;
    case SETTING_DURATION: write_duration(*(const uint64_t *)field, out); return;
    }
}

void setting_range(const struct setting *setting, struct buffer *out) {
    switch (setting->type) {
    case SETTING_NAME:
        buffer_append_text(out, "1-32 characters from a-z, 0-9 and '-', starting with a letter");
        return;
    case SETTING_U32:
    case SETTING_U64:
        buffer_append_text(out, "%llu to %llu", (unsigned long long)setting->min,
                           (unsigned long long)setting->max);
        return;
    case SETTING_F64:
        write_real(setting->low, out);
        buffer_append_text(out, " to ");
        write_real(setting->high, out);
        return;
    case SETTING_BOOL: buffer_append_text(out, "true or false"); return;
    case SETTING_CHOICE:
        for (size_t i = 0; i < CHOICES_MAX && setting->choices[i]; i++)
            buffer_append_text(out, "%s%s", i ? " or " : "", setting->choices[i]);
        return;
    case SETTING_CODEC:
        buffer_append_text(out, "fp32, bf16, int8, fp4, topk2-64 or topk2-128");
        return;
    case SETTING_DIGEST: buffer_append_text(out, "none or 64 hexadecimal digits"); return;
    case SETTING_DURATION:
        write_duration(setting->min, out);
        buffer_append_text(out, " to ");
        write_duration(setting->max, out);
        buffer_append_text(out, "%s (units ms, s, m, h, d)",
                           setting->may_be_forever ? " or forever" : "");
        return;
    }
}
