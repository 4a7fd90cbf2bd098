/* A setting: one value that a person writes, with its kind, bounds, default and help.
 *
 * Options (base/options.h), the manifest of a run (fed/manifest.h) and the file of a federation
 * (topology/topology.h) are tables of these, over plain structs. What is written is the same in all
 * of them, in a flag, a variable or a file:
 *
 *     number    digits, with '.' and digits, with 'e' and an exponent: 500, 0.7, 1.5e-4. No sign,
 *               no leading zeros (some take them for octal), nothing else that strtod would take.
 *     count     k M B T for 10^3 10^6 10^9 10^12, or none: 30, 64k, 1.5B; whole where it counts
 *     share     % or none: 0.02 is 2%
 *     size      B; kB MB GB TB PB for powers of 1000, KiB MiB GiB TiB for powers of 1024
 *     duration  ps ns us ms s m h d; where nothing bounds it also `never` and `forever`, which are
 *               one and the same
 *     rate      a size or a number of bits per second: 20Mbit/s, 1.5GB/s, 512KiB/s; where nothing
 *               bounds it also `unlimited`
 *
 * A size, duration or rate needs its unit, except 0. A blank may stand before the unit. A number
 * that its field cannot hold exactly (1.5 of a count, 0.5ms in milliseconds) is refused, not
 * rounded. What setting_format writes, setting_parse reads back to the same value, and equal values
 * have equal texts: the manifest is digested in that form.
 *
 * Names of a file's keys are snake_case with dots between sections. A key that is not there is
 * answered with the nearest one (setting_nearest); '-' and '_' count as equal in that, so that
 * `inner-steps` finds `inner_steps`.
 */
#ifndef BASE_SETTING_H
#define BASE_SETTING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/status.h"

/* clang-format off */
enum setting_kind {   /* the field's type */
    SETTING_BOOL,     /* bool; true false yes no on off */
    SETTING_COUNT,    /* uint32_t, uint64_t or a whole double */
    SETTING_NUMBER,   /* double; k M B T as a count, need not be whole */
    SETTING_SHARE,    /* double */
    SETTING_SIZE,     /* uint64_t or double, bytes */
    SETTING_DURATION, /* uint64_t, milliseconds; or double, seconds */
    SETTING_RATE,     /* uint64_t or double, bytes per second */
    SETTING_CHOICE,   /* an enum, int or uint16_t: `first` for the first of `choices` */
    SETTING_CHARS,    /* char [size], with its zero */
    SETTING_HEX,      /* uint8_t [size]; `none` for all zero, which is the only way to write that */
    SETTING_TEXT,     /* const char *, NULL unset */
    SETTING_PATH,     /* as TEXT; never empty */
    SETTING_LIST      /* struct setting_list: texts; its table's owner reads them one by one */
};
/* clang-format on */

struct setting_list {
    const char *const *items;
    size_t count;
};

enum {
    SETTING_SECRET = 1,  /* its value is never printed, nor put in a message */
    SETTING_ENDLESS = 2, /* DURATION: `never`, `forever`; RATE: `unlimited`. INFINITY, UINT64_MAX */
    SETTING_AUTO = 4     /* COUNT, NUMBER: `auto`, which is all ones or -1 */
};

struct setting {
    const char *name; /* the table ends with a setting without a name */
    enum setting_kind kind;
    size_t offset, size;   /* SETTING_FIELD fills these three */
    bool real;             /* the field is a double */
    const char *fallback;  /* default, as a person would write it; NULL: its table's owner knows */
    const char *min, *max; /* inclusive, written alike ("1s", "64KiB"); NULL: none. TEXT, PATH: of
                              the length */
    const char *const *choices; /* CHOICE: ends with NULL */
    int first;                  /* CHOICE: the value of choices[0] */
    /* CHARS, TEXT, PATH and each item of a LIST: INVALID refuses it, in words that name no place.
     * NULL: anything goes. */
    enum status (*check)(const char *text, struct error *error);
    const char *form;       /* of CHARS and TEXT: what to write; NULL: "a text" */
    const char *value_name; /* for --help: "FILE"; NULL: by kind */
    const char *help;       /* one or a few plain sentences, no line breaks */
    unsigned flags;         /* SETTING_ and OPTION_ */
};

#define SETTING_FIELD(type_, field_)                                                               \
    offsetof(type_, field_), sizeof(((type_ *)0)->field_),                                         \
        _Generic(((type_ *)0)->field_, double                                                      \
                 : true, default                                                                   \
                 : false)

/* The setting of that name in a table; NULL if there is none. */
const struct setting *setting_find(const struct setting *table, const char *name);
/* The name that was probably meant: the nearest by spelling; failing that, the one whose last part
 * is nearest (`hidden` for `model.hidden`). NULL: none is near. */
const char *setting_nearest(const struct setting *table, const char *name);

/* Reads `text` into *field (not of a LIST; TEXT and PATH lend `text` itself). INVALID, with what to
 * write instead, leaves *field as it was. The message names no place: wrap it. */
MUST_USE enum status setting_parse(const struct setting *setting, const char *text, void *field,
                                   struct error *error);
/* Whether setting_parse could have made this value. */
MUST_USE enum status setting_check(const struct setting *setting, const void *field,
                                   struct error *error);
/* Appends the value's one text: the largest unit that divides it, the shortest number. TEXT, PATH
 * and LIST are quoted for YAML, nothing for NULL. A value out of range has a text that
 * setting_parse refuses. */
void setting_format(const struct setting *setting, const void *field, struct buffer *out);
/* Appends what may be written: "1 to 65536", "dense or sparse", "1s to 1h (units ms, s, m, h, d)".
 */
void setting_range(const struct setting *setting, struct buffer *out);
/* Appends "1s to 1h", "at least 2" or nothing. */
void setting_bounds(const struct setting *setting, struct buffer *out);
/* A YAML scalar that reads back as exactly this text: bare where that is safe, else in double
 * quotes with escapes. One text has one form. */
void setting_quote(const char *text, struct buffer *out);

#endif
