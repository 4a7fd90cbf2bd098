/* The inside of topology: every key of the file, in tables that read, check and explain it. */
#ifndef TOPOLOGY_TOPOLOGY_TABLE_H
#define TOPOLOGY_TOPOLOGY_TABLE_H

#include <stddef.h>

#include "topology/topology.h"

enum field_kind {               /* the field's type; what a person writes */
                  FIELD_COUNT,  /* double; 12, 0.5, 10k, 1.5M, 10B, 1T */
                  FIELD_SIZE,   /* double, bytes; 64KiB, 2GB */
                  FIELD_RATE,   /* double, bytes per second; 20Mbit/s, 1.5GB/s, unlimited */
                  FIELD_TIME,   /* double, seconds; 200us, 30ms, 1.5s, 5m, 12h, 7d, never */
                  FIELD_SHARE,  /* double; 0.02, 2% */
                  FIELD_MONEY,  /* double; a plain number */
                  FIELD_PRICE,  /* double, a byte; a plain number, of a GB */
                  FIELD_CHOICE, /* int */
                  FIELD_BOOL,   /* int; true, false */
                  FIELD_CODEC,  /* enum codec */
                  FIELD_GPU,    /* int: index into topology_gpus */
                  FIELD_NAME,   /* char [TOPOLOGY_NAME_SIZE] */
                  FIELD_TEXT,   /* char [160] */
                  FIELD_MODEL   /* double: the parameter count of a named shape (model/presets.h) */
};

struct field {
    const char *key;
    enum field_kind kind;
    size_t offset;
    const char *fallback; /* NULL: NAN, -1 or "" */
    double min, max;      /* inclusive; whole numbers where `whole` */
    bool whole;
    const char *const *choices;
    const char *help;
};

extern const struct field topology_fields[];      /* of the file's top; ends with key NULL */
extern const struct field topology_site_fields[]; /* of a site, and of `defaults` */

/* Reads one value into the field of `base`. INVALID says what to write. */
MUST_USE enum status field_read(const struct field *field, const char *text, void *base,
                                struct error *error);
/* All fallbacks. */
void fields_default(const struct field *fields, void *base);
/* Appends what may be written: "a time: 200us, 30ms, ...". */
void field_range(const struct field *field, struct buffer *out);

/* Checks a topology as a whole and fills what follows from the rest (topology.c). */
MUST_USE enum status topology_settle(struct topology *topology, struct error *error);

#endif
