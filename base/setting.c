/* One value at a time: text to field and back, with units and bounds (base/setting.h). */
#include "base/setting.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/suggest.h"

enum { VALUE_SIZE = 2048 };
#define DIGITS "0123456789"

/* --- names --- */

const struct setting *setting_find(const struct setting *table, const char *name) {
    for (const struct setting *at = table; at->name; at++)
        if (strcmp(at->name, name) == 0) return at;
    return NULL;
}

static const char *last_part(const char *name) {
    const char *dot = strrchr(name, '.');
    return dot ? dot + 1 : name;
}

const char *setting_nearest(const struct setting *table, const char *name) {
    struct suggestion whole, part;
    const char *best = NULL;
    suggest_init(&whole, name);
    suggest_init(&part, last_part(name));
    for (const struct setting *at = table; at->name; at++) {
        const char *before = part.best;
        suggest_offer(&whole, at->name);
        suggest_offer(&part, last_part(at->name));
        if (part.best != before) best = at->name;
    }
    return whole.best ? whole.best : best;
}

/* --- numbers and units --- */

struct unit {
    enum setting_kind kind;
    const char *name;
    uint64_t factor, divisor; /* of what is 1 without a unit; a second */
};

/* setting_format takes the first of a kind that divides the value. */
/* clang-format off */
static const struct unit units[] = {
    {SETTING_COUNT, "T", 1000000000000, 1}, {SETTING_COUNT, "B", 1000000000, 1},
    {SETTING_COUNT, "M", 1000000, 1}, {SETTING_COUNT, "k", 1000, 1},
    {SETTING_SHARE, "%", 1, 100},
    {SETTING_SIZE, "TiB", UINT64_C(1) << 40, 1}, {SETTING_SIZE, "GiB", 1 << 30, 1},
    {SETTING_SIZE, "MiB", 1 << 20, 1}, {SETTING_SIZE, "KiB", 1 << 10, 1},
    {SETTING_SIZE, "PB", 1000000000000000, 1}, {SETTING_SIZE, "TB", 1000000000000, 1},
    {SETTING_SIZE, "GB", 1000000000, 1}, {SETTING_SIZE, "MB", 1000000, 1},
    {SETTING_SIZE, "kB", 1000, 1}, {SETTING_SIZE, "B", 1, 1},
    {SETTING_DURATION, "d", 86400, 1}, {SETTING_DURATION, "h", 3600, 1},
    {SETTING_DURATION, "m", 60, 1}, {SETTING_DURATION, "s", 1, 1},
    {SETTING_DURATION, "ms", 1, 1000}, {SETTING_DURATION, "us", 1, 1000000},
    {SETTING_DURATION, "ns", 1, 1000000000}, {SETTING_DURATION, "ps", 1, 1000000000000},
    {SETTING_RATE, "GiB/s", 1 << 30, 1}, {SETTING_RATE, "MiB/s", 1 << 20, 1},
    {SETTING_RATE, "KiB/s", 1 << 10, 1}, {SETTING_RATE, "TB/s", 1000000000000, 1},
    {SETTING_RATE, "GB/s", 1000000000, 1}, {SETTING_RATE, "MB/s", 1000000, 1},
    {SETTING_RATE, "kB/s", 1000, 1}, {SETTING_RATE, "B/s", 1, 1},
    {SETTING_RATE, "Tbit/s", 125000000000, 1}, {SETTING_RATE, "Gbit/s", 125000000, 1},
    {SETTING_RATE, "Mbit/s", 125000, 1}, {SETTING_RATE, "kbit/s", 125, 1},
    {SETTING_RATE, "bit/s", 1, 8}};
/* clang-format on */

/* Of the field in what is 1 without a unit: milliseconds in a second where it is an integer. */
static uint64_t parts_of_unit(const struct setting *setting) {
    return setting->kind == SETTING_DURATION && !setting->real ? 1000 : 1;
}

static bool has_units(const struct setting *setting) {
    return setting->kind == SETTING_SIZE || setting->kind == SETTING_DURATION ||
           setting->kind == SETTING_RATE;
}

/* digits * 10^exponent */
struct number {
    uint64_t digits;
    int exponent;
    bool is_exact; /* the digits fit */
    double real;
};

static void take_digits(struct number *number, const char *text, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint64_t digit = (uint64_t)(text[i] - '0');
        if (__builtin_mul_overflow(number->digits, (uint64_t)10, &number->digits) ||
            __builtin_add_overflow(number->digits, digit, &number->digits))
            number->is_exact = false;
    }
}

static bool read_number(const char *text, struct number *out, const char **rest) {
    size_t whole = strspn(text, DIGITS), at = whole;
    if (whole == 0 || (whole > 1 && text[0] == '0')) return false;
    *out = (struct number){.is_exact = true};
    take_digits(out, text, whole);
    if (text[at] == '.') {
        size_t fraction = strspn(text + at + 1, DIGITS);
        if (fraction == 0) return false;
        take_digits(out, text + at + 1, fraction);
        out->exponent = -(int)MIN(fraction, (size_t)10000);
        at += 1 + fraction;
    }
    if (text[at] == 'e' || text[at] == 'E') {
        bool minus = text[at + 1] == '-';
        at += text[at + 1] == '-' || text[at + 1] == '+' ? 2 : 1;
        size_t digits = strspn(text + at, DIGITS);
        if (digits == 0 || digits > 4) return false;
        out->exponent += (minus ? -1 : 1) * atoi(text + at);
        at += digits;
    }
    out->real = strtod(text, NULL);
    *rest = text + at;
    return isfinite(out->real);
}

static bool read_unit(const struct setting *setting, const char *text, bool is_zero,
                      struct unit *out) {
    *out = (struct unit){.factor = 1, .divisor = 1};
    if (*text == '\0') return is_zero || !has_units(setting);
    enum setting_kind kind = setting->kind == SETTING_NUMBER ? SETTING_COUNT : setting->kind;
    text += strspn(text, " ");
    for (size_t i = 0; i < COUNT_OF(units); i++) {
        if (units[i].kind != kind || strcmp(units[i].name, text) != 0) continue;
        *out = units[i];
        return true;
    }
    return false;
}

/* number * factor / divisor, if that is whole. */
static bool multiply(const struct number *number, unsigned __int128 factor, uint64_t divisor,
                     uint64_t *out) {
    unsigned __int128 value = number->digits * factor;
    if (!number->is_exact) return false;
    if (value == 0) {
        *out = 0;
        return true;
    }
    for (int i = 0; i > number->exponent; i--) {
        if (value % 10 != 0) return false;
        value /= 10;
    }
    unsigned __int128 most = (unsigned __int128)UINT64_MAX * divisor;
    for (int i = 0; i < number->exponent && value <= most; i++) value *= 10;
    if (value % divisor != 0 || value > most) return false;
    *out = (uint64_t)(value / divisor);
    return true;
}

static bool store_whole(const struct setting *setting, uint64_t value, void *field) {
    if (setting->size == sizeof(uint64_t)) {
        memcpy(field, &value, sizeof value);
        return true;
    }
    uint32_t small = (uint32_t)value;
    memcpy(field, &small, sizeof small);
    return value <= UINT32_MAX;
}

static uint64_t load_whole(const struct setting *setting, const void *field) {
    uint64_t value = 0;
    uint32_t small = 0;
    if (setting->size == sizeof value) memcpy(&value, field, sizeof value);
    if (setting->size == sizeof small) memcpy(&small, field, sizeof small);
    return setting->size == sizeof value ? value : small;
}

static bool read_quantity(const struct setting *setting, const char *text, void *field) {
    struct number number;
    struct unit unit;
    if (!read_number(text, &number, &text) || !read_unit(setting, text, number.real == 0, &unit))
        return false;
    if (!setting->real) {
        uint64_t value;
        return multiply(&number, (unsigned __int128)unit.factor * parts_of_unit(setting),
                        unit.divisor, &value) &&
               store_whole(setting, value, field);
    }
    double value = number.real * ((double)unit.factor / (double)unit.divisor);
    if (setting->kind == SETTING_COUNT && value != floor(value)) return false;
    memcpy(field, &value, sizeof value);
    return isfinite(value);
}

/* a <= b, as values of the setting */
static bool is_ordered(const struct setting *setting, const void *a, const void *b) {
    double x, y;
    if (!setting->real) return load_whole(setting, a) <= load_whole(setting, b);
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return x <= y;
}

static bool is_in_bounds(const struct setting *setting, const void *field) {
    uint64_t least = 0, most = 0; /* room for any field */
    bool good = (!setting->min || read_quantity(setting, setting->min, &least)) &&
                (!setting->max || read_quantity(setting, setting->max, &most));
    ASSERT(good); /* the table's own texts */
    return (!setting->min || is_ordered(setting, &least, field)) &&
           (!setting->max || is_ordered(setting, field, &most));
}

static bool is_endless(const struct setting *setting, const char *text) {
    if (!(setting->flags & SETTING_ENDLESS)) return false;
    if (setting->kind == SETTING_RATE) return strcmp(text, "unlimited") == 0;
    return strcmp(text, "never") == 0 || strcmp(text, "forever") == 0;
}

static bool is_auto(const struct setting *setting, const void *field) {
    double value;
    if (!(setting->flags & SETTING_AUTO)) return false;
    if (!setting->real)
        return load_whole(setting, field) ==
               (setting->size == sizeof(uint64_t) ? UINT64_MAX : UINT32_MAX);
    memcpy(&value, field, sizeof value);
    return value == -1;
}

/* --- reading --- */

static bool read_bool(const char *text, bool *out) {
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on"};
    for (size_t i = 0; i < COUNT_OF(words); i++) {
        if (strcmp(text, words[i]) != 0) continue;
        *out = i % 2 == 1;
        return true;
    }
    return false;
}

static bool read_choice(const struct setting *setting, const char *text, void *field) {
    for (int i = 0; setting->choices[i]; i++) {
        if (strcmp(text, setting->choices[i]) != 0) continue;
        int value = i + setting->first;
        uint16_t small = (uint16_t)value;
        if (setting->size == sizeof small)
            memcpy(field, &small, sizeof small);
        else
            memcpy(field, &value, sizeof value);
        return true;
    }
    return false;
}

static bool has_length(const struct setting *setting, const char *text) {
    struct setting length = {.kind = SETTING_COUNT, .size = sizeof(uint64_t)};
    length.min = setting->min;
    length.max = setting->max;
    return is_in_bounds(&length, &(uint64_t){strlen(text)}) &&
           (setting->kind != SETTING_PATH || *text);
}

static bool read_form(const struct setting *setting, const char *text, void *field) {
    double infinite = INFINITY, automatic = -1;
    if ((setting->flags & SETTING_AUTO) && strcmp(text, "auto") == 0) {
        if (setting->real)
            memcpy(field, &automatic, sizeof automatic);
        else
            memset(field, 0xFF, setting->size);
        return true;
    }
    switch (setting->kind) {
    case SETTING_BOOL: return read_bool(text, field);
    case SETTING_CHOICE: return read_choice(setting, text, field);
    case SETTING_CHARS:
        if (strlen(text) >= setting->size || !has_length(setting, text)) return false;
        memset(field, 0, setting->size);
        memcpy(field, text, strlen(text));
        return true;
    case SETTING_HEX:
        memset(field, 0, setting->size);
        return strcmp(text, "none") == 0 || hex_decode(text, field, setting->size, NULL) == OK;
    case SETTING_TEXT:
    case SETTING_PATH: memcpy(field, &text, sizeof text); return has_length(setting, text);
    case SETTING_LIST: return false;
    default: break;
    }
    if (!is_endless(setting, text))
        return read_quantity(setting, text, field) && is_in_bounds(setting, field);
    if (!setting->real) return store_whole(setting, UINT64_MAX, field);
    memcpy(field, &infinite, sizeof infinite);
    return true;
}

static enum status refuse(const struct setting *setting, const char *text, struct error *error) {
    struct buffer range = {0};
    if (setting->kind == SETTING_COUNT && (setting->min || setting->max))
        buffer_append_text(&range, "a whole number, ");
    setting_range(setting, &range);
    bool secret = setting->flags & SETTING_SECRET;
    enum status status =
        secret ? error_set(error, INVALID, "the value (a secret, not shown) is invalid: write %.*s",
                           (int)range.size, (const char *)range.data)
               : error_set(error, INVALID, "invalid value \"%.64s\": write %.*s", text,
                           (int)range.size, (const char *)range.data);
    buffer_deinit(&range);
    return status;
}

enum status setting_parse(const struct setting *setting, const char *text, void *field,
                          struct error *error) {
    unsigned char value[VALUE_SIZE] = {0};
    ASSERT(setting->size <= sizeof value);
    if (setting->check) TRY(setting->check(text, error));
    if (!read_form(setting, text, value)) return refuse(setting, text, error);
    memcpy(field, value, setting->size);
    return OK;
}

enum status setting_check(const struct setting *setting, const void *field, struct error *error) {
    unsigned char value[VALUE_SIZE];
    struct buffer text = {0};
    ASSERT(setting->kind < SETTING_TEXT);
    setting_format(setting, field, &text);
    buffer_u8(&text, 0);
    enum status status = setting_parse(setting, (const char *)text.data, value, error);
    buffer_deinit(&text);
    return status;
}

/* --- writing --- */

static void format_choice(const struct setting *setting, const void *field, struct buffer *out) {
    int value = 0, count = 0;
    uint16_t small = 0;
    memcpy(setting->size == sizeof small ? (void *)&small : (void *)&value, field, setting->size);
    if (setting->size == sizeof small) value = small;
    while (setting->choices[count]) count++;
    bool is_known = value >= setting->first && value - setting->first < count;
    buffer_append_text(out, "%s", is_known ? setting->choices[value - setting->first] : "?");
}

static void format_real(const struct setting *setting, const void *field, struct buffer *out) {
    double value;
    char text[F64_TEXT_SIZE];
    memcpy(&value, field, sizeof value);
    static const char *const base[] = {
        [SETTING_SIZE] = "B", [SETTING_DURATION] = "s", [SETTING_RATE] = "B/s"};
    buffer_append_text(out, "%s%s", f64_format(value, text),
                       has_units(setting) ? base[setting->kind] : "");
}

static void format_quantity(const struct setting *setting, const void *field, struct buffer *out) {
    uint64_t value = load_whole(setting, field);
    if (!has_units(setting)) {
        buffer_append_text(out, "%llu", (unsigned long long)value);
        return;
    }
    if (value == UINT64_MAX && (setting->flags & SETTING_ENDLESS)) {
        buffer_append_text(out, setting->kind == SETTING_RATE ? "unlimited" : "forever");
        return;
    }
    for (size_t i = 0; i < COUNT_OF(units); i++) {
        if (units[i].kind != setting->kind) continue;
        uint64_t factor = units[i].factor * parts_of_unit(setting) / units[i].divisor;
        if (factor != 1 && (value == 0 || value % factor != 0)) continue;
        buffer_append_text(out, "%llu%s", (unsigned long long)(value / factor), units[i].name);
        return;
    }
}

static bool is_zero(const uint8_t *bytes, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (bytes[i]) return false;
    return true;
}

void setting_format(const struct setting *setting, const void *field, struct buffer *out) {
    if (is_auto(setting, field)) {
        buffer_append_text(out, "auto");
        return;
    }
    switch (setting->kind) {
    case SETTING_BOOL: buffer_append_text(out, *(const bool *)field ? "true" : "false"); return;
    case SETTING_CHOICE: format_choice(setting, field, out); return;
    case SETTING_CHARS:
        buffer_append_text(out, "%.*s", (int)setting->size, (const char *)field);
        return;
    case SETTING_HEX:
        if (is_zero(field, setting->size)) buffer_append_text(out, "none");
        for (size_t i = 0; i < setting->size && !is_zero(field, setting->size); i++)
            buffer_append_text(out, "%02x", ((const uint8_t *)field)[i]);
        return;
    case SETTING_TEXT:
    case SETTING_PATH: {
        const char *text = NULL;
        memcpy(&text, field, sizeof text);
        if (text) setting_quote(text, out);
        return;
    }
    case SETTING_LIST: {
        struct setting_list list = {0};
        memcpy(&list, field, sizeof list);
        buffer_append_text(out, "[");
        for (size_t i = 0; i < list.count; i++) {
            if (i) buffer_append_text(out, ", ");
            setting_quote(list.items[i], out);
        }
        buffer_append_text(out, "]");
        return;
    }
    default: break;
    }
    if (setting->real)
        format_real(setting, field, out);
    else
        format_quantity(setting, field, out);
}

void setting_bounds(const struct setting *setting, struct buffer *out) {
    if (setting->max)
        buffer_append_text(out, "%s to %s", setting->min ? setting->min : "0", setting->max);
    else if (setting->min)
        buffer_append_text(out, "at least %s", setting->min);
}

static void append_units(const struct setting *setting, struct buffer *out) {
    const char *between = " (units ";
    for (size_t i = COUNT_OF(units); i-- > 0;) {
        bool finer = setting->kind == SETTING_DURATION && !setting->real &&
                     units[i].divisor > parts_of_unit(setting);
        if (units[i].kind != setting->kind || finer) continue;
        buffer_append_text(out, "%s%s", between, units[i].name);
        between = ", ";
    }
    buffer_append_text(out, ")");
}

void setting_range(const struct setting *setting, struct buffer *out) {
    static const char *const words[] = {
        [SETTING_BOOL] = "true or false", [SETTING_COUNT] = "a whole number",
        [SETTING_NUMBER] = "a number",    [SETTING_SHARE] = "a share, such as 0.02 or 2%",
        [SETTING_SIZE] = "a size",        [SETTING_DURATION] = "a duration",
        [SETTING_RATE] = "a rate",        [SETTING_CHARS] = "a text",
        [SETTING_TEXT] = "a text",        [SETTING_PATH] = "a path",
        [SETTING_LIST] = "a list"};
    bool bounded = setting->min || setting->max;
    switch (setting->kind) {
    case SETTING_CHOICE:
        for (size_t i = 0; setting->choices[i]; i++)
            buffer_append_text(out, "%s%s",
                               i == 0                    ? ""
                               : setting->choices[i + 1] ? ", "
                                                         : " or ",
                               setting->choices[i]);
        return;
    case SETTING_HEX:
        buffer_append_text(out, "none or %zu hexadecimal digits", 2 * setting->size);
        return;
    case SETTING_CHARS:
    case SETTING_TEXT:
    case SETTING_PATH:
        buffer_append_text(out, "%s", setting->form ? setting->form : words[setting->kind]);
        if (bounded) buffer_append_text(out, " of ");
        setting_bounds(setting, out);
        if (bounded) buffer_append_text(out, " characters");
        return;
    default: break;
    }
    if (bounded)
        setting_bounds(setting, out);
    else
        buffer_append_text(out, "%s", words[setting->kind]);
    if (setting->flags & SETTING_ENDLESS)
        buffer_append_text(out, setting->kind == SETTING_RATE ? " or unlimited" : " or forever");
    if (setting->flags & SETTING_AUTO) buffer_append_text(out, " or auto");
    if (has_units(setting)) append_units(setting, out);
}
