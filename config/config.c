/* Puts the flat list of a YAML file (config/yaml.h) into a table of settings (config/config.h),
 * with file and line in every refusal. */
#include "config/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/suggest.h"
#include "config/yaml.h"

static enum status set_entry(struct options *options, const struct yaml_entry *entry,
                             const char *name, struct error *error) {
    if (entry->kind == YAML_EMPTY_MAP)
        return error_set(error, INVALID, "%s:%u: %s has nothing in it", name, entry->line,
                         entry->key);
    char *where = xformat("%s:%u", name, entry->line);
    const char *text = entry->kind == YAML_TEXT ? entry->text : NULL;
    enum status status = options_set_from_file(options, entry->key, text, where, error);
    free(where);
    return status;
}

enum status config_load_text(struct options *options, struct bytes text, const char *name,
                             struct error *error) {
    struct yaml *yaml = NULL;
    TRY(yaml_read(text, name, &(struct yaml_limits){.size = CONFIG_SIZE_MAX}, &yaml, error));
    enum status status = OK;
    for (size_t i = 0; i < yaml_count(yaml) && status == OK; i++)
        status = set_entry(options, yaml_entry_at(yaml, i), name, error);
    yaml_close(yaml);
    return status;
}

enum status config_load(struct options *options, const char *path, struct error *error) {
    struct buffer text = {0};
    enum status status = file_read(path, CONFIG_SIZE_MAX, &text, error);
    if (status != OK)
        error_wrap(error, status, "config file");
    else
        status = config_load_text(options, buffer_bytes(&text), path, error);
    buffer_deinit(&text);
    return status;
}

static bool is_section(const struct setting *settings, const char *key) {
    size_t length = strlen(key);
    for (const struct setting *at = settings; at->name; at++)
        if (strncmp(at->name, key, length) == 0 && at->name[length] == '.') return true;
    return false;
}

static enum status unknown_key(const struct config_table *table, const struct yaml_entry *entry,
                               const char *key, struct error *error) {
    if (is_section(table->settings, key))
        return error_set(error, INVALID,
                         "%s:%u: %s: a section needs keys below it: write some, or remove it",
                         table->file, entry->line, entry->key);
    const char *nearest = setting_nearest(table->settings, key);
    char whole[256];
    snprintf(whole, sizeof whole, "%.*s%s", (int)(key - entry->key), entry->key,
             nearest ? nearest : "");
    enum status status =
        suggest_refuse("key", entry->key, nearest ? whole : NULL, table->explained, error);
    return error_wrap(error, status, "%s:%u", table->file, entry->line);
}

enum status config_set(const struct config_table *table, const struct yaml_entry *entry,
                       const char *key, void *base, struct error *error) {
    const struct setting *setting = setting_find(table->settings, key);
    if (!setting) return unknown_key(table, entry, key, error);
    enum status status =
        entry->kind == YAML_TEXT
            ? setting_parse(setting, entry->text, (char *)base + setting->offset, error)
            : error_set(error, INVALID,
                        "a list or section is not allowed here: write a single value");
    if (status == OK) return OK;
    return error_wrap(error, status, "%s:%u: %s", table->file, entry->line, entry->key);
}
