/* Puts the flat list of a YAML file (config/yaml.h) into an option table (config/config.h), with
 * file and line in every refusal. */
#include "config/config.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
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

void config_quote(const char *text, struct buffer *out) { option_quote(text, out); }
