/* YAML files into tables of settings (base/setting.h): a program's options, the manifest of a run,
 * a federation. Strict: a key the table does not know refuses the file and names the nearest one,
 * with file and line. Nested mappings and dotted keys are the same thing.
 */
#ifndef CONFIG_CONFIG_H
#define CONFIG_CONFIG_H

#include "base/bytes.h"
#include "base/options.h"
#include "base/setting.h"
#include "base/status.h"
#include "config/yaml.h"

enum { CONFIG_SIZE_MAX = 1 << 20 };

/* For options_setup.load_file. NOT_FOUND if there is no such file; INVALID with file, line and what
 * to do. */
MUST_USE enum status config_load(struct options *options, const char *path, struct error *error);
/* The same from memory; `name` opens the messages. */
MUST_USE enum status config_load_text(struct options *options, struct bytes text, const char *name,
                                      struct error *error);

/* A table whose settings a file gives, over a plain struct. */
struct config_table {
    const struct setting *settings;
    const char *file;      /* opens every message */
    const char *explained; /* for a key that nothing is near: "docs/x.yaml lists all of them" */
};

/* One entry of the file into the struct at `base`. `key`, the end of entry->key, is what the table
 * calls it (`link.up` of `sites[2].link.up`). INVALID, "FILE:LINE: KEY: ...". */
MUST_USE enum status config_set(const struct config_table *table, const struct yaml_entry *entry,
                                const char *key, void *base, struct error *error);

#endif
