/* A topology's file: keys through the tables (topology/topology_table.h). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "config/config.h"
#include "model/layout.h"
#include "model/presets.h"
#include "topology/topology_table.h"

static const char explained[] = "`atoll-sim plan --explain` lists them";

/* What has no default is NAN, or -1 of a choice. */
static void fill_defaults(const struct setting *fields, void *base) {
    for (const struct setting *field = fields; field->name; field++) {
        void *at = (char *)base + field->offset;
        if (field->fallback)
            MUST(setting_parse(field, field->fallback, at, NULL));
        else if (field->kind == SETTING_CHOICE)
            *(int *)at = -1;
        else if (field->real)
            *(double *)at = NAN;
    }
}

/* ---- keys ------------------------------------------------------------------------------------ */

/* "sites[12].link.up": 12 and "link.up"; false where there is no such key. */
static bool site_key(const char *key, uint32_t *index, const char **rest) {
    unsigned at;
    int used = 0;
    if (sscanf(key, "sites[%u].%n", &at, &used) != 1 || used == 0) return false;
    *index = at;
    *rest = key + used;
    return true;
}

static enum status read_sites(const struct yaml *yaml, const char *file, struct topology *topology,
                              struct error *error) {
    const struct config_table table = {topology_site_fields, file, explained};
    struct topology_site defaults = {0};
    fill_defaults(topology_site_fields, &defaults);
    defaults.link.reset.lasts = 0;
    for (size_t i = 0; i < yaml_count(yaml); i++) {
        const struct yaml_entry *entry = yaml_entry_at(yaml, i);
        if (strncmp(entry->key, "defaults.", 9) == 0)
            TRY(config_set(&table, entry, entry->key + 9, &defaults, error));
    }
    for (size_t i = 0; i < yaml_count(yaml); i++) {
        const struct yaml_entry *entry = yaml_entry_at(yaml, i);
        uint32_t index;
        const char *key;
        if (!site_key(entry->key, &index, &key)) continue;
        if (index >= TOPOLOGY_GROUPS_LIMIT) {
            return error_set(error, INVALID, "%s:%u: more than %d kinds of sites; use count", file,
                             entry->line, TOPOLOGY_GROUPS_LIMIT);
        }
        while (topology->group_count <= index) topology->groups[topology->group_count++] = defaults;
        TRY(config_set(&table, entry, key, &topology->groups[index], error));
    }
    return OK;
}

/* The parameters of a named shape, which has been checked. */
static double count_of(const char *preset) {
    struct model_config config;
    struct layout layout = {0};
    MUST(preset_find(preset, &config, NULL));
    MUST(layout_init(&config, &layout, NULL));
    double count = (double)layout.count;
    layout_deinit(&layout);
    return count;
}

static uint64_t bit_of(const char *key) {
    const struct setting *field = setting_find(topology_fields, key);
    ASSERT(field && field - topology_fields < 64);
    return UINT64_C(1) << (field - topology_fields);
}

bool topology_says(const struct topology *topology, const char *key) {
    return (topology->written & bit_of(key)) != 0;
}

static enum status read_all(const struct yaml *yaml, const char *file, struct topology *topology,
                            struct error *error) {
    const struct config_table table = {topology_fields, file, explained};
    for (size_t i = 0; i < yaml_count(yaml); i++) {
        const struct yaml_entry *entry = yaml_entry_at(yaml, i);
        uint32_t index;
        const char *key;
        bool is_empty = entry->kind != YAML_TEXT &&
                        (strcmp(entry->key, "sites") == 0 || strcmp(entry->key, "defaults") == 0);
        if (is_empty || strncmp(entry->key, "defaults.", 9) == 0 ||
            site_key(entry->key, &index, &key))
            continue;
        TRY(config_set(&table, entry, entry->key, topology, error));
        topology->written |= bit_of(entry->key);
    }
    if (yaml_find(yaml, "model.parameters") && yaml_find(yaml, "model.preset")) {
        return error_set(error, INVALID, "%s: give model.parameters or model.preset, not both",
                         file);
    }
    if (topology->model.preset[0]) topology->model.parameters = count_of(topology->model.preset);
    if (isnan(topology->model.parameters))
        return error_set(error, INVALID, "%s: model.parameters must be given", file);
    TRY(read_sites(yaml, file, topology, error));
    if (topology_settle(topology, error) != OK) return error_wrap(error, INVALID, "%s", file);
    return OK;
}

enum status topology_parse(struct bytes text, const char *name, struct topology **out,
                           struct error *error) {
    struct yaml *yaml = NULL;
    TRY(yaml_read(text, name, NULL, &yaml, error));
    struct topology *topology = xcalloc(1, sizeof *topology);
    topology->groups = xcalloc(TOPOLOGY_GROUPS_LIMIT, sizeof *topology->groups);
    fill_defaults(topology_fields, topology);
    enum status status = read_all(yaml, name, topology, error);
    yaml_close(yaml);
    if (status == OK)
        *out = topology;
    else
        topology_destroy(topology);
    return status;
}

/* ---- the manual ------------------------------------------------------------------------------ */

static void explain(const struct setting *fields, const char *indent, struct buffer *out) {
    for (const struct setting *field = fields; field->name; field++) {
        buffer_append_text(out, "%s# %s\n%s#   ", indent, field->help, indent);
        setting_range(field, out);
        buffer_append_text(out, "\n%s# %s: %s\n", indent, field->name,
                           field->fallback ? field->fallback : "");
    }
}

void topology_explain(struct buffer *out) {
    buffer_append_text(out, "# A federation to be planned. Keys may be nested (`link: {up: ...}`) "
                            "or dotted (`link.up: ...`).\n");
    explain(topology_fields, "", out);
    buffer_append_text(out, "\n# Keys of a site may stand here for all sites:\n# defaults: "
                            "{}\n\nsites:\n  - name: example\n");
    explain(topology_site_fields, "    ", out);
}
