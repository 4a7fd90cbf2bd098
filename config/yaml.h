/* YAML bytes to a flat list of (dotted key, text, line): the only form in which the rest of the
 * program sees a YAML file.
 *
 *     upload:                       upload.rate_limit   "10MiB"   line 2
 *       rate_limit: 10MiB     ->    peers[0]            "a:1"     line 3
 *     peers: [a:1, b:2]             peers[1]            "b:2"     line 3
 *
 * A small safe part of YAML: mappings, sequences and scalars, one document. Refused, each with its
 * line: anchors and aliases (a few bytes of them expand to gigabytes), tags, duplicate keys (also
 * `a.b` beside `a: {b: }`), tabs, more than one document, keys that are not plain names, and
 * whatever is larger or deeper than the limits. Every scalar is text: what it means is the option
 * table's business, so `no` is never taken for false where a country was meant.
 */
#ifndef CONFIG_YAML_H
#define CONFIG_YAML_H

#include <stdbool.h>
#include <stddef.h>

#include "base/bytes.h"
#include "base/status.h"

enum yaml_kind { YAML_TEXT, YAML_EMPTY_LIST, YAML_EMPTY_MAP };

struct yaml_entry {
    const char *key;  /* lent by the document */
    const char *text; /* "" unless kind is YAML_TEXT; UTF-8, no zero inside */
    enum yaml_kind kind;
    bool quoted;   /* in quotes or a block: an empty plain scalar (`key:`) is not */
    unsigned line; /* from 1 */
};

struct yaml_limits {
    size_t size;    /* bytes; 0: 1 MiB */
    size_t entries; /* 0: 10000 */
    unsigned depth; /* 0: 16 */
};

struct yaml; /* a read document */

/* `name` (a file's) opens every message: "node.yaml:12: ...". An empty document has no entries.
 * INVALID. Close with yaml_close. */
MUST_USE enum status yaml_read(struct bytes text, const char *name,
                               const struct yaml_limits *limits, struct yaml **out,
                               struct error *error);
void yaml_close(struct yaml *yaml); /* NULL is a no-op */
size_t yaml_count(const struct yaml *yaml);
/* In the order of the file. index < yaml_count. */
const struct yaml_entry *yaml_entry_at(const struct yaml *yaml, size_t index);
/* NULL if there is none of that key. */
const struct yaml_entry *yaml_find(const struct yaml *yaml, const char *key);

#endif
