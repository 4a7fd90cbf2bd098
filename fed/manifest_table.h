/* The manifest's one table: every key with its type, place, bounds, defaults and meaning. Reading,
 * checking, writing and the commented example are walks over it, so no key can be read but not
 * written, or explained with another bound than checked. Private to fed/manifest*.c.
 */
#ifndef FED_MANIFEST_TABLE_H
#define FED_MANIFEST_TABLE_H

#include "fed/manifest.h"

enum setting_type {
    SETTING_NAME,
    SETTING_U32,
    SETTING_U64,
    SETTING_F64,
    SETTING_BOOL,
    SETTING_CHOICE, /* an enum; the value is the index in `choices` */
    SETTING_CODEC,
    SETTING_DIGEST,  /* 64 hexadecimal digits, or `none` for all zero */
    SETTING_DURATION /* uint64_t milliseconds; whole numbers with ms, s, m, h, d; `forever` is
                        UINT64_MAX */
};

enum { CHOICES_MAX = 4 };

struct setting {
    const char *key;
    enum setting_type type;
    size_t offset;        /* into struct manifest */
    const char *fallback; /* as a person would write it; NULL: required */
    const char
        *dense; /* in dense mode, where that differs; NULL: as fallback; "": required there */
    uint64_t min, max; /* U32, U64; DURATION in ms */
    double low, high;  /* F64, both inclusive */
    const char *choices[CHOICES_MAX];
    bool may_be_forever;
    const char *help;
};

extern const struct setting manifest_settings[];
extern const size_t manifest_setting_count;

/* The first of these names `text`'s fault and what to write instead; the key is the caller's to
 * say. */
MUST_USE enum status setting_read(const struct setting *setting, const char *text,
                                  struct manifest *out, struct error *error);
MUST_USE enum status setting_check(const struct setting *setting, const struct manifest *manifest,
                                   struct error *error);
/* Appends the value's one text. */
void setting_write(const struct setting *setting, const struct manifest *manifest,
                   struct buffer *out);
/* Appends "1 to 65536", "true or false", ...: what may be written. */
void setting_range(const struct setting *setting, struct buffer *out);

#endif
